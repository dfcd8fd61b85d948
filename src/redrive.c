/*
 * redrive.c
 *		Sending quarantined rows through the same path again, once what was wrong is mended.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "guard.h"
#include "query.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pa_redrive_events);
PG_FUNCTION_INFO_V1(pa_redrive_users);

/*
 * Which rows: those set aside until $1, for the reason $2.  Lines of a file that nobody could read have nothing
 * that could be mended; they go only when they are asked for.
 */
#define CHOSEN \
	"q.quarantined_at <= $1 AND CASE WHEN $2 IS NULL THEN NOT q.reasons @> '[{\"code\": \"unparsable_line\"}]'" \
	" ELSE q.reasons @> jsonb_build_array(jsonb_build_object('code', $2)) END"

static const char *const events_query =
"WITH chosen AS (DELETE FROM prod_analytics.quarantined_events q WHERE " CHOSEN " RETURNING *)"
" INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, payload, event_time, received_at, attempts)"
" SELECT event_id, user_id, org_id, event_type, payload, event_time, received_at, least(coalesce(attempts, 0), 2147483646) + 1"
" FROM chosen ORDER BY quarantine_id";

/*
 * Of users only the last record of a source, and none that the source has delivered again: an old record would take the
 * place of a newer one.
 */
#define CHOSEN_USERS \
	" SELECT DISTINCT ON (q.src_id) q.quarantine_id FROM prod_analytics.quarantined_users q WHERE " CHOSEN \
	" AND NOT EXISTS (SELECT FROM prod_analytics.staging_users s WHERE s.src_id = q.src_id)" \
	" AND ($2 IS NOT DISTINCT FROM 'superseded' OR NOT q.reasons @> '[{\"code\": \"superseded\"}]')" \
	" ORDER BY q.src_id, q.quarantine_id DESC"

static const char *const users_query =
"WITH chosen AS (DELETE FROM prod_analytics.quarantined_users d WHERE d.quarantine_id IN (" CHOSEN_USERS ") RETURNING *)"
" INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, payload, ingested_at)"
" SELECT src_id, email, username, org_src, payload, ingested_at FROM chosen ORDER BY quarantine_id";

/*
 * redrive moves the rows, or counts them.  The arguments are (quarantined_before timestamptz, reason_code text,
 * dry_run boolean).
 */
static int64
redrive(FunctionCallInfo fcinfo, const char *function, const char *table, const char *move, const char *count)
{
	bool		dry_run = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	PaParameters parameters = {0};
	PaGuard		guard;
	int64		rows;

	if (!dry_run)
		pa_forbid_read_only(function);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("quarantined_before is NULL")));

	pa_guard_enter(&guard, pa_owner(pa_table(table)));
	SPI_connect();
	pa_add_parameter(&parameters, TIMESTAMPTZOID, PG_GETARG_DATUM(0));
	pa_add_parameter(&parameters, TEXTOID, PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1));
	parameters.nulls[1] = PG_ARGISNULL(1) ? 'n' : ' ';
	rows = pa_query(dry_run ? count : move, &parameters, dry_run ? SPI_OK_SELECT : SPI_OK_INSERT);
	SPI_finish();
	pa_guard_leave(&guard);
	/* So that a code with a typing error in it is noticed. */
	if (rows == 0 && !PG_ARGISNULL(1))
		ereport(NOTICE,
				(errmsg("%s has no row to be sent again that was set aside for the reason \"%s\"",
						table, text_to_cstring(PG_GETARG_TEXT_PP(1)))));

	return rows;
}

/*
 * redrive_events() moves quarantined events back to staging.
 */
Datum
pa_redrive_events(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(redrive(fcinfo, "redrive_events()", "quarantined_events", events_query,
							"SELECT FROM prod_analytics.quarantined_events q WHERE " CHOSEN));
}

/*
 * redrive_users() moves quarantined users back to staging.
 */
Datum
pa_redrive_users(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(redrive(fcinfo, "redrive_users()", "quarantined_users", users_query, CHOSEN_USERS));
}
