/*
 * refresh_compute.c
 *		Computing groups: some of them, by their keys, or all.
 *
 * The statements are planned once a session, which takes longer than to compute a few groups.  They are known by
 * their text, so that one that does not fit any more is just never used again.
 */
#include "prod_analytics.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/tstoreReceiver.h"
#include "guard.h"
#include "job.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "query.h"
#include "refresh.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* How many plans a session keeps. */
#define MOST_PLANS 100

/* As how many keys a plan is made for: it counts in relation to the cost of one. */
#define PLANNED_KEYS 100

/* How often progress is shown, in groups. */
#define PROGRESS_STEP 1000

/* A statement that is planned. */
typedef struct Planned
{
	char	   *sql;
	SPIPlanPtr	plan;
	int			running;		/* how often it is in use at the moment: what it calls, also when it is planned, may
								 * refresh a view as well */
} Planned;

static List *plans = NIL;

/*
 * forget_plans makes room.
 */
static void
forget_plans(void)
{
	ListCell   *cell;

	foreach(cell, plans)
	{
		Planned    *planned = lfirst(cell);

		if (planned->running > 0)
			continue;
		SPI_freeplan(planned->plan);
		pfree(planned->sql);
		pfree(planned);
		plans = foreach_delete_current(plans, cell);
	}
}

/*
 * remember_plan keeps a plan for the session.
 */
static Planned *
remember_plan(const char *sql, SPIPlanPtr plan)
{
	MemoryContext caller_context = MemoryContextSwitchTo(CacheMemoryContext);
	Planned    *planned = palloc0(sizeof(Planned));

	planned->sql = pstrdup(sql);
	planned->plan = plan;
	plans = lappend(plans, planned);
	SPI_keepplan(plan);
	MemoryContextSwitchTo(caller_context);

	return planned;
}

/*
 * plan_of finds the plan of a statement, or makes it.
 */
static Planned *
plan_of(const char *sql)
{
	MemoryContext caller_context = CurrentMemoryContext;
	SPIPlanPtr	plan;
	ListCell   *cell;

	foreach(cell, plans)
	{
		Planned    *planned = lfirst(cell);

		if (strcmp(planned->sql, sql) == 0)
			return planned;
	}

	if (list_length(plans) >= MOST_PLANS)
		forget_plans();
	plan = SPI_prepare_cursor(sql, 0, NULL, CURSOR_OPT_PARALLEL_OK);
	MemoryContextSwitchTo(caller_context);
	if (plan == NULL)
		elog(ERROR, "could not prepare (%s): %s", SPI_result_code_string(SPI_result), sql);

	return remember_plan(sql, plan);
}

/*
 * pa_enter_view becomes the owner of a view, to compute it.  What its expressions make of values is then the same whoever
 * refreshes it: the functions that print floating-point numbers and bytea are called immutable, and still go by these
 * settings.  Plans may have such texts in them.
 */
void
pa_enter_view(PaGuard *guard, PaView *view)
{
	pa_guard_enter(guard, view->owner);
	pa_set_for_now("extra_float_digits", "1");
	pa_set_for_now("bytea_output", "hex");
	pa_set_for_now("xmlbinary", "base64");
}

/*
 * cost_of is what the planner expects a statement to cost.
 */
static double
cost_of(const char *sql)
{
	Planned    *planned = plan_of(sql);
	CachedPlan *volatile plan = NULL;
	double		cost;

	planned->running++;
	PG_TRY();
	{
		plan = SPI_plan_get_cached_plan(planned->plan);
	}
	PG_FINALLY();
	{
		planned->running--;
	}
	PG_END_TRY();
	if (plan == NULL)
		elog(ERROR, "no plan for: %s", sql);
	cost = linitial_node(PlannedStmt, plan->stmt_list)->planTree->total_cost;
	ReleaseCachedPlan(plan, CurrentResourceOwner);

	return cost;
}

/* Takes the rows of a statement, and shows how many have come. */
typedef struct Collector
{
	DestReceiver public;
	DestReceiver *store;		/* where they go */
	Oid			matview;
	int64		received;
	int64		expected;
} Collector;

static bool
collect(TupleTableSlot *row, DestReceiver *self)
{
	Collector  *collector = (Collector *) self;

	if (collector->received++ % PROGRESS_STEP == 0)
		pa_job_progress(collector->matview, 0, collector->received, collector->expected);

	return collector->store->receiveSlot(row, collector->store);
}

static void
start_collecting(DestReceiver *self, int operation, TupleDesc descriptor)
{
	Collector  *collector = (Collector *) self;

	collector->store->rStartup(collector->store, operation, descriptor);
}

static void
stop_collecting(DestReceiver *self)
{
	Collector  *collector = (Collector *) self;

	collector->store->rShutdown(collector->store);
}

static void
destroy_collector(DestReceiver *self)
{
	Collector  *collector = (Collector *) self;

	collector->store->rDestroy(collector->store);
}

/*
 * run sends the rows of a statement, of which about so many are expected, to a store, as the active snapshot sees
 * them.
 */
static void
run(PaView *view, const char *sql, Tuplestorestate *rows, int64 expected)
{
	MemoryContext caller_context = CurrentMemoryContext;
	SPIExecuteOptions options = {0};
	Collector	collector = {{collect, start_collecting, stop_collecting, destroy_collector, DestTuplestore}};
	Planned    *planned = plan_of(sql);
	volatile int code = 0;

	collector.store = CreateTuplestoreDestReceiver();
	SetTuplestoreDestReceiverParams(collector.store, rows, CurrentMemoryContext, true, NULL, NULL);
	collector.matview = view->matview;
	collector.expected = expected;
	pa_job_progress(view->matview, 0, 0, expected);

	options.read_only = true;
	options.dest = &collector.public;
	planned->running++;
	PG_TRY();
	{
		code = SPI_execute_plan_extended(planned->plan, &options);
	}
	PG_FINALLY();
	{
		planned->running--;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller_context);
	if (code != SPI_OK_SELECT)
		elog(ERROR, "unexpected result %s of: %s", SPI_result_code_string(code), sql);
	pa_job_progress_end();
}

/*
 * estimated_rows is how many rows a relation was thought to have when it was looked at last.
 */
static double
estimated_rows(Oid relation)
{
	HeapTuple	row = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	double		rows = 0;

	if (HeapTupleIsValid(row) && ((Form_pg_class) GETSTRUCT(row))->relkind != RELKIND_PARTITIONED_TABLE)
		rows = Max(((Form_pg_class) GETSTRUCT(row))->reltuples, 0);
	if (HeapTupleIsValid(row))
		ReleaseSysCache(row);

	return rows;
}

/*
 * typed_sql is a statement that reads rows from us.  The types of their columns belong to it: a plan for others would
 * read the rows wrongly.
 */
static char *
typed_sql(TupleDesc descriptor, const char *statement)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "/*");
	for (int i = 0; i < descriptor->natts; i++)
		appendStringInfo(&sql, " %u %d", TupleDescAttr(descriptor, i)->atttypid, TupleDescAttr(descriptor, i)->atttypmod);
	appendStringInfo(&sql, " */ %s", statement);

	return sql.data;
}

/*
 * probe_sql is the statement for a part of the changes.
 */
static char *
probe_sql(PaChanges *changes, PaChangesPart *part)
{
	return typed_sql(changes->keys, pa_view_probe_sql(changes->view, part->null_keys, part->by_range));
}

/*
 * begin_relation lets statements read rows as a relation.
 */
static void
begin_relation(const char *name, TupleDesc descriptor, Tuplestorestate *rows)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = pstrdup(name);
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = descriptor;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = PLANNED_KEYS;
	relation->reldata = rows;
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register %s", name);
}

static void
end_relation(const char *name)
{
	if (SPI_unregister_relation(name) != SPI_OK_REL_UNREGISTER)
		elog(ERROR, "could not unregister %s", name);
}

/*
 * pa_probe_cost is what the planner expects it to cost to compute the changed groups.
 */
double
pa_probe_cost(PaChanges *changes)
{
	double		cost = 0;
	ListCell   *cell;

	foreach(cell, changes->parts)
	{
		PaChangesPart *part = lfirst(cell);

		begin_relation("keys", changes->keys, part->store);
		cost += cost_of(probe_sql(changes, part)) * part->count / PLANNED_KEYS;
		end_relation("keys");
	}

	return cost;
}

/*
 * pa_full_cost is what the planner expects it to cost to compute all groups.
 */
double
pa_full_cost(PaView *view)
{
	return cost_of(pa_view_sql(view));
}

/*
 * pa_probed_descriptor describes the rows of pa_compute_changed.
 */
TupleDesc
pa_probed_descriptor(PaChanges *changes, TupleDesc matview)
{
	int			keys = changes->keys->natts;
	TupleDesc	descriptor = CreateTemplateTupleDesc(keys + 1 + matview->natts);

	for (int i = 0; i < keys; i++)
		TupleDescCopyEntry(descriptor, i + 1, changes->keys, i + 1);
	TupleDescInitEntry(descriptor, keys + 1, "is_there", BOOLOID, -1, 0);
	for (int i = 0; i < matview->natts; i++)
		TupleDescCopyEntry(descriptor, keys + 2 + i, matview, i + 1);

	return descriptor;
}

/*
 * pa_compute_changed computes the groups of a part.  The functions that it runs are the owner's and those of the
 * server, the caller being inside a guard.
 */
Tuplestorestate *
pa_compute_changed(PaChanges *changes, PaChangesPart *part)
{
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);
	int			guc_level = NewGUCNestLevel();

	/* Compiling takes longer than what it speeds up. */
	pa_set_for_now("jit", "off");
	/* No key comes twice. */
	pa_set_for_now("enable_memoize", "off");
	begin_relation("keys", changes->keys, part->store);
	run(changes->view, probe_sql(changes, part), rows, part->count);
	end_relation("keys");
	AtEOXact_GUC(true, guc_level);

	return rows;
}

/*
 * pa_compute_all computes all groups.
 *
 * All rows are there before the first is merged: parallel workers allow no changes.
 */
Tuplestorestate *
pa_compute_all(PaView *view)
{
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);

	run(view, pa_view_sql(view), rows, estimated_rows(view->matview));

	return rows;
}

/*
 * add_listed adds keys, at most so many; 0: all.
 */
static void
add_listed(PaChanges *changes, Tuplestorestate *keys, int most)
{
	TupleDesc	descriptor = CreateTemplateTupleDesc(changes->view->key_count);
	TupleTableSlot *row;
	int			added = 0;

	for (int i = 1; i <= changes->view->key_count; i++)
		TupleDescCopyEntry(descriptor, i, changes->keys, i);
	row = MakeSingleTupleTableSlot(descriptor, &TTSOpsMinimalTuple);
	while ((most == 0 || added++ < most) && tuplestore_gettupleslot(keys, true, false, row))
	{
		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(row);
		pa_add_changed_key(changes, row->tts_values, row->tts_isnull);
	}
	ExecDropSingleTupleTableSlot(row);
}

/*
 * pa_add_listed_keys adds the keys that pa_list_keys_of has found.
 */
void
pa_add_listed_keys(PaChanges *changes, Tuplestorestate *keys)
{
	add_listed(changes, keys, 0);
}

/*
 * pa_may_list_keys_of tells whether the view's owner sees all rows of a table by itself.  To read them through the table
 * that it is a partition of takes no privilege on the partition, which may be another role's, and passes its row security
 * by.
 */
bool
pa_may_list_keys_of(PaView *view, Oid table)
{
	return pg_class_aclcheck(table, view->owner, ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(table, view->owner, true) != RLS_ENABLED;
}

/*
 * pa_list_keys_of lists the keys of the groups that the rows of a table belong to.
 */
void
pa_list_keys_of(PaView *view, Oid table, Tuplestorestate *keys)
{
	run(view, pa_view_keys_sql(view, table, NULL), keys, 0);
}

/*
 * pa_add_keys_of adds the keys of the groups that the rows of a table belong to; all of them when it may not be read.
 */
void
pa_add_keys_of(PaChanges *changes, Oid table)
{
	Tuplestorestate *keys;

	if (!pa_may_list_keys_of(changes->view, table))
	{
		changes->everything = true;
		return;
	}

	keys = tuplestore_begin_heap(false, false, work_mem);
	pa_list_keys_of(changes->view, table, keys);
	add_listed(changes, keys, 0);
	tuplestore_end(keys);
}

/* Computing keys from inputs. */
typedef struct KeyComputation
{
	PaChanges  *changes;
	Tuplestorestate *keys;		/* gets them */
} KeyComputation;

/*
 * compute_keys is the work of pa_add_keys_of_inputs.
 */
static void
compute_keys(void *argument)
{
	KeyComputation *computation = argument;
	PaChanges  *changes = computation->changes;
	TupleDesc	descriptor = pa_view_input_descriptor(changes->view);

	/* A connection of its own to SPI forgets the relation even after an error. */
	SPI_connect();
	begin_relation("inputs", descriptor, changes->inputs);
	run(changes->view, typed_sql(descriptor, pa_view_input_keys_sql(changes->view)), computation->keys, 0);
	SPI_finish();
}

/*
 * pa_add_keys_of_inputs computes the keys that nobody has computed yet.  When one fails, its row may be gone, or not
 * belong to the view: what the view's query says of it counts, which everything is computed by then.
 *
 * Only a store that was begun outside of the subtransaction keeps its file when that ends.
 */
void
pa_add_keys_of_inputs(PaChanges *changes)
{
	KeyComputation computation = {changes};
	ErrorData  *error;

	if (changes->inputs == NULL)
		return;

	computation.keys = tuplestore_begin_heap(false, false, work_mem);
	if (!changes->everything && !pa_try(compute_keys, &computation, &error))
		changes->everything = true;
	if (!changes->everything)
		add_listed(changes, computation.keys, 0);
	tuplestore_end(computation.keys);
	tuplestore_end(changes->inputs);
	changes->inputs = NULL;
}

/*
 * pa_add_keys_sampled adds the keys of some groups of the source, of those that a random part of it has.
 */
void
pa_add_keys_sampled(PaChanges *changes, int most)
{
	Tuplestorestate *keys = tuplestore_begin_heap(false, false, work_mem);
	double		rows = 0;
	double		percent;
	ListCell   *cell;

	if (most == 0)
		return;

	foreach(cell, find_all_inheritors(changes->view->source, AccessShareLock, NULL))
		rows += estimated_rows(lfirst_oid(cell));

	/* Rows of one group are often neighbours, so there must be many more of them than groups are wanted. */
	percent = rows > 0 ? Min(100, 100 * (1000.0 + 100.0 * most) / rows) : 100;
	run(changes->view, pa_view_keys_sql(changes->view, changes->view->source, psprintf("SYSTEM (%f)", percent)), keys, most);
	add_listed(changes, keys, most);
	tuplestore_end(keys);
}
