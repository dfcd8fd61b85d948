/*
 * ingest_check.c
 *		What is wrong with staged rows.
 *
 * Users and organizations are looked up for a whole chunk at once.  The users are locked against
 * deletion meanwhile: with that the chunk satisfies the foreign key of events, and no event needs to be
 * checked by itself.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "ingest.h"
#include "miscadmin.h"
#include "query.h"
#include "settings.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Some numbers, in order. */
typedef struct Ids
{
	int			count;
	int64	   *ids;
} Ids;

/* When an event may have happened. */
typedef struct Window
{
	bool		is_known;		/* for this arrival */
	TimestampTz arrival;
	TimestampTz oldest;
	TimestampTz newest;
} Window;

/* What checking a chunk's rows takes. */
typedef struct Check
{
	Ingest	   *ingest;
	MemoryContext work_context; /* reset after each row */
	Ids			users;
	Ids			organizations;
	Datum		max_age;
	Datum		max_lead;
	Window		window;			/* of the last row */
	Jsonb	   *no_properties;
} Check;

/*
 * An arrival before 1970 counts as then.  Whoever may load says when a row arrived: he could have partitions made for
 * antiquity, a month each.
 */
#define EARLIEST_ARRIVAL ((TimestampTz) (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY)

/*
 * pa_reason_name is the name of a code, as reasons have it.
 */
const char *
pa_reason_name(ReasonCode code)
{
	static const char *const names[] = {
		"missing_field", "event_time_out_of_range", "unknown_user", "unknown_organization",
		"invalid_payload", "schema_violation", "duplicate_event_id", "rejected"
	};

	return names[code];
}

/*
 * pa_add_reason adds a reason for which a row cannot become an event; "more" is NULL or further members
 * of the JSON object, each after a comma.
 */
void
pa_add_reason(StagedRow *row, ReasonCode code, const char *path, const char *message, const char *more)
{
	if (row->reasons == NULL)
		row->reasons = makeStringInfo();
	else
		appendStringInfoString(row->reasons, ", ");

	appendStringInfo(row->reasons, "{\"code\": \"%s\", \"path\": ", pa_reason_name(code));
	escape_json(row->reasons, path);
	appendStringInfoString(row->reasons, ", \"message\": ");
	escape_json(row->reasons, message);
	appendStringInfo(row->reasons, "%s}", more ? more : "");
	row->codes |= 1 << code;
	row->fate = ROW_QUARANTINED;
}

/*
 * compare_ids orders numbers, for qsort and bsearch.
 */
static int
compare_ids(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return (left > right) - (left < right);
}

/*
 * ids_of lists the different values of a column of a chunk.
 */
static Ids
ids_of(Chunk *chunk, StagedColumn column)
{
	Ids			ids = {0, palloc(sizeof(int64) * (chunk->count + 1))};
	int			different = 0;

	for (int i = 0; i < chunk->count; i++)
		if (!chunk->rows[i].nulls[column])
			ids.ids[ids.count++] = DatumGetInt64(chunk->rows[i].values[column]);
	qsort(ids.ids, ids.count, sizeof(int64), compare_ids);
	for (int i = 0; i < ids.count; i++)
		if (i == 0 || ids.ids[i] != ids.ids[different - 1])
			ids.ids[different++] = ids.ids[i];
	ids.count = different;

	return ids;
}

/*
 * existing asks a query, which returns them in order, which of some numbers exist.
 */
static Ids
existing(Ids ids, const char *query)
{
	PaParameters parameters = {0};
	Datum	   *values = palloc(sizeof(Datum) * (ids.count + 1));

	if (ids.count == 0)
		return ids;

	for (int i = 0; i < ids.count; i++)
		values[i] = Int64GetDatum(ids.ids[i]);
	pa_add_parameter(&parameters, INT8ARRAYOID,
					 PointerGetDatum(construct_array(values, ids.count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)));
	ids.count = pa_query(query, &parameters, SPI_OK_SELECT);
	for (int i = 0; i < ids.count; i++)
	{
		bool		isnull;

		ids.ids[i] = DatumGetInt64(pa_result(i, 1, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);

	return ids;
}

/*
 * contains tells whether a number is among some.
 */
static bool
contains(Ids ids, Datum id)
{
	int64		wanted = DatumGetInt64(id);

	return bsearch(&wanted, ids.ids, ids.count, sizeof(int64), compare_ids) != NULL;
}

/*
 * interval_of reads a setting; its check hook has made sure that it parses.
 */
static Datum
interval_of(const char *setting)
{
	return DirectFunctionCall3(interval_in, CStringGetDatum(setting), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

/*
 * find_window finds out when an event may have happened that arrived when the row says, but not after
 * now.
 */
static void
find_window(Check *check, StagedRow *row)
{
	Window	   *window = &check->window;
	TimestampTz arrival = check->ingest->now;
	TimestampTz oldest;

	if (!row->nulls[STAGED_RECEIVED_AT])
		arrival = Min(arrival, DatumGetTimestampTz(row->values[STAGED_RECEIVED_AT]));
	arrival = Max(arrival, EARLIEST_ARRIVAL);
	if (window->is_known && window->arrival == arrival)
		return;

	oldest = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval, TimestampTzGetDatum(arrival), check->max_age));
	window->is_known = true;
	window->arrival = arrival;
	window->oldest = Max(oldest, check->ingest->expiry);
	window->newest = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(arrival), check->max_lead));
}

/*
 * check_time checks when the event happened.
 */
static void
check_time(Check *check, StagedRow *row)
{
	TimestampTz event_time = DatumGetTimestampTz(row->values[STAGED_EVENT_TIME]);

	if (row->nulls[STAGED_EVENT_TIME])
	{
		pa_add_reason(row, REASON_MISSING_FIELD, "/event_time", "event_time is missing", NULL);
		return;
	}

	find_window(check, row);
	if (event_time < check->window.oldest || event_time > check->window.newest)
		pa_add_reason(row, REASON_EVENT_TIME_OUT_OF_RANGE, "/event_time",
					  psprintf("event_time %s is not between %s and %s", pa_instant_text(event_time),
							   pa_instant_text(check->window.oldest), pa_instant_text(check->window.newest)),
					  NULL);
}

/*
 * type_of_json is the name of the type of a document.
 */
static char *
type_of_json(Datum document)
{
	return TextDatumGetCString(DirectFunctionCall1(jsonb_typeof, document));
}

/* At most so many violations of a row are told: all rows of a chunk may be as wrong as can be. */
#define MAX_VIOLATIONS 20

/*
 * add_violations adds what is wrong with a payload by the schema of its type.
 */
static void
add_violations(Check *check, StagedRow *row, PaEventSchema *schema, Jsonb *properties)
{
	MemoryContext chunk_context = MemoryContextSwitchTo(check->work_context);
	ListCell   *cell;

	foreach(cell, pa_validation_errors(schema->schema, properties))
	{
		PaValidationError *error = lfirst(cell);
		char	   *path = psprintf("/payload%s", error->instance_path);
		char	   *more = psprintf(", \"keyword\": \"%s\", \"schema_version\": %d", error->keyword, schema->version);

		if (foreach_current_index(cell) == MAX_VIOLATIONS)
			break;
		MemoryContextSwitchTo(chunk_context);
		pa_add_reason(row, REASON_SCHEMA_VIOLATION, path, error->message, more);
		MemoryContextSwitchTo(check->work_context);
	}
	MemoryContextSwitchTo(chunk_context);
	MemoryContextReset(check->work_context);
}

/*
 * check_payload checks the payload, by the schema of its type too, if there is one.
 */
static void
check_payload(Check *check, StagedRow *row, Chunk *chunk)
{
	text	   *type;
	Jsonb	   *properties = row->nulls[STAGED_PAYLOAD] ? check->no_properties : DatumGetJsonbP(row->values[STAGED_PAYLOAD]);
	PaName		name;
	PaEventSchema *schema;
	bool		matches;

	if (!JB_ROOT_IS_OBJECT(properties))
	{
		pa_add_reason(row, REASON_INVALID_PAYLOAD, "/payload",
					  psprintf("payload is not an object but of type %s", type_of_json(row->values[STAGED_PAYLOAD])), NULL);
		return;
	}
	if (row->nulls[STAGED_EVENT_TYPE])
		return;

	type = DatumGetTextPP(row->values[STAGED_EVENT_TYPE]);
	name.text = VARDATA_ANY(type);
	name.length = VARSIZE_ANY_EXHDR(type);
	schema = pa_find_event_schema(name);
	if (schema == NULL || schema->mode == PA_MODE_OFF)
		return;

	MemoryContextSwitchTo(check->work_context);
	matches = pa_matches(schema->schema, properties);
	MemoryContextSwitchTo(chunk->context);
	MemoryContextReset(check->work_context);
	if (matches)
		return;

	if (schema->mode == PA_MODE_ENFORCE)
		add_violations(check, row, schema, properties);
	else if (row->fate == ROW_EVENT)
		check->ingest->counts.warned++;
}

/*
 * check_row says what is wrong with a row.
 */
static void
check_row(Check *check, StagedRow *row, Chunk *chunk)
{
	if (row->nulls[STAGED_EVENT_TYPE] || VARSIZE_ANY_EXHDR(DatumGetPointer(row->values[STAGED_EVENT_TYPE])) == 0)
		pa_add_reason(row, REASON_MISSING_FIELD, "/event_type", "event_type is missing", NULL);

	check_time(check, row);

	if (!row->nulls[STAGED_USER_ID] && !contains(check->users, row->values[STAGED_USER_ID]))
		pa_add_reason(row, REASON_UNKNOWN_USER, "/user_id",
					  psprintf("user_id " INT64_FORMAT " is not in users", DatumGetInt64(row->values[STAGED_USER_ID])), NULL);
	if (!row->nulls[STAGED_ORG_ID] && !contains(check->organizations, row->values[STAGED_ORG_ID]))
		pa_add_reason(row, REASON_UNKNOWN_ORGANIZATION, "/org_id",
					  psprintf("org_id " INT64_FORMAT " is not in organizations", DatumGetInt64(row->values[STAGED_ORG_ID])), NULL);

	check_payload(check, row, chunk);
}

/*
 * pa_check_rows says of each row of a chunk what is wrong with it.
 */
void
pa_check_rows(Ingest *ingest, Chunk *chunk)
{
	MemoryContext caller_context = MemoryContextSwitchTo(chunk->context);
	int			guc_level = pa_utc_enter();
	Check		check = {ingest};

	check.work_context = AllocSetContextCreate(chunk->context, "event validation", ALLOCSET_DEFAULT_SIZES);
	check.max_age = interval_of(pa_max_event_age);
	check.max_lead = interval_of(pa_max_event_lead);
	check.no_properties = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	check.users = existing(ids_of(chunk, STAGED_USER_ID),
						   "SELECT u.user_id FROM prod_analytics.users u WHERE u.user_id = ANY ($1)"
						   " ORDER BY u.user_id FOR KEY SHARE OF u");
	check.organizations = existing(ids_of(chunk, STAGED_ORG_ID),
								   "SELECT o.org_id FROM prod_analytics.organizations o WHERE o.org_id = ANY ($1) ORDER BY o.org_id");

	for (int i = 0; i < chunk->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		check_row(&check, &chunk->rows[i], chunk);
	}

	pa_utc_leave(guc_level);
	MemoryContextSwitchTo(caller_context);
}
