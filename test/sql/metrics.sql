-- mv_org_daily_metrics: exact, and no price can break it.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SET TimeZone = 'UTC';
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
INSERT INTO prod_analytics.users (user_id, org_id, email) VALUES (1, 1, 'a@example.com'), (2, 1, 'b@example.com');

-- Each price in a group of its own: what counts, and what counts as none.
INSERT INTO prod_analytics.events (org_id, event_type, event_props, event_time)
SELECT row_number() OVER (), 'purchase', props::jsonb, '2026-03-01'
FROM (VALUES
	('{"price": 12.5}'), ('{"price": "12.5"}'), ('{"price": -3}'), ('{"price": "-3.25"}'), ('{"price": 0}'),
	('{"price": 1e3}'), ('{"price": "1e3"}'), ('{"price": "abc"}'), ('{"price": ""}'), ('{"price": null}'),
	('{"price": true}'), ('{"price": [1]}'), ('{"price": {"amount": 1}}'), ('{}'), (NULL), ('[]'), ('"price"'),
	('{"price": "NaN"}'), ('{"price": "Infinity"}'), ('{"price": "1."}'), ('{"price": ".5"}'), ('{"price": " 1"}'),
	('{"price": "1\n"}'), ('{"price": "1 2"}'), ('{"price": "٣"}'), ('{"price": "1,5"}'), ('{"price": "+1"}'),
	('{"price": 1' || repeat('0', 200) || '}'), ('{"price": "' || repeat('9', 100) || '"}'),
	('{"price": 9' || repeat('9', 130000) || '}')
) AS p (props);
REFRESH MATERIALIZED VIEW CONCURRENTLY prod_analytics.mv_org_daily_metrics;
SELECT left(e.event_props::text, 40) AS event_props, left(m.revenue::text, 12) AS revenue
FROM prod_analytics.mv_org_daily_metrics m JOIN prod_analytics.events e USING (org_id, event_date)
ORDER BY m.org_id;

-- Distinct users, purchases, the NULL group, and days in UTC.
TRUNCATE prod_analytics.events;
SET TimeZone = 'Asia/Kathmandu';
INSERT INTO prod_analytics.events (user_id, org_id, event_type, event_props, event_time) VALUES
	(1, 1, 'view', '{"price": 1}', '2026-03-01 23:59:59.999999+00'),
	(1, 1, 'purchase', '{"price": 10}', '2026-03-01 00:00:00+00'),
	(2, 1, 'purchase', NULL, '2026-03-01 12:00:00+00'),
	(1, 1, 'view', NULL, '2026-03-02 00:00:00+00'),
	(NULL, 1, 'view', NULL, '2026-03-03 00:00:00+00'),
	(2, NULL, 'purchase', '{"price": "2.50"}', '2026-03-01 12:00:00+00'),
	(NULL, NULL, 'purchase', '{"price": "2.50"}', '2026-03-01 12:00:00+00');
REFRESH MATERIALIZED VIEW CONCURRENTLY prod_analytics.mv_org_daily_metrics;
REFRESH MATERIALIZED VIEW CONCURRENTLY prod_analytics.mv_org_daily_metrics;
SET DateStyle = 'ISO';
SELECT org_id, event_date, dau, purchases, revenue FROM prod_analytics.mv_org_daily_metrics ORDER BY 1, 2;
RESET DateStyle;
RESET TimeZone;

-- One row per organization and day, also for events without an organization.
SELECT indnullsnotdistinct FROM pg_index WHERE indexrelid = 'prod_analytics.mv_org_daily_metrics_idx'::regclass;

-- No event at all is no row at all.
TRUNCATE prod_analytics.events;
REFRESH MATERIALIZED VIEW CONCURRENTLY prod_analytics.mv_org_daily_metrics;
SELECT count(*) FROM prod_analytics.mv_org_daily_metrics;
