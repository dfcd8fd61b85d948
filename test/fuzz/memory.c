/*
 * memory.c
 *		The validator's memory, in blocks of malloc() that live as long as their memory context.
 *
 * A memory context's blocks are freed by a callback when it is reset or deleted, so that AddressSanitizer
 * sees a use after that.  The callback is registered with the first block: any other that needs a block of
 * the context was registered later, and so runs before.
 */
#include "fuzz.h"

#include <sanitizer/allocator_interface.h>

#include "utils/memutils.h"

#include "memory.h"

/* PostgreSQL's, for what is not ours. */
#undef pfree
#undef repalloc

/* The C library's. */
#undef vsnprintf

/* The blocks of a memory context. */
typedef struct Arena
{
	struct Arena *next;
	MemoryContext context;
	MemoryContextCallback callback;
	int			count;
	int			size;
	void	  **blocks;
} Arena;

static Arena *arenas = NULL;

/*
 * pa_fuzz_blocks counts the blocks that are in use.
 */
int
pa_fuzz_blocks(void)
{
	int			count = 0;

	for (Arena *arena = arenas; arena; arena = arena->next)
		count += arena->count;

	return count;
}

/*
 * free_arena is called when a memory context is reset or deleted.
 */
static void
free_arena(void *argument)
{
	Arena	   *arena = argument;
	Arena	  **link = &arenas;

	while (*link != arena)
		link = &(*link)->next;
	*link = arena->next;

	for (int i = 0; i < arena->count; i++)
		free(arena->blocks[i]);
	free(arena->blocks);
	free(arena);
}

/*
 * arena_of finds the blocks of a memory context.
 */
static Arena *
arena_of(MemoryContext context)
{
	Arena	   *arena;

	for (arena = arenas; arena; arena = arena->next)
		if (arena->context == context)
			return arena;

	arena = calloc(1, sizeof(Arena));
	arena->context = context;
	arena->size = 64;
	arena->blocks = malloc(sizeof(void *) * arena->size);
	arena->callback.func = free_arena;
	arena->callback.arg = arena;
	arena->next = arenas;
	arenas = arena;
	MemoryContextRegisterResetCallback(context, &arena->callback);

	return arena;
}

/*
 * find_block finds the place where a block is remembered.  It was probably made not long ago.
 */
static void **
find_block(const void *block, Arena **owner)
{
	for (Arena *arena = arenas; arena; arena = arena->next)
		for (int i = arena->count - 1; i >= 0; i--)
			if (arena->blocks[i] == block)
			{
				*owner = arena;
				return &arena->blocks[i];
			}
	elog(PANIC, "block %p is not known", block);
}

/*
 * is_ours tells our blocks from what PostgreSQL's functions have allocated: that never begins where a block
 * of malloc() begins.
 */
static bool
is_ours(const void *pointer)
{
	return __sanitizer_get_ownership(pointer) != 0;
}

void *
pa_fuzz_alloc_extended(MemoryContext context, Size size, int flags)
{
	Arena	   *arena = arena_of(context);
	void	   *block;

	if (!((flags & MCXT_ALLOC_HUGE) ? AllocHugeSizeIsValid(size) : AllocSizeIsValid(size)))
		elog(ERROR, "invalid memory alloc request size %zu", size);
	if (arena->count == arena->size)
	{
		arena->size *= 2;
		arena->blocks = realloc(arena->blocks, sizeof(void *) * arena->size);
	}
	block = malloc(size);
	if (block == NULL)
		elog(PANIC, "out of memory");
	if (flags & MCXT_ALLOC_ZERO)
		memset(block, 0, size);
	arena->blocks[arena->count++] = block;

	return block;
}

void *
pa_fuzz_alloc(MemoryContext context, Size size)
{
	return pa_fuzz_alloc_extended(context, size, 0);
}

void *
pa_fuzz_alloc_zero(MemoryContext context, Size size)
{
	return pa_fuzz_alloc_extended(context, size, MCXT_ALLOC_ZERO);
}

void *
pa_fuzz_palloc(Size size)
{
	return pa_fuzz_alloc(CurrentMemoryContext, size);
}

void *
pa_fuzz_palloc0(Size size)
{
	return pa_fuzz_alloc_zero(CurrentMemoryContext, size);
}

void *
pa_fuzz_palloc_extended(Size size, int flags)
{
	return pa_fuzz_alloc_extended(CurrentMemoryContext, size, flags);
}

void
pa_fuzz_pfree(void *pointer)
{
	Arena	   *arena;
	void	  **place;

	if (!is_ours(pointer))
	{
		pfree(pointer);
		return;
	}
	place = find_block(pointer, &arena);
	*place = arena->blocks[--arena->count];
	free(pointer);
}

/*
 * The block always moves, so that nobody gets away with the old address.
 */
void *
pa_fuzz_repalloc(void *pointer, Size size)
{
	Arena	   *arena;
	void	   *block;

	if (!is_ours(pointer))
		return repalloc(pointer, size);
	(void) find_block(pointer, &arena);
	block = pa_fuzz_alloc(arena->context, size);
	memcpy(block, pointer, Min(size, __sanitizer_get_allocated_size(pointer)));
	pa_fuzz_pfree(pointer);

	return block;
}

char *
pa_fuzz_pnstrdup(const char *text, Size length)
{
	char	   *copy;

	length = strnlen(text, length);
	copy = pa_fuzz_palloc(length + 1);
	memcpy(copy, text, length);
	copy[length] = '\0';

	return copy;
}

char *
pa_fuzz_pstrdup(const char *text)
{
	return pa_fuzz_pnstrdup(text, strlen(text));
}

/*
 * The C library's printf() is used, not PostgreSQL's: AddressSanitizer checks what it reads.
 */
char *
pa_fuzz_psprintf(const char *format,...)
{
	va_list		arguments;
	int			length;
	char	   *text;

	va_start(arguments, format);
	length = vsnprintf(NULL, 0, format, arguments);
	va_end(arguments);

	text = pa_fuzz_palloc(length + 1);
	va_start(arguments, format);
	(void) vsnprintf(text, length + 1, format, arguments);
	va_end(arguments);

	return text;
}
