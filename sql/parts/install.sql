-- The last part: what the script does once all functions are there.

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

SELECT prod_analytics.close_functions();
SELECT prod_analytics.install_tables();
