CREATE FUNCTION next_slot(schedule text, after timestamptz, timezone text DEFAULT 'UTC')
	RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'pa_next_slot_sql'
	LANGUAGE C STABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION next_slot(text, timestamptz, text) IS
	'the first moment after another one at which a schedule is due, in a time zone: an interval of months, days, or hours, minutes and seconds, counted from 1970, weeks from a Monday; or five fields as cron has them (minute, hour, day of month, month, day of week; names, lists, ranges, steps); an hour that a change of the clocks skips counts as the next one, one that repeats counts once, and an expression whose hours begin with an asterisk goes by real time; raises 22023 for what is no schedule or never due, 22007 and its like for what is no interval';

CREATE FUNCTION jobs_changed()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'pa_jobs_changed'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION jobs_changed() IS
	'internal: trigger of jobs that wakes the scheduler when the transaction commits';

CREATE FUNCTION check_command(command text)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_check_command_sql'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION check_command(text) IS
	'internal: raise the parser''s error, 42601 mostly, for what is not SQL, and 0A000 for what needs a client';

CREATE FUNCTION follow_job()
	RETURNS trigger
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- The state of a job begins with its schedule, and again when that changes or the job is resumed: what was due
-- until then is not made up for.  What does not
-- change is not checked again.
BEGIN
	IF TG_OP = 'INSERT' OR NEW.command IS DISTINCT FROM OLD.command THEN
		PERFORM prod_analytics.check_command(NEW.command);
	END IF;
	IF TG_OP = 'INSERT' OR NEW.timezone IS DISTINCT FROM OLD.timezone THEN
		PERFORM now() AT TIME ZONE NEW.timezone;
	END IF;
	IF TG_OP = 'UPDATE' AND NEW.job_name = OLD.job_name AND NEW.schedule = OLD.schedule
		AND NEW.timezone = OLD.timezone AND NEW.paused = OLD.paused
		AND EXISTS (SELECT FROM prod_analytics.job_state s WHERE s.job_name = NEW.job_name) THEN
		RETURN NULL;
	END IF;
	INSERT INTO prod_analytics.job_state AS s (job_name, next_run_at)
	VALUES (NEW.job_name, prod_analytics.next_slot(NEW.schedule, clock_timestamp(), NEW.timezone))
	ON CONFLICT (job_name) DO UPDATE SET next_run_at = EXCLUDED.next_run_at, retry_at = NULL;
	RETURN NULL;
END
$$;

COMMENT ON FUNCTION follow_job() IS
	'internal: trigger of jobs that keeps job_state in step; raises 22023 for what is no schedule and for what is no time zone, and what check_command() does';

CREATE FUNCTION make_worker_tables()
	RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
DECLARE
	made integer := 0;
BEGIN
	IF prod_analytics.is_missing('jobs') THEN
		CREATE TABLE jobs (
			job_name text PRIMARY KEY CHECK (job_name <> '' AND octet_length(job_name) <= 200),
			schedule text NOT NULL,
			command text NOT NULL,
			owner text NOT NULL,
			timeout interval CHECK (timeout >= '1 millisecond'),
			max_retries integer NOT NULL DEFAULT 0 CHECK (max_retries >= 0),
			timezone text NOT NULL DEFAULT 'UTC',
			catch_up text NOT NULL DEFAULT 'once' CHECK (catch_up IN ('once', 'skip')),
			depends_on text[],
			paused boolean NOT NULL DEFAULT false,
			scheduled_at timestamptz NOT NULL DEFAULT now()
		);
		COMMENT ON TABLE jobs IS
			'what the worker does, and when; written by schedule_job() and its like';
		COMMENT ON COLUMN jobs.schedule IS
			'an interval, or five fields as cron has them';
		COMMENT ON COLUMN jobs.owner IS
			'the role that the command runs as';
		COMMENT ON COLUMN jobs.timeout IS
			'after how long a run is cancelled; NULL: never';
		COMMENT ON COLUMN jobs.max_retries IS
			'how often a failed run is tried again before the next slot';
		COMMENT ON COLUMN jobs.timezone IS
			'whose clocks the schedule goes by';
		COMMENT ON COLUMN jobs.catch_up IS
			'what becomes of slots for which no worker was there: once: one run makes up for all of them; skip: none does';
		COMMENT ON COLUMN jobs.depends_on IS
			'jobs that must have succeeded since this one began last';
		REVOKE ALL ON jobs FROM analytics_reader;
		GRANT SELECT ON jobs TO analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('job_state') THEN
		CREATE TABLE job_state (
			job_name text PRIMARY KEY REFERENCES jobs ON UPDATE CASCADE ON DELETE CASCADE,
			next_run_at timestamptz NOT NULL,
			retry_at timestamptz,
			attempt integer NOT NULL DEFAULT 0,
			failures integer NOT NULL DEFAULT 0,
			skipped bigint NOT NULL DEFAULT 0,
			started_at timestamptz,
			succeeded_at timestamptz,
			last_job_id bigint,
			last_status text,
			last_duration interval
		) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
		COMMENT ON TABLE job_state IS
			'where each job stands; written with each run';
		COMMENT ON COLUMN job_state.next_run_at IS
			'the slot that is next';
		COMMENT ON COLUMN job_state.retry_at IS
			'when a failed run is tried again; NULL: it is not';
		COMMENT ON COLUMN job_state.attempt IS
			'the how many-th attempt the last run was, for its slot';
		COMMENT ON COLUMN job_state.failures IS
			'how many runs have failed since the last one that succeeded';
		COMMENT ON COLUMN job_state.skipped IS
			'how many slots passed while a run was going on, or while no worker was there';
		COMMENT ON COLUMN job_state.started_at IS
			'when the last run began';
		COMMENT ON COLUMN job_state.succeeded_at IS
			'when the last run that succeeded ended';
		COMMENT ON COLUMN job_state.last_job_id IS
			'the last run in etl_jobs';
		REVOKE ALL ON job_state FROM analytics_reader;
		GRANT SELECT ON job_state TO analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('job_status') THEN
		CREATE VIEW job_status AS
			SELECT j.job_name, j.owner, j.schedule, j.timezone, j.paused,
				CASE WHEN NOT j.paused THEN least(s.next_run_at, s.retry_at) END AS next_run_at,
				CASE WHEN s.last_status = 'RUNNING' THEN s.started_at END AS running_since,
				s.last_job_id, s.last_status, s.started_at AS last_started_at, s.last_duration,
				s.failures, s.skipped, s.succeeded_at,
				CASE WHEN NOT j.paused AND s.last_status IS DISTINCT FROM 'RUNNING' THEN
					statement_timestamp() - least(s.next_run_at, s.retry_at, statement_timestamp()) END AS lag,
				(SELECT array_agg(d.name) FROM unnest(j.depends_on) d (name)
					WHERE NOT EXISTS (SELECT FROM job_state o WHERE o.job_name = d.name
						AND o.succeeded_at > coalesce(s.started_at, '-infinity'))) AS waits_for
			FROM jobs j JOIN job_state s ON s.job_name = j.job_name;
		COMMENT ON VIEW job_status IS
			'each job: when it is due, since when it runs, how its last run ended and how long it took, how many have failed in a row, how many slots were skipped, how late it is, and the jobs that it waits for';
		GRANT SELECT ON job_status TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('worker_status') THEN
		CREATE VIEW worker_status AS
			SELECT w.process, w.pid, w.state, w.since, w.owner, w.job_name, w.job_id, p.rows_done, p.rows_expected
			FROM prod_analytics.worker_processes() w LEFT JOIN job_progress p ON p.pid = w.pid;
		COMMENT ON VIEW worker_status IS
			'the worker''s processes: the launcher, this database''s scheduler, and its runners with the runs that they are at and how far these are; empty when no worker is running';
		GRANT SELECT ON worker_status TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	RETURN made;
END
$$;

COMMENT ON FUNCTION make_worker_tables() IS
	'internal: what make_tables() does for the worker; returns how many tables and views were made';

CREATE FUNCTION make_worker_triggers()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs'::regclass AND tgname = 'follow_job') THEN
		CREATE TRIGGER follow_job AFTER INSERT OR UPDATE ON jobs
			FOR EACH ROW EXECUTE FUNCTION prod_analytics.follow_job();
		COMMENT ON TRIGGER follow_job ON jobs IS
			'keeps job_state in step';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs'::regclass AND tgname = 'jobs_changed') THEN
		CREATE TRIGGER jobs_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobs
			FOR EACH STATEMENT EXECUTE FUNCTION prod_analytics.jobs_changed();
		COMMENT ON TRIGGER jobs_changed ON jobs IS
			'wakes the scheduler, which looks at the jobs again';
	END IF;
END
$$;

COMMENT ON FUNCTION make_worker_triggers() IS
	'internal: what make_table_triggers() does for the worker';

CREATE FUNCTION make_default_jobs()
	RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	AS $$
	INSERT INTO prod_analytics.jobs (job_name, schedule, command, owner, timeout, max_retries, depends_on) VALUES
		('ingest_events', '5 seconds', 'SELECT prod_analytics.etl_ingest_events(50000)', CURRENT_USER, '10 minutes', 3, NULL),
		('upsert_users', '30 seconds', 'SELECT prod_analytics.etl_upsert_users(10000)', CURRENT_USER, '10 minutes', 3, NULL),
		('refresh_matviews', '5 seconds', 'SELECT prod_analytics.refresh_incremental()', CURRENT_USER, '1 hour', 3, '{ingest_events}'),
		('maintain_partitions', '1 hour', 'CALL prod_analytics.maintain_partitions()', CURRENT_USER, '1 hour', 3, NULL),
		('quality_checks', '1 hour', 'SELECT prod_analytics.quality_job()', CURRENT_USER, '1 hour', 0, NULL),
		('purge_history', '1 hour', 'CALL prod_analytics.purge_history()', CURRENT_USER, '1 hour', 0, NULL)
	ON CONFLICT DO NOTHING
$$;

COMMENT ON FUNCTION make_default_jobs() IS
	'internal: the jobs that are there from the start';

CREATE FUNCTION mend_default_jobs()
	RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	AS $$
	-- A command runs with the search_path of its owner's sessions.  That of version 0.1.0 named functions without
	-- their schema, for which others could put theirs.
	UPDATE prod_analytics.jobs SET command = 'SELECT prod_analytics.quality_job()'
	WHERE job_name = 'quality_checks' AND command LIKE 'SELECT jsonb\_strip\_nulls(%FROM prod\_analytics.run\_quality\_checks()'
$$;

COMMENT ON FUNCTION mend_default_jobs() IS
	'internal: give the jobs that are there from the start the commands that they have by now, unless the user has changed them';

-- What the worker's processes do about a run, each in a transaction of its own, as the owner of these tables.

CREATE FUNCTION due_jobs(at timestamptz DEFAULT now())
	RETURNS TABLE (job_name text, due_at timestamptz)
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT j.job_name, least(s.next_run_at, s.retry_at)
	FROM prod_analytics.jobs j JOIN prod_analytics.job_state s ON s.job_name = j.job_name
	-- A retry is of a run whose dependencies had succeeded, so it does not wait for them again.
	WHERE NOT j.paused AND least(s.next_run_at, s.retry_at) <= due_jobs.at
		AND (s.next_run_at > due_jobs.at OR NOT EXISTS (
			SELECT FROM unnest(j.depends_on) d (name)
			WHERE NOT EXISTS (SELECT FROM prod_analytics.job_state o WHERE o.job_name = d.name
				AND o.succeeded_at > coalesce(s.started_at, '-infinity'))))
	-- Jobs of the same slot take turns: by name, where there is more to do than time, some would run less often.
	ORDER BY 2, s.started_at NULLS FIRST, 1
$$;

COMMENT ON FUNCTION due_jobs(timestamptz) IS
	'the jobs that are due at a moment, whoever is running, those that have waited longest first, of several the one that began longest ago: not paused, at a retry, or at their next slot and each job that they depend on has succeeded since they began last';

CREATE FUNCTION later_slot(schedule text, after timestamptz, timezone text)
	RETURNS timestamptz
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- A schedule that was one and is none any more, because its time zone is gone, say, stands in no other job's way.
BEGIN
	RETURN prod_analytics.next_slot(later_slot.schedule, later_slot.after, later_slot.timezone);
EXCEPTION WHEN OTHERS THEN
	RAISE WARNING USING ERRCODE = SQLSTATE, MESSAGE = format('a job will not be due any more: %s', SQLERRM),
		HINT = 'Schedule it again.';
	RETURN 'infinity';
END
$$;

COMMENT ON FUNCTION later_slot(text, timestamptz, text) IS
	'internal: next_slot(), or infinity and a WARNING where that fails';

CREATE FUNCTION next_wake(at timestamptz)
	RETURNS timestamptz
	LANGUAGE sql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	-- A job that has been given to somebody uses up its slot when it begins: nobody has seen that yet.
	SELECT min(least(
		CASE WHEN s.next_run_at > next_wake.at THEN s.next_run_at ELSE prod_analytics.later_slot(j.schedule, next_wake.at, j.timezone) END,
		CASE WHEN s.retry_at > next_wake.at THEN s.retry_at END))
	FROM prod_analytics.jobs j JOIN prod_analytics.job_state s ON s.job_name = j.job_name
	WHERE NOT j.paused
$$;

COMMENT ON FUNCTION next_wake(timestamptz) IS
	'internal: when a job will be due after a moment, also one that is due at it already; NULL: none will';

CREATE FUNCTION begin_run(job_name text, of_owner text DEFAULT NULL)
	RETURNS TABLE (job_id bigint, command text, timeout_ms bigint, owner text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- The slot is used up by the transaction that logs the run: whatever happens, there is neither a run without
-- its slot nor a slot without its run.
DECLARE
	job prod_analytics.jobs;
	started CONSTANT timestamptz := clock_timestamp();
	run bigint;
BEGIN
	SELECT * INTO job FROM prod_analytics.jobs j
	WHERE j.job_name = begin_run.job_name AND j.owner = coalesce(begin_run.of_owner, j.owner);
	IF NOT FOUND THEN
		RETURN;
	END IF;
	UPDATE prod_analytics.etl_jobs e SET status = 'FAILED', finished_at = started,
		details = coalesce(e.details, '{}') || '{"error": "server or worker terminated"}'
	WHERE e.job_name = begin_run.job_name AND e.status = 'RUNNING';
	INSERT INTO prod_analytics.etl_jobs AS e (job_name, started_at, status)
	VALUES (begin_run.job_name, started, 'RUNNING') RETURNING e.job_id INTO run;
	UPDATE prod_analytics.job_state s SET
		attempt = CASE WHEN s.retry_at <= started AND s.next_run_at > started THEN s.attempt + 1 ELSE 1 END,
		retry_at = NULL,
		next_run_at = CASE WHEN s.next_run_at <= started THEN prod_analytics.later_slot(job.schedule, started, job.timezone)
			ELSE s.next_run_at END,
		started_at = started, last_job_id = run, last_status = 'RUNNING', last_duration = NULL
	WHERE s.job_name = begin_run.job_name;
	-- Whoever was changing the job has been waited for.
	SELECT * INTO job FROM prod_analytics.jobs j
	WHERE j.job_name = begin_run.job_name AND j.owner = coalesce(begin_run.of_owner, j.owner);
	IF NOT FOUND THEN
		DELETE FROM prod_analytics.etl_jobs e WHERE e.job_id = run;
		RETURN;
	END IF;
	-- From PostgreSQL 17 on an interval can be infinite.
	RETURN QUERY SELECT run, job.command, CASE WHEN isfinite(job.timeout) THEN ceil(extract(epoch FROM job.timeout) * 1000)::bigint END, job.owner;
END
$$;

COMMENT ON FUNCTION begin_run(text, text) IS
	'internal: log that a run begins and use up its slot; returns the run, what it does and as whom, nothing when there is no such job of of_owner (NULL: of anybody); the caller holds the job''s lock';

CREATE FUNCTION retry_delay(attempt integer)
	RETURNS interval
	LANGUAGE sql VOLATILE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT least(interval '5 seconds' * 2 ^ least(retry_delay.attempt - 1, 20), interval '15 minutes') * (0.75 + random() / 2)
$$;

COMMENT ON FUNCTION retry_delay(integer) IS
	'internal: how long to wait before what failed for the attempt-th time is tried again: 5 seconds, doubled each time, at most 15 minutes, give or take a quarter so that jobs that failed together do not come back together';

CREATE FUNCTION end_run(job_id bigint, status text, rows bigint, details jsonb)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	run prod_analytics.etl_jobs;
	payload jsonb;
	ended CONSTANT timestamptz := clock_timestamp();
	was_running boolean;
	failed CONSTANT boolean := end_run.status = 'FAILED';
BEGIN
	UPDATE prod_analytics.etl_jobs e
	SET status = end_run.status, finished_at = ended, rows_processed = end_run.rows,
		details = coalesce(e.details, '{}') || coalesce(end_run.details, '{}')
	WHERE e.job_id = end_run.job_id AND e.status = 'RUNNING'
	RETURNING * INTO run;
	was_running := FOUND;

	-- Also when somebody has ended or deleted the record by hand.
	UPDATE prod_analytics.job_state s SET
		last_status = end_run.status,
		last_duration = ended - s.started_at,
		failures = CASE WHEN failed THEN s.failures + 1 ELSE 0 END,
		succeeded_at = CASE WHEN end_run.status = 'SUCCESS' THEN ended ELSE s.succeeded_at END,
		retry_at = CASE WHEN failed AND s.attempt <= j.max_retries THEN ended + prod_analytics.retry_delay(s.attempt) END
	FROM prod_analytics.jobs j
	WHERE s.last_job_id = end_run.job_id AND s.last_status = 'RUNNING' AND j.job_name = s.job_name;
	IF NOT was_running THEN
		RETURN NULL;
	END IF;

	payload := jsonb_build_object('job_id', run.job_id, 'job_name', run.job_name, 'status', run.status, 'rows', run.rows_processed,
		'duration_seconds', extract(epoch FROM run.finished_at - run.started_at));
	PERFORM pg_notify('prod_analytics_jobs',
		(payload || jsonb_strip_nulls(jsonb_build_object('sqlstate', left(run.details->>'sqlstate', 5), 'error', left(run.details->>'error', 1000))))::text);
	RETURN payload - 'job_name' || run.details;
END
$$;

COMMENT ON FUNCTION end_run(bigint, text, bigint, jsonb) IS
	'internal: log the end of a run that is running, plan a retry when it failed, and notify; returns what run_job() does, NULL when the run has ended already';

CREATE FUNCTION end_command(job_id bigint, rows bigint, result jsonb)
	RETURNS text
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- Our functions say in their result how they ended; that of others may do so too.
DECLARE
	said CONSTANT jsonb := CASE WHEN jsonb_typeof(end_command.result) = 'object' THEN end_command.result
		WHEN end_command.result IS NULL THEN '{}' ELSE jsonb_build_object('result', end_command.result) END;
	ended CONSTANT text := CASE WHEN said->>'status' IN ('SUCCESS', 'FAILED', 'SKIPPED') THEN said->>'status' ELSE 'SUCCESS' END;
	counted CONSTANT bigint := CASE WHEN jsonb_typeof(said->'rows') = 'number' AND (said->>'rows')::numeric BETWEEN -1e18 AND 1e18
		THEN (said->>'rows')::numeric::bigint ELSE end_command.rows END;
BEGIN
	PERFORM prod_analytics.end_run(end_command.job_id, ended, counted, said - '{job_id,status,rows,duration_seconds}'::text[]);
	RETURN CASE WHEN ended = 'FAILED' THEN coalesce(said->>'error', 'the command says so') END;
END
$$;

COMMENT ON FUNCTION end_command(bigint, bigint, jsonb) IS
	'internal: log the end of a run whose command raised no error: rows and status are those of result, if it tells them; returns what to tell of a failure, NULL when there was none';

CREATE FUNCTION run_result(job_id bigint)
	RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_object('job_id', e.job_id, 'status', e.status, 'rows', e.rows_processed,
		'duration_seconds', extract(epoch FROM e.finished_at - e.started_at)) || coalesce(e.details, '{}')
	FROM prod_analytics.etl_jobs e WHERE e.job_id = run_result.job_id
$$;

COMMENT ON FUNCTION run_result(bigint) IS
	'internal: what run_job() returns of a run that has ended';

CREATE FUNCTION skip_slot(job_name text, is_running boolean)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	run bigint;
BEGIN
	UPDATE prod_analytics.job_state s SET
		skipped = s.skipped + 1, retry_at = NULL,
		next_run_at = prod_analytics.later_slot(j.schedule, clock_timestamp(), j.timezone)
	FROM prod_analytics.jobs j
	WHERE s.job_name = skip_slot.job_name AND j.job_name = s.job_name
		AND (s.last_status = 'RUNNING' OR NOT skip_slot.is_running);
	IF NOT skip_slot.is_running THEN
		INSERT INTO prod_analytics.etl_jobs AS e (job_name, started_at, finished_at, status, rows_processed, details)
		VALUES (skip_slot.job_name, clock_timestamp(), clock_timestamp(), 'SKIPPED', 0, '{"reason": "the job is running in another session"}')
		RETURNING e.job_id INTO run;
	END IF;
	RETURN run;
END
$$;

COMMENT ON FUNCTION skip_slot(text, boolean) IS
	'internal: let a slot pass: the worker itself is running the job, or, which is logged, somebody else holds its lock; returns the run';

CREATE FUNCTION fail_start(job_name text, sqlstate text, error text, hint text)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	run bigint;
BEGIN
	SELECT b.job_id INTO run FROM prod_analytics.begin_run(fail_start.job_name) b;
	PERFORM prod_analytics.end_run(run, 'FAILED', 0, jsonb_strip_nulls(jsonb_build_object(
		'sqlstate', fail_start.sqlstate, 'error', fail_start.error, 'hint', fail_start.hint)));
	RETURN run;
END
$$;

COMMENT ON FUNCTION fail_start(text, text, text, text) IS
	'internal: log a run that could not even begin; returns it';

CREATE FUNCTION add_missing_states(at timestamptz)
	RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	INSERT INTO prod_analytics.job_state (job_name, next_run_at)
	SELECT j.job_name, prod_analytics.later_slot(j.schedule, add_missing_states.at, j.timezone)
	FROM prod_analytics.jobs j WHERE NOT EXISTS (SELECT FROM prod_analytics.job_state s WHERE s.job_name = j.job_name)
	ON CONFLICT DO NOTHING
$$;

COMMENT ON FUNCTION add_missing_states(timestamptz) IS
	'internal: let jobs without a state, which a dump may have left out, begin with their next slot after a moment, at which a scheduler starts';

CREATE FUNCTION skip_missed(at timestamptz)
	RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	UPDATE prod_analytics.job_state s SET
		skipped = s.skipped + 1, next_run_at = prod_analytics.later_slot(j.schedule, skip_missed.at, j.timezone)
	FROM prod_analytics.jobs j
	WHERE j.job_name = s.job_name AND j.catch_up = 'skip' AND s.next_run_at <= skip_missed.at
$$;

COMMENT ON FUNCTION skip_missed(timestamptz) IS
	'internal: let the slots pass that jobs with catch_up = skip have missed by a moment, at which a scheduler starts';

CREATE FUNCTION follow_clock(at timestamptz)
	RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	-- The next slot can only be later than the next one from now if the clock was set back, or the time zone is another
	-- one now: without this the job would not run until the clock is there again.
	UPDATE prod_analytics.job_state s SET
		next_run_at = least(s.next_run_at, n.slot),
		retry_at = least(s.retry_at, follow_clock.at + interval '15 minutes'),
		started_at = least(s.started_at, follow_clock.at),
		succeeded_at = least(s.succeeded_at, follow_clock.at)
	FROM prod_analytics.jobs j, LATERAL (SELECT prod_analytics.later_slot(j.schedule, follow_clock.at, j.timezone) AS slot) n
	WHERE j.job_name = s.job_name AND (s.next_run_at > n.slot OR greatest(s.started_at, s.succeeded_at) > follow_clock.at
		OR s.retry_at > follow_clock.at + interval '20 minutes')
$$;

COMMENT ON FUNCTION follow_clock(timestamptz) IS
	'internal: call back what lies in the future only because the clock was later than it is at a moment';

CREATE FUNCTION worker_processes()
	RETURNS TABLE (process text, pid integer, owner text, job_name text, job_id bigint, state text, since timestamptz)
	AS 'MODULE_PATHNAME', 'pa_worker_processes'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION worker_processes() IS
	'internal: the worker''s processes, as far as they concern this database; none when the library was not preloaded';

CREATE FUNCTION fail_orphans()
	RETURNS SETOF text
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	-- Whoever runs a job holds its lock from before the record until after its end, unless the command has released
	-- all locks of its session; but then its process is there.  Trying to get the lock would get in the way of
	-- somebody who wants it.
	WITH running AS (
		SELECT e.job_id, e.job_name, e.rows_processed FROM prod_analytics.etl_jobs e WHERE e.status = 'RUNNING'
		-- Somebody may have ended or deleted the record by hand.
		UNION SELECT s.last_job_id, s.job_name, NULL FROM prod_analytics.job_state s WHERE s.last_status = 'RUNNING'
			AND NOT EXISTS (SELECT FROM prod_analytics.etl_jobs e WHERE e.job_id = s.last_job_id AND e.status = 'RUNNING')
	), orphan AS MATERIALIZED (
		SELECT e.job_id, e.job_name, e.rows_processed
		FROM running e
		WHERE NOT EXISTS (
			SELECT FROM pg_locks l
			WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
				AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
				AND (l.classid::bigint << 32 | l.objid::bigint) = hashtext('etl_' || e.job_name))
			AND NOT EXISTS (SELECT FROM prod_analytics.worker_processes() w WHERE w.job_id = e.job_id AND w.pid IS NOT NULL)
	)
	SELECT o.job_name FROM orphan o
	WHERE prod_analytics.end_run(o.job_id, 'FAILED', o.rows_processed, '{"error": "server or worker terminated"}') IS NOT NULL
$$;

COMMENT ON FUNCTION fail_orphans() IS
	'internal: mark the runs as failed whose process is gone: those that are running although nobody holds the lock of their job; returns the names of the jobs';

CREATE FUNCTION save_job(job_name text, schedule text, command text, owner text, timeout interval, max_retries integer,
		timezone text, catch_up text, depends_on text[])
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	missing text;
	namesake text;
BEGIN
	SELECT d.name INTO missing FROM unnest(save_job.depends_on) d (name)
	WHERE d.name IS NULL OR NOT EXISTS (SELECT FROM prod_analytics.jobs j WHERE j.job_name = d.name) LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'undefined_object',
			MESSAGE = format('job "%s", which job "%s" is to depend on, does not exist', coalesce(missing, 'NULL'), save_job.job_name),
			HINT = 'Schedule that one first.';
	END IF;
	IF EXISTS (
		WITH RECURSIVE needed (name) AS (
			SELECT unnest(save_job.depends_on)
			UNION SELECT unnest(j.depends_on) FROM needed n JOIN prod_analytics.jobs j ON j.job_name = n.name
		)
		SELECT FROM needed n WHERE n.name = save_job.job_name)
	THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('job "%s" would depend on itself', save_job.job_name),
			HINT = 'Leave it, and the jobs that depend on it, out of depends_on.';
	END IF;
	SELECT j.job_name INTO namesake FROM prod_analytics.jobs j
	WHERE j.job_name <> save_job.job_name AND hashtext('etl_' || j.job_name) = hashtext('etl_' || save_job.job_name)
		AND NOT EXISTS (SELECT FROM prod_analytics.jobs o WHERE o.job_name = save_job.job_name) LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('job "%s" would never run at the same time as job "%s"', save_job.job_name, namesake),
			DETAIL = format('Their names give the same advisory lock, %s, so that each would skip the slots that find the other running.',
				hashtext('etl_' || save_job.job_name)),
			HINT = 'Give it another name.';
	END IF;

	INSERT INTO prod_analytics.jobs AS j (job_name, schedule, command, owner, timeout, max_retries, timezone, catch_up, depends_on)
	VALUES (save_job.job_name, save_job.schedule, save_job.command, save_job.owner, save_job.timeout, save_job.max_retries,
		save_job.timezone, save_job.catch_up, save_job.depends_on)
	ON CONFLICT ON CONSTRAINT jobs_pkey DO UPDATE SET
		schedule = EXCLUDED.schedule, command = EXCLUDED.command, timeout = EXCLUDED.timeout, max_retries = EXCLUDED.max_retries,
		timezone = EXCLUDED.timezone, catch_up = EXCLUDED.catch_up, depends_on = EXCLUDED.depends_on, scheduled_at = EXCLUDED.scheduled_at;
END
$$;

COMMENT ON FUNCTION save_job(text, text, text, text, interval, integer, text, text, text[]) IS
	'internal: what schedule_job() does once it has checked who asks';

-- What users call.

CREATE FUNCTION schedule_job(job_name text, schedule text, command text, timeout interval DEFAULT NULL,
		max_retries integer DEFAULT 0, timezone text DEFAULT 'UTC', catch_up text DEFAULT 'once', depends_on text[] DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_schedule_job'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION schedule_job(text, text, text, interval, integer, text, text, text[]) IS
	'let the worker run a command, as the caller, by a schedule (see next_slot()), or change a job of that name; timeout: cancel a run after it; max_retries: how often a failed run is tried again, after 5 seconds, then twice as long each time, at most 15 minutes; catch_up: whether slots for which no worker was there are made up for by one run (once) or by none (skip); depends_on: jobs that must have succeeded since this one began last; a job of somebody else can be changed by members of its owner, and, but for the command, by analytics_operator; raises 22004 when an argument but timeout and depends_on is NULL, 42601 for a command that does not parse, 22023 for what is no schedule, time zone, job name or number, and for a name that gives the same advisory lock as that of another job, 42704 when depends_on names no job, 42501 for somebody else''s job, 0A000 on PostgreSQL 15 and 16 for a caller who may not log in';

CREATE FUNCTION unschedule_job(job_name text)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_unschedule_job'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION unschedule_job(text) IS
	'forget a job; a run that is going on ends as it would, and its log stays; raises 42704 when there is no such job, 42501 for who is neither a member of its owner nor of analytics_operator, 2BP01 when another job depends on it';

CREATE FUNCTION pause_job(job_name text)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_pause_job'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION pause_job(text) IS
	'let a job begin no more by its schedule until resume_job(); raises 42704 and 42501 like unschedule_job()';

CREATE FUNCTION resume_job(job_name text)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_resume_job'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION resume_job(text) IS
	'let a paused job go on with its next slot; raises 42704 and 42501 like unschedule_job()';

CREATE FUNCTION run_job(job_name text)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_run_job'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION run_job(text) IS
	'run a job now, whether it is due, paused or waits for others, and wait for its end: by the worker, or, where none is running, in this session and without the job''s timeout; returns job_id, status (SUCCESS, FAILED, SKIPPED), rows, duration_seconds and what else the job tells; raises 42704 and 42501 like unschedule_job(), 25001 in a transaction block when the worker is to run it, since it could wait for locks that the block holds, 40P01 when the run waits for this session, as CREATE INDEX CONCURRENTLY does; it goes on all the same';

CREATE FUNCTION cancel_job(job_name text)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_cancel_job'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION cancel_job(text) IS
	'cancel the run of a job that the worker is doing, which ends as FAILED with SQLSTATE 57014; returns whether there was one; raises 42704 and 42501 like unschedule_job()';
