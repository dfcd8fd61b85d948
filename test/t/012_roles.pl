# Who may do what survives every way of dumping and restoring, into servers where our roles are not there yet too, with what
# the user has changed; and making or migrating the tables does not undo it.

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
CREATE ROLE auditor;
CREATE ROLE "Team; DROP ROLE auditor";
CREATE ROLE ann LOGIN IN ROLE analytics_reader;
CREATE ROLE shipper LOGIN IN ROLE analytics_loader;
CREATE ROLE dba LOGIN IN ROLE analytics_operator;

-- Taken away: from a table, from one partition, from columns, from a view, from a function, and from what comes later.
REVOKE SELECT ON prod_analytics.users FROM analytics_reader;
REVOKE SELECT ON prod_analytics.events_p20260301 FROM analytics_reader;
REVOKE SELECT ON prod_analytics.job_status, prod_analytics.mv_org_daily_metrics FROM analytics_reader;
REVOKE EXECUTE ON FUNCTION prod_analytics.event_schema_report(text, timestamptz, timestamptz) FROM analytics_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA prod_analytics REVOKE SELECT ON TABLES FROM analytics_reader;
REVOKE INSERT ON prod_analytics.staging_events FROM analytics_loader;
GRANT INSERT (event_id, user_id, org_id, event_type, event_time, payload) ON prod_analytics.staging_events TO analytics_loader;
-- Given: to others, with the right to pass it on, on every kind of object.
GRANT USAGE ON SCHEMA prod_analytics TO auditor, "Team; DROP ROLE auditor";
GRANT SELECT ON prod_analytics.users, prod_analytics.events, prod_analytics.matview_status, prod_analytics.mv_org_daily_metrics TO auditor WITH GRANT OPTION;
GRANT SELECT (user_id, org_id) ON prod_analytics.users TO analytics_reader;
GRANT ALL ON prod_analytics.quality_checks TO "Team; DROP ROLE auditor";
GRANT USAGE ON SEQUENCE prod_analytics.events_event_id_seq TO auditor;
GRANT EXECUTE ON FUNCTION prod_analytics.etl_ingest_events(integer) TO auditor;
GRANT EXECUTE ON PROCEDURE prod_analytics.maintain_partitions(regclass) TO "Team; DROP ROLE auditor" WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES IN SCHEMA prod_analytics GRANT SELECT ON TABLES TO auditor;
-- Partitions, tables and views from then on.
SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2027-09-15');
CREATE TABLE prod_analytics.notes (note text);
CREATE MATERIALIZED VIEW prod_analytics.days AS SELECT event_date, count(*) AS events FROM prod_analytics.events GROUP BY 1;
CREATE UNIQUE INDEX ON prod_analytics.days (event_date) NULLS NOT DISTINCT;
SELECT prod_analytics.enable_incremental_refresh('prod_analytics.days');

-- A table and a view of somebody who is no superuser.
CREATE SCHEMA team AUTHORIZATION "Team; DROP ROLE auditor";
GRANT analytics_operator TO "Team; DROP ROLE auditor";
SET ROLE "Team; DROP ROLE auditor";
CREATE TABLE team.t (k date, v int) PARTITION BY RANGE (k);
GRANT SELECT ON team.t TO auditor;
GRANT UPDATE (v) ON team.t TO PUBLIC;
SELECT prod_analytics.manage_partitions('team.t', 'k');
SELECT prod_analytics.ensure_partitions('team.t', '2026-03-15');
CREATE MATERIALIZED VIEW team.by_k AS SELECT k, sum(v) FROM team.t GROUP BY k;
CREATE UNIQUE INDEX ON team.by_k (k) NULLS NOT DISTINCT;
SELECT prod_analytics.enable_incremental_refresh('team.by_k');
SQL

# Every privilege, with who has given it and whether it may be passed on.
my $privileges = <<'SQL';
WITH acl (object, owner, acl) AS (
	SELECT format('%s %s', c.relkind, c.oid::regclass), c.relowner, coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))
		FROM pg_class c WHERE c.relnamespace IN ('prod_analytics'::regnamespace, 'team'::regnamespace) AND c.relkind <> 'c'
	UNION ALL SELECT format('column %s.%s', a.attrelid::regclass, a.attname), c.relowner, a.attacl FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		WHERE a.attacl IS NOT NULL AND c.relnamespace IN ('prod_analytics'::regnamespace, 'team'::regnamespace)
	UNION ALL SELECT 'routine ' || p.oid::regprocedure, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner)) FROM pg_proc p WHERE p.pronamespace = 'prod_analytics'::regnamespace
	UNION ALL SELECT 'schema ' || nspname, nspowner, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace WHERE nspname IN ('prod_analytics', 'team')
	UNION ALL SELECT format('default %s', defaclobjtype), defaclrole, defaclacl FROM pg_default_acl)
SELECT object, pg_get_userbyid(owner) AS owner, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END, pg_get_userbyid(a.grantor), a.privilege_type, a.is_grantable
FROM acl, aclexplode(acl) a ORDER BY 1, 2, 3, 4, 5, 6;
SQL
my $expected = $node->safe_psql('app', $privileges);

# The changes are there, so that comparing means something.
foreach my $line ('r prod_analytics.events_p20270601|postgres|auditor|postgres|SELECT|t', 'column prod_analytics.staging_events.payload|postgres|analytics_loader|postgres|INSERT|f',
	'r prod_analytics.notes|postgres|auditor|postgres|SELECT|f', 'default r|postgres|auditor|postgres|SELECT|f',
	'routine prod_analytics.etl_ingest_events(integer)|postgres|auditor|postgres|EXECUTE|f',
	'r team.t_p20260301|Team; DROP ROLE auditor|auditor|Team; DROP ROLE auditor|SELECT|f', 'column team.t_p20260301.v|Team; DROP ROLE auditor|PUBLIC|Team; DROP ROLE auditor|UPDATE|f')
{
	like($expected, qr/^\Q$line\E$/m, "before: $line");
}
foreach my $pattern ('^. prod_analytics.users\|.*\|analytics_reader\|', '^. prod_analytics.events_p20260301\|.*\|analytics_reader\|', '^r prod_analytics.notes\|.*analytics_reader',
	'^default.*analytics_reader', 'event_schema_report.*analytics_reader', '^r prod_analytics.staging_events\|.*analytics_loader')
{
	unlike($expected, qr/$pattern/m, "before: not $pattern");
}

# Checks privileges, and what login roles can do, after a restore.
sub check
{
	my ($target, $database, $how) = @_;

	is($target->safe_psql($database, $privileges), $expected, "$how: every privilege");
	is($target->safe_psql($database, 'SELECT prod_analytics.create_tables()'), '0', "$how: the tables are adopted");
	(my $but_functions = $expected) =~ s/^routine .*event_schema_report.*\n//mg;
	(my $after = $target->safe_psql($database, $privileges)) =~ s/^routine .*event_schema_report.*\n//mg;
	is($after, $but_functions, "$how: that leaves privileges as they were, but for those on functions");
	$target->safe_psql($database, 'REVOKE EXECUTE ON FUNCTION prod_analytics.event_schema_report(text, timestamptz, timestamptz) FROM analytics_reader');

	# A partition that comes later has what the parent has, and what the user has taken from the others too.
	$target->safe_psql($database, q{SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', '2092-01-01', '2092-01-02'); SELECT prod_analytics.ensure_partitions('team.t', '2027-03-15')});
	is($target->safe_psql($database, q{SELECT string_agg(a, ' ' ORDER BY a) FROM (SELECT replace(unnest(relacl)::text, 'm', '') FROM pg_class WHERE oid = 'prod_analytics.events_p20920101'::regclass) a (a) WHERE a NOT LIKE 'postgres=%'}),
		$target->safe_psql($database, q{SELECT string_agg(a, ' ' ORDER BY a) FROM (SELECT replace(unnest(relacl)::text, 'm', '') FROM pg_class WHERE oid = 'prod_analytics.events'::regclass) a (a) WHERE a NOT LIKE 'postgres=%'}), "$how: a new partition");
	is($target->safe_psql($database, q{SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'team.t_p20270301'::regclass}), 'Team; DROP ROLE auditor', "$how: a new partition of somebody else's table");
	$target->safe_psql($database, q{DROP TABLE prod_analytics.events_p20920101});
	return;
}

# Runs statements as a login role, and returns what they print or the SQLSTATE.
sub as
{
	my ($target, $database, $role, $sql) = @_;
	my ($out, $err);

	$target->psql($database, "\\set VERBOSITY sqlstate\n$sql", stdout => \$out, stderr => \$err, on_error_stop => 0, extra_params => [ '-U', $role ]);
	return $err =~ /ERROR:\s+(\S+)/ ? $1 : $out;
}

sub check_logins
{
	my ($target, $database, $how) = @_;

	is(as($target, $database, 'ann', 'SELECT count(*) FROM prod_analytics.organizations'), '0', "$how: a reader reads");
	is(as($target, $database, 'ann', 'SELECT count(email) FROM prod_analytics.users'), '42501', "$how: but not what was taken from him");
	is(as($target, $database, 'ann', 'SELECT count(org_id) FROM prod_analytics.users'), '0', "$how: and the columns that were left to him");
	is(as($target, $database, 'shipper', q{INSERT INTO prod_analytics.staging_events (event_type, event_time) VALUES ('x', '2026-03-10') RETURNING event_type}), '42501', "$how: a loader does not read what is staged");
	is(as($target, $database, 'shipper', q{INSERT INTO prod_analytics.staging_events (event_type, event_time) VALUES ('x', '2026-03-10')}), '', "$how: he loads");
	is(as($target, $database, 'shipper', q{INSERT INTO prod_analytics.staging_events (event_type, received_at) VALUES ('x', '2001-01-01')}), '42501', "$how: but not into columns that were taken from him");
	is(as($target, $database, 'dba', q{SELECT r->>'inserted' FROM prod_analytics.etl_ingest_events() r}), '1', "$how: an operator ingests");
	is(as($target, $database, 'dba', q{DELETE FROM prod_analytics.events}), '42501', "$how: and cannot do by hand what the function does");
	$target->safe_psql($database, 'DELETE FROM prod_analytics.events');
	return;
}

check_logins($node, 'app', 'before');

my $dumps = PostgreSQL::Test::Utils::tempdir;
command_ok([ 'pg_dump', '-f', "$dumps/plain.sql", $node->connstr('app') ], 'plain dump');
command_ok([ 'pg_dump', '-Fc', '-f', "$dumps/custom.dump", $node->connstr('app') ], 'custom dump');
command_ok([ 'pg_dump', '-Fd', '-j', '2', '-f', "$dumps/directory", $node->connstr('app') ], 'directory dump');

# The other server has the user's roles, made by hand, and none of ours.
my $other = PostgreSQL::Test::Cluster->new('target');
$other->init;
$other->start;
$other->safe_psql('postgres', 'CREATE ROLE auditor; CREATE ROLE "Team; DROP ROLE auditor"');
is($other->safe_psql('postgres', q{SELECT count(*) FROM pg_roles WHERE rolname LIKE 'analytics\_%'}), '0', 'the other server has none of our roles');

foreach my $target ($other, $node)
{
	my $where = $target->name;

	$target->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(plain custom directory);
	command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dumps/plain.sql", '-d', $target->connstr('plain') ], "plain into $where");
	command_ok([ 'pg_restore', '--exit-on-error', '-d', $target->connstr('custom'), "$dumps/custom.dump" ], "custom into $where");
	command_ok([ 'pg_restore', '--exit-on-error', '-j', '2', '-d', $target->connstr('directory'), "$dumps/directory" ], "directory into $where");
	check($target, $_, "$_ into $where") foreach qw(plain custom directory);
}
$other->safe_psql('postgres', 'CREATE ROLE ann LOGIN IN ROLE analytics_reader; CREATE ROLE shipper LOGIN IN ROLE analytics_loader; CREATE ROLE dba LOGIN IN ROLE analytics_operator');
check_logins($other, 'custom', 'restored');

# Roles that are there already stay as they are: a name, a connection limit, members.
$other->safe_psql('postgres', 'ALTER ROLE analytics_reader CONNECTION LIMIT 7; CREATE DATABASE fresh');
$other->safe_psql('fresh', 'SET client_min_messages = warning; CREATE EXTENSION prod_analytics CASCADE');
is($other->safe_psql('fresh', q{SELECT rolconnlimit FROM pg_roles WHERE rolname = 'analytics_reader'}), '7', 'a role that is there already is not changed');
is(as($other, 'fresh', 'ann', 'SELECT count(*) FROM prod_analytics.users'), '0', 'its members may read in each database with the extension');

# DROP EXTENSION keeps the privileges on tables, and CREATE EXTENSION gives those on the new functions.  (A view that uses a
# function of ours goes and comes with it.)
my $tables = sub { join "\n", grep { !/^routine|worker_status/ } split /\n/, $other->safe_psql('custom', $privileges) };
my $before = $tables->();
$other->safe_psql('custom', 'SET client_min_messages = warning; DROP EXTENSION prod_analytics CASCADE; CREATE EXTENSION prod_analytics');
is($tables->(), $before, 'DROP EXTENSION and CREATE EXTENSION leave the privileges on tables');
is(as($other, 'custom', 'dba', q{SELECT r->>'status' FROM prod_analytics.etl_ingest_events() r}), 'SUCCESS', 'and an operator ingests');

done_testing();
