//! Secrets: passwords, tokens and connection strings, which are never printed.
//!
//! A secret is resolved only when it is used. docs/security.md lists which clients read a rotated file again, and when.

use std::fmt;
use std::path::{Path, PathBuf};

use super::document::Value;
use super::reader::Field;
use super::shape::Shape;
use super::values::{path, plain_text, text};
use super::{Span, Spanned};

/// A value that is never printed: written in the configuration, or read from the environment or a file when needed.
#[derive(Clone)]
pub struct Secret(Spanned<Origin>);

#[derive(Clone)]
enum Origin {
    Literal(String),
    Env(String),
    File(PathBuf),
}

/// Why a secret cannot be read. Names where it should be, never the value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The environment variable is not set, or is not UTF-8.
    #[error("environment variable `{0}` is not set")]
    Env(String),
    /// The file cannot be read as UTF-8 text.
    #[error("cannot read `{path}`: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
}

pub(super) fn without_line_break(text: &str) -> &str {
    let line = text
        .strip_suffix('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line));
    line.unwrap_or(text)
}

impl Secret {
    /// Reads the value now, without a line break at its end, which a tool may have added.
    ///
    /// # Errors
    /// If the environment variable is not set, or the file cannot be read.
    pub fn reveal(&self) -> Result<String, SecretError> {
        match &self.0.value {
            Origin::Literal(value) => Ok(value.clone()),
            Origin::Env(name) => {
                let value = std::env::var(name).map_err(|_| SecretError::Env(name.clone()))?;
                Ok(without_line_break(&value).to_owned())
            }
            Origin::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| SecretError::File {
                    path: path.clone(),
                    error,
                })?;
                Ok(without_line_break(&text).to_owned())
            }
        }
    }

    /// The file that it is read from, if any.
    pub fn file(&self) -> Option<&Path> {
        match &self.0.value {
            Origin::File(path) => Some(path),
            Origin::Literal(_) | Origin::Env(_) => None,
        }
    }

    /// Position of the secret, or of the reference to it.
    pub fn span(&self) -> Span {
        self.0.span
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

impl Secret {
    /// Reads `"literal"`, `{ env = "NAME" }` or `{ file = "PATH" }`.
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        if field.draws(Shape::Secret) {
            return None;
        }
        let span = field.span();
        if !matches!(field.node.value, Value::Table(_)) {
            return text(field).map(|text| Self(Spanned::new(Origin::Literal(text.value), span)));
        }
        let mut section = field.section()?;
        let env = section.optional("env", plain_text);
        let file = section.optional("file", path);
        section.finish();
        let origin = match (env?, file?) {
            (Some(name), None) => Origin::Env(name),
            (None, Some(path)) => Origin::File(path.value),
            _ => {
                const REMEDY: &str = "write { env = \"NAME\" } or { file = \"/run/secrets/name\" }";
                return field.malformed("a reference to a secret, with one of `env` and `file`", REMEDY);
            }
        };
        Some(Self(Spanned::new(origin, span)))
    }

    /// A number or another unquoted value, kept as written.
    pub(super) fn unquoted(field: &Field<'_>) -> Self {
        let written = field.cx.sources.written(field.span()).to_owned();
        Self(Spanned::new(Origin::Literal(written), field.span()))
    }
}
