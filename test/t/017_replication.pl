# Logical replication of the tables to a second server that also has the extension: events by their partitions or as one table,
# with users, organizations and schemas; the second server keeps its own metrics from what arrives, and its own partitions.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Store;
use Test::More;

my @tables = qw(organizations users events event_schemas knowledge_base org_hierarchy);
my $list = join ', ', map { "prod_analytics.$_" } @tables;

my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->start;
create_store($publisher, 'postgres');
$publisher->safe_psql('postgres', qq{
	CREATE PUBLICATION root FOR TABLE $list WITH (publish_via_partition_root = true);
	CREATE PUBLICATION leaves FOR TABLE $list});

my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init(allows_streaming => 'logical');
$subscriber->append_conf('postgresql.conf', "max_worker_processes = 20\nmax_logical_replication_workers = 10\n");
$subscriber->start;
$subscriber->safe_psql('postgres', 'CREATE ROLE "shop owner"');

my @databases = qw(root leaves);
my @kept = qw(prod_analytics.mv_org_daily_metrics prod_analytics.by_campaign);

# Partitions for all that the publisher has.
my ($lower, $upper) = split /\|/, $publisher->safe_psql('postgres', q{
	SELECT min(substring(relname FROM 'p(\d+)$')::date), max(substring(relname FROM 'p(\d+)$')::date) + interval '1 month'
	FROM pg_class WHERE relname ~ '^events_p\d+$'});

sub on_each
{
	my ($statement) = @_;

	return map { $subscriber->safe_psql($_, $statement) } @databases;
}

# Every row of the tables has arrived; the partition that holds it may be another one.
sub check_arrived
{
	my ($when) = @_;

	foreach my $database (@databases)
	{
		$publisher->wait_for_catchup("of_$database");
		foreach my $table (@tables)
		{
			my $query = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY t::text COLLATE \"C\")) FROM prod_analytics.$table t";

			is($subscriber->safe_psql($database, $query), $publisher->safe_psql('postgres', $query), "$database, $when: every row of $table");
		}
	}
	return;
}

# The views see what has arrived.
sub check_refreshed
{
	my ($when, $method) = @_;

	foreach my $database (@databases)
	{
		# (When much of a view has changed, all of it is computed.)
		like($subscriber->safe_psql($database, q{SELECT string_agg(DISTINCT v->>'method', ' ') FROM prod_analytics.refresh_incremental() r, jsonb_array_elements(r->'views') v}),
			qr/^\Q$method\E/, "$database, $when: how the views are refreshed");
		is($subscriber->safe_psql($database, "SELECT count(*) FROM prod_analytics.verify_matview('$_')"), 0, "$database, $when: $_ is exact") for @kept;
		is( $subscriber->safe_psql($database, 'SELECT org_id, event_date, dau, purchases, revenue FROM prod_analytics.mv_org_daily_metrics ORDER BY 1, 2'),
			$publisher->safe_psql('postgres', q{SET client_min_messages = error; SELECT prod_analytics.refresh_incremental() \gset
				SELECT org_id, event_date, dau, purchases, revenue FROM prod_analytics.mv_org_daily_metrics ORDER BY 1, 2}),
			"$database, $when: the metrics are the publisher's");
	}
	return;
}

foreach my $database (@databases)
{
	$subscriber->safe_psql('postgres', "CREATE DATABASE $database TEMPLATE template0");
	$subscriber->safe_psql($database, qq{
		SET client_min_messages = warning;
		CREATE EXTENSION prod_analytics CASCADE;
		ALTER TABLE prod_analytics.events ADD COLUMN campaign text DEFAULT 'none';
		ALTER TABLE prod_analytics.users ADD COLUMN plan text NOT NULL DEFAULT 'free';
		SELECT prod_analytics.ensure_partitions('prod_analytics.events'), prod_analytics.ensure_partitions_between('prod_analytics.events', '$lower', '$upper');
		CREATE MATERIALIZED VIEW prod_analytics.by_campaign AS SELECT campaign, event_date, count(*) AS events FROM prod_analytics.events GROUP BY campaign, event_date;
		CREATE UNIQUE INDEX by_campaign_key ON prod_analytics.by_campaign (campaign, event_date) NULLS NOT DISTINCT;
		SELECT prod_analytics.enable_incremental_refresh('prod_analytics.by_campaign');
		SELECT prod_analytics.refresh_incremental();
		TRUNCATE prod_analytics.event_schemas;
		CREATE SUBSCRIPTION of_$database CONNECTION \$\$} . $publisher->connstr('postgres') . qq{\$\$ PUBLICATION $database});
}
$subscriber->wait_for_subscription_sync($publisher, "of_$_", $_) for @databases;
check_arrived('first copy');
cmp_ok($_, '>', 0, 'the first copy is noted') for on_each('SELECT count(*) FROM prod_analytics.changed_keys');
check_refreshed('first copy', 'recompute');

# What happens on the publisher happens on the subscriber.
$publisher->safe_psql('postgres', q{SELECT prod_analytics.etl_ingest_events(); SELECT prod_analytics.etl_upsert_users()});
check_arrived('ingested');
check_refreshed('ingested', 'keys');
$publisher->safe_psql('postgres', q{
	UPDATE prod_analytics.events SET campaign = 'moved' WHERE event_id IN (SELECT event_id FROM prod_analytics.events WHERE campaign = 'spring' LIMIT 5);
	UPDATE prod_analytics.events SET event_time = event_time - interval '1 month' WHERE event_id = 900005;
	DELETE FROM prod_analytics.events WHERE event_id IN (SELECT event_id FROM prod_analytics.events WHERE org_id = 2 LIMIT 3)});
check_arrived('updated, moved to another partition, deleted');
check_refreshed('updated, moved to another partition, deleted', 'keys');
$publisher->safe_psql('postgres', q{SELECT prod_analytics.erase_user(5)});
check_arrived('a user is erased');
is($_, 0, 'a user is erased on the subscriber too') for on_each('SELECT count(*) FROM prod_analytics.events WHERE user_id = 5');
check_refreshed('a user is erased', 'keys');

# A schema that is registered there holds here, in sessions that had the other one.
{
	my $session = $subscriber->background_psql('root');
	my $query = q{SELECT prod_analytics.is_valid_event('signup', '{"plan": "x", "seats": 2}')};

	like($session->query($query), qr/^t/, 'the schema of the publisher holds');
	$publisher->safe_psql('postgres', q{SELECT prod_analytics.register_event_schema('signup', '{"required": ["colour"]}')});
	check_arrived('a new schema');
	like($session->query($query), qr/^f/, 'and a new version of it');
	$session->quit;
}

# A partition that only the publisher has: rows find the default partition of the subscriber, until it makes one too.
$publisher->safe_psql('postgres', q{SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2031-01-01', '2031-02-01')});
$subscriber->safe_psql('leaves', q{SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2031-01-01', '2031-02-01')});
$subscriber->safe_psql('leaves', 'ALTER SUBSCRIPTION of_leaves REFRESH PUBLICATION');
$publisher->safe_psql('postgres', q{INSERT INTO prod_analytics.events (org_id, user_id, event_type, event_time) VALUES (1, 2, 'far', '2031-01-05')});
$subscriber->wait_for_subscription_sync($publisher, "of_$_", $_) for @databases;
check_arrived('a new partition');
is($subscriber->safe_psql('root', q{SELECT tableoid::regclass FROM prod_analytics.events WHERE event_type = 'far'}), 'prod_analytics.events_default', 'root: a row without a partition is in the default one');
is($subscriber->safe_psql('root', q{SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2031-01-01', '2031-02-01')}), '1', 'root: its partition is made');
is($subscriber->safe_psql($_, q{SELECT tableoid::regclass FROM prod_analytics.events WHERE event_type = 'far'}), 'prod_analytics.events_p20310101', "$_: and there it is") for @databases;
check_refreshed('a new partition', 'keys');

# The subscriber takes over: it gives numbers after those of the publisher, and ingests.
on_each(q{
	SELECT setval(pg_get_serial_sequence('prod_analytics.' || t, c), m) FROM (
		SELECT 'events' AS t, 'event_id' AS c, max(event_id) AS m FROM prod_analytics.events
		UNION ALL SELECT 'users', 'user_id', max(user_id) FROM prod_analytics.users
		UNION ALL SELECT 'organizations', 'org_id', max(org_id) FROM prod_analytics.organizations) s});
$subscriber->safe_psql($_, "DROP SUBSCRIPTION of_$_") for @databases;
$publisher->stop;
on_each(q{INSERT INTO prod_analytics.staging_events (user_id, org_id, event_type, payload, event_time) VALUES (2, 1, 'view', '{}', now())});
is($_, 'SUCCESS|1', 'alone: it ingests') for on_each(q{SELECT r->>'status', r->'inserted' FROM prod_analytics.etl_ingest_events() r});
foreach my $database (@databases)
{
	$subscriber->safe_psql($database, 'SELECT prod_analytics.refresh_incremental()');
	is($subscriber->safe_psql($database, "SELECT count(*) FROM prod_analytics.verify_matview('$_')"), 0, "$database, alone: $_ is exact") for @kept;
}

$subscriber->stop;
done_testing();
