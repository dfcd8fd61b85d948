/*
 * refresh_order.c
 *		Which columns of a view depend on the order in which the rows of a group are read.
 */
#include "prod_analytics.h"

#include "access/nbtree.h"
#include "access/transam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/tlist.h"
#include "refresh_view.h"
#include "utils/lsyscache.h"

/* The aggregates whose result is the same in whatever order rows come. */
static const char *const order_free_aggregates[] = {
	"count", "min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor", "regr_count",
	"range_agg", "range_intersect_agg", "percentile_cont", "percentile_disc", "mode",
	"rank", "dense_rank", "percent_rank", "cume_dist"
};

/* Of these the ones that return one of the values that they read. */
static const char *const choosing_aggregates[] = {"min", "max", "mode", "percentile_disc"};

/* Those for which that holds unless they add floating-point numbers. */
static const char *const order_free_sums[] = {
	"sum", "avg", "variance", "var_pop", "var_samp", "stddev", "stddev_pop", "stddev_samp"
};

/* An output column of a view that is looked at. */
typedef struct Walk
{
	PaView	   *view;
	bool		shows_looks;	/* it can tell values apart that are equal */
} Walk;

/*
 * equal_is_identical tells whether values that compare equal look equal, so that it does not matter which of them
 * stands for a group: 1.0 and 1.00 are one numeric and two texts, unless the column's type says how many digits.
 */
static bool
equal_is_identical(Oid type, int32 typmod, Oid collation)
{
	Oid			base = getBaseTypeAndTypmod(type, &typmod);
	Oid			element = get_base_element_type(base);
	Oid			opclass = GetDefaultOpClass(base, BTREE_AM_OID);
	Oid			input;
	Oid			function;

	if (OidIsValid(element))
		return equal_is_identical(element, typmod, collation);
	if (base == NUMERICOID || base == BPCHAROID)
		return typmod >= 0;
	if (!OidIsValid(opclass))
		return false;

	input = get_opclass_input_type(opclass);
	function = get_opfamily_proc(get_opclass_family(opclass), input, input, BTEQUALIMAGE_PROC);

	return OidIsValid(function) && function < FirstNormalObjectId &&
		DatumGetBool(OidFunctionCall1Coll(function, collation, ObjectIdGetDatum(input)));
}

/*
 * is_identical tells that of the values of a key.
 *
 * What EXTRACT returns always has as many digits as the field that it extracts.
 */
static bool
is_identical(PaViewKey *key)
{
	static const char *const extract[] = {"extract"};

	if (IsA(key->expression, FuncExpr) && pa_is_named(((FuncExpr *) key->expression)->funcid, extract, 1))
		return true;

	return equal_is_identical(key->type, key->typmod, key->collation);
}

/*
 * is_sorted tells whether an aggregate sees its arguments in one order only, since it sorts by all of them.
 */
static bool
is_sorted(Aggref *aggregate)
{
	List	   *sorted = aggregate->aggdistinct != NIL ? aggregate->aggdistinct : aggregate->aggorder;
	ListCell   *cell;

	if (sorted == NIL)
		return false;

	foreach(cell, aggregate->args)
	{
		TargetEntry *argument = lfirst_node(TargetEntry, cell);
		Node	   *value = (Node *) argument->expr;

		if (argument->resjunk || IsA(value, Const))
			continue;
		if (get_sortgroupref_clause_noerr(argument->ressortgroupref, sorted) == NULL ||
			!equal_is_identical(exprType(value), exprTypmod(value), exprCollation(value)))
			return false;
	}

	return true;
}

/*
 * adds_floats tells whether an aggregate has an argument that is a floating-point number.
 */
static bool
adds_floats(Aggref *aggregate)
{
	ListCell   *cell;

	foreach(cell, aggregate->aggargtypes)
		if (lfirst_oid(cell) == FLOAT4OID || lfirst_oid(cell) == FLOAT8OID)
			return true;

	return false;
}

/*
 * aggregate_depends_on_order tells whether an aggregate can have another result when it reads the same rows in
 * another order.
 */
static bool
aggregate_depends_on_order(Aggref *aggregate)
{
	Oid			collation = aggregate->inputcollid;

	if (is_sorted(aggregate))
		return false;
	if (pa_is_named(aggregate->aggfnoid, order_free_aggregates, lengthof(order_free_aggregates)))
		return OidIsValid(collation) && !get_collation_isdeterministic(collation) &&
			aggregate->aggtype != INT8OID && aggregate->aggtype != FLOAT8OID;
	if (pa_is_named(aggregate->aggfnoid, order_free_sums, lengthof(order_free_sums)))
		return adds_floats(aggregate);

	return true;
}

/*
 * chooses_of_equal tells whether an aggregate returns one of values that are equal and look different: which one, is
 * decided by the order of rows.
 */
static bool
chooses_of_equal(Aggref *aggregate)
{
	Node	   *value;

	if (!pa_is_named(aggregate->aggfnoid, choosing_aggregates, lengthof(choosing_aggregates)))
		return false;
	value = (Node *) linitial_node(TargetEntry, aggregate->args)->expr;

	return !equal_is_identical(exprType(value), exprTypmod(value), exprCollation(value));
}

/*
 * shows_looks tells whether an output is text made of other values.  Outputs of most other types are compared by what they
 * are equal to.
 */
static bool
shows_looks(Node *output)
{
	Oid			type = getBaseType(exprType(output));
	char		category;
	bool		is_preferred;

	if (IsA(output, Aggref))
		return false;
	get_type_category_preferred(type, &category, &is_preferred);

	return category == TYPCATEGORY_STRING || type == JSONOID;
}

/*
 * depends_on_order walks over an expression in search of what depends on the order of rows.
 */
static bool
depends_on_order(Node *node, Walk *walk)
{
	PaView	   *view = walk->view;

	if (node == NULL)
		return false;
	check_stack_depth();

	if (IsA(node, Aggref))
		return aggregate_depends_on_order((Aggref *) node) || (walk->shows_looks && chooses_of_equal((Aggref *) node));

	for (int i = 0; i < view->key_count; i++)
		if (equal(node, view->keys[i].expression))
			return !is_identical(&view->keys[i]);

	/* A comparison takes values that are equal for one. */
	if (IsA(node, OpExpr) && ((OpExpr *) node)->opresulttype == BOOLOID)
	{
		Walk		below = {view, false};

		return expression_tree_walker(node, depends_on_order, (void *) &below);
	}

	return expression_tree_walker(node, depends_on_order, (void *) walk);
}

/*
 * pa_depends_on_order tells whether an output column of a view can have another value when the rows of its group are
 * read in another order.
 */
bool
pa_depends_on_order(PaView *view, Node *expression)
{
	Walk		walk = {view, shows_looks(expression)};

	return depends_on_order(expression, &walk);
}
