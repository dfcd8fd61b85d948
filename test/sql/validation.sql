-- JSON Schema: what is wrong with a document is told with its place; what is wrong with a schema too; and
-- nothing crashes or goes on for ever.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
\set VERBOSITY terse

-- All errors of a document, not just the first.
SELECT * FROM prod_analytics.jsonschema_validation_errors('{
	"type": "object",
	"required": ["order_id", "price", "lines"],
	"properties": {
		"order_id": {"type": ["string", "integer"]},
		"price": {"type": "number", "minimum": 0, "multipleOf": 0.01},
		"currency": {"enum": ["EUR", "GBP"]},
		"email": {"type": "string", "pattern": "^[^@]+@[^@]+$", "maxLength": 20},
		"lines": {"type": "array", "minItems": 1, "uniqueItems": true, "items": {"$ref": "#/$defs/line"}},
		"a/b~c": {"const": 1}
	},
	"additionalProperties": false,
	"$defs": {"line": {"type": "object", "required": ["sku"], "properties": {"sku": {"type": "string", "minLength": 2}, "n": {"exclusiveMinimum": 0}}}}
}', '{"order_id": 1.5, "price": -0.005, "currency": "USD", "email": "Zürich and something long", "extra": [1], "a/b~c": 2,
	"lines": [{"sku": "A"}, {"sku": "AB", "n": 0}, 7, {"n": 1}, 7.0]}');
SELECT * FROM prod_analytics.jsonschema_validation_errors('{"anyOf": [{"type": "string"}, {"minimum": 5}], "oneOf": [true, true], "not": {"type": "number"}, "if": {"const": 3}, "then": {"const": 4}}', '3');
SELECT * FROM prod_analytics.jsonschema_validation_errors('{"contains": {"const": 1}, "minContains": 2, "maxContains": 3, "prefixItems": [{"type": "string"}], "items": false}', '[1, 2]');
SELECT * FROM prod_analytics.jsonschema_validation_errors('{"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"a": {"minProperties": 2}}, "propertyNames": {"maxLength": 0}, "unevaluatedProperties": false}', '{"a": 1}');
-- Values are cut, large containers are told by their size, and at most 100 errors are told.
SELECT message FROM prod_analytics.jsonschema_validation_errors('{"type": "null"}', to_jsonb(repeat('é', 100)));
SELECT message FROM prod_analytics.jsonschema_validation_errors('{"type": "null"}', (SELECT jsonb_agg(n) FROM generate_series(1, 1000) n));
SELECT count(*) FROM prod_analytics.jsonschema_validation_errors('{"items": {"type": "null"}}', (SELECT jsonb_agg(n) FROM generate_series(1, 1000) n));
SELECT count(*) FROM prod_analytics.jsonschema_validation_errors('true', '{"anything": 1}');
SELECT * FROM prod_analytics.jsonschema_validation_errors('false', '{"anything": 1}');
-- So are names and patterns, between characters.
SELECT message FROM prod_analytics.jsonschema_validation_errors(jsonb_build_object('pattern', '^x' || repeat('é', 100), 'not', true, 'type', 'null'), '"y"');
SELECT message FROM prod_analytics.jsonschema_validation_errors(jsonb_build_object('required', jsonb_build_array('x' || repeat('é', 100)), 'additionalProperties', false), jsonb_build_object(repeat('ü', 100), 1));
-- NULL in, NULL out.
SELECT prod_analytics.jsonb_matches_schema(NULL, '1') IS NULL AS schema, prod_analytics.jsonb_matches_schema('true', NULL) IS NULL AS instance,
	prod_analytics.jsonschema_is_valid(NULL) IS NULL AS valid;

-- Numbers compare exactly, whole numbers are integers however they are written, code points are counted.
SELECT prod_analytics.jsonb_matches_schema('{"type": "integer"}', '1.0') AS integer,
	prod_analytics.jsonb_matches_schema('{"const": 9007199254740993}', '9007199254740992') AS beyond_double,
	prod_analytics.jsonb_matches_schema('{"multipleOf": 0.1}', '0.3') AS decimal,
	prod_analytics.jsonb_matches_schema('{"multipleOf": 1e-30}', '1e30') AS extreme,
	prod_analytics.jsonb_matches_schema('{"maxLength": 2}', '"😀é"') AS code_points,
	prod_analytics.jsonb_matches_schema('{"enum": ["a", {"b": [1, 2.0]}]}', '{"b": [1.0, 2]}') AS enum,
	prod_analytics.jsonb_matches_schema('{"uniqueItems": true}', '[{"a": 1}, {"a": 1.0}]') AS equal_items;
-- Names that differ by Unicode normalization are different names.
SELECT prod_analytics.jsonb_matches_schema('{"required": ["é"]}', jsonb_build_object(U&'e\0301', 1)) AS decomposed,
	prod_analytics.jsonb_matches_schema('{"required": ["é"]}', jsonb_build_object(U&'\00e9', 1)) AS composed;
-- Regular expressions are those of ECMA-262 where the two differ.
SELECT prod_analytics.jsonb_matches_schema('{"pattern": "\\bcat\\b"}', '"a cat sat"') AS word,
	prod_analytics.jsonb_matches_schema('{"pattern": "\\bcat\\b"}', '"concatenate"') AS inside,
	prod_analytics.jsonb_matches_schema('{"pattern": "^\\x41\\u0042[[b]$"}', '"AB["') AS hexadecimal,
	prod_analytics.jsonb_matches_schema('{"pattern": "^\\d$"}', '"٣"') AS digit;
-- Formats and unknown keywords are annotations.
SELECT prod_analytics.jsonb_matches_schema('{"format": "email", "x-unit": "cm", "deprecated": 7}', '"no address"');
-- Each row can have a schema of its own.
SELECT s, prod_analytics.jsonb_matches_schema(s, '3') FROM (VALUES ('{"minimum": 4}'::jsonb), ('{"minimum": 3}'), ('{"minimum": 4}'), ('true')) v (s);

-- Schemas that are none, each with its place.
SELECT prod_analytics.jsonschema_is_valid(s) AS valid, s FROM (VALUES ('{}'::jsonb), ('true'), ('[]'), ('"x"'), ('3'), ('null')) v (s);
CREATE FUNCTION problem(s jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN prod_analytics.jsonb_matches_schema(s, '1')::text;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT problem(s) FROM (VALUES
	('[]'::jsonb), ('{"type": "strin"}'), ('{"type": []}'), ('{"type": ["null", "null"]}'), ('{"type": 3}'),
	('{"minLength": -1}'), ('{"minLength": 1.5}'), ('{"maxItems": "3"}'), ('{"maximum": "3"}'), ('{"multipleOf": 0}'), ('{"multipleOf": -1}'),
	('{"pattern": "("}'), ('{"pattern": 3}'), ('{"patternProperties": {"[": true}}'), ('{"required": ["a", "a"]}'), ('{"required": "a"}'), ('{"required": [1]}'),
	('{"properties": []}'), ('{"properties": {"a/b": {"items": 3}}}'), ('{"allOf": []}'), ('{"anyOf": [true, 3]}'), ('{"items": [true]}'),
	('{"enum": 3}'), ('{"uniqueItems": 1}'), ('{"dependentRequired": []}'), ('{"$defs": {"unused": {"type": "x"}}}'),
	('{"$ref": 3}'), ('{"$ref": "#/nowhere"}'), ('{"$ref": "#nowhere"}'), ('{"$ref": "http://example.com/other.json"}'), ('{"$ref": "#/%zz"}'),
	('{"$dynamicRef": "#x"}'), ('{"$schema": "http://json-schema.org/draft-07/schema#"}'), ('{"$vocabulary": {"http://example.com/v": true}}'),
	('{"$id": "a#b"}'), ('{"$id": 3}'), ('{"$defs": {"a": {"$anchor": "x"}, "b": {"$anchor": "x"}}}')
) v (s);

-- References that lead nowhere deeper: told, when a document meets them.
SELECT problem('{"$ref": "#"}');
SELECT problem('{"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}}');
SELECT problem('{"anyOf": [{"const": 1}, {"$ref": "#"}]}');
-- Those that lead deeper end with the document.
SELECT prod_analytics.jsonb_matches_schema('{"properties": {"next": {"$ref": "#"}}, "additionalProperties": false}', '{"next": {"next": {"next": {}}}}') AS list,
	prod_analytics.jsonb_matches_schema('{"properties": {"next": {"$ref": "#"}}, "additionalProperties": false}', '{"next": {"next": {"other": {}}}}') AS broken;
-- Contradictory bounds are no error: nothing satisfies them.
SELECT prod_analytics.jsonb_matches_schema('{"minimum": 2, "maximum": 1}', '1');

-- Ten thousand levels: an error of the server's stack limit, not a crash.
SELECT left(problem((repeat('{"not": ', 10000) || 'true' || repeat('}', 10000))::jsonb), 27) ~ '^(54001 stack depth limit ex|true|false)' AS deep_schema;
SELECT prod_analytics.jsonb_matches_schema('{"items": {"$ref": "#"}}', (repeat('[', 500) || repeat(']', 500))::jsonb) AS deep_document;
SELECT prod_analytics.jsonb_matches_schema('{"items": {"type": "integer"}, "uniqueItems": true}', (SELECT jsonb_agg(n) FROM generate_series(1, 100000) n)) AS large_array;
-- It can be cancelled.
BEGIN;
SET LOCAL statement_timeout = '200ms';
SELECT prod_analytics.jsonb_matches_schema('{"pattern": "^(a|aa)+$"}', to_jsonb(repeat('a', 20000) || 'b'))
	FROM generate_series(1, 100000);
ROLLBACK;
DROP FUNCTION problem(jsonb);

-- messages are cut between characters, also the names and numbers in them
SELECT right(message, 8) FROM prod_analytics.jsonschema_validation_errors(
	jsonb_build_object('pattern', 'a' || repeat(U&'\00E9', 150)), '"x"');
SELECT length(message) FROM prod_analytics.jsonschema_validation_errors('{"additionalProperties": false}',
	jsonb_build_object(repeat('x', 100000), 1));
SELECT length(message) FROM prod_analytics.jsonschema_validation_errors('{"maximum": -1e1000}', '1');

-- what has an error in a schema that is referred to is not unevaluated as well
SELECT * FROM prod_analytics.jsonschema_validation_errors('{
	"$ref": "#/$defs/a", "unevaluatedProperties": false,
	"$defs": {"a": {"properties": {"a": {"type": "integer"}}}}
}', '{"a": "x", "b": 1}');

-- contentSchema is an annotation, and a schema, which can be referred to
SELECT prod_analytics.jsonb_matches_schema(s, '{"b": "x"}'), prod_analytics.jsonb_matches_schema(s, '{"a": "{", "b": 1}')
FROM (VALUES ('{"properties": {"a": {"contentSchema": {"$anchor": "c", "type": "integer"}}, "b": {"$ref": "#c"}}}'::jsonb)) v(s);
-- error: of which it must be one
SELECT prod_analytics.jsonb_matches_schema('{"contentSchema": 1}', '1');
