# What the clients of a soak do.  A client is a list of kinds of work, each with a weight and a function that returns the
# statements of one piece of it.  All that is random comes from rand(), so that it is the same for the same seed.

package Clients;

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(clients);

my $events = 'prod_analytics.events';
my @types = qw(product_view product_view product_view add_to_cart purchase signup);

# Events that a loader repeats, and the number that its next one gets.  Numbers are far above those of the sequence.
my @recent;
my $next;

# The moment from which events' times are counted, the loader, and a directory for its files: set by start_client().
my ($now, $name, $client, $directory);

my $batch = 0;

sub start_client
{
	(my $number, $name, $now, $directory) = @_;
	$client = $number;
	$next = 1e12 + $number * 1e9;
	return;
}

sub chance
{
	my ($share) = @_;

	return rand() < $share;
}

sub one_of
{
	return $_[ rand @_ ];
}

sub timestamp
{
	my ($seconds) = @_;
	my @t = gmtime $seconds;

	return sprintf "%04d-%02d-%02d %02d:%02d:%02d.%03d+00", $t[5] + 1900, $t[4] + 1, @t[ 3, 2, 1, 0 ], rand 1000;
}

# A moment that most events have: some hours ago, now and then some days.
sub some_time
{
	return timestamp($now - (chance(0.8) ? rand 6 * 3600 : rand 20 * 86400));
}

sub literal
{
	my ($value) = @_;

	return defined $value ? "'" . $value =~ s/'/''/gr . "'" : 'NULL';
}

sub csv
{
	my ($value) = @_;

	return defined $value ? '"' . $value =~ s/"/""/gr . '"' : '';
}

# Ways in which a staged event can be special, and how often.
my %special = (
	duplicate => [ 80, sub { my $old = one_of(@recent) or return; @{ $_[0] }{qw(event_id event_time)} = @$old } ],
	contradiction => [ 20, sub { my $old = one_of(@recent) or return; $_[0]{event_id} = $old->[0] } ],
	anonymous => [ 50, sub { $_[0]{user_id} = undef } ],
	without_number => [ 100, sub { $_[0]{event_id} = undef } ],
	unknown_user => [ 20, sub { $_[0]{user_id} = 1e9 } ],
	unknown_organization => [ 10, sub { $_[0]{org_id} = 1e9 } ],
	without_type => [ 10, sub { $_[0]{event_type} = one_of(undef, '') } ],
	without_time => [ 10, sub { $_[0]{event_time} = undef } ],
	no_object => [ 10, sub { $_[0]{payload} = one_of(qq(["$_[0]{marker}", 1]), qq("$_[0]{marker}")) } ],
	bad_price => [ 20, sub { @{ $_[0] }{qw(event_type payload)} = ('purchase', qq({"marker": "$_[0]{marker}", "order_id": "1", "price": "free"})) } ],
	late => [ 20, sub { $_[0]{event_time} = timestamp($now - rand 500 * 86400) } ],
	future => [ 10, sub { $_[0]{event_time} = timestamp($now + (2 + rand 30) * 86400) } ],
	infinite => [ 2, sub { $_[0]{event_time} = one_of('infinity', '-infinity') } ],
	unicode => [ 30, sub { $_[0]{event_type} = one_of("\x{65e5}\x{672c}", "na\x{ef}ve", "\x{1f600}", "back\\slash \"quote\" 'q'") } ]);
my @special = map { my $kind = $_; ($kind) x $special{$kind}[0] } sort keys %special;

# A row for staging_events.
sub event
{
	my ($marker) = @_;
	my $type = one_of(@types);
	my %event = (marker => $marker, event_id => $next++, user_id => 1 + int rand 2000, org_id => 1 + int rand 20,
		event_type => $type, event_time => some_time());

	$event{payload} = sprintf '{"marker": "%s", "product_id": "P%d", "device": "%s", "order_id": "%d", "price": %.2f, "email": "a@example.com"}',
		$marker, rand 50, one_of(qw(mobile desktop tablet)), rand 1e6, rand 100;
	$special{ one_of(@special) }[1]->(\%event) if chance(0.3);
	if (defined $event{event_id} && defined $event{event_time})
	{
		push @recent, [ @event{qw(event_id event_time)} ];
		shift @recent if @recent > 200;
	}
	return \%event;
}

# The events of a batch.
sub events
{
	my ($number) = @_;

	return map { event("$name-$batch-$_") } 1 .. $number;
}

my @columns = qw(event_id user_id org_id event_type payload event_time);

sub insert_events
{
	my (@rows) = @_;
	my $values = join ",\n", map { my $row = $_; '(' . join(', ', map { literal($row->{$_}) } @columns) . ')' } @rows;
	my $noted = join ",\n", map { '(' . join(', ', literal($_->{marker}), "'$name-$batch'", map({ literal($_) } @$_{qw(event_id event_time)})) . ')' } @rows;

	return "INSERT INTO prod_analytics.staging_events (@{[ join ', ', @columns ]}) VALUES $values;\n"
		. "INSERT INTO soak.staged (marker, batch, event_id, event_time) VALUES $noted;\n";
}

# COPY reads files: when it cannot begin, psql would take rows that follow it for commands.
sub copy_events
{
	my (@rows) = @_;
	my ($staged, $noted) = map { "$directory/$name.$_.csv" } qw(staged noted);

	open my $handle, '>:utf8', $staged or die "$staged: $!";
	print $handle join(',', map { csv($_) } @$_{@columns}) . "\n" for @rows;
	close $handle;
	open $handle, '>:utf8', $noted or die "$noted: $!";
	print $handle join(',', csv($_->{marker}), "$name-$batch", map { csv($_) } @$_{qw(event_id event_time)}) . "\n" for @rows;
	close $handle;
	return "\\copy prod_analytics.staging_events (@{[ join ', ', @columns ]}) FROM '$staged' WITH (FORMAT csv)\n"
		. "\\copy soak.staged (marker, batch, event_id, event_time) FROM '$noted' WITH (FORMAT csv)\n";
}

sub pause
{
	my ($seconds) = @_;

	return sprintf "SELECT pg_sleep(%.3f);\n", rand $seconds;
}

# A batch that is acknowledged when its COMMIT was seen.
sub batch
{
	my ($number, $statements) = @_;

	return { text => "BEGIN;\n${statements}COMMIT;\n", batch => "$name-$batch", markers => $number };
}

sub load
{
	my ($how, $size) = @_;

	$batch++;
	my @rows = events(1 + int rand $size);

	return batch(scalar @rows, $how->(@rows) . (chance(0.1) ? pause(1) : ''));
}

# Rows that are rolled back are none that anybody has seen committed.
sub load_in_part
{
	$batch++;
	my @rows = events(20 + int rand 50);
	my @others = map { event("$name-$batch-rolled-back-$_") } 1 .. 20;

	return batch(scalar @rows, "SAVEPOINT one;\n" . insert_events(@others) . "ROLLBACK TO one;\n" . copy_events(@rows) . pause(0.2)
			. "SAVEPOINT two;\nINSERT INTO prod_analytics.staging_events (event_id) VALUES ('none');\nROLLBACK TO two;\nRELEASE one;\n");
}

sub load_in_vain
{
	$batch++;
	return "BEGIN;\n" . insert_events(map { event("$name-$batch-rolled-back-$_") } 1 .. 30) . pause(0.2) . "ROLLBACK;\n";
}

# Many rows, made by the server.
sub load_many
{
	my $size = 1000 + int rand 4000;
	my $first = $next;

	$batch++;
	$next += $size;
	return batch($size, <<"END");
INSERT INTO prod_analytics.staging_events (event_id, user_id, org_id, event_type, event_time, payload)
SELECT $first + n, 1 + n % 2000, 1 + n % 20, (ARRAY['product_view', 'add_to_cart', 'purchase'])[1 + n % 3],
	timestamptz '@{[ timestamp($now - rand 86400) ]}' - n * interval '5 seconds',
	jsonb_build_object('marker', '$name-$batch-' || n, 'product_id', 'P' || n % 50, 'order_id', n, 'price', n % 100, 'device', 'mobile')
FROM generate_series(1, $size) n;
INSERT INTO soak.staged (marker, batch)
SELECT '$name-$batch-' || n, '$name-$batch' FROM generate_series(1, $size) n;
END
}

# Users: most with an address of their own, some of which are written anew, some that cannot be merged.
sub load_users
{
	my (@staged, @noted);
	my $number = 1 + int rand 30;

	$batch++;
	foreach my $n (1 .. $number)
	{
		my $marker = "$name-$batch-$n";
		my $shared = chance(0.2);
		my $email = $shared ? 'shared' . int(rand 30) . '@example.org' : chance(0.05) ? "no address $marker" : "$marker\@example.net";
		my $organization = chance(0.03) ? 'nobody' : 'Organization ' . (1 + int rand 20);
		my $payload = chance(0.03) ? '[]' : qq({"marker": "$marker", "last_login": "@{[ chance(0.03) ? 'never' : some_time() ]}"});

		push @staged, '(' . join(', ', map { literal($_) } $marker, $email, $organization, $payload) . ')';
		push @noted, '(' . join(', ', map { literal($_) } $marker, "$name-$batch", $email, $shared ? 't' : 'f') . ')';
	}
	return batch($number, "INSERT INTO prod_analytics.staging_users (src_id, email, org_src, payload) VALUES @{[ join ', ', @staged ]};\n"
			. "INSERT INTO soak.staged_users (marker, batch, email, shared) VALUES @{[ join ', ', @noted ]};\n");
}

sub erase
{
	my $user = chance(0.3) ? 1 + int rand 2000 : '(SELECT max(user_id) - ' . int(rand 200) . ' FROM prod_analytics.users)';

	return <<"END";
BEGIN;
WITH who AS MATERIALIZED (SELECT user_id, email::text FROM prod_analytics.users WHERE user_id = $user),
	done AS MATERIALIZED (SELECT email, prod_analytics.erase_user(user_id) AS result FROM who)
INSERT INTO soak.erased SELECT email FROM done WHERE result->>'status' = 'SUCCESS';
COMMIT;
END
}

# Writes to events without a detour.
sub direct_insert
{
	my $size = 1 + int rand 40;

	$batch++;
	my $first = $next;
	$next += $size;
	my $when = chance(0.02) ? timestamp($now + (500 + rand 50) * 86400) : some_time();
	return batch($size, <<"END");
WITH made AS (
	INSERT INTO prod_analytics.events (event_id, user_id, org_id, event_type, event_time, event_props)
	SELECT $first + n, u.user_id, 1 + n % 20, 'direct', timestamptz '$when' + n * interval '1 second', jsonb_build_object('marker', '$name-$batch-' || n)
	FROM generate_series(1, $size) n LEFT JOIN (SELECT user_id FROM prod_analytics.users ORDER BY user_id LIMIT 40 FOR KEY SHARE) u ON u.user_id = n
	RETURNING *)
INSERT INTO soak.staged (marker, batch, event_id, event_time, direct)
SELECT soak.marker(event_props), '$name-$batch', event_id, event_time, true FROM made;
END
}

sub some_events
{
	return sprintf "org_id = %d AND event_time BETWEEN timestamptz '%s' - interval '2 hours' AND '%s'", 1 + rand 20, (some_time()) x 2;
}

sub operator_turn
{
	my @turns = @_;

	return sub { return one_of(@turns) =~ s/NUMBER/1 + int rand 20000/ger };
}

my $ingest = 'SELECT prod_analytics.etl_ingest_events(NUMBER);';
my $refresh = 'SELECT prod_analytics.refresh_incremental();';
my @views = qw(prod_analytics.mv_org_daily_metrics soak.hourly soak.sensors soak.domains);

sub redrive
{
	my $reason = one_of('NULL', "'unknown_user'", "'schema_violation'", "'event_time_out_of_range'", "'duplicate_event_id'");

	return "INSERT INTO soak.redriven SELECT prod_analytics.redrive_events(now() - interval '2 seconds', $reason);";
}

sub schema
{
	my $type = one_of(qw(purchase signup add_to_cart));
	my $mode = one_of(qw(enforce enforce warn off));
	my $schema = one_of('{"type": "object", "required": ["order_id", "price"], "properties": {"price": {"type": ["number", "string"], "pattern": "^[0-9.]+$"}}}',
		'{"type": "object", "required": ["marker"], "properties": {"price": {"type": "number", "maximum": 95}}}', '{"type": "object"}');

	return "SELECT prod_analytics.register_event_schema('$type', '$schema', '$mode');";
}

# The partition of a month that most events are in, or any other.
sub ddl
{
	my ($statement) = @_;

	return sub {
		my $number = int rand 1000;

		return "SET lock_timeout = '1500ms';\n" . $statement =~ s/NUMBER/$number/gr . "\nRESET lock_timeout;\n";
	};
}

sub index_turn
{
	my $name = 'soak_index_' . int rand 3;

	return <<"END";
SELECT soak.a_partition(@{[ int rand 1000 ]}) AS partition \\gset
DROP INDEX CONCURRENTLY IF EXISTS prod_analytics.$name;
CREATE INDEX CONCURRENTLY $name ON :partition (event_type, org_id);
END
}

sub readings
{
	my $hours = sprintf '%.3f', rand() * 14 - 8;

	return "INSERT INTO soak.readings (sensor, taken_at, value) SELECT n % 7, now() + interval '$hours hours' - n * interval '1 minute', n FROM generate_series(1, @{[ 1 + int rand 100 ]}) n;";
}

my @reads = (
	q{SELECT count(*) FROM prod_analytics.funnel('{product_view,add_to_cart,purchase}', by => 'product_id')},
	q{SELECT count(*) FROM prod_analytics.funnel('{product_view,purchase}', within => '1 day', strict => false)},
	q{SELECT count(*) FROM prod_analytics.retention(current_date - 30, current_date, 'week')},
	q{SELECT count(*) FROM prod_analytics.active_users(current_date - 10, current_date)},
	q{SELECT count(*), sum(revenue) FROM prod_analytics.org_daily_metrics},
	q{SELECT count(*) FROM prod_analytics.users_without_event('purchase')},
	q{SELECT count(*) FROM prod_analytics.job_status},
	q{SELECT count(*) FROM prod_analytics.worker_status},
	q{SELECT count(*) FROM prod_analytics.job_progress},
	q{SELECT count(*) FROM prod_analytics.etl_jobs WHERE status = 'RUNNING'},
	q{SELECT count(*) FROM prod_analytics.events WHERE event_date BETWEEN current_date - 3 AND current_date},
	q{SELECT count(*) FROM prod_analytics.product_attributes});

sub read_turn
{
	my @queries = map { one_of(@reads) . ';' } 1 .. 3;

	return chance(0.3) ? join "\n", 'BEGIN ISOLATION LEVEL REPEATABLE READ;', @queries, pause(0.5), 'COMMIT;' : join "\n", @queries;
}

my @status_reads = (
	'SELECT count(*) FROM prod_analytics.partition_status;',
	'SELECT count(*) FROM prod_analytics.matview_status;',
	'SELECT count(*) FROM prod_analytics.plan_partitions();',
	'SELECT count(*) FROM prod_analytics.due_jobs();');

# The one session that nobody ends in the second half: it tells what its memory is.
sub steady_turn
{
	$batch++;
	my @rows = events(50);
	my $memory = q{SELECT 'memory', pg_backend_pid(), sum(used_bytes) / 1024 FROM pg_backend_memory_contexts;};

	return { %{ batch(scalar @rows, insert_events(@rows)) },
		before => join "\n", "UPDATE $events SET event_type = 'changed' WHERE @{[ some_events() ]};",
		'SELECT prod_analytics.etl_ingest_events(500);', $refresh, q{SELECT count(*) FROM prod_analytics.validate_event('purchase', '{"order_id": 1}');}, $memory };
}

# Each client: who it is, and its kinds of work.
sub clients
{
	my @loads = ([ 20, copy => sub { load(\&copy_events, 200) } ], [ 20, insert => sub { load(\&insert_events, 40) } ],
		[ 6, savepoints => \&load_in_part ], [ 4, rollback => \&load_in_vain ], [ 1, many => \&load_many ]);

	return (
		(map { { name => "loader$_", user => 'soak_loader', pause => 0.25, work => \@loads } } 1 .. 3),
		{ name => 'users', pause => 0.4, work => [ [ 20, load => \&load_users ], [ 4, merge => sub { 'SELECT prod_analytics.etl_upsert_users(' . (1 + int rand 200) . ');' } ],
				[ 6, erase => \&erase ], [ 2, redrive => sub { 'SELECT prod_analytics.redrive_users(now() - interval \'5 seconds\');' } ] ] },
		{ name => 'steady', pause => 0.3, work => [ [ 1, turn => \&steady_turn ] ] },
		{ name => 'operator', user => 'soak_operator', pause => 0.5, work => [
				[ 6, ingest => operator_turn($ingest) ], [ 3, ingest_and_rollback => operator_turn("BEGIN;\n$ingest\n$refresh\nROLLBACK;") ],
				[ 4, refresh => operator_turn($refresh, map { "SELECT prod_analytics.refresh_incremental('$_');" } @views) ],
				[ 2, refresh_repeatable => operator_turn(map { "BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT prod_analytics.refresh_incremental('$_');\nCOMMIT;" } @views[ 0, 2 ]) ],
				[ 3, redrive => \&redrive ], [ 2, checks => operator_turn('SELECT count(*) FROM prod_analytics.run_quality_checks();') ],
				[ 1, purge => operator_turn('CALL prod_analytics.purge_history();') ],
				[ 2, maintain => operator_turn('CALL prod_analytics.maintain_partitions();') ],
				[ 2, verify => operator_turn(map { "SELECT count(*) FROM prod_analytics.verify_matview('$_', 20);" } @views[ 0 .. 2 ]) ],
				[ 3, run_job => operator_turn(map { "SELECT prod_analytics.run_job('$_');" } qw(ingest_events refresh_matviews maintain_partitions fails)) ],
				[ 1, pause_job => operator_turn(qq{SELECT prod_analytics.pause_job('ingest_events');\nSELECT prod_analytics.resume_job('ingest_events');}) ],
				[ 1, cancel_job => operator_turn(map { "SELECT prod_analytics.cancel_job('$_');" } 'takes too long', 'refresh_matviews') ],
				[ 1, schedule_job => operator_turn(qq{SELECT prod_analytics.schedule_job('mine', '1 second', 'SELECT 1');\nSELECT pg_sleep(1.2);\nSELECT prod_analytics.unschedule_job('mine');}) ],
				[ 1, report => operator_turn(q{SELECT count(*) FROM prod_analytics.event_schema_report('purchase', now() - interval '1 day', now());}) ],
				[ 2, status => sub { one_of(@status_reads) } ] ] },
		(map { { name => "reader$_", user => 'soak_reader', pause => 1, work => [ [ 1, read => \&read_turn ] ] } } 1, 2),
		{ name => 'writer', pause => 0.3, work => [ [ 20, insert => \&direct_insert ],
				[ 6, update => sub { "UPDATE $events SET event_props = event_props || '{\"price\": 5}' WHERE @{[ some_events() ]};" } ],
				[ 4, update_partition => sub { "SELECT soak.a_partition(@{[ int rand 1000 ]}, false) AS partition \\gset\nUPDATE :partition SET org_id = 1 + org_id % 20 WHERE @{[ some_events() ]};" } ],
				[ 3, move => sub { "SELECT soak.move_events(@{[ 1 + int rand 20 ]}, '@{[ some_time() ]}');" } ],
				[ 3, delete => sub { "SELECT soak.remove_events(@{[ 1 + int rand 20 ]}, '@{[ some_time() ]}');" } ],
				[ 2, rollback => sub { "BEGIN;\nSELECT soak.remove_events(@{[ 1 + int rand 20 ]}, '@{[ some_time() ]}');\n$refresh\nROLLBACK;" } ],
				[ 2, backfill => sub { "CALL prod_analytics.backfill_column('$events', 'device_type', \$\$event_props->>'device'\$\$, 2000);" } ] ] },
		{ name => 'partitions', pause => 1, work => [ [ 3, detach => ddl('SELECT soak.detach(NUMBER) WHERE NOT EXISTS (SELECT FROM soak.shelf);') ],
				[ 6, attach => ddl('SELECT soak.attach();') ], [ 3, detach_and_attach => ddl('SELECT soak.detach_and_attach(NUMBER);') ],
				[ 2, truncate => ddl('SELECT soak.truncate_partition(NUMBER);') ], [ 2, ensure => sub { 'SELECT prod_analytics.ensure_partitions();' } ] ] },
		{ name => 'readings', pause => 0.5, work => [ [ 10, insert => \&readings ],
				[ 3, ensure => sub { "SELECT prod_analytics.ensure_partitions('soak.readings', now() + interval '@{[ int(rand 16) - 8 ]} hours');" } ],
				[ 3, expire => sub { "SELECT prod_analytics.drop_expired_partitions('soak.readings', now() + interval '@{[ int rand 8 ]} hours');" } ],
				[ 2, delete => sub { "DELETE FROM soak.readings WHERE sensor = @{[ int rand 7 ]} AND value > 50;" } ],
				[ 1, policy => sub { "SELECT prod_analytics.manage_partitions('soak.readings', 'taken_at', width => '1 hour', ahead => @{[ 2 + int rand 3 ]}, behind => 3, retention => '6 hours');" } ],
				[ 2, maintain => sub { "CALL prod_analytics.maintain_partitions('soak.readings');" } ] ] },
		{ name => 'ddl', pause => 1, work => [ [ 4, schema => \&schema ],
				[ 2, add_column => ddl("ALTER TABLE $events ADD COLUMN IF NOT EXISTS soak_column integer;") ],
				[ 1, drop_column => ddl("ALTER TABLE $events DROP COLUMN IF EXISTS soak_column;") ],
				[ 2, index => \&index_turn ],
				[ 2, enable => sub { "SELECT prod_analytics.enable_incremental_refresh('soak.by_device');" } ],
				[ 1, disable => sub { "SELECT prod_analytics.disable_incremental_refresh('soak.by_device');" } ],
				[ 1, refresh => sub { one_of('REFRESH MATERIALIZED VIEW CONCURRENTLY soak.hourly;', 'REFRESH MATERIALIZED VIEW soak.by_device;') } ],
				[ 1, reindex => sub { one_of('REINDEX TABLE CONCURRENTLY soak.hourly;', 'REINDEX TABLE CONCURRENTLY prod_analytics.staging_users;') } ],
				[ 1, vacuum => sub { one_of('VACUUM ANALYZE soak.hourly;', "ANALYZE $events;", 'VACUUM prod_analytics.changed_keys;') } ],
				[ 1, mark => sub { "SELECT prod_analytics.mark_changed('soak.hourly');" } ] ] });
}

1;
