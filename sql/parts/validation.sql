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

CREATE FUNCTION register_event_schema(event_type text, schema jsonb, mode text DEFAULT 'enforce')
	RETURNS integer
	AS 'MODULE_PATHNAME', 'pa_register_event_schema'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION register_event_schema(text, jsonb, text) IS
	'make schema, a JSON Schema whose formats are asserted, what the properties of events of a type are to satisfy from now on, and return its version (the newest one when that says the same); mode is what is done about an event that does not: enforce (refuse it), warn (let it pass and say so) or off (nothing); raises 22023 when schema is none or mode another, 22004 when something is NULL';

CREATE FUNCTION is_valid_event(event_type text, event_props jsonb)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_is_valid_event'
	LANGUAGE C STABLE PARALLEL SAFE;

COMMENT ON FUNCTION is_valid_event(text, jsonb) IS
	'whether event_props (NULL: {}) satisfies the newest schema that is registered for event_type, whatever its mode; true when there is none, NULL when event_type is NULL';

CREATE FUNCTION validate_event(event_type text, event_props jsonb)
	RETURNS TABLE (instance_path text, keyword text, schema_path text, message text)
	AS 'MODULE_PATHNAME', 'pa_validate_event'
	LANGUAGE C STABLE PARALLEL SAFE;

COMMENT ON FUNCTION validate_event(text, jsonb) IS
	'what is wrong with event_props (NULL: {}) by the newest schema that is registered for event_type, in the shape of jsonschema_validation_errors(); no row when it is valid, or no schema registered';

CREATE FUNCTION is_valid_purchase_event(event_props jsonb)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'pa_is_valid_purchase_event'
	LANGUAGE C STABLE PARALLEL SAFE;

COMMENT ON FUNCTION is_valid_purchase_event(jsonb) IS
	'is_valid_event() for events of type purchase; unless another schema is registered they need an order_id (string or integer) and a price (number, or string holding one, not negative) (section 13)';

CREATE FUNCTION validate_purchase_event(event_props jsonb)
	RETURNS TABLE (instance_path text, keyword text, schema_path text, message text)
	AS 'MODULE_PATHNAME', 'pa_validate_purchase_event'
	LANGUAGE C STABLE PARALLEL SAFE;

COMMENT ON FUNCTION validate_purchase_event(jsonb) IS
	'validate_event() for events of type purchase (section 13)';

CREATE FUNCTION enforce_event_schema()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'pa_enforce_event_schema'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION enforce_event_schema() IS
	'trigger for each row that is inserted into a table of events or updated there: raises 23514 when it does not satisfy the schema of its type and the schema''s mode is enforce, warns when the mode is warn; arguments: the columns of the type (default event_type) and of the properties (default event_props)';

CREATE FUNCTION event_schema_report(event_type text, from_time timestamptz, to_time timestamptz)
	RETURNS TABLE (keyword text, instance_path text, failing_events bigint, sample_event_id bigint)
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT v.keyword, v.instance_path, count(*), min(e.event_id)
	FROM prod_analytics.events e
	CROSS JOIN LATERAL (
		SELECT DISTINCT f.keyword, f.instance_path
		FROM prod_analytics.validate_event(e.event_type, e.event_props) f
	) v
	WHERE prod_analytics.check_times(event_schema_report.from_time, event_schema_report.to_time)
		AND e.event_type = event_schema_report.event_type
		AND e.event_time >= coalesce(event_schema_report.from_time, '-infinity')
		AND e.event_time < coalesce(event_schema_report.to_time, 'infinity')
		AND NOT prod_analytics.is_valid_event(e.event_type, e.event_props)
	GROUP BY v.keyword, v.instance_path
	ORDER BY count(*) DESC, v.keyword, v.instance_path
$$;

COMMENT ON FUNCTION event_schema_report(text, timestamptz, timestamptz) IS
	'the stored events of a type, from from_time on and before to_time (NULL: no bound), that do not satisfy its newest schema: for each keyword and place in the properties (JSON Pointer) how many fail there, and the lowest event_id of them; raises 22023 when from_time is after to_time';

CREATE FUNCTION event_schemas_changed()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'pa_event_schemas_changed'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION event_schemas_changed() IS
	'internal: trigger of event_schemas that checks schemas and lets all sessions know of them; raises 22023 when one is none';
