/*
 * funnel.h
 *		Funnels: which steps of a series a user's events reach.
 */
#ifndef PA_FUNNEL_H
#define PA_FUNNEL_H

#include "datatype/timestamp.h"
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

typedef struct PaFunnelEvent
{
	TimestampTz time;
	uint8		type;
} PaFunnelEvent;

extern int64 pa_funnel_window(const Interval *within);
extern PaFunnel *pa_make_funnel(const PaFunnelTerms *terms);
extern bool pa_same_terms(const PaFunnelTerms *a, const PaFunnelTerms *b);
extern int	pa_step_type(const PaFunnel *funnel, const text *event_type);
extern int	pa_deepest_step(const PaFunnel *funnel, const PaFunnelEvent *events, int64 n_events);
extern uint32 pa_steps_reached(const PaFunnel *funnel, const PaFunnelEvent *events, int64 n_events);

#endif							/* PA_FUNNEL_H */
