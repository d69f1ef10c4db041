//! How time and allocations are measured.
//!
//! Time is the thread's CPU time, so that other load on the machine matters little. The competitors take turns, and the
//! lowest of each one's rounds counts, so that it matters even less.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, with a counter.
pub struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// There is only one thread: a load and a store cost less than an atomic addition.
fn count() {
    ALLOCATIONS.store(ALLOCATIONS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Number of allocations so far.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// CPU time of this thread, in nanoseconds.
fn cpu_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One competitor, which processes all records once.
pub struct Competitor<'a> {
    name: &'static str,
    records: usize,
    run: Box<dyn FnMut() + 'a>,
    best: f64,
}

impl<'a> Competitor<'a> {
    pub fn new(name: &'static str, records: usize, run: impl FnMut() + 'a) -> Competitor<'a> {
        Competitor {
            name,
            records,
            run: Box::new(run),
            best: f64::INFINITY,
        }
    }
}

/// Nanoseconds per record of each competitor: the lowest of this many rounds.
pub fn least(mut competitors: Vec<Competitor<'_>>, rounds: usize) -> Vec<f64> {
    for round in 0..=rounds {
        for competitor in &mut competitors {
            let start = cpu_time();
            (competitor.run)();
            let spent = (cpu_time() - start) as f64 / competitor.records as f64;
            // The first round only warms the caches.
            if round > 0 {
                competitor.best = competitor.best.min(spent);
            }
        }
    }
    for competitor in &competitors {
        eprintln!("{:<44} {:>9.1} ns", competitor.name, competitor.best);
    }
    competitors.iter().map(|competitor| competitor.best).collect()
}
