# pg_upgrade: the whole store arrives in the new cluster, with what has changed since the last refresh, and the worker keeps
# away until then; also from another major version, and with the extension of another version.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Store;
use Test::More;

my $settings = 'shared_preload_libraries = prod_analytics
prod_analytics.databases = postgres
max_prepared_transactions = 2
';
my ($released) = sort map { m{--([^-]+)\.sql$} } glob("$FindBin::RealBin/../../sql/versions/prod_analytics--*.sql");

sub create_cluster
{
	my ($name, $path) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, $path ? (install_path => $path) : ());

	$node->init(extra => [ '--locale=C', '--encoding=UTF8' ]);
	$node->append_conf('postgresql.conf', "${settings}prod_analytics.enabled = off\n");
	return $node;
}

# Upgrades a cluster that is stopped.
sub upgrade
{
	my ($when, $old, $new) = @_;

	# It may run jobs as soon as somebody lets it; pg_upgrade does not.
	$new->append_conf('postgresql.conf', "prod_analytics.enabled = on\n");
	# pg_upgrade leaves its logs in the current directory when something goes wrong.
	chdir $PostgreSQL::Test::Utils::tmp_check or die "cannot change the directory: $!";
	command_ok(
		[
			'pg_upgrade', '--no-sync',
			'--old-datadir', $old->data_dir, '--new-datadir', $new->data_dir,
			'--old-bindir', $old->config_data('--bindir'), '--new-bindir', $new->config_data('--bindir'),
			'--old-port', $old->port, '--new-port', $new->port, '--socketdir', $new->host
		],
		"$when: pg_upgrade");
	$new->append_conf('postgresql.conf', "prod_analytics.enabled = off\n");
	$new->start;
	return;
}

# The worker goes on.
sub check_worker
{
	my ($when, $node) = @_;
	my $ticks = $node->safe_psql('postgres', 'SELECT count(*) FROM ticks');

	$node->append_conf('postgresql.conf', "prod_analytics.enabled = on\n");
	$node->reload;
	ok($node->poll_query_until('postgres', qq{SELECT count(*) > $ticks + 1 FROM ticks WHERE who = 'analyst'}), "$when: the worker goes on with the jobs");
	return;
}

my $old = create_cluster('old');
my $new = create_cluster('new');
$old->start;
create_store($old, 'postgres');
$old->safe_psql('postgres', 'CREATE DATABASE app TEMPLATE template0');
create_store($old, 'app', version => $released, without_roles => 1);
my %catalog = map { $_ => catalog($old, $_) } qw(postgres app);
my %data = map { $_ => data($old, $_) } qw(postgres app);
my $left = $old->safe_psql('postgres', 'SELECT count(*) FROM prod_analytics.changed_keys');
cmp_ok($left, '>', 2, 'there is something to refresh');
$old->stop;

upgrade('upgraded', $old, $new);
foreach my $database (qw(postgres app))
{
	check_same(catalog($new, $database), $catalog{$database}, "upgraded $database: all that the catalogs say");
	check_same(data($new, $database), $data{$database}, "upgraded $database: every row, and nobody has worked on it");
}
is($new->safe_psql('postgres', 'SELECT count(*) FROM prod_analytics.changed_keys'), $left, 'upgraded: what had changed before is known');
check_works($new, 'postgres', 'upgraded');
is($new->safe_psql('app', 'ALTER EXTENSION prod_analytics UPDATE; SELECT extversion <> $$' . $released . q{$$ FROM pg_extension WHERE extname = 'prod_analytics'}), 't', "upgraded from $released: the extension is updated next");
check_works($new, 'app', "upgraded from $released");
check_worker('upgraded', $new);
$new->stop;

# From other major versions that are installed here, with the extension.
my ($major) = $new->config_data('--version') =~ / (\d+)/;
my @others = grep { -e "$_/bin/pg_upgrade" && m{/(\d+)$} && $1 < $major && -e glob("/usr/share/postgresql/$1/extension/prod_analytics.control") } glob('/usr/lib/postgresql/*');

SKIP:
{
	skip "no PostgreSQL older than $major with prod_analytics is installed", 1 if !@others;
	foreach my $path (@others)
	{
		my ($from) = $path =~ m{(\d+)$};
		my $older = create_cluster("older_$from", $path);
		my $newer = create_cluster("newer_$from");

		$older->start;
		create_store($older, 'postgres');
		my $rows = data($older, 'postgres');
		$older->stop;
		upgrade("from $from", $older, $newer);
		check_same(data($newer, 'postgres'), $rows, "from $from: every row");
		check_works($newer, 'postgres', "from $from");
		check_worker("from $from", $newer);
		$newer->stop;
	}
}

done_testing();
