/*
 * run.c
 *		The SQL functions of the fuzz run: libFuzzer, inside a server.
 *
 * libFuzzer calls execute() with one input after another, which mutate.c makes of those that reached new
 * code.  A failure ends the process, after the input was written to a file.
 */
#include "fuzz.h"

#include <sanitizer/allocator_interface.h>
#include <setjmp.h>
#include <time.h>

#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(pa_fuzz_run);
PG_FUNCTION_INFO_V1(pa_fuzz_replay);

/* An execution that takes longer is cancelled.  (What the machine does besides does not count.) */
#define CPU_SECONDS 2

/* One that takes longer hangs. */
#define WALL_SECONDS 60

/* How often an input is tried again before we say that it leaks: the first times may fill caches. */
#define LEAK_ATTEMPTS 6

/* How many bytes may stay over the whole run. */
#define MAX_DRIFT (1024 * 1024)

/* How often progress is reported. */
#define REPORTS 20

extern int	LLVMFuzzerRunDriver(int *argc, char ***argv, int (*execute) (const uint8_t *data, size_t size));

volatile bool pa_fuzz_out_of_time;

static sigjmp_buf end_of_run;
static int64 runs_wanted;
static int64 drift;
static TimeoutId cpu_timer;
static TimeoutId wall_timer;
static clock_t started;
static MemoryContext execution_context;


/* ---- time -------------------------------------------------------------------------------------- */

/*
 * out_of_cpu_time is called each second, and cancels an execution that takes too long.  check.c knows whether
 * it may.
 */
static void
out_of_cpu_time(void)
{
	if (clock() - started < CPU_SECONDS * CLOCKS_PER_SEC)
		return;
	pa_fuzz_out_of_time = true;
	InterruptPending = true;
	QueryCancelPending = true;
}

/*
 * out_of_wall_time ends the process: the execution has not even reacted to being cancelled.
 */
static void
out_of_wall_time(void)
{
	static const char message[] = "== failure: an execution hangs\n";

	(void) !write(STDERR_FILENO, message, sizeof(message) - 1);
	abort();
}

static void
set_up_timers(void)
{
	if (wall_timer != 0)
		return;
	cpu_timer = RegisterTimeout(USER_TIMEOUT, out_of_cpu_time);
	wall_timer = RegisterTimeout(USER_TIMEOUT, out_of_wall_time);
}


/* ---- one execution ----------------------------------------------------------------------------- */

/*
 * examine examines an input, and returns how the validator failed, or NULL.
 */
static char *
examine(const char *data, size_t size, uint32 choice)
{
	char	   *failure;

	MemoryContextSwitchTo(execution_context);
	started = clock();
	pa_fuzz_out_of_time = false;
	enable_timeout_every(cpu_timer, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 1000), 1000);
	enable_timeout_after(wall_timer, WALL_SECONDS * 1000);
	failure = pa_fuzz_examine(data, size, choice);
	disable_timeout(cpu_timer, false);
	disable_timeout(wall_timer, false);
	if (pa_fuzz_out_of_time)
		QueryCancelPending = false;

	failure = failure ? strdup(failure) : NULL;
	MemoryContextReset(execution_context);
	if (pa_fuzz_blocks() > 0 && failure == NULL)
		failure = strdup(psprintf("%d blocks of memory are in a context that outlives the work", pa_fuzz_blocks()));

	return failure;
}

/*
 * try_smaller replaces *text by another input if that fails, too.
 */
static bool
try_smaller(char **text, const JsonNode *root, uint32 choice)
{
	MemoryContext context = CurrentMemoryContext;
	StringInfoData candidate;
	char	   *failure;

	initStringInfo(&candidate);
	pa_json_print(&candidate, root);
	if (candidate.len >= (int) strlen(*text))
		return false;
	failure = examine(candidate.data, candidate.len, choice);
	MemoryContextSwitchTo(context);
	if (failure == NULL)
		return false;

	free(failure);
	*text = candidate.data;

	return true;
}

/*
 * shrink_once leaves something out of an input that fails; false when nothing can be left out.
 */
static bool
shrink_once(char **text, uint32 choice)
{
	int			count;

	(void) pa_json_slots(pa_json_parse(*text, strlen(*text)), &count);
	for (int i = 0; i < count; i++)
	{
		JsonNode   *root = pa_json_parse(*text, strlen(*text));
		JsonSlot	slot = pa_json_slots(root, &count)[i];
		JsonNode   *node;

		if (slot.parent != root)
		{
			pa_json_remove(slot.parent, slot.i);
			if (try_smaller(text, root, choice))
				return true;
			root = pa_json_parse(*text, strlen(*text));
			slot = pa_json_slots(root, &count)[i];
		}
		node = slot.parent->children[slot.i];
		for (int j = 0; j < node->count; j++)
		{
			slot.parent->children[slot.i] = node->children[j];
			if (try_smaller(text, root, choice))
				return true;
		}
		slot.parent->children[slot.i] = pa_json_scalar(node->kind == '"' ? "\"\"" : "0");
		if (try_smaller(text, root, choice))
			return true;
	}

	return false;
}

/*
 * report_failure tells how the validator failed, with a smaller input that makes it fail, and ends the
 * process; libFuzzer writes the input to a file.
 */
static void pg_attribute_noreturn()
report_failure(const char *failure, const char *data, size_t size, uint32 choice)
{
	char	   *text;
	char	   *again;

	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "failure", ALLOCSET_DEFAULT_SIZES));
	fprintf(stderr, "== failure: %s\n== input: %.*s\n", failure, (int) size, data);
	text = pnstrdup(data, size);
	while (shrink_once(&text, choice))
		 /* again */ ;
	again = examine(text, strlen(text), choice);
	fprintf(stderr, "== the smallest input that fails: %s\n== failure: %s\n", text, again ? again : "not again");
	abort();
}

static int64
executions(void)
{
	return pa_fuzz_counts.compiled + pa_fuzz_counts.refused;
}

/*
 * pa_fuzz_stop_when_done leaves libFuzzer after the last execution: it would end the process otherwise.  To be
 * called between executions; leaving one is a failure to libFuzzer.
 */
void
pa_fuzz_stop_when_done(void)
{
	if (executions() >= runs_wanted)
		siglongjmp(end_of_run, 1);
}

/*
 * execute is what libFuzzer calls.
 */
static int
execute(const uint8_t *data, size_t size)
{
	uint32		choice = hash_bytes(data, size) % PA_FUZZ_CHOICES;
	FuzzCounts	before = pa_fuzz_counts;
	FuzzCounts	after = before;

	for (int attempt = 0;; attempt++)
	{
		size_t		bytes = __sanitizer_get_current_allocated_bytes();
		char	   *failure = examine((const char *) data, size, choice);
		int64		growth;

		if (failure)
			report_failure(failure, (const char *) data, size, choice);
		if (attempt == 0)
			after = pa_fuzz_counts;
		growth = (int64) __sanitizer_get_current_allocated_bytes() - (int64) bytes;
		drift += growth;
		if (growth <= 0)
			break;
		if (attempt == LEAK_ATTEMPTS || drift > MAX_DRIFT)
		{
			fprintf(stderr, "== failure: an execution leaks " INT64_FORMAT " bytes, all together " INT64_FORMAT "\n"
					"== input: %.*s\n", growth, drift, (int) size, data);
			abort();
		}
	}
	pa_fuzz_counts = after;

	if (executions() > before.compiled + before.refused && executions() % Max(1, runs_wanted / REPORTS) == 0)
		fprintf(stderr, "== " INT64_FORMAT " of " INT64_FORMAT " executions\n", executions(), runs_wanted);

	return 0;
}


/* ---- the SQL functions ------------------------------------------------------------------------- */

static void
set_up(void)
{
	set_up_timers();
	if (execution_context == NULL)
		execution_context = AllocSetContextCreate(TopMemoryContext, "fuzz execution", ALLOCSET_DEFAULT_SIZES);
}

/*
 * summary is what a run without a failure ends with.
 */
static char *
summary(void)
{
	return psprintf(INT64_FORMAT " executions, " INT64_FORMAT " schemas compiled, " INT64_FORMAT " refused, 0 failures",
					executions(), pa_fuzz_counts.compiled, pa_fuzz_counts.refused);
}

/*
 * run(corpus text, failures text, runs bigint, seed bigint) fuzzes, beginning with the inputs in the
 * folder "corpus", and returns a summary.
 */
Datum
pa_fuzz_run(PG_FUNCTION_ARGS)
{
	MemoryContext caller_context = CurrentMemoryContext;
	char	   *arguments[] = {
		"fuzz", "-runs=-1", "-timeout=0", "-rss_limit_mb=0", "-detect_leaks=0", "-reload=0", "-max_len=2048",
		"-len_control=0", "-purge_allocator_interval=-1",
		psprintf("-artifact_prefix=%s/", text_to_cstring(PG_GETARG_TEXT_PP(1))),
		psprintf("-seed=%u", (unsigned int) PG_GETARG_INT64(3)),
		text_to_cstring(PG_GETARG_TEXT_PP(0)),
		NULL
	};
	char	  **argv = arguments;
	int			argc = lengthof(arguments) - 1;

	set_up();
	runs_wanted = PG_GETARG_INT64(2);
	if (sigsetjmp(end_of_run, 0) == 0)
		(void) LLVMFuzzerRunDriver(&argc, &argv, execute);
	MemoryContextSwitchTo(caller_context);

	PG_RETURN_TEXT_P(cstring_to_text(psprintf(
		INT64_FORMAT " matched, " INT64_FORMAT " did not, " INT64_FORMAT " raised an error, " INT64_FORMAT
		" were given up; " INT64_FORMAT " inputs skipped; " INT64_FORMAT " bytes more in use\n== %s",
		pa_fuzz_counts.matching, pa_fuzz_counts.not_matching, pa_fuzz_counts.errors, pa_fuzz_counts.given_up,
		pa_fuzz_counts.skipped, drift, summary())));
}

/*
 * replay(file text) examines the input in a file in every way.
 */
Datum
pa_fuzz_replay(PG_FUNCTION_ARGS)
{
	MemoryContext caller_context = CurrentMemoryContext;
	char	   *input = pa_fuzz_read_file(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	set_up();
	for (int choice = 0; choice < PA_FUZZ_CHOICES; choice++)
	{
		char	   *failure = examine(input, strlen(input), choice);

		if (failure)
			report_failure(failure, input, strlen(input), choice);
	}
	MemoryContextSwitchTo(caller_context);

	PG_RETURN_TEXT_P(cstring_to_text(summary()));
}
