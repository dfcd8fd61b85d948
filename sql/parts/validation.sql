CREATE FUNCTION jsonb_matches_schema(schema jsonb, instance jsonb)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_jsonb_matches_schema'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION jsonb_matches_schema(jsonb, jsonb) IS
	'whether instance satisfies schema, a JSON Schema of draft 2020-12; formats are annotations, numbers compare exactly; raises 22023 when schema is not one, names another draft or vocabulary, a remote $ref or a $dynamicRef, or refers to itself without end';

CREATE FUNCTION jsonschema_is_valid(schema jsonb)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_jsonschema_is_valid'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION jsonschema_is_valid(jsonb) IS
	'whether schema is a JSON Schema that the other functions accept';

CREATE FUNCTION jsonschema_validation_errors(schema jsonb, instance jsonb)
	RETURNS TABLE (instance_path text, keyword text, schema_path text, message text)
	AS 'MODULE_PATHNAME', 'pa_jsonschema_validation_errors'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION jsonschema_validation_errors(jsonb, jsonb) IS
	'what is wrong with instance by schema, at most 100 errors: where in the instance and in the schema (JSON Pointers), the keyword, and a message with the value, cut; no row when it is valid; raises what jsonb_matches_schema() raises';
