# The slowest queries, by pg_stat_statements, which has to be preloaded.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('plan');

sub psql
{
	my ($query) = @_;

	return $node->safe_psql('app', $query);
}

$node->init;
$node->append_conf('postgresql.conf', 'shared_preload_libraries = pg_stat_statements');
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
psql(q{
	CREATE EXTENSION prod_analytics CASCADE;
	CREATE SCHEMA "Odd place";
	CREATE EXTENSION pg_stat_statements SCHEMA "Odd place";
	CREATE ROLE operator LOGIN IN ROLE analytics_operator;
	GRANT USAGE ON SCHEMA "Odd place" TO operator});
# What has been done so far can have taken longer.
psql('SELECT "Odd place".pg_stat_statements_reset()');
$node->safe_psql('postgres', 'SELECT pg_sleep(0.5) AS elsewhere');
psql('SELECT pg_sleep(0.3) AS here') foreach 1 .. 2;

is(psql('SELECT query, calls, total_ms >= 600, mean_ms >= 300, rows FROM prod_analytics.slow_queries(1)'),
	'SELECT pg_sleep($1) AS here|2|t|t|2', 'a query of this database, whatever schema the extension is in');
is(psql(q{SELECT count(*) FROM prod_analytics.slow_queries(100) WHERE query LIKE '%elsewhere%'}), 0, 'none of another');
is(psql('SELECT count(*) FROM prod_analytics.slow_queries(0)'), 0, 'as many as one asks for');
is(psql(q{SET ROLE operator; SELECT query FROM prod_analytics.slow_queries(1)}), '<insufficient privilege>', "others' queries are not shown to anybody");
psql('GRANT pg_read_all_stats TO operator');
is(psql(q{SET ROLE operator; SELECT query FROM prod_analytics.slow_queries(1)}), 'SELECT pg_sleep($1) AS here', 'but to those who may read statistics');

$node->stop;
done_testing();
