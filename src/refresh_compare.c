/*
 * refresh_compare.c
 *		Finding the differences between groups as they were computed and as a view has stored them.
 *
 * What is done about a difference is up to the caller: a refresh mends it, verify_matview() reports it.
 */
#include "prod_analytics.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/tableam.h"
#include "executor/executor.h"
#include "job.h"
#include "miscadmin.h"
#include "refresh.h"
#include "storage/bufmgr.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* How often progress is shown, in groups. */
#define PROGRESS_STEP 1000

/* A bit for each row that a page can hold. */
#define SEEN_BYTES_PER_PAGE ((MaxHeapTuplesPerPage + 8) / 8)

/*
 * key_of_column tells which key of the view a column of it holds.
 */
static int
key_of_column(PaView *view, AttrNumber column)
{
	for (int i = 0; i < view->key_count; i++)
		if (view->keys[i].column == column)
			return i;

	elog(ERROR, "column %d is no key of materialized view %u", column, view->matview);
}

/*
 * prepare_lookup prepares looking for a group in the unique index: which key each of its columns is, and how that
 * is compared.
 */
static void
prepare_lookup(PaComparison *comparison)
{
	Relation	index = comparison->index;
	PaView	   *view = comparison->view;

	for (int i = 0; i < view->key_count; i++)
	{
		Oid			family = index->rd_opfamily[i];
		Oid			type = index->rd_opcintype[i];
		Oid			operator = get_opfamily_member(family, type, type, BTEqualStrategyNumber);

		comparison->index_keys[i] = key_of_column(view, index->rd_index->indkey.values[i]);
		ScanKeyEntryInitialize(&comparison->lookup[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   index->rd_indcollation[i], get_opcode(operator), (Datum) 0);
	}
	comparison->scan = pa_index_beginscan(comparison->matview, index, comparison->snapshot, view->key_count);
}

/*
 * pa_begin_comparison gets ready to compare groups with the rows of a view that a snapshot sees.  The view is open
 * and locked, and so is the unique index on its keys.
 */
PaComparison *
pa_begin_comparison(PaView *view, Relation matview, Relation index, Snapshot snapshot)
{
	PaComparison *comparison = palloc0(sizeof(PaComparison));

	comparison->view = view;
	comparison->matview = matview;
	comparison->index = index;
	comparison->snapshot = snapshot;
	comparison->stored = table_slot_create(matview, NULL);
	comparison->computed = MakeSingleTupleTableSlot(RelationGetDescr(matview), &TTSOpsVirtual);
	comparison->scan_context = CurrentMemoryContext;
	comparison->context = AllocSetContextCreate(CurrentMemoryContext, "comparison of groups", ALLOCSET_DEFAULT_SIZES);
	prepare_lookup(comparison);

	return comparison;
}

/*
 * pa_end_comparison releases what pa_begin_comparison took.
 */
void
pa_end_comparison(PaComparison *comparison)
{
	pa_job_progress_end();
	index_endscan(comparison->scan);
	ExecDropSingleTupleTableSlot(comparison->stored);
	ExecDropSingleTupleTableSlot(comparison->computed);
	MemoryContextDelete(comparison->context);
}

/*
 * find_stored looks for the row of a group.
 *
 * An index scan keeps memory from one call to the next, which must not be that of a group.
 */
static bool
find_stored(PaComparison *comparison, const Datum *values, const bool *nulls)
{
	MemoryContext caller_context = MemoryContextSwitchTo(comparison->scan_context);
	bool		is_stored;

	for (int i = 0; i < comparison->view->key_count; i++)
	{
		int			key = comparison->index_keys[i];

		comparison->lookup[i].sk_argument = values[key];
		comparison->lookup[i].sk_flags = nulls[key] ? (SK_ISNULL | SK_SEARCHNULL) : 0;
	}
	index_rescan(comparison->scan, comparison->lookup, comparison->view->key_count, NULL, 0);
	is_stored = index_getnext_slot(comparison->scan, ForwardScanDirection, comparison->stored);
	MemoryContextSwitchTo(caller_context);

	return is_stored;
}

/*
 * is_same_value compares two values that are not NULL: as bytes, which a refresh does to bring along what is equal
 * but not the same (10.0 and 10.00), or as EXCEPT would.
 */
static bool
is_same_value(PaComparison *comparison, Form_pg_attribute attribute, Datum stored, Datum computed)
{
	TypeCacheEntry *type;

	if (datum_image_eq(stored, computed, attribute->attbyval, attribute->attlen))
		return true;
	if (comparison->by_bytes)
		return false;

	type = lookup_type_cache(attribute->atttypid, TYPECACHE_EQ_OPR_FINFO);

	return OidIsValid(type->eq_opr_finfo.fn_oid) &&
		DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo, attribute->attcollation, stored, computed));
}

/*
 * differs tells whether the stored row is another one than that which was computed.
 */
static bool
differs(PaComparison *comparison)
{
	TupleDesc	descriptor = RelationGetDescr(comparison->matview);

	slot_getallattrs(comparison->stored);
	for (int i = 0; i < descriptor->natts; i++)
	{
		if (bms_is_member(i + 1, comparison->ignored))
			continue;
		if (comparison->stored->tts_isnull[i] != comparison->computed->tts_isnull[i])
			return true;
		if (!comparison->stored->tts_isnull[i] &&
			!is_same_value(comparison, TupleDescAttr(descriptor, i),
						   comparison->stored->tts_values[i], comparison->computed->tts_values[i]))
			return true;
	}

	return false;
}

/*
 * set_computed makes the row of a view from the columns of a computed row that begin at "first".
 */
static void
set_computed(PaComparison *comparison, TupleTableSlot *row, int first)
{
	TupleTableSlot *computed = comparison->computed;
	int			natts = RelationGetDescr(comparison->matview)->natts;

	ExecClearTuple(computed);
	memcpy(computed->tts_values, row->tts_values + first, sizeof(Datum) * natts);
	memcpy(computed->tts_isnull, row->tts_isnull + first, sizeof(bool) * natts);
	ExecStoreVirtualTuple(computed);
}

/*
 * compare_group compares a group that there is; true when there is a row of it.
 */
static bool
compare_group(PaComparison *comparison, const Datum *key_values, const bool *key_nulls)
{
	bool		is_stored = find_stored(comparison, key_values, key_nulls);

	if (!is_stored)
		comparison->on_difference(comparison, PA_ROW_MISSING);
	else if (differs(comparison))
		comparison->on_difference(comparison, PA_ROW_DIFFERENT);

	return is_stored;
}

/*
 * count_group shows how far the comparison is, and lets it be cancelled.
 */
static void
count_group(PaComparison *comparison)
{
	CHECK_FOR_INTERRUPTS();
	if (comparison->groups++ % PROGRESS_STEP == 0)
		pa_job_progress(RelationGetRelid(comparison->matview), 0, comparison->groups, comparison->expected);
	MemoryContextReset(comparison->context);
}

/*
 * next_row reads a computed row, whose memory lasts until the next one is read.
 */
static bool
next_row(PaComparison *comparison, Tuplestorestate *rows, TupleTableSlot *row)
{
	MemoryContext caller_context = MemoryContextSwitchTo(comparison->scan_context);
	bool		result = tuplestore_gettupleslot(rows, true, false, row);

	if (result)
		slot_getallattrs(row);
	MemoryContextSwitchTo(caller_context);

	return result;
}

/*
 * pa_compare_probed compares the groups that were asked for by key; "rows" are those of the statement that
 * pa_view_probe_sql writes.  A group that is not there any more has a row too, without values.
 */
void
pa_compare_probed(PaComparison *comparison, Tuplestorestate *rows, TupleDesc descriptor)
{
	int			is_there = pa_view_key_descriptor(comparison->view)->natts;
	TupleTableSlot *row = MakeSingleTupleTableSlot(descriptor, &TTSOpsMinimalTuple);
	MemoryContext caller_context = MemoryContextSwitchTo(comparison->context);

	while (next_row(comparison, rows, row))
	{
		if (!row->tts_isnull[is_there])
		{
			set_computed(comparison, row, is_there + 1);
			(void) compare_group(comparison, row->tts_values, row->tts_isnull);
		}
		else if (find_stored(comparison, row->tts_values, row->tts_isnull))
			comparison->on_difference(comparison, PA_ROW_EXTRA);
		count_group(comparison);
	}

	MemoryContextSwitchTo(caller_context);
	ExecDropSingleTupleTableSlot(row);
}

/*
 * seen_bit finds the bit of a stored row.
 */
static uint8 *
seen_bit(uint8 *seen, ItemPointer row, uint8 *bit)
{
	OffsetNumber offset = ItemPointerGetOffsetNumber(row);

	*bit = 1 << (offset % 8);

	return &seen[(Size) ItemPointerGetBlockNumber(row) * SEEN_BYTES_PER_PAGE + offset / 8];
}

/*
 * find_extra looks for stored rows that no group was computed for.
 */
static void
find_extra(PaComparison *comparison, uint8 *seen)
{
	TableScanDesc scan = table_beginscan(comparison->matview, comparison->snapshot, 0, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, comparison->stored))
	{
		uint8		bit;

		CHECK_FOR_INTERRUPTS();
		if (!(*seen_bit(seen, &comparison->stored->tts_tid, &bit) & bit))
			comparison->on_difference(comparison, PA_ROW_EXTRA);
	}
	table_endscan(scan);
}

/*
 * pa_compare_all compares all groups; "rows" are those of the view's query.
 */
void
pa_compare_all(PaComparison *comparison, Tuplestorestate *rows)
{
	PaView	   *view = comparison->view;
	Size		size = (Size) RelationGetNumberOfBlocks(comparison->matview) * SEEN_BYTES_PER_PAGE;
	uint8	   *seen = MemoryContextAllocExtended(CurrentMemoryContext, size + 1, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	TupleTableSlot *row = MakeSingleTupleTableSlot(RelationGetDescr(comparison->matview), &TTSOpsMinimalTuple);
	MemoryContext caller_context = MemoryContextSwitchTo(comparison->context);
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	uint8		bit;

	while (next_row(comparison, rows, row))
	{
		set_computed(comparison, row, 0);
		for (int i = 0; i < view->key_count; i++)
		{
			values[i] = row->tts_values[view->keys[i].column - 1];
			nulls[i] = row->tts_isnull[view->keys[i].column - 1];
		}
		if (compare_group(comparison, values, nulls))
			*seen_bit(seen, &comparison->stored->tts_tid, &bit) |= bit;
		count_group(comparison);
	}

	MemoryContextSwitchTo(caller_context);
	find_extra(comparison, seen);
	ExecDropSingleTupleTableSlot(row);
	pfree(seen);
}
