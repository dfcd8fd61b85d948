/*
 * worker_jobs.c
 *		What users tell the worker: which jobs there are, and to run or cancel one now.
 *
 * A job belongs to the role that has scheduled it, and its command runs as that role.  Who is no member of the owner
 * may not change the command; analytics_operator may do everything else.
 */
#include "prod_analytics.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guard.h"
#include "job.h"
#include "miscadmin.h"
#include "query.h"
#include "schedule.h"
#include "settings.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(pa_jobs_changed);
PG_FUNCTION_INFO_V1(pa_schedule_job);
PG_FUNCTION_INFO_V1(pa_unschedule_job);
PG_FUNCTION_INFO_V1(pa_pause_job);
PG_FUNCTION_INFO_V1(pa_resume_job);
PG_FUNCTION_INFO_V1(pa_cancel_job);
PG_FUNCTION_INFO_V1(pa_worker_processes);

#define OPERATOR_ROLE "analytics_operator"

/* What may be done to a job by who is no member of its owner. */
typedef enum Claim
{
	NOBODY,						/* the caller may do nothing to it */
	OPERATOR,					/* all but change its command */
	OWNER
} Claim;

/*
 * pa_do_as_owner does something as the owner of the table jobs, connected to SPI, in the transaction that is going on.
 */
void
pa_do_as_owner(PaTask task, void *argument)
{
	MemoryContext caller_context = CurrentMemoryContext;
	PaGuard		guard;

	PushActiveSnapshot(GetTransactionSnapshot());
	pa_guard_enter(&guard, pa_owner(pa_table("jobs")));
	SPI_connect();
	MemoryContextSwitchTo(caller_context);
	task(argument);
	SPI_finish();
	pa_guard_leave(&guard);
	PopActiveSnapshot();
}

/* The database whose scheduler is to be woken when the transaction commits. */
static bool must_wake = false;

static void
wake_at_commit(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_COMMIT && must_wake)
		pa_wake_scheduler(MyDatabaseId);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		must_wake = false;
}

/*
 * jobs_changed() is the trigger on jobs.
 */
Datum
pa_jobs_changed(PG_FUNCTION_ARGS)
{
	static bool is_registered = false;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("jobs_changed() is a trigger of \"%s.jobs\"", PA_SCHEMA)));
	if (!is_registered)
		RegisterXactCallback(wake_at_commit, NULL);
	is_registered = true;
	must_wake = true;

	PG_RETURN_POINTER(NULL);
}

/*
 * claim_of tells what the caller may do to a job of some owner.
 */
static Claim
claim_of(Oid caller, const char *owner_name)
{
	Oid			owner = get_role_oid(owner_name, true);
	Oid			operator_role = get_role_oid(OPERATOR_ROLE, true);

	if (superuser_arg(caller) || (OidIsValid(owner) && has_privs_of_role(caller, owner)))
		return OWNER;

	return OidIsValid(operator_role) && has_privs_of_role(caller, operator_role) ? OPERATOR : NOBODY;
}

/*
 * pa_may_employ tells whether a role's jobs may be run, inside pa_do_as_owner: who owns the tables could have made them.
 */
bool
pa_may_employ(Oid role)
{
	return superuser() || has_privs_of_role(GetUserId(), role);
}

/* A job that is asked for, and what is to be done about it. */
typedef struct JobTask
{
	char	   *job_name;
	Oid			caller;
	bool		must_exist;
	const char *sql;			/* what to do; NULL: nothing, only look */
	PaParameters *parameters;
	char	   *owner;			/* NULL: there is no such job */
	char	   *command;
	Claim		claim;
} JobTask;

/*
 * look_up reads a job.  Who changes one keeps others from doing so: who owns it must not change in between.
 */
static void
look_up(JobTask *task)
{
	PaParameters parameters = {0};
	bool		isnull;

	if (task->sql)
		pa_query("LOCK TABLE prod_analytics.jobs IN SHARE ROW EXCLUSIVE MODE", NULL, SPI_OK_UTILITY);
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(task->job_name));
	if (pa_query("SELECT owner, command FROM prod_analytics.jobs WHERE job_name = $1", &parameters, SPI_OK_SELECT) == 0)
	{
		if (task->must_exist)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("job \"%s\" does not exist", task->job_name),
					 errhint("%s.job_status lists the jobs.", PA_SCHEMA)));
		return;
	}
	task->owner = TextDatumGetCString(pa_result(0, 1, &isnull));
	task->command = TextDatumGetCString(pa_result(0, 2, &isnull));
	task->claim = claim_of(task->caller, task->owner);
	if (task->claim == NOBODY)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("job \"%s\" belongs to role \"%s\"", task->job_name, task->owner),
				 errhint("Members of that role and of %s may do that.", OPERATOR_ROLE)));
}

/*
 * do_task is the work of a JobTask on a job that must exist.
 */
static void
do_task(void *argument)
{
	JobTask    *task = argument;

	look_up(task);
	if (task->sql)
		pa_query(task->sql, task->parameters, SPI_OK_UPDATE);
}

/*
 * pa_check_job refuses a job that does not exist, or that the caller has no say in.
 */
void
pa_check_job(const char *job_name, Oid caller)
{
	JobTask		task = {pstrdup(job_name), caller, true};

	pa_do_as_owner(do_task, &task);
}

/*
 * change_job changes or removes a job that must exist.
 */
static void
change_job(FunctionCallInfo fcinfo, const char *function, const char *sql)
{
	PaParameters parameters = {0};
	JobTask		task = {text_to_cstring(PG_GETARG_TEXT_PP(0)), GetUserId(), true, sql, &parameters};

	pa_forbid_read_only(function);
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(task.job_name));
	pa_do_as_owner(do_task, &task);
}

/*
 * invalid refuses an argument.
 */
static void
invalid(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", what),
			 errhint("%s", hint)));
}

/*
 * explain_timezone says with an error of PostgreSQL's where time zones are found.
 */
static void
explain_timezone(void *argument)
{
	errhint("pg_timezone_names lists the time zones.");
}

/*
 * check_timezone refuses what is no time zone, also when the schedule does not need one.
 */
static void
check_timezone(Datum timezone)
{
	ErrorContextCallback context = {error_context_stack, explain_timezone, NULL};

	error_context_stack = &context;
	(void) DirectFunctionCall2(timestamptz_zone, timezone, TimestampTzGetDatum(GetCurrentTimestamp()));
	error_context_stack = context.previous;
}

/*
 * check_arguments refuses arguments of schedule_job() that make no sense.
 */
static void
check_arguments(FunctionCallInfo fcinfo)
{
	static const struct
	{
		const char *name;
		const char *hint;
	}			required[] =
	{
		{"job_name", "Give the job a name."},
		{"schedule", "Give an interval, like '30 seconds', or five fields as cron has them, like '30 3 * * *'."},
		{"command", "Give one or more SQL statements."},
		{NULL},
		{"max_retries", "Leave it out for none."},
		{"timezone", "Leave it out for UTC."},
		{"catch_up", "Leave it out for \"once\"."}
	};
	Interval	shortest = {USECS_PER_SEC / 1000};
	int			length;
	char	   *command;
	char	   *catch_up;

	for (int i = 0; i < (int) lengthof(required); i++)
		if (required[i].name && PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s is NULL", required[i].name),
					 errhint("%s", required[i].hint)));

	length = VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(0));
	if (length == 0 || length >= PA_JOB_NAME_SIZE)
		invalid("job_name is empty or too long", psprintf("A name has at most %d bytes.", PA_JOB_NAME_SIZE - 1));
	command = text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (command[strspn(command, " \t\r\n;")] == '\0')
		invalid("command is empty", "Give one or more SQL statements.");
	if (!PG_ARGISNULL(3) && DatumGetInt32(DirectFunctionCall2(interval_cmp, PG_GETARG_DATUM(3), IntervalPGetDatum(&shortest))) < 0)
		invalid("timeout must be at least 1 millisecond", "Leave it out to let a run take as long as it wants.");
	if (PG_GETARG_INT32(4) < 0)
		invalid("max_retries must not be negative", "0 means that a run that failed is not tried again.");
	catch_up = text_to_cstring(PG_GETARG_TEXT_PP(6));
	if (strcmp(catch_up, "once") != 0 && strcmp(catch_up, "skip") != 0)
		invalid(psprintf("catch_up cannot be \"%s\"", catch_up), "It can be once or skip.");

	/* They raise errors when there is something wrong with the time zone, the schedule or the command. */
	check_timezone(PG_GETARG_DATUM(5));
	(void) DirectFunctionCall3(pa_next_slot_sql, PG_GETARG_DATUM(1), TimestampTzGetDatum(GetCurrentTimestamp()),
							   PG_GETARG_DATUM(5));
	pa_check_command(command);
}

/*
 * check_login refuses to schedule a job for a role that could not run it.
 */
static void
check_login(Oid role)
{
	HeapTuple	row = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool		may_log_in = HeapTupleIsValid(row) && ((Form_pg_authid) GETSTRUCT(row))->rolcanlogin;

	if (HeapTupleIsValid(row))
		ReleaseSysCache(row);
	if (!may_log_in && PA_CONNECT_WITHOUT_LOGIN == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("role \"%s\" is not permitted to log in, so that it cannot own a job", GetUserNameFromId(role, false)),
				 errdetail("Before PostgreSQL 17 a background worker cannot connect as such a role."),
				 errhint("Give it LOGIN; without a password or a line in pg_hba.conf nobody else can use that.")));
}

/*
 * save is the work of schedule_job().
 */
static void
save(void *argument)
{
	JobTask    *task = argument;
	char	   *command = TextDatumGetCString(task->parameters->values[2]);

	look_up(task);
	if (task->owner == NULL)
	{
		check_login(task->caller);
		task->owner = GetUserNameFromId(task->caller, false);
	}
	else if (task->claim != OWNER && strcmp(command, task->command) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the command of job \"%s\" runs as role \"%s\", so you may not change it", task->job_name, task->owner),
				 errhint("The schedule and the rest you may change. The command is for role \"%s\" and its members.", task->owner)));
	task->parameters->values[3] = CStringGetTextDatum(task->owner);
	pa_query(task->sql, task->parameters, SPI_OK_SELECT);
}

/*
 * schedule_job(job_name text, schedule text, command text, timeout interval, max_retries integer, timezone text,
 * catch_up text, depends_on text[]) makes a job, or changes it.
 */
Datum
pa_schedule_job(PG_FUNCTION_ARGS)
{
	static const Oid types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, INTERVALOID, INT4OID, TEXTOID, TEXTOID, TEXTARRAYOID};
	PaParameters parameters = {0};
	JobTask		task = {NULL, GetUserId(), false, "SELECT prod_analytics.save_job($1, $2, $3, $4, $5, $6, $7, $8, $9)", &parameters};

	pa_forbid_read_only("schedule_job()");
	check_arguments(fcinfo);

	/* The fourth one is the owner, which comes later. */
	for (int i = 0; i < (int) lengthof(types); i++)
	{
		int			number = i > 3 ? i - 1 : i;
		bool		isnull = i == 3 || PG_ARGISNULL(number);

		pa_add_parameter(&parameters, types[i], isnull ? (Datum) 0 : PG_GETARG_DATUM(number));
		if (isnull && i != 3)
			parameters.nulls[i] = 'n';
	}
	task.job_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	pa_check_job_name(task.job_name);
	pa_do_as_owner(save, &task);

	PG_RETURN_VOID();
}

/*
 * remove_job is the work of unschedule_job(), which refuses to remove a job that others wait for.
 */
static void
remove_job(void *argument)
{
	JobTask    *task = argument;
	bool		isnull;

	look_up(task);
	if (pa_query("SELECT job_name FROM prod_analytics.jobs WHERE $1 = ANY (depends_on) AND job_name <> $1 ORDER BY 1 LIMIT 1",
				 task->parameters, SPI_OK_SELECT) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("job \"%s\" depends on job \"%s\"", TextDatumGetCString(pa_result(0, 1, &isnull)), task->job_name),
				 errhint("Schedule that one without depends_on first.")));
	pa_query(task->sql, task->parameters, SPI_OK_DELETE);
}

/*
 * unschedule_job(job_name text) forgets a job.
 */
Datum
pa_unschedule_job(PG_FUNCTION_ARGS)
{
	PaParameters parameters = {0};
	JobTask		task = {
		text_to_cstring(PG_GETARG_TEXT_PP(0)), GetUserId(), true, "DELETE FROM prod_analytics.jobs WHERE job_name = $1", &parameters
	};

	pa_forbid_read_only("unschedule_job()");
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(task.job_name));
	pa_do_as_owner(remove_job, &task);

	PG_RETURN_VOID();
}

/*
 * pause_job(job_name text) and resume_job(job_name text).
 */
Datum
pa_pause_job(PG_FUNCTION_ARGS)
{
	change_job(fcinfo, "pause_job()", "UPDATE prod_analytics.jobs SET paused = true WHERE job_name = $1 AND NOT paused");

	PG_RETURN_VOID();
}

Datum
pa_resume_job(PG_FUNCTION_ARGS)
{
	change_job(fcinfo, "resume_job()", "UPDATE prod_analytics.jobs SET paused = false WHERE job_name = $1 AND paused");

	PG_RETURN_VOID();
}

/*
 * cancel_job(job_name text) cancels the run of a job.
 */
Datum
pa_cancel_job(PG_FUNCTION_ARGS)
{
	char	   *job_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool		found = false;

	pa_check_job(job_name, GetUserId());
	if (pa_worker == NULL)
		PG_RETURN_BOOL(false);

	LWLockAcquire(pa_worker->lock, LW_SHARED);
	for (int i = 0; i < PA_MOST_RUNNERS; i++)
	{
		PaRunner   *runner = &pa_worker->runners[i];

		if (runner->state == PA_RUNNER_RUNNING && runner->database == MyDatabaseId && runner->job_id != 0 &&
			strcmp(runner->job_name, job_name) == 0)
			found |= (kill(runner->process.pid, SIGINT) == 0);
	}
	LWLockRelease(pa_worker->lock);

	PG_RETURN_BOOL(found);
}

/*
 * put_process adds a process to the result.  The role of a runner may have been dropped.
 */
static void
put_process(ReturnSetInfo *result, const char *kind, PaProcess *process, PaRunner *runner, const char *state, TimestampTz since)
{
	char	   *role = runner ? GetUserNameFromId(runner->role, true) : NULL;
	Datum		values[7];
	bool		nulls[7] = {false, process->pid == 0, role == NULL, runner == NULL || runner->job_name[0] == '\0'};

	values[0] = CStringGetTextDatum(kind);
	values[1] = Int32GetDatum(process->pid);
	values[2] = CStringGetTextDatum(role ? role : "");
	values[3] = CStringGetTextDatum(runner ? runner->job_name : "");
	values[4] = Int64GetDatum(runner ? runner->job_id : 0);
	nulls[4] = runner == NULL || runner->job_id == 0;
	values[5] = CStringGetTextDatum(state);
	values[6] = TimestampTzGetDatum(since);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * worker_processes() lists the processes.  They are copied first, since the lock is not to be held for long.
 */
Datum
pa_worker_processes(PG_FUNCTION_ARGS)
{
	static const char *const states[] = {"free", "starting", "assigned", "running", "idle", "leaving", "gone"};
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	PaWorker   *copy;

	InitMaterializedSRF(fcinfo, 0);
	if (pa_worker == NULL)
		return (Datum) 0;

	copy = palloc(sizeof(PaWorker));
	LWLockAcquire(pa_worker->lock, LW_SHARED);
	memcpy(copy, pa_worker, sizeof(PaWorker));
	LWLockRelease(pa_worker->lock);

	if (copy->launcher.pid != 0)
		put_process(result, "launcher", &copy->launcher, NULL, "running", copy->launcher.since);
	for (int i = 0; i < PA_MOST_DATABASES; i++)
		if (copy->schedulers[i].database == MyDatabaseId && copy->schedulers[i].process.pid != 0)
			put_process(result, "scheduler", &copy->schedulers[i].process, NULL, "running", copy->schedulers[i].process.since);
	for (int i = 0; i < PA_MOST_RUNNERS; i++)
		if (copy->runners[i].database == MyDatabaseId && copy->runners[i].state != PA_RUNNER_FREE)
			put_process(result, "runner", &copy->runners[i].process, &copy->runners[i], states[copy->runners[i].state],
						copy->runners[i].since);

	return (Datum) 0;
}
