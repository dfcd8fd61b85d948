# Ingestion that is killed at random moments, and the server with it: each staged row is in one place,
# the log tells how many are where, and no event is there twice.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Crash qw(kill_server);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use constant {
	BLOCKS => 2000,    # of 100 rows
	CRASHES => 20,
};

# INGEST_CRASH_SEED repeats the moments of another run, as far as the machine does.
my $seed = $ENV{INGEST_CRASH_SEED} // time;
note("INGEST_CRASH_SEED=$seed");
srand $seed;

my $node = PostgreSQL::Test::Cluster->new('ingest_crash');
my $directory = PostgreSQL::Test::Utils::tempdir();

# Of each 100 rows some have no event_type, an unknown user, a payload that violates the schema, a time
# out of range, the number and time of row 50, the number of row 51 at another time, no number, a time
# without a partition; in an order that has nothing to do with it.
my $stage = q{
	INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, payload, event_time, received_at)
	SELECT
		CASE
			WHEN k = 4 THEN 10000000 + n - k + 50
			WHEN k = 5 THEN 10000000 + n - k + 51
			WHEN k IN (6, 7, 8) THEN NULL
			ELSE 10000000 + n
		END,
		CASE k WHEN 1 THEN 9999 ELSE 1 + n % 100 END,
		CASE WHEN k = 0 THEN NULL WHEN k = 2 THEN 'purchase' WHEN k IN (6, 7, 8) THEN 'numberless' ELSE 'view' END,
		jsonb_build_object('device', 'phone', 'n', n),
		CASE k
			WHEN 3 THEN timestamptz '1999-01-01 00:00:00+00'
			WHEN 5 THEN timestamptz '2026-03-01 01:00:00+00' + (n / 100) * interval '10 minutes'
			WHEN 9 THEN timestamptz '2020-01-15 00:00:00+00' + (n / 100 % 30) * interval '1 month'
			ELSE timestamptz '2026-03-01 00:00:00+00' + (n / 100) * interval '10 minutes'
		END,
		'2026-04-01 00:00:00+00'
	FROM (SELECT n, n % 100 AS k FROM generate_series(0, $blocks * 100 - 1) n) numbered
	ORDER BY md5(n::text)} =~ s/\$blocks/BLOCKS/er;

# How many rows are staged, inserted, duplicates and quarantined: by the log, and by what is there.
my $by_log = q{
	SELECT concat_ws(' ', (SELECT count(*) FROM prod_analytics.staging_events),
		coalesce(sum((details->>'inserted')::bigint), 0), coalesce(sum((details->>'duplicates')::bigint), 0),
		coalesce(sum((details->>'quarantined')::bigint), 0), coalesce(sum(rows_processed), 0))
	FROM prod_analytics.etl_jobs
	WHERE job_name = 'ingest_events' AND status = 'SUCCESS'};
my $by_tables = qq{
	SELECT concat_ws(' ', staged, events, total - staged - events - quarantined, quarantined, total - staged)
	FROM (SELECT @{[ BLOCKS * 100 ]} AS total, (SELECT count(*) FROM prod_analytics.staging_events) AS staged,
		(SELECT count(*) FROM prod_analytics.events) AS events,
		(SELECT count(*) FROM prod_analytics.quarantined_events) AS quarantined) counts};

sub psql
{
	my ($query) = @_;

	return $node->safe_psql('postgres', $query);
}

# Each row is in one place, and the log agrees.
sub check_rows
{
	my ($when) = @_;
	my $counts = psql($by_tables);

	is(psql($by_log), $counts, "$when: the log tells where the rows are");
	is( psql(
			q{
			SELECT concat_ws(' ',
				(SELECT count(*) - count(DISTINCT (event_id, event_time)) FROM prod_analytics.events),
				(SELECT count(*) FROM prod_analytics.etl_jobs WHERE status <> 'SUCCESS'))}),
		'0 0',
		"$when: no event is there twice, no run is left half-way");
	return $counts;
}

# Commits a batch.
sub ingest_batch
{
	my $size = 500 + int rand 4000;

	is(psql("SELECT r->>'status' FROM prod_analytics.etl_ingest_events($size) r"), 'SUCCESS', "a batch of $size rows");
	return;
}

# A session that ingests until it is killed: one batch with all that is staged, or small ones, not so many that nothing
# would be left on a fast machine.
sub start_ingestion
{
	my ($size) = @_;
	my %session = (out => '', err => '');
	my $script = "$directory/ingest_$size.sql";

	append_to_file($script, "SELECT prod_analytics.etl_ingest_events($size);\n") if !-f $script;
	$session{handle} = IPC::Run::start(
		[ 'pgbench', '-n', '-t', 1_000_000, '-R', 50, '-f', $script, $node->connstr('postgres') . ' application_name=ingestion' ],
		'<', \undef, '>', \$session{out}, '2>', \$session{err});
	return \%session;
}

# The process of that session's backend, once it ingests.
sub ingesting_backend
{
	my $backend = q{FROM pg_stat_activity WHERE application_name = 'ingestion' AND query LIKE '%etl_ingest_events%'};

	$node->poll_query_until('postgres', "SELECT count(*) = 1 $backend") or BAIL_OUT('the ingestion does not begin');
	return psql("SELECT pid $backend");
}

# Ends the ingestion and the server; returns how.
sub crash
{
	my ($round, $pid) = @_;

	if ($round % 5 == 3)
	{
		$node->stop('immediate');
		return 'immediate stop';
	}
	if ($round % 5 == 0)
	{
		kill_server($node);
		return 'server killed';
	}

	# restart_after_crash is off in test clusters: the server goes down with the backend.
	kill 'KILL', $pid;
	return 'backend killed';
}

$node->init;
$node->append_conf('postgresql.conf', "log_min_messages = warning\n");
$node->start;
psql(q{
	SET client_min_messages = warning;
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
	INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
	INSERT INTO prod_analytics.users (user_id, org_id, email)
	SELECT n, 1, format('user%s@example.com', n) FROM generate_series(1, 100) n});
psql($stage);

# A run of many rows never comes to its end: it is there to be killed.
psql(q{
	CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
	CREATE TRIGGER linger BEFORE UPDATE ON prod_analytics.etl_jobs FOR EACH ROW WHEN (NEW.rows_processed > 10000) EXECUTE FUNCTION linger()});
is(check_rows('staged'), BLOCKS * 100 . ' 0 0 0 0', 'all rows are staged');

my %crashes;
foreach my $round (1 .. CRASHES)
{
	ingest_batch() if $round % 2;

	my $session = start_ingestion($round % 3 == 1 ? 10 + int rand 60 : 1_000_000);
	my $pid = ingesting_backend();
	my $delay = rand 0.8;

	# the moment is to be a random one
	sleep $delay;

	my $how = crash($round, $pid);

	$session->{handle}->finish;
	$crashes{$how}++;
	$node->stop('immediate', fail_ok => 1) if $how eq 'backend killed';
	$node->start;
	check_rows(sprintf 'round %d, %s after %.3f s', $round, $how, $delay);
}
note(join ', ', map { "$_: $crashes{$_}" } sort keys %crashes);
cmp_ok(psql('SELECT count(*) FROM prod_analytics.staging_events'), '>', 0, 'the last run was cut off, too');
psql('DROP TRIGGER linger ON prod_analytics.etl_jobs');

# To the end: of the rows 50 and 4, and of 51 and 5, one goes in, whichever came first.
psql('SELECT prod_analytics.etl_ingest_events(1000000)');
is(check_rows('finished'),
	join(' ', 0, map { $_ * BLOCKS } 94, 1, 5, 100), 'all rows are where they belong');
is( psql(q{
		SELECT string_agg(format('%s: %s', code, rows), ', ' ORDER BY code)
		FROM (SELECT r.reason->>'code' AS code, count(*) AS rows
			FROM prod_analytics.quarantined_events, jsonb_array_elements(reasons) r (reason)
			WHERE r.reason->>'code' <> 'schema_violation' OR r.reason->>'message' LIKE '%order_id%'
			GROUP BY 1) counts}),
	join(', ', map { "$_: " . BLOCKS } qw(duplicate_event_id event_time_out_of_range missing_field schema_violation unknown_user)),
	'what is set aside, and why');
is(psql(q{SELECT count(*) FROM prod_analytics.events WHERE event_type = 'numberless'}), 3 * BLOCKS, 'each row without a number is an event');
is(psql('SELECT count(*) FROM prod_analytics.events_default'), 0, 'no event is in the default partition');
is(psql(q{SELECT count(DISTINCT tableoid) FROM prod_analytics.events WHERE event_time < '2023-01-01'}), 30, 'partitions were made');

$node->stop;
done_testing();
