/*
 * job.c
 *		The log of runs, etl_jobs.
 *
 * A job is a kind of work that has a name ("ingest_events").  A run is one execution of it, a row
 * in etl_jobs.  While a run lasts it holds the job's advisory lock, hashtext('etl_' || name): the
 * key that shell scripts around the same work already use.
 *
 * The caller of a C function here is connected to SPI and inside a guard.  The SQL functions at the
 * end are for procedures, which commit between steps.
 *
 * When the worker executes a job's command, it has written the record before, and will write its end: what the command
 * begins under the job's name is that run.
 */
#include "prod_analytics.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/progress.h"
#include "fmgr.h"
#include "guard.h"
#include "job.h"
#include "miscadmin.h"
#include "query.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/backend_progress.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(pa_job_begin);
PG_FUNCTION_INFO_V1(pa_job_note);
PG_FUNCTION_INFO_V1(pa_job_finish);

PaRun		pa_run = {0};

/*
 * jsonb_result copies the only value of the last query out of SPI's memory.
 */
static Datum
jsonb_result(void)
{
	bool		isnull;
	Datum		value = pa_result(0, 1, &isnull);

	return SPI_datumTransfer(value, false, -1);
}

/*
 * pa_job_key is the key of a job's advisory lock.
 */
int64
pa_job_key(const char *job_name)
{
	char	   *key = psprintf("etl_%s", job_name);

	return (int64) DatumGetInt32(DirectFunctionCall1Coll(hashtext, DEFAULT_COLLATION_OID, CStringGetTextDatum(key)));
}

/*
 * pa_job_lock takes the job's lock until the end of the transaction; false when another session
 * holds it.
 */
bool
pa_job_lock(const char *job_name)
{
	return DatumGetBool(DirectFunctionCall1(pg_try_advisory_xact_lock_int8,
											Int64GetDatum(pa_job_key(job_name))));
}

/*
 * pa_job_wait takes the job's lock until the end of the transaction, when whoever has it is done.
 */
void
pa_job_wait(const char *job_name)
{
	(void) DirectFunctionCall1(pg_advisory_xact_lock_int8, Int64GetDatum(pa_job_key(job_name)));
}

/*
 * The lock of a procedure that commits, held across its transactions by the session, and the run that it is for;
 * 0: none.
 */
static int64 held_key = 0;
static int64 held_run = 0;

/*
 * key_lock is the lock that pg_advisory_lock(key) takes.
 */
static LOCKTAG
key_lock(int64 key)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (key >> 32), (uint32) key, 1);

	return tag;
}

/*
 * release_held gives the session's lock back.
 */
static void
release_held(void)
{
	LOCKTAG		tag = key_lock(held_key);

	if (held_key != 0)
		(void) LockRelease(&tag, ExclusiveLock, true);
	held_key = 0;
	held_run = 0;
}

/*
 * release_on_abort gives the lock back when the procedure fails or is cancelled, so that no other session
 * is kept out for as long as this one lives.
 */
static void
release_on_abort(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_ABORT && held_key != 0)
		release_held();
}

/*
 * hold_lock takes the job's lock for the session; false when another session holds it.
 */
static bool
hold_lock(const char *job_name)
{
	static bool registered = false;
	int64		key = pa_job_key(job_name);
	LOCKTAG		tag = key_lock(key);

	if (!registered)
		RegisterXactCallback(release_on_abort, NULL);
	registered = true;

	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	held_key = key;

	return true;
}

/*
 * is_workers tells whether the worker has begun a run of a job in this process.
 */
static bool
is_workers(const char *job_name)
{
	return pa_run.job_id != 0 && strcmp(pa_run.job_name, job_name) == 0;
}

/*
 * pa_job_start logs the start of a run and returns its job_id.
 */
int64
pa_job_start(const char *job_name)
{
	PaParameters parameters = {0};
	bool		isnull;

	if (is_workers(job_name))
		return pa_run.job_id;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(job_name));
	pa_query("INSERT INTO prod_analytics.etl_jobs (job_name, started_at, status)"
			 " VALUES ($1, clock_timestamp(), 'RUNNING') RETURNING job_id",
			 &parameters, SPI_OK_INSERT_RETURNING);

	return DatumGetInt64(pa_result(0, 1, &isnull));
}

/*
 * leave_end_to_worker returns the result of a run whose end the worker will log.
 */
static Datum
leave_end_to_worker(PaParameters *parameters)
{
	bool		isnull;
	Datum		result;

	if (pa_query("SELECT jsonb_build_object('job_id', job_id, 'status', $2, 'rows', $3,"
				 " 'duration_seconds', extract(epoch FROM clock_timestamp() - started_at)) || $4"
				 " FROM prod_analytics.etl_jobs WHERE job_id = $1",
				 parameters, SPI_OK_SELECT) != 1)
		elog(ERROR, "run " INT64_FORMAT " is not in etl_jobs", pa_run.job_id);
	result = pa_result(0, 1, &isnull);
	if (pa_run.result)
		pfree(pa_run.result);
	pa_run.result = MemoryContextStrdup(TopMemoryContext, JsonbToCString(NULL, &DatumGetJsonbP(result)->root, 0));

	return jsonb_result();
}

/*
 * pa_job_end logs the end of a run and returns the jsonb result that the job's function gives its
 * caller, in the memory context of the SPI caller.
 */
Datum
pa_job_end(int64 job_id, const char *status, int64 rows, Datum details)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(job_id));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(status));
	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(rows));
	pa_add_parameter(&parameters, JSONBOID, details);
	if (job_id == pa_run.job_id)
		return leave_end_to_worker(&parameters);
	if (pa_query("UPDATE prod_analytics.etl_jobs"
				 " SET finished_at = clock_timestamp(), status = $2, rows_processed = $3, details = $4"
				 " WHERE job_id = $1 AND status = 'RUNNING'"
				 " RETURNING jsonb_build_object('job_id', job_id, 'status', status, 'rows', rows_processed,"
				 " 'duration_seconds', extract(epoch FROM finished_at - started_at)) || details",
				 &parameters, SPI_OK_UPDATE_RETURNING) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("run " INT64_FORMAT " in etl_jobs is not running", job_id)));

	return jsonb_result();
}

/*
 * pa_job_skip logs that a run did not start because the job is running elsewhere.
 */
Datum
pa_job_skip(const char *job_name)
{
	Datum		details;

	details = DirectFunctionCall1(jsonb_in,
								  CStringGetDatum("{\"reason\": \"the job is running in another session\"}"));

	return pa_job_end(pa_job_start(job_name), PA_JOB_SKIPPED, 0, details);
}

/* Where the view job_progress looks: what COPY uses for its tuples, and three that no command uses. */
#define PROGRESS_DONE PROGRESS_COPY_TUPLES_PROCESSED
#define PROGRESS_COLUMN 8
#define PROGRESS_EXPECTED 9
#define PROGRESS_OURS 10

/*
 * pa_job_progress shows in job_progress how many rows of a table a run has dealt with, of about how many;
 * "column" is the one that it fills, or 0.
 *
 * The server's own facility has no place for extensions.  We appear as a COPY, which none of our runs is at
 * the same time; a subtransaction that fails ends the display, and the next call begins it anew.
 */
void
pa_job_progress(Oid table, AttrNumber column, int64 done, int64 expected)
{
	const int	places[] = {PROGRESS_DONE, PROGRESS_COLUMN, PROGRESS_EXPECTED, PROGRESS_OURS};
	const int64 values[] = {done, column, expected, 1};

	pgstat_progress_start_command(PROGRESS_COMMAND_COPY, table);
	pgstat_progress_update_multi_param(lengthof(places), places, values);
}

/*
 * pa_job_progress_end ends the display.
 */
void
pa_job_progress_end(void)
{
	pgstat_progress_end_command();
}

/*
 * pa_job_fail logs the failure of a run whose work has been rolled back, and raises it as a
 * WARNING: an error would roll back the record too.  The worker tells of it by itself.
 */
Datum
pa_job_fail(int64 job_id, const char *job_name, ErrorData *error)
{
	PaParameters parameters = {0};

	pa_add_text(&parameters, unpack_sql_state(error->sqlerrcode));
	pa_add_text(&parameters, error->message);
	pa_add_text(&parameters, error->detail);
	pa_add_text(&parameters, error->hint);
	pa_add_text(&parameters, error->context);
	pa_query("SELECT jsonb_strip_nulls(jsonb_build_object("
			 "'sqlstate', $1, 'error', $2, 'detail', $3, 'hint', $4, 'context', $5))",
			 &parameters, SPI_OK_SELECT);

	if (!is_workers(job_name))
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("job \"%s\" failed: %s", job_name, error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 errhint("Its work was rolled back; run " INT64_FORMAT " in %s.etl_jobs tells more.",
						 job_id, PA_SCHEMA)));

	return pa_job_end(job_id, PA_JOB_FAILED, 0, jsonb_result());
}

/*
 * bury_dead_runs marks the runs of a job as failed that never ended: whoever holds the job's lock
 * knows that nobody else is running it.
 */
static void
bury_dead_runs(const char *job_name)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(job_name));
	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(pa_run.job_id));
	pa_query("UPDATE prod_analytics.etl_jobs SET status = 'FAILED', finished_at = clock_timestamp(),"
			 " details = coalesce(details, '{}') || '{\"error\": \"the run was cancelled, or its process terminated\"}'"
			 " WHERE job_name = $1 AND status = 'RUNNING' AND job_id <> $2",
			 &parameters, SPI_OK_UPDATE);
}

/*
 * may_update tells whether the caller may update a column that is named with its schema and table.
 */
static bool
may_update(const char *column)
{
	List	   *names;
	Oid			namespace;
	Oid			table;
	AttrNumber	attribute;

	if (!SplitIdentifierString(pstrdup(column), '.', &names) || list_length(names) != 3)
		return false;
	namespace = get_namespace_oid(linitial(names), true);
	table = OidIsValid(namespace) ? get_relname_relid(lsecond(names), namespace) : InvalidOid;

	if (!OidIsValid(table))
		return false;
	attribute = get_attnum(table, lthird(names));

	return pg_class_aclcheck(table, GetUserId(), ACL_UPDATE) == ACLCHECK_OK ||
		(attribute != InvalidAttrNumber && pg_attribute_aclcheck(table, attribute, GetUserId(), ACL_UPDATE) == ACLCHECK_OK);
}

/*
 * pa_check_job_name refuses the name of runs that fill a column to who may not update it: backfill_column() goes on
 * where the run before it says that it was.
 */
void
pa_check_job_name(const char *job_name)
{
	const char *column;

	if (strncmp(job_name, PA_BACKFILL_JOB, strlen(PA_BACKFILL_JOB)) != 0)
		return;
	column = job_name + strlen(PA_BACKFILL_JOB);
	if (!may_update(column))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for column %s", column),
				 errdetail("Jobs of that name fill the column, and so are for those who may update it."),
				 errhint("Give the job another name.")));
}

/*
 * enter_log gets ready to write the log, as its owner.
 */
static void
enter_log(PaGuard *guard)
{
	pa_guard_enter(guard, pa_owner(pa_table("etl_jobs")));
	SPI_connect();
}

static void
leave_log(PaGuard *guard)
{
	SPI_finish();
	pa_guard_leave(guard);
}

/*
 * check_run refuses a run that this session has not begun.  Whoever may execute a procedure of ours may execute its
 * steps, and is not to write what became of somebody else's run.
 */
static void
check_run(int64 job_id)
{
	if (held_run == 0 || job_id != held_run)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("run " INT64_FORMAT " in etl_jobs is not one that this session has begun", job_id)));
}

/*
 * job_begin(job_name text) takes the job's lock until job_finish() or a failure, logs the start of a run and
 * returns its job_id; NULL, and a run logged as SKIPPED, when another session holds the lock.
 */
Datum
pa_job_begin(PG_FUNCTION_ARGS)
{
	char	   *job_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	PaGuard		guard;
	int64		job_id = 0;
	bool		locked;

	pa_forbid_read_only("job_begin()");
	/* It could not commit; and a subtransaction that is rolled back would not give the lock back. */
	if (IsTransactionBlock())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("job \"%s\" cannot run inside a transaction block", job_name),
				 errhint("It commits after each step; call it by itself.")));
	pa_check_job_name(job_name);
	enter_log(&guard);
	locked = hold_lock(job_name);
	if (locked)
	{
		bury_dead_runs(job_name);
		job_id = pa_job_start(job_name);
		held_run = job_id;
	}
	else
		(void) pa_job_skip(job_name);
	leave_log(&guard);

	if (!locked)
		PG_RETURN_NULL();

	PG_RETURN_INT64(job_id);
}

/*
 * job_note(job_id bigint, rows bigint, details jsonb) logs how far a run has come.
 */
Datum
pa_job_note(PG_FUNCTION_ARGS)
{
	PaParameters parameters = {0};
	PaGuard		guard;

	check_run(PG_GETARG_INT64(0));
	enter_log(&guard);
	pa_add_parameter(&parameters, INT8OID, PG_GETARG_DATUM(0));
	pa_add_parameter(&parameters, INT8OID, PG_GETARG_DATUM(1));
	pa_add_parameter(&parameters, JSONBOID, PG_GETARG_DATUM(2));
	pa_query("UPDATE prod_analytics.etl_jobs SET rows_processed = $2, details = $3"
			 " WHERE job_id = $1 AND status = 'RUNNING'",
			 &parameters, SPI_OK_UPDATE);
	leave_log(&guard);

	PG_RETURN_VOID();
}

/*
 * job_finish(job_id bigint, status text, rows bigint, details jsonb) logs the end of a run and returns
 * the job's result.
 */
Datum
pa_job_finish(PG_FUNCTION_ARGS)
{
	PaGuard		guard;
	Datum		result;

	check_run(PG_GETARG_INT64(0));
	enter_log(&guard);
	result = pa_job_end(PG_GETARG_INT64(0), text_to_cstring(PG_GETARG_TEXT_PP(1)),
						PG_GETARG_INT64(2), PG_GETARG_DATUM(3));
	leave_log(&guard);
	release_held();

	PG_RETURN_DATUM(result);
}
