/*
 * refresh_expression.c
 *		What must be known of the expressions of a view: whether they always have the same result, and whether they
 *		can fail.
 */
#include "prod_analytics.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/heap.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "refresh_view.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* A walk over an expression in search of what keeps it from being maintained. */
typedef struct Inspection
{
	bool		is_key;			/* which writers evaluate */
	bool		clocks_only;	/* look for nothing but what changes by itself */
	Node	   *node;			/* where the walk is */
	char	   *problem;		/* a clause that follows the name of the expression */
} Inspection;

/* The aggregates that are STABLE because they convert values to JSON, some of which depend on settings then. */
static const char *const json_aggregates[] = {
	"json_agg", "json_agg_strict", "jsonb_agg", "jsonb_agg_strict",
	"json_object_agg", "json_object_agg_strict", "json_object_agg_unique", "json_object_agg_unique_strict",
	"jsonb_object_agg", "jsonb_object_agg_strict", "jsonb_object_agg_unique", "jsonb_object_agg_unique_strict"
};

/*
 * is_built_in tells whether an object came with the server.
 */
static bool
is_built_in(Oid object)
{
	return object < FirstNormalObjectId;
}

/*
 * pa_is_named tells whether a function came with the server and has one of the names.
 */
bool
pa_is_named(Oid function, const char *const *names, int count)
{
	char	   *name = is_built_in(function) ? get_func_name(function) : NULL;

	for (int i = 0; name && i < count; i++)
		if (strcmp(name, names[i]) == 0)
			return true;

	return false;
}

/*
 * clock_name is what users call a parameterless function of SQL, like CURRENT_DATE.
 */
static const char *
clock_name(SQLValueFunction *function)
{
	switch (function->op)
	{
		case SVFOP_CURRENT_DATE:
			return "CURRENT_DATE";
		case SVFOP_CURRENT_TIME:
		case SVFOP_CURRENT_TIME_N:
			return "CURRENT_TIME";
		case SVFOP_CURRENT_TIMESTAMP:
		case SVFOP_CURRENT_TIMESTAMP_N:
			return "CURRENT_TIMESTAMP";
		case SVFOP_LOCALTIME:
		case SVFOP_LOCALTIME_N:
			return "LOCALTIME";
		case SVFOP_LOCALTIMESTAMP:
		case SVFOP_LOCALTIMESTAMP_N:
			return "LOCALTIMESTAMP";
		case SVFOP_CURRENT_ROLE:
		case SVFOP_CURRENT_USER:
		case SVFOP_USER:
			return "CURRENT_USER";
		case SVFOP_SESSION_USER:
			return "SESSION_USER";
		case SVFOP_CURRENT_CATALOG:
			return "CURRENT_CATALOG";
		case SVFOP_CURRENT_SCHEMA:
			return "CURRENT_SCHEMA";
	}

	return "a parameterless function";
}

/*
 * call_text is what users call a node that calls a function.
 */
static char *
call_text(Node *node, Oid function)
{
	switch (nodeTag(node))
	{
		case T_FuncExpr:
			if (((FuncExpr *) node)->funcformat == COERCE_EXPLICIT_CAST ||
				((FuncExpr *) node)->funcformat == COERCE_IMPLICIT_CAST)
				return psprintf("cast to %s", format_type_be(exprType(node)));
			break;
		case T_CoerceViaIO:
			return psprintf("cast to %s", format_type_be(exprType(node)));
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
			return psprintf("operator %s", get_opname(((OpExpr *) node)->opno));
		case T_ScalarArrayOpExpr:
			return psprintf("operator %s", get_opname(((ScalarArrayOpExpr *) node)->opno));
		default:
			break;
	}

	return psprintf("%s()", get_func_name(function));
}

/*
 * speaks_of_instants tells whether a function has a parameter or a result that users see in their time zone.
 */
static bool
speaks_of_instants(Oid function)
{
	Oid		   *types;
	int			count;
	Oid			result = get_func_signature(function, &types, &count);

	for (int i = 0; i < count; i++)
		if (types[i] == TIMESTAMPTZOID || types[i] == TIMETZOID)
			return true;

	return result == TIMESTAMPTZOID || result == TIMETZOID;
}

/*
 * mutable_problem explains what is wrong with a function whose result can differ for the same arguments.
 */
static char *
mutable_problem(Node *node, Oid function)
{
	char	   *call = call_text(node, function);
	Oid			source = IsA(node, CoerceViaIO) ? exprType((Node *) ((CoerceViaIO *) node)->arg) : InvalidOid;
	Oid			target = IsA(node, CoerceViaIO) ? exprType(node) : InvalidOid;

	if (!is_built_in(function))
		return psprintf("uses %s, which is not immutable; declare it IMMUTABLE if its result depends on nothing but its arguments",
						call);
	if (func_volatile(function) == PROVOLATILE_VOLATILE)
		return psprintf("uses %s, which is volatile", call);
	if (source == TIMESTAMPTZOID || target == TIMESTAMPTZOID)
		return psprintf("depends on the settings TimeZone and DateStyle (%s); use AT TIME ZONE 'UTC'", call);
	if (source == DATEOID || source == TIMESTAMPOID || target == DATEOID || target == TIMESTAMPOID)
		return psprintf("depends on the setting DateStyle (%s)", call);
	if (!IsA(node, CoerceViaIO) && get_func_nargs(function) == 0)
		return psprintf("uses %s, whose result changes while no row does", call);
	if (speaks_of_instants(function) && strcmp(get_func_name(function), "to_char") != 0)
		return psprintf("depends on the setting TimeZone (%s); use AT TIME ZONE 'UTC'", call);

	return psprintf("uses %s, which is not immutable", call);
}

/*
 * pa_printing_setting names the setting by which values of a type are printed though their output function is called
 * immutable; NULL when there is none.
 */
const char *
pa_printing_setting(Oid type)
{
	switch (getBaseType(type))
	{
		case FLOAT4OID:
		case FLOAT8OID:
		case POINTOID:
		case LSEGOID:
		case PATHOID:
		case BOXOID:
		case POLYGONOID:
		case LINEOID:
		case CIRCLEOID:
			return "extra_float_digits";
		case BYTEAOID:
			return "bytea_output";
		default:
			return NULL;
	}
}

/*
 * output_problem finds fault with texts that depend on a setting.
 */
static char *
output_problem(CoerceViaIO *coercion)
{
	const char *setting = pa_printing_setting(exprType((Node *) coercion->arg));

	return setting ? psprintf("depends on the setting %s (%s)", setting, call_text((Node *) coercion, InvalidOid)) : NULL;
}

/*
 * subscript_problem finds fault with subscripts that a function of the type's author evaluates.
 */
static char *
subscript_problem(SubscriptingRef *reference)
{
	Oid			container = reference->refcontainertype;

	if (is_built_in(container) || OidIsValid(get_base_element_type(container)))
		return NULL;

	return psprintf("uses subscripts of type %s, which is not built in", format_type_be(container));
}

static Oid	mutable_in_json(Oid type);

/*
 * mutable_attribute is a type in rows of a composite type that JSON shows by the settings; InvalidOid when there is
 * none.
 */
static Oid
mutable_attribute(Oid type)
{
	TupleDesc	descriptor = lookup_rowtype_tupdesc_domain(type, -1, false);
	Oid			result = InvalidOid;

	for (int i = 0; i < descriptor->natts && !OidIsValid(result); i++)
		if (!TupleDescAttr(descriptor, i)->attisdropped)
			result = mutable_in_json(TupleDescAttr(descriptor, i)->atttypid);
	ReleaseTupleDesc(descriptor);

	return result;
}

/*
 * is_printed_alike tells whether a type's output function always prints the same.
 */
static bool
is_printed_alike(Oid type)
{
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(type, &output, &is_varlena);

	return func_volatile(output) == PROVOLATILE_IMMUTABLE;
}

/*
 * mutable_in_json is a type, in values of the type given, that JSON shows by the settings; InvalidOid when there is
 * none.  Dates and times without a zone have a format of their own there.
 */
static Oid
mutable_in_json(Oid type)
{
	Oid			base = getBaseType(type);
	Oid			element = get_element_type(base);
	Oid			cast_function;

	check_stack_depth();

	if (OidIsValid(element))
		return mutable_in_json(element);
	if (base == DATEOID || base == TIMESTAMPOID || type_is_enum(base))
		return InvalidOid;
	if (type_is_range(base))
		return is_printed_alike(get_range_subtype(base)) ? InvalidOid : base;
	if (type_is_multirange(base))
		return mutable_in_json(get_multirange_range(base));
	if (get_typtype(base) == TYPTYPE_COMPOSITE)
		return mutable_attribute(base);
	if (!is_built_in(base) &&
		find_coercion_pathway(JSONOID, base, COERCION_EXPLICIT, &cast_function) == COERCION_PATH_FUNC)
		return func_volatile(cast_function) == PROVOLATILE_IMMUTABLE ? InvalidOid : base;

	/* What a record consists of is not known. */
	return base != RECORDOID && is_printed_alike(base) ? InvalidOid : base;
}

/*
 * json_problem finds fault with an aggregate that makes JSON of values that it shows by the settings.
 */
static char *
json_problem(Aggref *aggregate)
{
	ListCell   *cell;

	foreach(cell, aggregate->aggargtypes)
	{
		Oid			type = mutable_in_json(lfirst_oid(cell));

		if (OidIsValid(type))
			return psprintf("uses %s with %s, whose text depends on settings like TimeZone",
							call_text((Node *) aggregate, aggregate->aggfnoid), format_type_be(type));
	}

	return NULL;
}

/*
 * check_function finds fault with a function that the expression calls; true ends the walk.
 */
static bool
check_function(Oid function, void *context)
{
	Inspection *inspection = context;

	if (IsA(inspection->node, Aggref) && !is_built_in(function))
		return false;
	if (IsA(inspection->node, Aggref) && pa_is_named(function, json_aggregates, lengthof(json_aggregates)))
	{
		inspection->problem = inspection->clocks_only ? NULL : json_problem((Aggref *) inspection->node);
		return inspection->problem != NULL;
	}

	if (inspection->clocks_only && func_volatile(function) != PROVOLATILE_VOLATILE && get_func_nargs(function) > 0)
		return false;
	if (func_volatile(function) != PROVOLATILE_IMMUTABLE)
		inspection->problem = mutable_problem(inspection->node, function);
	else if (inspection->is_key && !is_built_in(function))
		inspection->problem = psprintf("uses %s, which is not built in: writers would run it",
									   call_text(inspection->node, function));

	return inspection->problem != NULL;
}

/*
 * check_column finds fault with a column that is no ordinary one.
 */
static char *
check_column(Var *column, bool is_key)
{
	if (column->varattno < 0)
		return psprintf("uses the system column %s",
						NameStr(SystemAttributeDefinition(column->varattno)->attname));
	if (column->varattno == 0 && is_key)
		return pstrdup("is the whole row");

	return NULL;
}

/*
 * case_operator is an operator by which CASE compares its argument and that is not built in; InvalidOid when there is
 * none.
 */
static Oid
case_operator(CaseExpr *expression)
{
	ListCell   *cell;

	if (expression->arg == NULL)
		return InvalidOid;

	foreach(cell, expression->args)
	{
		Node	   *comparison = (Node *) lfirst_node(CaseWhen, cell)->expr;

		if (IsA(comparison, OpExpr) && !is_built_in(((OpExpr *) comparison)->opno))
			return ((OpExpr *) comparison)->opno;
	}

	return InvalidOid;
}

/*
 * named_operator is the operator of a node that is written without its schema, so that it must be built in to be
 * found again; InvalidOid when there is none.
 */
static Oid
named_operator(Node *node)
{
	switch (nodeTag(node))
	{
		case T_DistinctExpr:
		case T_NullIfExpr:
			return ((OpExpr *) node)->opno;
		case T_RowCompareExpr:
			return linitial_oid(((RowCompareExpr *) node)->opnos);
		case T_CaseExpr:
			return case_operator((CaseExpr *) node);
		default:
			return InvalidOid;
	}
}

/*
 * comparison_name is what users call a node that named_operator knows.
 */
static const char *
comparison_name(Node *node)
{
	switch (nodeTag(node))
	{
		case T_DistinctExpr:
			return "IS DISTINCT FROM";
		case T_NullIfExpr:
			return "NULLIF";
		case T_RowCompareExpr:
			return "a comparison of rows";
		default:
			return "CASE";
	}
}

/*
 * xml_problem finds fault with XML that is made of values whose text depends on settings.
 */
static char *
xml_problem(XmlExpr *expression, bool is_key)
{
	ListCell   *cell;

	if (is_key)
		return pstrdup("uses XML, which keys cannot");

	foreach(cell, list_concat_copy(expression->args, expression->named_args))
	{
		Oid			type = exprType(lfirst(cell));
		char		category;
		bool		is_preferred;

		get_type_category_preferred(type, &category, &is_preferred);
		if (type != XMLOID && category != TYPCATEGORY_STRING && category != TYPCATEGORY_NUMERIC)
			return psprintf("makes XML of %s, which depends on settings", format_type_be(type));
	}

	return NULL;
}

/*
 * node_problem finds fault with a node itself; NULL when there is none.
 */
static char *
node_problem(Node *node, Inspection *inspection)
{
	Oid			operator = named_operator(node);

	if (inspection->clocks_only && !IsA(node, SQLValueFunction))
		return NULL;
	if (OidIsValid(operator) && !is_built_in(operator))
		return psprintf("uses %s with operator %s, which is not built in", comparison_name(node), get_opname(operator));

	switch (nodeTag(node))
	{
		case T_Var:
			return check_column((Var *) node, inspection->is_key);
		case T_SQLValueFunction:
			return psprintf("uses %s, whose result changes while no row does",
							clock_name((SQLValueFunction *) node));
		case T_NextValueExpr:
			return pstrdup("draws numbers from a sequence");
		case T_GroupingFunc:
			return pstrdup("uses GROUPING()");
		case T_CoerceToDomain:
			if (inspection->is_key)
				return psprintf("casts to the domain %s, whose checks writers would run", format_type_be(exprType(node)));
			return NULL;
		case T_MinMaxExpr:
			if (inspection->is_key && !is_built_in(((MinMaxExpr *) node)->minmaxtype))
				return psprintf("compares values of type %s, which is not built in", format_type_be(exprType(node)));
			return NULL;
		case T_SubscriptingRef:
			return inspection->is_key ? subscript_problem((SubscriptingRef *) node) : NULL;
		case T_CoerceViaIO:
			return inspection->is_key ? output_problem((CoerceViaIO *) node) : NULL;
		case T_XmlExpr:
			return xml_problem((XmlExpr *) node, inspection->is_key);
		default:
			return NULL;
	}
}

/*
 * is_known tells whether a node calls nothing but what check_functions_in_node finds.
 */
static bool
is_known(Node *node)
{
	switch (nodeTag(node))
	{
		case T_List:
		case T_Var:
		case T_Const:
		case T_Aggref:
		case T_TargetEntry:
		case T_SortGroupClause:
		case T_FuncExpr:
		case T_NamedArgExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_ConvertRowtypeExpr:
		case T_CoerceToDomain:
		case T_CollateExpr:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_ArrayExpr:
		case T_RowExpr:
		case T_RowCompareExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_FieldSelect:
		case T_SubscriptingRef:
		case T_NullTest:
		case T_BooleanTest:
			return true;
		default:
			return false;
	}
}

/*
 * unknown_problem finds fault with a node of another kind, like those of SQL/JSON.
 */
static char *
unknown_problem(Node *node, bool is_key)
{
	if (IsA(node, XmlExpr))
		return NULL;
	if (is_key)
		return pstrdup("uses syntax that keys cannot have, like that of SQL/JSON");

	return contain_mutable_functions(node) ? pstrdup("is not immutable") : NULL;
}

/*
 * arguments_of are the arguments of a function, those that it has by default included: a default may be mutable.
 */
static List *
arguments_of(FuncExpr *call)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(call->funcid));
	List	   *arguments;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", call->funcid);
	arguments = expand_function_arguments(copyObject(call->args), false, call->funcresulttype, tuple);
	ReleaseSysCache(tuple);

	return arguments;
}

/*
 * inspect walks over an expression until it has found a problem.
 */
static bool
inspect(Node *node, Inspection *inspection)
{
	if (node == NULL)
		return false;
	check_stack_depth();

	inspection->node = node;
	inspection->problem = node_problem(node, inspection);
	if (inspection->problem || check_functions_in_node(node, check_function, inspection))
		return true;
	if (!inspection->clocks_only && !is_known(node))
		inspection->problem = unknown_problem(node, inspection->is_key);
	if (inspection->problem)
		return true;
	if (IsA(node, FuncExpr))
		return inspect((Node *) arguments_of((FuncExpr *) node), inspection);

	return expression_tree_walker(node, inspect, (void *) inspection);
}

/*
 * pa_expression_problem tells why an expression of a view cannot be maintained, as a clause that follows its name;
 * NULL when it can.
 *
 * Keys are evaluated by whoever writes to the source: what they call must be built in, or its author's code would
 * run with the rights of others.
 */
char *
pa_expression_problem(Node *expression, bool is_key)
{
	Inspection	inspection = {0};

	/* now() is the better explanation for what is wrong with now() - interval '1 day'. */
	inspection.is_key = is_key;
	inspection.clocks_only = true;
	if (!inspect(expression, &inspection))
	{
		inspection.clocks_only = false;
		(void) inspect(expression, &inspection);
	}

	return inspection.problem;
}
