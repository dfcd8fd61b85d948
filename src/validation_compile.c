/*
 * validation_compile.c
 *		From a JSON Schema to a graph of nodes.
 *
 * A first walk finds the schema's resources ($id) and anchors; a second one makes a node of each
 * schema, once, however often it is referred to, so that cycles of references become cycles of the
 * graph.  Both walks check the schema itself; the first problem counts.
 */
#include "prod_analytics.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "validation.h"
#include "validation_compile.h"

/* The node of a place. */
typedef struct SchemaNode
{
	const char *path;			/* the key */
	PaSchema   *schema;
} SchemaNode;

typedef void (*ReadKeyword) (Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path);

static PaSchema *compile_at(Compiler *compiler, JsonbValue *value, const char *path);

/*
 * read_reference follows a $ref inside the document.
 */
static void
read_reference(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	char	   *reference;
	char	   *fragment;
	char	   *uri;
	char	   *target;
	JsonbValue	found = compiler->root;

	if (value->type != jbvString)
	{
		pa_complain(compiler, path, "$ref is not a string");
		return;
	}

	reference = pnstrdup(value->val.string.val, value->val.string.len);
	fragment = pa_split_fragment(reference);
	uri = pa_resolve_uri(pa_base_of(compiler, path)->uri, reference);

	if (fragment && *fragment && *fragment != '/')
		target = pa_path_of(compiler, psprintf("%s#%s", uri, fragment));
	else
		target = pa_path_of(compiler, uri);
	if (target && fragment && *fragment == '/')
	{
		if (!pa_percent_decode(fragment))
			target = NULL;
		else
			target = psprintf("%s%s", target, fragment);
	}

	if (target == NULL || !pa_pointer_lookup(&found, target))
	{
		pa_complain(compiler, path,
					psprintf("$ref %s does not name a schema in this document; remote schemas are not fetched",
							 pa_describe_name(pa_name_of(value), 200)));
		return;
	}

	node->reference = compile_at(compiler, &found, target);
	node->reference->is_target = true;
}

/*
 * refuse_dynamic refuses $dynamicRef.
 */
static void
refuse_dynamic(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	pa_complain(compiler, path, "$dynamicRef is not supported");
}

/*
 * type_bit is the bit of a type's name; 0 when there is no such type.
 */
static int
type_bit(const JsonbValue *name)
{
	static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};

	if (name->type == jbvString)
		for (int i = 0; i < (int) lengthof(names); i++)
			if ((int) strlen(names[i]) == name->val.string.len &&
				memcmp(names[i], name->val.string.val, name->val.string.len) == 0)
				return 1 << i;

	return 0;
}

static void
read_type(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	JsonbValue *names = value;
	int			count = 1;

	if (pa_is_array(value))
		names = pa_elements(value, NULL, &count);
	if (count == 0)
		pa_complain(compiler, path, "type is an empty array");

	for (int i = 0; i < count; i++)
	{
		int			bit = type_bit(&names[i]);

		if (bit == 0)
			pa_complain(compiler, path, names[i].type == jbvString ?
						psprintf("%s is not a type", pa_describe_name(pa_name_of(&names[i]), 200)) :
						"type is not a string");
		else if (node->types & bit)
			pa_complain(compiler, path, "type names a type twice");
		node->types |= bit;
	}
}

static void
read_const(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	node->constant = palloc(sizeof(JsonbValue));
	*node->constant = *value;
}

static void
read_enum(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	if (!pa_is_array(value))
	{
		pa_complain(compiler, path, "enum is not an array");
		return;
	}
	node->enumeration = palloc(sizeof(JsonbValue));
	*node->enumeration = *value;
	node->choices = pa_elements(value, NULL, &node->n_choices);
	qsort(node->choices, node->n_choices, sizeof(JsonbValue), pa_compare_elements);
}

/*
 * schemas_of compiles the elements of an array.
 */
static PaSchemas
schemas_of(Compiler *compiler, JsonbValue *value, const char *path)
{
	PaSchemas	schemas = {0, NULL};
	JsonbValue *values;

	if (!pa_is_array(value) || JsonContainerSize(value->val.binary.data) == 0)
	{
		pa_complain(compiler, path, "the value is not an array of at least one schema");
		return schemas;
	}

	values = pa_elements(value, NULL, &schemas.count);
	schemas.schemas = palloc(sizeof(PaSchema *) * schemas.count);
	for (int i = 0; i < schemas.count; i++)
		schemas.schemas[i] = compile_at(compiler, &values[i],
										pa_pointer_append(path, pa_literal(psprintf("%d", i))));

	return schemas;
}

/*
 * properties_of compiles the values of an object.
 */
static PaProperty *
properties_of(Compiler *compiler, JsonbValue *value, const char *path, int *count)
{
	JsonbValue *values;
	PaName	   *keys;
	PaProperty *properties;

	*count = 0;
	if (!pa_is_object(value))
	{
		pa_complain(compiler, path, "the value is not an object");
		return NULL;
	}

	values = pa_elements(value, &keys, count);
	properties = palloc(sizeof(PaProperty) * (*count + 1));
	for (int i = 0; i < *count; i++)
	{
		properties[i].name = keys[i];
		properties[i].schema = compile_at(compiler, &values[i], pa_pointer_append(path, keys[i]));
	}

	return properties;
}

/*
 * names_of reads an array of different strings.
 */
static PaNames
names_of(Compiler *compiler, JsonbValue *value, const char *path)
{
	PaNames		names = {0, NULL};
	JsonbValue *values;
	int			count;

	if (!pa_is_array(value))
	{
		pa_complain(compiler, path, "the value is not an array of strings");
		return names;
	}

	if (pa_has_repetition(value->val.binary.data))
		pa_complain(compiler, path, "a name is given twice");
	values = pa_elements(value, NULL, &count);
	names.names = palloc(sizeof(PaName) * (count + 1));
	for (int i = 0; i < count; i++)
	{
		if (values[i].type != jbvString)
		{
			pa_complain(compiler, path, "the value is not an array of strings");
			return names;
		}
		names.names[names.count++] = pa_name_of(&values[i]);
	}

	return names;
}

/*
 * number_of reads a number.
 */
static Numeric
number_of(Compiler *compiler, JsonbValue *value, const char *path)
{
	if (value->type != jbvNumeric)
	{
		pa_complain(compiler, path, "the value is not a number");
		return NULL;
	}

	return value->val.numeric;
}

/*
 * count_of reads a count: an integer of at least 0, also if it is written as 2.0.
 */
static int64
count_of(Compiler *compiler, JsonbValue *value, const char *path)
{
	Datum		zero = DirectFunctionCall1(int8_numeric, Int64GetDatum(0));
	Datum		most = DirectFunctionCall1(int8_numeric, Int64GetDatum(PG_INT64_MAX));

	if (value->type == jbvNumeric)
	{
		Datum		number = NumericGetDatum(value->val.numeric);
		Datum		whole = DirectFunctionCall2(numeric_trunc, number, Int32GetDatum(0));

		if (DatumGetBool(DirectFunctionCall2(numeric_eq, number, whole)) &&
			DatumGetBool(DirectFunctionCall2(numeric_ge, number, zero)))
		{
			number = DirectFunctionCall2(numeric_smaller, number, most);
			return DatumGetInt64(DirectFunctionCall1(numeric_int8, number));
		}
	}
	pa_complain(compiler, path, "the value is not an integer of at least 0");

	return -1;
}

/*
 * regex_of compiles a regular expression.
 */
static PaRegex *
regex_of(Compiler *compiler, PaName pattern, const char *path)
{
	const char *problem;
	PaRegex    *regex = pa_compile_regex(pattern, &problem);

	if (regex == NULL)
		pa_complain(compiler, path, psprintf("%s is not a regular expression: %s", pa_describe_name(pattern, 200), problem));

	return regex;
}

static void
read_pattern(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	if (value->type != jbvString)
	{
		pa_complain(compiler, path, "pattern is not a string");
		return;
	}
	node->pattern = pa_name_of(value);
	node->regex = regex_of(compiler, node->pattern, path);
}

static void
read_format(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	if (value->type != jbvString)
		pa_complain(compiler, path, "format is not a string");
	else if (compiler->assert_formats)
	{
		node->format_name = pa_name_of(value);
		node->format = pa_find_format(node->format_name);
	}
}

static void
read_pattern_properties(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	PaProperty *properties = properties_of(compiler, value, path, &node->n_pattern_properties);

	node->pattern_properties = palloc(sizeof(PaPatternProperty) * (node->n_pattern_properties + 1));
	for (int i = 0; i < node->n_pattern_properties; i++)
	{
		node->pattern_properties[i].pattern = properties[i].name;
		node->pattern_properties[i].schema = properties[i].schema;
		node->pattern_properties[i].regex = regex_of(compiler, properties[i].name, path);
	}
}

static void
read_dependencies(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	JsonbValue *values;
	PaName	   *keys;

	if (!pa_is_object(value))
	{
		pa_complain(compiler, path, "dependentRequired is not an object");
		return;
	}
	values = pa_elements(value, &keys, &node->n_dependencies);
	node->dependencies = palloc(sizeof(PaDependency) * (node->n_dependencies + 1));
	for (int i = 0; i < node->n_dependencies; i++)
	{
		node->dependencies[i].name = keys[i];
		node->dependencies[i].required = names_of(compiler, &values[i], pa_pointer_append(path, keys[i]));
	}
}

static void
read_multiple_of(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	node->multiple_of = number_of(compiler, value, path);
	if (node->multiple_of &&
		DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(node->multiple_of),
										  DirectFunctionCall1(int8_numeric, Int64GetDatum(0)))) <= 0)
		pa_complain(compiler, path, "multipleOf is not greater than 0");
}

static void
read_unique_items(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	if (value->type != jbvBool)
		pa_complain(compiler, path, "uniqueItems is not a boolean");
	else
		node->unique_items = value->val.boolean;
}

static void
read_defs(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	int			count;

	/* Compiled although nothing may refer to them: a schema is valid or it is not. */
	(void) properties_of(compiler, value, path, &count);
}

static void
read_content_schema(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	/* An annotation, but a schema, which may be referred to. */
	(void) compile_at(compiler, value, path);
}

/* Keywords whose value goes into a field of the node in the same way. */
#define READER(function, field, reading) \
static void \
function(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path) \
{ \
	node->field = reading(compiler, value, path); \
}

READER(read_all_of, all_of, schemas_of)
READER(read_any_of, any_of, schemas_of)
READER(read_one_of, one_of, schemas_of)
READER(read_prefix_items, prefix_items, schemas_of)
READER(read_not, not, compile_at)
READER(read_if, condition, compile_at)
READER(read_then, consequence, compile_at)
READER(read_else, alternative, compile_at)
READER(read_items, items, compile_at)
READER(read_contains, contains, compile_at)
READER(read_unevaluated_items, unevaluated_items, compile_at)
READER(read_additional_properties, additional_properties, compile_at)
READER(read_property_names, property_names, compile_at)
READER(read_unevaluated_properties, unevaluated_properties, compile_at)
READER(read_required, required, names_of)
READER(read_maximum, maximum, number_of)
READER(read_minimum, minimum, number_of)
READER(read_exclusive_maximum, exclusive_maximum, number_of)
READER(read_exclusive_minimum, exclusive_minimum, number_of)
READER(read_max_length, max_length, count_of)
READER(read_min_length, min_length, count_of)
READER(read_max_items, max_items, count_of)
READER(read_min_items, min_items, count_of)
READER(read_max_contains, max_contains, count_of)
READER(read_min_contains, min_contains, count_of)
READER(read_max_properties, max_properties, count_of)
READER(read_min_properties, min_properties, count_of)

static void
read_properties(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	node->properties = properties_of(compiler, value, path, &node->n_properties);
}

static void
read_dependent_schemas(Compiler *compiler, PaSchema *node, JsonbValue *value, const char *path)
{
	node->dependent_schemas = properties_of(compiler, value, path, &node->n_dependent_schemas);
}

/* The keywords; others are ignored, as the draft says. */
static const struct
{
	const char *name;
	ReadKeyword read;
}			keywords[] =
{
	{"$defs", read_defs},
	{"$dynamicRef", refuse_dynamic},
	{"$ref", read_reference},
	{"additionalProperties", read_additional_properties},
	{"allOf", read_all_of},
	{"anyOf", read_any_of},
	{"const", read_const},
	{"contains", read_contains},
	{"contentSchema", read_content_schema},
	{"dependentRequired", read_dependencies},
	{"dependentSchemas", read_dependent_schemas},
	{"else", read_else},
	{"enum", read_enum},
	{"exclusiveMaximum", read_exclusive_maximum},
	{"exclusiveMinimum", read_exclusive_minimum},
	{"format", read_format},
	{"if", read_if},
	{"items", read_items},
	{"maxContains", read_max_contains},
	{"maxItems", read_max_items},
	{"maxLength", read_max_length},
	{"maxProperties", read_max_properties},
	{"maximum", read_maximum},
	{"minContains", read_min_contains},
	{"minItems", read_min_items},
	{"minLength", read_min_length},
	{"minProperties", read_min_properties},
	{"minimum", read_minimum},
	{"multipleOf", read_multiple_of},
	{"not", read_not},
	{"oneOf", read_one_of},
	{"pattern", read_pattern},
	{"patternProperties", read_pattern_properties},
	{"prefixItems", read_prefix_items},
	{"properties", read_properties},
	{"propertyNames", read_property_names},
	{"required", read_required},
	{"then", read_then},
	{"type", read_type},
	{"unevaluatedItems", read_unevaluated_items},
	{"unevaluatedProperties", read_unevaluated_properties},
	{"uniqueItems", read_unique_items}
};

/*
 * compare_members orders members by their names, for qsort.
 */
static int
compare_members(const void *a, const void *b)
{
	return pa_compare_names(((const PaMember *) a)->name, ((const PaMember *) b)->name);
}

/*
 * merge_members brings "properties" and "required" together, so that each property of a document is
 * looked up once.  The properties are in order already, being the keys of an object.
 */
static void
merge_members(PaSchema *node)
{
	PaMember   *members = palloc0(sizeof(PaMember) * (node->n_properties + node->required.count + 1));
	int			count = node->n_properties;

	for (int i = 0; i < node->n_properties; i++)
	{
		members[i].name = node->properties[i].name;
		members[i].schema = node->properties[i].schema;
	}
	for (int i = 0; i < node->required.count; i++)
	{
		PaMember	wanted = {node->required.names[i], NULL, true};
		PaMember   *named = bsearch(&wanted, members, node->n_properties, sizeof(PaMember), compare_members);

		if (named)
			named->required = true;
		else
			members[count++] = wanted;
	}
	qsort(members, count, sizeof(PaMember), compare_members);

	node->n_members = count;
	node->members = members;
}

/*
 * asks_of sums up what a schema asks for.
 */
static int
asks_of(const PaSchema *node)
{
	int			asks = 0;

	if (node->is_target || node->reference || node->all_of.count > 0 || node->any_of.count > 0 || node->one_of.count > 0 ||
		node->not || node->condition || node->n_dependent_schemas > 0 ||
		node->unevaluated_items || node->unevaluated_properties)
		asks |= PA_ASKS_HERE;
	if (node->constant || node->enumeration)
		asks |= PA_ASKS_CHOICE;
	if (node->multiple_of || node->maximum || node->minimum || node->exclusive_maximum || node->exclusive_minimum)
		asks |= PA_ASKS_NUMBER;
	if (node->max_length >= 0 || node->min_length >= 0 || node->regex || node->format)
		asks |= PA_ASKS_STRING;
	if (node->prefix_items.count > 0 || node->items || node->contains || node->max_items >= 0 || node->min_items >= 0 ||
		node->unique_items)
		asks |= PA_ASKS_ARRAY;
	if (node->n_pattern_properties > 0 || node->additional_properties || node->property_names)
		asks |= PA_ASKS_OBJECT | PA_ASKS_ALL_MEMBERS;
	if (node->n_members > 0 || node->n_dependencies > 0 || node->n_dependent_schemas > 0 ||
		node->max_properties >= 0 || node->min_properties >= 0)
		asks |= PA_ASKS_OBJECT;

	return asks;
}

/*
 * refuse_cycles refuses schemas that every document would meet without end: those that $ref or allOf leads back to
 * themselves, at the same value.  Where that depends on the document it is told when a document meets it.
 */
static void
refuse_cycles(Compiler *compiler, PaSchema *node)
{
	check_stack_depth();

	if (node == NULL || node->is_visited)
		return;
	if (node->is_entered)
	{
		pa_complain(compiler, node->path, "the schema refers to itself without end");
		return;
	}

	node->is_entered = true;
	refuse_cycles(compiler, node->reference);
	for (int i = 0; i < node->all_of.count; i++)
		refuse_cycles(compiler, node->all_of.schemas[i]);
	node->is_visited = true;
}

/*
 * finish_nodes prepares the nodes for the walk, once all of them are there.
 */
static void
finish_nodes(Compiler *compiler)
{
	HASH_SEQ_STATUS scan;
	SchemaNode *entry;

	hash_seq_init(&scan, compiler->nodes);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		refuse_cycles(compiler, entry->schema);
		merge_members(entry->schema);
		entry->schema->asks = asks_of(entry->schema);
	}
}

/*
 * hash_path and compare_paths let the table of nodes be looked up by path.
 */
static uint32
hash_path(const void *key, Size size)
{
	const char *path = *(const char *const *) key;

	return hash_bytes((const unsigned char *) path, strlen(path));
}

static int
compare_paths(const void *a, const void *b, Size size)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/*
 * make_node_table makes the table of nodes.
 */
static HTAB *
make_node_table(void)
{
	HASHCTL		control = {0};

	control.keysize = sizeof(char *);
	control.entrysize = sizeof(SchemaNode);
	control.hash = hash_path;
	control.match = compare_paths;
	control.hcxt = CurrentMemoryContext;

	return hash_create("nodes of a JSON Schema", 64, &control,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

/*
 * node_of finds the node of a place; *is_new tells that it was not there and has been made, without
 * any keyword.
 */
static PaSchema *
node_of(Compiler *compiler, const char *path, bool *is_new)
{
	SchemaNode *entry = hash_search(compiler->nodes, &path, HASH_FIND, NULL);
	PaSchema   *schema;

	*is_new = (entry == NULL);
	if (entry)
		return entry->schema;

	schema = palloc0(sizeof(PaSchema));
	schema->path = pstrdup(path);
	schema->max_length = schema->min_length = -1;
	schema->max_items = schema->min_items = -1;
	schema->max_contains = schema->min_contains = -1;
	schema->max_properties = schema->min_properties = -1;

	entry = hash_search(compiler->nodes, &schema->path, HASH_ENTER, NULL);
	entry->schema = schema;

	return schema;
}

/*
 * compile_at makes the node of the schema that stands at a place.
 */
static PaSchema *
compile_at(Compiler *compiler, JsonbValue *value, const char *path)
{
	bool		is_new;
	PaSchema   *node = node_of(compiler, path, &is_new);

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();

	if (!is_new)
		return node;

	if (value->type == jbvBool)
		node->is_false = !value->val.boolean;
	else if (!pa_is_object(value))
		pa_complain(compiler, node->path, "a schema is an object or a boolean");
	else
		for (int i = 0; i < (int) lengthof(keywords); i++)
		{
			JsonbValue *found = pa_child(value, keywords[i].name);

			if (found)
				keywords[i].read(compiler, node, found, pa_pointer_append(path, pa_literal(keywords[i].name)));
		}

	return node;
}

/*
 * pa_compile_schema compiles a schema in the current memory context.  What is wrong with it is told
 * in *problem, and the result is NULL then.  The schema must live as long as the result.  Formats are
 * annotations unless they are to be asserted.
 */
PaSchema *
pa_compile_schema(Jsonb *schema, bool assert_formats, PaSchemaProblem *problem)
{
	Compiler	compiler = {0};
	PaSchema   *node;

	problem->path = NULL;
	problem->message = NULL;
	compiler.problem = problem;
	compiler.assert_formats = assert_formats;
	compiler.nodes = make_node_table();
	pa_root_value(schema, &compiler.root);

	pa_identify(&compiler, pstrdup(""), "");
	pa_scan_schema(&compiler, &compiler.root, "", "");
	node = compile_at(&compiler, &compiler.root, "");
	if (problem->path == NULL)
		finish_nodes(&compiler);
	hash_destroy(compiler.nodes);

	return problem->path ? NULL : node;
}
