CREATE FUNCTION instant_or_null(text text)
	RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'pa_instant_or_null'
	LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION instant_or_null(text) IS
	'internal: the instant that a text holds; NULL when it holds none, or an infinite one';

CREATE FUNCTION etl_upsert_users(batch_size integer DEFAULT 10000)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_etl_upsert_users'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION etl_upsert_users(integer) IS
	'merge at most batch_size rows of staging_users, the first to come, into users: by e-mail address, attributes added to those that are there, last_login from them; of rows with one address the last to come counts; those without a usable address, organization, payload or last_login are set aside in quarantined_users; one session at a time, by the advisory lock hashtext(''etl_upsert_users''); returns job_id, status (SUCCESS, FAILED, SKIPPED), rows (taken = inserted + updated + superseded + quarantined), duration_seconds, inserted, updated, superseded, quarantined and quarantined_for (rows by reason); a failure is rolled back, logged in etl_jobs and raised as a WARNING; raises 22023 when batch_size is NULL or not positive (section 4)';

CREATE FUNCTION erase_user(user_id bigint)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_erase_user'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION erase_user(bigint) IS
	'forget a person: user_id becomes NULL in events, staged and quarantined ones too, and the row in users goes, with what is staged or quarantined under its address; the properties of events stay as they are; waits for runs of etl_ingest_events() and etl_upsert_users(), and keeps them out until the transaction ends, by their advisory locks; logged without saying who it was; returns job_id, status (SUCCESS, FAILED), rows, duration_seconds, users (1, or 0 and a WARNING when no user has this number: it is wrong, or of a person who was erased before), events and staged_or_quarantined; a failure is rolled back, logged and raised as a WARNING; raises 22004 when user_id is NULL';
