# ALTER EXTENSION UPDATE makes of a store of any version that was released what a new one is, and leaves the data and what
# users have changed as they were.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Store;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('node');
$node->init;
$node->start;

my @versions = sort map { m{--([^-]+)\.sql$} } glob("$FindBin::RealBin/../../sql/versions/prod_analytics--*.sql");
my ($newest) = slurp_file("$FindBin::RealBin/../../prod_analytics.control") =~ /^default_version = '(.*)'/m;

is(join(' ', @versions), $node->safe_psql('postgres', qq{SELECT string_agg(version, ' ' ORDER BY version) FROM pg_available_extension_versions WHERE name = 'prod_analytics' AND version <> '$newest'}),
	'the versions released are there');

sub create_database
{
	my ($name) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	return;
}

# What a new store looks like.
create_database('fresh');
$node->safe_psql('fresh', 'SET client_min_messages = warning; CREATE EXTENSION prod_analytics CASCADE');
my $fresh = catalog($node, 'fresh');
my $is_first = 1;

foreach my $version (@versions)
{
	my ($code, $out, $err);

	# Untouched, it becomes a new one.
	create_database("plain_$is_first");
	$node->safe_psql("plain_$is_first", "SET client_min_messages = warning; CREATE EXTENSION prod_analytics VERSION '$version' CASCADE");
	($code, $out, $err) = $node->psql("plain_$is_first", 'ALTER EXTENSION prod_analytics UPDATE', on_error_stop => 1);
	is("$code $err", '0 ', "$version: the update says nothing");
	is($node->safe_psql("plain_$is_first", q{SELECT extversion FROM pg_extension WHERE extname = 'prod_analytics'}), $newest, "$version: it is the newest version");
	check_same(catalog($node, "plain_$is_first"), $fresh, "$version: what is updated is what a new one is");
	is($node->safe_psql("plain_$is_first", 'SELECT prod_analytics.create_tables()'), '0', "$version: nothing is left to do");
	check_same(catalog($node, "plain_$is_first"), $fresh, "$version: and create_tables() changes nothing");

	# In use.  The new library serves the old functions until then.
	create_database("used_$is_first");
	create_store($node, "used_$is_first", version => $version, without_roles => !$is_first);
	$is_first++;
}

done_testing();
