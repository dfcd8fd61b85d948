/*
 * partition_plan.c
 *		What would be done to partitions, without doing it.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guard.h"
#include "miscadmin.h"
#include "partition.h"
#include "query.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_plan_partitions);

/* A row of the plan. */
typedef struct Step
{
	const char *name;
	PaRange    *range;			/* NULL: the default partition */
	const char *action;
	int64		rows_to_move;
	const char *ddl;
} Step;

/*
 * bound_text is a bound as the plan shows it; NULL when there is none.
 */
static Datum
bound_text(PaPolicy *policy, PaKey key, bool *isnull)
{
	*isnull = (key == PA_KEY_MIN || key == PA_KEY_MAX);

	return *isnull ? (Datum) 0 : CStringGetTextDatum(pa_key_text(policy, key));
}

/*
 * put_step adds a row to the function's result.
 */
static void
put_step(ReturnSetInfo *result, PaPolicy *policy, Step *step)
{
	PaRange		none = {PA_KEY_MIN, PA_KEY_MAX};
	PaRange		range = step->range ? *step->range : none;
	Datum		values[7];
	bool		nulls[7] = {0};

	values[0] = ObjectIdGetDatum(policy->parent);
	values[1] = CStringGetTextDatum(step->name);
	values[2] = bound_text(policy, range.lower, &nulls[2]);
	values[3] = bound_text(policy, range.upper, &nulls[3]);
	values[4] = CStringGetTextDatum(step->action);
	values[5] = Int64GetDatum(step->rows_to_move);
	values[6] = CStringGetTextDatum(step->ddl);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * plan_create plans the partition of a range; NULL is the default partition.
 */
static void
plan_create(ReturnSetInfo *result, PaPolicy *policy, PaRange *range)
{
	Step		step = {NULL, range, "create", 0, NULL};

	step.name = range ? pa_partition_name(policy, *range) : pa_default_partition_name(policy);
	step.ddl = psprintf("%s; %s", pa_create_sql(policy, step.name, range),
						pa_attach_sql(policy, step.name, range));
	step.rows_to_move = range ? pa_rows_to_move(policy, *range) : 0;
	put_step(result, policy, &step);
}

/*
 * plan_drained plans the partitions for rows of the default partition outside the wanted span, which
 * maintain_partitions() makes.
 */
static void
plan_drained(ReturnSetInfo *result, PaPolicy *policy, PaRange span)
{
	PaKey		key;

	while (span.lower < span.upper && pa_next_drainable(policy, span, &key))
	{
		PaRange		range = pa_missing_slot_at(policy, key);

		CHECK_FOR_INTERRUPTS();
		plan_create(result, policy, &range);
		span.lower = range.upper;
	}
}

/*
 * plan_drop plans the end of an expired partition.
 */
static void
plan_drop(ReturnSetInfo *result, PaPolicy *policy, PaPartition *partition)
{
	char	   *name = pa_relation_sql(partition->relation);
	Step		step = {name, &partition->range, "drop", 0, NULL};

	step.ddl = psprintf("ALTER TABLE %s DETACH PARTITION %s; DROP TABLE %s",
						pa_relation_sql(policy->parent), name, name);
	put_step(result, policy, &step);
}

/*
 * plan_table plans what ensure_partitions(), maintain_partitions() and drop_expired_partitions()
 * would do to a table.
 */
static void
plan_table(ReturnSetInfo *result, PaPolicy *policy, TimestampTz at)
{
	PaGuard		guard;
	int			guc_level;
	PaRange		wanted;
	PaRange		older;
	ListCell   *cell;

	pa_check_policy(policy);
	wanted = pa_wanted_span(policy, at);
	older.lower = pa_first_drainable(policy, at);
	older.upper = wanted.lower;

	pa_guard_enter(&guard, pa_owner(policy->parent));
	SPI_connect();
	guc_level = pa_utc_enter();

	plan_drained(result, policy, older);
	foreach(cell, pa_missing_slots(policy, wanted, INT_MAX))
		plan_create(result, policy, lfirst(cell));
	if (policy->default_partition && !OidIsValid(pa_default_partition(policy)))
		plan_create(result, policy, NULL);
	foreach(cell, pa_expired(policy, at))
		plan_drop(result, policy, lfirst(cell));

	pa_utc_leave(guc_level);
	SPI_finish();
	pa_guard_leave(&guard);
}

/* The work of one of several tables. */
typedef struct PlanWork
{
	ReturnSetInfo *result;
	PaPolicy   *policy;
	TimestampTz at;
} PlanWork;

static void
plan_work(void *argument)
{
	PlanWork   *work = argument;

	plan_table(work->result, work->policy, work->at);
}

/*
 * plan_partitions(parent regclass, at timestamptz) lists what would be done to a table's partitions
 * (NULL: to those of every managed table).
 */
Datum
pa_plan_partitions(PG_FUNCTION_ARGS)
{
	PlanWork	work = {(ReturnSetInfo *) fcinfo->resultinfo, NULL, 0};
	ListCell   *cell;

	if (PG_ARGISNULL(1) || TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(1)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"at\" must be a finite timestamp")));
	work.at = PG_GETARG_TIMESTAMPTZ(1);

	InitMaterializedSRF(fcinfo, 0);
	if (!PG_ARGISNULL(0))
	{
		plan_table(work.result, pa_policy_or_error(PG_GETARG_OID(0)), work.at);
		PG_RETURN_NULL();
	}

	foreach(cell, pa_policies(InvalidOid))
	{
		ErrorData  *error;

		work.policy = lfirst(cell);
		if (!pa_try(plan_work, &work, &error))
			pa_warn_of_table(work.policy, error);
	}

	PG_RETURN_NULL();
}
