/*
 * registry.c
 *		Keeping the names in our registries in step with the tables that they mean.
 *
 * Registries name tables by text (see partition_policy.c).  An event trigger calls us after each
 * statement that may have renamed a table or a schema; entries that no longer name a table and match
 * the old name get the new one.
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
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(pa_follow_renames);

/* What a statement renamed; NULL matches any name. */
typedef struct Renaming
{
	const char *old_schema;
	const char *old_name;
	Oid			relation;		/* the table under its new name; InvalidOid: a schema was renamed */
	const char *new_schema;
} Renaming;

/*
 * renamed_relation is the table that the statement was about.
 */
static Oid
renamed_relation(void)
{
	bool		isnull;

	if (pa_query("SELECT objid FROM pg_event_trigger_ddl_commands()"
				 " WHERE classid = 'pg_class'::regclass AND objsubid = 0 LIMIT 1",
				 NULL, SPI_OK_SELECT) == 0)
		return InvalidOid;

	return DatumGetObjectId(pa_result(0, 1, &isnull));
}

/*
 * read_renaming finds out what a statement renamed; false when it was nothing that registries name.
 */
static bool
read_renaming(Node *statement, Renaming *renaming)
{
	memset(renaming, 0, sizeof(*renaming));

	if (IsA(statement, RenameStmt) && ((RenameStmt *) statement)->renameType == OBJECT_SCHEMA)
	{
		renaming->old_schema = ((RenameStmt *) statement)->subname;
		renaming->new_schema = ((RenameStmt *) statement)->newname;
		return true;
	}

	if (IsA(statement, RenameStmt) && ((RenameStmt *) statement)->renameType == OBJECT_TABLE)
	{
		renaming->relation = renamed_relation();
		if (OidIsValid(renaming->relation))
			renaming->old_schema = get_namespace_name(get_rel_namespace(renaming->relation));
		renaming->old_name = ((RenameStmt *) statement)->relation->relname;
		return OidIsValid(renaming->relation);
	}

	if (IsA(statement, AlterObjectSchemaStmt) &&
		((AlterObjectSchemaStmt *) statement)->objectType == OBJECT_TABLE)
	{
		RangeVar   *table = ((AlterObjectSchemaStmt *) statement)->relation;

		renaming->relation = renamed_relation();
		renaming->old_schema = table->schemaname;
		renaming->old_name = table->relname;
		return OidIsValid(renaming->relation);
	}

	return false;
}

/*
 * new_name is what an entry should be called now; NULL when the renaming does not concern it.
 */
static char *
new_name(Renaming *renaming, const char *entry)
{
	List	   *names = textToQualifiedNameList(cstring_to_text(entry));
	char	   *schema;
	char	   *name;

	if (list_length(names) != 2 || OidIsValid(pa_named_relation(entry)))
		return NULL;

	schema = strVal(linitial(names));
	name = strVal(lsecond(names));
	if ((renaming->old_schema && strcmp(renaming->old_schema, schema) != 0) ||
		(renaming->old_name && strcmp(renaming->old_name, name) != 0))
		return NULL;

	return OidIsValid(renaming->relation) ? pa_relation_sql(renaming->relation) :
		quote_qualified_identifier(renaming->new_schema, name);
}

/*
 * follow_in corrects the entries of a registry.
 */
static void
follow_in(Renaming *renaming, const char *registry, const char *column)
{
	uint64		found = pa_query(psprintf("SELECT %s FROM %s.%s", column, PA_SCHEMA, registry),
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
		char	   *name = new_name(renaming, lfirst(cell));
		PaParameters parameters = {0};

		if (name == NULL)
			continue;
		pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(lfirst(cell)));
		pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(name));
		pa_query(psprintf("UPDATE %s.%s SET %s = $2 WHERE %s = $1", PA_SCHEMA, registry, column, column),
				 &parameters, SPI_OK_UPDATE);
	}
}

/*
 * follow_renames() is the event trigger.  Where our tables are missing it does nothing: it must not
 * stand in the way of other people's statements.
 */
Datum
pa_follow_renames(PG_FUNCTION_ARGS)
{
	Oid			registry = get_relname_relid("partition_policies", get_namespace_oid(PA_SCHEMA, true));
	Renaming	renaming;
	PaGuard		guard;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("follow_renames() is an event trigger")));

	if (!OidIsValid(registry))
		PG_RETURN_NULL();

	pa_guard_enter(&guard, pa_owner(registry));
	SPI_connect();
	if (read_renaming(((EventTriggerData *) fcinfo->context)->parsetree, &renaming))
		follow_in(&renaming, "partition_policies", "parent");
	SPI_finish();
	pa_guard_leave(&guard);

	PG_RETURN_NULL();
}
