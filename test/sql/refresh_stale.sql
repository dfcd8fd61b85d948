-- Ways in which a view could become stale, or a refresh leave something behind: each was met once.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
DROP SCHEMA IF EXISTS stale CASCADE;
CREATE SCHEMA stale;
SET search_path = stale;
-- Without costs, groups are always computed one by one.
SET seq_page_cost = 0;
SET random_page_cost = 0;
SET cpu_tuple_cost = 0;
SET cpu_index_tuple_cost = 0;
SET cpu_operator_cost = 0;

-- How many rows a view lacks or has too many, by its own definition.
CREATE FUNCTION wrong(v regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	query text := rtrim(pg_get_viewdef(v), ';');
	result bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM ((TABLE %1$s EXCEPT ALL (%2$s)) UNION ALL ((%2$s) EXCEPT ALL TABLE %1$s)) d', v, query)
		INTO result;
	RETURN result;
END $$;
CREATE FUNCTION refreshed(v regclass, OUT method text, OUT keys int, OUT wrong bigint) LANGUAGE plpgsql AS $$
DECLARE
	result jsonb := prod_analytics.refresh_incremental(v);
BEGIN
	method := coalesce(result->>'method', result->>'status');
	keys := result->>'keys';
	wrong := stale.wrong(v);
END $$;
CREATE FUNCTION follow(v regclass, keys text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
	EXECUTE format('CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT', v, keys);
	PERFORM prod_analytics.enable_incremental_refresh(v);
	PERFORM prod_analytics.refresh_incremental(v);
	RETURN prod_analytics.enable_incremental_refresh(v)->>'mode';
END $$;

CREATE TABLE sales (shop text, day date NOT NULL, amount integer) PARTITION BY RANGE (day);
CREATE TABLE sales_1 PARTITION OF sales FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE sales_2 PARTITION OF sales FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE sales_rest PARTITION OF sales DEFAULT;
CREATE INDEX ON sales (shop);
INSERT INTO sales SELECT 'shop ' || n % 3, '2026-01-01'::date + n, n FROM generate_series(0, 57) n;
CREATE MATERIALIZED VIEW shops AS SELECT shop, count(*) AS sales, sum(amount) AS amount FROM sales GROUP BY shop;
SELECT follow('shops', 'shop');
SELECT * FROM refreshed('shops');

-- A trigger that a transaction disables and enables twice, with a refresh in between.
SELECT tgname AS trigger FROM pg_trigger WHERE tgrelid = 'sales'::regclass AND tgname ~ 'capture' \gset
BEGIN;
ALTER TABLE sales DISABLE TRIGGER :trigger;
INSERT INTO sales VALUES ('unseen 1', '2026-01-01', 1);
ALTER TABLE sales ENABLE ALWAYS TRIGGER :trigger;
SELECT * FROM refreshed('shops');
ALTER TABLE sales DISABLE TRIGGER :trigger;
INSERT INTO sales VALUES ('unseen 2', '2026-01-01', 1);
ALTER TABLE sales ENABLE ALWAYS TRIGGER :trigger;
COMMIT;
SELECT * FROM refreshed('shops');
SELECT * FROM refreshed('shops');

-- A group that HAVING kept out qualifies without the rows of a partition.
CREATE MATERIALIZED VIEW small AS SELECT shop, count(*) AS sales FROM sales GROUP BY shop HAVING count(*) < 15;
SELECT follow('small', 'shop');
SELECT * FROM refreshed('small');
BEGIN;
TRUNCATE sales_2;
SELECT * FROM refreshed('small');
ROLLBACK;
ALTER TABLE sales DETACH PARTITION sales_2;
SELECT * FROM refreshed('small');
ALTER TABLE sales ATTACH PARTITION sales_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
SELECT * FROM refreshed('small');
CREATE MATERIALIZED VIEW short_weeks AS
	SELECT date_trunc('week', day::timestamp) AS week, count(*) AS sales FROM sales GROUP BY 1 HAVING count(*) < 7;
SELECT follow('short_weeks', 'week');
SELECT * FROM refreshed('short_weeks');
ALTER TABLE sales DETACH PARTITION sales_2;
SELECT * FROM refreshed('short_weeks');
SELECT count(*) FROM short_weeks WHERE week = '2026-01-26';
ALTER TABLE sales ATTACH PARTITION sales_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
SELECT * FROM refreshed('short_weeks');

-- A view that reads whole rows sees columns come, go and get another name.
CREATE MATERIALIZED VIEW whole AS SELECT shop, jsonb_agg(s ORDER BY day, amount) AS sales FROM sales s GROUP BY shop;
SELECT follow('whole', 'shop');
SELECT * FROM refreshed('whole');
SELECT * FROM refreshed('whole');
ALTER TABLE sales ADD COLUMN note text DEFAULT 'new';
SELECT * FROM refreshed('whole');
SELECT * FROM refreshed('whole');
ALTER TABLE sales RENAME COLUMN note TO remark;
SELECT * FROM refreshed('whole');
UPDATE sales SET remark = 'other' WHERE day = '2026-01-01';
SELECT * FROM refreshed('whole');
ALTER TABLE sales DROP COLUMN remark;
SELECT * FROM refreshed('whole');
SELECT * FROM refreshed('whole');
DROP MATERIALIZED VIEW whole;

-- A partition that another view reads by itself has a trigger of its own, which says nothing of its time elsewhere.
CREATE MATERIALIZED VIEW leaf AS SELECT shop, count(*) AS sales FROM sales_2 GROUP BY shop;
SELECT follow('leaf', 'shop');
SELECT * FROM refreshed('shops');
ALTER TABLE sales DETACH PARTITION sales_2;
UPDATE sales_2 SET amount = amount + 1000;
ALTER TABLE sales ATTACH PARTITION sales_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
SELECT * FROM refreshed('shops');
SELECT * FROM refreshed('leaf');
INSERT INTO sales VALUES ('both', '2026-02-02', 1);
SELECT * FROM refreshed('shops');
SELECT * FROM refreshed('leaf');
DROP MATERIALIZED VIEW leaf;
SELECT * FROM refreshed('shops');

-- REFRESH of the plain kind, while a partition is there that is gone again later.
CREATE TABLE sales_3 (LIKE sales);
INSERT INTO sales_3 VALUES ('guest', '2026-03-03', 1), ('shop 1', '2026-03-04', 1);
ALTER TABLE sales ATTACH PARTITION sales_3 FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
REFRESH MATERIALIZED VIEW shops;
ALTER TABLE sales DETACH PARTITION sales_3;
SELECT * FROM refreshed('shops');
ALTER TABLE sales ATTACH PARTITION sales_3 FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
REFRESH MATERIALIZED VIEW CONCURRENTLY shops;
ALTER TABLE sales DETACH PARTITION sales_3;
SELECT * FROM refreshed('shops');
SELECT * FROM refreshed('shops');
DROP TABLE sales_3;

-- A view over a default partition that is drained, and one over a partition that gets its rows.
CREATE TABLE drained (day date NOT NULL, shop text) PARTITION BY RANGE (day);
SELECT prod_analytics.manage_partitions('drained', 'day', ahead => 0, behind => 0);
SELECT prod_analytics.ensure_partitions('drained', '2026-01-15') > 0 AS made;
INSERT INTO drained SELECT '2026-02-01'::date + n, 'shop ' || n % 2 FROM generate_series(0, 9) n;
CREATE MATERIALIZED VIEW in_default AS SELECT shop, count(*) AS sales FROM drained_default GROUP BY shop;
SELECT follow('in_default', 'shop');
CREATE MATERIALIZED VIEW in_all AS SELECT shop, count(*) AS sales FROM drained GROUP BY shop;
SELECT follow('in_all', 'shop');
SELECT * FROM refreshed('in_all');
SELECT * FROM refreshed('in_default');
SELECT prod_analytics.ensure_partitions('drained', '2026-02-15') > 0 AS made;
SELECT * FROM refreshed('in_default');
SELECT * FROM refreshed('in_all');

-- mark_changed() with a key that no row can have.
CREATE TABLE ticks (at timestamp NOT NULL, n integer) PARTITION BY RANGE (at);
CREATE TABLE ticks_1 PARTITION OF ticks FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE INDEX ON ticks (at);
INSERT INTO ticks SELECT '2026-01-01'::timestamp + n * interval '1 minute', n FROM generate_series(0, 4000) n;
CREATE MATERIALIZED VIEW by_bin AS SELECT date_bin('10 minutes', at, '2026-01-01 00:03') AS bin, count(*) AS n FROM ticks GROUP BY 1;
CREATE MATERIALIZED VIEW by_hour AS SELECT date_trunc('hour', at) AS hour, count(*) AS n FROM ticks GROUP BY 1;
CREATE MATERIALIZED VIEW by_week AS SELECT date_trunc('week', at) AS week, count(*) AS n FROM ticks GROUP BY 1;
SELECT follow('by_bin', 'bin'), follow('by_hour', 'hour'), follow('by_week', 'week');
SELECT * FROM refreshed('by_bin');
SELECT * FROM refreshed('by_hour');
SELECT * FROM refreshed('by_week');
SELECT prod_analytics.mark_changed('by_bin', '[{"bin": "2026-01-01 00:10"}, {"bin": "2026-01-01 00:13"}, {"bin": "2025-12-31 23:53"}]');
SELECT prod_analytics.mark_changed('by_hour', '[{"hour": "2026-01-01 00:10"}, {"hour": "2026-01-01 01:00"}, {"hour": "infinity"}]');
SELECT prod_analytics.mark_changed('by_week', '[{"week": "2026-01-01 00:00"}, {"week": "2025-12-29"}]');
SELECT * FROM refreshed('by_bin');
SELECT * FROM refreshed('by_hour');
SELECT * FROM refreshed('by_week');
UPDATE ticks SET n = n + 1, at = at + interval '20 minutes' WHERE n % 100 = 7;
SELECT * FROM refreshed('by_bin');
SELECT * FROM refreshed('by_hour');
SELECT * FROM refreshed('by_week');
-- Bins of days that begin at another hour than the days.
CREATE MATERIALIZED VIEW by_shift AS
	SELECT date_bin('1 day', day::timestamp, '2026-01-01 06:00') AS shift, count(*) AS n FROM sales GROUP BY 1;
SELECT follow('by_shift', 'shift');
SELECT * FROM refreshed('by_shift');
UPDATE sales SET day = day + 1 WHERE shop = 'shop 2' AND day < '2026-01-20';
SELECT * FROM refreshed('by_shift');

-- Infinity is in the partition that has no upper bound.
CREATE TABLE endless (at timestamp NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE endless_1 PARTITION OF endless FOR VALUES FROM (MINVALUE) TO ('2026-02-01');
CREATE TABLE endless_2 PARTITION OF endless FOR VALUES FROM ('2026-02-01') TO (MAXVALUE);
INSERT INTO endless VALUES ('-infinity'), ('2026-01-01'), ('2026-03-01'), ('infinity');
CREATE MATERIALIZED VIEW endless_days AS SELECT date_trunc('day', at) AS day, count(*) AS n FROM endless GROUP BY 1;
SELECT follow('endless_days', 'day');
SELECT * FROM refreshed('endless_days');
ALTER TABLE endless DETACH PARTITION endless_2;
SELECT * FROM refreshed('endless_days');
ALTER TABLE endless DETACH PARTITION endless_1;
SELECT * FROM refreshed('endless_days');
TABLE endless_days;
DROP TABLE endless CASCADE;

-- A view that fails leaves the others alone, and nothing of what it began.
CREATE MATERIALIZED VIEW ratios AS SELECT shop, sum(100 / amount) AS ratio FROM sales WHERE amount <> 0 GROUP BY shop;
CREATE MATERIALIZED VIEW ratios_of_all AS SELECT shop, sum(100 / nullif(amount, 0)) AS ratio FROM sales GROUP BY shop;
CREATE MATERIALIZED VIEW fragile AS SELECT shop, sum(100 / amount) AS ratio FROM sales WHERE shop = 'fragile' GROUP BY shop;
SELECT follow('fragile', 'shop');
SELECT follow('ratios', 'shop'), follow('ratios_of_all', 'shop');
SELECT prod_analytics.refresh_incremental() ->> 'status' AS status;
INSERT INTO sales VALUES ('fragile', '2026-01-05', 0);
SELECT v->>'matview' AS matview, v->>'status' AS status, v->>'method' AS method
FROM prod_analytics.refresh_incremental() r, jsonb_array_elements(r->'views') v
WHERE v->>'matview' LIKE 'stale.%' ORDER BY 1;
DELETE FROM sales WHERE shop = 'fragile';
SELECT prod_analytics.refresh_incremental()->>'status' AS status;
SELECT wrong('fragile'), wrong('ratios'), wrong('ratios_of_all'), wrong('shops');

-- More than fits into memory, from keys and from what keys are computed from.
RESET seq_page_cost;
RESET random_page_cost;
RESET cpu_tuple_cost;
RESET cpu_index_tuple_cost;
RESET cpu_operator_cost;
CREATE TABLE many (k integer, t text);
CREATE INDEX ON many (k);
CREATE INDEX ON many ((t::integer));
CREATE MATERIALIZED VIEW many_k AS SELECT k, count(*) AS n FROM many GROUP BY k;
CREATE MATERIALIZED VIEW many_t AS SELECT t::integer AS k, count(*) AS n FROM many GROUP BY t::integer;
SELECT follow('many_k', 'k'), follow('many_t', 'k');
SELECT wrong FROM refreshed('many_k');
SELECT wrong FROM refreshed('many_t');
SET work_mem = '64kB';
INSERT INTO many SELECT n, n FROM generate_series(1, 20000) n;
SELECT wrong FROM refreshed('many_k');
SELECT wrong FROM refreshed('many_t');
UPDATE many SET k = k + 5, t = t || '0' WHERE k <= 15000;
SELECT wrong FROM refreshed('many_k');
SELECT wrong FROM refreshed('many_t');
SELECT count(*) FROM prod_analytics.verify_matview('many_k', sample_keys => 5000);
RESET work_mem;

-- What a function of the view's owner sets is undone when the refresh ends.
CREATE FUNCTION sly(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
	PERFORM set_config('application_name', 'sly', false);
	PERFORM set_config('search_path', 'nowhere', false);
	RETURN $1;
END $$;
SET application_name = 'honest';
CREATE MATERIALIZED VIEW set_by AS SELECT shop, sum(sly(amount)) AS n FROM sales GROUP BY shop;
SET application_name = 'honest';
SET search_path = stale;
SELECT follow('set_by', 'shop');
SET application_name = 'honest';
SET search_path = stale;
INSERT INTO sales VALUES ('set', '2026-01-05', 1);
SELECT prod_analytics.refresh_incremental('set_by')->>'method' AS method;
SHOW application_name;
SHOW search_path;
SET search_path = stale;
SELECT count(*) FROM prod_analytics.verify_matview('set_by');
SHOW application_name;
SET search_path = stale;
DROP MATERIALIZED VIEW set_by;

-- Registered again without naming its archive a view keeps it.
CREATE TABLE shops_archive (LIKE shops);
SELECT prod_analytics.enable_incremental_refresh('shops', 'shops_archive')->>'archive' AS archive;
SELECT prod_analytics.enable_incremental_refresh('shops')->>'archive' AS archive;
ALTER TABLE sales ENABLE ROW LEVEL SECURITY;
SELECT prod_analytics.enable_incremental_refresh('shops')->>'mode' AS mode;
ALTER TABLE sales DISABLE ROW LEVEL SECURITY;
SELECT prod_analytics.enable_incremental_refresh('shops')->>'archive' AS archive;
SELECT prod_analytics.disable_incremental_refresh('shops');
SELECT prod_analytics.enable_incremental_refresh('shops')->>'archive' AS archive;
-- error: rows that came after the transaction began would go without a trace
CREATE TABLE in_all_archive (LIKE in_all);
SELECT prod_analytics.enable_incremental_refresh('in_all', 'in_all_archive')->>'mode' AS mode;
SELECT prod_analytics.ensure_partitions_between('drained', '2026-03-01', '2026-03-31');
SELECT prod_analytics.manage_partitions('drained', 'day', ahead => 0, behind => 0, retention => '1 month');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT prod_analytics.drop_expired_partitions('drained', '2026-04-15');
ROLLBACK;
SELECT prod_analytics.drop_expired_partitions('drained', '2026-04-15') > 0 AS dropped;
SELECT count(*) FROM in_all_archive;

-- What a session has to remember of a table with many partitions is little.
CREATE TABLE wide (k integer, at integer, v integer) PARTITION BY LIST (at);
DO $$ BEGIN
	FOR i IN 1..100 LOOP
		EXECUTE format('CREATE TABLE wide_%s PARTITION OF wide FOR VALUES IN (%1$s)', i);
	END LOOP;
END $$;
CREATE MATERIALIZED VIEW wide_by_k AS SELECT k, count(*), sum(v), max(v) FILTER (WHERE v > 5) FROM wide GROUP BY k;
CREATE MATERIALIZED VIEW wide_by_at AS SELECT at, count(*), sum(v), max(v) FILTER (WHERE v > 5) FROM wide WHERE v > 0 GROUP BY at;
CREATE MATERIALIZED VIEW wide_by_both AS SELECT k % 10 AS k, at, count(*), sum(v) FROM wide WHERE v > 0 GROUP BY 1, 2;
SELECT follow('wide_by_k', 'k'), follow('wide_by_at', 'at'), follow('wide_by_both', 'k, at');
INSERT INTO wide SELECT n, n % 100 + 1, n FROM generate_series(1, 1000) n;
SELECT sum(total_bytes) < 2 * 1024 * 1024 AS is_little FROM pg_backend_memory_contexts WHERE name = 'captured tables';
SELECT * FROM refreshed('wide_by_k');
SELECT * FROM refreshed('wide_by_both');
DROP TABLE wide CASCADE;

-- Another view gets the name, and no event trigger tells.
CREATE TABLE named (a integer, b integer);
CREATE MATERIALIZED VIEW by_name AS SELECT a, count(*) AS n FROM named GROUP BY a;
SELECT follow('by_name', 'a');
INSERT INTO named VALUES (1, 2);
SELECT * FROM refreshed('by_name');
ALTER EVENT TRIGGER prod_analytics_follow_renames DISABLE;
ALTER EVENT TRIGGER prod_analytics_follow_drops DISABLE;
ALTER MATERIALIZED VIEW by_name RENAME TO by_a;
INSERT INTO named VALUES (2, 3);
CREATE MATERIALIZED VIEW by_name AS SELECT b, count(*) AS n FROM named GROUP BY b;
CREATE UNIQUE INDEX ON by_name (b) NULLS NOT DISTINCT;
INSERT INTO named VALUES (1, 4);
SELECT * FROM refreshed('by_name');
INSERT INTO named VALUES (1, 5);
SELECT * FROM refreshed('by_name');
DROP MATERIALIZED VIEW by_name;
INSERT INTO named VALUES (1, 6);
CREATE MATERIALIZED VIEW by_name AS SELECT b, count(*) AS n FROM named GROUP BY b;
CREATE UNIQUE INDEX ON by_name (b) NULLS NOT DISTINCT;
SELECT * FROM refreshed('by_name');
INSERT INTO named VALUES (1, 7);
SELECT * FROM refreshed('by_name');
-- Or another schema.
ALTER SCHEMA stale RENAME TO stale_no_more;
INSERT INTO stale_no_more.named VALUES (1, 8);
CREATE SCHEMA stale;
CREATE MATERIALIZED VIEW stale.by_name AS SELECT b, sum(a) AS n FROM stale_no_more.named GROUP BY b;
CREATE UNIQUE INDEX ON stale.by_name (b) NULLS NOT DISTINCT;
SELECT prod_analytics.refresh_incremental('stale.by_name')->>'method' AS method;
INSERT INTO stale_no_more.named VALUES (1, 9);
SELECT prod_analytics.refresh_incremental('stale.by_name')->>'keys' AS keys;
SELECT count(*) FROM prod_analytics.verify_matview('stale.by_name');
DROP SCHEMA stale CASCADE;
ALTER SCHEMA stale_no_more RENAME TO stale;
ALTER EVENT TRIGGER prod_analytics_follow_renames ENABLE ALWAYS;
ALTER EVENT TRIGGER prod_analytics_follow_drops ENABLE ALWAYS;

-- Another type gets the name, and so does a view of values of it.
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE moods (a integer);
INSERT INTO moods VALUES (1);
CREATE MATERIALIZED VIEW no_moods AS SELECT a, count(*) AS n FROM moods GROUP BY a;
CREATE MATERIALIZED VIEW by_mood AS SELECT a, 'bad'::mood AS mood, count(*) AS n FROM moods GROUP BY a;
SELECT follow('no_moods', 'a'), follow('by_mood', 'a');
INSERT INTO moods VALUES (1);
SELECT * FROM refreshed('by_mood');
DROP MATERIALIZED VIEW by_mood;
ALTER TYPE mood RENAME TO former_mood;
CREATE TYPE mood AS ENUM ('bad', 'good');
CREATE MATERIALIZED VIEW by_mood AS SELECT a, 'bad'::mood AS mood, count(*) AS n FROM moods GROUP BY a;
SELECT follow('by_mood', 'a');
INSERT INTO moods VALUES (1);
SELECT * FROM refreshed('by_mood');
DROP TABLE moods CASCADE;

-- A function of a view's owner runs while its query is planned, and drops plans by refreshing many views.
CREATE TABLE planned (a integer);
INSERT INTO planned VALUES (1);
DO $$ BEGIN
	FOR i IN 1..60 LOOP
		EXECUTE format('CREATE MATERIALIZED VIEW planned_%s AS SELECT a, count(*) AS n%1$s FROM planned GROUP BY a', i);
		PERFORM follow(format('planned_%s', i)::regclass, 'a');
	END LOOP;
END $$;
CREATE FUNCTION refresh_many() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO stale.planned VALUES (1);
	FOR i IN 1..60 LOOP
		PERFORM prod_analytics.refresh_incremental(format('stale.planned_%s', i)::regclass);
	END LOOP;
END $$;
CREATE FUNCTION refreshes(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
	IF current_setting('stale.refreshes', true) = 'on' THEN
		PERFORM stale.refresh_many();
	END IF;
	RETURN $1;
END $$;
CREATE TABLE planning (a integer);
INSERT INTO planning VALUES (1);
CREATE MATERIALIZED VIEW by_planning AS SELECT a, count(*) FILTER (WHERE a > refreshes(0)) AS n FROM planning GROUP BY a;
SELECT follow('by_planning', 'a');
SELECT * FROM refreshed('by_planning');
INSERT INTO planning VALUES (1);
-- In a session that has no plan yet.
\c
SET client_min_messages = warning;
SET search_path = stale;
SET stale.refreshes = 'on';
SELECT prod_analytics.refresh_incremental('by_planning')->>'method' AS method;
RESET stale.refreshes;
SELECT wrong('by_planning'), wrong('planned_60');
DROP TABLE planned, planning CASCADE;

-- Queries that fail for every row are not the business of writers.
CREATE TABLE wrongly (at timestamp, day date, c text COLLATE "C", p text COLLATE "POSIX");
CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE FUNCTION written(key text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
	EXECUTE format('CREATE MATERIALIZED VIEW by_wrong AS SELECT %s AS k, count(*) AS n FROM wrongly GROUP BY 1', key);
	PERFORM follow('by_wrong', 'k');
	INSERT INTO wrongly VALUES ('2026-01-01', '2026-01-01', 'c', 'p');
	key := prod_analytics.refresh_incremental('by_wrong')->>'status';
	DROP MATERIALIZED VIEW by_wrong;
	DELETE FROM wrongly;
	RETURN key;
END $$;
SET client_min_messages = error;
SELECT key, written(key) FROM unnest(ARRAY[
	$$date_trunc('dya', at)$$, $$date_trunc('DAY', at)$$, $$extract(hour FROM day)$$, $$extract(hour FROM at)$$,
	$$extract(isodow FROM day)$$, $$date_part('timezone', at)$$, $$date_part('hour', day)$$,
	$$date_bin('1 month', at, '2026-01-01')$$, $$date_bin('0', at, '2026-01-01')$$,
	$$date_bin('1 day', at, 'infinity')$$, $$date_bin('1 day', at, '2026-01-01')$$,
	$$at AT TIME ZONE 'Europe/Atlantis'$$, $$at AT TIME ZONE 'Europe/Rome'$$, $$at AT TIME ZONE 'nowhere'$$,
	$$lower(c || p) COLLATE "C"$$, $$lower(c)$$, $$c < p$$, $$c COLLATE any_case ~ 'c'$$, $$strpos(c, 'c')$$
]) key;
SET client_min_messages = warning;
DROP TABLE wrongly CASCADE;

-- What a writer's settings make of values decides nothing.
CREATE TABLE printed (k integer, f double precision, p point, at timestamptz);
INSERT INTO printed VALUES (1, 0.1::double precision + 0.2, '(0.30000000000000004,0)', '2026-01-01 20:00+00');
CREATE MATERIALIZED VIEW by_point AS SELECT p::text AS p, count(*) AS n FROM printed GROUP BY 1;
SELECT prod_analytics.enable_incremental_refresh('by_point')->>'reason' AS reason;
CREATE MATERIALIZED VIEW by_float AS SELECT k, count(*) AS n FROM printed WHERE f::text = '0.30000000000000004' GROUP BY 1;
CREATE MATERIALIZED VIEW by_zone AS SELECT (at AT TIME ZONE 'EST')::date AS day, count(*) AS n FROM printed GROUP BY 1;
SELECT follow('by_float', 'k'), follow('by_zone', 'day');
SELECT wrong FROM refreshed('by_float');
SELECT wrong FROM refreshed('by_zone');
SET extra_float_digits = 0;
SET timezone_abbreviations = 'Australia';
INSERT INTO printed SELECT * FROM printed;
RESET extra_float_digits;
RESET timezone_abbreviations;
SELECT * FROM refreshed('by_float');
SELECT * FROM refreshed('by_zone');
-- Nor do the settings of whoever refreshes: not when the view is filled, a group is computed or all are, nor for WHERE, nor
-- what is left of them in a plan.
CREATE TABLE bytes (k integer, f double precision, b bytea);
INSERT INTO bytes VALUES (1, 0.1::double precision + 0.2::double precision, '\xff');
CREATE MATERIALIZED VIEW texts AS SELECT k, max(f::text) AS f, jsonb_agg(f ORDER BY f) AS fs, jsonb_agg(point(f, 1) ORDER BY f) AS p, max(b::text) AS b,
	jsonb_agg(b ORDER BY f) AS bs, max('\x00'::bytea::text) AS constant FROM bytes WHERE b::text LIKE '\\x%' GROUP BY k WITH NO DATA;
CREATE UNIQUE INDEX ON texts (k) NULLS NOT DISTINCT;
SELECT prod_analytics.enable_incremental_refresh('texts')->>'mode' AS mode;
SET extra_float_digits = -10;
SET bytea_output = 'escape';
SELECT prod_analytics.refresh_incremental('texts')->>'method' AS method;
SELECT * FROM texts;
INSERT INTO bytes SELECT 2, f, b FROM bytes;
SELECT prod_analytics.refresh_incremental('texts')->>'method' AS method;
SELECT * FROM texts ORDER BY k;
SELECT prod_analytics.mark_changed('texts');
SELECT r->>'method' AS method, r->>'rows' AS rows FROM prod_analytics.refresh_incremental('texts') r;
SELECT * FROM prod_analytics.verify_matview('texts');
RESET extra_float_digits;
RESET bytea_output;
SELECT * FROM prod_analytics.verify_matview('texts');
DROP TABLE bytes CASCADE;
DROP TABLE printed CASCADE;

-- Partitions that the view's owner may read through the parent only: another role's, and one with row security.
CREATE ROLE regress_stale_owner;
GRANT ALL ON SCHEMA stale TO regress_stale_owner;
CREATE TABLE shared (k integer, day date NOT NULL) PARTITION BY RANGE (day);
SELECT prod_analytics.manage_partitions('shared', 'day', ahead => 0, behind => 0, retention => '1 month');
SELECT prod_analytics.ensure_partitions_between('shared', '2026-03-01', '2026-03-31');
CREATE TABLE shared_2 (LIKE shared);
CREATE MATERIALIZED VIEW by_shared AS SELECT k, count(*) AS n FROM shared GROUP BY k;
CREATE TABLE shared_archive (LIKE by_shared);
DO $$ BEGIN
	EXECUTE (SELECT string_agg(format('ALTER TABLE %s OWNER TO regress_stale_owner;', relid), ' ') FROM pg_partition_tree('shared'));
END $$;
ALTER TABLE shared_2 OWNER TO regress_stale_owner;
ALTER TABLE shared_archive OWNER TO regress_stale_owner;
ALTER MATERIALIZED VIEW by_shared OWNER TO regress_stale_owner;
SELECT follow('by_shared', 'k');
SELECT * FROM refreshed('by_shared');
CREATE TABLE shared_1 PARTITION OF shared FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
INSERT INTO shared VALUES (1, '2026-01-05');
SELECT * FROM refreshed('by_shared');
INSERT INTO shared_2 VALUES (3, '2026-02-05');
ALTER TABLE shared_2 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE shared ATTACH PARTITION shared_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
SELECT * FROM refreshed('by_shared');
SELECT * FROM refreshed('by_shared');
ALTER TABLE shared_1 OWNER TO regress_stale_owner;
SELECT prod_analytics.enable_incremental_refresh('by_shared', 'shared_archive')->>'mode' AS mode;
SELECT prod_analytics.drop_expired_partitions('shared', '2026-04-15') AS dropped;
SELECT * FROM refreshed('by_shared');
SELECT * FROM shared_archive ORDER BY k;
DROP TABLE shared CASCADE;
DROP TABLE shared_archive;
REVOKE ALL ON SCHEMA stale FROM regress_stale_owner;

-- The registry is dropped and made again, while a session goes on writing.
DROP TABLE prod_analytics.registered_matviews CASCADE;
INSERT INTO sales VALUES ('meanwhile', '2026-01-01', 1);
SELECT prod_analytics.create_tables();
SELECT prod_analytics.enable_incremental_refresh('shops')->>'mode' AS mode;
SELECT * FROM refreshed('shops');
INSERT INTO sales VALUES ('afterwards', '2026-01-01', 1);
SELECT * FROM refreshed('shops');

SET client_min_messages = warning;
RESET search_path;
DROP SCHEMA stale CASCADE;
DROP SCHEMA prod_analytics CASCADE;
DROP ROLE regress_stale_owner;
