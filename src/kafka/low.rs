//! The beginning of a partition's log, as the broker reported it with the last fetch response. librdkafka offers it without a request in its C
//! interface only.

use std::ffi::CString;

use rdkafka::bindings as c;
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::types::RDKafkaRespErr;

/// The first offset of the log; none before the first response, and after an error. No broker is asked.
pub fn of<C: ConsumerContext, T: Consumer<C>>(consumer: &T, topic: &str, partition: i32) -> Option<i64> {
    // A topic name in Kafka contains no null byte.
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    let client = consumer.client().native_ptr();
    // SAFETY: the consumer is borrowed, so the client is alive; the name is a null-terminated string, and both offsets are written only during the call.
    let answer =
        unsafe { c::rd_kafka_get_watermark_offsets(client, topic.as_ptr(), partition, &raw mut low, &raw mut high) };
    (answer == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && low >= 0).then_some(low)
}
