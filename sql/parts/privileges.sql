-- PUBLIC gets nothing.  Roles get theirs in grant_privileges(), called by create_tables():
-- a GRANT here would be recorded as an initial privilege and be missing from dumps.

CREATE FUNCTION close_functions()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	member text;
BEGIN
	FOR member IN
		SELECT d.objid::regprocedure::text
		FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
		WHERE e.extname = 'prod_analytics' AND d.refclassid = 'pg_extension'::regclass
			AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
	LOOP
		EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', member);
	END LOOP;
END
$$;

COMMENT ON FUNCTION close_functions() IS
	'internal: take the privileges on our functions away from PUBLIC';
