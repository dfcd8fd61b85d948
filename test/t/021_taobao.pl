# Real events of an online shop, loaded twice: nothing is lost, nothing is counted twice.

use strict;
use warnings;

use FindBin;
use IPC::Run qw(run);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $data = $ENV{PROD_ANALYTICS_DATA};

plan skip_all => 'set PROD_ANALYTICS_DATA to a folder with taobao/small_sample.csv,'
  . ' taobao/users_1_to_100370.csv and taobao/reference/a_daily_total.csv'
  if !defined $data || !-d "$data/taobao";

my $loader = "$FindBin::Bin/../../scripts/load_events";
my @options = (
	'--quiet',
	'--columns=user_id,product_id,category_id,event_type,event_time',
	'--event-types=pv=product_view,cart=add_to_cart,fav=add_to_wishlist,buy=purchase');
my $node = PostgreSQL::Test::Cluster->new('taobao');

# Stages a file; returns what the loader reported.
sub load_file
{
	my ($file) = @_;
	my $stderr = '';

	run([ $^X, $loader, @options, "$data/taobao/$file" ], '2>', \$stderr, '|',
		[ 'psql', '-X', '-d', $node->connstr('postgres') ], '>', \my $stdout, '2>>', \$stderr)
	  or BAIL_OUT("could not load $file: $stderr");
	return $stderr;
}

# Ingests all that is staged; returns how many rows were new, known and bad.
sub ingest_all
{
	my @total = (0, 0, 0);

	while (1)
	{
		my ($status, $rows, @counts) = split /\|/, $node->safe_psql(
			'postgres', q{
			SELECT r->>'status', r->>'rows', r->>'inserted', r->>'duplicates', r->>'quarantined'
			FROM prod_analytics.etl_ingest_events(20000) r});

		BAIL_OUT("etl_ingest_events ended with $status") if $status ne 'SUCCESS';
		last if $rows == 0;
		$total[$_] += $counts[$_] foreach 0 .. 2;
	}
	return "@total";
}

sub expected_days
{
	open my $file, '<', "$data/taobao/reference/a_daily_total.csv"
	  or BAIL_OUT("could not open a_daily_total.csv: $!");
	readline $file;
	local $/;
	return readline($file) =~ s/\s+\z//r;
}

# Refreshes the metrics: which way that took, and how many rows of theirs are not those that their query returns.
sub refreshed
{
	my $view = 'prod_analytics.mv_org_daily_metrics';
	my $columns = 'org_id, event_date, dau, purchases, revenue';
	my $method = $node->safe_psql('postgres', "SELECT prod_analytics.refresh_incremental('$view')->>'method'");
	my $query = $node->safe_psql('postgres', "SELECT rtrim(pg_get_viewdef('$view'::regclass), ';')");

	return "$method " . $node->safe_psql(
		'postgres', qq{
		WITH computed AS (SELECT $columns FROM ($query) q), stored AS (SELECT $columns FROM $view)
		SELECT count(*) FROM ((TABLE computed EXCEPT ALL TABLE stored) UNION ALL (TABLE stored EXCEPT ALL TABLE computed)) d});
}

$node->init;
$node->append_conf('postgresql.conf', 'autovacuum = off');
$node->start;
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.ensure_partitions()});
is(refreshed(), 'recompute 0', 'everything is looked at the first time');

# These purchases have neither an order_id nor a price: by the schema that is there from the start they are set
# aside, by one that only warns they go in.
is(load_file('small_sample.csv'), '', 'every line of the sample parses');
is(ingest_all(), '97900 0 2101', 'purchases without an order_id are set aside');
is(refreshed(), 'keys 0', 'the metrics follow');
$node->safe_psql(
	'postgres', q{
	SELECT prod_analytics.register_event_schema(event_type, schema, 'warn') FROM prod_analytics.event_schemas;
	TRUNCATE prod_analytics.events, prod_analytics.quarantined_events});
is(refreshed(), 'recompute 0', 'also when the events are gone');

is(load_file('small_sample.csv'), '', 'every line of the sample parses');
is(ingest_all(), '100001 0 0', 'all events are new the first time');
like(refreshed(), qr/ 0$/, 'the metrics follow');
is(load_file('small_sample.csv'), '', 'the sample loads again');
is(ingest_all(), '0 100001 0', 'all events are known the second time');
is(refreshed(), 'keys 0', 'and no metrics change');

is( load_file('users_1_to_100370.csv'),
	"line 84476 of users_1_to_100370.csv: 5 fields expected, 4 found\n",
	'the line that was cut off is reported');
is(ingest_all(), '0 84475 0', 'another file with the same events adds nothing');
is( $node->safe_psql(
		'postgres', q{SELECT payload->>'line' FROM prod_analytics.quarantined_events}),
	84476,
	'the line that was cut off is kept');

is( $node->safe_psql(
		'postgres', q{
		SELECT concat_ws(',', event_date, count(*), count(DISTINCT user_id))
		FROM prod_analytics.events
		GROUP BY event_date
		ORDER BY event_date}),
	expected_days(),
	'events and users of each day');

is( $node->safe_psql(
		'postgres', q{
		SELECT sum(purchases) FROM prod_analytics.mv_org_daily_metrics}),
	2101,
	'purchases in the metrics');

$node->stop;
done_testing();
