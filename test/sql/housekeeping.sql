-- Housekeeping: what grows is bounded, by settings, in batches, without a scan of what is kept.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
CREATE ROLE regress_operator LOGIN IN ROLE analytics_operator;
CREATE VIEW kept AS
	SELECT 'etl_jobs' AS store, count(*) FROM prod_analytics.etl_jobs WHERE job_name IN ('old', 'new', 'runs', 'odd')
	UNION ALL SELECT 'quality_results', count(*) FROM prod_analytics.quality_results
	UNION ALL SELECT 'captured_plans', count(*) FROM prod_analytics.captured_plans
	UNION ALL SELECT 'quarantined_events', count(*) FROM prod_analytics.quarantined_events
	UNION ALL SELECT 'quarantined_users', count(*) FROM prod_analytics.quarantined_users;

-- With nothing to do, nothing is done, and that is logged.
CALL prod_analytics.purge_history();
SELECT status, rows_processed, details FROM prod_analytics.etl_jobs;

-- Old and new history.
INSERT INTO prod_analytics.etl_jobs (job_name, started_at, finished_at, status)
SELECT 'old', now() - interval '100 days' + n * interval '1 minute', now(), 'SUCCESS' FROM generate_series(1, 25000) n;
INSERT INTO prod_analytics.etl_jobs (job_name, started_at, status) VALUES
	('runs', now() - interval '90 days', 'RUNNING'), ('odd', now() - interval '90 days', NULL), ('odd', NULL, 'SUCCESS'),
	('old', now() - interval '31 days', 'FAILED'), ('new', now() - interval '29 days', 'FAILED');
INSERT INTO prod_analytics.quality_results (check_name, checked_at, status)
SELECT 'x', now() - days * interval '1 day', 'PASS' FROM unnest('{40,31,29,0}'::int[]) days;
INSERT INTO prod_analytics.captured_plans (captured_at, captured_by, query, executed, plan)
SELECT now() - days * interval '1 day', 'x', 'x', false, '{}' FROM unnest('{40,31,29,0}'::int[]) days;
INSERT INTO prod_analytics.quarantined_events (reasons, quarantined_at)
SELECT '[]', now() - days * interval '1 day' FROM unnest('{400,31,29,0}'::int[]) days;
INSERT INTO prod_analytics.quarantined_users (reasons, quarantined_at)
SELECT '[]', now() - days * interval '1 day' FROM unnest('{400,31,29,0}'::int[]) days;

-- A batch is at most 10,000 rows, and says where it ended; the last one says that it was.
BEGIN;
SELECT b.deleted, b.reached - f.first AS numbers
FROM (SELECT min(job_id) - 1 AS first FROM prod_analytics.etl_jobs WHERE job_name = 'old') f, prod_analytics.purge_batch('etl_jobs', f.first) b;
SELECT deleted, reached FROM prod_analytics.purge_batch('etl_jobs', (SELECT min(job_id) + 14999 FROM prod_analytics.etl_jobs WHERE job_name = 'old'));
SELECT deleted, reached FROM prod_analytics.purge_batch('etl_jobs', 9223372036854775807);
ROLLBACK;
-- A state is what the next step begins with.
BEGIN;
SELECT prod_analytics.purge_next('{"store": 2, "rows": 5, "purged": {"etl_jobs": 5}}');
SELECT prod_analytics.purge_next('{"store": 6, "rows": 5, "purged": {"etl_jobs": 5}}');
ROLLBACK;

-- History goes, what is running and what was set aside stays.
CALL prod_analytics.purge_history();
SELECT status, rows_processed, details FROM prod_analytics.etl_jobs WHERE job_name = 'purge_history' ORDER BY job_id DESC LIMIT 1;
TABLE kept;
SELECT job_name, status FROM prod_analytics.etl_jobs WHERE job_name IN ('old', 'new', 'runs', 'odd') ORDER BY 1, 2;
CALL prod_analytics.purge_history();
SELECT status, rows_processed, details FROM prod_analytics.etl_jobs WHERE job_name = 'purge_history' ORDER BY job_id DESC LIMIT 1;
-- What was set aside goes when the setting says so.
ALTER SYSTEM SET prod_analytics.quarantine_retention = '30 days';
SELECT pg_reload_conf();
\c
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DO $$
DECLARE
	deadline CONSTANT timestamptz := clock_timestamp() + interval '60 seconds';
BEGIN
	WHILE current_setting('prod_analytics.quarantine_retention') = '' LOOP
		ASSERT clock_timestamp() < deadline, 'the setting does not arrive';
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SET ROLE regress_operator;
CALL prod_analytics.purge_history();
RESET ROLE;
SELECT status, rows_processed, details FROM prod_analytics.etl_jobs WHERE job_name = 'purge_history' ORDER BY job_id DESC LIMIT 1;
TABLE kept;
-- error: no span of time
ALTER SYSTEM SET prod_analytics.quarantine_retention = 'soon';
ALTER SYSTEM RESET prod_analytics.quarantine_retention;
SELECT pg_reload_conf();

-- error: in a transaction block; read-only; who may not
BEGIN;
CALL prod_analytics.purge_history();
ROLLBACK;
-- Who catches that error does not keep the job's lock.
DO $$ BEGIN CALL prod_analytics.purge_history(); EXCEPTION WHEN active_sql_transaction OR invalid_transaction_termination THEN NULL; END $$;
SELECT count(*) AS held FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
BEGIN READ ONLY;
SELECT prod_analytics.purge_batch('etl_jobs', 0);
ROLLBACK;
SET ROLE analytics_reader;
CALL prod_analytics.purge_history();
RESET ROLE;

-- Nothing is scanned that stays: a purge with nothing to do touches a few pages of 100,000 runs, and so do the other
-- questions that jobs ask of the log.
INSERT INTO prod_analytics.etl_jobs (job_name, started_at, finished_at, status)
SELECT 'job ' || n % 7, now() - n * interval '1 second', now(), 'SUCCESS' FROM generate_series(100000, 1, -1) n;
SELECT prod_analytics.schedule_job('mine', '1 hour', 'SELECT 1');
CREATE TABLE seen (step text, scans bigint);
CREATE FUNCTION note(step text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO public.seen SELECT step, pg_stat_get_xact_numscans('prod_analytics.etl_jobs'::regclass)
$$;
BEGIN;
SELECT note('begin');
SELECT count(*) FROM prod_analytics.purge_batch('etl_jobs', -9223372036854775808);
SELECT note('purge');
SELECT prod_analytics.run_job('mine')->>'status' AS status;
SELECT note('run');
SELECT prod_analytics.etl_ingest_events()->>'status' AS status, prod_analytics.refresh_incremental()->>'status' AS refresh;
SELECT note('ingest and refresh');
SELECT count(*) > 0 AS jobs, (SELECT count(*) FROM prod_analytics.job_progress) AS progress, (SELECT count(*) FROM prod_analytics.due_jobs()) >= 0 AS due
FROM prod_analytics.job_status;
SELECT note('status');
SELECT count(*) AS orphans FROM prod_analytics.fail_orphans();
SELECT note('orphans');
SELECT prod_analytics.skip_slot('mine', false) IS NOT NULL AS skipped;
SELECT note('skip');
SELECT prod_analytics.backfill_resume('backfill_column x', 9223372036854775807, '{}') IS NOT NULL AS resumed;
SELECT note('backfill');
SELECT count(*) AS others FROM prod_analytics.etl_jobs WHERE rows_processed > 5;
SELECT note('what does scan it');
SELECT step, scans - (SELECT scans FROM seen WHERE step = 'begin') AS scans FROM seen ORDER BY 2, 1;
COMMIT;

-- error: no table of history
SELECT prod_analytics.purge_batch('events', 0);

DROP TABLE seen;
DROP FUNCTION note;
DROP VIEW kept;
DROP SCHEMA prod_analytics CASCADE;
DROP ROLE regress_operator;
