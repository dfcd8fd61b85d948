/*
 * worker.h
 *		The background worker: a launcher for the server, a scheduler for each database, and runners.
 *
 * worker.c registers the launcher, which sees to it that each database that is listed has a scheduler, of
 * worker_scheduler.c.  That decides which jobs are due, and gives their runs (worker_room.c) to runners, of
 * worker_runner.c, each of which works for one role in one database.  worker_state.c is what the processes share.
 * worker_command.c executes commands, worker_record.c logs runs, and worker_jobs.c and worker_run.c are what users call.
 */
#ifndef PA_WORKER_H
#define PA_WORKER_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "postmaster/bgworker.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/elog.h"

#define PA_MOST_DATABASES 64
#define PA_MOST_RUNNERS 64
#define PA_MOST_REQUESTS 64

/* The bytes of a job's name, and the zero after them. */
#define PA_JOB_NAME_SIZE 201

/* A process of ours, in shared memory. */
typedef struct PaProcess
{
	pid_t		pid;			/* 0: there is none */
	PGPROC	   *proc;
	TimestampTz since;
} PaProcess;

/* A scheduler, in shared memory. */
typedef struct PaScheduler
{
	Oid			database;		/* InvalidOid: the entry is free */
	PaProcess	process;
	TimestampTz launched;		/* when the launcher tried to start it last */
	int			tries;			/* how often it has done so since it was running last */
} PaScheduler;

/*
 * What a runner is about.  The scheduler makes it STARTING or ASSIGNED, with a job; the runner makes itself RUNNING,
 * then IDLE again.  LEAVING is one that is to make room or does so by itself, GONE one whose process has ended with a
 * job: the scheduler sees to that before the entry is FREE again.
 */
typedef enum PaRunnerState
{
	PA_RUNNER_FREE,
	PA_RUNNER_STARTING,
	PA_RUNNER_ASSIGNED,
	PA_RUNNER_RUNNING,
	PA_RUNNER_IDLE,
	PA_RUNNER_LEAVING,
	PA_RUNNER_GONE
} PaRunnerState;

/* A runner, in shared memory. */
typedef struct PaRunner
{
	PaRunnerState state;
	Oid			database;
	Oid			role;			/* that it works for */
	PaProcess	process;
	char		job_name[PA_JOB_NAME_SIZE];
	int64		job_id;			/* of the run, once it has begun; else 0 */
	TimestampTz since;			/* when it came into its state */
	int			request;		/* the PaRequest that the run is for; -1: none */
} PaRunner;

/* What became of a request. */
typedef enum PaRequestState
{
	PA_REQUEST_FREE,
	PA_REQUEST_ASKED,
	PA_REQUEST_TAKEN,
	PA_REQUEST_ENDED,			/* with job_id, or 0: there is no such job */
	PA_REQUEST_ABANDONED		/* nobody waits for it any more */
} PaRequestState;

/* A session that wants a job to be run now, and waits for its end; in shared memory. */
typedef struct PaRequest
{
	PaRequestState state;
	Oid			database;
	PaProcess	waiting;
	char		job_name[PA_JOB_NAME_SIZE];
	int64		job_id;
} PaRequest;

/* What the processes share, protected by the lock. */
typedef struct PaWorker
{
	LWLock	   *lock;
	PaProcess	launcher;
	PaScheduler schedulers[PA_MOST_DATABASES];
	PaRunner	runners[PA_MOST_RUNNERS];
	PaRequest	requests[PA_MOST_REQUESTS];
} PaWorker;

/* NULL: the library was not preloaded, so there is no worker. */
extern PaWorker *pa_worker;

/* worker_state.c */
extern void pa_worker_state_init(void);
extern void pa_enter_process(PaProcess *process);
extern void pa_leave_process(PaProcess *process);
extern void pa_wake(PaProcess *process);
extern PaScheduler *pa_scheduler_of(Oid database);
extern void pa_wake_scheduler(Oid database);
extern void pa_wake_schedulers(void);
extern void pa_set_runner(PaRunner *runner, PaRunnerState state);
extern void pa_end_request(int request, int64 job_id);

/* worker.c */
extern bool pa_is_listed(const char *database);
extern bool pa_start_process(const char *function, const char *name, Datum argument, BackgroundWorkerHandle **handle);
extern void pa_prepare_process(void);
extern void pa_start_transaction(void);
extern void pa_reload(void);

/* A job for a runner. */
typedef struct PaAssignment
{
	char	   *job_name;
	Oid			role;			/* its owner */
	int			request;		/* that it is for; -1: none */
} PaAssignment;

/* What came of giving it to one. */
typedef enum PaRoom
{
	PA_ROOM_FOUND,
	PA_ROOM_LATER,				/* as many runs are going on as may, or somebody has been asked to make room */
	PA_ROOM_NO_PROCESS			/* the server has no process for another runner */
} PaRoom;

/* worker_room.c */
extern bool pa_take_gone(char *job_name, int64 *job_id, int *request);
extern PaRoom pa_give_job(PaAssignment *job);

/* worker_jobs.c */
typedef void (*PaTask) (void *argument);

extern void pa_do_as_owner(PaTask task, void *argument);
extern bool pa_may_employ(Oid role);
extern void pa_check_job(const char *job_name, Oid caller);

/* What came of a command. */
typedef struct PaOutcome
{
	int64		rows;			/* that its last statement has processed */
	char	   *json;			/* the only value of its result, when that is jsonb; else NULL */
} PaOutcome;

/* worker_command.c */
extern void pa_check_command(const char *command);
extern void pa_execute_command(const char *command, PaOutcome *outcome);
extern void pa_abort_command(void);
extern void pa_reset_session(void);

/* A run. */
typedef struct PaRecord
{
	MemoryContext context;		/* of what follows; it outlives transactions */
	char	   *job_name;
	Oid			role;			/* whose job it must be; InvalidOid: anybody's */
	int64		job_id;			/* 0: it has not begun */
	char	   *command;		/* NULL: there is no such job, or somebody else is running it */
	Oid			owner;			/* as which it runs; InvalidOid: there is no such role */
	int64		timeout_ms;		/* 0: it has none */
	PaOutcome	outcome;
	ErrorData  *error;			/* NULL: the command has raised none */
	char	   *failure;		/* what to tell of a failure that the command tells of itself; NULL: there is none */
} PaRecord;

/* worker_record.c */
extern void pa_begin_record(void *record);
extern void pa_pass_record(void *record);
extern void pa_end_record(void *record);
extern void pa_enter_run(PaRecord *record);
extern void pa_leave_run(void);

#endif							/* PA_WORKER_H */
