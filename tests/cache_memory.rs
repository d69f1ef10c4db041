//! Checks the cache's memory limit against what is really allocated.
//!
//! A counting allocator, which rounds to 16 bytes as the usual ones do, sees everything that the cache holds: keys, rows
//! and its own tables. Alone in its file, because it counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use messina::avro::value::Value;
use messina::store::Row;
use messina::store::cache::{Cache, CacheOptions, append_key};

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size().next_multiple_of(16), Ordering::Relaxed);
        // SAFETY: the caller's own promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size().next_multiple_of(16), Ordering::Relaxed);
        // SAFETY: the caller's own promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Rows of many sizes and shapes.
fn row(i: i64) -> Row {
    let text = |n: i64| Value::String("x".repeat(n as usize).into());
    Box::new([
        text(i % 97),
        Value::Long(i),
        Value::List((0..i % 5).map(|n| text(n * 7)).collect()),
        Value::Map(
            (0..i % 3)
                .map(|n| (text(n), Value::Bytes(vec![0; (i % 31) as usize].into())))
                .collect(),
        ),
        Value::Record(vec![
            ("a name".to_owned().into(), text(i % 11)),
            ("b".to_owned().into(), Value::Null),
        ]),
    ])
}

#[test]
fn what_is_allocated_is_within_five_percent_of_the_bound() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    for max_bytes in [1 << 20, 16 << 20] {
        let before = ALLOCATED.load(Ordering::Relaxed);
        let life = Duration::from_secs(3600);
        let cache = Cache::new(CacheOptions {
            ttl: life,
            missing_ttl: life,
            max_bytes,
            stale: std::time::Duration::ZERO,
        });
        let now = Instant::now();
        let mut key = Vec::new();
        for i in 0..(max_bytes / 100) as i64 {
            key.clear();
            append_key(&[Value::String(format!("user-{i}").into()), Value::Long(i)], &mut key);
            let load = || async { Ok((i % 10 != 0).then(|| row(i))) };
            runtime.block_on(cache.get_or_load(&key, now, load)).expect("loads");
        }
        drop(key);
        let real = (ALLOCATED.load(Ordering::Relaxed) - before) as f64;
        let stats = cache.stats();
        assert!(stats.evictions > 0, "it was full");
        let (bound, said) = (max_bytes as f64, stats.bytes as f64);
        println!(
            "bound {bound}, allocated {real}, reported {said}, entries {}",
            stats.entries
        );
        println!("figure cache_error_percent {:.2}", (real - bound).abs() / bound * 100.0);
        assert!((real - bound).abs() / bound < 0.05, "allocated {real} of {bound}");
        assert!((real - said).abs() / bound < 0.05, "allocated {real}, reported {said}");
    }
}
