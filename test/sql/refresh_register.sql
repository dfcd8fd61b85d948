-- Which materialized views are kept up to date: registering, forgetting, following names, marking by hand.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
DROP SCHEMA IF EXISTS m CASCADE;
CREATE SCHEMA m;
CREATE ROLE regress_owner;
CREATE ROLE regress_operator IN ROLE analytics_operator;
RESET client_min_messages;

-- What the registry says, and which triggers there are, on which tables.
CREATE VIEW m.registered AS
	SELECT matview, mode, reason IS NOT NULL AS has_reason, archive, sources IS NULL AS everything_changed,
		(SELECT count(*) FROM prod_analytics.changed_keys k WHERE k.matview_id = r.matview_id) AS log_rows
	FROM prod_analytics.registered_matviews r LEFT JOIN prod_analytics.refresh_state s USING (matview_id)
	ORDER BY matview;
CREATE VIEW m.triggers AS
	SELECT tgrelid::regclass AS "table", tgname, tgenabled, tgparentid <> 0 AS is_clone FROM pg_trigger
	WHERE tgfoid::regproc::text = 'prod_analytics.capture_changes' AND tgrelid <> 'prod_analytics.events'::regclass
	ORDER BY tgrelid::regclass::text, tgname;
-- What is left of views that are gone.
CREATE VIEW m.leftovers AS
	SELECT 'changed_keys' AS "table", count(*) FROM prod_analytics.changed_keys
	WHERE matview_id NOT IN (SELECT matview_id FROM prod_analytics.registered_matviews)
	UNION ALL SELECT 'refresh_state', count(*) FROM prod_analytics.refresh_state
	WHERE matview_id NOT IN (SELECT matview_id FROM prod_analytics.registered_matviews);

-- The metrics are registered from the start.
TABLE m.registered;
SELECT tgrelid::regclass, tgname, tgenabled, obj_description(oid, 'pg_trigger') FROM pg_trigger
WHERE tgfoid::regproc::text = 'prod_analytics.capture_changes';
SELECT matview, mode, archive, pending_keys, everything_changed, refreshed_at FROM prod_analytics.matview_status;

CREATE TABLE m.t (k int, day date, v int) PARTITION BY RANGE (day);
CREATE TABLE m.t1 PARTITION OF m.t FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE m.t2 PARTITION OF m.t FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE MATERIALIZED VIEW m.a AS SELECT k, day, sum(v) AS total, now() AS computed_at FROM m.t GROUP BY k, day;
CREATE MATERIALIZED VIEW m.b AS SELECT day, count(*) AS n FROM m.t GROUP BY day;
CREATE MATERIALIZED VIEW m.joined AS SELECT x.k, count(*) FROM m.t x JOIN m.t y ON x.k = y.k GROUP BY x.k;

-- error: what cannot be registered
SELECT prod_analytics.enable_incremental_refresh(NULL);
SELECT prod_analytics.enable_incremental_refresh('m.t');
SELECT prod_analytics.enable_incremental_refresh(0);
SELECT prod_analytics.enable_incremental_refresh('m.a', 0);
-- error: no unique index
SELECT prod_analytics.enable_incremental_refresh('m.a');
-- error: read-only transaction
SET default_transaction_read_only = on;
SELECT prod_analytics.enable_incremental_refresh('m.a');
SELECT prod_analytics.disable_incremental_refresh('m.a');
SELECT prod_analytics.mark_changed('m.a');
RESET default_transaction_read_only;
-- error: not registered
SELECT prod_analytics.disable_incremental_refresh('m.a');
SELECT prod_analytics.disable_incremental_refresh('m.t');
SELECT prod_analytics.disable_incremental_refresh(NULL);
SELECT prod_analytics.mark_changed('m.a');
SELECT prod_analytics.mark_changed(NULL);
TABLE m.triggers;

-- The result says how it is kept; without an index that serves the keys, what that costs.
CREATE UNIQUE INDEX ON m.a (k, day) NULLS NOT DISTINCT;
CREATE UNIQUE INDEX ON m.b (day) NULLS NOT DISTINCT;
SELECT r - 'advice', r->>'advice' LIKE '%CREATE INDEX%' AS has_advice FROM prod_analytics.enable_incremental_refresh('m.a') r;
CREATE INDEX t_by_key ON m.t (k, day);
SELECT prod_analytics.enable_incremental_refresh('m.a');
TABLE m.triggers;
-- Two views of one table share the trigger, and new partitions get it.
SELECT r->'mode' AS mode FROM prod_analytics.enable_incremental_refresh('m.b') r;
CREATE TABLE m.t3 PARTITION OF m.t FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
TABLE m.triggers;
-- A trigger that does not fire always does when the view is registered again.
ALTER TABLE m.t1 ENABLE TRIGGER ALL;
ALTER TABLE m.t2 DISABLE TRIGGER ALL;
SELECT r->'mode' AS mode FROM prod_analytics.enable_incremental_refresh('m.b') r;
TABLE m.triggers;
ALTER TABLE m.t DISABLE TRIGGER ALL;
SELECT prod_analytics.create_tables();
TABLE m.triggers;

-- A view that cannot be kept incrementally is registered with the reason.
SELECT r - 'reason', r ? 'reason' AS has_reason FROM prod_analytics.enable_incremental_refresh('m.joined') r;
SELECT prod_analytics.mark_changed('m.joined');
TABLE m.registered;

-- Marking by hand: a key, keys, everything.
SELECT prod_analytics.mark_changed('m.a', '{"k": 1, "day": "2026-01-01"}');
SELECT prod_analytics.mark_changed('m.a', '[{"day": null, "k": 2}, {"k": null, "day": "2026-01-02"}]');
SELECT prod_analytics.mark_changed('m.a', '[]');
SELECT pending_keys, everything_changed, oldest_pending_change IS NOT NULL AS has_oldest
FROM prod_analytics.matview_status WHERE matview = 'm.a';
UPDATE prod_analytics.refresh_state SET sources = 'something';
SELECT everything_changed FROM prod_analytics.matview_status WHERE matview = 'm.a';
SELECT prod_analytics.mark_changed('m.a');
SELECT matview, everything_changed FROM prod_analytics.matview_status ORDER BY matview;
-- error: what is no key
SELECT prod_analytics.mark_changed('m.a', '{"k": 1}');
SELECT prod_analytics.mark_changed('m.a', '{"k": 1, "day": "2026-01-01", "total": 5}');
SELECT prod_analytics.mark_changed('m.a', '[{"k": 1, "day": "2026-01-01"}, {"k": 1, "days": "2026-01-01"}]');
SELECT prod_analytics.mark_changed('m.a', '[[1, "2026-01-01"]]');
SELECT prod_analytics.mark_changed('m.a', '1');
SELECT prod_analytics.mark_changed('m.a', '{"k": "one", "day": "2026-01-01"}');
SELECT prod_analytics.mark_changed('m.a', '{"k": 1, "day": "2026-02-30"}');

-- Registering again starts anew.
SELECT r->'mode' AS mode FROM prod_analytics.enable_incremental_refresh('m.a') r;
TABLE m.registered;

-- Disabling: the trigger goes with the last view.
SELECT prod_analytics.disable_incremental_refresh('m.a');
SELECT count(*) FROM m.triggers;
SELECT prod_analytics.disable_incremental_refresh('m.joined');
SELECT prod_analytics.disable_incremental_refresh('m.b');
TABLE m.triggers;
TABLE m.leftovers;
TABLE m.registered;
-- What the user has disabled stays so.
SELECT prod_analytics.disable_incremental_refresh('prod_analytics.mv_org_daily_metrics');
SELECT prod_analytics.create_tables();
TABLE m.registered;

-- error: archives that do not fit
CREATE TABLE m.arc (k int, day date, total bigint);
SELECT prod_analytics.enable_incremental_refresh('m.a', 'm.arc');
ALTER TABLE m.arc ADD computed_at timestamp;
SELECT prod_analytics.enable_incremental_refresh('m.a', 'm.arc');
ALTER TABLE m.arc ALTER computed_at TYPE timestamptz, ADD extra text NOT NULL;
SELECT prod_analytics.enable_incremental_refresh('m.a', 'm.arc');
ALTER TABLE m.arc ALTER extra SET DEFAULT '', DROP k, ADD k int GENERATED ALWAYS AS IDENTITY;
SELECT prod_analytics.enable_incremental_refresh('m.a', 'm.arc');
ALTER TABLE m.arc ALTER k DROP IDENTITY;
ALTER TABLE m.arc OWNER TO regress_owner;
SELECT prod_analytics.enable_incremental_refresh('m.a', 'm.arc');
ALTER TABLE m.arc OWNER TO CURRENT_USER;
ALTER TABLE m.arc SET UNLOGGED;
SELECT prod_analytics.enable_incremental_refresh('m.a', 'm.arc');
ALTER TABLE m.arc SET LOGGED;
SELECT prod_analytics.enable_incremental_refresh('m.a', 'm.t');
SELECT prod_analytics.enable_incremental_refresh('m.a', 'm.b');
SELECT prod_analytics.enable_incremental_refresh('m.joined', 'm.arc');
SELECT r->>'archive' AS archive FROM prod_analytics.enable_incremental_refresh('m.a', 'm.arc') r;
CREATE MATERIALIZED VIEW m.c AS SELECT k, day, sum(v) AS total, now() AS computed_at FROM m.t GROUP BY k, day;
CREATE UNIQUE INDEX ON m.c (k, day) NULLS NOT DISTINCT;
-- error: two views with one archive
SELECT prod_analytics.enable_incremental_refresh('m.c', 'm.arc');
SELECT r->'mode' AS mode FROM prod_analytics.enable_incremental_refresh('m.joined') r;

-- error: a partition of another role, which takes no trigger of ours; the privilege is enough
CREATE TABLE m.shared (k int, day date) PARTITION BY RANGE (day);
CREATE TABLE m.shared_1 PARTITION OF m.shared FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE MATERIALIZED VIEW m.of_shared AS SELECT k, count(*) AS n FROM m.shared GROUP BY k;
CREATE UNIQUE INDEX ON m.of_shared (k) NULLS NOT DISTINCT;
SET client_min_messages = warning;
GRANT USAGE ON SCHEMA m TO regress_operator, regress_owner;
ALTER TABLE m.shared OWNER TO regress_operator;
ALTER MATERIALIZED VIEW m.of_shared OWNER TO regress_operator;
ALTER TABLE m.shared_1 OWNER TO regress_owner;
SELECT prod_analytics.enable_incremental_refresh('m.of_shared');
GRANT TRIGGER ON m.shared_1 TO regress_operator;
SELECT prod_analytics.enable_incremental_refresh('m.of_shared')->>'mode' AS mode;
SELECT * FROM m.triggers WHERE "table"::text ~ 'shared';
DROP MATERIALIZED VIEW m.of_shared;
DROP TABLE m.shared;
REVOKE USAGE ON SCHEMA m FROM regress_operator, regress_owner;
RESET client_min_messages;

-- The registry follows renamings of all kinds.
ALTER MATERIALIZED VIEW m.a RENAME TO "A; --";
ALTER TABLE m.joined RENAME TO j;
ALTER TABLE m.arc RENAME TO "Arc";
TABLE m.registered;
CREATE SCHEMA n;
SET search_path = m;
ALTER MATERIALIZED VIEW "A; --" SET SCHEMA n;
ALTER TABLE "Arc" SET SCHEMA n;
RESET search_path;
TABLE m.registered;
ALTER SCHEMA n RENAME TO o;
TABLE m.registered;
ALTER MATERIALIZED VIEW o."A; --" SET SCHEMA m;
ALTER MATERIALIZED VIEW m."A; --" RENAME TO a;
SELECT matview, archive FROM m.registered;
-- Somebody else's, without any privilege on ours.
ALTER MATERIALIZED VIEW m.j OWNER TO regress_owner;
GRANT CREATE, USAGE ON SCHEMA m TO regress_owner;
SET ROLE regress_owner;
ALTER MATERIALIZED VIEW m.j RENAME TO joined;
RESET ROLE;
SELECT matview, archive FROM m.registered;

-- Drops: of an archive, of views, of what they read.
DROP SCHEMA o CASCADE;
TABLE m.registered;
SELECT prod_analytics.mark_changed('m.a');
SELECT r->'mode' AS mode FROM prod_analytics.enable_incremental_refresh('m.b') r;
DROP MATERIALIZED VIEW m.a;
SELECT count(*) FROM m.triggers;
TABLE m.registered;
TABLE m.leftovers;
DROP MATERIALIZED VIEW m.b, m.joined;
TABLE m.triggers;
TABLE m.registered;
TABLE m.leftovers;
SELECT r->'mode' AS mode FROM prod_analytics.enable_incremental_refresh('m.c') r;
SET client_min_messages = warning;
BEGIN;
ALTER TABLE m.t DROP COLUMN v CASCADE;
TABLE m.registered;
TABLE m.triggers;
ROLLBACK;
DROP TABLE m.t CASCADE;
RESET client_min_messages;
TABLE m.registered;
TABLE m.leftovers;

-- A view of somebody else is registered as its owner, who gets what the trigger needs.
SET ROLE regress_owner;
CREATE TABLE m.mine (k int, v int);
CREATE MATERIALIZED VIEW m.mine_by_k AS SELECT k, count(*) FROM m.mine GROUP BY k;
CREATE UNIQUE INDEX ON m.mine_by_k (k) NULLS NOT DISTINCT;
RESET ROLE;
SELECT has_function_privilege('regress_owner', 'prod_analytics.capture_changes()', 'EXECUTE') AS may;
SELECT r->'mode' AS mode FROM prod_analytics.enable_incremental_refresh('m.mine_by_k') r;
SELECT has_function_privilege('regress_owner', 'prod_analytics.capture_changes()', 'EXECUTE') AS may;
TABLE m.triggers;
-- error: an operator registers and takes out what is his own only
GRANT USAGE ON SCHEMA m TO regress_operator, regress_owner;
SET ROLE regress_operator;
SELECT prod_analytics.enable_incremental_refresh('m.mine_by_k');
SELECT prod_analytics.disable_incremental_refresh('m.mine_by_k');
-- He may say what has changed.
SELECT prod_analytics.mark_changed('m.mine_by_k', '{"k": 1}');
SELECT pending_keys FROM prod_analytics.matview_status WHERE matview = 'm.mine_by_k';
RESET ROLE;
SET ROLE regress_owner;
INSERT INTO m.mine VALUES (1, 1);
RESET ROLE;

-- A table that has got another owner since gets partitions all the same, and its trigger is the new owner's to give.
CREATE TABLE m.handed_over (k date, v int) PARTITION BY RANGE (k);
CREATE MATERIALIZED VIEW m.handed_over_by_k AS SELECT k, count(*) FROM m.handed_over GROUP BY k;
CREATE UNIQUE INDEX ON m.handed_over_by_k (k) NULLS NOT DISTINCT;
SELECT prod_analytics.manage_partitions('m.handed_over', 'k', '1 month', 0, 0);
SELECT r->'mode' AS mode FROM prod_analytics.enable_incremental_refresh('m.handed_over_by_k') r;
CREATE ROLE regress_heir;
GRANT CREATE, USAGE ON SCHEMA m TO regress_heir;
ALTER TABLE m.handed_over OWNER TO regress_heir;
ALTER MATERIALIZED VIEW m.handed_over_by_k OWNER TO regress_heir;
SELECT prod_analytics.ensure_partitions('m.handed_over', '2026-03-15');
SELECT has_function_privilege('regress_heir', 'prod_analytics.capture_changes()', 'EXECUTE') AS may;
INSERT INTO m.handed_over VALUES ('2026-03-15', 1);
SELECT r->'inserted' AS inserted FROM prod_analytics.refresh_incremental('m.handed_over_by_k') r;
SET client_min_messages = warning;
DROP TABLE m.handed_over CASCADE;
DROP OWNED BY regress_heir;
DROP ROLE regress_heir;
RESET client_min_messages;

-- DROP EXTENSION takes the triggers along, CREATE EXTENSION brings them back and distrusts what was noted.
UPDATE prod_analytics.refresh_state SET sources = 'something';
SET client_min_messages = warning;
DROP EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'prod_analytics_capture%';
SET client_min_messages = warning;
CREATE EXTENSION prod_analytics;
RESET client_min_messages;
TABLE m.triggers;
SELECT matview, everything_changed FROM m.registered;
-- Nothing is to be done a second time.
UPDATE prod_analytics.refresh_state SET sources = 'something';
SELECT prod_analytics.create_tables();
SELECT matview, everything_changed FROM m.registered;
-- Event triggers of an older version are made anew, and stay disabled when they are.
DROP EVENT TRIGGER prod_analytics_follow_drops;
CREATE EVENT TRIGGER prod_analytics_follow_drops ON sql_drop WHEN TAG IN ('DROP TABLE', 'DROP SCHEMA', 'DROP OWNED')
	EXECUTE FUNCTION prod_analytics.follow_drops();
ALTER EVENT TRIGGER prod_analytics_follow_drops DISABLE;
SELECT prod_analytics.create_tables();
SELECT evtname, evtenabled, 'DROP MATERIALIZED VIEW' = ANY (evttags) AS sees_views FROM pg_event_trigger WHERE evtname LIKE 'prod%' ORDER BY 1;

-- A view that was dropped behind our back is told of, and keeps nobody from anything.
DROP MATERIALIZED VIEW m.mine_by_k;
ALTER EVENT TRIGGER prod_analytics_follow_drops ENABLE ALWAYS;
SELECT prod_analytics.create_tables();
DELETE FROM prod_analytics.registered_matviews WHERE matview = 'm.mine_by_k';

-- The upgrade from tables without any of this; metrics that cannot be registered do not stop it.
SET client_min_messages = warning;
BEGIN;
DROP TABLE prod_analytics.registered_matviews, prod_analytics.changed_keys, prod_analytics.refresh_state,
	prod_analytics.org_daily_metrics_archive CASCADE;
SAVEPOINT before;
SELECT prod_analytics.create_tables();
SELECT matview, mode, archive FROM prod_analytics.registered_matviews;
ROLLBACK TO before;
DROP INDEX prod_analytics.mv_org_daily_metrics_idx;
SELECT prod_analytics.create_tables();
SELECT matview, mode, archive FROM prod_analytics.registered_matviews;
ROLLBACK;
RESET client_min_messages;

-- What is in the archive is final; NULL is an organization like others.
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15') > 0 AS made;
INSERT INTO prod_analytics.events (org_id, event_type, event_time)
VALUES (1, 'x', '2026-03-10'), (1, 'x', '2026-03-11'), (NULL, 'x', '2026-03-10'), (NULL, 'x', '2026-03-11');
REFRESH MATERIALIZED VIEW prod_analytics.mv_org_daily_metrics;
INSERT INTO prod_analytics.org_daily_metrics_archive (org_id, event_date, dau)
VALUES (1, '2026-03-10', 77), (NULL, '2026-03-11', 78), (2, '2026-03-11', 79);
SELECT org_id, event_date, dau FROM prod_analytics.org_daily_metrics ORDER BY 1, 2;

-- error: functions of triggers are called by triggers only
SELECT prod_analytics.registered_matviews_changed();

SET client_min_messages = warning;
DROP SCHEMA m CASCADE;
DROP SCHEMA prod_analytics CASCADE;
DROP ROLE regress_operator;
DROP ROLE regress_owner;
