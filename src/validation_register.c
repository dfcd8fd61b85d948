/*
 * validation_register.c
 *		Registering schemas for event types.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "guard.h"
#include "query.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "validation_event.h"

PG_FUNCTION_INFO_V1(pa_register_event_schema);
PG_FUNCTION_INFO_V1(pa_event_schemas_changed);

/*
 * check_schema raises an error when a document is not a schema for events.
 */
static void
check_schema(Jsonb *schema)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "JSON Schema", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller_context = MemoryContextSwitchTo(context);
	PaSchemaProblem problem;

	(void) pa_compile_schema(schema, true, &problem);
	MemoryContextSwitchTo(caller_context);
	if (problem.path)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid JSON Schema at \"%s\": %s", problem.path, problem.message)));

	MemoryContextDelete(context);
}

/*
 * mode_name is the name of a mode.
 */
static const char *
mode_name(PaMode mode)
{
	return mode == PA_MODE_ENFORCE ? "enforce" : (mode == PA_MODE_WARN ? "warn" : "off");
}

/*
 * is_registered tells whether the newest version is this very schema in this very mode.
 */
static bool
is_registered(const PaEventSchema *newest, Jsonb *schema, const char *mode)
{
	return strcmp(mode_name(newest->mode), mode) == 0 && VARSIZE(newest->source) == VARSIZE(schema) &&
		memcmp(newest->source, schema, VARSIZE(schema)) == 0;
}

/*
 * register_schema adds a version, unless the newest one says the same, and returns its number.  The
 * lock lets one session at a time count; readers do not wait for it.
 */
static int32
register_schema(text *event_type, Jsonb *schema, const char *mode)
{
	PaName		name = {VARDATA_ANY(event_type), VARSIZE_ANY_EXHDR(event_type)};
	PaParameters parameters = {0};
	PaEventSchema *newest;
	int32		version = 1;

	pa_query("LOCK TABLE prod_analytics.event_schemas IN SHARE ROW EXCLUSIVE MODE", NULL, SPI_OK_UTILITY);
	newest = pa_peek_event_schema(name);
	if (newest && is_registered(newest, schema, mode))
		return newest->version;
	if (newest)
		version = newest->version + 1;

	pa_add_parameter(&parameters, TEXTOID, PointerGetDatum(event_type));
	pa_add_parameter(&parameters, INT4OID, Int32GetDatum(version));
	pa_add_parameter(&parameters, JSONBOID, JsonbPGetDatum(schema));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(mode));
	pa_query("INSERT INTO prod_analytics.event_schemas (event_type, version, schema, mode) VALUES ($1, $2, $3, $4)",
			 &parameters, SPI_OK_INSERT);

	return version;
}

/*
 * check_arguments refuses what cannot be registered, before anything is locked.
 */
static void
check_arguments(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {"event_type", "schema", "mode"};
	char	   *mode;

	for (int i = 0; i < (int) lengthof(names); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s is NULL", names[i])));

	if (VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(0)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event_type is empty")));

	mode = text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (strcmp(mode, "enforce") != 0 && strcmp(mode, "warn") != 0 && strcmp(mode, "off") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown mode \"%s\"", mode),
				 errhint("The modes are enforce, warn and off.")));
}

/*
 * register_event_schema(event_type text, schema jsonb, mode text) registers the schema that events of a
 * type are to satisfy from now on, and returns its version.
 */
Datum
pa_register_event_schema(PG_FUNCTION_ARGS)
{
	Oid			table;
	PaGuard		guard;
	int32		version;

	pa_forbid_read_only("register_event_schema()");
	check_arguments(fcinfo);
	check_schema(PG_GETARG_JSONB_P(1));

	table = pa_table("event_schemas");
	pa_guard_enter(&guard, pa_owner(table));
	SPI_connect();
	version = register_schema(PG_GETARG_TEXT_PP(0), PG_GETARG_JSONB_P(1), text_to_cstring(PG_GETARG_TEXT_PP(2)));
	SPI_finish();
	CacheInvalidateRelcacheByRelid(table);
	pa_guard_leave(&guard);

	PG_RETURN_INT32(version);
}

/*
 * new_schema is the schema of the row that a trigger fires for.
 */
static Jsonb *
new_schema(TriggerData *trigger)
{
	HeapTuple	row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple;
	TupleDesc	descriptor = RelationGetDescr(trigger->tg_relation);
	int			number = SPI_fnumber(descriptor, "schema");
	bool		isnull = true;
	Datum		schema = (Datum) 0;

	if (number > 0 && SPI_gettypeid(descriptor, number) == JSONBOID)
		schema = heap_getattr(row, number, descriptor, &isnull);

	return isnull ? NULL : DatumGetJsonbP(schema);
}

/*
 * event_schemas_changed() is the trigger on event_schemas: it checks what others than
 * register_event_schema() write there, and lets all sessions know.
 */
Datum
pa_event_schemas_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("event_schemas_changed() is a trigger of \"%s.event_schemas\", after a change", PA_SCHEMA)));

	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event) || TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		Jsonb	   *schema = TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ? new_schema(trigger) : NULL;

		if (schema)
			check_schema(schema);
	}
	CacheInvalidateRelcache(trigger->tg_relation);

	PG_RETURN_POINTER(NULL);
}
