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
			enabled boolean NOT NULL DEFAULT true
		);
		COMMENT ON TABLE quality_checks IS
			'what run_quality_checks() looks at: each query returns the rows that are wrong (section 13); add your own';
		COMMENT ON COLUMN quality_checks.query IS
			'a SELECT without parameters that returns the failing rows; it runs as the owner of this table, with search_path pg_catalog';
		COMMENT ON COLUMN quality_checks.severity IS
			'error: when it fails, so does the job quality_checks, and what depends on that has to wait';
		COMMENT ON COLUMN quality_checks.warn_above IS
			'more failing rows than that are a warning';
		COMMENT ON COLUMN quality_checks.fail_above IS
			'more failing rows than that are a failure; NULL: they never are';
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
			'at most ten of them';
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

CREATE FUNCTION make_default_checks()
	RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	AS $$
	INSERT INTO prod_analytics.quality_checks (check_name, description, severity, warn_above, fail_above, query) VALUES
		('orphan_events', 'events of the last 7 days whose user does not exist (section 13)', 'error', 0, 0,
			$q$SELECT e.event_id, e.event_time, e.user_id FROM prod_analytics.events e
				WHERE e.event_time > now() - interval '7 days' AND e.user_id IS NOT NULL
					AND NOT EXISTS (SELECT FROM prod_analytics.users u WHERE u.user_id = e.user_id)$q$),
		('missing_purchase_keys', 'purchases of the last 7 days without order_id or price (section 13)', 'warning', 0, NULL,
			$q$SELECT event_id, event_time, NOT event_props ? 'order_id' AS lacks_order_id, NOT event_props ? 'price' AS lacks_price
				FROM prod_analytics.events WHERE event_time > now() - interval '7 days' AND event_type = 'purchase'
					AND NOT coalesce(event_props ?& '{order_id,price}', false)$q$),
		('duplicate_events', 'event_ids that occur twice in the last 7 days', 'error', 0, 0,
			$q$SELECT event_id, count(*) FROM prod_analytics.events WHERE event_time > now() - interval '7 days'
				GROUP BY event_id HAVING count(*) > 1$q$),
		('future_events', 'events more than a day ahead', 'warning', 0, NULL,
			$q$SELECT event_id, event_time FROM prod_analytics.events WHERE event_time > now() + interval '1 day'$q$),
		('stale_events', 'no event for a day, although there were some in the week before', 'error', 0, 0,
			$q$SELECT max(event_time) AS last_event FROM prod_analytics.events
				WHERE event_time BETWEEN now() - interval '8 days' AND now()
				HAVING max(event_time) < now() - interval '1 day'$q$),
		('low_volume', 'the last full hour has less than half of the events that the same hour of the last four weeks had', 'warning', 0, NULL,
			$q$SELECT v.hour, v.events, v.usual FROM (
				SELECT date_trunc('hour', now(), 'UTC') - interval '1 hour' AS hour,
					count(*) FILTER (WHERE weeks = 0) AS events, count(*) FILTER (WHERE weeks > 0) / 4.0 AS usual
				FROM generate_series(0, 4) weeks JOIN prod_analytics.events e
					ON e.event_time >= date_trunc('hour', now(), 'UTC') - interval '1 hour' - weeks * interval '168 hours'
					AND e.event_time < date_trunc('hour', now(), 'UTC') - weeks * interval '168 hours') v
				WHERE v.usual >= 20 AND v.events < v.usual / 2$q$),
		('anonymous_events', 'the share of events without a user is twice that of the week before, and more than a tenth', 'warning', 0, NULL,
			$q$SELECT s.today, s.before FROM (
				SELECT avg((user_id IS NULL)::int) FILTER (WHERE event_time > now() - interval '1 day') AS today,
					avg((user_id IS NULL)::int) FILTER (WHERE event_time <= now() - interval '1 day') AS before
				FROM prod_analytics.events WHERE event_time BETWEEN now() - interval '8 days' AND now()) s
				WHERE s.today > 0.1 AND s.today > 2 * s.before$q$),
		('quarantine_growth', 'rows set aside in the last hour', 'warning', 100, NULL,
			$q$SELECT quarantine_id, reasons FROM prod_analytics.quarantined_events WHERE quarantined_at > now() - interval '1 hour'$q$),
		('rows_in_default_partition', 'default partitions that are not empty, as far as statistics tell', 'warning', 0, NULL,
			$q$SELECT table_name, partition_name, rows FROM prod_analytics.partition_status WHERE is_default AND rows > 0$q$),
		('partition_runway', 'managed tables whose last partition ends within a week', 'error', 0, 0,
			$q$SELECT DISTINCT table_name, runway FROM prod_analytics.partition_status WHERE runway < interval '7 days'$q$),
		('stale_matviews', 'materialized views with changes that have waited for an hour', 'warning', 0, NULL,
			$q$SELECT matview, oldest_pending_change FROM prod_analytics.matview_status
				WHERE oldest_pending_change < now() - interval '1 hour'$q$)
	ON CONFLICT DO NOTHING
$$;

COMMENT ON FUNCTION make_default_checks() IS
	'internal: the checks that are there from the start';

CREATE FUNCTION run_check(check_name text)
	RETURNS text
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	wanted prod_analytics.quality_checks;
	started CONSTANT timestamptz := clock_timestamp();
	failing bigint;
	rows_found jsonb;
	message text;
	outcome text;
BEGIN
	SELECT * INTO STRICT wanted FROM prod_analytics.quality_checks q WHERE q.check_name = run_check.check_name;
	BEGIN
		EXECUTE format('SELECT count(*), jsonb_agg(to_jsonb(f.failing)) FILTER (WHERE f.number <= 10)'
			' FROM (SELECT "failing row" AS failing, row_number() OVER () AS number FROM (%s) "failing row") f',
			rtrim(wanted.query, E'; \t\r\n'))
			INTO failing, rows_found;
		outcome := CASE WHEN failing > wanted.fail_above THEN 'FAIL' WHEN failing > wanted.warn_above THEN 'WARN' ELSE 'PASS' END;
	EXCEPTION WHEN OTHERS THEN
		outcome := 'ERROR';
		message := format('%s (SQLSTATE %s)', SQLERRM, SQLSTATE);
	END;
	INSERT INTO prod_analytics.quality_results (check_name, status, failing_rows, sample, duration, error)
	VALUES (wanted.check_name, outcome, failing, rows_found, clock_timestamp() - started, message);
	RETURN outcome;
END
$$;

COMMENT ON FUNCTION run_check(text) IS
	'internal: run one check, whether it is enabled or not, as the owner of its table, and keep the result; returns its status';

CREATE FUNCTION run_quality_checks(name text DEFAULT NULL)
	RETURNS TABLE (check_name text, severity text, failing_rows bigint, status text)
	AS 'MODULE_PATHNAME', 'pa_run_quality_checks'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION run_quality_checks(text) IS
	'run the checks of quality_checks that are enabled (name: that one, whether it is or not), each for itself, and keep the results in quality_results; status is PASS, WARN (more failing rows than warn_above), FAIL (more than fail_above) or ERROR (the query failed; failing_rows is NULL); raises 42704 when there is no check of that name, 25006 in a read-only transaction (section 13)';

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
