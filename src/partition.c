/*
 * partition.c
 *		Partitions by time: policies, gaps between partitions, and making the missing ones.
 *
 * A policy says how wide the partitions of a table are, in which time zone their bounds are whole
 * months or days, and how many are wanted around a moment.  What is missing is read from the
 * parent's partition descriptor, so partitions with other bounds are respected and a call that
 * finds nothing to do costs next to nothing.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "guard.h"
#include "miscadmin.h"
#include "partition.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "query.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(pa_ensure_partitions);

/*
 * relation_sql is the quoted, schema-qualified name of a relation: what policies call a table,
 * and what goes into SQL.
 */
static char *
relation_sql(Oid relation)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
									  get_rel_name(relation));
}

/*
 * named_relation finds the relation of a policy; InvalidOid when it is gone.
 */
static Oid
named_relation(text *name)
{
	return RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(name)), NoLock, true);
}

/*
 * policy_of_row reads a policy from a row of the last query; NULL when its table is gone.
 */
static PaPolicy *
policy_of_row(int row)
{
	PaPolicy   *policy = palloc(sizeof(PaPolicy));
	bool		isnull;

	policy->parent = named_relation(DatumGetTextPP(pa_result(row, 1, &isnull)));
	if (!OidIsValid(policy->parent))
		return NULL;

	policy->control = TextDatumGetCString(pa_result(row, 2, &isnull));
	policy->width = DatumGetIntervalP(datumCopy(pa_result(row, 3, &isnull), false, sizeof(Interval)));
	policy->ahead = DatumGetInt32(pa_result(row, 4, &isnull));
	policy->behind = DatumGetInt32(pa_result(row, 5, &isnull));
	policy->timezone = TextDatumGetCString(pa_result(row, 6, &isnull));
	policy->default_partition = DatumGetBool(pa_result(row, 7, &isnull));

	return policy;
}

/*
 * read_policies lists the policies of a table, or of all when parent is InvalidOid, in the
 * caller's memory context.
 *
 * The registry is read with its owner's rights: what a caller may do with a policy is decided by
 * who may execute the function, not by who may read the table.
 */
static List *
read_policies(Oid parent)
{
	MemoryContext caller_context = CurrentMemoryContext;
	MemoryContext spi_context;
	PaParameters parameters = {0};
	PaGuard		guard;
	List	   *policies = NIL;
	uint64		found;

	pa_guard_enter(&guard, pa_owner(pa_table("partition_policies")));
	SPI_connect();

	pa_add_parameter(&parameters, TEXTOID,
					 CStringGetTextDatum(OidIsValid(parent) ? relation_sql(parent) : ""));
	found = pa_query("SELECT parent, control, width, ahead, behind, timezone, default_partition"
					 " FROM prod_analytics.partition_policies"
					 " WHERE parent = $1 OR $1 = '' ORDER BY parent",
					 &parameters, SPI_OK_SELECT);

	spi_context = MemoryContextSwitchTo(caller_context);
	for (uint64 i = 0; i < found; i++)
	{
		PaPolicy   *policy = policy_of_row(i);

		if (policy)
			policies = lappend(policies, policy);
	}
	MemoryContextSwitchTo(spi_context);

	SPI_finish();
	pa_guard_leave(&guard);

	return policies;
}

/*
 * pa_policy is the policy of a table; NULL when it has none.
 */
PaPolicy *
pa_policy(Oid parent)
{
	List	   *policies = read_policies(parent);

	return policies == NIL ? NULL : (PaPolicy *) linitial(policies);
}

/*
 * to_local is the wall-clock time of an instant in the policy's time zone.
 */
static Timestamp
to_local(PaPolicy *policy, TimestampTz instant)
{
	return DatumGetTimestamp(DirectFunctionCall2(timestamptz_zone,
												 CStringGetTextDatum(policy->timezone),
												 TimestampTzGetDatum(instant)));
}

/*
 * to_instant is the instant at which the policy's time zone shows a wall-clock time.
 */
static TimestampTz
to_instant(PaPolicy *policy, Timestamp local)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamp_zone,
												   CStringGetTextDatum(policy->timezone),
												   TimestampGetDatum(local)));
}

/*
 * shift moves a wall-clock time by a number of months.
 */
static Timestamp
shift(Timestamp local, int months)
{
	Interval	span = {0};

	span.month = months;

	return DatumGetTimestamp(DirectFunctionCall2(timestamp_pl_interval,
												 TimestampGetDatum(local), IntervalPGetDatum(&span)));
}

/*
 * local_floor is the wall-clock time at which the partition that holds "local" begins.
 *
 * Months count from January of the year 0, so that quarters and years begin where people expect.
 */
static Timestamp
local_floor(PaPolicy *policy, Timestamp local)
{
	Timestamp	month = DatumGetTimestamp(DirectFunctionCall2(timestamp_trunc,
															  CStringGetTextDatum("month"),
															  TimestampGetDatum(local)));
	struct pg_tm tm;
	fsec_t		fsec;
	int			past;

	if (timestamp2tm(month, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));

	past = (tm.tm_year * MONTHS_PER_YEAR + tm.tm_mon - 1) % policy->width->month;
	if (past < 0)
		past += policy->width->month;

	return shift(month, -past);
}

/*
 * bound_value is a bound of a partition as an instant, MINVALUE and MAXVALUE being infinite.
 */
static TimestampTz
bound_value(PartitionBoundInfo bounds, int i)
{
	switch (bounds->kind[i][0])
	{
		case PARTITION_RANGE_DATUM_MINVALUE:
			return DT_NOBEGIN;
		case PARTITION_RANGE_DATUM_MAXVALUE:
			return DT_NOEND;
		default:
			return DatumGetTimestampTz(bounds->datums[i][0]);
	}
}

/*
 * add_overlap appends what two ranges have in common to a list.
 */
static List *
add_overlap(List *ranges, PaRange a, PaRange b)
{
	PaRange    *common = palloc(sizeof(PaRange));

	common->lower = Max(a.lower, b.lower);
	common->upper = Min(a.upper, b.upper);

	return common->lower < common->upper ? lappend(ranges, common) : ranges;
}

/*
 * pa_missing_ranges lists the parts of "span" that no partition but the default one holds.
 *
 * In the descriptor of a range-partitioned table, indexes[i] says which partition holds the values
 * from datums[i - 1] to datums[i]; -1 means none.
 */
List *
pa_missing_ranges(PaPolicy *policy, PaRange span)
{
	Relation	parent = table_open(policy->parent, AccessShareLock);
	PartitionBoundInfo bounds = RelationGetPartitionDesc(parent, true)->boundinfo;
	int			ndatums = bounds ? bounds->ndatums : 0;
	List	   *missing = NIL;

	for (int i = 0; i <= ndatums; i++)
	{
		PaRange		segment;

		if (bounds && ndatums > 0 && bounds->indexes[i] >= 0)
			continue;

		segment.lower = (i == 0) ? DT_NOBEGIN : bound_value(bounds, i - 1);
		segment.upper = (i == ndatums) ? DT_NOEND : bound_value(bounds, i);
		missing = add_overlap(missing, segment, span);
	}

	table_close(parent, AccessShareLock);

	return missing;
}

/*
 * pa_partition_range is the range of the partition to make for an instant that no partition holds:
 * the policy's, less what other partitions hold of it.
 */
PaRange
pa_partition_range(PaPolicy *policy, TimestampTz at)
{
	Timestamp	first = local_floor(policy, to_local(policy, at));
	PaRange		range = {to_instant(policy, first), to_instant(policy, shift(first, policy->width->month))};
	ListCell   *cell;

	foreach(cell, pa_missing_ranges(policy, range))
	{
		PaRange    *missing = lfirst(cell);

		if (missing->lower <= at && at < missing->upper)
			return *missing;
	}

	elog(ERROR, "a partition of \"%s\" holds %s already",
		 get_rel_name(policy->parent), timestamptz_to_str(at));
}

/*
 * default_partition is the parent's default partition, or InvalidOid.
 */
static Oid
default_partition(PaPolicy *policy)
{
	Relation	parent = table_open(policy->parent, AccessShareLock);
	Oid			result = get_default_oid_from_partdesc(RelationGetPartitionDesc(parent, true));

	table_close(parent, AccessShareLock);

	return result;
}

/*
 * wanted_ranges lists the ranges of the partitions that the policy wants around an instant.
 */
static List *
wanted_ranges(PaPolicy *policy, TimestampTz at)
{
	Timestamp	first = local_floor(policy, to_local(policy, at));
	int			width = policy->width->month;
	List	   *wanted = NIL;

	for (int i = -policy->behind; i <= policy->ahead; i++)
	{
		PaRange    *range = palloc(sizeof(PaRange));

		range->lower = to_instant(policy, shift(first, i * width));
		range->upper = to_instant(policy, shift(first, (i + 1) * width));
		wanted = lappend(wanted, range);
	}

	return wanted;
}

/*
 * wanted_but_missing lists the ranges of the partitions that are still to be made around an
 * instant, in the order of time.
 */
static List *
wanted_but_missing(PaPolicy *policy, TimestampTz at)
{
	List	   *wanted = wanted_ranges(policy, at);
	PaRange		span = {((PaRange *) linitial(wanted))->lower, ((PaRange *) llast(wanted))->upper};
	List	   *gaps = pa_missing_ranges(policy, span);
	List	   *missing = NIL;
	ListCell   *cell;

	if (gaps == NIL)
		return NIL;

	foreach(cell, wanted)
	{
		ListCell   *gap;

		foreach(gap, gaps)
			missing = add_overlap(missing, *(PaRange *) lfirst(cell), *(PaRange *) lfirst(gap));
	}

	return missing;
}

/*
 * partition_name is the name of a partition of "parent": the parent's, and a suffix.
 *
 * A name that would be truncated is refused: two truncated names can be equal.
 */
static char *
partition_name(Oid parent, const char *suffix)
{
	char	   *name = psprintf("%s_%s", get_rel_name(parent), suffix);

	if (strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("partition name \"%s\" is too long", name),
				 errdetail("A name can have at most %d bytes.", NAMEDATALEN - 1),
				 errhint("Give table \"%s\" a shorter name.", get_rel_name(parent))));

	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(parent)), name);
}

/*
 * range_suffix is "pYYYYMMDD", the day on which the range begins in the policy's time zone.
 */
static char *
range_suffix(PaPolicy *policy, PaRange range)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(to_local(policy, range.lower), NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));

	return psprintf("p%04d%02d%02d", tm.tm_year, tm.tm_mon, tm.tm_mday);
}

/*
 * utc_date_column finds a stored generated column that holds the control column's date in UTC;
 * NULL when there is none.
 */
static char *
utc_date_column(PaPolicy *policy)
{
	PaParameters parameters = {0};
	char	   *expression = psprintf("((%s AT TIME ZONE 'UTC'::text))::date",
									  quote_identifier(policy->control));
	bool		isnull;

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
 * date_check is a CHECK that bounds the date column of a partition, or "".
 *
 * The planner prunes partitions by their key; that a constant event_date excludes them too needs
 * the same bounds said about that column.
 */
static char *
date_check(PaPolicy *policy, PaRange range)
{
	char	   *column = utc_date_column(policy);

	if (column == NULL)
		return "";

	return psprintf(", CONSTRAINT %s CHECK (%s BETWEEN DATE '%s' AND DATE '%s')",
					quote_identifier(psprintf("%s_range", column)), quote_identifier(column),
					utc_date(range.lower), utc_date(range.upper - 1));
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
 * copy_privileges gives a new partition the parent's privileges and no others: those that
 * ALTER DEFAULT PRIVILEGES gave it are taken back.
 */
static void
copy_privileges(Oid parent, const char *partition)
{
	PaParameters parameters = {0};
	bool		isnull;
	Datum		statements;

	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(parent));
	pa_add_parameter(&parameters, OIDOID,
					 ObjectIdGetDatum(named_relation(cstring_to_text(partition))));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(partition));
	pa_query(privileges_query, &parameters, SPI_OK_SELECT);

	statements = pa_result(0, 1, &isnull);
	if (!isnull)
		pa_query(TextDatumGetCString(statements), NULL, SPI_OK_UTILITY);
}

/*
 * make_table makes a table that can become a partition, complete but not yet attached: until then
 * nobody waits for it.
 */
static void
make_table(PaPolicy *policy, const char *name, const char *check)
{
	pa_query(psprintf("CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING GENERATED"
					  " INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE"
					  " INCLUDING COMPRESSION%s)",
					  name, relation_sql(policy->parent), check),
			 NULL, SPI_OK_UTILITY);
	copy_privileges(policy->parent, name);
}

/*
 * drain_default moves the rows of a range from the default partition, if there is one, into the
 * table that is about to be attached.
 *
 * ATTACH takes the same lock on the default partition; taking it here means that no row arrives
 * between the move and the ATTACH.
 */
static void
drain_default(PaPolicy *policy, const char *target_name, PaRange range)
{
	Oid			source_oid = default_partition(policy);
	Relation	source;
	Relation	target;

	if (!OidIsValid(source_oid))
		return;

	source = table_open(source_oid, AccessExclusiveLock);
	target = table_open(named_relation(cstring_to_text(target_name)), AccessExclusiveLock);
	pa_drain(source, target, policy->control, range);
	table_close(target, NoLock);
	table_close(source, NoLock);
}

/*
 * pa_make_partition makes the partition of a range, with the range's rows from the default one.
 *
 * The caller is connected to SPI, inside a guard, and holds pa_lock_partitioning.
 */
void
pa_make_partition(PaPolicy *policy, PaRange range)
{
	int			guc_level = pa_utc_enter();
	char	   *name = partition_name(policy->parent, range_suffix(policy, range));

	make_table(policy, name, date_check(policy, range));
	drain_default(policy, name, range);
	pa_query(psprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')",
					  relation_sql(policy->parent), name,
					  pa_instant_text(range.lower), pa_instant_text(range.upper)),
			 NULL, SPI_OK_UTILITY);

	pa_utc_leave(guc_level);
}

/*
 * make_default_partition makes the partition that takes what no other does.
 */
static void
make_default_partition(PaPolicy *policy)
{
	char	   *name = partition_name(policy->parent, "default");

	make_table(policy, name, "");
	pa_query(psprintf("ALTER TABLE %s ATTACH PARTITION %s DEFAULT",
					  relation_sql(policy->parent), name),
			 NULL, SPI_OK_UTILITY);
}

/*
 * pa_lock_partitioning makes sure that one session at a time makes partitions of a table.
 *
 * It is the lock that ATTACH takes on the parent anyway; readers and writers do not notice it.
 */
void
pa_lock_partitioning(PaPolicy *policy)
{
	LockRelationOid(policy->parent, ShareUpdateExclusiveLock);
}

/*
 * ensure makes what is missing of a table's partitions, and returns how many it made.
 *
 * It looks before it locks, since mostly there is nothing to do, and again afterwards, since
 * another session may have done it.
 */
static int
ensure(PaPolicy *policy, TimestampTz at)
{
	PaGuard		guard;
	List	   *missing = wanted_but_missing(policy, at);
	bool		want_default = policy->default_partition && !OidIsValid(default_partition(policy));
	ListCell   *cell;
	int			made = 0;

	if (missing == NIL && !want_default)
		return 0;

	pa_guard_enter(&guard, pa_owner(policy->parent));
	SPI_connect();
	pa_lock_partitioning(policy);

	foreach(cell, wanted_but_missing(policy, at))
	{
		CHECK_FOR_INTERRUPTS();
		if (made == PA_MAX_PARTITIONS_PER_CALL)
		{
			ereport(WARNING,
					(errmsg("made %d partitions of \"%s\", and more are missing",
							made, get_rel_name(policy->parent)),
					 errdetail("One transaction makes at most %d partitions.",
							   PA_MAX_PARTITIONS_PER_CALL),
					 errhint("Commit and call ensure_partitions() again.")));
			break;
		}
		pa_make_partition(policy, *(PaRange *) lfirst(cell));
		made++;
	}

	if (policy->default_partition && !OidIsValid(default_partition(policy)))
	{
		make_default_partition(policy);
		made++;
	}

	SPI_finish();
	pa_guard_leave(&guard);

	return made;
}

/*
 * ensure_partitions(parent regclass, at timestamptz) makes the partitions that a table's policy
 * (parent NULL: every policy) wants around a moment.
 */
Datum
pa_ensure_partitions(PG_FUNCTION_ARGS)
{
	Oid			parent = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	List	   *policies;
	ListCell   *cell;
	int			made = 0;

	pa_forbid_read_only("ensure_partitions()");

	if (PG_ARGISNULL(1) || TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(1)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"at\" must be a finite timestamp")));

	policies = read_policies(parent);
	if (OidIsValid(parent) && policies == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no partition policy",
						get_rel_name(parent) ? get_rel_name(parent) : "?"),
				 errhint("Tables with a policy are listed in %s.partition_policies.", PA_SCHEMA)));

	foreach(cell, policies)
		made += ensure((PaPolicy *) lfirst(cell), PG_GETARG_TIMESTAMPTZ(1));

	PG_RETURN_INT32(made);
}
