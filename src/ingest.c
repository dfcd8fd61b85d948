/*
 * ingest.c
 *		A run of ingestion: from staging_events to events.
 *
 * The rows of a batch are deleted from staging chunk by chunk, so that memory does not grow with the
 * batch.  What is wrong with a row, and whether it is there already, is found out for a whole chunk; then its
 * rows go to events or to quarantined_events.  All is one transaction, so a row is always in exactly one
 * place.
 *
 * Rows whose partition is missing come last: making it takes locks on users and on the default
 * partition that are held until the transaction ends.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "fmgr.h"
#include "guard.h"
#include "ingest.h"
#include "job.h"
#include "miscadmin.h"
#include "partitioning/partdesc.h"
#include "query.h"
#include "settings.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define JOB_NAME PA_INGEST_JOB

/* A chunk is full when it has so many rows, or so many bytes. */
#define CHUNK_ROWS 50000
#define CHUNK_BYTES (32 * 1024 * 1024)

PG_FUNCTION_INFO_V1(pa_etl_ingest_events);

/*
 * Where in staging this session took the last row.  The next run looks from there on first, since what is before is
 * mostly dead rows, which a scan has to pass by until VACUUM removes them.
 */
static BlockNumber last_block = 0;

/* Where the rows that the executor delivers go. */
typedef struct ChunkReceiver
{
	DestReceiver pub;
	Ingest	   *ingest;
	Chunk	   *chunk;
} ChunkReceiver;

/*
 * start_chunk makes an empty chunk.
 */
static void
start_chunk(Chunk *chunk)
{
	chunk->context = AllocSetContextCreate(CurrentMemoryContext, "chunk of staged events", ALLOCSET_DEFAULT_SIZES);
	chunk->count = 0;
	chunk->rows = MemoryContextAlloc(chunk->context, sizeof(StagedRow) * CHUNK_ROWS);
}

/*
 * end_chunk forgets its rows.
 */
static void
end_chunk(Chunk *chunk)
{
	MemoryContextDelete(chunk->context);
}

/*
 * is_full tells whether a chunk has enough rows.
 */
static bool
is_full(Chunk *chunk)
{
	return chunk->count == CHUNK_ROWS || MemoryContextMemAllocated(chunk->context, false) > CHUNK_BYTES;
}

/*
 * add_row copies a row into a chunk.
 */
static void
add_row(Chunk *chunk, TupleTableSlot *slot)
{
	MemoryContext caller_context = MemoryContextSwitchTo(chunk->context);
	StagedRow  *row = &chunk->rows[chunk->count++];

	slot_getallattrs(slot);
	memset(row, 0, sizeof(*row));
	for (int i = 0; i < STAGED_COLUMNS; i++)
	{
		row->nulls[i] = slot->tts_isnull[i];
		row->values[i] = slot->tts_values[i];
		if (!row->nulls[i] && i == STAGED_EVENT_TYPE)
			row->values[i] = PointerGetDatum(DatumGetTextPCopy(row->values[i]));
		else if (!row->nulls[i] && i == STAGED_PAYLOAD)
			row->values[i] = PointerGetDatum(DatumGetJsonbPCopy(row->values[i]));
	}
	MemoryContextSwitchTo(caller_context);
}

/*
 * receive_row is called by the executor for each row that it has deleted.
 */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	ChunkReceiver *receiver = (ChunkReceiver *) self;
	bool		isnull;

	add_row(receiver->chunk, slot);
	receiver->ingest->counts.taken++;
	last_block = ItemPointerGetBlockNumber((ItemPointer) DatumGetPointer(slot_getattr(slot, STAGED_COLUMNS + 1, &isnull)));

	return !is_full(receiver->chunk);
}

static void
startup(DestReceiver *self, int operation, TupleDesc descriptor)
{
}

static void
shutdown_or_destroy(DestReceiver *self)
{
}

/*
 * staged_descriptor describes staged rows.
 */
static TupleDesc
staged_descriptor(void)
{
	static const Oid types[STAGED_COLUMNS] = {INT8OID, INT8OID, INT8OID, TEXTOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID};
	TupleDesc	descriptor = CreateTemplateTupleDesc(STAGED_COLUMNS);

	for (int i = 0; i < STAGED_COLUMNS; i++)
		TupleDescInitEntry(descriptor, i + 1, NULL, types[i], -1, 0);

	return descriptor;
}

/*
 * check_types makes sure that the rows taken out of staging are what we take them for.
 */
static void
check_types(TupleDesc found)
{
	TupleDesc	expected = staged_descriptor();

	for (int i = 0; i < STAGED_COLUMNS; i++)
	{
		Form_pg_attribute column = TupleDescAttr(found, i);
		Oid			type = TupleDescAttr(expected, i)->atttypid;

		if (column->atttypid != type)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of \"%s.staging_events\" is of type %s",
							NameStr(column->attname), PA_SCHEMA, format_type_be(column->atttypid)),
					 errhint("Make it %s again.", format_type_be(type))));
	}
	FreeTupleDesc(expected);
}

/*
 * start_taking begins to delete rows from staging whose place is on one side of a block: ">=" or "<".  The executor is
 * called for some of them at a time.
 */
static QueryDesc *
start_taking(DestReceiver *receiver, const char *side, BlockNumber block)
{
	char	   *sql = psprintf("DELETE FROM prod_analytics.staging_events WHERE ctid %s '(%u,0)'::tid RETURNING "
							   STAGED_COLUMN_NAMES ", ctid", side, block);
	RawStmt    *statement = linitial_node(RawStmt, pg_parse_query(sql));
	List	   *rewritten = pg_analyze_and_rewrite_fixedparams(statement, sql, NULL, 0, NULL);
	PlannedStmt *plan;
	QueryDesc  *query;

	if (list_length(rewritten) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s.staging_events\" has a rule for DELETE", PA_SCHEMA),
				 errhint("Use a trigger instead.")));

	plan = linitial_node(PlannedStmt, pg_plan_queries(rewritten, sql, 0, NULL));
	PushActiveSnapshot(GetTransactionSnapshot());
	query = CreateQueryDesc(plan, sql, GetActiveSnapshot(), InvalidSnapshot, receiver, NULL, NULL, 0);
	ExecutorStart(query, 0);
	check_types(query->tupDesc);
	PopActiveSnapshot();

	return query;
}

/*
 * take_rows takes the next rows out of staging; false when there are none, or none are wanted.
 */
static bool
take_rows(Ingest *ingest, QueryDesc *query, Chunk *chunk)
{
	int64		wanted = ingest->batch_size - ingest->counts.taken;

	if (wanted > 0)
	{
		PushActiveSnapshot(query->snapshot);
		pa_executor_run(query, wanted);
		PopActiveSnapshot();
	}

	return chunk->count > 0;
}

/*
 * end_taking ends it; triggers on staging_events fire now.
 */
static void
end_taking(QueryDesc *query)
{
	PushActiveSnapshot(query->snapshot);
	ExecutorFinish(query);
	PopActiveSnapshot();
	ExecutorEnd(query);
	FreeQueryDesc(query);
}

/*
 * show_progress tells in job_progress how far the run is.
 */
static void
show_progress(Ingest *ingest)
{
	IngestCounts *counts = &ingest->counts;

	pa_job_progress(ingest->staging, 0, counts->inserted + counts->duplicates + counts->quarantined, ingest->expected);
}

/*
 * fill_in_arrival gives rows the time of the run that do not say when they arrived.
 */
static void
fill_in_arrival(Ingest *ingest, Chunk *chunk)
{
	for (int i = 0; i < chunk->count; i++)
	{
		StagedRow  *row = &chunk->rows[i];

		if (row->nulls[STAGED_RECEIVED_AT])
			row->values[STAGED_RECEIVED_AT] = TimestampTzGetDatum(ingest->now);
		row->nulls[STAGED_RECEIVED_AT] = false;
	}
}

/*
 * find_leaves finds the partition of each row that can become an event.
 *
 * Somebody may make or detach a partition at any time; all that concerns a chunk goes by one descriptor, which
 * lives for as long as the table is open.
 */
static void
find_leaves(Ingest *ingest, Chunk *chunk)
{
	ingest->partitions = RelationGetPartitionDesc(ingest->events, true);
	for (int i = 0; i < chunk->count; i++)
		if (chunk->rows[i].fate == ROW_EVENT)
			chunk->rows[i].leaf = pa_leaf_of(ingest, DatumGetTimestampTz(chunk->rows[i].values[STAGED_EVENT_TIME]));
}

/*
 * set_homeless_aside keeps the rows whose partition is missing for later.  Without a policy none will be
 * made.
 */
static void
set_homeless_aside(Ingest *ingest, Chunk *chunk)
{
	TupleDesc	descriptor = staged_descriptor();

	if (ingest->policy == NULL)
		return;

	for (int i = 0; i < chunk->count; i++)
	{
		StagedRow  *row = &chunk->rows[i];

		if (row->fate != ROW_EVENT || OidIsValid(row->leaf))
			continue;
		tuplestore_putvalues(ingest->homeless, descriptor, row->values, row->nulls);
		row->fate = ROW_LATER;
	}
}

/*
 * settle_rows sends those rows of a chunk where they belong that can become events.
 */
static void
settle_rows(Ingest *ingest, Chunk *chunk)
{
	pa_find_duplicates(ingest, chunk);
	for (int i = 0; i < chunk->count; i++)
		if (chunk->rows[i].fate == ROW_DUPLICATE)
			ingest->counts.duplicates++;
	pa_insert_rows(ingest, chunk);
	pa_quarantine_rows(ingest, chunk);
	ingest->counts.chunks++;
	show_progress(ingest);
}

/*
 * settle_chunk settles what does not need a new partition of some rows of the batch.
 */
static void
settle_chunk(Ingest *ingest, Chunk *chunk)
{
	fill_in_arrival(ingest, chunk);
	pa_check_rows(ingest, chunk);
	find_leaves(ingest, chunk);
	set_homeless_aside(ingest, chunk);
	settle_rows(ingest, chunk);
}

/*
 * settle_side takes the rows of the batch on one side of a block out of staging, and settles them.
 */
static void
settle_side(Ingest *ingest, const char *side, BlockNumber block)
{
	ChunkReceiver receiver = {{receive_row, startup, shutdown_or_destroy, shutdown_or_destroy, DestNone}, ingest};
	QueryDesc  *query = start_taking(&receiver.pub, side, block);
	bool		more = true;

	while (more)
	{
		Chunk		chunk;

		start_chunk(&chunk);
		receiver.chunk = &chunk;
		more = take_rows(ingest, query, &chunk);
		if (more)
			settle_chunk(ingest, &chunk);
		end_chunk(&chunk);
	}
	end_taking(query);
}

/*
 * settle_batch takes the batch out of staging and settles what does not need a new partition.
 */
static void
settle_batch(Ingest *ingest)
{
	BlockNumber block = last_block;

	settle_side(ingest, ">=", block);
	if (block > 0 && ingest->counts.taken < ingest->batch_size)
		settle_side(ingest, "<", block);
}

/*
 * next_homeless_chunk reads rows whose partition was missing; false when there are no more.
 */
static bool
next_homeless_chunk(Ingest *ingest, TupleTableSlot *slot, Chunk *chunk)
{
	while (!is_full(chunk) && tuplestore_gettupleslot(ingest->homeless, true, false, slot))
		add_row(chunk, slot);

	return chunk->count > 0;
}

/*
 * is_in_ranges tells whether an instant is in one of some ranges.
 */
static bool
is_in_ranges(List *ranges, TimestampTz at)
{
	ListCell   *cell;

	foreach(cell, ranges)
	{
		PaRange    *range = lfirst(cell);

		if (at >= range->lower && at < range->upper)
			return true;
	}

	return false;
}

/*
 * needed_partitions lists the ranges of the partitions that the homeless rows need, as many as a
 * transaction may make.
 */
static List *
needed_partitions(Ingest *ingest, TupleTableSlot *slot)
{
	List	   *needed = NIL;

	ingest->partitions = RelationGetPartitionDesc(ingest->events, true);
	while (list_length(needed) < PA_MAX_PARTITIONS_PER_CALL && tuplestore_gettupleslot(ingest->homeless, true, false, slot))
	{
		bool		isnull;
		TimestampTz at = DatumGetTimestampTz(slot_getattr(slot, STAGED_EVENT_TIME + 1, &isnull));

		CHECK_FOR_INTERRUPTS();
		if (!OidIsValid(pa_leaf_of(ingest, at)) && !is_in_ranges(needed, at))
		{
			PaRange    *range = palloc(sizeof(PaRange));

			*range = pa_missing_slot_at(ingest->policy, at);
			needed = lappend(needed, range);
		}
	}
	tuplestore_rescan(ingest->homeless);

	return needed;
}

/* Partitions to make for homeless rows. */
typedef struct Needed
{
	Ingest	   *ingest;
	TupleTableSlot *slot;
	List	   *ranges;
} Needed;

/*
 * make_needed makes them.  Which ones are missing is found out once nobody else can make partitions.  ALTER
 * TABLE wants nobody in this session to have the table open.
 */
static void
make_needed(void *argument)
{
	Needed	   *needed = argument;
	Ingest	   *ingest = needed->ingest;

	pa_lock_partitioning_soon(ingest->policy);
	ingest->events = table_open(ingest->policy->parent, NoLock);
	needed->ranges = needed_partitions(ingest, needed->slot);
	table_close(ingest->events, NoLock);
	(void) pa_make_partitions(ingest->policy, needed->ranges, NULL);
}

/*
 * make_partitions makes the partitions that the homeless rows need.
 *
 * When that fails, because a long query on the table keeps the lock, or a detached partition the name, the
 * rows that need a new partition wait for another run, and the others go in.
 */
static void
make_partitions(Ingest *ingest, TupleTableSlot *slot)
{
	Needed		needed = {ingest, slot};
	Oid			events = RelationGetRelid(ingest->events);
	ErrorData  *error;
	bool		done;

	table_close(ingest->events, NoLock);
	done = pa_try(make_needed, &needed, &error);
	ingest->events = table_open(events, NoLock);
	if (done)
	{
		ingest->partitions_made = list_length(needed.ranges);
		return;
	}

	tuplestore_rescan(ingest->homeless);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("events without a partition remain staged: %s", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0));
}

/*
 * settle_homeless makes partitions for the rows that have none, and puts back into staging those that have
 * none even then.
 */
static void
settle_homeless(Ingest *ingest)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(staged_descriptor(), &TTSOpsMinimalTuple);
	bool		more = true;

	make_partitions(ingest, slot);
	while (more)
	{
		Chunk		chunk;

		start_chunk(&chunk);
		more = next_homeless_chunk(ingest, slot, &chunk);
		if (more)
		{
			find_leaves(ingest, &chunk);
			pa_put_back_rows(ingest, &chunk);
			settle_rows(ingest, &chunk);
		}
		end_chunk(&chunk);
	}
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * id_sequence is the sequence of event_id, or InvalidOid.
 */
static Oid
id_sequence(void)
{
	bool		isnull;
	Datum		sequence;

	pa_query("SELECT pg_get_serial_sequence('prod_analytics.events', 'event_id')::regclass::oid", NULL, SPI_OK_SELECT);
	sequence = pa_result(0, 1, &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(sequence);
}

/*
 * expected_rows estimates how many rows the run will find.
 */
static int64
expected_rows(Ingest *ingest)
{
	int64		staged = DatumGetInt64(DirectFunctionCall1(pg_stat_get_live_tuples, ObjectIdGetDatum(ingest->staging)));

	return Min(staged, ingest->batch_size);
}

/*
 * check_partitioning makes sure that the partition of an event depends on its time alone.
 */
static void
check_partitioning(Relation events)
{
	PartitionKey key = events->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ? RelationGetPartitionKey(events) : NULL;

	if (key == NULL || key->strategy != PARTITION_STRATEGY_RANGE || key->partnatts != 1 ||
		key->partattrs[0] != get_attnum(RelationGetRelid(events), "event_time") || key->parttypid[0] != TIMESTAMPTZOID)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s.events\" is not partitioned by range of event_time", PA_SCHEMA)));
}

/*
 * ingest_batch is the work of a run.  The lock on events keeps its partitions where they are.
 */
static void
ingest_batch(void *argument)
{
	Ingest	   *ingest = argument;
	Oid			events = pa_table("events");

	ingest->now = GetCurrentTimestamp();
	ingest->events = table_open(events, RowExclusiveLock);
	check_partitioning(ingest->events);
	ingest->users = pa_table("users");
	ingest->staging = pa_table("staging_events");
	ingest->expected = expected_rows(ingest);
	ingest->sequence = id_sequence();
	ingest->policy = pa_policy(events);
	ingest->expiry = ingest->policy ? pa_expiry(ingest->policy, ingest->now) : DT_NOBEGIN;
	ingest->window = pa_span_microseconds(pa_dedupe_window);
	ingest->counts.oldest = DT_NOEND;
	ingest->counts.newest = DT_NOBEGIN;
	ingest->counts.first_arrival = DT_NOEND;
	ingest->homeless = tuplestore_begin_heap(false, false, work_mem);

	show_progress(ingest);
	settle_batch(ingest);
	if (tuplestore_tuple_count(ingest->homeless) > 0)
		settle_homeless(ingest);

	tuplestore_end(ingest->homeless);
	table_close(ingest->events, NoLock);
	pa_job_progress_end();
}

/*
 * add_reasons appends how many rows were quarantined for which reason.
 */
static void
add_reasons(StringInfo text, IngestCounts *counts)
{
	const char *separator = "";

	appendStringInfoString(text, ", \"quarantined_for\": {");
	for (int code = 0; code < REASON_CODES; code++)
	{
		if (counts->quarantined_for[code] == 0)
			continue;
		appendStringInfo(text, "%s\"%s\": " INT64_FORMAT, separator, pa_reason_name(code), counts->quarantined_for[code]);
		separator = ", ";
	}
	appendStringInfoChar(text, '}');
}

/*
 * success_details is what a run that succeeded tells besides the number of rows.
 */
static Datum
success_details(Ingest *ingest)
{
	IngestCounts *counts = &ingest->counts;
	double		seconds = Max(GetCurrentTimestamp() - ingest->now, 1) / 1e6;
	int			guc_level = pa_utc_enter();
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "{\"inserted\": " INT64_FORMAT ", \"duplicates\": " INT64_FORMAT ", \"quarantined\": " INT64_FORMAT
					 ", \"deferred\": " INT64_FORMAT ", \"warned\": " INT64_FORMAT ", \"batches\": " INT64_FORMAT
					 ", \"partitions_created\": %d",
					 counts->inserted, counts->duplicates, counts->quarantined, counts->deferred, counts->warned,
					 counts->chunks, ingest->partitions_made);
	add_reasons(&text, counts);
	if (counts->taken > 0)
		appendStringInfo(&text, ", \"rows_per_second\": %.0f", (counts->taken - counts->deferred) / seconds);
	if (counts->inserted > 0)
		appendStringInfo(&text, ", \"oldest\": \"%s\", \"newest\": \"%s\"",
						 pa_instant_text(counts->oldest), pa_instant_text(counts->newest));
	if (!TIMESTAMP_NOT_FINITE(counts->first_arrival))
		appendStringInfo(&text, ", \"lag_seconds\": %.3f", Max(GetCurrentTimestamp() - counts->first_arrival, 0) / 1e6);
	appendStringInfoChar(&text, '}');
	pa_utc_leave(guc_level);

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data));
}

/*
 * run_ingest does a run from start to end and returns its result.
 */
static Datum
run_ingest(Ingest *ingest)
{
	ErrorData  *error;

	if (!pa_job_lock(JOB_NAME))
		return pa_job_skip(JOB_NAME);

	ingest->job_id = pa_job_start(JOB_NAME);
	if (!pa_try(ingest_batch, ingest, &error))
		return pa_job_fail(ingest->job_id, JOB_NAME, error);

	return pa_job_end(ingest->job_id, PA_JOB_SUCCESS,
					  ingest->counts.inserted + ingest->counts.duplicates + ingest->counts.quarantined,
					  success_details(ingest));
}

/*
 * etl_ingest_events(batch_size integer) moves at most batch_size rows from staging_events to
 * events.
 */
Datum
pa_etl_ingest_events(PG_FUNCTION_ARGS)
{
	Ingest		ingest = {0};
	PaGuard		guard;
	Datum		result;

	pa_forbid_read_only("etl_ingest_events()");

	if (PG_ARGISNULL(0) || PG_GETARG_INT32(0) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_size must be a positive number")));

	ingest.batch_size = PG_GETARG_INT32(0);

	pa_guard_enter(&guard, pa_owner(pa_table("events")));
	SPI_connect();
	result = run_ingest(&ingest);
	SPI_finish();
	pa_guard_leave(&guard);

	PG_RETURN_DATUM(result);
}
