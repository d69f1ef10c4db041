//! A consumer that its group keeps out for now, although librdkafka has given it up.
//!
//! If the broker assigns (`group_protocol = "consumer"`), librdkafka (2.12) takes two answers of the group for final that are not. A static member that
//! was killed is refused under its name until its old session is over, and a right that is lacking may be granted. In the classic protocol the first is let
//! in at once, and librdkafka repeats the request of the second. So another consumer asks again, for as long as it takes.

use rdkafka::error::RDKafkaErrorCode;

use super::Loop;
use crate::pipeline::failure::Failure;

/// What the next consumer has to wait for, if librdkafka has given one up for this; `None` if it would be given up as well.
fn waits_for(code: RDKafkaErrorCode) -> Option<&'static str> {
    match code {
        RDKafkaErrorCode::UnreleasedInstanceId => Some(
            "the session of the member that has its instance_id to end: that of a process that was killed, or of one that still runs",
        ),
        RDKafkaErrorCode::GroupAuthorizationFailed => Some("the right to Read its group"),
        _ => None,
    }
}

impl Loop {
    /// librdkafka has given the consumer up for this.
    pub(super) fn consumer_given_up(&mut self, code: RDKafkaErrorCode) {
        let Some(what) = waits_for(code) else {
            return self.halt(Failure::fatal("kafka", code.to_string()));
        };
        self.parts.runtime.metrics.failed("consume", "transient", "warn");
        let why = format!("{code}: the consumer waits for {what}");
        tracing::warn!(pipeline = %self.name(), "{why}");
        self.note_error(why.clone());
        // As in `give_way`.
        if self.stopping.is_some() || self.stopped_by_limit {
            return;
        }
        (self.replace, self.waits_for) = (Some(why), Some(what));
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::error::KafkaError;

    use super::*;
    use crate::source::consumer_loop::End;
    use crate::source::consumer_loop::tests::idle::idle_with_transactions;

    #[tokio::test]
    async fn a_consumer_that_is_kept_out_for_now_makes_way_for_one_that_waits_and_any_other_halts() {
        for (code, waits) in [
            (RDKafkaErrorCode::UnreleasedInstanceId, true),
            (RDKafkaErrorCode::GroupAuthorizationFailed, true),
            (RDKafkaErrorCode::FencedInstanceId, false),
            (RDKafkaErrorCode::UnsupportedVersion, false),
            (RDKafkaErrorCode::Fatal, false),
        ] {
            assert_eq!(waits_for(code).is_some(), waits, "{code:?}");
            let mut this = idle_with_transactions().await;
            this.take(Err(KafkaError::MessageConsumptionFatal(code)));
            let end = this.end(Instant::now());
            let right = match &end {
                Some(End::Replaced { waits_for, .. }) => waits && waits_for.is_some(),
                Some(End::Halted(_)) => !waits,
                _ => false,
            };
            assert!(right, "{code:?}: {end:?}");
        }
    }

    /// What follows says so as well: its last commit is refused.
    #[tokio::test]
    async fn a_consumer_that_is_kept_out_while_it_stops_has_no_successor() {
        let mut this = idle_with_transactions().await;
        this.stop();
        let code = RDKafkaErrorCode::GroupAuthorizationFailed;
        this.take(Err(KafkaError::MessageConsumptionFatal(code)));
        assert!(this.last_errors.iter().any(|error| error.contains("the right to Read")));
        let end = this.end(Instant::now());
        assert!(matches!(end, Some(End::Drained)), "{end:?}");
    }
}
