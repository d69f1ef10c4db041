//! Leader epochs of records and of committed offsets (KIP-320), which tell whether a log is still the one that was read. librdkafka has them in its C
//! interface only.

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
    // No topic of Kafka's has a null byte in its name.
    let Ok(topic) = CString::new(topic) else {
        return NO_EPOCH;
    };
    // SAFETY: the list lives as long as it is borrowed, and the name is a string that ends in a null byte; what is found is null or an element of the list.
    unsafe {
        let found = c::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition);
        if found.is_null() {
            return NO_EPOCH;
        }
        c::rd_kafka_topic_partition_get_leader_epoch(found)
    }
}

/// Puts it beside the offset of the partition that was added to a list last. To look for one takes the longer, the longer the list is.
pub fn set_last(list: &mut TopicPartitionList, leader_epoch: i32) {
    let Some(last) = list.count().checked_sub(1) else {
        return;
    };
    // SAFETY: the list lives as long as it is borrowed, nobody else has it meanwhile, and it has so many elements and one more.
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
        // There is none yet.
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
