//! Whether a consumer is a member of its group, as librdkafka sees it. librdkafka has it in its C interface only.

use std::ffi::CStr;

use rdkafka::bindings as c;
use rdkafka::consumer::{Consumer, ConsumerContext};

/// Whether the group has given this consumer a name which it has not given back: librdkafka forgets it when it asks the group to let the
/// consumer go. In the classic protocol only: in the other one the name is the consumer's own, and stays.
pub fn has_name<C: ConsumerContext, T: Consumer<C>>(consumer: &T) -> bool {
    let client = consumer.client().native_ptr();
    // SAFETY: the client lives as long as the borrowed consumer; what is returned is null or a string that ends in a null byte, is ours, and is
    // given back once.
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

/// The epoch of this member of its group, above 0 once the group has answered it, with partitions or without; what is 0 or below is none. In the
/// classic protocol it is the group's generation.
pub fn epoch<C: ConsumerContext, T: Consumer<C>>(consumer: &T) -> i32 {
    let client = consumer.client().native_ptr();
    // SAFETY: the client lives as long as the borrowed consumer; what is returned is null or ours, and is given back once.
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
