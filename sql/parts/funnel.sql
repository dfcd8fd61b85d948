-- Funnels (section 14).

CREATE FUNCTION window_funnel_add(state internal, within interval, event_time timestamptz, event_type text, steps text[])
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_funnel_add'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION window_funnel_add(internal, interval, timestamptz, text, text[]) IS
	'internal: add an event to a group of window_funnel()';

CREATE FUNCTION window_funnel_combine(state internal, other internal)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_funnel_combine'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION window_funnel_combine(internal, internal) IS
	'internal: unite two states of a group';

CREATE FUNCTION window_funnel_serialize(state internal)
	RETURNS bytea
	AS 'MODULE_PATHNAME', 'pa_funnel_serialize'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION window_funnel_serialize(internal) IS
	'internal: the bytes of a state';

CREATE FUNCTION window_funnel_deserialize(bytes bytea, nothing internal)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_funnel_deserialize'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION window_funnel_deserialize(bytea, internal) IS
	'internal: the state that has these bytes';

CREATE FUNCTION window_funnel_depth(state internal)
	RETURNS integer
	AS 'MODULE_PATHNAME', 'pa_funnel_depth'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION window_funnel_depth(internal) IS
	'internal: the result of window_funnel()';

CREATE AGGREGATE window_funnel(within interval, event_time timestamptz, event_type text, steps text[]) (
	SFUNC = window_funnel_add,
	STYPE = internal,
	SSPACE = 256,
	FINALFUNC = window_funnel_depth,
	COMBINEFUNC = window_funnel_combine,
	SERIALFUNC = window_funnel_serialize,
	DESERIALFUNC = window_funnel_deserialize,
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE window_funnel(interval, timestamptz, text, text[]) IS
	'how many of the steps, which are types of events, a group''s events reach in their order within a window that opens with an event of the first step and whose end, within later, is inside (0: not even the first); each step happens at the time of the one before or later, one event fills one step, and the best window counts; to be grouped by user; events without a type or a finite time are ignored; raises 22023 for a window that is not positive or has months, for no steps or more than 32, and for a window or steps that differ within a group, 22004 for NULL, 2202E for steps in more than one dimension';

CREATE FUNCTION funnel_steps_add(state internal, within interval, event_time timestamptz, event_type text, steps text[],
		strict boolean, strictly_after boolean, from_time timestamptz, to_time timestamptz)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_funnel_add'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION funnel_steps_add(internal, interval, timestamptz, text, text[], boolean, boolean, timestamptz, timestamptz) IS
	'internal: add an event to a group of funnel_steps()';

CREATE FUNCTION funnel_steps_reached(state internal)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'pa_funnel_steps'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION funnel_steps_reached(internal) IS
	'internal: the result of funnel_steps()';

CREATE AGGREGATE funnel_steps(within interval, event_time timestamptz, event_type text, steps text[],
		strict boolean, strictly_after boolean, from_time timestamptz, to_time timestamptz) (
	SFUNC = funnel_steps_add,
	STYPE = internal,
	SSPACE = 256,
	FINALFUNC = funnel_steps_reached,
	COMBINEFUNC = window_funnel_combine,
	SERIALFUNC = window_funnel_serialize,
	DESERIALFUNC = window_funnel_deserialize,
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE funnel_steps(interval, timestamptz, text, text[], boolean, boolean, timestamptz, timestamptz) IS
	'internal: the set of steps that a group''s events reach, as bits, the lowest for the first step, by the rules of funnel()';

CREATE FUNCTION check_funnel(within interval, steps text[])
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_check_funnel'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION check_funnel(interval, text[]) IS
	'internal: raise an error unless these can be the window and the steps of a funnel';

-- The plan is made for the values of the parameters, so that it leaves out the partitions that they exclude.  It may
-- have workers, which a worker could not have: hence PARALLEL RESTRICTED.

CREATE FUNCTION funnel(steps text[], within interval DEFAULT '7 days', by text DEFAULT NULL, strict boolean DEFAULT true,
		from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL, strictly_after boolean DEFAULT false)
	RETURNS TABLE (group_value text, step integer, event_type text, users bigint, conversion_rate numeric)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET plan_cache_mode = force_custom_plan
	AS $$
#variable_conflict use_column
DECLARE
	last_time timestamptz := funnel.to_time + funnel.within;
BEGIN
	PERFORM prod_analytics.check_funnel(funnel.within, funnel.steps);
	IF funnel.strict IS NULL OR funnel.strictly_after IS NULL THEN
		RAISE EXCEPTION USING
			ERRCODE = 'null_value_not_allowed',
			MESSAGE = 'strict and strictly_after must be true or false';
	END IF;

	RETURN QUERY
	WITH reached AS (
		SELECT e.event_props ->> funnel.by AS group_value,
			prod_analytics.funnel_steps(funnel.within, e.event_time, e.event_type, funnel.steps,
				funnel.strict, funnel.strictly_after, funnel.from_time, funnel.to_time) AS steps
		FROM prod_analytics.events e
		WHERE e.event_type = ANY (funnel.steps)
			AND e.user_id IS NOT NULL
			AND (funnel.by IS NULL OR e.event_props ->> funnel.by IS NOT NULL)
			AND (funnel.from_time IS NULL OR e.event_time >= funnel.from_time)
			AND (funnel.to_time IS NULL OR e.event_time < last_time)
		GROUP BY e.user_id, e.event_props ->> funnel.by
	),
	counted AS (
		SELECT r.group_value, r.steps, count(*) AS users
		FROM reached r
		WHERE r.steps > 0
		GROUP BY r.group_value, r.steps
		-- without groups there is an answer also when nobody did anything
		UNION ALL
		SELECT NULL, 0, 0 WHERE funnel.by IS NULL
	),
	stepped AS (
		SELECT c.group_value, s.step::integer AS step, s.event_type,
			sum(c.users) FILTER (WHERE c.steps >> (s.step::integer - 1) & 1 = 1) AS users
		FROM counted c
		CROSS JOIN unnest(funnel.steps) WITH ORDINALITY AS s (event_type, step)
		GROUP BY c.group_value, s.step, s.event_type
	)
	SELECT s.group_value, s.step, s.event_type, coalesce(s.users, 0)::bigint,
		round(100 * coalesce(s.users, 0) / first_value(s.users) OVER (PARTITION BY s.group_value ORDER BY s.step), 2)
	FROM stepped s
	ORDER BY s.group_value, s.step;
END
$$;

COMMENT ON FUNCTION funnel(text[], interval, text, boolean, timestamptz, timestamptz, boolean) IS
	'how many users take which steps (types of events, at most 32, also repeated), and how many percent of those who take the first; a window opens with an event of the first step, from from_time on and before to_time (NULL: no bound), its end, within later, is inside, and the user''s best one counts; with strict each step happens after the one before, otherwise each after the first, whatever the others do; "after" is at the same time or later, or with strictly_after only later; one event fills one step; by is a key of event_props, of whose values each is a funnel of its own (NULL: one funnel): events without it are left out; so are anonymous events; a group appears when somebody takes its first step; days are 24 hours; raises what window_funnel() does, and 22004 for NULL in strict and strictly_after (section 14)';
