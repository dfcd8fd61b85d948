-- backfill_column(): a column gets its values where it has none, batch by batch, and nothing else changes.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SET prod_analytics.backfill_pause = 0;
\set SHOW_CONTEXT never
CREATE VIEW last_run AS SELECT job_name, status, rows_processed AS rows, details->'filled' AS filled, details->'locked' AS locked, details->'batches' AS batches
	FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;

-- Only what is missing, and only where there is a value.
CREATE TABLE t (id int PRIMARY KEY, props jsonb, device text, touched int DEFAULT 0);
INSERT INTO t SELECT n, CASE WHEN n % 3 > 0 THEN jsonb_build_object('device', 'd' || n) END, CASE n WHEN 7 THEN 'kept' END FROM generate_series(1, 100) n;
CALL prod_analytics.backfill_column('t', 'device', $$props->>'device'$$, 30);
SELECT * FROM last_run;
SELECT count(*) FILTER (WHERE device = 'd' || id) AS filled, count(*) FILTER (WHERE device IS NULL) AS without, min(device) FILTER (WHERE id = 7) AS seventh, sum(touched) AS touched FROM t;
-- Again: nothing to do, nothing is rewritten.
CREATE TABLE before AS SELECT id, ctid AS place FROM t;
CALL prod_analytics.backfill_column('t', 'device', $$props->>'device'$$);
SELECT * FROM last_run;
SELECT count(*) AS rewritten FROM t JOIN before USING (id) WHERE t.ctid <> place;
SELECT details - '{relid,scanned,rows_before,position}'::text[] AS details, details->'position' - 'leafid'::text AS position FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;
-- A batch of the last row, one of exactly all rows, and a table without rows.
UPDATE t SET device = NULL;
CALL prod_analytics.backfill_column('t', 'device', '1::text', 99);
UPDATE t SET device = NULL;
CALL prod_analytics.backfill_column('t', 'device', '1::text', 100);
SELECT * FROM last_run;
TRUNCATE t;
CALL prod_analytics.backfill_column('t', 'device', '1::text');
SELECT * FROM last_run;

-- The partitions of events, one after the other; generated columns, CHECKs and the other columns are as they were.
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
INSERT INTO prod_analytics.events (event_id, event_type, event_time, event_props)
SELECT n, 'x', timestamptz '2026-02-10' + n * interval '1 day', jsonb_build_object('device', 'd' || n) FROM generate_series(1, 60) n;
CREATE TABLE before_events AS SELECT to_jsonb(e) - 'device_type' AS event FROM prod_analytics.events e;
CALL prod_analytics.backfill_column('prod_analytics.events', 'device_type', $$event_props->>'device'$$, 7);
SELECT * FROM last_run;
SELECT count(*) AS changed FROM (SELECT to_jsonb(e) - 'device_type' FROM prod_analytics.events e EXCEPT ALL TABLE before_events) c;
SELECT count(*) AS wrong FROM prod_analytics.events WHERE device_type IS DISTINCT FROM event_props->>'device';

-- Keys of any types and any number of columns, in any order; names that need quotes; keys that print differently in each session.
CREATE SCHEMA "odd ""schema";
CREATE TYPE mood AS ENUM ('z', 'a', 'm');
CREATE DOMAIN code AS text COLLATE "C";
CREATE TABLE "odd ""schema"."odd 'table" (
	"c 1" citext, "c""2" timestamptz, mood mood, bytes bytea, f float8, code code, i interval, "new col" int, filler int, words text[],
	PRIMARY KEY (words, code, "c 1", mood, "c""2", f, bytes, i));
INSERT INTO "odd ""schema"."odd 'table"
SELECT chr(65 + n % 30) || chr(97 + n % 7), timestamptz '2026-01-01' + n * interval '7 hours', (enum_range(NULL::mood))[1 + n % 3],
	decode(md5(n::text), 'hex'), n / 3.0, 'it''s {' || n % 11 || '}', n * interval '1 month 1 second', NULL, n, ARRAY[CASE WHEN n % 2 = 0 THEN 'word' END]
FROM generate_series(1, 500) n;
SET array_nulls = off;
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'sql_standard';
SET extra_float_digits = -10;
CALL prod_analytics.backfill_column('"odd ""schema"."odd ''table"', 'new col', '"odd ''table".filler', 13);
SELECT * FROM last_run;
RESET array_nulls;
RESET IntervalStyle;
RESET extra_float_digits;
SET DateStyle = 'ISO';
SELECT count(*) AS wrong FROM "odd ""schema"."odd 'table" WHERE "new col" IS DISTINCT FROM filler;

-- Partitions of partitions, of different column orders, and a partition that is made of an older table.
CREATE TABLE p (a int, b int, v text, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
CREATE TABLE p2 (v text, gone int, b int NOT NULL, a int NOT NULL) PARTITION BY LIST (b);
ALTER TABLE p2 DROP COLUMN gone;
CREATE TABLE p2x PARTITION OF p2 FOR VALUES IN (1, 2);
CREATE TABLE p2d PARTITION OF p2 DEFAULT;
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
INSERT INTO p SELECT n % 20, n / 20, NULL FROM generate_series(0, 199) n;
CALL prod_analytics.backfill_column('p', 'v', $$p.a || '/' || b$$, 9);
SELECT count(*) AS wrong FROM p WHERE v IS DISTINCT FROM a || '/' || b;

-- What can stand in an expression: comments, subqueries, and a row's own name.
CREATE TABLE x (id bigint PRIMARY KEY, n int, other int, v numeric(6, 1));
INSERT INTO x SELECT n, n FROM generate_series(1, 3) n;
CALL prod_analytics.backfill_column('x', 'v', 'n * 1.26 -- a comment');
SELECT * FROM x ORDER BY id;
UPDATE x SET v = NULL;
CALL prod_analytics.backfill_column('x', 'v', '(SELECT max(o.n) FROM x o WHERE o.id <= x.id) /* another */');
SELECT * FROM x ORDER BY id;
-- A row type of which a part is NULL is a value.
CREATE TYPE pair AS (a int, b int);
ALTER TABLE x ADD COLUMN pair pair;
CALL prod_analytics.backfill_column('x', 'pair', 'ROW(n, NULL)');
SELECT id, pair FROM x ORDER BY id;

-- error: an expression that is none, or more than one
ALTER TABLE x ADD COLUMN w int;
\set VERBOSITY sqlstate
CALL prod_analytics.backfill_column('x', 'w', 'n), other = (n');
CALL prod_analytics.backfill_column('x', 'w', 'n, n');
CALL prod_analytics.backfill_column('x', 'w', 'n AS n');
CALL prod_analytics.backfill_column('x', 'w', 'n FROM x');
CALL prod_analytics.backfill_column('x', 'w', '1 WHERE true');
CALL prod_analytics.backfill_column('x', 'w', '1 LIMIT 1');
CALL prod_analytics.backfill_column('x', 'w', 'DISTINCT 1');
CALL prod_analytics.backfill_column('x', 'w', 'n) /*');
CALL prod_analytics.backfill_column('x', 'w', '1; DROP TABLE x');
CALL prod_analytics.backfill_column('x', 'w', '1) WHERE true; DROP TABLE x; --');
CALL prod_analytics.backfill_column('x', 'w', '');
CALL prod_analytics.backfill_column('x', 'w', '-- nothing');
CALL prod_analytics.backfill_column('x', 'w', '*');
CALL prod_analytics.backfill_column('x', 'w', '$1');
CALL prod_analytics.backfill_column('x', 'w', 'SELECT 1');
CALL prod_analytics.backfill_column('x', 'w', 'DEFAULT');
CALL prod_analytics.backfill_column('x', 'w', 'no_such_column');
CALL prod_analytics.backfill_column('x', 'w', 'job');
-- error: of a wrong type, an aggregate, a set, a window
CALL prod_analytics.backfill_column('x', 'w', 'true');
CALL prod_analytics.backfill_column('x', 'w', 'max(n)');
CALL prod_analytics.backfill_column('x', 'w', 'generate_series(1, 2)');
CALL prod_analytics.backfill_column('x', 'w', 'row_number() OVER ()');
\set VERBOSITY default
CALL prod_analytics.backfill_column('x', 'w', 'n), other = (n');
CALL prod_analytics.backfill_column('x', 'w', 'n, n');
CALL prod_analytics.backfill_column('x', 'w', 'max(n)');
CALL prod_analytics.backfill_column('x', 'w', 'true');
SELECT count(w) AS filled, count(other) AS others FROM x;
-- error: arguments
CALL prod_analytics.backfill_column(NULL, 'w', 'n');
CALL prod_analytics.backfill_column('x', NULL, 'n');
CALL prod_analytics.backfill_column('x', 'w', NULL);
CALL prod_analytics.backfill_column('x', 'w', 'n', NULL);
CALL prod_analytics.backfill_column('x', 'w', 'n', 0);
CALL prod_analytics.backfill_column('x', 'w', 'n', -1);
CALL prod_analytics.backfill_column('x', 'no such', 'n');
CALL prod_analytics.backfill_column('x', 'ctid', 'n');
ALTER TABLE x ADD COLUMN g int GENERATED ALWAYS AS (n) STORED;
CALL prod_analytics.backfill_column('x', 'g', 'n');
-- error: what cannot be filled
CREATE TABLE keyless (n int, v int);
CALL prod_analytics.backfill_column('keyless', 'v', 'n');
CREATE VIEW a_view AS SELECT * FROM x;
CALL prod_analytics.backfill_column('a_view', 'w', 'n');
CREATE FOREIGN DATA WRAPPER dummy;
CREATE SERVER dummy FOREIGN DATA WRAPPER dummy;
CREATE FOREIGN TABLE foreign_table (n int, v int) SERVER dummy;
CALL prod_analytics.backfill_column('foreign_table', 'v', 'n');
CREATE TABLE with_foreign (n int, v int) PARTITION BY LIST (n);
CREATE FOREIGN TABLE foreign_part PARTITION OF with_foreign FOR VALUES IN (1) SERVER dummy;
CALL prod_analytics.backfill_column('with_foreign', 'v', 'n');
CALL prod_analytics.backfill_column('with_foreign', 'n', 'v');
CREATE TABLE keyed_by_v (id int, v int) PARTITION BY LIST (v);
CALL prod_analytics.backfill_column('keyed_by_v', 'v', 'id');
CREATE RULE ruled AS ON UPDATE TO x DO INSTEAD NOTHING;
CALL prod_analytics.backfill_column('x', 'w', 'n');
DROP RULE ruled ON x;
CALL prod_analytics.backfill_column(0, 'w', 'n');
-- error: inside a transaction block; read-only
BEGIN;
CALL prod_analytics.backfill_column('x', 'w', 'n');
ROLLBACK;
SET default_transaction_read_only = on;
CALL prod_analytics.backfill_column('x', 'w', 'n');
RESET default_transaction_read_only;
-- A parent by inheritance is filled alone, and says so.
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (x);
INSERT INTO child (id, n) VALUES (100, 1);
CALL prod_analytics.backfill_column('x', 'w', 'n');
SELECT tableoid::regclass, id, w FROM x ORDER BY id;
DROP TABLE child;

-- A row that the expression fails for: what was filled before stays, the run has failed, and the next call goes on there.
CREATE TABLE f (id int PRIMARY KEY, n int, v int);
INSERT INTO f SELECT n, CASE n WHEN 25 THEN 0 ELSE 1 END FROM generate_series(1, 50) n;
CALL prod_analytics.backfill_column('f', 'v', '100 / n', 10);
SELECT * FROM last_run;
SELECT details - '{relid,resumed,context,position}'::text[] FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;
SELECT count(v), max(id) FILTER (WHERE v IS NOT NULL) FROM f;
SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
\set VERBOSITY terse
-- It fails again as long as nothing has changed (the notice that tells the number of the run is left out).
SET client_min_messages = warning;
CALL prod_analytics.backfill_column('f', 'v', '100 / n', 10);
UPDATE f SET n = 2 WHERE id = 25;
UPDATE f SET v = NULL WHERE id = 1;
CALL prod_analytics.backfill_column('f', 'v', '100 / n', 10);
SELECT status, rows, filled FROM last_run;
SELECT count(v), sum(v) FROM f;
-- After a success it starts anew.
CALL prod_analytics.backfill_column('f', 'v', '100 / n', 10);
SELECT status, rows, filled FROM last_run;
-- So it does for another expression, and when the table is another one.
UPDATE f SET v = NULL, n = 0 WHERE id = 25;
CALL prod_analytics.backfill_column('f', 'v', '100 / n', 10);
UPDATE f SET v = NULL WHERE id = 1;
CALL prod_analytics.backfill_column('f', 'v', '200 / (n + 1)', 10);
SELECT status, rows, filled FROM last_run;
RESET client_min_messages;
\set VERBOSITY default
-- A trigger that refuses a row, and one that changes other columns or suppresses the update.
CREATE FUNCTION on_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.id = 3 THEN RETURN NULL; END IF;
	NEW.n := 77;
	RETURN NEW;
END $$;
CREATE TRIGGER on_update BEFORE UPDATE ON f FOR EACH ROW EXECUTE FUNCTION on_update();
ALTER TABLE f ADD COLUMN w text, ADD CHECK (w <> 'row 5');
CALL prod_analytics.backfill_column('f', 'w', $$'row ' || id$$, 4);
ALTER TABLE f DROP CONSTRAINT f_w_check;
SET client_min_messages = warning;
CALL prod_analytics.backfill_column('f', 'w', $$'row ' || id$$, 4);
RESET client_min_messages;
SELECT * FROM f WHERE id <= 6 ORDER BY id;
SELECT * FROM last_run;

DROP TRIGGER on_update ON f;
-- error: from a function, which cannot commit
CREATE FUNCTION calls() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL prod_analytics.backfill_column('public.f', 'w', '1'); END $$;
\set VERBOSITY terse
SELECT calls();
\set VERBOSITY default
DROP FUNCTION calls();
SELECT count(*) AS locks FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();

-- Privileges: the caller's, on the table and its partitions; nobody else gets in.
CREATE ROLE regress_operator IN ROLE analytics_operator;
GRANT CREATE, USAGE ON SCHEMA public TO regress_operator;
SET ROLE regress_operator;
CALL prod_analytics.backfill_column('prod_analytics.events', 'device_type', '1::text');
RESET ROLE;
GRANT SELECT, UPDATE ON p TO regress_operator;
SET ROLE regress_operator;
CALL prod_analytics.backfill_column('p', 'v', 'a::text');
RESET ROLE;
GRANT SELECT, UPDATE (v) ON p, p1, p2, p2x, p2d TO regress_operator;
UPDATE p SET v = NULL WHERE a = 11;
SET ROLE regress_operator;
CALL prod_analytics.backfill_column('p', 'v', 'a::text');
RESET ROLE;
SELECT DISTINCT v FROM p WHERE a = 11;
ALTER TABLE p ENABLE ROW LEVEL SECURITY;
SET ROLE regress_operator;
CALL prod_analytics.backfill_column('p', 'v', 'a::text');
RESET ROLE;
ALTER TABLE p DISABLE ROW LEVEL SECURITY;
-- The caller's search_path is for the expression only.
CREATE SCHEMA regress_trap;
GRANT ALL ON SCHEMA regress_trap TO PUBLIC;
SET ROLE regress_operator;
CREATE TABLE regress_trap.caught (what text);
CREATE FUNCTION regress_trap.caught(what text) RETURNS boolean LANGUAGE sql AS $$ INSERT INTO regress_trap.caught VALUES (what); SELECT true $$;
CREATE FUNCTION regress_trap.lt(int, int) RETURNS boolean LANGUAGE sql AS $$ SELECT regress_trap.caught('int') $$;
CREATE FUNCTION regress_trap.lt(tid, tid[]) RETURNS boolean LANGUAGE sql AS $$ SELECT regress_trap.caught('tid') $$;
CREATE FUNCTION regress_trap.lt(jsonb, text) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(regress_trap.caught('jsonb')) $$;
CREATE FUNCTION regress_trap.array_agg(tid) RETURNS tid[] LANGUAGE sql AS $$ SELECT ARRAY[$1] FROM regress_trap.caught('array_agg') $$;
CREATE FUNCTION regress_trap.cardinality(tid[]) RETURNS int LANGUAGE sql AS $$ SELECT 0 FROM regress_trap.caught('cardinality') $$;
CREATE OPERATOR regress_trap.> (LEFTARG = int, RIGHTARG = int, FUNCTION = regress_trap.lt);
CREATE OPERATOR regress_trap.<= (LEFTARG = int, RIGHTARG = int, FUNCTION = regress_trap.lt);
CREATE OPERATOR regress_trap.= (LEFTARG = int, RIGHTARG = int, FUNCTION = regress_trap.lt);
CREATE OPERATOR regress_trap.-> (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = regress_trap.lt);
CREATE DOMAIN regress_trap.text AS pg_catalog.text CHECK (regress_trap.caught('domain text'));
CREATE DOMAIN regress_trap.jsonb AS pg_catalog.jsonb CHECK (regress_trap.caught('domain jsonb'));
CREATE FUNCTION regress_trap.own(int) RETURNS pg_catalog.text LANGUAGE sql AS $$ SELECT pg_catalog.concat('own ', $1) $$;
RESET ROLE;
UPDATE f SET w = NULL;
SET search_path = regress_trap, pg_catalog;
CALL prod_analytics.backfill_column('public.f', 'w', 'own(id)', 20);
SELECT * FROM regress_trap.caught;
RESET search_path;
SELECT count(*) FROM f WHERE w LIKE 'own%';

-- No batch reads the whole table: not of 50,000 rows in the order of a key that has nothing to do with their places.
CREATE TABLE big (id uuid PRIMARY KEY, n int, v int) WITH (autovacuum_enabled = off);
INSERT INTO big SELECT md5(n::text)::uuid, n FROM generate_series(1, 50000) n;
ANALYZE big;
CALL prod_analytics.backfill_column('big', 'v', 'n', 5000);
SELECT count(*) AS wrong FROM big WHERE v IS DISTINCT FROM n;
SELECT pg_stat_force_next_flush();
-- The two are that of the count above, and of the index when it was made.
SELECT seq_scan, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'big';

-- The row that a constraint refuses is shown to the caller, and not kept in the log.
ALTER TABLE big ADD COLUMN small int CHECK (small < 10);
CALL prod_analytics.backfill_column('big', 'small', 'n + 10', 1);
SELECT details->>'sqlstate' AS sqlstate, details->>'detail' AS detail FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;
-- error: the steps by themselves, without what they need
SELECT prod_analytics.backfill_range('big', 'big'::regclass::oid, 'v', ARRAY[NULL], NULL, 1);
SELECT prod_analytics.backfill_range('big', 'big'::regclass::oid, NULL, NULL, NULL, 1);
SELECT prod_analytics.backfill_range('big', 'big'::regclass::oid, 'v', NULL, NULL, NULL);
SELECT prod_analytics.backfill_rows('big', 'big'::regclass::oid, 'v', NULL, '{"(0,1)"}');
SELECT prod_analytics.backfill_progress('big', NULL, 1, 1);

SET client_min_messages = warning;
DROP VIEW last_run;
DROP TABLE t, before, before_events, p, x, keyless, with_foreign, keyed_by_v, f, big CASCADE;
DROP FOREIGN DATA WRAPPER dummy CASCADE;
DROP FUNCTION on_update();
DROP SCHEMA regress_trap, "odd ""schema" CASCADE;
DROP TYPE mood, code, pair;
DROP SCHEMA prod_analytics CASCADE;
REVOKE ALL ON SCHEMA public FROM regress_operator;
DROP ROLE regress_operator;
