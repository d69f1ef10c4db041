//! What can be learned from a CQL statement without a database: its tables, the columns that it writes, and why it is not idempotent. SQLite's
//! statements have the same form.

use std::ops::Range;

use crate::store::cql::{Scanned, TokenKind, kept, scan};

/// The tables that a statement names, as `keyspace.table` if the keyspace is known. The table that a write changes comes first.
pub(crate) fn tables(text: &str, keyspace: Option<&str>) -> Vec<String> {
    let s = scan(text);
    let introduces = |i: &usize| {
        let words = ["from", "join", "into", "update"];
        words.iter().any(|word| s.is_word(*i, word))
    };
    let table = |i: usize| {
        let first = s.name(i + 1)?;
        let second = s.is_symbol(i + 2, '.').then(|| s.name(i + 3)).flatten();
        Some(match (second, keyspace) {
            (Some(second), _) => format!("{first}.{second}"),
            (None, Some(keyspace)) => format!("{}.{first}", kept(keyspace)),
            (None, None) => first,
        })
    };
    (0..s.tokens.len()).filter(introduces).filter_map(table).collect()
}

/// The columns that an `INSERT` or `UPDATE` names; those of an `INSERT` include the key's. `None` if the columns cannot be found, and for a `DELETE`.
pub(crate) fn written(text: &str) -> Option<Vec<String>> {
    let s = scan(text);
    let symbol = |wanted: char| (0..s.tokens.len()).find(|i| s.is_symbol(*i, wanted));
    let listed = if s.is_word(0, "insert") {
        symbol('(')? + 1..symbol(')')?
    } else {
        s.first_word("set")? + 1..s.first_word("where")?
    };
    let mut columns = Vec::new();
    let (mut begins, mut depth) = (true, 0);
    for (i, token) in listed.clone().zip(s.tokens.get(listed)?) {
        if begins {
            columns.push(s.name(i)?);
        }
        begins = depth == 0 && token.kind == TokenKind::Symbol(',');
        match token.kind {
            TokenKind::Symbol('(' | '[' | '{') => depth += 1,
            TokenKind::Symbol(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
    }
    Some(columns)
}

/// Why repeating a write gives another row, and the part of the statement that shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unrepeatable {
    pub(super) reason: &'static str,
    pub(super) range: Range<usize>,
    /// The types of column with which it is harmless, if any. Only the table's schema tells which type this column has.
    pub(super) unless: Option<&'static str>,
}

/// What makes a write not repeatable: a condition, a counter or list operation, or a function whose value changes, such as `now()`.
pub(super) fn unrepeatable(text: &str) -> Option<Unrepeatable> {
    let s = scan(text);
    let at = |i: usize| s.tokens.get(i).map(|token| token.kind);
    let insert = s.is_word(0, "insert");
    for (i, token) in s.tokens.iter().enumerate() {
        let found = |reason, last: usize, unless| {
            let end = s.tokens.get(last).map_or(token.span.end, |last| last.span.end);
            Some(Unrepeatable {
                reason,
                range: token.span.start..end,
                unless,
            })
        };
        if s.is_word(i, "if") {
            return found(
                "a condition (`IF`) is a lightweight transaction, whose answer changes once it has been applied",
                i,
                None,
            );
        }
        if s.volatile(i).is_some() {
            return found("this function gives another value each time", i, None);
        }
        if insert {
            continue;
        }
        if let Some(last) = deleted(&s, i) {
            return found(
                "an element of a list deleted by its index: the second time, it is another element",
                last,
                Some("a map"),
            );
        }
        // `x = x + …`, `x = … + x` and `x += …` update a counter, or append or prepend to a list. Removing elements from a list can be repeated.
        let Some(column) = s.name(i) else {
            continue;
        };
        let own = |i: usize| s.name(i).is_some_and(|name| name == column);
        let short = match at(i + 1) {
            Some(TokenKind::Symbol(sign @ ('+' | '-'))) => Some(sign),
            _ => None,
        };
        if !s.is_symbol(i + 1 + usize::from(short.is_some()), '=') {
            continue;
        }
        let (sign, operand) = match (short, at(i + 2), at(i + 3), at(i + 4)) {
            (Some(sign), _, Some(operand), _) => (sign, operand),
            (_, _, Some(TokenKind::Symbol(sign @ ('+' | '-'))), Some(operand)) if own(i + 2) => (sign, operand),
            (_, Some(operand), Some(TokenKind::Symbol('+')), _) if own(i + 4) => ('+', operand),
            // A list literal of any length before `+ x`: the finding underlines only its beginning.
            (_, Some(list @ TokenKind::Symbol('[')), ..) if prepends(&s, i + 2, &column) => ('+', list),
            _ => continue,
        };
        let last = i + if short.is_some() { 3 } else { 4 };
        match (sign, operand) {
            (_, TokenKind::Symbol('{')) | ('-', TokenKind::Symbol('[')) => {}
            (_, TokenKind::Marker | TokenKind::Positional) => {
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

/// The end of an element deleted by what may be a list index (`DELETE l[0] FROM …`), if its column is token `i`. A string constant does not count: it is
/// the key of a map. An element that is set (`SET m[0] = …`) is usually a map's; the database, which knows the type, decides whether it is a list's.
fn deleted(s: &Scanned<'_>, i: usize) -> Option<usize> {
    let from = s.first_word("from")?;
    let place = s.is_word(0, "delete") && (1..from).contains(&i);
    let name = s.name(i).is_some() && s.is_symbol(i + 1, '[');
    let key = matches!(
        s.tokens.get(i + 2)?.kind,
        TokenKind::Marker | TokenKind::Positional | TokenKind::Constant
    );
    (place && name && key).then_some(i + 3)
}

/// Whether the list literal that begins at token `open` is followed by `+ column`.
fn prepends(s: &Scanned<'_>, open: usize, column: &str) -> bool {
    let close = (open..s.tokens.len()).find(|i| s.is_symbol(*i, ']'));
    close.is_some_and(|i| s.is_symbol(i + 1, '+') && s.name(i + 2).as_deref() == Some(column))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certain(cql: &str) -> Option<bool> {
        unrepeatable(cql).map(|found| found.unless.is_none())
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
        assert_eq!(
            certain("INSERT INTO t (a, b) VALUES (:a, CURRENT_TIMEUUID())"),
            Some(true)
        );
        assert_eq!(
            certain("UPDATE t SET \"a\"\"b\" = \"a\"\"b\" + 1 WHERE id = :id"),
            Some(true)
        );
        assert_eq!(certain("UPDATE t SET a = 'it''s' + a WHERE id = :id"), Some(true));
        // A table with the name of a function.
        assert_eq!(certain("INSERT INTO uuid (id) VALUES (:id)"), None);
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
        let cases: [(&str, Option<&str>, &[&str]); 10] = [
            ("SELECT a FROM Users WHERE id = :id", None, &["users"]),
            ("SELECT a FROM users WHERE id = :id", Some("Shop"), &["shop.users"]),
            ("SELECT a FROM users WHERE id = :id", Some("\"Shop\""), &["Shop.users"]),
            (
                "INSERT INTO crm.\"Users\" (id) VALUES (:id)",
                Some("shop"),
                &["crm.Users"],
            ),
            (
                "INSERT INTO \"a\"\"b\" (id) VALUES (:id)",
                Some("\"c\"\"d\""),
                &["c\"d.a\"b"],
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
    fn markers_are_found_outside_of_strings_and_comments() {
        let markers = |cql| scan(cql).markers().collect::<Vec<_>>();
        assert_eq!(
            markers("SELECT a FROM t WHERE b = :b AND c = ':c' AND d={'k': :d}"),
            ["b", "d"]
        );
        assert_eq!(markers("SELECT a FROM t /*/ WHERE b = :b */ WHERE c = :c /**/"), ["c"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_the_scan(text in "\\PC*", code in "[a-zI=+:?'\"$/*\\[\\] -]*") {
            unrepeatable(&text);
            unrepeatable(&code);
            written(&text);
            written(&code);
            tables(&text, None);
            tables(&code, Some(&text));
        }
    }
}
