-- The schema must be ours before anything in it is trusted.

CREATE FUNCTION check_schema()
	RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	owner name;
	intruder text;
BEGIN
	SELECT pg_get_userbyid(n.nspowner) INTO owner
	FROM pg_namespace n
	WHERE n.nspname = 'prod_analytics'
		AND n.nspowner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = CURRENT_USER)
		AND n.nspowner NOT IN (SELECT r.oid FROM pg_roles r WHERE r.rolsuper);
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = format('schema "prod_analytics" belongs to role "%s"', owner),
			DETAIL = 'Its owner could replace objects that the extension trusts.',
			HINT = 'Take it over with ALTER SCHEMA prod_analytics OWNER TO CURRENT_USER, or drop it.';
	END IF;

	SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END INTO intruder
	FROM pg_namespace n, aclexplode(n.nspacl) a
	WHERE n.nspname = 'prod_analytics'
		AND a.privilege_type = 'CREATE'
		AND a.grantee <> n.nspowner
		AND a.grantee NOT IN (SELECT r.oid FROM pg_roles r WHERE r.rolsuper)
	LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = 'schema "prod_analytics" is open to other roles',
			DETAIL = format('Role "%s" may create objects in it, which the extension would trust.', intruder),
			HINT = 'Revoke CREATE on the schema from every role but its owner.';
	END IF;
END
$$;

COMMENT ON FUNCTION check_schema() IS
	'internal: raise 42501 unless only its owner, who is the caller or a superuser, can create objects in schema prod_analytics';

SELECT prod_analytics.check_schema();

COMMENT ON SCHEMA prod_analytics IS
	'product analytics: events, metrics, and the jobs that keep them';
