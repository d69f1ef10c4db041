//! Finds the names that an expression uses, without parsing it.
//!
//! CEL's lexical rules: <https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax>.

use std::ops::Range;

/// The first name of a path: `profile` in `profile.score > 3`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub(super) name: &'a str,
    /// Its byte range in the expression.
    pub(super) range: Range<usize>,
    /// The member selected from it, and its byte range: `score`.
    pub(super) member: Option<(&'a str, Range<usize>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Literal,
    Symbol(char),
}

const CONSTANTS: [&str; 4] = ["true", "false", "null", "in"];

/// CEL's macros that declare a variable: `list.exists(x, x > 1)`.
const MACROS: [&str; 5] = ["all", "exists", "exists_one", "map", "filter"];

/// The heads in an expression: names followed by `.` or `[`, or a name that is the whole expression.
pub(super) fn heads(expression: &str) -> Vec<Head<'_>> {
    let tokens = tokens(expression);
    let at = |index: usize| tokens.get(index).map(|(token, _)| *token);
    let bound: Vec<&str> = (0..tokens.len())
        .filter_map(|i| match (at(i)?, at(i + 1)?, at(i + 2)?, at(i + 3)?) {
            (Token::Word(name), Token::Symbol('('), Token::Word(variable), Token::Symbol(','))
                if MACROS.contains(&name) =>
            {
                Some(variable)
            }
            _ => None,
        })
        .collect();
    let mut heads = Vec::new();
    for (index, (token, range)) in tokens.iter().enumerate() {
        let Token::Word(name) = *token else { continue };
        let selected = index > 0 && at(index - 1) == Some(Token::Symbol('.'));
        let path = matches!(at(index + 1), Some(Token::Symbol('.' | '[')));
        if selected || bound.contains(&name) || CONSTANTS.contains(&name) || !(path || tokens.len() == 1) {
            continue;
        }
        let member = match (at(index + 1), at(index + 2), at(index + 3)) {
            (_, _, Some(Token::Symbol('('))) => None, // A method of the value itself.
            (Some(Token::Symbol('.')), Some(Token::Word(member)), _) => {
                tokens.get(index + 2).map(|(_, range)| (member, range.clone()))
            }
            _ => None,
        };
        heads.push(Head {
            name,
            range: range.clone(),
            member,
        });
    }
    heads
}

fn tokens(text: &str) -> Vec<(Token<'_>, Range<usize>)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let word = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        let (token, length) = if first.is_ascii_digit() {
            (
                Some(Token::Literal),
                rest.find(|c: char| !(c.is_alphanumeric() || c == '.'))
                    .unwrap_or(rest.len()),
            )
        } else if word > 0 {
            let prefix = matches!(
                &rest[..word],
                "r" | "R" | "b" | "B" | "br" | "bR" | "Br" | "BR" | "rb" | "rB" | "Rb" | "RB"
            );
            match rest[word..].chars().next() {
                Some('"' | '\'') if prefix => {
                    let raw = rest[..word].contains(['r', 'R']);
                    (Some(Token::Literal), word + quoted(&rest[word..], raw))
                }
                _ => (Some(Token::Word(&rest[..word])), word),
            }
        } else if matches!(first, '"' | '\'') {
            (Some(Token::Literal), quoted(rest, false))
        } else if rest.starts_with("//") {
            (None, rest.find('\n').unwrap_or(rest.len()))
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

/// The length of the string literal at the start of `text`, including its quotes.
fn quoted(text: &str, raw: bool) -> usize {
    let triple = ["\"\"\"", "'''"].into_iter().find(|quote| text.starts_with(quote));
    let quote = triple.unwrap_or(&text[..1]);
    let mut at = quote.len();
    while let Some(c) = text[at..].chars().next() {
        if text[at..].starts_with(quote) {
            return at + quote.len();
        }
        at += c.len_utf8();
        if c == '\\' && !raw {
            at += text[at..].chars().next().map_or(0, char::len_utf8);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(expression: &str) -> Vec<&str> {
        heads(expression).into_iter().map(|head| head.name).collect()
    }

    #[test]
    fn heads_are_found_outside_strings_functions_and_macros() {
        assert_eq!(names("event.user.id"), ["event"]);
        assert_eq!(
            names("profile.score > 3.5 && event.kind != 'other.kind'"),
            ["profile", "event"]
        );
        assert_eq!(
            names("event.items.exists(x, x.price > limits.high)"),
            ["event", "limits"]
        );
        assert_eq!(names(r#"r"a\" + size(profile["x"]) // note.this"#), ["profile"]);
        assert_eq!(names("user_id"), ["user_id"]);
        assert_eq!(names("now()"), Vec::<&str>::new());
        assert_eq!(names("true"), Vec::<&str>::new());
    }

    #[test]
    fn members_are_given_with_their_place() {
        let found = heads("1 + profile.score");
        assert_eq!(found[0].range, 4..11);
        assert_eq!(found[0].member, Some(("score", 12..17)));
        assert_eq!(heads("profile.size()")[0].member, None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_the_scan(text in "\\PC*", code in "[a-z.'\"\\\\ (,/\\n]*") {
            heads(&text);
            heads(&code);
        }
    }
}
