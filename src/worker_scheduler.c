/*
 * worker_scheduler.c
 *		The process that decides, for one database, which jobs are run.
 *
 * In each round it looks at the jobs that are due, gives them to runners as far as there is room, and sleeps until the
 * next one is due, or until somebody wakes it: a runner that is done, a session that has changed the jobs or wants one
 * to be run now.  What it does it does as the owner of our tables.
 *
 * It waits for the extension when that is not there, and for its tables to be complete: while a dump is being
 * restored, their keys and triggers come late, privileges after them, and event triggers last.
 */
#include "prod_analytics.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "guard.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "query.h"
#include "settings.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker.h"

extern PGDLLEXPORT void pa_scheduler_main(Datum argument);

/* How long to wait for what is missing, after an error, for room in the server, and for who is changing a job. */
#define NOT_READY_MS 3000
#define ERROR_MS 10000
#define NO_ROOM_MS 1000
#define LOCKED_MS 1000

/* The longest sleep, in case the clock is set. */
#define LONGEST_SLEEP_MS 60000

/* A job that is to be run. */
typedef struct Due
{
	char	   *job_name;
	int			request;		/* that it is for; -1: none */
	Oid			role;			/* its owner; InvalidOid: there is no such role */
	char	   *owner;
	bool		may_start;		/* the role may log in, or need not */
} Due;

/* What is known of a round. */
typedef struct Round
{
	List	   *running;		/* names of jobs whose runs had begun when the round began */
	List	   *beginning;		/* names of jobs that had been given to runners, and had not begun */
	List	   *due;			/* of Due */
	TimestampTz now;			/* when it began */
	int64		sleep_ms;
	bool		has_ended[PA_MOST_REQUESTS];	/* requests to answer when it has committed */
	int64		job_ids[PA_MOST_REQUESTS];	/* what with */
} Round;

/* Something that is done for a job, and may fail without harm to others. */
typedef struct Chore
{
	void		(*work) (struct Chore *chore);
	const char *job_name;		/* NULL: it is about all jobs */
	int			sqlerrcode;		/* of a start that failed */
	const char *error;
	const char *hint;
	int64		job_id;			/* gets the run that was logged; 0: there was none */
} Chore;

/* How long something that is to be noted of one job may keep the others waiting. */
#define CHORE_LOCK_TIMEOUT "50ms"

/* Whether the tables were there in the last round. */
static bool was_ready = false;

/* Whether there may be runs to mark as failed whose process is gone. */
static bool has_orphans = false;

/* This process's entry. */
static PaScheduler *me = NULL;

/*
 * is_complete tells whether the event triggers are there, without which a restore is going on.  When the owner of our
 * tables may not make any there may be none.
 */
static bool
is_complete(void)
{
	static bool has_told = false;
	bool		isnull;
	bool		result;

	pa_query("SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger e WHERE e.evtfoid = 'prod_analytics.follow_drops()'::pg_catalog.regprocedure)"
			 " OR NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r JOIN pg_catalog.pg_class t ON t.relowner = r.oid"
			 " WHERE t.oid = 'prod_analytics.jobs'::pg_catalog.regclass)", NULL, SPI_OK_SELECT);
	result = DatumGetBool(pa_result(0, 1, &isnull));
	if (!result && !has_told)
		ereport(LOG,
				(errmsg("the worker waits in database \"%s\" for the event triggers of prod_analytics", get_database_name(MyDatabaseId)),
				 errhint("They come last when a dump is restored. If none is, make them with: SELECT %s.create_tables();", PA_SCHEMA)));
	has_told = !result;

	return result;
}

/*
 * is_ready tells whether the extension and its tables are there, with their keys and triggers.
 */
static bool
is_ready(void)
{
	bool		isnull;

	if (!OidIsValid(get_extension_oid(PA_SCHEMA, true)))
		return false;

	pa_query("SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_constraint c"
			 " JOIN pg_catalog.pg_class t ON t.oid = c.conrelid"
			 " JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace"
			 " WHERE n.nspname = 'prod_analytics' AND c.contype = 'p' AND t.relname IN"
			 " ('jobs', 'job_state', 'etl_jobs', 'events', 'users', 'partition_policies', 'registered_matviews')) = 7"
			 " AND EXISTS (SELECT FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_class t ON t.oid = g.tgrelid"
			 " JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace"
			 " WHERE n.nspname = 'prod_analytics' AND t.relname = 'jobs' AND g.tgname = 'jobs_changed')",
			 NULL, SPI_OK_SELECT);

	return DatumGetBool(pa_result(0, 1, &isnull)) && is_complete();
}

/*
 * do_chore is the work of a Chore, in a subtransaction that does not wait for locks for long.
 */
static void
do_chore(void *argument)
{
	Chore	   *chore = argument;

	pa_set_for_now("lock_timeout", CHORE_LOCK_TIMEOUT);
	chore->work(chore);
}

/*
 * try_chore does a Chore, and tells whether it could be done.  A session that changes a job holds what the chore
 * needs until it commits, and a trigger on our tables may raise an error: neither is to keep other jobs waiting.
 */
static bool
try_chore(Chore *chore)
{
	ErrorData  *error;

	if (pa_try(do_chore, chore, &error))
		return true;
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 chore->job_name ? errmsg("the state of job \"%s\" cannot be noted: %s", chore->job_name, error->message) :
				 errmsg("the state of jobs cannot be noted: %s", error->message),
				 error->context ? errcontext_msg("%s", error->context) : 0));

	return false;
}

/*
 * tell_orphans marks runs as failed whose process is gone, and tells of them.
 */
static void
tell_orphans(Chore *chore)
{
	uint64		found = pa_query("SELECT prod_analytics.fail_orphans()", NULL, SPI_OK_SELECT);

	for (uint64 i = 0; i < found; i++)
	{
		bool		isnull;

		ereport(LOG,
				(errmsg("job \"%s\" failed: server or worker terminated", TextDatumGetCString(pa_result(i, 1, &isnull)))));
	}
}

/*
 * see_to_orphans does so.  When it cannot be done now, later rounds try again.
 */
static void
see_to_orphans(Round *round)
{
	Chore		chore = {tell_orphans};

	has_orphans = !try_chore(&chore);
	if (has_orphans)
		round->sleep_ms = Min(round->sleep_ms, NOT_READY_MS);
}

/*
 * log_start is the work of fail_start.
 */
static void
log_start(Chore *chore)
{
	PaParameters parameters = {0};
	bool		isnull;
	Datum		run;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(chore->job_name));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(unpack_sql_state(chore->sqlerrcode)));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(chore->error));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(chore->hint));
	pa_query("SELECT prod_analytics.fail_start($1, $2, $3, $4)", &parameters, SPI_OK_SELECT);
	run = pa_result(0, 1, &isnull);
	chore->job_id = isnull ? 0 : DatumGetInt64(run);
}

/*
 * fail_start logs a run that could not begin, and returns it; 0 when there is no such job, or that is not possible now.
 */
static int64
fail_start(const char *job_name, int sqlerrcode, const char *error, const char *hint)
{
	Chore		chore = {log_start, job_name, sqlerrcode, error, hint};

	if (try_chore(&chore))
		ereport(LOG,
				(errcode(sqlerrcode),
				 errmsg("job \"%s\" failed: %s", job_name, error),
				 errhint("%s", hint)));

	return chore.job_id;
}

/*
 * pass_slot is the work of skip.
 */
static void
pass_slot(Chore *chore)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(chore->job_name));
	pa_query("SELECT prod_analytics.skip_slot($1, true)", &parameters, SPI_OK_SELECT);
}

/*
 * skip lets a slot pass because this worker is running the job.
 */
static void
skip(const char *job_name)
{
	Chore		chore = {pass_slot, job_name};

	(void) try_chore(&chore);
}

/*
 * end_request notes that there is no more to wait for.  Whoever waits will read the log, so he is told when the round
 * has committed.
 */
static void
end_request(Round *round, int request, int64 job_id)
{
	if (request < 0)
		return;
	round->has_ended[request] = true;
	round->job_ids[request] = job_id;
}

/*
 * ask_again lets a request be taken again in a later round, in which there may be room.
 */
static void
ask_again(int request)
{
	if (request < 0)
		return;

	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	if (pa_worker->requests[request].state == PA_REQUEST_ABANDONED)
		pa_worker->requests[request].state = PA_REQUEST_FREE;
	else
		pa_worker->requests[request].state = PA_REQUEST_ASKED;
	LWLockRelease(pa_worker->lock);
}

/*
 * end_failed answers a request with a run that could not begin.  When that could not be logged, or the job is no more,
 * a later round sees to it.
 */
static void
end_failed(Round *round, int request, int64 job_id)
{
	if (job_id != 0)
		end_request(round, request, job_id);
	else
	{
		ask_again(request);
		round->sleep_ms = Min(round->sleep_ms, NO_ROOM_MS);
	}
}

/*
 * answer_requests tells those who wait.
 */
static void
answer_requests(Round *round)
{
	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PA_MOST_REQUESTS; i++)
		if (round->has_ended[i])
			pa_end_request(i, round->job_ids[i]);
	LWLockRelease(pa_worker->lock);
}

/*
 * see_to_gone sees to jobs whose process has ended.
 */
static void
see_to_gone(Round *round)
{
	char		job_name[PA_JOB_NAME_SIZE];
	int64		job_id;
	int			request;

	while (pa_take_gone(job_name, &job_id, &request))
	{
		if (job_id != 0)
			has_orphans = true;
		else
			job_id = fail_start(job_name, ERRCODE_CONNECTION_FAILURE, "the process for the run ended before it began",
								"The server's log tells why.");
		end_failed(round, request, job_id);
	}
	if (has_orphans)
		see_to_orphans(round);
}

/*
 * list_runners lists the jobs that runners are at.
 */
static void
list_runners(Round *round)
{
	LWLockAcquire(pa_worker->lock, LW_SHARED);
	for (int i = 0; i < PA_MOST_RUNNERS; i++)
	{
		PaRunner   *runner = &pa_worker->runners[i];

		if (runner->state == PA_RUNNER_FREE || runner->database != MyDatabaseId || runner->job_name[0] == '\0')
			continue;
		if (runner->job_id != 0)
			round->running = lappend(round->running, pstrdup(runner->job_name));
		else
			round->beginning = lappend(round->beginning, pstrdup(runner->job_name));
	}
	LWLockRelease(pa_worker->lock);
}

/*
 * is_among tells whether a name is in a list.
 */
static bool
is_among(List *names, const char *name)
{
	ListCell   *cell;

	foreach(cell, names)
		if (strcmp(lfirst(cell), name) == 0)
			return true;

	return false;
}

/*
 * read_due reads a job from a row of the last query.
 */
static void
read_due(Round *round, uint64 row, int request)
{
	Due		   *due = palloc0(sizeof(Due));
	bool		isnull;
	Datum		role;

	due->job_name = TextDatumGetCString(pa_result(row, 1, &isnull));
	due->owner = TextDatumGetCString(pa_result(row, 2, &isnull));
	role = pa_result(row, 3, &isnull);
	due->role = isnull ? InvalidOid : DatumGetObjectId(role);
	due->may_start = PA_CONNECT_WITHOUT_LOGIN != 0 || DatumGetBool(pa_result(row, 4, &isnull));
	due->request = request;
	round->due = lappend(round->due, due);
}

/*
 * take_request takes a request for a job of this database, and notes the job; false when there is none.
 */
static bool
take_request(char *job_name, int *number)
{
	bool		found = false;

	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PA_MOST_REQUESTS && !found; i++)
	{
		PaRequest  *request = &pa_worker->requests[i];

		if (request->state != PA_REQUEST_ASKED || request->database != MyDatabaseId)
			continue;
		request->state = PA_REQUEST_TAKEN;
		strlcpy(job_name, request->job_name, PA_JOB_NAME_SIZE);
		*number = i;
		found = true;
	}
	LWLockRelease(pa_worker->lock);

	return found;
}

/*
 * list_requested lists the jobs that somebody wants to be run now.
 */
static void
list_requested(Round *round)
{
	char		job_name[PA_JOB_NAME_SIZE];
	int			request;

	while (take_request(job_name, &request))
	{
		PaParameters parameters = {0};
		uint64		found;

		pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(job_name));
		found = pa_query("SELECT j.job_name, j.owner, r.oid, r.rolcanlogin FROM prod_analytics.jobs j"
						 " LEFT JOIN pg_catalog.pg_roles r ON r.rolname = j.owner WHERE j.job_name = $1",
						 &parameters, SPI_OK_SELECT);
		if (found == 0)
			end_request(round, request, 0);
		else
			read_due(round, 0, request);
	}
}

/*
 * list_due lists the jobs that are due by their schedules, after those.  One that a session is changing is left to a later
 * round: its run would have to wait for that session, and meanwhile be in the way of others.
 */
static void
list_due(Round *round)
{
	PaParameters parameters = {0};
	uint64		found;

	pa_add_parameter(&parameters, TIMESTAMPTZOID, TimestampTzGetDatum(round->now));
	found = pa_query("WITH due AS MATERIALIZED ("
					 "SELECT * FROM prod_analytics.due_jobs($1) WITH ORDINALITY d (job_name, due_at, place)), free AS ("
					 "SELECT s.job_name FROM prod_analytics.job_state s WHERE s.job_name IN (SELECT d.job_name FROM due d)"
					 " FOR NO KEY UPDATE SKIP LOCKED)"
					 " SELECT j.job_name, j.owner, r.oid, r.rolcanlogin, f.job_name IS NOT NULL"
					 " FROM due d JOIN prod_analytics.jobs j ON j.job_name = d.job_name"
					 " LEFT JOIN free f ON f.job_name = d.job_name"
					 " LEFT JOIN pg_catalog.pg_roles r ON r.rolname = j.owner ORDER BY d.place",
					 &parameters, SPI_OK_SELECT);
	for (uint64 i = 0; i < found; i++)
	{
		bool		isnull;

		if (DatumGetBool(pa_result(i, 5, &isnull)))
			read_due(round, i, -1);
		else
			round->sleep_ms = Min(round->sleep_ms, LOCKED_MS);
	}
}

/*
 * give gives a job to a runner; false when there is no room.
 */
static bool
give(Round *round, Due *due)
{
	PaAssignment job = {due->job_name, due->role, due->request};
	PaRoom		room = pa_give_job(&job);

	if (room == PA_ROOM_NO_PROCESS)
		round->sleep_ms = Min(round->sleep_ms, NO_ROOM_MS);

	return room == PA_ROOM_FOUND;
}

/*
 * refuse logs that a job cannot be started for its owner; false when it can.
 *
 * Who owns our tables can write any role's name into them.
 */
static bool
refuse(Round *round, Due *due)
{
	int64		job_id;

	if (!OidIsValid(due->role))
		job_id = fail_start(due->job_name, ERRCODE_UNDEFINED_OBJECT,
							psprintf("role \"%s\", which owns the job, does not exist", due->owner),
							"Unschedule the job, and let another role schedule it.");
	else if (!due->may_start)
		job_id = fail_start(due->job_name, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
							psprintf("role \"%s\", which owns the job, is not permitted to log in", due->owner),
							"Before PostgreSQL 17 only roles with LOGIN can own jobs.");
	else if (!pa_may_employ(due->role))
		job_id = fail_start(due->job_name, ERRCODE_INSUFFICIENT_PRIVILEGE,
							psprintf("the owner of the table \"%s.jobs\" may not act as role \"%s\"", PA_SCHEMA, due->owner),
							"Let a superuser own the tables, or let their owner be a member of that role.");
	else
		return false;
	end_failed(round, due->request, job_id);

	return true;
}

/*
 * give_all gives the jobs that are due to runners, as long as there is room.
 */
static void
give_all(Round *round)
{
	bool		has_room = true;
	ListCell   *cell;

	foreach(cell, round->due)
	{
		Due		   *due = lfirst(cell);

		if (is_among(round->beginning, due->job_name))
			ask_again(due->request);
		else if (is_among(round->running, due->job_name))
		{
			if (due->request < 0)
				skip(due->job_name);
			else
				end_request(round, due->request, -1);
		}
		else if (!refuse(round, due))
		{
			has_room = has_room && give(round, due);
			if (!has_room)
				ask_again(due->request);
			else
				round->beginning = lappend(round->beginning, due->job_name);
		}
	}
}

/*
 * set_sleep finds out until when there is nothing to do: until the next job is due that was not when the round began.
 */
static void
set_sleep(Round *round)
{
	PaParameters parameters = {0};
	bool		isnull;
	Datum		next;

	pa_add_parameter(&parameters, TIMESTAMPTZOID, TimestampTzGetDatum(round->now));
	pa_query("SELECT prod_analytics.next_wake($1)", &parameters, SPI_OK_SELECT);
	next = pa_result(0, 1, &isnull);
	if (!isnull)
		round->sleep_ms = Min(round->sleep_ms,
							  TimestampDifferenceMilliseconds(GetCurrentTimestamp(), DatumGetTimestampTz(next)) + 1);
}

/*
 * ask_lost_again lets requests be taken again that an earlier round, which failed, has taken and not given to anybody.
 */
static void
ask_lost_again(void)
{
	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PA_MOST_REQUESTS; i++)
	{
		PaRequest  *request = &pa_worker->requests[i];
		bool		is_given = false;

		if (request->database != MyDatabaseId ||
			(request->state != PA_REQUEST_TAKEN && request->state != PA_REQUEST_ABANDONED))
			continue;
		for (int j = 0; j < PA_MOST_RUNNERS; j++)
			is_given |= pa_worker->runners[j].state != PA_RUNNER_FREE && pa_worker->runners[j].request == i;
		if (!is_given)
			request->state = request->state == PA_REQUEST_TAKEN ? PA_REQUEST_ASKED : PA_REQUEST_FREE;
	}
	LWLockRelease(pa_worker->lock);
}

/*
 * adjust gives states to jobs that have none, lets slots pass that were missed, and calls back those that the clock is
 * too far behind.
 */
static void
adjust(Chore *chore)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, TIMESTAMPTZOID, TimestampTzGetDatum(GetCurrentTimestamp()));
	pa_query("SELECT prod_analytics.add_missing_states($1)", &parameters, SPI_OK_SELECT);
	pa_query("SELECT prod_analytics.skip_missed($1)", &parameters, SPI_OK_SELECT);
	pa_query("SELECT prod_analytics.follow_clock($1)", &parameters, SPI_OK_SELECT);
}

/*
 * begin_work does what is to be done before the first round with tables, and when the clock has been set back.
 */
static void
begin_work(void)
{
	Chore		chore = {adjust};

	ask_lost_again();
	has_orphans = true;
	was_ready = try_chore(&chore);
}

/*
 * work is a round, as the owner of our tables.
 */
static void
work(void *argument)
{
	static TimestampTz last_round = 0;
	Round	   *round = argument;

	round->now = GetCurrentTimestamp();
	if (!was_ready || round->now < last_round)
		begin_work();
	last_round = round->now;

	see_to_gone(round);
	list_runners(round);
	list_requested(round);
	list_due(round);
	give_all(round);
	set_sleep(round);
}

/*
 * are_tables_ready tells in a snapshot of its own whether there is anything to work with.
 */
static bool
are_tables_ready(void)
{
	bool		result;

	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	result = is_ready();
	SPI_finish();
	PopActiveSnapshot();

	return result;
}

/*
 * do_round does a round in a transaction of its own, and returns how long to sleep after it.
 */
static int64
do_round(void)
{
	Round		round = {NIL, NIL, NIL, 0, LONGEST_SLEEP_MS};
	char	   *name;

	pa_start_transaction();
	/* What a round leaves need not be on disk at once: if it gets lost, so does what was done after it. */
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	name = get_database_name(MyDatabaseId);
	if (name == NULL || !pa_enabled || !pa_is_listed(name))
		proc_exit(0);
	if (are_tables_ready())
	{
		pgstat_report_activity(STATE_RUNNING, "looking at the jobs");
		pa_do_as_owner(work, &round);
	}
	else
	{
		was_ready = false;
		round.sleep_ms = NOT_READY_MS;
	}
	CommitTransactionCommand();
	answer_requests(&round);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);

	return round.sleep_ms;
}

/*
 * try_round does a round, and survives its failure.
 */
static int64
try_round(MemoryContext context)
{
	volatile int64 sleep_ms = ERROR_MS;

	PG_TRY();
	{
		sleep_ms = do_round();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		FlushErrorState();
		LWLockReleaseAll();
		AbortOutOfAnyTransaction();
		was_ready = false;
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);

	return sleep_ms;
}

/*
 * wait_for waits until somebody wakes us, or for some milliseconds.
 *
 * Linux lets a wait last a thousandth longer, to save wakeups: a minute would end 60 ms late.  So the end of it is waited
 * for by itself.
 */
static void
wait_for(int64 sleep_ms)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), sleep_ms);
	int			events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, sleep_ms - sleep_ms / 200,
								   PG_WAIT_EXTENSION);

	/* The clock may have been set back meanwhile. */
	sleep_ms = Min(sleep_ms / 200, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end));
	if (!(events & WL_LATCH_SET) && sleep_ms > 0)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, sleep_ms, PG_WAIT_EXTENSION);
}

/*
 * leave lets the runners go, which nobody would give a job to, and tells the launcher.  The postmaster does that only
 * where it is the same launcher that has started us.
 */
static void
leave(int code, Datum argument)
{
	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	pa_leave_process(&me->process);
	for (int i = 0; i < PA_MOST_RUNNERS; i++)
		if (pa_worker->runners[i].database == me->database)
			pa_wake(&pa_worker->runners[i].process);
	pa_wake(&pa_worker->launcher);
	LWLockRelease(pa_worker->lock);
}

/*
 * enter takes possession of the entry of the database; false when another scheduler has it.
 */
static bool
enter(Oid database)
{
	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PA_MOST_DATABASES && me == NULL; i++)
		if (pa_worker->schedulers[i].database == database && pa_worker->schedulers[i].process.pid == 0)
			me = &pa_worker->schedulers[i];
	if (me)
		pa_enter_process(&me->process);
	LWLockRelease(pa_worker->lock);

	return me != NULL;
}

/*
 * pa_scheduler_main is a scheduler.
 */
void
pa_scheduler_main(Datum argument)
{
	Oid			database = DatumGetObjectId(argument);
	MemoryContext context;

	pa_prepare_process();
	if (!enter(database))
		proc_exit(0);
	before_shmem_exit(leave, (Datum) 0);
	/* What the database's own settings say must not decide what a superuser calls. */
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_SUSET, PGC_S_OVERRIDE);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	context = AllocSetContextCreate(TopMemoryContext, "scheduler", ALLOCSET_DEFAULT_SIZES);
	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	me->tries = 0;
	LWLockRelease(pa_worker->lock);

	for (;;)
	{
		int64		sleep_ms = try_round(context);

		MemoryContextReset(context);
		wait_for(sleep_ms);
		ResetLatch(MyLatch);
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		pa_reload();
	}
}
