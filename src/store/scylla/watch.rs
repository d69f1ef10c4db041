//! Observes what the driver does by itself, as far as that is possible without a cost per request.
//!
//! The driver's `metrics` feature would report more (requests, connections, latencies in whole milliseconds), for six atomic additions, a clock
//! reading and 1.7 MiB per session. So nodes are counted on demand, and repeated requests where the driver decides on them, after a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::scylla::client::session::Session;
use ::scylla::policies::retry::{DefaultRetrySession, RequestInfo, RetryDecision, RetryPolicy, RetrySession};

use crate::store::classify;

/// Figures about the driver's work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DriverFigures {
    /// Nodes that requests may go to.
    pub nodes: usize,
    /// Those of them that the driver is connected to.
    pub connected: usize,
    /// Failed requests that the driver sent again.
    pub retries: u64,
}

/// Collects those figures.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The only datacenter that requests go to, if they go to only one.
    pub(super) datacenter: Option<String>,
    pub(super) retries: Arc<AtomicU64>,
}

impl Watch {
    /// The retry policy for a session to be observed.
    pub(super) fn retries(&self) -> CountingRetries {
        CountingRetries(Arc::clone(&self.retries))
    }

    pub(super) fn figures(&self, session: &Session) -> DriverFigures {
        let state = session.get_cluster_state();
        let mut figures = DriverFigures {
            retries: self.retries.load(Ordering::Relaxed),
            ..DriverFigures::default()
        };
        for node in state.get_nodes_info() {
            if self.datacenter.is_none() || node.datacenter == self.datacenter {
                figures.nodes += 1;
                figures.connected += usize::from(node.is_connected());
            }
        }
        figures
    }
}

/// The driver's own policy, with a counter and one restriction: a statement that is not idempotent is repeated only if nothing was applied. The driver assumes
/// that for `Unavailable`, and for a read that timed out, whatever the statement.
#[derive(Debug)]
pub(super) struct CountingRetries(Arc<AtomicU64>);

impl RetryPolicy for CountingRetries {
    fn new_session(&self) -> Box<dyn RetrySession> {
        Box::new(CountingSession {
            decides: DefaultRetrySession::new(),
            retries: Arc::clone(&self.0),
        })
    }
}

struct CountingSession {
    decides: DefaultRetrySession,
    retries: Arc<AtomicU64>,
}

impl RetrySession for CountingSession {
    fn decide_should_retry(&mut self, request: RequestInfo<'_>) -> RetryDecision {
        // The statement is not known here, so it may be a counter's.
        if !request.is_idempotent && !classify::refused(request.error, true) {
            return RetryDecision::DontRetry;
        }
        let decision = self.decides.decide_should_retry(request);
        if matches!(
            decision,
            RetryDecision::RetrySameTarget(_) | RetryDecision::RetryNextTarget(_)
        ) {
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
        decision
    }

    fn reset(&mut self) {
        self.decides.reset();
    }
}
