/*
 * quality.c
 *		Data-quality checks: queries that return the rows that are wrong.
 *
 * A check may only read.  It runs in a subtransaction that is rolled back, so that no lock of its is kept while the others
 * run.
 */
#include "prod_analytics.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guard.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "query.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_run_quality_checks);

/* How much of what is wrong is kept: so many rows, and so many bytes of a row, as they are in memory. */
#define SAMPLED_ROWS 10
#define SAMPLED_BYTES 8192

/* A check, and what comes of it. */
typedef struct Check
{
	DestReceiver public;		/* of the rows that it returns */
	char	   *name;
	char	   *severity;
	char	   *query;
	int64		warn_above;
	int64		fail_above;		/* PG_INT64_MAX: it never fails */
	int			timeout_ms;		/* 0: none */
	TupleDesc	columns;		/* as the query names them; a row may come with other names */
	MemoryContext context;
	MemoryContext row_context;	/* of a row */
	int64		failing;
	StringInfo	sample;			/* an array, as JSON */
	char	   *error;			/* NULL: the query came to its end */
} Check;

static TimeoutId check_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t is_timed_out = false;

/*
 * cancel_check cancels the check that is running.
 */
static void
cancel_check(void)
{
	is_timed_out = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/*
 * is_taken tells whether one of the first columns has a name.
 */
static bool
is_taken(TupleDesc columns, int count, const char *name)
{
	for (int i = 0; i < count; i++)
		if (strcmp(NameStr(TupleDescAttr(columns, i)->attname), name) == 0)
			return true;

	return false;
}

/*
 * make_names_unique lets each column of a row be found in its sample, also where the query gives several the same name.
 */
static void
make_names_unique(TupleDesc columns)
{
	for (int i = 1; i < columns->natts; i++)
	{
		NameData   *name = &TupleDescAttr(columns, i)->attname;
		char	   *given = pstrdup(NameStr(*name));

		for (int same = 2; is_taken(columns, i, NameStr(*name)); same++)
		{
			char	   *suffix = psprintf(" (%d)", same);
			int			length = pg_mbcliplen(given, strlen(given), NAMEDATALEN - 1 - strlen(suffix));

			namestrcpy(name, psprintf("%.*s%s", length, given, suffix));
		}
	}
}

/*
 * value_size is how many bytes a value has, without fetching it.
 */
static Size
value_size(Form_pg_attribute column, Datum value)
{
	if (column->attlen == -1)
		return toast_raw_datum_size(value) - VARHDRSZ;
	if (column->attlen == -2)
		return strlen(DatumGetCString(value));

	return column->attlen;
}

/*
 * sample_row is a row as JSON.  What is too much of it is left out, before it is fetched: how many bytes it has is told
 * in its place.
 */
static char *
sample_row(Check *check, TupleTableSlot *slot)
{
	TupleDesc	columns = CreateTupleDescCopy(check->columns);
	Datum	   *values = palloc(sizeof(Datum) * (columns->natts + 1));
	Size		room = SAMPLED_BYTES;

	slot_getallattrs(slot);
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, i);
		Size		size;

		values[i] = slot->tts_values[i];
		if (slot->tts_isnull[i])
			continue;
		size = value_size(column, values[i]);
		if (size > room)
		{
			char	   *name = pstrdup(NameStr(column->attname));

			values[i] = CStringGetTextDatum(psprintf("(%zu bytes)", size));
			TupleDescInitEntry(columns, i + 1, name, TEXTOID, -1, 0);
		}
		else
			room -= size;
	}
	columns->tdtypeid = RECORDOID;
	columns->tdtypmod = -1;

	return TextDatumGetCString(DirectFunctionCall1(row_to_json,
												   HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values, slot->tts_isnull))));
}

/*
 * receive_row counts a row, and keeps it if it is among the first.
 */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	Check	   *check = (Check *) self;
	MemoryContext caller_context;

	if (check->failing++ >= SAMPLED_ROWS)
		return true;

	caller_context = MemoryContextSwitchTo(check->row_context);
	appendStringInfo(check->sample, "%s%s", check->failing == 1 ? "[" : ", ", sample_row(check, slot));
	MemoryContextSwitchTo(caller_context);
	MemoryContextReset(check->row_context);

	return true;
}

static void
start_receiving(DestReceiver *self, int operation, TupleDesc columns)
{
	Check	   *check = (Check *) self;
	MemoryContext caller_context = MemoryContextSwitchTo(check->context);

	check->columns = CreateTupleDescCopy(columns);
	make_names_unique(check->columns);
	MemoryContextSwitchTo(caller_context);
}

static void
end_receiving(DestReceiver *self)
{
}

/*
 * check_query refuses what is not one SELECT.
 */
static void
check_query(const char *query)
{
	List	   *statements = pg_parse_query(query);
	Node	   *statement = list_length(statements) == 1 ? linitial_node(RawStmt, statements)->stmt : NULL;

	if (statement == NULL || !IsA(statement, SelectStmt) || ((SelectStmt *) statement)->intoClause)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the query of a check must be one SELECT")));
}

/*
 * run_query runs the query of a check, which may only read.
 */
static void
run_query(void *argument)
{
	Check	   *check = argument;
	PaParameters none = {0};

	check_query(check->query);
	pa_forbid_writing();
	SPI_connect();
	pa_query_into(&check->public, check->query, &none);
	SPI_finish();
	if (check->failing > 0)
	{
		/* JSON can hold what JSONB cannot; that is the check's error. */
		appendStringInfoChar(check->sample, ']');
		(void) DirectFunctionCall1(jsonb_in, CStringGetDatum(check->sample->data));
	}
}

/*
 * try_query runs the query of a check, for as long as it may take.
 */
static void
try_query(Check *check)
{
	ErrorData  *error;
	bool		done;

	if (check_timeout == MAX_TIMEOUTS)
		check_timeout = RegisterTimeout(USER_TIMEOUT, cancel_check);
	is_timed_out = false;
	if (check->timeout_ms > 0)
		enable_timeout_after(check_timeout, check->timeout_ms);
	done = pa_try_and_undo(run_query, check, &error);
	disable_timeout(check_timeout, false);
	/* It may have been too late to cancel this one, and must not cancel the next one. */
	if (is_timed_out)
		QueryCancelPending = false;

	if (done)
		return;
	if (is_timed_out && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		error->message = psprintf("the check took longer than its timeout of %d ms", check->timeout_ms);
	else if (pa_is_about_the_session(error))
		ReThrowError(error);
	check->error = psprintf("%s (SQLSTATE %s)", error->message, unpack_sql_state(error->sqlerrcode));
}

/*
 * status_of is how a check has ended.
 */
static const char *
status_of(Check *check)
{
	if (check->error)
		return "ERROR";

	return check->failing > check->fail_above ? "FAIL" : check->failing > check->warn_above ? "WARN" : "PASS";
}

/*
 * keep writes down what came of a check, and adds it to the result.
 */
static void
keep(Check *check, TimestampTz started, ReturnSetInfo *result)
{
	PaParameters parameters = {0};
	Datum		values[4];
	bool		nulls[4] = {false, false, check->error != NULL, false};

	pa_add_text(&parameters, check->name);
	pa_add_text(&parameters, status_of(check));
	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(check->failing));
	if (check->error)
		parameters.nulls[parameters.count - 1] = 'n';
	pa_add_text(&parameters, check->error || check->failing == 0 ? NULL : check->sample->data);
	pa_add_parameter(&parameters, TIMESTAMPTZOID, TimestampTzGetDatum(started));
	pa_add_text(&parameters, check->error);
	pa_query("INSERT INTO prod_analytics.quality_results (check_name, status, failing_rows, sample, duration, error)"
			 " VALUES ($1, $2, $3, $4::jsonb, clock_timestamp() - $5, $6)", &parameters, SPI_OK_INSERT);

	values[0] = CStringGetTextDatum(check->name);
	values[1] = CStringGetTextDatum(check->severity);
	values[2] = Int64GetDatum(check->failing);
	values[3] = CStringGetTextDatum(status_of(check));
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * read_check reads a check from a row of the last query.
 */
static Check *
read_check(uint64 row)
{
	Check	   *check = palloc0(sizeof(Check));
	bool		isnull;

	check->public.mydest = DestTuplestore;
	check->public.receiveSlot = receive_row;
	check->public.rStartup = start_receiving;
	check->public.rShutdown = end_receiving;
	check->public.rDestroy = end_receiving;
	check->name = TextDatumGetCString(pa_result(row, 1, &isnull));
	check->severity = TextDatumGetCString(pa_result(row, 2, &isnull));
	check->query = TextDatumGetCString(pa_result(row, 3, &isnull));
	check->warn_above = DatumGetInt64(pa_result(row, 4, &isnull));
	check->fail_above = DatumGetInt64(pa_result(row, 5, &isnull));
	check->timeout_ms = DatumGetInt32(pa_result(row, 6, &isnull));
	check->context = CurrentMemoryContext;
	check->row_context = AllocSetContextCreate(CurrentMemoryContext, "failing row", ALLOCSET_DEFAULT_SIZES);
	check->sample = makeStringInfo();

	return check;
}

/*
 * list_checks lists the checks to run: the one that was asked for, or all that are enabled.  Tables that create_tables()
 * has not migrated yet have no timeout.
 */
static List *
list_checks(char *name)
{
	PaParameters parameters = {0};
	List	   *checks = NIL;
	uint64		found;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(name ? name : ""));
	pa_add_parameter(&parameters, BOOLOID, BoolGetDatum(name == NULL));
	found = pa_query("SELECT check_name, severity, query, warn_above, coalesce(fail_above, 9223372036854775807),"
					 " least(coalesce(ceil(1000 * extract(epoch FROM (to_jsonb(q)->>'timeout')::interval)), 0), 2147483647)::integer"
					 " FROM prod_analytics.quality_checks q"
					 " WHERE CASE WHEN $2 THEN enabled ELSE check_name = $1 END ORDER BY check_name",
					 &parameters, SPI_OK_SELECT);
	if (name && found == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("quality check \"%s\" does not exist", name),
				 errhint("%s.quality_checks lists the checks.", PA_SCHEMA)));
	for (uint64 i = 0; i < found; i++)
		checks = lappend(checks, read_check(i));

	return checks;
}

/*
 * run_quality_checks(name text) runs checks, as their owner.
 */
Datum
pa_run_quality_checks(PG_FUNCTION_ARGS)
{
	char	   *name = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	PaGuard		guard;
	ListCell   *cell;

	pa_forbid_read_only("run_quality_checks()");
	InitMaterializedSRF(fcinfo, 0);

	pa_guard_enter(&guard, pa_owner(pa_table("quality_checks")));
	SPI_connect();
	foreach(cell, list_checks(name))
	{
		Check	   *check = lfirst(cell);
		TimestampTz started = GetCurrentTimestamp();

		CHECK_FOR_INTERRUPTS();
		try_query(check);
		keep(check, started, (ReturnSetInfo *) fcinfo->resultinfo);
	}
	SPI_finish();
	pa_guard_leave(&guard);

	return (Datum) 0;
}
