/*
 * validation_event.h
 *		The schemas that are registered for event types.
 */
#ifndef PA_VALIDATION_EVENT_H
#define PA_VALIDATION_EVENT_H

#include "validation.h"

/* What ingestion and triggers do about an event that does not satisfy its schema. */
typedef enum PaMode
{
	PA_MODE_ENFORCE,			/* refuse it */
	PA_MODE_WARN,				/* count it and let it pass */
	PA_MODE_OFF					/* nothing */
} PaMode;

/* The newest version of an event type's schema. */
typedef struct PaEventSchema
{
	PaName		event_type;		/* the key */
	MemoryContext context;		/* of all that follows */
	int			version;
	PaMode		mode;
	Jsonb	   *source;
	PaSchema   *schema;			/* NULL: not compiled yet */
} PaEventSchema;

extern uint64 pa_event_schemas_generation;

extern void pa_notice_event_schemas(void);
extern PaEventSchema *pa_peek_event_schema(PaName event_type);
extern PaEventSchema *pa_find_event_schema(PaName event_type);

#endif							/* PA_VALIDATION_EVENT_H */
