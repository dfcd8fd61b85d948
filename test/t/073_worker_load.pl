# Many jobs at once: all get their turn, no more run at a time than may, and a process works for one role only.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	JOBS => 200,
	ROLES => 5,
	MOST => 4,
};

my $node = PostgreSQL::Test::Cluster->new('worker_load');

sub psql
{
	my ($query) = @_;

	return $node->safe_psql('postgres', $query);
}

sub comes_true
{
	my ($query, $name) = @_;

	ok($node->poll_query_until('postgres', $query), $name);
	return;
}

$node->init;
$node->append_conf('postgresql.conf', 'shared_preload_libraries = prod_analytics
prod_analytics.databases = postgres
prod_analytics.enabled = off
prod_analytics.max_running_jobs = ' . MOST);
$node->start;
psql(q{
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.pause_job(job_name) FROM prod_analytics.jobs;
	CREATE TABLE turns (job int, at timestamptz DEFAULT clock_timestamp(), who name DEFAULT session_user, pid int DEFAULT pg_backend_pid(), running bigint);
	GRANT ALL ON turns TO PUBLIC});
foreach my $role (1 .. ROLES)
{
	psql(qq{
		CREATE ROLE role_$role LOGIN IN ROLE analytics_operator;
		SET ROLE role_$role;
		SELECT prod_analytics.schedule_job('job ' || n, '1 second', format(
			'INSERT INTO turns (job, running) SELECT %s, count(*) FROM pg_locks WHERE locktype = ''advisory''', n))
		FROM generate_series($role, @{[JOBS]}, @{[ROLES]}) n});
}
$node->append_conf('postgresql.conf', 'prod_analytics.enabled = on');
$node->reload;

comes_true('SELECT count(DISTINCT job) = ' . JOBS . ' FROM turns', 'every job gets its turn');
comes_true('SELECT count(*) = ' . JOBS . ' FROM (SELECT job FROM turns GROUP BY job HAVING count(*) >= 3) t', 'and again and again');
$node->append_conf('postgresql.conf', 'prod_analytics.enabled = off');
$node->reload;
comes_true(q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process <> 'launcher'}, 'the worker ends');
cmp_ok(psql('SELECT max(running) FROM turns'), '<=', MOST, 'no more run at a time than may');
cmp_ok(psql('SELECT max(number) - min(number) FROM (SELECT count(*) AS number FROM turns GROUP BY job) t'), '<=', 2, 'none has had many turns more than another');
is(psql('SELECT count(*) FROM (SELECT pid FROM turns GROUP BY pid HAVING count(DISTINCT who) > 1) t'), 0, 'a process works for one role');
is(psql(q{SELECT count(*) FROM turns t JOIN prod_analytics.jobs j ON j.job_name = 'job ' || t.job WHERE j.owner <> t.who}), 0, 'which is the owner of its jobs');
is(psql(q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status <> 'SUCCESS'}), 0, 'all of them succeed');
is(psql(q{SELECT count(*) FROM prod_analytics.etl_jobs}), psql('SELECT count(*) FROM turns'), 'and each is logged');

$node->stop;
done_testing();
