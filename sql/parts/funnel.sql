-- Funnels (section 14).

CREATE FUNCTION window_funnel_add(state internal, within interval, event_time timestamptz, event_type text, steps text[])
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_window_funnel_add'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION window_funnel_add(internal, interval, timestamptz, text, text[]) IS
	'internal: add an event to a group of window_funnel()';

CREATE FUNCTION funnel_state_combine(state internal, other internal)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_funnel_state_combine'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION funnel_state_combine(internal, internal) IS
	'internal: unite two states of a group';

CREATE FUNCTION funnel_state_serialize(state internal)
	RETURNS bytea
	AS 'MODULE_PATHNAME', 'pa_funnel_state_serialize'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION funnel_state_serialize(internal) IS
	'internal: the bytes of a state';

CREATE FUNCTION funnel_state_deserialize(bytes bytea, nothing internal)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_funnel_state_deserialize'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION funnel_state_deserialize(bytea, internal) IS
	'internal: the state that has these bytes';

CREATE FUNCTION window_funnel_depth(state internal)
	RETURNS integer
	AS 'MODULE_PATHNAME', 'pa_window_funnel_depth'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION window_funnel_depth(internal) IS
	'internal: the result of window_funnel()';

CREATE AGGREGATE window_funnel(within interval, event_time timestamptz, event_type text, steps text[]) (
	SFUNC = window_funnel_add,
	STYPE = internal,
	SSPACE = 256,
	FINALFUNC = window_funnel_depth,
	COMBINEFUNC = funnel_state_combine,
	SERIALFUNC = funnel_state_serialize,
	DESERIALFUNC = funnel_state_deserialize,
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE window_funnel(interval, timestamptz, text, text[]) IS
	'how many of the steps, which are types of events, a group''s events reach in their order within a window that opens with an event of the first step and whose end, within later, is inside (0: not even the first); each step happens at the time of the one before or later, one event fills one step, and the best window counts; to be grouped by user; events without a type or a finite time are ignored; raises 22023 for a window that is not positive or has months, for no steps or more than 32, and for a window or steps that differ within a group, 22004 for NULL, 2202E for steps in more than one dimension';

CREATE FUNCTION funnel_of_user_add(state internal, steps text[], within interval, value text, strict boolean,
		from_time timestamptz, to_time timestamptz, strictly_after boolean, event_time timestamptz, event_type text)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'pa_funnel_of_user_add'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION funnel_of_user_add(internal, text[], interval, text, boolean, timestamptz, timestamptz, boolean, timestamptz, text) IS
	'internal: add an event to a group of funnel_of_user()';

CREATE FUNCTION funnel_of_user_values(state internal)
	RETURNS bytea
	AS 'MODULE_PATHNAME', 'pa_funnel_of_user_values'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;

COMMENT ON FUNCTION funnel_of_user_values(internal) IS
	'internal: the result of funnel_of_user()';

CREATE AGGREGATE funnel_of_user(steps text[], within interval, value text, strict boolean,
		from_time timestamptz, to_time timestamptz, strictly_after boolean, event_time timestamptz, event_type text) (
	SFUNC = funnel_of_user_add,
	STYPE = internal,
	SSPACE = 512,
	FINALFUNC = funnel_of_user_values,
	COMBINEFUNC = funnel_state_combine,
	SERIALFUNC = funnel_state_serialize,
	DESERIALFUNC = funnel_state_deserialize,
	PARALLEL = SAFE
);

COMMENT ON AGGREGATE funnel_of_user(text[], interval, text, boolean, timestamptz, timestamptz, boolean, timestamptz, text) IS
	'internal: the steps that a user reaches for each value, by the rules of funnel(), which reads the result';

-- Its query may have workers, which a worker could not have: hence PARALLEL RESTRICTED.

CREATE FUNCTION funnel(steps text[], within interval DEFAULT '7 days', by text DEFAULT NULL, strict boolean DEFAULT true,
		from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL, strictly_after boolean DEFAULT false)
	RETURNS TABLE (group_value text, step integer, event_type text, users bigint, conversion_rate numeric)
	AS 'MODULE_PATHNAME', 'pa_funnel'
	LANGUAGE C STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION funnel(text[], interval, text, boolean, timestamptz, timestamptz, boolean) IS
	'how many users take which steps (types of events, at most 32, also repeated), and how many percent of those who take the first; a window opens with an event of the first step, from from_time on and before to_time (NULL: no bound), its end, within later, is inside, and the user''s best one counts; with strict each step happens after the one before, otherwise each after the first, whatever the others do; "after" is at the same time or later, or with strictly_after only later; one event fills one step; by is a key of event_props, of whose values each is a funnel of its own (NULL: one funnel): events without it are left out; so are anonymous events; a group appears when somebody takes its first step; days are 24 hours; raises what window_funnel() does, 22023 when from_time is after to_time, and 22004 for NULL in strict and strictly_after (section 14)';
