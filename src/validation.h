/*
 * validation.h
 *		JSON Schema, draft 2020-12, over jsonb.
 *
 * validation_compile.c turns a schema into a graph of PaSchema nodes, with validation_identify.c and
 * validation_uri.c for its references and validation_regex.c, validation_ecma.c and validation_dfa.c for
 * its patterns; validation_eval.c walks a document along it, with validation_check.c for single values
 * and validation_value.c for reading jsonb; validation_format.c has the formats that registered schemas
 * assert, with validation_address.c and validation_idna.c; validation.c has the SQL functions.
 */
#ifndef PA_VALIDATION_H
#define PA_VALIDATION_H

#include "nodes/pg_list.h"
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

/* A regular expression as a table, for ASCII texts. */
typedef struct PaDfa PaDfa;

/* A compiled regular expression. */
typedef struct PaRegex
{
	regex_t		engine;
	PaDfa	   *dfa;			/* NULL: there is none */
} PaRegex;

/* Whether a text has a format. */
typedef bool (*PaFormat) (PaName text);

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

/* A property that the schema names. */
typedef struct PaMember
{
	PaName		name;
	PaSchema   *schema;			/* NULL: any */
	bool		required;
} PaMember;

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
	PaRegex    *regex;
	PaSchema   *schema;
} PaPatternProperty;

/* Schemas that apply together. */
typedef struct PaSchemas
{
	int			count;
	PaSchema  **schemas;
} PaSchemas;

/* What a schema asks for, as bits, so that the walk passes by what it does not. */
#define PA_ASKS_HERE 1			/* other schemas for the same value, or the unevaluated keywords */
#define PA_ASKS_CHOICE 2		/* const, enum */
#define PA_ASKS_NUMBER 4
#define PA_ASKS_STRING 8
#define PA_ASKS_ARRAY 16
#define PA_ASKS_OBJECT 32
#define PA_ASKS_ALL_MEMBERS 64	/* something of properties that it does not name */

/*
 * A schema.  Pointers that are NULL, and counts and limits that are -1, stand for keywords that are
 * absent.
 */
struct PaSchema
{
	const char *path;			/* where it stands in the document, a JSON Pointer */
	bool		is_false;		/* the schema "false" */
	bool		is_target;		/* some $ref refers to it */
	bool		is_visited;		/* by refuse_cycles of validation_compile.c, which is done with it */
	bool		is_entered;		/* likewise, which is in the middle of it */
	int			asks;			/* PA_ASKS bits */

	/* any instance */
	int			types;			/* 0: any */
	JsonbValue *constant;
	JsonbValue *enumeration;	/* an array */
	int			n_choices;
	JsonbValue *choices;		/* its elements, in order */
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
	PaRegex    *regex;
	PaName		format_name;
	PaFormat	format;			/* NULL unless it is asserted */

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
	PaProperty *properties;		/* as written; the walk uses "members" */
	PaNames		required;		/* likewise */
	int			n_members;
	PaMember   *members;		/* in the order in which jsonb keeps keys */
	int			n_pattern_properties;
	PaPatternProperty *pattern_properties;
	PaSchema   *additional_properties;
	PaSchema   *property_names;
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

/* Reads the elements of an array, or the keys or values of an object, one after the other. */
typedef struct PaCursor
{
	JsonbContainer *container;
	char	   *base;			/* where the data of the elements begins */
	int			index;			/* of the next JEntry */
	int			end;
	uint32		offset;			/* of the next element, from base */
} PaCursor;

/* validation_compile.c */
extern PaSchema *pa_compile_schema(Jsonb *schema, bool assert_formats, PaSchemaProblem *problem);

/* validation_eval.c */
extern bool pa_matches(PaSchema *schema, Jsonb *instance);
extern List *pa_validation_errors(PaSchema *schema, Jsonb *instance);

/* validation_value.c */
extern void pa_root_value(Jsonb *document, JsonbValue *value);
extern void pa_read_elements(PaCursor *cursor, JsonbContainer *array);
extern void pa_read_keys(PaCursor *cursor, JsonbContainer *object);
extern void pa_read_values(PaCursor *cursor, JsonbContainer *object);
extern bool pa_next(PaCursor *cursor, JsonbValue *value);
extern int	pa_compare_names(PaName a, PaName b);
extern int	pa_compare_values(const JsonbValue *a, const JsonbValue *b);
extern int	pa_compare_elements(const void *a, const void *b);
extern bool pa_has_repetition(JsonbContainer *array);
extern char *pa_describe_name(PaName name, int shown);
extern char *pa_describe_value(const JsonbValue *value);
extern char *pa_type_names(int types);

/* validation_uri.c */
extern char *pa_resolve_uri(const char *base, const char *reference);
extern char *pa_split_fragment(char *uri);
extern bool pa_percent_decode(char *text);
extern char *pa_pointer_append(const char *pointer, PaName token);
extern bool pa_pointer_lookup(JsonbValue *value, const char *pointer);

/* validation_format.c */
extern PaFormat pa_find_format(PaName name);	/* NULL: not a format that we assert */

/* validation_ecma.c */
extern pg_wchar *pa_translate_pattern(PaName pattern, int *length, const char **problem);

/* validation_regex.c */
extern PaRegex *pa_compile_regex(PaName pattern, const char **problem);
extern bool pa_regex_matches(PaRegex *regex, PaName text);

/* validation_dfa.c */
extern PaDfa *pa_make_dfa(const regex_t *regex);
extern bool pa_dfa_matches(const PaDfa *dfa, PaName text, bool *matches);

#endif							/* PA_VALIDATION_H */
