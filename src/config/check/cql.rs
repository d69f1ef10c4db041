//! Scans a CQL statement for its words and markers, without understanding it; SQLite's statements have the same shape.
//!
//! CQL's lexical rules: <https://cassandra.apache.org/doc/latest/cassandra/developing/cql/definitions.html>.

use std::ops::Range;

/// A part of a statement outside of comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword or an unquoted name.
    Word(&'a str),
    /// `:name`
    Marker(&'a str),
    /// `?`
    Positional,
    /// A name between double quotes, as it stands there.
    Quoted(&'a str),
    /// A string.
    Literal,
    /// A number, or another constant that begins with a digit.
    Number,
    /// Any other character.
    Symbol(char),
}

impl Token<'_> {
    /// Whether this is the keyword, in any case.
    pub(super) fn is(self, keyword: &str) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// The name that it may be, as the database keeps it.
    fn name(self) -> Option<String> {
        match self {
            Self::Word(name) => Some(name.to_ascii_lowercase()),
            Self::Quoted(name) => Some(name.to_owned()),
            Self::Marker(_) | Self::Positional | Self::Literal | Self::Number | Self::Symbol(_) => None,
        }
    }
}

/// The tokens of a statement, with their bytes.
pub(super) fn tokens(text: &str) -> Vec<(Token<'_>, Range<usize>)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, length) = if first.is_ascii_digit() {
            (
                Some(Token::Number),
                rest.find(|c: char| !(c.is_alphanumeric() || c == '.'))
                    .unwrap_or(rest.len()),
            )
        } else if first.is_alphabetic() || first == '_' {
            let word = word(rest);
            (Some(Token::Word(&rest[..word])), word)
        } else if first == ':' && word(&rest[1..]) > 0 {
            let word = word(&rest[1..]);
            (Some(Token::Marker(&rest[1..=word])), word + 1)
        } else if first == '"' {
            let length = quoted(rest, first);
            let name = &rest[1..length];
            (Some(Token::Quoted(name.strip_suffix('"').unwrap_or(name))), length)
        } else if first == '\'' {
            (Some(Token::Literal), quoted(rest, first))
        } else if let Some(body) = rest.strip_prefix("$$") {
            (Some(Token::Literal), body.find("$$").map_or(rest.len(), |end| end + 4))
        } else if rest.starts_with("--") || rest.starts_with("//") {
            (None, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (None, rest.find("*/").map_or(rest.len(), |end| end + 2))
        } else if first == '?' {
            (Some(Token::Positional), 1)
        } else {
            (
                (!first.is_whitespace()).then_some(Token::Symbol(first)),
                first.len_utf8(),
            )
        };
        if let Some(token) = token {
            tokens.push((token, at..at + length));
        }
        at += length;
    }
    tokens
}

fn word(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len())
}

/// The length of a string or quoted name; its quote doubled stands for itself.
fn quoted(text: &str, quote: char) -> usize {
    let mut at = 1;
    while let Some(end) = text[at..].find(quote) {
        at += end + 1;
        if !text[at..].starts_with(quote) {
            return at;
        }
        at += 1;
    }
    text.len()
}

/// The tables that a statement names, as `keyspace.table` where the keyspace is known: what a write changes comes first.
pub(super) fn tables(text: &str, keyspace: Option<&str>) -> Vec<String> {
    let tokens = tokens(text);
    let name = |index: usize| tokens.get(index)?.0.name();
    let is_dot = |index: usize| matches!(tokens.get(index), Some((Token::Symbol('.'), _)));
    let introduces = |index: &usize| {
        let (token, _) = &tokens[*index];
        ["from", "join", "into", "update"].iter().any(|word| token.is(word))
    };
    let table = |index: usize| {
        let first = name(index + 1)?;
        let second = is_dot(index + 2).then(|| name(index + 3)).flatten();
        Some(match (second, keyspace) {
            (Some(second), _) => format!("{first}.{second}"),
            (None, Some(keyspace)) => format!("{}.{first}", kept(keyspace)),
            (None, None) => first,
        })
    };
    (0..tokens.len()).filter(introduces).filter_map(table).collect()
}

/// The columns that an insertion or an update names as written, the key's among them in an insertion. None where they cannot be seen, and for a deletion.
pub(super) fn written(text: &str) -> Option<Vec<String>> {
    let tokens = tokens(text);
    let word = |keyword: &str| tokens.iter().position(|(token, _)| token.is(keyword));
    let symbol = |wanted: char| tokens.iter().position(|(token, _)| *token == Token::Symbol(wanted));
    let listed = if tokens.first()?.0.is("insert") {
        symbol('(')? + 1..symbol(')')?
    } else {
        word("set")? + 1..word("where")?
    };
    let mut columns = Vec::new();
    let (mut begins, mut depth) = (true, 0);
    for token in tokens.get(listed)? {
        if begins {
            columns.push(token.0.name()?);
        }
        begins = depth == 0 && token.0 == Token::Symbol(',');
        match token.0 {
            Token::Symbol('(' | '[' | '{') => depth += 1,
            Token::Symbol(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
    }
    Some(columns)
}

/// A name as the database keeps it: its case counts between double quotes alone.
fn kept(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => quoted.to_owned(),
        None => name.to_ascii_lowercase(),
    }
}

/// Why a write gives another row when it is repeated, and where that can be seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unrepeatable {
    pub(super) reason: &'static str,
    pub(super) range: Range<usize>,
    /// The columns on which it is harmless, if any: only the table's schema tells what this one is.
    pub(super) unless: Option<&'static str>,
}

/// Functions that give another value each time.
const VOLATILE: [&str; 9] = [
    "now",
    "uuid",
    "currenttimestamp",
    "currentdate",
    "currenttime",
    "currenttimeuuid",
    "current_timestamp",
    "current_date",
    "current_time",
];

/// What keeps a write from being repeated: a condition, a counter or list operation, a function of the moment.
pub(super) fn unrepeatable(tokens: &[(Token<'_>, Range<usize>)]) -> Option<Unrepeatable> {
    let at = |index: usize| tokens.get(index).map(|(token, _)| *token);
    let insert = at(0).is_some_and(|token| token.is("insert"));
    for (index, (token, range)) in tokens.iter().enumerate() {
        let found = |reason, last: usize, unless| {
            let end = tokens.get(last).map_or(range.end, |(_, range)| range.end);
            Some(Unrepeatable {
                reason,
                range: range.start..end,
                unless,
            })
        };
        if token.is("if") {
            return found(
                "a condition (`IF`) is a lightweight transaction, whose answer changes once it has been applied",
                index,
                None,
            );
        }
        if let (Token::Word(function), Some(Token::Symbol('('))) = (*token, at(index + 1))
            && VOLATILE.iter().any(|volatile| volatile.eq_ignore_ascii_case(function))
        {
            return found("this function gives another value each time", index, None);
        }
        if insert {
            continue;
        }
        if let Some(last) = deleted(tokens, index) {
            return found(
                "an element of a list deleted by its index: a second time it is another one",
                last,
                Some("a map"),
            );
        }
        // `x = x + …`, `x = … + x` and `x += …`: a counter, or an append or prepend to a list. What is taken from a list is gone, however often.
        let Some(column) = token.name() else {
            continue;
        };
        let own = |token: Option<Token<'_>>| token.and_then(Token::name).is_some_and(|name| name == column);
        let short = match at(index + 1) {
            Some(Token::Symbol(sign @ ('+' | '-'))) => Some(sign),
            _ => None,
        };
        if at(index + 1 + usize::from(short.is_some())) != Some(Token::Symbol('=')) {
            continue;
        }
        let (sign, operand) = match (short, at(index + 2), at(index + 3), at(index + 4)) {
            (Some(sign), _, Some(operand), _) => (sign, operand),
            (_, first, Some(Token::Symbol(sign @ ('+' | '-'))), Some(operand)) if own(first) => (sign, operand),
            (_, Some(operand), Some(Token::Symbol('+')), last) if own(last) => ('+', operand),
            // A list literal of any length before `+ x`: only its beginning matters.
            (_, Some(Token::Symbol('[')), ..) if prepends(&tokens[index + 2..], &column) => ('+', Token::Symbol('[')),
            _ => continue,
        };
        let last = index + if short.is_some() { 3 } else { 4 };
        match (sign, operand) {
            (_, Token::Symbol('{')) | ('-', Token::Symbol('[')) => {}
            (_, Token::Marker(_) | Token::Positional) => {
                let (reason, unless) = match sign {
                    '-' => (
                        "a repeated `x = x - …` counts twice on a counter",
                        "a set, a map or a list",
                    ),
                    _ => (
                        "a repeated `x = x + …` counts twice on a counter or a list",
                        "a set or a map",
                    ),
                };
                return found(reason, last, Some(unless));
            }
            _ => {
                return found("a counter update or a list append takes effect each time", last, None);
            }
        }
    }
    None
}

/// Where an element is deleted by what may be the index of a list (`DELETE l[0] FROM …`), if its column stands at `index`. A text is the key of
/// a map. One that is written (`SET m[0] = …`) is mostly a map's: whether it is a list's is left to the database, which knows.
fn deleted(tokens: &[(Token<'_>, Range<usize>)], index: usize) -> Option<usize> {
    let at = |index: usize| tokens.get(index).map(|(token, _)| *token);
    let from = tokens.iter().position(|(token, _)| token.is("from"))?;
    let place = at(0).is_some_and(|token| token.is("delete")) && (1..from).contains(&index);
    let name =
        matches!(at(index), Some(Token::Word(_) | Token::Quoted(_))) && at(index + 1) == Some(Token::Symbol('['));
    let key = matches!(
        at(index + 2),
        Some(Token::Marker(_) | Token::Positional | Token::Number)
    );
    (place && name && key).then_some(index + 3)
}

/// Whether the list literal that `tokens` begins with is followed by `+ column`.
fn prepends(tokens: &[(Token<'_>, Range<usize>)], column: &str) -> bool {
    let close = tokens.iter().position(|(token, _)| *token == Token::Symbol(']'));
    let Some([(plus, _), (word, _)]) = close.and_then(|close| tokens.get(close + 1..close + 3)) else {
        return false;
    };
    *plus == Token::Symbol('+') && word.name().is_some_and(|name| name == column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certain(cql: &str) -> Option<bool> {
        unrepeatable(&tokens(cql)).map(|found| found.unless.is_none())
    }

    #[test]
    fn conditions_counters_and_lists_are_not_repeatable() {
        assert_eq!(certain("UPDATE t SET n = n + 1 WHERE id = :id"), Some(true));
        assert_eq!(certain("update t set n=n-:d where id=:id"), Some(false));
        assert_eq!(certain("UPDATE t SET l = l + ['a'] WHERE id = :id"), Some(true));
        assert_eq!(certain("UPDATE t SET l = ['a', 'b'] + l WHERE id = :id"), Some(true));
        assert_eq!(certain("UPDATE t SET l = :x + l WHERE id = :id"), Some(false));
        assert_eq!(certain("UPDATE t SET n += 1 WHERE id = :id"), Some(true));
        assert_eq!(certain("update t set a = :a, n-=:d where id=:id"), Some(false));
        assert_eq!(certain("UPDATE t SET l += ['a'] WHERE id = :id"), Some(true));
        assert_eq!(certain("UPDATE t SET \"N\" = \"N\" + 1 WHERE id = :id"), Some(true));
        assert_eq!(certain("UPDATE t SET \"l\" = :x + l WHERE id = :id"), Some(false));
        assert_eq!(certain("UPDATE t SET \"L\" = ['a'] + \"L\" WHERE id = :id"), Some(true));
        assert_eq!(certain("UPDATE t SET a = :a, \"N\" += :d WHERE id = :id"), Some(false));
        assert_eq!(certain("INSERT INTO t (a) VALUES (:a) IF NOT EXISTS"), Some(true));
        assert_eq!(certain("INSERT INTO t (a, b) VALUES (:a, uuid())"), Some(true));
    }

    #[test]
    fn an_element_that_is_deleted_may_be_one_of_a_list() {
        assert_eq!(certain("DELETE l[0] FROM t WHERE id = :id"), Some(false));
        assert_eq!(certain("delete a, \"L\"[:i] from t where id = :id"), Some(false));
        assert_eq!(certain("DELETE m['key'] FROM t WHERE id = :id"), None);
        assert_eq!(certain("DELETE a, b FROM t WHERE id = :id"), None);
        assert_eq!(certain("UPDATE t SET m[0] = :x WHERE id = :id"), None);
    }

    #[test]
    fn plain_writes_and_sets_are_repeatable() {
        assert_eq!(certain("INSERT INTO t (a) VALUES (:a)"), None);
        assert_eq!(certain("UPDATE t SET s = s + {'a'} WHERE id = :id"), None);
        assert_eq!(certain("UPDATE t SET s += {'a'}, m -= {'b'} WHERE id = :id"), None);
        assert_eq!(certain("UPDATE t SET l = l - ['a'], m -= ['b'] WHERE id = :id"), None);
        assert_eq!(certain("UPDATE t SET a = -1 WHERE id = :id"), None);
        assert_eq!(certain("UPDATE t SET \"S\" = \"S\" + {'a'} WHERE id = :id"), None);
        assert_eq!(certain("UPDATE t SET a = 'x = x + 1 IF' WHERE id = :id -- IF"), None);
        assert_eq!(certain("DELETE FROM \"IF\" WHERE id = $$IF$$ /* IF */"), None);
    }

    #[test]
    fn tables_are_those_of_their_keyspace() {
        let cases: [(&str, Option<&str>, &[&str]); 9] = [
            ("SELECT a FROM Users WHERE id = :id", None, &["users"]),
            ("SELECT a FROM users WHERE id = :id", Some("Shop"), &["shop.users"]),
            ("SELECT a FROM users WHERE id = :id", Some("\"Shop\""), &["Shop.users"]),
            (
                "INSERT INTO crm.\"Users\" (id) VALUES (:id)",
                Some("shop"),
                &["crm.Users"],
            ),
            ("update users set a = 'from x' where id = :id", None, &["users"]),
            ("DELETE a FROM users -- FROM x\nWHERE id = :id", None, &["users"]),
            ("SELECT a FROM t JOIN u ON t.id = u.id", None, &["t", "u"]),
            ("SELECT a FROM (SELECT b FROM t)", None, &["t"]),
            ("SELECT a FROM", None, &[]),
        ];
        for (cql, keyspace, wanted) in cases {
            assert_eq!(tables(cql, keyspace), wanted, "{cql}");
        }
    }

    #[test]
    fn columns_that_are_written_are_those_that_are_named() {
        let cases: [(&str, Option<&[&str]>); 9] = [
            (
                "INSERT INTO t (Id, \"Name\") VALUES (:id, :n) IF NOT EXISTS",
                Some(&["id", "Name"]),
            ),
            ("insert into k.t (id) values (:id)", Some(&["id"])),
            (
                "UPDATE t USING TTL 5 SET a = :a, m[:k] = :v, u.f = 'x, y = 1' WHERE id = :id IF b = 1",
                Some(&["a", "m", "u"]),
            ),
            (
                "UPDATE t SET l = l + [1, 2], u = {f: :f, g: f(:a, :b)}, n += 1 WHERE id = :id",
                Some(&["l", "u", "n"]),
            ),
            ("INSERT INTO t JSON :row", None),
            ("DELETE FROM t WHERE id = :id", None),
            ("DELETE a FROM t WHERE id = :id", None),
            ("UPDATE t SET", None),
            ("", None),
        ];
        for (cql, wanted) in cases {
            let found = written(cql);
            let found: Option<Vec<&str>> = found.as_ref().map(|names| names.iter().map(String::as_str).collect());
            assert_eq!(found.as_deref(), wanted, "{cql}");
        }
    }

    #[test]
    fn markers_are_found_outside_of_strings() {
        let markers: Vec<_> = tokens("SELECT a FROM t WHERE b = :b AND c = ':c' AND d={'k': :d}")
            .into_iter()
            .filter_map(|(token, _)| {
                if let Token::Marker(name) = token {
                    Some(name)
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(markers, ["b", "d"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_the_scan(text in "\\PC*", code in "[a-zI=+:?'\"$/*\\[\\] -]*") {
            unrepeatable(&tokens(&text));
            unrepeatable(&tokens(&code));
            written(&text);
            written(&code);
            tables(&text, None);
            tables(&code, Some(&text));
        }
    }
}
