//! Tasks beside the loop that have no event. If one panics, the loop would wait for it for ever, so the panic is reported and the loop halts.

use std::sync::Arc;

use super::Loop;
use crate::pipeline::completions::Completions;

/// Held by such a task for as long as it runs.
pub(super) struct Beside {
    what: &'static str,
    completions: Arc<Completions>,
}

impl Loop {
    /// For a task that does `what`.
    pub(super) fn beside(&self, what: &'static str) -> Beside {
        Beside {
            what,
            completions: self.completions.clone(),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.completions.panicked(self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::completions::Batch;

    fn bug() {
        panic!("a bug");
    }

    #[tokio::test]
    async fn a_panic_is_told_to_the_loop_and_another_end_is_not() {
        let completions = Arc::<Completions>::default();
        let beside = |what| Beside {
            what,
            completions: completions.clone(),
        };
        let (ends, blocks, waits) = (beside("ends"), beside("blocks"), beside("waits"));
        tokio::task::spawn_blocking(move || drop(ends)).await.unwrap();
        let blocking = tokio::task::spawn_blocking(move || {
            let _beside = blocks;
            bug();
        });
        assert!(blocking.await.unwrap_err().is_panic());
        let waiting = tokio::spawn(async move {
            let _beside = waits;
            tokio::task::yield_now().await;
            bug();
        });
        assert!(waiting.await.unwrap_err().is_panic());
        completions.ready().await;
        let mut batch = Batch::default();
        completions.take(&mut batch);
        assert_eq!(batch.panicked, ["blocks", "waits"]);
    }
}
