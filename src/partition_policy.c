/*
 * partition_policy.c
 *		Which tables are managed, and how.
 *
 * The registry names tables by text that is resolved whenever it is used: a column of type regclass
 * would keep a dump from being restored once a table is gone.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "guard.h"
#include "miscadmin.h"
#include "partition.h"
#include "partitioning/partdesc.h"
#include "query.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

/* How many partitions ahead or behind a policy can ask for. */
#define MAX_DISTANCE 10000

PG_FUNCTION_INFO_V1(pa_manage_partitions);
PG_FUNCTION_INFO_V1(pa_unmanage_partitions);
PG_FUNCTION_INFO_V1(pa_managed_tables);

/*
 * pa_identifier quotes a name where that is necessary, and not where the session would like to see it: for names that are
 * kept, and compared.
 */
char *
pa_identifier(const char *name)
{
	int			guc_level;
	char	   *result;

	if (!quote_all_identifiers)
		return pstrdup(quote_identifier(name));

	guc_level = NewGUCNestLevel();
	pa_set_for_now("quote_all_identifiers", "off");
	result = pstrdup(quote_identifier(name));
	AtEOXact_GUC(false, guc_level);

	return result;
}

/*
 * pa_relation_sql is the quoted, schema-qualified name of a relation: what policies call a table,
 * and what goes into SQL.
 */
char *
pa_relation_sql(Oid relation)
{
	char	   *name = get_rel_name(relation);
	char	   *schema = name ? get_namespace_name(get_rel_namespace(relation)) : NULL;

	if (schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relation),
				 errdetail("Somebody has dropped it in this moment.")));

	return psprintf("%s.%s", pa_identifier(schema), pa_identifier(name));
}

/*
 * pa_split_name takes such a name apart; false when it is not one.
 */
bool
pa_split_name(const char *name, char **schema, char **relation)
{
	List	   *names;

	if (!SplitIdentifierString(pstrdup(name), '.', &names) || list_length(names) != 2)
		return false;
	*schema = linitial(names);
	*relation = lsecond(names);

	return true;
}

/*
 * pa_named_relation finds a relation by such a name; InvalidOid when it is gone.
 *
 * Whether the user may look into the schema does not matter: entries of registries were put there by
 * those who may.
 */
Oid
pa_named_relation(const char *name)
{
	char	   *schema;
	char	   *relation;
	Oid			namespace;

	if (!pa_split_name(name, &schema, &relation))
		return InvalidOid;
	namespace = get_namespace_oid(schema, true);

	return OidIsValid(namespace) ? get_relname_relid(relation, namespace) : InvalidOid;
}

/*
 * unit_of is how many microseconds an epoch unit has; 0 when there is no such unit.
 */
static int64
unit_of(const char *name)
{
	if (strcmp(name, "seconds") == 0)
		return USECS_PER_SEC;
	if (strcmp(name, "milliseconds") == 0)
		return 1000;
	if (strcmp(name, "microseconds") == 0)
		return 1;

	return 0;
}

/*
 * check_partitioned refuses what is not a table that is partitioned by a range of one column.
 */
static void
check_partitioned(Relation parent)
{
	PartitionKey key;

	if (parent->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a partitioned table", RelationGetRelationName(parent)),
				 errhint("Make it with CREATE TABLE ... PARTITION BY RANGE.")));

	if (parent->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a temporary table", RelationGetRelationName(parent)),
				 errhint("Only permanent tables can be managed.")));

	key = RelationGetPartitionKey(parent);
	if (key->strategy != PARTITION_STRATEGY_RANGE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not partitioned by range", RelationGetRelationName(parent)),
				 errhint("Only tables that are PARTITION BY RANGE have partitions that follow in time.")));

	if (key->partnatts != 1 || key->partattrs[0] == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not partitioned by a single column", RelationGetRelationName(parent)),
				 errdetail("Its partition key has several columns, or an expression."),
				 errhint("Partition the table by its time column alone.")));
}

/*
 * read_key reads the type of a table's partition key into the policy, and returns its column.
 */
static char *
read_key(PaPolicy *policy)
{
	Relation	parent = table_open(policy->parent, AccessShareLock);
	PartitionKey key;
	char	   *column;

	check_partitioned(parent);
	key = RelationGetPartitionKey(parent);
	column = get_attname(policy->parent, key->partattrs[0], false);
	policy->type = getBaseType(key->parttypid[0]);
	table_close(parent, AccessShareLock);

	return column;
}

/*
 * policy_of_row reads a policy from a row of the last query; NULL when its table is gone.
 */
static PaPolicy *
policy_of_row(int row)
{
	PaPolicy   *policy = palloc0(sizeof(PaPolicy));
	char	   *name;
	bool		isnull;
	Datum		value;

	name = TextDatumGetCString(pa_result(row, 1, &isnull));
	policy->parent = pa_named_relation(name);
	if (!OidIsValid(policy->parent))
	{
		ereport(WARNING,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table %s has a partition policy, but does not exist", name),
				 errhint("Its owner can correct parent in %s.partition_policies, or delete the row.", PA_SCHEMA)));
		return NULL;
	}

	policy->control = TextDatumGetCString(pa_result(row, 9, &isnull));
	policy->width = *DatumGetIntervalP(pa_result(row, 2, &isnull));
	policy->ahead = DatumGetInt32(pa_result(row, 3, &isnull));
	policy->behind = DatumGetInt32(pa_result(row, 4, &isnull));
	policy->timezone = TextDatumGetCString(pa_result(row, 5, &isnull));
	policy->default_partition = DatumGetBool(pa_result(row, 6, &isnull));
	value = pa_result(row, 7, &isnull);
	if (!isnull)
		policy->retention = DatumGetIntervalP(datumCopy(value, false, sizeof(Interval)));
	value = pa_result(row, 8, &isnull);
	policy->epoch_unit = isnull ? NULL : TextDatumGetCString(value);

	return policy;
}

/*
 * pa_policies lists the policies of a table, or of all when parent is InvalidOid, in the caller's
 * memory context.  Each must go through pa_check_policy before it is used.
 *
 * The registry is read with its owner's rights: what a caller may do with a policy is decided by
 * who may execute the function, not by who may read the table.
 */
List *
pa_policies(Oid parent)
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
					 CStringGetTextDatum(OidIsValid(parent) ? pa_relation_sql(parent) : ""));
	found = pa_query("SELECT parent, width, ahead, behind, timezone, default_partition, retention, epoch_unit, control"
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
 * pa_enter_policy gets ready to work on a policy's table, as its owner.
 */
void
pa_enter_policy(PaPolicy *policy, PaGuard *guard)
{
	pa_guard_enter(guard, pa_owner(policy->parent));
	SPI_connect();
	pa_reset_waits();
}

/*
 * pa_leave_policy undoes pa_enter_policy, and tells the user what was waited for.
 */
void
pa_leave_policy(PaGuard *guard)
{
	char	   *waits = pa_describe_waits();

	if (waits)
		ereport(NOTICE, (errmsg_internal("%s", waits)));
	SPI_finish();
	pa_guard_leave(guard);
}

/*
 * pa_warn_of_table tells that work on one of several tables failed, which does not stop the others.
 */
void
pa_warn_of_table(PaPolicy *policy, ErrorData *error)
{
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("table \"%s\" was left as it was: %s", get_rel_name(policy->parent), error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}

/*
 * refuse raises the error of an argument that makes no sense.
 */
static void
refuse(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 errhint("%s", hint)));
}

/*
 * check_width refuses a width that does not cut time into whole hours, days or months.
 */
static void
check_width(PaPolicy *policy)
{
	static const char *const hint = "Give a whole number of hours, days, weeks, months or years, for example '1 month' or '6 hours'.";
	Interval   *width = &policy->width;

	/* A whole number of times 24 hours is meant as days, which DST can make longer or shorter. */
	if (width->month == 0 && width->day == 0 && width->time % USECS_PER_DAY == 0 &&
		width->time / USECS_PER_DAY <= INT_MAX)
	{
		width->day = width->time / USECS_PER_DAY;
		width->time = 0;
	}

	if ((width->month != 0) + (width->day != 0) + (width->time != 0) > 1)
		refuse("width must not mix months, days and hours", hint);
	if (width->month <= 0 && width->day <= 0 && width->time <= 0)
		refuse("width must be positive", hint);
	if (width->time % USECS_PER_HOUR != 0)
		refuse("width must be a whole number of hours", hint);
	if (width->month > 12000 || width->day > 366000 || width->time / USECS_PER_DAY > 366000)
		refuse("width must be at most 1000 years", hint);
	if (width->time != 0 && policy->type == DATEOID)
		refuse("width must be at least a day when the table is partitioned by a date",
			   "Give a whole number of days, weeks, months or years.");
}

/*
 * check_control refuses a column that the table is not partitioned by, or that is not a time.
 */
static void
check_control(PaPolicy *policy, const char *column)
{
	if (strcmp(policy->control, column) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("table \"%s\" is not partitioned by \"%s\"", get_rel_name(policy->parent), policy->control),
				 errhint("It is partitioned by \"%s\".", column)));

	if (policy->type != TIMESTAMPTZOID && policy->type != TIMESTAMPOID &&
		policy->type != DATEOID && policy->type != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" has type %s", column, format_type_be(policy->type)),
				 errhint("Partitions are managed for columns of type timestamptz, timestamp, date and bigint.")));
}

/*
 * check_unit refuses a bigint without a unit, and a unit without a bigint.
 */
static void
check_unit(PaPolicy *policy)
{
	policy->unit = policy->epoch_unit ? unit_of(policy->epoch_unit) : 1;

	if (policy->epoch_unit == NULL && policy->type == INT8OID)
		refuse("epoch_unit is missing", "Say what a bigint counts since 1970: 'seconds', 'milliseconds' or 'microseconds'.");
	if (policy->epoch_unit != NULL && policy->type != INT8OID)
		refuse("epoch_unit is for columns of type bigint only", "Leave it out.");
	if (policy->unit == 0)
		refuse("epoch_unit is unknown", "It can be 'seconds', 'milliseconds' or 'microseconds'.");
}

/*
 * check_retention refuses a retention that is not a positive time span.
 */
static void
check_retention(Interval *retention)
{
	if (retention == NULL)
		return;
	if (retention->month < 0 || retention->day < 0 || retention->time < 0 ||
		(retention->month == 0 && retention->day == 0 && retention->time == 0))
		refuse("retention must be positive", "Leave it out, or give NULL, to keep partitions for ever.");
	if (retention->month > 12000 || retention->day > 366000 || retention->time / USECS_PER_DAY > 366000)
		refuse("retention must be at most 1000 years", "Leave it out, or give NULL, to keep partitions for ever.");
}

/*
 * pa_check_policy refuses a policy that does not fit its table, which may be another one of the same
 * name by now, and completes it.
 */
void
pa_check_policy(PaPolicy *policy)
{
	(void) pa_owner(policy->parent);
	check_control(policy, read_key(policy));
	check_unit(policy);
	check_width(policy);
	check_retention(policy->retention);
	if (policy->ahead < 0 || policy->behind < 0 || policy->ahead > MAX_DISTANCE || policy->behind > MAX_DISTANCE)
		refuse(psprintf("ahead and behind must be from 0 to %d", MAX_DISTANCE),
			   "They count partitions after and before the current one.");
	(void) DirectFunctionCall2(timestamptz_zone, CStringGetTextDatum(policy->timezone), TimestampTzGetDatum(0));
}

/*
 * pa_policy is the policy of a table; NULL when it has none.
 */
PaPolicy *
pa_policy(Oid parent)
{
	List	   *policies = pa_policies(parent);
	PaPolicy   *policy = policies == NIL ? NULL : linitial(policies);

	if (policy)
		pa_check_policy(policy);

	return policy;
}

/*
 * pa_policy_or_error is the policy of a table that must have one.
 */
PaPolicy *
pa_policy_or_error(Oid parent)
{
	PaPolicy   *policy;

	if (get_rel_name(parent) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", parent)));

	policy = pa_policy(parent);
	if (policy == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no partition policy", get_rel_name(parent)),
				 errhint("Give it one with %s.manage_partitions().", PA_SCHEMA)));

	return policy;
}

/*
 * check_partitions refuses a table some of whose partitions we could not work with.
 */
static void
check_partitions(Oid parent)
{
	Relation	relation = table_open(parent, AccessShareLock);
	PartitionDesc descriptor = RelationGetPartitionDesc(relation, true);

	for (int i = 0; i < descriptor->nparts; i++)
		if (get_rel_relkind(descriptor->oids[i]) == RELKIND_FOREIGN_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("partition \"%s\" is a foreign table", get_rel_name(descriptor->oids[i])),
					 errhint("Detach it before the table is managed.")));

	table_close(relation, AccessShareLock);
}

/*
 * check_names refuses a table whose partitions would have names that are too long.
 *
 * A name that is truncated would be no name: two truncated names can be equal.
 */
static void
check_names(PaPolicy *policy)
{
	char	   *name = get_rel_name(policy->parent);
	int			longest = Max(pa_longest_suffix(policy), (int) strlen("_default"));

	if (strlen(name) + longest >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("name \"%s\" is too long for a table with managed partitions", name),
				 errdetail("The names of its partitions have %d bytes more, and a name can have at most %d.",
						   longest, NAMEDATALEN - 1),
				 errhint("Give the table a shorter name.")));
}

/*
 * check_owner refuses somebody else's table.
 */
static void
check_owner(Oid parent)
{
	if (!has_privs_of_role(GetUserId(), pa_owner(parent)))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(parent));
}

/*
 * hold_own makes sure that a table is the caller's, and keeps its name until the transaction ends: what is written into
 * the registry under that name must not be about another table by then.  Somebody else's table is not even locked.
 */
static void
hold_own(Oid parent)
{
	check_owner(parent);
	LockRelationOid(parent, AccessShareLock);
	check_owner(parent);
}

/*
 * save_policy writes a policy into the registry, in the place of the one that is there, and says what has changed: who
 * wants to change one thing easily resets another.
 */
static void
save_policy(PaPolicy *policy)
{
	Oid			types[] = {TEXTOID, TEXTOID, INTERVALOID, INT4OID, INT4OID, INTERVALOID, TEXTOID, BOOLOID, TEXTOID};
	Datum		values[9];
	char		nulls[9 + 1] = "         ";
	PaGuard		guard;
	char	   *changes;

	values[0] = CStringGetTextDatum(pa_relation_sql(policy->parent));
	values[1] = CStringGetTextDatum(policy->control);
	values[2] = IntervalPGetDatum(&policy->width);
	values[3] = Int32GetDatum(policy->ahead);
	values[4] = Int32GetDatum(policy->behind);
	values[5] = IntervalPGetDatum(policy->retention);
	nulls[5] = policy->retention ? ' ' : 'n';
	values[6] = CStringGetTextDatum(policy->timezone);
	values[7] = BoolGetDatum(policy->default_partition);
	values[8] = policy->epoch_unit ? CStringGetTextDatum(policy->epoch_unit) : (Datum) 0;
	nulls[8] = policy->epoch_unit ? ' ' : 'n';

	pa_guard_enter(&guard, pa_owner(pa_table("partition_policies")));
	SPI_connect();
	if (SPI_execute_with_args("WITH old AS (SELECT pg_catalog.to_jsonb(p) AS policy FROM prod_analytics.partition_policies p WHERE p.parent = $1),"
							  " new AS (INSERT INTO prod_analytics.partition_policies AS p"
							  " (parent, control, width, ahead, behind, retention, timezone, default_partition, epoch_unit)"
							  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
							  " ON CONFLICT (parent) DO UPDATE SET control = EXCLUDED.control,"
							  " width = EXCLUDED.width, ahead = EXCLUDED.ahead, behind = EXCLUDED.behind,"
							  " retention = EXCLUDED.retention, timezone = EXCLUDED.timezone,"
							  " default_partition = EXCLUDED.default_partition, epoch_unit = EXCLUDED.epoch_unit"
							  " RETURNING pg_catalog.to_jsonb(p) AS policy)"
							  " SELECT string_agg(format('%s is %s, was %s', n.key, coalesce(n.value, 'none'), coalesce(o.value, 'none')), '; ' ORDER BY n.key)"
							  " FROM old, new, jsonb_each_text(old.policy) o JOIN LATERAL jsonb_each_text(new.policy) n ON n.key = o.key"
							  " WHERE n.value IS DISTINCT FROM o.value",
							  9, types, values, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not save the partition policy");
	changes = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (changes)
		ereport(NOTICE,
				(errmsg("table \"%s\" has another partition policy now", get_rel_name(policy->parent)),
				 errdetail("%s.", changes),
				 errhint("An argument that is left out has its default, not the value that was there.")));
	SPI_finish();
	pa_guard_leave(&guard);
}

/*
 * manage_partitions(parent, control, width, ahead, behind, retention, timezone, default_partition,
 * epoch_unit) gives a table a policy, or another one.  It makes no partition.
 */
Datum
pa_manage_partitions(PG_FUNCTION_ARGS)
{
	PaPolicy	policy = {0};

	pa_forbid_read_only("manage_partitions()");

	for (int i = 0; i < 8; i++)
		if (PG_ARGISNULL(i) && i != 5)
			refuse("only retention and epoch_unit can be NULL", "Leave an argument out to get its default.");

	policy.parent = PG_GETARG_OID(0);
	(void) pa_owner(policy.parent);
	policy.control = pstrdup(NameStr(*PG_GETARG_NAME(1)));
	policy.width = *PG_GETARG_INTERVAL_P(2);
	policy.ahead = PG_GETARG_INT32(3);
	policy.behind = PG_GETARG_INT32(4);
	policy.retention = PG_ARGISNULL(5) ? NULL : PG_GETARG_INTERVAL_P(5);
	policy.timezone = text_to_cstring(PG_GETARG_TEXT_PP(6));
	policy.default_partition = PG_GETARG_BOOL(7);
	policy.epoch_unit = PG_ARGISNULL(8) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(8));

	hold_own(policy.parent);
	pa_check_policy(&policy);
	check_names(&policy);
	check_partitions(policy.parent);

	save_policy(&policy);

	PG_RETURN_VOID();
}

/*
 * unmanage_partitions(parent regclass) takes a table's policy away.  Its partitions stay.
 */
Datum
pa_unmanage_partitions(PG_FUNCTION_ARGS)
{
	Oid			parent = PG_GETARG_OID(0);
	PaParameters parameters = {0};
	PaGuard		guard;

	pa_forbid_read_only("unmanage_partitions()");
	hold_own(pa_policy_or_error(parent)->parent);

	pa_guard_enter(&guard, pa_owner(pa_table("partition_policies")));
	SPI_connect();
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(pa_relation_sql(parent)));
	pa_query("DELETE FROM prod_analytics.partition_policies WHERE parent = $1", &parameters, SPI_OK_DELETE);
	SPI_finish();
	pa_guard_leave(&guard);

	PG_RETURN_VOID();
}

/*
 * managed_tables(parent regclass) lists the managed tables as regclass[]; parent alone, if it is not NULL.
 *
 * It is for maintain_partitions(), which commits.
 */
Datum
pa_managed_tables(PG_FUNCTION_ARGS)
{
	List	   *policies;
	Datum	   *tables;
	ListCell   *cell;

	if (IsTransactionBlock())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("maintain_partitions() cannot run inside a transaction block"),
				 errhint("It commits after each step; call it by itself.")));

	policies = PG_ARGISNULL(0) ? pa_policies(InvalidOid) :
		list_make1(pa_policy_or_error(PG_GETARG_OID(0)));
	tables = palloc(sizeof(Datum) * (list_length(policies) + 1));
	foreach(cell, policies)
		tables[foreach_current_index(cell)] = ObjectIdGetDatum(((PaPolicy *) lfirst(cell))->parent);

	PG_RETURN_ARRAYTYPE_P(construct_array(tables, list_length(policies), REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT));
}
