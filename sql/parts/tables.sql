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

CREATE FUNCTION update_tables(new_functions oid[])
	RETURNS integer
	AS 'MODULE_PATHNAME', 'pa_update_tables'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION update_tables(oid[]) IS
	'internal: what create_tables() does, for the script that updates the extension: privileges are given on new_functions only';

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
		PERFORM prod_analytics.make_partition_status();
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
	made := made + prod_analytics.make_observability_views();

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
-- the definitions stand in one place.  A schema that somebody has put there is not in the way.
DECLARE
	scratch text := 'prod_analytics_expected';
	problem text;
BEGIN
	WHILE to_regnamespace(scratch) IS NOT NULL LOOP
		scratch := format('prod_analytics_expected_%s', floor(random() * 1e9));
	END LOOP;
	BEGIN
		EXECUTE format('CREATE SCHEMA %I', scratch);
		PERFORM set_config('search_path', format('%I, pg_temp', scratch), true);
		PERFORM prod_analytics.make_tables();

		SELECT format('In "%s", %s is %s; expected is %s',
				e.relation, e.name, coalesce(a.definition, 'missing'), e.definition)
		INTO problem
		FROM prod_analytics.relation_columns(scratch) e
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
-- They fire in sessions that apply what was replicated, too, and for all commands that can rename a table (ALTER INDEX does)
-- or its column, and that can take a materialized view along by CASCADE.
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
				'{ALTER TABLE,ALTER SCHEMA,ALTER MATERIALIZED VIEW,ALTER INDEX,ALTER VIEW,ALTER FOREIGN TABLE,ALTER TYPE}'::text[],
				'keeps the names in the registries of prod_analytics in step with the tables and materialized views'),
			('prod_analytics_follow_drops', 'sql_drop', 'prod_analytics.follow_drops()',
				'{DROP TABLE,DROP SCHEMA,DROP OWNED,DROP MATERIALIZED VIEW,DROP VIEW,DROP FUNCTION,DROP TYPE,DROP EXTENSION,ALTER TABLE,DROP AGGREGATE,DROP ROUTINE,DROP OPERATOR,DROP DOMAIN,DROP COLLATION,DROP CAST,DROP SEQUENCE,DROP LANGUAGE,DROP FOREIGN TABLE,DROP SERVER,DROP FOREIGN DATA WRAPPER,DROP ACCESS METHOD,DROP TEXT SEARCH CONFIGURATION,DROP TEXT SEARCH DICTIONARY}',
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
		EXECUTE format('ALTER EVENT TRIGGER %I %s', wanted.name,
			CASE existing.evtenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END);
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
		WHEN 6 THEN
			-- A store may be older than one of these.
			IF NOT prod_analytics.is_missing('partition_status') THEN
				PERFORM prod_analytics.make_partition_status();
			END IF;
			IF NOT prod_analytics.is_missing('matview_status') THEN
				PERFORM prod_analytics.make_matview_status();
			END IF;
			IF NOT prod_analytics.is_missing('quality_checks') THEN
				IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = 'quality_checks'::regclass AND a.attname = 'timeout') THEN
					RAISE EXCEPTION USING
						ERRCODE = 'duplicate_column',
						MESSAGE = 'table "quality_checks" has a column "timeout" of its own, where this version adds one',
						DETAIL = 'Nothing was changed.',
						HINT = 'Rename it, and try again.';
				END IF;
				ALTER TABLE quality_checks ADD COLUMN timeout interval CHECK (timeout >= '1 millisecond');
				COMMENT ON COLUMN quality_checks.timeout IS
					'after how long the check is cancelled, which is an ERROR; NULL: never';
				COMMENT ON COLUMN quality_checks.query IS
					'a SELECT without parameters that returns the failing rows; it runs as the owner of this table, with search_path pg_catalog, in a read-only transaction';
				PERFORM prod_analytics.renew_checks('[
					{"old_name": "orphan_events", "fingerprint": "9920123330ee9ffc", "described": "424307cbb43e7b8c"},
					{"old_name": "missing_purchase_keys", "fingerprint": "e3781d24893df64b", "described": "48caaf87aececccf"},
					{"old_name": "duplicate_events", "fingerprint": "19ba6e5c07352c38", "described": "d9b56156d920afd7"},
					{"old_name": "future_events", "fingerprint": "1fed0e9fde2ef931", "described": "edc804e9a81b68bb"},
					{"old_name": "stale_events", "fingerprint": "6a1b1d4667893ae2", "described": "820f6d1e3b0236b7"},
					{"old_name": "low_volume", "fingerprint": "dfbab7ca24f4cf16", "described": "4aa0ebfd498dac90"},
					{"old_name": "anonymous_events", "fingerprint": "d83f5abaef649aeb", "described": "1e28152a5365fbe8", "new_name": "null_rates"},
					{"old_name": "quarantine_growth", "fingerprint": "9c261b210729cd3e", "described": "8e468bbb1e87464d"},
					{"old_name": "rows_in_default_partition", "fingerprint": "0345205e5c5271ec", "described": "4aa0df838497602f"},
					{"old_name": "partition_runway", "fingerprint": "704b79a62a0d266b", "described": "773a42e1ad4ad5c3"},
					{"old_name": "stale_matviews", "fingerprint": "3621d0f0318324c4", "described": "5ff90968a66f3a87"}]', 5);
			END IF;
			IF NOT prod_analytics.is_missing('quality_results') THEN
				COMMENT ON COLUMN quality_results.sample IS
					'at most ten of them; of each at most 8 kB: of a value that is too big there is only how many bytes it has';
			END IF;
	END CASE;
END
$$;

COMMENT ON FUNCTION migrate_step(integer) IS
	'internal: bring tables of version to_version - 1 to version to_version';

CREATE FUNCTION migrate_tables(new_functions oid[] DEFAULT NULL)
	RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
DECLARE
	newest CONSTANT integer := 6;
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
	IF found_version IS NULL THEN
		PERFORM prod_analytics.grant_later_tables();
	END IF;
	made := prod_analytics.make_tables();
	IF new_functions IS NULL THEN
		PERFORM prod_analytics.grant_privileges();
	ELSE
		PERFORM prod_analytics.grant_new_privileges(new_functions);
	END IF;
	PERFORM prod_analytics.make_table_triggers();
	IF is_first THEN
		PERFORM prod_analytics.enable_metrics();
	ELSE
		PERFORM prod_analytics.restore_capture();
	END IF;
	IF has_no_jobs THEN
		PERFORM prod_analytics.make_default_jobs();
	ELSE
		PERFORM prod_analytics.mend_default_jobs();
	END IF;
	PERFORM prod_analytics.make_event_triggers();

	IF found_version IS DISTINCT FROM newest THEN
		DELETE FROM schema_version;
		INSERT INTO schema_version (version) VALUES (newest);
	END IF;

	RETURN made;
END
$$;

COMMENT ON FUNCTION migrate_tables(oid[]) IS
	'internal: what create_tables() does once its search_path is set, giving privileges on all functions, or only on new_functions; returns how many tables and views were made';
