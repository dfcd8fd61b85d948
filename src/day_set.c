/*
 * day_set.c
 *		Sets of days, for counting users who were active on some of them.
 *
 * A set has a bit for each day, or week, or month, of a range: one for a user takes a few bytes, where rows of users
 * and days would take a hundred times as much, and a sort.  The sets of a query have the same length.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/varbit.h"

PG_FUNCTION_INFO_V1(pa_day_set_add);
PG_FUNCTION_INFO_V1(pa_day_set_combine);
PG_FUNCTION_INFO_V1(pa_day_set_spread);
PG_FUNCTION_INFO_V1(pa_day_counts_add);
PG_FUNCTION_INFO_V1(pa_day_counts_array);

typedef struct DayCounts
{
	int			n_days;
	int64		counts[FLEXIBLE_ARRAY_MEMBER];
} DayCounts;

/*
 * require_aggregate refuses to change what is not the state of an aggregate.
 */
static void
require_aggregate(FunctionCallInfo fcinfo, MemoryContext *context)
{
	if (!AggCheckCallContext(fcinfo, context))
		elog(ERROR, "function %u called outside of an aggregate", fcinfo->flinfo->fn_oid);
}

/*
 * empty_set is a set without days.
 */
static VarBit *
empty_set(int n_days)
{
	VarBit	   *set = palloc0(VARBITTOTALLEN(n_days));

	SET_VARSIZE(set, VARBITTOTALLEN(n_days));
	VARBITLEN(set) = n_days;

	return set;
}

static inline void
add_day(VarBit *set, int day)
{
	VARBITS(set)[day / BITS_PER_BYTE] |= HIGHBIT >> (day % BITS_PER_BYTE);
}

static inline bool
has_day(const VarBit *set, int day)
{
	return (VARBITS(set)[day / BITS_PER_BYTE] & (HIGHBIT >> (day % BITS_PER_BYTE))) != 0;
}

/*
 * day_set_add(state, day, n_days) adds a day, counted from 0, to a set of n_days.
 */
Datum
pa_day_set_add(PG_FUNCTION_ARGS)
{
	VarBit	   *set;
	int32		day;

	require_aggregate(fcinfo, NULL);
	if (PG_ARGISNULL(2))
		elog(ERROR, "a set of days has no length");
	set = PG_ARGISNULL(0) ? empty_set(PG_GETARG_INT32(2)) : PG_GETARG_VARBIT_P(0);
	if (PG_ARGISNULL(1))
		PG_RETURN_VARBIT_P(set);

	day = PG_GETARG_INT32(1);
	if (day < 0 || day >= VARBITLEN(set))
		elog(ERROR, "day %d is not in a set of %d days", day, VARBITLEN(set));
	add_day(set, day);

	PG_RETURN_VARBIT_P(set);
}

/*
 * day_set_combine(state, other) adds the days of another set.
 */
Datum
pa_day_set_combine(PG_FUNCTION_ARGS)
{
	VarBit	   *set = PG_GETARG_VARBIT_P(0);
	const VarBit *other = PG_GETARG_VARBIT_P(1);

	require_aggregate(fcinfo, NULL);
	if (VARBITLEN(set) != VARBITLEN(other))
		elog(ERROR, "sets of %d and %d days", VARBITLEN(set), VARBITLEN(other));

	for (int i = 0; i < (int) VARBITBYTES(set); i++)
		VARBITS(set)[i] |= VARBITS(other)[i];

	PG_RETURN_VARBIT_P(set);
}

/*
 * day_set_spread(days, width) is the set of days on which, or on one of the width - 1 days before, there was one of
 * the set.
 */
Datum
pa_day_set_spread(PG_FUNCTION_ARGS)
{
	const VarBit *set = PG_GETARG_VARBIT_P(0);
	int32		width = PG_GETARG_INT32(1);
	VarBit	   *result = empty_set(VARBITLEN(set));
	int32		left = 0;

	for (int day = 0; day < VARBITLEN(set); day++)
	{
		left = has_day(set, day) ? width : left - 1;
		if (left > 0)
			add_day(result, day);
	}

	PG_RETURN_VARBIT_P(result);
}

/*
 * day_counts_add(state, days) counts a set.
 */
Datum
pa_day_counts_add(PG_FUNCTION_ARGS)
{
	DayCounts  *counts = PG_ARGISNULL(0) ? NULL : (DayCounts *) PG_GETARG_POINTER(0);
	const VarBit *set;
	MemoryContext context;

	require_aggregate(fcinfo, &context);
	if (PG_ARGISNULL(1))
	{
		if (counts == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(counts);
	}

	set = PG_GETARG_VARBIT_P(1);
	if (counts == NULL)
	{
		counts = MemoryContextAllocZero(context, offsetof(DayCounts, counts) + VARBITLEN(set) * sizeof(int64));
		counts->n_days = VARBITLEN(set);
	}
	if (counts->n_days != VARBITLEN(set))
		elog(ERROR, "sets of %d and %d days", counts->n_days, VARBITLEN(set));

	for (int day = 0; day < counts->n_days; day++)
		counts->counts[day] += has_day(set, day);

	PG_RETURN_POINTER(counts);
}

/*
 * day_counts_array(state) is the result of day_counts(): an element for each day.
 */
Datum
pa_day_counts_array(PG_FUNCTION_ARGS)
{
	DayCounts  *counts = (DayCounts *) PG_GETARG_POINTER(0);
	Datum	   *elements;

	require_aggregate(fcinfo, NULL);
	elements = palloc(counts->n_days * sizeof(Datum));
	for (int day = 0; day < counts->n_days; day++)
		elements[day] = Int64GetDatum(counts->counts[day]);

	PG_RETURN_ARRAYTYPE_P(construct_array(elements, counts->n_days, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
