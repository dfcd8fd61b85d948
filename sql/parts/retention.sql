-- Retention (section 6).

CREATE FUNCTION check_retention(period text, cohort_by text)
	RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF (check_retention.period IN ('day', 'week', 'month')) IS NOT TRUE THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('period must be day, week or month, not %s', quote_nullable(check_retention.period));
	END IF;
	IF (check_retention.cohort_by IN ('first_event', 'signup')) IS NOT TRUE THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('cohort_by must be first_event or signup, not %s', quote_nullable(check_retention.cohort_by));
	END IF;
END
$$;

COMMENT ON FUNCTION check_retention(text, text) IS
	'internal: raise 22023 for a period or a kind of cohort that retention() does not know';

CREATE FUNCTION period_number(day date, first_day date, period text)
	RETURNS integer
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS $$
	SELECT CASE period
		WHEN 'day' THEN day - first_day
		WHEN 'week' THEN (day - first_day) / 7
		ELSE ((pg_catalog.date_part('year', day) - pg_catalog.date_part('year', first_day)) * 12
			+ pg_catalog.date_part('month', day) - pg_catalog.date_part('month', first_day))::integer
	END
$$;

COMMENT ON FUNCTION period_number(date, date, text) IS
	'internal: how many days, weeks or months a day is after the first day of one';

-- PARALLEL RESTRICTED and force_custom_plan for the reasons that active_users() has.

CREATE FUNCTION retention(from_date date, to_date date, period text DEFAULT 'day', org_id bigint DEFAULT NULL,
		cohort_by text DEFAULT 'first_event')
	RETURNS TABLE (cohort date, cohort_size bigint, period_number integer, active_users bigint, rate numeric)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
	AS $$
#variable_conflict use_column
DECLARE
	step interval;
	first_day date;
	end_day date;
	begins timestamptz;
	ends timestamptz;
	n_periods integer;
BEGIN
	PERFORM prod_analytics.check_days(retention.from_date, retention.to_date);
	PERFORM prod_analytics.check_retention(retention.period, retention.cohort_by);

	step := ('1 ' || retention.period)::interval;
	first_day := date_trunc(retention.period, retention.from_date::timestamp);
	end_day := date_trunc(retention.period, retention.to_date::timestamp) + step;
	begins := prod_analytics.utc_midnight(first_day);
	ends := prod_analytics.utc_midnight(end_day);
	n_periods := prod_analytics.period_number(end_day, first_day, retention.period);

	RETURN QUERY
	WITH active AS NOT MATERIALIZED (
		SELECT e.user_id,
			prod_analytics.day_set(prod_analytics.period_number(e.event_date, first_day, retention.period), n_periods) AS periods
		FROM prod_analytics.events e
		WHERE e.event_time >= begins AND e.event_time < ends
			AND e.user_id IS NOT NULL
			AND (retention.org_id IS NULL OR e.org_id = retention.org_id)
		GROUP BY e.user_id
	),
	members AS (
		SELECT position(B'1' IN a.periods) - 1 AS cohort, a.periods
		FROM active a
		WHERE retention.cohort_by = 'first_event'
			AND NOT EXISTS (
				SELECT FROM prod_analytics.events before
				WHERE before.user_id = a.user_id AND before.event_time < begins
					AND (retention.org_id IS NULL OR before.org_id = retention.org_id))
		UNION ALL
		SELECT prod_analytics.period_number((u.signup_ts AT TIME ZONE 'UTC')::date, first_day, retention.period), a.periods
		FROM prod_analytics.users u
		LEFT JOIN active a ON a.user_id = u.user_id
		WHERE retention.cohort_by = 'signup'
			AND u.signup_ts >= begins AND u.signup_ts < ends
			AND (retention.org_id IS NULL OR u.org_id = retention.org_id)
	),
	cohorts AS (
		SELECT m.cohort, count(*) AS size, prod_analytics.day_counts(m.periods) AS active
		FROM members m
		GROUP BY m.cohort
	)
	SELECT (first_day + c.cohort * step)::date, c.size, n, a.users, round(100.0 * a.users / c.size, 2)
	FROM cohorts c
	CROSS JOIN generate_series(0, n_periods - c.cohort - 1) n
	CROSS JOIN LATERAL (SELECT coalesce(c.active[c.cohort + n + 1], 0) AS users) a
	ORDER BY c.cohort, n;
END
$$;

COMMENT ON FUNCTION retention(date, date, text, bigint, text) IS
	'for each cohort, the users who had their first event ever (cohort_by first_event) or signed up (signup: users.signup_ts) in one period, how many of them had an event 0, 1, 2, ... periods later, also where nobody had, and how many percent of the whole cohort that is; from the period (day; week, from Monday; month; in UTC) that from_date is in to the one of to_date, both whole; of one organization''s events, and with signup its users, or for NULL of all; a cohort without users is no row; first_event looks at the partitions before the range too, to know who was there before; raises 22023 for a date that is NULL or infinite, when from_date is after to_date, and for another period or cohort_by (section 6)';
