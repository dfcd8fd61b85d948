-- users_with_event(), users_without_event(), product_attributes.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
INSERT INTO prod_analytics.users (user_id, org_id, email) SELECT n, 1, n || '@Example.com' FROM generate_series(1, 4) n;
INSERT INTO prod_analytics.events (event_id, user_id, event_type, event_props, event_time) VALUES
	(1, 1, 'purchase', NULL, '2026-03-01'), (2, 1, 'purchase', NULL, '2026-04-01'), (3, 2, 'view', NULL, '2026-03-01'),
	(4, 3, 'purchase', NULL, '2026-04-01'), (5, NULL, 'purchase', NULL, '2026-03-01');

-- Each user once, anonymous events count for nobody; in a range, its end outside.
SELECT * FROM prod_analytics.users_with_event('purchase') ORDER BY user_id;
SELECT * FROM prod_analytics.users_without_event('purchase') ORDER BY user_id;
SELECT user_id FROM prod_analytics.users_with_event('purchase', '2026-03-01', '2026-04-01') ORDER BY user_id;
SELECT user_id FROM prod_analytics.users_without_event('purchase', '2026-03-01', '2026-04-01') ORDER BY user_id;
SELECT count(*) FROM prod_analytics.users_with_event(NULL);

-- A range without any moment has nobody.
SELECT count(*) FROM prod_analytics.users_with_event('purchase', '2026-03-01', '2026-03-01');
-- error: the wrong way round, also when it is known only when the query runs
SELECT * FROM prod_analytics.users_with_event('purchase', '2026-04-01', '2026-03-01');
SELECT * FROM prod_analytics.users_without_event('purchase', now(), now() - interval '7 days');

-- A semi-join and an anti-join, of the partitions in the range.
ANALYZE prod_analytics.events;
SET enable_nestloop = off;
SET enable_mergejoin = off;
EXPLAIN (COSTS OFF) SELECT * FROM prod_analytics.users_with_event('purchase', '2026-03-01', '2026-04-01');
EXPLAIN (COSTS OFF) SELECT * FROM prod_analytics.users_without_event('purchase', '2026-03-01', '2026-04-01');
RESET enable_nestloop;
RESET enable_mergejoin;

-- Elements of arrays become rows; what is no array is none.
INSERT INTO prod_analytics.events (event_id, user_id, event_type, event_props, event_time)
SELECT 100 + n, 1, CASE n WHEN 12 THEN 'purchase' ELSE 'product_view' END, props::jsonb, '2026-03-05'
FROM unnest(ARRAY[
	'{"product": {"id": "p1", "attributes": [{"k": "color", "v": "red"}, {"k": "size", "v": 7}]}}',
	'{"product": {"id": 2, "attributes": []}}', '{"product": {"id": "p3", "attributes": {"k": "color"}}}',
	'{"product": {"id": "p4", "attributes": "color"}}', '{"product": {"id": "p5", "attributes": null}}', '{"product": {"id": "p6"}}',
	'{"product": "p7"}', '{}', '[]', NULL, '{"product": {"id": "p11", "attributes": ["color", {"v": {"x": 1}}]}}',
	'{"product": {"id": "p12", "attributes": [{"k": "color", "v": "red"}]}}'
]) WITH ORDINALITY u (props, n);
SELECT * FROM prod_analytics.product_attributes ORDER BY event_id, attr_key;
EXPLAIN (COSTS OFF) SELECT * FROM prod_analytics.product_attributes WHERE event_time >= '2026-03-01' AND event_time < '2026-04-01';

SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
