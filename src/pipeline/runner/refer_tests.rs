//! Tests of reference look-ups: what is timed, and what is counted for a request that many wait for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mongodb::bson::{Document, doc};

use super::tests::{Bench, REFERRED, bench_on};
use super::*;
use crate::avro::value::Type;
use crate::pipeline::completions::Batch;
use crate::reference::fake::{all, member, refused};
use crate::reference::on_demand::OnDemand;
use crate::reference::server::Server;
use crate::reference::{Reference, References, Shape};
use crate::store::cache::CacheOptions;
use crate::store::memory::MemoryStore;
use crate::store::types::ColumnType;

fn shape() -> Shape {
    Shape {
        name: "partners".into(),
        collection: "crm.partners".to_owned(),
        key: "_id".to_owned(),
        key_type: ColumnType::BigInt,
        fields: vec![("name".to_owned(), Type::String)],
        max_bytes: 1 << 20,
    }
}

async fn referring(reference: Reference) -> Bench {
    let (store, references) = (MemoryStore::new(), References::new([Arc::new(reference)]));
    bench_on(AnyStore::Memory(store.clone()), store, &references, REFERRED).await
}

/// A bench whose events look up in a collection for which a server gives these answers.
async fn asking(cursors: impl Fn(&str) -> Option<Document> + Send + Sync + 'static) -> Bench {
    let (address, _) = member(true, Duration::ZERO, cursors).await;
    let uri = format!("mongodb://{address}/?replicaSet=rs");
    let source = Server::open(&uri, None).await.unwrap().source("crm.partners", []);
    let hour = Duration::from_secs(3600);
    let options = CacheOptions {
        ttl: hour,
        missing_ttl: hour,
        max_bytes: 1 << 20,
        stale: Duration::ZERO,
    };
    referring(Reference::on_demand(shape(), OnDemand::new(source, options))).await
}

fn ada() -> Document {
    all(vec![doc! { "_id": 1_i64, "name": "Ada" }])
}

/// After failures have cut the limit on concurrency, timed requests raise it again. Where nothing is ever timed there is no limit to find.
#[tokio::test]
async fn a_request_for_a_document_is_timed_and_an_answer_from_memory_is_not() {
    let mut asking = asking(|_| Some(ada())).await;
    for offset in 0..3 {
        let end = asking.run(offset, 1, "click").await;
        assert!(matches!(end, How::Finished(Outcome::Done)), "{end:?}");
    }
    let timed = |bench: &Bench| bench.runtime.steps[0].step.seconds.get_sample_count();
    assert_eq!(timed(&asking), 1);
    let mut held = referring(Reference::new(shape())).await;
    let event = held.event(0, 1, "click", false);
    held.runtime.process(event).await;
    assert!(matches!(held.end(), How::Finished(Outcome::Skipped)));
    assert_eq!(timed(&held), 0);
    assert!(asking.runtime.program.asks() && !held.runtime.program.asks());
}

#[tokio::test]
async fn a_failed_request_for_a_document_that_many_wait_for_is_counted_once() {
    let failed = AtomicBool::new(false);
    let mut bench = asking(move |_| {
        Some(if failed.swap(true, Ordering::Relaxed) {
            ada()
        } else {
            refused(10334)
        })
    })
    .await;
    let events: Vec<_> = (0..5).map(|offset| bench.event(offset, 1, "click", false)).collect();
    join_all(events.into_iter().map(|event| bench.runtime.process(event))).await;
    let mut batch = Batch::default();
    bench.completions.take(&mut batch);
    let done = batch.completions.iter();
    let done = done.filter(|ended| matches!(ended.how, How::Finished(Outcome::Done)));
    assert_eq!(done.count(), 5);
    let step = &bench.runtime.steps[0].step;
    assert_eq!((step.transient.get(), step.retries.get()), (1, 1));
}
