-- Plans that are kept: what is run and what is not, what becomes of changes, and who may.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
CREATE ROLE regress_operator LOGIN IN ROLE analytics_operator;
CREATE TABLE things (id int PRIMARY KEY, n int);
INSERT INTO things VALUES (1, 1), (2, 2);
CREATE FUNCTION changes() RETURNS int LANGUAGE sql AS 'UPDATE public.things SET n = n + 100 RETURNING n';
CREATE FUNCTION quiet() RETURNS int LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN count(*) FROM public.things; END';
CREATE SEQUENCE counter;
GRANT SELECT ON things TO regress_operator;

-- What only reads is run.
CREATE FUNCTION captured(query text, run boolean DEFAULT false) RETURNS TABLE (executed text, node text, rows text, has_buffers boolean) LANGUAGE sql AS $$
	SELECT r->>'executed', r->'plan'->'Plan'->>'Node Type', r->'plan'->'Plan'->>'Actual Rows', r->'plan'->'Plan' ? 'Shared Hit Blocks'
	FROM prod_analytics.capture_plan(query, run) r
$$;
SELECT executed, node, rows::numeric::int, has_buffers FROM captured('SELECT * FROM public.things');
SELECT executed, rows::numeric::int FROM captured('WITH t AS (SELECT * FROM public.things) SELECT count(*) FROM t;');
SELECT executed FROM captured('VALUES (1)');
-- What changes or locks rows is not, unless that is asked for; then it is rolled back.
SELECT executed, node FROM captured('UPDATE public.things SET n = 5');
SELECT executed FROM captured('WITH t AS (DELETE FROM public.things RETURNING *) SELECT * FROM t');
SELECT executed FROM captured('SELECT * FROM public.things FOR UPDATE');
SELECT executed FROM captured('INSERT INTO public.things VALUES (3, 3)');
SELECT executed FROM captured('MERGE INTO public.things t USING (VALUES (1)) v (id) ON t.id = v.id WHEN MATCHED THEN DELETE');
SELECT executed, node FROM captured('UPDATE public.things SET n = 5', true);
SELECT executed FROM captured('DELETE FROM public.things', true);
-- So is what calls a function that changes something: it is cut off at the first change.
SELECT executed, node FROM captured('SELECT public.changes()');
SELECT executed FROM captured('SELECT prod_analytics.ensure_partitions()');
SELECT executed FROM captured($$SELECT nextval('public.counter')$$);
SELECT executed, node FROM captured('SELECT public.changes()', true);
SELECT executed FROM captured('SELECT public.quiet()');
SHOW transaction_read_only;
SELECT nextval('public.counter');
TABLE things;
-- Each plan is kept.
SELECT query, executed, captured_by = current_user AS by_me, jsonb_typeof(plan->'Plan') AS plan FROM prod_analytics.captured_plans ORDER BY plan_id;

-- error: what cannot be kept
SELECT prod_analytics.capture_plan(NULL);
SELECT prod_analytics.capture_plan('SELECT 1', NULL);
SELECT prod_analytics.capture_plan('');
SELECT prod_analytics.capture_plan('SELECT 1; DROP TABLE things');
SELECT prod_analytics.capture_plan('DROP TABLE things', true);
SELECT prod_analytics.capture_plan('SELECT 1 INTO things2');
PREPARE changing AS DELETE FROM things;
SELECT prod_analytics.capture_plan('EXECUTE changing', true);
SELECT prod_analytics.capture_plan('EXPLAIN ANALYZE DELETE FROM things', true);
SELECT prod_analytics.capture_plan('CALL prod_analytics.purge_history()', true);
SELECT prod_analytics.capture_plan('COPY things TO STDOUT', true);
SELECT prod_analytics.capture_plan('CREATE TABLE things2 AS SELECT 1', true);
SELECT prod_analytics.capture_plan('SELECT $1');
SELECT prod_analytics.capture_plan('SELEC 1');
SELECT prod_analytics.capture_plan('SELECT 1 / 0');
SELECT prod_analytics.capture_plan('SELECT * FROM nothing');
BEGIN READ ONLY;
SELECT prod_analytics.capture_plan('SELECT 1');
ROLLBACK;
-- error: with nobody's rights but the caller's
SET ROLE regress_operator;
SELECT prod_analytics.capture_plan('SELECT * FROM pg_authid') IS NOT NULL;
SELECT prod_analytics.capture_plan('DELETE FROM public.things', true) IS NOT NULL;
SELECT prod_analytics.capture_plan('SELECT * FROM public.things')->>'executed' AS executed;
RESET ROLE;
SELECT captured_by FROM prod_analytics.captured_plans ORDER BY plan_id DESC LIMIT 1;
SET ROLE analytics_reader;
SELECT prod_analytics.capture_plan('SELECT 1');
SELECT * FROM prod_analytics.captured_plans;
RESET ROLE;

-- error: without pg_stat_statements, and without its library
DROP EXTENSION IF EXISTS pg_stat_statements;
SELECT * FROM prod_analytics.slow_queries();
CREATE EXTENSION pg_stat_statements;
DO $$ BEGIN
	PERFORM prod_analytics.slow_queries();
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	RAISE WARNING 'its library was not preloaded';
END $$;
DROP EXTENSION pg_stat_statements;

DROP FUNCTION captured, changes, quiet;
DROP SEQUENCE counter;
DROP TABLE things;
DROP SCHEMA prod_analytics CASCADE;
DROP ROLE regress_operator;
