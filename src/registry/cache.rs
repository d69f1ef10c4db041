//! Schemas by id: each is requested once, and kept as long as there is room.
//!
//! An id never changes its meaning, so what was found stays valid. When the total weighs too much, the least recently used schema is evicted
//! (`Lru`) and requested again when needed. When many records arrive with a new id, the first sends the request and the others wait for its answer
//! (single flight). Failures are different:
//! - a transient failure is not kept: those who waited share it, and the next caller asks again;
//! - an unknown id is kept for a short time, so that a flood of bad records does not become a flood of requests, and a schema that is registered a
//!   moment later is found soon. The time has a jitter of a fifth, so that processes do not ask at the same moment.
//!
//! Callers are told whether waiting for an unknown id is worthwhile: only for few new ids, and once each.
//!
//! A request is a task of the runtime on which it was first needed, and ends with that runtime at the latest; waiters on other runtimes then get a
//! transient failure. The task stores its own answer, because the caller may have given up, and later callers must not find a stale request.
//!
//! Invariants: at most one request per id is under way. The number of failures is bounded, because ids come from records and anybody may send any. No
//! lock is held across an await.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::error::RegistryError;
use super::lru::Lru;
use super::{Fetched, RegistryStats};
use crate::retry::Class;

/// Maximum number of failures cached at once.
const FAILURES: usize = 10_000;

/// A new id is requested patiently only while fewer ids than this are cached as unknown, or as referring to a missing schema. A flood of them is not
/// waited for.
const FEW: usize = 3;

type Answer = Result<Arc<Fetched>, RegistryError>;

/// An id whose schema is not known.
enum Slot {
    Failed { error: RegistryError, until: Instant },
    Asking(Shared<BoxFuture<'static, Answer>>),
}

#[derive(Default)]
struct Slots {
    known: Lru<Arc<Fetched>>,
    others: HashMap<u32, Slot>,
}

/// The cache. It is shared by `Arc`, because a request outlives a caller that gives up.
pub(super) struct Cache {
    slots: RwLock<Slots>,
    unknown_ttl: Duration,
    random: RandomState,
    stats: Arc<RegistryStats>,
}

impl Cache {
    pub(super) fn new(unknown_ttl: Duration, stats: Arc<RegistryStats>) -> Arc<Self> {
        Arc::new(Self {
            slots: RwLock::default(),
            unknown_ttl,
            random: RandomState::new(),
            stats,
        })
    }

    /// The schema of `id`, if it is cached.
    pub(super) fn known(&self, id: u32) -> Option<Arc<Fetched>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.known.get(id).cloned()
    }

    /// The schema of `id`. `fetch` makes the request if one is needed; its argument says whether it may be patient.
    pub(super) async fn get<F, R>(self: &Arc<Self>, id: u32, fetch: F) -> Answer
    where
        F: FnOnce(bool) -> R,
        R: Future<Output = Result<Fetched, RegistryError>> + Send + 'static,
    {
        if let Some(fetched) = self.known(id) {
            return Ok(fetched);
        }
        let request = {
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(fetched) = slots.known.get(id) {
                return Ok(Arc::clone(fetched));
            }
            let now = Instant::now();
            match slots.others.get(&id) {
                Some(Slot::Failed { error, until }) if now < *until => return Err(error.clone()),
                Some(Slot::Asking(request)) => request.clone(),
                before @ (Some(Slot::Failed { .. }) | None) => {
                    let patient = before.is_none() && few_unknown(&slots.others, now);
                    let (cache, asked) = (Arc::clone(self), fetch(patient));
                    let kept = tokio::spawn(async move { cache.keep(id, asked.await) });
                    let cache = Arc::clone(self);
                    let request = async move {
                        kept.await
                            .unwrap_or_else(|_| cache.keep(id, Err(RegistryError::Interrupted { id })))
                    };
                    let request = request.boxed().shared();
                    slots.others.insert(id, Slot::Asking(request.clone()));
                    request
                }
            }
        };
        request.await
    }

    /// Inserts a schema that was fetched in another way, for instance as a version of a subject.
    pub(super) fn insert(&self, fetched: Arc<Fetched>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        self.hold(&mut slots, fetched);
    }

    fn keep(&self, id: u32, answer: Result<Fetched, RegistryError>) -> Answer {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        // It may have been inserted in the meantime.
        if let Some(fetched) = slots.known.get(id).cloned() {
            return Ok(fetched);
        }
        let answer = answer.map(Arc::new);
        match &answer {
            Ok(fetched) => self.hold(&mut slots, Arc::clone(fetched)),
            Err(error) if error.class() == Class::Permanent => {
                let now = Instant::now();
                make_room(&mut slots.others, now);
                let until = now + self.unknown_ttl.mul_f64(0.8 + 0.4 * self.fraction(id, now));
                let error = error.clone();
                slots.others.insert(id, Slot::Failed { error, until });
            }
            Err(_) => {
                slots.others.remove(&id);
            }
        }
        answer
    }

    fn hold(&self, slots: &mut Slots, fetched: Arc<Fetched>) {
        slots.others.remove(&fetched.id);
        let size = fetched.size();
        slots.known.insert(fetched.id, fetched, size);
        self.stats
            .schemas
            .store(slots.known.len() as u64, std::sync::atomic::Ordering::Relaxed);
    }

    /// A number from 0 to 1 that differs between processes, ids and times: a keyed hash is random enough for jitter.
    fn fraction(&self, id: u32, now: Instant) -> f64 {
        self.random.hash_one((id, now.into_std())) as f64 / u64::MAX as f64
    }
}

/// Whether fewer than [`FEW`] ids are cached as unknown. A schema that is not Avro is a failure too, but not an unknown id.
fn few_unknown(slots: &HashMap<u32, Slot>, now: Instant) -> bool {
    let unknown = slots
        .values()
        .filter(|s| matches!(s, Slot::Failed { error, until } if error.may_lag() && now < *until));
    unknown.take(FEW).count() < FEW
}

/// If too many failures are cached, forgets those that have expired; if that is not enough, all of them.
fn make_room(slots: &mut HashMap<u32, Slot>, now: Instant) {
    let failures = |slots: &HashMap<u32, Slot>| slots.values().filter(|s| matches!(s, Slot::Failed { .. })).count();
    if slots.len() < FAILURES || failures(slots) < FAILURES {
        return;
    }
    slots.retain(|_, slot| !matches!(slot, Slot::Failed { until, .. } if *until <= now));
    if failures(slots) >= FAILURES {
        slots.retain(|_, slot| !matches!(slot, Slot::Failed { .. }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn cache() -> Arc<Cache> {
        Cache::new(Duration::from_secs(10), Arc::default())
    }

    fn fetched(id: u32) -> Fetched {
        Fetched {
            id,
            version: None,
            schema: "\"string\"".into(),
            references: Vec::new(),
        }
    }

    fn broken() -> RegistryError {
        RegistryError::Unreachable {
            url: "http://registry".into(),
            reason: "timed out".into(),
        }
    }

    /// Gives the answer once all other tasks are waiting.
    async fn later(answer: Result<Fetched, RegistryError>) -> Result<Fetched, RegistryError> {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        answer
    }

    #[tokio::test]
    async fn a_thousand_callers_make_one_request() {
        let (cache, requests) = (cache(), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = (0..1000)
            .map(|_| {
                let (cache, requests) = (Arc::clone(&cache), Arc::clone(&requests));
                tokio::spawn(async move {
                    let fetch = |_| async move {
                        requests.fetch_add(1, Ordering::SeqCst);
                        later(Ok(fetched(7))).await
                    };
                    cache.get(7, fetch).await
                })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap().id, 7);
        }
        assert_eq!(requests.load(Ordering::SeqCst), 1);
        assert_eq!(cache.stats.schemas.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_failure_that_may_pass_is_shared_and_not_kept() {
        let cache = cache();
        let first = cache.get(7, |_| later(Err(broken())));
        let second = cache.get(7, |_| async { panic!("a second request") });
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first.unwrap_err(), second.unwrap_err()), (broken(), broken()));
        assert_eq!(cache.get(7, |_| async { Ok(fetched(7)) }).await.unwrap().id, 7);
    }

    #[tokio::test]
    async fn an_unknown_id_is_kept_shortly() {
        let cache = Cache::new(Duration::from_millis(500), Arc::default());
        let start = Instant::now();
        assert!(
            cache
                .get(7, |_| async { Err(RegistryError::Unknown { id: 7 }) })
                .await
                .is_err()
        );
        let again = cache.get(7, |_| async { Ok(fetched(7)) }).await;
        assert!(
            again.is_err() || start.elapsed() >= Duration::from_millis(400),
            "asked again too early"
        );
        tokio::time::sleep(Duration::from_millis(620)).await;
        assert!(cache.get(7, |_| async { Ok(fetched(7)) }).await.is_ok());
    }

    #[tokio::test]
    async fn patience_is_for_few_ids_and_once_for_each() {
        let cache = Cache::new(Duration::from_secs(2), Arc::default());
        let mut patient = Vec::new();
        for id in 0..10 {
            let fetch = |told: bool| {
                patient.push(told);
                async move { Err(RegistryError::Unknown { id }) }
            };
            assert!(cache.get(id, fetch).await.is_err());
        }
        assert_eq!(patient, (0..10).map(|id| id < FEW).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(2500)).await;
        for (id, patient) in [(0, false), (10, true)] {
            let fetch = |told: bool| async move {
                assert_eq!(told, patient, "{id}");
                Ok(fetched(id))
            };
            assert!(cache.get(id, fetch).await.is_ok());
        }
    }

    #[tokio::test]
    async fn schemas_that_are_not_avro_use_up_no_patience() {
        let cache = cache();
        for id in 0..10 {
            let fetch = |told: bool| async move {
                assert!(told, "{id}");
                let (name, kind) = (format!("id {id}"), "JSON".to_owned());
                Err(RegistryError::Unsupported { name, kind })
            };
            let answer = cache.get(id, fetch).await;
            assert!(matches!(answer, Err(RegistryError::Unsupported { .. })), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_leaves_the_others_their_answer() {
        let cache = cache();
        let mut first = Box::pin(cache.get(7, |_| later(Ok(fetched(7)))));
        assert!((&mut first).now_or_never().is_none());
        drop(first);
        assert!(cache.get(7, |_| async { panic!("a second request") }).await.is_ok());
    }

    #[tokio::test]
    async fn an_answer_that_nobody_waited_for_grows_no_older_than_others() {
        let cache = Cache::new(Duration::from_millis(500), Arc::default());
        for (id, error) in [(7, broken()), (8, RegistryError::Unknown { id: 8 })] {
            let mut first = Box::pin(cache.get(id, |_| later(Err(error))));
            assert!((&mut first).now_or_never().is_none());
            drop(first);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        for id in [7, 8] {
            assert!(cache.get(id, |_| later(Ok(fetched(id)))).await.is_ok(), "{id}");
        }
    }

    #[test]
    fn a_request_that_ends_with_its_runtime_is_made_again() {
        let cache = cache();
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap()
        };
        let (halts, stays) = (runtime(), runtime());
        let slow = |_| async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok(fetched(7))
        };
        let mut first = Box::pin(cache.get(7, slow));
        halts.block_on(async { assert!((&mut first).now_or_never().is_none()) });
        let waits = stays.spawn({
            let cache = cache.clone();
            async move { cache.get(7, |_| async { panic!("a second request") }).await }
        });
        stays.block_on(tokio::task::yield_now());
        drop(first);
        halts.shutdown_background();
        assert_eq!(
            stays.block_on(waits).unwrap(),
            Err(RegistryError::Interrupted { id: 7 })
        );
        let again = stays.block_on(cache.get(7, |_| async { Ok(fetched(7)) }));
        assert_eq!(again.unwrap().id, 7);
    }

    #[tokio::test]
    async fn ids_that_anybody_may_send_do_not_fill_the_memory() {
        let cache = cache();
        assert!(cache.get(1, |_| async { Ok(fetched(1)) }).await.is_ok());
        for id in 2..FAILURES as u32 + 100 {
            assert!(
                cache
                    .get(id, |_| async move { Err(RegistryError::Unknown { id }) })
                    .await
                    .is_err()
            );
        }
        assert!(cache.slots.read().unwrap().others.len() <= FAILURES);
        assert!(cache.known(1).is_some());
    }

    #[tokio::test]
    async fn schemas_that_anybody_may_name_do_not_fill_the_memory() {
        let cache = cache();
        let large = |id| Fetched {
            schema: " ".repeat(1 << 20),
            ..fetched(id)
        };
        for id in 1..=100 {
            let schema = large(id);
            assert!(cache.get(id, |_| async { Ok(schema) }).await.is_ok());
            assert!(cache.known(1).is_some() && cache.known(id).is_some(), "{id}");
        }
        assert!(cache.stats.schemas.load(Ordering::Relaxed) < 64);
        assert!(cache.known(2).is_none());
        let schema = large(2);
        let again = cache.get(2, |_| async { Ok(schema) }).await;
        assert_eq!(again.unwrap().id, 2);
        assert!(cache.slots.read().unwrap().others.is_empty());
    }
}
