# Validation of much at once: a million documents in a statement in constant memory, a document of 100 MB, and
# either can be cancelled.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('validation');
$node->init;
$node->append_conf('postgresql.conf', 'autovacuum = off');
$node->start;
$node->safe_psql('postgres', 'SET client_min_messages = warning; CREATE EXTENSION prod_analytics CASCADE');

# What the backend has allocated is read now and then during the statement; it must not grow after the first tenth.
my $growth = <<'SQL';
SET max_parallel_workers_per_gather = 0;
SET work_mem = '256MB';
SELECT max(bytes) - min(bytes) FROM (
	SELECT n, CASE WHEN n % 100000 = 0 THEN (SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE n > 0) END AS bytes
	FROM generate_series(1, 1000000) n, LATERAL (SELECT %s) f
	WHERE f IS NOT NULL OFFSET 0
) m;
SQL
my $document = q(jsonb_build_object('order_id', 'o-' || n, 'price', n::text || '.5', 'lines', jsonb_build_array(n, n, 'é' || n)));
my $schema = q('{"required": ["order_id"], "properties": {"price": {"anyOf": [{"pattern": "^é"}, {"multipleOf": 0.5}, {"pattern": "5$"}]},
	"lines": {"uniqueItems": true, "contains": {"pattern": "^é9"}}}, "unevaluatedProperties": false}'::jsonb);
my %calls = (
	'is_valid_event' => "prod_analytics.is_valid_event('purchase', $document)",
	'jsonb_matches_schema' => "prod_analytics.jsonb_matches_schema($schema, $document)",
	'jsonschema_validation_errors' => "count(*) FROM prod_analytics.jsonschema_validation_errors($schema, $document)",
);
foreach my $name (sort keys %calls)
{
	my $bytes = $node->safe_psql('postgres', sprintf($growth, $calls{$name}));
	cmp_ok($bytes, '<=', 65536, "$name: a million calls in one statement need no more memory than a hundred thousand");
}

# A document of 100 MB.
$node->safe_psql('postgres', q(
	CREATE TABLE large AS SELECT jsonb_build_object('items', jsonb_agg(repeat('x', 1000) || n)) AS document FROM generate_series(1, 100000) n));
is($node->safe_psql('postgres', 'SELECT pg_column_size(document::text) > 100000000 FROM large'), 't', 'the document has 100 MB');
is($node->safe_psql('postgres', q(
	SELECT prod_analytics.jsonb_matches_schema('{"properties": {"items": {"items": {"type": "string", "pattern": "^x+[0-9]+$"}, "uniqueItems": true}}}', document) FROM large)),
	't', 'a document of 100 MB matches');
is($node->safe_psql('postgres', q(
	SELECT count(*), max(length(message)) < 200 FROM large, prod_analytics.jsonschema_validation_errors('{"properties": {"items": {"items": {"type": "number"}}}}', document))),
	'100|t', 'of its 100,000 errors 100 are told, in messages of a sane length');

# Both can be cancelled.
foreach my $query (
	"SELECT count(*) FROM generate_series(1, 1000000000) n WHERE prod_analytics.is_valid_event('purchase', $document)",
	q(SELECT prod_analytics.jsonb_matches_schema('{"properties": {"items": {"contains": {"pattern": "^(.+)(.+)(.+)\\\\1\\\\2\\\\3$"}}}}', document) FROM large))
{
	my (undef, undef, $stderr) = $node->psql('postgres', "SET statement_timeout = '500ms'; $query");
	like($stderr, qr/canceling statement due to statement timeout/, "can be cancelled: $query");
}

done_testing();
