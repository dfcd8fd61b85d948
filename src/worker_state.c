/*
 * worker_state.c
 *		What the worker's processes share.
 *
 * The processes tell each other of changes by setting latches.  An entry is read and written under the lock, which is
 * never held for longer than it takes to look at the entries.
 */
#include "prod_analytics.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "worker.h"

#define TRANCHE "prod_analytics"

PaWorker   *pa_worker = NULL;

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

static void
request_memory(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(PaWorker)));
	RequestNamedLWLockTranche(TRANCHE, 1);
}

static void
init_memory(void)
{
	bool		found;

	if (previous_startup_hook)
		previous_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	pa_worker = ShmemInitStruct(TRANCHE, sizeof(PaWorker), &found);
	if (!found)
	{
		memset(pa_worker, 0, sizeof(PaWorker));
		pa_worker->lock = &GetNamedLWLockTranche(TRANCHE)->lock;
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * pa_worker_state_init asks for the memory when the library is preloaded.
 */
void
pa_worker_state_init(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = init_memory;
}

/*
 * pa_enter_process and pa_leave_process say that this process is it, and that it is no more.
 */
void
pa_enter_process(PaProcess *process)
{
	process->pid = MyProcPid;
	process->proc = MyProc;
	process->since = GetCurrentTimestamp();
}

void
pa_leave_process(PaProcess *process)
{
	process->pid = 0;
	process->proc = NULL;
}

/*
 * pa_wake lets a process look around, if there is one.  The caller holds the lock.
 */
void
pa_wake(PaProcess *process)
{
	if (process->pid != 0)
		SetLatch(&process->proc->procLatch);
}

/*
 * pa_scheduler_of finds the scheduler of a database that is running; NULL when none is.  The caller holds the lock.
 */
PaScheduler *
pa_scheduler_of(Oid database)
{
	for (int i = 0; i < PA_MOST_DATABASES; i++)
		if (pa_worker->schedulers[i].database == database && pa_worker->schedulers[i].process.pid != 0)
			return &pa_worker->schedulers[i];

	return NULL;
}

/*
 * pa_wake_scheduler lets the scheduler of a database look at its jobs, if there is one.
 */
void
pa_wake_scheduler(Oid database)
{
	PaScheduler *scheduler;

	if (pa_worker == NULL)
		return;

	LWLockAcquire(pa_worker->lock, LW_SHARED);
	scheduler = pa_scheduler_of(database);
	if (scheduler)
		pa_wake(&scheduler->process);
	LWLockRelease(pa_worker->lock);
}

/*
 * pa_wake_schedulers lets all of them look: a runner has made room.  The caller holds the lock.
 */
void
pa_wake_schedulers(void)
{
	for (int i = 0; i < PA_MOST_DATABASES; i++)
		pa_wake(&pa_worker->schedulers[i].process);
}

/*
 * pa_set_runner brings a runner into another state.  The caller holds the lock.
 */
void
pa_set_runner(PaRunner *runner, PaRunnerState state)
{
	runner->state = state;
	runner->since = GetCurrentTimestamp();
	if (state == PA_RUNNER_IDLE || state == PA_RUNNER_FREE)
	{
		runner->job_name[0] = '\0';
		runner->job_id = 0;
		runner->request = -1;
	}
}

/*
 * pa_end_request tells whoever waits for a run that it has ended.  The caller holds the lock.
 */
void
pa_end_request(int number, int64 job_id)
{
	PaRequest  *request;

	if (number < 0)
		return;

	request = &pa_worker->requests[number];
	if (request->state == PA_REQUEST_ABANDONED)
	{
		request->state = PA_REQUEST_FREE;
		return;
	}
	request->job_id = job_id;
	request->state = PA_REQUEST_ENDED;
	pa_wake(&request->waiting);
}
