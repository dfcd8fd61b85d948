/*
 * schedule.h
 *		When a job is due: intervals and cron expressions.
 */
#ifndef PA_SCHEDULE_H
#define PA_SCHEDULE_H

#include "datatype/timestamp.h"
#include "fmgr.h"

/* A schedule: an interval, of which one of the first three is set, or a cron expression. */
typedef struct PaSchedule
{
	int64		microseconds;
	int32		days;
	int32		months;
	uint64		minutes;		/* bits 0 to 59; 0: no cron expression */
	uint32		hours;			/* 0 to 23 */
	uint32		month_days;		/* 1 to 31 */
	uint32		month_names;	/* 1 to 12 */
	uint32		week_days;		/* 0 (Sunday) to 6 */
	bool		any_hour;		/* the field begins with an asterisk */
	bool		any_month_day;
	bool		any_week_day;
} PaSchedule;

extern PGDLLEXPORT Datum pa_next_slot_sql(PG_FUNCTION_ARGS);
extern void pa_parse_schedule(const char *text, PaSchedule *schedule);
extern bool pa_next_slot(const PaSchedule *schedule, const char *timezone, TimestampTz after, TimestampTz *slot);

#endif							/* PA_SCHEDULE_H */
