-- CREATE EXTENSION over what is there already: adopt what is ours, refuse what could run
-- somebody else's code; DROP EXTENSION keeps the data, DROP SCHEMA leaves nothing.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
CREATE ROLE regress_planter;
RESET client_min_messages;

-- DROP EXTENSION (CASCADE: an event trigger uses it) keeps every row and all configuration; CREATE EXTENSION adopts them.
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
INSERT INTO prod_analytics.organizations (org_name) VALUES ('Acme');
INSERT INTO prod_analytics.events (event_type, event_time) VALUES ('kept', '2026-03-15');
UPDATE prod_analytics.partition_policies SET ahead = 1;
ALTER TABLE prod_analytics.events ADD COLUMN campaign text DEFAULT 'none';
CREATE FUNCTION owned_by_us() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER mine BEFORE INSERT ON prod_analytics.events FOR EACH ROW EXECUTE FUNCTION owned_by_us();
SET client_min_messages = warning;
DROP EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SELECT event_type, campaign FROM prod_analytics.events;
SELECT ahead FROM prod_analytics.partition_policies;
SELECT count(*) FROM pg_proc WHERE pronamespace = 'prod_analytics'::regnamespace;
SET client_min_messages = warning;
CREATE EXTENSION prod_analytics;
RESET client_min_messages;
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
SELECT event_type, campaign FROM prod_analytics.events;
SELECT ahead FROM prod_analytics.partition_policies;
SELECT org_name FROM prod_analytics.organizations;
SELECT has_function_privilege('analytics_operator', 'prod_analytics.etl_ingest_events(integer)', 'EXECUTE');
SELECT has_function_privilege('regress_planter', 'prod_analytics.etl_ingest_events(integer)', 'EXECUTE');

-- error: a trigger with somebody else's function
BEGIN;
CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
ALTER FUNCTION planted() OWNER TO regress_planter;
CREATE TRIGGER planted BEFORE INSERT ON prod_analytics.users FOR EACH ROW EXECUTE FUNCTION planted();
SELECT prod_analytics.create_tables();
ROLLBACK;

-- error: a trigger on a partition alone
BEGIN;
CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
ALTER FUNCTION planted() OWNER TO regress_planter;
CREATE TRIGGER planted BEFORE INSERT ON prod_analytics.events_p20260301 FOR EACH ROW EXECUTE FUNCTION planted();
SELECT prod_analytics.create_tables();
ROLLBACK;

-- error: a default, a CHECK, an index expression, a policy, a view, each with somebody else's function
CREATE FUNCTION planted(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
ALTER FUNCTION planted(int) OWNER TO regress_planter;
BEGIN;
ALTER TABLE prod_analytics.organizations ADD COLUMN x int DEFAULT planted(1);
SELECT prod_analytics.create_tables();
ROLLBACK;
BEGIN;
ALTER TABLE prod_analytics.staging_events ADD CHECK (planted(attempts) > -1);
SELECT prod_analytics.create_tables();
ROLLBACK;
BEGIN;
CREATE INDEX planted_index ON prod_analytics.staging_events (planted(attempts));
SELECT prod_analytics.create_tables();
ROLLBACK;
BEGIN;
CREATE POLICY planted_policy ON prod_analytics.staging_events USING (planted(attempts) = 0);
SELECT prod_analytics.create_tables();
ROLLBACK;
BEGIN;
CREATE VIEW prod_analytics.planted_view AS SELECT planted(1);
SELECT prod_analytics.create_tables();
ROLLBACK;
DROP FUNCTION planted(int);

-- error: somebody else's table
BEGIN;
ALTER TABLE prod_analytics.staging_events OWNER TO regress_planter;
SELECT prod_analytics.create_tables();
ROLLBACK;

-- error: tables with other columns, another kind, another key
BEGIN;
ALTER TABLE prod_analytics.users DROP COLUMN username;
SELECT prod_analytics.create_tables();
ROLLBACK;
BEGIN;
ALTER TABLE prod_analytics.quarantined_events ALTER COLUMN event_id TYPE text;
SELECT prod_analytics.create_tables();
ROLLBACK;
BEGIN;
DROP TABLE prod_analytics.staging_events CASCADE;
CREATE VIEW prod_analytics.staging_events AS SELECT 1 AS event_id;
SELECT prod_analytics.create_tables();
ROLLBACK;
BEGIN;
ALTER TABLE prod_analytics.etl_jobs DROP CONSTRAINT etl_jobs_pkey;
SELECT prod_analytics.create_tables();
ROLLBACK;

-- DROP SCHEMA leaves nothing.
SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
RESET client_min_messages;
DROP FUNCTION owned_by_us();
SELECT count(*) FROM pg_extension WHERE extname = 'prod_analytics';
SELECT count(*) FROM pg_default_acl;
SELECT count(*) FROM pg_event_trigger;
SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend
WHERE refobjid IN ('analytics_reader'::regrole, 'analytics_loader'::regrole, 'analytics_operator'::regrole)
	AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database());

-- error: a schema that somebody else made beforehand
CREATE SCHEMA prod_analytics AUTHORIZATION regress_planter;
CREATE EXTENSION prod_analytics;
ALTER SCHEMA prod_analytics OWNER TO CURRENT_USER;
-- error: a schema in which somebody else may make objects
GRANT CREATE ON SCHEMA prod_analytics TO regress_planter;
CREATE EXTENSION prod_analytics;
REVOKE CREATE ON SCHEMA prod_analytics FROM regress_planter;
GRANT CREATE ON SCHEMA prod_analytics TO PUBLIC;
CREATE EXTENSION prod_analytics;
REVOKE CREATE ON SCHEMA prod_analytics FROM PUBLIC;
-- error: a function that somebody else planted while he could, which a takeover of the schema leaves there
SET client_min_messages = warning;
GRANT CREATE ON SCHEMA prod_analytics TO regress_planter;
SET ROLE regress_planter;
CREATE FUNCTION prod_analytics.format(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'planted' $$;
RESET ROLE;
REVOKE CREATE ON SCHEMA prod_analytics FROM regress_planter;
RESET client_min_messages;
CREATE EXTENSION prod_analytics;
DROP FUNCTION prod_analytics.format(text, text);
-- A function planted in the schema of an extension that we need is not called.
CREATE TABLE caught (who name);
GRANT INSERT ON caught TO PUBLIC;
CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE sql AS
	'INSERT INTO public.caught VALUES (current_user); SELECT pg_catalog.format($1, $2)';
CREATE FUNCTION public.format(text, name) RETURNS text LANGUAGE sql AS
	'INSERT INTO public.caught VALUES (current_user); SELECT pg_catalog.format($1, $2)';
CREATE FUNCTION public.current_setting(varchar) RETURNS text LANGUAGE sql AS
	'INSERT INTO public.caught VALUES (current_user); SELECT pg_catalog.current_setting($1)';
CREATE FUNCTION public.get(jsonb, jsonb) RETURNS text LANGUAGE sql AS
	'INSERT INTO public.caught VALUES (current_user); SELECT ''{}''';
CREATE OPERATOR public.->> (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = public.get);
SET client_min_messages = warning;
CREATE EXTENSION prod_analytics;
RESET client_min_messages;
SET client_min_messages = error;
SELECT prod_analytics.ensure_partitions() > 0 AS made;
SET search_path = public, pg_catalog;
CALL prod_analytics.maintain_partitions();
RESET search_path;
SELECT count(*) FROM caught;
SELECT status FROM prod_analytics.etl_jobs;
DROP SCHEMA prod_analytics CASCADE;
CREATE SCHEMA prod_analytics;
DROP OPERATOR public.->> (jsonb, jsonb);
DROP FUNCTION public.format(text, text), public.format(text, name), public.current_setting(varchar), public.get(jsonb, jsonb);
DROP TABLE caught;
RESET client_min_messages;
-- error: a table that somebody else planted
CREATE TABLE prod_analytics.staging_events (event_id bigint);
ALTER TABLE prod_analytics.staging_events OWNER TO regress_planter;
CREATE EXTENSION prod_analytics;
DROP TABLE prod_analytics.staging_events;
SET client_min_messages = warning;
CREATE EXTENSION prod_analytics;
RESET client_min_messages;

-- A restore brings the tables along: row_security is off, and the extension makes none.
SET client_min_messages = warning;
DROP EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
SET row_security = off;
CREATE EXTENSION prod_analytics;
SELECT count(*) FROM pg_class WHERE relnamespace = 'prod_analytics'::regnamespace;
-- The hint's way out.
SELECT prod_analytics.create_tables() > 10 AS made;
DROP SCHEMA prod_analytics CASCADE;
-- The setting has the last word.
SET prod_analytics.create_tables = on;
CREATE EXTENSION prod_analytics;
SELECT count(*) > 10 AS made FROM pg_class WHERE relnamespace = 'prod_analytics'::regnamespace;
DROP SCHEMA prod_analytics CASCADE;
RESET row_security;
SET prod_analytics.create_tables = off;
CREATE EXTENSION prod_analytics;
SELECT count(*) FROM pg_class WHERE relnamespace = 'prod_analytics'::regnamespace;
-- error: no tables yet
SELECT prod_analytics.etl_ingest_events();
DROP SCHEMA prod_analytics CASCADE;
RESET prod_analytics.create_tables;
DROP ROLE regress_planter;
