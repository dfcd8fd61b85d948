/*
 * housekeeping.c
 *		Bounding what only grows: the log of runs and other history, and what was set aside.
 *
 * The rows of a store are numbered in the order in which they were made.  A batch goes along the numbers from where the
 * one before it ended: looking again from the front would step over all that has just been deleted, as long as nobody
 * has vacuumed it.
 */
#include "prod_analytics.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guard.h"
#include "query.h"
#include "settings.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(pa_purge_batch);
PG_FUNCTION_INFO_V1(pa_purge_runs);

/* The rows that a batch looks at. */
#define BATCH_ROWS 10000

/* What is bounded, by which setting. */
typedef struct Store
{
	const char *table;
	const char *number;			/* its primary key */
	const char *made_at;
	const char *may_go;			/* a condition */
	char	  **retention;		/* empty: rows are kept for ever */
} Store;

static const Store stores[] = {
	{"etl_jobs", "job_id", "started_at", "status IS DISTINCT FROM 'RUNNING'", &pa_history_retention},
	{"quality_results", "result_id", "checked_at", "true", &pa_history_retention},
	{"captured_plans", "plan_id", "captured_at", "true", &pa_history_retention},
	{"quarantined_events", "quarantine_id", "quarantined_at", "true", &pa_quarantine_retention},
	{"quarantined_users", "quarantine_id", "quarantined_at", "true", &pa_quarantine_retention},
};

/* A batch. */
typedef struct Batch
{
	const Store *store;
	int64		after;			/* the number that it begins after, then the one that it ends with */
	bool		is_last;
	int64		deleted;
} Batch;

/*
 * find_store looks a store up by its name.
 */
static const Store *
find_store(const char *name)
{
	for (int i = 0; i < (int) lengthof(stores); i++)
		if (strcmp(stores[i].table, name) == 0)
			return &stores[i];

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is no table of history", name),
			 errhint("Call %s.purge_history().", PA_SCHEMA)));
}

/*
 * purge does a batch.  It is the last one when it comes to the end of the store, or to where no row is old.
 *
 * The end is looked up first, so that what is deleted is a range of the primary key, whatever the planner knows.
 */
static void
purge(void *argument)
{
	Batch	   *batch = argument;
	const Store *store = batch->store;
	PaParameters parameters = {0};
	bool		is_empty;
	bool		isnull;
	Datum		end;

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(batch->after));
	pa_add_parameter(&parameters, TIMESTAMPTZOID,
					 TimestampTzGetDatum(GetCurrentTimestamp() - pa_span_microseconds(*store->retention)));
	pa_query(psprintf("SELECT max(number), count(*) < %d OR count(*) FILTER (WHERE made_at < $2) = 0 FROM"
					  " (SELECT %s AS number, %s AS made_at FROM %s.%s WHERE %s > $1 ORDER BY %s LIMIT %d) batch",
					  BATCH_ROWS, store->number, store->made_at, PA_SCHEMA, store->table, store->number, store->number, BATCH_ROWS),
			 &parameters, SPI_OK_SELECT);
	batch->is_last = DatumGetBool(pa_result(0, 2, &isnull));
	end = pa_result(0, 1, &is_empty);
	if (is_empty)
		return;

	pa_add_parameter(&parameters, INT8OID, end);
	batch->deleted = pa_query(psprintf("DELETE FROM %s.%s WHERE %s > $1 AND %s <= $3 AND %s < $2 AND %s",
									   PA_SCHEMA, store->table, store->number, store->number, store->made_at, store->may_go),
							  &parameters, SPI_OK_DELETE);
	batch->after = DatumGetInt64(end);
}

/*
 * purge_batch does the batch of a store that begins after a number.
 */
static Batch
purge_batch(const Store *store, int64 after)
{
	Batch		batch = {store, after, true, 0};

	if ((*store->retention)[0] != '\0')
		pa_do_as_owner(purge, &batch);

	return batch;
}

/*
 * purge_batch(store text, after bigint, OUT reached bigint, OUT deleted bigint) deletes what is too old of the next rows
 * of a store.
 */
Datum
pa_purge_batch(PG_FUNCTION_ARGS)
{
	const Store *store = find_store(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	Batch		batch;
	TupleDesc	descriptor;
	Datum		values[2];
	bool		nulls[2] = {0};

	pa_forbid_read_only("purge_batch()");
	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "purge_batch() returns no row");
	batch = purge_batch(store, PG_GETARG_INT64(1));
	values[0] = Int64GetDatum(batch.after);
	nulls[0] = batch.is_last;
	values[1] = Int64GetDatum(batch.deleted);

	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls)));
}

/*
 * purge_runs(so_far bigint) is what version 0.1.0 calls: it deletes the first rows of each store, and returns so_far and
 * how many they were, NULL when there are none.
 */
Datum
pa_purge_runs(PG_FUNCTION_ARGS)
{
	int64		deleted = 0;

	pa_forbid_read_only("purge_runs()");
	for (int i = 0; i < (int) lengthof(stores); i++)
		deleted += purge_batch(&stores[i], PG_INT64_MIN).deleted;
	if (deleted == 0)
		PG_RETURN_NULL();

	PG_RETURN_INT64(PG_GETARG_INT64(0) + deleted);
}
