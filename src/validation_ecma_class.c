/*
 * validation_ecma_class.c
 *		Characters and classes of regular expressions.
 *
 * A class becomes brackets with the characters that it stands for.  With other encodings than UTF8 the
 * engine has other numbers for what is not ASCII: there the classes by name end with ASCII, and numbers of
 * characters are refused that go beyond it.
 */
#include "prod_analytics.h"

#include "miscadmin.h"
#include "validation_charset.h"
#include "validation_ecma.h"

#define MAX_NAME 64				/* of a property */

/* Stands for the empty set: no text has it. */
#define NO_CHARACTER 0x110000

static const PaCharacters digits[] = {{'0', '9'}};
static const PaCharacters word_characters[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};

/* Those of ASCII come first. */
static const PaCharacters spaces[] = {
	{'\t', '\r'}, {' ', ' '}, {0xA0, 0xA0}, {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
	{0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}
};
static const PaCharacters line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

/*
 * put_class writes a set of characters, as brackets if need be.
 *
 * A set that has the highest character is written as what it does not have.
 */
static void
put_class(PaTranslation *t, PaCharset *set)
{
	bool		is_negated;

	pa_charset_sort(set);
	is_negated = set->count > 0 && set->ranges[set->count - 1].last == t->highest;
	if (is_negated)
		pa_charset_invert(set, t->highest);

	if (set->count == 0)
		pa_ecma_put(t, is_negated ? '.' : NO_CHARACTER);
	else if (!is_negated && set->count == 1 && set->ranges[0].first == set->ranges[0].last)
		pa_ecma_put_literal(t, set->ranges[0].first);
	else
	{
		pa_ecma_put_text(t, is_negated ? "[^" : "[");
		for (int i = 0; i < set->count; i++)
		{
			pa_ecma_put_literal(t, set->ranges[i].first);
			if (set->ranges[i].first == set->ranges[i].last)
				continue;
			pa_ecma_put(t, '-');
			pa_ecma_put_literal(t, set->ranges[i].last);
		}
		pa_ecma_put(t, ']');
	}
}

/*
 * read_hexadecimal reads so many digits; false when they are not there.
 */
static bool
read_hexadecimal(PaTranslation *t, int count, pg_wchar *value)
{
	pg_wchar	result = 0;

	if (t->end - t->next < count)
		return false;
	for (int i = 0; i < count; i++)
	{
		pg_wchar	c = t->next[i];

		if (!is_one_of(c, "0123456789abcdefABCDEF"))
			return false;
		result = result * 16 + (is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
	}
	t->next += count;
	*value = result;

	return true;
}

/*
 * read_code_point reads what follows \u: four digits, eight in two halves, or some in braces.
 */
static pg_wchar
read_code_point(PaTranslation *t)
{
	const pg_wchar *start = t->next;
	pg_wchar	result = 0;
	pg_wchar	digit;
	pg_wchar	low;

	if (take(t, '{'))
	{
		while (result <= 0x10FFFF && read_hexadecimal(t, 1, &digit))
			result = result * 16 + digit;
		if (t->next == start + 1 || result > 0x10FFFF || !take(t, '}'))
			pa_ecma_complain(t, "\\u{ is not followed by the number of a character and }");
		return result;
	}

	if (!read_hexadecimal(t, 4, &result))
		pa_ecma_complain(t, "\\u is not followed by four hexadecimal digits");
	start = t->next;
	if (result >= 0xD800 && result <= 0xDBFF && take(t, '\\') && take(t, 'u') &&
		read_hexadecimal(t, 4, &low) && low >= 0xDC00 && low <= 0xDFFF)
		return 0x10000 + ((result - 0xD800) << 10) + (low - 0xDC00);
	if (t->problem == NULL)
		t->next = start;

	return result;
}

/*
 * read_number_of_character reads the character that \x and \u give by number.
 */
static pg_wchar
read_number_of_character(PaTranslation *t, pg_wchar letter)
{
	pg_wchar	result = 0;

	if (letter == 'u')
		result = read_code_point(t);
	else if (!read_hexadecimal(t, 2, &result))
		pa_ecma_complain(t, "\\x is not followed by two hexadecimal digits");
	if (result > 0x7F && !t->is_unicode)
		pa_ecma_complain(t, "a number of a character above \\x7F needs a database in UTF8");

	return result;
}

/*
 * read_escaped_character gives the character that an escape stands for, of which the backslash and "letter"
 * have been read.
 *
 * Punctuation stands for itself also where ECMA-262 would have it without a backslash.
 */
static pg_wchar
read_escaped_character(PaTranslation *t, pg_wchar letter)
{
	static const char letters[] = "tnvfr";
	static const char meanings[] = "\t\n\v\f\r";

	if (is_one_of(letter, letters))
		return meanings[strchr(letters, (int) letter) - letters];
	if (letter == 'x' || letter == 'u')
		return read_number_of_character(t, letter);
	if (letter == 'c' && t->next < t->end && is_letter(*t->next))
		return *t->next++ & 0x1F;
	if (letter == '0' && (t->next == t->end || !is_digit(*t->next)))
		return 0;
	if (is_letter(letter) || is_digit(letter))
		pa_ecma_complain(t, psprintf("\\%c is no escape here", (int) letter));

	return letter;
}

/*
 * read_property adds the characters of what follows \p.
 */
static void
read_property(PaTranslation *t, pg_wchar letter, PaCharset *set)
{
	char		name[MAX_NAME];
	int			length = 0;

	if (!take(t, '{'))
	{
		pa_ecma_complain(t, psprintf("\\%c is not followed by the name of a property in braces", (int) letter));
		return;
	}
	while (t->next < t->end && length < MAX_NAME - 1 &&
		   (is_letter(*t->next) || is_digit(*t->next) || is_one_of(*t->next, "_=")))
		name[length++] = (char) *t->next++;
	name[length] = '\0';

	if (!take(t, '}'))
		pa_ecma_complain(t, psprintf("\\%c{%s is not the name of a property and }", (int) letter, name));
	else if (!t->is_unicode)
		pa_ecma_complain(t, psprintf("\\%c{%s} needs a database in UTF8", (int) letter, name));
	else if (!pa_charset_add_property(set, name))
		pa_ecma_complain(t, psprintf("\\%c{%s} is not a known property", (int) letter, name));
}

/*
 * read_escaped_class adds the characters of an escape that stands for many; false when it does not.
 */
static bool
read_escaped_class(PaTranslation *t, pg_wchar letter, PaCharset *set)
{
	PaCharset	class = {0};

	switch (letter)
	{
		case 'd':
		case 'D':
			pa_charset_add_all(&class, digits, lengthof(digits));
			break;
		case 'w':
		case 'W':
			pa_charset_add_all(&class, word_characters, lengthof(word_characters));
			break;
		case 's':
		case 'S':
			pa_charset_add_all(&class, spaces, t->is_unicode ? lengthof(spaces) : 2);
			break;
		case 'p':
		case 'P':
			read_property(t, letter, &class);
			break;
		default:
			return false;
	}
	if (is_one_of(letter, "DWSP"))
		pa_charset_invert(&class, t->highest);
	pa_charset_add_all(set, class.ranges, class.count);
	pa_charset_free(&class);

	return true;
}

/*
 * read_member reads a character within brackets; false when it was many, which are added to the set.
 */
static bool
read_member(PaTranslation *t, PaCharset *set, pg_wchar *character)
{
	pg_wchar	letter;

	*character = *t->next++;
	if (*character != '\\')
		return true;
	if (t->next == t->end)
	{
		pa_ecma_complain(t, "it ends with a backslash");
		return true;
	}

	letter = *t->next++;
	if (read_escaped_class(t, letter, set))
		return false;
	*character = letter == 'b' ? '\b' : read_escaped_character(t, letter);

	return true;
}

/*
 * pa_ecma_read_brackets reads what follows an opening bracket.
 */
void
pa_ecma_read_brackets(PaTranslation *t)
{
	PaCharset	set = {0};
	bool		is_negated = take(t, '^');

	pa_ecma_begin_atom(t);
	while (t->next < t->end && *t->next != ']')
	{
		pg_wchar	first;
		pg_wchar	last;
		bool		is_character = read_member(t, &set, &first);

		CHECK_FOR_INTERRUPTS();
		last = first;
		if (t->end - t->next >= 2 && t->next[0] == '-' && t->next[1] != ']')
		{
			t->next++;
			if (!read_member(t, &set, &last) || !is_character)
				pa_ecma_complain(t, "a class cannot begin or end a range: a hyphen beside it must be written \\-");
			else if (first > last)
				pa_ecma_complain(t, "a range of characters ends before it begins");
		}
		if (is_character && t->problem == NULL)
			pa_charset_add(&set, first, last);
	}
	if (!take(t, ']'))
		pa_ecma_complain(t, "a bracket [ is not closed");
	if (is_negated)
		pa_charset_invert(&set, t->highest);
	put_class(t, &set);
	pa_charset_free(&set);
}

/*
 * pa_ecma_read_dot writes what a dot stands for: any character that does not end a line.
 */
void
pa_ecma_read_dot(PaTranslation *t)
{
	PaCharset	set = {0};

	pa_ecma_begin_atom(t);
	pa_charset_add_all(&set, line_ends, t->is_unicode ? lengthof(line_ends) : 2);
	pa_charset_invert(&set, t->highest);
	put_class(t, &set);
	pa_charset_free(&set);
}

/*
 * pa_ecma_read_escape reads an escape that stands for characters, of which the backslash and "letter" have
 * been read.
 */
void
pa_ecma_read_escape(PaTranslation *t, pg_wchar letter)
{
	PaCharset	set = {0};

	pa_ecma_begin_atom(t);
	if (read_escaped_class(t, letter, &set))
		put_class(t, &set);
	else
		pa_ecma_put_literal(t, read_escaped_character(t, letter));
	pa_charset_free(&set);
}
