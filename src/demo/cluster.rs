//! The demo's Kafka: librdkafka's mock cluster, a temporary directory, and the configuration of a client.
//!
//! The mock cluster keeps at most 5 MiB per partition and drops the oldest batches beyond that, read or not. [`Flow`](super::flow::Flow) keeps the
//! demo below it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::store::convert::hex;

/// Partitions of each input topic.
pub const INPUT_PARTITIONS: i32 = 8;
/// Partitions of each output topic.
pub const OUTPUT_PARTITIONS: i32 = 4;
/// Partitions of each dead-letter topic.
pub const DEAD_LETTER_PARTITIONS: i32 = 1;

/// The topics of one pipeline.
#[derive(Debug, Clone)]
pub struct Topics {
    /// What it consumes.
    pub input: String,
    /// What it publishes.
    pub output: String,
    /// Where its dead letters go.
    pub dead_letters: String,
}

impl Topics {
    /// The topics of the pipeline of this name.
    pub fn of(pipeline: &str) -> Topics {
        Topics {
            input: pipeline.to_owned(),
            output: format!("{pipeline}-enriched"),
            dead_letters: format!("{pipeline}-dead-letters"),
        }
    }
}

/// An embedded Kafka cluster of one broker, with the topics of all pipelines.
pub fn start(topics: &[Topics]) -> KafkaResult<MockCluster<'static, DefaultProducerContext>> {
    let cluster = MockCluster::new(1)?;
    for t in topics {
        cluster.create_topic(&t.input, INPUT_PARTITIONS, 1)?;
        cluster.create_topic(&t.output, OUTPUT_PARTITIONS, 1)?;
        cluster.create_topic(&t.dead_letters, DEAD_LETTER_PARTITIONS, 1)?;
    }
    Ok(cluster)
}

/// The configuration that the demo's own clients have in common.
pub fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", "messina-demo");
    config
}

/// A directory for the database, accessible only to its owner. It is removed when this value is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Creates a new one in the system's directory for temporary files. Others may write there, so its name cannot be guessed, and a directory that
    /// exists already is an error.
    pub fn new() -> io::Result<Scratch> {
        let mut random = [0; 16];
        openssl::rand::rand_bytes(&mut random).map_err(io::Error::other)?;
        Scratch::at(std::env::temp_dir().join(format!("messina-{}", hex(&random))))
    }

    fn at(path: PathBuf) -> io::Result<Scratch> {
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Scratch(path)),
            Err(error) => {
                let said = format!(
                    "cannot make the directory {}: {error}; TMPDIR says where temporary files go",
                    path.display()
                );
                Err(io::Error::new(error.kind(), said))
            }
        }
    }

    /// The path of the database.
    pub fn database(&self) -> PathBuf {
        Path::join(&self.0, "demo.db")
    }

    /// A function that removes the directory, for a process that ends without dropping this value.
    pub fn removal(&self) -> impl FnOnce() + Send + 'static + use<> {
        let path = self.0.clone();
        move || remove(&path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(path: &Path) {
    // If this fails, the directory is left to the system, which clears its temporary files.
    let _ = std::fs::remove_dir_all(path);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_scratch_directory_is_new_for_its_owner_alone_and_goes_away() {
        let (one, other) = (Scratch::new().unwrap(), Scratch::new().unwrap());
        assert_ne!(one.0, other.0);
        assert_eq!(one.0.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let there = Scratch::at(other.0.clone()).unwrap_err();
        assert_eq!(there.kind(), io::ErrorKind::AlreadyExists);
        assert!(other.0.exists(), "what is not its own is left alone");
        let path = one.0.clone();
        std::fs::write(one.database(), "").unwrap();
        drop(one);
        assert!(!path.exists());
    }
}
