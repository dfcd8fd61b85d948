/*
 * refresh_verify.c
 *		Comparing a materialized view with a recomputation.
 */
#include "prod_analytics.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guard.h"
#include "miscadmin.h"
#include "partition.h"
#include "query.h"
#include "refresh.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pa_verify_matview);
PG_FUNCTION_INFO_V1(pa_verify_settled);

/* A verification. */
typedef struct Verification
{
	PaMatview  *registered;
	PaView	   *view;
	ReturnSetInfo *result;
	int			sample_keys;	/* 0: all groups */
	bool		repair;
	bool		settled;		/* leave out the groups that wait for a refresh */
	int64		differences;
} Verification;

/*
 * row_as_jsonb is a row of the view as a JSON object.
 */
static Datum
row_as_jsonb(TupleTableSlot *row)
{
	TupleDesc	descriptor = CreateTupleDescCopy(row->tts_tupleDescriptor);
	HeapTuple	tuple;
	Datum		json;

	/* A record of its own: a row of the view's type would be shown by the view's name. */
	slot_getallattrs(row);
	descriptor->tdtypeid = RECORDOID;
	descriptor->tdtypmod = -1;
	tuple = heap_form_tuple(BlessTupleDesc(descriptor), row->tts_values, row->tts_isnull);
	json = DirectFunctionCall1(row_to_json, HeapTupleGetDatum(tuple));

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(json)));
}

/*
 * read_keys reads the keys of a row's group.
 */
static void
read_keys(PaView *view, TupleTableSlot *row, Datum *values, bool *nulls)
{
	for (int i = 0; i < view->key_count; i++)
		values[i] = slot_getattr(row, view->keys[i].column, &nulls[i]);
}

/*
 * mark_group lets a refresh mend the group of a row.
 */
static void
mark_group(Verification *verification, TupleTableSlot *row)
{
	PaView	   *view = verification->view;
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	read_keys(view, row, values, nulls);
	pa_mark_key(verification->registered->id, view, values, nulls);
}

/*
 * is_pending tells whether the group of a row waits for a refresh, as of the moment of the comparison: then it may
 * differ.  So may any group when all of them are marked, or when there is an input, of which the key is not known.
 */
static bool
is_pending(Verification *verification, TupleTableSlot *row)
{
	PaView	   *view = verification->view;
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	Oid			types[] = {INT4OID, BYTEAOID};
	Datum		parameters[2];
	StringInfoData key;
	PaGuard		guard;
	bool		found;

	read_keys(view, row, values, nulls);
	initStringInfo(&key);
	pa_make_key(&key, view->matview, pa_view_key_descriptor(view), view->key_count, values, nulls);
	parameters[0] = Int32GetDatum(verification->registered->id);
	parameters[1] = PointerGetDatum(cstring_to_text_with_len(key.data, key.len));

	/* Read-only: by the snapshot of the comparison. */
	pa_guard_enter(&guard, pa_owner(pa_table("changed_keys")));
	if (SPI_execute_with_args("SELECT FROM prod_analytics.changed_keys WHERE matview_id = $1"
							  " AND (key IS NULL OR key = $2 OR get_byte(key, 0) = ascii('i')) LIMIT 1",
							  2, types, parameters, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read changed_keys");
	found = SPI_processed > 0;
	pa_guard_leave(&guard);

	return found;
}

/*
 * report puts a difference into the result.
 */
static void
report(PaComparison *comparison, PaDifference difference)
{
	static const char *const names[] = {"missing", "different", "extra"};
	Verification *verification = comparison->argument;
	Datum		values[3];
	bool		nulls[3] = {false, difference == PA_ROW_MISSING, difference == PA_ROW_EXTRA};

	if (verification->settled && is_pending(verification, nulls[2] ? comparison->stored : comparison->computed))
		return;

	values[0] = CStringGetTextDatum(names[difference]);
	values[1] = nulls[1] ? (Datum) 0 : row_as_jsonb(comparison->stored);
	values[2] = nulls[2] ? (Datum) 0 : row_as_jsonb(comparison->computed);
	tuplestore_putvalues(verification->result->setResult, verification->result->setDesc, values, nulls);

	verification->differences++;
	if (verification->repair)
		mark_group(verification, nulls[2] ? comparison->stored : comparison->computed);
}

/*
 * add_sampled adds the keys of some groups, chosen at random: half of them from what is stored, half from the
 * source, or a group that is not stored would never be looked at.
 */
static void
add_sampled(Verification *verification, PaChanges *changes)
{
	PaView	   *view = verification->view;
	StringInfoData sql;
	uint64		found;
	SPITupleTable *rows;
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	initStringInfo(&sql);
	for (int i = 0; i < view->key_count; i++)
		appendStringInfo(&sql, "%s %s", i == 0 ? "SELECT" : ",",
						 quote_identifier(get_attname(view->matview, view->keys[i].column, false)));
	appendStringInfo(&sql, " FROM %s ORDER BY random() LIMIT %d",
					 pa_relation_sql(view->matview), (verification->sample_keys + 1) / 2);
	found = pa_query(sql.data, NULL, SPI_OK_SELECT);
	rows = SPI_tuptable;
	for (uint64 row = 0; row < found; row++)
	{
		for (int i = 0; i < view->key_count; i++)
			values[i] = SPI_getbinval(rows->vals[row], rows->tupdesc, i + 1, &nulls[i]);
		pa_add_changed_key(changes, values, nulls);
	}

	pa_add_keys_sampled(changes, verification->sample_keys / 2);
}

/*
 * compare_sample compares some groups.
 */
static void
compare_sample(Verification *verification, PaComparison *comparison)
{
	PaChanges  *changes = pa_begin_changes(verification->view);
	TupleDesc	descriptor = pa_probed_descriptor(changes, RelationGetDescr(comparison->matview));
	ListCell   *cell;

	add_sampled(verification, changes);
	pa_finish_changes(changes);
	foreach(cell, changes->parts)
	{
		Tuplestorestate *rows = pa_compute_changed(changes, lfirst(cell));

		pa_compare_probed(comparison, rows, descriptor);
		tuplestore_end(rows);
	}
	pa_end_changes(changes);
}

/*
 * compare_whole compares all groups.
 */
static void
compare_whole(Verification *verification, PaComparison *comparison)
{
	Tuplestorestate *rows = pa_compute_all(verification->view);

	comparison->expected = tuplestore_tuple_count(rows);
	pa_compare_all(comparison, rows);
	tuplestore_end(rows);
}

/*
 * compare finds the differences, as of one moment, with the rights of the view's owner.
 */
static void
compare(Verification *verification)
{
	PaView	   *view = verification->view;
	Relation	matview = table_open(view->matview, AccessShareLock);
	Relation	index;
	PaComparison *comparison;
	PaGuard		guard;

	pa_check_unique_index(view);
	index = index_open(pa_view_unique_index(view), AccessShareLock);
	pa_enter_view(&guard, view);
	PushActiveSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot());

	comparison = pa_begin_comparison(view, matview, index, GetActiveSnapshot());
	comparison->ignored = bms_union(view->not_data, view->unordered);
	comparison->on_difference = report;
	comparison->argument = verification;
	if (verification->sample_keys > 0)
		compare_sample(verification, comparison);
	else
		compare_whole(verification, comparison);
	pa_end_comparison(comparison);

	PopActiveSnapshot();
	pa_guard_leave(&guard);
	index_close(index, NoLock);
	table_close(matview, NoLock);
}

/*
 * column_list lists columns of a view for a message.
 */
static char *
column_list(PaView *view, Bitmapset *columns)
{
	StringInfoData list;
	int			column = -1;

	initStringInfo(&list);
	while ((column = bms_next_member(columns, column)) >= 0)
		appendStringInfo(&list, "%s\"%s\"", list.len > 0 ? ", " : "", get_attname(view->matview, column, false));

	return list.data;
}

/*
 * tell_ignored tells what was not compared.
 */
static void
tell_ignored(PaView *view)
{
	if (!bms_is_empty(view->not_data))
		ereport(NOTICE,
				(errmsg("not compared: %s", column_list(view, view->not_data)),
				 errdetail_plural("This column does not depend on the rows of \"%s\".",
								  "These columns do not depend on the rows of \"%s\".",
								  bms_num_members(view->not_data), get_rel_name(view->source))));
	if (!bms_is_empty(view->unordered))
		ereport(NOTICE,
				(errmsg("not compared: %s", column_list(view, view->unordered)),
				 errdetail_plural("This column may depend on the order in which rows of \"%s\" are read.",
								  "These columns may depend on the order in which rows of \"%s\" are read.",
								  bms_num_members(view->unordered), get_rel_name(view->source))));
}

/*
 * tell_pending tells that the view may differ just because it has not been refreshed.
 */
static void
tell_pending(Verification *verification)
{
	PaParameters parameters = {0};

	if (verification->differences == 0)
		return;
	pa_add_parameter(&parameters, INT4OID, Int32GetDatum(verification->registered->id));
	if (pa_query("SELECT FROM prod_analytics.changed_keys WHERE matview_id = $1 LIMIT 1", &parameters, SPI_OK_SELECT) > 0)
		ereport(NOTICE,
				(errmsg("materialized view %s has changes that wait for a refresh", verification->registered->name),
				 errhint("Refresh it first to see differences that should not be there.")));
}

/*
 * save_verified writes down that the view was found exact.  That is no reason to wait for a refresh.
 */
static void
save_verified(Verification *verification)
{
	PaParameters parameters = {0};

	if (verification->differences > 0 || verification->sample_keys > 0 || RecoveryInProgress() ||
		XactReadOnly || IsolationUsesXactSnapshot())
		return;

	pa_add_parameter(&parameters, INT4OID, Int32GetDatum(verification->registered->id));
	pa_query("UPDATE prod_analytics.refresh_state SET verified_at = clock_timestamp() WHERE matview_id ="
			 " (SELECT matview_id FROM prod_analytics.refresh_state WHERE matview_id = $1 FOR UPDATE SKIP LOCKED)",
			 &parameters, SPI_OK_UPDATE);
}

/*
 * is_recomputed tells whether the next refresh recomputes a view as a whole: because it is not filled, or because it cannot
 * be kept incrementally at the moment.
 */
static bool
is_recomputed(PaView *view)
{
	Relation	matview;
	bool		is_filled;

	if (view == NULL || view->reason)
		return true;
	matview = table_open(view->matview, AccessShareLock);
	is_filled = RelationIsPopulated(matview);
	table_close(matview, NoLock);

	return !is_filled;
}

/*
 * verify does what verify_matview() is for.  The caller is connected to SPI, as the owner of our tables.
 */
static void
verify(Verification *verification)
{
	PaRefresh	refresh = {verification->registered};

	if (verification->registered->is_incremental)
		verification->view = pa_view(verification->registered->matview);
	if (verification->settled && is_recomputed(verification->view))
		return;
	if (verification->view == NULL || verification->view->reason)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("materialized view %s is not kept incrementally", verification->registered->name),
				 errdetail("It is refreshed as a whole: %s.",
						   verification->view ? verification->view->reason : verification->registered->reason),
				 errhint("REFRESH MATERIALIZED VIEW recomputes it.")));

	if (!verification->settled)
		tell_ignored(verification->view);
	compare(verification);
	if (!verification->settled)
		tell_pending(verification);
	save_verified(verification);
	if (verification->repair && verification->differences > 0)
		pa_refresh_matview(&refresh);
}

/*
 * verify_registered verifies a view, as the owner of our tables, and returns what it finds.
 */
static void
verify_registered(FunctionCallInfo fcinfo, Verification *verification)
{
	PaGuard		guard;

	InitMaterializedSRF(fcinfo, 0);
	verification->result = (ReturnSetInfo *) fcinfo->resultinfo;

	pa_guard_enter(&guard, pa_owner(pa_table("registered_matviews")));
	SPI_connect();
	verification->registered = pa_registered_or_error(PG_GETARG_OID(0));
	verify(verification);
	SPI_finish();
	pa_guard_leave(&guard);
}

/*
 * verify_matview(matview regclass, sample_keys integer, repair boolean) lists the differences between a view and a
 * recomputation.
 */
Datum
pa_verify_matview(PG_FUNCTION_ARGS)
{
	Verification verification = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("matview and repair must not be NULL")));
	if (!PG_ARGISNULL(1) && PG_GETARG_INT32(1) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sample_keys must be a positive number, or NULL for all groups")));
	verification.sample_keys = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	verification.repair = PG_GETARG_BOOL(2);
	if (verification.repair)
		pa_forbid_read_only("verify_matview(repair => true)");
	verify_registered(fcinfo, &verification);

	return (Datum) 0;
}

/*
 * verify_settled(matview regclass, sample_keys integer) lists the differences that no refresh will mend by itself.
 */
Datum
pa_verify_settled(PG_FUNCTION_ARGS)
{
	Verification verification = {0};

	verification.sample_keys = Max(PG_GETARG_INT32(1), 1);
	verification.settled = true;
	verify_registered(fcinfo, &verification);

	return (Datum) 0;
}
