/*
 * partition_lock.c
 *		Locking tables without making everybody wait.
 *
 * A strong lock that is waited for makes everyone who comes later wait behind it.  So we wait a
 * short time only (prod_analytics.lock_timeout), give up all that we have got, let the others
 * pass, and try again (prod_analytics.lock_retries), at moments that two sessions do not share.
 */
#include "prod_analytics.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "guard.h"
#include "miscadmin.h"
#include "partition.h"
#include "pgstat.h"
#include "query.h"
#include "settings.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* A lock to be taken. */
typedef struct Request
{
	Oid			relation;
	LOCKMODE	mode;
	bool		with_partitions;	/* and all that the relation has once it is locked */
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

/* The transaction that has got its locks. */
static TransactionId locked_by = InvalidTransactionId;

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
 * take_lock takes one of an Attempt.
 */
static void
take_lock(Attempt *attempt, Request *request)
{
	attempt->current = request;
	LockRelationOid(request->relation, request->mode);
}

/*
 * pa_unlocked_tree lists a table and the tables below it, like find_all_inheritors(), which without locks fails when one
 * of them is dropped at this moment.  Those that are listed may be gone, too.
 */
List *
pa_unlocked_tree(Oid table)
{
	List	   *tree = list_make1_oid(table);
	ListCell   *cell;

	/* The list grows at its end meanwhile.  A table that the cache has just got to know stays there as long as no lock is taken. */
	foreach(cell, tree)
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(cell))))
			tree = list_concat(tree, find_inheritance_children(lfirst_oid(cell), NoLock));

	return tree;
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
		Request    *request = lfirst(cell);
		ListCell   *table;

		take_lock(attempt, request);
		if (!request->with_partitions)
			continue;
		foreach(table, pa_unlocked_tree(request->relation))
		{
			Request    *partition = palloc(sizeof(Request));

			*partition = *request;
			partition->relation = lfirst_oid(table);
			take_lock(attempt, partition);
		}
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
give_up(Request *request, int attempts)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not lock table \"%s\" in %d attempts",
					get_rel_name(request->relation), attempts),
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
 * pa_limit_waiting makes every lock be waited for a short time only, until the GUC nest level that it
 * returns ends.
 *
 * Autovacuum gives way when the deadlock checker finds it in the way of somebody, so that must look
 * before we give up.
 */
int
pa_limit_waiting(void)
{
	int			guc_level = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", psprintf("%d", pa_lock_timeout),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("deadlock_timeout", psprintf("%d", Max(pa_lock_timeout / 2, 1)),
							 PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);

	return guc_level;
}

/*
 * may_retry tells whether this transaction may try again: once it has got strong locks, others wait
 * for as long as it goes on trying to get more.
 */
static bool
may_retry(int tries)
{
	return tries < pa_lock_retries &&
		!(TransactionIdIsValid(locked_by) && TransactionIdEquals(locked_by, GetTopTransactionIdIfAny()));
}

/*
 * lock_within_budget takes all the locks, or none of them and raises an error.
 */
static void
lock_within_budget(List *requests)
{
	Attempt		attempt = {requests, NULL};
	int			guc_level = pa_limit_waiting();

	for (int tries = 0;; tries++)
	{
		TimestampTz start = GetCurrentTimestamp();
		ErrorData  *error;

		if (pa_attempt(take_locks, &attempt, &error))
			break;
		/* A deadlock is over once the locks of this attempt are given up. */
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
			error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
			ReThrowError(error);
		FreeErrorData(error);
		if (!may_retry(tries))
			give_up(attempt.current, tries + 1);

		pause_a_while();
		failed_attempts++;
		waited += GetCurrentTimestamp() - start;
		waited_for = attempt.current->relation;
	}

	AtEOXact_GUC(true, guc_level);
}

/*
 * lock_strongly takes locks that keep others out.
 */
static void
lock_strongly(List *requests)
{
	lock_within_budget(requests);
	locked_by = GetTopTransactionId();
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

	request = palloc0(sizeof(Request));
	request->relation = relation;
	request->mode = mode;

	return lappend(requests, request);
}

/*
 * add_neighbours appends locks on the tables that the foreign keys of some tables refer to, and on those
 * that refer to them: attaching and detaching make and drop triggers there.
 */
static List *
add_neighbours(List *requests, List *tables, LOCKMODE referenced, LOCKMODE referencing)
{
	PaParameters parameters = {0};
	Datum	   *oids = palloc(sizeof(Datum) * list_length(tables));
	ListCell   *cell;
	uint64		found;
	bool		isnull;

	foreach(cell, tables)
		oids[foreach_current_index(cell)] = ObjectIdGetDatum(lfirst_oid(cell));

	pa_add_parameter(&parameters, OIDARRAYOID,
					 PointerGetDatum(construct_array(oids, list_length(tables), OIDOID, sizeof(Oid), true, TYPALIGN_INT)));
	found = pa_query("SELECT confrelid, false FROM pg_constraint"
					 " WHERE conrelid = ANY ($1) AND contype = 'f' AND confrelid <> ALL ($1)"
					 " UNION SELECT conrelid, true FROM pg_constraint"
					 " WHERE confrelid = ANY ($1) AND contype = 'f' AND conrelid <> ALL ($1)"
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
 * pa_lock_partitioning_soon does so, but raises an error rather than to wait long.  It is for a transaction
 * that has done much already, and holds locks that the one that it waits for may want.
 */
void
pa_lock_partitioning_soon(PaPolicy *policy)
{
	lock_within_budget(add_request(NIL, policy->parent, ShareUpdateExclusiveLock));
}

/*
 * pa_lock_to_attach takes the locks that ATTACH PARTITION needs, all at once.
 */
void
pa_lock_to_attach(PaPolicy *policy)
{
	List	   *requests = add_request(NIL, pa_default_partition(policy), AccessExclusiveLock);

	lock_strongly(add_neighbours(requests, list_make1_oid(policy->parent),
								 ShareRowExclusiveLock, ShareRowExclusiveLock));
}

/*
 * pa_lock_to_detach takes the locks that detaching partitions needs, and dropping them (unless the tables
 * are kept), all at once: dropping a foreign key drops triggers on the table that it refers to.
 */
void
pa_lock_to_detach(PaPolicy *policy, List *partitions, bool keep_tables)
{
	LOCKMODE	referenced = keep_tables ? ShareRowExclusiveLock : AccessExclusiveLock;
	List	   *requests = add_request(NIL, policy->parent, AccessExclusiveLock);
	List	   *tables = list_make1_oid(policy->parent);
	ListCell   *cell;

	requests = add_request(requests, pa_default_partition(policy), AccessExclusiveLock);
	foreach(cell, partitions)
	{
		List	   *tree = pa_unlocked_tree(((PaPartition *) lfirst(cell))->relation);
		ListCell   *table;

		foreach(table, tree)
			requests = add_request(requests, lfirst_oid(table), AccessExclusiveLock);
		tables = list_concat(tables, tree);
	}

	lock_strongly(add_neighbours(requests, tables, referenced, AccessExclusiveLock));
}

/*
 * pa_lock_to_alter takes the lock that adding a constraint to a partition needs.
 */
void
pa_lock_to_alter(Oid partition)
{
	lock_strongly(add_request(NIL, partition, AccessExclusiveLock));
}

/*
 * lock_tree takes a lock on a table and all its partitions.
 */
static void
lock_tree(Oid table, LOCKMODE mode)
{
	List	   *requests = add_request(NIL, table, mode);

	((Request *) linitial(requests))->with_partitions = true;
	lock_strongly(requests);
}

/*
 * pa_lock_writers_out waits until nobody writes to a table, which making triggers needs.
 *
 * The partitions are locked too: whoever writes to one of them directly has no lock on the table.
 */
void
pa_lock_writers_out(Oid table)
{
	lock_tree(table, ShareRowExclusiveLock);
}

/*
 * pa_lock_everybody_out waits until nobody uses a table, which dropping triggers needs.
 */
void
pa_lock_everybody_out(Oid table)
{
	lock_tree(table, AccessExclusiveLock);
}
