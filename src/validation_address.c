/*
 * validation_address.c
 *		The formats that address something: IP addresses, host names, mailboxes and URIs.
 */
#include "prod_analytics.h"

#include "validation.h"
#include "validation_format.h"

/*
 * pa_is_ipv4 checks an IPv4 address (RFC 2673, 3.2), with the octets of RFC 3986: some read a leading zero as octal,
 * so an address that has one is not one address to everybody.
 */
bool
pa_is_ipv4(PaName text)
{
	for (int i = 0; i < 4; i++)
	{
		PaName		octet = text;
		int			digits = take_while(&text, is_digit, 3);
		int			value;

		if (digits == 0 || (digits > 1 && octet.text[0] == '0') || !take_number(&octet, digits, 0, 255, &value))
			return false;
		if (i < 3 && !take(&text, "."))
			return false;
	}

	return text.length == 0;
}

/*
 * is_ipv6_shortened checks an IPv6 address (RFC 4291, 2.2) in which "::" stands for at least so many groups.
 */
static bool
is_ipv6_shortened(PaName text, int least)
{
	int			groups = 0;
	bool		shortened = false;

	if (take(&text, ":"))
	{
		if (!take(&text, ":"))
			return false;
		shortened = true;
	}
	else if (text.length == 0)
		return false;

	while (text.length > 0 && groups < 8)
	{
		PaName		group = text;

		if (take_while(&text, is_hex, 4) == 0)
			return false;
		if (text.length > 0 && text.text[0] == '.')
		{
			if (!pa_is_ipv4(group))
				return false;
			skip(&text, text.length);
			groups++;
		}
		groups++;
		if (text.length == 0)
			break;

		if (!take(&text, ":") || text.length == 0)
			return false;
		if (take(&text, ":"))
		{
			if (shortened)
				return false;
			shortened = true;
		}
	}

	return text.length == 0 && (shortened ? groups + least <= 8 : groups == 8);
}

/*
 * pa_is_ipv6 checks an IPv6 address.
 */
bool
pa_is_ipv6(PaName text)
{
	return is_ipv6_shortened(text, 1);
}

/*
 * is_ldh_name tells whether a text consists of labels of letters, digits and hyphens (RFC 1123, 2.1), and how many
 * of them have hyphens at the third and fourth place, of which those that begin with xn-- stand for Unicode.
 */
static bool
is_ldh_name(PaName text, int *reserved, int *encoded)
{
	int			start = 0;

	*reserved = 0;
	*encoded = 0;
	if (text.length > 253)
		return false;
	for (int i = 0; i <= text.length; i++)
	{
		const char *label = text.text + start;
		int			length = i - start;

		if (i < text.length && (is_digit(text.text[i]) || is_letter(text.text[i]) || text.text[i] == '-'))
			continue;
		if (i < text.length && text.text[i] != '.')
			return false;
		if (length < 1 || length > 63 || label[0] == '-' || label[length - 1] == '-')
			return false;
		if (length >= 4 && label[2] == '-' && label[3] == '-')
		{
			(*reserved)++;
			*encoded += is_one_of(label[0], "Xx") && is_one_of(label[1], "Nn");
		}
		start = i + 1;
	}

	return true;
}

/*
 * pa_is_hostname checks a host name: RFC 1123, 2.1, which says that none has the form of an IPv4 address, and RFC
 * 5890, 2.3.1, which reserves hyphens at the third and fourth place.
 */
bool
pa_is_hostname(PaName text)
{
	PaName		rest = text;
	int			numbers = 0;
	int			reserved;
	int			encoded;

	if (!is_ldh_name(text, &reserved, &encoded) || reserved > encoded)
		return false;
	while (take_while(&rest, is_digit, rest.length) > 0)
	{
		numbers++;
		if (!take(&rest, "."))
			break;
	}
	if (numbers == 4 && rest.length == 0)
		return false;

	return encoded == 0 || pa_is_idna_name(text);
}

/*
 * is_atext tells whether a character may stand in a local part without quotes (RFC 5322, 3.2.3).
 */
static bool
is_atext(char c)
{
	return is_letter(c) || is_digit(c) || is_one_of(c, "!#$%&'*+-/=?^_`{|}~");
}

/*
 * take_local_part takes the part of a mailbox before the "@", quoted or not (RFC 5321, 4.1.2).
 */
static bool
take_local_part(PaName *text)
{
	if (!take(text, "\""))
	{
		do
		{
			if (take_while(text, is_atext, text->length) == 0)
				return false;
		} while (take(text, "."));

		return true;
	}

	while (!take(text, "\""))
	{
		/* A backslash quotes what follows it, if it is no control character. */
		(void) take(text, "\\");
		if (text->length == 0 || text->text[0] < ' ' || text->text[0] > '~')
			return false;
		skip(text, 1);
	}

	return true;
}

/*
 * is_address_literal checks an address in brackets (RFC 5321, 4.1.3).  No other tag than that of IPv6 has been
 * registered; and "::" does not stand for a single group there.
 */
static bool
is_address_literal(PaName text)
{
	PaName		address;

	if (text.length == 0 || text.text[text.length - 1] != ']' || !take(&text, "["))
		return false;
	text.length--;
	address = text;
	if (take(&text, "Ii") && take(&text, "Pp") && take(&text, "Vv") && take(&text, "6") && take(&text, ":"))
		return is_ipv6_shortened(text, 2);

	return pa_is_ipv4(address);
}

/*
 * pa_is_email checks a mailbox (RFC 5321, 4.1.2), and its length (4.5.3.1).  The domain is not asked which Unicode
 * it stands for: the grammar of mailboxes does not.
 */
bool
pa_is_email(PaName text)
{
	PaName		domain = text;
	int			reserved;
	int			encoded;

	if (text.length > 254 || !take_local_part(&domain) || text.length - domain.length > 64 || !take(&domain, "@"))
		return false;

	return is_ldh_name(domain, &reserved, &encoded) || is_address_literal(domain);
}

/*
 * consists_of tells whether a text consists of unreserved characters, sub-delimiters, percent codes and some more
 * characters (RFC 3986, 2 and 3.3).
 */
static bool
consists_of(PaName text, const char *more)
{
	while (text.length > 0)
	{
		char		c = text.text[0];

		skip(&text, 1);
		if (c == '%')
		{
			if (take_while(&text, is_hex, 2) < 2)
				return false;
		}
		else if (!is_letter(c) && !is_digit(c) && !is_one_of(c, "-._~!$&'()*+,;=") && !is_one_of(c, more))
			return false;
	}

	return true;
}

/*
 * cut takes what stands before the first of some characters, or all.
 */
static PaName
cut(PaName *text, const char *characters)
{
	PaName		before = {text->text, 0};

	while (before.length < text->length && !is_one_of(text->text[before.length], characters))
		before.length++;
	skip(text, before.length);

	return before;
}

/*
 * is_ip_literal checks what a URI has in brackets: an IPv6 address, or one of a future version (RFC 3986, 3.2.2).
 */
static bool
is_ip_literal(PaName text)
{
	if (!take(&text, "Vv"))
		return pa_is_ipv6(text);

	return take_while(&text, is_hex, text.length) > 0 && take(&text, ".") && text.length > 0 &&
		memchr(text.text, '%', text.length) == NULL && consists_of(text, ":");
}

/*
 * is_authority checks who a URI belongs to (RFC 3986, 3.2): [ userinfo "@" ] host [ ":" port ]
 */
static bool
is_authority(PaName text)
{
	PaName		rest = text;
	PaName		before = cut(&rest, "@");
	PaName		host;

	if (take(&rest, "@"))
	{
		if (!consists_of(before, ":"))
			return false;
		text = rest;
	}

	if (take(&text, "["))
	{
		host = cut(&text, "]");
		if (!take(&text, "]") || !is_ip_literal(host))
			return false;
	}
	else
	{
		host = cut(&text, ":");
		if (!consists_of(host, ""))
			return false;
	}

	if (take(&text, ":"))
		(void) take_while(&text, is_digit, text.length);

	return text.length == 0;
}

/*
 * is_scheme_character tells whether a character may stand in a scheme, if not at the beginning (RFC 3986, 3.1).
 */
static bool
is_scheme_character(char c)
{
	return is_letter(c) || is_digit(c) || is_one_of(c, "+-.");
}

/*
 * pa_is_uri checks a URI, not a relative reference (RFC 3986, appendix A).
 */
bool
pa_is_uri(PaName text)
{
	if (take_while(&text, is_letter, 1) == 0)
		return false;
	(void) take_while(&text, is_scheme_character, text.length);
	if (!take(&text, ":"))
		return false;
	if (text.length >= 2 && text.text[0] == '/' && text.text[1] == '/')
	{
		skip(&text, 2);
		if (!is_authority(cut(&text, "/?#")))
			return false;
	}
	if (!consists_of(cut(&text, "?#"), ":@/"))
		return false;
	if (take(&text, "?") && !consists_of(cut(&text, "#"), ":@/?"))
		return false;

	return !take(&text, "#") || consists_of(text, ":@/?");
}
