/*
 * window_funnel.c
 *		The aggregate window_funnel().
 *
 * It notes those of the group's events whose type is a step's, in 8 bytes each, and sorts them once, at the end.
 */
#include "prod_analytics.h"

#include "funnel.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_window_funnel_add);
PG_FUNCTION_INFO_V1(pa_window_funnel_depth);

/*
 * window_funnel_add(state, within, event_time, event_type, steps) adds an event to a group.
 */
Datum
pa_window_funnel_add(PG_FUNCTION_ARGS)
{
	PaFunnelTerms terms = {.is_ordered = true,.from_time = DT_NOBEGIN,.to_time = DT_NOEND};
	PaFunnelState *state;
	PaFunnelEvent event;

	if (PG_ARGISNULL(1) || PG_ARGISNULL(4))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the window and the steps of a funnel must not be NULL")));
	terms.within = pa_funnel_window(PG_GETARG_INTERVAL_P(1));
	terms.steps = PG_GETARG_ARRAYTYPE_P(4);
	state = pa_funnel_state(fcinfo, &terms);

	if (!PG_ARGISNULL(2) && !PG_ARGISNULL(3) &&
		pa_make_event(state->funnel, PG_GETARG_TIMESTAMPTZ(2), PG_GETARG_TEXT_PP(3), &event))
		memcpy(pa_append(&state, sizeof(event)), &event, sizeof(event));

	PG_RETURN_POINTER(state);
}

/*
 * window_funnel_depth(state) is the result of window_funnel().
 *
 * It may be asked for before all events are there, as over a window.  Nobody can tell the order of a state, so it
 * may be sorted all the same.
 */
Datum
pa_window_funnel_depth(PG_FUNCTION_ARGS)
{
	PaFunnelState *state;
	PaFunnelEvent *events;
	int64		n_events;

	(void) pa_aggregate_context(fcinfo);
	if (PG_ARGISNULL(0))
		PG_RETURN_INT32(0);

	state = (PaFunnelState *) PG_GETARG_POINTER(0);
	events = (PaFunnelEvent *) state->data;
	n_events = state->size / sizeof(PaFunnelEvent);
	pa_sort_events(events, n_events);

	PG_RETURN_INT32(pa_deepest_step(state->funnel, events, n_events));
}
