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
	'keep the plan of a query, which the caller may be allowed to run, in captured_plans: a query that only reads is run, with times and buffers, in a read-only transaction; one that changes or locks rows, or calls a function that does, is planned, and run only when run is true, and then rolled back; returns plan_id, executed and plan, what EXPLAIN (ANALYZE, BUFFERS, VERBOSE, FORMAT JSON) tells; raises 22004 for NULL, 42601 for what is not one statement, 0A000 for what has no plan, 25006 in a read-only transaction, and whatever the query raises (section 11)';

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
