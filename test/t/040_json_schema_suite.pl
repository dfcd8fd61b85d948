# The JSON Schema Test Suite, draft 2020-12: every case gives the answer that the suite expects, but for
# those listed here with the reason.  Those of formats are asked of registered schemas, and have no exceptions.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $suite = defined $ENV{PROD_ANALYTICS_DATA} ? "$ENV{PROD_ANALYTICS_DATA}/json-schema-suite/tests" : '';
if (!-d $suite)
{
	plan skip_all => 'set PROD_ANALYTICS_DATA to a folder that holds json-schema-suite/tests to run the JSON Schema Test Suite';
}

# File and group of the cases that cannot pass, how many they are, and why.
my %exceptions = (
	'const.json: nul characters in strings' => [ 2, 'jsonb cannot hold \u0000' ],
	'enum.json: nul characters in strings' => [ 2, 'jsonb cannot hold \u0000' ],
	'ref.json: remote ref, containing refs itself' => [ 2, 'a remote reference' ],
	'unevaluatedProperties.json: unevaluatedProperties with $dynamicRef' => [ 2, '$dynamicRef' ],
);

my $node = PostgreSQL::Test::Cluster->new('suite');
$node->init;
$node->start;
$node->safe_psql('postgres', <<'SQL');
SET client_min_messages = warning;
CREATE EXTENSION prod_analytics CASCADE;

-- What a case gives: true, false, or an error.
CREATE FUNCTION outcome(schema json, data json) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN prod_analytics.jsonb_matches_schema(schema::jsonb, data::jsonb)::text;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLERRM;
END $$;

-- Whether the list of errors is empty for just the valid documents.
CREATE FUNCTION errors_agree(schema json, data json) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RETURN prod_analytics.jsonb_matches_schema(schema::jsonb, data::jsonb)
		= NOT EXISTS (SELECT FROM prod_analytics.jsonschema_validation_errors(schema::jsonb, data::jsonb));
EXCEPTION WHEN OTHERS THEN
	RETURN true;
END $$;
SQL

my $total = 0;
foreach my $file (sort glob("$suite/*.json"))
{
	my ($name) = $file =~ m{([^/]+)$};
	my @cases = split /\x1e/, $node->safe_psql('postgres', <<"SQL");
SELECT string_agg(concat_ws(E'\\x1f', g->>'description', t->>'description', t->>'valid', outcome(g->'schema', t->'data'), errors_agree(g->'schema', t->'data')), E'\\x1e')
FROM json_array_elements(replace(pg_read_file('$file'), '\\u0000', '\\ue000')::json) g, json_array_elements(g->'tests') t
SQL

	my %failed;
	foreach my $case (@cases)
	{
		my ($group, $description, $valid, $outcome, $agree) = split /\x1f/, $case;

		$total++;
		# Read with another character in the place of \u0000, so that the file can be read at all.
		$outcome = 'cannot be held' if $group eq 'nul characters in strings';
		$failed{"$name: $group"}++ if $outcome ne $valid;
		diag("$name: $group: $description: $outcome, not $valid") if $outcome ne $valid && !$exceptions{"$name: $group"};
		is($agree, 't', "$name: $group: $description: the list of errors agrees") if $agree ne 't';
	}
	foreach my $group (sort keys %failed)
	{
		is($failed{$group}, $exceptions{$group} ? $exceptions{$group}->[0] : 0, "$group: only what is listed fails");
	}
	pass("$name: " . scalar(@cases) . ' cases');
}
is($total, 758, 'all cases of the suite were run');

my $formats = 0;
foreach my $file (sort glob("$suite/format/*.json"))
{
	my ($name) = $file =~ m{([^/]+)$};
	my $groups = "json_array_elements(replace(pg_read_file('$file'), '\\u0000', '\\ue000')::json) WITH ORDINALITY e (g, n)";

	$node->safe_psql('postgres', "SELECT prod_analytics.register_event_schema('$name ' || n, (g->'schema')::jsonb) FROM $groups");
	my @cases = split /\x1e/, $node->safe_psql('postgres', <<"SQL");
SELECT string_agg(concat_ws(E'\\x1f', g->>'description', t->>'description', t->>'valid', prod_analytics.is_valid_event('$name ' || n, (t->'data')::jsonb)::text), E'\\x1e')
FROM $groups, json_array_elements(g->'tests') t
SQL

	foreach my $case (@cases)
	{
		my ($group, $description, $valid, $outcome) = split /\x1f/, $case;

		$formats++;
		is($outcome, $valid, "$name: $group: $description") if $outcome ne $valid;
	}
	pass("$name: " . scalar(@cases) . ' cases');
}
cmp_ok($formats, '>=', 88, 'all cases of formats were run');

done_testing();
