# What has to hold after a soak.  Each invariant is a function that returns its numbers, as a text, and what is wrong.

package Invariants;

use strict;
use warnings;

use Exporter qw(import);
use List::Util qw(max min);

our @EXPORT_OK = qw(store_invariants file_invariants log_invariants memory_invariants slurp);

# How many problems are told, of however many there are.
use constant TOLD => 10;

# An invariant that is a query for the numbers and one for the problems, one a row.
sub by_query
{
	my ($name, $numbers, $problems) = @_;

	return { name => $name, check => sub {
			my ($psql) = @_;
			my @problems = split /\n/, $psql->("SELECT problem FROM ($problems) p (problem)");

			return ($psql->($numbers), @problems);
		} };
}

# Bounds of the partitions of managed tables that have some; all of them are ranges of times.
my $bounds = q{
	SELECT p.partition_name, p.table_name, (b.bounds)[1]::timestamptz AS lower, (b.bounds)[2]::timestamptz AS upper
	FROM prod_analytics.partition_status p,
		LATERAL (SELECT regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$FROM \('(.*)'\) TO \('(.*)'\)$r$) AS bounds
			FROM pg_class c WHERE c.oid = p.partition_name::regclass) b
	WHERE NOT p.is_default};

# What partitions there should be changes with the clock: what counts is what the last maintenance had to do.
my $last = q{coalesce((SELECT max(started_at) FROM prod_analytics.etl_jobs WHERE job_name = 'maintain_partitions' AND status = 'SUCCESS'), now())};

my $leaves = q{
	SELECT p.parent, t.relid AS leaf
	FROM (SELECT parent::regclass FROM prod_analytics.partition_policies) p, pg_partition_tree(p.parent) t WHERE t.isleaf};

# Views are compared by all columns but those that tell when a group was computed.
sub view_problems
{
	my ($psql) = @_;
	my (@problems, $rows);

	foreach my $view (split /\n/, $psql->('SELECT matview FROM prod_analytics.registered_matviews ORDER BY 1'))
	{
		my $columns = $psql->("SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
			WHERE attrelid = '$view'::regclass AND attnum > 0 AND attname <> 'computed_at'");
		my $query = $psql->("SELECT rtrim(pg_get_viewdef('$view'::regclass), ';')");
		my ($stored, $computed) = ("SELECT $columns FROM $view", "SELECT $columns FROM ($query) q");
		# Views in mode full have no keys to tell what differs by.
		my $found = $psql->("SELECT mode FROM prod_analytics.registered_matviews WHERE matview = '$view'") eq 'full' ? 0
			: $psql->("SELECT count(*) FROM prod_analytics.verify_matview('$view')");
		my $missing = $psql->("SELECT count(*) FROM ($computed EXCEPT ALL $stored) d");
		my $surplus = $psql->("SELECT count(*) FROM ($stored EXCEPT ALL $computed) d");

		$rows .= ($rows ? ', ' : '') . $psql->("SELECT count(*) FROM $view") . " rows of $view";
		push @problems, "verify_matview() finds $found problems in $view" if $found;
		push @problems, "$view lacks $missing rows of its query, and has $surplus others" if $missing || $surplus;
	}
	return ($rows // 'no view', @problems);
}

# pg_amcheck looks at every table, index and materialized view.
sub amcheck_problems
{
	my ($psql, $run) = @_;
	my ($status, $output) = $run->('pg_amcheck', '--install-missing', '--heapallindexed', '--parent-check', $psql->('SELECT current_database()'));

	return ($psql->(q{SELECT count(*) FILTER (WHERE relkind IN ('r', 'm', 't')) || ' tables, ' || count(*) FILTER (WHERE relkind = 'i') || ' indexes' FROM pg_class}),
		$status ? (grep { /\S/ } split /\n/, $output) : ());
}

# What is found with the server running.
sub store_invariants
{
	return (
		by_query('what a client saw committed is there',
			q{SELECT count(*) || ' batches of ' || coalesce(sum(markers), 0) || ' rows' FROM soak.acknowledged},
			q{SELECT format('batch %s of %s rows has %s', a.batch, a.markers, count(s.marker)) FROM soak.acknowledged a
				LEFT JOIN (SELECT batch, marker FROM soak.staged UNION ALL SELECT batch, marker FROM soak.staged_users) s USING (batch)
				GROUP BY a.batch HAVING count(s.marker) <> a.markers}),
		by_query('each staged row is one of inserted, duplicate, quarantined, still staged',
			q{SELECT string_agg(n || ' ' || fate, ', ' ORDER BY fate) FROM (SELECT fate, count(*) AS n FROM soak.fate GROUP BY fate) f},
			q{SELECT format('%s is %s (%s places)', coalesce(marker, 'a row without a marker'), fate, places) FROM soak.fate WHERE fate IN ('lost', 'several', 'unknown')}),
		by_query('each staged user is merged, quarantined or still staged, unless superseded or erased',
			q{SELECT count(*) || ' users, ' || count(*) FILTER (WHERE shared) || ' with a shared address, ' || count(*) FILTER (WHERE erased) || ' erased' FROM soak.user_fate},
			q{SELECT format('%s is in %s places', marker, places) FROM soak.user_fate WHERE places > 1 OR places = 0 AND NOT shared AND NOT erased}),
		log_of_ingestion(),
		by_query('no event is there twice',
			q{SELECT count(*) || ' events' FROM prod_analytics.events},
			q{SELECT format('event %s at %s: %s times', event_id, event_time, count(*)) FROM prod_analytics.events GROUP BY event_id, event_time HAVING count(*) > 1}),
		by_query('each event has the user and the organization that it names',
			q{SELECT count(DISTINCT user_id) || ' users, ' || count(*) FILTER (WHERE user_id IS NULL) || ' anonymous events' FROM prod_analytics.events},
			q{SELECT format('event %s names user %s', event_id, user_id) FROM prod_analytics.events e
				WHERE user_id IS NOT NULL AND NOT EXISTS (SELECT FROM prod_analytics.users u WHERE u.user_id = e.user_id)
				UNION ALL SELECT format('event %s names organization %s', event_id, org_id) FROM prod_analytics.events e
				WHERE org_id IS NOT NULL AND NOT EXISTS (SELECT FROM prod_analytics.organizations o WHERE o.org_id = e.org_id)}),
		{ name => 'materialized views are what their queries return', check => \&view_problems },
		by_query('no change of a view is left over',
			q{SELECT count(*) || ' views' FROM prod_analytics.registered_matviews},
			q{SELECT format('%s changed groups of view %s', count(*), matview_id) FROM prod_analytics.changed_keys GROUP BY matview_id}),
		{ name => 'tables and indexes are sound (amcheck)', check => \&amcheck_problems },
		by_query('no run is RUNNING without a holder',
			q{SELECT string_agg(n || ' ' || status, ', ' ORDER BY status) FROM (SELECT status, count(*) AS n FROM prod_analytics.etl_jobs GROUP BY status) s},
			q{SELECT format('run %s of %s, since %s', job_id, job_name, started_at) FROM prod_analytics.etl_jobs e WHERE status = 'RUNNING'
				AND NOT EXISTS (SELECT FROM prod_analytics.worker_status w WHERE w.job_id = e.job_id)
				AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
					AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
					AND (l.classid::bigint << 32 | l.objid::bigint) = hashtext('etl_' || e.job_name))}),
		by_query('runs of a job do not overlap',
			q{SELECT count(DISTINCT job_name) || ' jobs, ' || count(*) || ' runs' FROM prod_analytics.etl_jobs},
			# The end of a run that was cut off is when that was noticed.  Refreshes that are called for take turns by view.
			q{SELECT format('run %s of %s began before run %s had ended', job_id, job_name, before) FROM (
				SELECT job_id, job_name, started_at, lag(job_id) OVER w AS before, max(finished_at) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS ended
				FROM prod_analytics.etl_jobs e WHERE status IN ('SUCCESS', 'FAILED') AND job_name IN (SELECT j.job_name FROM prod_analytics.jobs j) AND job_name <> 'refresh_matviews'
					AND details->>'error' IS DISTINCT FROM 'server or worker terminated'
				WINDOW w AS (PARTITION BY job_name ORDER BY started_at, job_id)) r WHERE started_at < ended}),
		by_query('runs that failed have an excuse',
			q{SELECT string_agg(n || ' of ' || job_name, ', ' ORDER BY job_name) FROM (SELECT job_name, count(*) AS n FROM prod_analytics.etl_jobs WHERE status = 'FAILED' GROUP BY job_name) j},
			q{SELECT format('%s times %s: %s %s %s', count(*), job_name, details->>'sqlstate', details->>'error', coalesce(details->'errors', details->'views')) FROM prod_analytics.etl_jobs
				WHERE status = 'FAILED' AND CASE
					-- Processes and statements are ended, and locks are held by those who change tables.
					WHEN details->>'sqlstate' IN ('57014', '57P01', '40P01', '55P03') THEN false
					WHEN details->>'error' IN ('server or worker terminated', 'the process for the run ended before it began',
						'the run was cancelled, or its process terminated') THEN false
					WHEN details->>'error' LIKE 'failed: %' AND job_name = 'quality_checks' THEN false
					WHEN job_name = 'fails' THEN details->>'sqlstate' <> '22012'
					-- A partition that is detached refers to users, and has the name of one that is missing.
					WHEN job_name = 'erase_user' THEN details->>'sqlstate' <> '23503'
					WHEN job_name = 'maintain_partitions' THEN details @@ 'exists($.errors[*] ? (@.sqlstate != "55P03" && @.sqlstate != "40P01" && @.sqlstate != "42P07"))' IS NOT FALSE
					-- A run for all views tells of each.
					WHEN details ? 'views' THEN details @@ 'exists($.views[*] ? (@.status == "FAILED" && @.sqlstate != "55P03" && @.sqlstate != "40P01"))' IS NOT FALSE
					ELSE true END
				GROUP BY job_name, details->>'sqlstate', details->>'error', coalesce(details->'errors', details->'views')}),
		by_query('the state of each job fits the log',
			q{SELECT count(*) || ' jobs, ' || sum(skipped) || ' slots skipped' FROM prod_analytics.job_state},
			q{SELECT format('the last run of %s is %s, which is %s', s.job_name, s.last_job_id, coalesce(e.status, 'not there'))
				FROM prod_analytics.job_state s LEFT JOIN prod_analytics.etl_jobs e ON e.job_id = s.last_job_id
				WHERE s.last_job_id IS NOT NULL AND (e.job_id IS NULL OR e.status <> s.last_status)
				UNION ALL SELECT format('%s has no state', job_name) FROM prod_analytics.jobs WHERE job_name NOT IN (SELECT job_name FROM prod_analytics.job_state)}),
		by_query('the worker is complete',
			q{SELECT string_agg(process || ' ' || state, ', ') FROM prod_analytics.worker_status},
			q{SELECT format('%s %s', n, process) FROM (SELECT p.process, (SELECT count(*) FROM prod_analytics.worker_status w WHERE w.process = p.process) AS n
				FROM (VALUES ('launcher'), ('scheduler')) p (process)) p WHERE n <> 1
				UNION ALL SELECT format('a runner is %s', state) FROM prod_analytics.worker_status WHERE process = 'runner' AND state NOT IN ('idle', 'running')
				UNION ALL SELECT format('process %s is not there', pid) FROM prod_analytics.worker_status WHERE pid NOT IN (SELECT pid FROM pg_stat_activity)}),
		by_query('no lock and no transaction is left over',
			q{SELECT count(*) || ' sessions' FROM pg_stat_activity WHERE backend_type = 'client backend'},
			q{SELECT format('advisory lock of process %s', pid) FROM pg_locks WHERE locktype = 'advisory'
				UNION ALL SELECT format('prepared transaction %s', gid) FROM pg_prepared_xacts
				UNION ALL SELECT format('session %s is %s', pid, state) FROM pg_stat_activity
					WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'}),
		by_query('no partition is detached or outside of its table',
			qq{SELECT string_agg(n || ' of ' || parent, ', ') FROM (SELECT parent, count(*) AS n FROM ($leaves) l GROUP BY parent) p},
			qq{SELECT format('%s is no partition of %s', c.oid::regclass, p.parent) FROM prod_analytics.partition_policies p
				JOIN pg_class t ON t.oid = p.parent::regclass JOIN pg_class c ON c.relnamespace = t.relnamespace
				WHERE c.relkind IN ('r', 'p') AND c.relname ~ ('^' || t.relname || '_(p[0-9]{8}|default)') AND c.oid NOT IN (SELECT leaf FROM ($leaves) l WHERE l.parent = t.oid)
				UNION ALL SELECT format('%s is being detached', inhrelid::regclass) FROM pg_inherits WHERE inhdetachpending}),
		by_query('bounds of partitions do not overlap, and leave no gap where there should be none',
			qq{SELECT string_agg(n || ' of ' || table_name || ' from ' || lower || ' to ' || upper, ', ')
				FROM (SELECT table_name, count(*) AS n, min(lower) AS lower, max(upper) AS upper FROM ($bounds) b GROUP BY table_name) t},
			qq{SELECT format('%s overlaps with the partition before it', partition_name)
				FROM (SELECT partition_name, lower, lag(upper) OVER (PARTITION BY table_name ORDER BY lower) AS before FROM ($bounds) b) b WHERE lower < before
				UNION ALL SELECT format('%s is missing', partition_name) FROM prod_analytics.plan_partitions(at => $last) WHERE action = 'create'
				UNION ALL SELECT format('%s should be dropped', partition_name) FROM prod_analytics.plan_partitions(at => $last) WHERE action = 'drop'}),
		by_query('each partition has the indexes of its table',
			qq{SELECT count(*) || ' indexes' FROM ($leaves) l JOIN pg_index i ON i.indrelid = l.leaf},
			qq{SELECT format('%s lacks %s', l.leaf::regclass, i.indexrelid::regclass) FROM ($leaves) l JOIN pg_index i ON i.indrelid = l.parent
				WHERE NOT EXISTS (SELECT FROM pg_index c JOIN pg_inherits h ON h.inhrelid = c.indexrelid
					WHERE c.indrelid = l.leaf AND h.inhparent = i.indexrelid AND c.indisvalid AND c.indisready)
				UNION ALL SELECT format('%s is not valid', i.indexrelid::regclass) FROM pg_index i WHERE NOT i.indisvalid}),
		by_query('each partition has the triggers of its table, as it has them enabled',
			qq{SELECT count(*) || ' triggers, ' || count(*) FILTER (WHERE tgenabled = 'A') || ' of them always'
				FROM ($leaves) l JOIN pg_trigger t ON t.tgrelid = l.leaf WHERE NOT t.tgisinternal OR t.tgparentid <> 0},
			qq{SELECT format('trigger %s of %s is %s', t.tgname, l.leaf::regclass, coalesce(c.tgenabled::text, 'missing'))
				FROM ($leaves) l JOIN pg_trigger t ON t.tgrelid = l.parent AND NOT t.tgisinternal AND t.tgtype & 1 = 1
				LEFT JOIN pg_trigger c ON c.tgrelid = l.leaf AND c.tgparentid = t.oid WHERE c.tgenabled IS DISTINCT FROM t.tgenabled
				UNION ALL SELECT format('trigger %s of %s is %s and not A', tgname, tgrelid::regclass, tgenabled) FROM pg_trigger
				WHERE tgfoid IN (SELECT oid FROM pg_proc WHERE pronamespace = 'prod_analytics'::regnamespace AND proname LIKE 'capture_change%') AND tgenabled <> 'A'}),
		by_query('each partition has the privileges and the owner of its table',
			qq{SELECT string_agg(format('%s: %s', oid::regclass, relacl), '; ') FROM pg_class WHERE oid IN (SELECT parent FROM ($leaves) l)},
			qq{SELECT format('%s has %s of %s', c.oid::regclass, coalesce(c.relacl::text, 'none'), c.relowner::regrole) FROM ($leaves) l JOIN pg_class c ON c.oid = l.leaf
				JOIN pg_class p ON p.oid = l.parent WHERE ARRAY(SELECT unnest(c.relacl)::text ORDER BY 1) <> ARRAY(SELECT unnest(p.relacl)::text ORDER BY 1) OR c.relowner <> p.relowner}),
		by_query('each partition has the CHECK on its days',
			qq{SELECT count(*) || ' CHECKs' FROM ($leaves) l JOIN pg_constraint k ON k.conrelid = l.leaf AND k.contype = 'c'},
			qq{SELECT format('%s lacks it', l.leaf::regclass) FROM ($leaves) l JOIN pg_class c ON c.oid = l.leaf
				WHERE pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT' AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = l.leaf AND k.contype = 'c' AND k.convalidated
					AND pg_get_constraintdef(k.oid) ~ '(event_date|day) >= .*(event_date|day) <=?')}),
		by_query('the default partition has no row that belongs elsewhere',
			q{SELECT count(*) || ' rows in events_default' FROM prod_analytics.events_default},
			qq{SELECT format('%s rows to move to %s', rows_to_move, partition_name) FROM prod_analytics.plan_partitions(at => $last) WHERE rows_to_move > 0}),
		by_query('nothing temporary is left over',
			q{SELECT count(*) || ' schemas' FROM pg_namespace WHERE nspname !~ '^pg_toast'},
			q{SELECT format('schema %s', nspname) FROM pg_namespace WHERE nspname = 'prod_analytics_expected'
				UNION ALL SELECT format('%s', oid::regclass) FROM pg_class WHERE relname ~ '_(ccnew|ccold)[0-9]*$' OR relname ~ '^pg_temp_[0-9]+$'}));
}

# The counts in the log add up to what was staged.  A run whose process was killed after its work was committed has no counts.
sub log_of_ingestion
{
	return { name => 'the log of ingestion adds up to what was staged', check => sub {
			my ($psql) = @_;
			my ($staged, $redriven, $left, $logged, $lost, $balanced) = split /\|/, $psql->(q{
				SELECT (SELECT count(*) FROM soak.staged WHERE NOT direct), (SELECT coalesce(sum(events), 0) FROM soak.redriven),
					(SELECT count(*) FROM prod_analytics.staging_events), coalesce(sum(rows_processed) FILTER (WHERE status = 'SUCCESS'), 0),
					count(*) FILTER (WHERE status <> 'SUCCESS' AND details->>'error' = 'server or worker terminated'),
					coalesce(sum((details->>'inserted')::bigint + (details->>'duplicates')::bigint + (details->>'quarantined')::bigint), 0)
				FROM prod_analytics.etl_jobs WHERE job_name = 'ingest_events'});
			my $missing = $staged + $redriven - $left - $logged;
			my @problems;

			push @problems, "$missing rows are in no run" if $missing < 0 || $missing && !$lost;
			push @problems, "runs have dealt with $logged rows, of which $balanced are told" if $logged != $balanced;
			return ("$staged staged + $redriven redriven = $logged in runs + $missing in $lost runs that were killed + $left still staged", @problems);
		} };
}

# What is found when the server has been shut down.
sub file_invariants
{
	my ($data, $run, %mapped) = @_;

	return (
		{ name => 'checksums of all pages are right', check => sub {
				my ($status, $output) = $run->('pg_checksums', '--check', '-D', $data);

				return (join(', ', $output =~ /^((?:Files|Blocks) scanned: +\d+)/gm) =~ s/ +/ /gr, $status ? $output =~ /^(.*(?:error|fail).*)$/gm : ());
			} },
		{ name => 'no temporary file is left over', check => sub {
				my @left = (glob("$data/base/pgsql_tmp/*"), glob("$data/base/*/t[0-9]*_[0-9]*"), glob("$data/pg_dynshmem/*"));

				return (scalar(@{ [ glob "$data/base/*/*" ] }) . ' files', @left);
			} },
		{ name => 'no shared memory is left over', check => sub {
				return (scalar(keys %mapped) . ' segments were used', grep { exists_segment($_) } sort keys %mapped);
			} });
}

# A segment is a file in /dev/shm, or the number of one of System V.
sub exists_segment
{
	my ($segment) = @_;

	return -e $segment if $segment =~ m{/};
	return scalar grep { (split)[1] == $segment } grep { /^\s*-?\d/ } split /\n/, slurp('/proc/sysvipc/shm');
}

sub slurp
{
	my ($file) = @_;

	open my $handle, '<:raw', $file or return '';
	local $/ = undef;
	return <$handle> // '';
}

# Errors that clients and the worker may meet: who, which, and why.
my @allowed = (
	[ qr/./, qr/^57P0[123]$/, 'the connection was ended, or the server restarted' ],
	[ qr/./, qr/^57014$/, 'the statement was cancelled' ],
	[ qr/./, qr/^08\w{3}$/, 'the client is gone' ],
	[ qr/^loader/, qr/^22P02$/, 'loaders try what is no number, in a savepoint' ],
	[ qr/runner|fails/, qr/^22012$/, 'the job "fails" divides by zero' ],
	[ qr/^(partitions|ddl|readings|writer|operator|steady|users)$/, qr/^55P03$/, 'a lock cannot be had in time' ],
	[ qr/^(partitions|ddl|writer|operator|steady|users|reader\d)$/, qr/^40P01$/, 'a client locks tables and rows in another order' ],
	[ qr/./, qr/^25P02$/, 'the transaction has failed before' ],
	[ qr/^loader/, qr/^3B001$/, 'the savepoint was not made, because the transaction had failed before' ],
	[ qr/^(operator|reader\d)$/, qr/^40001$/, 'a transaction under REPEATABLE READ has to be repeated' ],
	[ qr/^(writer|readings|partitions|steady)$/, qr/^23514$/, 'a row was on its way into the default partition, or its partition was detached' ],
	[ qr/^ddl$/, qr/^55000$/, 'the view is not registered' ],
	[ qr/^(ddl|writer|partitions)$/, qr/^42P01$/, 'the partition is gone' ],
	[ qr/^(ddl|writer)$/, qr/^42601$/, 'there is no partition to name, because the statement that asks for one was cancelled' ],
	[ qr/^(reader\d|parallel worker)$/, qr/^55000$/, 'a query was ended whose parallel worker had just begun' ],
	[ qr/^ddl$/, qr/^42P07$/, 'the index is there, because dropping it was cancelled' ],
	[ qr/^writer$/, qr/^23505$/, 'an event is moved to where one with its number has been moved before' ]);

sub allowed_reason
{
	my ($who, $sqlstate) = @_;

	foreach my $rule (@allowed)
	{
		return $rule->[2] if $who =~ $rule->[0] && $sqlstate =~ $rule->[1];
	}
	return;
}

# A deadlock of which no client is a part: none of the processes that its DETAIL names has logged a connection.
sub deadlocks_of_the_worker
{
	my ($log) = @_;
	my %is_client = map { $_->{type} eq 'client backend' ? ($_->{pid} => 1) : () } log_entries($log);
	my (%found, $pid);

	foreach my $line (split /\n/, slurp($log))
	{
		$pid = $line =~ / 40P01 .* DETAIL:/ ? ($line =~ /\[(\d+)\]/)[0] : undef if $line !~ /^\t/;
		push @{ $found{$pid}{$1} }, $2 if defined $pid && $line =~ /^(?:.*DETAIL:  |\t)Process (\d+) (waits for .*)/;
	}
	return map { my $parts = $_; map { "process $_ @{ $parts->{$_} }" } sort keys %$parts }
		grep { !grep { $is_client{$_} } keys %$_ } values %found;
}

# The log has entries "time [pid] sqlstate <backend type|application> LEVEL:  message".
sub log_entries
{
	my ($log) = @_;

	return map { /^\S+ \S+ \S+ \[(\d+)\] (\w{5}) <([^|]*)\|([^>]*)> (\w+):  (.*)/
			? { pid => $1, sqlstate => $2, who => $4 || $3, type => $3, level => $5, message => $6, line => $_ }
			: () } split /\n/, slurp($log);
}

sub log_invariants
{
	my ($log) = @_;

	return (
		{ name => 'the log has no error that clients may not provoke', check => sub {
				my (%seen, @problems);

				foreach my $entry (grep { $_->{level} =~ /^(ERROR|FATAL|PANIC)$/ } log_entries($log))
				{
					my $reason = $entry->{level} ne 'PANIC' && allowed_reason(@$entry{qw(who sqlstate)});

					$seen{ $entry->{sqlstate} }++;
					push @problems, $entry->{line} if !$reason;
				}
				return (join(', ', map { "$seen{$_} of $_" } sort keys %seen) || 'none', @problems);
			} },
		{ name => 'each deadlock has a client in it', check => sub {
				my $text = slurp($log);
				my $deadlocks = () = $text =~ / 40P01 .* DETAIL:/g;

				return ("$deadlocks deadlocks", deadlocks_of_the_worker($log));
			} },
		{ name => 'no process has died by itself', check => sub {
				my $text = slurp($log);
				# The leader of a parallel query that notices that the postmaster is gone ends twice, which PostgreSQL asserts against.
				my %orphaned = map { $_ => 1 } $text =~ /\[(\d+)\].* FATAL:  postmaster exited during a parallel transaction$/gm;
				my @died = grep { !(/^TRAP:.*PID: (\d+)/ && $orphaned{$1}) } $text =~ /^(.*(?:PANIC:|TRAP:|was terminated by signal (?!9\b)|exited with exit code (?!1\b)).*)$/gm;
				my $killed = () = $text =~ /was terminated by signal 9/g;

				return ("$killed were killed", @died);
			} },
		{ name => 'nothing in the log tells of an internal error', check => sub {
				my $text = slurp($log);
				my @lines = $text =~ /^(.*(?:cache lookup failed|tuple concurrently|could not (?:open|read|write|find|access|create|load)| XX00[01] |invalid page|missing chunk|unexpected (?!EOF on client|postmaster exit|pageaddr)|leaked|refcount leak|reference leak|still referenced).*)$/gm;

				return (($text =~ tr/\n//) . ' lines', @lines);
			} });
}

# Samples are [ time, kilobytes ] by process.  Memory must not grow from a moment on by more than "bound" kilobytes.  What has
# begun later than "begun" is still filling its caches.  Of the runners none may live that long, when others need the room.
sub memory_invariants
{
	my ($bound, $begun, $from, %samples) = @_;

	return map {
		my ($name, $processes) = ($_, $samples{$_});

		{ name => "the memory of $name does not grow", check => sub {
				my (@numbers, @problems);

				foreach my $pid (sort keys %$processes)
				{
					my @later = grep { $_->[0] >= $from } @{ $processes->{$pid} };

					next if $processes->{$pid}[0][0] > $begun || @later < 4;
					# The largest of the first quarter against the smallest of the last.
					my $quarter = int(@later / 4);
					my $before = max(map { $_->[1] } @later[ 0 .. $quarter - 1 ]);
					my $after = min(map { $_->[1] } @later[ -$quarter .. -1 ]);

					push @numbers, sprintf '%d kB, then %d kB', $before, $after;
					push @problems, sprintf 'process %d has grown by %d kB, more than %d', $pid, $after - $before, $bound if $after - $before > $bound;
				}
				push @problems, 'there is nothing to compare' if !@numbers && $name !~ /runner/;
				return (@numbers ? join('; ', @numbers) : 'none has lived long enough', @problems);
			} }
	} sort keys %samples;
}

1;
