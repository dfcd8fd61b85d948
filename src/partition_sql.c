/*
 * partition_sql.c
 *		The statements that make a partition: its name, definition, storage and privileges.
 */
#include "prod_analytics.h"

#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "guard.h"
#include "lib/stringinfo.h"
#include "partition.h"
#include "query.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/*
 * partition_name is the quoted name of a partition of the parent: the parent's, and a suffix.
 *
 * A name that would be truncated is refused: two truncated names can be equal.
 */
static char *
partition_name(PaPolicy *policy, const char *suffix)
{
	char	   *name = psprintf("%s_%s", get_rel_name(policy->parent), suffix);

	if (strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("partition name \"%s\" is too long", name),
				 errdetail("A name can have at most %d bytes.", NAMEDATALEN - 1),
				 errhint("Give table \"%s\" a shorter name.", get_rel_name(policy->parent))));

	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(policy->parent)), name);
}

/*
 * is_ours tells whether a name is that of a partition of the parent, or of one that this call makes.
 */
static bool
is_ours(PaPolicy *policy, const char *name)
{
	Oid			relation = pa_named_relation(name);
	ListCell   *cell;

	foreach(cell, policy->names)
		if (strcmp(lfirst(cell), name) == 0)
			return true;

	if (!OidIsValid(relation))
		return false;
	foreach(cell, pa_partitions(policy))
		if (((PaPartition *) lfirst(cell))->relation == relation)
			return true;

	return false;
}

/*
 * check_free refuses a name that a table has which is not a partition: it may hold rows that belong
 * to the parent.
 */
static char *
check_free(PaPolicy *policy, char *name)
{
	if (OidIsValid(pa_named_relation(name)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("table %s is in the way of a new partition", name),
				 errdetail("It is not a partition of \"%s\".", get_rel_name(policy->parent)),
				 errhint("Attach it, rename it, or drop it.")));

	return name;
}

/*
 * pa_partition_name is the name for the partition of a range.
 *
 * When two partitions begin on one day, since somebody made one of them by hand, the second is
 * named by the time as well.
 */
char *
pa_partition_name(PaPolicy *policy, PaRange range)
{
	bool		with_time = policy->width.time > 0;
	char	   *name = partition_name(policy, pa_range_suffix(policy, range, with_time));

	if (!with_time && is_ours(policy, name))
		name = partition_name(policy, pa_range_suffix(policy, range, true));
	policy->names = lappend(policy->names, check_free(policy, name));

	return name;
}

/*
 * pa_default_partition_name is the name for the default partition.
 */
char *
pa_default_partition_name(PaPolicy *policy)
{
	return check_free(policy, partition_name(policy, "default"));
}

/*
 * pa_utc_date_column finds a stored generated column that holds the date of the key column in UTC;
 * NULL when there is none.
 */
char *
pa_utc_date_column(PaPolicy *policy)
{
	PaParameters parameters = {0};
	char	   *expression = psprintf("((%s AT TIME ZONE 'UTC'::text))::date",
									  quote_identifier(policy->control));
	bool		isnull;

	if (policy->type != TIMESTAMPTZOID)
		return NULL;

	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(policy->parent));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(expression));
	if (pa_query("SELECT a.attname::text FROM pg_attribute a"
				 " JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
				 " WHERE a.attrelid = $1 AND a.attgenerated = 's'"
				 " AND pg_get_expr(d.adbin, d.adrelid) IN ($2, '(' || $2 || ')')"
				 " ORDER BY a.attnum LIMIT 1",
				 &parameters, SPI_OK_SELECT) == 0)
		return NULL;

	return TextDatumGetCString(pa_result(0, 1, &isnull));
}

/*
 * utc_date prints the date of an instant in UTC.
 */
static char *
utc_date(TimestampTz instant)
{
	Datum		date = DirectFunctionCall1(timestamp_date, TimestampGetDatum(instant));

	return DatumGetCString(DirectFunctionCall1(date_out, date));
}

/*
 * pa_check_name is what the CHECK on a date column is called: a name that no constraint of the parent
 * has, which would be copied.
 */
char *
pa_check_name(PaPolicy *policy, const char *column)
{
	char	   *name = makeObjectName(column, NULL, "range");

	for (int i = 1; OidIsValid(get_relation_constraint_oid(policy->parent, name, true)); i++)
		name = makeObjectName(column, psprintf("%d", i), "range");

	return name;
}

/*
 * pa_date_check is a CHECK that bounds the date column of a partition.
 *
 * The planner prunes partitions by their key; that a constant event_date excludes them too needs
 * the same bounds said about that column.
 */
char *
pa_date_check(PaPolicy *policy, const char *column, PaRange range)
{
	char	   *lower = psprintf("%s >= DATE '%s'", quote_identifier(column), utc_date(range.lower));
	char	   *upper = psprintf("%s <= DATE '%s'", quote_identifier(column), utc_date(range.upper - 1));

	return psprintf("CONSTRAINT %s CHECK (%s%s%s)", quote_identifier(pa_check_name(policy, column)),
					range.lower == PA_KEY_MIN ? "" : lower,
					range.lower == PA_KEY_MIN || range.upper == PA_KEY_MAX ? "" : " AND ",
					range.upper == PA_KEY_MAX ? "" : upper);
}

/*
 * latest_sibling is the partition that ends last, whose storage options a new one gets.
 */
static Oid
latest_sibling(PaPolicy *policy)
{
	List	   *partitions = pa_partitions(policy);

	return partitions == NIL ? InvalidOid : ((PaPartition *) llast(partitions))->relation;
}

/*
 * The clauses that store a partition of table $1 as table $2 is stored; the parent's own table space
 * and access method come first, where it has any.
 */
static const char *const storage_query =
"SELECT CASE WHEN s.relpersistence = 'u' THEN 'UNLOGGED ' ELSE '' END,"
" concat("
" CASE WHEN am.amname <> current_setting('default_table_access_method') THEN ' USING ' || quote_ident(am.amname) END,"
" (SELECT ' WITH (' || string_agg(format('%s%I = %L', o.prefix,"
"  left(o.option, strpos(o.option, '=') - 1), substr(o.option, strpos(o.option, '=') + 1)), ', ') || ')'"
"  FROM (SELECT '' AS prefix, unnest(s.reloptions) AS option"
"  UNION ALL SELECT 'toast.', unnest(t.reloptions)) o),"
" CASE WHEN sp.spcname IS NOT NULL THEN ' TABLESPACE ' || quote_ident(sp.spcname) END),"
" CASE s.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' END,"
" p.relrowsecurity, p.relforcerowsecurity"
" FROM pg_class p"
" LEFT JOIN pg_class s ON s.oid = $2 AND s.relkind = 'r'"
" LEFT JOIN pg_class t ON t.oid = s.reltoastrelid"
" LEFT JOIN pg_am am ON am.oid = coalesce(nullif(p.relam, 0), s.relam)"
" LEFT JOIN pg_tablespace sp ON sp.oid = coalesce(nullif(p.reltablespace, 0), nullif(s.reltablespace, 0))"
" WHERE p.oid = $1";

/* How the latest sibling is stored. */
typedef struct Storage
{
	char	   *persistence;
	char	   *clauses;
	char	   *replica_identity;	/* NULL: the default */
	bool		row_security;
	bool		force_row_security;
} Storage;

static Storage
read_storage(PaPolicy *policy)
{
	PaParameters parameters = {0};
	Storage		storage;
	bool		isnull;
	Datum		identity;

	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(policy->parent));
	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(latest_sibling(policy)));
	pa_query(storage_query, &parameters, SPI_OK_SELECT);
	storage.persistence = TextDatumGetCString(pa_result(0, 1, &isnull));
	storage.clauses = TextDatumGetCString(pa_result(0, 2, &isnull));
	identity = pa_result(0, 3, &isnull);
	storage.replica_identity = isnull ? NULL : TextDatumGetCString(identity);
	storage.row_security = DatumGetBool(pa_result(0, 4, &isnull));
	storage.force_row_security = DatumGetBool(pa_result(0, 5, &isnull));

	return storage;
}

/*
 * pa_create_sql is the statement that makes the table for a range (NULL: the default partition),
 * complete: with indexes, checks and storage options.
 *
 * The caller is connected to SPI, and between pa_utc_enter and pa_utc_leave.
 */
char *
pa_create_sql(PaPolicy *policy, const char *name, PaRange *range)
{
	char	   *column = range ? pa_utc_date_column(policy) : NULL;
	Storage		storage = read_storage(policy);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE %sTABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING GENERATED"
					 " INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE INCLUDING COMPRESSION",
					 storage.persistence, name, pa_relation_sql(policy->parent));
	if (column)
		appendStringInfo(&sql, ", %s", pa_date_check(policy, column, *range));
	appendStringInfo(&sql, ")%s", storage.clauses);
	if (storage.replica_identity)
		appendStringInfo(&sql, "; ALTER TABLE %s REPLICA IDENTITY %s", name, storage.replica_identity);
	/* Without a policy of its own, the partition shows nothing to those who go round the parent. */
	if (storage.row_security)
		appendStringInfo(&sql, "; ALTER TABLE %s ENABLE ROW LEVEL SECURITY", name);
	if (storage.force_row_security)
		appendStringInfo(&sql, "; ALTER TABLE %s FORCE ROW LEVEL SECURITY", name);

	return sql.data;
}

/*
 * pa_attach_sql is the statement that makes that table a partition.
 */
char *
pa_attach_sql(PaPolicy *policy, const char *name, PaRange *range)
{
	char	   *parent = pa_relation_sql(policy->parent);

	if (range == NULL)
		return psprintf("ALTER TABLE %s ATTACH PARTITION %s DEFAULT", parent, name);

	return psprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')",
					parent, name, pa_key_text(policy, range->lower), pa_key_text(policy, range->upper));
}

/*
 * The statements that give table $2 the privileges of table $1 and no others; $3 is the name of
 * table $2.
 */
static const char *const privileges_query =
"WITH privilege AS ("
" SELECT c.oid, c.relowner, '' AS columns, a.grantee, a.privilege_type, a.is_grantable"
" FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid IN ($1, $2)"
" UNION ALL"
" SELECT c.oid, c.relowner, format(' (%I)', t.attname), a.grantee, a.privilege_type, a.is_grantable"
" FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a WHERE c.oid = $1),"
" named AS ("
" SELECT *, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS role"
" FROM privilege WHERE grantee <> relowner)"
" SELECT string_agg(statement, '; ' ORDER BY step, statement) FROM ("
" SELECT DISTINCT 1 AS step, format('REVOKE ALL ON TABLE %s FROM %s', $3, role) AS statement"
" FROM named WHERE oid = $2"
" UNION ALL"
" SELECT 2, format('GRANT %s%s ON TABLE %s TO %s%s', privilege_type, columns, $3, role,"
" CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)"
" FROM named WHERE oid = $1) statements";

/*
 * pa_copy_privileges gives a new partition the parent's privileges and no others: those that
 * ALTER DEFAULT PRIVILEGES gave it are taken back.
 */
void
pa_copy_privileges(Oid parent, const char *partition)
{
	PaParameters parameters = {0};
	bool		isnull;
	Datum		statements;

	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(parent));
	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(pa_named_relation(partition)));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(partition));
	pa_query(privileges_query, &parameters, SPI_OK_SELECT);

	statements = pa_result(0, 1, &isnull);
	if (!isnull)
		pa_query(TextDatumGetCString(statements), NULL, SPI_OK_UTILITY);
}
