//! The threads of the consumer loops. Each has its own runtime and, on it, one database session, so that no answer has to wake another thread
//! (measured: 12 µs of CPU per record, against 20 µs with one shared runtime).
//!
//! There are at most as many threads as cores, or as `[limits] threads` says. Additional loops share a thread and its session, because each session
//! has connections to every node, and threads that take turns on a core find less to do at a time. A loop goes to the thread with the fewest loops
//! and stays there. A thread lives as long as one of its loops. If a reload gave up a loop before it had ended, its thread may be blocked for good:
//! that thread takes no more loops and does not count against the limit.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::{OnceCell, oneshot, watch};

use crate::source::moderation::{Rest, Rests, moderate};
use crate::store::AnyStore;
use crate::telemetry::metrics::Metrics;

/// All threads of loops.
pub(super) struct Threads {
    limit: usize,
    live: Vec<Weak<LoopThread>>,
    taken: Numbers,
}

/// The numbers of threads that live, or that the metrics still show.
type Numbers = Arc<Mutex<BTreeSet<usize>>>;

fn lock(numbers: &Numbers) -> MutexGuard<'_, BTreeSet<usize>> {
    numbers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread, as its loops see it.
pub(super) struct LoopThread {
    number: usize,
    taken: Numbers,
    name: String,
    /// Its runtime.
    pub(super) io: Handle,
    /// Its session with the database, once a loop has opened it.
    pub(super) store: OnceCell<Arc<AnyStore>>,
    /// Why the session cannot be opened, while that is so: all its loops wait for it.
    pub(super) away: watch::Sender<Option<String>>,
    rests: Arc<Rests>,
    loops: AtomicU64,
    /// Whether it takes no more loops.
    shunned: AtomicBool,
    pub(super) metrics: Arc<Metrics>,
    /// The thread ends when this is dropped.
    _lives: oneshot::Sender<Infallible>,
}

impl Threads {
    /// At most `limit` threads; as many as cores if it is not given.
    pub(super) fn new(limit: Option<usize>) -> Threads {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Threads {
            limit: limit.unwrap_or_else(cores).max(1),
            live: Vec::new(),
            taken: Numbers::default(),
        }
    }

    /// The thread for the next loop: a new one as long as the limit allows, then the one with the fewest loops.
    ///
    /// # Errors
    /// A thread or its runtime could not be created.
    pub(super) fn next(&mut self, metrics: &Arc<Metrics>) -> std::io::Result<Arc<LoopThread>> {
        let takes_loops = |thread: Arc<LoopThread>| !thread.shunned.load(Ordering::Relaxed);
        self.live.retain(|thread| thread.upgrade().is_some_and(takes_loops));
        if self.live.len() >= self.limit {
            let fewest = self.live.iter().min_by_key(|thread| thread.strong_count());
            if let Some(thread) = fewest.and_then(Weak::upgrade) {
                return Ok(thread);
            }
        }
        let thread = LoopThread::start(self.taken.clone(), metrics.clone())?;
        self.live.push(Arc::downgrade(&thread));
        Ok(thread)
    }
}

impl LoopThread {
    fn start(taken: Numbers, metrics: Arc<Metrics>) -> std::io::Result<Arc<LoopThread>> {
        let number = {
            let taken = lock(&taken);
            (0..).find(|number| !taken.contains(number)).unwrap_or_default()
        };
        let name = format!("loop-{number}");
        let rests = Arc::new(Rests::default());
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = moderate(builder.enable_all(), rests.clone()).build()?;
        let io = runtime.handle().clone();
        let (lives, ended) = oneshot::channel::<Infallible>();
        let (give, given) = mpsc::channel::<Runtime>();
        let run = move || {
            if let Ok(runtime) = given.recv() {
                let _ = runtime.block_on(ended);
                // Calls to brokers may still wait for an answer that is no longer needed.
                runtime.shutdown_background();
            }
        };
        // The runtime is not moved into the thread: if no thread can be started, it would be dropped here, inside
        // another runtime, which panics.
        if let Err(error) = std::thread::Builder::new().name(name.clone()).spawn(run) {
            runtime.shutdown_background();
            return Err(error);
        }
        if let Err(mpsc::SendError(runtime)) = give.send(runtime) {
            runtime.shutdown_background();
        }
        lock(&taken).insert(number);
        metrics.watch_runtime(&name, io.clone());
        Ok(Arc::new(LoopThread {
            number,
            taken,
            name,
            io,
            store: OnceCell::new(),
            away: watch::Sender::default(),
            rests,
            loops: AtomicU64::new(0),
            shunned: AtomicBool::new(false),
            metrics,
            _lives: lives,
        }))
    }

    /// The name of the thread and its runtime.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Lets it take no more loops, because one of its loops did not end in time.
    pub(super) fn shun(&self) {
        self.shunned.store(true, Ordering::Relaxed);
    }

    /// One more loop's vote on how long the thread rests at a time.
    pub(super) fn rest(&self) -> Rest {
        Rest::new(self.rests.clone(), self.loops.fetch_add(1, Ordering::Relaxed))
    }
}

/// Its number becomes free once the metrics no longer show it.
impl Drop for LoopThread {
    fn drop(&mut self) {
        self.metrics.forget_runtime(&self.name);
        lock(&self.taken).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_have_threads_of_their_own_up_to_the_limit_and_share_them_beyond() {
        let metrics = Metrics::new().unwrap();
        let mut threads = Threads::new(Some(2));
        let mut next = || threads.next(&metrics).unwrap();
        let five = [(); 5].map(|()| next());
        assert_eq!(
            five.each_ref().map(|t| t.name()),
            ["loop-0", "loop-1", "loop-0", "loop-1", "loop-0"]
        );
        let [a, b, c, d, e] = five;
        // Threads with room left by loops that ended are used again.
        drop((a, c));
        assert_eq!(next().name(), "loop-0");
        // A thread without loops ends, and the metrics no longer show it.
        let shown = |name: &str| String::from_utf8(metrics.render()).unwrap().contains(name);
        assert!(shown("\"loop-0\"") && shown("\"loop-1\""));
        drop((b, d));
        assert!(shown("\"loop-0\"") && !shown("\"loop-1\""));
        let again = next();
        assert_eq!(again.name(), "loop-1");
        assert!(shown("\"loop-1\""));
        drop((e, again));
    }

    #[test]
    fn a_thread_that_is_shunned_takes_no_more_loops_and_no_place() {
        let metrics = Metrics::new().unwrap();
        let mut threads = Threads::new(Some(1));
        let mut next = || threads.next(&metrics).unwrap();
        let stuck = next();
        stuck.shun();
        let others = [next(), next()];
        assert_eq!(others.each_ref().map(|t| t.name()), ["loop-1"; 2]);
        assert_eq!(stuck.name(), "loop-0");
    }

    #[test]
    fn what_runs_on_a_thread_runs_until_its_last_loop_has_ended() {
        let metrics = Metrics::new().unwrap();
        let thread = Threads::new(Some(1)).next(&metrics).unwrap();
        let (ran, runs) = std::sync::mpsc::channel();
        let of_loop = thread.clone();
        thread.io.spawn(async move {
            tokio::task::yield_now().await;
            ran.send(std::thread::current().name().map(str::to_owned)).unwrap();
            drop(of_loop);
            // Nothing wakes the task any more.
            std::future::pending::<()>().await;
            ran.send(None).unwrap();
        });
        drop(thread);
        assert_eq!(runs.recv().unwrap().as_deref(), Some("loop-0"));
        assert!(runs.recv().is_err(), "the runtime has dropped it");
    }
}
