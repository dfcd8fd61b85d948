/*
 * refresh.c
 *		A refresh of a materialized view.
 *
 * The order is what makes it exact.  The row of the view in refresh_state is locked, so that refreshes of one view
 * follow each other.  Then the source is described, then a snapshot is taken, and with it changed_keys is read, the
 * groups are computed, and the rows that were read are deleted from changed_keys.  Whatever commits later than the
 * snapshot has its row in changed_keys later too, and whatever happens to the source later differs from the description:
 * tables that are attached meanwhile are put into it as unknown.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "guard.h"
#include "job.h"
#include "miscadmin.h"
#include "partition.h"
#include "query.h"
#include "refresh.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_refresh_incremental);

#define JOB_NAME "refresh_matviews"

/*
 * Up to how many times what the planner expects all groups to cost, the changed ones are computed one by one.  It
 * prices each probe as if nobody had read the pages before, and neighbouring keys find theirs on the same ones.
 */
#define PROBE_COST_SHARE 3.0

/*
 * lock_state makes refreshes of a view follow each other, and returns what the source was like at the last one;
 * NULL when that is not known.
 *
 * A transaction that has registered the view, and whose snapshot is older, misses what others did before it locked them
 * out, which nobody noted: the next refresh looks at everything again.
 */
static char *
lock_state(PaRefresh *refresh)
{
	static const char *const lock =
		"SELECT sources, xmin FROM prod_analytics.refresh_state WHERE matview_id = $1 FOR UPDATE";
	PaParameters parameters = {0};
	int32		matview_id = refresh->registered->id;
	bool		isnull;
	Datum		sources;

	pa_add_parameter(&parameters, INT4OID, Int32GetDatum(matview_id));
	if (pa_query(lock, &parameters, SPI_OK_SELECT) == 0)
	{
		/* Whoever takes the view out of the registry just now is waited for. */
		pa_query("INSERT INTO prod_analytics.refresh_state (matview_id) SELECT matview_id"
				 " FROM prod_analytics.registered_matviews WHERE matview_id = $1 FOR KEY SHARE ON CONFLICT DO NOTHING",
				 &parameters, SPI_OK_INSERT);
		if (pa_query(lock, &parameters, SPI_OK_SELECT) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("materialized view %s is not registered for refresh any more", refresh->registered->name)));
	}
	refresh->is_blind = IsolationUsesXactSnapshot() &&
		TransactionIdIsCurrentTransactionId(DatumGetTransactionId(pa_result(0, 2, &isnull)));
	sources = pa_result(0, 1, &isnull);
	refresh->is_blind &= isnull;

	return isnull ? NULL : TextDatumGetCString(sources);
}

/*
 * save_state writes down that the view was refreshed, and what its source was like.
 */
static void
save_state(PaRefresh *refresh, const char *before, const char *sources, TimestampTz start)
{
	PaParameters parameters = {0};
	bool		is_new;

	if (refresh->is_blind)
		sources = NULL;
	is_new = (before == NULL) != (sources == NULL) || (before && strcmp(before, sources) != 0);
	pa_add_parameter(&parameters, INT4OID, Int32GetDatum(refresh->registered->id));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(refresh->method));
	pa_add_parameter(&parameters, TIMESTAMPTZOID, TimestampTzGetDatum(start));
	pa_add_parameter(&parameters, TEXTOID, sources ? CStringGetTextDatum(sources) : (Datum) 0);
	if (sources == NULL)
		parameters.nulls[parameters.count - 1] = 'n';

	pa_query(is_new ?
			 "UPDATE prod_analytics.refresh_state SET refreshed_at = clock_timestamp(), method = $2,"
			 " duration = clock_timestamp() - $3, sources = $4 WHERE matview_id = $1" :
			 "UPDATE prod_analytics.refresh_state SET refreshed_at = clock_timestamp(), method = $2,"
			 " duration = clock_timestamp() - $3 WHERE matview_id = $1 AND ($4::text IS NULL OR true)",
			 &parameters, SPI_OK_UPDATE);
}

/*
 * is_populated tells whether a view has been filled since it was made.
 */
static bool
is_populated(Oid matview)
{
	HeapTuple	row = SearchSysCache1(RELOID, ObjectIdGetDatum(matview));
	bool		result;

	if (!HeapTupleIsValid(row))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the materialized view has been dropped")));
	result = ((Form_pg_class) GETSTRUCT(row))->relispopulated;
	ReleaseSysCache(row);

	return result;
}

/*
 * push_snapshot makes active what a refresh sees: all that has committed by now, if the isolation level allows that.
 */
static Snapshot
push_snapshot(void)
{
	PushActiveSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot());

	return GetActiveSnapshot();
}

/*
 * can_refresh_concurrently tells whether REFRESH need not lock readers out.
 */
static bool
can_refresh_concurrently(Oid matview)
{
	PaParameters parameters = {0};

	if (!is_populated(matview))
		return false;

	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(matview));

	return pa_query("SELECT FROM pg_index WHERE indrelid = $1 AND indisunique AND indisvalid AND indimmediate"
					" AND indpred IS NULL AND indexprs IS NULL LIMIT 1",
					&parameters, SPI_OK_SELECT) > 0;
}

/*
 * run_refresh runs the server's own REFRESH, as the owner.  It restricts by itself what the view's query may do, and
 * needs a temporary table, which it could not make if we did.
 */
static void
run_refresh(PaRefresh *refresh, bool concurrently)
{
	PaGuard		guard;
	Oid			user;
	int			security_context;

	if (refresh->view)
		pa_enter_view(&guard, refresh->view);
	else
		pa_guard_enter(&guard, pa_owner(refresh->registered->matview));
	GetUserIdAndSecContext(&user, &security_context);
	SetUserIdAndSecContext(user, security_context & ~SECURITY_RESTRICTED_OPERATION);
	pa_query(psprintf("REFRESH MATERIALIZED VIEW %s%s", concurrently ? "CONCURRENTLY " : "",
					  pa_relation_sql(refresh->registered->matview)),
			 NULL, SPI_OK_UTILITY);
	pa_guard_leave(&guard);
}

/*
 * refresh_fully refreshes a view as the server does.  What has been captured until then is done with.
 */
static void
refresh_fully(PaRefresh *refresh)
{
	Oid			matview = refresh->registered->matview;
	TimestampTz start = GetCurrentTimestamp();
	bool		concurrently = can_refresh_concurrently(matview);
	PaChanges	changes = {0};
	List	   *tables = NIL;
	char	   *before;

	refresh->method = PA_METHOD_REFRESH;
	/* The lock that REFRESH takes: to take a weaker one first would be a way to a deadlock. */
	LockRelationOid(matview, concurrently ? ExclusiveLock : AccessExclusiveLock);
	before = lock_state(refresh);
	if (refresh->view)
		refresh->view = pa_lock_source(refresh->view);
	if (refresh->view && refresh->view->reason)
		refresh->view = NULL;
	if (refresh->view)
		tables = pa_describe_source(refresh->view);

	pa_flush_marks();
	changes.everything = true;
	pa_read_log(&changes, refresh->registered->id, push_snapshot());
	run_refresh(refresh, concurrently);
	pa_clear_log(&changes, GetActiveSnapshot());
	if (refresh->view)
		tables = pa_add_latecomers(refresh->view, tables);
	PopActiveSnapshot();

	save_state(refresh, before, refresh->view ? pa_source_text(refresh->view, tables) : NULL, start);
}

/*
 * should_probe decides whether to compute the changed groups one by one.
 */
static bool
should_probe(PaRefresh *refresh, PaChanges *changes)
{
	if (changes->everything)
	{
		refresh->reason = "everything may have changed";
		return false;
	}
	if (changes->count == 0 || pa_probe_cost(changes) <= pa_full_cost(changes->view) * PROBE_COST_SHARE)
		return true;

	refresh->reason = "so many groups have changed, or are so hard to find, that it is quicker to compute all";

	return false;
}

/*
 * merge_changes computes the groups that have changed, and merges them.
 */
static void
merge_changes(PaRefresh *refresh, PaChanges *changes, Relation matview, Relation index)
{
	TupleDesc	descriptor = pa_probed_descriptor(changes, RelationGetDescr(matview));
	ListCell   *cell;

	refresh->method = PA_METHOD_KEYS;
	refresh->keys = changes->count;
	if (changes->count == 0)
		return;

	pa_begin_merge(&refresh->merge, refresh->view, matview, index);
	refresh->merge.comparison->expected = changes->count;
	foreach(cell, changes->parts)
	{
		Tuplestorestate *rows = pa_compute_changed(changes, lfirst(cell));

		pa_compare_probed(refresh->merge.comparison, rows, descriptor);
		tuplestore_end(rows);
	}
	pa_end_merge(&refresh->merge);
}

/*
 * merge_all computes all groups, and merges them.
 */
static void
merge_all(PaRefresh *refresh, Relation matview, Relation index)
{
	Tuplestorestate *rows = pa_compute_all(refresh->view);

	refresh->method = PA_METHOD_RECOMPUTE;
	pa_begin_merge(&refresh->merge, refresh->view, matview, index);
	refresh->merge.comparison->expected = tuplestore_tuple_count(rows);
	pa_compare_all(refresh->merge.comparison, rows);
	refresh->keys = refresh->merge.comparison->groups;
	pa_end_merge(&refresh->merge);
	tuplestore_end(rows);
}

/*
 * merge_as_owner brings a view that is locked up to date with what the active snapshot sees.
 */
static void
merge_as_owner(PaRefresh *refresh, PaChanges *changes, List *tables, const char *before)
{
	PaView	   *view = refresh->view;
	Relation	matview = table_open(view->matview, RowExclusiveLock);
	Relation	index;
	PaGuard		guard;

	pa_check_unique_index(view);
	index = index_open(pa_view_unique_index(view), RowExclusiveLock);
	pa_enter_view(&guard, view);
	if (refresh->expired_keys)
	{
		changes->expired = refresh->expired;
		pa_add_listed_keys(changes, refresh->expired_keys);
	}
	pa_add_keys_of_inputs(changes);
	pa_add_unseen(changes, tables, before, matview);
	pa_finish_changes(changes);
	if (refresh->seen_keys)
		pa_copy_changed_keys(changes, refresh->seen_keys);
	if (should_probe(refresh, changes))
		merge_changes(refresh, changes, matview, index);
	else
		merge_all(refresh, matview, index);
	pa_guard_leave(&guard);

	index_close(index, NoLock);
	table_close(matview, NoLock);
}

/*
 * refresh_changed brings a view up to date.
 */
static void
refresh_changed(PaRefresh *refresh)
{
	TimestampTz start = GetCurrentTimestamp();
	PaChanges  *changes;
	int32		id = refresh->registered->id;
	List	   *tables;
	char	   *before;

	/* REFRESH waits for us, and we for it; readers do neither, nor does autovacuum. */
	LockRelationOid(refresh->view->matview, RowExclusiveLock);
	if (!is_populated(refresh->view->matview))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("materialized view \"%s\" has been emptied meanwhile", get_rel_name(refresh->view->matview)),
				 errhint("Try again.")));

	before = lock_state(refresh);
	refresh->view = pa_lock_source(refresh->view);
	if (refresh->view == NULL || refresh->view->reason)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("materialized view %s cannot be kept incrementally any more", refresh->registered->name),
				 refresh->view ? errdetail("It has changed while the refresh waited: %s.", refresh->view->reason) : 0,
				 errhint("Try again.")));
	tables = pa_describe_source(refresh->view);
	pa_flush_marks();

	changes = pa_begin_changes(refresh->view);
	pa_read_log(changes, id, push_snapshot());
	merge_as_owner(refresh, changes, tables, before);
	pa_clear_log(changes, GetActiveSnapshot());
	tables = pa_add_latecomers(refresh->view, tables);
	PopActiveSnapshot();
	pa_end_changes(changes);

	save_state(refresh, before, pa_source_text(refresh->view, tables), start);
}

/*
 * refresh_suitably refreshes a view in the way that suits it.
 */
static void
refresh_suitably(PaRefresh *refresh)
{
	PaView	   *view = refresh->registered->is_incremental ? pa_view(refresh->registered->matview) : NULL;

	refresh->mode = PA_REFRESH_FULL;
	refresh->reason = refresh->registered->reason;
	if (view && view->reason)
		refresh->reason = view->reason;
	else if (view && !is_populated(view->matview))
	{
		refresh->view = view;
		refresh->reason = "it was empty";
	}
	else if (view)
	{
		refresh->view = view;
		refresh->mode = PA_REFRESH_INCREMENTAL;
		refresh->reason = NULL;
		refresh_changed(refresh);
		return;
	}

	refresh_fully(refresh);
}

/*
 * pa_refresh_matview refreshes a view in the caller's memory context.  The caller acts as the owner of our tables.
 *
 * A connection of its own to SPI forgets even after an error which relations statements could read.
 */
void
pa_refresh_matview(void *refresh)
{
	MemoryContext caller_context = CurrentMemoryContext;

	SPI_connect();
	MemoryContextSwitchTo(caller_context);
	refresh_suitably(refresh);
	SPI_finish();
}

/*
 * append_counts appends what came of a refresh to a JSON object that is being written.
 */
static void
append_counts(StringInfo json, PaRefresh *refresh)
{
	appendStringInfo(json, "\"mode\": \"%s\", \"method\": \"%s\"", refresh->mode, refresh->method);
	if (strcmp(refresh->method, PA_METHOD_REFRESH) != 0)
		appendStringInfo(json, ", \"keys\": " INT64_FORMAT ", \"inserted\": " INT64_FORMAT
						 ", \"updated\": " INT64_FORMAT ", \"deleted\": " INT64_FORMAT,
						 refresh->keys, refresh->merge.inserted, refresh->merge.updated, refresh->merge.deleted);
	if (refresh->reason)
	{
		appendStringInfoString(json, ", \"reason\": ");
		escape_json(json, refresh->reason);
	}
}

/*
 * changed_rows counts the rows of the view that a refresh has changed.
 */
static int64
changed_rows(PaRefresh *refresh)
{
	return refresh->merge.inserted + refresh->merge.updated + refresh->merge.deleted;
}

/*
 * refresh_one refreshes one view, as a run of the job.
 */
static Datum
refresh_one(Oid matview)
{
	PaRefresh	refresh = {pa_registered_or_error(matview)};
	int64		job_id = pa_job_start(JOB_NAME);
	StringInfoData json;
	ErrorData  *error;

	if (!pa_try(pa_refresh_matview, &refresh, &error))
		return pa_job_fail(job_id, JOB_NAME, error);

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"matview\": ");
	escape_json(&json, refresh.registered->name);
	appendStringInfoString(&json, ", ");
	append_counts(&json, &refresh);
	appendStringInfoChar(&json, '}');

	return pa_job_end(job_id, PA_JOB_SUCCESS, changed_rows(&refresh),
					  DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/*
 * append_failure tells of a view that could not be refreshed, which does not stop the others.
 */
static void
append_failure(StringInfo json, PaMatview *matview, ErrorData *error)
{
	appendStringInfo(json, "\"status\": \"%s\", \"sqlstate\": \"%s\", \"error\": ",
					 PA_JOB_FAILED, unpack_sql_state(error->sqlerrcode));
	escape_json(json, error->message);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("materialized view %s was left as it was: %s", matview->name, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}

/*
 * is_registered tells whether a view is still one to be refreshed.
 */
static bool
is_registered(PaMatview *matview)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, INT4OID, Int32GetDatum(matview->id));

	return pa_query("SELECT FROM prod_analytics.registered_matviews WHERE matview_id = $1", &parameters, SPI_OK_SELECT) > 0;
}

/*
 * refresh_all refreshes all registered views, as one run of the job.
 */
static Datum
refresh_all(void)
{
	int64		job_id = pa_job_start(JOB_NAME);
	int64		rows = 0;
	StringInfoData json;
	StringInfoData failed;
	MemoryContext caller_context = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller_context, "refresh of a view", ALLOCSET_DEFAULT_SIZES);
	ListCell   *cell;

	initStringInfo(&json);
	initStringInfo(&failed);
	appendStringInfoString(&json, "{\"views\": [");
	foreach(cell, pa_registered_matviews(InvalidOid))
	{
		PaRefresh	refresh = {lfirst(cell)};
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		appendStringInfoString(&json, foreach_current_index(cell) == 0 ? "{\"matview\": " : ", {\"matview\": ");
		escape_json(&json, refresh.registered->name);
		appendStringInfoString(&json, ", ");
		if (pa_try(pa_refresh_matview, &refresh, &error))
		{
			appendStringInfo(&json, "\"status\": \"%s\", ", PA_JOB_SUCCESS);
			append_counts(&json, &refresh);
			rows += changed_rows(&refresh);
		}
		else if (is_registered(refresh.registered))
		{
			append_failure(&json, refresh.registered, error);
			appendStringInfo(&failed, "%s%s", failed.len == 0 ? "left as they were: " : ", ", refresh.registered->name);
		}
		else
			appendStringInfo(&json, "\"status\": \"%s\", \"reason\": \"it is not registered any more\"", PA_JOB_SKIPPED);
		appendStringInfoChar(&json, '}');
		MemoryContextSwitchTo(caller_context);
		MemoryContextReset(context);
	}
	appendStringInfoChar(&json, ']');
	if (failed.len > 0)
	{
		appendStringInfoString(&json, ", \"error\": ");
		escape_json(&json, failed.data);
	}
	appendStringInfoChar(&json, '}');

	return pa_job_end(job_id, failed.len > 0 ? PA_JOB_FAILED : PA_JOB_SUCCESS, rows,
					  DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/*
 * refresh_incremental(matview regclass) refreshes a registered view (NULL: all of them).
 */
Datum
pa_refresh_incremental(PG_FUNCTION_ARGS)
{
	PaGuard		guard;
	Datum		result;

	pa_forbid_read_only("refresh_incremental()");

	pa_guard_enter(&guard, pa_owner(pa_table("registered_matviews")));
	SPI_connect();
	if (PG_ARGISNULL(0))
	{
		result = refresh_all();
		pa_forget_lost_keys();
	}
	else
		result = refresh_one(PG_GETARG_OID(0));
	SPI_finish();
	pa_guard_leave(&guard);

	PG_RETURN_DATUM(result);
}
