-- Ranges of days and of times, which several functions take.

CREATE FUNCTION check_days(from_date date, to_date date)
	RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF (isfinite(check_days.from_date) AND isfinite(check_days.to_date)) IS NOT TRUE THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'from_date and to_date must be days, neither NULL nor infinite';
	END IF;
	IF check_days.from_date > check_days.to_date THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'from_date must not be after to_date',
			HINT = 'Give the earlier day first; both count.';
	END IF;
END
$$;

COMMENT ON FUNCTION check_days(date, date) IS
	'internal: raise 22023 unless both are days, the first one not after the other';

CREATE FUNCTION check_times(from_time timestamptz, to_time timestamptz)
	RETURNS boolean
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF check_times.from_time > check_times.to_time THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'from_time must not be after to_time',
			HINT = 'Give the earlier time first, or NULL for no bound.';
	END IF;
	RETURN true;
END
$$;

COMMENT ON FUNCTION check_times(timestamptz, timestamptz) IS
	'internal: true, as a condition of a query; raise 22023 when the first time is after the other, of which NULL is no bound';
