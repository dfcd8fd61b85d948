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
SET client_min_messages = warning;
DO $$ BEGIN EXECUTE format('DROP SCHEMA %I CASCADE', session_user); END $$;
RESET client_min_messages;

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
SELECT prod_analytics.drop_expired_partitions() IS NULL AS nothing;
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

-- An operator may not write what became of a run that he has not begun, nor make a backfill that others will call go
-- on behind rows that were never filled.
CREATE TABLE public.attacked (id int PRIMARY KEY, v int);
INSERT INTO public.attacked (id) SELECT generate_series(1, 10);
INSERT INTO prod_analytics.etl_jobs (job_id, job_name, started_at, status) VALUES (-1, 'ingest_events', now(), 'RUNNING');
SET ROLE regress_operator;
-- error: somebody else's run
SELECT prod_analytics.job_note(-1, 7, '{"forged": true}');
SELECT prod_analytics.job_finish(-1, 'SUCCESS', 7, '{"forged": true}');
-- error: a run of a column that he may not update, by its steps or as a job
SELECT prod_analytics.job_begin('backfill_column public.attacked.v');
SELECT prod_analytics.job_begin('backfill_column public.attacked.missing');
SELECT prod_analytics.job_begin('backfill_column nonsense');
SELECT prod_analytics.job_begin('backfill_column "no;where".x.y');
SELECT prod_analytics.job_begin('backfill_column public.attacked.nothing');
SELECT prod_analytics.schedule_job('backfill_column public.attacked.v', '1 hour', $$SELECT '{"status": "FAILED", "position": {}}'::jsonb$$);
RESET ROLE;
ALTER ROLE regress_operator LOGIN;
GRANT UPDATE (v) ON public.attacked TO regress_operator;
SET ROLE regress_operator;
SELECT prod_analytics.schedule_job('backfill_column public.attacked.v', '1 hour', 'SELECT 1');
SELECT prod_analytics.unschedule_job('backfill_column public.attacked.v');
RESET ROLE;
SELECT status, details FROM prod_analytics.etl_jobs WHERE job_id = -1;
DELETE FROM prod_analytics.etl_jobs WHERE job_id = -1;
DROP TABLE public.attacked;

-- A table and a materialized view of the attacker's, with his code wherever one can have some: whoever looks after
-- them, that code runs as the attacker, who cannot become anybody else from there.
CREATE FUNCTION tend() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM prod_analytics.ensure_partitions('evil.t', '2026-03-15');
	INSERT INTO evil.t (k, org) VALUES ('2026-06-15', 1), ('2026-03-15', 1);
	DELETE FROM evil.caught;
	PERFORM prod_analytics.ensure_partitions('evil.t', '2026-06-15');
	PERFORM prod_analytics.refresh_incremental('evil.by_org');
	PERFORM FROM prod_analytics.verify_matview('evil.by_org');
	PERFORM FROM prod_analytics.plan_partitions('evil.t', '2026-09-15');
	PERFORM prod_analytics.drop_expired_partitions('evil.t', '2026-06-15');
	PERFORM prod_analytics.analyze_partitions('evil.t');
	PERFORM prod_analytics.run_quality_checks();
END $$;
SET ROLE regress_mallory;
CREATE TABLE evil.t (
	k timestamptz NOT NULL DEFAULT evil.pass('default', timestamptz '2026-03-15'),
	org int CHECK (evil.pass('check', org) > 0),
	twice int GENERATED ALWAYS AS (evil.pass('generated', org * 2)) STORED
) PARTITION BY RANGE (k);
CREATE INDEX ON evil.t (evil.pass('index', org));
CREATE STATISTICS evil.s ON (evil.pass('statistics', org)), k FROM evil.t;
CREATE TRIGGER row BEFORE INSERT OR UPDATE ON evil.t FOR EACH ROW EXECUTE FUNCTION evil.on_change();
CREATE TRIGGER statement AFTER INSERT OR DELETE ON evil.t FOR EACH STATEMENT EXECUTE FUNCTION evil.on_change();
SELECT prod_analytics.manage_partitions('evil.t', 'k', ahead => 0, behind => 0, retention => '1 month');
CREATE MATERIALIZED VIEW evil.by_org AS SELECT k, org, count(*) AS n, sum(evil.pass('aggregate', org)) AS total FROM evil.t GROUP BY k, org;
CREATE UNIQUE INDEX ON evil.by_org (k, org) NULLS NOT DISTINCT;
CREATE INDEX ON evil.by_org (evil.pass('index on the view', n));
CREATE TABLE evil.archive (k timestamptz, org int, n bigint CHECK (evil.pass('check of the archive', n) > 0), total bigint, x int DEFAULT evil.pass('default of the archive', 1));
CREATE TRIGGER archive BEFORE INSERT ON evil.archive FOR EACH ROW EXECUTE FUNCTION evil.on_change();
SELECT r->>'mode' AS mode FROM prod_analytics.enable_incremental_refresh('evil.by_org', 'evil.archive') r;
RESET ROLE;
SELECT tend();
SELECT what, who, restricted FROM caught();
SELECT count(*) AS archived FROM evil.archive;
-- The server lets no code wait for the end of the transaction, when it would run as somebody else.
SET ROLE regress_mallory;
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON evil.archive DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION evil.on_change();
RESET ROLE;
SELECT prod_analytics.ensure_partitions('evil.t', '2026-09-15') AS made;
-- error: that is one
SELECT prod_analytics.drop_expired_partitions('evil.t', '2026-09-15');
SELECT DISTINCT who, restricted FROM caught();
SET ROLE regress_mallory;
DROP TRIGGER later ON evil.archive;
RESET ROLE;
-- error: an archive that belongs to another role by now is not written to
ALTER TABLE evil.archive OWNER TO regress_operator;
SELECT prod_analytics.drop_expired_partitions('evil.t', '2026-09-15');
ALTER TABLE evil.archive OWNER TO regress_mallory;
-- The same by an operator, who is neither.
SET ROLE regress_operator;
SET client_min_messages = error;
CALL prod_analytics.maintain_partitions('evil.t');
RESET client_min_messages;
SELECT prod_analytics.refresh_incremental('evil.by_org')->>'status' AS status;
SELECT * FROM prod_analytics.verify_matview('evil.by_org', repair => true);
RESET ROLE;
SELECT DISTINCT who, restricted FROM caught();
-- A writer runs what the owner of a table has attached to it, as with any table; what we attach runs no code of the
-- owner's, whatever the view does.
CREATE TABLE public.quiet (k int, v int);
ALTER TABLE public.quiet OWNER TO regress_mallory;
GRANT CREATE ON SCHEMA public TO regress_mallory;
SET ROLE regress_mallory;
CREATE MATERIALIZED VIEW evil.quiet AS SELECT k, sum(evil.pass('aggregate', v)) AS total FROM public.quiet GROUP BY k;
CREATE UNIQUE INDEX ON evil.quiet (k) NULLS NOT DISTINCT;
CREATE INDEX ON evil.quiet (evil.pass('index on the view', total));
SELECT r->>'mode' AS mode FROM prod_analytics.enable_incremental_refresh('evil.quiet') r;
RESET ROLE;
SELECT FROM caught();
INSERT INTO public.quiet VALUES (1, 1), (2, 2);
UPDATE public.quiet SET k = 3 WHERE k = 2;
SELECT count(*) AS caught FROM caught();
SELECT prod_analytics.refresh_incremental('evil.quiet')->>'status' AS status;
SELECT DISTINCT who, restricted FROM caught();
SELECT prod_analytics.disable_incremental_refresh('evil.quiet');
SET client_min_messages = warning;
DROP TABLE public.quiet CASCADE;
RESET client_min_messages;
REVOKE CREATE ON SCHEMA public FROM regress_mallory;

-- A view of ours over a table of his is refreshed as its owner, and not kept incrementally.
CREATE MATERIALIZED VIEW public.over_his AS SELECT org, count(*) FROM evil.t GROUP BY org;
CREATE UNIQUE INDEX ON public.over_his (org) NULLS NOT DISTINCT;
SELECT prod_analytics.enable_incremental_refresh('public.over_his')->>'mode' AS mode;
DROP MATERIALIZED VIEW public.over_his;
-- error: and he cannot have one over ours that he does not own, nor look after ours
SET ROLE regress_mallory;
CREATE MATERIALIZED VIEW evil.ours AS SELECT user_id, count(*) FROM prod_analytics.events GROUP BY 1;
CREATE UNIQUE INDEX ON evil.ours (user_id) NULLS NOT DISTINCT;
SELECT r->>'mode' AS mode, r->>'reason' AS reason FROM prod_analytics.enable_incremental_refresh('evil.ours') r;
SELECT prod_analytics.manage_partitions('prod_analytics.events', 'event_time', retention => '1 hour');
SELECT prod_analytics.unmanage_partitions('prod_analytics.events');
SELECT prod_analytics.disable_incremental_refresh('prod_analytics.mv_org_daily_metrics');
SELECT prod_analytics.enable_incremental_refresh('prod_analytics.mv_org_daily_metrics', 'evil.archive');
CALL prod_analytics.backfill_column('prod_analytics.events', 'device_type', '''forged''');
RESET ROLE;
SELECT DISTINCT tgrelid::regclass AS "table" FROM pg_trigger WHERE tgfoid::regproc::text = 'prod_analytics.capture_changes' AND tgparentid = 0 ORDER BY 1;

-- An operator expires what has expired, by no clock of his own.
UPDATE prod_analytics.partition_policies SET retention = '1 month' WHERE parent = 'prod_analytics.events';
CREATE TEMP TABLE before AS SELECT inhrelid FROM pg_inherits WHERE inhparent = 'prod_analytics.events'::regclass;
SET ROLE regress_operator;
-- error: the future
SELECT prod_analytics.drop_expired_partitions('prod_analytics.events', 'tomorrow');
SELECT prod_analytics.drop_next_partition('prod_analytics.events', '2999-01-01');
SELECT prod_analytics.drop_expired_partitions('prod_analytics.events', now() + interval '1 hour');
RESET ROLE;
SELECT count(*) AS dropped FROM before WHERE inhrelid NOT IN (SELECT oid FROM pg_class);
DROP TABLE before;
UPDATE prod_analytics.partition_policies SET retention = '20 years' WHERE parent = 'prod_analytics.events';

-- A table that stands where a partition is to be made, with the attacker's code in it, is neither used nor dropped.
-- (He must have been able to make one in our schema, which only a grant of CREATE lets him.)
GRANT CREATE ON SCHEMA prod_analytics TO regress_mallory;
SET ROLE regress_mallory;
CREATE TABLE prod_analytics.events_p20950101 (LIKE prod_analytics.events);
CREATE TRIGGER planted BEFORE INSERT ON prod_analytics.events_p20950101 FOR EACH ROW EXECUTE FUNCTION evil.on_change();
RESET ROLE;
REVOKE CREATE ON SCHEMA prod_analytics FROM regress_mallory;
-- error: it is in the way
SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2095-01-01', '2095-02-01');
DROP TABLE prod_analytics.events_p20950101;
-- Nor is a schema of the name that we use for a moment in the way, or used.
CREATE SCHEMA prod_analytics_expected AUTHORIZATION regress_mallory;
SET ROLE regress_mallory;
CREATE TABLE prod_analytics_expected.users (x evil.caught DEFAULT evil.pass('scratch', NULL::evil.caught));
RESET ROLE;
SELECT prod_analytics.create_tables() AS made;
SELECT what FROM caught();
SET client_min_messages = warning;
DROP SCHEMA prod_analytics_expected CASCADE;
RESET client_min_messages;
-- error: nor is a partition that became his adopted
BEGIN;
ALTER TABLE prod_analytics.events_default OWNER TO regress_mallory;
SELECT prod_analytics.create_tables();
ROLLBACK;
-- error: nor anything that inherits from ours, has a rule, or a column of a type of his
BEGIN;
CREATE TABLE public.heir () INHERITS (prod_analytics.users);
ALTER TABLE public.heir OWNER TO regress_mallory;
SELECT prod_analytics.create_tables();
ROLLBACK;
BEGIN;
CREATE RULE planted AS ON INSERT TO prod_analytics.users DO ALSO SELECT evil.pass('rule', 1);
SELECT prod_analytics.create_tables();
ROLLBACK;
BEGIN;
CREATE DOMAIN evil.planted AS text CHECK (evil.pass('domain', 1) = 1);
ALTER DOMAIN evil.planted OWNER TO regress_mallory;
ALTER TABLE prod_analytics.users ADD COLUMN x evil.planted;
SELECT prod_analytics.create_tables();
ROLLBACK;

-- Names that try to be more than names, of everything that gets into SQL or a format.
CREATE FUNCTION hostile() RETURNS TABLE (name text) LANGUAGE sql AS $h$
	SELECT * FROM unnest(ARRAY['"; DROP TABLE public.target; --', ''');DROP TABLE public.target;--', '%s %I %L %1$s', '$$; $1', E'a\nb\tc\\', 'select', 'Größe',
		repeat('ä', 24), 'a.b', ' ', '*', '{"x":1}', 'NULL', 'public', '"']) AS n (name)
$h$;
CREATE TABLE public.target (x int);
DO $$
DECLARE
	name text;
	told jsonb;
	the_table regclass;
	the_view regclass;
	the_archive regclass;
	made int;
BEGIN
	SET LOCAL client_min_messages = error;
	FOR name IN SELECT * FROM hostile() LOOP
		-- schema, table, control column, partitions; materialized view, its key, its archive
		EXECUTE format('CREATE SCHEMA %I', 's' || name);
		EXECUTE format('CREATE TABLE %I.%I (%2$I timestamptz NOT NULL, %I text) PARTITION BY RANGE (%2$I)', 's' || name, name, name || 'k');
		EXECUTE format('CREATE MATERIALIZED VIEW %I.%I AS SELECT %I, (%I AT TIME ZONE ''UTC'')::date AS day, count(*) AS %I FROM %1$I.%4$I GROUP BY 1, 2', 's' || name, name || 'm', name || 'k', name, name || 'n');
		EXECUTE format('CREATE UNIQUE INDEX %I ON %I.%I (%I, day) NULLS NOT DISTINCT', name || 'i', 's' || name, name || 'm', name || 'k');
		EXECUTE format('CREATE TABLE %I.%I (LIKE %1$I.%3$I)', 's' || name, name || 'a', name || 'm');
		the_table := format('%I.%I', 's' || name, name);
		the_view := format('%I.%I', 's' || name, name || 'm');
		the_archive := format('%I.%I', 's' || name, name || 'a');
		PERFORM prod_analytics.manage_partitions(the_table, name::name, ahead => 0, behind => 0, retention => '1 month');
		PERFORM prod_analytics.ensure_partitions(the_table, '2026-03-15');
		told := prod_analytics.enable_incremental_refresh(the_view, the_archive);
		EXECUTE format('INSERT INTO %s VALUES (''2026-03-15'', %L), (''2026-05-15'', NULL)', the_table, name);
		PERFORM prod_analytics.ensure_partitions(the_table, '2026-05-15');
		PERFORM prod_analytics.mark_changed(the_view, jsonb_build_object(name || 'k', name, 'day', '2026-03-15'));
		told := prod_analytics.refresh_incremental(the_view);
		IF told->>'status' <> 'SUCCESS' OR EXISTS (SELECT FROM prod_analytics.verify_matview(the_view)) THEN
			RAISE EXCEPTION 'view % is wrong: %', name, told;
		END IF;
		PERFORM FROM prod_analytics.plan_partitions(the_table, '2026-06-15');
		PERFORM prod_analytics.analyze_partitions(the_table);
		made := prod_analytics.drop_expired_partitions(the_table, '2026-05-15');
		EXECUTE format('SELECT count(*) FROM %s', the_archive) INTO STRICT told;
		IF made <> 1 OR told <> '1' THEN
			RAISE EXCEPTION 'partitions of %: %, archived %', name, made, told;
		END IF;
		-- an event type and its schema
		PERFORM prod_analytics.register_event_schema(name, jsonb_build_object('required', jsonb_build_array(name), 'properties', jsonb_build_object(name, jsonb_build_object('enum', jsonb_build_array(name)))));
		INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, payload) VALUES (NULL, name, now(), '{}'), (NULL, name, now(), jsonb_build_object(name, name));
		PERFORM FROM prod_analytics.event_schema_report(name, now() - interval '1 day', now());
		PERFORM FROM prod_analytics.funnel(ARRAY[name, name || '2'], by => name);
		PERFORM FROM prod_analytics.users_with_event(name);
		-- a job, its schedule, its dependency
		BEGIN
			PERFORM prod_analytics.schedule_job(name, name, name);
		EXCEPTION WHEN invalid_parameter_value OR invalid_datetime_format OR syntax_error THEN
			NULL;
		END;
		PERFORM prod_analytics.schedule_job(name, '1 year', format('SELECT %L', name));
		PERFORM prod_analytics.schedule_job(name || '2', '1 year', 'SELECT 1', depends_on => ARRAY[name]);
		told := prod_analytics.run_job(name);
		IF told->>'status' <> 'SUCCESS' THEN
			RAISE EXCEPTION 'job %: %', name, told;
		END IF;
		PERFORM prod_analytics.unschedule_job(name || '2');
		PERFORM prod_analytics.unschedule_job(name);
		-- a user
		INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, payload) VALUES (name, name || '@example.com', name, name, jsonb_build_object(name, name));
		-- a quality check, an article
		INSERT INTO prod_analytics.quality_checks (check_name, query) VALUES (name, format('SELECT %L AS %I', name, name));
		PERFORM FROM prod_analytics.run_quality_checks(name);
		PERFORM FROM prod_analytics.search_knowledge_base(name);
		-- the owner of it all
		EXECUTE format('CREATE ROLE %I LOGIN', 'regress_' || name);
		EXECUTE format('GRANT SELECT ON %s TO %I WITH GRANT OPTION', the_table, 'regress_' || name);
		PERFORM prod_analytics.ensure_partitions(the_table, '2026-07-15');
		EXECUTE format('ALTER SCHEMA %I OWNER TO %I', 's' || name, 'regress_' || name);
		EXECUTE format('ALTER TABLE %s OWNER TO %I', the_table, 'regress_' || name);
		EXECUTE format('ALTER MATERIALIZED VIEW %s OWNER TO %I', the_view, 'regress_' || name);
		EXECUTE format('ALTER TABLE %s OWNER TO %I', the_archive, 'regress_' || name);
		told := prod_analytics.enable_incremental_refresh(the_view);
		PERFORM prod_analytics.ensure_partitions(the_table, '2026-08-15');
		-- and other names
		EXECUTE format('ALTER TABLE %s RENAME TO %I', the_table, name || 'r');
		EXECUTE format('ALTER SCHEMA %I RENAME TO %I', 's' || name, 'r' || name);
		EXECUTE format('ALTER TABLE %s RENAME COLUMN %I TO %I', the_table, name, name || 'c');
		PERFORM prod_analytics.ensure_partitions(the_table, '2026-09-15');
		EXECUTE format('DROP SCHEMA %I CASCADE', 'r' || name);
		EXECUTE format('REVOKE ALL ON SCHEMA prod_analytics FROM %I; REVOKE ALL ON FUNCTION prod_analytics.capture_changes() FROM %1$I; DROP ROLE %1$I', 'regress_' || name);
	END LOOP;
END $$;
SELECT r->>'status' AS status, r->'inserted' AS inserted, r->'quarantined' AS quarantined FROM prod_analytics.etl_ingest_events() r;
SELECT r->>'status' AS status, r->'quarantined' AS quarantined FROM prod_analytics.etl_upsert_users() r;
TABLE public.target;
SELECT matview FROM prod_analytics.registered_matviews ORDER BY 1;
SELECT parent FROM prod_analytics.partition_policies ORDER BY 1;

-- What a loader may send.  Each row gets in or is set aside, and none stops the others.
CREATE FUNCTION nested(depth int) RETURNS jsonb LANGUAGE sql AS $$ SELECT (repeat('[', depth) || repeat(']', depth))::jsonb $$;
DELETE FROM prod_analytics.quarantined_events;
UPDATE prod_analytics.partition_policies SET retention = NULL WHERE parent = 'prod_analytics.events';
SET ROLE regress_loader;
-- error: the server lets in neither NUL nor half a character, nor what is nested too deep
\set VERBOSITY sqlstate
INSERT INTO prod_analytics.staging_events (payload) VALUES ('{"a": "\u0000"}');
INSERT INTO prod_analytics.staging_events (payload) VALUES ('{"a": "\ud800"}');
INSERT INTO prod_analytics.staging_events (event_type) VALUES (E'\x00');
INSERT INTO prod_analytics.staging_events (payload) VALUES (nested(1000000));
\set VERBOSITY default
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, payload, received_at, attempts)
SELECT 900000 + row_number() OVER (), t.event_type, coalesce(t.event_time, now()), t.payload, coalesce(t.received_at, now()), t.attempts
FROM (VALUES
	('purchase', NULL::timestamptz, jsonb_build_object('order_id', nested(500), 'price', 1), NULL::timestamptz, 0),
	('purchase', NULL, jsonb_build_object('order_id', 1, 'price', ('1' || repeat('0', 100000))::numeric), NULL, 0),
	('purchase', NULL, jsonb_build_object('order_id', 1, 'price', repeat('9', 1000000)), NULL, 0),
	('purchase', NULL, jsonb_build_object(repeat('k', 1000000), repeat('v', 1000000)), NULL, 0),
	(repeat('t', 1000000), NULL, '{}', NULL, 0),
	(E'\x01\x1f\x7f"\\', NULL, E'{"\\u0001\\u001f\\ud83d\\ude00": "\\u007f"}', NULL, 0),
	('view', NULL, '"text"', NULL, 0), ('view', NULL, 'null', NULL, 0), ('view', NULL, '[{"a": 1}]', NULL, 0),
	('view', NULL, nested(500), NULL, 0), ('view', NULL, (SELECT jsonb_object_agg(n, n) FROM generate_series(1, 10000) n), NULL, 0),
	('view', 'infinity', '{}', NULL, 0), ('view', '-infinity', '{}', NULL, 0), ('view', '294276-12-31', '{}', NULL, 0),
	-- He says that it arrived long ago: no partition is made for antiquity.
	('view', '0500-01-01', '{}', '0510-01-01', 0), ('view', '4713-01-01 BC', '{}', '-infinity', 0), ('view', '1900-01-01', '{}', '1900-01-02', 0),
	('view', '1960-01-01', '{}', '1900-01-02', -2147483648), ('view', NULL, '{}', 'infinity', 2147483647)
) t (event_type, event_time, payload, received_at, attempts);
INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, event_time) VALUES
	(9223372036854775807, -9223372036854775808, 9223372036854775807, 'view', now()), (-9223372036854775808, NULL, NULL, '', now());
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, payload)
SELECT t.src_id, t.email, t.username, 'Acme', t.payload FROM (VALUES
	('long e-mail', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 400) n) || '@example.com', NULL, '{}'::jsonb),
	('long name', 'long@example.com', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 400) n), '{}'),
	('login 1', 'l1@example.com', NULL, '{"last_login": "infinity"}'), ('login 2', 'l2@example.com', NULL, '{"last_login": {"a": 1}}'),
	('login 3', 'l3@example.com', NULL, jsonb_build_object('last_login', repeat('9', 100000))), ('array', 'a@example.org', NULL, '[1]'),
	('deep', 'deep@example.com', NULL, jsonb_build_object('a', nested(500))), ('control', E'\x01\x1f@example.com', E'\x01', '{}')) t (src_id, email, username, payload);
RESET ROLE;
SELECT r->>'status' AS status, r->'rows' AS rows, r->'inserted' AS inserted, r->'partitions_created' AS partitions FROM prod_analytics.etl_ingest_events() r;
SELECT event_id, r->>'code' AS code, length(q.reasons::text) < 10000 AS is_told_briefly
FROM prod_analytics.quarantined_events q, jsonb_array_elements(q.reasons) r ORDER BY event_id, 2;
SELECT r->>'status' AS status, r->'rows' AS rows, r->'inserted' AS inserted, r->'updated' AS updated FROM prod_analytics.etl_upsert_users() r;
SELECT src_id, r->>'code' AS code, length(q.reasons::text) < 10000 AS is_told_briefly
FROM prod_analytics.quarantined_users q, jsonb_array_elements(q.reasons) r WHERE src_id IN ('long e-mail', 'long name', 'login 1', 'login 2', 'login 3', 'array', 'deep', 'control') ORDER BY src_id, 2;
SELECT min(event_time) >= '1950-01-01' AS none_in_antiquity FROM prod_analytics.events;
SELECT prod_analytics.redrive_events() > 0 AS redriven;
SELECT r->>'status' AS status FROM prod_analytics.etl_ingest_events() r;
SELECT prod_analytics.refresh_incremental()->>'status' AS refreshed;
-- A loader cannot see what others send, nor change it.  (Of users he may: an INSERT ... ON CONFLICT needs that.)
SET ROLE regress_loader;
-- error: none of these
\set VERBOSITY sqlstate
SELECT * FROM prod_analytics.staging_events;
UPDATE prod_analytics.staging_events SET user_id = 1;
DELETE FROM prod_analytics.staging_events;
INSERT INTO prod_analytics.staging_events (event_id) VALUES (1) RETURNING *;
TRUNCATE prod_analytics.staging_events;
BEGIN;
LOCK TABLE prod_analytics.staging_events IN ACCESS EXCLUSIVE MODE;
ROLLBACK;
COPY prod_analytics.staging_events FROM PROGRAM 'true';
CREATE TABLE prod_analytics.mine ();
CREATE TRIGGER mine BEFORE INSERT ON prod_analytics.staging_events FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
CREATE TABLE mine (x bigint REFERENCES prod_analytics.users);
SELECT nextval('prod_analytics.events_event_id_seq');
DELETE FROM prod_analytics.staging_users;
SELECT prod_analytics.erase_user(1);
\set VERBOSITY default
RESET ROLE;

-- Schemas that an operator may register: each is refused, or checked in bounded time, and can be cancelled.
SET ROLE regress_operator;
\set VERBOSITY sqlstate
-- error: too deep, too big, or no regular expression that could be had
SELECT prod_analytics.register_event_schema('deep', ((repeat('{"not": ', 1000000) || 'true' || repeat('}', 1000000)))::jsonb);
SELECT prod_analytics.register_event_schema('repeats', '{"pattern": "((a{1,255}){1,255}){1,255}"}');
SELECT prod_analytics.register_event_schema('back', '{"pattern": "(a+)+\\1(a+)+\\2$"}');
\set VERBOSITY default
SELECT prod_analytics.register_event_schema('wide', jsonb_build_object('properties', (SELECT jsonb_object_agg('p' || n, '{"pattern": "^a+$"}'::jsonb) FROM generate_series(1, 10000) n)));
SELECT prod_analytics.register_event_schema('itself', '{"$ref": "#", "properties": {"a": {"$ref": "#"}}}');
SELECT prod_analytics.register_event_schema('slow', '{"properties": {"s": {"pattern": "^(a+)+$"}, "t": {"pattern": "(x+x+)+y"}, "u": {"pattern": "^([a-zA-Z0-9])(([.-]|_+)?([a-zA-Z0-9]+))*(@)$"}}}');
SELECT prod_analytics.is_valid_event('slow', jsonb_build_object('s', repeat('a', 100000) || '!', 't', repeat('x', 20000), 'u', repeat('a', 20000)));
-- error: a reference to another document is not fetched
SELECT prod_analytics.register_event_schema('elsewhere', '{"$ref": "file:///etc/passwd"}');
SELECT prod_analytics.register_event_schema('elsewhere', '{"$ref": "http://127.0.0.1:1/"}');
-- error: nor can the table be written to
INSERT INTO prod_analytics.event_schemas (event_type, version, schema) VALUES ('x', 1, '{}');
UPDATE prod_analytics.quality_checks SET query = 'SELECT evil.note(''check'')';
INSERT INTO prod_analytics.jobs (job_name, schedule, command, owner) VALUES ('x', '1 day', 'SELECT evil.note(''job'')', 'postgres');
UPDATE prod_analytics.partition_policies SET retention = '1 day';
UPDATE prod_analytics.registered_matviews SET archive = 'evil.archive';
INSERT INTO prod_analytics.changed_keys VALUES (1, NULL, now());
RESET ROLE;

-- Row security on our tables counts for readers, through every function that reads as its caller.
ALTER TABLE prod_analytics.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE prod_analytics.users ENABLE ROW LEVEL SECURITY;
CREATE POLICY one_type ON prod_analytics.events TO analytics_reader USING (event_type = 'view');
SET ROLE regress_reader;
SELECT DISTINCT event_type FROM prod_analytics.events;
SELECT DISTINCT event_type FROM prod_analytics.funnel('{purchase,view}') WHERE users > 0;
SELECT count(*) AS users FROM prod_analytics.users_without_event('purchase');
RESET ROLE;
-- New partitions show nothing to who goes round the parent.
SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2094-01-01', '2094-01-02') AS made;
INSERT INTO prod_analytics.events (event_type, event_time) VALUES ('view', '2094-01-01');
SET ROLE regress_reader;
SELECT count(*) AS rows FROM prod_analytics.events_p20940101;
RESET ROLE;
ALTER TABLE prod_analytics.events DISABLE ROW LEVEL SECURITY;
ALTER TABLE prod_analytics.users DISABLE ROW LEVEL SECURITY;

-- capture_plan() runs the query as its caller: what he may not read, it does not read for him, and what the query does
-- as a side effect is undone.
SET ROLE regress_operator;
-- error: not his
SELECT prod_analytics.capture_plan('SELECT * FROM pg_authid');
SELECT prod_analytics.capture_plan('DELETE FROM prod_analytics.events', run => true);
-- error: more than one statement, or one in the guise of another
SELECT prod_analytics.capture_plan('SELECT 1; DROP TABLE public.target');
SELECT prod_analytics.capture_plan('ANALYZE) SELECT 1; DROP TABLE public.target; --');
SELECT prod_analytics.capture_plan('/* */ CREATE TABLE x ()');
RESET ROLE;
SET ROLE regress_mallory;
SELECT prod_analytics.capture_plan('SELECT evil.note(''plan'')') IS NOT NULL AS captured;
RESET ROLE;
SELECT * FROM caught();

-- An owner's job that an operator runs in his session takes no setting of his that decides what is called.
SET ROLE regress_operator;
SET search_path = trap, pg_catalog;
SET standard_conforming_strings = off;
SET backslash_quote = on;
SET client_min_messages = error;
SET transform_null_equals = on;
SELECT job_name, (prod_analytics.run_job(job_name)) OPERATOR(pg_catalog.->>) 'status' AS status
FROM (VALUES ('ingest_events'), ('upsert_users'), ('refresh_matviews')) j (job_name);
SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2093-01-01', '2093-01-02') AS made;
SELECT prod_analytics.redrive_events() OPERATOR(pg_catalog.>=) 0 AS redriven;
SELECT FROM prod_analytics.run_quality_checks() LIMIT 0;
RESET search_path;
RESET standard_conforming_strings;
RESET backslash_quote;
RESET client_min_messages;
RESET transform_null_equals;
RESET ROLE;
SELECT * FROM caught() WHERE who <> 'regress_operator';

SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
DROP SCHEMA evil, trap CASCADE;
DROP FUNCTION caught(), tend(), hostile(), nested(int);
DROP TABLE public.target;
DROP ROLE regress_mallory, regress_operator, regress_loader, regress_reader;
