# The worker waits for databases, for the extension and for its tables, for room in the server and for the end of
# recovery, and does so in silence.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('worker_databases');

sub psql
{
	my ($database, $query) = @_;

	return $node->safe_psql($database, $query);
}

# Waits until a query returns true.
sub comes_true
{
	my ($database, $query, $name) = @_;

	ok($node->poll_query_until($database, $query), $name);
	return;
}

# Waits until the jobs of a database have begun some more times.
sub runs_again
{
	my ($database, $name) = @_;
	my $last = psql($database, 'SELECT max(job_id) FROM prod_analytics.etl_jobs');

	comes_true($database, "SELECT count(*) > 3 FROM prod_analytics.etl_jobs WHERE job_id > $last", $name);
	return;
}

# How often a line is in the server's log.
sub told
{
	my ($pattern) = @_;

	return scalar(() = slurp_file($node->logfile) =~ /$pattern/g);
}

# What psql says besides the result.
sub said
{
	my ($database, $query) = @_;
	my ($code, $out, $err) = $node->psql($database, $query, on_error_stop => 1);

	$err =~ s/^psql:<stdin>:\d+: //mg;
	return join "\n", grep { !/installing required extension/ } split /\n/, $err;
}

my $runs = q{SELECT count(*) > 0 FROM prod_analytics.etl_jobs WHERE job_name = 'beat' AND status = 'SUCCESS' AND finished_at > now() - interval '3 seconds'};

# Makes the extension in a database, with one job and no others.
sub make
{
	my ($database) = @_;

	psql($database, q{
		CREATE EXTENSION prod_analytics CASCADE;
		SELECT prod_analytics.pause_job(job_name) FROM prod_analytics.jobs;
		SELECT prod_analytics.schedule_job('beat', '1 second', 'SELECT 1')});
	return;
}

$node->init(allows_streaming => 1);

#
# Who creates the extension is told what is missing for a worker, by statements that can be run as they are
#

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'auto_explain, \"pg_prewarm\"'\nprod_analytics.databases = 'other'");
$node->start;
psql('postgres', q{CREATE DATABASE "It's, new"; CREATE DATABASE told});
my $told = said("It's, new", 'CREATE EXTENSION prod_analytics CASCADE');
is($told, <<'TOLD' =~ s/\n\z//r, 'without the library: what to do');
NOTICE:  no worker runs jobs in database "It's, new"
DETAIL:  The library is not in shared_preload_libraries.
HINT:  For one: ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', 'pg_prewarm', 'prod_analytics'; ALTER SYSTEM SET prod_analytics.databases = 'other, "It''s, new"'; and restart the server. Without one, call the functions yourself.
TOLD
$node->psql("It's, new", "LOAD 'prod_analytics';\n$_") foreach $told =~ /(ALTER SYSTEM [^;]+;)/g;
$node->restart;
comes_true("It's, new", q{SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE process = 'scheduler'}, 'who does it has a worker');
is(said('told', 'BEGIN; SAVEPOINT s; CREATE EXTENSION prod_analytics CASCADE; ROLLBACK TO s; COMMIT'), '', 'who takes it back is told nothing');
is(said('told', "SET client_min_messages = 'warning'; CREATE EXTENSION prod_analytics CASCADE; DROP SCHEMA prod_analytics CASCADE"), '', 'nor who wants no notices');
$told = said('told', 'CREATE EXTENSION prod_analytics');
is($told, <<'TOLD' =~ s/\n\z//r, 'in a database that is not listed: what to do');
NOTICE:  no worker runs jobs in database "told"
DETAIL:  The database is not listed in prod_analytics.databases.
HINT:  For one: ALTER SYSTEM SET prod_analytics.databases = 'other, "It''s, new", told'; SELECT pg_reload_conf();
TOLD
$node->psql('told', $_) foreach $told =~ /((?:ALTER SYSTEM|SELECT) [^;]+;)/g;
comes_true('told', q{SELECT count(*) = 1 FROM prod_analytics.worker_status WHERE process = 'scheduler'}, 'who does it has a worker');
psql('told', 'DROP SCHEMA prod_analytics CASCADE');
is(said('told', 'CREATE EXTENSION prod_analytics'), '', 'where the worker serves, there is nothing to tell');
is(said('told', 'ALTER EXTENSION prod_analytics UPDATE'), qq{NOTICE:  version "} . psql('told', q{SELECT default_version FROM pg_available_extensions WHERE name = 'prod_analytics'}) . q{" of extension "prod_analytics" is already installed}, 'nor when it is updated');
psql('told', 'DROP SCHEMA prod_analytics CASCADE');
psql('postgres', 'ALTER SYSTEM SET prod_analytics.enabled = off');
psql('postgres', 'SELECT pg_reload_conf()');
comes_true('told', q{SELECT current_setting('prod_analytics.enabled') = 'off'}, 'the worker is switched off');
is(said('told', 'CREATE EXTENSION prod_analytics'), '', 'who has done it is told nothing');
psql('postgres', 'ALTER SYSTEM RESET ALL');
psql('postgres', q{DROP DATABASE "It's, new" WITH (FORCE)});
psql('postgres', 'DROP DATABASE told WITH (FORCE)');
$node->stop;

$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'prod_analytics'
prod_analytics.databases = 'postgres, "Größe, mit ""Komma""", later'
max_worker_processes = 16
CONF
$node->start;

#
# Databases and extension that come and go
#

comes_true('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'prod_analytics scheduler'}, 'a database without the extension has a scheduler');
psql('postgres', q{CREATE DATABASE "Größe, mit ""Komma"""});
comes_true('postgres', q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'prod_analytics scheduler'}, 'a database that is made later gets one');
is(told('database "later" does not exist or allows no connections'), 1, 'that one is missing is told once');
make('Größe, mit "Komma"');
comes_true('Größe, mit "Komma"', $runs, 'its jobs run');
make('postgres');
comes_true('postgres', $runs, 'an extension that is made later is found');
psql('postgres', 'SET client_min_messages = warning; DROP EXTENSION prod_analytics CASCADE');
comes_true('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'postgres' AND application_name LIKE 'prod_analytics job%'}, 'without the extension nothing runs');
my $count = psql('postgres', 'SELECT count(*) FROM prod_analytics.etl_jobs');
runs_again('Größe, mit "Komma"', 'elsewhere they do');
is(psql('postgres', 'SELECT count(*) FROM prod_analytics.etl_jobs'), $count, 'nothing at all');
psql('postgres', 'SET client_min_messages = warning; CREATE EXTENSION prod_analytics CASCADE');
comes_true('postgres', $runs, 'made again, it goes on with the jobs that there were');
psql('postgres', 'DROP SCHEMA prod_analytics CASCADE');
make('postgres');
comes_true('postgres', $runs, 'so it does after everything was dropped');

# Dropped by force and made again, a database has its scheduler again.
my ($code, $out, $error) = $node->psql('postgres', q{DROP DATABASE "Größe, mit ""Komma"""});
like($error, qr/is being accessed by other users/, 'who works in a database keeps it from being dropped');
psql('postgres', q{DROP DATABASE "Größe, mit ""Komma""" WITH (FORCE)});
psql('postgres', q{CREATE DATABASE "Größe, mit ""Komma"""});
make('Größe, mit "Komma"');
comes_true('Größe, mit "Komma"', $runs, 'a database that was dropped by force and made again is found');
cmp_ok(told('FATAL:'), '<', 12, 'nobody tries again and again');

# The scheduler is connected as a superuser: who owns a database, and so can put operators where they are looked up, has
# none of them called.
my $owned = 'Größe, mit "Komma"';

psql($owned, q{
	CREATE ROLE landlord;
	ALTER DATABASE "Größe, mit ""Komma""" OWNER TO landlord;
	ALTER DATABASE "Größe, mit ""Komma""" SET search_path = public, pg_catalog;
	SET ROLE landlord;
	CREATE FUNCTION public.climb() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS
		'BEGIN IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN ALTER ROLE landlord SUPERUSER; END IF; END';
	CREATE FUNCTION public.same(oid, regprocedure) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM public.climb(); RETURN $1 OPERATOR(pg_catalog.=) $2::oid; END';
	CREATE FUNCTION public.same(name, name) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM public.climb(); RETURN $1 OPERATOR(pg_catalog.=) $2; END';
	CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regprocedure, FUNCTION = public.same);
	CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = name, FUNCTION = public.same)});
my $scheduler = q{SELECT max(pid) FROM pg_stat_activity WHERE backend_type LIKE '%scheduler' AND datname LIKE 'Gr%'};
my $old = psql('postgres', $scheduler);
psql('postgres', "SELECT pg_terminate_backend($old)");
comes_true('postgres', "SELECT ($scheduler) <> $old", 'a scheduler begins with the settings that the owner of its database has made');
runs_again($owned, 'it works');
is(psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'landlord'}), 'f', 'it calls nothing that the owner of its database has made');
psql('postgres', q{
	ALTER DATABASE "Größe, mit ""Komma""" RESET search_path;
	ALTER DATABASE "Größe, mit ""Komma""" OWNER TO CURRENT_USER});
psql($owned, 'SET client_min_messages = warning; DROP OWNED BY landlord CASCADE; DROP ROLE landlord');

#
# A restore
#

my $dump = $node->basedir . '/dump';

psql('Größe, mit "Komma"', q{
	SELECT prod_analytics.schedule_job('daily', '30 3 * * *', 'SELECT 1', timezone => 'Europe/Berlin', max_retries => 2, depends_on => '{beat}');
	SELECT prod_analytics.pause_job('daily')});
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('Größe, mit "Komma"') ], 'a database with jobs is dumped');
psql('postgres', 'CREATE DATABASE later');
comes_true('later', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'prod_analytics scheduler' AND datname = 'later'}, 'the database that was waited for has a scheduler');
$node->command_ok([ 'pg_restore', '--exit-on-error', '--section=pre-data', '--section=data', '-d', $node->connstr('later'), $dump ], 'tables and rows are restored');
$count = psql('later', 'SELECT count(*) FROM prod_analytics.etl_jobs');
runs_again('postgres', 'time passes');
is(psql('later', 'SELECT count(*) FROM prod_analytics.etl_jobs'), $count, 'while keys and triggers are missing nothing runs');
$node->command_ok([ 'pg_restore', '--exit-on-error', '--section=post-data', '-d', $node->connstr('later'), $dump ], 'the rest is restored');
comes_true('later', $runs, 'then the jobs run');
is(psql('later', q{SELECT schedule, timezone, max_retries, depends_on, paused FROM prod_analytics.jobs WHERE job_name = 'daily'}),
	psql('Größe, mit "Komma"', q{SELECT schedule, timezone, max_retries, depends_on, paused FROM prod_analytics.jobs WHERE job_name = 'daily'}),
	'a job is what it was');

#
# No room in the server
#

psql('postgres', q{SELECT prod_analytics.schedule_job('long ' || n, '100 years', 'SELECT pg_sleep(1000)') FROM generate_series(1, 3) n});
$node->append_conf('postgresql.conf', "max_worker_processes = 6\n");
$node->restart;
comes_true('postgres', q{SELECT count(*) = 3 FROM pg_stat_activity WHERE backend_type = 'prod_analytics scheduler'}, 'the schedulers fit in, and a single runner');
$runs =~ s/now\(\) - interval '3 seconds'/pg_postmaster_start_time()/;
comes_true('postgres', $runs, 'in turns, jobs find room');
comes_true('later', $runs, 'in every database');
comes_true('Größe, mit "Komma"', $runs, 'in all of them');
cmp_ok(told('jobs have to wait for a process'), '<', 20, 'that they wait is not told all the time');
$node->append_conf('postgresql.conf', "max_worker_processes = 16\n");
$node->restart;

#
# A standby
#

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('worker_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'prod_analytics%'}), 0, 'on a standby there is no worker');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM prod_analytics.worker_status}), 0, 'and none is shown');
($code, $out, $error) = $standby->psql('postgres', q{SELECT prod_analytics.run_job('beat')});
like($error, qr/cannot execute run_job\(\) in a read-only transaction/, 'nor can a job be run by hand');
$node->stop('immediate');
my $last = $standby->safe_psql('postgres', 'SELECT max(job_id) FROM prod_analytics.etl_jobs');
$standby->promote;
ok($standby->poll_query_until('postgres', "SELECT count(*) > 2 FROM prod_analytics.etl_jobs WHERE job_id > $last AND job_name = 'beat' AND status = 'SUCCESS'"),
	'promoted, it begins without a restart');
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 0 FROM prod_analytics.etl_jobs WHERE status = 'RUNNING' AND started_at < now() - interval '10 seconds'}),
	'what the other server was at is not said to go on');
unlike(slurp_file($_->logfile), qr/PANIC:|TRAP:|was terminated by signal/, 'no process died by itself') for $node, $standby;

$standby->stop;
done_testing();
