/*
 * worker.c
 *		The launcher: one process for the server that sees to it that each database listed has a scheduler.
 *
 * It is connected to no database, and waits for those that do not exist yet.  It is started when recovery is over, so
 * a standby has none until it is promoted.
 */
#include "prod_analytics.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "settings.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "worker.h"

extern PGDLLEXPORT void pa_launcher_main(Datum argument);

/* How long it takes until a missing database is looked for again, or a scheduler that has ended is started again. */
#define RETRY_MS 3000
#define LONGEST_RETRY_MS 60000

/* How often the launcher looks whether all schedulers are there, although nobody has told it otherwise. */
#define LOOK_MS 60000

/* What was told of the databases that are missing, so that it is told once. */
static List *missing = NIL;

/*
 * pa_prepare_process lets a process of ours be told to end, to cancel and to read the settings again.
 */
void
pa_prepare_process(void)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, StatementCancelHandler);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
}

/*
 * pa_start_transaction starts a transaction in which we note what we do.  Whatever the settings of the server, a role
 * or a command say, it writes, sees what others have just committed, and waits for locks.
 */
void
pa_start_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactReadOnly = false;
	XactDeferrable = false;
	XactIsoLevel = XACT_READ_COMMITTED;
	if (LockTimeout > 0)
		(void) set_config_option("lock_timeout", "0", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * pa_reload reads the settings again if somebody has asked for that.
 */
void
pa_reload(void)
{
	if (!ConfigReloadPending)
		return;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
}

/*
 * listed_databases is the setting as a list of names, as they are.
 */
static List *
listed_databases(void)
{
	char	   *names = pstrdup(pa_databases);
	List	   *list;

	/* The check hook has refused what does not parse. */
	if (!SplitGUCList(names, ',', &list))
		return NIL;

	return list;
}

/*
 * pa_is_listed tells whether a database is to have a scheduler, while the worker is enabled.
 */
bool
pa_is_listed(const char *database)
{
	ListCell   *cell;

	foreach(cell, listed_databases())
		if (strcmp(lfirst(cell), database) == 0)
			return true;

	return false;
}

/*
 * pa_start_process starts a process; false when the server has no room for more.  A process that ends is not started
 * again by the server, but by whoever has started it.
 */
bool
pa_start_process(const char *function, const char *name, Datum argument, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = argument;
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, PA_LIBRARY, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, function, BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "prod_analytics %s", name);
	snprintf(worker.bgw_type, BGW_MAXLEN, "prod_analytics %s", name);

	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/*
 * tell_missing tells once that a database is waited for.
 */
static void
tell_missing(const char *database)
{
	MemoryContext caller_context;
	ListCell   *cell;

	foreach(cell, missing)
		if (strcmp(lfirst(cell), database) == 0)
			return;

	ereport(LOG,
			(errmsg("database \"%s\" does not exist or allows no connections, so it has no scheduler yet", database),
			 errhint("It is listed in the setting prod_analytics.databases.")));
	caller_context = MemoryContextSwitchTo(TopMemoryContext);
	missing = lappend(missing, pstrdup(database));
	MemoryContextSwitchTo(caller_context);
}

/*
 * tell_found lets it be told again when a database goes missing.
 */
static void
tell_found(const char *database)
{
	ListCell   *cell;

	foreach(cell, missing)
		if (strcmp(lfirst(cell), database) == 0)
			missing = foreach_delete_current(missing, cell);
}

/*
 * find_database is the OID of a database that can be connected to; InvalidOid when there is none.  Who is connected to
 * none himself has no indexes.
 */
static Oid
find_database(const char *name)
{
	Relation	catalog = table_open(DatabaseRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	row;
	Oid			database = InvalidOid;

	ScanKeyInit(&key, Anum_pg_database_datname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum(name));
	scan = systable_beginscan(catalog, InvalidOid, false, NULL, 1, &key);
	row = systable_getnext(scan);
	if (HeapTupleIsValid(row) && ((Form_pg_database) GETSTRUCT(row))->datallowconn)
		database = ((Form_pg_database) GETSTRUCT(row))->oid;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);

	return database;
}

/*
 * entry_of finds the entry for the scheduler of a database, or one that is free or of a database that is no more;
 * NULL when none is.
 */
static PaScheduler *
entry_of(Oid database, TimestampTz now)
{
	PaScheduler *entry = NULL;

	for (int i = 0; i < PA_MOST_DATABASES; i++)
	{
		PaScheduler *candidate = &pa_worker->schedulers[i];

		if (candidate->database == database)
			return candidate;
		if (entry == NULL && candidate->process.pid == 0 &&
			TimestampDifferenceExceeds(candidate->launched, now, 2 * LONGEST_RETRY_MS))
			entry = candidate;
	}
	if (entry)
	{
		memset(entry, 0, sizeof(*entry));
		entry->database = database;
	}

	return entry;
}

/*
 * claim_start decides whether the scheduler of a database is to be started now.  One that has just been started may
 * not have come to say so yet; one that cannot start is tried less and less often.
 */
static bool
claim_start(Oid database)
{
	TimestampTz now = GetCurrentTimestamp();
	PaScheduler *entry;
	bool		result;

	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	entry = entry_of(database, now);
	/* Who was started later than now was so before the clock was set back. */
	result = entry && entry->process.pid == 0 &&
		(entry->launched > now ||
		 TimestampDifferenceExceeds(entry->launched, now, Min(RETRY_MS << Min(entry->tries, 10), LONGEST_RETRY_MS)));
	if (result)
	{
		entry->launched = now;
		entry->tries++;
	}
	LWLockRelease(pa_worker->lock);

	return result;
}

/*
 * start starts the scheduler of a database, or tells, once, that the server has no room for it.
 */
static void
start(const char *name, Oid database)
{
	static bool is_told = false;

	if (pa_start_process("pa_scheduler_main", "scheduler", ObjectIdGetDatum(database), NULL))
		is_told = false;
	else if (!is_told)
	{
		ereport(LOG,
				(errmsg("the scheduler for database \"%s\" cannot be started yet", name),
				 errhint("Raise max_worker_processes: the launcher, each database in prod_analytics.databases and each running job take one.")));
		is_told = true;
	}
}

/*
 * is_running tells whether a database has its scheduler.
 */
static bool
is_running(Oid database)
{
	bool		result;

	LWLockAcquire(pa_worker->lock, LW_SHARED);
	result = (pa_scheduler_of(database) != NULL);
	LWLockRelease(pa_worker->lock);

	return result;
}

/*
 * start_schedulers starts the schedulers that are missing; false when one is still missing.
 */
static bool
start_schedulers(void)
{
	bool		complete = true;
	ListCell   *cell;

	foreach(cell, pa_enabled ? listed_databases() : NIL)
	{
		char	   *name = lfirst(cell);
		Oid			database = find_database(name);

		if (!OidIsValid(database))
			tell_missing(name);
		else
		{
			tell_found(name);
			if (is_running(database))
				continue;
			if (claim_start(database))
				start(name, database);
		}
		complete = false;
	}

	return complete;
}

static void
leave(int code, Datum argument)
{
	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	pa_leave_process(&pa_worker->launcher);
	LWLockRelease(pa_worker->lock);
}

/*
 * pa_launcher_main is the launcher.
 */
void
pa_launcher_main(Datum argument)
{
	MemoryContext context;

	pa_prepare_process();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	context = AllocSetContextCreate(TopMemoryContext, "launcher", ALLOCSET_DEFAULT_SIZES);
	before_shmem_exit(leave, (Datum) 0);
	LWLockAcquire(pa_worker->lock, LW_EXCLUSIVE);
	pa_enter_process(&pa_worker->launcher);
	LWLockRelease(pa_worker->lock);

	for (;;)
	{
		bool		complete;

		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		(void) GetTransactionSnapshot();
		MemoryContextSwitchTo(context);
		complete = start_schedulers();
		CommitTransactionCommand();
		MemoryContextReset(context);
		pgstat_report_activity(STATE_IDLE, NULL);

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, complete ? LOOK_MS : RETRY_MS + 100,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		pa_reload();
	}
}

/*
 * pa_worker_init registers the launcher when the library is preloaded.
 */
void
pa_worker_init(void)
{
	BackgroundWorker worker = {0};

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;

	pa_worker_state_init();
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, PA_LIBRARY, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "pa_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "prod_analytics launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "prod_analytics launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
