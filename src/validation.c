/*
 * validation.c
 *		The SQL functions of JSON Schema validation.
 *
 * A schema is compiled once for each place in a query that calls one of the functions, and again when
 * another schema comes along.
 */
#include "prod_analytics.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "validation.h"

PG_FUNCTION_INFO_V1(pa_jsonb_matches_schema);
PG_FUNCTION_INFO_V1(pa_jsonschema_is_valid);
PG_FUNCTION_INFO_V1(pa_jsonschema_validation_errors);

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
 * jsonschema_validation_errors(schema jsonb, instance jsonb) lists what is wrong with a document.
 */
Datum
pa_jsonschema_validation_errors(PG_FUNCTION_ARGS)
{
	CallSite   *site = call_site(fcinfo);
	PaSchema   *schema = compiled(site, PG_GETARG_JSONB_P(0));
	Jsonb	   *instance = PG_GETARG_JSONB_P(1);
	MemoryContext caller_context;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	caller_context = MemoryContextSwitchTo(site->work_context);
	foreach(cell, pa_validation_errors(schema, instance))
		put_error((ReturnSetInfo *) fcinfo->resultinfo, lfirst(cell));
	MemoryContextSwitchTo(caller_context);
	MemoryContextReset(site->work_context);

	PG_RETURN_NULL();
}
