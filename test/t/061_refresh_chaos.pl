# Eight clients change a partitioned table in every way there is, two others refresh its two views all the
# time, and the server is killed in the middle: after a last refresh both views are exact, and sound on disk.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Crash qw(kill_server);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use constant {
	CLIENTS => 8,
	REFRESHERS => 2,
	RUN => 3,    # seconds: a client that met an error is back after them
	COPIES => 4000,    # more than fit into the time
};

my $seconds = $ENV{CHAOS_SECONDS} // 60;

# CHAOS_SEED repeats what the clients choose, though not when they get to it.
my $seed = $ENV{CHAOS_SEED} // time;
note("CHAOS_SEED=$seed");
srand $seed;

my $node = PostgreSQL::Test::Cluster->new('refresh_chaos');
my $directory = PostgreSQL::Test::Utils::tempdir();

# The views, as a user would compute them without us.
my %query = (
	daily => q{
		SELECT org_id, event_date, count(*) AS actions, count(DISTINCT kind) AS kinds, sum(amount) AS amount,
			count(*) FILTER (WHERE kind = 'a') AS of_a, max(event_time) AS latest
		FROM actions GROUP BY org_id, event_date},
	buckets => q{
		SELECT kind, bucket, count(*) AS actions, sum(amount) AS amount, min(action_id) AS first,
			array_agg(org_id ORDER BY org_id, action_id) AS organizations
		FROM actions WHERE kind <> 'hidden' OR kind IS NULL GROUP BY kind, bucket HAVING count(*) > 1});
my @views = sort keys %query;

my $schema = q{
	SET client_min_messages = warning;
	CREATE EXTENSION prod_analytics CASCADE;
	CREATE EXTENSION amcheck;
	CREATE TABLE actions (
		action_id bigserial,
		org_id integer,
		kind text,
		bucket integer,
		amount numeric(10, 2),
		event_time timestamptz NOT NULL,
		event_date date GENERATED ALWAYS AS ((event_time AT TIME ZONE 'UTC')::date) STORED,
		note text,
		PRIMARY KEY (action_id, event_time)
	) PARTITION BY RANGE (event_time);
	CREATE INDEX ON actions (org_id, event_time);
	CREATE INDEX ON actions (kind, bucket);
	SELECT prod_analytics.manage_partitions('actions', 'event_time', width => '7 days', ahead => 3, behind => 3);
	SELECT prod_analytics.ensure_partitions('actions', '2026-03-15');
	CREATE SEQUENCE refused;

	-- Partitions that are detached, and what it takes to attach them again.
	CREATE TABLE shelf (name text PRIMARY KEY, bounds text, lower timestamptz, upper timestamptz);

	-- Most in the weeks that have partitions, some in the default one, some where partitions are made by hand.
	CREATE FUNCTION random_time() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
		SELECT CASE WHEN random() < 0.05 THEN timestamptz '2030-01-01 00:00:00+00' + random() * interval '28 days'
			ELSE timestamptz '2026-02-10 00:00:00+00' + random() * interval '66 days' END $$;
	CREATE FUNCTION random_org() RETURNS integer LANGUAGE sql VOLATILE AS $$
		SELECT CASE WHEN random() > 0.05 THEN (random() * 30)::integer END $$;
	CREATE FUNCTION random_kind() RETURNS text LANGUAGE sql VOLATILE AS $$
		SELECT (ARRAY['a', 'b', 'c', 'd', 'e', 'f', 'hidden', NULL])[1 + floor(random() * 8)] $$;
	CREATE FUNCTION random_bucket() RETURNS integer LANGUAGE sql VOLATILE AS $$
		SELECT CASE WHEN random() > 0.05 THEN (random() * random() * 300)::integer END $$;
	CREATE VIEW random_action AS
		SELECT random_org() AS org_id, random_kind() AS kind, random_bucket() AS bucket,
			(random() * 1000)::numeric(10, 2) AS amount, random_time() AS event_time;

	CREATE FUNCTION add_actions(number integer) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO actions (org_id, kind, bucket, amount, event_time)
		SELECT random_org(), random_kind(), random_bucket(), (random() * 1000)::numeric(10, 2), random_time()
		FROM generate_series(1, number);
		RETURN FOUND;
	END $$;

	CREATE FUNCTION add_actions_as_replica() RETURNS boolean LANGUAGE sql SET session_replication_role = replica AS $$
		SELECT add_actions(3) $$;

	CREATE FUNCTION merge_actions(first bigint) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		MERGE INTO actions a
		USING (SELECT first + n AS action_id, random_org() AS org_id, random_bucket() AS bucket, random_time() AS event_time
			FROM generate_series(0, 6) n OFFSET 0) m ON a.action_id = m.action_id
		WHEN MATCHED AND m.bucket % 5 = 0 THEN DELETE
		WHEN MATCHED AND m.bucket % 5 = 1 THEN UPDATE SET event_time = m.event_time, org_id = m.org_id
		WHEN MATCHED THEN UPDATE SET bucket = m.bucket
		WHEN NOT MATCHED THEN INSERT (action_id, org_id, kind, bucket, amount, event_time)
			VALUES (m.action_id, m.org_id, 'm', m.bucket, 1, m.event_time);
		RETURN FOUND;
	END $$;

	CREATE FUNCTION a_partition() RETURNS regclass LANGUAGE sql VOLATILE AS $$
		SELECT relid FROM pg_partition_tree('actions') WHERE isleaf ORDER BY random() LIMIT 1 $$;
	-- All of them can be on the shelf.
	CREATE FUNCTION a_bounded_partition() RETURNS regclass LANGUAGE plpgsql AS $$
	DECLARE
		partition regclass;
	BEGIN
		SELECT relid INTO STRICT partition FROM pg_partition_tree('actions')
		WHERE isleaf AND relid <> 'actions_default'::regclass ORDER BY random() LIMIT 1;
		RETURN partition;
	END $$;

	-- Changes of any table that looks like actions.
	CREATE FUNCTION write_to(target regclass) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE format('UPDATE %s SET amount = random() * 100, org_id = random_org() WHERE action_id %% 97 = $1', target)
			USING floor(random() * 97);
		EXECUTE format('DELETE FROM %s WHERE action_id %% 197 = $1', target) USING floor(random() * 197);
		EXECUTE format('INSERT INTO %s (org_id, kind, bucket, amount, event_time)
			SELECT org_id, random_kind(), bucket, amount, event_time FROM %1$s LIMIT 5', target);
	END $$;

	CREATE FUNCTION to_shelf(partition regclass) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		bounds text;
		times text[];
	BEGIN
		LOCK TABLE actions;
		SELECT pg_get_expr(relpartbound, oid) INTO STRICT bounds FROM pg_class WHERE oid = partition AND relpartbound IS NOT NULL;
		times := regexp_match(bounds, $r$FROM \('(.*)'\) TO \('(.*)'\)$r$);
		EXECUTE format('ALTER TABLE actions DETACH PARTITION %s', partition);
		INSERT INTO shelf VALUES (partition::text, bounds, times[1]::timestamptz, times[2]::timestamptz);
		RETURN partition::text;
	END $$;

	-- What the default partition has got meanwhile moves first.
	CREATE FUNCTION from_shelf(shelved text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		place shelf;
	BEGIN
		DELETE FROM shelf WHERE name = shelved RETURNING * INTO STRICT place;
		LOCK TABLE actions_default;
		EXECUTE format('WITH moved AS (DELETE FROM actions_default WHERE event_time >= $1 AND event_time < $2 RETURNING *)
			INSERT INTO %s (action_id, org_id, kind, bucket, amount, event_time)
			SELECT action_id, org_id, kind, bucket, amount, event_time FROM moved', shelved) USING place.lower, place.upper;
		EXECUTE format('ALTER TABLE actions ATTACH PARTITION %s %s', shelved, place.bounds);
	END $$;

	CREATE FUNCTION add_by_hand() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		week integer := floor(random() * 4);
		name text := 'by_hand_' || week;
		lower timestamptz := timestamptz '2030-01-01 00:00:00+00' + week * interval '7 days';
	BEGIN
		EXECUTE format('CREATE TABLE %I (junk integer, LIKE actions INCLUDING ALL)', name);
		EXECUTE format('ALTER TABLE %I DROP COLUMN junk', name);
		EXECUTE format('INSERT INTO %I (org_id, kind, bucket, amount, event_time)
			SELECT random_org(), random_kind(), random_bucket(), 7, $1 + random() * interval ''6 days'' FROM generate_series(1, 20)', name)
			USING lower;
		INSERT INTO shelf VALUES (name, format('FOR VALUES FROM (%L) TO (%L)', lower, lower + interval '7 days'), lower, lower + interval '7 days');
		PERFORM from_shelf(name);
	END $$;

	-- A table with the name and the rows of a partition, some of them changed, takes its place.
	CREATE FUNCTION replace_partition(partition regclass) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		name text := to_shelf(partition);
	BEGIN
		EXECUTE format('ALTER TABLE %s RENAME TO replaced', name);
		EXECUTE format('CREATE TABLE %s (LIKE actions INCLUDING ALL)', name);
		EXECUTE format('INSERT INTO %s (action_id, org_id, kind, bucket, amount, event_time)
			SELECT action_id, org_id, kind, bucket, amount, event_time FROM replaced', name);
		PERFORM write_to(name::regclass);
		DROP TABLE replaced;
		PERFORM from_shelf(name);
	END $$;

	-- Whether it could be done; who is in the way may stay there.
	CREATE FUNCTION partition_ddl(what text) RETURNS boolean LANGUAGE plpgsql SET lock_timeout = '150ms' AS $$
	DECLARE
		partition regclass;
		shelved text;
		made integer;
	BEGIN
		CASE what
			WHEN 'truncate_partition' THEN
				EXECUTE format('TRUNCATE %s', a_partition());
			WHEN 'truncate_all' THEN
				TRUNCATE actions;
				PERFORM add_actions(8000);
			WHEN 'detach' THEN
				PERFORM to_shelf(a_bounded_partition());
			WHEN 'attach' THEN
				SELECT name INTO shelved FROM shelf ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED;
				IF shelved IS NULL THEN
					RETURN false;
				END IF;
				PERFORM write_to(shelved::regclass);
				PERFORM from_shelf(shelved);
			WHEN 'detach_and_attach' THEN
				shelved := to_shelf(a_bounded_partition());
				PERFORM write_to(shelved::regclass);
				PERFORM from_shelf(shelved);
			WHEN 'replace_partition' THEN
				PERFORM replace_partition(a_bounded_partition());
			WHEN 'drop_partition' THEN
				EXECUTE format('DROP TABLE %s', a_bounded_partition());
			WHEN 'drop_detached' THEN
				SELECT name INTO shelved FROM shelf ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED;
				IF shelved IS NULL THEN
					RETURN false;
				END IF;
				DELETE FROM shelf WHERE name = shelved;
				EXECUTE format('DROP TABLE %s', shelved);
			WHEN 'create_and_attach' THEN
				PERFORM add_by_hand();
			WHEN 'ensure_partitions' THEN
				made := prod_analytics.ensure_partitions('actions', '2026-03-15');
				RETURN made > 0;
			WHEN 'triggers_off' THEN
				partition := a_partition();
				EXECUTE format('ALTER TABLE %s DISABLE TRIGGER ALL', partition);
				PERFORM write_to(partition);
				EXECUTE format('ALTER TABLE %s ENABLE TRIGGER ALL', partition);
		END CASE;
		RETURN true;
	EXCEPTION
		WHEN lock_not_available OR deadlock_detected OR serialization_failure OR undefined_table OR duplicate_table OR duplicate_object
			OR undefined_object OR object_in_use
			OR wrong_object_type OR invalid_object_definition OR check_violation OR unique_violation OR no_data_found THEN
			PERFORM nextval('refused');
			RETURN false;
	END $$;
};

# What the clients do: how often, and the statements of a transaction, which leave in "done" whether
# there was anything to do.
my $some_rows = q{action_id BETWEEN :id AND :id + :number};
my $done = 'SELECT count(*) > 0 AS done FROM rows \gset';
my $insert = q{SELECT add_actions(:number) AS done \gset};
my $update = qq{WITH rows AS (UPDATE actions SET amount = amount + 1, bucket = random_bucket() WHERE $some_rows RETURNING 1) $done};
my $delete = qq{WITH rows AS (DELETE FROM actions WHERE $some_rows RETURNING 1) $done};
my $pause = '\sleep :pause ms';
my %work = (
	insert => [ 20, $insert ],
	insert_plain => [ 10, q{INSERT INTO actions (org_id, kind, bucket, amount, event_time) SELECT * FROM random_action;} ],
	insert_many => [ 2, q{INSERT INTO actions (org_id, kind, bucket, amount, event_time)
		SELECT random_org(), random_kind(), random_bucket(), n, random_time() FROM generate_series(1, 1000) n;} ],
	update => [ 12, $update ],
	update_keys => [ 10, qq{WITH rows AS (UPDATE actions SET org_id = random_org(), kind = random_kind(), bucket = random_bucket() WHERE $some_rows RETURNING 1) $done} ],
	update_time => [ 8, qq{WITH rows AS (UPDATE actions SET event_time = random_time() WHERE $some_rows RETURNING 1) $done} ],
	update_note => [ 4, qq{WITH rows AS (UPDATE actions SET note = 'x' WHERE $some_rows RETURNING 1) $done} ],
	delete => [ 8, $delete ],
	delete_many => [ 2, q{WITH rows AS (DELETE FROM actions WHERE action_id BETWEEN :id AND :id + 800 RETURNING 1) } . $done ],
	merge => [ 10, q{SELECT merge_actions(:id) AS done \gset} ],
	conflict_update => [ 6, qq{WITH rows AS (INSERT INTO actions (action_id, org_id, kind, bucket, amount, event_time)
		SELECT action_id, random_org(), random_kind(), bucket, 5, event_time FROM actions WHERE $some_rows
		ON CONFLICT (action_id, event_time) DO UPDATE SET org_id = EXCLUDED.org_id, kind = EXCLUDED.kind, amount = EXCLUDED.amount RETURNING 1) $done} =~ s/\n\t*/ /gr ],
	conflict_nothing => [ 3, qq{INSERT INTO actions (action_id, org_id, event_time)
		SELECT action_id, 0, event_time FROM actions WHERE $some_rows ON CONFLICT DO NOTHING;} ],
	write_to_partition => [ 5, q{SELECT write_to(a_partition()) IS NOT NULL AS done \gset} ],
	replica => [ 4, q{SELECT add_actions_as_replica() AS done \gset} ],
	savepoint => [ 8, "$insert\nSAVEPOINT one;\n$update\n$pause\n$delete\nROLLBACK TO one;\n$pause\nSAVEPOINT two;\n$update\nRELEASE two;\n$insert" ],
	rollback => [ 8, "$update\n$delete\n$insert\n$pause\nROLLBACK;\nBEGIN;" ],
	refresh_inside => [ 2, "$insert\nSELECT FROM prod_analytics.refresh_incremental('daily');\nSAVEPOINT one;\n$update\n"
			. "SELECT FROM prod_analytics.refresh_incremental('daily');\nROLLBACK TO one;\n$insert" ],
	prepare_commit => [ 6, "$insert\n$update\nPREPARE TRANSACTION 'chaos-:client_id-:random_seed';\n$pause\nCOMMIT PREPARED 'chaos-:client_id-:random_seed';\nBEGIN;" ],
	prepare_rollback => [ 4, "$insert\n$delete\nPREPARE TRANSACTION 'chaos-:client_id-:random_seed';\n$pause\nROLLBACK PREPARED 'chaos-:client_id-:random_seed';\nBEGIN;" ],
	read => [ 3, (map { "SELECT count(*) FROM $_;\n" } @views) ],
	# With an older snapshot it would insert groups that another refresh has just inserted.
	plain_refresh => [ 1, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;\nREFRESH MATERIALIZED VIEW CONCURRENTLY buckets;\nREFRESH MATERIALIZED VIEW daily;" ],
	(map { $_ => [ 2, "SELECT partition_ddl('$_') AS done \\gset" ] }
		qw(truncate_partition detach drop_partition drop_detached create_and_attach triggers_off)),
	(map { $_ => [ 3, "SELECT partition_ddl('$_') AS done \\gset" ] } qw(attach detach_and_attach replace_partition ensure_partitions)),
	truncate_all => [ 1, q{SELECT partition_ddl('truncate_all') AS done \gset} ]);
my @counted = ((sort keys %work), 'copy', map { ("keys_$_", "refresh_$_") } @views);

sub psql
{
	my ($query) = @_;

	return $node->safe_psql('postgres', $query);
}

# Writes one pgbench script; returns its name.
sub script
{
	my ($name, $text) = @_;
	my $file = "$directory/$name.sql";

	append_to_file($file, $text) if !-f $file;
	return $file;
}

# A transaction of that kind.  Half of them stay open for a while, across refreshes.
sub work_script
{
	my ($kind) = @_;

	return script($kind, <<"END");
SELECT greatest(1, last_value - 20000) AS oldest, last_value AS newest, true AS done FROM actions_action_id_seq \\gset
\\set id random(:oldest, :newest)
\\set number random(1, 12)
\\set pause greatest(0, random(-100, 100))
\\set level random(1, 10)
\\if :level = 1
BEGIN ISOLATION LEVEL SERIALIZABLE;
\\elif :level = 2
BEGIN ISOLATION LEVEL REPEATABLE READ;
\\else
BEGIN;
\\endif
$work{$kind}[1]
$pause
COMMIT;
\\if :done
SELECT nextval('did_$kind');
\\endif
END
}

# Refreshes one of the views, and notes which way it took.
sub refresh_script
{
	my ($view) = @_;

	return script("refresh_$view", <<"END");
SELECT coalesce(r->>'method', '') = 'keys' AS by_keys FROM prod_analytics.refresh_incremental('$view') r \\gset
SELECT nextval('did_refresh_$view');
\\if :by_keys
SELECT nextval('did_keys_$view');
\\endif
END
}

# psql with one COPY after the other.
sub copy_script
{
	my $text = "\\set VERBOSITY sqlstate\n";

	foreach my $n (1 .. COPIES)
	{
		my $rows = join '', map { sprintf "%d\t%s\t%s\t%d\t2026-03-%02d 12:00:00+00\n", rand 30, qw(a b c)[ rand 3 ], rand() < 0.1 ? '\N' : int rand 200, rand 100, 1 + rand 31 } 1 .. 1 + rand 20;
		my $copy = "COPY actions (org_id, kind, bucket, amount, event_time) FROM STDIN;\n$rows\\.\n";

		$text .= $n % 4
			? "$copy\\if :ERROR\n\\else\nSELECT nextval('did_copy');\n\\endif\n"
			: "BEGIN;\n${copy}SAVEPOINT one;\n${copy}ROLLBACK TO one;\nSELECT pg_sleep(random() * 0.1);\nCOMMIT;\n";
		$text .= "SELECT pg_sleep(0.01);\n";
	}
	return script('copy', $text);
}

sub start
{
	my (@command) = @_;
	my %client = (out => '', err => '');

	$client{handle} = IPC::Run::start([@command], '<', \undef, '>', \$client{out}, '2>', \$client{err});
	return \%client;
}

# The options of pgbench for a run of so many seconds.
sub pgbench
{
	my ($time, $clients) = @_;

	return ('pgbench', '-n', '-T', $time, '-c', $clients, '--random-seed=' . int rand 1_000_000, $node->connstr('postgres'));
}

sub start_workers
{
	my ($time) = @_;

	return start(pgbench($time, CLIENTS), map { ('-f', work_script($_) . "\@$work{$_}[0]") } sort keys %work);
}

# Those that go on whatever happens to the workers.
sub start_others
{
	my ($time) = @_;

	return (
		start(pgbench($time, REFRESHERS), map { ('-f', refresh_script($_)) } @views),
		start('psql', '-X', '-q', '-d', $node->connstr('postgres') . ' application_name=copies', '-f', copy_script(), '-o', '/dev/null'));
}

# Lets the workers work for so many seconds; returns them.
sub work
{
	my ($time) = @_;
	my $end = time + $time;
	my @workers;

	while (time < $end)
	{
		push @workers, start_workers(RUN);
		$workers[-1]{handle}->finish;
	}
	return @workers;
}

# The errors that clients have met which have no excuse.  pgbench goes on after serialization failures and
# deadlocks without a word.  A row for the default partition can be too late: its range has got a partition.
sub unexpected_errors
{
	my ($excuse, @clients) = @_;
	my $race = qr/relation "actions_default" violates partition constraint|Run was aborted/;

	return join '', grep { /ERROR|FATAL|PANIC|error:/ && !/$race/ && !/$excuse/ } map { "$_\n" } map { split /\n/, $_->{err} } @clients;
}

# Leaves a prepared transaction.  Like the clients, it may meet a partition that is just being attached, or rows that move.
sub prepare
{
	my ($name, $statement) = @_;
	my $error;

	foreach (1 .. 100)
	{
		my ($code, $out, $err) = $node->psql('postgres', "BEGIN; $statement; PREPARE TRANSACTION '$name'");

		return if $code == 0;
		$error = $err;
		last if $err !~ /violates partition constraint|deadlock detected|could not serialize|was already moved/;
	}
	BAIL_OUT("the transaction '$name' cannot be prepared: $error");
	return;
}

# How many rows differ between a view and its recomputation.
sub differences
{
	my ($view) = @_;
	my $stored = "SELECT @{[ join ', ', columns($view) ]} FROM $view";

	return psql("SELECT (SELECT count(*) FROM ($query{$view} EXCEPT ALL $stored) missing) + (SELECT count(*) FROM ($stored EXCEPT ALL $query{$view}) surplus)"
	);
}

# The view's columns without computed_at, which tells when a group was computed last.
sub columns
{
	my ($view) = @_;

	return split /\n/, psql("SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = '$view'::regclass AND attnum > 0 AND attname <> 'computed_at' ORDER BY attnum");
}

# How often each kind of work was done.
sub counts
{
	return map { $_ => psql("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM did_$_") } @counted;
}

sub refresh
{
	my ($view) = @_;

	return psql("SELECT r->>'mode' FROM prod_analytics.refresh_incremental('$view') r");
}

# Both views are exact after a refresh, and sound.
sub check_views
{
	my ($when) = @_;

	foreach my $view (@views)
	{
		is(refresh($view), 'incremental', "$when: $view is refreshed");
		is(differences($view), 0, "$when: $view is what its query returns");
		is(psql("SELECT * FROM prod_analytics.verify_matview('$view')"), '', "$when: verify_matview finds nothing wrong with $view");
		cmp_ok(psql("SELECT count(*) FROM $view"), '>', 50, "$when: $view has rows");
		is(psql("SELECT * FROM verify_heapam('$view', check_toast => true)"), '', "$when: the heap of $view is sound");
	}
	is(psql('SELECT count(*) FROM prod_analytics.changed_keys'), 0, "$when: no change is left over");
	is( psql(q{
			SELECT count(bt_index_check(i.indexrelid, heapallindexed => true)) > 2
			FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
			WHERE c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AND c.relpersistence = 'p'
				AND (t.relkind = 'm' OR t.relnamespace = 'prod_analytics'::regnamespace AND t.relkind = 'r')}),
		't', "$when: the indexes are sound");
	return;
}

$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
log_min_messages = warning
max_prepared_transactions = 20
max_locks_per_transaction = 256
deadlock_timeout = 200ms
autovacuum_naptime = 1s
prod_analytics.lock_timeout = '50ms'
prod_analytics.lock_retries = 4
CONF
$node->start;
psql($schema);
psql(join ';', map { "CREATE SEQUENCE did_$_" } @counted);
psql("SELECT add_actions(20000)");
psql("CREATE MATERIALIZED VIEW daily AS @{[ $query{daily} =~ s/ AS latest/ AS latest, now() AS computed_at/r ]}");
psql("CREATE MATERIALIZED VIEW buckets AS $query{buckets}");
psql('CREATE UNIQUE INDEX ON daily (org_id, event_date) NULLS NOT DISTINCT; CREATE UNIQUE INDEX ON buckets (kind, bucket) NULLS NOT DISTINCT');
psql("ALTER MATERIALIZED VIEW $_ SET (autovacuum_vacuum_threshold = 20, autovacuum_vacuum_scale_factor = 0.02)") for @views;
is(psql("SELECT r->>'mode' FROM prod_analytics.enable_incremental_refresh('$_') r"), 'incremental', "$_ is kept incrementally") for @views;
check_views('at first');

# With VERBOSITY sqlstate: like above, a deadlock, a lock that cannot be had, and what a failed transaction says.  When one
# of them keeps COPY from beginning, psql takes its rows for commands.
my $copy_excuse = qr/ERROR:  (40001|40P01|55P03|23514|25P02|3B001|42601)\b|error: invalid command \\[N.]/;

# 57P01 is the "terminating connection" of that verbosity: of pg_terminate_backend(), and of a process that waits for its
# client while the postmaster dies.
my $lost = qr/terminating connection|FATAL:  57P01\b|server closed the connection|connection to server was lost|perhaps the backend died|lost connection to parallel worker/;

# The first half of the time ends with a crash.
my @others = start_others(10 * $seconds);
my @workers = work($seconds / 2 - RUN);
my @last = start_workers(10 * $seconds);
sleep RUN;
prepare('left to commit', q{INSERT INTO actions (org_id, kind, bucket, amount, event_time) VALUES (1, 'p', 1, 1, '2026-03-15'), (1, 'p', 1, 1, '2026-03-15')});
prepare('left to roll back', q{UPDATE actions SET amount = 0 WHERE action_id IN (SELECT action_id FROM actions ORDER BY action_id LIMIT 20)});
my %before = counts();
# Some may have met an error by now.
while (psql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()}) < CLIENTS)
{
	push @last, start_workers(10 * $seconds);
	sleep 1;
}
cmp_ok(scalar kill_server($node), '>', CLIENTS + REFRESHERS, 'the server is at work when it is killed');
$_->{handle}->finish for @others, @last;
is(unexpected_errors(qr/$lost|$copy_excuse/, @workers, @last, @others), '', 'up to the crash no client meets an error without an excuse');
$node->start;
# A crash makes sequences jump ahead.
psql(join ';', 'SELECT 1', map { "SELECT setval('did_$_', $before{$_})" } grep { $before{$_} } @counted);
check_views('after the crash, with prepared transactions left');

foreach my $transaction (split /\n/, psql('SELECT gid FROM pg_prepared_xacts'))
{
	my $how = $transaction eq 'left to commit' || $transaction =~ /[02468]$/ ? 'COMMIT' : 'ROLLBACK';

	psql("$how PREPARED '$transaction'");
	note("$how PREPARED '$transaction'");
}
cmp_ok(differences($_), '>', 0, "the rows of a prepared transaction that commits are missing in $_ at first") for @views;
check_views('after the crash');

# The second half ends by itself, except for the COPYs.
@others = start_others($seconds / 2);
@workers = work($seconds / 2);
$others[0]{handle}->finish;
is(unexpected_errors(qr/^$/, @workers, $others[0]), '', 'after the crash no client meets an error without an excuse');
is($others[0]{handle}->result(0), 0, 'the refreshers come to their end');
note($_->{out} =~ s/^(?!number of (failed )?transactions|tps).*\n//gmr) for @workers, $others[0];
psql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'copies'});
$others[1]{handle}->finish;
is(unexpected_errors(qr/$lost|$copy_excuse/, $others[1]), '', 'nor does the one that copies');
check_views('at the end');

# All of it has really happened.  A busy machine gets to less: what has not happened yet has some more time.
my %count = counts();
foreach (1 .. 20)
{
	last if !grep { !$count{$_} } keys %work;
	@workers = work(RUN);
	is(unexpected_errors(qr/^$/, @workers), '', 'nor is there one later');
	%count = counts();
}
note(join ', ', map { "$_: $count{$_}" } @counted);
note('partition DDL that was refused: ' . psql('SELECT last_value FROM refused'));
cmp_ok($count{$_}, '>', 0, "there was $_") for @counted;
unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|was terminated by signal/, 'no process of the server died by itself');

$node->stop;
done_testing();
