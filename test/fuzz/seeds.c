/*
 * seeds.c
 *		The inputs that a run begins with, out of files with many of them.
 */
#include "fuzz.h"

#include "fmgr.h"
#include "storage/fd.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pa_fuzz_seed_inputs);

/*
 * pa_fuzz_read_file reads a file.
 */
char *
pa_fuzz_read_file(const char *path)
{
	FILE	   *file = AllocateFile(path, "r");
	StringInfoData text;
	char		buffer[4096];
	size_t		n;

	if (file == NULL)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path)));
	initStringInfo(&text);
	while ((n = fread(buffer, 1, sizeof(buffer), file)) > 0)
		appendBinaryStringInfo(&text, buffer, n);
	FreeFile(file);

	return text.data;
}

/*
 * write_input writes an input to a file of its own.
 */
static void
write_input(const char *folder, const JsonNode *schema, const JsonNode *document)
{
	static int	n = 0;
	char	   *path = psprintf("%s/%06d", folder, n++);
	FILE	   *file = AllocateFile(path, "w");
	StringInfoData text;

	if (file == NULL)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path)));
	initStringInfo(&text);
	appendStringInfoChar(&text, '[');
	pa_json_print(&text, schema);
	appendStringInfoString(&text, ", ");
	pa_json_print(&text, document);
	appendStringInfoChar(&text, ']');
	if (fwrite(text.data, 1, text.len, file) != (size_t) text.len || FreeFile(file) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", path)));
}

/*
 * member finds a member of an object; NULL when there is none.
 */
static JsonNode *
member(const JsonNode *object, const char *key)
{
	for (int i = 0; object && object->kind == '{' && i < object->count; i++)
		if (strcmp(object->keys[i], key) == 0)
			return object->children[i];

	return NULL;
}

/*
 * write_group writes a group of the JSON Schema Test Suite: a schema and documents.
 */
static int
write_group(const char *folder, const JsonNode *group)
{
	JsonNode   *schema = member(group, "\"schema\"");
	JsonNode   *tests = member(group, "\"tests\"");
	int			count = 0;

	for (int i = 0; schema && tests && i < tests->count; i++)
	{
		JsonNode   *document = member(tests->children[i], "\"data\"");

		if (document == NULL)
			continue;
		write_input(folder, schema, document);
		count++;
	}

	return count;
}

/*
 * seed_inputs(folder text, file text) writes each input of a file to a file in the folder, and returns how
 * many.  The file is one of the JSON Schema Test Suite, or has an input on each line.
 */
Datum
pa_fuzz_seed_inputs(PG_FUNCTION_ARGS)
{
	char	   *folder = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *text = pa_fuzz_read_file(path);
	JsonNode   *suite = pa_json_parse(text, strlen(text));
	int64		count = 0;

	for (int i = 0; suite && i < suite->count; i++)
		count += write_group(folder, suite->children[i]);

	for (char *line = suite ? NULL : strtok(text, "\n"); line; line = strtok(NULL, "\n"))
	{
		JsonNode   *pair = pa_json_parse(line, strlen(line));

		if (pair == NULL || pair->kind != '[' || pair->count != 2)
			elog(ERROR, "no input in file \"%s\": %s", path, line);
		write_input(folder, pair->children[0], pair->children[1]);
		count++;
	}
	if (count == 0)
		elog(ERROR, "there is no input in file \"%s\"", path);

	PG_RETURN_INT64(count);
}
