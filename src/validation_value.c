/*
 * validation_value.c
 *		Values of JSON documents: reading them, their order, and how messages show them.
 */
#include "prod_analytics.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "validation.h"

/* How many bytes of a value a message shows. */
#define SHOWN 60

/*
 * pa_read_elements begins to read an array.
 */
void
pa_read_elements(PaCursor *cursor, JsonbContainer *array)
{
	cursor->container = array;
	cursor->index = 0;
	cursor->end = JsonContainerSize(array);
	cursor->base = (char *) &array->children[cursor->end];
	cursor->offset = 0;
}

/*
 * pa_read_keys begins to read the keys of an object: they come before the values, shorter ones first,
 * those of one length in the order of their bytes.
 */
void
pa_read_keys(PaCursor *cursor, JsonbContainer *object)
{
	cursor->container = object;
	cursor->index = 0;
	cursor->end = JsonContainerSize(object);
	cursor->base = (char *) &object->children[2 * cursor->end];
	cursor->offset = 0;
}

/*
 * pa_read_values begins to read the values of an object, which come in the order of their keys.
 */
void
pa_read_values(PaCursor *cursor, JsonbContainer *object)
{
	int			size = JsonContainerSize(object);

	cursor->container = object;
	cursor->index = size;
	cursor->end = 2 * size;
	cursor->base = (char *) &object->children[cursor->end];
	cursor->offset = getJsonbOffset(object, size);
}

/*
 * read_element is the element that a JEntry describes.  Numbers and containers are aligned.
 */
static void
read_element(JEntry entry, char *base, uint32 offset, uint32 length, JsonbValue *value)
{
	if (JBE_ISSTRING(entry))
	{
		value->type = jbvString;
		value->val.string.val = base + offset;
		value->val.string.len = length;
	}
	else if (JBE_ISNUMERIC(entry))
	{
		value->type = jbvNumeric;
		value->val.numeric = (Numeric) (base + INTALIGN(offset));
	}
	else if (JBE_ISCONTAINER(entry))
	{
		value->type = jbvBinary;
		value->val.binary.data = (JsonbContainer *) (base + INTALIGN(offset));
		value->val.binary.len = length - (INTALIGN(offset) - offset);
	}
	else if (JBE_ISNULL(entry))
		value->type = jbvNull;
	else
	{
		value->type = jbvBool;
		value->val.boolean = JBE_ISBOOL_TRUE(entry);
	}
}

/*
 * pa_next reads the next element; false at the end.  Nothing is copied, so reading is free of charge
 * however large a document is.
 */
bool
pa_next(PaCursor *cursor, JsonbValue *value)
{
	JEntry		entry;
	uint32		length;

	if (cursor->index >= cursor->end)
		return false;

	entry = cursor->container->children[cursor->index++];
	length = JBE_HAS_OFF(entry) ? JBE_OFFLENFLD(entry) - cursor->offset : JBE_OFFLENFLD(entry);
	read_element(entry, cursor->base, cursor->offset, length, value);
	cursor->offset += length;

	return true;
}

/*
 * pa_root_value is the value that a jsonb document is.
 */
void
pa_root_value(Jsonb *document, JsonbValue *value)
{
	if (JB_ROOT_IS_SCALAR(document))
	{
		PaCursor	scalar;

		pa_read_elements(&scalar, &document->root);
		(void) pa_next(&scalar, value);
		return;
	}

	value->type = jbvBinary;
	value->val.binary.data = &document->root;
	value->val.binary.len = VARSIZE(document) - VARHDRSZ;
}

/*
 * pa_compare_names orders names as jsonb orders keys.
 */
int
pa_compare_names(PaName a, PaName b)
{
	if (a.length != b.length)
		return a.length < b.length ? -1 : 1;

	return memcmp(a.text, b.text, a.length);
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
 * pa_compare_elements is pa_compare_values for qsort.
 */
int
pa_compare_elements(const void *a, const void *b)
{
	CHECK_FOR_INTERRUPTS();

	return pa_compare_values(a, b);
}

/*
 * pa_has_repetition tells whether two elements of an array are equal.
 */
bool
pa_has_repetition(JsonbContainer *array)
{
	int			count = JsonContainerSize(array);
	JsonbValue *sorted = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(JsonbValue) * (count + 1));
	bool		found = false;
	PaCursor	elements;

	pa_read_elements(&elements, array);
	for (int i = 0; pa_next(&elements, &sorted[i]); i++)
		;
	qsort(sorted, count, sizeof(JsonbValue), pa_compare_elements);
	for (int i = 1; i < count && !found; i++)
		found = pa_compare_values(&sorted[i - 1], &sorted[i]) == 0;
	pfree(sorted);

	return found;
}

/*
 * pa_describe_name is a name as a message shows it: in quotes, and cut to so many bytes.
 */
char *
pa_describe_name(PaName name, int shown)
{
	int			length = pg_mbcliplen(name.text, name.length, shown);

	return psprintf("\"%.*s%s\"", length, name.text, length < name.length ? "..." : "");
}

/*
 * pa_describe_value is a value as a message shows it: cut, and large containers by their size.
 */
char *
pa_describe_value(const JsonbValue *value)
{
	PaName		name;
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
			name.text = value->val.string.val;
			name.length = value->val.string.len;
			return pa_describe_name(name, SHOWN);
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
