/*
 * settings.h
 *		The extension's settings, as other files see them.
 */
#ifndef PA_SETTINGS_H
#define PA_SETTINGS_H

/* Intervals in text form, checked when they are set, so that casting them cannot fail. */
extern char *pa_max_event_age;
extern char *pa_max_event_lead;
extern char *pa_dedupe_window;

extern int64 pa_span_microseconds(const char *setting);

/* How long a lock on a table is waited for, in milliseconds, and how often again. */
extern int	pa_lock_timeout;
extern int	pa_lock_retries;
extern int	pa_backfill_pause_ms;

/* The worker: which databases it works for, how many runs it does at a time, and whether it does any. */
extern char *pa_databases;
extern int	pa_max_running_jobs;
extern bool pa_enabled;
extern char *pa_history_retention;

/* Empty: what was quarantined is kept for ever. */
extern char *pa_quarantine_retention;

#endif							/* PA_SETTINGS_H */
