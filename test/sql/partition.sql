-- Partitions of events: which, where, and that a constant event_date finds them.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SET DateStyle = 'ISO';

-- error: nothing takes an event before the first ensure_partitions()
INSERT INTO prod_analytics.events (event_type, event_time) VALUES ('early', '2026-03-15');

-- The bounds are in UTC whatever the session's TimeZone and DateStyle.
SET TimeZone = 'Pacific/Kiritimati';
SET DateStyle = 'German, DMY';
SET IntervalStyle = 'iso_8601';
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15 12:00:00+00');
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15 12:00:00+00');
RESET TimeZone;
SET DateStyle = 'ISO';
RESET IntervalStyle;
SET TimeZone = 'UTC';
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'prod_analytics.events'::regclass ORDER BY c.relname;

-- The moment decides, to the microsecond.
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-31 23:59:59.999999+00') AS same_month;
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-04-01 00:00:00+00') AS next_month;
SELECT prod_analytics.ensure_partitions(NULL, '2026-04-01 00:00:00+00') AS all_policies;

-- A constant event_date reads only the partitions that can match, and the default one.
EXPLAIN (COSTS OFF) SELECT * FROM prod_analytics.events WHERE event_date = '2026-03-31';
EXPLAIN (COSTS OFF) SELECT * FROM prod_analytics.events WHERE event_date BETWEEN '2026-03-31' AND '2026-04-01';
EXPLAIN (COSTS OFF) SELECT * FROM prod_analytics.events WHERE event_time >= '2026-05-01' AND event_time < '2026-05-02';

-- Events land where their UTC month is, and event_date is the UTC day.
SET TimeZone = 'America/Los_Angeles';
INSERT INTO prod_analytics.events (event_type, event_time) VALUES
	('last of february', '2026-02-28 15:59:59.999999'),
	('first of march', '2026-02-28 16:00:00');
SELECT tableoid::regclass, event_type, event_date FROM prod_analytics.events ORDER BY event_time;
RESET TimeZone;

-- Rows of the default partition move into the partition made for them: their children stay.
SET TimeZone = 'UTC';
CREATE TABLE child (event_id bigint, event_time timestamptz,
	FOREIGN KEY (event_id, event_time) REFERENCES prod_analytics.events ON DELETE CASCADE);
ALTER TABLE prod_analytics.events ADD COLUMN dropped int;
ALTER TABLE prod_analytics.events DROP COLUMN dropped;
INSERT INTO prod_analytics.events (event_id, event_type, event_props, event_time, device_type) VALUES
	(101, 'first microsecond', '{"a": [1, 2]}', '2028-01-01', 'tv'),
	(102, 'last microsecond', NULL, '2028-01-31 23:59:59.999999', NULL),
	(103, 'next month', '{}', '2028-02-01', NULL),
	(104, 'long', jsonb_build_object('text', repeat('x', 100000)), '2028-01-15', NULL),
	(105, 'never wanted', '{}', '2050-01-01', NULL);
INSERT INTO child SELECT event_id, event_time FROM prod_analytics.events WHERE event_id > 100;
CREATE TEMPORARY TABLE before AS SELECT * FROM prod_analytics.events WHERE event_id > 100;
SELECT tableoid::regclass, event_id FROM prod_analytics.events WHERE event_id > 100 ORDER BY event_id;
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2027-06-15');
SELECT tableoid::regclass, event_id FROM prod_analytics.events WHERE event_id > 100 ORDER BY event_id;
SELECT count(*) FROM child;
(TABLE before EXCEPT ALL SELECT * FROM prod_analytics.events)
UNION ALL
(SELECT * FROM prod_analytics.events WHERE event_id > 100 EXCEPT ALL TABLE before);
-- The indexes of the partition know them.
SET enable_seqscan = off;
SELECT event_id FROM prod_analytics.events WHERE event_id = 102 AND event_time = '2028-01-31 23:59:59.999999';
SELECT event_id FROM prod_analytics.events WHERE event_props @> '{"a": [2]}' AND event_time < '2028-02-01';
RESET enable_seqscan;
DROP TABLE child;

-- Existing partitions with other bounds are respected: the gaps between them are filled.
CREATE TABLE prod_analytics.by_hand PARTITION OF prod_analytics.events
	FOR VALUES FROM ('2031-01-10') TO ('2031-03-20');
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2030-12-15') > 0;
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'prod_analytics.events'::regclass AND pg_get_expr(c.relpartbound, c.oid) LIKE '%2031-0%'
ORDER BY 2;

-- MINVALUE and MAXVALUE are understood.
DELETE FROM prod_analytics.events WHERE event_id = 105;
CREATE TABLE prod_analytics.old PARTITION OF prod_analytics.events FOR VALUES FROM (MINVALUE) TO ('2010-01-01');
CREATE TABLE prod_analytics.future PARTITION OF prod_analytics.events FOR VALUES FROM ('2040-01-01') TO (MAXVALUE);
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2000-01-01');
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2041-06-01');

-- A partition has the parent's owner and privileges, no more and no less.
GRANT SELECT (event_type), UPDATE (event_type) ON prod_analytics.events TO analytics_loader;
GRANT INSERT ON prod_analytics.events TO analytics_loader WITH GRANT OPTION;
REVOKE ALL ON prod_analytics.events FROM analytics_operator;
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2035-06-01') > 0;
SELECT grantee, privilege_type, is_grantable FROM information_schema.table_privileges
WHERE table_name = 'events_p20350601' AND grantee LIKE 'analytics%' ORDER BY 1, 2;
SELECT grantee, privilege_type, column_name FROM information_schema.column_privileges
WHERE table_name = 'events_p20350601' AND grantee = 'analytics_loader' AND privilege_type <> 'INSERT' ORDER BY 1, 2, 3;

-- A long way at once: at most 100 in one transaction, and said so.
BEGIN;
UPDATE prod_analytics.partition_policies SET ahead = 150;
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2015-06-01');
ROLLBACK;

-- error: no policy, no moment, no such table
CREATE TABLE unmanaged (t timestamptz) PARTITION BY RANGE (t);
SELECT prod_analytics.ensure_partitions('unmanaged');
SELECT prod_analytics.ensure_partitions('prod_analytics.events', NULL);
SELECT prod_analytics.ensure_partitions('prod_analytics.events', 'infinity');
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '294276-12-31');
SELECT prod_analytics.ensure_partitions('prod_analytics.nowhere');
DROP TABLE unmanaged;
-- error: the name is taken by a table that is no partition
CREATE TABLE prod_analytics.events_p20200101 (x int);
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2020-01-15');
DROP TABLE prod_analytics.events_p20200101;
-- error: read-only
BEGIN READ ONLY;
SELECT prod_analytics.ensure_partitions();
ROLLBACK;
-- error: a name that would be truncated
BEGIN;
ALTER TABLE prod_analytics.events RENAME TO "événements_avec_un_nom_bien_trop_long_pour_une_partition";
UPDATE prod_analytics.partition_policies SET parent = 'prod_analytics."événements_avec_un_nom_bien_trop_long_pour_une_partition"';
SELECT prod_analytics.ensure_partitions('prod_analytics."événements_avec_un_nom_bien_trop_long_pour_une_partition"', '2020-01-15');
ROLLBACK;
-- A hostile name is only a name.
BEGIN;
ALTER TABLE prod_analytics.events RENAME TO "a""; DROP TABLE x; --";
UPDATE prod_analytics.partition_policies SET parent = 'prod_analytics."a""; DROP TABLE x; --"';
SELECT prod_analytics.ensure_partitions(NULL, '2020-01-15') > 0;
SELECT 'prod_analytics."a""; DROP TABLE x; --_p20200101"'::regclass;
ROLLBACK;
