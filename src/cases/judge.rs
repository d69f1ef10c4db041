//! Compares the result of a record with the expectation of its case.
//!
//! Fields and columns that the expectation does not name are not compared. But it must name every effect: an unexpected row of a table, a dead letter,
//! or an outcome other than `done` fails the case. A `key` or `value` of null counts as named, and means that there must be none.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value as Json};

use super::from_json::instant;
use crate::store::convert::shorten;

/// The outcomes of a record.
pub(super) const OUTCOMES: [&str; 3] = ["done", "skipped", "dead_lettered"];
/// The result if the pipeline halts at the record.
pub(super) const HALTED: &str = "halted";

/// The effects of a record: the actual ones, or those that a case expects.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Effects {
    /// `done`, `skipped`, `dead_lettered` or `halted`. An expectation without it expects `done`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The output's key, as text. In an expectation, null means that there must be none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "named")]
    pub key: Option<Option<String>>,
    /// The output's value. Null means the same as for the key.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "named")]
    pub value: Option<Json>,
    /// All rows of the tables that changed, and of those that an expectation names.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub rows: Map<String, Json>,
    /// Why the record is a dead letter: `step`, `reason` and `message`. An expectation gives a part of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
    /// Why the pipeline halted. An expectation gives a part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
}

impl Effects {
    /// An expectation, from its JSON text. Lists are refused: serde would take their items for the fields in their order, and an empty list for no
    /// expectation at all.
    ///
    /// # Errors
    /// The line of the text, from 1, and in words what is wrong.
    pub fn parse(text: &str) -> Result<Effects, (usize, String)> {
        let told = |error: serde_json::Error| {
            let place = format!(" at line {} column {}", error.line(), error.column());
            let what = error.to_string();
            (error.line(), what.strip_suffix(&place).unwrap_or(&what).to_owned())
        };
        let wrong = |what: &str, example: &str, found: &Json| {
            let found = shorten(&found.to_string(), 60);
            Err((
                1,
                format!("{what}expected a JSON object such as {example}, found {found}"),
            ))
        };
        let json: Json = serde_json::from_str(text).map_err(told)?;
        if !json.is_object() {
            return wrong("", "{\"outcome\": \"done\"}", &json);
        }
        if let Some(list) = json.get("dead_letter").filter(|letter| letter.is_array()) {
            return wrong("dead_letter: ", "{\"step\": \"profile\"}", list);
        }
        // From the text, so that what is wrong has its line.
        serde_json::from_str(text).map_err(told)
    }

    /// Whether the record has ended; otherwise this is the state when the time was up.
    pub fn have_ended(&self) -> bool {
        let outcome = self.outcome.as_deref();
        outcome.is_some_and(|outcome| outcome == HALTED || OUTCOMES.contains(&outcome))
    }
}

/// See [`Effects::dead_letter`].
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLetter {
    /// The step that failed, if it was a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The name of the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Turns a present field into `Some`, even if it is null. An absent field gets the default.
fn named<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// The differences, one per line.
pub fn differences(expected: &Effects, actual: &Effects) -> Vec<String> {
    let mut found = Vec::new();
    let outcome = expected.outcome.as_deref().unwrap_or("done");
    if actual.outcome.as_deref() != Some(outcome) {
        let came = actual.outcome.as_deref().unwrap_or("nothing");
        found.push(format!("outcome: expected {outcome}, got {came}"));
    }
    if let Some(key) = &expected.key {
        let came = actual.key.as_ref().and_then(Option::as_ref);
        if key.as_ref() != came {
            let (key, came) = (shown(key.as_ref()), shown(came));
            found.push(format!("key: expected {key}, got {came}"));
        }
    }
    match (&expected.value, &actual.value) {
        (None, _) | (Some(Json::Null), None) => {}
        (Some(value), Some(came)) => compare("value", value, came, Null::IsNull, &mut found),
        (Some(_), None) => found.push("value: expected an output, got none".to_owned()),
    }
    part("halted", &expected.halted, &actual.halted, &mut found);
    let none = DeadLetter::default();
    let (wanted, came) = (
        expected.dead_letter.as_ref().unwrap_or(&none),
        actual.dead_letter.as_ref().unwrap_or(&none),
    );
    for (name, wanted, came) in [
        ("step", &wanted.step, &came.step),
        ("reason", &wanted.reason, &came.reason),
    ] {
        if wanted.is_some() && wanted != came {
            found.push(format!(
                "dead_letter.{name}: expected {}, got {}",
                shown(wanted.as_ref()),
                shown(came.as_ref())
            ));
        }
    }
    part("dead_letter.message", &wanted.message, &came.message, &mut found);
    // For an unexpected dead letter, the reason is what the reader needs.
    if expected.dead_letter.is_none()
        && let Some(came) = &actual.dead_letter
    {
        found.push(format!(
            "dead_letter: {}",
            serde_json::to_string(came).unwrap_or_default()
        ));
    }
    for (table, rows) in &expected.rows {
        match (rows, actual.rows.get(table)) {
            (Json::Array(wanted), Some(Json::Array(came))) => compare_rows(table, wanted, came, &mut found),
            (Json::Array(_), _) => found.push(format!(
                "rows.{table}: there is no such table; declare its columns under [tables]"
            )),
            _ => found.push(format!("rows.{table}: expected is an array of rows")),
        }
    }
    for (table, rows) in &actual.rows {
        if !expected.rows.contains_key(table) {
            found.push(format!("rows.{table}: unexpected change; it holds {rows}"));
        }
    }
    found
}

fn part(name: &str, wanted: &Option<String>, came: &Option<String>, found: &mut Vec<String>) {
    if let Some(wanted) = wanted
        && !came.as_ref().is_some_and(|came| came.contains(wanted))
    {
        found.push(format!(
            "{name}: expected \"{wanted}\" in it, got {}",
            shown(came.as_ref())
        ));
    }
}

fn shown(text: Option<&String>) -> String {
    text.map_or_else(|| "none".to_owned(), |text| format!("\"{text}\""))
}

/// What an expected null matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Null {
    /// Only null.
    IsNull,
    /// In a row: an absent column.
    IsAbsent,
}

fn compare(place: &str, expected: &Json, actual: &Json, null: Null, found: &mut Vec<String>) {
    match (expected, actual) {
        (Json::Object(expected), Json::Object(actual)) => {
            for (name, value) in expected {
                let place = format!("{place}.{name}");
                match actual.get(name) {
                    Some(came) => compare(&place, value, came, null, found),
                    None if value.is_null() && null == Null::IsAbsent => {}
                    None => found.push(format!("{place}: expected {value}, got none")),
                }
            }
        }
        (Json::Array(expected), Json::Array(actual)) if expected.len() == actual.len() => {
            for (number, (value, came)) in expected.iter().zip(actual).enumerate() {
                compare(&format!("{place}[{number}]"), value, came, null, found);
            }
        }
        (Json::Number(one), Json::Number(other)) if same_number(one, other) => {}
        (Json::String(one), Json::String(other)) if same_time(one, other) => {}
        _ if expected == actual => {}
        _ => found.push(format!("{place}: expected {expected}, got {actual}")),
    }
}

/// Whole numbers are compared exactly, others as floating point: `1` equals `1.0`.
fn same_number(one: &Number, other: &Number) -> bool {
    let whole = |number: &Number| {
        let signed = number.as_i64().map(i128::from);
        signed.or_else(|| number.as_u64().map(i128::from))
    };
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one.as_f64() == other.as_f64(),
    }
}

/// Whether both are the same time: `12:00:00Z` equals `12:00:00.000Z`.
fn same_time(one: &str, other: &str) -> bool {
    let time = |text: &str| text.strip_suffix('Z').and_then(instant);
    time(one).is_some_and(|one| time(other) == Some(one))
}

/// Rows have no order: each expected row is matched with a different actual row that fits it.
fn compare_rows(table: &str, expected: &[Json], actual: &[Json], found: &mut Vec<String>) {
    let fits = |row: &Json, came: &Json| {
        let mut differences = Vec::new();
        compare("", row, came, Null::IsAbsent, &mut differences);
        differences.is_empty()
    };
    let fitting: Vec<Vec<usize>> = expected
        .iter()
        .map(|row| (0..actual.len()).filter(|&at| fits(row, &actual[at])).collect())
        .collect();
    let mut takers = vec![None; actual.len()];
    for (number, row) in expected.iter().enumerate() {
        if !takes_one(number, &fitting, &mut takers, &mut vec![false; actual.len()]) {
            found.push(format!("rows.{table}: missing row {row}"));
        }
    }
    for (row, taker) in actual.iter().zip(&takers) {
        if taker.is_none() {
            found.push(format!("rows.{table}: unexpected row {row}"));
        }
    }
}

/// Tries to match an expected row with one of the actual rows that fit it, moving other expected rows to another match if needed. Each actual row is
/// tried once. Together the calls match as many rows as possible (<https://en.wikipedia.org/wiki/Maximum_cardinality_matching>, by augmenting paths).
fn takes_one(row: usize, fitting: &[Vec<usize>], takers: &mut [Option<usize>], asked: &mut [bool]) -> bool {
    for &at in &fitting[row] {
        if std::mem::replace(&mut asked[at], true) {
            continue;
        }
        let taker = takers[at];
        if taker.is_none_or(|other| takes_one(other, fitting, takers, asked)) {
            takers[at] = Some(row);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn effects(json: Json) -> Effects {
        serde_json::from_value(json).unwrap()
    }

    fn judged(expected: Json, actual: Json) -> Vec<String> {
        differences(&effects(expected), &effects(actual))
    }

    #[test]
    fn what_is_not_named_is_not_compared() {
        let actual = json!({"outcome": "done", "key": "k", "value": {"a": 1, "b": [1, 2], "c": {"d": null}}});
        assert_eq!(judged(json!({}), actual.clone()), Vec::<String>::new());
        assert_eq!(
            judged(json!({"value": {"a": 1.0, "c": {}}}), actual.clone()),
            Vec::<String>::new()
        );
        let differences = judged(json!({"key": "x", "value": {"a": 2, "b": [1], "z": 1}}), actual);
        assert_eq!(
            differences,
            [
                "key: expected \"x\", got \"k\"",
                "value.a: expected 2, got 1",
                "value.b: expected [1], got [1,2]",
                "value.z: expected 1, got none"
            ]
        );
    }

    #[test]
    fn whole_numbers_are_compared_to_the_last_digit() {
        let of = |expected: Json, came: Json| {
            judged(
                json!({"value": {"n": expected}}),
                json!({"outcome": "done", "value": {"n": came}}),
            )
            .len()
        };
        let large = 9_007_199_254_740_993_i64;
        assert_eq!(of(json!(large), json!(large)), 0);
        assert_eq!(of(json!(large), json!(large - 1)), 1);
        assert_eq!(of(json!(u64::MAX), json!(u64::MAX - 1)), 1);
        assert_eq!(of(json!(-1), json!(u64::MAX)), 1);
        assert_eq!(of(json!(2), json!(2.0)), 0);
    }

    #[test]
    fn null_is_what_must_be_null() {
        let keyed = json!({"outcome": "done", "key": "k", "value": {"a": null}});
        assert_eq!(
            judged(json!({"key": null}), keyed.clone()),
            ["key: expected none, got \"k\""]
        );
        assert_eq!(
            judged(json!({"value": null}), keyed.clone()),
            ["value: expected null, got {\"a\":null}"]
        );
        assert_eq!(
            judged(json!({"value": {"a": null, "b": null}}), keyed),
            ["value.b: expected null, got none"]
        );
        let bare = json!({"outcome": "done"});
        assert_eq!(judged(json!({"key": null, "value": null}), bare), Vec::<String>::new());
        let row = json!({"outcome": "done", "rows": {"t": [{"a": 1}]}});
        let expected = json!({"rows": {"t": [{"a": 1, "b": null}]}});
        assert_eq!(judged(expected, row), Vec::<String>::new(), "an absent column");
    }

    #[test]
    fn a_time_is_the_same_with_and_without_its_zeros() {
        let actual = json!({"outcome": "done", "value": {"at": "2026-05-01T11:59:58.000Z"}});
        let of = |at: &str| judged(json!({"value": {"at": at}}), actual.clone());
        assert_eq!(of("2026-05-01T11:59:58Z"), Vec::<String>::new());
        assert_eq!(of("2026-05-01T11:59:58.001Z").len(), 1);
        assert_eq!(of("2026-05-01 11:59:58").len(), 1, "text is compared as text");
    }

    #[test]
    fn effects_that_nobody_expected_fail() {
        assert_eq!(
            judged(json!({}), json!({"outcome": "skipped"})),
            ["outcome: expected done, got skipped"]
        );
        let dead = json!({"outcome": "dead_lettered", "dead_letter": {"reason": "missing", "step": "user", "message": "no row"}});
        assert_eq!(judged(json!({}), dead.clone()).len(), 2);
        let expected = json!({"outcome": "dead_lettered", "dead_letter": {"reason": "missing", "message": "row"}});
        assert_eq!(judged(expected, dead.clone()), Vec::<String>::new());
        let expected = json!({"outcome": "dead_lettered", "dead_letter": {"step": "x", "message": "column"}});
        assert_eq!(judged(expected, dead).len(), 2);
        let rows = json!({"outcome": "done", "rows": {"t": [{"a": 1}]}});
        assert_eq!(judged(json!({}), rows).len(), 1);
    }

    #[test]
    fn rows_have_no_order_and_none_may_be_left() {
        let actual = json!({"outcome": "done", "rows": {"t": [{"a": 1, "b": 2}, {"a": 3}]}});
        assert_eq!(
            judged(json!({"rows": {"t": [{"a": 3}, {"a": 1}]}}), actual.clone()),
            Vec::<String>::new()
        );
        let differences = judged(json!({"rows": {"t": [{"a": 4}], "u": []}}), actual);
        assert_eq!(differences.len(), 4, "{differences:?}");
    }

    #[test]
    fn a_row_that_fits_several_leaves_each_the_one_that_it_needs() {
        let held = json!({"outcome": "done", "rows": {"t": [{"a": 1, "b": 2}, {"a": 1, "b": 3}]}});
        for expected in [json!([{"a": 1}, {"a": 1, "b": 2}]), json!([{"a": 1, "b": 2}, {"a": 1}])] {
            assert_eq!(
                judged(json!({"rows": {"t": expected}}), held.clone()),
                Vec::<String>::new()
            );
        }
        assert_eq!(
            judged(json!({"rows": {"t": [{"a": 1, "b": 2}, {"b": 2}]}}), held),
            [
                "rows.t: missing row {\"b\":2}",
                "rows.t: unexpected row {\"a\":1,\"b\":3}"
            ]
        );
    }

    /// The largest number of rows that can be matched, by trying all combinations.
    fn most(fitting: &[Vec<usize>], taken: &[usize]) -> usize {
        let Some((first, rest)) = fitting.split_first() else {
            return taken.len();
        };
        let free = first.iter().filter(|at| !taken.contains(at));
        let with = free.map(|&at| most(rest, &[taken, &[at]].concat()));
        with.chain([most(rest, taken)]).max().unwrap()
    }

    proptest! {
        #[test]
        fn as_many_rows_have_one_as_can(fitting in vec(vec(0..5_usize, 0..4), 0..6)) {
            let mut takers = [None; 5];
            let took = (0..fitting.len()).filter(|&row| takes_one(row, &fitting, &mut takers, &mut [false; 5])).count();
            prop_assert_eq!(took, most(&fitting, &[]));
            for (at, row) in takers.iter().enumerate() {
                prop_assert!(row.is_none_or(|row: usize| fitting[row].contains(&at)));
            }
            prop_assert_eq!(takers.iter().flatten().count(), took);
        }
    }
}
