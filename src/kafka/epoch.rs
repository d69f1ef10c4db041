//! Leader epochs of records and of committed offsets (KIP-320): by them brokers tell whether a log still is the one that was read. librdkafka has them in
//! its C interface only.

use std::ffi::CString;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as c;
use rdkafka::message::BorrowedMessage;

use crate::ledger::NO_EPOCH;

/// That of the leader which took this record.
pub fn of(message: &BorrowedMessage<'_>) -> i32 {
    // SAFETY: the message lives as long as it is borrowed.
    unsafe { c::rd_kafka_message_leader_epoch(message.ptr()) }
}

/// That beside the offset of a partition in a list.
pub fn beside(list: &TopicPartitionList, topic: &str, partition: i32) -> i32 {
    element(list, topic, partition).map_or(NO_EPOCH, |found| {
        // SAFETY: what was found is an element of the list, which lives as long as it is borrowed.
        unsafe { c::rd_kafka_topic_partition_get_leader_epoch(found) }
    })
}

/// Puts it beside the offset of a partition that is in the list.
pub fn set(list: &mut TopicPartitionList, topic: &str, partition: i32, leader_epoch: i32) {
    if let Some(found) = element(list, topic, partition) {
        // SAFETY: as above, and nobody else has the list meanwhile.
        unsafe { c::rd_kafka_topic_partition_set_leader_epoch(found, leader_epoch) };
    }
}

fn element(list: &TopicPartitionList, topic: &str, partition: i32) -> Option<*mut c::rd_kafka_topic_partition_t> {
    // No topic of Kafka's has a null byte in its name.
    let topic = CString::new(topic).ok()?;
    // SAFETY: the list lives as long as it is borrowed, and the name is a string that ends in a null byte.
    let found = unsafe { c::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition) };
    (!found.is_null()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_stands_beside_the_offset_of_its_partition() {
        let mut list = TopicPartitionList::new();
        list.add_partition_range("in", 0, 1);
        set(&mut list, "in", 1, 7);
        set(&mut list, "in", 2, 8);
        let copy = list.clone();
        assert_eq!(
            [0, 1, 2].map(|partition| beside(&copy, "in", partition)),
            [NO_EPOCH, 7, NO_EPOCH]
        );
        set(&mut list, "in", 1, NO_EPOCH);
        assert_eq!(beside(&list, "in", 1), NO_EPOCH);
    }
}
