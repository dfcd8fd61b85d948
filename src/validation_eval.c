/*
 * validation_eval.c
 *		Walking a document along a compiled schema.
 *
 * A walk either only answers yes or no, and stops at the first error, or collects errors; whether a
 * schema inside anyOf, oneOf, not, if or contains applies is always found out by a walk that only
 * answers.
 *
 * The document is read where it lies; nothing is allocated for a value but what errors and the
 * unevaluated keywords need.
 */
#include "prod_analytics.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "validation_eval.h"

/* How many bytes of a property's name a message shows. */
#define SHOWN_NAME 200

/*
 * Which properties or items of a value some schema has looked at, for the unevaluated keywords.
 */
typedef struct Evaluated
{
	int			count;
	bool	   *seen;			/* one for each property or item */
} Evaluated;

static bool apply(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated);

/*
 * is_object and is_array tell the types of containers.
 */
static inline bool
is_object(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

static inline bool
is_array(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
}

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
 * forget_evaluated frees it.
 */
static void
forget_evaluated(Evaluated *evaluated)
{
	if (evaluated)
	{
		pfree(evaluated->seen);
		pfree(evaluated);
	}
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
static inline void
see(Evaluated *evaluated, int i)
{
	if (evaluated)
		evaluated->seen[i] = true;
}

/*
 * apply_too applies another schema to the same value.  What it looked at counts only if the value
 * satisfies it; also if it does not where errors are collected, so that what has an error there is not
 * told to be unevaluated, too.
 */
static bool
apply_too(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	Evaluated  *own = evaluated ? new_evaluated(place->value) : NULL;
	bool		valid = apply(walk, schema, place, own);

	if (own && (valid || walk->collect))
		add_evaluated(evaluated, own);
	forget_evaluated(own);

	return valid;
}

/*
 * holds tells whether a value satisfies another schema, without collecting errors.
 */
static bool
holds(PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	Walk		walk = {false, NIL};

	return apply_too(&walk, schema, place, evaluated);
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
		MUST(apply_too(walk, schema->all_of.schemas[i], place, evaluated));

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

	return branch == NULL || apply_too(walk, branch, place, evaluated);
}

/*
 * apply_inside applies a schema to a property or an item.
 */
static inline bool
apply_inside(Walk *walk, PaSchema *schema, const Place *place, PaName key, int index, const JsonbValue *value)
{
	Location	location = {place->location, key, index};
	Place		inside = {value, &location, NULL};

	return apply(walk, schema, &inside, NULL);
}

/* The key of what is in an array. */
static const PaName no_key = {NULL, 0};

/*
 * check_contains applies contains, minContains and maxContains.
 */
static bool
check_contains(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	int64		least = schema->min_contains >= 0 ? schema->min_contains : 1;
	int64		found = 0;
	bool		valid = true;
	Walk		quiet = {false, NIL};
	PaCursor	items;
	JsonbValue	item;

	pa_read_elements(&items, place->value->val.binary.data);
	for (int i = 0; pa_next(&items, &item); i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (apply_inside(&quiet, schema->contains, place, no_key, i, &item))
		{
			found++;
			see(evaluated, i);
		}
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

/*
 * check_array checks what is asked of an array.
 */
static bool
check_array(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	JsonbContainer *container = place->value->val.binary.data;
	int			count = JsonContainerSize(container);
	bool		valid = true;
	PaCursor	items;
	JsonbValue	item;

	if (schema->max_items >= 0)
		MUST(count <= schema->max_items || FAIL("maxItems", pa_count_message(place, count, "items", "more than", schema->max_items)));
	if (schema->min_items >= 0)
		MUST(count >= schema->min_items || FAIL("minItems", pa_count_message(place, count, "items", "fewer than", schema->min_items)));
	if (schema->unique_items)
		MUST(!pa_has_repetition(container) || FAIL("uniqueItems", psprintf("%s has equal items", pa_describe_value(place->value))));

	pa_read_elements(&items, container);
	for (int i = 0; i < schema->prefix_items.count || schema->items; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!pa_next(&items, &item))
			break;
		MUST(apply_inside(walk, i < schema->prefix_items.count ? schema->prefix_items.schemas[i] : schema->items,
						  place, no_key, i, &item));
		see(evaluated, i);
	}
	if (schema->contains)
		MUST(check_contains(walk, schema, place, evaluated));

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
 * check_size checks how many properties an object has, and which ones for the sake of others.
 */
static bool
check_size(Walk *walk, PaSchema *schema, const Place *place)
{
	int			count = JsonContainerSize(place->value->val.binary.data);
	bool		valid = true;

	if (schema->max_properties >= 0)
		MUST(count <= schema->max_properties ||
			 FAIL("maxProperties", pa_count_message(place, count, "properties", "more than", schema->max_properties)));
	if (schema->min_properties >= 0)
		MUST(count >= schema->min_properties ||
			 FAIL("minProperties", pa_count_message(place, count, "properties", "fewer than", schema->min_properties)));

	for (int i = 0; i < schema->n_dependencies; i++)
	{
		PaDependency *dependency = &schema->dependencies[i];

		for (int j = 0; j < dependency->required.count && has(place, dependency->name); j++)
		{
			PaName		name = dependency->required.names[j];

			MUST(has(place, name) ||
				 FAIL("dependentRequired", psprintf("property %s is missing, which %s requires", pa_describe_name(name, SHOWN_NAME),
													pa_describe_name(dependency->name, SHOWN_NAME))));
		}
	}

	return valid;
}

/*
 * check_property applies to one property whatever the schema says of it beside its member.
 */
static bool
check_property(Walk *walk, PaSchema *schema, const Place *place, PaName name, const JsonbValue *value, bool *matched)
{
	bool		valid = true;

	if (schema->property_names)
	{
		JsonbValue	key;

		key.type = jbvString;
		key.val.string.val = unconstify(char *, name.text);
		key.val.string.len = name.length;
		MUST(apply_inside(walk, schema->property_names, place, name, 0, &key));
	}

	for (int i = 0; i < schema->n_pattern_properties; i++)
		if (pa_regex_matches(schema->pattern_properties[i].regex, name))
		{
			*matched = true;
			MUST(apply_inside(walk, schema->pattern_properties[i].schema, place, name, 0, value));
		}

	if (!*matched && schema->additional_properties)
	{
		*matched = true;
		if (schema->additional_properties->is_false)
			MUST(FAIL("additionalProperties", psprintf("property %s is not allowed", pa_describe_name(name, SHOWN_NAME))));
		else
			MUST(apply_inside(walk, schema->additional_properties, place, name, 0, value));
	}

	return valid;
}

/*
 * check_absent says that a member that is not there is missing, if it is required.
 */
static inline bool
check_absent(Walk *walk, PaSchema *schema, const Place *place, const PaMember *member)
{
	return !member->required ||
		FAIL("required", psprintf("property %s is missing", pa_describe_name(member->name, SHOWN_NAME)));
}

/*
 * length_of_next is the length of the element that a cursor reads next.
 */
static inline uint32
length_of_next(const PaCursor *cursor)
{
	JEntry		entry = cursor->container->children[cursor->index];

	return JBE_HAS_OFF(entry) ? JBE_OFFLENFLD(entry) - cursor->offset : JBE_OFFLENFLD(entry);
}

/*
 * next_name reads the next key; false at the end.
 */
static inline bool
next_name(PaCursor *keys, PaName *name)
{
	if (keys->index >= keys->end)
		return false;

	name->text = keys->base + keys->offset;
	name->length = length_of_next(keys);
	keys->offset += name->length;
	keys->index++;

	return true;
}

/*
 * skip passes an element by.
 */
static inline void
skip(PaCursor *cursor)
{
	cursor->offset += length_of_next(cursor);
	cursor->index++;
}

/*
 * compare_names is pa_compare_names where every call counts.
 */
static inline int
compare_names(PaName a, PaName b)
{
	return a.length != b.length ? a.length - b.length : memcmp(a.text, b.text, a.length);
}

/*
 * check_each goes through the properties of an object and the members of the schema side by side: both
 * are in the same order.
 */
static bool
check_each(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	const PaMember *member = schema->members;
	const PaMember *last = schema->members + schema->n_members;
	bool		all = schema->asks & PA_ASKS_ALL_MEMBERS;
	bool		valid = true;
	PaCursor	keys;
	PaCursor	values;
	PaName		name;
	JsonbValue	value;

	pa_read_keys(&keys, place->value->val.binary.data);
	pa_read_values(&values, place->value->val.binary.data);
	for (int i = 0; (all || member < last) && next_name(&keys, &name); i++)
	{
		int			order = -1;
		PaSchema   *own = NULL;
		bool		matched;

		CHECK_FOR_INTERRUPTS();
		while (member < last && (order = compare_names(name, member->name)) > 0)
			MUST(check_absent(walk, schema, place, member++));
		if (member < last && order == 0)
			own = (member++)->schema;
		if (own == NULL && !all)
		{
			skip(&values);
			continue;
		}

		(void) pa_next(&values, &value);
		matched = (own != NULL);
		if (own)
			MUST(apply_inside(walk, own, place, name, 0, &value));
		if (all)
			MUST(check_property(walk, schema, place, name, &value, &matched));
		if (matched)
			see(evaluated, i);
	}
	for (; member < last; member++)
		MUST(check_absent(walk, schema, place, member));

	return valid;
}

/*
 * check_named looks up the members of the schema in an object, for objects that are much larger than
 * the schema.
 */
static bool
check_named(Walk *walk, PaSchema *schema, const Place *place)
{
	bool		valid = true;

	for (const PaMember *member = schema->members; member < schema->members + schema->n_members; member++)
	{
		JsonbValue	value;

		if (!getKeyJsonValueFromContainer(place->value->val.binary.data, member->name.text, member->name.length, &value))
			MUST(check_absent(walk, schema, place, member));
		else if (member->schema)
			MUST(apply_inside(walk, member->schema, place, member->name, 0, &value));
	}

	return valid;
}

/*
 * check_object checks what is asked of an object.
 */
static bool
check_object(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	int			size = JsonContainerSize(place->value->val.binary.data);
	bool		valid = true;

	MUST(check_size(walk, schema, place));

	for (int i = 0; i < schema->n_dependent_schemas; i++)
		if (has(place, schema->dependent_schemas[i].name))
			MUST(apply_too(walk, schema->dependent_schemas[i].schema, place, evaluated));

	/* A look-up costs about as much as passing eight properties by. */
	if (!evaluated && !(schema->asks & PA_ASKS_ALL_MEMBERS) && size / 8 > schema->n_members)
		MUST(check_named(walk, schema, place));
	else
		MUST(check_each(walk, schema, place, evaluated));

	return valid;
}

/*
 * check_value checks what is asked of a value by itself and of what is inside it.
 */
static bool
check_value(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	const JsonbValue *value = place->value;
	bool		valid = true;

	MUST(pa_check_type(walk, schema, place));
	if (schema->asks & PA_ASKS_CHOICE)
		MUST(pa_check_choice(walk, schema, place));

	if (value->type == jbvNumeric && (schema->asks & PA_ASKS_NUMBER))
		MUST(pa_check_number(walk, schema, place));
	else if (value->type == jbvString && (schema->asks & PA_ASKS_STRING))
		MUST(pa_check_string(walk, schema, place));
	else if ((schema->asks & PA_ASKS_OBJECT) && is_object(value))
		MUST(check_object(walk, schema, place, evaluated));
	else if ((schema->asks & PA_ASKS_ARRAY) && is_array(value))
		MUST(check_array(walk, schema, place, evaluated));

	return valid;
}

/*
 * check_rest applies a schema to a property or item that no other schema has looked at.
 */
static bool
check_rest(Walk *walk, PaSchema *schema, const Place *place, PaName key, int index, const JsonbValue *value)
{
	PaSchema   *rest = key.text ? schema->unevaluated_properties : schema->unevaluated_items;

	if (!rest->is_false)
		return apply_inside(walk, rest, place, key, index, value);
	if (key.text)
		return FAIL("unevaluatedProperties", psprintf("property %s is not allowed", pa_describe_name(key, SHOWN_NAME)));

	return FAIL("unevaluatedItems", psprintf("item %d is not allowed", index));
}

/*
 * check_unevaluated applies the unevaluated keywords.
 */
static bool
check_unevaluated(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	bool		of_object = is_object(place->value);
	bool		valid = true;
	PaCursor	keys;
	PaCursor	values;
	JsonbValue	key;
	JsonbValue	value;

	if (place->value->type != jbvBinary || !(of_object ? schema->unevaluated_properties : schema->unevaluated_items))
		return true;

	if (of_object)
	{
		pa_read_keys(&keys, place->value->val.binary.data);
		pa_read_values(&values, place->value->val.binary.data);
	}
	else
		pa_read_elements(&values, place->value->val.binary.data);

	for (int i = 0; pa_next(&values, &value); i++)
	{
		PaName		name = no_key;

		CHECK_FOR_INTERRUPTS();
		if (of_object)
		{
			(void) pa_next(&keys, &key);
			name.text = key.val.string.val;
			name.length = key.val.string.len;
		}
		if (!evaluated->seen[i])
			MUST(check_rest(walk, schema, place, name, i, &value));
		evaluated->seen[i] = true;
	}

	return valid;
}

/*
 * refuse_loop refuses to apply a schema to a value to which it is being applied already: that would go
 * on for ever.
 */
static void
refuse_loop(PaSchema *schema, const Active *active)
{
	for (; active; active = active->outer)
		if (active->schema == schema)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("schema at \"%s\" refers to itself without end", schema->path),
					 errdetail("Its references lead back to it without going deeper into the document.")));
}

/*
 * apply_here applies a schema that applies others to the same value.
 */
static bool
apply_here(Walk *walk, PaSchema *schema, const Place *outside, Evaluated *evaluated)
{
	Active		active = {outside->active, schema};
	Place		here = {outside->value, outside->location, &active};
	const Place *place = &here;
	bool		valid = true;
	bool		unevaluated = schema->unevaluated_properties || schema->unevaluated_items;
	Evaluated  *own = unevaluated ? new_evaluated(place->value) : evaluated;

	refuse_loop(schema, outside->active);

	if (schema->reference)
		MUST(apply_too(walk, schema->reference, place, own));
	MUST(apply_combined(walk, schema, place, own));
	MUST(apply_condition(walk, schema, place, own));
	MUST(check_value(walk, schema, place, own));

	if (unevaluated)
	{
		MUST(check_unevaluated(walk, schema, place, own));
		add_evaluated(evaluated, own);
		forget_evaluated(own);
	}

	return valid;
}

/*
 * apply applies a schema to a value.  "evaluated" (unless NULL) gets what it looks at.
 */
static bool
apply(Walk *walk, PaSchema *schema, const Place *place, Evaluated *evaluated)
{
	if (schema->is_false)
		return FAIL("false", psprintf("%s is not allowed here", pa_describe_value(place->value)));

	/* Others lead no deeper. */
	if (schema->asks & (PA_ASKS_HERE | PA_ASKS_OBJECT | PA_ASKS_ARRAY))
	{
		check_stack_depth();
		CHECK_FOR_INTERRUPTS();
	}

	return (schema->asks & PA_ASKS_HERE) ? apply_here(walk, schema, place, evaluated) :
		check_value(walk, schema, place, evaluated);
}

/*
 * walk_document applies a schema to a document.
 */
static bool
walk_document(Walk *walk, PaSchema *schema, Jsonb *instance)
{
	JsonbValue	value;
	Place		place = {&value, NULL, NULL};

	pa_root_value(instance, &value);

	return apply(walk, schema, &place, NULL);
}

/*
 * pa_matches tells whether a document satisfies a schema.
 */
bool
pa_matches(PaSchema *schema, Jsonb *instance)
{
	Walk		walk = {false, NIL};

	return walk_document(&walk, schema, instance);
}

/*
 * pa_validation_errors lists what is wrong with a document, as PaValidationError.
 */
List *
pa_validation_errors(PaSchema *schema, Jsonb *instance)
{
	Walk		walk = {true, NIL};

	(void) walk_document(&walk, schema, instance);

	return walk.errors;
}
