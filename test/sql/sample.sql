-- load_sample_data(): users spread over organizations, same seed same rows.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;

-- Everything hangs on the day: without one transaction the test would fail at midnight.
BEGIN;
SELECT prod_analytics.load_sample_data();
SELECT org_name, count(*) BETWEEN 30 AND 70 AS about_half
FROM prod_analytics.users JOIN prod_analytics.organizations USING (org_id) GROUP BY org_name ORDER BY org_name;
SELECT event_type, count(*) BETWEEN share * 0.7 AND share * 1.3 AS as_expected
FROM prod_analytics.events JOIN (VALUES ('purchase', 100), ('add_to_cart', 900), ('product_view', 4000)) s (event_type, share)
	USING (event_type)
GROUP BY event_type, share ORDER BY event_type;
SELECT count(*) FILTER (WHERE e.org_id <> u.org_id) AS in_another_org,
	count(*) FILTER (WHERE e.event_time < u.signup_ts) AS before_signup,
	count(*) FILTER (WHERE e.event_time < now() - interval '744 hours' OR e.event_time > now()) AS outside,
	count(*) FILTER (WHERE e.device_type <> e.event_props->>'device') AS other_device,
	count(DISTINCT e.user_id) > 80 AS most_users
FROM prod_analytics.events e JOIN prod_analytics.users u USING (user_id);
SELECT tableoid::regclass FROM prod_analytics.events WHERE tableoid = 'prod_analytics.events_default'::regclass;

-- Each event satisfies its schema, and no purchase lacks what a quality check looks for.
SELECT e.event_type, count(*) > 0 AS some, count(*) FILTER (WHERE NOT prod_analytics.is_valid_event(e.event_type, e.event_props)) AS invalid
FROM prod_analytics.events e GROUP BY 1 ORDER BY 1;
SELECT status, failing_rows FROM prod_analytics.run_quality_checks('missing_purchase_keys');

-- Again: nothing new.  Another seed: new events of the same users.
SELECT prod_analytics.load_sample_data();
SELECT prod_analytics.load_sample_data(seed => 0.5);

-- The same seed gives the same rows on an empty store.
CREATE TEMPORARY TABLE first_events AS TABLE prod_analytics.events;
CREATE TEMPORARY TABLE first_users AS TABLE prod_analytics.users;
TRUNCATE prod_analytics.organizations, prod_analytics.users, prod_analytics.events RESTART IDENTITY CASCADE;
SELECT setseed(0.1);
SELECT prod_analytics.load_sample_data();
SELECT prod_analytics.load_sample_data(seed => 0.5);
SELECT count(*) FROM (TABLE first_events EXCEPT ALL TABLE prod_analytics.events) d;
SELECT count(*) FROM (TABLE first_users EXCEPT ALL TABLE prod_analytics.users) d;
ROLLBACK;

-- Small and empty.
BEGIN;
SELECT prod_analytics.load_sample_data(users => 1, events => 0);
SELECT prod_analytics.load_sample_data(1, 3);
ROLLBACK;

-- error: nonsense
SELECT prod_analytics.load_sample_data(users => 0);
SELECT prod_analytics.load_sample_data(events => -1);
SELECT prod_analytics.load_sample_data(users => NULL);
SELECT prod_analytics.load_sample_data(seed => NULL);
SELECT prod_analytics.load_sample_data(seed => 2);
