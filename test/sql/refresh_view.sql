-- Which views are kept incrementally, with which keys, and for which reasons others are not; and that those which are
-- have what their queries return, whatever changes.  Views i_... and w_... are to be incremental (w_: a key bounds
-- the partition key), f_... full.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE SCHEMA cases;
SET search_path = cases, public;
SET timezone = 'UTC';


CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
DO $$ BEGIN
	CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
EXCEPTION WHEN feature_not_supported THEN -- a server without ICU
	CREATE COLLATION blind FROM "C";
END $$;
CREATE TABLE plain (
	dropped int, id int PRIMARY KEY, g int, t text, c citext, n numeric, n2 numeric(10, 2), a int[], m mood, p pair,
	b bpchar(5), v varchar(10), f float8, j jsonb, ts timestamptz, d date, u uuid, dom positive, x xml, bl text COLLATE blind,
	"Quoted "" Name" int, "größe" text, s int, k int, k0 int, is_there int, lowest int, iv interval, wall timestamp
);
ALTER TABLE plain DROP COLUMN dropped;
INSERT INTO plain
SELECT i, nullif(i % 7, 0), nullif('t' || i % 5, 't0'), (ARRAY['A', 'a', 'b', NULL])[i % 4 + 1], (ARRAY[1.0, 1.00, 2, NULL])[i % 4 + 1],
	nullif(i % 3, 0)::numeric / 2, (ARRAY['{1,2}', '{}', '{NULL}', NULL])[i % 4 + 1]::int[], (ARRAY['sad', 'ok', NULL])[i % 3 + 1]::mood,
	(ARRAY['(1,x)', '(,)', '(2,)', NULL])[i % 4 + 1]::pair, (ARRAY['a', 'a ', 'b', NULL])[i % 4 + 1], 'v' || i % 3, i / 3.0,
	CASE WHEN i % 4 > 0 THEN jsonb_build_object('x', i % 4, 'y', (ARRAY[1.0, 1.00])[i % 2 + 1]) END,
	CASE WHEN i % 11 > 0 THEN timestamptz '2024-01-01 00:00+00' + i * interval '7 hours 13 minutes' END, date '2024-01-01' + i % 5,
	md5((i % 3)::text)::uuid, i % 3 + 1, xmlelement(name x, i::text), (ARRAY['x', 'X', 'y'])[i % 3 + 1],
	i % 3, (ARRAY['ä', 'ö', NULL])[i % 3 + 1], i % 3, i % 2, i % 4, i % 3, i % 2, make_interval(days => i % 2, hours => 24 * (1 - i % 2)),
	timestamp '2024-01-01' + i * interval '5 hours'
FROM generate_series(1, 500) i;
CREATE INDEX plain_g ON plain (g);
CREATE INDEX plain_lower ON plain (lower(t));
CREATE INDEX plain_part ON plain (k) WHERE k > 0;

CREATE TABLE part (
	id bigint, org int, "Ts" timestamptz, val numeric, kind text,
	day date GENERATED ALWAYS AS (("Ts" AT TIME ZONE 'UTC')::date) STORED
) PARTITION BY RANGE ("Ts");
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2024-01-01 00:00+00') TO ('2024-02-01 00:00+00');
CREATE TABLE part_2 (junk int, kind text, day date GENERATED ALWAYS AS (("Ts" AT TIME ZONE 'UTC')::date) STORED, val numeric, "Ts" timestamptz, org int, id bigint);
ALTER TABLE part_2 DROP COLUMN junk;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM ('2024-02-01 00:00+00') TO ('2024-03-01 00:00+00');
CREATE TABLE part_default PARTITION OF part DEFAULT;
INSERT INTO part (id, org, "Ts", val, kind)
SELECT i, nullif(i % 7, 0), CASE WHEN i % 13 > 0 THEN timestamptz '2024-01-01 00:00+00' + i * interval '3 hours 10 minutes' END, i / 4.0, 'k' || i % 3
FROM generate_series(1, 600) i;
INSERT INTO part (id, org, "Ts", val, kind) VALUES (1000, 1, 'infinity', 1, 'k'), (1001, 1, '-infinity', 1, 'k'),
	(1002, 1, '294276-12-31 23:59:59+00', 1, 'k'), (1003, 1, '4713-01-02 00:00+00 BC', 1, 'k'), (1004, 2, '0044-03-15 12:00+00 BC', 2, 'k');
CREATE INDEX part_org_ts ON part (org, "Ts");

CREATE TABLE part_wall (ts timestamp, val int) PARTITION BY RANGE (ts);
CREATE TABLE part_wall_default PARTITION OF part_wall DEFAULT;
INSERT INTO part_wall SELECT timestamp '2024-01-01' + i * interval '1 hour 7 minutes', i FROM generate_series(1, 2000) i;
INSERT INTO part_wall VALUES ('infinity', 1), (NULL, 2), ('0101-01-01 BC', 3), ('2000-12-31 23:59:59', 4), ('2001-01-01', 5);
CREATE TABLE part_date (d date, val int) PARTITION BY RANGE (d);
CREATE TABLE part_date_default PARTITION OF part_date DEFAULT;
INSERT INTO part_date SELECT date '2024-01-01' + i, i FROM generate_series(1, 500) i;
INSERT INTO part_date VALUES ('infinity', 1), (NULL, 2), ('-infinity', 3), ('1999-12-31', 4), ('4713-01-01 BC', 5);
-- A partition whose generated column is computed otherwise.
CREATE TABLE part_odd (ts timestamp, day date GENERATED ALWAYS AS (ts::date) STORED) PARTITION BY RANGE (ts);
CREATE TABLE part_odd_default (ts timestamp, day date GENERATED ALWAYS AS ((ts + interval '400 days')::date) STORED);
DO $$ BEGIN
	ALTER TABLE part_odd ATTACH PARTITION part_odd_default DEFAULT;
EXCEPTION WHEN OTHERS THEN -- PostgreSQL 15 has learnt to refuse it
	CREATE TABLE part_odd_same PARTITION OF part_odd DEFAULT;
END $$;
INSERT INTO part_odd SELECT timestamp '2024-01-01' + i * interval '1 hour' FROM generate_series(1, 100) i;
-- Partitioned by two columns, by list, by an expression.
CREATE TABLE part_two (a int, ts timestamp) PARTITION BY RANGE (a, ts);
CREATE TABLE part_two_default PARTITION OF part_two DEFAULT;
CREATE TABLE part_list (a int, ts timestamp) PARTITION BY LIST (a);
CREATE TABLE part_list_default PARTITION OF part_list DEFAULT;
CREATE TABLE part_expression (a int, ts timestamp) PARTITION BY RANGE ((ts + interval '1 day'));
CREATE TABLE part_expression_default PARTITION OF part_expression DEFAULT;
INSERT INTO part_two SELECT i % 3, timestamp '2024-01-01' + i * interval '1 hour' FROM generate_series(1, 100) i;
INSERT INTO part_list SELECT * FROM part_two;
INSERT INTO part_expression SELECT * FROM part_two;

CREATE TABLE parent_table (a int);
CREATE TABLE child_table () INHERITS (parent_table);
CREATE UNLOGGED TABLE unlogged_table (a int);
CREATE TABLE secured (a int);
ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
CREATE TABLE part_unlogged (a int) PARTITION BY LIST (a);
CREATE UNLOGGED TABLE part_unlogged_1 PARTITION OF part_unlogged DEFAULT;
CREATE ROLE regress_other NOLOGIN;
CREATE TABLE others_table (a int);
ALTER TABLE others_table OWNER TO regress_other;
CREATE VIEW some_view AS SELECT g FROM plain;
CREATE FUNCTION twice(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i * 2';
CREATE FUNCTION unsure(i int) RETURNS int STABLE LANGUAGE sql AS 'SELECT i';
CREATE FUNCTION by_default(i int, at timestamptz DEFAULT now()) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i';
CREATE FUNCTION of_row(p plain) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT p.g';
CREATE FUNCTION append(l text, r text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT coalesce(l || r, r, l)';
CREATE AGGREGATE joined(text) (SFUNC = append, STYPE = text);

-- Incremental: all kinds of keys, expressions, clauses and aggregates.
CREATE MATERIALIZED VIEW i_simple AS SELECT g, count(*), sum(n), now() AS computed_at FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_wrong_index AS SELECT g, k, count(*) FROM plain GROUP BY g, k;
CREATE UNIQUE INDEX ON i_wrong_index (g, k) WHERE g > 0;
CREATE UNIQUE INDEX ON i_wrong_index (g, k, count);
CREATE UNIQUE INDEX ON i_wrong_index (g, (k + 0));
CREATE INDEX ON i_wrong_index (g, k);
CREATE MATERIALIZED VIEW i_two AS SELECT k, count(*), g FROM plain GROUP BY g, k;
CREATE MATERIALIZED VIEW i_text AS SELECT t, count(*) FROM plain GROUP BY t;
CREATE MATERIALIZED VIEW i_chosen AS SELECT g, max(n)::text AS any_digits, max(n::numeric(10, 2))::text AS two_digits, max(n) AS as_it_is,
	(mode() WITHIN GROUP (ORDER BY n))::text AS common, CASE WHEN max(n) > 1 THEN 'many' ELSE 'few' END AS compared, min(k)::text AS whole, max(t) || '' AS t, max(c)::text AS c FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_citext AS SELECT c, count(*), max(n2) FROM plain GROUP BY c;
CREATE MATERIALIZED VIEW i_numeric AS SELECT n, count(*), n::text AS shown FROM plain GROUP BY n;
CREATE MATERIALIZED VIEW i_numeric_scale AS SELECT n2, count(*) FROM plain GROUP BY n2;
CREATE MATERIALIZED VIEW i_array AS SELECT a, count(*) FROM plain GROUP BY a;
CREATE MATERIALIZED VIEW i_enum AS SELECT m, count(*) FROM plain GROUP BY m;
CREATE MATERIALIZED VIEW i_composite AS SELECT p, count(*) FROM plain GROUP BY p;
CREATE MATERIALIZED VIEW i_bpchar AS SELECT b, v, count(*) FROM plain GROUP BY b, v;
CREATE MATERIALIZED VIEW i_jsonb AS SELECT j, count(*) FROM plain GROUP BY j;
CREATE MATERIALIZED VIEW i_uuid_domain AS SELECT u, dom, count(*) FROM plain GROUP BY u, dom;
CREATE MATERIALIZED VIEW i_blind AS SELECT bl, count(*), min(bl) FROM plain GROUP BY bl;
CREATE MATERIALIZED VIEW i_interval AS SELECT iv, count(*) FROM plain GROUP BY iv;
CREATE MATERIALIZED VIEW i_float AS SELECT f, count(*) FROM plain GROUP BY f;
CREATE MATERIALIZED VIEW i_collate AS SELECT t COLLATE "C" AS t, count(*) FROM plain GROUP BY t COLLATE "C";
CREATE MATERIALIZED VIEW i_expression AS SELECT lower(t) AS t, count(*) FROM plain GROUP BY lower(t);
CREATE MATERIALIZED VIEW i_expressions AS SELECT CASE WHEN g > 3 THEN 'big' ELSE 'small' END AS size, j ->> 'x' AS x, coalesce(k, -1) AS k,
	GREATEST(g, 2) AS at_least, g IS NULL AS none, (p).a AS pa, a[1] AS a1, t || '!' AS shout, count(*) * 2 + 1 AS twice
	FROM plain GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;
CREATE MATERIALIZED VIEW i_constant AS SELECT 'all' AS scope, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW i_repeated AS SELECT g AS g1, g AS g2, count(*) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_repeated_twice AS SELECT g AS g1, g AS g2, count(*) FROM plain GROUP BY 1, 2;
CREATE MATERIALIZED VIEW i_names AS SELECT "Quoted "" Name" AS "a "" b", "größe" AS "Größe", s, k, k0, is_there, lowest, count(*) AS "count" FROM plain
	GROUP BY "Quoted "" Name", "größe", s, k, k0, is_there, lowest;
CREATE MATERIALIZED VIEW i_alias AS SELECT q.g, count(q.*), count(q) AS rows FROM plain AS q GROUP BY q.g;
CREATE MATERIALIZED VIEW i_where AS SELECT g, count(*) FROM plain WHERE t = 't1' AND k IS NOT NULL AND g IN (1, 2, 3) GROUP BY g;
CREATE MATERIALIZED VIEW i_where_may_fail AS SELECT g, count(*) FROM plain WHERE 1 / (id + 1) = 0 AND twice(g) > 1 GROUP BY g;
CREATE MATERIALIZED VIEW i_where_citext AS SELECT g, count(*) FROM plain WHERE c = 'A' AND c IN ('a', 'b') GROUP BY g;
CREATE MATERIALIZED VIEW i_where_or AS SELECT g, count(*) FROM plain WHERE k = 0 OR k = 1 GROUP BY g;
CREATE MATERIALIZED VIEW i_having AS SELECT g, count(*) FROM plain GROUP BY g HAVING count(*) > 70 AND max(k) > 0;
CREATE MATERIALIZED VIEW i_filter AS SELECT g, count(*) FILTER (WHERE k = 1) AS ones, sum(n2) FILTER (WHERE t ~ '^t') AS filtered FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_order AS SELECT g, count(*) FROM plain GROUP BY g ORDER BY count(*) DESC, max(k), g;
CREATE MATERIALIZED VIEW i_distinct AS SELECT g, count(DISTINCT k), sum(DISTINCT n2), array_agg(DISTINCT k) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_ordered_set AS SELECT g, percentile_cont(0.5) WITHIN GROUP (ORDER BY f), mode() WITHIN GROUP (ORDER BY k),
	rank(3) WITHIN GROUP (ORDER BY k), percentile_disc(ARRAY[0.1, 0.9]) WITHIN GROUP (ORDER BY id) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_sorted AS SELECT g, array_agg(id ORDER BY id) AS ids, string_agg(t, ',' ORDER BY t) AS ts, sum(f ORDER BY f DESC) AS s FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_unordered AS SELECT g, array_agg(id) AS a, string_agg(t, ',') AS b, jsonb_agg(id) AS c, sum(f) AS d, avg(f::float4) AS e,
	json_object_agg(id, k) AS f, array_agg(id ORDER BY k) AS h, joined(t) AS i, regr_slope(f, id) AS l, max(c) AS m, xmlagg(x) AS o, length(string_agg(t, ',')) AS q,
	regr_count(f, id) AS fine FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_json AS SELECT g, jsonb_agg(d ORDER BY id) AS d, jsonb_agg(m ORDER BY id) AS m, jsonb_agg(p ORDER BY id) AS p,
	json_agg(a ORDER BY id) AS a, jsonb_object_agg(id, wall) AS w, json_agg(int4range(k, 5) ORDER BY id) AS r, jsonb_agg(dom ORDER BY id) AS dom FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_joined AS SELECT g, joined(t ORDER BY t), joined(DISTINCT t) AS j2 FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_not_data AS SELECT now() AS at, g, random() AS dice, count(*), current_date AS day, 7 AS seven FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_functions AS SELECT g, sum(twice(k)), max(of_row(plain)), count(*) FILTER (WHERE twice(k) > 0) AS f, twice(count(*)::int)::positive AS t FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_dependent AS SELECT id, t, count(*), plain AS whole FROM plain GROUP BY id;
CREATE MATERIALIZED VIEW i_xml AS SELECT g, xmlagg(xmlelement(name t, t)) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_zone AS SELECT (ts AT TIME ZONE 'Europe/Berlin')::date AS day, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW i_extract AS SELECT extract(dow FROM ts AT TIME ZONE 'UTC') AS dow, count(*) FROM plain GROUP BY 1;

-- A key bounds the partition key, or (w_none...) does not.
CREATE MATERIALIZED VIEW w_identity AS SELECT "Ts", count(*) FROM part GROUP BY "Ts";
CREATE MATERIALIZED VIEW w_generated AS SELECT org, day, count(*), sum(val) FROM part GROUP BY org, day;
CREATE UNIQUE INDEX ON w_generated (org, day) NULLS NOT DISTINCT;
CREATE MATERIALIZED VIEW w_day AS SELECT ("Ts" AT TIME ZONE 'UTC')::date AS d, org, count(*) FROM part GROUP BY 1, 2;
CREATE MATERIALIZED VIEW w_zone AS SELECT ("Ts" AT TIME ZONE 'America/New_York')::date AS d, count(*) FROM part GROUP BY 1;
CREATE MATERIALIZED VIEW w_zone_interval AS SELECT ("Ts" AT TIME ZONE interval '-03:30')::date AS d, count(*) FROM part GROUP BY 1;
CREATE MATERIALIZED VIEW w_zone_posix AS SELECT ("Ts" AT TIME ZONE 'ABC+100')::date AS d, count(*) FROM part GROUP BY 1;
CREATE MATERIALIZED VIEW w_back AS SELECT date_trunc('month', "Ts" AT TIME ZONE 'Asia/Tokyo') AT TIME ZONE 'Asia/Tokyo' AS m, count(*) FROM part WHERE "Ts" < '3000-01-01' AND isfinite("Ts") GROUP BY 1;
CREATE MATERIALIZED VIEW w_trunc_day AS SELECT date_trunc('day', "Ts" AT TIME ZONE 'UTC')::date AS m, count(*) FROM part GROUP BY 1;
CREATE MATERIALIZED VIEW w_week AS SELECT date_trunc('week', ts) AS w, count(*) FROM part_wall GROUP BY 1;
CREATE MATERIALIZED VIEW w_quarter AS SELECT date_trunc('QUARTER', ts) AS w, count(*) FROM part_wall GROUP BY 1;
CREATE MATERIALIZED VIEW w_year AS SELECT date_trunc('year', ts)::date AS w, count(*) FROM part_wall GROUP BY 1;
CREATE MATERIALIZED VIEW w_millennium AS SELECT date_trunc('millennium', ts) AS w, count(*) FROM part_wall GROUP BY 1;
CREATE MATERIALIZED VIEW w_century AS SELECT date_trunc('century', ts) AS w, count(*) FROM part_wall GROUP BY 1;
CREATE MATERIALIZED VIEW w_decade AS SELECT date_trunc('decade', ts) AS w, count(*) FROM part_wall GROUP BY 1;
CREATE MATERIALIZED VIEW w_minute AS SELECT date_trunc('min', ts) AS w, count(*) FROM part_wall GROUP BY 1;
CREATE MATERIALIZED VIEW w_bin AS SELECT date_bin('7 hours', ts, timestamp '2024-02-01 01:02:03') AS b, count(*) FROM part_wall WHERE isfinite(ts) GROUP BY 1;
CREATE MATERIALIZED VIEW w_nested AS SELECT date_trunc('month', date_trunc('week', ts::date::timestamp)) AS b, count(*) FROM part_wall GROUP BY 1;
CREATE MATERIALIZED VIEW w_rounded AS SELECT ts::timestamp(0) AS b, count(*) FROM part_wall GROUP BY 1;
CREATE MATERIALIZED VIEW w_date AS SELECT d, count(*) FROM part_date GROUP BY 1;
CREATE MATERIALIZED VIEW w_date_month AS SELECT date_trunc('month', d::timestamp)::date AS m, count(*) FROM part_date GROUP BY 1;
CREATE MATERIALIZED VIEW w_best AS SELECT date_trunc('month', ts) AS m, ts::date AS d, count(*) FROM part_wall GROUP BY 1, 2;
CREATE MATERIALIZED VIEW w_none AS SELECT org, count(*) FROM part GROUP BY 1;
CREATE MATERIALIZED VIEW w_none_odd AS SELECT day, count(*) FROM part_odd GROUP BY 1;
CREATE MATERIALIZED VIEW w_none_two AS SELECT ts::date, count(*) FROM part_two GROUP BY 1;
CREATE MATERIALIZED VIEW w_none_list AS SELECT ts::date, count(*) FROM part_list GROUP BY 1;
CREATE MATERIALIZED VIEW w_none_expression AS SELECT ts::date, count(*) FROM part_expression GROUP BY 1;
CREATE MATERIALIZED VIEW w_none_extract AS SELECT extract(year FROM ts) AS y, count(*) FROM part_wall GROUP BY 1;
CREATE MATERIALIZED VIEW w_none_shifted AS SELECT (ts + interval '1 day')::date AS y, count(*) FROM part_wall GROUP BY 1;
CREATE MATERIALIZED VIEW w_whole_row AS SELECT org, count(part) AS n FROM part WHERE part IS NOT NULL GROUP BY 1;

-- Full.
CREATE MATERIALIZED VIEW f_join AS SELECT a.g, count(*) FROM plain a JOIN plain b USING (id) GROUP BY a.g;
CREATE MATERIALIZED VIEW f_comma AS SELECT a.g, count(*) FROM plain a, plain b WHERE a.id = b.id GROUP BY a.g;
CREATE MATERIALIZED VIEW f_subquery AS SELECT g, count(*) FROM (SELECT g FROM plain OFFSET 0) q GROUP BY g;
CREATE MATERIALIZED VIEW f_view AS SELECT g, count(*) FROM some_view GROUP BY g;
CREATE MATERIALIZED VIEW f_matview AS SELECT g, count(*) FROM i_simple GROUP BY g;
CREATE MATERIALIZED VIEW f_function AS SELECT g, count(*) FROM generate_series(1, 3) g GROUP BY g;
CREATE MATERIALIZED VIEW f_values AS SELECT column1 AS g, count(*) FROM (VALUES (1)) q GROUP BY 1;
CREATE MATERIALIZED VIEW f_nothing AS SELECT 1 AS g, count(*) GROUP BY 1;
CREATE MATERIALIZED VIEW f_ungrouped AS SELECT count(*) FROM plain;
CREATE MATERIALIZED VIEW f_copy AS SELECT g FROM plain;
CREATE MATERIALIZED VIEW f_union AS SELECT g, count(*) FROM plain GROUP BY g UNION ALL SELECT k, count(*) FROM plain GROUP BY k;
CREATE MATERIALIZED VIEW f_with AS WITH q AS (SELECT 1) SELECT g, count(*) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_sublink AS SELECT g, count(*) FROM plain WHERE k IN (SELECT 1) GROUP BY g;
CREATE MATERIALIZED VIEW f_window AS SELECT g, count(*), row_number() OVER () FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_srf AS SELECT g, generate_series(1, 2), count(*) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_distinct AS SELECT DISTINCT g, count(*) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_distinct_on AS SELECT DISTINCT ON (g) g, count(*) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_limit AS SELECT g, count(*) FROM plain GROUP BY g LIMIT 3;
CREATE MATERIALIZED VIEW f_rollup AS SELECT g, count(*) FROM plain GROUP BY ROLLUP (g);
CREATE MATERIALIZED VIEW f_grouping AS SELECT g, GROUPING(g), count(*) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_sample AS SELECT g, count(*) FROM plain TABLESAMPLE SYSTEM (50) GROUP BY g;
CREATE MATERIALIZED VIEW f_only AS SELECT org, count(*) FROM ONLY part GROUP BY org;
CREATE MATERIALIZED VIEW f_inheritance AS SELECT a, count(*) FROM parent_table GROUP BY a;
CREATE MATERIALIZED VIEW f_unlogged AS SELECT a, count(*) FROM unlogged_table GROUP BY a;
CREATE MATERIALIZED VIEW f_part_unlogged AS SELECT a, count(*) FROM part_unlogged GROUP BY a;
CREATE MATERIALIZED VIEW f_secured AS SELECT a, count(*) FROM secured GROUP BY a;
CREATE MATERIALIZED VIEW f_other AS SELECT a, count(*) FROM others_table GROUP BY a;
CREATE MATERIALIZED VIEW f_catalog AS SELECT relkind, count(*) FROM pg_class GROUP BY relkind;
CREATE MATERIALIZED VIEW f_hidden AS SELECT count(*) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_hidden_expression AS SELECT g, count(*) FROM plain GROUP BY g, lower(t);
CREATE MATERIALIZED VIEW f_date AS SELECT ts::date AS d, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_trunc AS SELECT date_trunc('day', ts) AS d, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_extract AS SELECT extract(hour FROM ts) AS d, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_to_char AS SELECT to_char(ts, 'YYYY') AS d, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_ts_text AS SELECT ts::text AS d, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_date_text AS SELECT d::text AS d, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_float_text AS SELECT f::text AS f, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_concat AS SELECT concat(t, 'x') AS c, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_key_function AS SELECT twice(g) AS c, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_key_stable AS SELECT unsure(g) AS c, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_key_domain AS SELECT (g + 1)::positive AS c, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_key_domain_array AS SELECT a::positive[] AS c, count(*) FROM plain WHERE a = '{1,2}' GROUP BY 1;
CREATE MATERIALIZED VIEW f_key_greatest AS SELECT GREATEST(c, 'b') AS c, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_key_whole AS SELECT part_two AS p, count(*) FROM part_two GROUP BY part_two;
CREATE MATERIALIZED VIEW f_tableoid AS SELECT tableoid AS t, count(*) FROM part GROUP BY 1;
CREATE MATERIALIZED VIEW f_xmin AS SELECT g, max(xmin::text) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_key_now AS SELECT current_date AS c, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_where_now AS SELECT g, count(*) FROM plain WHERE ts > now() - interval '7 days' GROUP BY g;
CREATE MATERIALIZED VIEW f_having_now AS SELECT g, count(*) FROM plain GROUP BY g HAVING max(ts) > now();
CREATE MATERIALIZED VIEW f_column_now AS SELECT g, now() - max(ts) AS age FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_filter_random AS SELECT g, count(*) FILTER (WHERE random() > 0.5) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_stable AS SELECT g, sum(unsure(k)) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_default_argument AS SELECT g, sum(by_default(k)) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_jsonb AS SELECT g, jsonb_build_object('n', count(*)) AS j FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_json_zone AS SELECT g, jsonb_agg(ts ORDER BY ts) AS j FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_json_zones AS SELECT g, json_object_agg(id, ARRAY[ts]) AS j FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_json_range AS SELECT g, json_agg(tstzmultirange(tstzrange(ts, NULL))) AS j FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_json_row AS SELECT g, json_agg(plain) AS j FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_json_record AS SELECT g, json_agg(ROW (ts)) AS j FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_json_money AS SELECT g, json_agg(n::money) AS j FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW i_json_hstore AS SELECT g, json_agg(hstore('a', t)) AS j FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_xml AS SELECT g, xmlagg(xmlelement(name t, ts)) AS x FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_citext_distinct AS SELECT g, count(*) FROM plain WHERE c IS DISTINCT FROM 'A'::citext GROUP BY g;
CREATE MATERIALIZED VIEW f_citext_case AS SELECT g, sum(CASE c WHEN 'a' THEN 1 END) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_citext_nullif AS SELECT g, count(NULLIF(c, 'a'::citext)) FROM plain GROUP BY g;
CREATE TABLE hashed (x xid, n int);
CREATE MATERIALIZED VIEW f_key_hash AS SELECT x, count(*) FROM hashed GROUP BY x;
CREATE FOREIGN DATA WRAPPER regress_wrapper;
CREATE SERVER regress_server FOREIGN DATA WRAPPER regress_wrapper;
CREATE TABLE part_foreign (a int) PARTITION BY LIST (a);
CREATE FOREIGN TABLE part_foreign_1 PARTITION OF part_foreign DEFAULT SERVER regress_server;
CREATE MATERIALIZED VIEW f_part_foreign AS SELECT a, count(*) FROM part_foreign GROUP BY a WITH NO DATA;
CREATE FOREIGN TABLE alone_foreign (a int) SERVER regress_server;
CREATE MATERIALIZED VIEW f_foreign AS SELECT a, count(*) FROM alone_foreign GROUP BY a WITH NO DATA;
CREATE ACCESS METHOD regress_heap TYPE TABLE HANDLER heap_tableam_handler;
CREATE MATERIALIZED VIEW f_access_method USING regress_heap AS SELECT g, count(*) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_to_instant AS SELECT wall::timestamptz AS i, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_where_mixed AS SELECT g, count(*) FROM plain WHERE wall < ts GROUP BY g;
CREATE MATERIALIZED VIEW f_keys AS SELECT g + 0 AS k0, g + 1 AS k1, g + 2 AS k2, g + 3 AS k3, g + 4 AS k4, g + 5 AS k5, g + 6 AS k6, g + 7 AS k7, g + 8 AS k8, g + 9 AS k9, g + 10 AS k10, g + 11 AS k11, g + 12 AS k12, g + 13 AS k13, g + 14 AS k14, g + 15 AS k15, g + 16 AS k16, g + 17 AS k17, g + 18 AS k18, g + 19 AS k19, g + 20 AS k20, g + 21 AS k21, g + 22 AS k22, g + 23 AS k23, g + 24 AS k24, g + 25 AS k25, g + 26 AS k26, g + 27 AS k27, g + 28 AS k28, g + 29 AS k29, g + 30 AS k30, g + 31 AS k31, g + 32 AS k32, count(*) FROM plain GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33;
CREATE SEQUENCE a_sequence;
CREATE MATERIALIZED VIEW f_sequence AS SELECT last_value, count(*) FROM a_sequence GROUP BY 1;
CREATE MATERIALIZED VIEW f_nextval AS SELECT g, sum(nextval('a_sequence')) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_user AS SELECT g, count(*) FILTER (WHERE t = current_user) FROM plain GROUP BY g;
CREATE MATERIALIZED VIEW f_setting AS SELECT g, count(*) FROM plain WHERE t = current_setting('application_name') GROUP BY g;
CREATE MATERIALIZED VIEW f_key_bytea AS SELECT t::bytea::text AS b, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_key_xml AS SELECT xmlserialize(content x AS text) AS x, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_key_hstore AS SELECT (hstore('a', t))['a'] AS h, count(*) FROM plain GROUP BY 1;
CREATE MATERIALIZED VIEW f_key_operator AS SELECT c = 'a' AS is_a, count(*) FROM plain GROUP BY 1;

-- How a view is kept, once it has the unique index that the error asks for.
CREATE FUNCTION keep(view regclass, OUT kept jsonb) LANGUAGE plpgsql AS $$
DECLARE
	statement text;
BEGIN
	kept := prod_analytics.enable_incremental_refresh(view);
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	GET STACKED DIAGNOSTICS statement = PG_EXCEPTION_HINT;
	EXECUTE replace(statement, 'Make one with: ', '');
	kept := prod_analytics.enable_incremental_refresh(view);
END $$;

-- How many rows a view has that its query does not return, and the other way round.  Of the columns that depend on the
-- order of rows, and of those that are not data, nothing can be said.
CREATE FUNCTION differences(view regclass, kept jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	columns text;
	result bigint;
BEGIN
	SELECT string_agg(format('%I::text', attname), ', ') INTO columns FROM pg_attribute
	WHERE attrelid = view AND attnum > 0
		AND NOT coalesce(kept->'order_dependent', '[]') || coalesce(kept->'not_data', '[]') ? attname;
	EXECUTE format('WITH computed AS (%s), stored AS (TABLE %s), c AS (SELECT %3$s FROM computed), s AS (SELECT %3$s FROM stored)'
		' SELECT (SELECT count(*) FROM (TABLE c EXCEPT ALL TABLE s) d) + (SELECT count(*) FROM (TABLE s EXCEPT ALL TABLE c) d)',
		rtrim(pg_get_viewdef(view), ';'), view, columns) INTO result;
	RETURN result;
END $$;

CREATE FUNCTION follow(advice text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF advice ~ 'Make one with: ' THEN
		EXECUTE regexp_replace(advice, '.*Make one with: ', '');
	END IF;
END $$;

-- The error is told with the statement that makes the index, whatever the columns are called.
SELECT prod_analytics.enable_incremental_refresh('i_two');
SELECT prod_analytics.enable_incremental_refresh('i_names');
SELECT prod_analytics.enable_incremental_refresh('i_wrong_index');

CREATE UNIQUE INDEX i_simple_key ON i_simple (g) INCLUDE (count) NULLS NOT DISTINCT;
CREATE UNIQUE INDEX ON i_two (k, g) NULLS NOT DISTINCT;
CREATE UNIQUE INDEX ON i_bpchar (v, b);
CREATE TABLE kept AS
	SELECT relname COLLATE "C" AS view, oid::regclass AS id, keep(oid) AS kept FROM pg_class
	WHERE relnamespace = 'cases'::regnamespace AND relkind = 'm' ORDER BY relname COLLATE "C";

-- Why views are kept in full.
SELECT view, kept->>'reason' AS reason FROM kept WHERE kept->>'mode' = 'full' ORDER BY view;
-- The others: by which keys, by which index, and what is special.
SELECT view, kept->>'keys' AS keys, kept->>'not_data' AS not_data FROM kept WHERE kept->>'mode' = 'incremental' ORDER BY view;
SELECT view, kept->>'order_dependent' AS order_dependent FROM kept WHERE kept ? 'order_dependent' AND view <> 'i_blind' ORDER BY view;
SELECT view, coalesce(kept->>'index', substring(kept->>'advice' FROM 'Make one with: (.*)'), 'none can help') AS "index" FROM kept
WHERE kept->>'mode' = 'incremental' AND view LIKE ANY ('{i\_simple,i\_exp%,i\_const%,i\_repeated,i\_names,i\_collate,w\_%}') AND view <> 'w_none_odd' ORDER BY view;
-- The advice can be followed.
SELECT count(*) FILTER (WHERE kept ? 'index') AS served, count(*) FILTER (WHERE keep(id) ? 'index') AS served_then
FROM kept, LATERAL (SELECT follow(kept->>'advice') OFFSET 0) f WHERE view LIKE 'i\_%';
-- None is kept otherwise than its name says.
SELECT view, kept FROM kept WHERE (view LIKE 'f%') <> (kept->>'mode' = 'full');

-- A column that is computed when it is read; PostgreSQL 18 has them.
DO $$
BEGIN
	IF current_setting('server_version_num')::int >= 180000 THEN
		EXECUTE 'CREATE TABLE computed (a int, b int GENERATED ALWAYS AS (a * 2) VIRTUAL)';
		CREATE MATERIALIZED VIEW by_computed AS SELECT b, count(*) FROM computed GROUP BY b;
		ASSERT prod_analytics.enable_incremental_refresh('by_computed')->>'reason' = 'it reads the virtual generated column "b"';
		DROP TABLE computed CASCADE;
	END IF;
END $$;

-- The changes, in rounds: a few rows of few groups, many, all.
CREATE FUNCTION change(round int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	step int := (ARRAY[97, 7, 2, 1, 31, 89])[round];
BEGIN
	INSERT INTO plain
	SELECT (SELECT max(id) FROM plain) + id, g, t, c, n, n2, a, m, p, b, v, f, j, ts + interval '1 day', d, u, dom, x, bl, "Quoted "" Name", "größe", s, k, k0, is_there, lowest, iv, wall
	FROM plain WHERE id % step = 0 AND round <> 4;
	UPDATE plain SET (g, t, c, n, n2, a, m) = (k + 1, nullif(t, 't1') || 'x', upper(c)::citext, n * 1.00, n2 + 0.01, a || k, 'ok') WHERE id % step = step / 2;
	UPDATE plain SET (p, b, f, j, ts, dom, bl, iv, "größe", lowest) = (ROW(g, t), b || ' ', -f, '{"x": 1.0}', ts + interval '1 day', 2, upper(bl), iv * 24, NULL, 7)
	WHERE id % step = step / 3;
	DELETE FROM plain WHERE id % step = step - 1 OR (round = 3 AND g = 3) OR round = 4 AND g IS NULL;

	INSERT INTO part (id, org, "Ts", val, kind)
	SELECT id + round * 10000, org, "Ts" + interval '2 hours', val, kind FROM part WHERE id % step = 0 AND round <> 4 AND "Ts" BETWEEN '-infinity' AND '3000-01-01';
	UPDATE part SET ("Ts", val) = ("Ts" - interval '17 days', val + 1) WHERE id % step = step / 2 AND "Ts" BETWEEN '2024-01-01' AND '2024-12-31';
	UPDATE part SET org = id % 5 WHERE id % step = step / 3 AND "Ts" < '3000-01-01';
	DELETE FROM part WHERE id % step = step - 1 AND "Ts" < '3000-01-01';

	INSERT INTO part_wall SELECT ts + interval '3 hours', val FROM part_wall WHERE val % step = 0 AND round <> 4;
	UPDATE part_wall SET ts = ts + interval '40 days' WHERE val % step = step / 2 AND val > 100;
	DELETE FROM part_wall WHERE val % step = step - 1;
	INSERT INTO part_date SELECT d + 30, val FROM part_date WHERE val % step = 0 AND round <> 4;
	UPDATE part_date SET d = d - 3 WHERE val % step = step / 2 AND val > 100;
	DELETE FROM part_date WHERE val % step = step - 1;
	INSERT INTO part_odd (ts) SELECT ts + interval '1 day' FROM part_odd WHERE extract(hour FROM ts) = round;
	INSERT INTO part_two SELECT a, ts + interval '1 day' FROM part_two WHERE extract(hour FROM ts) = round;
	DELETE FROM part_list WHERE extract(hour FROM ts) = round;
	UPDATE part_expression SET ts = ts + interval '5 days' WHERE extract(hour FROM ts) = round;
	-- What is there after a round is there in the next one.
	INSERT INTO plain (id, g, t, c, n, k, dom)
	SELECT round * 1000000 + i, i % 7, 't' || i % 5, (ARRAY['A', 'a', 'b'])[i % 3 + 1], i / 3, i % 3, 1 FROM generate_series(1, 700) i WHERE round >= 4;
	INSERT INTO part (id, org, "Ts", val) SELECT round * 1000000 + i, i % 7, timestamptz '2024-01-30' + i * interval '1 hour', i FROM generate_series(1, 60) i WHERE round >= 4;
	INSERT INTO part_wall SELECT timestamp '1999-12-30' + i * interval '1 hour', i FROM generate_series(1, 60) i WHERE round >= 4;
	INSERT INTO part_date SELECT date '2024-01-30' + i, i FROM generate_series(1, 60) i WHERE round >= 4;
END $$;

-- Refreshes all that is incremental, and tells which views are not what they should be.
CREATE FUNCTION wrong(round int) RETURNS TABLE (view text, way text, differing bigint) LANGUAGE plpgsql AS $$
DECLARE
	k record;
BEGIN
	FOR k IN SELECT * FROM kept WHERE kept.kept->>'mode' = 'incremental' ORDER BY kept.view LOOP
		way := prod_analytics.refresh_incremental(k.id)->>'method';
		view := k.view;
		differing := differences(k.id, k.kept);
		RETURN NEXT;
	END LOOP;
END $$;

-- Without costs, groups are always computed one by one.
SET seq_page_cost = 0;
SET random_page_cost = 0;
SET cpu_tuple_cost = 0;
SET cpu_index_tuple_cost = 0;
SET cpu_operator_cost = 0;
-- The first time everything has changed.
SELECT way, count(*) > 70 AS many, array_agg(view) FILTER (WHERE differing <> 0) AS wrong FROM wrong(0) GROUP BY way;

SELECT change(1);
-- Before a refresh they do differ.
SELECT count(*) > 60 AS differ FROM kept WHERE CASE WHEN kept->>'mode' = 'incremental' THEN differences(id, kept) > 0 END;
SELECT way, count(*) > 70 AS many, array_agg(view) FILTER (WHERE differing <> 0) AS wrong FROM wrong(1) GROUP BY way;
SELECT change(2);
SELECT way, count(*) > 70 AS many, array_agg(view) FILTER (WHERE differing <> 0) AS wrong FROM wrong(2) GROUP BY way;
SELECT change(3);
SELECT way, count(*) > 70 AS many, array_agg(view) FILTER (WHERE differing <> 0) AS wrong FROM wrong(3) GROUP BY way;
SELECT change(4);
SELECT way, count(*) > 70 AS many, array_agg(view) FILTER (WHERE differing <> 0) AS wrong FROM wrong(4) GROUP BY way;
SELECT change(5);
-- All at once, whatever has changed.
SELECT count(prod_analytics.mark_changed(id)) > 70 AS marked FROM kept WHERE kept->>'mode' = 'incremental';
SELECT way, count(*) > 70 AS many, array_agg(view) FILTER (WHERE differing <> 0) AS wrong FROM wrong(5) GROUP BY way;
SELECT change(6);
SELECT way, count(*) > 70 AS many, array_agg(view) FILTER (WHERE differing <> 0) AS wrong FROM wrong(6) GROUP BY way;

-- A key that cannot be computed, of a row that WHERE leaves out, is nothing that a writer must know.
DELETE FROM part WHERE id = 1002;
SELECT way, array_agg(view) FILTER (WHERE differing <> 0) AS wrong FROM wrong(7) GROUP BY way;

-- The views have rows, or all of this says nothing.
CREATE FUNCTION rows_of(view regclass, OUT rows bigint) LANGUAGE plpgsql AS $$ BEGIN EXECUTE format('SELECT count(*) FROM %s', view) INTO rows; END $$;
SELECT view FROM kept WHERE CASE WHEN kept->>'mode' = 'incremental' THEN rows_of(id) = 0 END ORDER BY view;
-- Nor has verify_matview() found anything else.
SET client_min_messages = error;
SELECT view, v.* FROM (SELECT * FROM kept WHERE kept->>'mode' = 'incremental' OFFSET 0) k, prod_analytics.verify_matview(id) v;

DROP SCHEMA cases CASCADE;
DROP FOREIGN DATA WRAPPER regress_wrapper CASCADE;
DROP ACCESS METHOD regress_heap;
DROP ROLE regress_other;
DROP SCHEMA prod_analytics CASCADE;
DROP EXTENSION hstore;
