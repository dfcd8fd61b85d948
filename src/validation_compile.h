/*
 * validation_compile.h
 *		What the two walks through a schema share.
 */
#ifndef PA_VALIDATION_COMPILE_H
#define PA_VALIDATION_COMPILE_H

#include "utils/hsearch.h"
#include "validation.h"

/* A place that has a URI: a resource, or an anchor in it ("uri#anchor"). */
typedef struct Identified
{
	char	   *uri;
	char	   *path;
} Identified;

/* One compilation. */
typedef struct Compiler
{
	JsonbValue	root;
	PaSchemaProblem *problem;
	bool		assert_formats;
	List	   *identified;		/* of Identified */
	HTAB	   *nodes;			/* of SchemaNode */
} Compiler;

extern void pa_complain(Compiler *compiler, const char *path, const char *message);
extern PaName pa_name_of(const JsonbValue *string);
extern PaName pa_literal(const char *text);
extern bool pa_is_object(const JsonbValue *value);
extern bool pa_is_array(const JsonbValue *value);
extern JsonbValue *pa_child(const JsonbValue *object, const char *key);
extern JsonbValue *pa_elements(const JsonbValue *container, PaName **keys, int *count);
extern void pa_identify(Compiler *compiler, char *uri, const char *path);
extern void pa_scan_schema(Compiler *compiler, JsonbValue *value, const char *path, const char *base);
extern Identified *pa_base_of(Compiler *compiler, const char *path);
extern char *pa_path_of(Compiler *compiler, const char *uri);

#endif							/* PA_VALIDATION_COMPILE_H */
