/*
 * validation_value.c
 *		Values of JSON documents: order, and how messages show them.
 */
#include "prod_analytics.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "validation.h"

/* How many bytes of a value a message shows. */
#define SHOWN 60

/*
 * pa_root_value is the value that a jsonb document is.
 */
void
pa_root_value(Jsonb *document, JsonbValue *value)
{
	if (JB_ROOT_IS_SCALAR(document))
	{
		JsonbValue *scalar = getIthJsonbValueFromContainer(&document->root, 0);

		*value = *scalar;
		return;
	}

	value->type = jbvBinary;
	value->val.binary.data = &document->root;
	value->val.binary.len = VARSIZE(document) - VARHDRSZ;
}

/*
 * type_rank orders the types of values.
 */
static int
type_rank(const JsonbValue *value)
{
	if (value->type == jbvBinary)
		return JsonContainerIsObject(value->val.binary.data) ? 5 : 4;

	return (int) value->type;
}

/*
 * pa_compare_values orders values; 0 means equal, numbers by their value (1.0 is 1).
 */
int
pa_compare_values(const JsonbValue *a, const JsonbValue *b)
{
	int			difference = type_rank(a) - type_rank(b);

	if (difference != 0)
		return difference;

	switch (a->type)
	{
		case jbvNull:
			return 0;
		case jbvBool:
			return (int) a->val.boolean - (int) b->val.boolean;
		case jbvNumeric:
			return DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(a->val.numeric),
													 NumericGetDatum(b->val.numeric)));
		case jbvString:
			if (a->val.string.len != b->val.string.len)
				return a->val.string.len < b->val.string.len ? -1 : 1;
			return memcmp(a->val.string.val, b->val.string.val, a->val.string.len);
		default:
			return compareJsonbContainers(a->val.binary.data, b->val.binary.data);
	}
}

/*
 * compare_elements is pa_compare_values for qsort.
 */
static int
compare_elements(const void *a, const void *b)
{
	return pa_compare_values(a, b);
}

/*
 * pa_has_repetition tells whether two items of an array are equal.
 */
bool
pa_has_repetition(const JsonbValue *items, int count)
{
	JsonbValue *sorted = palloc(sizeof(JsonbValue) * (count + 1));

	memcpy(sorted, items, sizeof(JsonbValue) * count);
	qsort(sorted, count, sizeof(JsonbValue), compare_elements);
	for (int i = 1; i < count; i++)
		if (pa_compare_values(&sorted[i - 1], &sorted[i]) == 0)
			return true;

	return false;
}

/*
 * pa_describe_value is a value as a message shows it: cut, and large containers by their size.
 */
char *
pa_describe_value(const JsonbValue *value)
{
	char	   *text;
	int			length;

	switch (value->type)
	{
		case jbvNull:
			return pstrdup("null");
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
			length = strlen(text);
			return length <= SHOWN ? text : psprintf("%.*s...", SHOWN, text);
		case jbvString:
			length = pg_mbcliplen(value->val.string.val, value->val.string.len, SHOWN);
			return psprintf("\"%.*s%s\"", length, value->val.string.val,
							length < value->val.string.len ? "..." : "");
		default:
			if (value->val.binary.len <= SHOWN * 2)
			{
				text = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
				length = pg_mbcliplen(text, strlen(text), SHOWN);
				return length == (int) strlen(text) ? text : psprintf("%.*s...", length, text);
			}
			if (JsonContainerIsObject(value->val.binary.data))
				return psprintf("an object of %d properties", (int) JsonContainerSize(value->val.binary.data));
			return psprintf("an array of %d items", (int) JsonContainerSize(value->val.binary.data));
	}
}

/*
 * pa_type_names lists the types that a schema allows.
 */
char *
pa_type_names(int types)
{
	static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < (int) lengthof(names); i++)
		if (types & (1 << i))
			appendStringInfo(&text, "%s%s", text.len > 0 ? " or " : "", names[i]);

	return text.data;
}
