# ALTER EXTENSION UPDATE makes of a store of any version that was released what a new one is, and leaves the data and what
# users have changed as they were.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Store;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('node');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = prod_analytics\nprod_analytics.databases = worked\nprod_analytics.enabled = off\nmax_worker_processes = 20\n");
$node->start;

my @versions = sort map { m{--([^-]+)\.sql$} } glob("$FindBin::RealBin/../../sql/versions/prod_analytics--*.sql");
my ($newest) = slurp_file("$FindBin::RealBin/../../prod_analytics.control") =~ /^default_version = '(.*)'/m;
my $dumps = PostgreSQL::Test::Utils::tempdir;

# What a new version may add for itself.
my $grows = qr/^[-+] (rows of prod_analytics\.(schema_version|quality_checks|jobs|job_state)|job |sequence prod_analytics\.quality)/;

sub create_database
{
	my ($name, $template) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name TEMPLATE " . ($template // 'template0'));
	return;
}

sub create_extension
{
	my ($name, $version, $before) = @_;

	create_database($name);
	$node->safe_psql($name, 'SET client_min_messages = warning;' . ($before // '') . "CREATE EXTENSION prod_analytics VERSION '$version' CASCADE");
	return;
}

# Tells what a statement says; nothing when there is nothing to say.
sub complaint
{
	my ($database, $statement) = @_;
	my ($code, $out, $err) = $node->psql($database, $statement, on_error_stop => 1);

	return $err;
}

sub installed_version
{
	my ($database) = @_;

	return $node->safe_psql($database, q{SELECT extversion FROM pg_extension WHERE extname = 'prod_analytics'});
}

my $update = 'ALTER EXTENSION prod_analytics UPDATE';

is(join(' ', @versions), $node->safe_psql('postgres', qq{SELECT string_agg(version, ' ' ORDER BY version) FROM pg_available_extension_versions WHERE name = 'prod_analytics' AND version <> '$newest'}),
	'the versions released can be created');

# What is new, without and with what users add to it.
create_extension('fresh', $newest);
my $fresh = catalog($node, 'fresh');
create_database('used');
create_store($node, 'used');
my $used = catalog($node, 'used');
$node->safe_psql('postgres', 'CREATE ROLE dba SUPERUSER; CREATE ROLE plain');

foreach my $version (@versions)
{
	# Untouched, it becomes a new one; and nothing that a new version has gets into an old one's place unnoticed.
	create_extension('plain', $version);
	isnt(differences(catalog($node, 'plain'), $fresh), '', "$version: is another version");
	is(complaint('plain', $update), '', "$version: the update has nothing to say");
	is(installed_version('plain'), $newest, "$version: it is the newest version");
	check_same(catalog($node, 'plain'), $fresh, "$version: what is updated is what a new one is");
	is($node->safe_psql('plain', 'SELECT prod_analytics.create_tables()'), '0', "$version: nothing is left to do");
	check_same(catalog($node, 'plain'), $fresh, "$version: and create_tables() changes nothing");

	# In use.  Until it is updated the new library serves the old functions.
	create_database('old');
	create_store($node, 'old', version => $version, without_roles => 1);
	run_cleanly("$version: dump", 'pg_dump', '-Fc', '-f', "$dumps/old.dump", $node->connstr('old'));
	create_database($_, 'old') for qw(unchanged updated worked);
	check_works($node, 'unchanged', "$version with the new library");
	is(complaint('updated', $update), '', "$version in use: the update has nothing to say");
	is( join("\n", grep { !/$grows/ } split /\n/, differences(data($node, 'updated'), data($node, 'old'))), '', "$version in use: no row is lost or changed");
	check_same(catalog($node, 'updated'), $used, "$version in use: it is what a new one in use is");
	is($node->safe_psql('updated', q{SELECT string_agg(check_name, ' ' ORDER BY check_name) FROM prod_analytics.quality_checks WHERE check_name IN ('mine', 'low_volume') OR warn_above = 5}),
		'duplicate_events mine', "$version in use: checks are as they were left");
	is($node->safe_psql('updated', q{SELECT string_agg(job_name, ' ' ORDER BY job_name) FROM prod_analytics.jobs WHERE job_name = 'purge_history' OR paused OR schedule = '2 hours'}),
		'maintain_partitions upsert_users', "$version in use: jobs are as they were left");
	run_cleanly("$version in use, updated: dump", 'pg_dump', '-Fc', '-f', "$dumps/updated.dump", $node->connstr('updated'));
	my $updated = catalog($node, 'updated');
	check_works($node, 'updated', "$version in use, updated");

	# A dump brings the tables of the old version, and gets the functions of the new one.
	create_database($_) for qw(restored restored_updated);
	run_cleanly("$version: restore", 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), "$dumps/old.dump");
	$node->safe_psql('restored', 'SELECT prod_analytics.create_tables()');
	is($node->safe_psql('restored', 'SELECT version FROM prod_analytics.schema_version'), $node->safe_psql('fresh', 'SELECT version FROM prod_analytics.schema_version'), "$version restored: create_tables() brings the tables up to date");
	check_works($node, 'restored', "$version restored");
	run_cleanly("$version updated: restore", 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored_updated'), "$dumps/updated.dump");
	check_same(catalog($node, 'restored_updated'), $updated, "$version updated: a dump of it brings back everything, privileges included");

	# The worker runs the jobs of the old version, and is updated under way.
	my $ticks = q{SELECT count(*) FROM public.ticks};
	my $enough = q{SELECT count(*) >= %d FROM public.ticks};
	$node->safe_psql('postgres', 'ALTER SYSTEM SET prod_analytics.enabled = on');
	$node->reload;
	ok($node->poll_query_until('worked', sprintf $enough, 2), "$version: the worker runs its jobs");
	is(complaint('worked', $update), '', "$version: the update is possible while the worker works");
	ok($node->poll_query_until('worked', sprintf $enough, $node->safe_psql('worked', $ticks) + 2), "$version: which goes on");
	ok($node->poll_query_until('worked', q{SELECT count(*) = 0 FROM prod_analytics.staging_events}), "$version: ingestion too");
	is($node->safe_psql('worked', q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status = 'FAILED' AND job_name NOT LIKE 'backfill%' AND job_name <> 'quality_checks'}), '0', "$version: no run has failed");
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET prod_analytics.enabled');
	$node->reload;
	ok($node->poll_query_until('worked', q{SELECT count(*) = 0 FROM prod_analytics.etl_jobs WHERE status = 'RUNNING' AND job_name NOT LIKE 'backfill%'}), "$version: the worker stops");
	$node->safe_psql('postgres', "DROP DATABASE $_ WITH (FORCE)") for qw(plain old unchanged updated restored restored_updated worked);

	# What a user has made of a function that is not what it was stands in the way, and is not dropped.
	my ($gone) = slurp_file("$FindBin::RealBin/../../sql/updates/$version.sql") =~ /drop_function\('(\w+)\(\)'\)/;
	SKIP:
	{
		skip "$version: no function without arguments has changed", 2 if !$gone;
		create_extension('dependent', $version);
		$node->safe_psql('dependent', "CREATE VIEW mine AS SELECT prod_analytics.$gone()::text AS x");
		like(complaint('dependent', $update), qr/ERROR:  prod_analytics cannot be updated while other objects use prod_analytics\.$gone\(\)\nDETAIL:  view public\.mine depends on .*\nHINT:  The new version has none/, "$version: a view that uses a function that changes is told");
		is(installed_version('dependent'), $version, "$version: and nothing has changed");
		$node->safe_psql('postgres', 'DROP DATABASE dependent');
	}

	# Whoever updates, the tables stay their owner's.
	create_extension('others', $version);
	is(complaint('others', "SET ROLE dba; $update"), '', "$version: another superuser updates");
	is($node->safe_psql('others', q{SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'prod_analytics'}), $node->safe_psql('postgres', 'SELECT current_user'), "$version: the tables stay their owner's");
	$node->safe_psql('postgres', 'DROP DATABASE others');

	# What somebody has put into the schema, to be called by the script, stops it.
	create_extension('planted', $version);
	$node->safe_psql('planted', q{
		GRANT USAGE, CREATE ON SCHEMA prod_analytics TO plain;
		SET ROLE plain;
		CREATE FUNCTION prod_analytics.drop_function(text) RETURNS void LANGUAGE sql AS 'ALTER ROLE plain SUPERUSER';
		RESET ROLE});
	like(complaint('planted', $update), qr/ERROR:  schema "prod_analytics" is open to other roles/, "$version: a schema in which others may create objects");
	$node->safe_psql('planted', 'REVOKE CREATE ON SCHEMA prod_analytics FROM plain');
	like(complaint('planted', $update), qr/ERROR:  function prod_analytics\.drop_function\(text\) in schema "prod_analytics" belongs to another role/, "$version: and one in which they have");
	is($node->safe_psql('planted', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'plain'}), 'f', "$version: nothing of theirs has run");
	is(installed_version('planted'), $version, "$version: and nothing has changed");
	$node->safe_psql('postgres', 'DROP DATABASE planted');

	# Tables that nobody has made are not made now.
	create_extension('empty', $version, 'SET prod_analytics.create_tables = off;');
	is(complaint('empty', $update), '', "$version: without tables");
	is($node->safe_psql('empty', q{SELECT count(*) FROM pg_tables WHERE schemaname = 'prod_analytics'}), '0', "$version: none is made");
	$node->safe_psql('postgres', 'DROP DATABASE empty');

	# Those of somebody who is no superuser are not trusted, as anywhere.
	create_extension('plains', $version);
	$node->safe_psql('plains', 'ALTER TABLE prod_analytics.schema_version OWNER TO plain');
	like(complaint('plains', $update), qr/ERROR:  "prod_analytics\.schema_version" is not safe to adopt: it belongs to role "plain"/, "$version: the tables of a plain role");
	is(installed_version('plains'), $version, "$version: keep the extension as it is");
	like(complaint('plains', "SET prod_analytics.create_tables = off; $update"), qr/WARNING:  prod_analytics did not bring its tables up to date\nDETAIL:  .*\nHINT:  Do it as role "plain"/, "$version: unless they are left alone");
	is(installed_version('plains'), $newest, "$version: the functions are new");
	$node->safe_psql('postgres', 'DROP DATABASE plains');
}

# There is no way back.
like(complaint('fresh', "$update TO '$versions[0]'"), qr/extension "prod_analytics" has no update path/, 'there is no way back') if @versions;

$node->stop;
done_testing();
