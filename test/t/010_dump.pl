# A dump restores everything: tables, run-time partitions, a user's own additions, privileges and
# configuration; and the restored store goes on working.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('source');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', <<'SQL');
SET client_min_messages = warning;
CREATE EXTENSION prod_analytics CASCADE;
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
INSERT INTO prod_analytics.organizations (org_name, metadata) SELECT 'Organization ' || n, '{"a": "\\"}' FROM generate_series(1, 3) n;
INSERT INTO prod_analytics.users (org_id, email) SELECT 1 + n % 3, format('user%s@example.com', n) FROM generate_series(1, 100) n;

-- 10,000 events in several months, some older than any partition, some in the default partition.
INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, payload, event_time, received_at)
SELECT n, 1 + n % 100, 1 + n % 3, 'purchase', jsonb_build_object('order_id', n, 'price', n % 50), timestamptz '2025-06-01' + n * interval '40 minutes', '2026-03-15'
FROM generate_series(1, 10000) n;
INSERT INTO prod_analytics.staging_events (event_type) VALUES (NULL);
SELECT prod_analytics.etl_ingest_events(20000);
INSERT INTO prod_analytics.events (event_type, event_time) VALUES ('far away', '2040-01-01');
INSERT INTO prod_analytics.staging_events (event_type, event_time) VALUES ('still staged', '2026-03-01');
REFRESH MATERIALIZED VIEW CONCURRENTLY prod_analytics.mv_org_daily_metrics;

-- What users add.
ALTER TABLE prod_analytics.events ADD COLUMN campaign text DEFAULT 'none';
CREATE INDEX my_index ON prod_analytics.events (campaign);
UPDATE prod_analytics.events SET campaign = 'spring' WHERE event_id % 7 = 0;
CREATE TABLE prod_analytics.campaigns (name text PRIMARY KEY, owner citext);
INSERT INTO prod_analytics.campaigns VALUES ('spring', 'Ann');
CREATE VIEW prod_analytics.campaign_events AS
	SELECT e.campaign, count(*) FROM prod_analytics.events e JOIN prod_analytics.campaigns c ON c.name = e.campaign GROUP BY 1;
UPDATE prod_analytics.partition_policies SET ahead = 15;
CREATE TABLE mine (k date) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('mine', 'k', '1 week', retention => '2 years');
CREATE TABLE gone (k date) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('gone', 'k');
DROP TABLE gone;

-- Privileges other than those that the extension gives.
CREATE ROLE analyst;
GRANT analytics_reader TO analyst;
GRANT EXECUTE ON FUNCTION prod_analytics.etl_ingest_events(integer) TO analyst;
GRANT SELECT (user_id, org_id) ON prod_analytics.users TO analyst;
REVOKE SELECT ON prod_analytics.users FROM analytics_reader;
SQL

# Everything that a restore must bring back, as text.
my $contents = <<'SQL';
SELECT c.relname, (xpath('/row/c/text()', query_to_xml(format(
	'SELECT md5(string_agg(t::text, E''\n'' ORDER BY t::text COLLATE "C")) AS c FROM %s t', c.oid::regclass), false, true, '')))[1]
FROM pg_class c
WHERE c.relnamespace = 'prod_analytics'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND c.relname NOT LIKE '%\_status' AND c.relname <> 'org_daily_metrics' ORDER BY c.relname;
SELECT org_id, event_date, dau, purchases, revenue FROM prod_analytics.mv_org_daily_metrics ORDER BY 1, 2;
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_class c WHERE c.relispartition AND c.relkind = 'r' ORDER BY 1;
SELECT indexdef FROM pg_indexes WHERE schemaname = 'prod_analytics' ORDER BY 1;
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
	WHERE connamespace = 'prod_analytics'::regnamespace ORDER BY 1, 2;
SELECT viewname, definition FROM pg_views WHERE schemaname = 'prod_analytics' ORDER BY 1;
SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2;
SELECT evtname, evtevent, evttags, evtfoid::regproc FROM pg_event_trigger ORDER BY 1;
SELECT s.sequencename, s.last_value FROM pg_sequences s WHERE s.schemaname = 'prod_analytics' ORDER BY 1;
SQL
my $privileges = <<'SQL';
WITH acl AS (
	SELECT 'relation ' || c.relname AS object, coalesce(c.relacl, acldefault('r', c.relowner)) AS acl FROM pg_class c
	WHERE c.relnamespace = 'prod_analytics'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'v')
	UNION ALL SELECT format('column %s.%s', a.attrelid::regclass, a.attname), a.attacl FROM pg_attribute a WHERE a.attacl IS NOT NULL
		AND a.attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'prod_analytics'::regnamespace)
	UNION ALL SELECT 'function ' || p.proname, coalesce(p.proacl, acldefault('f', p.proowner)) FROM pg_proc p
	WHERE p.pronamespace = 'prod_analytics'::regnamespace
	UNION ALL SELECT 'schema', nspacl FROM pg_namespace WHERE nspname = 'prod_analytics'
	UNION ALL SELECT format('default %s', defaclobjtype), defaclacl FROM pg_default_acl)
SELECT object, a.grantee::regrole::text, a.privilege_type, a.is_grantable FROM acl, aclexplode(acl) a
ORDER BY 1, 2, 3, 4;
SQL

my $members = <<'SQL';
SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'prod_analytics')
	AND classid <> 'pg_proc'::regclass;
SQL

# Checks that a restored database holds the same as the source, and goes on working.
sub check_restored
{
	my ($target, $database, $how, $privileges_expected) = @_;

	is($target->safe_psql($database, $contents), $node->safe_psql('app', $contents), "$how: every row, partition, index and constraint");
	is($target->safe_psql($database, $privileges), $privileges_expected, "$how: privileges");
	is($target->safe_psql($database, $members), '', "$how: only functions are members of the extension");
	is($target->safe_psql($database, 'SELECT count(*) FROM prod_analytics.events'), '10001', "$how: no event lost");

	is($target->safe_psql($database, <<'SQL'), 't|1', "$how: ingestion goes on");
SELECT r->>'status' = 'SUCCESS', r->'inserted' FROM prod_analytics.etl_ingest_events() r;
SQL
	is($target->safe_psql($database, q{SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15')}), '3', "$how: partitions go on, by the restored policy");
	is($target->safe_psql($database, q{SELECT prod_analytics.ensure_partitions('mine', '2026-03-15')}), '17', "$how: a table of the user goes on");
	$target->safe_psql($database, 'ALTER TABLE mine RENAME TO yours');
	is($target->safe_psql($database, q{SELECT parent FROM prod_analytics.partition_policies WHERE parent ~ 'mine|yours'}), 'public.yours', "$how: its policy follows it");
	is($target->safe_psql($database, 'SELECT prod_analytics.create_tables()'), '0', "$how: the tables are adopted");
	$target->safe_psql($database, 'REFRESH MATERIALIZED VIEW CONCURRENTLY prod_analytics.mv_org_daily_metrics');
	is($target->safe_psql($database, 'SELECT sum(purchases) FROM prod_analytics.mv_org_daily_metrics'), '10000', "$how: metrics go on");
	return;
}

my $expected = $node->safe_psql('app', $privileges);
like($expected, qr/relation events_p20260301\|analytics_reader\|SELECT/, 'the reader may read partitions');
like($expected, qr/function etl_ingest_events\|analytics_operator\|EXECUTE/, 'the operator may ingest');

# Runs a command and checks that it prints no error.
sub run_cleanly
{
	my ($name, @command) = @_;
	my ($out, $err) = run_command(\@command);

	unlike($err, qr/error|fatal/i, "$name: no error");
	return;
}

my $dumps = PostgreSQL::Test::Utils::tempdir;
command_ok([ 'pg_dump', '-f', "$dumps/plain.sql", $node->connstr('app') ], 'plain dump');
command_ok([ 'pg_dump', '-Fc', '-f', "$dumps/custom.dump", $node->connstr('app') ], 'custom dump');
unlike(slurp_file("$dumps/plain.sql"), qr/prod_analytics_expected/, 'no trace of the scratch schema');

my $other = PostgreSQL::Test::Cluster->new('target');
$other->init;
$other->start;
$other->safe_psql('postgres', 'CREATE ROLE analyst');

foreach my $target ($node, $other)
{
	my $where = $target->name;

	$target->safe_psql('postgres', 'CREATE DATABASE plain');
	$target->safe_psql('postgres', 'CREATE DATABASE custom');
	run_cleanly("plain into $where", 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dumps/plain.sql", '-d', $target->connstr('plain'));
	run_cleanly("custom into $where", 'pg_restore', '-j', '2', '--exit-on-error', '-d', $target->connstr('custom'), "$dumps/custom.dump");
	check_restored($target, 'plain', "plain into $where", $expected);
	check_restored($target, 'custom', "custom into $where", $expected);
}

# A dump of the restored store restores too.
command_ok([ 'pg_dump', '-f', "$dumps/again.sql", $other->connstr('custom') ], 'dump of the restored store');
$other->safe_psql('postgres', 'CREATE DATABASE again');
run_cleanly('second generation', 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dumps/again.sql", '-d', $other->connstr('again'));
is($other->safe_psql('again', $privileges), $other->safe_psql('custom', $privileges), 'second generation: privileges');
is($other->safe_psql('again', 'SELECT count(*) FROM prod_analytics.events'), '10002', 'second generation: rows');

# A dump made with row security is told apart by the setting.
command_ok([ 'pg_dump', '--enable-row-security', '-f', "$dumps/rls.sql", $node->connstr('app') ], 'dump with row security');
$other->safe_psql('postgres', 'CREATE DATABASE rls');
$other->safe_psql('postgres', 'ALTER DATABASE rls SET prod_analytics.create_tables = off');
run_cleanly('with row security', 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dumps/rls.sql", '-d', $other->connstr('rls'));
is($other->safe_psql('rls', 'SELECT count(*) FROM prod_analytics.events'), '10001', 'with row security: rows');

done_testing();
