# A dump brings back the whole store, in every form that pg_dump knows: jobs, schemas, registered views, privileges, what users
# added, and what was half done; and what is restored works.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Store;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('source');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
create_store($node, 'app');
my $catalog = catalog($node, 'app');
my $dumps = PostgreSQL::Test::Utils::tempdir;

# A restore fills materialized views anew, so they may hold more than they did.
my $filled = qr/^rows of (public\.(joined|by_type|disabled)|prod_analytics\.(mv_org_daily_metrics|by_campaign)|"Büro"\."Umsatz.*"): /;

sub rows
{
	my ($target, $database) = @_;

	return join "\n", grep { !/$filled/ } split /\n/, data($target, $database);
}

my $rows = rows($node, 'app');

# Dumps the store; returns the file or directory.
sub dump_store
{
	my ($name, @options) = @_;

	run_cleanly("$name: dump", 'pg_dump', '-f', "$dumps/$name", @options, $node->connstr('app'));
	return "$dumps/$name";
}

sub create_database
{
	my ($target, $name) = @_;

	$target->safe_psql('postgres', "CREATE DATABASE $name TEMPLATE template0");
	return $target->connstr($name);
}

my $other = PostgreSQL::Test::Cluster->new('target');
$other->init;
$other->append_conf('postgresql.conf', "shared_preload_libraries = prod_analytics\nprod_analytics.databases = 'worked, late'\nmax_worker_processes = 20\n");
$other->start;
my $stop = [ '-X', '-q', '-v', 'ON_ERROR_STOP=1' ];

# Everything, into a server that knows none of the roles but what pg_dumpall says.
{
	my $plain = dump_store('plain');
	my $custom = dump_store('custom', '-Fc');
	my $directory = dump_store('directory', '-Fd', '-j', '2');
	my $globals = "$dumps/globals";

	run_cleanly('globals: dump', 'pg_dumpall', '--globals-only', '-f', $globals, '-d', $node->connstr('postgres'));
	$other->psql('postgres', slurp_file($globals), on_error_stop => 0);
	run_cleanly('plain', 'psql', @$stop, '-f', $plain, '-d', create_database($other, 'plain'));
	run_cleanly('custom', 'pg_restore', '--exit-on-error', '-j', '2', '-d', create_database($other, 'custom'), $custom);
	run_cleanly('directory', 'pg_restore', '--exit-on-error', '-j', '2', '-d', create_database($other, 'directory'), $directory);
	foreach my $database (qw(plain custom directory))
	{
		check_same(catalog($other, $database), $catalog, "$database: all that the catalogs say");
		check_same(rows($other, $database), $rows, "$database: every row");
		check_works($other, $database, $database);
	}
	# The next generation.
	run_cleanly('again: dump', 'pg_dump', '-Fc', '-f', "$dumps/again", $other->connstr('custom'));
	run_cleanly('again', 'pg_restore', '--exit-on-error', '-d', create_database($other, 'again'), "$dumps/again");
	check_same(catalog($other, 'again'), catalog($other, 'custom'), 'again: all that the catalogs say');
}

# A dump made with row security is told apart by the setting.
{
	my $dump = dump_store('row_security', '--enable-row-security');
	my $connection = create_database($other, 'row_security');

	$other->safe_psql('postgres', 'ALTER DATABASE row_security SET prod_analytics.create_tables = off');
	run_cleanly('row security', 'psql', @$stop, '-f', $dump, '-d', $connection);
	check_same(catalog($other, 'row_security'), $catalog, 'row security: all that the catalogs say');
	check_same(rows($other, 'row_security'), $rows, 'row security: every row');
}
unlike(slurp_file("$dumps/plain"), qr/prod_analytics_expected/, 'no trace of the scratch schema');

# Registries follow renamed tables, and the privileges of the roles are there.
$other->safe_psql('custom', 'ALTER TABLE "Büro"."Käufe" RENAME TO purchases');
is($other->safe_psql('custom', q{SELECT parent FROM prod_analytics.partition_policies WHERE parent ~ 'Büro'}), '"Büro".purchases', 'custom: a policy follows its table');
like($catalog, qr/privilege: relation prod_analytics\.events_p20\d{4}01: analytics_reader SELECT by/, 'the reader may read partitions');
like($catalog, qr/privilege: function prod_analytics\.etl_ingest_events\(integer\): analytics_operator EXECUTE by/, 'the operator may ingest');

# What differs is named: who owns everything, and who has granted it.
{
	$other->safe_psql('postgres', 'CREATE ROLE dba SUPERUSER');
	run_cleanly('no owner', 'pg_restore', '--exit-on-error', '--no-owner', '--role=dba', '-d', create_database($other, 'no_owner'), "$dumps/custom");
	check_same(rows($other, 'no_owner'), $rows, 'no owner: every row');
	is($other->safe_psql('no_owner', q{SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace IN ('prod_analytics'::regnamespace, '"Büro"'::regnamespace)}), 'dba', 'no owner: all belongs to the role named');
	is($other->safe_psql('no_owner', q{SELECT has_table_privilege('analytics_reader', 'prod_analytics.events', 'SELECT'), has_table_privilege('analytics_reader', 'prod_analytics.users', 'SELECT'),
		has_function_privilege('analytics_operator', 'prod_analytics.run_job(text)', 'EXECUTE'), has_function_privilege('analytics_operator', 'prod_analytics.erase_user(bigint)', 'EXECUTE')}), 't|f|t|f', 'no owner: privileges');
	$other->safe_psql('postgres', 'ALTER DATABASE no_owner SET role = dba');
	check_works($other, 'no_owner', 'no owner');
}

# The schema alone, as docs/upgrade.md says: what is in other schemas is missing, and is told.
{
	my $schema = dump_store('schema', '-Fc', '--schema=prod_analytics', '--extension=*');

	create_database($other, 'alone');
	$other->safe_psql('alone', q{CREATE FUNCTION public.note_user() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.attrs := NEW.attrs || ''{"noted": true}''; RETURN NEW; END'});
	run_cleanly('schema', 'pg_restore', '--exit-on-error', '-d', $other->connstr('alone'), $schema);
	check_same(join("\n", grep { /prod_analytics/ } split /\n/, rows($other, 'alone')), join("\n", grep { /prod_analytics/ } split /\n/, $rows), 'schema: every row of it');
	$other->safe_psql('alone', 'SELECT prod_analytics.create_tables()');
	is($other->safe_psql('alone', 'SELECT count(*) FROM pg_event_trigger'), 2, 'schema: create_tables() makes the event triggers');
	is($other->safe_psql('alone', q{SELECT r->>'status', r->'inserted' FROM prod_analytics.etl_ingest_events() r}), 'SUCCESS|1', 'schema: what was staged is ingested');
	my $missing = $other->safe_psql('alone', 'SELECT string_agg(matview, E\'\n\' ORDER BY matview) FROM prod_analytics.registered_matviews WHERE to_regclass(matview) IS NULL');
	is($missing, qq{"Büro"."Umsatz; je ""Käufer"""\npublic.by_type\npublic.joined}, 'schema: the views of other schemas are registered, and missing');
	$other->safe_psql('alone', q{DELETE FROM prod_analytics.registered_matviews WHERE to_regclass(matview) IS NULL; DELETE FROM prod_analytics.partition_policies WHERE to_regclass(parent) IS NULL});
	is($other->safe_psql('alone', q{SELECT r->>'status' FROM prod_analytics.refresh_incremental() r}), 'SUCCESS', 'schema: without them all views are refreshed');
	is($other->safe_psql('alone', q{SELECT count(*) FROM prod_analytics.verify_matview('prod_analytics.by_campaign')}), 0, 'schema: and are exact');
	is($other->safe_psql('alone', q{SELECT count(*) >= 0 FROM prod_analytics.ensure_partitions()}), 't', 'schema: partitions are made');
}

# The data alone, into a store of CREATE EXTENSION, as docs/upgrade.md says.
{
	my $data = dump_store('data', '-Fc', '--schema=prod_analytics', '--data-only', '--load-via-partition-root', '--exclude-table=prod_analytics.campaigns', '--exclude-table=prod_analytics.schema_version');

	create_database($other, 'data');
	$other->safe_psql('data', q{
		SET client_min_messages = warning;
		CREATE EXTENSION prod_analytics CASCADE;
		ALTER TABLE prod_analytics.events ADD COLUMN campaign text DEFAULT 'none';
		ALTER TABLE prod_analytics.users ADD COLUMN plan text NOT NULL DEFAULT 'free';
		ALTER TABLE prod_analytics.staging_events ADD COLUMN source text;
		SELECT prod_analytics.ensure_partitions('prod_analytics.events');
		DO $$ BEGIN EXECUTE (SELECT 'TRUNCATE ' || string_agg(c.oid::regclass::text, ', ') FROM pg_class c
			WHERE c.relnamespace = 'prod_analytics'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'schema_version'); END $$});
	{
		local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
		run_cleanly('data', 'pg_restore', '--exit-on-error', '-d', $other->connstr('data'), $data);
	}
	my $counts = q{SELECT (SELECT count(*) FROM prod_analytics.events), (SELECT count(*) FROM prod_analytics.users), (SELECT count(*) FROM prod_analytics.etl_jobs), (SELECT md5(string_agg(e::text, '' ORDER BY e::text COLLATE "C")) FROM prod_analytics.events e)};
	is($other->safe_psql('data', $counts), $node->safe_psql('app', $counts), 'data: every row');
	$other->safe_psql('data', q{
		SET client_min_messages = warning;
		DELETE FROM prod_analytics.registered_matviews WHERE to_regclass(matview) IS NULL; DELETE FROM prod_analytics.partition_policies WHERE to_regclass(parent) IS NULL;
		SELECT prod_analytics.create_tables(); SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', now() - interval '8 months', now())});
	is($other->safe_psql('data', q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'prod_analytics_capture%' AND tgenabled <> 'A'}), 0, 'data: triggers fire always');
	is($other->safe_psql('data', q{SELECT r->>'status' FROM prod_analytics.refresh_incremental() r}), 'SUCCESS', 'data: views are refreshed');
	is($other->safe_psql('data', q{SELECT count(*) FROM prod_analytics.verify_matview('prod_analytics.mv_org_daily_metrics')}), 0, 'data: and are exact');
	is($other->safe_psql('data', q{SELECT r->>'status', r->'inserted' FROM prod_analytics.etl_ingest_events() r}), 'SUCCESS|1', 'data: what was staged is ingested');
	is($other->safe_psql('data', 'SELECT count(*) FROM prod_analytics.changed_keys') > 0, 1, 'data: changes are noted');
}

# Everything of a server, in one file.
{
	my $third = PostgreSQL::Test::Cluster->new('third');

	$third->init;
	$third->start;
	run_cleanly('pg_dumpall: dump', 'pg_dumpall', '-f', "$dumps/all.sql", '-d', $node->connstr('postgres'));
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'psql', '-X', '-q', '-f', "$dumps/all.sql", '-d', $third->connstr('postgres') ], '<', \undef, '>', \$out, '2>', \$err);
	is(join("\n", grep { /ERROR|FATAL/ && !/role "\w+" already exists/ } split /\n/, $err), '', 'pg_dumpall: no error but for the role that is there');
	check_same(catalog($third, 'app'), $catalog, 'pg_dumpall: all that the catalogs say');
	check_same(rows($third, 'app'), $rows, 'pg_dumpall: every row');
	check_works($third, 'app', 'pg_dumpall');
	$third->stop;
}

# While the worker waits for the database.
sub check_worker
{
	my ($database) = @_;
	my $last = $node->safe_psql('app', 'SELECT max(job_id) FROM prod_analytics.etl_jobs');

	ok($other->poll_query_until($database, q{SELECT count(*) > 1 FROM public.ticks}), "$database: the worker goes on with the jobs");
	is($other->safe_psql($database, "SELECT job_name, started_at, status, details->>'error' FROM prod_analytics.etl_jobs WHERE job_id > $last AND status = 'FAILED'"), '', "$database: none of which fails");
	return;
}

run_cleanly('worked', 'pg_restore', '--exit-on-error', '-j', '2', '-d', create_database($other, 'worked'), "$dumps/custom");
check_worker('worked');

# It keeps away as long as privileges and foreign keys are not there, which come last, however long that takes.
{
	my @list = split /\n/, run_cleanly('list', 'pg_restore', '-l', "$dumps/custom");
	my $late = qr/ (EVENT TRIGGER|MATERIALIZED VIEW DATA|ACL|FK CONSTRAINT) /;
	my $rounds = q{SELECT state_change FROM pg_stat_activity WHERE backend_type = 'prod_analytics scheduler' AND datname = 'late'};
	my $runs = 'SELECT count(*), max(job_id) FROM prod_analytics.etl_jobs';
	my $connection = create_database($other, 'late');

	append_to_file("$dumps/early.list", join '', map { "$_\n" } grep { !/$late/ } @list);
	append_to_file("$dumps/late.list", join '', map { "$_\n" } grep { /$late/ } @list);
	run_cleanly('late: first half', 'pg_restore', '--exit-on-error', '-L', "$dumps/early.list", '-d', $connection, "$dumps/custom");
	for (1 .. 2)
	{
		my $seen = $other->safe_psql('postgres', 'SELECT clock_timestamp()');
		ok($other->poll_query_until('postgres', "SELECT coalesce(($rounds) > '$seen', false)"), 'late: the worker has looked');
	}
	is($other->safe_psql('late', $runs), $node->safe_psql('app', $runs), 'late: and run nothing');
	ok($other->log_contains('the worker waits in database "late"'), 'late: it says what it waits for');
	run_cleanly('late: the rest', 'pg_restore', '--exit-on-error', '-L', "$dumps/late.list", '-d', $connection, "$dumps/custom");
	check_worker('late');
}

$other->stop;
$node->stop;
done_testing();
