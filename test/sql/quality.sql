-- Data-quality checks: what each of them finds, what users add, and what a failure leads to.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
CREATE ROLE regress_operator LOGIN IN ROLE analytics_operator;
SELECT prod_analytics.ensure_partitions() > 0 AS made;

SELECT check_name, severity, warn_above, fail_above, enabled, timeout FROM prod_analytics.quality_checks ORDER BY 1;
-- An empty store is in order, and so is one with events that are.
SELECT * FROM prod_analytics.run_quality_checks() WHERE status <> 'PASS';
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
INSERT INTO prod_analytics.users (user_id, org_id, email) VALUES (1, 1, 'ann@example.com');
INSERT INTO prod_analytics.events (event_id, user_id, event_type, event_time, event_props)
SELECT n, 1, 'purchase', now() - n * interval '10 minutes', '{"order_id": 1, "price": 1}' FROM generate_series(1, 1000) n;
ANALYZE prod_analytics.events;
SELECT * FROM prod_analytics.run_quality_checks() WHERE status <> 'PASS';
SELECT count(*) = 2 * (SELECT count(*) FROM prod_analytics.quality_checks) AS kept, bool_and(status = 'PASS') AS passed,
	bool_and(sample IS NULL AND duration >= '0') AS no_sample FROM prod_analytics.quality_results;

-- What each check finds.
CREATE FUNCTION found(name text, OUT status text, OUT failing_rows bigint, OUT sample jsonb) LANGUAGE plpgsql AS $$
BEGIN
	SELECT r.status, r.failing_rows INTO status, failing_rows FROM prod_analytics.run_quality_checks(name) r;
	SELECT s.sample INTO sample FROM prod_analytics.quality_results s WHERE s.check_name = name ORDER BY result_id DESC LIMIT 1;
END $$;
BEGIN;
ALTER TABLE prod_analytics.events DROP CONSTRAINT events_user_id_fkey;
UPDATE prod_analytics.events SET user_id = 77 WHERE event_id = 5;
SELECT status, failing_rows, sample->0->>'event_id' AS event, sample->0->>'user_id' AS "user" FROM found('orphan_events');
ROLLBACK;
BEGIN;
UPDATE prod_analytics.events SET event_props = event_props - 'price' WHERE event_id <= 30;
UPDATE prod_analytics.events SET event_props = NULL WHERE event_id = 1;
SELECT status, failing_rows, jsonb_array_length(sample) AS sampled FROM found('missing_purchase_keys');
ROLLBACK;
BEGIN;
INSERT INTO prod_analytics.events (event_id, event_type, event_time) VALUES (1, 'view', now()), (2, 'view', now());
SELECT status, failing_rows FROM found('duplicate_events');
INSERT INTO prod_analytics.events (event_id, event_type, event_time) VALUES (5000, 'view', now() + interval '3 days');
SELECT status, failing_rows, sample->0->>'event_id' AS event FROM found('future_events');
ROLLBACK;
BEGIN;
UPDATE prod_analytics.events SET event_time = event_time - interval '30 hours';
SELECT status, failing_rows FROM found('stale_events');
UPDATE prod_analytics.events SET event_time = event_time - interval '20 days';
SELECT status, failing_rows FROM found('stale_events');
DELETE FROM prod_analytics.events;
SELECT status, failing_rows FROM found('stale_events');
INSERT INTO prod_analytics.events (event_type, event_time)
SELECT 'view', date_trunc('hour', now(), 'UTC') - interval '30 minutes' - weeks * interval '168 hours'
FROM generate_series(1, 4) weeks, generate_series(1, 40);
SELECT status, failing_rows, sample->0->'events' AS events FROM found('low_volume');
INSERT INTO prod_analytics.events (event_type, event_time)
SELECT 'view', date_trunc('hour', now(), 'UTC') - interval '30 minutes' FROM generate_series(1, 20);
SELECT status, failing_rows FROM found('low_volume');
ROLLBACK;
BEGIN;
UPDATE prod_analytics.events SET user_id = NULL WHERE event_time > now() - interval '3 hours';
SELECT status, failing_rows, sample->0->>'column_name' AS "column" FROM found('null_rates');
-- A column that was NULL in most rows before, and is in all now; one that has always been NULL is in order.
UPDATE prod_analytics.events SET event_props = NULL WHERE event_time > now() - interval '1 day' OR event_id % 4 <> 0;
UPDATE prod_analytics.events SET device_type = 'phone' WHERE event_time < now() - interval '1 day';
SELECT status, failing_rows, jsonb_path_query_array(sample, '$[*].column_name') AS columns FROM found('null_rates');
ROLLBACK;
BEGIN;
INSERT INTO prod_analytics.quarantined_events (event_type, reasons) SELECT 'x', '[]' FROM generate_series(1, 101);
INSERT INTO prod_analytics.quarantined_users (reasons) SELECT '[{"code": "a"}, {"code": "b"}, {"code": "a"}]' FROM generate_series(1, 30);
INSERT INTO prod_analytics.quarantined_users (reasons) SELECT '[{"code": "few"}]' FROM generate_series(1, 19);
SELECT status, failing_rows, sample FROM found('quarantine_growth');
-- What is usual is no growth.
INSERT INTO prod_analytics.quarantined_events (event_type, reasons, quarantined_at)
SELECT 'x', '[]', now() - hours * interval '1 hour' - interval '1 minute' FROM generate_series(1, 167) hours, generate_series(1, 50);
SELECT status, failing_rows FROM found('quarantine_growth');
ROLLBACK;
-- No statistics are needed to see that a default partition is not empty.
INSERT INTO prod_analytics.events (event_id, event_type, event_time) VALUES (6000, 'view', now() + interval '10 years');
SELECT status, failing_rows, sample->0->>'table_name' AS "table" FROM found('rows_in_default_partition');
DELETE FROM prod_analytics.events WHERE event_id = 6000;
SELECT status, failing_rows FROM found('rows_in_default_partition');
CREATE TABLE short (at timestamptz) PARTITION BY RANGE (at);
SELECT prod_analytics.manage_partitions('short', 'at', '1 day', ahead => 10, behind => 0);
SELECT status, failing_rows, sample->0->>'table_name' AS "table", sample->0->>'runway' AS runway FROM found('partition_runway');
BEGIN; -- both of one day
SELECT prod_analytics.ensure_partitions('short', now() - interval '168 hours') > 0 AS made;
SELECT status, failing_rows, (sample->0->>'runway')::interval BETWEEN '3 days' AND '5 days' AS runway FROM found('partition_runway');
COMMIT;
SELECT prod_analytics.ensure_partitions('short') > 0 AS made;
SELECT status, failing_rows FROM found('partition_runway');
-- A table that keeps only a few hours ready is measured by that.
CREATE TABLE shorter (at timestamptz) PARTITION BY RANGE (at);
SELECT prod_analytics.manage_partitions('shorter', 'at', '1 hour', ahead => 4, behind => 0);
SELECT prod_analytics.ensure_partitions('shorter') > 0 AS made;
SELECT status, failing_rows FROM found('partition_runway');
DROP TABLE shorter;
SELECT prod_analytics.unmanage_partitions('short');
DROP TABLE short;
BEGIN;
INSERT INTO prod_analytics.staging_events (event_type, received_at) VALUES ('x', now() - interval '2 hours'), ('x', now());
INSERT INTO prod_analytics.staging_users (src_id, ingested_at) VALUES ('x', now() - interval '2 hours');
SELECT status, failing_rows, jsonb_path_query_array(sample, '$[*].staged') AS staged FROM found('stale_staging');
ROLLBACK;
BEGIN;
SELECT prod_analytics.refresh_incremental()->>'status' AS status;
INSERT INTO prod_analytics.changed_keys SELECT matview_id, NULL, now() - interval '2 hours' FROM prod_analytics.registered_matviews;
SELECT status, failing_rows, sample->0->>'matview' AS matview FROM found('stale_matviews');
ROLLBACK;
-- A view that is wrong, and one that just waits for a refresh.
SELECT prod_analytics.refresh_incremental()->>'status' AS status;
BEGIN;
UPDATE prod_analytics.events SET event_props = '{"order_id": 1, "price": 1000}' WHERE event_time > now() - interval '1 day';
COMMIT;
SELECT count(*) > 0 AS differs FROM prod_analytics.verify_matview('prod_analytics.mv_org_daily_metrics');
SELECT status, failing_rows FROM found('wrong_matviews');
SELECT status, failing_rows FROM found('unwatched_matviews');
SELECT prod_analytics.refresh_incremental()->>'status' AS status;
ALTER TABLE prod_analytics.events DISABLE TRIGGER ALL;
SELECT status, failing_rows > 10 AS partitions_too, sample->0->>'matview' AS matview FROM found('unwatched_matviews');
UPDATE prod_analytics.events SET event_props = '{"order_id": 1, "price": 2000}' WHERE event_time > now() - interval '1 day';
ALTER TABLE prod_analytics.events ENABLE TRIGGER ALL;
SELECT status, failing_rows > 0 AS found, sample->0->>'problem' AS problem FROM found('wrong_matviews');
BEGIN;
-- Locks of a check are gone when it has ended.
SELECT status FROM prod_analytics.run_quality_checks('wrong_matviews');
SELECT count(*) AS locks FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.relation = 'prod_analytics.events'::regclass;
ROLLBACK;
SELECT prod_analytics.enable_incremental_refresh('prod_analytics.mv_org_daily_metrics')->>'mode' AS mode;
SELECT prod_analytics.refresh_incremental()->>'status' AS status;
SELECT status FROM prod_analytics.run_quality_checks('wrong_matviews');
SELECT status FROM prod_analytics.run_quality_checks('unwatched_matviews');
-- What the next refresh recomputes as a whole is not wrong, and hides nothing: a view that is not filled, one whose table has got
-- row-level security.
CREATE TABLE public.read_by (k int);
CREATE MATERIALIZED VIEW public.reads AS SELECT k, count(*) AS n FROM public.read_by GROUP BY k;
CREATE UNIQUE INDEX ON public.reads (k) NULLS NOT DISTINCT;
SELECT prod_analytics.enable_incremental_refresh('public.reads')->>'mode' AS mode;
REFRESH MATERIALIZED VIEW public.reads WITH NO DATA;
SELECT status FROM prod_analytics.run_quality_checks('wrong_matviews');
REFRESH MATERIALIZED VIEW public.reads;
ALTER TABLE public.read_by ENABLE ROW LEVEL SECURITY;
SELECT status FROM prod_analytics.run_quality_checks('wrong_matviews');
DROP TABLE public.read_by CASCADE;

-- No check reads all of history: those of years of events are pruned, or the first row is enough.  (future_events has the
-- partitions ahead.)
CREATE FUNCTION scanned(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	plan text;
	found bigint := 0;
BEGIN
	FOR plan IN EXECUTE 'EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) ' || query LOOP
		found := found + (plan ~ 'Scan.* on events_p' AND plan !~ 'Bitmap Index Scan|never executed')::int;
	END LOOP;
	RETURN found;
END $$;
SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', now() - interval '4 years', now()) > 40 AS made;
INSERT INTO prod_analytics.events (event_type, event_time) VALUES ('first', now() - interval '4 years');
SELECT scanned('SELECT FROM prod_analytics.events') > 60 AS all_of_them;
SELECT check_name, scanned(query) BETWEEN 1 AND CASE check_name WHEN 'future_events' THEN 13 ELSE 3 END AS pruned
FROM prod_analytics.quality_checks WHERE query LIKE '%prod_analytics.events%' ORDER BY 1;

-- A check of one's own: thresholds, a query that fails, one that ends with a semicolon, and one that is switched off.
INSERT INTO prod_analytics.quality_checks (check_name, query, severity, warn_above, fail_above) VALUES
	('mine', E'SELECT n, ''ä'' AS "row_number" FROM generate_series(1, 7) n;\n', 'error', 5, 10),
	('wrong', 'SELECT 1 / 0', 'warning', 0, NULL),
	('off', 'SELECT 1', 'error', 0, 0);
UPDATE prod_analytics.quality_checks SET enabled = false WHERE check_name = 'off';
SELECT * FROM prod_analytics.run_quality_checks('mine');
UPDATE prod_analytics.quality_checks SET warn_above = 7 WHERE check_name = 'mine';
SELECT * FROM prod_analytics.run_quality_checks('mine');
UPDATE prod_analytics.quality_checks SET warn_above = 0, fail_above = 6 WHERE check_name = 'mine';
SELECT * FROM prod_analytics.run_quality_checks('mine');
SELECT * FROM prod_analytics.run_quality_checks('wrong');
SELECT error FROM prod_analytics.quality_results WHERE check_name = 'wrong';
SELECT * FROM prod_analytics.run_quality_checks('off');
SELECT * FROM prod_analytics.run_quality_checks() WHERE check_name IN ('mine', 'wrong', 'off');
-- Whatever a query ends with, whatever it returns.
UPDATE prod_analytics.quality_checks SET enabled = false WHERE check_name <> 'mine';
INSERT INTO prod_analytics.quality_checks (check_name, query) VALUES
	('ends with a comment', 'SELECT 1 AS n -- that is all'), ('ends with both', 'SELECT 1 AS n; -- that is all'),
	('values', 'VALUES (1), (2)'), ('a table', 'TABLE prod_analytics.users -- all of them'), ('no column', 'SELECT FROM generate_series(1, 3)'),
	('one name', 'SELECT 1 AS n, 2 AS n, 3 AS m, NULL AS n'),
	('long names', format('SELECT 1 AS %I, 2 AS %1$I, 3 AS %I, 4 AS %2$I', repeat('語', 21), 'x' || repeat('é', 31))),
	('numbers', $$SELECT 'NaN'::float8 AS a, '-Infinity'::float8 AS b, 'NaN'::numeric AS c, 'infinity'::timestamptz AS d$$),
	('odd types', $$SELECT '\xdeadbeef'::bytea AS a, ROW(1, 'x') AS b, '{1,2}'::int[] AS c, '{"k": "\u0041"}'::json AS d, 'ä"\' AS e, '(1,2)'::point AS f, 'x'::name AS g$$),
	('no jsonb', $$SELECT '"\u0000"'::json AS a$$),
	('big', $$SELECT n, repeat('x', 5000) AS a, repeat('y', 5000) AS b, 'short' AS c, repeat('z', 20000000) AS d FROM generate_series(1, 20) n$$),
	('nothing', ''), ('two', 'SELECT 1; SELECT 2'), ('into', 'SELECT 1 INTO pg_temp.x'), ('no query', 'DROP TABLE prod_analytics.events'),
	('deletes', 'DELETE FROM prod_analytics.events RETURNING *'), ('deletes within', 'WITH d AS (DELETE FROM prod_analytics.events RETURNING *) SELECT * FROM d'),
	('calls', 'SELECT prod_analytics.etl_ingest_events()'), ('locks', 'SELECT * FROM prod_analytics.users FOR UPDATE'),
	('counts', $$SELECT nextval('prod_analytics.events_event_id_seq')$$), ('parameter', 'SELECT $1'), ('unbalanced', 'SELECT 1) x, (SELECT 2');
UPDATE prod_analytics.quality_checks SET enabled = true WHERE query NOT IN (SELECT query FROM prod_analytics.default_checks()) AND check_name NOT IN ('mine', 'wrong', 'off');
SELECT check_name, failing_rows, status FROM prod_analytics.run_quality_checks() ORDER BY check_name COLLATE "C";
SELECT check_name, left(error, 100) AS error FROM prod_analytics.quality_results WHERE error IS NOT NULL AND check_name <> 'wrong' ORDER BY check_name COLLATE "C";
SELECT check_name, sample FROM prod_analytics.quality_results
WHERE check_name IN ('ends with a comment', 'ends with both', 'values', 'no column', 'one name', 'long names', 'numbers', 'odd types') ORDER BY check_name COLLATE "C";
SELECT failing_rows, jsonb_array_length(sample) AS sampled, octet_length(sample::text) < 100000 AS bounded, sample->9->'n' AS n,
	length(sample->9->>'a') AS a, sample->9->>'b' AS b, sample->9->>'c' AS c, sample->9->>'d' AS d FROM prod_analytics.quality_results WHERE check_name = 'big';
SELECT count(*) AS events FROM prod_analytics.events;
SHOW transaction_read_only;
DELETE FROM prod_analytics.quality_checks WHERE enabled AND check_name <> 'mine';
-- A check that takes too long is cancelled, and the others go on; a cancel of the caller's ends all.
INSERT INTO prod_analytics.quality_checks (check_name, query, timeout) VALUES
	('a endless', 'SELECT pg_sleep(600)', '20 milliseconds'), ('b quick', 'SELECT 1', '10 minutes'), ('c endless', 'SELECT count(*) FROM generate_series(1, 1e12)', '20 milliseconds');
SELECT * FROM prod_analytics.run_quality_checks() WHERE check_name <> 'mine';
SELECT check_name, error FROM prod_analytics.quality_results WHERE check_name LIKE '%endless' ORDER BY 1;
UPDATE prod_analytics.quality_checks SET timeout = NULL WHERE check_name = 'a endless';
BEGIN;
SET LOCAL statement_timeout = 20;
SELECT * FROM prod_analytics.run_quality_checks();
ROLLBACK;
SELECT count(*) FROM prod_analytics.quality_results WHERE check_name = 'a endless';
-- error: no time at all
UPDATE prod_analytics.quality_checks SET timeout = '0' WHERE check_name = 'a endless';
DELETE FROM prod_analytics.quality_checks WHERE check_name LIKE '_ %';
UPDATE prod_analytics.quality_checks SET enabled = check_name <> 'off';
-- error: there is no such check
SELECT * FROM prod_analytics.run_quality_checks('none');
-- error: what makes no sense
INSERT INTO prod_analytics.quality_checks (check_name, query, warn_above, fail_above) VALUES ('x', 'SELECT 1', 5, 1);
INSERT INTO prod_analytics.quality_checks (check_name, query, severity) VALUES ('x', 'SELECT 1', 'fatal');
-- error: read-only transaction
BEGIN READ ONLY;
SELECT * FROM prod_analytics.run_quality_checks();
ROLLBACK;

-- The job fails with a check of severity error, and what depends on it has to wait.
SELECT prod_analytics.schedule_job('gated', '1 second', 'SELECT 1', depends_on => '{quality_checks}');
SELECT r->>'status' AS status, r->>'error' AS error, r->'not_passed' AS not_passed FROM prod_analytics.run_job('quality_checks') r;
SELECT job_name FROM prod_analytics.due_jobs(now() + interval '1 minute') WHERE job_name = 'gated';
DELETE FROM prod_analytics.quality_checks WHERE check_name = 'mine';
SELECT r->>'status' AS status, r->>'error' AS error, r->'not_passed' AS not_passed, (r->>'rows')::int > 10 AS several FROM prod_analytics.run_job('quality_checks') r;
SELECT job_name FROM prod_analytics.due_jobs(now() + interval '1 minute') WHERE job_name = 'gated';

-- An operator may run the checks, and not add one: they run as the owner.
SET ROLE regress_operator;
SELECT status FROM prod_analytics.run_quality_checks('orphan_events');
INSERT INTO prod_analytics.quality_checks (check_name, query) VALUES ('x', 'SELECT 1');
RESET ROLE;
SET ROLE analytics_reader;
SELECT * FROM prod_analytics.run_quality_checks();
SELECT * FROM prod_analytics.quality_results;
RESET ROLE;

-- Stores of version 5 get the checks of today: what the user has changed stays, what he has deleted too.
BEGIN;
CREATE TEMPORARY TABLE fresh AS SELECT * FROM prod_analytics.quality_checks;
DELETE FROM prod_analytics.quality_checks WHERE check_name IN
	('stale_staging', 'wrong_matviews', 'unwatched_matviews', 'null_rates', 'rows_in_default_partition', 'low_volume', 'wrong');
ALTER TABLE prod_analytics.quality_checks DROP COLUMN timeout;
INSERT INTO prod_analytics.quality_checks (check_name, description, severity, warn_above, fail_above, query) VALUES
	('anonymous_events', 'the share of events without a user is twice that of the week before, and more than a tenth', 'error', 0, NULL,
			$q$SELECT s.today, s.before FROM (
				SELECT avg((user_id IS NULL)::int) FILTER (WHERE event_time > now() - interval '1 day') AS today,
					avg((user_id IS NULL)::int) FILTER (WHERE event_time <= now() - interval '1 day') AS before
				FROM prod_analytics.events WHERE event_time BETWEEN now() - interval '8 days' AND now()) s
				WHERE s.today > 0.1 AND s.today > 2 * s.before$q$),
	('rows_in_default_partition', 'old', 'warning', 0, NULL,
			$q$SELECT table_name, partition_name, rows FROM prod_analytics.partition_status WHERE is_default AND rows > 0$q$),
	('unwatched_matviews', 'mine', 'warning', 0, NULL, 'SELECT 1');
UPDATE prod_analytics.quality_checks SET query = 'SELECT 7' WHERE check_name = 'stale_matviews';
UPDATE prod_analytics.quality_checks SET warn_above = 1000, query =
			$q$SELECT quarantine_id, reasons FROM prod_analytics.quarantined_events WHERE quarantined_at > now() - interval '1 hour'$q$ WHERE check_name = 'quarantine_growth';
UPDATE prod_analytics.quality_checks SET enabled = false WHERE check_name = 'anonymous_events';
UPDATE prod_analytics.schema_version SET version = 5;
SELECT prod_analytics.create_tables();
SELECT version FROM prod_analytics.schema_version;
SELECT q.check_name, q.severity, q.warn_above, q.enabled, q.timeout, f.query = q.query AS renewed, f.description = q.description AS described
FROM prod_analytics.quality_checks q LEFT JOIN fresh f USING (check_name)
WHERE q.check_name IN ('null_rates', 'anonymous_events', 'quarantine_growth', 'rows_in_default_partition', 'stale_matviews', 'low_volume',
	'stale_staging', 'wrong_matviews', 'unwatched_matviews') ORDER BY 1;
ROLLBACK;

DROP FUNCTION found, scanned;
DROP SCHEMA prod_analytics CASCADE;
DROP ROLE regress_operator;
