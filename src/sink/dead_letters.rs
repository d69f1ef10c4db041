//! The dead-letter topic: records that can never succeed, unchanged, with the reason in headers.
//!
//! Value, key and headers are the original's; ours ([`letter`]) follow, with numbers in decimal. The timestamp is that of the dead letter: with the
//! record's own, a topic that keeps a week would delete a dead letter of an older record at once. The record's offset is not committed until the dead
//! letter is delivered.

use std::sync::Arc;
use std::time::Instant;

use rdkafka::message::{Header, OwnedHeaders};

use super::{Made, Producer, letter, send};
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;

/// What a compacted topic does to dead letters.
pub const COMPACTED: &str = "is compacted: a bad record without a key halts the pipeline, and of the dead letters of one key only the newest is kept \
                             for `dead-letters replay`";
/// What to do about it.
pub const COMPACTED_HELP: &str = "set its cleanup.policy=delete";

/// The longest failure message that is put in a header, in bytes.
const LONGEST_MESSAGE: usize = 2048;

/// The dead-letter topic of a pipeline.
#[derive(Clone)]
pub struct DeadLetters {
    producer: Arc<Producer>,
    topic: Arc<str>,
    pipeline: Arc<str>,
}

impl DeadLetters {
    /// Publishes to `topic` for `pipeline`.
    pub fn new(producer: Arc<Producer>, topic: &str, pipeline: &str) -> DeadLetters {
        DeadLetters {
            producer,
            topic: Arc::from(topic),
            pipeline: Arc::from(pipeline),
        }
    }

    /// The producer that publishes.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Waits until the event may be sent; false if it never may.
    pub async fn may_send(&self, event: &Event) -> bool {
        super::may_send(&self.producer, event).await
    }

    /// Hands a failed event to the producer. On refusal the event comes back.
    pub fn send(&self, event: Box<Event>) -> Result<(), (Failure, Box<Event>)> {
        let headers = self.headers(&event);
        // The event keeps its original headers for another attempt.
        let original = event.headers.clone();
        let key = event.key().map(<[u8]>::to_vec);
        let value = event.value().map(<[u8]>::to_vec);
        let made = Made {
            key: key.as_deref(),
            headers: Some(headers),
            value: value.as_deref(),
            timestamp: None,
            now: Instant::now(),
        };
        send(&self.producer, &self.topic, event, made).map_err(|(failure, mut event)| {
            event.headers = original;
            (failure, event)
        })
    }

    fn headers(&self, event: &Event) -> OwnedHeaders {
        let mut headers = event.headers.clone().unwrap_or_default();
        let mut add = |key: &str, value: &str| {
            let all = std::mem::take(&mut headers);
            headers = all.insert(Header {
                key,
                value: Some(value),
            });
        };
        add(letter::PIPELINE, &self.pipeline);
        add(letter::TOPIC, &event.origin.topic);
        add(letter::PARTITION, &event.origin.partition.to_string());
        add(letter::OFFSET, &event.origin.offset.to_string());
        if let Some(timestamp) = event.origin.timestamp_ms {
            add(letter::TIMESTAMP, &timestamp.to_string());
        }
        add(letter::WRITE_TIMESTAMP, &event.origin.write_timestamp_us.to_string());
        if let Some(failure) = &event.failure {
            if let Some(step) = &failure.step {
                add(letter::STEP, step);
            }
            add(letter::CLASS, failure.class.as_str());
            add(letter::REASON, failure.reason);
            add(letter::MESSAGE, shortened(&failure.message));
        }
        let tried = event.failure.as_ref().map_or(1, |failure| failure.attempts);
        add(letter::ATTEMPTS, &event.attempts.saturating_add(tried).to_string());
        if let Some(id) = event.schema_id {
            add(letter::SCHEMA_ID, &id.to_string());
        }
        headers
    }
}

fn shortened(message: &str) -> &str {
    &message[..message.floor_char_boundary(LONGEST_MESSAGE)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let long = "é".repeat(LONGEST_MESSAGE);
        assert_eq!(shortened(&long).len(), LONGEST_MESSAGE);
        assert_eq!(shortened("short"), "short");
        let odd = format!("x{long}");
        assert!(odd.starts_with(shortened(&odd)));
    }
}
