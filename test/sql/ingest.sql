-- etl_ingest_events(): everything staged is inserted, a duplicate, quarantined, or still staged.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
INSERT INTO prod_analytics.users (user_id, org_id, email)
SELECT n, 1, format('user%s@example.com', n) FROM generate_series(1, 100) n;

-- What a run tells, without what differs from run to run.
CREATE FUNCTION ingest(batch_size integer DEFAULT 10000) RETURNS jsonb LANGUAGE sql AS
	$$ SELECT prod_analytics.etl_ingest_events(batch_size) - '{job_id,duration_seconds,rows_per_second,lag_seconds,oldest,newest,batches}'::text[] $$;
-- How many rows are where; their sum never changes but for rows staged.
CREATE VIEW whereabouts AS
	SELECT (SELECT count(*) FROM prod_analytics.events) AS events,
		(SELECT count(*) FROM prod_analytics.quarantined_events) AS quarantined,
		(SELECT count(*) FROM prod_analytics.staging_events) AS staged,
		(SELECT count(*) FROM prod_analytics.events_default) AS in_default;

-- Nothing staged.
SELECT ingest();

-- Good rows, of which two are the same event, and one has no number.
INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, payload, event_time, received_at) VALUES
	(1, 1, 1, 'view', '{"device": "mobile", "text": "Zürich \\ \"ß\" 😀"}', '2026-03-10 10:00:00+00', '2026-03-10 10:00:01+00'),
	(1, 1, 1, 'view', '{"device": "mobile"}', '2026-03-10 10:00:00+00', '2026-03-10 10:00:02+00'),
	(2, NULL, NULL, 'anonymous', NULL, '2026-03-10', '2026-03-10'),
	(NULL, 2, 1, 'numbered', '{}', '2026-03-10', '2026-03-10');
SELECT ingest();
SELECT event_id IS NOT NULL AS has_id, user_id, org_id, event_type, event_props, event_time, received_at, event_date, device_type
FROM prod_analytics.events ORDER BY event_type;
-- Again: the numbered ones are duplicates now.
INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, event_time, received_at) VALUES
	(1, 1, 1, 'view', '2026-03-10 10:00:00+00', '2026-03-10 10:00:01+00'),
	(2, NULL, NULL, 'anonymous', '2026-03-10', '2026-03-10');
SELECT ingest();
SELECT * FROM whereabouts;

-- A row without a number is an event of its own, also when the sequence comes upon numbers in use.
BEGIN;
SELECT setval('prod_analytics.events_event_id_seq', 501, false);
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at)
SELECT n, 'explicit', '2026-03-12', '2026-03-12' FROM generate_series(501, 600) n;
INSERT INTO prod_analytics.staging_events (event_type, event_time, received_at)
SELECT 'without a number', '2026-03-12', '2026-03-12' FROM generate_series(1, 150) n;
SELECT ingest();
SELECT event_type, count(*), count(DISTINCT event_id) FROM prod_analytics.events WHERE event_time = '2026-03-12' GROUP BY 1 ORDER BY 1;
ROLLBACK;

-- Rows that cannot go in are set aside with every reason.
INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, payload, event_time, received_at) VALUES
	(10, 999, 'unknown user', '{}', '2026-03-10', '2026-03-10'),
	(11, 1, NULL, '{}', '2026-03-10', '2026-03-10'),
	(12, 1, '', '{}', '2026-03-10', '2026-03-10'),
	(13, 1, 'no time', '{}', NULL, '2026-03-10'),
	(14, 1, 'array', '[1]', '2026-03-10', '2026-03-10'),
	(15, 1, 'json null', 'null', '2026-03-10', '2026-03-10'),
	(16, 1, 'infinity', '{}', 'infinity', '2026-03-10'),
	(17, 1, 'minus infinity', '{}', '-infinity', '2026-03-10'),
	(18, 1, 'before Christ', '{}', '4714-11-24 00:00:00+00 BC', '2026-03-10'),
	(19, 1, 'the end', '{}', '294276-12-31 23:59:59.999999+00', '2026-03-10'),
	(20, 1, 'too old', '{}', '2006-03-09 23:59:59.999999+00', '2026-03-10'),
	(21, 1, 'too new', '{}', '2026-03-11 00:00:00.000001+00', '2026-03-10'),
	(22, 1, 'arrived in the year 4714 before Christ', '{}', '2026-03-10', '4714-11-24 00:00:00+00 BC'),
	(23, 1, 'arrived at the beginning of time', '{}', '2026-03-10', '-infinity'),
	(NULL, NULL, NULL, '"everything"', NULL, '2026-03-10');
INSERT INTO prod_analytics.staging_events DEFAULT VALUES;
SELECT ingest();
SELECT q.event_id, r.reason->>'code' AS code, r.reason->>'path' AS path, r.reason->>'message' AS message
FROM prod_analytics.quarantined_events q, jsonb_array_elements(q.reasons) WITH ORDINALITY r (reason, n)
ORDER BY q.quarantine_id, r.n;
SELECT count(*) FROM prod_analytics.quarantined_events q JOIN prod_analytics.etl_jobs j USING (job_id)
WHERE j.job_name = 'ingest_events';
SELECT * FROM whereabouts;
DELETE FROM prod_analytics.quarantined_events;

-- At the edges of the window, and an arrival in the future, which counts as now.
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES
	(30, 'oldest', '2006-03-10', '2026-03-10'),
	(31, 'newest', '2026-03-11', '2026-03-10'),
	(32, 'arrival in the future', now(), 'infinity'),
	(33, 'too far ahead of now', now() + interval '2 days', 'infinity'),
	(34, 'no arrival', now(), NULL);
SELECT ingest() - 'partitions_created';
SELECT event_id, reasons->0->>'code' AS code FROM prod_analytics.quarantined_events;
SELECT tableoid::regclass, event_id FROM prod_analytics.events WHERE event_id IN (30, 31) ORDER BY 2;
SELECT received_at IS NOT NULL AS arrival_filled_in FROM prod_analytics.events WHERE event_id = 34;
DELETE FROM prod_analytics.quarantined_events;

-- So does the retention of events: what would be dropped at once does not go in.
BEGIN;
UPDATE prod_analytics.partition_policies SET retention = '1 month';
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES
	(36, 'expired', now() - interval '2 months', now()), (37, 'fresh', now() - interval '1 hour', now());
SELECT ingest() - 'partitions_created';
SELECT event_id, reasons->0->>'code' AS code FROM prod_analytics.quarantined_events;
ROLLBACK;

-- The settings decide the window.
SET prod_analytics.max_event_age = '1 hour';
SET prod_analytics.max_event_lead = '0';
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES
	(40, 'in', '2026-03-10 11:00:00+00', '2026-03-10 12:00:00+00'),
	(41, 'out', '2026-03-10 10:59:59+00', '2026-03-10 12:00:00+00'),
	(42, 'out', '2026-03-10 12:00:01+00', '2026-03-10 12:00:00+00');
SET TimeZone = 'America/New_York';
SET DateStyle = 'German';
SELECT ingest();
SELECT event_id, reasons->0->>'message' AS message FROM prod_analytics.quarantined_events ORDER BY event_id;
RESET prod_analytics.max_event_age;
RESET prod_analytics.max_event_lead;
SET DateStyle = 'ISO';
SET TimeZone = 'UTC';
DELETE FROM prod_analytics.quarantined_events;

-- Late events get their partitions, none lands in the default one, and a bad one makes none.
INSERT INTO prod_analytics.staging_events (event_type, user_id, event_time, received_at)
SELECT 'late', 1, timestamptz '2020-01-15' + n * interval '1 month', '2026-03-10' FROM generate_series(0, 23) n;
INSERT INTO prod_analytics.staging_events (event_type, user_id, event_time, received_at) VALUES ('late', 999, '2010-01-01', '2026-03-10');
SELECT ingest();
SELECT to_regclass('prod_analytics.events_p20100101');
SELECT * FROM whereabouts;
DELETE FROM prod_analytics.quarantined_events;

-- More partitions than a transaction may make: the rest waits for the next run.
INSERT INTO prod_analytics.staging_events (event_type, event_time, received_at)
SELECT 'scattered', timestamptz '2007-01-15' + n * interval '1 month', '2026-03-10' FROM generate_series(0, 119) n;
SELECT ingest();
SELECT ingest();
SELECT ingest();
SELECT * FROM whereabouts;

-- batch_size is a limit.
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at)
SELECT n, 'limit', '2026-03-10', '2026-03-10' FROM generate_series(1001, 1025) n;
SELECT ingest(10);
SELECT ingest(10);
SELECT ingest(10);
SELECT ingest(1);

-- error: batch_size
SELECT prod_analytics.etl_ingest_events(0);
SELECT prod_analytics.etl_ingest_events(-1);
SELECT prod_analytics.etl_ingest_events(NULL);
-- error: read-only
BEGIN READ ONLY;
SELECT prod_analytics.etl_ingest_events();
ROLLBACK;

-- A row that the table refuses does not hold up the others: it is found and set aside.
ALTER TABLE prod_analytics.events ADD CONSTRAINT no_nonsense CHECK (event_type <> 'nonsense');
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at)
SELECT n, CASE WHEN n IN (2001, 2050, 2099) THEN 'nonsense' ELSE 'sense' END,
	CASE WHEN n = 2099 THEN timestamptz '2022-06-01' ELSE '2026-03-10' END, '2026-03-10'
FROM generate_series(2001, 2100) n;
SELECT ingest();
SELECT event_id, reasons FROM prod_analytics.quarantined_events ORDER BY event_id;
SELECT count(*) FROM prod_analytics.events WHERE event_id BETWEEN 2001 AND 2100;
ALTER TABLE prod_analytics.events DROP CONSTRAINT no_nonsense;
DELETE FROM prod_analytics.quarantined_events;

-- So many of them that finding each must not read all others.
BEGIN;
ALTER TABLE prod_analytics.events ADD CONSTRAINT no_nonsense CHECK (event_type <> 'nonsense') NOT VALID;
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at)
SELECT 200000 + n, CASE WHEN n % 10 < 9 THEN 'nonsense' ELSE 'sense' END, '2026-03-10', '2026-03-10' FROM generate_series(1, 2000) n;
SELECT ingest();
SELECT count(*), count(DISTINCT event_id) FROM prod_analytics.quarantined_events WHERE event_type = 'nonsense';
ROLLBACK;

-- A failure that is not about a row rolls the work back, and is logged all the same.
CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM no_such_function(); RETURN NEW; END $$;
CREATE TRIGGER broken BEFORE INSERT ON prod_analytics.events FOR EACH ROW EXECUTE FUNCTION broken();
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES
	(3001, 'fine', '2026-03-10', '2026-03-10'), (3002, NULL, '2026-03-10', '2026-03-10');
\set VERBOSITY terse
SELECT ingest() - 'context';
\set VERBOSITY default
SELECT * FROM whereabouts;
SELECT status, rows_processed, finished_at >= started_at AS has_duration, details->>'sqlstate' AS sqlstate,
	details->>'context' LIKE '%broken()%' AS has_context
FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;
DROP TRIGGER broken ON prod_analytics.events;
DROP FUNCTION broken();
-- The cause is mended: the same rows go through.
SELECT ingest();
SELECT * FROM whereabouts;

-- Deadlock and serialization failures, and a cancel, are not swallowed.
CREATE FUNCTION conflicting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '40001'; END $$;
CREATE TRIGGER conflicting BEFORE INSERT ON prod_analytics.events FOR EACH ROW EXECUTE FUNCTION conflicting();
INSERT INTO prod_analytics.staging_events (event_type, event_time, received_at) VALUES ('x', '2026-03-10', '2026-03-10');
\set VERBOSITY sqlstate
SELECT ingest();
CREATE OR REPLACE FUNCTION conflicting() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
SET statement_timeout = '2s';
SELECT ingest();
RESET statement_timeout;
\set VERBOSITY default
DROP TRIGGER conflicting ON prod_analytics.events;
DROP FUNCTION conflicting();
SELECT * FROM whereabouts;

-- Inside a transaction a run is undone with it, log and all; in a savepoint too.
BEGIN;
SELECT count(*) AS runs FROM prod_analytics.etl_jobs \gset
SAVEPOINT s;
SELECT ingest();
ROLLBACK TO s;
SELECT * FROM whereabouts;
SELECT count(*) = :runs AS log_as_before FROM prod_analytics.etl_jobs;
COMMIT;
SELECT ingest();

-- The log: every run has a start, an end, a status and a number that is the result's.
SELECT DISTINCT job_name, status, finished_at >= started_at AS in_order FROM prod_analytics.etl_jobs ORDER BY 1, 2;
SELECT prod_analytics.etl_ingest_events() AS result \gset
SELECT r.result->'duration_seconds' = to_jsonb(extract(epoch FROM j.finished_at - j.started_at)) AS true_duration,
	j.finished_at > j.started_at AS not_zero
FROM (SELECT :'result'::jsonb AS result) r
JOIN prod_analytics.etl_jobs j ON j.job_id = (r.result->>'job_id')::bigint;

-- Without a policy the default partition takes what has no other.
BEGIN;
DELETE FROM prod_analytics.partition_policies;
DROP TABLE prod_analytics.events_p20090101;
INSERT INTO prod_analytics.staging_events (event_type, event_time, received_at) VALUES ('unmanaged', '2009-01-10', '2026-03-10');
SELECT ingest();
SELECT tableoid::regclass FROM prod_analytics.events WHERE event_type = 'unmanaged';
ROLLBACK;

-- What does not satisfy the schema of its type is set aside, with every place, or only counted, as the mode says.
DELETE FROM prod_analytics.quarantined_events;
INSERT INTO prod_analytics.staging_events (event_id, event_type, payload, event_time, received_at) VALUES
	(400001, 'purchase', '{"order_id": 1, "price": 2}', '2026-03-20', '2026-03-20'),
	(400002, 'purchase', '{"price": "free"}', '2026-03-20', '2026-03-20'),
	(400003, 'purchase', NULL, '2026-03-20', '2026-03-20');
SELECT ingest();
SELECT event_id, r.reason FROM prod_analytics.quarantined_events, jsonb_array_elements(reasons) WITH ORDINALITY r (reason, n) ORDER BY event_id, n;
DELETE FROM prod_analytics.quarantined_events;
BEGIN;
SELECT prod_analytics.register_event_schema('purchase', schema, 'warn') FROM prod_analytics.event_schemas;
INSERT INTO prod_analytics.staging_events (event_id, event_type, payload, event_time, received_at) VALUES
	(400002, 'purchase', '{"price": "free"}', '2026-03-20', '2026-03-20');
SELECT ingest();
SELECT prod_analytics.register_event_schema('purchase', schema, 'off') FROM prod_analytics.event_schemas WHERE version = 1;
INSERT INTO prod_analytics.staging_events (event_id, event_type, payload, event_time, received_at) VALUES
	(400003, 'purchase', NULL, '2026-03-20', '2026-03-20');
SELECT ingest();
ROLLBACK;
-- error: a schema that is none fails the run, and nothing is lost
BEGIN;
ALTER TABLE prod_analytics.event_schemas DISABLE TRIGGER event_schemas_changed;
INSERT INTO prod_analytics.event_schemas (event_type, version, schema) VALUES ('broken', 1, '{"type": "strin"}');
ALTER TABLE prod_analytics.event_schemas ENABLE ALWAYS TRIGGER event_schemas_changed;
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES (400004, 'broken', '2026-03-20', '2026-03-20');
SELECT ingest() - 'hint';
SELECT count(*) FROM prod_analytics.staging_events;
ROLLBACK;

-- An organization that is not there; none is fine.
INSERT INTO prod_analytics.staging_events (event_id, org_id, event_type, event_time, received_at) VALUES
	(400010, 1, 'x', '2026-03-20', '2026-03-20'), (400011, NULL, 'x', '2026-03-20', '2026-03-20'), (400012, 77, 'x', '2026-03-20', '2026-03-20');
SELECT ingest();
SELECT event_id, reasons FROM prod_analytics.quarantined_events;
DELETE FROM prod_analytics.quarantined_events;

-- The same number at another time: within the window a contradiction, beyond it another event; the first staged counts.
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES
	(500001, 'first', '2026-03-20', '2026-03-28'),
	(500001, 'same', '2026-03-20', '2026-03-28'),
	(500001, 'a second later', '2026-03-20 00:00:01+00', '2026-03-28'),
	(500001, 'at the edge', '2026-03-27', '2026-03-28'),
	(500001, 'beyond it', '2026-03-27 00:00:00.000001+00', '2026-03-28'),
	(500001, 'in another partition', '2026-02-25', '2026-03-28'),
	(500001, 'before it, in the window', '2026-02-24', '2026-03-28');
SELECT ingest();
SELECT event_type, reasons FROM prod_analytics.quarantined_events ORDER BY quarantine_id;
SELECT event_type FROM prod_analytics.events WHERE event_id = 500001 ORDER BY event_time;
DELETE FROM prod_analytics.quarantined_events;
-- Against what is stored, in another partition, in the default one, and in one that is made for it.
INSERT INTO prod_analytics.events (event_id, event_type, event_time) VALUES (500002, 'stored', '2026-03-31'), (500003, 'by default', '1995-01-01'), (500004, 'old', '1995-02-27');
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES
	(500002, 'over the border', '2026-04-02', '2026-04-02'), (500002, 'same', '2026-03-31', '2026-04-02'),
	(500003, 'near the one by default', '1995-01-02', '1995-01-02'), (500003, 'same', '1995-01-01', '1995-01-02'),
	(500004, 'near the old one', '1995-03-01', '1995-03-02'), (500004, 'near the old one too', '1995-03-02', '1995-03-02'), (500004, 'later', '1995-03-20', '1995-03-20');
SELECT ingest();
SELECT event_type, reasons->0->>'code' AS code FROM prod_analytics.quarantined_events ORDER BY event_type;
DELETE FROM prod_analytics.quarantined_events;
SET prod_analytics.dedupe_window = '0';
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES
	(500002, 'over the border', '2026-04-02', '2026-04-02'), (500002, 'same', '2026-03-31', '2026-04-02');
SELECT ingest();
RESET prod_analytics.dedupe_window;

-- Triggers of the user fire, by row and by statement; other foreign keys are checked, one to users as ever.
CREATE TABLE seen (what text, n bigint);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
	IF TG_LEVEL = 'ROW' THEN
		INSERT INTO seen VALUES (TG_WHEN || ' row', NEW.event_id);
		RETURN NEW;
	END IF;
	INSERT INTO seen SELECT 'statement', count(*) FROM added;
	RETURN NULL;
END $$;
CREATE TRIGGER see_row BEFORE INSERT ON prod_analytics.events FOR EACH ROW EXECUTE FUNCTION see();
CREATE TRIGGER see_row_after AFTER INSERT ON prod_analytics.events FOR EACH ROW EXECUTE FUNCTION see();
INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, event_time, received_at) VALUES
	(600001, 1, 'x', '2026-03-20', '2026-03-20'), (600002, 2, 'x', '2026-04-20', '2026-04-20');
SELECT ingest() - 'partitions_created';
CREATE TRIGGER see_statement AFTER INSERT ON prod_analytics.events REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION see();
INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, event_time, received_at) VALUES
	(600003, 1, 'x', '2026-03-20', '2026-03-20'), (600004, 2, 'x', '2026-04-20', '2026-04-20');
SELECT ingest();
SELECT * FROM seen ORDER BY n, what;
DROP TRIGGER see_statement ON prod_analytics.events;
DROP TRIGGER see_row ON prod_analytics.events;
DROP TRIGGER see_row_after ON prod_analytics.events;
DROP FUNCTION see();
DROP TABLE seen;
BEGIN;
CREATE TABLE devices (device_type text PRIMARY KEY);
INSERT INTO devices SELECT DISTINCT device_type FROM prod_analytics.events WHERE device_type IS NOT NULL UNION SELECT 'ios';
ALTER TABLE prod_analytics.events ADD FOREIGN KEY (device_type) REFERENCES devices;
INSERT INTO prod_analytics.staging_events (event_id, event_type, payload, event_time, received_at) VALUES
	(700001, 'x', '{"device": "ios"}', '2026-03-20', '2026-03-20'), (700002, 'x', '{"device": "toaster"}', '2026-03-20', '2026-03-20');
SELECT ingest();
SELECT event_id, reasons->0->>'code' AS code, reasons->0->>'sqlstate' AS sqlstate FROM prod_analytics.quarantined_events;
ROLLBACK;
-- A trigger that makes an event another user's cannot get past the key.
BEGIN;
CREATE FUNCTION disguise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.user_id := NEW.user_id + 900; RETURN NEW; END $$;
CREATE TRIGGER disguise BEFORE INSERT ON prod_analytics.events FOR EACH ROW EXECUTE FUNCTION disguise();
INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, event_time, received_at) VALUES (700003, 1, 'x', '2026-03-20', '2026-03-20');
SELECT ingest();
ROLLBACK;
-- error: the key to users is still checked for whoever else inserts
INSERT INTO prod_analytics.events (event_id, user_id, event_type, event_time) VALUES (800001, 999, 'x', '2026-03-20');
-- error: without its primary key events cannot be looked up
BEGIN;
ALTER TABLE prod_analytics.events DROP CONSTRAINT events_pkey;
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES (800002, 'x', '2026-03-20', '2026-03-20');
SELECT ingest() - 'context';
ROLLBACK;

-- Rules of the user on events are obeyed.
BEGIN;
CREATE TABLE added (event_id bigint);
CREATE RULE also AS ON INSERT TO prod_analytics.events DO ALSO INSERT INTO public.added VALUES (NEW.event_id);
CREATE RULE tell AS ON INSERT TO prod_analytics.events DO ALSO NOTIFY new_events;
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES (810001, 'x', '2026-03-20', '2026-03-20');
SELECT ingest();
SELECT * FROM added;
CREATE RULE nothing AS ON INSERT TO prod_analytics.events DO INSTEAD NOTHING;
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES (810002, 'x', '2026-03-20', '2026-03-20');
SELECT ingest();
ROLLBACK;
-- Those of a partition, and its statement triggers, are not, as for anybody who inserts into events.
BEGIN;
CREATE RULE nothing AS ON INSERT TO prod_analytics.events_p20260301 DO INSTEAD NOTHING;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON prod_analytics.events_p20260401 FOR EACH STATEMENT EXECUTE FUNCTION refuse();
ALTER TABLE prod_analytics.events_p20260501 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at)
SELECT 810002 + n, 'x', timestamptz '2026-03-20' + n * interval '1 month', '2026-05-20' FROM generate_series(0, 2) n;
SELECT ingest();
ROLLBACK;
-- Partitions that are partitioned themselves, or have other columns in another order.
BEGIN;
CREATE TABLE odd (filler text, device_type text, event_date date GENERATED ALWAYS AS ((event_time AT TIME ZONE 'UTC')::date) STORED,
	received_at timestamptz, gone integer, event_time timestamptz NOT NULL, event_props jsonb, event_type text NOT NULL, org_id bigint,
	user_id bigint, event_id bigint NOT NULL);
ALTER TABLE odd DROP COLUMN filler, DROP COLUMN gone;
ALTER TABLE prod_analytics.events ATTACH PARTITION odd FOR VALUES FROM ('2000-01-01 00:00:00+00') TO ('2000-02-01 00:00:00+00');
CREATE TABLE nested PARTITION OF prod_analytics.events FOR VALUES FROM ('2000-02-01 00:00:00+00') TO ('2000-03-01 00:00:00+00') PARTITION BY RANGE (event_time);
CREATE TABLE nested_one PARTITION OF nested FOR VALUES FROM ('2000-02-01 00:00:00+00') TO ('2000-02-15 00:00:00+00');
ALTER TABLE prod_analytics.events ADD extra text DEFAULT 'added';
ALTER TABLE prod_analytics.staging_events ADD extra text, ADD more integer DEFAULT 1;
INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, payload, event_time, received_at) VALUES
	(810010, 1, 'odd', '{"device": "odd"}', '2000-01-10', '2000-02-20'), (810010, 1, 'odd', '{"device": "odd"}', '2000-01-10', '2000-02-20'),
	(810010, 1, 'odd', '{"device": "odd"}', '2000-01-11', '2000-02-20'),
	(810011, 1, 'nested', '{}', '2000-02-10', '2000-02-20'), (810012, 1, 'no partition within', '{}', '2000-02-20', '2000-02-20');
SELECT ingest();
INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, payload, event_time, received_at) VALUES
	(810010, 1, 'odd', '{}', '2000-01-10', '2000-02-20'), (810011, 1, 'nested', '{}', '2000-02-10', '2000-02-20'), (810011, 1, 'nested', '{}', '2000-02-09', '2000-02-20');
SELECT ingest();
SELECT tableoid::regclass, event_id, user_id, event_type, device_type, event_date, extra FROM prod_analytics.events WHERE event_id BETWEEN 810010 AND 810012 ORDER BY 2;
SELECT event_id, reasons->0->>'code' AS code, reasons->0->>'sqlstate' AS sqlstate FROM prod_analytics.quarantined_events ORDER BY quarantine_id;
ROLLBACK;
\set VERBOSITY terse
-- error: a rule on staging, columns of another type, events that are partitioned otherwise or not at all
BEGIN;
CREATE RULE nothing AS ON DELETE TO prod_analytics.staging_events DO ALSO NOTIFY deleted;
SELECT ingest() - 'context';
DROP RULE nothing ON prod_analytics.staging_events;
ALTER TABLE prod_analytics.staging_events ALTER event_id TYPE numeric;
INSERT INTO prod_analytics.staging_events (event_id) VALUES (1);
SELECT ingest() - 'context';
ROLLBACK;
BEGIN;
DELETE FROM prod_analytics.partition_policies;
ALTER TABLE prod_analytics.events RENAME TO old_events;
CREATE TABLE prod_analytics.events (LIKE prod_analytics.old_events);
SELECT ingest() - 'context';
DROP TABLE prod_analytics.events;
CREATE TABLE prod_analytics.events (LIKE prod_analytics.old_events) PARTITION BY LIST (event_type);
SELECT ingest() - 'context';
ROLLBACK;
-- A failure while rows are quarantined leaves them staged.
BEGIN;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON prod_analytics.quarantined_events FOR EACH ROW EXECUTE FUNCTION refuse();
INSERT INTO prod_analytics.staging_events (event_id, event_time, received_at) VALUES (810020, '2026-03-20', '2026-03-20');
SELECT ingest() - 'context';
SELECT count(*) FROM prod_analytics.staging_events;
ROLLBACK;
\set VERBOSITY default
-- Triggers on staging: a row that one keeps there stays, a statement trigger sees what was taken.
BEGIN;
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_LEVEL = 'ROW' THEN RETURN CASE WHEN OLD.event_type <> 'keep' THEN OLD END; END IF;
	-- A run deletes in one or two statements.
	IF EXISTS (SELECT FROM taken) THEN
		RAISE NOTICE 'taken: %', (SELECT string_agg(event_type, ', ' ORDER BY event_id) FROM taken);
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER keep BEFORE DELETE ON prod_analytics.staging_events FOR EACH ROW EXECUTE FUNCTION keep();
CREATE TRIGGER taken AFTER DELETE ON prod_analytics.staging_events REFERENCING OLD TABLE AS taken FOR EACH STATEMENT EXECUTE FUNCTION keep();
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES
	(810030, 'go', '2026-03-20', '2026-03-20'), (810031, 'keep', '2026-03-20', '2026-03-20'), (810032, 'go too', '2026-03-20', '2026-03-20');
SELECT ingest();
SELECT event_type FROM prod_analytics.staging_events;
ROLLBACK;
\set VERBOSITY terse
-- In a block that reads events itself; and in a trigger on events, where what needs a new partition has to wait.
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES
	(810040, 'x', '2026-03-20', '2026-03-20'), (810041, 'x', '2001-03-20', '2001-03-20');
DO $$
DECLARE
	e record;
BEGIN
	FOR e IN SELECT * FROM prod_analytics.events LOOP
		RAISE NOTICE '%', (SELECT ingest() - 'warned');
		EXIT;
	END LOOP;
END $$;
CREATE FUNCTION ring() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', (SELECT public.ingest() - 'warned'); RETURN NULL; END $$;
CREATE TRIGGER ring AFTER INSERT ON prod_analytics.events FOR EACH ROW WHEN (NEW.event_type = 'ring') EXECUTE FUNCTION ring();
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at) VALUES
	(810042, 'x', '2026-03-20', '2026-03-20'), (810043, 'x', '2001-07-20', '2001-07-20');
INSERT INTO prod_analytics.events (event_id, event_type, event_time) VALUES (810044, 'ring', '2026-03-20');
DROP TRIGGER ring ON prod_analytics.events;
DROP FUNCTION ring();
\set VERBOSITY default
SELECT ingest();
-- At any isolation level, without triggers, with the limit at its highest.
BEGIN ISOLATION LEVEL SERIALIZABLE;
SET LOCAL session_replication_role = replica;
INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, event_time, received_at) VALUES
	(810050, 1, 'x', '2026-03-20', '2026-03-20'), (810050, 1, 'x', '2026-03-20', '2026-03-20'), (810051, 999, 'x', '2026-03-20', '2026-03-20'), (810052, 1, 'x', '2001-05-20', '2001-05-20');
SELECT ingest(2147483647);
INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, event_time, received_at) VALUES (810050, 1, 'x', '2026-03-20', '2026-03-20');
SELECT ingest(2147483647);
ROLLBACK;
-- One number for everything, and no window: looking it up must not read all events that have it.
BEGIN;
SET LOCAL prod_analytics.dedupe_window = '0';
INSERT INTO prod_analytics.staging_events (event_id, event_type, event_time, received_at)
SELECT 0, 'zero', timestamptz '2026-03-01' + n * interval '1 second', '2026-04-01' FROM generate_series(1, 150000) n;
SET LOCAL statement_timeout = '15min';
SELECT ingest(1000000);
ROLLBACK;

-- A large batch.
INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, payload, event_time, received_at)
SELECT 100000 + n % 40000, 1 + n % 101, 'bulk', jsonb_build_object('n', n), timestamptz '2026-03-01' + (n % 40000) * interval '1 minute', '2026-03-28'
FROM generate_series(1, 50000) n;
SET work_mem = '64kB';
SELECT ingest(1000000);
RESET work_mem;
SELECT count(*) FROM prod_analytics.events WHERE event_type = 'bulk';

DROP VIEW whereabouts;
DROP FUNCTION ingest(integer);
