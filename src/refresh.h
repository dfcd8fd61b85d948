/*
 * refresh.h
 *		Incremental refresh of materialized views.
 *
 * refresh_view.c knows what a view computes, refresh_sql.c writes the statements that compute some or all of its
 * groups.  refresh_register.c keeps the registry, refresh_check.c tells what it asks of views and archives, and
 * refresh_trigger.c makes the triggers on what views read.  refresh_capture.c notices which groups change, as
 * refresh_mark.c lets people do, refresh_key.c makes bytes of their keys, refresh_log.c keeps those until somebody
 * asks, and refresh_source.c notices what no trigger sees.  For a refresh, which refresh.c is, refresh_changes.c
 * gathers the keys, refresh_compute.c computes their groups, refresh_compare.c compares these with what is stored,
 * and refresh_merge.c brings the differences into the view's heap.  refresh_verify.c reports them instead, and
 * refresh_archive.c saves groups whose rows expire.
 */
#ifndef PA_REFRESH_H
#define PA_REFRESH_H

#include "access/attnum.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "guard.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "nodes/execnodes.h"
#include "nodes/parsenodes.h"
#include "query.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

/* How a view is kept, as registered_matviews.mode has it. */
#define PA_REFRESH_INCREMENTAL "incremental"
#define PA_REFRESH_FULL "full"

/* A column by which a view groups its source. */
typedef struct PaViewKey
{
	AttrNumber	column;			/* of the view */
	Node	   *expression;		/* over the source, whose columns are Vars of relation 1 */
	Oid			type;
	int32		typmod;
	Oid			collation;
	Oid			equal;			/* the operator by which GROUP BY compares */
	Oid			less;			/* the btree operator that sorts alike */
} PaViewKey;

/*
 * When a key tells in which range of the source's partition key the rows of its group lie, like a day of a
 * timestamp, probes need not look into all partitions.
 */
typedef struct PaViewWindow
{
	AttrNumber	column;			/* of the source: its partition key; 0: the keys tell nothing */
	Oid			type;			/* of that column: timestamptz, timestamp or date */
	int			key;			/* which of the view's keys tells, from 0 */
	int64		unit;			/* how many microseconds a key stands for */
	int64		slack;			/* by how many it may be off, because of a time zone's jumps */
	bool		is_exact;		/* the rows of a finite key are those from it to the next, without that one */
	int64		phase;			/* what is left of such a key when it is divided by the unit */
} PaViewWindow;

/* What a view computes. */
typedef struct PaView
{
	Oid			matview;
	Oid			owner;
	char	   *reason;			/* why it cannot be kept incrementally; NULL: it can, and the rest is set */
	Oid			source;			/* the table that it reads */
	Query	   *query;			/* as the view has it; the source is relation 1, ORDER BY is left out */
	int			key_count;
	PaViewKey  *keys;
	Bitmapset  *columns;		/* of the source that the view reads; 0: the whole row */
	Node	   *filter;			/* its WHERE, when it can be evaluated for any row without an error; else NULL */
	bool		keys_may_fail;	/* a key cannot be: it is computed when the view is refreshed, from the inputs */
	Bitmapset  *inputs;			/* columns of the source that the keys and the WHERE read; 0: the whole row */
	Bitmapset  *not_data;		/* columns of the view that do not depend on rows, like now() */
	Bitmapset  *unordered;		/* columns of the view that depend on the order in which rows are read */
	PaViewWindow window;
} PaView;

/* A row of registered_matviews whose view exists. */
typedef struct PaMatview
{
	int32		id;
	char	   *name;			/* schema-qualified */
	Oid			matview;
	char	   *archive;		/* schema-qualified; NULL: none */
	bool		is_incremental;
	char	   *reason;			/* why it is not */
} PaMatview;

/* refresh_view.c */
extern PaView *pa_view(Oid matview);
extern TupleDesc pa_view_key_descriptor(PaView *view);
extern TupleDesc pa_view_input_descriptor(PaView *view);
extern bool pa_view_window(PaView *view, Datum key, Datum *lowest, Datum *highest);
extern bool pa_view_window_is_exact(PaView *view, Datum key);
extern Oid	pa_view_unique_index(PaView *view);
extern char *pa_view_unique_index_sql(PaView *view);
extern Oid	pa_view_source_index(PaView *view);
extern bool pa_view_key_is_indexed(PaView *view, int key);
extern char *pa_view_source_index_sql(PaView *view);

/* refresh_sql.c */
extern char *pa_view_sql(PaView *view);
extern char *pa_view_probe_sql(PaView *view, uint32 null_keys, bool by_range);
extern char *pa_view_keys_sql(PaView *view, Oid relation, const char *sampled);
extern char *pa_view_input_keys_sql(PaView *view);

/* refresh_register.c */
extern List *pa_registered_matviews(Oid matview);
extern PaMatview *pa_registered_or_error(Oid matview);
extern void pa_forget_lost_keys(void);
extern void pa_forget_unregistered(void);

/* refresh_check.c */
extern void pa_check_unique_index(PaView *view);
extern void pa_check_archive(PaView *view, Oid archive_id);

/* refresh_trigger.c */
extern Oid	pa_capture_function(void);
extern bool pa_is_captured(Oid source);
extern void pa_let_capture(Oid table);
extern void pa_make_capture(Oid source, int32 matview_id);
extern void pa_drop_idle_captures(void);

/* refresh_key.c */
extern void pa_make_key(StringInfo bytes, Oid matview, TupleDesc descriptor, int key_count,
						const Datum *values, const bool *nulls);
extern void pa_make_input(StringInfo bytes, Oid matview, TupleDesc descriptor, const Datum *values, const bool *nulls);
extern bool pa_is_input(const char *bytes, Size length);
extern bool pa_read_key(const char *bytes, Size length, Oid matview, TupleDesc descriptor, int key_count,
						Datum *values, bool *nulls);

/* refresh_capture.c */
extern void pa_mark_everything(int32 matview_id);
extern void pa_mark_key(int32 matview_id, PaView *view, const Datum *values, const bool *nulls);
extern void pa_mark_views_of(Oid table);
extern void pa_flush_marks(void);

/* Keys of groups whose rows are looked for by the same statement. */
typedef struct PaChangesPart
{
	uint32		null_keys;		/* a bit for each key that is NULL */
	bool		by_range;		/* the key that bounds the partition key need not be compared itself */
	Tuplestorestate *store;		/* rows as pa_view_key_descriptor describes them */
	int64		count;
} PaChangesPart;

/* The groups that a refresh has to compute again. */
typedef struct PaChanges
{
	PaView	   *view;
	TupleDesc	keys;
	bool		prefers_range;	/* to look for rows by a range of the partition key rather than by the key it bounds */
	bool		everything;		/* all groups; the rest does not matter then */
	struct Tuplesortstate *sort;	/* while keys are added */
	TupleTableSlot *slot;
	MemoryContext row_context;
	Tuplestorestate *inputs;	/* rows of which the keys are still to be computed; may be NULL */
	List	   *parts;			/* of PaChangesPart, once they are sorted */
	int64		count;			/* of keys in all parts */
	List	   *expired;		/* OIDs of tables that are gone, and whose keys have been added */
	ItemPointerData *rows;		/* of changed_keys that were read */
	int64		row_count;
	int64		row_space;
} PaChanges;

/* refresh_changes.c */
extern PaChanges *pa_begin_changes(PaView *view);
extern void pa_add_changed_key(PaChanges *changes, const Datum *values, const bool *nulls);
extern void pa_add_changed_bytes(PaChanges *changes, bytea *bytes);
extern void pa_finish_changes(PaChanges *changes);
extern void pa_copy_changed_keys(PaChanges *changes, Tuplestorestate *keys);
extern void pa_end_changes(PaChanges *changes);

/* refresh_log.c */
typedef struct PaLogWriter PaLogWriter;

extern PaLogWriter *pa_begin_log(void);
extern void pa_add_to_log(PaLogWriter *writer, int32 matview_id, const char *bytes, int length);
extern void pa_end_log(PaLogWriter *writer);
extern void pa_read_log(PaChanges *changes, int32 matview_id, Snapshot snapshot);
extern void pa_clear_log(PaChanges *changes, Snapshot snapshot);
extern void pa_forget_log(const char *query, PaParameters *parameters);

/* Which version of a row of a catalog: whoever changes the row makes another one. */
typedef struct PaRowVersion
{
	TransactionId xmin;
	BlockNumber block;
	OffsetNumber offset;
} PaRowVersion;

/* What a table that holds rows of a view's source was like. */
typedef struct PaSourceTable
{
	Oid			relation;
	Oid			storage;		/* relfilenode */
	Oid			trigger;		/* ours */
	PaRowVersion trigger_version;	/* of its row in pg_trigger */
	char		fires;			/* its tgenabled, or PA_FIRES_UNTRACED */
	int64		lowest;			/* the bounds of the partition, when the view's window is of use */
	int64		highest;
} PaSourceTable;

/* The trigger fires, but not all that may happen to the table leaves a trace. */
#define PA_FIRES_UNTRACED 'n'

/* The type of our trigger: after each row that is inserted, updated or deleted. */
#define PA_CAPTURE_TRIGGER_TYPE (TRIGGER_TYPE_ROW | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE)

/* refresh_source.c */
extern PaView *pa_lock_source(PaView *view);
extern List *pa_describe_source(PaView *view);
extern List *pa_add_latecomers(PaView *view, List *tables);
extern char *pa_source_text(PaView *view, List *tables);
extern void pa_add_unseen(PaChanges *changes, List *tables, const char *before, Relation matview);

/* refresh_compute.c */
extern void pa_enter_view(PaGuard *guard, PaView *view);
extern double pa_probe_cost(PaChanges *changes);
extern double pa_full_cost(PaView *view);
extern TupleDesc pa_probed_descriptor(PaChanges *changes, TupleDesc matview);
extern Tuplestorestate *pa_compute_changed(PaChanges *changes, PaChangesPart *part);
extern Tuplestorestate *pa_compute_all(PaView *view);
extern void pa_add_keys_of_inputs(PaChanges *changes);
extern bool pa_may_list_keys_of(PaView *view, Oid table);
extern void pa_list_keys_of(PaView *view, Oid table, Tuplestorestate *keys);
extern void pa_add_listed_keys(PaChanges *changes, Tuplestorestate *keys);
extern void pa_add_keys_of(PaChanges *changes, Oid table);
extern void pa_add_keys_sampled(PaChanges *changes, int most);

/* How a group is stored in a view, and how it was computed. */
typedef enum PaDifference
{
	PA_ROW_MISSING,				/* it is not stored */
	PA_ROW_DIFFERENT,
	PA_ROW_EXTRA				/* it is stored, but there is no such group */
} PaDifference;

typedef struct PaComparison
{
	PaView	   *view;
	Relation	matview;
	Relation	index;			/* unique, on its keys */
	Snapshot	snapshot;		/* which sees the stored rows */
	bool		by_bytes;		/* values that are equal, but not the same, differ */
	Bitmapset  *ignored;		/* columns */
	void		(*on_difference) (struct PaComparison *comparison, PaDifference difference);
	void	   *argument;		/* of the caller's */
	TupleTableSlot *stored;		/* the rows at hand */
	TupleTableSlot *computed;
	int			index_keys[INDEX_MAX_KEYS]; /* which key a column of the index is */
	ScanKeyData lookup[INDEX_MAX_KEYS];
	IndexScanDesc scan;
	MemoryContext scan_context;
	MemoryContext context;		/* of a group */
	int64		groups;			/* compared so far */
	int64		expected;
} PaComparison;

/* refresh_compare.c */
extern PaComparison *pa_begin_comparison(PaView *view, Relation matview, Relation index, Snapshot snapshot);
extern void pa_compare_probed(PaComparison *comparison, Tuplestorestate *rows, TupleDesc descriptor);
extern void pa_compare_all(PaComparison *comparison, Tuplestorestate *rows);
extern void pa_end_comparison(PaComparison *comparison);

/* Bringing groups into a view. */
typedef struct PaMerge
{
	PaComparison *comparison;
	Snapshot	snapshot;
	EState	   *estate;
	ResultRelInfo *target;
	Tuplestorestate *vanished;	/* gets the rows of groups that are gone; may be NULL */
	Tuplestorestate *new_rows;	/* rows to insert when all others are deleted; NULL: at once */
	int64		inserted;
	int64		updated;
	int64		deleted;
} PaMerge;

/* refresh_merge.c */
extern void pa_begin_merge(PaMerge *merge, PaView *view, Relation matview, Relation index);
extern void pa_end_merge(PaMerge *merge);

/* The ways that a refresh can take. */
#define PA_METHOD_KEYS "keys"	/* compute the groups that have changed */
#define PA_METHOD_RECOMPUTE "recompute" /* compute all groups, and merge them */
#define PA_METHOD_REFRESH "refresh" /* REFRESH MATERIALIZED VIEW */

/* A refresh of one view. */
typedef struct PaRefresh
{
	PaMatview  *registered;
	PaView	   *view;
	const char *mode;
	const char *method;			/* which way it took */
	const char *reason;			/* why that; may be NULL */
	bool		is_blind;		/* what is seen may lack changes that nobody noted */
	int64		keys;			/* groups that were computed */
	List	   *expired;		/* OIDs of partitions that have been detached */
	Tuplestorestate *expired_keys;	/* the keys of groups that may have had rows there; NULL: not known */
	Tuplestorestate *seen_keys; /* gets the keys of groups that were computed; may be NULL */
	PaMerge		merge;
} PaRefresh;

/* refresh.c */
extern void pa_refresh_matview(void *refresh);

/* refresh_archive.c */
extern List *pa_begin_archiving(Oid parent, List *partitions);
extern void pa_catch_up_archiving(List *archivals);
extern void pa_finish_archiving(List *archivals);

#endif							/* PA_REFRESH_H */
