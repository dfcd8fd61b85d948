/*
 * compat.h
 *		Differences between the supported PostgreSQL versions, and nothing else.
 *
 * No other file looks at PG_VERSION_NUM.
 */
#ifndef PA_COMPAT_H
#define PA_COMPAT_H

#include "access/genam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/vacuum.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "postmaster/bgworker.h"
#include "replication/slot.h"
#include "tcop/pquery.h"
#include "utils/rel.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "prod_analytics supports PostgreSQL 15 to 18"
#endif

/*
 * pa_insert_index_entries makes the index entries of a row that is new.
 *
 * PostgreSQL 16 added a parameter for updates that only summarizing indexes care about.
 */
static inline void
pa_insert_index_entries(ResultRelInfo *target, TupleTableSlot *slot, EState *estate)
{
	List	   *recheck;

#if PG_VERSION_NUM >= 160000
	recheck = ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL, false);
#else
	recheck = ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL);
#endif
	list_free(recheck);
}

/*
 * pa_update_row replaces a row, and makes the index entries that the new version needs.
 *
 * PostgreSQL 16 can tell that only summarizing indexes need one.
 */
static inline void
pa_update_row(ResultRelInfo *target, ItemPointer old_row, TupleTableSlot *slot, Snapshot snapshot, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes which;

	simple_table_tuple_update(target->ri_RelationDesc, old_row, slot, snapshot, &which);
	if (which != TU_None && target->ri_NumIndices > 0)
		list_free(ExecInsertIndexTuples(target, slot, estate, true, false, NULL, NIL, which == TU_Summarizing));
#else
	bool		is_needed;

	simple_table_tuple_update(target->ri_RelationDesc, old_row, slot, snapshot, &is_needed);
	if (is_needed && target->ri_NumIndices > 0)
		list_free(ExecInsertIndexTuples(target, slot, estate, true, false, NULL, NIL));
#endif
}

/*
 * pa_init_range_table gives the executor's state a range table of one relation, of which the columns
 * "updated" change.
 *
 * PostgreSQL 16 moved the columns to a node of their own, and 18 asks which relations were not pruned.
 */
static inline void
pa_init_range_table(EState *estate, Relation relation, Bitmapset *updated)
{
	RangeTblEntry *entry = makeNode(RangeTblEntry);
#if PG_VERSION_NUM >= 160000
	List	   *permissions = NIL;
#endif

	entry->rtekind = RTE_RELATION;
	entry->relid = RelationGetRelid(relation);
	entry->relkind = relation->rd_rel->relkind;
	entry->rellockmode = RowExclusiveLock;
#if PG_VERSION_NUM >= 160000
	addRTEPermissionInfo(&permissions, entry)->updatedCols = updated;
#endif
#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, list_make1(entry), permissions, bms_make_singleton(1));
#elif PG_VERSION_NUM >= 160000
	ExecInitRangeTable(estate, list_make1(entry), permissions);
#else
	entry->updatedCols = updated;
	ExecInitRangeTable(estate, list_make1(entry));
#endif
}

/*
 * pa_has_new_storage tells whether the transaction has made the relation, or its storage.
 *
 * PostgreSQL 16 renamed the fields.
 */
static inline bool
pa_has_new_storage(Relation relation)
{
#if PG_VERSION_NUM >= 160000
	return relation->rd_createSubid != InvalidSubTransactionId ||
		relation->rd_newRelfilelocatorSubid != InvalidSubTransactionId ||
		relation->rd_firstRelfilelocatorSubid != InvalidSubTransactionId;
#else
	return relation->rd_createSubid != InvalidSubTransactionId ||
		relation->rd_newRelfilenodeSubid != InvalidSubTransactionId ||
		relation->rd_firstRelfilenodeSubid != InvalidSubTransactionId;
#endif
}

/*
 * pa_index_beginscan begins an index scan.
 *
 * PostgreSQL 18 added a place for instrumentation.
 */
static inline IndexScanDesc
pa_index_beginscan(Relation table, Relation index, Snapshot snapshot, int keys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(table, index, snapshot, NULL, keys, 0);
#else
	return index_beginscan(table, index, snapshot, keys, 0);
#endif
}

/*
 * pa_executor_run fetches the next rows of a query, which may be called again; 0: all.
 *
 * PostgreSQL 18 finds out by itself whether it is.
 */
static inline void
pa_executor_run(QueryDesc *query, uint64 count)
{
#if PG_VERSION_NUM >= 180000
	ExecutorRun(query, ForwardScanDirection, count);
#else
	ExecutorRun(query, ForwardScanDirection, count, false);
#endif
}

/*
 * pa_portal_run runs a portal to its end, as the topmost of what is running.
 *
 * PostgreSQL 18 finds out by itself that it is run once.
 */
static inline void
pa_portal_run(Portal portal, DestReceiver *receiver, QueryCompletion *completion)
{
#if PG_VERSION_NUM >= 180000
	(void) PortalRun(portal, FETCH_ALL, true, receiver, receiver, completion);
#else
	(void) PortalRun(portal, FETCH_ALL, true, true, receiver, receiver, completion);
#endif
}

/*
 * PA_CONNECT_WITHOUT_LOGIN lets a background worker connect as a role that may not log in.
 *
 * PostgreSQL 17 is the first that can do so.
 */
#if PG_VERSION_NUM >= 170000
#define PA_CONNECT_WITHOUT_LOGIN BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define PA_CONNECT_WITHOUT_LOGIN 0
#endif

/*
 * pa_forget_permissions takes out of a query what says who may read its only table.
 *
 * PostgreSQL 16 moved that out of the range table.
 */
static inline void
pa_forget_permissions(Query *query)
{
#if PG_VERSION_NUM >= 160000
	query->rteperminfos = NIL;
	linitial_node(RangeTblEntry, query->rtable)->perminfoindex = 0;
#endif
}

/*
 * pa_flatten_groups makes a query speak of the columns of its table.
 *
 * PostgreSQL 18 lets it speak of those of its GROUP BY.
 */
static inline void
pa_flatten_groups(Query *query)
{
#if PG_VERSION_NUM >= 180000
	if (!query->hasGroupRTE)
		return;
	query->targetList = (List *) flatten_group_exprs(NULL, query, (Node *) query->targetList);
	query->havingQual = flatten_group_exprs(NULL, query, query->havingQual);
	query->hasGroupRTE = false;
#endif
}

/*
 * pa_drop_temporary_slots drops the session's temporary replication slots.
 *
 * PostgreSQL 17 can leave out those that are not synchronized.
 */
static inline void
pa_drop_temporary_slots(void)
{
#if PG_VERSION_NUM >= 170000
	ReplicationSlotCleanup(false);
#else
	ReplicationSlotCleanup();
#endif
}

/*
 * pa_analyze_parent updates the statistics of a partitioned table as a whole, and not those of each partition.  The
 * caller is connected to SPI, as the owner; "name" is how SQL names the table.
 *
 * PostgreSQL 18 has a statement for that.
 */
static inline void
pa_analyze_parent(Oid parent, const char *name)
{
#if PG_VERSION_NUM >= 180000
	if (SPI_execute(psprintf("ANALYZE ONLY %s", name), false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not analyze %s", name);
#else
	VacuumParams params = {0};

	params.options = VACOPT_ANALYZE;
	params.log_min_duration = -1;
	analyze_rel(parent, NULL, &params, NIL, true, NULL);
	CommandCounterIncrement();
#endif
}

#endif							/* PA_COMPAT_H */
