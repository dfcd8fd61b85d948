-- PUBLIC gets nothing.  Roles get theirs in grant_privileges(), called by create_tables():
-- a GRANT here would be recorded as an initial privilege and be missing from dumps.

CREATE FUNCTION close_functions()
	RETURNS oid[]
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- One that was closed before, which its initial privileges tell, is left as users want it: a REVOKE in the script that
-- updates the extension would make all privileges on it initial ones.
DECLARE
	member regprocedure;
	closed oid[] := '{}';
BEGIN
	FOR member IN
		SELECT d.objid
		FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
		WHERE e.extname = 'prod_analytics' AND d.refclassid = 'pg_extension'::regclass
			AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
			AND NOT EXISTS (SELECT FROM pg_init_privs i WHERE i.classoid = d.classid AND i.objoid = d.objid)
	LOOP
		EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', member);
		closed := closed || member::oid;
	END LOOP;
	RETURN closed;
END
$$;

COMMENT ON FUNCTION close_functions() IS
	'internal: take the privileges on our new functions away from PUBLIC; returns which these are';

CREATE FUNCTION granted_privileges()
	RETURNS TABLE (function oid, revocation text)
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	WITH granted AS (
		SELECT p.oid, format('ALL ON ROUTINE %s', p.oid::regprocedure) AS what, a.grantee, '' AS prefix
		FROM pg_proc p, aclexplode(p.proacl) a
		WHERE p.pronamespace = 'prod_analytics'::regnamespace AND a.grantee NOT IN (0, p.proowner)
		UNION ALL
		SELECT 0, 'USAGE ON SCHEMA prod_analytics', a.grantee, ''
		FROM pg_namespace n, aclexplode(n.nspacl) a
		WHERE n.nspname = 'prod_analytics' AND a.privilege_type = 'USAGE' AND a.grantee NOT IN (0, n.nspowner)
		UNION ALL
		SELECT 0, 'SELECT ON TABLES', a.grantee, 'ALTER DEFAULT PRIVILEGES IN SCHEMA prod_analytics '
		FROM pg_default_acl d, aclexplode(d.defaclacl) a
		WHERE d.defaclnamespace = 'prod_analytics'::regnamespace AND d.defaclobjtype = 'r' AND a.privilege_type = 'SELECT'
			AND d.defaclrole = (SELECT r.oid FROM pg_roles r WHERE r.rolname = CURRENT_USER) AND a.grantee <> 0
	)
	SELECT g.oid, format('%sREVOKE %s FROM %I', g.prefix, g.what, pg_get_userbyid(g.grantee)) FROM granted g
$$;

COMMENT ON FUNCTION granted_privileges() IS
	'internal: the privileges on the schema, in it by default, and on functions that roles have, as the statement that takes one away, with the function or 0';

CREATE FUNCTION grant_new_privileges(new_functions oid[])
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- What somebody has taken away from our roles stays away.
DECLARE
	known CONSTANT text[] := ARRAY(SELECT g.revocation FROM prod_analytics.granted_privileges() g);
	returned text;
BEGIN
	PERFORM prod_analytics.grant_privileges();
	FOR returned IN
		SELECT g.revocation FROM prod_analytics.granted_privileges() g
		WHERE g.function <> ALL (new_functions) AND g.revocation <> ALL (known)
	LOOP
		EXECUTE returned;
	END LOOP;
END
$$;

COMMENT ON FUNCTION grant_new_privileges(oid[]) IS
	'internal: give our roles their privileges on new_functions, and none that they had not on others';
