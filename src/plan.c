/*
 * plan.c
 *		Keeping the plans of queries.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "guard.h"
#include "miscadmin.h"
#include "query.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(pa_capture_plan);

/*
 * parse_one refuses what is not one statement that has a plan.
 */
static RawStmt *
parse_one(const char *query)
{
	List	   *statements = pg_parse_query(query);
	RawStmt    *statement;

	if (list_length(statements) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("%d statements were given, one was expected", list_length(statements))));

	statement = linitial_node(RawStmt, statements);
	switch (nodeTag(statement->stmt))
	{
		case T_SelectStmt:
			if (((SelectStmt *) statement->stmt)->intoClause == NULL)
				return statement;
			break;
		case T_InsertStmt:
		case T_UpdateStmt:
		case T_DeleteStmt:
		case T_MergeStmt:
			return statement;
		default:
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the statement has no plan to be kept"),
			 errhint("Give a SELECT, INSERT, UPDATE, DELETE or MERGE.")));
}

/*
 * only_reads tells whether a statement neither changes nor locks rows.
 */
static bool
only_reads(RawStmt *statement, const char *query)
{
	List	   *queries = pg_analyze_and_rewrite_fixedparams(statement, query, NULL, 0, NULL);
	ListCell   *cell;

	foreach(cell, queries)
	{
		Query	   *rewritten = lfirst_node(Query, cell);

		if (rewritten->commandType != CMD_SELECT || rewritten->hasModifyingCTE || rewritten->hasForUpdate)
			return false;
	}

	return true;
}

/* Explaining a statement. */
typedef struct Explanation
{
	const char *query;
	bool		run;
	bool		read_only;
	MemoryContext context;
	char	   *plan;			/* the result, in that memory context */
} Explanation;

/*
 * explain asks EXPLAIN about a statement.
 */
static void
explain(void *argument)
{
	Explanation *explanation = argument;
	bool		isnull;

	if (explanation->read_only)
		pa_forbid_writing();
	SPI_connect();
	pa_query(psprintf("EXPLAIN (VERBOSE, BUFFERS, ANALYZE %s, FORMAT JSON) %s",
					  explanation->run ? "on" : "off", explanation->query),
			 NULL, SPI_OK_UTILITY);
	explanation->plan = MemoryContextStrdup(explanation->context, TextDatumGetCString(pa_result(0, 1, &isnull)));
	SPI_finish();
}

/*
 * point_into_query lets errors of parsing show the place in the query that was given, and not in the one that is
 * running.
 */
static void
point_into_query(void *argument)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(argument);
	}
}

/*
 * is_harmless tells whether a query only reads, once it has been found to be one that has a plan.
 */
static bool
is_harmless(char *query)
{
	ErrorContextCallback context = {error_context_stack, point_into_query, query};
	bool		result;

	error_context_stack = &context;
	result = only_reads(parse_one(query), query);
	error_context_stack = context.previous;

	return result;
}

/*
 * explain_reading explains a query that seems only to read, by running it where it cannot do more.  What calls a function
 * that changes something is cut off there, and explained like what changes something by itself.
 */
static void
explain_reading(Explanation *explanation)
{
	ErrorData  *error;

	explanation->run = true;
	explanation->read_only = true;
	if (pa_try_and_undo(explain, explanation, &error))
		return;
	if (error->sqlerrcode != ERRCODE_READ_ONLY_SQL_TRANSACTION)
		ReThrowError(error);
	explanation->run = false;
	pa_rehearse(explain, explanation);
}

/*
 * keep writes a plan down, as the owner of the table, and returns the result of capture_plan().
 */
static Datum
keep(const char *query, bool executed, const char *plan, Oid caller)
{
	PaParameters parameters = {0};
	PaGuard		guard;
	Datum		result;
	bool		isnull;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(GetUserNameFromId(caller, false)));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(query));
	pa_add_parameter(&parameters, BOOLOID, BoolGetDatum(executed));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(plan));

	pa_guard_enter(&guard, pa_owner(pa_table("captured_plans")));
	SPI_connect();
	pa_query("INSERT INTO prod_analytics.captured_plans (captured_by, query, executed, plan)"
			 " VALUES ($1, $2, $3, $4::jsonb -> 0)"
			 " RETURNING jsonb_build_object('plan_id', plan_id, 'executed', executed, 'plan', plan)",
			 &parameters, SPI_OK_INSERT_RETURNING);
	result = SPI_datumTransfer(pa_result(0, 1, &isnull), false, -1);
	SPI_finish();
	pa_guard_leave(&guard);

	return result;
}

/*
 * capture_plan(query text, run boolean) keeps the plan of a query.
 */
Datum
pa_capture_plan(PG_FUNCTION_ARGS)
{
	Explanation explanation = {0};
	char	   *query;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("query and run must not be NULL")));
	pa_forbid_read_only("capture_plan()");

	query = text_to_cstring(PG_GETARG_TEXT_PP(0));
	explanation.query = query;
	explanation.run = PG_GETARG_BOOL(1);
	explanation.context = CurrentMemoryContext;
	if (is_harmless(query) && !explanation.run)
		explain_reading(&explanation);
	else
		pa_rehearse(explain, &explanation);

	PG_RETURN_DATUM(keep(query, explanation.run, explanation.plan, GetUserId()));
}
