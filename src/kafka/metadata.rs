//! Raw metadata of committed offsets. Any committer may put any bytes there, and rdkafka (0.39) panics at bytes that are not UTF-8.

use std::ffi::CString;
use std::slice;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as c;

/// That of a partition in a list; empty where it has none.
pub fn of<'l>(list: &'l TopicPartitionList, topic: &str, partition: i32) -> &'l [u8] {
    // No topic of Kafka's has a null byte in its name.
    let Ok(topic) = CString::new(topic) else { return &[] };
    // SAFETY: the list lives as long as it is borrowed; what is found in it is null or an element of it, whose metadata is null or so many bytes.
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

    /// Adds a partition with any bytes for metadata.
    pub(crate) fn add(list: &mut TopicPartitionList, topic: &str, partition: i32, metadata: &[u8]) {
        list.add_partition(topic, partition)
            .set_metadata("?".repeat(metadata.len()));
        let topic = CString::new(topic).unwrap();
        // SAFETY: the element was just added, with as many bytes of its own.
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
