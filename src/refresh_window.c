/*
 * refresh_window.c
 *		In which range of the source's partition key the rows of a group lie.
 *
 * A key like date_trunc('day', ts AT TIME ZONE 'UTC') is the partition key seen through a chain of steps, each of
 * which moves it by no more than some span.
 */
#include "prod_analytics.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_attrdef.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_partitioned_table.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/scansup.h"
#include "partition.h"
#include "refresh_view.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* No real zone is further from UTC, and none jumps over more. */
#define ZONE_SLACK (25 * USECS_PER_HOUR)

/* A zone in POSIX notation can be a week away. */
#define POSIX_SLACK (170 * USECS_PER_HOUR)

/* Further than that the bounds tell nothing. */
#define LONGEST_UNIT (INT64CONST(800000) * USECS_PER_DAY)

/* By how much a chain of steps moves a column. */
typedef struct Bounds
{
	Oid			relation;
	AttrNumber	column;			/* the partition key there */
	int64		unit;
	int64		slack;
	int64		phase;			/* where in a unit its beginnings are, counted from 2000-01-01 00:00 */
	bool		whole_days;		/* the chain ends on midnights */
	bool		is_rough;		/* a unit may be shorter than that */
	int			cuts;			/* steps that cut something off */
} Bounds;

/*
 * partition_column is the column by whose ranges a table is partitioned; 0 when there is no such.
 */
static AttrNumber
partition_column(Oid source)
{
	HeapTuple	tuple = SearchSysCache1(PARTRELID, ObjectIdGetDatum(source));
	Form_pg_partitioned_table form;
	AttrNumber	column = 0;

	if (!HeapTupleIsValid(tuple))
		return 0;

	form = (Form_pg_partitioned_table) GETSTRUCT(tuple);
	if (form->partstrat == PARTITION_STRATEGY_RANGE && form->partnatts == 1)
		column = form->partattrs.values[0];
	ReleaseSysCache(tuple);

	return column;
}

/*
 * generation_expression is what a stored generated column is computed from; NULL when the column is not one.
 */
static Node *
generation_expression(Oid relation, AttrNumber column)
{
	Relation	defaults;
	SysScanDesc scan;
	ScanKeyData keys[2];
	HeapTuple	tuple;
	Node	   *expression = NULL;

	if (get_attgenerated(relation, column) != ATTRIBUTE_GENERATED_STORED)
		return NULL;

	defaults = table_open(AttrDefaultRelationId, AccessShareLock);
	ScanKeyInit(&keys[0], Anum_pg_attrdef_adrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
	ScanKeyInit(&keys[1], Anum_pg_attrdef_adnum, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(column));
	scan = systable_beginscan(defaults, AttrDefaultIndexId, true, NULL, 2, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		binary = heap_getattr(tuple, Anum_pg_attrdef_adbin, RelationGetDescr(defaults), &isnull);

		expression = isnull ? NULL : stringToNode(TextDatumGetCString(binary));
	}
	systable_endscan(scan);
	table_close(defaults, AccessShareLock);

	return expression;
}

/*
 * zone_slack is how far a constant time zone can be from UTC; -1 when that is not known.
 */
static int64
zone_slack(Node *zone)
{
	Const	   *constant = (Const *) zone;
	char	   *name;

	if (!IsA(zone, Const) || constant->constisnull)
		return -1;
	if (constant->consttype == INTERVALOID)
	{
		Interval   *offset = DatumGetIntervalP(constant->constvalue);

		return offset->month == 0 && offset->day == 0 && offset->time > -USECS_PER_DAY && offset->time < USECS_PER_DAY ?
			ZONE_SLACK : -1;
	}

	name = TextDatumGetCString(constant->constvalue);
	if (pg_strcasecmp(name, "UTC") == 0 || pg_strcasecmp(name, "GMT") == 0)
		return 0;

	return strpbrk(name, "0123456789") ? POSIX_SLACK : ZONE_SLACK;
}

/*
 * trunc_unit is the length of a unit of date_trunc(), the longest there is of it; -1 when it is not known.
 */
static int64
trunc_unit(Node *name)
{
	Const	   *constant = (Const *) name;
	char	   *unit;
	int			value;

	if (!IsA(name, Const) || constant->constisnull)
		return -1;
	unit = TextDatumGetCString(constant->constvalue);
	if (DecodeUnits(0, downcase_truncate_identifier(unit, strlen(unit), false), &value) != UNITS)
		return -1;

	switch (value)
	{
		case DTK_MICROSEC:
		case DTK_MILLISEC:
		case DTK_SECOND:
			return USECS_PER_SEC;
		case DTK_MINUTE:
			return USECS_PER_MINUTE;
		case DTK_HOUR:
			return USECS_PER_HOUR;
		case DTK_DAY:
			return USECS_PER_DAY;
		case DTK_WEEK:
			return 7 * USECS_PER_DAY;
		case DTK_MONTH:
			return 31 * USECS_PER_DAY;
		case DTK_QUARTER:
			return 92 * USECS_PER_DAY;
		case DTK_YEAR:
			return 366 * USECS_PER_DAY;
		case DTK_DECADE:
			return INT64CONST(3660) * USECS_PER_DAY;
		case DTK_CENTURY:
			return INT64CONST(36600) * USECS_PER_DAY;
		case DTK_MILLENNIUM:
			return INT64CONST(366000) * USECS_PER_DAY;
		default:
			return -1;
	}
}

/*
 * bin_unit is the length of a bin of date_bin(); -1 when it is not known.
 */
static int64
bin_unit(Node *stride)
{
	Const	   *constant = (Const *) stride;
	Interval   *bin;

	if (!IsA(stride, Const) || constant->constisnull)
		return -1;
	bin = DatumGetIntervalP(constant->constvalue);
	if (bin->month != 0 || bin->day < 0 || bin->day > 366000 || bin->time < 0 || bin->time > LONGEST_UNIT / 2)
		return -1;

	return bin->day * USECS_PER_DAY + bin->time;
}

/*
 * is_rough_unit tells whether a unit of date_trunc() may be shorter than trunc_unit says.
 */
static bool
is_rough_unit(int64 unit)
{
	return unit == USECS_PER_SEC || unit > 7 * USECS_PER_DAY;
}

/*
 * add_unit adds a step that cuts off what is within a unit; false when the unit is not known.
 *
 * What ends on midnights already is not moved by a cut to the day or to less.
 */
static bool
add_unit(Bounds *bounds, int64 unit, bool of_calendar)
{
	/* Weeks begin on Mondays, and that was a Saturday. */
	if (of_calendar)
		bounds->phase = unit == 7 * USECS_PER_DAY ? 2 * USECS_PER_DAY : 0;
	if (unit < 0)
		return false;
	if (of_calendar && bounds->whole_days && unit <= USECS_PER_DAY)
		return true;

	bounds->unit += unit;
	bounds->cuts++;
	bounds->is_rough |= of_calendar && is_rough_unit(unit);
	bounds->whole_days = of_calendar && unit >= USECS_PER_DAY;

	return bounds->unit <= LONGEST_UNIT;
}

/*
 * add_bin adds a step of date_bin(), whose arguments are given; false when the length of a bin is not known.
 */
static bool
add_bin(Bounds *bounds, List *arguments)
{
	int64		unit = bin_unit(linitial(arguments));
	Const	   *origin = lthird(arguments);

	if (!add_unit(bounds, unit, false))
		return false;

	if (IsA(origin, Const) && !origin->constisnull && unit > 0)
		bounds->phase = ((DatumGetTimestamp(origin->constvalue) % unit) + unit) % unit;
	else
		bounds->is_rough = true;

	return true;
}

/*
 * add_slack adds a step that moves a time either way; false when it is not known by how much.
 */
static bool
add_slack(Bounds *bounds, int64 slack)
{
	if (slack < 0)
		return false;

	bounds->slack += slack;
	if (slack > 0)
		bounds->whole_days = false;

	return bounds->slack <= LONGEST_UNIT;
}

/*
 * add_steps finds out how far an expression is from the partition key; false when it cannot tell.
 */
static bool
add_steps(Node *node, Bounds *bounds)
{
	FuncExpr   *step = (FuncExpr *) node;

	check_stack_depth();

	if (IsA(node, Var))
	{
		AttrNumber	column = ((Var *) node)->varattno;
		Node	   *generation;

		bounds->whole_days = ((Var *) node)->vartype == DATEOID;
		if (column == bounds->column)
			return true;
		generation = column > 0 ? generation_expression(bounds->relation, column) : NULL;

		return generation && add_steps(generation, bounds);
	}
	if (!IsA(node, FuncExpr))
		return false;

	switch (step->funcid)
	{
		case F_TIMESTAMP_DATE:
			return add_steps(linitial(step->args), bounds);
		case F_DATE_TIMESTAMP:
			return add_steps(linitial(step->args), bounds) && add_unit(bounds, USECS_PER_DAY, true);
		case F_DATE_TRUNC_TEXT_TIMESTAMP:
			return add_steps(lsecond(step->args), bounds) && add_unit(bounds, trunc_unit(linitial(step->args)), true);
		case F_TIMEZONE_TEXT_TIMESTAMPTZ:
		case F_TIMEZONE_TEXT_TIMESTAMP:
		case F_TIMEZONE_INTERVAL_TIMESTAMPTZ:
		case F_TIMEZONE_INTERVAL_TIMESTAMP:
			return add_steps(lsecond(step->args), bounds) && add_slack(bounds, zone_slack(linitial(step->args)));
		case F_TIMESTAMP_TIMESTAMP_INT4:
		case F_TIMESTAMPTZ_TIMESTAMPTZ_INT4:
			return add_steps(linitial(step->args), bounds) && add_slack(bounds, USECS_PER_SEC);
		case F_DATE_BIN_INTERVAL_TIMESTAMP_TIMESTAMP:
		case F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ:
			return add_steps(lsecond(step->args), bounds) && add_bin(bounds, step->args);
		default:
			return false;
	}
}

/*
 * holds_in tells whether bounds that hold in a table hold in a partition of it, whose generated columns may be
 * computed otherwise.
 */
static bool
holds_in(Oid partition, PaView *view, Var *column, Bounds *expected)
{
	Bounds		bounds = {0};
	AttrNumber	attribute;
	Node	   *generation;

	attribute = get_attnum(partition, get_attname(view->source, column->varattno, false));
	bounds.relation = partition;
	bounds.column = get_attnum(partition, get_attname(view->source, expected->column, false));
	generation = attribute > 0 ? generation_expression(partition, attribute) : NULL;

	return generation && add_steps(generation, &bounds) &&
		bounds.unit <= expected->unit && bounds.slack <= expected->slack &&
		(bounds.whole_days || !expected->whole_days);
}

/*
 * holds_in_partitions tells whether the bounds of an expression hold in all partitions.
 */
static bool
holds_in_partitions(PaView *view, Node *expression, Bounds *bounds)
{
	List	   *columns = pull_var_clause(expression, 0);
	Var		   *column = linitial_node(Var, columns);
	Bounds		generated = {0};
	ListCell   *cell;

	if (column->varattno == bounds->column)
		return true;

	generated.relation = view->source;
	generated.column = bounds->column;
	if (!add_steps((Node *) column, &generated))
		return false;
	foreach(cell, pa_unlocked_tree(view->source))
	{
		Oid			partition = lfirst_oid(cell);

		/* In one that is dropped at this moment nothing has to hold. */
		if (partition != view->source && !holds_in(partition, view, column, &generated) &&
			SearchSysCacheExists1(RELOID, ObjectIdGetDatum(partition)))
			return false;
	}

	return true;
}

/*
 * pa_find_window looks for the key that bounds the partition key best.
 */
void
pa_find_window(PaView *view)
{
	PaViewWindow *window = &view->window;
	AttrNumber	column = partition_column(view->source);
	Oid			type = column ? get_atttype(view->source, column) : InvalidOid;

	if (type != TIMESTAMPTZOID && type != TIMESTAMPOID && type != DATEOID)
		return;

	for (int i = 0; i < view->key_count; i++)
	{
		PaViewKey  *key = &view->keys[i];
		Bounds		bounds = {0};

		bounds.relation = view->source;
		bounds.column = column;
		if ((key->type != TIMESTAMPTZOID && key->type != TIMESTAMPOID && key->type != DATEOID) ||
			!add_steps(key->expression, &bounds) ||
			!holds_in_partitions(view, key->expression, &bounds))
			continue;
		if (window->column && window->unit + 2 * window->slack <= bounds.unit + 2 * bounds.slack)
			continue;

		window->column = column;
		window->type = type;
		window->key = i;
		window->unit = bounds.unit;
		window->slack = bounds.slack;
		window->phase = bounds.phase;
		/* A date cannot be compared with what is between midnights. */
		window->is_exact = bounds.cuts == 1 && !bounds.is_rough && bounds.slack == 0 &&
			(type != DATEOID || bounds.whole_days);
	}
}

/*
 * key_time is a finite key as microseconds since 2000; false when they are too many.
 */
static bool
key_time(Oid type, Datum key, Timestamp *time)
{
	if (type != DATEOID)
		*time = DatumGetTimestamp(key);
	else if (DatumGetDateADT(key) >= TIMESTAMP_END_JULIAN - POSTGRES_EPOCH_JDATE)
		return false;
	else
		*time = DatumGetDateADT(key) * USECS_PER_DAY;

	return true;
}

/*
 * key_is_infinite tells whether a key is one of the ends of time; *late: which.
 */
static bool
key_is_infinite(Oid type, Datum key, bool *late)
{
	if (type == DATEOID)
	{
		*late = DATE_IS_NOEND(DatumGetDateADT(key));
		return DATE_NOT_FINITE(DatumGetDateADT(key));
	}

	*late = TIMESTAMP_IS_NOEND(DatumGetTimestamp(key));
	return TIMESTAMP_NOT_FINITE(DatumGetTimestamp(key));
}

/*
 * bound is a time as a value of the partition key; what lies beyond the ends of the type is infinite.
 */
static Datum
bound(Oid type, Timestamp time)
{
	if (time < MIN_TIMESTAMP)
		return type == DATEOID ? DateADTGetDatum(DATEVAL_NOBEGIN) : TimestampGetDatum(DT_NOBEGIN);
	if (time >= END_TIMESTAMP)
		return type == DATEOID ? DateADTGetDatum(DATEVAL_NOEND) : TimestampGetDatum(DT_NOEND);
	if (type == DATEOID)
		return DateADTGetDatum((DateADT) (time >= 0 ? time / USECS_PER_DAY : -((-time + USECS_PER_DAY - 1) / USECS_PER_DAY)));

	return TimestampGetDatum(time);
}

/*
 * pa_view_window is the range of the partition key, both ends included, outside of which no row of a group lies.
 * "key" is the value of the key that bounds it; false when it tells nothing.
 */
bool
pa_view_window(PaView *view, Datum key, Datum *lowest, Datum *highest)
{
	PaViewWindow *window = &view->window;
	Oid			type;
	Timestamp	time;
	Timestamp	first;
	Timestamp	last;
	bool		late;

	if (window->column == 0)
		return false;

	type = view->keys[window->key].type;
	if (key_is_infinite(type, key, &late))
	{
		*lowest = bound(window->type, late ? PG_INT64_MAX : PG_INT64_MIN);
		*highest = *lowest;
		return true;
	}
	if (type == window->type && window->unit == 0 && window->slack == 0)
	{
		*lowest = key;
		*highest = key;
		return true;
	}
	if (!key_time(type, key, &time))
		return false;

	if (pg_sub_s64_overflow(time, window->slack, &first))
		first = PG_INT64_MIN;
	if (pg_add_s64_overflow(time, window->slack + window->unit, &last))
		last = PG_INT64_MAX;
	*lowest = bound(window->type, first);
	*highest = bound(window->type, last);

	return true;
}

/*
 * pa_view_window_is_exact tells whether the range of the partition key that pa_view_window tells holds the rows of a
 * group and no others, when its upper end is left out.  A key that no row can have is not the beginning of a unit.
 */
bool
pa_view_window_is_exact(PaView *view, Datum key)
{
	PaViewWindow *window = &view->window;
	Oid			type = window->column ? view->keys[window->key].type : InvalidOid;
	Timestamp	time;
	bool		late;

	return window->column != 0 && window->is_exact && !key_is_infinite(type, key, &late) &&
		key_time(type, key, &time) && (time - window->phase) % window->unit == 0;
}
