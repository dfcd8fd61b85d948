CREATE FUNCTION purge_batch(store text, after bigint, OUT reached bigint, OUT deleted bigint)
	AS 'MODULE_PATHNAME', 'pa_purge_batch'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION purge_batch(text, bigint) IS
	'internal: delete those of the next 10,000 rows of a table of history that are older than its setting allows, beginning after a number of its primary key; returns the number reached (NULL: that was the last of them) and how many were deleted';

CREATE FUNCTION purge_next(state jsonb)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	stores CONSTANT text[] := '{etl_jobs,quality_results,captured_plans,quarantined_events,quarantined_users}';
	store CONSTANT integer := coalesce((state->>'store')::integer, 1);
	step record;
BEGIN
	IF store > cardinality(stores) THEN
		RETURN NULL;
	END IF;
	SELECT * INTO step
	FROM prod_analytics.purge_batch(stores[store], coalesce((state->>'reached')::bigint, -9223372036854775808)) b;
	RETURN jsonb_build_object(
		'store', CASE WHEN step.reached IS NULL THEN store + 1 ELSE store END,
		'reached', step.reached,
		'rows', coalesce((state->>'rows')::bigint, 0) + step.deleted,
		'purged', coalesce(state->'purged', '{}') || CASE WHEN step.deleted = 0 THEN '{}' ELSE
			jsonb_build_object(stores[store], coalesce((state->'purged'->>stores[store])::bigint, 0) + step.deleted) END);
END
$$;

COMMENT ON FUNCTION purge_next(jsonb) IS
	'internal: the next step of purge_history(): from the state that the one before it has left (NULL: there was none) to the state after it, NULL when all is done';

CREATE FUNCTION purge_runs(so_far bigint)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'pa_purge_runs'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION purge_runs(bigint) IS
	'internal: a step of purge_history() in version 0.1.0, whose dumps name it in a GRANT';

CREATE PROCEDURE purge_history()
	LANGUAGE plpgsql
	AS $$
-- A procedure that commits cannot have a search_path of its own, so nothing here depends on the caller's: functions and
-- types are qualified.
DECLARE
	job CONSTANT bigint := prod_analytics.job_begin('purge_history');
	state pg_catalog.jsonb;
	next_state pg_catalog.jsonb;
BEGIN
	IF job IS NULL THEN
		RAISE NOTICE 'another session is purging the history';
		RETURN;
	END IF;
	COMMIT;
	LOOP
		next_state := prod_analytics.purge_next(state);
		EXIT WHEN next_state IS NULL;
		state := next_state;
		PERFORM prod_analytics.job_note(job, pg_catalog.jsonb_extract_path_text(state, 'rows')::bigint,
			pg_catalog.jsonb_extract_path(state, 'purged'));
		COMMIT;
	END LOOP;
	PERFORM prod_analytics.job_finish(job, 'SUCCESS', pg_catalog.jsonb_extract_path_text(state, 'rows')::bigint,
		pg_catalog.jsonb_extract_path(state, 'purged'));
	COMMIT;
END
$$;

COMMENT ON PROCEDURE purge_history() IS
	'delete the runs in etl_jobs, the results in quality_results and the plans in captured_plans that are older than the setting prod_analytics.history_retention, and the rows of quarantined_events and quarantined_users that are older than prod_analytics.quarantine_retention (empty, as it is from the start: none), 10,000 and a commit at a time; a run that is going on is never deleted; logs its own run, with the rows deleted by table in details; it can be cancelled and called again; raises 25001 inside a transaction block';
