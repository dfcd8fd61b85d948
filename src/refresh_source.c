/*
 * refresh_source.c
 *		Noticing changes of a view's source that no trigger sees.
 *
 * TRUNCATE, ATTACH, DETACH and DROP of a partition, and DISABLE TRIGGER, fire no row trigger.  So a refresh writes
 * down what the source consisted of: for each table that holds rows of it the storage, which TRUNCATE and everything
 * that rewrites the table replace, and the row of our trigger in pg_trigger, which is another one after the trigger
 * was disabled and enabled, or the table detached and attached.  The next refresh compares.
 *
 * It is found out before the snapshot is taken: what happens in between is noticed next time.
 *
 * A plain REFRESH can take the view anywhere: its snapshot may be older than the last refresh of ours, and it sees
 * partitions that may be gone before the next one.  So the view's row in pg_class, of which REFRESH makes another
 * version, is compared too.
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
#include "common/hashfn.h"
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

/* A PaRowVersion as text. */
#define VERSION_FORMAT "%u/%u/%hu"

/* How many tables a warning names. */
#define MOST_NAMED 5

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
			 errmsg("could not serialize access due to a change of \"%s\"", get_rel_name(relation)),
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
 * version_of tells which version of its row in a catalog a tuple is.
 */
static PaRowVersion
version_of(HeapTuple row)
{
	PaRowVersion version;

	version.xmin = HeapTupleHeaderGetRawXmin(row->t_data);
	version.block = ItemPointerGetBlockNumber(&row->t_self);
	version.offset = ItemPointerGetOffsetNumber(&row->t_self);

	return version;
}

static bool
is_same_version(PaRowVersion a, PaRowVersion b)
{
	return a.xmin == b.xmin && a.block == b.block && a.offset == b.offset;
}

/*
 * parent_trigger is the trigger that another one was cloned from; InvalidOid when it is not a clone.  *table gets the
 * table that the other one is on.
 */
static Oid
parent_trigger(Relation triggers, Oid trigger, Oid *table)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	row;
	Oid			parent = InvalidOid;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
	scan = systable_beginscan(triggers, TriggerOidIndexId, true, NULL, 1, &key);
	row = systable_getnext(scan);
	if (HeapTupleIsValid(row))
	{
		*table = ((Form_pg_trigger) GETSTRUCT(row))->tgrelid;
		parent = ((Form_pg_trigger) GETSTRUCT(row))->tgparentid;
	}
	systable_endscan(scan);

	return parent;
}

/*
 * is_of_source tells whether a trigger was made for the view's source, or is a clone of one that was: a partition that
 * another view reads has one of its own, which it keeps when it is detached.
 */
static bool
is_of_source(PaView *view, Relation triggers, Form_pg_trigger trigger)
{
	Oid			table = trigger->tgrelid;
	Oid			parent = trigger->tgparentid;

	while (OidIsValid(parent))
		parent = parent_trigger(triggers, parent, &table);

	return table == view->source;
}

/*
 * is_made_blindly tells whether the transaction has made a row of a catalog while its snapshot is older: what others did
 * until then was noted by nobody, and is not seen by us.
 */
static bool
is_made_blindly(HeapTuple row)
{
	return IsolationUsesXactSnapshot() && TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(row->t_data));
}

/*
 * find_trigger looks for our trigger on a table; of several the best counts.
 */
static void
find_trigger(PaView *view, PaSourceTable *table, Oid function)
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
			table->fires == TRIGGER_FIRES_ALWAYS || !is_of_source(view, triggers, trigger))
			continue;
		forbid_later(row, table->relation);
		table->trigger = trigger->oid;
		table->trigger_version = version_of(row);
		table->fires = trigger->tgenabled;
		if (table->fires == TRIGGER_FIRES_ALWAYS && is_made_blindly(row))
			table->fires = PA_FIRES_UNTRACED;
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
	find_trigger(view, table, function);
	/* In storage that this transaction has made, TRUNCATE leaves no trace. */
	if (pa_has_new_storage(open))
		table->fires = PA_FIRES_UNTRACED;
	set_bounds(view, table);
	table_close(open, NoLock);

	return table;
}

/*
 * pa_lock_source keeps a view's source and its partitions from being changed, truncated or dropped until the end of the
 * transaction, and tells anew what the view computes: while others were waited for, a column's expression may have become
 * another one.  The view is locked.
 */
PaView *
pa_lock_source(PaView *view)
{
	LockRelationOid(view->source, AccessShareLock);
	(void) find_all_inheritors(view->source, AccessShareLock, NULL);

	return pa_view(view->matview);
}

/*
 * pa_describe_source lists the tables that hold the rows of a view's source, which is locked.
 */
List *
pa_describe_source(PaView *view)
{
	Oid			function = pa_capture_function();
	List	   *relations;
	List	   *tables = NIL;
	ListCell   *cell;

	if (IsolationUsesXactSnapshot())
		forbid_later_table(view->matview);
	relations = find_all_inheritors(view->source, AccessShareLock, NULL);

	foreach(cell, relations)
		if (get_rel_relkind(lfirst_oid(cell)) != RELKIND_PARTITIONED_TABLE)
			tables = lappend(tables, describe(view, lfirst_oid(cell), function));

	return tables;
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
 * pa_add_latecomers adds the tables that were attached after the source was described.  What was computed meanwhile
 * may contain rows of theirs, or not.
 */
List *
pa_add_latecomers(PaView *view, List *tables)
{
	Oid			function = pa_capture_function();
	List	   *late = NIL;
	ListCell   *cell;

	foreach(cell, find_all_inheritors(view->source, AccessShareLock, NULL))
	{
		PaSourceTable *table;

		if (get_rel_relkind(lfirst_oid(cell)) == RELKIND_PARTITIONED_TABLE || find_table(tables, lfirst_oid(cell)))
			continue;
		table = describe(view, lfirst_oid(cell), function);
		table->fires = PA_FIRES_UNTRACED;
		late = lappend(late, table);
	}

	return list_concat(tables, late);
}

/*
 * view_version tells which version of the view's row in pg_class is in force.
 */
static PaRowVersion
view_version(PaView *view)
{
	HeapTuple	row = SearchSysCache1(RELOID, ObjectIdGetDatum(view->matview));
	PaRowVersion version;

	if (!HeapTupleIsValid(row))
		elog(ERROR, "cache lookup failed for relation %u", view->matview);
	version = version_of(row);
	ReleaseSysCache(row);

	return version;
}

/*
 * row_shape stands for the names and types of the source's columns, of which values the view may be made: those of
 * a row as JSON, for one.
 */
static uint64
row_shape(PaView *view)
{
	Oid			source = view->source;
	uint64		shape = 0;

	for (AttrNumber column = 1; SearchSysCacheExists2(ATTNUM, ObjectIdGetDatum(source), Int16GetDatum(column)); column++)
	{
		/* NULL: the column was dropped. */
		char	   *name = get_attname(source, column, true);

		if (name)
			shape = hash_bytes_extended((unsigned char *) name, strlen(name), shape);
		shape = hash_combine64(shape, name ? get_atttype(source, column) : InvalidOid);
	}

	return shape;
}

/*
 * heading names the database and the view.  What is under another one is worthless, as after a restore, where the
 * same OIDs mean other tables.
 */
static char *
heading(PaView *view)
{
	PaRowVersion version = view_version(view);

	return psprintf(UINT64_FORMAT " %u %u " VERSION_FORMAT " %u " UINT64_FORMAT, GetSystemIdentifier(), MyDatabaseId,
					view->matview, version.xmin, version.block, version.offset, view->source,
					bms_is_member(0, view->columns) ? row_shape(view) : 0);
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

		appendStringInfo(&lines, "\n%u %u %u " VERSION_FORMAT " %c " INT64_FORMAT " " INT64_FORMAT,
						 table->relation, table->storage, table->trigger, table->trigger_version.xmin,
						 table->trigger_version.block, table->trigger_version.offset, table->fires,
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

		/* The numbers are those that describe() has printed.  NOLINTNEXTLINE(cert-err34-c) */
		if (sscanf(line, "%u %u %u " VERSION_FORMAT " %c " INT64_FORMAT " " INT64_FORMAT,
				   &table->relation, &table->storage, &table->trigger, &table->trigger_version.xmin,
				   &table->trigger_version.block, &table->trigger_version.offset, &table->fires,
				   &table->lowest, &table->highest) != 9)
			return false;
		*tables = lappend(*tables, table);
	}

	return true;
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
		then->trigger == now->trigger && is_same_version(then->trigger_version, now->trigger_version);
}

/*
 * is_within tells whether rows of a group can have been in a table, by the bounds of the partition.  What has no upper
 * bound, or infinity, may hold infinity too, which is the same number.
 */
static bool
is_within(PaView *view, PaSourceTable *table, Datum key)
{
	Datum		lowest;
	Datum		highest;

	return !pa_view_window(view, key, &lowest, &highest) ||
		((window_number(view, lowest) < table->highest || table->highest == PG_INT64_MAX) &&
		 window_number(view, highest) >= table->lowest);
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
 * warn_of_triggers tells that tables have to be looked at as a whole each time.
 */
static void
warn_of_triggers(PaView *view, List *tables)
{
	StringInfoData names;
	ListCell   *cell;

	if (tables == NIL)
		return;

	initStringInfo(&names);
	foreach(cell, tables)
	{
		char	   *name = get_rel_name(((PaSourceTable *) lfirst(cell))->relation);

		if (foreach_current_index(cell) == MOST_NAMED)
		{
			appendStringInfoString(&names, ", ...");
			break;
		}
		appendStringInfo(&names, "%s\"%s\"", foreach_current_index(cell) > 0 ? ", " : "", name ? name : "?");
	}

	ereport(WARNING,
			(errmsg("changes of what materialized view \"%s\" reads may not be captured: %s",
					get_rel_name(view->matview), names.data),
			 errdetail("The trigger that calls %s.capture_changes() is missing there, or does not fire for all changes.",
					   PA_SCHEMA),
			 errhint("Until it does, each refresh looks at all rows there.  Mend it with: SELECT %s.enable_incremental_refresh(%s);",
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
	List	   *weak = NIL;
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
		/* Without its rows, a group that HAVING has kept from being stored may qualify. */
		if ((then->lowest == PG_INT64_MIN && then->highest == PG_INT64_MAX) || view->query->havingQual)
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
			weak = lappend(weak, now);
		if (!changes->everything)
			pa_add_keys_of(changes, now->relation);
	}
	warn_of_triggers(view, weak);
}
