/*
 * fuzz.h
 *		Fuzzing the JSON Schema validator: what the files of this folder share.
 *
 * They are built by scripts/fuzz together with the validator into a library of their own, and are no part
 * of the extension.  An input of the fuzzer is JSON: [schema, document].
 */
#ifndef PA_FUZZ_H
#define PA_FUZZ_H

#include "postgres.h"

#include "lib/stringinfo.h"

/* A value of JSON as it is written: strings and numbers keep their text, quotes and escapes included. */
typedef struct JsonNode
{
	char		kind;			/* '{', '[', '"', or '0' for any other scalar */
	char	   *text;			/* of a scalar */
	int			count;			/* of members or elements */
	int			size;			/* of the arrays */
	char	  **keys;			/* of an object, quotes included */
	struct JsonNode **children;
} JsonNode;

/* A step around a node: the "i"th child of "parent". */
typedef struct JsonSlot
{
	JsonNode   *parent;
	int			i;
} JsonSlot;

/* json.c */
extern JsonNode *pa_json_parse(const char *text, size_t length);
extern JsonNode *pa_json_scalar(const char *text);
extern JsonNode *pa_json_container(char kind);
extern JsonNode *pa_json_copy(const JsonNode *node);
extern void pa_json_print(StringInfo out, const JsonNode *node);
extern void pa_json_insert(JsonNode *parent, int i, const char *key, JsonNode *child);
extern void pa_json_remove(JsonNode *parent, int i);
extern int	pa_json_depth(const JsonNode *node);
extern JsonSlot *pa_json_slots(JsonNode *root, int *count);

/* memory.c */
extern void *pa_fuzz_alloc(MemoryContext context, Size size);
extern int	pa_fuzz_blocks(void);

/* check.c */

/* What became of the inputs so far. */
typedef struct FuzzCounts
{
	int64		compiled;
	int64		refused;
	int64		skipped;		/* no [schema, document], or not for us */
	int64		matching;
	int64		not_matching;
	int64		errors;			/* raised while a document was looked at */
	int64		given_up;		/* nested too deeply, or exponential */
} FuzzCounts;

extern FuzzCounts pa_fuzz_counts;

/* In how many ways an input can be examined. */
#define PA_FUZZ_CHOICES 38

extern char *pa_fuzz_examine(const char *data, size_t size, uint32 choice);

/* seeds.c */
extern char *pa_fuzz_read_file(const char *path);

/* run.c */
extern volatile bool pa_fuzz_out_of_time;

extern void pa_fuzz_stop_when_done(void);

#endif							/* PA_FUZZ_H */
