/*
 * check.c
 *		One execution: a schema and a document go through the validator in several ways, which must agree.
 *
 * Besides crashing, a validator can fail by contradicting itself:
 *
 *	- a document matches a schema if and only if the list of its errors is empty;
 *	- asking again, in another order, of a schema compiled again, gives the same answers;
 *	- a schema says the same wherever it stands: {"items": S} of [document], {"not": {"not": S}} and so on;
 *	- the places that errors name exist, and messages are text in the server's encoding;
 *	- no error is raised that only a bug can cause.
 */
#include "fuzz.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "../../src/validation.h"

/* More would be accepted, and take the regular expression engine longer than it is worth. */
#define MAX_PATTERN_LENGTH 400
#define MAX_COSTLY 8
#define MAX_REPETITIONS 30

/* A schema that applies itself n times at each level of a document takes n^depth steps: so many at most. */
#define MAX_STEPS 200000

FuzzCounts	pa_fuzz_counts;

/* What is found out about a schema and a document. */
typedef struct Verdict
{
	char	   *problem;		/* of the schema; NULL: it was compiled */
	bool		matches;
	char	   *match_error;	/* raised by the one walk; NULL: none */
	List	   *errors;			/* of PaValidationError */
	char	   *list_error;		/* raised by the other walk */
	bool		given_up;		/* nested too deeply, or cancelled: the answers are worth nothing */
	char	   *failure;		/* of the validator */
} Verdict;

/* What is being examined. */
static struct
{
	int			n_references;	/* of the schema: more than one can multiply what is to be done */
	bool		with_schema;	/* as another document */
}			current;

/* A schema around the schema, and a document around the document, with the same answer. */
typedef struct Frame
{
	const char *before;
	const char *after;
	const char *document_before;
	const char *document_after;
	const char *schema_path;	/* of the schema inside; NULL: its errors are not told one by one */
	const char *instance_path;
} Frame;

static const Frame frames[PA_FUZZ_CHOICES / 2] = {
	{"{\"allOf\": [", "]}", "", "", "/allOf/0", ""},
	{"{\"anyOf\": [", "]}", "", "", NULL, NULL},
	{"{\"oneOf\": [false, ", "]}", "", "", NULL, NULL},
	{"{\"not\": {\"not\": ", "}}", "", "", NULL, NULL},
	{"{\"if\": ", ", \"then\": true, \"else\": false}", "", "", NULL, NULL},
	{"{\"if\": true, \"then\": ", "}", "", "", "/then", ""},
	{"{\"$ref\": \"#/$defs/s\", \"$defs\": {\"s\": ", "}}", "", "", "/$defs/s", ""},
	{"{\"unevaluatedItems\": true, \"unevaluatedProperties\": true, \"allOf\": [", "]}", "", "", "/allOf/0", ""},
	{"{\"unevaluatedItems\": true, \"unevaluatedProperties\": true, \"anyOf\": [false, ", "]}", "", "", NULL, NULL},
	/* What a schema looked at does not count when that, or another one beside it, failed. */
	{"{\"$ref\": \"#/$defs/s\", \"not\": {\"type\": [\"array\", \"object\"], \"minItems\": 1, \"minProperties\": 1, "
		"\"unevaluatedItems\": false, \"unevaluatedProperties\": false, "
	"\"anyOf\": [true, {\"allOf\": [{\"$ref\": \"#/$defs/s\"}, false]}]}, \"$defs\": {\"s\": ", "}}", "", "", "/$defs/s", ""},
	{"{\"items\": ", "}", "[", "]", "/items", "/0"},
	{"{\"prefixItems\": [true, ", "]}", "[0, ", "]", "/prefixItems/1", "/1"},
	{"{\"unevaluatedItems\": ", "}", "[", "]", "/unevaluatedItems", "/0"},
	{"{\"contains\": ", "}", "[", "]", NULL, NULL},
	{"{\"properties\": {\"x\": ", "}}", "{\"x\": ", "}", "/properties/x", "/x"},
	{"{\"patternProperties\": {\"^x$\": ", "}}", "{\"x\": ", "}", "/patternProperties/^x$", "/x"},
	{"{\"additionalProperties\": ", "}", "{\"x\": ", "}", "/additionalProperties", "/x"},
	{"{\"unevaluatedProperties\": ", "}", "{\"x\": ", "}", "/unevaluatedProperties", "/x"},
	{"{\"dependentSchemas\": {\"x\": {\"properties\": {\"x\": ", "}}}}", "{\"x\": ", "}",
	"/dependentSchemas/x/properties/x", "/x"},
};


/* ---- which inputs are for us ------------------------------------------------------------------- */

/*
 * is_tame tells whether a regular expression is sure not to keep the engine busy for long.
 */
static bool
is_tame(const char *pattern)
{
	int			costly = 0;

	if (strlen(pattern) > MAX_PATTERN_LENGTH)
		return false;
	for (const char *c = pattern; *c; c++)
	{
		/* quantifiers, and whatever matches no character: constraints multiply each other */
		if (strchr("*+?{^$", *c) || (*c == '\\' && c[1] && strchr("bByYmMAZ123456789", c[1])))
			costly++;
		if ((*c == '{' || *c == ',') && strtol(c + 1, NULL, 10) > MAX_REPETITIONS)
			return false;
	}

	return costly <= MAX_COSTLY;
}

/*
 * all_tame looks at whatever could be a regular expression in a schema.
 */
static bool
all_tame(const JsonNode *node)
{
	check_stack_depth();
	for (int i = 0; i < node->count; i++)
	{
		const JsonNode *child = node->children[i];

		if (node->kind == '{' && strcmp(node->keys[i], "\"pattern\"") == 0 && child->text && !is_tame(child->text))
			return false;
		if (node->kind == '{' && strcmp(node->keys[i], "\"patternProperties\"") == 0 && child->kind == '{')
			for (int j = 0; j < child->count; j++)
				if (!is_tame(child->keys[j]))
					return false;
		if (!all_tame(child))
			return false;
	}

	return true;
}

/*
 * count_references counts the places where a schema applies another one that stands elsewhere.
 */
static int
count_references(const JsonNode *node)
{
	int			count = 0;

	for (int i = 0; i < node->count; i++)
		count += count_references(node->children[i]) + (node->kind == '{' && strcmp(node->keys[i], "\"$ref\"") == 0);

	return count;
}

/*
 * is_quick tells whether a document is so shallow that a schema with so many references is done with it soon.
 */
static bool
is_quick(const JsonNode *document, int n_references)
{
	int			depth = pa_json_depth(document);
	double		steps = 1;

	for (int i = 0; i < depth && steps <= MAX_STEPS; i++)
		steps *= n_references + 1;

	return steps <= MAX_STEPS;
}

/*
 * can_be_framed tells whether a schema means the same inside another one: all of its references must lead
 * from its own root, which an $id in there makes a root of its own.
 */
static bool
can_be_framed(const JsonNode *node)
{
	check_stack_depth();
	for (int i = 0; i < node->count; i++)
	{
		if (node->kind == '{' && strchr(node->keys[i], '\\'))
			return false;
		if (node->kind == '{' && strcmp(node->keys[i], "\"$id\"") == 0)
			return false;
		if (node->kind == '{' && strcmp(node->keys[i], "\"$ref\"") == 0 && node->children[i]->text &&
			strncmp(node->children[i]->text, "\"#", 2) != 0)
			return false;
		if (!can_be_framed(node->children[i]))
			return false;
	}

	return true;
}


/* ---- asking the validator ---------------------------------------------------------------------- */

/*
 * compile is the one place where a schema is compiled.
 */
static PaSchema *
compile(Jsonb *schema, bool assert_formats, PaSchemaProblem *problem)
{
	return pa_compile_schema(schema, assert_formats, problem);
}

/*
 * exact_copy copies a document into a block with nothing behind it.
 */
static Jsonb *
exact_copy(MemoryContext context, const Jsonb *document)
{
	return memcpy(pa_fuzz_alloc(context, VARSIZE(document)), document, VARSIZE(document));
}

/*
 * fail remembers the first failure.
 */
static void
fail(Verdict *verdict, const char *format,...)
{
	StringInfoData text;
	va_list		arguments;

	if (verdict->failure)
		return;
	initStringInfo(&text);
	for (;;)
	{
		int			missing;

		va_start(arguments, format);
		missing = appendStringInfoVA(&text, format, arguments);
		va_end(arguments);
		if (missing == 0)
			break;
		enlargeStringInfo(&text, missing);
	}
	verdict->failure = text.data;
}

/*
 * is_expected tells whether a document or a schema can cause an error.
 */
static bool
is_expected(int sqlstate)
{
	return sqlstate == ERRCODE_INVALID_PARAMETER_VALUE ||
		sqlstate == ERRCODE_INVALID_REGULAR_EXPRESSION ||
		ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_PROGRAM_LIMIT_EXCEEDED;
}

/*
 * catch_error handles the error that was just raised, and returns its message.  An interrupt from outside
 * goes on.
 */
static char *
catch_error(Verdict *verdict, MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && !pa_fuzz_out_of_time)
		PG_RE_THROW();
	FlushErrorState();

	if (error->sqlerrcode == ERRCODE_STATEMENT_TOO_COMPLEX ||
		(error->sqlerrcode == ERRCODE_QUERY_CANCELED && current.n_references > 1))
		verdict->given_up = true;
	else if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		fail(verdict, "it takes too long (but can be cancelled)");
	else if (!is_expected(error->sqlerrcode))
		fail(verdict, "unexpected error %s: %s", unpack_sql_state(error->sqlerrcode), error->message);

	return error->message;
}

/*
 * check_text checks that a text is one.
 */
static void
check_text(Verdict *verdict, const char *what, const char *text)
{
	if (text == NULL)
		fail(verdict, "%s is NULL", what);
	else if (!pg_verifymbstr(text, strlen(text), true))
		fail(verdict, "%s is not valid in the server's encoding: \"%s\"", what, text);
}

/*
 * check_place checks that there is something at a JSON Pointer.
 */
static void
check_place(Verdict *verdict, const char *what, Jsonb *document, const char *pointer)
{
	JsonbValue	value;

	pa_root_value(document, &value);
	if (!pa_pointer_lookup(&value, pointer))
		fail(verdict, "%s \"%s\" does not exist", what, pointer);
}

/*
 * ask_whether_it_matches asks in the current memory context, which is reset.
 */
static void
ask_whether_it_matches(Verdict *verdict, PaSchema *schema, Jsonb *instance)
{
	MemoryContext work_context = CurrentMemoryContext;
	MemoryContext context = MemoryContextGetParent(work_context);

	verdict->match_error = NULL;
	PG_TRY();
	{
		verdict->matches = pa_matches(schema, instance);
	}
	PG_CATCH();
	{
		verdict->match_error = catch_error(verdict, context);
		verdict->matches = false;
	}
	PG_END_TRY();

	MemoryContextSwitchTo(work_context);
	MemoryContextReset(work_context);
}

/*
 * copy_error copies an error, which is checked before.
 */
static PaValidationError *
copy_error(Verdict *verdict, const PaValidationError *error, Jsonb *source, Jsonb *instance)
{
	PaValidationError *copy = palloc(sizeof(PaValidationError));

	check_text(verdict, "instance_path", error->instance_path);
	check_text(verdict, "keyword", error->keyword);
	check_text(verdict, "schema_path", error->schema_path);
	check_text(verdict, "message", error->message);
	check_place(verdict, "instance_path", instance, error->instance_path);
	check_place(verdict, "schema_path", source, error->schema_path);

	copy->instance_path = pstrdup(error->instance_path);
	copy->keyword = pstrdup(error->keyword);
	copy->schema_path = pstrdup(error->schema_path);
	copy->message = pstrdup(error->message);

	return copy;
}

/*
 * ask_for_errors asks in the current memory context, which is reset.
 */
static void
ask_for_errors(Verdict *verdict, PaSchema *schema, Jsonb *source, Jsonb *instance)
{
	MemoryContext work_context = CurrentMemoryContext;
	MemoryContext context = MemoryContextGetParent(work_context);
	ListCell   *cell;

	PG_TRY();
	{
		List	   *errors = pa_validation_errors(schema, instance);

		MemoryContextSwitchTo(context);
		foreach(cell, errors)
			verdict->errors = lappend(verdict->errors, copy_error(verdict, lfirst(cell), source, instance));
	}
	PG_CATCH();
	{
		verdict->list_error = catch_error(verdict, context);
	}
	PG_END_TRY();

	MemoryContextSwitchTo(work_context);
	MemoryContextReset(work_context);
}

/*
 * compile_and_check compiles a schema and looks at what the compiler says.
 */
static PaSchema *
compile_and_check(Verdict *verdict, Jsonb *source, bool assert_formats, MemoryContext caller_context)
{
	PaSchemaProblem problem = {NULL, NULL};
	PaSchema   *volatile schema = NULL;

	PG_TRY();
	{
		schema = compile(source, assert_formats, &problem);
	}
	PG_CATCH();
	{
		problem.message = catch_error(verdict, caller_context);
		problem.path = "";
	}
	PG_END_TRY();

	if ((schema == NULL) != (problem.path != NULL))
		fail(verdict, "a schema is compiled and refused, or neither");
	MemoryContextSwitchTo(caller_context);
	if (problem.path)
	{
		check_text(verdict, "problem", problem.message);
		check_place(verdict, "the place of a problem", source, problem.path);
		verdict->problem = psprintf("%s: %s", problem.path, problem.message);
	}

	return schema;
}

/*
 * judge asks all that there is to ask.
 */
static Verdict
judge(Jsonb *schema, Jsonb *instance, bool assert_formats, bool errors_first)
{
	Verdict		verdict = {0};
	MemoryContext context = CurrentMemoryContext;
	MemoryContext schema_context = AllocSetContextCreate(context, "schema", ALLOCSET_DEFAULT_SIZES);
	MemoryContext work_context = AllocSetContextCreate(context, "work", ALLOCSET_DEFAULT_SIZES);
	Jsonb	   *source = exact_copy(schema_context, schema);
	PaSchema   *compiled;

	instance = exact_copy(schema_context, instance);
	MemoryContextSwitchTo(schema_context);
	compiled = compile_and_check(&verdict, source, assert_formats, context);
	if (compiled)
	{
		MemoryContextSwitchTo(work_context);
		/* Another document before the question: nothing must remain of it. */
		if (errors_first && current.with_schema)
			ask_whether_it_matches(&verdict, compiled, source);
		if (!errors_first)
			ask_whether_it_matches(&verdict, compiled, instance);
		ask_for_errors(&verdict, compiled, source, instance);
		if (errors_first)
			ask_whether_it_matches(&verdict, compiled, instance);
		MemoryContextSwitchTo(context);
	}

	MemoryContextDelete(work_context);
	MemoryContextDelete(schema_context);

	return verdict;
}


/* ---- comparing the answers --------------------------------------------------------------------- */

static const char *
or_none(const char *message)
{
	return message ? message : "none";
}

/*
 * show_errors lists errors for a message of ours.
 */
static char *
show_errors(List *errors)
{
	StringInfoData text;
	ListCell   *cell;

	initStringInfo(&text);
	foreach(cell, errors)
	{
		PaValidationError *error = lfirst(cell);

		appendStringInfo(&text, "  at \"%s\": %s, schema \"%s\": %s\n",
						 error->instance_path, error->keyword, error->schema_path, error->message);
	}

	return text.data;
}

/*
 * check_verdict checks that the two walks agree.
 */
static void
check_verdict(Verdict *verdict)
{
	int			count = list_length(verdict->errors);

	if (verdict->problem || verdict->given_up)
		return;

	/* The walk that collects goes on where the other one stops, and so may meet an error that that does not. */
	if (verdict->match_error && !verdict->list_error && count < PA_MAX_VALIDATION_ERRORS)
		fail(verdict, "only the walk that answers yes or no raises \"%s\"", verdict->match_error);
	if (!verdict->match_error && !verdict->list_error && verdict->matches != (count == 0))
		fail(verdict, "the document %s, but has %d errors:\n%s",
			 verdict->matches ? "matches" : "does not match", count, show_errors(verdict->errors));
	if (!verdict->match_error && verdict->list_error && verdict->matches)
		fail(verdict, "the document matches, but the walk that collects errors raises \"%s\"", verdict->list_error);
	if (count > PA_MAX_VALIDATION_ERRORS)
		fail(verdict, "there are %d errors", count);
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

/*
 * same_errors tells whether two lists of errors are equal.  The places of those in the second one begin with
 * what the frame puts around, if there is one.
 */
static bool
same_errors(List *errors, List *framed, const Frame *frame)
{
	ListCell   *a;
	ListCell   *b;

	if (list_length(errors) != list_length(framed))
		return false;
	forboth(a, errors, b, framed)
	{
		PaValidationError *one = lfirst(a);
		PaValidationError *other = lfirst(b);

		if (!same_text(psprintf("%s%s", frame ? frame->instance_path : "", one->instance_path), other->instance_path) ||
			!same_text(psprintf("%s%s", frame ? frame->schema_path : "", one->schema_path), other->schema_path) ||
			!same_text(one->keyword, other->keyword) || !same_text(one->message, other->message))
			return false;
	}

	return true;
}

/*
 * check_same checks that both times the same was found out.
 */
static void
check_same(Verdict *verdict, const Verdict *again)
{
	if (again->failure)
		fail(verdict, "%s", again->failure);
	if (verdict->given_up || again->given_up)
		return;

	if (!same_text(verdict->problem, again->problem))
		fail(verdict, "the schema was compiled again; problems: %s, then %s",
			 or_none(verdict->problem), or_none(again->problem));
	if (verdict->matches != again->matches || !same_text(verdict->match_error, again->match_error))
		fail(verdict, "asked again whether the document matches: %d, then %d; raised: %s, then %s",
			 verdict->matches, again->matches, or_none(verdict->match_error), or_none(again->match_error));
	if (!same_errors(verdict->errors, again->errors, NULL) || !same_text(verdict->list_error, again->list_error))
		fail(verdict, "asked again for the errors:\n%sthen\n%sraised: %s, then %s",
			 show_errors(verdict->errors), show_errors(again->errors),
			 or_none(verdict->list_error), or_none(again->list_error));
}

/*
 * check_framed compares what was found out with what is found out of a schema and a document around.
 */
static void
check_framed(Verdict *verdict, const Frame *frame, bool is_boolean, const Verdict *framed)
{
	if (framed->failure)
		fail(verdict, "inside %s...%s: %s", frame->before, frame->after, framed->failure);
	if (verdict->given_up || framed->given_up)
		return;

	if ((verdict->problem == NULL) != (framed->problem == NULL))
		fail(verdict, "inside %s...%s; problems alone: %s, inside: %s", frame->before, frame->after,
			 or_none(verdict->problem), or_none(framed->problem));
	if (verdict->problem)
		return;

	/* Inside, all that anyOf holds may have to be applied; that can raise an error that is not met alone. */
	if (framed->match_error && !verdict->match_error)
		return;
	if (verdict->matches != framed->matches || (verdict->match_error && !framed->match_error))
		fail(verdict, "inside %s...%s; answer alone: %d, inside: %d; raised alone: %s, inside: %s",
			 frame->before, frame->after, verdict->matches, framed->matches,
			 or_none(verdict->match_error), or_none(framed->match_error));

	/* That "false" is the schema of additional properties is said of them as a whole. */
	if (frame->schema_path && !is_boolean && !verdict->list_error && !framed->list_error &&
		!same_errors(verdict->errors, framed->errors, frame))
		fail(verdict, "inside %s...%s; errors alone:\n%sinside:\n%s", frame->before, frame->after,
			 show_errors(verdict->errors), show_errors(framed->errors));
}


/* ---- one execution ----------------------------------------------------------------------------- */

/*
 * parse_document is a document as jsonb; NULL when PostgreSQL refuses it.
 */
static Jsonb *
parse_document(const char *text)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *volatile result = NULL;

	if (!pg_verifymbstr(text, strlen(text), true))
		return NULL;
	PG_TRY();
	{
		result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();

	return result;
}

/*
 * judge_framed judges the schema and the document inside of others.
 */
static Verdict
judge_framed(const Frame *frame, const JsonNode *schema, const char *document, bool assert_formats)
{
	JsonNode   *inside = pa_json_copy(schema);
	StringInfoData text;
	Jsonb	   *outer;
	Jsonb	   *outer_document;
	Verdict		verdict = {0};

	if (inside->kind == '{')
		pa_json_insert(inside, 0, "\"$id\"", pa_json_scalar("\"tag:fuzz\""));
	initStringInfo(&text);
	appendStringInfoString(&text, frame->before);
	pa_json_print(&text, inside);
	appendStringInfoString(&text, frame->after);

	outer = parse_document(text.data);
	outer_document = parse_document(psprintf("%s%s%s", frame->document_before, document, frame->document_after));
	if (outer && outer_document)
		return judge(outer, outer_document, assert_formats, false);
	verdict.given_up = true;

	return verdict;
}

static void
count_verdict(const Verdict *verdict)
{
	if (verdict->problem)
	{
		pa_fuzz_counts.refused++;
		return;
	}
	pa_fuzz_counts.compiled++;
	if (verdict->given_up)
		pa_fuzz_counts.given_up++;
	else if (verdict->match_error || verdict->list_error)
		pa_fuzz_counts.errors++;
	else if (verdict->matches)
		pa_fuzz_counts.matching++;
	else
		pa_fuzz_counts.not_matching++;
}

/*
 * examine_pair examines a schema and a document, and says how the validator failed; NULL if it did not.
 */
static char *
examine_pair(const JsonNode *schema, const JsonNode *document, uint32 choice)
{
	StringInfoData schema_text;
	StringInfoData document_text;
	Jsonb	   *source;
	Jsonb	   *instance;
	bool		assert_formats = choice & 1;
	const Frame *frame = &frames[choice / 2 % lengthof(frames)];
	Verdict		verdict;
	Verdict		other;

	initStringInfo(&schema_text);
	pa_json_print(&schema_text, schema);
	initStringInfo(&document_text);
	pa_json_print(&document_text, document);
	source = parse_document(schema_text.data);
	instance = parse_document(document_text.data);
	if (source == NULL || instance == NULL)
	{
		pa_fuzz_counts.skipped++;
		return NULL;
	}

	verdict = judge(source, instance, assert_formats, false);
	count_verdict(&verdict);
	check_verdict(&verdict);
	other = judge(source, instance, assert_formats, true);
	check_same(&verdict, &other);
	if (can_be_framed(schema))
	{
		other = judge_framed(frame, schema, document_text.data, assert_formats);
		check_framed(&verdict, frame, schema->kind != '{', &other);
	}

	return verdict.failure;
}

/*
 * pa_fuzz_examine examines an input, and says how the validator failed; NULL if it did not.  "choice" is one
 * of PA_FUZZ_CHOICES variants.  What is in the current memory context afterwards is the caller's to free.
 */
char *
pa_fuzz_examine(const char *data, size_t size, uint32 choice)
{
	JsonNode   *pair = pa_json_parse(data, size);

	if (pair && pair->kind == '[' && pair->count == 2 && all_tame(pair->children[0]))
	{
		current.n_references = count_references(pair->children[0]);
		current.with_schema = is_quick(pair->children[0], current.n_references);
		if (is_quick(pair->children[1], current.n_references))
			return examine_pair(pair->children[0], pair->children[1], choice);
	}
	pa_fuzz_counts.skipped++;

	return NULL;
}
