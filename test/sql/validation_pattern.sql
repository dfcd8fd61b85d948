-- Regular expressions of schemas: they mean what ECMA-262 says in unicode mode, not what PostgreSQL would
-- read; what cannot be translated is refused with the reason; and none is too much for the server.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS prod_analytics CASCADE;
CREATE EXTENSION prod_analytics CASCADE;
RESET client_min_messages;
\set VERBOSITY terse

-- Whether a pattern matches every one of some texts and none of some others.
CREATE FUNCTION tells(pattern text, these text[], from_those text[] DEFAULT '{}') RETURNS boolean LANGUAGE sql AS $$
	SELECT bool_and(prod_analytics.jsonb_matches_schema(jsonb_build_object('pattern', pattern), to_jsonb(t)) = (n <= cardinality(these)))
	FROM unnest(these || from_those) WITH ORDINALITY u (t, n);
$$;
-- What is wrong with a pattern.
CREATE FUNCTION problem(pattern text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN 'no problem: ' || prod_analytics.jsonb_matches_schema(jsonb_build_object('pattern', pattern), '""');
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || regexp_replace(SQLERRM, '^.* is not a regular expression:', '');
END $$;

SELECT claim, tells(pattern, these, from_those) AS holds FROM (VALUES
	('a pattern is not anchored', 'a+', '{xxaayy, a}'::text[], '{xx, A}'::text[]),
	('an anchored one is', '^a*$', '{"", a, aaa}', '{abc, b}'),
	('the empty pattern matches anything', '', '{"", x}', '{}'),
	('an empty branch matches', '^(|a)b$', '{b, ab}', '{a}'),
	('non-greedy quantifiers', '^a+?b*?c??$', '{a, aab, ac}', '{b}'),
	('PostgreSQL''s options and directors are not', '^(?:\(\?i\)|\*\*\*:)a', '{(?i)a, ***:a}', '{A, (?i)A}')
) v (claim, pattern, these, from_those);

-- Characters and their escapes.
SELECT claim, tells(pattern, these, from_those) AS holds FROM (VALUES
	('a dot is any character but the four that end lines', '^.$', ARRAY['a', 'é', '😀', E'\u0085'], ARRAY['', E'\n', E'\r', E'\u2028', E'\u2029', 'ab']),
	('$ does not match before a last newline', '^abc$', ARRAY['abc'], ARRAY[E'abc\n', E'\nabc', E'abc\nabc']),
	('^ and $ within a pattern', 'a|^b$|c', ARRAY['xa', 'b', 'xc'], ARRAY['xb', E'b\n']),
	('control escapes', '^\t\n\v\f\r$', ARRAY[E'\t\n\u000b\f\r'], ARRAY['tnvfr']),
	('control letters, upper and lower case', '^\cC\cc[\cI]$', ARRAY[E'\u0003\u0003\t'], ARRAY['cCc']),
	('hexadecimal escapes have two digits', '^\x411$', ARRAY['A1'], ARRAY['Б']),
	('unicode escapes have four digits', '^\u00411\u00e9$', ARRAY['A1é'], ARRAY['A1e']),
	('escapes in braces', '^\u{1F600}\u{0000041}$', ARRAY['😀A'], ARRAY['A']),
	('surrogate pairs are one character', '^\uD83D\uDE00{2}$', ARRAY['😀😀'], ARRAY['😀']),
	('half a pair matches nothing', '\uD83D|\uDE00\uD83D', '{}', ARRAY['😀', 'a']),
	('characters beyond the BMP are one', '^🐲*$', ARRAY['', '🐲', '🐲🐲'], ARRAY['🐉', '🐉🐉']),
	('\0 is no digit', '\0', '{}', ARRAY['0', '\0']),
	('punctuation that is escaped', '^\^\$\\\.\*\+\?\(\)\[\]\{\}\|\/\-\_\@\"\#\&\''\,\:\;\<\=\>\~\ \!\%\`$', ARRAY['^$\.*+?()[]{}|/-_@"#&'',:;<=>~ !%`'], '{}'),
	('punctuation that means something to PostgreSQL only', '^"#&'',:;<=>~ !%`-@_/$', ARRAY['"#&'',:;<=>~ !%`-@_/'], '{}')
) v (claim, pattern, these, from_those);

-- Classes by letter.
SELECT claim, tells(pattern, these, from_those) AS holds FROM (VALUES
	('\d is ASCII', '^\d$', ARRAY['0', '9'], ARRAY['٣', '৪', 'a', '½']),
	('\D is the rest', '^\D$', ARRAY['٣', 'a', E'\n'], ARRAY['0']),
	('\w is ASCII', '^\w$', ARRAY['a', 'Z', '0', '_'], ARRAY['é', 'ſ', E'\u212a', '-']),
	('\W is the rest', '^\W$', ARRAY['é', '-', E'\n', '😀'], ARRAY['a', '_']),
	('\s is white space and the ends of lines', '^\s+$', ARRAY[E' \t\n\u000b\f\r\u00a0\ufeff\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000'], ARRAY[E'\u200b', E'\u0085', E'\u180e', 'x']),
	('\S is the rest', '^\S$', ARRAY['x', E'\u200b'], ARRAY[E'\u00a0', E'\ufeff', ' ']),
	('\b is at words of ASCII', '\bcat\b', ARRAY['a cat sat', 'écaté', 'cat'], ARRAY['concatenate', 'cat_', 'cat1']),
	('\B is elsewhere', '\Bcat\B', ARRAY['concatenate'], ARRAY['cat', 'a cat', 'écaté']),
	('lower-case names of cole', '[a-z]cole', ARRAY['les ecoles'], ARRAY['école'])
) v (claim, pattern, these, from_those);

-- Brackets.
SELECT claim, tells(pattern, these, from_those) AS holds FROM (VALUES
	('ranges and members', '^[a-cx_-]+$', ARRAY['abcx_-'], ARRAY['d', 'y']),
	('a hyphen at the beginning', '^[-a]+$', ARRAY['-a'], ARRAY['b']),
	('a hyphen after a class, at the end', '^[\w-]+$', ARRAY['a-b'], ARRAY['.']),
	('a range that begins with a hyphen', '^[--/]+$', ARRAY['-./'], ARRAY['0', ',']),
	('negated ones match newlines', '^[^a]$', ARRAY[E'\n', 'b', '😀'], ARRAY['a', '']),
	('[^^] and [a^]', '^[^^][a^]$', ARRAY['a^', 'ba'], ARRAY['^a']),
	('an opening bracket is itself', '^[[b]$', ARRAY['[', 'b'], ARRAY['a', ']']),
	('[[:alpha:] has no class', '^[[:alpha:]$', ARRAY['[', ':', 'a'], ARRAY['b', 'ü']),
	('[[.a] and [[=a]', '^[[.a][[=a]$', ARRAY['[=', '.a'], ARRAY['b=']),
	('[[:<:] is no word boundary', '^[[:<:]$', ARRAY['<', ':'], ARRAY['', 'x']),
	('[] matches nothing', '[]', '{}', ARRAY['', 'a', ']']),
	('[^] matches anything', '^[^]$', ARRAY['a', E'\n', '😀'], ARRAY['']),
	('[]* is empty', '^a[]*b$', ARRAY['ab'], ARRAY['a]b']),
	('a backspace', '^[\b]$', ARRAY[E'\b'], ARRAY['b', '\']),
	('escapes of brackets', '^[\]\[\\\-\^\x41\u{1F600}\uD83D\uDE01]+$', ARRAY['][\-^A😀😁'], ARRAY['😂', 'x']),
	('a range of surrogate pairs', '^[\uD83D\uDE00-\uD83D\uDE02]$', ARRAY['😀', '😁', '😂'], ARRAY['😃', 'a']),
	('a range of characters beyond the BMP', '^[🐲-🐴]$', ARRAY['🐳'], ARRAY['🐵']),
	('classes by letter', '^[\d\s]+$', ARRAY[E'1\u00a0'], ARRAY['a', '٣']),
	('the rest of classes', '^[\D]$', ARRAY['a', '٣'], ARRAY['1']),
	('a class and its rest is everything', '^[\s\S]$', ARRAY['a', E'\n', '😀'], ARRAY['']),
	('the rest of a rest', '^[^\W]$', ARRAY['a', '_'], ARRAY['é', '-']),
	('the rest of two', '^[^\S\d]$', ARRAY[' ', E'\u3000'], ARRAY['1', 'a']),
	('a rest and a member', '^[\Wa]$', ARRAY['a', 'é', '-'], ARRAY['b', '0'])
) v (claim, pattern, these, from_those);

-- Properties.
SELECT claim, tells(pattern, these, from_those) AS holds FROM (VALUES
	('long names', '^\p{Letter}+$', ARRAY['Hello', 'π', '日本'], ARRAY['123', '']),
	('short names', '^\p{Lu}\p{Ll}$', ARRAY['Éa', 'Жж'], ARRAY['éa', 'EA']),
	('lower-case names', '^\p{digit}+$', ARRAY['42', '৪২', '٣'], ARRAY['-%#', '½']),
	('and punctuation', '^\p{punct}$', ARRAY['!', '«', '_'], ARRAY['+', 'a']),
	('names of sets', '^\p{LC}\p{Cased_Letter}$', ARRAY['aǅ'], ARRAY['日a']),
	('the property of the value', '^\p{gc=Nd}\p{General_Category=Decimal_Number}$', ARRAY['1٣'], ARRAY['1a']),
	('the rest', '^\P{L}$', ARRAY['1', '😀', E'\n'], ARRAY['a', 'π']),
	('within brackets', '^[\p{L}\p{Nd}_]+$', ARRAY['aπ1٣_'], ARRAY['-', '½']),
	('the rest within brackets', '^[\P{L}a]$', ARRAY['1', 'a'], ARRAY['b', 'é']),
	('the rest of the rest', '^[^\P{L}]$', ARRAY['b', 'é'], ARRAY['1', '😀']),
	('beyond the BMP', '^\p{L}\p{So}$', ARRAY['𝒜😀'], ARRAY['😀𝒜']),
	('the edges of ranges', '^\p{Lu}+$', ARRAY['AZÀÖØÞ'], ARRAY['@', '[', '×', 'ß']),
	('Any, ASCII, Assigned', '^\p{Any}\p{ASCII}\p{Assigned}$', ARRAY[E'\na1', '😀~é'], ARRAY['aéa', E'aa\u0378']),
	('Alphabetic is more than letters', '^\p{Alphabetic}\p{Alpha}$', ARRAY['aⅣ', 'ⓐʰ'], ARRAY['a1']),
	('Lowercase and Uppercase too', '^\p{Lowercase}\p{Uppercase}$', ARRAY['aB', 'ⓐⒶ', 'ªⅣ'], ARRAY['Ab']),
	('White_Space has not all that \s has', '^\p{White_Space}$', ARRAY[' ', E'\u0085', E'\u3000'], ARRAY[E'\ufeff']),
	('scripts', '^\p{Script=Greek}\p{sc=Cyrl}\p{Script=Latin}$', ARRAY['πжa'], ARRAY['aaa']),
	('a character of many scripts', '^\p{scx=Deva}\p{Script_Extensions=Deva}$', ARRAY['क।'], ARRAY['aक']),
	('and its own script', '^\p{sc=Deva}\P{scx=Zyyy}$', ARRAY['क।'], ARRAY['।क', 'क1']),
	('letters with accents', '\p{Letter}cole', ARRAY['les écoles', 'ecole'], ARRAY['1cole'])
) v (claim, pattern, these, from_those);

-- Groups and references.
SELECT claim, tells(pattern, these, from_those) AS holds FROM (VALUES
	('lookaheads', '^(?=.*\d)(?!.*x)\w+$', ARRAY['a1'], ARRAY['a', 'a1x']),
	('lookbehinds', '(?<=\$)\d(?<!9)', ARRAY['$1'], ARRAY['1', '$9']),
	('references', '^(a|b)(c)\2\1$', ARRAY['acca', 'bccb'], ARRAY['accb', 'acac']),
	('those that digits follow', '^(a)\1[1]\x30$', ARRAY['aa10'], ARRAY['a0']),
	('those that quantifiers follow', '^(a|b)\1{2}\1*$', ARRAY['aaa', 'bbbb'], ARRAY['aa', 'aab']),
	('named groups', '^(?<year>\d+)-(?<größe>\d)\k<year>\k<größe>$', ARRAY['12-3123'], ARRAY['12-3124']),
	('groups that nothing refers to are counted', '^(x)(y)(?:z)(?<n>w)\2\3$', ARRAY['xyzwyw'], ARRAY['xyzwxy']),
	('those of lookaheads too', '^(?=(a))(a)\2$', ARRAY['aa'], ARRAY['a']),
	('a reference forward is empty', '^\2(a)(b)$', ARRAY['ab'], ARRAY['bab']),
	('by name too', '^\k<n>(?<n>a)$', ARRAY['a'], ARRAY['aa']),
	('within its group it is empty', '^(a\1)$', ARRAY['a'], ARRAY['aa']),
	('to another branch it is empty', '^(?:(a)|b\1)$', ARRAY['a', 'b'], ARRAY['ba', 'bb']),
	('repeated groups have what they matched last', '^(?:(a|b)-)+\1$', ARRAY['a-b-b'], ARRAY['a-b-a']),
	('an empty group is repeated', '^()(?:x?\1){2}$', ARRAY['', 'x', 'xx'], ARRAY['xxx']),
	('a reference is found anywhere in a text', '(a|b)(a|b)\2|$', ARRAY['abab', 'abb', ''], '{}')
) v (claim, pattern, these, from_those);

-- Repetitions, also more than PostgreSQL takes.
SELECT claim, tells(pattern, these, from_those) AS holds FROM (VALUES
	('bounds', '^a{2}b{1,2}c{0,1}d{2,}$', ARRAY['aabdd', 'aabbcddd'], ARRAY['abdd', 'aabbbdd', 'aabd']),
	('none', '^a{0}b{0,0}$', ARRAY[''], ARRAY['a', 'b']),
	('just so many', '^x{300}$', ARRAY[repeat('x', 300)], ARRAY[repeat('x', 299), repeat('x', 301)]),
	('at least so many', '^x{256,}$', ARRAY[repeat('x', 256), repeat('x', 900)], ARRAY[repeat('x', 255)]),
	('at most so many', '^x{0,1000}$', ARRAY['', repeat('x', 255), repeat('x', 1000)], ARRAY[repeat('x', 1001)]),
	('from so many to so many', '^.{1,500}$', ARRAY['x', repeat('é', 500)], ARRAY['', repeat('x', 501), E'x\n']),
	('of a group', '^(?:ab|c){300,1000}$', ARRAY[repeat('ab', 300), repeat('c', 1000)], ARRAY[repeat('ab', 299), repeat('c', 1001), repeat('ab', 300) || 'a']),
	('of a property', '^\p{Lu}{1,300}$', ARRAY[repeat('É', 300)], ARRAY[repeat('É', 301)]),
	('of a repetition', '^(?:a{20}){20}$', ARRAY[repeat('a', 400)], ARRAY[repeat('a', 399)]),
	('of a reference', '^(a|b)\1{256}$', ARRAY[repeat('a', 257), repeat('b', 257)], ARRAY[repeat('a', 256)])
) v (claim, pattern, these, from_those);
-- Every length, where PostgreSQL's own repetitions are written in another way.
SELECT least, most, (SELECT string_agg(n::text, ' ') FROM generate_series(0, most + 3) n
	WHERE tells(format('^a{%s,%s}$', least, most), ARRAY[repeat('a', n)]) <> (n BETWEEN least AND most)) AS wrong
FROM (VALUES (0, 7), (0, 8), (3, 100), (0, 101), (0, 203), (0, 255), (1, 256), (255, 257), (256, 555), (510, 511)) v (least, most);
SELECT tells('^.{1,10000}$', ARRAY[repeat('a', 10000)], ARRAY[repeat('a', 10001)]) AS ten_thousand;

-- Names of properties of objects.
SELECT instance, prod_analytics.jsonb_matches_schema('{"patternProperties": {"^\\p{Lu}": {"type": "integer"}, "[0-9]{2,}": false, "X_": {"type": "string"}, "^🐲*$": {"type": "integer"}}}', instance)
FROM (VALUES ('{"École": 1}'::jsonb), ('{"École": "1"}'), ('{"école": "1"}'), ('{"a31b": 1}'), ('{"a3b": 1}'), ('{"a_X_3": "x"}'), ('{"a_X_3": 3}'), ('{"a_x_3": 3}'), ('{"": 1, "🐲": 2}'), ('{"": 1, "🐲": "2"}')) v (instance);

-- Texts of any length and kind.
SELECT length, tells('^[^é]*b$', ARRAY[repeat('a', length) || 'b'], ARRAY[repeat('a', length), repeat('a', length) || 'é', repeat('a', length) || 'éb']) AS holds
FROM unnest(ARRAY[0, 1, 510, 511, 512, 513, 100000]) length;

-- error: escapes that ECMA-262 does not have
SELECT pattern, problem(pattern) FROM unnest('{"\\a", "\\A", "\\Z", "\\z", "\\e", "\\m", "\\M", "\\y", "\\Y", "\\h", "\\K", "\\Q", "\\G", "[\\B]", "[\\y]", "\\8", "[\\1]", "\\00", "\\k", "\\c1", "\\c", "\\x4", "\\u004", "\\u{}", "\\u{110000}", "\\u{41", "\\U00000041", "\\", "[\\"}'::text[]) pattern;
-- error: properties that are not known or not complete
SELECT pattern, problem(pattern) FROM unnest('{"\\p{Foo}", "\\P{letter}", "[\\p{Greek}]", "\\p{Script=Lu}", "\\p{gc=Greek}", "\\p{x=Lu}", "\\p{Script}", "\\p{}", "\\p", "\\pL", "\\p{Lu", "\\p{L u}", "\\p{^Lu}", "\\p{=Lu}"}'::text[]) pattern;
-- error: brackets
SELECT pattern, problem(pattern) FROM unnest('{"[", "[a", "[^", "]", "[[:alpha:]]", "[[=a=]]", "[[.a.]]", "[[:<:]]", "[b-a]", "[a-\\d]", "[\\w-.]", "[\\p{L}-z]"}'::text[]) pattern;
-- error: groups
SELECT pattern, problem(pattern) FROM unnest('{"(", ")", "(a))", "(?", "(?i)a", "(?i:a)", "(?#a)", "(?>a)", "(?P<a>b)", "(?<a", "(?<>a)", "(?<1a>b)", "(?<a>b)(?<a>c)", "(?<a-b>c)"}'::text[]) pattern;
-- error: references
SELECT pattern, problem(pattern) FROM unnest('{"\\1", "(a)\\2", "\\k<a>(b)", "\\k<a", "(?:(a)|b)\\1", "(a)?\\1", "(?=(a))\\1", "(a)(?=\\1)", "(a*){2}\\1", "((a)b){256}\\2"}'::text[]) pattern;
-- error: quantifiers
SELECT pattern, problem(pattern) FROM unnest('{"*", "+a", "?", "a**", "a{2}{3}", "a+*", "^*", "\\b+", "(?=a)*", "(?<=a){2}", "a|*", "(*)", "{", "{1}", "a{", "a{,5}", "a{1", "a{1,2", "a{x}", "}", "a{2,1}", "***:a", "***=a"}'::text[]) pattern;

-- error: too much, each told before it costs much
SET statement_timeout = '15min';
SELECT what, left(problem(pattern), 120) AS problem FROM (VALUES
	('a long pattern', repeat('a', 10000000)),
	('many characters', repeat('a', 12001)),
	('many repetitions', 'a{999999999999999999999}'),
	('repetitions of repetitions', '((a{100}){100}){100}'),
	('many properties', repeat('\p{L}', 3000)),
	('deep groups', repeat('(', 10000) || repeat(')', 10000)),
	('deep lookaheads', repeat('(?=', 10000) || repeat(')', 10000)),
	('a long name', '\p{' || repeat('a', 90000) || '}')
) v (what, pattern);
-- and what is large but not too much
SELECT what, problem(pattern) FROM (VALUES
	('a class of many', '[^' || repeat('\p{L}\P{L}', 5000) || ']'),
	('a long class', '[' || repeat('aé', 30000) || ']'),
	('a repeated property', '^\p{L}{300}\p{L}{0,10000}$'),
	('many references', repeat('(a)', 300) || repeat('\1\2\3', 100)),
	('branches', repeat('a|', 5000)),
	('groups', repeat('(', 500) || repeat(')', 500))
) v (what, pattern);
RESET statement_timeout;
-- What is told of a pattern is not cut within a character.
SELECT problem(repeat('é', 60) || '(') = '22023 a parenthesis ( is not closed' AS cut;

DROP FUNCTION tells(text, text[], text[]);
DROP FUNCTION problem(text);
