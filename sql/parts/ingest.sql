CREATE FUNCTION etl_ingest_events(batch_size integer DEFAULT 10000)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_etl_ingest_events'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION etl_ingest_events(integer) IS
	'move at most batch_size rows from staging_events to events, create the partitions they need, drop those that are there already, and set the ones that cannot go in aside in quarantined_events; one session at a time, by the advisory lock hashtext(''etl_ingest_events''); returns job_id, status (SUCCESS, FAILED, SKIPPED), rows (taken = inserted + duplicates + quarantined), duration_seconds, inserted, duplicates, quarantined, deferred (put back because the batch needs more than 100 new partitions, or a lock for making them cannot be had) and partitions_created; a failure is rolled back, logged in etl_jobs and raised as a WARNING; raises 22023 when batch_size is NULL or not positive (section 9)';
