-- What the scripts do at their end, once all functions are there.

CREATE FUNCTION advise_worker()
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_advise_worker'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION advise_worker() IS
	'internal: when the transaction commits, tell in a NOTICE what is missing for a worker to run the jobs of this database, if anything is';

CREATE FUNCTION install_tables()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- The tables are made, unless a dump is being restored and brings them along.  pg_dump turns row_security
-- off before CREATE EXTENSION, and nobody else does.
DECLARE
	setting CONSTANT text := current_setting('prod_analytics.create_tables');
BEGIN
	IF setting = 'on' OR (setting = 'auto' AND current_setting('row_security')::boolean) THEN
		PERFORM prod_analytics.create_tables();
		PERFORM prod_analytics.advise_worker();
	ELSE
		RAISE WARNING USING
			MESSAGE = 'prod_analytics did not make its tables',
			DETAIL = CASE setting
				WHEN 'off' THEN 'The setting prod_analytics.create_tables is off.'
				ELSE 'row_security is off, as it is while a dump is restored, which brings the tables along.'
			END,
			HINT = 'If no dump is being restored, make them with: SELECT prod_analytics.create_tables();';
	END IF;
END
$$;

COMMENT ON FUNCTION install_tables() IS
	'internal: what CREATE EXTENSION does about the tables';

CREATE FUNCTION finish_update()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- The tables may belong to another superuser than the one who updates.
DECLARE
	new_functions CONSTANT oid[] := prod_analytics.close_functions();
	caller CONSTANT text := current_setting('role');
	owner record;
BEGIN
	SELECT r.rolname AS name, r.rolsuper AS is_trusted INTO owner
	FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
	WHERE c.oid = to_regclass('prod_analytics.schema_version');
	IF NOT FOUND THEN
		RETURN;
	END IF;
	IF current_setting('prod_analytics.create_tables') = 'off' THEN
		RAISE WARNING USING
			MESSAGE = 'prod_analytics did not bring its tables up to date',
			DETAIL = 'The setting prod_analytics.create_tables is off.',
			HINT = format('Do it as role "%s" with: SELECT prod_analytics.create_tables();', owner.name);
		RETURN;
	END IF;
	IF owner.is_trusted THEN
		PERFORM set_config('role', owner.name, true);
	END IF;
	PERFORM prod_analytics.update_tables(new_functions);
	PERFORM set_config('role', caller, true);
END
$$;

COMMENT ON FUNCTION finish_update() IS
	'internal: what ALTER EXTENSION UPDATE does about privileges and tables';
