-- org_tree(): depth and path, cycles, many nodes.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;

SELECT * FROM prod_analytics.org_tree();

-- Two trees, of which one has two levels; a cycle of three with a node below it; one that is its own parent, with one below.
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
INSERT INTO prod_analytics.org_hierarchy (node_id, org_id, parent_id, role, metadata) VALUES
	(1, 1, NULL, 'head', '{"a": 1}'), (2, 1, 1, 'left', NULL), (3, 1, 1, 'right', NULL), (4, 1, 2, 'leaf', NULL), (5, NULL, NULL, 'alone', NULL),
	(10, 1, 12, 'cycle', NULL), (11, 1, 10, 'cycle', NULL), (12, 1, 11, 'cycle', NULL), (13, 1, 12, 'below', NULL),
	(20, 1, 20, 'self', NULL), (21, 1, 20, 'below', NULL);
SELECT * FROM prod_analytics.org_tree();

-- From a node; from one on a cycle, and from one below it; from none.
SELECT node_id, depth, path, is_cycle FROM prod_analytics.org_tree(2);
SELECT node_id, depth, path, is_cycle FROM prod_analytics.org_tree(11);
SELECT node_id, depth, path, is_cycle FROM prod_analytics.org_tree(13);
SELECT * FROM prod_analytics.org_tree(99);

-- Without cycles it is what the recursive query of section 5 says.
DELETE FROM prod_analytics.org_hierarchy WHERE node_id >= 10;
INSERT INTO prod_analytics.org_hierarchy (node_id, parent_id) SELECT n, CASE WHEN n < 104 THEN n - 99 ELSE 100 + n * 7919 % (n - 100) END FROM generate_series(100, 600) n;
WITH RECURSIVE hierarchy AS (
	SELECT node_id, org_id, parent_id, role, metadata, 1 AS depth, array[node_id] AS path
	FROM prod_analytics.org_hierarchy WHERE parent_id IS NULL
	UNION ALL
	SELECT h.node_id, h.org_id, h.parent_id, h.role, h.metadata, r.depth + 1, r.path || h.node_id
	FROM prod_analytics.org_hierarchy h
	JOIN hierarchy r ON h.parent_id = r.node_id
), ours AS (
	SELECT node_id, org_id, parent_id, role, metadata, depth, path FROM prod_analytics.org_tree()
)
SELECT (SELECT count(*) FROM ours) AS nodes, (SELECT count(*) FROM hierarchy) AS expected,
	(SELECT count(*) FROM (TABLE ours EXCEPT ALL TABLE hierarchy) d) AS different;

-- 100,000 nodes, and a chain of 3,000: a walk that looked for children in all nodes would take for ever.
TRUNCATE prod_analytics.org_hierarchy;
INSERT INTO prod_analytics.org_hierarchy (node_id, parent_id)
SELECT n, CASE WHEN n BETWEEN 2 AND 3000 THEN n - 1 WHEN n > 3001 THEN 3000 + greatest((n - 3000) / 3, 1) END FROM generate_series(1, 100000) n;
SET statement_timeout = '15min';
SELECT count(*), max(depth), bool_and(cardinality(path) = depth AND path[depth] = node_id) FROM prod_analytics.org_tree();
RESET statement_timeout;

SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
