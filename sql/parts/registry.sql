CREATE FUNCTION follow_renames()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'pa_follow_renames'
	LANGUAGE C VOLATILE;

COMMENT ON FUNCTION follow_renames() IS
	'internal: give entries of our registries the new name of a table or schema that was renamed';
