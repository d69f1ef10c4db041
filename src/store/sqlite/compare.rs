//! Refuses comparisons that SQLite would make differently from CQL, because it compares the stored form.
//!
//! A `decimal` is stored as its digits and a `timeuuid` as text, whose order differs, and a date is text in CQL but stored as a number. Nothing would
//! fail; other rows would be found.
//!
//! Refuses look-ups without the first column of the primary key too, unless they are declared: CQL refuses those without the partition key.

use super::parse::{Change, Refused, Select, Term, column_name, compared_with};
use super::table::Table;
use crate::store::ColumnType;
use crate::store::cql::{Scanned, TokenKind, scan};

impl Select {
    /// Refuses a look-up that would find other rows than in CQL, or return them in another order.
    pub(super) fn refuse_other_order(&self, table: &Table) -> Refused<()> {
        let s = scan(&self.text);
        let order = s.find_word("order").filter(|i| s.is_word(i + 1, "by"));
        for (i, token) in s.tokens.iter().enumerate() {
            // A minus belongs to its number.
            let start = if i > 0 && s.is_symbol(i - 1, '-') { i - 1 } else { i };
            if let (Some(column), _) = compared_with(&s, start) {
                bindable_only(&column, &table.type_of(&column), token.kind, s.str(i))?;
            }
            let Ok(column) = column_name(&s, i..i + 1) else {
                continue;
            };
            let ty = table.type_of(&column);
            let is_of_extremes = is_given_to(&s, i, "min") || is_given_to(&s, i, "max");
            let ordered = order.is_some_and(|order| order < i) || is_ranged(&s, i) || is_of_extremes;
            if ordered && !is_in_order(&ty) {
                return Err(format!(
                    "column {column} is of type {ty}, which SQLite stores in a form that sorts differently: <, >, ORDER BY, min and max are not \
                     supported for it"
                ));
            }
            if is_summed(&s, i, &ty) {
                return Err(format!(
                    "column {column} is of type {ty}, whose sum and avg SQLite calculates differently from CQL"
                ));
            }
        }
        Ok(())
    }
}

impl Select {
    /// Refuses a look-up that leaves the first column of the primary key open, which stands for the partition key.
    pub(super) fn refuse_scan(&self, table: &Table) -> Refused<()> {
        let Some(key) = table.key().next() else {
            return Ok(());
        };
        match scan(&self.text).binds(|name| name.eq_ignore_ascii_case(key)) {
            true => Ok(()),
            false => Err(format!(
                "it reads {} without the first column of its primary key ({key}), so the whole table may be read for every record: bind that column, or \
                 declare scan = true",
                self.table
            )),
        }
    }
}

impl Change {
    /// Refuses literals that CQL reads and SQLite would store or compare as they are written.
    pub(super) fn refuse_stored_otherwise(&self, table: &Table) -> Refused<()> {
        for (column, term) in self.terms() {
            let Term::Literal(text) = term else { continue };
            let ty = table.type_of(column);
            let is_key = table.key().any(|key| key.eq_ignore_ascii_case(column));
            if !is_key && ty == ColumnType::Decimal && text.trim_start_matches('-').parse::<i64>().is_ok() {
                // A whole number reads back unchanged. In a key it would differ from a bound value.
                continue;
            }
            for token in scan(text).tokens {
                bindable_only(column, &ty, token.kind, text)?;
            }
        }
        Ok(())
    }
}

/// Refuses a literal whose form differs from the one in which the column's values are stored.
fn bindable_only(column: &str, ty: &ColumnType, literal: TokenKind, text: &str) -> Refused<()> {
    use ColumnType as C;
    let other = match literal {
        TokenKind::Text => matches!(ty, C::Date | C::Time | C::Timestamp | C::Blob),
        TokenKind::Constant => matches!(ty, C::Date | C::Blob | C::Decimal | C::Uuid | C::TimeUuid),
        _ => false,
    };
    match other {
        true => Err(format!(
            "column {column} is of type {ty}, which SQLite stores in another form than {text}: bind it, as :{column}"
        )),
        false => Ok(()),
    }
}

/// Whether the stored form sorts like the values.
fn is_in_order(ty: &ColumnType) -> bool {
    use ColumnType as C;
    !matches!(
        ty,
        C::Decimal
            | C::Varint
            | C::Uuid
            | C::TimeUuid
            | C::Inet
            | C::Duration
            | C::List(_)
            | C::Set(_)
            | C::Map(..)
            | C::Tuple(_)
            | C::Udt { .. }
            | C::Vector(..)
    )
}

/// Whether the column at token `i` is compared by order, alone or in `(a, b) > (:a, :b)`.
fn is_ranged(s: &Scanned<'_>, i: usize) -> bool {
    let mut next = i + 1;
    while s.is_symbol(next, ',') {
        next += 2;
    }
    if s.is_symbol(next, ')') {
        next += 1;
    }
    s.is_symbol(next, '<') || s.is_symbol(next, '>') || s.is_word(next, "between")
}

/// Whether it asks for a sum or an average of the column at token `i` that SQLite computes in floating point, but CQL exactly.
fn is_summed(s: &Scanned<'_>, i: usize, ty: &ColumnType) -> bool {
    use ColumnType as C;
    is_given_to(s, i, "sum") && matches!(ty, C::Decimal | C::Varint)
        || is_given_to(s, i, "avg") && !matches!(ty, C::Float | C::Double)
}

/// Whether token `i` is the first argument of this function.
fn is_given_to(s: &Scanned<'_>, i: usize, function: &str) -> bool {
    i >= 2 && s.is_symbol(i - 1, '(') && s.is_word(i - 2, function)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::parse::{change, select};
    use super::*;

    fn table() -> Table {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE t (k text, at timestamp, day date, time_of time, raw blob, total decimal, many varint,
                     id timeuuid, device uuid, ip inet, span duration, tags \"set<text>\", n bigint, score double,
                     PRIMARY KEY (k, id))",
            )
            .unwrap();
        Table::read(&connection, "t", "").unwrap()
    }

    #[test]
    fn look_ups_by_an_order_that_is_not_stored_are_refused() {
        let table = table();
        for (cql, column) in [
            ("SELECT k FROM t WHERE k = :k AND id > :id", "id"),
            ("SELECT k FROM t WHERE k = :k AND id <= :id", "id"),
            ("SELECT k FROM t WHERE k = :k AND (at, id) >= (:at, :id)", "id"),
            (
                "SELECT k FROM t WHERE k = :k AND (\"total\", at) < (:total, :at)",
                "total",
            ),
            ("SELECT k FROM t WHERE k = :k ORDER BY id DESC LIMIT 1", "id"),
            ("SELECT k FROM t WHERE k = :k ORDER BY at, ip", "ip"),
            ("SELECT max(total) AS most FROM t WHERE k = :k", "total"),
            ("SELECT k, MIN (many) FROM t WHERE k = :k", "many"),
            ("SELECT k FROM t WHERE device >= :d ALLOW FILTERING", "device"),
            ("SELECT k FROM t WHERE span < :s ALLOW FILTERING", "span"),
        ] {
            let refused = select(cql).unwrap().refuse_other_order(&table).unwrap_err();
            let wanted = format!("column {column} is of type {}", table.type_of(column));
            assert!(
                refused.starts_with(&wanted) && refused.contains("ORDER BY"),
                "{cql}: {refused}"
            );
        }
        for (cql, column) in [
            ("SELECT sum(total) FROM t WHERE k = :k", "total"),
            ("SELECT SUM( many ) FROM t WHERE k = :k", "many"),
            ("SELECT avg(n) AS mean FROM t WHERE k = :k", "n"),
        ] {
            let refused = select(cql).unwrap().refuse_other_order(&table).unwrap_err();
            assert!(
                refused.starts_with(&format!("column {column} ")) && refused.contains("sum and avg"),
                "{cql}: {refused}"
            );
        }
    }

    #[test]
    fn literals_that_are_stored_in_another_form_are_refused() {
        let table = table();
        for (cql, column) in [
            ("SELECT k FROM t WHERE k = :k AND at > '2026-05-01'", "at"),
            ("SELECT k FROM t WHERE day IN (:d, '2026-05-01')", "day"),
            ("SELECT k FROM t WHERE day = 2147483648", "day"),
            ("SELECT k FROM t WHERE time_of = '12:00:00'", "time_of"),
            ("SELECT k FROM t WHERE raw = 0xcafe", "raw"),
            ("SELECT k FROM t WHERE raw = 'cafe'", "raw"),
            ("SELECT k FROM t WHERE total = -1.50", "total"),
            ("SELECT k FROM t WHERE id = 11111111-1111-1111-1111-111111111111", "id"),
        ] {
            let refused = select(cql).unwrap().refuse_other_order(&table).unwrap_err();
            assert!(refused.contains(&format!("bind it, as :{column}")), "{cql}: {refused}");
        }
        for (cql, column) in [
            ("INSERT INTO t (k, id, at) VALUES (:k, :id, '2026-05-01')", "at"),
            ("UPDATE t SET total = -1.50 WHERE k = :k AND id = :id", "total"),
            (
                "DELETE FROM t WHERE k = :k AND id = 11111111-1111-1111-1111-111111111111",
                "id",
            ),
        ] {
            let refused = change(cql).unwrap().sql(&table).unwrap_err();
            assert!(refused.contains(&format!("bind it, as :{column}")), "{cql}: {refused}");
        }
    }

    #[test]
    fn a_look_up_without_the_first_column_of_the_key_is_refused() {
        let connection = Connection::open_in_memory().unwrap();
        let sql = "CREATE TABLE t (userId text, c int, a text, PRIMARY KEY (userId, c)); CREATE TABLE keyless (a text)";
        connection.execute_batch(sql).unwrap();
        let table = Table::read(&connection, "t", "").unwrap();
        for (cql, bound) in [
            ("SELECT a FROM t WHERE userId = :id", true),
            ("SELECT a FROM t WHERE c > 1 AND \"userId\" IN ('x', :id) LIMIT 1", true),
            ("SELECT userId FROM t", false),
            ("SELECT a FROM t WHERE c = :userId", false),
            ("SELECT a FROM t WHERE userId > :id ALLOW FILTERING", false),
        ] {
            let refused = select(cql).unwrap().refuse_scan(&table);
            assert_eq!(refused.is_ok(), bound, "{cql}: {refused:?}");
            if let Err(message) = refused {
                assert!(message.contains("primary key (userId)"), "{cql}: {message}");
            }
        }
        let keyless = Table::read(&connection, "keyless", "").unwrap();
        assert_eq!(select("SELECT a FROM keyless").unwrap().refuse_scan(&keyless), Ok(()));
    }

    #[test]
    fn what_is_compared_as_in_cql_is_taken() {
        let table = table();
        for cql in [
            "SELECT k, total FROM t WHERE k = :k AND id = :id AND ip = '::1'",
            "SELECT total, id, at FROM t WHERE at >= :at AND n < 7 AND k > 'it''s' ORDER BY at DESC LIMIT 3",
            "SELECT max(at) AS last, min(n), count(*), sum(n), avg(score) FROM t WHERE k = :k AND at < 1700000000000",
            "SELECT id FROM t WHERE id IN (:a, :b) AND raw > :raw AND score >= -1.5",
        ] {
            assert_eq!(select(cql).unwrap().refuse_other_order(&table), Ok(()), "{cql}");
        }
        for insert in [
            "INSERT INTO t (k, id, at, n, total) VALUES ('k', :id, 1700000000000, -1, null)",
            "INSERT INTO t (k, id, total) VALUES ('k', :id, -1)",
        ] {
            assert!(change(insert).unwrap().sql(&table).is_ok(), "{insert}");
        }
    }
}
