/*
 * refresh_view.c
 *		What a materialized view computes, and whether it can be kept incrementally.
 *
 * Writers ask, in triggers, while others may hold any lock on the view: everything is read from the catalogs, and
 * nothing is opened.
 */
#include "prod_analytics.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_rewrite.h"
#include "compat.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "partition.h"
#include "refresh_view.h"
#include "rewrite/rewriteManip.h"
#include "rewrite/rewriteSupport.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* pg_attribute.attgenerated of a column that is computed when it is read; PostgreSQL 18 has them. */
#define GENERATED_VIRTUAL 'v'

/* More keys would not fit into the bit mask of those that are NULL. */
#define MAX_KEYS 32

/* Returns why a view cannot be kept incrementally, or NULL and some more of the view. */
typedef char *(*Examination) (PaView *view);

/*
 * rule_query is the query of a view's rule; NULL when there is no such rule.
 */
static Query *
rule_query(Oid matview)
{
	Relation	rules = table_open(RewriteRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData keys[2];
	HeapTuple	tuple;
	List	   *actions = NIL;

	ScanKeyInit(&keys[0], Anum_pg_rewrite_ev_class, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(matview));
	ScanKeyInit(&keys[1], Anum_pg_rewrite_rulename, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum(ViewSelectRuleName));
	scan = systable_beginscan(rules, RewriteRelRulenameIndexId, true, NULL, 2, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		action = heap_getattr(tuple, Anum_pg_rewrite_ev_action, RelationGetDescr(rules), &isnull);

		actions = isnull ? NIL : (List *) stringToNode(TextDatumGetCString(action));
	}
	systable_endscan(scan);
	table_close(rules, AccessShareLock);

	return actions == NIL ? NULL : linitial_node(Query, actions);
}

/*
 * clause_reason names the clause of a query that can make the result depend on more than the rows of a group.
 */
static char *
clause_reason(PaView *view)
{
	Query	   *query = view->query;

	if (query->commandType != CMD_SELECT || query->utilityStmt)
		return "it is not a SELECT";
	if (query->setOperations)
		return "it combines queries with UNION, INTERSECT or EXCEPT";
	if (query->cteList != NIL)
		return "it has a WITH clause";
	if (query->hasSubLinks)
		return "it contains a subquery";
	if (query->hasWindowFuncs)
		return "it uses window functions";
	if (query->hasTargetSRFs)
		return "it uses a function that returns several rows";
	if (query->distinctClause != NIL)
		return "it uses SELECT DISTINCT; use GROUP BY instead";
	if (query->limitCount || query->limitOffset)
		return "it uses LIMIT or OFFSET";
	if (query->rowMarks != NIL)
		return "it locks rows";
	if (query->groupingSets != NIL)
		return "it uses GROUPING SETS, ROLLUP or CUBE";
	if (query->groupClause == NIL)
		return "it has no GROUP BY";
	if (list_length(query->groupClause) > MAX_KEYS)
		return psprintf("it has more than %d keys", MAX_KEYS);

	return NULL;
}

/*
 * from_reason reduces the query to one table, relation 1, or tells why that is not possible.
 */
static char *
from_reason(PaView *view)
{
	Query	   *query = view->query;
	List	   *from = query->jointree->fromlist;
	RangeTblEntry *entry;
	int			position;

	if (from == NIL)
		return "it reads no table";
	if (list_length(from) > 1 || IsA(linitial(from), JoinExpr))
		return "it joins tables";
	if (!IsA(linitial(from), RangeTblRef))
		return "it does not read a table";

	position = linitial_node(RangeTblRef, from)->rtindex;
	entry = rt_fetch(position, query->rtable);
	if (entry->rtekind == RTE_SUBQUERY)
		return "it reads a subquery";
	if (entry->rtekind != RTE_RELATION)
		return "it does not read a table";
	if (entry->tablesample)
		return "it reads a sample of its table (TABLESAMPLE)";

	pa_flatten_groups(query);
	if (position != 1)
	{
		/* Nothing speaks of the entries before it, which stand for OLD and NEW. */
		ChangeVarNodes((Node *) query->targetList, position, 1, 0);
		ChangeVarNodes(query->jointree->quals, position, 1, 0);
		ChangeVarNodes(query->havingQual, position, 1, 0);
		linitial_node(RangeTblRef, from)->rtindex = 1;
	}
	query->rtable = list_make1(entry);
	pa_forget_permissions(query);
	query->sortClause = NIL;
	view->source = entry->relid;

	return NULL;
}

/*
 * kind_reason tells why a relation of that kind cannot be the source.
 */
static char *
kind_reason(const char *name, Form_pg_class form)
{
	switch (form->relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
			break;
		case RELKIND_VIEW:
			return psprintf("it reads the view \"%s\"", name);
		case RELKIND_MATVIEW:
			return psprintf("it reads the materialized view \"%s\"", name);
		case RELKIND_FOREIGN_TABLE:
			return psprintf("it reads the foreign table \"%s\"", name);
		default:
			return psprintf("\"%s\", which it reads, is not a table", name);
	}

	if (form->oid < FirstNormalObjectId)
		return psprintf("it reads the system catalog \"%s\"", name);
	if (form->relpersistence == RELPERSISTENCE_UNLOGGED)
		return psprintf("table \"%s\" is unlogged: a crash empties it without a trace", name);
	if (form->relpersistence != RELPERSISTENCE_PERMANENT)
		return psprintf("table \"%s\" is temporary", name);

	return NULL;
}

/*
 * partition_reason tells why one of the partitions cannot be read from.
 */
static char *
partition_reason(Oid partition)
{
	char	   *name = get_rel_name(partition);

	if (name == NULL)
		return NULL;
	if (get_rel_relkind(partition) == RELKIND_FOREIGN_TABLE)
		return psprintf("partition \"%s\" is a foreign table", name);
	if (get_rel_persistence(partition) != RELPERSISTENCE_PERMANENT)
		return psprintf("partition \"%s\" is unlogged: a crash empties it without a trace", name);

	return NULL;
}

/*
 * inheritance_reason tells why the tables below the source cannot be read from.
 */
static char *
inheritance_reason(Oid source, const char *name, Form_pg_class form, bool with_children)
{
	List	   *relations = form->relhassubclass ? pa_unlocked_tree(source) : NIL;
	ListCell   *cell;

	if (form->relkind == RELKIND_RELATION)
		return list_length(relations) > 1 ? psprintf("other tables inherit from \"%s\"", name) : NULL;
	if (!with_children)
		return psprintf("it reads ONLY \"%s\", which is partitioned", name);

	foreach(cell, relations)
	{
		char	   *reason = partition_reason(lfirst_oid(cell));

		if (reason)
			return reason;
	}

	return NULL;
}

/*
 * source_reason tells why changes of the view's table cannot be followed.
 */
static char *
source_reason(PaView *view)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(view->source));
	RangeTblEntry *entry = linitial_node(RangeTblEntry, view->query->rtable);
	Form_pg_class form;
	char	   *name;
	char	   *reason;

	if (!HeapTupleIsValid(tuple))
		return "its table does not exist any more";

	form = (Form_pg_class) GETSTRUCT(tuple);
	name = pstrdup(NameStr(form->relname));
	reason = kind_reason(name, form);
	if (reason == NULL && form->relowner != view->owner)
		reason = psprintf("table \"%s\" belongs to another role, \"%s\"", name,
						  GetUserNameFromId(form->relowner, true));
	if (reason == NULL && form->relrowsecurity)
		reason = psprintf("table \"%s\" has row-level security", name);
	if (reason == NULL)
		reason = inheritance_reason(view->source, name, form, entry->inh);
	ReleaseSysCache(tuple);

	return reason;
}

/*
 * virtual_reason tells which of the columns that the view reads is computed when it is read, from columns that the
 * view does not name.
 */
static char *
virtual_reason(PaView *view)
{
	Oid			source = view->source;

	for (AttrNumber column = 1; SearchSysCacheExists2(ATTNUM, ObjectIdGetDatum(source), Int16GetDatum(column)); column++)
		if ((bms_is_member(column, view->columns) || bms_is_member(0, view->columns)) &&
			get_attgenerated(source, column) == GENERATED_VIRTUAL)
			return psprintf("it reads the virtual generated column \"%s\"", get_attname(source, column, false));

	return NULL;
}

/*
 * add_columns adds the columns of the source that an expression reads.
 */
static void
add_columns(PaView *view, Node *expression)
{
	List	   *columns = pull_var_clause(expression, PVC_RECURSE_AGGREGATES);
	ListCell   *cell;

	foreach(cell, columns)
	{
		AttrNumber	column = lfirst_node(Var, cell)->varattno;

		/* System columns are refused where they are met. */
		if (column >= 0)
			view->columns = bms_add_member(view->columns, column);
	}
}

/*
 * columns_reason collects what the view reads.
 */
static char *
columns_reason(PaView *view)
{
	add_columns(view, (Node *) view->query->targetList);
	add_columns(view, view->query->jointree->quals);
	add_columns(view, view->query->havingQual);

	return virtual_reason(view);
}

/*
 * output_name is what a column of the view is called.
 */
static char *
output_name(PaView *view, TargetEntry *entry)
{
	char	   *name = get_attname(view->matview, entry->resno, true);

	return name ? name : entry->resname;
}

/*
 * hidden_key_reason tells that a key is not among the output columns.
 */
static char *
hidden_key_reason(PaView *view, TargetEntry *entry)
{
	Var		   *column = (Var *) entry->expr;

	if (IsA(column, Var) && column->varattno > 0)
		return psprintf("it groups by \"%s\" without showing it; add it to the SELECT list",
						get_attname(view->source, column->varattno, false));

	return "it groups by an expression without showing it; add it to the SELECT list";
}

/*
 * add_key adds a key to the view, or tells why it cannot be one.
 */
static char *
add_key(PaView *view, SortGroupClause *clause)
{
	TargetEntry *entry = get_sortgroupclause_tle(clause, view->query->targetList);
	Node	   *expression = (Node *) entry->expr;
	PaViewKey  *key = &view->keys[view->key_count++];
	TypeCacheEntry *type;
	char	   *problem;

	if (entry->resjunk)
		return hidden_key_reason(view, entry);
	problem = pa_expression_problem(expression, true);
	if (problem)
		return psprintf("its key \"%s\" %s", output_name(view, entry), problem);

	key->column = entry->resno;
	key->expression = expression;
	key->type = exprType(expression);
	key->typmod = exprTypmod(expression);
	key->collation = exprCollation(expression);
	key->equal = clause->eqop;
	type = lookup_type_cache(key->type, TYPECACHE_EQ_OPR | TYPECACHE_LT_OPR);
	key->less = type->lt_opr;
	if (!OidIsValid(key->less) || type->eq_opr != key->equal)
		return psprintf("its key \"%s\" has type %s, which has no default btree operator class",
						output_name(view, entry), format_type_be(key->type));

	return NULL;
}

/*
 * keys_reason collects the keys.
 */
static char *
keys_reason(PaView *view)
{
	ListCell   *cell;

	view->keys = palloc0(sizeof(PaViewKey) * list_length(view->query->groupClause));
	foreach(cell, view->query->groupClause)
	{
		char	   *reason = add_key(view, lfirst_node(SortGroupClause, cell));

		if (reason)
			return reason;
	}

	return NULL;
}

/*
 * output_reason tells why an output column cannot be maintained, or notes what is special about it.
 *
 * What neither reads rows nor always has the same value, like now(), is not data.
 */
static char *
output_reason(PaView *view, TargetEntry *entry)
{
	Node	   *expression = (Node *) entry->expr;
	char	   *problem = pa_expression_problem(expression, false);

	if (problem && (contain_var_clause(expression) || contain_agg_clause(expression)))
		return psprintf("its column \"%s\" %s", output_name(view, entry), problem);
	if (problem)
		view->not_data = bms_add_member(view->not_data, entry->resno);
	if (pa_depends_on_order(view, expression))
		view->unordered = bms_add_member(view->unordered, entry->resno);

	return NULL;
}

/*
 * outputs_reason looks at all output columns, and leaves out what is not one: expressions of ORDER BY.
 */
static char *
outputs_reason(PaView *view)
{
	List	   *outputs = NIL;
	ListCell   *cell;

	foreach(cell, view->query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);
		char	   *reason = entry->resjunk ? NULL : output_reason(view, entry);

		if (reason)
			return reason;
		if (!entry->resjunk)
			outputs = lappend(outputs, entry);
	}
	view->query->targetList = outputs;

	return NULL;
}

/*
 * conditions_reason tells why WHERE or HAVING cannot be maintained.
 */
static char *
conditions_reason(PaView *view)
{
	Node	   *where = view->query->jointree->quals;
	char	   *problem = pa_expression_problem(where, false);

	if (problem)
		return psprintf("its WHERE %s", problem);
	problem = pa_expression_problem(view->query->havingQual, false);
	if (problem)
		return psprintf("its HAVING %s", problem);
	if (where && pa_cannot_fail(where))
		view->filter = where;

	return NULL;
}

/*
 * columns_of lists the columns of the source that an expression reads; 0 means the whole row.
 */
static Bitmapset *
columns_of(Node *expression)
{
	Bitmapset  *shifted = NULL;
	Bitmapset  *columns = NULL;
	int			column = -1;

	pull_varattnos(expression, 1, &shifted);
	while ((column = bms_next_member(shifted, column)) >= 0)
		columns = bms_add_member(columns, column + FirstLowInvalidHeapAttributeNumber);

	return columns;
}

/*
 * find_inputs finds out what the keys are computed from, and whether that may fail.
 */
static void
find_inputs(PaView *view)
{
	view->inputs = columns_of(view->query->jointree->quals);
	for (int i = 0; i < view->key_count; i++)
	{
		view->inputs = bms_join(view->inputs, columns_of(view->keys[i].expression));
		view->keys_may_fail |= !pa_cannot_fail(view->keys[i].expression);
	}
}

/*
 * read_view reads the view's row in pg_class; false when there is no such view.
 */
static bool
read_view(PaView *view)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(view->matview));
	Form_pg_class form;
	bool		is_view;

	if (!HeapTupleIsValid(tuple))
		return false;

	form = (Form_pg_class) GETSTRUCT(tuple);
	is_view = form->relkind == RELKIND_MATVIEW;
	view->owner = form->relowner;
	if (form->relam != HEAP_TABLE_AM_OID)
		view->reason = "it is not stored by the access method heap";
	ReleaseSysCache(tuple);

	return is_view;
}

/*
 * pa_view tells what a materialized view computes, in the current memory context; NULL when it does not exist.
 *
 * Whoever is told that it can be kept incrementally must hold a lock on the source, or be told again when its
 * definition changes.
 */
PaView *
pa_view(Oid matview)
{
	static const Examination examinations[] = {
		clause_reason, from_reason, source_reason, columns_reason, keys_reason, outputs_reason, conditions_reason
	};
	PaView	   *view = palloc0(sizeof(PaView));

	view->matview = matview;
	if (!read_view(view))
		return NULL;
	view->query = rule_query(matview);
	if (view->query == NULL)
		return NULL;

	for (int i = 0; i < (int) lengthof(examinations) && view->reason == NULL; i++)
		view->reason = examinations[i] (view);
	if (view->reason == NULL)
	{
		find_inputs(view);
		pa_find_window(view);
	}

	return view;
}

/*
 * pa_view_key_descriptor is the row type of keys: k0 and so on, and the bounds of the partition key when the view
 * has a window.
 */
TupleDesc
pa_view_key_descriptor(PaView *view)
{
	int			bounds = view->window.column ? 2 : 0;
	TupleDesc	descriptor = CreateTemplateTupleDesc(view->key_count + bounds);

	for (int i = 0; i < view->key_count; i++)
	{
		PaViewKey  *key = &view->keys[i];

		TupleDescInitEntry(descriptor, i + 1, psprintf("k%d", i), key->type, key->typmod, 0);
		TupleDescInitEntryCollation(descriptor, i + 1, key->collation);
	}
	if (bounds)
	{
		TupleDescInitEntry(descriptor, view->key_count + 1, "lowest", view->window.type, -1, 0);
		TupleDescInitEntry(descriptor, view->key_count + 2, "highest", view->window.type, -1, 0);
	}

	return descriptor;
}

/*
 * pa_view_input_descriptor is the row type of what the keys are computed from: columns of the source, by their names
 * and in their order.
 */
TupleDesc
pa_view_input_descriptor(PaView *view)
{
	TupleDesc	descriptor = CreateTemplateTupleDesc(bms_num_members(view->inputs));
	int			number = 0;
	int			column = -1;

	while ((column = bms_next_member(view->inputs, column)) >= 0)
	{
		Oid			type;
		int32		typmod;
		Oid			collation;

		get_atttypetypmodcoll(view->source, column, &type, &typmod, &collation);
		number++;
		TupleDescInitEntry(descriptor, number, get_attname(view->source, column, false), type, typmod, 0);
		TupleDescInitEntryCollation(descriptor, number, collation);
	}

	return descriptor;
}
