/*
 * quality.c
 *		Data-quality checks: queries that return the rows that are wrong.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guard.h"
#include "miscadmin.h"
#include "query.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pa_run_quality_checks);

/*
 * list_checks lists the names of the checks to run: the one that was asked for, or all that are enabled.
 */
static List *
list_checks(char *name)
{
	PaParameters parameters = {0};
	List	   *names = NIL;
	uint64		found;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(name ? name : ""));
	pa_add_parameter(&parameters, BOOLOID, BoolGetDatum(name == NULL));
	found = pa_query("SELECT check_name FROM prod_analytics.quality_checks"
					 " WHERE CASE WHEN $2 THEN enabled ELSE check_name = $1 END ORDER BY check_name",
					 &parameters, SPI_OK_SELECT);
	if (name && found == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("quality check \"%s\" does not exist", name),
				 errhint("%s.quality_checks lists the checks.", PA_SCHEMA)));

	for (uint64 i = 0; i < found; i++)
	{
		bool		isnull;

		names = lappend(names, TextDatumGetCString(pa_result(i, 1, &isnull)));
	}

	return names;
}

/*
 * run_one runs a check and adds what came of it to the result.
 */
static void
run_one(char *name, ReturnSetInfo *result)
{
	PaParameters parameters = {0};
	Datum		values[4];
	bool		nulls[4];

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(name));
	pa_query("SELECT prod_analytics.run_check($1)", &parameters, SPI_OK_SELECT);
	pa_query("SELECT q.check_name, q.severity, r.failing_rows, r.status FROM prod_analytics.quality_results r"
			 " JOIN prod_analytics.quality_checks q ON q.check_name = r.check_name"
			 " WHERE r.check_name = $1 ORDER BY r.result_id DESC LIMIT 1",
			 &parameters, SPI_OK_SELECT);
	for (int i = 0; i < (int) lengthof(values); i++)
		values[i] = pa_result(0, i + 1, &nulls[i]);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * run_quality_checks(name text) runs checks, as their owner.
 */
Datum
pa_run_quality_checks(PG_FUNCTION_ARGS)
{
	char	   *name = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	PaGuard		guard;
	ListCell   *cell;

	pa_forbid_read_only("run_quality_checks()");
	InitMaterializedSRF(fcinfo, 0);

	pa_guard_enter(&guard, pa_owner(pa_table("quality_checks")));
	SPI_connect();
	foreach(cell, list_checks(name))
	{
		CHECK_FOR_INTERRUPTS();
		run_one(lfirst(cell), (ReturnSetInfo *) fcinfo->resultinfo);
	}
	SPI_finish();
	pa_guard_leave(&guard);

	return (Datum) 0;
}
