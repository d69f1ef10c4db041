//! Publishes an event: encodes the output and hands it to the producer, or ends the event as a dead letter.

use std::cell::RefCell;
use std::time::Instant;

use smallvec::SmallVec;

use super::{Next, Runtime, keep_small};
use crate::avro::Value;
use crate::breaker::gate::Pass;
use crate::outcome::Outcome;
use crate::pipeline::completions::How;
use crate::pipeline::evaluate::{append_key_bytes, value};
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;
use crate::registry::framing::header;
use crate::retry::Class;
use crate::sink::dead_letters::DeadLetters;
use crate::sink::{OVER, PRODUCER_OVER, Producer, Sink};
use crate::telemetry::sentry::Report;

/// An output record under construction; librdkafka copies it.
#[derive(Default)]
struct Output {
    value: Vec<u8>,
    key: Vec<u8>,
    has_key: bool,
}

impl Output {
    fn key(&self) -> Option<&[u8]> {
        self.has_key.then_some(&self.key)
    }
}

thread_local! {
    static OUTPUT: RefCell<Output> = RefCell::default();
}

/// As many new values as fit without an allocation.
const FEW: usize = 16;

impl Runtime {
    pub(super) async fn publish(&self, event: Box<Event>) {
        let Some(sink) = &self.sink else {
            event.complete(How::Finished(Outcome::Done));
            return;
        };
        if !sink.may_send(&event).await {
            event.complete(How::Abandoned);
            return;
        }
        match self.hand_over(sink, event) {
            Ok(()) => {}
            // Boxed, because the future of each event would otherwise reserve space for it.
            Err((failure, event)) => Box::pin(self.refused(event, failure)).await,
        }
    }

    /// Why another producer would not help either, because the brokers permit none. Once something has been delivered, the login had the
    /// permission, and may get it back.
    pub fn denied(&self) -> Option<String> {
        if self.metrics.published.get() > 0 || self.metrics.dead_lettered.get() > 0 {
            return None;
        }
        self.producer()?.denied()
    }

    /// The producer of outputs and dead letters.
    pub fn producer(&self) -> Option<&Producer> {
        let of_letters = self.dead_letters.as_ref().map(DeadLetters::producer);
        self.sink.as_ref().map(Sink::producer).or(of_letters)
    }

    /// What follows if the producer did not accept an event's output.
    pub async fn refused(&self, event: Box<Event>, failure: Failure) {
        match failure.class {
            Class::Transient => self.send_again(event, failure).await,
            Class::Permanent | Class::Fatal => self.fail(event, failure).await,
        }
    }

    /// Encodes the output and hands it to the producer.
    pub(super) fn hand_over(&self, sink: &Sink, mut event: Box<Event>) -> Result<(), (Failure, Box<Event>)> {
        let started = Instant::now();
        OUTPUT.with_borrow_mut(|output| {
            let handed = match self.encode(&event, output) {
                Err(failure) => Err((failure, event)),
                Ok(()) => {
                    let now = Instant::now();
                    let took = now.duration_since(started).as_secs_f64();
                    self.metrics.encode.observe(took);
                    event.pending = Outcome::Done;
                    sink.send(event, &output.value, output.key(), now)
                }
            };
            keep_small(&mut output.value);
            keep_small(&mut output.key);
            handed
        })
    }

    /// The output record of an event whose steps have run, value and key, for callers that publish nothing.
    pub fn output_of(&self, event: &Event) -> Result<(Vec<u8>, Option<Vec<u8>>), Failure> {
        let mut output = Output::default();
        self.encode(event, &mut output)?;
        let key = output.key().map(<[u8]>::to_vec);
        Ok((output.value, key))
    }

    /// Builds the output record: the value with its framing, and the key.
    fn encode(&self, event: &Event, output: &mut Output) -> Result<(), Failure> {
        let Some(plan) = &event.plan else {
            return Err(Failure::fatal(
                "internal",
                "an event without a schema was to be published",
            ));
        };
        let Some(made) = &plan.output else {
            return Err(Failure::fatal(
                "internal",
                "an event without an output schema was to be published",
            ));
        };
        let outputs = &self.program.outputs;
        let mut new: SmallVec<[Value<'_>; FEW]> = SmallVec::with_capacity(outputs.len());
        for (_, place) in outputs {
            new.push(value(&self.program, &place.source, event)?);
        }
        output.key.clear();
        output.has_key = match &self.program.key {
            Some(place) => append_key_bytes(&value(&self.program, &place.source, event)?, &mut output.key)?,
            None => {
                output.key.extend_from_slice(event.key().unwrap_or_default());
                event.key().is_some()
            }
        };
        output.value.clear();
        output.value.extend_from_slice(&header(made.schema_id));
        made.splice
            .build(
                event.padded(),
                event.datum_start,
                event.datum_end(),
                &event.marks,
                &new,
                &mut output.value,
            )
            .map_err(|e| Failure::permanent("encode", e.to_string()))?;
        new.into_iter().for_each(Value::release);
        Ok(())
    }

    /// Hands an event to the producer again, after a wait, because the failure may pass. For outputs and dead letters.
    pub async fn send_again(&self, mut event: Box<Event>, mut failure: Failure) {
        loop {
            if failure.reason == OVER {
                event.complete(How::Abandoned);
                return;
            }
            self.metrics.failed("sink", "transient", "warn");
            if let Some(suppressed) = self.told_of(failure.reason, None, "sending again") {
                tracing::warn!(pipeline = %self.program.name, reason = failure.reason, suppressed, "{failure}; sending again");
            }
            event.attempts += 1;
            let gate = &self.gates.sink;
            gate.failed(std::mem::take(&mut event.probe));
            let Some(pass) = self.pass_again(&event).await else {
                event.complete(How::Abandoned);
                return;
            };
            event.probe = pass.is_probe();
            let sent = match (&self.sink, &self.dead_letters) {
                (_, Some(dead_letters)) if event.pending == Outcome::DeadLettered => dead_letters.send(event),
                // Encoded again: if outputs were kept, those of all events in flight would be in memory, bounded only by
                // their number.
                (Some(sink), _) => self.hand_over(sink, event),
                _ => Err((
                    Failure::fatal("internal", "an event was sent, and there is nowhere to send it"),
                    event,
                )),
            };
            match sent {
                // The delivery report will say whether it arrives.
                Ok(()) => return pass.sent(),
                Err(refused) => (failure, event) = refused,
            }
            // Dropping the pass returns the probe.
            event.probe = false;
            drop(pass);
            if failure.class != Class::Transient {
                return self.fail(event, failure).await;
            }
        }
    }

    /// Waits for the back-off, or for the producer's breaker if that is open; none if the event's partition has left.
    async fn pass_again(&self, event: &Event) -> Option<Pass<'_>> {
        let gate = &self.gates.sink;
        if !gate.is_open()
            && let Next::Abandon = self.wait(Some(gate), event, event.attempts, None).await
        {
            return None;
        }
        while !event.is_abandoned() {
            match gate.pass() {
                Ok(pass) => return Some(pass),
                Err(next) => gate.wait(next).await,
            }
        }
        None
    }

    /// Ends an event that cannot succeed: as a dead letter, or by halting its pipeline.
    pub async fn fail(&self, mut event: Box<Event>, failure: Failure) {
        if event.is_abandoned() {
            event.complete(How::Abandoned);
            return;
        }
        // In a step the author chooses the reason, which may be the same word.
        if failure.reason == PRODUCER_OVER && failure.step.is_none() {
            event.complete(How::StartAgain(failure));
            return;
        }
        let stage = failure.stage();
        let already_dead = event.pending == Outcome::DeadLettered;
        let Some(dead_letters) = self
            .dead_letters
            .as_ref()
            .filter(|_| failure.class == Class::Permanent && !already_dead)
        else {
            self.metrics.failed(stage, failure.class.as_str(), "fatal");
            self.report(&event, &failure);
            // From here on it is only for the log and `/status`.
            let failure = match failure.class {
                Class::Permanent => failure.scrubbed(),
                _ => failure,
            };
            event.complete(How::Fatal(failure));
            return;
        };
        self.metrics.failed(stage, "permanent", "error");
        if let Some(suppressed) = self.told_of(failure.reason, failure.step.as_ref(), "dead letter") {
            tracing::warn!(
                pipeline = %self.program.name, step = failure.step.as_ref().map(tracing::field::display),
                topic = %event.origin.topic, partition = event.origin.partition, offset = event.origin.offset,
                reason = failure.reason, suppressed, "dead letter: {}", failure.scrubbed()
            );
        }
        // After the log line, which names the record and is attached to the report.
        self.report(&event, &failure);
        event.pending = Outcome::DeadLettered;
        event.failure = Some(failure);
        if !dead_letters.may_send(&event).await {
            event.complete(How::Abandoned);
            return;
        }
        match dead_letters.send(event) {
            Ok(()) => {}
            Err((failure, event)) if failure.class == Class::Transient => {
                Box::pin(self.send_again(event, failure)).await
            }
            Err((failure, event)) if failure.reason == PRODUCER_OVER => event.complete(How::StartAgain(failure)),
            Err((failure, event)) => {
                self.metrics.failed("dead_letter", failure.class.as_str(), "fatal");
                event.complete(How::Fatal(failure));
            }
        }
    }

    fn report(&self, event: &Event, failure: &Failure) {
        let Some(sentry) = &self.sentry else { return };
        let level = if failure.class == Class::Fatal {
            ::sentry::Level::Fatal
        } else {
            ::sentry::Level::Error
        };
        sentry.report(Report {
            pipeline: &self.program.name,
            step: failure.stage(),
            class: failure.class.as_str(),
            level,
            topic: Some(&event.origin.topic),
            error: &failure.message,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::runner::KEPT;
    use crate::pipeline::runner::publish_tests::narrow;
    use crate::pipeline::runner::tests::{STEPS, bench};

    #[tokio::test]
    async fn a_thread_keeps_the_memory_of_a_small_output_and_not_of_a_large_one() {
        let mut bench = bench(STEPS).await;
        bench.publishes();
        let sink = narrow(&bench.runtime);
        for (offset, size) in [(0, 100), (1, 10_000_000)] {
            let event = bench.event(offset, 1, &"x".repeat(size), false);
            // Whether the queue has room for it or not.
            let _ = bench.runtime.hand_over(&sink, event);
            let kept = OUTPUT.with_borrow(|output| output.value.capacity());
            assert!(kept <= KEPT, "{kept}");
            assert_eq!(kept > 0, size <= KEPT);
        }
    }
}
