-- active_users() and approx_active_users(): distinct users of windows that end on each day (UTC).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme'), (2, 'Globex');
INSERT INTO prod_analytics.users (user_id, org_id, email) SELECT n, 1, n || '@example.com' FROM generate_series(1, 50) n;

-- 1 is there on one day, twice; 2 a week later, at the very end of the day; 3 for the other organization; somebody.
INSERT INTO prod_analytics.events (user_id, org_id, event_type, event_time) VALUES
	(1, 1, 'view', '2026-03-01 00:00'), (1, 1, 'view', '2026-03-01 12:00'),
	(2, 1, 'view', '2026-03-07 23:59:59.999999'), (2, NULL, 'view', '2026-03-08 00:00'),
	(3, 2, 'view', '2026-03-07 12:00'), (NULL, 1, 'view', '2026-03-05 12:00'), (NULL, NULL, 'view', '2026-03-05 12:00');
SELECT * FROM prod_analytics.active_users('2026-02-27', '2026-03-10');
SELECT * FROM prod_analytics.active_users('2026-03-29', '2026-04-07');

-- Of an organization; of none that exists; of an organization on days before the first event.
SELECT * FROM prod_analytics.active_users('2026-03-06', '2026-03-08', org_id => 1);
SELECT * FROM prod_analytics.active_users('2026-03-06', '2026-03-08', 2);
SELECT * FROM prod_analytics.active_users('2026-03-06', '2026-03-06', 3);

-- One day.
SELECT * FROM prod_analytics.active_users('2026-03-07', '2026-03-07');

-- The session's time zone changes nothing, also where a day has 23 hours.
SET TimeZone = 'America/New_York';
SELECT * FROM prod_analytics.active_users('2026-03-07', '2026-03-08');
SET TimeZone = 'Pacific/Kiritimati';
SELECT * FROM prod_analytics.active_users('2026-03-07', '2026-03-08');
SET TimeZone = 'UTC';

-- More days than are counted at once, random users: what counting each window by itself says.
SELECT setseed(0.3);
SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2024-01-01', '2025-12-31');
INSERT INTO prod_analytics.events (user_id, org_id, event_type, event_time)
SELECT 1 + floor(random() * 50), 1 + floor(random() * 2), 'view', timestamptz '2024-01-01' + random() * interval '730 days' FROM generate_series(1, 1500);
CREATE FUNCTION pg_temp.counted(only_org bigint) RETURNS TABLE (event_date date, daily bigint, weekly bigint, monthly bigint) LANGUAGE sql AS $$
	SELECT d::date, count(DISTINCT user_id) FILTER (WHERE e.event_date = d::date),
		count(DISTINCT user_id) FILTER (WHERE e.event_date > d::date - 7), count(DISTINCT user_id)
	FROM generate_series(timestamp '2023-12-01', '2026-05-01', '1 day') d
	LEFT JOIN prod_analytics.events e ON e.event_date BETWEEN d::date - 29 AND d::date AND (only_org IS NULL OR e.org_id = only_org)
	GROUP BY d
$$;
SELECT count(*) FROM prod_analytics.active_users('2023-12-01', '2026-05-01') a FULL JOIN pg_temp.counted(NULL) c USING (event_date)
WHERE (a.daily, a.weekly, a.monthly) IS DISTINCT FROM (c.daily, c.weekly, c.monthly);
SELECT count(*) FROM prod_analytics.active_users('2023-12-01', '2026-05-01', 2) a FULL JOIN pg_temp.counted(2) c USING (event_date)
WHERE (a.daily, a.weekly, a.monthly) IS DISTINCT FROM (c.daily, c.weekly, c.monthly);
SELECT count(*), max(monthly) > 20 AS many FROM prod_analytics.active_users('2023-12-01', '2026-05-01');

-- A parallel plan with workers says the same.
CREATE TEMPORARY TABLE serially AS SELECT * FROM prod_analytics.active_users('2024-01-01', '2026-04-01');
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT count(*) FROM (SELECT * FROM prod_analytics.active_users('2024-01-01', '2026-04-01') EXCEPT ALL TABLE serially) d;
CREATE FUNCTION pg_temp.has_workers(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, FORMAT json) ' || statement INTO plan;
	RETURN substring(plan::text FROM '"Workers Launched": (\d+)')::int > 0;
END $$;
SELECT pg_temp.has_workers('SELECT user_id, prod_analytics.day_set(event_date - date ''2024-01-01'', 900) FROM prod_analytics.events WHERE user_id > 0 GROUP BY user_id');

-- error: a range the wrong way round; days that are none
SELECT * FROM prod_analytics.active_users('2026-03-07', '2026-03-06');
SELECT * FROM prod_analytics.active_users(NULL, '2026-03-01');
SELECT * FROM prod_analytics.active_users('2026-03-01', NULL);
SELECT * FROM prod_analytics.active_users('-infinity', '2026-03-01');

-- error: hll is not there; the hint names the package
DO $$
DECLARE
	advice text;
BEGIN
	PERFORM prod_analytics.approx_active_users('2026-03-01', '2026-03-31');
EXCEPTION WHEN undefined_object THEN
	GET STACKED DIAGNOSTICS advice = PG_EXCEPTION_HINT;
	RAISE NOTICE '% (%)', SQLERRM, advice LIKE '%postgresql-' || current_setting('server_version_num')::int / 10000 || '-hll%CREATE EXTENSION hll%';
END $$;
\set VERBOSITY terse
SELECT * FROM prod_analytics.approx_rolling_users('2026-03-01', '2026-03-31');

SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
