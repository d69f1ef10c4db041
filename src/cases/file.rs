//! The case file: TOML, in which expectations are JSON text, so that `--update` can replace them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::judge::Effects;

/// A file of cases. Paths are relative to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    /// Configuration files, in this order. `--config` on the command line replaces them all.
    #[serde(default)]
    pub config: Vec<PathBuf>,
    /// Schemas that others refer to by name, each after those that it refers to itself.
    #[serde(default)]
    pub types: Vec<PathBuf>,
    /// The schema of each topic's values.
    #[serde(default)]
    pub schemas: BTreeMap<String, PathBuf>,
    /// The columns and the primary key of each table, in CQL, as between the parentheses of CREATE TABLE.
    #[serde(default)]
    pub tables: BTreeMap<String, String>,
    /// The cases.
    pub cases: Vec<Case>,
}

/// One record, what the tables and references contain, and the expected result.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What the case shows.
    pub name: Spanned<String>,
    /// The pipeline. Optional if there is only one.
    pub pipeline: Option<String>,
    /// The time that `now()` returns, in RFC 3339. Default: the real time.
    pub now: Option<String>,
    /// The content of the tables.
    #[serde(default)]
    pub rows: BTreeMap<String, Vec<toml::Table>>,
    /// The content of the references, by name: tables, or JSON text, both in MongoDB's extended JSON.
    #[serde(default)]
    pub documents: BTreeMap<String, Vec<toml::Value>>,
    /// The record.
    pub record: Record,
    /// The expected result, as JSON.
    pub expect: Option<Spanned<String>>,
    /// The same, as [`parse_for_update`] has read it, or why it cannot be read.
    #[serde(skip)]
    pub expected: Option<Result<Effects, String>>,
}

/// The record of a case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its topic. Default: the pipeline's first.
    pub topic: Option<String>,
    /// Its key, as text.
    pub key: Option<String>,
    /// Its value, as a table or as JSON text. A record without a value is a tombstone.
    pub value: Option<toml::Value>,
    /// In place of `value`: raw bytes, given as text, for records that cannot be decoded.
    pub raw: Option<String>,
    /// Its timestamp, in RFC 3339. Default: `now` of the case, or the real time.
    pub timestamp: Option<String>,
    /// Its headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// Parses the text of a case file, with its expectations.
///
/// # Errors
/// In words, what is wrong, and where.
pub fn parse(text: &str) -> Result<CaseFile, String> {
    let file = parse_for_update(text)?;
    let mut cases = file.cases.iter();
    let unreadable = cases.find_map(|case| case.expected.as_ref()?.as_ref().err().cloned());
    match unreadable {
        Some(what) => Err(what),
        None => Ok(file),
    }
}

/// Parses the text of a case file whose failed expectations will be replaced: one that cannot be read fails its case, but not the file.
///
/// # Errors
/// In words, what else is wrong, and where.
pub fn parse_for_update(text: &str) -> Result<CaseFile, String> {
    let mut file: CaseFile = toml::from_str(text).map_err(|error| error.to_string())?;
    for case in &mut file.cases {
        let Some(expect) = &case.expect else { continue };
        let expected = Effects::parse(expect.get_ref()).map_err(|(line, what)| {
            let (line, name) = (line_in_file(text, expect.span(), line), case.name.get_ref());
            format!("line {line}: case \"{name}\": expect: {what}")
        });
        case.expected = Some(expected);
    }
    Ok(file)
}

/// The line of the file, from 1, for a line of a text in it. Only a text in three quotes has lines, and only without escapes they are those of the
/// file; for others it is the line of the first quote.
fn line_in_file(text: &str, place: Range<usize>, line: usize) -> usize {
    let first = text[..place.start].matches('\n').count() + 1;
    let literal = &text[place];
    let inner = literal.strip_prefix("'''").or_else(|| {
        let inner = literal.strip_prefix("\"\"\"")?;
        (!inner.contains('\\')).then_some(inner)
    });
    // A line break after the opening quotes is not part of the text.
    inner.map_or(first, |inner| {
        let skipped = inner.starts_with('\n') || inner.starts_with("\r\n");
        first + usize::from(skipped) + line.saturating_sub(1)
    })
}

/// A new expectation, and where it goes.
#[derive(Debug)]
pub struct Update {
    /// The place of the old expectation, or the end of the case's name.
    pub place: Range<usize>,
    /// Whether there is an old expectation.
    pub replaces: bool,
    /// The new expectation.
    pub expect: serde_json::Value,
}

/// The text with the new expectations.
///
/// # Errors
/// If the new text could not be parsed. For instance, a case in braces has no line of its own for an expectation.
pub fn updated(text: &str, mut updates: Vec<Update>) -> Result<String, String> {
    updates.sort_by_key(|update| std::cmp::Reverse(update.place.start));
    let mut new = text.to_owned();
    for update in updates {
        let json = serde_json::to_string_pretty(&update.expect).map_err(|e| e.to_string())?;
        let literal = if json.contains("'''") {
            toml::Value::String(json).to_string()
        } else {
            format!("'''\n{json}\n'''")
        };
        if update.replaces {
            new.replace_range(update.place, &literal);
        } else {
            let end = new[update.place.end..]
                .find('\n')
                .map_or(new.len(), |at| update.place.end + at);
            new.insert_str(end, &format!("\nexpect = {literal}"));
        }
    }
    // An expectation that could not be read before may be left, of a case that did not run or has not ended.
    parse_for_update(&new).map_err(|_| {
        "an expectation cannot be written into this file: write expect = '''{}''' into each case first".to_owned()
    })?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TEXT: &str = r#"# Kept.
[[cases]]
name = "one" # kept, too
record.value = { id = 1 }

[[cases]]
name = "two"
expect = '''{"outcome": "skipped"}'''
record.raw = "x"
"#;

    #[test]
    fn expectations_are_written_into_the_text_and_the_rest_is_kept() {
        let file = parse(TEXT).unwrap();
        let update = |case: &Case, expect| match &case.expect {
            Some(old) => Update {
                place: old.span(),
                replaces: true,
                expect,
            },
            None => Update {
                place: case.name.span(),
                replaces: false,
                expect,
            },
        };
        let updates = vec![
            update(&file.cases[0], json!({"outcome": "done"})),
            update(&file.cases[1], json!({"key": "it's '''odd'''"})),
        ];
        let new = updated(TEXT, updates).unwrap();
        assert!(
            new.starts_with("# Kept.\n[[cases]]\nname = \"one\" # kept, too\nexpect = '''\n{\n"),
            "{new}"
        );
        let file = parse(&new).unwrap();
        let expect =
            |case: &Case| serde_json::from_str::<serde_json::Value>(case.expect.as_ref().unwrap().get_ref()).unwrap();
        assert_eq!(expect(&file.cases[0]), json!({"outcome": "done"}));
        assert_eq!(expect(&file.cases[1]), json!({"key": "it's '''odd'''"}));
        assert_eq!(file.cases[1].record.raw.as_deref(), Some("x"));
    }

    #[test]
    fn an_expectation_that_cannot_be_read_is_replaced_alone() {
        let text = TEXT.replace("{\"outcome\": \"skipped\"}", "")
            + "\n[[cases]]\nname = \"three\"\nexpect = 'null'\nrecord.raw = \"y\"\n";
        assert!(parse(&text).is_err());
        let file = parse_for_update(&text).unwrap();
        let failed = |file: &CaseFile, number: usize| matches!(file.cases[number].expected, Some(Err(_)));
        assert!(failed(&file, 1) && failed(&file, 2));
        let update = Update {
            place: file.cases[1].expect.as_ref().unwrap().span(),
            replaces: true,
            expect: json!({"outcome": "done"}),
        };
        let file = parse_for_update(&updated(&text, vec![update]).unwrap()).unwrap();
        assert!(!failed(&file, 1) && failed(&file, 2));
    }

    #[test]
    fn an_unknown_key_is_told_with_its_line() {
        let error = parse("[[cases]]\nname = \"a\"\nrecord.valeu = 1\n").unwrap_err();
        assert!(error.contains("valeu") && error.contains("line 3"), "{error}");
    }

    #[test]
    fn an_expectation_that_cannot_be_read_is_told_with_its_line() {
        let refused = |expect: &str| {
            let text = format!("[[cases]]\nname = \"a\"\nexpect = {expect}\nrecord.raw = \"x\"\n");
            parse(&text).map(|_| ()).unwrap_err()
        };
        for (expect, said) in [
            (
                "'''{\"outcome\": done}'''",
                "line 3: case \"a\": expect: expected value",
            ),
            (
                "'''\n{\n\"outcome\": done}'''",
                "line 5: case \"a\": expect: expected value",
            ),
            (
                "\"\"\"\r\n{\"outcomes\": 1}\"\"\"",
                "line 4: case \"a\": expect: unknown field `outcomes`",
            ),
            (
                "\"\"\"\n\n{\\u007D]\"\"\"",
                "line 3: case \"a\": expect: trailing characters",
            ),
            ("\"{\\n}]\"", "line 3: case \"a\": expect: trailing characters"),
            ("''", "line 3: case \"a\": expect: EOF while parsing a value"),
            (
                "'null'",
                "line 3: case \"a\": expect: expected a JSON object such as {\"outcome\": \"done\"}, found null",
            ),
            (
                "'[]'",
                "line 3: case \"a\": expect: expected a JSON object such as {\"outcome\": \"done\"}, found []",
            ),
            (
                "'{\"dead_letter\": []}'",
                "line 3: case \"a\": expect: dead_letter: expected a JSON object such as {\"step\": \"profile\"}, found []",
            ),
        ] {
            let error = refused(expect);
            assert!(error.starts_with(said), "{expect}: {error}");
            assert!(!error.contains(" at line "), "{expect}: {error}");
        }
    }

    #[test]
    fn a_case_without_a_line_of_its_own_is_left_alone() {
        let text = "cases = [{ name = \"a\", record = { raw = \"x\" } }]\n";
        let file = parse(text).unwrap();
        let place = file.cases[0].name.span();
        let update = Update {
            place,
            replaces: false,
            expect: json!({}),
        };
        assert!(updated(text, vec![update]).is_err());
    }
}
