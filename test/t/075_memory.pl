# What is done again and again leaves no memory behind: neither runs, however they end, in the process that does them, nor what
# users call in their sessions.

use strict;
use warnings;

use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use lib dirname(__FILE__) . '/../lib';
use Memory qw(memory_of);

# How many bytes a process may have more after a hundred times or more.  The smallest memory context has more than 200.
use constant TOLERANCE => 16 * 1024;

my $node = PostgreSQL::Test::Cluster->new('memory');

sub psql
{
	my ($query) = @_;

	return $node->safe_psql('postgres', $query);
}

$node->init;
# Autovacuum would invalidate what processes have cached, at any moment.
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'prod_analytics'
prod_analytics.databases = 'postgres'
prod_analytics.max_running_jobs = 1
autovacuum = off
CONF
$node->start;
psql(q{
	SET client_min_messages = warning;
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.pause_job(job_name) FROM prod_analytics.jobs;
	SELECT prod_analytics.load_sample_data(50, 2000);
	CALL prod_analytics.maintain_partitions();
	-- The others are of some minutes before midnight at the latest, and a quality check wants one of the last day.
	INSERT INTO prod_analytics.events (org_id, user_id, event_type, event_time) SELECT min(org_id), min(user_id), 'view', now() FROM prod_analytics.users;
	SELECT prod_analytics.refresh_incremental();
	CREATE TABLE notes (note text);
	CREATE SEQUENCE numbers;
	SELECT prod_analytics.schedule_job('nothing', '1 year', '-- nothing'),
		prod_analytics.schedule_job('vacuum', '1 year', 'VACUUM notes'),
		prod_analytics.schedule_job('fails', '1 year', 'INSERT INTO notes SELECT 1 / 0'),
		prod_analytics.schedule_job('fails inside', '1 year', $$DO 'BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN PERFORM no_such_function(); END'$$),
		prod_analytics.schedule_job('takes too long', '1 year', 'SELECT pg_sleep(60)', timeout => '5 ms', max_retries => 2),
		prod_analytics.schedule_job('leaves things behind', '1 year',
			'SET work_mem = 100; PREPARE plan AS SELECT 1; DECLARE rows CURSOR WITH HOLD FOR SELECT * FROM generate_series(1, 1000); SELECT pg_advisory_lock(1)'),
		prod_analytics.schedule_job('commits', '1 year', $$DO 'BEGIN FOR n IN 1 .. 3 LOOP INSERT INTO notes VALUES (n); COMMIT; END LOOP; DELETE FROM notes; END'$$),
		prod_analytics.schedule_job('reads another table', '1 year', $$DO 'BEGIN EXECUTE format(''SELECT FROM other_%s'', nextval(''others'')); END'$$);
	-- Its retries, which would be runs that nobody has asked for, are planned all the same.
	SELECT prod_analytics.pause_job('takes too long');
	CREATE SEQUENCE others;
	SELECT format('CREATE TABLE other_%s (a integer, b text, c text)', n) FROM generate_series(1, 120) n \gexec
});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE process = 'scheduler'}) or die 'no scheduler';

my $stage_events = q{INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, payload, event_time)
	SELECT CASE WHEN n > 5 THEN 10000000 + nextval('numbers') END, CASE n WHEN 9 THEN -1 ELSE 1 + n END, NULL, CASE WHEN n <> 10 THEN 'view' END,
		jsonb_build_object('text', repeat('x', 70), 'n', n), '2026-03-01'::timestamptz + n * interval '1 day' FROM generate_series(1, 40) n;};
my $stage_users = q{INSERT INTO prod_analytics.staging_users (src_id, email) SELECT n, CASE WHEN n <> 3 THEN format('u%s@example.net', n) END FROM generate_series(1, 20) n;};

# Runs a job some times, each after what is to be done before.
sub run
{
	my ($job, $times, $before) = @_;

	psql(join "\n", ($before . "SELECT prod_analytics.run_job('$job');") x $times);
	return;
}

# What a process of the worker uses, in bytes.  It tells when it is idle.
sub memory
{
	my ($process) = @_;
	my $offset = -s $node->logfile;
	my ($pid) = psql("SELECT pid FROM prod_analytics.worker_status WHERE process = '$process'") =~ /^(\d+)$/ or die "no $process, or several";

	psql("SELECT pg_log_backend_memory_contexts($pid)");
	for (my $end = time + $PostgreSQL::Test::Utils::timeout_default; time < $end; select undef, undef, undef, 0.05)
	{
		foreach my $memory (grep { $_->{pid} == $pid } memory_of(slurp_file($node->logfile, $offset)))
		{
			return ($memory->{used}, $pid, $memory->{kept});
		}
	}
	die "$process $pid does not tell what its memory is";
}

# By how much the runner has grown, in bytes, when it has done a job as often as given.
sub growth
{
	my ($job, $times, $before, $status) = @_;
	my $count = "SELECT count(*) FROM prod_analytics.etl_jobs WHERE job_name = '$job' AND status = '$status'";

	# What it needs for the first time, and what grows by doubling.
	run($job, 20, $before);
	my ($used, $pid) = memory('runner');
	my $runs = psql($count);

	run($job, $times, $before);
	my ($used_then, $pid_then, $kept_then) = memory('runner');

	note("$job: $used bytes, then $used_then, $kept_then of them in caches");
	is(psql($count) - $runs, $times, "$job: each run is $status");
	is($pid_then, $pid, "$job: one process has done them all");
	return $used_then - $used;
}

sub stays
{
	my ($job, $times, $before, $status) = @_;

	cmp_ok(growth(@_), '<', TOLERANCE, "$job: memory stays what it is for $times runs");
	return;
}

#
# Runs of the worker
#

run('nothing', 20, '');
my ($scheduler) = memory('scheduler');

stays('nothing', 300, '', 'SUCCESS');
stays('vacuum', 300, '', 'SUCCESS');
stays('commits', 300, '', 'SUCCESS');
stays('leaves things behind', 300, '', 'SUCCESS');
stays('fails', 300, '', 'FAILED');
stays('fails inside', 300, '', 'FAILED');
stays('takes too long', 100, '', 'FAILED');
stays('ingest_events', 300, $stage_events, 'SUCCESS');
stays('upsert_users', 300, $stage_users, 'SUCCESS');
stays('refresh_matviews', 100, $stage_events . 'SELECT prod_analytics.etl_ingest_events();', 'SUCCESS');
stays('maintain_partitions', 100, '', 'SUCCESS');
stays('purge_history', 100, '', 'SUCCESS');
stays('quality_checks', 50, '', 'SUCCESS');
cmp_ok((memory('scheduler'))[0] - $scheduler, '<', TOLERANCE, 'nor does the scheduler grow');

# What a process knows of a table it keeps, so one that reads another table each time does grow.
cmp_ok(growth('reads another table', 100, '', 'SUCCESS'), '>', TOLERANCE, 'memory that grows is noticed');

#
# Statements of a session
#

# By how much a session has grown, in bytes, when it has done a piece of work as often as given, and which errors it met.
sub growth_of_session
{
	my ($times, $work) = @_;
	my $measure = q{SELECT 'used ' || sum(used_bytes) FROM pg_backend_memory_contexts;};
	my $work_often = join "\n", ($work) x $times;
	my ($status, $output, $errors) = $node->psql('postgres', join("\n", 'SET client_min_messages = error;', ($work) x 20, $measure, $work_often, $measure), on_error_stop => 0);
	my ($used, $used_then) = $output =~ /^used (\d+)$/mg;
	my %errors = map { $_ => 1 } $errors =~ /ERROR:  (.*)/g;

	note("$used bytes, then $used_then");
	return ($used_then - $used, join "\n", sort keys %errors);
}

my %work = (
	'events that are written with their changes kept' => [ 150, q{
		BEGIN; INSERT INTO prod_analytics.events (org_id, user_id, event_type, event_time) SELECT 1, 1, 'view', now() - n * interval '1 day' FROM generate_series(1, 30) n; COMMIT;
		BEGIN; UPDATE prod_analytics.events SET org_id = 2 WHERE event_time > now() - interval '2 days' AND event_type = 'view'; SAVEPOINT s;
		DELETE FROM prod_analytics.events WHERE event_type = 'view' AND event_time > now() - interval '1 day'; ROLLBACK TO s; COMMIT;
		BEGIN; DELETE FROM prod_analytics.events WHERE event_type = 'view'; ROLLBACK;
		DELETE FROM prod_analytics.events WHERE event_type = 'view' AND event_time > now() - interval '31 days';} ],
	'etl_ingest_events()' => [ 150, "BEGIN; $stage_events SELECT FROM prod_analytics.etl_ingest_events(); ROLLBACK; $stage_events SELECT FROM prod_analytics.etl_ingest_events(10); SELECT FROM prod_analytics.etl_ingest_events();" ],
	'etl_upsert_users()' => [ 150, "$stage_users SELECT FROM prod_analytics.etl_upsert_users();" ],
	'refresh_incremental()' => [ 100, q{
		UPDATE prod_analytics.events SET org_id = 3 - org_id WHERE event_id = 1; SELECT FROM prod_analytics.refresh_incremental('by_org');} ],
	'verify_matview()' => [ 60, q{SELECT FROM prod_analytics.verify_matview('prod_analytics.mv_org_daily_metrics');} ],
	'enable_incremental_refresh() and disable_incremental_refresh()' => [ 60, q{
		SELECT FROM prod_analytics.disable_incremental_refresh('by_org'); SELECT FROM prod_analytics.enable_incremental_refresh('by_org');} ],
	'validation, and schemas that do not compile' => [ 150, q{
		SELECT FROM prod_analytics.validate_event('purchase', '{"order_id": 1, "price": "x"}');
		SELECT prod_analytics.jsonb_matches_schema('{"pattern": "^[a-z]+$", "format": "idn-email"}', '"abc"'), prod_analytics.jsonschema_is_valid('{"type": 1}');
		SELECT prod_analytics.jsonschema_is_valid('{"pattern": "(("}');} ],
	'funnel(), retention() and active_users()' => [ 100, q{
		SELECT FROM prod_analytics.funnel(ARRAY['product_view', 'add_to_cart', 'purchase'], '1 day');
		SELECT FROM prod_analytics.retention(current_date - 30, current_date);
		SELECT FROM prod_analytics.active_users(current_date - 30, current_date);} ],
	'errors' => [ 150, q{
		SELECT prod_analytics.funnel(ARRAY['view', NULL], '1 day'); SELECT prod_analytics.search_knowledge_base('x', max_rows => -1);
		SELECT prod_analytics.run_job('none'); SELECT prod_analytics.schedule_job('x', '61 * * * *', 'SELECT 1'); SELECT prod_analytics.ensure_partitions('notes');
		SELECT prod_analytics.enable_incremental_refresh('notes'); SELECT prod_analytics.register_event_schema('x', '{"type": 1}');
		DO 'BEGIN PERFORM prod_analytics.etl_ingest_events(-1); EXCEPTION WHEN OTHERS THEN NULL; END';} ]);

psql(q{
	CREATE MATERIALIZED VIEW by_org AS SELECT org_id, count(*) AS events FROM prod_analytics.events GROUP BY org_id;
	CREATE UNIQUE INDEX ON by_org (org_id);
	SELECT prod_analytics.enable_incremental_refresh('by_org')});
my $all_errors = join "\n", '"61 * * * *" is not a schedule', '"notes" is not a materialized view', 'a step of a funnel must not be NULL',
	'invalid JSON Schema at "/type": type is not a string', 'job "none" does not exist', 'max_rows must be positive', 'table "notes" has no partition policy';
foreach my $name (sort keys %work)
{
	my ($times, $work) = @{ $work{$name} };
	my ($growth, $errors) = growth_of_session($times, $work);

	cmp_ok($growth, '<', TOLERANCE, "$name: memory stays what it is for $times times");
	$name eq 'errors' ? is($errors, $all_errors, 'each kind of error was met') : is($errors, '', "$name: without an error");
}

# A view that is computed anew takes what REFRESH MATERIALIZED VIEW CONCURRENTLY takes, which makes a temporary table each time: a
# session keeps its buffers, and what it has known of its type.  (A runner ends after that.)
psql(q{
	CREATE MATERIALIZED VIEW by_name AS
		SELECT org_id, (SELECT max(o.org_name) FROM prod_analytics.organizations o) AS name, count(*) AS users FROM prod_analytics.users GROUP BY org_id;
	CREATE UNIQUE INDEX ON by_name (org_id);
	SELECT prod_analytics.enable_incremental_refresh('by_name')});
my $change = q{UPDATE prod_analytics.organizations SET org_name = org_name || 'x' WHERE org_id = 1;};
my ($plain) = growth_of_session(60, "$change REFRESH MATERIALIZED VIEW CONCURRENTLY by_name;");
my ($ours) = growth_of_session(60, "$change SELECT FROM prod_analytics.refresh_incremental('by_name');");
cmp_ok($ours - $plain, '<', TOLERANCE, 'a view that is computed anew takes no more than plain PostgreSQL does');

$node->stop;
done_testing();
