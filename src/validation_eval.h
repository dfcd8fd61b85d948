/*
 * validation_eval.h
 *		What the walk through a document and the checks of single values share.
 */
#ifndef PA_VALIDATION_EVAL_H
#define PA_VALIDATION_EVAL_H

#include "validation.h"

/* Where in the document a value stands; NULL is the document. */
typedef struct Location
{
	const struct Location *parent;
	PaName		key;			/* of an object; text is NULL in an array */
	int			index;			/* in an array */
} Location;

/* A schema that is being applied to the value at hand. */
typedef struct Active
{
	const struct Active *outer;
	PaSchema   *schema;
} Active;

/* A walk. */
typedef struct Walk
{
	bool		collect;		/* errors, rather than an answer; no longer once there are too many */
	List	   *errors;			/* of PaValidationError */
} Walk;

/* A value of the document on the way. */
typedef struct Place
{
	const JsonbValue *value;
	const Location *location;
	const Active *active;		/* schemas being applied to this very value */
} Place;

/* A failure whose message is built only if somebody wants it. */
#define FAIL(keyword, message) \
	pa_fail(walk, schema, place, keyword, walk->collect ? (message) : NULL)

/* Goes on after a failure if errors are collected. */
#define MUST(condition) \
	do { \
		if (unlikely(!(condition))) \
		{ \
			if (!walk->collect) \
				return false; \
			valid = false; \
		} \
	} while (0)

extern bool pa_fail(Walk *walk, PaSchema *schema, const Place *place, const char *keyword, const char *message);
extern char *pa_count_message(const Place *place, int64 count, const char *what, const char *relation, int64 limit);
extern bool pa_check_type(Walk *walk, PaSchema *schema, const Place *place);
extern bool pa_check_choice(Walk *walk, PaSchema *schema, const Place *place);
extern bool pa_check_number(Walk *walk, PaSchema *schema, const Place *place);
extern bool pa_check_string(Walk *walk, PaSchema *schema, const Place *place);

#endif							/* PA_VALIDATION_EVAL_H */
