/*
 * backfill.h
 *		Filling a column of a big table.
 */
#ifndef PA_BACKFILL_H
#define PA_BACKFILL_H

#include "access/attnum.h"
#include "utils/relcache.h"

/* The primary key of a table: its columns in the order of its index, and what their values are compared with. */
typedef struct PaPrimaryKey
{
	int			count;
	AttrNumber	columns[INDEX_MAX_KEYS];
	Oid			types[INDEX_MAX_KEYS];
	int32		typmods[INDEX_MAX_KEYS];
	char	   *names[INDEX_MAX_KEYS];	/* quoted */
	char	   *operator_schemas[INDEX_MAX_KEYS];	/* quoted */
} PaPrimaryKey;

extern bool pa_find_primary_key(Relation table, PaPrimaryKey *key);
extern void pa_primary_key(Relation table, PaPrimaryKey *key);

#endif							/* PA_BACKFILL_H */
