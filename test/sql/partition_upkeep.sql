-- Upkeep: the plan, draining, retention, checks on partitions attached by hand, warnings, status.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
DROP SCHEMA IF EXISTS p CASCADE;
CREATE SCHEMA p;
RESET client_min_messages;
SET DateStyle = 'ISO';
SET TimeZone = 'UTC';

CREATE VIEW p.partitions AS
	SELECT i.inhparent::regclass AS parent, c.relname AS partition, pg_get_expr(c.relpartbound, c.oid) AS bounds
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind IN ('r', 'p', 'f');

-- The plan says what would be done, in SQL, and changes nothing.
CREATE TABLE p.t (k timestamptz, day date GENERATED ALWAYS AS ((k AT TIME ZONE 'UTC')::date) STORED, x int) PARTITION BY RANGE (k);
CREATE TABLE p.t_default PARTITION OF p.t DEFAULT;
SELECT prod_analytics.manage_partitions('p.t', 'k', '1 month', ahead => 1, behind => 0, retention => '3 months');
INSERT INTO p.t (k, x) VALUES ('2026-03-10', 1), ('2026-03-31 23:59:59.999999', 2), ('2026-04-01', 3),
	('2025-12-20', 4), ('2025-01-01', 5), ('2030-01-01', 6), (NULL, 7), ('-infinity', 8), ('infinity', 9);
CREATE TABLE p.t_p20251001 PARTITION OF p.t FOR VALUES FROM ('2025-10-01') TO ('2025-11-01');
CREATE TABLE p.t_p20251101 PARTITION OF p.t FOR VALUES FROM ('2025-11-01') TO ('2025-12-01');
SELECT partition_name, lower_bound, upper_bound, action, rows_to_move FROM prod_analytics.plan_partitions('p.t', '2026-03-15');
SELECT ddl FROM prod_analytics.plan_partitions('p.t', '2026-03-15') \gx
SELECT count(*) FROM p.partitions WHERE parent = 'p.t'::regclass;
SET TimeZone = 'Asia/Kathmandu';
SET DateStyle = 'German';
SELECT partition_name, lower_bound, upper_bound FROM prod_analytics.plan_partitions('p.t', '2026-03-15') LIMIT 1;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';

-- What the plan's DDL does by hand is what ensure_partitions() does (there are no rows to move).
BEGIN;
DELETE FROM p.t;
SELECT ddl FROM prod_analytics.plan_partitions('p.t', '2026-03-15') WHERE action = 'create' \gexec
SELECT prod_analytics.ensure_partitions('p.t', '2026-03-15');
ROLLBACK;

-- ensure_partitions() drains what it makes partitions for, and nothing else.
SELECT prod_analytics.ensure_partitions('p.t', '2026-03-15');
SELECT tableoid::regclass, k, x FROM p.t ORDER BY x;

-- Retention: the oldest first, never the last one, never one that ends after the cutoff.
SELECT prod_analytics.drop_expired_partitions('p.t', '2026-02-28 23:59:59');
SELECT partition, bounds FROM p.partitions WHERE parent = 'p.t'::regclass ORDER BY 2, 1;
SELECT prod_analytics.drop_expired_partitions('p.t', '2026-03-01', keep_table => true);
SELECT partition, bounds FROM p.partitions WHERE parent = 'p.t'::regclass ORDER BY 2, 1;
SELECT to_regclass('p.t_p20251101') AS kept;
SELECT prod_analytics.drop_expired_partitions('p.t', '2050-01-01');
SELECT partition, bounds FROM p.partitions WHERE parent = 'p.t'::regclass ORDER BY 2, 1;
-- No retention, nothing dropped.
SELECT prod_analytics.manage_partitions('p.t', 'k', '1 month', ahead => 1, behind => 0);
SELECT prod_analytics.drop_expired_partitions('p.t', '2100-01-01');
SELECT prod_analytics.drop_expired_partitions(at => '2100-01-01');
-- error: rows of another table refer to the partition; nothing is changed
CREATE TABLE p.parent (id int, k timestamptz, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.parent', 'k', '1 month', ahead => 0, behind => 2, retention => '1 year');
SELECT prod_analytics.ensure_partitions('p.parent', '2026-03-15');
CREATE TABLE p.child (id int, k timestamptz, FOREIGN KEY (id, k) REFERENCES p.parent ON DELETE CASCADE);
INSERT INTO p.parent VALUES (1, '2026-01-15'), (2, '2026-02-15');
INSERT INTO p.child VALUES (1, '2026-01-15');
\set VERBOSITY sqlstate
SELECT prod_analytics.drop_expired_partitions('p.parent', '2027-03-15');
\set VERBOSITY default
SELECT count(*) FROM p.partitions WHERE parent = 'p.parent'::regclass;
DELETE FROM p.child;
SELECT prod_analytics.drop_expired_partitions('p.parent', '2027-03-15');
-- Several tables: one that fails is a warning, the others go on.
INSERT INTO p.parent VALUES (1, '2026-03-15');
SELECT prod_analytics.manage_partitions('p.t', 'k', '1 month', ahead => 1, behind => 0, retention => '1 month');
SELECT prod_analytics.ensure_partitions('p.parent', '2026-05-15');
INSERT INTO p.child VALUES (1, '2026-03-15');
SELECT prod_analytics.ensure_partitions('p.t', '2026-05-15');
\set VERBOSITY sqlstate
SELECT prod_analytics.drop_expired_partitions(at => '2027-06-15');
\set VERBOSITY default
-- error: arguments
SELECT prod_analytics.drop_expired_partitions('p.t', 'infinity');
SELECT prod_analytics.drop_expired_partitions('p.t', NULL);
SELECT prod_analytics.drop_expired_partitions('p.partitions');
SELECT * FROM prod_analytics.plan_partitions('p.t', NULL);
SELECT prod_analytics.ensure_partitions_between('p.t', '2026-01-02', '2026-01-01');
SELECT prod_analytics.ensure_partitions_between('p.t', '-infinity', '2026-01-01');
SELECT prod_analytics.ensure_partitions_between(NULL, '2026-01-01', '2026-02-01');
DROP TABLE p.t, p.child, p.parent;
DELETE FROM prod_analytics.partition_policies WHERE parent LIKE 'p.%';

-- A stretch of time that the policy does not reach; the ends are whole slots.
CREATE TABLE p.t (k timestamptz) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.t', 'k', '1 month', default_partition => false);
SELECT prod_analytics.ensure_partitions_between('p.t', '2019-11-15', '2020-02-01');
SELECT partition, bounds FROM p.partitions WHERE parent = 'p.t'::regclass ORDER BY 1;
SELECT prod_analytics.ensure_partitions_between('p.t', '2000-11-15', '2020-02-01');
SELECT prod_analytics.ensure_partitions_between('p.t', '2000-11-15', '2020-02-01');
DROP TABLE p.t;
DELETE FROM prod_analytics.partition_policies WHERE parent LIKE 'p.%';

-- A partition attached by hand prunes too, once ensure_partitions() has seen it.
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
CREATE TABLE prod_analytics.by_hand PARTITION OF prod_analytics.events FOR VALUES FROM ('2020-01-10 12:00') TO ('2020-02-03 12:00');
CREATE TABLE prod_analytics.beginning PARTITION OF prod_analytics.events FOR VALUES FROM (MINVALUE) TO ('2000-01-01');
EXPLAIN (COSTS OFF) SELECT FROM prod_analytics.events WHERE event_date = '2026-03-31';
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
EXPLAIN (COSTS OFF) SELECT FROM prod_analytics.events WHERE event_date = '2026-03-31';
SELECT conrelid::regclass, pg_get_constraintdef(oid), convalidated FROM pg_constraint
WHERE conname = 'event_date_range' AND conrelid IN ('prod_analytics.by_hand'::regclass, 'prod_analytics.beginning'::regclass) ORDER BY conrelid::regclass::text;
INSERT INTO prod_analytics.events (event_type, event_time) VALUES ('edge', '2020-01-10 12:00'), ('edge', '2020-02-03 11:59:59.999999'), ('edge', '1999-12-31 23:59:59.999999');

-- The latest sibling's storage options, the parent's table space and the sibling's replica identity.
CREATE TABLE p.s (id int, k timestamptz, note text) PARTITION BY RANGE (k);
CREATE INDEX s_note ON p.s (note) WITH (fillfactor = 60);
CREATE UNLOGGED TABLE p.s_p20260101 PARTITION OF p.s FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')
	WITH (fillfactor = 70, autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE p.s_p20260101 REPLICA IDENTITY FULL;
ALTER TABLE p.s ALTER note SET STORAGE EXTERNAL;
SELECT prod_analytics.manage_partitions('p.s', 'k', '1 month', 1, 0, default_partition => false);
SELECT prod_analytics.ensure_partitions('p.s', '2026-01-15');
SELECT c.relname, c.relpersistence, c.reloptions, t.reloptions AS toast, c.relreplident,
	(SELECT attstorage FROM pg_attribute WHERE attrelid = c.oid AND attname = 'note') AS storage,
	(SELECT i.reloptions FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid) AS index_options
FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.relname LIKE 's\_p%' AND c.relkind = 'r' ORDER BY 1;
DROP TABLE p.s;

-- Row security of the parent is not gone round through a new partition.
CREATE TABLE p.secret (k timestamptz, org int) PARTITION BY RANGE (k);
ALTER TABLE p.secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY one_org ON p.secret USING (org = 1);
GRANT USAGE ON SCHEMA p TO analytics_reader;
GRANT SELECT ON p.secret TO analytics_reader;
SELECT prod_analytics.manage_partitions('p.secret', 'k', '1 month', 0, 0, default_partition => false);
SELECT prod_analytics.ensure_partitions('p.secret', '2026-01-15');
INSERT INTO p.secret VALUES ('2026-01-15', 1), ('2026-01-15', 2);
SET ROLE analytics_reader;
SELECT org FROM p.secret;
SELECT org FROM p.secret_p20260101;
RESET ROLE;
DROP TABLE p.secret;

-- Two partitions that begin on one day have different names.
CREATE TABLE p.d (k timestamptz) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.d', 'k', '1 month', 0, 0, default_partition => false);
CREATE TABLE p.d_p20260101 PARTITION OF p.d FOR VALUES FROM ('2026-01-01') TO ('2026-01-01 12:00');
SELECT prod_analytics.ensure_partitions('p.d', '2026-01-15');
SELECT partition, bounds FROM p.partitions WHERE parent = 'p.d'::regclass ORDER BY 1;
DROP TABLE p.d;

-- Also when both are made in one call.
CREATE TABLE p.d (k timestamptz) PARTITION BY RANGE (k);
CREATE TABLE p.by_hand PARTITION OF p.d FOR VALUES FROM ('2026-01-01 06:00') TO ('2026-01-01 12:00');
SELECT prod_analytics.manage_partitions('p.d', 'k', '1 month', 0, 0, default_partition => false);
SELECT partition_name FROM prod_analytics.plan_partitions('p.d', '2026-01-15');
SELECT prod_analytics.ensure_partitions('p.d', '2026-01-15');
SELECT partition, bounds FROM p.partitions WHERE parent = 'p.d'::regclass ORDER BY 1;
DROP TABLE p.d;

-- error: a default partition that rows cannot be moved out of
CREATE TABLE p.e (k timestamptz, l int) PARTITION BY RANGE (k);
CREATE TABLE p.e_default PARTITION OF p.e DEFAULT PARTITION BY LIST (l);
SELECT prod_analytics.manage_partitions('p.e', 'k', '1 month', 0, 0);
SELECT prod_analytics.ensure_partitions('p.e', '2026-01-15');
DROP TABLE p.e;
DELETE FROM prod_analytics.partition_policies WHERE parent LIKE 'p.%';

-- What expires at once is not made: a wider width, with a retention that ends within it, beside partitions that are narrower.
CREATE TABLE p.wider (k timestamptz) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.wider', 'k', '1 day', ahead => 2, behind => 1);
SELECT prod_analytics.ensure_partitions('p.wider', '2026-03-28 17:00');
SELECT prod_analytics.manage_partitions('p.wider', 'k', '1 month', ahead => 1, behind => 1, retention => '1 day');
SELECT prod_analytics.ensure_partitions('p.wider', '2026-03-28 17:00') AS made, prod_analytics.drop_expired_partitions('p.wider', '2026-03-28 17:00') AS dropped;
SELECT prod_analytics.ensure_partitions('p.wider', '2026-03-28 17:00') AS made, prod_analytics.drop_expired_partitions('p.wider', '2026-03-28 17:00') AS dropped;
-- Nor is anything said of a policy that stays as it is.
SELECT prod_analytics.manage_partitions('p.wider', 'k', '1 month', ahead => 1, behind => 1, retention => '1 day');
DROP TABLE p.wider;

-- The locks that each step takes on tables that are there already.
CREATE TABLE p.referenced (id bigint PRIMARY KEY);
CREATE TABLE p.l (id bigint REFERENCES p.referenced, k timestamptz, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE p.referencing (id bigint, k timestamptz, FOREIGN KEY (id, k) REFERENCES p.l);
SELECT prod_analytics.manage_partitions('p.l', 'k', '1 month', 0, 0, retention => '1 month');
SELECT prod_analytics.ensure_partitions('p.l', '2026-01-15');
CREATE VIEW p.locks AS
	SELECT c.relname, string_agg(l.mode, ', ' ORDER BY l.mode) AS modes FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
	WHERE l.pid = pg_backend_pid() AND c.relnamespace = 'p'::regnamespace AND c.relkind IN ('r', 'p')
		AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') AND c.relname NOT IN ('l_p20260201', 'l_p20260301')
	GROUP BY c.relname;
BEGIN;
SELECT prod_analytics.ensure_partitions('p.l', '2026-02-15');
SELECT * FROM p.locks ORDER BY relname;
COMMIT;
SELECT prod_analytics.ensure_partitions('p.l', '2026-03-15');
BEGIN;
SELECT prod_analytics.drop_expired_partitions('p.l', '2026-03-10', keep_table => true);
SELECT * FROM p.locks ORDER BY relname;
ROLLBACK;
BEGIN;
SELECT prod_analytics.drop_expired_partitions('p.l', '2026-03-10');
SELECT * FROM p.locks ORDER BY relname;
ROLLBACK;
SET client_min_messages = warning;
DROP TABLE p.l, p.referenced, p.referencing CASCADE;
RESET client_min_messages;
DROP VIEW p.locks;
DELETE FROM prod_analytics.partition_policies WHERE parent LIKE 'p.%';

-- maintain_partitions() does it all, a step a commit, and says what it did.
CREATE TABLE p.m (k date) PARTITION BY RANGE (k);
CREATE TABLE p.m_default PARTITION OF p.m DEFAULT;
SELECT prod_analytics.manage_partitions('p.m', 'k', '1 day', 2, 1);
INSERT INTO p.m SELECT date '2026-01-01' + n / 10 FROM generate_series(0, 49) n;
INSERT INTO p.m VALUES ('2999-01-01'), ('4713-01-01 BC'), ('-infinity'), ('infinity'), (NULL);
SET client_min_messages = error;
CALL prod_analytics.maintain_partitions('p.m');
SELECT k FROM p.m_default ORDER BY k;
SELECT partition, bounds FROM p.partitions WHERE parent = 'p.m'::regclass AND partition < 'm_p2026011' ORDER BY partition;
DELETE FROM p.m_default;
CALL prod_analytics.maintain_partitions('p.m');
-- One table that fails does not stop the others, but fails the run.
CREATE TABLE p.a (k timestamptz) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.a', 'k', '1 year', 0, 0);
CREATE TABLE p.a_default (x int);
CALL prod_analytics.maintain_partitions();
RESET client_min_messages;
SELECT job_name, status, rows_processed, details - 'partitions_created' AS details,
	(details->>'partitions_created')::int > 0 AS created FROM prod_analytics.etl_jobs ORDER BY job_id;
SELECT count(*) FROM p.m;
SELECT count(*) > 0 AS analyzed FROM pg_stats WHERE schemaname = 'p' AND tablename = 'm' AND inherited;
-- A runway of less than two widths is told.
SELECT prod_analytics.manage_partitions('p.m', 'k', '1 day', 0, 0);
SELECT prod_analytics.drop_expired_partitions('p.m') AS nothing;
SET client_min_messages = error;
DO $$ DECLARE part regclass; BEGIN
	FOR part IN SELECT partition_name FROM prod_analytics.partition_status WHERE table_name = 'p.m'::regclass AND NOT is_default LOOP
		EXECUTE format('DROP TABLE %s', part);
	END LOOP;
END $$;
CALL prod_analytics.maintain_partitions('p.m');
RESET client_min_messages;
SELECT status, details->'warnings' AS warnings FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;
SELECT prod_analytics.manage_partitions('p.m', 'k', '1 day', 2, 0);
SELECT prod_analytics.ensure_partitions('p.m') > 0 AS made;
-- error: it commits, so it cannot be part of a transaction
BEGIN;
CALL prod_analytics.maintain_partitions();
ROLLBACK;

-- A policy follows its table through every kind of renaming, and only its own.
SELECT prod_analytics.unmanage_partitions('p.a');
CREATE SCHEMA q;
CREATE TABLE q.m (k timestamptz) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('q.m', 'k');
ALTER TABLE p.m RENAME TO "M; --";
SELECT parent FROM prod_analytics.partition_policies ORDER BY parent;
SET search_path = p;
ALTER TABLE "M; --" SET SCHEMA public;
ALTER TABLE q.m RENAME TO n;
RESET search_path;
SELECT parent FROM prod_analytics.partition_policies ORDER BY parent;
ALTER TABLE "M; --" SET SCHEMA p;
ALTER SCHEMA q RENAME TO "Q";
ALTER SCHEMA p RENAME TO r;
ALTER SCHEMA r RENAME TO p;
ALTER TABLE p."M; --" RENAME TO m;
ALTER TABLE p.m RENAME COLUMN k TO kk;
SELECT parent, control FROM prod_analytics.partition_policies ORDER BY parent;
ALTER TABLE p.m RENAME COLUMN kk TO k;
SELECT parent FROM prod_analytics.partition_policies ORDER BY parent;
DROP SCHEMA "Q" CASCADE;
-- Whoever renames, without any privilege on ours; and without our tables nobody notices.
CREATE ROLE regress_renamer;
CREATE SCHEMA regress_renamer AUTHORIZATION regress_renamer;
SET ROLE regress_renamer;
CREATE TABLE regress_renamer.t (k timestamptz) PARTITION BY RANGE (k);
RESET ROLE;
SELECT prod_analytics.manage_partitions('regress_renamer.t', 'k');
SET ROLE regress_renamer;
ALTER TABLE regress_renamer.t RENAME TO u;
RESET ROLE;
SELECT parent FROM prod_analytics.partition_policies ORDER BY parent;
SET client_min_messages = warning;
BEGIN;
DROP TABLE prod_analytics.partition_policies CASCADE;
ALTER TABLE regress_renamer.u RENAME TO v;
ROLLBACK;
SELECT prod_analytics.unmanage_partitions('regress_renamer.u');
DROP SCHEMA regress_renamer CASCADE;
DROP ROLE regress_renamer;
RESET client_min_messages;

-- The status view: one row a partition.
SELECT partition_name, bounds, is_default, rows IS NULL OR rows >= 0 AS rows, bytes >= 0 AS bytes, runway > '300 days' AS runway
FROM prod_analytics.partition_status WHERE table_name = 'prod_analytics.events'::regclass AND is_default;
SELECT table_name, count(*) > 2 AS partitions, min(runway) = max(runway) AS one_runway,
	min(runway) BETWEEN '1 day' AND '3 days' AS two_days_and_the_rest_of_this_one
FROM prod_analytics.partition_status WHERE table_name = 'p.m'::regclass GROUP BY 1;
-- The runway of each key type, and of a table without an end.
CREATE FUNCTION p.runway(key_type text, epoch_unit text DEFAULT NULL, upper text DEFAULT NULL) RETURNS interval LANGUAGE plpgsql AS $$
DECLARE result interval;
BEGIN
	EXECUTE format('CREATE TABLE p.r (k %s) PARTITION BY RANGE (k)', key_type);
	PERFORM prod_analytics.manage_partitions('p.r', 'k', '1 day', 2, 0, timezone => 'Asia/Kathmandu', default_partition => true, epoch_unit => epoch_unit);
	PERFORM prod_analytics.ensure_partitions('p.r');
	IF upper IS NOT NULL THEN
		EXECUTE format('CREATE TABLE p.rest PARTITION OF p.r FOR VALUES FROM (%L) TO (MAXVALUE)', upper);
	END IF;
	SELECT DISTINCT s.runway INTO STRICT result FROM prod_analytics.partition_status s WHERE s.table_name = 'p.r'::regclass;
	PERFORM prod_analytics.unmanage_partitions('p.r');
	DROP TABLE p.r;
	RETURN result;
END $$;
SELECT p.runway('timestamptz') BETWEEN '2 days' AND '3 days' AS timestamptz, p.runway('timestamp') BETWEEN '2 days' AND '3 days' AS timestamp,
	p.runway('date') BETWEEN '2 days' AND '3 days' AS date, p.runway('bigint', 'milliseconds') BETWEEN '2 days' AND '3 days' AS bigint,
	p.runway('timestamptz', NULL, '2999-01-01') IS NULL AS endless;
-- The statistics of a table as a whole are updated when enough rows have changed, and not by each run; those of its
-- partitions are left to autovacuum, whose part is played here.
CREATE TABLE p.grown (k timestamptz, n int) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('p.grown', 'k', '1 day', 2, 0);
SELECT prod_analytics.ensure_partitions('p.grown') > 0 AS made;
CREATE PROCEDURE p.each(command text) LANGUAGE plpgsql AS $$
DECLARE leaf regclass;
BEGIN
	FOR leaf IN SELECT relid FROM pg_partition_tree('p.grown') WHERE isleaf LOOP
		EXECUTE format(command, leaf);
	END LOOP;
END $$;
CREATE FUNCTION p.analyzed() RETURNS TABLE (times bigint, rows real, columns bigint, partitions bigint) LANGUAGE sql AS $$
	SELECT pg_stat_get_analyze_count('p.grown'::regclass), (SELECT reltuples FROM pg_class WHERE oid = 'p.grown'::regclass),
		(SELECT count(*) FROM pg_stats WHERE schemaname = 'p' AND tablename = 'grown' AND inherited),
		(SELECT sum(pg_stat_get_analyze_count(relid))::bigint FROM pg_partition_tree('p.grown') WHERE isleaf)
$$;
CALL p.each('ALTER TABLE %s SET (autovacuum_enabled = off)');
INSERT INTO p.grown SELECT now(), n FROM generate_series(1, 1000) n;
SELECT pg_stat_force_next_flush();
CALL p.each('ANALYZE %s');
CALL prod_analytics.maintain_partitions('p.grown');
SELECT * FROM p.analyzed();
CALL prod_analytics.maintain_partitions('p.grown');
INSERT INTO p.grown SELECT now(), n FROM generate_series(1, 100) n;
SELECT pg_stat_force_next_flush();
CALL prod_analytics.maintain_partitions('p.grown');
SELECT * FROM p.analyzed();
UPDATE p.grown SET n = n + 1;
SELECT pg_stat_force_next_flush();
CALL prod_analytics.maintain_partitions('p.grown');
SELECT * FROM p.analyzed();
CALL p.each('ANALYZE %s');
CALL prod_analytics.maintain_partitions('p.grown');
SELECT * FROM p.analyzed();
DELETE FROM p.grown WHERE n < 900;
SELECT pg_stat_force_next_flush();
CALL p.each('ANALYZE %s');
CALL prod_analytics.maintain_partitions('p.grown');
SELECT * FROM p.analyzed();
CALL prod_analytics.maintain_partitions('p.grown');
SELECT * FROM p.analyzed();
-- After a crash nothing is counted any more: once, and not by each run from then on.
INSERT INTO p.grown SELECT now(), n FROM generate_series(1, 1000) n;
SELECT pg_stat_force_next_flush();
CALL p.each('ANALYZE %s');
DO $$ BEGIN
	PERFORM pg_stat_reset_single_table_counters(relid) FROM pg_partition_tree('p.grown');
END $$;
CALL prod_analytics.maintain_partitions('p.grown');
SELECT pg_stat_force_next_flush();
SELECT * FROM p.analyzed();
CALL prod_analytics.maintain_partitions('p.grown');
SELECT * FROM p.analyzed();
SELECT prod_analytics.unmanage_partitions('p.grown');
DROP TABLE p.grown;
-- Ends that are no moment.
CREATE TABLE p.i (k timestamptz) PARTITION BY RANGE (k);
CREATE TABLE p.i_1 PARTITION OF p.i FOR VALUES FROM ('2026-01-01') TO ('infinity');
SELECT prod_analytics.manage_partitions('p.i', 'k');
CREATE TABLE p.j (k bigint) PARTITION BY RANGE (k);
CREATE TABLE p.j_1 PARTITION OF p.j FOR VALUES FROM (0) TO (9223372036854775807);
SELECT prod_analytics.manage_partitions('p.j', 'k', epoch_unit => 'seconds');
SELECT partition_name, runway FROM prod_analytics.partition_status WHERE table_name::text LIKE 'p._' AND NOT is_default AND runway IS NULL;
-- Tables in a schema that the caller may not look into are seen and maintained all the same.
REVOKE USAGE ON SCHEMA p FROM analytics_reader;
CREATE ROLE regress_operator IN ROLE analytics_operator;
SET ROLE regress_operator;
SELECT count(*) > 0 AS seen FROM prod_analytics.partition_status WHERE bounds LIKE '%infinity%';
CALL prod_analytics.maintain_partitions('prod_analytics.events');
SET client_min_messages = error;
CALL prod_analytics.maintain_partitions();
RESET client_min_messages;
RESET ROLE;
SELECT status, details->'errors' FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1;
DROP ROLE regress_operator;

SET client_min_messages = warning;
DROP SCHEMA p CASCADE;
DROP SCHEMA prod_analytics CASCADE;
