//! Raw metadata of committed offsets. Any committer may put any bytes there, and rdkafka (0.39) panics at bytes that are not UTF-8.

use std::ffi::CString;
use std::slice;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as c;

/// The metadata that a list has for a partition; empty if there is none.
pub fn of<'l>(list: &'l TopicPartitionList, topic: &str, partition: i32) -> &'l [u8] {
    // A topic name in Kafka contains no null byte.
    let Ok(topic) = CString::new(topic) else { return &[] };
    // SAFETY: the list is borrowed, so it is alive; the result is null or an element of it, whose metadata is null or has `metadata_size` bytes.
    unsafe {
        match c::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition).as_ref() {
            Some(found) if !found.metadata.is_null() => {
                slice::from_raw_parts(found.metadata.cast::<u8>(), found.metadata_size)
            }
            _ => &[],
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Adds a partition whose metadata is any bytes.
    pub(crate) fn add(list: &mut TopicPartitionList, topic: &str, partition: i32, metadata: &[u8]) {
        list.add_partition(topic, partition)
            .set_metadata("?".repeat(metadata.len()));
        let topic = CString::new(topic).unwrap();
        // SAFETY: the element was just added, and its own metadata has the same length.
        unsafe {
            let added = c::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition);
            metadata
                .as_ptr()
                .copy_to_nonoverlapping((*added).metadata.cast(), metadata.len());
        }
    }

    #[test]
    fn any_bytes_are_metadata() {
        let mut list = TopicPartitionList::new();
        add(&mut list, "in", 0, b"messina1:7");
        add(&mut list, "in", 1, b"caf\xe9\0\xff");
        add(&mut list, "in", 2, b"");
        list.add_partition("in", 3);
        let found = [0, 1, 2, 3, 4].map(|partition| of(&list, "in", partition));
        assert_eq!(found, [&b"messina1:7"[..], b"caf\xe9\0\xff", b"", b"", b""]);
        assert_eq!(of(&list, "in\0", 0), b"");
    }
}
