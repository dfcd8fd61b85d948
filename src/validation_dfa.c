/*
 * validation_dfa.c
 *		Matching texts of ASCII characters against a regular expression with one table look-up for each
 *		character.
 *
 * PostgreSQL's engine determinizes the automaton of a regular expression anew for each text, which for
 * the short strings of events costs far more than the matching.  Here its automaton, which it exports
 * (pg_trgm reads it in the same way), is determinized once, unless that gets large; the engine itself
 * stays for all other texts and expressions.
 *
 * The exported automaton reads the beginning of the text as a pseudo-color, then a color for each
 * character, then the end of the text as another pseudo-color.  It skips what precedes a match by
 * itself, and is in its final state when there is one.
 */
#include "prod_analytics.h"

#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "regex/regexport.h"
#include "validation.h"

#define ASCII 128

/* Beyond these the engine itself is used. */
#define MAX_NFA_STATES 1000
#define MAX_NFA_ARCS 10000
#define MAX_COLORS 1000
#define MAX_DFA_STATES 500

/* No class: of colors that no ASCII character has. */
#define NO_CLASS (-1)

/* The states that need no set. */
#define STATE_DEAD 0			/* no match any more */
#define STATE_MATCH 1
#define FIRST_STATE 2

struct PaDfa
{
	uint8		class_of[ASCII];
	int			n_classes;		/* and one more for the end of the text */
	int			start;
	uint16	   *next;			/* for each state and class */
};

/* A state under construction: a set of states of the exported automaton. */
typedef struct StateSet
{
	uint32		hash;
	Bitmapset  *members;
} StateSet;

/* The construction of a table. */
typedef struct Builder
{
	const regex_t *regex;
	PaDfa	   *dfa;
	int			final;
	int		   *class_of_color;
	int			n_sets;
	StateSet   *sets;
} Builder;

/*
 * is_real tells whether a color is one of characters.
 */
static bool
is_real(const regex_t *regex, int color)
{
	return !pg_reg_colorisbegin(regex, color) && !pg_reg_colorisend(regex, color);
}

/*
 * color_characters learns which color each ASCII character has; false when that cannot be told.  The
 * characters of a color that has others than simple ones cannot be listed, so at most one such color
 * may be left for those that no list has.
 */
static bool
color_characters(const regex_t *regex, int n_colors, int *color_of)
{
	int			other = -1;
	int			n_others = 0;

	for (int i = 0; i < ASCII; i++)
		color_of[i] = -1;

	for (int color = 0; color < n_colors; color++)
	{
		int			count = pg_reg_getnumcharacters(regex, color);
		pg_wchar   *characters;

		if (count < 0 && is_real(regex, color))
		{
			other = color;
			n_others++;
		}
		if (count <= 0)
			continue;
		characters = palloc(sizeof(pg_wchar) * count);
		pg_reg_getcharacters(regex, color, characters, count);
		for (int i = 0; i < count; i++)
			if (characters[i] < ASCII)
				color_of[characters[i]] = color;
		pfree(characters);
	}

	/* There is no character 0. */
	for (int i = 1; i < ASCII; i++)
	{
		if (color_of[i] >= 0)
			continue;
		if (n_others != 1)
			return false;
		color_of[i] = other;
	}

	return true;
}

/*
 * classify gives each color of an ASCII character a class.
 */
static bool
classify(Builder *builder)
{
	int			n_colors = pg_reg_getnumcolors(builder->regex);
	int			color_of[ASCII];

	if (n_colors > MAX_COLORS || !color_characters(builder->regex, n_colors, color_of))
		return false;

	builder->class_of_color = palloc(sizeof(int) * n_colors);
	for (int i = 0; i < n_colors; i++)
		builder->class_of_color[i] = NO_CLASS;
	for (int i = 1; i < ASCII; i++)
	{
		int		   *class = &builder->class_of_color[color_of[i]];

		if (*class == NO_CLASS)
			*class = builder->dfa->n_classes++;
		builder->dfa->class_of[i] = *class;
	}

	return true;
}

/*
 * arcs_of lists the arcs that leave a state of the exported automaton.
 */
static regex_arc_t *
arcs_of(const regex_t *regex, int state, int *count)
{
	regex_arc_t *arcs;

	*count = pg_reg_getnumoutarcs(regex, state);
	arcs = palloc(sizeof(regex_arc_t) * (*count + 1));
	pg_reg_getoutarcs(regex, state, arcs, *count);

	return arcs;
}

/*
 * state_of is the number of the state that a set is; -1 when there are too many.
 */
static int
state_of(Builder *builder, Bitmapset *members)
{
	uint32		hash = bms_hash_value(members);

	if (members == NULL)
		return STATE_DEAD;
	if (bms_is_member(builder->final, members))
		return STATE_MATCH;

	for (int i = 0; i < builder->n_sets; i++)
		if (builder->sets[i].hash == hash && bms_equal(builder->sets[i].members, members))
			return FIRST_STATE + i;
	if (builder->n_sets >= MAX_DFA_STATES)
		return -1;

	builder->sets[builder->n_sets].hash = hash;
	builder->sets[builder->n_sets].members = members;

	return FIRST_STATE + builder->n_sets++;
}

/*
 * add_targets adds where an arc leads to the sets of the classes that take it.
 */
static void
add_targets(Builder *builder, const regex_arc_t *arc, Bitmapset **targets)
{
	int			n_classes = builder->dfa->n_classes;

	if (arc->co == COLOR_RAINBOW)
	{
		for (int i = 0; i < n_classes; i++)
			targets[i] = bms_add_member(targets[i], arc->to);
	}
	else if (pg_reg_colorisend(builder->regex, arc->co))
		targets[n_classes] = bms_add_member(targets[n_classes], arc->to);
	else if (builder->class_of_color[arc->co] != NO_CLASS)
		targets[builder->class_of_color[arc->co]] = bms_add_member(targets[builder->class_of_color[arc->co]], arc->to);
}

/*
 * build_state fills in where a state leads; false when there are too many states.
 */
static bool
build_state(Builder *builder, int state)
{
	int			width = builder->dfa->n_classes + 1;
	Bitmapset **targets = palloc0(sizeof(Bitmapset *) * width);
	int			member = -1;

	CHECK_FOR_INTERRUPTS();
	while ((member = bms_next_member(builder->sets[state - FIRST_STATE].members, member)) >= 0)
	{
		int			count;
		regex_arc_t *arcs = arcs_of(builder->regex, member, &count);

		for (int i = 0; i < count; i++)
			add_targets(builder, &arcs[i], targets);
	}

	for (int i = 0; i < width; i++)
	{
		int			target = state_of(builder, targets[i]);

		if (target < 0)
			return false;
		builder->dfa->next[state * width + i] = target;
	}

	return true;
}

/*
 * find_start is the state in which the first character is read.
 */
static int
find_start(Builder *builder)
{
	int			count;
	regex_arc_t *arcs = arcs_of(builder->regex, pg_reg_getinitialstate(builder->regex), &count);
	Bitmapset  *members = NULL;

	for (int i = 0; i < count; i++)
		if (arcs[i].co != COLOR_RAINBOW && pg_reg_colorisbegin(builder->regex, arcs[i].co))
			members = bms_add_member(members, arcs[i].to);

	return state_of(builder, members);
}

/*
 * is_small tells whether the exported automaton is worth the attempt.
 */
static bool
is_small(const regex_t *regex)
{
	int			n_states = pg_reg_getnumstates(regex);
	int			n_arcs = 0;

	if (n_states > MAX_NFA_STATES)
		return false;
	for (int i = 0; i < n_states; i++)
		n_arcs += pg_reg_getnumoutarcs(regex, i);

	return n_arcs <= MAX_NFA_ARCS;
}

/*
 * build makes the table; false when it would get too large.
 */
static bool
build(Builder *builder)
{
	PaDfa	   *dfa = builder->dfa;

	if (!is_small(builder->regex) || !classify(builder))
		return false;

	builder->final = pg_reg_getfinalstate(builder->regex);
	builder->sets = palloc(sizeof(StateSet) * MAX_DFA_STATES);
	dfa->next = palloc(sizeof(uint16) * (FIRST_STATE + MAX_DFA_STATES) * (dfa->n_classes + 1));
	dfa->start = find_start(builder);
	for (int i = 0; i < builder->n_sets; i++)
		if (!build_state(builder, FIRST_STATE + i))
			return false;

	return true;
}

/*
 * pa_make_dfa makes the table for a regular expression, in the current memory context; NULL when it
 * has back-references or looks around, which its automaton does not tell, or would get too large.
 */
PaDfa *
pa_make_dfa(const regex_t *regex)
{
	MemoryContext caller_context = CurrentMemoryContext;
	MemoryContext work_context;
	Builder		builder = {regex};
	PaDfa		dfa = {0};
	PaDfa	   *result = NULL;

	if (regex->re_info & (REG_UBACKREF | REG_ULOOKAROUND | REG_UIMPOSSIBLE))
		return NULL;

	work_context = AllocSetContextCreate(caller_context, "determinizing a regular expression", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(work_context);
	builder.dfa = &dfa;
	if (build(&builder))
	{
		Size		size = sizeof(uint16) * (FIRST_STATE + builder.n_sets) * (dfa.n_classes + 1);

		MemoryContextSwitchTo(caller_context);
		result = palloc(sizeof(PaDfa));
		*result = dfa;
		result->next = palloc(size);
		memcpy(result->next, dfa.next, size);
	}
	MemoryContextSwitchTo(caller_context);
	MemoryContextDelete(work_context);

	return result;
}

/*
 * pa_dfa_matches tells in *matches whether the regular expression matches somewhere in a text; false
 * when the text has other characters than ASCII ones, and so the engine is to be asked.
 */
bool
pa_dfa_matches(const PaDfa *dfa, PaName text, bool *matches)
{
	int			width = dfa->n_classes + 1;
	int			state = dfa->start;

	for (int i = 0; i < text.length; i++)
	{
		unsigned char c = text.text[i];

		if (c >= ASCII)
			return false;
		if (state < FIRST_STATE)
			break;
		state = dfa->next[state * width + dfa->class_of[c]];
	}
	if (state >= FIRST_STATE)
		state = dfa->next[state * width + dfa->n_classes];
	*matches = (state == STATE_MATCH);

	return true;
}
