//! Takes records in: admits them to ledger and budget, reads them, and hands them to a lane, or parks them until their schema is known.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Message};

use super::{IMPATIENT_FOR, Loop, PATIENCE};
use crate::kafka::{epoch, headers};
use crate::lanes::{Entered, LaneId};
use crate::ledger::LedgerError;
use crate::pipeline::completions::How;
use crate::pipeline::event::{Content, Event, Origin};
use crate::pipeline::failure::Failure;
use crate::pipeline::plan::SchemaPlan;
use crate::pipeline::runner::Advance;
use crate::retry::{Class, Jitter};
use crate::sink::letter::{Back, record_timestamp, write_timestamp};
use crate::source::assignment::{Intake, Partition};
use crate::source::read::{Read, read};

/// A partition is paused when this many of its records wait for a schema; earlier if the waiting records of all partitions could take half of the
/// budget.
const WAITING: usize = 64;

/// A list of this partition only.
fn only(topic: &str, partition: i32) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    list
}

/// The message for a consumer error, with the remedy if librdkafka's text has none.
fn complaint(error: &KafkaError) -> String {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::BadCompression) => format!(
            "consumer: {error}: a partition is stuck at a batch that cannot be decompressed. librdkafka also says so of a zstd batch that is larger \
             than it accepts when decompressed: raise `receive.message.max.bytes` in `consumer_properties`"
        ),
        _ => format!("consumer: {error}"),
    }
}

/// Whether an error may concern fetching. librdkafka also reports connection errors to the consumer, twice a minute while a broker is away. Their
/// partitions are known by their leaders, and such an error says nothing about the others.
fn may_be_of_fetching(error: &KafkaError) -> bool {
    !matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::AllBrokersDown
        )
    )
}

impl Loop {
    pub(super) fn take(&mut self, message: Result<BorrowedMessage<'_>, KafkaError>) {
        self.workers.take();
        match message {
            Ok(message) => {
                self.took_since_status = true;
                self.admit(&message);
            }
            Err(KafkaError::PartitionEOF(_)) => {}
            Err(KafkaError::MessageConsumptionFatal(code)) => self.consumer_given_up(code),
            Err(error) => {
                // Brokers may come back, and a missing topic may be created.
                self.parts.runtime.metrics.failed("consume", "transient", "warn");
                let complaint = complaint(&error);
                if let Some(suppressed) = self.parts.runtime.told("consume") {
                    tracing::warn!(pipeline = %self.name(), suppressed, "{complaint}");
                }
                self.note_error(complaint);
                let last = if may_be_of_fetching(&error) {
                    &mut self.last_complaint
                } else {
                    &mut self.last_unreachable
                };
                *last = Some(Instant::now());
            }
        }
    }

    pub(super) fn admit(&mut self, message: &BorrowedMessage<'_>) {
        let started = Instant::now();
        let Some(partition) = self.partition_of(message) else {
            return;
        };
        if !self.unvalidated.is_empty() && self.validates_first(partition) {
            return;
        }
        let offset = message.offset();
        if let Some(bounds) = &self.parts.bounds {
            if !bounds.contains(self.topic(partition), partition.index, offset) {
                return self.leave_alone(message);
            }
            bounds.took();
        }
        let (headers, unread) = match headers::of(message) {
            Ok(headers) => (headers, None),
            Err(code) => (
                None,
                Some(Failure::permanent(
                    "headers",
                    format!("its headers cannot be read: {code}"),
                )),
            ),
        };
        let back = headers.and_then(|headers| Back::of(headers, &self.parts.runtime.program.name));
        let timestamp_ms = record_timestamp(message.timestamp(), back);
        self.assignment.leads(partition, epoch::of(message));
        let (ticket, given, due) = match self.assignment.admit(partition, offset, timestamp_ms) {
            Ok(Intake::Admitted { ticket, timestamp, due }) => (ticket, timestamp, due),
            Ok(Intake::Refused) => return,
            Err(error @ LedgerError::Behind { .. }) => {
                tracing::warn!(pipeline = %self.name(), topic = message.topic(), partition = partition.index, "{error}");
                let repeats = self.assignment.repeats(partition, offset);
                if self.assignment.rewind(partition, offset) {
                    self.refused.forget(&[partition]);
                    self.counted.forget(&[partition]);
                    self.gone_until.remove(&partition);
                    if let Some(transactions) = &mut self.transactions {
                        transactions.went_back(partition, repeats);
                    }
                    // Seek before the next record is handled: what is queued belongs to the old log.
                    self.act();
                }
                return;
            }
            Err(error @ (LedgerError::ClockExhausted { .. } | LedgerError::NotInFlight { .. })) => {
                let at = format!("{}/{} offset {offset}", message.topic(), partition.index);
                return self.halt(Failure::fatal("clock", format!("{at}: {error}")));
            }
        };
        if let Some(due) = due {
            self.tell_what_is_gone(partition, due, offset);
        }
        let Some(held) = self.held.get_mut(&partition) else {
            return;
        };
        held.since_ms = timestamp_ms;
        self.took = true;
        self.left_before = 0;
        // Intake that admits a record is not blocked, even if it is full again at the next check.
        self.full_since = None;
        let (value, key) = (message.payload(), message.key());
        let value_length = value.map_or(0, <[u8]>::len);
        let key_length = key.map_or(0, <[u8]>::len);
        self.metrics.received.inc();
        self.metrics.record_bytes.inc_by((value_length + key_length) as u64);
        let write_timestamp_us = write_timestamp(back, timestamp_ms, given);
        let origin = Origin {
            ticket,
            topic: self.topics[usize::from(partition.topic)].clone(),
            partition: partition.index,
            offset,
            timestamp_ms,
            write_timestamp_us,
        };
        let headers = headers.map(BorrowedHeaders::detach);
        let content = Content { value, key, headers };
        let mut event = Event::new(
            self.pool.pop(),
            origin,
            content,
            held.tenure.clone(),
            self.completions.clone(),
            started,
        );
        event.failure = unread;
        self.parts.budget.admit(event.own_weight());
        if let Some(tracer) = &self.parts.runtime.tracer {
            tracer.begin(&mut event);
        }
        // In no transaction while it waits for a schema: otherwise nothing of the other partitions could be committed meanwhile.
        event.transaction = 0;
        if !held.parked.is_empty() {
            held.parked.push_back(event);
        } else if self.read(partition, event, started) {
            return;
        }
        self.wait_alone(partition);
    }

    /// Pauses a partition by itself when records that wait for a schema fill its share of the budget: otherwise the others would stand still with it.
    ///
    /// Before that, all intake is held for a moment, because a healthy registry answers sooner than librdkafka fetches again what a pause discards. If
    /// any answer takes longer, the registry is not healthy, so several partitions and schemas do not add up to a long hold. If each answer leads to
    /// another question, the hold would never end. So a partition that has waited longer is paused, and after that intake is not held for a while.
    fn wait_alone(&mut self, partition: Partition) {
        let shares = 2 * self.held.len().max(1);
        let Some(held) = self.held.get_mut(&partition).filter(|held| !held.waits) else {
            return;
        };
        let budget = &self.parts.budget;
        let (records, bytes) = (budget.max_records() / shares, budget.max_bytes() / shares);
        let weight: usize = held.parked.iter().map(|event| event.own_weight()).sum();
        if held.parked.len() < records.clamp(1, WAITING) && weight < bytes {
            return;
        }
        let now = Instant::now();
        if self.impatient_until.is_none_or(|until| now >= until) {
            let asked = self.resolving.values().copied();
            let patient_until = asked.chain(held.parked_since).min().map(|since| since + PATIENCE);
            if patient_until.is_some_and(|until| now < until) {
                self.hold_until = patient_until;
                return;
            }
        }
        match self
            .parts
            .consumer
            .pause(&only(&self.topics[usize::from(partition.topic)], partition.index))
        {
            Ok(()) => {
                held.waits = true;
                self.impatient_until = Some(now + IMPATIENT_FOR);
                self.parts.runtime.metrics.pauses.inc();
            }
            Err(error) => self.note_error(format!("pause: {error}")),
        }
    }

    /// Resumes a partition that was paused by itself.
    pub(super) fn wait_no_more(&mut self, partition: Partition) {
        // It is resumed together with all the others.
        if self.paused {
            return;
        }
        let list = only(self.topic(partition), partition.index);
        if let Err(error) = self.parts.consumer.resume(&list) {
            self.note_error(format!("resume: {error}"));
        }
    }

    /// Pauses a partition once a replay takes no more of it, so that it is not fetched on.
    fn leave_alone(&self, message: &BorrowedMessage<'_>) {
        let list = only(message.topic(), message.partition());
        if let Err(error) = self.parts.consumer.pause(&list) {
            tracing::debug!(pipeline = %self.name(), "not paused: {error}");
        }
    }

    /// Reads an event and runs it; if its schema is not known yet, parks it and returns false.
    pub(super) fn read(&mut self, partition: Partition, event: Box<Event>, now: Instant) -> bool {
        let mut found = read(event, &mut self.plans, self.parts.tombstone, now);
        if let Some(transactions) = &mut self.transactions
            && let Read::Ready(event) | Read::Ends(_, event) | Read::Fails(_, event) = &mut found
        {
            event.transaction = transactions.admit(now);
        }
        match found {
            Read::Ready(event) if let Some(failure) = self.refused.get((partition, event.origin.offset)).cloned() => {
                let runtime = self.parts.runtime.clone();
                self.workers.spawn(async move { runtime.fail(event, failure).await });
            }
            Read::Ready(event) => {
                let decoded = Instant::now();
                self.metrics.decode.observe(decoded.duration_since(now).as_secs_f64());
                self.enter(event, decoded);
            }
            Read::Ends(outcome, event) => event.complete(How::Finished(outcome)),
            Read::Fails(failure, event) => {
                let runtime = self.parts.runtime.clone();
                self.workers.spawn(async move { runtime.fail(event, failure).await });
            }
            Read::Waits(id, event) => {
                self.resolve(id);
                match self.held.get_mut(&partition) {
                    Some(held) => {
                        held.parked_since.get_or_insert(now);
                        held.parked.push_front(event);
                    }
                    None => self.let_go(event),
                }
                return false;
            }
        }
        true
    }

    fn enter(&mut self, event: Box<Event>, now: Instant) {
        if let Some(turns) = &mut self.turns {
            let mut event = event;
            event.turn = turns.next(event.origin.ticket, event.key());
            self.run(event, now);
            return;
        }
        let lane = self.lanes.lane_of(event.origin.ticket.slot(), event.key());
        if let Entered::Run(lane, event) = self.lanes.enter_lane(lane, event) {
            self.start(lane, event, now);
        }
    }

    pub(super) fn start(&mut self, lane: LaneId, mut event: Box<Event>, now: Instant) {
        event.lane = Some(lane);
        self.run(event, now);
    }

    pub(super) fn run(&mut self, event: Box<Event>, now: Instant) {
        match self.parts.runtime.advance(event, now) {
            Advance::Ended => {}
            Advance::Waits(event) => self.workers.run(event),
            Advance::Joins(member) => self.gather(member),
            Advance::Refused(failure, event) => {
                let runtime = self.parts.runtime.clone();
                self.workers.spawn(async move { runtime.refused(event, failure).await });
            }
        }
    }

    pub(super) fn resolve(&mut self, id: u32) {
        let Entry::Vacant(asked) = self.resolving.entry(id) else {
            return;
        };
        asked.insert(Instant::now());
        let (schemas, answer) = (self.parts.schemas.clone(), self.resolved.0.clone());
        let runtime = self.parts.runtime.clone();
        let mut jitter = Jitter::new(self.jitter.next_u64());
        let beside = self.beside("resolves a schema");
        self.workers.spawn(async move {
            let _beside = beside;
            let mut attempt = 0;
            let gate = &runtime.gates.registry;
            let result = loop {
                let pass = match gate.pass() {
                    Ok(pass) => pass,
                    Err(next) => {
                        gate.wait(next).await;
                        continue;
                    }
                };
                match schemas.resolve(id).await {
                    Err(failure) if failure.class == Class::Transient => {
                        pass.failed();
                        runtime.metrics.failed("schema", "transient", "warn");
                        if let Some(suppressed) = runtime.told("registry") {
                            tracing::warn!(pipeline = %runtime.program.name, suppressed, "{failure}; trying again");
                        }
                        if !gate.is_open() {
                            let delay = runtime.backoff.delay(attempt, jitter.next_u64());
                            gate.wait(Instant::now() + delay).await;
                        }
                        attempt += 1;
                    }
                    result => {
                        pass.succeeded();
                        break result;
                    }
                }
            };
            // The loop may have ended meanwhile.
            let _ = answer.send((id, result));
        });
    }

    pub(super) fn take_resolved(&mut self) {
        while let Ok((id, plan)) = self.resolved.1.try_recv() {
            self.schema_known(id, plan);
        }
    }

    /// Continues with the records that waited for a schema, in order, up to the next one that has to wait.
    pub(super) fn schema_known(&mut self, id: u32, plan: Result<Arc<SchemaPlan>, Failure>) {
        self.resolving.remove(&id);
        self.hold_until = None;
        if let Err(failure) = &plan {
            // Only unknown ids are rate-limited, because values without framing may show another id in each record. The number of schemas that do not
            // fit is limited.
            let told = match failure.reason {
                "registry" => self.parts.runtime.told("unknown_schema"),
                _ => Some(0),
            };
            if let Some(suppressed) = told {
                tracing::error!(pipeline = %self.name(), schema = id, suppressed, "{failure}");
                self.note_error(failure.to_string());
            }
        }
        let now = Instant::now();
        self.plans.learn(id, plan, now);
        let waiting: Vec<Partition> = self
            .held
            .iter()
            .filter(|(_, held)| !held.parked.is_empty())
            .map(|(partition, _)| *partition)
            .collect();
        for partition in waiting {
            while let Some(event) = self.held.get_mut(&partition).and_then(|held| held.parked.pop_front()) {
                if !self.read(partition, event, Instant::now()) {
                    break;
                }
            }
            if let Some(held) = self.held.get_mut(&partition)
                && held.parked.is_empty()
            {
                held.parked_since = None;
                if std::mem::take(&mut held.waits) {
                    self.wait_no_more(partition);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::budget::Budget;
    use crate::registry::framing;
    use crate::source::consumer_loop::tests::idle::{P, taken, taken_with, with_one_finished};

    #[tokio::test]
    async fn records_that_wait_for_schemas_stay_in_order_when_one_of_these_is_known() {
        let mut this = with_one_finished().await;
        for (offset, id) in [(1, 9), (2, 10), (3, 9)] {
            let event = taken_with(&mut this, offset, None, &[0, 0, 0, 0, id]);
            this.held.get_mut(&P).unwrap().parked.push_back(event);
        }
        let plan = this.parts.schemas.known(7).unwrap();
        this.schema_known(9, plan);
        let waiting = this.held[&P].parked.iter().map(|event| event.origin.offset);
        assert_eq!(waiting.collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_batch_that_is_not_unpacked_is_told_with_the_remedy() {
        let told = |code| complaint(&KafkaError::MessageConsumption(code));
        let packed = told(RDKafkaErrorCode::BadCompression);
        assert!(packed.contains("raise `receive.message.max.bytes`"), "{packed}");
        let away = told(RDKafkaErrorCode::AllBrokersDown);
        assert!(!away.contains("raise"), "{away}");
    }

    #[tokio::test]
    async fn that_a_broker_is_away_is_no_complaint_of_what_others_lead() {
        let mut this = with_one_finished().await;
        for (code, away) in [
            (RDKafkaErrorCode::BrokerTransportFailure, true),
            (RDKafkaErrorCode::Resolve, true),
            (RDKafkaErrorCode::SSL, true),
            (RDKafkaErrorCode::Authentication, true),
            (RDKafkaErrorCode::AllBrokersDown, true),
            (RDKafkaErrorCode::TopicAuthorizationFailed, false),
            (RDKafkaErrorCode::BadCompression, false),
            (RDKafkaErrorCode::BadMessage, false),
            (RDKafkaErrorCode::Unknown, false),
        ] {
            (this.last_complaint, this.last_unreachable) = (None, None);
            this.take(Err(KafkaError::MessageConsumption(code)));
            let now = Instant::now();
            assert_eq!(
                (this.misses_a_broker(now), this.complains(now)),
                (away, !away),
                "{code:?}"
            );
        }
    }

    /// Takes records that each name another unknown schema, until intake is held or their partition is paused.
    fn fill(this: &mut Loop, offsets: &mut impl Iterator<Item = i64>) {
        while !this.holds_intake() && !this.held[&P].waits {
            let record = taken(this, offsets.next().unwrap());
            let value = framing::header(1000 + u32::try_from(record.origin.offset).unwrap());
            let content = Content {
                value: Some(&value),
                key: None,
                headers: None,
            };
            let (origin, tenure, now) = (record.origin.clone(), record.tenure.clone(), Instant::now());
            let completions = this.completions.clone();
            let event = Event::new(Some(record.recycle()), origin, content, tenure, completions, now);
            if this.held[&P].parked.is_empty() {
                this.read(P, event, now);
            } else {
                this.held.get_mut(&P).unwrap().parked.push_back(event);
            }
            this.wait_alone(P);
        }
    }

    /// The registry answers that it does not know one of the schemas that it was asked for.
    fn answer(this: &mut Loop) {
        let id = *this.resolving.keys().next().unwrap();
        this.schema_known(id, Err(Failure::permanent("registry", "it is unknown")));
    }

    /// In bytes without framing, each record may look like a frame with another schema id.
    #[tokio::test]
    async fn answers_that_each_lead_to_another_question_hold_intake_no_longer_than_one() {
        let mut this = with_one_finished().await;
        this.parts.budget = Budget::new(10_000, 1 << 24);
        let mut offsets = 1..;
        fill(&mut this, &mut offsets);
        let began = Instant::now();
        assert!(this.holds_intake() || this.held[&P].waits);
        assert_eq!(this.held[&P].parked.len(), WAITING);
        while began.elapsed() < PATIENCE + Duration::from_millis(50) {
            tokio::time::sleep(Duration::from_millis(30)).await;
            answer(&mut this);
            fill(&mut this, &mut offsets);
        }
        assert!(this.held[&P].waits && this.hold_until.is_none());
        for patient in [false, true] {
            if patient {
                this.impatient_until = Some(Instant::now());
            }
            while this.held[&P].waits {
                answer(&mut this);
            }
            fill(&mut this, &mut offsets);
            assert_eq!((this.held[&P].waits, this.holds_intake()), (!patient, patient));
        }
    }
}
