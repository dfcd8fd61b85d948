/*
 * compat.h
 *		Differences between the supported PostgreSQL versions, and nothing else.
 *
 * No other file looks at PG_VERSION_NUM.
 */
#ifndef PA_COMPAT_H
#define PA_COMPAT_H

#include "access/genam.h"
#include "executor/executor.h"

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

#endif							/* PA_COMPAT_H */
