# Eight clients that load events, and a session that ingests them, all through PgBouncer, where each
# transaction may be on another connection: no event is lost, none is counted twice.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use constant {
	CLIENTS => 8,
	TRANSACTIONS => 40,    # of each client
	ROWS => 50,            # of each transaction
};

my ($program) = grep { -x } '/usr/sbin/pgbouncer', map { "$_/pgbouncer" } split /:/, $ENV{PATH};

plan skip_all => 'PgBouncer is needed: apt-get install pgbouncer' if !defined $program;
plan skip_all => 'PgBouncer does not run as root' if $> == 0;

my $directory = PostgreSQL::Test::Utils::tempdir_short();
my $log = "$PostgreSQL::Test::Utils::log_path/pgbouncer.log";
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $node = PostgreSQL::Test::Cluster->new('pgbouncer');
my $user = getpwuid $>;
my $bouncer;

END
{
	my $status = $?;

	$bouncer->kill_kill if $bouncer;
	$? = $status;
}

# How to reach the database by way of PgBouncer.
sub by_bouncer
{
	return "host=$directory port=$port dbname=app user=$user";
}

sub start_bouncer
{
	my ($node_host, $node_port) = ($node->host, $node->port);
	my $ready = 0;

	append_to_file("$directory/users.txt", qq{"$user" ""\n});
	append_to_file("$directory/pgbouncer.ini", <<"INI");
[databases]
app = host=$node_host port=$node_port dbname=app

[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $directory
auth_type = trust
auth_file = $directory/users.txt
pool_mode = transaction
default_pool_size = 4
max_client_conn = 50
server_connect_timeout = 180
query_wait_timeout = 0
client_login_timeout = 0
logfile = $log
pidfile = $directory/pgbouncer.pid
INI
	$bouncer = IPC::Run::start([ $program, '-q', "$directory/pgbouncer.ini" ], '<', \undef, '>', \my $out, '2>', \my $err);
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		BAIL_OUT("PgBouncer ended: $err") if !$bouncer->pumpable;
		$ready = run_log([ 'psql', '-X', '-q', '-d', by_bouncer(), '-c', '' ]);
		last if $ready;
		sleep 0.1;
	}
	BAIL_OUT('PgBouncer does not accept connections') if !$ready;
	return;
}

# A file with a script for pgbench.
sub script
{
	my ($name, $text) = @_;

	append_to_file("$directory/$name.sql", $text);
	return "$directory/$name.sql";
}

sub start_pgbench
{
	my ($name, @arguments) = @_;
	my %run = (name => $name, out => '', err => '');

	$run{handle} = IPC::Run::start([ 'pgbench', '-n', @arguments, by_bouncer() ], '<', \undef, '>', \$run{out}, '2>', \$run{err});
	return \%run;
}

sub ends_well
{
	my ($run) = @_;

	ok($run->{handle}->finish && $run->{err} !~ /ERROR|aborted|WARNING/, "$run->{name}: no error")
	  or diag($run->{err});
	return;
}

$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', q{
	SET client_min_messages = warning;
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
	INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
	INSERT INTO prod_analytics.users (user_id, org_id, email)
	SELECT n, 1, format('user%s@example.com', n) FROM generate_series(1, 100) n});
start_bouncer();

# Each row has its twin in the same transaction or none; one of fifty is of a user whom nobody knows, one
# has no number, and one in a month that has no partition yet.
my $load = script('load', q{
	BEGIN;
	INSERT INTO prod_analytics.staging_events (event_id, user_id, event_type, event_time, received_at)
	SELECT CASE WHEN n = 3 THEN NULL ELSE 1000000 + txid_current() * 100 + CASE n WHEN 1 THEN 2 ELSE n END END,
		CASE n WHEN 4 THEN 999 ELSE n END, CASE n WHEN 3 THEN 'numberless' ELSE 'x' END,
		CASE n WHEN 5 THEN timestamptz '2022-01-15 00:00:00+00' + :client_id * interval '1 month' ELSE '2026-03-10 00:00:00+00' END,
		'2026-03-10 00:00:00+00'
	FROM generate_series(1, 50) n;
	COMMIT;
});
my $ingest = script('ingest', "SELECT prod_analytics.etl_ingest_events(700);\n");

my $loading = start_pgbench('loading', '-c', CLIENTS, '-j', 2, '-t', TRANSACTIONS, '-f', $load);
my $ingesting = start_pgbench('ingesting', '-c', 1, '-t', 60, '-f', $ingest);
my $also_ingesting = start_pgbench('ingesting at the same time', '-c', 1, '-t', 60, '-M', 'extended', '-f', $ingest);

ends_well($_) foreach $loading, $ingesting, $also_ingesting;

my $transactions = CLIENTS * TRANSACTIONS;
my $counts = q{
	SELECT concat_ws(' ', (SELECT count(*) FROM prod_analytics.staging_events), (SELECT count(*) FROM prod_analytics.events),
		coalesce(sum((details->>'duplicates')::bigint), 0), (SELECT count(*) FROM prod_analytics.quarantined_events),
		coalesce(sum((details->>'inserted')::bigint), 0), coalesce(sum((details->>'quarantined')::bigint), 0))
	FROM prod_analytics.etl_jobs
	WHERE job_name = 'ingest_events' AND status = 'SUCCESS'};
my ($staged, $events, $duplicates, $quarantined, $inserted_by_log, $quarantined_by_log) = split / /, $node->safe_psql('app', $counts);

is($staged + $events + $duplicates + $quarantined, $transactions * ROWS, 'in the middle all rows are there');
is("$events $quarantined", "$inserted_by_log $quarantined_by_log", 'and the log agrees');

run_log([ 'psql', '-X', '-q', '-d', by_bouncer(), '-c', 'SELECT prod_analytics.etl_ingest_events(1000000)' ]);
is( $node->safe_psql('app', $counts),
	join(' ', 0, map { $_ * $transactions } ROWS - 2, 1, 1, ROWS - 2, 1),
	'in the end all rows are where they belong');
is($node->safe_psql('app', q{SELECT count(*), count(DISTINCT event_id) FROM prod_analytics.events WHERE event_type = 'numberless'}),
	"$transactions|$transactions", 'each row without a number is an event');
is($node->safe_psql('app', q{SELECT count(DISTINCT tableoid) FROM prod_analytics.events WHERE event_time < '2023-01-01'}),
	CLIENTS, 'partitions were made');
is($node->safe_psql('app', q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status NOT IN ('SUCCESS', 'SKIPPED')}), 0, 'no run failed');

# What a run changes in its session ends with it: the next client on the connection sees none of it.
is( $node->safe_psql('app', q{
		SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}),
	0, 'no connection keeps the lock of the job');
my $settings = q{SELECT concat_ws(' ', current_setting('search_path'), current_setting('TimeZone'), current_user)};
my ($by_bouncer, $directly) = ('', $node->safe_psql('app', $settings));
IPC::Run::run([ 'psql', '-X', '-A', '-t', '-q', '-d', by_bouncer(), '-c', $settings ], '>', \$by_bouncer);
is($by_bouncer, "$directly\n", 'no connection keeps a setting or an identity');

$bouncer->kill_kill;
undef $bouncer;
$node->stop;
done_testing();
