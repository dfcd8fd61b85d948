-- Roles (section 15).  They belong to the whole cluster: one that is there already is fine, and
-- dropping the extension leaves them.  They are made during a restore too, because the dump's
-- GRANTs name them.

CREATE FUNCTION make_roles()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- In a function, because the script itself runs with a search_path on which others may have objects.
DECLARE
	wanted record;
BEGIN
	FOR wanted IN
		SELECT * FROM (VALUES
			('analytics_reader', 'prod_analytics: may read events, users, metrics, the log of runs, and what is made in the schema later'),
			('analytics_loader', 'prod_analytics: may write to the staging tables, and nothing else'),
			('analytics_operator', 'prod_analytics: may run jobs and see everything')
		) AS roles (role_name, description)
		WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role_name)
	LOOP
		EXECUTE format('CREATE ROLE %I NOLOGIN', wanted.role_name);
		EXECUTE format('COMMENT ON ROLE %I IS %L', wanted.role_name, wanted.description);
	END LOOP;
END
$$;

COMMENT ON FUNCTION make_roles() IS
	'internal: make the roles that are missing';

SELECT prod_analytics.make_roles();

CREATE FUNCTION grant_privileges()
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- A table's privileges are granted where it is made.  Here are those of the schema and of the
-- functions, which are new after each CREATE EXTENSION.
BEGIN
	GRANT USAGE ON SCHEMA prod_analytics TO analytics_reader, analytics_loader, analytics_operator;

	GRANT EXECUTE ON ROUTINE
		prod_analytics.backfill_column(regclass, name, text, integer),
		prod_analytics.cancel_job(text),
		prod_analytics.capture_plan(text, boolean),
		prod_analytics.disable_incremental_refresh(regclass),
		prod_analytics.drop_expired_partitions(regclass, timestamptz, boolean),
		prod_analytics.enable_incremental_refresh(regclass, regclass),
		prod_analytics.due_jobs(timestamptz),
		prod_analytics.ensure_partitions(regclass, timestamptz),
		prod_analytics.ensure_partitions_between(regclass, timestamptz, timestamptz),
		prod_analytics.erase_user(bigint),
		prod_analytics.etl_ingest_events(integer),
		prod_analytics.etl_upsert_users(integer),
		prod_analytics.maintain_partitions(regclass),
		prod_analytics.manage_partitions(regclass, name, interval, integer, integer, interval, text, boolean, text),
		prod_analytics.mark_changed(regclass, jsonb),
		prod_analytics.next_slot(text, timestamptz, text),
		prod_analytics.pause_job(text),
		prod_analytics.plan_partitions(regclass, timestamptz),
		prod_analytics.purge_history(),
		prod_analytics.redrive_events(timestamptz, text, boolean),
		prod_analytics.redrive_users(timestamptz, text, boolean),
		prod_analytics.refresh_incremental(regclass),
		prod_analytics.register_event_schema(text, jsonb, text),
		prod_analytics.resume_job(text),
		prod_analytics.run_job(text),
		prod_analytics.run_quality_checks(text),
		prod_analytics.slow_queries(integer),
		prod_analytics.schedule_job(text, text, text, interval, integer, text, text, text[]),
		prod_analytics.unmanage_partitions(regclass),
		prod_analytics.unschedule_job(text),
		prod_analytics.verify_matview(regclass, integer, boolean)
		TO analytics_operator;

	GRANT EXECUTE ON FUNCTION
		prod_analytics.is_valid_event(text, jsonb),
		prod_analytics.is_valid_purchase_event(jsonb),
		prod_analytics.jsonb_matches_schema(jsonb, jsonb),
		prod_analytics.jsonschema_is_valid(jsonb),
		prod_analytics.jsonschema_validation_errors(jsonb, jsonb),
		prod_analytics.validate_event(text, jsonb),
		prod_analytics.validate_purchase_event(jsonb)
		TO analytics_reader, analytics_loader, analytics_operator;

	GRANT EXECUTE ON FUNCTION
		prod_analytics.active_users(date, date, bigint),
		prod_analytics.approx_active_users(date, date, bigint),
		prod_analytics.approx_rolling_users(date, date, bigint),
		prod_analytics.event_schema_report(text, timestamptz, timestamptz),
		prod_analytics.funnel(text[], interval, text, boolean, timestamptz, timestamptz, boolean),
		prod_analytics.org_tree(bigint),
		prod_analytics.retention(date, date, text, bigint, text),
		prod_analytics.search_knowledge_base(text, bigint, integer),
		prod_analytics.users_with_event(text, timestamptz, timestamptz),
		prod_analytics.users_without_event(text, timestamptz, timestamptz),
		prod_analytics.window_funnel(interval, timestamptz, text, text[]),
		prod_analytics.worker_processes()
		TO analytics_reader, analytics_operator;

	-- Those read as whoever calls them, and so do the functions that they are made of.
	GRANT EXECUTE ON FUNCTION
		prod_analytics.check_days(date, date),
		prod_analytics.check_retention(text, text),
		prod_analytics.check_times(timestamptz, timestamptz),
		prod_analytics.day_counts(varbit),
		prod_analytics.day_set(integer, integer),
		prod_analytics.day_set_spread(varbit, integer),
		prod_analytics.funnel_of_user(text[], interval, text, boolean, timestamptz, timestamptz, boolean, timestamptz, text),
		prod_analytics.hll_schema(),
		prod_analytics.org_tree_paths(bigint),
		prod_analytics.period_number(date, date, text),
		prod_analytics.utc_midnight(date)
		TO analytics_reader, analytics_operator;

	-- A procedure that commits cannot act as its owner; its steps can.
	GRANT EXECUTE ON FUNCTION
		prod_analytics.analyze_partitions(regclass),
		prod_analytics.backfill_begin(regclass, name, text, integer),
		prod_analytics.backfill_add(jsonb, jsonb),
		prod_analytics.backfill_count(jsonb, jsonb, bigint, bigint),
		prod_analytics.backfill_describe(jsonb, jsonb),
		prod_analytics.backfill_done(jsonb),
		prod_analytics.backfill_failure(jsonb, jsonb, jsonb),
		prod_analytics.backfill_key(jsonb),
		prod_analytics.backfill_leaf(regclass, oid),
		prod_analytics.backfill_must_wait(text),
		prod_analytics.backfill_next(regclass, name, integer, jsonb),
		prod_analytics.backfill_pause(boolean),
		prod_analytics.backfill_progress(regclass, name, bigint, bigint),
		prod_analytics.backfill_range(regclass, oid, name, text[], text[], integer),
		prod_analytics.backfill_resume(text, bigint, jsonb),
		prod_analytics.backfill_rows(regclass, oid, name, text, tid[]),
		prod_analytics.check_next_partition(regclass),
		prod_analytics.count_step(jsonb, jsonb),
		prod_analytics.drop_next_partition(regclass, timestamptz),
		prod_analytics.job_begin(text),
		prod_analytics.job_finish(bigint, text, bigint, jsonb),
		prod_analytics.job_note(bigint, bigint, jsonb),
		prod_analytics.maintain_table(regclass, timestamptz, text),
		prod_analytics.make_next_partition(regclass, timestamptz),
		prod_analytics.managed_tables(regclass),
		prod_analytics.must_analyze(regclass),
		prod_analytics.partition_warnings(regclass, timestamptz),
		prod_analytics.purge_batch(text, bigint),
		prod_analytics.purge_next(jsonb),
		prod_analytics.purge_runs(bigint),
		prod_analytics.run_status(jsonb)
		TO analytics_operator;
END
$$;

COMMENT ON FUNCTION grant_privileges() IS
	'internal: give the roles analytics_reader, analytics_loader and analytics_operator their privileges on the schema and its functions (section 15)';

CREATE FUNCTION grant_later_tables()
	RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	ALTER DEFAULT PRIVILEGES IN SCHEMA prod_analytics
		GRANT SELECT ON TABLES TO analytics_reader, analytics_operator
$$;

COMMENT ON FUNCTION grant_later_tables() IS
	'internal: let the roles read what the owner makes in the schema later too (section 15), once: who has taken that back does not want it';
