/*
 * refresh_check.c
 *		What a materialized view and its archive must have so that the view can be kept incrementally.
 */
#include "prod_analytics.h"

#include "access/table.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "guard.h"
#include "refresh.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/*
 * check_archive_column refuses an archive that cannot take a column of the view.
 */
static void
check_archive_column(Relation archive, Form_pg_attribute wanted)
{
	AttrNumber	number = get_attnum(RelationGetRelid(archive), NameStr(wanted->attname));
	Form_pg_attribute column;

	if (number <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("archive \"%s\" has no column \"%s\"", RelationGetRelationName(archive), NameStr(wanted->attname)),
				 errhint("An archive has all of the materialized view's columns.")));

	column = TupleDescAttr(RelationGetDescr(archive), number - 1);
	if (column->atttypid != wanted->atttypid || column->atttypmod != wanted->atttypmod)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of archive \"%s\" has type %s",
						NameStr(wanted->attname), RelationGetRelationName(archive),
						format_type_with_typemod(column->atttypid, column->atttypmod)),
				 errdetail("In the materialized view it has type %s.",
						   format_type_with_typemod(wanted->atttypid, wanted->atttypmod))));

	if (column->attgenerated != '\0' || column->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("column \"%s\" of archive \"%s\" is generated", NameStr(wanted->attname),
						RelationGetRelationName(archive)),
				 errhint("An archive takes the values of the materialized view's columns as they are.")));
}

/*
 * check_other_columns refuses an archive with a column that somebody would have to fill.
 */
static void
check_other_columns(Relation archive, Oid matview)
{
	TupleDesc	descriptor = RelationGetDescr(archive);

	for (int i = 0; i < descriptor->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(descriptor, i);

		if (!column->attisdropped && column->attnotnull && !column->atthasdef && column->attidentity == '\0' &&
			get_attnum(matview, NameStr(column->attname)) == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("column \"%s\" of archive \"%s\" must not be NULL, and the materialized view has no such column",
							NameStr(column->attname), RelationGetRelationName(archive)),
					 errhint("Give the column a default.")));
	}
}

/*
 * pa_check_archive refuses what cannot take a view's rows.
 */
void
pa_check_archive(PaView *view, Oid archive_id)
{
	Relation	archive;
	Relation	matview;

	if (view->reason)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("materialized view \"%s\" cannot have an archive", get_rel_name(view->matview)),
				 errdetail("It cannot be kept incrementally: %s.", view->reason),
				 errhint("Leave archive out.")));

	if (get_rel_relkind(archive_id) != RELKIND_RELATION || get_rel_persistence(archive_id) != RELPERSISTENCE_PERMANENT ||
		archive_id == view->source)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be an archive", get_rel_name(archive_id)),
				 errhint("An archive is an ordinary permanent table, other than the one that the materialized view reads.")));

	if (pa_owner(archive_id) != view->owner)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("archive \"%s\" belongs to another role than the materialized view", get_rel_name(archive_id)),
				 errhint("Let one role own both.")));

	matview = table_open(view->matview, AccessShareLock);
	archive = table_open(archive_id, AccessShareLock);
	for (int i = 0; i < RelationGetDescr(matview)->natts; i++)
		check_archive_column(archive, TupleDescAttr(RelationGetDescr(matview), i));
	check_other_columns(archive, view->matview);
	table_close(archive, NoLock);
	table_close(matview, NoLock);
}

/*
 * pa_check_unique_index refuses a view without the index by which groups are found in it.
 */
void
pa_check_unique_index(PaView *view)
{
	if (!OidIsValid(pa_view_unique_index(view)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("materialized view \"%s\" has no unique index on the columns that it groups by",
						get_rel_name(view->matview)),
				 errdetail("That is how a refresh finds a group in it."),
				 errhint("Make one with: %s", pa_view_unique_index_sql(view))));
}
