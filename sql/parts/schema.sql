-- The schema must be ours before anything in it is trusted.

CREATE FUNCTION check_schema()
	RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	owner name;
	intruder text;
	planted text;
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
			HINT = 'Drop the schema, or look at everything in it and then take it over with ALTER SCHEMA prod_analytics OWNER TO CURRENT_USER.';
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
			HINT = 'Revoke CREATE on the schema from every role but its owner, and look at what is in it.';
	END IF;

	-- What was planted before: a function or operator of another role could be called in the place of one
	-- of the server's.  (Tables are looked at by unsafe_to_adopt().)
	SELECT pg_describe_object(o.classid, o.oid, 0) INTO planted
	FROM (
		SELECT 'pg_proc'::regclass::oid AS classid, oid, proowner AS owner, pronamespace AS namespace FROM pg_proc
		UNION ALL SELECT 'pg_operator'::regclass, oid, oprowner, oprnamespace FROM pg_operator
		UNION ALL SELECT 'pg_type'::regclass, oid, typowner, typnamespace FROM pg_type WHERE typrelid = 0 AND typcategory <> 'A'
		UNION ALL SELECT 'pg_collation'::regclass, oid, collowner, collnamespace FROM pg_collation
		UNION ALL SELECT 'pg_opclass'::regclass, oid, opcowner, opcnamespace FROM pg_opclass
		UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgowner, cfgnamespace FROM pg_ts_config
	) o
	JOIN pg_namespace n ON n.oid = o.namespace AND n.nspname = 'prod_analytics'
	WHERE o.owner NOT IN (SELECT r.oid FROM pg_roles r WHERE r.rolsuper OR r.rolname = CURRENT_USER)
	ORDER BY 1 LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'insufficient_privilege',
			MESSAGE = format('%s in schema "prod_analytics" belongs to another role', planted),
			DETAIL = 'It could run as whoever calls create_tables().',
			HINT = 'Drop it, or drop the schema.';
	END IF;
END
$$;

COMMENT ON FUNCTION check_schema() IS
	'internal: raise 42501 unless schema prod_analytics holds no functions, operators or types of other roles, and only its owner, who is the caller or a superuser, can make some';

SELECT prod_analytics.check_schema();

COMMENT ON SCHEMA prod_analytics IS
	'product analytics: events, metrics, and the jobs that keep them';

CREATE FUNCTION drop_function(signature text)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	dependents text;
BEGIN
	EXECUTE format('DROP ROUTINE prod_analytics.%s', drop_function.signature);
EXCEPTION WHEN dependent_objects_still_exist THEN
	GET STACKED DIAGNOSTICS dependents = PG_EXCEPTION_DETAIL;
	RAISE EXCEPTION USING
		ERRCODE = 'dependent_objects_still_exist',
		MESSAGE = format('prod_analytics cannot be updated while other objects use prod_analytics.%s', drop_function.signature),
		DETAIL = dependents,
		HINT = 'The new version has none, or one with another result. Drop what uses it, update, and make it again.';
END
$$;

COMMENT ON FUNCTION drop_function(text) IS
	'internal: remove a function that a new version of the extension does not have, or has with another signature or result; raises 2BP01 when something of a user depends on it';
