# Views with random queries over tables with random rows that change at random: after each incremental
# refresh a view has what its query returns.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant {
	ROWS => 700,
	ROUNDS => 5,
};

# SEEDS: how many views, REFRESH_QUERIES_SEED: the number of the first one.  A failure names its seed.
my $seeds = $ENV{SEEDS} // 200;
my $first_seed = $ENV{REFRESH_QUERIES_SEED} // 1;

# The columns of a table: type, and a random value.  Values that are equal and look different are in many of
# them; in the two weeks the clocks of several countries are changed.
my @columns = (
	[ id => 'bigint', q{nextval('ids')} ],
	[ i => 'integer', q{floor(random() * 15)::integer} ],
	[ x => 'integer', q{floor(random() * 150)::integer} ],
	[ t => 'text', q{('{a,A,b,B,cc,"",x y,xyz}'::text[])[1 + floor(random() * 8)]} ],
	[ n => 'numeric', q{('{1,1.0,1.00,2.5,2.50,-3,NaN,0}'::numeric[])[1 + floor(random() * 8)]} ],
	[ d => 'date', q{CASE WHEN random() < 0.02 THEN 'infinity' ELSE date '2026-03-25' + floor(random() * 16)::integer END} ],
	[ ts => 'timestamptz', q{CASE WHEN random() < 0.02 THEN '-infinity' ELSE timestamptz '2026-03-25 00:00:00+00' + floor(random() * 384) * interval '1 hour' END} ],
	[ lts => 'timestamp', q{CASE WHEN random() < 0.02 THEN 'infinity' ELSE timestamp '2026-03-25 00:00:00' + floor(random() * 384) * interval '1 hour' END} ],
	[ b => 'boolean', q{random() < 0.5} ],
	[ u => 'uuid', q{md5(floor(random() * 20)::text)::uuid} ],
	[ a => 'integer[]', q{ARRAY[floor(random() * 3)::integer, CASE WHEN random() < 0.8 THEN floor(random() * 3)::integer END]} ],
	[ e => 'mood', q{('{sad,ok,happy}'::mood[])[1 + floor(random() * 3)]} ],
	[ c => 'citext', q{('{abc,ABC,Def,def,x}'::citext[])[1 + floor(random() * 5)]} ],
	[ p => 'char(3)', q{('{a,ab,"a ",b}'::bpchar[])[1 + floor(random() * 4)]} ],
	[ vc => 'varchar(5)', q{('{a,ab,"a ",b}'::text[])[1 + floor(random() * 4)]} ],
	[ v => 'numeric(10,2)', q{(random() * 100)::numeric(10,2)} ],
	[ w => 'integer', q{floor(random() * 20)::integer} ],
	[ f => 'float8', q{('{0,-0,NaN,1.5,Infinity,2}'::float8[])[1 + floor(random() * 6)]} ],
	[ iv => 'interval', q{('{1 day,24 hours,30 days,1 mon,0,-1 day}'::interval[])[1 + floor(random() * 6)]} ],
	[ j => 'jsonb', q{('{"{\"k\": 1}","{\"k\": 1.0}","[]","\"s\"","null","{\"k\": \"z\"}"}'::jsonb[])[1 + floor(random() * 6)]} ],
	[ ip => 'inet', q{('{10.0.0.1,10.0.0.0/8,10.0.0.1/8}'::inet[])[1 + floor(random() * 3)]} ],
	[ by => 'bytea', q{decode(lpad(to_hex(floor(random() * 20)::integer), 2, '0'), 'hex')} ],
	[ rg => 'int4range', q{int4range(floor(random() * 3)::integer, floor(3 + random() * 3)::integer)} ],
	[ tm => 'time', q{time '10:00' + floor(random() * 8) * interval '1 hour'} ],
	[ s => 'text COLLATE nocase', q{('{abc,ABC,Def,def,x}'::text[])[1 + floor(random() * 5)]} ],
	[ junk => 'text', q{md5(random()::text)} ]);
my %value = map { $_->[0] => $_->[0] eq 'id' ? $_->[2] : "CASE WHEN random() > 0.08 THEN $_->[2] END" } @columns;

my @keys = (
	(map { $_->[0] } grep { $_->[0] !~ /^(junk|v)$/ } @columns),
	qw(x i ts d u),
	'lower(t)', 'upper(t)', 'i % 7', 'id % 40', 'id / 20', '(ts AT TIME ZONE \'UTC\')::date', '(ts AT TIME ZONE \'Europe/Berlin\')::date',
	q{coalesce(t, 'none')}, 'coalesce(i, -1)', q{date_trunc('day', lts)}, q{date_trunc('hour', lts)}, q{date_trunc('month', lts)},
	q{date_trunc('day', ts AT TIME ZONE 'UTC')}, q{date_trunc('week', d::timestamp)}, q{CASE WHEN i > 5 THEN 'big' WHEN i > 2 THEN 'small' END},
	'length(t)', 'md5(t)', q{t || 'x'}, 'abs(i - 7)', 'i IS NULL', 'NOT b', q{j ->> 'k'}, q{j -> 'k'}, 'floor(v / 10)', 'a[1]', 'array_length(a, 1)',
	q{date_bin('6 hours', lts, timestamp '2026-01-01')}, 'd + 1', 'v::integer', 'x::text', 'i + w', 'lower(c::text)', 'upper(rg)', 'nullif(i, 3)', 'ARRAY[i, w]',
	'greatest(i, w)', 'substr(t, 1, 1)', q{t COLLATE "C"}, q{extract(isodow FROM d)}, q{(b AND i > 3)}, 'i = ANY (a)', 'round(n, 0)', 'rtrim(p)', 'by || by');

my @aggregates = (
	'count(*)', 'count(i)', 'count(DISTINCT w)', 'count(DISTINCT c)', 'count(DISTINCT s)', 'count(DISTINCT n)', 'sum(v)', 'sum(w)', 'avg(w)', 'min(ts)', 'max(lts)', 'max(d)',
	'min(v)', 'max(id)', 'max(e)', 'min(a)', 'count(*) FILTER (WHERE b)', 'sum(v) FILTER (WHERE w > 5 AND t IS NOT NULL)', 'avg(v) FILTER (WHERE i < 3)',
	'array_agg(w ORDER BY w, id)', 'array_agg(id ORDER BY v DESC NULLS LAST, id)', q{string_agg(t, ',' ORDER BY t COLLATE "C", id)}, 'jsonb_agg(j ORDER BY id)', 'json_agg(t ORDER BY id)',
	'array_agg(DISTINCT i)', 'array_agg(DISTINCT w ORDER BY w DESC)', q{string_agg(DISTINCT t, '/' ORDER BY t) FILTER (WHERE length(t) < 3)}, 'jsonb_object_agg(id, w)' . ' FILTER (WHERE false)',
	'percentile_disc(0.5) WITHIN GROUP (ORDER BY v)', 'percentile_disc(ARRAY[0.1, 0.9]) WITHIN GROUP (ORDER BY w DESC)', 'percentile_cont(0.5) WITHIN GROUP (ORDER BY w)',
	'mode() WITHIN GROUP (ORDER BY w)', 'rank(5) WITHIN GROUP (ORDER BY w)', 'bool_or(b)', 'every(b)', 'bit_and(w)', 'stddev(w)', 'variance(v)', 'corr(w, w)' . ' IS NULL',
	'sum_of_squares(w)', 'sum_of_squares(DISTINCT w)', 'sum_of_squares(i) FILTER (WHERE b)', 'last_of(t ORDER BY id)', 'longest(t)', 'range_agg(rg)', 'max(w) FILTER (WHERE f > 0)',
	'sum(length(junk))', 'count(src_row) FILTER (WHERE src_row IS NOT NULL)');

my @expressions = (
	'sum(v) / nullif(count(*), 0)', 'round(avg(w), 2)', 'coalesce(max(w), 0) + count(*)', q{CASE WHEN count(*) > 3 THEN 'many' ELSE min(w)::text END}, q{count(*)::text || ' rows'},
	'ARRAY[min(w), max(w)]', 'count(*) > 2', q{'label'}, 'NULL::integer', 'sum(w) FILTER (WHERE b) - sum(w) FILTER (WHERE NOT b)', 'ARRAY[count(*), max(w), NULL]',
	'max(d) > min(d)', 'greatest(count(*), 5)', q{repeat('long ', 1000) || count(*)::text}, 'ROW(count(*), sum(w)) = ROW(1, 2)', 'upper(max(t COLLATE "C"))');

my @filters = (
	'w > 2', 't IS NOT NULL', 'b', 'i IN (1, 2, 3, 4, 5, 6)', 'v BETWEEN 10 AND 90', q{d >= date '2026-03-29'}, q{t LIKE 'a%' OR t > 'b'}, 'NOT b OR b IS NULL', '100 / nullif(w, 0) > 1',
	'w <> 0 AND 100 / w > 3', q{ts < timestamptz '2026-04-04 00:00:00+00'}, q{e <> 'sad'}, q{c = 'ABC' OR c = 'x'}, 'i IS DISTINCT FROM 3', 'a @> ARRAY[1]', q{j ->> 'k' = '1' OR w < 15}, 'false');

my @havings = (
	'count(*) > 1', 'sum(w) > 10', 'bool_or(b)', 'max(v) IS NOT NULL', 'count(DISTINCT w) > 2', 'count(*) FILTER (WHERE b) > 0 AND min(w) < 10', 'NOT bool_and(b)', 'max(id) % 2 = 0');

# Keys that tell in which partitions the rows of their group are, or nearly.
my %windows = (
	by_ts => [ 'ts', (map { my $zone = $_; ("(ts AT TIME ZONE '$zone')::date", map { "date_trunc('$_', ts AT TIME ZONE '$zone')" } qw(hour day week)) }
			qw(UTC Europe/Berlin America/Santiago Australia/Lord_Howe Asia/Kathmandu)),
		q{date_bin('1 day', ts, timestamptz '2000-01-01 12:00:00+00')}, q{date_trunc('month', ts AT TIME ZONE 'America/Santiago')}, q{(ts AT TIME ZONE 'UTC')::time} ],
	by_lts => [ 'lts', 'lts::date', (map { "date_trunc('$_', lts)" } qw(minute hour day week month quarter year)), q{date_bin('36 hours', lts, timestamp '2026-01-01')},
		q{lts + interval '1 month'}, 'lts::time' ],
	by_d => [ 'd', 'd', 'd - 1', 'd + 30', 'd::timestamp', (map { "date_trunc('$_', d::timestamp)" } qw(day week month)), q{date_trunc('week', d::timestamp)::date}, q{d > date '2026-04-01'} ]);
$windows{by_two} = $windows{by_ts};

# Keys that not every row has, and the filters that keep such rows away.  Whoever writes them must not notice; that
# such a view is refreshed as a whole is all right.
my %risky = (q{d - date '2026-01-01'} => 'isfinite(d)', '100 / w' => 'w <> 0', 't::integer' => q{t ~ '^[0-9]+$'});

# Where the rows are: the partition key, and the bounds of the partitions.
my @days = qw(2026-03-25 2026-03-29 2026-04-02 2026-04-06);
my %layouts = (
	plain => undef,
	by_ts => [ 'RANGE (ts)', map { "FOR VALUES FROM ('$days[$_] 00:00:00+00') TO ('$days[$_ + 1] 00:00:00+00')" } 0 .. 2 ],
	by_lts => [ 'RANGE (lts)', map { "FOR VALUES FROM ('$days[$_]') TO ('$days[$_ + 1]')" } 0 .. 2 ],
	by_d => [ 'RANGE (d)', map { "FOR VALUES FROM ('$days[$_]') TO ('$days[$_ + 1]')" } 0 .. 2 ],
	by_e => [ 'LIST (e)', q{FOR VALUES IN ('sad')}, q{FOR VALUES IN ('ok', NULL)} ],
	by_hash => [ 'HASH (id)', map { "FOR VALUES WITH (MODULUS 3, REMAINDER $_)" } 0 .. 2 ],
	by_two => [ 'RANGE (ts, i)', q{FOR VALUES FROM (MINVALUE, MINVALUE) TO ('2026-03-29 00:00:00+00', 3)}, q{FOR VALUES FROM ('2026-03-29 00:00:00+00', 3) TO ('2026-04-04 00:00:00+00', MINVALUE)} ]);

sub chance
{
	my ($probability) = @_;

	return rand() < $probability;
}

sub one_of
{
	return $_[ int rand @_ ];
}

# So many different ones of a list, in random order.
sub some_of
{
	my ($number, @list) = @_;
	my %seen;

	@list = grep { !$seen{$_}++ } @list;
	return map { splice @list, int rand @list, 1 } 1 .. ($number < @list ? $number : @list);
}

sub shuffled
{
	return some_of(scalar @_, @_);
}

# The table: its statements, and the partitions that can be detached, with their bounds.
sub make_table
{
	my ($layout) = @_;
	my ($partition_by, @bounds) = @{ $layouts{$layout} // [] };
	my @definitions = map { "$_->[0] $_->[1]" } @columns;
	my $drop = chance(0.5);
	my %partitions;

	push @definitions, 'late integer DEFAULT 1' if chance(0.3);
	my $sql = 'CREATE TABLE src (' . join(', ', $drop ? 'dropped integer' : (), @definitions) . ')' . ($partition_by ? " PARTITION BY $partition_by" : '') . ";\n";
	$sql .= "ALTER TABLE src DROP COLUMN dropped;\n" if $drop;
	foreach my $n (0 .. $#bounds)
	{
		my $name = "src_$n";

		$partitions{$name} = $bounds[$n];
		if ($n == 1)
		{
			# this one has its columns in another order
			$sql .= "CREATE TABLE $name (gone integer, " . join(', ', shuffled(@definitions)) . ");\nALTER TABLE $name DROP COLUMN gone;\n"
				. "ALTER TABLE src ATTACH PARTITION $name $bounds[$n];\n";
		}
		elsif ($n == 2 && $layout =~ /ts|_d/)
		{
			$sql .= "CREATE TABLE $name PARTITION OF src $bounds[$n] PARTITION BY HASH (id);\n"
				. join '', map { "CREATE TABLE ${name}_$_ PARTITION OF $name FOR VALUES WITH (MODULUS 2, REMAINDER $_);\n" } 0, 1;
		}
		else
		{
			$sql .= "CREATE TABLE $name PARTITION OF src $bounds[$n];\n";
		}
	}
	$sql .= "CREATE TABLE src_default PARTITION OF src DEFAULT;\n" if @bounds && $layout ne 'by_hash';
	return ($sql, %partitions);
}

# A query, its keys, and its columns.
sub make_query
{
	my ($layout) = @_;
	my @keys_of_view = some_of(one_of(1, 1, 2, 2, 2, 3), @keys);

	$keys_of_view[0] = one_of(@{ $windows{$layout} }) if $windows{$layout} && chance(0.5);
	my @output = (
		(map { my $n = $_; { name => chance(0.1) ? "\"Key $n\"" : "k$n", expression => $keys_of_view[$n], is_key => 1 } } 0 .. $#keys_of_view),
		(map { { expression => $_ } } some_of(1 + int rand 4, @aggregates)),
		(map { { expression => $_ } } some_of(int rand 3, @expressions)));
	my $alias = one_of('src', 'src', 's', '"S x"');

	my $risky = chance(0.04) ? one_of(sort keys %risky) : undef;
	$keys_of_view[0] = $output[0]{expression} = $risky if $risky;
	push @output, { expression => one_of(map { "($_) IS NULL" } @keys_of_view) } if chance(0.2);
	push @output, { expression => one_of('now()', 'clock_timestamp()', 'CURRENT_TIMESTAMP'), name => 'computed_at' } if chance(0.3);
	@output = shuffled(@output);
	foreach my $n (0 .. $#output)
	{
		$output[$n]{name} //= "c$n";
		$output[$n]{expression} =~ s/\bsrc_row\b/$alias/g;
		$output[$n]{group} = one_of($n + 1, "($output[$n]{expression})", $output[$n]{name});
	}

	my $query = 'SELECT ' . join(', ', map { "$_->{expression} AS $_->{name}" } @output) . ' FROM src' . ($alias eq 'src' ? '' : " AS $alias");
	my @where = ($risky ? $risky{$risky} : (), chance(0.4) ? some_of(one_of(1, 1, 2), @filters) : ());
	$query .= ' WHERE ' . join ' AND ', map { "($_)" } @where if @where;
	$query .= ' GROUP BY ' . join ', ', map { $_->{group} } shuffled(grep { $_->{is_key} } @output);
	$query .= ' HAVING ' . one_of(@havings, map { "($_) IS NOT NULL" } @keys_of_view) if chance(0.3);
	$query .= ' ORDER BY ' . one_of(map { $_->{name} } grep { $_->{is_key} } @output) if chance(0.1);
	return ($query, $risky ? 'incremental|full' : 'incremental', \@keys_of_view, \@output);
}

# A statement that changes the table; often a column that a key is made of.
sub make_change
{
	my ($table, $keys_of_view) = @_;
	my $some = sprintf 'id %% 61 = %d', rand 61;
	my @in_keys = grep { my $name = $_; grep { /\b$name\b/ } @$keys_of_view } map { $_->[0] } @columns;
	my @set = some_of(1 + int rand 3, chance(0.6) ? @in_keys : grep { $_ ne 'id' } map { $_->[0] } @columns);
	my $set = join ', ', map { "$_ = " . (chance(0.15) && $_ ne 'id' ? 'NULL' : $value{$_}) } @set;
	my $insert = 'INSERT INTO src (' . join(', ', map { $_->[0] } @columns) . ')';

	return one_of(
		("$insert SELECT * FROM random_rows(" . (1 + int rand 6) . ')') x 4,
		("UPDATE $table SET $set WHERE $some") x 4,
		("DELETE FROM $table WHERE $some") x 2,
		"UPDATE src SET junk = 'x' WHERE $some",
		"UPDATE src SET i = i WHERE $some",
		"$insert SELECT @{[ join ', ', map { $_->[0] } @columns ]} FROM src WHERE $some LIMIT 3",
		"MERGE INTO src USING random_rows(3) m ON src.id % 61 = m.x WHEN MATCHED AND m.b THEN DELETE WHEN MATCHED THEN UPDATE SET v = 1 WHEN NOT MATCHED THEN INSERT (id, x) VALUES (m.id, m.x)" =~ s/USING random_rows\(3\) m/USING (SELECT DISTINCT ON (x) * FROM random_rows(3)) m/r,
		"DELETE FROM src WHERE (@{[ one_of((grep { !$risky{$_} } @$keys_of_view), 'i') ]}) IS NULL",
		"DELETE FROM src WHERE x = " . int rand 150,
		"SET LOCAL session_replication_role = replica;\n$insert SELECT * FROM random_rows(2);\nSET LOCAL session_replication_role = origin",
		"DO \$\$ BEGIN UPDATE src SET w = 0 WHERE $some; PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN DELETE FROM src WHERE x = 7; END \$\$");
}

# What is done once in a while.  The partitions that are detached are noted, and attached again some time.
sub make_upheaval
{
	my ($layout, $partitions, $detached) = @_;
	my @names = sort keys %$partitions;
	my @any = ('TRUNCATE src', 'DELETE FROM src', 'UPDATE src SET i = i + 1, x = x + 1');

	return one_of(@any) if !@names || chance(0.2);
	my $name = one_of(@names);
	my $detach = "ALTER TABLE src DETACH PARTITION $name";
	my $attach = "ALTER TABLE src ATTACH PARTITION $name $partitions->{$name}";

	return "TRUNCATE $name" if $layout eq 'by_hash' || chance(0.3);
	return "DELETE FROM src_default;\n$attach" if delete $detached->{$name};
	return "$detach;\nUPDATE $name SET w = 1, t = 'b' WHERE x < 20;\n$attach" if chance(0.5);
	$detached->{$name} = 1;
	return $detach;
}

# The changes of a round: one or two transactions.
sub make_round
{
	my ($refresh, $change, $upheaval) = @_;
	my $more = sub { join '', map { $change->() . ";\n" } 1 .. 1 + int rand 3 };
	my $form = int rand 8;

	return "BEGIN;\n" . $upheaval->() . ";\n" . $more->() . "COMMIT;\n" if chance(0.15);
	return "BEGIN;\n" . $more->() . "COMMIT;\n" if $form < 2;
	return "BEGIN;\n" . $more->() . "SAVEPOINT a;\n" . $more->() . "ROLLBACK TO a;\n" . $more->() . "COMMIT;\n" if $form < 4;
	return "BEGIN;\n" . $more->() . "ROLLBACK;\nBEGIN;\n" . $more->() . "COMMIT;\n" if $form == 4;
	return "BEGIN;\n" . $more->() . $refresh . $more->() . "SAVEPOINT a;\n" . $more->() . $refresh . "ROLLBACK TO a;\n" . $more->() . one_of('COMMIT', 'COMMIT', 'ROLLBACK') . ";\n" if $form == 5;
	return "BEGIN;\n" . $more->() . "PREPARE TRANSACTION 'round';\n$refresh" . one_of('COMMIT', 'ROLLBACK') . " PREPARED 'round';\n" if $form == 6;
	return "BEGIN;\n" . $more->() . "COMMIT;\nBEGIN ISOLATION LEVEL REPEATABLE READ;\n" . $more->() . "COMMIT;\n";
}

# Compares the view with its query: what is missing and what is there and should not.  Keys are compared
# as they are, because equal ones can look different; everything else by how it looks.
sub make_comparison
{
	my ($query, $output) = @_;
	my $list = join ', ', map { $_->{is_key} ? $_->{name} : "$_->{name}::text COLLATE \"C\" AS $_->{name}" } grep { $_->{name} ne 'computed_at' } @$output;
	my ($stored, $computed) = map { "(SELECT $list FROM $_)" } 'mv', "($query) q";

	return "SELECT 'missing', m FROM ($computed EXCEPT ALL $stored) m UNION ALL SELECT 'surplus', s FROM ($stored EXCEPT ALL $computed) s";
}

# The script of a seed, its query, and the mode that it may have.
sub make_script
{
	my ($seed) = @_;

	srand $seed;
	my $layout = one_of(sort(keys %layouts), 'by_ts', 'by_ts', 'plain');
	my ($table, %partitions) = make_table($layout);
	my ($query, $mode, $keys_of_view, $output) = make_query($layout);
	my $comparison = make_comparison($query, $output);
	my $refresh = q{SELECT 'refresh', r->>'mode', r->>'method' FROM prod_analytics.refresh_incremental('mv') r;} . "\n";
	my %detached;
	my $upheaval = sub { make_upheaval($layout, \%partitions, \%detached) };
	my $change = sub { make_change('src', $keys_of_view) };
	my $unique = join ', ', shuffled(map { $_->{name} } grep { $_->{is_key} } @$output);
	my $sql = "\\echo seed $seed\n\\warn seed $seed\nSET client_min_messages = error;\nDROP SCHEMA IF EXISTS s CASCADE;\nCREATE SCHEMA s;\nSET client_min_messages = warning;\n"
		. "SELECT setseed(@{[ $seed / 1_000_000 ]}), setval('ids', 1) \\g /dev/null\n$table";

	$sql .= "INSERT INTO src (@{[ join ', ', map { $_->[0] } @columns ]}) SELECT * FROM random_rows(@{[ ROWS ]});\n";
	$sql .= 'CREATE INDEX ON src (' . join(', ', map { "($_)" } @$keys_of_view) . ");\n" if chance(0.5) && $mode eq 'incremental';
	$sql .= "ANALYZE src;\n" if chance(0.5);
	my $is_empty = chance(0.1);
	$sql .= "CREATE MATERIALIZED VIEW mv AS $query" . ($is_empty ? ' WITH NO DATA' : '') . ";\n";
	$sql .= "CREATE UNIQUE INDEX ON mv ($unique) NULLS NOT DISTINCT;\n";
	$sql .= "SELECT 'enabled', r->>'mode', r->>'reason' FROM prod_analytics.enable_incremental_refresh('mv') r;\n"
		. ($is_empty ? $refresh =~ s/'refresh'/'populate'/r : $refresh) . "$comparison;\n";
	foreach my $round (1 .. ROUNDS)
	{
		$sql .= "\\echo round $round\n" . make_round($refresh, $change, $upheaval);
		$sql .= one_of('ANALYZE src', 'VACUUM src', 'VACUUM FULL src', 'REFRESH MATERIALIZED VIEW mv', 'REFRESH MATERIALIZED VIEW CONCURRENTLY mv') . ";\n" if chance(0.15);
		$sql .= "SELECT 'stale', count(*) > 0, EXISTS (SELECT FROM prod_analytics.verify_matview('mv')) FROM ($comparison) d;\n" if chance(0.3) && $mode eq 'incremental';
		$sql .= $refresh . "$comparison;\n";
	}
	$sql .= "SELECT 'verify', v FROM prod_analytics.verify_matview('mv') v;\n" if $mode eq 'incremental';
	$sql .= "\\echo done\n";
	return ($sql, $query, $mode);
}

# Cuts output into what belongs to each seed.
sub by_seed
{
	my ($output) = @_;
	my ($before, @parts) = split /^seed (\d+)\n/m, $output;

	return @parts;
}

my $node = PostgreSQL::Test::Cluster->new('refresh_queries');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', "max_prepared_transactions = 2\nautovacuum = off\nmax_parallel_workers_per_gather = 0\njit = off\n");
$node->start;
my $has_icu = $node->safe_psql('postgres', q{SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i'}) eq 't';
my $nocase = $has_icu ? q{(provider = icu, locale = 'und-u-ks-level2', deterministic = false)} : q{FROM "C"};
note('this server has no ICU: no key has a collation by which different texts are equal') if !$has_icu;
$node->safe_psql('postgres', qq{
	CREATE DATABASE app TEMPLATE template0});
$node->safe_psql('app', qq{
	SET client_min_messages = warning;
	CREATE EXTENSION prod_analytics CASCADE;
	CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
	CREATE COLLATION nocase $nocase;
	CREATE SEQUENCE ids;
	CREATE FUNCTION random_rows(number integer) RETURNS TABLE (@{[ join ', ', map { "$_->[0] " . ($_->[1] =~ s/ COLLATE nocase//r) } @columns ]}) LANGUAGE sql VOLATILE
	AS \$\$ SELECT @{[ join ', ', map { $value{$_->[0]} } @columns ]} FROM generate_series(1, number) \$\$;
	CREATE FUNCTION add_square(state bigint, value integer) RETURNS bigint LANGUAGE sql IMMUTABLE AS \$\$ SELECT state + coalesce(value * value, 0) \$\$;
	CREATE AGGREGATE sum_of_squares(integer) (SFUNC = add_square, STYPE = bigint, INITCOND = 0);
	CREATE FUNCTION take_last(state text, value text) RETURNS text LANGUAGE sql IMMUTABLE AS \$\$ SELECT coalesce(value, state) \$\$;
	CREATE AGGREGATE last_of(text) (SFUNC = take_last, STYPE = text);
	CREATE FUNCTION take_longest(state integer, value text) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS \$\$ BEGIN RETURN greatest(state, length(value)); END \$\$;
	CREATE AGGREGATE longest(text) (SFUNC = take_longest, STYPE = integer);
	ALTER DATABASE app SET search_path = s, public;
	ALTER DATABASE app SET timezone = 'America/New_York'});

my (%query, %mode);
my $file = PostgreSQL::Test::Utils::tempdir() . '/script.sql';
my $script = '';
foreach my $seed ($first_seed .. $first_seed + $seeds - 1)
{
	my ($sql, $query, $mode) = make_script($seed);

	$query{$seed} = $query;
	$mode{$seed} = $mode;
	$script .= $sql;
}
append_to_file($file, $script);

my ($out, $err) = ('', '');
IPC::Run::run([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('app'), '-f', $file ], '<', \undef, '>', \$out, '2>', \$err);
my %out = by_seed($out);
my %err = by_seed($err);
my %count;

foreach my $seed (sort { $a <=> $b } keys %query)
{
	my @lines = split /\n/, $out{$seed} // '';
	my @wrong = grep { !/^((enabled|refresh)\|($mode{$seed})\||populate\||round \d+$|stale\|(f\|f|t\|t|t\|f)$|done$)/ } @lines;

	push @wrong, 'the script did not come to its end' if !grep { $_ eq 'done' } @lines;
	# of errors only the first: others follow from it
	push @wrong, $1 if ($err{$seed} // '') =~ /\A((?:.+\n){1,3})/;
	ok(!@wrong, "seed $seed")
		or diag("REFRESH_QUERIES_SEED=$seed SEEDS=1\n$query{$seed}\n" . join "\n", @lines > @wrong ? (@lines, '--', @wrong) : @wrong);
	$count{$_}++ foreach map { /^(?:refresh\|incremental\|(.*)|(stale\|t\|.))$/ ? $1 // $2 : () } @lines;
}

# How it was done is worth a look: each way must have been taken often enough to mean something.
note(join ', ', map { "$_: $count{$_}" } sort keys %count);
SKIP:
{
	skip 'a few views tell nothing about how often it was done in which way', 3 if $seeds < 50;

	my $refreshes = 0;
	$refreshes += $count{$_} foreach grep { !/stale/ } keys %count;
	cmp_ok($count{keys} // 0, '>', $refreshes / 6, 'many a refresh looked only at the groups that had changed');
	# A column that depends on the order of rows is left out by verify_matview(), which then can miss something.
	cmp_ok($count{'stale|t|t'} // 0, '>', $seeds / 20, 'views were out of date before their refresh, and verify_matview found it');
	cmp_ok($count{'stale|t|f'} // 0, '<=', ($count{'stale|t|t'} // 0) / 10, 'it hardly ever misses that');
}

$node->stop;
done_testing();
