//! Leader epochs of records and of committed offsets (KIP-320), which show whether a log is still the one that was read. librdkafka offers them in
//! its C interface only.

use std::ffi::CString;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as c;
use rdkafka::message::BorrowedMessage;

use crate::ledger::NO_EPOCH;

/// The epoch of the leader that accepted this record.
pub fn of(message: &BorrowedMessage<'_>) -> i32 {
    // SAFETY: the message lives as long as it is borrowed.
    unsafe { c::rd_kafka_message_leader_epoch(message.ptr()) }
}

/// The leader epoch that a list has for a partition's offset.
pub fn beside(list: &TopicPartitionList, topic: &str, partition: i32) -> i32 {
    // A topic name in Kafka contains no null byte.
    let Ok(topic) = CString::new(topic) else {
        return NO_EPOCH;
    };
    // SAFETY: the list is borrowed, so it is alive, and the name is a null-terminated string; the result is null or points to an element of the list.
    unsafe {
        let found = c::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition);
        if found.is_null() {
            return NO_EPOCH;
        }
        c::rd_kafka_topic_partition_get_leader_epoch(found)
    }
}

/// Sets the leader epoch of the partition that was added to a list last. Looking up a partition would take longer the longer the list
/// is.
pub fn set_last(list: &mut TopicPartitionList, leader_epoch: i32) {
    let Some(last) = list.count().checked_sub(1) else {
        return;
    };
    // SAFETY: the list is borrowed exclusively, so it is alive and nothing else accesses it; it has `last + 1` elements.
    unsafe {
        let added = (*list.ptr()).elems.add(last);
        c::rd_kafka_topic_partition_set_leader_epoch(added, leader_epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_stands_beside_the_offset_of_its_partition() {
        let mut list = TopicPartitionList::new();
        // The list is still empty.
        set_last(&mut list, 6);
        list.add_partition_range("in", 0, 1);
        set_last(&mut list, 7);
        list.add_partition("in", 2);
        set_last(&mut list, 8);
        let copy = list.clone();
        assert_eq!(
            [0, 1, 2, 3].map(|partition| beside(&copy, "in", partition)),
            [NO_EPOCH, 7, 8, NO_EPOCH]
        );
        set_last(&mut list, NO_EPOCH);
        assert_eq!(beside(&list, "in", 2), NO_EPOCH);
    }
}
