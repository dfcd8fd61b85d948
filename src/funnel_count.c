/*
 * funnel_count.c
 *		funnel(): how many users take which steps, for each value of a property.
 *
 * A query groups the events by user (funnel_users.c); what it tells of each user is counted here.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "funcapi.h"
#include "funnel.h"
#include "query.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_funnel);

typedef struct ValueKey
{
	uint32		hash;
	uint32		length;
	const char *bytes;
} ValueKey;

/* A value, and how many users reach each step with it. */
typedef struct ValueCount
{
	ValueKey	key;
	int64	   *users;
	char		status;			/* for simplehash */
} ValueCount;

#define SH_PREFIX values
#define SH_ELEMENT_TYPE ValueCount
#define SH_KEY_TYPE ValueKey
#define SH_KEY key
#define SH_HASH_KEY(table, key) ((key).hash)
#define SH_EQUAL(table, a, b) ((a).hash == (b).hash && (a).length == (b).length && memcmp((a).bytes, (b).bytes, (a).length) == 0)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Takes what is told of users, and counts. */
typedef struct Counter
{
	DestReceiver public;
	MemoryContext context;
	values_hash *values;
	int			n_steps;
} Counter;

/*
 * count_value counts a user who has reached steps with a value.
 */
static void
count_value(Counter *counter, const PaUserValue *told, const char *bytes)
{
	ValueKey	key = {told->hash, told->length, bytes};
	ValueCount *count;
	bool		is_known;

	count = values_insert(counter->values, key, &is_known);
	if (!is_known)
	{
		char	   *copy = MemoryContextAlloc(counter->context, told->length);

		memcpy(copy, bytes, told->length);
		count->key.bytes = copy;
		count->users = MemoryContextAllocZero(counter->context, counter->n_steps * sizeof(int64));
	}

	for (int i = 0; i < counter->n_steps; i++)
		count->users[i] += told->steps >> i & 1;
}

/*
 * count_user counts a user with all of their values.
 */
static bool
count_user(TupleTableSlot *slot, DestReceiver *self)
{
	Counter    *counter = (Counter *) self;
	bool		isnull;
	Datum		datum = slot_getattr(slot, 1, &isnull);
	bytea	   *bytes = DatumGetByteaPP(datum);
	const char *place = VARDATA_ANY(bytes);
	const char *end = place + VARSIZE_ANY_EXHDR(bytes);

	Assert(!isnull);
	while (place < end)
	{
		PaUserValue told;

		memcpy(&told, place, sizeof(told));
		place += sizeof(told);
		count_value(counter, &told, place);
		place += told.length;
	}
	if ((Pointer) bytes != DatumGetPointer(datum))
		pfree(bytes);

	return true;
}

static void
start_counting(DestReceiver *self, int operation, TupleDesc descriptor)
{
}

static void
end_counting(DestReceiver *self)
{
}

/*
 * add_argument makes an argument of funnel() the next parameter of a query.
 */
static void
add_argument(PaParameters *parameters, FunctionCallInfo fcinfo, int argument, Oid type)
{
	pa_add_parameter(parameters, type, PG_GETARG_DATUM(argument));
	if (PG_ARGISNULL(argument))
		parameters->nulls[parameters->count - 1] = 'n';
}

/*
 * last_time is when the last window that may open ends; its own moment is not inside.
 */
static TimestampTz
last_time(const PaFunnelTerms *terms)
{
	TimestampTz result;

	if (TIMESTAMP_NOT_FINITE(terms->to_time))
		return terms->to_time;
	if (pg_add_s64_overflow(terms->to_time, terms->within, &result) || !IS_VALID_TIMESTAMP(result))
		return DT_NOEND;

	return result;
}

/*
 * count_users reads the events and counts.
 *
 * OFFSET 0 makes the planner compute the value before the aggregation, which may have to write its input to disk; all
 * properties would be many times as much.
 */
static void
count_users(FunctionCallInfo fcinfo, const PaFunnelTerms *terms, Counter *counter)
{
	PaParameters parameters = {0};
	StringInfoData sql;

	add_argument(&parameters, fcinfo, PA_ARG_STEPS, TEXTARRAYOID);
	add_argument(&parameters, fcinfo, PA_ARG_WITHIN, INTERVALOID);
	add_argument(&parameters, fcinfo, PA_ARG_BY, TEXTOID);
	add_argument(&parameters, fcinfo, PA_ARG_STRICT, BOOLOID);
	add_argument(&parameters, fcinfo, PA_ARG_FROM_TIME, TIMESTAMPTZOID);
	add_argument(&parameters, fcinfo, PA_ARG_TO_TIME, TIMESTAMPTZOID);
	add_argument(&parameters, fcinfo, PA_ARG_STRICTLY_AFTER, BOOLOID);
	pa_add_parameter(&parameters, TIMESTAMPTZOID, TimestampTzGetDatum(last_time(terms)));

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT prod_analytics.funnel_of_user($1, $2, e.value, $4, $5, $6, $7, e.event_time, e.event_type)"
					 " FROM (SELECT e.user_id, e.event_time, e.event_type, %s AS value"
					 " FROM prod_analytics.events e"
					 " WHERE e.event_type = ANY ($1) AND e.user_id IS NOT NULL",
					 PG_ARGISNULL(PA_ARG_BY) ? "''" : "e.event_props ->> $3");
	if (!PG_ARGISNULL(PA_ARG_FROM_TIME))
		appendStringInfoString(&sql, " AND e.event_time >= $5");
	if (!PG_ARGISNULL(PA_ARG_TO_TIME))
		appendStringInfoString(&sql, " AND e.event_time < $8");
	appendStringInfoString(&sql, " OFFSET bigint '0') e GROUP BY e.user_id");

	SPI_connect();
	pa_read_into(&counter->public, sql.data, &parameters);
	SPI_finish();
}

/*
 * compare_counts orders values by their bytes, for the result.
 */
static int
compare_counts(const void *a, const void *b)
{
	const ValueKey *first = &(*(ValueCount *const *) a)->key;
	const ValueKey *second = &(*(ValueCount *const *) b)->key;
	int			result = memcmp(first->bytes, second->bytes, Min(first->length, second->length));

	if (result != 0)
		return result;

	return first->length < second->length ? -1 : first->length > second->length;
}

/*
 * percentage is how many percent of "whole" a part is, to 2 places.
 */
static Datum
percentage(int64 part, int64 whole)
{
	Datum		hundred = NumericGetDatum(int64_to_numeric(100));
	Datum		product = DirectFunctionCall2(numeric_mul, NumericGetDatum(int64_to_numeric(part)), hundred);
	Datum		quotient = DirectFunctionCall2(numeric_div, product, NumericGetDatum(int64_to_numeric(whole)));

	return DirectFunctionCall2(numeric_round, quotient, Int32GetDatum(2));
}

/*
 * put_value adds the steps of a value to the function's result.
 */
static void
put_value(ReturnSetInfo *result, const ValueCount *count, bool has_value, Datum *steps, int n_steps)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	nulls[0] = !has_value;
	if (has_value)
		values[0] = PointerGetDatum(cstring_to_text_with_len(count->key.bytes, count->key.length));
	for (int i = 0; i < n_steps; i++)
	{
		values[1] = Int32GetDatum(i + 1);
		values[2] = steps[i];
		values[3] = Int64GetDatum(count->users[i]);
		nulls[4] = (count->users[0] == 0);
		if (!nulls[4])
			values[4] = percentage(count->users[i], count->users[0]);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

/*
 * put_counts makes what was counted the function's result.
 *
 * Without a property there is one value, also when nobody did anything.
 */
static void
put_counts(FunctionCallInfo fcinfo, const PaFunnelTerms *terms, Counter *counter)
{
	bool		has_value = !PG_ARGISNULL(PA_ARG_BY);
	ValueCount **counts;
	ValueCount *count;
	values_iterator iterator;
	Datum	   *steps;
	int64		n = 0;
	MemoryContext row_context;
	MemoryContext caller_context;

	if (!has_value && counter->values->members == 0)
	{
		PaUserValue nobody = {0};

		count_value(counter, &nobody, "");
	}

	counts = palloc_extended(counter->values->members * sizeof(ValueCount *), MCXT_ALLOC_HUGE);
	values_start_iterate(counter->values, &iterator);
	while ((count = values_iterate(counter->values, &iterator)) != NULL)
		counts[n++] = count;
	qsort(counts, n, sizeof(ValueCount *), compare_counts);

	deconstruct_array(terms->steps, TEXTOID, -1, false, TYPALIGN_INT, &steps, NULL, &counter->n_steps);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "rows of a funnel", ALLOCSET_DEFAULT_SIZES);
	caller_context = MemoryContextSwitchTo(row_context);
	for (int64 i = 0; i < n; i++)
	{
		put_value((ReturnSetInfo *) fcinfo->resultinfo, counts[i], has_value, steps, counter->n_steps);
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(caller_context);
}

/*
 * check_times refuses a range the wrong way round.  One of no length is a range without any moment.
 */
static void
check_times(const PaFunnelTerms *terms)
{
	if (terms->from_time > terms->to_time)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_time must not be after to_time"),
				 errhint("Give the earlier time first, or NULL for no bound.")));
}

/*
 * funnel(steps, within, by, strict, from_time, to_time, strictly_after) counts the users who reach each step, for
 * each value of the property "by".
 */
Datum
pa_funnel(PG_FUNCTION_ARGS)
{
	Counter		counter = {{count_user, start_counting, end_counting, end_counting, DestTuplestore}};
	PaFunnelTerms terms;

	pa_read_terms(fcinfo, 0, &terms);
	check_times(&terms);
	counter.n_steps = pa_make_funnel(&terms)->n_steps;
	counter.context = CurrentMemoryContext;
	counter.values = values_create(CurrentMemoryContext, 256, NULL);

	InitMaterializedSRF(fcinfo, 0);
	count_users(fcinfo, &terms, &counter);
	put_counts(fcinfo, &terms, &counter);

	PG_RETURN_NULL();
}
