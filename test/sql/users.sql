-- etl_upsert_users(): staged users become users or are set aside; erase_user(): nothing of a person is left.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme'), (2, 'Globex'), (3, 'Acme'), (4, 'Zürich "AG"');
CREATE FUNCTION upsert(batch_size integer DEFAULT 10000) RETURNS jsonb LANGUAGE sql AS
	$$ SELECT prod_analytics.etl_upsert_users(batch_size) - '{job_id,duration_seconds}'::text[] $$;
CREATE VIEW people AS SELECT org_id, email, username, attrs, last_login, email_domain FROM prod_analytics.users ORDER BY email;

-- Nothing staged.
SELECT upsert();
-- New ones: of organizations with one name the lowest number counts; last_login comes from the attributes.
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, payload, ingested_at) VALUES
	('a', 'ann@example.com', 'ann', 'Acme', '{"plan": "pro", "last_login": "2026-03-01 10:00:00+01"}', '2026-03-01'),
	('b', 'bob@example.com', NULL, 'Globex', NULL, '2026-03-01'),
	('c', 'jörg@münchen.example', 'Jörg', 'Zürich "AG"', '{}', NULL);
SELECT upsert();
SELECT * FROM people;
-- Known ones, in any case: attributes are merged, the organization stays, a last_login stays without another.
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, payload, ingested_at) VALUES
	('a', 'ANN@Example.com', 'Ann', 'Globex', '{"plan": "free", "lang": "de"}', '2026-03-02'),
	('b', 'bob@example.com', 'bob', 'Globex', '{"last_login": "2026-03-02"}', '2026-03-02');
SELECT upsert();
SELECT * FROM people;
-- A user whose attributes somebody made NULL.
UPDATE prod_analytics.users SET attrs = NULL WHERE username = 'bob';
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, payload) VALUES ('b', 'bob@example.com', 'bob', 'Globex', '{"x": 1}');
SELECT upsert();
SELECT attrs FROM people WHERE username = 'bob';
-- Of rows with one address the last to come counts; one that cannot go in does not count at all.
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, payload, ingested_at) VALUES
	('1', 'eve@example.com', 'first', 'Acme', '{"n": 1, "only": "first"}', '2026-03-01'),
	('2', 'EVE@example.com', 'last', 'Acme', '{"n": 3}', '2026-03-03'),
	('3', 'eve@example.com', 'second', 'Acme', '{"n": 2}', '2026-03-02'),
	('4', 'eve@example.com', 'wrong', 'Nowhere', '{"n": 4}', '2026-03-04');
SELECT upsert();
SELECT username, attrs FROM people WHERE email = 'eve@example.com';
SELECT src_id, reasons FROM prod_analytics.quarantined_users;
DELETE FROM prod_analytics.quarantined_users;

-- Rows that cannot go in, with every reason; an unknown organization also of a known user.
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, payload) VALUES
	('01', NULL, 'no address', 'Acme', '{}'), ('02', '', 'empty address', 'Acme', '{}'), ('03', 'nobody', 'no at', 'Acme', '{}'),
	('04', 'a b@example.com', 'space', 'Acme', '{}'), ('05', 'a@b@example.com', 'two ats', 'Acme', '{}'), ('06', 'a@example..com', 'empty label', 'Acme', '{}'),
	('07', '@example.com', 'nobody', 'Acme', '{}'), ('08', 'a@', 'nowhere', 'Acme', '{}'), ('09', repeat('x', 250) || '@example.com', 'long', 'Acme', '{}'),
	('10', 'ann@example.com', 'moved', 'Unknown', '{}'), ('11', 'new@example.com', 'no organization', NULL, '{}'),
	('12', 'array@example.com', 'array', 'Acme', '[1]'), ('13', 'null@example.com', 'null', 'Acme', 'null'),
	('14', 'late@example.com', 'malformed', 'Acme', '{"last_login": "yesterday-ish"}'), ('15', 'inf@example.com', 'infinite', 'Acme', '{"last_login": "infinity"}'),
	('16', 'num@example.com', 'number', 'Acme', '{"last_login": 17000000000000}'), ('17', 'nul@example.com', 'no login', 'Acme', '{"last_login": null}'),
	('18', E'"x\'y', 'everything', 'Nirgends 😀', '{"last_login": "2026-02-30"}');
SELECT upsert();
SELECT q.src_id, r.reason->>'code' AS code, r.reason->>'path' AS path, r.reason->>'message' AS message
FROM prod_analytics.quarantined_users q, jsonb_array_elements(q.reasons) WITH ORDINALITY r (reason, n) ORDER BY q.src_id, r.n;
SELECT count(*) FROM prod_analytics.quarantined_users q JOIN prod_analytics.etl_jobs j USING (job_id) WHERE j.job_name = 'upsert_users';
SELECT username FROM people WHERE email::text ~ '^(ann|nul)@';
SELECT count(*) AS staged FROM prod_analytics.staging_users;
DELETE FROM prod_analytics.quarantined_users;

-- batch_size is a limit, and the first to come go first.
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, ingested_at)
SELECT n, format('batch%s@example.com', n % 7), n, 'Acme', timestamptz '2026-03-31' - n * interval '1 day' FROM generate_series(1, 25) n;
SELECT upsert(10);
SELECT min(ingested_at), count(*) FROM prod_analytics.staging_users;
SELECT upsert(10);
SELECT upsert(10);
SELECT string_agg(username, ' ' ORDER BY email) FROM people WHERE email::text ~ '^batch';

-- A row that users refuses does not hold up the others.
ALTER TABLE prod_analytics.users ADD CONSTRAINT no_root CHECK (username <> 'root');
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src)
SELECT n, format('check%s@example.com', n), CASE WHEN n = 13 THEN 'root' ELSE 'user' END, 'Acme' FROM generate_series(1, 20) n;
SELECT upsert();
SELECT src_id, reasons FROM prod_analytics.quarantined_users;
ALTER TABLE prod_analytics.users DROP CONSTRAINT no_root;
-- A failure that is not about a row leaves all staged, and is logged.
CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM no_such_function(); RETURN NEW; END $$;
CREATE TRIGGER broken BEFORE INSERT ON prod_analytics.users FOR EACH ROW EXECUTE FUNCTION broken();
INSERT INTO prod_analytics.staging_users (src_id, email, org_src) VALUES ('x', 'x@example.com', 'Acme');
\set VERBOSITY terse
SELECT upsert() - 'context';
\set VERBOSITY default
DROP TRIGGER broken ON prod_analytics.users;
DROP FUNCTION broken();
SELECT upsert();
-- error: batch_size; read-only
SELECT prod_analytics.etl_upsert_users(0);
SELECT prod_analytics.etl_upsert_users(NULL);
BEGIN READ ONLY;
SELECT prod_analytics.etl_upsert_users();
ROLLBACK;

-- A person asks to be forgotten.
INSERT INTO prod_analytics.users (user_id, org_id, email) VALUES (4711, 1, 'forget@example.com');
INSERT INTO prod_analytics.events (event_id, user_id, org_id, event_type, event_props, event_time)
SELECT n, 4711, 1, 'purchase', '{"price": 1}', timestamptz '2026-02-10' + n * interval '1 week' FROM generate_series(1, 10) n;
INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type) VALUES (50, 4711, 'x'), (51, NULL, 'x');
INSERT INTO prod_analytics.quarantined_events (event_id, user_id, reasons) VALUES
	(60, 4711, '[{"code": "unknown_user", "path": "/user_id", "message": "user_id 4711 is not in users"}, {"code": "missing_field", "path": "/event_type", "message": "event_type is missing"}]'), (61, 4711, '[]'),
	(62, 4711, '[{"code": "rejected", "path": "", "message": "4711 is not wanted", "sqlstate": "P0001"}]');
INSERT INTO prod_analytics.staging_users (src_id, email) VALUES ('f', 'Forget@example.com'), ('g', 'other@example.com');
INSERT INTO prod_analytics.quarantined_users (src_id, email, reasons) VALUES ('f', 'FORGET@example.com', '[]'), ('f', E' forget@example.com\r', '[]');
REFRESH MATERIALIZED VIEW prod_analytics.mv_org_daily_metrics;
SELECT sum(dau) AS dau, sum(purchases) AS purchases, sum(revenue) AS revenue FROM prod_analytics.mv_org_daily_metrics;
SELECT prod_analytics.erase_user(4711) - '{job_id,duration_seconds}'::text[];
SELECT (SELECT count(*) FROM prod_analytics.events WHERE user_id = 4711) AS events, (SELECT count(*) FROM prod_analytics.staging_events WHERE user_id = 4711) AS staged,
	(SELECT count(*) FROM prod_analytics.quarantined_events q WHERE q::text LIKE '%4711%') AS quarantined,
	(SELECT count(*) FROM prod_analytics.users u WHERE u::text ILIKE '%forget@%') AS users,
	(SELECT count(*) FROM prod_analytics.staging_users u WHERE u::text ILIKE '%forget@%') AS staged_users,
	(SELECT count(*) FROM prod_analytics.quarantined_users u WHERE u::text ILIKE '%forget@%') AS quarantined_users,
	(SELECT count(*) FROM prod_analytics.etl_jobs j WHERE concat(j.job_name, j.details) LIKE '%4711%') AS logged;
REFRESH MATERIALIZED VIEW prod_analytics.mv_org_daily_metrics;
SELECT sum(dau) AS dau, sum(purchases) AS purchases, sum(revenue) AS revenue FROM prod_analytics.mv_org_daily_metrics;
SELECT count(*) AS others_stay FROM prod_analytics.staging_users;
-- Again: nobody is there any more, which must not look as if somebody had been forgotten now.
SELECT prod_analytics.erase_user(4711) - '{job_id,duration_seconds}'::text[];
-- A number that no user has, named by a quarantined event: a wrong number, or a person who was forgotten before.
INSERT INTO prod_analytics.quarantined_events (event_id, user_id, reasons) VALUES (70, 4711, '[]');
SELECT prod_analytics.erase_user(4711) - '{job_id,duration_seconds}'::text[];
SELECT status, details FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;
-- Somebody whom a table of the user's still needs: nothing has changed, and neither the log nor the message names him.
CREATE TABLE invoices (user_id bigint REFERENCES prod_analytics.users);
INSERT INTO prod_analytics.users (user_id, org_id, email) VALUES (4712, 1, 'needed@example.com');
INSERT INTO invoices VALUES (4712);
SELECT prod_analytics.erase_user(4712) - '{job_id,duration_seconds}'::text[];
SELECT count(*) AS still_there FROM prod_analytics.users WHERE user_id = 4712;
SELECT status, details FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;
DROP TABLE invoices;
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '% stays', OLD.email USING HINT = OLD.email; END $$;
CREATE TRIGGER keep BEFORE DELETE ON prod_analytics.users FOR EACH ROW EXECUTE FUNCTION keep();
SELECT prod_analytics.erase_user(4712) - '{job_id,duration_seconds}'::text[];
SELECT status, details FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;
CREATE OR REPLACE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
SELECT prod_analytics.erase_user(4712) - '{job_id,duration_seconds}'::text[];
DROP TRIGGER keep ON prod_analytics.users;
DROP FUNCTION keep();
-- error: nobody given
SELECT prod_analytics.erase_user(NULL);
DROP VIEW people;
DROP FUNCTION upsert(integer);
