/*
 * memory.h
 *		Included by the compiler before every file of the validator ("-include"): its memory comes from
 *		malloc(), one block each, so that AddressSanitizer knows where each ends and when it was freed.
 */
#ifndef PA_FUZZ_MEMORY_H
#define PA_FUZZ_MEMORY_H

#include "postgres.h"

#include "utils/memutils.h"

extern void *pa_fuzz_palloc(Size size);
extern void *pa_fuzz_palloc0(Size size);
extern void *pa_fuzz_palloc_extended(Size size, int flags);
extern void *pa_fuzz_repalloc(void *pointer, Size size);
extern void pa_fuzz_pfree(void *pointer);
extern char *pa_fuzz_pstrdup(const char *text);
extern char *pa_fuzz_pnstrdup(const char *text, Size length);
extern char *pa_fuzz_psprintf(const char *format,...) __attribute__((format(printf, 1, 2)));
extern void *pa_fuzz_alloc(MemoryContext context, Size size);
extern void *pa_fuzz_alloc_zero(MemoryContext context, Size size);
extern void *pa_fuzz_alloc_extended(MemoryContext context, Size size, int flags);

#define palloc pa_fuzz_palloc
#define palloc0 pa_fuzz_palloc0
#define palloc_extended pa_fuzz_palloc_extended
#define repalloc pa_fuzz_repalloc
#define pfree pa_fuzz_pfree
#define pstrdup pa_fuzz_pstrdup
#define pnstrdup pa_fuzz_pnstrdup
#define psprintf pa_fuzz_psprintf
#define MemoryContextAlloc pa_fuzz_alloc
#define MemoryContextAllocZero pa_fuzz_alloc_zero
#define MemoryContextAllocExtended pa_fuzz_alloc_extended

#endif							/* PA_FUZZ_MEMORY_H */
