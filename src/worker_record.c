/*
 * worker_record.c
 *		The record of a run in etl_jobs: its beginning and its end.
 *
 * The functions that take a PaRecord as an untyped argument are to be done by pa_do_as_owner.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "job.h"
#include "miscadmin.h"
#include "query.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "worker.h"

/*
 * pa_begin_record logs that a run begins.  The job's lock is there.
 *
 * The job may be that of another role by now, whose command is not for a session of the old one.
 */
void
pa_begin_record(void *argument)
{
	PaRecord   *record = argument;
	PaParameters parameters = {0};
	bool		isnull;
	Datum		timeout;

	pa_add_text(&parameters, record->job_name);
	pa_add_text(&parameters, OidIsValid(record->role) ? GetUserNameFromId(record->role, false) : NULL);
	if (pa_query("SELECT b.job_id, b.command, b.timeout_ms, r.oid FROM prod_analytics.begin_run($1, $2) b"
				 " LEFT JOIN pg_catalog.pg_roles r ON r.rolname = b.owner", &parameters, SPI_OK_SELECT) == 0)
		return;

	record->job_id = DatumGetInt64(pa_result(0, 1, &isnull));
	record->command = MemoryContextStrdup(record->context, TextDatumGetCString(pa_result(0, 2, &isnull)));
	timeout = pa_result(0, 3, &isnull);
	record->timeout_ms = isnull ? 0 : Min(DatumGetInt64(timeout), PG_INT32_MAX);
	record->owner = DatumGetObjectId(pa_result(0, 4, &isnull));
	if (OidIsValid(record->owner) && !pa_may_employ(record->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the owner of the table \"%s.jobs\" may not act as role \"%s\"", PA_SCHEMA,
						GetUserNameFromId(record->owner, false)),
				 errhint("Let a superuser own the tables, or let their owner be a member of that role.")));
}

/*
 * pa_pass_record logs that a slot passes because somebody else is running the job.
 */
void
pa_pass_record(void *argument)
{
	PaRecord   *record = argument;
	PaParameters parameters = {0};
	bool		isnull;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(record->job_name));
	pa_query("SELECT prod_analytics.skip_slot($1, false)", &parameters, SPI_OK_SELECT);
	record->job_id = DatumGetInt64(pa_result(0, 1, &isnull));
}

/*
 * end_failed logs an error of the command.
 */
static void
end_failed(PaRecord *record)
{
	PaParameters parameters = {0};
	ErrorData  *error = record->error;

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(record->job_id));
	pa_add_text(&parameters, unpack_sql_state(error->sqlerrcode));
	pa_add_text(&parameters, error->message);
	pa_add_text(&parameters, error->detail);
	pa_add_text(&parameters, error->hint);
	pa_add_text(&parameters, error->context);
	pa_query("SELECT prod_analytics.end_run($1, 'FAILED', 0, pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object("
			 "'sqlstate', $2, 'error', $3, 'detail', $4, 'hint', $5, 'context', $6)))",
			 &parameters, SPI_OK_SELECT);
}

/*
 * end_done logs the end of a command, which may say by itself how it ended.
 */
static void
end_done(PaRecord *record)
{
	PaParameters parameters = {0};
	bool		isnull;
	Datum		failure;

	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(record->job_id));
	pa_add_parameter(&parameters, INT8OID, Int64GetDatum(record->outcome.rows));
	pa_add_text(&parameters, pa_run.result ? pa_run.result : record->outcome.json);
	pa_query("SELECT prod_analytics.end_command($1, $2, $3::pg_catalog.jsonb)", &parameters, SPI_OK_SELECT);
	failure = pa_result(0, 1, &isnull);
	record->failure = isnull ? NULL : MemoryContextStrdup(record->context, TextDatumGetCString(failure));
}

/*
 * pa_end_record logs that a run has ended.
 */
void
pa_end_record(void *argument)
{
	PaRecord   *record = argument;

	if (record->error)
		end_failed(record);
	else
		end_done(record);
}

/*
 * pa_enter_run and pa_leave_run tell the functions that the command calls which run they belong to.
 */
void
pa_enter_run(PaRecord *record)
{
	pa_leave_run();
	pa_run.job_id = record->job_id;
	pa_run.job_name = record->job_name;
}

void
pa_leave_run(void)
{
	if (pa_run.result)
		pfree(pa_run.result);
	memset(&pa_run, 0, sizeof(pa_run));
}
