# The soak: clients, kills, and the invariants at the end.  scripts/soak makes the server and calls this.
#
# usage: run.pl DIRECTORY BINDIR SECONDS SEED
#
# DIRECTORY has the server: data, server.log.  PGHOST and PGPORT lead to it.

use strict;
use warnings;

use File::Basename qw(dirname);
use List::Util qw(shuffle sum0);
use POSIX ();
use Time::HiRes qw(sleep time);
use Time::Local qw(timegm);
use lib dirname(__FILE__), dirname(__FILE__) . '/../lib';
use Clients qw(clients);
use Invariants qw(store_invariants file_invariants log_invariants memory_invariants slurp);
use Memory qw(memory_of);
use Session;

# In the first part of the time the server and the worker are killed, too.  Processes that live through the rest show
# whether they grow: those that were there soon after the storm, from when they have settled.
use constant { STORM => 0.5, BEGUN => 0.62, SETTLED => 0.65 };

# By how many kilobytes a process may grow meanwhile.
use constant GROWTH => 4096;

# How long the server may take to come back, or the worker to finish.
use constant PATIENCE => 120;

my ($directory, $bin, $seconds, $seed) = @ARGV;
my $data = "$directory/data";
my $log = "$directory/server.log";
my $psql_program = "$bin/psql";
my %samples;
my %mapped;
my %killed;
my %child;

binmode STDOUT, ':utf8';
$| = 1;

sub say_so
{
	printf "== %s\n", join ' ', @_;
	return;
}

# Runs a program of PostgreSQL; returns its exit status and its output.
sub run
{
	my ($program, @arguments) = @_;

	my $pid = open my $pipe, '-|';

	die "fork: $!" if !defined $pid;
	if (!$pid)
	{
		open STDERR, '>&', \*STDOUT;
		open STDIN, '<', '/dev/null';
		{ exec "$bin/$program", @arguments };
		POSIX::_exit(127);
	}
	local $/ = undef;
	my $output = <$pipe> // '';
	close $pipe;
	return ($?, $output);
}

# Runs a query in a session without notices; returns its exit status and its output.
sub query
{
	my ($query) = @_;
	my ($status, $output) = run('psql', '-X', '-A', '-t', '-q', '-d', 'dbname=postgres user=postgres application_name=soak options=-cclient_min_messages=error',
		'-v', 'ON_ERROR_STOP=1', '-c', $query);

	chomp $output;
	return ($status, $output);
}

# The result of a query.  Nothing when it fails, which a server that restarts is a reason for.
sub try_psql
{
	my ($status, $output) = query(@_);

	return $status ? undef : $output;
}

sub psql
{
	my ($status, $output) = query(@_);

	die "a query has failed: $output\n$_[0]\n" if $status;
	return $output;
}

# Waits for a query to return true; returns whether it did in time.
sub wait_until
{
	my ($query) = @_;
	my $deadline = time + PATIENCE;

	until ((try_psql($query) // '') eq 't')
	{
		return 0 if time > $deadline;
		sleep 0.2;
	}
	return 1;
}


# ---- the server ------------------------------------------------------------------------------

sub postmaster
{
	open my $handle, '<', "$data/postmaster.pid" or return;
	my @lines = <$handle>;

	return if !@lines;
	chomp @lines;
	$mapped{ (split ' ', $lines[6])[1] } = 1 if ($lines[6] // '') =~ /\d+ +\d+/;
	return $lines[0];
}

sub children
{
	my ($parent) = @_;

	return map { /^\s*(\d+)\s+$parent\s*$/ ? $1 : () } split /\n/, `ps -A -o pid= -o ppid=`;
}

sub start_server
{
	my ($status, $output) = run('pg_ctl', 'start', '--wait', "--pgdata=$data", "--log=$log");

	die "the server does not start: $output" if $status;
	postmaster();
	return;
}

# Kills the postmaster; a server does not start while any process of its predecessor is left.
sub kill_postmaster
{
	my $postmaster = postmaster() or return;
	my $deadline = time + PATIENCE;

	# Stopped, it starts none that would not be waited for.
	kill 'STOP', $postmaster;
	my @processes = ($postmaster, children($postmaster));
	kill 'KILL', $postmaster;
	while (grep { kill 0, $_ } @processes)
	{
		die "processes of the server that was killed do not end\n" if time > $deadline;
		sleep 0.02;
	}
	start_server();
	return;
}

# A postmaster of PostgreSQL 15 that is told to shut down fast while it recovers from a crash of one of its processes waits
# for its checkpointer for ever, so recovery has to end first.
sub restart
{
	my ($mode) = @_;

	return 0 if $mode eq 'fast' && !wait_until(q{SELECT true});
	my ($status, $output) = run('pg_ctl', 'restart', '--wait', "--pgdata=$data", "--log=$log", "--mode=$mode");

	die "the server does not restart: $output" if $status;
	postmaster();
	return 1;
}


# ---- kills -----------------------------------------------------------------------------------

my $client_backend = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name NOT IN ('soak', 'steady', 'psql') AND pid <> pg_backend_pid() ORDER BY application_name};
my $runner = q{SELECT pid FROM prod_analytics.worker_status WHERE process = 'runner' AND pid IS NOT NULL ORDER BY state = 'running' DESC, pid};
my $worker = q{SELECT pid FROM prod_analytics.worker_status WHERE pid IS NOT NULL AND process = };

# Kills one of the processes that a query returns.
sub kill_one
{
	my ($signal, $query) = @_;
	my @pids = grep { /^\d+$/ } split /\n/, try_psql($query) // '';
	my $choice = rand;

	return @pids && kill $signal, $pids[ $choice * @pids ];
}

my %calm_kinds = (
	'client terminated' => [ 4, sub { kill_one('TERM', $client_backend) } ],
	'client cancelled' => [ 3, sub { kill_one('INT', $client_backend) } ]);
my %storm_kinds = (
	%calm_kinds,
	'runner terminated' => [ 3, sub { kill_one('TERM', $runner) } ],
	'runner cancelled' => [ 1, sub { kill_one('INT', $runner) } ],
	'scheduler terminated' => [ 2, sub { kill_one('TERM', "$worker 'scheduler'") } ],
	'launcher terminated' => [ 2, sub { kill_one('TERM', "$worker 'launcher'") } ],
	'backend killed' => [ 1, sub { kill_one('KILL', $client_backend) } ],
	'runner killed' => [ 1, sub { kill_one('KILL', $runner) } ],
	'scheduler killed' => [ 1, sub { kill_one('KILL', "$worker 'scheduler'") } ],
	'postmaster killed' => [ 1, sub { kill_postmaster(); 1 } ],
	'restarted (immediate)' => [ 1, sub { restart('immediate') } ],
	'restarted (fast)' => [ 1, sub { restart('fast') } ]);

# All kinds in random order, each as often as its weight says.
sub deck
{
	my (%kinds) = @_;

	return shuffle map { my $kind = $_; ([ $kind, $kinds{$kind}[1] ]) x $kinds{$kind}[0] } sort keys %kinds;
}


# ---- memory ----------------------------------------------------------------------------------

# What a process has for itself; shared buffers do not count.
sub private_memory
{
	my ($pid) = @_;

	open my $handle, '<', "/proc/$pid/status" or return;
	local $/ = undef;
	return <$handle> =~ /^RssAnon:\s+(\d+)/m ? $1 : undef;
}

# Of the worker's processes launcher and scheduler do the same from the start; what a runner does is new to it now and then, so it
# is asked what of its memory is no cache, once the storm is over.  It tells that in the log.
sub sample
{
	my ($start) = @_;
	my $found = try_psql(q{SELECT process, pid FROM prod_analytics.worker_status WHERE pid IS NOT NULL AND process <> 'runner'
		UNION ALL SELECT 'the steady session', pid FROM pg_stat_activity WHERE application_name = 'steady'}) // return;

	try_psql(q{SELECT pg_log_backend_memory_contexts(pid) FROM prod_analytics.worker_status WHERE process = 'runner' AND state = 'idle'}) if time - $start > STORM * $seconds;
	foreach my $process (split /\n/, $found)
	{
		my ($name, $pid) = split /\|/, $process;
		my $memory = private_memory($pid) // next;

		push @{ $samples{ $name =~ /^the/ ? $name : "the worker ($name)" }{$pid} }, [ time - $start, $memory ];
	}
	if (open my $maps, '<', '/proc/' . (postmaster() // 0) . '/maps')
	{
		m{(/dev/shm/\S+)} && ($mapped{$1} = 1) while <$maps>;
	}
	return;
}


# ---- clients ---------------------------------------------------------------------------------

# One piece of work.  It is done when it met no error, and a batch when its COMMIT was seen.
sub do_work
{
	my ($session, $work, $files) = @_;
	my ($kind, $make) = @$work[ 1, 2 ];
	my $turn = $make->();
	my $statements = ref $turn ? $turn->{text} : $turn;
	my $output = $session->run(ref $turn && $turn->{before} ? "$turn->{before}\n$statements" : $statements);
	my @sqlstates = Session::sqlstates($output // $session->{last_words});
	my $done = defined $output && (ref $turn ? $output =~ /^COMMIT\s*\z/m : !@sqlstates);

	print { $files->{acknowledged} } "$turn->{batch},$turn->{markers}\n" if ref $turn && $done;
	print { $files->{errors} } "$kind: " . ($output // "(connection lost) $session->{last_words}") . "\n" if @sqlstates;
	print { $files->{memory} } time . "|$1|$2\n" if ($output // '') =~ /^memory\|(\d+)\|(\d+)/m;
	return $done;
}

sub open_file
{
	my ($name) = @_;

	open my $handle, '>:utf8', "$directory/$name" or die "$name: $!";
	$handle->autoflush(1);
	return $handle;
}

# The life of a client; it says at the end how often it did what.
sub live
{
	my ($number, $client, $end) = @_;
	my $session = Session->new(name => $client->{name}, psql => $psql_program, $client->{user} ? (user => $client->{user}) : ());
	my @kinds = map { my $work = $_; ($work) x $work->[0] } @{ $client->{work} };
	my @deck;
	my %files = map { $_ => open_file("$_.$client->{name}") } qw(acknowledged errors memory);
	my (%done, %refused);

	srand($seed * 100 + $number);
	Clients::start_client($number, $client->{name}, time, $directory);
	while (time < $end)
	{
		@deck = shuffle @kinds if !@deck;
		my $work = shift @deck;
		my $pause = rand $client->{pause};

		do_work($session, $work, \%files) ? $done{ $work->[1] }++ : $refused{ $work->[1] }++;
		if ($session->{hung})
		{
			print { $files{errors} } "HUNG: $session->{hung}\n";
			delete $session->{hung};
		}
		sleep($session->{pid} ? $pause : $pause + 0.3);
	}
	$session->close;

	my $handle = open_file("work.$client->{name}");
	print $handle "$_->[1]|" . ($done{ $_->[1] } // 0) . '|' . ($refused{ $_->[1] } // 0) . "\n" for @{ $client->{work} };
	return;
}

sub start_clients
{
	my ($end) = @_;
	my $number = 0;

	foreach my $client (clients())
	{
		my $pid = fork // die "fork: $!";

		$number++;
		if (!$pid)
		{
			local $SIG{INT} = 'DEFAULT';
			eval { live($number, $client, $end); 1 } or print "client $client->{name}: $@";
			POSIX::_exit($@ ? 1 : 0);
		}
		$child{$pid} = $client->{name};
	}
	return;
}

# Clients end by themselves.  Whoever does not has a session that hangs.
sub wait_for_clients
{
	my @hung;
	my $deadline = time + Session::PATIENCE() + 20;

	while (%child && time < $deadline)
	{
		my $pid = waitpid -1, POSIX::WNOHANG();

		$pid > 0 ? do { push @hung, "client $child{$pid} has failed" if $?; delete $child{$pid} } : sleep 0.1;
	}
	foreach my $pid (keys %child)
	{
		push @hung, "client $child{$pid} does not end";
		kill 'KILL', $pid;
	}
	return @hung;
}

# When the soak itself fails they do not go on alone.
END
{
	my $status = $?;

	kill 'TERM', keys %child;
	$? = $status;
}

# The lines of files, each with the last part of its file's name, which is that of a client.
sub lines_of
{
	my @lines;

	foreach my $file (@_)
	{
		open my $handle, '<:utf8', $file or die "$file: $!";
		chomp(my @found = <$handle>);
		push @lines, map { [ $file =~ /([^.]*)$/, $_ ] } @found;
	}
	return @lines;
}


# ---- phases ----------------------------------------------------------------------------------

sub storm_and_calm
{
	my $start = time;
	my $end = $start + $seconds;
	my (@deck, $is_calm);
	my $next_kill = $start + 4;
	my $next_sample = $start;
	my $next_word = $start + 60;

	start_clients($end);
	while (time < $end)
	{
		if (!$is_calm && time > $start + STORM * $seconds)
		{
			say_so('from now on only clients are ended');
			($is_calm, @deck) = (1);
		}
		if (time > $next_kill)
		{
			@deck = deck($is_calm ? %calm_kinds : %storm_kinds) if !@deck;
			my $card = shift @deck;
			# After a crash there is work for a while, or nothing but recovery would be tested.
			my $pause = ($is_calm ? 3 : 1) + rand($card->[0] =~ /postmaster|restarted| killed/ ? 20 : 3);

			$killed{ $card->[0] }++ if $card->[1]->();
			$next_kill = time + $pause;
		}
		if (time > $next_sample)
		{
			sample($start);
			$next_sample = time + 1;
		}
		if (time > $next_word)
		{
			say_so(sprintf '%d seconds: %s', time - $start, try_psql(q{SELECT (SELECT count(*) FROM soak.staged) || ' staged, '
				|| (SELECT count(*) FROM prod_analytics.events) || ' events, ' || (SELECT count(*) FROM prod_analytics.etl_jobs) || ' runs'}) // 'no answer');
			$next_word += 60;
		}
		sleep 0.1;
	}
	return;
}

# Everything comes to rest: partitions are attached again, the worker finishes, and one last run of each.
sub settle
{
	my @problems;

	push @problems, 'the server does not answer' if !wait_until('SELECT true');
	psql('UPDATE prod_analytics.jobs SET paused = true');
	push @problems, 'runners do not end' if !wait_until(q{SELECT count(*) = 0 FROM prod_analytics.worker_status WHERE process = 'runner' AND job_name IS NOT NULL});
	psql(q{SELECT soak.attach()}) while psql('SELECT count(*) FROM soak.shelf');
	# What CREATE INDEX and REINDEX CONCURRENTLY leave behind when they are cut off.
	foreach my $index (split /\n/, psql(q{SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid AND indexrelid NOT IN (SELECT inhrelid FROM pg_inherits)}))
	{
		psql("DROP INDEX IF EXISTS $index");
	}
	# What a client was at that was ended is marked by the next run of the same, of which there may have been none.
	psql('CALL prod_analytics.maintain_partitions()');
	psql('CALL prod_analytics.purge_history()');
	psql(q{CALL prod_analytics.backfill_column('prod_analytics.events', 'device_type', $$event_props->>'device'$$)});
	push @problems, 'runs do not end' if !wait_until(q{SELECT count(*) = 0 FROM prod_analytics.etl_jobs WHERE status = 'RUNNING'});
	for (1 .. 20)
	{
		my ($rows, $deferred) = split /\|/, psql(q{SELECT r->>'rows', r->>'deferred' FROM prod_analytics.etl_ingest_events(50000) r});

		last if !$rows && !$deferred;
	}
	psql('SELECT prod_analytics.etl_upsert_users(100000)');
	psql('CALL prod_analytics.maintain_partitions()');
	my $refreshed = psql(q{SELECT prod_analytics.refresh_incremental()});
	push @problems, "the last refresh: $refreshed" if $refreshed !~ /"status": "SUCCESS"/ || $refreshed =~ /FAILED/;
	load_acknowledged();
	return @problems;
}

sub load_acknowledged
{
	my $file = open_file('acknowledged');

	print $file "$_->[1]\n" for lines_of(glob "$directory/acknowledged.*");
	close $file;
	psql("\\copy soak.acknowledged FROM '$directory/acknowledged' WITH (FORMAT csv)");
	return;
}

# What the steady session and the runners have said of their memory contexts.
sub add_contexts
{
	my ($start) = @_;

	$samples{'the worker (runner)'} = {};
	foreach my $memory (memory_of(slurp($log)))
	{
		my ($year, $month, $day, $hour, $minute, $second) = $memory->{line} =~ /^(\d+)-(\d+)-(\d+) (\d+):(\d+):([\d.]+) UTC / or die "no time in UTC: $memory->{line}";
		my $when = timegm(int $second, $minute, $hour, $day, $month - 1, $year);

		push @{ $samples{'the worker (runner)'}{ $memory->{pid} } }, [ $when - $start, ($memory->{used} - $memory->{kept}) / 1024 ];
	}

	foreach my $line (lines_of("$directory/memory.steady"))
	{
		my ($when, $pid, $used) = split /\|/, $line->[1];

		push @{ $samples{'the steady session (contexts)'}{$pid} }, [ $when - $start, $used ];
	}
	return;
}

# All samples, for those who look for a leak.
sub save_samples
{
	my $file = open_file('samples');

	foreach my $name (sort keys %samples)
	{
		foreach my $pid (sort keys %{ $samples{$name} })
		{
			printf $file "%s|%d|%.1f|%d\n", $name, $pid, @$_ for @{ $samples{$name}{$pid} };
		}
	}
	return;
}

# That all of it has really happened.
sub work_invariant
{
	my @work = map { [ $_->[0], split /\|/, $_->[1] ] } lines_of(glob "$directory/work.*");
	my @done = grep { $_->[2] } @work;
	my $numbers = sum0(map { $_->[2] } @work) . ' times, ' . @done . ' of ' . @work . ' kinds';

	return { name => 'each kind of work was done that was tried often enough', check => sub {
			return ($numbers, map({ "$_->[0]: $_->[1] never (tried $_->[3] times)" } grep { !$_->[2] && $_->[3] >= 15 } @work),
				map { "$_->[0]: hung: $_->[1]" } grep { $_->[1] =~ /HUNG/ } lines_of(glob "$directory/errors.*"));
		} };
}

my ($passed, $failed) = (0, 0);

# Looks at one invariant and prints its line.
sub check
{
	my ($invariant, @arguments) = @_;
	my ($numbers, @problems) = eval { $invariant->{check}->(@arguments) };

	@problems = ("it could not be checked: $@") if $@;
	printf "%-6s %s: %s\n", @problems ? 'FAILED' : 'OK', $invariant->{name}, $numbers // '';
	print map { "         $_\n" } @problems[ 0 .. (@problems > 10 ? 9 : $#problems) ];
	printf "         and %d more\n", @problems - 10 if @problems > 10;
	@problems ? $failed++ : $passed++;
	return;
}

# Recovery has files to sync, and disks can be slow.
local $ENV{PGCTLTIMEOUT} = 300;

srand($seed);
start_server() if !postmaster();
{
	my ($status, $output) = run('psql', '-X', '-q', '-d', 'dbname=postgres user=postgres', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', dirname(__FILE__) . '/store.sql');

	die "the store could not be made: $output" if $status;
}
say_so("$seconds seconds, SEED=$seed");
my $start = time;
storm_and_calm();
my @hung = wait_for_clients();
say_so('the clients have ended; killed: ' . join ', ', map { "$killed{$_} $_" } sort keys %killed);
my @unsettled = settle();
add_contexts($start);
save_samples();

print "\n";
check({ name => 'everything comes to rest', check => sub { return ('', @hung, @unsettled) } });
check(work_invariant());
check($_, \&psql, \&run) for store_invariants();
check($_) for memory_invariants(GROWTH, BEGUN * $seconds, SETTLED * $seconds, %samples);
check($_) for log_invariants($log);
run('pg_ctl', 'stop', '--wait', "--pgdata=$data", '--mode=fast');
check($_) for file_invariants($data, \&run, %mapped);
print "\n$passed passed, $failed failed\n";
exit($failed > 0);
