CREATE FUNCTION enable_incremental_refresh(matview regclass, archive regclass DEFAULT NULL)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_enable_incremental_refresh'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION enable_incremental_refresh(regclass, regclass) IS
	'let refresh_incremental() keep a materialized view of the caller''s; archive is a table of the same owner with all of its columns that gets the rows of partitions before they are dropped (NULL: the one that the view has already, if any); it refreshes nothing, but everything is taken to have changed; calling it again looks anew at how the view can be kept; returns {"mode", "matview", "source", "keys", "archive", "index" or "advice", "not_data", "order_dependent"}, or {"mode": "full", "matview", "reason", "archive"} for a view that cannot be kept incrementally; raises 22004 for NULL, 42809 for what is no materialized view or no archive, 42501 for somebody else''s, 55000 without a unique index on the keys (the hint is the statement), 42703, 42804, 428C9 and 55000 for an archive that does not fit or is another view''s, 0A000 for one of a view in mode full, 55P03 when the source cannot be locked, 25006 in a read-only transaction';

CREATE FUNCTION disable_incremental_refresh(matview regclass)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_disable_incremental_refresh'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION disable_incremental_refresh(regclass) IS
	'keep a materialized view of the caller''s up to date no longer; the view and its archive stay as they are; raises 55000 when it is not registered and 42501 when it is somebody else''s; a trigger that cannot be dropped because its table is locked is a WARNING';

CREATE FUNCTION refresh_incremental(matview regclass DEFAULT NULL)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'pa_refresh_incremental'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION refresh_incremental(regclass) IS
	'make a registered materialized view what its query returns (NULL: all of them, each for itself), by computing the groups that have changed; returns job_id, status, rows (changed in the view), duration_seconds, matview, mode (incremental, full), method (keys: the changed groups; recompute: all, merged; refresh: REFRESH MATERIALIZED VIEW), keys (groups computed), inserted, updated, deleted and, where there is one, reason; for NULL the views'' results in views; a failure is rolled back, logged in etl_jobs as refresh_matviews and raised as a WARNING; raises 55000 when the view is not registered, 42809 for what is no materialized view, 25006 on a standby and in a read-only transaction, and 40001 under REPEATABLE READ and above when another refresh, or a change of the source''s tables, has committed since the snapshot';

CREATE FUNCTION mark_changed(matview regclass, changed_keys jsonb DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_mark_changed'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION mark_changed(regclass, jsonb) IS
	'let the next refresh of a registered materialized view recompute what triggers did not see change, like rows that were loaded while they were disabled: the groups that changed_keys names, an object or an array of objects with all the view''s keys ({"org_id": 1, "event_date": "2026-11-01"}; null is a NULL key), or everything when it is NULL; raises 55000 when the view is not registered, 22023 for keys that it does not have, 22P02 and its like for values that are none';

CREATE FUNCTION verify_matview(matview regclass, sample_keys integer DEFAULT NULL, repair boolean DEFAULT false)
	RETURNS TABLE (problem text, stored jsonb, recomputed jsonb)
	AS 'MODULE_PATHNAME', 'pa_verify_matview'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION verify_matview(regclass, integer, boolean) IS
	'compare a registered materialized view with a recomputation, as of one moment, in both directions: a row for each group that is missing, extra or different, none when it is exact; sample_keys compares about so many groups, chosen at random (NULL: all); repair mends what was found; columns that do not depend on rows, or on the order in which they are read, are left out, which a NOTICE says; raises 55000 when the view is not registered, 0A000 when it is not kept incrementally, 22023 when sample_keys is not positive, 22004 for NULL, 25006 with repair on a standby and in a read-only transaction';

CREATE FUNCTION capture_changes()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'pa_capture_changes'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION capture_changes() IS
	'internal: trigger for each row of a table that materialized views read, which notes the groups that change';

CREATE FUNCTION restore_capture()
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_restore_capture'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION restore_capture() IS
	'internal: make the missing triggers of all registered materialized views again; what they did not see is recomputed by the next refresh';

CREATE FUNCTION registered_matviews_changed()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'pa_registered_matviews_changed'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION registered_matviews_changed() IS
	'internal: trigger of registered_matviews that lets all sessions know';
