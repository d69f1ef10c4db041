//! Runs a step of one's own for one event: again where it fails for the moment, as the step's policy says.

use std::sync::Arc;
use std::time::Instant;

use super::{Answer, Next, Runtime};
use crate::config::{OnError, OnMissing};
use crate::custom::{StepError, given, taken};
use crate::pipeline::evaluate::value;
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::pipeline::policy::Tries;
use crate::pipeline::program::Custom;
use crate::retry::Class;

impl Runtime {
    pub(super) async fn custom(&self, index: usize, custom: &Custom, event: &Event) -> Result<Answer, Failure> {
        let metrics = &self.steps[index].step;
        let _at_step = metrics.enter();
        let mut values = Vec::with_capacity(custom.binds.len());
        for (place, (name, ty)) in custom.binds.iter().zip(&custom.takes) {
            let value = value(&self.program, &place.source, event)?;
            values.push(taken(value, ty).map_err(|why| Failure::permanent("type", format!("{name}: {why}")))?);
        }
        let mut tries = Tries::default();
        loop {
            let began = Instant::now();
            let error = match custom.step.run(&values).await {
                Ok(None) => {
                    metrics.succeeded(began.elapsed());
                    return Ok(Answer::Missing(custom.on_missing));
                }
                Ok(Some(row)) => match given(&row, &custom.gives) {
                    Ok(()) => {
                        metrics.succeeded(began.elapsed());
                        return Ok(Answer::Row(Arc::new(Some(row.into()))));
                    }
                    // The code is wrong, and every record would meet it.
                    Err(why) => StepError::fatal("custom", why),
                },
                Err(error) => error,
            };
            let now = Instant::now();
            tries.failed(now);
            let over = custom.policy.is_over(tries, now);
            if error.class != Class::Transient || over {
                let class = if error.class == Class::Transient {
                    match custom.policy.on_error {
                        OnError::Null => return Ok(Answer::Missing(OnMissing::Null)),
                        OnError::Skip => return Ok(Answer::Missing(OnMissing::Skip)),
                        OnError::Retry | OnError::DeadLetter => Class::Permanent,
                    }
                } else {
                    error.class
                };
                return Err(Failure {
                    class,
                    reason: error.reason,
                    step: None,
                    attempts: tries.made(),
                    message: error.message,
                });
            }
            metrics.transient.inc();
            metrics.retries.inc();
            if let Some(suppressed) = self.told(error.reason) {
                tracing::warn!(
                    pipeline = %self.program.name, step = %self.program.steps[index].name, reason = error.reason,
                    attempts = tries.made(), suppressed, "{error}; trying again"
                );
            }
            let attempt = tries.made() - 1;
            let deadline = custom.policy.deadline(tries);
            if let Next::Abandon = self.pause(event, attempt, deadline).await {
                return Ok(Answer::Abandon);
            }
        }
    }
}
