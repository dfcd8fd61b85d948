# A store with a bit of everything that there is to lose, pictures of it to compare, and a proof that it works.

package Store;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

our @EXPORT = qw(create_store catalog data differences check_same check_works run_cleanly end_of_last_run $members);

# Who owns tables of their own, and who has privileges of their own.  The roles belong to the cluster.
my $roles = q{
	CREATE ROLE "shop owner";
	CREATE ROLE analyst LOGIN IN ROLE analytics_operator;
	CREATE ROLE auditor;
};

my $store = <<'SQL';
SET client_min_messages = warning;

-- Half a year of events, and what a year ago had: archived, and gone.
SELECT prod_analytics.load_sample_data(60, 3000);
SELECT prod_analytics.ensure_partitions_between('prod_analytics.events', now() - interval '8 months', now() - interval '3 months');
INSERT INTO prod_analytics.events (org_id, user_id, event_type, event_props, event_time)
SELECT nullif(n % 4, 0), 1 + n % 60, (ARRAY['purchase', 'view', 'Büro "x"'])[1 + n % 3], jsonb_build_object('order_id', n, 'price', n % 50, 'device', 'phone'), now() - interval '6 months' + n * interval '2 hours'
FROM generate_series(1, 1200) n;
SELECT prod_analytics.refresh_incremental();
SELECT prod_analytics.manage_partitions('prod_analytics.events', 'event_time', retention => '5 months');
CALL prod_analytics.maintain_partitions('prod_analytics.events');
UPDATE prod_analytics.partition_policies SET ahead = 8 WHERE parent = 'prod_analytics.events';

-- Schemas of events, two versions of one of them.
SELECT prod_analytics.register_event_schema('signup', '{"type": "object", "required": ["plan"]}', 'warn');
SELECT prod_analytics.register_event_schema('signup', '{"type": "object", "required": ["plan", "seats"], "properties": {"seats": {"type": "integer"}}}');

-- Rows of all fates: ingested, a duplicate, quarantined, in the default partition, still staged.
INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, payload, event_time) VALUES
	(900001, 1, 1, 'signup', '{"plan": "a\\b \"c\"", "seats": 3}', now()), (900001, 1, 1, 'signup', '{"plan": "a\\b \"c\"", "seats": 3}', now()),
	(900002, 1, 1, 'signup', '{"plan": "basic"}', now()), (900003, -1, 1, 'view', '{}', now()), (900004, 2, 1, NULL, '{}', now());
SELECT prod_analytics.etl_ingest_events();
INSERT INTO prod_analytics.events (event_type, event_time) VALUES ('far away', '2040-01-01');
INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, payload, event_time) VALUES (900005, 3, 1, 'view', '{"still": "staged"}', now());
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, payload) VALUES ('s1', 'Ann@Example.com', 'Ann', 'Nowhere', '{}');
SELECT prod_analytics.etl_upsert_users();
INSERT INTO prod_analytics.staging_users (src_id, email, username, org_src, payload)
SELECT 's2', 'Bob@Example.com', 'Bob', (SELECT min(org_name) FROM prod_analytics.organizations), '{"last_login": "2026-01-01"}';

-- What users add to our tables.
ALTER TABLE prod_analytics.events ADD COLUMN campaign text DEFAULT 'none';
ALTER TABLE prod_analytics.users ADD COLUMN plan text NOT NULL DEFAULT 'free', ADD CONSTRAINT plan_known CHECK (plan IN ('free', 'paid'));
ALTER TABLE prod_analytics.staging_events ADD COLUMN source text;
UPDATE prod_analytics.events SET campaign = 'spring' WHERE event_id % 7 = 0;
CREATE INDEX my_index ON prod_analytics.events (campaign);
CREATE UNIQUE INDEX my_expression_index ON prod_analytics.users (upper(username), user_id) WHERE is_active;
COMMENT ON INDEX prod_analytics.my_index IS 'what marketing asks for';
COMMENT ON COLUMN prod_analytics.events.campaign IS 'Kampagne';
COMMENT ON COLUMN prod_analytics.events.user_id IS 'a comment that was changed';
DROP INDEX prod_analytics.idx_events_props_gin;
ALTER TABLE prod_analytics.etl_jobs SET (autovacuum_vacuum_scale_factor = 0.01);
CREATE STATISTICS prod_analytics.my_statistics ON org_id, user_id FROM prod_analytics.events;
CREATE TABLE prod_analytics.campaigns (name text PRIMARY KEY, owner citext);
INSERT INTO prod_analytics.campaigns VALUES ('spring', 'Ann');
CREATE VIEW prod_analytics.campaign_events AS
	SELECT e.campaign, count(*) FROM prod_analytics.events e JOIN prod_analytics.campaigns c ON c.name = e.campaign GROUP BY 1;
CREATE FUNCTION public.note_user() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.attrs := NEW.attrs || ''{"noted": true}''; RETURN NEW; END';
CREATE TRIGGER note_user BEFORE INSERT ON prod_analytics.users FOR EACH ROW EXECUTE FUNCTION public.note_user();

-- Tables of somebody else: managed, and read by a view of theirs.
CREATE SCHEMA "Büro" AUTHORIZATION "shop owner";
SET ROLE "shop owner";
CREATE TABLE "Büro"."Käufe" ("Kauf" bigint, "Käufer" text, "Tag" date NOT NULL, "Betrag" numeric(10, 2), PRIMARY KEY ("Kauf", "Tag")) PARTITION BY RANGE ("Tag");
CREATE MATERIALIZED VIEW "Büro"."Umsatz; je ""Käufer""" AS SELECT "Käufer", "Tag", count(*) AS "Käufe", sum("Betrag") AS "Umsatz" FROM "Büro"."Käufe" GROUP BY "Käufer", "Tag";
CREATE UNIQUE INDEX "Umsatz_key" ON "Büro"."Umsatz; je ""Käufer""" ("Käufer", "Tag") NULLS NOT DISTINCT;
RESET ROLE;
SELECT prod_analytics.manage_partitions('"Büro"."Käufe"', 'Tag', '1 week', ahead => 3, behind => 1, timezone => 'Europe/Berlin');
SELECT prod_analytics.ensure_partitions('"Büro"."Käufe"');
INSERT INTO "Büro"."Käufe" SELECT n, (ARRAY['Ä', 'b', NULL])[1 + n % 3], current_date + n % 14, n FROM generate_series(1, 300) n;

CREATE TABLE public.gone (k date) PARTITION BY RANGE (k);
SELECT prod_analytics.manage_partitions('public.gone', 'k');
DROP TABLE public.gone;

-- Views that are kept: by groups, with the user's own column, as a whole, with an archive, and one that is not.
CREATE MATERIALIZED VIEW prod_analytics.by_campaign AS SELECT campaign, event_date, count(*) AS events FROM prod_analytics.events GROUP BY campaign, event_date;
CREATE UNIQUE INDEX by_campaign_key ON prod_analytics.by_campaign (campaign, event_date) NULLS NOT DISTINCT;
CREATE MATERIALIZED VIEW public.joined AS SELECT o.org_name, count(*) AS events FROM prod_analytics.events e JOIN prod_analytics.organizations o USING (org_id) GROUP BY o.org_name;
CREATE UNIQUE INDEX joined_key ON public.joined (org_name);
CREATE MATERIALIZED VIEW public.by_type AS SELECT event_type, event_date, count(*) AS events FROM prod_analytics.events GROUP BY event_type, event_date;
CREATE UNIQUE INDEX by_type_key ON public.by_type (event_type, event_date) NULLS NOT DISTINCT;
CREATE TABLE public.by_type_archive (event_type text, event_date date, events bigint, UNIQUE NULLS NOT DISTINCT (event_type, event_date));
CREATE MATERIALIZED VIEW public.disabled AS SELECT event_type, count(*) AS events FROM prod_analytics.events GROUP BY event_type;
CREATE UNIQUE INDEX disabled_key ON public.disabled (event_type) NULLS NOT DISTINCT;
CREATE MATERIALIZED VIEW public.never_filled AS SELECT count(*) FROM prod_analytics.users WITH NO DATA;
SELECT prod_analytics.enable_incremental_refresh('prod_analytics.by_campaign'), prod_analytics.enable_incremental_refresh('public.joined'),
	prod_analytics.enable_incremental_refresh('public.by_type', 'public.by_type_archive'), prod_analytics.enable_incremental_refresh('public.disabled'),
	prod_analytics.enable_incremental_refresh('"Büro"."Umsatz; je ""Käufer"""');
SELECT prod_analytics.disable_incremental_refresh('public.disabled');
COMMENT ON MATERIALIZED VIEW public.by_type IS 'my view';
SELECT prod_analytics.refresh_incremental();

-- Jobs: somebody's own, paused, dependent, changed.
CREATE TABLE public.ticks (who name DEFAULT current_user, at timestamptz DEFAULT clock_timestamp());
GRANT INSERT ON public.ticks TO analyst;
SET ROLE analyst;
SELECT prod_analytics.schedule_job('tick', '1 second', 'INSERT INTO public.ticks DEFAULT VALUES', timeout => '1 minute', max_retries => 2);
SELECT prod_analytics.schedule_job('after tick', '30 3 * * mon-fri', 'SELECT 1', timezone => 'Europe/Berlin', catch_up => 'skip', depends_on => '{tick,quality_checks}');
RESET ROLE;
SELECT prod_analytics.pause_job('upsert_users');
SELECT prod_analytics.unschedule_job('purge_history');
SELECT prod_analytics.schedule_job('maintain_partitions', '2 hours', 'CALL prod_analytics.maintain_partitions()');

-- Checks: an own one, one that was changed, one that was deleted.
INSERT INTO prod_analytics.quality_checks (check_name, query, severity, warn_above) VALUES ('mine', 'SELECT 1 /* "hm" */ AS a, 2 AS "Ä"', 'warning', 10);
UPDATE prod_analytics.quality_checks SET severity = 'warning', fail_above = 9, warn_above = 5 WHERE check_name = 'duplicate_events';
DELETE FROM prod_analytics.quality_checks WHERE check_name = 'low_volume';
SELECT * FROM prod_analytics.run_quality_checks();
SELECT prod_analytics.capture_plan('SELECT count(*) FROM prod_analytics.events');
SELECT prod_analytics.search_knowledge_base('anything');
INSERT INTO prod_analytics.org_hierarchy (org_id, role) SELECT min(org_id), 'root' FROM prod_analytics.organizations;

SELECT prod_analytics.refresh_incremental();

-- Privileges other than those that the extension gives.
GRANT EXECUTE ON FUNCTION prod_analytics.etl_ingest_events(integer) TO auditor WITH GRANT OPTION;
REVOKE EXECUTE ON FUNCTION prod_analytics.erase_user(bigint) FROM analytics_operator;
GRANT SELECT (user_id, org_id) ON prod_analytics.users TO auditor;
REVOKE SELECT ON prod_analytics.users FROM analytics_reader;
GRANT USAGE ON SCHEMA prod_analytics TO auditor;
REVOKE USAGE ON SCHEMA prod_analytics FROM analytics_loader;
ALTER DEFAULT PRIVILEGES IN SCHEMA prod_analytics REVOKE SELECT ON TABLES FROM analytics_reader;

-- What has changed since the last refresh.
INSERT INTO prod_analytics.events (org_id, user_id, event_type, event_props, event_time, campaign) VALUES
	(1, 2, 'purchase', '{"order_id": 1, "price": 3}', now(), 'summer'), (NULL, NULL, 'view', NULL, now(), NULL);
SQL

# Changes groups of all the views that are kept.
my $change = q{
	INSERT INTO prod_analytics.events (org_id, user_id, event_type, event_props, event_time, campaign) VALUES (1, 2, 'purchase', '{"order_id": 7, "price": 5}', now(), 'autumn');
	UPDATE prod_analytics.events SET campaign = 'moved' WHERE event_id = (SELECT min(event_id) FROM prod_analytics.events WHERE campaign = 'spring');
	INSERT INTO "Büro"."Käufe" SELECT max("Kauf") + 1, 'neu', current_date, 5 FROM "Büro"."Käufe";
};

my @kept = ('prod_analytics.mv_org_daily_metrics', 'prod_analytics.by_campaign', 'public.by_type', q{"Büro"."Umsatz; je ""Käufer"""});

# The schemas whose contents are compared, but for what belongs to other extensions.
my $ours = q{(SELECT n.oid FROM pg_namespace n WHERE n.nspname IN ('prod_analytics', 'public', 'Büro', 'mine'))};

# Members of the extension that are no functions: there should be none.
our $members = <<'SQL';
SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'prod_analytics')
	AND classid <> 'pg_proc'::regclass;
SQL

# One line for everything that the catalogs say of an object, without OIDs and without the order of columns.
my $catalog = qq{
WITH
foreign_member AS (
	SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname <> 'prod_analytics'
),
member AS (
	SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'prod_analytics'
),
routine AS (
	SELECT p.*, p.oid::regprocedure::text AS name FROM pg_proc p
	WHERE p.pronamespace IN $ours AND NOT EXISTS (SELECT FROM foreign_member f WHERE f.classid = 'pg_proc'::regclass AND f.objid = p.oid)
),
relation AS (
	SELECT c.*, format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relnamespace IN $ours
),
acl AS (
	SELECT 'function ' || r.name AS object, coalesce(r.proacl, acldefault('f', r.proowner)) AS acl FROM routine r
	UNION ALL SELECT 'initially, function ' || r.name, i.initprivs FROM routine r JOIN pg_init_privs i ON i.classoid = 'pg_proc'::regclass AND i.objoid = r.oid
	UNION ALL SELECT 'initially, relation ' || r.name, i.initprivs FROM relation r JOIN pg_init_privs i ON i.classoid = 'pg_class'::regclass AND i.objoid = r.oid
	UNION ALL SELECT 'relation ' || r.name, coalesce(r.relacl, acldefault(CASE r.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", r.relowner)) FROM relation r WHERE r.relkind IN ('r', 'p', 'm', 'v', 'S')
	UNION ALL SELECT format('column %s.%I', r.name, a.attname), a.attacl FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid WHERE a.attacl IS NOT NULL
	UNION ALL SELECT 'schema ' || n.nspname, coalesce(n.nspacl, acldefault('n', n.nspowner)) FROM pg_namespace n WHERE n.oid IN $ours AND n.nspname <> 'public'
	UNION ALL SELECT format('by default, of %s in %s, %s', d.defaclrole::regrole, d.defaclnamespace::regnamespace, d.defaclobjtype), d.defaclacl FROM pg_default_acl d
),
line AS (
	SELECT 'privilege: ' || object AS object, format('%s %s%s by %s', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END, a.privilege_type,
		CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END, a.grantor::regrole) AS fact FROM acl, aclexplode(acl) a
	UNION ALL SELECT 'function ' || r.name, format('owner %s, %s, comment %s, %s', r.proowner::regrole, CASE WHEN m.objid IS NULL THEN 'no member' ELSE 'member' END, obj_description(r.oid, 'pg_proc'),
		CASE r.prokind WHEN 'a' THEN (SELECT format('aggregate %s, %s', r.proparallel, a - 'aggfnoid') FROM (SELECT to_jsonb(g) AS a FROM pg_aggregate g WHERE g.aggfnoid = r.oid) g)
			|| pg_get_function_arguments(r.oid) || pg_get_function_result(r.oid) ELSE pg_get_functiondef(r.oid) END)
		FROM routine r LEFT JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = r.oid
	UNION ALL SELECT 'member', pg_describe_object(classid, objid, 0) FROM member
	UNION ALL SELECT 'schema ' || n.nspname, format('owner %s, comment %s', n.nspowner::regrole, obj_description(n.oid, 'pg_namespace')) FROM pg_namespace n WHERE n.oid IN $ours AND n.nspname <> 'public'
	UNION ALL SELECT 'relation ' || r.name, format('kind %s, owner %s, options %s, persistence %s, identity %s, filled %s, row security %s, bounds %s, key %s, parent %s, method %s, comment %s',
		r.relkind, r.relowner::regrole, r.reloptions, r.relpersistence, r.relreplident, r.relispopulated, r.relrowsecurity, pg_get_expr(r.relpartbound, r.oid), pg_get_partkeydef(r.oid),
		(SELECT string_agg(i.inhparent::regclass::text, ',') FROM pg_inherits i WHERE i.inhrelid = r.oid), (SELECT amname FROM pg_am WHERE pg_am.oid = r.relam), obj_description(r.oid, 'pg_class'))
		FROM relation r WHERE r.relkind IN ('r', 'p', 'm', 'v', 'S', 'f')
	UNION ALL SELECT 'definition of ' || r.name, pg_get_viewdef(r.oid) FROM relation r WHERE r.relkind IN ('m', 'v')
	UNION ALL SELECT 'sequence ' || r.name, format('%s %s %s %s %s %s, of %s', s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax, s.seqcache, s.seqcycle,
		(SELECT string_agg(format('%s.%s', d.refobjid::regclass, d.refobjsubid > 0), ',') FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype IN ('a', 'i')))
		FROM relation r JOIN pg_sequence s ON s.seqrelid = r.oid
	UNION ALL SELECT format('column %s.%I', r.name, a.attname), format('%s, not null %s, identity %s, generated %s, default %s, collation %s, storage %s, statistics %s, local %s, comment %s',
		format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid), a.attcollation::regcollation, a.attstorage, nullif(a.attstattarget, -1), a.attislocal,
		col_description(r.oid, a.attnum))
		FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE r.relkind IN ('r', 'p', 'm', 'v', 'f')
	UNION ALL SELECT 'index ' || r.name, format('%s, valid %s, identity %s, clustered %s, comment %s', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisreplident, i.indisclustered, obj_description(r.oid, 'pg_class'))
		FROM relation r JOIN pg_index i ON i.indexrelid = r.oid
	UNION ALL SELECT format('constraint %s.%I', r.name, k.conname), format('%s, validated %s, local %s, comment %s', pg_get_constraintdef(k.oid), k.convalidated, k.conislocal, obj_description(k.oid, 'pg_constraint'))
		FROM relation r JOIN pg_constraint k ON k.conrelid = r.oid
	UNION ALL SELECT format('trigger %s.%I', r.name, t.tgname), format('%s, enabled %s, comment %s', pg_get_triggerdef(t.oid), t.tgenabled, obj_description(t.oid, 'pg_trigger'))
		FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
	UNION ALL SELECT 'policy ' || r.name, p.polname FROM relation r JOIN pg_policy p ON p.polrelid = r.oid
	UNION ALL SELECT 'event trigger ' || t.evtname, format('%s %s %s %s, enabled %s, comment %s', t.evtevent, t.evttags, t.evtfoid::regproc, t.evtowner::regrole, t.evtenabled, obj_description(t.oid, 'pg_event_trigger')) FROM pg_event_trigger t
	UNION ALL SELECT 'statistics ' || s.stxname, pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext s WHERE s.stxnamespace IN $ours
	UNION ALL SELECT 'type ' || format_type(y.oid, NULL), y.typtype::text FROM pg_type y WHERE y.typnamespace IN $ours AND y.typrelid = 0 AND y.typelem = 0
		AND NOT EXISTS (SELECT FROM foreign_member f WHERE f.classid = 'pg_type'::regclass AND f.objid = y.oid)
	UNION ALL SELECT 'role ' || r.rolname, shobj_description(r.oid, 'pg_authid') FROM pg_roles r WHERE r.rolname LIKE 'analytics%'
)
SELECT format('%s: %s', object, regexp_replace(fact, '\\s+', ' ', 'g')) AS text FROM line ORDER BY object COLLATE "C", fact COLLATE "C"};

# Every row of every table, partition by partition, and of the views that are stored; and where sequences are.
my $data = qq{
SELECT format('rows of %I.%I: %s', n.nspname, c.relname, (xpath('/row/c/text()', query_to_xml(format(
	'SELECT count(*) || '' '' || coalesce(md5(string_agg(t::text, E''\\n'' ORDER BY t::text COLLATE "C")), ''-'') AS c FROM %s t',
	CASE WHEN c.relkind = 'm' AND NOT c.relispopulated THEN '(SELECT ''not filled'')' ELSE format('%I.%I', n.nspname, c.relname) END), false, true, '')))[1])
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relnamespace IN $ours AND c.relkind IN ('r', 'm') ORDER BY n.nspname, c.relname COLLATE "C";
SELECT format('sequence %I.%I: %s', schemaname, sequencename, last_value) FROM pg_sequences WHERE schemaname IN ('prod_analytics', 'public', 'Büro') ORDER BY schemaname, sequencename COLLATE "C";
SELECT format('job %s: %s', job_name, job_status) FROM (SELECT job_name, owner, schedule, paused, next_run_at FROM prod_analytics.job_status) job_status ORDER BY job_name COLLATE "C"};

# Makes the roles and the store.  Options: version (of the extension), without_roles (they are there).
sub create_store
{
	my ($node, $database, %options) = @_;
	my $version = $options{version} ? "VERSION '$options{version}'" : '';

	$node->safe_psql($database, "SET client_min_messages = warning; CREATE EXTENSION prod_analytics $version CASCADE");
	$node->safe_psql($database, $roles) if !$options{without_roles};
	$node->safe_psql($database, $store);
	half_fill($node, $database);
	return;
}

# Leaves a fill of a column that was cut off in the middle.
sub half_fill
{
	my ($node, $database) = @_;
	my ($out, $err) = ('', '');
	my $fill = IPC::Run::start(
		[ 'psql', '-X', '-q', '-d', $node->connstr($database), '-c', "SET application_name = 'fill'; SET prod_analytics.backfill_pause = 100",
			'-c', q{CALL prod_analytics.backfill_column('prod_analytics.events', 'device_type', $$event_props->>'device'$$, 50)} ],
		'<', \undef, '>', \$out, '2>', \$err);

	$node->poll_query_until($database, q{SELECT count(*) > 0 FROM prod_analytics.etl_jobs WHERE job_name LIKE 'backfill%' AND status = 'RUNNING' AND rows_processed >= 100})
	  or die 'no row is filled';
	$node->safe_psql($database, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fill'});
	eval { $fill->finish };
	$node->poll_query_until($database, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'fill'}) or die 'the fill does not end';
	return;
}

sub catalog
{
	my ($node, $database) = @_;

	return $node->safe_psql($database, $catalog);
}

sub data
{
	my ($node, $database) = @_;

	return $node->safe_psql($database, $data);
}

# The lines that two pictures do not share.
sub differences
{
	my ($got, $expected) = @_;
	my %left = map { $_ => 1 } split /\n/, $expected;
	my (@lines, %seen);

	foreach my $line (split /\n/, $got)
	{
		push @lines, "+ $line" if !$left{$line};
		$seen{$line} = 1;
	}
	push @lines, map { "- $_" } grep { !$seen{$_} } sort keys %left;
	return join "\n", @lines;
}

# Checks that a picture is the one expected, and shows only what is not.
sub check_same
{
	my ($got, $expected, $name) = @_;

	cmp_ok(length $expected, '>', 1000, "$name: there is something to compare");
	return is(differences($got, $expected), '', $name);
}

# Runs a command and checks that it prints no error; returns what it prints.
sub run_cleanly
{
	my ($name, @command) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([@command], '<', \undef, '>', \$out, '2>', \$err);

	ok($ok && $err !~ /error|fatal/i, "$name: no error") or diag($err);
	return $out . $err;
}

# How a run of a job ended last.
sub end_of_last_run
{
	my ($node, $database, $job) = @_;

	return $node->safe_psql($database, "SELECT status FROM prod_analytics.etl_jobs WHERE job_name = '$job' ORDER BY job_id DESC LIMIT 1");
}

# The views that are kept hold what their queries give.
sub check_views
{
	my ($node, $database, $when) = @_;

	is($node->safe_psql($database, 'SELECT count(*) FROM prod_analytics.verify_matview($$' . $_ . '$$)'), 0, "$when: $_ is exact") for @kept;
	return;
}

# Checks that a store works: its tables are complete, staged rows go in, changes are noted and refreshed group by group,
# partitions are made, schemas hold, the fill goes on, and what users added is in use.
sub check_works
{
	my ($node, $database, $when) = @_;
	my $one = sub { return $node->safe_psql($database, $_[0]) };

	is($one->('SET client_min_messages = error; SELECT prod_analytics.create_tables()'), 0, "$when: no table is missing");
	is($one->($members), '', "$when: only functions are members of the extension");
	is($one->(q{SELECT r->>'status', r->'inserted' FROM prod_analytics.etl_ingest_events() r}), 'SUCCESS|1', "$when: what was staged is ingested");
	is($one->(q{SELECT r->>'status', r->'inserted' FROM prod_analytics.etl_upsert_users() r}), 'SUCCESS|1', "$when: staged users are merged");
	is($one->(q{SELECT attrs->>'noted', plan, email_domain FROM prod_analytics.users WHERE email = 'bob@example.com'}), 'true|free|Example.com', "$when: with a trigger, a column and an e-mail in any case");
	is($one->(q{SELECT r->>'status' FROM prod_analytics.refresh_incremental() r}), 'SUCCESS', "$when: views are refreshed");
	check_views($node, $database, $when);
	$one->($change);
	cmp_ok($one->('SELECT count(DISTINCT matview_id) FROM prod_analytics.changed_keys'), '>=', 4, "$when: changes are noted for each view");
	is($one->(q{SELECT string_agg(v->>'method', ' ' ORDER BY v->>'matview' COLLATE "C") FROM prod_analytics.refresh_incremental() r, jsonb_array_elements(r->'views') v}),
		'keys keys keys keys refresh', "$when: changed groups are refreshed");
	check_views($node, $database, "$when, changed");
	is($one->(q{SELECT count(*) FROM prod_analytics.ensure_partitions_between('prod_analytics.events', now() + interval '10 years', now() + interval '10 years 1 month') made WHERE made > 0}), 1, "$when: a partition is made");
	is($one->(q{SELECT count(*) FROM prod_analytics.ensure_partitions('"Büro"."Käufe"', now() + interval '1 year') made WHERE made > 0}), 1, "$when: so are partitions of a table of the user");
	is($one->(q{SELECT prod_analytics.is_valid_event('signup', '{"plan": 1}'), prod_analytics.is_valid_event('signup', '{"plan": 1, "seats": 2}')}), 'f|t', "$when: the newest schema holds");
	is($one->('SELECT count(*) FROM prod_analytics.quarantined_events'), 3, "$when: the quarantine is there");
	is($one->(q{SET client_min_messages = warning; CALL prod_analytics.backfill_column('prod_analytics.events', 'device_type', $$event_props->>'device'$$);
		SELECT count(*) FROM prod_analytics.events WHERE device_type IS DISTINCT FROM event_props->>'device'}), 0, "$when: the fill goes on to the end");
	is($one->(q{SELECT details->>'continues' IS NOT NULL OR status = 'SUCCESS' FROM prod_analytics.etl_jobs WHERE job_name LIKE 'backfill%' ORDER BY job_id DESC LIMIT 1}), 't', "$when: and is logged");
	cmp_ok($one->(q{SELECT count(*) FROM prod_analytics.run_quality_checks() WHERE status IN ('PASS', 'WARN', 'FAIL')}), '>', 8, "$when: checks are run");
	is($one->(q{SELECT count(*) FROM prod_analytics.run_quality_checks() WHERE status = 'ERROR'}), 0, "$when: none of them fails to run");
	is($one->(q{SELECT count(*) > 0 FROM prod_analytics.funnel('{view,purchase}')}), 't', "$when: questions are answered");
	foreach my $view (split /\n/, $one->(q{SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'prod_analytics' AND c.relkind = 'v' ORDER BY 1}))
	{
		cmp_ok($one->("SELECT count(*) FROM $view"), '>=', 0, "$when: $view can be read");
	}
	return;
}

1;
