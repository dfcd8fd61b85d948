/*
 * backfill_check.c
 *		What backfill_column() asks of its arguments and of the table before it begins.
 */
#include "prod_analytics.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "backfill.h"
#include "catalog/partition.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_operator.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "guard.h"
#include "job.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/plancat.h"
#include "parser/parser.h"
#include "partition.h"
#include "rewrite/prs2lock.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(pa_backfill_begin);

/* The column to fill. */
typedef struct Target
{
	Oid			table;
	const char *name;			/* of the table, quoted and with its schema */
	const char *column;
	AttrNumber	attribute;
	bool		partitioned;
} Target;

/*
 * reject_nulls refuses arguments that are NULL.
 */
static void
reject_nulls(FunctionCallInfo fcinfo)
{
	const char *const names[] = {"target", "column_name", "expression", "batch_size"};

	for (size_t i = 0; i < lengthof(names); i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s is NULL", names[i]),
					 errhint("Give a table, a column, an expression and a number of rows.")));
	}
}

/*
 * check_circumstances refuses to begin where a procedure that commits cannot work.
 */
static void
check_circumstances(int batch_size)
{
	if (batch_size <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_size must be positive, not %d", batch_size),
				 errhint("Leave it out for batches of 10000 rows.")));
	if (IsTransactionBlock())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("backfill_column() cannot run inside a transaction block"),
				 errhint("It commits after each batch; call it by itself.")));
	pa_forbid_read_only("backfill_column()");
}

/*
 * describe_primary_key reads the columns of a primary key out of its index.
 *
 * The operators that compare their values may be in any schema; an extension's type has its own.
 */
static void
describe_primary_key(Relation table, Relation index, PaPrimaryKey *key)
{
	key->count = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < key->count; i++)
	{
		AttrNumber	column = index->rd_index->indkey.values[i];
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(table), column - 1);
		Oid			type = index->rd_opcintype[i];
		Oid			operator = get_opfamily_member(index->rd_opfamily[i], type, type, BTGreaterStrategyNumber);
		HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
		Oid			schema;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for operator %u", operator);
		key->columns[i] = column;
		key->types[i] = attribute->atttypid;
		key->typmods[i] = attribute->atttypmod;
		key->names[i] = pstrdup(quote_identifier(NameStr(attribute->attname)));
		schema = ((Form_pg_operator) GETSTRUCT(tuple))->oprnamespace;
		key->operator_schemas[i] = pstrdup(quote_identifier(get_namespace_name(schema)));
		ReleaseSysCache(tuple);
	}
}

/*
 * pa_find_primary_key finds the primary key of a table; false when it has none that orders its rows.
 */
bool
pa_find_primary_key(Relation table, PaPrimaryKey *key)
{
	List	   *indexes = RelationGetIndexList(table);
	ListCell   *cell;
	bool		have = false;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		if (index->rd_index->indisprimary && index->rd_index->indisvalid && index->rd_rel->relam == BTREE_AM_OID)
		{
			describe_primary_key(table, index, key);
			have = true;
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);

	return have;
}

/*
 * pa_primary_key is pa_find_primary_key for those who cannot do without.
 */
void
pa_primary_key(Relation table, PaPrimaryKey *key)
{
	const char *name = pa_relation_sql(RelationGetRelid(table));

	if (!pa_find_primary_key(table, key))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s has no primary key", name),
				 errdetail("A column is filled in batches of neighbours by primary key."),
				 errhint("Make a unique index on columns that are NOT NULL with CREATE UNIQUE INDEX CONCURRENTLY,"
						 " then: ALTER TABLE %s ADD PRIMARY KEY USING INDEX.", name)));
}

/*
 * check_privileges: we act as the caller.
 */
static void
check_privileges(Relation table, AttrNumber column)
{
	Oid			relation = RelationGetRelid(table);

	if (pg_class_aclcheck(relation, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		(pg_class_aclcheck(relation, GetUserId(), ACL_UPDATE) == ACLCHECK_OK ||
		 pg_attribute_aclcheck(relation, column, GetUserId(), ACL_UPDATE) == ACLCHECK_OK))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for table %s", RelationGetRelationName(table)),
			 errhint("Filling a column needs SELECT and UPDATE on the table and on each of its partitions.")));
}

/*
 * check_rules: an UPDATE that is rewritten is not ours any more.
 */
static void
check_rules(Relation table)
{
	for (int i = 0; table->rd_rules && i < table->rd_rules->numLocks; i++)
	{
		if (table->rd_rules->rules[i]->event == CMD_UPDATE)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("table %s has a rule for UPDATE", pa_relation_sql(RelationGetRelid(table))),
					 errhint("Drop the rule, or make a trigger of it.")));
	}
}

/*
 * check_kind: only tables are filled.
 */
static void
check_kind(Relation table)
{
	char		kind = table->rd_rel->relkind;

	if (kind == RELKIND_RELATION || kind == RELKIND_PARTITIONED_TABLE)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("%s is not a table", pa_relation_sql(RelationGetRelid(table))),
			 errhint("Views, foreign tables and the like cannot be filled, nor tables with partitions that are foreign"
					 " tables; fill the tables behind them.")));
}

/*
 * check_column: it exists, and an UPDATE in place can change it.
 */
static void
check_column(Target *target, Relation table)
{
	Form_pg_attribute attribute;

	target->attribute = get_attnum(target->table, target->column);
	if (target->attribute <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table %s has no column \"%s\" that could be filled", target->name, target->column),
				 errhint("Add it without a default first: ALTER TABLE %s ADD COLUMN %s ...;",
						 target->name, quote_identifier(target->column))));
	attribute = TupleDescAttr(RelationGetDescr(table), target->attribute - 1);
	if (attribute->attgenerated)
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("column \"%s\" of table %s is generated", target->column, target->name),
				 errhint("A generated column has its values already; only another one can be filled.")));
}

/*
 * check_partitioning: we update partitions, where a row cannot change to another one, and where the policies
 * of the parent do not count.
 */
static void
check_partitioning(Target *target, Relation table)
{
	AttrNumber	attribute = get_attnum(RelationGetRelid(table), target->column);
	Bitmapset  *columns = bms_make_singleton(attribute - FirstLowInvalidHeapAttributeNumber);
	bool		in_expression;

	if (table->rd_rel->relkind == RELKIND_PARTITIONED_TABLE && has_partition_attrs(table, columns, &in_expression))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" is part of the partition key of table %s", target->column, RelationGetRelationName(table)),
				 errhint("Filling it would move rows to other partitions; use UPDATE.")));
	if (target->partitioned && check_enable_rls(RelationGetRelid(table), InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("row-level security of table %s applies to you", RelationGetRelationName(table)),
				 errdetail("Partitions are filled one by one, where the policies of the partitioned table do not count."),
				 errhint("Let the owner of the table fill it, or a role with BYPASSRLS.")));
}

/*
 * check_tree checks the table and its partitions and returns about how many rows they have; "key" is set to the
 * columns of the primary key of one of them.
 */
static double
check_tree(Target *target, StringInfo key)
{
	List	   *tables = find_all_inheritors(target->table, AccessShareLock, NULL);
	double		rows = 0;
	ListCell   *cell;

	foreach(cell, tables)
	{
		Oid			relation = target->partitioned ? lfirst_oid(cell) : target->table;
		Relation	table = table_open(relation, NoLock);

		check_kind(table);
		check_privileges(table, get_attnum(relation, target->column));
		check_rules(table);
		check_partitioning(target, table);
		if (table->rd_rel->relkind == RELKIND_RELATION)
		{
			PaPrimaryKey primary;
			BlockNumber pages;
			double		tuples;
			double		visible;

			pa_primary_key(table, &primary);
			resetStringInfo(key);
			for (int i = 0; i < primary.count; i++)
				appendStringInfo(key, "%s%s %s", i ? ", " : "", primary.names[i],
								 format_type_with_typemod(primary.types[i], primary.typmods[i]));
			estimate_rel_size(table, NULL, &pages, &tuples, &visible);
			rows += tuples;
		}
		table_close(table, NoLock);
		CHECK_FOR_INTERRUPTS();
		if (!target->partitioned)
			break;
	}
	if (!target->partitioned && list_length(tables) > 1)
		ereport(NOTICE,
				(errmsg("only the rows of %s itself are filled, not those of the tables that inherit from it", target->name),
				 errhint("Call backfill_column() for each of them.")));

	return rows;
}

/*
 * explain_expression says what an error is about that comes up while the expression is parsed.
 */
static void
explain_expression(void *argument)
{
	const char *expression = argument;
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(expression);
	}
	switch (geterrcode())
	{
		case ERRCODE_SYNTAX_ERROR:
		case ERRCODE_GROUPING_ERROR:
		case ERRCODE_WINDOWING_ERROR:
		case ERRCODE_FEATURE_NOT_SUPPORTED:
		case ERRCODE_UNDEFINED_PARAMETER:
			errhint("Give one expression that says the value of a row by its columns, for example $$event_props->>'device'$$.");
			break;
		default:
			break;
	}
	errcontext("expression of backfill_column()");
}

/*
 * is_single_expression tells whether a parsed "SELECT list" is one expression and nothing else: neither a
 * second column nor a FROM, say.
 */
static bool
is_single_expression(SelectStmt *statement)
{
	ResTarget  *column;

	if (list_length(statement->targetList) != 1)
		return false;
	column = linitial_node(ResTarget, statement->targetList);
	statement->targetList = NIL;

	return column->name == NULL && equal(statement, makeNode(SelectStmt));
}

/*
 * check_expression: the text is one expression, of a type that can be assigned to the column.
 *
 * It is parsed by itself first.  In parentheses, "x), other = (y" would be good SQL.
 */
static void
check_expression(Target *target, char *expression)
{
	ErrorContextCallback context = {.previous = error_context_stack,.callback = explain_expression,.arg = expression};
	List	   *parsed;
	char	   *sql;

	error_context_stack = &context;
	parsed = raw_parser(expression, RAW_PARSE_PLPGSQL_EXPR);
	if (list_length(parsed) != 1 || !is_single_expression((SelectStmt *) linitial_node(RawStmt, parsed)->stmt))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("\"%s\" is not a single expression", expression)));

	sql = psprintf("UPDATE ONLY %s AS %s SET %s = (\n%s\n)", target->name, quote_identifier(get_rel_name(target->table)),
				   quote_identifier(target->column), expression);
	SPI_connect();
	if (SPI_prepare(sql, 0, NULL) == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	SPI_finish();
	error_context_stack = context.previous;
}

/*
 * backfill_begin(target regclass, column_name name, expression text, batch_size integer) checks all of it, and
 * returns the name of the job, what the run is about, and about how many rows there are.
 */
Datum
pa_backfill_begin(PG_FUNCTION_ARGS)
{
	Target		target = {0};
	StringInfoData key;
	Relation	table;
	TupleDesc	result;
	Datum		values[4];
	bool		nulls[4] = {0};
	double		rows;

	reject_nulls(fcinfo);
	check_circumstances(PG_GETARG_INT32(3));

	target.table = PG_GETARG_OID(0);
	target.name = pa_relation_sql(target.table);
	target.column = NameStr(*PG_GETARG_NAME(1));
	LockRelationOid(target.table, AccessShareLock);
	table = relation_open(target.table, NoLock);
	target.partitioned = table->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	check_kind(table);
	check_column(&target, table);
	relation_close(table, NoLock);

	initStringInfo(&key);
	rows = check_tree(&target, &key);
	check_expression(&target, text_to_cstring(PG_GETARG_TEXT_PP(2)));

	if (get_call_result_type(fcinfo, NULL, &result) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = CStringGetTextDatum(psprintf(PA_BACKFILL_JOB "%s.%s", target.name, pa_identifier(target.column)));
	values[1] = CStringGetTextDatum(target.name);
	values[2] = CStringGetTextDatum(key.data);
	values[3] = Int64GetDatum((int64) rows);

	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(result), values, nulls)));
}
