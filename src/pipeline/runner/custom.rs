//! Runs a custom step for one event; transient errors are retried as the step's policy says.

use std::sync::Arc;
use std::time::Instant;

use super::{Answer, Runtime};
use crate::custom::{StepError, given, taken};
use crate::pipeline::evaluate::value;
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::pipeline::program::Custom;
use crate::store::cache::heap_bytes;

impl Runtime {
    pub(super) async fn custom(&self, index: usize, custom: &Custom, event: &Event) -> Result<Answer, Failure> {
        let metrics = &self.steps[index].step;
        let _at_step = metrics.enter(1);
        let mut values = Vec::with_capacity(custom.binds.len());
        for (place, (name, ty)) in custom.binds.iter().zip(&custom.takes) {
            let value = value(&self.program, &place.source, event)?;
            values.push(taken(value, ty).map_err(|why| Failure::permanent("type", format!("{name}: {why}")))?);
        }
        let _held = event.hold_while(values.iter().map(heap_bytes).sum());
        let mut attempts = self.attempts(index, event, custom.policy, None);
        loop {
            let began = Instant::now();
            // A step that hangs would block its record, and the commits of its partition, for ever.
            let ran = tokio::select! {
                // The order matters: an answer that is already there counts.
                biased;
                ran = tokio::time::timeout(custom.timeout, custom.step.run(&values)) => ran,
                // The next owner of the partition runs the record again, and must not do so concurrently.
                () = event.tenure.ended() => return Ok(Answer::Abandon),
            };
            let late = |_| {
                Err(StepError::transient(
                    "timeout",
                    format!("no answer within {:?}", custom.timeout),
                ))
            };
            let error = match ran.unwrap_or_else(late) {
                Ok(None) => {
                    metrics.succeeded(began.elapsed());
                    return Ok(Answer::Missing(custom.on_missing));
                }
                Ok(Some(row)) => match given(&row, &custom.gives) {
                    Ok(()) => {
                        metrics.succeeded(began.elapsed());
                        return Ok(Answer::Own(Arc::new(Some(row.into()))));
                    }
                    // The code is wrong, so every record would fail.
                    Err(why) => Failure::fatal("custom", why),
                },
                Err(error) => error.into(),
            };
            if let Some(answer) = attempts.after_error(error, true).await? {
                return Ok(answer);
            }
        }
    }
}
