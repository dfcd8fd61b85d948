/*
 * validation_ecma.c
 *		From a regular expression of ECMA-262 to one of PostgreSQL.
 *
 * The pattern is read as ECMA-262 says for the unicode mode, and everything in it is written anew: nothing
 * gets through that PostgreSQL would read in another way.  What makes no difference to whether a text
 * matches is left out, because it would cost time: parentheses that capture for nothing, and the "?" of
 * quantifiers that are not greedy.
 */
#include "prod_analytics.h"

#include "miscadmin.h"
#include "validation.h"
#include "validation_ecma.h"

#define MAX_PATTERN_LENGTH 100000	/* bytes */
#define MAX_NUMBER 100000		/* more is as much */

/*
 * read_name reads the name of a group, up to and with the ">".
 */
static const pg_wchar *
read_name(PaTranslation *t, int *length)
{
	const pg_wchar *start = t->next;

	while (t->next < t->end &&
		   (is_letter(*t->next) || is_digit(*t->next) || is_one_of(*t->next, "_$") || *t->next > 0x7F))
		t->next++;
	*length = t->next - start;
	if (*length == 0 || is_digit(*start) || !take(t, '>'))
		pa_ecma_complain(t, "the name of a group is missing or not closed with >");

	return start;
}

/*
 * find_capture gives the number of the group of a name, from 0, or -1.
 */
static int
find_capture(PaTranslation *t, const pg_wchar *name, int length)
{
	for (int i = 0; i < Max(t->n_captures, t->n_known); i++)
	{
		if (t->captures[i].name && t->captures[i].name_length == length &&
			memcmp(t->captures[i].name, name, length * sizeof(pg_wchar)) == 0)
			return i;
	}

	return -1;
}

/*
 * add_capture notes that parentheses capture, and gives their number from 0.
 */
static int
add_capture(PaTranslation *t, const pg_wchar *name, int name_length)
{
	PaCapture  *capture;

	if (t->n_captures == t->max_captures)
	{
		t->max_captures *= 2;
		t->captures = repalloc(t->captures, t->max_captures * sizeof(PaCapture));
	}
	capture = &t->captures[t->n_captures];
	capture->state = CAPTURE_EMPTY;
	if (t->n_known < 0)
	{
		if (name && find_capture(t, name, name_length) >= 0)
			pa_ecma_complain(t, "two groups have the same name");
		capture->name = name;
		capture->name_length = name_length;
		capture->is_needed = false;
		capture->number = 0;
	}
	if (capture->is_needed)
		capture->number = ++t->n_written;

	return t->n_captures++;
}

/*
 * read_group_kind reads what follows an opening parenthesis, and writes what opens the group in PostgreSQL.
 */
static void
read_group_kind(PaTranslation *t, PaOpenGroup *group)
{
	const pg_wchar *name = NULL;
	int			name_length = 0;
	bool		is_lookbehind = false;

	if (take(t, '?'))
	{
		if (take(t, ':'))
		{
			pa_ecma_put_text(t, "(?:");
			return;
		}
		if (take(t, '<'))
			is_lookbehind = t->next < t->end && is_one_of(*t->next, "=!");
		if (t->next < t->end && is_one_of(*t->next, "=!"))
		{
			pg_wchar	sign = *t->next++;

			group->is_lookaround = true;
			pa_ecma_put_text(t, is_lookbehind ? "(?<" : "(?");
			pa_ecma_put(t, sign);
			return;
		}
		if (t->next[-1] != '<')
		{
			pa_ecma_complain(t, "( is followed by a ? that begins no kind of group of ECMA-262");
			return;
		}
		name = read_name(t, &name_length);
	}
	group->capture = add_capture(t, name, name_length);
	pa_ecma_put_text(t, t->captures[group->capture].is_needed ? "(" : "(?:");
}

/*
 * open_group reads the beginning of a group.
 */
static void
open_group(PaTranslation *t)
{
	PaOpenGroup *group;

	if (t->depth == t->max_depth)
	{
		t->max_depth *= 2;
		t->groups = repalloc(t->groups, t->max_depth * sizeof(PaOpenGroup));
	}
	group = &t->groups[t->depth++];
	memset(group, 0, sizeof(PaOpenGroup));
	group->start = t->length;
	group->positions = t->positions;
	group->capture = -1;
	group->first_capture = t->n_captures;
	group->references = t->n_references;
	group->before_can_be_empty = t->can_be_empty;
	t->can_be_empty = true;
	pa_ecma_count_positions(t, 1);
	read_group_kind(t, group);
	t->lookarounds += group->is_lookaround;
	t->atom = -1;
}

/*
 * set_captures tells what references to the groups from a first on mean from now on.
 */
static void
set_captures(PaTranslation *t, int first, PaCaptureState state)
{
	for (int i = first; i < t->n_captures; i++)
	{
		if (t->captures[i].state != CAPTURE_HIDDEN)
			t->captures[i].state = state;
	}
}

/*
 * next_branch reads a "|".
 */
static void
next_branch(PaTranslation *t)
{
	int			first_capture = 0;

	if (t->depth > 0)
	{
		PaOpenGroup *group = &t->groups[t->depth - 1];

		group->has_branches = true;
		group->branch_can_be_empty |= t->can_be_empty;
		first_capture = group->first_capture;
	}
	set_captures(t, first_capture, CAPTURE_EMPTY);
	pa_ecma_count_positions(t, 1);
	pa_ecma_put(t, '|');
	t->can_be_empty = true;
	t->atom = -1;
}

/*
 * close_group reads the end of a group.
 */
static void
close_group(PaTranslation *t)
{
	PaOpenGroup *group;

	if (t->depth == 0)
	{
		pa_ecma_complain(t, "a parenthesis ) closes nothing");
		return;
	}
	group = &t->groups[--t->depth];
	pa_ecma_put(t, ')');
	if (group->has_branches)
		set_captures(t, group->first_capture, CAPTURE_UNCERTAIN);
	if (group->capture >= 0)
		t->captures[group->capture].state = CAPTURE_CERTAIN;
	if (group->is_lookaround)
		set_captures(t, group->first_capture, CAPTURE_HIDDEN);
	t->lookarounds -= group->is_lookaround;

	t->atom = group->is_lookaround ? -1 : group->start;
	t->atom_positions = group->positions;
	t->atom_capture = group->first_capture;
	t->atom_references = group->references;
	t->atom_can_be_empty = t->can_be_empty || group->branch_can_be_empty || group->is_lookaround;
	t->before_can_be_empty = group->before_can_be_empty;
	t->can_be_empty = t->before_can_be_empty && t->atom_can_be_empty;
}

/*
 * refer_to writes a reference to a group, whose number from 0 is given.
 *
 * In ECMA-262 a group that has not matched is the empty text; in PostgreSQL nothing matches it.  Where it
 * is the one or the other, or PostgreSQL has forgotten what it was, we cannot say the same.
 */
static void
refer_to(PaTranslation *t, int capture)
{
	PaCaptureState state = capture >= 0 && capture < t->n_captures ? t->captures[capture].state : CAPTURE_EMPTY;

	if (t->n_known >= 0 && (capture < 0 || capture >= t->n_known))
		pa_ecma_complain(t, "it refers to a group that is not there");
	pa_ecma_begin_atom(t);
	t->n_references++;
	t->atom_can_be_empty = true;
	t->can_be_empty = t->before_can_be_empty;
	if (state == CAPTURE_EMPTY)
	{
		pa_ecma_put_text(t, "(?:)");
		return;
	}
	if (state == CAPTURE_UNCERTAIN)
		pa_ecma_complain(t, "a reference to a group that need not take part in the match is not supported");
	if (state == CAPTURE_HIDDEN || t->lookarounds > 0)
		pa_ecma_complain(t, "a reference in a lookahead or lookbehind, or to a group in one, is not supported");
	t->captures[capture].is_needed = true;
	pa_ecma_put_text(t, psprintf("(?:\\%d)", t->captures[capture].number));
}

/*
 * read_number reads some digits; what is too large for anything is cut.
 */
static int
read_number(PaTranslation *t)
{
	int			result = 0;

	for (; t->next < t->end && is_digit(*t->next); t->next++)
		result = Min(result * 10 + (int) (*t->next - '0'), MAX_NUMBER);

	return result;
}

/*
 * read_escape reads what follows a backslash outside of brackets.
 */
static void
read_escape(PaTranslation *t)
{
	pg_wchar	letter;

	if (t->next == t->end)
	{
		pa_ecma_complain(t, "it ends with a backslash");
		return;
	}

	letter = *t->next++;
	if (letter == 'b' || letter == 'B')
	{
		pa_ecma_count_positions(t, 1);
		pa_ecma_put_text(t, letter == 'b' ? "\\y" : "\\Y");
		t->atom = -1;
	}
	else if (letter >= '1' && letter <= '9')
	{
		t->next--;
		refer_to(t, read_number(t) - 1);
	}
	else if (letter == 'k' && take(t, '<'))
	{
		int			length;
		const pg_wchar *name = read_name(t, &length);

		refer_to(t, find_capture(t, name, length));
	}
	else
		pa_ecma_read_escape(t, letter);
}

/*
 * read_bounds reads what follows an opening brace.
 */
static void
read_bounds(PaTranslation *t, int *minimum, int *maximum)
{
	bool		is_quantifier = t->next < t->end && is_digit(*t->next);

	*minimum = read_number(t);
	*maximum = *minimum;
	if (take(t, ','))
		*maximum = t->next < t->end && is_digit(*t->next) ? read_number(t) : PA_UNLIMITED;
	if (!is_quantifier || !take(t, '}'))
		pa_ecma_complain(t, "a brace { that begins no quantifier must be written \\{");
	else if (*maximum != PA_UNLIMITED && *maximum < *minimum)
		pa_ecma_complain(t, "a quantifier has its numbers in the wrong order");
}

/*
 * read_quantifier reads a quantifier, of which the first character has been read.
 *
 * Whether it is greedy makes no difference to whether there is a match.
 */
static void
read_quantifier(PaTranslation *t, pg_wchar c)
{
	int			minimum = c == '+' ? 1 : 0;
	int			maximum = c == '?' ? 1 : PA_UNLIMITED;

	if (c == '{')
		read_bounds(t, &minimum, &maximum);
	(void) take(t, '?');
	if (t->atom < 0)
		pa_ecma_complain(t, psprintf("there is nothing to repeat before %c", (int) c));
	if (t->problem)
		return;

	pa_ecma_count_positions(t, (int64) (t->positions - t->atom_positions) * (Max(Max(minimum, maximum), 1) - 1));
	if (minimum == 0)
	{
		t->can_be_empty = t->before_can_be_empty;
		set_captures(t, t->atom_capture, CAPTURE_UNCERTAIN);
	}
	pa_ecma_repeat_atom(t, minimum, maximum);
	t->atom = -1;
}

/*
 * read_term reads the next part of a pattern.
 */
static void
read_term(PaTranslation *t)
{
	pg_wchar	c = *t->next++;

	if (c == '(')
		open_group(t);
	else if (c == ')')
		close_group(t);
	else if (c == '|')
		next_branch(t);
	else if (c == '[')
		pa_ecma_read_brackets(t);
	else if (c == '\\')
		read_escape(t);
	else if (is_one_of(c, "*+?{"))
		read_quantifier(t, c);
	else if (is_one_of(c, "]}"))
		pa_ecma_complain(t, psprintf("%c must be written \\%c here", (int) c, (int) c));
	else if (is_one_of(c, "^$"))
	{
		pa_ecma_count_positions(t, 1);
		pa_ecma_put(t, c);
		t->atom = -1;
	}
	else if (c == '.')
		pa_ecma_read_dot(t);
	else
	{
		pa_ecma_begin_atom(t);
		pa_ecma_put_literal(t, c);
	}
}

/*
 * read_pattern goes through a pattern once.
 */
static void
read_pattern(PaTranslation *t, const pg_wchar *pattern, int length)
{
	t->next = pattern;
	t->end = pattern + length;
	t->length = 0;
	t->positions = 0;
	t->depth = 0;
	t->lookarounds = 0;
	t->n_captures = 0;
	t->n_written = 0;
	t->n_references = 0;
	t->can_be_empty = true;
	t->atom = -1;

	/*
	 * Where there are references PostgreSQL's search does not try all the places where a match could begin:
	 * 'abab' ~ '(a|b)(a|b)\2|$' is false.  At the beginning of the text it does try everything.
	 */
	if (t->n_known >= 0)
		pa_ecma_put_text(t, "^.*(?:");
	while (t->next < t->end)
	{
		CHECK_FOR_INTERRUPTS();
		read_term(t);
	}
	if (t->n_known >= 0)
		pa_ecma_put(t, ')');
	if (t->depth > 0)
		pa_ecma_complain(t, "a parenthesis ( is not closed");
}

/*
 * pa_translate_pattern turns a regular expression of ECMA-262 into one of PostgreSQL, in the characters of
 * its engine; NULL, and the problem, when it is not one or cannot be translated.
 *
 * Which groups something refers to is known after a first pass.
 */
pg_wchar *
pa_translate_pattern(PaName pattern, int *length, const char **problem)
{
	PaTranslation t = {0};
	pg_wchar   *characters;
	int			n_characters;

	if (pattern.length > MAX_PATTERN_LENGTH)
	{
		*problem = psprintf("it has more than %d bytes", MAX_PATTERN_LENGTH);
		return NULL;
	}

	t.is_unicode = GetDatabaseEncoding() == PG_UTF8;
	t.highest = t.is_unicode ? 0x10FFFF : PG_UINT32_MAX - 1;
	t.size = 256;
	t.output = palloc(t.size * sizeof(pg_wchar));
	t.max_depth = 8;
	t.groups = palloc(t.max_depth * sizeof(PaOpenGroup));
	t.max_captures = 8;
	t.captures = palloc(t.max_captures * sizeof(PaCapture));
	characters = palloc((pattern.length + 1) * sizeof(pg_wchar));
	n_characters = pg_mb2wchar_with_len(pattern.text, characters, pattern.length);

	t.n_known = -1;
	read_pattern(&t, characters, n_characters);
	if (t.n_references > 0 && t.problem == NULL)
	{
		t.n_known = t.n_captures;
		read_pattern(&t, characters, n_characters);
	}
	*length = t.length;
	*problem = t.problem;

	return t.problem ? NULL : t.output;
}
