/*
 * partition_bounds.c
 *		Where partitions begin and end.
 *
 * A policy cuts time into slots: stretches of its width, whose bounds are whole hours, days or
 * months in its time zone.  A day across a change of DST is a slot of 23 or 25 hours.  Partitions
 * are made one a slot, or for what existing partitions leave free of it.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "partition.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* The Unix epoch in our microseconds, and in days: a Thursday.  Weeks begin on Mondays. */
#define UNIX_EPOCH_DAY (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE)
#define UNIX_EPOCH ((int64) UNIX_EPOCH_DAY * USECS_PER_DAY)
#define FIRST_MONDAY (UNIX_EPOCH_DAY + 4)

#define DAYS_PER_WEEK 7

static void
out_of_range(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("timestamp out of range")));
}

/*
 * floor_div divides and rounds towards minus infinity.
 */
static int64
floor_div(int64 a, int64 b)
{
	return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

/*
 * has_zone tells whether keys are instants, which show different wall-clock times in different
 * zones, rather than wall-clock times themselves.
 */
static bool
has_zone(PaPolicy *policy)
{
	return policy->type == TIMESTAMPTZOID || policy->type == INT8OID;
}

/*
 * instant_of_key and key_of_instant convert between instants and the keys of a policy with a zone.
 */
static TimestampTz
instant_of_key(PaPolicy *policy, PaKey key)
{
	int64		instant = key;

	if (policy->type == INT8OID &&
		(pg_mul_s64_overflow(key, policy->unit, &instant) ||
		 pg_add_s64_overflow(instant, UNIX_EPOCH, &instant)))
		out_of_range();
	if (!IS_VALID_TIMESTAMP(instant))
		out_of_range();

	return instant;
}

static PaKey
key_of_instant(PaPolicy *policy, TimestampTz instant)
{
	return policy->type == INT8OID ? floor_div(instant - UNIX_EPOCH, policy->unit) : instant;
}

/*
 * to_local is what a clock in the policy's time zone shows at an instant.
 */
static Timestamp
to_local(PaPolicy *policy, TimestampTz instant)
{
	return DatumGetTimestamp(DirectFunctionCall2(timestamptz_zone,
												 CStringGetTextDatum(policy->timezone),
												 TimestampTzGetDatum(instant)));
}

/*
 * to_instant is when a clock in the policy's time zone shows a time; a time that is skipped there
 * is the moment of the change.
 */
static TimestampTz
to_instant(PaPolicy *policy, Timestamp local)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamp_zone,
												   CStringGetTextDatum(policy->timezone),
												   TimestampGetDatum(local)));
}

static Timestamp
local_of_key(PaPolicy *policy, PaKey key)
{
	return has_zone(policy) ? to_local(policy, instant_of_key(policy, key)) : key;
}

static PaKey
key_of_local(PaPolicy *policy, Timestamp local)
{
	return has_zone(policy) ? key_of_instant(policy, to_instant(policy, local)) : local;
}

/*
 * pa_key_at is the key of an event that happens at an instant.
 */
PaKey
pa_key_at(PaPolicy *policy, TimestampTz at)
{
	return has_zone(policy) ? key_of_instant(policy, at) : to_local(policy, at);
}

/*
 * add_interval moves a wall-clock time.
 */
static Timestamp
add_interval(Timestamp local, const Interval *span, int sign)
{
	PGFunction	function = sign > 0 ? timestamp_pl_interval : timestamp_mi_interval;

	return DatumGetTimestamp(DirectFunctionCall2(function, TimestampGetDatum(local),
												 IntervalPGetDatum(span)));
}

/*
 * month_floor is the beginning of the stretch of "months" months that holds a wall-clock time.
 *
 * Months count from January of the year 0, so that quarters and years begin where people expect.
 */
static Timestamp
month_floor(Timestamp local, int months)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int64		month;
	Timestamp	result;

	if (timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0)
		out_of_range();

	month = floor_div((int64) tm.tm_year * MONTHS_PER_YEAR + tm.tm_mon - 1, months) * months;
	memset(&tm, 0, sizeof(tm));
	tm.tm_year = floor_div(month, MONTHS_PER_YEAR);
	tm.tm_mon = month - (int64) tm.tm_year * MONTHS_PER_YEAR + 1;
	tm.tm_mday = 1;
	if (tm2timestamp(&tm, 0, NULL, &result) != 0)
		out_of_range();

	return result;
}

/*
 * day_floor is the beginning of the stretch of "days" days that holds a wall-clock time.
 */
static Timestamp
day_floor(Timestamp local, int days)
{
	int64		origin = (days % DAYS_PER_WEEK == 0) ? FIRST_MONDAY : UNIX_EPOCH_DAY;
	int64		day = floor_div(local, USECS_PER_DAY);
	Timestamp	result = (origin + floor_div(day - origin, days) * days) * USECS_PER_DAY;

	if (!IS_VALID_TIMESTAMP(result))
		out_of_range();

	return result;
}

/*
 * calendar_slot is the slot of a width in months or days that holds a key.
 *
 * Where clocks jump over a bound, or show it twice, the bounds as instants are still in order;
 * but the floor of what a clock shows can lie on the wrong side of the key.
 */
static PaRange
calendar_slot(PaPolicy *policy, const Interval *width, PaKey key)
{
	Timestamp	local = local_of_key(policy, key);
	Timestamp	lower = width->month > 0 ? month_floor(local, width->month) : day_floor(local, width->day);
	Timestamp	upper;
	PaRange		slot;

	while ((slot.lower = key_of_local(policy, lower)) > key)
		lower = add_interval(lower, width, -1);

	upper = add_interval(lower, width, 1);
	while ((slot.upper = key_of_local(policy, upper)) <= key)
	{
		slot.lower = slot.upper;
		upper = add_interval(upper, width, 1);
	}

	return slot;
}

/*
 * clock_slot is the slot of a width in hours that holds a key.
 *
 * Hours that divide a day count from local midnight, and the last slot of a day ends with it; other
 * widths count from 1970.
 */
static PaRange
clock_slot(PaPolicy *policy, PaKey key)
{
	static const Interval one_day = {0, 1, 0};
	int64		width = policy->width.time / policy->unit;
	PaRange		within = {key_of_local(policy, UNIX_EPOCH), PA_KEY_MAX};
	PaRange		slot;

	if (USECS_PER_DAY % policy->width.time == 0)
		within = calendar_slot(policy, &one_day, key);

	slot.lower = within.lower + floor_div(key - within.lower, width) * width;
	slot.upper = Min(slot.lower + width, within.upper);

	return slot;
}

/*
 * pa_slot is the slot that holds a key.
 */
PaRange
pa_slot(PaPolicy *policy, PaKey key)
{
	return policy->width.time > 0 ? clock_slot(policy, key) :
		calendar_slot(policy, &policy->width, key);
}

/*
 * pa_expiry is the key before which everything is older than the policy's retention.
 */
PaKey
pa_expiry(PaPolicy *policy, TimestampTz at)
{
	if (policy->retention == NULL)
		return PA_KEY_MIN;

	return key_of_local(policy, add_interval(to_local(policy, at), policy->retention, -1));
}

/*
 * pa_first_drainable is the smallest key for which a partition is made because a row of the default
 * partition has it: nothing before the year 1, where arithmetic meets the end of time, and nothing
 * that would be dropped again at once.
 */
PaKey
pa_first_drainable(PaPolicy *policy, TimestampTz at)
{
	Timestamp	year_one = (Timestamp) (date2j(1, 1, 1) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;

	return Max(key_of_local(policy, year_one), pa_expiry(policy, at));
}

/*
 * pa_datum_key converts a value of the key column.
 */
PaKey
pa_datum_key(PaPolicy *policy, Datum value)
{
	DateADT		date;

	if (policy->type != DATEOID)
		return DatumGetInt64(value);

	date = DatumGetDateADT(value);
	if (DATE_IS_NOBEGIN(date))
		return PA_KEY_MIN;
	if (DATE_IS_NOEND(date))
		return PA_KEY_MAX;

	return (int64) date * USECS_PER_DAY;
}

/*
 * pa_datum_in_range tells whether a value of the key column is in a range.
 */
bool
pa_datum_in_range(PaPolicy *policy, Datum value, PaRange range)
{
	PaKey		key = pa_datum_key(policy, value);

	return key >= range.lower && key < range.upper;
}

/*
 * pa_key_text prints a key as a value of the key column, between pa_utc_enter and pa_utc_leave.
 */
char *
pa_key_text(PaPolicy *policy, PaKey key)
{
	Datum		value = (policy->type == DATEOID) ?
		DateADTGetDatum((DateADT) floor_div(key, USECS_PER_DAY)) : Int64GetDatum(key);
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(policy->type, &output, &is_varlena);

	return OidOutputFunctionCall(output, value);
}

/*
 * pa_range_suffix is what names a partition: the day on which its range begins, in the policy's
 * time zone; with the time, the day and the time in UTC, since local times occur twice.
 */
char *
pa_range_suffix(PaPolicy *policy, PaRange range, bool with_time)
{
	Timestamp	begin;
	struct pg_tm tm;
	fsec_t		fsec;

	if (with_time && has_zone(policy))
		begin = instant_of_key(policy, range.lower);
	else
		begin = local_of_key(policy, range.lower);
	if (timestamp2tm(begin, NULL, &tm, &fsec, NULL, NULL) != 0)
		out_of_range();

	if (with_time)
		return psprintf("p%04d%02d%02d_%02d%02d",
						tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min);

	return psprintf("p%04d%02d%02d", tm.tm_year, tm.tm_mon, tm.tm_mday);
}

/*
 * pa_longest_suffix is how many bytes a suffix may take, the underscore included.
 */
int
pa_longest_suffix(PaPolicy *policy)
{
	return strlen(policy->width.time > 0 ? "_p20000101_0000" : "_p20000101");
}

/*
 * segment is the i-th of the ranges into which the bounds of a table's partitions cut time, of
 * which there is one more than bounds.
 */
static PaRange
segment(PaPolicy *policy, PartitionBoundInfo bounds, int i)
{
	PaRange		result = {PA_KEY_MIN, PA_KEY_MAX};

	if (i > 0 && bounds->kind[i - 1][0] == PARTITION_RANGE_DATUM_VALUE)
		result.lower = pa_datum_key(policy, bounds->datums[i - 1][0]);
	if (i < bounds->ndatums && bounds->kind[i][0] == PARTITION_RANGE_DATUM_VALUE)
		result.upper = pa_datum_key(policy, bounds->datums[i][0]);

	return result;
}

/*
 * pa_partitions lists the partitions, but for the default one, in the order of time.
 *
 * In the descriptor of a range-partitioned table, indexes[i] says which partition holds the values
 * from datums[i - 1] to datums[i]; -1 means none.
 */
List *
pa_partitions(PaPolicy *policy)
{
	Relation	parent = table_open(policy->parent, AccessShareLock);
	PartitionDesc descriptor = RelationGetPartitionDesc(parent, true);
	PartitionBoundInfo bounds = descriptor->boundinfo;
	List	   *partitions = NIL;

	for (int i = 0; bounds != NULL && bounds->ndatums > 0 && i <= bounds->ndatums; i++)
	{
		PaPartition *partition;

		if (bounds->indexes[i] < 0)
			continue;
		partition = palloc(sizeof(PaPartition));
		partition->relation = descriptor->oids[bounds->indexes[i]];
		partition->range = segment(policy, bounds, i);
		partitions = lappend(partitions, partition);
	}

	table_close(parent, AccessShareLock);

	return partitions;
}

/*
 * add_range appends a range to a list, unless it is empty.
 */
static List *
add_range(List *ranges, PaKey lower, PaKey upper)
{
	PaRange    *range;

	if (lower >= upper)
		return ranges;

	range = palloc(sizeof(PaRange));
	range->lower = lower;
	range->upper = upper;

	return lappend(ranges, range);
}

/*
 * pa_missing_ranges lists the parts of "span" that no partition but the default one holds.
 */
List *
pa_missing_ranges(PaPolicy *policy, PaRange span)
{
	List	   *missing = NIL;
	PaKey		covered = span.lower;
	ListCell   *cell;

	foreach(cell, pa_partitions(policy))
	{
		PaRange		range = ((PaPartition *) lfirst(cell))->range;

		missing = add_range(missing, covered, Min(range.lower, span.upper));
		covered = Max(covered, range.upper);
	}

	return add_range(missing, covered, span.upper);
}

/*
 * pa_default_partition is the parent's default partition, or InvalidOid.
 */
Oid
pa_default_partition(PaPolicy *policy)
{
	Relation	parent = table_open(policy->parent, AccessShareLock);
	Oid			result = get_default_oid_from_partdesc(RelationGetPartitionDesc(parent, true));

	table_close(parent, AccessShareLock);

	return result;
}
