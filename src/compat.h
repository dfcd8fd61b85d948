/*
 * compat.h
 *		Differences between the supported PostgreSQL versions, and nothing else.
 *
 * No other file looks at PG_VERSION_NUM.
 */
#ifndef PA_COMPAT_H
#define PA_COMPAT_H

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

#endif							/* PA_COMPAT_H */
