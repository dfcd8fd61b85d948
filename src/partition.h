/*
 * partition.h
 *		Partitions by time.
 *
 * partition_policy.c knows which tables are managed and how, partition_bounds.c where their
 * partitions begin and end, partition_lock.c how to lock without making everybody wait,
 * partition_sql.c what a partition looks like, partition.c makes them, partition_drain.c moves rows into them, partition_expire.c drops
 * the old ones, and partition_plan.c tells what the others would do.
 */
#ifndef PA_PARTITION_H
#define PA_PARTITION_H

#include "datatype/timestamp.h"
#include "guard.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

/*
 * A transaction makes at most so many partitions: each takes a dozen locks, and at the default
 * max_locks_per_transaction the lock table is full near the 950th.
 */
#define PA_MAX_PARTITIONS_PER_CALL 100

/*
 * A value of a partition key: microseconds since 2000, of an instant (timestamptz) or of a
 * wall clock (timestamp, date); the value itself for a bigint.  MINVALUE and MAXVALUE are the
 * smallest and the largest, which is what infinite timestamps are anyway.
 */
typedef int64 PaKey;

#define PA_KEY_MIN PG_INT64_MIN
#define PA_KEY_MAX PG_INT64_MAX

/* From lower, inclusive, to upper, exclusive. */
typedef struct PaRange
{
	PaKey		lower;
	PaKey		upper;
} PaRange;

/* A partition that is not the default one. */
typedef struct PaPartition
{
	Oid			relation;
	PaRange		range;
} PaPartition;

/* How a table is to be partitioned: a row of partition_policies. */
typedef struct PaPolicy
{
	Oid			parent;
	char	   *control;		/* the partition key column */
	Oid			type;			/* timestamptz, timestamp, date or bigint */
	char	   *epoch_unit;		/* what a bigint counts; else NULL */
	int64		unit;			/* microseconds in 1, for bigint; else 1 */
	Interval	width;			/* months, days or hours, not mixed */
	int			ahead;
	int			behind;
	Interval   *retention;		/* NULL: for ever */
	char	   *timezone;		/* in which bounds are whole hours, days or months */
	bool		default_partition;
	List	   *names;			/* of partitions made or planned in this call */
} PaPolicy;

/* partition_policy.c */
extern List *pa_policies(Oid parent);
extern void pa_check_policy(PaPolicy *policy);
extern PaPolicy *pa_policy(Oid parent);
extern PaPolicy *pa_policy_or_error(Oid parent);
extern void pa_enter_policy(PaPolicy *policy, PaGuard *guard);
extern void pa_leave_policy(PaGuard *guard);
extern void pa_warn_of_table(PaPolicy *policy, ErrorData *error);
extern char *pa_identifier(const char *name);
extern char *pa_relation_sql(Oid relation);
extern bool pa_split_name(const char *name, char **schema, char **relation);
extern Oid	pa_named_relation(const char *name);

/* partition_bounds.c */
extern PaKey pa_key_at(PaPolicy *policy, TimestampTz at);
extern PaRange pa_slot(PaPolicy *policy, PaKey key);
extern PaKey pa_expiry(PaPolicy *policy, TimestampTz at);
extern PaKey pa_first_drainable(PaPolicy *policy, TimestampTz at);
extern bool pa_datum_in_range(PaPolicy *policy, Datum value, PaRange range);
extern PaKey pa_datum_key(PaPolicy *policy, Datum value);
extern char *pa_key_text(PaPolicy *policy, PaKey key);
extern char *pa_range_suffix(PaPolicy *policy, PaRange range, bool with_time);
extern int	pa_longest_suffix(PaPolicy *policy);
extern List *pa_partitions(PaPolicy *policy);
extern List *pa_missing_ranges(PaPolicy *policy, PaRange span);
extern Oid	pa_default_partition(PaPolicy *policy);

/* partition_lock.c */
extern List *pa_unlocked_tree(Oid table);
extern void pa_lock_partitioning(PaPolicy *policy);
extern void pa_lock_partitioning_soon(PaPolicy *policy);
extern void pa_lock_to_attach(PaPolicy *policy);
extern void pa_lock_to_detach(PaPolicy *policy, List *partitions, bool keep_tables);
extern int	pa_limit_waiting(void);
extern void pa_lock_to_alter(Oid partition);
extern void pa_lock_writers_out(Oid table);
extern void pa_lock_everybody_out(Oid table);
extern void pa_reset_waits(void);
extern char *pa_describe_waits(void);

/* partition.c */
extern PaRange pa_wanted_span(PaPolicy *policy, TimestampTz at);
extern List *pa_missing_slots(PaPolicy *policy, PaRange span, int most);
extern PaRange pa_missing_slot_at(PaPolicy *policy, PaKey key);
extern int64 pa_make_partitions(PaPolicy *policy, List *ranges, List **names);
extern int	pa_ensure(PaPolicy *policy, TimestampTz at);

/* partition_sql.c */
extern char *pa_partition_name(PaPolicy *policy, PaRange range);
extern char *pa_default_partition_name(PaPolicy *policy);
extern char *pa_create_sql(PaPolicy *policy, const char *name, PaRange *range);
extern char *pa_attach_sql(PaPolicy *policy, const char *name, PaRange *range);
extern char *pa_utc_date_column(PaPolicy *policy);
extern char *pa_check_name(PaPolicy *policy, const char *column);
extern char *pa_date_check(PaPolicy *policy, const char *column, PaRange range);
extern void pa_copy_privileges(Oid parent, const char *partition);

/* partition_drain.c */
extern int64 pa_drain(PaPolicy *policy, Relation source, Relation target, PaRange range);
extern bool pa_next_drainable(PaPolicy *policy, PaRange span, PaKey *key);
extern int64 pa_rows_to_move(PaPolicy *policy, PaRange range);

/* partition_expire.c */
extern List *pa_expired(PaPolicy *policy, TimestampTz at);

#endif							/* PA_PARTITION_H */
