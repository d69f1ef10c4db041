//! Ranges of partitions, by offset and by time, for commands that read without a group.

use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

/// The time limit of one query of a command to the brokers.
pub const ASK: Duration = Duration::from_secs(15);
/// The most attempts to query offsets while the answer contains an error.
const ASKS: usize = 3;

/// A range of a partition: `from` is included, `to` is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The first offset after the range.
    pub to: i64,
}

/// Why the partitions of a topic are not known.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// No answer.
    #[error("the brokers do not answer: {0}")]
    Silent(KafkaError),
    /// There is no such topic.
    #[error("the brokers have no topic '{0}'")]
    Missing(String),
    /// Another error from the brokers.
    #[error("topic '{topic}': {code}{hint}")]
    Refused {
        /// The topic.
        topic: String,
        /// Their error code.
        code: RDKafkaErrorCode,
        /// What to do about it.
        hint: &'static str,
    },
}

/// The partitions of a topic, in order. Brokers with automatic topic creation create the topic, unless the client sets
/// `allow.auto.create.topics=false`, as consumers do.
///
/// # Errors
/// No answer within `limit`, no such topic, or another error from the brokers.
pub fn partitions<C: ClientContext>(client: &Client<C>, topic: &str, limit: Duration) -> Result<Vec<i32>, TopicError> {
    partitions_and_brokers(client, topic, limit).map(|(partitions, _)| partitions)
}

/// As [`partitions`], and how many brokers the cluster has now.
///
/// # Errors
/// As [`partitions`].
pub fn partitions_and_brokers<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    limit: Duration,
) -> Result<(Vec<i32>, usize), TopicError> {
    let metadata = client.fetch_metadata(Some(topic), limit).map_err(TopicError::Silent)?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    let code = found.and_then(|t| t.error()).map(RDKafkaErrorCode::from);
    if let Some(code) = code.filter(|code| *code != RDKafkaErrorCode::UnknownTopicOrPartition) {
        let hint = match code {
            RDKafkaErrorCode::TopicAuthorizationFailed => {
                ": the topic does not exist and the client may not create it, or no ACL lets the client read or write it"
            }
            _ => "",
        };
        let topic = topic.to_owned();
        return Err(TopicError::Refused { topic, code, hint });
    }
    let mut partitions: Vec<i32> = found.iter().flat_map(|t| t.partitions()).map(|p| p.id()).collect();
    if partitions.is_empty() {
        return Err(TopicError::Missing(topic.to_owned()));
    }
    partitions.sort_unstable();
    Ok((partitions, metadata.brokers().len()))
}

/// Fails with the first error of a partition. If there is none, a missing offset means that there is no such record.
///
/// # Errors
/// That error.
pub fn without_error(list: &TopicPartitionList) -> Result<(), KafkaError> {
    list.elements().iter().try_for_each(|partition| partition.error())
}

/// The offsets for the times in a list, or for [`Offset::Beginning`] and [`Offset::End`]. When librdkafka retries by itself, as while a leader changes,
/// it returns the failed attempt, without an offset, as the answer. So the query is repeated: the next one gets an answer of its own.
///
/// # Errors
/// No answer, or an error in every answer.
pub fn offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &TopicPartitionList,
) -> Result<TopicPartitionList, KafkaError> {
    let mut asked = 1;
    loop {
        let found = consumer.offsets_for_times(list.clone(), ASK)?;
        match without_error(&found) {
            Err(_) if asked < ASKS => asked += 1,
            answer => return answer.map(|()| found),
        }
    }
}

/// The ranges of a topic now: from the first record not older than `since` to the first not older than `until`, in
/// milliseconds since 1970.
///
/// # Errors
/// In words, as [`partitions`].
pub fn parts<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    since: Option<i64>,
    until: Option<i64>,
) -> Result<Vec<Part>, String> {
    let failed = |e: KafkaError| format!("topic {topic}: {e}");
    let mut parts = Vec::new();
    for partition in partitions(consumer.client(), topic, ASK).map_err(|e| e.to_string())? {
        let (from, to) = consumer.fetch_watermarks(topic, partition, ASK).map_err(failed)?;
        parts.push(Part {
            topic: topic.to_owned(),
            partition,
            from,
            to,
        });
    }
    // The first offset not older than that time; none if no record is.
    let at = |time: i64| -> Result<Vec<Option<i64>>, String> {
        let mut list = TopicPartitionList::new();
        for part in &parts {
            list.add_partition_offset(topic, part.partition, Offset::Offset(time.max(0)))
                .map_err(failed)?;
        }
        let found = offsets(consumer, &list).map_err(failed)?;
        let offset = |part: &Part| match found.find_partition(topic, part.partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok(parts.iter().map(offset).collect())
    };
    let (since, until) = (since.map(at).transpose()?, until.map(at).transpose()?);
    for (number, part) in parts.iter_mut().enumerate() {
        if let Some(until) = &until {
            part.to = until[number].unwrap_or(part.to).clamp(part.from, part.to);
        }
        if let Some(since) = &since {
            part.from = since[number].unwrap_or(part.to).max(part.from).min(part.to);
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    #[test]
    fn only_a_topic_that_is_not_there_is_said_to_be_missing() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("there", 2, 1).unwrap();
        for (topic, error) in [
            ("secret", RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED),
            ("young", RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE),
        ] {
            cluster.topic_error(topic, error).unwrap();
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let consumer: BaseConsumer = config.set("group.id", "g").create().unwrap();
        let said = |topic| partitions(consumer.client(), topic, ASK).map_err(|e| e.to_string());
        assert_eq!(said("there"), Ok(vec![0, 1]));
        assert_eq!(said("gone"), Err("the brokers have no topic 'gone'".to_owned()));
        for (topic, words) in [
            (
                "secret",
                "topic 'secret': TopicAuthorizationFailed (Broker: Topic authorization failed): the topic does not exist and",
            ),
            (
                "young",
                "topic 'young': LeaderNotAvailable (Broker: Leader not available)",
            ),
        ] {
            let error = said(topic).unwrap_err();
            assert!(error.starts_with(words), "{error}");
        }
    }

    #[test]
    fn an_error_is_not_taken_for_the_answer_that_no_record_is_there() {
        const DONE: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
        // librdkafka retries after this error by itself.
        const FAILED: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH;
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let consumer: BaseConsumer = config.set("group.id", "g").create().unwrap();
        let answers = |answers: &[RDKafkaRespErr]| cluster.request_errors(RDKafkaApiKey::ListOffsets, answers);

        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", 0, Offset::End).unwrap();
        answers(&[FAILED]);
        let found = offsets(&consumer, &list).unwrap();
        assert_eq!(found.find_partition("t", 0).unwrap().offset(), Offset::Offset(0));

        // Two answers are for beginning and end.
        answers(&[vec![DONE, DONE], [FAILED, DONE].repeat(ASKS)].concat());
        let error = parts(&consumer, "t", Some(0), None).unwrap_err();
        assert!(error.starts_with("topic t: "), "{error}");
        assert_eq!(parts(&consumer, "t", Some(0), None).unwrap().len(), 1);
    }
}
