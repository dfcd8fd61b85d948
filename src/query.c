/*
 * query.c
 *		Running SQL from C with typed parameters.
 *
 * The caller is connected to SPI.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "query.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/*
 * pa_add_parameter appends a parameter that is not NULL.
 */
void
pa_add_parameter(PaParameters *parameters, Oid type, Datum value)
{
	int			n = parameters->count++;

	Assert(n < PA_MAX_PARAMETERS);
	parameters->types[n] = type;
	parameters->values[n] = value;
	parameters->nulls[n] = ' ';
}

/*
 * pa_add_text appends a text, which is NULL when there is none.
 */
void
pa_add_text(PaParameters *parameters, const char *text)
{
	pa_add_parameter(parameters, TEXTOID, text ? CStringGetTextDatum(text) : (Datum) 0);
	if (text == NULL)
		parameters->nulls[parameters->count - 1] = 'n';
}

/*
 * pa_query runs one or more statements and returns how many rows the last one processed.
 * "expected" is the SPI result code of a success; "parameters" may be NULL.
 *
 * SPI would leave us in a memory context that lives as long as the connection.
 */
uint64
pa_query(const char *sql, PaParameters *parameters, int expected)
{
	MemoryContext caller_context = CurrentMemoryContext;
	int			code;

	if (parameters == NULL)
		code = SPI_execute(sql, false, 0);
	else
		code = SPI_execute_with_args(sql, parameters->count, parameters->types,
									 parameters->values, parameters->nulls, false, 0);
	MemoryContextSwitchTo(caller_context);

	if (code != expected)
		elog(ERROR, "unexpected result %s of: %s", SPI_result_code_string(code), sql);

	return SPI_processed;
}

/*
 * run_into runs a query that returns rows and sends them to "receiver".
 */
static uint64
run_into(DestReceiver *receiver, const char *sql, PaParameters *parameters, bool read_only)
{
	MemoryContext caller_context = CurrentMemoryContext;
	SPIExecuteOptions options = {0};
	int			code;

	options.params = makeParamList(parameters->count);
	options.read_only = read_only;
	options.dest = receiver;
	for (int i = 0; i < parameters->count; i++)
	{
		ParamExternData *parameter = &options.params->params[i];

		parameter->value = parameters->values[i];
		parameter->isnull = (parameters->nulls[i] == 'n');
		parameter->pflags = PARAM_FLAG_CONST;
		parameter->ptype = parameters->types[i];
	}

	code = SPI_execute_extended(sql, &options);
	MemoryContextSwitchTo(caller_context);
	if (code != SPI_OK_SELECT)
		elog(ERROR, "unexpected result %s of: %s", SPI_result_code_string(code), sql);

	return SPI_processed;
}

/*
 * pa_query_into runs a query that returns rows, sends them to "receiver", and returns how many
 * they were.
 */
uint64
pa_query_into(DestReceiver *receiver, const char *sql, PaParameters *parameters)
{
	return run_into(receiver, sql, parameters, false);
}

/*
 * pa_read_into is pa_query_into() for functions that are not volatile: the query sees what the one that called the
 * function sees.
 */
uint64
pa_read_into(DestReceiver *receiver, const char *sql, PaParameters *parameters)
{
	return run_into(receiver, sql, parameters, true);
}

/*
 * pa_result reads a column (1 is the first) of a row (0 is the first) of the last query.
 */
Datum
pa_result(int row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}
