/*
 * worker_run.c
 *		Running a job now, because somebody wants it.
 *
 * Where a scheduler is running it is asked to have the job run, and the session waits.  Elsewhere the session does it
 * by itself, within its own transaction.
 */
#include "prod_analytics.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "guard.h"
#include "job.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "query.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(pa_run_job);

/* How often a waiting session looks whether there is still something to wait for. */
#define LOOK_MS 1000

/* The request that this session waits for; -1: none. */
static int	own_request = -1;

/*
 * ask puts a request where the scheduler of this database sees it, and returns its number; -1 when there is no
 * scheduler.
 */
static int
ask(const char *job_name)
{
	PaScheduler *scheduler;
	int			number = -1;
	bool		is_full = false;

	if (pa_worker == NULL)
		return -1;

	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	scheduler = pa_scheduler_of(MyDatabaseId);
	for (int i = 0; scheduler && i < PA_MOST_REQUESTS && number < 0; i++)
		if (pa_worker->requests[i].state == PA_REQUEST_FREE)
			number = i;
	if (number >= 0)
	{
		PaRequest  *request = &pa_worker->requests[number];

		request->state = PA_REQUEST_ASKED;
		request->database = MyDatabaseId;
		request->job_id = 0;
		pa_enter_process(&request->waiting);
		strlcpy(request->job_name, job_name, PA_JOB_NAME_SIZE);
		pa_wake(&scheduler->process);
	}
	is_full = scheduler && number < 0;
	LWLockRelease(pa_worker->lock);

	if (is_full)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many sessions wait for jobs"),
				 errhint("Try again later.")));

	return number;
}

/*
 * abandon waits no longer.
 */
static void
abandon(void)
{
	PaRequest  *request = &pa_worker->requests[own_request];

	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	pa_leave_process(&request->waiting);
	request->state = request->state == PA_REQUEST_TAKEN ? PA_REQUEST_ABANDONED : PA_REQUEST_FREE;
	LWLockRelease(pa_worker->lock);
	own_request = -1;
}

/*
 * abandon_at_exit does so when the session ends meanwhile.
 */
static void
abandon_at_exit(int code, Datum argument)
{
	if (own_request >= 0)
		abandon();
}

/*
 * own notes that a request is this session's.
 */
static void
own(int number)
{
	static bool is_registered = false;

	if (!is_registered)
		before_shmem_exit(abandon_at_exit, (Datum) 0);
	is_registered = true;
	own_request = number;
}

/*
 * runner_of is the process that has taken a request, or is about to; NULL when there is none.  The caller holds the
 * lock.
 */
static PaRunner *
runner_of(int number)
{
	for (int i = 0; i < PA_MOST_RUNNERS; i++)
	{
		PaRunner   *runner = &pa_worker->runners[i];

		if (runner->state != PA_RUNNER_FREE && runner->state != PA_RUNNER_GONE && runner->request == number)
			return runner;
	}

	return NULL;
}

/*
 * is_ended tells whether the run has ended; *job_id gets its number, 0 when there is no such job, -1 when the job was
 * running already, and *pid the process that is at it, 0 when none is.
 */
static bool
is_ended(int number, int64 *job_id, int *pid)
{
	PaRequest  *request = &pa_worker->requests[number];
	PaRunner   *runner;
	bool		result;
	bool		is_alone;

	LWLockAcquire(pa_worker->lock, LW_SHARED);
	result = (request->state == PA_REQUEST_ENDED);
	*job_id = request->job_id;
	runner = runner_of(number);
	*pid = runner ? runner->process.pid : 0;
	is_alone = (!result && runner == NULL && pa_scheduler_of(MyDatabaseId) == NULL);
	LWLockRelease(pa_worker->lock);

	if (is_alone)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the worker ended before the job did"),
				 errhint("Try again.")));

	return result;
}

/*
 * refuse_deadlock raises an error when the run waits for a lock of this session, which cannot give it away before the
 * run has ended: CREATE INDEX CONCURRENTLY waits for all transactions that are older.
 */
static void
refuse_deadlock(const char *job_name, int pid)
{
	Datum		blockers = DirectFunctionCall1(pg_blocking_pids, Int32GetDatum(pid));
	Datum	   *pids;
	int			count;

	deconstruct_array(DatumGetArrayTypeP(blockers), INT4OID, sizeof(int32), true, TYPALIGN_INT, &pids, NULL, &count);
	for (int i = 0; i < count; i++)
		if (DatumGetInt32(pids[i]) == MyProcPid)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
					 errmsg("job \"%s\" waits for this session, which waits for it", job_name),
					 errdetail("The run goes on when this transaction has ended."),
					 errhint("%s.job_status tells how it ends.", PA_SCHEMA)));
	pfree(pids);
}

/*
 * wait_for_end waits until a request has ended, and returns the number of the run, like is_ended.
 */
static int64
wait_for_end(const char *job_name, int number)
{
	int64		job_id;
	int			pid;

	while (!is_ended(number, &job_id, &pid))
	{
		int			event = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS, PG_WAIT_EXTENSION);

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if ((event & WL_TIMEOUT) && pid != 0)
			refuse_deadlock(job_name, pid);
	}

	return job_id;
}

/*
 * wait_for_run does so, and takes the request back even when it is cancelled.
 */
static int64
wait_for_run(const char *job_name, int number)
{
	volatile int64 job_id = 0;

	own(number);
	PG_TRY();
	{
		job_id = wait_for_end(job_name, number);
	}
	PG_CATCH();
	{
		abandon();
		PG_RE_THROW();
	}
	PG_END_TRY();
	abandon();

	return job_id;
}

/* What the log says of a run. */
typedef struct LoggedRun
{
	MemoryContext context;
	int64		job_id;
	Datum		value;			/* jsonb, in that memory context */
} LoggedRun;

/*
 * read_result reads what the log says of a run.
 */
static void
read_result(void *argument)
{
	LoggedRun  *result = argument;
	PaParameters parameters = {0};
	MemoryContext caller_context;
	bool		isnull;
	Datum		value;

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(result->job_id));
	if (pa_query("SELECT prod_analytics.run_result($1)", &parameters, SPI_OK_SELECT) == 0)
		elog(ERROR, "no result of run " INT64_FORMAT, result->job_id);
	value = pa_result(0, 1, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the log says nothing of run " INT64_FORMAT, result->job_id)));
	caller_context = MemoryContextSwitchTo(result->context);
	result->value = JsonbPGetDatum(DatumGetJsonbPCopy(value));
	MemoryContextSwitchTo(caller_context);
}

/*
 * result_of is what run_job() returns of a run, in the current memory context.
 */
static Datum
result_of(int64 job_id)
{
	LoggedRun	result = {CurrentMemoryContext, job_id};

	pa_do_as_owner(read_result, &result);

	return result.value;
}

/*
 * run_elsewhere has the scheduler run a job.
 */
static Datum
run_elsewhere(const char *job_name, int number)
{
	int64		job_id = wait_for_run(job_name, number);

	if (job_id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job \"%s\" does not exist", job_name),
				 errdetail("The worker sees only what is committed.")));
	if (job_id < 0)
		return DirectFunctionCall1(jsonb_in, CStringGetDatum("{\"status\": \"SKIPPED\", \"reason\": \"the job is running already\"}"));

	return result_of(job_id);
}

/*
 * begin_here logs the beginning of a run in this session, or that the job is running elsewhere.
 */
static void
begin_here(void *argument)
{
	PaRecord   *run = argument;

	if (pa_job_lock(run->job_name))
		pa_begin_record(run);
	else
		pa_pass_record(run);
}

/*
 * take_json takes the only value of the last query's result, when that is jsonb.
 */
static void
take_json(PaRecord *run)
{
	bool		isnull;
	Datum		value;

	if (SPI_tuptable == NULL || SPI_processed == 0 || SPI_tuptable->tupdesc->natts != 1 ||
		TupleDescAttr(SPI_tuptable->tupdesc, 0)->atttypid != JSONBOID)
		return;

	value = pa_result(0, 1, &isnull);
	if (!isnull)
		run->outcome.json = MemoryContextStrdup(run->context,
												JsonbToCString(NULL, &DatumGetJsonbP(value)->root, 0));
}

/*
 * execute_here executes the command as the job's owner.
 */
static void
execute_here(void *argument)
{
	PaRecord   *run = argument;
	PaGuard		guard;

	if (!OidIsValid(run->owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the role that owns the job does not exist")));

	pa_guard_enter(&guard, run->owner);
	/* What a session of that role would begin with, as far as it is not set otherwise. */
	pa_set_for_now("search_path", "\"$user\", public, pg_temp");
	SPI_connect();
	if (SPI_execute(run->command, false, 0) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the command cannot be executed from within a function"),
				 errhint("The worker can execute it.")));
	run->outcome.rows = (int64) SPI_processed;
	take_json(run);
	SPI_finish();
	pa_guard_leave(&guard);
}

/*
 * finish_here executes the command and logs its end.  What it fails with is told by the result, as with the worker.
 */
static void
finish_here(PaRecord *run)
{
	pa_enter_run(run);
	PG_TRY();
	{
		(void) pa_try(execute_here, run, &run->error);
		pa_do_as_owner(pa_end_record, run);
	}
	PG_FINALLY();
	{
		pa_leave_run();
	}
	PG_END_TRY();
}

/*
 * run_here runs a job in this session.
 */
static Datum
run_here(char *job_name)
{
	PaRecord	run = {CurrentMemoryContext, job_name};

	if (pa_run.job_id != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a job cannot run another one"),
				 errhint("Let that one depend on it: depends_on of %s.schedule_job().", PA_SCHEMA)));

	pa_do_as_owner(begin_here, &run);
	if (run.command)
		finish_here(&run);

	return result_of(run.job_id);
}

/*
 * has_scheduler tells whether a scheduler works for this database.
 */
static bool
has_scheduler(void)
{
	bool		result;

	if (pa_worker == NULL)
		return false;

	LWLockAcquire(pa_worker->lock, LW_SHARED);
	result = (pa_scheduler_of(MyDatabaseId) != NULL);
	LWLockRelease(pa_worker->lock);

	return result;
}

/*
 * run_job(job_name text) runs a job now, and returns what came of it.
 */
Datum
pa_run_job(PG_FUNCTION_ARGS)
{
	char	   *job_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int			number;

	pa_forbid_read_only("run_job()");
	pa_check_job(job_name, GetUserId());
	if (IsTransactionBlock() && has_scheduler())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("run_job() cannot be called in a transaction block while the worker is running"),
				 errdetail("The run could wait for locks that the block holds, and the block for the run.")));

	number = pa_run.job_id == 0 ? ask(job_name) : -1;
	if (number >= 0)
		PG_RETURN_DATUM(run_elsewhere(job_name, number));

	PG_RETURN_DATUM(run_here(job_name));
}
