-- When a schedule is due: intervals, cron expressions, time zones and what becomes of hours that are skipped or repeated.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- The next slots after a moment, as clocks of the zone show them and as instants.
CREATE FUNCTION slots(schedule text, after timestamptz, zone text DEFAULT 'UTC', number int DEFAULT 4)
	RETURNS TABLE (local timestamp, instant timestamptz) LANGUAGE plpgsql AS $$
BEGIN
	instant := after;
	FOR i IN 1..number LOOP
		instant := prod_analytics.next_slot(schedule, instant, zone);
		local := instant AT TIME ZONE zone;
		RETURN NEXT;
	END LOOP;
END $$;

-- Intervals hang on the calendar.
SELECT * FROM slots('1 second', '2026-03-01 10:00:00.5', number => 2);
SELECT * FROM slots('30 seconds', '2026-03-01 10:00:01', number => 2);
SELECT * FROM slots('5 minutes', '2026-03-01 10:00:00', number => 2);
SELECT * FROM slots('7 minutes', '2026-03-01 10:00:00', number => 2);
SELECT * FROM slots('24:00:00', '2026-03-01 10:00:00', 'Europe/Berlin', 2);
SELECT * FROM slots('1 day', '2026-03-27 10:00:00', 'Europe/Berlin', 4);
SELECT * FROM slots('1 week', '2026-03-01 10:00:00', number => 2);
SELECT extract(isodow FROM prod_analytics.next_slot('14 days', '2026-03-01')) AS monday;
SELECT * FROM slots('1 month', '2026-01-31 10:00:00', 'America/New_York', 3);
SELECT * FROM slots('3 months', '2026-01-31 10:00:00', number => 2);
SELECT * FROM slots('1 year', '1999-12-31 23:59:59.999999', number => 2);
-- Midnight is skipped there, and repeated there.
SELECT * FROM slots('1 day', '2024-09-07 12:00:00', 'America/Santiago', 3);
SELECT * FROM slots('1 day', '2024-11-02 12:00:00', 'America/Havana', 3);
-- A day that a place left out.
SELECT * FROM slots('1 day', '2011-12-29 12:00:00', 'Pacific/Apia', 3);

-- Cron expressions.
SELECT * FROM slots('*/15 * * * *', '2026-03-01 10:00:00');
SELECT * FROM slots('5,10-20/5,50 8-9 * * *', '2026-03-01 09:11:00', number => 6);
SELECT * FROM slots('0 0 1 jan *', '2026-03-01', number => 2);
SELECT * FROM slots('30 3 * * MON-fri', '2026-03-06 12:00', number => 3);
SELECT * FROM slots('0 12 * * 7', '2026-03-01', number => 2);
SELECT * FROM slots('0 12 * * 0,6', '2026-03-01', number => 3);
SELECT * FROM slots('0 12 * * 5-7', '2026-03-01', number => 4);
SELECT * FROM slots('0 0 29 2 *', '2026-03-01', number => 2);
SELECT * FROM slots('0 0 31 * *', '2026-01-01', number => 3);
SELECT * FROM slots('*/5 * 29 feb *', '2096-02-29 23:57', number => 2);
-- Either the day of the month or that of the week, when both are restricted; both otherwise.
SELECT * FROM slots('0 0 13 * fri', '2026-02-01', number => 5);
SELECT * FROM slots('0 0 */2 * mon', '2026-02-01', number => 3);

-- Clocks are put forward: a named hour that is skipped comes an hour later, once; others go by real time.
SELECT * FROM slots('30 2 * * *', '2026-03-28 00:00', 'Europe/Berlin', 3);
SELECT * FROM slots('0,30 2,3 * * *', '2026-03-28 12:00', 'Europe/Berlin', 4);
SELECT * FROM slots('*/30 * * * *', '2026-03-29 00:15', 'Europe/Berlin', 4);
SELECT * FROM slots('0 */2 * * *', '2026-03-28 22:30', 'Europe/Berlin', 3);
SELECT * FROM slots('0 0 * * *', '2024-09-07 12:00:00', 'America/Santiago', 2);
-- Clocks are put back: a named hour that repeats comes once; others go by real time.
SELECT * FROM slots('30 2 * * *', '2026-10-24 12:00', 'Europe/Berlin', 3);
SELECT * FROM slots('*/30 * * * *', '2026-10-25 00:15', 'Europe/Berlin', 5);
SELECT * FROM slots('15 * * * *', '2024-11-03 03:30', 'America/Havana', 4);
SELECT * FROM slots('0 * 3 11 *', '2024-11-02 12:00', 'America/Havana', 3);
SELECT * FROM slots('30 1 * * *', '2026-04-04 12:00', 'Australia/Lord_Howe', 2);
-- A fixed offset in POSIX notation, in which what is west of Greenwich is positive, and one that is no whole hour.
SELECT * FROM slots('0 6 * * *', '2026-03-28', '+03', 2);
SELECT * FROM slots('0 6 * * *', '2026-03-28', 'Asia/Kathmandu', 2);

-- No slot is before the moment or at it, none is passed over, and looking at any moment gives the same ones.
WITH RECURSIVE schedule (schedule, zone) AS (
	VALUES ('*/7 * * * *', 'Europe/Berlin'), ('10 1-3 * * *', 'Europe/Berlin'), ('0 0 * * *', 'America/Santiago'), ('0 */3 * * sun', 'America/Havana'),
		('1 day', 'America/Havana'), ('90 minutes', 'Europe/Berlin'), ('20,40 2 25-31 3,10 *', 'Europe/Berlin')
), slot AS (
	SELECT schedule, zone, prod_analytics.next_slot(schedule, '2026-03-28', zone) AS at, 1 AS number FROM schedule
	UNION ALL
	SELECT schedule, zone, prod_analytics.next_slot(schedule, at, zone), number + 1 FROM slot WHERE at < '2026-11-05' AND number < 1000
)
SELECT s.schedule, zone, count(*) > 30 AS many, bool_and(later > at) AS forward,
	bool_and(prod_analytics.next_slot(s.schedule, at + (later - at) * 0.4, zone) = later) AS same
FROM (SELECT *, lead(at) OVER (PARTITION BY schedule, zone ORDER BY number) AS later FROM slot) s WHERE later IS NOT NULL
GROUP BY s.schedule, zone ORDER BY 1, 2;

-- error: no schedules
SELECT prod_analytics.next_slot('every minute', now());
SELECT prod_analytics.next_slot('60 * * * *', now());
SELECT prod_analytics.next_slot('* 24 * * *', now());
SELECT prod_analytics.next_slot('* * 0 * *', now());
SELECT prod_analytics.next_slot('* * * 13 *', now());
SELECT prod_analytics.next_slot('* * * * 8', now());
SELECT prod_analytics.next_slot('5/2 * * * *', now());
SELECT prod_analytics.next_slot('*/0 * * * *', now());
SELECT prod_analytics.next_slot('9-5 * * * *', now());
SELECT prod_analytics.next_slot('1, * * * *', now());
SELECT prod_analytics.next_slot('1x * * * *', now());
SELECT prod_analytics.next_slot('* * * mo *', now());
SELECT prod_analytics.next_slot('0 0 30 2 *', now());
SELECT prod_analytics.next_slot('* * * *', now());
SELECT prod_analytics.next_slot('0 * * * * * *', now());
SELECT prod_analytics.next_slot('@daily', now());
SELECT prod_analytics.next_slot('@ 1 day', '2026-01-01 12:00+00') = '2026-01-02 00:00+00' AS interval_with_an_at;
SELECT prod_analytics.next_slot('', now());
SELECT prod_analytics.next_slot('0 seconds', now());
SELECT prod_analytics.next_slot('-5 minutes', now());
SELECT prod_analytics.next_slot('0.5 seconds', now());
SELECT prod_analytics.next_slot('1 day 12:00', now());
SELECT prod_analytics.next_slot('1 month 1 day', now());
SELECT prod_analytics.next_slot('1 fortnight', now());
SELECT prod_analytics.next_slot('200 years', now());
SELECT prod_analytics.next_slot('1 minute', 'infinity');
SELECT prod_analytics.next_slot('0 1 * * *', now(), 'Mars/Olympus');
SELECT prod_analytics.next_slot(NULL, now()) IS NULL AS is_null;

DROP FUNCTION slots;
SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
