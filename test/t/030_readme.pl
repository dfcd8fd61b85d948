# Every SQL example in the README and in docs/ runs as printed, one document after the other.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The code blocks of a document: a list of [language, text, line].
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
		elsif ($text =~ /^```(\w*)\s*$/) { $language = $1; push @blocks, [ $1, '', $line ]; }
	}
	return @blocks;
}

my $node = PostgreSQL::Test::Cluster->new('readme');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE app');

# \copy reads its file relative to the working directory.
my $directory = PostgreSQL::Test::Utils::tempdir;
my @documents = ('README.md', sort glob('docs/*.md'));
my $top = `pwd`;
chomp $top;
chdir $directory or die "cannot change to $directory: $!";

my %run;
foreach my $document (@documents)
{
	foreach my $block (code_blocks("$top/$document"))
	{
		my ($language, $text, $line) = @$block;

		append_to_file('events.csv', $text) if $language eq 'csv';
		next if $language ne 'sql';

		my ($out, $err);
		my $code = $node->psql('app', $text, stdout => \$out, stderr => \$err, on_error_stop => 1);
		is($code, 0, "$document:$line runs") or diag($err);
		unlike($err, qr/^WARNING/m, "$document:$line warns of nothing");
		$run{$document}++;
	}
}
cmp_ok($run{'README.md'}, '>=', 6, 'the README has examples');

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
