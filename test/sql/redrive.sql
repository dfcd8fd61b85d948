-- redrive_events(), redrive_users(): what was set aside goes the same way again, once what was wrong is mended.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
CREATE FUNCTION counts(result jsonb) RETURNS text LANGUAGE sql AS
	$$ SELECT format('%s inserted, %s duplicates, %s quarantined', result->'inserted', coalesce(result->'duplicates', '0'), result->'quarantined') $$;

INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, payload, event_time, received_at) VALUES
	(1, 7, NULL, 'view', '{}', '2026-03-10', '2026-03-10'),
	(2, NULL, NULL, 'purchase', '{"price": 1}', '2026-03-10', '2026-03-10'),
	(3, 7, 9, 'purchase', '{"price": 1}', '2026-03-10', '2026-03-10'),
	(4, NULL, NULL, NULL, NULL, '2026-03-10', '2026-03-10');
SELECT counts(prod_analytics.etl_ingest_events());
INSERT INTO prod_analytics.quarantined_events (payload, reasons) VALUES ('{"text": "x"}', '[{"code": "unparsable_line", "path": "", "message": "x"}]');

-- Dry: how many it would be, and nothing moves.
SELECT prod_analytics.redrive_events(dry_run => true) AS any_reason, prod_analytics.redrive_events(reason_code => 'unknown_user', dry_run => true) AS unknown_user,
	prod_analytics.redrive_events(reason_code => 'schema_violation', dry_run => true) AS schema_violation,
	prod_analytics.redrive_events('2020-01-01', dry_run => true) AS long_ago, prod_analytics.redrive_events(reason_code => 'no such code', dry_run => true) AS no_such;
SELECT count(*) FROM prod_analytics.quarantined_events;

-- The user is there now, and organization 9: one event goes in, another still violates its schema.
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (9, 'Acme');
INSERT INTO prod_analytics.users (user_id, org_id, email) VALUES (7, 9, 'late@example.com');
SELECT prod_analytics.redrive_events(reason_code => 'unknown_user');
SELECT event_id, attempts FROM prod_analytics.staging_events ORDER BY event_id;
SELECT counts(prod_analytics.etl_ingest_events());
SELECT event_id, attempts, jsonb_path_query_array(reasons, '$[*].code') AS codes FROM prod_analytics.quarantined_events ORDER BY event_id;
-- The schema is another now.
SELECT prod_analytics.register_event_schema('purchase', '{"required": ["price"]}');
SELECT prod_analytics.redrive_events(now(), 'schema_violation');
SELECT counts(prod_analytics.etl_ingest_events());
-- The rest comes back, one attempt older; a line that nobody could read stays until it is asked for.
SELECT prod_analytics.redrive_events();
SELECT counts(prod_analytics.etl_ingest_events());
SELECT event_id, attempts, reasons->0->>'code' AS code FROM prod_analytics.quarantined_events ORDER BY event_id;
SELECT prod_analytics.redrive_events(reason_code => 'unparsable_line');
SELECT event_id FROM prod_analytics.events ORDER BY event_id;

-- Users: the last record of a source, unless the source has delivered it again.
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src) VALUES ('a', 'ann@example.com', 'old', 'Later Inc.'), ('b', 'bob@example.com', 'bob', 'Later Inc.');
SELECT counts(prod_analytics.etl_upsert_users());
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src) VALUES ('a', 'ann@example.com', 'new', 'Later Inc.');
SELECT counts(prod_analytics.etl_upsert_users());
INSERT INTO prod_analytics.organizations (org_name) VALUES ('Later Inc.');
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src) VALUES ('b', 'bob@example.com', 'delivered again', 'Later Inc.');
SELECT prod_analytics.redrive_users(dry_run => true), prod_analytics.redrive_users(reason_code => 'malformed_email', dry_run => true);
SELECT prod_analytics.redrive_users();
SELECT counts(prod_analytics.etl_upsert_users());
SELECT username FROM prod_analytics.users ORDER BY email;
SELECT src_id, username FROM prod_analytics.quarantined_users ORDER BY quarantine_id;
-- An old record does not come back over the newer one of its source, be that redriven or delivered again, unless it is asked for.
SELECT prod_analytics.redrive_users(), prod_analytics.redrive_users(reason_code => 'unknown_organization');
SELECT prod_analytics.redrive_users(reason_code => 'superseded', dry_run => true);
-- Whatever attempts a loader has made up.
INSERT INTO prod_analytics.staging_events (event_id, attempts) VALUES (77, 2147483647);
SELECT counts(prod_analytics.etl_ingest_events());
SELECT prod_analytics.redrive_events(reason_code => 'missing_field');
SELECT attempts FROM prod_analytics.staging_events WHERE event_id = 77;
SELECT counts(prod_analytics.etl_ingest_events());
-- error: no time, read-only (a dry run is fine)
SELECT prod_analytics.redrive_events(NULL);
SELECT prod_analytics.redrive_users(NULL);
BEGIN READ ONLY;
SELECT prod_analytics.redrive_events(dry_run => true);
SELECT prod_analytics.redrive_events();
ROLLBACK;
DROP FUNCTION counts(jsonb);
