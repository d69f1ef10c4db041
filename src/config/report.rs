//! Findings for other programs: SARIF for code scanning, and GitHub workflow commands for annotations of a change.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::codes;
use super::diagnostic::{Diagnostic, Diagnostics, Place, Severity};

/// SARIF 2.1.0 (<https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>): one run, with one rule per code.
pub fn sarif(findings: &Diagnostics) -> Value {
    let rules: Vec<Value> = codes::ALL
        .iter()
        .map(|code| json!({ "id": code.id, "shortDescription": { "text": code.meaning } }))
        .collect();
    let results: Vec<Value> = findings.iter().map(result).collect();
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "messina", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(finding: &Diagnostic) -> Value {
    let mut result = json!({
        "ruleId": finding.code.id,
        "ruleIndex": codes::ALL.iter().position(|code| *code == finding.code),
        "level": match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "message": { "text": text(finding) },
    });
    let locations: Vec<Value> = finding.place.iter().filter_map(location).collect();
    let related: Vec<Value> = finding.related.iter().filter_map(location).collect();
    for (key, places) in [("locations", locations), ("relatedLocations", related)] {
        if !places.is_empty() {
            result[key] = Value::Array(places);
        }
    }
    result
}

fn location(place: &Place) -> Option<Value> {
    // An environment variable is not in a file.
    if place.file.starts_with('$') {
        return None;
    }
    let mut location = json!({ "physicalLocation": {
        "artifactLocation": { "uri": place.file },
        "region": {
            "startLine": place.line,
            "startColumn": place.column,
            "endColumn": place.column + place.underline_length,
            "snippet": { "text": place.text },
        },
    } });
    if !place.label.is_empty() {
        location["message"] = json!({ "text": place.label });
    }
    Some(location)
}

/// Workflow commands, one per line, which GitHub shows beside the changed lines of a pull request:
/// <https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions>.
pub fn github(findings: &Diagnostics) -> String {
    let mut out = String::new();
    for finding in findings.iter() {
        let command = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut properties = format!("title={}", property(finding.code.id));
        if let Some(place) = finding.place.as_ref().filter(|place| !place.file.starts_with('$')) {
            let end = place.column + place.underline_length;
            // Writing to a string cannot fail.
            let _ = write!(
                properties,
                ",file={},line={},col={},endColumn={end}",
                property(&place.file),
                place.line,
                place.column
            );
        }
        let _ = writeln!(out, "::{command} {properties}::{}", escaped(&text(finding)));
    }
    out
}

/// The message and its remedies. A place that is not in a file is written out.
fn text(finding: &Diagnostic) -> String {
    let mut text = finding.message.clone();
    if let Some(place) = finding.place.as_ref().filter(|place| place.file.starts_with('$')) {
        let _ = write!(text, " (in the environment variable {})", &place.file[1..]);
    }
    for help in &finding.help {
        let _ = write!(text, "\nhelp: {help}");
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    escaped(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn findings() -> Diagnostics {
        let text = "[kafka]\nborkers = \"a:1\" # 100 %\n";
        let environment = [("MESSINA__HTTP__LISTEN".to_owned(), "nowhere".to_owned())];
        config::load_str(vec![("conf, a:b.toml".into(), text.into())], environment.into_iter()).unwrap_err()
    }

    #[test]
    fn github_gets_one_escaped_line_for_each() {
        let text = github(&findings());
        assert!(
            text.lines().any(|line| line.starts_with(
                "::error title=MES0101,file=conf%2C a%3Ab.toml,line=2,col=1,endColumn=8::unknown key `borkers` in `kafka`"
            )),
            "{text}"
        );
        let variable = text
            .lines()
            .find(|line| line.contains("MESSINA__HTTP__LISTEN"))
            .unwrap();
        assert!(variable.starts_with("::error title=MES0105::"), "{variable}");
        assert_eq!(text.lines().count(), findings().iter().count());
    }

    #[test]
    fn sarif_has_each_finding_with_its_rule_and_its_place() {
        let found = findings();
        let sarif = sarif(&found);
        let run = &sarif["runs"][0];
        let results = run["results"].as_array().unwrap();
        assert_eq!(results.len(), found.iter().count());
        for result in results {
            let rule = &run["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().unwrap() as usize];
            assert_eq!(rule["id"], result["ruleId"]);
        }
        let unknown = results.iter().find(|result| result["ruleId"] == "MES0101").unwrap();
        let place = &unknown["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "conf, a:b.toml");
        let region = &place["region"];
        assert_eq!(
            (&region["startLine"], &region["startColumn"], &region["endColumn"]),
            (&json!(2), &json!(1), &json!(8))
        );
        let variable = results.iter().find(|result| result["ruleId"] == "MES0105").unwrap();
        assert!(variable.get("locations").is_none());
        assert!(
            variable["message"]["text"]
                .as_str()
                .unwrap()
                .contains("MESSINA__HTTP__LISTEN")
        );
    }
}
