/*
 * refresh_sql.c
 *		The statements that compute some or all groups of a view.
 *
 * The source is called s in them, and the relation with the wanted keys k.
 */
#include "prod_analytics.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_operator.h"
#include "guard.h"
#include "lib/stringinfo.h"
#include "nodes/nodeFuncs.h"
#include "partition.h"
#include "refresh.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

/* A statement that is being written. */
typedef struct Statement
{
	StringInfoData sql;
	PaView	   *view;
	List	   *context;		/* in which expressions are written */
	int			guc_level;
} Statement;

/*
 * begin_statement begins to write; until end_statement, everything that is not built in is written with its schema,
 * and constants so that they mean the same whatever the settings are when the statement runs.
 *
 * Plans are known by the text, which begins with the view: in the query of another one of that name, the name of a type
 * may mean another type, and nothing tells a plan when a type that it has constants of gives its name away.
 */
static void
begin_statement(Statement *statement, PaView *view)
{
	statement->guc_level = pa_utc_enter();
	pa_set_for_now("search_path", "pg_catalog, pg_temp");
	pa_set_for_now("extra_float_digits", "1");
	statement->view = view;
	statement->context = deparse_context_for("s", view->source);
	initStringInfo(&statement->sql);
	appendStringInfo(&statement->sql, "/* %u */ ", view->matview);
}

/*
 * end_statement returns what was written.
 */
static char *
end_statement(Statement *statement)
{
	pa_utc_leave(statement->guc_level);

	return statement->sql.data;
}

/*
 * expression_sql is an expression as text.
 */
static char *
expression_sql(Statement *statement, Node *expression)
{
	char	   *sql = deparse_expression(expression, statement->context, true, true);

	/* A bare s.* would become several columns. */
	if (IsA(expression, Var) && ((Var *) expression)->varattno == 0)
		return psprintf("%s::%s", sql, format_type_be_qualified(exprType(expression)));

	return sql;
}

/*
 * add_outputs writes the output columns of the view.
 */
static void
add_outputs(Statement *statement)
{
	PaView	   *view = statement->view;
	ListCell   *cell;

	foreach(cell, view->query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		appendStringInfo(&statement->sql, "%s%s AS %s", cell == list_head(view->query->targetList) ? "" : ", ",
						 expression_sql(statement, (Node *) entry->expr),
						 quote_identifier(get_attname(view->matview, entry->resno, false)));
	}
}

/*
 * add_groups writes what GROUP BY and HAVING say; "before" is how many columns precede those of the view.
 */
static void
add_groups(Statement *statement, int before)
{
	PaView	   *view = statement->view;

	appendStringInfoString(&statement->sql, " GROUP BY ");
	for (int i = 0; i < view->key_count; i++)
		appendStringInfo(&statement->sql, "%s%d", i > 0 ? ", " : "", view->keys[i].column + before);
	if (view->query->havingQual)
		appendStringInfo(&statement->sql, " HAVING %s", expression_sql(statement, view->query->havingQual));
}

/*
 * pa_view_sql is the query that computes the whole view.
 */
char *
pa_view_sql(PaView *view)
{
	Statement	statement;
	Node	   *where = view->query->jointree->quals;

	begin_statement(&statement, view);
	appendStringInfoString(&statement.sql, "SELECT ");
	add_outputs(&statement);
	appendStringInfo(&statement.sql, " FROM %s s", pa_relation_sql(view->source));
	if (where)
		appendStringInfo(&statement.sql, " WHERE (%s)", expression_sql(&statement, where));
	add_groups(&statement, 0);

	return end_statement(&statement);
}

/*
 * operator_sql is an operator with its schema.
 */
static char *
operator_sql(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *sql;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	sql = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)), NameStr(form->oprname));
	ReleaseSysCache(tuple);

	return sql;
}

/*
 * add_key_condition writes that a row belongs to the wanted key.
 */
static void
add_key_condition(Statement *statement, int number, bool is_null)
{
	PaViewKey  *key = &statement->view->keys[number];
	char	   *expression = expression_sql(statement, key->expression);
	/* IS NULL would also be true of a row whose columns are NULL, which is a key of its own. */
	if (is_null)
		appendStringInfo(&statement->sql, "(%s) %s", expression,
						 type_is_rowtype(key->type) ? "IS NOT DISTINCT FROM NULL" : "IS NULL");
	else
		appendStringInfo(&statement->sql, "(%s) %s k.k%d", expression, operator_sql(key->equal), number);
}

/*
 * add_window writes in which range of the partition key the rows of the wanted key are; with by_range that is all
 * that makes them rows of the key.
 *
 * A key is NULL where the partition key is, and nowhere else: it is computed by strict functions.
 */
static void
add_window(Statement *statement, uint32 null_keys, bool by_range)
{
	PaViewWindow *window = &statement->view->window;
	const char *column;

	if (window->column == 0)
		return;

	column = quote_identifier(get_attname(statement->view->source, window->column, false));
	if (null_keys & ((uint32) 1 << window->key))
		appendStringInfo(&statement->sql, " AND s.%s IS NULL", column);
	else
		appendStringInfo(&statement->sql, " AND s.%s >= k.lowest AND s.%s %s k.highest", column, column,
						 by_range ? "<" : "<=");
}

/*
 * pa_view_probe_sql is the query that computes the groups of the wanted keys; is_there is NULL for those that
 * have no rows.  The keys that have a bit in null_keys are NULL.
 *
 * With by_range, the key that bounds the partition key is not compared itself.  The planner would take that for a
 * second condition, which only few of the rows in the range satisfy.
 */
char *
pa_view_probe_sql(PaView *view, uint32 null_keys, bool by_range)
{
	Statement	statement;
	Node	   *where = view->query->jointree->quals;

	begin_statement(&statement, view);
	appendStringInfoString(&statement.sql, "SELECT k.*, g.* FROM keys k LEFT JOIN LATERAL (SELECT true AS is_there, ");
	add_outputs(&statement);
	appendStringInfo(&statement.sql, " FROM %s s WHERE true", pa_relation_sql(view->source));
	if (where)
		appendStringInfo(&statement.sql, " AND (%s)", expression_sql(&statement, where));
	for (int i = 0; i < view->key_count; i++)
	{
		if (by_range && i == view->window.key)
			continue;
		appendStringInfoString(&statement.sql, " AND ");
		add_key_condition(&statement, i, (null_keys & ((uint32) 1 << i)) != 0);
	}
	add_window(&statement, null_keys, by_range);
	add_groups(&statement, 1);
	appendStringInfoString(&statement.sql, ") g ON true");

	return end_statement(&statement);
}

/*
 * begin_keys_statement writes what lists the keys of some rows.
 */
static void
begin_keys_statement(Statement *statement, PaView *view)
{
	begin_statement(statement, view);
	appendStringInfoString(&statement->sql, "SELECT DISTINCT ");
	for (int i = 0; i < view->key_count; i++)
		appendStringInfo(&statement->sql, "%s%s AS k%d", i > 0 ? ", " : "",
						 expression_sql(statement, view->keys[i].expression), i);
}

/*
 * end_keys_statement writes the rest of that: only rows that belong to the view count.
 */
static char *
end_keys_statement(Statement *statement)
{
	Node	   *where = statement->view->query->jointree->quals;

	if (where)
		appendStringInfo(&statement->sql, " WHERE %s", expression_sql(statement, where));

	return end_statement(statement);
}

/*
 * pa_view_keys_sql is the query that lists the keys in one of the source's tables, or, when "sampled" is not NULL,
 * those in a sample of it, like "SYSTEM (1)".
 */
char *
pa_view_keys_sql(PaView *view, Oid relation, const char *sampled)
{
	Statement	statement;

	begin_keys_statement(&statement, view);
	appendStringInfo(&statement.sql, " FROM %s%s s",
					 get_rel_relkind(relation) == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ", pa_relation_sql(relation));
	if (sampled)
		appendStringInfo(&statement.sql, " TABLESAMPLE %s", sampled);

	return end_keys_statement(&statement);
}

/*
 * pa_view_input_keys_sql is the query that lists the keys in a relation "inputs", which
 * pa_view_input_descriptor describes.
 */
char *
pa_view_input_keys_sql(PaView *view)
{
	Statement	statement;

	begin_keys_statement(&statement, view);
	appendStringInfoString(&statement.sql, " FROM inputs s");

	return end_keys_statement(&statement);
}
