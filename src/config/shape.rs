//! Records what the readers accept, by running them on a blank document.
//!
//! A reader asks for each key that it knows and reads its value with a function that knows its type. On the blank document every key exists and is
//! blank: asking for it records the key, and reading it records the form and returns nothing. So there is no second list of keys that could differ
//! from what is read. [`super::schema`] makes the JSON Schema from it.

use std::cell::RefCell;

use super::document::{Entry, Table, Value};
use super::{FileId, Span, Spanned};

/// What a value may be. A value with several shapes may have any of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// Text in which this regular expression has a match.
    Text(&'static str),
    /// One of these words.
    Word(Vec<&'static str>),
    Boolean,
    /// A whole number above 0.
    Count,
    /// A number from 0 to 1.
    Share,
    /// A number from 0 and below 1.
    ShareBelowOne,
    Duration,
    PositiveDuration,
    Size,
    /// A list of strings, or one string.
    Texts,
    /// A table of names and expressions.
    Bindings,
    /// A list of field names, or a table with one of these types for each name.
    Fields(Vec<&'static str>),
    Secret,
    /// A table of librdkafka properties.
    Properties,
    /// A table with fixed keys, which are recorded below its own path.
    Table,
    /// A table with any names; the keys of each are recorded below `NAME`.
    Named,
    /// A list; the keys of an item are recorded below `[]`.
    Items,
    /// Exactly one of these keys; the further keys of each are recorded below `|` and its name.
    Kinds(Vec<&'static str>),
}

/// A key that a reader asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) required: bool,
}

/// What was recorded, each under the path of its table or value: `pipelines.NAME.steps[]|lookup.cache`.
pub(super) struct Drawing {
    /// The value of every key.
    pub(super) blank: Entry,
    keys: RefCell<Vec<(String, Key)>>,
    shapes: RefCell<Vec<(String, Shape)>>,
}

impl Default for Drawing {
    fn default() -> Self {
        let nowhere = Span {
            file: FileId::FIRST,
            start: 0,
            end: 0,
        };
        let blank = Entry {
            key: Spanned::new("NAME".to_owned(), nowhere),
            node: Spanned::new(Value::Table(Table::default()), nowhere),
        };
        Self {
            blank,
            keys: RefCell::default(),
            shapes: RefCell::default(),
        }
    }
}

impl Drawing {
    /// Records an optional key, once.
    pub(super) fn key(&self, path: &str, name: &'static str) {
        self.note_key(path, name, false);
    }

    /// Records a required key.
    pub(super) fn require(&self, path: &str, name: &'static str) {
        self.note_key(path, name, true);
    }

    fn note_key(&self, path: &str, name: &'static str, required: bool) {
        let mut keys = self.keys.borrow_mut();
        if !keys.iter().any(|(at, key)| at == path && key.name == name) {
            keys.push((path.to_owned(), Key { name, required }));
        }
    }

    pub(super) fn note(&self, path: &str, shape: Shape) {
        self.shapes.borrow_mut().push((path.to_owned(), shape));
    }

    /// The keys of a table, in the order of reading.
    pub(super) fn keys_of(&self, path: &str) -> Vec<Key> {
        let keys = self.keys.borrow();
        keys.iter().filter(|(at, _)| at == path).map(|(_, key)| *key).collect()
    }

    /// The shapes of a value.
    pub(super) fn shapes_of(&self, path: &str) -> Vec<Shape> {
        let shapes = self.shapes.borrow();
        shapes
            .iter()
            .filter(|(at, _)| at == path)
            .map(|(_, shape)| shape.clone())
            .collect()
    }

    /// Every key by its path, except those that only name their table.
    #[cfg(test)]
    pub(super) fn paths(&self) -> Vec<String> {
        let keys = self.keys.borrow();
        keys.iter()
            .map(|(at, key)| super::schema::below(at, key.name))
            .collect()
    }
}
