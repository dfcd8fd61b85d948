CREATE FUNCTION job_begin(job_name text)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'pa_job_begin'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION job_begin(text) IS
	'internal: take the lock hashtext(''etl_'' || job_name) until job_finish() or a failure, across transactions, and log the start of a run; returns its job_id, or NULL, with the run logged as SKIPPED, when another session holds the lock; raises 25001 inside a transaction block';

CREATE FUNCTION job_note(job_id bigint, rows bigint, details jsonb)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_job_note'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION job_note(bigint, bigint, jsonb) IS
	'internal: log how far a run has come';

CREATE FUNCTION job_finish(job_id bigint, status text, rows bigint, details jsonb)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_job_finish'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION job_finish(bigint, text, bigint, jsonb) IS
	'internal: log the end of a run and give the job''s lock back; returns job_id, status, rows, duration_seconds and the details; raises 55000 when the run is not running';
