/*
 * job.c
 *		The log of runs, etl_jobs.
 *
 * A job is a kind of work that has a name ("ingest_events").  A run is one execution of it, a row
 * in etl_jobs.  While a run lasts it holds the job's advisory lock, hashtext('etl_' || name): the
 * key that shell scripts around the same work already use.
 *
 * The caller is connected to SPI and inside a guard.
 */
#include "prod_analytics.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "job.h"
#include "query.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

/*
 * jsonb_result copies the only value of the last query out of SPI's memory.
 */
static Datum
jsonb_result(void)
{
	bool		isnull;
	Datum		value = pa_result(0, 1, &isnull);

	return SPI_datumTransfer(value, false, -1);
}

/*
 * pa_job_lock takes the job's lock until the end of the transaction; false when another session
 * holds it.
 */
bool
pa_job_lock(const char *job_name)
{
	char	   *key = psprintf("etl_%s", job_name);
	Datum		hash = DirectFunctionCall1Coll(hashtext, DEFAULT_COLLATION_OID,
											   CStringGetTextDatum(key));

	return DatumGetBool(DirectFunctionCall1(pg_try_advisory_xact_lock_int8,
											Int64GetDatum((int64) DatumGetInt32(hash))));
}

/*
 * pa_job_start logs the start of a run and returns its job_id.
 */
int64
pa_job_start(const char *job_name)
{
	PaParameters parameters = {0};
	bool		isnull;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(job_name));
	pa_query("INSERT INTO prod_analytics.etl_jobs (job_name, started_at, status)"
			 " VALUES ($1, clock_timestamp(), 'RUNNING') RETURNING job_id",
			 &parameters, SPI_OK_INSERT_RETURNING);

	return DatumGetInt64(pa_result(0, 1, &isnull));
}

/*
 * pa_job_end logs the end of a run and returns the jsonb result that the job's function gives its
 * caller, in the memory context of the SPI caller.
 */
Datum
pa_job_end(int64 job_id, const char *status, int64 rows, Datum details)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(job_id));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(status));
	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(rows));
	pa_add_parameter(&parameters, JSONBOID, details);
	if (pa_query("UPDATE prod_analytics.etl_jobs"
				 " SET finished_at = clock_timestamp(), status = $2, rows_processed = $3, details = $4"
				 " WHERE job_id = $1"
				 " RETURNING jsonb_build_object('job_id', job_id, 'status', status, 'rows', rows_processed,"
				 " 'duration_seconds', extract(epoch FROM finished_at - started_at)) || details",
				 &parameters, SPI_OK_UPDATE_RETURNING) != 1)
		elog(ERROR, "run " INT64_FORMAT " is not in etl_jobs", job_id);

	return jsonb_result();
}

/*
 * pa_job_skip logs that a run did not start because the job is running elsewhere.
 */
Datum
pa_job_skip(const char *job_name)
{
	Datum		details;

	details = DirectFunctionCall1(jsonb_in,
								  CStringGetDatum("{\"reason\": \"the job is running in another session\"}"));

	return pa_job_end(pa_job_start(job_name), PA_JOB_SKIPPED, 0, details);
}

/*
 * add_text appends a parameter that is NULL when the text is.
 */
static void
add_text(PaParameters *parameters, const char *text)
{
	pa_add_parameter(parameters, TEXTOID, text ? CStringGetTextDatum(text) : (Datum) 0);
	if (text == NULL)
		parameters->nulls[parameters->count - 1] = 'n';
}

/*
 * pa_job_fail logs the failure of a run whose work has been rolled back, and raises it as a
 * WARNING: an error would roll back the record too.
 */
Datum
pa_job_fail(int64 job_id, const char *job_name, ErrorData *error)
{
	PaParameters parameters = {0};

	add_text(&parameters, unpack_sql_state(error->sqlerrcode));
	add_text(&parameters, error->message);
	add_text(&parameters, error->detail);
	add_text(&parameters, error->hint);
	add_text(&parameters, error->context);
	pa_query("SELECT jsonb_strip_nulls(jsonb_build_object("
			 "'sqlstate', $1, 'error', $2, 'detail', $3, 'hint', $4, 'context', $5))",
			 &parameters, SPI_OK_SELECT);

	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("job \"%s\" failed: %s", job_name, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 errhint("Its work was rolled back; run " INT64_FORMAT " in %s.etl_jobs tells more.",
					 job_id, PA_SCHEMA)));

	return pa_job_end(job_id, PA_JOB_FAILED, 0, jsonb_result());
}
