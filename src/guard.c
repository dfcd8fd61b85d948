/*
 * guard.c
 *		Running work as a table's owner, and surviving its failure.
 */
#include "prod_analytics.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "guard.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/*
 * pa_set_for_now changes a setting until the GUC nest level ends.
 */
void
pa_set_for_now(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * pa_forbid_writing makes the current subtransaction read-only, until it ends.  As a setting this could not be undone by
 * leaving a GUC nest level, which PostgreSQL 16 and later refuse to try.
 */
void
pa_forbid_writing(void)
{
	Assert(IsSubTransaction());
	XactReadOnly = true;
}

/*
 * pa_guard_enter becomes "owner" and stops looking up names in schemas that others may write to.
 *
 * Whoever may execute one of our functions acts with the owner's rights inside it and nowhere
 * else.  Triggers on the tables run in the same environment, whoever called: when the caller is
 * not the owner, they cannot leave anything behind in the caller's session.
 *
 * An error leaves the guard by itself: (sub)transaction abort restores all three.
 */
void
pa_guard_enter(PaGuard *guard, Oid owner)
{
	int			restriction;

	GetUserIdAndSecContext(&guard->user, &guard->security_context);
	restriction = (guard->user == owner) ? 0 : SECURITY_RESTRICTED_OPERATION;
	SetUserIdAndSecContext(owner,
						   guard->security_context | SECURITY_LOCAL_USERID_CHANGE | restriction);

	guard->guc_level = NewGUCNestLevel();
	pa_set_for_now("search_path", "pg_catalog, pg_temp");
	/* Registries have names as format('%I.%I') makes them without that. */
	if (quote_all_identifiers)
		pa_set_for_now("quote_all_identifiers", "off");
}

/*
 * pa_guard_leave undoes pa_guard_enter, and whatever the functions that were called meanwhile have set.
 */
void
pa_guard_leave(PaGuard *guard)
{
	AtEOXact_GUC(false, guard->guc_level);
	SetUserIdAndSecContext(guard->user, guard->security_context);
}

/*
 * pa_utc_enter makes timestamps read and print as ISO 8601 in UTC, whatever the session prefers.
 */
int
pa_utc_enter(void)
{
	int			guc_level = NewGUCNestLevel();

	pa_set_for_now("datestyle", "ISO, YMD");
	pa_set_for_now("intervalstyle", "postgres");
	pa_set_for_now("timezone", "UTC");

	return guc_level;
}

/*
 * pa_utc_leave undoes pa_utc_enter.
 */
void
pa_utc_leave(int guc_level)
{
	AtEOXact_GUC(true, guc_level);
}

/*
 * pa_instant_text prints an instant, between pa_utc_enter and pa_utc_leave.
 */
char *
pa_instant_text(TimestampTz instant)
{
	return DatumGetCString(DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(instant)));
}

/*
 * pa_is_about_the_session tells the errors that are not about the work but about the session: swallowing a cancel
 * would make it impossible to cancel, and the client must see that it should retry.
 */
bool
pa_is_about_the_session(ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
		error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
}

/*
 * attempt does "work" in a subtransaction, and commits that if it is to be kept.
 */
static bool
attempt(PaWork work, void *argument, ErrorData **error, bool keep)
{
	MemoryContext caller_context = CurrentMemoryContext;
	ResourceOwner caller_owner = CurrentResourceOwner;
	volatile bool done = false;

	*error = NULL;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller_context);

	PG_TRY();
	{
		work(argument);
		if (keep)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
		done = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller_context);
		*error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(caller_context);
	CurrentResourceOwner = caller_owner;

	return done;
}

/*
 * pa_attempt does "work" in a subtransaction.  When it fails, its effects are rolled back, locks
 * included, the error is stored in *error and the result is false.  The caller raises again what
 * it cannot deal with; a cancel, for one.
 */
bool
pa_attempt(PaWork work, void *argument, ErrorData **error)
{
	return attempt(work, argument, error, true);
}

/*
 * pa_rehearse does "work" and rolls its effects back, also when it does not fail.
 */
void
pa_rehearse(PaWork work, void *argument)
{
	ErrorData  *error;

	if (!attempt(work, argument, &error, false))
		ReThrowError(error);
}

/*
 * pa_try_and_undo is pa_rehearse that stores an error, like pa_attempt.
 */
bool
pa_try_and_undo(PaWork work, void *argument, ErrorData **error)
{
	return attempt(work, argument, error, false);
}

/*
 * pa_try is pa_attempt for those who deal with any error that is about the work.  Cancel, shutdown,
 * serialization failure and deadlock are raised again.
 */
bool
pa_try(PaWork work, void *argument, ErrorData **error)
{
	bool		done = pa_attempt(work, argument, error);

	if (!done && pa_is_about_the_session(*error))
		ReThrowError(*error);

	return done;
}

/*
 * pa_is_about_a_row tells whether an error may be the fault of a single row (a constraint or trigger
 * that the user added, a value that an index cannot hold), so that the others should go on.
 */
bool
pa_is_about_a_row(ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_WITH_CHECK_OPTION_VIOLATION:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
		case ERRCODE_PLPGSQL_ERROR:
			return true;
		default:
			return false;
	}
}

/*
 * pa_forbid_read_only refuses to go on in a read-only transaction or on a standby.
 */
void
pa_forbid_read_only(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandDuringRecovery(function);
}

/*
 * pa_table finds one of the extension's tables by name.
 */
Oid
pa_table(const char *name)
{
	Oid			relation = get_relname_relid(name, get_namespace_oid(PA_SCHEMA, false));

	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table \"%s.%s\" does not exist", PA_SCHEMA, name),
				 errhint("Make the tables with: SELECT %s.create_tables();", PA_SCHEMA)));

	return relation;
}

/*
 * pa_owner tells who owns a relation.
 */
Oid
pa_owner(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relation)));

	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);

	return owner;
}
