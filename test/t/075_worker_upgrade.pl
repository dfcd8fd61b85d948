# pg_upgrade: tables, views, what has changed since the last refresh, and jobs arrive in the new cluster, and the worker keeps
# away until then.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = 'shared_preload_libraries = prod_analytics
prod_analytics.databases = postgres
max_prepared_transactions = 2
';
my $old = PostgreSQL::Test::Cluster->new('old');
my $new = PostgreSQL::Test::Cluster->new('new');

# Everything that the upgrade must bring along, as text.
my $contents = <<'SQL';
SELECT c.relname, (xpath('/row/c/text()', query_to_xml(format(
	'SELECT md5(string_agg(t::text, E''\n'' ORDER BY t::text COLLATE "C")) AS c FROM %s t', c.oid::regclass), false, true, '')))[1]
FROM pg_class c
WHERE c.relnamespace = 'prod_analytics'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'v')
	AND c.relname NOT IN ('partition_status', 'job_status', 'worker_status', 'matview_status') ORDER BY c.relname;
SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2;
SELECT evtname, evtevent, evttags, evtfoid::regproc FROM pg_event_trigger ORDER BY 1;
SELECT job_name, owner, schedule, next_run_at, paused FROM prod_analytics.job_status ORDER BY 1;
SQL

# How many rows of the view differ from what the events say.
my $differences = q{SELECT count(*) FROM prod_analytics.verify_matview('prod_analytics.mv_org_daily_metrics')};
my $refresh = q{SELECT r->>'method' FROM prod_analytics.refresh_incremental('prod_analytics.mv_org_daily_metrics') r};
my $change = q{UPDATE prod_analytics.events SET event_props = event_props || '{"price": 1}' WHERE event_id = (SELECT max(event_id) FROM prod_analytics.events WHERE event_type = 'purchase')};

$old->init;
$old->append_conf('postgresql.conf', "${settings}prod_analytics.enabled = off\n");
$old->start;
$old->safe_psql(
	'postgres', qq{
	CREATE EXTENSION prod_analytics CASCADE;
	CREATE ROLE analyst LOGIN IN ROLE analytics_operator;
	SELECT prod_analytics.load_sample_data();
	CREATE TABLE ticks (who name DEFAULT session_user);
	GRANT INSERT ON ticks TO analyst;
	SET ROLE analyst;
	SELECT prod_analytics.schedule_job('tick', '1 second', 'INSERT INTO ticks DEFAULT VALUES');
	RESET ROLE;
	SELECT prod_analytics.pause_job('maintain_partitions');
	$refresh;
	$change});
cmp_ok($old->safe_psql('postgres', $differences), '>', 0, 'there is something to refresh');
my $expected = $old->safe_psql('postgres', $contents);

$old->stop;
$new->init;
$new->append_conf('postgresql.conf', $settings);

# pg_upgrade leaves its logs in the current directory when something goes wrong.
chdir $PostgreSQL::Test::Utils::tmp_check or die "cannot change the directory: $!";
command_ok(
	[
		'pg_upgrade', '--no-sync',
		'--old-datadir', $old->data_dir, '--new-datadir', $new->data_dir,
		'--old-bindir', $old->config_data('--bindir'), '--new-bindir', $new->config_data('--bindir'),
		'--old-port', $old->port, '--new-port', $new->port, '--socketdir', $new->host
	],
	'pg_upgrade');

$new->append_conf('postgresql.conf', "prod_analytics.enabled = off\n");
$new->start;
is($new->safe_psql('postgres', $contents), $expected, 'all of it is there, and nobody has worked on it');
cmp_ok($new->safe_psql('postgres', $differences), '>', 0, 'the view is as it was');
$new->safe_psql('postgres', $refresh);
is($new->safe_psql('postgres', $differences), 0, 'a refresh finds what had changed before');
$new->safe_psql('postgres', $change =~ s/1}/2}/r);
is($new->safe_psql('postgres', $refresh), 'keys', 'what changes is noted');
is($new->safe_psql('postgres', $differences), 0, 'and refreshed');

$new->append_conf('postgresql.conf', "prod_analytics.enabled = on\n");
$new->reload;
ok($new->poll_query_until('postgres', q{SELECT count(*) > 1 FROM ticks WHERE who = 'analyst'}), 'the worker goes on with the jobs');
$new->stop;

done_testing();
