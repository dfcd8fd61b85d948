/*
 * prod_analytics.h
 *		Names that the whole extension shares.
 */
#ifndef PROD_ANALYTICS_H
#define PROD_ANALYTICS_H

#include "postgres.h"

#include "compat.h"

#define PA_EXTENSION "prod_analytics"

/* The schema is fixed (the control file says relocatable = false). */
#define PA_SCHEMA "prod_analytics"

/* The library, as the server loads it. */
#define PA_LIBRARY "$libdir/prod_analytics"

/* Called by _PG_init, one for each file that has something to set up. */
extern void pa_settings_init(void);
extern void pa_worker_init(void);

#endif							/* PROD_ANALYTICS_H */
