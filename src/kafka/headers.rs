//! Raw headers of records. Kafka accepts any bytes as a name, and rdkafka (0.39) panics at a name that is not UTF-8.

use std::ffi::CStr;
use std::ptr;

use rdkafka::bindings as c;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, OwnedHeaders};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

/// A list of headers, borrowed or owned.
pub trait List {
    /// The borrowed form of the list.
    fn lent(&self) -> &BorrowedHeaders;
}

impl List for BorrowedHeaders {
    fn lent(&self) -> &BorrowedHeaders {
        self
    }
}

impl List for OwnedHeaders {
    fn lent(&self) -> &BorrowedHeaders {
        self.as_borrowed()
    }
}

fn native(headers: &BorrowedHeaders) -> *mut c::rd_kafka_headers_t {
    // A reference to these headers is librdkafka's own pointer (rdkafka 0.39, message.rs, `as_native_ptr`).
    ptr::from_ref(headers).cast_mut().cast()
}

/// The headers of a record, if it has any.
///
/// # Errors
/// It has headers that librdkafka does not parse, such as more than 100,000. rdkafka treats such a record as having
/// none.
pub fn of<'m>(message: &'m BorrowedMessage<'_>) -> Result<Option<&'m BorrowedHeaders>, RDKafkaErrorCode> {
    let mut list = ptr::null_mut();
    // SAFETY: the message lives as long as it is borrowed.
    match unsafe { c::rd_kafka_message_headers(message.ptr(), &mut list) } {
        // SAFETY: the list belongs to the message and lives as long; a reference to it is as in `native`.
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(Some(unsafe { &*list.cast::<BorrowedHeaders>() })),
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__NOENT => Ok(None),
        unread => Err(unread.into()),
    }
}

/// Names and values, in order.
pub fn all<L: List>(headers: &L) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let list = native(headers.lent());
    (0..).map_while(move |index| {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the list lives as long as the borrowed headers.
        let found = unsafe { c::rd_kafka_header_get_all(list, index, &mut name, &mut value, &mut size) };
        if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        // SAFETY: the results live as long as the list: a null-terminated name, and a value that is null or has `size`
        // bytes.
        unsafe {
            let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
            Some((CStr::from_ptr(name).to_bytes(), value))
        }
    })
}

/// Appends a header.
pub fn add(headers: &mut OwnedHeaders, name: &[u8], value: Option<&[u8]>) {
    let (bytes, size) = value.map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len()));
    // SAFETY: the list is exclusively ours, and librdkafka copies name and value. It either succeeds or is out of memory, and
    // then it aborts.
    unsafe {
        c::rd_kafka_header_add(
            native(headers.as_borrowed()),
            name.as_ptr().cast(),
            name.len() as isize,
            bytes.cast(),
            size as isize,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_a_name() {
        let mut headers = OwnedHeaders::new();
        let list: [(&[u8], Option<&[u8]>); 4] = [
            (b"shop", Some(b"7")),
            (b"caf\xe9", None),
            (b"", Some(b"\0x")),
            (b"\xff", Some(b"")),
        ];
        for (name, value) in list {
            add(&mut headers, name, value);
        }
        assert_eq!(all(&headers).collect::<Vec<_>>(), list);
        assert_eq!(all(headers.as_borrowed()).count(), 4);
        assert_eq!(all(&OwnedHeaders::new()).next(), None);
    }
}
