-- Views on the state of tables, indexes and ingestion (section 11).  They read catalogs, statistics and file sizes, so they
-- work on a standby too.

CREATE FUNCTION observed_tables()
	RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	-- A materialized view's archive may be anywhere, as managed tables and registered views may.
	SELECT $sql$
		WITH RECURSIVE registered (name) AS (
			SELECT parent FROM partition_policies
			UNION SELECT matview FROM registered_matviews
			UNION SELECT archive FROM registered_matviews
		),
		named (names) AS (
			SELECT parse_ident(r.name) FROM registered r WHERE r.name ~ '^("([^"]|"")+"|[a-z_][a-z0-9_]*)[.]("([^"]|"")+"|[a-z_][a-z0-9_]*)$'
		),
		trees (root, relid) AS (
			SELECT c.oid, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'p', 'm') AND (n.nspname = 'prod_analytics' AND NOT c.relispartition
				OR ARRAY[n.nspname::text, c.relname::text] IN (SELECT d.names FROM named d))
			UNION SELECT t.root, i.inhrelid FROM trees t JOIN pg_inherits i ON i.inhparent = t.relid
		),
		widths AS (
			SELECT s.schemaname, s.tablename, s.attname, s.avg_width * (1 - s.null_frac) AS width, s.null_frac > 0 AS has_nulls
			FROM pg_stats s WHERE NOT s.inherited
		)
	$sql$
$$;

COMMENT ON FUNCTION observed_tables() IS
	'internal: the beginning of a query over our tables, the managed ones and the registered materialized views with their partitions (trees), and over the widths of columns that the caller may know';

CREATE FUNCTION make_table_status()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
BEGIN
	-- Bloat is what the table takes up beyond the pages that its rows would fill: a line pointer, a header, and the
	-- columns as wide as ANALYZE has found them, each tuple a multiple of 8 bytes, less what the fillfactor leaves free.
	EXECUTE 'CREATE VIEW table_status AS ' || prod_analytics.observed_tables() || $sql$,
		tuples AS (
			SELECT w.schemaname, w.tablename, count(*) AS columns, 4 + CASE WHEN bool_or(w.has_nulls) THEN 8 * ceil((23 + count(*) / 8.0) / 8) ELSE 24 END
				+ 8 * ceil(sum(w.width) / 8) AS size
			FROM widths w GROUP BY 1, 2
		),
		parts AS (
			SELECT t.root, c.oid, c.relkind, c.relpages, pg_relation_size(c.oid) AS table_bytes,
				CASE WHEN c.reltoastrelid = 0 THEN 0 ELSE pg_total_relation_size(c.reltoastrelid) END AS toast_bytes,
				pg_indexes_size(c.oid) AS index_bytes,
				coalesce(nullif(c.reltuples, -1), pg_stat_get_live_tuples(c.oid)) AS rows, pg_stat_get_dead_tuples(c.oid) AS dead_rows,
				greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)) AS last_vacuum,
				greatest(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) AS last_analyze,
				greatest(age(c.relfrozenxid), age(o.relfrozenxid)) AS xid_age,
				CASE WHEN c.reltuples >= 0 AND u.columns = (SELECT count(*) FROM pg_attribute a
						WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v')
					THEN greatest(c.relpages - ceil(c.reltuples * u.size / (8168.0 * coalesce(
						substring(array_to_string(c.reloptions, ',') FROM 'fillfactor=(\d+)')::integer, 100) / 100)), 0) * 8192 END AS bloat_bytes
			FROM trees t
			JOIN pg_class c ON c.oid = t.relid AND c.relkind IN ('r', 'm')
			JOIN pg_namespace n ON n.oid = c.relnamespace
			LEFT JOIN pg_class o ON o.oid = c.reltoastrelid
			LEFT JOIN tuples u ON u.schemaname = n.nspname AND u.tablename = c.relname
		)
		SELECT r.oid::regclass AS table_name, CASE WHEN r.relkind = 'p' THEN count(p.oid) END AS partitions,
			coalesce(sum(p.rows), 0)::bigint AS rows, coalesce(sum(p.dead_rows), 0)::bigint AS dead_rows,
			coalesce(sum(p.table_bytes), 0)::bigint AS table_bytes, coalesce(sum(p.toast_bytes), 0)::bigint AS toast_bytes,
			coalesce(sum(p.index_bytes), 0)::bigint AS index_bytes,
			coalesce(sum(p.table_bytes + p.toast_bytes + p.index_bytes), 0)::bigint AS total_bytes,
			sum(p.bloat_bytes)::bigint AS bloat_bytes,
			round((100 * sum(p.bloat_bytes) / nullif(sum(p.relpages::bigint * 8192) FILTER (WHERE p.bloat_bytes IS NOT NULL), 0))::numeric, 1) AS bloat_percent,
			max(p.last_vacuum) AS last_vacuum,
			CASE WHEN r.relkind = 'p' THEN greatest(pg_stat_get_last_analyze_time(r.oid), pg_stat_get_last_autoanalyze_time(r.oid))
				ELSE max(p.last_analyze) END AS last_analyze,
			max(p.xid_age) AS xid_age,
			round(100.0 * max(p.xid_age) / current_setting('autovacuum_freeze_max_age')::bigint, 1) AS freeze_percent
		FROM (SELECT DISTINCT root FROM trees) t JOIN pg_class r ON r.oid = t.root LEFT JOIN parts p ON p.root = t.root
		GROUP BY r.oid, r.relkind
	$sql$;
	COMMENT ON VIEW table_status IS
		'our tables, the managed ones and the registered materialized views, with their partitions added up: estimated rows, dead rows, bytes, an estimate of bloat as of the last vacuum or analyze (NULL: ANALYZE has not run, or its statistics are not for the caller), the last vacuum of any partition, the last analyze (of a partitioned table: as a whole), the age of the oldest transaction ID, and how much of autovacuum_freeze_max_age that is (section 11)';
	REVOKE ALL ON table_status FROM analytics_reader;
	GRANT SELECT ON table_status TO analytics_operator;
END
$$;

COMMENT ON FUNCTION make_table_status() IS
	'internal: make the view table_status';

CREATE FUNCTION make_index_status()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
BEGIN
	-- Bloat is estimated of B-trees: an entry is a line pointer, a header, and the keys; NULLs need a bitmap.
	EXECUTE 'CREATE VIEW index_status AS ' || prod_analytics.observed_tables() || format($sql$,
		index_trees (root, indexrelid) AS (
			SELECT DISTINCT x.indexrelid, x.indexrelid FROM trees t JOIN pg_index x ON x.indrelid = t.relid
			JOIN pg_class c ON c.oid = x.indexrelid AND NOT c.relispartition
			UNION SELECT t.root, i.inhrelid FROM index_trees t JOIN pg_inherits i ON i.inhparent = t.indexrelid
		),
		entries AS (
			SELECT x.indexrelid, CASE WHEN count(w.width) = count(*) THEN
				4 + CASE WHEN bool_or(w.has_nulls) THEN 16 ELSE 8 END + 8 * ceil(sum(w.width) / 8) END AS size
			FROM (SELECT DISTINCT indexrelid FROM index_trees) t
			JOIN pg_index x ON x.indexrelid = t.indexrelid
			JOIN pg_class c ON c.oid = x.indexrelid AND c.relkind = 'i'
			JOIN pg_class o ON o.oid = x.indrelid
			JOIN pg_namespace n ON n.oid = o.relnamespace
			JOIN pg_attribute i ON i.attrelid = x.indexrelid
			LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[i.attnum - 1] AND a.attnum > 0
			LEFT JOIN widths w ON w.schemaname = n.nspname
				AND (w.tablename, w.attname) = (CASE WHEN a.attnum IS NULL THEN c.relname ELSE o.relname END, coalesce(a.attname, i.attname))
			GROUP BY 1
		),
		parts AS (
			SELECT t.root, c.relkind, x.indisvalid AND x.indisready AS is_valid, pg_stat_get_numscans(c.oid) AS scans,
				%s AS last_scan, pg_relation_size(c.oid) AS bytes, c.relpages,
				CASE WHEN m.amname = 'btree' AND c.reltuples >= 0 THEN greatest(c.relpages - 1 - ceil(c.reltuples * e.size / (8152.0 * coalesce(
					substring(array_to_string(c.reloptions, ',') FROM 'fillfactor=(\d+)')::integer, 90) / 100)), 0) * 8192 END AS bloat_bytes
			FROM index_trees t
			JOIN pg_index x ON x.indexrelid = t.indexrelid
			JOIN pg_class c ON c.oid = t.indexrelid
			JOIN pg_am m ON m.oid = c.relam
			LEFT JOIN entries e ON e.indexrelid = c.oid
		),
		indexes AS (
			SELECT p.root, count(*) FILTER (WHERE p.relkind = 'i') AS partitions, bool_and(p.is_valid) AS is_valid,
				coalesce(sum(p.scans), 0)::bigint AS scans, max(p.last_scan) AS last_scan, sum(p.bytes)::bigint AS bytes,
				sum(p.bloat_bytes)::bigint AS bloat_bytes,
				round((100 * sum(p.bloat_bytes) / nullif(sum(p.relpages::bigint * 8192) FILTER (WHERE p.bloat_bytes IS NOT NULL), 0))::numeric, 1) AS bloat_percent
			FROM parts p GROUP BY p.root
		)
		SELECT x.indrelid::regclass AS table_name, x.indexrelid::regclass AS index_name, m.amname AS method,
			x.indisunique AS is_unique, EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x')) AS is_constraint,
			i.is_valid, CASE WHEN c.relkind = 'I' THEN i.partitions END AS partitions, i.scans, i.last_scan, i.bytes, i.bloat_bytes, i.bloat_percent,
			i.scans = 0 AND NOT x.indisunique AND NOT x.indisexclusion AND NOT x.indisreplident AS is_unused
		FROM indexes i JOIN pg_index x ON x.indexrelid = i.root JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_am m ON m.oid = c.relam
	$sql$, CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'pg_stat_get_lastscan(c.oid)' ELSE 'NULL::timestamptz' END);
	COMMENT ON VIEW index_status IS
		'the indexes of our tables, the managed ones and the registered materialized views, with those of partitions added up: scans and the last one (NULL before PostgreSQL 16) since statistics were reset, bytes, an estimate of bloat (NULL: not a B-tree, or not known), whether all parts are valid, and is_unused: it was never scanned, and nothing else depends on it (section 11)';
	REVOKE ALL ON index_status FROM analytics_reader;
	GRANT SELECT ON index_status TO analytics_operator;
END
$$;

COMMENT ON FUNCTION make_index_status() IS
	'internal: make the view index_status';

CREATE FUNCTION make_ingest_status()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
BEGIN
	-- Nothing here grows with what is staged, or with history: staged rows are looked at in the order in which they will be
	-- taken, 10,000 at most, and runs back from the last one, 1,000 at most.
	CREATE VIEW ingest_status AS
		WITH sources AS (
			SELECT 'events' AS source, 'ingest_events' AS job_name, 'staging_events'::regclass AS staging, s.*
			FROM (SELECT count(*) AS staged_rows, min(r.received_at) AS oldest_staged_at
				FROM (SELECT received_at FROM staging_events LIMIT 10000) r) s
			UNION ALL
			SELECT 'users' AS source, 'upsert_users' AS job_name, 'staging_users'::regclass AS staging, s.*
			FROM (SELECT count(*) AS staged_rows, min(r.ingested_at) AS oldest_staged_at FROM (SELECT ingested_at FROM staging_users LIMIT 10000) r) s
		),
		reasons AS (
			SELECT q.source, coalesce(r.reason, 'none') AS reason, count(*) FILTER (WHERE q.quarantined_at > statement_timestamp() - interval '1 hour') AS last_hour,
				count(*) AS last_day
			FROM (
				SELECT 'events' AS source, quarantine_id, quarantined_at, reasons FROM quarantined_events
				UNION ALL SELECT 'users' AS source, quarantine_id, quarantined_at, reasons FROM quarantined_users
			) q
			LEFT JOIN LATERAL (SELECT DISTINCT jsonb_path_query(q.reasons, '$[*].code') #>> '{}' AS reason) r ON true
			WHERE q.quarantined_at > statement_timestamp() - interval '1 day'
			GROUP BY 1, 2
		)
		SELECT s.source, s.staged_rows, s.staged_rows < 10000 AS is_exact,
			greatest(s.staged_rows, pg_stat_get_live_tuples(s.staging)) AS staged_rows_estimate, s.oldest_staged_at,
			statement_timestamp() - least(s.oldest_staged_at, statement_timestamp()) AS lag,
			l.started_at AS last_run_at, l.status AS last_status, w.started_at AS last_rows_at, w.rows_processed AS last_rows,
			round((w.rows_processed / nullif(extract(epoch FROM w.finished_at - w.started_at), 0))::numeric, 3) AS rows_per_second,
			make_interval(secs => (w.details->>'lag_seconds')::double precision) AS last_lag,
			coalesce(q.last_hour, '{}') AS quarantined_last_hour, coalesce(q.last_day, '{}') AS quarantined_last_day
		FROM sources s
		LEFT JOIN LATERAL (
			SELECT e.started_at, e.status FROM etl_jobs e
			WHERE e.job_name = s.job_name AND e.started_at IS NOT NULL ORDER BY e.started_at DESC LIMIT 1) l ON true
		LEFT JOIN LATERAL (
			SELECT r.started_at, r.finished_at, r.rows_processed, r.details FROM (
				SELECT e.started_at, e.finished_at, e.status, e.rows_processed, e.details FROM etl_jobs e
				WHERE e.job_name = s.job_name AND e.started_at IS NOT NULL ORDER BY e.started_at DESC LIMIT 1000) r
			WHERE r.status = 'SUCCESS' AND r.rows_processed > 0 ORDER BY r.started_at DESC LIMIT 1) w ON true
		LEFT JOIN LATERAL (
			SELECT jsonb_object_agg(r.reason, r.last_hour) FILTER (WHERE r.last_hour > 0) AS last_hour, jsonb_object_agg(r.reason, r.last_day) AS last_day
			FROM reasons r WHERE r.source = s.source) q ON true;
	COMMENT ON VIEW ingest_status IS
		'for events and users: staged rows (exact below 10,000, else at least so many; the estimate has no bound), since when the oldest of them waits and how long that is (lag; 0: none does), the last run, the last one that took rows, its speed, how long the event that had waited longest had waited by its end (last_lag), and the rows set aside in the last hour and day by reason (section 11)';
	GRANT SELECT ON ingest_status TO analytics_reader, analytics_operator;
END
$$;

COMMENT ON FUNCTION make_ingest_status() IS
	'internal: make the view ingest_status';

CREATE FUNCTION make_observability_views()
	RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
DECLARE
	made integer := 0;
BEGIN
	IF prod_analytics.is_missing('table_status') THEN
		PERFORM prod_analytics.make_table_status();
		made := made + 1;
	END IF;
	IF prod_analytics.is_missing('index_status') THEN
		PERFORM prod_analytics.make_index_status();
		made := made + 1;
	END IF;
	IF prod_analytics.is_missing('ingest_status') THEN
		PERFORM prod_analytics.make_ingest_status();
		made := made + 1;
	END IF;
	RETURN made;
END
$$;

COMMENT ON FUNCTION make_observability_views() IS
	'internal: what make_tables() does for observability; returns how many views were made';
