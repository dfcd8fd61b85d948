/*
 * funnel_state.c
 *		The states of the aggregates window_funnel() and funnel_of_user().
 *
 * A state is what its aggregate notes of each event of a group, so uniting two of them is appending one to the other.
 * What the funnel asks stands in one place for all groups of a call site, not in each state.
 */
#include "prod_analytics.h"

#include "funnel.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(pa_funnel_state_combine);
PG_FUNCTION_INFO_V1(pa_funnel_state_serialize);
PG_FUNCTION_INFO_V1(pa_funnel_state_deserialize);

/* How many funnels a call site remembers: more than one where they come from a table. */
#define KNOWN_FUNNELS 16

typedef struct FunnelSite
{
	int			n_funnels;
	PaFunnel   *funnels[KNOWN_FUNNELS];
} FunnelSite;

/* A state has the size of a power of two, which palloc() does not round up. */
#define FIRST_SIZE 64

/* A serialized state begins with this; then come the steps, then what was noted. */
typedef struct SerializedHead
{
	PaFunnelTerms terms;		/* its pointer means nothing */
	Size		steps_size;
	Size		size;
} SerializedHead;

/*
 * pa_aggregate_context is the memory in which the states of the aggregate that calls us live.
 */
MemoryContext
pa_aggregate_context(FunctionCallInfo fcinfo)
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
 * one that goes with the states.
 */
static const PaFunnel *
known_funnel(FmgrInfo *call_site, const PaFunnelTerms *terms, MemoryContext states_context)
{
	FunnelSite *site = call_site->fn_extra;
	MemoryContext caller_context;
	PaFunnel   *funnel;

	if (site == NULL)
		site = call_site->fn_extra = MemoryContextAllocZero(call_site->fn_mcxt, sizeof(FunnelSite));
	for (int i = 0; i < site->n_funnels; i++)
		if (pa_same_terms(&site->funnels[i]->terms, terms))
			return site->funnels[i];

	caller_context = MemoryContextSwitchTo(site->n_funnels < KNOWN_FUNNELS ? call_site->fn_mcxt : states_context);
	funnel = pa_make_funnel(terms);
	MemoryContextSwitchTo(caller_context);
	if (site->n_funnels < KNOWN_FUNNELS)
		site->funnels[site->n_funnels++] = funnel;

	return funnel;
}

/*
 * new_state is an empty state in a memory context.
 */
static PaFunnelState *
new_state(FmgrInfo *call_site, const PaFunnelTerms *terms, MemoryContext context)
{
	PaFunnelState *state = MemoryContextAlloc(context, FIRST_SIZE);

	state->funnel = known_funnel(call_site, terms, context);
	state->size = 0;
	state->room = FIRST_SIZE - offsetof(PaFunnelState, data);

	return state;
}

/*
 * pa_funnel_state is the state that a transition or combine function is called with, a new one for a new group.
 */
PaFunnelState *
pa_funnel_state(FunctionCallInfo fcinfo, const PaFunnelTerms *terms)
{
	MemoryContext context = pa_aggregate_context(fcinfo);
	PaFunnelState *state;

	if (PG_ARGISNULL(0))
		return new_state(fcinfo->flinfo, terms, context);

	state = (PaFunnelState *) PG_GETARG_POINTER(0);
	if (!pa_same_terms(&state->funnel->terms, terms))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the window and the steps of a funnel must be the same for all events of a group"),
				 errhint("Group by them, too.")));

	return state;
}

/*
 * pa_append makes a state larger, by which it may move, and is where the new bytes belong.
 */
char *
pa_append(PaFunnelState **state, Size size)
{
	Size		used = (*state)->size;

	if (size > (*state)->room - used)
	{
		Size		whole = (*state)->room + offsetof(PaFunnelState, data);

		while (size > whole - offsetof(PaFunnelState, data) - used)
			whole *= 2;
		*state = repalloc_huge(*state, whole);
		(*state)->room = whole - offsetof(PaFunnelState, data);
	}
	(*state)->size = used + size;

	return (*state)->data + used;
}

/*
 * funnel_state_combine(state, other) adds the events of another state of the same group.
 */
Datum
pa_funnel_state_combine(PG_FUNCTION_ARGS)
{
	PaFunnelState *state;
	const PaFunnelState *other;

	if (PG_ARGISNULL(1))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}

	other = (PaFunnelState *) PG_GETARG_POINTER(1);
	state = pa_funnel_state(fcinfo, &other->funnel->terms);
	memcpy(pa_append(&state, other->size), other->data, other->size);

	PG_RETURN_POINTER(state);
}

/*
 * funnel_state_serialize(state) makes bytes of a state, for another process of the same server.
 */
Datum
pa_funnel_state_serialize(PG_FUNCTION_ARGS)
{
	const PaFunnelState *state = (PaFunnelState *) PG_GETARG_POINTER(0);
	SerializedHead head = {0};
	bytea	   *result;
	char	   *place;

	(void) pa_aggregate_context(fcinfo);
	head.terms = state->funnel->terms;
	head.steps_size = VARSIZE(head.terms.steps);
	head.size = state->size;

	result = palloc(VARHDRSZ + sizeof(head) + head.steps_size + head.size);
	SET_VARSIZE(result, VARHDRSZ + sizeof(head) + head.steps_size + head.size);
	place = VARDATA(result);
	memcpy(place, &head, sizeof(head));
	memcpy(place + sizeof(head), head.terms.steps, head.steps_size);
	memcpy(place + sizeof(head) + head.steps_size, state->data, head.size);

	PG_RETURN_BYTEA_P(result);
}

/*
 * funnel_state_deserialize(bytes, NULL) makes a state of them, which lives until it is combined.
 */
Datum
pa_funnel_state_deserialize(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	const char *place = VARDATA_ANY(bytes);
	SerializedHead head;
	PaFunnelState *state;

	(void) pa_aggregate_context(fcinfo);
	memcpy(&head, place, sizeof(head));
	head.terms.steps = palloc(head.steps_size);
	memcpy(head.terms.steps, place + sizeof(head), head.steps_size);

	state = new_state(fcinfo->flinfo, &head.terms, CurrentMemoryContext);
	memcpy(pa_append(&state, head.size), place + sizeof(head) + head.steps_size, head.size);
	pfree(head.terms.steps);

	PG_RETURN_POINTER(state);
}
