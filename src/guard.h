/*
 * guard.h
 *		Running work as a table's owner, and surviving its failure.
 */
#ifndef PA_GUARD_H
#define PA_GUARD_H

#include "datatype/timestamp.h"
#include "utils/elog.h"

/* What pa_guard_leave must put back. */
typedef struct PaGuard
{
	Oid			user;
	int			security_context;
	int			guc_level;
} PaGuard;

typedef void (*PaWork) (void *argument);

extern void pa_forbid_writing(void);
extern void pa_set_for_now(const char *name, const char *value);
extern void pa_guard_enter(PaGuard *guard, Oid owner);
extern void pa_guard_leave(PaGuard *guard);
extern int	pa_utc_enter(void);
extern void pa_utc_leave(int guc_level);
extern char *pa_instant_text(TimestampTz instant);
extern bool pa_attempt(PaWork work, void *argument, ErrorData **error);
extern void pa_rehearse(PaWork work, void *argument);
extern bool pa_try_and_undo(PaWork work, void *argument, ErrorData **error);
extern bool pa_is_about_the_session(ErrorData *error);
extern bool pa_try(PaWork work, void *argument, ErrorData **error);
extern bool pa_is_about_a_row(ErrorData *error);
extern void pa_forbid_read_only(const char *function);
extern Oid	pa_table(const char *name);
extern Oid	pa_owner(Oid relation);

#endif							/* PA_GUARD_H */
