/*
 * refresh_merge.c
 *		Bringing computed groups into the heap of a materialized view.
 *
 * SQL can only replace the whole of a materialized view.  Its heap is a heap all the same: rows that are inserted,
 * updated and deleted in it have versions that readers see or not by their snapshots, like those of any table.
 */
#include "prod_analytics.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "refresh.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/*
 * columns_of_data lists the columns that an update may change, as the executor counts columns: it tells indexes
 * when a new version of a row has the same values.
 */
static Bitmapset *
columns_of_data(PaView *view, Relation matview)
{
	Bitmapset  *columns = NULL;

	for (int i = 1; i <= RelationGetNumberOfAttributes(matview); i++)
		columns = bms_add_member(columns, i - FirstLowInvalidHeapAttributeNumber);
	for (int i = 0; i < view->key_count; i++)
		columns = bms_del_member(columns, view->keys[i].column - FirstLowInvalidHeapAttributeNumber);

	return columns;
}

/*
 * has_other_constraints tells whether the view has an index that a row may violate together with an older version
 * of another row, besides the one on its keys.
 */
static bool
has_other_constraints(Relation matview, Relation key_index)
{
	List	   *indexes = RelationGetIndexList(matview);
	bool		result = false;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index;

		if (lfirst_oid(cell) == RelationGetRelid(key_index))
			continue;
		index = index_open(lfirst_oid(cell), AccessShareLock);
		result |= index->rd_index->indisunique || index->rd_index->indisexclusion;
		index_close(index, AccessShareLock);
	}
	list_free(indexes);

	return result;
}

/*
 * insert inserts a row.
 */
static void
insert(PaMerge *merge, TupleTableSlot *row)
{
	ResetPerTupleExprContext(merge->estate);
	table_tuple_insert(merge->target->ri_RelationDesc, row, GetCurrentCommandId(true), 0, NULL);
	if (merge->target->ri_NumIndices > 0)
		pa_insert_index_entries(merge->target, row, merge->estate);
}

/*
 * insert_or_keep inserts the computed row, now or later.
 */
static void
insert_or_keep(PaMerge *merge)
{
	if (merge->new_rows)
		tuplestore_puttupleslot(merge->new_rows, merge->comparison->computed);
	else
		insert(merge, merge->comparison->computed);
}

/*
 * delete deletes the stored row.
 */
static void
delete(PaMerge *merge)
{
	simple_table_tuple_delete(merge->comparison->matview, &merge->comparison->stored->tts_tid, merge->snapshot);
}

/*
 * update puts the computed row in the place of the stored one.
 */
static void
update(PaMerge *merge)
{
	ResetPerTupleExprContext(merge->estate);
	if (merge->new_rows)
	{
		delete(merge);
		insert_or_keep(merge);
	}
	else
		pa_update_row(merge->target, &merge->comparison->stored->tts_tid, merge->comparison->computed,
					  merge->snapshot, merge->estate);
}

/*
 * mend does what a difference asks for.
 */
static void
mend(PaComparison *comparison, PaDifference difference)
{
	PaMerge    *merge = comparison->argument;

	switch (difference)
	{
		case PA_ROW_MISSING:
			insert_or_keep(merge);
			merge->inserted++;
			break;
		case PA_ROW_DIFFERENT:
			update(merge);
			merge->updated++;
			break;
		case PA_ROW_EXTRA:
			if (merge->vanished)
				tuplestore_puttupleslot(merge->vanished, comparison->stored);
			delete(merge);
			merge->deleted++;
			break;
	}
}

/*
 * insert_kept inserts the rows that had to wait.
 */
static void
insert_kept(PaMerge *merge)
{
	TupleTableSlot *row = MakeSingleTupleTableSlot(RelationGetDescr(merge->comparison->matview), &TTSOpsMinimalTuple);

	while (tuplestore_gettupleslot(merge->new_rows, true, false, row))
	{
		CHECK_FOR_INTERRUPTS();
		insert(merge, row);
	}
	ExecDropSingleTupleTableSlot(row);
	tuplestore_end(merge->new_rows);
	merge->new_rows = NULL;
}

/*
 * pa_begin_merge gets ready to bring groups into a view that is open, and locked in ROW EXCLUSIVE mode or stronger.
 *
 * Where a value must not be in two rows, one that moves from one group to another must be deleted first.
 */
void
pa_begin_merge(PaMerge *merge, PaView *view, Relation matview, Relation index)
{
	merge->estate = CreateExecutorState();
	pa_init_range_table(merge->estate, matview, columns_of_data(view, matview));
	merge->target = makeNode(ResultRelInfo);
	InitResultRelInfo(merge->target, matview, 1, NULL, 0);
	ExecOpenIndices(merge->target, false);
	if (has_other_constraints(matview, index))
		merge->new_rows = tuplestore_begin_heap(false, false, work_mem);

	/* Nobody else changes the view meanwhile, so there is nothing that an older snapshot should hide. */
	merge->snapshot = RegisterSnapshot(GetLatestSnapshot());
	merge->comparison = pa_begin_comparison(view, matview, index, merge->snapshot);
	merge->comparison->by_bytes = true;
	merge->comparison->ignored = view->not_data;
	merge->comparison->on_difference = mend;
	merge->comparison->argument = merge;
}

/*
 * pa_end_merge makes what was merged visible to the transaction.
 */
void
pa_end_merge(PaMerge *merge)
{
	if (merge->new_rows)
		insert_kept(merge);
	pa_end_comparison(merge->comparison);
	UnregisterSnapshot(merge->snapshot);
	ExecCloseIndices(merge->target);
	FreeExecutorState(merge->estate);
	CommandCounterIncrement();
}
