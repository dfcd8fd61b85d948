/*
 * partition.c
 *		Making partitions.
 *
 * What is missing is read from the parent's partition descriptor, so partitions with other bounds are
 * respected and a call that finds nothing to do costs next to nothing.  A partition is made complete
 * before anything that others use is locked, and attached then.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "guard.h"
#include "miscadmin.h"
#include "partition.h"
#include "query.h"
#include "refresh.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_ensure_partitions);
PG_FUNCTION_INFO_V1(pa_ensure_partitions_between);
PG_FUNCTION_INFO_V1(pa_make_next_partition);
PG_FUNCTION_INFO_V1(pa_check_next_partition);
PG_FUNCTION_INFO_V1(pa_analyze_partitions);
PG_FUNCTION_INFO_V1(pa_partition_warnings);
PG_FUNCTION_INFO_V1(pa_default_holds_rows);

/*
 * spare_expired takes from a span what ends before the partition in which the retention does: a partition for it would
 * be dropped at once, and made anew.
 */
static void
spare_expired(PaPolicy *policy, PaKey expiry, PaRange *span)
{
	ListCell   *cell;

	if (policy->retention == NULL)
		return;

	foreach(cell, pa_partitions(policy))
	{
		PaRange    *range = &((PaPartition *) lfirst(cell))->range;

		if (range->lower <= expiry && expiry < range->upper)
			span->lower = Max(span->lower, range->lower);
	}
}

/*
 * pa_wanted_span is the stretch of time that the policy wants to be in partitions: some slots before
 * the current one and some after it, less what is older than the retention.
 */
PaRange
pa_wanted_span(PaPolicy *policy, TimestampTz at)
{
	PaRange		span = pa_slot(policy, pa_key_at(policy, at));
	PaKey		expiry = pa_expiry(policy, at);

	for (int i = 0; i < policy->ahead; i++)
		span.upper = pa_slot(policy, span.upper).upper;
	for (int i = 0; i < policy->behind && span.lower > expiry; i++)
		span.lower = pa_slot(policy, span.lower - 1).lower;
	spare_expired(policy, expiry, &span);

	return span;
}

/*
 * pa_missing_slots lists the ranges of the partitions that are missing in a span, one a slot, in the
 * order of time; at most so many.
 */
List *
pa_missing_slots(PaPolicy *policy, PaRange span, int most)
{
	List	   *slots = NIL;
	ListCell   *cell;

	foreach(cell, pa_missing_ranges(policy, span))
	{
		PaRange		missing = *(PaRange *) lfirst(cell);

		while (missing.lower < missing.upper && list_length(slots) < most)
		{
			PaRange    *range = palloc(sizeof(PaRange));

			CHECK_FOR_INTERRUPTS();
			range->lower = missing.lower;
			range->upper = Min(pa_slot(policy, missing.lower).upper, missing.upper);
			slots = lappend(slots, range);
			missing.lower = range->upper;
		}
	}

	return slots;
}

/*
 * pa_missing_slot_at is the range of the partition to make for a key that no partition holds: its
 * slot, less what other partitions hold of it.
 */
PaRange
pa_missing_slot_at(PaPolicy *policy, PaKey key)
{
	ListCell   *cell;

	foreach(cell, pa_missing_ranges(policy, pa_slot(policy, key)))
	{
		PaRange    *missing = lfirst(cell);

		if (missing->lower <= key && key < missing->upper)
			return *missing;
	}

	elog(ERROR, "a partition of \"%s\" holds key " INT64_FORMAT " already",
		 get_rel_name(policy->parent), key);
}

/*
 * make_table makes a table that can become a partition: until it is attached nobody waits for it.
 */
static char *
make_table(PaPolicy *policy, PaRange *range)
{
	char	   *name = range ? pa_partition_name(policy, *range) : pa_default_partition_name(policy);
	int			guc_level = NewGUCNestLevel();

	/* Where the table does not say so, the caller's preference must not: its owner may not even store anything there. */
	pa_set_for_now("default_tablespace", "");
	pa_query(pa_create_sql(policy, name, range), NULL, SPI_OK_UTILITY);
	AtEOXact_GUC(true, guc_level);
	pa_copy_privileges(policy->parent, name);

	return name;
}

/*
 * drain_default moves the rows of a range from the default partition, if there is one, into the
 * table that is about to be attached.
 */
static int64
drain_default(PaPolicy *policy, const char *target_name, PaRange range)
{
	Oid			source_oid = pa_default_partition(policy);
	Relation	source;
	Relation	target;
	int64		moved;

	if (!OidIsValid(source_oid))
		return 0;
	if (get_rel_relkind(source_oid) != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("default partition \"%s\" is not an ordinary table", get_rel_name(source_oid)),
				 errdetail("It is partitioned itself, or a foreign table, so rows cannot be moved out of it."),
				 errhint("Detach it.")));

	source = table_open(source_oid, AccessExclusiveLock);
	target = table_open(pa_named_relation(target_name), AccessExclusiveLock);
	moved = pa_drain(policy, source, target, range);
	table_close(target, NoLock);
	table_close(source, NoLock);

	return moved;
}

/*
 * lock_to_attach takes the locks, and gets the privileges, that attaching a partition needs.
 */
static void
lock_to_attach(PaPolicy *policy)
{
	pa_let_capture(policy->parent);
	pa_lock_to_attach(policy);
}

/*
 * pa_make_partitions makes the partitions of some ranges, with the rows that the default partition
 * has for them, and returns how many rows these were; *names (unless NULL) are the partitions' names.
 *
 * The caller is connected to SPI, inside a guard, and holds pa_lock_partitioning.
 */
int64
pa_make_partitions(PaPolicy *policy, List *ranges, List **names_made)
{
	int			guc_level = pa_utc_enter();
	int			limit_level;
	List	   *names = NIL;
	ListCell   *range_cell;
	ListCell   *name_cell;
	int64		moved = 0;

	foreach(range_cell, ranges)
	{
		CHECK_FOR_INTERRUPTS();
		names = lappend(names, make_table(policy, lfirst(range_cell)));
	}

	if (ranges != NIL)
		lock_to_attach(policy);

	limit_level = pa_limit_waiting();
	forboth(range_cell, ranges, name_cell, names)
	{
		CHECK_FOR_INTERRUPTS();
		moved += drain_default(policy, lfirst(name_cell), *(PaRange *) lfirst(range_cell));
		pa_query(pa_attach_sql(policy, lfirst(name_cell), lfirst(range_cell)), NULL, SPI_OK_UTILITY);
	}

	AtEOXact_GUC(true, limit_level);
	pa_utc_leave(guc_level);
	if (names_made)
		*names_made = names;

	return moved;
}

/*
 * make_default_partition makes the partition that takes what no other does, if it is wanted and
 * missing, and returns how many it made.
 */
static int
make_default_partition(PaPolicy *policy)
{
	char	   *name;

	if (!policy->default_partition || OidIsValid(pa_default_partition(policy)))
		return 0;

	name = make_table(policy, NULL);
	lock_to_attach(policy);
	pa_query(pa_attach_sql(policy, name, NULL), NULL, SPI_OK_UTILITY);

	return 1;
}

/* The first partition of table $1, but for $2, whose CHECK named $3 is missing or not validated. */
static const char *const unchecked_query =
"SELECT c.oid, k.oid IS NOT NULL FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
" LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.conname = $3"
" WHERE i.inhparent = $1 AND c.oid <> $2 AND c.relkind = 'r' AND NOT i.inhdetachpending"
" AND (k.oid IS NULL OR NOT k.convalidated)"
" ORDER BY k.oid NULLS LAST, c.oid LIMIT 1";

/*
 * partition_range is the range of one of the parent's partitions.
 */
static PaRange
partition_range(PaPolicy *policy, Oid partition)
{
	PaRange		everything = {PA_KEY_MIN, PA_KEY_MAX};
	ListCell   *cell;

	foreach(cell, pa_partitions(policy))
		if (((PaPartition *) lfirst(cell))->relation == partition)
			return ((PaPartition *) lfirst(cell))->range;

	return everything;
}

/*
 * unchecked_partition finds a partition whose CHECK is missing, or not validated; InvalidOid when there
 * is none.
 */
static Oid
unchecked_partition(PaPolicy *policy, const char *column, bool *has_check)
{
	PaParameters parameters = {0};
	bool		isnull;

	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(policy->parent));
	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(pa_default_partition(policy)));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(pa_check_name(policy, column)));
	if (pa_query(unchecked_query, &parameters, SPI_OK_SELECT) == 0)
		return InvalidOid;
	*has_check = DatumGetBool(pa_result(0, 2, &isnull));

	return DatumGetObjectId(pa_result(0, 1, &isnull));
}

/*
 * check_next_partition does the next step towards a CHECK on the date column of each partition, and
 * tells whether there was one to do.
 *
 * The step that locks the partition is short, the one that reads it locks little: a caller that
 * commits in between holds up nobody.  Nobody attaches or detaches meanwhile.
 */
static bool
check_next_partition(PaPolicy *policy)
{
	char	   *column = pa_utc_date_column(policy);
	bool		has_check;
	Oid			partition;
	PaRange		range;
	int			guc_level;

	if (column == NULL || !OidIsValid(unchecked_partition(policy, column, &has_check)))
		return false;

	pa_lock_partitioning(policy);
	partition = unchecked_partition(policy, column, &has_check);
	if (!OidIsValid(partition))
		return false;
	if (has_check)
	{
		pa_query(psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", pa_relation_sql(partition),
						  quote_identifier(pa_check_name(policy, column))), NULL, SPI_OK_UTILITY);
		return true;
	}

	range = partition_range(policy, partition);
	if (range.lower == PA_KEY_MIN && range.upper == PA_KEY_MAX)
		return false;

	guc_level = pa_utc_enter();
	pa_lock_to_alter(partition);
	pa_query(psprintf("ALTER TABLE %s ADD %s NOT VALID", pa_relation_sql(partition),
					  pa_date_check(policy, column, range)), NULL, SPI_OK_UTILITY);
	pa_utc_leave(guc_level);

	return true;
}

/*
 * slots_to_make lists the ranges of missing partitions that this transaction makes, and says so when
 * these are not all.
 */
static List *
slots_to_make(PaPolicy *policy, PaRange span)
{
	List	   *slots = pa_missing_slots(policy, span, PA_MAX_PARTITIONS_PER_CALL + 1);

	if (list_length(slots) <= PA_MAX_PARTITIONS_PER_CALL)
		return slots;

	ereport(WARNING,
			(errmsg("more than %d partitions of \"%s\" are missing, and so many are made",
					PA_MAX_PARTITIONS_PER_CALL, get_rel_name(policy->parent)),
			 errdetail("One transaction's locks would not be enough for all."),
			 errhint("Commit, and call again until the result is 0.")));

	return list_truncate(slots, PA_MAX_PARTITIONS_PER_CALL);
}

/*
 * ensure_span makes the partitions that are missing in a span, and returns how many it made.
 *
 * It looks before it locks, since mostly there is nothing to do, and again afterwards, since
 * another session may have done it.
 */
static int
ensure_span(PaPolicy *policy, PaRange span)
{
	List	   *missing;

	if (pa_missing_ranges(policy, span) == NIL)
		return 0;

	pa_lock_partitioning(policy);
	missing = slots_to_make(policy, span);
	(void) pa_make_partitions(policy, missing, NULL);

	return list_length(missing);
}

/*
 * pa_ensure makes what a table's policy wants and is missing around a moment, and returns how many
 * partitions it made.  When none was missing it adds CHECKs that are.
 */
int
pa_ensure(PaPolicy *policy, TimestampTz at)
{
	PaGuard		guard;
	int			made;

	pa_check_policy(policy);
	pa_enter_policy(policy, &guard);

	made = ensure_span(policy, pa_wanted_span(policy, at));
	if (policy->default_partition && !OidIsValid(pa_default_partition(policy)))
	{
		pa_lock_partitioning(policy);
		made += make_default_partition(policy);
	}

	/* Reading attached partitions can take long: not while new ones keep others waiting. */
	while (made == 0 && check_next_partition(policy))
		CHECK_FOR_INTERRUPTS();

	pa_leave_policy(&guard);

	return made;
}

/* The work of one of several tables. */
typedef struct EnsureWork
{
	PaPolicy   *policy;
	TimestampTz at;
	int			made;
} EnsureWork;

static void
ensure_work(void *argument)
{
	EnsureWork *work = argument;

	work->made = pa_ensure(work->policy, work->at);
}

/*
 * ensure_all does all tables; one that fails does not stop the others.
 */
static int
ensure_all(TimestampTz at)
{
	ListCell   *cell;
	int			made = 0;

	foreach(cell, pa_policies(InvalidOid))
	{
		EnsureWork	work = {lfirst(cell), at, 0};
		ErrorData  *error;

		if (!pa_try(ensure_work, &work, &error))
			pa_warn_of_table(work.policy, error);
		else
			made += work.made;
	}

	return made;
}

/*
 * finite_argument reads a timestamptz argument that must be a moment.
 */
static TimestampTz
finite_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n) || TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(n)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be a finite timestamp", name)));

	return PG_GETARG_TIMESTAMPTZ(n);
}

/*
 * ensure_partitions(parent regclass, at timestamptz) makes the partitions that a table's policy
 * (parent NULL: every policy) wants around a moment.
 */
Datum
pa_ensure_partitions(PG_FUNCTION_ARGS)
{
	TimestampTz at;

	pa_forbid_read_only("ensure_partitions()");
	at = finite_argument(fcinfo, 1, "at");

	if (PG_ARGISNULL(0))
		PG_RETURN_INT32(ensure_all(at));

	PG_RETURN_INT32(pa_ensure(pa_policy_or_error(PG_GETARG_OID(0)), at));
}

/*
 * ensure_partitions_between(parent regclass, lower timestamptz, upper timestamptz) makes the
 * partitions that are missing from lower, inclusive, to upper, exclusive.
 */
Datum
pa_ensure_partitions_between(PG_FUNCTION_ARGS)
{
	PaPolicy   *policy;
	PaGuard		guard;
	PaRange		span;
	TimestampTz lower;
	TimestampTz upper;
	int			made;

	pa_forbid_read_only("ensure_partitions_between()");
	lower = finite_argument(fcinfo, 1, "lower");
	upper = finite_argument(fcinfo, 2, "upper");
	if (lower >= upper)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"lower\" must be before \"upper\""),
				 errhint("Give the earlier moment first; the later one is not included.")));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"parent\" must not be null")));

	policy = pa_policy_or_error(PG_GETARG_OID(0));
	span.lower = pa_slot(policy, pa_key_at(policy, lower)).lower;
	span.upper = pa_slot(policy, pa_key_at(policy, upper - 1)).upper;

	pa_enter_policy(policy, &guard);
	made = ensure_span(policy, span);
	pa_leave_policy(&guard);

	PG_RETURN_INT32(made);
}

/*
 * next_to_make finds the range of a partition to make: one that the policy wants, or one for rows
 * that stand in the default partition; false when there is none.
 *
 * Rows further ahead than the policy looks stay where they are: more likely than not their clock
 * was wrong, and their time will come.
 */
static bool
next_to_make(PaPolicy *policy, TimestampTz at, PaRange *range)
{
	PaRange		wanted = pa_wanted_span(policy, at);
	PaRange		drainable = {pa_first_drainable(policy, at), wanted.upper};
	List	   *missing = pa_missing_ranges(policy, wanted);
	PaKey		key;

	if (missing != NIL)
		key = ((PaRange *) linitial(missing))->lower;
	else if (!pa_next_drainable(policy, drainable, &key))
		return false;

	*range = pa_missing_slot_at(policy, key);

	return true;
}

/*
 * make_next_partition(parent regclass, at timestamptz) makes one partition, and returns as jsonb its
 * name, how many rows moved into it and what was waited for; NULL when none is missing.
 */
Datum
pa_make_next_partition(PG_FUNCTION_ARGS)
{
	PaPolicy   *policy = pa_policy_or_error(PG_GETARG_OID(0));
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(1);
	PaParameters parameters = {0};
	PaGuard		guard;
	PaRange		range;
	char	   *name = NULL;
	char	   *waits;
	int64		moved = 0;
	bool		isnull;
	Datum		result;

	pa_enter_policy(policy, &guard);
	pa_lock_partitioning(policy);

	if (policy->default_partition && !OidIsValid(pa_default_partition(policy)))
	{
		name = pa_default_partition_name(policy);
		make_default_partition(policy);
	}
	else if (next_to_make(policy, at, &range))
	{
		List	   *names;

		moved = pa_make_partitions(policy, list_make1(&range), &names);
		name = names ? linitial(names) : NULL;
	}

	if (name == NULL)
	{
		pa_leave_policy(&guard);
		PG_RETURN_NULL();
	}

	waits = pa_describe_waits();
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(name));
	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(moved));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(waits ? waits : ""));
	pa_query("SELECT jsonb_build_object('partition', $1, 'rows_moved', $2, 'waited', nullif($3, ''))",
			 &parameters, SPI_OK_SELECT);
	result = SPI_datumTransfer(pa_result(0, 1, &isnull), false, -1);
	pa_leave_policy(&guard);

	PG_RETURN_DATUM(result);
}

/*
 * check_next_partition(parent regclass) does the next step towards a CHECK on the date column of each
 * partition; false when there is none to do.
 */
Datum
pa_check_next_partition(PG_FUNCTION_ARGS)
{
	PaPolicy   *policy = pa_policy_or_error(PG_GETARG_OID(0));
	PaGuard		guard;
	bool		done;

	pa_enter_policy(policy, &guard);
	done = check_next_partition(policy);
	pa_leave_policy(&guard);

	PG_RETURN_BOOL(done);
}

/*
 * analyze_partitions(parent regclass) updates the statistics of a partitioned table as a whole, which autovacuum
 * never does; those of the partitions it does.
 */
Datum
pa_analyze_partitions(PG_FUNCTION_ARGS)
{
	PaPolicy   *policy = pa_policy_or_error(PG_GETARG_OID(0));
	PaGuard		guard;

	pa_enter_policy(policy, &guard);
	pa_analyze_parent(policy->parent, pa_relation_sql(policy->parent));
	pa_leave_policy(&guard);

	PG_RETURN_VOID();
}

/*
 * runs_out tells whether the last partition ends before two more slots have passed.
 */
static bool
runs_out(PaPolicy *policy, TimestampTz at)
{
	List	   *partitions = pa_partitions(policy);
	PaRange		soon = pa_slot(policy, pa_slot(policy, pa_key_at(policy, at)).upper);

	return partitions == NIL || ((PaPartition *) llast(partitions))->range.upper < soon.upper;
}

/*
 * default_holds_rows tells whether there is a row in the default partition of a table, if it has one.
 */
static bool
default_holds_rows(PaPolicy *policy)
{
	Oid			default_oid = pa_default_partition(policy);
	PaGuard		guard;
	bool		result;

	if (!OidIsValid(default_oid))
		return false;

	pa_enter_policy(policy, &guard);
	result = pa_query(psprintf("SELECT FROM %s LIMIT 1", pa_relation_sql(default_oid)), NULL, SPI_OK_SELECT) > 0;
	pa_leave_policy(&guard);

	return result;
}

/*
 * default_holds_rows(parent regclass) tells that of a managed table.
 */
Datum
pa_default_holds_rows(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(default_holds_rows(pa_policy_or_error(PG_GETARG_OID(0))));
}

/*
 * partition_warnings(parent regclass, at timestamptz) lists as text[] what will go wrong with a table's
 * partitions if nobody does anything.
 */
Datum
pa_partition_warnings(PG_FUNCTION_ARGS)
{
	PaPolicy   *policy = pa_policy_or_error(PG_GETARG_OID(0));
	char	   *table = get_rel_name(policy->parent);
	Datum		warnings[2];
	int			n = 0;

	if (runs_out(policy, PG_GETARG_TIMESTAMPTZ(1)))
		warnings[n++] = CStringGetTextDatum(psprintf("the partitions of \"%s\" end within two widths", table));
	if (default_holds_rows(policy))
		warnings[n++] = CStringGetTextDatum(psprintf("the default partition of \"%s\" holds rows", table));

	PG_RETURN_ARRAYTYPE_P(construct_array(warnings, n, TEXTOID, -1, false, TYPALIGN_INT));
}
