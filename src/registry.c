/*
 * registry.c
 *		Keeping our registries in step with the tables that they name.
 *
 * Registries name tables and materialized views by text (see partition_policy.c).  Event triggers call us
 * after each statement that may have renamed one, a schema or a column, or dropped one.
 *
 * We must not stand in the way of other people's statements: where our tables are missing, and for
 * entries that make no sense, nothing is done.
 */
#include "prod_analytics.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "fmgr.h"
#include "guard.h"
#include "nodes/parsenodes.h"
#include "partition.h"
#include "query.h"
#include "refresh.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(pa_follow_renames);
PG_FUNCTION_INFO_V1(pa_follow_drops);

/* Where tables are named. */
typedef struct Registry
{
	const char *table;
	const char *column;			/* has the name of a table */
	const char *control;		/* has the name of a column of it; NULL: none does */
	const char *forget;			/* removes entries, once there is a WHERE */
	int			forgotten;		/* its result */
} Registry;

static const Registry registries[] = {
	{"partition_policies", "parent", "control",
	"DELETE FROM prod_analytics.partition_policies", SPI_OK_DELETE},
	{"registered_matviews", "matview", NULL,
	"DELETE FROM prod_analytics.registered_matviews", SPI_OK_DELETE},
	{"registered_matviews", "archive", NULL,
	"UPDATE prod_analytics.registered_matviews SET archive = NULL", SPI_OK_UPDATE},
};

/*
 * statement_relation is the table or materialized view that the statement was about.
 */
static Oid
statement_relation(void)
{
	bool		isnull;

	if (pa_query("SELECT objid FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass LIMIT 1",
				 NULL, SPI_OK_SELECT) == 0)
		return InvalidOid;

	return DatumGetObjectId(pa_result(0, 1, &isnull));
}

/*
 * is_entry tells whether a registry has an entry of that name.
 */
static bool
is_entry(const Registry *registry, const char *name)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(name));

	return pa_query(psprintf("SELECT FROM %s.%s WHERE %s = $1", PA_SCHEMA, registry->table, registry->column),
					&parameters, SPI_OK_SELECT) > 0;
}

/*
 * rename_entry gives an entry a new name.  An entry that has that name already is of a table that is
 * gone, or the new one could not have got it.
 */
static void
rename_entry(const Registry *registry, const char *old_name, const char *new_name)
{
	PaParameters parameters = {0};

	if (strcmp(old_name, new_name) == 0 || !is_entry(registry, old_name))
		return;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(old_name));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(new_name));
	pa_query(psprintf("%s WHERE %s = $2 AND $1 <> $2", registry->forget, registry->column),
			 &parameters, registry->forgotten);
	pa_query(psprintf("UPDATE %s.%s SET %s = $2 WHERE %s = $1", PA_SCHEMA, registry->table,
					  registry->column, registry->column),
			 &parameters, SPI_OK_UPDATE);
}

/*
 * follow_schema renames the entries of tables in a schema that was renamed.
 */
static void
follow_schema(const Registry *registry, const char *old_schema, const char *new_schema)
{
	uint64		found = pa_query(psprintf("SELECT %s FROM %s.%s WHERE %s IS NOT NULL", registry->column,
										  PA_SCHEMA, registry->table, registry->column),
								 NULL, SPI_OK_SELECT);
	List	   *entries = NIL;
	ListCell   *cell;

	for (uint64 i = 0; i < found; i++)
	{
		bool		isnull;

		entries = lappend(entries, TextDatumGetCString(pa_result(i, 1, &isnull)));
	}

	foreach(cell, entries)
	{
		char	   *schema;
		char	   *relation;

		if (pa_split_name(lfirst(cell), &schema, &relation) && strcmp(schema, old_schema) == 0)
			rename_entry(registry, lfirst(cell), quote_qualified_identifier(new_schema, relation));
	}
}

/*
 * follow_move renames the entry of a table that went to another schema.  A statement that does not say
 * from which meant the first on the search_path that had the table.
 */
static void
follow_move(const Registry *registry, RangeVar *table, List *search_path)
{
	Oid			relation = statement_relation();
	ListCell   *cell;

	if (!OidIsValid(relation))
		return;

	if (table->schemaname)
	{
		rename_entry(registry, quote_qualified_identifier(table->schemaname, table->relname), pa_relation_sql(relation));
		return;
	}

	foreach(cell, search_path)
	{
		char	   *schema = get_namespace_name(lfirst_oid(cell));
		const char *old_name = schema ? quote_qualified_identifier(schema, table->relname) : "";

		if (is_entry(registry, old_name) && !OidIsValid(pa_named_relation(old_name)))
		{
			rename_entry(registry, old_name, pa_relation_sql(relation));
			return;
		}
	}
}

/*
 * follow_column renames the column that an entry names.
 */
static void
follow_column(const Registry *registry, RenameStmt *statement)
{
	Oid			relation = registry->control ? statement_relation() : InvalidOid;
	PaParameters parameters = {0};

	if (!OidIsValid(relation))
		return;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(pa_relation_sql(relation)));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(statement->subname));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(statement->newname));
	pa_query(psprintf("UPDATE %s.%s SET %s = $3 WHERE %s = $1 AND %s = $2", PA_SCHEMA, registry->table,
					  registry->control, registry->column, registry->control),
			 &parameters, SPI_OK_UPDATE);
}

/*
 * follow_rename does what a RENAME asks for.
 */
static void
follow_rename(const Registry *registry, RenameStmt *statement)
{
	Oid			relation;

	switch (statement->renameType)
	{
		case OBJECT_SCHEMA:
			follow_schema(registry, statement->subname, statement->newname);
			break;
		case OBJECT_TABLE:
		case OBJECT_MATVIEW:
		case OBJECT_INDEX:
			/* ALTER INDEX renames tables, too. */
			relation = statement_relation();
			if (OidIsValid(relation))
				rename_entry(registry,
							 quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
														statement->relation->relname),
							 pa_relation_sql(relation));
			break;
		case OBJECT_COLUMN:
		case OBJECT_ATTRIBUTE:
			follow_column(registry, statement);
			break;
		default:
			break;
	}
}

/*
 * check_call refuses to be called by anything but an event.
 */
static void
check_call(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function is an event trigger")));
}

/*
 * enter_registry gets ready to change a registry, as its owner; false when there is none.
 */
static bool
enter_registry(const char *table, PaGuard *guard)
{
	Oid			registry = get_relname_relid(table, get_namespace_oid(PA_SCHEMA, true));

	if (!OidIsValid(registry))
		return false;

	pa_guard_enter(guard, pa_owner(registry));
	SPI_connect();

	return true;
}

static void
leave_registry(PaGuard *guard)
{
	SPI_finish();
	pa_guard_leave(guard);
}

/*
 * follow_renames() is the event trigger for ddl_command_end.
 */
Datum
pa_follow_renames(PG_FUNCTION_ARGS)
{
	List	   *search_path = fetch_search_path(false);
	Node	   *statement;

	check_call(fcinfo);
	statement = ((EventTriggerData *) fcinfo->context)->parsetree;

	for (int i = 0; i < (int) lengthof(registries); i++)
	{
		const Registry *registry = &registries[i];
		PaGuard		guard;

		if (!(IsA(statement, RenameStmt) || IsA(statement, AlterObjectSchemaStmt)) ||
			!enter_registry(registry->table, &guard))
			continue;

		if (IsA(statement, RenameStmt))
			follow_rename(registry, (RenameStmt *) statement);
		else if (((AlterObjectSchemaStmt *) statement)->objectType == OBJECT_TABLE ||
				 ((AlterObjectSchemaStmt *) statement)->objectType == OBJECT_MATVIEW)
			follow_move(registry, ((AlterObjectSchemaStmt *) statement)->relation, search_path);
		leave_registry(&guard);
	}

	PG_RETURN_NULL();
}

/*
 * forget_policies removes the policies of dropped tables.
 */
static void
forget_policies(void)
{
	PaGuard		guard;

	if (!enter_registry("partition_policies", &guard))
		return;

	pa_query("DELETE FROM prod_analytics.partition_policies p USING pg_event_trigger_dropped_objects() d"
			 " WHERE d.object_type = 'table' AND p.parent = format('%I.%I', d.schema_name, d.object_name)",
			 NULL, SPI_OK_DELETE);
	leave_registry(&guard);
}

/*
 * forget_archives takes archives that were dropped away from their views.
 */
static void
forget_archives(void)
{
	uint64		found;

	found = pa_query("UPDATE prod_analytics.registered_matviews r SET archive = NULL"
					 " FROM (SELECT format('%I.%I', schema_name, object_name) AS name"
					 " FROM pg_event_trigger_dropped_objects() WHERE object_type = 'table') d"
					 " WHERE r.archive = d.name RETURNING d.name, r.matview",
					 NULL, SPI_OK_UPDATE_RETURNING);
	for (uint64 i = 0; i < found; i++)
	{
		bool		isnull;

		ereport(WARNING,
				(errmsg("materialized view %s has no archive any more",
						TextDatumGetCString(pa_result(i, 2, &isnull))),
				 errdetail("Table %s is dropped.", TextDatumGetCString(pa_result(i, 1, &isnull))),
				 errhint("Give it another one with %s.enable_incremental_refresh(), or its rows go with their partitions.",
						 PA_SCHEMA)));
	}
}

/*
 * forget_matviews removes what is kept about dropped materialized views.
 */
static void
forget_matviews(void)
{
	PaGuard		guard;

	if (!enter_registry("registered_matviews", &guard))
		return;

	if (pa_query("DELETE FROM prod_analytics.registered_matviews r USING pg_event_trigger_dropped_objects() d"
				 " WHERE d.object_type = 'materialized view' AND r.matview = format('%I.%I', d.schema_name, d.object_name)",
				 NULL, SPI_OK_DELETE) > 0)
	{
		pa_forget_unregistered();
		pa_drop_idle_captures();
	}
	forget_archives();
	leave_registry(&guard);
}

/*
 * follow_drops() is the event trigger for sql_drop: the entry of a table or materialized view goes with it.
 */
Datum
pa_follow_drops(PG_FUNCTION_ARGS)
{
	check_call(fcinfo);
	forget_policies();
	forget_matviews();

	PG_RETURN_NULL();
}
