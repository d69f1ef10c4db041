//! Tests of the cache: lifetimes, shared queries, and its memory bound.

use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use tokio::time::sleep;

use super::*;
use crate::avro::value::Value;

fn cache(max_bytes: usize) -> Cache {
    Cache::new(CacheOptions {
        ttl: Duration::from_secs(30),
        missing_ttl: Duration::from_secs(5),
        max_bytes,
        stale: Duration::ZERO,
    })
}

fn row(i: i64) -> Option<Row> {
    Some(Box::new([Value::Long(i), Value::String("x".repeat(50).into())]))
}

#[tokio::test]
async fn a_row_past_its_life_is_given_only_to_those_who_ask_for_it() {
    let cache = Cache::new(CacheOptions {
        ttl: Duration::from_secs(30),
        missing_ttl: Duration::from_secs(5),
        max_bytes: 1 << 20,
        stale: Duration::from_secs(60),
    });
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    cache.get_or_load(b"row", start, || async { Ok(row(1)) }).await.unwrap();
    cache.get_or_load(b"none", start, || async { Ok(None) }).await.unwrap();
    assert!(cache.get(b"row", at(29)).is_some() && cache.get_stale(b"row", at(29)).is_some());
    assert!(cache.get(b"row", at(30)).is_none());
    assert!(cache.get_stale(b"row", at(89)).is_some_and(|hit| hit.is_some()));
    assert!(cache.get_stale(b"row", at(90)).is_none());
    assert!(cache.get_stale(b"none", at(1)).is_none(), "an absence is not served");
    assert!(cache.get(b"none", at(6)).is_none());
    assert_eq!(cache.stats().entries, 1, "an absence is not kept");
    assert!(cache.get(b"row", at(91)).is_none());
    assert_eq!(cache.stats().entries, 0, "nor is a row after its time");
    let failing = cache.get_or_load(b"row", at(92), || async { Err(StoreError::transient("timeout", "")) });
    assert!(failing.await.is_err());
}

#[tokio::test]
async fn an_old_row_goes_when_it_is_known_to_be_gone_or_another() {
    let large = Some(Box::new([Value::String("x".repeat(1 << 20).into())]) as Row);
    for (kept, now_there) in [(Duration::ZERO, None), (Duration::from_secs(5), large)] {
        let cache = Cache::new(CacheOptions {
            ttl: Duration::from_secs(30),
            missing_ttl: kept,
            max_bytes: 1 << 20,
            stale: Duration::from_secs(60),
        });
        let start = Instant::now();
        let late = start + Duration::from_secs(31);
        cache.get_or_load(b"k", start, || async { Ok(row(1)) }).await.unwrap();
        assert!(cache.get_stale(b"k", late).is_some());
        let held = cache.stats().bytes;
        let (hit, origin) = cache
            .get_or_load(b"k", late, || async { Ok(now_there.clone()) })
            .await
            .unwrap();
        assert_eq!((&*hit, origin), (&now_there, Origin::Loaded));
        assert_eq!(cache.get_stale(b"k", late), None);
        assert_eq!(cache.stats().entries, 0);
        assert!(cache.stats().bytes < held, "and its bytes are given back");
    }
}

#[tokio::test]
async fn many_askers_of_one_key_share_one_query() {
    let (cache, now) = (Arc::new(cache(1 << 20)), Instant::now());
    let loads = Arc::new(AtomicUsize::new(0));
    let asks: Vec<_> = (0..10_000)
        .map(|_| {
            let (cache, loads) = (cache.clone(), loads.clone());
            tokio::spawn(async move {
                let load = || async {
                    loads.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(20)).await;
                    Ok(None)
                };
                cache.get_or_load(b"absent", now, load).await.unwrap().0
            })
        })
        .collect();
    for ask in asks {
        assert_eq!(*ask.await.unwrap(), None);
    }
    assert_eq!(loads.load(Ordering::Relaxed), 1);
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.coalesced), (1, 9_999));
    assert!(cache.get(b"absent", now).is_some(), "a miss is kept");
    assert!(
        cache.get(b"absent", now + Duration::from_secs(5)).is_none(),
        "for its own life"
    );
}

#[tokio::test]
async fn a_row_is_answered_until_its_end_and_not_at_it() {
    let (cache, now) = (cache(1 << 20), Instant::now());
    let (hit, origin) = cache.get_or_load(b"k", now, || async { Ok(row(7)) }).await.unwrap();
    assert_eq!(
        (hit.as_ref().as_ref().unwrap()[0].clone(), origin),
        (Value::Long(7), Origin::Loaded)
    );
    assert!(cache.get(b"k", now + Duration::from_millis(29_999)).is_some());
    assert!(cache.get(b"k", now + Duration::from_secs(30)).is_none());
    assert_eq!(cache.stats().entries, 0);
}

#[tokio::test]
async fn an_error_reaches_all_who_waited_and_is_not_kept() {
    let (cache, now) = (Arc::new(cache(1 << 20)), Instant::now());
    let fail = || async {
        sleep(Duration::from_millis(10)).await;
        Err(StoreError::transient("timeout", "late"))
    };
    let (a, b) = tokio::join!(cache.get_or_load(b"k", now, fail), cache.get_or_load(b"k", now, fail));
    let of_another = [a, b].map(|asked| asked.unwrap_err().of_another);
    assert_eq!(of_another, [false, true], "one has asked");
    assert_eq!(cache.stats().misses, 1);
    let (_, origin) = cache.get_or_load(b"k", now, || async { Ok(row(1)) }).await.unwrap();
    assert_eq!(origin, Origin::Loaded);
}

#[tokio::test]
async fn a_load_that_is_dropped_hands_over() {
    let (cache, now) = (Arc::new(cache(1 << 20)), Instant::now());
    let leader = {
        let cache = cache.clone();
        tokio::spawn(async move { cache.get_or_load(b"k", now, std::future::pending).await })
    };
    tokio::task::yield_now().await;
    let follower = {
        let cache = cache.clone();
        tokio::spawn(async move { cache.get_or_load(b"k", now, || async { Ok(row(2)) }).await })
    };
    tokio::task::yield_now().await;
    leader.abort();
    let (_, origin) = follower.await.unwrap().unwrap();
    assert_eq!(origin, Origin::Loaded);
}

#[tokio::test]
async fn bytes_stay_within_the_bound_and_near_it() {
    for max in [64 << 10, 1 << 20, 8 << 20] {
        let (cache, now) = (cache(max), Instant::now());
        for i in 0..(max / 100) as i64 {
            cache
                .get_or_load(&i.to_be_bytes(), now, || async move { Ok(row(i)) })
                .await
                .unwrap();
            assert!(cache.stats().bytes <= max as u64);
        }
        let stats = cache.stats();
        assert!(stats.bytes as f64 > max as f64 * 0.95, "{} of {max} used", stats.bytes);
        assert!(stats.evictions > 0);
    }
}

/// Loads this key into a cache of a megabyte; returns the number of entries afterwards.
async fn load(cache: &Cache, key: i64, value: Option<Row>, now: Instant) -> u64 {
    let load = || async move { Ok(value) };
    cache.get_or_load(&key.to_be_bytes(), now, load).await.unwrap();
    let stats = cache.stats();
    assert!(stats.bytes <= 1 << 20, "{} bytes", stats.bytes);
    stats.entries
}

#[tokio::test]
async fn a_cache_that_filled_with_absences_holds_as_many_rows_afterwards_as_a_new_one() {
    let (old, new, now) = (cache(1 << 20), cache(1 << 20), Instant::now());
    let mut absences = 0;
    for key in 0..60_000 {
        absences = load(&old, key, None, now).await;
    }
    assert!(absences > 6_000, "{absences}");
    for key in 58_000..60_000_i64 {
        assert!(old.get(&key.to_be_bytes(), now).is_some(), "{key} is among the newest");
    }
    let (mut after, mut fresh) = (0, 0);
    for key in 60_000..80_000 {
        after = load(&old, key, row(key), now).await;
        fresh = load(&new, key, row(key), now).await;
    }
    assert!(after > fresh * 8 / 10, "{after} rows, and {fresh} in a new one");
    for key in 79_000..80_000_i64 {
        assert_eq!(old.get(&key.to_be_bytes(), now).as_deref(), Some(&row(key)));
    }
}

#[tokio::test]
async fn what_is_used_outlives_what_is_not() {
    let (cache, now) = (cache(64 << 10), Instant::now());
    cache.get_or_load(b"hot", now, || async { Ok(row(0)) }).await.unwrap();
    for i in 0..2_000i64 {
        cache
            .get_or_load(&i.to_be_bytes(), now, || async move { Ok(row(i)) })
            .await
            .unwrap();
        assert!(cache.get(b"hot", now).is_some(), "after {i} others");
    }
}

#[tokio::test]
async fn what_goes_past_its_life_is_no_eviction() {
    let (cache, now) = (cache(64 << 10), Instant::now());
    for i in 0..2_000i64 {
        cache
            .get_or_load(&i.to_be_bytes(), now, || async move { Ok(row(i)) })
            .await
            .unwrap();
    }
    let full = cache.stats();
    assert!(full.evictions > 0);
    let (later, large) = (now + Duration::from_secs(60), [0; 8 << 10]);
    cache.get_or_load(&large, later, || async { Ok(row(0)) }).await.unwrap();
    let after = cache.stats();
    assert!(after.entries < full.entries, "{after:?}");
    assert_eq!(after.evictions, full.evictions);
}

#[tokio::test]
async fn without_room_queries_are_still_shared() {
    let (cache, now) = (cache(0), Instant::now());
    let load = || async {
        sleep(Duration::from_millis(1)).await;
        Ok(row(1))
    };
    let (a, b) = tokio::join!(cache.get_or_load(b"k", now, load), cache.get_or_load(b"k", now, load));
    assert_eq!((a.unwrap().1, b.unwrap().1), (Origin::Loaded, Origin::Shared));
    assert_eq!((cache.stats().entries, cache.stats().misses), (0, 1));
}

/// One operation of the model test: a key, and how many milliseconds pass before it is asked for.
type Ask = (u8, u16);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Compares with a map that forgets only by time: the cache never returns an expired answer or another key's.
    #[test]
    fn answers_are_the_last_loaded_and_alive(asks in prop::collection::vec(any::<Ask>(), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (cache, mut now) = (cache(16 << 10), Instant::now());
            let mut model: HashMap<u8, (i64, Instant)> = HashMap::new();
            for (i, (key, pause)) in asks.into_iter().enumerate() {
                now += Duration::from_millis(u64::from(pause));
                let (hit, origin) = cache.get_or_load(&[key], now, || async { Ok(row(i as i64)) }).await.unwrap();
                let Some([Value::Long(got), _]) = hit.as_ref().as_deref() else { panic!("a row") };
                if origin == Origin::Cached {
                    let (wanted, since) = model[&key];
                    assert_eq!(*got, wanted);
                    assert!(now - since < Duration::from_secs(30));
                } else {
                    model.insert(key, (i as i64, now));
                }
            }
        });
    }
}
