CREATE FUNCTION make_quality_tables()
	RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
DECLARE
	made integer := 0;
BEGIN
	IF prod_analytics.is_missing('quality_checks') THEN
		CREATE TABLE quality_checks (
			check_name text PRIMARY KEY,
			description text,
			query text NOT NULL,
			severity text NOT NULL DEFAULT 'warning' CHECK (severity IN ('warning', 'error')),
			warn_above bigint NOT NULL DEFAULT 0 CHECK (warn_above >= 0),
			fail_above bigint CHECK (fail_above >= warn_above),
			enabled boolean NOT NULL DEFAULT true,
			timeout interval CHECK (timeout >= '1 millisecond')
		);
		COMMENT ON TABLE quality_checks IS
			'what run_quality_checks() looks at: each query returns the rows that are wrong (section 13); add your own';
		COMMENT ON COLUMN quality_checks.query IS
			'a SELECT without parameters that returns the failing rows; it runs as the owner of this table, with search_path pg_catalog, in a read-only transaction';
		COMMENT ON COLUMN quality_checks.severity IS
			'error: when it fails, so does the job quality_checks, and what depends on that has to wait';
		COMMENT ON COLUMN quality_checks.warn_above IS
			'more failing rows than that are a warning';
		COMMENT ON COLUMN quality_checks.fail_above IS
			'more failing rows than that are a failure; NULL: they never are';
		COMMENT ON COLUMN quality_checks.timeout IS
			'after how long the check is cancelled, which is an ERROR; NULL: never';
		REVOKE ALL ON quality_checks FROM analytics_reader;
		GRANT SELECT ON quality_checks TO analytics_operator;
		PERFORM prod_analytics.make_default_checks();
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('quality_results') THEN
		CREATE TABLE quality_results (
			result_id bigserial PRIMARY KEY,
			check_name text NOT NULL,
			checked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
			status text NOT NULL CHECK (status IN ('PASS', 'WARN', 'FAIL', 'ERROR')),
			failing_rows bigint,
			sample jsonb,
			duration interval,
			error text
		);
		COMMENT ON TABLE quality_results IS
			'what run_quality_checks() has found, each time';
		COMMENT ON COLUMN quality_results.failing_rows IS
			'how many rows were wrong; NULL: the query failed';
		COMMENT ON COLUMN quality_results.sample IS
			'at most ten of them; of each at most 8 kB: of a value that is too big there is only how many bytes it has';
		COMMENT ON COLUMN quality_results.error IS
			'why the query failed';
		CREATE INDEX idx_quality_results_check ON quality_results (check_name, checked_at DESC);
		COMMENT ON INDEX idx_quality_results_check IS
			'the latest results of a check';
		REVOKE ALL ON quality_results FROM analytics_reader;
		GRANT SELECT ON quality_results TO analytics_operator;
		made := made + 1;
	END IF;

	RETURN made;
END
$$;

COMMENT ON FUNCTION make_quality_tables() IS
	'internal: what make_tables() does for quality checks; returns how many tables were made';

CREATE FUNCTION default_checks()
	RETURNS TABLE (check_name text, description text, severity text, warn_above bigint, fail_above bigint, query text, since integer)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	-- since is the version of the tables that brought a check.  Each looks at a stretch of time: event_time lets it leave
	-- partitions alone, event_date, by its BRIN index, most of those that it reads.
	VALUES
		('orphan_events', 'events of the last 7 days whose user does not exist (section 13)', 'error', 0, 0,
			$q$SELECT e.event_id, e.event_time, e.user_id FROM prod_analytics.events e
WHERE e.event_time BETWEEN now() - interval '7 days' AND now() + interval '1 day' AND e.event_date >= ((now() - interval '7 days') AT TIME ZONE 'UTC')::date
	AND e.user_id IS NOT NULL
	AND NOT EXISTS (SELECT FROM prod_analytics.users u WHERE u.user_id = e.user_id)$q$, 0),
		('missing_purchase_keys', 'purchases of the last 7 days without order_id or price (section 13)', 'warning', 0, NULL,
			$q$SELECT event_id, event_time, (event_props ? 'order_id') IS NOT TRUE AS lacks_order_id, (event_props ? 'price') IS NOT TRUE AS lacks_price
FROM prod_analytics.events
WHERE event_time BETWEEN now() - interval '7 days' AND now() + interval '1 day' AND event_date >= ((now() - interval '7 days') AT TIME ZONE 'UTC')::date
	AND event_type = 'purchase' AND (event_props ?& '{order_id,price}') IS NOT TRUE$q$, 0),
		('duplicate_events', 'event_ids that occur twice in the last 7 days', 'error', 0, 0,
			$q$SELECT event_id, count(*) FROM prod_analytics.events
WHERE event_time BETWEEN now() - interval '7 days' AND now() + interval '1 day' AND event_date >= ((now() - interval '7 days') AT TIME ZONE 'UTC')::date
GROUP BY event_id HAVING count(*) > 1$q$, 0),
		('future_events', 'events more than a day ahead', 'warning', 0, NULL,
			$q$SELECT event_id, event_time FROM prod_analytics.events WHERE event_time > now() + interval '1 day'$q$, 0),
		('stale_events', 'no event for a day, although there were some before', 'error', 0, 0,
			$q$SELECT now() - interval '1 day' AS no_event_since
WHERE NOT EXISTS (SELECT FROM prod_analytics.events
		WHERE event_time BETWEEN now() - interval '1 day' AND now() AND event_date >= ((now() - interval '1 day') AT TIME ZONE 'UTC')::date)
	AND EXISTS (SELECT FROM prod_analytics.events WHERE event_time <= now() - interval '1 day')$q$, 0),
		('stale_staging', 'staged rows that have waited for an hour to be ingested', 'warning', 0, NULL,
			$q$(SELECT 'events' AS staged, received_at AS since FROM prod_analytics.staging_events
	WHERE received_at < now() - interval '1 hour' LIMIT 1000)
UNION ALL
(SELECT 'users', ingested_at FROM prod_analytics.staging_users
	WHERE ingested_at < now() - interval '1 hour' LIMIT 1000)$q$, 6),
		('low_volume', 'the last full hour has less than half of the events that the same hour of the last four weeks had', 'warning', 0, NULL,
			$q$SELECT v.hour, v.events, v.usual FROM (
	SELECT min(h.hour) AS hour, count(*) FILTER (WHERE e.event_time >= h.hour) AS events,
		count(*) FILTER (WHERE e.event_time < h.hour) / 4.0 AS usual
	FROM prod_analytics.events e, (SELECT date_trunc('hour', now(), 'UTC') - interval '1 hour' AS hour) h
	WHERE e.event_time >= h.hour - interval '672 hours' AND e.event_time < h.hour + interval '1 hour'
		AND e.event_date IN ((h.hour AT TIME ZONE 'UTC')::date, (h.hour AT TIME ZONE 'UTC')::date - 7, (h.hour AT TIME ZONE 'UTC')::date - 14,
			(h.hour AT TIME ZONE 'UTC')::date - 21, (h.hour AT TIME ZONE 'UTC')::date - 28)
		AND date_trunc('hour', e.event_time, 'UTC') IN (h.hour, h.hour - interval '168 hours', h.hour - interval '336 hours',
			h.hour - interval '504 hours', h.hour - interval '672 hours')) v
WHERE v.usual >= 20 AND v.events < v.usual / 2$q$, 0),
		('null_rates', 'columns of events with far more NULLs today than in the week before', 'warning', 0, NULL,
			$q$SELECT c.column_name, round(c.today, 4) AS today, round(c.before, 4) AS before FROM (
	SELECT count(*) FILTER (WHERE is_today) AS events,
		avg((user_id IS NULL)::int) FILTER (WHERE is_today) AS user_id, avg((user_id IS NULL)::int) FILTER (WHERE NOT is_today) AS user_id_before,
		avg((org_id IS NULL)::int) FILTER (WHERE is_today) AS org_id, avg((org_id IS NULL)::int) FILTER (WHERE NOT is_today) AS org_id_before,
		avg((event_props IS NULL)::int) FILTER (WHERE is_today) AS event_props, avg((event_props IS NULL)::int) FILTER (WHERE NOT is_today) AS event_props_before,
		avg((device_type IS NULL)::int) FILTER (WHERE is_today) AS device_type, avg((device_type IS NULL)::int) FILTER (WHERE NOT is_today) AS device_type_before
	FROM prod_analytics.events, LATERAL (SELECT event_time > now() - interval '1 day' AS is_today) t
	WHERE event_time BETWEEN now() - interval '8 days' AND now() AND event_date >= ((now() - interval '8 days') AT TIME ZONE 'UTC')::date) s,
	LATERAL (VALUES ('user_id', s.user_id, s.user_id_before), ('org_id', s.org_id, s.org_id_before),
		('event_props', s.event_props, s.event_props_before), ('device_type', s.device_type, s.device_type_before)) c (column_name, today, before)
WHERE s.events >= 20 AND c.today > 0.1 AND c.today > least(2 * c.before, (1 + c.before) / 2)$q$, 0),
		('quarantine_growth', 'reasons for which far more rows were set aside in the last hour than in an hour of the week before', 'warning', 0, NULL,
			$q$SELECT g.staged, g.reason, g.last_hour, round(g.usual, 1) AS usual FROM (
	SELECT q.staged, r.reason, count(*) FILTER (WHERE q.quarantined_at > now() - interval '1 hour') AS last_hour,
		count(*) FILTER (WHERE q.quarantined_at <= now() - interval '1 hour') / 168.0 AS usual
	FROM (SELECT 'events' AS staged, quarantined_at, reasons FROM prod_analytics.quarantined_events
			UNION ALL SELECT 'users', quarantined_at, reasons FROM prod_analytics.quarantined_users) q
		LEFT JOIN LATERAL (SELECT DISTINCT jsonb_path_query(q.reasons, '$[*].code') #>> '{}' AS reason) r ON true
	WHERE q.quarantined_at > now() - interval '169 hours'
	GROUP BY 1, 2) g
WHERE g.last_hour >= 20 AND g.last_hour > 3 * g.usual$q$, 0),
		('rows_in_default_partition', 'managed tables whose default partition is not empty', 'warning', 0, NULL,
			$q$SELECT p.parent AS table_name FROM prod_analytics.partition_policies p
WHERE to_regclass(p.parent) IS NOT NULL AND prod_analytics.default_holds_rows(to_regclass(p.parent))$q$, 0),
		('partition_runway', 'managed tables without a partition, or whose last one ends within half of what is kept ready, a week at most', 'error', 0, 0,
			$q$SELECT p.parent AS table_name, min(s.runway) AS runway
FROM prod_analytics.partition_policies p LEFT JOIN prod_analytics.partition_status s ON s.table_name = to_regclass(p.parent)
WHERE to_regclass(p.parent) IS NOT NULL
GROUP BY p.parent, p.ahead, p.width
HAVING min(s.runway) < least(interval '7 days', p.ahead * p.width / 2) OR count(*) FILTER (WHERE NOT s.is_default) = 0$q$, 0),
		('stale_matviews', 'materialized views with changes that have waited for an hour', 'warning', 0, NULL,
			$q$SELECT matview, lag FROM prod_analytics.matview_status WHERE lag > interval '1 hour'$q$, 0),
		('wrong_matviews', 'groups of materialized views that are not what their query returns, of about 20 of each view, chosen at random', 'error', 0, 0,
			$q$SELECT r.matview, v.problem, v.stored, v.recomputed
FROM prod_analytics.registered_matviews r, LATERAL prod_analytics.verify_settled(to_regclass(r.matview), 20) v
WHERE r.mode = 'incremental' AND to_regclass(r.matview) IS NOT NULL$q$, 6),
		('unwatched_matviews', 'materialized views that do not exist, or read a table whose changes are not noticed', 'warning', 0, NULL,
			$q$SELECT r.matview, NULL AS table_name FROM prod_analytics.registered_matviews r WHERE to_regclass(r.matview) IS NULL
UNION ALL
SELECT r.matview, t.relid::regclass::text
FROM prod_analytics.registered_matviews r
JOIN pg_rewrite w ON w.ev_class = to_regclass(r.matview)
JOIN (SELECT DISTINCT objid, refobjid FROM pg_depend WHERE classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass) d
	ON d.objid = w.oid AND d.refobjid <> w.ev_class
JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p')
CROSS JOIN LATERAL pg_partition_tree(c.oid) t
WHERE r.mode = 'incremental' AND NOT EXISTS (SELECT FROM pg_trigger g
	WHERE g.tgrelid = t.relid AND g.tgfoid = 'prod_analytics.capture_changes'::regproc AND g.tgenabled = 'A')$q$, 6)
$$;

COMMENT ON FUNCTION default_checks() IS
	'internal: the checks that are there from the start';

CREATE FUNCTION make_default_checks(newer_than integer DEFAULT -1)
	RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	AS $$
	INSERT INTO prod_analytics.quality_checks (check_name, description, severity, warn_above, fail_above, query, timeout)
	SELECT d.check_name, d.description, d.severity, d.warn_above, d.fail_above, d.query, '10 minutes'
	FROM prod_analytics.default_checks() d WHERE d.since > make_default_checks.newer_than
	ON CONFLICT DO NOTHING
$$;

COMMENT ON FUNCTION make_default_checks(integer) IS
	'internal: insert the checks that a version of the tables did not have yet, unless there are others of their names';

CREATE FUNCTION check_fingerprint(query text, warn_above bigint, fail_above bigint)
	RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT left(encode(sha256(convert_to(concat_ws('|', query, warn_above, fail_above), 'UTF8')), 'hex'), 16)
$$;

COMMENT ON FUNCTION check_fingerprint(text, bigint, bigint) IS
	'internal: by which a check is known as one that came with an older version';

CREATE FUNCTION renew_checks(old_checks jsonb, newer_than integer)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
-- What the user has changed stays, and what he has deleted stays deleted, under its new name too.
BEGIN
	UPDATE prod_analytics.quality_checks q
	SET check_name = d.check_name, query = d.query, warn_above = d.warn_above, fail_above = d.fail_above,
		description = CASE WHEN prod_analytics.check_fingerprint(q.description, NULL, NULL) = o.described THEN d.description ELSE q.description END,
		timeout = coalesce(q.timeout, '10 minutes')
	FROM jsonb_to_recordset(renew_checks.old_checks) o (old_name text, fingerprint text, described text, new_name text)
	JOIN prod_analytics.default_checks() d ON d.check_name = coalesce(o.new_name, o.old_name)
	WHERE q.check_name = o.old_name AND prod_analytics.check_fingerprint(q.query, q.warn_above, q.fail_above) = o.fingerprint
		AND NOT EXISTS (SELECT FROM prod_analytics.quality_checks x WHERE x.check_name = d.check_name AND x.check_name <> q.check_name);
	PERFORM prod_analytics.make_default_checks(renew_checks.newer_than);
END
$$;

COMMENT ON FUNCTION renew_checks(jsonb, integer) IS
	'internal: bring the default checks of a version of the tables up to date: those that are as it made them (an array of {"old_name", "fingerprint", "described": that of its description, "new_name"}), and those that it did not have';

CREATE FUNCTION run_quality_checks(name text DEFAULT NULL)
	RETURNS TABLE (check_name text, severity text, failing_rows bigint, status text)
	AS 'MODULE_PATHNAME', 'pa_run_quality_checks'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION run_quality_checks(text) IS
	'run the checks of quality_checks that are enabled (name: that one, whether it is or not), each for itself, and keep the results in quality_results; status is PASS, WARN (more failing rows than warn_above), FAIL (more than fail_above) or ERROR (the query failed, wanted to write, or took longer than timeout; failing_rows is NULL); raises 42704 when there is no check of that name, 25006 in a read-only transaction (section 13)';

CREATE FUNCTION quality_job()
	RETURNS jsonb
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object('rows', count(*),
		'status', CASE WHEN count(*) FILTER (WHERE q.severity = 'error' AND q.status IN ('FAIL', 'ERROR')) > 0 THEN 'FAILED' ELSE 'SUCCESS' END,
		'error', 'failed: ' || string_agg(q.check_name, ', ') FILTER (WHERE q.severity = 'error' AND q.status IN ('FAIL', 'ERROR')),
		'not_passed', jsonb_object_agg(q.check_name, q.status) FILTER (WHERE q.status <> 'PASS')))
	FROM prod_analytics.run_quality_checks() q
$$;

COMMENT ON FUNCTION quality_job() IS
	'internal: what the job quality_checks does: run_quality_checks(), told as jobs do';
