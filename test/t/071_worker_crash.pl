# Processes of the worker are killed at random, and so is the server: every run that was cut off is marked as failed, no
# job is blocked or lost, and none runs twice at a time.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Crash qw(kill_server);
use List::Util qw(sum0);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

# How often something is killed.
my $kills = $ENV{WORKER_KILLS} // 30;

# WORKER_SEED repeats what is killed, though not when it gets to that.
my $seed = $ENV{WORKER_SEED} // time;
note("WORKER_SEED=$seed");
srand $seed;

my $node = PostgreSQL::Test::Cluster->new('worker_crash');

sub psql
{
	my ($query) = @_;

	return $node->safe_psql('postgres', $query);
}

# Waits until a query returns true, across restarts of the server.
sub comes_true
{
	my ($query, $name) = @_;

	ok($node->poll_query_until('postgres', $query), $name);
	return;
}

# A query that a server which is just restarting may not answer.  A psql that has ended before it could be given the query
# raises an error.
sub try_psql
{
	my ($query) = @_;
	my ($code, $out) = eval { $node->psql('postgres', $query, timeout => 60) };

	return defined $code && $code == 0 ? $out : '';
}

# Ends the server at once, and starts it when nothing is left of it.
sub crash
{
	my ($signal) = @_;

	$signal eq 'KILL' ? kill_server($node) : $node->stop('immediate');
	$node->start;
	return;
}

my $quiet = q{SELECT count(*) = 0 FROM prod_analytics.etl_jobs e WHERE status = 'RUNNING' AND NOT EXISTS (
	SELECT FROM prod_analytics.worker_status w WHERE w.job_id = e.job_id)};

$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'prod_analytics'
prod_analytics.databases = 'postgres'
max_worker_processes = 16
restart_after_crash = on
CONF
$node->start;
psql(q{
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.ensure_partitions();
	INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
	CREATE TABLE work (job text, started timestamptz, ended timestamptz);
	CREATE PROCEDURE do_work(job text, seconds float8) LANGUAGE plpgsql AS $$
	DECLARE
		started timestamptz := clock_timestamp();
	BEGIN
		COMMIT;
		PERFORM pg_sleep(seconds);
		INSERT INTO work VALUES (job, started, clock_timestamp());
	END $$;
	SELECT prod_analytics.schedule_job('work ' || n, '1 second', format('CALL do_work(%s, random() / 2)', quote_literal(n)), max_retries => 3)
	FROM generate_series(1, 6) n;
	SELECT prod_analytics.schedule_job(job_name, '1 second', command, timeout, max_retries, timezone, catch_up, depends_on)
	FROM prod_analytics.jobs WHERE job_name IN ('ingest_events', 'refresh_matviews');
});
comes_true(q{SELECT count(DISTINCT job) = 6 FROM work}, 'the jobs run');

# What is killed: a process, by one signal or the other, as the worker or somebody else would end it.
my %what = (
	runner => q{SELECT pid FROM prod_analytics.worker_status WHERE process = 'runner' AND state = 'running' ORDER BY random() LIMIT 1},
	idle => q{SELECT pid FROM prod_analytics.worker_status WHERE process = 'runner' ORDER BY random() LIMIT 1},
	scheduler => q{SELECT pid FROM prod_analytics.worker_status WHERE process = 'scheduler'},
	launcher => q{SELECT pid FROM prod_analytics.worker_status WHERE process = 'launcher'},
	backend => q{SELECT pg_backend_pid()});
my @targets = ((map { [ $_, 'TERM' ] } qw(runner runner runner idle scheduler scheduler launcher)),
	(map { [ $_, 'KILL' ] } qw(runner scheduler launcher)), [ 'server', 'KILL' ], [ 'server', 'immediate' ]);
my %killed;

# Somebody who is to be killed may just not be there.
my $deadline = time + 5 * $PostgreSQL::Test::Utils::timeout_default;
while (sum0(values %killed) < $kills && time < $deadline)
{
	my ($target, $signal) = @{ $targets[ int(rand(@targets)) ] };

	try_psql(q{INSERT INTO prod_analytics.staging_events (org_id, event_type, event_time, payload)
		SELECT 1, 'view', now(), '{}' FROM generate_series(1, 100)});
	if ($target eq 'server')
	{
		crash($signal);
	}
	else
	{
		my $pid = try_psql($what{$target});

		if ($pid !~ /^\d+$/)
		{
			sleep(0.1);
			next;
		}
		kill $signal, $pid;
		# Until it is gone the server may not know yet that it has to restart.
		if ($signal eq 'KILL')
		{
			my $attempts = 100 * $PostgreSQL::Test::Utils::timeout_default;

			sleep 0.01 while kill(0, $pid) && --$attempts;
		}
	}
	$killed{"$target $signal"}++;
	sleep(rand(1.2));
}
note(join ', ', map { "$_: $killed{$_}" } sort keys %killed);
is(sum0(values %killed), $kills, 'so many were killed');

$node->poll_query_until('postgres', undef, '');
psql('TRUNCATE work');
comes_true(q{SELECT count(DISTINCT job) = 6 FROM work}, 'no job is blocked');
comes_true($quiet, 'no run is said to go on whose process is gone');
psql(q{SELECT prod_analytics.pause_job(job_name) FROM prod_analytics.jobs WHERE job_name LIKE 'work %'});
is(psql(q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status = 'FAILED' AND details->>'error' <> 'server or worker terminated'
			AND details->>'error' <> 'the process for the run ended before it began'}), 0, 'all failures are those that were made');
is(psql(q{SELECT count(*) FROM prod_analytics.etl_jobs a JOIN prod_analytics.etl_jobs b ON a.job_name = b.job_name AND a.job_id < b.job_id
			AND a.status = 'SUCCESS' AND b.status = 'SUCCESS' AND b.started_at < a.finished_at}), 0, 'no job ran twice at a time');
is(psql(q{SELECT count(*) FROM prod_analytics.job_state s WHERE NOT EXISTS (SELECT FROM prod_analytics.etl_jobs e WHERE e.job_id = s.last_job_id)
			AND s.last_job_id IS NOT NULL}), 0, 'the state of each job fits the log');
comes_true(q{SELECT count(*) = 0 FROM prod_analytics.staging_events}, 'all events are ingested');
comes_true(q{SELECT count(*) = 0 FROM prod_analytics.changed_keys}, 'and the metrics are refreshed');
is(psql(q{SELECT count(*) FROM prod_analytics.verify_matview('prod_analytics.mv_org_daily_metrics')}), 0, 'and exact');
is(psql(q{SELECT count(*) - count(DISTINCT event_id) FROM prod_analytics.events}), 0, 'no event is there twice');
comes_true(q{SELECT count(*) FILTER (WHERE process = 'launcher') = 1 AND count(*) FILTER (WHERE process = 'scheduler') = 1 FROM prod_analytics.worker_status},
	'the worker is complete');
unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|was terminated by signal (?!9)/, 'no process died by itself');

$node->stop;
done_testing();
