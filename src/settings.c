/*
 * settings.c
 *		The extension's settings: definitions, defaults and checks.
 *
 * A length of time is a string with a check hook, because '20 years' is not a unit that integer
 * settings know.
 */
#include "prod_analytics.h"

#include "datatype/timestamp.h"
#include "settings.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/varlena.h"
#include "worker.h"

/*
 * The longest time span a setting accepts.  It keeps sums of a timestamp and a setting inside the
 * range of timestamptz, so that no event can make the arithmetic fail.
 */
#define MAX_SPAN_YEARS 1000

typedef enum PaCreateTables
{
	CREATE_TABLES_AUTO,
	CREATE_TABLES_ON,
	CREATE_TABLES_OFF
} PaCreateTables;

static const struct config_enum_entry create_tables_options[] = {
	{"auto", CREATE_TABLES_AUTO, false},
	{"on", CREATE_TABLES_ON, false},
	{"off", CREATE_TABLES_OFF, false},
	{NULL, 0, false}
};

char	   *pa_max_event_age = NULL;
char	   *pa_max_event_lead = NULL;
char	   *pa_dedupe_window = NULL;
int			pa_lock_timeout = 200;
int			pa_lock_retries = 20;
int			pa_backfill_pause_ms = 10;
char	   *pa_databases = NULL;
int			pa_max_running_jobs = 4;
bool		pa_enabled = true;
char	   *pa_history_retention = NULL;
char	   *pa_quarantine_retention = NULL;

/* Read by SQL only (the install script), with current_setting(). */
static int	create_tables = CREATE_TABLES_AUTO;

/*
 * parse_span reads an interval without ever raising an error.
 *
 * A check hook may run in the postmaster, where an error would take the whole server down, so
 * interval_in() is out of the question.
 */
static bool
parse_span(const char *text, struct pg_itm_in *span)
{
	char		buffer[MAXDATELEN + 1];
	char	   *fields[MAXDATEFIELDS];
	int			types[MAXDATEFIELDS];
	int			nfields;
	int			kind;

	memset(span, 0, sizeof(*span));

	if (ParseDateTime(text, buffer, sizeof(buffer), fields, types, MAXDATEFIELDS, &nfields) != 0)
		return false;
	if (DecodeInterval(fields, types, nfields, INTERVAL_FULL_RANGE, &kind, span) != 0)
		return false;

	return kind == DTK_DELTA;
}

/*
 * pa_span_microseconds is the length of a setting that check_span has accepted; its months count 30 days, its
 * years 365.
 */
int64
pa_span_microseconds(const char *setting)
{
	struct pg_itm_in span;

	(void) parse_span(setting, &span);

	return (span.tm_year * INT64CONST(365) + span.tm_mon * INT64CONST(30) + span.tm_mday) * USECS_PER_DAY + span.tm_usec;
}

/*
 * check_span accepts a time span from zero to MAX_SPAN_YEARS.
 */
static bool
check_span(char **newval, void **extra, GucSource source)
{
	struct pg_itm_in span;
	double		days;

	if (!parse_span(*newval, &span))
	{
		GUC_check_errdetail("\"%s\" is not an interval.", *newval);
		GUC_check_errhint("Give a number and a unit, for example '20 years' or '36 hours'.");
		return false;
	}

	if (span.tm_year < 0 || span.tm_mon < 0 || span.tm_mday < 0 || span.tm_usec < 0)
	{
		GUC_check_errdetail("The time span must not be negative.");
		return false;
	}

	days = span.tm_year * 366.0 + span.tm_mon * 31.0 + span.tm_mday + (double) span.tm_usec / USECS_PER_DAY;
	if (days > MAX_SPAN_YEARS * 366.0)
	{
		GUC_check_errdetail("The time span must not be longer than %d years.", MAX_SPAN_YEARS);
		return false;
	}

	return true;
}

/*
 * check_optional_span accepts nothing, too.
 */
static bool
check_optional_span(char **newval, void **extra, GucSource source)
{
	return (*newval)[0] == '\0' || check_span(newval, extra, source);
}

/*
 * check_databases accepts a list of names.
 */
static bool
check_databases(char **newval, void **extra, GucSource source)
{
	char	   *names = pstrdup(*newval);
	List	   *list;
	bool		is_list = SplitGUCList(names, ',', &list);

	if (!is_list)
	{
		GUC_check_errdetail("The list of databases does not parse.");
		GUC_check_errhint("Separate the names by commas, and put a name with special characters into double quotes.");
	}
	else if (list_length(list) > PA_MOST_DATABASES)
	{
		GUC_check_errdetail("At most %d databases can be listed.", PA_MOST_DATABASES);
		is_list = false;
	}
	list_free(list);
	pfree(names);

	return is_list;
}

/*
 * define_worker_settings defines what postgresql.conf says of the worker.
 */
static void
define_worker_settings(void)
{
	DefineCustomStringVariable("prod_analytics.databases",
							   "The databases whose jobs the worker runs, separated by commas.",
							   "The library must be in shared_preload_libraries.",
							   &pa_databases,
							   "",
							   PGC_SIGHUP,
							   0, check_databases, NULL, NULL);

	DefineCustomIntVariable("prod_analytics.max_running_jobs",
							"How many jobs the worker runs at the same time, in all databases.",
							"Each takes one of max_worker_processes.",
							&pa_max_running_jobs,
							4, 1, PA_MOST_RUNNERS,
							PGC_SIGHUP,
							0, NULL, NULL, NULL);

	DefineCustomBoolVariable("prod_analytics.enabled",
							 "Whether the worker runs jobs.",
							 NULL,
							 &pa_enabled,
							 true,
							 PGC_SIGHUP,
							 0, NULL, NULL, NULL);

	DefineCustomStringVariable("prod_analytics.history_retention",
							   "How long the log of a run, a result of a quality check and a plan are kept.",
							   "purge_history() deletes older ones.",
							   &pa_history_retention,
							   "30 days",
							   PGC_SIGHUP,
							   0, check_span, NULL, NULL);

	DefineCustomStringVariable("prod_analytics.quarantine_retention",
							   "How long what was quarantined is kept; empty: for ever.",
							   "purge_history() deletes older rows.",
							   &pa_quarantine_retention,
							   "",
							   PGC_SIGHUP,
							   0, check_optional_span, NULL, NULL);
}

/*
 * pa_settings_init defines the settings and reserves their prefix.
 */
void
pa_settings_init(void)
{
	DefineCustomEnumVariable("prod_analytics.create_tables",
							 "Whether CREATE EXTENSION makes the tables.",
							 "auto: unless a dump is being restored.",
							 &create_tables,
							 CREATE_TABLES_AUTO,
							 create_tables_options,
							 PGC_USERSET,
							 0, NULL, NULL, NULL);

	DefineCustomStringVariable("prod_analytics.max_event_age",
							   "How long before its arrival an event may have happened.",
							   "Ingestion quarantines older events.",
							   &pa_max_event_age,
							   "20 years",
							   PGC_USERSET,
							   0, check_span, NULL, NULL);

	DefineCustomStringVariable("prod_analytics.max_event_lead",
							   "How far after its arrival an event may claim to happen.",
							   "Ingestion quarantines events further ahead.",
							   &pa_max_event_lead,
							   "1 day",
							   PGC_USERSET,
							   0, check_span, NULL, NULL);

	DefineCustomStringVariable("prod_analytics.dedupe_window",
							   "How far apart two events with the same event_id are different events.",
							   "Ingestion quarantines the second of two that are nearer, but not at the same time.",
							   &pa_dedupe_window,
							   "7 days",
							   PGC_USERSET,
							   0, check_span, NULL, NULL);

	DefineCustomIntVariable("prod_analytics.lock_timeout",
							"How long changing partitions waits for a lock before it lets others pass.",
							"Whoever wants the table meanwhile waits behind it, at most so long.",
							&pa_lock_timeout,
							200, 1, 60000,
							PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("prod_analytics.lock_retries",
							"How often changing partitions tries again to get a lock, and filling a column to get locked rows.",
							NULL,
							&pa_lock_retries,
							20, 0, 10000,
							PGC_USERSET,
							0, NULL, NULL, NULL);

	DefineCustomIntVariable("prod_analytics.backfill_pause",
							"How long filling a column rests between batches.",
							NULL,
							&pa_backfill_pause_ms,
							10, 0, 60000,
							PGC_USERSET,
							GUC_UNIT_MS, NULL, NULL, NULL);

	define_worker_settings();
	MarkGUCPrefixReserved("prod_analytics");
}
