/*
 * validation_format.h
 *		Walking the grammars of formats.
 *
 * What takes something removes it from the front of the text when it is there.  All is ASCII, whatever the locale.
 */
#ifndef PA_VALIDATION_FORMAT_H
#define PA_VALIDATION_FORMAT_H

#include "validation.h"

/*
 * is_digit tells whether a character is an ASCII digit.
 */
static inline bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/*
 * is_letter tells whether a character is an ASCII letter.
 */
static inline bool
is_letter(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/*
 * is_hex tells whether a character is a hexadecimal digit.
 */
static inline bool
is_hex(char c)
{
	return is_digit(c) || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f');
}

/*
 * is_one_of tells whether a character is among some.
 */
static inline bool
is_one_of(char c, const char *characters)
{
	return memchr(characters, c, strlen(characters)) != NULL;
}

/*
 * skip removes characters from the front of a text that has them.
 */
static inline void
skip(PaName *text, int count)
{
	text->text += count;
	text->length -= count;
}

/*
 * take takes one of some characters.
 */
static inline bool
take(PaName *text, const char *characters)
{
	if (text->length == 0 || !is_one_of(text->text[0], characters))
		return false;
	skip(text, 1);

	return true;
}

/*
 * take_while takes as many characters of a kind as there are, up to a limit, and returns how many.
 */
static inline int
take_while(PaName *text, bool (*is_of_kind) (char), int limit)
{
	int			count = 0;

	while (count < limit && count < text->length && is_of_kind(text->text[count]))
		count++;
	skip(text, count);

	return count;
}

/*
 * take_number takes a number of so many digits, if it is in range.
 */
static inline bool
take_number(PaName *text, int digits, int least, int most, int *number)
{
	*number = 0;
	for (int i = 0; i < digits; i++)
	{
		if (text->length == 0 || !is_digit(text->text[0]))
			return false;
		*number = *number * 10 + (text->text[0] - '0');
		skip(text, 1);
	}

	return *number >= least && *number <= most;
}

/* validation_address.c */
extern bool pa_is_ipv4(PaName text);
extern bool pa_is_ipv6(PaName text);
extern bool pa_is_hostname(PaName text);
extern bool pa_is_email(PaName text);
extern bool pa_is_uri(PaName text);

/* validation_idna.c */
extern bool pa_is_idna_name(PaName name);

#endif							/* PA_VALIDATION_FORMAT_H */
