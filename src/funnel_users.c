/*
 * funnel_users.c
 *		The aggregate funnel_of_user(): which steps a user reaches, for each value of a property.
 *
 * It notes all events of a user, sorts them by value and time, and goes through those of one value after the other.
 * So PostgreSQL has to group events by user only, not by user and value, of which there are almost as many as events.
 */
#include "prod_analytics.h"

#include "common/hashfn.h"
#include "funnel.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_funnel_of_user_add);
PG_FUNCTION_INFO_V1(pa_funnel_of_user_values);

/* What is noted of an event; its value follows. */
typedef struct NotedEvent
{
	PaFunnelEvent event;
	uint32		hash;			/* of the value */
	uint32		length;
} NotedEvent;

/* The same, as it is sorted. */
typedef struct UserEvent
{
	PaFunnelEvent event;
	uint32		hash;
	uint32		length;
	const char *value;
} UserEvent;

/*
 * compare_values orders the values of two events, somehow.
 */
static inline int
compare_values(const UserEvent *a, const UserEvent *b)
{
	if (a->hash != b->hash)
		return a->hash < b->hash ? -1 : 1;
	if (a->length != b->length)
		return a->length < b->length ? -1 : 1;

	return memcmp(a->value, b->value, a->length);
}

static inline int
compare_events(const UserEvent *a, const UserEvent *b)
{
	int			result = compare_values(a, b);

	if (result != 0)
		return result;

	return a->event < b->event ? -1 : a->event > b->event;
}

#define ST_SORT sort_user_events
#define ST_ELEMENT_TYPE UserEvent
#define ST_COMPARE(a, b) compare_events(a, b)
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DECLARE
#define ST_DEFINE
#include "lib/sort_template.h"

/*
 * pa_read_terms reads what a funnel asks from the arguments of funnel(), which begin with this one.
 */
void
pa_read_terms(FunctionCallInfo fcinfo, int first, PaFunnelTerms *terms)
{
	if (PG_ARGISNULL(first + PA_ARG_STEPS) || PG_ARGISNULL(first + PA_ARG_WITHIN))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the window and the steps of a funnel must not be NULL")));
	if (PG_ARGISNULL(first + PA_ARG_STRICT) || PG_ARGISNULL(first + PA_ARG_STRICTLY_AFTER))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"strict\" and \"strictly_after\" must not be NULL")));

	terms->steps = PG_GETARG_ARRAYTYPE_P(first + PA_ARG_STEPS);
	terms->within = pa_funnel_window(PG_GETARG_INTERVAL_P(first + PA_ARG_WITHIN));
	terms->is_ordered = PG_GETARG_BOOL(first + PA_ARG_STRICT);
	terms->strictly_after = PG_GETARG_BOOL(first + PA_ARG_STRICTLY_AFTER);
	terms->from_time = PG_ARGISNULL(first + PA_ARG_FROM_TIME) ?
		DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(first + PA_ARG_FROM_TIME);
	terms->to_time = PG_ARGISNULL(first + PA_ARG_TO_TIME) ?
		DT_NOEND : PG_GETARG_TIMESTAMPTZ(first + PA_ARG_TO_TIME);
}

/*
 * funnel_of_user_add(state, steps, within, value, strict, from_time, to_time, strictly_after, event_time, event_type)
 * adds an event to a user.
 */
Datum
pa_funnel_of_user_add(PG_FUNCTION_ARGS)
{
	PaFunnelTerms terms;
	PaFunnelState *state;
	NotedEvent	noted;
	text	   *value;
	char	   *place;

	pa_read_terms(fcinfo, 1, &terms);
	state = pa_funnel_state(fcinfo, &terms);
	if (PG_ARGISNULL(1 + PA_ARG_BY) || PG_ARGISNULL(1 + PA_ARG_EVENT_TIME) || PG_ARGISNULL(1 + PA_ARG_EVENT_TYPE) ||
		!pa_make_event(state->funnel, PG_GETARG_TIMESTAMPTZ(1 + PA_ARG_EVENT_TIME),
					   PG_GETARG_TEXT_PP(1 + PA_ARG_EVENT_TYPE), &noted.event))
		PG_RETURN_POINTER(state);

	value = PG_GETARG_TEXT_PP(1 + PA_ARG_BY);
	noted.length = VARSIZE_ANY_EXHDR(value);
	noted.hash = hash_bytes((unsigned char *) VARDATA_ANY(value), noted.length);
	place = pa_append(&state, sizeof(noted) + noted.length);
	memcpy(place, &noted, sizeof(noted));
	memcpy(place + sizeof(noted), VARDATA_ANY(value), noted.length);

	PG_RETURN_POINTER(state);
}

/*
 * sorted_events are the events of a user, by value and time.
 */
static UserEvent *
sorted_events(const PaFunnelState *state, int64 *n_events)
{
	const char *end = state->data + state->size;
	const char *place;
	NotedEvent	noted;
	UserEvent  *events;
	int64		i = 0;

	for (place = state->data; place < end; place += sizeof(noted) + noted.length)
	{
		memcpy(&noted, place, sizeof(noted));
		i++;
	}
	*n_events = i;

	events = palloc_extended(i * sizeof(UserEvent), MCXT_ALLOC_HUGE);
	i = 0;
	for (place = state->data; place < end; place += sizeof(noted) + noted.length)
	{
		memcpy(&noted, place, sizeof(noted));
		events[i].event = noted.event;
		events[i].hash = noted.hash;
		events[i].length = noted.length;
		events[i].value = place + sizeof(noted);
		i++;
	}
	sort_user_events(events, i);

	return events;
}

/*
 * steps_reached is the set of steps that events of one value reach, bit 0 for the first.
 */
static uint32
steps_reached(const PaFunnel *funnel, const PaFunnelEvent *events, int64 n_events)
{
	if (!funnel->terms.is_ordered)
		return pa_steps_reached(funnel, events, n_events);

	return (UINT64CONST(1) << pa_deepest_step(funnel, events, n_events)) - 1;
}

/*
 * funnel_of_user_values(state) is the result of funnel_of_user(): a PaUserValue for each value for which the user has
 * taken the first step.
 */
Datum
pa_funnel_of_user_values(PG_FUNCTION_ARGS)
{
	PaFunnelState *state;
	UserEvent  *events;
	PaFunnelEvent *of_value;
	int64		n_events;
	int64		end;
	StringInfoData result;

	(void) pa_aggregate_context(fcinfo);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();

	state = (PaFunnelState *) PG_GETARG_POINTER(0);
	events = sorted_events(state, &n_events);
	of_value = palloc_extended(n_events * sizeof(PaFunnelEvent), MCXT_ALLOC_HUGE);
	initStringInfo(&result);
	appendStringInfoSpaces(&result, VARHDRSZ);

	for (int64 first = 0; first < n_events; first = end)
	{
		PaUserValue told = {0, events[first].hash, events[first].length};

		for (end = first; end < n_events && compare_values(&events[first], &events[end]) == 0; end++)
			of_value[end - first] = events[end].event;
		told.steps = steps_reached(state->funnel, of_value, end - first);
		if (told.steps == 0)
			continue;
		appendBinaryStringInfo(&result, (char *) &told, sizeof(told));
		appendBinaryStringInfo(&result, events[first].value, events[first].length);
	}
	pfree(of_value);
	pfree(events);
	SET_VARSIZE(result.data, result.len);

	PG_RETURN_BYTEA_P(result.data);
}
