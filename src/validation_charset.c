/*
 * validation_charset.c
 *		Sets of characters, and those that have a property of Unicode.
 *
 * A set is a list of ranges, sorted when its order is asked for.
 */
#include "prod_analytics.h"

#include "validation_charset.h"
#include "validation_unicode.h"

#define HIGHEST_UNICODE 0x10FFFF

/*
 * grow makes room for another range.
 *
 * Ranges that overlap are merged first, so that a class of a million characters does not take more than
 * the characters that there are.
 */
static void
grow(PaCharset *set)
{
	if (set->ranges == NULL)
	{
		set->size = 64;
		set->ranges = palloc(set->size * sizeof(PaCharacters));
		return;
	}

	pa_charset_sort(set);
	if (set->count > set->size / 2)
	{
		set->size *= 2;
		set->ranges = repalloc(set->ranges, set->size * sizeof(PaCharacters));
	}
}

/*
 * pa_charset_add adds the characters from one to another.
 */
void
pa_charset_add(PaCharset *set, pg_wchar first, pg_wchar last)
{
	if (set->count == set->size)
		grow(set);
	set->ranges[set->count].first = first;
	set->ranges[set->count].last = last;
	set->count++;
}

/*
 * pa_charset_add_all adds the characters of some ranges.
 */
void
pa_charset_add_all(PaCharset *set, const PaCharacters *ranges, int count)
{
	for (int i = 0; i < count; i++)
		pa_charset_add(set, ranges[i].first, ranges[i].last);
}

/*
 * compare_ranges puts ranges in the order of their first characters.
 */
static int
compare_ranges(const void *a, const void *b)
{
	pg_wchar	first = ((const PaCharacters *) a)->first;
	pg_wchar	second = ((const PaCharacters *) b)->first;

	return (first > second) - (first < second);
}

/*
 * pa_charset_sort puts the ranges of a set in order, and makes one of those that overlap or touch.
 */
void
pa_charset_sort(PaCharset *set)
{
	int			kept = 0;

	if (set->count < 2)
		return;

	qsort(set->ranges, set->count, sizeof(PaCharacters), compare_ranges);
	for (int i = 1; i < set->count; i++)
	{
		if (set->ranges[i].first > set->ranges[kept].last + 1)
			set->ranges[++kept] = set->ranges[i];
		else
			set->ranges[kept].last = Max(set->ranges[kept].last, set->ranges[i].last);
	}
	set->count = kept + 1;
}

/*
 * pa_charset_free gives back the memory of a set, which is empty then.
 */
void
pa_charset_free(PaCharset *set)
{
	if (set->ranges)
		pfree(set->ranges);
	memset(set, 0, sizeof(PaCharset));
}

/*
 * pa_charset_invert makes a set have the characters that it has not had, up to a highest.
 */
void
pa_charset_invert(PaCharset *set, pg_wchar highest)
{
	PaCharset	result = {0};
	pg_wchar	next = 0;

	pa_charset_sort(set);
	for (int i = 0; i < set->count; i++)
	{
		if (set->ranges[i].first > next)
			pa_charset_add(&result, next, set->ranges[i].first - 1);
		next = set->ranges[i].last + 1;
	}
	if (next <= highest)
		pa_charset_add(&result, next, highest);
	pa_charset_free(set);
	*set = result;
}

/*
 * find_name gives the value of a name, or -1.
 */
static int64
find_name(const UnicodeName *names, int count, const char *name)
{
	for (int i = 0; i < count; i++)
	{
		if (strcmp(names[i].name, name) == 0)
			return names[i].value;
	}

	return -1;
}

/*
 * add_categories adds the characters of some general categories.
 */
static void
add_categories(PaCharset *set, uint32 categories)
{
	pg_wchar	first = 0;

	for (int i = 0; i < (int) lengthof(category_runs); i++)
	{
		uint32		length = category_runs[i] >> CATEGORY_BITS;

		if (categories >> (category_runs[i] & ((1 << CATEGORY_BITS) - 1)) & 1)
			pa_charset_add(set, first, first + length - 1);
		first += length;
	}
}

/*
 * add_runs adds the characters of every other run.
 */
static void
add_runs(PaCharset *set, const uint32 *runs, int count)
{
	pg_wchar	first = 0;

	for (int i = 0; i < count; i++)
	{
		if (i % 2 == 1)
			pa_charset_add(set, first, first + runs[i] - 1);
		first += runs[i];
	}
}

/*
 * add_script adds the characters of a script.
 */
static void
add_script(PaCharset *set, uint32 script)
{
	pg_wchar	first = 0;

	for (int i = 0; i < (int) lengthof(script_runs); i++)
	{
		uint32		length = script_runs[i] >> SCRIPT_BITS;

		if ((script_runs[i] & ((1 << SCRIPT_BITS) - 1)) == script)
			pa_charset_add(set, first, first + length - 1);
		first += length;
	}
}

/*
 * add_script_extensions adds the characters that are used with a script.
 *
 * Where the list of extensions names a character, its own script does not count.
 */
static void
add_script_extensions(PaCharset *set, uint32 script)
{
	PaCharset	others = {0};

	add_script(&others, script);
	pa_charset_invert(&others, HIGHEST_UNICODE);
	for (int i = 0; i < (int) lengthof(script_extensions); i++)
		pa_charset_add(&others, script_extensions[i].first, script_extensions[i].last);
	pa_charset_invert(&others, HIGHEST_UNICODE);
	pa_charset_add_all(set, others.ranges, others.count);
	pa_charset_free(&others);

	for (int i = 0; i < (int) lengthof(script_extensions); i++)
	{
		if (script_extensions[i].script == script)
			pa_charset_add(set, script_extensions[i].first, script_extensions[i].last);
	}
}

/*
 * add_binary_property adds the characters that have a property that is either there or not.
 */
static bool
add_binary_property(PaCharset *set, const char *name)
{
	if (strcmp(name, "Any") == 0)
		pa_charset_add(set, 0, HIGHEST_UNICODE);
	else if (strcmp(name, "ASCII") == 0)
		pa_charset_add(set, 0, 0x7F);
	else if (strcmp(name, "Assigned") == 0)
		add_categories(set, ~CATEGORY_CN);
	else if (strcmp(name, "Alphabetic") == 0 || strcmp(name, "Alpha") == 0)
	{
		add_categories(set, CATEGORY_L | CATEGORY_NL);
		add_runs(set, alphabetic_runs, lengthof(alphabetic_runs));
	}
	else if (strcmp(name, "Lowercase") == 0 || strcmp(name, "Lower") == 0)
	{
		add_categories(set, CATEGORY_LL);
		add_runs(set, lowercase_runs, lengthof(lowercase_runs));
	}
	else if (strcmp(name, "Uppercase") == 0 || strcmp(name, "Upper") == 0)
	{
		add_categories(set, CATEGORY_LU);
		add_runs(set, uppercase_runs, lengthof(uppercase_runs));
	}
	else if (strcmp(name, "White_Space") == 0 || strcmp(name, "space") == 0)
		add_runs(set, white_space_runs, lengthof(white_space_runs));
	else
		return false;

	return true;
}

/*
 * is_called tells whether a property has one of its two names.
 */
static bool
is_called(const char *name, const char *equals, const char *one, const char *other)
{
	size_t		length = equals - name;

	return (strlen(one) == length && memcmp(name, one, length) == 0) ||
		(strlen(other) == length && memcmp(name, other, length) == 0);
}

/*
 * pa_charset_add_property adds the characters that have a property, which is called as between the braces
 * of \p{...}; false when there is none of this name.
 */
bool
pa_charset_add_property(PaCharset *set, const char *name)
{
	const char *equals = strchr(name, '=');
	int64		category = find_name(category_names, lengthof(category_names), equals ? equals + 1 : name);
	int64		script = find_name(script_names, lengthof(script_names), equals ? equals + 1 : name);

	if (equals == NULL && category < 0)
		return add_binary_property(set, name);

	if (category >= 0 && (equals == NULL || is_called(name, equals, "gc", "General_Category")))
		add_categories(set, category);
	else if (script >= 0 && is_called(name, equals, "sc", "Script"))
		add_script(set, script);
	else if (script >= 0 && is_called(name, equals, "scx", "Script_Extensions"))
		add_script_extensions(set, script);
	else
		return false;

	return true;
}
