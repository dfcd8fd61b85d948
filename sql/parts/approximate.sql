-- Approximate numbers of active users (section 18).

CREATE FUNCTION hll_schema()
	RETURNS text
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	hll text;
BEGIN
	SELECT quote_ident(n.nspname) INTO hll
	FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'hll';
	IF NOT FOUND THEN
		RAISE EXCEPTION USING
			ERRCODE = 'undefined_object',
			MESSAGE = 'extension "hll" is not installed',
			DETAIL = 'Approximate numbers are computed with it; active_users() gives exact ones without it.',
			HINT = format('Install the package postgresql-%s-hll (Debian, Ubuntu) or hll_%1$s (PGDG for Red Hat), then: CREATE EXTENSION hll;',
				current_setting('server_version_num')::integer / 10000);
	END IF;

	RETURN hll;
END
$$;

COMMENT ON FUNCTION hll_schema() IS
	'internal: the schema of the extension hll; raises 42704 when it is not installed';

-- Sketches have 2^14 registers: their standard error is 1.04 / sqrt(2^14), 0.81 percent.

CREATE FUNCTION approx_active_users(from_date date, to_date date, org_id bigint DEFAULT NULL)
	RETURNS bigint
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	hll CONSTANT text := prod_analytics.hll_schema();
	result bigint;
BEGIN
	PERFORM prod_analytics.check_days(approx_active_users.from_date, approx_active_users.to_date);

	EXECUTE format($query$
		SELECT round(%1$s.hll_cardinality(%1$s.hll_add_agg(%1$s.hll_hash_bigint(e.user_id), 14)))
		FROM prod_analytics.events e
		WHERE e.event_time >= prod_analytics.utc_midnight($1)
			AND e.event_time < prod_analytics.utc_midnight($2 + 1)
			AND e.user_id IS NOT NULL
			AND ($3 IS NULL OR e.org_id = $3)
	$query$, hll)
	INTO result
	USING approx_active_users.from_date, approx_active_users.to_date, approx_active_users.org_id;

	RETURN coalesce(result, 0);
END
$$;

COMMENT ON FUNCTION approx_active_users(date, date, bigint) IS
	'about how many different users had an event on the days (UTC) from from_date to to_date, of one organization''s events or, for NULL, of all; by HyperLogLog, with a standard error of 0.81 percent, and a bias of up to 3 percent around 40,000 users; needs the extension hll, else raises 42704, and 22023 for a date that is NULL or infinite, and when from_date is after to_date (section 18)';

CREATE FUNCTION approx_rolling_users(from_date date, to_date date, org_id bigint DEFAULT NULL)
	RETURNS TABLE (event_date date, daily bigint, weekly bigint, monthly bigint)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	hll CONSTANT text := prod_analytics.hll_schema();
BEGIN
	PERFORM prod_analytics.check_days(approx_rolling_users.from_date, approx_rolling_users.to_date);

	RETURN QUERY EXECUTE format($query$
		WITH sketches AS (
			SELECT e.event_date, %1$s.hll_add_agg(%1$s.hll_hash_bigint(e.user_id), 14) AS users
			FROM prod_analytics.events e
			WHERE e.event_time >= prod_analytics.utc_midnight($1 - 29)
				AND e.event_time < prod_analytics.utc_midnight($2 + 1)
				AND e.user_id IS NOT NULL
				AND ($3 IS NULL OR e.org_id = $3)
			GROUP BY e.event_date
		),
		days AS (
			SELECT $1 + n AS event_date, s.users
			FROM generate_series(-29, $2 - $1) n
			LEFT JOIN sketches s ON s.event_date = $1 + n
		),
		windows AS (
			SELECT d.event_date, d.users AS daily,
				%1$s.hll_union_agg(d.users) OVER (ORDER BY d.event_date ROWS 6 PRECEDING) AS weekly,
				%1$s.hll_union_agg(d.users) OVER (ORDER BY d.event_date ROWS 29 PRECEDING) AS monthly
			FROM days d
		)
		SELECT w.event_date,
			coalesce(round(%1$s.hll_cardinality(w.daily)), 0)::bigint,
			coalesce(round(%1$s.hll_cardinality(w.weekly)), 0)::bigint,
			coalesce(round(%1$s.hll_cardinality(w.monthly)), 0)::bigint
		FROM windows w
		WHERE w.event_date >= $1
		ORDER BY w.event_date
	$query$, hll)
	USING approx_rolling_users.from_date, approx_rolling_users.to_date, approx_rolling_users.org_id;
END
$$;

COMMENT ON FUNCTION approx_rolling_users(date, date, bigint) IS
	'active_users() by HyperLogLog: a sketch for each day, and those of the 7 and the 30 days that end with it merged; the error is that of approx_active_users(); needs the extension hll, else raises 42704, and 22023 for a date that is NULL or infinite, and when from_date is after to_date (section 18)';
