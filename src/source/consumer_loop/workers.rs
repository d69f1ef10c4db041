//! The tasks that run events. A worker outlives its event, because a new task per event would have to be allocated, registered and copied: several
//! kilobytes, the size of the future of a database request.
//!
//! An idle worker waits at a desk. The loop puts the next event on the desk that became free last, whose memory is still in the cache. Invariants: an
//! event is on at most one desk, and its worker is awake; no worker waits once the loop is gone; a worker that panics drops its event, which reports
//! that itself, and is replaced.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::ROUND;
use crate::pipeline::event::Event;
use crate::pipeline::runner::Runtime;

/// The most idle workers; others end. Otherwise the memory of a peak would be kept for ever.
const IDLE: usize = 1024;

/// Memory of a worker at work, in bytes: its task, whose future has room for a request, and what the driver keeps for that. In docs/benchmarks.md a process
/// grew by some twelve kilobytes for each, with an event that weighs two.
pub(crate) const AT_WORK: usize = 8 * 1024;

/// This many events begin in one go. Then these get the processor, and the runtime polls its sockets, before others begin. At the same rate fewer events are
/// under way at a time, so what they use is still in the processor's caches when they continue, and requests leave while other records are still being read.
/// docs/benchmarks.md shows the effect.
const WAVE: usize = 16;

/// The workers of one loop.
pub(super) struct Workers {
    runtime: Arc<Runtime>,
    io: Handle,
    room: Arc<Room>,
    wave: Wave,
    /// The tasks end with the loop, whatever they are doing, because its thread may go on.
    tasks: JoinSet<()>,
}

/// What has happened since other tasks last had the processor.
#[derive(Default)]
struct Wave {
    /// Events that have begun.
    begun: usize,
    /// Records that were taken, whatever became of them.
    taken: usize,
}

impl Wave {
    fn is_full(&self) -> bool {
        self.begun >= WAVE
    }

    async fn go_first(&mut self) {
        if self.is_full() || self.taken >= ROUND {
            *self = Wave::default();
            tokio::task::yield_now().await;
        }
    }
}

#[derive(Default)]
struct Room {
    /// Desks of idle workers; `None` once the loop is gone.
    free: Mutex<Option<Vec<Arc<Desk>>>>,
}

#[derive(Default)]
struct Desk {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    event: Option<Box<Event>>,
    worker: Option<Waker>,
    closed: bool,
}

/// Nothing panics under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workers {
    /// Without workers; they will run on `io`.
    pub(super) fn new(runtime: Arc<Runtime>, io: Handle) -> Workers {
        let room = Arc::new(Room {
            free: Mutex::new(Some(Vec::new())),
        });
        Workers {
            runtime,
            io,
            room,
            wave: Wave::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Whether enough events have begun for one go.
    pub(super) fn are_a_wave(&self) -> bool {
        self.wave.is_full()
    }

    /// One more record was taken.
    pub(super) fn take(&mut self) {
        self.wave.taken += 1;
    }

    /// Yields to the workers if they are a wave, and to the thread's other loops if many records were taken and none had to wait, because librdkafka's queue
    /// may have one more each time. The loop continues when all tasks that were woken before have run and the runtime has polled its sockets. Tasks whose
    /// answers it finds there run together with the next wave.
    pub(super) async fn go_first(&mut self) {
        self.wave.go_first().await;
    }

    /// Lets a worker run the event.
    pub(super) fn run(&mut self, event: Box<Event>) {
        let desk = lock(&self.room.free).as_mut().and_then(Vec::pop);
        match desk {
            Some(desk) => {
                self.wave.begun += 1;
                desk.lay(event);
            }
            None => {
                let work = work(self.runtime.clone(), self.room.clone(), event);
                self.spawn(work);
            }
        }
    }

    /// Runs another task that ends with the loop.
    pub(super) fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.wave.begun += 1;
        self.tasks.spawn_on(work, &self.io);
    }

    /// Memory of the workers at work, in bytes, not counting `beside` tasks that work on no event. Ended tasks are removed first, because they keep their
    /// memory until then.
    pub(super) fn bytes(&mut self, beside: usize) -> usize {
        // The event of a panicked task reports that itself.
        while self.tasks.try_join_next().is_some() {}
        let idle = lock(&self.room.free).as_ref().map_or(0, Vec::len);
        self.tasks.len().saturating_sub(idle + beside) * AT_WORK
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let free = lock(&self.room.free).take();
        free.into_iter().flatten().for_each(|desk| desk.close());
    }
}

async fn work(runtime: Arc<Runtime>, room: Arc<Room>, event: Box<Event>) {
    let desk = Arc::new(Desk::default());
    let mut next = Some(event);
    while let Some(event) = next {
        runtime.process(event).await;
        next = if room.enter(&desk) {
            poll_fn(|context| desk.poll(context)).await
        } else {
            None
        };
    }
}

impl Room {
    /// Makes the worker at this desk available for the next event; false if it is not needed.
    fn enter(&self, desk: &Arc<Desk>) -> bool {
        match &mut *lock(&self.free) {
            Some(free) if free.len() < IDLE => {
                free.push(desk.clone());
                true
            }
            Some(_) | None => false,
        }
    }
}

impl Desk {
    fn lay(&self, event: Box<Event>) {
        let worker = {
            let mut state = lock(&self.state);
            state.event = Some(event);
            state.worker.take()
        };
        if let Some(worker) = worker {
            worker.wake();
        }
    }

    fn close(&self) {
        let worker = {
            let mut state = lock(&self.state);
            state.closed = true;
            state.worker.take()
        };
        if let Some(worker) = worker {
            worker.wake();
        }
    }

    /// The event on the desk; `None` once the loop is gone.
    fn poll(&self, context: &Context<'_>) -> Poll<Option<Box<Event>>> {
        let mut state = lock(&self.state);
        if let Some(event) = state.event.take() {
            Poll::Ready(Some(event))
        } else if state.closed {
            Poll::Ready(None)
        } else {
            state.worker = Some(context.waker().clone());
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use futures_util::FutureExt;
    use tokio::sync::watch;

    use super::*;
    use crate::budget::Budget;
    use crate::pipeline::completions::Batch;
    use crate::source::consumer_loop::tests::idle::{P, taken, with_one_finished};

    /// More than may be idle, so that their tasks are not kept either.
    #[tokio::test]
    async fn those_at_work_fill_the_budget_until_they_end_though_no_event_comes_back() {
        const MANY: usize = IDLE + 76;
        let mut this = with_one_finished().await;
        this.parts.budget = Budget::new(10_000, MANY * AT_WORK);
        let waits = taken(&mut this, 1);
        let (end, ended) = watch::channel(());
        for _ in 0..MANY {
            let mut ended = ended.clone();
            this.workers.spawn(async move {
                let _ = ended.changed().await;
            });
        }
        assert!(this.takes_records());
        this.weigh();
        assert_eq!(this.parts.budget.bytes(), waits.own_weight() + MANY * AT_WORK);
        assert!(!this.takes_records());
        drop(end);
        let all = async {
            while !this.workers.tasks.is_empty() {
                tokio::task::yield_now().await;
                this.weigh();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
        assert_eq!(this.parts.budget.bytes(), waits.own_weight());
        assert!(this.takes_records());
    }

    #[tokio::test]
    async fn a_worker_counts_while_it_has_an_event() {
        let mut this = with_one_finished().await;
        let runtime = Runtime::clone(&this.workers.runtime);
        this.workers.runtime = Arc::new(Runtime { sink: None, ..runtime });
        let event = taken(&mut this, 1);
        let weight = event.own_weight();
        this.read(P, event, Instant::now());
        let (id, plan) = this.resolved.1.recv().await.unwrap();
        this.schema_known(id, plan);
        this.weigh();
        assert_eq!(this.parts.budget.bytes(), weight + AT_WORK);
        this.completions.ready().await;
        this.take_ended(&mut Batch::default());
        this.weigh();
        assert_eq!(this.parts.budget.bytes(), 0);
        assert_eq!(this.workers.tasks.len(), 1, "it waits for the next one");
    }

    #[tokio::test]
    async fn records_that_wait_for_nothing_let_others_go_first_too() {
        let mut wave = Wave {
            begun: 0,
            taken: ROUND - 1,
        };
        assert!(wave.go_first().now_or_never().is_some());
        wave.taken += 1;
        assert!(wave.go_first().now_or_never().is_none());
        assert!(wave.go_first().now_or_never().is_some(), "counted anew");
    }

    #[tokio::test]
    async fn a_desk_gives_its_event_once_and_nothing_once_it_is_closed() {
        let desk = Arc::new(Desk::default());
        let waits = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn({
            let (desk, waits) = (desk.clone(), waits.clone());
            async move {
                let event = poll_fn(|context| {
                    waits.fetch_add(1, Ordering::Relaxed);
                    desk.poll(context)
                });
                event.await.is_none()
            }
        });
        while waits.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!task.is_finished());
        desk.close();
        assert!(task.await.unwrap(), "woken, and sent home");
    }

    /// What a wave relies on in the runtime.
    #[tokio::test]
    async fn a_wave_goes_before_the_next_and_answers_are_taken_meanwhile() {
        let ran = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let ran = ran.clone();
            move || lock(&ran).push(what)
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut server = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (client, _) = listener.accept().unwrap();
        client.set_nonblocking(true).unwrap();
        let client = tokio::net::TcpStream::from_std(client).unwrap();
        let answered = note("answered");
        tokio::spawn(async move {
            client.readable().await.unwrap();
            answered();
        });
        tokio::task::yield_now().await; // it waits for its answer
        std::io::Write::write_all(&mut server, b"!").unwrap();

        let mut wave = Wave::default();
        for _ in 0..WAVE {
            assert!(!wave.is_full());
            wave.go_first().await; // nothing to wait for yet
            assert!(lock(&ran).is_empty());
            wave.begun += 1;
            let begun = note("begun");
            if wave.is_full() {
                tokio::spawn(async move { begun() });
            }
        }
        wave.go_first().await;
        assert_eq!(*lock(&ran), ["begun"]);
        assert!(!wave.is_full());
        wave.begun = WAVE;
        wave.go_first().await;
        assert_eq!(*lock(&ran), ["begun", "answered"]);
    }

    #[test]
    fn only_so_many_stay_and_none_once_the_loop_is_gone() {
        let room = Room {
            free: Mutex::new(Some(Vec::new())),
        };
        let desk = Arc::new(Desk::default());
        assert!((0..IDLE).all(|_| room.enter(&desk)));
        assert!(!room.enter(&desk));
        *lock(&room.free) = None;
        assert!(!room.enter(&desk));
    }
}
