/*
 * refresh_source.c
 *		Noticing changes of a view's source that no trigger sees.
 *
 * TRUNCATE, ATTACH, DETACH and DROP of a partition, and DISABLE TRIGGER, fire no row trigger.  So a refresh writes
 * down what the source consisted of: for each table that holds rows of it the storage, which TRUNCATE and everything
 * that rewrites the table replace, and the row of our trigger in pg_trigger, which is another one after the trigger
 * was disabled and enabled, or the table detached and attached.  The next refresh compares.
 *
 * It is written down before the snapshot is taken: what happens in between is noticed next time.
 */
#include "prod_analytics.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "guard.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "partition.h"
#include "refresh.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/*
 * forbid_later refuses to go on when a row of a catalog was made after the transaction took its snapshot.
 *
 * We see the table as it is now, and write that down, but not the rows that came with the change: nobody would look
 * for them later.
 */
static void
forbid_later(HeapTuple row, Oid relation)
{
	TransactionId xmin = HeapTupleHeaderGetXmin(row->t_data);

	if (!IsolationUsesXactSnapshot() || !TransactionIdIsNormal(xmin) ||
		TransactionIdIsCurrentTransactionId(xmin) || !XidInMVCCSnapshot(xmin, GetTransactionSnapshot()))
		return;

	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to a change of table \"%s\"", get_rel_name(relation)),
			 errhint("Try the transaction again.")));
}

/*
 * forbid_later_table does so for a table: its storage, and its being a partition.
 */
static void
forbid_later_table(Oid relation)
{
	HeapTuple	class_row = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	row;

	if (HeapTupleIsValid(class_row))
	{
		forbid_later(class_row, relation);
		ReleaseSysCache(class_row);
	}

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
	scan = systable_beginscan(inherits, InheritsRelidSeqnoIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(row = systable_getnext(scan)))
		forbid_later(row, relation);
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
}

/*
 * find_trigger looks for our trigger on a table; of several the best counts.
 */
static void
find_trigger(PaSourceTable *table, Oid function)
{
	Relation	triggers = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	row;

	table->fires = 'D';
	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(table->relation));
	scan = systable_beginscan(triggers, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(row = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(row);

		if (trigger->tgfoid != function || trigger->tgtype != PA_CAPTURE_TRIGGER_TYPE ||
			trigger->tgattr.dim1 != 0 || !heap_attisnull(row, Anum_pg_trigger_tgqual, NULL) ||
			table->fires == TRIGGER_FIRES_ALWAYS)
			continue;
		forbid_later(row, table->relation);
		table->trigger = trigger->oid;
		table->trigger_xmin = HeapTupleHeaderGetRawXmin(row->t_data);
		table->fires = trigger->tgenabled;
	}
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
}

/*
 * window_number is a value of the partition key as a number, so that values can be written down and compared.
 */
static int64
window_number(PaView *view, Datum value)
{
	return view->window.type == DATEOID ? DatumGetDateADT(value) : DatumGetTimestampTz(value);
}

/*
 * bound_value is a bound of a partition; infinity when it is MINVALUE, MAXVALUE or not of a type of time.
 */
static int64
bound_value(PaView *view, List *datums, int64 unbounded)
{
	PartitionRangeDatum *datum = linitial_node(PartitionRangeDatum, datums);

	if (datum->kind != PARTITION_RANGE_DATUM_VALUE || castNode(Const, datum->value)->constisnull)
		return unbounded;

	return window_number(view, castNode(Const, datum->value)->constvalue);
}

/*
 * set_bounds finds out which values of the partition key a table's rows have.
 */
static void
set_bounds(PaView *view, PaSourceTable *table)
{
	HeapTuple	row;
	Datum		bounds;
	bool		isnull;
	PartitionBoundSpec *spec;

	table->lowest = PG_INT64_MIN;
	table->highest = PG_INT64_MAX;
	if (view->window.column == 0 || table->relation == view->source ||
		get_partition_parent(table->relation, true) != view->source)
		return;

	row = SearchSysCache1(RELOID, ObjectIdGetDatum(table->relation));
	if (!HeapTupleIsValid(row))
		return;
	bounds = SysCacheGetAttr(RELOID, row, Anum_pg_class_relpartbound, &isnull);
	if (!isnull)
	{
		spec = stringToNode(TextDatumGetCString(bounds));
		if (spec->strategy == PARTITION_STRATEGY_RANGE && !spec->is_default)
		{
			table->lowest = bound_value(view, spec->lowerdatums, PG_INT64_MIN);
			table->highest = bound_value(view, spec->upperdatums, PG_INT64_MAX);
		}
	}
	ReleaseSysCache(row);
}

/*
 * describe writes down what a table is now.
 */
static PaSourceTable *
describe(PaView *view, Oid relation, Oid function)
{
	PaSourceTable *table = palloc0(sizeof(PaSourceTable));
	Relation	open = table_open(relation, NoLock);

	if (IsolationUsesXactSnapshot())
		forbid_later_table(relation);
	table->relation = relation;
	table->storage = open->rd_rel->relfilenode;
	find_trigger(table, function);
	/* In storage that this transaction has made, TRUNCATE leaves no trace. */
	if (pa_has_new_storage(open))
		table->fires = PA_FIRES_UNTRACED;
	set_bounds(view, table);
	table_close(open, NoLock);

	return table;
}

/*
 * pa_describe_source lists the tables that hold the rows of a view's source, and keeps them from being truncated
 * or dropped until the end of the transaction.
 */
List *
pa_describe_source(PaView *view)
{
	Oid			function = pa_capture_function();
	List	   *relations;
	List	   *tables = NIL;
	ListCell   *cell;

	LockRelationOid(view->source, AccessShareLock);
	relations = find_all_inheritors(view->source, AccessShareLock, NULL);

	foreach(cell, relations)
		if (get_rel_relkind(lfirst_oid(cell)) != RELKIND_PARTITIONED_TABLE)
			tables = lappend(tables, describe(view, lfirst_oid(cell), function));

	return tables;
}

/*
 * heading names the database and the view.  What is under another one is worthless, as after a restore, where the
 * same OIDs mean other tables.
 */
static char *
heading(PaView *view)
{
	return psprintf(UINT64_FORMAT " %u %u %u", GetSystemIdentifier(), MyDatabaseId, view->matview, view->source);
}

/*
 * pa_source_text writes a description down.
 */
char *
pa_source_text(PaView *view, List *tables)
{
	StringInfoData lines;
	ListCell   *cell;

	initStringInfo(&lines);
	appendStringInfoString(&lines, heading(view));
	foreach(cell, tables)
	{
		PaSourceTable *table = lfirst(cell);

		appendStringInfo(&lines, "\n%u %u %u %u %c " INT64_FORMAT " " INT64_FORMAT,
						 table->relation, table->storage, table->trigger, table->trigger_xmin, table->fires,
						 table->lowest, table->highest);
	}

	return lines.data;
}

/*
 * parse reads what pa_source_text has written; false when that is about something else.
 */
static bool
parse(PaView *view, const char *lines, List **tables)
{
	char	   *rest = NULL;
	char	   *line = strtok_r(pstrdup(lines), "\n", &rest);

	*tables = NIL;
	if (line == NULL || strcmp(line, heading(view)) != 0)
		return false;

	while ((line = strtok_r(NULL, "\n", &rest)) != NULL)
	{
		PaSourceTable *table = palloc0(sizeof(PaSourceTable));

		if (sscanf(line, "%u %u %u %u %c " INT64_FORMAT " " INT64_FORMAT,
				   &table->relation, &table->storage, &table->trigger, &table->trigger_xmin, &table->fires,
				   &table->lowest, &table->highest) != 7)
			return false;
		*tables = lappend(*tables, table);
	}

	return true;
}

/*
 * find_table finds a table in a description; NULL when it is not there.
 */
static PaSourceTable *
find_table(List *tables, Oid relation)
{
	ListCell   *cell;

	foreach(cell, tables)
	{
		PaSourceTable *table = lfirst(cell);

		if (table->relation == relation)
			return table;
	}

	return NULL;
}

/*
 * is_captured tells whether all changes of a table between two descriptions were captured.
 */
static bool
is_captured(PaSourceTable *then, PaSourceTable *now)
{
	return then && now &&
		then->fires == TRIGGER_FIRES_ALWAYS && now->fires == TRIGGER_FIRES_ALWAYS &&
		then->storage == now->storage &&
		then->trigger == now->trigger && then->trigger_xmin == now->trigger_xmin;
}

/*
 * is_within tells whether rows of a group can have been in a table, by the bounds of the partition.
 */
static bool
is_within(PaView *view, PaSourceTable *table, Datum key)
{
	Datum		lowest;
	Datum		highest;

	return !pa_view_window(view, key, &lowest, &highest) ||
		(window_number(view, lowest) < table->highest && window_number(view, highest) >= table->lowest);
}

/*
 * add_stored adds the keys of stored groups that may have had rows in one of some tables, whose rows are gone.
 */
static void
add_stored(PaChanges *changes, List *tables, Relation matview)
{
	PaView	   *view = changes->view;
	TableScanDesc scan = table_beginscan(matview, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *row = table_slot_create(matview, NULL);
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
	{
		bool		may_have = false;
		ListCell   *cell;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < view->key_count; i++)
			values[i] = slot_getattr(row, view->keys[i].column, &nulls[i]);
		foreach(cell, tables)
			may_have |= nulls[view->window.key] || is_within(view, lfirst(cell), values[view->window.key]);
		if (may_have)
			pa_add_changed_key(changes, values, nulls);
	}
	ExecDropSingleTupleTableSlot(row);
	table_endscan(scan);
}

/*
 * warn_of_trigger tells that a table has to be looked at as a whole each time.
 */
static void
warn_of_trigger(PaView *view, PaSourceTable *table)
{
	char	   *name = get_rel_name(table->relation);

	ereport(WARNING,
			(errmsg("changes of table \"%s\" may not be captured", name ? name : "?"),
			 errdetail("Its trigger that calls %s.capture_changes() is missing, or does not fire for all changes.", PA_SCHEMA),
			 errhint("Until it does, each refresh looks at the whole table.  Mend it with: SELECT %s.enable_incremental_refresh(%s);",
					 PA_SCHEMA, quote_literal_cstr(pa_relation_sql(view->matview)))));
}

/*
 * pa_add_unseen adds the groups that may have changed without a trigger firing since the source was described as
 * "before", which is NULL when it never was.  The active snapshot was taken after it was described as "tables".
 */
void
pa_add_unseen(PaChanges *changes, List *tables, const char *before, Relation matview)
{
	PaView	   *view = changes->view;
	List	   *described;
	List	   *gone = NIL;
	ListCell   *cell;

	if (before == NULL || !parse(view, before, &described))
	{
		changes->everything = true;
		return;
	}

	foreach(cell, described)
	{
		PaSourceTable *then = lfirst(cell);

		if (is_captured(then, find_table(tables, then->relation)) || list_member_oid(changes->expired, then->relation))
			continue;
		if (then->lowest == PG_INT64_MIN && then->highest == PG_INT64_MAX)
			changes->everything = true;
		gone = lappend(gone, then);
	}
	if (gone != NIL && !changes->everything)
		add_stored(changes, gone, matview);

	foreach(cell, tables)
	{
		PaSourceTable *now = lfirst(cell);

		if (is_captured(find_table(described, now->relation), now))
			continue;
		if (now->fires != TRIGGER_FIRES_ALWAYS && now->fires != PA_FIRES_UNTRACED)
			warn_of_trigger(view, now);
		if (!changes->everything)
			pa_add_keys_of(changes, now->relation);
	}
}
