/*
 * worker_command.c
 *		Executing the command of a job.
 *
 * It is executed like a query string that a client sends, and not from within a function: so procedures may commit,
 * and VACUUM works.  Several statements are one transaction, unless they say otherwise.
 */
#include "prod_analytics.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "jit/jit.h"
#include "miscadmin.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "replication/slot.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(pa_check_command_sql);

/* Takes the result of a statement: what is of interest is how many rows there are, and a single jsonb value. */
typedef struct Taker
{
	DestReceiver public;
	MemoryContext context;		/* of the outcome */
	bool		is_jsonb;		/* the result has one column, of that type */
	int64		rows;
	char	   *json;
} Taker;

static bool
take(TupleTableSlot *row, DestReceiver *self)
{
	Taker	   *taker = (Taker *) self;

	CHECK_FOR_INTERRUPTS();
	if (taker->rows++ == 0 && taker->is_jsonb)
	{
		bool		isnull;
		Datum		value = slot_getattr(row, 1, &isnull);
		MemoryContext caller_context = MemoryContextSwitchTo(taker->context);

		if (!isnull)
			taker->json = JsonbToCString(NULL, &DatumGetJsonbP(value)->root, 0);
		MemoryContextSwitchTo(caller_context);
	}

	return true;
}

static void
start_taking(DestReceiver *self, int operation, TupleDesc descriptor)
{
	((Taker *) self)->is_jsonb = descriptor->natts == 1 && TupleDescAttr(descriptor, 0)->atttypid == JSONBOID;
}

static void
stop_taking(DestReceiver *self)
{
}

/*
 * run_portal runs a statement that has been planned, and returns how many rows it has processed.
 */
static void
run_portal(const char *command, CommandTag tag, List *plans, Taker *taker)
{
	Portal		portal = CreatePortal("", true, true);
	QueryCompletion completion;
	int16		format = 0;

	portal->visible = false;
	PortalDefineQuery(portal, NULL, command, tag, plans, NULL);
	PortalStart(portal, NULL, 0, InvalidSnapshot);
	PortalSetResultFormat(portal, 1, &format);
	InitializeQueryCompletion(&completion);
	pa_portal_run(portal, &taker->public, &completion);
	taker->rows = Max(taker->rows, (int64) completion.nprocessed);
	PortalDrop(portal, false);
}

/*
 * forbid_client refuses to copy to or from a client: there is none, and in its place the server would take the
 * standard input and output that it was started with.
 */
static void
forbid_client(Node *statement)
{
	if (IsA(statement, CopyStmt) && ((CopyStmt *) statement)->filename == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a job has no client to COPY to or from"),
				 errhint("Copy to or from a file or a program of the server.")));
}

/*
 * explain_refusal makes the position that an error has one in the command, and not in the query that schedules it.
 */
static void
explain_refusal(void *argument)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(argument);
	}
	if (geterrcode() == ERRCODE_SYNTAX_ERROR)
		errdetail("Nothing was scheduled.");
}

/*
 * pa_check_command refuses a command that could not be executed whenever it is: one that does not parse, or needs a
 * client.  Whether its tables exist is left to the run: they may be made until then, be on the search_path that the
 * owner's sessions have, or come with a dump that is being restored.
 */
void
pa_check_command(const char *command)
{
	ErrorContextCallback context = {error_context_stack, explain_refusal, unconstify(char *, command)};
	ListCell   *cell;

	error_context_stack = &context;
	foreach(cell, raw_parser(command, RAW_PARSE_DEFAULT))
		forbid_client(lfirst_node(RawStmt, cell)->stmt);
	error_context_stack = context.previous;
}

/*
 * check_command(command text) does it for a trigger of jobs.
 */
Datum
pa_check_command_sql(PG_FUNCTION_ARGS)
{
	pa_check_command(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	PG_RETURN_VOID();
}

/*
 * execute_statement executes one statement in the transaction that is going on.
 */
static void
execute_statement(RawStmt *statement, const char *command, MemoryContext context, PaOutcome *outcome)
{
	CommandTag	tag = CreateCommandTag(statement->stmt);
	bool		needs_snapshot = analyze_requires_snapshot(statement);
	Taker		taker = {{take, start_taking, stop_taking, stop_taking, DestNone}, context};
	List	   *queries;
	List	   *plans;

	CHECK_FOR_INTERRUPTS();
	forbid_client(statement->stmt);
	if (needs_snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	queries = pg_analyze_and_rewrite_fixedparams(statement, command, NULL, 0, NULL);
	plans = pg_plan_queries(queries, command, CURSOR_OPT_PARALLEL_OK, NULL);
	if (needs_snapshot)
		PopActiveSnapshot();

	run_portal(command, tag, plans, &taker);
	outcome->rows = taker.rows;
	outcome->json = taker.json;
}

/*
 * execute_in_transaction executes one of several statements, and ends the transaction after the last one.
 */
static void
execute_in_transaction(RawStmt *statement, const char *command, bool is_alone, bool is_last, MemoryContext context,
					   PaOutcome *outcome)
{
	StartTransactionCommand();
	if (!is_alone)
		BeginImplicitTransactionBlock();
	if (StatementTimeout > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);

	execute_statement(statement, command, context, outcome);

	/* The statement may have switched the timeout off, which began with it nevertheless. */
	disable_timeout(STATEMENT_TIMEOUT, false);
	if (is_last && !is_alone)
		EndImplicitTransactionBlock();
	if (is_last || IsA(statement->stmt, TransactionStmt))
		CommitTransactionCommand();
	else
		CommandCounterIncrement();
}

/*
 * pa_execute_command executes a command.  The outcome is in the caller's memory context, which must outlive
 * transactions.  After an error, whoever catches it ends the transaction.
 *
 * What now() returns is when the command arrived, as with a client's.
 */
void
pa_execute_command(const char *command, PaOutcome *outcome)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *statements;
	ListCell   *cell;

	memset(outcome, 0, sizeof(*outcome));
	debug_query_string = command;
	SetCurrentStatementStartTimestamp();
	statements = pg_parse_query(command);
	foreach(cell, statements)
		execute_in_transaction(lfirst_node(RawStmt, cell), command, list_length(statements) == 1,
							   lnext(statements, cell) == NULL, context, outcome);
	MemoryContextSwitchTo(context);

	if (IsTransactionOrTransactionBlock())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("the command left a transaction open"),
				 errdetail("It was rolled back."),
				 errhint("End it with COMMIT.")));
	debug_query_string = NULL;
}

/*
 * pa_abort_command ends the transaction of a command that has failed, and clears away what transactions do not take
 * along: cursors of loops that have committed, and a replication slot that was being read.  The command's text will be
 * gone, so nothing that is logged later may name it.
 */
void
pa_abort_command(void)
{
	debug_query_string = NULL;
	AbortOutOfAnyTransaction();
	PortalErrorCleanup();
	if (MyReplicationSlot)
		ReplicationSlotRelease();
	jit_reset_after_error();
}

/*
 * pa_reset_session forgets what a command has left in the session, as DISCARD ALL does, but for plans: they are what
 * a process that has done it before is quicker for.  Who wanted to cancel the command has come too late.
 */
void
pa_reset_session(void)
{
	HOLD_CANCEL_INTERRUPTS();
	StartTransactionCommand();
	PortalHashTableDeleteAll();
	SetPGVariable("session_authorization", NIL, false);
	ResetAllOptions();
	DropAllPreparedStatements();
	LockReleaseAll(USER_LOCKMETHOD, true);
	PushActiveSnapshot(GetTransactionSnapshot());
	ResetTempTableNamespace();
	PopActiveSnapshot();
	ResetSequenceCaches();
	CommitTransactionCommand();
	pa_drop_temporary_slots();
	QueryCancelPending = false;
	RESUME_CANCEL_INTERRUPTS();
}
