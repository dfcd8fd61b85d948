-- window_funnel() and funnel(): windows, ties, repeated steps, groups, bounds.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
SET TimeZone = 'UTC';

-- A letter is an event, its place the hour: "a.b" is a, and b two hours later; letters in brackets share an hour.
CREATE FUNCTION pg_temp.events_of(script text) RETURNS TABLE (hour int, event_type text) LANGUAGE plpgsql AS $$
DECLARE
	at int := 0;
	together boolean := false;
	letter text;
BEGIN
	FOREACH letter IN ARRAY string_to_array(script, NULL) LOOP
		together := letter = '(' OR together AND letter <> ')';
		IF letter ~ '[a-z]' THEN
			RETURN QUERY SELECT at, letter;
		END IF;
		at := at + (NOT together AND letter <> '(')::int;
	END LOOP;
END $$;

-- In order, window of 3 hours: what is reached, and by hand what should be.
CREATE TEMPORARY TABLE cases (script text, steps text[], expected int, why text);
INSERT INTO cases VALUES
	('abc', '{a,b,c}', 3, 'one after the other'),
	('acb', '{a,b,c}', 2, 'c comes too early'),
	('cba', '{a,b,c}', 1, 'backwards'),
	('bc', '{a,b,c}', 0, 'no first step'),
	('a..b', '{a,b}', 2, 'the end of the window is inside'),
	('a...b', '{a,b}', 1, 'after the end'),
	('a.b.c', '{a,b,c}', 2, 'the window opens with the first step, not with each'),
	('a.ab.c', '{a,b,c}', 3, 'the best start counts, not the first'),
	('ab..ab', '{a,b}', 2, 'either'),
	('abac', '{a,b,c}', 3, 'a second start does not forget the first'),
	('ab..c', '{a,b,c}', 2, 'too late for c'),
	('ab.ac', '{a,b,c}', 2, 'b was before the second start, and c too late for the first'),
	('(ba)', '{a,b}', 2, 'at the same time, in any order'),
	('(cba)', '{a,b,c}', 3, 'all at the same time'),
	('(ab)c', '{a,b,c}', 3, 'a tie and a later one'),
	('c(ab)', '{a,b,c}', 2, 'a tie after'),
	('a', '{a,a}', 1, 'one event fills one step'),
	('aa', '{a,a}', 2, 'two fill two'),
	('(aa)', '{a,a}', 2, 'also at the same time'),
	('aab', '{a,a,b}', 3, 'repeated step, then another'),
	('ab', '{a,a,b}', 1, 'the second a is missing'),
	('aba', '{a,b,a}', 3, 'there and back'),
	('(ab)', '{a,b,a}', 2, 'one a for two steps'),
	('(aab)', '{a,b,a}', 3, 'two'),
	('a(ab)b', '{a,b,a,b}', 4, 'b, then a, of an instant'),
	('a(abb)', '{a,b,a,b}', 4, 'b, a and b of an instant'),
	('x', '{a}', 0, 'another type'),
	('aaaa', '{a}', 1, 'a single step');
SELECT c.why, c.script, c.steps, c.expected, f.reached
FROM cases c, LATERAL (
	SELECT prod_analytics.window_funnel('3 hours', timestamptz '2026-03-01' + hour * interval '1 hour', event_type, c.steps) AS reached
	FROM pg_temp.events_of(c.script)) f
WHERE f.reached <> c.expected;
SELECT count(*) FROM cases;

-- Nothing: no rows, rows that are not events, a NULL time or type, a time that never comes.
SELECT prod_analytics.window_funnel('1 day', now(), 'a', '{a}') FROM generate_series(1, 0);
SELECT prod_analytics.window_funnel('1 day', t, e, '{a}')
FROM (VALUES (NULL::timestamptz, 'a'), ('2026-03-01', NULL), ('infinity', 'a'), ('-infinity', 'a')) v (t, e);
-- The earliest and the latest time.
SELECT prod_analytics.window_funnel('1 s', t, 'a', '{a}') FROM (VALUES (timestamptz '4714-11-24 BC'), ('11133-01-01')) v (t);
SELECT prod_analytics.window_funnel('106751991 days', t, e, '{a,b}') FROM (VALUES (timestamptz '4714-11-24 BC', 'a'), ('11133-01-01', 'b')) v (t, e);

-- Days have 24 hours: on the day that Berlin puts the clock back there are 25.
SET TimeZone = 'Europe/Berlin';
SELECT prod_analytics.window_funnel('1 day', t, e, '{a,b}') FROM (VALUES (timestamptz '2026-10-25 00:00', 'a'), ('2026-10-25 23:00', 'b')) v (t, e);
SELECT prod_analytics.window_funnel('1 day', t, e, '{a,b}') FROM (VALUES (timestamptz '2026-10-25 00:00', 'a'), ('2026-10-25 23:00:01', 'b')) v (t, e);
SET TimeZone = 'UTC';

-- Over a window, it is asked before all events are there; FILTER; funnels from a table, more than are remembered.
SELECT hour, event_type, prod_analytics.window_funnel('3 hours', timestamptz '2026-03-01' + hour * interval '1 hour', event_type, '{a,b,c}')
	OVER (ORDER BY hour) FROM pg_temp.events_of('acbc') ORDER BY hour;
SELECT prod_analytics.window_funnel('3 hours', now(), event_type, '{a,b}') FILTER (WHERE event_type <> 'b') FROM pg_temp.events_of('ab');
SELECT count(*) FROM (
	SELECT n, prod_analytics.window_funnel(n * interval '1 hour', timestamptz '2026-03-01' + hour * interval '1 hour', event_type, ARRAY['a', 'b' || n % 2]) AS reached
	FROM generate_series(1, 50) n, (VALUES (0, 'a'), (25, 'b0'), (20, 'b1')) e (hour, event_type)
	GROUP BY n) f
WHERE reached <> 1 + (n >= CASE n % 2 WHEN 0 THEN 25 ELSE 20 END)::int;

-- 32 steps; a user with 100,000 events, not in order; a funnel that all of them fill.
SELECT prod_analytics.window_funnel('1 day', timestamptz '2026-03-01' + n * interval '1 s', 's' || n, (SELECT array_agg('s' || n ORDER BY n) FROM generate_series(1, 32) n))
FROM generate_series(1, 32) n;
SELECT prod_analytics.window_funnel('2 s', timestamptz '2026-03-01' + n * 7919 % 100000 * interval '1 s', 's' || n * 7919 % 100000 % 5, '{s0,s1,s2,s3}')
FROM generate_series(1, 100000) n;
SELECT prod_analytics.window_funnel('1 day', timestamptz '2026-03-01', 'a', array_fill('a'::text, '{32}')) FROM generate_series(1, 100000);

-- error: windows that are none
SELECT prod_analytics.window_funnel('0', now(), 'a', '{a}');
SELECT prod_analytics.window_funnel('-1 day', now(), 'a', '{a}');
SELECT prod_analytics.window_funnel('1 month', now(), 'a', '{a}');
SELECT prod_analytics.window_funnel('1 month -30 days', now(), 'a', '{a}');
SELECT prod_analytics.window_funnel('2000000000 days', now(), 'a', '{a}');
SELECT prod_analytics.window_funnel(NULL, now(), 'a', '{a}');

-- error: steps that are none
SELECT prod_analytics.window_funnel('1 day', now(), 'a', '{}');
SELECT prod_analytics.window_funnel('1 day', now(), 'a', array_fill('a'::text, '{33}'));
SELECT prod_analytics.window_funnel('1 day', now(), 'a', '{a,NULL}');
SELECT prod_analytics.window_funnel('1 day', now(), 'a', '{{a,b},{c,d}}');
SELECT prod_analytics.window_funnel('1 day', now(), 'a', NULL);

-- error: not the same for all events of a group
SELECT prod_analytics.window_funnel(n * interval '1 day', now(), 'a', '{a}') FROM generate_series(1, 2) n;
SELECT prod_analytics.window_funnel('1 day', now(), 'a', ARRAY['a', n::text]) FROM generate_series(1, 2) n;

-- error: later than an event can be noted
SELECT prod_analytics.window_funnel('1 day', timestamptz '20000-01-01', 'a', '{a}');

-- funnel(): 1 sees, carts and buys p1, and sees p2; 2 buys p1 before carting it; 3 only carts; 4 is not known by a product.
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
INSERT INTO prod_analytics.users (user_id, org_id, email) SELECT n, 1, n || '@example.com' FROM generate_series(1, 5) n;
INSERT INTO prod_analytics.events (user_id, event_type, event_props, event_time) VALUES
	(1, 'view', '{"product": "p1"}', '2026-03-01 10:00'), (1, 'cart', '{"product": "p1"}', '2026-03-02 10:00'),
	(1, 'buy', '{"product": "p1"}', '2026-03-08 10:00'), (1, 'view', '{"product": "p2"}', '2026-03-01 10:00'),
	(2, 'view', '{"product": "p1"}', '2026-03-03 10:00'), (2, 'buy', '{"product": "p1"}', '2026-03-03 11:00'),
	(2, 'cart', '{"product": "p1"}', '2026-03-03 12:00'),
	(3, 'cart', '{"product": "p1"}', '2026-03-03 12:00'), (3, 'buy', '{"product": "p3"}', '2026-03-03 12:00'),
	(4, 'view', '{}', '2026-03-04 10:00'), (4, 'cart', NULL, '2026-03-04 10:00'), (4, 'buy', '[]', '2026-03-04 10:00'),
	(5, 'view', '{"product": 7}', '2026-03-31 10:00'), (5, 'buy', '{"product": "7"}', '2026-04-02 10:00'),
	(5, 'view', '{"product": null}', '2026-03-31 10:00'), (5, 'view', '{"product": ""}', '2026-03-31 10:00'),
	(NULL, 'view', '{"product": "p1"}', '2026-03-01 10:00'), (NULL, 'buy', '{"product": "p1"}', '2026-03-01 10:00');
SELECT * FROM prod_analytics.funnel('{view,cart,buy}');
SELECT * FROM prod_analytics.funnel('{view,cart,buy}', by => 'product');
SELECT * FROM prod_analytics.funnel('{view,cart,buy}', by => 'product', strict => false);

-- The end of the window is inside; strictly after leaves ties out.
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,cart,buy}', '6 days 23:59:59');
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,cart,buy}', strictly_after => true);
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,cart,buy}', strict => false, strictly_after => true);

-- Repeated steps need as many events: strictly, and each for itself.
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,view,buy}');
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,view,buy}', strict => false);
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,view,view}', strict => false);
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,view,view}', strict => false, strictly_after => true);
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,buy,buy}', strict => false);

-- from_time and to_time bound first steps only; to_time itself is outside.
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,buy}', from_time => '2026-03-31', to_time => '2026-04-01');
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,buy}', from_time => '2026-03-01 10:00', to_time => '2026-03-03 10:00');
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,buy}', from_time => '2026-03-01 10:00:01', to_time => '2026-03-03 10:00:01');
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,buy}', strict => false, from_time => '2026-03-01 10:00:01', to_time => '2026-03-03 10:00:01');
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,buy}', from_time => '-infinity', to_time => 'infinity');

-- Nobody: a row for each step without groups, none with.
SELECT * FROM prod_analytics.funnel('{nothing,more}');
SELECT * FROM prod_analytics.funnel('{view,buy}', from_time => '2026-04-01', to_time => '2026-04-01');
SELECT * FROM prod_analytics.funnel('{view,buy}', by => 'no such key');

-- The session's time zone changes nothing.
SET TimeZone = 'America/New_York';
SELECT array_agg(users ORDER BY step) FROM prod_analytics.funnel('{view,cart,buy}', '7 days', from_time => '2026-03-01 00:00+00', to_time => '2026-03-31 00:00+00');
SET TimeZone = 'UTC';

-- error: what does not make a funnel, also where there are no events
SELECT * FROM prod_analytics.funnel('{view,buy}', from_time => '2026-05-01', to_time => '2026-04-01');
TRUNCATE prod_analytics.events;
SELECT * FROM prod_analytics.funnel('{}');
SELECT * FROM prod_analytics.funnel('{a}', '1 year');
SELECT * FROM prod_analytics.funnel('{a}', strict => NULL);
SELECT * FROM prod_analytics.funnel(NULL);

-- Random events against all chains there are: in order, each step for itself, bounded, strictly after.
SELECT setseed(0.5);
CREATE FUNCTION pg_temp.deepest(within int, times int[], types text[], steps text[], strictly boolean, low int, high int)
	RETURNS int LANGUAGE sql AS $$
	WITH RECURSIVE events AS (
		SELECT n, time, type FROM unnest(times, types) WITH ORDINALITY u (time, type, n)
	), chain AS (
		SELECT 1 AS depth, time AS start, time AS last, ARRAY[n] AS used FROM events WHERE type = steps[1] AND time >= low AND time < high
		UNION ALL
		SELECT c.depth + 1, c.start, e.time, c.used || e.n
		FROM chain c JOIN events e ON e.type = steps[c.depth + 1] AND e.n <> ALL (c.used) AND e.time <= c.start + within
			AND (e.time > c.last OR NOT strictly AND e.time = c.last))
	SELECT coalesce(max(depth), 0) FROM chain
$$;
CREATE FUNCTION pg_temp.inside(within int, times int[], types text[], steps text[], strictly boolean, low int, high int)
	RETURNS int LANGUAGE sql AS $$
	WITH events AS (
		SELECT n, time, type FROM unnest(times, types) WITH ORDINALITY u (time, type, n)
	), wanted AS (
		SELECT n, type, row_number() OVER (PARTITION BY type ORDER BY n) - (type = steps[1])::int AS others FROM unnest(steps) WITH ORDINALITY u (type, n)
	)
	SELECT coalesce(sum(1 << (w.n - 1)::int), 0)::int FROM wanted w
	WHERE EXISTS (SELECT FROM events v WHERE v.type = steps[1] AND v.time >= low AND v.time < high AND w.others <= (
		SELECT count(*) FROM events e WHERE e.type = w.type AND e.n <> v.n AND e.time <= v.time + within
			AND (e.time > v.time OR NOT strictly AND e.time = v.time)))
$$;
CREATE TEMPORARY TABLE asked AS
SELECT n, ('{"{a,b}","{a,b,c}","{a,b,a}","{a,a,b}","{a,a,a}","{b,a,b,a}","{a,b,b,c}"}'::text[])[1 + floor(random() * 7)]::text[] AS steps,
	1 + floor(random() * 6)::int AS within, random() < 0.5 AS strictly, floor(random() * 4)::int AS low, 6 + floor(random() * 6)::int AS high
FROM generate_series(1, 2000) n;
CREATE TEMPORARY TABLE happened AS
SELECT n, floor(random() * 10)::int AS time, ('{a,b,c}'::text[])[1 + floor(random() * 3)] AS type FROM asked, generate_series(1, 1 + n % 8);
WITH reached AS (
	SELECT n, within, steps, strictly, low, high, array_agg(time) AS times, array_agg(type) AS types,
		prod_analytics.window_funnel(within * interval '1 s', to_timestamp(time), type, steps) AS depth,
		prod_analytics.funnel_of_user(steps, within * interval '1 s', '', true, to_timestamp(low), to_timestamp(high), strictly, to_timestamp(time), type) AS in_order,
		prod_analytics.funnel_of_user(steps, within * interval '1 s', '', false, to_timestamp(low), to_timestamp(high), strictly, to_timestamp(time), type) AS each
	FROM asked JOIN happened USING (n) GROUP BY n, within, steps, strictly, low, high
)
SELECT count(*) FILTER (WHERE depth <> pg_temp.deepest(within, times, types, steps, false, 0, 100)) AS wrong_depth,
	count(*) FILTER (WHERE CASE WHEN in_order = '' THEN 0 ELSE get_byte(in_order, 0) END <> (1 << pg_temp.deepest(within, times, types, steps, strictly, low, high)) - 1) AS wrong_in_order,
	count(*) FILTER (WHERE CASE WHEN each = '' THEN 0 ELSE get_byte(each, 0) END <> pg_temp.inside(within, times, types, steps, strictly, low, high)) AS wrong_each,
	count(*) > 1900 AS enough
FROM reached;

-- A parallel plan with workers says the same as a serial one.
CREATE TABLE public.clicks AS
SELECT n % 1000 AS visitor, timestamptz '2026-03-01' + n * 7919 % 100000 * interval '10 s' AS at, ('{a,b,c,d}'::text[])[1 + abs(hashint4(n)) % 4] AS what
FROM generate_series(1, 100000) n;
ALTER TABLE public.clicks SET (parallel_workers = 2);
ANALYZE public.clicks;
CREATE FUNCTION pg_temp.workers(statement text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, FORMAT json) ' || statement INTO plan;
	RETURN substring(plan::text FROM '"Workers Launched": (\d+)')::int;
END $$;
CREATE FUNCTION pg_temp.funnels() RETURNS TABLE (visitor int, depth int) LANGUAGE sql AS
	$$ SELECT visitor, prod_analytics.window_funnel('8 hours', at, what, '{a,b,c,d}') FROM public.clicks GROUP BY visitor $$;
SET max_parallel_workers_per_gather = 0;
CREATE TEMPORARY TABLE serially AS SELECT * FROM pg_temp.funnels();
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT pg_temp.workers($$SELECT visitor, prod_analytics.window_funnel('8 hours', at, what, '{a,b,c,d}') FROM public.clicks GROUP BY visitor$$) > 0 AS has_workers;
CREATE TEMPORARY TABLE in_parallel AS SELECT visitor, prod_analytics.window_funnel('8 hours', at, what, '{a,b,c,d}') FROM public.clicks GROUP BY visitor;
SELECT count(*) FROM (TABLE serially EXCEPT ALL TABLE in_parallel) d;
SELECT depth, count(*) > 0 AS some FROM serially GROUP BY depth ORDER BY depth;
DROP TABLE public.clicks;

SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
