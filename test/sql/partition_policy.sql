-- Policies: widths, time zones, key types, and what is refused.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
DROP SCHEMA IF EXISTS p CASCADE;
CREATE SCHEMA p;
RESET client_min_messages;
SET DateStyle = 'ISO';
SET TimeZone = 'UTC';

-- Manages a table of one column, makes its partitions around a moment and shows their bounds, in the
-- time zone given, with their lengths.
CREATE FUNCTION p.bounds(key_type text, width interval, at timestamptz, zone text DEFAULT 'UTC',
	ahead int DEFAULT 1, behind int DEFAULT 1, epoch_unit text DEFAULT NULL)
RETURNS TABLE (partition text, bounds text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE p.t (k %s) PARTITION BY RANGE (k)', key_type);
	PERFORM prod_analytics.manage_partitions('p.t', 'k', width, ahead, behind, NULL, zone, false, epoch_unit);
	PERFORM prod_analytics.ensure_partitions('p.t', at);
	PERFORM set_config('TimeZone', zone, true);
	RETURN QUERY EXECUTE $q$
		SELECT c.relname::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'p.t'::regclass ORDER BY c.oid $q$;
	PERFORM set_config('TimeZone', 'UTC', true);
	PERFORM prod_analytics.unmanage_partitions('p.t');
	EXECUTE 'DROP TABLE p.t';
END $$;

-- Every width, across a year's end and a leap day.
SELECT * FROM p.bounds('timestamptz', '1 day', '2028-02-29 12:00+00');
SELECT * FROM p.bounds('timestamptz', '1 week', '2025-12-31 12:00+00');
SELECT * FROM p.bounds('timestamptz', '1 month', '2028-02-29 12:00+00');
SELECT * FROM p.bounds('timestamptz', '3 months', '2025-12-31 12:00+00');
SELECT * FROM p.bounds('timestamptz', '1 year', '2025-12-31 12:00+00');
SELECT * FROM p.bounds('timestamptz', '10 days', '2025-12-31 12:00+00');
SELECT * FROM p.bounds('timestamptz', '14 days', '2025-12-31 12:00+00');
SELECT * FROM p.bounds('timestamptz', '1 hour', '2025-12-31 23:30+00');
SELECT * FROM p.bounds('timestamptz', '6 hours', '2025-12-31 23:30+00');
SELECT * FROM p.bounds('timestamptz', '5 hours', '2025-12-31 23:30+00');
SELECT * FROM p.bounds('timestamptz', '24 hours', '2025-12-31 23:30+00');
SELECT * FROM p.bounds('timestamptz', '36 hours', '2025-12-31 23:30+00');
-- Before Christ, and before 1970.
SELECT * FROM p.bounds('timestamptz', '1 month', '0001-01-15 12:00+00');
SELECT * FROM p.bounds('timestamptz', '1 week', '1969-12-31 12:00+00');

-- Days of 23 and 25 hours in Berlin, in one go without gap or overlap.
SELECT * FROM p.bounds('timestamptz', '1 day', '2026-03-29 12:00+00', 'Europe/Berlin');
SELECT * FROM p.bounds('timestamptz', '1 day', '2026-10-25 12:00+00', 'Europe/Berlin');
SELECT * FROM p.bounds('timestamptz', '1 week', '2026-03-29 12:00+00', 'Europe/Berlin', 0, 0);
-- The hour that is skipped has no partition, the one that occurs twice has two.
SELECT * FROM p.bounds('timestamptz', '1 hour', '2026-03-29 01:30+00', 'Europe/Berlin', 1, 2);
SELECT * FROM p.bounds('timestamptz', '1 hour', '2026-10-25 00:30+00', 'Europe/Berlin', 2, 1);
SELECT * FROM p.bounds('timestamptz', '6 hours', '2026-10-25 12:00+00', 'Europe/Berlin', 3, 2);
SELECT count(*), count(DISTINCT partition) FROM p.bounds('timestamptz', '1 hour', '2026-10-25 00:30+00', 'Europe/Berlin', 30, 10);
-- In Sao Paulo midnight itself was skipped, and occurred twice.
SELECT * FROM p.bounds('timestamptz', '1 day', '2018-11-04 12:00+00', 'America/Sao_Paulo');
SELECT * FROM p.bounds('timestamptz', '1 day', '2018-02-17 12:00+00', 'America/Sao_Paulo');
-- Kathmandu is 5:45 ahead, and was 5:30 ahead until 1986 began.
SELECT * FROM p.bounds('timestamptz', '1 day', '2026-01-01 00:00+00', 'Asia/Kathmandu');
SELECT * FROM p.bounds('timestamptz', '1 day', '1985-12-31 20:00+00', 'Asia/Kathmandu');
SELECT * FROM p.bounds('timestamptz', '6 hours', '2026-01-01 00:00+00', 'Asia/Kathmandu');
-- Samoa had no 30th of December 2011.
SELECT * FROM p.bounds('timestamptz', '1 day', '2011-12-30 12:00+00', 'Pacific/Apia');

-- The other key types.  A wall clock has no DST.
SELECT * FROM p.bounds('timestamp', '1 day', '2026-03-28 23:30+00', 'Europe/Berlin');
SELECT * FROM p.bounds('timestamp', '6 hours', '2026-03-28 23:30+00', 'Europe/Berlin');
SELECT * FROM p.bounds('date', '1 week', '2025-12-31 23:30+00', 'Europe/Berlin');
SELECT * FROM p.bounds('date', '1 month', '2025-12-31 23:30+00', 'Europe/Berlin');
SELECT * FROM p.bounds('bigint', '1 day', '2026-03-29 12:00+00', 'Europe/Berlin', 1, 0, 'seconds');
SELECT * FROM p.bounds('bigint', '1 day', '2026-03-29 12:00+00', 'UTC', 0, 0, 'milliseconds');
SELECT * FROM p.bounds('bigint', '1 hour', '1969-12-31 23:30+00', 'UTC', 1, 1, 'microseconds');

-- Around the changes of clocks in each zone: each ends where the next begins, and none is empty.
CREATE FUNCTION p.seams(key_type text, width interval, at timestamptz, zone text, ahead int, epoch_unit text DEFAULT NULL)
RETURNS TABLE (partitions bigint, seams bigint) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE p.t (k %s) PARTITION BY RANGE (k)', key_type);
	PERFORM prod_analytics.manage_partitions('p.t', 'k', width, ahead, 0, NULL, zone, false, epoch_unit);
	RETURN QUERY
		SELECT count(*), count(*) FILTER (WHERE l.lower_bound = l.before AND l.lower_bound <> l.upper_bound)
		FROM (SELECT s.lower_bound, s.upper_bound, lag(s.upper_bound) OVER () AS before FROM prod_analytics.plan_partitions('p.t', at) s) l;
	PERFORM prod_analytics.unmanage_partitions('p.t');
	EXECUTE 'DROP TABLE p.t';
END $$;
SELECT zone, begins, width, s.* FROM (VALUES
		('Europe/Berlin', '2011-03-20'), ('Europe/Berlin', '2011-10-20'),
		('America/Sao_Paulo', '2011-02-15'), ('America/Sao_Paulo', '2011-10-10'),
		('Australia/Lord_Howe', '2011-03-28'), ('Australia/Lord_Howe', '2011-09-25'),
		('Pacific/Apia', '2011-12-25'), ('Asia/Kathmandu', '1985-12-25'), ('UTC', '2011-12-25')) z (zone, begins),
	(VALUES ('1 hour'::interval, 300), ('8 hours', 60), ('1 day', 20), ('1 week', 3)) w (width, ahead),
	LATERAL p.seams('timestamptz', width, begins::timestamptz, zone, ahead) s
ORDER BY 1, 2, 3;
SELECT * FROM p.seams('bigint', '1 day', '2011-01-01', 'America/Sao_Paulo', 800, 'seconds');

-- A policy is replaced, and listed; the defaults.
CREATE TABLE p."Odd ""name"".x" (k timestamptz) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p."Odd ""name"".x"', 'k');
SELECT prod_analytics.manage_partitions('p."Odd ""name"".x"', 'k', '1 day', retention => '90 days');
SELECT * FROM prod_analytics.partition_policies WHERE parent <> 'prod_analytics.events';
SELECT prod_analytics.ensure_partitions('p."Odd ""name"".x"', '2026-01-01');
SELECT 'p."Odd ""name"".x_p20260101"'::regclass;
SELECT prod_analytics.unmanage_partitions('p."Odd ""name"".x"');
SELECT count(*) FROM pg_inherits WHERE inhparent = 'p."Odd ""name"".x"'::regclass;

-- error: tables that cannot be managed
CREATE TABLE p.plain (k timestamptz);
SELECT prod_analytics.manage_partitions('p.plain', 'k');
CREATE TABLE p.list (k timestamptz) PARTITION BY LIST (k);
SELECT prod_analytics.manage_partitions('p.list', 'k');
CREATE TABLE p.two (k timestamptz, l int) PARTITION BY RANGE (k, l);
SELECT prod_analytics.manage_partitions('p.two', 'k');
CREATE TABLE p.expression (k timestamp) PARTITION BY RANGE (date_trunc('day', k));
SELECT prod_analytics.manage_partitions('p.expression', 'k');
CREATE TABLE p.texts (k text) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.texts', 'k');
CREATE TABLE p.ints (k integer) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.ints', 'k', epoch_unit => 'seconds');
CREATE TEMPORARY TABLE temporary (k timestamptz) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('temporary', 'k');
CREATE VIEW p.view AS SELECT now() AS k;
SELECT prod_analytics.manage_partitions('p.view', 'k');
CREATE TABLE p.good (k timestamptz, other timestamptz) PARTITION BY RANGE (k);
CREATE FOREIGN DATA WRAPPER regress_nothing;
CREATE SERVER regress_nowhere FOREIGN DATA WRAPPER regress_nothing;
CREATE TABLE p.far (k timestamptz) PARTITION BY RANGE (k);
CREATE FOREIGN TABLE p.far_away PARTITION OF p.far FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') SERVER regress_nowhere;
SELECT prod_analytics.manage_partitions('p.far', 'k');
CREATE TABLE p.a_name_so_long_that_no_partition_of_it_could_have_one_yet (k timestamptz) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.a_name_so_long_that_no_partition_of_it_could_have_one_yet', 'k');
-- error: arguments that make no sense
SELECT prod_analytics.manage_partitions('p.good', 'other');
SELECT prod_analytics.manage_partitions('p.good', 'k; DROP TABLE x');
SELECT prod_analytics.manage_partitions('p.good', 'k', '0');
SELECT prod_analytics.manage_partitions('p.good', 'k', '-1 day');
SELECT prod_analytics.manage_partitions('p.good', 'k', '1 month 1 day');
SELECT prod_analytics.manage_partitions('p.good', 'k', '1 day 1 hour');
SELECT prod_analytics.manage_partitions('p.good', 'k', '90 minutes');
SELECT prod_analytics.manage_partitions('p.good', 'k', '1 microsecond');
SELECT prod_analytics.manage_partitions('p.good', 'k', '178000000 years');
SELECT prod_analytics.manage_partitions('p.good', 'k', '2 days -48 hours');
SELECT prod_analytics.manage_partitions('p.good', 'k', NULL);
SELECT prod_analytics.manage_partitions(NULL, 'k');
SELECT prod_analytics.manage_partitions('p.good', 'k', ahead => -1);
SELECT prod_analytics.manage_partitions('p.good', 'k', behind => 10001);
SELECT prod_analytics.manage_partitions('p.good', 'k', retention => '-1 day');
SELECT prod_analytics.manage_partitions('p.good', 'k', retention => '0');
SELECT prod_analytics.manage_partitions('p.good', 'k', timezone => 'Mars/Olympus_Mons');
SELECT prod_analytics.manage_partitions('p.good', 'k', epoch_unit => 'seconds');
CREATE TABLE p.epoch (k bigint) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.epoch', 'k');
SELECT prod_analytics.manage_partitions('p.epoch', 'k', epoch_unit => 'fortnights');
CREATE TABLE p.days (k date) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.days', 'k', '6 hours');
SELECT prod_analytics.unmanage_partitions('p.good');
-- error: somebody else's table
CREATE ROLE regress_stranger IN ROLE analytics_operator;
GRANT USAGE ON SCHEMA p TO regress_stranger;
SELECT prod_analytics.manage_partitions('p.days', 'k');
SET ROLE regress_stranger;
SELECT prod_analytics.manage_partitions('p.good', 'k');
SELECT prod_analytics.unmanage_partitions('p.days');
RESET ROLE;
SELECT parent FROM prod_analytics.partition_policies ORDER BY 1;

-- A key whose type is a domain; a constraint that has the name of our CHECK.
CREATE DOMAIN p.moment AS timestamptz;
CREATE TABLE p.dom (k p.moment, d date GENERATED ALWAYS AS ((k AT TIME ZONE 'UTC')::date) STORED,
	CONSTRAINT d_range CHECK (d > '2000-01-01')) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.dom', 'k', '1 day', 0, 0, default_partition => false);
SELECT prod_analytics.ensure_partitions('p.dom', '2026-01-15');
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'p.dom_p20260115'::regclass ORDER BY 1;
DROP TABLE p.dom;

-- A role may manage its own table, and its partitions belong to it.
CREATE SCHEMA regress_own AUTHORIZATION regress_stranger;
SET ROLE regress_stranger;
CREATE TABLE regress_own.t (k date) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('regress_own.t', 'k', '1 month', 1, 0);
SELECT prod_analytics.ensure_partitions('regress_own.t', '2026-01-15');
RESET ROLE;
SELECT relname, pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'regress_own'::regnamespace ORDER BY 1;

-- error: a policy that does not fit the table that has its name by now; the others go on
UPDATE prod_analytics.partition_policies SET control = 'other' WHERE parent = 'p.days';
SELECT prod_analytics.ensure_partitions('p.days', '2026-01-15');
UPDATE prod_analytics.partition_policies SET control = 'k', epoch_unit = 'seconds' WHERE parent = 'p.days';
SELECT prod_analytics.ensure_partitions('p.days', '2026-01-15');
UPDATE prod_analytics.partition_policies SET epoch_unit = NULL, width = '1 hour' WHERE parent = 'p.days';
SELECT prod_analytics.plan_partitions('p.days', '2026-01-15');
ALTER EVENT TRIGGER prod_analytics_follow_drops DISABLE;
DROP TABLE p.days;
CREATE TABLE p.days (k text) PARTITION BY RANGE (k);
ALTER EVENT TRIGGER prod_analytics_follow_drops ENABLE ALWAYS;
SELECT prod_analytics.ensure_partitions('p.days', '2026-01-15');
SELECT prod_analytics.ensure_partitions(at => '2026-01-15') > 0 AS others;
SELECT count(*) FROM prod_analytics.plan_partitions(at => '2026-01-15');
SELECT prod_analytics.drop_expired_partitions(at => '2026-01-15');
DROP TABLE p.days;

-- The policy of a table goes with it.  One of a table that is not there, or that is not a name, is told
-- of, and does not stop the others, nor other people's statements.
DROP TABLE regress_own.t;
SELECT parent FROM prod_analytics.partition_policies WHERE parent LIKE 'regress%';
INSERT INTO prod_analytics.partition_policies (parent, control) VALUES ('regress_own.t', 'k'), ('"no name', 'k');
CREATE TABLE regress_own.u (k date) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('regress_own.u', 'k', '1 day', 7, 7);
ALTER TABLE regress_own.u RENAME TO t;
SELECT parent, width FROM prod_analytics.partition_policies WHERE parent LIKE 'regress%';
SELECT count(*) FROM prod_analytics.partition_status WHERE table_name::text LIKE 'regress%';
INSERT INTO prod_analytics.partition_policies (parent, control) VALUES ('regress_own.gone', 'k');
SELECT prod_analytics.ensure_partitions(at => '2026-01-15') > 0 AS others;

-- A partition is stored where its table says, else where the one before it is, and not where whoever makes it stores his tables.
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE regress_place LOCATION '';
CREATE TABLE regress_own.placed (k date PRIMARY KEY) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('regress_own.placed', 'k', ahead => 0, behind => 0);
SET default_tablespace = regress_place;
SELECT prod_analytics.ensure_partitions('regress_own.placed', '2026-01-15');
RESET default_tablespace;
ALTER TABLE regress_own.placed SET TABLESPACE regress_place;
SELECT prod_analytics.ensure_partitions('regress_own.placed', '2026-02-15');
SELECT c.relname, t.spcname FROM pg_class c LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE c.relname ~ '^placed_(p|default)' ORDER BY 1;
DROP TABLE regress_own.placed;
DROP TABLESPACE regress_place;

-- A session's style of dates and its time zone change no runway, whatever the zone is called there.
SELECT prod_analytics.ensure_partitions('prod_analytics.events') > 0 AS made;
BEGIN;
SELECT DISTINCT runway FROM prod_analytics.partition_status WHERE table_name = 'prod_analytics.events'::regclass \gset
SET LOCAL DateStyle = 'SQL, DMY';
SET LOCAL TimeZone = 'Asia/Manila';
SELECT DISTINCT runway = :'runway' AS same FROM prod_analytics.partition_status WHERE table_name = 'prod_analytics.events'::regclass;
SET LOCAL TimeZone = 'Africa/Harare';
SELECT DISTINCT runway = :'runway' AS same FROM prod_analytics.partition_status WHERE table_name = 'prod_analytics.events'::regclass;
SET LOCAL DateStyle = 'German';
SELECT DISTINCT runway = :'runway' AS same FROM prod_analytics.partition_status WHERE table_name = 'prod_analytics.events'::regclass;
SET LOCAL DateStyle = 'Postgres';
SELECT DISTINCT runway = :'runway' AS same FROM prod_analytics.partition_status WHERE table_name = 'prod_analytics.events'::regclass;
ROLLBACK;

-- A session that wants to see every name quoted finds tables under the names that the others know, and they what it has renamed
-- and dropped.
CREATE TABLE regress_own.seen (k date, v text, PRIMARY KEY (k)) PARTITION BY RANGE (k);
CREATE MATERIALIZED VIEW regress_own.counted AS SELECT k, count(*) AS n FROM regress_own.seen GROUP BY k;
CREATE UNIQUE INDEX ON regress_own.counted (k) NULLS NOT DISTINCT;
SET quote_all_identifiers = on;
SELECT prod_analytics.manage_partitions('regress_own.seen', 'k', ahead => 0, behind => 0);
SELECT prod_analytics.ensure_partitions('regress_own.seen', '2026-01-15');
SELECT prod_analytics.enable_incremental_refresh('regress_own.counted')->>'mode' AS mode;
CALL prod_analytics.backfill_column('regress_own.seen', 'v', $$'x'$$);
SELECT job_name FROM prod_analytics.etl_jobs WHERE job_name LIKE 'backfill%';
ALTER TABLE regress_own.seen RENAME TO quoted;
ALTER MATERIALIZED VIEW regress_own.counted RENAME TO counts;
SELECT table_name FROM prod_analytics.partition_status WHERE partition_name::text LIKE '%seen_default%';
SELECT parent AS name FROM prod_analytics.partition_policies WHERE parent ~ 'seen|quoted' UNION ALL SELECT matview FROM prod_analytics.registered_matviews WHERE matview ~ 'count';
DROP MATERIALIZED VIEW regress_own.counts;
DROP TABLE regress_own.quoted;
RESET quote_all_identifiers;
SELECT parent AS name FROM prod_analytics.partition_policies WHERE parent ~ 'seen|quoted' UNION ALL SELECT matview FROM prod_analytics.registered_matviews WHERE matview ~ 'count';

-- All commands that rename a table or its column are followed, also in a session that applies what was replicated.
CREATE TABLE regress_own.renamed (k date, v text, PRIMARY KEY (k)) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('regress_own.renamed', 'k', ahead => 0, behind => 0);
ALTER INDEX regress_own.renamed RENAME TO renamed2;
ALTER VIEW regress_own.renamed2 RENAME COLUMN k TO k2;
SELECT parent, control FROM prod_analytics.partition_policies WHERE parent ~ 'renamed';
ALTER FOREIGN TABLE regress_own.renamed2 RENAME COLUMN k2 TO k3;
SELECT parent, control FROM prod_analytics.partition_policies WHERE parent ~ 'renamed';
ALTER TYPE regress_own.renamed2 RENAME ATTRIBUTE k3 TO k4;
SELECT parent, control FROM prod_analytics.partition_policies WHERE parent ~ 'renamed';
SET session_replication_role = replica;
ALTER TABLE regress_own.renamed2 RENAME TO renamed3;
SELECT parent FROM prod_analytics.partition_policies WHERE parent ~ 'renamed';
DROP TABLE regress_own.renamed3;
RESET session_replication_role;
SELECT parent FROM prod_analytics.partition_policies WHERE parent ~ 'renamed';

-- So is a materialized view that goes with what it uses.
CREATE TABLE regress_own.read (k integer);
CREATE AGGREGATE regress_own.total (integer) (SFUNC = int4pl, STYPE = integer, INITCOND = 0);
CREATE MATERIALIZED VIEW regress_own.added AS SELECT k, regress_own.total(k) AS n FROM regress_own.read GROUP BY k;
CREATE UNIQUE INDEX ON regress_own.added (k) NULLS NOT DISTINCT;
SELECT prod_analytics.enable_incremental_refresh('regress_own.added')->>'mode' AS mode;
DROP AGGREGATE regress_own.total (integer) CASCADE;
SELECT matview FROM prod_analytics.registered_matviews WHERE matview ~ 'added';

SET client_min_messages = warning;
DROP SCHEMA p, regress_own CASCADE;
DROP SERVER regress_nowhere;
DROP FOREIGN DATA WRAPPER regress_nothing;
DROP SCHEMA prod_analytics CASCADE;
DROP ROLE regress_stranger;
