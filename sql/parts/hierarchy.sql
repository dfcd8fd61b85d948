-- The hierarchy of organizations (section 5).

CREATE FUNCTION org_tree_paths(root bigint)
	RETURNS TABLE (node_id bigint, depth integer, path bigint[], is_cycle boolean)
	AS 'MODULE_PATHNAME', 'pa_org_tree_paths'
	LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 100000
	SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION org_tree_paths(bigint) IS
	'internal: where each node of org_tree() is, in the order of a walk from the top';

CREATE FUNCTION org_tree(root bigint DEFAULT NULL)
	RETURNS TABLE (node_id bigint, org_id bigint, parent_id bigint, role text, metadata jsonb, depth integer, path bigint[],
		is_cycle boolean)
	LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 100000
	SET search_path = pg_catalog, pg_temp
	AS $$
	SELECT h.node_id, h.org_id, h.parent_id, h.role, h.metadata, t.depth, t.path, t.is_cycle
	FROM prod_analytics.org_tree_paths(org_tree.root) WITH ORDINALITY AS t (node_id, depth, path, is_cycle, place)
	JOIN prod_analytics.org_hierarchy h ON h.node_id = t.node_id
	ORDER BY t.place
$$;

COMMENT ON FUNCTION org_tree(bigint) IS
	'the nodes of org_hierarchy below a node, and itself, or for NULL all of them, each once, parents before their children and those by node_id: with depth, 1 for where it begins, and path, the node_ids from there to the node; is_cycle marks nodes that are above themselves: what no root leads to is listed from the lowest node_id of such a cycle on (section 5)';
