-- Schemas that are registered for event types: the newest version counts, at once, in the mode that it was
-- registered with.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
CREATE ROLE regress_schema_loader IN ROLE analytics_loader;
CREATE ROLE regress_schema_operator IN ROLE analytics_operator;
CREATE ROLE regress_schema_reader IN ROLE analytics_reader;
RESET client_min_messages;
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');

-- A purchase needs an order_id (string or integer) and a price (number, or string holding one, not negative).
SELECT event_type, version, mode, registered_by = session_user AS by_me FROM prod_analytics.event_schemas;
SELECT p, prod_analytics.is_valid_purchase_event(p) AS valid,
	prod_analytics.is_valid_purchase_event(p) = prod_analytics.is_valid_event('purchase', p) AS as_event
FROM (VALUES
	(1, '{"order_id": "o-1", "price": 9.99}'::jsonb), (2, '{"order_id": 7, "price": "9.99", "more": [1]}'), (3, '{"order_id": 7.0, "price": 0}'),
	(4, '{"order_id": 7.5, "price": 1}'), (5, '{"order_id": "o-1", "price": -1}'), (6, '{"order_id": "o-1", "price": "-1"}'),
	(7, '{"order_id": "o-1", "price": "free"}'), (8, '{"order_id": "o-1", "price": "1e3"}'), (9, '{"order_id": "o-1", "price": null}'),
	(10, '{"order_id": null, "price": 1}'), (11, '{"price": 1}'), (12, '{"order_id": 1}'), (13, '{}'), (14, '[]'), (15, '"x"'), (16, NULL)
) v (n, p) ORDER BY n;
SELECT * FROM prod_analytics.validate_purchase_event('{"order_id": 7.5, "price": "free"}');
SELECT * FROM prod_analytics.validate_event('purchase', NULL);
-- Of a type without a schema everything is valid; of no type nothing is known.
SELECT prod_analytics.is_valid_event('view', '[]') AS unregistered, prod_analytics.is_valid_event(NULL, '{}') IS NULL AS untyped,
	(SELECT count(*) FROM prod_analytics.validate_event('view', '[]')) AS errors,
	(SELECT count(*) FROM prod_analytics.validate_event(NULL, '[]')) AS untyped_errors;

-- Versions: the newest counts, all are kept, the same one again is none; formats are asserted.
SELECT prod_analytics.register_event_schema('signup', '{"required": ["email"]}');
SELECT prod_analytics.is_valid_event('signup', '{"email": "nobody"}');
SELECT prod_analytics.register_event_schema('signup', '{"required": ["email"], "properties": {"email": {"format": "email"}}}', 'warn');
SELECT prod_analytics.is_valid_event('signup', '{"email": "nobody"}') AS nobody, prod_analytics.is_valid_event('signup', '{"email": "a@example.com"}') AS address;
SELECT prod_analytics.register_event_schema('signup', '{"required": ["email"], "properties": {"email": {"format": "email"}}}', 'warn');
SELECT prod_analytics.register_event_schema('signup', '{"required": ["email"], "properties": {"email": {"format": "email"}}}', 'off');
SELECT prod_analytics.register_event_schema('Zürich 😀 ''"\', 'true'), prod_analytics.is_valid_event('Zürich 😀 ''"\', '1');
SELECT event_type, version, mode FROM prod_analytics.event_schemas ORDER BY event_type COLLATE "C", version;
-- Several in one statement.
SELECT prod_analytics.register_event_schema('twice', '{"const": 1}'), prod_analytics.register_event_schema('twice', '{"const": 2}'),
	prod_analytics.is_valid_event('twice', '2');

-- Rolled back: as if it had never been.
BEGIN;
SELECT prod_analytics.register_event_schema('twice', 'false');
SELECT prod_analytics.is_valid_event('twice', '2') AS inside;
SAVEPOINT s;
SELECT prod_analytics.register_event_schema('twice', 'true');
SELECT prod_analytics.is_valid_event('twice', '3') AS inside;
ROLLBACK TO s;
SELECT prod_analytics.is_valid_event('twice', '3') AS after_savepoint;
ROLLBACK;
SELECT prod_analytics.is_valid_event('twice', '2') AS after_rollback;

-- Rows that are written directly are checked, and noticed.
INSERT INTO prod_analytics.event_schemas (event_type, version, schema) VALUES ('direct', 1, '{"type": "null"}');
SELECT prod_analytics.is_valid_event('direct', '1');
UPDATE prod_analytics.event_schemas SET schema = '{"type": "integer"}' WHERE event_type = 'direct';
SELECT prod_analytics.is_valid_event('direct', '1');
DELETE FROM prod_analytics.event_schemas WHERE event_type = 'direct';
SELECT prod_analytics.is_valid_event('direct', '"1"');
-- error: a row that holds no schema
INSERT INTO prod_analytics.event_schemas (event_type, version, schema) VALUES ('direct', 1, '{"type": "nul"}');
UPDATE prod_analytics.event_schemas SET schema = '[]' WHERE event_type = 'twice';
-- A schema that got in all the same is told when it is used.
SET session_replication_role = replica;
ALTER TABLE prod_analytics.event_schemas DISABLE TRIGGER event_schemas_changed;
INSERT INTO prod_analytics.event_schemas (event_type, version, schema) VALUES ('broken', 3, '{"minLength": -1}');
ALTER TABLE prod_analytics.event_schemas ENABLE ALWAYS TRIGGER event_schemas_changed;
RESET session_replication_role;
SELECT prod_analytics.is_valid_event('broken', '1');
SELECT prod_analytics.register_event_schema('broken', '{"minLength": 1}'), prod_analytics.is_valid_event('broken', '1');
-- A table that the user has widened.
ALTER TABLE prod_analytics.event_schemas ADD COLUMN note text;
SELECT prod_analytics.register_event_schema('broken', '{"minLength": 2}'), prod_analytics.is_valid_event('broken', '"a"');

-- error: what cannot be registered
SELECT prod_analytics.register_event_schema(NULL, 'true');
SELECT prod_analytics.register_event_schema('x', NULL);
SELECT prod_analytics.register_event_schema('x', 'true', NULL);
SELECT prod_analytics.register_event_schema('', 'true');
SELECT prod_analytics.register_event_schema('x', 'true', 'strict');
SELECT prod_analytics.register_event_schema('x', '{"properties": {"price": {"type": "strin"}}}');
SELECT prod_analytics.register_event_schema('x', '[]');
SELECT prod_analytics.register_event_schema('x', '{"$ref": "https://example.com/s.json"}');
SELECT prod_analytics.register_event_schema('x', '{"allOf": [{"$ref": "#"}]}');
BEGIN READ ONLY;
SELECT prod_analytics.register_event_schema('x', 'true');
ROLLBACK;

-- Direct writes to events are checked by a trigger, where a user wants that.
INSERT INTO prod_analytics.events (event_type, event_props, event_time) VALUES ('purchase', '{"price": 1}', '2026-03-10');
CREATE TRIGGER enforce_event_schema BEFORE INSERT OR UPDATE ON prod_analytics.events
	FOR EACH ROW EXECUTE FUNCTION prod_analytics.enforce_event_schema();
-- error: as the mode says
INSERT INTO prod_analytics.events (event_type, event_props, event_time) VALUES ('purchase', '{"price": "x"}', '2026-03-10');
INSERT INTO prod_analytics.events (event_type, event_time) VALUES ('purchase', '2026-03-10');
UPDATE prod_analytics.events SET event_props = '{"price": 2}';
INSERT INTO prod_analytics.events_p20260301 (event_type, event_props, event_time) VALUES ('purchase', '{"price": "x"}', '2026-03-10');
SELECT prod_analytics.register_event_schema('purchase', '{"required": ["a", "b", "c", "d", "e", "f", "g"]}', 'warn');
INSERT INTO prod_analytics.events (event_type, event_props, event_time) VALUES ('purchase', '{"price": "x"}', '2026-03-11');
SELECT prod_analytics.register_event_schema('purchase', '{"required": ["order_id"], "properties": {"price": {"type": "number"}}}', 'off');
INSERT INTO prod_analytics.events (event_type, event_props, event_time) VALUES
	('purchase', '{"price": "x"}', '2026-03-12'), ('purchase', '{"price": 1, "order_id": 1}', '2026-03-12'), ('view', NULL, '2026-03-12');
-- Any table of events can have it.
CREATE DOMAIN kind_of_event AS text;
CREATE TABLE orders (kind kind_of_event, body jsonb, n integer);
CREATE TRIGGER enforce AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION prod_analytics.enforce_event_schema('kind', 'body');
SELECT prod_analytics.register_event_schema('order', '{"required": ["order_id"]}');
INSERT INTO orders VALUES ('order', '{"order_id": 1}'), (NULL, '1');
-- error: no order_id; a trigger that names no such column, or is of another kind
INSERT INTO orders VALUES ('order', '{}');
CREATE TRIGGER enforce_wrong AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION prod_analytics.enforce_event_schema('kind', 'n');
INSERT INTO orders VALUES ('order', '{"order_id": 1}');
DROP TRIGGER enforce_wrong ON orders;
CREATE TRIGGER enforce_wrong AFTER INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION prod_analytics.enforce_event_schema('kind', 'body');
INSERT INTO orders VALUES ('order', '{"order_id": 1}');
DROP TABLE orders;
DROP DOMAIN kind_of_event;
DROP TRIGGER enforce_event_schema ON prod_analytics.events;

-- What is wrong with stored events, by keyword and place, whatever the mode.
SELECT keyword, instance_path, failing_events, sample_event_id = (SELECT min(event_id) FROM prod_analytics.events WHERE event_type = 'purchase') AS sample
FROM prod_analytics.event_schema_report('purchase', NULL, NULL);
SELECT keyword, instance_path, failing_events FROM prod_analytics.event_schema_report('purchase', '2026-03-11', '2026-03-12');
SELECT count(*) FROM prod_analytics.event_schema_report('view', NULL, NULL);
SELECT count(*) FROM prod_analytics.event_schema_report(NULL, NULL, NULL);
-- error: a range the wrong way round
\set SHOW_CONTEXT never
SELECT FROM prod_analytics.event_schema_report('purchase', '2026-03-12', '2026-03-11');
\set SHOW_CONTEXT errors
-- Partitions outside of the time range are not read.
SELECT pg_stat_force_next_flush();
BEGIN;
SELECT count(*) FROM prod_analytics.event_schema_report('purchase', '2026-03-01 00:00+00', '2026-04-01 00:00+00');
SELECT relname FROM pg_stat_xact_user_tables WHERE relname ~ '^events_' AND seq_scan + coalesce(idx_scan, 0) > 0;
COMMIT;

-- Who may what.
SET ROLE regress_schema_loader;
SELECT prod_analytics.is_valid_event('purchase', '{}');
-- error: a loader and a reader cannot register, a loader cannot read the schemas or the events
SELECT prod_analytics.register_event_schema('x', 'true');
SELECT count(*) FROM prod_analytics.event_schemas;
SELECT count(*) FROM prod_analytics.event_schema_report('purchase', NULL, NULL);
SET ROLE regress_schema_reader;
SELECT count(*) > 0 AS reader_sees FROM prod_analytics.event_schemas;
SELECT count(*) FROM prod_analytics.event_schema_report('purchase', NULL, NULL);
SELECT prod_analytics.register_event_schema('x', 'true');
SET ROLE regress_schema_operator;
SELECT prod_analytics.register_event_schema('by operator', 'true');
-- error: nobody but the owner writes the table directly
DELETE FROM prod_analytics.event_schemas;
RESET ROLE;
SELECT registered_by = session_user AS by_session FROM prod_analytics.event_schemas WHERE event_type = 'by operator';

-- Parallel workers know the schemas too.
CREATE TABLE many AS SELECT n, jsonb_build_object('order_id', n) || CASE WHEN n % 10 = 0 THEN '{}' ELSE '{"price": 1}' END::jsonb AS p FROM generate_series(1, 20000) n;
SELECT prod_analytics.register_event_schema('purchase', '{"required": ["order_id", "price"]}');
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS off) SELECT count(*) FROM many WHERE prod_analytics.is_valid_purchase_event(p);
SELECT count(*) FROM many WHERE prod_analytics.is_valid_purchase_event(p);
RESET max_parallel_workers_per_gather;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
DROP TABLE many;

-- Truncated, dropped, made again.
TRUNCATE prod_analytics.event_schemas;
SELECT prod_analytics.is_valid_event('purchase', '{}');
SELECT prod_analytics.register_event_schema('purchase', 'false');
DROP TABLE prod_analytics.event_schemas;
-- error: the table is missing
SELECT prod_analytics.is_valid_event('purchase', '{}');
SELECT prod_analytics.create_tables();
SELECT prod_analytics.is_valid_event('purchase', '{}') AS again, tgname, tgenabled
FROM pg_trigger WHERE tgrelid = 'prod_analytics.event_schemas'::regclass ORDER BY tgname;
-- DROP EXTENSION leaves the schemas; CREATE EXTENSION makes the triggers again.
SELECT prod_analytics.register_event_schema('kept', 'false');
SET client_min_messages = warning;
DROP EXTENSION prod_analytics CASCADE;
CREATE EXTENSION prod_analytics;
RESET client_min_messages;
SELECT prod_analytics.is_valid_event('kept', '{}') AS kept, count(*) AS triggers FROM pg_trigger WHERE tgrelid = 'prod_analytics.event_schemas'::regclass;
DROP ROLE regress_schema_loader, regress_schema_operator, regress_schema_reader;

-- a schema that is seen before its trigger has announced it goes with the transaction
CREATE FUNCTION sees_schema(event_type text)
	RETURNS integer
	LANGUAGE plpgsql VOLATILE
	AS $$
BEGIN
	RETURN CASE WHEN prod_analytics.is_valid_event($1, '{}') THEN 1 ELSE 0 END;
END
$$;
UPDATE prod_analytics.event_schemas SET mode = mode WHERE event_type = 'purchase';
DO $$
BEGIN
	WITH new AS MATERIALIZED (
		INSERT INTO prod_analytics.event_schemas (event_type, version, schema) VALUES ('ghost', 1, 'false') RETURNING event_type
	)
	SELECT 1 / sees_schema(event_type) FROM new;
EXCEPTION WHEN division_by_zero THEN
	RAISE NOTICE 'seen, and rolled back';
END
$$;
SELECT prod_analytics.is_valid_event('ghost', '{}');
DROP FUNCTION sees_schema(text);

-- error: event_schemas is not what it was
BEGIN;
ALTER TABLE prod_analytics.event_schemas ALTER schema TYPE text;
SELECT prod_analytics.is_valid_event('purchase', '{}');
ROLLBACK;
SELECT prod_analytics.is_valid_event('purchase', '{}');
