-- Active users (sections 6 and 18).

CREATE FUNCTION day_set_add(state varbit, day integer, n_days integer)
	RETURNS varbit
	AS 'MODULE_PATHNAME', 'pa_day_set_add'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION day_set_add(varbit, integer, integer) IS
	'internal: add a day to a set';

CREATE FUNCTION day_set_combine(state varbit, other varbit)
	RETURNS varbit
	AS 'MODULE_PATHNAME', 'pa_day_set_combine'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION day_set_combine(varbit, varbit) IS
	'internal: unite two sets of days';

CREATE AGGREGATE day_set(day integer, n_days integer) (
	SFUNC = day_set_add,
	STYPE = varbit,
	COMBINEFUNC = day_set_combine,
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE day_set(integer, integer) IS
	'internal: the set of days, numbered from 0 to n_days - 1, as a bit for each';

CREATE FUNCTION day_set_spread(days varbit, width integer)
	RETURNS varbit
	AS 'MODULE_PATHNAME', 'pa_day_set_spread'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION day_set_spread(varbit, integer) IS
	'internal: the days for which the width days that end with them have one of the set';

CREATE FUNCTION day_counts_add(state internal, days varbit)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_day_counts_add'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION day_counts_add(internal, varbit) IS
	'internal: count a set of days';

CREATE FUNCTION day_counts_array(state internal)
	RETURNS bigint[]
	AS 'MODULE_PATHNAME', 'pa_day_counts_array'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION day_counts_array(internal) IS
	'internal: the result of day_counts()';

CREATE AGGREGATE day_counts(days varbit) (
	SFUNC = day_counts_add,
	STYPE = internal,
	FINALFUNC = day_counts_array,
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE day_counts(varbit) IS
	'internal: for each day, how many of the sets have it; NULL for no sets';

CREATE FUNCTION utc_midnight(day date)
	RETURNS timestamptz
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	AS $$
	SELECT pg_catalog.timezone('UTC', day::timestamp)
$$;

COMMENT ON FUNCTION utc_midnight(date) IS
	'internal: the moment at which a day begins';

-- Plans are made for the values of the parameters, so that they leave out the partitions that those exclude.  They
-- may have workers, which a worker could not have: hence PARALLEL RESTRICTED.

CREATE FUNCTION active_users(from_date date, to_date date, org_id bigint DEFAULT NULL)
	RETURNS TABLE (event_date date, daily bigint, weekly bigint, monthly bigint)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
	AS $$
-- Events are read once.  A year at a time, with the 29 days before it, so that what is kept of a user
-- stays small however long the range is.
#variable_conflict use_column
DECLARE
	days_at_once CONSTANT integer := 366;
	days_before CONSTANT integer := 29;
	first_day date;
	last_day date;
	n_days integer;
BEGIN
	PERFORM prod_analytics.check_days(active_users.from_date, active_users.to_date);

	FOR done IN 0 .. active_users.to_date - active_users.from_date BY days_at_once LOOP
		first_day := active_users.from_date + done - days_before;
		last_day := least(active_users.from_date + done + days_at_once - 1, active_users.to_date);
		n_days := last_day - first_day + 1;

		RETURN QUERY
		WITH active AS (
			SELECT prod_analytics.day_set(e.event_date - first_day, n_days) AS days
			FROM prod_analytics.events e
			WHERE e.event_time >= prod_analytics.utc_midnight(first_day)
				AND e.event_time < prod_analytics.utc_midnight(last_day + 1)
				AND e.user_id IS NOT NULL
				AND (active_users.org_id IS NULL OR e.org_id = active_users.org_id)
			GROUP BY e.user_id
		),
		counted AS (
			SELECT prod_analytics.day_counts(a.days) AS daily,
				prod_analytics.day_counts(prod_analytics.day_set_spread(a.days, 7)) AS weekly,
				prod_analytics.day_counts(prod_analytics.day_set_spread(a.days, 30)) AS monthly
			FROM active a
		)
		SELECT first_day + n - 1, coalesce(c.daily[n], 0), coalesce(c.weekly[n], 0), coalesce(c.monthly[n], 0)
		FROM counted c CROSS JOIN generate_series(days_before + 1, n_days) n
		ORDER BY n;
	END LOOP;
END
$$;

COMMENT ON FUNCTION active_users(date, date, bigint) IS
	'for each day (UTC) from from_date to to_date how many different users had an event on it (daily), on the 7 days that end with it (weekly), and on the 30 days (monthly), exactly; of one organization''s events or, for NULL, of all; days without events are rows too, anonymous events are not counted; raises 22023 for a date that is NULL or infinite, and when from_date is after to_date (section 6)';
