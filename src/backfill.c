/*
 * backfill.c
 *		Filling a column of a big table, batch by batch.
 *
 * A batch is two steps.  The first one finds the next rows by primary key; their identity (ctid) is what the
 * second one goes by, which evaluates the caller's expression.  So the operators that compare keys are
 * looked up where they belong, and the names in the expression on the caller's search_path.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "access/xact.h"
#include "backfill.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "guard.h"
#include "job.h"
#include "partition.h"
#include "settings.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(pa_backfill_leaf);
PG_FUNCTION_INFO_V1(pa_backfill_range);
PG_FUNCTION_INFO_V1(pa_backfill_rows);
PG_FUNCTION_INFO_V1(pa_backfill_pause);
PG_FUNCTION_INFO_V1(pa_backfill_progress);

/*
 * require refuses NULL for the first arguments of a function.  backfill_column() gives none, but whoever may run it
 * may call its steps by themselves.
 */
static void
require(FunctionCallInfo fcinfo, int count)
{
	for (int i = 0; i < count; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument %d is NULL", i + 1),
					 errhint("Call backfill_column(); this is one of its steps.")));
}

/*
 * is_part tells whether a relation is a table with rows of "target".
 */
static bool
is_part(Oid target, Oid relation)
{
	return get_rel_relkind(relation) == RELKIND_RELATION &&
		(relation == target ||
		 (get_rel_relispartition(relation) && list_member_oid(get_partition_ancestors(relation), target)));
}

/*
 * lock_part locks a table of "target" for an UPDATE; false when it is none any more.
 */
static bool
lock_part(Oid target, Oid relation)
{
	LockRelationOid(relation, RowExclusiveLock);
	if (is_part(target, relation))
		return true;
	UnlockRelationOid(relation, RowExclusiveLock);

	return false;
}

/*
 * enter_key_search makes keys compare and print the same way in every session, and each search use the index.
 *
 * The query in between has no code of the user's but the operators of the key.
 */
static int
enter_key_search(PaPrimaryKey *key)
{
	int			guc_level = pa_utc_enter();
	StringInfoData path;

	initStringInfo(&path);
	appendStringInfoString(&path, "pg_catalog");
	for (int i = 0; i < key->count; i++)
		appendStringInfo(&path, ", %s", key->operator_schemas[i]);
	appendStringInfoString(&path, ", pg_temp");
	pa_set_for_now("search_path", path.data);
	pa_set_for_now("extra_float_digits", "1");
	pa_set_for_now("lc_monetary", "C");
	pa_set_for_now("array_nulls", "on");
	pa_set_for_now("enable_seqscan", "off");
	pa_set_for_now("enable_bitmapscan", "off");
	pa_set_for_now("jit", "off");

	return guc_level;
}

/*
 * append_bound appends "AND (k1, ..., kn) > ($i, ...)" for a key printed as an array of texts.
 */
static void
append_bound(StringInfo sql, PaPrimaryKey *key, const char *operator, ArrayType *bound,
			 int *count, Oid *types, Datum *values)
{
	StringInfoData row;
	Datum	   *texts;
	bool	   *nulls;
	int			length;

	if (array_contains_nulls(bound))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a primary key has no NULLs")));
	deconstruct_array(bound, TEXTOID, -1, false, TYPALIGN_INT, &texts, &nulls, &length);
	if (length != key->count)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the primary key has %d columns, and had %d", key->count, length),
				 errhint("Call backfill_column() again; it starts anew.")));

	initStringInfo(&row);
	appendStringInfo(sql, " AND ROW(");
	for (int i = 0; i < length; i++)
	{
		Oid			input;
		Oid			parameter;

		getTypeInputInfo(key->types[i], &input, &parameter);
		types[*count] = key->types[i];
		values[*count] = OidInputFunctionCall(input, TextDatumGetCString(texts[i]), parameter, key->typmods[i]);
		(*count)++;
		appendStringInfo(sql, "%st.%s", i ? ", " : "", key->names[i]);
		appendStringInfo(&row, "%s$%d", i ? ", " : "", *count);
	}
	appendStringInfo(sql, ") %s ROW(%s)", operator, row.data);
}

/*
 * search_keys finds the next "limit" rows: how many there are, which of them lack a value, and the last key.
 *
 * The last key is found by itself: a sort with the array beside it would copy the array for each row.
 */
static void
search_keys(const char *table, const char *column, PaPrimaryKey *key, ArrayType *after, ArrayType *upto, int limit)
{
	StringInfoData sql;
	Oid			types[2 * INDEX_MAX_KEYS];
	Datum		values[2 * INDEX_MAX_KEYS];
	int			count = 0;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "WITH part AS MATERIALIZED (SELECT t.ctid AS row");
	appendStringInfo(&sql, ", t.%s IS NOT DISTINCT FROM NULL AS lacking", column);
	for (int i = 0; i < key->count; i++)
		appendStringInfo(&sql, ", t.%s AS key%d", key->names[i], i);
	appendStringInfo(&sql, " FROM ONLY %s AS t WHERE true", table);
	if (after)
		append_bound(&sql, key, ">", after, &count, types, values);
	if (upto)
		append_bound(&sql, key, "<=", upto, &count, types, values);
	for (int i = 0; i < key->count; i++)
		appendStringInfo(&sql, "%s t.%s", i ? "," : " ORDER BY", key->names[i]);
	appendStringInfo(&sql, " LIMIT %d)"
					 " SELECT (SELECT count(*) FROM part), (SELECT array_agg(row) FROM part WHERE lacking), last.*"
					 " FROM (SELECT ", limit);
	for (int i = 0; i < key->count; i++)
		appendStringInfo(&sql, "%skey%d", i ? ", " : "", i);
	appendStringInfoString(&sql, " FROM part");
	for (int i = 0; i < key->count; i++)
		appendStringInfo(&sql, "%s key%d DESC", i ? "," : " ORDER BY", i);
	appendStringInfoString(&sql, " LIMIT 1) last");

	if (SPI_execute_with_args(sql.data, count, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of: %s", sql.data);
}

/*
 * last_key prints the key that search_keys found.
 */
static Datum
last_key(PaPrimaryKey *key)
{
	Datum		texts[INDEX_MAX_KEYS];

	for (int i = 0; i < key->count; i++)
		texts[i] = CStringGetTextDatum(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3 + i));

	return PointerGetDatum(construct_array(texts, key->count, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * form_result makes the row that a function returns, in its caller's memory.
 */
static Datum
form_result(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	TupleDesc	descriptor;

	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls));
}

/*
 * backfill_leaf(target regclass, after oid) is the next of the tables that have the rows of a table, in the
 * order of their OIDs: a partition that is made meanwhile comes last.
 */
Datum
pa_backfill_leaf(PG_FUNCTION_ARGS)
{
	Oid			target = PG_GETARG_OID(0);
	Oid			after = PG_GETARG_OID(1);
	Oid			next = InvalidOid;
	List	   *tables;
	ListCell   *cell;

	if (get_rel_relkind(target) != RELKIND_PARTITIONED_TABLE)
		tables = list_make1_oid(target);
	else
		tables = pa_unlocked_tree(target);
	foreach(cell, tables)
	{
		Oid			table = lfirst_oid(cell);

		if (table > after && (next == InvalidOid || table < next) && is_part(target, table))
			next = table;
	}
	if (!OidIsValid(next))
		PG_RETURN_NULL();

	PG_RETURN_OID(next);
}

/*
 * backfill_range(target regclass, leaf oid, column_name name, after text[], upto text[], batch_size integer)
 * finds the next rows of a table by primary key.  NULLs: the table has no rows any more, or is gone.
 */
Datum
pa_backfill_range(PG_FUNCTION_ARGS)
{
	ArrayType  *after = PG_ARGISNULL(3) ? NULL : PG_GETARG_ARRAYTYPE_P(3);
	ArrayType  *upto = PG_ARGISNULL(4) ? NULL : PG_GETARG_ARRAYTYPE_P(4);
	Datum		values[3] = {0};
	bool		nulls[3] = {true, true, true};
	PaPrimaryKey key;
	Relation	table;
	int			guc_level;

	require(fcinfo, 3);
	if (PG_ARGISNULL(5) || PG_GETARG_INT32(5) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_size must be positive")));
	if (!lock_part(PG_GETARG_OID(0), PG_GETARG_OID(1)))
		return form_result(fcinfo, values, nulls);
	table = table_open(PG_GETARG_OID(1), NoLock);
	pa_primary_key(table, &key);
	table_close(table, NoLock);

	guc_level = enter_key_search(&key);
	SPI_connect();
	search_keys(pa_relation_sql(PG_GETARG_OID(1)), quote_identifier(NameStr(*PG_GETARG_NAME(2))), &key,
				after, upto, PG_GETARG_INT32(5));
	if (SPI_processed == 1)
	{
		nulls[0] = nulls[1] = false;
		values[0] = SPI_datumTransfer(last_key(&key), false, -1);
		values[1] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &nulls[1]);
		values[2] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &nulls[2]);
		if (!nulls[2])
			values[2] = SPI_datumTransfer(values[2], false, -1);
	}
	SPI_finish();
	AtEOXact_GUC(true, guc_level);

	return form_result(fcinfo, values, nulls);
}

/*
 * run_on_rows runs a statement on the rows $1, in a way that does not depend on how many they are: the planner
 * would rather read a whole table than 10,000 single rows.
 */
static void
run_on_rows(const char *sql, Datum rows, int expected)
{
	Oid			types[] = {TIDARRAYOID};
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, lengthof(types), types, CURSOR_OPT_GENERIC_PLAN);
	int			code;

	if (plan == NULL)
		elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
	code = SPI_execute_plan(plan, &rows, NULL, false, 0);
	if (code != expected)
		elog(ERROR, "unexpected result %s of: %s", SPI_result_code_string(code), sql);
}

/*
 * rows_result is the array that the last statement returned in a column, or one without elements.
 */
static Datum
rows_result(int column)
{
	bool		isnull;
	Datum		rows = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? PointerGetDatum(construct_empty_array(TIDOID)) : rows;
}

static int
rows_count(Datum rows)
{
	ArrayType  *array = DatumGetArrayTypeP(rows);

	return ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
}

/*
 * lock_strength is what an UPDATE of the column would lock a row with.  A weaker lock could be had where the UPDATE
 * would then wait.
 */
static const char *
lock_strength(Oid relation, const char *column)
{
	Relation	table = table_open(relation, NoLock);
	Bitmapset  *key = RelationGetIndexAttrBitmap(table, INDEX_ATTR_BITMAP_KEY);
	AttrNumber	attribute = get_attnum(relation, column);

	table_close(table, NoLock);

	return bms_is_member(attribute - FirstLowInvalidHeapAttributeNumber, key) ? "UPDATE" : "NO KEY UPDATE";
}

/*
 * backfill_rows(target regclass, leaf oid, column_name name, expression text, rows tid[]) fills the column of
 * those rows that lack a value and are not locked.
 *
 * Nothing but the expression depends on the caller's search_path.  What others change between the statements
 * counts as locked, and is looked at again later.
 */
Datum
pa_backfill_rows(PG_FUNCTION_ARGS)
{
	Datum		values[2] = {Int64GetDatum(0), Int64GetDatum(0)};
	bool		nulls[2] = {false, false};
	char	   *column;
	char	   *expression;
	char	   *source;
	Datum		lacking;
	Datum		locked;
	int			changed;

	require(fcinfo, 4);
	if (PG_ARGISNULL(4) || !lock_part(PG_GETARG_OID(0), PG_GETARG_OID(1)))
		return form_result(fcinfo, values, nulls);
	column = pstrdup(quote_identifier(NameStr(*PG_GETARG_NAME(2))));
	expression = text_to_cstring(PG_GETARG_TEXT_PP(3));
	/* In the expression the table is called as the caller calls it. */
	source = psprintf("ONLY %s AS %s", pa_relation_sql(PG_GETARG_OID(1)), quote_identifier(get_rel_name(PG_GETARG_OID(0))));

	SPI_connect();
	run_on_rows(psprintf("SELECT pg_catalog.array_agg(ctid) FILTER (WHERE (\n%s\n) IS DISTINCT FROM NULL), pg_catalog.array_agg(ctid)"
						 " FROM %s WHERE ctid OPERATOR(pg_catalog.=) ANY ($1)",
						 expression, source),
				PG_GETARG_DATUM(4), SPI_OK_SELECT);
	lacking = rows_result(1);
	changed = rows_count(PG_GETARG_DATUM(4)) - rows_count(rows_result(2));
	if (rows_count(lacking) > 0)
	{
		run_on_rows(psprintf("SELECT pg_catalog.array_agg(l.id) FROM (SELECT ctid AS id FROM %s"
							 " WHERE ctid OPERATOR(pg_catalog.=) ANY ($1) AND %s IS NOT DISTINCT FROM NULL FOR %s SKIP LOCKED) l",
							 source, column, lock_strength(PG_GETARG_OID(1), NameStr(*PG_GETARG_NAME(2)))),
					lacking, SPI_OK_SELECT);
		locked = rows_result(1);
		changed += rows_count(lacking) - rows_count(locked);
		run_on_rows(psprintf("UPDATE %s SET %s = (\n%s\n) WHERE ctid OPERATOR(pg_catalog.=) ANY ($1)"
							 " AND %s IS NOT DISTINCT FROM NULL",
							 source, column, expression, column),
					locked, SPI_OK_UPDATE);
		values[0] = Int64GetDatum((int64) SPI_processed);
	}
	values[1] = Int64GetDatum((int64) changed);
	SPI_finish();

	return form_result(fcinfo, values, nulls);
}

/*
 * backfill_pause(locked boolean) lets others work; longer when it is to wait for their locks.
 */
Datum
pa_backfill_pause(PG_FUNCTION_ARGS)
{
	int			pause = PG_GETARG_BOOL(0) ? Max(pa_backfill_pause_ms, pa_lock_timeout) : pa_backfill_pause_ms;

	if (pause > 0)
		(void) DirectFunctionCall1(pg_sleep, Float8GetDatum(pause / 1000.0));

	PG_RETURN_VOID();
}

/*
 * backfill_progress(target regclass, column_name name, done bigint, expected bigint) shows in job_progress how
 * far the run is; done NULL: it is over.
 */
Datum
pa_backfill_progress(PG_FUNCTION_ARGS)
{
	require(fcinfo, 2);
	if (PG_ARGISNULL(2))
		pa_job_progress_end();
	else
		pa_job_progress(PG_GETARG_OID(0), get_attnum(PG_GETARG_OID(0), NameStr(*PG_GETARG_NAME(1))),
						PG_GETARG_INT64(2), Max(PG_GETARG_INT64(2), PG_GETARG_INT64(3)));

	PG_RETURN_VOID();
}
