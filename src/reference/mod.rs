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
    /// A set of these references.
    pub fn new(references: impl IntoIterator<Item = Arc<Reference>>) -> References {
        let named = references.into_iter().map(|r| (r.shape.name.to_string(), r));
        References {
            by_name: named.collect(),
        }
    }

    /// The reference with this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Reference>> {
        self.by_name.get(name)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Reference>> {
        self.by_name.values()
    }
}

/// The shape of a reference, as declared or sampled.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// `database.collection`.
    pub collection: String,
    /// The key field, by which documents are found.
    pub key: String,
    /// The type that a step's key has to fit.
    pub key_type: ColumnType,
    /// The fields that are kept, and their types; each may also be null.
    pub fields: Vec<(String, Type)>,
    /// Maximum number of bytes that it may hold.
    pub max_bytes: u64,
}

/// One collection in memory.
#[derive(Debug)]
pub struct Reference {
    /// Its shape.
    pub shape: Shape,
    table: Table,
    /// Keys that several documents may have: because the key is another field than `_id`, or because `_id`s of several BSON types read the same.
    shared: Table,
    /// Present if the key is not `_id`.
    keys: Option<Keys>,
    /// When the copy was last known to match the server.
    current: Mutex<Option<Instant>>,
    /// Present if documents are requested on demand, and not held in memory.
    on_demand: Option<OnDemand>,
}

/// Which document is found by which key, if the key is not `_id`. Several documents may have one key: the one read last is found. Changes of the
/// others have no effect, and when the document that is found leaves the key, the server is asked for another one.
#[derive(Debug, Default)]
struct Keys {
    /// The key of each document, by its `_id`.
    by_id: Table,
    /// The `_id` of the document that is found, by key.
    owners: Table,
}

/// The `_id` of a document, and the [`Keys`] that track it.
type Identity<'k> = (&'k Keys, Vec<u8>);

impl Keys {
    /// The key that a document had, and whether that key finds this document.
    fn had(&self, id: &[u8]) -> Option<(Vec<u8>, bool)> {
        let bytes = |content: Result<&[u8], &str>| content.unwrap_or_default().to_vec();
        let key = self.by_id.get(id, bytes)?;
        let owns = self.owners.get(&key, |owner| owner == Ok(id)).unwrap_or_default();
        Some((key, owns))
    }

    /// Whether this key finds another document.
    fn is_of_another(&self, id: &[u8], key: &[u8]) -> bool {
        self.owners.get(key, |owner| owner != Ok(id)).unwrap_or_default()
    }

    fn put(&self, generation: u16, id: &[u8], key: &[u8]) {
        self.by_id.put(generation, id, Ok(key));
        self.owners.put(generation, key, Ok(id));
    }

    /// Marks a document as still present; if its key is not the one it had, marks only the new key.
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
    /// An empty reference.
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

    /// A reference that requests each document when it is needed.
    pub fn on_demand(shape: Shape, on_demand: OnDemand) -> Reference {
        Reference {
            on_demand: Some(on_demand),
            ..Reference::new(shape)
        }
    }

    /// The part that requests documents, if they are not held in memory.
    pub fn asks(&self) -> Option<&OnDemand> {
        self.on_demand.as_ref()
    }

    /// The document with this key, requested from the server if necessary, and where it came from. With `awaited`, a cached absence is ignored.
    ///
    /// # Errors
    /// Transient if the server does not answer, and if its breaker, `gate`, is open.
    pub async fn look_up(&self, key: &Value<'_>, gate: &Gate, awaited: bool) -> Result<(Hit, Origin), StoreError> {
        match &self.on_demand {
            // On the heap, because otherwise the future of every event would be large enough for a request.
            Some(on_demand) => Box::pin(on_demand.find(&self.shape, key, gate, awaited)).await,
            None => self.find(key).map(|row| (Arc::new(row), Origin::Loaded)),
        }
    }

    /// Whether documents are requested on demand, and not held in memory.
    pub fn is_on_demand(&self) -> bool {
        self.on_demand.is_some()
    }

    /// The document in memory with this key: its fields, in the order of the shape.
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

    /// The key of a document, if it is usable, and the document's identity, if the key is not `_id`.
    fn names(&self, document: &RawDocument) -> (Option<Vec<u8>>, Option<Identity<'_>>) {
        let id = || document.get("_id").ok().flatten();
        let keys = self.keys.as_ref();
        let identity = keys.and_then(|keys| Some((keys, codec::identity(id()?))));
        (codec::key_of_document(&self.shape.key, document), identity)
    }

    /// Stores a document. Returns whether it has a usable key, and the key that it has left if another document may have that one. With `reading`, it
    /// belongs to a full read, which brings all documents and ends with a sweep.
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

    /// Marks a document as still present and leaves its content as it is, for a read that has no more room. A document that is not held is not
    /// stored.
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

    /// Stops finding a document by the key that it had, unless `key` is the same; returns the old key if another document may have it. `reading` is
    /// the generation of the full read that noticed it, if any.
    fn leave(&self, keys: &Keys, id: &[u8], key: Option<&[u8]>, reading: Option<u16>) -> Option<Vec<u8>> {
        let (old, true) = keys.had(id)? else { return None };
        if key == Some(&*old) {
            return None;
        }
        keys.owners.remove(&old);
        // The old document is found until another one is fetched or there is none, so that no record misses both.
        if self.is_shared(&old) {
            return Some(old);
        }
        // A document that is read later may take over the key. If none does, the sweep removes the entry, because this read has not met it.
        let is_swept = reading.is_some_and(|reading| self.table.generation(&old) != Some(reading));
        if !is_swept {
            self.table.remove(&old);
        }
        None
    }

    /// Whether another document may have this key, too.
    fn is_shared(&self, key: &[u8]) -> bool {
        self.shared.get(key, |_| ()).is_some()
    }

    /// Removes a key that no document has any more.
    fn is_free(&self, key: &[u8]) {
        self.shared.remove(key);
        self.table.remove(key);
    }

    /// Whether a document has this key; always true if the key is `_id`.
    fn is_taken(&self, key: &[u8]) -> bool {
        let owner = |keys: &Keys| keys.owners.get(key, |_| ()).is_some();
        self.keys.as_ref().is_none_or(owner)
    }

    /// Whether, right after a full read, this key still finds a document that has left it. That happens if the document was inserted again during the
    /// read, and so was read twice. Another document with the key may have been read before.
    fn is_orphaned(&self, key: &[u8]) -> bool {
        !self.is_taken(key) && self.table.get(key, |_| ()).is_some()
    }

    /// Stores a changed or new document, unless `max_bytes` is exceeded already. Returns the key that it has left, as [`Reference::put`].
    fn change(&self, generation: u16, document: &RawDocument) -> Result<Option<Vec<u8>>, StoreError> {
        self.fits()?;
        Ok(self.put(generation, document, false).1)
    }

    /// Fails if more than `max_bytes` is held.
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

    /// Replaces all documents by these; returns the position of the first one without a usable key.
    pub fn replace(&self, documents: &[RawDocumentBuf]) -> Option<usize> {
        // This removes everything: the line below puts documents only with generation 0.
        self.sweep(1);
        documents.iter().position(|document| !self.put(0, document, false).0)
    }

    /// Removes the document with this `_id`. Returns the key that it has left, as [`Reference::put`].
    fn remove(&self, id: RawBsonRef<'_>) -> Option<Vec<u8>> {
        let Some(keys) = &self.keys else {
            let key = codec::key_of_bson(id)?;
            // An `_id` of another kind belongs to another document.
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

    /// Number of entries that the full read of this generation has not met.
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

    /// Records that the copy has everything that the server had at this time.
    fn is_current(&self, at: Instant) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (*current).max(Some(at));
    }

    /// How long ago the copy was last known to match the server; `None` before the first read.
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
