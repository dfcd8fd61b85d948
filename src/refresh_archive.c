/*
 * refresh_archive.c
 *		Keeping the groups whose rows expire.
 *
 * When partitions expire, the groups that have no rows left go from the view, as its query demands.  They are copied
 * into the view's archive first, if it has one.  A group that has rows elsewhere stays in the view, and goes to the
 * archive with its last partition.
 *
 * The view is refreshed three times: before others have to wait; when they do, to catch up with what has changed
 * until then; and without the partitions.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
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

/* Saving groups of one view. */
typedef struct Archival
{
	PaMatview  *matview;
	PaView	   *view;
	Oid			archive;
	List	   *expired;		/* OIDs of the partitions */
	Tuplestorestate *expired_keys;	/* of their groups; NULL: the view's window tells, or nothing does */
} Archival;

/*
 * refuse stops the partitions from being dropped when history would be lost with them.
 */
static void
refuse(Archival *archival, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("groups of materialized view %s cannot be archived", archival->matview->name),
			 errdetail("%s  No partition was dropped.", detail),
			 errhint("Mend that, or go without an archive: SELECT %s.disable_incremental_refresh(%s); and register the view again.",
					 PA_SCHEMA, quote_literal_cstr(archival->matview->name))));
}

/*
 * refresh_now brings the view up to date.
 */
static void
refresh_now(PaRefresh *refresh)
{
	PaGuard		guard;

	pa_guard_enter(&guard, pa_owner(pa_table("registered_matviews")));
	pa_refresh_matview(refresh);
	pa_guard_leave(&guard);
}

/*
 * check checks that there is an archive that fits.
 */
static void
check(Archival *archival)
{
	if (archival->view == NULL || archival->view->reason)
		refuse(archival, psprintf("It cannot be kept incrementally any more: %s.",
								  archival->view ? archival->view->reason : "it has been dropped"));

	archival->archive = pa_named_relation(archival->matview->archive);
	if (!OidIsValid(archival->archive))
		refuse(archival, psprintf("Its archive, %s, does not exist.", archival->matview->archive));
	pa_check_archive(archival->view, archival->archive);
}

/*
 * list_keys lists the groups of the partitions, when only their rows tell which those are and may be read.
 *
 * The view has been refreshed, and until the transaction ends nobody else refreshes it: what commits after our snapshot
 * is captured, and seen by the next refresh.  What had committed by then must not be missed, so the snapshot is a new
 * one, not that of the statement.
 */
static void
list_keys(Archival *archival)
{
	PaGuard		guard;
	ListCell   *cell;

	if (archival->view->window.column != 0)
		return;
	foreach(cell, archival->expired)
		if (!pa_may_list_keys_of(archival->view, lfirst_oid(cell)))
			return;

	archival->expired_keys = tuplestore_begin_heap(true, false, work_mem);
	pa_enter_view(&guard, archival->view);
	PushActiveSnapshot(GetLatestSnapshot());
	foreach(cell, archival->expired)
		pa_list_keys_of(archival->view, lfirst_oid(cell), archival->expired_keys);
	PopActiveSnapshot();
	pa_guard_leave(&guard);
}

/*
 * begin prepares the archival of one view, while others go on working.
 *
 * The transaction must see what the partitions have when they are locked: rows that came after an older snapshot would
 * go with them.
 */
static void
begin(Archival *archival)
{
	PaRefresh	refresh = {archival->matview};

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("groups of materialized view %s cannot be archived in a transaction that does not see what others commit",
						archival->matview->name),
				 errhint("Drop expired partitions under READ COMMITTED.")));
	archival->view = pa_view(archival->matview->matview);
	check(archival);
	refresh_now(&refresh);
	list_keys(archival);
}

/*
 * reads tells whether a view reads a table, or what the table is a partition of.
 */
static bool
reads(PaMatview *matview, Oid table)
{
	PaView	   *view = pa_view(matview->matview);

	return view && (view->source == table || list_member_oid(get_partition_ancestors(table), view->source));
}

/*
 * pa_begin_archiving prepares to save the groups of partitions (of PaPartition) that are about to be dropped.
 */
List *
pa_begin_archiving(Oid parent, List *partitions)
{
	List	   *archivals = NIL;
	List	   *expired = NIL;
	ListCell   *cell;

	if (!OidIsValid(get_relname_relid("registered_matviews", get_namespace_oid(PA_SCHEMA, false))))
		return NIL;

	foreach(cell, partitions)
		expired = list_concat(expired, pa_unlocked_tree(((PaPartition *) lfirst(cell))->relation));

	foreach(cell, pa_registered_matviews(InvalidOid))
	{
		PaMatview  *matview = lfirst(cell);
		Archival   *archival;

		if (matview->archive == NULL || !reads(matview, parent))
			continue;
		archival = palloc0(sizeof(Archival));
		archival->matview = matview;
		archival->expired = expired;
		begin(archival);
		archivals = lappend(archivals, archival);
	}

	return archivals;
}

/*
 * pa_catch_up_archiving brings the views up to date once nobody else can change their source.
 */
void
pa_catch_up_archiving(List *archivals)
{
	ListCell   *cell;

	foreach(cell, archivals)
	{
		Archival   *archival = lfirst(cell);
		PaRefresh	refresh = {archival->matview};

		refresh.seen_keys = archival->expired_keys;
		refresh_now(&refresh);
		/* Then it is not known either which groups had rows in the partitions. */
		if (archival->expired_keys && strcmp(refresh.method, PA_METHOD_KEYS) != 0)
		{
			tuplestore_end(archival->expired_keys);
			archival->expired_keys = NULL;
		}
	}
}

/*
 * insert_sql is the statement that copies the rows of a relation, "vanished", into the archive.
 */
static char *
insert_sql(Archival *archival, TupleDesc descriptor)
{
	StringInfoData columns;

	initStringInfo(&columns);
	for (int i = 0; i < descriptor->natts; i++)
		appendStringInfo(&columns, "%s%s", i > 0 ? ", " : "",
						 quote_identifier(NameStr(TupleDescAttr(descriptor, i)->attname)));

	return psprintf("INSERT INTO %s (%s) SELECT %s FROM vanished ON CONFLICT DO NOTHING",
					pa_relation_sql(archival->archive), columns.data, columns.data);
}

/*
 * save inserts rows of the view into its archive.  What is there already stays as it is: it was saved when its rows
 * expired, and what has come since would replace a whole group by a late part of it.
 */
static void
save(Archival *archival, Tuplestorestate *vanished)
{
	Relation	matview = table_open(archival->view->matview, NoLock);
	EphemeralNamedRelationData relation = {0};
	int64		count = tuplestore_tuple_count(vanished);
	int64		saved;
	PaGuard		guard;

	relation.md.name = "vanished";
	relation.md.reliddesc = InvalidOid;
	relation.md.tupdesc = RelationGetDescr(matview);
	relation.md.enrtype = ENR_NAMED_TUPLESTORE;
	relation.md.enrtuples = count;
	relation.reldata = vanished;

	pa_guard_enter(&guard, archival->view->owner);
	SPI_connect();
	if (SPI_register_relation(&relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the groups to archive");
	saved = pa_query(insert_sql(archival, RelationGetDescr(matview)), NULL, SPI_OK_INSERT);
	SPI_finish();
	pa_guard_leave(&guard);
	table_close(matview, NoLock);

	if (saved < count)
		ereport(WARNING,
				(errmsg_plural("%lld group of materialized view %s is in its archive already, and was left there as it was",
							   "%lld groups of materialized view %s are in its archive already, and were left there as they were",
							   count - saved, (long long) (count - saved), archival->matview->name),
				 errdetail("Rows that came after their partition had expired are not in the archive.")));
}

/*
 * pa_finish_archiving saves the groups that are gone with the partitions.
 */
void
pa_finish_archiving(List *archivals)
{
	ListCell   *cell;

	foreach(cell, archivals)
	{
		Archival   *archival = lfirst(cell);
		PaRefresh	refresh = {archival->matview};

		refresh.expired = archival->expired;
		refresh.expired_keys = archival->expired_keys;
		refresh.merge.vanished = tuplestore_begin_heap(true, false, work_mem);
		refresh_now(&refresh);
		save(archival, refresh.merge.vanished);
		tuplestore_end(refresh.merge.vanished);
		if (archival->expired_keys)
			tuplestore_end(archival->expired_keys);
	}
}
