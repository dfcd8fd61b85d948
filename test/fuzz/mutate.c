/*
 * mutate.c
 *		How libFuzzer gets new inputs: JSON is changed as a tree, so that it stays JSON, and schemas are grown
 *		from the keywords that there are.
 *
 * All randomness comes from the seed that libFuzzer gives, so that a run can be repeated.
 */
#include "fuzz.h"

#include "common/pg_prng.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* How often a result that is too large is thrown away before we give up. */
#define ATTEMPTS 5

/* What stands behind a keyword. */
typedef enum Kind
{
	KIND_PAIR,					/* the input: a schema and a document */
	KIND_SCHEMA,
	KIND_SCHEMAS,				/* an array of schemas */
	KIND_MAP,					/* an object of schemas */
	KIND_PATTERN_MAP,			/* likewise, by regular expression */
	KIND_COUNT,
	KIND_NUMBER,
	KIND_BOOLEAN,
	KIND_TYPE,
	KIND_PATTERN,
	KIND_FORMAT,
	KIND_REFERENCE,
	KIND_ID,
	KIND_ANCHOR,
	KIND_DIALECT,
	KIND_NAME,
	KIND_NAMES,
	KIND_DEPENDENCIES,
	KIND_VALUES,
	KIND_VALUE
} Kind;

static const struct
{
	const char *name;
	Kind		kind;
}			keywords[] =
{
	{"$anchor", KIND_ANCHOR}, {"$comment", KIND_VALUE}, {"$defs", KIND_MAP}, {"$dynamicAnchor", KIND_ANCHOR},
	{"$id", KIND_ID}, {"$ref", KIND_REFERENCE}, {"$ref", KIND_REFERENCE},
	{"$schema", KIND_DIALECT},
	{"additionalProperties", KIND_SCHEMA}, {"allOf", KIND_SCHEMAS}, {"anyOf", KIND_SCHEMAS}, {"const", KIND_VALUE},
	{"contains", KIND_SCHEMA}, {"default", KIND_VALUE}, {"dependentRequired", KIND_DEPENDENCIES},
	{"dependentSchemas", KIND_MAP}, {"else", KIND_SCHEMA}, {"enum", KIND_VALUES}, {"exclusiveMaximum", KIND_NUMBER},
	{"exclusiveMinimum", KIND_NUMBER}, {"format", KIND_FORMAT}, {"if", KIND_SCHEMA}, {"items", KIND_SCHEMA},
	{"maxContains", KIND_COUNT}, {"maxItems", KIND_COUNT}, {"maxLength", KIND_COUNT}, {"maxProperties", KIND_COUNT},
	{"maximum", KIND_NUMBER}, {"minContains", KIND_COUNT}, {"minItems", KIND_COUNT}, {"minLength", KIND_COUNT},
	{"minProperties", KIND_COUNT}, {"minimum", KIND_NUMBER}, {"multipleOf", KIND_NUMBER}, {"not", KIND_SCHEMA},
	{"oneOf", KIND_SCHEMAS}, {"pattern", KIND_PATTERN}, {"patternProperties", KIND_PATTERN_MAP},
	{"prefixItems", KIND_SCHEMAS}, {"properties", KIND_MAP}, {"properties", KIND_MAP}, {"propertyNames", KIND_SCHEMA},
	{"required", KIND_NAMES}, {"then", KIND_SCHEMA}, {"type", KIND_TYPE}, {"type", KIND_TYPE},
	{"unevaluatedItems", KIND_SCHEMA}, {"unevaluatedProperties", KIND_SCHEMA}, {"uniqueItems", KIND_BOOLEAN}
};

/* Few names, so that schemas and documents meet. */
static const char *const names[] = {
	"a", "b", "c", "foo", "bar", "baz", "", "0", "1", "a/b", "m~n", "%25", "é", "日本", "x\\\"y", "length", "~1", "a b",
	"type", "$ref", "\\u0001", "\\ud83d\\ude00"
};

static const char *const numbers[] = {
	"0", "1", "2", "3", "-1", "1.0", "0.5", "1.5", "-0.0", "1e2", "1E-2", "0.1", "0.01", "0.0075", "100", "2.0", "1e308",
	"123456789012345678901234567890", "9223372036854775807", "9223372036854775808", "2147483648", "-9223372036854775809",
	"1e400", "1e-400", "1e5000", "0.1e-16000", "3.14159", "4294967296", "0.3333333333333333333333333"
};

static const char *const literals[] = {"null", "true", "false", "{}", "[]", "\"\"", "0"};

static const char *const types[] = {"null", "boolean", "integer", "number", "string", "array", "object", "any"};

static const char *const patterns[] = {
	"", "^a", "a$", "^a*$", "[a-c]+", "^\\\\d{3}-\\\\d{2}$", "\\\\w\\\\W\\\\s\\\\S", "\\\\p{L}", "\\\\p{Script=Greek}", "[^a]", "(a|b)?", "a{1,3}",
	"(a)\\\\1", "\\\\bfoo\\\\b", "\\\\B", "[\\\\b]", "\\\\x41", "\\\\u00e9", "\\\\u{1F600}", "\\\\cA", "\\\\0", ".", "^.$", "é+", "[é-日]", "(?=a)b?",
	"(?!a)", "(?<=a)b", "(?<n>a)\\\\k<n>", "(?:x)", "[", "(", ")", "a**", "\\\\", "[]", "[^]", "{", "a{2,1}", "***=a", "(?i)a", "[[:alpha:]]", "[[.a.]]",
	"\\\\y\\\\m\\\\M\\\\A\\\\Z", "\\\\/", "[\\\\w-]", "[a\\\\-c]", "[\\\\d\\\\D]", "\\\\-", "a|", "|", "()", "^^$$", "\\\\t\\\\n\\\\r\\\\v\\\\f", "\\\\D", "[z-a]", "x{,2}", "\\\\x4"
};

static const char *const formats[] = {
	"date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6", "uri",
	"uri-reference", "iri", "iri-reference", "uuid", "uri-template", "json-pointer", "relative-json-pointer", "regex", "unknown"
};

static const char *const strings[] = {
	"a", "aa", "b", "ab", "foo", "bar", "", "é", "日本語", "\\ud83d\\ude00", "\\u0000", "\\ud800", "A", "1", "123-45", " ", "\\n", "\\\\",
	"2024-02-29T23:59:60Z", "2023-02-29", "12:00:00+01:00", "P1Y2M3DT4H5M6S", "P1W", "joe@example.com", "\\\"joe x\\\"@[127.0.0.1]",
	"example.com", "xn--nxasmq6b", "a-.b", "실례.테스트", "·", "l·l", "192.168.0.1", "256.1.1.1", "::1", "::ffff:1.2.3.4", "1:2:3:4:5:6:7:8",
	"http://example.com/%7Ea?b#c", "//x:80/[", "urn:x:y", "2eb8aa08-aa98-11ea-b4aa-73b441d16380", "{+a,b*}/{c:3}", "/a~0b~1c/0", "0#", "1/a~2",
	"ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé", "aéééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé",
	"日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日日"
};

static const char *const references[] = {
	"#", "#/$defs/a", "#/$defs/b", "#/properties/a", "#/properties/foo", "#/allOf/0", "#/items", "#/not", "#a", "#b", "", "a.json", "b.json#a",
	"a.json#/$defs/a", "urn:x", "urn:x#a", "http://x/y", "http://x/a/../y#", "../b.json", "./a.json", "//x/y", "?q", "#/a~1b", "#/m~0n", "#/%25",
	"#/%C3%A9", "#/%", "#/%00", "#/$defs/%61", "#/const", "#/enum/0", "#/prefixItems/00", "#/prefixItems/1", "a/b/./c", "/", "#/", "%", ":", "a:b"
};

static const char *const ids[] = {
	"a.json", "b.json", "http://x/y", "http://x/a/", "urn:x", "", "#", "#a", "b.json#", "../b.json", "//x/y", "/a/b/../c", "?q", "tag:fuzz", "./", ".."
};

static const char *const dialects[] = {
	"https://json-schema.org/draft/2020-12/schema", "https://json-schema.org/draft/2020-12/schema#", "http://json-schema.org/draft-07/schema#",
	"https://json-schema.org/draft/2020-12/vocab/core", ""
};

static const char *const vocabularies[] = {
	"https://json-schema.org/draft/2020-12/vocab/core", "https://json-schema.org/draft/2020-12/vocab/x", "http://x"
};

/* Where a node stands: the "i"th child of its parent. */
typedef struct Slot
{
	JsonNode   *parent;
	int			i;
	Kind		kind;			/* what belongs there */
	int			end;			/* the slots of what it holds come next, up to this one */
} Slot;

typedef struct Slots
{
	int			count;
	int			size;
	Slot	   *slots;
} Slots;

#define PICK(strings) ((strings)[below(lengthof(strings))])

static pg_prng_state random_state;

extern size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
extern size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
extern size_t LLVMFuzzerCustomCrossOver(const uint8_t *data1, size_t size1, const uint8_t *data2, size_t size2,
										uint8_t *out, size_t max_size, unsigned int seed);

static JsonNode *grow_schema(int depth);


/* ---- growing ----------------------------------------------------------------------------------- */

/*
 * below is a random number from 0 to limit - 1.
 */
static int
below(int limit)
{
	return limit <= 1 ? 0 : (int) pg_prng_uint64_range(&random_state, 0, limit - 1);
}

static bool
one_in(int n)
{
	return below(n) == 0;
}

static char *
quoted(const char *text)
{
	return psprintf("\"%s\"", text);
}

/*
 * grow_value makes a document.
 */
static JsonNode *
grow_value(int depth)
{
	JsonNode   *node;
	int			choice = below(depth > 0 ? 8 : 5);

	if (choice < 2)
		return pa_json_scalar(PICK(numbers));
	if (choice < 4)
		return pa_json_scalar(quoted(one_in(3) ? PICK(names) : PICK(strings)));
	if (choice < 5)
		return pa_json_scalar(literals[below(3)]);

	node = pa_json_container(choice < 6 ? '[' : '{');
	for (int i = below(5); i > 0; i--)
		pa_json_insert(node, node->count, node->kind == '{' ? quoted(PICK(names)) : NULL, grow_value(depth - 1));

	return node;
}

/*
 * grow_list makes an array.
 */
static JsonNode *
grow_list(JsonNode *(*element) (int depth), int depth)
{
	JsonNode   *node = pa_json_container('[');

	for (int i = one_in(20) ? 0 : 1 + below(3); i > 0; i--)
		pa_json_insert(node, node->count, NULL, element(depth));

	return node;
}

/*
 * grow_map makes an object.
 */
static JsonNode *
grow_map(const char *const *keys, int n_keys, JsonNode *(*member) (int depth), int depth)
{
	JsonNode   *node = pa_json_container('{');

	for (int i = below(4); i > 0; i--)
		pa_json_insert(node, node->count, quoted(keys[below(n_keys)]), member(depth));

	return node;
}

static JsonNode *
grow_name(int depth)
{
	return pa_json_scalar(quoted(PICK(names)));
}

static JsonNode *
grow_names(int depth)
{
	return grow_list(grow_name, depth);
}

/*
 * add_rare adds a keyword that makes most schemas invalid.
 */
static void
add_rare(JsonNode *schema)
{
	if (one_in(2))
		pa_json_insert(schema, 0, "\"$dynamicRef\"", pa_json_scalar("\"#a\""));
	else
		pa_json_insert(schema, 0, "\"$vocabulary\"",
					   grow_map(vocabularies, lengthof(vocabularies), grow_name, 0));
}

static JsonNode *
grow_type(int depth)
{
	return pa_json_scalar(quoted(PICK(types)));
}

/*
 * grow_for makes what can stand behind a keyword, and seldom what cannot.
 */
static JsonNode *
grow_for(Kind kind, int depth)
{
	if (one_in(100))
		return grow_value(1);

	switch (kind)
	{
		case KIND_SCHEMA:
			return grow_schema(depth - 1);
		case KIND_SCHEMAS:
			return grow_list(grow_schema, depth - 1);
		case KIND_MAP:
			return grow_map(names, lengthof(names), grow_schema, depth - 1);
		case KIND_PATTERN_MAP:
			return grow_map(patterns, lengthof(patterns), grow_schema, depth - 1);
		case KIND_COUNT:
			return pa_json_scalar(one_in(8) ? PICK(numbers) : numbers[below(4)]);
		case KIND_NUMBER:
			return pa_json_scalar(PICK(numbers));
		case KIND_BOOLEAN:
			return pa_json_scalar(one_in(4) ? "false" : "true");
		case KIND_TYPE:
			return one_in(3) ? grow_list(grow_type, 0) : grow_type(0);
		case KIND_PATTERN:
			return pa_json_scalar(quoted(one_in(6) ? PICK(strings) : PICK(patterns)));
		case KIND_FORMAT:
			return pa_json_scalar(quoted(PICK(formats)));
		case KIND_REFERENCE:
			return pa_json_scalar(quoted(PICK(references)));
		case KIND_ID:
			return pa_json_scalar(quoted(PICK(ids)));
		case KIND_ANCHOR:
			return pa_json_scalar(one_in(2) ? "\"a\"" : "\"b\"");
		case KIND_DIALECT:
			return pa_json_scalar(quoted(dialects[one_in(9) ? below(lengthof(dialects)) : 0]));
		case KIND_NAME:
			return grow_name(0);
		case KIND_NAMES:
			return grow_names(0);
		case KIND_DEPENDENCIES:
			return grow_map(names, lengthof(names), grow_names, 0);
		case KIND_VALUES:
			return grow_list(grow_value, 1);
		case KIND_PAIR:
		case KIND_VALUE:
			break;
	}

	return grow_value(2);
}

/*
 * add_keyword gives a schema another keyword, or the keyword another value.
 */
static void
add_keyword(JsonNode *schema, int depth)
{
	int			keyword = below(lengthof(keywords));
	char	   *key = quoted(keywords[keyword].name);

	if (one_in(100))
		add_rare(schema);
	for (int i = 0; i < schema->count; i++)
		if (strcmp(schema->keys[i], key) == 0)
		{
			schema->children[i] = grow_for(keywords[keyword].kind, depth);
			return;
		}
	pa_json_insert(schema, schema->count, key, grow_for(keywords[keyword].kind, depth));
}

/*
 * grow_schema makes a schema.
 */
static JsonNode *
grow_schema(int depth)
{
	JsonNode   *node;

	if (depth <= 0 || one_in(6))
		return pa_json_scalar(one_in(3) ? "false" : "true");
	node = pa_json_container('{');
	for (int i = 1 + below(3); i > 0; i--)
		add_keyword(node, depth);

	return node;
}


/* ---- what belongs where ------------------------------------------------------------------------ */

/*
 * kind_of_child tells what a child of a node that is of a kind should be.
 */
static Kind
kind_of_child(const JsonNode *node, Kind kind, int index)
{
	const char *key = index < node->count ? node->keys[index] : NULL;

	switch (kind)
	{
		case KIND_PAIR:
			return index == 0 ? KIND_SCHEMA : KIND_VALUE;
		case KIND_SCHEMA:
			for (int i = 0; key && i < (int) lengthof(keywords); i++)
				if (strlen(keywords[i].name) == strlen(key) - 2 &&
					memcmp(keywords[i].name, key + 1, strlen(key) - 2) == 0)
					return keywords[i].kind;
			return KIND_VALUE;
		case KIND_SCHEMAS:
		case KIND_MAP:
		case KIND_PATTERN_MAP:
			return KIND_SCHEMA;
		case KIND_NAMES:
			return KIND_NAME;
		case KIND_DEPENDENCIES:
			return KIND_NAMES;
		case KIND_TYPE:
			return KIND_TYPE;
		default:
			return KIND_VALUE;
	}
}

/*
 * add_slots adds what a node holds, if it is of a kind.
 */
static void
add_slots(Slots *slots, JsonNode *node, Kind kind)
{
	for (int i = 0; i < node->count; i++)
	{
		int			n = slots->count++;

		if (slots->count > slots->size)
		{
			slots->size *= 2;
			slots->slots = repalloc(slots->slots, sizeof(Slot) * slots->size);
		}
		slots->slots[n].parent = node;
		slots->slots[n].i = i;
		slots->slots[n].kind = kind_of_child(node, kind, i);
		add_slots(slots, node->children[i], slots->slots[n].kind);
		slots->slots[n].end = slots->count;
	}
}

/*
 * slots_of lists the nodes of an input.
 */
static Slots
slots_of(JsonNode *pair)
{
	Slots		slots = {0, 64, NULL};

	slots.slots = palloc(sizeof(Slot) * slots.size);
	add_slots(&slots, pair, KIND_PAIR);

	return slots;
}

static JsonNode **
node_at(const Slot *slot)
{
	return &slot->parent->children[slot->i];
}

/*
 * find_donor finds a node that belongs where another one stands, from slot "first" on and before "end"; NULL
 * after some attempts.
 */
static JsonNode *
find_donor(const Slots *slots, int first, int end, Kind kind)
{
	for (int attempt = 0; attempt < 10 && first < end; attempt++)
	{
		Slot	   *slot = &slots->slots[first + below(end - first)];

		if (slot->kind == kind)
			return pa_json_copy(*node_at(slot));
	}

	return NULL;
}


/* ---- changing ---------------------------------------------------------------------------------- */

/*
 * change_string lets libFuzzer change the bytes of a string, knowing what code compares bytes with, and makes
 * a string of the result again.
 */
static char *
change_string(const char *text)
{
	char		bytes[256];
	int			length = Min(strlen(text) - 2, sizeof(bytes) / 2);
	StringInfoData result;

	memcpy(bytes, text + 1, length);
	length = LLVMFuzzerMutate((uint8_t *) bytes, length, sizeof(bytes) / 2);
	initStringInfo(&result);
	appendStringInfoChar(&result, '"');
	for (int i = 0; i < length; i++)
	{
		if ((unsigned char) bytes[i] < ' ' || (bytes[i] == '"' && (i == 0 || bytes[i - 1] != '\\')))
			appendStringInfo(&result, "\\u%04x", Max((unsigned char) bytes[i], 1));
		else
			appendStringInfoChar(&result, bytes[i]);
	}
	appendStringInfoChar(&result, '"');

	return result.data;
}

/*
 * repeat_string makes a long string, for what happens at limits of length.
 */
static char *
repeat_string(const char *text)
{
	StringInfoData result;

	initStringInfo(&result);
	appendStringInfoString(&result, "\"");
	for (int i = below(4); i > 0; i--)
		appendStringInfoChar(&result, 'a');
	for (int i = 2 + below(40); i > 0 && result.len < 300; i--)
		appendBinaryStringInfo(&result, text + 1, strlen(text) - 2);
	appendStringInfoString(&result, "\"");

	return result.data;
}

/*
 * change_scalar makes another scalar for the same place.
 */
static JsonNode *
change_scalar(const JsonNode *node, Kind kind)
{
	bool		is_string = node->kind == '"';

	if (kind == KIND_DIALECT && !one_in(10))
		return pa_json_scalar(node->text);
	if (kind != KIND_VALUE && one_in(2))
		return grow_for(kind, 2);

	if (is_string && one_in(4))
		return pa_json_scalar(repeat_string(node->text));
	if (is_string && one_in(2))
		return pa_json_scalar(quoted(one_in(2) ? PICK(strings) : PICK(names)));
	if (is_string)
		return pa_json_scalar(change_string(node->text));
	if (isdigit((unsigned char) node->text[0]) && strlen(node->text) < 9 && one_in(2))
		return pa_json_scalar(psprintf("%ld", Max(strtol(node->text, NULL, 10) + (one_in(2) ? 1 : -1), 0)));
	if (kind == KIND_VALUE || kind == KIND_SCHEMA)
		return pa_json_scalar(literals[below(lengthof(literals))]);

	return grow_for(kind, 1);
}

/*
 * change_key makes another name for a property or another keyword.
 */
static char *
change_key(const char *key, Kind kind)
{
	if (one_in(5))
		return change_string(key);
	if (kind == KIND_SCHEMA)
		return quoted(keywords[below(lengthof(keywords))].name);

	return quoted(kind == KIND_PATTERN_MAP ? PICK(patterns) : PICK(names));
}

/*
 * wrap puts a node into another one of the same kind.
 */
static JsonNode *
wrap(JsonNode *node, Kind kind)
{
	JsonNode   *list = pa_json_container('[');
	JsonNode   *map = pa_json_container('{');
	int			keyword = below(lengthof(keywords));
	Kind		inside = keywords[keyword].kind;

	pa_json_insert(list, 0, NULL, node);
	pa_json_insert(map, 0, quoted(inside == KIND_PATTERN_MAP ? PICK(patterns) : PICK(names)), node);
	if (kind == KIND_VALUE)
		return one_in(2) ? list : map;
	if (kind == KIND_SCHEMA &&
		(inside == KIND_SCHEMA || inside == KIND_SCHEMAS || inside == KIND_MAP || inside == KIND_PATTERN_MAP))
	{
		JsonNode   *schema = pa_json_container('{');

		pa_json_insert(schema, 0, quoted(keywords[keyword].name),
					   inside == KIND_SCHEMA ? node : inside == KIND_SCHEMAS ? list : map);
		return schema;
	}

	return node;
}

/*
 * change_container adds to a container, takes from it, or puts its children in another order.
 */
static void
change_container(JsonNode *node, Kind kind, const Slots *donors)
{
	int			i = below(node->count);
	Kind		inside = kind_of_child(node, kind, i);
	JsonNode   *donor = find_donor(donors, 0, donors->count, inside);
	JsonNode   *first;

	switch (below(5))
	{
		case 0:
		case 1:
			if (node->kind == '{' && kind == KIND_SCHEMA)
				add_keyword(node, 3);
			else
				pa_json_insert(node, node->count, node->kind == '{' ? change_key("\"a\"", kind) : NULL, grow_for(inside, 2));
			break;
		case 2:
			if (donor && kind == KIND_SCHEMA && node->count > 0)
				node->children[i] = donor;
			else if (donor && kind != KIND_SCHEMA)
				pa_json_insert(node, i, node->kind == '{' ? change_key("\"a\"", kind) : NULL, donor);
			break;
		case 3:
			if (node->count > 1 || (node->count > 0 && one_in(10)))
				pa_json_remove(node, i);
			break;
		default:
			if (node->count > 0 && node->kind == '{' && (kind != KIND_SCHEMA || one_in(10)))
				node->keys[i] = change_key(node->keys[i], kind);
			else if (node->count > 1 && node->kind == '[')
			{
				first = node->children[0];
				node->children[0] = node->children[i];
				node->children[i] = first;
			}
	}
}

/*
 * change changes an input in one place.  "other" is where copies come from.
 */
static void
change(JsonNode *pair, JsonNode *other)
{
	Slots		slots = slots_of(pair);
	Slots		donors = slots_of(other);
	int			n = below(slots.count);
	Slot	   *slot = &slots.slots[n];
	JsonNode  **node = node_at(slot);
	Kind		kind = slot->kind;
	JsonNode   *donor;

	/* Seldom anything is put anywhere. */
	if (one_in(25))
		kind = donors.slots[below(donors.count)].kind;

	switch (below(10))
	{
		case 0:
			*node = grow_for(kind, 3);
			break;
		case 1:
		case 2:
			donor = find_donor(&donors, 0, donors.count, kind);
			*node = donor ? donor : *node;
			break;
		case 3:
			*node = wrap(*node, kind);
			break;
		case 4:
			donor = find_donor(&slots, n + 1, slot->end, kind);
			*node = donor ? donor : *node;
			break;
		default:
			if ((*node)->text)
				*node = change_scalar(*node, kind);
			else
				change_container(*node, kind, &donors);
	}
}

/*
 * mutate makes a new input of one or two others, and returns its size.
 */
static size_t
mutate(const char *data, size_t size, const char *other_data, size_t other_size, char *out, size_t max_size)
{
	for (int attempt = 0; attempt < ATTEMPTS; attempt++)
	{
		JsonNode   *pair = pa_json_parse(data, size);
		JsonNode   *other = pa_json_parse(other_data, other_size);
		StringInfoData text;

		if (pair == NULL || pair->kind != '[' || pair->count != 2)
		{
			pair = pa_json_container('[');
			pa_json_insert(pair, 0, NULL, grow_schema(3));
			pa_json_insert(pair, 1, NULL, grow_value(3));
		}
		for (int i = 1 + below(3); i > 0; i--)
			change(pair, other && other->kind == '[' && other->count == 2 ? other : pair);

		initStringInfo(&text);
		pa_json_print(&text, pair);
		if (text.len <= (int) max_size)
		{
			memcpy(out, text.data, text.len);
			return text.len;
		}
	}
	memcpy(out, "[true, 0]", 9);

	return 9;
}

/*
 * mutate_in_context does it without leaving anything behind.
 */
static size_t
mutate_in_context(const char *data, size_t size, const char *other_data, size_t other_size, char *out, size_t max_size,
				  unsigned int seed)
{
	static MemoryContext context = NULL;
	MemoryContext caller_context;
	size_t		result;

	pa_fuzz_stop_when_done();
	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "fuzz mutation", ALLOCSET_DEFAULT_SIZES);
	caller_context = MemoryContextSwitchTo(context);
	pg_prng_seed(&random_state, seed);
	result = mutate(data, size, other_data, other_size, out, max_size);
	MemoryContextSwitchTo(caller_context);
	MemoryContextReset(context);

	return result;
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	return mutate_in_context((char *) data, size, (char *) data, size, (char *) data, max_size, seed);
}

size_t
LLVMFuzzerCustomCrossOver(const uint8_t *data1, size_t size1, const uint8_t *data2, size_t size2,
						  uint8_t *out, size_t max_size, unsigned int seed)
{
	return mutate_in_context((const char *) data1, size1, (const char *) data2, size2, (char *) out, max_size, seed);
}
