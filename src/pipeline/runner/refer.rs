//! Runs a reference look-up of one event: in memory, or by a request if the reference is `on_demand`.

use std::time::Instant;

use super::{Answer, Runtime};
use crate::breaker::gate::NOT_ASKED;
use crate::config::OnMissing;
use crate::pipeline::evaluate::value;
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::pipeline::policy::Policy;
use crate::pipeline::program::Refer;
use crate::store::cache::Origin;

impl Runtime {
    pub(super) async fn refer(&self, index: usize, refer: &Refer, event: &Event) -> Result<Answer, Failure> {
        let key = value(&self.program, &refer.key.source, event)?;
        let handles = &self.steps[index];
        let gate = &*self.gates.mongo;
        let asks = refer.reference.is_on_demand();
        let awaited = refer.on_missing == OnMissing::Retry;
        let _at_step = asks.then(|| handles.step.enter(1));
        let mut attempts = self.attempts(index, event, Policy::ENDLESS, asks.then_some(gate));
        loop {
            let began = Instant::now();
            let answer = match refer.reference.look_up(&key, gate, awaited).await {
                Ok((found, origin)) => {
                    match origin {
                        // A reference that is completely in memory also answers `Loaded`, without a request.
                        Origin::Loaded if asks => handles.step.succeeded(began.elapsed()),
                        Origin::Stale => handles.step.stale(),
                        Origin::Loaded | Origin::Cached | Origin::Shared => {}
                    }
                    handles.count_found(found.is_some());
                    if found.is_some() {
                        return Ok(Answer::of(found, origin));
                    }
                    attempts.after_missing(refer.on_missing, refer.missing.as_ref()).await
                }
                Err(error) => {
                    if error.label == NOT_ASKED
                        && let Err(next) = gate.pass()
                    {
                        gate.wait(next).await;
                    }
                    attempts.own = !error.of_another;
                    attempts.after_error(error.into(), true).await?
                }
            };
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    }
}
