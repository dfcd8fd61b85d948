/*
 * funnel.c
 *		Funnels: which steps of a series a user's events reach.
 *
 * A step is a type of events.  The window of a funnel opens with an event of the first step, and what happens
 * when it ends is still inside.  One event fills one step, also where steps repeat a type.  Of all windows the
 * best counts.  An instant is the events of one time: a clock that shows the same twice says nothing about
 * which was first, so within an instant any order will do.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "funnel.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

/* No window opens then, and no event happens. */
#define NO_TIME PG_INT64_MIN

#define ST_SORT pa_sort_events
#define ST_ELEMENT_TYPE PaFunnelEvent
#define ST_COMPARE(a, b) (*(a) < *(b) ? -1 : *(a) > *(b))
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE
#define ST_DEFINE
#include "lib/sort_template.h"

/*
 * pa_funnel_window is the length of a window in microseconds.
 *
 * Days have 24 hours, whatever a time zone does to theirs.
 */
int64
pa_funnel_window(const Interval *within)
{
	int64		days;
	int64		length;

	/* an infinite interval has months too */
	if (within->month != 0 ||
		pg_mul_s64_overflow(within->day, USECS_PER_DAY, &days) ||
		pg_add_s64_overflow(days, within->time, &length) ||
		length <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the window of a funnel must be a positive interval without months"),
				 errdetail("A day is 24 hours; months differ in length."),
				 errhint("Write days instead of months, such as '30 days'.")));

	return length;
}

/*
 * check_steps refuses arrays that are no series of steps.
 */
static void
check_steps(ArrayType *steps)
{
	int			n_steps = ArrayGetNItems(ARR_NDIM(steps), ARR_DIMS(steps));

	if (n_steps == 0 || n_steps > PA_MAX_STEPS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a funnel must have 1 to %d steps, not %d", PA_MAX_STEPS, n_steps)));
	if (ARR_NDIM(steps) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("the steps of a funnel must be a one-dimensional array")));
	if (array_contains_nulls(steps))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a step of a funnel must not be NULL")));
}

/*
 * pa_same_terms tells whether two funnels ask the same.
 */
bool
pa_same_terms(const PaFunnelTerms *a, const PaFunnelTerms *b)
{
	return a->within == b->within &&
		a->from_time == b->from_time &&
		a->to_time == b->to_time &&
		a->is_ordered == b->is_ordered &&
		a->strictly_after == b->strictly_after &&
		VARSIZE(a->steps) == VARSIZE(b->steps) &&
		memcmp(a->steps, b->steps, VARSIZE(a->steps)) == 0;
}

/*
 * step_type is the number of a type of events, -1 if no step is of that type.
 */
static int
step_type(const PaFunnel *funnel, const text *event_type)
{
	Size		length = VARSIZE_ANY_EXHDR(event_type);

	for (int i = 0; i < funnel->n_types; i++)
		if (VARSIZE_ANY_EXHDR(funnel->type_names[i]) == length &&
			memcmp(VARDATA_ANY(funnel->type_names[i]), VARDATA_ANY(event_type), length) == 0)
			return i;

	return -1;
}

/*
 * pa_make_funnel makes a funnel in the current memory context; the terms are copied.
 */
PaFunnel *
pa_make_funnel(const PaFunnelTerms *terms)
{
	PaFunnel   *funnel;
	Datum	   *names;

	check_steps(terms->steps);

	funnel = palloc0(sizeof(PaFunnel));
	funnel->terms = *terms;
	funnel->terms.steps = (ArrayType *) palloc(VARSIZE(terms->steps));
	memcpy(funnel->terms.steps, terms->steps, VARSIZE(terms->steps));

	deconstruct_array(funnel->terms.steps, TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &funnel->n_steps);
	for (int i = 0; i < funnel->n_steps; i++)
	{
		text	   *name = (text *) DatumGetPointer(names[i]);
		int			type = step_type(funnel, name);

		if (type < 0)
		{
			type = funnel->n_types++;
			funnel->type_names[type] = name;
		}
		funnel->step_types[i] = type;
	}
	pfree(names);

	return funnel;
}

/*
 * pa_make_event makes an event, unless it is none that matters: one of a type that no step has, or at an infinite
 * time, which is in no window.
 */
bool
pa_make_event(const PaFunnel *funnel, TimestampTz time, const text *event_type, PaFunnelEvent *event)
{
	int			type = step_type(funnel, event_type);

	if (type < 0 || TIMESTAMP_NOT_FINITE(time))
		return false;
	if (time > PA_EVENT_TIME(PG_INT64_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("an event of a funnel is too far in the future"),
				 errdetail("Its time is %s; funnels know the years up to 11133.", timestamptz_to_str(time))));

	*event = (PaFunnelEvent) ((uint64) time << PA_TYPE_BITS | (uint64) type);

	return true;
}

/*
 * may_start tells whether a window may open at a time.
 */
static inline bool
may_start(const PaFunnel *funnel, TimestampTz time)
{
	return time >= funnel->terms.from_time && time < funnel->terms.to_time;
}

/*
 * is_inside tells whether a time, not before the start of a window, is in it.
 */
static inline bool
is_inside(const PaFunnel *funnel, TimestampTz start, TimestampTz time)
{
	return time - start <= funnel->terms.within;
}

/*
 * instant_end is the end of the instant that begins with the event number "first".
 */
static inline int64
instant_end(const PaFunnelEvent *events, int64 n_events, int64 first)
{
	int64		end = first + 1;

	while (end < n_events && PA_EVENT_TIME(events[end]) == PA_EVENT_TIME(events[first]))
		end++;

	return end;
}

/*
 * find_runs finds out, for each step, after which one the events of an instant can lead to it: runs[3] = 1 means
 * that there are events for steps 2 and 3, runs[3] = 3 that there is none for step 3.
 *
 * The earliest such step is the best, because the latest start that has led to a step is never before those of
 * the steps after it.
 */
static void
find_runs(const PaFunnel *funnel, const PaFunnelEvent *instant, int64 n_events, int *runs)
{
	int64		left[PA_MAX_STEPS]; /* events of each type that no step of the run has taken */
	int			before = 0;

	memset(left, 0, funnel->n_types * sizeof(left[0]));
	for (int64 i = 0; i < n_events; i++)
		left[PA_EVENT_TYPE(instant[i])]++;

	for (int step = 1; step <= funnel->n_steps; step++)
	{
		int			type = funnel->step_types[step - 1];

		left[type]--;
		while (left[type] < 0 || (funnel->terms.strictly_after && step - before > 1))
			left[funnel->step_types[before++]]++;
		runs[step] = before;
	}
}

/*
 * pa_deepest_step tells how many steps, one after the other, a group's events reach in one window.  They are
 * sorted by time.
 *
 * For each step it is enough to remember the latest start from which it was reached: whatever can follow in an
 * earlier window can follow in that one.
 */
int
pa_deepest_step(const PaFunnel *funnel, const PaFunnelEvent *events, int64 n_events)
{
	TimestampTz starts[PA_MAX_STEPS + 1];
	int			runs[PA_MAX_STEPS + 1];
	int			deepest = 0;
	int64		end;

	for (int step = 0; step <= funnel->n_steps; step++)
		starts[step] = NO_TIME;

	for (int64 first = 0; first < n_events && deepest < funnel->n_steps; first = end)
	{
		TimestampTz time = PA_EVENT_TIME(events[first]);

		CHECK_FOR_INTERRUPTS();
		end = instant_end(events, n_events, first);
		find_runs(funnel, events + first, end - first, runs);
		starts[0] = may_start(funnel, time) ? time : NO_TIME;

		/* from the last to the first, so that an event is not used again for the next step */
		for (int step = funnel->n_steps; step > 0; step--)
		{
			int			before = runs[step];

			if (before == 0 && starts[0] == NO_TIME)
				before = 1;
			if (before < step && starts[before] != NO_TIME && is_inside(funnel, starts[before], time))
			{
				starts[step] = starts[before];
				deepest = Max(deepest, step);
			}
		}
	}

	return deepest;
}

/*
 * note_event makes an event the next one of its type.
 *
 * next[i] is the time of the event that step i + 1 would get from here on: steps that repeat a type get one each.
 */
static void
note_event(const PaFunnel *funnel, PaFunnelEvent event, TimestampTz *next)
{
	TimestampTz time = PA_EVENT_TIME(event);

	for (int i = 0; i < funnel->n_steps; i++)
		if (funnel->step_types[i] == PA_EVENT_TYPE(event))
		{
			TimestampTz later = next[i];

			next[i] = time;
			time = later;
		}
}

/*
 * steps_inside is the set of steps that have an event in the window that opens at a time.
 */
static uint32
steps_inside(const PaFunnel *funnel, TimestampTz start, const TimestampTz *next)
{
	uint32		reached = 1;

	for (int i = 1; i < funnel->n_steps; i++)
		if (next[i] != NO_TIME && is_inside(funnel, start, next[i]))
			reached |= (uint32) 1 << i;

	return reached;
}

/*
 * pa_steps_reached is the set of steps, bit 0 for the first one, each of which is reached in a window, whatever
 * becomes of the others.  The events are sorted by time.
 *
 * They are gone through backwards, so that what follows a start is known.
 */
uint32
pa_steps_reached(const PaFunnel *funnel, const PaFunnelEvent *events, int64 n_events)
{
	TimestampTz next[PA_MAX_STEPS];
	uint32		reached = 0;
	int64		first;

	for (int i = 0; i < funnel->n_steps; i++)
		next[i] = NO_TIME;

	for (int64 end = n_events; end > 0; end = first)
	{
		TimestampTz time = PA_EVENT_TIME(events[end - 1]);
		int64		start = -1;

		CHECK_FOR_INTERRUPTS();
		for (first = end; first > 0 && PA_EVENT_TIME(events[first - 1]) == time; first--)
			if (PA_EVENT_TYPE(events[first - 1]) == funnel->step_types[0])
				start = first - 1;

		/* the start itself fills the first step, and what follows it strictly is not of its instant */
		if (start >= 0)
			note_event(funnel, events[start], next);
		if (start >= 0 && funnel->terms.strictly_after && may_start(funnel, time))
			reached |= steps_inside(funnel, time, next);
		for (int64 i = first; i < end; i++)
			if (i != start)
				note_event(funnel, events[i], next);
		if (start >= 0 && !funnel->terms.strictly_after && may_start(funnel, time))
			reached |= steps_inside(funnel, time, next);
	}

	return reached;
}
