# Real invoice lines, checked by a schema: what is set aside, and what comes of it when the rule is relaxed,
# is what the file says by a count of our own.

use strict;
use warnings;

use FindBin;
use IPC::Run qw(run);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Text::CSV_XS;

my $data = $ENV{PROD_ANALYTICS_DATA};
my $name = 'online_retail/events_2010_12.csv';

plan skip_all => "set PROD_ANALYTICS_DATA to a folder with $name" if !defined $data || !-f "$data/$name";

my $loader = "$FindBin::Bin/../../scripts/load_events";
my $node = PostgreSQL::Test::Cluster->new('online_retail');

# What the file says: how many lines there are, how many of them are purchases that are not valid by the
# schema that is there from the start, and how many that have no price above zero.
sub count_lines
{
	my %count = map { $_ => 0 } qw(lines invalid free anonymous);
	my $csv = Text::CSV_XS->new({ binary => 1 });

	open my $file, '<', "$data/$name" or BAIL_OUT("could not open $name: $!");
	$csv->header($file);
	while (my $line = $csv->getline_hr($file))
	{
		my ($price) = $line->{event_props} =~ /"price": (-?[\d.]+)[,}]/;

		$count{lines}++;
		$count{anonymous}++ if $line->{user_id} eq '';
		next if $line->{event_type} ne 'purchase';
		$count{invalid}++ if !defined $price || $price < 0 || $line->{event_props} !~ /"order_id": "/;
		$count{free}++ if defined $price && $price <= 0;
	}
	return %count;
}

sub psql
{
	my ($query) = @_;

	return $node->safe_psql('postgres', $query);
}

# Stages the file; returns how many rows then are staged.
sub load_file
{
	my $stderr = '';

	run([ $^X, $loader, '--quiet', "$data/$name" ], '2>', \$stderr, '|',
		[ 'psql', '-X', '-d', $node->connstr('postgres') ], '>', \my $stdout, '2>>', \$stderr)
	  or BAIL_OUT("could not load $name: $stderr");
	is($stderr, '', 'every line parses');
	return psql('SELECT count(*) FROM prod_analytics.staging_events');
}

# Ingests all that is staged; returns how many rows were new, known, set aside, and let pass with a warning.
sub ingest_all
{
	my @total = (0) x 4;

	while (1)
	{
		my ($status, $rows, @counts) = split /\|/, psql(q{
			SELECT r->>'status', r->>'rows', r->>'inserted', r->>'duplicates', r->>'quarantined', r->>'warned'
			FROM prod_analytics.etl_ingest_events(10000) r});

		BAIL_OUT("etl_ingest_events ended with $status") if $status ne 'SUCCESS';
		last if $rows == 0;
		$total[$_] += $counts[$_] foreach 0 .. 3;
	}
	return "@total";
}

my %count = count_lines();
my ($lines, $invalid, $free) = @count{qw(lines invalid free)};
my $priced = q{{"type": "object", "required": ["order_id", "price"], "properties": {"price": {"type": "number", "exclusiveMinimum": 0}}}};

is($lines, 42_481, 'the file is the one that the test is about');
cmp_ok($free, '>', 0, 'some purchases are free');

$node->init;
$node->append_conf('postgresql.conf', "prod_analytics.max_event_age = '200 years'\n");
$node->start;
psql('CREATE EXTENSION prod_analytics CASCADE; SELECT prod_analytics.ensure_partitions()');

# By the schema that is there from the start.
is(load_file(), $lines, 'all lines are staged');
is(ingest_all(), join(' ', $lines - $invalid, 0, $invalid, 0), 'what the schema allows goes in');
is(load_file(), $lines - $invalid, 'what is in quarantine is not staged again');
is(ingest_all(), join(' ', 0, $lines - $invalid, 0, 0), 'nothing is new the second time');
is( psql(q{
		SELECT (SELECT count(*) FROM prod_analytics.events WHERE user_id IS NULL)
			+ (SELECT count(*) FROM prod_analytics.quarantined_events WHERE user_id IS NULL)}),
	$count{anonymous}, 'what has no user is anonymous');
is(psql('SELECT count(*) FROM prod_analytics.events_default'), 0, 'they are in partitions of their own');

# By one that wants a price above zero.
psql(qq{
	TRUNCATE prod_analytics.events, prod_analytics.quarantined_events;
	SELECT prod_analytics.register_event_schema('purchase', '$priced')});
is(load_file(), $lines, 'all lines are staged');
is(ingest_all(), join(' ', $lines - $free, 0, $free, 0), 'what is free is set aside');
is( psql(q{
		SELECT r.reason->>'code', r.reason->>'path', r.reason->>'keyword', count(*)
		FROM prod_analytics.quarantined_events, jsonb_array_elements(reasons) r (reason)
		GROUP BY 1, 2, 3}),
	"schema_violation|/payload/price|exclusiveMinimum|$free", 'for that reason');
is(load_file(), $lines - $free, 'what is in quarantine is not staged again');
is(ingest_all(), join(' ', 0, $lines - $free, 0, 0), 'nothing is new');

is(psql(q{SELECT prod_analytics.redrive_events()}), $free, 'what was set aside is tried again');
is(ingest_all(), join(' ', 0, 0, $free, 0), 'in vain');

# That one only warns.
psql(qq{SELECT prod_analytics.register_event_schema('purchase', '$priced', 'warn')});
is(psql(q{SELECT prod_analytics.redrive_events(reason_code => 'schema_violation')}), $free, 'what was set aside is tried once more');
is(ingest_all(), join(' ', $free, 0, 0, $free), 'and goes in, with a warning');
is(psql('SELECT count(*), count(DISTINCT event_id) FROM prod_analytics.events'), "$lines|$lines", 'each line is an event');
is( psql(q{
		SELECT sum((details->>'inserted')::bigint + (details->>'duplicates')::bigint + (details->>'quarantined')::bigint)
		FROM prod_analytics.etl_jobs WHERE job_name = 'ingest_events'}),
	4 * $lines - $invalid + $free, 'and the log adds up');
is(psql(q{SELECT prod_analytics.refresh_incremental()->>'status'}), 'SUCCESS', 'the metrics are refreshed');
is(psql(q{SELECT count(*) FROM prod_analytics.verify_matview('prod_analytics.mv_org_daily_metrics')}), 0, 'and exact');
is( psql(q{SELECT sum(revenue) FROM prod_analytics.mv_org_daily_metrics}),
	psql(q{SELECT sum((event_props->>'price')::numeric) FROM prod_analytics.events}),
	'no revenue is lost');

$node->stop;
done_testing();
