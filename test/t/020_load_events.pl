# scripts/load_events: what it makes of the lines of a CSV file.

use strict;
use warnings;

use FindBin;
use IPC::Run qw(run);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $loader = "$FindBin::Bin/../../scripts/load_events";
my $dir = PostgreSQL::Test::Utils::tempdir();
my $node = PostgreSQL::Test::Cluster->new('loader');

# What a staged event says, less its id, in the order of the file.
my $staged = q{
	SELECT concat_ws('|', coalesce(s.user_id::text, '-'), o.org_name, s.event_type, s.payload,
		to_char(s.event_time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'))
	FROM prod_analytics.staging_events s
	LEFT JOIN prod_analytics.organizations o USING (org_id)
	ORDER BY s.ctid};

my $unparsable = q{
	SELECT concat_ws('|', payload->>'line', reasons->0->>'message')
	FROM prod_analytics.quarantined_events
	WHERE reasons->0->>'code' = 'unparsable_line'
	ORDER BY quarantine_id};

sub write_file
{
	my ($name, $content) = @_;

	open my $file, '>:raw', "$dir/$name" or die "could not write $dir/$name: $!";
	print $file $content;
	close $file or die "could not write $dir/$name: $!";
	return;
}

# Starts over without events and quarantine.
sub forget_events
{
	$node->safe_psql('postgres',
		'TRUNCATE prod_analytics.staging_events, prod_analytics.quarantined_events');
	return;
}

# Runs the loader and psql; returns whether both succeeded, their output and their errors.
sub load_file
{
	my ($name, @options) = @_;
	my ($stdout, $stderr) = ('', '');
	my $ok = run [ $^X, $loader, '--quiet', @options, "$dir/$name" ], '2>', \$stderr, '|',
	  [ 'psql', '-X', '-d', $node->connstr('postgres') ], '>', \$stdout, '2>>', \$stderr;

	return ($ok, $stdout, $stderr);
}

# Loads a file with the content given into empty tables; it must succeed.
sub load_events
{
	my ($content, @options) = @_;

	write_file('events.csv', $content);
	forget_events();

	my ($ok, $stdout, $stderr) = load_file('events.csv', @options);

	BAIL_OUT("load_events failed: $stderr") if !$ok;
	return $stderr;
}

# Asserts what is staged after loading a file, and that all of it parsed.
sub stages
{
	my ($test_name, $content, $expected, @options) = @_;
	my $stderr = load_events($content, @options);

	is($node->safe_psql('postgres', $staged), $expected, $test_name);
	is($stderr, '', "$test_name: every line parses");
	return;
}

# Asserts that one line of a file is reported and kept, and that the others are staged.
sub sets_aside
{
	my ($test_name, $content, $line, $problem, $text) = @_;
	my $message = "line $line of events.csv: $problem";
	my $stderr = load_events($content);

	is($stderr, "$message\n", "$test_name is reported");
	is($node->safe_psql('postgres', $unparsable), "$line|$message", "$test_name is kept");
	is( $node->safe_psql(
			'postgres', q{SELECT payload->>'text' FROM prod_analytics.quarantined_events}),
		$text,
		"$test_name is kept as it is");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM prod_analytics.staging_events'),
		2, "$test_name does not touch the other lines");
	return;
}

# Asserts that a file cannot be loaded at all.
sub refuses
{
	my ($test_name, $content, $pattern, @options) = @_;

	write_file('events.csv', $content);
	forget_events();

	my ($ok, $stdout, $stderr) = load_file('events.csv', @options);

	ok(!$ok, "$test_name is an error");
	like($stderr, $pattern, "$test_name is explained");
	return;
}

$node->init;
$node->start;
$node->safe_psql(
	'postgres', q{
	CREATE EXTENSION prod_analytics CASCADE;
	SELECT prod_analytics.ensure_partitions()});

my $header = "user_id,event_type,event_time\n";
my $view = '|Demo|view|2026-01-02 03:04:05.000000';

# Form of the file

stages('plain file', "${header}1,view,2026-01-02T03:04:05Z\n", "1$view");
stages('columns in another order',
	"event_time,user_id,event_type\n2026-01-02T03:04:05Z,1,view\n", "1$view");
stages('last line without line feed', "${header}1,view,2026-01-02T03:04:05Z", "1$view");
stages('byte-order mark', "\xef\xbb\xbf${header}1,view,2026-01-02T03:04:05Z\n", "1$view");
stages('carriage returns twice', "user_id,event_type,event_time,x\r\r\n1,view,2026-01-02T03:04:05Z,\r\r\n",
	'1|Demo|view|{}|2026-01-02 03:04:05.000000');
stages('carriage returns',
	"user_id,event_type,event_time\r\n1,view,2026-01-02T03:04:05Z\r\n\r\n", "1$view");
stages('quoted header and fields',
	qq{"user_id","event_type","event_time"\n"1","view","2026-01-02T03:04:05Z"\n}, "1$view");
stages('blank lines and blanks around values',
	" user_id , Event_Type,event_time\n\n 1 , view , 2026-01-02T03:04:05Z \n\n", "1$view");
stages('header only', $header, '');
stages('empty file whose columns are named', '', '', '--columns=user_id,event_type,event_time');
stages(
	'file without header',
	"1,17,pv,1767323045\n2,17,other,1767323045\n",
	'1|Demo|view|{"item": "17"}|2026-01-02 03:04:05.000000' . "\n"
	  . '2|Demo|other|{"item": "17"}|2026-01-02 03:04:05.000000',
	'--columns=user_id,item,event_type,event_time', '--event-types=pv=view,buy=purchase');
stages(
	'header that is ignored, column that is left out',
	"a,b,c,d\n1,17,view,2026-01-02T03:04:05Z\n",
	"1$view", '--skip-header', '--columns=user_id,-,event_type,event_time');

# Values

stages('user_id empty: anonymous', "${header},view,2026-01-02T03:04:05Z\n", "-$view");
stages('event_type empty: left to the ingest', "${header}1,,2026-01-02T03:04:05Z\n",
	'1|Demo|2026-01-02 03:04:05.000000');

foreach my $time (
	[ '2026-01-02T03:04:05Z', '2026-01-02 03:04:05.000000' ],
	[ '2026-01-02 03:04:05', '2026-01-02 03:04:05.000000' ],
	[ '2026-01-02 03:04:05 UTC', '2026-01-02 03:04:05.000000' ],
	[ '2026-01-02T03:04', '2026-01-02 03:04:00.000000' ],
	[ '2026-01-02', '2026-01-02 00:00:00.000000' ],
	[ '2026-01-02T03:04:05.678+05:30', '2026-01-01 21:34:05.678000' ],
	[ '2026-01-02T03:04:05.123456789-0800', '2026-01-02 11:04:05.123456' ],
	[ '2026-01-02T03:04:05+02', '2026-01-02 01:04:05.000000' ],
	[ '2024-02-29T23:59:60Z', '2024-03-01 00:00:00.000000' ],
	[ '1511544070', '2017-11-24 17:21:10.000000' ],
	[ '1511544070123', '2017-11-24 17:21:10.123000' ])
{
	stages("event_time $time->[0]", "${header}1,view,$time->[0]\n", "1|Demo|view|$time->[1]");
}

stages(
	'other columns go into event_props',
	qq{user_id,event_type,event_time,colour,"a ""b"" \\c"\n}
	  . qq{1,view,2026-01-02,red,"tab\there, back\\slash, line\nfeed, ""quote"" \xc3\xa9"\n}
	  . qq{2,view,2026-01-02,,"\\N"\n}
	  . qq{3,view,2026-01-02,,\n},
	qq(1|Demo|view|{"colour": "red", "a \\"b\\" \\\\c": "tab\\there, back\\\\slash, line\\nfeed, \\"quote\\" \xc3\xa9"})
	  . qq(|2026-01-02 00:00:00.000000\n)
	  . qq(2|Demo|view|{"a \\"b\\" \\\\c": "\\\\N"}|2026-01-02 00:00:00.000000\n)
	  . qq(3|Demo|view|{}|2026-01-02 00:00:00.000000));

stages(
	'event_props keeps its backslashes and line breaks',
	qq{user_id,event_type,event_time,event_props\n}
	  . qq{1,view,2026-01-02,"{""text"": ""C:\\\\tmp\\n\\u00e9"",\n  ""list"": [1, 2.50, null]}"\n}
	  . qq{2,view,2026-01-02,\n},
	qq(1|Demo|view|{"list": [1, 2.50, null], "text": "C:\\\\tmp\\n\xc3\xa9"}|2026-01-02 00:00:00.000000\n)
	  . '2|Demo|view|2026-01-02 00:00:00.000000');

stages(
	'other columns leave the keys of event_props alone',
	qq{user_id,event_type,event_time,event_props,price,size\n}
	  . qq{1,view,2026-01-02,"{""price"": 2.5}",9.99,XL\n},
	'1|Demo|view|{"size": "XL", "price": 2.5}|2026-01-02 00:00:00.000000');

# Lines that do not parse

my $good = "2,view,2026-01-02\n";

foreach my $case (
	[ '2026-13-02', 'is neither ISO 8601 nor a Unix time' ],
	[ '2023-02-29', 'is neither ISO 8601 nor a Unix time' ],
	[ '2026-01-02T24:04:05Z', 'is neither ISO 8601 nor a Unix time' ],
	[ '2026-01-02T03:04:05+16', 'is neither ISO 8601 nor a Unix time' ],
	[ '2026-01-02T03:04:60.1Z', 'is neither ISO 8601 nor a Unix time' ],
	[ '0000-01-02', 'is neither ISO 8601 nor a Unix time' ],
	[ '2026-01-02T03:04:05Zulu', 'is neither ISO 8601 nor a Unix time' ],
	[ '2026-01-02T03:', 'is neither ISO 8601 nor a Unix time' ],
	[ 'yesterday', 'is neither ISO 8601 nor a Unix time' ],
	[ '-1511544070', 'is neither ISO 8601 nor a Unix time' ],
	[ '15', 'has 2 digits: a Unix time has 10 (seconds) or 13 (milliseconds)' ],
	[ '1596168', 'has 7 digits: a Unix time has 10 (seconds) or 13 (milliseconds)' ])
{
	my ($time, $problem) = @$case;

	sets_aside("event_time $time", "$header${good}1,view,$time\n$good",
		3, "event_time \"$time\" $problem", "1,view,$time");
}

sets_aside('event_time empty', "$header${good}1,view,\n$good", 3, 'event_time is empty', '1,view,');
sets_aside('field missing', "$header${good}1,view\n$good",
	3, '3 fields expected, 2 found', '1,view');
sets_aside('field too many', "$header${good}1,view,2026-01-02,\n$good",
	3, '3 fields expected, 4 found', '1,view,2026-01-02,');
sets_aside('user_id a word', "$header${good}x1,view,2026-01-02\n$good",
	3, 'user_id "x1" is not a number', 'x1,view,2026-01-02');
sets_aside('user_id a fraction', "$header${good}1.5,view,2026-01-02\n$good",
	3, 'user_id "1.5" is not a number', '1.5,view,2026-01-02');
sets_aside(
	'user_id too large',
	"$header${good}9223372036854775808,view,2026-01-02\n$good",
	3, 'user_id "9223372036854775808" is out of range',
	'9223372036854775808,view,2026-01-02');
sets_aside('invalid UTF-8', "$header${good}1,v\xe9,2026-01-02\n$good",
	3, 'it is not valid UTF-8', "1,v\xef\xbf\xbd,2026-01-02");
sets_aside('NUL byte', "$header${good}1,v\0,2026-01-02\n$good",
	3, 'it contains a NUL byte', "1,v\xef\xbf\xbd,2026-01-02");
sets_aside('quote in an unquoted field', qq{$header${good}1,v"x,2026-01-02\n$good},
	3, 'a quote is out of place at character 4', '1,v"x,2026-01-02');
sets_aside('quote before a 0', qq{$header${good}1,"v"0"0",2026-01-02\n$good},
	3, 'a quote is out of place before a 0', '1,"v"0"0",2026-01-02');
sets_aside('quote never closed', qq{$header$good$good"1,view,2026-01-02\n},
	4, 'a quoted field is not closed', '"1,view,2026-01-02');
sets_aside('carriage return inside a line', "$header${good}1,view\rx,2026-01-02\n$good",
	3, 'a carriage return stands in an unquoted field', "1,view\rx,2026-01-02");

my $props_header = "user_id,event_type,event_time,event_props\n";
my $good_props = "2,view,2026-01-02,{}\n";

sets_aside(
	'malformed JSON',
	qq{$props_header${good_props}1,view,2026-01-02,"{""a"": }"\n$good_props},
	3,
	'event_props: invalid input syntax for type json: Expected JSON value, but found "}".',
	'1,view,2026-01-02,"{""a"": }"');
sets_aside(
	'JSON with a NUL',
	qq{$props_header${good_props}1,view,2026-01-02,"[""\\u0000""]"\n$good_props},
	3,
	'event_props: unsupported Unicode escape sequence: \u0000 cannot be converted to text.',
	'1,view,2026-01-02,"[""\u0000""]"');
sets_aside(
	'event_props that cannot take other columns',
	qq{user_id,event_type,event_time,event_props,size\n2,view,2026-01-02,{},1\n}
	  . qq{1,view,2026-01-02,[],XL\n2,view,2026-01-02,{},2\n},
	3, 'event_props is not a JSON object', '1,view,2026-01-02,[],XL');
sets_aside(
	'event_id a word',
	"event_id,user_id,event_type,event_time\n1,1,view,2026-01-02\n"
	  . "e2,1,view,2026-01-02\n3,1,view,2026-01-02\n",
	3, 'event_id "e2" is not a number', 'e2,1,view,2026-01-02');

# A stray quote

my $many = join '', map { "$_,view,2026-01-02\n" } 1 .. 5000;

is(load_events(qq{$header"1,view,2026-01-02\n$many}),
	"line 2 of events.csv: a quoted field is not closed\n",
	'a stray quote costs one line');
is($node->safe_psql('postgres', 'SELECT count(*) FROM prod_analytics.staging_events'),
	5000, 'a stray quote does not swallow what follows');

is( load_events(
		qq{${header}1,vi"ew,2026-01-02\n2,view,2026-01-02\n3,vi"ew,2026-01-02\nx,view,2026-01-02\n}),
	"line 2 of events.csv: a quote is out of place at character 5\n"
	  . "line 4 of events.csv: a quote is out of place at character 5\n"
	  . "line 5 of events.csv: user_id \"x\" is not a number\n",
	'two stray quotes are not taken for a pair');
is($node->safe_psql('postgres', 'SELECT user_id FROM prod_analytics.staging_events'),
	2, 'the line between two stray quotes is loaded');

is( load_events(
		qq{user_id,event_type,event_time,note\n}
		  . qq{1,view,2026-01-02,"one\ntwo\nthree"\nx,view,2026-01-02,\n}),
	"line 5 of events.csv: user_id \"x\" is not a number\n",
	'line numbers count the lines inside quoted fields');

# Reports

my $report = load_events($header . "x,view,2026-01-02\n" x 25);

like($report, qr/^line 21 of events\.csv/m, 'the twentieth line that does not parse is reported');
unlike($report, qr/^line 22 of events\.csv/m, 'the twenty-first is not');
like($report, qr/^and 5 more lines$/m, 'the others are counted');
is($node->safe_psql('postgres', 'SELECT count(*) FROM prod_analytics.quarantined_events'),
	25, 'all of them are kept');

# Progress

append_to_file("$dir/progress.csv", qq{$header} . qq{1,view,2026-01-02\n} x 3);
run [ $^X, $loader, "$dir/progress.csv" ], '>', \my $ignored, '2>', \my $progress;
is($progress, "3 lines read, staging them\n", 'the header is none of the lines read');
run [ $^X, $loader, '--columns=user_id,event_type,event_time', "$dir/events.csv" ], '>', \$ignored, '2>', \$progress;
is($progress, "26 lines read, staging them\n", 'without a header all lines are');

# Files that cannot be loaded

refuses('missing column', "user_id,event_type,time\n1,view,2026-01-02\n",
	qr/events\.csv has no column "event_time", only user_id, event_type, time\nHint: .*--columns=/);
refuses('repeated column', "user_id,event_type,event_time,user_id\n",
	qr/events\.csv has two columns "user_id"/);
refuses('empty file', '', qr/events\.csv is empty/);
refuses('broken header', qq{user_id,event"type,event_time\n},
	qr/the header of events\.csv does not parse: a quote is out of place/);
refuses('UTF-16', "\xff\xfeu\0s\0", qr/events\.csv is in UTF-16\nHint: iconv/);
refuses('compressed file', "\x1f\x8b\x08", qr/events\.csv is compressed\nHint: zcat/);
refuses('event type without counterpart', $header, qr/"pv" is not of the form/,
	'--event-types=pv');
refuses('unknown option', $header, qr/Unknown option: nonsense/, '--nonsense');

my ($ok, $stdout, $stderr) = load_file('no_such_file.csv');

ok(!$ok, 'missing file is an error');
like($stderr, qr/could not open .*no_such_file\.csv: No such file/, 'missing file is explained');

# Identity

sub event_ids
{
	return $node->safe_psql('postgres',
		q{SELECT string_agg(event_id::text, ' ' ORDER BY ctid) FROM prod_analytics.staging_events});
}

my $event_id = do
{
	load_events("user_id,event_type,event_time,size,colour\n1,view,2026-01-02T03:04:05Z,1,red\n");
	event_ids();
};

cmp_ok($event_id, '>', 0, 'a derived event_id is positive');

load_events("colour,size,user_id,event_type,event_time\nblue,1,1,view,2026-01-02T03:04:05Z\n"
	  . "red,1,1,view,2026-01-02 04:04:05+01\n");
my ($other_id, $same_id) = split / /, event_ids();

is($same_id, $event_id, 'the same event has the same id wherever it stands');
isnt($other_id, $event_id, 'another event has another id');

load_events(qq{user_id,event_type,event_time,event_props\n}
	  . qq{1,view,2026-01-02T03:04:05Z,"{""size"":""1"",  ""colour"":""red""}"\n});
is(event_ids(), $event_id, 'the id does not depend on how event_props are written');

load_events("event_id,user_id,event_type,event_time\n77,1,view,2026-01-02\n,1,view,2026-01-02\n");
like(event_ids(), qr/\A77 [1-9][0-9]+\z/, 'an event_id is kept, an empty one is derived');

# Users and organizations

$node->safe_psql(
	'postgres', q{
	INSERT INTO prod_analytics.organizations (org_id, org_name)
	VALUES (100, 'Twin'), (101, 'Twin');
	INSERT INTO prod_analytics.users (user_id, org_id, email) VALUES (9000, 101, 'known@example.com')});

load_events("user_id,event_type,event_time,org_id\n"
	  . "9000,view,2026-01-01,Twin\n"
	  . "9001,view,2026-01-02,\n"
	  . qq{9001,view,2026-01-03,"O'Neil\\\t""s"\n}
	  . "9001,view,2026-01-01,Twin\n"
	  . "9002,view,2026-01-01,3000000\n"
	  . "9003,view,2026-01-01,\n");

is( $node->safe_psql(
		'postgres', q{
		SELECT user_id, coalesce(s.org_id::text, '-'), coalesce(org_name, '-')
		FROM prod_analytics.staging_events s LEFT JOIN prod_analytics.organizations o USING (org_id)
		WHERE o.org_name IS DISTINCT FROM E'O''Neil\\\\\t"s'
		ORDER BY s.ctid}),
	"9000|100|Twin\n9001|-|-\n9001|100|Twin\n9002|3000000|Organization 3000000\n9003|-|-",
	'organizations are found by number and by name, of two by the lower number');
is( $node->safe_psql(
		'postgres', q{
		SELECT u.user_id, u.email, o.org_name
		FROM prod_analytics.users u JOIN prod_analytics.organizations o USING (org_id)
		WHERE u.user_id BETWEEN 9000 AND 9003
		ORDER BY u.user_id}),
	"9000|known\@example.com|Twin\n"
	  . "9001|user9001\@example.invalid|O'Neil\\\t\"s\n"
	  . "9002|user9002\@example.invalid|Organization 3000000\n"
	  . '9003|user9003@example.invalid|Demo',
	'a new user gets the first organization of its events, a known one stays as it is');
is( $node->safe_psql(
		'postgres', q{
		INSERT INTO prod_analytics.organizations (org_name) VALUES ('Next') RETURNING org_id > 3000000;
		INSERT INTO prod_analytics.users (org_id, email) VALUES (100, 'n@example.com') RETURNING user_id > 9003}),
	"t\nt",
	'the sequences stay ahead');

my $organizations =
  $node->safe_psql('postgres', 'SELECT count(*) FROM prod_analytics.organizations');

load_events("user_id,event_type,event_time,org_id\n"
	  . "9000,view,2026-01-01,Twin\n"
	  . "9001,view,2026-01-02,3000000\n");
is($node->safe_psql('postgres', 'SELECT count(*) FROM prod_analytics.organizations'),
	$organizations, 'known organizations are not created again');

# A second load

write_file('twice.csv',
		"${header}1,view,2026-01-02\n1,view,2026-01-02\n,view,2026-01-03\n"
	  . "2,,2026-01-02\n3,view,1950-01-01\nx,view,2026-01-02\n1,view\n");
forget_events();

foreach my $expected ([ 5, 2, 1, 2 ], [ 3, 0, 3, 0 ])
{
	my ($rows, $inserted, $duplicates, $quarantined) = @$expected;

	load_file('twice.csv');
	is( $node->safe_psql(
			'postgres', q{
			SELECT r->>'rows', r->>'inserted', r->>'duplicates', r->>'quarantined'
			FROM prod_analytics.etl_ingest_events(100) r}),
		join('|', @$expected),
		"ingest finds $inserted new events and $duplicates known ones");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM prod_analytics.quarantined_events'),
		4, 'a line gets into quarantine once');
}

# A load that is cut short

write_file('events.csv', "$header$many");
forget_events();

my $script = '';

run [ $^X, $loader, '--quiet', "$dir/events.csv" ], '>', \$script;
$script = substr $script, 0, index($script, "\\.\n") - 100;
run [ 'psql', '-X', '-d', $node->connstr('postgres') ], '<', \$script;
is($node->safe_psql('postgres', 'SELECT count(*) FROM prod_analytics.staging_events'),
	0, 'a load that is cut short leaves nothing behind');

# Without the extension

($ok, $stdout, $stderr) = do
{
	my ($out, $err) = ('', '');
	my $status = run [ $^X, $loader, '--quiet', "$dir/events.csv" ], '|',
	  [ 'psql', '-X', '-d', $node->connstr('template1') ], '>', \$out, '2>', \$err;

	($status, $out, $err);
};
ok(!$ok, 'a database without the extension is an error');
like($stderr, qr/"prod_analytics" does not exist/, 'and the error says so');

$node->stop;
done_testing();
