//! References with `mode = "on_demand"`, for collections that are too big for memory: a document is requested when a record needs it, and cached.
//!
//! The cache is the one of look-ups: documents and absences expire, concurrent requests of one key share a query, and memory is bounded. Invariants:
//! a key finds here what [`super::codec`] finds in memory by it; a document that does not fit its types fails the records that need it, and is not
//! cached; while the server's breaker is open, only its probes send requests, and nothing waits here.

use std::time::Instant;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Uuid};

use super::codec::{self, decode_document, encode_document};
use super::server::Source;
use super::{Shape, unfit};
use crate::avro::uuid;
use crate::avro::value::Value;
use crate::breaker::gate::{Gate, NOT_ASKED};
use crate::retry::Class;
use crate::store::cache::{Cache, CacheOptions, Hit, Origin};
use crate::store::{Row, StoreError};

/// Requests single documents, and caches them.
#[derive(Debug)]
pub struct OnDemand {
    source: Source,
    cache: Cache,
}

impl OnDemand {
    /// For this collection.
    pub fn new(source: Source, options: CacheOptions) -> OnDemand {
        OnDemand {
            source,
            cache: Cache::new(options),
        }
    }

    /// The cache of documents.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The document with this key, and where it came from. While the server fails, an expired document is returned, if the configuration allows that.
    /// With `awaited`, a cached absence is ignored and the server is asked again.
    pub(super) async fn find(
        &self,
        shape: &Shape,
        key: &Value<'_>,
        gate: &Gate,
        awaited: bool,
    ) -> Result<(Hit, Origin), StoreError> {
        let Some(bytes) = codec::key_of_value(key) else {
            return Ok((Hit::default(), Origin::Cached));
        };
        if awaited {
            self.cache.forget_absence(&bytes);
        }
        let now = Instant::now();
        if let Some(hit) = self.cache.get(&bytes, now) {
            return Ok((hit, Origin::Cached));
        }
        let old = || self.cache.get_stale(&bytes, Instant::now());
        // If an expired document will do, do not wait for the probe of another caller.
        let result = if gate.is_open() && self.cache.is_loading(&bytes) && old().is_some() {
            Err(not_asked())
        } else {
            let load = || self.load(shape, key, &bytes, gate);
            self.cache.get_or_load(&bytes, now, load).await
        };
        match result {
            Err(error) if error.class == Class::Transient => old().map(|hit| (hit, Origin::Stale)).ok_or(error),
            found => found,
        }
    }

    async fn load(&self, shape: &Shape, key: &Value<'_>, bytes: &[u8], gate: &Gate) -> Result<Option<Row>, StoreError> {
        let room = self.source.room();
        // Acquired before the breaker is asked, so that a caller that has waited learns the breaker's current state.
        let _turn = match room.try_acquire() {
            Ok(turn) => Some(turn),
            Err(_) if gate.is_open() => return Err(not_asked()),
            Err(_) => room.acquire().await.ok(),
        };
        let Ok(pass) = gate.pass() else {
            return Err(not_asked());
        };
        let found = match self.source.find(&shape.key, candidates(key), bytes).await {
            Ok(found) => {
                pass.succeeded();
                found
            }
            Err(error) => {
                if error.class == Class::Transient {
                    pass.failed();
                }
                return Err(error);
            }
        };
        let Some(document) = found else {
            return Ok(None);
        };
        let mut content = Vec::new();
        encode_document(&shape.fields, &document, &mut content).map_err(|reason| unfit(shape, &reason))?;
        let row = decode_document(&shape.fields, &content).map(Vec::into_boxed_slice);
        let unreadable = || StoreError::fatal("internal", "a document that was just written cannot be read");
        row.map(Some).ok_or_else(unreadable)
    }
}

fn not_asked() -> StoreError {
    let message = "MongoDB was not asked: other requests got no answer, and its breaker is open";
    StoreError::transient(NOT_ASKED, message)
}

/// The values of a document's key field that a step's key matches: text also matches UUIDs and ObjectIds.
pub(super) fn candidates(key: &Value<'_>) -> Vec<Bson> {
    let uuid = |bytes: [u8; 16]| Bson::Binary(Uuid::from_bytes(bytes).into());
    match key {
        Value::String(text) => {
            let mut all = vec![Bson::String(text.to_string())];
            // Only in the form that MongoDB itself prints.
            all.extend(
                ObjectId::parse_str(text)
                    .ok()
                    .filter(|id| id.to_hex() == **text)
                    .map(Bson::ObjectId),
            );
            all.extend(
                Uuid::parse_str(text)
                    .ok()
                    .filter(|id| uuid::text(&id.bytes()) == *text.as_bytes())
                    .map(|id| uuid(id.bytes())),
            );
            all
        }
        Value::Uuid(bytes) => vec![Bson::String(uuid::string(bytes)), uuid(*bytes)],
        // Numbers are compared by value, whatever their type.
        Value::Int(number) => vec![Bson::Int64(i64::from(*number))],
        Value::Long(number) => vec![Bson::Int64(*number)],
        Value::Double(number) => vec![Bson::Double(*number)],
        Value::Bytes(bytes) => codec::BYTES.map(|subtype| binary(subtype, bytes)).into(),
        _ => Vec::new(),
    }
}

fn binary(subtype: BinarySubtype, bytes: &[u8]) -> Bson {
    let bytes = bytes.to_vec();
    Bson::Binary(Binary { subtype, bytes })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mongodb::bson::doc;

    use super::*;
    use crate::breaker::Rules;
    use crate::reference::fake::{all, member, nothing};
    use crate::reference::server::Server;
    use crate::store::types::ColumnType;

    /// For the fake server at this address, with `code` as the key; results are cached for an hour.
    async fn on_demand(address: &str) -> (OnDemand, Shape) {
        let uri = format!("mongodb://{address}/?replicaSet=rs");
        let source = Server::open(&uri, None).await.unwrap().source("crm.partners", []);
        let hour = Duration::from_secs(3600);
        let options = CacheOptions {
            ttl: hour,
            missing_ttl: hour,
            max_bytes: 1 << 20,
            stale: Duration::ZERO,
        };
        let shape = Shape {
            name: "partners".into(),
            collection: "crm.partners".to_owned(),
            key: "code".to_owned(),
            key_type: ColumnType::Any,
            fields: Vec::new(),
            max_bytes: 1 << 20,
        };
        (OnDemand::new(source, options), shape)
    }

    #[tokio::test]
    async fn only_what_memory_would_find_is_found() {
        let decimal = "7".parse::<mongodb::bson::Decimal128>().unwrap();
        let (seven, text) = (Value::Long(7), Value::String("a".into()));
        for (codes, key, is_found) in [
            (vec![Bson::Int32(7)], &seven, true),
            (vec![Bson::Double(7.0)], &seven, true),
            (vec![Bson::Decimal128(decimal)], &seven, false),
            // Another document with an equal value must not hide the right one.
            (vec![Bson::Decimal128(decimal), Bson::Int32(7)], &seven, true),
            (vec![Bson::Array(vec![Bson::Int32(7)])], &seven, false),
            (vec![Bson::String("a".to_owned())], &text, true),
            (vec![Bson::String("A".to_owned())], &text, false),
        ] {
            let documents: Vec<_> = codes.iter().map(|code| doc! { "code": code.clone() }).collect();
            let (address, mut commands) = member(true, Duration::ZERO, move |_| Some(all(documents.clone()))).await;
            let (asks, shape) = on_demand(&address).await;
            let gate = Gate::new("mongo", Rules::default(), None);
            let (found, _) = asks.find(&shape, key, &gate, false).await.unwrap();
            assert_eq!(found.is_some(), is_found, "{codes:?}");
            let command = commands.try_recv().unwrap();
            let filter = command.get_document("filter").unwrap().get_document("code").unwrap();
            assert_eq!(filter.get_document("$not").unwrap(), &doc! { "$type": "array" });
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_document_asks_in_spite_of_an_absence_that_is_kept() {
        let (address, mut commands) = member(true, Duration::ZERO, |_| Some(nothing())).await;
        let (asks, shape) = on_demand(&address).await;
        let gate = Gate::new("mongo", Rules::default(), None);
        for (awaited, asked) in [(false, 1), (false, 0), (true, 1), (true, 1), (false, 0)] {
            let found = asks.find(&shape, &Value::Long(7), &gate, awaited).await.unwrap();
            assert_eq!(*found.0, None);
            let asked_now = std::iter::from_fn(|| commands.try_recv().ok()).count();
            assert_eq!(asked_now, asked, "awaited: {awaited}");
        }
    }

    #[test]
    fn a_key_stands_for_all_that_memory_would_find_by_it() {
        let id = ObjectId::parse_str("65f1a2b3c4d5e6f708192a3b").unwrap();
        let uuid = Uuid::parse_str("7d444840-9dc0-11d1-b245-5ffdce74fad2").unwrap();
        let mut documents = vec![
            Bson::String("a".into()),
            Bson::String(id.to_hex()),
            Bson::ObjectId(id),
            Bson::Binary(uuid.into()),
            Bson::Int64(7),
        ];
        let all = 0..=u8::MAX;
        documents.extend(all.map(|subtype| binary(subtype.into(), &uuid.bytes())));
        let keys = [
            Value::String("a".into()),
            Value::String(id.to_hex().into()),
            Value::String(uuid.to_string().into()),
            Value::String("7D444840-9DC0-11D1-B245-5FFDCE74FAD2".into()),
            Value::Uuid(uuid.bytes()),
            Value::Int(7),
            Value::Long(7),
            Value::Bytes(uuid.bytes().to_vec().into()),
            Value::Bool(true),
        ];
        for key in &keys {
            let wanted = codec::key_of_value(key);
            let all = candidates(key);
            for document in &documents {
                let raw = mongodb::bson::RawBson::try_from(document.clone()).unwrap();
                let in_memory = wanted.is_some() && codec::key_of_bson(raw.as_raw_bson_ref()) == wanted;
                assert_eq!(all.contains(document), in_memory, "{key:?} and {document:?}");
            }
        }
    }
}
