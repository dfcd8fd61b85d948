-- What a soak adds to the store: who may do what, a ledger of all that was staged, tables and views of a user's own,
-- and the changes that its clients make to tables.

SET client_min_messages = warning;
CREATE EXTENSION prod_analytics CASCADE;
CREATE EXTENSION amcheck;
SELECT prod_analytics.ensure_partitions();

CREATE ROLE soak_loader LOGIN IN ROLE analytics_loader;
CREATE ROLE soak_operator LOGIN IN ROLE analytics_operator;
CREATE ROLE soak_reader LOGIN IN ROLE analytics_reader;

CREATE SCHEMA soak;

-- Each staged row has a marker of its own, in its payload.  It is noted here in the transaction that stages it.
CREATE TABLE soak.staged (marker text PRIMARY KEY, batch text NOT NULL, event_id bigint, event_time timestamptz, direct boolean NOT NULL DEFAULT false);
-- Batches whose COMMIT a client has seen, with the number of their rows: loaded from the clients' files at the end.
CREATE TABLE soak.acknowledged (batch text PRIMARY KEY, markers integer NOT NULL);
-- Events that were removed on purpose, and keys that events had before an UPDATE.
CREATE TABLE soak.removed (marker text PRIMARY KEY, event_id bigint, event_time timestamptz);
CREATE TABLE soak.former_key (event_id bigint, event_time timestamptz);
-- What redrive_events() returned.
CREATE TABLE soak.redriven (events bigint NOT NULL);
-- The same for users, whose marker is src_id.  An address that several rows have may lose rows as superseded.
CREATE TABLE soak.staged_users (marker text PRIMARY KEY, batch text NOT NULL, email text, shared boolean NOT NULL);
CREATE TABLE soak.erased (email text);
-- Partitions that are detached, and what it takes to attach them again.
CREATE TABLE soak.shelf (name text PRIMARY KEY, bounds text NOT NULL, lower timestamptz NOT NULL, upper timestamptz NOT NULL);

CREATE FUNCTION soak.marker(payload jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
	SELECT CASE jsonb_typeof(payload) WHEN 'object' THEN payload->>'marker' WHEN 'array' THEN payload->>0 ELSE payload#>>'{}' END $$;

INSERT INTO prod_analytics.organizations (org_name) SELECT 'Organization ' || n FROM generate_series(1, 20) n;
INSERT INTO prod_analytics.users (org_id, email) SELECT 1 + n % 20, 'user' || n || '@example.com' FROM generate_series(1, 2000) n;

CREATE TABLE soak.readings (
	reading_id bigserial, sensor integer NOT NULL, taken_at timestamptz NOT NULL, value numeric,
	day date GENERATED ALWAYS AS ((taken_at AT TIME ZONE 'UTC')::date) STORED,
	PRIMARY KEY (reading_id, taken_at)
) PARTITION BY RANGE (taken_at);
CREATE INDEX ON soak.readings (sensor, taken_at);
SELECT prod_analytics.manage_partitions('soak.readings', 'taken_at', width => '1 hour', ahead => 3, behind => 3, retention => '6 hours');
SELECT prod_analytics.ensure_partitions('soak.readings');

CREATE MATERIALIZED VIEW soak.hourly AS
	SELECT event_type, date_trunc('hour', event_time AT TIME ZONE 'UTC') AS hour, count(*) AS events, count(DISTINCT user_id) AS users,
		max(event_id) AS latest
	FROM prod_analytics.events GROUP BY 1, 2;
CREATE UNIQUE INDEX ON soak.hourly (event_type, hour);
CREATE MATERIALIZED VIEW soak.sensors AS
	SELECT sensor, day, count(*) AS readings, sum(value) AS value, now() AS computed_at FROM soak.readings GROUP BY sensor, day;
CREATE UNIQUE INDEX ON soak.sensors (sensor, day);
CREATE TABLE soak.sensors_archive (LIKE soak.sensors);
CREATE UNIQUE INDEX ON soak.sensors_archive (sensor, day);
CREATE MATERIALIZED VIEW soak.domains AS
	SELECT u.email_domain, count(*) AS users, (SELECT count(*) FROM prod_analytics.organizations) AS organizations
	FROM prod_analytics.users u JOIN prod_analytics.organizations o USING (org_id) GROUP BY 1;
CREATE UNIQUE INDEX ON soak.domains (email_domain);
CREATE MATERIALIZED VIEW soak.by_device AS
	SELECT org_id, device_type, count(*) AS events FROM prod_analytics.events GROUP BY 1, 2;
CREATE UNIQUE INDEX ON soak.by_device (org_id, device_type) NULLS NOT DISTINCT;

-- A leaf of events; none has bounds that are not finite but the default partition.
CREATE FUNCTION soak.a_partition(number integer, bounded boolean DEFAULT true) RETURNS regclass LANGUAGE sql STABLE AS $$
	SELECT (array_agg(p ORDER BY p::text))[1 + (number % count(*))::integer]
	FROM (SELECT t.relid::regclass AS p FROM pg_partition_tree('prod_analytics.events') t
		WHERE t.isleaf AND NOT (bounded AND t.relid = 'prod_analytics.events_default'::regclass)) p $$;

CREATE FUNCTION soak.remove_events(org bigint, upto timestamptz) RETURNS void LANGUAGE sql AS $$
	WITH gone AS (DELETE FROM prod_analytics.events WHERE org_id = org AND event_time BETWEEN upto - interval '3 hours' AND upto
		RETURNING event_props, event_id, event_time)
	INSERT INTO soak.removed SELECT soak.marker(event_props), event_id, event_time FROM gone $$;

CREATE FUNCTION soak.move_events(org bigint, upto timestamptz) RETURNS void LANGUAGE plpgsql AS $$
-- Across partitions, too.
BEGIN
	WITH chosen AS (
		SELECT event_id, event_time FROM prod_analytics.events WHERE org_id = org AND event_time BETWEEN upto - interval '3 hours' AND upto
		ORDER BY event_id, event_time FOR UPDATE
	), noted AS (INSERT INTO soak.former_key SELECT * FROM chosen)
	UPDATE prod_analytics.events e SET event_time = e.event_time - interval '20 days', org_id = 1 + e.org_id % 20
	FROM chosen c WHERE e.event_id = c.event_id AND e.event_time = c.event_time;
END $$;

CREATE FUNCTION soak.truncate_partition(number integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	partition regclass := soak.a_partition(number, false);
BEGIN
	EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', partition);
	EXECUTE format('INSERT INTO soak.removed SELECT soak.marker(event_props), event_id, event_time FROM %s', partition);
	EXECUTE format('TRUNCATE %s', partition);
END $$;

CREATE FUNCTION soak.detach(number integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	partition regclass := soak.a_partition(number);
	bounds text;
	times text[];
BEGIN
	LOCK TABLE prod_analytics.events;
	SELECT pg_get_expr(relpartbound, oid) INTO STRICT bounds FROM pg_class WHERE oid = partition AND relpartbound IS NOT NULL;
	times := regexp_match(bounds, $r$FROM \('(.*)'\) TO \('(.*)'\)$r$);
	EXECUTE format('ALTER TABLE prod_analytics.events DETACH PARTITION %s', partition);
	INSERT INTO soak.shelf VALUES (partition::text, bounds, times[1]::timestamptz, times[2]::timestamptz);
	RETURN partition::text;
END $$;

CREATE FUNCTION soak.attach() RETURNS boolean LANGUAGE plpgsql AS $$
-- What the default partition has got meanwhile moves first.
DECLARE
	place soak.shelf;
	columns text;
BEGIN
	DELETE FROM soak.shelf WHERE name = (SELECT name FROM soak.shelf ORDER BY name LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING * INTO place;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	LOCK TABLE prod_analytics.events;
	-- Columns that the parent has got or lost since.
	SELECT string_agg(quote_ident(attname), ', ') INTO STRICT columns FROM pg_attribute
	WHERE attrelid = 'prod_analytics.events'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
	PERFORM soak.same_columns(place.name);
	EXECUTE format('WITH moved AS (DELETE FROM prod_analytics.events_default WHERE event_time >= $1 AND event_time < $2 RETURNING *)
		INSERT INTO %s (%s) SELECT %2$s FROM moved', place.name, columns) USING place.lower, place.upper;
	EXECUTE format('ALTER TABLE prod_analytics.events ATTACH PARTITION %s %s', place.name, place.bounds);
	RETURN true;
END $$;

CREATE FUNCTION soak.same_columns(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	difference record;
BEGIN
	FOR difference IN
		SELECT coalesce(p.attname, d.attname) AS attname, d.attname IS NULL AS is_missing
		FROM (SELECT attname FROM pg_attribute WHERE attrelid = 'prod_analytics.events'::regclass AND attnum > 0 AND NOT attisdropped) p
		FULL JOIN (SELECT attname FROM pg_attribute WHERE attrelid = name::regclass AND attnum > 0 AND NOT attisdropped) d USING (attname)
		WHERE p.attname IS NULL OR d.attname IS NULL
	LOOP
		EXECUTE format('ALTER TABLE %s %s COLUMN %I %s', name, CASE WHEN difference.is_missing THEN 'ADD' ELSE 'DROP' END, difference.attname,
			CASE WHEN difference.is_missing THEN 'integer' ELSE '' END);
	END LOOP;
END $$;

CREATE FUNCTION soak.detach_and_attach(number integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	name text := soak.detach(number);
BEGIN
	EXECUTE format('UPDATE %s SET event_type = ''changed'' WHERE event_id %% 7 = 0', name);
	PERFORM soak.attach();
END $$;

-- Where each staged row has come to.
CREATE VIEW soak.place AS
	SELECT soak.marker(event_props) AS marker, 'event' AS place FROM prod_analytics.events
	UNION ALL SELECT soak.marker(payload), 'staged' FROM prod_analytics.staging_events
	UNION ALL SELECT soak.marker(payload), 'quarantined' FROM prod_analytics.quarantined_events
	UNION ALL SELECT marker, 'removed' FROM soak.removed;
CREATE VIEW soak.event_key AS
	SELECT event_id, event_time FROM prod_analytics.events
	UNION SELECT event_id, event_time FROM soak.removed
	UNION SELECT event_id, event_time FROM soak.former_key;
-- A row that is nowhere was a duplicate if its key is that of an event that is, or was, there.
CREATE VIEW soak.fate AS
	SELECT marker, s.batch, s.direct, coalesce(p.places, 0) AS places,
		CASE WHEN s.marker IS NULL THEN 'unknown' WHEN p.places > 1 THEN 'several' WHEN p.places = 1 THEN p.place
			WHEN k.event_id IS NOT NULL AND NOT s.direct THEN 'duplicate' ELSE 'lost' END AS fate
	FROM soak.staged s
	FULL JOIN (SELECT marker, count(*) AS places, min(place) AS place FROM soak.place GROUP BY marker) p USING (marker)
	LEFT JOIN soak.event_key k ON k.event_id = s.event_id AND k.event_time = s.event_time;
CREATE VIEW soak.user_fate AS
	SELECT s.marker, s.shared, count(p.marker) AS places, s.email IN (SELECT email FROM soak.erased) AS erased
	FROM soak.staged_users s LEFT JOIN (
		SELECT src_id AS marker FROM prod_analytics.staging_users
		UNION ALL SELECT src_id FROM prod_analytics.quarantined_users
		UNION ALL SELECT attrs->>'marker' FROM prod_analytics.users WHERE email_domain = 'example.net') p ON p.marker = s.marker
	GROUP BY s.marker;

GRANT USAGE ON SCHEMA soak TO PUBLIC;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA soak TO PUBLIC;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA soak TO PUBLIC;

-- After the GRANTs, which take no lock on the tables: one that meets a REFRESH fails.
SELECT prod_analytics.enable_incremental_refresh('soak.hourly');
SELECT prod_analytics.enable_incremental_refresh('soak.sensors', 'soak.sensors_archive');
SELECT prod_analytics.enable_incremental_refresh('soak.domains');

-- The jobs that are there from the start, more often, and some that go wrong.
SELECT prod_analytics.schedule_job(j.job_name, s.schedule, command, timeout, max_retries, timezone, catch_up, depends_on)
FROM prod_analytics.jobs j JOIN (VALUES ('ingest_events', '1 second'), ('refresh_matviews', '1 second'), ('upsert_users', '2 seconds'),
	('maintain_partitions', '10 seconds'), ('quality_checks', '15 seconds'), ('purge_history', '20 seconds')) s (job_name, schedule) USING (job_name);
SELECT prod_analytics.schedule_job('fails', '7 seconds', 'SELECT 1 / 0', max_retries => 1);
SELECT prod_analytics.schedule_job('takes too long', '11 seconds', 'SELECT pg_sleep(30)', timeout => '1 second');
SELECT prod_analytics.schedule_job('vacuum', '9 seconds', 'VACUUM prod_analytics.etl_jobs');
