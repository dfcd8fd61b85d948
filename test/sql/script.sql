-- The SQL of sections 6, 7, 14 and 17 of the specification as it stands there, on our tables, beside ours.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SET TimeZone = 'UTC';

-- now() and current_date stand still in a transaction; the events are of the days before today.
BEGIN;
SELECT prod_analytics.load_sample_data(users => 60, events => 3000, seed => 0.1) - 'organizations';
UPDATE prod_analytics.events SET event_props = event_props || jsonb_build_object('product', jsonb_build_object('id', event_props->'product_id',
	'attributes', CASE event_id % 3 WHEN 0 THEN '[]'::jsonb ELSE jsonb_build_array(jsonb_build_object('k', 'color', 'v', 'red'), jsonb_build_object('k', 'size', 'v', event_id % 7)) END))
WHERE event_type = 'product_view' AND event_id % 13 = 0;

-- Section 6: daily active users.  (Its rolling figure adds up days, and so counts a user of seven days seven times.)
CREATE TEMPORARY TABLE script_dau AS
WITH dau AS (
  SELECT event_date,
         count(DISTINCT user_id) AS dau_count
  FROM prod_analytics.events
  WHERE event_time >= now() - INTERVAL '90 days'
  GROUP BY event_date
)
SELECT
  event_date,
  dau_count,
  SUM(dau_count) OVER (ORDER BY event_date ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS rolling_7_day_active_users
FROM dau
ORDER BY event_date DESC
LIMIT 90;
SELECT count(*) FROM script_dau s FULL JOIN (SELECT * FROM prod_analytics.active_users(current_date - 89, current_date) WHERE daily > 0) a USING (event_date)
WHERE s.dau_count IS DISTINCT FROM a.daily;
SELECT bool_and(a.weekly <= s.rolling_7_day_active_users) AS never_more, bool_or(a.weekly < s.rolling_7_day_active_users) AS sometimes_less, max(a.weekly) <= 60 AS at_most_all
FROM script_dau s JOIN prod_analytics.active_users(current_date - 89, current_date) a USING (event_date);

-- Section 6: retention.  (It lists the days that somebody of the cohort had events, without the cohort's size.)
CREATE TEMPORARY TABLE script_retention AS
WITH cohorts AS (
  SELECT u.user_id, u.created_at::date AS signup_date, e.event_time::date AS event_date
  FROM prod_analytics.users u
  LEFT JOIN prod_analytics.events e ON e.user_id = u.user_id
  WHERE u.created_at >= current_date - INTERVAL '90 days'
)
SELECT
  signup_date,
  event_date,
  COUNT(DISTINCT user_id) AS active_users,
  (event_date - signup_date) AS days_after_signup
FROM cohorts
GROUP BY signup_date, event_date
ORDER BY signup_date DESC, days_after_signup
LIMIT 200;
SELECT count(*) AS different FROM (SELECT * FROM script_retention WHERE event_date IS NOT NULL) s
LEFT JOIN prod_analytics.retention(current_date - 90, current_date, cohort_by => 'signup') r
	ON r.cohort = s.signup_date AND r.period_number = s.days_after_signup
WHERE s.active_users IS DISTINCT FROM r.active_users;
SELECT count(*) AS listed FROM script_retention;

-- Section 7.
CREATE TEMPORARY TABLE script_attributes AS
SELECT e.event_id, e.user_id, e.event_time,
       (e.event_props->'product'->>'id')::text AS product_id,
       k.attr->>'k' AS attr_key,
       k.attr->>'v' AS attr_value
FROM prod_analytics.events e
CROSS JOIN LATERAL jsonb_array_elements(coalesce(e.event_props->'product'->'attributes', '[]'::jsonb)) AS k(attr)
WHERE e.event_type = 'product_view'
LIMIT 500;
SELECT count(*) AS different FROM (
	(TABLE script_attributes EXCEPT ALL TABLE prod_analytics.product_attributes)
	UNION ALL (TABLE prod_analytics.product_attributes EXCEPT ALL TABLE script_attributes)) d;
SELECT count(*) BETWEEN 100 AND 499 AS enough FROM script_attributes;

-- Section 14: what funnel() says with strict => false.
CREATE TEMPORARY TABLE script_funnel AS
WITH views AS (
  SELECT user_id, event_time, (event_props->>'product_id') AS product_id
  FROM prod_analytics.events WHERE event_type = 'product_view'
),
adds AS (
  SELECT user_id, event_time, (event_props->>'product_id') AS product_id
  FROM prod_analytics.events WHERE event_type = 'add_to_cart'
),
purchases AS (
  SELECT user_id, event_time, (event_props->>'product_id') AS product_id
  FROM prod_analytics.events WHERE event_type = 'purchase'
)
SELECT
  v.product_id,
  COUNT(DISTINCT v.user_id) AS viewers,
  COUNT(DISTINCT a.user_id) AS adders,
  COUNT(DISTINCT p.user_id) AS purchasers,
  ROUND(100.0 * COUNT(DISTINCT p.user_id) / NULLIF(COUNT(DISTINCT v.user_id),0), 2) AS conv_rate_from_view
FROM views v
LEFT JOIN adds a ON a.user_id = v.user_id AND a.product_id = v.product_id AND a.event_time BETWEEN v.event_time AND v.event_time + INTERVAL '7 days'
LEFT JOIN purchases p ON p.user_id = v.user_id AND p.product_id = v.product_id AND p.event_time BETWEEN v.event_time AND v.event_time + INTERVAL '7 days'
GROUP BY v.product_id
ORDER BY conv_rate_from_view DESC NULLS LAST
LIMIT 100;
WITH ours AS (
	SELECT group_value, max(users) FILTER (WHERE step = 1), max(users) FILTER (WHERE step = 2), max(users) FILTER (WHERE step = 3),
		max(conversion_rate) FILTER (WHERE step = 3)
	FROM prod_analytics.funnel('{product_view,add_to_cart,purchase}', by => 'product_id', strict => false)
	GROUP BY group_value
)
SELECT count(*) AS different FROM ((TABLE script_funnel EXCEPT ALL TABLE ours) UNION ALL (TABLE ours EXCEPT ALL TABLE script_funnel)) d;
SELECT sum(adders) > 20 AS enough FROM script_funnel;

-- In the strict order there are never more.
SELECT bool_and(s.users <= f.users) AS never_more
FROM prod_analytics.funnel('{product_view,add_to_cart,purchase}', by => 'product_id') s
JOIN prod_analytics.funnel('{product_view,add_to_cart,purchase}', by => 'product_id', strict => false) f USING (group_value, step);

-- Section 17.
CREATE TEMPORARY TABLE script_without AS
SELECT u.user_id, u.email, u.signup_ts
FROM prod_analytics.users u
LEFT JOIN prod_analytics.events e ON e.user_id = u.user_id AND e.event_type = 'purchase'
WHERE e.event_id IS NULL
LIMIT 100;
CREATE TEMPORARY TABLE script_with AS
SELECT u.user_id, u.email
FROM prod_analytics.users u
WHERE EXISTS (
  SELECT 1 FROM prod_analytics.events e WHERE e.user_id = u.user_id AND e.event_type = 'product_view'
)
LIMIT 100;
SELECT count(*) AS different FROM script_without s FULL JOIN prod_analytics.users_without_event('purchase') o USING (user_id)
WHERE s.email::text IS DISTINCT FROM o.email;
SELECT count(*) AS different FROM script_with s FULL JOIN prod_analytics.users_with_event('product_view') o USING (user_id)
WHERE s.email::text IS DISTINCT FROM o.email;
SELECT (SELECT count(*) FROM script_without) > 0 AS some_without, (SELECT count(*) FROM script_with) > 50 AS most_with;
ROLLBACK;

SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
