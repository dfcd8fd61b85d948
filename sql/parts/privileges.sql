-- PUBLIC gets nothing.  Roles get theirs in grant_privileges(), called by create_tables():
-- a GRANT here would be recorded as an initial privilege and be missing from dumps.

DO $$
DECLARE
	member text;
BEGIN
	FOR member IN
		SELECT d.objid::pg_catalog.regprocedure::text
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
		WHERE e.extname = 'prod_analytics'
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
			AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
			AND d.deptype = 'e'
	LOOP
		EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', member);
	END LOOP;
END
$$;
