//! Runs the look-up of one event in a reference: in memory, or by a request where the reference asks for each document.

use super::{Answer, Runtime};
use crate::pipeline::evaluate::value;
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::pipeline::policy::Policy;
use crate::pipeline::program::Refer;

impl Runtime {
    pub(super) async fn refer(&self, index: usize, refer: &Refer, event: &Event) -> Result<Answer, Failure> {
        let key = value(&self.program, &refer.key.source, event)?;
        let handles = &self.steps[index];
        let mut attempts = self.attempts(index, event, Policy::ENDLESS, None);
        loop {
            let answer = match refer.reference.look_up(&key).await {
                Ok(found) => {
                    handles.count_found(found.is_some());
                    if found.is_some() {
                        return Ok(Answer::Row(found));
                    }
                    attempts.after_missing(refer.on_missing, refer.missing.as_ref()).await
                }
                Err(error) => attempts.after_error(error.into(), true).await?,
            };
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    }
}
