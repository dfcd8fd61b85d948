/*
 * partition_expire.c
 *		Dropping partitions that are older than their table's retention.
 */
#include "prod_analytics.h"

#include "catalog/pg_class.h"
#include "fmgr.h"
#include "guard.h"
#include "miscadmin.h"
#include "partition.h"
#include "query.h"
#include "refresh.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_drop_expired_partitions);
PG_FUNCTION_INFO_V1(pa_drop_next_partition);

/*
 * pa_expired lists the partitions that end before the retention begins, oldest first.
 *
 * The last partition is never among them: a table whose clock or retention is wrong keeps something
 * to insert into.
 */
List *
pa_expired(PaPolicy *policy, TimestampTz at)
{
	PaKey		expiry = pa_expiry(policy, at);
	List	   *partitions = pa_partitions(policy);
	List	   *expired = NIL;
	ListCell   *cell;

	foreach(cell, partitions)
	{
		PaPartition *partition = lfirst(cell);

		if (partition->range.upper <= expiry && partition != llast(partitions))
			expired = lappend(expired, partition);
	}

	return expired;
}

/*
 * check_kind refuses a partition that is not ours to drop.
 */
static void
check_kind(PaPartition *partition)
{
	if (get_rel_relkind(partition->relation) == RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("expired partition \"%s\" is a foreign table", get_rel_name(partition->relation)),
				 errhint("Detach it, and drop it where its rows are.")));
}

/*
 * expire detaches a partition, and drops it unless the table is to be kept.
 */
static void
expire(PaPolicy *policy, PaPartition *partition, bool keep_table)
{
	char	   *name = pa_relation_sql(partition->relation);

	pa_query(psprintf("ALTER TABLE %s DETACH PARTITION %s", pa_relation_sql(policy->parent), name),
			 NULL, SPI_OK_UTILITY);
	if (!keep_table)
		pa_query(psprintf("DROP TABLE %s", name), NULL, SPI_OK_UTILITY);
}

/* What to do with the expired partitions of a table. */
typedef struct Expiry
{
	PaPolicy   *policy;
	TimestampTz at;
	bool		keep_tables;
	int			most;			/* how many to drop at the most */
	int			dropped;
	char	   *last;			/* the name of the last one dropped */
} Expiry;

/*
 * expire_listed drops partitions, whose locks are taken all before the first is touched.
 *
 * Materialized views with an archive keep the groups whose rows go.  Most of the work for that is done before others
 * have to wait for us.
 */
static void
expire_listed(Expiry *expiry, List *partitions)
{
	List	   *archivals;
	int			guc_level;
	ListCell   *cell;

	foreach(cell, partitions)
		check_kind(lfirst(cell));
	archivals = pa_begin_archiving(expiry->policy->parent, partitions);
	pa_lock_to_detach(expiry->policy, partitions, expiry->keep_tables);
	pa_catch_up_archiving(archivals);

	guc_level = pa_limit_waiting();
	foreach(cell, partitions)
	{
		PaPartition *partition = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		expiry->last = MemoryContextStrdup(GetMemoryChunkContext(expiry->policy), pa_relation_sql(partition->relation));
		expire(expiry->policy, partition, expiry->keep_tables);
		expiry->dropped++;
	}
	AtEOXact_GUC(true, guc_level);

	pa_finish_archiving(archivals);
}

/*
 * check_clock refuses a clock that is ahead of ours to everybody but the owner of the table: with it all that is kept
 * would be older than the retention that he has given.
 */
static void
check_clock(Expiry *expiry)
{
	Oid			owner = pa_owner(expiry->policy->parent);

	if (expiry->at > GetCurrentTimestamp() && !has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only the owner of table \"%s\" may drop partitions before they expire", get_rel_name(expiry->policy->parent)),
				 errdetail("\"at\" lies in the future."),
				 errhint("Leave \"at\" out.")));
}

/*
 * do_expiry is the work of an Expiry.
 */
static void
do_expiry(void *argument)
{
	Expiry	   *expiry = argument;
	PaGuard		guard;
	List	   *expired;

	pa_check_policy(expiry->policy);
	check_clock(expiry);
	if (pa_expired(expiry->policy, expiry->at) == NIL)
		return;

	pa_enter_policy(expiry->policy, &guard);
	pa_lock_partitioning(expiry->policy);
	expired = pa_expired(expiry->policy, expiry->at);
	if (list_length(expired) > expiry->most)
		expired = list_truncate(expired, expiry->most);
	if (expired != NIL)
		expire_listed(expiry, expired);
	pa_leave_policy(&guard);
}

/*
 * expire_all does all tables; one that fails does not stop the others.
 */
static int
expire_all(TimestampTz at, bool keep_table)
{
	ListCell   *cell;
	int			dropped = 0;

	foreach(cell, pa_policies(InvalidOid))
	{
		Expiry		expiry = {lfirst(cell), at, keep_table, PA_MAX_PARTITIONS_PER_CALL, 0, NULL};
		ErrorData  *error;

		if (pa_try(do_expiry, &expiry, &error))
			dropped += expiry.dropped;
		else
			pa_warn_of_table(expiry.policy, error);
	}

	return dropped;
}

/*
 * drop_expired_partitions(parent regclass, at timestamptz, keep_table boolean) drops, or only
 * detaches, the partitions that are older than the retention of a table (NULL: of every table).
 */
Datum
pa_drop_expired_partitions(PG_FUNCTION_ARGS)
{
	Expiry		expiry = {NULL, 0, false, PA_MAX_PARTITIONS_PER_CALL, 0, NULL};

	pa_forbid_read_only("drop_expired_partitions()");

	if (PG_ARGISNULL(1) || TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(1)) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"at\" must be a finite timestamp, and \"keep_table\" must not be null")));
	expiry.at = PG_GETARG_TIMESTAMPTZ(1);
	expiry.keep_tables = PG_GETARG_BOOL(2);

	if (PG_ARGISNULL(0))
		PG_RETURN_INT32(expire_all(expiry.at, expiry.keep_tables));

	expiry.policy = pa_policy_or_error(PG_GETARG_OID(0));
	do_expiry(&expiry);

	PG_RETURN_INT32(expiry.dropped);
}

/*
 * drop_next_partition(parent regclass, at timestamptz) drops the oldest expired partition, and returns
 * its name; NULL when none is expired.
 */
Datum
pa_drop_next_partition(PG_FUNCTION_ARGS)
{
	Expiry		expiry = {NULL, 0, false, 1, 0, NULL};

	expiry.policy = pa_policy_or_error(PG_GETARG_OID(0));
	expiry.at = PG_GETARG_TIMESTAMPTZ(1);
	do_expiry(&expiry);

	if (expiry.dropped == 0)
		PG_RETURN_NULL();

	PG_RETURN_TEXT_P(cstring_to_text(expiry.last));
}
