/*
 * validation_uri.c
 *		URI references (RFC 3986) and JSON Pointers (RFC 6901).
 */
#include "prod_analytics.h"

#include "lib/stringinfo.h"
#include "validation.h"

/* The parts of a URI reference; absent ones are NULL. */
typedef struct Uri
{
	char	   *scheme;
	char	   *authority;
	char	   *path;			/* never NULL */
	char	   *query;
} Uri;

/*
 * cut_at ends a string at the first of some characters, and returns what follows that character;
 * NULL when there is none.
 */
static char *
cut_at(char *text, const char *characters)
{
	char	   *end = strpbrk(text, characters);

	if (end == NULL)
		return NULL;
	*end = '\0';

	return end + 1;
}

/*
 * pa_split_fragment cuts the fragment off a URI reference and returns it; NULL when there is none.
 */
char *
pa_split_fragment(char *uri)
{
	return cut_at(uri, "#");
}

/*
 * parse_uri takes a URI reference without a fragment apart.
 */
static Uri
parse_uri(const char *text)
{
	Uri			uri = {NULL, NULL, NULL, NULL};
	char	   *rest = pstrdup(text);
	size_t		scheme = strcspn(rest, ":/?#");

	if (rest[scheme] == ':' && scheme > 0)
	{
		uri.scheme = rest;
		rest[scheme] = '\0';
		rest += scheme + 1;
	}

	uri.query = cut_at(rest, "?");
	if (strncmp(rest, "//", 2) == 0)
	{
		char	   *slash;

		uri.authority = rest + 2;
		slash = strchr(uri.authority, '/');
		rest = slash ? pstrdup(slash) : pstrdup("");
		if (slash)
			*slash = '\0';
	}
	uri.path = rest;

	return uri;
}

/*
 * remove_last cuts the last segment, and the slash before it, off a path.
 */
static void
remove_last(StringInfo path)
{
	while (path->len > 0 && path->data[path->len - 1] != '/')
		path->len--;
	if (path->len > 0)
		path->len--;
	path->data[path->len] = '\0';
}

/*
 * remove_dots resolves "." and ".." in a path (RFC 3986, 5.2.4).
 */
static char *
remove_dots(const char *path)
{
	StringInfoData result;

	initStringInfo(&result);
	while (*path)
	{
		if (strncmp(path, "../", 3) == 0)
			path += 3;
		else if (strncmp(path, "./", 2) == 0 || strncmp(path, "/./", 3) == 0)
			path += 2;
		else if (strcmp(path, "/.") == 0)
			path = "/";
		else if (strncmp(path, "/../", 4) == 0)
		{
			path += 3;
			remove_last(&result);
		}
		else if (strcmp(path, "/..") == 0)
		{
			path = "/";
			remove_last(&result);
		}
		else if (strcmp(path, ".") == 0 || strcmp(path, "..") == 0)
			break;
		else
		{
			size_t		segment = 1 + strcspn(path + 1, "/");

			appendBinaryStringInfo(&result, path, segment);
			path += segment;
		}
	}

	return result.data;
}

/*
 * merge_paths puts a relative path in the place of the base's last segment (RFC 3986, 5.2.3).
 */
static char *
merge_paths(Uri base, const char *path)
{
	char	   *slash = strrchr(base.path, '/');

	if (base.authority && base.path[0] == '\0')
		return psprintf("/%s", path);

	return slash ? psprintf("%.*s%s", (int) (slash + 1 - base.path), base.path, path) : pstrdup(path);
}

/*
 * pa_resolve_uri resolves a reference without a fragment against a base (RFC 3986, 5.2.2).
 */
char *
pa_resolve_uri(const char *base_text, const char *reference_text)
{
	Uri			base = parse_uri(base_text);
	Uri			reference = parse_uri(reference_text);
	StringInfoData result;

	if (reference.scheme == NULL)
	{
		reference.scheme = base.scheme;
		if (reference.authority == NULL)
		{
			reference.authority = base.authority;
			if (reference.path[0] == '\0')
			{
				reference.path = base.path;
				if (reference.query == NULL)
					reference.query = base.query;
			}
			else if (reference.path[0] != '/')
				reference.path = merge_paths(base, reference.path);
		}
	}

	initStringInfo(&result);
	if (reference.scheme)
		appendStringInfo(&result, "%s:", reference.scheme);
	if (reference.authority)
		appendStringInfo(&result, "//%s", reference.authority);
	appendStringInfoString(&result, remove_dots(reference.path));
	if (reference.query)
		appendStringInfo(&result, "?%s", reference.query);

	return result.data;
}

/*
 * hex_value is the value of a hexadecimal digit; -1 for another character.
 */
static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;

	return -1;
}

/*
 * pa_percent_decode decodes %XX in place; false when something is not a valid code.
 */
bool
pa_percent_decode(char *text)
{
	char	   *out = text;

	while (*text)
	{
		if (*text == '%')
		{
			int			high = hex_value(text[1]);
			int			low = high < 0 ? -1 : hex_value(text[2]);

			if (low < 0 || (high == 0 && low == 0))
				return false;
			*out++ = (char) (high * 16 + low);
			text += 3;
		}
		else
			*out++ = *text++;
	}
	*out = '\0';

	return true;
}

/*
 * pa_pointer_append appends a token to a JSON Pointer.  The result takes no more memory than it needs:
 * compiled schemas keep many of them.
 */
char *
pa_pointer_append(const char *pointer, PaName token)
{
	size_t		length = strlen(pointer);
	size_t		size = length + token.length + 2;
	char	   *result;
	char	   *out;

	for (int i = 0; i < token.length; i++)
		size += (token.text[i] == '~' || token.text[i] == '/');

	result = palloc(size);
	memcpy(result, pointer, length);
	out = result + length;
	*out++ = '/';
	for (int i = 0; i < token.length; i++)
	{
		bool		is_escaped = (token.text[i] == '~' || token.text[i] == '/');

		*out++ = is_escaped ? '~' : token.text[i];
		if (is_escaped)
			*out++ = token.text[i] == '~' ? '0' : '1';
	}
	*out = '\0';

	return result;
}

/*
 * next_token reads the token after a slash, unescaped, and moves to the end of it.
 */
static char *
next_token(const char **pointer)
{
	StringInfoData token;

	initStringInfo(&token);
	for ((*pointer)++; **pointer && **pointer != '/'; (*pointer)++)
	{
		if (strncmp(*pointer, "~0", 2) == 0 || strncmp(*pointer, "~1", 2) == 0)
		{
			(*pointer)++;
			appendStringInfoChar(&token, **pointer == '0' ? '~' : '/');
		}
		else
			appendStringInfoChar(&token, **pointer);
	}

	return token.data;
}

/*
 * array_index reads an array index; -1 when the token is none.
 */
static int64
array_index(const char *token)
{
	if (token[0] == '\0' || strlen(token) > 9 || strspn(token, "0123456789") != strlen(token) ||
		(token[0] == '0' && token[1] != '\0'))
		return -1;

	return strtol(token, NULL, 10);
}

/*
 * pa_pointer_lookup replaces a value by the one that a JSON Pointer names inside it; false when there
 * is none.
 */
bool
pa_pointer_lookup(JsonbValue *value, const char *pointer)
{
	while (*pointer)
	{
		JsonbContainer *container;
		char	   *token;
		JsonbValue *found = NULL;

		if (*pointer != '/' || value->type != jbvBinary)
			return false;
		container = value->val.binary.data;
		token = next_token(&pointer);

		if (JsonContainerIsObject(container))
			found = getKeyJsonValueFromContainer(container, token, strlen(token), NULL);
		else if (JsonContainerIsArray(container) && array_index(token) >= 0)
			found = getIthJsonbValueFromContainer(container, array_index(token));
		if (found == NULL)
			return false;
		*value = *found;
	}

	return true;
}
