/*
 * validation_regex.c
 *		The regular expressions of schemas, on PostgreSQL's engine.
 *
 * JSON Schema means the dialect of ECMA-262.  PostgreSQL's is close; what is spelled the same and means
 * something else is translated.  Character classes are those of ASCII, as in ECMA-262, by the "C"
 * collation.
 */
#include "prod_analytics.h"

#include "catalog/pg_collation.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "validation.h"

/*
 * translate_escape appends what PostgreSQL calls the escape that begins at "text" (after the
 * backslash), and returns how many bytes of it were read.
 *
 * There \b and \B are a backspace and a backslash, and \x takes any number of digits.
 */
static int
translate_escape(StringInfo result, const char *text, int length, bool in_brackets)
{
	if (length == 0)
	{
		appendStringInfoChar(result, '\\');
		return 0;
	}

	switch (text[0])
	{
		case 'b':
			appendStringInfoString(result, in_brackets ? "\\b" : "\\y");
			return 1;
		case 'B':
			appendStringInfoString(result, "\\Y");
			return 1;
		case 'x':
			if (length >= 3)
			{
				appendStringInfo(result, "\\u00%c%c", text[1], text[2]);
				return 3;
			}
			break;
		case '\\':
			appendStringInfoString(result, "\\\\");
			return 1;
	}
	appendStringInfo(result, "\\%c", text[0]);

	return 1;
}

/*
 * translate turns a regular expression of ECMA-262 into one of PostgreSQL.
 */
static char *
translate(PaName pattern)
{
	StringInfoData result;
	bool		in_brackets = false;

	initStringInfo(&result);
	/* What would be a director or embedded options at the beginning is none behind this. */
	appendStringInfoString(&result, "(?:)");
	for (int i = 0; i < pattern.length; i++)
	{
		char		c = pattern.text[i];

		if (c == '\\')
		{
			i += translate_escape(&result, pattern.text + i + 1, pattern.length - i - 1, in_brackets);
			continue;
		}
		if (c == '[' && in_brackets)
			appendStringInfoChar(&result, '\\');
		else if (c == '[')
			in_brackets = true;
		else if (c == ']')
			in_brackets = false;
		appendStringInfoChar(&result, c);
	}

	return result.data;
}

/*
 * free_regex is called when the memory context of a compiled schema goes away: some versions keep
 * parts of a regular expression elsewhere.
 */
static void
free_regex(void *regex)
{
	pg_regfree(regex);
}

/*
 * pa_compile_regex compiles a regular expression, for as long as the current memory context lives;
 * NULL, and the problem, when it is not one.
 */
PaRegex *
pa_compile_regex(PaName pattern, const char **problem)
{
	char	   *text = translate(pattern);
	PaRegex    *regex = palloc0(sizeof(PaRegex));
	pg_wchar   *wide = palloc((strlen(text) + 1) * sizeof(pg_wchar));
	int			length = pg_mb2wchar_with_len(text, wide, strlen(text));
	MemoryContextCallback *callback;
	int			code;

	code = pg_regcomp(&regex->engine, wide, length, REG_ADVANCED, C_COLLATION_OID);
	if (code != REG_OKAY)
	{
		char	   *message = palloc(200);

		pg_regerror(code, &regex->engine, message, 200);
		*problem = message;
		return NULL;
	}

	callback = palloc0(sizeof(MemoryContextCallback));
	callback->func = free_regex;
	callback->arg = &regex->engine;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	regex->dfa = pa_make_dfa(&regex->engine);

	return regex;
}

/*
 * pa_regex_matches tells whether a regular expression matches somewhere in a text.
 */
bool
pa_regex_matches(PaRegex *regex, PaName text)
{
	pg_wchar   *wide;
	int			length;
	int			code;
	bool		matches;

	if (regex->dfa && pa_dfa_matches(regex->dfa, text, &matches))
		return matches;

	wide = palloc((text.length + 1) * sizeof(pg_wchar));
	length = pg_mb2wchar_with_len(text.text, wide, text.length);
	code = pg_regexec(&regex->engine, wide, length, 0, NULL, 0, NULL, 0);

	pfree(wide);
	CHECK_FOR_INTERRUPTS();
	if (code != REG_OKAY && code != REG_NOMATCH)
	{
		char		message[200];

		pg_regerror(code, &regex->engine, message, sizeof(message));
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
				 errmsg("regular expression of a schema failed: %s", message)));
	}

	return code == REG_OKAY;
}
