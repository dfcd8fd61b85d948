/*
 * refresh_register.c
 *		Which materialized views are kept up to date, and how.
 *
 * Like partition_policies, the registry names relations by text that is resolved whenever it is used.
 */
#include "prod_analytics.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "guard.h"
#include "miscadmin.h"
#include "partition.h"
#include "query.h"
#include "refresh.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(pa_enable_incremental_refresh);
PG_FUNCTION_INFO_V1(pa_disable_incremental_refresh);
PG_FUNCTION_INFO_V1(pa_restore_capture);
PG_FUNCTION_INFO_V1(pa_registered_matviews_changed);

/*
 * text_or_null reads a column of a row of the last query.
 */
static char *
text_or_null(int row, int column)
{
	bool		isnull;
	Datum		value = pa_result(row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/*
 * matview_of_row reads a registered view from a row of the last query; NULL when it is gone.
 */
static PaMatview *
matview_of_row(int row)
{
	PaMatview  *matview = palloc0(sizeof(PaMatview));
	bool		isnull;

	matview->id = DatumGetInt32(pa_result(row, 1, &isnull));
	matview->name = text_or_null(row, 2);
	matview->archive = text_or_null(row, 3);
	matview->is_incremental = strcmp(text_or_null(row, 4), PA_REFRESH_INCREMENTAL) == 0;
	matview->reason = text_or_null(row, 5);
	matview->matview = pa_named_relation(matview->name);

	if (!OidIsValid(matview->matview) || get_rel_relkind(matview->matview) != RELKIND_MATVIEW)
	{
		ereport(WARNING,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("materialized view %s is registered for refresh, but does not exist", matview->name),
				 errhint("The owner of %s.registered_matviews can correct matview there, or delete the row.", PA_SCHEMA)));
		return NULL;
	}

	return matview;
}

/*
 * pa_registered_matviews lists what is registered of a view, or all views when matview is InvalidOid, in the
 * caller's memory context.
 *
 * The registry is read with its owner's rights, as pa_policies() reads the other one.
 */
List *
pa_registered_matviews(Oid matview)
{
	MemoryContext caller_context = CurrentMemoryContext;
	MemoryContext spi_context;
	PaParameters parameters = {0};
	PaGuard		guard;
	List	   *matviews = NIL;
	uint64		found;

	pa_guard_enter(&guard, pa_owner(pa_table("registered_matviews")));
	SPI_connect();

	pa_add_parameter(&parameters, TEXTOID,
					 CStringGetTextDatum(OidIsValid(matview) ? pa_relation_sql(matview) : ""));
	found = pa_query("SELECT matview_id, matview, archive, mode, reason FROM prod_analytics.registered_matviews"
					 " WHERE matview = $1 OR $1 = '' ORDER BY matview_id",
					 &parameters, SPI_OK_SELECT);

	spi_context = MemoryContextSwitchTo(caller_context);
	for (uint64 i = 0; i < found; i++)
	{
		PaMatview  *registered = matview_of_row(i);

		if (registered)
			matviews = lappend(matviews, registered);
	}
	MemoryContextSwitchTo(spi_context);

	SPI_finish();
	pa_guard_leave(&guard);

	return matviews;
}

/*
 * check_kind refuses what is not a materialized view.
 */
static void
check_kind(Oid relation)
{
	char	   *name = get_rel_name(relation);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relation)));

	if (get_rel_relkind(relation) != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a materialized view", name),
				 errhint("Make one with CREATE MATERIALIZED VIEW.")));
}

/*
 * pa_registered_or_error is what is registered of a view that must be.
 */
PaMatview *
pa_registered_or_error(Oid matview)
{
	List	   *matviews;

	check_kind(matview);
	matviews = pa_registered_matviews(matview);
	if (matviews == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("materialized view \"%s\" is not registered for refresh", get_rel_name(matview)),
				 errhint("Register it with %s.enable_incremental_refresh().", PA_SCHEMA)));

	return linitial(matviews);
}

/*
 * pa_forget_lost_keys deletes what was captured for views that are not registered any more: a transaction that was
 * going on when the view went may have committed later.
 */
void
pa_forget_lost_keys(void)
{
	pa_forget_log("SELECT ctid FROM prod_analytics.changed_keys c WHERE NOT EXISTS"
				  " (SELECT FROM prod_analytics.registered_matviews r WHERE r.matview_id = c.matview_id)", NULL);
}

/*
 * pa_forget_unregistered removes what is noted about views that are not registered any more, as the owner of
 * the registry.  Where our tables are missing there is nothing to forget.
 */
void
pa_forget_unregistered(void)
{
	Oid			namespace = get_namespace_oid(PA_SCHEMA, false);

	/* A refresh has locked its row there before it deletes keys. */
	if (OidIsValid(get_relname_relid("refresh_state", namespace)))
		pa_query("DELETE FROM prod_analytics.refresh_state WHERE matview_id NOT IN"
				 " (SELECT matview_id FROM prod_analytics.registered_matviews)",
				 NULL, SPI_OK_DELETE);
	if (OidIsValid(get_relname_relid("changed_keys", namespace)))
		pa_forget_lost_keys();
}

/*
 * add_optional appends a parameter that is NULL when the value is.
 */
static void
add_optional(PaParameters *parameters, Oid type, Datum value)
{
	pa_add_parameter(parameters, type, value);
	if (value == (Datum) 0)
		parameters->nulls[parameters->count - 1] = 'n';
}

/*
 * optional_text is a parameter for add_optional.
 */
static Datum
optional_text(const char *value)
{
	return value ? CStringGetTextDatum(value) : (Datum) 0;
}

/*
 * check_not_shared refuses an archive that another view has.
 */
static void
check_not_shared(const char *matview, const char *archive)
{
	PaParameters parameters = {0};

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(matview));
	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(archive));
	if (pa_query("SELECT matview FROM prod_analytics.registered_matviews WHERE archive = $2 AND matview <> $1",
				 &parameters, SPI_OK_SELECT) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s is the archive of materialized view %s", archive, text_or_null(0, 1)),
				 errhint("Give each materialized view an archive of its own.")));
}

/*
 * save writes a view into the registry, in the place of what is there, and returns its number.  Everything
 * is taken to have changed; whoever refreshes it now is waited for.
 *
 * *archive_name is the name of its archive, or NULL: then it gets that of the archive which the view has already.  To
 * lose one must not be as easy as to leave out an argument.
 */
static int32
save(PaView *view, char **archive_name)
{
	char	   *name = pa_relation_sql(view->matview);
	PaParameters parameters = {0};
	PaParameters number = {0};
	PaGuard		guard;
	int32		matview_id;
	bool		isnull;

	pa_guard_enter(&guard, pa_owner(pa_table("registered_matviews")));
	if (*archive_name)
		check_not_shared(name, *archive_name);

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(name));
	add_optional(&parameters, TEXTOID, optional_text(*archive_name));
	pa_add_parameter(&parameters, TEXTOID,
					 CStringGetTextDatum(view->reason ? PA_REFRESH_FULL : PA_REFRESH_INCREMENTAL));
	add_optional(&parameters, TEXTOID, optional_text(view->reason));
	pa_query("INSERT INTO prod_analytics.registered_matviews AS r (matview, archive, mode, reason) VALUES ($1, $2, $3, $4)"
			 " ON CONFLICT (matview) DO UPDATE SET archive = coalesce(EXCLUDED.archive, r.archive), mode = EXCLUDED.mode,"
			 " reason = EXCLUDED.reason, registered_at = EXCLUDED.registered_at RETURNING matview_id, archive",
			 &parameters, SPI_OK_INSERT_RETURNING);
	matview_id = DatumGetInt32(pa_result(0, 1, &isnull));
	*archive_name = text_or_null(0, 2);

	pa_add_parameter(&number, INT4OID, Int32GetDatum(matview_id));
	pa_query("INSERT INTO prod_analytics.refresh_state (matview_id) VALUES ($1)"
			 " ON CONFLICT (matview_id) DO UPDATE SET sources = NULL",
			 &number, SPI_OK_INSERT);
	pa_forget_log("SELECT ctid FROM prod_analytics.changed_keys WHERE matview_id = $1", &number);
	pa_guard_leave(&guard);

	return matview_id;
}

/*
 * names_of makes an array of the names of a view's columns; NULL when there are none.
 */
static Datum
names_of(PaView *view, Bitmapset *columns)
{
	Datum	   *names = palloc(sizeof(Datum) * (bms_num_members(columns) + 1));
	int			count = 0;
	int			column = -1;

	while ((column = bms_next_member(columns, column)) >= 0)
		names[count++] = CStringGetTextDatum(get_attname(view->matview, column, false));

	return count == 0 ? (Datum) 0 :
		PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * key_names makes an array of the names of a view's keys, in their order.
 */
static Datum
key_names(PaView *view)
{
	Datum	   *names = palloc(sizeof(Datum) * (view->key_count + 1));

	for (int i = 0; i < view->key_count; i++)
		names[i] = CStringGetTextDatum(get_attname(view->matview, view->keys[i].column, false));

	return PointerGetDatum(construct_array(names, view->key_count, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * advice tells what it costs that no index of the source serves the keys.
 */
static char *
advice(PaView *view)
{
	PaParameters parameters = {0};
	char	   *statement = pa_view_source_index_sql(view);
	char	   *size;

	pa_add_parameter(&parameters, REGCLASSOID, ObjectIdGetDatum(view->source));
	pa_query("SELECT pg_size_pretty(sum(pg_table_size(t.relation)))"
			 " FROM (SELECT relid FROM pg_partition_tree($1) UNION SELECT $1) t (relation)",
			 &parameters, SPI_OK_SELECT);
	size = text_or_null(0, 1);

	return psprintf("No index of %s serves the keys, so each refresh reads all of it, %s.%s%s",
					pa_relation_sql(view->source), size,
					statement ? "  Make one with: " : "", statement ? statement : "");
}

/*
 * registration tells how a view is kept: the result of enable_incremental_refresh().
 */
static Datum
registration(PaView *view, const char *archive_name)
{
	PaParameters parameters = {0};
	Oid			index = view->reason ? InvalidOid : pa_view_source_index(view);
	bool		isnull;

	pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(pa_relation_sql(view->matview)));
	if (view->reason)
	{
		pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(view->reason));
		add_optional(&parameters, TEXTOID, optional_text(archive_name));
		pa_query("SELECT jsonb_strip_nulls(jsonb_build_object('mode', 'full', 'matview', $1, 'reason', $2, 'archive', $3))",
				 &parameters, SPI_OK_SELECT);
	}
	else
	{
		pa_add_parameter(&parameters, TEXTOID, CStringGetTextDatum(pa_relation_sql(view->source)));
		pa_add_parameter(&parameters, TEXTARRAYOID, key_names(view));
		add_optional(&parameters, TEXTOID, optional_text(archive_name));
		add_optional(&parameters, TEXTOID, optional_text(OidIsValid(index) ? pa_relation_sql(index) : NULL));
		add_optional(&parameters, TEXTOID, optional_text(OidIsValid(index) ? NULL : advice(view)));
		add_optional(&parameters, TEXTARRAYOID, names_of(view, view->not_data));
		add_optional(&parameters, TEXTARRAYOID, names_of(view, view->unordered));
		pa_query("SELECT jsonb_strip_nulls(jsonb_build_object('mode', 'incremental', 'matview', $1, 'source', $2,"
				 " 'keys', $3, 'archive', $4, 'index', $5, 'advice', $6, 'not_data', $7, 'order_dependent', $8))",
				 &parameters, SPI_OK_SELECT);
	}

	return datumCopy(pa_result(0, 1, &isnull), false, -1);
}

/*
 * register_view does what enable_incremental_refresh() is for, as the view's owner.
 */
static Datum
register_view(PaView *view, Oid archive)
{
	char	   *archive_name = OidIsValid(archive) ? pa_relation_sql(archive) : NULL;
	int32		matview_id;

	if (view->reason == NULL)
		pa_check_unique_index(view);
	if (OidIsValid(archive))
		pa_check_archive(view, archive);

	matview_id = save(view, &archive_name);
	if (view->reason)
		pa_drop_idle_captures();
	else
		pa_make_capture(view->source, matview_id);

	return registration(view, archive_name);
}

/*
 * enter gets ready to work as the owner of a view, in the caller's memory context.
 */
static void
enter(Oid owner, PaGuard *guard)
{
	MemoryContext caller_context = CurrentMemoryContext;

	pa_guard_enter(guard, owner);
	SPI_connect();
	MemoryContextSwitchTo(caller_context);
	pa_reset_waits();
}

/*
 * check_owner refuses somebody else's materialized view.
 */
static void
check_owner(Oid matview)
{
	if (!has_privs_of_role(GetUserId(), pa_owner(matview)))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_MATVIEW, get_rel_name(matview));
}

/*
 * enable_incremental_refresh(matview regclass, archive regclass) registers a materialized view.
 */
Datum
pa_enable_incremental_refresh(PG_FUNCTION_ARGS)
{
	Oid			archive = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);
	Oid			matview;
	PaGuard		guard;
	Datum		result;

	pa_forbid_read_only("enable_incremental_refresh()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("matview is NULL")));

	matview = PG_GETARG_OID(0);
	LockRelationOid(matview, AccessShareLock);
	check_kind(matview);
	check_owner(matview);
	if (!PG_ARGISNULL(1))
	{
		LockRelationOid(archive, AccessShareLock);
		(void) pa_owner(archive);
	}

	enter(pa_owner(matview), &guard);
	result = register_view(pa_view(matview), archive);
	pa_leave_policy(&guard);

	PG_RETURN_DATUM(result);
}

/*
 * disable_incremental_refresh(matview regclass) takes a materialized view out of the registry.
 */
Datum
pa_disable_incremental_refresh(PG_FUNCTION_ARGS)
{
	PaMatview  *matview;
	PaParameters parameters = {0};
	PaGuard		guard;

	pa_forbid_read_only("disable_incremental_refresh()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("matview is NULL")));

	matview = pa_registered_or_error(PG_GETARG_OID(0));
	check_owner(matview->matview);

	enter(pa_owner(pa_table("registered_matviews")), &guard);
	pa_add_parameter(&parameters, INT4OID, Int32GetDatum(matview->id));
	pa_query("DELETE FROM prod_analytics.registered_matviews WHERE matview_id = $1", &parameters, SPI_OK_DELETE);
	pa_forget_unregistered();
	pa_drop_idle_captures();
	pa_leave_policy(&guard);

	PG_RETURN_VOID();
}

/*
 * distrust_all lets the next refresh of each view recompute everything.  That is more than the view that
 * lacks a trigger: others may read the same table.
 */
static void
distrust_all(void)
{
	PaGuard		guard;

	pa_guard_enter(&guard, pa_owner(pa_table("refresh_state")));
	pa_query("UPDATE prod_analytics.refresh_state SET sources = NULL WHERE sources IS NOT NULL",
			 NULL, SPI_OK_UPDATE);
	pa_guard_leave(&guard);
}

/*
 * restore is the work of making the triggers for a PaMatview again, where they are missing.
 */
static void
restore(void *argument)
{
	PaMatview  *matview = argument;
	PaGuard		guard;
	PaView	   *view;

	enter(pa_owner(matview->matview), &guard);
	view = pa_view(matview->matview);
	if (view->reason)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg_internal("%s", view->reason)));

	if (!pa_is_captured(view->source))
	{
		distrust_all();
		pa_make_capture(view->source, matview->id);
	}
	pa_leave_policy(&guard);
}

/*
 * restore_capture() makes the missing triggers of all registered views: DROP EXTENSION CASCADE takes them along.
 *
 * A view that is not what it was when it was registered keeps nobody from getting our tables.
 */
Datum
pa_restore_capture(PG_FUNCTION_ARGS)
{
	ListCell   *cell;

	pa_forbid_read_only("restore_capture()");

	foreach(cell, pa_registered_matviews(InvalidOid))
	{
		PaMatview  *matview = lfirst(cell);
		ErrorData  *error;

		if (matview->is_incremental && !pa_try(restore, matview, &error))
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("changes of what materialized view %s reads are not noted: %s", matview->name, error->message),
					 error->detail ? errdetail_internal("%s", error->detail) : 0,
					 errhint("Register it again with %s.enable_incremental_refresh().", PA_SCHEMA)));
	}

	PG_RETURN_VOID();
}

/*
 * registered_matviews_changed() is the trigger on registered_matviews: it lets all sessions know.
 */
Datum
pa_registered_matviews_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("registered_matviews_changed() is a trigger of \"%s.registered_matviews\", after a change", PA_SCHEMA)));

	CacheInvalidateRelcache(trigger->tg_relation);

	PG_RETURN_POINTER(NULL);
}
