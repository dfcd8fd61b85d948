/*
 * worker_advice.c
 *		Telling who creates the extension what is missing for a worker to run its jobs.
 *
 * Without one everything can be called by hand, so that nothing fails; and new events would stay in staging, without a
 * word, until somebody wonders.
 */
#include "prod_analytics.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "settings.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(pa_advise_worker);

/*
 * append_libraries writes the statement that lets the server load our library too.  Each name is a literal of its own:
 * a list in a single one would be taken for the name of one library.
 */
static void
append_libraries(StringInfo advice)
{
	char	   *setting = pstrdup(GetConfigOption("shared_preload_libraries", false, false));
	List	   *libraries = NIL;
	ListCell   *cell;

	appendStringInfoString(advice, "ALTER SYSTEM SET shared_preload_libraries = ");
	if (SplitDirectoriesString(setting, ',', &libraries))
		foreach(cell, libraries)
			appendStringInfo(advice, "%s, ", quote_literal_cstr(lfirst(cell)));
	appendStringInfo(advice, "%s; ", quote_literal_cstr(PA_EXTENSION));
}

/*
 * append_databases writes the statement that lets the worker see to a database too.
 */
static void
append_databases(StringInfo advice, const char *database)
{
	StringInfoData list;

	initStringInfo(&list);
	appendStringInfo(&list, "%s%s", pa_databases, pa_databases[0] ? ", " : "");
	if (database[strspn(database, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")] == '\0')
		appendStringInfoString(&list, database);
	else
	{
		appendStringInfoChar(&list, '"');
		for (const char *c = database; *c; c++)
			appendStringInfo(&list, "%s%c", *c == '"' ? "\"" : "", *c);
		appendStringInfoChar(&list, '"');
	}
	appendStringInfo(advice, "ALTER SYSTEM SET prod_analytics.databases = %s; ", quote_literal_cstr(list.data));
}

/*
 * advise tells what is missing, if anything is.  Who has switched the worker off knows.
 */
static void
advise(void)
{
	bool		is_loaded = (pa_worker != NULL);
	char	   *database = get_database_name(MyDatabaseId);
	bool		is_listed = pa_is_listed(database);
	StringInfoData advice;

	if (is_loaded && is_listed)
		return;

	initStringInfo(&advice);
	if (!is_loaded)
		append_libraries(&advice);
	if (!is_listed)
		append_databases(&advice, database);

	ereport(NOTICE,
			(errmsg("no worker runs jobs in database \"%s\"", database),
			 is_loaded ? errdetail("The database is not listed in prod_analytics.databases.") :
			 errdetail("The library is not in shared_preload_libraries."),
			 is_loaded ? errhint("For one: %sSELECT pg_reload_conf();", advice.data) :
			 errhint("For one: %sand restart the server. Without one, call the functions yourself.", advice.data)));
}

/* Whether this transaction has made the store. */
static bool must_advise = false;

/*
 * advise_at_commit gives the advice before the transaction commits, unless it has taken the extension back.
 */
static void
advise_at_commit(XactEvent event, void *argument)
{
	bool		is_due = must_advise;

	must_advise = false;
	if (is_due && event == XACT_EVENT_PRE_COMMIT && OidIsValid(get_extension_oid(PA_EXTENSION, true)))
		advise();
}

/*
 * advise_worker() gives the advice when the transaction commits.  While the script is running the server shows nothing
 * below a WARNING, which it is not.
 */
Datum
pa_advise_worker(PG_FUNCTION_ARGS)
{
	static bool is_registered = false;

	if (!is_registered)
		RegisterXactCallback(advise_at_commit, NULL);
	is_registered = true;
	must_advise = true;

	PG_RETURN_VOID();
}
