//! Asks the brokers before the start what a client may do with topics and groups (KIP-430).
//!
//! Otherwise the first record that needs a missing permission would discover it. librdkafka has this query in its C interface only. Invariant: what a
//! broker does not report is [`Allowed::Unknown`], and never a finding.

use std::ffi::{CStr, CString, c_char};
use std::ptr::null_mut;
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::types::{RDKafka, RDKafkaRespErr};

/// What a client may do with a topic or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// These operations, one bit each.
    Only(u64),
    /// Not even to see it.
    Nothing,
    /// The broker does not report it.
    Unknown,
}

/// An operation that permissions exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Read a topic, or join a group and commit offsets for it.
    Read,
    /// Write to a topic.
    Write,
}

impl Operation {
    /// Its name, as `kafka-acls --operation` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Read => "Read",
            Operation::Write => "Write",
        }
    }

    fn code(self) -> u32 {
        match self {
            Operation::Read => c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ as u32,
            Operation::Write => c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE as u32,
        }
    }
}

impl Allowed {
    /// Whether the operation is known not to be permitted.
    pub fn refuses(self, operation: Operation) -> bool {
        match self {
            Allowed::Only(operations) => operations & (1 << operation.code()) == 0,
            Allowed::Nothing => true,
            Allowed::Unknown => false,
        }
    }
}

/// What the client may do with each of these topics.
pub fn of_topics<C: ConsumerContext>(client: &BaseConsumer<C>, names: &[&str], limit: Duration) -> Vec<Allowed> {
    ask(client, names, limit, &TOPICS)
}

/// What the client may do with each of these groups.
pub fn of_groups<C: ConsumerContext>(client: &BaseConsumer<C>, names: &[&str], limit: Duration) -> Vec<Allowed> {
    ask(client, names, limit, &GROUPS)
}

/// The functions for one kind of resource.
struct Kind {
    operation: c::rd_kafka_admin_op_t,
    denied: RDKafkaRespErr,
    /// Sends the query for these names; the answer goes to the queue.
    send: unsafe fn(*mut RDKafka, &mut [*const c_char], *const c::rd_kafka_AdminOptions_t, *mut c::rd_kafka_queue_t),
    /// The content of the answer, by name.
    read: unsafe fn(*mut c::rd_kafka_event_t) -> Vec<Told>,
}

/// A resource: name, error, and its operations with their count.
type Told = (
    *const c_char,
    *const c::rd_kafka_error_t,
    (*const c::rd_kafka_AclOperation_t, usize),
);

const TOPICS: Kind = Kind {
    operation: c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
    denied: RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
    send: |client, names, options, queue| {
        // SAFETY: see `ask`. librdkafka copies the collection.
        unsafe {
            let topics = c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            c::rd_kafka_DescribeTopics(client, topics, options, queue);
            c::rd_kafka_TopicCollection_destroy(topics);
        }
    },
    read: |event| {
        let mut count = 0;
        // SAFETY: see `ask`. Everything read belongs to the event; an event of another kind has no result.
        unsafe {
            let result = c::rd_kafka_event_DescribeTopics_result(event);
            if result.is_null() {
                return Vec::new();
            }
            let topics = c::rd_kafka_DescribeTopics_result_topics(result, &mut count);
            let told = (0..count).map(|i| {
                let (topic, mut operations) = (*topics.add(i), 0);
                let allowed = c::rd_kafka_TopicDescription_authorized_operations(topic, &mut operations);
                let error = c::rd_kafka_TopicDescription_error(topic);
                (c::rd_kafka_TopicDescription_name(topic), error, (allowed, operations))
            });
            told.collect()
        }
    },
};

const GROUPS: Kind = Kind {
    operation: c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
    denied: RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
    send: |client, names, options, queue| {
        // SAFETY: see `ask`.
        unsafe { c::rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), names.len(), options, queue) }
    },
    read: |event| {
        let mut count = 0;
        // SAFETY: as for topics.
        unsafe {
            let result = c::rd_kafka_event_DescribeConsumerGroups_result(event);
            if result.is_null() {
                return Vec::new();
            }
            let groups = c::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
            let told = (0..count).map(|i| {
                let (group, mut operations) = (*groups.add(i), 0);
                let allowed = c::rd_kafka_ConsumerGroupDescription_authorized_operations(group, &mut operations);
                let error = c::rd_kafka_ConsumerGroupDescription_error(group);
                (
                    c::rd_kafka_ConsumerGroupDescription_group_id(group),
                    error,
                    (allowed, operations),
                )
            });
            told.collect()
        }
    },
};

fn ask<C: ConsumerContext>(client: &BaseConsumer<C>, names: &[&str], limit: Duration, kind: &Kind) -> Vec<Allowed> {
    let mut allowed = vec![Allowed::Unknown; names.len()];
    let wanted: Result<Vec<CString>, _> = names.iter().map(|name| CString::new(*name)).collect();
    // No resource has a name with a null byte.
    let Ok(wanted) = wanted else { return allowed };
    if wanted.is_empty() {
        return allowed;
    }
    let mut pointers: Vec<*const c_char> = wanted.iter().map(|name| name.as_ptr()).collect();
    let client = client.client().native_ptr();
    let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client outlives this call; names are copied before `send` returns; options, queue and event are created and
    // destroyed here, after their last use, and an event that arrives later is destroyed with the queue.
    unsafe {
        let options = c::rd_kafka_AdminOptions_new(client, kind.operation);
        if options.is_null() {
            return allowed;
        }
        // A limit that is out of range leaves librdkafka's default.
        c::rd_kafka_AdminOptions_set_request_timeout(options, millis, null_mut(), 0);
        let error = c::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
        if error.is_null() {
            let queue = c::rd_kafka_queue_new(client);
            (kind.send)(client, &mut pointers, options, queue);
            let event = c::rd_kafka_queue_poll(queue, millis);
            if !event.is_null() {
                for (name, error, operations) in (kind.read)(event) {
                    let name = CStr::from_ptr(name);
                    let of_it = wanted
                        .iter()
                        .zip(&mut allowed)
                        .filter(|(wanted, _)| wanted.as_c_str() == name);
                    of_it.for_each(|(_, allowed)| *allowed = verdict(error, operations, kind.denied));
                }
                c::rd_kafka_event_destroy(event);
            }
            c::rd_kafka_queue_destroy(queue);
        } else {
            c::rd_kafka_error_destroy(error);
        }
        c::rd_kafka_AdminOptions_destroy(options);
    }
    allowed
}

/// # Safety
/// Both are null, or librdkafka's and alive.
unsafe fn verdict(
    error: *const c::rd_kafka_error_t,
    (operations, count): (*const c::rd_kafka_AclOperation_t, usize),
    denied: RDKafkaRespErr,
) -> Allowed {
    if !error.is_null() {
        // SAFETY: it is alive.
        return match unsafe { c::rd_kafka_error_code(error) } {
            code if code == denied => Allowed::Nothing,
            _ => Allowed::Unknown,
        };
    }
    // Null means that they were not reported, not that there are none.
    if operations.is_null() {
        return Allowed::Unknown;
    }
    // Read as numbers: a broker may know more operations than the enum.
    let operations = operations.cast::<u32>();
    // SAFETY: there are `count` of them; a C enum has the same size.
    let bits = (0..count)
        .map(|i| unsafe { *operations.add(i) })
        .filter(|code| *code < u64::BITS);
    Allowed::Only(bits.fold(0, |all, code| all | 1 << code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_missing_is_refused() {
        let read = Allowed::Only(1 << Operation::Read.code());
        assert!(read.refuses(Operation::Write) && !read.refuses(Operation::Read));
        assert!(Allowed::Nothing.refuses(Operation::Read));
        assert!(!Allowed::Unknown.refuses(Operation::Read));
    }
}
