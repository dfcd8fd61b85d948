/*
 * job.h
 *		The log of runs, etl_jobs.
 */
#ifndef PA_JOB_H
#define PA_JOB_H

#include "access/attnum.h"
#include "utils/elog.h"

/* What etl_jobs.status holds. */
#define PA_JOB_SUCCESS "SUCCESS"
#define PA_JOB_FAILED "FAILED"
#define PA_JOB_SKIPPED "SKIPPED"

/* The job that others have to wait for. */
#define PA_INGEST_JOB "ingest_events"

/* What the names of jobs that fill a column begin with, before the column's. */
#define PA_BACKFILL_JOB "backfill_column "

/*
 * A run that the worker has begun: the process that executes the job's command finds its record there, and leaves its
 * end to the worker.
 */
typedef struct PaRun
{
	int64		job_id;			/* 0: this process executes no job's command */
	char	   *job_name;
	char	   *result;			/* what the job's function or procedure said of its end, as JSON; NULL: nothing */
} PaRun;

extern PaRun pa_run;

extern void pa_check_job_name(const char *job_name);
extern int64 pa_job_key(const char *job_name);
extern bool pa_job_lock(const char *job_name);
extern void pa_job_wait(const char *job_name);
extern int64 pa_job_start(const char *job_name);
extern Datum pa_job_end(int64 job_id, const char *status, int64 rows, Datum details);
extern Datum pa_job_skip(const char *job_name);
extern Datum pa_job_fail(int64 job_id, const char *job_name, ErrorData *error);
extern void pa_job_progress(Oid table, AttrNumber column, int64 done, int64 expected);
extern void pa_job_progress_end(void);

#endif							/* PA_JOB_H */
