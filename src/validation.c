/*
 * validation.c
 *		The SQL functions of JSON Schema validation.
 *
 * A schema is compiled once for each place in a query that calls one of the functions, and again when
 * another schema comes along.  Those that are registered for event types are compiled once a session
 * (validation_event.c).
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "validation_event.h"

PG_FUNCTION_INFO_V1(pa_jsonb_matches_schema);
PG_FUNCTION_INFO_V1(pa_jsonschema_is_valid);
PG_FUNCTION_INFO_V1(pa_jsonschema_validation_errors);
PG_FUNCTION_INFO_V1(pa_is_valid_event);
PG_FUNCTION_INFO_V1(pa_is_valid_purchase_event);
PG_FUNCTION_INFO_V1(pa_validate_event);
PG_FUNCTION_INFO_V1(pa_validate_purchase_event);
PG_FUNCTION_INFO_V1(pa_enforce_event_schema);

/* How many errors the message of a refused event tells. */
#define TOLD_ERRORS 5

/* The schema that a call site used last. */
typedef struct CallSite
{
	MemoryContext schema_context;
	MemoryContext work_context; /* reset after each document */
	Jsonb	   *source;
	PaSchema   *schema;
} CallSite;

/*
 * call_site is what a call site remembers.
 */
static CallSite *
call_site(FunctionCallInfo fcinfo)
{
	CallSite   *site = fcinfo->flinfo->fn_extra;

	if (site == NULL)
	{
		site = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(CallSite));
		site->schema_context = AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "compiled JSON Schema", ALLOCSET_DEFAULT_SIZES);
		site->work_context = AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "JSON Schema validation", ALLOCSET_DEFAULT_SIZES);
		fcinfo->flinfo->fn_extra = site;
	}

	return site;
}

/*
 * compiled is the compiled form of a schema.
 */
static PaSchema *
compiled(CallSite *site, Jsonb *schema)
{
	PaSchemaProblem problem;
	MemoryContext caller_context;

	if (site->schema && VARSIZE(site->source) == VARSIZE(schema) &&
		memcmp(site->source, schema, VARSIZE(schema)) == 0)
		return site->schema;

	site->schema = NULL;
	MemoryContextReset(site->schema_context);
	caller_context = MemoryContextSwitchTo(site->schema_context);
	site->source = palloc(VARSIZE(schema));
	memcpy(site->source, schema, VARSIZE(schema));
	site->schema = pa_compile_schema(site->source, false, &problem);
	MemoryContextSwitchTo(caller_context);

	if (site->schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid JSON Schema at \"%s\": %s", problem.path, problem.message)));

	return site->schema;
}

/*
 * jsonb_matches_schema(schema jsonb, instance jsonb) tells whether a document satisfies a schema.
 */
Datum
pa_jsonb_matches_schema(PG_FUNCTION_ARGS)
{
	CallSite   *site = call_site(fcinfo);
	PaSchema   *schema = compiled(site, PG_GETARG_JSONB_P(0));
	Jsonb	   *instance = PG_GETARG_JSONB_P(1);
	MemoryContext caller_context = MemoryContextSwitchTo(site->work_context);
	bool		result = pa_matches(schema, instance);

	MemoryContextSwitchTo(caller_context);
	MemoryContextReset(site->work_context);

	PG_RETURN_BOOL(result);
}

/*
 * jsonschema_is_valid(schema jsonb) tells whether a document is a schema that we can compile.
 */
Datum
pa_jsonschema_is_valid(PG_FUNCTION_ARGS)
{
	Jsonb	   *schema = PG_GETARG_JSONB_P(0);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "JSON Schema", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller_context = MemoryContextSwitchTo(context);
	PaSchemaProblem problem;

	(void) pa_compile_schema(schema, false, &problem);
	MemoryContextSwitchTo(caller_context);
	MemoryContextDelete(context);

	PG_RETURN_BOOL(problem.path == NULL);
}

/*
 * put_error adds a row to the function's result.
 */
static void
put_error(ReturnSetInfo *result, PaValidationError *error)
{
	Datum		values[4];
	bool		nulls[4] = {0};

	values[0] = CStringGetTextDatum(error->instance_path);
	values[1] = CStringGetTextDatum(error->keyword);
	values[2] = CStringGetTextDatum(error->schema_path);
	values[3] = CStringGetTextDatum(error->message);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * put_errors makes a document's errors the function's result.
 */
static void
put_errors(FunctionCallInfo fcinfo, MemoryContext work_context, PaSchema *schema, Jsonb *instance)
{
	MemoryContext caller_context;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	caller_context = MemoryContextSwitchTo(work_context);
	foreach(cell, pa_validation_errors(schema, instance))
		put_error((ReturnSetInfo *) fcinfo->resultinfo, lfirst(cell));
	MemoryContextSwitchTo(caller_context);
	MemoryContextReset(work_context);
}

/*
 * jsonschema_validation_errors(schema jsonb, instance jsonb) lists what is wrong with a document.
 */
Datum
pa_jsonschema_validation_errors(PG_FUNCTION_ARGS)
{
	CallSite   *site = call_site(fcinfo);
	PaSchema   *schema = compiled(site, PG_GETARG_JSONB_P(0));

	put_errors(fcinfo, site->work_context, schema, PG_GETARG_JSONB_P(1));

	PG_RETURN_NULL();
}

/* The type of event that a call site asked for last, and its schema. */
typedef struct EventSite
{
	MemoryContext work_context; /* reset after each document */
	uint64		generation;		/* 0: none yet */
	PaName		event_type;
	PaEventSchema *found;		/* NULL: there is none */
	Jsonb	   *no_properties;
} EventSite;

/*
 * event_site is what a call site remembers.
 */
static EventSite *
event_site(FunctionCallInfo fcinfo)
{
	EventSite  *site = fcinfo->flinfo->fn_extra;
	MemoryContext caller_context;

	if (site)
		return site;

	caller_context = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	site = palloc0(sizeof(EventSite));
	site->work_context = AllocSetContextCreate(CurrentMemoryContext, "event validation", ALLOCSET_DEFAULT_SIZES);
	site->no_properties = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	MemoryContextSwitchTo(caller_context);
	fcinfo->flinfo->fn_extra = site;

	return site;
}

/*
 * schema_of is the schema for events of a type; NULL when there is none.
 */
static PaEventSchema *
schema_of(FunctionCallInfo fcinfo, EventSite *site, PaName event_type)
{
	pa_notice_event_schemas();
	if (site->generation == pa_event_schemas_generation && pa_compare_names(site->event_type, event_type) == 0)
		return site->found;

	site->generation = 0;
	site->found = pa_find_event_schema(event_type);
	if (site->event_type.text)
		pfree(unconstify(char *, site->event_type.text));
	site->event_type.text = memcpy(MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, event_type.length + 1),
								   event_type.text, event_type.length);
	site->event_type.length = event_type.length;
	site->generation = pa_event_schemas_generation;

	return site->found;
}

/*
 * is_valid tells whether an event satisfies the schema of its type, if there is one.
 */
static bool
is_valid(EventSite *site, PaEventSchema *found, Jsonb *properties)
{
	MemoryContext caller_context;
	bool		result;

	if (found == NULL)
		return true;

	caller_context = MemoryContextSwitchTo(site->work_context);
	result = pa_matches(found->schema, properties);
	MemoryContextSwitchTo(caller_context);
	MemoryContextReset(site->work_context);

	return result;
}

/*
 * event_properties is an argument of type jsonb; an event without properties is one with {}.
 */
static Jsonb *
event_properties(FunctionCallInfo fcinfo, EventSite *site, int argument)
{
	return PG_ARGISNULL(argument) ? site->no_properties : PG_GETARG_JSONB_P(argument);
}

/*
 * event_type_name is an argument of type text.
 */
static PaName
event_type_name(text *event_type)
{
	PaName		name = {VARDATA_ANY(event_type), VARSIZE_ANY_EXHDR(event_type)};

	return name;
}

/* The type of event that has functions of its own. */
static const PaName purchase = {"purchase", 8};

/*
 * is_valid_event(event_type text, event_props jsonb) tells whether an event satisfies the schema that
 * is registered for its type.
 */
Datum
pa_is_valid_event(PG_FUNCTION_ARGS)
{
	EventSite  *site = event_site(fcinfo);

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();

	PG_RETURN_BOOL(is_valid(site, schema_of(fcinfo, site, event_type_name(PG_GETARG_TEXT_PP(0))),
							event_properties(fcinfo, site, 1)));
}

/*
 * is_valid_purchase_event(event_props jsonb) is is_valid_event for purchases.
 */
Datum
pa_is_valid_purchase_event(PG_FUNCTION_ARGS)
{
	EventSite  *site = event_site(fcinfo);

	PG_RETURN_BOOL(is_valid(site, schema_of(fcinfo, site, purchase), event_properties(fcinfo, site, 0)));
}

/*
 * validate lists what is wrong with an event.
 */
static void
validate(FunctionCallInfo fcinfo, PaName event_type, int argument)
{
	EventSite  *site = event_site(fcinfo);
	PaEventSchema *found = schema_of(fcinfo, site, event_type);

	if (found)
		put_errors(fcinfo, site->work_context, found->schema, event_properties(fcinfo, site, argument));
	else
		InitMaterializedSRF(fcinfo, 0);
}

/*
 * validate_event(event_type text, event_props jsonb) lists what is wrong with an event.
 */
Datum
pa_validate_event(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		InitMaterializedSRF(fcinfo, 0);
	else
		validate(fcinfo, event_type_name(PG_GETARG_TEXT_PP(0)), 1);

	PG_RETURN_NULL();
}

/*
 * validate_purchase_event(event_props jsonb) is validate_event for purchases.
 */
Datum
pa_validate_purchase_event(PG_FUNCTION_ARGS)
{
	validate(fcinfo, purchase, 0);

	PG_RETURN_NULL();
}

/*
 * error_texts puts some errors into words.
 */
static char *
error_texts(List *errors)
{
	StringInfoData text;
	ListCell   *cell;

	initStringInfo(&text);
	foreach(cell, errors)
	{
		PaValidationError *error = lfirst(cell);

		if (foreach_current_index(cell) == TOLD_ERRORS)
		{
			appendStringInfo(&text, "; and %d more", list_length(errors) - TOLD_ERRORS);
			break;
		}
		appendStringInfo(&text, "%s\"%s\": %s", text.len > 0 ? "; " : "", error->instance_path, error->message);
	}

	return text.data;
}

/*
 * refuse raises what the schema's mode asks for.
 */
static void
refuse(PaEventSchema *found, Jsonb *properties, Relation relation)
{
	int			level = (found->mode == PA_MODE_ENFORCE) ? ERROR : WARNING;

	ereport(level,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("event of type \"%.*s\" does not satisfy version %d of its schema",
					found->event_type.length, found->event_type.text, found->version),
			 errdetail("%s.", error_texts(pa_validation_errors(found->schema, properties))),
			 errhint("%s.validate_event() lists all that is wrong with an event.", PA_SCHEMA),
			 errtable(relation)));
}

/*
 * trigger_column reads a column of the row that a trigger fires for, whose name is an argument of the
 * trigger or the usual one.
 */
static Datum
trigger_column(TriggerData *data, int argument, const char *usual, Oid type, bool *isnull)
{
	const char *name = argument < data->tg_trigger->tgnargs ? data->tg_trigger->tgargs[argument] : usual;
	TupleDesc	descriptor = RelationGetDescr(data->tg_relation);
	HeapTuple	row = TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newtuple : data->tg_trigtuple;
	int			number = SPI_fnumber(descriptor, name);

	if (number <= 0 || getBaseType(SPI_gettypeid(descriptor, number)) != type)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\": table \"%s\" has no column \"%s\" of type %s",
						data->tg_trigger->tgname, RelationGetRelationName(data->tg_relation), name,
						format_type_be(type)),
				 errhint("Name the columns of the event type (text) and of the properties (jsonb) as arguments of the trigger.")));

	return heap_getattr(row, number, descriptor, isnull);
}

/*
 * enforce_event_schema() is a trigger for tables of events that are written to directly: a row must
 * satisfy the schema of its type.
 */
Datum
pa_enforce_event_schema(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	HeapTuple	row;
	EventSite  *site;
	PaEventSchema *found;
	Datum		type;
	Datum		properties;
	bool		no_type;
	bool		no_properties;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		!(TRIGGER_FIRED_BY_INSERT(data->tg_event) || TRIGGER_FIRED_BY_UPDATE(data->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("enforce_event_schema() is a trigger for each row that is inserted or updated")));

	row = TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? data->tg_newtuple : data->tg_trigtuple;
	type = trigger_column(data, 0, "event_type", TEXTOID, &no_type);
	properties = trigger_column(data, 1, "event_props", JSONBOID, &no_properties);
	if (no_type)
		return PointerGetDatum(row);

	site = event_site(fcinfo);
	found = schema_of(fcinfo, site, event_type_name(DatumGetTextPP(type)));
	if (found && found->mode != PA_MODE_OFF)
	{
		Jsonb	   *document = no_properties ? site->no_properties : DatumGetJsonbP(properties);

		if (!is_valid(site, found, document))
			refuse(found, document, data->tg_relation);
	}

	return PointerGetDatum(row);
}
