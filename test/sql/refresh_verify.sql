-- What a refresh tells, how it fails, who may do what; and verify_matview().
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
DROP SCHEMA IF EXISTS check_it CASCADE;
CREATE SCHEMA check_it;
CREATE ROLE regress_reader IN ROLE analytics_reader;
CREATE ROLE regress_operator IN ROLE analytics_operator;
CREATE ROLE regress_mallory IN ROLE analytics_operator;
SELECT prod_analytics.disable_incremental_refresh('prod_analytics.mv_org_daily_metrics');
SET search_path = check_it;
RESET client_min_messages;
-- Without costs, groups are always computed one by one.
SET seq_page_cost = 0;
SET random_page_cost = 0;
SET cpu_tuple_cost = 0;
SET cpu_index_tuple_cost = 0;
SET cpu_operator_cost = 0;

-- Replacing these makes a view wrong without a trace.
CREATE FUNCTION worth(v int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT v';
CREATE FUNCTION counts(v int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT v < 90';
CREATE TABLE t (k int, shop text, v int);
INSERT INTO t SELECT nullif(n % 5, 0), nullif('s' || n % 2, 's1'), nullif(n, 50) FROM generate_series(1, 100) n;
CREATE INDEX ON t (k, shop);
CREATE MATERIALIZED VIEW mv AS SELECT k, shop, sum(worth(v)) AS total, count(*) AS n, now() AS computed_at FROM t WHERE counts(v) GROUP BY k, shop;
CREATE UNIQUE INDEX mv_key ON mv (k, shop) NULLS NOT DISTINCT;
SELECT prod_analytics.enable_incremental_refresh('mv')->>'mode' AS mode;

-- What a refresh tells.
CREATE FUNCTION told(result jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT result - '{job_id,duration_seconds}'::text[] $$;
SELECT string_agg(key, ' ' ORDER BY key COLLATE "C") AS keys FROM jsonb_object_keys(prod_analytics.refresh_incremental('mv')) key;
SELECT told(prod_analytics.refresh_incremental('mv'));
INSERT INTO t VALUES (1, 's0', 1), (9, 'new', 1);
DELETE FROM t WHERE k = 2 AND shop = 's0';
UPDATE t SET v = v + 1 WHERE k = 3 AND shop IS NULL;
UPDATE t SET v = -v WHERE v = 95;
SELECT told(prod_analytics.refresh_incremental('mv'));
SELECT * FROM prod_analytics.verify_matview('mv');
SELECT job_name, status, rows_processed, details - 'duration_seconds' AS details FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;

-- Exact: that is noted, but not for a sample or when something differs.
SELECT mode, pending_keys, everything_changed, oldest_pending_change, refreshed_at IS NOT NULL AS refreshed, duration > '0' AS took, method,
	verified_at > refreshed_at AS verified FROM prod_analytics.matview_status WHERE matview = 'check_it.mv';
UPDATE prod_analytics.refresh_state SET verified_at = NULL;
SELECT * FROM prod_analytics.verify_matview('mv', sample_keys => 3);
SELECT verified_at FROM prod_analytics.matview_status WHERE matview = 'check_it.mv';

-- Missing, different and extra groups, with NULL keys, and a value that is NULL on one side.
CREATE OR REPLACE FUNCTION counts(v int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT v < 20 OR v > 95 AND v % 5 <> 1';
CREATE OR REPLACE FUNCTION worth(v int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT CASE WHEN v % 5 <> 4 THEN v END';
DELETE FROM t WHERE v % 5 IN (2, 3) AND v < 20;
INSERT INTO t VALUES (100, 'z', 10), (NULL, NULL, 95), (200, 'm', 50), (NULL, 'm', 55);
SELECT told(prod_analytics.refresh_incremental('mv'));
CREATE OR REPLACE FUNCTION counts(v int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT v % 5 NOT IN (1, 3) AND v <> 10';
SELECT problem, stored - 'computed_at' AS stored, recomputed - 'computed_at' AS recomputed
FROM prod_analytics.verify_matview('mv') ORDER BY 1, 2, 3;
SELECT verified_at FROM prod_analytics.matview_status WHERE matview = 'check_it.mv';
-- Both sides show all columns, those that are not compared as well.
SELECT DISTINCT array(SELECT jsonb_object_keys(stored)) AS stored, array(SELECT jsonb_object_keys(recomputed)) AS recomputed
FROM prod_analytics.verify_matview('mv') WHERE problem = 'different';
-- A sample finds some, and never more than asked for; a large one finds all.
SET client_min_messages = warning;
SELECT count(*) BETWEEN 1 AND 4 AS some FROM prod_analytics.verify_matview('mv', 4);
SELECT count(*) = (SELECT count(*) FROM prod_analytics.verify_matview('mv')) AS every_one FROM prod_analytics.verify_matview('mv', 1000);
-- What is repaired is told once more, and then exact; a repaired sample leaves what it has not seen.
SELECT count(*) FROM prod_analytics.verify_matview('mv', 2, repair => true) WHERE problem IS NULL;
SELECT count(*) > 0 AS still FROM prod_analytics.verify_matview('mv');
SELECT count(*) > 0 AS repaired FROM prod_analytics.verify_matview('mv', repair => true);
SELECT * FROM prod_analytics.verify_matview('mv', repair => true);
SELECT pending_keys FROM prod_analytics.matview_status WHERE matview = 'check_it.mv';
RESET client_min_messages;
-- Differences that only wait for a refresh are told as such.
INSERT INTO t VALUES (1, 'pending', 4);
SELECT problem FROM prod_analytics.verify_matview('mv');
SELECT told(prod_analytics.refresh_incremental('mv'));
-- A view with a change of its own transaction, which is undone.
BEGIN;
INSERT INTO t VALUES (2, 'own', 4);
SELECT problem, stored, recomputed->>'shop' AS shop FROM prod_analytics.verify_matview('mv');
SELECT problem FROM prod_analytics.verify_matview('mv', repair => true);
SELECT * FROM prod_analytics.verify_matview('mv');
ROLLBACK;
SELECT * FROM prod_analytics.verify_matview('mv');

-- What is not compared is said, and what is: NULLs, arrays, records, equal values that look different.
CREATE TYPE pair AS (n bigint, t text);
CREATE TABLE u (k numeric, a int[], f float8, t text);
INSERT INTO u VALUES (1.0, '{1,NULL}', 1, NULL), (1.00, NULL, 2, 'x'), (NULL, NULL, NULL, NULL), ('NaN', '{}', 'NaN', '');
CREATE MATERIALIZED VIEW loose AS SELECT k, array_agg(t) AS ts, sum(f) AS "Sum", random() AS dice, max(a) AS a, (count(*), min(t))::pair AS pair FROM u GROUP BY k;
CREATE UNIQUE INDEX ON loose (k) NULLS NOT DISTINCT;
SELECT r - '{advice,matview,source}'::text[] FROM prod_analytics.enable_incremental_refresh('loose') r;
SELECT told(prod_analytics.refresh_incremental('loose'));
SELECT * FROM prod_analytics.verify_matview('loose');

-- error: arguments
SELECT * FROM prod_analytics.verify_matview('mv', 0);
SELECT * FROM prod_analytics.verify_matview('mv', -1);
SELECT * FROM prod_analytics.verify_matview(NULL);
SELECT * FROM prod_analytics.verify_matview('mv', repair => NULL);
SELECT * FROM prod_analytics.verify_matview('t');
SELECT * FROM prod_analytics.verify_matview(0);
SELECT prod_analytics.refresh_incremental('t');
SELECT prod_analytics.refresh_incremental(0);
-- error: not registered
CREATE MATERIALIZED VIEW unknown AS SELECT k, count(*) FROM t GROUP BY k;
SELECT * FROM prod_analytics.verify_matview('unknown');
SELECT prod_analytics.refresh_incremental('unknown');
-- error: mode full
CREATE MATERIALIZED VIEW whole AS SELECT DISTINCT k FROM t;
SELECT prod_analytics.enable_incremental_refresh('whole')->>'reason' AS reason;
SELECT * FROM prod_analytics.verify_matview('whole');
-- error: read-only; looking is no change
BEGIN READ ONLY;
SELECT * FROM prod_analytics.verify_matview('mv');
SAVEPOINT s;
SELECT prod_analytics.refresh_incremental('mv');
ROLLBACK TO s;
SELECT * FROM prod_analytics.verify_matview('mv', repair => true);
ROLLBACK;

-- Mode full: the server's REFRESH, CONCURRENTLY when it can.  CONCURRENTLY leaves the file in its place.
CREATE FUNCTION refreshed_in_place(view regclass) RETURNS TABLE (result jsonb, in_place boolean) LANGUAGE plpgsql AS $$
DECLARE
	before oid := pg_relation_filenode(view);
BEGIN
	result := told(prod_analytics.refresh_incremental(view));
	in_place := pg_relation_filenode(view) = before;
	RETURN NEXT;
END $$;
INSERT INTO t VALUES (77, 'x', 4);
SELECT * FROM refreshed_in_place('whole');
CREATE UNIQUE INDEX ON whole (k) NULLS NOT DISTINCT;
SELECT * FROM refreshed_in_place('whole');
REFRESH MATERIALIZED VIEW whole WITH NO DATA;
SELECT * FROM refreshed_in_place('whole');
SELECT count(*) FROM whole WHERE k = 77;
-- Incremental, but empty: it is filled, and incremental from then on.
REFRESH MATERIALIZED VIEW mv WITH NO DATA;
INSERT INTO t VALUES (78, 'x', 4);
SELECT * FROM refreshed_in_place('mv');
SELECT * FROM refreshed_in_place('mv');
INSERT INTO t VALUES (79, 'x', 4);
SELECT * FROM refreshed_in_place('mv');
SELECT * FROM prod_analytics.verify_matview('mv');
-- No longer eligible: in full, with the reason, until it is again.
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
SELECT * FROM refreshed_in_place('mv');
SELECT * FROM prod_analytics.verify_matview('mv');
INSERT INTO t VALUES (80, 'x', 4);
SELECT result - 'reason' AS result FROM refreshed_in_place('mv');
ALTER TABLE t DISABLE ROW LEVEL SECURITY;
UPDATE t SET shop = 'y' WHERE k = 80;
SELECT result->>'mode' AS mode FROM refreshed_in_place('mv');
SELECT * FROM prod_analytics.verify_matview('mv');

-- All views: one that fails leaves the others refreshed, and says why.
CREATE MATERIALIZED VIEW ratio AS SELECT k, 100 / sum(v) AS ratio FROM t GROUP BY k;
CREATE UNIQUE INDEX ON ratio (k) NULLS NOT DISTINCT;
SELECT prod_analytics.enable_incremental_refresh('ratio')->>'mode' AS mode;
SELECT v->>'matview' AS matview, v->>'status' AS status FROM jsonb_array_elements(prod_analytics.refresh_incremental()->'views') v;
INSERT INTO t VALUES (81, 'x', 0), (82, 'x', 1);
DROP INDEX mv_key;
SELECT told(prod_analytics.refresh_incremental()) - 'views' AS result;
SELECT v - '{reason,mode,method}'::text[] AS view FROM jsonb_array_elements((SELECT details->'views' FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1)) v;
SELECT count(*) FROM whole WHERE k = 82;
-- Alone, a view that fails is a run that fails.
SELECT r->>'status' AS status, r->>'sqlstate' AS sqlstate, r->>'error' AS error, r->>'hint' AS hint FROM prod_analytics.refresh_incremental('mv') r;
SELECT status, details->>'error' AS error FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;
CREATE UNIQUE INDEX mv_key ON mv (k, shop) NULLS NOT DISTINCT;
DELETE FROM t WHERE k = 81;
SELECT prod_analytics.refresh_incremental()->>'status' AS status;
SELECT v, x.* FROM unnest('{mv,ratio}'::regclass[]) v, prod_analytics.verify_matview(v) x;

-- While it goes on, job_progress shows which view it is.
CREATE FUNCTION watch(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
DECLARE
	row record;
BEGIN
	SELECT * INTO row FROM prod_analytics.job_progress WHERE pid = pg_backend_pid();
	RAISE NOTICE '%', to_jsonb(row) - '{pid,datname,started_at}'::text[];
	RETURN v;
END $$;
CREATE TABLE w (k int);
INSERT INTO w VALUES (1), (2);
CREATE MATERIALIZED VIEW watched AS SELECT k, sum(watch(k)) FROM w GROUP BY k WITH NO DATA;
CREATE UNIQUE INDEX ON watched (k) NULLS NOT DISTINCT;
SELECT prod_analytics.enable_incremental_refresh('watched')->>'mode' AS mode;
SET client_min_messages = warning;
SELECT prod_analytics.refresh_incremental('watched')->>'method' AS method;
RESET client_min_messages;
INSERT INTO w VALUES (2);
SELECT prod_analytics.refresh_incremental('watched')->>'method' AS method;
SELECT count(*) FROM prod_analytics.job_progress WHERE pid = pg_backend_pid();

-- Names that are not for the faint-hearted.
CREATE TABLE x ();
CREATE TABLE "src""; DROP TABLE x; --" ("k'""; DROP TABLE x; --" text, "$1" int, "größe" int);
CREATE MATERIALIZED VIEW "mv""; DROP TABLE x; --" AS
	SELECT "k'""; DROP TABLE x; --", "größe", sum("$1") AS "sum""; --" FROM "src""; DROP TABLE x; --" GROUP BY 1, 2;
CREATE UNIQUE INDEX ON "mv""; DROP TABLE x; --" ("k'""; DROP TABLE x; --", "größe") NULLS NOT DISTINCT;
SELECT prod_analytics.enable_incremental_refresh('"mv""; DROP TABLE x; --"');
SELECT told(prod_analytics.refresh_incremental('"mv""; DROP TABLE x; --"'));
INSERT INTO "src""; DROP TABLE x; --" VALUES ('''); DROP TABLE x; --', 1, NULL), (NULL, 2, 3);
SELECT problem, recomputed FROM prod_analytics.verify_matview('"mv""; DROP TABLE x; --"', 5) ORDER BY 2;
SELECT prod_analytics.mark_changed('"mv""; DROP TABLE x; --"', '{"k''\"; DROP TABLE x; --": "''); DROP TABLE x; --", "größe": 9}');
SELECT told(prod_analytics.refresh_incremental('"mv""; DROP TABLE x; --"'));
SELECT * FROM prod_analytics.verify_matview('"mv""; DROP TABLE x; --"');
TABLE x;

-- Who may: an operator, whose the view need not be; a reader not.
GRANT USAGE ON SCHEMA check_it TO regress_reader, regress_operator, regress_mallory;
SET ROLE regress_operator;
INSERT INTO t VALUES (1, 'x', 1);
SELECT prod_analytics.refresh_incremental('mv')->>'status' AS status;
SELECT * FROM prod_analytics.verify_matview('mv', repair => true);
SELECT count(*) > 0 AS sees FROM prod_analytics.matview_status;
SELECT count(*) FROM mv;
SET ROLE regress_reader;
SELECT prod_analytics.refresh_incremental('mv');
SELECT * FROM prod_analytics.verify_matview('mv');
SELECT prod_analytics.mark_changed('mv');
SELECT count(*) > 0 AS sees FROM prod_analytics.matview_status;
RESET ROLE;

-- Somebody who owns a view and what it reads cannot make others run his code: not writers, who only run what came with the
-- server, nor who refreshes, which happens with the owner's rights, and restricted.
GRANT CREATE ON SCHEMA check_it TO regress_mallory;
SET ROLE regress_mallory;
CREATE FUNCTION "equals"(text, text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '= run by %', current_user; RETURN true; END $$;
CREATE OPERATOR = (FUNCTION = "equals", LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION really_tries() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	statement text;
BEGIN
	RAISE NOTICE 'run by %, search_path %', current_user, current_setting('search_path');
	FOREACH statement IN ARRAY '{CREATE TEMP TABLE mine (), RESET ROLE, SET SESSION AUTHORIZATION DEFAULT, TABLE check_it.u, DECLARE c CURSOR WITH HOLD FOR SELECT 1}'::text[] LOOP
		BEGIN
			EXECUTE statement;
			RAISE NOTICE '%: done', statement;
		EXCEPTION WHEN OTHERS THEN
			RAISE NOTICE '%: %', statement, SQLERRM;
		END;
	END LOOP;
END $$;
CREATE FUNCTION tries(what int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM check_it.really_tries(); RETURN what; END $$;
CREATE FUNCTION lower(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM check_it.really_tries(); RETURN $1; END $$;
CREATE TABLE trap (t text, v int);
SET search_path = check_it, pg_catalog;
CREATE MATERIALIZED VIEW own_function AS SELECT lower(t) AS t, count(*) FROM trap GROUP BY 1;
CREATE MATERIALIZED VIEW own_operator AS SELECT t = 'x' AS is_x, count(*) FROM trap GROUP BY 1;
CREATE MATERIALIZED VIEW own_aggregate AS SELECT t, sum(tries(v)) FROM trap WHERE t = 'x' GROUP BY t;
CREATE UNIQUE INDEX ON own_aggregate (t) NULLS NOT DISTINCT;
SET search_path = check_it;
SELECT prod_analytics.enable_incremental_refresh('own_function');
SELECT prod_analytics.enable_incremental_refresh('own_operator');
SELECT prod_analytics.enable_incremental_refresh('own_aggregate')->>'mode' AS mode;
RESET ROLE;
INSERT INTO trap VALUES ('x', 1);
SELECT prod_analytics.refresh_incremental('own_aggregate')->>'status' AS status;
SET ROLE regress_operator;
SELECT * FROM prod_analytics.verify_matview('own_aggregate');
RESET ROLE;
SELECT prod_analytics.refresh_incremental('own_function')->>'status' AS status;
SELECT current_user = session_user AS myself, current_setting('search_path') AS search_path, to_regclass('pg_temp.mine') AS planted;

SET client_min_messages = warning;
DROP SCHEMA check_it CASCADE;
DROP SCHEMA prod_analytics CASCADE;
DROP OWNED BY regress_mallory;
DROP ROLE regress_reader, regress_operator, regress_mallory;
