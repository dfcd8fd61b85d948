# What a run of ingestion takes does not grow with the number of rows, and one can see how far it is.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant TOLERANCE => 16 * 1024;    # kB

my $node = PostgreSQL::Test::Cluster->new('ingest_memory');

# Pages of shared memory count as soon as they are touched: they are to be few, and all touched the first time.
$node->init;
$node->append_conf('postgresql.conf', "shared_buffers = 16MB\nautovacuum = off\n");
$node->start;
$node->safe_psql('postgres', q{
	SET client_min_messages = warning;
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
	INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
	INSERT INTO prod_analytics.users (user_id, org_id, email)
	SELECT n, 1, format('user%s@example.com', n) FROM generate_series(1, 100) n;
	DROP INDEX prod_analytics.idx_events_props_gin});

# Forgets all events, and stages as many rows as given: one in ten is a duplicate, one in four is of
# a user whom nobody knows.
sub stage
{
	my ($rows, $time) = @_;

	$node->safe_psql('postgres', qq{
		TRUNCATE prod_analytics.staging_events, prod_analytics.events, prod_analytics.quarantined_events;
		INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, payload, event_time, received_at)
		SELECT n - (n % 10 = 0)::integer, CASE n % 4 WHEN 1 THEN 999 ELSE 1 + n % 100 END, 'view',
			jsonb_build_object('text', repeat('x', 70), 'n', n), $time, '2026-04-01'
		FROM generate_series(1, $rows) n;
		-- Nobody counts these rows later.
		SELECT pg_stat_force_next_flush()});
	return;
}

# The peak, in kB, of the memory of a backend that ingests all that is staged.
sub peak
{
	my ($test_name, $rows) = @_;
	my ($ingested, $status) = split /\n/, $node->safe_psql('postgres', q{
		SELECT r->>'rows' FROM prod_analytics.etl_ingest_events(100000000) r;
		SELECT pg_read_file(format('/proc/%s/status', pg_backend_pid()))}), 2;

	is($ingested, $rows, "$test_name: all rows are dealt with");
	my ($peak) = $status =~ /^VmHWM:\s+(\d+) kB$/m or BAIL_OUT('no VmHWM in /proc/PID/status');
	note("$test_name: $peak kB");
	return $peak;
}

SKIP:
{
	skip 'the peak of a process is read from /proc/PID/status, which only Linux has', 11 if !-r "/proc/$$/status";

	my $time = q{timestamptz '2026-03-01' + n % 28 * interval '1 day'};
	stage(100_000, $time);
	my $few = peak('100,000 rows', 100_000);
	stage(1_000_000, $time);
	my $many = peak('1,000,000 rows', 1_000_000);
	cmp_ok($many - $few, '<', TOLERANCE, 'a run of ten times as many rows takes no more memory');

	# Each of the months is one that has no partition yet.
	stage(100_000, q{timestamptz '2012-01-15' + n % 30 * interval '1 month'});
	$few = peak('100,000 rows without a partition', 100_000);
	stage(400_000, q{timestamptz '2016-01-15' + n % 30 * interval '1 month'});
	$many = peak('400,000 rows without a partition', 400_000);
	cmp_ok($many - $few, '<', TOLERANCE, 'nor do rows that need new partitions');

	# Every other row is refused, and found by halving the others again and again.
	stage(20_000, $time);
	$few = peak('20,000 rows', 20_000);
	$node->safe_psql('postgres', q{
		ALTER TABLE prod_analytics.events ADD CONSTRAINT even_only CHECK ((event_props->>'n')::integer % 2 = 0) NOT VALID});
	stage(20_000, $time);
	$many = peak('20,000 rows of which half are refused', 20_000);
	cmp_ok($many - $few, '<', 2 * TOLERANCE, 'refused rows take little more memory than others');
	$node->safe_psql('postgres', 'ALTER TABLE prod_analytics.events DROP CONSTRAINT even_only');

	# All that is wrong with a row is told of rows that are as wrong as can be, too, up to a point.
	$node->safe_psql('postgres', q{
		SELECT prod_analytics.register_event_schema('wrong', '{"properties": {"items": {"items": {"type": "string"}}}}');
		TRUNCATE prod_analytics.staging_events, prod_analytics.events, prod_analytics.quarantined_events;
		INSERT INTO prod_analytics.staging_events (event_id, event_type, payload, event_time, received_at)
		SELECT n, 'wrong', jsonb_build_object('items', (SELECT jsonb_agg(0) FROM generate_series(1, 100))), '2026-03-10', '2026-04-01'
		FROM generate_series(1, 20000) n});
	my $wrong = peak('20,000 rows with 100 violations each', 20_000);
	cmp_ok($wrong, '<', 400 * 1024, 'rows that are as wrong as can be take a bounded amount');
}

# A run that waits for a lock in the middle, so that another session can look at it.
stage(200_000, q{timestamptz '2026-03-10'});
$node->safe_psql('postgres', q{
	ANALYZE prod_analytics.staging_events;
	SELECT pg_stat_force_next_flush();
	CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
	CREATE TRIGGER wait AFTER INSERT ON prod_analytics.events FOR EACH ROW WHEN (NEW.event_id = 120002) EXECUTE FUNCTION public.wait()});

my $where = q{
	SELECT concat_ws(' ', (SELECT count(*) FROM prod_analytics.staging_events), (SELECT count(*) FROM prod_analytics.events),
		(SELECT count(*) FROM prod_analytics.quarantined_events), (SELECT count(*) FROM prod_analytics.etl_jobs), (SELECT count(*) FROM prod_analytics.job_progress))};
my $before = $node->safe_psql('postgres', $where);
my $progress = q{
	SELECT concat_ws(' ', p.job_name, p.rows_done, p.rows_expected, a.application_name)
	FROM prod_analytics.job_progress p JOIN pg_stat_activity a USING (pid)};

my ($in, $out, $timer) = ('', '', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
my $blocker = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, $timer);
$in = "SELECT 'locked' FROM pg_advisory_lock(1);\n";
$blocker->pump until $out =~ /locked/;

my $err = '';
my $run = IPC::Run::start(
	[ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-c', q{SET application_name = 'ingestion'}, '-c', 'SELECT prod_analytics.etl_ingest_events(1000000)' ],
	'<', \undef, '>', \my $result, '2>', \$err, $timer);
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}), 'the run is in the middle');
is($node->safe_psql('postgres', $progress), 'ingest_events 100000 200000 ingestion', 'job_progress tells how far it is');
is($node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM prod_analytics.job_progress}), 't', 'the run is cancelled');
$run->finish;
like($err, qr/canceling statement due to user request/, 'and says so');
is($node->safe_psql('postgres', $where), $before, 'everything is still staged');

$blocker->kill_kill;
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'});
is($node->safe_psql('postgres', q{SELECT r->>'rows' FROM prod_analytics.etl_ingest_events(1000000) r}), 200_000, 'the next run deals with it');
is($node->safe_psql('postgres', $progress), '', 'a run that is over is not shown');

$node->stop;
done_testing();
