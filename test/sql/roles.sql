-- Who may do what: analytics_reader, analytics_loader, analytics_operator, and everybody else.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
CREATE ROLE regress_nobody;
CREATE ROLE regress_reader IN ROLE analytics_reader;
CREATE ROLE regress_loader IN ROLE analytics_loader;
CREATE ROLE regress_operator IN ROLE analytics_operator;
RESET client_min_messages;
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
INSERT INTO prod_analytics.users (user_id, org_id, email) VALUES (1, 1, 'a@example.com');

-- The whole matrix of tables (partitions have their parent's privileges).
SELECT c.relname,
	(SELECT string_agg(p, ',') FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) p
	 WHERE has_table_privilege('analytics_reader', c.oid, p)) AS reader,
	(SELECT string_agg(p, ',') FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) p
	 WHERE has_table_privilege('analytics_loader', c.oid, p)) AS loader,
	(SELECT string_agg(p, ',') FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) p
	 WHERE has_table_privilege('analytics_operator', c.oid, p)) AS operator,
	(SELECT string_agg(p, ',') FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) p
	 WHERE has_table_privilege('regress_nobody', c.oid, p)) AS nobody
FROM pg_class c
WHERE c.relnamespace = 'prod_analytics'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'v')
	AND (NOT c.relispartition OR c.relname IN ('events_p20260301', 'events_default'))
ORDER BY c.relname;

-- Functions: who may execute them.
SELECT p.proname,
	has_function_privilege('analytics_reader', p.oid, 'EXECUTE') AS reader,
	has_function_privilege('analytics_loader', p.oid, 'EXECUTE') AS loader,
	has_function_privilege('analytics_operator', p.oid, 'EXECUTE') AS operator,
	has_function_privilege('regress_nobody', p.oid, 'EXECUTE') AS nobody
FROM pg_proc p WHERE p.pronamespace = 'prod_analytics'::regnamespace ORDER BY p.proname;
SELECT has_schema_privilege('regress_nobody', 'prod_analytics', 'USAGE') AS nobody_usage,
	has_schema_privilege('analytics_operator', 'prod_analytics', 'CREATE') AS operator_create;

-- A loader loads, an operator ingests without any privilege on events, a reader reads.
SET ROLE regress_loader;
INSERT INTO prod_analytics.staging_events (user_id, event_type, payload, event_time, received_at)
VALUES (1, 'purchase', '{"order_id": 1, "price": 2}', '2026-03-10', '2026-03-10'), (1, 'old', '{}', '2019-05-10', '2026-03-10');
SET ROLE regress_operator;
SELECT r->'status' AS status, r->'inserted' AS inserted FROM prod_analytics.etl_ingest_events() r;
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-06-15');
SET ROLE regress_reader;
SELECT event_type, tableoid::regclass FROM prod_analytics.events ORDER BY event_time;
-- It asks for whatever can be read, with its own rights.
SELECT * FROM prod_analytics.funnel('{purchase}');
SELECT * FROM prod_analytics.active_users('2026-03-10', '2026-03-10');
SELECT * FROM prod_analytics.retention('2026-03-10', '2026-03-10');
SELECT prod_analytics.window_funnel('1 day', event_time, event_type, '{purchase}') FROM prod_analytics.events;
SELECT count(*) FROM prod_analytics.org_tree();
SELECT count(*) FROM prod_analytics.search_knowledge_base('anything');
SELECT (SELECT count(*) FROM prod_analytics.users_with_event('purchase')) AS with_event,
	(SELECT count(*) FROM prod_analytics.users_without_event('purchase')) AS without_event,
	(SELECT count(*) FROM prod_analytics.product_attributes) AS attributes;
RESET ROLE;
SELECT c.relname, pg_get_userbyid(c.relowner) = current_user AS owner_is_the_parents FROM pg_class c
WHERE c.relname IN ('events_p20190501', 'events_p20270601') ORDER BY 1;

-- error: what each may not
SET ROLE regress_loader;
SELECT * FROM prod_analytics.funnel('{purchase}');
SELECT * FROM prod_analytics.staging_events;
SELECT prod_analytics.etl_ingest_events();
INSERT INTO prod_analytics.events (event_type) VALUES ('direct');
SET ROLE regress_operator;
INSERT INTO prod_analytics.events (event_type) VALUES ('direct');
SELECT prod_analytics.create_tables();
SELECT prod_analytics.load_sample_data();
SET ROLE regress_reader;
INSERT INTO prod_analytics.events (event_type) VALUES ('direct');
SET ROLE regress_nobody;
SELECT count(*) FROM prod_analytics.events;
SELECT prod_analytics.ensure_partitions();
RESET ROLE;

-- Acting as the owner ends with the function, and the caller's search_path does not reach into it.
CREATE SCHEMA regress_trap;
GRANT ALL ON SCHEMA regress_trap TO PUBLIC;
SET ROLE regress_operator;
CREATE TABLE regress_trap.caught (who name, path text);
CREATE FUNCTION regress_trap.hashtext(text) RETURNS int LANGUAGE sql AS
	'INSERT INTO regress_trap.caught VALUES (current_user, ''hashtext''); SELECT 1';
CREATE FUNCTION regress_trap.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
	'INSERT INTO regress_trap.caught VALUES (current_user, ''clock_timestamp''); SELECT now()';
CREATE FUNCTION regress_trap.lt(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS
	'INSERT INTO regress_trap.caught VALUES (current_user, ''lt''); SELECT true';
CREATE OPERATOR regress_trap.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = regress_trap.lt);
SET search_path = regress_trap, pg_catalog;
SELECT prod_analytics.etl_ingest_events() ->> 'status';
SELECT prod_analytics.ensure_partitions('prod_analytics.events', pg_catalog.timestamptz '2021-06-15') > 0;
SELECT current_user, current_setting('search_path');
SELECT * FROM regress_trap.caught;
RESET search_path;
RESET ROLE;

-- An owner's trigger runs as the owner, and cannot change who the session is.
CREATE FUNCTION regress_trap.who() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO regress_trap.caught VALUES (current_user = (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'prod_analytics.events'::regclass), current_setting('search_path'));
	RETURN NEW;
END $$;
ALTER TABLE regress_trap.caught ALTER COLUMN who TYPE text;
CREATE TRIGGER who BEFORE INSERT ON prod_analytics.events FOR EACH ROW EXECUTE FUNCTION regress_trap.who();
INSERT INTO prod_analytics.staging_events (event_type, event_time, received_at) VALUES ('x', '2026-03-10', '2026-03-10');
SET ROLE regress_operator;
SELECT prod_analytics.etl_ingest_events() ->> 'inserted' AS inserted;
RESET ROLE;
SELECT * FROM regress_trap.caught;

-- A table that is made again is closed to readers as it was.
SET client_min_messages = warning;
DROP TABLE prod_analytics.quarantined_events, prod_analytics.staging_events;
SELECT prod_analytics.create_tables();
RESET client_min_messages;
SELECT has_table_privilege('analytics_reader', 'prod_analytics.quarantined_events', 'SELECT') AS quarantine,
	has_table_privilege('analytics_reader', 'prod_analytics.staging_events', 'SELECT') AS staging;

-- Tables made later are readable too.
CREATE TABLE prod_analytics.mine (x int);
SET ROLE regress_reader;
SELECT count(*) FROM prod_analytics.mine;
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
DROP SCHEMA regress_trap CASCADE;
DROP ROLE regress_nobody, regress_reader, regress_loader, regress_operator;
