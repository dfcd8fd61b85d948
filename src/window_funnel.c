/*
 * window_funnel.c
 *		The aggregates that collect a group's events for a funnel: window_funnel() and funnel_steps().
 *
 * The state has those of the group's events whose type is a step's, in 16 bytes each.  They are sorted once, at the
 * end.  What the funnel asks stands in one place for all groups, not in each state.
 */
#include "prod_analytics.h"

#include "fmgr.h"
#include "funnel.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_funnel_add);
PG_FUNCTION_INFO_V1(pa_funnel_combine);
PG_FUNCTION_INFO_V1(pa_funnel_serialize);
PG_FUNCTION_INFO_V1(pa_funnel_deserialize);
PG_FUNCTION_INFO_V1(pa_funnel_depth);
PG_FUNCTION_INFO_V1(pa_funnel_steps);
PG_FUNCTION_INFO_V1(pa_check_funnel);

/* How many funnels a call site remembers: more than one where they come from a table. */
#define KNOWN_FUNNELS 16

/* Room in a new state.  With 2, 6, 14, ... events it has a size that palloc() does not round up. */
#define FIRST_ROOM 2
#define MORE_ROOM(room) (2 * (room) + 2)

typedef struct FunnelSite
{
	int			n_funnels;
	PaFunnel   *funnels[KNOWN_FUNNELS];
} FunnelSite;

typedef struct FunnelState
{
	const PaFunnel *funnel;
	int64		n_events;
	int64		room;
	bool		is_sorted;
	PaFunnelEvent events[FLEXIBLE_ARRAY_MEMBER];
} FunnelState;

/* A serialized state begins with this; then come the steps, then the events. */
typedef struct SerializedHead
{
	PaFunnelTerms terms;		/* its pointer means nothing */
	Size		steps_size;
	int64		n_events;
	bool		is_sorted;
} SerializedHead;

#define ST_SORT sort_events
#define ST_ELEMENT_TYPE PaFunnelEvent
#define ST_COMPARE(a, b) ((a)->time < (b)->time ? -1 : (a)->time > (b)->time)
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DECLARE
#define ST_DEFINE
#include "lib/sort_template.h"

/*
 * aggregate_context is the memory in which states live.
 */
static MemoryContext
aggregate_context(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "function %u called outside of an aggregate", fcinfo->flinfo->fn_oid);

	return context;
}

/*
 * known_funnel is a funnel with these terms that lives as long as the states.
 *
 * It is one that the call site remembers; when it has seen too many, as where each group has a funnel of its own,
 * one that goes with the group.
 */
static const PaFunnel *
known_funnel(FunctionCallInfo fcinfo, const PaFunnelTerms *terms, MemoryContext states_context)
{
	FunnelSite *site = fcinfo->flinfo->fn_extra;
	MemoryContext caller_context;
	PaFunnel   *funnel;

	if (site == NULL)
		site = fcinfo->flinfo->fn_extra = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(FunnelSite));
	for (int i = 0; i < site->n_funnels; i++)
		if (pa_same_terms(&site->funnels[i]->terms, terms))
			return site->funnels[i];

	caller_context = MemoryContextSwitchTo(site->n_funnels < KNOWN_FUNNELS ? fcinfo->flinfo->fn_mcxt : states_context);
	funnel = pa_make_funnel(terms);
	MemoryContextSwitchTo(caller_context);
	if (site->n_funnels < KNOWN_FUNNELS)
		site->funnels[site->n_funnels++] = funnel;

	return funnel;
}

/*
 * new_state is a state without events, with room for some.
 */
static FunnelState *
new_state(MemoryContext context, const PaFunnel *funnel, int64 room)
{
	FunnelState *state = MemoryContextAllocHuge(context, offsetof(FunnelState, events) + room * sizeof(PaFunnelEvent));

	state->funnel = funnel;
	state->n_events = 0;
	state->room = room;
	state->is_sorted = true;

	return state;
}

/*
 * make_room makes room for more events; the state may move.
 */
static FunnelState *
make_room(FunnelState *state, int64 n_events)
{
	if (state->n_events + n_events <= state->room)
		return state;

	while (state->n_events + n_events > state->room)
		state->room = MORE_ROOM(state->room);

	return repalloc_huge(state, offsetof(FunnelState, events) + state->room * sizeof(PaFunnelEvent));
}

/*
 * read_terms reads what the funnel asks from the arguments of funnel_steps(), the first of which are those of
 * window_funnel().
 */
static void
read_terms(FunctionCallInfo fcinfo, PaFunnelTerms *terms)
{
	if (PG_ARGISNULL(1) || PG_ARGISNULL(4))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the window and the steps of a funnel must not be NULL")));

	terms->within = pa_funnel_window(PG_GETARG_INTERVAL_P(1));
	terms->steps = PG_GETARG_ARRAYTYPE_P(4);
	terms->is_ordered = true;
	terms->strictly_after = false;
	terms->from_time = DT_NOBEGIN;
	terms->to_time = DT_NOEND;
	if (PG_NARGS() == 5)
		return;

	terms->is_ordered = PG_GETARG_BOOL(5);
	terms->strictly_after = PG_GETARG_BOOL(6);
	if (!PG_ARGISNULL(7))
		terms->from_time = PG_GETARG_TIMESTAMPTZ(7);
	if (!PG_ARGISNULL(8))
		terms->to_time = PG_GETARG_TIMESTAMPTZ(8);
}

/*
 * window_funnel_add(state, within, event_time, event_type, steps), and funnel_steps_add() with further arguments:
 * adds an event to a group.
 *
 * An event without a type is that of no step, and one without a time, or at an infinite one, is in no window.
 */
Datum
pa_funnel_add(PG_FUNCTION_ARGS)
{
	MemoryContext context = aggregate_context(fcinfo);
	FunnelState *state = PG_ARGISNULL(0) ? NULL : (FunnelState *) PG_GETARG_POINTER(0);
	PaFunnelTerms terms;
	TimestampTz time;
	int			type;

	read_terms(fcinfo, &terms);
	if (state == NULL)
		state = new_state(context, known_funnel(fcinfo, &terms, context), FIRST_ROOM);
	else if (!pa_same_terms(&state->funnel->terms, &terms))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the window and the steps of a funnel must be the same for all events of a group"),
				 errhint("Group by them, too.")));

	if (PG_ARGISNULL(2) || PG_ARGISNULL(3))
		PG_RETURN_POINTER(state);
	time = PG_GETARG_TIMESTAMPTZ(2);
	type = pa_step_type(state->funnel, PG_GETARG_TEXT_PP(3));
	if (type < 0 || TIMESTAMP_NOT_FINITE(time))
		PG_RETURN_POINTER(state);

	state = make_room(state, 1);
	if (state->n_events > 0 && time < state->events[state->n_events - 1].time)
		state->is_sorted = false;
	state->events[state->n_events].time = time;
	state->events[state->n_events].type = type;
	state->n_events++;

	PG_RETURN_POINTER(state);
}

/*
 * window_funnel_combine(state, other) adds the events of another state of the same group.
 */
Datum
pa_funnel_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context = aggregate_context(fcinfo);
	FunnelState *state = PG_ARGISNULL(0) ? NULL : (FunnelState *) PG_GETARG_POINTER(0);
	const FunnelState *other = PG_ARGISNULL(1) ? NULL : (FunnelState *) PG_GETARG_POINTER(1);

	if (other == NULL)
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}

	if (state == NULL)
		state = new_state(context, known_funnel(fcinfo, &other->funnel->terms, context),
						  Max(other->n_events, FIRST_ROOM));
	else if (!pa_same_terms(&state->funnel->terms, &other->funnel->terms))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the window and the steps of a funnel must be the same for all events of a group"),
				 errhint("Group by them, too.")));

	state = make_room(state, other->n_events);
	state->is_sorted = state->is_sorted && other->is_sorted &&
		(state->n_events == 0 || other->n_events == 0 ||
		 state->events[state->n_events - 1].time <= other->events[0].time);
	memcpy(state->events + state->n_events, other->events, other->n_events * sizeof(PaFunnelEvent));
	state->n_events += other->n_events;

	PG_RETURN_POINTER(state);
}

/*
 * window_funnel_serialize(state) makes bytes of a state, for another process of the same server.
 */
Datum
pa_funnel_serialize(PG_FUNCTION_ARGS)
{
	const FunnelState *state = (FunnelState *) PG_GETARG_POINTER(0);
	SerializedHead head = {0};
	Size		events_size = state->n_events * sizeof(PaFunnelEvent);
	bytea	   *result;
	char	   *place;

	(void) aggregate_context(fcinfo);
	head.terms = state->funnel->terms;
	head.steps_size = VARSIZE(head.terms.steps);
	head.n_events = state->n_events;
	head.is_sorted = state->is_sorted;

	result = palloc(VARHDRSZ + sizeof(head) + head.steps_size + events_size);
	SET_VARSIZE(result, VARHDRSZ + sizeof(head) + head.steps_size + events_size);
	place = VARDATA(result);
	memcpy(place, &head, sizeof(head));
	memcpy(place + sizeof(head), head.terms.steps, head.steps_size);
	memcpy(place + sizeof(head) + head.steps_size, state->events, events_size);

	PG_RETURN_BYTEA_P(result);
}

/*
 * window_funnel_deserialize(bytes, NULL) makes a state of them.
 */
Datum
pa_funnel_deserialize(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	const char *place = VARDATA_ANY(bytes);
	SerializedHead head;
	FunnelState *state;

	(void) aggregate_context(fcinfo);
	memcpy(&head, place, sizeof(head));
	head.terms.steps = palloc(head.steps_size);
	memcpy(head.terms.steps, place + sizeof(head), head.steps_size);

	/* it lives until it is combined, unlike the funnel that the call site remembers */
	state = new_state(CurrentMemoryContext, known_funnel(fcinfo, &head.terms, CurrentMemoryContext), head.n_events);
	memcpy(state->events, place + sizeof(head) + head.steps_size, head.n_events * sizeof(PaFunnelEvent));
	state->n_events = head.n_events;
	state->is_sorted = head.is_sorted;
	pfree(head.terms.steps);

	PG_RETURN_POINTER(state);
}

/*
 * sorted_state is the final state of a group, sorted; NULL for one without rows.
 */
static FunnelState *
sorted_state(FunctionCallInfo fcinfo)
{
	FunnelState *state;

	(void) aggregate_context(fcinfo);
	if (PG_ARGISNULL(0))
		return NULL;

	/* nobody can tell the order of a state, so a state in which more events will come may be sorted */
	state = (FunnelState *) PG_GETARG_POINTER(0);
	if (!state->is_sorted)
		sort_events(state->events, state->n_events);
	state->is_sorted = true;

	return state;
}

/*
 * window_funnel_depth(state) is the result of window_funnel().
 */
Datum
pa_funnel_depth(PG_FUNCTION_ARGS)
{
	FunnelState *state = sorted_state(fcinfo);

	PG_RETURN_INT32(state ? pa_deepest_step(state->funnel, state->events, state->n_events) : 0);
}

/*
 * funnel_steps_reached(state) is the result of funnel_steps().
 */
Datum
pa_funnel_steps(PG_FUNCTION_ARGS)
{
	FunnelState *state = sorted_state(fcinfo);
	uint64		reached;

	if (state == NULL)
		PG_RETURN_INT64(0);
	if (state->funnel->terms.is_ordered)
		reached = (UINT64CONST(1) << pa_deepest_step(state->funnel, state->events, state->n_events)) - 1;
	else
		reached = pa_steps_reached(state->funnel, state->events, state->n_events);

	PG_RETURN_INT64((int64) reached);
}

/*
 * check_funnel(within, steps) raises what the aggregates would, also where there are no events.
 */
Datum
pa_check_funnel(PG_FUNCTION_ARGS)
{
	PaFunnelTerms terms = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the window and the steps of a funnel must not be NULL")));
	terms.within = pa_funnel_window(PG_GETARG_INTERVAL_P(0));
	terms.steps = PG_GETARG_ARRAYTYPE_P(1);
	(void) pa_make_funnel(&terms);

	PG_RETURN_VOID();
}
