/*
 * users.c
 *		Merging staged users into users, and forgetting one.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "guard.h"
#include "job.h"
#include "miscadmin.h"
#include "query.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define UPSERT_JOB "upsert_users"
#define ERASE_JOB "erase_user"

PG_FUNCTION_INFO_V1(pa_etl_upsert_users);
PG_FUNCTION_INFO_V1(pa_erase_user);
PG_FUNCTION_INFO_V1(pa_instant_or_null);

/* One run of the upsert. */
typedef struct Upsert
{
	int32		batch_size;
	int64		job_id;
	int64		taken;
	int64		inserted;
	int64		updated;
	int64		superseded;		/* a later row of the batch has the same address */
	int64		quarantined;
	int64		rejected;		/* of these, by users itself */
	char	   *reasons;		/* how many rows have which reason, a JSON object without braces */
} Upsert;

/* Lines of the batch that are merged together. */
typedef struct Merge
{
	Upsert	   *upsert;
	int64		first;
	int64		last;
} Merge;

/* A text that may be an instant. */
typedef struct Parse
{
	char	   *text;
	TimestampTz instant;
} Parse;

/*
 * Takes at most $1 rows, those that came first, and says of each what is wrong with it.  "rank" is 1 for the
 * last row with an address among those that are right.
 *
 * An address has one @ with something on both sides, no white space, and no empty label after it; letters of any
 * script are fine.  The organizations are read once for all rows, and what is wrong is one expression: a subquery over VALUES
 * would be made ready anew for each row.
 */
static const char *const take_query =
"WITH taken AS ("
" DELETE FROM prod_analytics.staging_users"
" WHERE src_id = ANY (ARRAY(SELECT src_id FROM prod_analytics.staging_users ORDER BY ingested_at NULLS FIRST, src_id LIMIT $1))"
" RETURNING *),"
" looked_up AS ("
" SELECT t.*, o.org_id, t.email::text AS address, t.payload->>'last_login' AS login_text,"
" prod_analytics.instant_or_null(t.payload->>'last_login') AS last_login"
" FROM taken t LEFT JOIN ("
" SELECT g.org_name, min(g.org_id) AS org_id FROM prod_analytics.organizations g"
" WHERE g.org_name IN (SELECT org_src FROM taken) GROUP BY g.org_name) o ON o.org_name = t.org_src),"
" checked AS ("
" SELECT l.*, nullif('[]'"
" || CASE WHEN address IS NULL OR address = '' THEN jsonb_build_object("
" 'code', 'missing_field', 'path', '/email', 'message', 'email is missing')"
" WHEN length(address) > 254 OR address !~ '^[^@[:space:][:cntrl:]]+@[^@[:space:][:cntrl:].]+([.][^@[:space:][:cntrl:].]+)*$' THEN jsonb_build_object("
" 'code', 'malformed_email', 'path', '/email', 'message', format('%s is not an e-mail address', left(to_json(address)::text, 100))) ELSE '[]' END"
" || CASE WHEN org_src IS NULL THEN jsonb_build_object("
" 'code', 'missing_field', 'path', '/org_src', 'message', 'org_src is missing')"
" WHEN org_id IS NULL THEN jsonb_build_object("
" 'code', 'unknown_organization', 'path', '/org_src', 'message', format('no organization is named %s', left(to_json(org_src)::text, 100))) ELSE '[]' END"
" || CASE WHEN jsonb_typeof(payload) <> 'object' THEN jsonb_build_object("
" 'code', 'invalid_payload', 'path', '/payload', 'message', format('payload is not an object but of type %s', jsonb_typeof(payload))) ELSE '[]' END"
" || CASE WHEN login_text IS NOT NULL AND last_login IS NULL THEN jsonb_build_object("
" 'code', 'malformed_last_login', 'path', '/payload/last_login', 'message', format('%s is not a time', left(to_json(login_text)::text, 100))) ELSE '[]' END,"
" '[]') AS reasons FROM looked_up l)"
" SELECT row_number() OVER () AS line, src_id, address, username, org_src, payload, ingested_at, org_id, last_login, reasons,"
" row_number() OVER (PARTITION BY lower(address), reasons IS NULL ORDER BY ingested_at DESC NULLS LAST, src_id DESC) AS rank"
" FROM checked ORDER BY line";

static const struct
{
	const char *name;
	Oid			type;
}			batch_columns[] =
{
	{"line", INT8OID},
	{"src_id", TEXTOID},
	{"email", TEXTOID},
	{"username", TEXTOID},
	{"org_src", TEXTOID},
	{"payload", JSONBOID},
	{"ingested_at", TIMESTAMPTZOID},
	{"org_id", INT8OID},
	{"last_login", TIMESTAMPTZOID},
	{"reasons", JSONBOID},
	{"rank", INT8OID}
};

/*
 * Merges the lines $1 to $2 and says how many users are new, and how many are not.
 */
static const char *const merge_query =
"WITH merged AS ("
" INSERT INTO prod_analytics.users AS u (org_id, email, username, attrs, last_login)"
" SELECT org_id, email, username, coalesce(payload, '{}'), last_login FROM batch"
" WHERE reasons IS NULL AND rank = 1 AND line BETWEEN $1 AND $2"
" ORDER BY lower(email)"
" ON CONFLICT (email) DO UPDATE SET username = EXCLUDED.username,"
" attrs = coalesce(u.attrs, '{}') || EXCLUDED.attrs,"
" last_login = coalesce(EXCLUDED.last_login, u.last_login)"
" RETURNING u.xmax = 0 AS is_new)"
" SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM merged";

/*
 * parse is the work of instant_or_null.
 */
static void
parse(void *argument)
{
	Parse	   *work = argument;

	work->instant = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(work->text),
															ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/*
 * instant_or_null(text text) reads a text as an instant; NULL when it is none, or infinite.
 */
Datum
pa_instant_or_null(PG_FUNCTION_ARGS)
{
	Parse		work = {text_to_cstring(PG_GETARG_TEXT_PP(0))};
	ErrorData  *error;

	if (!pa_try(parse, &work, &error) || TIMESTAMP_NOT_FINITE(work.instant))
		PG_RETURN_NULL();

	PG_RETURN_TIMESTAMPTZ(work.instant);
}

/*
 * take_users moves rows out of staging into the relation "batch" that the other queries read.
 */
static Tuplestorestate *
take_users(Upsert *upsert)
{
	int			guc_level = pa_utc_enter();
	Tuplestorestate *store = tuplestore_begin_heap(true, false, work_mem);
	DestReceiver *receiver = CreateDestReceiver(DestTuplestore);
	EphemeralNamedRelation batch = palloc0(sizeof(EphemeralNamedRelationData));
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(upsert->batch_size));
	SetTuplestoreDestReceiverParams(receiver, store, CurrentMemoryContext, true, NULL, NULL);
	upsert->taken = pa_query_into(receiver, take_query, &parameters);
	pa_utc_leave(guc_level);

	batch->md.name = "batch";
	batch->md.reliddesc = InvalidOid;
	batch->md.tupdesc = CreateTemplateTupleDesc(lengthof(batch_columns));
	for (int i = 0; i < (int) lengthof(batch_columns); i++)
		TupleDescInitEntry(batch->md.tupdesc, i + 1, batch_columns[i].name, batch_columns[i].type, -1, 0);
	batch->md.enrtype = ENR_NAMED_TUPLESTORE;
	batch->md.enrtuples = upsert->taken;
	batch->reldata = store;
	if (SPI_register_relation(batch) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the batch");

	return store;
}

/*
 * merge is the work of a Merge.
 */
static void
merge(void *argument)
{
	Merge	   *work = argument;
	PaParameters parameters = {0};
	bool		isnull;

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(work->first));
	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(work->last));
	pa_query(merge_query, &parameters, SPI_OK_SELECT);
	work->upsert->inserted += DatumGetInt64(pa_result(0, 1, &isnull));
	work->upsert->updated += DatumGetInt64(pa_result(0, 2, &isnull));
}

/* Sets rows of the batch aside; $1 is the run. */
#define QUARANTINE(reasons, condition) \
	"INSERT INTO prod_analytics.quarantined_users (src_id, email, username, org_src, payload, ingested_at, reasons, job_id)" \
	" SELECT src_id, email, username, org_src, payload, ingested_at, " reasons ", $1 FROM batch WHERE " condition

/*
 * reject sets aside a row that users refused.
 */
static void
reject(Upsert *upsert, int64 line, ErrorData *error)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(upsert->job_id));
	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(line));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(unpack_sql_state(error->sqlerrcode)));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(error->message));
	upsert->rejected++;
	upsert->quarantined +=
		pa_query(QUARANTINE("jsonb_build_array(jsonb_build_object('code', 'rejected', 'path', '', 'message', $4, 'sqlstate', $3))",
							"line = $2"),
				 &parameters, SPI_OK_INSERT);
}

/*
 * merge_surely merges lines.  When users refuses a row, it halves the lines until the row is found, and sets
 * that one aside.
 */
static void
merge_surely(Upsert *upsert, int64 first, int64 last)
{
	Merge		work = {upsert, first, last};
	int64		middle = first + (last - first) / 2;
	ErrorData  *error;

	CHECK_FOR_INTERRUPTS();

	if (pa_try(merge, &work, &error))
		return;
	if (!pa_is_about_a_row(error))
		ReThrowError(error);
	if (first == last)
	{
		reject(upsert, first, error);
		return;
	}
	FreeErrorData(error);

	merge_surely(upsert, first, middle);
	merge_surely(upsert, middle + 1, last);
}

/*
 * count_reasons counts how many rows of the batch have which reason.
 */
static char *
count_reasons(void)
{
	StringInfoData list;
	uint64		found = pa_query("SELECT r->>'code', count(DISTINCT line) FROM batch, jsonb_array_elements(reasons) r"
								 " GROUP BY 1 ORDER BY 1",
								 NULL, SPI_OK_SELECT);

	initStringInfo(&list);
	for (uint64 i = 0; i < found; i++)
	{
		bool		isnull;
		Datum		code = pa_result(i, 1, &isnull);
		Datum		count = pa_result(i, 2, &isnull);

		appendStringInfo(&list, "%s\"%s\": " INT64_FORMAT, i > 0 ? ", " : "", TextDatumGetCString(code), DatumGetInt64(count));
	}

	return list.data;
}

/*
 * Marks what is set aside of sources whose later record went in now, $1 being the run: a redrive must not put the old
 * record over the new one.
 */
static const char *const supersede_query =
"UPDATE prod_analytics.quarantined_users q SET reasons = q.reasons || jsonb_build_array(jsonb_build_object("
"'code', 'superseded', 'path', '/src_id', 'message', 'a later record of this source has been merged'))"
" FROM batch b WHERE b.reasons IS NULL AND q.src_id = b.src_id AND q.job_id IS DISTINCT FROM $1"
" AND coalesce(q.ingested_at, '-infinity') <= coalesce(b.ingested_at, 'infinity')"
" AND NOT q.reasons @> '[{\"code\": \"superseded\"}]'"
" AND NOT EXISTS (SELECT FROM prod_analytics.quarantined_users r WHERE r.job_id = $1 AND r.src_id = b.src_id)";

/*
 * upsert_batch is the work of a run.
 */
static void
upsert_batch(void *argument)
{
	Upsert	   *upsert = argument;
	Tuplestorestate *store = take_users(upsert);
	PaParameters parameters = {0};
	bool		isnull;

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(upsert->job_id));
	upsert->quarantined += pa_query(QUARANTINE("reasons", "reasons IS NOT NULL"), &parameters, SPI_OK_INSERT);
	pa_query("SELECT count(*) FROM batch WHERE reasons IS NULL AND rank > 1", NULL, SPI_OK_SELECT);
	upsert->superseded = DatumGetInt64(pa_result(0, 1, &isnull));
	upsert->reasons = count_reasons();
	if (upsert->taken > 0)
	{
		merge_surely(upsert, 1, upsert->taken);
		pa_query(supersede_query, &parameters, SPI_OK_UPDATE);
	}

	SPI_unregister_relation("batch");
	tuplestore_end(store);
}

/*
 * success_details is what a run that succeeded tells besides the number of rows.
 */
static Datum
success_details(Upsert *upsert)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "{\"inserted\": " INT64_FORMAT ", \"updated\": " INT64_FORMAT ", \"superseded\": " INT64_FORMAT
					 ", \"quarantined\": " INT64_FORMAT ", \"quarantined_for\": {%s",
					 upsert->inserted, upsert->updated, upsert->superseded, upsert->quarantined, upsert->reasons);
	if (upsert->rejected > 0)
		appendStringInfo(&text, "%s\"rejected\": " INT64_FORMAT, upsert->reasons[0] ? ", " : "", upsert->rejected);
	appendStringInfoString(&text, "}}");

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data));
}

/*
 * run_upsert does a run from start to end and returns its result.
 */
static Datum
run_upsert(Upsert *upsert)
{
	ErrorData  *error;

	if (!pa_job_lock(UPSERT_JOB))
		return pa_job_skip(UPSERT_JOB);

	upsert->job_id = pa_job_start(UPSERT_JOB);
	if (!pa_try(upsert_batch, upsert, &error))
		return pa_job_fail(upsert->job_id, UPSERT_JOB, error);

	return pa_job_end(upsert->job_id, PA_JOB_SUCCESS, upsert->taken, success_details(upsert));
}

/*
 * etl_upsert_users(batch_size integer) merges at most batch_size rows of staging_users into users.
 */
Datum
pa_etl_upsert_users(PG_FUNCTION_ARGS)
{
	Upsert		upsert = {0};
	PaGuard		guard;
	Datum		result;

	pa_forbid_read_only("etl_upsert_users()");

	if (PG_ARGISNULL(0) || PG_GETARG_INT32(0) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_size must be a positive number")));

	upsert.batch_size = PG_GETARG_INT32(0);

	pa_guard_enter(&guard, pa_owner(pa_table("users")));
	SPI_connect();
	result = run_upsert(&upsert);
	SPI_finish();
	pa_guard_leave(&guard);

	PG_RETURN_DATUM(result);
}

/* A person to forget. */
typedef struct Erasure
{
	int64		user_id;
	int64		events;
	int64		others;			/* rows of staging and quarantine */
	int64		users;
	bool		is_known;		/* whether there was such a user */
} Erasure;

/*
 * The statements that forget the user $1, in this order.  The first waits for whoever is inserting events of the
 * user, and keeps others from it.  Quarantine comes before staging: what a redrive moves meanwhile is found there.
 * The messages that may name the user go: ours about user_id, and those of constraints and triggers.
 * What is staged or quarantined of the user's own record goes by the address, also when white space in it made it
 * a malformed one.
 */
#define SAME_ADDRESS(address) "lower(regexp_replace(" address "::text, '[[:space:]]', '', 'g')) = lower(u.email::text)"

static const char *const lock_user = "SELECT FROM prod_analytics.users WHERE user_id = $1 FOR UPDATE";
static const char *const forget_events = "UPDATE prod_analytics.events SET user_id = NULL WHERE user_id = $1";
static const char *const forget_others[] = {
	"UPDATE prod_analytics.quarantined_events SET user_id = NULL,"
	" reasons = coalesce((SELECT jsonb_agg(CASE WHEN r->>'path' = '/user_id' OR r->>'code' = 'rejected' THEN r - 'message' ELSE r END)"
	" FROM jsonb_array_elements(reasons) r), '[]')"
	" WHERE user_id = $1",
	"UPDATE prod_analytics.staging_events SET user_id = NULL WHERE user_id = $1",
	"DELETE FROM prod_analytics.quarantined_users q USING prod_analytics.users u"
	" WHERE u.user_id = $1 AND " SAME_ADDRESS("q.email"),
	"DELETE FROM prod_analytics.staging_users s USING prod_analytics.users u"
	" WHERE u.user_id = $1 AND " SAME_ADDRESS("s.email")
};
static const char *const forget_user = "DELETE FROM prod_analytics.users WHERE user_id = $1";

/*
 * erase is the work of an Erasure.
 *
 * Runs that move rows out of staging come to their end first, and none begins meanwhile.  A run that has taken rows
 * of the user, but not yet locked him, would wait for us while we wait for those rows.
 */
static void
erase(void *argument)
{
	Erasure    *erasure = argument;
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(erasure->user_id));
	pa_job_wait(PA_INGEST_JOB);
	pa_job_wait(UPSERT_JOB);
	erasure->is_known = (pa_query(lock_user, &parameters, SPI_OK_SELECT) > 0);
	erasure->events = pa_query(forget_events, &parameters, SPI_OK_UPDATE);
	for (int i = 0; i < (int) lengthof(forget_others); i++)
		erasure->others += pa_query(forget_others[i], &parameters,
									strncmp(forget_others[i], "UPDATE", 6) == 0 ? SPI_OK_UPDATE : SPI_OK_DELETE);
	erasure->users = pa_query(forget_user, &parameters, SPI_OK_DELETE);
	if (erasure->is_known && erasure->users == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("a trigger on \"%s.users\" kept the user", PA_SCHEMA)));
}

/*
 * warn_nobody tells that there was no such user, since a wrong number must not look like a person forgotten.  It is no
 * error: who repeats an erasure is right to, and what names the user has gone.  The number is not told, because the
 * server's log keeps warnings.
 */
static void
warn_nobody(const Erasure *erasure)
{
	ereport(WARNING,
			(errcode(ERRCODE_NO_DATA),
			 errmsg("no user was erased: none has this number"),
			 errdetail("Staged or quarantined rows that named it, and no longer do: " INT64_FORMAT ".", erasure->others),
			 errhint("If the person was not erased before, look up user_id by email in %s.users.", PA_SCHEMA)));
}

/*
 * run_erasure does an erasure and logs it, without saying whom it was about.
 */
static Datum
run_erasure(Erasure *erasure)
{
	int64		job_id = pa_job_start(ERASE_JOB);
	ErrorData  *error;
	char	   *details;

	if (!pa_try(erase, erasure, &error))
	{
		/* The detail and the context name the person, and so may all that a trigger says. */
		error->detail = error->context = error->hint = NULL;
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_PLPGSQL_ERROR)
			error->message = "a trigger raised an exception";
		return pa_job_fail(job_id, ERASE_JOB, error);
	}

	if (!erasure->is_known)
		warn_nobody(erasure);
	details = psprintf("{\"users\": " INT64_FORMAT ", \"events\": " INT64_FORMAT ", \"staged_or_quarantined\": " INT64_FORMAT "}",
					   erasure->users, erasure->events, erasure->others);

	return pa_job_end(job_id, PA_JOB_SUCCESS, erasure->users + erasure->events + erasure->others,
					  DirectFunctionCall1(jsonb_in, CStringGetDatum(details)));
}

/*
 * erase_user(user_id bigint) forgets a person.
 */
Datum
pa_erase_user(PG_FUNCTION_ARGS)
{
	Erasure		erasure = {0};
	PaGuard		guard;
	Datum		result;

	pa_forbid_read_only("erase_user()");

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("user_id is NULL")));
	erasure.user_id = PG_GETARG_INT64(0);

	pa_guard_enter(&guard, pa_owner(pa_table("users")));
	SPI_connect();
	result = run_erasure(&erasure);
	SPI_finish();
	pa_guard_leave(&guard);

	PG_RETURN_DATUM(result);
}
