//! The dead-letter topic: records that can never succeed, as they came, with the reason in headers.
//!
//! Value, key and headers are the original's. Added headers: `messina.pipeline`, `messina.topic`, `messina.partition`,
//! `messina.offset`, `messina.timestamp`, `messina.step`, `messina.class`, `messina.reason`, `messina.message`,
//! `messina.attempts`, `messina.schema_id`; numbers in decimal. The record's offset is held until the dead letter is delivered.

use std::sync::Arc;

use rdkafka::message::{Header, OwnedHeaders};

use super::{Producer, send};
use crate::pipeline::event::Event;
use crate::pipeline::failure::Failure;

/// The longest message that is put in a header, in bytes.
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

    /// Hands an event that has a failure to the producer. On refusal the event comes back.
    pub fn send(&self, event: Box<Event>) -> Result<(), (Failure, Box<Event>)> {
        let headers = self.headers(&event);
        // The originals stay with the event, for another attempt.
        let original = event.headers.clone();
        let key = event.key().map(<[u8]>::to_vec);
        let value = event.value().map(<[u8]>::to_vec);
        send(&self.producer, &self.topic, event, key, Some(headers), value.as_deref()).map_err(
            |(failure, mut event)| {
                event.headers = original;
                (failure, event)
            },
        )
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
        add("messina.pipeline", &self.pipeline);
        add("messina.topic", &event.origin.topic);
        add("messina.partition", &event.origin.partition.to_string());
        add("messina.offset", &event.origin.offset.to_string());
        if let Some(timestamp) = event.origin.timestamp_ms {
            add("messina.timestamp", &timestamp.to_string());
        }
        if let Some(failure) = &event.failure {
            if let Some(step) = &failure.step {
                add("messina.step", step);
            }
            add("messina.class", failure.class.as_str());
            add("messina.reason", failure.reason);
            add("messina.message", shortened(&failure.message));
        }
        add("messina.attempts", &(event.attempts + 1).to_string());
        if let Some(id) = event.schema_id {
            add("messina.schema_id", &id.to_string());
        }
        headers
    }
}

fn shortened(message: &str) -> &str {
    let mut end = message.len().min(LONGEST_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
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
