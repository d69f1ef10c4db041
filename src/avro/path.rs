//! Parses the paths of a configuration: `user.id`, `items[0].sku`, `tags['x']`.
//!
//! This is syntax only; `select` decides what a path means in a schema. The empty path is the whole datum.

use std::fmt;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `.name`: a field of a record, or a key of a map.
    Name(String),
    /// `[3]`: an item of an array, from 0.
    Index(u32),
    /// `['key']`: a key of a map, or a field of a record.
    Key(String),
}

/// Why a text is not a path, or has no match in a schema. The message is self-contained: it repeats the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path \"{path}\": {problem}")]
pub struct PathError {
    /// The path, as given.
    pub path: String,
    /// What is wrong with it.
    pub problem: PathProblem,
}

/// What can be wrong with a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// A syntax error.
    #[error("{expected} expected at character {at}")]
    Syntax {
        /// What was expected there.
        expected: &'static str,
        /// The position in characters, from 1.
        at: usize,
    },
    /// No such field.
    #[error(
        "no field \"{name}\" in {within}{}; it has {}",
        .nearest.as_ref().map(|n| format!(" (did you mean \"{n}\"?)")).unwrap_or_default(),
        list(.fields)
    )]
    NoField {
        /// The part that fails.
        name: String,
        /// The part before it.
        within: String,
        /// The fields that exist.
        fields: Vec<String>,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// A part that the type does not have: a field of a string, an index of a map.
    #[error("{within} is {ty}, which has no {wanted}")]
    NoPart {
        /// What was asked for: `field "x"`, `item 3`, `key "x"`.
        wanted: String,
        /// The part before it.
        within: String,
        /// Its type.
        ty: String,
    },
    /// An item of an array whose items take no bytes, so there is nothing to point at.
    #[error("the items of {within} are always null")]
    EmptyItems {
        /// The array.
        within: String,
    },
    /// The program would be too large: the path is too deep or has too many sources, or the schema is too large.
    #[error("the program for the schema would be too large")]
    TooLarge,
}

fn list(names: &[String]) -> String {
    match names.len() {
        0 => "no fields".to_owned(),
        1..=20 => names.join(", "),
        n => format!("{}, … ({n} in all)", names[..20].join(", ")),
    }
}

/// Parses a path.
pub fn parse(path: &str) -> Result<Vec<Part>, PathError> {
    let mut parser = Parser { path, at: 0 };
    parser.parts().map_err(|problem| PathError {
        path: path.to_owned(),
        problem,
    })
}

struct Parser<'p> {
    path: &'p str,
    /// Bytes read.
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.path[self.at..]
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, PathProblem> {
        Err(PathProblem::Syntax {
            expected,
            at: self.path[..self.at].chars().count() + 1,
        })
    }

    fn parts(&mut self) -> Result<Vec<Part>, PathProblem> {
        let mut parts = Vec::new();
        while let Some(next) = self.rest().chars().next() {
            match next {
                '[' => parts.push(self.bracket()?),
                '.' if !parts.is_empty() => {
                    self.at += 1;
                    parts.push(self.name()?);
                }
                _ if parts.is_empty() => parts.push(self.name()?),
                _ => return self.expected("\".\" or \"[\""),
            }
        }
        Ok(parts)
    }

    fn name(&mut self) -> Result<Part, PathProblem> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        if name.chars().next().is_none_or(char::is_numeric) {
            return self.expected("a field's name");
        }
        self.at += end;
        Ok(Part::Name(name))
    }

    fn bracket(&mut self) -> Result<Part, PathProblem> {
        self.at += 1;
        let part = match self.rest().chars().next() {
            Some(quote @ ('\'' | '"')) => Part::Key(self.quoted(quote)?),
            _ => {
                let rest = self.rest();
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let Ok(index) = rest[..end].parse() else {
                    return self.expected("an index or a quoted key");
                };
                self.at += end;
                Part::Index(index)
            }
        };
        if !self.rest().starts_with(']') {
            return self.expected("\"]\"");
        }
        self.at += 1;
        Ok(part)
    }

    /// A quoted key. A backslash makes the next character literal.
    fn quoted(&mut self, quote: char) -> Result<String, PathProblem> {
        let mut key = String::new();
        let mut chars = self.rest()[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.at += 1 + at + 1;
                return Ok(key);
            }
            let c = if c == '\\' {
                chars.next().map(|(_, c)| c)
            } else {
                Some(c)
            };
            key.extend(c);
        }
        self.at = self.path.len();
        self.expected("the closing quote")
    }
}

/// As it is written after the part before it.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Name(name) => write!(f, ".{name}"),
            Part::Index(index) => write!(f, "[{index}]"),
            Part::Key(key) => write!(f, "['{}']", key.replace('\\', "\\\\").replace('\'', "\\'")),
        }
    }
}

/// The text of a path.
pub(crate) fn text(parts: &[Part]) -> String {
    let text: String = parts.iter().map(Part::to_string).collect();
    text.strip_prefix('.').map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(s: &str) -> Part {
        Part::Name(s.into())
    }

    #[test]
    fn paths_are_read() {
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("user.id").unwrap(), [name("user"), name("id")]);
        assert_eq!(
            parse("items[0].sku").unwrap(),
            [name("items"), Part::Index(0), name("sku")]
        );
        assert_eq!(
            parse("tags['it\\'s']").unwrap(),
            [name("tags"), Part::Key("it's".into())]
        );
        assert_eq!(
            parse("tags[\"a.b]\"][2]").unwrap(),
            [name("tags"), Part::Key("a.b]".into()), Part::Index(2)]
        );
    }

    #[test]
    fn what_is_no_path_says_where() {
        let error = |path: &str| parse(path).unwrap_err().to_string();
        assert_eq!(error("a..b"), "path \"a..b\": a field's name expected at character 3");
        assert_eq!(
            error("a[x]"),
            "path \"a[x]\": an index or a quoted key expected at character 3"
        );
        assert_eq!(error("a[1"), "path \"a[1\": \"]\" expected at character 4");
        assert_eq!(
            error("a['b"),
            "path \"a['b\": the closing quote expected at character 5"
        );
        assert_eq!(error("a b"), "path \"a b\": \".\" or \"[\" expected at character 2");
        assert_eq!(error("1a"), "path \"1a\": a field's name expected at character 1");
        assert_eq!(
            error("a[99999999999]"),
            "path \"a[99999999999]\": an index or a quoted key expected at character 3"
        );
    }

    proptest! {
        #[test]
        fn the_text_of_a_path_is_that_path(
            first in "[a-zé_][a-z0-9_]{0,5}",
            parts in proptest::collection::vec(prop_oneof![
                "[a-zé_][a-z0-9_]{0,5}".prop_map(Part::Name),
                any::<u32>().prop_map(Part::Index),
                ".{0,6}".prop_map(Part::Key),
            ], 0..5)
        ) {
            let parts: Vec<Part> = std::iter::once(Part::Name(first)).chain(parts).collect();
            prop_assert_eq!(parse(&text(&parts)).unwrap(), parts);
        }

        #[test]
        fn no_text_is_a_crash(text in ".{0,20}") {
            let _ = parse(&text);
        }
    }
}
