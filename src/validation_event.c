/*
 * validation_event.c
 *		The schemas that are registered for event types, compiled.
 *
 * Each session keeps the newest version of each type's schema.  A relation cache invalidation of
 * event_schemas, which whoever changes the table sends, makes it read the table again; a schema that
 * has not changed stays compiled.
 *
 * The table is read like a catalog: as of now, whatever snapshot the transaction has.  What is kept
 * outlives the transaction, so it must not be what an old snapshot saw.
 */
#include "prod_analytics.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "guard.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "validation_event.h"

/* The registered schemas: a hash table of PaEventSchema, and the memory context of all of it. */
static HTAB *registered = NULL;
static MemoryContext registered_context = NULL;

/* The table that they were read from, and whether that was all of what it holds now. */
static Oid	source_table = InvalidOid;
static bool is_current = false;

/* Whether the transaction that read them had written something by then, perhaps to the table. */
static bool may_be_rolled_back = false;

/* Counts the invalidations, to notice those that arrive while the table is read. */
static uint64 invalidations = 0;

/* Counts how often the table was read. */
uint64		pa_event_schemas_generation = 0;

/*
 * hash_event_type and compare_event_types let the table be looked up by event type.
 */
static uint32
hash_event_type(const void *key, Size size)
{
	const PaName *name = key;

	return hash_bytes((const unsigned char *) name->text, name->length);
}

static int
compare_event_types(const void *a, const void *b, Size size)
{
	return pa_compare_names(*(const PaName *) a, *(const PaName *) b);
}

/*
 * make_table makes an empty table of schemas.
 */
static HTAB *
make_table(MemoryContext context)
{
	HASHCTL		control = {0};

	control.keysize = sizeof(PaName);
	control.entrysize = sizeof(PaEventSchema);
	control.hash = hash_event_type;
	control.match = compare_event_types;
	control.hcxt = context;

	return hash_create("event schemas", 32, &control,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

/*
 * forget_schemas is called for each invalidation of a relation; InvalidOid means all of them.
 */
static void
forget_schemas(Datum argument, Oid relation)
{
	if (relation != source_table && OidIsValid(relation))
		return;
	is_current = false;
	invalidations++;
}

/*
 * forget_rolled_back makes us read the table again after a rollback, if what we have may have come from
 * what was rolled back: a row is there before the trigger that announces it has fired.
 */
static void
forget_rolled_back(void)
{
	if (!may_be_rolled_back)
		return;
	is_current = false;
	invalidations++;
}

static void
at_transaction_end(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT || event == XACT_EVENT_PREPARE)
		forget_rolled_back();
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE)
		may_be_rolled_back = false;
}

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *argument)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_rolled_back();
}

/*
 * register_callbacks asks to be told what makes the schemas out of date.
 */
static void
register_callbacks(void)
{
	static bool is_registered = false;

	if (is_registered)
		return;
	CacheRegisterRelcacheCallback(forget_schemas, (Datum) 0);
	RegisterXactCallback(at_transaction_end, NULL);
	RegisterSubXactCallback(at_subtransaction_end, NULL);
	is_registered = true;
}

/*
 * column reads a column of a row of event_schemas, which is never NULL.  The table is its owner's, who may
 * have given the column another type.
 */
static Datum
column(Relation table, HeapTuple row, const char *name, Oid type)
{
	AttrNumber	number = get_attnum(RelationGetRelid(table), name);
	bool		isnull = true;
	Datum		value = (Datum) 0;

	if (number != InvalidAttrNumber && TupleDescAttr(RelationGetDescr(table), number - 1)->atttypid == type)
		value = heap_getattr(row, number, RelationGetDescr(table), &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of \"%s.event_schemas\" is missing, NULL or not of type %s",
						name, PA_SCHEMA, format_type_be(type))));

	return value;
}

/*
 * mode_of is the mode that a text names.
 */
static PaMode
mode_of(const char *text)
{
	if (strcmp(text, "enforce") == 0)
		return PA_MODE_ENFORCE;

	return strcmp(text, "warn") == 0 ? PA_MODE_WARN : PA_MODE_OFF;
}

/*
 * remember copies a row of event_schemas, unless there is a newer version.
 */
static void
remember(HTAB *schemas, MemoryContext parent, Relation table, HeapTuple row)
{
	text	   *type = DatumGetTextPP(column(table, row, "event_type", TEXTOID));
	int			version = DatumGetInt32(column(table, row, "version", INT4OID));
	PaName		name = {VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type)};
	bool		found;
	PaEventSchema *entry = hash_search(schemas, &name, HASH_FIND, &found);
	MemoryContext caller_context;

	if (found && entry->version > version)
		return;
	if (!found)
	{
		MemoryContext context = AllocSetContextCreate(parent, "event schema", ALLOCSET_SMALL_SIZES);

		name.text = memcpy(MemoryContextAlloc(context, name.length + 1), name.text, name.length);
		entry = hash_search(schemas, &name, HASH_ENTER, NULL);
		entry->context = context;
		entry->source = NULL;
	}

	entry->version = version;
	entry->mode = mode_of(TextDatumGetCString(column(table, row, "mode", TEXTOID)));
	entry->schema = NULL;
	if (entry->source)
		pfree(entry->source);
	caller_context = MemoryContextSwitchTo(entry->context);
	entry->source = DatumGetJsonbPCopy(column(table, row, "schema", JSONBOID));
	MemoryContextSwitchTo(caller_context);
}

/*
 * read_schemas reads the newest version of each type's schema.
 */
static HTAB *
read_schemas(Relation table, MemoryContext context)
{
	HTAB	   *schemas = make_table(context);
	SysScanDesc scan = systable_beginscan(table, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	row;

	while (HeapTupleIsValid(row = systable_getnext(scan)))
		remember(schemas, context, table, row);
	systable_endscan(scan);

	return schemas;
}

/*
 * is_same tells whether two schemas of a type are the same document.
 */
static bool
is_same(const PaEventSchema *a, const PaEventSchema *b)
{
	return VARSIZE(a->source) == VARSIZE(b->source) && memcmp(a->source, b->source, VARSIZE(a->source)) == 0;
}

/*
 * take_over takes what is compiled and has not changed from the old schemas.
 */
static void
take_over(HTAB *schemas, MemoryContext parent)
{
	HASH_SEQ_STATUS scan;
	PaEventSchema *old;

	hash_seq_init(&scan, registered);
	while ((old = hash_seq_search(&scan)) != NULL)
	{
		PaEventSchema *successor = hash_search(schemas, &old->event_type, HASH_FIND, NULL);

		if (successor == NULL || old->schema == NULL || !is_same(old, successor))
			continue;

		/* With the documents that it refers to, and the key. */
		MemoryContextSetParent(old->context, parent);
		MemoryContextDelete(successor->context);
		successor->event_type.text = old->event_type.text;
		successor->context = old->context;
		successor->source = old->source;
		successor->schema = old->schema;
	}
}

/*
 * refresh reads the table of schemas again.
 */
static void
refresh(void)
{
	Relation	table = table_open(pa_table("event_schemas"), AccessShareLock);
	uint64		before = invalidations;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event schemas", ALLOCSET_DEFAULT_SIZES);
	HTAB	   *schemas;

	register_callbacks();
	source_table = RelationGetRelid(table);
	schemas = read_schemas(table, context);
	table_close(table, AccessShareLock);

	if (registered)
	{
		take_over(schemas, context);
		MemoryContextDelete(registered_context);
	}
	registered = schemas;
	registered_context = context;
	MemoryContextSetParent(context, CacheMemoryContext);
	pa_event_schemas_generation++;

	may_be_rolled_back = TransactionIdIsValid(GetTopTransactionIdIfAny());

	/* What has committed since the snapshot was taken is read next time. */
	is_current = (invalidations == before);
}

/*
 * compile compiles a registered schema when it is first asked for.
 */
static void
compile(PaEventSchema *entry)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "compiled event schema", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller_context = MemoryContextSwitchTo(context);
	PaSchemaProblem problem;
	PaSchema   *schema = pa_compile_schema(entry->source, true, &problem);

	MemoryContextSwitchTo(caller_context);
	if (schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version %d of the schema for events of type \"%.*s\" is invalid at \"%s\": %s",
						entry->version, entry->event_type.length, entry->event_type.text, problem.path, problem.message),
				 errhint("Register a right one with %s.register_event_schema().", PA_SCHEMA)));

	MemoryContextSetParent(context, entry->context);
	entry->schema = schema;
}

/*
 * pa_notice_event_schemas takes notice of schemas that other sessions have registered, also within a
 * transaction, which otherwise would not hear of them before it takes another lock.
 */
void
pa_notice_event_schemas(void)
{
	AcceptInvalidationMessages();
	if (!is_current)
		refresh();
}

/*
 * pa_peek_event_schema finds the schema that is registered for events of a type, be it valid or not;
 * NULL when there is none.
 */
PaEventSchema *
pa_peek_event_schema(PaName event_type)
{
	pa_notice_event_schemas();

	return hash_search(registered, &event_type, HASH_FIND, NULL);
}

/*
 * pa_find_event_schema finds the schema that is registered for events of a type, compiled; NULL when
 * there is none.  The result is good until pa_event_schemas_generation changes.
 */
PaEventSchema *
pa_find_event_schema(PaName event_type)
{
	PaEventSchema *entry = pa_peek_event_schema(event_type);

	if (entry && entry->schema == NULL)
		compile(entry);

	return entry;
}
