-- Search in the knowledge base (section 3).

-- The plan is made for the values of the parameters; PARALLEL RESTRICTED because it may have workers.  What resembles a
-- query is the same in all sessions, whatever they have pg_trgm take for similar.

CREATE FUNCTION search_knowledge_base(query text, org_id bigint DEFAULT NULL, max_rows integer DEFAULT 20)
	RETURNS TABLE (kb_id bigint, title text, rank real, headline text)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED ROWS 20
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
	SET pg_trgm.word_similarity_threshold = 0.4
	AS $$
#variable_conflict use_column
DECLARE
	wanted CONSTANT tsquery := websearch_to_tsquery('english', search_knowledge_base.query);
	trgm CONSTANT text := (
		SELECT quote_ident(n.nspname)
		FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_trgm');
BEGIN
	IF search_knowledge_base.max_rows IS NULL OR search_knowledge_base.max_rows < 1 THEN
		RAISE EXCEPTION USING
			ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'max_rows must be positive';
	END IF;

	-- Headlines are made of what is returned only: each takes as long as parsing the whole text.
	RETURN QUERY
	SELECT best.kb_id, best.title, best.rank, ts_headline('english', best.content, wanted)
	FROM (
		SELECT k.kb_id, k.title, k.content, ts_rank_cd(k.search_vector, wanted) AS rank
		FROM prod_analytics.knowledge_base k
		WHERE k.search_vector @@ wanted
			AND (search_knowledge_base.org_id IS NULL OR k.org_id = search_knowledge_base.org_id)
		ORDER BY rank DESC, k.kb_id
		LIMIT search_knowledge_base.max_rows
	) best
	ORDER BY best.rank DESC, best.kb_id;
	IF FOUND THEN
		RETURN;
	END IF;

	RETURN QUERY EXECUTE format($fallback$
		SELECT k.kb_id, k.title, %1$s.word_similarity($1, k.title) AS rank, left(k.content, 200)
		FROM prod_analytics.knowledge_base k
		WHERE k.title OPERATOR(%1$s.%%>) $1
			AND ($2 IS NULL OR k.org_id = $2)
		ORDER BY rank DESC, k.kb_id
		LIMIT $3
	$fallback$, trgm)
	USING search_knowledge_base.query, search_knowledge_base.org_id, search_knowledge_base.max_rows;
END
$$;

COMMENT ON FUNCTION search_knowledge_base(text, bigint, integer) IS
	'the articles that match a query in the syntax of web search ("a phrase", or, -not), the best max_rows of them, of one organization or for NULL of all: rank is ts_rank_cd() of title and content, headline a part of the content with the matches in <b> and </b>, otherwise as it is stored, so it may hold HTML of its own; when nothing matches, the articles whose title resembles the query: rank is then word_similarity() of pg_trgm, above 0.4, and headline the beginning of the content; raises 22023 for max_rows that is NULL or not positive (section 3)';
