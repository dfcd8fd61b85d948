# Every SQL example in the README and in docs/ runs as printed, and prints what is shown.
#
# The README's run in an empty database, those of another document in one where the extension is installed.  A block of
# "output" behind an example of "sql" is what psql prints of it, tuples only and unaligned; it may fail and warn as shown there.

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The code blocks of a document: a list of [language, text, line].  (The language "sql pg_cron" is run by another test.)
sub code_blocks
{
	my ($document) = @_;
	my (@blocks, $language);
	my $line = 0;

	foreach my $text (split /^/, slurp_file($document))
	{
		$line++;
		if (defined $language && $text =~ /^```\s*$/) { undef $language; }
		elsif (defined $language) { $blocks[-1]->[1] .= $text; }
		elsif ($text =~ /^```([\w ]*)\s*$/) { $language = $1; push @blocks, [ $1, '', $line ]; }
	}
	return @blocks;
}

# What psql printed, as documents show it: without its prefix, and without white space at the end of lines.
sub printed
{
	my ($text) = @_;

	$text =~ s/^psql:<stdin>:\d+: //mg;
	$text =~ s/[ \t]+$//mg;
	return split /\n/, $text;
}

# Whether lines are those that a document shows; its "…" stands for any number of lines, or for some text in one.
sub is_as_shown
{
	my ($shown, $lines, $name) = @_;
	my $pattern = '';

	foreach my $line (@$shown)
	{
		$line =~ s/\s+$//;
		$pattern .= $line eq '…' ? '(?:.*\n)*?' : join('.*', map { quotemeta } split /…/, $line, -1) . '\n';
	}
	like(join('', map { "$_\n" } @$lines), qr/\A$pattern\z/, $name);
}

# Run an example; it must not fail or warn, unless the document shows what it prints.
sub run_example
{
	my ($node, $database, $example, $output, $name) = @_;
	my ($out, $err);
	my $code = $node->psql($database, $example, stdout => \$out, stderr => \$err, on_error_stop => !defined $output);

	if (!defined $output)
	{
		is($code, 0, "$name runs") or diag($err);
		unlike($err, qr/^WARNING/m, "$name warns of nothing");
		return;
	}

	# what else is told (LINE, CONTEXT) says nothing to readers
	my $message = qr/^(?:ERROR|WARNING|NOTICE|DETAIL|HINT): /;
	my @shown = split /\n/, $output;

	is_as_shown([ grep { $_ !~ $message } @shown ], [ printed($out) ], "$name prints what is shown");
	is_as_shown([ grep { $_ =~ $message } @shown ], [ grep { $_ =~ $message } printed($err) ], "$name tells what is shown");
}

# Documents show times in UTC.
$ENV{PGTZ} = 'UTC';

my $node = PostgreSQL::Test::Cluster->new('readme');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE installed');
$node->safe_psql('installed', 'CREATE EXTENSION prod_analytics CASCADE; SELECT prod_analytics.ensure_partitions()');

# \copy reads its file relative to the working directory.
my $directory = PostgreSQL::Test::Utils::tempdir;
my @documents = ('README.md', sort glob('docs/*.md'));
my $top = `pwd`;
chomp $top;
chdir $directory or die "cannot change to $directory: $!";

my %run;
foreach my $document (@documents)
{
	my @blocks = code_blocks("$top/$document");
	my $database = $document eq 'README.md' ? 'app' : $document;

	$node->safe_psql('postgres', qq{CREATE DATABASE "$database"} . ($database eq 'app' ? '' : ' TEMPLATE installed'));
	for my $i (0 .. $#blocks)
	{
		my ($language, $text, $line) = @{ $blocks[$i] };
		my $next = $blocks[ $i + 1 ];

		append_to_file('events.csv', $text) if $language eq 'csv';
		next if $language ne 'sql';

		run_example($node, $database, $text, defined $next && $next->[0] eq 'output' ? $next->[1] : undef, "$document:$line");
		$run{$document}++;
	}
}
cmp_ok($run{'README.md'}, '>=', 6, 'the README has examples');

# Links lead somewhere: to a file below the top, and to a heading in it.
sub anchors
{
	return map { my $anchor = lc $_; $anchor =~ s/[^\w\s-]//g; $anchor =~ s/\s/-/g; $anchor => 1 } slurp_file($_[0]) =~ /^#+ (.*?)\s*$/mg;
}
foreach my $document (@documents, 'bench/README.md', 'src/README.md')
{
	my $text = slurp_file("$top/$document");

	while ($text =~ /\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)/g)
	{
		my ($path, $anchor) = ($1, $2);
		next if $path =~ m{^(\.\./)?[A-Z]+(\.md)?$};

		my $target = $path eq '' ? "$top/$document" : dirname("$top/$document") . "/$path";

		ok(-e $target, "$document links to $path, which is there") if $path ne '';
		ok({ anchors($target) }->{$anchor}, "$document links to #$anchor of $path, which is there") if defined $anchor && -e $target;
	}
}
my $index = slurp_file("$top/docs/README.md");
foreach my $guide (grep { $_ ne 'docs/README.md' } @documents[1 .. $#documents])
{
	like($index, qr/\(\Q@{[ basename($guide) ]}\E\)/, "the index of guides lists $guide");
}

# The README's figures are those that were measured.
sub measured
{
	my ($text) = @_;
	my (%ratios, $command);

	while ($text =~ /^\| (?:`([^`]*)` )?\|.*\| ([0-9.]+) \|$/mg)
	{
		$command = $1 if defined $1;
		$ratios{"$command $2"} = 1;
	}
	return \%ratios;
}
my ($performance) = slurp_file("$top/README.md") =~ /^## Performance\n(.*?)^## /ms;
my $measured = measured(slurp_file("$top/bench/README.md"));
my @figures = $performance =~ /^\|.*\| `([^`]*)` \| ([0-9.]+) \|$/mg;
cmp_ok(scalar(@figures), '>=', 10, 'the README has figures');
while (my ($command, $ratio) = splice(@figures, 0, 2))
{
	ok($measured->{"$command $ratio"}, "the README's $ratio of $command is in bench/README.md");
}

# What the examples claim to show.
is($node->safe_psql('app', q{SELECT purchases, revenue FROM prod_analytics.mv_org_daily_metrics ORDER BY event_date DESC LIMIT 1}),
	'1|12.50', 'the metrics of the getting-started example');
is($node->safe_psql('app', q{SELECT event_id, reasons->0->>'code' FROM prod_analytics.quarantined_events}),
	'1003|unknown_user', 'the event of an unknown user is set aside');
is($node->safe_psql('app', q{SELECT string_agg(event_id::text, ',' ORDER BY event_id) FROM prod_analytics.events WHERE event_id IN (1001, 1002)}),
	'1001,1002', 'the others of the file are events');

# What the reference lists is what there is.
my $readme = slurp_file("$top/README.md");
foreach my $name (split /\n/, $node->safe_psql('app', <<'SQL'))
SELECT proname FROM pg_proc WHERE pronamespace = 'prod_analytics'::regnamespace
	AND obj_description(oid, 'pg_proc') NOT LIKE 'internal:%'
UNION ALL SELECT relname FROM pg_class WHERE relnamespace = 'prod_analytics'::regnamespace
	AND relkind IN ('r', 'p', 'm', 'v') AND NOT relispartition
UNION ALL SELECT name FROM pg_settings WHERE name LIKE 'prod\_analytics.%'
SQL
{
	like($readme, qr/\Q$name\E/, "the README names $name");
}

done_testing();
