//! Whether a consumer is a member of its group, as librdkafka sees it. librdkafka offers this in its C interface only.

use std::ffi::CStr;

use rdkafka::bindings as c;
use rdkafka::consumer::{Consumer, ConsumerContext};

/// Whether the consumer has a member id from its group. librdkafka clears the id when it sends the request to leave. Only valid in the
/// classic protocol: in the other one the consumer chooses its own id and keeps it.
pub fn has_name<C: ConsumerContext, T: Consumer<C>>(consumer: &T) -> bool {
    let client = consumer.client().native_ptr();
    // SAFETY: the consumer is borrowed, so the client is alive; the result is null or a null-terminated string that is ours, and it is freed
    // once.
    unsafe {
        let name = c::rd_kafka_memberid(client);
        if name.is_null() {
            return false;
        }
        let named = !CStr::from_ptr(name).is_empty();
        c::rd_kafka_mem_free(client, name.cast());
        named
    }
}

/// The member epoch: above 0 once the group has answered this member, with or without partitions; 0 or below means none. In the classic protocol
/// it is the group's generation.
pub fn epoch<C: ConsumerContext, T: Consumer<C>>(consumer: &T) -> i32 {
    let client = consumer.client().native_ptr();
    // SAFETY: the consumer is borrowed, so the client is alive; the result is null or ours, and it is freed once.
    unsafe {
        let metadata = c::rd_kafka_consumer_group_metadata(client);
        if metadata.is_null() {
            return 0;
        }
        let epoch = c::rd_kafka_consumer_group_metadata_generation_id(metadata);
        c::rd_kafka_consumer_group_metadata_destroy(metadata);
        epoch
    }
}
