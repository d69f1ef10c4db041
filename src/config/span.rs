//! Positions in the configuration: the text of a value, and where it is.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, Range};

use super::diagnostic::Place;
use super::document::Table;
use super::redact;

/// Index of a source in [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u32);

impl FileId {
    /// The first file. A default that has no section is placed there.
    pub(super) const FIRST: Self = Self(0);
}

/// A range of bytes in one of the [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Which file.
    pub file: FileId,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// A value and where it was written. A default has the position of the table that could have held it.
#[derive(Clone, Copy)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// `value`, written at `span`.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Compares only the values, not the positions.
impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Spanned<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(out)
    }
}

/// What the configuration was read from: the texts of the files, then one text per environment variable; the document that they form
/// together; and the files of output schemas.
#[derive(Clone, Default)]
pub struct Sources {
    texts: Vec<SourceText>,
    /// Positions of further values that must not be shown, besides those that are secret by their name.
    hidden: Vec<Span>,
    pub(super) document: Table,
    pub(super) schemas: Schemas,
    /// If a variable replaces the `http.listen` of a file: the positions of both.
    pub(super) replaced_listen: Option<(Span, Span)>,
}

/// Texts of the output schema files, by pipeline; `None` if the file cannot be read.
pub type Schemas = BTreeMap<String, Option<String>>;

#[derive(Clone)]
struct SourceText {
    name: String,
    text: String,
    environment: bool,
    secrets: Vec<Range<usize>>,
}

/// Prints names only, because texts may hold secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list()
            .entries(self.texts.iter().map(|source| &source.name))
            .finish()
    }
}

/// Lines longer than this are cut around the underline.
const LONGEST_LINE: usize = 200;
/// Characters kept before the underline of a cut line.
const KEPT_BEFORE: usize = 60;

impl Sources {
    /// No sources yet. `hidden` are positions in later ones that must not be shown.
    pub(super) fn hiding(hidden: Vec<Span>) -> Self {
        Self {
            hidden,
            ..Self::default()
        }
    }

    pub(super) fn add_file(&mut self, name: String, text: String) -> FileId {
        self.add(name, text, false)
    }

    pub(super) fn add_variable(&mut self, name: &str, value: &str) -> FileId {
        self.add(format!("${name}"), format!("{name}={value}"), true)
    }

    fn add(&mut self, name: String, text: String, environment: bool) -> FileId {
        let file = FileId(self.texts.len() as u32);
        let hidden = self.hidden.iter().filter(|span| span.file == file);
        let mut secrets = redact::secret_ranges(&text, environment);
        secrets.extend(hidden.map(|span| span.start..span.end));
        self.texts.push(SourceText {
            name,
            text,
            environment,
            secrets,
        });
        file
    }

    fn source(&self, file: FileId) -> Option<&SourceText> {
        self.texts.get(file.0 as usize)
    }

    pub(super) fn is_environment(&self, span: Span) -> bool {
        self.source(span.file).is_some_and(|source| source.environment)
    }

    /// The text at `span` as written, including quotes and secrets.
    pub(super) fn written(&self, span: Span) -> &str {
        self.source(span.file)
            .and_then(|source| source.text.get(span.start..span.end))
            .unwrap_or_default()
    }

    /// The texts of the files as they were read, in order.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let files = self.texts.iter().filter(|source| !source.environment);
        files.map(|source| source.text.as_str())
    }

    /// The contents of the output schema files when the configuration was loaded.
    pub fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// The position of `range` (bytes of the string's value), or of the whole string if it was written with escapes.
    ///
    /// For findings inside an expression or a statement.
    pub fn part(&self, string: &Spanned<String>, range: Range<usize>) -> Span {
        let written = self.written(string.span);
        match written.find(string.value.as_str()) {
            Some(offset) if !string.value.is_empty() => Span {
                file: string.span.file,
                start: string.span.start + offset + range.start.min(string.value.len()),
                end: string.span.start + offset + range.end.min(string.value.len()),
            },
            _ => string.span,
        }
    }

    /// File, line and column of `span`, and the line itself with secrets masked. A span over several lines is cut to the first.
    pub fn place(&self, span: Span, label: String) -> Place {
        let Some(source) = self.source(span.file) else {
            let (file, text) = (String::new(), String::new());
            return Place {
                file,
                line: 1,
                column: 1,
                text,
                underline_start: 0,
                underline_length: 1,
                label,
            };
        };
        let text = source.text.as_str();
        let mut start = text.floor_char_boundary(span.start.min(text.len()));
        if start == text.len() && text.ends_with('\n') {
            start -= 1; // The end of the file is shown at the end of the last line.
        }
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        let shown = Shown::new(source, line_start..line_end, start..span.end.clamp(start, line_end));
        Place {
            file: source.name.clone(),
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            text: shown.text,
            underline_start: shown.start,
            underline_length: shown.length.max(1),
            label,
        }
    }
}

/// A line for display: secrets masked, control characters replaced by spaces, cut if it is very long.
struct Shown {
    text: String,
    start: usize,
    length: usize,
}

impl Shown {
    fn new(source: &SourceText, line: Range<usize>, underline: Range<usize>) -> Self {
        let mut text: Vec<char> = Vec::new();
        let (mut start, mut end) = (None, None);
        let mut masked = false;
        for (offset, c) in source.text[line.clone()].char_indices() {
            let at = line.start + offset;
            if at >= underline.start {
                start.get_or_insert(text.len());
            }
            if at >= underline.end {
                end.get_or_insert(text.len());
            }
            let secret = source.secrets.iter().any(|range| range.contains(&at));
            match (secret, masked) {
                (true, false) => text.extend(['*'; 3]),
                (true, true) => {}
                (false, _) => text.push(if c.is_control() { ' ' } else { c }),
            }
            masked = secret;
        }
        let mut start = start.unwrap_or(text.len());
        let mut end = end.unwrap_or(text.len()).max(start);
        if text.len() > LONGEST_LINE {
            let from = start.saturating_sub(KEPT_BEFORE);
            let to = (from + LONGEST_LINE).min(text.len());
            let (cut_before, cut_after) = (from > 0, to < text.len());
            text = text[from..to].to_vec();
            (start, end) = (start - from, end.min(to) - from);
            if cut_before {
                text.insert(0, '…');
                (start, end) = (start + 1, end + 1);
            }
            if cut_after {
                text.push('…');
            }
        }
        let text: String = text.into_iter().collect();
        Self {
            text: text.trim_end().to_owned(),
            start,
            length: end - start,
        }
    }
}
