/*
 * ingest_dedupe.c
 *		Which staged rows are events that are there already.
 *
 * The same event_id and event_time is a repetition, and dropped.  The same event_id at another time within
 * the dedupe window is a contradiction, and set aside; further away it is another event.  What is there
 * are the events, and the rows before it in the same run.
 *
 * Events are looked up by the index on (event_id, event_time) of the partitions that the window reaches,
 * but for those whose numbers the chunk does not touch at all, which is the usual case: numbers grow.
 */
#include "prod_analytics.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/int.h"
#include "common/pg_prng.h"
#include "compat.h"
#include "ingest.h"
#include "miscadmin.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "settings.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* On event_id, and on event_time from and to. */
#define NUMBER_KEYS 3

/* A table that may hold events with the numbers of a chunk. */
typedef struct Probe
{
	Relation	table;
	Relation	index;
	IndexScanDesc scan;			/* NULL: the table is empty */
	TupleTableSlot *slot;
	AttrNumber	time_column;
	int64		lowest;			/* event_id in it */
	int64		highest;
} Probe;

/* The search for the duplicates of a chunk. */
typedef struct Search
{
	Ingest	   *ingest;
	Snapshot	snapshot;
	PartitionDesc partitions;
	List	  **probes;			/* for each partition: of Probe */
	bool	   *is_open;		/* for each partition: whether its probes have been made */
	int			n_rows;			/* those that have a number, in its order */
	StagedRow **rows;
	int			n_times;		/* of the rows with the number at hand that become events */
	int			max_times;
	TimestampTz *times;
} Search;

/* What is found. */
typedef enum Finding
{
	FOUND_NOTHING,
	FOUND_SAME,					/* the same event */
	FOUND_OTHER_TIME			/* another one with the same number, within the window */
} Finding;

/*
 * has_types tells whether an index is on a bigint and a timestamptz.
 */
static bool
has_types(Relation index)
{
	TupleDesc	descriptor = RelationGetDescr(index);

	return TupleDescAttr(descriptor, 0)->atttypid == INT8OID && TupleDescAttr(descriptor, 1)->atttypid == TIMESTAMPTZOID;
}

/*
 * number_index opens the index on event_id and event_time of a table of events.
 */
static Relation
number_index(Relation table)
{
	AttrNumber	id_column = get_attnum(RelationGetRelid(table), "event_id");
	AttrNumber	time_column = get_attnum(RelationGetRelid(table), "event_time");
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(table))
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (index->rd_rel->relam == BTREE_AM_OID && form->indisvalid && form->indisunique && form->indnkeyatts == 2 && has_types(index) &&
			form->indkey.values[0] == id_column && form->indkey.values[1] == time_column &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
			return index;
		index_close(index, AccessShareLock);
	}

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s\" has no unique index on (event_id, event_time)", RelationGetRelationName(table)),
			 errhint("Make it the primary key of \"%s.events\" again.", PA_SCHEMA)));
}

/*
 * edge_number finds the lowest or highest event_id of a table; false when it is empty.
 */
static bool
edge_number(Search *search, Probe *probe, ScanDirection direction, int64 *number)
{
	AttrNumber	id_column = get_attnum(RelationGetRelid(probe->table), "event_id");
	IndexScanDesc scan = pa_index_beginscan(probe->table, probe->index, search->snapshot, 0);
	bool		isnull;
	bool		found;

	index_rescan(scan, NULL, 0, NULL, 0);
	found = index_getnext_slot(scan, direction, probe->slot);
	if (found)
		*number = DatumGetInt64(slot_getattr(probe->slot, id_column, &isnull));
	index_endscan(scan);

	return found;
}

/*
 * open_probe prepares looking up numbers in a table.
 */
static Probe *
open_probe(Search *search, Oid relation)
{
	Probe	   *probe = palloc0(sizeof(Probe));

	probe->table = table_open(relation, AccessShareLock);
	probe->index = number_index(probe->table);
	probe->slot = table_slot_create(probe->table, NULL);
	probe->time_column = get_attnum(relation, "event_time");
	if (edge_number(search, probe, ForwardScanDirection, &probe->lowest) &&
		edge_number(search, probe, BackwardScanDirection, &probe->highest))
		probe->scan = pa_index_beginscan(probe->table, probe->index, search->snapshot, NUMBER_KEYS);

	return probe;
}

/*
 * close_probe releases what open_probe took, but for the lock.
 */
static void
close_probe(Probe *probe)
{
	if (probe->scan)
		index_endscan(probe->scan);
	ExecDropSingleTupleTableSlot(probe->slot);
	index_close(probe->index, NoLock);
	table_close(probe->table, NoLock);
}

/*
 * probes_of are the probes of a partition: one, unless it has partitions itself.  Foreign tables cannot be
 * looked into.
 */
static List *
probes_of(Search *search, int partition)
{
	ListCell   *cell;

	if (search->is_open[partition])
		return search->probes[partition];

	foreach(cell, find_all_inheritors(search->partitions->oids[partition], AccessShareLock, NULL))
		if (get_rel_relkind(lfirst_oid(cell)) == RELKIND_RELATION)
			search->probes[partition] = lappend(search->probes[partition], open_probe(search, lfirst_oid(cell)));
	search->is_open[partition] = true;

	return search->probes[partition];
}

/*
 * worse is the finding that counts of two.
 */
static Finding
worse(Finding a, Finding b)
{
	if (a == FOUND_SAME || b == FOUND_SAME)
		return FOUND_SAME;

	return Max(a, b);
}

/*
 * earliest and latest are the edges of the dedupe window around an instant.
 */
static TimestampTz
earliest(Ingest *ingest, TimestampTz event_time)
{
	int64		result;

	return pg_sub_s64_overflow(event_time, ingest->window, &result) ? DT_NOBEGIN : result;
}

static TimestampTz
latest(Ingest *ingest, TimestampTz event_time)
{
	int64		result;

	return pg_add_s64_overflow(event_time, ingest->window, &result) ? DT_NOEND : result;
}

/*
 * compare_times says what an event with the same number at another time is to a row.
 */
static Finding
compare_times(Ingest *ingest, TimestampTz event_time, TimestampTz other)
{
	if (event_time == other)
		return FOUND_SAME;

	return (event_time > other ? event_time - other : other - event_time) <= ingest->window ? FOUND_OTHER_TIME : FOUND_NOTHING;
}

/*
 * look_up positions a probe before the events with a number whose times are within the window.
 */
static void
look_up(Search *search, Probe *probe, int64 event_id, TimestampTz event_time)
{
	TimestampTz from = earliest(search->ingest, event_time);
	TimestampTz to = latest(search->ingest, event_time);
	ScanKeyData keys[NUMBER_KEYS];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(event_id));
	ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE, TimestampTzGetDatum(from));
	ScanKeyInit(&keys[2], 2, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE, TimestampTzGetDatum(to));
	index_rescan(probe->scan, keys, NUMBER_KEYS, NULL, 0);
}

/*
 * probe_table looks for an event in a table.
 */
static Finding
probe_table(Search *search, Probe *probe, int64 event_id, TimestampTz event_time)
{
	Finding		finding = FOUND_NOTHING;

	if (probe->scan == NULL || event_id < probe->lowest || event_id > probe->highest)
		return FOUND_NOTHING;

	look_up(search, probe, event_id, event_time);
	while (finding != FOUND_SAME && index_getnext_slot(probe->scan, ForwardScanDirection, probe->slot))
	{
		bool		isnull;
		TimestampTz other = DatumGetTimestampTz(slot_getattr(probe->slot, probe->time_column, &isnull));

		CHECK_FOR_INTERRUPTS();
		finding = worse(finding, compare_times(search->ingest, event_time, other));
	}

	return finding;
}

/*
 * probe_partition looks for an event in a partition.
 */
static Finding
probe_partition(Search *search, int partition, int64 event_id, TimestampTz event_time)
{
	Finding		finding = FOUND_NOTHING;
	ListCell   *cell;

	foreach(cell, probes_of(search, partition))
		finding = worse(finding, probe_table(search, lfirst(cell), event_id, event_time));

	return finding;
}

/*
 * slot_of is where among the bounds of the partitions an instant falls.
 */
static int
slot_of(Search *search, TimestampTz at)
{
	PartitionKey key = RelationGetPartitionKey(search->ingest->events);
	Datum		value = TimestampTzGetDatum(at);
	bool		is_equal;

	return partition_range_datum_bsearch(key->partsupfunc, key->partcollation, search->partitions->boundinfo, 1, &value, &is_equal);
}

/*
 * find_event looks for an event in all partitions that the window reaches.
 */
static Finding
find_event(Search *search, int64 event_id, TimestampTz event_time)
{
	PartitionBoundInfo bounds = search->partitions->boundinfo;
	Finding		finding = FOUND_NOTHING;
	int			last;

	if (search->partitions->nparts == 0)
		return FOUND_NOTHING;

	last = slot_of(search, latest(search->ingest, event_time));
	for (int slot = slot_of(search, earliest(search->ingest, event_time)); slot <= last; slot++)
		if (bounds->indexes[slot + 1] >= 0)
			finding = worse(finding, probe_partition(search, bounds->indexes[slot + 1], event_id, event_time));
	if (partition_bound_has_default(bounds))
		finding = worse(finding, probe_partition(search, bounds->default_index, event_id, event_time));

	return finding;
}

/*
 * find_row looks for an event among the rows with the same number that become events.  Their times are
 * kept in order, so only the nearest ones matter; *place is where the new one belongs.
 */
static Finding
find_row(Search *search, TimestampTz event_time, int *place)
{
	Finding		finding = FOUND_NOTHING;
	int			low = 0;
	int			high = search->n_times;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (search->times[middle] < event_time)
			low = middle + 1;
		else
			high = middle;
	}
	*place = low;

	if (low < search->n_times)
		finding = compare_times(search->ingest, event_time, search->times[low]);
	if (low > 0)
		finding = worse(finding, compare_times(search->ingest, event_time, search->times[low - 1]));

	return finding;
}

/*
 * remember_row adds the time of a row that becomes an event.
 */
static void
remember_row(Search *search, TimestampTz event_time, int place)
{
	if (search->n_times == search->max_times)
	{
		search->max_times = Max(16, 2 * search->max_times);
		search->times = search->times ? repalloc(search->times, sizeof(TimestampTz) * search->max_times) :
			palloc(sizeof(TimestampTz) * search->max_times);
	}
	memmove(&search->times[place + 1], &search->times[place], sizeof(TimestampTz) * (search->n_times - place));
	search->times[place] = event_time;
	search->n_times++;
}

/*
 * settle_row decides whether a row is a duplicate.
 */
static void
settle_row(Search *search, StagedRow *row)
{
	int64		event_id = DatumGetInt64(row->values[STAGED_EVENT_ID]);
	TimestampTz event_time = DatumGetTimestampTz(row->values[STAGED_EVENT_TIME]);
	int			place;
	Finding		finding = worse(find_row(search, event_time, &place), find_event(search, event_id, event_time));

	if (finding == FOUND_SAME)
		row->fate = ROW_DUPLICATE;
	else if (finding == FOUND_OTHER_TIME)
		pa_add_reason(row, REASON_DUPLICATE_EVENT_ID, "/event_id",
					  psprintf("event_id " INT64_FORMAT " is that of another event no more than %s away",
							   event_id, pa_dedupe_window), NULL);
	else
		remember_row(search, event_time, place);
}

/*
 * compare_rows orders rows by number, those with the same one as they were staged.
 */
static int
compare_rows(const void *a, const void *b)
{
	const StagedRow *left = *(StagedRow *const *) a;
	const StagedRow *right = *(StagedRow *const *) b;
	int64		left_id = DatumGetInt64(left->values[STAGED_EVENT_ID]);
	int64		right_id = DatumGetInt64(right->values[STAGED_EVENT_ID]);

	if (left_id != right_id)
		return left_id < right_id ? -1 : 1;

	return (left > right) - (left < right);
}

/*
 * settle_rows decides which rows with a number are duplicates.
 */
static void
settle_rows(Search *search, Chunk *chunk)
{
	search->rows = palloc(sizeof(StagedRow *) * (chunk->count + 1));
	for (int i = 0; i < chunk->count; i++)
		if (chunk->rows[i].fate == ROW_EVENT && !chunk->rows[i].nulls[STAGED_EVENT_ID])
			search->rows[search->n_rows++] = &chunk->rows[i];
	qsort(search->rows, search->n_rows, sizeof(StagedRow *), compare_rows);

	for (int i = 0; i < search->n_rows; i++)
	{
		StagedRow  *row = search->rows[i];

		CHECK_FOR_INTERRUPTS();
		if (i == 0 || DatumGetInt64(row->values[STAGED_EVENT_ID]) != DatumGetInt64(search->rows[i - 1]->values[STAGED_EVENT_ID]))
			search->n_times = 0;
		settle_row(search, row);
	}
}

/*
 * is_in_chunk tells whether a row of the chunk has a number.
 */
static bool
is_in_chunk(Search *search, int64 event_id)
{
	int			low = 0;
	int			high = search->n_rows;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (DatumGetInt64(search->rows[middle]->values[STAGED_EVENT_ID]) < event_id)
			low = middle + 1;
		else
			high = middle;
	}

	return low < search->n_rows && DatumGetInt64(search->rows[low]->values[STAGED_EVENT_ID]) == event_id;
}

/*
 * next_number draws a number for a row that has none: the sequence's next, or a random one.
 */
static int64
next_number(Ingest *ingest, bool is_random)
{
	if (is_random || !OidIsValid(ingest->sequence))
		return (int64) (pg_prng_uint64(&pg_global_prng_state) >> 1);

	return nextval_internal(ingest->sequence, false);
}

/*
 * number_row gives a row that has no event_id one.  Each such row is an event of its own, so a number that
 * a loader gave to another event will not do; of random ones a second is enough.
 */
static void
number_row(Search *search, StagedRow *row)
{
	TimestampTz event_time = DatumGetTimestampTz(row->values[STAGED_EVENT_TIME]);
	int64		event_id = next_number(search->ingest, false);

	while (is_in_chunk(search, event_id) || find_event(search, event_id, event_time) != FOUND_NOTHING)
	{
		CHECK_FOR_INTERRUPTS();
		event_id = next_number(search->ingest, true);
	}
	row->values[STAGED_EVENT_ID] = Int64GetDatum(event_id);
	row->nulls[STAGED_EVENT_ID] = false;
}

/*
 * start_search opens what the search needs.
 */
static void
start_search(Search *search, Ingest *ingest)
{
	CommandCounterIncrement();
	search->ingest = ingest;
	search->snapshot = RegisterSnapshot(GetLatestSnapshot());
	search->partitions = ingest->partitions;
	search->probes = palloc0(sizeof(List *) * (search->partitions->nparts + 1));
	search->is_open = palloc0(sizeof(bool) * (search->partitions->nparts + 1));
}

/*
 * end_search closes it.
 */
static void
end_search(Search *search)
{
	for (int i = 0; i < search->partitions->nparts; i++)
	{
		ListCell   *cell;

		foreach(cell, search->probes[i])
			close_probe(lfirst(cell));
	}
	UnregisterSnapshot(search->snapshot);
}

/*
 * pa_find_duplicates decides which rows of a chunk, of those that could become events, are there already,
 * and numbers those that have no number.
 */
void
pa_find_duplicates(Ingest *ingest, Chunk *chunk)
{
	MemoryContext caller_context = MemoryContextSwitchTo(chunk->context);
	Search		search = {0};

	start_search(&search, ingest);
	settle_rows(&search, chunk);
	for (int i = 0; i < chunk->count; i++)
		if (chunk->rows[i].fate == ROW_EVENT && chunk->rows[i].nulls[STAGED_EVENT_ID])
			number_row(&search, &chunk->rows[i]);
	end_search(&search);
	MemoryContextSwitchTo(caller_context);
}
