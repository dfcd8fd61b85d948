/*
 * ingest.c
 *		Moving events from staging_events to events.
 *
 * A run takes a batch out of staging into a tuplestore, where each row stands with the reasons for
 * which it cannot become an event, and then sets it going: rows with reasons to
 * quarantined_events, the others to events.  Everything is one transaction, so a row is always in
 * exactly one place.
 *
 * Rows whose partition is missing come last: making it takes locks on users and on the default
 * partition that are held until the transaction ends.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "guard.h"
#include "job.h"
#include "miscadmin.h"
#include "partition.h"
#include "query.h"
#include "settings.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define JOB_NAME "ingest_events"

PG_FUNCTION_INFO_V1(pa_etl_ingest_events);

/* One run. */
typedef struct Ingest
{
	int32		batch_size;
	Oid			events;
	PaPolicy   *policy;			/* of events; NULL: its partitions are not managed */
	int64		job_id;
	int64		taken;			/* rows taken out of staging */
	int64		inserted;
	int64		duplicates;		/* dropped: the event is there already */
	int64		quarantined;
	int64		deferred;		/* put back into staging */
	Tuplestorestate *store;		/* the rows that "batch" is at the moment */
	int			partitions;		/* made for the batch */
	bool		unnumbered;		/* some row has no event_id */
} Ingest;

/* Make events of the valid rows "first" to "last" whose event_time is in "inside" but not in "outside". */
typedef struct Insertion
{
	Ingest	   *ingest;
	List	   *inside;			/* of PaRange */
	List	   *outside;		/* of PaRange */
	int64		first;
	int64		last;
} Insertion;

/*
 * Takes at most $1 rows out of staging and says of each what is wrong with it.
 *
 * The batch's users are locked, so that they are still there when the rows arrive in events.  $2 is
 * the clock, $3 and $4 the accepted age and lead of an event, $5 the end of the retention.  The year 1
 * bounds a received_at so that no subtraction leaves the range of timestamptz.
 */
static const char *const take_query =
"WITH taken AS ("
" DELETE FROM prod_analytics.staging_events"
" WHERE ctid = ANY (ARRAY(SELECT ctid FROM prod_analytics.staging_events LIMIT $1))"
" RETURNING *),"
" known AS MATERIALIZED ("
" SELECT u.user_id FROM prod_analytics.users u"
" WHERE u.user_id IN (SELECT t.user_id FROM taken t) FOR KEY SHARE OF u),"
" checked AS ("
" SELECT t.*, t.user_id IS NULL OR k.user_id IS NOT NULL AS user_is_known,"
" greatest(w.arrival - $3, $5) AS oldest, w.arrival + $4 AS newest"
" FROM taken t LEFT JOIN known k ON k.user_id = t.user_id,"
" LATERAL (SELECT greatest(least(coalesce(t.received_at, $2), $2), timestamptz '0001-01-01') AS arrival) w)"
" SELECT row_number() OVER () AS line, event_id, user_id, org_id, event_type, payload, event_time,"
" coalesce(received_at, $2) AS received_at, attempts,"
" CASE WHEN event_type <> '' AND event_time BETWEEN oldest AND newest AND user_is_known"
" AND (payload IS NULL OR jsonb_typeof(payload) = 'object') THEN NULL ELSE"
" (SELECT jsonb_agg(reason) FROM (VALUES"
" (CASE WHEN event_type IS NULL OR event_type = '' THEN jsonb_build_object("
" 'code', 'missing_field', 'path', '/event_type', 'message', 'event_type is missing') END),"
" (CASE WHEN event_time IS NULL THEN jsonb_build_object("
" 'code', 'missing_field', 'path', '/event_time', 'message', 'event_time is missing')"
" WHEN event_time NOT BETWEEN oldest AND newest THEN jsonb_build_object("
" 'code', 'event_time_out_of_range', 'path', '/event_time',"
" 'message', format('event_time %s is not between %s and %s', event_time, oldest, newest)) END),"
" (CASE WHEN NOT user_is_known THEN jsonb_build_object("
" 'code', 'unknown_user', 'path', '/user_id', 'message', format('user_id %s is not in users', user_id)) END),"
" (CASE WHEN jsonb_typeof(payload) <> 'object' THEN jsonb_build_object("
" 'code', 'invalid_payload', 'path', '/payload',"
" 'message', format('payload is not an object but of type %s', jsonb_typeof(payload))) END)"
" ) AS found (reason) WHERE reason IS NOT NULL) END AS reasons"
" FROM checked";

/* The staged columns of a row of the batch. */
#define STAGED_COLUMNS "event_id, user_id, org_id, event_type, payload, event_time, received_at, attempts"

/* The rows of an Insertion: $1 inside, $2 outside, $3 first, $4 last. */
#define SELECTED_LINES \
	"reasons IS NULL AND line BETWEEN $3 AND $4 AND event_time <@ $1 AND NOT event_time <@ $2"

/* The columns that take_query returns. */
static const struct
{
	const char *name;
	Oid			type;
}			batch_columns[] =
{
	{"line", INT8OID},
	{"event_id", INT8OID},
	{"user_id", INT8OID},
	{"org_id", INT8OID},
	{"event_type", TEXTOID},
	{"payload", JSONBOID},
	{"event_time", TIMESTAMPTZOID},
	{"received_at", TIMESTAMPTZOID},
	{"attempts", INT4OID},
	{"reasons", JSONBOID}
};

/*
 * batch_descriptor describes the rows of a batch.
 */
static TupleDesc
batch_descriptor(void)
{
	TupleDesc	descriptor = CreateTemplateTupleDesc(lengthof(batch_columns));

	for (int i = 0; i < (int) lengthof(batch_columns); i++)
		TupleDescInitEntry(descriptor, i + 1, batch_columns[i].name, batch_columns[i].type, -1, 0);

	return descriptor;
}

/*
 * use_as_batch makes the rows of a store readable as relation "batch" for the queries of this SPI
 * connection.
 */
static void
use_as_batch(Ingest *ingest, Tuplestorestate *store)
{
	EphemeralNamedRelation batch = palloc0(sizeof(EphemeralNamedRelationData));

	if (ingest->store)
		SPI_unregister_relation("batch");
	ingest->store = store;

	batch->md.name = "batch";
	batch->md.reliddesc = InvalidOid;
	batch->md.tupdesc = batch_descriptor();
	batch->md.enrtype = ENR_NAMED_TUPLESTORE;
	batch->md.enrtuples = tuplestore_tuple_count(store);
	batch->reldata = store;

	if (SPI_register_relation(batch) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the batch");
}

/*
 * lines_of copies the lines "first" to "last" out of the batch, which holds them in order.
 */
static Tuplestorestate *
lines_of(Ingest *ingest, int64 first, int64 last)
{
	Tuplestorestate *lines = tuplestore_begin_heap(true, false, work_mem);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(batch_descriptor(), &TTSOpsMinimalTuple);
	bool		isnull;

	tuplestore_select_read_pointer(ingest->store, 0);
	tuplestore_rescan(ingest->store);
	while (tuplestore_gettupleslot(ingest->store, true, false, slot))
	{
		int64		line = DatumGetInt64(slot_getattr(slot, 1, &isnull));

		if (line > last)
			break;
		if (line >= first)
			tuplestore_puttupleslot(lines, slot);
	}
	ExecDropSingleTupleTableSlot(slot);

	return lines;
}

/*
 * add_interval appends a setting as a parameter; its check hook has made sure that it parses.
 */
static void
add_interval(PaParameters *parameters, const char *setting)
{
	pa_add_parameter(parameters, INTERVALOID,
					 DirectFunctionCall3(interval_in, CStringGetDatum(setting),
										 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/*
 * take_batch moves rows out of staging into the relation "batch" that the other queries read.
 *
 * A tuplestore and not a temporary table: it leaves no trace in the catalogs, spills to disk by
 * itself, and is allowed where we run as somebody else.
 */
static void
take_batch(Ingest *ingest)
{
	int			guc_level = pa_utc_enter();
	TimestampTz now = GetCurrentTimestamp();
	Tuplestorestate *store = tuplestore_begin_heap(true, false, work_mem);
	DestReceiver *receiver = CreateDestReceiver(DestTuplestore);
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(ingest->batch_size));
	pa_add_parameter(&parameters, TIMESTAMPTZOID, TimestampTzGetDatum(now));
	add_interval(&parameters, pa_max_event_age);
	add_interval(&parameters, pa_max_event_lead);
	pa_add_parameter(&parameters, TIMESTAMPTZOID,
					 TimestampTzGetDatum(ingest->policy ? pa_expiry(ingest->policy, now) : DT_NOBEGIN));

	SetTuplestoreDestReceiverParams(receiver, store, CurrentMemoryContext, true, NULL, NULL);
	ingest->taken = pa_query_into(receiver, take_query, &parameters);
	use_as_batch(ingest, store);
	ingest->unnumbered = pa_query("SELECT FROM batch WHERE event_id IS NULL LIMIT 1", NULL, SPI_OK_SELECT) > 0;

	pa_utc_leave(guc_level);
}

/*
 * release_batch forgets the batch.
 */
static void
release_batch(Ingest *ingest)
{
	SPI_unregister_relation("batch");
	tuplestore_end(ingest->store);
}

/*
 * quarantine_invalid sets aside the rows that have reasons.
 */
static void
quarantine_invalid(Ingest *ingest)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(ingest->job_id));
	ingest->quarantined +=
		pa_query("INSERT INTO prod_analytics.quarantined_events (" STAGED_COLUMNS ", reasons, job_id)"
				 " SELECT " STAGED_COLUMNS ", reasons, $1 FROM batch WHERE reasons IS NOT NULL",
				 &parameters, SPI_OK_INSERT);
}

/*
 * quarantine_rejected sets aside a row that the table refused.
 */
static void
quarantine_rejected(Ingest *ingest, int64 line, ErrorData *error)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(ingest->job_id));
	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(line));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(unpack_sql_state(error->sqlerrcode)));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(error->message));
	ingest->quarantined +=
		pa_query("INSERT INTO prod_analytics.quarantined_events (" STAGED_COLUMNS ", reasons, job_id)"
				 " SELECT " STAGED_COLUMNS ", jsonb_build_array(jsonb_build_object("
				 "'code', 'rejected', 'path', '', 'message', $4, 'sqlstate', $3)), $1"
				 " FROM batch WHERE line = $2",
				 &parameters, SPI_OK_INSERT);
}

/*
 * add_ranges appends ranges as a multirange parameter.
 */
static void
add_ranges(PaParameters *parameters, List *ranges)
{
	int			guc_level = pa_utc_enter();
	StringInfoData text;
	ListCell   *cell;
	Oid			input;
	Oid			element;

	initStringInfo(&text);
	foreach(cell, ranges)
	{
		PaRange    *range = lfirst(cell);

		appendStringInfo(&text, "%s[\"%s\",\"%s\")",
						 text.len > 0 ? "," : "",
						 pa_instant_text(range->lower), pa_instant_text(range->upper));
	}

	getTypeInputInfo(TSTZMULTIRANGEOID, &input, &element);
	pa_add_parameter(parameters, TSTZMULTIRANGEOID,
					 OidInputFunctionCall(input, psprintf("{%s}", text.data), element, -1));
	pa_utc_leave(guc_level);
}

/* The columns of events that a batch fills but for event_id, and where they come from. */
#define EVENT_COLUMNS "user_id, org_id, event_type, event_props, event_time, received_at, device_type"
#define EVENT_VALUES "user_id, org_id, event_type, payload, event_time, received_at, payload->>'device'"

/*
 * add_selection appends the parameters of SELECTED_LINES.
 */
static void
add_selection(PaParameters *parameters, Insertion *insertion)
{
	add_ranges(parameters, insertion->inside);
	add_ranges(parameters, insertion->outside);
	pa_add_parameter(parameters, INT8OID, Int64GetDatum(insertion->first));
	pa_add_parameter(parameters, INT8OID, Int64GetDatum(insertion->last));
}

/*
 * insert_identified makes events of the rows that have an event_id, unless the events are there.
 */
static void
insert_identified(Insertion *insertion)
{
	PaParameters parameters = {0};
	int64		valid;
	int64		inserted;
	bool		isnull;

	add_selection(&parameters, insertion);
	pa_query("SELECT count(*) FROM batch WHERE event_id IS NOT NULL AND " SELECTED_LINES, &parameters, SPI_OK_SELECT);
	valid = DatumGetInt64(pa_result(0, 1, &isnull));
	if (valid == 0)
		return;

	inserted = pa_query("INSERT INTO prod_analytics.events (event_id, " EVENT_COLUMNS ")"
						" SELECT event_id, " EVENT_VALUES " FROM batch"
						" WHERE event_id IS NOT NULL AND " SELECTED_LINES
						" ON CONFLICT (event_id, event_time) DO NOTHING",
						&parameters, SPI_OK_INSERT);

	insertion->ingest->inserted += inserted;
	insertion->ingest->duplicates += valid - inserted;
}

/*
 * Gives the rows without an event_id a number and inserts them; $5 says which lines (NULL: all), $6
 * whether the number is the sequence's next or one drawn from all.  Returns the lines whose number an
 * event of that moment had already.
 */
static const char *const number_query =
"WITH numbered AS MATERIALIZED ("
" SELECT line, CASE WHEN $6 THEN (random() * 9007199254740991)::bigint * 1024"
" ELSE nextval(pg_get_serial_sequence('prod_analytics.events', 'event_id')) END AS new_id, " STAGED_COLUMNS
" FROM batch WHERE event_id IS NULL AND ($5 IS NULL OR line = ANY ($5)) AND " SELECTED_LINES "),"
" inserted AS ("
" INSERT INTO prod_analytics.events (event_id, " EVENT_COLUMNS ")"
" SELECT new_id, " EVENT_VALUES " FROM numbered"
" ON CONFLICT (event_id, event_time) DO NOTHING RETURNING event_id, event_time)"
" SELECT (SELECT count(*) FROM inserted), array_agg(n.line) FROM numbered n"
" WHERE NOT EXISTS (SELECT FROM inserted i WHERE i.event_id = n.new_id AND i.event_time = n.event_time)";

/*
 * insert_numbered makes events of the rows that have no event_id: each is an event of its own.
 *
 * The sequence can come upon numbers that loaders gave; such a row gets another one, drawn from so many
 * that a second try is enough.  What a trigger suppresses remains, and is no event.
 */
static void
insert_numbered(Insertion *insertion)
{
	bool		isnull = true;
	Datum		left = (Datum) 0;

	for (int tries = 0; tries < 3; tries++)
	{
		PaParameters parameters = {0};

		add_selection(&parameters, insertion);
		pa_add_parameter(&parameters, INT8ARRAYOID, left);
		parameters.nulls[parameters.count - 1] = isnull ? 'n' : ' ';
		pa_add_parameter(&parameters, BOOLOID, BoolGetDatum(tries > 0));
		pa_query(number_query, &parameters, SPI_OK_SELECT);

		insertion->ingest->inserted += DatumGetInt64(pa_result(0, 1, &isnull));
		left = pa_result(0, 2, &isnull);
		if (isnull)
			return;
	}

	insertion->ingest->duplicates += ArrayGetNItems(ARR_NDIM(DatumGetArrayTypeP(left)), ARR_DIMS(DatumGetArrayTypeP(left)));
}

/*
 * insert_lines is the work of an Insertion: valid rows become events.
 */
static void
insert_lines(void *argument)
{
	insert_identified(argument);
	if (((Insertion *) argument)->ingest->unnumbered)
		insert_numbered(argument);
}

/*
 * is_about_a_row tells whether an error may be the fault of a single row (a constraint or trigger
 * that the user added, a value that an index cannot hold), so that the others should go on.
 */
static bool
is_about_a_row(ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_WITH_CHECK_OPTION_VIOLATION:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
		case ERRCODE_PLPGSQL_ERROR:
			return true;
		default:
			return false;
	}
}

static void insert_surely(Insertion *insertion);

/*
 * insert_part does an insertion of some lines of the batch, which are the whole batch meanwhile, so that
 * the queries of ever smaller parts do not read ever the same rows.
 */
static void
insert_part(Insertion *insertion, int64 first, int64 last)
{
	Insertion	part = *insertion;
	Tuplestorestate *whole = insertion->ingest->store;
	Tuplestorestate *lines = lines_of(insertion->ingest, first, last);

	part.first = first;
	part.last = last;
	use_as_batch(insertion->ingest, lines);
	insert_surely(&part);
	use_as_batch(insertion->ingest, whole);
	tuplestore_end(lines);
}

/*
 * insert_surely does an insertion; when the table refuses a row, it halves the lines until the row
 * is found, and quarantines that one.
 */
static void
insert_surely(Insertion *insertion)
{
	Ingest		before = *insertion->ingest;
	int64		middle = insertion->first + (insertion->last - insertion->first) / 2;
	ErrorData  *error;

	CHECK_FOR_INTERRUPTS();

	if (pa_try(insert_lines, insertion, &error))
		return;

	*insertion->ingest = before;
	if (!is_about_a_row(error))
		ReThrowError(error);

	if (insertion->first == insertion->last)
	{
		quarantine_rejected(insertion->ingest, insertion->first, error);
		return;
	}
	FreeErrorData(error);

	insert_part(insertion, insertion->first, middle);
	insert_part(insertion, middle + 1, insertion->last);
}

/*
 * insert_valid makes events of the valid rows whose event_time is in "inside" but not in "outside".
 */
static void
insert_valid(Ingest *ingest, List *inside, List *outside)
{
	Insertion	insertion = {ingest, inside, outside, 1, ingest->taken};

	insert_surely(&insertion);
}

/*
 * put_back returns the valid rows in the ranges to staging.
 */
static void
put_back(Ingest *ingest, List *ranges)
{
	PaParameters parameters = {0};

	add_ranges(&parameters, ranges);
	ingest->deferred =
		pa_query("INSERT INTO prod_analytics.staging_events (" STAGED_COLUMNS ")"
				 " SELECT " STAGED_COLUMNS " FROM batch WHERE reasons IS NULL AND event_time <@ $1",
				 &parameters, SPI_OK_INSERT);
}

/*
 * first_time finds the earliest event_time of a valid row in the range.
 */
static bool
first_time(PaRange *range, TimestampTz *result)
{
	PaParameters parameters = {0};
	bool		isnull;
	Datum		value;

	pa_add_parameter(&parameters, TIMESTAMPTZOID, TimestampTzGetDatum(range->lower));
	pa_add_parameter(&parameters, TIMESTAMPTZOID, TimestampTzGetDatum(range->upper));
	pa_query("SELECT min(event_time) FROM batch"
			 " WHERE reasons IS NULL AND event_time >= $1 AND event_time < $2",
			 &parameters, SPI_OK_SELECT);
	value = pa_result(0, 1, &isnull);
	*result = DatumGetTimestampTz(value);

	return !isnull;
}

/*
 * missing_ranges lists the ranges of time in which the batch may have rows and events has no
 * partition.
 */
static List *
missing_ranges(PaPolicy *policy)
{
	PaRange		span;
	bool		isnull;

	pa_query("SELECT min(event_time), max(event_time) FROM batch WHERE reasons IS NULL",
			 NULL, SPI_OK_SELECT);
	span.lower = DatumGetTimestampTz(pa_result(0, 1, &isnull));
	span.upper = DatumGetTimestampTz(pa_result(0, 2, &isnull)) + 1;

	return (isnull || policy == NULL) ? NIL : pa_missing_ranges(policy, span);
}

/*
 * needed_partitions lists the ranges of the partitions that the batch needs inside the missing ranges,
 * as many as a transaction may make.  It leaves in "missing" what has no partition even then.
 */
static List *
needed_partitions(PaPolicy *policy, List *missing)
{
	List	   *needed = NIL;
	ListCell   *cell;

	foreach(cell, missing)
	{
		PaRange    *gap = lfirst(cell);
		TimestampTz at;

		while (list_length(needed) < PA_MAX_PARTITIONS_PER_CALL && first_time(gap, &at))
		{
			PaRange    *range = palloc(sizeof(PaRange));

			CHECK_FOR_INTERRUPTS();
			*range = pa_missing_slot_at(policy, at);
			needed = lappend(needed, range);
			gap->lower = Min(range->upper, gap->upper);
		}
	}

	return needed;
}

/* Partitions to make. */
typedef struct Needed
{
	PaPolicy   *policy;
	List	   *ranges;
} Needed;

static void
make_needed(void *argument)
{
	Needed	   *needed = argument;

	(void) pa_make_partitions(needed->policy, needed->ranges, NULL);
}

/*
 * make_partitions makes the partitions that the batch needs and returns the ranges that have none even
 * then.
 *
 * When a lock cannot be had, because of a long query on the table, say, the rows that need a new
 * partition wait for the next run, and the others go in.
 */
static List *
make_partitions(Ingest *ingest, PaPolicy *policy)
{
	List	   *missing = missing_ranges(policy);
	Needed		needed = {policy, needed_partitions(policy, missing)};
	ErrorData  *error;

	if (pa_try(make_needed, &needed, &error))
	{
		ingest->partitions = list_length(needed.ranges);
		return missing;
	}

	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("events without a partition remain staged: %s", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0));

	return missing_ranges(policy);
}

/*
 * settle_batch sends every row of the batch where it belongs.
 *
 * What is missing is asked for again once nobody else can make partitions.
 */
static void
settle_batch(Ingest *ingest)
{
	PaPolicy   *policy = ingest->policy;
	PaRange		always = {DT_NOBEGIN, DT_NOEND};
	List	   *missing;
	List	   *still_missing;

	quarantine_invalid(ingest);
	missing = missing_ranges(policy);
	insert_valid(ingest, list_make1(&always), missing);
	if (missing == NIL)
		return;

	pa_lock_partitioning(policy);
	still_missing = make_partitions(ingest, policy);
	insert_valid(ingest, missing, still_missing);
	put_back(ingest, still_missing);
}

/*
 * ingest_batch is the work of a run.
 */
static void
ingest_batch(void *argument)
{
	Ingest	   *ingest = argument;

	ingest->policy = pa_policy(ingest->events);
	take_batch(ingest);
	if (ingest->taken > 0)
		settle_batch(ingest);
	release_batch(ingest);
}

/*
 * success_details is what a run that succeeded tells besides the number of rows.
 */
static Datum
success_details(Ingest *ingest)
{
	char	   *text = psprintf("{\"inserted\": " INT64_FORMAT ", \"duplicates\": " INT64_FORMAT
								", \"quarantined\": " INT64_FORMAT ", \"deferred\": " INT64_FORMAT
								", \"partitions_created\": %d}",
								ingest->inserted, ingest->duplicates,
								ingest->quarantined, ingest->deferred, ingest->partitions);

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
}

/*
 * run_ingest does a run from start to end and returns its result.
 */
static Datum
run_ingest(Ingest *ingest)
{
	ErrorData  *error;

	if (!pa_job_lock(JOB_NAME))
		return pa_job_skip(JOB_NAME);

	ingest->job_id = pa_job_start(JOB_NAME);
	if (!pa_try(ingest_batch, ingest, &error))
		return pa_job_fail(ingest->job_id, JOB_NAME, error);

	return pa_job_end(ingest->job_id, PA_JOB_SUCCESS,
					  ingest->inserted + ingest->duplicates + ingest->quarantined,
					  success_details(ingest));
}

/*
 * etl_ingest_events(batch_size integer) moves at most batch_size rows from staging_events to
 * events.
 */
Datum
pa_etl_ingest_events(PG_FUNCTION_ARGS)
{
	Ingest		ingest = {0};
	PaGuard		guard;
	Datum		result;

	pa_forbid_read_only("etl_ingest_events()");

	if (PG_ARGISNULL(0) || PG_GETARG_INT32(0) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_size must be a positive number")));

	ingest.batch_size = PG_GETARG_INT32(0);
	ingest.events = pa_table("events");

	pa_guard_enter(&guard, pa_owner(ingest.events));
	SPI_connect();
	result = run_ingest(&ingest);
	SPI_finish();
	pa_guard_leave(&guard);

	PG_RETURN_DATUM(result);
}
