-- Retention: groups go to the archive with their last partition, and none is lost on the way.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
DROP SCHEMA IF EXISTS keep CASCADE;
CREATE SCHEMA keep;
SET search_path = keep;
SET timezone = 'UTC';
SET datestyle = 'ISO';

CREATE TABLE sales (
	sold_at timestamptz, shop text, amount numeric, day date GENERATED ALWAYS AS ((sold_at AT TIME ZONE 'UTC')::date) STORED
) PARTITION BY RANGE (sold_at);
CREATE INDEX ON sales (shop, sold_at);
SELECT prod_analytics.manage_partitions('sales', 'sold_at', '1 month', ahead => 1, behind => 5, retention => '2 months');
SELECT prod_analytics.ensure_partitions_between('sales', '2026-01-01', '2026-07-31');
INSERT INTO sales
SELECT '2026-01-01 00:00+00'::timestamptz + n * interval '9 hours', nullif('shop ' || n % 3, 'shop 2'), n FROM generate_series(0, 460) n;
INSERT INTO sales VALUES ('2026-01-20', 'gone', 1), ('2026-02-20', 'gone', 2);
-- All that was ever sold.
CREATE TABLE sold AS SELECT * FROM sales;

CREATE MATERIALIZED VIEW daily AS SELECT shop, day, count(*) AS sales, sum(amount) AS amount, now() AS computed_at FROM sales GROUP BY shop, day;
CREATE UNIQUE INDEX ON daily (shop, day) NULLS NOT DISTINCT;
-- An archive may have its columns in another order, and others of its own.
CREATE TABLE daily_archive (
	archived_at timestamptz NOT NULL DEFAULT now(), amount numeric, sales bigint, computed_at timestamptz, day date, shop text, note text
);
CREATE UNIQUE INDEX ON daily_archive (shop, day) NULLS NOT DISTINCT;
CREATE MATERIALIZED VIEW weekly AS
	SELECT date_trunc('week', sold_at AT TIME ZONE 'UTC')::date AS week, count(*) AS sales FROM sales GROUP BY 1;
CREATE UNIQUE INDEX ON weekly (week) NULLS NOT DISTINCT;
CREATE TABLE weekly_archive (LIKE weekly);
CREATE UNIQUE INDEX ON weekly_archive (week) NULLS NOT DISTINCT;
-- No key tells the partition.
CREATE MATERIALIZED VIEW shops AS SELECT shop, count(*) AS sales, max(day) AS last FROM sales GROUP BY shop;
CREATE UNIQUE INDEX ON shops (shop) NULLS NOT DISTINCT;
CREATE TABLE shops_archive (LIKE shops);
CREATE UNIQUE INDEX ON shops_archive (shop) NULLS NOT DISTINCT;
-- No archive.
CREATE MATERIALIZED VIEW months AS SELECT extract(month FROM day) AS month, count(*) AS sales FROM sales GROUP BY 1;
CREATE UNIQUE INDEX ON months (month) NULLS NOT DISTINCT;
CREATE VIEW days_known AS
	SELECT shop, day, sales, amount FROM daily_archive
	UNION ALL SELECT shop, day, sales, amount FROM daily d
	WHERE NOT EXISTS (SELECT FROM daily_archive a WHERE a.shop IS NOT DISTINCT FROM d.shop AND a.day = d.day);
CREATE VIEW all_days AS SELECT shop, day, count(*) AS sales, sum(amount) AS amount FROM sold GROUP BY 1, 2;

SELECT v, r->>'mode' AS mode, r->>'archive' AS archive
FROM (VALUES ('daily', 'daily_archive'), ('weekly', 'weekly_archive'), ('shops', 'shops_archive'), ('months', NULL)) c (v, a),
	prod_analytics.enable_incremental_refresh(v::regclass, a::regclass) r;

-- What is where, how many days the archive and the view have that history lacks or that differ from it, and whether
-- each view is what its query returns.
CREATE FUNCTION state() RETURNS TABLE (archived text, weeks text, shops text, wrong_days bigint, inexact bigint)
LANGUAGE plpgsql AS $$ BEGIN
	PERFORM prod_analytics.refresh_incremental();
	RETURN QUERY SELECT
		(SELECT coalesce(min(a.day) || ' ' || max(a.day) || ' ' || count(*), 'none') FROM daily_archive a),
		(SELECT coalesce(min(a.week) || ' ' || max(a.week) || ' ' || count(*), 'none') FROM weekly_archive a),
		(SELECT string_agg(coalesce(a.shop, 'NULL') || ' ' || a.sales, ', ' ORDER BY a.shop) FROM shops_archive a),
		(SELECT count(*) FROM ((TABLE days_known EXCEPT ALL TABLE all_days) UNION ALL (TABLE all_days EXCEPT ALL TABLE days_known)) d),
		(SELECT count(*) FROM unnest('{daily,weekly,shops,months}'::regclass[]) v, prod_analytics.verify_matview(v));
END $$;
SELECT * FROM state();

-- January goes; the last week of it stays, with what is left of it, and shops that have sold something later.
SELECT prod_analytics.drop_expired_partitions('sales', '2026-04-15');
SELECT * FROM state();
SELECT count(*) FILTER (WHERE shop IS NULL) > 0 AS with_null_keys, count(*) FILTER (WHERE archived_at = now()) AS this_instant,
	count(note) AS notes FROM daily_archive;
SELECT week, sales, (SELECT count(*) FROM sold WHERE date_trunc('week', day) = week) AS ever FROM weekly ORDER BY week LIMIT 1;
SELECT shop, sales FROM shops ORDER BY shop;
SELECT min(month) FROM months;
-- What has not been refreshed is refreshed first, also what the same transaction has changed.
INSERT INTO sales VALUES ('2026-02-03', 'fresh', 7);
BEGIN;
INSERT INTO sales VALUES ('2026-03-03', 'fresh', 8);
UPDATE sales SET amount = 3 WHERE shop = 'gone';
SELECT prod_analytics.drop_expired_partitions('sales', '2026-06-15');
ROLLBACK;
SELECT count(*) FROM daily_archive WHERE shop = 'fresh';
INSERT INTO sold VALUES ('2026-02-03', 'fresh', 7, '2026-02-03'), ('2026-03-03', 'fresh', 8, '2026-03-03');
UPDATE sold SET amount = 3 WHERE shop = 'gone' AND day > '2026-02-01';
BEGIN;
INSERT INTO sales VALUES ('2026-03-03', 'fresh', 8);
UPDATE sales SET amount = 3 WHERE shop = 'gone';
SELECT prod_analytics.drop_expired_partitions('sales', '2026-06-15') AS several;
COMMIT;
SELECT * FROM state();
-- Detached, the partition's groups are archived too.
SELECT prod_analytics.drop_expired_partitions('sales', '2026-07-15', keep_table => true);
SELECT * FROM state();
SELECT count(*) > 0 AS kept FROM sales_p20260401;
-- REFRESH, by hand or for everything, brings nothing back and takes nothing away.
REFRESH MATERIALIZED VIEW daily;
REFRESH MATERIALIZED VIEW CONCURRENTLY weekly;
SELECT prod_analytics.mark_changed('daily');
SELECT * FROM state();
-- Nothing to drop.
SELECT prod_analytics.drop_expired_partitions('sales', '2026-07-15');

-- Late rows of an archived group are in the view until their partition expires, and never in the archive.
SELECT prod_analytics.ensure_partitions_between('sales', '2026-01-01', '2026-01-31');
INSERT INTO sales VALUES ('2026-01-02', 'shop 0', 1000), ('2026-01-02', 'late', 1);
INSERT INTO sold VALUES ('2026-01-02', 'late', 1, '2026-01-02');
SELECT prod_analytics.refresh_incremental('daily')->>'inserted' AS inserted;
SELECT sales, amount FROM daily WHERE day = '2026-01-02' AND shop = 'shop 0';
SELECT prod_analytics.drop_expired_partitions('sales', '2026-07-15');
SELECT count(*) FROM daily_archive WHERE amount = 1000;
SELECT * FROM state();

-- error: an archive that has gone or does not fit any more; nothing is dropped
SELECT prod_analytics.ensure_partitions_between('sales', '2026-02-01', '2026-02-28');
INSERT INTO sales VALUES ('2026-02-10', 'later', 1);
DROP VIEW days_known;
ALTER TABLE daily_archive DROP COLUMN sales;
SELECT prod_analytics.drop_expired_partitions('sales', '2026-07-15');
ALTER TABLE daily_archive ADD sales text;
SELECT prod_analytics.drop_expired_partitions('sales', '2026-07-15');
ALTER TABLE daily_archive ALTER sales TYPE bigint USING 0, ADD CHECK (shop <> 'later');
\set VERBOSITY terse
SELECT prod_analytics.drop_expired_partitions('sales', '2026-07-15');
\set VERBOSITY default
SELECT count(*) FROM sales WHERE shop = 'later';
ALTER TABLE daily_archive DROP CONSTRAINT daily_archive_shop_check;
-- An archive that is dropped is one that the user does not want; somebody who goes behind our back has an error.
ALTER EVENT TRIGGER prod_analytics_follow_drops DISABLE;
DROP TABLE shops_archive;
ALTER EVENT TRIGGER prod_analytics_follow_drops ENABLE ALWAYS;
SELECT prod_analytics.drop_expired_partitions('sales', '2026-07-15');
CREATE TABLE shops_archive (LIKE shops); -- without an index, which is only there to tell late rows
-- error: a view that cannot be kept incrementally any more; other tables are not kept waiting
ALTER TABLE sales ENABLE ROW LEVEL SECURITY;
SELECT prod_analytics.drop_expired_partitions('sales', '2026-07-15');
CREATE TABLE others (k date) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('others', 'k', '1 month', ahead => 1, behind => 5, retention => '2 months');
SELECT prod_analytics.ensure_partitions_between('others', '2026-04-01', '2026-06-30');
SELECT prod_analytics.drop_expired_partitions(at => '2026-07-15');
ALTER TABLE sales DISABLE ROW LEVEL SECURITY;
-- error: without the index on its keys
DROP INDEX weekly_week_idx;
SELECT prod_analytics.drop_expired_partitions('sales', '2026-07-15');
CREATE UNIQUE INDEX ON weekly (week) NULLS NOT DISTINCT;
SELECT prod_analytics.drop_expired_partitions('sales', '2026-07-15');
SELECT count(*) FROM daily_archive WHERE shop = 'later';
-- A view that is empty is filled first.
REFRESH MATERIALIZED VIEW weekly WITH NO DATA;
SELECT prod_analytics.ensure_partitions_between('sales', '2026-02-01', '2026-02-28');
INSERT INTO sales VALUES ('2026-02-10', 'filled', 1);
SELECT prod_analytics.drop_expired_partitions('sales', '2026-07-15');
SELECT count(*) FROM daily_archive WHERE shop = 'filled';
SELECT count(*) > 0 AS rows FROM weekly;
-- Without its archive a view loses its groups, as its query demands.
DROP TABLE shops_archive;
SELECT matview, archive FROM prod_analytics.registered_matviews WHERE matview LIKE '%shops';
DROP TABLE sales CASCADE;

-- Daily partitions, hourly groups, and a table that is partitioned below: its partitions are below the view's source.
CREATE TABLE ticks (region int, at timestamptz, n int) PARTITION BY LIST (region);
CREATE TABLE ticks_1 PARTITION OF ticks FOR VALUES IN (1) PARTITION BY RANGE (at);
CREATE TABLE ticks_2 PARTITION OF ticks FOR VALUES IN (2);
SELECT prod_analytics.manage_partitions('ticks_1', 'at', '1 day', ahead => 1, behind => 3, retention => '2 days');
SELECT prod_analytics.ensure_partitions_between('ticks_1', '2026-06-01', '2026-06-06');
INSERT INTO ticks SELECT n % 2 + 1, '2026-06-01 00:00'::timestamptz + n * interval '10 minutes', n FROM generate_series(0, 575) n;
CREATE MATERIALIZED VIEW hourly AS SELECT region, date_trunc('hour', at AT TIME ZONE 'UTC') AS hour, sum(n) AS n FROM ticks GROUP BY 1, 2;
CREATE UNIQUE INDEX ON hourly (region, hour) NULLS NOT DISTINCT;
CREATE TABLE hourly_archive (LIKE hourly);
SELECT prod_analytics.enable_incremental_refresh('hourly', 'hourly_archive')->>'mode' AS mode;
SELECT prod_analytics.drop_expired_partitions('ticks_1', '2026-06-05 12:00');
SELECT region, min(hour), max(hour), count(*), sum(n) FROM hourly_archive GROUP BY 1;
SELECT * FROM prod_analytics.verify_matview('hourly');

-- maintain_partitions() archives too, a partition after the other; what has a row elsewhere waits for it.
CREATE TABLE old (at date, k int) PARTITION BY RANGE (at);
SELECT prod_analytics.manage_partitions('old', 'at', '1 month', ahead => 1, behind => 0, retention => '1 month');
SELECT prod_analytics.ensure_partitions('old') > 0 AS made, prod_analytics.ensure_partitions_between('old', '2020-01-01', '2020-03-31');
INSERT INTO old VALUES ('2020-01-10', 1), ('2020-02-10', 1), ('2020-02-10', 2), ('2020-03-10', 3), (current_date, 3), ('2020-03-10', NULL);
CREATE MATERIALIZED VIEW old_k AS SELECT k, count(*) FROM old GROUP BY k;
CREATE UNIQUE INDEX ON old_k (k) NULLS NOT DISTINCT;
CREATE TABLE old_k_archive (LIKE old_k);
SELECT prod_analytics.enable_incremental_refresh('old_k', 'old_k_archive')->>'mode' AS mode;
CALL prod_analytics.maintain_partitions('old');
SELECT * FROM old_k_archive ORDER BY k;
TABLE old_k;
-- A failure is told, the others go on.
SELECT prod_analytics.ensure_partitions_between('old', '2020-01-01', '2020-03-31');
INSERT INTO old VALUES ('2020-01-10', 1);
ALTER TABLE old_k_archive DROP count;
CALL prod_analytics.maintain_partitions('old');
SELECT status, details->'errors' AS errors FROM prod_analytics.etl_jobs WHERE job_name = 'maintain_partitions' ORDER BY job_id DESC LIMIT 1;
SELECT count(*) FROM old WHERE at < '2021-01-01';

-- The metrics of events that are dropped stay in org_daily_metrics, once.
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
SELECT prod_analytics.manage_partitions('prod_analytics.events', 'event_time', ahead => 1, behind => 3, retention => '2 months');
SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2026-03-01', '2026-06-30') > 0 AS made;
INSERT INTO prod_analytics.events (org_id, event_type, event_time)
SELECT nullif(n % 2, 0), 'purchase', '2026-03-01'::timestamptz + n * interval '12 hours' FROM generate_series(0, 180) n;
SELECT prod_analytics.refresh_incremental()->>'status' AS status;
CREATE TABLE metrics_before AS TABLE prod_analytics.org_daily_metrics;
SELECT prod_analytics.drop_expired_partitions('prod_analytics.events', '2026-06-15');
SELECT count(*) FROM prod_analytics.org_daily_metrics_archive;
SELECT count(*) FROM (TABLE metrics_before EXCEPT ALL TABLE prod_analytics.org_daily_metrics) lost;
SELECT count(*) FROM (TABLE prod_analytics.org_daily_metrics EXCEPT ALL TABLE metrics_before) more;
REFRESH MATERIALIZED VIEW prod_analytics.mv_org_daily_metrics;
SELECT count(*) = (SELECT count(*) FROM metrics_before) AS once FROM prod_analytics.org_daily_metrics;

SET client_min_messages = warning;
DROP SCHEMA keep CASCADE;
DROP SCHEMA prod_analytics CASCADE;
