-- What can be seen of tables, indexes and ingestion, and by whom.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
DROP SCHEMA IF EXISTS seen CASCADE;
-- A lag is compared with the time that the test has taken.
SELECT clock_timestamp() AS began \gset
CREATE EXTENSION prod_analytics CASCADE;
CREATE EXTENSION IF NOT EXISTS pgstattuple;
CREATE ROLE regress_operator LOGIN IN ROLE analytics_operator;
CREATE ROLE regress_reader LOGIN IN ROLE analytics_reader;

-- An empty store has every table and index, and nothing in them.
SELECT count(*) = (SELECT count(*) FROM pg_class WHERE relnamespace = 'prod_analytics'::regnamespace AND relkind IN ('r', 'p', 'm')) AS all_tables,
	bool_and(total_bytes = table_bytes + toast_bytes + index_bytes) AS bytes, count(*) FILTER (WHERE xid_age IS NULL) AS without_storage FROM prod_analytics.table_status;
SELECT count(*) = (SELECT count(*) FROM pg_class WHERE relnamespace = 'prod_analytics'::regnamespace AND relkind IN ('i', 'I')) AS all_indexes,
	bool_and(is_valid) AS valid, bool_or(is_unused) AS unused, bool_or(is_unused AND (is_unique OR is_constraint)) AS needed FROM prod_analytics.index_status;
SELECT * FROM prod_analytics.ingest_status;
SELECT matview, pending_keys, everything_changed, lag BETWEEN '0' AND clock_timestamp() - :'began' AS lag FROM prod_analytics.matview_status;

-- Partitions count with their table, wherever it is; so do registered views and their archives.
SELECT prod_analytics.ensure_partitions() > 0 AS made;
CREATE SCHEMA seen;
CREATE TABLE seen."Odd name" (id int, at timestamptz, filler text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE INDEX odd_filler ON seen."Odd name" (filler);
SELECT prod_analytics.manage_partitions('seen."Odd name"', 'at', '1 day', ahead => 1, behind => 1);
SELECT prod_analytics.ensure_partitions('seen."Odd name"') > 0 AS made;
CREATE TABLE seen.plain (k int, n int);
CREATE MATERIALIZED VIEW seen.counted AS SELECT k, count(*) FROM seen.plain GROUP BY k;
CREATE UNIQUE INDEX ON seen.counted (k);
SELECT prod_analytics.enable_incremental_refresh('seen.counted')->>'mode' AS mode;
INSERT INTO seen."Odd name" SELECT n, now(), repeat('x', 100) FROM generate_series(1, 1000) n;
DO $$ BEGIN
	EXECUTE (SELECT format('CREATE INDEX odd_own ON %s (at)', tableoid::regclass) FROM seen."Odd name" LIMIT 1);
END $$;
ANALYZE seen."Odd name";
SELECT table_name, partitions, rows, table_bytes > 100000 AS table_bytes, index_bytes > 100000 AS index_bytes, last_analyze IS NOT NULL AS analyzed, xid_age >= 0 AS age
FROM prod_analytics.table_status WHERE table_name::text LIKE 'seen.%' ORDER BY table_name::text COLLATE "C";
SELECT table_name::text LIKE '%Odd name"' AS of_table, index_name, method, is_unique, is_constraint, is_valid, partitions, bytes > 8192 AS bytes, is_unused
FROM prod_analytics.index_status WHERE table_name::text LIKE 'seen.%' ORDER BY index_name::text COLLATE "C";
-- A unique index that could not be built is not valid.
INSERT INTO seen.plain VALUES (1, 1), (1, 2);
SELECT prod_analytics.refresh_incremental('seen.counted')->>'status' AS status;
CREATE TABLE prod_analytics.mine AS SELECT 1 AS n FROM generate_series(1, 2);
CREATE UNIQUE INDEX CONCURRENTLY mine_n ON prod_analytics.mine (n);
SELECT index_name, is_unique, is_valid FROM prod_analytics.index_status WHERE NOT is_valid;
DROP TABLE prod_analytics.mine;
-- An index that is used.
SET enable_seqscan = off;
SELECT count(*) FROM seen."Odd name" WHERE filler = 'y';
RESET enable_seqscan;
SELECT pg_stat_force_next_flush();
SELECT scans > 0 AS used, is_unused, last_scan IS NULL OR last_scan > now() - interval '1 hour' AS lately
FROM prod_analytics.index_status WHERE index_name = 'seen.odd_filler'::regclass;

-- The estimates of bloat are near to what pgstattuple counts.
CREATE TABLE prod_analytics.bloated (id bigint PRIMARY KEY, a text, b jsonb, c timestamptz, d numeric) WITH (autovacuum_enabled = off);
CREATE FUNCTION seen.bloat(OUT of_table text, OUT of_index text) LANGUAGE sql AS $$
	WITH found AS (
		SELECT (SELECT bloat_percent FROM prod_analytics.table_status WHERE table_name = 'prod_analytics.bloated'::regclass) AS t,
			(SELECT bloat_percent FROM prod_analytics.index_status WHERE index_name = 'prod_analytics.bloated_pkey'::regclass) AS i,
			(SELECT 100.0 * (free_space + dead_tuple_len) / table_len FROM pgstattuple('prod_analytics.bloated')) AS tt,
			(SELECT 100 - avg_leaf_density FROM pgstatindex('prod_analytics.bloated_pkey')) AS ii
	)
	SELECT CASE WHEN abs(t - tt) < 8 THEN 'near' ELSE format('%s, really %s', t, tt) END,
		CASE WHEN abs(i - ii) < 12 THEN 'near' ELSE format('%s, really %s', i, ii) END FROM found
$$;
INSERT INTO prod_analytics.bloated SELECT n, repeat('x', n % 50), jsonb_build_object('n', n, 'text', repeat('y', n % 30)), now(), CASE WHEN n % 3 = 0 THEN n / 7.0 END
FROM generate_series(1, 30000) n;
SELECT bloat_bytes IS NULL AS not_analyzed FROM prod_analytics.table_status WHERE table_name = 'prod_analytics.bloated'::regclass;
VACUUM ANALYZE prod_analytics.bloated;
SELECT * FROM seen.bloat();
DELETE FROM prod_analytics.bloated WHERE id % 2 = 0;
VACUUM ANALYZE prod_analytics.bloated;
SELECT * FROM seen.bloat();
DELETE FROM prod_analytics.bloated WHERE id % 20 <> 1;
VACUUM ANALYZE prod_analytics.bloated;
SELECT * FROM seen.bloat();
VACUUM FULL prod_analytics.bloated;
SELECT * FROM seen.bloat();
ALTER TABLE prod_analytics.bloated SET (fillfactor = 50);
VACUUM FULL ANALYZE prod_analytics.bloated;
SELECT bloat_percent < 8 AS room_that_fillfactor_leaves_is_none FROM prod_analytics.table_status WHERE table_name = 'prod_analytics.bloated'::regclass;
DROP TABLE prod_analytics.bloated;

-- Ingestion: what waits, what the last runs did, what was set aside and why.
SELECT clock_timestamp() AS began \gset
INSERT INTO prod_analytics.staging_events (event_type, event_time, received_at, user_id)
VALUES ('a', now(), now() - interval '2 hours', NULL), ('b', now(), now(), NULL), ('c', now(), now(), 77), (NULL, now(), now(), NULL);
INSERT INTO prod_analytics.staging_users (src_id, email, ingested_at) VALUES ('x', 'x@example.com', now() - interval '5 minutes');
SELECT source, staged_rows, is_exact, staged_rows_estimate >= staged_rows AS estimate, lag - CASE source WHEN 'events' THEN interval '2 hours' ELSE interval '5 minutes' END BETWEEN '0' AND clock_timestamp() - :'began' AS lag, last_status FROM prod_analytics.ingest_status;
SELECT r->>'status' AS status, (r->>'lag_seconds')::numeric - 7200 BETWEEN 0 AND round(extract(epoch FROM clock_timestamp() - :'began'), 3) AS lag FROM prod_analytics.etl_ingest_events() r;
SELECT prod_analytics.etl_upsert_users()->>'status' AS status;
SELECT prod_analytics.etl_ingest_events()->>'rows' AS rows;
SELECT source, staged_rows, lag, last_status, last_rows, last_run_at >= last_rows_at AS runs, rows_per_second > 0 AS speed, date_trunc('hour', last_lag) AS last_lag,
	quarantined_last_hour, quarantined_last_day FROM prod_analytics.ingest_status;
UPDATE prod_analytics.quarantined_events SET quarantined_at = now() - interval '3 hours' WHERE reasons->0->>'code' = 'unknown_user';
UPDATE prod_analytics.quarantined_users SET quarantined_at = now() - interval '3 days', reasons = '[]';
SELECT source, quarantined_last_hour, quarantined_last_day FROM prod_analytics.ingest_status;
INSERT INTO prod_analytics.staging_events (event_type) SELECT 'x' FROM generate_series(1, 10001);
SELECT pg_stat_force_next_flush();
SELECT staged_rows, is_exact, staged_rows_estimate > 10000 AS estimate FROM prod_analytics.ingest_status WHERE source = 'events';

-- The lag of a materialized view.
SELECT matview, lag FROM prod_analytics.matview_status WHERE matview = 'seen.counted';
INSERT INTO seen.plain VALUES (2, 2);
UPDATE prod_analytics.changed_keys SET changed_at = changed_at - interval '1 hour' FROM prod_analytics.registered_matviews r WHERE r.matview_id = changed_keys.matview_id AND r.matview = 'seen.counted';
SELECT date_trunc('hour', lag) AS lag, pending_keys FROM prod_analytics.matview_status WHERE matview = 'seen.counted';

-- All of it can be seen in a read-only transaction, and by analytics_operator; analytics_reader sees what concerns the data.
BEGIN READ ONLY;
SET LOCAL ROLE regress_operator;
SELECT (SELECT count(*) > 20 FROM prod_analytics.table_status) AS tables, (SELECT count(*) > 30 FROM prod_analytics.index_status) AS indexes,
	(SELECT count(*) FROM prod_analytics.ingest_status) AS ingest, (SELECT count(*) FROM prod_analytics.matview_status) AS matviews;
-- The widths of columns that he may not read are not told by pg_stats, and there is no estimate.
SELECT bloat_bytes IS NULL AS unknown FROM prod_analytics.table_status WHERE table_name::text LIKE '%Odd name"';
SET LOCAL ROLE regress_reader;
SELECT count(*) FROM prod_analytics.ingest_status;
SELECT count(*) FROM prod_analytics.table_status;
ROLLBACK;
SET ROLE regress_reader;
SELECT count(*) FROM prod_analytics.index_status;
RESET ROLE;

-- A view that is missing is made again, for whom it was.
DROP VIEW prod_analytics.index_status;
SELECT prod_analytics.create_tables();
SELECT has_table_privilege('analytics_reader', 'prod_analytics.index_status', 'SELECT') AS reader, has_table_privilege('analytics_operator', 'prod_analytics.index_status', 'SELECT') AS operator;

DROP SCHEMA seen CASCADE;
DROP EXTENSION pgstattuple;
DROP SCHEMA prod_analytics CASCADE;
DROP ROLE regress_operator, regress_reader;
