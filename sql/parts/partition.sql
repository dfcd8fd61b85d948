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
	'detach and drop (keep_table: only detach) the partitions of parent (NULL: of every managed table; one that fails is a WARNING) whose end is older than the retention at a moment, oldest first, but never the last one; returns how many, at most 100 a table and call; raises 55000 when parent has no policy, 42501 for a moment in the future unless the table is the caller''s, 23503 when rows of another table refer to one, 55P03 when a lock cannot be had, and 55000 or under REPEATABLE READ 0A000 when the groups of a materialized view cannot be archived';

CREATE FUNCTION plan_partitions(parent regclass DEFAULT NULL, at timestamptz DEFAULT now())
	RETURNS TABLE (table_name regclass, partition_name text, lower_bound text, upper_bound text,
		action text, rows_to_move bigint, ddl text)
	AS 'MODULE_PATHNAME', 'pa_plan_partitions'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION plan_partitions(regclass, timestamptz) IS
	'what maintain_partitions() would do to the partitions of parent (NULL: of every managed table) at a moment, without doing it: action is create or drop, rows_to_move are those of the default partition that belong to the new one; bounds are texts as in ddl, those of a timestamptz in UTC whatever TimeZone the session has, and NULL for the default partition and where there is none';

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
	'internal: update the statistics of a managed table as a whole, not those of its partitions, as its owner';

CREATE FUNCTION must_analyze(parent regclass)
	RETURNS boolean
	LANGUAGE sql VOLATILE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	-- What autovacuum would ask of a table: whether enough rows have changed.  A partition that has been analyzed since
	-- the parent was counts with all its rows, because how many of them had changed by then is not known any more.
	-- After a crash the live rows of a partition in which nothing changes are counted by nobody; pg_class still has them.
	SELECT p.analyzed_at IS NULL OR current_setting('autovacuum_analyze_threshold')::bigint
			+ current_setting('autovacuum_analyze_scale_factor')::double precision * greatest(p.rows, l.rows)
			< greatest(l.changed, abs(l.rows - p.rows))
	FROM (
		SELECT greatest(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) AS analyzed_at,
			greatest(c.reltuples, 0)::double precision AS rows
		FROM pg_class c WHERE c.oid = must_analyze.parent
	) p,
	LATERAL (
		SELECT coalesce(sum(greatest(pg_stat_get_live_tuples(t.relid), c.reltuples)), 0)::double precision AS rows,
			coalesce(sum(CASE
				WHEN greatest(pg_stat_get_last_analyze_time(t.relid), pg_stat_get_last_autoanalyze_time(t.relid)) > p.analyzed_at
				THEN greatest(pg_stat_get_live_tuples(t.relid), pg_stat_get_mod_since_analyze(t.relid))
				ELSE pg_stat_get_mod_since_analyze(t.relid) END), 0)::double precision AS changed
		FROM pg_partition_tree(must_analyze.parent) t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf
	) l
$$;

COMMENT ON FUNCTION must_analyze(regclass) IS
	'internal: whether so many rows of a partitioned table have changed since it was analyzed as a whole that autovacuum would analyze an ordinary one, or that is not known';

CREATE FUNCTION partition_warnings(parent regclass, at timestamptz)
	RETURNS text[]
	AS 'MODULE_PATHNAME', 'pa_partition_warnings'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION partition_warnings(regclass, timestamptz) IS
	'internal: what will go wrong with the partitions of parent if nobody does anything';

CREATE FUNCTION default_holds_rows(parent regclass)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_default_holds_rows'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION default_holds_rows(regclass) IS
	'internal: whether there is a row in the default partition of parent';

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
			IF prod_analytics.must_analyze(maintain_table.parent) THEN
				PERFORM prod_analytics.analyze_partitions(maintain_table.parent);
			END IF;
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
-- caller's: functions and types are qualified, and operators left to functions.
DECLARE
	managed CONSTANT pg_catalog.regclass[] := prod_analytics.managed_tables(maintain_partitions.parent);
	job CONSTANT bigint := prod_analytics.job_begin('maintain_partitions');
	details pg_catalog.jsonb := prod_analytics.count_step('{}', '{}');
	managed_table pg_catalog.regclass;
	current_phase pg_catalog.text;
	step pg_catalog.jsonb;
	message pg_catalog.text;
	error_detail pg_catalog.text;
	error_code pg_catalog.text;
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
						MESSAGE = pg_catalog.format('could not %s partitions of %s: %s', current_phase, managed_table::pg_catalog.text, message),
						DETAIL = pg_catalog.btrim(pg_catalog.concat_ws(' ', error_detail, 'Nothing was changed by this step.'));
					details := prod_analytics.count_step(details, pg_catalog.jsonb_build_object('error',
						pg_catalog.jsonb_build_object('table', managed_table::pg_catalog.text, 'step', current_phase,
							'sqlstate', error_code, 'error', message, 'detail', error_detail)));
				END;
				EXIT WHEN step IS NULL;

				message := pg_catalog.jsonb_extract_path_text(step, 'partition');
				IF message IS NOT NULL THEN
					IF pg_catalog.jsonb_extract_path_text(step, 'made') IS NULL THEN
						RAISE NOTICE 'dropped %', message;
					ELSE
						RAISE NOTICE 'created %, % rows moved', message, coalesce(pg_catalog.jsonb_extract_path_text(step, 'rows_moved'), '0');
					END IF;
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
	'bring the partitions of parent (NULL: of every managed table) in order: make the missing ones, move rows out of the default partition, drop the expired ones, ANALYZE the parent when enough rows have changed; commits after each step, so it can be cancelled and called again; runs once at a time, by the advisory lock hashtext(''etl_maintain_partitions''); logs the run in etl_jobs, with partitions_created, partitions_dropped, rows_moved, waits, warnings and errors in details; a table that fails is a WARNING and the run FAILED, the others go on; raises 25001 inside a transaction block';

CREATE FUNCTION managed_tables(parent regclass)
	RETURNS regclass[]
	AS 'MODULE_PATHNAME', 'pa_managed_tables'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION managed_tables(regclass) IS
	'internal: the managed tables, or parent alone; raises 55000 when parent has no policy and 25001 inside a transaction block';

CREATE FUNCTION make_partition_status()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
BEGIN
	-- Nothing here depends on what a session prefers: tables are found by the parts of their names, which it may see quoted, and
	-- a time is read without the name of its zone, which need not be known, or is that of another one.
	CREATE OR REPLACE VIEW partition_status AS
		WITH named AS (
			SELECT p.*, CASE WHEN p.parent ~ '^("([^"]|"")+"|[a-z_][a-z0-9_]*)[.]("([^"]|"")+"|[a-z_][a-z0-9_]*)$' THEN parse_ident(p.parent) END AS names
			FROM partition_policies p
		),
		managed AS (
			SELECT p.timezone, t.partrelid, t.partdefid, coalesce(nullif(y.typbasetype, 0), y.oid) AS key_type,
				CASE p.epoch_unit WHEN 'milliseconds' THEN 1e3 WHEN 'microseconds' THEN 1e6 ELSE 1 END AS units
			FROM named p
			JOIN pg_class c ON c.relkind = 'p'
			JOIN pg_namespace n ON n.oid = c.relnamespace AND ARRAY[n.nspname::text, c.relname::text] = p.names
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
				WHEN u.key_type = 'timestamptz'::regtype THEN regexp_replace(u.upper, ' (?!BC$)[A-Za-z]+( BC)?$', '\1')::timestamptz
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
END
$$;

COMMENT ON FUNCTION make_partition_status() IS
	'internal: make, or make anew, the view partition_status';
