//! Removes from a text what must not leave the process.
//!
//! Errors quote what they fail on: a value, a key, an address with its password. A text for Sentry keeps its words but loses its quotes. The rules
//! are deliberately coarse: a message that says too little is better than one that reveals a secret.

/// Longest text that is sent, in characters.
const LONGEST: usize = 400;

/// Words that are followed by a value that must not be shown.
const SECRETS: &[&str] = &[
    "password",
    "passwd",
    "secret",
    "token",
    "api_key",
    "apikey",
    "authorization",
    "sasl.password",
];

/// Words in Cassandra's messages after which a value stands without quotes, to the end of the text: a value from `INSERT … JSON`.
const UNQUOTED: &[&str] = &["(String was: ", "contains unrecognized column: "];

/// Removes from a text: everything in quotes, user names and passwords in addresses, values with names like secrets, runs of six or more digits
/// (ids, card and telephone numbers), and what Cassandra repeats without quotes. The result has at most 400 characters.
pub fn scrub(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(LONGEST));
    let ends = UNQUOTED
        .iter()
        .filter_map(|words| Some(text.find(*words)? + words.len()));
    let end = ends.min();
    let mut unquoted = without_quoted(&text[..end.unwrap_or(text.len())]);
    if end.is_some() {
        unquoted.push('…');
    }
    let (mut hide_next, mut after_named) = (0, false);
    for word in unquoted.split_inclusive(char::is_whitespace) {
        let (body, space) = word.split_at(word.trim_end().len());
        if body.is_empty() {
            clean.push_str(space);
            continue;
        }
        let lower = body.to_ascii_lowercase();
        let named = SECRETS.iter().any(|s| lower.contains(s));
        match lower.find(['=', ':']) {
            // `password=abc`: the value is part of the word.
            Some(at) if named && at + 1 < body.len() => clean.push_str(&format!("{}…", &body[..=at])),
            // The same for `password =abc`.
            Some(0) if after_named && body.len() > 1 => {
                clean.push_str(&format!("{}…", &body[..1]));
                hide_next = 1;
            }
            // `authorization: Basic abc`: the value is in one of the next two words.
            // The same for `password = abc`.
            Some(_) if named || (after_named && body.len() == 1) => {
                clean.push_str(body);
                hide_next = 2;
            }
            _ if hide_next > 0 => {
                clean.push('…');
                hide_next -= 1;
            }
            _ => clean.push_str(&without_long_numbers(&without_user(body))),
        }
        after_named = named;
        clean.push_str(space);
    }
    match clean.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &clean[..at]),
        None => clean,
    }
}

/// Turns `user "bob" in 'x'` into `user "…" in '…'`. If a quote is not closed, the rest is hidden. An apostrophe within a word (`can't`) does not
/// open a quote.
fn without_quoted(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\'', '`', '“']) {
        let Some(open) = rest[at..].chars().next() else { break };
        let (head, tail) = (&rest[..at], &rest[at + open.len_utf8()..]);
        clean.push_str(head);
        clean.push(open);
        if open == '\'' && head.chars().next_back().is_some_and(char::is_alphanumeric) {
            rest = tail;
            continue;
        }
        let close = if open == '“' { '”' } else { open };
        clean.push('…');
        let Some(end) = closing(tail, close) else { return clean };
        clean.push(close);
        rest = &tail[end + close.len_utf8()..];
    }
    clean.push_str(rest);
    clean
}

/// The position of the closing quote, skipping escaped characters.
fn closing(text: &str, close: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == close => return Some(at),
            _ => {}
        }
    }
    None
}

/// Turns `mongodb://bob:secret@host` into `mongodb://…@host`.
fn without_user(word: &str) -> String {
    match word.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://…@{host}"),
            None => word.to_owned(),
        },
        None => word.to_owned(),
    }
}

/// Turns `offset 1234567` into `offset #`.
fn without_long_numbers(word: &str) -> String {
    let mut clean = String::with_capacity(word.len());
    let mut digits = String::new();
    for c in word.chars().chain(std::iter::once('\0')) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        clean.push_str(if digits.len() >= 6 { "#" } else { &digits });
        digits.clear();
        if c != '\0' {
            clean.push(c);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_stay_and_values_go() {
        for (text, clean) in [
            ("write timed out after 500 ms", "write timed out after 500 ms"),
            (
                "invalid value \"bob@example.org\" for user_id",
                "invalid value \"…\" for user_id",
            ),
            ("can't read 'x \\' y' here", "can't read '…' here"),
            (
                "cannot reach mongodb://bob:s3cr3t@db:27017/x",
                "cannot reach mongodb://…@db:27017/x",
            ),
            ("config sasl.password=abc refused", "config sasl.password=… refused"),
            ("config sasl.password = abc refused", "config sasl.password = … …"),
            ("config sasl.password =abc refused", "config sasl.password =… …"),
            ("the password was refused = twice", "the password was refused = twice"),
            (
                "header Authorization: Basic Ym9i sent",
                "header Authorization: … … sent",
            ),
            ("card 4111111111111111 of user 12345", "card # of user 12345"),
            ("unfinished \"quote and more", "unfinished \"…"),
            (
                "Could not decode JSON string as a map: no object. (String was: alice owes 4821)",
                "Could not decode JSON string as a map: no object. (String was: …",
            ),
            (
                "JSON values map contains unrecognized column: alice owes 4821",
                "JSON values map contains unrecognized column: …",
            ),
        ] {
            assert_eq!(scrub(text), clean);
        }
        assert_eq!(scrub(&"word ".repeat(1000)).chars().count(), LONGEST + 1);
    }

    proptest! {
        #[test]
        fn nothing_quoted_and_no_long_number_is_left(head in "[a-z ]{0,20}", secret in "[A-Z]{4,12}", number in "[0-9]{6,20}", any in ".{0,200}") {
            let clean = scrub(&format!("{head}\"{secret}\" and {number}: {any}"));
            prop_assert!(!clean.contains(&secret) || any.contains(&secret));
            prop_assert!(!clean.contains(&number) || any.contains(&number));
            prop_assert!(clean.chars().count() <= LONGEST + 1);
        }
    }
}
