/*
 * tables.c
 *		Making the tables: the part that SQL cannot do.
 *
 * Tables, views and their default rows are ordinary objects, not members of the extension: only
 * so does pg_dump keep what users add to them, and DROP EXTENSION leave the data alone.
 */
#include "prod_analytics.h"

#include "commands/extension.h"
#include "fmgr.h"
#include "guard.h"
#include "query.h"
#include "utils/guc.h"

PG_FUNCTION_INFO_V1(pa_create_tables);

/*
 * run_migration calls the SQL that makes and migrates the tables, and returns how many it made.
 */
static int32
run_migration(void)
{
	bool		isnull;
	Datum		made;

	SPI_connect();
	pa_query("SELECT prod_analytics.migrate_tables()", NULL, SPI_OK_SELECT);
	made = pa_result(0, 1, &isnull);
	SPI_finish();

	return DatumGetInt32(made);
}

/*
 * create_tables() makes the tables that are missing.
 *
 * While CREATE EXTENSION runs, everything made becomes a member of the extension unless the
 * server forgets for a moment that it is creating one.
 *
 * The search_path is the one under which the table definitions are written.
 */
Datum
pa_create_tables(PG_FUNCTION_ARGS)
{
	bool		was_creating = creating_extension;
	int			guc_level;
	int32		made = 0;

	pa_forbid_read_only("create_tables()");

	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", PA_SCHEMA ", pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);

	creating_extension = false;
	PG_TRY();
	{
		made = run_migration();
	}
	PG_FINALLY();
	{
		creating_extension = was_creating;
	}
	PG_END_TRY();

	AtEOXact_GUC(true, guc_level);

	PG_RETURN_INT32(made);
}
