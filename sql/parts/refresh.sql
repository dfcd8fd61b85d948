CREATE FUNCTION enable_incremental_refresh(matview regclass, archive regclass DEFAULT NULL)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_enable_incremental_refresh'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION enable_incremental_refresh(regclass, regclass) IS
	'let refresh_incremental() keep a materialized view of the caller''s; archive is a table of the same owner with all of its columns that gets the rows of partitions before they are dropped (NULL: the one that the view has already, if any); it refreshes nothing, but everything is taken to have changed; calling it again looks anew at how the view can be kept; returns {"mode", "matview", "source", "keys", "archive", "index" or "advice", "not_data", "order_dependent"}, or {"mode": "full", "matview", "reason", "archive"} for a view that cannot be kept incrementally; raises 22004 for NULL, 42809 for what is no materialized view or no archive, 42501 for somebody else''s, 55000 without a unique index on the keys (the hint is the statement), 42703, 42804, 428C9 and 55000 for an archive that does not fit or is another view''s, 0A000 for one of a view in mode full, 55P03 when the source cannot be locked, 25006 in a read-only transaction';

CREATE FUNCTION disable_incremental_refresh(matview regclass)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_disable_incremental_refresh'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION disable_incremental_refresh(regclass) IS
	'keep a materialized view of the caller''s up to date no longer; the view and its archive stay as they are; raises 55000 when it is not registered and 42501 when it is somebody else''s; a trigger that cannot be dropped because its table is locked is a WARNING';

CREATE FUNCTION refresh_incremental(matview regclass DEFAULT NULL)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_refresh_incremental'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION refresh_incremental(regclass) IS
	'make a registered materialized view what its query returns (NULL: all of them, each for itself), by computing the groups that have changed; returns job_id, status, rows (changed in the view), duration_seconds, matview, mode (incremental, full), method (keys: the changed groups; recompute: all, merged; refresh: REFRESH MATERIALIZED VIEW), keys (groups computed), inserted, updated, deleted and, where there is one, reason; for NULL the views'' results in views; a failure is rolled back, logged in etl_jobs as refresh_matviews and raised as a WARNING; raises 55000 when the view is not registered, 42809 for what is no materialized view, 25006 on a standby and in a read-only transaction, and 40001 under REPEATABLE READ and above when another refresh, or a change of the source''s tables, has committed since the snapshot';

CREATE FUNCTION mark_changed(matview regclass, changed_keys jsonb DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_mark_changed'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION mark_changed(regclass, jsonb) IS
	'let the next refresh of a registered materialized view recompute what triggers did not see change, like rows that were loaded while they were disabled: the groups that changed_keys names, an object or an array of objects with all the view''s keys ({"org_id": 1, "event_date": "2026-11-01"}; null is a NULL key), or everything when it is NULL; raises 55000 when the view is not registered, 22023 for keys that it does not have, 22P02 and its like for values that are none';

CREATE FUNCTION verify_matview(matview regclass, sample_keys integer DEFAULT NULL, repair boolean DEFAULT false)
	RETURNS TABLE (problem text, stored jsonb, recomputed jsonb)
	AS 'MODULE_PATHNAME', 'pa_verify_matview'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION verify_matview(regclass, integer, boolean) IS
	'compare a registered materialized view with a recomputation, as of one moment, in both directions: a row for each group that is missing, extra or different, none when it is exact; sample_keys compares about so many groups, chosen at random (NULL: all); repair mends what was found; columns that do not depend on rows, or on the order in which they are read, are left out, which a NOTICE says; raises 55000 when the view is not registered, 0A000 when it is not kept incrementally, 22023 when sample_keys is not positive, 22004 for NULL, 25006 with repair on a standby and in a read-only transaction';

CREATE FUNCTION verify_settled(matview regclass, sample_keys integer)
	RETURNS TABLE (problem text, stored jsonb, recomputed jsonb)
	AS 'MODULE_PATHNAME', 'pa_verify_settled'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION verify_settled(regclass, integer) IS
	'internal: verify_matview() of about so many groups, but for those that wait for a refresh; none of a view that the next refresh recomputes as a whole';

CREATE FUNCTION capture_changes()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'pa_capture_changes'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION capture_changes() IS
	'internal: trigger for each row of a table that materialized views read, which notes the groups that change';

CREATE FUNCTION restore_capture()
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_restore_capture'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION restore_capture() IS
	'internal: make the missing triggers of all registered materialized views again; what they did not see is recomputed by the next refresh';

CREATE FUNCTION registered_matviews_changed()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'pa_registered_matviews_changed'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION registered_matviews_changed() IS
	'internal: trigger of registered_matviews that lets all sessions know';

CREATE FUNCTION make_matview_status()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
BEGIN
	CREATE OR REPLACE VIEW matview_status AS
		SELECT r.matview, r.mode, r.reason, r.archive, c.pending_keys, c.everything_changed, c.oldest_pending_change,
			s.refreshed_at, s.duration, s.method, s.verified_at,
			CASE WHEN r.mode = 'incremental' THEN statement_timestamp() - least(c.oldest_pending_change,
				CASE WHEN c.everything_changed THEN coalesce(s.refreshed_at, r.registered_at) END, statement_timestamp()) END AS lag
		FROM registered_matviews r
		LEFT JOIN refresh_state s ON s.matview_id = r.matview_id
		CROSS JOIN LATERAL (
			SELECT count(k.key) AS pending_keys, min(k.changed_at) AS oldest_pending_change,
				r.mode = 'incremental' AND (count(*) > count(k.key) OR s.sources IS NULL) AS everything_changed
			FROM changed_keys k WHERE k.matview_id = r.matview_id
		) c;
	COMMENT ON VIEW matview_status IS
		'the registered materialized views: how each is kept (mode, and reason when it is full), its archive, how many changes of groups are pending and since when, or whether everything is taken to have changed, its last refresh and verification, and its lag: how long the oldest change has waited (0: none does; since the last refresh where everything is taken to have changed; NULL in mode full, where it is not known)';
END
$$;

COMMENT ON FUNCTION make_matview_status() IS
	'internal: make, or make anew, the view matview_status';

CREATE FUNCTION make_refresh_tables()
	RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
DECLARE
	made integer := 0;
BEGIN
	-- Materialized views that are kept up to date.  Whoever writes to what they read writes to changed_keys at
	-- commit, as its owner: no key of any kind ties it to other tables, so that writers lock nothing.

	IF prod_analytics.is_missing('registered_matviews') THEN
		CREATE TABLE registered_matviews (
			matview_id serial PRIMARY KEY,
			matview text NOT NULL UNIQUE,
			archive text UNIQUE,
			mode text NOT NULL CHECK (mode IN ('incremental', 'full')),
			reason text,
			registered_at timestamptz NOT NULL DEFAULT now()
		);
		COMMENT ON TABLE registered_matviews IS
			'which materialized views refresh_incremental() keeps up to date, and how; written by enable_incremental_refresh()';
		COMMENT ON COLUMN registered_matviews.matview IS
			'the materialized view: schema.name, quoted where SQL needs it';
		COMMENT ON COLUMN registered_matviews.archive IS
			'the table that gets the view''s rows of a partition before it is dropped; NULL: none does';
		COMMENT ON COLUMN registered_matviews.mode IS
			'incremental: what changed is recomputed; full: all of it is, whenever it is refreshed';
		COMMENT ON COLUMN registered_matviews.reason IS
			'why the mode is full';
		REVOKE ALL ON registered_matviews FROM analytics_reader;
		GRANT SELECT ON registered_matviews TO analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('changed_keys') THEN
		-- Rows come and go: the table is vacuumed by their number, not by their share of what was there once.
		CREATE TABLE changed_keys (
			matview_id integer NOT NULL,
			key bytea,
			changed_at timestamptz NOT NULL
		) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
			autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 10000);
		COMMENT ON TABLE changed_keys IS
			'which groups of a materialized view are out of date: what its source''s writers leave for refresh_incremental()';
		COMMENT ON COLUMN changed_keys.matview_id IS
			'the view in registered_matviews';
		COMMENT ON COLUMN changed_keys.key IS
			'the group, in a form of our own; NULL: all of them';
		COMMENT ON COLUMN changed_keys.changed_at IS
			'when the transaction that changed it was about to commit';
		CREATE INDEX idx_changed_keys_matview ON changed_keys (matview_id);
		COMMENT ON INDEX idx_changed_keys_matview IS
			'what is out of date in a view';
		REVOKE ALL ON changed_keys FROM analytics_reader;
		GRANT SELECT ON changed_keys TO analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('refresh_state') THEN
		CREATE TABLE refresh_state (
			matview_id integer PRIMARY KEY,
			sources text,
			refreshed_at timestamptz,
			duration interval,
			method text,
			verified_at timestamptz
		) WITH (fillfactor = 50);
		COMMENT ON TABLE refresh_state IS
			'the last refresh of each registered materialized view; a refresh locks its row';
		COMMENT ON COLUMN refresh_state.matview_id IS
			'the view in registered_matviews';
		COMMENT ON COLUMN refresh_state.sources IS
			'what the view''s source and its partitions looked like then, in a form of our own; NULL: all groups are to be recomputed';
		COMMENT ON COLUMN refresh_state.method IS
			'how it was refreshed';
		COMMENT ON COLUMN refresh_state.verified_at IS
			'when verify_matview() last compared all of it';
		REVOKE ALL ON refresh_state FROM analytics_reader;
		GRANT SELECT ON refresh_state TO analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('matview_status') THEN
		PERFORM prod_analytics.make_matview_status();
		GRANT SELECT ON matview_status TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('org_daily_metrics_archive') THEN
		CREATE TABLE org_daily_metrics_archive (
			org_id bigint,
			event_date date,
			dau bigint,
			purchases bigint,
			revenue numeric,
			computed_at timestamptz,
			archived_at timestamptz NOT NULL DEFAULT now()
		);
		COMMENT ON TABLE org_daily_metrics_archive IS
			'rows of mv_org_daily_metrics whose events drop_expired_partitions() has dropped; they are final';
		CREATE UNIQUE INDEX org_daily_metrics_archive_idx
			ON org_daily_metrics_archive (org_id, event_date) NULLS NOT DISTINCT;
		COMMENT ON INDEX org_daily_metrics_archive_idx IS
			'one row for each organization and day';
		GRANT SELECT ON org_daily_metrics_archive TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	-- In two conditions, because only equality can be hashed.

	IF prod_analytics.is_missing('org_daily_metrics') THEN
		CREATE VIEW org_daily_metrics AS
			SELECT org_id, event_date, dau, purchases, revenue, computed_at
			FROM org_daily_metrics_archive
			UNION ALL
			SELECT m.org_id, m.event_date, m.dau, m.purchases, m.revenue, m.computed_at
			FROM mv_org_daily_metrics m
			WHERE NOT EXISTS (SELECT FROM org_daily_metrics_archive a
					WHERE a.org_id = m.org_id AND a.event_date = m.event_date)
				AND NOT EXISTS (SELECT FROM org_daily_metrics_archive a
					WHERE a.org_id IS NULL AND m.org_id IS NULL AND a.event_date = m.event_date);
		COMMENT ON VIEW org_daily_metrics IS
			'mv_org_daily_metrics together with its archive: the metrics of all days, also of those whose events were dropped';
		GRANT SELECT ON org_daily_metrics TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	RETURN made;
END
$$;

COMMENT ON FUNCTION make_refresh_tables() IS
	'internal: what make_tables() does for the refresh of materialized views; returns how many tables and views were made';

CREATE FUNCTION make_refresh_triggers()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'registered_matviews'::regclass AND tgname = 'registered_matviews_changed') THEN
		CREATE TRIGGER registered_matviews_changed AFTER INSERT OR UPDATE OR DELETE ON registered_matviews
			FOR EACH ROW EXECUTE FUNCTION prod_analytics.registered_matviews_changed();
		ALTER TABLE registered_matviews ENABLE ALWAYS TRIGGER registered_matviews_changed;
		COMMENT ON TRIGGER registered_matviews_changed ON registered_matviews IS
			'lets all sessions know which materialized views they write for';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'registered_matviews'::regclass AND tgname = 'registered_matviews_truncated') THEN
		CREATE TRIGGER registered_matviews_truncated AFTER TRUNCATE ON registered_matviews
			FOR EACH STATEMENT EXECUTE FUNCTION prod_analytics.registered_matviews_changed();
		ALTER TABLE registered_matviews ENABLE ALWAYS TRIGGER registered_matviews_truncated;
		COMMENT ON TRIGGER registered_matviews_truncated ON registered_matviews IS
			'lets all sessions know that they write for no materialized view any more';
	END IF;
END
$$;

COMMENT ON FUNCTION make_refresh_triggers() IS
	'internal: what make_table_triggers() does for the refresh of materialized views';

CREATE FUNCTION enable_metrics()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
-- Metrics that the user has changed such that it cannot be done are no reason to refuse them.
BEGIN
	PERFORM prod_analytics.enable_incremental_refresh('prod_analytics.mv_org_daily_metrics',
		'prod_analytics.org_daily_metrics_archive');
EXCEPTION WHEN OTHERS THEN
	RAISE WARNING USING
		ERRCODE = SQLSTATE,
		MESSAGE = format('mv_org_daily_metrics is not kept up to date incrementally: %s', SQLERRM),
		HINT = 'Once that is mended, call: SELECT prod_analytics.enable_incremental_refresh(''prod_analytics.mv_org_daily_metrics'', ''prod_analytics.org_daily_metrics_archive'');';
END
$$;

COMMENT ON FUNCTION enable_metrics() IS
	'internal: register mv_org_daily_metrics for incremental refresh, as it is from the start';
