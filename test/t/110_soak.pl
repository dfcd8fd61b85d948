# What "make soak" looks at in the end can fail: a store that is in order passes, and each invariant notices when what it is
# about is broken.

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use lib dirname(__FILE__) . '/../soak';
use Invariants qw(store_invariants file_invariants log_invariants memory_invariants);

my $node = PostgreSQL::Test::Cluster->new('soak');

sub psql
{
	my ($query) = @_;

	return $node->safe_psql('postgres', $query);
}

# Runs a program of PostgreSQL; returns its exit status and its output.
sub run_program
{
	my (@command) = @_;
	my $output = '';

	local @ENV{qw(PGHOST PGPORT)} = ($node->host, $node->port);
	IPC::Run::run([@command], '<', \undef, '>', \$output, '2>', \$output);
	return ($?, $output);
}

# What is wrong with an invariant of a list.
sub problems
{
	my ($name, @invariants) = @_;
	my ($invariant) = grep { $_->{name} eq $name } @invariants;
	my ($numbers, @problems) = $invariant->{check}->(\&psql, \&run_program);

	note("$name: $numbers");
	note("    $_") for @problems;
	return @problems;
}

# All invariants hold.
sub all_hold
{
	my ($when, @invariants) = @_;

	is(join("\n", problems($_->{name}, @invariants)), '', "$when: $_->{name}") for @invariants;
	return;
}

$node->init(extra => ['--data-checksums']);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'prod_analytics'
prod_analytics.databases = 'postgres'
max_worker_processes = 16
max_prepared_transactions = 2
deadlock_timeout = 100ms
restart_after_crash = on
autovacuum = off
log_line_prefix = '%m [%p] %e <%b|%a> '
log_min_messages = warning
log_connections = on
log_statement = none
CONF
$node->start;
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-o', File::Spec->devnull, '-f', dirname(__FILE__) . '/../soak/store.sql' ],
	'the store is made');
psql('UPDATE prod_analytics.jobs SET paused = true');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM prod_analytics.worker_status WHERE process IN ('launcher', 'scheduler')}), 'the worker is there');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM prod_analytics.etl_jobs WHERE status = 'RUNNING'}), 'and at rest');

# Two batches, one of which repeats some of the other's events; a few rows cannot go in.
psql(q{
	INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, event_time, payload)
	SELECT 1000000 + n % 180, 1 + n % 180, CASE WHEN n > 195 THEN 777 ELSE 1 + n % 18 END, 'product_view',
		date_trunc('day', now()) - n % 180 * interval '1 hour', jsonb_build_object('marker', 'm-' || n)
	FROM generate_series(1, 200) n;
	INSERT INTO soak.staged SELECT payload->>'marker', 'b-' || (payload->>'marker' > 'm-150'), event_id, event_time FROM prod_analytics.staging_events;
	INSERT INTO soak.acknowledged SELECT batch, count(*) FROM soak.staged GROUP BY batch;
	INSERT INTO prod_analytics.staging_users (src_id, email, org_src, payload)
	SELECT 'u-' || n, CASE WHEN n <= 10 THEN 'u-' || n || '@example.net' ELSE 'shared@example.org' END, CASE WHEN n = 1 THEN 'nobody' ELSE 'Organization 1' END,
		jsonb_build_object('marker', 'u-' || n) FROM generate_series(1, 12) n;
	INSERT INTO soak.staged_users SELECT src_id, 'users', email, email = 'shared@example.org' FROM prod_analytics.staging_users;
	INSERT INTO soak.readings (sensor, taken_at, value) SELECT n % 7, now(), n FROM generate_series(1, 20) n});
psql(q{
	SELECT prod_analytics.etl_ingest_events();
	SELECT prod_analytics.etl_upsert_users()});
psql('CALL prod_analytics.maintain_partitions()');
psql('SELECT prod_analytics.refresh_incremental()');

my @invariants = store_invariants();
my @log = log_invariants($node->logfile);
all_hold('in order', @invariants, @log);
like(psql(q{SELECT string_agg(fate || ' ' || n, ', ' ORDER BY fate) FROM (SELECT fate, count(*) AS n FROM soak.fate GROUP BY 1) f}),
	qr/^duplicate [1-9]\d*, event 1\d\d, quarantined [1-9]$/, 'rows have come to different places');

# What is broken, how, and how it is mended.
my $staging = 'each staged row is one of inserted, duplicate, quarantined, still staged';
my $views = 'materialized views are what their queries return';
my $month = psql(q{SELECT 'prod_analytics.events_p' || to_char(date_trunc('month', now(), 'UTC') AT TIME ZONE 'UTC', 'YYYYMMDD')});
my $last_month = psql(q{SELECT partition_name FROM prod_analytics.partition_status WHERE table_name::text LIKE '%events' AND NOT is_default ORDER BY partition_name DESC LIMIT 1});
my $capture = psql(q{SELECT tgname FROM pg_trigger WHERE tgrelid = 'prod_analytics.events'::regclass AND tgname LIKE 'prod_analytics_capture%' LIMIT 1});
my $check = psql(qq{SELECT conname FROM pg_constraint WHERE conrelid = '$month'::regclass AND contype = 'c' AND conname LIKE '%event_date%' LIMIT 1});
my $bounds = psql(qq{SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = '$month'::regclass});
my @breaks = (
	[ 'what a client saw committed is there', q{UPDATE soak.acknowledged SET markers = markers + 1}, q{UPDATE soak.acknowledged SET markers = markers - 1} ],
	[ $staging, q{INSERT INTO prod_analytics.quarantined_events (payload, reasons) SELECT event_props, '[]' FROM prod_analytics.events LIMIT 1},
		q{DELETE FROM prod_analytics.quarantined_events WHERE reasons = '[]'} ],
	[ $staging, q{INSERT INTO prod_analytics.staging_events (payload) VALUES ('{"marker": "rolled back"}')}, q{DELETE FROM prod_analytics.staging_events} ],
	[ $staging, q{UPDATE soak.staged SET marker = 'another' WHERE marker = 'm-5'}, q{UPDATE soak.staged SET marker = 'm-5' WHERE marker = 'another'} ],
	[ "$staging|$views", q{ALTER TABLE prod_analytics.events DISABLE TRIGGER USER;
			CREATE TABLE gone AS SELECT * FROM prod_analytics.events WHERE event_props->>'marker' = 'm-5';
			DELETE FROM prod_analytics.events WHERE event_props->>'marker' = 'm-5';
			ALTER TABLE prod_analytics.events ENABLE ALWAYS TRIGGER } . $capture,
		q{INSERT INTO soak.removed SELECT event_props->>'marker', event_id, event_time FROM gone; DROP TABLE gone;
			SELECT prod_analytics.mark_changed(matview::regclass) FROM prod_analytics.registered_matviews WHERE mode = 'incremental'; SELECT prod_analytics.refresh_incremental()} ],
	[ 'each staged user is merged, quarantined or still staged, unless superseded or erased', q{DELETE FROM prod_analytics.users WHERE email = 'u-5@example.net'},
		q{INSERT INTO soak.erased VALUES ('u-5@example.net'); SELECT prod_analytics.refresh_incremental()} ],
	[ 'the log of ingestion adds up to what was staged', q{UPDATE prod_analytics.etl_jobs SET rows_processed = rows_processed + 1 WHERE job_name = 'ingest_events' AND status = 'SUCCESS'},
		q{UPDATE prod_analytics.etl_jobs SET rows_processed = rows_processed - 1 WHERE job_name = 'ingest_events' AND status = 'SUCCESS'} ],
	[ 'no event is there twice', q{ALTER TABLE prod_analytics.events DROP CONSTRAINT events_pkey;
			INSERT INTO prod_analytics.events (event_id, event_time, event_type, event_props) SELECT event_id, event_time, 'twice', '{}' FROM prod_analytics.events LIMIT 1},
		q{DELETE FROM prod_analytics.events WHERE event_type = 'twice'; ALTER TABLE prod_analytics.events ADD PRIMARY KEY (event_id, event_time); SELECT prod_analytics.refresh_incremental()} ],
	[ 'each event has the user and the organization that it names', q{SET session_replication_role = replica; UPDATE prod_analytics.events SET user_id = 999999 WHERE event_id = 1000007},
		q{UPDATE prod_analytics.events SET user_id = NULL WHERE event_id = 1000007; SELECT prod_analytics.refresh_incremental()} ],
	[ 'no change of a view is left over', q{UPDATE prod_analytics.events SET event_type = 'changed' WHERE event_id = 1000008}, q{SELECT prod_analytics.refresh_incremental()} ],
	[ 'tables and indexes are sound (amcheck)', q{CREATE FUNCTION inconstant(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1';
			CREATE TABLE unsound AS SELECT generate_series(1, 10) AS n; CREATE INDEX ON unsound (inconstant(n));
			CREATE OR REPLACE FUNCTION inconstant(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'}, q{DROP TABLE unsound} ],
	[ 'no run is RUNNING without a holder', q{INSERT INTO prod_analytics.etl_jobs (job_name, started_at, status) VALUES ('ingest_events', now(), 'RUNNING')},
		q{DELETE FROM prod_analytics.etl_jobs WHERE status = 'RUNNING'} ],
	[ 'runs of a job do not overlap', q{INSERT INTO prod_analytics.etl_jobs (job_name, started_at, finished_at, status, rows_processed, details)
			SELECT 'upsert_users', now() + n * interval '1 hour', now() + n * interval '1 hour' + interval '2 hours', 'SUCCESS', 0, '{"test": true}' FROM generate_series(1, 2) n},
		q{DELETE FROM prod_analytics.etl_jobs WHERE details ? 'test'} ],
	[ 'runs that failed have an excuse', q{INSERT INTO prod_analytics.etl_jobs (job_name, started_at, finished_at, status, details) VALUES ('erase_user', now(), now(), 'FAILED', '{"sqlstate": "XX000", "error": "test"}')},
		q{DELETE FROM prod_analytics.etl_jobs WHERE details->>'error' = 'test'} ],
	[ 'runs that failed have an excuse', q{INSERT INTO prod_analytics.etl_jobs (job_name, started_at, finished_at, status, details)
			VALUES ('maintain_partitions', now() - interval '2 days', now() - interval '1 day', 'FAILED', '{"errors": [{"sqlstate": "55P03"}, {"sqlstate": "XX000", "error": "test"}]}')},
		q{DELETE FROM prod_analytics.etl_jobs WHERE job_name = 'maintain_partitions' AND status = 'FAILED'} ],
	[ 'runs that failed have an excuse', q{INSERT INTO prod_analytics.etl_jobs (job_name, started_at, finished_at, status, details)
			VALUES ('refresh_matviews', now(), now(), 'FAILED', '{"views": [{"status": "SUCCESS"}, {"status": "FAILED", "sqlstate": "40P01"}, {"status": "FAILED", "sqlstate": "XX000", "error": "test"}]}')},
		q{DELETE FROM prod_analytics.etl_jobs WHERE job_name = 'refresh_matviews' AND status = 'FAILED'} ],
	[ 'the state of each job fits the log', q{UPDATE prod_analytics.job_state SET last_job_id = 0 WHERE job_name = 'vacuum'},
		q{UPDATE prod_analytics.job_state SET last_job_id = NULL, last_status = NULL WHERE last_job_id = 0} ],
	[ 'no lock and no transaction is left over', q{BEGIN; SELECT pg_advisory_xact_lock(1); PREPARE TRANSACTION 'left'}, q{ROLLBACK PREPARED 'left'} ],
	[ 'no partition is detached or outside of its table', qq{ALTER TABLE prod_analytics.events DETACH PARTITION $month}, qq{ALTER TABLE prod_analytics.events ATTACH PARTITION $month $bounds; SELECT prod_analytics.refresh_incremental()} ],
	[ 'bounds of partitions do not overlap, and leave no gap where there should be none', qq{DROP TABLE $last_month}, q{SELECT prod_analytics.ensure_partitions('prod_analytics.events'); SELECT prod_analytics.refresh_incremental()} ],
	[ 'each partition has the indexes of its table', q{CREATE INDEX lacking ON ONLY prod_analytics.events (device_type)}, q{DROP INDEX prod_analytics.lacking} ],
	[ 'each partition has the triggers of its table, as it has them enabled', qq{ALTER TABLE $month ENABLE TRIGGER $capture}, qq{ALTER TABLE $month ENABLE ALWAYS TRIGGER $capture; SELECT prod_analytics.refresh_incremental()} ],
	[ 'each partition has the privileges and the owner of its table', qq{GRANT SELECT ON $month TO soak_loader}, qq{REVOKE SELECT ON $month FROM soak_loader} ],
	[ 'each partition has the privileges and the owner of its table', qq{ALTER TABLE $month OWNER TO soak_operator}, qq{ALTER TABLE $month OWNER TO CURRENT_USER} ],
	[ 'each partition has the CHECK on its days', qq{ALTER TABLE $month DROP CONSTRAINT $check}, q{SELECT prod_analytics.ensure_partitions('prod_analytics.events')} ],
	[ 'the default partition has no row that belongs elsewhere', q{INSERT INTO prod_analytics.events (event_id, event_type, event_time, event_props) VALUES (1, 'old', now() - interval '2 years', '{}')},
		q{DELETE FROM prod_analytics.events WHERE event_id = 1; SELECT prod_analytics.refresh_incremental()} ],
	[ 'nothing temporary is left over', 'CREATE SCHEMA prod_analytics_expected', 'DROP SCHEMA prod_analytics_expected' ]);

foreach my $break (@breaks)
{
	my ($names, $how, $mend) = @$break;

	psql($how);
	isnt(join("\n", problems($_, @invariants)), '', "broken: $_") for split /\|/, $names;
	psql($mend);
}

$node->append_conf('postgresql.conf', "prod_analytics.databases = ''\n");
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process = 'scheduler'}), 'a scheduler leaves');
isnt(join("\n", problems('the worker is complete', @invariants)), '', 'broken: the worker is complete');
$node->append_conf('postgresql.conf', "prod_analytics.databases = 'postgres'\n");
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE process = 'scheduler'}), 'a scheduler comes');
all_hold('mended', @invariants);

# Memory: a process that grows, one that does not, and none that could be compared.
my %memory = (grows => { 1 => [ map { [ $_, 1000 * $_ ] } 1 .. 20 ] }, stays => { 2 => [ map { [ $_, 5000 + 100 * ($_ % 5) ] } 1 .. 20 ] }, short => { 3 => [ [ 1, 1 ] ] });
my @memory = memory_invariants(4096, 1, 5, %memory);
is(join(',', map { scalar(problems("the memory of $_ does not grow", @memory)) > 0 ? 'grows' : 'stays' } qw(grows stays short)), 'grows,stays,grows', 'memory that grows, or was not compared, is noticed');

# The log.
$node->psql('postgres', q{SET application_name = 'loader1'; DO $$ BEGIN RAISE EXCEPTION 'cache lookup failed for a test' USING ERRCODE = 'XX000'; END $$});
isnt(join("\n", problems($_, @log)), '', "broken: $_") for 'the log has no error that clients may not provoke', 'nothing in the log tells of an internal error';

psql(q{
	CREATE TABLE one (); CREATE TABLE two ();
	SELECT prod_analytics.schedule_job('one', '1 second', 'LOCK TABLE one; SELECT pg_sleep(0.2); LOCK TABLE two');
	SELECT prod_analytics.schedule_job('two', '1 second', 'LOCK TABLE two; SELECT pg_sleep(0.2); LOCK TABLE one')});
ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM prod_analytics.etl_jobs WHERE details->>'sqlstate' = '40P01'}), 'two runners wait for each other');
$node->wait_for_log(qr/ 40P01 .*DETAIL:/);
isnt(join("\n", problems('each deadlock has a client in it', @log)), '', 'broken: each deadlock has a client in it');
psql(q{SELECT prod_analytics.unschedule_job('one'); SELECT prod_analytics.unschedule_job('two')});

$node->psql('postgres', q{COPY (SELECT pg_backend_pid()) TO PROGRAM 'xargs kill -ABRT'; SELECT pg_sleep(60)});
ok($node->poll_query_until('postgres', undef, ''), 'the server is back after a process has died');
isnt(join("\n", problems('no process has died by itself', @log)), '', 'broken: no process has died by itself');

# The files.
my $table = $node->data_dir . '/' . psql(q{CHECKPOINT; SELECT pg_relation_filepath('prod_analytics.organizations')});
my $segment = PostgreSQL::Test::Utils::tempdir() . '/segment';
my @files = file_invariants($node->data_dir, \&run_program, $segment => 1);

$node->stop;
all_hold('after the shutdown', @files);
open my $handle, '+<:raw', $table or die "$table: $!";
seek $handle, 8000, 0;
read $handle, my $byte, 1;
seek $handle, 8000, 0;
print $handle chr(255 - ord $byte);
close $handle;
mkdir $node->data_dir . '/base/pgsql_tmp';
append_to_file($node->data_dir . '/base/pgsql_tmp/pgsql_tmp1.0', 'left over');
append_to_file($segment, 'left over');
isnt(join("\n", problems($_, @files)), '', "broken: $_") for map { $_->{name} } @files;

done_testing();
