/*
 * refresh_total.c
 *		Which expressions have a value for every row.
 *
 * The capture trigger evaluates such ones only: an error would fail the statement of somebody who knows nothing of
 * the view, maybe for a row that the view's WHERE leaves out before it comes to the expression.
 *
 * The server says of some functions that they raise no error: the leakproof ones.  Here are others that are common
 * in keys.  At the very ends of time some of them do raise one.
 */
#include "prod_analytics.h"

#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "refresh_view.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* More days in a bin are not looked into. */
#define LONGEST_BIN INT64CONST(366000)

/*
 * is_value tells whether an argument is a constant that is not NULL.
 */
static bool
is_value(Node *argument)
{
	return IsA(argument, Const) && !((Const *) argument)->constisnull;
}

/*
 * is_listed tells whether an argument is one of some words.
 */
static bool
is_listed(Node *argument, const char *const *words, int count)
{
	char	   *word = is_value(argument) ? TextDatumGetCString(((Const *) argument)->constvalue) : NULL;

	for (int i = 0; word && i < count; i++)
		if (pg_strcasecmp(word, words[i]) == 0)
			return true;

	return false;
}

/*
 * is_unit tells whether an argument is a unit that times can be cut to; "of_date" are units that dates have too.
 *
 * Other words may be units as well, or mistakes that fail for each row.
 */
static bool
is_unit(Node *argument, bool of_date)
{
	static const char *const units[] = {
		"day", "week", "month", "quarter", "year", "decade", "century", "millennium",
		"hour", "minute", "second", "milliseconds", "microseconds"
	};

	return is_listed(argument, units, of_date ? 8 : lengthof(units));
}

/*
 * is_field tells whether an argument is a field that can be extracted from times, or from dates.
 */
static bool
is_field(Node *argument, bool of_date)
{
	static const char *const fields[] = {"dow", "isodow", "doy", "isoyear", "julian", "epoch"};

	return is_unit(argument, of_date) || is_listed(argument, fields, lengthof(fields));
}

/*
 * is_zone tells whether an argument is a time zone that there is, and that is the same in all sessions: what a setting
 * makes of an abbreviation like EST must not decide which group a writer notes.
 */
static bool
is_zone(Node *argument)
{
	static const char *const universal[] = {"UTC", "GMT"};
	char	   *name;

	if (is_listed(argument, universal, lengthof(universal)))
		return true;
	name = is_value(argument) ? TextDatumGetCString(((Const *) argument)->constvalue) : NULL;

	return name && strchr(name, '/') && pg_tzset(name) != NULL;
}

/*
 * are_bins tells whether date_bin() can be called with a stride and an origin.
 */
static bool
are_bins(Node *stride, Node *origin)
{
	Interval   *length = is_value(stride) ? DatumGetIntervalP(((Const *) stride)->constvalue) : NULL;

	return length && length->month == 0 && length->day >= 0 && length->day <= LONGEST_BIN && length->time >= 0 &&
		length->time <= LONGEST_BIN * USECS_PER_DAY && (length->day > 0 || length->time > 0) &&
		is_value(origin) && !TIMESTAMP_NOT_FINITE(DatumGetTimestamp(((Const *) origin)->constvalue));
}

/*
 * is_divisor tells whether an integer can be divided by an argument: a constant but 0, and but -1, by which the
 * smallest integer cannot.
 */
static bool
is_divisor(Node *argument)
{
	int64		value;

	if (!is_value(argument))
		return false;

	switch (((Const *) argument)->consttype)
	{
		case INT2OID:
			value = DatumGetInt16(((Const *) argument)->constvalue);
			break;
		case INT4OID:
			value = DatumGetInt32(((Const *) argument)->constvalue);
			break;
		case INT8OID:
			value = DatumGetInt64(((Const *) argument)->constvalue);
			break;
		default:
			return false;
	}

	return value != 0 && value != -1;
}

/*
 * is_total tells whether a function has a value whatever those of its arguments are.
 */
static bool
is_total(Oid function, List *arguments)
{
	switch (function)
	{
		case F_LOWER_TEXT:
		case F_UPPER_TEXT:
		case F_INITCAP:
		case F_BTRIM_TEXT:
		case F_BTRIM_TEXT_TEXT:
		case F_LTRIM_TEXT:
		case F_RTRIM_TEXT:
		case F_MD5_TEXT:
		case F_LENGTH_TEXT:
		case F_CHAR_LENGTH_TEXT:
		case F_OCTET_LENGTH_TEXT:
		case F_LEFT:
		case F_RIGHT:
		case F_TEXTCAT:
		case F_STARTS_WITH:
		case F_STRPOS:
		case F_DATE_TIMESTAMP:
		case F_ISFINITE_DATE:
		case F_ISFINITE_TIMESTAMP:
		case F_ISFINITE_TIMESTAMPTZ:
		case F_JSONB_OBJECT_FIELD:
		case F_JSONB_OBJECT_FIELD_TEXT:
		case F_JSONB_ARRAY_ELEMENT:
		case F_JSONB_ARRAY_ELEMENT_TEXT:
		case F_JSONB_EXTRACT_PATH:
		case F_JSONB_EXTRACT_PATH_TEXT:
		case F_JSONB_EXISTS:
		case F_JSONB_CONTAINS:
		case F_JSONB_TYPEOF:
		case F_ROUND_NUMERIC:
		case F_TRUNC_NUMERIC:
		case F_FLOOR_NUMERIC:
		case F_CEIL_NUMERIC:
		case F_ABS_NUMERIC:
		case F_SIGN_NUMERIC:
		case F_INT4_BOOL:
		case F_BOOL_INT4:
			return true;
		case F_TIMEZONE_TEXT_TIMESTAMPTZ:
		case F_TIMEZONE_TEXT_TIMESTAMP:
			return is_zone(linitial(arguments));
		case F_DATE_TRUNC_TEXT_TIMESTAMP:
			return is_unit(linitial(arguments), false);
		case F_EXTRACT_TEXT_TIMESTAMP:
		case F_DATE_PART_TEXT_TIMESTAMP:
		case F_DATE_PART_TEXT_DATE:
			return is_field(linitial(arguments), false);
		case F_EXTRACT_TEXT_DATE:
			return is_field(linitial(arguments), true);
		case F_DATE_BIN_INTERVAL_TIMESTAMP_TIMESTAMP:
		case F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ:
			return are_bins(linitial(arguments), lthird(arguments));
		case F_INT2MOD:
		case F_INT4MOD:
		case F_INT8MOD:
		case F_MOD_INT2_INT2:
		case F_MOD_INT4_INT4:
		case F_MOD_INT8_INT8:
		case F_INT2DIV:
		case F_INT4DIV:
		case F_INT8DIV:
		case F_INT84DIV:
		case F_INT48DIV:
			return is_divisor(lsecond(arguments));
		default:
			return false;
	}
}

/*
 * lacks_collation tells whether a node has to do with texts, and it is not known by which collation, or by one that finds
 * different texts equal: some functions do without, others fail.
 */
static bool
lacks_collation(Node *node)
{
	Oid			collation = exprInputCollation(node);
	ListCell   *cell;

	if (OidIsValid(collation))
		return !get_collation_isdeterministic(collation);
	if (!IsA(node, FuncExpr) && !IsA(node, OpExpr) && !IsA(node, DistinctExpr) && !IsA(node, NullIfExpr) &&
		!IsA(node, ScalarArrayOpExpr))
		return false;

	foreach(cell, IsA(node, FuncExpr) ? ((FuncExpr *) node)->args :
			IsA(node, ScalarArrayOpExpr) ? ((ScalarArrayOpExpr *) node)->args : ((OpExpr *) node)->args)
		if (type_is_collatable(exprType(lfirst(cell))))
			return true;

	return false;
}

/*
 * is_printed tells whether a conversion prints a value of a built-in type that is not made of others: that of a
 * user's type may do anything.  What a setting of the writer's prints is left to the refresh.
 */
static bool
is_printed(CoerceViaIO *conversion)
{
	Oid			type = exprType((Node *) conversion->arg);

	return conversion->resulttype == TEXTOID && type < FirstNormalObjectId && get_typtype(type) == TYPTYPE_BASE &&
		!OidIsValid(get_element_type(type)) && pa_printing_setting(type) == NULL;
}

/*
 * may_fail tells whether a function might raise an error; only the server's own word is trusted.
 */
static bool
may_fail(Oid function, void *context)
{
	return function >= FirstNormalObjectId || func_volatile(function) != PROVOLATILE_IMMUTABLE ||
		!get_func_leakproof(function);
}

/*
 * calls_may_fail tells whether what a node itself calls might raise an error.
 */
static bool
calls_may_fail(Node *node)
{
	if (lacks_collation(node))
		return true;
	if (IsA(node, FuncExpr) && is_total(((FuncExpr *) node)->funcid, ((FuncExpr *) node)->args))
		return false;
	if (IsA(node, OpExpr) && is_total(get_opcode(((OpExpr *) node)->opno), ((OpExpr *) node)->args))
		return false;
	if (IsA(node, CoerceViaIO))
		return !is_printed((CoerceViaIO *) node);

	return check_functions_in_node(node, may_fail, NULL);
}

/*
 * find_failure walks over an expression in search of what might raise an error.
 */
static bool
find_failure(Node *node, void *context)
{
	if (node == NULL)
		return false;
	check_stack_depth();

	switch (nodeTag(node))
	{
		case T_Var:
			return ((Var *) node)->varattno <= 0;
		case T_ArrayExpr:
			if (((ArrayExpr *) node)->multidims)
				return true;
			break;
		case T_SubscriptingRef:
			if (((SubscriptingRef *) node)->refassgnexpr)
				return true;
			break;
		case T_List:
		case T_Const:
		case T_FuncExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_RelabelType:
		case T_CollateExpr:
		case T_CoerceViaIO:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_CoalesceExpr:
		case T_NullTest:
		case T_BooleanTest:
			break;
		default:
			return true;
	}

	return calls_may_fail(node) || expression_tree_walker(node, find_failure, context);
}

/*
 * pa_cannot_fail tells whether an expression can be evaluated for any row without an error.
 */
bool
pa_cannot_fail(Node *expression)
{
	return !find_failure(expression, NULL);
}
