/*
 * funnel.h
 *		Funnels: which steps of a series a user's events reach.
 */
#ifndef PA_FUNNEL_H
#define PA_FUNNEL_H

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/array.h"

#define PA_MAX_STEPS 32

/* What is asked, as it is passed to functions. */
typedef struct PaFunnelTerms
{
	int64		within;			/* microseconds from the first step to the last, inclusive */
	TimestampTz from_time;		/* first steps are not before it, */
	TimestampTz to_time;		/* and are before this one */
	bool		is_ordered;		/* a step follows the one before it, rather than the first */
	bool		strictly_after; /* a step is later than what it follows, rather than not earlier */
	ArrayType  *steps;
} PaFunnelTerms;

/* The same, ready for use.  A type of events has a number; steps that repeat a type share it. */
typedef struct PaFunnel
{
	PaFunnelTerms terms;
	int			n_steps;
	int			n_types;
	uint8		step_types[PA_MAX_STEPS];
	text	   *type_names[PA_MAX_STEPS];
} PaFunnel;

/*
 * An event is a time and the number of its type in one number, which sorts by time and then by type.  The time has
 * 59 bits: the years up to 11133.
 */
typedef int64 PaFunnelEvent;

#define PA_TYPE_BITS 5
#define PA_EVENT_TIME(event) ((event) >> PA_TYPE_BITS)
#define PA_EVENT_TYPE(event) ((event) & ((1 << PA_TYPE_BITS) - 1))

/* The state of an aggregate over events: what it notes of each, one after the other. */
typedef struct PaFunnelState
{
	const PaFunnel *funnel;
	Size		size;
	Size		room;
	char		data[FLEXIBLE_ARRAY_MEMBER];	/* aligned */
} PaFunnelState;

/* The arguments of funnel(), from 0 on, and of funnel_of_user(), whose transition function has the state before them. */
#define PA_ARG_STEPS 0
#define PA_ARG_WITHIN 1
#define PA_ARG_BY 2
#define PA_ARG_STRICT 3
#define PA_ARG_FROM_TIME 4
#define PA_ARG_TO_TIME 5
#define PA_ARG_STRICTLY_AFTER 6
#define PA_ARG_EVENT_TIME 7
#define PA_ARG_EVENT_TYPE 8

/* What funnel_of_user() tells of a user and a value, which follows. */
typedef struct PaUserValue
{
	uint32		steps;			/* those reached, bit 0 for the first */
	uint32		hash;			/* of the value */
	uint32		length;
} PaUserValue;

extern int64 pa_funnel_window(const Interval *within);
extern PaFunnel *pa_make_funnel(const PaFunnelTerms *terms);
extern bool pa_same_terms(const PaFunnelTerms *a, const PaFunnelTerms *b);
extern bool pa_make_event(const PaFunnel *funnel, TimestampTz time, const text *event_type, PaFunnelEvent *event);
extern void pa_sort_events(PaFunnelEvent *events, size_t n_events);
extern int	pa_deepest_step(const PaFunnel *funnel, const PaFunnelEvent *events, int64 n_events);
extern uint32 pa_steps_reached(const PaFunnel *funnel, const PaFunnelEvent *events, int64 n_events);

extern MemoryContext pa_aggregate_context(FunctionCallInfo fcinfo);
extern PaFunnelState *pa_funnel_state(FunctionCallInfo fcinfo, const PaFunnelTerms *terms);
extern char *pa_append(PaFunnelState **state, Size size);
extern void pa_read_terms(FunctionCallInfo fcinfo, int first, PaFunnelTerms *terms);

#endif							/* PA_FUNNEL_H */
