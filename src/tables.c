/*
 * tables.c
 *		Making the tables: the part that SQL cannot do.
 *
 * Tables, views and their default rows are ordinary objects, not members of the extension: only
 * so does pg_dump keep what users add to them, and DROP EXTENSION leave the data alone.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "guard.h"
#include "query.h"
#include "utils/guc.h"

PG_FUNCTION_INFO_V1(pa_create_tables);
PG_FUNCTION_INFO_V1(pa_update_tables);

/*
 * run_migration calls the SQL that makes and migrates the tables, and returns how many it made.
 */
static int32
run_migration(const char *sql, PaParameters *parameters)
{
	bool		isnull;
	Datum		made;

	SPI_connect();
	pa_query(sql, parameters, SPI_OK_SELECT);
	made = pa_result(0, 1, &isnull);
	SPI_finish();

	return DatumGetInt32(made);
}

/*
 * make_tables runs the SQL that makes and migrates the tables, and returns how many it made.
 *
 * While the extension is created or updated, everything made becomes a member of it, and every privilege granted one
 * that it has from the start and that dumps leave out, unless the server forgets for a moment what it is doing.
 *
 * The search_path and the way to write strings are those under which the table definitions are written: with
 * standard_conforming_strings off, the backslash of a regular expression would be lost.
 */
static int32
make_tables(const char *sql, PaParameters *parameters)
{
	bool		was_creating = creating_extension;
	int			guc_level;
	int32		made = 0;

	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", PA_SCHEMA ", pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	pa_set_for_now("standard_conforming_strings", "on");

	creating_extension = false;
	PG_TRY();
	{
		made = run_migration(sql, parameters);
	}
	PG_FINALLY();
	{
		creating_extension = was_creating;
	}
	PG_END_TRY();

	AtEOXact_GUC(true, guc_level);

	return made;
}

/*
 * create_tables() makes the tables that are missing.  The SQL may be that of an older version, which knows no
 * parameter.
 */
Datum
pa_create_tables(PG_FUNCTION_ARGS)
{
	pa_forbid_read_only("create_tables()");

	PG_RETURN_INT32(make_tables("SELECT prod_analytics.migrate_tables()", NULL));
}

/*
 * update_tables() does it for the script that updates the extension, which knows which functions are new.
 */
Datum
pa_update_tables(PG_FUNCTION_ARGS)
{
	PaParameters parameters = {0};

	pa_forbid_read_only("update_tables()");
	pa_add_parameter(&parameters, OIDARRAYOID, PG_GETARG_DATUM(0));

	PG_RETURN_INT32(make_tables("SELECT prod_analytics.migrate_tables($1)", &parameters));
}
