/*
 * validation.h
 *		JSON Schema, draft 2020-12, over jsonb.
 *
 * validation_compile.c turns a schema into a graph of PaSchema nodes, with validation_identify.c and
 * validation_uri.c for its references and validation_regex.c for its patterns; validation_eval.c walks
 * a document along it; validation.c has the SQL functions.
 */
#ifndef PA_VALIDATION_H
#define PA_VALIDATION_H

#include "regex/regex.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

typedef struct PaSchema PaSchema;

/* The types of JSON, as bits. */
#define PA_TYPE_NULL 1
#define PA_TYPE_BOOLEAN 2
#define PA_TYPE_INTEGER 4
#define PA_TYPE_NUMBER 8
#define PA_TYPE_STRING 16
#define PA_TYPE_ARRAY 32
#define PA_TYPE_OBJECT 64

/* A name or a key of an object. */
typedef struct PaName
{
	const char *text;			/* not terminated */
	int			length;
} PaName;

/* Some names. */
typedef struct PaNames
{
	int			count;
	PaName	   *names;
} PaNames;

/* A schema that applies to a property, or depends on it. */
typedef struct PaProperty
{
	PaName		name;
	PaSchema   *schema;
} PaProperty;

/* Names that a property requires. */
typedef struct PaDependency
{
	PaName		name;
	PaNames		required;
} PaDependency;

/* A schema that applies to the properties whose names match a regular expression. */
typedef struct PaPatternProperty
{
	PaName		pattern;
	regex_t    *regex;
	PaSchema   *schema;
} PaPatternProperty;

/* Schemas that apply together. */
typedef struct PaSchemas
{
	int			count;
	PaSchema  **schemas;
} PaSchemas;

/*
 * A schema.  Pointers that are NULL, and counts and limits that are -1, stand for keywords that are
 * absent.
 */
struct PaSchema
{
	const char *path;			/* where it stands in the document, a JSON Pointer */
	bool		is_false;		/* the schema "false" */

	/* any instance */
	int			types;			/* 0: any */
	JsonbValue *constant;
	JsonbValue *enumeration;	/* an array */
	PaSchema   *reference;
	PaSchemas	all_of;
	PaSchemas	any_of;
	PaSchemas	one_of;
	PaSchema   *not;
	PaSchema   *condition;
	PaSchema   *consequence;
	PaSchema   *alternative;

	/* numbers */
	Numeric		multiple_of;
	Numeric		maximum;
	Numeric		minimum;
	Numeric		exclusive_maximum;
	Numeric		exclusive_minimum;

	/* strings */
	int64		max_length;
	int64		min_length;
	PaName		pattern;
	regex_t    *regex;

	/* arrays */
	PaSchemas	prefix_items;
	PaSchema   *items;
	PaSchema   *contains;
	int64		max_contains;
	int64		min_contains;
	int64		max_items;
	int64		min_items;
	bool		unique_items;
	PaSchema   *unevaluated_items;

	/* objects */
	int			n_properties;
	PaProperty *properties;
	int			n_pattern_properties;
	PaPatternProperty *pattern_properties;
	PaSchema   *additional_properties;
	PaSchema   *property_names;
	PaNames		required;
	int			n_dependencies;
	PaDependency *dependencies;
	int			n_dependent_schemas;
	PaProperty *dependent_schemas;
	int64		max_properties;
	int64		min_properties;
	PaSchema   *unevaluated_properties;
};

/* What is wrong with a schema. */
typedef struct PaSchemaProblem
{
	const char *path;			/* a JSON Pointer; NULL: nothing is wrong */
	const char *message;
} PaSchemaProblem;

/* What is wrong with a document. */
typedef struct PaValidationError
{
	char	   *instance_path;	/* JSON Pointers */
	const char *keyword;
	char	   *schema_path;
	char	   *message;
} PaValidationError;

/* At most so many errors of a document are told. */
#define PA_MAX_VALIDATION_ERRORS 100

/* validation_compile.c */
extern PaSchema *pa_compile_schema(Jsonb *schema, PaSchemaProblem *problem);

/* validation_eval.c */
extern bool pa_matches(PaSchema *schema, Jsonb *instance);
extern List *pa_validation_errors(PaSchema *schema, Jsonb *instance);
/* validation_value.c */
extern void pa_root_value(Jsonb *document, JsonbValue *value);
extern int	pa_compare_values(const JsonbValue *a, const JsonbValue *b);
extern bool pa_has_repetition(const JsonbValue *items, int count);
extern char *pa_describe_value(const JsonbValue *value);
extern char *pa_type_names(int types);

/* validation_uri.c */
extern char *pa_resolve_uri(const char *base, const char *reference);
extern char *pa_split_fragment(char *uri);
extern bool pa_percent_decode(char *text);
extern char *pa_pointer_append(const char *pointer, PaName token);
extern bool pa_pointer_lookup(JsonbValue *value, const char *pointer);

/* validation_regex.c */
extern regex_t *pa_compile_regex(PaName pattern, const char **problem);
extern bool pa_regex_matches(regex_t *regex, PaName text);

#endif							/* PA_VALIDATION_H */
