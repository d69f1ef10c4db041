//! The page size of a look-up: how many rows the server sends at a time.
//!
//! Received rows are held in memory, so a look-up of the first row should receive only that one, and one of many rows no more than it needs. When the
//! server aggregates over many rows it reads them by pages of the same size, so there they are larger. Invariant: a function counts as an aggregate
//! unless it is known to compute one value from one row.

use crate::store::cql::{Scanned, TokenKind};
use crate::store::{Rows, StoreError};

/// The most rows of one page, if a look-up takes many.
const PAGE: i32 = 1000;

/// Functions that compute one value from one row, as Cassandra and ScyllaDB name them, without underscores. Also the words that may precede a tuple.
const OF_ONE_ROW: [&str; 38] = [
    "select",
    "distinct",
    "abs",
    "cast",
    "collectionavg",
    "collectioncount",
    "collectionmax",
    "collectionmin",
    "collectionsum",
    "currentdate",
    "currenttime",
    "currenttimestamp",
    "currenttimeuuid",
    "dateof",
    "exp",
    "floor",
    "fromjson",
    "log",
    "log10",
    "mapkeys",
    "mapvalues",
    "maxtimeuuid",
    "maxwritetime",
    "mintimeuuid",
    "now",
    "round",
    "similaritycosine",
    "similaritydotproduct",
    "similarityeuclidean",
    "todate",
    "tojson",
    "token",
    "totimestamp",
    "tounixtimestamp",
    "ttl",
    "unixtimestampof",
    "uuid",
    "writetime",
];

/// Whether the select list may call an aggregate: `count` and the like, or a user-defined function.
pub(super) fn may_aggregate(scanned: &Scanned<'_>) -> bool {
    let from = scanned.find_word("from").unwrap_or(scanned.tokens.len());
    let unknown = |i: usize| match scanned.tokens[i].kind {
        TokenKind::Word => {
            let name = scanned.str(i).to_ascii_lowercase().replace('_', "");
            let of_keyspace = i > 0 && scanned.is_symbol(i - 1, '.');
            let of_one_row =
                OF_ONE_ROW.contains(&name.as_str()) || name.starts_with("blobas") || name.ends_with("asblob");
            of_keyspace || !of_one_row
        }
        TokenKind::QuotedName => true,
        _ => false,
    };
    (1..from).any(|i| scanned.is_symbol(i, '(') && unknown(i - 1))
}

/// The number of rows in a page of a look-up's result.
pub(super) fn page(rows: Rows) -> i32 {
    match rows {
        Rows::First => 1,
        // One more than wanted shows that there are more.
        Rows::List { max, .. } => i32::try_from(max.saturating_add(1)).unwrap_or(PAGE).min(PAGE),
    }
}

/// Whether the server sorts a look-up's rows over several partitions. It does not page such results, and refuses requests for pages of them. All rows then
/// arrive at once, so the statement has to limit their number.
pub(super) fn is_unpaged(scanned: &Scanned<'_>, partition_key: &[String], page: i32) -> Result<bool, StoreError> {
    if !scanned.sorts_partitions(partition_key.iter().map(String::as_str)) {
        return Ok(false);
    }
    if scanned.is_limited(page) {
        return Ok(true);
    }
    let key = partition_key.join(", ");
    let limit = if page == 1 {
        "1".to_owned()
    } else {
        format!("{page} or less")
    };
    let message = format!(
        "it sorts rows of several partitions (ORDER BY beside IN on {key}), of which the database gives no pages: add LIMIT {limit}, or remove one of the two"
    );
    Err(StoreError::permanent("invalid", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cql::scan;

    #[test]
    fn rows_that_are_sorted_over_several_partitions_come_at_once_and_are_few() {
        let key = ["k".to_owned()];
        let list = page(Rows::List {
            max: 3,
            truncate: false,
        });
        let unpaged = |cql: &str, page| is_unpaged(&scan(cql), &key, page);
        assert_eq!(unpaged("SELECT a FROM t WHERE k = :k ORDER BY c", 1), Ok(false));
        assert_eq!(
            unpaged("SELECT a FROM t WHERE k IN :ks ORDER BY c LIMIT 1", 1),
            Ok(true)
        );
        assert_eq!(
            unpaged("SELECT a FROM t WHERE k IN :ks ORDER BY c LIMIT 4", list),
            Ok(true)
        );
        for (cql, page, remedy) in [
            ("SELECT a FROM t WHERE k IN :ks ORDER BY c", 1, "LIMIT 1,"),
            ("SELECT a FROM t WHERE k IN :ks ORDER BY c LIMIT 2", 1, "LIMIT 1,"),
            (
                "SELECT a FROM t WHERE k IN :ks ORDER BY c LIMIT 5",
                list,
                "LIMIT 4 or less",
            ),
        ] {
            let refused = unpaged(cql, page).unwrap_err().to_string();
            assert!(refused.contains(remedy), "{cql}: {refused}");
        }
    }

    #[test]
    fn what_makes_one_value_of_one_row_is_told_from_what_may_be_an_aggregate() {
        for (select, aggregate) in [
            ("a, b", false),
            ("a, writetime(a)", false),
            ("toUnixTimestamp(c), to_json(a)", false),
            ("CAST(a AS text), TTL(a) AS left", false),
            ("JSON a, blobAsInt(textAsBlob(b)), token(k)", false),
            ("(a, b), [a, b]", false),
            ("count(*)", true),
            ("a, MAX(writetime(a))", true),
            ("cast(count(*) AS text)", true),
            ("my_agg(a)", true),
            ("own.token(a)", true),
            ("\"token\"(a)", true),
        ] {
            let cql = format!("SELECT {select} FROM t WHERE k IN (:a, :b) AND c = f(:c)");
            assert_eq!(may_aggregate(&scan(&cql)), aggregate, "{cql}");
        }
    }
}
