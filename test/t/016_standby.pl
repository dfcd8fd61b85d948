# A standby made with pg_basebackup shows the whole store, answers questions, and refuses what writes; promoted, it goes on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Store;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "shared_preload_libraries = prod_analytics\nprod_analytics.databases = postgres\nprod_analytics.enabled = off\n");
$primary->start;
create_store($primary, 'postgres');
$primary->backup('base');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->safe_psql('postgres', q{
	INSERT INTO prod_analytics.events (org_id, user_id, event_type, event_props, event_time, campaign) VALUES (1, 2, 'purchase', '{"order_id": 1, "price": 3}', now(), 'winter');
	CREATE TABLE public.wait (); SELECT prod_analytics.schedule_job('waits', '1 second', 'SELECT count(*) FROM public.wait')});
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

check_same(catalog($standby, 'postgres'), catalog($primary, 'postgres'), 'standby: all that the catalogs say');
# (Sequences are ahead on a standby, so that no number is given twice after a promotion.)
check_same((map { s/^sequence .*\n//mgr } data($standby, 'postgres'), data($primary, 'postgres')), 'standby: every row');

# What each function is called with, and what comes of it: an SQLSTATE, or 0 for an answer.
my $matview = q{'prod_analytics.mv_org_daily_metrics'};
my %calls = (
	active_users => [ q{'2026-01-01', '2026-01-31'}, 0 ],
	approx_active_users => [ q{'2026-01-01', '2026-01-31'}, '42704' ],
	approx_rolling_users => [ q{'2026-01-01', '2026-01-31'}, '42704' ],
	backfill_column => [ q{'prod_analytics.events', 'device_type', $$'x'$$}, '25006' ],
	cancel_job => [ q{'tick'}, 0 ],
	capture_plan => [ q{'SELECT 1'}, '25006' ],
	create_tables => [ '', '25006' ],
	disable_incremental_refresh => [ $matview, '25006' ],
	drop_expired_partitions => [ '', '25006' ],
	due_jobs => [ '', 0 ],
	enable_incremental_refresh => [ $matview, '25006' ],
	ensure_partitions => [ '', '25006' ],
	ensure_partitions_between => [ q{'prod_analytics.events', now(), now() + interval '1 year'}, '25006' ],
	erase_user => [ '1', '25006' ],
	etl_ingest_events => [ '', '25006' ],
	etl_upsert_users => [ '', '25006' ],
	event_schema_report => [ q{'signup', '2026-01-01', 'infinity'}, 0 ],
	funnel => [ q{'{view,purchase}'}, 0 ],
	is_valid_event => [ q{'signup', '{}'}, 0 ],
	is_valid_purchase_event => [ q{'{}'}, 0 ],
	jsonb_matches_schema => [ q{'{}', '{}'}, 0 ],
	jsonschema_is_valid => [ q{'{}'}, 0 ],
	jsonschema_validation_errors => [ q{'{"type": "string"}', '{}'}, 0 ],
	load_sample_data => [ '', '25006' ],
	maintain_partitions => [ '', '25006' ],
	manage_partitions => [ q{'prod_analytics.events', 'event_time'}, '25006' ],
	mark_changed => [ $matview, '25006' ],
	next_slot => [ q{'1 day', now()}, 0 ],
	org_tree => [ '', 0 ],
	pause_job => [ q{'tick'}, '25006' ],
	plan_partitions => [ '', 0 ],
	purge_history => [ '', '25006' ],
	redrive_events => [ '', '25006' ],
	redrive_users => [ '', '25006' ],
	refresh_incremental => [ '', '25006' ],
	register_event_schema => [ q{'signup', '{}'}, '25006' ],
	resume_job => [ q{'tick'}, '25006' ],
	retention => [ q{'2026-01-01', '2026-01-31'}, 0 ],
	run_job => [ q{'tick'}, '25006' ],
	run_quality_checks => [ '', '25006' ],
	schedule_job => [ q{'tick', '1 second', 'SELECT 1'}, '25006' ],
	search_knowledge_base => [ q{'anything'}, 0 ],
	slow_queries => [ '', '0A000' ],
	unmanage_partitions => [ q{'prod_analytics.events'}, '25006' ],
	unschedule_job => [ q{'tick'}, '25006' ],
	users_with_event => [ q{'view'}, 0 ],
	users_without_event => [ q{'view'}, 0 ],
	validate_event => [ q{'signup', '{}'}, 0 ],
	validate_purchase_event => [ q{'{}'}, 0 ],
	verify_matview => [ $matview, 0 ],
	window_funnel => [ q{'7 days', event_time, event_type, '{view,purchase}') FROM (SELECT * FROM prod_analytics.events LIMIT 100) e WHERE (true}, 0 ],
	worker_processes => [ '', 0 ]);

sub failure
{
	my ($node, $statement) = @_;
	my ($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$statement");

	return $err;
}

foreach my $line (split /\n/, $standby->safe_psql('postgres', q{
	SELECT proname, prokind FROM pg_proc WHERE pronamespace = 'prod_analytics'::regnamespace
		AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) AND obj_description(oid, 'pg_proc') NOT LIKE 'internal:%' ORDER BY 1}))
{
	my ($name, $kind) = split /\|/, $line;
	my $call = $calls{$name};

	ok($call, "standby: it is known what $name() does") or next;
	my $err = failure($standby, ($kind eq 'p' ? 'CALL' : $kind eq 'a' ? 'SELECT' : 'SELECT * FROM') . " prod_analytics.$name($call->[0])");
	if ($call->[1] eq '0') { unlike($err, qr/ERROR|WARNING/, "standby: $name() answers"); }
	elsif ($call->[1] eq '25006') { like($err, qr/ERROR:  25006: cannot execute \S.* (in a read-only transaction|during recovery)/, "standby: $name() is refused"); }
	else { like($err, qr/ERROR:  $call->[1]: /, "standby: $name() says what it needs"); }
}
is(failure($standby, q{SELECT prod_analytics.redrive_events(dry_run => true)}), '', 'standby: it is told what redrive_events() would do');
foreach my $view (split /\n/, $standby->safe_psql('postgres', q{SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'prod_analytics'::regnamespace AND relkind IN ('v', 'm') ORDER BY 1}))
{
	is(failure($standby, "SELECT count(*) FROM $view"), '', "standby: $view can be read");
}
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'prod_analytics%' AND backend_type <> 'prod_analytics launcher'}), '0', 'standby: the worker does nothing');

# The primary fails while the worker is at work.
$primary->safe_psql('postgres', q{ALTER SYSTEM SET prod_analytics.enabled = on});
my ($in, $out, $timer) = ('', '', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
my $holder = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-d', $primary->connstr('postgres') ], '<', \$in, '>', \$out, $timer);
$in = "BEGIN; LOCK public.wait; SELECT 'locked';\n";
$holder->pump until $out =~ /locked/;
$primary->reload;
my $running = q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status = 'RUNNING' AND job_name = 'waits'};
ok($primary->poll_query_until('postgres', "SELECT ($running) = 1"), 'a job is running');
ok($primary->poll_query_until('postgres', q{SELECT count(*) > 1 FROM public.ticks}), 'others have run');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
is($standby->safe_psql('postgres', $running), 1, 'the standby shows that it is running');
my $last = $standby->safe_psql('postgres', 'SELECT max(job_id) FROM prod_analytics.etl_jobs');
$primary->stop('immediate');
eval { $in = "\\q\n"; $holder->finish; };

# The standby takes over; first without the worker.
$standby->promote;
cmp_ok($standby->safe_psql('postgres', 'SELECT count(*) FROM public.ticks'), '>', 1, 'promoted: what was done is there');
$standby->append_conf('postgresql.conf', "prod_analytics.enabled = on\n");
$standby->reload;
my $without_holder = q{
	SELECT r.job_name FROM prod_analytics.etl_jobs r
	WHERE r.status = 'RUNNING' AND r.job_name NOT LIKE 'backfill%' AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
		AND ((l.classid::bigint << 32) | l.objid::bigint)::bigint IN (hashtext('etl_' || r.job_name)::bigint, hashtext('etl_' || r.job_name)::bigint & 4294967295))};
ok($standby->poll_query_until('postgres', "SELECT count(*) > 1 FROM prod_analytics.etl_jobs WHERE job_id > $last AND job_name = 'tick' AND status = 'SUCCESS'"), 'promoted: the worker begins without a restart');
ok($standby->poll_query_until('postgres', "SELECT count(*) > 0 FROM prod_analytics.etl_jobs WHERE job_id > $last AND job_name = 'waits' AND status = 'SUCCESS'"), 'promoted: the job that was cut off runs again');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status = 'FAILED' AND job_name = 'waits' AND details->>'error' = 'server or worker terminated'}), 1, 'promoted: and is marked');
$standby->append_conf('postgresql.conf', "prod_analytics.enabled = off\n");
$standby->reload;
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 0 FROM prod_analytics.etl_jobs WHERE status = 'RUNNING' AND job_name NOT LIKE 'backfill%'}), 'promoted: no run is left over');
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process <> 'launcher'}), 'promoted: the worker leaves');
is($standby->safe_psql('postgres', $without_holder), '', 'promoted: none is running without a session that holds its lock');
$standby->safe_psql('postgres', q{
	INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, payload, event_time) VALUES (900006, 3, 1, 'view', '{}', now());
	INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, payload) SELECT 's2', 'Bob@Example.com', 'Bob', (SELECT min(org_name) FROM prod_analytics.organizations), '{}' WHERE NOT EXISTS (SELECT FROM prod_analytics.staging_users)});
check_works($standby, 'postgres', 'promoted');

$standby->stop;
done_testing();
