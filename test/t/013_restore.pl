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
