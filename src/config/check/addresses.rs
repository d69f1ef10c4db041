//! Checks the addresses of brokers and database nodes.
//!
//! librdkafka and the driver would only say that nobody answers there, or ask for another port: librdkafka reads 99999 as 34463. What may work is left
//! alone: a name without a port, an IPv6 address with or without brackets.

use super::super::{Config, Span, codes};
use super::Report;

/// What librdkafka takes before a broker, in any case.
const SCHEMES: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    let brokers = &config.kafka.brokers;
    let mut start = 0;
    for broker in brokers.split(',') {
        let span = report.sources.part(brokers, start..start + broker.len());
        start += broker.len() + 1;
        let help = "write brokers = \"kafka-1:9092,kafka-2:9092\"";
        judge("kafka.brokers", span, wrong(broker, &SCHEMES), help, report);
    }
    for node in config.scylla.iter().flat_map(|scylla| &scylla.nodes) {
        let help = "write nodes = [\"scylla-1:9042\", \"scylla-2:9042\"]";
        judge("scylla.nodes", node.span, wrong(node, &[]), help, report);
    }
}

/// The address itself is not in the message, because it may hold a password.
fn judge(key: &str, span: Span, wrong: Option<&str>, help: &str, report: &mut Report<'_>) {
    if let Some(wrong) = wrong {
        let message = format!("`{key}` has an entry that is not an address");
        report.error(codes::MALFORMED, message, span, wrong, help);
    }
}

/// What is wrong with an address that may begin with one of these schemes.
fn wrong(address: &str, schemes: &[&str]) -> Option<&'static str> {
    let address = match address.trim().split_once("://") {
        Some((scheme, _)) if !schemes.iter().any(|known| known.eq_ignore_ascii_case(scheme)) => {
            return Some("expected host:port, not a URL");
        }
        Some((_, rest)) => rest,
        None => address.trim(),
    };
    if address.contains('@') {
        return Some("an address has no user: username and password have keys of their own");
    }
    // librdkafka ignores a path, and blanks before a port; the database's driver takes the whole for a name.
    let tolerant = !schemes.is_empty();
    let address = address.split('/').next().filter(|_| tolerant).unwrap_or(address);
    if address.contains(';') {
        return Some("addresses are separated by commas");
    }
    let (host, port) = address.rsplit_once(':')?;
    // With more colons it is an IPv6 address, which needs brackets before a port.
    let has_port = !host.contains(':') || host.ends_with(']');
    let port = if tolerant { port.trim() } else { port };
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    (has_port && !is_port).then_some("a port is a number from 1 to 65535")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_work_is_an_address() {
        for address in [
            "kafka",
            "kafka:9092",
            " kafka:65535 ",
            "127.0.0.1:1",
            "::1",
            "[::1]",
            "[::1]:9092",
            "fe80::1%eth0",
            "SASL_SSL://kafka:9092",
            "plaintext://[::1]:9092/",
            "a:9092/",
            "a: 9092",
            "",
        ] {
            assert_eq!(wrong(address, &SCHEMES), None, "{address}");
        }
        for address in [
            "http://kafka:9092",
            "://kafka",
            "me:secret@kafka:9092",
            "a:9092;b:9092",
            "a;b",
            "kafka:99999",
            "kafka:0",
            "kafka:",
            "kafka:-1",
            "localhost:cql",
            "[::1]:x",
            "SSL://kafka:x",
        ] {
            assert!(wrong(address, &SCHEMES).is_some(), "{address}");
        }
        for address in ["SSL://scylla:9042", "scylla:9042/", "scylla: 9042"] {
            assert!(wrong(address, &[]).is_some(), "{address}");
        }
    }
}
