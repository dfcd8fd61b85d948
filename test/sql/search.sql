-- search_knowledge_base(): ranked, highlighted, and by resemblance when nothing matches.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme'), (2, 'Globex');
INSERT INTO prod_analytics.knowledge_base (kb_id, org_id, title, content) VALUES
	(1, 1, 'Tuning PostgreSQL', 'Shared buffers come first, then the planner.'),
	(2, 1, 'Planner statistics', 'PostgreSQL estimates rows; run ANALYZE.'),
	(3, 2, 'Billing', 'Invoices are sent <i>monthly</i>. A refund takes a week.'),
	(4, NULL, 'Refunds', 'How to ask for money back.'),
	(5, 2, 'Logs', 'support log: refund refund refund');

-- A match in the title counts more; phrases, or, not; of an organization; only so many.
SELECT kb_id, title, rank > 0 AS ranked, headline FROM prod_analytics.search_knowledge_base('postgresql');
SELECT kb_id, headline FROM prod_analytics.search_knowledge_base('"shared buffers" or invoices');
SELECT kb_id, headline FROM prod_analytics.search_knowledge_base('refund -log');
SELECT kb_id FROM prod_analytics.search_knowledge_base('refund', org_id => 2);
SELECT kb_id FROM prod_analytics.search_knowledge_base('refund', max_rows => 1);

-- Nothing matches: titles that resemble it, whatever the session takes for similar.
SELECT kb_id, title, rank, headline FROM prod_analytics.search_knowledge_base('postgers');
SET pg_trgm.word_similarity_threshold = 0.99;
SELECT kb_id, title FROM prod_analytics.search_knowledge_base('biling');
SELECT kb_id FROM prod_analytics.search_knowledge_base('biling', org_id => 1);
SHOW pg_trgm.word_similarity_threshold;
RESET pg_trgm.word_similarity_threshold;

-- Nothing at all.
SELECT * FROM prod_analytics.search_knowledge_base('xyzzy');
SELECT * FROM prod_analytics.search_knowledge_base('');
SELECT * FROM prod_analytics.search_knowledge_base(NULL);

-- The indexes that it has for this are used.
INSERT INTO prod_analytics.knowledge_base (kb_id, title, content) SELECT 100 + n, 'Article ' || md5(n::text), 'Text ' || md5(n::text) FROM generate_series(1, 10000) n;
VACUUM ANALYZE prod_analytics.knowledge_base;
SELECT pg_stat_force_next_flush();
CREATE FUNCTION pg_temp.scans(index_name text) RETURNS bigint LANGUAGE sql AS
	$$ SELECT pg_stat_get_xact_numscans(index_name::regclass) $$;
BEGIN;
SELECT kb_id FROM prod_analytics.search_knowledge_base('refund');
SELECT pg_temp.scans('prod_analytics.idx_kb_search_vector') AS search_vector, pg_temp.scans('prod_analytics.idx_kb_title_trgm') AS title;
SELECT kb_id FROM prod_analytics.search_knowledge_base('biling');
SELECT pg_temp.scans('prod_analytics.idx_kb_search_vector') AS search_vector, pg_temp.scans('prod_analytics.idx_kb_title_trgm') AS title;
COMMIT;
EXPLAIN (COSTS OFF) SELECT kb_id FROM prod_analytics.knowledge_base WHERE search_vector @@ websearch_to_tsquery('english', 'refund');
EXPLAIN (COSTS OFF) SELECT kb_id FROM prod_analytics.knowledge_base WHERE title %> 'biling';

-- Objects of the caller's do not get in.
CREATE SCHEMA trap;
CREATE FUNCTION trap.left(text, int) RETURNS text LANGUAGE sql AS $$ SELECT 'trapped' $$;
SET search_path = trap, pg_catalog;
SELECT kb_id, headline FROM prod_analytics.search_knowledge_base('biling');
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA trap CASCADE;
RESET client_min_messages;

-- error: not positive
SELECT * FROM prod_analytics.search_knowledge_base('refund', max_rows => 0);
SELECT * FROM prod_analytics.search_knowledge_base('refund', max_rows => NULL);

SET client_min_messages = warning;
DROP SCHEMA prod_analytics CASCADE;
