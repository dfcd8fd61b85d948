# What analytics functions do inside: which partitions they read, which indexes they use, whether they have workers; and
# approximate numbers beside exact ones, where the extension hll is.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('plans');

# The plans of the statements inside a call, as text.
sub plans
{
	my ($query, $settings) = @_;
	my ($stdout, $stderr);

	$settings = '' if !defined $settings;
	$node->psql(
		'postgres', qq{
		LOAD 'auto_explain';
		SET auto_explain.log_nested_statements = on;
		SET auto_explain.log_analyze = on;
		SET auto_explain.log_timing = off;
		$settings
		SET client_min_messages = log;
		SET auto_explain.log_min_duration = 0;
		$query}, stdout => \$stdout, stderr => \$stderr, on_error_die => 1);
	return $stderr;
}

# The partitions of events that plans read.
sub partitions
{
	my ($plans) = @_;
	my %found = map { $_ => 1 } $plans =~ /\b(events_p\d+|events_default)\b/g;

	return join(' ', sort grep { $_ ne 'events_default' } keys %found);
}

$node->init;
$node->append_conf('postgresql.conf', "timezone = 'UTC'\nmax_worker_processes = 8\nmax_parallel_workers = 8");
$node->start;
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2025-11-01', '2026-08-31');
	SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-05-15');
	INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
	INSERT INTO prod_analytics.users (user_id, org_id, email, signup_ts, created_at)
	SELECT n, 1, n || '@example.com', timestamptz '2026-01-01' + n * interval '1 hour', now() FROM generate_series(1, 3000) n;
	INSERT INTO prod_analytics.events (user_id, org_id, event_type, event_props, event_time)
	SELECT 1 + n * 7919 % 3000, 1 + n % 2, ('{view,cart,buy}'::text[])[1 + n * 31 % 97 % 3], jsonb_build_object('product', 'p' || n % 50),
		timestamptz '2026-01-01' + n * interval '200 days' / 60000
	FROM generate_series(0, 59999) n;
	INSERT INTO prod_analytics.knowledge_base (title, content) SELECT 'Article ' || md5(n::text), md5(n::text) || ' text' FROM generate_series(1, 5000) n;
	INSERT INTO prod_analytics.knowledge_base (title, content) VALUES ('Refunds', 'How to ask for money back');
	VACUUM ANALYZE});

is(partitions(plans(q{SELECT * FROM prod_analytics.funnel('{view,cart,buy}', '7 days', from_time => '2026-03-01', to_time => '2026-03-15')})),
	'events_p20260301', 'a funnel reads the partitions in which its windows are');
is(partitions(plans(q{SELECT * FROM prod_analytics.funnel('{view,cart,buy}', '7 days', from_time => '2026-03-01', to_time => '2026-03-26')})),
	'events_p20260301 events_p20260401', 'also those in which they end');
is(partitions(plans(q{SELECT * FROM prod_analytics.active_users('2026-03-30', '2026-04-02')})),
	'events_p20260301 events_p20260401', 'active_users() reads the 30 days that count');
is(partitions(plans(q{SELECT * FROM prod_analytics.retention('2026-03-01', '2026-03-31', 'week', cohort_by => 'signup')})),
	'events_p20260201 events_p20260301 events_p20260401', 'retention by sign-up reads the weeks of the range');
is(partitions(plans(q{SELECT * FROM prod_analytics.retention('2026-01-01', '2026-02-28')})),
	'events_p20251101 events_p20251201 events_p20260101 events_p20260201', 'retention by first event reads the range and what was before');
is(partitions(plans(q{SELECT count(*) FROM prod_analytics.users_without_event('buy', '2026-03-01', '2026-04-01')})),
	'events_p20260301', 'users_without_event() reads the range');

like(plans(q{SELECT * FROM prod_analytics.search_knowledge_base('money')}), qr/Bitmap Index Scan on idx_kb_search_vector/, 'a search uses the index on words');
like(plans(q{SELECT * FROM prod_analytics.search_knowledge_base('refnds')}), qr/Bitmap Index Scan on idx_kb_title_trgm/, 'and the one on titles');

# With workers and without: the same.
my $workers = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;';
foreach my $query (
	q{SELECT * FROM prod_analytics.funnel('{view,cart,buy}', by => 'product')},
	q{SELECT * FROM prod_analytics.funnel('{view,cart,buy}', by => 'product', strict => false, strictly_after => true)},
	q{SELECT * FROM prod_analytics.active_users('2026-01-01', '2026-07-31')},
	q{SELECT * FROM prod_analytics.retention('2026-01-01', '2026-07-31', 'week')})
{
	my ($name) = $query =~ /prod_analytics\.(\w+\(.*\))/;

	like(plans($query, $workers), qr/Workers Launched: [12]/, "$name has workers");
	is($node->safe_psql('postgres', "$workers $query"), $node->safe_psql('postgres', "SET max_parallel_workers_per_gather = 0; $query"),
		'and says what it says without');
}

SKIP:
{
	skip 'the extension hll is not installed', 4
	  if $node->safe_psql('postgres', q{SELECT count(*) FROM pg_available_extensions WHERE name = 'hll'}) == 0;

	$node->safe_psql('postgres', 'CREATE SCHEMA elsewhere; CREATE EXTENSION hll SCHEMA elsewhere');
	is($node->safe_psql('postgres', q{SELECT prod_analytics.approx_active_users('2025-11-01', '2025-11-30')}), 0, 'nobody is nobody');

	# 3000 users: four standard errors are 97.
	cmp_ok(abs($node->safe_psql('postgres', q{SELECT prod_analytics.approx_active_users('2026-01-01', '2026-07-31')}) - 3000), '<', 98, 'all users, about');
	is( $node->safe_psql(
			'postgres', q{
			SELECT count(*), max(abs(a.daily - e.daily)::float / greatest(e.daily, 1)) < 0.033, max(abs(a.weekly - e.weekly)::float / greatest(e.weekly, 1)) < 0.033,
				max(abs(a.monthly - e.monthly)::float / greatest(e.monthly, 1)) < 0.033
			FROM prod_analytics.active_users('2025-12-25', '2026-07-31') e JOIN prod_analytics.approx_rolling_users('2025-12-25', '2026-07-31') a USING (event_date)}),
		'219|t|t|t', 'every day, week and month is within four standard errors');
	is( $node->safe_psql(
			'postgres', q{
			SELECT count(*) FROM prod_analytics.active_users('2026-02-01', '2026-02-28', 1) e JOIN prod_analytics.approx_rolling_users('2026-02-01', '2026-02-28', 1) a USING (event_date)
			WHERE abs(a.monthly - e.monthly) <= 0.033 * e.monthly}),
		28, 'of one organization');
}

$node->stop;
done_testing();
