/*
 * validation_eval.c
 *		Walking a document along a compiled schema.
 *
 * A walk either only answers yes or no, and stops at the first error, or collects errors; whether a
 * schema inside anyOf, oneOf, not, if or contains applies is always found out by a walk that only
 * answers.
 */
#include "prod_analytics.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "validation.h"

/* Where in the document a value stands; NULL is the document. */
typedef struct Location
{
	const struct Location *parent;
	PaName		key;			/* of an object; text is NULL in an array */
	int			index;			/* in an array */
} Location;

/*
 * Which properties or items of a value some schema has looked at, for the unevaluated keywords.
 */
typedef struct Evaluated
{
	int			count;
	bool	   *seen;			/* one for each property or item */
} Evaluated;

/* A schema that is being applied to the value at hand. */
typedef struct Active
{
	const struct Active *outer;
	PaSchema   *schema;
} Active;

/* A walk. */
typedef struct Walk
{
	bool		collect;		/* errors, rather than an answer */
	List	   *errors;			/* of PaValidationError */
} Walk;

/* A value of the document on the way. */
typedef struct Place
{
	const JsonbValue *value;
	const Location *location;
	const Active *active;		/* schemas being applied to this very value */
} Place;

static bool apply(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated);

/*
 * is_integer tells whether a number is whole.
 */
static bool
is_integer(Numeric number)
{
	Datum		whole = DirectFunctionCall2(numeric_trunc, NumericGetDatum(number), Int32GetDatum(0));

	return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(number), whole));
}

/*
 * types_of are the bits of the types that a value has.
 */
static int
types_of(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return PA_TYPE_NULL;
		case jbvBool:
			return PA_TYPE_BOOLEAN;
		case jbvNumeric:
			return PA_TYPE_NUMBER;
		case jbvString:
			return PA_TYPE_STRING;
		default:
			return JsonContainerIsObject(value->val.binary.data) ? PA_TYPE_OBJECT : PA_TYPE_ARRAY;
	}
}

/*
 * instance_path is a location as a JSON Pointer.
 */
static char *
instance_path(const Location *location)
{
	PaName		token;

	check_stack_depth();
	if (location == NULL)
		return pstrdup("");

	token = location->key;
	if (token.text == NULL)
	{
		token.text = psprintf("%d", location->index);
		token.length = strlen(token.text);
	}

	return pa_pointer_append(instance_path(location->parent), token);
}

/*
 * fail says that a value does not satisfy a keyword; the result is false, for the caller to return.
 */
static bool
fail(Walk *walk, PaSchema *schema, const Place *place, const char *keyword, const char *message)
{
	PaValidationError *error;

	if (!walk->collect || list_length(walk->errors) >= PA_MAX_VALIDATION_ERRORS)
		return false;

	error = palloc(sizeof(PaValidationError));
	error->instance_path = instance_path(place->location);
	error->keyword = keyword;
	error->schema_path = (strcmp(keyword, "false") == 0) ? pstrdup(schema->path) : psprintf("%s/%s", schema->path, keyword);
	error->message = pstrdup(message);
	walk->errors = lappend(walk->errors, error);

	return false;
}

/* A failure whose message is built only if somebody wants it. */
#define FAIL(keyword, message) \
	fail(walk, schema, place, keyword, walk->collect ? (message) : NULL)

/* Goes on after a failure if errors are collected. */
#define MUST(condition) \
	do { \
		if (!(condition)) \
		{ \
			if (!walk->collect) \
				return false; \
			valid = false; \
		} \
	} while (0)

/*
 * new_evaluated is what nobody has looked at yet.
 */
static Evaluated *
new_evaluated(const JsonbValue *value)
{
	Evaluated  *evaluated = palloc(sizeof(Evaluated));

	evaluated->count = (value->type == jbvBinary) ? (int) JsonContainerSize(value->val.binary.data) : 0;
	evaluated->seen = palloc0(sizeof(bool) * (evaluated->count + 1));

	return evaluated;
}

/*
 * add_evaluated adds what one schema has looked at to what others have.
 */
static void
add_evaluated(Evaluated *to, const Evaluated *from)
{
	for (int i = 0; to && i < from->count; i++)
		to->seen[i] |= from->seen[i];
}

/*
 * see says that a property or item has been looked at.
 */
static void
see(Evaluated *evaluated, int i)
{
	if (evaluated)
		evaluated->seen[i] = true;
}

/*
 * apply_here applies another schema to the same value.  What it looked at counts only if the value
 * satisfies it.
 */
static bool
apply_here(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	Evaluated  *own = evaluated ? new_evaluated(place->value) : NULL;

	if (!apply(walk, schema, place, own))
		return false;
	if (own)
		add_evaluated(evaluated, own);

	return true;
}

/*
 * holds tells whether a value satisfies another schema, without collecting errors.
 */
static bool
holds(PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	Walk		walk = {false, NIL};

	return apply_here(&walk, schema, place, evaluated);
}

/*
 * apply_combined applies allOf, anyOf, oneOf and not.
 */
static bool
apply_combined(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	bool		valid = true;
	int			matches = 0;

	for (int i = 0; i < schema->all_of.count; i++)
		MUST(apply_here(walk, schema->all_of.schemas[i], place, evaluated));

	for (int i = 0; i < schema->any_of.count; i++)
	{
		matches += holds(schema->any_of.schemas[i], place, evaluated);
		/* The others matter only for what they look at. */
		if (matches > 0 && evaluated == NULL)
			break;
	}
	if (schema->any_of.count > 0)
		MUST(matches > 0 || FAIL("anyOf", psprintf("%s satisfies none of %d schemas",
												   pa_describe_value(place->value), schema->any_of.count)));

	matches = 0;
	for (int i = 0; i < schema->one_of.count; i++)
		matches += holds(schema->one_of.schemas[i], place, evaluated);
	if (schema->one_of.count > 0)
		MUST(matches == 1 || FAIL("oneOf", psprintf("%s satisfies %d of %d schemas, and must satisfy one",
													pa_describe_value(place->value), matches, schema->one_of.count)));

	if (schema->not)
		MUST(!holds(schema->not, place, NULL) ||
			 FAIL("not", psprintf("%s satisfies a schema that it must not", pa_describe_value(place->value))));

	return valid;
}

/*
 * apply_condition applies if, then and else.
 */
static bool
apply_condition(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	PaSchema   *branch;

	if (schema->condition == NULL)
		return true;

	branch = holds(schema->condition, place, evaluated) ? schema->consequence : schema->alternative;

	return branch == NULL || apply_here(walk, branch, place, evaluated);
}

/*
 * check_any checks what can be asked of any value.
 */
static bool
check_any(Walk *walk, PaSchema *schema, const Place *place)
{
	const JsonbValue *value = place->value;
	bool		valid = true;

	if (schema->types != 0)
		MUST((types_of(value) & schema->types) != 0 ||
			 (value->type == jbvNumeric && (schema->types & PA_TYPE_INTEGER) && is_integer(value->val.numeric)) ||
			 FAIL("type", psprintf("%s is not of type %s", pa_describe_value(value), pa_type_names(schema->types))));

	if (schema->constant)
		MUST(pa_compare_values(value, schema->constant) == 0 ||
			 FAIL("const", psprintf("%s is not %s", pa_describe_value(value), pa_describe_value(schema->constant))));

	if (schema->enumeration)
	{
		JsonbContainer *choices = schema->enumeration->val.binary.data;
		bool		found = false;

		for (uint32 i = 0; i < JsonContainerSize(choices) && !found; i++)
			found = pa_compare_values(value, getIthJsonbValueFromContainer(choices, i)) == 0;
		MUST(found || FAIL("enum", psprintf("%s is not one of %s", pa_describe_value(value), pa_describe_value(schema->enumeration))));
	}

	return valid;
}

/*
 * compare orders two numbers.
 */
static int
compare(Numeric a, Numeric b)
{
	return DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(a), NumericGetDatum(b)));
}

/*
 * is_multiple tells whether a number is a multiple of another.
 */
static bool
is_multiple(Numeric number, Numeric of)
{
	Datum		rest = DirectFunctionCall2(numeric_mod, NumericGetDatum(number), NumericGetDatum(of));

	return compare(DatumGetNumeric(rest), DatumGetNumeric(DirectFunctionCall1(int8_numeric, Int64GetDatum(0)))) == 0;
}

/*
 * show prints a number of the schema.
 */
static char *
show(Numeric number)
{
	return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(number)));
}

static bool
check_number(Walk *walk, PaSchema *schema, const Place *place)
{
	Numeric		number = place->value->val.numeric;
	bool		valid = true;

	if (schema->maximum)
		MUST(compare(number, schema->maximum) <= 0 ||
			 FAIL("maximum", psprintf("%s is greater than %s", pa_describe_value(place->value), show(schema->maximum))));
	if (schema->minimum)
		MUST(compare(number, schema->minimum) >= 0 ||
			 FAIL("minimum", psprintf("%s is less than %s", pa_describe_value(place->value), show(schema->minimum))));
	if (schema->exclusive_maximum)
		MUST(compare(number, schema->exclusive_maximum) < 0 ||
			 FAIL("exclusiveMaximum", psprintf("%s is not less than %s", pa_describe_value(place->value), show(schema->exclusive_maximum))));
	if (schema->exclusive_minimum)
		MUST(compare(number, schema->exclusive_minimum) > 0 ||
			 FAIL("exclusiveMinimum", psprintf("%s is not greater than %s", pa_describe_value(place->value), show(schema->exclusive_minimum))));
	if (schema->multiple_of)
		MUST(is_multiple(number, schema->multiple_of) ||
			 FAIL("multipleOf", psprintf("%s is not a multiple of %s", pa_describe_value(place->value), show(schema->multiple_of))));

	return valid;
}

/*
 * count_message says that there are too few or too many of something.
 */
static char *
count_message(const Place *place, int64 count, const char *what, const char *relation, int64 limit)
{
	return psprintf("%s has " INT64_FORMAT " %s, %s " INT64_FORMAT,
					pa_describe_value(place->value), count, what, relation, limit);
}

static bool
check_string(Walk *walk, PaSchema *schema, const Place *place)
{
	PaName		text = {place->value->val.string.val, place->value->val.string.len};
	bool		valid = true;
	int64		length;

	if (schema->max_length >= 0 || schema->min_length >= 0)
	{
		length = pg_mbstrlen_with_len(text.text, text.length);
		if (schema->max_length >= 0)
			MUST(length <= schema->max_length ||
				 FAIL("maxLength", count_message(place, length, "characters", "more than", schema->max_length)));
		if (schema->min_length >= 0)
			MUST(length >= schema->min_length ||
				 FAIL("minLength", count_message(place, length, "characters", "fewer than", schema->min_length)));
	}
	if (schema->regex)
		MUST(pa_regex_matches(schema->regex, text) ||
			 FAIL("pattern", psprintf("%s does not match \"%.*s\"", pa_describe_value(place->value),
									  Min(schema->pattern.length, 200), schema->pattern.text)));

	return valid;
}

/*
 * unpack lists the items of an array, or the values of an object with their keys.
 */
static JsonbValue *
unpack(const JsonbValue *value, JsonbValue **keys)
{
	JsonbContainer *container = value->val.binary.data;
	int			size = JsonContainerSize(container);
	JsonbValue *values = palloc(sizeof(JsonbValue) * (size + 1));
	JsonbIterator *iterator = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue	next;
	int			n_values = 0;
	int			n_keys = 0;

	if (keys)
		*keys = palloc(sizeof(JsonbValue) * (size + 1));
	(void) JsonbIteratorNext(&iterator, &next, false);
	while ((token = JsonbIteratorNext(&iterator, &next, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			(*keys)[n_keys++] = next;
		else if (token == WJB_VALUE || token == WJB_ELEM)
			values[n_values++] = next;
	}

	return values;
}

/*
 * apply_item applies a schema to an item of an array.
 */
static bool
apply_item(Walk *walk, PaSchema *schema, const Place *place, const JsonbValue *item, int index)
{
	Location	location = {place->location, {NULL, 0}, index};
	Place		inside = {item, &location, NULL};

	return apply(walk, schema, &inside, NULL);
}

/*
 * check_contains applies contains, minContains and maxContains.
 */
static bool
check_contains(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated,
			   const JsonbValue *items, int count)
{
	int64		least = schema->min_contains >= 0 ? schema->min_contains : 1;
	int64		found = 0;
	bool		valid = true;
	Walk		quiet = {false, NIL};

	if (schema->contains == NULL)
		return true;

	for (int i = 0; i < count; i++)
		if (apply_item(&quiet, schema->contains, place, &items[i], i))
		{
			found++;
			see(evaluated, i);
		}

	MUST(found >= least ||
		 FAIL(schema->min_contains >= 0 ? "minContains" : "contains",
			  psprintf("%s has " INT64_FORMAT " items that satisfy contains, fewer than " INT64_FORMAT,
					   pa_describe_value(place->value), found, least)));
	if (schema->max_contains >= 0)
		MUST(found <= schema->max_contains ||
			 FAIL("maxContains",
				  psprintf("%s has " INT64_FORMAT " items that satisfy contains, more than " INT64_FORMAT,
						   pa_describe_value(place->value), found, schema->max_contains)));

	return valid;
}

static bool
check_array(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	int			count = JsonContainerSize(place->value->val.binary.data);
	JsonbValue *items;
	bool		valid = true;

	if (schema->max_items >= 0)
		MUST(count <= schema->max_items || FAIL("maxItems", count_message(place, count, "items", "more than", schema->max_items)));
	if (schema->min_items >= 0)
		MUST(count >= schema->min_items || FAIL("minItems", count_message(place, count, "items", "fewer than", schema->min_items)));

	if (!schema->unique_items && schema->prefix_items.count == 0 && !schema->items && !schema->contains)
		return valid;

	items = unpack(place->value, NULL);
	if (schema->unique_items)
		MUST(!pa_has_repetition(items, count) || FAIL("uniqueItems", psprintf("%s has equal items", pa_describe_value(place->value))));

	for (int i = 0; i < count; i++)
	{
		PaSchema   *item = (i < schema->prefix_items.count) ? schema->prefix_items.schemas[i] : schema->items;

		CHECK_FOR_INTERRUPTS();
		if (item == NULL)
			break;
		MUST(apply_item(walk, item, place, &items[i], i));
		see(evaluated, i);
	}
	MUST(check_contains(walk, schema, place, evaluated, items, count));

	return valid;
}

/*
 * has tells whether an object has a property.
 */
static bool
has(const Place *place, PaName name)
{
	JsonbValue	unused;

	return getKeyJsonValueFromContainer(place->value->val.binary.data, name.text, name.length, &unused) != NULL;
}

/*
 * check_names checks which properties an object has.
 */
static bool
check_names(Walk *walk, PaSchema *schema, const Place *place)
{
	int			count = JsonContainerSize(place->value->val.binary.data);
	bool		valid = true;

	if (schema->max_properties >= 0)
		MUST(count <= schema->max_properties ||
			 FAIL("maxProperties", count_message(place, count, "properties", "more than", schema->max_properties)));
	if (schema->min_properties >= 0)
		MUST(count >= schema->min_properties ||
			 FAIL("minProperties", count_message(place, count, "properties", "fewer than", schema->min_properties)));

	for (int i = 0; i < schema->required.count; i++)
	{
		PaName		name = schema->required.names[i];

		MUST(has(place, name) || FAIL("required", psprintf("property \"%.*s\" is missing", name.length, name.text)));
	}

	for (int i = 0; i < schema->n_dependencies; i++)
	{
		PaDependency *dependency = &schema->dependencies[i];

		for (int j = 0; j < dependency->required.count && has(place, dependency->name); j++)
		{
			PaName		name = dependency->required.names[j];

			MUST(has(place, name) ||
				 FAIL("dependentRequired", psprintf("property \"%.*s\" is missing, which \"%.*s\" requires",
													name.length, name.text, dependency->name.length, dependency->name.text)));
		}
	}

	return valid;
}

/*
 * apply_property applies a schema to a property of an object.
 */
static bool
apply_property(Walk *walk, PaSchema *schema, const Place *place, PaName name, const JsonbValue *value)
{
	Location	location = {place->location, name, 0};
	Place		inside = {value, &location, NULL};

	return apply(walk, schema, &inside, NULL);
}

/*
 * find_property finds the schema of a property.
 */
static PaSchema *
find_property(PaSchema *schema, PaName name)
{
	for (int i = 0; i < schema->n_properties; i++)
		if (schema->properties[i].name.length == name.length &&
			memcmp(schema->properties[i].name.text, name.text, name.length) == 0)
			return schema->properties[i].schema;

	return NULL;
}

/*
 * check_property applies to one property whatever the schema says of it.
 */
static bool
check_property(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated,
			   int index, const JsonbValue *key, const JsonbValue *value)
{
	PaName		name = {key->val.string.val, key->val.string.len};
	PaSchema   *own = find_property(schema, name);
	bool		matched = own != NULL;
	bool		valid = true;

	if (schema->property_names)
	{
		Location	location = {place->location, name, 0};
		Place		as_value = {key, &location, NULL};

		MUST(apply(walk, schema->property_names, &as_value, NULL));
	}

	if (own)
		MUST(apply_property(walk, own, place, name, value));
	for (int i = 0; i < schema->n_pattern_properties; i++)
		if (pa_regex_matches(schema->pattern_properties[i].regex, name))
		{
			matched = true;
			MUST(apply_property(walk, schema->pattern_properties[i].schema, place, name, value));
		}

	if (!matched && schema->additional_properties)
	{
		matched = true;
		if (schema->additional_properties->is_false)
			MUST(FAIL("additionalProperties", psprintf("property \"%.*s\" is not allowed", name.length, name.text)));
		else
			MUST(apply_property(walk, schema->additional_properties, place, name, value));
	}

	if (matched)
		see(evaluated, index);

	return valid;
}

static bool
check_object(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	JsonbContainer *container = place->value->val.binary.data;
	int			count = JsonContainerSize(container);
	bool		valid = true;

	MUST(check_names(walk, schema, place));

	for (int i = 0; i < schema->n_dependent_schemas; i++)
		if (has(place, schema->dependent_schemas[i].name))
			MUST(apply_here(walk, schema->dependent_schemas[i].schema, place, evaluated));

	if (evaluated || schema->additional_properties || schema->n_pattern_properties > 0 || schema->property_names)
	{
		JsonbValue *keys;
		JsonbValue *values = unpack(place->value, &keys);

		for (int i = 0; i < count; i++)
			MUST(check_property(walk, schema, place, evaluated, i, &keys[i], &values[i]));
		return valid;
	}

	/* The common case: look the properties up that the schema names, and no others. */
	for (int i = 0; i < schema->n_properties; i++)
	{
		PaName		name = schema->properties[i].name;
		JsonbValue	value;

		if (getKeyJsonValueFromContainer(container, name.text, name.length, &value))
			MUST(apply_property(walk, schema->properties[i].schema, place, name, &value));
	}

	return valid;
}

/*
 * check_unevaluated applies the unevaluated keywords to what no other schema has looked at.
 */
static bool
check_unevaluated(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	bool		is_object = (types_of(place->value) == PA_TYPE_OBJECT);
	PaSchema   *rest = is_object ? schema->unevaluated_properties : schema->unevaluated_items;
	JsonbValue *keys = NULL;
	JsonbValue *values;
	bool		valid = true;

	if (rest == NULL || place->value->type != jbvBinary)
		return true;

	values = unpack(place->value, is_object ? &keys : NULL);
	for (int i = 0; i < evaluated->count; i++)
	{
		Location	location = {place->location, {NULL, 0}, i};
		Place		inside = {&values[i], &location, NULL};

		if (evaluated->seen[i])
			continue;
		if (is_object)
		{
			location.key.text = keys[i].val.string.val;
			location.key.length = keys[i].val.string.len;
		}
		if (rest->is_false)
			MUST(FAIL(is_object ? "unevaluatedProperties" : "unevaluatedItems",
					  is_object ? psprintf("property \"%.*s\" is not allowed", location.key.length, location.key.text) :
					  psprintf("item %d is not allowed", i)));
		else
			MUST(apply(walk, rest, &inside, NULL));
		evaluated->seen[i] = true;
	}

	return valid;
}

/*
 * enter refuses to apply a schema to a value to which it is being applied already: that would go on
 * for ever.
 */
static void
enter(PaSchema *schema, const Active *active)
{
	for (; active; active = active->outer)
		if (active->schema == schema)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("schema at \"%s\" refers to itself without end", schema->path),
					 errdetail("Its references lead back to it without going deeper into the document.")));
}

/*
 * apply applies a schema to a value.  "evaluated" (unless NULL) gets what it looks at.
 */
static bool
apply(Walk *walk, PaSchema *schema, const Place *outside, Evaluated *evaluated)
{
	Active		active = {outside->active, schema};
	Place		here = {outside->value, outside->location, &active};
	const Place *place = &here;
	bool		valid = true;
	bool		unevaluated = schema->unevaluated_properties || schema->unevaluated_items;
	Evaluated  *own = unevaluated ? new_evaluated(place->value) : evaluated;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	enter(schema, outside->active);

	if (schema->is_false)
		return FAIL("false", psprintf("%s is not allowed here", pa_describe_value(place->value)));

	if (schema->reference)
		MUST(apply_here(walk, schema->reference, place, own));
	MUST(apply_combined(walk, schema, place, own));
	MUST(apply_condition(walk, schema, place, own));
	MUST(check_any(walk, schema, place));

	if (place->value->type == jbvNumeric)
		MUST(check_number(walk, schema, place));
	else if (place->value->type == jbvString)
		MUST(check_string(walk, schema, place));
	else if (types_of(place->value) == PA_TYPE_ARRAY)
		MUST(check_array(walk, schema, place, own));
	else if (types_of(place->value) == PA_TYPE_OBJECT)
		MUST(check_object(walk, schema, place, own));

	if (unevaluated)
	{
		MUST(check_unevaluated(walk, schema, place, own));
		add_evaluated(evaluated, own);
	}

	return valid;
}

/*
 * pa_matches tells whether a document satisfies a schema.
 */
bool
pa_matches(PaSchema *schema, Jsonb *instance)
{
	Walk		walk = {false, NIL};
	JsonbValue	value;
	Place		place = {&value, NULL, NULL};

	pa_root_value(instance, &value);

	return apply(&walk, schema, &place, NULL);
}

/*
 * pa_validation_errors lists what is wrong with a document, as PaValidationError.
 */
List *
pa_validation_errors(PaSchema *schema, Jsonb *instance)
{
	Walk		walk = {true, NIL};
	JsonbValue	value;
	Place		place = {&value, NULL, NULL};

	pa_root_value(instance, &value);
	(void) apply(&walk, schema, &place, NULL);

	return walk.errors;
}
