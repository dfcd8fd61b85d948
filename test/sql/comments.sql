-- Every object has a comment, and every function says what it is.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;

SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'prod_analytics'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.oid::regclass FROM pg_class c
WHERE c.relnamespace = 'prod_analytics'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'v')
	AND obj_description(c.oid, 'pg_class') IS NULL;
-- Indexes, but for those of keys.
SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = 'prod_analytics'::regnamespace
	AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
	AND obj_description(i.indexrelid, 'pg_class') IS NULL;
SELECT rolname FROM pg_roles WHERE rolname LIKE 'analytics\_%' AND shobj_description(oid, 'pg_authid') IS NULL;

-- One function a name.
SELECT proname FROM pg_proc WHERE pronamespace = 'prod_analytics'::regnamespace GROUP BY proname HAVING count(*) > 1;
