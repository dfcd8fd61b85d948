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

-- The matrix of tables, views and sequences.  (Partitions follow below.)
CREATE VIEW matrix AS
	SELECT c.oid, c.relname, c.relkind, c.relispartition,
		-- Not MAINTAIN, which PostgreSQL 17 has brought: nobody has it, as is shown below.
		(SELECT string_agg(p, ',') FROM unnest(CASE c.relkind WHEN 'S' THEN '{USAGE,SELECT,UPDATE}' ELSE '{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}' END::text[]) p
			WHERE CASE c.relkind WHEN 'S' THEN has_sequence_privilege(r.role, c.oid, p) ELSE has_table_privilege(r.role, c.oid, p) END) AS may, r.role
	FROM pg_class c, unnest('{analytics_reader,analytics_loader,analytics_operator,regress_nobody}'::name[]) r (role)
	WHERE c.relnamespace = 'prod_analytics'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'v', 'f', 'S');
SELECT relname, relkind, max(may) FILTER (WHERE role = 'analytics_reader') AS reader, max(may) FILTER (WHERE role = 'analytics_loader') AS loader,
	max(may) FILTER (WHERE role = 'analytics_operator') AS operator, max(may) FILTER (WHERE role = 'regress_nobody') AS nobody
FROM matrix WHERE NOT relispartition AND relkind <> 'S' GROUP BY 1, 2 ORDER BY 1;
-- Nobody may use a sequence: what has one is written by its owner.
SELECT count(*) > 5 AS sequences, count(may) AS anybody FROM matrix WHERE relkind = 'S';

-- Every privilege that there is, of any kind and on anything of ours: none but those of the owner and of the three
-- roles, none that may be passed on, and nothing that stands open because nobody has closed it.
CREATE VIEW privileges AS
	WITH owned (object, owner, acl) AS (
		SELECT format('%s %s', CASE relkind WHEN 'S' THEN 'sequence' ELSE 'relation' END, relname), relowner,
			coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) FROM pg_class WHERE relnamespace = 'prod_analytics'::regnamespace
		UNION ALL SELECT format('column %s.%s', c.relname, a.attname), c.relowner, a.attacl FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
			WHERE c.relnamespace = 'prod_analytics'::regnamespace AND a.attacl IS NOT NULL
		UNION ALL SELECT 'routine ' || proname, proowner, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc WHERE pronamespace = 'prod_analytics'::regnamespace
		UNION ALL SELECT 'schema', nspowner, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace WHERE nspname = 'prod_analytics'
		UNION ALL SELECT 'type ' || typname, typowner, typacl FROM pg_type WHERE typnamespace = 'prod_analytics'::regnamespace AND typacl IS NOT NULL
		UNION ALL SELECT 'default ' || defaclobjtype::text, defaclrole, defaclacl FROM pg_default_acl WHERE defaclnamespace = 'prod_analytics'::regnamespace
	)
	SELECT o.object, CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee) END AS grantee, e.privilege_type AS privilege, e.is_grantable
	FROM owned o, aclexplode(o.acl) e WHERE e.grantee <> o.owner;
SELECT * FROM privileges WHERE grantee NOT IN ('analytics_reader', 'analytics_loader', 'analytics_operator') OR is_grantable
	OR privilege NOT IN ('SELECT', 'INSERT', 'UPDATE', 'EXECUTE', 'USAGE');
SELECT split_part(object, ' ', 1) AS kind, grantee, privilege, count(*) > 1 AS several FROM privileges GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
-- No role is a member of another one, may log in, or may do anything in the cluster.
SELECT rolname, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolpassword IS NULL AS no_password,
	(SELECT count(*) FROM pg_auth_members m WHERE m.member = a.oid) AS memberships
FROM pg_authid a WHERE rolname IN ('analytics_reader', 'analytics_loader', 'analytics_operator') ORDER BY 1;

-- Functions: who may execute them.  What is not listed is for the owner alone.
SELECT p.proname,
	has_function_privilege('analytics_reader', p.oid, 'EXECUTE') AS reader,
	has_function_privilege('analytics_loader', p.oid, 'EXECUTE') AS loader,
	has_function_privilege('analytics_operator', p.oid, 'EXECUTE') AS operator,
	has_function_privilege('regress_nobody', p.oid, 'EXECUTE') AS nobody
FROM pg_proc p WHERE p.pronamespace = 'prod_analytics'::regnamespace
	AND (has_function_privilege('analytics_reader', p.oid, 'EXECUTE') OR has_function_privilege('analytics_loader', p.oid, 'EXECUTE')
		OR has_function_privilege('analytics_operator', p.oid, 'EXECUTE') OR has_function_privilege('regress_nobody', p.oid, 'EXECUTE'))
ORDER BY p.proname;
-- Of those that are no steps of others, these are for the owner alone.
SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'prod_analytics'::regnamespace
	AND obj_description(p.oid, 'pg_proc') NOT LIKE 'internal:%' AND NOT has_function_privilege('analytics_operator', p.oid, 'EXECUTE') ORDER BY 1;
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
DROP TABLE prod_analytics.quarantined_events, prod_analytics.staging_events CASCADE;
SELECT prod_analytics.create_tables();
RESET client_min_messages;
SELECT has_table_privilege('analytics_reader', 'prod_analytics.quarantined_events', 'SELECT') AS quarantine,
	has_table_privilege('analytics_reader', 'prod_analytics.staging_events', 'SELECT') AS staging;

-- What the owner makes later is readable too, of whatever kind; nothing else is given with it.
CREATE TABLE prod_analytics.mine (x serial);
CREATE VIEW prod_analytics.my_view AS SELECT * FROM prod_analytics.mine;
CREATE MATERIALIZED VIEW prod_analytics.my_matview AS SELECT * FROM prod_analytics.mine;
CREATE TABLE prod_analytics.my_parts (k date) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('prod_analytics.my_parts', 'k', ahead => 0, behind => 0);
SELECT prod_analytics.ensure_partitions('prod_analytics.my_parts', '2026-03-15');
SELECT relname, role, may FROM matrix WHERE relname ~ '^(mine|my_)' AND (may IS NOT NULL OR role = 'analytics_loader') ORDER BY 1, 2;
SET ROLE regress_reader;
SELECT count(*) FROM prod_analytics.mine;
RESET ROLE;
-- What another superuser makes is not, until he says so: default privileges are those of the role that makes a table.
CREATE ROLE regress_super SUPERUSER;
SET ROLE regress_super;
CREATE TABLE prod_analytics.his (x int);
RESET ROLE;
SELECT relname, role, may FROM matrix WHERE relname = 'his' AND may IS NOT NULL;
DROP TABLE prod_analytics.his;

-- Partitions have the privileges of their parent, whoever has them made: before, later, by ingestion and by operators; with those
-- that the user has given and without those that he has taken.
CREATE VIEW odd_partitions AS
	SELECT i.inhrelid::regclass AS partition, m.role, m.may, p.may AS of_parent FROM pg_inherits i
	JOIN matrix m ON m.oid = i.inhrelid JOIN matrix p ON p.oid = i.inhparent AND p.role = m.role
	WHERE m.relkind IN ('r', 'p') AND m.may IS DISTINCT FROM p.may;
SELECT count(*) > 15 AS many FROM pg_inherits WHERE inhparent = 'prod_analytics.events'::regclass;
SELECT * FROM odd_partitions;
REVOKE SELECT ON prod_analytics.events FROM analytics_reader;
GRANT SELECT, DELETE ON prod_analytics.events TO regress_nobody WITH GRANT OPTION;
GRANT UPDATE (device_type), SELECT (event_type) ON prod_analytics.events TO analytics_loader;
SET ROLE regress_operator;
SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2091-01-01', '2091-01-02');
RESET ROLE;
SELECT object, grantee, privilege, is_grantable FROM privileges WHERE object ~ 'events_p20910101' ORDER BY 1, 2, 3;
SELECT object, grantee, privilege, is_grantable FROM privileges WHERE object ~ '^(relation|column) events(\.|$)' ORDER BY 1, 2, 3;
-- A partition that is attached by hand keeps its own; through its parent it is read all the same.
CREATE TABLE prod_analytics.by_hand (LIKE prod_analytics.my_parts);
REVOKE ALL ON prod_analytics.by_hand FROM analytics_reader, analytics_operator;
INSERT INTO prod_analytics.by_hand VALUES ('2020-01-01');
ALTER TABLE prod_analytics.my_parts ATTACH PARTITION prod_analytics.by_hand FOR VALUES FROM ('2020-01-01') TO ('2020-02-01');
SET ROLE regress_reader;
SELECT * FROM prod_analytics.my_parts;
-- error: but not by itself
SELECT * FROM prod_analytics.by_hand;
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
DROP SCHEMA regress_trap CASCADE;
DROP ROLE regress_nobody, regress_reader, regress_loader, regress_operator, regress_super;
