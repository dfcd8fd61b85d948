/*
 * validation_check.c
 *		What a schema asks of a value by itself: its type, choices, numbers, strings.
 */
#include "prod_analytics.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "validation_eval.h"

/* How many bytes of a pattern a message shows. */
#define SHOWN_PATTERN 200

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
 * pa_fail says that a value does not satisfy a keyword; the result is false, for the caller to return.
 */
bool
pa_fail(Walk *walk, PaSchema *schema, const Place *place, const char *keyword, const char *message)
{
	PaValidationError *error;

	if (!walk->collect)
		return false;

	error = palloc(sizeof(PaValidationError));
	error->instance_path = instance_path(place->location);
	error->keyword = keyword;
	error->schema_path = (strcmp(keyword, "false") == 0) ? pstrdup(schema->path) : psprintf("%s/%s", schema->path, keyword);
	error->message = pstrdup(message);
	walk->errors = lappend(walk->errors, error);
	if (list_length(walk->errors) >= PA_MAX_VALIDATION_ERRORS)
		walk->collect = false;

	return false;
}

/*
 * is_integer tells whether a number is whole, however it is written.
 */
static bool
is_integer(Numeric number)
{
	Datum		whole;

	if (DatumGetInt32(DirectFunctionCall1(numeric_scale, NumericGetDatum(number))) == 0)
		return true;
	whole = DirectFunctionCall2(numeric_trunc, NumericGetDatum(number), Int32GetDatum(0));

	return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(number), whole));
}

/*
 * is_of_type tells whether a value is of one of some types.
 */
static bool
is_of_type(const JsonbValue *value, int types)
{
	switch (value->type)
	{
		case jbvNull:
			return types & PA_TYPE_NULL;
		case jbvBool:
			return types & PA_TYPE_BOOLEAN;
		case jbvNumeric:
			return (types & PA_TYPE_NUMBER) || ((types & PA_TYPE_INTEGER) && is_integer(value->val.numeric));
		case jbvString:
			return types & PA_TYPE_STRING;
		default:
			return types & (JsonContainerIsObject(value->val.binary.data) ? PA_TYPE_OBJECT : PA_TYPE_ARRAY);
	}
}

/*
 * pa_check_type checks "type".
 */
bool
pa_check_type(Walk *walk, PaSchema *schema, const Place *place)
{
	return schema->types == 0 || is_of_type(place->value, schema->types) ||
		FAIL("type", psprintf("%s is not of type %s", pa_describe_value(place->value), pa_type_names(schema->types)));
}

/*
 * pa_check_choice checks "const" and "enum".
 */
bool
pa_check_choice(Walk *walk, PaSchema *schema, const Place *place)
{
	const JsonbValue *value = place->value;
	bool		valid = true;

	if (schema->constant)
		MUST(pa_compare_values(value, schema->constant) == 0 ||
			 FAIL("const", psprintf("%s is not %s", pa_describe_value(value), pa_describe_value(schema->constant))));

	if (schema->enumeration)
		MUST(bsearch(value, schema->choices, schema->n_choices, sizeof(JsonbValue), pa_compare_elements) != NULL ||
			 FAIL("enum", psprintf("%s is not one of %s", pa_describe_value(value), pa_describe_value(schema->enumeration))));

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
 * show prints a number of the schema, cut.
 */
static char *
show(Numeric number)
{
	JsonbValue	value;

	value.type = jbvNumeric;
	value.val.numeric = number;

	return pa_describe_value(&value);
}

/*
 * pa_check_number checks what is asked of a number.
 */
bool
pa_check_number(Walk *walk, PaSchema *schema, const Place *place)
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
 * pa_count_message says that there are too few or too many of something.
 */
char *
pa_count_message(const Place *place, int64 count, const char *what, const char *relation, int64 limit)
{
	return psprintf("%s has " INT64_FORMAT " %s, %s " INT64_FORMAT,
					pa_describe_value(place->value), count, what, relation, limit);
}

/*
 * pa_check_string checks what is asked of a string.
 */
bool
pa_check_string(Walk *walk, PaSchema *schema, const Place *place)
{
	PaName		text = {place->value->val.string.val, place->value->val.string.len};
	bool		valid = true;

	if (schema->max_length >= 0 || schema->min_length >= 0)
	{
		int64		length = pg_mbstrlen_with_len(text.text, text.length);

		if (schema->max_length >= 0)
			MUST(length <= schema->max_length ||
				 FAIL("maxLength", pa_count_message(place, length, "characters", "more than", schema->max_length)));
		if (schema->min_length >= 0)
			MUST(length >= schema->min_length ||
				 FAIL("minLength", pa_count_message(place, length, "characters", "fewer than", schema->min_length)));
	}
	if (schema->regex)
		MUST(pa_regex_matches(schema->regex, text) ||
			 FAIL("pattern", psprintf("%s does not match %s", pa_describe_value(place->value),
									  pa_describe_name(schema->pattern, SHOWN_PATTERN))));
	if (schema->format)
		MUST(schema->format(text) ||
			 FAIL("format", psprintf("%s is not of format %s", pa_describe_value(place->value), pa_describe_name(schema->format_name, SHOWN_PATTERN))));

	return valid;
}
