/*
 * refresh_trigger.c
 *		The triggers on tables that materialized views read.
 *
 * A table that at least one incremental view reads has one trigger that calls capture_changes(), and PostgreSQL
 * gives each of its partitions a clone.  They are known by the function, so that they can be renamed.  All fire
 * always: changes that come by replication count like others.
 *
 * The caller is connected to SPI and inside a guard.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "guard.h"
#include "miscadmin.h"
#include "partition.h"
#include "query.h"
#include "refresh.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* A trigger that may have nobody who needs it, and the table that has it. */
typedef struct IdleTrigger
{
	Oid			table;
	char	   *name;
} IdleTrigger;

/*
 * pa_capture_function finds capture_changes(); InvalidOid when it does not exist.
 *
 * Who owns a view need not be allowed to look into our schema.
 */
Oid
pa_capture_function(void)
{
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("capture_changes"),
						   PointerGetDatum(buildoidvector(NULL, 0)),
						   ObjectIdGetDatum(get_namespace_oid(PA_SCHEMA, false)));
}

/*
 * own_capture is the name of the capture trigger that was made for a table, rather than cloned from
 * that of a table whose partition it is; NULL when it has none.
 */
static char *
own_capture(Oid table)
{
	Relation	relation = table_open(table, AccessShareLock);
	TriggerDesc *triggers = relation->trigdesc;
	Oid			function = pa_capture_function();
	char	   *name = NULL;

	for (int i = 0; triggers && i < triggers->numtriggers && name == NULL; i++)
		if (triggers->triggers[i].tgfoid == function && !triggers->triggers[i].tgisclone)
			name = pstrdup(triggers->triggers[i].tgname);
	table_close(relation, AccessShareLock);

	return name;
}

/*
 * has_capture tells whether a table has a capture trigger, be it a clone.
 */
static bool
has_capture(Oid table)
{
	Relation	relation = table_open(table, AccessShareLock);
	TriggerDesc *triggers = relation->trigdesc;
	Oid			function = pa_capture_function();
	bool		found = false;

	for (int i = 0; triggers && i < triggers->numtriggers && !found; i++)
		found = (triggers->triggers[i].tgfoid == function);
	table_close(relation, AccessShareLock);

	return found;
}

/*
 * weak_captures lists the names of those capture triggers of a table that do not fire always: they were
 * disabled, or ENABLE TRIGGER ALL has made them not fire for what is replicated.
 */
static List *
weak_captures(Oid table)
{
	Relation	relation = table_open(table, AccessShareLock);
	TriggerDesc *triggers = relation->trigdesc;
	Oid			function = pa_capture_function();
	List	   *names = NIL;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
		if (triggers->triggers[i].tgfoid == function && triggers->triggers[i].tgenabled != TRIGGER_FIRES_ALWAYS)
			names = lappend(names, pstrdup(triggers->triggers[i].tgname));
	table_close(relation, AccessShareLock);

	return names;
}

/*
 * pa_is_captured tells whether the triggers on a table and its partitions are as they should be.
 */
bool
pa_is_captured(Oid source)
{
	ListCell   *table;

	if (own_capture(source) == NULL)
		return false;
	foreach(table, find_all_inheritors(source, AccessShareLock, NULL))
		if (weak_captures(lfirst_oid(table)) != NIL)
			return false;

	return true;
}

/*
 * grant gives a privilege as the owner of what it is on, which the last query has found to be missing.
 */
static void
grant(Oid owner, const char *privilege, Oid grantee)
{
	PaGuard		guard;

	pa_guard_enter(&guard, owner);
	pa_query(psprintf("GRANT %s TO %s", privilege, quote_identifier(GetUserNameFromId(grantee, false))),
			 NULL, SPI_OK_UTILITY);
	pa_guard_leave(&guard);
}

/*
 * let_use_function makes sure that the owner of a table may make a trigger that calls capture_changes().
 *
 * The privileges are ordinary ones that a dump has, so that restoring one as the owner works as well.
 */
static void
let_use_function(Oid role)
{
	PaParameters parameters = {0};
	bool		isnull;
	bool		may_use;
	bool		may_execute;
	Oid			schema_owner;
	Oid			function_owner;

	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(role));
	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(pa_capture_function()));
	if (pa_query("SELECT has_schema_privilege($1, n.oid, 'USAGE'), has_function_privilege($1, p.oid, 'EXECUTE'),"
				 " n.nspowner, p.proowner FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = $2",
				 &parameters, SPI_OK_SELECT) != 1)
		elog(ERROR, "function capture_changes() does not exist");

	may_use = DatumGetBool(pa_result(0, 1, &isnull));
	may_execute = DatumGetBool(pa_result(0, 2, &isnull));
	schema_owner = DatumGetObjectId(pa_result(0, 3, &isnull));
	function_owner = DatumGetObjectId(pa_result(0, 4, &isnull));
	if (!may_use)
		grant(schema_owner, "USAGE ON SCHEMA " PA_SCHEMA, role);
	if (!may_execute)
		grant(function_owner, "EXECUTE ON FUNCTION " PA_SCHEMA ".capture_changes()", role);
}

/*
 * check_partitions refuses a partition of another role that takes no trigger of the current one.  PostgreSQL would only
 * say that permission is denied.
 */
static void
check_partitions(Oid source)
{
	ListCell   *cell;

	foreach(cell, find_all_inheritors(source, AccessShareLock, NULL))
	{
		Oid			table = lfirst_oid(cell);
		char	   *name = pa_relation_sql(table);
		const char *role = quote_identifier(GetUserNameFromId(GetUserId(), false));

		if (pg_class_aclcheck(table, GetUserId(), ACL_TRIGGER) == ACLCHECK_OK)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("partition %s belongs to another role, \"%s\"", name, GetUserNameFromId(pa_owner(table), false)),
				 errdetail("Its changes are noted by a trigger, which the owner of %s may not make there.", pa_relation_sql(source)),
				 errhint("ALTER TABLE %s OWNER TO %s; or: GRANT TRIGGER ON %s TO %s;", name, role, name, role)));
	}
}

/*
 * create_capture makes the trigger of a table that has none.
 */
static void
create_capture(Oid source, int32 matview_id)
{
	char	   *table = pa_relation_sql(source);
	char	   *name = psprintf("prod_analytics_capture_%d", matview_id);

	let_use_function(GetUserId());
	pa_query(psprintf("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s"
					  " FOR EACH ROW EXECUTE FUNCTION prod_analytics.capture_changes()", name, table),
			 NULL, SPI_OK_UTILITY);
	pa_query(psprintf("COMMENT ON TRIGGER %s ON %s IS"
					  " 'notes which groups of materialized views change (prod_analytics.registered_matviews)'",
					  name, table),
			 NULL, SPI_OK_UTILITY);
}

/*
 * make_strong lets the capture triggers of a table fire always, as its owner: that of a partition may be
 * another one.
 */
static void
make_strong(Oid table)
{
	PaGuard		guard;
	ListCell   *name;

	pa_guard_enter(&guard, pa_owner(table));
	foreach(name, weak_captures(table))
		pa_query(psprintf("ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %s",
						  pa_relation_sql(table), quote_identifier(lfirst(name))),
				 NULL, SPI_OK_UTILITY);
	pa_guard_leave(&guard);
}

/*
 * pa_let_capture makes sure that the owner of a table may give its capture trigger to a partition, which attaching one
 * does: when the trigger was made, the table may have had another owner.
 */
void
pa_let_capture(Oid table)
{
	if (has_capture(table))
		let_use_function(pa_owner(table));
}

/*
 * pa_make_capture makes the triggers on a table and its partitions as they should be, as the table's owner;
 * matview_id is that of a view that reads it.
 *
 * Writers are waited for, and kept out until the transaction ends: one that has begun without knowing of the
 * view does not note what it changes.
 */
void
pa_make_capture(Oid source, int32 matview_id)
{
	ListCell   *table;

	if (own_capture(source) == NULL)
		check_partitions(source);
	pa_lock_writers_out(source);
	if (own_capture(source) == NULL)
		create_capture(source, matview_id);
	foreach(table, find_all_inheritors(source, AccessShareLock, NULL))
		make_strong(lfirst_oid(table));
}

/*
 * has_reader tells whether a registered incremental view reads a table, as of this moment also in a
 * transaction whose snapshot is older.
 */
static bool
has_reader(Oid source)
{
	MemoryContext caller_context = CurrentMemoryContext;
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(source)};
	PaGuard		guard;

	pa_guard_enter(&guard, pa_owner(pa_table("registered_matviews")));
	PushActiveSnapshot(GetLatestSnapshot());
	if (SPI_execute_with_args("SELECT FROM prod_analytics.registered_matviews r"
							  " JOIN pg_class c ON c.relkind = 'm'"
							  " JOIN pg_namespace n ON n.oid = c.relnamespace AND format('%I.%I', n.nspname, c.relname) = r.matview"
							  " JOIN pg_rewrite w ON w.ev_class = c.oid"
							  " JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid"
							  " AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1"
							  " WHERE r.mode = 'incremental'",
							  1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the registry of materialized views");
	MemoryContextSwitchTo(caller_context);
	PopActiveSnapshot();
	pa_guard_leave(&guard);

	return SPI_processed > 0;
}

/*
 * drop_idle is the work of dropping an IdleTrigger, as the owner of its table.  While the lock was waited for,
 * a view that needs it may have been registered.
 */
static void
drop_idle(void *argument)
{
	IdleTrigger *trigger = argument;
	PaGuard		guard;

	pa_guard_enter(&guard, pa_owner(trigger->table));
	pa_lock_everybody_out(trigger->table);
	if (!has_reader(trigger->table))
		pa_query(psprintf("DROP TRIGGER %s ON %s", quote_identifier(trigger->name), pa_relation_sql(trigger->table)),
				 NULL, SPI_OK_UTILITY);
	pa_guard_leave(&guard);
}

/*
 * captures lists the capture triggers that are no clones, as IdleTriggers.
 */
static List *
captures(void)
{
	PaParameters parameters = {0};
	List	   *triggers = NIL;
	uint64		found;
	bool		isnull;

	pa_add_parameter(&parameters, OIDOID, ObjectIdGetDatum(pa_capture_function()));
	found = pa_query("SELECT t.tgrelid, t.tgname FROM pg_depend d JOIN pg_trigger t ON t.oid = d.objid"
					 " WHERE d.classid = 'pg_trigger'::regclass AND d.refclassid = 'pg_proc'::regclass"
					 " AND d.refobjid = $1 AND t.tgparentid = 0 ORDER BY t.tgrelid, t.tgname",
					 &parameters, SPI_OK_SELECT);
	for (uint64 i = 0; i < found; i++)
	{
		IdleTrigger *trigger = palloc(sizeof(IdleTrigger));

		trigger->table = DatumGetObjectId(pa_result(i, 1, &isnull));
		trigger->name = pstrdup(NameStr(*DatumGetName(pa_result(i, 2, &isnull))));
		triggers = lappend(triggers, trigger);
	}

	return triggers;
}

/*
 * pa_drop_idle_captures drops the capture triggers that no view needs any more.
 *
 * One that cannot be dropped now does nothing but cost a little, so it stands in nobody's way.
 */
void
pa_drop_idle_captures(void)
{
	ListCell   *cell;

	foreach(cell, captures())
	{
		IdleTrigger *trigger = lfirst(cell);
		ErrorData  *error;

		if (has_reader(trigger->table) || get_rel_name(trigger->table) == NULL ||
			pa_try(drop_idle, trigger, &error))
			continue;
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("trigger \"%s\", which nothing needs any more, was left: %s", trigger->name, error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 errhint("It does nothing.  Drop it some time with: DROP TRIGGER %s ON %s;",
						 quote_identifier(trigger->name), pa_relation_sql(trigger->table))));
	}
}
