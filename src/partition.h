/*
 * partition.h
 *		Partitions by time: policies, gaps between partitions, and making the missing ones.
 */
#ifndef PA_PARTITION_H
#define PA_PARTITION_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

/*
 * A transaction makes at most so many partitions: each takes a dozen locks, and at the default
 * max_locks_per_transaction the lock table is full near the 950th.
 */
#define PA_MAX_PARTITIONS_PER_CALL 100

/* From lower, inclusive, to upper, exclusive. */
typedef struct PaRange
{
	TimestampTz lower;
	TimestampTz upper;
} PaRange;

/* How a table is to be partitioned: a row of partition_policies. */
typedef struct PaPolicy
{
	Oid			parent;
	char	   *control;		/* the partition key column */
	Interval   *width;
	int			ahead;
	int			behind;
	char	   *timezone;		/* in which bounds are whole days or months */
	bool		default_partition;
} PaPolicy;

extern PaPolicy *pa_policy(Oid parent);
extern List *pa_missing_ranges(PaPolicy *policy, PaRange span);
extern PaRange pa_partition_range(PaPolicy *policy, TimestampTz at);
extern void pa_lock_partitioning(PaPolicy *policy);
extern void pa_make_partition(PaPolicy *policy, PaRange range);

/* partition_drain.c */
extern int64 pa_drain(Relation source, Relation target, const char *control, PaRange range);

#endif							/* PA_PARTITION_H */
