/*
 * validation_format.c
 *		The formats of JSON Schema that registered schemas assert (draft 2020-12, validation, 7.3).
 *
 * Each is the grammar that its specification gives.  Those of addresses are in validation_address.c.
 */
#include "prod_analytics.h"

#include "validation.h"
#include "validation_format.h"

/*
 * take_date takes a full-date (RFC 3339, 5.6 and 5.7).
 */
static bool
take_date(PaName *text)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int			year;
	int			month;
	int			day;
	bool		is_leap;

	if (!take_number(text, 4, 0, 9999, &year) || !take(text, "-") ||
		!take_number(text, 2, 1, 12, &month) || !take(text, "-"))
		return false;
	is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

	return take_number(text, 2, 1, days[month - 1] + (month == 2 && is_leap), &day);
}

/*
 * take_time takes a full-time (RFC 3339, 5.6 and 5.7).
 *
 * A leap second is the last second of a day in UTC.  Which days had one is not asked: nobody knows it of the
 * future.
 */
static bool
take_time(PaName *text)
{
	int			hour;
	int			minute;
	int			second;
	int			offset_hour = 0;
	int			offset_minute = 0;
	int			offset = 0;

	if (!take_number(text, 2, 0, 23, &hour) || !take(text, ":") ||
		!take_number(text, 2, 0, 59, &minute) || !take(text, ":") ||
		!take_number(text, 2, 0, 60, &second))
		return false;
	if (take(text, ".") && take_while(text, is_digit, text->length) == 0)
		return false;

	if (!take(text, "Zz"))
	{
		int			sign = (text->length > 0 && text->text[0] == '-') ? -1 : 1;

		if (!take(text, "+-") || !take_number(text, 2, 0, 23, &offset_hour) || !take(text, ":") ||
			!take_number(text, 2, 0, 59, &offset_minute))
			return false;
		offset = sign * (offset_hour * 60 + offset_minute);
	}

	return second < 60 || (hour * 60 + minute - offset + 1440) % 1440 == 1439;
}

/*
 * is_date checks a date.
 */
static bool
is_date(PaName text)
{
	return take_date(&text) && text.length == 0;
}

/*
 * is_time checks a time.
 */
static bool
is_time(PaName text)
{
	return take_time(&text) && text.length == 0;
}

/*
 * is_date_time checks a date-time (RFC 3339, 5.6).
 */
static bool
is_date_time(PaName text)
{
	return take_date(&text) && take(&text, "Tt") && take_time(&text) && text.length == 0;
}

/*
 * take_units takes numbers with units, which follow each other in their order without gaps, and returns how many; -1
 * when a number has none of the units.
 */
static int
take_units(PaName *text, const char *units)
{
	int			count = 0;

	while (text->length > 0 && is_digit(text->text[0]))
	{
		const char *unit;

		(void) take_while(text, is_digit, text->length);
		unit = text->length > 0 ? memchr(units, text->text[0], strlen(units)) : NULL;
		if (unit == NULL || (count > 0 && unit != units))
			return -1;
		skip(text, 1);
		units = unit + 1;
		count++;
	}

	return count;
}

/*
 * is_duration checks a duration (RFC 3339, appendix A): weeks, or years to days and hours to seconds.
 */
static bool
is_duration(PaName text)
{
	PaName		weeks;
	int			days;

	if (!take(&text, "P"))
		return false;
	weeks = text;
	if (take_units(&weeks, "W") > 0)
		return weeks.length == 0;

	days = take_units(&text, "YMD");
	if (days < 0)
		return false;
	if (!take(&text, "T"))
		return days > 0 && text.length == 0;

	return take_units(&text, "HMS") > 0 && text.length == 0;
}

/*
 * is_uuid checks a UUID (RFC 4122, 3).
 */
static bool
is_uuid(PaName text)
{
	if (text.length != 36)
		return false;
	for (int i = 0; i < text.length; i++)
	{
		bool		is_hyphen = (i == 8 || i == 13 || i == 18 || i == 23);

		if (is_hyphen ? text.text[i] != '-' : !is_hex(text.text[i]))
			return false;
	}

	return true;
}

/*
 * pa_find_format is the format that has a name; NULL when it is none that is asserted.
 */
PaFormat
pa_find_format(PaName name)
{
	static const struct
	{
		const char *name;
		PaFormat	format;
	}			formats[] = {
		{"date", is_date},
		{"date-time", is_date_time},
		{"duration", is_duration},
		{"email", pa_is_email},
		{"hostname", pa_is_hostname},
		{"ipv4", pa_is_ipv4},
		{"ipv6", pa_is_ipv6},
		{"time", is_time},
		{"uri", pa_is_uri},
		{"uuid", is_uuid}
	};

	for (size_t i = 0; i < lengthof(formats); i++)
		if (name.length == (int) strlen(formats[i].name) && memcmp(name.text, formats[i].name, name.length) == 0)
			return formats[i].format;

	return NULL;
}
