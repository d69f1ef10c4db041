//! Finds the secrets in a text, so that a finding can show a line without its password.
//!
//! It goes by names, not by the parsed document, because it must also work where the text is not valid TOML. Masking too much is harmless, masking
//! too little is not.

use std::ops::Range;

/// A key that contains one of these holds a secret.
const WORDS: [&str; 4] = ["passw", "passphrase", "secret", "credential"];
/// A key that has one of these as a part holds a secret.
const PARTS: [&str; 8] = ["token", "dsn", "uri", "pem", "headers", "authorization", "pass", "pwd"];
/// Keys that say where a secret is stored.
const REFERENCES: [&str; 2] = ["env", "file"];

/// Whether a key with this name holds a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // `token_endpoint` is an address, not a secret.
    let parts = || name.split(['.', '_', '-', '"', '\'']);
    let address = parts().next_back() == Some("endpoint");
    WORDS.iter().any(|word| name.contains(word)) || !address && parts().any(|part| PARTS.contains(&part))
}

/// The ranges of `text` that must not be shown: values of secret keys, and user information in URLs. In an environment variable (`NAME=value`) the value
/// is not quoted, so nothing marks its end: all of it is masked.
pub(super) fn secret_ranges(text: &str, environment: bool) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut in_secret_section = false;
    let mut line_start = 0;
    for line in text.split_inclusive('\n') {
        if let Some(header) = line.trim().strip_prefix('[') {
            let name = header.split(']').next().unwrap_or_default();
            in_secret_section = is_secret_name(name.rsplit('.').next().unwrap_or_default().trim());
        }
        // A colon is not TOML, but many users write one.
        for (at, separator) in line.match_indices(['=', ':']) {
            let key = key_before(&line[..at]);
            if !is_secret_name(key) && (!in_secret_section || REFERENCES.contains(&key)) {
                continue;
            }
            let rest = &text[line_start + at + 1..];
            // After `=`, the value may stand on a later line, although TOML does not allow that. After a colon it must be on the same line: a colon also
            // ends sentences, and the text below may have nothing to do with it.
            let value = match separator {
                "=" => rest.trim_start(),
                _ => rest.trim_start_matches([' ', '\t']),
            };
            let start = text.len() - value.len();
            // `token = :token` is CQL.
            if environment {
                ranges.push(start..text.len());
            } else if !is_reference(value) && !value.starts_with(':') {
                let alone = !line[..at].contains(['{', '[', ',']);
                ranges.push(start..start + value_length(value, alone));
            }
        }
        if let Some(range) = user(line) {
            ranges.push(line_start + range.start..line_start + range.end);
        }
        line_start += line.len();
    }
    ranges
}

/// User and password before an address. A password may contain what would end a valid address, such as a slash, a blank or a quote.
fn user(line: &str) -> Option<Range<usize>> {
    let end = line.rfind('@')?;
    let before = &line[..end];
    if let Some((first, _)) = before.split_once("://")
        && !first.contains('@')
    {
        return Some(first.len() + "://".len()..end);
    }
    // Without a scheme, a name and a colon tell it from other text.
    let is_user = |start: &usize| {
        let special = |c: char| c.is_whitespace() || matches!(c, ':' | '=' | '(' | '?');
        let next = before[*start..].find(special);
        next.is_some_and(|next| before[start + next..].starts_with(':'))
    };
    let value = before.split_once('=').filter(|(key, _)| is_key(key));
    let value = value.map_or(before, |(_, value)| value);
    let value = value.trim_start_matches([' ', '\t', '[', '"', '\'']);
    let quoted = before.match_indices(['"', '\'']).map(|(quote, _)| quote + 1);
    std::iter::once(end - value.len())
        .chain(quoted)
        .find(is_user)
        .map(|start| start..end)
}

fn is_key(text: &str) -> bool {
    key_before(text) == text.trim().trim_matches(['"', '\''])
}

/// The key at the end of `text`, without surrounding quotes. For `headers."x-api-key"`, all of it.
fn key_before(text: &str) -> &str {
    let text = text.trim_end();
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\'');
    text[text.trim_end_matches(is_key).len()..].trim_matches(['"', '\''])
}

/// Whether a value is `{ env = "NAME" }` or similar: it says where the secret is, and is not one.
fn is_reference(value: &str) -> bool {
    let Some((body, _)) = value.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return false;
    };
    let reference = |part: &str| {
        part.split_once('=')
            .is_some_and(|(key, _)| REFERENCES.contains(&key_before(key)))
    };
    body.split(',').all(reference)
}

/// The length of a value as written, including its quotes. If a quote is not closed on its line, the value extends to the next quote or the end of the
/// text. A table extends to the end of the line that closes it. A secret with a quote in it does not end there: see `is_end`. `alone` says that the key is
/// the first of its line, so that nothing but a comment follows the value.
fn value_length(value: &str, alone: bool) -> usize {
    if value.starts_with('{') {
        return table_length(value);
    }
    let length = string_length(value);
    let line = value[length..].split('\n').next().unwrap_or_default();
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) if !is_end(line, quote, alone) => length + line.len(),
        _ => length,
    }
}

/// Whether a string can have ended before `rest`, which extends to the end of the line. If TOML allows nothing of this kind after a string, or a quote
/// without its partner follows, the quote that seems to end the string is a character of the secret.
fn is_end(rest: &str, quote: char, alone: bool) -> bool {
    let rest = rest.trim();
    let follows = match rest.chars().next() {
        None | Some('#') => true,
        Some('}' | ']') => !alone,
        // In a table another key follows, maybe on the next line.
        Some(',') => {
            let next = rest[1..].trim();
            !alone && (next.is_empty() || next.split_once('=').is_some_and(|(key, _)| is_key(key)))
        }
        Some(_) => false,
    };
    follows && rest.matches(quote).count().is_multiple_of(2)
}

/// The length of a string including its quotes, up to the first that closes it. Without quotes it extends to the end of the line.
fn string_length(value: &str) -> usize {
    for quote in ["\"\"\"", "'''"] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.find(quote).map_or(value.len(), |end| end + 2 * quote.len());
        }
    }
    if let Some(rest) = value.strip_prefix('\'') {
        return rest.find('\'').map_or(value.len(), |end| end + 2);
    }
    if let Some(rest) = value.strip_prefix('"') {
        let mut escaped = false;
        let end = rest.find(|c: char| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        return end.map_or(value.len(), |end| end + 2);
    }
    value.find('\n').unwrap_or(value.len())
}

fn table_length(value: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(c) = value[at..].chars().next() {
        match c {
            '"' | '\'' => {
                at += string_length(&value[at..]).max(1);
                continue;
            }
            // A comment. A `#` inside a string has been skipped already.
            '#' => {
                at += value[at..].find('\n').unwrap_or(value.len() - at);
                continue;
            }
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            '\n' if depth == 0 => return at,
            _ => {}
        }
        at += c.len_utf8();
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, environment: bool) -> String {
        let mut text = text.to_owned();
        let mut ranges = secret_ranges(&text, environment);
        ranges.sort_by_key(|range| std::cmp::Reverse(range.start));
        for range in ranges {
            text.replace_range(range, "***");
        }
        text
    }

    #[test]
    fn secrets_are_masked_however_they_are_written() {
        assert_eq!(
            shown(r#"a = { "sasl.password" = "x\"y", b = 1 }"#, false),
            r#"a = { "sasl.password" = ***, b = 1 }"#
        );
        assert_eq!(
            shown("bearer_token = 'x'\nurl = \"http://me:x@host/\"", false),
            "bearer_token = ***\nurl = \"http://***@host/\""
        );
        assert_eq!(
            shown("url = 'http://me:p/a?s#s@host'", false),
            "url = 'http://***@host'"
        );
        assert_eq!(
            shown("password = \"\"\"\nx\ny\"\"\" # end", false),
            "password = *** # end"
        );
        assert_eq!(shown("password = [\"x\", \"y\"]", false), "password = ***");
        assert_eq!(
            shown("password = { env = \"P\", value = \"x\" }", false),
            "password = ***"
        );
        assert_eq!(
            shown("[scylla.password]\nvalue = \"x\"\nfile = \"f\"", false),
            "[scylla.password]\nvalue = ***\nfile = \"f\""
        );
        assert_eq!(
            shown(
                "headers = {\n  \"x-a\" = \"x}\",\n  x-b = { value = 'x' },\n}\nb = 1",
                false
            ),
            "headers = ***\nb = 1"
        );
        assert_eq!(
            shown("headers = { # }\n  \"x-a\" = \"x # y\",\n}\nb = 1", false),
            "headers = ***\nb = 1"
        );
        assert_eq!(shown("headers.\"x-a\" = \"x\"", false), "headers.\"x-a\" = ***");
        assert_eq!(
            shown("[tracing.\"headers\"]\nx-a = 'x'", false),
            "[tracing.\"headers\"]\nx-a = ***"
        );
        assert_eq!(shown("password = \"x\ny\nz\" # end", false), "password = *** # end");
        assert_eq!(shown("password = 'x\ny = 1", false), "password = ***");
        for line in [
            "password = \"ab\"hunter2hunter2\"",
            "password = 'ab'hunter2'",
            "password = \"ab\" hunter2",
            "password = \"ab\";hunter2",
            "password = \"\"hunter2\"",
            "password = \"ab\",hunter2\"",
            "password = \"ab\"#hunter2\"",
            "password = \"ab\",\"hunter2\"",
            "password = \"ab\"}hunter2",
            "password = \"\"\"ab\"\"\"hunter2\"",
        ] {
            assert_eq!(shown(line, false), "password = ***");
            assert_eq!(shown(&format!("{line}\r\nb = 1"), false).lines().last(), Some("b = 1"));
        }
        assert_eq!(
            shown(r#""sasl.password" = "ab"hunter2"#, false),
            r#""sasl.password" = ***"#
        );
        assert_eq!(
            shown("password = \"x\"\t# it's \"theirs\"\r\nb = \"y\"", false),
            "password = ***\t# it's \"theirs\"\r\nb = \"y\""
        );
        for name in ["passwort", "passwd", "pwd", "db_pwd", "ssl.key.passphrase"] {
            assert_eq!(shown(&format!("{name} = \"x\""), false), format!("{name} = ***"));
        }
        assert_eq!(
            shown("[ tracing . headers ]\nx-api-key = \"x\"", false),
            "[ tracing . headers ]\nx-api-key = ***"
        );
        for line in [
            "url = 'htp://me:hunt\"er2@host'",
            "url = 'htp://me:hunter2 x@host'",
            "brokers = \"SASL_SSL://me:hunter2 x@a:9092;b\"",
            "brokers = \"me:hunter2@a:9092;b\"",
            "brokers = \"me:hunter2@a:9092,SSL://b\"",
            "  \"me:hun=t'ter2@a:9092\",",
            "kafka = { brokers = \"me:hunter2@a:9092\" }",
            "MESSINA__KAFKA__BROKERS=me:hun'ter2@a:9092",
            "MESSINA__KAFKA__BROKERS=me:a='hun'ter2@a:9092",
            r#"a = { "sasl.password" = "ab","hunter2" }"#,
        ] {
            assert!(!shown(line, false).contains("unt"), "{line}");
        }
        assert_eq!(shown("password: \"x\" # end", false), "password: *** # end");
        assert_eq!(shown("uri =\n  'x'\nb = 1", false), "uri =\n  ***\nb = 1");
        assert_eq!(
            shown("MESSINA__REGISTRY__PASSWORD=x, y", true),
            "MESSINA__REGISTRY__PASSWORD=***"
        );
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        for text in [
            "security.protocol = \"ssl\"",
            "password = { env = \"P\" }",
            "token_endpoint = \"https://login/token\"",
            "write = \"SET token = :token\"",
            "brokers = \"kafka-1:9092\"",
            "filter = \"event.email == 'a@b.c'\"",
            "key = \"has(event.a) ? event.a : event.mail.split('@')[0]\"",
            "lookup = \"SELECT a FROM t WHERE k = :k\" # ask: me@host",
        ] {
            assert_eq!(shown(text, false), text);
        }
    }
}
