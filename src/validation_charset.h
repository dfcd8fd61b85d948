/*
 * validation_charset.h
 *		Sets of characters, for the classes of regular expressions.
 */
#ifndef PA_VALIDATION_CHARSET_H
#define PA_VALIDATION_CHARSET_H

#include "mb/pg_wchar.h"

/* Characters from one to another. */
typedef struct PaCharacters
{
	pg_wchar	first;
	pg_wchar	last;
} PaCharacters;

/* A set of characters.  All zeros are the empty set. */
typedef struct PaCharset
{
	int			count;
	int			size;
	PaCharacters *ranges;		/* ascending and apart from each other only after pa_charset_sort() */
} PaCharset;

extern void pa_charset_add(PaCharset *set, pg_wchar first, pg_wchar last);
extern void pa_charset_add_all(PaCharset *set, const PaCharacters *ranges, int count);
extern void pa_charset_free(PaCharset *set);
extern void pa_charset_sort(PaCharset *set);
extern void pa_charset_invert(PaCharset *set, pg_wchar highest);
extern bool pa_charset_add_property(PaCharset *set, const char *name);

#endif							/* PA_VALIDATION_CHARSET_H */
