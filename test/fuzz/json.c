/*
 * json.c
 *		Trees of JSON, for changing an input without spoiling it.
 *
 * The parser believes what it reads: jsonb_in() is the judge of it.  Everything is allocated in the current
 * memory context.
 */
#include "fuzz.h"

#include "miscadmin.h"

/* What is still to be read. */
typedef struct Reader
{
	const char *at;
	const char *end;
} Reader;

static JsonNode *read_value(Reader *reader);

/*
 * pa_json_scalar is a string, a number, or a literal.
 */
JsonNode *
pa_json_scalar(const char *text)
{
	JsonNode   *node = palloc0(sizeof(JsonNode));

	node->kind = text[0] == '"' ? '"' : '0';
	node->text = pstrdup(text);

	return node;
}

/*
 * pa_json_container is an empty object or array.
 */
JsonNode *
pa_json_container(char kind)
{
	JsonNode   *node = palloc0(sizeof(JsonNode));

	node->kind = kind;
	node->size = 4;
	node->keys = palloc(sizeof(char *) * node->size);
	node->children = palloc(sizeof(JsonNode *) * node->size);

	return node;
}

/*
 * pa_json_insert puts a child into a container, before the one that is "i"th.
 */
void
pa_json_insert(JsonNode *parent, int i, const char *key, JsonNode *child)
{
	if (parent->count == parent->size)
	{
		parent->size *= 2;
		parent->keys = repalloc(parent->keys, sizeof(char *) * parent->size);
		parent->children = repalloc(parent->children, sizeof(JsonNode *) * parent->size);
	}
	memmove(&parent->keys[i + 1], &parent->keys[i], sizeof(char *) * (parent->count - i));
	memmove(&parent->children[i + 1], &parent->children[i], sizeof(JsonNode *) * (parent->count - i));
	parent->keys[i] = key ? pstrdup(key) : NULL;
	parent->children[i] = child;
	parent->count++;
}

/*
 * pa_json_remove takes a child out of a container.
 */
void
pa_json_remove(JsonNode *parent, int i)
{
	parent->count--;
	memmove(&parent->keys[i], &parent->keys[i + 1], sizeof(char *) * (parent->count - i));
	memmove(&parent->children[i], &parent->children[i + 1], sizeof(JsonNode *) * (parent->count - i));
}

/*
 * pa_json_copy copies a tree.
 */
JsonNode *
pa_json_copy(const JsonNode *node)
{
	JsonNode   *copy;

	check_stack_depth();
	if (node->text)
		return pa_json_scalar(node->text);

	copy = pa_json_container(node->kind);
	for (int i = 0; i < node->count; i++)
		pa_json_insert(copy, i, node->keys[i], pa_json_copy(node->children[i]));

	return copy;
}

static void
skip_space(Reader *reader)
{
	while (reader->at < reader->end && strchr(" \t\r\n", *reader->at) && *reader->at)
		reader->at++;
}

/*
 * accept reads a character, if it is the next one.
 */
static bool
accept(Reader *reader, char c)
{
	skip_space(reader);
	if (reader->at == reader->end || *reader->at != c)
		return false;
	reader->at++;

	return true;
}

/*
 * read_scalar reads a string up to its closing quote, or the run of characters of another scalar; NULL when
 * there is none.
 */
static char *
read_scalar(Reader *reader)
{
	const char *start;

	skip_space(reader);
	start = reader->at;
	if (accept(reader, '"'))
	{
		while (reader->at < reader->end && *reader->at != '"')
			reader->at += (*reader->at == '\\') ? 2 : 1;
		if (reader->at >= reader->end)
			return NULL;
		reader->at++;
	}
	else
		while (reader->at < reader->end && *reader->at &&
			   (isalnum((unsigned char) *reader->at) || strchr("+-.", *reader->at)))
			reader->at++;

	return reader->at > start ? pnstrdup(start, reader->at - start) : NULL;
}

/*
 * read_container reads an object or array, the bracket of which has been read.
 */
static JsonNode *
read_container(Reader *reader, char kind)
{
	JsonNode   *node = pa_json_container(kind);
	char		end = (kind == '{') ? '}' : ']';

	if (accept(reader, end))
		return node;
	do
	{
		char	   *key = NULL;
		JsonNode   *child;

		if (kind == '{' && ((key = read_scalar(reader)) == NULL || key[0] != '"' || !accept(reader, ':')))
			return NULL;
		child = read_value(reader);
		if (child == NULL)
			return NULL;
		pa_json_insert(node, node->count, key, child);
	} while (accept(reader, ','));

	return accept(reader, end) ? node : NULL;
}

static JsonNode *
read_value(Reader *reader)
{
	char	   *text;

	check_stack_depth();
	if (accept(reader, '{'))
		return read_container(reader, '{');
	if (accept(reader, '['))
		return read_container(reader, '[');
	text = read_scalar(reader);

	return text ? pa_json_scalar(text) : NULL;
}

/*
 * pa_json_parse reads a document; NULL when it is none.
 */
JsonNode *
pa_json_parse(const char *text, size_t length)
{
	Reader		reader = {text, text + length};
	JsonNode   *node = read_value(&reader);

	skip_space(&reader);

	return reader.at == reader.end ? node : NULL;
}

/*
 * pa_json_print writes a document.
 */
void
pa_json_print(StringInfo out, const JsonNode *node)
{
	check_stack_depth();
	if (node->text)
	{
		appendStringInfoString(out, node->text);
		return;
	}

	appendStringInfoChar(out, node->kind);
	for (int i = 0; i < node->count; i++)
	{
		if (i > 0)
			appendStringInfoString(out, ", ");
		if (node->kind == '{')
			appendStringInfo(out, "%s: ", node->keys[i]);
		pa_json_print(out, node->children[i]);
	}
	appendStringInfoChar(out, node->kind == '{' ? '}' : ']');
}

/*
 * pa_json_depth tells how deeply a document is nested.
 */
int
pa_json_depth(const JsonNode *node)
{
	int			deepest = 0;

	check_stack_depth();
	for (int i = 0; i < node->count; i++)
	{
		int			depth = pa_json_depth(node->children[i]);

		deepest = Max(deepest, depth);
	}

	return deepest + 1;
}

static int
count_slots(const JsonNode *node)
{
	int			count = node->count;

	for (int i = 0; i < node->count; i++)
		count += count_slots(node->children[i]);

	return count;
}

static JsonSlot *
fill_slots(JsonNode *node, JsonSlot *next)
{
	for (int i = 0; i < node->count; i++)
	{
		next->parent = node;
		next->i = i;
		next = fill_slots(node->children[i], next + 1);
	}

	return next;
}

/*
 * pa_json_slots lists all nodes of a document but its root; a node comes before what it holds.
 */
JsonSlot *
pa_json_slots(JsonNode *root, int *count)
{
	JsonSlot   *slots;

	*count = count_slots(root);
	slots = palloc(sizeof(JsonSlot) * (*count + 1));
	(void) fill_slots(root, slots);

	return slots;
}
