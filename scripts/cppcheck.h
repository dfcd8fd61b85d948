/*
 * cppcheck.h
 *		What cppcheck has to know of PostgreSQL's macros: it does not read PostgreSQL's headers, which would take
 *		minutes, and takes what it does not know for a function that may do anything.
 */
#include <stddef.h>

#define PG_VERSION_NUM 150000

#define NORETURN __attribute__((noreturn))
extern NORETURN void raise_error(void);

#define DEBUG1 14
#define LOG 15
#define NOTICE 18
#define WARNING 19
#define ERROR 21
#define FATAL 22
#define PANIC 23
#define ereport(level, rest) do { if ((level) >= ERROR) raise_error(); } while (0)
#define elog(level, ...) do { if ((level) >= ERROR) raise_error(); } while (0)

#define PG_TRY(...) do { if (sigsetjmp(buffer, 0) == 0) {
#define PG_CATCH(...) } else {
#define PG_FINALLY(...) } {
#define PG_END_TRY(...) } } while (0)

#define Assert(condition) ((void) 0)
#define PG_FUNCTION_INFO_V1(name) extern Datum name(FunctionCallInfo fcinfo)
#define PG_FUNCTION_ARGS FunctionCallInfo fcinfo
#define PG_MODULE_MAGIC extern int magic
#define foreach(cell, list) for (cell = list_head(list); cell != NULL; cell = lnext(list, cell))
#define forboth(a, list_a, b, list_b) \
	for (a = list_head(list_a), b = list_head(list_b); a != NULL && b != NULL; a = lnext(list_a, a), b = lnext(list_b, b))
#define for_each_from(cell, list, n) for (cell = list_nth_cell(list, n); cell != NULL; cell = lnext(list, cell))
#define dlist_foreach(iter, head) for (iter.cur = first(head); iter.cur != NULL; iter.cur = next(iter.cur))
#define lengthof(array) (sizeof(array) / sizeof((array)[0]))
#define PG_USED_FOR_ASSERTS_ONLY
#define pg_attribute_noreturn() __attribute__((noreturn))
#define INT64_FORMAT "%ld"
#define UINT64_FORMAT "%lu"
#define FLEXIBLE_ARRAY_MEMBER
