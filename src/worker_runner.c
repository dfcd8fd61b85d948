/*
 * worker_runner.c
 *		A process that runs jobs for one role in one database.
 *
 * It is connected as that role, so that there is nothing to escape to.  It does one run after the other, since a
 * process that has done something before is quicker the next time, and leaves when it has had nothing to do for a
 * while or is asked to make room.
 *
 * A run takes three steps, each of which commits: the record, together with the slot that it uses up; the command; and
 * the end.  The job's lock is held by the session from before the first to after the last, so whoever sees a record of
 * a run that is going on and nobody who holds the lock knows that the process is gone.
 */
#include "prod_analytics.h"

#include "access/xact.h"
#include "job.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "settings.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "worker.h"

extern PGDLLEXPORT void pa_runner_main(Datum argument);

/* How long a runner waits for something to do: long enough to be there still for jobs of every few minutes. */
#define IDLE_MS 600000

/* After how long it leaves even though there is something to do. */
#define LONGEST_LIFE_MS 3600000

/* This process's entry. */
static PaRunner *me = NULL;

/* Whether the run has taken longer than it may. */
static volatile sig_atomic_t is_timed_out = false;
static TimeoutId run_timeout = USER_TIMEOUT;

/*
 * lock_tag is the tag of a job's advisory lock.
 */
static LOCKTAG
lock_tag(const char *job_name)
{
	int64		key = pa_job_key(job_name);
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (key >> 32), (uint32) key, 1);

	return tag;
}

/*
 * step does a step in a transaction of its own, which is not cancelled.
 *
 * What is logged of the beginning need not be on disk at once: if it gets lost, so does what was done after it.
 */
static void
step(PaTask task, PaRecord *run)
{
	HOLD_CANCEL_INTERRUPTS();
	pa_start_transaction();
	if (task == pa_begin_record)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	pa_do_as_owner(task, run);
	CommitTransactionCommand();
	MemoryContextSwitchTo(run->context);
	/* Who wanted to cancel the command has come too late. */
	QueryCancelPending = false;
	RESUME_CANCEL_INTERRUPTS();
}

static void
time_out(void)
{
	is_timed_out = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/*
 * explain_timeout says in an error that the run was cancelled because of the job's timeout.
 */
static void
explain_timeout(PaRecord *run)
{
	if (!is_timed_out || run->error->sqlerrcode != ERRCODE_QUERY_CANCELED)
		return;
	run->error->message = psprintf("the run was cancelled after the job's timeout of " INT64_FORMAT " ms", run->timeout_ms);
	run->error->hint = pstrdup("A longer timeout can be given to prod_analytics.schedule_job().");
}

/*
 * keep_error keeps the error that has just been caught, and clears away what it has left.
 */
static void
keep_error(PaRecord *run)
{
	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	MemoryContextSwitchTo(run->context);
	run->error = CopyErrorData();
	FlushErrorState();
	pa_abort_command();
	MemoryContextSwitchTo(run->context);
	QueryCancelPending = false;
	RESUME_INTERRUPTS();
}

/*
 * execute is the step in the middle.  An error is caught.
 */
static void
execute(PaRecord *run)
{
	is_timed_out = false;
	if (run->timeout_ms > 0)
		enable_timeout_after(run_timeout, (int) run->timeout_ms);

	PG_TRY();
	{
		pa_execute_command(run->command, &run->outcome);
	}
	PG_CATCH();
	{
		keep_error(run);
		explain_timeout(run);
	}
	PG_END_TRY();

	disable_timeout(run_timeout, false);
}

/*
 * explain_loss says in an error that it is the log that does not take what came of the run, and what that is.
 */
static void
explain_loss(PaRecord *run, ErrorData *of_command)
{
	ErrorData  *error = run->error;

	if (of_command)
		error->detail = psprintf("The command had failed: %s", of_command->message);
	else
		error->detail = pstrdup("The command had come to its end, and what it did is there.");
	error->message = psprintf("the end of the run could not be logged: %s", error->message);
}

/*
 * end is the last step.  When the log does not take what came of the run, because of a constraint or trigger of
 * somebody's, say, it gets to know that much.
 */
static void
end(PaRecord *run)
{
	ErrorData  *volatile of_command = run->error;
	volatile bool is_logged = false;

	PG_TRY();
	{
		step(pa_end_record, run);
		is_logged = true;
	}
	PG_CATCH();
	{
		keep_error(run);
		explain_loss(run, of_command);
	}
	PG_END_TRY();

	if (!is_logged)
		step(pa_end_record, run);
}

/*
 * tell_failure tells of a failure in the server's log.
 */
static void
tell_failure(PaRecord *run)
{
	if (run->error)
		ereport(LOG,
				(errcode(run->error->sqlerrcode),
				 errmsg("job \"%s\" failed: %s", run->job_name, run->error->message),
				 run->error->detail ? errdetail_internal("%s", run->error->detail) : 0,
				 run->error->hint ? errhint("%s", run->error->hint) : 0,
				 run->error->context ? errcontext_msg("%s", run->error->context) : 0));
	else if (run->failure)
		ereport(LOG,
				(errmsg("job \"%s\" failed: %s", run->job_name, run->failure)));
}

/*
 * show shows in pg_stat_activity what the process is at.
 */
static void
show(const char *application_name, const char *command)
{
	(void) set_config_option("application_name", application_name, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SET, true, 0, false);
	pgstat_report_activity(command ? STATE_RUNNING : STATE_IDLE, command);
}

/*
 * is_asked_for tells whether somebody else wants the job to be run now, whom the scheduler could not answer as long as
 * nobody knew whether this run would begin.  The caller holds the lock.
 */
static bool
is_asked_for(void)
{
	for (int i = 0; i < PA_MOST_REQUESTS; i++)
	{
		PaRequest  *request = &pa_worker->requests[i];

		if (i != me->request && request->database == me->database && strcmp(request->job_name, me->job_name) == 0 &&
			(request->state == PA_REQUEST_ASKED || request->state == PA_REQUEST_TAKEN))
			return true;
	}

	return false;
}

/*
 * set_run notes which run this process is at, for everybody else and for the functions that the command calls.
 */
static void
set_run(PaRecord *run)
{
	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	me->job_id = run->job_id;
	if (is_asked_for())
		pa_wake_schedulers();
	LWLockRelease(pa_worker->lock);
	pa_enter_run(run);
}

/*
 * run_locked does a run, once the job's lock is there.
 */
static void
run_locked(PaRecord *run)
{
	step(pa_begin_record, run);
	if (run->command == NULL)
		return;

	set_run(run);
	show(psprintf("prod_analytics job %s run " INT64_FORMAT, run->job_name, run->job_id), run->command);
	execute(run);
	end(run);
	tell_failure(run);
	pa_leave_run();
}

/*
 * do_run does the run that this process has been given, and returns its number.  When a step fails, the process ends,
 * and the scheduler sees to the run.
 */
static int64
do_run(char *job_name)
{
	PaRecord	run = {CurrentMemoryContext, job_name, me->role};
	LOCKTAG		tag;
	bool		is_locked;

	pa_start_transaction();
	tag = lock_tag(job_name);
	is_locked = LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	CommitTransactionCommand();
	MemoryContextSwitchTo(run.context);

	if (is_locked)
		run_locked(&run);
	else
		step(pa_pass_record, &run);

	/* The job's lock is among what goes. */
	pa_reset_session();
	show("prod_analytics runner", NULL);
	pgstat_report_stat(true);

	return run.job_id;
}

/*
 * take_job takes what the scheduler has given to this process; false when it has been asked to leave, or has decided
 * to by itself.  The caller holds the lock.
 */
static bool
take_job(bool may_leave, char *job_name)
{
	job_name[0] = '\0';
	if (me->state == PA_RUNNER_STARTING || me->state == PA_RUNNER_ASSIGNED)
	{
		strlcpy(job_name, me->job_name, PA_JOB_NAME_SIZE);
		pa_set_runner(me, PA_RUNNER_RUNNING);
		return true;
	}
	if (me->state == PA_RUNNER_IDLE && may_leave)
		pa_set_runner(me, PA_RUNNER_LEAVING);

	return me->state == PA_RUNNER_IDLE;
}

/*
 * is_old tells whether this process has been there for so long that another one should take its place: the settings of
 * a role and a database are read when a session begins.
 */
static bool
is_old(TimestampTz now)
{
	return TimestampDifferenceExceeds(me->process.since, now, LONGEST_LIFE_MS);
}

/*
 * is_too_many tells whether there are more processes than there may be, since the setting has been changed.  The caller
 * holds the lock.
 */
static bool
is_too_many(void)
{
	int			count = 0;

	for (int i = 0; i < PA_MOST_RUNNERS; i++)
		if (pa_worker->runners[i].process.pid != 0)
			count++;

	return count > pa_max_running_jobs;
}

/*
 * wait_for_job waits for something to do; false when the process is to end.
 */
static bool
wait_for_job(char *job_name)
{
	TimestampTz deadline = GetCurrentTimestamp() + IDLE_MS * INT64CONST(1000);

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool		stays;

		LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
		stays = take_job(now >= deadline || is_old(now) || is_too_many() || pa_scheduler_of(me->database) == NULL, job_name);
		LWLockRelease(pa_worker->lock);
		if (!stays || job_name[0] != '\0')
			return stays;

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TimestampDifferenceMilliseconds(now, deadline) + 1, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		/* There is nothing to cancel. */
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		pa_reload();
	}
}

/*
 * is_used_up tells whether the session can be no more what a new one is: once it has used temporary tables, temp_buffers
 * cannot be changed, by no command and by no ALTER ROLE.
 */
static bool
is_used_up(void)
{
	return NLocBuffer > 0;
}

/*
 * finish_job says that the run is over and that there is room for another one.
 */
static void
finish_job(int64 job_id)
{
	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	pa_end_request(me->request, job_id);
	pa_set_runner(me, PA_RUNNER_IDLE);
	if (is_used_up())
		pa_set_runner(me, PA_RUNNER_LEAVING);
	pa_wake_schedulers();
	LWLockRelease(pa_worker->lock);
}

/*
 * leave makes room when the process ends.  A job that it was at is left for the scheduler to see to.
 */
static void
leave(int code, Datum argument)
{
	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	pa_leave_process(&me->process);
	pa_set_runner(me, me->job_name[0] == '\0' ? PA_RUNNER_FREE : PA_RUNNER_GONE);
	pa_wake_schedulers();
	LWLockRelease(pa_worker->lock);
}

/*
 * enter takes possession of the entry; false when the scheduler has given it up meanwhile.
 */
static bool
enter(void)
{
	bool		result;

	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	result = me->state == PA_RUNNER_STARTING && me->process.pid == 0;
	if (result)
		pa_enter_process(&me->process);
	LWLockRelease(pa_worker->lock);

	return result;
}

/*
 * pa_runner_main is a runner.
 */
void
pa_runner_main(Datum argument)
{
	char		job_name[PA_JOB_NAME_SIZE];
	MemoryContext context;

	pa_prepare_process();
	me = &pa_worker->runners[DatumGetInt32(argument)];
	if (!enter())
		proc_exit(0);
	before_shmem_exit(leave, (Datum) 0);
	BackgroundWorkerInitializeConnectionByOid(me->database, me->role, PA_CONNECT_WITHOUT_LOGIN);
	run_timeout = RegisterTimeout(USER_TIMEOUT, time_out);
	context = AllocSetContextCreate(TopMemoryContext, "run of a job", ALLOCSET_DEFAULT_SIZES);

	while (wait_for_job(job_name))
	{
		MemoryContextSwitchTo(context);
		finish_job(do_run(job_name));
		MemoryContextReset(context);
	}
}
