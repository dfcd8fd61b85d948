/*
 * validation_idna.c
 *		Labels of host names that stand for Unicode, xn--... (IDNA2008: RFC 5890 to 5893).
 *
 * Such a label is decoded (RFC 3492), and what comes out must be what a registry could have encoded.  That it is in
 * normalization form C is not checked.
 */
#include "prod_analytics.h"

#include "validation.h"
#include "validation_format.h"
#include "validation_idna.h"

/* A label of a host name has at most so many characters. */
#define MAX_LABEL 63

/* A label, decoded. */
typedef struct Label
{
	int			length;
	uint32		text[MAX_LABEL];
} Label;

/*
 * find_range finds the range that has a code point, among ranges in order; NULL when none has.
 */
static const Range *
find_range(uint32 c, const Range *ranges, int count)
{
	int			low = 0;

	while (low < count)
	{
		int			middle = low + (count - low) / 2;

		if (c < ranges[middle].first)
			count = middle;
		else if (c > ranges[middle].last)
			low = middle + 1;
		else
			return &ranges[middle];
	}

	return NULL;
}

#define IS_IN(c, ranges) (find_range(c, ranges, lengthof(ranges)) != NULL)

/*
 * is_between tells whether a code point lies in one range.
 */
static bool
is_between(uint32 c, uint32 first, uint32 last)
{
	return c >= first && c <= last;
}

/*
 * is_refused tells whether no label may contain a code point (RFC 5892, 3).
 */
static bool
is_refused(uint32 c)
{
	const Range *range = find_range(c, capitals, lengthof(capitals));

	return IS_IN(c, refused) || (range && (c - range->first) % 2 == 0);
}

/*
 * read_ascii takes a label as it stands, in lower case.
 */
static void
read_ascii(PaName text, Label *label)
{
	label->length = text.length;
	for (int i = 0; i < text.length; i++)
		label->text[i] = (text.text[i] >= 'A' && text.text[i] <= 'Z') ? text.text[i] - 'A' + 'a' : text.text[i];
}

/*
 * read_number reads a number of variable length, and moves behind it; false when there is none or it is out of
 * range (RFC 3492, 3.3).
 */
static bool
read_number(PaName *text, int bias, uint64 limit, uint64 *number)
{
	uint64		weight = 1;

	*number = 0;
	for (int k = 36; text->length > 0; k += 36)
	{
		char		c = *text->text++;
		int			threshold = Max(1, Min(26, k - bias));
		int			digit = (c >= '0' && c <= '9') ? c - '0' + 26 : (c | 0x20) - 'a';

		text->length--;
		if (digit < 0 || digit >= 36)
			return false;
		*number += digit * weight;
		if (*number > limit)
			return false;
		if (digit < threshold)
			return true;
		weight *= 36 - threshold;
	}

	return false;
}

/*
 * next_bias adapts the thresholds to the numbers read so far (RFC 3492, 6.1).
 */
static int
next_bias(uint64 delta, int count, bool first)
{
	int			k = 0;

	delta /= first ? 700 : 2;
	delta += delta / count;
	for (; delta > 455; k += 36)
		delta /= 35;

	return k + (int) (36 * delta / (delta + 38));
}

/*
 * decode reads what follows xn-- (RFC 3492, 6.2).  False also for what an encoder would have written differently: a
 * hyphen after no characters, or nothing behind the characters (RFC 5891, 5.4).
 */
static bool
decode(PaName text, Label *label)
{
	PaName		basic = {text.text, 0};
	uint64		position = 0;
	uint32		c = 0x80;
	int			bias = 72;

	for (int i = 0; i < text.length; i++)
		if (text.text[i] == '-')
			basic.length = i;
	if (basic.length == 0 && text.length > 0 && text.text[0] == '-')
		return false;
	read_ascii(basic, label);
	if (basic.length > 0)
	{
		text.text += basic.length + 1;
		text.length -= basic.length + 1;
	}
	if (text.length <= 0)
		return false;

	while (text.length > 0)
	{
		int			count = label->length + 1;
		bool		first = (label->length == basic.length);
		uint64		delta;

		if (!read_number(&text, bias, (uint64) 0x110000 * MAX_LABEL, &delta))
			return false;
		bias = next_bias(delta, count, first);
		position += delta;
		c += position / count;
		position %= count;
		if (c > 0x10FFFF)
			return false;
		memmove(&label->text[position + 1], &label->text[position], (label->length - position) * sizeof(uint32));
		label->text[position++] = c;
		label->length++;
	}

	return true;
}

/*
 * has_one_in tells whether some code point of a label lies in some ranges.
 */
static bool
has_one_in(const Label *label, const Range *ranges, int count)
{
	for (int i = 0; i < label->length; i++)
		if (find_range(label->text[i], ranges, count))
			return true;

	return false;
}

/*
 * joins tells whether the letters on both sides of a place join, marks between them aside (RFC 5892, A.1).
 */
static bool
joins(const Label *label, int at)
{
	int			before = at - 1;
	int			after = at + 1;

	while (before >= 0 && IS_IN(label->text[before], marks))
		before--;
	while (after < label->length && IS_IN(label->text[after], marks))
		after++;

	return before >= 0 && IS_IN(label->text[before], joins_next) &&
		after < label->length && IS_IN(label->text[after], joins_previous);
}

/*
 * has_context tells whether a code point may stand where it stands in a label (RFC 5892, appendix A).
 */
static bool
has_context(const Label *label, int at)
{
	uint32		c = label->text[at];
	uint32		previous = (at > 0) ? label->text[at - 1] : 0;
	uint32		next = (at + 1 < label->length) ? label->text[at + 1] : 0;

	switch (c)
	{
		case 0x200C:			/* zero width non-joiner */
			return IS_IN(previous, viramas) || joins(label, at);
		case 0x200D:			/* zero width joiner */
			return IS_IN(previous, viramas);
		case 0x00B7:			/* middle dot: Catalan */
			return previous == 'l' && next == 'l';
		case 0x0375:			/* keraia: before Greek */
			return IS_IN(next, greek);
		case 0x05F3:			/* geresh, gershayim: after Hebrew */
		case 0x05F4:
			return is_between(previous, 0x0591, 0x05F4);
		case 0x30FB:			/* katakana middle dot: with Japanese */
			return has_one_in(label, east_asian, lengthof(east_asian));
		default:
			/* Arabic-Indic digits: not of both kinds */
			return !is_between(c, 0x0660, 0x0669) || !has_one_in(label, extended_digits, lengthof(extended_digits));
	}
}

/*
 * is_unicode_label tells whether a decoded label may be one (RFC 5891, 4.2).
 */
static bool
is_unicode_label(const Label *label)
{
	const uint32 *text = label->text;

	if (text[0] == '-' || text[label->length - 1] == '-' ||
		(label->length >= 4 && text[2] == '-' && text[3] == '-') || IS_IN(text[0], marks))
		return false;
	for (int i = 0; i < label->length; i++)
		if (is_refused(text[i]) || !has_context(label, i))
			return false;

	return true;
}

/* What the Bidi rule tells apart, as bits (RFC 5893, 2). */
#define LEFT_TO_RIGHT 1
#define RIGHT_TO_LEFT 2
#define EUROPEAN_NUMBER 4
#define ARABIC_NUMBER 8

/*
 * direction_of is the class of a code point; 0 for those that may stand anywhere but at the beginning and, if they
 * are no marks, at the end.
 */
static int
direction_of(uint32 c)
{
	if (IS_IN(c, neutral) || IS_IN(c, marks))
		return 0;
	if (is_between(c, '0', '9') || IS_IN(c, extended_digits))
		return EUROPEAN_NUMBER;
	if (is_between(c, 0x0660, 0x0669) || is_between(c, 0x10D30, 0x10D39) || is_between(c, 0x10D40, 0x10D49))
		return ARABIC_NUMBER;

	return IS_IN(c, right_to_left) ? RIGHT_TO_LEFT : LEFT_TO_RIGHT;
}

/*
 * directions_of are the classes in a label.
 */
static int
directions_of(const Label *label)
{
	int			directions = 0;

	for (int i = 0; i < label->length; i++)
		directions |= direction_of(label->text[i]);

	return directions;
}

/*
 * follows_bidi_rule tells whether a label may stand in a name that has text from right to left (RFC 5893, 2).
 */
static bool
follows_bidi_rule(const Label *label)
{
	int			first = direction_of(label->text[0]);
	int			all = directions_of(label);
	int			last = label->length - 1;

	while (last > 0 && IS_IN(label->text[last], marks))
		last--;
	if (direction_of(label->text[last]) == 0)
		return false;
	if (first == LEFT_TO_RIGHT)
		return (all & (RIGHT_TO_LEFT | ARABIC_NUMBER)) == 0;

	return first == RIGHT_TO_LEFT && (all & LEFT_TO_RIGHT) == 0 &&
		(all & (EUROPEAN_NUMBER | ARABIC_NUMBER)) != (EUROPEAN_NUMBER | ARABIC_NUMBER);
}

/*
 * read_label reads a label, decoded if it is encoded; false when it is encoded and could not have been.
 */
static bool
read_label(PaName text, Label *label)
{
	PaName		encoded = text;

	Assert(text.length > 0 && text.length <= MAX_LABEL);
	if (take(&encoded, "Xx") && take(&encoded, "Nn") && take(&encoded, "-") && take(&encoded, "-"))
		return decode(encoded, label) && is_unicode_label(label);
	read_ascii(text, label);

	return true;
}

/*
 * pa_is_idna_name tells whether the encoded labels of a host name stand for Unicode that they may stand for.  The
 * name consists of labels of at most 63 letters, digits and hyphens each.
 */
bool
pa_is_idna_name(PaName name)
{
	bool		is_bidi = false;
	bool		follows_rule = true;

	while (name.length > 0)
	{
		const char *dot = memchr(name.text, '.', name.length);
		PaName		text = {name.text, dot ? dot - name.text : name.length};
		Label		label = {0};

		if (!read_label(text, &label))
			return false;
		/* One label from right to left puts all labels under the rule. */
		is_bidi |= (directions_of(&label) & (RIGHT_TO_LEFT | ARABIC_NUMBER)) != 0;
		follows_rule &= follows_bidi_rule(&label);
		skip(&name, text.length + (dot ? 1 : 0));
	}

	return follows_rule || !is_bidi;
}
