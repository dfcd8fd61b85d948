-- Jobs without a worker: scheduling, who may do what, what is due, and running one by hand.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
SET timezone = 'UTC';
CREATE ROLE regress_analyst LOGIN;
CREATE ROLE regress_operator LOGIN IN ROLE analytics_operator;
CREATE ROLE regress_boss LOGIN IN ROLE analytics_operator;
GRANT regress_boss TO regress_operator;
CREATE SCHEMA work;
GRANT USAGE, CREATE ON SCHEMA work TO regress_analyst, regress_operator, regress_boss;
CREATE TABLE work.log (what text, who name DEFAULT current_user, path text DEFAULT current_setting('search_path'));
GRANT INSERT, SELECT ON work.log TO PUBLIC;

-- The jobs that are there from the start, and nobody who runs them.
SELECT job_name, schedule, timezone, paused, running_since, last_status, failures, skipped, waits_for FROM prod_analytics.job_status ORDER BY job_name;
SELECT job_name, left(command, 50) AS command, owner = current_user AS is_mine, timeout, max_retries, catch_up, depends_on FROM prod_analytics.jobs ORDER BY job_name;
SELECT * FROM prod_analytics.worker_status;
SELECT job_name FROM prod_analytics.due_jobs(now() - interval '1 minute');
SELECT job_name FROM prod_analytics.due_jobs(now() + interval '1 year') ORDER BY 1;

-- error: what cannot be scheduled
SELECT prod_analytics.schedule_job(NULL, '1 day', 'SELECT 1');
SELECT prod_analytics.schedule_job('a', NULL, 'SELECT 1');
SELECT prod_analytics.schedule_job('a', '1 day', NULL);
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', max_retries => NULL);
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', timezone => NULL);
SELECT prod_analytics.schedule_job('', '1 day', 'SELECT 1');
SELECT prod_analytics.schedule_job('a', '1 day', E' ;\n');
SELECT prod_analytics.schedule_job('a', '1 day', E'SELECT \'ä\';\nSELEC 2');
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT (1');
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1; COPY work.log FROM STDIN');
INSERT INTO prod_analytics.jobs (job_name, schedule, command, owner) VALUES ('a', '1 day', 'SELECT 1 +', current_user);
UPDATE prod_analytics.jobs SET command = 'COPY work.log TO STDOUT' WHERE job_name = 'ingest_events';
UPDATE prod_analytics.jobs SET timezone = 'Nowhere' WHERE job_name = 'ingest_events';
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', catch_up => NULL);
SELECT prod_analytics.schedule_job('a', '5 seconds', 'SELECT 1', timezone => 'Nowhere');
SELECT prod_analytics.schedule_job(repeat('ä', 101), '1 day', 'SELECT 1');
SELECT prod_analytics.schedule_job('a', 'daily', 'SELECT 1');
SELECT prod_analytics.schedule_job('a', '0 25 * * *', 'SELECT 1');
SELECT prod_analytics.schedule_job('a', '0 0 31 2 *', 'SELECT 1');
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', timezone => 'Nowhere');
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', timeout => '0');
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', timeout => '-1 second');
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', timeout => '999 microseconds');
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', max_retries => -1);
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', catch_up => 'twice');
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', depends_on => '{ingest_events, b}');
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', depends_on => '{NULL}');
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1', depends_on => '{a}');
SET default_transaction_read_only = on;
SELECT prod_analytics.schedule_job('a', '1 day', 'SELECT 1');
SELECT prod_analytics.run_job('ingest_events');
RESET default_transaction_read_only;
-- error: there is no such job
SELECT prod_analytics.unschedule_job('a');
SELECT prod_analytics.pause_job('a');
SELECT prod_analytics.resume_job('a');
SELECT prod_analytics.run_job('a');
SELECT prod_analytics.cancel_job('a');

-- error: two names that give one advisory lock; the job that there is can be changed
SELECT hashtext('etl_job 11265') = hashtext('etl_job 167158') AS collide;
SELECT prod_analytics.schedule_job('job 11265', '1 day', 'SELECT 1', timeout => '1 millisecond');
SELECT prod_analytics.schedule_job('job 167158', '1 day', 'SELECT 1');
SELECT prod_analytics.schedule_job('job 11265', '2 days', 'SELECT 1');
SELECT prod_analytics.unschedule_job('job 11265');

-- A job belongs to who has scheduled it; names are anything.
GRANT USAGE ON SCHEMA prod_analytics TO regress_analyst;
SET ROLE regress_operator;
SELECT prod_analytics.schedule_job('Größe; DROP TABLE "x" --', '*/5 * * * *', 'INSERT INTO work.log VALUES (''größe'')', timezone => 'Europe/Berlin');
SELECT prod_analytics.schedule_job(repeat('ä', 100), '1 day', 'SELECT 1');
SET ROLE regress_boss;
SELECT prod_analytics.schedule_job('of boss', '1 day', 'SELECT 1', depends_on => ARRAY['Größe; DROP TABLE "x" --']);
RESET ROLE;
SELECT prod_analytics.schedule_job('of superuser', '1 day', 'SELECT 1');
SELECT job_name, owner, timezone, depends_on FROM prod_analytics.jobs WHERE job_name NOT IN ('ingest_events', 'upsert_users', 'refresh_matviews', 'maintain_partitions', 'quality_checks', 'purge_history') ORDER BY 1;
-- error: it would depend on itself, by way of another one
SELECT prod_analytics.schedule_job('Größe; DROP TABLE "x" --', '*/5 * * * *', 'SELECT 1', depends_on => '{of boss}');
-- error: others depend on it
SELECT prod_analytics.unschedule_job('Größe; DROP TABLE "x" --');

-- Who may do what: an operator all but change the command of somebody else's job, a member of the owner everything.
SET ROLE regress_boss;
SELECT prod_analytics.pause_job('of superuser');
SELECT prod_analytics.pause_job('of superuser');
SELECT prod_analytics.schedule_job('of superuser', '2 days', 'SELECT 1');
SELECT schedule, owner = session_user AS of_superuser FROM prod_analytics.jobs WHERE job_name = 'of superuser';
-- error: with his rights
SELECT prod_analytics.schedule_job('of superuser', '2 days', 'ALTER ROLE regress_boss SUPERUSER');
SELECT prod_analytics.schedule_job('Größe; DROP TABLE "x" --', '*/5 * * * *', 'SELECT 1');
RESET ROLE;
SET ROLE regress_operator;
SELECT prod_analytics.schedule_job('of boss', '1 day', 'INSERT INTO work.log VALUES (''by boss'')');
SELECT prod_analytics.resume_job('of superuser');
-- error: not by touching the table
UPDATE prod_analytics.jobs SET command = 'SELECT 2';
RESET ROLE;
SELECT job_name, owner, command FROM prod_analytics.jobs WHERE job_name = 'of boss';
-- error: who has no say in it
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA prod_analytics TO regress_analyst;
SET ROLE regress_analyst;
SELECT prod_analytics.run_job('of boss');
SELECT prod_analytics.pause_job('ingest_events');
SELECT prod_analytics.unschedule_job('ingest_events');
SELECT prod_analytics.cancel_job('ingest_events');
SELECT prod_analytics.schedule_job('ingest_events', '1 day', 'SELECT 1');
SELECT count(*) FROM prod_analytics.jobs;
RESET ROLE;
-- error: a role that could not run it, before PostgreSQL 17
ALTER ROLE regress_analyst NOLOGIN;
SET ROLE regress_analyst;
DO $$ BEGIN
	PERFORM prod_analytics.schedule_job('of analyst', '1 day', 'SELECT 1');
	RAISE 'scheduled' USING ERRCODE = 'feature_not_supported';
EXCEPTION WHEN feature_not_supported THEN
	RAISE WARNING '%', CASE WHEN (current_setting('server_version_num')::int >= 170000) = (SQLERRM = 'scheduled') THEN 'as expected' ELSE SQLERRM END;
END $$;
RESET ROLE;
ALTER ROLE regress_analyst LOGIN;

-- By hand a job runs in the session, as its owner.
SELECT r - 'job_id' - 'duration_seconds' AS result FROM prod_analytics.run_job('of boss') r;
SELECT * FROM work.log;
SET ROLE regress_operator;
SELECT r->>'status' AS status, r->>'rows' AS rows FROM prod_analytics.run_job('Größe; DROP TABLE "x" --') r;
RESET ROLE;
SELECT what, who FROM work.log;
SELECT job_name, last_status, failures, last_job_id IS NOT NULL AS has_run, succeeded_at IS NOT NULL AS succeeded FROM prod_analytics.job_status WHERE last_status IS NOT NULL ORDER BY 1;
-- What our functions tell is what the run tells; there is one record.
SELECT prod_analytics.ensure_partitions() > 0 AS made;
INSERT INTO prod_analytics.staging_events (event_type, event_time, payload) VALUES ('view', now(), '{}'), (NULL, now(), '{}');
SELECT r->>'status' AS status, r->>'rows' AS rows, r->>'inserted' AS inserted, r->>'quarantined' AS quarantined FROM prod_analytics.run_job('ingest_events') r;
SELECT r->>'status' AS status, r->>'rows' AS rows, jsonb_array_length(r->'views') AS views FROM prod_analytics.run_job('refresh_matviews') r;
SELECT job_name, status, rows_processed, details ? 'inserted' AS has_counts, details ?| '{job_id,status,rows,duration_seconds}' AS repeats
FROM prod_analytics.etl_jobs WHERE job_name IN ('ingest_events', 'refresh_matviews') ORDER BY job_id;
-- Called by itself it makes its own.
SELECT prod_analytics.etl_ingest_events()->>'status' AS status;
SELECT count(*) FROM prod_analytics.etl_jobs WHERE job_name = 'ingest_events';

-- A failure is in the result and in the log, with everything that there is to know; what was done is rolled back.
SELECT prod_analytics.schedule_job('fails', '1 hour', $$INSERT INTO work.log VALUES ('lost'); SELECT 1 / (SELECT count(*) FROM work.log WHERE what = 'none')$$, max_retries => 2);
SELECT r - 'job_id' - 'duration_seconds' AS result FROM prod_analytics.run_job('fails') r;
SELECT count(*) FROM work.log WHERE what = 'lost';
SELECT last_status, failures, next_run_at < now() + interval '10 seconds' AS is_retried_soon FROM prod_analytics.job_status WHERE job_name = 'fails';
SELECT prod_analytics.schedule_job('commits', '1 hour', 'CALL prod_analytics.maintain_partitions()');
SELECT r->>'status' AS status, r->>'sqlstate' AS sqlstate FROM prod_analytics.run_job('commits') r;
SELECT prod_analytics.schedule_job('vacuums', '1 hour', 'VACUUM work.log');
SELECT r->>'status' AS status, r->>'sqlstate' AS sqlstate FROM prod_analytics.run_job('vacuums') r;
SELECT prod_analytics.schedule_job('nests', '1 hour', $$SELECT prod_analytics.run_job('fails')$$);
SELECT r->>'status' AS status, r->>'error' AS error FROM prod_analytics.run_job('nests') r;
-- A command may say by itself that it has failed, and how much it has done.
SELECT prod_analytics.schedule_job('says', '1 hour', $$SELECT '{"status": "FAILED", "rows": 7, "error": "no reason", "more": [1]}'::jsonb$$);
SELECT r - 'job_id' - 'duration_seconds' AS result FROM prod_analytics.run_job('says') r;
SELECT prod_analytics.schedule_job('says', '1 hour', $$SELECT '[1, 2]'::jsonb$$);
SELECT r - 'job_id' - 'duration_seconds' AS result FROM prod_analytics.run_job('says') r;
SELECT prod_analytics.schedule_job('says', '1 hour', 'SELECT generate_series(1, 5)');
SELECT r - 'job_id' - 'duration_seconds' AS result FROM prod_analytics.run_job('says') r;
SELECT prod_analytics.schedule_job('says', '1 hour', '-- nothing');
SELECT r->>'status' AS status FROM prod_analytics.run_job('says') r;
-- An owner that is gone.
UPDATE prod_analytics.jobs SET owner = 'regress_nobody' WHERE job_name = 'says';
SELECT r - 'job_id' - 'duration_seconds' AS result FROM prod_analytics.run_job('says') r;

-- What a job does cannot leave its owner's rights, nor bring anything into the session.
SET ROLE regress_boss;
SELECT prod_analytics.schedule_job('escapes', '1 hour', 'RESET ROLE');
RESET ROLE;
SELECT r->>'status' AS status, r->>'error' AS error FROM prod_analytics.run_job('escapes') r;
SELECT current_user = session_user AS same;
SET ROLE regress_boss;
SELECT prod_analytics.schedule_job('escapes', '1 hour', $$SELECT set_config('work_mem', '77MB', false)$$);
RESET ROLE;
SELECT r->>'status' AS status FROM prod_analytics.run_job('escapes') r;
SHOW work_mem;

-- What is due: at its slot or a retry, when it is not paused, and when what it depends on has succeeded since.
UPDATE prod_analytics.jobs SET paused = true;
SELECT prod_analytics.schedule_job('first', '1 hour', 'SELECT 1');
SELECT prod_analytics.schedule_job('second', '1 hour', 'SELECT 2', depends_on => '{first}');
SELECT prod_analytics.schedule_job('daily', '30 3 * * *', 'SELECT 3', timezone => 'Europe/Berlin', catch_up => 'skip');
UPDATE prod_analytics.job_state SET next_run_at = '2026-03-01 10:00', retry_at = NULL WHERE job_name IN ('first', 'second');
UPDATE prod_analytics.job_state SET next_run_at = '2026-03-01 02:30' WHERE job_name = 'daily';
SELECT * FROM prod_analytics.due_jobs('2026-03-01 01:00');
SELECT * FROM prod_analytics.due_jobs('2026-03-01 02:30');
SELECT * FROM prod_analytics.due_jobs('2026-03-01 10:00');
SELECT job_name, waits_for FROM prod_analytics.job_status WHERE job_name IN ('first', 'second') ORDER BY 1;
SELECT prod_analytics.run_job('first')->>'status' AS status;
SELECT job_name FROM prod_analytics.due_jobs('2026-03-01 10:00');
SELECT prod_analytics.run_job('second')->>'status' AS status;
SELECT job_name FROM prod_analytics.due_jobs(now() + interval '2 hours');
SELECT prod_analytics.run_job('first')->>'status' AS status;
SELECT job_name FROM prod_analytics.due_jobs(now() + interval '2 hours');
-- A run makes up for all slots that were missed; or, when that is not wanted, none does.
SELECT next_run_at > now() AS later FROM prod_analytics.job_status WHERE job_name = 'first';
SELECT prod_analytics.skip_missed(now());
SELECT job_name, next_run_at > now() AS later, skipped FROM prod_analytics.job_status WHERE job_name = 'daily';
-- Resuming a job makes up for nothing.
SELECT prod_analytics.pause_job('daily');
UPDATE prod_analytics.job_state SET next_run_at = '2026-03-01 02:30' WHERE job_name = 'daily';
SELECT next_run_at, lag FROM prod_analytics.job_status WHERE job_name = 'daily';
SELECT prod_analytics.resume_job('daily');
SELECT next_run_at > now() AS later, lag FROM prod_analytics.job_status WHERE job_name = 'daily';

-- Retries: sooner than the next slot, less and less often, and not for ever.
UPDATE prod_analytics.jobs SET paused = false WHERE job_name = 'fails';
SELECT prod_analytics.run_job('fails')->>'status' AS status;
SELECT attempt, failures, retry_at - started_at - last_duration BETWEEN '3.75 seconds' AND '6.25 seconds' AS soon FROM prod_analytics.job_state WHERE job_name = 'fails';
UPDATE prod_analytics.job_state SET retry_at = now(), next_run_at = now() + interval '1 hour' WHERE job_name = 'fails';
SELECT prod_analytics.run_job('fails')->>'status' AS status;
SELECT attempt, failures, retry_at - started_at - last_duration BETWEEN '7.5 seconds' AND '12.5 seconds' AS later FROM prod_analytics.job_state WHERE job_name = 'fails';
UPDATE prod_analytics.job_state SET retry_at = now(), next_run_at = now() + interval '1 hour' WHERE job_name = 'fails';
SELECT prod_analytics.run_job('fails')->>'status' AS status;
SELECT attempt, failures, retry_at FROM prod_analytics.job_state WHERE job_name = 'fails';
SELECT max(prod_analytics.retry_delay(n)) < '20 minutes' AS bounded, min(prod_analytics.retry_delay(n)) > '3 seconds' AS positive FROM generate_series(1, 100) n;
-- A retry does not wait again for what the run depended on; the next slot does.
SELECT prod_analytics.schedule_job('third', '1 hour', 'SELECT 1 / 0', max_retries => 1, depends_on => '{first}');
SELECT prod_analytics.run_job('third')->>'status' AS status;
UPDATE prod_analytics.job_state SET next_run_at = now() + interval '1 hour', retry_at = now() WHERE job_name = 'third';
SELECT job_name FROM prod_analytics.due_jobs(now()) WHERE job_name = 'third';
SELECT job_name FROM prod_analytics.due_jobs(now() + interval '1 hour') WHERE job_name = 'third';
SELECT prod_analytics.unschedule_job('third');

-- The worker wakes for what was not due at the moment that it looked at, even if it is by now.
UPDATE prod_analytics.jobs SET paused = job_name <> 'first';
UPDATE prod_analytics.job_state SET next_run_at = '2026-03-01 10:00', retry_at = NULL WHERE job_name = 'first';
SELECT prod_analytics.next_wake('2026-03-01 09:59:59');
SELECT prod_analytics.next_wake('2026-03-01 10:00:00');
-- When the clock is set back, nothing waits until it is there again, nor for what has yet to be.
UPDATE prod_analytics.job_state SET next_run_at = '2026-03-01 10:00', retry_at = '2026-03-01 09:50', started_at = '2026-03-01 09:30',
	succeeded_at = '2026-03-01 09:31' WHERE job_name IN ('first', 'second');
SELECT prod_analytics.follow_clock('2026-03-01 09:40');
SELECT job_name, next_run_at, retry_at, started_at, succeeded_at FROM prod_analytics.job_state WHERE job_name IN ('first', 'second') ORDER BY 1;
SELECT prod_analytics.follow_clock('2026-03-01 07:15');
SELECT job_name, next_run_at, retry_at, started_at, succeeded_at FROM prod_analytics.job_state WHERE job_name IN ('first', 'second') ORDER BY 1;
UPDATE prod_analytics.jobs SET paused = false WHERE job_name = 'fails';

-- A schedule whose time zone has ceased to exist stops that job, and nothing else.
ALTER TABLE prod_analytics.jobs DISABLE TRIGGER follow_job;
UPDATE prod_analytics.jobs SET timezone = 'Atlantis', schedule = '1 day' WHERE job_name = 'first';
ALTER TABLE prod_analytics.jobs ENABLE TRIGGER follow_job;
UPDATE prod_analytics.job_state SET next_run_at = now() WHERE job_name = 'first';
SELECT prod_analytics.run_job('first')->>'status' AS status;
SELECT next_run_at FROM prod_analytics.job_status WHERE job_name = 'first';
-- error: changed by hand, a schedule is checked too
UPDATE prod_analytics.jobs SET schedule = 'sometimes' WHERE job_name = 'first';
UPDATE prod_analytics.jobs SET timezone = 'Atlantis', schedule = '2 days' WHERE job_name = 'second';

-- Runs whose process is gone.
INSERT INTO prod_analytics.etl_jobs (job_name, started_at, status) VALUES ('gone', now(), 'RUNNING'), ('held', now(), 'RUNNING');
SELECT pg_advisory_lock(hashtext('etl_held'));
SELECT * FROM prod_analytics.fail_orphans();
SELECT job_name, status, details->>'error' AS error FROM prod_analytics.etl_jobs WHERE job_name IN ('gone', 'held') ORDER BY 1;
SELECT pg_advisory_unlock(hashtext('etl_held'));
SELECT * FROM prod_analytics.fail_orphans();
-- An interval that never ends, which PostgreSQL 17 and later know, is no timeout.
DO $$ BEGIN
	IF current_setting('server_version_num')::int >= 170000 THEN
		PERFORM prod_analytics.schedule_job('endless', '1 hour', 'SELECT 1', timeout => 'infinity');
	ELSE
		PERFORM prod_analytics.schedule_job('endless', '1 hour', 'SELECT 1');
	END IF;
END $$;
SELECT prod_analytics.run_job('endless')->>'status' AS status;
SELECT prod_analytics.unschedule_job('endless');
-- A record that somebody ends or deletes by hand does not leave its job running for ever.
SELECT prod_analytics.schedule_job('mended', '1 hour', $$UPDATE prod_analytics.etl_jobs SET status = 'FAILED', finished_at = now() WHERE job_name = 'mended'$$);
SELECT prod_analytics.run_job('mended')->>'status' AS status;
SELECT last_status, succeeded_at IS NOT NULL AS has_succeeded FROM prod_analytics.job_status WHERE job_name = 'mended';
UPDATE prod_analytics.job_state SET last_status = 'RUNNING', last_job_id = -1 WHERE job_name = 'mended';
SELECT * FROM prod_analytics.fail_orphans();
SELECT last_status, failures FROM prod_analytics.job_status WHERE job_name = 'mended';
-- Nor does a state that is missing keep it from being due for ever: it begins anew with the next slot.
DELETE FROM prod_analytics.job_state WHERE job_name = 'mended';
SELECT prod_analytics.schedule_job('mended', '1 hour', 'SELECT 1');
SELECT next_run_at > now() AS later FROM prod_analytics.job_status WHERE job_name = 'mended';
DELETE FROM prod_analytics.job_state WHERE job_name = 'mended';
SELECT prod_analytics.add_missing_states('2026-03-01 10:30');
SELECT next_run_at FROM prod_analytics.job_status WHERE job_name = 'mended';
SELECT prod_analytics.unschedule_job('mended');

-- Unscheduled, a job is forgotten, and its log is kept.
SELECT prod_analytics.unschedule_job('second');
SELECT prod_analytics.unschedule_job('first');
SELECT count(*) FROM prod_analytics.job_state WHERE job_name IN ('first', 'second');
SELECT count(*) > 0 AS kept FROM prod_analytics.etl_jobs WHERE job_name = 'first';
-- What the user has unscheduled stays so.
SELECT prod_analytics.unschedule_job('purge_history');
SELECT prod_analytics.create_tables();
SELECT count(*) FROM prod_analytics.jobs WHERE job_name = 'purge_history';

SET client_min_messages = warning;
DROP SCHEMA work CASCADE;
DROP SCHEMA prod_analytics CASCADE;
DROP ROLE regress_analyst, regress_operator, regress_boss;
