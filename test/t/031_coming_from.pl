# What docs/coming_from.md says to do with tables of pg_partman and jobs of pg_cron does it.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The example of the document that is for an extension.
sub example_for
{
	my ($extension) = @_;

	my @blocks = slurp_file('docs/coming_from.md') =~ /^```sql $extension\n(.*?)^```/gms or die "no example for $extension";
	return join '', @blocks;
}

my $library_directory = `pg_config --pkglibdir`;
chomp $library_directory;
my $has_cron = -e "$library_directory/pg_cron.so";

my $node = PostgreSQL::Test::Cluster->new('coming_from');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_cron'\ncron.database_name = 'postgres'") if $has_cron;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION prod_analytics CASCADE');

SKIP:
{
	my $version = $node->safe_psql('postgres', q{SELECT split_part(default_version, '.', 1) FROM pg_available_extensions WHERE name = 'pg_partman'});

	skip 'the extension pg_partman is not installed', 6 if $version eq '';

	my $interval = $version < 5 ? q{'native', 'daily'} : q{'1 day'};
	my $numbers = $version < 5 ? q{'native', '1000'} : q{'1000'};

	$node->safe_psql('postgres', <<"SQL");
SET timezone = 'UTC';
CREATE SCHEMA partman;
CREATE EXTENSION pg_partman SCHEMA partman;
-- of one day
BEGIN;
CREATE TABLE visits (visited_at timestamptz NOT NULL, page text) PARTITION BY RANGE (visited_at);
SELECT partman.create_parent('public.visits', 'visited_at', $interval, p_premake := 4);
UPDATE partman.part_config SET retention = '30 days', retention_keep_table = false;
INSERT INTO visits SELECT date_trunc('day', now()) + i * interval '1 day', '/' FROM generate_series(0, 6) i;
CREATE TABLE kept (LIKE visits) PARTITION BY RANGE (visited_at);
SELECT partman.create_parent('public.kept', 'visited_at', $interval);
UPDATE partman.part_config SET retention = '1 year' WHERE parent_table = 'public.kept';
CREATE TABLE numbered (id bigint NOT NULL) PARTITION BY RANGE (id);
SELECT partman.create_parent('public.numbered', 'id', $numbers);
COMMIT;
SQL
	my $partitions = q{SELECT string_agg(inhrelid::regclass::text, ',' ORDER BY inhrelid) FROM pg_inherits WHERE inhparent = 'visits'::regclass};
	my $before = $node->safe_psql('postgres', $partitions);
	my $in_default = $node->safe_psql('postgres', 'SELECT count(*) FROM visits_default');

	is($in_default, 2, 'rows too far ahead for pg_partman are in its default partition');
	# a policy that looks further ahead than pg_partman did
	$node->safe_psql('postgres', 'UPDATE partman.part_config SET premake = 10');
	$node->safe_psql('postgres', "SET timezone = 'UTC';\n" . example_for('pg_partman'));

	is($node->safe_psql('postgres', 'SELECT width, ahead, retention FROM prod_analytics.partition_policies WHERE parent = $$public.visits$$'),
		'1 day|10|30 days', 'the configuration of pg_partman is the policy');
	is($node->safe_psql('postgres', 'SELECT retention FROM prod_analytics.partition_policies WHERE parent = $$public.kept$$'),
		'', 'a retention that only detaches tables is not taken over');
	like($node->safe_psql('postgres', $partitions), qr/^\Q$before\E,/, 'its partitions stay');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM visits_default') . '|' . $node->safe_psql('postgres', 'SELECT count(*) FROM visits'),
		'0|7', 'rows of its default partition have moved');
	is($node->safe_psql('postgres', 'SELECT parent_table FROM partman.part_config'), 'public.numbered', 'pg_partman is in charge of nothing else than numbers');
}

SKIP:
{
	skip 'the extension pg_cron is not installed', 4 if !$has_cron;

	$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_cron;
CREATE ROLE alice LOGIN;
GRANT USAGE ON SCHEMA cron TO alice;
SELECT cron.schedule('nightly', '0 3 * * *', 'VACUUM');
SELECT cron.schedule('*/5 * * * *', $$SELECT 'it''s'$$);
SELECT cron.schedule('hourly', '@hourly', 'SELECT 2');
SELECT cron.schedule('idle', '30 4 * * 0', 'SELECT 3');
SELECT cron.alter_job(4, active => false);
SET ROLE alice;
SELECT cron.schedule('of alice', '0 5 1 * *', 'SELECT 4');
SQL
	$node->safe_psql('postgres', example_for('pg_cron'));

	is($node->safe_psql('postgres', q{SELECT count(*) FROM cron.job}), 0, 'pg_cron has no jobs any more');
	is($node->safe_psql('postgres', q{SELECT job_name, schedule, command FROM prod_analytics.jobs
		WHERE job_name IN ('nightly', 'cron_2', 'hourly', 'idle', 'of alice') ORDER BY job_name COLLATE "C"}),
		"cron_2|*/5 * * * *|SELECT 'it''s'\nhourly|1 hour|SELECT 2\nidle|30 4 * * 0|SELECT 3\nnightly|0 3 * * *|VACUUM\nof alice|0 5 1 * *|SELECT 4",
		'they are jobs here');
	is($node->safe_psql('postgres', q{SELECT job_name, owner FROM prod_analytics.jobs WHERE owner = 'alice'}), 'of alice|alice', 'of the same role');
	is($node->safe_psql('postgres', q{SELECT string_agg(job_name, ',') FROM prod_analytics.job_status WHERE paused}), 'idle', 'what was not active is paused');
}

done_testing();
