-- What others may try against whoever runs our functions.  What must hold: nothing of theirs runs as anybody but
-- themselves, and nobody gets a row or a privilege that he has not.
--
-- Tried elsewhere: what is planted before CREATE EXTENSION (adoption); functions and operators on the search_path of
-- ingestion (roles), of search (search), of backfill_column() (backfill); functions, operators and names in registered
-- views (refresh_verify); renamed and dropped tables (partition_upkeep, refresh_register); commands of jobs (worker).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
SELECT prod_analytics.ensure_partitions() > 0 AS made;
CREATE ROLE regress_mallory IN ROLE analytics_operator;
CREATE ROLE regress_operator IN ROLE analytics_operator;
CREATE ROLE regress_loader IN ROLE analytics_loader;
CREATE ROLE regress_reader IN ROLE analytics_reader;
CREATE SCHEMA evil AUTHORIZATION regress_mallory;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
-- Who has run what of the attacker's.
CREATE TABLE evil.caught (what text, who name DEFAULT current_user, restricted boolean);
GRANT INSERT ON evil.caught TO PUBLIC;
CREATE FUNCTION caught() RETURNS TABLE (what text, who text, restricted boolean) LANGUAGE sql SET search_path = pg_catalog AS $$
	WITH gone AS (DELETE FROM evil.caught RETURNING *)
	SELECT DISTINCT g.what, CASE WHEN g.who = session_user THEN 'the superuser' ELSE g.who::text END, g.restricted FROM gone g ORDER BY 1, 2, 3
$$;
SET ROLE regress_mallory;
-- Notes who runs it, and tries to become somebody else or to leave something behind.
CREATE FUNCTION evil.note(what text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	statement text;
	escapes int := 0;
BEGIN
	FOREACH statement IN ARRAY '{RESET ROLE,SET SESSION AUTHORIZATION DEFAULT,SET ROLE NONE,CREATE TEMP TABLE left_behind (),LISTEN evil,DECLARE c CURSOR WITH HOLD FOR SELECT 1}'::text[] LOOP
		BEGIN
			EXECUTE statement;
			escapes := escapes + 1;
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
	END LOOP;
	INSERT INTO evil.caught VALUES (note.what, current_user, escapes = 0);
END $$;
CREATE FUNCTION evil.pass(what text, value anyelement) RETURNS anyelement IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN PERFORM evil.note(pass.what); RETURN pass.value; END $$;
CREATE FUNCTION evil.on_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM evil.note('trigger ' || TG_NAME); RETURN coalesce(NEW, OLD); END $$;
CREATE FUNCTION evil.always(int) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.note('always') IS NOT NULL $$;
RESET ROLE;

-- The command of a job finds no function of whoever has a schema of its owner's name, or may create in public.
-- Each of these fits better than the server's, which take anything.
DO $$ BEGIN EXECUTE format('CREATE SCHEMA %I AUTHORIZATION regress_mallory', session_user); END $$;
SET ROLE regress_mallory;
DO $$
DECLARE
	path text := format('%I', session_user);
BEGIN
	EXECUTE format('SET LOCAL search_path = %s', path);
	CREATE FUNCTION build(text, bigint, text, text, text, text, text, jsonb) RETURNS jsonb LANGUAGE sql AS $f$ SELECT evil.note('jsonb_build_object'); SELECT '{}'::jsonb $f$;
	ALTER FUNCTION build(text, bigint, text, text, text, text, text, jsonb) RENAME TO jsonb_build_object;
	CREATE FUNCTION add(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT ''''';
	CREATE FUNCTION finish(text) RETURNS jsonb LANGUAGE sql AS $f$ SELECT evil.note('jsonb_object_agg'); SELECT '{}'::jsonb $f$;
	CREATE AGGREGATE jsonb_object_agg(text, text) (SFUNC = add, STYPE = text, FINALFUNC = finish, INITCOND = '');
	CREATE FUNCTION count(int) RETURNS int LANGUAGE sql AS $f$ SELECT evil.note('count'); SELECT 1 $f$;
END $$;
SET ROLE regress_operator;
SELECT job_name, r->>'status' AS status FROM (VALUES ('ingest_events'), ('upsert_users'), ('refresh_matviews'), ('quality_checks')) j (job_name), prod_analytics.run_job(job_name) r;
RESET ROLE;
SELECT * FROM caught();

-- A store of version 0.1.0 has the command that did.
UPDATE prod_analytics.jobs SET command = $c$SELECT jsonb_strip_nulls(jsonb_build_object('rows', count(*)))
FROM prod_analytics.run_quality_checks()$c$ WHERE job_name = 'quality_checks';
UPDATE prod_analytics.jobs SET command = 'SELECT 1' WHERE job_name = 'refresh_matviews';
SELECT prod_analytics.create_tables();
SELECT job_name, command FROM prod_analytics.jobs WHERE job_name IN ('quality_checks', 'refresh_matviews') ORDER BY 1;

-- Nor does any of our functions find one on the search_path of its caller: here stands the attacker's copy of each of
-- the server's functions and operators on types that we use.
CREATE SCHEMA trap AUTHORIZATION regress_mallory;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
SET ROLE regress_mallory;
DO $$
DECLARE
	ours CONSTANT oid[] := '{text,name,integer,bigint,numeric,boolean,jsonb,timestamptz,timestamp,date,interval,regclass,oid,text[],uuid,tid,"char"}'::regtype[]::oid[];
	f record;
	copies int := 0;
BEGIN
	FOR f IN
		SELECT p.proname AS name, pg_get_function_identity_arguments(p.oid) AS arguments, p.prorettype::regtype AS result,
			format('pg_catalog.%I(%s)', p.proname, (SELECT string_agg('$' || n, ', ') FROM generate_series(1, p.pronargs) n)) AS original
		FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset
			AND p.provariadic = 0 AND p.proargnames IS NULL AND p.prorettype = ANY (ours)
			AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) t WHERE t <> ALL (ours))
		-- What takes anything is easily outdone.
		UNION ALL
		SELECT v.name, a.arguments, v.result::regtype, v.value
		FROM (VALUES ('format', 'text', $f$''$f$), ('concat_ws', 'text', $f$''$f$), ('jsonb_build_object', 'jsonb', $f$'{}'$f$),
			('jsonb_object_agg', 'jsonb', $f$'{}'$f$)) v (name, result, value),
			unnest('{"text, text","text, name","text, name, name","text, integer","text, bigint","text, text, text"}'::text[]) a (arguments)
		UNION ALL
		SELECT v.name, a.arguments, v.result::regtype, v.value
		FROM (VALUES ('count', 'bigint', '0'), ('max', 'text', 'NULL'), ('to_jsonb', 'jsonb', 'NULL'), ('array_agg', 'text[]', 'NULL'), ('jsonb_agg', 'jsonb', 'NULL'),
			('cardinality', 'integer', '0'), ('array_length', 'integer', '0'), ('unnest', 'text', 'NULL')) v (name, result, value),
			unnest('{text,bigint,integer,jsonb,name,text[]}'::text[]) a (arguments)
	LOOP
		CONTINUE WHEN to_regprocedure(format('trap.%I(%s)', f.name, f.arguments)) IS NOT NULL;
		EXECUTE format('CREATE FUNCTION trap.%I(%s) RETURNS %s LANGUAGE sql AS %L', f.name, f.arguments, f.result,
			format('SELECT evil.note(%L); SELECT (%s)::%s', f.name || '()', f.original, f.result));
		copies := copies + 1;
	END LOOP;
	FOR f IN
		SELECT o.oprname AS name, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result
		FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft = ANY (ours) AND o.oprright = ANY (ours)
			AND o.oprresult = ANY (ours)
	LOOP
		copies := copies + 1;
		EXECUTE format('CREATE FUNCTION trap.operator_%s(%s, %s) RETURNS %s LANGUAGE sql AS %L', copies, f.l, f.r, f.result,
			format('SELECT evil.note(%L); SELECT $1 OPERATOR(pg_catalog.%s) $2', 'operator ' || f.name, f.name));
		EXECUTE format('CREATE OPERATOR trap.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = trap.operator_%s)', f.name, f.l, f.r, copies);
	END LOOP;
END $$;
-- Names of types and tables too.
CREATE DOMAIN trap.text AS pg_catalog.text CHECK (evil.note('domain text') IS NOT NULL);
CREATE DOMAIN trap.jsonb AS pg_catalog.jsonb CHECK (evil.note('domain jsonb') IS NOT NULL);
CREATE DOMAIN trap.regclass AS pg_catalog.regclass CHECK (evil.note('domain regclass') IS NOT NULL);
CREATE DOMAIN trap.interval AS pg_catalog.interval CHECK (evil.note('domain interval') IS NOT NULL);
CREATE VIEW trap.pg_class AS SELECT c.*, evil.pass('pg_class', 1) FROM pg_catalog.pg_class c;
CREATE VIEW trap.pg_locks AS SELECT l.*, evil.pass('pg_locks', 1) FROM pg_catalog.pg_locks l;
RESET ROLE;
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1001, 'Acme');
INSERT INTO prod_analytics.users (user_id, org_id, email) VALUES (1001, 1001, 'a@example.com'), (1002, 1001, 'b@example.com');
INSERT INTO prod_analytics.events (event_type, event_time, event_props) VALUES ('old', now() - interval '30 years', '{}');
UPDATE prod_analytics.partition_policies SET retention = '20 years';
INSERT INTO prod_analytics.staging_events (user_id, event_type, payload, event_time) VALUES (1001, 'purchase', '{"order_id": 1, "price": 2}', now()), (9, 'purchase', '{}', now());
INSERT INTO prod_analytics.staging_users (src_id, email, org_src, payload) VALUES ('c', 'c@example.com', 'Acme', '{"last_login": "2026-03-01"}'), ('d', NULL, NULL, '{}');
INSERT INTO prod_analytics.etl_jobs (job_name, started_at, status) VALUES ('old', '2001-01-01', 'SUCCESS');
SELECT count(*) > 500 AS many FROM pg_proc WHERE pronamespace = 'trap'::regnamespace;
SET client_min_messages = error;
SET search_path = trap, pg_catalog;
SELECT count('a'::pg_catalog.text) AS theirs, now() OPERATOR(pg_catalog.=) pg_catalog.now() AS same, 'a'::pg_catalog.text = 'a' AS equal;
SELECT * FROM public.caught();
SELECT prod_analytics.create_tables() AS made;
SELECT (prod_analytics.etl_ingest_events()) OPERATOR(pg_catalog.->>) 'status' AS ingested, (prod_analytics.etl_upsert_users()) OPERATOR(pg_catalog.->>) 'status' AS merged;
SELECT prod_analytics.redrive_events() AS events, prod_analytics.redrive_users(reason_code => 'missing_field') AS users;
SELECT (prod_analytics.refresh_incremental()) OPERATOR(pg_catalog.->>) 'status' AS refreshed;
SELECT prod_analytics.mark_changed('prod_analytics.mv_org_daily_metrics', '{"org_id": 1, "event_date": "2026-03-01"}');
SELECT * FROM prod_analytics.verify_matview('prod_analytics.mv_org_daily_metrics', 10);
CALL prod_analytics.maintain_partitions();
SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2010-01-01', '2010-03-01') AS made;
SELECT FROM prod_analytics.plan_partitions();
SELECT prod_analytics.drop_expired_partitions() AS dropped;
SELECT FROM prod_analytics.run_quality_checks() LIMIT 0;
SELECT prod_analytics.register_event_schema('evil', '{"pattern": "^a+$"}');
SELECT FROM prod_analytics.validate_event('evil', '{"a": 1}');
SELECT FROM prod_analytics.event_schema_report('purchase', '2001-01-01', '2031-01-01');
SELECT prod_analytics.schedule_job('evil', '1 hour', 'SELECT 1', timeout => '1 hour', depends_on => '{ingest_events}');
SELECT prod_analytics.pause_job('evil');
SELECT prod_analytics.resume_job('evil');
SELECT FROM prod_analytics.due_jobs() LIMIT 0;
SELECT prod_analytics.unschedule_job('evil');
SELECT prod_analytics.capture_plan('SELECT 1') IS NULL AS nothing;
CALL prod_analytics.purge_history();
CALL prod_analytics.backfill_column('prod_analytics.users', 'username', '''none''');
SELECT FROM prod_analytics.active_users('2026-03-01', '2026-03-02') LIMIT 0;
SELECT FROM prod_analytics.retention('2026-03-01', '2026-03-02') LIMIT 0;
SELECT FROM prod_analytics.retention('2026-03-01', '2026-03-02', 'week', NULL, 'signup') LIMIT 0;
SELECT FROM prod_analytics.funnel('{purchase,view}', by => 'product_id', from_time => '2026-03-01') LIMIT 0;
SELECT FROM prod_analytics.users_with_event('purchase', '2026-03-01') LIMIT 0;
SELECT FROM prod_analytics.users_without_event('purchase', '2026-03-01') LIMIT 0;
SELECT FROM prod_analytics.org_tree() LIMIT 0;
SELECT FROM prod_analytics.search_knowledge_base('anything') LIMIT 0;
SELECT prod_analytics.load_sample_data(10, 100, 0.5) IS NULL AS nothing;
SELECT prod_analytics.erase_user(1002) IS NULL AS nothing;
SELECT FROM prod_analytics.partition_status LIMIT 0;
SELECT FROM prod_analytics.matview_status, prod_analytics.job_status, prod_analytics.worker_status, prod_analytics.org_daily_metrics LIMIT 0;
-- Partitions have functions and operators of their own.
ALTER TABLE prod_analytics.events RENAME TO renamed;
ALTER TABLE prod_analytics.renamed RENAME TO events;
RESET search_path;
RESET client_min_messages;
SELECT * FROM caught();

SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
DO $$ BEGIN EXECUTE format('DROP SCHEMA %I CASCADE', session_user); END $$;
DROP SCHEMA evil, trap CASCADE;
DROP FUNCTION caught();
DROP ROLE regress_mallory, regress_operator, regress_loader, regress_reader;
