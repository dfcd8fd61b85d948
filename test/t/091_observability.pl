# What can be seen on a standby, and with nothing in the log but the log: no question of the worker scans it.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# More than the planner would read for a few rows.
use constant RUNS => 200_000;

my $node = PostgreSQL::Test::Cluster->new('primary');

sub psql
{
	my ($query) = @_;

	return $node->safe_psql('postgres', $query);
}

sub comes_true
{
	my ($query, $name) = @_;

	ok($node->poll_query_until('postgres', $query), $name);
	return;
}

$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', 'shared_preload_libraries = prod_analytics
prod_analytics.databases = postgres
prod_analytics.enabled = off
autovacuum = off');
$node->start;
psql(q{
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.ensure_partitions();
	SELECT prod_analytics.load_sample_data(20, 500);
	-- The others are of some minutes before midnight at the latest, and a quality check wants one of the last day.
	INSERT INTO prod_analytics.events (org_id, user_id, event_type, event_time) SELECT min(org_id), min(user_id), 'view', now() FROM prod_analytics.users;
	CREATE ROLE operator LOGIN IN ROLE analytics_operator;
	CREATE ROLE reader LOGIN IN ROLE analytics_reader;
	ANALYZE});

# The log of years, as far as jobs are concerned.
psql(q{
	INSERT INTO prod_analytics.etl_jobs (job_name, started_at, finished_at, status, rows_processed, details)
	SELECT (ARRAY['ingest_events', 'refresh_matviews', 'mine', 'purge_history'])[1 + n % 4], now() - n * interval '1 second',
		now() - n * interval '1 second', 'SUCCESS', 0, '{}' FROM generate_series(} . RUNS . q{, 1, -1) n;
	VACUUM ANALYZE prod_analytics.etl_jobs});
my $scans = q{SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'prod_analytics.etl_jobs'::regclass};
my $before = psql($scans);
psql(q{SELECT prod_analytics.schedule_job('mine', '1 second', 'SELECT 1');
	SELECT prod_analytics.schedule_job('broken', '1 second', 'SELECT 1 / 0', max_retries => 1)});
$node->append_conf('postgresql.conf', 'prod_analytics.enabled = on');
$node->reload;
foreach my $job (qw(ingest_events upsert_users refresh_matviews maintain_partitions quality_checks purge_history mine))
{
	comes_true(qq{SELECT count(*) = 1 FROM prod_analytics.job_status WHERE job_name = '$job' AND succeeded_at IS NOT NULL}, "$job has run")
	  if psql(qq{SELECT prod_analytics.run_job('$job')->>'status'}) ne 'SUCCESS';
}
comes_true(q{SELECT failures > 1 FROM prod_analytics.job_status WHERE job_name = 'broken'}, 'a job fails, and is tried again');
psql(q{SELECT * FROM prod_analytics.job_status; SELECT * FROM prod_analytics.job_progress; SELECT * FROM prod_analytics.worker_status;
	SELECT * FROM prod_analytics.due_jobs(); SELECT * FROM prod_analytics.ingest_status});
$node->append_conf('postgresql.conf', 'prod_analytics.enabled = off');
$node->reload;
comes_true(q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process <> 'launcher'}, 'the worker ends');
# A scheduler that starts looks for runs without a process.
$node->restart;
is(psql($scans) - $before, 0, 'whatever jobs do, the log is not scanned');
psql(q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE rows_processed = 1});
comes_true("SELECT ($scans) > $before", 'which would have been seen');

# A standby.
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
psql(q{INSERT INTO prod_analytics.staging_events (event_type, event_time) VALUES ('x', now())});
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
foreach my $view (qw(table_status index_status ingest_status matview_status partition_status job_status job_progress worker_status))
{
	my ($code, $out, $err) = $standby->psql('postgres', "SET ROLE operator; SELECT count(*) FROM (SELECT * FROM prod_analytics.$view OFFSET 0) v");

	is($code, 0, "standby: analytics_operator sees $view") or diag($err);
	cmp_ok($out, '>', 0, "standby: $view has rows") unless $view =~ /^(job_progress|worker_status)$/;
}
is($standby->safe_psql('postgres', q{SELECT rows > 0 AND bloat_percent >= 0 FROM prod_analytics.table_status WHERE table_name = 'prod_analytics.events'::regclass}),
	't', 'standby: rows and bloat, which come from the catalogs');
is($standby->safe_psql('postgres', q{SELECT staged_rows FROM prod_analytics.ingest_status WHERE source = 'events'}), 1, 'standby: what is staged');

$standby->stop;
$node->stop;
done_testing();
