//! References: MongoDB collections in which steps look up documents, held in memory and kept fresh.
//!
//! A partner, a campaign or a tariff is needed for every record but changes only a few times a day. A copy in memory answers in less than a
//! microsecond, also while the server is down. The parts: [`server`] speaks to MongoDB, [`sample`] finds types, [`codec`] and [`table`] hold the
//! documents, [`follow`] keeps them fresh; [`on_demand`] is for collections that are too big for memory.
//!
//! Invariants: a reference has been read completely before the first record is consumed; what is held is never given up for a refresh that failed; a
//! document that does not fit the checked types fails the records that need it, and changes nothing silently.

pub mod codec;
#[cfg(test)]
pub(crate) mod fake;
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
    /// Keys of more than one document: of several by another field than `_id`, and of those whose `_id` are of several kinds and read the same.
    shared: Table,
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

    /// Whether another document is found by this key.
    fn is_of_another(&self, id: &[u8], key: &[u8]) -> bool {
        self.owners.get(key, |owner| owner != Ok(id)).unwrap_or_default()
    }

    fn put(&self, generation: u16, id: &[u8], key: &[u8]) {
        self.by_id.put(generation, id, Ok(key));
        self.owners.put(generation, key, Ok(id));
    }

    /// Says that a document is still there; with another key than it had, only that the key is.
    fn mark(&self, generation: u16, id: &[u8], key: &[u8]) {
        if self.by_id.get(id, |had| had == Ok(key)).unwrap_or_default() {
            self.by_id.mark(generation, id);
        }
        self.owners.mark(generation, key);
    }

    fn sweep(&self, generation: u16) {
        self.by_id.sweep(generation);
        self.owners.sweep(generation);
    }

    fn older(&self, generation: u16) -> u64 {
        self.by_id.older(generation) + self.owners.older(generation)
    }

    fn bytes(&self) -> u64 {
        self.by_id.bytes() + self.owners.bytes()
    }
}

impl Reference {
    /// An empty one.
    pub fn new(shape: Shape) -> Reference {
        Reference {
            keys: (shape.key != "_id").then(Keys::default),
            shape,
            table: Table::default(),
            shared: Table::default(),
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
        let id = || document.get("_id").ok().flatten();
        let keys = self.keys.as_ref();
        let identity = keys.and_then(|keys| Some((keys, codec::identity(id()?))));
        (codec::key_of_document(&self.shape.key, document), identity)
    }

    /// Takes a document in: whether it has a usable key, and the key that it has left, where another document may have that. In a `reading` all
    /// documents come, and then a sweep.
    fn put(&self, generation: u16, document: &RawDocument, reading: bool) -> (bool, Option<Vec<u8>>) {
        let (key, identity) = self.names(document);
        let (mut left, mut kind, mut is_shared) = (None, 0, false);
        if let Some((keys, id)) = identity {
            left = self.leave(keys, &id, key.as_deref(), reading.then_some(generation));
            match &key {
                Some(key) => {
                    is_shared = keys.is_of_another(&id, key);
                    keys.put(generation, &id, key);
                }
                None => keys.by_id.remove(&id),
            }
        } else if let (Some(key), Ok(Some(id))) = (&key, document.get("_id")) {
            kind = codec::kind(id);
            is_shared = self.table.kind(key).is_some_and(|held| held != kind);
        }
        let Some(key) = key else { return (false, left) };
        if is_shared {
            self.shared.put(generation, &key, Ok(&[]));
        }
        let mut content = Vec::new();
        let encoded = codec::encode_document(&self.shape.fields, document, &mut content);
        let content = encoded.as_ref().map(|()| &*content).map_err(String::as_str);
        self.table.put_as(kind, generation, &key, content);
        (true, left)
    }

    /// A document that is read is still there, and what there is of it is kept as it is: for where there is no room for more. Of one that is not held
    /// nothing is taken in.
    fn mark(&self, generation: u16, document: &RawDocument) {
        let (Some(key), identity) = self.names(document) else {
            return;
        };
        self.table.mark(generation, &key);
        self.shared.mark(generation, &key);
        if let Some((keys, id)) = identity {
            keys.mark(generation, &id, &key);
        }
    }

    /// A document is no longer found by the key that it had, unless that is still its key: gives the key where another document may have it.
    /// `reading` is the generation of the reading that finds so, if one does.
    fn leave(&self, keys: &Keys, id: &[u8], key: Option<&[u8]>, reading: Option<u16>) -> Option<Vec<u8>> {
        let (old, true) = keys.had(id)? else { return None };
        if key == Some(&*old) {
            return None;
        }
        keys.owners.remove(&old);
        // What it had is found until another one is there, or none: a record must not miss both.
        if self.is_shared(&old) {
            return Some(old);
        }
        // Who takes the key may be read later; if nobody does, the sweep removes what was not met.
        let is_swept = reading.is_some_and(|reading| self.table.generation(&old) != Some(reading));
        if !is_swept {
            self.table.remove(&old);
        }
        None
    }

    /// Whether another document may have this key besides the one that is found by it.
    fn is_shared(&self, key: &[u8]) -> bool {
        self.shared.get(key, |_| ()).is_some()
    }

    /// No document has this key.
    fn is_free(&self, key: &[u8]) {
        self.shared.remove(key);
        self.table.remove(key);
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
    fn change(&self, generation: u16, document: &RawDocument) -> Result<Option<Vec<u8>>, StoreError> {
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
            let key = codec::key_of_bson(id)?;
            // Of the other kind is another document.
            if self.table.kind(&key) == Some(codec::kind(id)) {
                if self.is_shared(&key) {
                    return Some(key);
                }
                self.table.remove(&key);
            }
            return None;
        };
        let id = codec::identity(id);
        let left = self.leave(keys, &id, None, None);
        keys.by_id.remove(&id);
        left
    }

    /// Entries that the reading of this generation has not met.
    fn older(&self, generation: u16) -> u64 {
        self.table.older(generation)
            + self.shared.older(generation)
            + self.keys.as_ref().map_or(0, |keys| keys.older(generation))
    }

    fn sweep(&self, generation: u16) {
        self.table.sweep(generation);
        self.shared.sweep(generation);
        if let Some(keys) = &self.keys {
            keys.sweep(generation);
        }
    }

    /// It has all that the server had at this time.
    fn is_current(&self, at: Instant) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (*current).max(Some(at));
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
        self.table.bytes() + self.shared.bytes() + self.keys.as_ref().map_or(0, Keys::bytes)
    }
}

fn unfit(shape: &Shape, reason: &str) -> StoreError {
    StoreError::permanent(
        "reference_type",
        format!("a document of {}: {reason}", shape.collection),
    )
}

#[cfg(test)]
mod tests;
