/*
 * refresh_capture.c
 *		Noticing which groups of which views a transaction changes.
 *
 * A trigger on a view's source marks the group of each row that is inserted or deleted, and both groups of one that
 * is updated.  The marks are gathered in memory, and written to changed_keys when the transaction commits, or is
 * prepared: so a group that changes a million times is written once, and writers share nothing but that table, into
 * which each inserts.
 *
 * Marks of what was rolled back to a savepoint may stay: a group too many costs work, one too few would be wrong.
 *
 * The trigger runs as whoever writes, who may be allowed nothing but that.  It reads and writes our tables without
 * asking for privileges, and runs nobody's code but the server's own (see pa_view).
 */
#include "prod_analytics.h"

#include "access/attmap.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "guard.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "partition.h"
#include "refresh.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_capture_changes);

/* When the keys of a transaction take more memory, it marks whole views. */
#define MOST_MARKED_BYTES (64 * 1024 * 1024)

/* A view, as a table that is written to sees it. */
typedef struct CapturedView
{
	int32		id;
	Oid			matview;
	char	   *name;
	bool		is_whole;		/* it is not known which groups a row belongs to; the rest is not set */
	bool		is_input;		/* what is marked is what keys are computed from */
	TupleDesc	keys;
	int			key_count;
	AttrNumber *key_columns;	/* of the table; 0: the key is an expression */
	ExprState **key_states;
	ExprState  *filter;			/* NULL: all rows count */
	int			column_count;
	AttrNumber *columns;		/* of the table that the view reads */
	StringInfoData last;		/* the key marked last, if marks_generation still is what it was then */
	uint64		last_generation;
} CapturedView;

/* A table that is written to. */
typedef struct CapturedTable
{
	Oid			relation;		/* the hash key */
	List	   *views;			/* of CapturedView */
} CapturedTable;

/* A view that is kept incrementally. */
typedef struct FollowedView
{
	PaMatview  *matview;
	PaView	   *view;
} FollowedView;

/*
 * The views that are kept incrementally, the tables that this session has written to (a hash table of CapturedTable),
 * and the memory of all of it.  Which views these are depends on the names in the registry, and on its own: whatever
 * may change the meaning of one of them is watched.
 */
static MemoryContext captured_context = NULL;
static List *followed = NIL;
static HTAB *captured = NULL;
static Oid	registry = InvalidOid;
static List *watched = NIL;		/* hash values of names in the server's caches */
static bool is_current = false;

/* Counts invalidations of what is in the cache, or about to be. */
static uint64 invalidations = 0;
static Oid	being_prepared = InvalidOid;

/* Where rows are looked at, and the bytes of the key at hand. */
static ExprContext *row_context;
static StringInfoData key_bytes;

/* A group: the view's number and the bytes of the key, or all groups of the view (a length of EVERYTHING). */
typedef struct MarkKey
{
	int32		matview_id;
	int32		length;
	const char *bytes;
} MarkKey;

#define EVERYTHING (-1)

/* A group that the transaction has changed. */
typedef struct Mark
{
	MarkKey		key;
	uint32		hash;
	char		status;			/* of the hash table's slot */
	uint64		written;		/* to changed_keys, by a refresh within the transaction, if it is the current writing */
} Mark;

static inline uint32
hash_mark(MarkKey key)
{
	return hash_combine(hash_bytes_uint32((uint32) key.matview_id),
						hash_bytes((const unsigned char *) key.bytes, Max(key.length, 0)));
}

static inline bool
same_mark(MarkKey a, MarkKey b)
{
	return a.matview_id == b.matview_id && a.length == b.length &&
		(a.length <= 0 || memcmp(a.bytes, b.bytes, a.length) == 0);
}

#define SH_PREFIX marks
#define SH_ELEMENT_TYPE Mark
#define SH_KEY_TYPE MarkKey
#define SH_KEY key
#define SH_HASH_KEY(table, key) hash_mark(key)
#define SH_EQUAL(table, a, b) same_mark(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(table, element) ((element)->hash)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* The marks of this transaction, and their memory; NULL: there are none. */
static marks_hash *marks = NULL;
static MemoryContext marks_context = NULL;
static Size marked_bytes = 0;

/* Whether all marks are in changed_keys. */
static bool all_written = true;

/* Grows when what was written to changed_keys may be gone from there; never 0. */
static uint64 writing = 1;

/* Changes whenever a group that is marked may have to be marked again. */
static uint64 marks_generation = 1;

/*
 * forget_tables is called for each invalidation of a relation; InvalidOid means all of them.
 */
static void
forget_tables(Datum argument, Oid relation)
{
	if (OidIsValid(relation) && relation != registry && relation != being_prepared &&
		(captured == NULL || hash_search(captured, &relation, HASH_FIND, NULL) == NULL))
		return;
	is_current = false;
	invalidations++;
}

/*
 * forget_names is called for each invalidation of a name of a relation or schema; 0 means all of them.
 */
static void
forget_names(Datum argument, int cache, uint32 hash)
{
	if (hash != 0 && !list_member_int(watched, (int) hash))
		return;
	is_current = false;
	invalidations++;
}

/*
 * forget_writing is called when a savepoint is rolled back: what was written since may be gone from changed_keys.
 */
static void
forget_writing(void)
{
	if (marks == NULL)
		return;

	writing++;
	all_written = false;
	marks_generation++;
}

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *argument)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_writing();
}

/*
 * at_transaction_end writes the marks when nothing can be changed any more: deferred triggers have fired by then.
 */
static void
at_transaction_end(XactEvent event, void *argument)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			pa_flush_marks();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			/* The memory goes with the transaction. */
			marks = NULL;
			marks_context = NULL;
			all_written = true;
			marks_generation++;
			break;
		default:
			break;
	}
}

/*
 * register_callbacks asks to be told of what concerns us.
 */
static void
register_callbacks(void)
{
	static bool is_registered = false;

	if (is_registered)
		return;
	CacheRegisterRelcacheCallback(forget_tables, (Datum) 0);
	CacheRegisterSyscacheCallback(RELNAMENSP, forget_names, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACENAME, forget_names, (Datum) 0);
	RegisterXactCallback(at_transaction_end, NULL);
	RegisterSubXactCallback(at_subtransaction_end, NULL);
	is_registered = true;
}

/*
 * start_marks makes an empty set of marks.
 */
static void
start_marks(void)
{
	register_callbacks();
	marks_context = AllocSetContextCreate(TopTransactionContext, "changed keys", ALLOCSET_DEFAULT_SIZES);
	marks = marks_create(marks_context, 64, NULL);
	marked_bytes = 0;
	marks_generation++;
}

/*
 * mark_all_instead replaces the keys of each view by one mark for all of its groups.
 */
static void
mark_all_instead(void)
{
	List	   *ids = NIL;
	marks_iterator scan;
	Mark	   *mark;
	ListCell   *cell;

	marks_start_iterate(marks, &scan);
	while ((mark = marks_iterate(marks, &scan)) != NULL)
		ids = list_append_unique_int(ids, mark->key.matview_id);

	MemoryContextDelete(marks_context);
	start_marks();
	foreach(cell, ids)
		pa_mark_everything(lfirst_int(cell));
}

/*
 * mark remembers that a group has changed.
 */
static void
mark(MarkKey key)
{
	bool		found;
	Mark	   *entry;

	if (marks == NULL)
		start_marks();

	entry = marks_insert(marks, key, &found);
	if (!found)
	{
		if (key.length > 0)
			entry->key.bytes = memcpy(MemoryContextAlloc(marks_context, key.length), key.bytes, key.length);
		marked_bytes += key.length + sizeof(Mark);
	}
	entry->written = 0;
	all_written = false;

	if (marked_bytes > MOST_MARKED_BYTES)
		mark_all_instead();
}

/*
 * pa_mark_everything marks all groups of a view.
 */
void
pa_mark_everything(int32 matview_id)
{
	MarkKey		key = {matview_id, EVERYTHING, NULL};

	mark(key);
}

/*
 * pa_mark_key marks the group that has a key.
 */
void
pa_mark_key(int32 matview_id, PaView *view, const Datum *values, const bool *nulls)
{
	StringInfoData bytes;
	MarkKey		key;

	initStringInfo(&bytes);
	pa_make_key(&bytes, view->matview, pa_view_key_descriptor(view), view->key_count, values, nulls);
	key.matview_id = matview_id;
	key.length = bytes.len;
	key.bytes = bytes.data;
	mark(key);
	pfree(bytes.data);
}

/*
 * are_wanted tells whether anybody wants to know of changes: our tables may have been dropped since they were marked.
 */
static bool
are_wanted(void)
{
	Oid			namespace = get_namespace_oid(PA_SCHEMA, true);

	return OidIsValid(namespace) && OidIsValid(get_relname_relid("registered_matviews", namespace));
}

/*
 * pa_flush_marks writes the marks that are not in changed_keys yet.
 *
 * They are kept: a refresh that reads them now may be rolled back to a savepoint, and then they are needed again.
 */
void
pa_flush_marks(void)
{
	PaLogWriter *writer;
	marks_iterator scan;
	Mark	   *entry;

	if (all_written || !are_wanted())
		return;

	PushActiveSnapshot(GetTransactionSnapshot());
	writer = pa_begin_log();
	marks_start_iterate(marks, &scan);
	while ((entry = marks_iterate(marks, &scan)) != NULL)
	{
		if (entry->written != writing)
			pa_add_to_log(writer, entry->key.matview_id, entry->key.bytes, entry->key.length);
		entry->written = writing;
	}
	pa_end_log(writer);
	PopActiveSnapshot();

	all_written = true;
	marks_generation++;
}

/*
 * column_map tells which columns of a table are those of the view's source, of which it is a partition, or which
 * it is.  Columns are found by name: to open the source would mean to wait for whoever has locked it.
 */
static AttrMap *
column_map(PaView *view, Oid table)
{
	int			most = Max(bms_prev_member(view->columns, -1), 0);
	AttrMap    *map = make_attrmap(most);
	int			column = 0;

	while ((column = bms_next_member(view->columns, column)) > 0)
		map->attnums[column - 1] = get_attnum(table, get_attname(view->source, column, false));

	return map;
}

/*
 * set_columns lists the columns of a table that a view reads.
 */
static void
set_columns(CapturedView *captive, PaView *view, AttrMap *map, Relation table)
{
	int			natts = RelationGetNumberOfAttributes(table);
	int			column = 0;

	captive->columns = palloc(sizeof(AttrNumber) * Max(natts, map->maplen));
	if (bms_is_member(0, view->columns))
	{
		for (int i = 1; i <= natts; i++)
			if (!TupleDescAttr(RelationGetDescr(table), i - 1)->attisdropped)
				captive->columns[captive->column_count++] = i;
		return;
	}

	while ((column = bms_next_member(view->columns, column)) > 0)
		captive->columns[captive->column_count++] = map->attnums[column - 1];
}

/*
 * prepare makes an expression over a view's source one over a table; NULL when that needs a row of the source's
 * own type.
 */
static ExprState *
prepare(Node *expression, AttrMap *map)
{
	bool		has_whole_row;

	expression = map_variable_attnos(expression, 1, 0, map, InvalidOid, &has_whole_row);
	if (has_whole_row)
		return NULL;

	return ExecInitExpr(expression_planner((Expr *) expression), NULL);
}

/*
 * set_keys prepares computing keys.
 */
static void
set_keys(CapturedView *captive, PaView *view, AttrMap *map)
{
	captive->keys = pa_view_key_descriptor(view);
	captive->key_count = view->key_count;
	captive->key_columns = palloc0(sizeof(AttrNumber) * view->key_count);
	captive->key_states = palloc0(sizeof(ExprState *) * view->key_count);
	for (int i = 0; i < view->key_count; i++)
	{
		Node	   *expression = view->keys[i].expression;

		if (IsA(expression, Var))
			captive->key_columns[i] = map->attnums[((Var *) expression)->varattno - 1];
		else
			captive->key_states[i] = prepare(expression, map);
	}
}

/*
 * set_inputs prepares reading what keys are computed from.
 */
static void
set_inputs(CapturedView *captive, PaView *view, AttrMap *map)
{
	int			column = -1;

	captive->is_input = true;
	captive->keys = pa_view_input_descriptor(view);
	captive->key_columns = palloc0(sizeof(AttrNumber) * (captive->keys->natts + 1));
	captive->key_states = palloc0(sizeof(ExprState *) * (captive->keys->natts + 1));
	while ((column = bms_next_member(view->inputs, column)) >= 0)
		captive->key_columns[captive->key_count++] = map->attnums[column - 1];
}

/*
 * is_unknown tells whether no key can be told from a row.
 *
 * A view that cannot be kept incrementally at the moment, because of what was done to its source, is marked as a
 * whole: it may become possible again.
 */
static bool
is_unknown(PaView *view)
{
	return view->reason ||
		(view->keys_may_fail && (bms_is_member(0, view->inputs) || bms_num_members(view->inputs) > INDEX_MAX_KEYS));
}

/*
 * captured_view prepares what is needed to mark groups of a view when a table is written to.
 */
static CapturedView *
captured_view(PaMatview *matview, PaView *view, Relation table)
{
	CapturedView *captive = palloc0(sizeof(CapturedView));
	AttrMap    *map;

	captive->id = matview->id;
	captive->matview = matview->matview;
	captive->name = matview->name;
	captive->is_whole = is_unknown(view);
	if (captive->is_whole)
		return captive;

	map = column_map(view, RelationGetRelid(table));
	if (view->keys_may_fail)
		set_inputs(captive, view, map);
	else
		set_keys(captive, view, map);
	if (view->filter)
		captive->filter = prepare(view->filter, map);
	set_columns(captive, view, map, table);
	initStringInfo(&captive->last);

	return captive;
}

/*
 * text_column reads a column of registered_matviews, as of now; NULL when it is NULL.
 */
static char *
text_column(Relation table, HeapTuple row, const char *name)
{
	AttrNumber	number = get_attnum(RelationGetRelid(table), name);
	bool		isnull = true;
	Datum		value = (Datum) 0;

	if (number != InvalidAttrNumber)
		value = heap_getattr(row, number, RelationGetDescr(table), &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/*
 * watch finds a relation by its name, and from now on whatever makes the name mean another one is noticed.
 */
static Oid
watch(const char *schema, const char *name)
{
	Oid			namespace;

	watched = lappend_int(watched, (int) GetSysCacheHashValue1(NAMESPACENAME, CStringGetDatum(schema)));
	namespace = get_namespace_oid(schema, true);
	if (!OidIsValid(namespace))
		return InvalidOid;
	watched = lappend_int(watched, (int) GetSysCacheHashValue2(RELNAMENSP, CStringGetDatum(name),
															   ObjectIdGetDatum(namespace)));

	return get_relname_relid(name, namespace);
}

/*
 * follow adds a view to those that are followed, if there is one of that name.
 */
static void
follow(int32 id, char *matview_name)
{
	FollowedView *view = palloc0(sizeof(FollowedView));
	char	   *schema;
	char	   *name;

	if (!pa_split_name(matview_name, &schema, &name))
		return;

	view->matview = palloc0(sizeof(PaMatview));
	view->matview->id = id;
	view->matview->name = matview_name;
	view->matview->matview = watch(schema, name);
	if (OidIsValid(view->matview->matview))
		view->view = pa_view(view->matview->matview);
	if (view->view)
		followed = lappend(followed, view);
}

/*
 * follow_all reads the registry like a catalog: as of now, whatever snapshot the transaction has, and whoever is
 * asking.
 */
static void
follow_all(void)
{
	Relation	table;
	SysScanDesc scan;
	HeapTuple	row;

	registry = watch(PA_SCHEMA, "registered_matviews");
	if (!OidIsValid(registry))
		return;

	table = table_open(registry, AccessShareLock);
	scan = systable_beginscan(table, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(row = systable_getnext(scan)))
	{
		char	   *mode = text_column(table, row, "mode");
		char	   *name = text_column(table, row, "matview");
		bool		isnull;
		Datum		id = heap_getattr(row, get_attnum(registry, "matview_id"), RelationGetDescr(table), &isnull);

		if (mode && strcmp(mode, PA_REFRESH_INCREMENTAL) == 0 && name)
			follow(DatumGetInt32(id), name);
	}
	systable_endscan(scan);
	table_close(table, AccessShareLock);
}

/*
 * views_over lists the views over a table, or over one that it is a partition of.
 */
static List *
views_over(Relation table)
{
	List	   *sources = lcons_oid(RelationGetRelid(table), get_partition_ancestors(RelationGetRelid(table)));
	List	   *views = NIL;
	ListCell   *cell;

	foreach(cell, followed)
	{
		FollowedView *candidate = lfirst(cell);

		if (candidate->view->reason || list_member_oid(sources, candidate->view->source))
			views = lappend(views, captured_view(candidate->matview, candidate->view, table));
	}

	return views;
}

/*
 * forget_all empties the cache.
 */
static void
forget_all(void)
{
	HASHCTL		control = {0};
	MemoryContext caller_context;

	if (captured_context)
		MemoryContextDelete(captured_context);
	captured = NULL;
	followed = NIL;
	watched = NIL;
	/* Blocks of at most 64 kB: those that double could be half empty, in every session that writes. */
	captured_context = AllocSetContextCreate(CacheMemoryContext, "captured tables", ALLOCSET_SMALL_MINSIZE,
											 ALLOCSET_SMALL_INITSIZE, 64 * 1024);

	control.keysize = sizeof(Oid);
	control.entrysize = sizeof(CapturedTable);
	control.hcxt = captured_context;
	captured = hash_create("captured tables", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	caller_context = MemoryContextSwitchTo(captured_context);
	row_context = CreateStandaloneExprContext();
	initStringInfo(&key_bytes);
	MemoryContextSwitchTo(caller_context);
}

/*
 * bring_up_to_date fills the cache with the views that are to be followed.  What has changed meanwhile is looked at
 * the next time.
 */
static void
bring_up_to_date(void)
{
	uint64		before;
	MemoryContext caller_context;

	if (is_current)
		return;

	register_callbacks();
	forget_all();
	before = invalidations;
	caller_context = MemoryContextSwitchTo(captured_context);
	follow_all();
	MemoryContextSwitchTo(caller_context);
	is_current = (invalidations == before);
}

/*
 * prepare_table finds out what is needed to know of a table that is written to.
 */
static CapturedTable *
prepare_table(Relation table)
{
	Oid			relation = RelationGetRelid(table);
	uint64		before = invalidations;
	List	   *views;
	CapturedTable *entry;
	MemoryContext caller_context;

	being_prepared = relation;
	bring_up_to_date();
	caller_context = MemoryContextSwitchTo(captured_context);
	views = views_over(table);
	MemoryContextSwitchTo(caller_context);

	entry = hash_search(captured, &relation, HASH_ENTER, NULL);
	entry->views = views;
	/* What has changed meanwhile is looked at when the next row comes. */
	is_current &= (invalidations == before);

	return entry;
}

/*
 * pa_mark_views_of marks all groups of the views that read a table itself, rather than one that it is a partition of.
 */
void
pa_mark_views_of(Oid table)
{
	ListCell   *cell;

	bring_up_to_date();
	foreach(cell, followed)
	{
		FollowedView *candidate = lfirst(cell);

		if (candidate->view->reason || candidate->view->source == table)
			pa_mark_everything(candidate->matview->id);
	}
}

/*
 * is_same tells whether a column has the same value in two rows.
 */
static bool
is_same(TupleTableSlot *old_row, TupleTableSlot *new_row, AttrNumber column)
{
	Form_pg_attribute attribute = TupleDescAttr(old_row->tts_tupleDescriptor, column - 1);
	bool		old_isnull;
	bool		new_isnull;
	Datum		old_value = slot_getattr(old_row, column, &old_isnull);
	Datum		new_value = slot_getattr(new_row, column, &new_isnull);

	if (old_isnull || new_isnull)
		return old_isnull && new_isnull;

	/* A large value that was not touched stays where it is, and need not be fetched. */
	if (attribute->attlen == -1 &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(old_value)) && VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(new_value)) &&
		memcmp(DatumGetPointer(old_value), DatumGetPointer(new_value), VARSIZE_EXTERNAL(DatumGetPointer(old_value))) == 0)
		return true;

	return datum_image_eq(old_value, new_value, attribute->attbyval, attribute->attlen);
}

/*
 * is_touched tells whether an update changes anything that the view reads.
 */
static bool
is_touched(CapturedView *view, TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	if (view->is_whole)
		return true;

	for (int i = 0; i < view->column_count; i++)
		if (!is_same(old_row, new_row, view->columns[i]))
			return true;

	return false;
}

/*
 * passes tells whether a row can belong to the view at all.
 */
static bool
passes(CapturedView *view)
{
	bool		isnull;
	Datum		result;

	if (view->filter == NULL)
		return true;
	result = ExecEvalExpr(view->filter, row_context, &isnull);

	return !isnull && DatumGetBool(result);
}

/*
 * read_key puts the bytes of a row's key, or of its input, into key_bytes.
 */
static void
read_key(CapturedView *view, TupleTableSlot *row)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	for (int i = 0; i < view->key_count; i++)
		if (view->key_states[i])
			values[i] = ExecEvalExpr(view->key_states[i], row_context, &nulls[i]);
		else
			values[i] = slot_getattr(row, view->key_columns[i], &nulls[i]);

	if (view->is_input)
		pa_make_input(&key_bytes, view->matview, view->keys, values, nulls);
	else
		pa_make_key(&key_bytes, view->matview, view->keys, view->key_count, values, nulls);
}

/*
 * mark_row marks the group of a row.  Rows of one group often come one after the other.
 */
static void
mark_row(CapturedView *view, TupleTableSlot *row)
{
	MemoryContext caller_context;
	MarkKey		key = {view->id, EVERYTHING, NULL};

	if (view->is_whole)
	{
		mark(key);
		return;
	}

	ResetExprContext(row_context);
	row_context->ecxt_scantuple = row;
	caller_context = MemoryContextSwitchTo(row_context->ecxt_per_tuple_memory);
	if (passes(view))
	{
		read_key(view, row);
		if (view->last_generation != marks_generation || view->last.len != key_bytes.len ||
			memcmp(view->last.data, key_bytes.data, key_bytes.len) != 0)
		{
			key.length = key_bytes.len;
			key.bytes = key_bytes.data;
			mark(key);
			resetStringInfo(&view->last);
			appendBinaryStringInfo(&view->last, key_bytes.data, key_bytes.len);
			view->last_generation = marks_generation;
		}
	}
	MemoryContextSwitchTo(caller_context);
}

/*
 * tell_view tells, when a key cannot be computed, why anybody wanted it.
 */
static void
tell_view(void *argument)
{
	CapturedView *view = *(CapturedView **) argument;

	if (view)
		errcontext("noting that a group of materialized view %s changes", view->name);
}

/*
 * capture marks the groups that an event concerns.
 */
static void
capture(CapturedView *view, TriggerData *trigger)
{
	if (!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		mark_row(view, trigger->tg_trigslot);
		return;
	}

	if (!is_touched(view, trigger->tg_trigslot, trigger->tg_newslot))
		return;
	mark_row(view, trigger->tg_trigslot);
	mark_row(view, trigger->tg_newslot);
}

/*
 * capture_changes() is the trigger on the sources of views.
 */
Datum
pa_capture_changes(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	CapturedTable *table = NULL;
	CapturedView *view = NULL;
	ErrorContextCallback context = {error_context_stack, tell_view, &view};
	ListCell   *cell;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || !TRIGGER_FIRED_AFTER(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("capture_changes() is a trigger function, to be called after each row"),
				 errhint("%s.enable_incremental_refresh() makes the trigger.", PA_SCHEMA)));

	if (is_current)
		table = hash_search(captured, &RelationGetRelid(trigger->tg_relation), HASH_FIND, NULL);
	if (table == NULL)
		table = prepare_table(trigger->tg_relation);

	error_context_stack = &context;
	foreach(cell, table->views)
	{
		view = lfirst(cell);
		capture(view, trigger);
	}
	error_context_stack = context.previous;

	return PointerGetDatum(NULL);
}
