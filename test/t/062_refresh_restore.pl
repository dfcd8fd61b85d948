# Views that are kept incrementally outlive dumps, upgrades, renamings and drops: they are exact whatever
# happened, and nothing is left of those that are gone.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# What each view holds, computed without us; "named" is somebody's who may do nothing in our schema.
my %view = (
	metrics => 'prod_analytics.mv_org_daily_metrics',
	named => '"Büro"."Umsatz; je ""Käufer"""',
	joined => 'public.joined',
	disabled => 'public.disabled');
my %columns = (metrics => 'org_id, event_date, dau, purchases, revenue');
my %query = (
	metrics => q{
		SELECT org_id, event_date, count(DISTINCT user_id) AS dau, count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
			sum((event_props->>'price')::numeric) AS revenue
		FROM prod_analytics.events GROUP BY org_id, event_date},
	named => q{SELECT "Käufer", "Tag", count(*) AS "Käufe", sum("Betrag") AS "Umsatz" FROM "Büro"."Käufe" GROUP BY "Käufer", "Tag"},
	joined => q{SELECT o.org_name, count(*) AS events FROM prod_analytics.events e JOIN prod_analytics.organizations o USING (org_id) GROUP BY o.org_name},
	disabled => q{SELECT event_type, count(*) AS events FROM prod_analytics.events GROUP BY event_type});

my $schema = qq{
	SET client_min_messages = warning;
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-01-15');
	SELECT prod_analytics.ensure_partitions('prod_analytics.events', '2026-03-15');
	INSERT INTO prod_analytics.organizations (org_id, org_name) SELECT n, 'Organization ' || n FROM generate_series(1, 3) n;
	INSERT INTO prod_analytics.users (user_id, org_id, email) SELECT n, 1 + n % 3, format('user%s\@example.com', n) FROM generate_series(1, 20) n;
	INSERT INTO prod_analytics.events (org_id, user_id, event_type, event_props, event_time)
	SELECT nullif(n % 4, 0), 1 + n % 20, (ARRAY['purchase', 'view'])[1 + n % 2], jsonb_build_object('price', n % 50), timestamptz '2026-01-01' + n * interval '1 hour'
	FROM generate_series(1, 2500) n;

	CREATE ROLE "plain owner";
	CREATE SCHEMA "Büro" AUTHORIZATION "plain owner";
	SET ROLE "plain owner";
	CREATE TABLE "Büro"."Käufe" ("Kauf" integer, "Überflüssig" text, "Käufer" text, "Tag" date, "Betrag" numeric(10, 2), "Notiz" varchar(10)) PARTITION BY LIST ("Käufer");
	CREATE TABLE "Büro"."Käufe a" PARTITION OF "Büro"."Käufe" FOR VALUES IN ('Ä', NULL);
	CREATE TABLE "Büro"."Käufe b" PARTITION OF "Büro"."Käufe" DEFAULT PARTITION BY RANGE ("Tag");
	CREATE TABLE "Büro"."Käufe b1" PARTITION OF "Büro"."Käufe b" DEFAULT;
	CREATE INDEX ON "Büro"."Käufe" ("Käufer", "Tag");
	INSERT INTO "Büro"."Käufe" ("Kauf", "Käufer", "Tag", "Betrag")
	SELECT n, (ARRAY['Ä', 'b', 'c'])[n % 4], date '2024-01-01' + n / 20, n FROM generate_series(1, 20000) n;
	RESET ROLE;

	CREATE MATERIALIZED VIEW $view{named} AS $query{named};
	CREATE MATERIALIZED VIEW $view{joined} AS $query{joined};
	CREATE MATERIALIZED VIEW $view{disabled} AS $query{disabled};
	CREATE UNIQUE INDEX ON $view{named} ("Käufer", "Tag") NULLS NOT DISTINCT;
	CREATE UNIQUE INDEX ON $view{joined} (org_name);
	CREATE UNIQUE INDEX ON $view{disabled} (event_type);
	ALTER MATERIALIZED VIEW $view{named} OWNER TO "plain owner";
	REFRESH MATERIALIZED VIEW prod_analytics.mv_org_daily_metrics;
};

# Other groups than those of another time; by whoever owns the tables.
my $change = q{
	INSERT INTO prod_analytics.events (org_id, user_id, event_type, event_props, event_time)
	VALUES (1, 1, 'change %1$s', '{"price": 7}', '2026-03-02'), (1, 2, 'change %1$s', NULL, '2026-03-03'), (NULL, 1, 'change %1$s', '{"price": 7}', timestamptz '2026-04-01' + %1$s * interval '1 day');
	UPDATE prod_analytics.events SET event_props = '{"price": 1000}' WHERE event_id = (SELECT min(event_id) + 1 + %1$s FROM prod_analytics.events WHERE event_time > '2026-02-20');
	DELETE FROM prod_analytics.events WHERE event_id = (SELECT min(event_id) FROM prod_analytics.events WHERE event_time > '2026-02-20');
	SET ROLE "plain owner";
	INSERT INTO "Büro"."Käufe" ("Kauf", "Käufer", "Tag", "Betrag") VALUES (0, 'Ä', '2027-01-01', %1$s), (0, NULL, date '2026-01-01' + %1$s, 5), (0, 'new %1$s', '2026-01-01', 5);
	UPDATE "Büro"."Käufe" SET "Käufer" = 'moved %1$s' WHERE "Kauf" = 100 + %1$s;
	DELETE FROM "Büro"."Käufe a" WHERE "Kauf" BETWEEN %1$s * 20 AND %1$s * 20 + 10;
	RESET ROLE;
};
my $changes = 0;

# What a restore has to bring back.
my $contents = q{
	SELECT matview_id, matview, archive, mode, reason, registered_at FROM prod_analytics.registered_matviews ORDER BY matview_id;
	SELECT t.tgrelid::regclass, t.tgname, t.tgenabled, t.tgparentid <> 0, t.tgfoid::regproc, obj_description(t.oid, 'pg_trigger')
	FROM pg_trigger t WHERE t.tgfoid::regproc::text = 'prod_analytics.capture_changes' ORDER BY t.tgrelid::regclass::text COLLATE "C", t.tgname COLLATE "C";
	SELECT c.relname, c.relispopulated, c.relowner::regrole, c.relacl FROM pg_class c WHERE c.relkind = 'm' ORDER BY c.relname COLLATE "C";
	SELECT evtname, evtevent, evtenabled, evttags FROM pg_event_trigger ORDER BY 1;
};
my $history = q{
	SELECT * FROM prod_analytics.org_daily_metrics_archive ORDER BY org_id, event_date;
	SELECT org_id, event_date, dau, purchases, revenue FROM prod_analytics.org_daily_metrics ORDER BY 1, 2;
};

# What may be left of a view that is gone.
my $left_over = q{
	SELECT 'changed_keys', count(*) FROM prod_analytics.changed_keys WHERE matview_id NOT IN (SELECT matview_id FROM prod_analytics.registered_matviews) HAVING count(*) > 0;
	SELECT 'refresh_state', * FROM prod_analytics.refresh_state WHERE matview_id NOT IN (SELECT matview_id FROM prod_analytics.registered_matviews);
	SELECT 'registered_matviews', matview FROM prod_analytics.registered_matviews WHERE to_regclass(matview) IS NULL;
	SELECT 'pg_trigger', tgrelid::regclass, tgname FROM pg_trigger WHERE tgfoid::regproc::text = 'prod_analytics.capture_changes'
		AND NOT EXISTS (SELECT FROM prod_analytics.registered_matviews r JOIN pg_rewrite w ON w.ev_class = to_regclass(r.matview)
			JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
			WHERE d.refobjid IN (SELECT tgrelid UNION SELECT relid FROM pg_partition_ancestors(tgrelid)) AND r.mode = 'incremental');
};

# Runs statements that have nothing to say besides their result.
sub quietly
{
	my ($node, $database, $statements, $name) = @_;
	my ($code, $out, $err) = $node->psql($database, $statements, on_error_stop => 1);

	is("$code $err", '0 ', "$name: no error, no warning");
	return $out;
}

sub change
{
	my ($node, $database, $role) = @_;

	$changes++;
	$role //= 'origin';
	$node->safe_psql($database, "SET session_replication_role = $role;" . sprintf $change, $changes);
	return;
}

# How many rows differ between a view and its recomputation.
sub differences
{
	my ($node, $database, $name) = @_;
	my $stored = 'SELECT ' . ($columns{$name} // '*') . " FROM $view{$name}";

	return $node->safe_psql($database,
		"SELECT (SELECT count(*) FROM ($query{$name} EXCEPT ALL $stored) missing) + (SELECT count(*) FROM ($stored EXCEPT ALL $query{$name}) surplus)");
}

# After a refresh what is registered is exact, and nothing waits; returns the methods.
sub check_refresh
{
	my ($node, $database, $when, @names) = @_;
	my $methods = quietly($node, $database, q{
		SELECT string_agg(v->>'method', ' ' ORDER BY v->>'matview' COLLATE "C")
		FROM prod_analytics.refresh_incremental() r, jsonb_array_elements(r->'views') v}, $when);

	@names = qw(metrics named joined) if !@names;
	is(differences($node, $database, $_), 0, "$when: $_ is exact") for @names;
	is($node->safe_psql($database, 'SELECT count(*) FROM prod_analytics.changed_keys'), 0, "$when: no change is left over");
	is($node->safe_psql($database, $left_over), '', "$when: nothing is left of what is gone");
	return $methods;
}

# Changes of any kind are seen, group by group unless something happened to a view itself.
sub check_changes
{
	my ($node, $database, $when, $methods) = @_;

	change($node, $database);
	cmp_ok(differences($node, $database, $_), '>', 0, "$when: a change makes a difference in $_") for qw(metrics named joined);
	is(check_refresh($node, $database, "$when, changed"), $methods // 'keys keys refresh', "$when: changed groups are computed");
	return;
}

# A restore of the data only has left the views empty, and made the triggers fire for some changes only.
sub check_demoted
{
	my ($node, $database, $when, %expected) = @_;

	cmp_ok($node->safe_psql($database, q{SELECT count(*) FROM pg_trigger WHERE tgfoid::regproc::text = 'prod_analytics.capture_changes' AND tgenabled = 'O'}),
		'>', 3, "$when: triggers do not fire always any more");
	cmp_ok(differences($node, $database, $_), '>', 0, "$when: $_ is not filled") for qw(metrics named joined disabled);
	$node->safe_psql($database, 'SELECT prod_analytics.refresh_incremental(); REFRESH MATERIALIZED VIEW disabled');
	is($node->safe_psql($database, $history), $expected{history}, "$when: history");
	is(differences($node, $database, $_), 0, "$when: $_ is exact") for qw(metrics named joined);

	change($node, $database, 'replica');
	$node->safe_psql($database, 'SELECT prod_analytics.refresh_incremental()');
	is(differences($node, $database, $_), 0, "$when, changed where no trigger fires: $_ is exact") for qw(metrics named joined);
	quietly($node, $database, 'SELECT prod_analytics.create_tables()', "$when: triggers can be mended");
	is($node->safe_psql($database, $contents), $expected{contents}, "$when: registry, triggers, views");
	is(check_refresh($node, $database, "$when, mended"), 'recompute recompute refresh', "$when: what was done while triggers did not fire is not trusted");
	return;
}

# A database is as good as the one that it was made from.
sub check_restored
{
	my ($node, $database, $when, %expected) = @_;

	if ($expected{demoted})
	{
		check_demoted($node, $database, $when, %expected);
	}
	else
	{
		is($node->safe_psql($database, $contents), $expected{contents}, "$when: registry, triggers, views");
		is($node->safe_psql($database, $history), $expected{history}, "$when: history");
		is(differences($node, $database, $_), 0, "$when: $_ is filled") for qw(metrics named joined disabled);
		is(check_refresh($node, $database, "$when, first refresh"), 'recompute recompute refresh', "$when: what was noted elsewhere is not trusted");
	}
	check_changes($node, $database, $when);
	cmp_ok(differences($node, $database, 'disabled'), '>', 0, "$when: a disabled view is left alone");

	my $archive = $node->safe_psql($database, 'SELECT * FROM prod_analytics.org_daily_metrics_archive ORDER BY org_id, event_date');
	my $before = $node->safe_psql($database, $history);

	quietly($node, $database, 'REFRESH MATERIALIZED VIEW prod_analytics.mv_org_daily_metrics', "$when: plain REFRESH");
	is($node->safe_psql($database, $history), $before, "$when: REFRESH keeps the history");
	check_changes($node, $database, "$when, after REFRESH", 'keys recompute refresh');
	is($node->safe_psql($database, 'SELECT * FROM prod_analytics.org_daily_metrics_archive ORDER BY org_id, event_date'), $archive, "$when: the archive is final");
	return;
}

# Runs a command and checks that it prints no error.
sub run_cleanly
{
	my ($name, @command) = @_;
	my ($out, $err) = run_command(\@command);

	unlike($err, qr/error|fatal/i, "$name: no error") or diag($err);
	return;
}

my $node = PostgreSQL::Test::Cluster->new('source');
$node->init(extra => ['--locale=C', '--encoding=UTF8']);
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', $schema);
foreach my $name (qw(named joined disabled))
{
	my $mode = $node->safe_psql('app', "SELECT r->>'mode' FROM prod_analytics.enable_incremental_refresh('" . ($view{$name} =~ s/'/''/gr) . q{') r});

	is($mode, $name eq 'joined' ? 'full' : 'incremental', "$name is registered");
}
$node->safe_psql('app', qq{
	SELECT prod_analytics.disable_incremental_refresh('$view{disabled}');
	SELECT prod_analytics.refresh_incremental();
	SELECT prod_analytics.manage_partitions('prod_analytics.events', 'event_time', retention => '1 month')});
is($node->safe_psql('app', q{SELECT prod_analytics.drop_expired_partitions('prod_analytics.events', '2026-03-05')}) > 0, 1, 'a partition is dropped');
cmp_ok($node->safe_psql('app', 'SELECT count(*) FROM prod_analytics.org_daily_metrics_archive'), '>', 100, 'its groups are archived');
$node->safe_psql('app', 'REFRESH MATERIALIZED VIEW disabled');
check_changes($node, 'app', 'at the source');
change($node, 'app');
cmp_ok($node->safe_psql('app', 'SELECT count(*) FROM prod_analytics.changed_keys'), '>', 5, 'changes wait');
cmp_ok(differences($node, 'app', 'disabled'), '>', 0, 'a disabled view is left alone');

# A restore fills views from their sources, so what was pending is there already.
my $dumps = PostgreSQL::Test::Utils::tempdir;
command_ok([ 'pg_dump', '-f', "$dumps/plain.sql", $node->connstr('app') ], 'plain dump');
command_ok([ 'pg_dump', '-Fc', '-f', "$dumps/custom.dump", $node->connstr('app') ], 'custom dump');

# The dump leaves the source as it is: a refresh there tells what a restored database holds.
my %expected = (contents => $node->safe_psql('app', $contents));
{
	$node->safe_psql('postgres', 'CREATE DATABASE filled TEMPLATE app');
	is(check_refresh($node, 'filled', 'copied database'), 'recompute recompute refresh', 'copied database: what was noted elsewhere is not trusted');
	$expected{history} = $node->safe_psql('filled', $history);
}

my $other = PostgreSQL::Test::Cluster->new('target');
$other->init(extra => ['--locale=C', '--encoding=UTF8']);
$other->start;
$other->safe_psql('postgres', 'CREATE ROLE "plain owner"');

foreach my $target ($node, $other)
{
	my $where = $target->name;
	my @restore = ('pg_restore', '--exit-on-error', "$dumps/custom.dump", '-d');

	$target->safe_psql('postgres', "CREATE DATABASE $_ TEMPLATE template0") for qw(plain custom sections data);
	run_cleanly("plain into $where", 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dumps/plain.sql", '-d', $target->connstr('plain'));
	run_cleanly("custom into $where", @restore, $target->connstr('custom'), '-j', '2');
	run_cleanly("$_ into $where", @restore, $target->connstr('sections'), "--section=$_") for qw(pre-data data post-data);
	run_cleanly("schema into $where", @restore, $target->connstr('data'), '--schema-only');
	run_cleanly("data into $where", @restore, $target->connstr('data'), '--data-only', '--disable-triggers');
	check_restored($target, $_, "$_ into $where", %expected, demoted => $_ eq 'data') for qw(plain custom sections data);
}
$other->stop;
$node->safe_psql('postgres', "DROP DATABASE $_") for qw(plain custom sections data filled);

# pg_upgrade keeps the contents of views, and what is pending.
{
	my $new = PostgreSQL::Test::Cluster->new('upgraded');
	my $bin = $node->config_data('--bindir');
	my $directory = PostgreSQL::Test::Utils::tempdir_short;

	$new->init(extra => ['--locale=C', '--encoding=UTF8']);
	$node->stop;
	chdir $directory or BAIL_OUT('no directory');
	command_ok([ 'pg_upgrade', '--no-sync', '-d', $node->data_dir, '-D', $new->data_dir, '-b', $bin, '-B', $bin, '-s', $directory, '-p', $node->port, '-P', $new->port ], 'pg_upgrade');
	$new->start;
	is($new->safe_psql('app', $contents), $expected{contents}, 'upgraded: registry, triggers, views');
	cmp_ok($new->safe_psql('app', 'SELECT count(*) FROM prod_analytics.changed_keys'), '>', 5, 'upgraded: changes still wait');
	cmp_ok(differences($new, 'app', $_), '>', 0, "upgraded: they are not in $_ yet") for qw(metrics named joined);
	change($new, 'app');
	is(check_refresh($new, 'app', 'upgraded'), 'recompute recompute refresh', 'upgraded: what was noted elsewhere is not trusted');
	check_changes($new, 'app', 'upgraded');
	cmp_ok(differences($new, 'app', 'disabled'), '>', 0, 'upgraded: a disabled view is left alone');
	$new->stop;
	$node->start;
}

# What the triggers do not see while the extension is away is found.
check_refresh($node, 'app', 'at the source');
$node->safe_psql('app', 'DROP EXTENSION prod_analytics CASCADE');
is($node->safe_psql('app', q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'prod_analytics_capture%'}), 0, 'without the extension there are no triggers');
change($node, 'app');
quietly($node, 'app', 'SET client_min_messages = warning; CREATE EXTENSION prod_analytics', 'CREATE EXTENSION');
is($node->safe_psql('app', $contents), $expected{contents}, 'CREATE EXTENSION: registry, triggers, views');
cmp_ok(differences($node, 'app', $_), '>', 0, "CREATE EXTENSION: changes in between are not in $_ yet") for qw(metrics named joined);
is(check_refresh($node, 'app', 'CREATE EXTENSION'), 'recompute recompute refresh', 'CREATE EXTENSION: nothing is trusted');
check_changes($node, 'app', 'CREATE EXTENSION');

# DDL of all kinds: changes wait when it happens, and others follow.
my @ddl = (
	[ 'renamed view', 'ALTER MATERIALIZED VIEW "Büro"."Umsatz; je ""Käufer""" RENAME TO "Umsatz"', named => '"Büro"."Umsatz"' ],
	[ 'view in another schema', 'CREATE SCHEMA "Archiv" AUTHORIZATION "plain owner"; ALTER MATERIALIZED VIEW "Büro"."Umsatz" SET SCHEMA "Archiv"', named => '"Archiv"."Umsatz"' ],
	[ 'renamed schema', 'ALTER SCHEMA "Archiv" RENAME TO "Akten"', named => '"Akten"."Umsatz"' ],
	[ 'dropped column', 'ALTER TABLE "Büro"."Käufe" DROP COLUMN "Überflüssig"' ],
	[ 'renamed column of the source', 'ALTER TABLE "Büro"."Käufe" RENAME COLUMN "Tag" TO day' ],
	[ 'renamed column of the view', 'ALTER MATERIALIZED VIEW "Akten"."Umsatz" RENAME COLUMN "Käufer" TO buyer' ],
	[ 'type of a column', 'ALTER TABLE "Büro"."Käufe" ALTER COLUMN "Notiz" TYPE text, ALTER COLUMN "Kauf" TYPE bigint' ],
	[ 'new column', q{ALTER TABLE "Büro"."Käufe" ADD COLUMN extra integer DEFAULT 5} ],
	[ 'renamed source', 'ALTER TABLE "Büro"."Käufe" RENAME TO purchases; ALTER TABLE "Büro"."Käufe a" RENAME TO purchases_a' ],
	[ 'renamed schema of the source', 'ALTER SCHEMA "Büro" RENAME TO office' ],
	[ 'renamed trigger', 'ALTER TRIGGER prod_analytics_capture_%d ON office.purchases RENAME TO mine' ],
	[ 'another owner', 'ALTER MATERIALIZED VIEW "Akten"."Umsatz" OWNER TO CURRENT_USER; ALTER TABLE office.purchases OWNER TO CURRENT_USER' ]);

# Brings what the tests write up to date with names.
sub follow
{
	my ($old, $new) = @_;

	s/$old/$new/g for $change, $query{named};
	return;
}

foreach my $step (@ddl)
{
	my ($name, $statement, undef, $new_name) = @$step;
	my $id = $node->safe_psql('app', q{SELECT matview_id FROM prod_analytics.registered_matviews WHERE matview !~ 'prod_analytics' AND mode = 'incremental'});

	change($node, 'app');
	quietly($node, 'app', sprintf($statement, $id), $name);
	$view{named} = $new_name if $new_name;
	follow('"Tag"', 'day') if $name eq 'renamed column of the source';
	if ($name eq 'renamed source')
	{
		follow('"Büro"."Käufe a"', '"Büro".purchases_a');
		follow('"Büro"."Käufe"', '"Büro".purchases');
	}
	follow('"Büro"', 'office') if $name eq 'renamed schema of the source';
	follow('SET ROLE "plain owner"', 'RESET ROLE') if $name eq 'another owner';
	is($node->safe_psql('app', "SELECT matview FROM prod_analytics.registered_matviews WHERE matview_id = $id"), $view{named}, "$name: the registry is in step");
	is(check_refresh($node, 'app', $name) =~ s/ refresh$//r, $name =~ /^(renamed view|view in another schema|type of a column|renamed trigger|another owner)$/ ? 'recompute keys' : 'keys keys', "$name: changed groups are computed");
	check_changes($node, 'app', $name);
}

# Drops: of the view, of another one with its source; and of the rest.
change($node, 'app');
quietly($node, 'app', 'DROP MATERIALIZED VIEW "Akten"."Umsatz"', 'dropped view');
is(check_refresh($node, 'app', 'dropped view', qw(metrics joined)), 'keys refresh', 'dropped view: the others go on');
is($node->safe_psql('app', q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'office.purchases'::regclass}), 0, 'dropped view: its trigger is gone');
$node->safe_psql('app', q{
	CREATE MATERIALIZED VIEW again AS SELECT day, count(*) FROM office.purchases GROUP BY day;
	CREATE UNIQUE INDEX ON again (day) NULLS NOT DISTINCT;
	SELECT prod_analytics.enable_incremental_refresh('again')});
change($node, 'app');
$node->safe_psql('app', 'DROP TABLE office.purchases CASCADE');
is(check_refresh($node, 'app', 'dropped source', qw(metrics joined)), 'keys refresh', 'dropped source: the others go on');
is($node->safe_psql('app', 'SELECT count(*) FROM prod_analytics.registered_matviews'), 2, 'dropped source: the view is not registered any more');
$node->safe_psql('app', 'DROP TABLE prod_analytics.events CASCADE');
is($node->safe_psql('app', $left_over), '', 'dropped events: nothing is left over');
is($node->safe_psql('app', 'SELECT count(*) FROM prod_analytics.registered_matviews'), 0, 'dropped events: nothing is registered');
cmp_ok($node->safe_psql('app', 'SELECT count(*) FROM prod_analytics.org_daily_metrics_archive'), '>', 100, 'dropped events: the archive stays');

$node->stop;
done_testing();
