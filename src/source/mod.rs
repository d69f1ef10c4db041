//! Where records come from: the consumer loop, and what it decides with.
//!
//! One loop per consumer, on a thread with a current-thread runtime, which loops beyond the cores share. Decoding happens inside it; I/O happens in tasks on
//! the same runtime, with the thread's own database session: waking another thread costs more than the work. The loop owns the ledger, the lanes and the budget, so that none of them needs a lock.

pub mod assignment;
pub mod bounds;
pub mod consumer_loop;
pub mod context;
pub mod moderation;
pub mod read;
pub mod status;
pub mod tally;
