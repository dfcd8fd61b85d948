/*
 * validation_ecma_write.c
 *		Writing the regular expressions that PostgreSQL is to read.
 */
#include "prod_analytics.h"

#include "validation_ecma.h"

#define MAX_POSITIONS 12000
#define MAX_OUTPUT 1000000		/* characters */

/* The most repetitions that PostgreSQL takes. */
#define MAX_REPETITIONS 255

/*
 * How deep optional repetitions are nested, from how many on, and how long they may be for so few.  What is
 * left for the end is at most MAX_REPETITIONS, because MAX_POSITIONS is not more than half of that times
 * MAX_NESTING.
 */
#define MAX_NESTING 100
#define NESTING_PAYS 8
#define NESTING_MAX_ATOM 64

/*
 * pa_ecma_complain ends the translation.
 */
void
pa_ecma_complain(PaTranslation *t, const char *problem)
{
	if (t->problem == NULL)
		t->problem = problem;
	t->next = t->end;
}

/*
 * pa_ecma_put writes a character.
 */
void
pa_ecma_put(PaTranslation *t, pg_wchar c)
{
	if (t->length == MAX_OUTPUT)
	{
		pa_ecma_complain(t, "it is too long when its classes and repetitions are written out");
		return;
	}
	if (t->length == t->size)
	{
		t->size *= 2;
		t->output = repalloc(t->output, t->size * sizeof(pg_wchar));
	}
	t->output[t->length++] = c;
}

void
pa_ecma_put_text(PaTranslation *t, const char *text)
{
	for (; *text; text++)
		pa_ecma_put(t, (unsigned char) *text);
}

/*
 * pa_ecma_put_literal writes a character that stands for itself, within brackets or outside.
 */
void
pa_ecma_put_literal(PaTranslation *t, pg_wchar c)
{
	if (c > ' ' && c < 0x7F && !is_letter(c) && !is_digit(c))
		pa_ecma_put(t, '\\');
	pa_ecma_put(t, c);
}

/*
 * pa_ecma_count_positions counts some more of them.
 */
void
pa_ecma_count_positions(PaTranslation *t, int64 count)
{
	if (t->positions + count > MAX_POSITIONS)
		pa_ecma_complain(t, psprintf("it matches more than %d characters one by one when its repetitions are written out",
									 MAX_POSITIONS));
	else
		t->positions += count;
}

/*
 * pa_ecma_begin_atom begins something that a quantifier can repeat.
 */
void
pa_ecma_begin_atom(PaTranslation *t)
{
	t->atom = t->length;
	t->atom_positions = t->positions;
	t->atom_capture = t->n_captures;
	t->atom_references = t->n_references;
	t->atom_can_be_empty = false;
	t->before_can_be_empty = t->can_be_empty;
	t->can_be_empty = false;
	pa_ecma_count_positions(t, 1);
}

/*
 * put_atom writes an atom once more.
 */
static void
put_atom(PaTranslation *t, const pg_wchar *atom, int length)
{
	for (int i = 0; i < length; i++)
		pa_ecma_put(t, atom[i]);
}

/*
 * put_copies writes so many of an atom, one after the other.
 */
static void
put_copies(PaTranslation *t, const pg_wchar *atom, int length, int count)
{
	int			rest = count % MAX_REPETITIONS;

	if (count >= MAX_REPETITIONS)
	{
		pa_ecma_put_text(t, "(?:");
		put_atom(t, atom, length);
		pa_ecma_put_text(t, psprintf("{%d}){%d}", MAX_REPETITIONS, count / MAX_REPETITIONS));
	}
	if (rest == 0)
		return;
	put_atom(t, atom, length);
	if (rest > 1)
		pa_ecma_put_text(t, psprintf("{%d}", rest));
}

/*
 * put_optional_copies writes up to so many of an atom.
 *
 * PostgreSQL takes x{0,3} for x?x?x?, and follows all the ways to match the x at the same time.  In
 * (?:x(?:x(?:x)?)?)? there is only one way.  So that this does not nest too deep, each parenthesis has some
 * of them when they are many, and less than that come at the end.
 */
static void
put_optional_copies(PaTranslation *t, const pg_wchar *atom, int length, int count)
{
	int			step = (count + MAX_NESTING - 1) / MAX_NESTING;
	int			depth = (count - (step - 1)) / step;
	int			rest = count - depth * step;

	for (int i = 0; i < depth; i++)
	{
		pa_ecma_put_text(t, "(?:");
		put_copies(t, atom, length, step);
	}
	for (int i = 0; i < depth; i++)
		pa_ecma_put_text(t, ")?");
	if (rest == 0)
		return;
	put_atom(t, atom, length);
	pa_ecma_put_text(t, psprintf("{0,%d}", rest));
}

/*
 * put_bounds writes a quantifier that PostgreSQL has.
 */
static void
put_bounds(PaTranslation *t, int minimum, int maximum)
{
	if (maximum == PA_UNLIMITED)
		pa_ecma_put_text(t, psprintf("{%d,}", minimum));
	else if (maximum == minimum)
		pa_ecma_put_text(t, psprintf("{%d}", minimum));
	else
		pa_ecma_put_text(t, psprintf("{%d,%d}", minimum, maximum));
}

/*
 * put_repetitions writes an atom anew, as often as PostgreSQL does not take it or not as fast.
 */
static void
put_repetitions(PaTranslation *t, int minimum, int maximum, bool one_by_one)
{
	int			length = t->length - t->atom;
	pg_wchar   *atom = palloc(length * sizeof(pg_wchar));

	memcpy(atom, t->output + t->atom, length * sizeof(pg_wchar));
	t->length = t->atom;

	if (one_by_one)
	{
		for (int i = 0; i < minimum; i++)
			put_atom(t, atom, length);
	}
	else
		put_copies(t, atom, length, minimum);

	if (maximum == PA_UNLIMITED)
	{
		put_atom(t, atom, length);
		pa_ecma_put(t, '*');
	}
	else if (maximum > minimum)
		put_optional_copies(t, atom, length, maximum - minimum);
	pfree(atom);
}

/*
 * pa_ecma_repeat_atom writes what a quantifier does to the last atom.
 *
 * PostgreSQL counts the groups that it can refer to, so that they cannot be written twice.  Where a
 * repetition is empty it has other ideas than ECMA-262 of what such a group is then; and of atoms that
 * refer to a group it finds at least two only when they are not empty, or not repetitions.
 */
void
pa_ecma_repeat_atom(PaTranslation *t, int minimum, int maximum)
{
	int			length = t->length - t->atom;
	bool		has_references = t->n_references > t->atom_references;
	bool		is_large = Max(minimum, maximum) > MAX_REPETITIONS;
	bool		pays = maximum - minimum >= NESTING_PAYS && length <= NESTING_MAX_ATOM && !has_references;
	bool		one_by_one = has_references && t->atom_can_be_empty && minimum > 1;
	bool		is_counted = false;

	for (int i = t->atom_capture; i < t->n_captures; i++)
		is_counted = is_counted || t->captures[i].is_needed;
	if (is_counted && (is_large || (t->atom_can_be_empty && maximum != 1)))
		pa_ecma_complain(t, psprintf("repeating a group that is referred to is not supported when it can be empty, "
									 "nor more than %d times", MAX_REPETITIONS));

	if (!is_counted && (is_large || pays || one_by_one))
		put_repetitions(t, minimum, maximum, one_by_one);
	else
		put_bounds(t, minimum, maximum);
}
