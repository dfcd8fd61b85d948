-- Data-quality checks: what each of them finds, what users add, and what a failure leads to.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
CREATE ROLE regress_operator LOGIN IN ROLE analytics_operator;
SELECT prod_analytics.ensure_partitions() > 0 AS made;

SELECT check_name, severity, warn_above, fail_above, enabled FROM prod_analytics.quality_checks ORDER BY 1;
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
SELECT status, failing_rows FROM found('anonymous_events');
ROLLBACK;
BEGIN;
INSERT INTO prod_analytics.quarantined_events (event_type, reasons) SELECT 'x', '[]' FROM generate_series(1, 101);
SELECT status, failing_rows, jsonb_array_length(sample) AS sampled FROM found('quarantine_growth');
ROLLBACK;
INSERT INTO prod_analytics.events (event_id, event_type, event_time) VALUES (6000, 'view', now() + interval '10 years');
ANALYZE prod_analytics.events;
SELECT status, failing_rows, sample->0->>'partition_name' AS partition FROM found('rows_in_default_partition');
DELETE FROM prod_analytics.events WHERE event_id = 6000;
CREATE TABLE short (at timestamptz) PARTITION BY RANGE (at);
SELECT prod_analytics.manage_partitions('short', 'at', '1 day', ahead => 2, behind => 0);
SELECT prod_analytics.ensure_partitions('short') > 0 AS made;
SELECT status, failing_rows, sample->0->>'table_name' AS "table" FROM found('partition_runway');
DROP TABLE short;
BEGIN;
SELECT prod_analytics.refresh_incremental()->>'status' AS status;
INSERT INTO prod_analytics.changed_keys SELECT matview_id, NULL, now() - interval '2 hours' FROM prod_analytics.registered_matviews;
SELECT status, failing_rows, sample->0->>'matview' AS matview FROM found('stale_matviews');
ROLLBACK;

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

DROP FUNCTION found;
DROP SCHEMA prod_analytics CASCADE;
DROP ROLE regress_operator;
