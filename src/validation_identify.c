/*
 * validation_identify.c
 *		The first walk through a schema: its resources ($id), anchors and dialect.
 */
#include "prod_analytics.h"

#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "validation.h"
#include "validation_compile.h"

#define DRAFT "https://json-schema.org/draft/2020-12/schema"
#define VOCABULARIES "https://json-schema.org/draft/2020-12/vocab/"

/*
 * pa_complain remembers what is wrong with the schema.
 */
void
pa_complain(Compiler *compiler, const char *path, const char *message)
{
	if (compiler->problem->path == NULL)
	{
		compiler->problem->path = path;
		compiler->problem->message = message;
	}
}

/*
 * pa_name_of is the text of a string.
 */
PaName
pa_name_of(const JsonbValue *string)
{
	PaName		name = {string->val.string.val, string->val.string.len};

	return name;
}

/*
 * pa_literal is a name that we write ourselves.
 */
PaName
pa_literal(const char *text)
{
	PaName		name = {text, strlen(text)};

	return name;
}

/*
 * is_object, is_array and is_boolean tell the type of a value.
 */
bool
pa_is_object(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

bool
pa_is_array(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
}

/*
 * pa_child finds a member of an object; NULL when there is none.
 */
JsonbValue *
pa_child(const JsonbValue *object, const char *key)
{
	return getKeyJsonValueFromContainer(object->val.binary.data, key, strlen(key), NULL);
}

/*
 * pa_elements lists the elements of an array, or the values of an object; "keys" (unless NULL) gets the
 * keys of an object.
 */
JsonbValue *
pa_elements(const JsonbValue *container, PaName **keys, int *count)
{
	JsonbIterator *iterator = JsonbIteratorInit(container->val.binary.data);
	JsonbIteratorToken token;
	JsonbValue	value;
	JsonbValue *values;
	int			size = JsonContainerSize(container->val.binary.data);
	int			n = 0;

	values = palloc(sizeof(JsonbValue) * (size + 1));
	if (keys)
		*keys = palloc(sizeof(PaName) * (size + 1));

	(void) JsonbIteratorNext(&iterator, &value, false);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY && keys)
			(*keys)[n] = pa_name_of(&value);
		else if (token == WJB_VALUE || token == WJB_ELEM)
			values[n++] = value;
	}
	*count = n;

	return values;
}

/* Where schemas stand inside a schema. */
typedef enum Place
{
	PLACE_SCHEMA,				/* the keyword's value */
	PLACE_LIST,					/* the elements of an array */
	PLACE_MAP					/* the values of an object */
} Place;

static const struct
{
	const char *keyword;
	Place		place;
}			places[] =
{
	{"$defs", PLACE_MAP},
	{"additionalProperties", PLACE_SCHEMA},
	{"allOf", PLACE_LIST},
	{"anyOf", PLACE_LIST},
	{"contains", PLACE_SCHEMA},
	{"contentSchema", PLACE_SCHEMA},
	{"dependentSchemas", PLACE_MAP},
	{"else", PLACE_SCHEMA},
	{"if", PLACE_SCHEMA},
	{"items", PLACE_SCHEMA},
	{"not", PLACE_SCHEMA},
	{"oneOf", PLACE_LIST},
	{"patternProperties", PLACE_MAP},
	{"prefixItems", PLACE_LIST},
	{"properties", PLACE_MAP},
	{"propertyNames", PLACE_SCHEMA},
	{"then", PLACE_SCHEMA},
	{"unevaluatedItems", PLACE_SCHEMA},
	{"unevaluatedProperties", PLACE_SCHEMA}
};

/*
 * pa_identify remembers that a place has a URI.
 */
void
pa_identify(Compiler *compiler, char *uri, const char *path)
{
	Identified *entry = palloc(sizeof(Identified));
	ListCell   *cell;

	foreach(cell, compiler->identified)
		if (strcmp(((Identified *) lfirst(cell))->uri, uri) == 0 && strcmp(((Identified *) lfirst(cell))->path, path) != 0)
			pa_complain(compiler, path, psprintf("\"%s\" is identified twice", uri));

	entry->uri = uri;
	entry->path = pstrdup(path);
	compiler->identified = lappend(compiler->identified, entry);
}

/*
 * string_at reads a keyword that must be a string; NULL when it is absent.
 */
static char *
string_at(Compiler *compiler, const JsonbValue *object, const char *keyword, const char *path)
{
	JsonbValue *value = pa_child(object, keyword);

	if (value == NULL)
		return NULL;
	if (value->type != jbvString)
	{
		pa_complain(compiler, pa_pointer_append(path, pa_literal(keyword)), psprintf("%s is not a string", keyword));
		return NULL;
	}

	return pnstrdup(value->val.string.val, value->val.string.len);
}

/*
 * check_dialect refuses drafts and vocabularies that we do not know: silently ignoring their keywords
 * would be worse.
 */
static void
check_dialect(Compiler *compiler, const JsonbValue *object, const char *path)
{
	char	   *draft = string_at(compiler, object, "$schema", path);
	JsonbValue *vocabulary = pa_child(object, "$vocabulary");
	PaName	   *keys;
	int			count;

	if (draft && strcmp(draft, DRAFT) != 0 && strcmp(draft, DRAFT "#") != 0)
		pa_complain(compiler, pa_pointer_append(path, pa_literal("$schema")),
					psprintf("draft \"%s\" is not supported, only \"%s\" is", draft, DRAFT));

	if (vocabulary == NULL)
		return;
	if (!pa_is_object(vocabulary))
	{
		pa_complain(compiler, pa_pointer_append(path, pa_literal("$vocabulary")), "$vocabulary is not an object");
		return;
	}
	(void) pa_elements(vocabulary, &keys, &count);
	for (int i = 0; i < count; i++)
		if (keys[i].length < (int) strlen(VOCABULARIES) ||
			memcmp(keys[i].text, VOCABULARIES, strlen(VOCABULARIES)) != 0)
			pa_complain(compiler, pa_pointer_append(path, pa_literal("$vocabulary")),
						psprintf("vocabulary %s is not supported", pa_describe_name(keys[i], 200)));
}

/*
 * scan_place walks through the schemas of a keyword.
 */
static void
scan_place(Compiler *compiler, JsonbValue *value, Place place, const char *path, const char *base)
{
	JsonbValue *values;
	PaName	   *keys;
	int			count;

	if (place == PLACE_SCHEMA)
	{
		pa_scan_schema(compiler, value, path, base);
		return;
	}
	if (place == PLACE_MAP ? !pa_is_object(value) : !pa_is_array(value))
		return;

	values = pa_elements(value, place == PLACE_MAP ? &keys : NULL, &count);
	for (int i = 0; i < count; i++)
		pa_scan_schema(compiler, &values[i],
					   pa_pointer_append(path, place == PLACE_MAP ? keys[i] : pa_literal(psprintf("%d", i))), base);
}

/*
 * pa_scan_schema finds the resources and anchors of a schema, whose base URI is given.
 */
void
pa_scan_schema(Compiler *compiler, JsonbValue *value, const char *path, const char *base)
{
	char	   *id;
	static const char *const anchors[] = {"$anchor", "$dynamicAnchor"};

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();

	if (!pa_is_object(value))
		return;

	check_dialect(compiler, value, path);
	id = string_at(compiler, value, "$id", path);
	if (id)
	{
		char	   *fragment = pa_split_fragment(id);

		if (fragment && *fragment)
			pa_complain(compiler, pa_pointer_append(path, pa_literal("$id")), "$id has a fragment");
		base = pa_resolve_uri(base, id);
		pa_identify(compiler, pstrdup(base), path);
	}

	for (int i = 0; i < (int) lengthof(anchors); i++)
	{
		char	   *anchor = string_at(compiler, value, anchors[i], path);

		if (anchor)
			pa_identify(compiler, psprintf("%s#%s", base, anchor), path);
	}

	for (int i = 0; i < (int) lengthof(places); i++)
	{
		JsonbValue *inside = pa_child(value, places[i].keyword);

		if (inside)
			scan_place(compiler, inside, places[i].place,
					   pa_pointer_append(path, pa_literal(places[i].keyword)), base);
	}
}

/*
 * pa_base_of is the resource that a place belongs to: the nearest one around it.
 */
Identified *
pa_base_of(Compiler *compiler, const char *path)
{
	Identified *best = linitial(compiler->identified);
	ListCell   *cell;

	foreach(cell, compiler->identified)
	{
		Identified *entry = lfirst(cell);
		size_t		length = strlen(entry->path);

		if (strchr(entry->uri, '#') == NULL && strncmp(entry->path, path, length) == 0 &&
			(path[length] == '/' || path[length] == '\0') && length >= strlen(best->path))
			best = entry;
	}

	return best;
}

/*
 * pa_path_of finds the place that has a URI; NULL when there is none.
 */
char *
pa_path_of(Compiler *compiler, const char *uri)
{
	ListCell   *cell;

	foreach(cell, compiler->identified)
		if (strcmp(((Identified *) lfirst(cell))->uri, uri) == 0)
			return ((Identified *) lfirst(cell))->path;

	return NULL;
}
