//! Consumes records: the consumer loop, and the state machines that it uses.
//!
//! There is one loop per consumer, on a thread with a current-thread runtime; loops in excess of the cores share threads. Decoding happens in the
//! loop. I/O happens in tasks on the same runtime, with the thread's own database session, because waking another thread costs more than the work.
//! The loop owns the ledger, the lanes and the budget, so that none of them needs a lock.

pub mod assignment;
pub mod bounds;
pub mod consumer_loop;
pub mod context;
pub mod moderation;
pub mod read;
pub mod status;
pub mod tally;
