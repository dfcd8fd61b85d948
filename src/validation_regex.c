/*
 * validation_regex.c
 *		The regular expressions of schemas, on PostgreSQL's engine.
 *
 * JSON Schema means the dialect of ECMA-262, which validation_ecma.c translates.  Word boundaries are those
 * of ASCII, as in ECMA-262, by the "C" collation.
 */
#include "prod_analytics.h"

#include "catalog/pg_collation.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "validation.h"

/* Texts of up to so many bytes are converted on the stack. */
#define SHORT_TEXT 512

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
 * compile compiles a translated pattern; NULL, and the problem, when PostgreSQL does not take it.
 */
static PaRegex *
compile(const pg_wchar *pattern, int length, const char **problem)
{
	PaRegex    *regex = palloc0(sizeof(PaRegex));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	int			code = pg_regcomp(&regex->engine, pattern, length, REG_ADVANCED, C_COLLATION_OID);

	if (code != REG_OKAY)
	{
		char	   *message = palloc(200);

		/* A request to cancel is one of the reasons. */
		CHECK_FOR_INTERRUPTS();
		pg_regerror(code, &regex->engine, message, 200);
		*problem = message;
		return NULL;
	}

	/* Nothing can fail between compiling and this. */
	callback->func = free_regex;
	callback->arg = &regex->engine;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	regex->dfa = pa_make_dfa(&regex->engine);

	return regex;
}

/*
 * pa_compile_regex compiles a regular expression, for as long as the current memory context lives;
 * NULL, and the problem, when it is not one.
 */
PaRegex *
pa_compile_regex(PaName pattern, const char **problem)
{
	MemoryContext work_context = AllocSetContextCreate(CurrentMemoryContext, "regular expression of a JSON Schema",
													   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller_context = MemoryContextSwitchTo(work_context);
	PaRegex    *regex = NULL;
	int			length;
	pg_wchar   *translated = pa_translate_pattern(pattern, &length, problem);

	MemoryContextSwitchTo(caller_context);
	if (translated)
		regex = compile(translated, length, problem);
	else
		*problem = pstrdup(*problem);
	MemoryContextDelete(work_context);

	return regex;
}

/*
 * to_characters converts a text for the engine, with a terminator, and gives the number of characters.
 *
 * Most texts are ASCII, which is the same in every encoding of a server.
 */
static int
to_characters(PaName text, pg_wchar *characters)
{
	unsigned char all = 0;

	for (int i = 0; i < text.length; i++)
	{
		all |= (unsigned char) text.text[i];
		characters[i] = (unsigned char) text.text[i];
	}
	characters[text.length] = 0;
	if (all < 0x80)
		return text.length;

	return pg_mb2wchar_with_len(text.text, characters, text.length);
}

/*
 * pa_regex_matches tells whether a regular expression matches somewhere in a text.
 */
bool
pa_regex_matches(PaRegex *regex, PaName text)
{
	pg_wchar	on_stack[SHORT_TEXT + 1];
	pg_wchar   *characters = on_stack;
	int			length;
	int			code;
	bool		matches;

	if (regex->dfa && pa_dfa_matches(regex->dfa, text, &matches))
		return matches;

	if (text.length > SHORT_TEXT)
		characters = palloc(((Size) text.length + 1) * sizeof(pg_wchar));
	length = to_characters(text, characters);
	code = pg_regexec(&regex->engine, characters, length, 0, NULL, 0, NULL, 0);
	if (characters != on_stack)
		pfree(characters);
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
