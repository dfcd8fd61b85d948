CREATE FUNCTION load_sample_data(users integer DEFAULT 100, events integer DEFAULT 5000, seed double precision DEFAULT 0.42)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	AS $$
-- Everything hangs on the seed and the day, nothing on the time of the call: the same two give the
-- same rows, with the same event_id, so a second load finds everything there.  Nor on the session's
-- time zone, where a day may have 23 or 25 hours.
#variable_conflict use_column
DECLARE
	today CONSTANT timestamptz := date_trunc('day', now(), 'UTC');
	organization_ids bigint[];
	user_ids bigint[];
	new_organizations bigint;
	new_users bigint;
	new_events bigint;
BEGIN
	IF load_sample_data.users IS NULL OR load_sample_data.users < 1
		OR load_sample_data.events IS NULL OR load_sample_data.events < 0
		OR load_sample_data.seed IS NULL OR load_sample_data.seed NOT BETWEEN -1 AND 1 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'users must be positive, events must not be negative, and seed must be from -1 to 1';
	END IF;

	PERFORM prod_analytics.ensure_partitions('prod_analytics.events');
	PERFORM setseed(load_sample_data.seed);

	INSERT INTO prod_analytics.organizations (org_name, industry, created_at)
	SELECT sample.org_name, sample.industry, today
	FROM (VALUES ('Acme Corp', 'ecommerce'), ('Globex', 'cloud')) AS sample (org_name, industry)
	WHERE NOT EXISTS (SELECT FROM prod_analytics.organizations o WHERE o.org_name = sample.org_name);
	GET DIAGNOSTICS new_organizations = ROW_COUNT;

	SELECT array_agg(o.org_id ORDER BY o.org_name) INTO organization_ids
	FROM (SELECT org_name, min(org_id) AS org_id FROM prod_analytics.organizations
		WHERE org_name IN ('Acme Corp', 'Globex') GROUP BY org_name) o;

	-- One draw a row: a subquery that does not depend on the row would be drawn once for all.
	INSERT INTO prod_analytics.users (org_id, email, username, attrs, signup_ts, created_at)
	SELECT organization_ids[1 + floor(draw.organization * cardinality(organization_ids))::integer],
		format('user%s@example.com', draw.n), format('user%s', draw.n),
		jsonb_build_object('signup_source', 'email'), draw.signup, draw.signup
	FROM (
		SELECT n, random() AS organization, today - random() * interval '60 days' AS signup
		FROM generate_series(1, load_sample_data.users) n
	) draw
	ON CONFLICT (email) DO NOTHING;
	GET DIAGNOSTICS new_users = ROW_COUNT;

	SELECT array_agg(u.user_id ORDER BY n) INTO user_ids
	FROM generate_series(1, load_sample_data.users) n
	JOIN prod_analytics.users u ON lower(u.email::text) = format('user%s@example.com', n);

	INSERT INTO prod_analytics.events
		(event_id, user_id, org_id, event_type, event_props, event_time, received_at, device_type)
	SELECT hashtextextended(format('sample %s %s %s', load_sample_data.seed, extract(epoch FROM today), draw.n), 0)
			& 9223372036854775807,
		u.user_id, u.org_id,
		CASE WHEN draw.kind < 0.02 THEN 'purchase' WHEN draw.kind < 0.2 THEN 'add_to_cart' ELSE 'product_view' END,
		jsonb_build_object('price', round((draw.price * 100)::numeric, 2),
			'product_id', (1000 + floor(draw.product * 100))::text, 'device', d.device)
			|| CASE WHEN draw.kind < 0.02 THEN jsonb_build_object('order_id', draw.n::text) ELSE '{}' END,
		t.event_time, t.event_time, d.device
	FROM (
		SELECT n, random() AS person, random() AS kind, random() AS price, random() AS product,
			random() AS device, random() AS moment
		FROM generate_series(1, load_sample_data.events) n
	) draw
	JOIN prod_analytics.users u
		ON u.user_id = user_ids[1 + floor(draw.person * cardinality(user_ids))::integer],
	LATERAL (SELECT CASE WHEN draw.device < 0.5 THEN 'mobile' ELSE 'desktop' END AS device) d,
	LATERAL (SELECT greatest(u.signup_ts, today - interval '30 days') AS earliest) s,
	LATERAL (SELECT s.earliest + draw.moment * (today - s.earliest) AS event_time) t
	ON CONFLICT (event_id, event_time) DO NOTHING;
	GET DIAGNOSTICS new_events = ROW_COUNT;

	RETURN jsonb_build_object('organizations', new_organizations, 'users', new_users, 'events', new_events);
END
$$;

COMMENT ON FUNCTION load_sample_data(integer, integer, double precision) IS
	'add two organizations, users spread over them, and events of the 30 days before today: the same seed (-1 to 1) on the same day gives the same rows, and adds nothing the second time; returns how many organizations, users and events were new; raises 22023 for a parameter that is NULL or out of range (section 19)';
