//! The headers that pass on a trace: W3C Trace Context (<https://www.w3.org/TR/trace-context/>), read strictly.
//!
//! Kafka's header names are case-sensitive; OpenTelemetry writes them in lower case, and so they are looked up. Malformed headers are ignored,
//! because a wrong parent would put a record into a foreign trace.

use crate::store::convert::hex;

/// Names the trace, and the span that caused the record.
pub const TRACEPARENT: &str = "traceparent";
/// Further data that vendors add.
pub const TRACESTATE: &str = "tracestate";

/// The length in version 00, and the minimum in later versions.
const LENGTH: usize = 55;
/// The sender may have recorded the span.
const SAMPLED: u8 = 0x01;
/// The trace id is random (level 2 of the recommendation).
const RANDOM: u8 = 0x02;
/// Maximum number of members of a `tracestate`, over all its headers.
const MEMBERS: usize = 32;
/// Maximum length of a member's key, and of its value.
const MEMBER: usize = 256;

/// The contents of a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace id; not zero.
    pub trace: [u8; 16],
    /// The span id; not zero.
    pub span: [u8; 8],
    /// The known flags. Others have no meaning yet, and are not passed on.
    pub flags: u8,
}

impl TraceParent {
    /// The first span of a trace that is to be recorded and whose id is random.
    pub fn root(trace: [u8; 16], span: [u8; 8]) -> TraceParent {
        TraceParent {
            trace,
            span,
            flags: SAMPLED,
        }
    }

    /// Parses a header's value; `None` if it is malformed.
    pub fn parse(value: &[u8]) -> Option<TraceParent> {
        let ([v1, v2, b'-', rest @ ..], true) = (value, value.len() >= LENGTH) else {
            return None;
        };
        let [version] = unhex([*v1, *v2])?;
        // Later versions may have more after another hyphen.
        match (version, value.get(LENGTH)) {
            (0xff, _) => return None,
            (_, None) => {}
            (0, Some(_)) => return None,
            (_, Some(more)) if *more != b'-' => return None,
            (_, Some(_)) => {}
        }
        let (trace, rest) = rest.split_first_chunk::<32>()?;
        let (span, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<16>()?;
        let (flags, _) = rest.strip_prefix(b"-")?.split_first_chunk::<2>()?;
        let (trace, span, [flags]) = (unhex(*trace)?, unhex(*span)?, unhex(*flags)?);
        (trace != [0; 16] && span != [0; 8]).then_some(TraceParent {
            trace,
            span,
            flags: flags & (SAMPLED | RANDOM),
        })
    }

    /// Whether the sender may have recorded the span.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The header's value, in version 00.
    pub fn value(self) -> String {
        format!("00-{}-{}-{:02x}", hex(&self.trace), hex(&self.span), self.flags)
    }
}

/// Parses lower-case hexadecimal digits, two per byte; `None` if one is something else.
fn unhex<const DIGITS: usize, const BYTES: usize>(digits: [u8; DIGITS]) -> Option<[u8; BYTES]> {
    let digit = |of: u8| match of {
        b'0'..=b'9' => Some(of - b'0'),
        b'a'..=b'f' => Some(of - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Joins the values of all `tracestate` headers into one; `None` if there is none, or if any is malformed.
pub fn trace_state<'h>(values: impl Iterator<Item = &'h [u8]>) -> Option<String> {
    let mut state = String::new();
    let mut members = 0;
    for value in values {
        let value = std::str::from_utf8(value).ok()?;
        for member in value.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            // Empty members are allowed and ignored.
            if member.is_empty() {
                continue;
            }
            members += 1;
            if members > MEMBERS || !is_member(member) {
                return None;
            }
            if !state.is_empty() {
                state.push(',');
            }
            state.push_str(member);
        }
    }
    (!state.is_empty()).then_some(state)
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else {
        return false;
    };
    let begins = key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let of_key = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-*/@".contains(&c);
    let of_value = |c: u8| (b' '..=b'~').contains(&c) && c != b',' && c != b'=';
    let (key, value) = (key.as_bytes(), value.as_bytes());
    begins
        && key.len() <= MEMBER
        && key.iter().copied().all(of_key)
        && (1..=MEMBER).contains(&value.len())
        && value.iter().copied().all(of_value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(value: &str) -> Option<TraceParent> {
        TraceParent::parse(value.as_bytes())
    }

    fn state(values: &[&str]) -> Option<String> {
        trace_state(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn a_good_one_is_read_and_written() {
        let parent = parse(GOOD).unwrap();
        assert_eq!(hex(&parent.trace), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(hex(&parent.span), "00f067aa0ba902b7");
        assert!(parent.is_sampled());
        assert_eq!(parent.value(), GOOD);
        let unsampled = parse(&GOOD.replace("-01", "-00")).unwrap();
        assert!(!unsampled.is_sampled());
        // Unknown flags are not passed on; the one for a random id is.
        assert_eq!(parse(&GOOD.replace("-01", "-ff")).unwrap().flags, 0x03);
    }

    /// Examples from the recommendation's text and test suite.
    #[test]
    fn malformed_ones_are_none() {
        let (id, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let bad = [
            String::new(),
            "00".to_owned(),
            "garbage".to_owned(),
            // The forbidden version, and malformed versions.
            format!("ff-{id}-{span}-01"),
            format!("0-{id}-{span}-01"),
            format!(".0-{id}-{span}-01"),
            format!("0x-{id}-{span}-01"),
            format!("FF-{id}-{span}-01"),
            format!("000-{id}-{span}-01"),
            // Ids that are zero, too short, too long, in upper case or not hexadecimal.
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{id}-{}-01", "0".repeat(16)),
            format!("00-{}-{span}-01", &id[1..]),
            format!("00-{id}1-{span}-01"),
            format!("00-{}-{span}-01", id.to_uppercase()),
            format!("00-.{}-{span}-01", &id[1..]),
            format!("00-{id}-{}-01", &span[1..]),
            format!("00-{id}-{span}1-01"),
            format!("00-{id}-{}-01", span.to_uppercase()),
            format!("00-{id}-.{}-01", &span[1..]),
            // Malformed flags.
            format!("00-{id}-{span}"),
            format!("00-{id}-{span}-"),
            format!("00-{id}-{span}-1"),
            format!("00-{id}-{span}-.0"),
            format!("00-{id}-{span}-0A"),
            format!("00-{id}-{span}-001"),
            // Nothing may follow in version 00; in a later version, only text after a hyphen.
            format!("00-{id}-{span}-01-"),
            format!("00-{id}-{span}-01-extra"),
            format!("cc-{id}-{span}-01.what"),
            format!("cc-{id}-{span}-010"),
            // Other separators, and spaces.
            format!("00_{id}-{span}-01"),
            format!("00-{id}_{span}-01"),
            format!("00-{id}-{span}_01"),
            format!(" 00-{id}-{span}-01"),
            format!("00-{id}-{span}-01 "),
            format!("00- {id}-{span}-01"),
        ];
        for value in bad {
            assert_eq!(parse(&value), None, "{value:?}");
        }
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        for more in ["", "-", "-what-the-future-will-be-like"] {
            let parent = parse(&format!("cc{}{more}", &GOOD[2..])).unwrap();
            assert_eq!(parent.value(), GOOD, "passed on in the version that is known");
        }
    }

    #[test]
    fn states_are_joined_and_malformed_ones_are_none() {
        assert_eq!(state(&[]), None);
        assert_eq!(state(&["", " , "]), None);
        assert_eq!(state(&["a=1 , b=2", "c@d=x y"]).unwrap(), "a=1,b=2,c@d=x y");
        assert_eq!(state(&["0vendor=1,,x_-*/y=z"]).unwrap(), "0vendor=1,x_-*/y=z");
        let (longest, member) = ("k".repeat(MEMBER), |n: usize| format!("k{n}=v"));
        assert!(state(&[&format!("{longest}={longest}")]).is_some());
        let many = |count: usize| (0..count).map(member).collect::<Vec<_>>().join(",");
        assert!(state(&[&many(MEMBERS)]).is_some());
        for bad in ["a", "=1", "a=", "A=1", "a =1", "a=1=2", "é=1", "a=é", "a=\u{1}", "_a=1"] {
            assert_eq!(state(&["ok=1", bad]), None, "{bad:?}");
        }
        assert_eq!(state(&[&format!("{longest}k=1")]), None);
        assert_eq!(state(&[&format!("k=1{longest}")]), None);
        assert_eq!(state(&[&many(MEMBERS), "one=more"]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), flags in 0..4u8) {
            let parent = TraceParent { trace, span, flags };
            let zero = trace == [0; 16] || span == [0; 8];
            prop_assert_eq!(parse(&parent.value()), (!zero).then_some(parent));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceParent::parse(&bytes);
            let _ = trace_state(std::iter::once(&bytes[..]));
        }

        /// If a change of one character is accepted, it shows in the output.
        #[test]
        fn a_character_that_differs_is_not_ignored(at in 3..LENGTH, with in " -~") {
            let mut other = GOOD.to_owned();
            other.replace_range(at..=at, &with);
            if let Some(parent) = parse(&other) {
                prop_assert_eq!(&parent.value()[..LENGTH - 2], &other[..LENGTH - 2]);
            }
        }
    }
}
