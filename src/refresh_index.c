/*
 * refresh_index.c
 *		Which indexes serve the keys of a view.
 */
#include "prod_analytics.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "guard.h"
#include "lib/stringinfo.h"
#include "optimizer/optimizer.h"
#include "partition.h"
#include "refresh_view.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

/* A row of pg_index that is of interest. */
typedef struct IndexShape
{
	Form_pg_index form;
	Oid			method;
	oidvector  *collations;
	oidvector  *classes;
	List	   *expressions;
} IndexShape;

/*
 * vector_of reads a column of oids.
 */
static oidvector *
vector_of(HeapTuple tuple, AttrNumber column)
{
	bool		isnull;
	Datum		vector = SysCacheGetAttr(INDEXRELID, tuple, column, &isnull);

	Assert(!isnull);

	return (oidvector *) DatumGetPointer(vector);
}

/*
 * read_index reads a row of pg_index; NULL when queries cannot rely on the index, or only on a part of it.
 */
static IndexShape *
read_index(HeapTuple tuple)
{
	IndexShape *index = palloc0(sizeof(IndexShape));
	HeapTuple	class;
	bool		isnull;
	Datum		expressions;

	index->form = (Form_pg_index) GETSTRUCT(tuple);
	if (!index->form->indisvalid || !index->form->indisready || !index->form->indislive ||
		!heap_attisnull(tuple, Anum_pg_index_indpred, NULL))
		return NULL;

	class = SearchSysCache1(RELOID, ObjectIdGetDatum(index->form->indexrelid));
	if (!HeapTupleIsValid(class))
		return NULL;
	index->method = ((Form_pg_class) GETSTRUCT(class))->relam;
	ReleaseSysCache(class);

	index->collations = vector_of(tuple, Anum_pg_index_indcollation);
	index->classes = vector_of(tuple, Anum_pg_index_indclass);
	expressions = SysCacheGetAttr(INDEXRELID, tuple, Anum_pg_index_indexprs, &isnull);
	index->expressions = isnull ? NIL : (List *) stringToNode(TextDatumGetCString(expressions));

	return index;
}

/*
 * indexes_of lists the complete indexes of a relation, in the order in which they were made.
 */
static List *
indexes_of(Oid relation)
{
	Relation	catalog = table_open(IndexRelationId, AccessShareLock);
	List	   *indexes = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_index_indrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
	scan = systable_beginscan(catalog, IndexIndrelidIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		IndexShape *index = read_index(heap_copytuple(tuple));

		if (index)
			indexes = lappend(indexes, index);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);

	return indexes;
}

/*
 * compares_like tells whether a column of an index finds values by the operator of a key.
 */
static bool
compares_like(IndexShape *index, int column, PaViewKey *key)
{
	return op_in_opfamily(key->equal, get_opclass_family(index->classes->values[column])) &&
		index->collations->values[column] == key->collation;
}

/*
 * key_of_column is which key a column of an index of the view is; -1 when it is none.
 */
static int
key_of_column(PaView *view, IndexShape *index, int column)
{
	for (int i = 0; i < view->key_count; i++)
		if (index->form->indkey.values[column] == view->keys[i].column && compares_like(index, column, &view->keys[i]))
			return i;

	return -1;
}

/*
 * identifies_groups tells whether an index is unique over exactly the keys of the view.
 */
static bool
identifies_groups(PaView *view, IndexShape *index)
{
	uint32		covered = 0;

	if (!index->form->indisunique || !index->form->indimmediate || index->method != BTREE_AM_OID ||
		index->form->indnkeyatts != view->key_count)
		return false;

	for (int column = 0; column < index->form->indnkeyatts; column++)
	{
		int			key = key_of_column(view, index, column);

		if (key < 0 || (covered & ((uint32) 1 << key)) != 0)
			return false;
		covered |= (uint32) 1 << key;
	}

	return true;
}

/*
 * pa_view_unique_index finds an index that identifies the groups of a view; InvalidOid when there is none.
 */
Oid
pa_view_unique_index(PaView *view)
{
	ListCell   *cell;

	foreach(cell, indexes_of(view->matview))
		if (identifies_groups(view, lfirst(cell)))
			return ((IndexShape *) lfirst(cell))->form->indexrelid;

	return InvalidOid;
}

/*
 * pa_view_unique_index_sql is the statement that makes such an index.
 */
char *
pa_view_unique_index_sql(PaView *view)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE UNIQUE INDEX ON %s (", pa_relation_sql(view->matview));
	for (int i = 0; i < view->key_count; i++)
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "",
						 quote_identifier(get_attname(view->matview, view->keys[i].column, false)));
	appendStringInfoString(&sql, ") NULLS NOT DISTINCT;");

	return sql.data;
}

/*
 * without_labels is an expression without what changes its collation or nothing but its type, as the planner
 * compares it with the columns of indexes.
 */
static Node *
without_labels(Node *expression)
{
	while (IsA(expression, CollateExpr) || IsA(expression, RelabelType))
		expression = IsA(expression, CollateExpr) ?
			(Node *) ((CollateExpr *) expression)->arg : (Node *) ((RelabelType *) expression)->arg;

	return expression;
}

/*
 * has_key_at tells whether a column of an index of the source finds the rows of a key's value.
 */
static bool
has_key_at(IndexShape *index, int column, PaViewKey *key)
{
	AttrNumber	attribute = index->form->indkey.values[column];
	Node	   *expression = without_labels(key->expression);
	Var		   *variable = (Var *) expression;
	int			before = 0;

	if (index->method != BTREE_AM_OID && index->method != HASH_AM_OID)
		return false;
	for (int i = 0; i < column; i++)
		if (index->form->indkey.values[i] == 0)
			before++;
	if (attribute == 0 ? !equal(without_labels(list_nth(index->expressions, before)), expression) :
		!IsA(variable, Var) || variable->varattno != attribute)
		return false;

	return compares_like(index, column, key);
}

/*
 * pa_view_key_is_indexed tells whether an index of the source has a key of the view among its columns.
 */
bool
pa_view_key_is_indexed(PaView *view, int key)
{
	ListCell   *cell;

	foreach(cell, indexes_of(view->source))
	{
		IndexShape *index = lfirst(cell);

		for (int column = 0; column < index->form->indnkeyatts; column++)
			if (has_key_at(index, column, &view->keys[key]))
				return true;
	}

	return false;
}

/*
 * pa_view_source_index finds an index by which the rows of a group are found faster than by reading everything;
 * InvalidOid when there is none.
 */
Oid
pa_view_source_index(PaView *view)
{
	List	   *indexes = indexes_of(view->source);
	ListCell   *cell;

	for (int i = 0; i < view->key_count; i++)
		foreach(cell, indexes)
			if (has_key_at(lfirst(cell), 0, &view->keys[i]))
				return ((IndexShape *) lfirst(cell))->form->indexrelid;

	foreach(cell, indexes)
	{
		IndexShape *index = lfirst(cell);

		if (view->window.column && index->method == BTREE_AM_OID &&
			index->form->indkey.values[0] == view->window.column)
			return index->form->indexrelid;
	}

	return InvalidOid;
}

/*
 * key_sql is a key as a column of an index.
 */
static char *
key_sql(PaView *view, Node *key)
{
	List	   *context = deparse_context_for(get_rel_name(view->source), view->source);
	char	   *sql = deparse_expression(key, context, false, false);

	return IsA(key, Var) ? sql : psprintf("(%s)", sql);
}

/*
 * pa_view_source_index_sql is the statement that makes such an index; NULL when no index can help, since the keys
 * do not depend on rows.
 *
 * The key that bounds the partition key comes last, as the partition key itself: that is a range.
 */
char *
pa_view_source_index_sql(PaView *view)
{
	List	   *columns = NIL;
	List	   *expressions = NIL;
	int			guc_level = pa_utc_enter();
	ListCell   *cell;
	StringInfoData sql;

	pa_set_for_now("search_path", "pg_catalog, pg_temp");
	for (int i = 0; i < view->key_count; i++)
		if (contain_var_clause(view->keys[i].expression) && (view->window.column == 0 || view->window.key != i))
			expressions = list_append_unique(expressions, view->keys[i].expression);
	foreach(cell, expressions)
		columns = lappend(columns, key_sql(view, lfirst(cell)));
	if (view->window.column)
		columns = lappend(columns, pstrdup(quote_identifier(get_attname(view->source, view->window.column, false))));
	pa_utc_leave(guc_level);
	if (columns == NIL)
		return NULL;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE INDEX ON %s (", pa_relation_sql(view->source));
	foreach(cell, columns)
		appendStringInfo(&sql, "%s%s", cell == list_head(columns) ? "" : ", ", (char *) lfirst(cell));
	appendStringInfoString(&sql, ");");

	return sql.data;
}
