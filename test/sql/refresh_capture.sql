-- What changes the source of a view, one thing after the other: the next refresh must see each.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
CREATE SCHEMA capture;
SET search_path = capture;

CREATE TABLE sales (
	id bigint NOT NULL,
	sold_at timestamptz NOT NULL,
	shop text,
	amount numeric,
	note text,
	day date GENERATED ALWAYS AS ((sold_at AT TIME ZONE 'UTC')::date) STORED,
	PRIMARY KEY (id, sold_at)
) PARTITION BY RANGE (sold_at);
CREATE TABLE sales_january PARTITION OF sales FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00');
CREATE TABLE sales_february PARTITION OF sales FOR VALUES FROM ('2026-02-01 00:00+00') TO ('2026-03-01 00:00+00');
CREATE TABLE sales_others PARTITION OF sales DEFAULT;
CREATE INDEX ON sales (shop, sold_at);

INSERT INTO sales
SELECT n, '2026-01-01 00:00+00'::timestamptz + n * interval '3 hours', nullif('shop ' || n % 4, 'shop 3'), n, 'note'
FROM generate_series(1, 460) n;

CREATE MATERIALIZED VIEW daily AS
	SELECT shop, day, count(*) AS sales, sum(amount) AS amount, now() AS computed_at FROM sales GROUP BY shop, day;
CREATE UNIQUE INDEX ON daily (shop, day) NULLS NOT DISTINCT;
CREATE MATERIALIZED VIEW shops AS
	SELECT shop, count(*) AS sales, max(amount) AS largest FROM sales GROUP BY shop HAVING count(*) > 0;
CREATE UNIQUE INDEX ON shops (shop) NULLS NOT DISTINCT;
SELECT prod_analytics.enable_incremental_refresh(v)->>'mode' AS mode FROM unnest('{daily, shops}'::regclass[]) v;

-- Refreshes both views, and tells what that did to "daily", and whether they are what their queries return.
CREATE FUNCTION seen(what text) RETURNS TABLE (change text, method text, keys int, rows int, exact boolean)
LANGUAGE plpgsql AS $$
DECLARE
	result jsonb := prod_analytics.refresh_incremental('daily');
	differences bigint;
BEGIN
	PERFORM prod_analytics.refresh_incremental('shops');
	SELECT count(*) INTO differences FROM (
		(SELECT shop, day, sales, amount FROM daily
			EXCEPT ALL SELECT sales.shop, sales.day, count(*), sum(sales.amount) FROM sales GROUP BY 1, 2)
		UNION ALL
		(SELECT sales.shop, sales.day, count(*), sum(sales.amount) FROM sales GROUP BY 1, 2
			EXCEPT ALL SELECT shop, day, sales, amount FROM daily)
	) d;
	differences := differences + (SELECT count(*) FROM (
		(TABLE shops EXCEPT ALL SELECT sales.shop, count(*), max(sales.amount) FROM sales GROUP BY 1)
		UNION ALL
		(SELECT sales.shop, count(*), max(sales.amount) FROM sales GROUP BY 1 EXCEPT ALL TABLE shops)
	) d);
	RETURN QUERY SELECT what, result->>'method', (result->>'keys')::int, (result->>'rows')::int, differences = 0;
END $$;

SELECT * FROM seen('the first refresh');
SELECT * FROM seen('nothing');

INSERT INTO sales VALUES (1001, '2026-01-05 10:00+00', 'shop 0', 5);
SELECT * FROM seen('INSERT');
INSERT INTO sales VALUES (1002, '2026-01-05 11:00+00', NULL, 5);
SELECT * FROM seen('INSERT, of a group whose key is NULL');
UPDATE sales SET amount = amount + 1 WHERE id = 1001;
SELECT * FROM seen('UPDATE');
UPDATE sales SET shop = 'shop 9' WHERE id = 1001;
SELECT * FROM seen('UPDATE of the key: two groups');
UPDATE sales SET note = 'another';
SELECT * FROM seen('UPDATE of what the view does not read');
UPDATE sales SET amount = amount;
SELECT * FROM seen('UPDATE that changes nothing');
DELETE FROM sales WHERE id IN (1001, 1002);
SELECT * FROM seen('DELETE');
MERGE INTO sales USING (VALUES (1003, 7), (10, 1), (11, NULL)) v (id, amount) ON sales.id = v.id
	WHEN MATCHED AND v.amount IS NULL THEN DELETE
	WHEN MATCHED THEN UPDATE SET amount = v.amount
	WHEN NOT MATCHED THEN INSERT (id, sold_at, shop, amount) VALUES (v.id, '2026-02-10 00:00+00', 'shop 0', v.amount);
SELECT * FROM seen('MERGE: insert, update and delete');
INSERT INTO sales VALUES (1003, '2026-02-10 00:00+00', 'shop 1', 8) ON CONFLICT (id, sold_at) DO UPDATE SET amount = EXCLUDED.amount;
SELECT * FROM seen('ON CONFLICT DO UPDATE');
INSERT INTO sales VALUES (1003, '2026-02-10 00:00+00', 'shop 1', 9) ON CONFLICT DO NOTHING;
SELECT * FROM seen('ON CONFLICT DO NOTHING');
COPY sales (id, sold_at, shop, amount) FROM stdin (FORMAT csv);
1004,2026-01-07 00:00+00,shop 2,1
1005,2026-02-07 00:00+00,shop 2,1
\.
SELECT * FROM seen('COPY');
INSERT INTO sales_january VALUES (1006, '2026-01-08 00:00+00', 'shop 2', 1);
SELECT * FROM seen('INSERT into a partition');
COPY sales_february (id, sold_at, shop, amount) FROM stdin (FORMAT csv);
1007,2026-02-08 00:00+00,shop 2,1
\.
SELECT * FROM seen('COPY into a partition');
UPDATE sales SET sold_at = '2026-02-09 00:00+00' WHERE id = 1006;
SELECT * FROM seen('UPDATE that moves a row to another partition');
UPDATE sales SET sold_at = '2027-02-09 00:00+00' WHERE id = 1007;
SELECT * FROM seen('UPDATE that moves a row to the default partition');

SET session_replication_role = replica;
INSERT INTO sales VALUES (1010, '2026-01-09 00:00+00', 'shop 0', 1);
RESET session_replication_role;
SELECT * FROM seen('session_replication_role = replica');

-- Without any privilege but that to write.
CREATE ROLE regress_writer;
GRANT USAGE ON SCHEMA capture TO regress_writer;
GRANT INSERT ON sales TO regress_writer;
SET ROLE regress_writer;
INSERT INTO sales VALUES (1011, '2026-01-10 00:00+00', 'shop 0', 1);
RESET ROLE;
SELECT * FROM seen('INSERT by a role that may do nothing else');

-- Savepoints.
BEGIN;
SAVEPOINT before;
INSERT INTO sales VALUES (1020, '2026-01-11 00:00+00', 'shop 0', 1);
ROLLBACK TO before;
INSERT INTO sales VALUES (1021, '2026-01-12 00:00+00', 'shop 0', 1);
SELECT * FROM seen('within the transaction, after a savepoint was rolled back');
SAVEPOINT after;
INSERT INTO sales VALUES (1022, '2026-01-12 00:00+00', 'shop 0', 1);
SELECT * FROM seen('within the transaction, again the same group');
ROLLBACK TO after;
COMMIT;
SELECT * FROM seen('the refresh was rolled back with the savepoint');
BEGIN;
INSERT INTO sales VALUES (1023, '2026-01-13 00:00+00', 'shop 0', 1);
SAVEPOINT before;
SELECT * FROM seen('within the transaction, after a savepoint');
ROLLBACK TO before;
COMMIT;
SELECT * FROM seen('only the refresh was rolled back');
BEGIN;
INSERT INTO sales VALUES (1024, '2026-01-14 00:00+00', 'shop 0', 1);
SELECT * FROM seen('before the transaction is rolled back');
ROLLBACK;
SELECT * FROM seen('all was rolled back');

-- What fires no trigger.
TRUNCATE sales_february;
SELECT * FROM seen('TRUNCATE of a partition');
ALTER TABLE sales DETACH PARTITION sales_february;
SELECT * FROM seen('DETACH of an empty partition');
INSERT INTO sales_february (id, sold_at, shop, amount) VALUES (1030, '2026-02-01 00:00+00', 'shop 5', 1), (1031, '2026-02-02 00:00+00', NULL, 1);
ALTER TABLE sales ATTACH PARTITION sales_february FOR VALUES FROM ('2026-02-01 00:00+00') TO ('2026-03-01 00:00+00');
SELECT * FROM seen('ATTACH of a partition that has rows');
ALTER TABLE sales DETACH PARTITION sales_february;
UPDATE sales_february SET shop = 'shop 6' WHERE id = 1030;
ALTER TABLE sales ATTACH PARTITION sales_february FOR VALUES FROM ('2026-02-01 00:00+00') TO ('2026-03-01 00:00+00');
SELECT * FROM seen('DETACH, change and ATTACH');
CREATE TABLE sales_march PARTITION OF sales FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-04-01 00:00+00');
SELECT * FROM seen('a new partition');
INSERT INTO sales VALUES (1032, '2026-03-01 00:00+00', 'shop 0', 1);
SELECT * FROM seen('INSERT into a new partition');
DROP TABLE sales_march;
SELECT * FROM seen('DROP of a partition');
ALTER TABLE sales_february ADD COLUMN extra int DEFAULT random() * 10;
ALTER TABLE sales_february DROP COLUMN extra;
VACUUM FULL sales_february;
SELECT * FROM seen('VACUUM FULL');
TRUNCATE sales_others;
INSERT INTO sales VALUES (1040, '2026-05-05 00:00+00', 'shop 0', 1);
SELECT * FROM seen('TRUNCATE of the default partition: everything');
SELECT prod_analytics.manage_partitions('sales', 'sold_at', ahead => 0, behind => 0);
SELECT prod_analytics.ensure_partitions('sales', '2026-05-01') > 0 AS made;
SELECT * FROM seen('the default partition was drained');

BEGIN;
TRUNCATE sales_february;
INSERT INTO sales VALUES (1050, '2026-02-03 00:00+00', 'shop 7', 1);
SELECT * FROM seen('TRUNCATE and INSERT within the transaction');
TRUNCATE sales_february;
SELECT * FROM seen('TRUNCATE of the same storage');
COMMIT;
SELECT * FROM seen('after that');

-- A disabled trigger is noticed, while it is disabled and later.
ALTER TABLE sales_january DISABLE TRIGGER ALL;
INSERT INTO sales VALUES (1060, '2026-01-15 00:00+00', 'shop 0', 1);
SELECT * FROM seen('DISABLE TRIGGER ALL');
INSERT INTO sales VALUES (1061, '2026-01-16 00:00+00', 'shop 0', 1);
SELECT * FROM seen('still disabled');
INSERT INTO sales VALUES (1062, '2026-01-17 00:00+00', 'shop 0', 1);
ALTER TABLE sales_january ENABLE TRIGGER ALL;
SELECT * FROM seen('ENABLE TRIGGER ALL, which leaves it disabled for replicas');
SELECT prod_analytics.enable_incremental_refresh('daily')->>'mode' AS mode;
SELECT prod_analytics.enable_incremental_refresh('shops')->>'mode' AS mode;
SELECT * FROM seen('registered again');
SELECT * FROM seen('nothing');
SELECT tgrelid::regclass, tgenabled FROM pg_trigger WHERE tgfoid = 'prod_analytics.capture_changes'::regproc AND tgenabled <> 'A' ORDER BY 1;

TRUNCATE sales;
SELECT * FROM seen('TRUNCATE of all');
SELECT count(*) FROM daily;

-- Nothing is left of what was noted.
SELECT count(*) FROM prod_analytics.changed_keys;

-- Nobody is left to be told.
BEGIN;
INSERT INTO sales VALUES (1070, '2026-01-18 00:00+00', 'shop 0', 1);
DROP SCHEMA prod_analytics CASCADE;
COMMIT;
SELECT count(*) FROM sales;

RESET search_path;
DROP SCHEMA capture CASCADE;
DROP ROLE regress_writer;
