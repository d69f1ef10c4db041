//! The demo: the main job end to end with nothing installed, and the proof that nothing was lost.
//!
//! ```text
//!  generator ──► mock cluster ──► Messina, as `messina run` starts it ──► mock cluster ──► verifier
//!  (a thread)    (librdkafka's)     │ three pipelines in one process        output,          (a thread)
//!                                   ▼ registry in process, SQLite           dead letters
//! ```
//!
//! Messina is given a configuration like any other ([`config_text`]) and knows nothing of the demo. The streams
//! ([`streams`]) say what each record contains and what must become of it; generator and verifier both ask them. A run is
//! good only if every record is published, skipped or dead-lettered as it must be, outputs and rows hold the right bytes,
//! order is kept where it is asked for, and all offsets are committed.

pub mod bitmap;
pub mod cluster;
pub mod cpu;
pub mod database;
pub mod datum;
mod display;
pub mod flow;
pub mod generator;
pub mod random;
pub mod registry;
pub mod report;
mod run;
pub mod schemas;
mod show;
mod stage;
pub mod streams;
mod summary;
pub mod verifier;
pub mod world;

pub use run::{DemoError, run};

const CONFIG: &str = include_str!("demo.toml");

/// Where the demo's configuration finds its services.
#[derive(Debug, Clone)]
pub struct Places {
    /// Kafka's bootstrap servers.
    pub brokers: String,
    /// The registry's URL.
    pub registry: String,
    /// The database file.
    pub store: String,
    /// The address on which HTTP listens.
    pub http: String,
}

impl Default for Places {
    /// The usual addresses, for a configuration that is printed while nothing runs.
    fn default() -> Self {
        Places {
            brokers: "127.0.0.1:9092".to_owned(),
            registry: "http://127.0.0.1:8081".to_owned(),
            store: "demo.db".to_owned(),
            http: "127.0.0.1:9090".to_owned(),
        }
    }
}

/// The configuration of the demo's pipelines, in TOML.
pub fn config_text(places: &Places) -> String {
    [
        ("@brokers@", &places.brokers),
        ("@registry@", &places.registry),
        ("@store@", &places.store),
        ("@http@", &places.http),
    ]
    .into_iter()
    .fold(CONFIG.to_owned(), |text, (mark, place)| text.replace(mark, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{check, load_str};

    #[test]
    fn the_configuration_is_sound() {
        let text = config_text(&Places::default());
        assert!(!text.contains('@'), "a place is not filled in");
        let (config, sources) = load_str(vec![("demo.toml".to_owned(), text)], std::iter::empty())
            .unwrap_or_else(|findings| panic!("{}", findings.human(false)));
        let findings = check(&config, &sources);
        assert!(findings.is_empty(), "{findings:?}");
        let streams = streams::Stream::all([1, 2, 3]);
        for stream in &streams {
            let pipeline = &config.pipelines[stream.job.name()];
            let topics = cluster::Topics::of(stream.job.name());
            assert_eq!(pipeline.source.topics[0].value, topics.input);
            assert_eq!(
                pipeline.sink.as_ref().map(|s| s.topic.value.as_str()),
                Some(topics.output.as_str())
            );
            assert_eq!(
                pipeline.dead_letter.as_ref().map(|d| d.topic.value.as_str()),
                Some(topics.dead_letters.as_str())
            );
        }
    }
}
