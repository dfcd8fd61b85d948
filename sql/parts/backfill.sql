CREATE FUNCTION backfill_begin(target regclass, column_name name, expression text, batch_size integer,
		OUT job_name text, OUT table_name text, OUT primary_key text, OUT expected bigint)
	AS 'MODULE_PATHNAME', 'pa_backfill_begin'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_begin(regclass, name, text, integer) IS
	'internal: check the arguments of backfill_column(), and about how many rows there are';

CREATE FUNCTION backfill_leaf(target regclass, after oid)
	RETURNS oid
	AS 'MODULE_PATHNAME', 'pa_backfill_leaf'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_leaf(regclass, oid) IS
	'internal: the next of the tables that hold the rows of target, in the order of their OIDs; NULL: there is none';

CREATE FUNCTION backfill_range(target regclass, leaf oid, column_name name, after text[], upto text[], batch_size integer,
		OUT last_key text[], OUT scanned bigint, OUT ctids tid[])
	AS 'MODULE_PATHNAME', 'pa_backfill_range'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_range(regclass, oid, name, text[], text[], integer) IS
	'internal: the next batch_size rows of leaf by primary key, after a key (NULL: from the first on) up to another one (NULL: to the last): the last key, how many they are, and which of them lack a value in the column; NULLs when there is none, or leaf is no table of target any more';

CREATE FUNCTION backfill_rows(target regclass, leaf oid, column_name name, expression text, ctids tid[],
		OUT filled bigint, OUT locked bigint)
	AS 'MODULE_PATHNAME', 'pa_backfill_rows'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_rows(regclass, oid, name, text, tid[]) IS
	'internal: fill the column of rows that lack a value, but for locked ones';

CREATE FUNCTION backfill_pause(locked boolean)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_backfill_pause'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_pause(boolean) IS
	'internal: rest between batches, or until others may have given their locks back';

CREATE FUNCTION backfill_progress(target regclass, column_name name, done bigint, expected bigint)
	RETURNS void
	AS 'MODULE_PATHNAME', 'pa_backfill_progress'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION backfill_progress(regclass, name, bigint, bigint) IS
	'internal: show a run in job_progress; done NULL: it is over';

CREATE FUNCTION backfill_resume(job_name text, job_id bigint, started jsonb)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- The details of a run are its state.  One that did not come to its end leaves them to the next one for the
-- same column, expression and key.
DECLARE
	state jsonb := started || '{"scanned": 0, "filled": 0, "locked": 0, "batches": 0, "rows_before": 0, "retry": 0, "ranges": []}';
	last_run prod_analytics.etl_jobs;
BEGIN
	-- OFFSET 0 keeps the planner from going backwards through everybody's runs until it finds one of this job.
	SELECT * INTO last_run FROM (SELECT * FROM prod_analytics.etl_jobs e WHERE e.job_name = backfill_resume.job_name OFFSET 0) j
	WHERE j.job_id < backfill_resume.job_id AND j.status <> 'SKIPPED'
	ORDER BY j.job_id DESC LIMIT 1;
	IF last_run.status = 'FAILED' AND last_run.details @> started AND last_run.details ? 'position' THEN
		state := state || jsonb_build_object('resumed', last_run.job_id, 'position', last_run.details->'position',
			'rows_before', (last_run.details->>'rows_before')::bigint + (last_run.details->>'scanned')::bigint,
			'locked', last_run.details->'locked',
			'ranges', (SELECT coalesce(jsonb_agg(r.range || '{"tries": 0}' ORDER BY r.n), '[]')
				FROM jsonb_array_elements(last_run.details->'ranges') WITH ORDINALITY r (range, n)));
	END IF;
	RETURN state;
END
$$;

COMMENT ON FUNCTION backfill_resume(text, bigint, jsonb) IS
	'internal: the details that a run of backfill_column() begins with: those of the one before it when that did not come to its end, else none';

CREATE FUNCTION backfill_next(target regclass, column_name name, batch_size integer, state jsonb,
		OUT work jsonb, OUT ctids tid[], OUT wait boolean)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
-- First all of the table, a range after the other.  Then the ranges with locked rows, each once per round, which
-- begins with a pause ("wait").
DECLARE
	place CONSTANT jsonb := state->'position';
	leaf oid := (place->>'leafid')::oid;
	after text[];
	round CONSTANT integer := (state->>'retry')::integer;
	piece record;
	range record;
BEGIN
	wait := false;
	IF round = 0 AND (place->>'done')::boolean IS DISTINCT FROM false THEN
		leaf := prod_analytics.backfill_leaf(target, coalesce(leaf, 0));
	ELSIF round = 0 THEN
		after := prod_analytics.backfill_key(place->'key');
	END IF;
	WHILE round = 0 AND leaf IS NOT NULL LOOP
		SELECT * INTO piece FROM prod_analytics.backfill_range(target, leaf, column_name, after, NULL, batch_size);
		IF piece.scanned > 0 THEN
			work := jsonb_build_object('leaf', leaf::regclass::text, 'leafid', leaf, 'after', to_jsonb(after), 'upto', to_jsonb(piece.last_key),
				'scanned', piece.scanned, 'done', piece.scanned < batch_size);
			ctids := piece.ctids;
			RETURN;
		END IF;
		leaf := prod_analytics.backfill_leaf(target, leaf);
		after := NULL;
	END LOOP;

	SELECT r.value, r.n - 1 AS index INTO range FROM jsonb_array_elements(state->'ranges') WITH ORDINALITY r (value, n)
	WHERE (r.value->>'tries')::integer < round ORDER BY r.n LIMIT 1;
	IF range.value IS NOT NULL THEN
		leaf := (range.value->>'leafid')::oid;
		SELECT * INTO piece FROM prod_analytics.backfill_range(target, leaf, column_name,
			prod_analytics.backfill_key(range.value->'after'), prod_analytics.backfill_key(range.value->'upto'), batch_size);
		work := range.value || jsonb_build_object('index', range.index, 'scanned', coalesce(piece.scanned, 0),
			'upto', coalesce(to_jsonb(piece.last_key), range.value->'upto'));
		ctids := piece.ctids;
	ELSIF state->'ranges' <> '[]' AND round < current_setting('prod_analytics.lock_retries')::integer THEN
		work := '{}';
		wait := true;
	END IF;
END
$$;

COMMENT ON FUNCTION backfill_next(regclass, name, integer, jsonb) IS
	'internal: the next rows of a run of backfill_column(); work is NULL when there are none left';

CREATE FUNCTION backfill_key(key jsonb)
	RETURNS text[]
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE WHEN jsonb_typeof(key) = 'array'
		THEN (SELECT array_agg(k.value ORDER BY k.n) FROM jsonb_array_elements_text(key) WITH ORDINALITY k (value, n)) END
$$;

COMMENT ON FUNCTION backfill_key(jsonb) IS
	'internal: the values of a primary key as texts; NULL: no key';

CREATE FUNCTION backfill_add(ranges jsonb, piece jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT CASE WHEN (piece->>'rows')::bigint = 0 THEN ranges
		WHEN ranges->-1->'leafid' = piece->'leafid' AND ranges->-1->'upto' = piece->'after' AND ranges->-1->'tries' = piece->'tries'
		THEN (ranges - -1) || jsonb_build_array(ranges->-1 || jsonb_build_object('upto', piece->'upto',
			'rows', (ranges->-1->>'rows')::bigint + (piece->>'rows')::bigint))
		ELSE ranges || jsonb_build_array(piece) END
$$;

COMMENT ON FUNCTION backfill_add(jsonb, jsonb) IS
	'internal: ranges of keys with one more, joined to the last one when they are neighbours, unless it has no locked rows';

CREATE FUNCTION backfill_count(state jsonb, work jsonb, filled bigint, locked bigint)
	RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	ranges jsonb := state->'ranges';
	piece CONSTANT jsonb := jsonb_build_object('leaf', work->'leaf', 'leafid', work->'leafid', 'after', work->'after', 'upto', work->'upto',
		'rows', locked, 'tries', state->'retry');
	range jsonb;
BEGIN
	IF NOT work ? 'leafid' THEN
		RETURN state || jsonb_build_object('retry', (state->>'retry')::integer + 1);
	END IF;
	IF work ? 'index' THEN
		-- The rest of a range that is longer than a batch stays where it is.
		range := ranges->(work->>'index')::integer;
		IF work->'upto' = range->'upto' THEN
			ranges := ranges - (work->>'index')::integer;
		ELSE
			ranges := jsonb_set(ranges, ARRAY[work->>'index'],
				range || jsonb_build_object('after', work->'upto', 'rows', greatest((range->>'rows')::bigint - filled - locked, 0)));
		END IF;
	ELSE
		state := state || jsonb_build_object('scanned', (state->>'scanned')::bigint + (work->>'scanned')::bigint,
			'position', jsonb_build_object('leaf', work->'leaf', 'leafid', work->'leafid', 'key', work->'upto', 'done', work->'done'));
	END IF;
	ranges := prod_analytics.backfill_add(ranges, piece);
	RETURN state || jsonb_build_object('ranges', ranges, 'batches', (state->>'batches')::bigint + 1,
		'filled', (state->>'filled')::bigint + filled,
		'locked', (SELECT coalesce(sum((r.value->>'rows')::bigint), 0) FROM jsonb_array_elements(ranges) r));
END
$$;

COMMENT ON FUNCTION backfill_count(jsonb, jsonb, bigint, bigint) IS
	'internal: the details of a run of backfill_column() after one more batch';

CREATE FUNCTION backfill_describe(state jsonb, work jsonb)
	RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT format('%s%s of %s',
		CASE WHEN after.key IS NULL THEN 'the first rows' ELSE format('the rows after (%s)', array_to_string(after.key, ', ')) END,
		CASE WHEN work ? 'upto' THEN format(' up to (%s)', array_to_string(prod_analytics.backfill_key(work->'upto'), ', ')) END,
		coalesce(work->>'leaf', state->'position'->>'leaf', state->>'table'))
	FROM (SELECT prod_analytics.backfill_key(CASE WHEN work IS NULL THEN state->'position'->'key' ELSE work->'after' END)) after (key)
$$;

COMMENT ON FUNCTION backfill_describe(jsonb, jsonb) IS
	'internal: which rows a batch has, in words';

CREATE FUNCTION backfill_failure(state jsonb, work jsonb, error jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT state || jsonb_build_object('range', prod_analytics.backfill_describe(state, work))
		|| (SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}') FROM jsonb_each_text(error) e
			-- The detail of a constraint's error is the row itself, which is nobody's business who may read the log.
			WHERE e.value <> '' AND NOT (e.key = 'detail' AND error->>'sqlstate' LIKE '23%'))
$$;

COMMENT ON FUNCTION backfill_failure(jsonb, jsonb, jsonb) IS
	'internal: the details of a run of backfill_column() that an error ended';

CREATE PROCEDURE backfill_column(target regclass, column_name name, expression text, batch_size integer DEFAULT 10000)
	LANGUAGE plpgsql
	AS $$
-- The expression needs the caller's search_path, and a procedure that commits cannot have one of its own anyway.
-- So nothing else here depends on it: functions and types are qualified, operators left to functions.
DECLARE
	about record;
	job bigint;
	state pg_catalog.jsonb;
	work pg_catalog.jsonb;
	ctids pg_catalog.tid[];
	wait boolean;
	filled bigint;
	locked bigint;
	message pg_catalog.text;
	error_code pg_catalog.text;
	error_detail pg_catalog.text;
	error_hint pg_catalog.text;
	error_context pg_catalog.text;
BEGIN
	about := prod_analytics.backfill_begin(backfill_column.target, backfill_column.column_name, backfill_column.expression, backfill_column.batch_size);
	job := prod_analytics.job_begin(about.job_name);
	IF job IS NULL THEN
		RAISE NOTICE 'another session is filling column "%" of %', backfill_column.column_name, about.table_name;
		RETURN;
	END IF;
	state := prod_analytics.backfill_resume(about.job_name, job, pg_catalog.jsonb_build_object(
		'table', about.table_name, 'relid', backfill_column.target::pg_catalog.oid, 'column', backfill_column.column_name,
		'expression', backfill_column.expression, 'primary_key', about.primary_key));
	PERFORM prod_analytics.job_note(job, 0, state);
	IF pg_catalog.jsonb_extract_path(state, 'resumed') IS NOT NULL THEN
		RAISE NOTICE 'run % did not come to its end; going on with %',
			pg_catalog.jsonb_extract_path_text(state, 'resumed'), prod_analytics.backfill_describe(state, NULL);
	END IF;
	COMMIT;

	LOOP
		work := NULL;
		ctids := NULL;
		filled := 0;
		locked := 0;
		error_code := NULL;
		PERFORM prod_analytics.backfill_progress(backfill_column.target, backfill_column.column_name,
			prod_analytics.backfill_done(state), about.expected);
		BEGIN
			SELECT n.work, n.ctids, n.wait INTO work, ctids, wait
			FROM prod_analytics.backfill_next(backfill_column.target, backfill_column.column_name, backfill_column.batch_size, state) n;
			IF ctids IS NOT NULL THEN
				SELECT r.filled, r.locked INTO filled, locked
				FROM prod_analytics.backfill_rows(backfill_column.target, pg_catalog.jsonb_extract_path_text(work, 'leafid')::pg_catalog.oid,
					backfill_column.column_name, backfill_column.expression, ctids) r;
			END IF;
		EXCEPTION
			WHEN OTHERS THEN
				GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, error_code = RETURNED_SQLSTATE, error_detail = PG_EXCEPTION_DETAIL,
					error_hint = PG_EXCEPTION_HINT, error_context = PG_EXCEPTION_CONTEXT;
				filled := 0;
		END;
		IF ctids IS NOT NULL AND prod_analytics.backfill_must_wait(error_code) THEN
			-- A trigger or an index met a lock.
			locked := pg_catalog.cardinality(ctids);
			error_code := NULL;
		END IF;
		EXIT WHEN work IS NULL OR error_code IS NOT NULL;

		state := prod_analytics.backfill_count(state, work, filled, locked);
		PERFORM prod_analytics.job_note(job, pg_catalog.jsonb_extract_path_text(state, 'scanned')::bigint, state);
		COMMIT;
		PERFORM prod_analytics.backfill_pause(wait);
		COMMIT;
	END LOOP;

	PERFORM prod_analytics.backfill_progress(backfill_column.target, backfill_column.column_name, NULL, NULL);
	IF error_code IS NOT NULL THEN
		state := prod_analytics.backfill_failure(state, work, pg_catalog.jsonb_build_object('sqlstate', error_code, 'error', message,
			'detail', error_detail, 'hint', error_hint, 'context', error_context));
		PERFORM prod_analytics.job_finish(job, 'FAILED', pg_catalog.jsonb_extract_path_text(state, 'scanned')::bigint, state);
		COMMIT;
		RAISE EXCEPTION USING ERRCODE = error_code,
			MESSAGE = pg_catalog.format('could not fill %s: %s', pg_catalog.jsonb_extract_path_text(state, 'range'), message),
			DETAIL = pg_catalog.btrim(pg_catalog.concat_ws(' ', error_detail, 'What was filled before is committed.')),
			HINT = pg_catalog.concat_ws(' ', pg_catalog.jsonb_extract_path_text(state, 'hint'),
				'Mend the rows or the expression, and call it again; with the same expression it goes on with these rows.');
	END IF;

	PERFORM prod_analytics.job_finish(job, 'SUCCESS', pg_catalog.jsonb_extract_path_text(state, 'scanned')::bigint, state);
	RAISE NOTICE 'filled column "%" in % of % rows of %', backfill_column.column_name, pg_catalog.jsonb_extract_path_text(state, 'filled'),
		pg_catalog.jsonb_extract_path_text(state, 'scanned'), about.table_name;
	IF pg_catalog.int4gt(pg_catalog.jsonb_array_length(pg_catalog.jsonb_extract_path(state, 'ranges')), 0) THEN
		RAISE WARNING USING ERRCODE = 'lock_not_available',
			MESSAGE = pg_catalog.format('%s rows of %s are locked by others and were left', pg_catalog.jsonb_extract_path_text(state, 'locked'), about.table_name),
			HINT = 'Call backfill_column() again when they have finished.';
	END IF;
END
$$;

COMMENT ON PROCEDURE backfill_column(regclass, name, text, integer) IS
	'fill a column of a table, or of the partitions of one: where it is NULL it gets the value of expression, an SQL expression over the row''s columns that is evaluated as the caller; batch_size rows at a time by primary key, with a commit and a pause (prod_analytics.backfill_pause) after each batch; locked rows are skipped and tried again at the end, prod_analytics.lock_retries times; what stays locked is a WARNING; goes on where it was after a crash, a cancel or an error when it is called with the same arguments; runs once at a time for a column, by the advisory lock hashtext(''etl_backfill_column schema.table.column''); logs the run in etl_jobs, with filled, locked, batches, position and ranges in details; raises 22004 and 22023 for arguments that make no sense, 42703 and 428C9 for a column that is missing or generated, 42601, 42803, 42804 and 0A000 for an expression that is none, 42809 for what is not a table, 55000 for a table without primary key, 42501 without SELECT and UPDATE, 25001 inside a transaction block, and the error of a row that cannot be filled';

CREATE FUNCTION backfill_done(state jsonb)
	RETURNS bigint
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT (state->>'rows_before')::bigint + (state->>'scanned')::bigint
$$;

COMMENT ON FUNCTION backfill_done(jsonb) IS
	'internal: how many rows of the table have been looked at, by a run of backfill_column() and those that it goes on from';

CREATE FUNCTION backfill_must_wait(error_code text)
	RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT error_code IN ('55P03', '40P01', '40001') IS TRUE
$$;

COMMENT ON FUNCTION backfill_must_wait(text) IS
	'internal: whether an error means that others are in the way, so that trying again later may do';
