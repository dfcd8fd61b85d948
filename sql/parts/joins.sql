-- Users by what they did, and properties as rows (sections 7 and 17).

-- Single SELECTs without SET become part of the query that calls them, so that EXPLAIN shows the join and conditions
-- reach into it; hence the operators with their schema.

CREATE FUNCTION users_with_event(event_type text, from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
	RETURNS TABLE (user_id bigint, email text)
	LANGUAGE sql STABLE PARALLEL SAFE
	AS $$
	SELECT u.user_id, u.email::pg_catalog.text
	FROM prod_analytics.users u
	WHERE prod_analytics.check_times(users_with_event.from_time, users_with_event.to_time) AND EXISTS (
		SELECT FROM prod_analytics.events e
		WHERE e.user_id OPERATOR(pg_catalog.=) u.user_id
			AND e.event_type OPERATOR(pg_catalog.=) users_with_event.event_type
			AND e.event_time OPERATOR(pg_catalog.>=) coalesce(users_with_event.from_time, '-infinity')
			AND e.event_time OPERATOR(pg_catalog.<) coalesce(users_with_event.to_time, 'infinity'))
$$;

COMMENT ON FUNCTION users_with_event(text, timestamptz, timestamptz) IS
	'the users who have an event of a type, from from_time on and before to_time (NULL: no bound); raises 22023 when from_time is after to_time; a semi-join (section 17)';

CREATE FUNCTION users_without_event(event_type text, from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
	RETURNS TABLE (user_id bigint, email text)
	LANGUAGE sql STABLE PARALLEL SAFE
	AS $$
	SELECT u.user_id, u.email::pg_catalog.text
	FROM prod_analytics.users u
	WHERE prod_analytics.check_times(users_without_event.from_time, users_without_event.to_time) AND NOT EXISTS (
		SELECT FROM prod_analytics.events e
		WHERE e.user_id OPERATOR(pg_catalog.=) u.user_id
			AND e.event_type OPERATOR(pg_catalog.=) users_without_event.event_type
			AND e.event_time OPERATOR(pg_catalog.>=) coalesce(users_without_event.from_time, '-infinity')
			AND e.event_time OPERATOR(pg_catalog.<) coalesce(users_without_event.to_time, 'infinity'))
$$;

COMMENT ON FUNCTION users_without_event(text, timestamptz, timestamptz) IS
	'the users who have no event of a type, from from_time on and before to_time (NULL: no bound); raises 22023 when from_time is after to_time; an anti-join (section 17)';

CREATE FUNCTION make_product_attributes()
	RETURNS integer
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	AS $$
-- What is no array has no elements, rather than being an error.
BEGIN
	IF NOT prod_analytics.is_missing('product_attributes') THEN
		RETURN 0;
	END IF;

	CREATE VIEW product_attributes AS
		SELECT e.event_id, e.user_id, e.event_time,
			e.event_props->'product'->>'id' AS product_id,
			k.attr->>'k' AS attr_key,
			k.attr->>'v' AS attr_value
		FROM events e
		CROSS JOIN LATERAL jsonb_array_elements(
			CASE jsonb_typeof(e.event_props->'product'->'attributes')
				WHEN 'array' THEN e.event_props->'product'->'attributes'
			END) AS k (attr)
		WHERE e.event_type = 'product_view';
	COMMENT ON VIEW product_attributes IS
		'a row for each element of product.attributes in the properties of events of type product_view: its k and its v (section 7)';
	GRANT SELECT ON product_attributes TO analytics_reader, analytics_operator;

	RETURN 1;
END
$$;

COMMENT ON FUNCTION make_product_attributes() IS
	'internal: make the view product_attributes in the first schema of the search_path, if it lacks it; returns how many views were made';
