/*
 * query.h
 *		Running SQL from C with typed parameters.
 */
#ifndef PA_QUERY_H
#define PA_QUERY_H

#include "executor/spi.h"

#define PA_MAX_PARAMETERS 10

/* The parameters of a query, $1 first. */
typedef struct PaParameters
{
	int			count;
	Oid			types[PA_MAX_PARAMETERS];
	Datum		values[PA_MAX_PARAMETERS];
	char		nulls[PA_MAX_PARAMETERS];
} PaParameters;

extern void pa_add_parameter(PaParameters *parameters, Oid type, Datum value);
extern void pa_add_text(PaParameters *parameters, const char *text);
extern uint64 pa_query(const char *sql, PaParameters *parameters, int expected);
extern uint64 pa_query_into(DestReceiver *receiver, const char *sql, PaParameters *parameters);
extern uint64 pa_read_into(DestReceiver *receiver, const char *sql, PaParameters *parameters);
extern Datum pa_result(int row, int column, bool *isnull);

#endif							/* PA_QUERY_H */
