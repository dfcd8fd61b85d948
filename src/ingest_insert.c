/*
 * ingest_insert.c
 *		Putting the rows of a chunk where they belong: events, quarantined_events, or staging_events again.
 *
 * Events are inserted partition by partition, by ordinary INSERT statements, so that defaults, generated
 * columns, constraints, indexes and the triggers of the partition do what they always do.  Only the
 * trigger that checks the foreign key to users for each row is left out: the users have been locked.
 */
#include "prod_analytics.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "compat.h"
#include "guard.h"
#include "ingest.h"
#include "miscadmin.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "query.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* A chunk's rows as a relation, "batch". */
typedef struct Batch
{
	TupleDesc	descriptor;
	Tuplestorestate *store;
	MemoryContext work_context; /* reset after each row */
	EphemeralNamedRelationData relation;
} Batch;

/* Rows to be inserted into a partition, or into events when "is_direct" is false. */
typedef struct Insertion
{
	Ingest	   *ingest;
	Oid			relation;
	bool		is_direct;		/* the relation is a plain partition */
	MemoryContext context;		/* of an attempt */
	int			count;
	StagedRow **rows;
	int64		inserted;
} Insertion;

/* More than a chunk takes, so that it stays in memory. */
#define BATCH_KILOBYTES 131072

/* The columns of the relation "batch": those of staging_events, in their order, and the reasons. */
static const struct
{
	const char *name;
	Oid			type;
}			batch_columns[STAGED_COLUMNS + 1] =
{
	{"event_id", INT8OID},
	{"user_id", INT8OID},
	{"org_id", INT8OID},
	{"event_type", TEXTOID},
	{"payload", JSONBOID},
	{"event_time", TIMESTAMPTZOID},
	{"received_at", TIMESTAMPTZOID},
	{"attempts", INT4OID},
	{"reasons", JSONBOID}
};

/*
 * start_batch makes an empty relation.
 */
static void
start_batch(Batch *batch)
{
	memset(batch, 0, sizeof(*batch));
	batch->descriptor = CreateTemplateTupleDesc(lengthof(batch_columns));
	for (int i = 0; i < (int) lengthof(batch_columns); i++)
		TupleDescInitEntry(batch->descriptor, i + 1, batch_columns[i].name, batch_columns[i].type, -1, 0);
	batch->store = tuplestore_begin_heap(false, false, BATCH_KILOBYTES);
	batch->work_context = AllocSetContextCreate(CurrentMemoryContext, "row of a batch", ALLOCSET_DEFAULT_SIZES);

	batch->relation.md.name = "batch";
	batch->relation.md.reliddesc = InvalidOid;
	batch->relation.md.tupdesc = batch->descriptor;
	batch->relation.md.enrtype = ENR_NAMED_TUPLESTORE;
	batch->relation.reldata = batch->store;
}

/*
 * end_batch forgets the relation.
 */
static void
end_batch(Batch *batch)
{
	tuplestore_end(batch->store);
	MemoryContextDelete(batch->work_context);
}

/*
 * add_to_batch adds a row.
 */
static void
add_to_batch(Batch *batch, StagedRow *row)
{
	Datum		values[STAGED_COLUMNS + 1];
	bool		nulls[STAGED_COLUMNS + 1];

	memcpy(values, row->values, sizeof(row->values));
	memcpy(nulls, row->nulls, sizeof(row->nulls));
	nulls[STAGED_COLUMNS] = (row->reasons == NULL);
	if (row->reasons)
	{
		MemoryContext caller_context = MemoryContextSwitchTo(batch->work_context);

		values[STAGED_COLUMNS] = DirectFunctionCall1(jsonb_in, CStringGetDatum(psprintf("[%s]", row->reasons->data)));
		MemoryContextSwitchTo(caller_context);
	}

	tuplestore_putvalues(batch->store, batch->descriptor, values, nulls);
	batch->relation.md.enrtuples++;
	MemoryContextReset(batch->work_context);
}

/*
 * query_batch runs a query over the relation, and returns how many rows it processed.  A connection of its
 * own to SPI forgets the relation even after an error.
 */
static int64
query_batch(Batch *batch, const char *query, PaParameters *parameters)
{
	int64		processed = 0;

	if (batch->relation.md.enrtuples > 0)
	{
		SPI_connect();
		if (SPI_register_relation(&batch->relation) != SPI_OK_REL_REGISTER)
			elog(ERROR, "could not register the batch");
		processed = pa_query(query, parameters, SPI_OK_INSERT);
		SPI_finish();
	}
	end_batch(batch);

	return processed;
}

/*
 * count_reasons counts what is quarantined, and why.
 */
static void
count_reasons(Ingest *ingest, StagedRow *row)
{
	ingest->counts.quarantined++;
	for (int code = 0; code < REASON_CODES; code++)
		if (row->codes & (1 << code))
			ingest->counts.quarantined_for[code]++;
}

/*
 * pa_quarantine_rows sets aside the rows that have reasons.
 */
void
pa_quarantine_rows(Ingest *ingest, Chunk *chunk)
{
	MemoryContext caller_context = MemoryContextSwitchTo(chunk->context);
	PaParameters parameters = {0};
	Batch		batch;

	start_batch(&batch);
	for (int i = 0; i < chunk->count; i++)
	{
		if (chunk->rows[i].fate != ROW_QUARANTINED)
			continue;
		add_to_batch(&batch, &chunk->rows[i]);
		count_reasons(ingest, &chunk->rows[i]);
	}
	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(ingest->job_id));
	(void) query_batch(&batch, "INSERT INTO prod_analytics.quarantined_events (" STAGED_COLUMN_NAMES ", reasons, job_id)"
					   " SELECT " STAGED_COLUMN_NAMES ", reasons, $1 FROM batch", &parameters);
	MemoryContextSwitchTo(caller_context);
}

/*
 * pa_put_back_rows returns the rows that could become events, but have no partition, to staging.
 */
void
pa_put_back_rows(Ingest *ingest, Chunk *chunk)
{
	MemoryContext caller_context = MemoryContextSwitchTo(chunk->context);
	Batch		batch;

	start_batch(&batch);
	for (int i = 0; i < chunk->count; i++)
	{
		if (chunk->rows[i].fate != ROW_EVENT || OidIsValid(chunk->rows[i].leaf))
			continue;
		add_to_batch(&batch, &chunk->rows[i]);
		chunk->rows[i].fate = ROW_LATER;
	}
	ingest->counts.deferred +=
		query_batch(&batch, "INSERT INTO prod_analytics.staging_events (" STAGED_COLUMN_NAMES ")"
					" SELECT " STAGED_COLUMN_NAMES " FROM batch", NULL);
	MemoryContextSwitchTo(caller_context);
}

/*
 * is_user_key tells whether a trigger checks the foreign key from user_id to users.
 */
static bool
is_user_key(Trigger *trigger, Relation table, Oid users)
{
	HeapTuple	constraint;
	AttrNumber	columns[INDEX_MAX_KEYS];
	AttrNumber	referenced[INDEX_MAX_KEYS];
	int			count;
	bool		result;

	if (trigger->tgfoid != F_RI_FKEY_CHECK_INS || trigger->tgconstrrelid != users)
		return false;

	constraint = SearchSysCache1(CONSTROID, ObjectIdGetDatum(trigger->tgconstraint));
	if (!HeapTupleIsValid(constraint))
		return false;
	DeconstructFkConstraintRow(constraint, &count, columns, referenced, NULL, NULL, NULL, NULL, NULL);
	ReleaseSysCache(constraint);

	result = count == 1 &&
		columns[0] == get_attnum(RelationGetRelid(table), "user_id") &&
		referenced[0] == get_attnum(users, "user_id");

	return result;
}

/*
 * leave_out_user_key makes a started INSERT leave out the check of the foreign key.  The executor's copy of
 * the trigger is changed, nobody else's.  A trigger that can change the row could make it another user's.
 */
static void
leave_out_user_key(QueryDesc *query, Oid users)
{
	ResultRelInfo *target = castNode(ModifyTableState, query->planstate)->resultRelInfo;
	TriggerDesc *triggers = target->ri_TrigDesc;

	if (triggers == NULL || triggers->trig_insert_before_row)
		return;

	for (int i = 0; i < triggers->numtriggers; i++)
		if (is_user_key(&triggers->triggers[i], target->ri_RelationDesc, users))
			triggers->triggers[i].tgenabled = TRIGGER_DISABLED;
}

/*
 * plan_insertion plans the INSERT: one statement, unless rules make it others, or none.
 */
static List *
plan_insertion(const char *sql, QueryEnvironment *environment)
{
	RawStmt    *statement = linitial_node(RawStmt, pg_parse_query(sql));
	List	   *rewritten = pg_analyze_and_rewrite_fixedparams(statement, sql, NULL, 0, environment);

	return pg_plan_queries(rewritten, sql, CURSOR_OPT_PARALLEL_OK, NULL);
}

/*
 * run_statement runs a statement and returns how many rows it processed.
 */
static int64
run_statement(Insertion *insertion, PlannedStmt *plan, const char *sql, QueryEnvironment *environment)
{
	QueryDesc  *query;
	int64		processed;

	if (plan->commandType == CMD_UTILITY)
	{
		/* the NOTIFY of a rule */
		ProcessUtility(plan, sql, false, PROCESS_UTILITY_QUERY, NULL, environment, None_Receiver, NULL);
		return 0;
	}

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	query = CreateQueryDesc(plan, sql, GetActiveSnapshot(), InvalidSnapshot, None_Receiver, NULL, environment, 0);
	ExecutorStart(query, 0);
	if (insertion->is_direct)
		leave_out_user_key(query, insertion->ingest->users);
	pa_executor_run(query, 0);
	processed = query->estate->es_processed;
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
	PopActiveSnapshot();

	return processed;
}

/*
 * run_insertion runs the INSERT, and what rules add to it, and returns how many rows went in.
 */
static int64
run_insertion(Insertion *insertion, const char *sql, Batch *batch)
{
	QueryEnvironment *environment = create_queryEnv();
	int64		inserted = 0;
	ListCell   *cell;

	register_ENR(environment, &batch->relation);
	foreach(cell, plan_insertion(sql, environment))
	{
		PlannedStmt *plan = lfirst_node(PlannedStmt, cell);
		int64		processed = run_statement(insertion, plan, sql, environment);

		if (plan->canSetTag)
			inserted = processed;
	}

	return inserted;
}

/*
 * insert is the work of an Insertion.
 *
 * ON CONFLICT costs something for each row.  It is there for the rare case that somebody else inserted one of
 * the events meanwhile; see insert_surely.
 */
static void
insert(Insertion *insertion, const char *on_conflict)
{
	MemoryContext chunk_context = MemoryContextSwitchTo(insertion->context);
	char	   *sql = psprintf("INSERT INTO %s (event_id, user_id, org_id, event_type, event_props, event_time, received_at, device_type)"
							   " SELECT event_id, user_id, org_id, event_type, payload, event_time, received_at,"
							   " payload OPERATOR(pg_catalog.->>) 'device' FROM batch%s",
							   pa_relation_sql(insertion->relation), on_conflict);
	Batch		batch;

	start_batch(&batch);
	for (int i = 0; i < insertion->count; i++)
		add_to_batch(&batch, insertion->rows[i]);
	insertion->inserted = run_insertion(insertion, sql, &batch);
	end_batch(&batch);
	MemoryContextSwitchTo(chunk_context);
}

static void
insert_new(void *argument)
{
	insert(argument, "");
}

static void
insert_or_skip(void *argument)
{
	insert(argument, " ON CONFLICT (event_id, event_time) DO NOTHING");
}

/*
 * reject says that the table refused a row.
 */
static void
reject(StagedRow *row, ErrorData *error)
{
	pa_add_reason(row, REASON_REJECTED, "", error->message,
				  psprintf(", \"sqlstate\": \"%s\"", unpack_sql_state(error->sqlerrcode)));
}

/*
 * count_events counts what went in.  A row that did not, without an error, is an event that somebody else
 * inserted meanwhile, or was suppressed by a trigger.
 */
static void
count_events(Insertion *insertion)
{
	IngestCounts *counts = &insertion->ingest->counts;

	counts->inserted += insertion->inserted;
	counts->duplicates += insertion->count - insertion->inserted;
	for (int i = 0; i < insertion->count; i++)
	{
		TimestampTz event_time = DatumGetTimestampTz(insertion->rows[i]->values[STAGED_EVENT_TIME]);
		TimestampTz arrival = DatumGetTimestampTz(insertion->rows[i]->values[STAGED_RECEIVED_AT]);

		counts->oldest = Min(counts->oldest, event_time);
		counts->newest = Max(counts->newest, event_time);
		if (!TIMESTAMP_NOT_FINITE(arrival))
			counts->first_arrival = Min(counts->first_arrival, arrival);
	}
}

/*
 * attempt tries an insertion.  What it allocates goes when it has ended, however it did: of a chunk whose rows
 * are refused there are many.
 */
static bool
attempt(PaWork work, Insertion *insertion, ErrorData **error)
{
	bool		done;

	insertion->context = AllocSetContextCreate(CurrentMemoryContext, "insertion of events", ALLOCSET_DEFAULT_SIZES);
	done = pa_try(work, insertion, error);
	MemoryContextDelete(insertion->context);

	return done;
}

/*
 * insert_surely does an insertion.  When the table refuses a row, it halves the rows until the row is found,
 * and rejects that one.
 */
static void
insert_surely(Insertion *insertion)
{
	Insertion	half = *insertion;
	ErrorData  *error;

	CHECK_FOR_INTERRUPTS();

	if (attempt(insert_new, insertion, &error) ||
		(error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && attempt(insert_or_skip, insertion, &error)))
	{
		count_events(insertion);
		return;
	}

	if (!pa_is_about_a_row(error))
		ReThrowError(error);
	if (insertion->count == 1)
	{
		reject(insertion->rows[0], error);
		return;
	}
	FreeErrorData(error);

	half.count = insertion->count / 2;
	insert_surely(&half);
	half.rows = insertion->rows + half.count;
	half.count = insertion->count - half.count;
	insert_surely(&half);
}

/*
 * pa_leaf_of finds the partition in which an event belongs; InvalidOid when there is none, or only the default
 * one.
 */
Oid
pa_leaf_of(Ingest *ingest, TimestampTz event_time)
{
	PartitionKey key = RelationGetPartitionKey(ingest->events);
	PartitionDesc partitions = ingest->partitions;
	Datum		value = TimestampTzGetDatum(event_time);
	bool		is_equal;
	int			index;

	if (partitions->nparts == 0)
		return InvalidOid;
	index = partition_range_datum_bsearch(key->partsupfunc, key->partcollation, partitions->boundinfo, 1, &value, &is_equal);
	index = partitions->boundinfo->indexes[index + 1];

	return index < 0 ? InvalidOid : partitions->oids[index];
}

/*
 * must_be_named tells whether something of a table concerns whole statements, or is asked only of rows that
 * are inserted by the table's own name: it must be passed by if, and only if, users of events would.
 */
static bool
must_be_named(Relation table)
{
	TriggerDesc *triggers = table->trigdesc;

	return table->rd_rules || table->rd_rel->relforcerowsecurity ||
		(triggers && (triggers->trig_insert_before_statement || triggers->trig_insert_after_statement ||
					  triggers->trig_insert_new_table));
}

/*
 * can_insert_into tells whether inserting into a partition does what inserting into events would do.
 */
static bool
can_insert_into(Oid leaf)
{
	Relation	table = table_open(leaf, AccessShareLock);
	bool		result = table->rd_rel->relkind == RELKIND_RELATION && !must_be_named(table);

	table_close(table, NoLock);

	return result;
}

/*
 * compare_leaves orders rows by partition, those of the same one as they were staged.
 */
static int
compare_leaves(const void *a, const void *b)
{
	const StagedRow *left = *(StagedRow *const *) a;
	const StagedRow *right = *(StagedRow *const *) b;

	if (left->leaf != right->leaf)
		return left->leaf < right->leaf ? -1 : 1;

	return (left > right) - (left < right);
}

/*
 * insert_into inserts rows that belong in one partition; those without one go where events sends them.
 */
static void
insert_into(Ingest *ingest, StagedRow **rows, int count, bool use_parent)
{
	Insertion	insertion = {ingest, RelationGetRelid(ingest->events), .count = count, .rows = rows};

	if (!use_parent && OidIsValid(rows[0]->leaf) && can_insert_into(rows[0]->leaf))
	{
		insertion.is_direct = true;
		insertion.relation = rows[0]->leaf;
	}
	insert_surely(&insertion);
}

/*
 * pa_insert_rows makes events of the rows of a chunk that can become ones.
 */
void
pa_insert_rows(Ingest *ingest, Chunk *chunk)
{
	MemoryContext caller_context = MemoryContextSwitchTo(chunk->context);
	StagedRow **rows = palloc(sizeof(StagedRow *) * (chunk->count + 1));
	bool		use_parent = must_be_named(ingest->events);
	int			count = 0;
	int			first = 0;

	for (int i = 0; i < chunk->count; i++)
		if (chunk->rows[i].fate == ROW_EVENT)
			rows[count++] = &chunk->rows[i];
	if (!use_parent)
		qsort(rows, count, sizeof(StagedRow *), compare_leaves);

	for (int i = 1; i <= count; i++)
	{
		if (i < count && (use_parent || rows[i]->leaf == rows[first]->leaf))
			continue;
		insert_into(ingest, rows + first, i - first, use_parent);
		first = i;
	}
	MemoryContextSwitchTo(caller_context);
}
