-- The tables: ordinary objects, made once, migrated from older versions.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;

-- What there is.
SELECT c.relname, c.relkind, obj_description(c.oid, 'pg_class')
FROM pg_class c
WHERE c.relnamespace = 'prod_analytics'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'v')
ORDER BY c.relname;
SELECT a.attrelid::regclass AS "table", a.attname, pg_get_expr(d.adbin, d.adrelid) AS generated_as
FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'prod_analytics'::regnamespace AND a.attgenerated <> ''
ORDER BY a.attrelid::regclass::text, a.attnum;
SELECT indexdef FROM pg_indexes WHERE schemaname = 'prod_analytics' ORDER BY tablename, indexname;
SELECT conrelid::regclass AS "table", pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'prod_analytics'::regnamespace AND contype IN ('f', 'c')
ORDER BY conrelid::regclass::text, conname;

-- Members of the extension are functions and aggregates only.
SELECT d.classid::regclass, count(*) > 0 AS any
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'prod_analytics'
GROUP BY d.classid;
-- The schema is not one either, nor does a table depend on a function of ours.
SELECT pg_describe_object(d.classid, d.objid, d.objsubid)
FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid AND d.refclassid = 'pg_proc'::regclass
WHERE p.pronamespace = 'prod_analytics'::regnamespace AND d.classid <> 'pg_proc'::regclass ORDER BY 1;

-- A second call has nothing to do; what is missing comes back, with its default rows.
SELECT prod_analytics.create_tables();
SET client_min_messages = warning;
DROP TABLE prod_analytics.partition_policies, prod_analytics.org_hierarchy CASCADE;
RESET client_min_messages;
SELECT prod_analytics.create_tables();
SELECT parent, control, width FROM prod_analytics.partition_policies;

-- An index that the user dropped stays dropped, and what he added stays.
DROP INDEX prod_analytics.idx_events_props_gin;
ALTER TABLE prod_analytics.events ADD COLUMN campaign text DEFAULT 'none' CHECK (campaign <> '');
SELECT prod_analytics.create_tables();
SELECT to_regclass('prod_analytics.idx_events_props_gin') IS NULL AS still_dropped;
SELECT attname FROM pg_attribute WHERE attrelid = 'prod_analytics.events'::regclass AND attname = 'campaign';

-- Migration: tables of version 1 had no device_type, those of version 2 no retention, those of version 4 no jobs,
-- and those of version 5 no timeout of checks and no lag of materialized views.
BEGIN;
CREATE TEMPORARY TABLE fresh AS SELECT * FROM prod_analytics.relation_columns('prod_analytics');
DROP VIEW prod_analytics.partition_status, prod_analytics.job_status, prod_analytics.worker_status;
DROP TABLE prod_analytics.job_state, prod_analytics.jobs;
DROP INDEX prod_analytics.idx_etl_jobs_running;
ALTER TABLE prod_analytics.partition_policies DROP COLUMN retention, DROP COLUMN epoch_unit;
ALTER TABLE prod_analytics.quality_checks DROP COLUMN timeout;
DO $$ BEGIN
	EXECUTE format('DROP VIEW prod_analytics.matview_status; CREATE VIEW prod_analytics.matview_status AS %s',
		regexp_replace(pg_get_viewdef('prod_analytics.matview_status'::regclass), ',\s+CASE\s+WHEN r.mode = ''incremental''.* AS lag', ''));
END $$;
UPDATE prod_analytics.schema_version SET version = 2;
SAVEPOINT version_2;
SELECT prod_analytics.create_tables();
SELECT version FROM prod_analytics.schema_version;
(TABLE fresh EXCEPT SELECT * FROM prod_analytics.relation_columns('prod_analytics'))
UNION ALL (SELECT * FROM prod_analytics.relation_columns('prod_analytics') EXCEPT TABLE fresh);
ROLLBACK TO version_2;
ALTER TABLE prod_analytics.events DROP COLUMN device_type;
UPDATE prod_analytics.schema_version SET version = 1;
SELECT prod_analytics.create_tables();
SELECT version FROM prod_analytics.schema_version;
SELECT count(*) AS jobs, to_regclass('prod_analytics.idx_etl_jobs_running') IS NOT NULL AS indexed FROM prod_analytics.job_status;
(TABLE fresh EXCEPT SELECT * FROM prod_analytics.relation_columns('prod_analytics'))
UNION ALL (SELECT * FROM prod_analytics.relation_columns('prod_analytics') EXCEPT TABLE fresh);
SELECT a.attname, col_description(a.attrelid, a.attnum)
FROM pg_attribute a WHERE a.attname IN ('device_type', 'retention', 'epoch_unit')
	AND a.attrelid IN ('prod_analytics.events'::regclass, 'prod_analytics.partition_policies'::regclass) ORDER BY 1;
ROLLBACK;

-- error: tables of a newer version
BEGIN;
UPDATE prod_analytics.schema_version SET version = 1000;
SELECT prod_analytics.create_tables();
ROLLBACK;

-- error: read-only transaction
BEGIN READ ONLY;
SELECT prod_analytics.create_tables();
ROLLBACK;

-- A temporary table of the same name does not pass for ours.
BEGIN;
DROP TABLE prod_analytics.org_hierarchy;
CREATE TEMPORARY TABLE org_hierarchy (x int);
SELECT prod_analytics.create_tables();
SELECT to_regclass('prod_analytics.org_hierarchy');
ROLLBACK;

-- error: a table is gone, and a function needs it
BEGIN;
SET LOCAL client_min_messages = warning;
DROP TABLE prod_analytics.partition_policies CASCADE;
SELECT prod_analytics.ensure_partitions();
ROLLBACK;

-- The scratch schema in which the expected tables are made leaves nothing behind.
SELECT count(*) FROM pg_namespace WHERE nspname = 'prod_analytics_expected';

-- Views are the same however the session writes strings.  (Another session: what was planned is not read again.)
SELECT string_agg(format('%s %s', relname, md5(pg_get_viewdef(oid))), ', ' ORDER BY relname) AS usual
FROM pg_class WHERE relnamespace = 'prod_analytics'::regnamespace AND relkind = 'v' \gset
\c
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET standard_conforming_strings = off;
DROP SCHEMA prod_analytics CASCADE;
CREATE EXTENSION prod_analytics;
RESET standard_conforming_strings;
SELECT string_agg(format('%s %s', relname, md5(pg_get_viewdef(oid))), ', ' ORDER BY relname) = :'usual' AS same,
	string_agg(relname, ', ' ORDER BY relname) FILTER (WHERE :'usual' NOT LIKE '%' || md5(pg_get_viewdef(oid)) || '%') AS different
FROM pg_class WHERE relnamespace = 'prod_analytics'::regnamespace AND relkind = 'v';

-- A cascade in CREATE EXTENSION is needed, and said, when what we build on is missing.
SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
DROP EXTENSION citext, pg_trgm;
RESET client_min_messages;
-- error: no citext
CREATE EXTENSION prod_analytics;
SET client_min_messages = warning;
CREATE SCHEMA elsewhere;
CREATE EXTENSION citext SCHEMA elsewhere;
CREATE EXTENSION pg_trgm SCHEMA elsewhere;
CREATE EXTENSION prod_analytics;
SELECT attname, atttypid::regtype FROM pg_attribute
WHERE attrelid = 'prod_analytics.users'::regclass AND attname = 'email';
DROP SCHEMA prod_analytics CASCADE;
DROP SCHEMA elsewhere CASCADE;

-- error: the schema is fixed
CREATE EXTENSION citext;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION prod_analytics SCHEMA public;
DROP EXTENSION citext, pg_trgm;
