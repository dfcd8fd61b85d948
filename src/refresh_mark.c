/*
 * refresh_mark.c
 *		Saying what has changed, by hand.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "guard.h"
#include "lib/stringinfo.h"
#include "partition.h"
#include "query.h"
#include "refresh.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(pa_mark_changed);

/*
 * key_names makes an array of the names of a view's keys, and lists them for a message.
 */
static Datum
key_names(PaView *view, char **list)
{
	Datum	   *names = palloc(sizeof(Datum) * view->key_count);
	StringInfoData buffer;

	initStringInfo(&buffer);
	for (int i = 0; i < view->key_count; i++)
	{
		char	   *name = get_attname(view->matview, view->keys[i].column, false);

		names[i] = CStringGetTextDatum(name);
		appendStringInfo(&buffer, "%s\"%s\"", i == 0 ? "" : ", ", name);
	}
	*list = buffer.data;

	return PointerGetDatum(construct_array(names, view->key_count, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * check_names refuses objects that have other names than those of the keys.
 */
static void
check_names(PaView *view, Datum objects)
{
	PaParameters parameters = {0};
	char	   *list;
	bool		isnull;

	pa_add_parameter(&parameters, JSONBOID, objects);
	pa_add_parameter(&parameters, TEXTARRAYOID, key_names(view, &list));
	if (pa_query("SELECT left(value::text, 200) FROM jsonb_array_elements($1) WITH ORDINALITY"
				 " WHERE CASE WHEN jsonb_typeof(value) = 'object' THEN NOT (value ?& $2 AND value - $2 = '{}') ELSE true END"
				 " ORDER BY ordinality LIMIT 1",
				 &parameters, SPI_OK_SELECT) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is not a key of materialized view \"%s\"",
						TextDatumGetCString(pa_result(0, 1, &isnull)), get_rel_name(view->matview)),
				 errhint("Give an object with exactly these names, or an array of such objects: %s.", list)));
}

/*
 * values_sql is the query that reads objects as values of a view's keys.
 */
static char *
values_sql(PaView *view)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < view->key_count; i++)
		appendStringInfo(&sql, "%s %s", i == 0 ? "SELECT" : ",",
						 quote_identifier(get_attname(view->matview, view->keys[i].column, false)));
	appendStringInfo(&sql, " FROM jsonb_populate_recordset(NULL::%s, $1)", pa_relation_sql(view->matview));

	return sql.data;
}

/*
 * mark_keys marks the groups that objects name.
 */
static void
mark_keys(PaMatview *matview, PaView *view, Datum objects)
{
	PaParameters parameters = {0};
	Datum	   *values = palloc(sizeof(Datum) * view->key_count);
	bool	   *nulls = palloc(sizeof(bool) * view->key_count);
	SPITupleTable *rows;
	uint64		found;

	check_names(view, objects);
	pa_add_parameter(&parameters, JSONBOID, objects);
	found = pa_query(values_sql(view), &parameters, SPI_OK_SELECT);
	rows = SPI_tuptable;

	for (uint64 i = 0; i < found; i++)
	{
		for (int k = 0; k < view->key_count; k++)
			values[k] = SPI_getbinval(rows->vals[i], rows->tupdesc, k + 1, &nulls[k]);
		pa_mark_key(matview->id, view, values, nulls);
	}
}

/*
 * as_array makes an array of what is an object.
 */
static Datum
as_array(Datum keys)
{
	PaParameters parameters = {0};
	bool		isnull;

	if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(keys)))
		return keys;
	pa_add_parameter(&parameters, JSONBOID, keys);
	pa_query("SELECT jsonb_build_array($1)", &parameters, SPI_OK_SELECT);

	return pa_result(0, 1, &isnull);
}

/*
 * mark_as_owner does what mark_changed() is for, as the view's owner.  A view that is not any more what it
 * was when it was registered is recomputed altogether.
 */
static void
mark_as_owner(PaMatview *matview, Datum keys, bool everything)
{
	PaGuard		guard;
	PaView	   *view;

	pa_guard_enter(&guard, pa_owner(matview->matview));
	SPI_connect();
	view = pa_view(matview->matview);
	if (everything || view->reason)
		pa_mark_everything(matview->id);
	else
		mark_keys(matview, view, as_array(keys));
	SPI_finish();
	pa_guard_leave(&guard);
}

/*
 * mark_changed(matview regclass, changed_keys jsonb) notes that groups of a view are out of date.
 */
Datum
pa_mark_changed(PG_FUNCTION_ARGS)
{
	bool		everything = PG_ARGISNULL(1);
	PaMatview  *matview;

	pa_forbid_read_only("mark_changed()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("matview is NULL")));
	if (!everything && JB_ROOT_IS_SCALAR(PG_GETARG_JSONB_P(1)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("changed_keys is neither an object nor an array"),
				 errhint("Leave it out to say that everything has changed.")));

	matview = pa_registered_or_error(PG_GETARG_OID(0));
	if (!matview->is_incremental)
		ereport(NOTICE,
				(errmsg("materialized view \"%s\" is refreshed in full, so nothing needs to be marked",
						get_rel_name(matview->matview))));
	else
		mark_as_owner(matview, everything ? (Datum) 0 : JsonbPGetDatum(PG_GETARG_JSONB_P(1)), everything);

	PG_RETURN_VOID();
}
