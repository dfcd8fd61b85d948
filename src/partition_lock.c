/*
 * partition_lock.c
 *		Locking tables without making everybody wait.
 *
 * A strong lock that is waited for makes everyone who comes later wait behind it.  So we wait a
 * short time only (prod_analytics.lock_timeout), give up all that we have got, let the others
 * pass, and try again (prod_analytics.lock_retries), at moments that two sessions do not share.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "common/pg_prng.h"
#include "guard.h"
#include "miscadmin.h"
#include "partition.h"
#include "pgstat.h"
#include "query.h"
#include "settings.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* A lock to be taken. */
typedef struct Request
{
	Oid			relation;
	LOCKMODE	mode;
} Request;

/* Locks to be taken together. */
typedef struct Attempt
{
	List	   *requests;		/* of Request */
	Request    *current;		/* the one that is waited for */
} Attempt;

/* What pa_describe_waits tells. */
static int	failed_attempts;
static TimestampTz waited;		/* microseconds */
static Oid	waited_for;

/*
 * pa_reset_waits forgets what was waited for.
 */
void
pa_reset_waits(void)
{
	failed_attempts = 0;
	waited = 0;
	waited_for = InvalidOid;
}

/*
 * pa_describe_waits tells what was waited for since pa_reset_waits; NULL when nothing was.
 */
char *
pa_describe_waits(void)
{
	if (failed_attempts == 0)
		return NULL;

	return psprintf("waited %.1f s for a lock on \"%s\", which took %d attempts",
					waited / 1e6, get_rel_name(waited_for), failed_attempts + 1);
}

/*
 * take_locks is the work of an Attempt.
 */
static void
take_locks(void *argument)
{
	Attempt    *attempt = argument;
	ListCell   *cell;

	foreach(cell, attempt->requests)
	{
		attempt->current = lfirst(cell);
		LockRelationOid(attempt->current->relation, attempt->current->mode);
	}
}

/*
 * holders lists the processes that have a lock on a relation.
 */
static char *
holders(Oid relation)
{
	PaParameters parameters = {0};
	bool		isnull;
	Datum		list;

	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(relation));
	pa_query("SELECT string_agg(DISTINCT pid::text, ', ') FROM pg_locks"
			 " WHERE relation = $1 AND granted AND pid <> pg_backend_pid()"
			 " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
			 &parameters, SPI_OK_SELECT);
	list = pa_result(0, 1, &isnull);

	return isnull ? pstrdup("(none by now)") : TextDatumGetCString(list);
}

/*
 * give_up raises the error of a lock that could not be had.
 */
static void
give_up(Request *request)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not lock table \"%s\" in %d attempts",
					get_rel_name(request->relation), pa_lock_retries + 1),
			 errdetail("Each waited %d ms, so that others need not wait longer.  Processes with a lock on it: %s.",
					   pa_lock_timeout, holders(request->relation)),
			 errhint("Try again when they are done, or raise prod_analytics.lock_retries.")));
}

/*
 * pause_a_while sleeps between half and one and a half times the lock timeout.
 */
static void
pause_a_while(void)
{
	long		milliseconds = pa_lock_timeout * (0.5 + pg_prng_double(&pg_global_prng_state));

	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 milliseconds, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * lock_within_budget takes all the locks, or none of them and raises an error.
 */
static void
lock_within_budget(List *requests)
{
	Attempt		attempt = {requests, NULL};
	int			guc_level = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", psprintf("%d", pa_lock_timeout),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);

	for (int tries = 0;; tries++)
	{
		TimestampTz start = GetCurrentTimestamp();
		ErrorData  *error;

		if (pa_try(take_locks, &attempt, &error))
			break;
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		FreeErrorData(error);
		if (tries == pa_lock_retries)
			give_up(attempt.current);

		pause_a_while();
		failed_attempts++;
		waited += GetCurrentTimestamp() - start;
		waited_for = attempt.current->relation;
	}

	AtEOXact_GUC(true, guc_level);
}

/*
 * add_request appends a lock to take.
 */
static List *
add_request(List *requests, Oid relation, LOCKMODE mode)
{
	Request    *request;

	if (!OidIsValid(relation))
		return requests;

	request = palloc(sizeof(Request));
	request->relation = relation;
	request->mode = mode;

	return lappend(requests, request);
}

/*
 * add_neighbours appends locks on the tables that the parent's foreign keys refer to, and on those
 * that refer to it: attaching and detaching make and drop triggers there.
 */
static List *
add_neighbours(List *requests, PaPolicy *policy, LOCKMODE referenced, LOCKMODE referencing)
{
	PaParameters parameters = {0};
	uint64		found;
	bool		isnull;

	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(policy->parent));
	found = pa_query("SELECT confrelid, false FROM pg_constraint"
					 " WHERE conrelid = $1 AND contype = 'f' AND confrelid <> $1"
					 " UNION SELECT conrelid, true FROM pg_constraint"
					 " WHERE confrelid = $1 AND contype = 'f' AND conrelid <> $1"
					 " ORDER BY 1",
					 &parameters, SPI_OK_SELECT);

	for (uint64 i = 0; i < found; i++)
		requests = add_request(requests, DatumGetObjectId(pa_result(i, 1, &isnull)),
							   DatumGetBool(pa_result(i, 2, &isnull)) ? referencing : referenced);

	return requests;
}

/*
 * pa_lock_partitioning makes sure that one session at a time makes partitions of a table.
 *
 * It is the lock that ATTACH takes on the parent anyway.  It may be waited for: readers and writers
 * notice neither the lock nor the waiting.
 */
void
pa_lock_partitioning(PaPolicy *policy)
{
	LockRelationOid(policy->parent, ShareUpdateExclusiveLock);
}

/*
 * pa_lock_to_attach takes the locks that ATTACH PARTITION needs, all at once.
 */
void
pa_lock_to_attach(PaPolicy *policy)
{
	List	   *requests = add_request(NIL, pa_default_partition(policy), AccessExclusiveLock);

	lock_within_budget(add_neighbours(requests, policy, ShareRowExclusiveLock, ShareRowExclusiveLock));
}

/*
 * pa_lock_to_detach takes the locks that DETACH PARTITION needs, all at once.
 */
void
pa_lock_to_detach(PaPolicy *policy, Oid partition)
{
	List	   *requests = add_request(NIL, policy->parent, AccessExclusiveLock);

	requests = add_request(requests, partition, AccessExclusiveLock);
	requests = add_request(requests, pa_default_partition(policy), AccessExclusiveLock);
	lock_within_budget(add_neighbours(requests, policy, ShareRowExclusiveLock, AccessExclusiveLock));
}

/*
 * pa_lock_to_alter takes the lock that adding a constraint to a partition needs.
 */
void
pa_lock_to_alter(Oid partition)
{
	lock_within_budget(add_request(NIL, partition, AccessExclusiveLock));
}
