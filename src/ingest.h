/*
 * ingest.h
 *		Moving events from staging_events to events.
 *
 * ingest.c is the run; it takes the batch out of staging chunk by chunk.  ingest_check.c says what is wrong
 * with the rows of a chunk, ingest_dedupe.c which events are there already, and ingest_insert.c makes events
 * of the others, in the partition that each belongs to.
 */
#ifndef PA_INGEST_H
#define PA_INGEST_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "partition.h"
#include "partitioning/partdefs.h"
#include "utils/tuplestore.h"
#include "validation_event.h"

/* The columns of staging_events. */
typedef enum StagedColumn
{
	STAGED_EVENT_ID,
	STAGED_USER_ID,
	STAGED_ORG_ID,
	STAGED_EVENT_TYPE,
	STAGED_PAYLOAD,
	STAGED_EVENT_TIME,
	STAGED_RECEIVED_AT,
	STAGED_ATTEMPTS,
	STAGED_COLUMNS				/* how many they are */
} StagedColumn;

#define STAGED_COLUMN_NAMES "event_id, user_id, org_id, event_type, payload, event_time, received_at, attempts"

/* Why a row cannot become an event; the names are in ingest_check.c. */
typedef enum ReasonCode
{
	REASON_MISSING_FIELD,
	REASON_EVENT_TIME_OUT_OF_RANGE,
	REASON_UNKNOWN_USER,
	REASON_UNKNOWN_ORGANIZATION,
	REASON_INVALID_PAYLOAD,
	REASON_SCHEMA_VIOLATION,
	REASON_DUPLICATE_EVENT_ID,
	REASON_REJECTED,
	REASON_CODES				/* how many they are */
} ReasonCode;

/* What becomes of a row. */
typedef enum RowFate
{
	ROW_EVENT,					/* becomes an event */
	ROW_LATER,					/* becomes one once its partition is there */
	ROW_DUPLICATE,				/* is dropped: the event is there already */
	ROW_QUARANTINED				/* is set aside, with reasons */
} RowFate;

/* A staged row. */
typedef struct StagedRow
{
	Datum		values[STAGED_COLUMNS];
	bool		nulls[STAGED_COLUMNS];
	RowFate		fate;
	StringInfo	reasons;		/* NULL, or the elements of a JSON array */
	int			codes;			/* their codes, as bits */
	Oid			leaf;			/* its partition; InvalidOid: there is none */
} StagedRow;

/* Some rows that are dealt with together, in memory. */
typedef struct Chunk
{
	MemoryContext context;		/* of the rows */
	int			count;
	StagedRow  *rows;
} Chunk;

/* What came of a run. */
typedef struct IngestCounts
{
	int64		taken;			/* rows taken out of staging */
	int64		inserted;
	int64		duplicates;
	int64		quarantined;
	int64		deferred;		/* put back into staging */
	int64		quarantined_for[REASON_CODES];
	int64		warned;			/* go in, but do not satisfy a schema in mode "warn" */
	int64		chunks;
	TimestampTz oldest;			/* event_time of what was inserted */
	TimestampTz newest;
	TimestampTz first_arrival;	/* the earliest received_at of what was inserted */
} IngestCounts;

/* One run. */
typedef struct Ingest
{
	int32		batch_size;
	TimestampTz now;
	Relation	events;
	PartitionDesc partitions;	/* of events, as they were when the chunk at hand was begun */
	Oid			users;
	Oid			staging;
	int64		expected;		/* rows that the run will find, roughly */
	Oid			sequence;		/* of event_id; InvalidOid: there is none */
	PaPolicy   *policy;			/* of events; NULL: its partitions are not managed */
	TimestampTz expiry;			/* what happened before is older than the retention */
	int64		window;			/* the dedupe window, in microseconds */
	int64		job_id;
	int			partitions_made;	/* for the batch */
	IngestCounts counts;
	Tuplestorestate *homeless;	/* rows whose partition is missing */
} Ingest;

/* ingest_check.c */
extern void pa_check_rows(Ingest *ingest, Chunk *chunk);
extern void pa_add_reason(StagedRow *row, ReasonCode code, const char *path, const char *message, const char *more);
extern const char *pa_reason_name(ReasonCode code);

/* ingest_dedupe.c */
extern void pa_find_duplicates(Ingest *ingest, Chunk *chunk);

/* ingest_insert.c */
extern Oid	pa_leaf_of(Ingest *ingest, TimestampTz event_time);
extern void pa_quarantine_rows(Ingest *ingest, Chunk *chunk);
extern void pa_insert_rows(Ingest *ingest, Chunk *chunk);
extern void pa_put_back_rows(Ingest *ingest, Chunk *chunk);

#endif							/* PA_INGEST_H */
