CREATE FUNCTION follow_renames()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'pa_follow_renames'
	LANGUAGE C VOLATILE;

COMMENT ON FUNCTION follow_renames() IS
	'internal: give entries of our registries the new name of a table, schema or column that was renamed';

CREATE FUNCTION follow_drops()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'pa_follow_drops'
	LANGUAGE C VOLATILE;

COMMENT ON FUNCTION follow_drops() IS
	'internal: remove entries of our registries whose table was dropped';
