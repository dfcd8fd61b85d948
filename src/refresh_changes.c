/*
 * refresh_changes.c
 *		The set of groups that a refresh has to compute again.
 *
 * Keys come from several places, many times, and in forms that only the type's own comparison finds equal.  They
 * are sorted, which also lets the probes go through the source's index in order.
 *
 * SQL's = never finds a NULL, so keys with NULLs in different places need different statements, and so do keys that
 * are not a range of the partition key: there is one part for each.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "refresh.h"
#include "utils/date.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplesort.h"

/*
 * pa_begin_changes makes an empty set.
 */
PaChanges *
pa_begin_changes(PaView *view)
{
	PaChanges  *changes = palloc0(sizeof(PaChanges));

	changes->view = view;
	changes->keys = pa_view_key_descriptor(view);
	changes->prefers_range = view->window.is_exact && !pa_view_key_is_indexed(view, view->window.key);
	changes->row_context = AllocSetContextCreate(CurrentMemoryContext, "changed key", ALLOCSET_DEFAULT_SIZES);

	return changes;
}

/*
 * start_sort gets ready to sort keys, in the memory context of the refresh.
 */
static void
start_sort(PaChanges *changes)
{
	PaView	   *view = changes->view;
	AttrNumber	columns[INDEX_MAX_KEYS];
	Oid			operators[INDEX_MAX_KEYS];
	Oid			collations[INDEX_MAX_KEYS];
	bool		nulls_first[INDEX_MAX_KEYS] = {0};

	for (int i = 0; i < view->key_count; i++)
	{
		columns[i] = i + 1;
		operators[i] = view->keys[i].less;
		collations[i] = view->keys[i].collation;
	}

	changes->slot = MakeSingleTupleTableSlot(changes->keys, &TTSOpsVirtual);
	changes->sort = tuplesort_begin_heap(changes->keys, view->key_count, columns, operators, collations,
										 nulls_first, work_mem, NULL, TUPLESORT_NONE);
}

/*
 * pa_add_changed_key adds a key.
 */
void
pa_add_changed_key(PaChanges *changes, const Datum *values, const bool *nulls)
{
	TupleTableSlot *slot;

	if (changes->sort == NULL)
		start_sort(changes);

	slot = changes->slot;
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, sizeof(bool) * changes->keys->natts);
	memcpy(slot->tts_values, values, sizeof(Datum) * changes->view->key_count);
	memcpy(slot->tts_isnull, nulls, sizeof(bool) * changes->view->key_count);
	ExecStoreVirtualTuple(slot);
	tuplesort_puttupleslot(changes->sort, slot);
}

/*
 * add_input adds an input, whose key is still to be computed.
 */
static bool
add_input(PaChanges *changes, bytea *bytes)
{
	TupleDesc	descriptor = pa_view_input_descriptor(changes->view);
	Datum	   *values = palloc(sizeof(Datum) * (descriptor->natts + 1));
	bool	   *nulls = palloc(sizeof(bool) * (descriptor->natts + 1));

	if (!pa_read_key(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes), changes->view->matview, descriptor,
					 descriptor->natts, values, nulls))
		return false;
	tuplestore_putvalues(changes->inputs, descriptor, values, nulls);

	return true;
}

/*
 * add_key adds a key.
 */
static bool
add_key(PaChanges *changes, bytea *bytes)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	if (!pa_read_key(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes), changes->view->matview, changes->keys,
					 changes->view->key_count, values, nulls))
		return false;
	pa_add_changed_key(changes, values, nulls);

	return true;
}

/*
 * pa_add_changed_bytes adds what changed_keys has.
 */
void
pa_add_changed_bytes(PaChanges *changes, bytea *bytes)
{
	bool		is_input = pa_is_input(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	MemoryContext caller_context;

	if (is_input && changes->inputs == NULL)
		changes->inputs = tuplestore_begin_heap(false, false, work_mem);
	if (!is_input && changes->sort == NULL)
		start_sort(changes);

	caller_context = MemoryContextSwitchTo(changes->row_context);
	if (!(is_input ? add_input(changes, bytes) : add_key(changes, bytes)))
		changes->everything = true;
	MemoryContextSwitchTo(caller_context);
	MemoryContextReset(changes->row_context);
}

/*
 * part_of finds, or makes, the part for a pattern of NULLs.
 */
static PaChangesPart *
part_of(PaChanges *changes, uint32 null_keys, bool by_range)
{
	PaChangesPart *part;
	ListCell   *cell;

	foreach(cell, changes->parts)
	{
		part = lfirst(cell);
		if (part->null_keys == null_keys && part->by_range == by_range)
			return part;
	}

	part = palloc0(sizeof(PaChangesPart));
	part->null_keys = null_keys;
	part->by_range = by_range;
	part->store = tuplestore_begin_heap(true, false, work_mem);
	changes->parts = lappend(changes->parts, part);

	return part;
}

/*
 * set_window tells between which values of the partition key the rows of a group are.  True when they are the rows
 * of the group by that alone, the upper one left out.
 */
static bool
set_window(PaChanges *changes, Datum *values, bool *nulls)
{
	PaView	   *view = changes->view;
	int			key = view->window.key;
	int			lowest = view->key_count;
	int			highest = lowest + 1;

	if (view->window.column == 0 || nulls[key])
		return false;

	nulls[lowest] = nulls[highest] = false;
	if (!pa_view_window(view, values[key], &values[lowest], &values[highest]))
	{
		values[lowest] = view->window.type == DATEOID ? DateADTGetDatum(DATEVAL_NOBEGIN) : TimestampGetDatum(DT_NOBEGIN);
		values[highest] = view->window.type == DATEOID ? DateADTGetDatum(DATEVAL_NOEND) : TimestampGetDatum(DT_NOEND);
		return false;
	}

	return changes->prefers_range && pa_view_window_is_exact(view, values[key]);
}

/*
 * keep puts a key into the part that it belongs to.
 */
static void
keep(PaChanges *changes, TupleTableSlot *row)
{
	MemoryContext caller_context = MemoryContextSwitchTo(changes->row_context);
	Datum		values[INDEX_MAX_KEYS + 2];
	bool		nulls[INDEX_MAX_KEYS + 2];
	uint32		null_keys = 0;
	bool		by_range;
	PaChangesPart *part;

	slot_getallattrs(row);
	memcpy(values, row->tts_values, sizeof(Datum) * changes->keys->natts);
	memcpy(nulls, row->tts_isnull, sizeof(bool) * changes->keys->natts);
	for (int i = 0; i < changes->view->key_count; i++)
		if (nulls[i])
			null_keys |= (uint32) 1 << i;
	by_range = set_window(changes, values, nulls);
	MemoryContextSwitchTo(caller_context);

	part = part_of(changes, null_keys, by_range);
	tuplestore_putvalues(part->store, changes->keys, values, nulls);
	part->count++;
	changes->count++;
	MemoryContextReset(changes->row_context);
}

/*
 * equality compares the keys of two rows.
 */
static ExprState *
equality(PaChanges *changes)
{
	PaView	   *view = changes->view;
	AttrNumber	columns[INDEX_MAX_KEYS];
	Oid			operators[INDEX_MAX_KEYS];
	Oid			collations[INDEX_MAX_KEYS];

	for (int i = 0; i < view->key_count; i++)
	{
		columns[i] = i + 1;
		operators[i] = view->keys[i].equal;
		collations[i] = view->keys[i].collation;
	}

	return execTuplesMatchPrepare(changes->keys, view->key_count, columns, operators, collations, NULL);
}

/*
 * pa_finish_changes sorts the keys and drops repetitions.
 */
void
pa_finish_changes(PaChanges *changes)
{
	TupleTableSlot *row;
	TupleTableSlot *last;
	ExprState  *is_equal;
	ExprContext *context;

	if (changes->sort == NULL)
		return;

	if (!changes->everything)
	{
		row = MakeSingleTupleTableSlot(changes->keys, &TTSOpsMinimalTuple);
		last = MakeSingleTupleTableSlot(changes->keys, &TTSOpsMinimalTuple);
		is_equal = equality(changes);
		context = CreateStandaloneExprContext();

		tuplesort_performsort(changes->sort);
		while (tuplesort_gettupleslot(changes->sort, true, false, row, NULL))
		{
			CHECK_FOR_INTERRUPTS();
			context->ecxt_innertuple = row;
			context->ecxt_outertuple = last;
			if (!TTS_EMPTY(last) && ExecQualAndReset(is_equal, context))
				continue;
			keep(changes, row);
			ExecCopySlot(last, row);
		}

		FreeExprContext(context, true);
		ExecDropSingleTupleTableSlot(last);
		ExecDropSingleTupleTableSlot(row);
	}

	tuplesort_end(changes->sort);
	ExecDropSingleTupleTableSlot(changes->slot);
	changes->sort = NULL;
}

/*
 * pa_copy_changed_keys appends the keys to a list of keys.
 */
void
pa_copy_changed_keys(PaChanges *changes, Tuplestorestate *keys)
{
	int			key_count = changes->view->key_count;
	TupleDesc	descriptor = CreateTemplateTupleDesc(key_count);
	TupleTableSlot *row = MakeSingleTupleTableSlot(changes->keys, &TTSOpsMinimalTuple);
	ListCell   *cell;

	for (int i = 1; i <= key_count; i++)
		TupleDescCopyEntry(descriptor, i, changes->keys, i);

	foreach(cell, changes->parts)
	{
		PaChangesPart *part = lfirst(cell);

		while (tuplestore_gettupleslot(part->store, true, false, row))
		{
			slot_getallattrs(row);
			tuplestore_putvalues(keys, descriptor, row->tts_values, row->tts_isnull);
		}
		tuplestore_rescan(part->store);
	}
	ExecDropSingleTupleTableSlot(row);
}

/*
 * pa_end_changes releases what a set holds besides memory: files.
 */
void
pa_end_changes(PaChanges *changes)
{
	ListCell   *cell;

	foreach(cell, changes->parts)
		tuplestore_end(((PaChangesPart *) lfirst(cell))->store);
	changes->parts = NIL;
	MemoryContextDelete(changes->row_context);
}
