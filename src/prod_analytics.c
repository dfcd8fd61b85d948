/*
 * prod_analytics.c
 *		What happens when the library is loaded.
 *
 * src/README.md is the map of the other files.
 */
#include "prod_analytics.h"

#include "fmgr.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	pa_settings_init();
	pa_worker_init();
}
