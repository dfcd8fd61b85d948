# Changes are captured wherever they come from, and survive what happens to the server: a standby shows the
# views and takes over, logical replication is captured like any writer, prepared transactions count when they
# commit, and a crash at any moment loses no change.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Crash qw(kill_server);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

# So many groups that the changed ones are computed one by one: to compute all would hide a change that
# nobody noticed.
my $query = q{SELECT shop, day, count(*) AS sales, sum(amount) AS amount FROM sales GROUP BY shop, day};
my $tables = q{
	CREATE TABLE sales (sale_id bigint, shop integer, day date NOT NULL, amount bigint, note text, PRIMARY KEY (sale_id, day)) PARTITION BY RANGE (day);
	CREATE TABLE sales_1 PARTITION OF sales FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
	CREATE TABLE sales_2 PARTITION OF sales FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
	CREATE TABLE sales_3 PARTITION OF sales FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
	CREATE INDEX ON sales (shop, day)};
my $rows = q{INSERT INTO sales SELECT n, n % 200, date '2026-01-01' + n % 89, n % 1000 FROM generate_series(1, 40000) n};
my $views = qq{
	CREATE MATERIALIZED VIEW by_day AS $query;
	CREATE UNIQUE INDEX ON by_day (shop, day) NULLS NOT DISTINCT;
	SELECT prod_analytics.enable_incremental_refresh('by_day')};

# Changes of all kinds; none of them undoes another.
my $change = q{
	INSERT INTO sales VALUES (100000 + %1$s, 1, '2026-01-05', 1), (200000 + %1$s, NULL, '2026-02-05', 2);
	UPDATE sales SET shop = 1000 + shop, amount = 5 WHERE sale_id = %1$s;
	UPDATE sales SET day = CASE WHEN day < '2026-02-15' THEN date '2026-03-15' ELSE '2026-01-15' END WHERE sale_id = 500 + %1$s;
	DELETE FROM sales WHERE sale_id = 1000 + %1$s;
};
my $changes = 0;

sub change
{
	my ($node, $database, $before, $after) = @_;

	$changes++;
	$node->safe_psql($database // 'postgres', join '', $before // '', sprintf($change, $changes), $after // '');
	return;
}

# How many rows differ between the view and its recomputation.
sub differences
{
	my ($node, $database) = @_;

	return $node->safe_psql($database // 'postgres',
		"SELECT (SELECT count(*) FROM ($query EXCEPT ALL TABLE by_day) missing) + (SELECT count(*) FROM (TABLE by_day EXCEPT ALL $query) surplus)");
}

# Refreshes the view: it is out of date before, if it is expected to be, and exact afterwards.
sub check_refresh
{
	my ($node, $when, %options) = @_;
	my $database = $options{database} // 'postgres';

	cmp_ok(differences($node, $database), '>', 0, "$when: the view is out of date") if !$options{is_exact};
	my ($code, $method, $err) =
		$node->psql($database, q{SELECT r->>'method' FROM prod_analytics.refresh_incremental('by_day') r}, on_error_stop => 1);
	is("$code $err", '0 ', "$when: no error, no warning");
	is($method, $options{method} // 'keys', "$when: how it is refreshed");
	is(differences($node, $database), 0, "$when: the view is exact");
	is($node->safe_psql($database, 'SELECT count(*) FROM prod_analytics.changed_keys'), $options{left} // 0, "$when: what is left to do");
	return;
}

# What a statement says when it fails.
sub failure
{
	my ($node, $statement) = @_;
	my ($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$statement");

	return $err;
}

# The view is sound on disk.
sub check_storage
{
	my ($node, $when) = @_;

	is($node->safe_psql('postgres', q{SELECT * FROM verify_heapam('by_day', check_toast => true)}), '', "$when: the heap is sound");
	is( $node->safe_psql('postgres', q{
			SELECT count(bt_index_check(i.indexrelid, heapallindexed => true)) > 1 FROM pg_index i
			WHERE i.indrelid IN ('by_day'::regclass, 'prod_analytics.changed_keys'::regclass, 'prod_analytics.refresh_state'::regclass)}),
		't', "$when: the indexes are sound");
	return;
}

sub create_store
{
	my ($node, $database) = @_;

	$node->safe_psql($database, 'SET client_min_messages = warning; CREATE EXTENSION prod_analytics CASCADE; CREATE EXTENSION amcheck');
	$node->safe_psql($database, $tables);
	return;
}

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 'logical');
$primary->append_conf('postgresql.conf', "max_prepared_transactions = 5\nmax_connections = 30\n");
$primary->start;
create_store($primary, 'postgres');
$primary->safe_psql('postgres', $rows);
$primary->safe_psql('postgres', $views);
check_refresh($primary, 'at first', method => 'recompute', is_exact => 1);

# Changes of a prepared transaction count when it is committed, by whomever; not when it is rolled back.
change($primary, 'postgres', 'BEGIN;', q{PREPARE TRANSACTION 'one'});
check_refresh($primary, 'prepared', is_exact => 1);
change($primary);
check_refresh($primary, 'prepared, others go on');
$primary->safe_psql('postgres', q{COMMIT PREPARED 'one'});
check_refresh($primary, 'committed');
change($primary, 'postgres', 'BEGIN;', q{PREPARE TRANSACTION 'two'});
$primary->safe_psql('postgres', q{ROLLBACK PREPARED 'two'});
is($primary->safe_psql('postgres', 'SELECT count(*) FROM prod_analytics.changed_keys'), 0, 'rolled back: nothing is marked');
check_refresh($primary, 'rolled back', is_exact => 1);
change($primary, 'postgres', 'BEGIN;', q{PREPARE TRANSACTION 'three'});
change($primary, 'postgres', 'BEGIN;', q{PREPARE TRANSACTION 'four'});
change($primary);
$primary->stop('immediate');
$primary->start;
check_refresh($primary, 'crash while prepared');
$primary->safe_psql('postgres', q{COMMIT PREPARED 'three'});
check_refresh($primary, 'committed after a crash');
$primary->safe_psql('postgres', q{ROLLBACK PREPARED 'four'});
check_refresh($primary, 'rolled back after a crash', is_exact => 1);
$primary->safe_psql('postgres', q{
	BEGIN; TRUNCATE sales_2; PREPARE TRANSACTION 'five'});
$primary->safe_psql('postgres', q{COMMIT PREPARED 'five'});
check_refresh($primary, 'truncated by a prepared transaction', method => 'recompute');
# A refresh may be prepared, too.
change($primary, 'postgres', 'BEGIN;', q{SELECT prod_analytics.refresh_incremental('by_day'); DELETE FROM sales WHERE sale_id = 7000; PREPARE TRANSACTION 'six'});
change($primary);
$primary->stop('immediate');
$primary->start;
$primary->safe_psql('postgres', q{COMMIT PREPARED 'six'});
check_refresh($primary, 'a refresh that was prepared');
change($primary);
$primary->safe_psql('postgres', q{
	BEGIN; SELECT prod_analytics.refresh_incremental('by_day'); PREPARE TRANSACTION 'seven'});
$primary->safe_psql('postgres', q{ROLLBACK PREPARED 'seven'});
check_refresh($primary, 'a prepared refresh that was rolled back');

# A crash between a change and its refresh.
change($primary);
$primary->stop('immediate');
$primary->start;
check_refresh($primary, 'crash after a change');
check_storage($primary, 'crash after a change');

# A crash in the middle of a refresh, when it has written some groups, but not all.
$primary->safe_psql('postgres', q{
	CREATE FUNCTION linger(sales bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN
		IF sales = 3 THEN PERFORM pg_catalog.pg_sleep(600); END IF;
		RETURN sales;
	END $$;
	CREATE INDEX by_day_linger ON by_day (linger(sales)) WHERE shop BETWEEN 5000 AND 6000});
foreach my $how ('backend', 'server', 'immediate stop')
{
	my %session = (out => '', err => '');
	my $busy = q{FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%refresh_incremental%' AND pid <> pg_backend_pid()};

	change($primary);
	$primary->safe_psql('postgres', 'DELETE FROM sales WHERE shop BETWEEN 5000 AND 6000');
	$primary->safe_psql('postgres', q{INSERT INTO sales SELECT 300000 + n, 5000 + n, '2026-01-01', n FROM generate_series(1, 5) n});
	$primary->safe_psql('postgres', q{INSERT INTO sales SELECT 400000 + n, 5090, '2026-01-01', n FROM generate_series(1, 3) n});
	$session{handle} = IPC::Run::start(
		[ 'psql', '-X', '-d', $primary->connstr('postgres'), '-c', q{SELECT prod_analytics.refresh_incremental('by_day')} ],
		'<', \undef, '>', \$session{out}, '2>', \$session{err});
	$primary->poll_query_until('postgres', "SELECT count(*) = 1 $busy") or BAIL_OUT('the refresh does not come to the middle');

	my $pid = $primary->safe_psql('postgres', "SELECT pid $busy");

	if ($how eq 'backend')
	{
		# restart_after_crash is off in test clusters: the server goes down with the backend.
		kill 'KILL', $pid;
		$session{handle}->finish;
		$primary->stop('immediate', fail_ok => 1);
	}
	elsif ($how eq 'server')
	{
		kill_server($primary);
		$session{handle}->finish;
	}
	else
	{
		$primary->stop('immediate');
		$session{handle}->finish;
	}
	$primary->start;
	like($session{err}, qr/server closed the connection|terminating connection/, "$how: the refresh was cut off");
	is($primary->safe_psql('postgres', 'SELECT count(*) FROM by_day WHERE shop BETWEEN 5000 AND 6000'), 0, "$how: nothing of it is seen");
	check_storage($primary, "$how killed");
	$primary->safe_psql('postgres', 'DROP INDEX by_day_linger');
	check_refresh($primary, "$how killed");
	check_storage($primary, "$how killed, refreshed");
	$primary->safe_psql('postgres', 'DELETE FROM sales WHERE shop BETWEEN 5000 AND 6000');
	check_refresh($primary, "$how killed, changed back");
	$primary->safe_psql('postgres', 'CREATE INDEX by_day_linger ON by_day (linger(sales)) WHERE shop BETWEEN 5000 AND 6000');
}
$primary->safe_psql('postgres', 'DROP INDEX by_day_linger');

# A publisher's own refreshes can be decoded, and are possible whatever it publishes.
$primary->safe_psql('postgres', q{
	CREATE PUBLICATION everything FOR ALL TABLES;
	SELECT pg_create_logical_replication_slot('bytes', 'pgoutput'), pg_create_logical_replication_slot('words', 'test_decoding')});
change($primary, 'postgres', 'BEGIN;', q{SELECT prod_analytics.refresh_incremental('by_day'); COMMIT});
change($primary);
check_refresh($primary, 'decoded');
foreach my $statement (
	q{prod_analytics.refresh_incremental()},
	q{prod_analytics.mark_changed('by_day', '{"shop": 1, "day": "2026-01-05"}')},
	q{prod_analytics.mark_changed('by_day')},
	q{prod_analytics.refresh_incremental('by_day')},
	q{prod_analytics.disable_incremental_refresh('by_day')},
	q{prod_analytics.enable_incremental_refresh('by_day')},
	q{prod_analytics.verify_matview('by_day', repair => true)},
	q{prod_analytics.create_tables()},
	q{prod_analytics.refresh_incremental('by_day')})
{
	is(failure($primary, "SELECT $statement"), '', "publication of all tables: $statement");
}
change($primary);
is(failure($primary, 'CREATE MATERIALIZED VIEW dropped AS SELECT shop, count(*) FROM sales GROUP BY shop; CREATE UNIQUE INDEX ON dropped (shop) NULLS NOT DISTINCT'), '', 'another view');
is(failure($primary, q{SELECT prod_analytics.enable_incremental_refresh('dropped')}), '', 'publication of all tables: another view is registered');
change($primary);
is(failure($primary, 'DROP MATERIALIZED VIEW dropped'), '', 'publication of all tables: a view is dropped');
$primary->safe_psql('postgres', 'SELECT prod_analytics.refresh_incremental()');
change($primary);
check_refresh($primary, 'publication of all tables');
cmp_ok($primary->safe_psql('postgres', q{SELECT count(*) FROM pg_logical_slot_get_binary_changes('bytes', NULL, NULL, 'proto_version', '1', 'publication_names', 'everything')}),
	'>', 50, 'refreshes can be decoded for a subscriber');
like($primary->safe_psql('postgres', q{SELECT data FROM pg_logical_slot_get_changes('words', NULL, NULL) WHERE data LIKE '%by_day%' LIMIT 1}),
	qr/table public.by_day: /, 'changes of the view are decoded by those who want them');
$primary->safe_psql('postgres', q{SELECT pg_drop_replication_slot('bytes'), pg_drop_replication_slot('words'); DROP PUBLICATION everything});

# Logical replication: one subscriber for each way to publish partitions, and one whose table is not partitioned.
my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init(allows_streaming => 'logical');
$subscriber->append_conf('postgresql.conf', "max_connections = 30\nmax_worker_processes = 20\nmax_logical_replication_workers = 10\n");
$subscriber->start;
$primary->safe_psql('postgres', q{
	CREATE PUBLICATION leaves FOR TABLE sales;
	CREATE PUBLICATION root FOR TABLE sales WITH (publish_via_partition_root = true)});
my $plain = 'CREATE TABLE sales (sale_id bigint, shop integer, day date NOT NULL, amount bigint, note text, PRIMARY KEY (sale_id, day)); CREATE INDEX ON sales (shop, day)';
my %publication = (leaves => 'leaves', root => 'root', single => 'root');
foreach my $database (sort keys %publication)
{
	$subscriber->safe_psql('postgres', "CREATE DATABASE $database");
	if ($database eq 'single')
	{
		$subscriber->safe_psql($database, "SET client_min_messages = warning; CREATE EXTENSION prod_analytics CASCADE; $plain");
	}
	else
	{
		create_store($subscriber, $database);
	}
	$subscriber->safe_psql($database, q{INSERT INTO sales VALUES (-1, -1, '2026-01-01', 1)});
	$subscriber->safe_psql($database, $views);
	check_refresh($subscriber, "$database, before", database => $database, is_exact => 1, method => 'recompute');
	$subscriber->safe_psql($database, "CREATE SUBSCRIPTION of_$database CONNECTION \$\$" . $primary->connstr('postgres') . "\$\$ PUBLICATION $publication{$database}");
}
foreach my $database (sort keys %publication)
{
	my @on = ($subscriber, $database);

	$subscriber->wait_for_subscription_sync($primary, "of_$database", $database);
	cmp_ok($subscriber->safe_psql($database, 'SELECT count(*) FROM prod_analytics.changed_keys'), '>', 10000, "$database: the first copy is captured");
	check_refresh($subscriber, "$database, first copy", database => $database, method => 'recompute');
}

# Lets the publisher do something, of which the subscribers are to see each group.
sub check_applied
{
	my ($what, $statement, %options) = @_;

	$statement ? $primary->safe_psql('postgres', $statement) : change($primary);
	foreach my $database (sort keys %publication)
	{
		next if $options{only} && $options{only} ne $database;
		$primary->wait_for_catchup("of_$database");
		check_refresh($subscriber, "$database, $what", database => $database, method => $options{method}, is_exact => $options{is_exact});
		is( $subscriber->safe_psql($database, 'SELECT * FROM sales WHERE sale_id > 0 ORDER BY 1, 2'),
			$primary->safe_psql('postgres', 'SELECT * FROM sales ORDER BY 1, 2'),
			"$database, $what: the rows are there") if !$options{only};
	}
	return;
}

check_applied('changes');
check_applied('an insert', q{INSERT INTO sales VALUES (500000, 1, '2026-01-07', 1)});
check_applied('an update', q{UPDATE sales SET amount = 77 WHERE sale_id = 500000});
check_applied('an update of the key', q{UPDATE sales SET shop = NULL WHERE sale_id = 500000});
check_applied('an update across partitions', q{UPDATE sales SET day = '2026-03-03' WHERE sale_id = 500000});
check_applied('a delete', q{DELETE FROM sales WHERE sale_id = 500000});
check_applied('a column that the view does not read', q{UPDATE sales SET note = 'x' WHERE sale_id = 5}, is_exact => 1);
check_applied('a prepared transaction', q{BEGIN; INSERT INTO sales VALUES (500001, 1, '2026-01-07', 1); PREPARE TRANSACTION 'eight'; COMMIT PREPARED 'eight'});
check_applied('a transaction with savepoints', q{BEGIN; INSERT INTO sales VALUES (500002, 1, '2026-01-08', 1); SAVEPOINT a; INSERT INTO sales VALUES (500003, 2, '2026-01-08', 1); ROLLBACK TO a; INSERT INTO sales VALUES (500004, 3, '2026-01-08', 1); COMMIT});
# The publisher tells of this one only if it publishes partitions as such.
check_applied('truncation of a partition', q{TRUNCATE sales_2; INSERT INTO sales SELECT 600000 + n, n, '2026-02-02', 1 FROM generate_series(1, 10) n}, only => 'leaves');
check_applied('truncation', 'TRUNCATE sales; ' . $rows, method => 'recompute');
check_applied('changes after truncation');
$subscriber->stop('immediate');
change($primary);
$subscriber->start;
check_applied('changes while the subscriber was away');
$subscriber->safe_psql($_, "DROP SUBSCRIPTION of_$_") for sort keys %publication;
$subscriber->stop;

# A standby shows the views, and what they wait for; it refreshes nothing.
check_refresh($primary, 'before the standby', method => 'recompute');
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
is($standby->safe_psql('postgres', q{SELECT * FROM prod_analytics.verify_matview('by_day')}), '', 'standby: verify_matview finds nothing wrong');
change($primary);
check_refresh($primary, 'streamed');
change($primary, 'postgres', 'BEGIN;', q{PREPARE TRANSACTION 'nine'});
change($primary);
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
foreach my $statement (
	q{prod_analytics.refresh_incremental()},
	q{prod_analytics.refresh_incremental('by_day')},
	q{prod_analytics.enable_incremental_refresh('by_day')},
	q{prod_analytics.disable_incremental_refresh('by_day')},
	q{prod_analytics.mark_changed('by_day')},
	q{prod_analytics.verify_matview('by_day', repair => true)})
{
	my ($function) = $statement =~ /^prod_analytics\.(\w+)/;

	like(failure($standby, "SELECT $statement"), qr/ERROR:  25006: cannot execute $function\(.*\) (in a read-only transaction|during recovery)/, "standby: $statement is refused");
}
my $groups = $standby->safe_psql('postgres', q{SELECT problem, count(*) FROM prod_analytics.verify_matview('by_day') GROUP BY 1 ORDER BY 1});
like($groups, qr/\|\d/, 'standby: verify_matview finds what waits for a refresh');
is($standby->safe_psql('postgres', q{SELECT problem, count(*) FROM prod_analytics.verify_matview('by_day', sample_keys => 10) GROUP BY 1 HAVING count(*) > 10}), '', 'standby: a sample can be verified');
is($standby->safe_psql('postgres', q{SELECT pending_keys > 5 AND refreshed_at IS NOT NULL AND NOT everything_changed FROM prod_analytics.matview_status WHERE matview = 'public.by_day'}),
	't', 'standby: matview_status tells what waits');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM by_day'), $primary->safe_psql('postgres', 'SELECT count(*) FROM by_day'), 'standby: the view is the one of the primary');
check_storage($standby, 'standby');

# It takes over with all that was pending.
$primary->stop('immediate');
$standby->promote;
check_refresh($standby, 'promoted');
$standby->safe_psql('postgres', q{COMMIT PREPARED 'nine'});
check_refresh($standby, 'promoted, committed');
change($standby);
check_refresh($standby, 'promoted, changed');
$standby->safe_psql('postgres', 'TRUNCATE sales_1');
check_refresh($standby, 'promoted, truncated', method => 'recompute');
check_storage($standby, 'promoted');

$standby->stop;
done_testing();
