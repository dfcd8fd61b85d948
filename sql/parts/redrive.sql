CREATE FUNCTION redrive_events(quarantined_before timestamptz DEFAULT now(), reason_code text DEFAULT NULL, dry_run boolean DEFAULT false)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'pa_redrive_events'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION redrive_events(timestamptz, text, boolean) IS
	'move the events that were quarantined until quarantined_before, for the reason reason_code (NULL: any but unparsable_line), back to staging_events, with attempts one higher, and return how many; only count them when dry_run; raises 22004 when quarantined_before is NULL';

CREATE FUNCTION redrive_users(quarantined_before timestamptz DEFAULT now(), reason_code text DEFAULT NULL, dry_run boolean DEFAULT false)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'pa_redrive_users'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION redrive_users(timestamptz, text, boolean) IS
	'move the users that were quarantined until quarantined_before, for the reason reason_code (NULL: any but superseded), back to staging_users, of each src_id the last one unless it has been staged again, and return how many; only count them when dry_run; raises 22004 when quarantined_before is NULL';
