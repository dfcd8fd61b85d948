# Partitions under load and after crashes: ten sessions that make the same ones, a default partition
# with a million rows that is drained while others insert, cancelled and killed in the middle.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = PostgreSQL::Test::Cluster->new('partition');
$node->init;
$node->append_conf('postgresql.conf', "log_min_messages = warning\n");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'SET client_min_messages = warning; CREATE EXTENSION prod_analytics CASCADE');

my $directory = PostgreSQL::Test::Utils::tempdir;

# A file with a script for pgbench.
sub script
{
	my ($name, $text) = @_;

	append_to_file("$directory/$name.sql", $text);
	return "$directory/$name.sql";
}

# Ten sessions, each three times: nobody gets an error, each partition is made once.
my $ensure = script('ensure', "SELECT prod_analytics.ensure_partitions();\n");
$node->command_ok([ 'pgbench', '-n', '-c', '10', '-j', '2', '-t', '3', '-f', $ensure, $node->connstr('app') ],
	'ten sessions make partitions at once');
is($node->safe_psql('app', q{SELECT count(*) FROM pg_inherits WHERE inhparent = 'prod_analytics.events'::regclass}),
	'17', 'each partition was made once');

my $maintain = script('maintain', "CALL prod_analytics.maintain_partitions();\n");
$node->command_ok([ 'pgbench', '-n', '-c', '10', '-j', '2', '-t', '2', '-f', $maintain, $node->connstr('app') ],
	'ten sessions maintain partitions at once');
is($node->safe_psql('app', q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status NOT IN ('SUCCESS', 'SKIPPED')}),
	'0', 'each run succeeded or was skipped');
cmp_ok($node->safe_psql('app', q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status = 'SUCCESS'}),
	'>=', 1, 'some run did the work');

# A million rows of twelve months in the default partition of a table that another refers to.
$node->safe_psql('app', <<'SQL');
CREATE TABLE t (id bigint, k timestamptz, filler text, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE t_default PARTITION OF t DEFAULT;
INSERT INTO t SELECT n, timestamptz '2024-01-01' + n * interval '366 days' / 1000001, 'x' FROM generate_series(1, 1000000) n;
CREATE TABLE child (id bigint, k timestamptz, FOREIGN KEY (id, k) REFERENCES t ON DELETE CASCADE);
INSERT INTO child SELECT id, k FROM t WHERE id % 1000 = 0;
CREATE TABLE accepted (id bigint);
CREATE SEQUENCE ids START 2000000;
SELECT prod_analytics.manage_partitions('t', 'k', '1 month', ahead => 0, behind => 0);

-- Inserts a row, again when its partition was made in that moment, and remembers that it was accepted.
CREATE PROCEDURE insert_row() LANGUAGE plpgsql AS $$
DECLARE
	new_id CONSTANT bigint := nextval('ids');
BEGIN
	FOR attempt IN 1 .. 100 LOOP
		BEGIN
			INSERT INTO t VALUES (new_id, timestamptz '2024-01-01' + random() * interval '366 days', 'y');
			INSERT INTO accepted VALUES (new_id);
			EXIT;
		EXCEPTION WHEN check_violation THEN
			NULL;
		END;
	END LOOP;
END $$;
SQL

# Whether every row that was accepted is there once, and no child was lost.
sub check_rows
{
	my ($when) = @_;

	is($node->safe_psql('app', <<'SQL'), '1000000|0|0|1000', "$when: no row lost, none twice, no child lost");
SELECT (SELECT count(DISTINCT id) FROM t WHERE id <= 1000000),
	(SELECT count(*) - count(DISTINCT id) FROM t),
	(SELECT count(*) FROM (SELECT id FROM accepted EXCEPT ALL SELECT id FROM t WHERE id >= 2000000) lost),
	(SELECT count(*) FROM child JOIN t USING (id, k))
SQL
	return;
}

# The maintenance in a session of its own; returns its handle and the process of its backend.
sub start_maintenance
{
	my %session = (out => '', err => '');

	$session{handle} = IPC::Run::start(
		[ 'psql', '-X', '-q', '-d', $node->connstr('app'), '-c', q{SET application_name = 'maintenance'}, '-c', q{CALL prod_analytics.maintain_partitions('t')},
			'-A', '-t', '-c', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()} ],
		'<', \undef, '>', \$session{out}, '2>', \$session{err});
	return \%session;
}

# Waits until at least so many partitions are made.
sub wait_for_partitions
{
	my ($count) = @_;

	return $node->poll_query_until('app', "SELECT count(*) > $count FROM pg_inherits WHERE inhparent = 't'::regclass");
}

my $backend = q{SELECT pid FROM pg_stat_activity WHERE application_name = 'maintenance' AND backend_type = 'client backend'};

# Draining while eight clients insert, cancelled after some months.
my $insert = script('insert', "CALL insert_row();\n");
my ($load_out, $load_err) = ('', '');
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '8', '-j', '2', '-T', '8', '-f', $insert, $node->connstr('app') ],
	'<', \undef, '>', \$load_out, '2>', \$load_err);
my $session = start_maintenance();
ok(wait_for_partitions(3), 'months are drained');
$node->safe_psql('app', "SELECT pg_cancel_backend(pid) FROM ($backend) b");
$session->{handle}->finish;
like($session->{err}, qr/canceling statement due to user request/, 'the maintenance can be cancelled');
is($session->{out}, "0\n", 'and gives the lock of the job back although its session lives on');
like($session->{err}, qr/created public\.t_p2024\d\d01, \d+ rows moved/, 'the maintenance tells how far it is');
check_rows('cancelled');
is($node->safe_psql('app', q{SELECT details->>'rows_moved' <> '0' FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1}), 't',
	'the log tells how far it came');

$load->finish;
is($load_err =~ /ERROR|aborted/ ? $load_err : '', '', 'no client that inserted got an error');
cmp_ok($node->safe_psql('app', 'SELECT count(*) FROM accepted'), '>', 100, 'many rows were inserted meanwhile');

# Goes on where it was, and is killed.
$session = start_maintenance();
ok(wait_for_partitions(6), 'the next run goes on');
my $pid = $node->safe_psql('app', $backend);
like($pid, qr/^\d+$/, 'it is still running');
kill 'KILL', $pid;
$session->{handle}->finish;

# restart_after_crash is off in test clusters, so the server is down.
$node->stop('immediate', fail_ok => 1);
$node->start;
check_rows('killed');

# To the end.
$session = start_maintenance();
$session->{handle}->finish;
is($node->safe_psql('app', 'SELECT count(*) FROM t_default'), '0', 'the default partition is empty in the end');
is($node->safe_psql('app', q{SELECT count(*) FROM pg_inherits WHERE inhparent = 't'::regclass}), '14', 'twelve months, the current one and the default');
check_rows('drained');
is($node->safe_psql('app', q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status = 'RUNNING'}), '0', 'no run is left running');
is($node->safe_psql('app', q{SELECT status FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1}), 'SUCCESS', 'the last run succeeded');
is($node->safe_psql('app', q{SELECT count(*) > 0 FROM prod_analytics.etl_jobs WHERE status = 'FAILED' AND details->>'error' LIKE '%terminated%'}), 't',
	'runs that were cut off are marked as failed');

# A query that takes long delays the maintenance, and nobody else.
my ($in, $out, $timer) = ('', '', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
my $holder = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-d', $node->connstr('app') ], '<', \$in, '>', \$out, $timer);
$in = "BEGIN; SELECT count(*) > 0 FROM t;\n";
$holder->pump until $out =~ /t/;
$node->safe_psql('app', q{SELECT prod_analytics.manage_partitions('t', 'k', '1 month', ahead => 3, behind => 0); ALTER DATABASE app SET prod_analytics.lock_retries = 1000});
$session = start_maintenance();
ok($node->poll_query_until('app', "SELECT count(*) = 1 FROM ($backend) b"), 'the maintenance has begun');
my $passed = 0;
foreach my $n (1 .. 20)
{
	$node->safe_psql('app', "SET statement_timeout = '60s'; SELECT count(*) FROM t WHERE id = $n; CALL insert_row()");
	$passed++;
	usleep(50_000);
}
is($passed, 20, 'readers and writers pass a maintenance that waits');
is($node->safe_psql('app', "SELECT count(*) FROM ($backend) b"), '1', 'which is still waiting');
$in = "COMMIT;\n\\q\n";
$holder->finish;
$session->{handle}->finish;
is($node->safe_psql('app', q{SELECT status, details->'partitions_created', details->'waits'->>0 ~ '^waited .* for a lock on "t_default", which took \d+ attempts$' FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1}),
	'SUCCESS|3|t', 'it is done when the query is, and the log tells what it waited for');

# A transaction that has the locks of ours in the other order: neither gets an error, ours gives way.
$node->safe_psql('app', <<'SQL');
CREATE TABLE referenced (id bigint PRIMARY KEY, n int);
INSERT INTO referenced VALUES (1, 0);
CREATE TABLE d (id bigint REFERENCES referenced, k timestamptz) PARTITION BY RANGE (k);
CREATE TABLE d_default PARTITION OF d DEFAULT;
SELECT prod_analytics.manage_partitions('d', 'k', '1 month', ahead => 0, behind => 0);
SQL
my ($ours_failed, $theirs_failed) = (0, 0);
foreach my $round (1 .. 12)
{
	my ($their_in, $their_out, $their_err) = ('', '', '');
	my $theirs = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-d', $node->connstr('app') ],
		'<', \$their_in, '>', \$their_out, '2>', \$their_err, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	# When the machine stalls for a second both look for a deadlock, and the first to do so gets the error.
	$their_in = "SET deadlock_timeout = '3min'; BEGIN; UPDATE referenced SET n = n + 1 RETURNING 'updated';\n";
	$theirs->pump until $their_out =~ /updated/;

	my ($our_out, $our_err) = ('', '');
	my $ours = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-d', $node->connstr('app'),
			'-c', q{SET application_name = 'ours'}, '-c', "SELECT prod_analytics.ensure_partitions('d', timestamptz '2020-01-15' + $round * interval '1 month')" ],
		'<', \undef, '>', \$our_out, '2>', \$our_err);
	$node->poll_query_until('app', q{SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'ours' AND NOT l.granted});

	$their_in = "INSERT INTO d VALUES (1, '2050-01-01'); COMMIT;\n\\q\n";
	$theirs->finish;
	$ours->finish;
	$theirs_failed++ if $their_err ne '';
	$ours_failed++ if $our_out ne "1\n";
}
is($theirs_failed, 0, 'the others get no error');
is($ours_failed, 0, 'ours gets its locks in the end');
is($node->safe_psql('app', 'SELECT count(*) FROM d_default'), '12', 'and no row is lost');

done_testing();
