/*
 * refresh_key.c
 *		The keys of groups as bytes, to be hashed, compared and kept in changed_keys.
 *
 * A key that may fail to be computed is not the business of whoever writes to the source.  Then there is what it is
 * computed from instead, the input.  The first byte tells which of them it is; then comes the OID of the view, since
 * keys of another one under the same name may have the same length.
 *
 * The bytes are those that the values have in memory, so that writers need not print them.  Two values that are
 * equal may have different ones (1.0 and 1.00): whoever reads them compares again.  They mean something in this
 * database only, as the OIDs in an enum or composite value do; what a restore brings along is never read, because
 * by then the view's source is another one (see refresh_source.c).
 */
#include "prod_analytics.h"

#include "access/tupmacs.h"
#include "fmgr.h"
#include "refresh.h"

/* What the first byte is. */
#define KEY 'k'
#define INPUT 'i'

/*
 * append_value appends one value, without its header.
 */
static void
append_value(StringInfo bytes, Form_pg_attribute attribute, Datum value)
{
	struct varlena *varlena;
	uint32		length;

	if (attribute->attbyval)
		appendBinaryStringInfo(bytes, (char *) &value, sizeof(Datum));
	else if (attribute->attlen > 0)
		appendBinaryStringInfo(bytes, DatumGetPointer(value), attribute->attlen);
	else if (attribute->attlen == -2)
		appendBinaryStringInfo(bytes, DatumGetCString(value), strlen(DatumGetCString(value)) + 1);
	else
	{
		varlena = PG_DETOAST_DATUM_PACKED(value);
		length = VARSIZE_ANY_EXHDR(varlena);
		appendBinaryStringInfo(bytes, (char *) &length, sizeof(length));
		appendBinaryStringInfo(bytes, VARDATA_ANY(varlena), length);
	}
}

/*
 * append_values appends values, each of which may be NULL.
 */
static void
append_values(StringInfo bytes, TupleDesc descriptor, int count, const Datum *values, const bool *nulls)
{
	for (int i = 0; i < count; i++)
	{
		appendStringInfoCharMacro(bytes, nulls[i] ? 1 : 0);
		if (!nulls[i])
			append_value(bytes, TupleDescAttr(descriptor, i), values[i]);
	}
}

/*
 * begin_bytes writes what precedes the values.
 */
static void
begin_bytes(StringInfo bytes, char kind, Oid matview)
{
	resetStringInfo(bytes);
	appendStringInfoCharMacro(bytes, kind);
	appendBinaryStringInfo(bytes, (char *) &matview, sizeof(matview));
}

/*
 * pa_make_key makes the bytes of a key.
 */
void
pa_make_key(StringInfo bytes, Oid matview, TupleDesc descriptor, int key_count, const Datum *values, const bool *nulls)
{
	begin_bytes(bytes, KEY, matview);
	append_values(bytes, descriptor, key_count, values, nulls);
}

/*
 * pa_make_input makes the bytes of an input.
 */
void
pa_make_input(StringInfo bytes, Oid matview, TupleDesc descriptor, const Datum *values, const bool *nulls)
{
	begin_bytes(bytes, INPUT, matview);
	append_values(bytes, descriptor, descriptor->natts, values, nulls);
}

/*
 * pa_is_input tells whether bytes are those of an input.
 */
bool
pa_is_input(const char *bytes, Size length)
{
	return length > 0 && bytes[0] == INPUT;
}

/* What is left to be read. */
typedef struct Rest
{
	const char *bytes;
	Size		length;
} Rest;

/*
 * take copies the next bytes to where a value of any type may be; NULL when they are not there.
 */
static char *
take(Rest *rest, Size length, Size header)
{
	char	   *copy;

	if (rest->length < length)
		return NULL;

	copy = palloc(header + length + 1);
	memcpy(copy + header, rest->bytes, length);
	rest->bytes += length;
	rest->length -= length;

	return copy;
}

/*
 * take_value reads one value; false when the bytes are not those of one.
 */
static bool
take_value(Rest *rest, Form_pg_attribute attribute, Datum *value)
{
	uint32	   *length;
	char	   *copy;

	if (attribute->attbyval)
	{
		copy = take(rest, sizeof(Datum), 0);
		*value = copy ? *(Datum *) copy : (Datum) 0;
		return copy != NULL;
	}

	if (attribute->attlen > 0)
		copy = take(rest, attribute->attlen, 0);
	else if (attribute->attlen == -2)
		copy = take(rest, strnlen(rest->bytes, rest->length) + 1, 0);
	else
	{
		length = (uint32 *) take(rest, sizeof(uint32), 0);
		copy = length ? take(rest, *length, VARHDRSZ) : NULL;
		if (copy)
			SET_VARSIZE(copy, VARHDRSZ + *length);
	}
	*value = PointerGetDatum(copy);

	return copy != NULL;
}

/*
 * pa_read_key reads the values in the bytes of a key, or of an input; false when they are others, or another view's.
 */
bool
pa_read_key(const char *bytes, Size length, Oid matview, TupleDesc descriptor, int count, Datum *values, bool *nulls)
{
	Rest		rest = {bytes, length};
	Oid		   *of;

	if (take(&rest, 1, 0) == NULL)
		return false;
	of = (Oid *) take(&rest, sizeof(Oid), 0);
	if (of == NULL || *of != matview)
		return false;

	for (int i = 0; i < count; i++)
	{
		char	   *is_null = take(&rest, 1, 0);

		if (is_null == NULL)
			return false;
		nulls[i] = (*is_null != 0);
		values[i] = (Datum) 0;
		if (!nulls[i] && !take_value(&rest, TupleDescAttr(descriptor, i), &values[i]))
			return false;
	}

	return rest.length == 0;
}
