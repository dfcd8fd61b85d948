-- retention(): cohorts, whole, and who of them comes back.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme'), (2, 'Globex');
INSERT INTO prod_analytics.users (user_id, org_id, email, signup_ts) VALUES
	(1, 1, 'a@example.com', '2026-03-02 00:00'), (2, 1, 'b@example.com', '2026-03-02 23:59:59.999999'), (3, 1, 'c@example.com', '2026-03-03'),
	(4, 2, 'd@example.com', '2026-03-02 12:00'), (5, 2, 'e@example.com', NULL), (6, 1, 'f@example.com', '2026-02-10');

-- 1 comes back the next day and a week later, 2 on the third day, 3 came first in February, 4 signed up and never came,
-- 5 has no sign-up, 6 comes at last.
INSERT INTO prod_analytics.events (user_id, org_id, event_type, event_time) VALUES
	(1, 1, 'view', '2026-03-02 10:00'), (1, 1, 'view', '2026-03-02 11:00'), (1, 1, 'view', '2026-03-03 10:00'), (1, 1, 'view', '2026-03-09 10:00'),
	(2, 1, 'view', '2026-03-02 10:00'), (2, 2, 'view', '2026-03-04 10:00'),
	(3, 1, 'view', '2026-02-20 10:00'), (3, 1, 'view', '2026-03-03 10:00'),
	(5, 2, 'view', '2026-03-04 00:00'), (6, 1, 'view', '2026-03-05 10:00'), (NULL, 1, 'view', '2026-03-02 10:00');
SELECT * FROM prod_analytics.retention('2026-03-02', '2026-03-05');
SELECT * FROM prod_analytics.retention('2026-03-02', '2026-03-05', cohort_by => 'signup');
SELECT * FROM prod_analytics.retention('2026-03-02', '2026-03-05', org_id => 1);
SELECT * FROM prod_analytics.retention('2026-03-02', '2026-03-05', org_id => 2, cohort_by => 'signup');

-- Weeks begin on Monday, also those of a range that begins and ends within one; months.
SELECT * FROM prod_analytics.retention('2026-03-04', '2026-03-10', 'week');
SELECT * FROM prod_analytics.retention('2026-03-01', '2026-03-01', 'week');
SELECT * FROM prod_analytics.retention('2026-02-11', '2026-04-30', 'month');
SELECT * FROM prod_analytics.retention('2026-02-11', '2026-03-01', 'month', cohort_by => 'signup');

-- The session's time zone changes nothing.
SET TimeZone = 'America/New_York';
SELECT * FROM prod_analytics.retention('2026-03-02', '2026-03-03', cohort_by => 'signup');
SET TimeZone = 'UTC';

-- Nobody.
SELECT * FROM prod_analytics.retention('2025-03-02', '2025-09-03');

-- Random users and days: what joins say, by day, week and month.
SELECT setseed(0.3);
SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2025-01-01', '2025-12-31');
INSERT INTO prod_analytics.users (user_id, org_id, email, signup_ts)
SELECT n, 1, n || '@example.com', timestamptz '2025-01-01' + random() * interval '300 days' FROM generate_series(101, 200) n;
INSERT INTO prod_analytics.events (user_id, org_id, event_type, event_time)
SELECT u.user_id, 1, 'view', u.signup_ts + random() * random() * interval '60 days' FROM prod_analytics.users u, generate_series(1, 10) WHERE user_id > 100;
CREATE FUNCTION pg_temp.joined(period text, kind text) RETURNS TABLE (cohort date, cohort_size bigint, period_number int, active_users bigint) LANGUAGE sql AS $$
	WITH active AS (
		SELECT DISTINCT user_id, date_trunc(period, event_time AT TIME ZONE 'UTC') AS at FROM prod_analytics.events WHERE user_id IS NOT NULL
	), members AS (
		SELECT user_id, min(at) AS cohort FROM active WHERE kind = 'first_event' GROUP BY user_id
		UNION ALL
		SELECT user_id, date_trunc(period, signup_ts AT TIME ZONE 'UTC') FROM prod_analytics.users WHERE kind = 'signup'
	), sizes AS (
		SELECT cohort, count(*) AS size FROM members WHERE cohort BETWEEN date_trunc(period, timestamp '2025-09-03') AND '2025-12-10' GROUP BY cohort
	)
	SELECT s.cohort::date, s.size, row_number() OVER (PARTITION BY s.cohort ORDER BY p)::int - 1,
		(SELECT count(*) FROM members m JOIN active a USING (user_id) WHERE m.cohort = s.cohort AND a.at = p)
	FROM sizes s, generate_series(s.cohort, '2025-12-10', ('1 ' || period)::interval) p
$$;
SELECT period, kind, (SELECT count(*) FROM (
		(SELECT cohort, cohort_size, period_number, active_users FROM prod_analytics.retention('2025-09-03', '2025-12-10', period, NULL, kind)
			EXCEPT ALL SELECT * FROM pg_temp.joined(period, kind))
		UNION ALL (SELECT * FROM pg_temp.joined(period, kind)
			EXCEPT ALL SELECT cohort, cohort_size, period_number, active_users FROM prod_analytics.retention('2025-09-03', '2025-12-10', period, NULL, kind))) d) AS different,
	(SELECT count(*) > 20 FROM pg_temp.joined(period, kind)) AS enough
FROM unnest('{day,week,month}'::text[]) period, unnest('{first_event,signup}'::text[]) kind ORDER BY 1, 2;

-- error: a range the wrong way round, also one within a single week; what it does not know
SELECT * FROM prod_analytics.retention('2026-03-05', '2026-03-02', 'week');
SELECT * FROM prod_analytics.retention('2026-03-02', '2026-03-05', 'year');
SELECT * FROM prod_analytics.retention('2026-03-02', '2026-03-05', NULL);
SELECT * FROM prod_analytics.retention('2026-03-02', '2026-03-05', cohort_by => 'birthday');
SELECT * FROM prod_analytics.retention(NULL, '2026-03-05');
SELECT * FROM prod_analytics.retention('2026-03-02', 'infinity');

SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
