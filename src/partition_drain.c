/*
 * partition_drain.c
 *		Moving rows out of the default partition.
 */
#include "prod_analytics.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "guard.h"
#include "miscadmin.h"
#include "partition.h"
#include "query.h"
#include "refresh.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* What moving a row needs to know. */
typedef struct Move
{
	Relation	target;
	EState	   *estate;
	ResultRelInfo *target_info;
	TupleConversionMap *map;	/* NULL when both tables have the same columns in the same order */
	TupleTableSlot *slot;
} Move;

/*
 * start_move prepares inserting into the target and its indexes.
 */
static void
start_move(Move *move, Relation source, Relation target)
{
	move->target = target;
	move->estate = CreateExecutorState();
	move->target_info = makeNode(ResultRelInfo);
	InitResultRelInfo(move->target_info, target, 1, NULL, 0);
	ExecOpenIndices(move->target_info, false);
	move->map = convert_tuples_by_name(RelationGetDescr(source), RelationGetDescr(target));
	move->slot = table_slot_create(target, &move->estate->es_tupleTable);
}

/*
 * end_move releases what start_move took.
 */
static void
end_move(Move *move)
{
	ExecCloseIndices(move->target_info);
	ExecResetTupleTable(move->estate->es_tupleTable, false);
	if (move->map)
		free_conversion_map(move->map);
	FreeExecutorState(move->estate);
}

/*
 * move_row inserts a copy of the row into the target and deletes it from the source.
 *
 * No trigger fires, on purpose: to the parent table nothing changes, and firing them would cascade
 * into tables that reference the row.
 */
static void
move_row(Move *move, Relation source, TupleTableSlot *row, Snapshot snapshot)
{
	ResetPerTupleExprContext(move->estate);

	if (move->map)
		execute_attr_map_slot(move->map->attrMap, row, move->slot);
	else
		ExecCopySlot(move->slot, row);

	table_tuple_insert(move->target, move->slot, GetCurrentCommandId(true), 0, NULL);
	if (move->target_info->ri_NumIndices > 0)
		pa_insert_index_entries(move->target_info, move->slot, move->estate);
	simple_table_tuple_delete(source, &row->tts_tid, snapshot);
}

/*
 * pa_drain moves the rows whose key is in the range from source to target, and returns how many
 * they were.
 *
 * The caller holds ACCESS EXCLUSIVE locks on both tables, so that the snapshot taken here sees
 * every row that there will ever be.
 *
 * Views over the parent stay as they are.  One that reads the default partition itself does not, and no trigger
 * notes that.
 */
int64
pa_drain(PaPolicy *policy, Relation source, Relation target, PaRange range)
{
	AttrNumber	column = get_attnum(RelationGetRelid(source), policy->control);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *row = table_slot_create(source, NULL);
	TableScanDesc scan = table_beginscan(source, snapshot, 0, NULL);
	Move		move;
	int64		moved = 0;

	start_move(&move, source, target);

	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
	{
		bool		isnull;
		Datum		value = slot_getattr(row, column, &isnull);

		CHECK_FOR_INTERRUPTS();

		if (isnull || !pa_datum_in_range(policy, value, range))
			continue;

		move_row(&move, source, row, snapshot);
		moved++;
	}

	end_move(&move);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(row);
	UnregisterSnapshot(snapshot);
	if (moved > 0)
	{
		pa_mark_views_of(RelationGetRelid(source));
		CommandCounterIncrement();
	}

	return moved;
}

/*
 * query_range asks the default partition for an aggregate over the rows in a range.
 *
 * The caller is connected to SPI and inside a guard.
 */
static Datum
query_range(PaPolicy *policy, const char *aggregate, PaRange range, bool *isnull)
{
	int			guc_level = pa_utc_enter();
	char	   *control = (char *) quote_identifier(policy->control);
	char	   *sql = psprintf("SELECT %s FROM %s WHERE %s >= '%s' AND %s < '%s'",
							   psprintf(aggregate, control),
							   pa_relation_sql(pa_default_partition(policy)),
							   control, pa_key_text(policy, range.lower),
							   control, pa_key_text(policy, range.upper));

	pa_utc_leave(guc_level);
	pa_query(sql, NULL, SPI_OK_SELECT);

	return pa_result(0, 1, isnull);
}

/*
 * pa_next_drainable finds the smallest key in a range that a row of the default partition has.
 */
bool
pa_next_drainable(PaPolicy *policy, PaRange span, PaKey *key)
{
	bool		isnull;
	Datum		value;

	if (!OidIsValid(pa_default_partition(policy)))
		return false;

	value = query_range(policy, "min(%s)", span, &isnull);
	if (!isnull)
		*key = pa_datum_key(policy, value);

	return !isnull;
}

/*
 * pa_rows_to_move counts the rows of the default partition that belong into a range.
 */
int64
pa_rows_to_move(PaPolicy *policy, PaRange range)
{
	bool		isnull;

	if (!OidIsValid(pa_default_partition(policy)))
		return 0;

	return DatumGetInt64(query_range(policy, "count(%s)", range, &isnull));
}
