\echo Use "CREATE EXTENSION prod_analytics CASCADE" to load this file. \quit

-- The schema must be ours before anything in it is trusted.

CREATE FUNCTION check_schema()
	RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	owner name;
	intruder text;
	planted text;
BEGIN
	SELECT pg_get_userbyid(n.nspowner) INTO owner
	FROM pg_namespace n
	WHERE n.nspname = 'prod_analytics'
		AND n.nspowner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = CURRENT_USER)
		AND n.nspowner NOT IN (SELECT r.oid FROM pg_roles r WHERE r.rolsuper);
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = format('schema "prod_analytics" belongs to role "%s"', owner),
			DETAIL = 'Its owner could replace objects that the extension trusts.',
			HINT = 'Drop the schema, or look at everything in it and then take it over with ALTER SCHEMA prod_analytics OWNER TO CURRENT_USER.';
	END IF;

	SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END INTO intruder
	FROM pg_namespace n, aclexplode(n.nspacl) a
	WHERE n.nspname = 'prod_analytics'
		AND a.privilege_type = 'CREATE'
		AND a.grantee <> n.nspowner
		AND a.grantee NOT IN (SELECT r.oid FROM pg_roles r WHERE r.rolsuper)
	LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = 'schema "prod_analytics" is open to other roles',
			DETAIL = format('Role "%s" may create objects in it, which the extension would trust.', intruder),
			HINT = 'Revoke CREATE on the schema from every role but its owner, and look at what is in it.';
	END IF;

	-- What was planted before: a function or operator of another role could be called in the place of one
	-- of the server's.  (Tables are looked at by unsafe_to_adopt().)
	SELECT pg_describe_object(o.classid, o.oid, 0) INTO planted
	FROM (
		SELECT 'pg_proc'::regclass::oid AS classid, oid, proowner AS owner, pronamespace AS namespace FROM pg_proc
		UNION ALL SELECT 'pg_operator'::regclass, oid, oprowner, oprnamespace FROM pg_operator
		UNION ALL SELECT 'pg_type'::regclass, oid, typowner, typnamespace FROM pg_type WHERE typrelid = 0 AND typcategory <> 'A'
		UNION ALL SELECT 'pg_collation'::regclass, oid, collowner, collnamespace FROM pg_collation
		UNION ALL SELECT 'pg_opclass'::regclass, oid, opcowner, opcnamespace FROM pg_opclass
		UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgowner, cfgnamespace FROM pg_ts_config
	) o
	JOIN pg_namespace n ON n.oid = o.namespace AND n.nspname = 'prod_analytics'
	WHERE o.owner NOT IN (SELECT r.oid FROM pg_roles r WHERE r.rolsuper OR r.rolname = CURRENT_USER)
	ORDER BY 1 LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = format('%s in schema "prod_analytics" belongs to another role', planted),
			DETAIL = 'It could run as whoever calls create_tables().',
			HINT = 'Drop it, or drop the schema.';
	END IF;
END
$$;

COMMENT ON FUNCTION check_schema() IS
	'internal: raise 42501 unless schema prod_analytics holds no functions, operators or types of other roles, and only its owner, who is the caller or a superuser, can make some';

SELECT prod_analytics.check_schema();

COMMENT ON SCHEMA prod_analytics IS
	'product analytics: events, metrics, and the jobs that keep them';
-- Roles (section 15).  They belong to the whole cluster: one that is there already is fine, and
-- dropping the extension leaves them.  They are made during a restore too, because the dump's
-- GRANTs name them.

CREATE FUNCTION make_roles()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- In a function, because the script itself runs with a search_path on which others may have objects.
DECLARE
	wanted record;
BEGIN
	FOR wanted IN
		SELECT * FROM (VALUES
			('analytics_reader', 'prod_analytics: may read events, users, metrics, the log of runs, and what is made in the schema later'),
			('analytics_loader', 'prod_analytics: may write to the staging tables, and nothing else'),
			('analytics_operator', 'prod_analytics: may run jobs and see everything')
		) AS roles (role_name, description)
		WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role_name)
	LOOP
		EXECUTE format('CREATE ROLE %I NOLOGIN', wanted.role_name);
		EXECUTE format('COMMENT ON ROLE %I IS %L', wanted.role_name, wanted.description);
	END LOOP;
END
$$;

COMMENT ON FUNCTION make_roles() IS
	'internal: make the roles that are missing';

SELECT prod_analytics.make_roles();

CREATE FUNCTION grant_privileges()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- A table's privileges are granted where it is made.  Here are those of the schema and of the
-- functions, which are new after each CREATE EXTENSION.
BEGIN
	GRANT USAGE ON SCHEMA prod_analytics TO analytics_reader, analytics_loader, analytics_operator;

	-- Section 15: what the owner makes in the schema later is readable too.
	ALTER DEFAULT PRIVILEGES IN SCHEMA prod_analytics
		GRANT SELECT ON TABLES TO analytics_reader, analytics_operator;

	GRANT EXECUTE ON ROUTINE
		prod_analytics.backfill_column(regclass, name, text, integer),
		prod_analytics.cancel_job(text),
		prod_analytics.capture_plan(text, boolean),
		prod_analytics.disable_incremental_refresh(regclass),
		prod_analytics.drop_expired_partitions(regclass, timestamptz, boolean),
		prod_analytics.enable_incremental_refresh(regclass, regclass),
		prod_analytics.due_jobs(timestamptz),
		prod_analytics.ensure_partitions(regclass, timestamptz),
		prod_analytics.ensure_partitions_between(regclass, timestamptz, timestamptz),
		prod_analytics.erase_user(bigint),
		prod_analytics.etl_ingest_events(integer),
		prod_analytics.etl_upsert_users(integer),
		prod_analytics.maintain_partitions(regclass),
		prod_analytics.manage_partitions(regclass, name, interval, integer, integer, interval, text, boolean, text),
		prod_analytics.mark_changed(regclass, jsonb),
		prod_analytics.next_slot(text, timestamptz, text),
		prod_analytics.pause_job(text),
		prod_analytics.plan_partitions(regclass, timestamptz),
		prod_analytics.purge_history(),
		prod_analytics.redrive_events(timestamptz, text, boolean),
		prod_analytics.redrive_users(timestamptz, text, boolean),
		prod_analytics.refresh_incremental(regclass),
		prod_analytics.register_event_schema(text, jsonb, text),
		prod_analytics.resume_job(text),
		prod_analytics.run_job(text),
		prod_analytics.run_quality_checks(text),
		prod_analytics.slow_queries(integer),
		prod_analytics.schedule_job(text, text, text, interval, integer, text, text, text[]),
		prod_analytics.unmanage_partitions(regclass),
		prod_analytics.unschedule_job(text),
		prod_analytics.verify_matview(regclass, integer, boolean)
		TO analytics_operator;

	GRANT EXECUTE ON FUNCTION
		prod_analytics.is_valid_event(text, jsonb),
		prod_analytics.is_valid_purchase_event(jsonb),
		prod_analytics.jsonb_matches_schema(jsonb, jsonb),
		prod_analytics.jsonschema_is_valid(jsonb),
		prod_analytics.jsonschema_validation_errors(jsonb, jsonb),
		prod_analytics.validate_event(text, jsonb),
		prod_analytics.validate_purchase_event(jsonb)
		TO analytics_reader, analytics_loader, analytics_operator;

	GRANT EXECUTE ON FUNCTION
		prod_analytics.active_users(date, date, bigint),
		prod_analytics.approx_active_users(date, date, bigint),
		prod_analytics.approx_rolling_users(date, date, bigint),
		prod_analytics.event_schema_report(text, timestamptz, timestamptz),
		prod_analytics.funnel(text[], interval, text, boolean, timestamptz, timestamptz, boolean),
		prod_analytics.org_tree(bigint),
		prod_analytics.retention(date, date, text, bigint, text),
		prod_analytics.search_knowledge_base(text, bigint, integer),
		prod_analytics.users_with_event(text, timestamptz, timestamptz),
		prod_analytics.users_without_event(text, timestamptz, timestamptz),
		prod_analytics.window_funnel(interval, timestamptz, text, text[]),
		prod_analytics.worker_processes()
		TO analytics_reader, analytics_operator;

	-- Those read as whoever calls them, and so do the functions that they are made of.
	GRANT EXECUTE ON FUNCTION
		prod_analytics.check_days(date, date),
		prod_analytics.check_retention(text, text),
		prod_analytics.day_counts(varbit),
		prod_analytics.day_set(integer, integer),
		prod_analytics.day_set_spread(varbit, integer),
		prod_analytics.funnel_of_user(text[], interval, text, boolean, timestamptz, timestamptz, boolean, timestamptz, text),
		prod_analytics.hll_schema(),
		prod_analytics.org_tree_paths(bigint),
		prod_analytics.period_number(date, date, text),
		prod_analytics.utc_midnight(date)
		TO analytics_reader, analytics_operator;

	-- A procedure that commits cannot act as its owner; its steps can.
	GRANT EXECUTE ON FUNCTION
		prod_analytics.analyze_partitions(regclass),
		prod_analytics.backfill_begin(regclass, name, text, integer),
		prod_analytics.backfill_add(jsonb, jsonb),
		prod_analytics.backfill_count(jsonb, jsonb, bigint, bigint),
		prod_analytics.backfill_describe(jsonb, jsonb),
		prod_analytics.backfill_done(jsonb),
		prod_analytics.backfill_failure(jsonb, jsonb, jsonb),
		prod_analytics.backfill_key(jsonb),
		prod_analytics.backfill_leaf(regclass, oid),
		prod_analytics.backfill_must_wait(text),
		prod_analytics.backfill_next(regclass, name, integer, jsonb),
		prod_analytics.backfill_pause(boolean),
		prod_analytics.backfill_progress(regclass, name, bigint, bigint),
		prod_analytics.backfill_range(regclass, oid, name, text[], text[], integer),
		prod_analytics.backfill_resume(text, bigint, jsonb),
		prod_analytics.backfill_rows(regclass, oid, name, text, tid[]),
		prod_analytics.check_next_partition(regclass),
		prod_analytics.count_step(jsonb, jsonb),
		prod_analytics.drop_next_partition(regclass, timestamptz),
		prod_analytics.job_begin(text),
		prod_analytics.job_finish(bigint, text, bigint, jsonb),
		prod_analytics.job_note(bigint, bigint, jsonb),
		prod_analytics.maintain_table(regclass, timestamptz, text),
		prod_analytics.make_next_partition(regclass, timestamptz),
		prod_analytics.managed_tables(regclass),
		prod_analytics.partition_warnings(regclass, timestamptz),
		prod_analytics.purge_runs(bigint),
		prod_analytics.run_status(jsonb)
		TO analytics_operator;
END
$$;

COMMENT ON FUNCTION grant_privileges() IS
	'internal: give the roles analytics_reader, analytics_loader and analytics_operator their privileges on the schema and its functions (section 15)';
CREATE FUNCTION follow_renames()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'pa_follow_renames'
	LANGUAGE C VOLATILE;

COMMENT ON FUNCTION follow_renames() IS
	'internal: give entries of our registries the new name of a table, schema or column that was renamed';

CREATE FUNCTION follow_drops()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'pa_follow_drops'
	LANGUAGE C VOLATILE;

COMMENT ON FUNCTION follow_drops() IS
	'internal: remove entries of our registries whose table was dropped';
-- Tables, views and their default rows: ordinary objects that create_tables() makes at run time,
-- not members of the extension.  So pg_dump keeps what users add to them, and DROP EXTENSION
-- leaves the data alone.
--
-- The definitions use no function of the extension, or DROP EXTENSION CASCADE would take the
-- tables along.

CREATE FUNCTION create_tables()
	RETURNS integer
	AS 'MODULE_PATHNAME', 'pa_create_tables'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION create_tables() IS
	'make the tables, views and default rows that are missing, and bring those of an older version up to date; returns how many tables and views were made; raises 42501 when the schema or a table is not safe to adopt and 42P07 when a table has other columns than expected';

CREATE FUNCTION is_missing(relation_name text)
	RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE
	AS $$
	SELECT pg_catalog.to_regclass(pg_catalog.format('%I.%I', pg_catalog.current_schema(), is_missing.relation_name)) IS NULL
$$;

COMMENT ON FUNCTION is_missing(text) IS
	'internal: whether the first schema of the search_path lacks a relation';

CREATE FUNCTION make_job_progress()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
BEGIN
	CREATE OR REPLACE VIEW job_progress AS
		SELECT p.pid,
			CASE
				WHEN p.relid = to_regclass('prod_analytics.staging_events') THEN 'ingest_events'
				WHEN p.relid = to_regclass('prod_analytics.staging_users') THEN 'upsert_users'
				WHEN c.relkind = 'm' THEN format('refresh_matviews %I.%I', n.nspname, c.relname)
				ELSE format('backfill_column %I.%I.%I', n.nspname, c.relname, a.attname)
			END AS job_name,
			p.param3 AS rows_done, p.param10 AS rows_expected
		FROM pg_stat_get_progress_info('COPY') p (pid, datid, relid, param1, param2, param3, param4, param5,
			param6, param7, param8, param9, param10, param11)
		JOIN pg_class c ON c.oid = p.relid
		JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.param9
		WHERE p.param11 = 1 AND p.datid = (SELECT oid FROM pg_database WHERE datname = current_database());
END
$$;

COMMENT ON FUNCTION make_job_progress() IS
	'internal: make, or make anew, the view job_progress';

CREATE FUNCTION make_tables()
	RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
-- Makes what the first schema of the search_path lacks: prod_analytics, or, to learn what is
-- expected of tables that exist, an empty schema.  Indexes, grants and rows come with their table
-- and are not restored one by one: who dropped an index had a reason.  The REVOKEs are of what
-- ALTER DEFAULT PRIVILEGES gives analytics_reader when a table is made again.
DECLARE
	citext_type text;
	trgm_ops text;
	made integer := 0;
BEGIN
	SELECT format('%I.citext', n.nspname) INTO STRICT citext_type
	FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'citext';
	SELECT format('%I.gin_trgm_ops', n.nspname) INTO STRICT trgm_ops
	FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_trgm';

	IF prod_analytics.is_missing('schema_version') THEN
		CREATE TABLE schema_version (
			version integer NOT NULL,
			migrated_at timestamptz NOT NULL DEFAULT now()
		);
		COMMENT ON TABLE schema_version IS
			'one row: the version of the tables, which create_tables() brings up to date';
		REVOKE ALL ON schema_version FROM analytics_reader;
		GRANT SELECT ON schema_version TO analytics_operator;
		made := made + 1;
	END IF;

	-- Section 1.

	IF prod_analytics.is_missing('organizations') THEN
		CREATE TABLE organizations (
			org_id bigserial PRIMARY KEY,
			org_name text NOT NULL,
			industry text,
			created_at timestamptz DEFAULT now(),
			metadata jsonb DEFAULT '{}'
		);
		COMMENT ON TABLE organizations IS
			'organizations that users belong to (section 1)';
		COMMENT ON COLUMN organizations.metadata IS
			'lineage: where the record comes from';
		GRANT SELECT ON organizations TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('users') THEN
		EXECUTE format($ddl$
			CREATE TABLE users (
				user_id bigserial PRIMARY KEY,
				org_id bigint NOT NULL REFERENCES organizations (org_id) ON DELETE CASCADE,
				email %s NOT NULL UNIQUE,
				username text,
				signup_ts timestamptz DEFAULT now(),
				attrs jsonb DEFAULT '{}',
				email_domain text GENERATED ALWAYS AS (split_part(email::text, '@', 2)) STORED,
				is_active boolean DEFAULT true,
				last_login timestamptz,
				created_at timestamptz DEFAULT now()
			)$ddl$, citext_type);
		COMMENT ON TABLE users IS
			'users; their events refer to them (section 1)';
		COMMENT ON COLUMN users.email_domain IS
			'the part of email after the @, for segmentation';
		CREATE INDEX idx_users_org_created ON users (org_id, created_at DESC);
		COMMENT ON INDEX idx_users_org_created IS
			'the newest users of an organization (section 1)';
		CREATE INDEX idx_users_active_recent ON users (last_login) WHERE is_active = true;
		COMMENT ON INDEX idx_users_active_recent IS
			'active users by last login (section 12)';
		CREATE INDEX idx_users_username_lower ON users (lower(username));
		COMMENT ON INDEX idx_users_username_lower IS
			'look-up of a username in any case (section 12)';
		GRANT SELECT ON users TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	-- Section 2.  A generated column cannot be a partition key, so event_time is; the CHECK on
	-- event_date that each partition gets lets a constant event_date prune all the same.

	IF prod_analytics.is_missing('events') THEN
		CREATE TABLE events (
			event_id bigserial NOT NULL,
			user_id bigint REFERENCES users (user_id),
			org_id bigint,
			event_type text NOT NULL,
			event_props jsonb,
			event_time timestamptz NOT NULL DEFAULT now(),
			received_at timestamptz DEFAULT now(),
			event_date date GENERATED ALWAYS AS ((event_time AT TIME ZONE 'UTC')::date) STORED,
			device_type text,
			PRIMARY KEY (event_id, event_time)
		) PARTITION BY RANGE (event_time);
		COMMENT ON TABLE events IS
			'events, append-only, partitioned by event_time; ensure_partitions() makes the partitions (section 2)';
		COMMENT ON COLUMN events.user_id IS
			'who did it; NULL is an anonymous event';
		COMMENT ON COLUMN events.event_date IS
			'the day of event_time in UTC';
		COMMENT ON COLUMN events.device_type IS
			'the "device" of event_props (section 16)';
		CREATE INDEX idx_events_user_event_time ON events (user_id, event_time DESC);
		COMMENT ON INDEX idx_events_user_event_time IS
			'a user''s latest events (section 2)';
		CREATE INDEX idx_events_org_time ON events (org_id, event_time DESC);
		COMMENT ON INDEX idx_events_org_time IS
			'an organization''s latest events (section 2)';
		CREATE INDEX brin_events_event_date ON events USING brin (event_date);
		COMMENT ON INDEX brin_events_event_date IS
			'scans of many days, at next to no cost (section 2)';
		CREATE INDEX idx_events_props_gin ON events USING gin (event_props jsonb_path_ops);
		COMMENT ON INDEX idx_events_props_gin IS
			'containment in event_props (section 12)';
		GRANT SELECT ON events TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	-- Section 3.

	IF prod_analytics.is_missing('knowledge_base') THEN
		CREATE TABLE knowledge_base (
			kb_id bigserial PRIMARY KEY,
			org_id bigint REFERENCES organizations (org_id),
			title text NOT NULL,
			content text NOT NULL,
			created_at timestamptz DEFAULT now(),
			updated_at timestamptz DEFAULT now(),
			search_vector tsvector GENERATED ALWAYS AS (
				setweight(to_tsvector('english', coalesce(title, '')), 'A') ||
				setweight(to_tsvector('english', coalesce(content, '')), 'B')
			) STORED
		);
		COMMENT ON TABLE knowledge_base IS
			'articles and support logs, searchable (section 3)';
		COMMENT ON COLUMN knowledge_base.search_vector IS
			'title (weight A) and content (weight B), in English';
		CREATE INDEX idx_kb_search_vector ON knowledge_base USING gin (search_vector);
		COMMENT ON INDEX idx_kb_search_vector IS
			'full-text search (section 3)';
		EXECUTE format('CREATE INDEX idx_kb_title_trgm ON knowledge_base USING gin (title %s)', trgm_ops);
		COMMENT ON INDEX idx_kb_title_trgm IS
			'titles that resemble a text (section 12)';
		GRANT SELECT ON knowledge_base TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	-- Section 4.

	IF prod_analytics.is_missing('staging_users') THEN
		EXECUTE format($ddl$
			CREATE TABLE staging_users (
				src_id text PRIMARY KEY,
				email %s,
				username text,
				org_src text,
				payload jsonb,
				ingested_at timestamptz DEFAULT now()
			)$ddl$, citext_type);
		COMMENT ON TABLE staging_users IS
			'users as a source delivers them, to be merged into users (section 4)';
		COMMENT ON COLUMN staging_users.org_src IS
			'the name of the user''s organization';
		REVOKE ALL ON staging_users FROM analytics_reader;
		GRANT SELECT ON staging_users TO analytics_operator;
		GRANT SELECT, INSERT, UPDATE ON staging_users TO analytics_loader;
		made := made + 1;
	END IF;

	-- Section 5.

	IF prod_analytics.is_missing('org_hierarchy') THEN
		CREATE TABLE org_hierarchy (
			node_id bigserial PRIMARY KEY,
			org_id bigint REFERENCES organizations (org_id),
			parent_id bigint REFERENCES org_hierarchy (node_id),
			role text,
			metadata jsonb
		);
		COMMENT ON TABLE org_hierarchy IS
			'the reporting chain of organizations (section 5)';
		COMMENT ON COLUMN org_hierarchy.parent_id IS
			'the node above; NULL at a root';
		GRANT SELECT ON org_hierarchy TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	-- Section 9, and what it takes for granted.

	IF prod_analytics.is_missing('etl_jobs') THEN
		CREATE TABLE etl_jobs (
			job_id bigserial PRIMARY KEY,
			job_name text NOT NULL,
			started_at timestamptz,
			finished_at timestamptz,
			status text CHECK (status IN ('RUNNING', 'SUCCESS', 'FAILED', 'SKIPPED')),
			rows_processed bigint,
			details jsonb
		);
		COMMENT ON TABLE etl_jobs IS
			'the log of job runs (section 9)';
		COMMENT ON COLUMN etl_jobs.rows_processed IS
			'rows taken from the source, whatever became of them';
		COMMENT ON COLUMN etl_jobs.details IS
			'counts by outcome; after a failure sqlstate, error, detail, hint and context';
		CREATE INDEX idx_etl_jobs_running ON etl_jobs (job_name) WHERE status = 'RUNNING';
		COMMENT ON INDEX idx_etl_jobs_running IS
			'runs that are going on, or whose process has died';
		CREATE INDEX idx_etl_jobs_name_started ON etl_jobs (job_name, started_at DESC);
		COMMENT ON INDEX idx_etl_jobs_name_started IS
			'the latest runs of a job';
		GRANT SELECT ON etl_jobs TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('job_progress') THEN
		PERFORM prod_analytics.make_job_progress();
		COMMENT ON VIEW job_progress IS
			'runs that are going on: how many rows they have dealt with, of about how many; shown to those who may see the session''s activity';
		GRANT SELECT ON job_progress TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('staging_events') THEN
		CREATE TABLE staging_events (
			event_id bigint,
			user_id bigint,
			org_id bigint,
			event_type text,
			payload jsonb,
			event_time timestamptz,
			received_at timestamptz DEFAULT now(),
			attempts integer DEFAULT 0
		);
		COMMENT ON TABLE staging_events IS
			'events on their way in; without any constraint, so that a bad one gets in too and can be quarantined (section 9)';
		COMMENT ON COLUMN staging_events.event_id IS
			'what makes a repetition recognizable, together with event_time; NULL: give it a number';
		COMMENT ON COLUMN staging_events.payload IS
			'becomes event_props';
		COMMENT ON COLUMN staging_events.attempts IS
			'how often the event came back from quarantine';
		REVOKE ALL ON staging_events FROM analytics_reader;
		GRANT SELECT ON staging_events TO analytics_operator;
		GRANT INSERT ON staging_events TO analytics_loader;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('quarantined_events') THEN
		CREATE TABLE quarantined_events (
			quarantine_id bigserial PRIMARY KEY,
			event_id bigint,
			user_id bigint,
			org_id bigint,
			event_type text,
			payload jsonb,
			event_time timestamptz,
			received_at timestamptz,
			attempts integer,
			reasons jsonb NOT NULL,
			quarantined_at timestamptz NOT NULL DEFAULT now(),
			job_id bigint
		);
		COMMENT ON TABLE quarantined_events IS
			'staged events that could not go in, and why';
		COMMENT ON COLUMN quarantined_events.reasons IS
			'array of {"code", "path", "message"}; path is a JSON Pointer into the staged row';
		COMMENT ON COLUMN quarantined_events.job_id IS
			'the run in etl_jobs that set it aside';
		CREATE INDEX idx_quarantined_events_time ON quarantined_events (quarantined_at);
		COMMENT ON INDEX idx_quarantined_events_time IS
			'what was set aside lately';
		REVOKE ALL ON quarantined_events FROM analytics_reader;
		GRANT SELECT ON quarantined_events TO analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('quarantined_users') THEN
		EXECUTE format($ddl$
			CREATE TABLE quarantined_users (
				quarantine_id bigserial PRIMARY KEY,
				src_id text,
				email %s,
				username text,
				org_src text,
				payload jsonb,
				ingested_at timestamptz,
				reasons jsonb NOT NULL,
				quarantined_at timestamptz NOT NULL DEFAULT now(),
				job_id bigint
			)$ddl$, citext_type);
		COMMENT ON TABLE quarantined_users IS
			'staged users that could not be merged, and why';
		COMMENT ON COLUMN quarantined_users.reasons IS
			'array of {"code", "path", "message"}; path is a JSON Pointer into the staged row';
		CREATE INDEX idx_quarantined_users_time ON quarantined_users (quarantined_at);
		COMMENT ON INDEX idx_quarantined_users_time IS
			'what was set aside lately';
		REVOKE ALL ON quarantined_users FROM analytics_reader;
		GRANT SELECT ON quarantined_users TO analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('event_schemas') THEN
		CREATE TABLE event_schemas (
			event_type text NOT NULL,
			version integer NOT NULL,
			schema jsonb NOT NULL,
			mode text NOT NULL DEFAULT 'enforce' CHECK (mode IN ('enforce', 'warn', 'off')),
			registered_at timestamptz NOT NULL DEFAULT now(),
			registered_by text NOT NULL DEFAULT session_user,
			PRIMARY KEY (event_type, version)
		);
		COMMENT ON TABLE event_schemas IS
			'JSON Schemas that events are to satisfy, all versions; the newest of each type counts; written by register_event_schema()';
		COMMENT ON COLUMN event_schemas.mode IS
			'what is done about an event that does not satisfy it: enforce (refuse it), warn, off';
		-- Section 13.  A price is what counts as revenue in mv_org_daily_metrics.
		INSERT INTO event_schemas (event_type, version, schema) VALUES ('purchase', 1, $json${
			"$schema": "https://json-schema.org/draft/2020-12/schema",
			"type": "object",
			"required": ["order_id", "price"],
			"properties": {
				"order_id": {"type": ["string", "integer"]},
				"price": {"type": ["number", "string"], "minimum": 0, "pattern": "^[0-9]{1,100}([.][0-9]{1,100})?$"}
			}
		}$json$);
		GRANT SELECT ON event_schemas TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	-- Tables are named by text that is resolved at run time: a regclass column would break the
	-- restore of the whole table when one of them is missing.

	IF prod_analytics.is_missing('partition_policies') THEN
		CREATE TABLE partition_policies (
			parent text PRIMARY KEY,
			control text NOT NULL,
			width interval NOT NULL DEFAULT '1 month',
			ahead integer NOT NULL DEFAULT 12 CHECK (ahead >= 0),
			behind integer NOT NULL DEFAULT 3 CHECK (behind >= 0),
			timezone text NOT NULL DEFAULT 'UTC',
			default_partition boolean NOT NULL DEFAULT true,
			retention interval,
			epoch_unit text
		);
		COMMENT ON TABLE partition_policies IS
			'which tables are kept in partitions, and how; written by manage_partitions()';
		COMMENT ON COLUMN partition_policies.parent IS
			'the partitioned table: schema.table, quoted where SQL needs it';
		COMMENT ON COLUMN partition_policies.control IS
			'the column that the table is partitioned by';
		COMMENT ON COLUMN partition_policies.width IS
			'how long a partition is: a whole number of hours, days or months';
		COMMENT ON COLUMN partition_policies.ahead IS
			'how many partitions are kept ready after the current one';
		COMMENT ON COLUMN partition_policies.behind IS
			'how many partitions are kept ready before the current one';
		COMMENT ON COLUMN partition_policies.timezone IS
			'where the bounds are midnight';
		COMMENT ON COLUMN partition_policies.default_partition IS
			'whether a default partition takes what no other does';
		COMMENT ON COLUMN partition_policies.retention IS
			'how long a partition is kept after its end; NULL: for ever';
		COMMENT ON COLUMN partition_policies.epoch_unit IS
			'what a control column of type bigint counts since 1970; NULL for other types';
		INSERT INTO partition_policies (parent, control) VALUES ('prod_analytics.events', 'event_time');
		REVOKE ALL ON partition_policies FROM analytics_reader;
		GRANT SELECT ON partition_policies TO analytics_operator;
		made := made + 1;
	END IF;

	IF prod_analytics.is_missing('partition_status') THEN
		CREATE VIEW partition_status AS
			WITH managed AS (
				SELECT p.timezone, t.partrelid, t.partdefid, coalesce(nullif(y.typbasetype, 0), y.oid) AS key_type,
					CASE p.epoch_unit WHEN 'milliseconds' THEN 1e3 WHEN 'microseconds' THEN 1e6 ELSE 1 END AS units
				FROM partition_policies p
				JOIN pg_class c ON c.relkind = 'p'
				JOIN pg_namespace n ON n.oid = c.relnamespace AND format('%I.%I', n.nspname, c.relname) = p.parent
				JOIN pg_partitioned_table t ON t.partrelid = c.oid
				JOIN pg_attribute a ON a.attrelid = t.partrelid AND a.attnum = t.partattrs[0]
				JOIN pg_type y ON y.oid = a.atttypid
			),
			parts AS (
				SELECT m.*, c.oid, c.oid = m.partdefid AS is_default, pg_get_expr(c.relpartbound, c.oid) AS bounds,
					nullif(c.reltuples, -1)::bigint AS rows,
					(SELECT sum(pg_total_relation_size(tree.relid)) FROM pg_partition_tree(c.oid) tree)::bigint AS bytes
				FROM managed m JOIN pg_inherits i ON i.inhparent = m.partrelid JOIN pg_class c ON c.oid = i.inhrelid
			),
			uppers AS (
				SELECT p.*, substring(p.bounds FROM 'TO \(''(.*)''\)$') AS upper FROM parts p
			),
			ends AS (
				SELECT u.*, CASE
					WHEN u.is_default THEN NULL
					WHEN u.upper IS NULL THEN 'infinity'
					WHEN u.key_type = 'bigint'::regtype AND u.upper::numeric / u.units > 9e12 THEN 'infinity'
					WHEN u.key_type = 'bigint'::regtype THEN to_timestamp((u.upper::numeric / u.units)::double precision)
					WHEN u.key_type = 'timestamptz'::regtype THEN u.upper::timestamptz
					ELSE u.upper::timestamp AT TIME ZONE u.timezone
				END AS ends_at
				FROM uppers u
			),
			runways AS (
				SELECT e.*, max(ends_at) OVER (PARTITION BY partrelid) AS last_ends_at FROM ends e
			)
			SELECT partrelid::regclass AS table_name, oid::regclass AS partition_name, bounds, rows, bytes, is_default,
				CASE WHEN isfinite(last_ends_at) THEN last_ends_at - now() END AS runway
			FROM runways;
		COMMENT ON VIEW partition_status IS
			'the partitions of managed tables: bounds, estimated rows, bytes with indexes, and the table''s runway, the time until its last partition ends (NULL: never, or there is none)';
		GRANT SELECT ON partition_status TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	-- Section 8.  A price counts when it is a JSON number, or a string that holds one, of at most
	-- 100 digits on either side of the point: nothing that clients send can then make the sum fail.
	-- ([0-9] rather than \d, which under ICU matches digits that numeric does not read.)

	IF prod_analytics.is_missing('mv_org_daily_metrics') THEN
		CREATE MATERIALIZED VIEW mv_org_daily_metrics AS
			SELECT
				org_id,
				event_date,
				count(DISTINCT user_id) AS dau,
				count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
				sum(CASE
					WHEN event_props->>'price' ~ '^-?[0-9]{1,100}([.][0-9]{1,100})?$'
					THEN (event_props->>'price')::numeric
				END) AS revenue,
				now() AS computed_at
			FROM events
			GROUP BY org_id, event_date;
		COMMENT ON MATERIALIZED VIEW mv_org_daily_metrics IS
			'per organization (NULL: none) and UTC day: distinct users, purchases, and revenue, the sum of the prices that are numbers (section 8)';
		CREATE UNIQUE INDEX mv_org_daily_metrics_idx
			ON mv_org_daily_metrics (org_id, event_date) NULLS NOT DISTINCT;
		COMMENT ON INDEX mv_org_daily_metrics_idx IS
			'what REFRESH MATERIALIZED VIEW CONCURRENTLY needs (section 8)';
		GRANT SELECT ON mv_org_daily_metrics TO analytics_reader, analytics_operator;
		made := made + 1;
	END IF;

	made := made + prod_analytics.make_product_attributes();
	made := made + prod_analytics.make_refresh_tables();
	made := made + prod_analytics.make_plan_tables();
	made := made + prod_analytics.make_quality_tables();
	made := made + prod_analytics.make_worker_tables();

	RETURN made;
END
$$;

COMMENT ON FUNCTION make_tables() IS
	'internal: make the tables and views that the first schema of the search_path lacks; returns how many were made';

CREATE FUNCTION unsafe_to_adopt()
	RETURNS TABLE (relation text, problem text)
	LANGUAGE sql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	-- A relation in our schema is unsafe when another role owns it, or owns a function, operator,
	-- type or table that a trigger, default, constraint, policy, rule or index of it uses: that
	-- role's code would run as whoever uses the relation.  Superusers are trusted; the bootstrap
	-- superuser is not even recorded as an owner.
	WITH trusted AS (
		SELECT oid FROM pg_roles WHERE rolname = CURRENT_USER OR rolsuper
	),
	ours AS (
		SELECT c.oid, c.relowner FROM pg_class c
		WHERE c.relnamespace = 'prod_analytics'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'v', 'f', 'S')
		UNION
		SELECT c.oid, c.relowner FROM pg_inherits i
		JOIN pg_class p ON p.oid = i.inhparent AND p.relnamespace = 'prod_analytics'::regnamespace
		JOIN pg_class c ON c.oid = i.inhrelid
	),
	attached (relation, classid, objid) AS (
		SELECT oid, 'pg_class'::regclass::oid, oid FROM ours
		UNION ALL SELECT tgrelid, 'pg_trigger'::regclass, oid FROM pg_trigger
		UNION ALL SELECT adrelid, 'pg_attrdef'::regclass, oid FROM pg_attrdef
		UNION ALL SELECT conrelid, 'pg_constraint'::regclass, oid FROM pg_constraint
		UNION ALL SELECT polrelid, 'pg_policy'::regclass, oid FROM pg_policy
		UNION ALL SELECT ev_class, 'pg_rewrite'::regclass, oid FROM pg_rewrite
		UNION ALL SELECT indrelid, 'pg_class'::regclass, indexrelid FROM pg_index
	)
	SELECT o.oid::regclass::text, format('it belongs to role "%s"', pg_get_userbyid(o.relowner))
	FROM ours o
	WHERE o.relowner <> (SELECT oid FROM pg_roles WHERE rolname = CURRENT_USER)
	UNION ALL
	SELECT o.oid::regclass::text,
		format('%s uses %s, which belongs to role "%s"',
			pg_describe_object(a.classid, a.objid, 0),
			pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid),
			pg_get_userbyid(s.refobjid))
	FROM ours o
	JOIN attached a ON a.relation = o.oid
	JOIN pg_depend d ON d.classid = a.classid AND d.objid = a.objid
	JOIN pg_shdepend s ON s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND s.classid = d.refclassid AND s.objid = d.refobjid AND s.deptype = 'o'
	WHERE o.relowner IN (SELECT oid FROM trusted) AND s.refobjid NOT IN (SELECT oid FROM trusted)
$$;

COMMENT ON FUNCTION unsafe_to_adopt() IS
	'internal: relations in schema prod_analytics through which another role''s code could run, and how';

CREATE FUNCTION relation_columns(schema_name text)
	RETURNS TABLE (relation name, name text, definition text)
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT c.relname, 'column ' || quote_ident(a.attname),
		concat_ws(' ', format_type(a.atttypid, a.atttypmod),
			CASE WHEN a.attgenerated <> '' THEN 'generated as ' || pg_get_expr(d.adbin, d.adrelid) END)
	FROM pg_class c
	JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
	WHERE c.relnamespace = relation_columns.schema_name::regnamespace
		AND c.relkind IN ('r', 'p', 'm', 'v') AND NOT c.relispartition
	UNION ALL
	SELECT c.relname, 'kind',
		concat_ws(' ', CASE c.relkind
			WHEN 'r' THEN 'table'
			WHEN 'p' THEN 'table partitioned by ' || pg_get_partkeydef(c.oid)
			WHEN 'm' THEN 'materialized view'
			WHEN 'v' THEN 'view'
			ELSE 'other' END)
	FROM pg_class c
	WHERE c.relnamespace = relation_columns.schema_name::regnamespace
		AND c.relkind IN ('r', 'p', 'm', 'v', 'f') AND NOT c.relispartition
	UNION ALL
	SELECT c.relname, 'primary key', pg_get_constraintdef(k.oid)
	FROM pg_class c JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
	WHERE c.relnamespace = relation_columns.schema_name::regnamespace AND NOT c.relispartition
$$;

COMMENT ON FUNCTION relation_columns(text) IS
	'internal: kind, columns and primary keys of the tables and views in a schema';

CREATE FUNCTION unexpected_columns()
	RETURNS text
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
-- What is expected is what make_tables() makes in an empty schema, which is rolled back again: so
-- the definitions stand in one place.
DECLARE
	problem text;
BEGIN
	BEGIN
		CREATE SCHEMA prod_analytics_expected;
		PERFORM set_config('search_path', 'prod_analytics_expected, pg_temp', true);
		PERFORM prod_analytics.make_tables();

		SELECT format('In "%s", %s is %s; expected is %s',
				e.relation, e.name, coalesce(a.definition, 'missing'), e.definition)
		INTO problem
		FROM prod_analytics.relation_columns('prod_analytics_expected') e
		LEFT JOIN prod_analytics.relation_columns('prod_analytics') a USING (relation, name)
		WHERE e.relation IN (SELECT r.relation FROM prod_analytics.relation_columns('prod_analytics') r)
			AND a.definition IS DISTINCT FROM e.definition
		ORDER BY e.relation, e.name
		LIMIT 1;

		RAISE EXCEPTION USING ERRCODE = 'PA001', MESSAGE = 'roll back';
	EXCEPTION WHEN SQLSTATE 'PA001' THEN
		NULL;
	END;

	RETURN problem;
END
$$;

COMMENT ON FUNCTION unexpected_columns() IS
	'internal: the first difference between the tables that exist and those that make_tables() would make; NULL when there is none (further columns are no difference)';

CREATE FUNCTION make_event_triggers()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
-- An ordinary object too: a member could not be restored by pg_dump.  Only superusers can make one;
-- who calls create_tables() and is none goes without.  One of an older version waits for fewer commands.
DECLARE
	wanted record;
	existing pg_event_trigger;
BEGIN
	IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = CURRENT_USER) THEN
		RETURN;
	END IF;

	FOR wanted IN
		SELECT * FROM (VALUES
			('prod_analytics_follow_renames', 'ddl_command_end', 'prod_analytics.follow_renames()',
				'{ALTER TABLE,ALTER SCHEMA,ALTER MATERIALIZED VIEW}'::text[],
				'keeps the names in the registries of prod_analytics in step with the tables and materialized views'),
			('prod_analytics_follow_drops', 'sql_drop', 'prod_analytics.follow_drops()',
				'{DROP TABLE,DROP SCHEMA,DROP OWNED,DROP MATERIALIZED VIEW,DROP VIEW,DROP FUNCTION,DROP TYPE,DROP EXTENSION,ALTER TABLE}',
				'removes the entries of dropped tables and materialized views from the registries of prod_analytics')
		) AS triggers (name, event, function, tags, description)
	LOOP
		SELECT * INTO existing FROM pg_event_trigger t WHERE t.evtname = wanted.name;
		IF FOUND THEN
			CONTINUE WHEN existing.evttags IS NOT DISTINCT FROM wanted.tags;
			EXECUTE format('DROP EVENT TRIGGER %I', wanted.name);
		END IF;
		EXECUTE format('CREATE EVENT TRIGGER %I ON %s WHEN TAG IN (%s) EXECUTE FUNCTION %s', wanted.name, wanted.event,
			(SELECT string_agg(quote_literal(tag), ', ' ORDER BY place) FROM unnest(wanted.tags) WITH ORDINALITY t (tag, place)),
			wanted.function);
		EXECUTE format('COMMENT ON EVENT TRIGGER %I IS %L', wanted.name, wanted.description);
		IF existing.evtenabled <> 'O' THEN
			EXECUTE format('ALTER EVENT TRIGGER %I %s', wanted.name,
				CASE existing.evtenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END);
		END IF;
	END LOOP;
END
$$;

COMMENT ON FUNCTION make_event_triggers() IS
	'internal: make the event triggers that call follow_renames() and follow_drops(), where they are missing or of an older version and the caller may';

CREATE FUNCTION make_table_triggers()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
-- They use functions of ours, so DROP EXTENSION CASCADE takes them along, and not the tables.
BEGIN
	IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'event_schemas'::regclass AND tgname = 'event_schemas_changed') THEN
		CREATE TRIGGER event_schemas_changed AFTER INSERT OR UPDATE OR DELETE ON event_schemas
			FOR EACH ROW EXECUTE FUNCTION prod_analytics.event_schemas_changed();
		ALTER TABLE event_schemas ENABLE ALWAYS TRIGGER event_schemas_changed;
		COMMENT ON TRIGGER event_schemas_changed ON event_schemas IS
			'checks schemas and lets all sessions know of them, replicated ones too';
	END IF;
	IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'event_schemas'::regclass AND tgname = 'event_schemas_truncated') THEN
		CREATE TRIGGER event_schemas_truncated AFTER TRUNCATE ON event_schemas
			FOR EACH STATEMENT EXECUTE FUNCTION prod_analytics.event_schemas_changed();
		ALTER TABLE event_schemas ENABLE ALWAYS TRIGGER event_schemas_truncated;
		COMMENT ON TRIGGER event_schemas_truncated ON event_schemas IS
			'lets all sessions know that no schema is registered any more';
	END IF;
	PERFORM prod_analytics.make_refresh_triggers();
	PERFORM prod_analytics.make_worker_triggers();
END
$$;

COMMENT ON FUNCTION make_table_triggers() IS
	'internal: make the triggers of our tables that are missing';

CREATE FUNCTION migrate_step(to_version integer)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
-- Each step brings the tables of the version before it to its own.
BEGIN
	CASE to_version
		WHEN 2 THEN
			-- Section 16.  Without a default the column costs no rewrite; backfilling it is the
			-- user's decision.
			ALTER TABLE events ADD COLUMN device_type text;
			COMMENT ON COLUMN events.device_type IS
				'the "device" of event_props (section 16)';
		WHEN 3 THEN
			ALTER TABLE partition_policies ADD COLUMN retention interval, ADD COLUMN epoch_unit text;
			COMMENT ON COLUMN partition_policies.retention IS
				'how long a partition is kept after its end; NULL: for ever';
			COMMENT ON COLUMN partition_policies.epoch_unit IS
				'what a control column of type bigint counts since 1970; NULL for other types';
		WHEN 4 THEN
			PERFORM prod_analytics.make_job_progress();
		WHEN 5 THEN
			CREATE INDEX idx_etl_jobs_running ON etl_jobs (job_name) WHERE status = 'RUNNING';
			COMMENT ON INDEX idx_etl_jobs_running IS
				'runs that are going on, or whose process has died';
	END CASE;
END
$$;

COMMENT ON FUNCTION migrate_step(integer) IS
	'internal: bring tables of version to_version - 1 to version to_version';

CREATE FUNCTION migrate_tables()
	RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
DECLARE
	newest CONSTANT integer := 5;
	found_version integer;
	problem record;
	difference text;
	is_first boolean;
	has_no_jobs boolean;
	made integer;
BEGIN
	PERFORM prod_analytics.check_schema();
	PERFORM pg_advisory_xact_lock(hashtext('prod_analytics.create_tables'));

	SELECT * INTO problem FROM prod_analytics.unsafe_to_adopt() u ORDER BY u.relation, u.problem LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = format('"%s" is not safe to adopt: %s', problem.relation, problem.problem),
			HINT = 'Drop it, or make all of it belong to the role that calls create_tables().';
	END IF;

	IF NOT prod_analytics.is_missing('schema_version') THEN
		SELECT v.version INTO found_version FROM prod_analytics.schema_version v;
	END IF;
	IF found_version > newest THEN
		RAISE EXCEPTION USING
			ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = format('the tables are of version %s, this extension knows versions up to %s', found_version, newest),
			HINT = 'Install the newer version of prod_analytics that made them.';
	END IF;
	FOR step IN coalesce(found_version, newest) + 1 .. newest LOOP
		PERFORM prod_analytics.migrate_step(step);
	END LOOP;

	IF EXISTS (SELECT FROM prod_analytics.relation_columns('prod_analytics')) THEN
		difference := prod_analytics.unexpected_columns();
		IF difference IS NOT NULL THEN
			RAISE EXCEPTION USING
				ERRCODE = 'duplicate_table',
				MESSAGE = 'tables in schema "prod_analytics" are not as expected',
				DETAIL = difference || '.',
				HINT = 'Rename the table, or move it to another schema, and try again.';
		END IF;
	END IF;

	-- What the user has disabled stays so.
	is_first := prod_analytics.is_missing('registered_matviews');
	has_no_jobs := prod_analytics.is_missing('jobs');
	made := prod_analytics.make_tables();
	PERFORM prod_analytics.grant_privileges();
	PERFORM prod_analytics.make_table_triggers();
	IF is_first THEN
		PERFORM prod_analytics.enable_metrics();
	ELSE
		PERFORM prod_analytics.restore_capture();
	END IF;
	IF has_no_jobs THEN
		PERFORM prod_analytics.make_default_jobs();
	END IF;
	PERFORM prod_analytics.make_event_triggers();

	IF found_version IS DISTINCT FROM newest THEN
		DELETE FROM schema_version;
		INSERT INTO schema_version (version) VALUES (newest);
	END IF;

	RETURN made;
END
$$;

COMMENT ON FUNCTION migrate_tables() IS
	'internal: what create_tables() does once its search_path is set; returns how many tables and views were made';
CREATE FUNCTION job_begin(job_name text)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'pa_job_begin'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION job_begin(text) IS
	'internal: take the lock hashtext(''etl_'' || job_name) until job_finish() or a failure, across transactions, and log the start of a run; returns its job_id, or NULL, with the run logged as SKIPPED, when another session holds the lock';

CREATE FUNCTION job_note(job_id bigint, rows bigint, details jsonb)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_job_note'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION job_note(bigint, bigint, jsonb) IS
	'internal: log how far a run has come';

CREATE FUNCTION job_finish(job_id bigint, status text, rows bigint, details jsonb)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_job_finish'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION job_finish(bigint, text, bigint, jsonb) IS
	'internal: log the end of a run and give the job''s lock back; returns job_id, status, rows, duration_seconds and the details; raises 55000 when the run is not running';
CREATE FUNCTION manage_partitions(parent regclass, control name, width interval DEFAULT '1 month',
		ahead integer DEFAULT 12, behind integer DEFAULT 3, retention interval DEFAULT NULL,
		timezone text DEFAULT 'UTC', default_partition boolean DEFAULT true, epoch_unit text DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_manage_partitions'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION manage_partitions(regclass, name, interval, integer, integer, interval, text, boolean, text) IS
	'give parent, a table partitioned by a range of the column control (timestamptz, timestamp, date or bigint), a partition policy, or replace the one it has: partitions of width (a whole number of hours, days, weeks, months or years) with bounds in timezone, so many of them ahead of the current one and behind it, kept for retention (NULL: for ever), with a default partition or without; epoch_unit says what a bigint counts since 1970 (seconds, milliseconds, microseconds); makes no partition; raises 42809 for a table that cannot be managed, 42501 for somebody else''s, 42804 for a column of another type, 42622 for a name that is too long and 22023 for an argument that makes no sense';

CREATE FUNCTION unmanage_partitions(parent regclass)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_unmanage_partitions'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION unmanage_partitions(regclass) IS
	'take the partition policy of parent away; its partitions stay; raises 55000 when it has none and 42501 when it is somebody else''s';

CREATE FUNCTION ensure_partitions(parent regclass DEFAULT NULL, at timestamptz DEFAULT now())
	RETURNS integer
	AS 'MODULE_PATHNAME', 'pa_ensure_partitions'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION ensure_partitions(regclass, timestamptz) IS
	'create the missing partitions of parent (NULL: of every managed table; one that fails is a WARNING) around at, and its default partition; rows of the default partition that belong to a new one move there; returns how many partitions were created, at most 100 a table and call; raises 55000 when parent has no policy, 22023 when at is NULL or infinite, 42P07 when a table of that name is in the way and 55P03 when a lock cannot be had';

CREATE FUNCTION ensure_partitions_between(parent regclass, lower timestamptz, upper timestamptz)
	RETURNS integer
	AS 'MODULE_PATHNAME', 'pa_ensure_partitions_between'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION ensure_partitions_between(regclass, timestamptz, timestamptz) IS
	'create the missing partitions of parent from lower, inclusive, to upper, exclusive, for a load of old rows, say; otherwise like ensure_partitions()';

CREATE FUNCTION drop_expired_partitions(parent regclass DEFAULT NULL, at timestamptz DEFAULT now(), keep_table boolean DEFAULT false)
	RETURNS integer
	AS 'MODULE_PATHNAME', 'pa_drop_expired_partitions'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION drop_expired_partitions(regclass, timestamptz, boolean) IS
	'detach and drop (keep_table: only detach) the partitions of parent (NULL: of every managed table; one that fails is a WARNING) whose end is older than the retention at a moment, oldest first, but never the last one; returns how many, at most 100 a table and call; raises 55000 when parent has no policy, 23503 when rows of another table refer to one, 55P03 when a lock cannot be had, and 55000 or under REPEATABLE READ 0A000 when the groups of a materialized view cannot be archived';

CREATE FUNCTION plan_partitions(parent regclass DEFAULT NULL, at timestamptz DEFAULT now())
	RETURNS TABLE (table_name regclass, partition_name text, lower_bound text, upper_bound text,
		action text, rows_to_move bigint, ddl text)
	AS 'MODULE_PATHNAME', 'pa_plan_partitions'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION plan_partitions(regclass, timestamptz) IS
	'what maintain_partitions() would do to the partitions of parent (NULL: of every managed table) at a moment, without doing it: action is create or drop, rows_to_move are those of the default partition that belong to the new one; bounds are NULL for the default partition and where there is none';

CREATE FUNCTION make_next_partition(parent regclass, at timestamptz)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_make_next_partition'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION make_next_partition(regclass, timestamptz) IS
	'internal: create one missing partition of parent, or one for rows of the default partition; returns partition, rows_moved and waited, or NULL when none is missing';

CREATE FUNCTION check_next_partition(parent regclass)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_check_next_partition'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION check_next_partition(regclass) IS
	'internal: add or validate one CHECK on the date column of a partition of parent; returns whether there was one to do';

CREATE FUNCTION drop_next_partition(parent regclass, at timestamptz)
	RETURNS text
	AS 'MODULE_PATHNAME', 'pa_drop_next_partition'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION drop_next_partition(regclass, timestamptz) IS
	'internal: drop the oldest expired partition of parent; returns its name, or NULL when none is expired';

CREATE FUNCTION analyze_partitions(parent regclass)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_analyze_partitions'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION analyze_partitions(regclass) IS
	'internal: ANALYZE a managed table as its owner';

CREATE FUNCTION partition_warnings(parent regclass, at timestamptz)
	RETURNS text[]
	AS 'MODULE_PATHNAME', 'pa_partition_warnings'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION partition_warnings(regclass, timestamptz) IS
	'internal: what will go wrong with the partitions of parent if nobody does anything';

CREATE FUNCTION maintain_table(parent regclass, at timestamptz, phase text)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- The next step of a phase for one table, or NULL when there is none left.  The steps are short
-- transactions: their caller commits after each.
DECLARE
	dropped text;
BEGIN
	CASE maintain_table.phase
		WHEN 'make' THEN
			RETURN prod_analytics.make_next_partition(maintain_table.parent, maintain_table.at) || '{"made": 1}';
		WHEN 'check' THEN
			IF prod_analytics.check_next_partition(maintain_table.parent) THEN
				RETURN '{}';
			END IF;
		WHEN 'drop' THEN
			dropped := prod_analytics.drop_next_partition(maintain_table.parent, maintain_table.at);
			IF dropped IS NOT NULL THEN
				RETURN pg_catalog.jsonb_build_object('dropped', 1, 'partition', dropped);
			END IF;
		WHEN 'analyze' THEN
			PERFORM prod_analytics.analyze_partitions(maintain_table.parent);
	END CASE;
	RETURN NULL;
END
$$;

COMMENT ON FUNCTION maintain_table(regclass, timestamptz, text) IS
	'internal: do the next step of a phase (make, check, drop, analyze) in the upkeep of the partitions of parent; returns what was done, or NULL when nothing is left to do';

CREATE FUNCTION count_step(counts jsonb, step jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT jsonb_build_object(
		'partitions_created', coalesce((counts->>'partitions_created')::bigint, 0) + coalesce((step->>'made')::bigint, 0),
		'partitions_dropped', coalesce((counts->>'partitions_dropped')::bigint, 0) + coalesce((step->>'dropped')::bigint, 0),
		'rows_moved', coalesce((counts->>'rows_moved')::bigint, 0) + coalesce((step->>'rows_moved')::bigint, 0),
		'waits', coalesce(counts->'waits', '[]') || coalesce(nullif(step->'waited', 'null'), '[]'),
		'warnings', coalesce(counts->'warnings', '[]') || coalesce(step->'warning', '[]'),
		'errors', coalesce(counts->'errors', '[]') || coalesce(step->'error', '[]'))
$$;

COMMENT ON FUNCTION count_step(jsonb, jsonb) IS
	'internal: the details of a run of maintain_partitions() after one more step';

CREATE FUNCTION run_status(details jsonb)
	RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE WHEN details->'errors' = '[]' THEN 'SUCCESS' ELSE 'FAILED' END
$$;

COMMENT ON FUNCTION run_status(jsonb) IS
	'internal: how a run of maintain_partitions() ended';

CREATE PROCEDURE maintain_partitions(parent regclass DEFAULT NULL)
	LANGUAGE plpgsql
	AS $$
-- A procedure that commits cannot have a search_path of its own, so nothing here depends on the
-- caller's: functions are qualified, and operators left to functions.
DECLARE
	managed CONSTANT regclass[] := prod_analytics.managed_tables(maintain_partitions.parent);
	job CONSTANT bigint := prod_analytics.job_begin('maintain_partitions');
	details jsonb := prod_analytics.count_step('{}', '{}');
	managed_table regclass;
	current_phase text;
	step jsonb;
	message text;
	error_detail text;
	error_code text;
BEGIN
	IF job IS NULL THEN
		RAISE NOTICE 'another session is maintaining partitions';
		RETURN;
	END IF;
	COMMIT;

	FOREACH managed_table IN ARRAY managed LOOP
		FOREACH current_phase IN ARRAY ARRAY['make', 'check', 'drop', 'analyze'] LOOP
			LOOP
				step := NULL;
				BEGIN
					step := prod_analytics.maintain_table(managed_table, pg_catalog.now(), current_phase);
				EXCEPTION WHEN OTHERS THEN
					-- The other phases and tables go on.
					GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, error_code = RETURNED_SQLSTATE, error_detail = PG_EXCEPTION_DETAIL;
					RAISE WARNING USING ERRCODE = error_code,
						MESSAGE = pg_catalog.format('could not %s partitions of %s: %s', current_phase, managed_table::text, message),
						DETAIL = pg_catalog.concat_ws(' ', nullif(error_detail, ''), 'Nothing was changed by this step.');
					details := prod_analytics.count_step(details, pg_catalog.jsonb_build_object('error',
						pg_catalog.jsonb_build_object('table', managed_table::text, 'step', current_phase,
							'sqlstate', error_code, 'error', message, 'detail', error_detail)));
				END;
				EXIT WHEN step IS NULL;

				message := pg_catalog.jsonb_extract_path_text(step, 'partition');
				IF message IS NOT NULL THEN
					RAISE NOTICE '% %, % rows moved',
						CASE WHEN pg_catalog.jsonb_extract_path_text(step, 'made') IS NULL THEN 'dropped' ELSE 'created' END,
						message, coalesce(pg_catalog.jsonb_extract_path_text(step, 'rows_moved'), '0');
				END IF;
				details := prod_analytics.count_step(details, step);
				PERFORM prod_analytics.job_note(job, pg_catalog.jsonb_extract_path_text(details, 'rows_moved')::bigint, details);
				COMMIT;
			END LOOP;
			COMMIT;
		END LOOP;

		BEGIN
			FOREACH message IN ARRAY prod_analytics.partition_warnings(managed_table, pg_catalog.now()) LOOP
				RAISE WARNING '%', message;
				details := prod_analytics.count_step(details, pg_catalog.jsonb_build_object('warning', message));
			END LOOP;
		EXCEPTION WHEN OTHERS THEN
			NULL;				-- What is wrong with the table has been told above.
		END;
	END LOOP;

	PERFORM prod_analytics.job_finish(job, prod_analytics.run_status(details),
		pg_catalog.jsonb_extract_path_text(details, 'rows_moved')::bigint, details);
END
$$;

COMMENT ON PROCEDURE maintain_partitions(regclass) IS
	'bring the partitions of parent (NULL: of every managed table) in order: make the missing ones, move rows out of the default partition, drop the expired ones, ANALYZE the parent; commits after each step, so it can be cancelled and called again; runs once at a time, by the advisory lock hashtext(''etl_maintain_partitions''); logs the run in etl_jobs, with partitions_created, partitions_dropped, rows_moved, waits, warnings and errors in details; a table that fails is a WARNING and the run FAILED, the others go on; raises 25001 inside a transaction block';

CREATE FUNCTION managed_tables(parent regclass)
	RETURNS regclass[]
	AS 'MODULE_PATHNAME', 'pa_managed_tables'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION managed_tables(regclass) IS
	'internal: the managed tables, or parent alone; raises 55000 when parent has no policy and 25001 inside a transaction block';
CREATE FUNCTION jsonb_matches_schema(schema jsonb, instance jsonb)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_jsonb_matches_schema'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION jsonb_matches_schema(jsonb, jsonb) IS
	'whether instance satisfies schema, a JSON Schema of draft 2020-12; formats are annotations, numbers compare exactly; raises 22023 when schema is not one, names another draft or vocabulary, a remote $ref or a $dynamicRef, or refers to itself without end';

CREATE FUNCTION jsonschema_is_valid(schema jsonb)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_jsonschema_is_valid'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION jsonschema_is_valid(jsonb) IS
	'whether schema is a JSON Schema that the other functions accept';

CREATE FUNCTION jsonschema_validation_errors(schema jsonb, instance jsonb)
	RETURNS TABLE (instance_path text, keyword text, schema_path text, message text)
	AS 'MODULE_PATHNAME', 'pa_jsonschema_validation_errors'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION jsonschema_validation_errors(jsonb, jsonb) IS
	'what is wrong with instance by schema, at most 100 errors: where in the instance and in the schema (JSON Pointers), the keyword, and a message with the value, cut; no row when it is valid; raises what jsonb_matches_schema() raises';

CREATE FUNCTION register_event_schema(event_type text, schema jsonb, mode text DEFAULT 'enforce')
	RETURNS integer
	AS 'MODULE_PATHNAME', 'pa_register_event_schema'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION register_event_schema(text, jsonb, text) IS
	'make schema, a JSON Schema whose formats are asserted, what the properties of events of a type are to satisfy from now on, and return its version (the newest one when that says the same); mode is what is done about an event that does not: enforce (refuse it), warn (let it pass and say so) or off (nothing); raises 22023 when schema is none or mode another, 22004 when something is NULL';

CREATE FUNCTION is_valid_event(event_type text, event_props jsonb)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_is_valid_event'
	LANGUAGE C STABLE PARALLEL SAFE;

COMMENT ON FUNCTION is_valid_event(text, jsonb) IS
	'whether event_props (NULL: {}) satisfies the newest schema that is registered for event_type, whatever its mode; true when there is none, NULL when event_type is NULL';

CREATE FUNCTION validate_event(event_type text, event_props jsonb)
	RETURNS TABLE (instance_path text, keyword text, schema_path text, message text)
	AS 'MODULE_PATHNAME', 'pa_validate_event'
	LANGUAGE C STABLE PARALLEL SAFE;

COMMENT ON FUNCTION validate_event(text, jsonb) IS
	'what is wrong with event_props (NULL: {}) by the newest schema that is registered for event_type, in the shape of jsonschema_validation_errors(); no row when it is valid, or no schema registered';

CREATE FUNCTION is_valid_purchase_event(event_props jsonb)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_is_valid_purchase_event'
	LANGUAGE C STABLE PARALLEL SAFE;

COMMENT ON FUNCTION is_valid_purchase_event(jsonb) IS
	'is_valid_event() for events of type purchase; unless another schema is registered they need an order_id (string or integer) and a price (number, or string holding one, not negative) (section 13)';

CREATE FUNCTION validate_purchase_event(event_props jsonb)
	RETURNS TABLE (instance_path text, keyword text, schema_path text, message text)
	AS 'MODULE_PATHNAME', 'pa_validate_purchase_event'
	LANGUAGE C STABLE PARALLEL SAFE;

COMMENT ON FUNCTION validate_purchase_event(jsonb) IS
	'validate_event() for events of type purchase (section 13)';

CREATE FUNCTION enforce_event_schema()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'pa_enforce_event_schema'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION enforce_event_schema() IS
	'trigger for each row that is inserted into a table of events or updated there: raises 23514 when it does not satisfy the schema of its type and the schema''s mode is enforce, warns when the mode is warn; arguments: the columns of the type (default event_type) and of the properties (default event_props)';

CREATE FUNCTION event_schema_report(event_type text, from_time timestamptz, to_time timestamptz)
	RETURNS TABLE (keyword text, instance_path text, failing_events bigint, sample_event_id bigint)
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT v.keyword, v.instance_path, count(*), min(e.event_id)
	FROM prod_analytics.events e
	CROSS JOIN LATERAL (
		SELECT DISTINCT f.keyword, f.instance_path
		FROM prod_analytics.validate_event(e.event_type, e.event_props) f
	) v
	WHERE e.event_type = event_schema_report.event_type
		AND e.event_time >= coalesce(event_schema_report.from_time, '-infinity')
		AND e.event_time < coalesce(event_schema_report.to_time, 'infinity')
		AND NOT prod_analytics.is_valid_event(e.event_type, e.event_props)
	GROUP BY v.keyword, v.instance_path
	ORDER BY count(*) DESC, v.keyword, v.instance_path
$$;

COMMENT ON FUNCTION event_schema_report(text, timestamptz, timestamptz) IS
	'the stored events of a type, from from_time on and before to_time (NULL: no bound), that do not satisfy its newest schema: for each keyword and place in the properties (JSON Pointer) how many fail there, and the lowest event_id of them';

CREATE FUNCTION event_schemas_changed()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'pa_event_schemas_changed'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION event_schemas_changed() IS
	'internal: trigger of event_schemas that checks schemas and lets all sessions know of them; raises 22023 when one is none';
CREATE FUNCTION etl_ingest_events(batch_size integer DEFAULT 10000)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_etl_ingest_events'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION etl_ingest_events(integer) IS
	'move at most batch_size rows from staging_events to events, create the partitions they need, drop those that are there already, and set the ones that cannot go in aside in quarantined_events; one session at a time, by the advisory lock hashtext(''etl_ingest_events''); returns job_id, status (SUCCESS, FAILED, SKIPPED), rows (taken = inserted + duplicates + quarantined), duration_seconds, inserted, duplicates, quarantined, deferred (put back because the batch needs more than 100 new partitions, or a lock for making them cannot be had) and partitions_created; a failure is rolled back, logged in etl_jobs and raised as a WARNING; raises 22023 when batch_size is NULL or not positive (section 9)';
CREATE FUNCTION instant_or_null(text text)
	RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'pa_instant_or_null'
	LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION instant_or_null(text) IS
	'internal: the instant that a text holds; NULL when it holds none, or an infinite one';

CREATE FUNCTION etl_upsert_users(batch_size integer DEFAULT 10000)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_etl_upsert_users'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION etl_upsert_users(integer) IS
	'merge at most batch_size rows of staging_users, the first to come, into users: by e-mail address, attributes added to those that are there, last_login from them; of rows with one address the last to come counts; those without a usable address, organization, payload or last_login are set aside in quarantined_users; one session at a time, by the advisory lock hashtext(''etl_upsert_users''); returns job_id, status (SUCCESS, FAILED, SKIPPED), rows (taken = inserted + updated + superseded + quarantined), duration_seconds, inserted, updated, superseded, quarantined and quarantined_for (rows by reason); a failure is rolled back, logged in etl_jobs and raised as a WARNING; raises 22023 when batch_size is NULL or not positive (section 4)';

CREATE FUNCTION erase_user(user_id bigint)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_erase_user'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION erase_user(bigint) IS
	'forget a person: user_id becomes NULL in events, staged and quarantined ones too, and the row in users goes, with what is staged or quarantined under its address; the properties of events stay as they are; waits for runs of etl_ingest_events() and etl_upsert_users(), and keeps them out until the transaction ends, by their advisory locks; logged without saying who it was; returns job_id, status (SUCCESS, FAILED), rows, duration_seconds, users (0 when there is none, or 1), events and staged_or_quarantined; a failure is rolled back, logged and raised as a WARNING; raises 22004 when user_id is NULL';
CREATE FUNCTION redrive_events(quarantined_before timestamptz DEFAULT now(), reason_code text DEFAULT NULL, dry_run boolean DEFAULT false)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'pa_redrive_events'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION redrive_events(timestamptz, text, boolean) IS
	'move the events that were quarantined until quarantined_before, for the reason reason_code (NULL: any but unparsable_line), back to staging_events, with attempts one higher, and return how many; only count them when dry_run; raises 22004 when quarantined_before is NULL';

CREATE FUNCTION redrive_users(quarantined_before timestamptz DEFAULT now(), reason_code text DEFAULT NULL, dry_run boolean DEFAULT false)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'pa_redrive_users'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION redrive_users(timestamptz, text, boolean) IS
	'move the users that were quarantined until quarantined_before, for the reason reason_code (NULL: any but superseded), back to staging_users, of each src_id the last one unless it has been staged again, and return how many; only count them when dry_run; raises 22004 when quarantined_before is NULL';
CREATE FUNCTION backfill_begin(target regclass, column_name name, expression text, batch_size integer,
		OUT job_name text, OUT table_name text, OUT primary_key text, OUT expected bigint)
	AS 'MODULE_PATHNAME', 'pa_backfill_begin'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_begin(regclass, name, text, integer) IS
	'internal: check the arguments of backfill_column(), and about how many rows there are';

CREATE FUNCTION backfill_leaf(target regclass, after oid)
	RETURNS oid
	AS 'MODULE_PATHNAME', 'pa_backfill_leaf'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_leaf(regclass, oid) IS
	'internal: the next of the tables that hold the rows of target, in the order of their OIDs; NULL: there is none';

CREATE FUNCTION backfill_range(target regclass, leaf oid, column_name name, after text[], upto text[], batch_size integer,
		OUT last_key text[], OUT scanned bigint, OUT ctids tid[])
	AS 'MODULE_PATHNAME', 'pa_backfill_range'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_range(regclass, oid, name, text[], text[], integer) IS
	'internal: the next batch_size rows of leaf by primary key, after a key (NULL: from the first on) up to another one (NULL: to the last): the last key, how many they are, and which of them lack a value in the column; NULLs when there is none, or leaf is no table of target any more';

CREATE FUNCTION backfill_rows(target regclass, leaf oid, column_name name, expression text, ctids tid[],
		OUT filled bigint, OUT locked bigint)
	AS 'MODULE_PATHNAME', 'pa_backfill_rows'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_rows(regclass, oid, name, text, tid[]) IS
	'internal: fill the column of rows that lack a value, but for locked ones';

CREATE FUNCTION backfill_pause(locked boolean)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_backfill_pause'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_pause(boolean) IS
	'internal: rest between batches, or until others may have given their locks back';

CREATE FUNCTION backfill_progress(target regclass, column_name name, done bigint, expected bigint)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_backfill_progress'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_progress(regclass, name, bigint, bigint) IS
	'internal: show a run in job_progress; done NULL: it is over';

CREATE FUNCTION backfill_resume(job_name text, job_id bigint, started jsonb)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- The details of a run are its state.  One that did not come to its end leaves them to the next one for the
-- same column, expression and key.
DECLARE
	state jsonb := started || '{"scanned": 0, "filled": 0, "locked": 0, "batches": 0, "rows_before": 0, "retry": 0, "ranges": []}';
	last_run prod_analytics.etl_jobs;
BEGIN
	SELECT * INTO last_run FROM prod_analytics.etl_jobs j
	WHERE j.job_name = backfill_resume.job_name AND j.job_id < backfill_resume.job_id AND j.status <> 'SKIPPED'
	ORDER BY j.job_id DESC LIMIT 1;
	IF last_run.status = 'FAILED' AND last_run.details @> started AND last_run.details ? 'position' THEN
		state := state || jsonb_build_object('resumed', last_run.job_id, 'position', last_run.details->'position',
			'rows_before', (last_run.details->>'rows_before')::bigint + (last_run.details->>'scanned')::bigint,
			'locked', last_run.details->'locked',
			'ranges', (SELECT coalesce(jsonb_agg(r.range || '{"tries": 0}' ORDER BY r.n), '[]')
				FROM jsonb_array_elements(last_run.details->'ranges') WITH ORDINALITY r (range, n)));
	END IF;
	RETURN state;
END
$$;

COMMENT ON FUNCTION backfill_resume(text, bigint, jsonb) IS
	'internal: the details that a run of backfill_column() begins with: those of the one before it when that did not come to its end, else none';

CREATE FUNCTION backfill_next(target regclass, column_name name, batch_size integer, state jsonb,
		OUT work jsonb, OUT ctids tid[], OUT wait boolean)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- First all of the table, a range after the other.  Then the ranges with locked rows, each once per round, which
-- begins with a pause ("wait").
DECLARE
	place CONSTANT jsonb := state->'position';
	leaf oid := (place->>'leafid')::oid;
	after text[];
	round CONSTANT integer := (state->>'retry')::integer;
	piece record;
	range record;
BEGIN
	wait := false;
	IF round = 0 AND (place->>'done')::boolean IS DISTINCT FROM false THEN
		leaf := prod_analytics.backfill_leaf(target, coalesce(leaf, 0));
	ELSIF round = 0 THEN
		after := prod_analytics.backfill_key(place->'key');
	END IF;
	WHILE round = 0 AND leaf IS NOT NULL LOOP
		SELECT * INTO piece FROM prod_analytics.backfill_range(target, leaf, column_name, after, NULL, batch_size);
		IF piece.scanned > 0 THEN
			work := jsonb_build_object('leaf', leaf::regclass::text, 'leafid', leaf, 'after', to_jsonb(after), 'upto', to_jsonb(piece.last_key),
				'scanned', piece.scanned, 'done', piece.scanned < batch_size);
			ctids := piece.ctids;
			RETURN;
		END IF;
		leaf := prod_analytics.backfill_leaf(target, leaf);
		after := NULL;
	END LOOP;

	SELECT r.value, r.n - 1 AS index INTO range FROM jsonb_array_elements(state->'ranges') WITH ORDINALITY r (value, n)
	WHERE (r.value->>'tries')::integer < round ORDER BY r.n LIMIT 1;
	IF range.value IS NOT NULL THEN
		leaf := (range.value->>'leafid')::oid;
		SELECT * INTO piece FROM prod_analytics.backfill_range(target, leaf, column_name,
			prod_analytics.backfill_key(range.value->'after'), prod_analytics.backfill_key(range.value->'upto'), batch_size);
		work := range.value || jsonb_build_object('index', range.index, 'scanned', coalesce(piece.scanned, 0),
			'upto', coalesce(to_jsonb(piece.last_key), range.value->'upto'));
		ctids := piece.ctids;
	ELSIF state->'ranges' <> '[]' AND round < current_setting('prod_analytics.lock_retries')::integer THEN
		work := '{}';
		wait := true;
	END IF;
END
$$;

COMMENT ON FUNCTION backfill_next(regclass, name, integer, jsonb) IS
	'internal: the next rows of a run of backfill_column(); work is NULL when there are none left';

CREATE FUNCTION backfill_key(key jsonb)
	RETURNS text[]
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE WHEN jsonb_typeof(key) = 'array'
		THEN (SELECT array_agg(k.value ORDER BY k.n) FROM jsonb_array_elements_text(key) WITH ORDINALITY k (value, n)) END
$$;

COMMENT ON FUNCTION backfill_key(jsonb) IS
	'internal: the values of a primary key as texts; NULL: no key';

CREATE FUNCTION backfill_add(ranges jsonb, piece jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE WHEN (piece->>'rows')::bigint = 0 THEN ranges
		WHEN ranges->-1->'leafid' = piece->'leafid' AND ranges->-1->'upto' = piece->'after' AND ranges->-1->'tries' = piece->'tries'
		THEN (ranges - -1) || jsonb_build_array(ranges->-1 || jsonb_build_object('upto', piece->'upto',
			'rows', (ranges->-1->>'rows')::bigint + (piece->>'rows')::bigint))
		ELSE ranges || jsonb_build_array(piece) END
$$;

COMMENT ON FUNCTION backfill_add(jsonb, jsonb) IS
	'internal: ranges of keys with one more, joined to the last one when they are neighbours, unless it has no locked rows';

CREATE FUNCTION backfill_count(state jsonb, work jsonb, filled bigint, locked bigint)
	RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	ranges jsonb := state->'ranges';
	piece CONSTANT jsonb := jsonb_build_object('leaf', work->'leaf', 'leafid', work->'leafid', 'after', work->'after', 'upto', work->'upto',
		'rows', locked, 'tries', state->'retry');
	range jsonb;
BEGIN
	IF NOT work ? 'leafid' THEN
		RETURN state || jsonb_build_object('retry', (state->>'retry')::integer + 1);
	END IF;
	IF work ? 'index' THEN
		-- The rest of a range that is longer than a batch stays where it is.
		range := ranges->(work->>'index')::integer;
		IF work->'upto' = range->'upto' THEN
			ranges := ranges - (work->>'index')::integer;
		ELSE
			ranges := jsonb_set(ranges, ARRAY[work->>'index'],
				range || jsonb_build_object('after', work->'upto', 'rows', greatest((range->>'rows')::bigint - filled - locked, 0)));
		END IF;
	ELSE
		state := state || jsonb_build_object('scanned', (state->>'scanned')::bigint + (work->>'scanned')::bigint,
			'position', jsonb_build_object('leaf', work->'leaf', 'leafid', work->'leafid', 'key', work->'upto', 'done', work->'done'));
	END IF;
	ranges := prod_analytics.backfill_add(ranges, piece);
	RETURN state || jsonb_build_object('ranges', ranges, 'batches', (state->>'batches')::bigint + 1,
		'filled', (state->>'filled')::bigint + filled,
		'locked', (SELECT coalesce(sum((r.value->>'rows')::bigint), 0) FROM jsonb_array_elements(ranges) r));
END
$$;

COMMENT ON FUNCTION backfill_count(jsonb, jsonb, bigint, bigint) IS
	'internal: the details of a run of backfill_column() after one more batch';

CREATE FUNCTION backfill_describe(state jsonb, work jsonb)
	RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT format('%s%s of %s',
		CASE WHEN after.key IS NULL THEN 'the first rows' ELSE format('the rows after (%s)', array_to_string(after.key, ', ')) END,
		CASE WHEN work ? 'upto' THEN format(' up to (%s)', array_to_string(prod_analytics.backfill_key(work->'upto'), ', ')) END,
		coalesce(work->>'leaf', state->'position'->>'leaf', state->>'table'))
	FROM (SELECT prod_analytics.backfill_key(CASE WHEN work IS NULL THEN state->'position'->'key' ELSE work->'after' END)) after (key)
$$;

COMMENT ON FUNCTION backfill_describe(jsonb, jsonb) IS
	'internal: which rows a batch has, in words';

CREATE FUNCTION backfill_failure(state jsonb, work jsonb, error jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT state || jsonb_build_object('range', prod_analytics.backfill_describe(state, work))
		|| (SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') FROM jsonb_each_text(error) e
			-- The detail of a constraint's error is the row itself, which is nobody's business who may read the log.
			WHERE e.value <> '' AND NOT (e.key = 'detail' AND error->>'sqlstate' LIKE '23%'))
$$;

COMMENT ON FUNCTION backfill_failure(jsonb, jsonb, jsonb) IS
	'internal: the details of a run of backfill_column() that an error ended';

CREATE PROCEDURE backfill_column(target regclass, column_name name, expression text, batch_size integer DEFAULT 10000)
	LANGUAGE plpgsql
	AS $$
-- The expression needs the caller's search_path, and a procedure that commits cannot have one of its own anyway.
-- So nothing else here depends on it: functions and types are qualified, operators left to functions.
DECLARE
	about record;
	job bigint;
	state pg_catalog.jsonb;
	work pg_catalog.jsonb;
	ctids pg_catalog.tid[];
	wait boolean;
	filled bigint;
	locked bigint;
	message pg_catalog.text;
	error_code pg_catalog.text;
	error_detail pg_catalog.text;
	error_hint pg_catalog.text;
	error_context pg_catalog.text;
BEGIN
	about := prod_analytics.backfill_begin(backfill_column.target, backfill_column.column_name, backfill_column.expression, backfill_column.batch_size);
	job := prod_analytics.job_begin(about.job_name);
	IF job IS NULL THEN
		RAISE NOTICE 'another session is filling column "%" of %', backfill_column.column_name, about.table_name;
		RETURN;
	END IF;
	state := prod_analytics.backfill_resume(about.job_name, job, pg_catalog.jsonb_build_object(
		'table', about.table_name, 'relid', backfill_column.target::pg_catalog.oid, 'column', backfill_column.column_name,
		'expression', backfill_column.expression, 'primary_key', about.primary_key));
	PERFORM prod_analytics.job_note(job, 0, state);
	IF pg_catalog.jsonb_extract_path(state, 'resumed') IS NOT NULL THEN
		RAISE NOTICE 'run % did not come to its end; going on with %',
			pg_catalog.jsonb_extract_path_text(state, 'resumed'), prod_analytics.backfill_describe(state, NULL);
	END IF;
	COMMIT;

	LOOP
		work := NULL;
		ctids := NULL;
		filled := 0;
		locked := 0;
		error_code := NULL;
		PERFORM prod_analytics.backfill_progress(backfill_column.target, backfill_column.column_name,
			prod_analytics.backfill_done(state), about.expected);
		BEGIN
			SELECT n.work, n.ctids, n.wait INTO work, ctids, wait
			FROM prod_analytics.backfill_next(backfill_column.target, backfill_column.column_name, backfill_column.batch_size, state) n;
			IF ctids IS NOT NULL THEN
				SELECT r.filled, r.locked INTO filled, locked
				FROM prod_analytics.backfill_rows(backfill_column.target, pg_catalog.jsonb_extract_path_text(work, 'leafid')::pg_catalog.oid,
					backfill_column.column_name, backfill_column.expression, ctids) r;
			END IF;
		EXCEPTION
			WHEN OTHERS THEN
				GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, error_code = RETURNED_SQLSTATE, error_detail = PG_EXCEPTION_DETAIL,
					error_hint = PG_EXCEPTION_HINT, error_context = PG_EXCEPTION_CONTEXT;
				filled := 0;
		END;
		IF ctids IS NOT NULL AND prod_analytics.backfill_must_wait(error_code) THEN
			-- A trigger or an index met a lock.
			locked := pg_catalog.cardinality(ctids);
			error_code := NULL;
		END IF;
		EXIT WHEN work IS NULL OR error_code IS NOT NULL;

		state := prod_analytics.backfill_count(state, work, filled, locked);
		PERFORM prod_analytics.job_note(job, pg_catalog.jsonb_extract_path_text(state, 'scanned')::bigint, state);
		COMMIT;
		PERFORM prod_analytics.backfill_pause(wait);
		COMMIT;
	END LOOP;

	PERFORM prod_analytics.backfill_progress(backfill_column.target, backfill_column.column_name, NULL, NULL);
	IF error_code IS NOT NULL THEN
		state := prod_analytics.backfill_failure(state, work, pg_catalog.jsonb_build_object('sqlstate', error_code, 'error', message,
			'detail', error_detail, 'hint', error_hint, 'context', error_context));
		PERFORM prod_analytics.job_finish(job, 'FAILED', pg_catalog.jsonb_extract_path_text(state, 'scanned')::bigint, state);
		COMMIT;
		RAISE EXCEPTION USING ERRCODE = error_code,
			MESSAGE = pg_catalog.format('could not fill %s: %s', pg_catalog.jsonb_extract_path_text(state, 'range'), message),
			DETAIL = pg_catalog.btrim(pg_catalog.concat_ws(' ', error_detail, 'What was filled before is committed.')),
			HINT = pg_catalog.concat_ws(' ', pg_catalog.jsonb_extract_path_text(state, 'hint'),
				'Mend the rows or the expression, and call it again; with the same expression it goes on with these rows.');
	END IF;

	PERFORM prod_analytics.job_finish(job, 'SUCCESS', pg_catalog.jsonb_extract_path_text(state, 'scanned')::bigint, state);
	RAISE NOTICE 'filled column "%" in % of % rows of %', backfill_column.column_name, pg_catalog.jsonb_extract_path_text(state, 'filled'),
		pg_catalog.jsonb_extract_path_text(state, 'scanned'), about.table_name;
	IF pg_catalog.int4gt(pg_catalog.jsonb_array_length(pg_catalog.jsonb_extract_path(state, 'ranges')), 0) THEN
		RAISE WARNING USING ERRCODE = 'lock_not_available',
			MESSAGE = pg_catalog.format('%s rows of %s are locked by others and were left', pg_catalog.jsonb_extract_path_text(state, 'locked'), about.table_name),
			HINT = 'Call backfill_column() again when they have finished.';
	END IF;
END
$$;

COMMENT ON PROCEDURE backfill_column(regclass, name, text, integer) IS
	'fill a column of a table, or of the partitions of one: where it is NULL it gets the value of expression, an SQL expression over the row''s columns that is evaluated as the caller; batch_size rows at a time by primary key, with a commit and a pause (prod_analytics.backfill_pause) after each batch; locked rows are skipped and tried again at the end, prod_analytics.lock_retries times; what stays locked is a WARNING; goes on where it was after a crash, a cancel or an error when it is called with the same arguments; runs once at a time for a column, by the advisory lock hashtext(''etl_backfill_column schema.table.column''); logs the run in etl_jobs, with filled, locked, batches, position and ranges in details; raises 22004 and 22023 for arguments that make no sense, 42703 and 428C9 for a column that is missing or generated, 42601, 42803, 42804 and 0A000 for an expression that is none, 42809 for what is not a table, 55000 for a table without primary key, 42501 without SELECT and UPDATE, 25001 inside a transaction block, and the error of a row that cannot be filled';

CREATE FUNCTION backfill_done(state jsonb)
	RETURNS bigint
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT (state->>'rows_before')::bigint + (state->>'scanned')::bigint
$$;

COMMENT ON FUNCTION backfill_done(jsonb) IS
	'internal: how many rows of the table have been looked at, by a run of backfill_column() and those that it goes on from';

CREATE FUNCTION backfill_must_wait(error_code text)
	RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT error_code IN ('55P03', '40P01', '40001') IS TRUE
$$;

COMMENT ON FUNCTION backfill_must_wait(text) IS
	'internal: whether an error means that others are in the way, so that trying again later may do';
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
		CREATE VIEW matview_status AS
			SELECT r.matview, r.mode, r.reason, r.archive, c.pending_keys,
				r.mode = 'incremental' AND (c.is_everything OR s.sources IS NULL) AS everything_changed,
				c.oldest_pending_change, s.refreshed_at, s.duration, s.method, s.verified_at
			FROM registered_matviews r
			LEFT JOIN refresh_state s ON s.matview_id = r.matview_id
			CROSS JOIN LATERAL (
				SELECT count(k.key) AS pending_keys, count(*) > count(k.key) AS is_everything,
					min(k.changed_at) AS oldest_pending_change
				FROM changed_keys k WHERE k.matview_id = r.matview_id
			) c;
		COMMENT ON VIEW matview_status IS
			'the registered materialized views: how each is kept (mode, and reason when it is full), its archive, how many changes of groups are pending and since when, or whether everything is taken to have changed, and its last refresh and verification';
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
-- Funnels (section 14).

CREATE FUNCTION window_funnel_add(state internal, within interval, event_time timestamptz, event_type text, steps text[])
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_window_funnel_add'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION window_funnel_add(internal, interval, timestamptz, text, text[]) IS
	'internal: add an event to a group of window_funnel()';

CREATE FUNCTION funnel_state_combine(state internal, other internal)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_funnel_state_combine'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION funnel_state_combine(internal, internal) IS
	'internal: unite two states of a group';

CREATE FUNCTION funnel_state_serialize(state internal)
	RETURNS bytea
	AS 'MODULE_PATHNAME', 'pa_funnel_state_serialize'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION funnel_state_serialize(internal) IS
	'internal: the bytes of a state';

CREATE FUNCTION funnel_state_deserialize(bytes bytea, nothing internal)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_funnel_state_deserialize'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION funnel_state_deserialize(bytea, internal) IS
	'internal: the state that has these bytes';

CREATE FUNCTION window_funnel_depth(state internal)
	RETURNS integer
	AS 'MODULE_PATHNAME', 'pa_window_funnel_depth'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION window_funnel_depth(internal) IS
	'internal: the result of window_funnel()';

CREATE AGGREGATE window_funnel(within interval, event_time timestamptz, event_type text, steps text[]) (
	SFUNC = window_funnel_add,
	STYPE = internal,
	SSPACE = 256,
	FINALFUNC = window_funnel_depth,
	COMBINEFUNC = funnel_state_combine,
	SERIALFUNC = funnel_state_serialize,
	DESERIALFUNC = funnel_state_deserialize,
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE window_funnel(interval, timestamptz, text, text[]) IS
	'how many of the steps, which are types of events, a group''s events reach in their order within a window that opens with an event of the first step and whose end, within later, is inside (0: not even the first); each step happens at the time of the one before or later, one event fills one step, and the best window counts; to be grouped by user; events without a type or a finite time are ignored; raises 22023 for a window that is not positive or has months, for no steps or more than 32, and for a window or steps that differ within a group, 22004 for NULL, 2202E for steps in more than one dimension';

CREATE FUNCTION funnel_of_user_add(state internal, steps text[], within interval, value text, strict boolean,
		from_time timestamptz, to_time timestamptz, strictly_after boolean, event_time timestamptz, event_type text)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_funnel_of_user_add'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION funnel_of_user_add(internal, text[], interval, text, boolean, timestamptz, timestamptz, boolean, timestamptz, text) IS
	'internal: add an event to a group of funnel_of_user()';

CREATE FUNCTION funnel_of_user_values(state internal)
	RETURNS bytea
	AS 'MODULE_PATHNAME', 'pa_funnel_of_user_values'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION funnel_of_user_values(internal) IS
	'internal: the result of funnel_of_user()';

CREATE AGGREGATE funnel_of_user(steps text[], within interval, value text, strict boolean,
		from_time timestamptz, to_time timestamptz, strictly_after boolean, event_time timestamptz, event_type text) (
	SFUNC = funnel_of_user_add,
	STYPE = internal,
	SSPACE = 512,
	FINALFUNC = funnel_of_user_values,
	COMBINEFUNC = funnel_state_combine,
	SERIALFUNC = funnel_state_serialize,
	DESERIALFUNC = funnel_state_deserialize,
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE funnel_of_user(text[], interval, text, boolean, timestamptz, timestamptz, boolean, timestamptz, text) IS
	'internal: the steps that a user reaches for each value, by the rules of funnel(), which reads the result';

-- Its query may have workers, which a worker could not have: hence PARALLEL RESTRICTED.

CREATE FUNCTION funnel(steps text[], within interval DEFAULT '7 days', by text DEFAULT NULL, strict boolean DEFAULT true,
		from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL, strictly_after boolean DEFAULT false)
	RETURNS TABLE (group_value text, step integer, event_type text, users bigint, conversion_rate numeric)
	AS 'MODULE_PATHNAME', 'pa_funnel'
	LANGUAGE C STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION funnel(text[], interval, text, boolean, timestamptz, timestamptz, boolean) IS
	'how many users take which steps (types of events, at most 32, also repeated), and how many percent of those who take the first; a window opens with an event of the first step, from from_time on and before to_time (NULL: no bound), its end, within later, is inside, and the user''s best one counts; with strict each step happens after the one before, otherwise each after the first, whatever the others do; "after" is at the same time or later, or with strictly_after only later; one event fills one step; by is a key of event_props, of whose values each is a funnel of its own (NULL: one funnel): events without it are left out; so are anonymous events; a group appears when somebody takes its first step; days are 24 hours; raises what window_funnel() does, and 22004 for NULL in strict and strictly_after (section 14)';
-- Active users (sections 6 and 18).

CREATE FUNCTION day_set_add(state varbit, day integer, n_days integer)
	RETURNS varbit
	AS 'MODULE_PATHNAME', 'pa_day_set_add'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION day_set_add(varbit, integer, integer) IS
	'internal: add a day to a set';

CREATE FUNCTION day_set_combine(state varbit, other varbit)
	RETURNS varbit
	AS 'MODULE_PATHNAME', 'pa_day_set_combine'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION day_set_combine(varbit, varbit) IS
	'internal: unite two sets of days';

CREATE AGGREGATE day_set(day integer, n_days integer) (
	SFUNC = day_set_add,
	STYPE = varbit,
	COMBINEFUNC = day_set_combine,
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE day_set(integer, integer) IS
	'internal: the set of days, numbered from 0 to n_days - 1, as a bit for each';

CREATE FUNCTION day_set_spread(days varbit, width integer)
	RETURNS varbit
	AS 'MODULE_PATHNAME', 'pa_day_set_spread'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION day_set_spread(varbit, integer) IS
	'internal: the days for which the width days that end with them have one of the set';

CREATE FUNCTION day_counts_add(state internal, days varbit)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_day_counts_add'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION day_counts_add(internal, varbit) IS
	'internal: count a set of days';

CREATE FUNCTION day_counts_array(state internal)
	RETURNS bigint[]
	AS 'MODULE_PATHNAME', 'pa_day_counts_array'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION day_counts_array(internal) IS
	'internal: the result of day_counts()';

CREATE AGGREGATE day_counts(days varbit) (
	SFUNC = day_counts_add,
	STYPE = internal,
	FINALFUNC = day_counts_array,
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE day_counts(varbit) IS
	'internal: for each day, how many of the sets have it; NULL for no sets';

CREATE FUNCTION utc_midnight(day date)
	RETURNS timestamptz
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT pg_catalog.timezone('UTC', day::timestamp)
$$;

COMMENT ON FUNCTION utc_midnight(date) IS
	'internal: the moment at which a day begins';

CREATE FUNCTION check_days(from_date date, to_date date)
	RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF (isfinite(check_days.from_date) AND isfinite(check_days.to_date)) IS NOT TRUE THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'from_date and to_date must be days, neither NULL nor infinite';
	END IF;
END
$$;

COMMENT ON FUNCTION check_days(date, date) IS
	'internal: raise 22023 unless both are days';

-- Plans are made for the values of the parameters, so that they leave out the partitions that those exclude.  They
-- may have workers, which a worker could not have: hence PARALLEL RESTRICTED.

CREATE FUNCTION active_users(from_date date, to_date date, org_id bigint DEFAULT NULL)
	RETURNS TABLE (event_date date, daily bigint, weekly bigint, monthly bigint)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
	AS $$
-- Events are read once.  A year at a time, with the 29 days before it, so that what is kept of a user
-- stays small however long the range is.
#variable_conflict use_column
DECLARE
	days_at_once CONSTANT integer := 366;
	days_before CONSTANT integer := 29;
	first_day date;
	last_day date;
	n_days integer;
BEGIN
	PERFORM prod_analytics.check_days(active_users.from_date, active_users.to_date);

	FOR done IN 0 .. active_users.to_date - active_users.from_date BY days_at_once LOOP
		first_day := active_users.from_date + done - days_before;
		last_day := least(active_users.from_date + done + days_at_once - 1, active_users.to_date);
		n_days := last_day - first_day + 1;

		RETURN QUERY
		WITH active AS (
			SELECT prod_analytics.day_set(e.event_date - first_day, n_days) AS days
			FROM prod_analytics.events e
			WHERE e.event_time >= prod_analytics.utc_midnight(first_day)
				AND e.event_time < prod_analytics.utc_midnight(last_day + 1)
				AND e.user_id IS NOT NULL
				AND (active_users.org_id IS NULL OR e.org_id = active_users.org_id)
			GROUP BY e.user_id
		),
		counted AS (
			SELECT prod_analytics.day_counts(a.days) AS daily,
				prod_analytics.day_counts(prod_analytics.day_set_spread(a.days, 7)) AS weekly,
				prod_analytics.day_counts(prod_analytics.day_set_spread(a.days, 30)) AS monthly
			FROM active a
		)
		SELECT first_day + n - 1, coalesce(c.daily[n], 0), coalesce(c.weekly[n], 0), coalesce(c.monthly[n], 0)
		FROM counted c CROSS JOIN generate_series(days_before + 1, n_days) n
		ORDER BY n;
	END LOOP;
END
$$;

COMMENT ON FUNCTION active_users(date, date, bigint) IS
	'for each day (UTC) from from_date to to_date how many different users had an event on it (daily), on the 7 days that end with it (weekly), and on the 30 days (monthly), exactly; of one organization''s events or, for NULL, of all; days without events are rows too, anonymous events are not counted; raises 22023 for a date that is NULL or infinite (section 6)';
-- Retention (section 6).

CREATE FUNCTION check_retention(period text, cohort_by text)
	RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF (check_retention.period IN ('day', 'week', 'month')) IS NOT TRUE THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('period must be day, week or month, not %s', quote_nullable(check_retention.period));
	END IF;
	IF (check_retention.cohort_by IN ('first_event', 'signup')) IS NOT TRUE THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('cohort_by must be first_event or signup, not %s', quote_nullable(check_retention.cohort_by));
	END IF;
END
$$;

COMMENT ON FUNCTION check_retention(text, text) IS
	'internal: raise 22023 for a period or a kind of cohort that retention() does not know';

CREATE FUNCTION period_number(day date, first_day date, period text)
	RETURNS integer
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS $$
	SELECT CASE period
		WHEN 'day' THEN day - first_day
		WHEN 'week' THEN (day - first_day) / 7
		ELSE ((pg_catalog.date_part('year', day) - pg_catalog.date_part('year', first_day)) * 12
			+ pg_catalog.date_part('month', day) - pg_catalog.date_part('month', first_day))::integer
	END
$$;

COMMENT ON FUNCTION period_number(date, date, text) IS
	'internal: how many days, weeks or months a day is after the first day of one';

-- PARALLEL RESTRICTED and force_custom_plan for the reasons that active_users() has.

CREATE FUNCTION retention(from_date date, to_date date, period text DEFAULT 'day', org_id bigint DEFAULT NULL,
		cohort_by text DEFAULT 'first_event')
	RETURNS TABLE (cohort date, cohort_size bigint, period_number integer, active_users bigint, rate numeric)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
	AS $$
#variable_conflict use_column
DECLARE
	step interval;
	first_day date;
	end_day date;
	begins timestamptz;
	ends timestamptz;
	n_periods integer;
BEGIN
	PERFORM prod_analytics.check_days(retention.from_date, retention.to_date);
	PERFORM prod_analytics.check_retention(retention.period, retention.cohort_by);
	IF retention.from_date > retention.to_date THEN
		RETURN;
	END IF;

	step := ('1 ' || retention.period)::interval;
	first_day := date_trunc(retention.period, retention.from_date::timestamp);
	end_day := date_trunc(retention.period, retention.to_date::timestamp) + step;
	begins := prod_analytics.utc_midnight(first_day);
	ends := prod_analytics.utc_midnight(end_day);
	n_periods := prod_analytics.period_number(end_day, first_day, retention.period);

	RETURN QUERY
	WITH active AS NOT MATERIALIZED (
		SELECT e.user_id,
			prod_analytics.day_set(prod_analytics.period_number(e.event_date, first_day, retention.period), n_periods) AS periods
		FROM prod_analytics.events e
		WHERE e.event_time >= begins AND e.event_time < ends
			AND e.user_id IS NOT NULL
			AND (retention.org_id IS NULL OR e.org_id = retention.org_id)
		GROUP BY e.user_id
	),
	members AS (
		SELECT position(B'1' IN a.periods) - 1 AS cohort, a.periods
		FROM active a
		WHERE retention.cohort_by = 'first_event'
			AND NOT EXISTS (
				SELECT FROM prod_analytics.events before
				WHERE before.user_id = a.user_id AND before.event_time < begins
					AND (retention.org_id IS NULL OR before.org_id = retention.org_id))
		UNION ALL
		SELECT prod_analytics.period_number((u.signup_ts AT TIME ZONE 'UTC')::date, first_day, retention.period), a.periods
		FROM prod_analytics.users u
		LEFT JOIN active a ON a.user_id = u.user_id
		WHERE retention.cohort_by = 'signup'
			AND u.signup_ts >= begins AND u.signup_ts < ends
			AND (retention.org_id IS NULL OR u.org_id = retention.org_id)
	),
	cohorts AS (
		SELECT m.cohort, count(*) AS size, prod_analytics.day_counts(m.periods) AS active
		FROM members m
		GROUP BY m.cohort
	)
	SELECT (first_day + c.cohort * step)::date, c.size, n, a.users, round(100.0 * a.users / c.size, 2)
	FROM cohorts c
	CROSS JOIN generate_series(0, n_periods - c.cohort - 1) n
	CROSS JOIN LATERAL (SELECT coalesce(c.active[c.cohort + n + 1], 0) AS users) a
	ORDER BY c.cohort, n;
END
$$;

COMMENT ON FUNCTION retention(date, date, text, bigint, text) IS
	'for each cohort, the users who had their first event ever (cohort_by first_event) or signed up (signup: users.signup_ts) in one period, how many of them had an event 0, 1, 2, ... periods later, also where nobody had, and how many percent of the whole cohort that is; from the period (day; week, from Monday; month; in UTC) that from_date is in to the one of to_date, both whole; of one organization''s events, and with signup its users, or for NULL of all; a cohort without users is no row; first_event looks at the partitions before the range too, to know who was there before; raises 22023 for a date that is NULL or infinite, another period or cohort_by (section 6)';
-- Approximate numbers of active users (section 18).

CREATE FUNCTION hll_schema()
	RETURNS text
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	hll text;
BEGIN
	SELECT quote_ident(n.nspname) INTO hll
	FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'hll';
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'undefined_object',
			MESSAGE = 'extension "hll" is not installed',
			DETAIL = 'Approximate numbers are computed with it; active_users() gives exact ones without it.',
			HINT = format('Install the package postgresql-%s-hll (Debian, Ubuntu) or hll_%1$s (PGDG for Red Hat), then: CREATE EXTENSION hll;',
				current_setting('server_version_num')::integer / 10000);
	END IF;

	RETURN hll;
END
$$;

COMMENT ON FUNCTION hll_schema() IS
	'internal: the schema of the extension hll; raises 42704 when it is not installed';

-- Sketches have 2^14 registers: their standard error is 1.04 / sqrt(2^14), 0.81 percent.

CREATE FUNCTION approx_active_users(from_date date, to_date date, org_id bigint DEFAULT NULL)
	RETURNS bigint
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	hll CONSTANT text := prod_analytics.hll_schema();
	result bigint;
BEGIN
	PERFORM prod_analytics.check_days(approx_active_users.from_date, approx_active_users.to_date);

	EXECUTE format($query$
		SELECT round(%1$s.hll_cardinality(%1$s.hll_add_agg(%1$s.hll_hash_bigint(e.user_id), 14)))
		FROM prod_analytics.events e
		WHERE e.event_time >= prod_analytics.utc_midnight($1)
			AND e.event_time < prod_analytics.utc_midnight($2 + 1)
			AND e.user_id IS NOT NULL
			AND ($3 IS NULL OR e.org_id = $3)
	$query$, hll)
	INTO result
	USING approx_active_users.from_date, approx_active_users.to_date, approx_active_users.org_id;

	RETURN coalesce(result, 0);
END
$$;

COMMENT ON FUNCTION approx_active_users(date, date, bigint) IS
	'about how many different users had an event on the days (UTC) from from_date to to_date, of one organization''s events or, for NULL, of all; by HyperLogLog, with a standard error of 0.81 percent, and a bias of up to 3 percent around 40,000 users; needs the extension hll, else raises 42704, and 22023 for a date that is NULL or infinite (section 18)';

CREATE FUNCTION approx_rolling_users(from_date date, to_date date, org_id bigint DEFAULT NULL)
	RETURNS TABLE (event_date date, daily bigint, weekly bigint, monthly bigint)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	hll CONSTANT text := prod_analytics.hll_schema();
BEGIN
	PERFORM prod_analytics.check_days(approx_rolling_users.from_date, approx_rolling_users.to_date);

	RETURN QUERY EXECUTE format($query$
		WITH sketches AS (
			SELECT e.org_id, e.event_date, %1$s.hll_add_agg(%1$s.hll_hash_bigint(e.user_id), 14) AS users
			FROM prod_analytics.events e
			WHERE e.event_time >= prod_analytics.utc_midnight($1 - 29)
				AND e.event_time < prod_analytics.utc_midnight($2 + 1)
				AND e.user_id IS NOT NULL
				AND ($3 IS NULL OR e.org_id = $3)
			GROUP BY e.org_id, e.event_date
		),
		days AS (
			SELECT $1 + n AS event_date, %1$s.hll_union_agg(s.users) AS users
			FROM generate_series(-29, $2 - $1) n
			LEFT JOIN sketches s ON s.event_date = $1 + n
			GROUP BY n
		),
		windows AS (
			SELECT d.event_date, d.users AS daily,
				%1$s.hll_union_agg(d.users) OVER (ORDER BY d.event_date ROWS 6 PRECEDING) AS weekly,
				%1$s.hll_union_agg(d.users) OVER (ORDER BY d.event_date ROWS 29 PRECEDING) AS monthly
			FROM days d
		)
		SELECT w.event_date,
			coalesce(round(%1$s.hll_cardinality(w.daily)), 0)::bigint,
			coalesce(round(%1$s.hll_cardinality(w.weekly)), 0)::bigint,
			coalesce(round(%1$s.hll_cardinality(w.monthly)), 0)::bigint
		FROM windows w
		WHERE w.event_date >= $1
		ORDER BY w.event_date
	$query$, hll)
	USING approx_rolling_users.from_date, approx_rolling_users.to_date, approx_rolling_users.org_id;
END
$$;

COMMENT ON FUNCTION approx_rolling_users(date, date, bigint) IS
	'active_users() by HyperLogLog: a sketch for each organization and day, merged for each day and for the 7 and the 30 days that end with it; the error is that of approx_active_users(); needs the extension hll, else raises 42704, and 22023 for a date that is NULL or infinite (section 18)';
-- The hierarchy of organizations (section 5).

CREATE FUNCTION org_tree_paths(root bigint)
	RETURNS TABLE (node_id bigint, depth integer, path bigint[], is_cycle boolean)
	AS 'MODULE_PATHNAME', 'pa_org_tree_paths'
	LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 100000
	SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION org_tree_paths(bigint) IS
	'internal: where each node of org_tree() is, in the order of a walk from the top';

CREATE FUNCTION org_tree(root bigint DEFAULT NULL)
	RETURNS TABLE (node_id bigint, org_id bigint, parent_id bigint, role text, metadata jsonb, depth integer, path bigint[],
		is_cycle boolean)
	LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 100000
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT h.node_id, h.org_id, h.parent_id, h.role, h.metadata, t.depth, t.path, t.is_cycle
	FROM prod_analytics.org_tree_paths(org_tree.root) WITH ORDINALITY AS t (node_id, depth, path, is_cycle, place)
	JOIN prod_analytics.org_hierarchy h ON h.node_id = t.node_id
	ORDER BY t.place
$$;

COMMENT ON FUNCTION org_tree(bigint) IS
	'the nodes of org_hierarchy below a node, and itself, or for NULL all of them, each once, parents before their children and those by node_id: with depth, 1 for where it begins, and path, the node_ids from there to the node; is_cycle marks nodes that are above themselves: what no root leads to is listed from the lowest node_id of such a cycle on (section 5)';
-- Search in the knowledge base (section 3).

-- The plan is made for the values of the parameters; PARALLEL RESTRICTED because it may have workers.  What resembles a
-- query is the same in all sessions, whatever they have pg_trgm take for similar.

CREATE FUNCTION search_knowledge_base(query text, org_id bigint DEFAULT NULL, max_rows integer DEFAULT 20)
	RETURNS TABLE (kb_id bigint, title text, rank real, headline text)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED ROWS 20
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
	SET pg_trgm.word_similarity_threshold = 0.4
	AS $$
#variable_conflict use_column
DECLARE
	wanted CONSTANT tsquery := websearch_to_tsquery('english', search_knowledge_base.query);
	trgm CONSTANT text := (
		SELECT quote_ident(n.nspname)
		FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_trgm');
BEGIN
	IF search_knowledge_base.max_rows IS NULL OR search_knowledge_base.max_rows < 1 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'max_rows must be positive';
	END IF;

	-- Headlines are made of what is returned only: each takes as long as parsing the whole text.
	RETURN QUERY
	SELECT best.kb_id, best.title, best.rank, ts_headline('english', best.content, wanted)
	FROM (
		SELECT k.kb_id, k.title, k.content, ts_rank_cd(k.search_vector, wanted) AS rank
		FROM prod_analytics.knowledge_base k
		WHERE k.search_vector @@ wanted
			AND (search_knowledge_base.org_id IS NULL OR k.org_id = search_knowledge_base.org_id)
		ORDER BY rank DESC, k.kb_id
		LIMIT search_knowledge_base.max_rows
	) best
	ORDER BY best.rank DESC, best.kb_id;
	IF FOUND THEN
		RETURN;
	END IF;

	RETURN QUERY EXECUTE format($fallback$
		SELECT k.kb_id, k.title, %1$s.word_similarity($1, k.title) AS rank, left(k.content, 200)
		FROM prod_analytics.knowledge_base k
		WHERE k.title OPERATOR(%1$s.%%>) $1
			AND ($2 IS NULL OR k.org_id = $2)
		ORDER BY rank DESC, k.kb_id
		LIMIT $3
	$fallback$, trgm)
	USING search_knowledge_base.query, search_knowledge_base.org_id, search_knowledge_base.max_rows;
END
$$;

COMMENT ON FUNCTION search_knowledge_base(text, bigint, integer) IS
	'the articles that match a query in the syntax of web search ("a phrase", or, -not), the best max_rows of them, of one organization or for NULL of all: rank is ts_rank_cd() of title and content, headline a part of the content with the matches in <b> and </b>, otherwise as it is stored, so it may hold HTML of its own; when nothing matches, the articles whose title resembles the query: rank is then word_similarity() of pg_trgm, above 0.4, and headline the beginning of the content; raises 22023 for max_rows that is NULL or not positive (section 3)';
-- Users by what they did, and properties as rows (sections 7 and 17).

-- Single SELECTs without SET become part of the query that calls them, so that EXPLAIN shows the join and conditions
-- reach into it; hence the operators with their schema.

CREATE FUNCTION users_with_event(event_type text, from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
	RETURNS TABLE (user_id bigint, email text)
	LANGUAGE sql STABLE PARALLEL SAFE
	AS $$
	SELECT u.user_id, u.email::pg_catalog.text
	FROM prod_analytics.users u
	WHERE EXISTS (
		SELECT FROM prod_analytics.events e
		WHERE e.user_id OPERATOR(pg_catalog.=) u.user_id
			AND e.event_type OPERATOR(pg_catalog.=) users_with_event.event_type
			AND e.event_time OPERATOR(pg_catalog.>=) coalesce(users_with_event.from_time, '-infinity')
			AND e.event_time OPERATOR(pg_catalog.<) coalesce(users_with_event.to_time, 'infinity'))
$$;

COMMENT ON FUNCTION users_with_event(text, timestamptz, timestamptz) IS
	'the users who have an event of a type, from from_time on and before to_time (NULL: no bound); a semi-join (section 17)';

CREATE FUNCTION users_without_event(event_type text, from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
	RETURNS TABLE (user_id bigint, email text)
	LANGUAGE sql STABLE PARALLEL SAFE
	AS $$
	SELECT u.user_id, u.email::pg_catalog.text
	FROM prod_analytics.users u
	WHERE NOT EXISTS (
		SELECT FROM prod_analytics.events e
		WHERE e.user_id OPERATOR(pg_catalog.=) u.user_id
			AND e.event_type OPERATOR(pg_catalog.=) users_without_event.event_type
			AND e.event_time OPERATOR(pg_catalog.>=) coalesce(users_without_event.from_time, '-infinity')
			AND e.event_time OPERATOR(pg_catalog.<) coalesce(users_without_event.to_time, 'infinity'))
$$;

COMMENT ON FUNCTION users_without_event(text, timestamptz, timestamptz) IS
	'the users who have no event of a type, from from_time on and before to_time (NULL: no bound); an anti-join (section 17)';

CREATE FUNCTION make_product_attributes()
	RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
-- What is no array has no elements, rather than being an error.
BEGIN
	IF NOT prod_analytics.is_missing('product_attributes') THEN
		RETURN 0;
	END IF;

	CREATE VIEW product_attributes AS
		SELECT e.event_id, e.user_id, e.event_time,
			e.event_props->'product'->>'id' AS product_id,
			k.attr->>'k' AS attr_key,
			k.attr->>'v' AS attr_value
		FROM events e
		CROSS JOIN LATERAL jsonb_array_elements(
			CASE jsonb_typeof(e.event_props->'product'->'attributes')
				WHEN 'array' THEN e.event_props->'product'->'attributes'
			END) AS k (attr)
		WHERE e.event_type = 'product_view';
	COMMENT ON VIEW product_attributes IS
		'a row for each element of product.attributes in the properties of events of type product_view: its k and its v (section 7)';
	GRANT SELECT ON product_attributes TO analytics_reader, analytics_operator;

	RETURN 1;
END
$$;

COMMENT ON FUNCTION make_product_attributes() IS
	'internal: make the view product_attributes in the first schema of the search_path, if it lacks it; returns how many views were made';
CREATE FUNCTION make_plan_tables()
	RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
BEGIN
	IF NOT prod_analytics.is_missing('captured_plans') THEN
		RETURN 0;
	END IF;
	CREATE TABLE captured_plans (
		plan_id bigserial PRIMARY KEY,
		captured_at timestamptz NOT NULL DEFAULT clock_timestamp(),
		captured_by name NOT NULL,
		query text NOT NULL,
		executed boolean NOT NULL,
		plan jsonb NOT NULL
	);
	COMMENT ON TABLE captured_plans IS
		'the plans that capture_plan() has kept (section 11)';
	COMMENT ON COLUMN captured_plans.executed IS
		'whether the query was run, so that the plan has times and rows';
	COMMENT ON COLUMN captured_plans.plan IS
		'what EXPLAIN (FORMAT JSON) tells';
	REVOKE ALL ON captured_plans FROM analytics_reader;
	GRANT SELECT ON captured_plans TO analytics_operator;
	RETURN 1;
END
$$;

COMMENT ON FUNCTION make_plan_tables() IS
	'internal: what make_tables() does for captured plans; returns how many tables were made';

CREATE FUNCTION capture_plan(query text, run boolean DEFAULT false)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_capture_plan'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION capture_plan(text, boolean) IS
	'keep the plan of a query, which the caller may be allowed to run, in captured_plans: a query that only reads is run, with times and buffers; one that changes or locks rows is run only when run is true, and then rolled back; returns plan_id, executed and plan, what EXPLAIN (ANALYZE, BUFFERS, VERBOSE, FORMAT JSON) tells; raises 22004 for NULL, 42601 for what is not one statement, 0A000 for what has no plan, 25006 in a read-only transaction, and whatever the query raises (section 11)';

CREATE FUNCTION slow_queries(max_rows integer DEFAULT 10)
	RETURNS TABLE (query text, calls bigint, total_ms double precision, mean_ms double precision, rows bigint, hit_percent numeric)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	place name;
BEGIN
	SELECT n.nspname INTO place FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements';
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'feature_not_supported',
			MESSAGE = 'slow_queries() needs the extension pg_stat_statements',
			HINT = 'Add pg_stat_statements to shared_preload_libraries, restart the server, and call: CREATE EXTENSION pg_stat_statements;';
	END IF;
	RETURN QUERY EXECUTE format(
		'SELECT s.query, s.calls, s.total_exec_time, s.mean_exec_time, s.rows,'
		' round(100.0 * s.shared_blks_hit / nullif(s.shared_blks_hit + s.shared_blks_read, 0), 1)'
		' FROM %I.pg_stat_statements s WHERE s.dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())'
		' ORDER BY s.total_exec_time DESC LIMIT $1', place)
		USING slow_queries.max_rows;
END
$$;

COMMENT ON FUNCTION slow_queries(integer) IS
	'the queries of this database that have taken most time altogether, by pg_stat_statements: calls, milliseconds in all and for each call, rows, and the percentage of blocks that were in memory (NULL: it read none); others'' queries are shown to members of pg_read_all_stats; raises 0A000 when the extension is not there, and 55000 when its library was not preloaded (section 11)';
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

CREATE FUNCTION follow_job()
	RETURNS trigger
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- The state of a job begins with its schedule, and again when that changes or the job is resumed: what was due
-- until then is not made up for.
BEGIN
	IF TG_OP = 'UPDATE' AND NEW.job_name = OLD.job_name AND NEW.schedule = OLD.schedule
		AND NEW.timezone = OLD.timezone AND NEW.paused = OLD.paused THEN
		RETURN NULL;
	END IF;
	INSERT INTO prod_analytics.job_state AS s (job_name, next_run_at)
	VALUES (NEW.job_name, prod_analytics.next_slot(NEW.schedule, clock_timestamp(), NEW.timezone))
	ON CONFLICT (job_name) DO UPDATE SET next_run_at = EXCLUDED.next_run_at, retry_at = NULL;
	RETURN NULL;
END
$$;

COMMENT ON FUNCTION follow_job() IS
	'internal: trigger of jobs that keeps job_state in step; raises 22023 for what is no schedule and 22023 for what is no time zone';

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
		('quality_checks', '1 hour', $c$SELECT jsonb_strip_nulls(jsonb_build_object('rows', count(*),
	'status', CASE WHEN count(*) FILTER (WHERE severity = 'error' AND status IN ('FAIL', 'ERROR')) > 0 THEN 'FAILED' ELSE 'SUCCESS' END,
	'error', 'failed: ' || string_agg(check_name, ', ') FILTER (WHERE severity = 'error' AND status IN ('FAIL', 'ERROR')),
	'not_passed', jsonb_object_agg(check_name, status) FILTER (WHERE status <> 'PASS')))
FROM prod_analytics.run_quality_checks()$c$, CURRENT_USER, '1 hour', 0, NULL),
		('purge_history', '1 hour', 'CALL prod_analytics.purge_history()', CURRENT_USER, '1 hour', 0, NULL)
	ON CONFLICT DO NOTHING
$$;

COMMENT ON FUNCTION make_default_jobs() IS
	'internal: the jobs that are there from the start';

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

CREATE FUNCTION next_wake(at timestamptz)
	RETURNS timestamptz
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT min(least(s.next_run_at, s.retry_at))
	FROM prod_analytics.jobs j JOIN prod_analytics.job_state s ON s.job_name = j.job_name
	WHERE NOT j.paused AND least(s.next_run_at, s.retry_at) > next_wake.at
$$;

COMMENT ON FUNCTION next_wake(timestamptz) IS
	'internal: when the next job will be due that is not at a moment; NULL: none will';

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
	RETURN QUERY SELECT run, job.command, ceil(extract(epoch FROM job.timeout) * 1000)::bigint, job.owner;
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
	failed CONSTANT boolean := end_run.status = 'FAILED';
BEGIN
	UPDATE prod_analytics.etl_jobs e
	SET status = end_run.status, finished_at = clock_timestamp(), rows_processed = end_run.rows,
		details = coalesce(e.details, '{}') || coalesce(end_run.details, '{}')
	WHERE e.job_id = end_run.job_id AND e.status = 'RUNNING'
	RETURNING * INTO run;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;

	UPDATE prod_analytics.job_state s SET
		last_status = end_run.status,
		last_duration = run.finished_at - run.started_at,
		failures = CASE WHEN failed THEN s.failures + 1 ELSE 0 END,
		succeeded_at = CASE WHEN end_run.status = 'SUCCESS' THEN run.finished_at ELSE s.succeeded_at END,
		retry_at = CASE WHEN failed AND s.attempt <= j.max_retries THEN run.finished_at + prod_analytics.retry_delay(s.attempt) END
	FROM prod_analytics.jobs j
	WHERE s.job_name = run.job_name AND s.last_job_id = run.job_id AND j.job_name = s.job_name;

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
	WITH orphan AS MATERIALIZED (
		SELECT e.job_id, e.job_name, e.rows_processed
		FROM prod_analytics.etl_jobs e
		WHERE e.status = 'RUNNING' AND NOT EXISTS (
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
			MESSAGE = format('job "%s" would depend on itself', save_job.job_name);
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
	'let the worker run a command, as the caller, by a schedule (see next_slot()), or change a job of that name; timeout: cancel a run after it; max_retries: how often a failed run is tried again, after 5 seconds, then twice as long each time, at most 15 minutes; catch_up: whether slots for which no worker was there are made up for by one run (once) or by none (skip); depends_on: jobs that must have succeeded since this one began last; a job of somebody else can be changed by members of its owner, and, but for the command, by analytics_operator; raises 22004 when job_name, schedule or command is NULL, 22023 for what is no schedule, time zone, job name or number, 42704 when depends_on names no job, 42501 for somebody else''s job, 0A000 on PostgreSQL 15 and 16 for a caller who may not log in';

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
	'run a job now, whether it is due, paused or waits for others, and wait for its end: by the worker, or, where none is running, in this session; returns job_id, status (SUCCESS, FAILED, SKIPPED), rows, duration_seconds and what else the job tells; raises 42704 and 42501 like unschedule_job(), 25001 in a transaction block when the worker is to run it, since it could wait for locks that the block holds, 40P01 when the run waits for this session, as CREATE INDEX CONCURRENTLY does; it goes on all the same';

CREATE FUNCTION cancel_job(job_name text)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_cancel_job'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION cancel_job(text) IS
	'cancel the run of a job that the worker is doing, which ends as FAILED with SQLSTATE 57014; returns whether there was one; raises 42704 and 42501 like unschedule_job()';

CREATE FUNCTION purge_runs(so_far bigint)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'pa_purge_runs'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION purge_runs(bigint) IS
	'internal: delete the oldest runs of etl_jobs, results of quality checks and captured plans that are older than the setting prod_analytics.history_retention, at most 10,000 of each; returns so_far and how many, NULL when there are none';

CREATE PROCEDURE purge_history()
	LANGUAGE plpgsql
	AS $$
-- A procedure that commits cannot have a search_path of its own, so nothing here depends on the caller's.
DECLARE
	job CONSTANT bigint := prod_analytics.job_begin('purge_history');
	purged bigint := 0;
	so_far bigint := 0;
BEGIN
	IF job IS NULL THEN
		RAISE NOTICE 'another session is purging the history';
		RETURN;
	END IF;
	COMMIT;
	LOOP
		so_far := prod_analytics.purge_runs(purged);
		EXIT WHEN so_far IS NULL;
		purged := so_far;
		PERFORM prod_analytics.job_note(job, purged, '{}');
		COMMIT;
	END LOOP;
	PERFORM prod_analytics.job_finish(job, 'SUCCESS', purged, '{}');
	COMMIT;
END
$$;

COMMENT ON PROCEDURE purge_history() IS
	'delete the runs in etl_jobs, the results in quality_results and the plans in captured_plans that are older than the setting prod_analytics.history_retention, 10,000 and a commit at a time; logs the run; raises 25001 inside a transaction block';
CREATE FUNCTION load_sample_data(users integer DEFAULT 100, events integer DEFAULT 5000, seed double precision DEFAULT 0.42)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	AS $$
-- Everything hangs on the seed and the day, nothing on the time of the call: the same two give the
-- same rows, with the same event_id, so a second load finds everything there.  Nor on the session's
-- time zone, where a day may have 23 or 25 hours.
#variable_conflict use_column
DECLARE
	today CONSTANT timestamptz := date_trunc('day', now(), 'UTC');
	organization_ids bigint[];
	user_ids bigint[];
	new_organizations bigint;
	new_users bigint;
	new_events bigint;
BEGIN
	IF load_sample_data.users IS NULL OR load_sample_data.users < 1
		OR load_sample_data.events IS NULL OR load_sample_data.events < 0
		OR load_sample_data.seed IS NULL OR load_sample_data.seed NOT BETWEEN -1 AND 1 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'users must be positive, events must not be negative, and seed must be from -1 to 1';
	END IF;

	PERFORM prod_analytics.ensure_partitions('prod_analytics.events');
	PERFORM setseed(load_sample_data.seed);

	INSERT INTO prod_analytics.organizations (org_name, industry, created_at)
	SELECT sample.org_name, sample.industry, today
	FROM (VALUES ('Acme Corp', 'ecommerce'), ('Globex', 'cloud')) AS sample (org_name, industry)
	WHERE NOT EXISTS (SELECT FROM prod_analytics.organizations o WHERE o.org_name = sample.org_name);
	GET DIAGNOSTICS new_organizations = ROW_COUNT;

	SELECT array_agg(o.org_id ORDER BY o.org_name) INTO organization_ids
	FROM (SELECT org_name, min(org_id) AS org_id FROM prod_analytics.organizations
		WHERE org_name IN ('Acme Corp', 'Globex') GROUP BY org_name) o;

	-- One draw a row: a subquery that does not depend on the row would be drawn once for all.
	INSERT INTO prod_analytics.users (org_id, email, username, attrs, signup_ts, created_at)
	SELECT organization_ids[1 + floor(draw.organization * cardinality(organization_ids))::integer],
		format('user%s@example.com', draw.n), format('user%s', draw.n),
		jsonb_build_object('signup_source', 'email'), draw.signup, draw.signup
	FROM (
		SELECT n, random() AS organization, today - random() * interval '60 days' AS signup
		FROM generate_series(1, load_sample_data.users) n
	) draw
	ON CONFLICT (email) DO NOTHING;
	GET DIAGNOSTICS new_users = ROW_COUNT;

	SELECT array_agg(u.user_id ORDER BY n) INTO user_ids
	FROM generate_series(1, load_sample_data.users) n
	JOIN prod_analytics.users u ON lower(u.email::text) = format('user%s@example.com', n);

	INSERT INTO prod_analytics.events
		(event_id, user_id, org_id, event_type, event_props, event_time, received_at, device_type)
	SELECT hashtextextended(format('sample %s %s %s', load_sample_data.seed, extract(epoch FROM today), draw.n), 0)
			& 9223372036854775807,
		u.user_id, u.org_id,
		CASE WHEN draw.kind < 0.02 THEN 'purchase' WHEN draw.kind < 0.2 THEN 'add_to_cart' ELSE 'product_view' END,
		jsonb_build_object('price', round((draw.price * 100)::numeric, 2),
			'product_id', (1000 + floor(draw.product * 100))::text, 'device', d.device),
		t.event_time, t.event_time, d.device
	FROM (
		SELECT n, random() AS person, random() AS kind, random() AS price, random() AS product,
			random() AS device, random() AS moment
		FROM generate_series(1, load_sample_data.events) n
	) draw
	JOIN prod_analytics.users u
		ON u.user_id = user_ids[1 + floor(draw.person * cardinality(user_ids))::integer],
	LATERAL (SELECT CASE WHEN draw.device < 0.5 THEN 'mobile' ELSE 'desktop' END AS device) d,
	LATERAL (SELECT greatest(u.signup_ts, today - interval '30 days') AS earliest) s,
	LATERAL (SELECT s.earliest + draw.moment * (today - s.earliest) AS event_time) t
	ON CONFLICT (event_id, event_time) DO NOTHING;
	GET DIAGNOSTICS new_events = ROW_COUNT;

	RETURN jsonb_build_object('organizations', new_organizations, 'users', new_users, 'events', new_events);
END
$$;

COMMENT ON FUNCTION load_sample_data(integer, integer, double precision) IS
	'add two organizations, users spread over them, and events of the 30 days before today: the same seed (-1 to 1) on the same day gives the same rows, and adds nothing the second time; returns how many organizations, users and events were new; raises 22023 for a parameter that is NULL or out of range (section 19)';
-- PUBLIC gets nothing.  Roles get theirs in grant_privileges(), called by create_tables():
-- a GRANT here would be recorded as an initial privilege and be missing from dumps.

CREATE FUNCTION close_functions()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	member text;
BEGIN
	FOR member IN
		SELECT d.objid::regprocedure::text
		FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
		WHERE e.extname = 'prod_analytics' AND d.refclassid = 'pg_extension'::regclass
			AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
	LOOP
		EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', member);
	END LOOP;
END
$$;

COMMENT ON FUNCTION close_functions() IS
	'internal: take the privileges on our functions away from PUBLIC';
-- The last part: what the script does once all functions are there.

CREATE FUNCTION install_tables()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- The tables are made, unless a dump is being restored and brings them along.  pg_dump turns row_security
-- off before CREATE EXTENSION, and nobody else does.
DECLARE
	setting CONSTANT text := current_setting('prod_analytics.create_tables');
BEGIN
	IF setting = 'on' OR (setting = 'auto' AND current_setting('row_security')::boolean) THEN
		PERFORM prod_analytics.create_tables();
	ELSE
		RAISE WARNING USING
			MESSAGE = 'prod_analytics did not make its tables',
			DETAIL = CASE setting
				WHEN 'off' THEN 'The setting prod_analytics.create_tables is off.'
				ELSE 'row_security is off, as it is while a dump is restored, which brings the tables along.'
			END,
			HINT = 'If no dump is being restored, make them with: SELECT prod_analytics.create_tables();';
	END IF;
END
$$;

COMMENT ON FUNCTION install_tables() IS
	'internal: what CREATE EXTENSION does about the tables';

SELECT prod_analytics.close_functions();
SELECT prod_analytics.install_tables();
