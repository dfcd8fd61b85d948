# Commands that leave something behind, or take the process along; sessions that wait for a run; roles and settings that
# change meanwhile.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('worker_edges');

sub psql
{
	my ($query) = @_;

	return $node->safe_psql('postgres', $query);
}

# Waits until a query returns true.
sub comes_true
{
	my ($query, $name) = @_;

	ok($node->poll_query_until('postgres', $query), $name);
	return;
}

# Schedules a job that will not be due.
sub schedule
{
	my ($name, $command, $role) = @_;

	psql(qq{SET ROLE $role; SELECT prod_analytics.schedule_job('$name', '100 years', \$c\$$command\$c\$)});
	return;
}

# Schedules a job, runs it and returns what is told of it.
sub run
{
	my ($name, $command, $role) = @_;

	schedule($name, $command, $role // 'analyst');
	return psql(qq{SELECT concat_ws(' ', r->>'status', r->>'sqlstate', r->>'error') FROM prod_analytics.run_job('$name') r});
}

# Ends the runners that have nothing to do, so that the next run is in a new session.
sub end_runners
{
	psql(q{SELECT pg_terminate_backend(pid) FROM prod_analytics.worker_status WHERE process = 'runner'});
	comes_true(q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process = 'runner'}, 'runners are ended');
	return;
}

sub configure
{
	my ($line) = @_;

	$node->append_conf('postgresql.conf', $line);
	$node->reload;
	return;
}

my $idle = q{SELECT pid FROM prod_analytics.worker_status WHERE process = 'runner' AND state = 'idle' AND owner = };

$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'prod_analytics'
prod_analytics.databases = 'postgres'
max_worker_processes = 16
wal_level = logical
CONF
$node->start;
psql(q{
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.pause_job(job_name) FROM prod_analytics.jobs;
	CREATE ROLE analyst LOGIN IN ROLE analytics_operator;
	CREATE TABLE seen (what text, who name DEFAULT session_user);
	GRANT ALL ON seen TO PUBLIC;
});

#
# What a command leaves behind
#

is(run('temporary', 'CREATE TEMP TABLE left_over (a int)'), 'SUCCESS', 'a temporary table is made');
is(run('temporary', 'CREATE TEMP TABLE left_over (a int)'), 'SUCCESS', 'and again, in the same process');
psql(q{SELECT pg_create_logical_replication_slot('slot', 'pgoutput')});
is(run('slot', q{SELECT pg_logical_slot_get_binary_changes('slot', NULL, NULL, 'no', 'option')}, 'postgres'),
	'FAILED XX000 unrecognized pgoutput option: no', 'a replication slot is read, which fails') for 1 .. 2;
psql(q{SELECT pg_drop_replication_slot('slot')});

my $before = psql($idle . q{'analyst'});
is(run('cursor', q{DO $$ DECLARE n int; BEGIN FOR n IN SELECT generate_series(1, 300) LOOP COMMIT; RAISE 'in a loop'; END LOOP; END $$}),
	'FAILED P0001 in a loop', 'a loop over a query fails after a COMMIT');
comes_true(qq{SELECT state = 'idle' FROM prod_analytics.worker_status WHERE pid = $before}, 'and its process goes on');
my $offset = -s $node->logfile;
end_runners();
unlike(slurp_file($node->logfile, $offset), qr/STATEMENT:/, 'a process that ends when it is idle is at no statement');

is(run('role', 'SET ROLE analytics_operator'), 'SUCCESS', 'a command changes the role');
is(run('read only', 'SET default_transaction_read_only = on'), 'SUCCESS', 'a command makes its session read-only, and its end is logged');
is(run('serializable', q{SET default_transaction_isolation = 'serializable'}), 'SUCCESS', 'likewise serializable');
psql('ALTER ROLE analyst SET default_transaction_read_only = on');
end_runners();
is(run('reads', 'SELECT 1'), 'SUCCESS', 'the job of a role that only reads');
is(run('writes', 'DELETE FROM seen'), 'FAILED 25006 cannot execute DELETE in a read-only transaction', 'and only reads');
psql(q{ALTER ROLE analyst RESET default_transaction_read_only; ALTER ROLE analyst SET statement_timeout = '500ms'});
end_runners();
is(run('no timeout', 'SET statement_timeout = 0; SELECT pg_sleep(1)'), 'SUCCESS', 'a command switches statement_timeout off');
psql('ALTER ROLE analyst RESET statement_timeout');
end_runners();

is(run('ages', 'SELECT pg_sleep(1.5)'), 'SUCCESS', 'a process grows older');
is(run('now', q{SELECT jsonb_build_object('error', clock_timestamp() - now() > interval '1 second')}), 'SUCCESS false', 'and still knows what time it is');

# temp_buffers cannot be changed any more in a session that has used temporary tables.
is(run('temporary', 'CREATE TEMP TABLE kept AS SELECT 1'), 'SUCCESS', 'a process has used temporary tables');
is(run('buffers', q{SET temp_buffers = '16MB'; CREATE TEMP TABLE kept AS SELECT 1}), 'SUCCESS', 'a later command may say how much memory they take');

# Runs a command that schedule_job() would refuse, and a dump may hold.
sub run_unchecked
{
	my ($name, $command) = @_;

	schedule($name, 'SELECT 1', 'analyst');
	psql(qq{SET session_replication_role = replica; UPDATE prod_analytics.jobs SET command = \$c\$$command\$c\$ WHERE job_name = '$name'});
	return psql(qq{SELECT concat_ws(' ', r->>'status', r->>'sqlstate', r->>'error') FROM prod_analytics.run_job('$name') r});
}

is(run_unchecked('copy out', q{COPY (SELECT 'LOG:  forged') TO STDOUT}), 'FAILED 0A000 a job has no client to COPY to or from', 'there is nobody to copy to');
is(run_unchecked('copy in', 'COPY seen FROM STDIN'), 'FAILED 0A000 a job has no client to COPY to or from', 'nor from');
is(run('says much', q{SELECT jsonb_build_object('status', 'FAILED', 'sqlstate', repeat('x', 9000), 'error', 'much')}),
	'FAILED ' . 'x' x 9000 . ' much', 'a result that is too long to be notified is logged');

# The log takes no success.
psql(q{
	ALTER TABLE prod_analytics.etl_jobs ADD CONSTRAINT modest CHECK (status <> 'SUCCESS') NOT VALID;
	TRUNCATE seen});
is(run('unlogged', q{INSERT INTO seen VALUES ('unlogged')}),
	'FAILED 23514 the end of the run could not be logged: new row for relation "etl_jobs" violates check constraint "modest"', 'a run whose end cannot be logged fails, and tells why');
is(psql(q{SELECT details->>'detail' FROM prod_analytics.etl_jobs WHERE job_name = 'unlogged'}), 'The command had come to its end, and what it did is there.', 'and what is intact');
is(psql(q{SELECT count(*) FROM seen WHERE what = 'unlogged'}), 1, 'as it is');
psql(q{
	ALTER TABLE prod_analytics.etl_jobs DROP CONSTRAINT modest;
	ALTER TABLE prod_analytics.etl_jobs ADD CONSTRAINT modest CHECK (NOT details ? 'detail') NOT VALID});
$offset = -s $node->logfile;
is(run('unloggable', q{DO $$ BEGIN RAISE 'of its own' USING DETAIL = 'detailed'; END $$}), 'FAILED server or worker terminated', 'when the log does not take that either, the process ends');
like(slurp_file($node->logfile, $offset), qr/ERROR:  new row for relation "etl_jobs" violates check constraint "modest"/, 'and the server log tells why');
psql('ALTER TABLE prod_analytics.etl_jobs DROP CONSTRAINT modest');

#
# Processes that end, and roles that change
#

is(run('ends', 'SELECT pg_terminate_backend(pg_backend_pid())'), 'FAILED server or worker terminated', 'run_job() tells how a run ended whose process did');
psql('REVOKE CONNECT ON DATABASE postgres FROM PUBLIC');
is(run('cannot connect', 'SELECT 1'), 'FAILED 08006 the process for the run ended before it began', 'and of one that could not begin');
psql('GRANT CONNECT ON DATABASE postgres TO PUBLIC');

# Another role schedules a job of the same name when the old one has just been given to its owner's process.
is(run('takeover', q{INSERT INTO seen VALUES ('old')}, 'postgres'), 'SUCCESS', 'a job of one role');
my $runner = psql($idle . q{'postgres'});
kill 'STOP', $runner;
psql(q{UPDATE prod_analytics.job_state SET next_run_at = now() WHERE job_name = 'takeover'; UPDATE prod_analytics.jobs SET scheduled_at = now()});
comes_true(qq{SELECT state = 'assigned' FROM prod_analytics.worker_status WHERE pid = $runner}, 'is given to its process');
psql(q{SELECT prod_analytics.unschedule_job('takeover')});
schedule('takeover', q{INSERT INTO seen VALUES ('new')}, 'analyst');
kill 'CONT', $runner;
comes_true(qq{SELECT state = 'idle' FROM prod_analytics.worker_status WHERE pid = $runner}, 'which goes on when the job is that of another role');
is(psql(q{SELECT count(*) FROM seen WHERE what = 'new'}), 0, 'and does not execute the new command');
is(psql(q{SELECT prod_analytics.run_job('takeover')->>'status'}), 'SUCCESS', 'the new owner\'s process');
is(psql(q{SELECT who FROM seen WHERE what = 'new'}), 'analyst', 'does');

psql(q{CREATE ROLE shortlived LOGIN IN ROLE analytics_operator});
is(run('of nobody', 'SELECT 1', 'shortlived'), 'SUCCESS', 'a role that does not live long');
psql('DROP ROLE shortlived');
is(psql(q{SELECT count(*) FROM prod_analytics.worker_status WHERE process = 'runner' AND owner IS NULL}), 1, 'its process is shown when it has no name any more');

# Who owns the tables can name anybody as the owner of a job.
psql(q{
	CREATE ROLE keeper LOGIN IN ROLE analytics_operator;
	GRANT CREATE ON SCHEMA prod_analytics TO keeper;
	ALTER TABLE prod_analytics.jobs OWNER TO keeper;
	ALTER TABLE prod_analytics.job_state OWNER TO keeper;
	ALTER TABLE prod_analytics.etl_jobs OWNER TO keeper;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA prod_analytics TO keeper;
	SET ROLE keeper;
	INSERT INTO prod_analytics.jobs (job_name, schedule, command, owner) VALUES ('climbs', '100 years', 'ALTER ROLE keeper SUPERUSER', 'postgres')});
like(psql(q{SELECT r->>'error' FROM prod_analytics.run_job('climbs') r}), qr/may not act as role "postgres"/, 'and still not act as him');
is(run('of the keeper', 'SELECT 1', 'keeper'), 'SUCCESS', 'but as himself');
is(psql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'keeper'}), 'f', 'an ordinary role stays one');
psql(q{
	ALTER TABLE prod_analytics.jobs OWNER TO postgres;
	ALTER TABLE prod_analytics.job_state OWNER TO postgres;
	ALTER TABLE prod_analytics.etl_jobs OWNER TO postgres});

# A run that has lost its lock goes on all the same.
my $unlocked = $node->background_psql('postgres');
my $gate = $node->background_psql('postgres');
$gate->query_safe('SELECT pg_advisory_lock(4711)');
schedule('unlocks', 'SELECT pg_advisory_unlock_all(); SELECT pg_advisory_xact_lock(4711)', 'analyst');
$unlocked->query_until(qr/asked/, qq{\\echo asked\nSELECT prod_analytics.run_job('unlocks')->>'status';\n});
comes_true(q{SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE job_name = 'unlocks' AND job_id IS NOT NULL}, 'a run gives its lock away');
comes_true(q{SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = (hashtext('etl_unlocks')::bigint & 4294967295)::oid}, 'so that nobody has it');
my $scheduler = psql(q{SELECT pid FROM prod_analytics.worker_status WHERE process = 'scheduler'});
kill 'TERM', $scheduler;
comes_true(qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'prod_analytics scheduler' AND pid <> $scheduler AND state = 'idle'},
	'a new scheduler has looked at it');
$gate->quit;
comes_true(q{SELECT last_status <> 'RUNNING' FROM prod_analytics.job_status WHERE job_name = 'unlocks'}, 'it comes to its end under a new scheduler');
is(psql(q{SELECT last_status FROM prod_analytics.job_status WHERE job_name = 'unlocks'}), 'SUCCESS', 'and is not taken for dead');
$unlocked->quit;
comes_true(q{SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE process = 'scheduler'}, 'there is a scheduler');

#
# Sessions that wait
#

psql('CREATE INDEX ON seen (who); INSERT INTO seen VALUES (1)');
schedule('waits', 'CREATE INDEX CONCURRENTLY seen_what ON seen (what)', 'postgres');
my ($code, $out, $error) = $node->psql('postgres', q{SELECT prod_analytics.run_job('waits')}, timeout => $PostgreSQL::Test::Utils::timeout_default);
like($error, qr/job "waits" waits for this session/, 'a run that waits for the session that waits for it is left to itself');
comes_true(q{SELECT last_status = 'SUCCESS' FROM prod_analytics.job_status WHERE job_name = 'waits'}, 'and comes to its end');

# A session that changes a job, and has not committed yet, keeps no other job waiting.
psql(q{
	SELECT prod_analytics.schedule_job('overlaps', '1 second', 'SELECT pg_sleep(1000)');
	SELECT prod_analytics.schedule_job('ticks', '1 second', $$INSERT INTO seen VALUES ('tick')$$)});
comes_true(q{SELECT skipped > 1 FROM prod_analytics.job_status WHERE job_name = 'overlaps'}, 'a job skips slots');
my $open = $node->background_psql('postgres');
$open->query_safe(q{BEGIN; SELECT prod_analytics.pause_job('overlaps')});
my $skipped = psql(q{SELECT skipped FROM prod_analytics.job_status WHERE job_name = 'overlaps'});
psql('TRUNCATE seen');
comes_true(q{SELECT count(*) > 4 FROM seen WHERE what = 'tick'}, 'other jobs run while it is being changed');
$open->query_safe('ROLLBACK');
$open->quit;
comes_true(qq{SELECT skipped > $skipped FROM prod_analytics.job_status WHERE job_name = 'overlaps'}, 'and it skips slots when it has not been');
psql(q{SELECT prod_analytics.cancel_job('overlaps'); SELECT prod_analytics.unschedule_job('overlaps')});

# Nor does its own run, which is due meanwhile, take the place of theirs.
configure('prod_analytics.enabled = off');
comes_true(q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process = 'scheduler'}, 'the worker is switched off');
psql(q{SELECT prod_analytics.schedule_job('due', '1 second', $$INSERT INTO seen VALUES ('due')$$)});
$open = $node->background_psql('postgres');
$open->query_safe(q{BEGIN; SELECT prod_analytics.pause_job('due')});
psql('TRUNCATE seen');
configure("prod_analytics.max_running_jobs = 1\nprod_analytics.enabled = on");
comes_true(q{SELECT count(*) > 4 FROM seen WHERE what = 'tick'}, 'a job that is due while it is being changed leaves the room to others');
is(psql(q{SELECT count(*) FROM prod_analytics.due_jobs(now() - interval '1 second') WHERE job_name = 'due'}), 1, 'it is due');
is(psql(q{SELECT count(*) FROM seen WHERE what = 'due'}), 0, 'and does not run');
$open->query_safe('ROLLBACK');
$open->quit;
comes_true(q{SELECT count(*) > 0 FROM seen WHERE what = 'due'}, 'until it has not been changed');
configure('prod_analytics.max_running_jobs = 4');
psql(q{SELECT prod_analytics.unschedule_job('ticks'); SELECT prod_analytics.unschedule_job('due')});

# A run that waits for a session that changes its job, or gives it up, goes by what that has made of it.
foreach my $change ([ q{SELECT prod_analytics.schedule_job('changes', '50 years', $$SELECT '{"what": "new"}'::jsonb$$)}, 'new' ],
	[ q{SELECT prod_analytics.unschedule_job('changes')}, 'job "changes" does not exist' ])
{
	schedule('changes', q{SELECT '{"what": "old"}'::jsonb}, 'postgres');
	my $changing = $node->background_psql('postgres');
	$changing->query_safe("BEGIN; $change->[0]");
	my $wanting = $node->background_psql('postgres', on_error_stop => 0);
	$wanting->query_until(qr/asked/, qq{\\echo asked\nSELECT prod_analytics.run_job('changes')->>'what';\n\\echo :LAST_ERROR_MESSAGE answered\n});
	comes_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'prod_analytics runner' AND wait_event_type = 'Lock'}, 'a run waits for who changes its job');
	$changing->query_safe('COMMIT');
	$changing->quit;
	like($wanting->query_until(qr/answered/, ''), qr/$change->[1]/, "then it goes by what is there: $change->[1]");
	$wanting->quit;
}
is(psql(q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE job_name = 'changes' AND status = 'RUNNING'}), 0, 'no run is left over');

# The second of two sessions that want a job that is about to begin is answered as soon as it has.
schedule('begins', 'SELECT pg_sleep(1000)', 'analyst');
$open = $node->background_psql('postgres');
$open->query_safe('BEGIN; LOCK TABLE prod_analytics.etl_jobs IN EXCLUSIVE MODE');
my @both = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
foreach my $session (@both)
{
	# The scheduler looks once a minute anyway.
	$session->query_safe(q{SET statement_timeout = '45s'});
	$session->query_until(qr/asked/, qq{\\echo asked\nSELECT prod_analytics.run_job('begins')->>'status';\n\\echo answered\n});
	comes_true(q{SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE job_name = 'begins' AND job_id IS NULL}, 'a job is about to begin');
}
comes_true(q{SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE '%run_job(_begins%' AND pid <> pg_backend_pid()}, 'and two sessions want it');
$open->query_safe('COMMIT');
$open->quit;
comes_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE '%run_job(_begins%' AND pid <> pg_backend_pid()}, 'one is answered');
is(psql(q{SELECT prod_analytics.cancel_job('begins')}), 't', 'while the job runs');
is(join(' ', sort map { $_->query_until(qr/answered/, '') =~ /(SKIPPED|FAILED)/ } @both), 'FAILED SKIPPED', 'that it is running already');
$_->quit foreach @both;

schedule('forever', 'SELECT pg_sleep(1000)', 'analyst');
my $waiting = $node->background_psql('postgres', on_error_stop => 0);
$waiting->query_until(qr/asked/, qq{\\echo asked\nSELECT prod_analytics.run_job('forever');\n\\echo answered\n});
comes_true(q{SELECT running_since IS NOT NULL FROM prod_analytics.job_status WHERE job_name = 'forever'}, 'a long job runs');
configure('prod_analytics.enabled = off');
comes_true(q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process = 'scheduler'}, 'the worker is switched off');
psql(q{SELECT pg_terminate_backend(pid) FROM prod_analytics.worker_status WHERE process = 'runner'});
$waiting->query_until(qr/answered/, '');
comes_true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE '%run_job%' AND pid <> pg_backend_pid()}, 'who waits for a run that nobody sees to any more does not wait for ever');
$waiting->quit;
configure('prod_analytics.enabled = on');
comes_true(q{SELECT last_status = 'FAILED' FROM prod_analytics.job_status WHERE job_name = 'forever'}, 'the run is marked as failed when the worker is back');

is(run('is idle', 'SELECT 1'), 'SUCCESS', 'a process is idle');
configure(q{prod_analytics.databases = ''});
comes_true(q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process = 'runner'}, 'no process stays in a database that is not listed any more');

#
# Isolation, and scarcity of processes
#

configure(q{default_transaction_isolation = 'repeatable read'});
psql(q{SELECT prod_analytics.schedule_job('isolated ' || n, '1 second', 'SELECT pg_sleep(0.01)') FROM generate_series(1, 40) n});
configure(q{prod_analytics.databases = 'postgres'});
comes_true(q{SELECT count(*) > 200 FROM prod_analytics.etl_jobs WHERE job_name LIKE 'isolated %' AND status <> 'RUNNING'}, 'the worker works, however transactions are isolated by default');
is(psql(q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE job_name LIKE 'isolated %' AND status NOT IN ('SUCCESS', 'RUNNING')}), 0, 'no run fails');
is(psql(q{SELECT count(*) FROM (SELECT FROM prod_analytics.etl_jobs WHERE job_name LIKE 'isolated %' GROUP BY job_name, date_trunc('second', started_at) HAVING count(*) > 1) d}),
	0, 'and no slot has two');
psql(q{SET default_transaction_isolation = 'read committed'; SELECT prod_analytics.unschedule_job(job_name) FROM prod_analytics.jobs WHERE job_name LIKE 'isolated %'});

# Room for one runner, beside the launchers of ours and of logical replication, and the scheduler.
$node->append_conf('postgresql.conf', "max_worker_processes = 4\ndefault_transaction_isolation = 'read committed'");
$node->restart;
comes_true(q{SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE process = 'scheduler'}, 'there is a scheduler again');
is(run('of one', 'SELECT 1', 'analyst'), 'SUCCESS', 'the only process works for one role');
is(run('of another', 'SELECT 1', 'postgres'), 'SUCCESS', 'and makes room for another');
is(psql(q{SELECT prod_analytics.run_job('of one')->>'status'}), 'SUCCESS', 'and for the first one again');
is(scalar(() = slurp_file($node->logfile) =~ /jobs have to wait for a process/g), 1, 'which is told once');

unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|was terminated by signal/, 'no process died by itself');
$node->stop;
done_testing();
