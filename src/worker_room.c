/*
 * worker_room.c
 *		Which runner gets a job, and whether there is room for another one.
 *
 * Runners are those of all databases; the entries are written here by schedulers, and by the runners themselves.
 */
#include "prod_analytics.h"

#include "miscadmin.h"
#include "settings.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker.h"

/* After how long a process that somebody else has started, and that never came, is given up. */
#define LOST_MS 60000

/* For how long there is no process until somebody is asked to make room. */
#define PATIENCE_MS 500

/* How often it is told at most that there is no room for a process. */
#define TELL_AGAIN_MS 3600000

/* The processes that this one has started. */
static BackgroundWorkerHandle *handles[PA_MOST_RUNNERS];

/*
 * is_lost tells whether the process of a runner that is starting will never come.
 */
static bool
is_lost(int number, TimestampTz now)
{
	PaRunner   *runner = &pa_worker->runners[number];
	pid_t		pid;

	if (runner->state != PA_RUNNER_STARTING || runner->process.pid != 0)
		return false;
	if (runner->database == MyDatabaseId && handles[number])
		return GetBackgroundWorkerPid(handles[number], &pid) == BGWH_STOPPED;

	return TimestampDifferenceExceeds(runner->since, now, LOST_MS);
}

/*
 * is_free tells whether an entry can be used: it is free, or nobody sees to it any more, since its database is gone or
 * not listed.
 */
static bool
is_free(int number, TimestampTz now)
{
	PaRunner   *runner = &pa_worker->runners[number];

	if (runner->state == PA_RUNNER_FREE)
		return true;

	return runner->database != MyDatabaseId && (runner->state == PA_RUNNER_GONE || is_lost(number, now)) &&
		TimestampDifferenceExceeds(runner->since, now, LOST_MS);
}

/*
 * pa_take_gone finds a runner whose process has ended with a job, and frees its entry; false when there is none.
 */
bool
pa_take_gone(char *job_name, int64 *job_id, int *request)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		found = false;

	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PA_MOST_RUNNERS && !found; i++)
	{
		PaRunner   *runner = &pa_worker->runners[i];

		if (runner->database != MyDatabaseId || (runner->state != PA_RUNNER_GONE && !is_lost(i, now)))
			continue;
		strlcpy(job_name, runner->job_name, PA_JOB_NAME_SIZE);
		*job_id = runner->job_id;
		*request = runner->request;
		pa_set_runner(runner, PA_RUNNER_FREE);
		found = true;
	}
	LWLockRelease(pa_worker->lock);

	return found;
}

/*
 * assign gives a job to a runner.  The caller holds the lock.
 */
static void
assign(PaRunner *runner, PaRunnerState state, PaAssignment *job)
{
	strlcpy(runner->job_name, job->job_name, PA_JOB_NAME_SIZE);
	runner->job_id = 0;
	runner->request = job->request;
	pa_set_runner(runner, state);
}

/* Which entries there are. */
typedef struct Room
{
	int			processes;		/* runners that have one, or are about to */
	int			busy;			/* those of them that have a job */
	int			own_idle;		/* one without a job, for the role in question in this database; -1: none */
	int			other_idle;		/* any without a job; -1: none */
	int			free;			/* an entry that can be used; -1: none */
} Room;

/*
 * look_for_room looks at the entries, for a role.  The caller holds the lock.
 */
static Room
look_for_room(Oid role)
{
	Room		room = {0, 0, -1, -1, -1};
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < PA_MOST_RUNNERS; i++)
	{
		PaRunner   *runner = &pa_worker->runners[i];

		if (is_free(i, now))
		{
			room.free = i;
			continue;
		}
		if (runner->state == PA_RUNNER_GONE)
			continue;
		room.processes++;
		if (runner->state != PA_RUNNER_IDLE)
			room.busy += (runner->state != PA_RUNNER_LEAVING);
		else if (runner->database == MyDatabaseId && runner->role == role)
			room.own_idle = i;
		else
			room.other_idle = i;
	}

	return room;
}

/*
 * reserve gives a job to a runner that has nothing to do, or makes a free entry one of a runner that starts with it, and
 * returns its number; -1 when there is no room: then somebody who has nothing to do is asked to leave.  The caller
 * holds the lock.
 */
static int
reserve(PaAssignment *job)
{
	Room		room = look_for_room(job->role);
	PaRunner   *runner;

	if (room.busy >= pa_max_running_jobs)
		return -1;
	if (room.own_idle >= 0)
	{
		assign(&pa_worker->runners[room.own_idle], PA_RUNNER_ASSIGNED, job);
		pa_wake(&pa_worker->runners[room.own_idle].process);
		return room.own_idle;
	}
	if (room.processes < pa_max_running_jobs && room.free >= 0)
	{
		runner = &pa_worker->runners[room.free];
		/* Nobody else will see to what a database that is no more has left. */
		if (runner->state != PA_RUNNER_FREE)
			pa_end_request(runner->request, 0);
		memset(runner, 0, sizeof(*runner));
		runner->database = MyDatabaseId;
		runner->role = job->role;
		assign(runner, PA_RUNNER_STARTING, job);
		return room.free;
	}
	if (room.other_idle >= 0)
	{
		pa_set_runner(&pa_worker->runners[room.other_idle], PA_RUNNER_LEAVING);
		pa_wake(&pa_worker->runners[room.other_idle].process);
	}

	return -1;
}

/*
 * tell_no_room tells that the server has no room for another process.  Where that is so all the time it is told now and
 * then, although a process is to be had in between.
 */
static void
tell_no_room(void)
{
	static TimestampTz told = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (told != 0 && !TimestampDifferenceExceeds(told, now, TELL_AGAIN_MS))
		return;
	told = now;
	ereport(LOG,
			(errmsg("jobs have to wait for a process"),
			 errhint("Raise max_worker_processes, or lower prod_analytics.max_running_jobs.")));
}

/*
 * give_up takes a reserved entry back, for which the server has no process.  If that lasts, a runner that has nothing to
 * do is asked to leave: it could hold for long what is the only process, and be of no use to the role that is waiting.
 */
static void
give_up(int number, bool lasts)
{
	Room		room;

	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	pa_set_runner(&pa_worker->runners[number], PA_RUNNER_FREE);
	room = look_for_room(InvalidOid);
	if (lasts && room.other_idle >= 0)
	{
		pa_set_runner(&pa_worker->runners[room.other_idle], PA_RUNNER_LEAVING);
		pa_wake(&pa_worker->runners[room.other_idle].process);
	}
	LWLockRelease(pa_worker->lock);
}

/*
 * start starts a process for a runner whose entry is reserved; false when the server has no room.  A process that has
 * just ended counts until the server has noticed.
 */
static bool
start(int number)
{
	static TimestampTz scarce_since = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (handles[number])
		pfree(handles[number]);
	handles[number] = NULL;
	if (pa_start_process("pa_runner_main", "runner", Int32GetDatum(number), &handles[number]))
	{
		scarce_since = 0;
		return true;
	}

	if (scarce_since == 0)
		scarce_since = now;
	give_up(number, TimestampDifferenceExceeds(scarce_since, now, PATIENCE_MS));
	if (TimestampDifferenceExceeds(scarce_since, now, PATIENCE_MS))
		tell_no_room();

	return false;
}

/*
 * pa_give_job gives a job to a runner that has nothing to do, or to a new one.
 */
PaRoom
pa_give_job(PaAssignment *job)
{
	int			number;
	bool		is_new;
	MemoryContext caller_context;
	bool		has_process;

	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	number = reserve(job);
	is_new = number >= 0 && pa_worker->runners[number].state == PA_RUNNER_STARTING;
	LWLockRelease(pa_worker->lock);
	if (!is_new)
		return number >= 0 ? PA_ROOM_FOUND : PA_ROOM_LATER;

	/* The handle is needed for as long as the process is there. */
	caller_context = MemoryContextSwitchTo(TopMemoryContext);
	has_process = start(number);
	MemoryContextSwitchTo(caller_context);

	return has_process ? PA_ROOM_FOUND : PA_ROOM_NO_PROCESS;
}
