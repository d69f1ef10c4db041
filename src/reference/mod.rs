//! References: collections of MongoDB that steps look documents up in, held in memory and kept fresh.
//!
//! Why: a partner, a campaign or a tariff is needed for every record and changes a few times a day. A copy in memory answers
//! in less than a microsecond, and goes on answering while the server is away. The parts: [`server`] is all that speaks to
//! MongoDB, [`sample`] finds types, [`codec`] and [`table`] hold the documents, [`follow`] keeps them fresh; [`on_demand`] is for what is too
//! big for that.
//!
//! Invariants: a reference has been read whole before the first record is consumed; what is held is never given up for a
//! refresh that failed; a document that does not fit the types that were checked fails the records that need it, and changes
//! nothing silently.

pub mod codec;
#[cfg(test)]
mod fake;
pub mod follow;
pub mod on_demand;
pub mod sample;
pub mod server;
pub mod table;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use self::on_demand::OnDemand;
use self::table::Table;
use crate::avro::value::{Type, Value};
use crate::breaker::gate::Gate;
use crate::store::cache::{Hit, Origin};
use crate::store::{ColumnType, Row, StoreError};

/// The references of a configuration, by name.
#[derive(Debug, Default)]
pub struct References {
    by_name: BTreeMap<String, Arc<Reference>>,
}

impl References {
    /// Of these.
    pub fn new(references: impl IntoIterator<Item = Arc<Reference>>) -> References {
        let named = references.into_iter().map(|r| (r.shape.name.to_string(), r));
        References {
            by_name: named.collect(),
        }
    }

    /// The one by this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Reference>> {
        self.by_name.get(name)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Reference>> {
        self.by_name.values()
    }
}

/// What a reference is made of, as declared or sampled.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// `database.collection`.
    pub collection: String,
    /// The field that documents are found by.
    pub key: String,
    /// What goes into the key.
    pub key_type: ColumnType,
    /// The fields that are kept, and their types; each may be null besides.
    pub fields: Vec<(String, Type)>,
    /// Bytes that it may hold.
    pub max_bytes: u64,
}

/// One collection in memory.
#[derive(Debug)]
pub struct Reference {
    /// What it is made of.
    pub shape: Shape,
    table: Table,
    /// Where the key is not `_id`.
    keys: Option<Keys>,
    /// When it was last known to be what the server has.
    current: Mutex<Option<Instant>>,
    /// Where it is not held as a whole.
    on_demand: Option<OnDemand>,
}

/// Which document is found by which key, where keys are not the documents' own. Two may have one key: the one that was read last is found, what
/// becomes of the other changes nothing, and when the one that is found leaves its key, the other is asked for.
#[derive(Debug, Default)]
struct Keys {
    /// The key of each document, by its `_id`.
    by_id: Table,
    /// The `_id` of the document that is found, by its key.
    owners: Table,
    /// Keys of more than one document.
    shared: Table,
}

/// The `_id` of a document, and what knows documents by it.
type Identity<'k> = (&'k Keys, Vec<u8>);

impl Keys {
    /// The key that a document had, and whether it is the one that is found by it.
    fn had(&self, id: &[u8]) -> Option<(Vec<u8>, bool)> {
        let bytes = |content: Result<&[u8], &str>| content.unwrap_or_default().to_vec();
        let key = self.by_id.get(id, bytes)?;
        let owns = self.owners.get(&key, |owner| owner == Ok(id)).unwrap_or_default();
        Some((key, owns))
    }

    fn put(&self, generation: u8, id: &[u8], key: &[u8]) {
        if self.owners.get(key, |owner| owner != Ok(id)).unwrap_or_default() {
            self.shared.put(generation, key, Ok(&[]));
        }
        self.by_id.put(generation, id, Ok(key));
        self.owners.put(generation, key, Ok(id));
    }

    /// Says that a document is still there; with another key than it had, only that the key is.
    fn mark(&self, generation: u8, id: &[u8], key: &[u8]) {
        if self.by_id.get(id, |had| had == Ok(key)).unwrap_or_default() {
            self.by_id.mark(generation, id);
        }
        self.owners.mark(generation, key);
        self.shared.mark(generation, key);
    }

    fn sweep(&self, generation: u8) {
        self.by_id.sweep(generation);
        self.owners.sweep(generation);
        self.shared.sweep(generation);
    }

    fn older(&self, generation: u8) -> u64 {
        [&self.by_id, &self.owners, &self.shared]
            .map(|table| table.older(generation))
            .iter()
            .sum()
    }

    fn bytes(&self) -> u64 {
        self.by_id.bytes() + self.owners.bytes() + self.shared.bytes()
    }
}

impl Reference {
    /// An empty one.
    pub fn new(shape: Shape) -> Reference {
        Reference {
            keys: (shape.key != "_id").then(Keys::default),
            shape,
            table: Table::default(),
            current: Mutex::default(),
            on_demand: None,
        }
    }

    /// One that asks for each document when it is needed.
    pub fn on_demand(shape: Shape, on_demand: OnDemand) -> Reference {
        Reference {
            on_demand: Some(on_demand),
            ..Reference::new(shape)
        }
    }

    /// What asks for documents, where it is not held as a whole.
    pub fn asks(&self) -> Option<&OnDemand> {
        self.on_demand.as_ref()
    }

    /// The document by this key, asked for if it has to be, and where it came from. For who has `awaited` it, that it was absent a moment ago counts
    /// for nothing.
    ///
    /// # Errors
    /// Transient where the server does not answer, and where its breaker, `gate`, is open.
    pub async fn look_up(&self, key: &Value<'_>, gate: &Gate, awaited: bool) -> Result<(Hit, Origin), StoreError> {
        match &self.on_demand {
            // On the heap: the future of each event would have room for a request.
            Some(on_demand) => Box::pin(on_demand.find(&self.shape, key, gate, awaited)).await,
            None => self.find(key).map(|row| (Arc::new(row), Origin::Loaded)),
        }
    }

    /// Whether documents are asked for, and not held in memory.
    pub fn is_on_demand(&self) -> bool {
        self.on_demand.is_some()
    }

    /// The document in memory by this key: its fields, in the order of the shape.
    pub fn find(&self, key: &Value<'_>) -> Result<Option<Row>, StoreError> {
        let Some(key) = codec::key_of_value(key) else {
            return Ok(None);
        };
        let found = self.table.get(&key, |content| match content {
            Err(reason) => Err(unfit(&self.shape, reason)),
            Ok(bytes) => codec::decode_document(&self.shape.fields, bytes)
                .map(Vec::into_boxed_slice)
                .ok_or_else(|| StoreError::fatal("internal", "a document in memory cannot be read")),
        });
        found.transpose()
    }

    /// The key of a document, where it is usable, and the document's identity, where keys are not that.
    fn names(&self, document: &RawDocument) -> (Option<Vec<u8>>, Option<Identity<'_>>) {
        let field = |name: &str| document.get(name).ok().flatten();
        let key = field(&self.shape.key).and_then(codec::key_of_bson);
        let keys = self.keys.as_ref();
        (key, keys.and_then(|keys| Some((keys, codec::identity(field("_id")?)))))
    }

    /// Takes a document in: whether it has a usable key, and the key that it has left, where another document may have that. In a `reading` all
    /// documents come, and then a sweep.
    fn put(&self, generation: u8, document: &RawDocument, reading: bool) -> (bool, Option<Vec<u8>>) {
        let (key, identity) = self.names(document);
        let mut left = None;
        if let Some((keys, id)) = identity {
            left = self.leave(keys, &id, key.as_deref(), reading.then_some(generation));
            match &key {
                Some(key) => keys.put(generation, &id, key),
                None => keys.by_id.remove(&id),
            }
        }
        let Some(key) = key else { return (false, left) };
        let mut content = Vec::new();
        match codec::encode_document(&self.shape.fields, document, &mut content) {
            Ok(()) => self.table.put(generation, &key, Ok(&content)),
            Err(reason) => self.table.put(generation, &key, Err(&reason)),
        }
        (true, left)
    }

    /// A document that is read is still there, and what there is of it is kept as it is: for where there is no room for more. Of one that is not held
    /// nothing is taken in.
    fn mark(&self, generation: u8, document: &RawDocument) {
        let (Some(key), identity) = self.names(document) else {
            return;
        };
        self.table.mark(generation, &key);
        if let Some((keys, id)) = identity {
            keys.mark(generation, &id, &key);
        }
    }

    /// A document is no longer found by the key that it had, unless that is still its key: gives the key where another document may have it.
    /// `reading` is the generation of the reading that finds so, if one does.
    fn leave(&self, keys: &Keys, id: &[u8], key: Option<&[u8]>, reading: Option<u8>) -> Option<Vec<u8>> {
        let (old, true) = keys.had(id)? else { return None };
        if key == Some(&*old) {
            return None;
        }
        keys.owners.remove(&old);
        // What it had is found until another one is there, or none: a record must not miss both.
        if keys.shared.get(&old, |_| ()).is_some() {
            return Some(old);
        }
        // Who takes the key may be read later; if nobody does, the sweep removes what was not met.
        let is_swept = reading.is_some_and(|reading| self.table.generation(&old) != Some(reading));
        if !is_swept {
            self.table.remove(&old);
        }
        None
    }

    /// No document has this key.
    fn is_free(&self, key: &[u8]) {
        if let Some(keys) = &self.keys {
            keys.shared.remove(key);
            self.table.remove(key);
        }
    }

    /// Whether a document has this key.
    fn is_taken(&self, key: &[u8]) -> bool {
        let owner = |keys: &Keys| keys.owners.get(key, |_| ()).is_some();
        self.keys.as_ref().is_none_or(owner)
    }

    /// Whether a document is found by this key that has left it in the reading that is just over: it was inserted again meanwhile, and so was read
    /// twice. Another one that has the key may have been read before.
    fn is_orphaned(&self, key: &[u8]) -> bool {
        !self.is_taken(key) && self.table.get(key, |_| ()).is_some()
    }

    /// Takes in a document that has changed, or is new; not where more is held than may be. Gives the key that it has left, as [`Reference::put`].
    fn change(&self, generation: u8, document: &RawDocument) -> Result<Option<Vec<u8>>, StoreError> {
        self.fits()?;
        Ok(self.put(generation, document, false).1)
    }

    /// Whether no more is held than may be.
    fn fits(&self) -> Result<(), StoreError> {
        let shape = &self.shape;
        if self.bytes() <= shape.max_bytes {
            return Ok(());
        }
        let message = format!(
            "{} takes more than the {} bytes of its max_bytes: raise it, or keep fewer fields",
            shape.collection, shape.max_bytes
        );
        Err(StoreError::permanent("max_bytes", message))
    }

    /// Puts these documents in place of all; gives the first that has no usable key.
    pub fn replace(&self, documents: &[RawDocumentBuf]) -> Option<usize> {
        // All that is held was put by the line below.
        self.sweep(1);
        documents.iter().position(|document| !self.put(0, document, false).0)
    }

    /// Removes the document with this `_id`. Gives the key that it has left, as [`Reference::put`].
    fn remove(&self, id: RawBsonRef<'_>) -> Option<Vec<u8>> {
        let Some(keys) = &self.keys else {
            self.table.remove(&codec::key_of_bson(id)?);
            return None;
        };
        let id = codec::identity(id);
        let left = self.leave(keys, &id, None, None);
        keys.by_id.remove(&id);
        left
    }

    /// Entries that the reading of this generation has not met.
    fn older(&self, generation: u8) -> u64 {
        self.table.older(generation) + self.keys.as_ref().map_or(0, |keys| keys.older(generation))
    }

    fn sweep(&self, generation: u8) {
        self.table.sweep(generation);
        if let Some(keys) = &self.keys {
            keys.sweep(generation);
        }
    }

    fn is_current(&self, now: Instant) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// How long ago it was last known to be what the server has; none before it has been read.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        let current = *self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.map(|at| now.saturating_duration_since(at))
    }

    /// Documents held.
    pub fn entries(&self) -> u64 {
        match &self.on_demand {
            Some(on_demand) => on_demand.cache().stats().entries,
            None => self.table.entries(),
        }
    }

    /// Documents held that do not fit their types.
    pub fn unfit(&self) -> u64 {
        self.table.bad()
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        if let Some(on_demand) = &self.on_demand {
            return on_demand.cache().stats().bytes;
        }
        self.table.bytes() + self.keys.as_ref().map_or(0, Keys::bytes)
    }
}

fn unfit(shape: &Shape, reason: &str) -> StoreError {
    StoreError::permanent(
        "reference_type",
        format!("a document of {}: {reason}", shape.collection),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{Document, RawDocumentBuf, doc};

    fn reference(key: &str) -> Reference {
        Reference::new(Shape {
            name: "partners".into(),
            collection: "crm.partners".to_owned(),
            key: key.to_owned(),
            key_type: ColumnType::Text,
            fields: vec![("name".to_owned(), Type::String)],
            max_bytes: 1 << 20,
        })
    }

    fn put(to: &Reference, document: &Document) -> bool {
        to.put(0, &RawDocumentBuf::try_from(document).unwrap(), false).0
    }

    fn name(of: &Reference, key: &str) -> Option<Value<'static>> {
        of.find(&Value::String(key.into())).unwrap().map(|row| row[0].clone())
    }

    #[test]
    fn a_document_is_found_by_another_field_than_its_id_and_follows_a_change_of_it() {
        let partners = reference("code");
        assert!(put(&partners, &doc! { "_id": 1, "code": "a", "name": "Ada" }));
        assert_eq!(name(&partners, "a"), Some(Value::String("Ada".into())));
        assert!(put(&partners, &doc! { "_id": 1, "code": "b", "name": "Ada" }));
        assert_eq!((name(&partners, "a"), partners.entries()), (None, 1));
        assert!(
            !put(&partners, &doc! { "_id": 1, "name": "Ada" }),
            "it has no key any more"
        );
        assert_eq!((name(&partners, "b"), partners.entries()), (None, 0));
        put(&partners, &doc! { "_id": 2, "code": "c", "name": "Bob" });
        partners.remove(RawBsonRef::Int32(2));
        assert_eq!(partners.entries(), 0);
    }

    #[test]
    fn of_two_documents_with_one_key_the_end_of_the_other_changes_nothing() {
        let partners = reference("code");
        let ada = Some(Value::String("Ada".into()));
        put(&partners, &doc! { "_id": 1, "code": "a", "name": "Old" });
        put(&partners, &doc! { "_id": 2, "code": "a", "name": "Ada" });
        partners.remove(RawBsonRef::Int32(1));
        assert_eq!(name(&partners, "a"), ada);
        put(&partners, &doc! { "_id": 1, "code": "a", "name": "Old" });
        put(&partners, &doc! { "_id": 2, "code": "a", "name": "Ada" });
        put(&partners, &doc! { "_id": 1, "code": "b", "name": "Old" });
        assert_eq!((name(&partners, "a"), partners.entries()), (ada, 2));
        put(&partners, &doc! { "_id": 1, "name": "Old" });
        let left = partners.remove(RawBsonRef::Int32(2)).unwrap();
        assert_eq!(
            name(&partners, "a"),
            Some(Value::String("Ada".into())),
            "until none is found"
        );
        partners.is_free(&left);
        assert_eq!((name(&partners, "a"), name(&partners, "b")), (None, None));
        assert_eq!(partners.entries(), 0);
        let keys = partners.keys.as_ref().unwrap();
        assert_eq!((keys.owners.entries(), keys.by_id.entries()), (0, 0));
    }

    #[test]
    fn a_key_that_is_left_is_given_where_another_document_may_have_it() {
        let partners = reference("code");
        let change = |document: Document| {
            partners
                .change(0, &RawDocumentBuf::try_from(&document).unwrap())
                .unwrap()
        };
        let key = |of: &str| codec::key_of_value(&Value::String(of.into()));
        for (id, code) in [(1, "a"), (2, "a"), (2, "a"), (3, "b")] {
            assert_eq!(change(doc! { "_id": id, "code": code, "name": "Ada" }), None);
        }
        assert_eq!(partners.remove(RawBsonRef::Int32(3)), None, "it was alone");
        let moved = change(doc! { "_id": 2, "code": "b", "name": "Ada" });
        assert_eq!(moved, key("a"));
        assert!(name(&partners, "a").is_some() && !partners.is_taken(&key("a").unwrap()));
        change(doc! { "_id": 1, "code": "a", "name": "Old" });
        // A third one may be there.
        assert_eq!(partners.remove(RawBsonRef::Int32(1)), key("a"));
        partners.is_free(&key("a").unwrap());
        assert_eq!(name(&partners, "a"), None);
        change(doc! { "_id": 1, "code": "a", "name": "Old" });
        assert_eq!(partners.remove(RawBsonRef::Int32(1)), None);
    }

    #[test]
    fn a_key_that_was_left_amid_a_reading_is_found_out_when_it_is_over() {
        let partners = reference("code");
        let a = codec::key_of_value(&Value::String("a".into())).unwrap();
        let read = |generation, documents: &[(i32, &str)]| {
            let mut left = Vec::new();
            for (id, code) in documents {
                let document = doc! { "_id": *id, "code": *code, "name": "Ada" };
                let document = RawDocumentBuf::try_from(&document).unwrap();
                left.extend(partners.put(generation, &document, true).1);
            }
            partners.sweep(generation);
            left
        };
        assert!(read(1, &[(1, "a"), (2, "a")]).is_empty());
        assert_eq!(read(2, &[(2, "b"), (1, "a")]), std::slice::from_ref(&a));
        assert!(!partners.is_orphaned(&a), "the other one was read behind it");
        read(3, &[(2, "a"), (1, "a")]);
        assert_eq!(read(4, &[(2, "b"), (1, "c")]), std::slice::from_ref(&a));
        assert!(!partners.is_orphaned(&a) && name(&partners, "a").is_none());
        // The first is inserted again while they are read.
        assert_eq!(read(5, &[(2, "a"), (1, "a"), (1, "d")]), std::slice::from_ref(&a));
        assert!(partners.is_orphaned(&a) && name(&partners, "a").is_some());
    }

    #[test]
    fn a_key_that_passes_to_another_document_is_found_all_through_a_reading() {
        let partners = reference("code");
        let read = |generation, id: i32, code: &str| {
            let document = doc! { "_id": id, "code": code, "name": id.to_string() };
            let document = RawDocumentBuf::try_from(&document).unwrap();
            assert_eq!(partners.put(generation, &document, true), (true, None));
        };
        let named = |id: &'static str| Some(Value::String(id.into()));
        read(1, 1, "a");
        read(1, 2, "b");
        partners.sweep(1);
        read(2, 1, "c");
        assert_eq!(name(&partners, "a"), named("1"), "who has it now is not read yet");
        read(2, 2, "a");
        assert_eq!((name(&partners, "a"), name(&partners, "b")), (named("2"), named("2")));
        partners.sweep(2);
        assert_eq!((name(&partners, "b"), partners.entries()), (None, 2));
        // The first is read twice, for it is inserted again meanwhile: no sweep would remove what it had in this reading.
        read(3, 1, "c");
        read(3, 1, "d");
        partners.sweep(3);
        assert_eq!((name(&partners, "c"), name(&partners, "d")), (None, named("1")));
    }

    #[test]
    fn where_there_is_no_room_a_reading_finds_out_what_is_gone() {
        let partners = reference("code");
        let document = |id: i32, code: &str| {
            let document = doc! { "_id": id, "code": code, "name": "Ada" };
            RawDocumentBuf::try_from(&document).unwrap()
        };
        for (id, code) in [(1, "a"), (2, "b"), (3, "c")] {
            partners.put(1, &document(id, code), true);
        }
        partners.sweep(1);
        assert_eq!((partners.older(1), partners.older(2)), (0, 9));
        // The first has another key, and the second another identity; the fourth is new.
        for (id, code) in [(1, "d"), (5, "b"), (3, "c"), (4, "e")] {
            partners.mark(2, &document(id, code));
        }
        assert_eq!(partners.older(2), 4, "all of the first, and who had the second key");
        partners.sweep(2);
        let found = ["a", "b", "c", "d", "e"].map(|code| name(&partners, code).is_some());
        assert_eq!(found, [false, true, true, false, false]);
        for (id, code) in [(1, "d"), (5, "b"), (3, "c"), (4, "e")] {
            partners.put(3, &document(id, code), true);
        }
        assert_eq!((partners.older(3), partners.entries()), (0, 4));
    }

    #[test]
    fn changes_stop_where_it_is_full() {
        let partners = reference("_id");
        let change = |id: i32| {
            let document = doc! { "_id": id.to_string(), "name": "n".repeat(1000) };
            partners.change(0, &RawDocumentBuf::try_from(&document).unwrap())
        };
        let taken = (0..10_000).filter(|id| change(*id).is_ok()).count();
        assert_eq!(partners.entries(), taken as u64);
        assert!((900..1100).contains(&taken), "{taken}");
        let largest = partners.shape.max_bytes + 2000;
        assert!(partners.bytes() <= largest, "passed by one document at most");
        assert_eq!(change(0).unwrap_err().label, "max_bytes");
    }

    #[test]
    fn a_document_that_does_not_fit_fails_who_needs_it_until_it_is_mended() {
        let partners = reference("_id");
        put(&partners, &doc! { "_id": "a", "name": 7 });
        let error = partners.find(&Value::String("a".into())).unwrap_err();
        assert_eq!(
            error.message,
            "a document of crm.partners: field name is int, and string is expected"
        );
        assert_eq!(partners.unfit(), 1);
        put(&partners, &doc! { "_id": "a", "name": "Ada" });
        assert_eq!(
            (name(&partners, "a"), partners.unfit()),
            (Some(Value::String("Ada".into())), 0)
        );
        assert_eq!(name(&partners, "b"), None);
    }
}
