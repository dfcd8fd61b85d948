CREATE FUNCTION ensure_partitions(parent regclass DEFAULT NULL, at timestamptz DEFAULT now())
	RETURNS integer
	AS 'MODULE_PATHNAME', 'pa_ensure_partitions'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION ensure_partitions(regclass, timestamptz) IS
	'create the missing partitions of parent (NULL: of every table in partition_policies) around at, and its default partition; rows of the default partition that belong to a new one move there; returns how many partitions were created, at most 100 a table and call; raises 55000 when parent has no policy and 22023 when at is NULL or infinite';
