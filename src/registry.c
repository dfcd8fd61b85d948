/*
 * registry.c
 *		Keeping our registries in step with the tables that they name.
 *
 * Registries name tables by text (see partition_policy.c).  Event triggers call us after each statement
 * that may have renamed a table, a schema or a column, or dropped a table.
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
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(pa_follow_renames);
PG_FUNCTION_INFO_V1(pa_follow_drops);

/*
 * statement_relation is the table that the statement was about.
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
 * is_entry tells whether the registry has an entry of that name.
 */
static bool
is_entry(const char *name)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(name));

	return pa_query("SELECT FROM prod_analytics.partition_policies WHERE parent = $1", &parameters, SPI_OK_SELECT) > 0;
}

/*
 * rename_entry gives an entry a new name.  An entry that has that name already is of a table that is
 * gone, or the new one could not have got it.
 */
static void
rename_entry(const char *old_name, const char *new_name)
{
	PaParameters parameters = {0};

	if (strcmp(old_name, new_name) == 0 || !is_entry(old_name))
		return;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(old_name));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(new_name));
	pa_query("DELETE FROM prod_analytics.partition_policies WHERE parent = $2 AND $1 <> $2", &parameters, SPI_OK_DELETE);
	pa_query("UPDATE prod_analytics.partition_policies SET parent = $2 WHERE parent = $1", &parameters, SPI_OK_UPDATE);
}

/*
 * follow_schema renames the entries of tables in a schema that was renamed.
 */
static void
follow_schema(const char *old_schema, const char *new_schema)
{
	uint64		found = pa_query("SELECT parent FROM prod_analytics.partition_policies", NULL, SPI_OK_SELECT);
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
			rename_entry(lfirst(cell), quote_qualified_identifier(new_schema, relation));
	}
}

/*
 * follow_move renames the entry of a table that went to another schema.  A statement that does not say
 * from which meant the first on the search_path that had the table.
 */
static void
follow_move(RangeVar *table, List *search_path)
{
	Oid			relation = statement_relation();
	ListCell   *cell;

	if (!OidIsValid(relation))
		return;

	if (table->schemaname)
	{
		rename_entry(quote_qualified_identifier(table->schemaname, table->relname), pa_relation_sql(relation));
		return;
	}

	foreach(cell, search_path)
	{
		char	   *schema = get_namespace_name(lfirst_oid(cell));
		const char *old_name = schema ? quote_qualified_identifier(schema, table->relname) : "";

		if (is_entry(old_name) && !OidIsValid(pa_named_relation(old_name)))
		{
			rename_entry(old_name, pa_relation_sql(relation));
			return;
		}
	}
}

/*
 * follow_column renames the column that a policy names.
 */
static void
follow_column(RenameStmt *statement)
{
	Oid			relation = statement_relation();
	PaParameters parameters = {0};

	if (!OidIsValid(relation))
		return;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(pa_relation_sql(relation)));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(statement->subname));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(statement->newname));
	pa_query("UPDATE prod_analytics.partition_policies SET control = $3 WHERE parent = $1 AND control = $2",
			 &parameters, SPI_OK_UPDATE);
}

/*
 * follow_rename does what a RENAME asks for.
 */
static void
follow_rename(RenameStmt *statement)
{
	Oid			relation;

	switch (statement->renameType)
	{
		case OBJECT_SCHEMA:
			follow_schema(statement->subname, statement->newname);
			break;
		case OBJECT_TABLE:
			relation = statement_relation();
			if (OidIsValid(relation))
				rename_entry(quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
														statement->relation->relname),
							 pa_relation_sql(relation));
			break;
		case OBJECT_COLUMN:
			follow_column(statement);
			break;
		default:
			break;
	}
}

/*
 * enter_registry gets ready to change the registry, as its owner; false when there is none.
 */
static bool
enter_registry(FunctionCallInfo fcinfo, PaGuard *guard)
{
	Oid			registry = get_relname_relid("partition_policies", get_namespace_oid(PA_SCHEMA, true));

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function is an event trigger")));

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
	PaGuard		guard;
	Node	   *statement;

	if (!enter_registry(fcinfo, &guard))
		PG_RETURN_NULL();

	statement = ((EventTriggerData *) fcinfo->context)->parsetree;
	if (IsA(statement, RenameStmt))
		follow_rename((RenameStmt *) statement);
	else if (IsA(statement, AlterObjectSchemaStmt) &&
			 ((AlterObjectSchemaStmt *) statement)->objectType == OBJECT_TABLE)
		follow_move(((AlterObjectSchemaStmt *) statement)->relation, search_path);

	leave_registry(&guard);

	PG_RETURN_NULL();
}

/*
 * follow_drops() is the event trigger for sql_drop: the policy of a table goes with it.
 */
Datum
pa_follow_drops(PG_FUNCTION_ARGS)
{
	PaGuard		guard;

	if (!enter_registry(fcinfo, &guard))
		PG_RETURN_NULL();

	pa_query("DELETE FROM prod_analytics.partition_policies p USING pg_event_trigger_dropped_objects() d"
			 " WHERE d.object_type = 'table' AND p.parent = format('%I.%I', d.schema_name, d.object_name)",
			 NULL, SPI_OK_DELETE);
	leave_registry(&guard);

	PG_RETURN_NULL();
}
