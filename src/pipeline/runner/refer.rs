//! Runs the look-up of one event in a reference: in memory, or by a request where the reference asks for each document.

use std::time::Instant;

use super::{Answer, Next, Runtime};
use crate::config::OnMissing;
use crate::pipeline::evaluate::value;
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::pipeline::program::Refer;
use crate::retry::Class;

impl Runtime {
    pub(super) async fn refer(&self, index: usize, refer: &Refer, event: &Event) -> Result<Answer, Failure> {
        let key = value(&self.program, &refer.key.source, event)?;
        let handles = &self.steps[index];
        let began = Instant::now();
        let mut attempt = 0;
        loop {
            let found = match refer.reference.look_up(&key).await {
                Ok(found) => found,
                Err(error) if error.class == Class::Transient => {
                    handles.step.transient.inc();
                    if let Some(suppressed) = self.told(error.label) {
                        tracing::warn!(
                            pipeline = %self.program.name, step = %self.program.steps[index].name,
                            reason = error.label, suppressed, "{error}; trying again"
                        );
                    }
                    if let Next::Abandon = self.pause(event, attempt, None).await {
                        return Ok(Answer::Abandon);
                    }
                    handles.step.retries.inc();
                    attempt += 1;
                    continue;
                }
                Err(error) => {
                    return Err(Failure {
                        class: error.class,
                        reason: error.label,
                        step: None,
                        attempts: attempt + 1,
                        message: error.message,
                    });
                }
            };
            handles.count_found(found.is_some());
            if found.is_some() {
                return Ok(Answer::Row(found));
            }
            if refer.on_missing != OnMissing::Retry {
                return Ok(Answer::Missing(refer.on_missing));
            }
            let end = refer
                .missing
                .as_ref()
                .map(|missing| (began + missing.deadline, missing.then));
            if let Some((end, then)) = end
                && end <= Instant::now()
            {
                return Ok(Answer::Missing(then));
            }
            if let Next::Abandon = self.pause(event, attempt, end.map(|(end, _)| end)).await {
                return Ok(Answer::Abandon);
            }
            handles.step.retries.inc();
            attempt += 1;
        }
    }
}
