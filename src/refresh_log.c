/*
 * refresh_log.c
 *		The keys of groups that have changed since their view was refreshed: the table changed_keys.
 *
 * Rows are inserted by whoever changes a group, in the same transaction, and deleted by the refresh that has seen
 * them: a snapshot sees both a change and its row, or neither.  The table is written to directly, since a writer
 * may have no privilege on it.
 */
#include "prod_analytics.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "guard.h"
#include "miscadmin.h"
#include "query.h"
#include "refresh.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* The columns of changed_keys. */
#define LOG_MATVIEW_ID 1
#define LOG_KEY 2
#define LOG_CHANGED_AT 3

/* changed_keys, open to be written to. */
struct PaLogWriter
{
	Relation	log;
	EState	   *estate;
	ResultRelInfo *target;
	TupleTableSlot *slot;
	CommandId	command;
	TimestampTz now;
};

/*
 * open_log opens changed_keys.
 */
static Relation
open_log(LOCKMODE mode)
{
	Relation	log = table_open(pa_table("changed_keys"), mode);
	TupleDesc	descriptor = RelationGetDescr(log);

	if (descriptor->natts < LOG_CHANGED_AT ||
		TupleDescAttr(descriptor, LOG_MATVIEW_ID - 1)->atttypid != INT4OID ||
		TupleDescAttr(descriptor, LOG_KEY - 1)->atttypid != BYTEAOID ||
		TupleDescAttr(descriptor, LOG_CHANGED_AT - 1)->atttypid != TIMESTAMPTZOID)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s.changed_keys\" has other columns than expected", PA_SCHEMA),
				 errhint("Drop it, make it again with SELECT %s.create_tables(), and mark all views with %s.mark_changed().",
						 PA_SCHEMA, PA_SCHEMA)));

	return log;
}

/*
 * pa_begin_log gets ready to insert.
 */
PaLogWriter *
pa_begin_log(void)
{
	PaLogWriter *writer = palloc(sizeof(PaLogWriter));

	writer->log = open_log(RowExclusiveLock);
	writer->estate = CreateExecutorState();
	writer->target = makeNode(ResultRelInfo);
	InitResultRelInfo(writer->target, writer->log, 1, NULL, 0);
	ExecOpenIndices(writer->target, false);
	writer->slot = MakeSingleTupleTableSlot(RelationGetDescr(writer->log), &TTSOpsVirtual);
	writer->command = GetCurrentCommandId(true);
	writer->now = GetCurrentTimestamp();

	return writer;
}

/*
 * pa_add_to_log inserts the key of a group; bytes may be NULL, which means all groups.
 */
void
pa_add_to_log(PaLogWriter *writer, int32 matview_id, const char *bytes, int length)
{
	TupleTableSlot *slot = writer->slot;
	bytea	   *key;

	ResetPerTupleExprContext(writer->estate);
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, sizeof(bool) * slot->tts_tupleDescriptor->natts);
	memset(slot->tts_values, 0, sizeof(Datum) * slot->tts_tupleDescriptor->natts);

	slot->tts_values[LOG_MATVIEW_ID - 1] = Int32GetDatum(matview_id);
	slot->tts_isnull[LOG_MATVIEW_ID - 1] = false;
	slot->tts_values[LOG_CHANGED_AT - 1] = TimestampTzGetDatum(writer->now);
	slot->tts_isnull[LOG_CHANGED_AT - 1] = false;
	if (bytes)
	{
		key = MemoryContextAlloc(GetPerTupleMemoryContext(writer->estate), VARHDRSZ + length);
		SET_VARSIZE(key, VARHDRSZ + length);
		memcpy(VARDATA(key), bytes, length);
		slot->tts_values[LOG_KEY - 1] = PointerGetDatum(key);
		slot->tts_isnull[LOG_KEY - 1] = false;
	}
	ExecStoreVirtualTuple(slot);

	table_tuple_insert(writer->log, slot, writer->command, 0, NULL);
	if (writer->target->ri_NumIndices > 0)
		pa_insert_index_entries(writer->target, slot, writer->estate);
}

/*
 * pa_end_log makes what was inserted visible to the transaction.
 */
void
pa_end_log(PaLogWriter *writer)
{
	ExecCloseIndices(writer->target);
	ExecDropSingleTupleTableSlot(writer->slot);
	FreeExecutorState(writer->estate);
	table_close(writer->log, NoLock);
	CommandCounterIncrement();
}

/*
 * begin_scan begins to read the rows of a view.
 */
static SysScanDesc
begin_scan(Relation log, int32 matview_id, Snapshot snapshot)
{
	Oid			index = get_relname_relid("idx_changed_keys_matview", RelationGetNamespace(log));
	ScanKeyData key;

	ScanKeyInit(&key, LOG_MATVIEW_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(matview_id));

	return systable_beginscan(log, index, OidIsValid(index) && list_member_oid(RelationGetIndexList(log), index),
							  snapshot, 1, &key);
}

/*
 * pa_read_log reads the rows of a view that a snapshot sees: where they are, and their keys.
 */
void
pa_read_log(PaChanges *changes, int32 matview_id, Snapshot snapshot)
{
	Relation	log = open_log(RowExclusiveLock);
	SysScanDesc scan = begin_scan(log, matview_id, snapshot);
	HeapTuple	row;

	while (HeapTupleIsValid(row = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		key = heap_getattr(row, LOG_KEY, RelationGetDescr(log), &isnull);

		CHECK_FOR_INTERRUPTS();
		if (changes->row_count == changes->row_space)
		{
			changes->row_space = Max(changes->row_space * 2, 1024);
			changes->rows = changes->rows ?
				repalloc_huge(changes->rows, changes->row_space * sizeof(ItemPointerData)) :
				palloc(changes->row_space * sizeof(ItemPointerData));
		}
		changes->rows[changes->row_count++] = row->t_self;

		if (isnull)
			changes->everything = true;
		else if (!changes->everything)
			pa_add_changed_bytes(changes, DatumGetByteaPP(key));
	}
	systable_endscan(scan);
	table_close(log, NoLock);
}

/*
 * pa_clear_log deletes the rows that were read.
 */
void
pa_clear_log(PaChanges *changes, Snapshot snapshot)
{
	Relation	log = open_log(RowExclusiveLock);

	for (int64 i = 0; i < changes->row_count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		simple_table_tuple_delete(log, &changes->rows[i], snapshot);
	}
	table_close(log, NoLock);
	CommandCounterIncrement();
}

/*
 * pa_forget_log deletes the rows that a query finds; it selects their ctid.
 *
 * A publication of all tables has the server refuse a DELETE from a table that has no replica identity, and no
 * subscriber wants these rows.  A row that somebody else has deleted meanwhile is as good as deleted.
 */
void
pa_forget_log(const char *query, PaParameters *parameters)
{
	Relation	log = open_log(RowExclusiveLock);
	uint64		found = pa_query(query, parameters, SPI_OK_SELECT);
	CommandId	command = GetCurrentCommandId(true);
	TM_FailureData failure;

	for (uint64 i = 0; i < found; i++)
	{
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		table_tuple_delete(log, (ItemPointer) DatumGetPointer(pa_result(i, 1, &isnull)), command,
						   GetActiveSnapshot(), InvalidSnapshot, true, &failure, false);
	}
	table_close(log, NoLock);
	CommandCounterIncrement();
}
