# Real events of an online shop: active users, retention and funnels are what a program without SQL has counted.

use strict;
use warnings;

use FindBin;
use IPC::Run qw(run);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $data = $ENV{PROD_ANALYTICS_DATA};

plan skip_all => 'set PROD_ANALYTICS_DATA to a folder with taobao/small_sample.csv and taobao/reference'
  if !defined $data || !-d "$data/taobao/reference";

my $node = PostgreSQL::Test::Cluster->new('analytics');

# The lines of a reference file but for the first, sorted.
sub expected
{
	my ($file) = @_;
	my @lines = split /\r?\n/, slurp_file("$data/taobao/reference/$file");

	shift @lines;
	return join("\n", sort @lines);
}

# The rows of a query as lines of such a file.
sub answered
{
	my ($query) = @_;

	return join("\n", sort split(/\n/, $node->safe_psql('postgres', "SELECT concat_ws(',', VARIADIC ARRAY(SELECT value FROM jsonb_each_text(to_jsonb(q)) ORDER BY key)) FROM ($query) q")));
}

# How many users reach each of the steps view, cart and purchase, by category, with further arguments.
sub funnel
{
	my ($arguments) = @_;

	return "(SELECT group_value, step, users FROM prod_analytics.funnel('{product_view,add_to_cart,purchase}', by => 'category_id', $arguments))";
}

$node->init;
$node->append_conf('postgresql.conf', "timezone = 'Asia/Shanghai'");
$node->start;
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.register_event_schema(event_type, schema, 'warn') FROM prod_analytics.event_schemas});

my $stderr = '';
run([ $^X, "$FindBin::Bin/../../scripts/load_events", '--quiet', '--columns=user_id,product_id,category_id,event_type,event_time',
		'--event-types=pv=product_view,cart=add_to_cart,fav=add_to_wishlist,buy=purchase', "$data/taobao/small_sample.csv" ],
	'2>', \$stderr, '|', [ 'psql', '-X', '-d', $node->connstr('postgres') ], '>', \my $stdout, '2>>', \$stderr)
  or BAIL_OUT("could not load the sample: $stderr");
is($node->safe_psql('postgres', q{SELECT r->>'inserted' FROM prod_analytics.etl_ingest_events(200000) r}), 100001, 'the events are there');
$node->safe_psql('postgres', 'ANALYZE prod_analytics.events');

my ($first, $last) = split /\|/, $node->safe_psql('postgres', 'SELECT min(event_date), max(event_date) FROM prod_analytics.events');

is( answered("SELECT event_date AS a, daily AS b, weekly AS c FROM prod_analytics.active_users('$first', '$last')"),
	expected('d_rolling7.csv'),
	'users of each day, and of the 7 days that end with it');

is( answered("SELECT cohort AS a, cohort_size AS b, period_number AS c, active_users AS d FROM prod_analytics.retention('$first', '$last') WHERE active_users > 0"),
	expected('c_daily_cohorts.csv'),
	'daily cohorts');

# The columns of the reference: viewers, added, strict, strict_ge, bought; the last two are about more than one funnel.
is( answered(
		'SELECT v.group_value AS a, v.users AS b, a.users AS c, s.users AS d, g.users AS e, b.users AS f FROM '
		  . funnel('strict => false, strictly_after => true') . ' v JOIN '
		  . funnel('strict => false, strictly_after => true') . ' a USING (group_value) JOIN '
		  . funnel('strictly_after => true') . ' s USING (group_value) JOIN '
		  . funnel('strict => true') . ' g USING (group_value) JOIN '
		  . funnel('strict => false, strictly_after => true') . ' b USING (group_value)'
		  . ' WHERE v.step = 1 AND a.step = 2 AND s.step = 3 AND g.step = 3 AND b.step = 3'),
	join("\n", sort map { join(',', (split /,/)[ 0 .. 5 ]) } split /\n/, expected('b_funnel_by_category_id_all.csv')),
	'funnels by category: in order, each step for itself, with ties and without');

$node->stop;
done_testing();
