/*
 * validation_ecma.h
 *		What the parts of the translation of regular expressions share.
 *
 * validation_ecma.c reads a pattern, with validation_ecma_class.c for characters and classes;
 * validation_ecma_write.c writes what PostgreSQL is to read, repetitions among it.
 *
 * Terms: an atom is what a quantifier can repeat; a position is a place in a regular expression where a
 * character is matched, and how many there are, when repetitions are written out, decides what a match costs.
 */
#ifndef PA_VALIDATION_ECMA_H
#define PA_VALIDATION_ECMA_H

#include "mb/pg_wchar.h"

#define PA_UNLIMITED (-1)		/* repetitions */

/* What a reference to a group means at a place. */
typedef enum PaCaptureState
{
	CAPTURE_EMPTY,				/* it has not matched yet, or in another branch */
	CAPTURE_CERTAIN,
	CAPTURE_UNCERTAIN,			/* it may have matched, or not */
	CAPTURE_HIDDEN				/* it is part of a lookahead or lookbehind */
} PaCaptureState;

/* Parentheses that capture. */
typedef struct PaCapture
{
	const pg_wchar *name;		/* NULL: none */
	int			name_length;
	PaCaptureState state;
	bool		is_needed;		/* something refers to it */
	int			number;			/* as PostgreSQL counts */
} PaCapture;

/* Parentheses that are open. */
typedef struct PaOpenGroup
{
	int			start;			/* of the output */
	int			positions;		/* before it */
	int			capture;		/* its number from 0, or -1 */
	int			first_capture;	/* the first that can be inside */
	int			references;		/* before it */
	bool		is_lookaround;
	bool		has_branches;
	bool		branch_can_be_empty;	/* one of the branches that have ended */
	bool		before_can_be_empty;	/* what is before it in the branch */
} PaOpenGroup;

/* One translation. */
typedef struct PaTranslation
{
	bool		is_unicode;		/* the encoding of the database is UTF8 */
	pg_wchar	highest;		/* character */
	const pg_wchar *next;
	const pg_wchar *end;
	const char *problem;

	pg_wchar   *output;
	int			length;
	int			size;
	int			positions;

	PaOpenGroup *groups;
	int			depth;
	int			max_depth;
	int			lookarounds;	/* how many of them are open */

	PaCapture  *captures;
	int			n_captures;
	int			max_captures;
	int			n_written;		/* of those that capture in PostgreSQL too */
	int			n_known;		/* of the first pass; -1: this is the first pass */
	int			n_references;
	bool		can_be_empty;	/* what has been read of the branch can match the empty text */

	/* what a quantifier would repeat */
	int			atom;			/* start of the output; -1: nothing */
	int			atom_positions; /* before it */
	int			atom_capture;	/* the first that can be inside */
	int			atom_references;	/* before it */
	bool		atom_can_be_empty;
	bool		before_can_be_empty;	/* what is before it in the branch */
} PaTranslation;

/*
 * is_digit and is_letter know those of ASCII.
 */
static inline bool
is_digit(pg_wchar c)
{
	return c >= '0' && c <= '9';
}

static inline bool
is_letter(pg_wchar c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/*
 * is_one_of tells whether a character is one of a list.
 */
static inline bool
is_one_of(pg_wchar c, const char *list)
{
	return c > 0 && c < 0x80 && strchr(list, (int) c) != NULL;
}

/*
 * take reads a character if it comes next.
 */
static inline bool
take(PaTranslation *t, char expected)
{
	if (t->next == t->end || *t->next != (pg_wchar) expected)
		return false;
	t->next++;

	return true;
}

/* validation_ecma_class.c */
extern void pa_ecma_read_brackets(PaTranslation *t);
extern void pa_ecma_read_dot(PaTranslation *t);
extern void pa_ecma_read_escape(PaTranslation *t, pg_wchar letter);

/* validation_ecma_write.c */
extern void pa_ecma_complain(PaTranslation *t, const char *problem);
extern void pa_ecma_put(PaTranslation *t, pg_wchar c);
extern void pa_ecma_put_text(PaTranslation *t, const char *text);
extern void pa_ecma_put_literal(PaTranslation *t, pg_wchar c);
extern void pa_ecma_count_positions(PaTranslation *t, int64 count);
extern void pa_ecma_begin_atom(PaTranslation *t);
extern void pa_ecma_repeat_atom(PaTranslation *t, int minimum, int maximum);

#endif							/* PA_VALIDATION_ECMA_H */
