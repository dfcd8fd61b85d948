/*
 * schedule.c
 *		When a job is due: intervals and cron expressions.
 *
 * A slot is a moment at which a schedule calls for a run.  Slots hang on the calendar and not on when a job was made
 * or ran last, so they do not drift: those of '5 minutes' are at :00, :05 and so on, those of '1 day' at midnight in
 * the job's time zone.
 *
 * When clocks are put forward or back, a cron expression that names hours has one slot for each time of a day that it
 * names: a time that is skipped counts as the one an hour later, of a time that comes twice the second one counts.  An
 * expression whose hours begin with an asterisk goes by real time instead: it has no slot in the hour that is skipped,
 * and two sets of them in the one that repeats.  (That is what Vixie's cron does.)
 */
#include "prod_analytics.h"

#include <ctype.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "schedule.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_next_slot_sql);

/* Leap days are at most eight years apart, so what has no slot in so many days has none. */
#define MOST_DAYS (8 * 366 + 1)

/* Intervals are counted from where the widths of partitions are: the Unix epoch, weeks from the Monday after it. */
#define UNIX_EPOCH_DAY (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE)
#define UNIX_EPOCH (UNIX_EPOCH_DAY * USECS_PER_DAY)
#define FIRST_MONDAY (UNIX_EPOCH_DAY + 4)
#define DAYS_PER_WEEK 7

/* What a schedule looks like, for messages. */
#define SCHEDULE_HINT "Give an interval ('30 seconds') or five fields as cron has them: minute, hour, day of month," \
	" month, day of week ('*/10 8-18 * * mon-fri')."

/* In the field for the day of the week, another name of Sunday. */
#define LATE_SUNDAY 7

/* A field of a cron expression. */
typedef struct Field
{
	const char *name;
	int			lowest;
	int			highest;
	const char *const *words;	/* what its numbers may be called, from the lowest on; NULL: nothing */
} Field;

static const char *const month_words[] = {
	"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", NULL
};

static const char *const week_day_words[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat", NULL};

static const Field fields[] = {
	{"minute", 0, 59, NULL},
	{"hour", 0, 23, NULL},
	{"day of month", 1, 31, NULL},
	{"month", 1, 12, month_words},
	{"day of week", 0, LATE_SUNDAY, week_day_words}
};

/*
 * refuse_field tells what is wrong with a field of a cron expression.
 */
static void
refuse_field(const char *text, const Field *field, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is not a schedule", text),
			 errdetail("In the field for the %s, %s.", field->name, what),
			 errhint(SCHEDULE_HINT)));
}

/*
 * read_number reads a number, or the word for one, and moves the cursor behind it.
 */
static int
read_number(const char *text, const Field *field, char **cursor)
{
	int			number = 0;
	char	   *start = *cursor;

	for (int i = 0; field->words && field->words[i]; i++)
		if (pg_strncasecmp(*cursor, field->words[i], 3) == 0)
		{
			*cursor += 3;
			return field->lowest + i;
		}

	while (**cursor >= '0' && **cursor <= '9' && *cursor - start < 4)
		number = number * 10 + (*(*cursor)++ - '0');
	if (*cursor == start)
		refuse_field(text, field, psprintf("a number was expected at \"%s\"", start));
	if (number < field->lowest || number > field->highest)
		refuse_field(text, field, psprintf("%d is not between %d and %d", number, field->lowest, field->highest));

	return number;
}

/*
 * read_step reads what follows a slash; 1 when there is none.
 */
static int
read_step(const char *text, const Field *field, char **cursor)
{
	int			step = 0;
	char	   *start = *cursor + 1;

	if (**cursor != '/')
		return 1;

	*cursor = start;
	while (**cursor >= '0' && **cursor <= '9' && *cursor - start < 4)
		step = step * 10 + (*(*cursor)++ - '0');
	if (step < 1 || step > field->highest)
		refuse_field(text, field, psprintf("the step \"%s\" is not between 1 and %d", start, field->highest));

	return step;
}

/*
 * read_part reads a part of a field, like "*", "5", "mon-fri" or "0-59/10", as bits.
 */
static uint64
read_part(const char *text, const Field *field, char **cursor)
{
	int			first = field->lowest;
	int			last = field->highest;
	bool		is_range = true;
	int			step;
	uint64		bits = 0;

	if (**cursor == '*')
		(*cursor)++;
	else
	{
		first = last = read_number(text, field, cursor);
		is_range = (**cursor == '-');
		if (is_range)
		{
			(*cursor)++;
			last = read_number(text, field, cursor);
		}
	}
	if (last < first)
		refuse_field(text, field, "a range ends before it begins");

	if (**cursor == '/' && !is_range)
		refuse_field(text, field, "a step follows something that is neither a range nor an asterisk");
	step = read_step(text, field, cursor);
	for (int i = first; i <= last; i += step)
		bits |= UINT64CONST(1) << i;

	return bits;
}

/*
 * read_field reads a field as bits.
 */
static uint64
read_field(const char *text, const Field *field, char *value)
{
	char	   *cursor = value;
	uint64		bits = read_part(text, field, &cursor);

	while (*cursor == ',')
	{
		cursor++;
		bits |= read_part(text, field, &cursor);
	}
	if (*cursor != '\0')
		refuse_field(text, field, psprintf("\"%s\" was not expected", cursor));

	return bits;
}

/*
 * parse_cron reads five fields.
 */
static void
parse_cron(const char *text, char *values[], PaSchedule *schedule)
{
	uint64		week_days;

	schedule->minutes = read_field(text, &fields[0], values[0]);
	schedule->hours = (uint32) read_field(text, &fields[1], values[1]);
	schedule->month_days = (uint32) read_field(text, &fields[2], values[2]);
	schedule->month_names = (uint32) read_field(text, &fields[3], values[3]);
	week_days = read_field(text, &fields[4], values[4]);
	schedule->week_days = (uint32) (week_days | week_days >> LATE_SUNDAY);

	schedule->any_hour = (values[1][0] == '*');
	schedule->any_month_day = (values[2][0] == '*');
	schedule->any_week_day = (values[4][0] == '*');
}

/*
 * explain_schedule says with an error of PostgreSQL's what a schedule looks like.
 */
static void
explain_schedule(void *argument)
{
	errhint(SCHEDULE_HINT);
}

/*
 * read_interval reads what must be an interval, since it is no cron expression.
 */
static Interval *
read_interval(const char *text)
{
	ErrorContextCallback context = {error_context_stack, explain_schedule, NULL};
	Interval   *interval;

	error_context_stack = &context;
	interval = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	error_context_stack = context.previous;

	return interval;
}

/*
 * parse_interval reads an interval, which must be of one kind: a month has no length in days, nor a day in hours.
 */
static void
parse_interval(const char *text, PaSchedule *schedule)
{
	Interval   *interval = read_interval(text);

	schedule->months = interval->month;
	schedule->days = interval->day;
	schedule->microseconds = interval->time;
	if ((interval->month != 0) + (interval->day != 0) + (interval->time != 0) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a schedule", text),
				 errdetail("An interval counts either months, or days, or hours, minutes and seconds."),
				 errhint("For a time of day use five fields as cron has them: '30 3 * * *' is half past three.")));
	if (interval->month < 0 || interval->day < 0 || interval->time < 0 ||
		interval->time % USECS_PER_SEC != 0 || interval->month > 1200 || interval->day > 36600 ||
		interval->time > 36600 * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a schedule", text),
				 errdetail("An interval has whole seconds, at least one, and at most 100 years."),
				 errhint(SCHEDULE_HINT)));
}

/*
 * pa_parse_schedule reads a schedule: five fields are a cron expression, anything else is an interval.
 */
void
pa_parse_schedule(const char *text, PaSchedule *schedule)
{
	char	   *values[lengthof(fields)];
	int			count = 0;
	char	   *rest = NULL;
	char	   *value = strtok_r(pstrdup(text), " \t\n", &rest);

	for (; value; count++)
	{
		if (count < (int) lengthof(fields))
			values[count] = value;
		value = strtok_r(NULL, " \t\n", &rest);
	}

	memset(schedule, 0, sizeof(*schedule));
	if (count == (int) lengthof(fields))
		parse_cron(text, values, schedule);
	else if (strchr(text, '*') != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a schedule", text),
				 errdetail("A cron expression has five fields, and this one has %d.", count),
				 errhint(SCHEDULE_HINT)));
	else if (text[0] == '@' && isalpha((unsigned char) text[1]))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a schedule", text),
				 errdetail("Cron's names for schedules are not known."),
				 errhint("Say '1 hour' for @hourly, '1 day' for @daily, '0 0 * * 0' for @weekly, '1 month' for @monthly,"
						 " '1 year' for @yearly.")));
	else
		parse_interval(text, schedule);
}

/*
 * wall_clock is what clocks in a time zone show at an instant, and instant_of the other way round.
 */
static Timestamp
wall_clock(const char *timezone, TimestampTz instant)
{
	return DatumGetTimestamp(DirectFunctionCall2(timestamptz_zone, CStringGetTextDatum(timezone),
												 TimestampTzGetDatum(instant)));
}

static TimestampTz
instant_of(const char *timezone, Timestamp local)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamp_zone, CStringGetTextDatum(timezone),
												   TimestampGetDatum(local)));
}

/*
 * floor_to is the greatest multiple of a period, counted from an origin, that is not greater than a value.
 */
static int64
floor_to(int64 value, int64 period, int64 origin)
{
	int64		rest = (value - origin) % period;

	return value - (rest < 0 ? rest + period : rest);
}

/*
 * month_number counts the months since January of the year 0, and month_start is when one begins.
 */
static int64
month_number(int64 day)
{
	int			year;
	int			month;
	int			month_day;

	j2date((int) day + POSTGRES_EPOCH_JDATE, &year, &month, &month_day);

	return year * INT64CONST(12) + month - 1;
}

static Timestamp
month_start(int64 number)
{
	int64		year = floor_to(number, 12, 0) / 12;

	return (date2j((int) year, (int) (number - year * 12) + 1, 1) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;
}

/*
 * next_of_interval finds the next slot of an interval.
 */
static TimestampTz
next_of_interval(const PaSchedule *schedule, const char *timezone, TimestampTz after)
{
	int64		day;
	int64		number;
	TimestampTz slot;

	if (schedule->microseconds > 0)
		return floor_to(after, schedule->microseconds, UNIX_EPOCH) + schedule->microseconds;

	day = floor_to(wall_clock(timezone, after), USECS_PER_DAY, 0) / USECS_PER_DAY;
	number = schedule->days > 0 ? floor_to(day, schedule->days, schedule->days % DAYS_PER_WEEK == 0 ? FIRST_MONDAY : UNIX_EPOCH_DAY) :
		floor_to(month_number(day), schedule->months, 0);
	/* Where clocks are changed at midnight, the one of that day may be over already, or be still to come. */
	do
	{
		slot = instant_of(timezone, schedule->days > 0 ? number * USECS_PER_DAY : month_start(number));
		number += schedule->days + schedule->months;
	} while (slot <= after);

	return slot;
}

/*
 * is_day_of tells whether a cron expression has slots on a day.  When it restricts both the day of the month and that
 * of the week, either is enough.
 */
static bool
is_day_of(const PaSchedule *schedule, int64 day)
{
	int			year;
	int			month;
	int			month_day;
	bool		by_month;
	bool		by_week;

	j2date((int) day + POSTGRES_EPOCH_JDATE, &year, &month, &month_day);
	if (!(schedule->month_names & (1 << month)))
		return false;

	by_month = (schedule->month_days & (1 << month_day)) != 0;
	by_week = (schedule->week_days & (1 << j2day((int) day + POSTGRES_EPOCH_JDATE))) != 0;

	return schedule->any_month_day || schedule->any_week_day ? by_month && by_week : by_month || by_week;
}

/*
 * first_of_day finds the first slot of a day after an instant, of an expression that names hours; false when there
 * is none.
 */
static bool
first_of_day(const PaSchedule *schedule, const char *timezone, int64 day, TimestampTz after, TimestampTz *slot)
{
	bool		found = false;

	*slot = DT_NOEND;
	for (int minute = 0; minute < HOURS_PER_DAY * MINS_PER_HOUR; minute++)
	{
		TimestampTz instant;

		if (!(schedule->hours & (1 << (minute / MINS_PER_HOUR))) ||
			!(schedule->minutes & (UINT64CONST(1) << (minute % MINS_PER_HOUR))))
			continue;
		instant = instant_of(timezone, day * USECS_PER_DAY + minute * USECS_PER_MINUTE);
		if (instant > after && instant < *slot)
		{
			*slot = instant;
			found = true;
		}
	}

	return found;
}

/*
 * next_of_hours finds the next slot of a cron expression that names hours.
 *
 * What a change of the clocks moves may come to lie behind slots of the next day, so that is looked at too.
 */
static bool
next_of_hours(const PaSchedule *schedule, const char *timezone, TimestampTz after, TimestampTz *slot)
{
	int64		today = floor_to(wall_clock(timezone, after), USECS_PER_DAY, 0) / USECS_PER_DAY;
	bool		found = false;

	for (int64 day = today - 1; day <= today + MOST_DAYS; day++)
	{
		TimestampTz candidate;
		bool		was_found = found;

		CHECK_FOR_INTERRUPTS();
		if (is_day_of(schedule, day) && first_of_day(schedule, timezone, day, after, &candidate) &&
			(!found || candidate < *slot))
		{
			*slot = candidate;
			found = true;
		}
		if (was_found)
			break;
	}

	return found;
}

/*
 * next_of_real_time finds the next slot of a cron expression that goes by real time.
 */
static bool
next_of_real_time(const PaSchedule *schedule, const char *timezone, TimestampTz after, TimestampTz *slot)
{
	TimestampTz last = after + MOST_DAYS * USECS_PER_DAY;

	for (TimestampTz instant = floor_to(after, USECS_PER_MINUTE, 0) + USECS_PER_MINUTE; instant <= last;)
	{
		Timestamp	local = wall_clock(timezone, instant);
		int64		day = floor_to(local, USECS_PER_DAY, 0) / USECS_PER_DAY;
		int			minute = (int) ((local - day * USECS_PER_DAY) / USECS_PER_MINUTE);

		CHECK_FOR_INTERRUPTS();
		if (!is_day_of(schedule, day))
			/* Not quite to the next day: of a midnight that comes twice we are told the second one. */
			instant = Max(instant_of(timezone, (day + 1) * USECS_PER_DAY) - 2 * USECS_PER_HOUR,
						  instant + USECS_PER_MINUTE);
		else if ((schedule->hours & (1 << (minute / MINS_PER_HOUR))) &&
				 (schedule->minutes & (UINT64CONST(1) << (minute % MINS_PER_HOUR))))
		{
			*slot = instant;
			return true;
		}
		else
			instant += USECS_PER_MINUTE;
	}

	return false;
}

/*
 * pa_next_slot finds the first slot of a schedule after an instant; false when it has none.
 */
bool
pa_next_slot(const PaSchedule *schedule, const char *timezone, TimestampTz after, TimestampTz *slot)
{
	if (schedule->minutes == 0)
	{
		*slot = next_of_interval(schedule, timezone, after);
		return true;
	}
	if (schedule->any_hour)
		return next_of_real_time(schedule, timezone, after, slot);

	return next_of_hours(schedule, timezone, after, slot);
}

/*
 * next_slot(schedule text, after timestamptz, timezone text) is the first slot of a schedule after an instant.
 */
Datum
pa_next_slot_sql(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	TimestampTz after = PG_GETARG_TIMESTAMPTZ(1);
	PaSchedule	schedule;
	TimestampTz slot;

	if (TIMESTAMP_NOT_FINITE(after))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"after\" must be a finite timestamp")));

	pa_parse_schedule(name, &schedule);
	if (!pa_next_slot(&schedule, text_to_cstring(PG_GETARG_TEXT_PP(2)), after, &slot))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schedule \"%s\" is never due", name),
				 errdetail("There is no such day in any year."),
				 errhint("Give a day that the month has.")));

	PG_RETURN_TIMESTAMPTZ(slot);
}
