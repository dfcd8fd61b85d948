# backfill_column() in the middle of 200,000 rows: cancelled, killed, and called again; it goes on where it was.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('backfill');
$node->init;
$node->append_conf('postgresql.conf', "log_min_messages = warning\nautovacuum = off\n");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', <<'SQL');
SET client_min_messages = warning;
CREATE EXTENSION prod_analytics CASCADE;
-- A key that has nothing to do with the places of the rows, and partitions, the last one of which is made first.
CREATE TABLE t (id uuid, part int, n int, updates int DEFAULT 0, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE t_3 PARTITION OF t FOR VALUES IN (3);
CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1);
CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2);
INSERT INTO t SELECT md5(n::text)::uuid, 1 + n % 3, n FROM generate_series(1, 200000) n;
ALTER TABLE t ADD COLUMN v text;
CREATE FUNCTION count_update() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updates := OLD.updates + 1; RETURN NEW; END $$;
CREATE TRIGGER count_update BEFORE UPDATE OF v ON t FOR EACH ROW EXECUTE FUNCTION count_update();
ANALYZE t;
SQL

# The call in a session of its own, with a pause between batches; returns its handle.
sub start_fill
{
	my ($pause) = @_;
	my %session = (out => '', err => '');

	$session{handle} = IPC::Run::start(
		[ 'psql', '-X', '-q', '-d', $node->connstr('app'), '-c', "SET application_name = 'fill'; SET prod_analytics.backfill_pause = $pause",
			'-c', q{CALL prod_analytics.backfill_column('t', 'v', $$'value ' || n$$, 1000)},
			'-A', '-t', '-c', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()} ],
		'<', \undef, '>', \$session{out}, '2>', \$session{err});
	return \%session;
}

my $backend = q{SELECT pid FROM pg_stat_activity WHERE application_name = 'fill' AND backend_type = 'client backend'};

# Waits until at least so many rows have been filled and committed.
sub wait_for_rows
{
	my ($count) = @_;

	return $node->poll_query_until('app', "SELECT count(v) >= $count FROM t");
}

# What the last run notes.
sub last_run
{
	my ($what) = @_;

	return $node->safe_psql('app', "SELECT $what FROM prod_analytics.etl_jobs ORDER BY job_id DESC LIMIT 1");
}

sub check_rows
{
	my ($when) = @_;

	is($node->safe_psql('app', q{SELECT count(*), count(*) FILTER (WHERE v <> 'value ' || n), count(*) FILTER (WHERE updates <> (v IS NOT NULL)::int) FROM t}),
		'200000|0|0', "$when: no row is lost, wrong or updated twice");
	return;
}

# Another session sees how far it is, in the log and in the view, to which a batch comes when the pause after it is over.
my $session = start_fill(100);
ok(wait_for_rows(21000), 'rows are filled');
is($node->safe_psql('app', q{SELECT job_name, rows_done BETWEEN 20000 AND 200000, rows_expected BETWEEN 150000 AND 250000 FROM prod_analytics.job_progress}),
	'backfill_column public.t.v|t|t', 'job_progress shows how far it is');
is(last_run(q{job_name, status, rows_processed BETWEEN 20000 AND 199999, (details->>'filled')::bigint = rows_processed, details->>'expression'}),
	q{backfill_column public.t.v|RUNNING|t|t|'value ' || n}, 'so does etl_jobs');

# A second call says that the first is going on.
my ($out, $err);
$node->psql('app', q{CALL prod_analytics.backfill_column('t', 'v', 'n::text')}, stdout => \$out, stderr => \$err);
like($err, qr/NOTICE:  another session is filling column "v" of public.t/, 'a second call leaves it alone');
is(last_run('status'), 'SKIPPED', 'and is logged');

# Cancelled: the lock is given back, what was done stays.
$node->safe_psql('app', "SELECT pg_cancel_backend(pid) FROM ($backend) b");
$session->{handle}->finish;
like($session->{err}, qr/canceling statement due to user request/, 'it can be cancelled');
is($session->{out}, "0\n", 'and gives the lock of the job back although its session lives on');
my $filled = $node->safe_psql('app', 'SELECT count(v) FROM t');
cmp_ok($filled, '<', 200000, 'in the middle');
check_rows('cancelled');
is($node->safe_psql('app', 'SELECT count(*) FROM prod_analytics.job_progress'), '0', 'job_progress shows it no more');

# Goes on, with locked rows behind it, and is killed.
$node->safe_psql('app', q{UPDATE t SET n = n WHERE part = 3});
my ($in, $held, $timer) = ('', '', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
my $holder = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-d', $node->connstr('app') ], '<', \$in, '>', \$held, $timer);
$in = "BEGIN; SELECT 'locked' FROM (SELECT count(*) FROM (SELECT FROM t WHERE v IS NULL AND id < 'c0000000-0000-0000-0000-000000000000' AND n % 1000 = 0 FOR UPDATE) r) l;\n";
$holder->pump until $held =~ /locked/;
$session = start_fill(20);
ok(wait_for_rows($filled + 60000), 'the next call goes on');
my $pid = $node->safe_psql('app', $backend);
like($pid, qr/^\d+$/, 'it is still running');
kill 'KILL', $pid;
$session->{handle}->finish;
like($session->{err}, qr/NOTICE:  run \d+ did not come to its end; going on with the rows after \([-0-9a-f]+, \d\) of public\.t_\d/, 'it says where it goes on');
eval { $in = "\\q\n"; $holder->finish; };

# restart_after_crash is off in test clusters, so the server is down.
$node->stop('immediate', fail_ok => 1);
$node->start;
check_rows('killed');
$filled = $node->safe_psql('app', 'SELECT count(v) FROM t');
cmp_ok($filled, '<', 200000, 'killed in the middle');
is(last_run(q{status, rows_processed > 0, (details->>'locked')::int > 0}), 'RUNNING|t|t', 'the log has what it noted last');
my ($looked_at, $locked) = split /\|/, last_run(q{(details->>'rows_before')::int + rows_processed, details->>'locked'});
is($looked_at, $filled + $locked, 'which is exactly what was committed');

# To the end: only what was not looked at before, and what was locked then.
$session = start_fill(0);
$session->{handle}->finish;
like($session->{err}, qr/NOTICE:  run \d+ did not come to its end; going on with the rows after \(/, 'the next call goes on');
unlike($session->{err}, qr/WARNING/, 'and leaves nothing');
is($node->safe_psql('app', 'SELECT count(v) FROM t'), '200000', 'all rows are filled');
check_rows('at the end');
is(last_run('status, rows_processed, details->>\'filled\''),
	join('|', 'SUCCESS', 200000 - $looked_at, 200000 - $filled), 'it looked at the rest only, and filled what had been locked');
is($node->safe_psql('app', q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status = 'RUNNING'}), '0', 'no run is left running');
is($node->safe_psql('app', q{SELECT string_agg(status, ' ' ORDER BY job_id) FROM prod_analytics.etl_jobs}), 'FAILED SKIPPED FAILED SUCCESS', 'the log tells what happened');

# After a success it starts anew, and finds nothing to do.
$session = start_fill(0);
$session->{handle}->finish;
unlike($session->{err}, qr/did not come to its end/, 'the next call starts anew');
is(last_run('status, rows_processed, details->>\'filled\''), 'SUCCESS|200000|0', 'and finds nothing to fill');

# Partitions that come and go meanwhile, while others insert and update.
$node->safe_psql('app', 'ALTER TABLE t ADD COLUMN w int; ALTER TABLE t DISABLE TRIGGER count_update');
append_to_file($node->basedir . '/write.sql', <<'SQL');
\set id random(1, 200000)
UPDATE t SET n = n WHERE id = md5((:id)::text)::uuid;
INSERT INTO t (id, part, n, w) VALUES (gen_random_uuid(), 1, :id, :id);
SQL
my ($load_out, $load_err) = ('', '');
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-T', '600', '-f', $node->basedir . '/write.sql', $node->connstr('app') ],
	'<', \undef, '>', \$load_out, '2>', \$load_err);
$session = { out => '', err => '' };
$session->{handle} = IPC::Run::start(
	[ 'psql', '-X', '-q', '-d', $node->connstr('app'), '-c', q{CALL prod_analytics.backfill_column('t', 'w', 'n', 500)} ],
	'<', \undef, '>', \$session->{out}, '2>', \$session->{err});
ok($node->poll_query_until('app', 'SELECT count(w) > 5000 FROM t'), 'a fill under load has begun');
$node->safe_psql('app', q{CREATE TABLE t_4 PARTITION OF t FOR VALUES IN (4); INSERT INTO t SELECT gen_random_uuid(), 4, n FROM generate_series(1, 1000) n; ALTER TABLE t DETACH PARTITION t_2; DROP TABLE t_2});
$session->{handle}->finish;
$load->signal('INT');
$load->finish;
is($load_err =~ /ERROR|deadlock/ ? $load_err : '', '', 'no client got an error');
unlike($session->{err}, qr/ERROR|WARNING/, 'nor did the fill');
is($node->safe_psql('app', 'SELECT count(*) FILTER (WHERE w IS DISTINCT FROM n), count(*) FILTER (WHERE part = 4) FROM t'), '0|1000',
	'all rows are filled, those of a partition made meanwhile too');

done_testing();
