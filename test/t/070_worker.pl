# The worker runs jobs: from the settings in postgresql.conf to metrics of events, with no call by hand, and whatever a
# command may do.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('worker');

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

# The last run of a job: the columns asked for.
sub last_run
{
	my ($job, $columns) = @_;

	return psql("SELECT $columns FROM prod_analytics.etl_jobs WHERE job_name = '$job' ORDER BY job_id DESC LIMIT 1");
}

$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'prod_analytics'
prod_analytics.databases = 'postgres'
max_worker_processes = 16
CONF
$node->start;

#
# From staging to metrics
#

psql(q{
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.ensure_partitions();
	INSERT INTO prod_analytics.organizations (org_id, org_name) VALUES (1, 'Acme');
	INSERT INTO prod_analytics.staging_events (org_id, event_type, event_time, payload)
	SELECT 1, 'purchase', now() - n * interval '1 minute', '{"order_id": 1, "price": 2}' FROM generate_series(1, 100) n;
});
comes_true(q{SELECT sum(purchases) = 100 AND sum(revenue) = 200 FROM prod_analytics.mv_org_daily_metrics},
	'what lands in staging becomes metrics by itself');
is(psql(q{SELECT string_agg(process, ' ' ORDER BY process) FROM (SELECT DISTINCT process FROM prod_analytics.worker_status) w}),
	'launcher runner scheduler', 'the processes are shown');
is(psql(q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status NOT IN ('SUCCESS', 'RUNNING')}), 0, 'all runs succeed');
psql(q{SELECT prod_analytics.pause_job('upsert_users')});
comes_true(q{SELECT running_since IS NULL FROM prod_analytics.job_status WHERE job_name = 'upsert_users'}, 'a job does not run by itself');
psql(q{INSERT INTO prod_analytics.staging_users (src_id, email, org_src, payload) VALUES ('1', 'ann@example.com', 'Acme', '{}')});
is(psql(q{SELECT prod_analytics.run_job('upsert_users')->>'inserted'}), 1, 'run_job() has the worker run a job, and waits for it');
isnt(last_run('upsert_users', 'details'), '', 'its log says what it did');
is(psql(q{SELECT count(*) FROM prod_analytics.etl_jobs e JOIN prod_analytics.etl_jobs f
		ON e.job_name = f.job_name AND e.job_id < f.job_id AND f.started_at < e.finished_at}), 0, 'no job ran twice at a time');

# The others would be in the way.
psql(q{SELECT prod_analytics.pause_job(job_name) FROM prod_analytics.jobs});
comes_true(q{SELECT count(*) = 0 FROM prod_analytics.job_status WHERE running_since IS NOT NULL}, 'paused jobs come to rest');
my $runs = psql('SELECT count(*) FROM prod_analytics.etl_jobs');

#
# What a command may do
#

psql(q{
	CREATE ROLE analyst LOGIN;
	GRANT CREATE ON DATABASE postgres TO analyst;
	GRANT analytics_operator TO analyst;
	CREATE TABLE seen (what text, who name DEFAULT session_user, value text);
	GRANT ALL ON seen TO analyst;
	CREATE PROCEDURE commits(n int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1..n LOOP
			INSERT INTO seen VALUES ('commit');
			COMMIT;
		END LOOP;
		RAISE EXCEPTION 'after % commits', n USING DETAIL = 'the detail', HINT = 'the hint';
	END $$;
	GRANT EXECUTE ON PROCEDURE commits TO analyst;
});

# Schedules a job of the analyst that will not be due, runs it and returns its result.
sub run
{
	my ($name, $command, %option) = @_;
	my $arguments = join '', map { ", $_ => $option{$_}" } sort keys %option;

	psql(qq{SET ROLE analyst; SELECT prod_analytics.schedule_job('$name', '100 years', \$c\$$command\$c\$$arguments)});
	return psql(qq{SELECT prod_analytics.run_job('$name') - '{job_id,duration_seconds,context}'::text[]});
}

is(run('plain', q{INSERT INTO seen VALUES ('plain'), ('again')}), '{"rows": 2, "status": "SUCCESS"}', 'rows are counted');
is(psql(q{SELECT DISTINCT who FROM seen}), 'analyst', 'a job runs in a session of its owner');
comes_true(q{SELECT n_tup_ins >= 2 FROM pg_stat_user_tables WHERE relname = 'seen'}, 'what a job does counts for autovacuum, though its process stays');
is(run('vacuum', 'VACUUM seen'), '{"rows": 0, "status": "SUCCESS"}', 'VACUUM works');
is(run('commits', 'CALL commits(3)'),
	'{"hint": "the hint", "rows": 0, "error": "after 3 commits", "detail": "the detail", "status": "FAILED", "sqlstate": "P0001"}',
	'a failure is told with all that belongs to it');
is(psql(q{SELECT count(*) FROM seen WHERE what = 'commit'}), 3, 'and what the procedure had committed stays');
is(run('several', q{INSERT INTO seen VALUES ('several'); SELECT 1 / 0}), '{"rows": 0, "error": "division by zero", "status": "FAILED", "sqlstate": "22012"}',
	'several statements fail together');
is(psql(q{SELECT count(*) FROM seen WHERE what = 'several'}), 0, 'as one transaction');
is(run('block', q{BEGIN; INSERT INTO seen VALUES ('block'); COMMIT; SELECT '{"rows": 5, "more": true}'::jsonb}),
	'{"more": true, "rows": 5, "status": "SUCCESS"}', 'a block of its own commits, and a result in JSON is kept');
is(run('open', q{BEGIN; INSERT INTO seen VALUES ('open')}),
	'{"hint": "End it with COMMIT.", "rows": 0, "error": "the command left a transaction open", "detail": "It was rolled back.", "status": "FAILED", "sqlstate": "25000"}',
	'a transaction that is left open is rolled back');
is(psql(q{SELECT string_agg(what, ' ') FROM seen WHERE what IN ('block', 'open')}), 'block', 'what it did is gone');
# What does not parse is refused; one that is there all the same, from a dump say, fails.
run('syntax', 'SELECT 1');
psql(q{SET session_replication_role = replica; UPDATE prod_analytics.jobs SET command = 'SELEC 1' WHERE job_name = 'syntax'});
is(psql(q{SELECT prod_analytics.run_job('syntax') - '{job_id,duration_seconds}'::text[]}), '{"rows": 0, "error": "syntax error at or near \"SELEC\"", "status": "FAILED", "sqlstate": "42601"}', 'a command that does not parse');
is(run('nothing', '-- nothing'), '{"rows": 0, "status": "SUCCESS"}', 'a command without a statement');
is(run('escape', 'RESET SESSION AUTHORIZATION; RESET ROLE; CREATE ROLE mallory SUPERUSER'),
	'{"rows": 0, "error": "must be superuser to create superusers", "status": "FAILED", "sqlstate": "42501"}' , 'there is nobody else to become')
  if $node->pg_version < 16;
isnt(psql(q{SELECT count(*) FROM pg_roles WHERE rolname = 'mallory'}), 1, 'no role was made');

# What one command leaves in the session the next one does not find, though it may be in the same process.
is(run('leaves', q{SET work_mem = '77MB'; CREATE TEMP TABLE left_over (); PREPARE left_over AS SELECT 1; SELECT pg_advisory_lock(4711);
	SET search_path = pg_temp; SET ROLE analytics_operator}), '{"rows": 0, "status": "SUCCESS"}', 'a command leaves something');
run('finds', q{INSERT INTO public.seen SELECT 'found', current_user, concat_ws(' ', current_setting('work_mem'), to_regclass('left_over'),
	(SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_locks WHERE objid = 4711), current_setting('search_path'))});
is(psql(q{SELECT who || ' ' || value FROM seen WHERE what = 'found'}), 'analyst 4MB 0 0 "$user", public', 'a session is clean again');
is(run('notices', q{DO $$ BEGIN FOR i IN 1..100000 LOOP RAISE NOTICE '%', repeat('x', 1000); END LOOP; END $$}), '{"rows": 0, "status": "SUCCESS"}',
	'100 MB of notices are nobody\'s concern');
is(run('application', q{INSERT INTO seen SELECT 'application', application_name, backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()}),
	'{"rows": 1, "status": "SUCCESS"}', 'a job looks at itself');
like(psql(q{SELECT who || ' ' || value FROM seen WHERE what = 'application'}), qr/^prod_analytics job application run \d+ prod_analytics runner$/,
	'application_name tells job and run');

#
# Timeouts, cancels, locks
#

is(run('slow', 'SELECT pg_sleep(100)', timeout => q{'300 ms'}),
	'{"hint": "A longer timeout can be given to prod_analytics.schedule_job().", "rows": 0, "error": "the run was cancelled after the job\'s timeout of 300 ms", "status": "FAILED", "sqlstate": "57014"}',
	'a run that takes too long is cancelled');
psql(q{ALTER ROLE analyst SET statement_timeout = '250ms'});
psql(q{SELECT pg_terminate_backend(pid) FROM prod_analytics.worker_status WHERE process = 'runner'});
comes_true(q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process = 'runner'}, 'runners can be terminated');
is(run('statement', 'SELECT pg_sleep(100)'),
	'{"rows": 0, "error": "canceling statement due to statement timeout", "status": "FAILED", "sqlstate": "57014"}', 'statement_timeout counts too');
psql(q{ALTER ROLE analyst RESET statement_timeout});
psql(q{SELECT pg_terminate_backend(pid) FROM prod_analytics.worker_status WHERE process = 'runner'});

my $waiting = $node->background_psql('postgres');
psql(q{SELECT prod_analytics.schedule_job('forever', '100 years', 'SELECT pg_sleep(1000)')});
$waiting->query_until(qr/asked/, qq{\\echo asked\nSELECT prod_analytics.run_job('forever')->>'error';\n});
comes_true(q{SELECT running_since IS NOT NULL FROM prod_analytics.job_status WHERE job_name = 'forever'}, 'a long job runs');
is(psql(q{SELECT prod_analytics.run_job('forever')->>'status'}), 'SKIPPED', 'it does not run twice');
is(psql(q{SELECT state, job_name FROM prod_analytics.worker_status WHERE job_name = 'forever'}), 'running|forever', 'worker_status shows it');
is(psql(q{SELECT prod_analytics.cancel_job('forever')}), 't', 'it is cancelled');
comes_true(q{SELECT last_status = 'FAILED' FROM prod_analytics.job_status WHERE job_name = 'forever'}, 'and ends');
is(last_run('forever', q{details->>'sqlstate'}), '57014', 'as one that was cancelled');
comes_true(q{SELECT NOT prod_analytics.cancel_job('forever')}, 'there is nothing left to cancel');
$waiting->quit;
psql(q{SELECT pg_cancel_backend(pid) FROM prod_analytics.worker_status});
is(psql(q{SELECT prod_analytics.run_job('plain')->>'status'}), 'SUCCESS', 'who has nothing to do is not to be cancelled');
is(psql(q{SELECT count(*) FROM prod_analytics.worker_status WHERE process <> 'runner'}), 2, 'nor are launcher and scheduler');

my $holder = $node->background_psql('postgres');
$holder->query_safe(q{SELECT pg_advisory_lock(hashtext('etl_plain'))});
is(psql(q{SELECT prod_analytics.run_job('plain')->>'status'}), 'SKIPPED', 'who holds the lock of the script keeps the worker out');
is(last_run('plain', 'status'), 'SKIPPED', 'which is logged');
$holder->query_safe('SELECT pg_advisory_unlock_all()');
$holder->quit;
is(psql(q{SELECT prod_analytics.run_job('plain')->>'status'}), 'SUCCESS', 'until then');
my ($code, $out, $error) = $node->psql('postgres', q{BEGIN; SELECT prod_analytics.run_job('plain')});
like($error, qr/run_job\(\) cannot be called in a transaction block while the worker is running/, 'run_job() does not wait in a transaction block');

#
# Schedules
#

psql(q{SELECT prod_analytics.schedule_job('ticks', '1 second', $$INSERT INTO seen VALUES ('tick', session_user, clock_timestamp()::text)$$)});
comes_true(q{SELECT count(*) >= 4 FROM seen WHERE what = 'tick'}, 'a job runs every second');
psql(q{SELECT prod_analytics.unschedule_job('ticks')});
is(psql(q{SELECT count(*) FROM (SELECT FROM prod_analytics.etl_jobs WHERE job_name = 'ticks' GROUP BY date_trunc('second', started_at) HAVING count(*) > 1) t}),
	0, 'and once in a second');
psql(q{SELECT prod_analytics.schedule_job('overlaps', '1 second', 'SELECT pg_sleep(2.5)')});
comes_true(q{SELECT skipped >= 2 AND last_status = 'RUNNING' FROM prod_analytics.job_status WHERE job_name = 'overlaps'}, 'slots that find the job running are skipped and counted');
psql(q{SELECT prod_analytics.unschedule_job('overlaps')});
is(psql(q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE job_name = 'overlaps' AND status = 'SKIPPED'}), 0, 'without a record each');

# A retry comes before the next slot; then a success ends the row of failures.
psql(q{
	CREATE TABLE attempts (at timestamptz DEFAULT clock_timestamp());
	CREATE FUNCTION third_time_lucky() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF nextval('attempt') < 3 THEN RAISE 'not yet'; END IF;
		PERFORM pg_advisory_xact_lock(3);
	END $$;
	CREATE SEQUENCE attempt;
	SELECT prod_analytics.schedule_job('lucky', '100 years', 'SELECT third_time_lucky()', max_retries => 5);
});
# The third attempt waits for this one.
$holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(3)');
is(psql(q{SELECT prod_analytics.run_job('lucky')->>'status'}), 'FAILED', 'the first attempt fails');
psql(q{UPDATE prod_analytics.job_state SET retry_at = clock_timestamp() WHERE job_name = 'lucky'; UPDATE prod_analytics.jobs SET scheduled_at = now() WHERE job_name = 'lucky'});
comes_true(q{SELECT failures = 2 FROM prod_analytics.job_status WHERE job_name = 'lucky'}, 'a retry that is due is done');
$holder->query_safe('SELECT pg_advisory_unlock_all()');
$holder->quit;
comes_true(q{SELECT failures = 0 AND last_status = 'SUCCESS' FROM prod_analytics.job_status WHERE job_name = 'lucky'}, 'another one by itself, some seconds later');
is(psql(q{SELECT string_agg(status, ' ' ORDER BY job_id) FROM prod_analytics.etl_jobs WHERE job_name = 'lucky'}), 'FAILED FAILED SUCCESS', 'each is logged');

# What depends on another job.
psql(q{
	SELECT prod_analytics.schedule_job('gate', '100 years', 'INSERT INTO seen VALUES (''gate'')');
	SELECT prod_analytics.schedule_job('gated', '1 second', 'INSERT INTO seen VALUES (''gated'')', depends_on => '{gate}');
});
comes_true(q{SELECT next_run_at < now() FROM prod_analytics.job_status WHERE job_name = 'gated'}, 'a job is due');
is(psql(q{SELECT waits_for FROM prod_analytics.job_status WHERE job_name = 'gated'}), '{gate}', 'and waits for another one');
is(psql(q{SELECT prod_analytics.run_job('gate')->>'status'}), 'SUCCESS', 'which succeeds');
comes_true(q{SELECT last_status = 'SUCCESS' FROM prod_analytics.job_status WHERE job_name = 'gated'}, 'then it runs');
is(psql(q{SELECT count(*) FROM seen WHERE what = 'gated'}), 1, 'once');
psql(q{SELECT prod_analytics.unschedule_job('gated')});

#
# What a job needs is gone
#

psql(q{
	CREATE ROLE shortlived LOGIN;
	GRANT analytics_operator TO shortlived;
	SET ROLE shortlived;
	SELECT prod_analytics.schedule_job('of nobody', '1 second', 'SELECT 1');
	RESET ROLE;
	DROP ROLE shortlived;
	SELECT prod_analytics.schedule_job('of nothing', '1 second', 'SELECT gone()');
	SELECT prod_analytics.schedule_job('of somebody', '1 second', 'SELECT 1');
});
comes_true(q{SELECT failures >= 2 FROM prod_analytics.job_status WHERE job_name = 'of nobody'}, 'the job of a role that was dropped fails');
like(last_run('of nobody', q{details->>'error'}), qr/role "shortlived", which owns the job, does not exist/, 'and says why');
comes_true(q{SELECT failures >= 2 FROM prod_analytics.job_status WHERE job_name = 'of nothing'}, 'so does one whose function is gone');
comes_true(q{SELECT succeeded_at > now() - interval '3 seconds' FROM prod_analytics.job_status WHERE job_name = 'of somebody'}, 'the others run');
psql(q{SELECT prod_analytics.unschedule_job(job_name) FROM prod_analytics.jobs WHERE job_name LIKE 'of %'});
my $log = slurp_file($node->logfile);
is(scalar(() = $log =~ /LOG:  job "commits" failed: after 3 commits/g), 1, 'a failure is told in the server log, once');
unlike($log, qr/WARNING:  job "/, 'and in no other way');

#
# Notifications and settings
#

my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN prod_analytics_jobs');
run('commits', 'CALL commits(3)');
like($listener->query(q{SELECT 1}), qr/Asynchronous notification "prod_analytics_jobs" with payload "\{.*"status": "FAILED".*"job_name": "commits".*"sqlstate": "P0001"/,
	'an end is notified');
$listener->quit;

psql(q{SELECT prod_analytics.schedule_job('ticks', '1 second', $$INSERT INTO seen VALUES ('tock')$$)});
comes_true(q{SELECT count(*) > 0 FROM seen WHERE what = 'tock'}, 'a job runs');
$node->append_conf('postgresql.conf', 'prod_analytics.enabled = off');
$node->reload;
comes_true(q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process <> 'launcher'}, 'switched off, the worker ends');
psql(q{TRUNCATE seen});
is(psql(q{SELECT prod_analytics.run_job('plain')->>'status'}), 'SUCCESS', 'without it, run_job() runs a job in the session');
is(psql(q{SELECT count(*) FROM seen WHERE what = 'tock'}), 0, 'and nothing else does');
$node->append_conf('postgresql.conf', 'prod_analytics.enabled = on');
$node->reload;
comes_true(q{SELECT count(*) > 0 FROM seen WHERE what = 'tock'}, 'switched on, it begins again');
$node->append_conf('postgresql.conf', q{prod_analytics.databases = ''});
$node->reload;
comes_true(q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process = 'scheduler'}, 'a database that is not listed any more has no scheduler');
$node->append_conf('postgresql.conf', q{prod_analytics.databases = '"Other DB", postgres'});
$node->reload;
comes_true(q{SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE process = 'scheduler'}, 'listed again it has one');
$node->append_conf('postgresql.conf', q{prod_analytics.databases = 'a,,b'});
$node->reload;
comes_true(q{SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE process = 'scheduler'}, 'a list that does not parse changes nothing');
$node->append_conf('postgresql.conf', q{prod_analytics.databases = 'postgres'});

# Fewer jobs at a time, at once.
psql(q{
	TRUNCATE seen;
	SELECT prod_analytics.schedule_job('pair ' || n, '1 second',
		$$INSERT INTO seen SELECT 'pair', session_user, count(*) FROM prod_analytics.worker_status WHERE state = 'running' AND process = 'runner'; SELECT pg_sleep(0.2)$$)
	FROM generate_series(1, 4) n});
comes_true(q{SELECT max(value::int) > 1 FROM seen WHERE what = 'pair'}, 'several jobs run at a time');
$node->append_conf('postgresql.conf', 'prod_analytics.max_running_jobs = 1');
$node->reload;
comes_true(q{SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE process = 'runner'}, 'after the setting was lowered there is one process');
psql('TRUNCATE seen');
comes_true(q{SELECT count(*) > 5 FROM seen WHERE what = 'pair'}, 'the jobs take turns');
is(psql(q{SELECT max(value::int) FROM seen WHERE what = 'pair'}), 1, 'one at a time');
psql(q{SELECT prod_analytics.unschedule_job(job_name) FROM prod_analytics.jobs WHERE job_name LIKE 'pair%'});

# Who dies is replaced, also by a launcher that has not started him.
foreach my $process (qw(launcher scheduler))
{
	my $pid = psql("SELECT pid FROM prod_analytics.worker_status WHERE process = '$process'");

	kill 'TERM', $pid;
	comes_true("SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE process = '$process' AND pid <> $pid", "the $process is replaced");
}

# A server that is stopped does not wait for jobs.
psql(q{SELECT prod_analytics.unschedule_job('ticks')});
$waiting = $node->background_psql('postgres', on_error_stop => 0);
$waiting->query_until(qr/asked/, qq{\\echo asked\nSELECT prod_analytics.run_job('forever');\n});
comes_true(q{SELECT running_since IS NOT NULL FROM prod_analytics.job_status WHERE job_name = 'forever'}, 'a long job runs');
ok($node->stop('fast', fail_ok => 1), 'the server stops all the same');
$node->start;
comes_true(q{SELECT last_status = 'FAILED' FROM prod_analytics.job_status WHERE job_name = 'forever'}, 'the run that was cut off is marked as failed');
is(last_run('forever', q{details->>'error'}), 'server or worker terminated', 'and says why');
unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|was terminated by signal/, 'no process died by itself');

$node->stop;
done_testing();
