/*
 * hierarchy.c
 *		Walking the hierarchy of organizations from the top to the bottom.
 *
 * The nodes are read once.  A node has one parent, so a walk comes to it once, except where it closes a cycle: what it
 * takes is a sort of the nodes, and writing the paths.
 */
#include "prod_analytics.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "query.h"
#include "utils/array.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(pa_org_tree_paths);

#define NO_NODE (-1)

typedef struct OrgNode
{
	int64		id;
	int64		parent_id;
	int64		parent;			/* its place among the nodes, or NO_NODE */
	int64		seen_from;		/* from where it was found when cycles were looked for, or NO_NODE */
	bool		has_parent;
	bool		is_cycle;
	bool		is_visited;
} OrgNode;

/* Takes the rows, and becomes the hierarchy. */
typedef struct Hierarchy
{
	DestReceiver public;
	int64		n_nodes;
	int64		room;
	OrgNode    *nodes;			/* by id */
	int64	   *children;		/* their places, by parent and id */
	int64	   *first_child;	/* of each node, the place in "children"; one more for the end */
} Hierarchy;

/* Where a walk is: a path, and for each node on it which child is next. */
typedef struct Walk
{
	Hierarchy  *hierarchy;
	ReturnSetInfo *result;
	MemoryContext row_context;
	int64		depth;
	int64		room;
	Datum	   *path;
	int64	   *places;
	int64	   *next_child;
} Walk;

#define ST_SORT sort_nodes
#define ST_ELEMENT_TYPE OrgNode
#define ST_COMPARE(a, b) ((a)->id < (b)->id ? -1 : (a)->id > (b)->id)
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DECLARE
#define ST_DEFINE
#include "lib/sort_template.h"

/*
 * receive_node takes a row.
 */
static bool
receive_node(TupleTableSlot *slot, DestReceiver *self)
{
	Hierarchy  *hierarchy = (Hierarchy *) self;
	OrgNode    *node;
	bool		isnull;

	if (hierarchy->n_nodes == hierarchy->room)
	{
		hierarchy->room *= 2;
		hierarchy->nodes = repalloc_huge(hierarchy->nodes, hierarchy->room * sizeof(OrgNode));
	}

	node = &hierarchy->nodes[hierarchy->n_nodes++];
	memset(node, 0, sizeof(OrgNode));
	node->id = DatumGetInt64(slot_getattr(slot, 1, &isnull));
	node->parent_id = DatumGetInt64(slot_getattr(slot, 2, &isnull));
	node->has_parent = !isnull;
	node->parent = NO_NODE;
	node->seen_from = NO_NODE;

	return true;
}

static void
start_receiving(DestReceiver *self, int operation, TupleDesc descriptor)
{
}

static void
end_receiving(DestReceiver *self)
{
}

/*
 * place_of is where a node is, or NO_NODE.
 */
static int64
place_of(const Hierarchy *hierarchy, int64 id)
{
	int64		low = 0;
	int64		high = hierarchy->n_nodes;

	while (low < high)
	{
		int64		middle = low + (high - low) / 2;

		if (hierarchy->nodes[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}

	return low < hierarchy->n_nodes && hierarchy->nodes[low].id == id ? low : NO_NODE;
}

/*
 * link_nodes finds the parent and the children of each node.
 *
 * A parent that the caller may not see, because of row security, is none.
 */
static void
link_nodes(Hierarchy *hierarchy)
{
	int64		n = hierarchy->n_nodes;
	int64	   *end;

	hierarchy->first_child = palloc_extended((n + 1) * sizeof(int64), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	hierarchy->children = palloc_extended((n + 1) * sizeof(int64), MCXT_ALLOC_HUGE);

	for (int64 i = 0; i < n; i++)
	{
		OrgNode    *node = &hierarchy->nodes[i];

		if (node->has_parent)
			node->parent = place_of(hierarchy, node->parent_id);
		if (node->parent != NO_NODE)
			hierarchy->first_child[node->parent + 1]++;
	}
	for (int64 i = 0; i < n; i++)
		hierarchy->first_child[i + 1] += hierarchy->first_child[i];

	end = palloc_extended((n + 1) * sizeof(int64), MCXT_ALLOC_HUGE);
	memcpy(end, hierarchy->first_child, (n + 1) * sizeof(int64));
	for (int64 i = 0; i < n; i++)
		if (hierarchy->nodes[i].parent != NO_NODE)
			hierarchy->children[end[hierarchy->nodes[i].parent]++] = i;
	pfree(end);
}

/*
 * mark_cycles marks the nodes from which going up leads back to them.
 */
static void
mark_cycles(Hierarchy *hierarchy)
{
	OrgNode    *nodes = hierarchy->nodes;

	for (int64 start = 0; start < hierarchy->n_nodes; start++)
	{
		int64		place = start;

		while (place != NO_NODE && nodes[place].seen_from == NO_NODE)
		{
			nodes[place].seen_from = start;
			place = nodes[place].parent;
		}

		/* back on the way just gone, and not on one gone before */
		if (place != NO_NODE && nodes[place].seen_from == start)
			while (!nodes[place].is_cycle)
			{
				nodes[place].is_cycle = true;
				place = nodes[place].parent;
			}
	}
}

/*
 * read_hierarchy reads all nodes.
 */
static void
read_hierarchy(Hierarchy *hierarchy)
{
	PaParameters parameters = {0};

	hierarchy->room = 1024;
	hierarchy->nodes = palloc(hierarchy->room * sizeof(OrgNode));

	SPI_connect();
	pa_read_into(&hierarchy->public, "SELECT h.node_id, h.parent_id FROM prod_analytics.org_hierarchy h", &parameters);
	SPI_finish();

	sort_nodes(hierarchy->nodes, hierarchy->n_nodes);
	link_nodes(hierarchy);
	mark_cycles(hierarchy);
}

/*
 * put_node adds the node at the end of the path to the function's result.
 */
static void
put_node(Walk *walk)
{
	const OrgNode *node = &walk->hierarchy->nodes[walk->places[walk->depth - 1]];
	MemoryContext caller_context = MemoryContextSwitchTo(walk->row_context);
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = Int64GetDatum(node->id);
	values[1] = Int32GetDatum((int32) walk->depth);
	values[2] = PointerGetDatum(construct_array(walk->path, walk->depth, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[3] = BoolGetDatum(node->is_cycle);
	tuplestore_putvalues(walk->result->setResult, walk->result->setDesc, values, nulls);

	MemoryContextSwitchTo(caller_context);
	MemoryContextReset(walk->row_context);
}

/*
 * enter goes down to a node.
 */
static void
enter(Walk *walk, int64 place)
{
	OrgNode    *node = &walk->hierarchy->nodes[place];

	CHECK_FOR_INTERRUPTS();
	if (walk->depth == walk->room)
	{
		walk->room *= 2;
		walk->path = repalloc_huge(walk->path, walk->room * sizeof(Datum));
		walk->places = repalloc_huge(walk->places, walk->room * sizeof(int64));
		walk->next_child = repalloc_huge(walk->next_child, walk->room * sizeof(int64));
	}

	node->is_visited = true;
	walk->path[walk->depth] = Int64GetDatum(node->id);
	walk->places[walk->depth] = place;
	walk->next_child[walk->depth] = walk->hierarchy->first_child[place];
	walk->depth++;
	put_node(walk);
}

/*
 * walk_from walks from a node through everything below it.
 */
static void
walk_from(Walk *walk, int64 start)
{
	const Hierarchy *hierarchy = walk->hierarchy;

	enter(walk, start);
	while (walk->depth > 0)
	{
		int64		place = walk->places[walk->depth - 1];
		int64		next = walk->next_child[walk->depth - 1]++;

		if (next == hierarchy->first_child[place + 1])
			walk->depth--;
		else if (!hierarchy->nodes[hierarchy->children[next]].is_visited)
			enter(walk, hierarchy->children[next]);
	}
}

/*
 * walk_all walks from all roots, and then through what no root leads to: from the first node of each cycle.
 */
static void
walk_all(Walk *walk)
{
	const Hierarchy *hierarchy = walk->hierarchy;

	for (int64 i = 0; i < hierarchy->n_nodes; i++)
		if (hierarchy->nodes[i].parent == NO_NODE)
			walk_from(walk, i);
	for (int64 i = 0; i < hierarchy->n_nodes; i++)
		if (hierarchy->nodes[i].is_cycle && !hierarchy->nodes[i].is_visited)
			walk_from(walk, i);
}

/*
 * org_tree_paths(root) is where each node of org_tree() is.
 */
Datum
pa_org_tree_paths(PG_FUNCTION_ARGS)
{
	Hierarchy	hierarchy = {{receive_node, start_receiving, end_receiving, end_receiving, DestTuplestore}};
	Walk		walk = {&hierarchy};

	InitMaterializedSRF(fcinfo, 0);
	read_hierarchy(&hierarchy);

	walk.result = (ReturnSetInfo *) fcinfo->resultinfo;
	walk.row_context = AllocSetContextCreate(CurrentMemoryContext, "row of a hierarchy", ALLOCSET_DEFAULT_SIZES);
	walk.room = 64;
	walk.path = palloc(walk.room * sizeof(Datum));
	walk.places = palloc(walk.room * sizeof(int64));
	walk.next_child = palloc(walk.room * sizeof(int64));

	if (PG_ARGISNULL(0))
		walk_all(&walk);
	else
	{
		int64		place = place_of(&hierarchy, PG_GETARG_INT64(0));

		if (place != NO_NODE)
			walk_from(&walk, place);
	}

	PG_RETURN_NULL();
}
