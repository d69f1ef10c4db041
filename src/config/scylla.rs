//! `[scylla]`: the CQL database.

use std::time::Duration;

use ::scylla::client::Compression;

use super::reader::Field;
use super::values::{boolean, plain_text, positive_duration, text, texts};
use super::{Secret, Span, Spanned, Tls};

/// The CQL database: ScyllaDB, Cassandra, or another that speaks their protocol.
#[derive(Clone, Debug)]
pub struct Scylla {
    /// Place of the section.
    pub span: Span,
    /// Contact points, `host:port`; the default port is 9042.
    pub nodes: Vec<Spanned<String>>,
    /// The keyspace of tables that are named without one.
    pub keyspace: Option<Spanned<String>>,
    /// The preferred datacenter.
    pub datacenter: Option<Spanned<String>>,
    /// The preferred rack within it.
    pub rack: Option<Spanned<String>>,
    /// Whether other datacenters are asked if the preferred one does not answer. Default false.
    pub failover: bool,
    /// Consistency of look-ups and writes. Default `local_quorum`.
    pub consistency: Consistency,
    /// Consistency of the serial phase of conditional writes. Default `local_serial`.
    pub serial_consistency: SerialConsistency,
    /// TLS; `None` means plain text.
    pub tls: Option<Tls>,
    /// User name, if the database requires one.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Deadline of one request, unless a step has its own. Default 5 s.
    pub timeout: Duration,
    /// Compression of frames. Default none.
    pub compression: Option<Compression>,
}

/// Consistency levels, in CQL's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// `any`
    Any,
    /// `one`
    One,
    /// `two`
    Two,
    /// `three`
    Three,
    /// `quorum`
    Quorum,
    /// `all`
    All,
    /// `local_quorum`
    LocalQuorum,
    /// `each_quorum`
    EachQuorum,
    /// `local_one`
    LocalOne,
}

/// Serial consistency levels, in CQL's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerialConsistency {
    /// `serial`
    Serial,
    /// `local_serial`
    LocalSerial,
}

pub(super) const CONSISTENCY: [(&str, Consistency); 9] = [
    ("any", Consistency::Any),
    ("one", Consistency::One),
    ("two", Consistency::Two),
    ("three", Consistency::Three),
    ("quorum", Consistency::Quorum),
    ("all", Consistency::All),
    ("local_quorum", Consistency::LocalQuorum),
    ("each_quorum", Consistency::EachQuorum),
    ("local_one", Consistency::LocalOne),
];

pub(super) const SERIAL_CONSISTENCY: [(&str, SerialConsistency); 2] = [
    ("serial", SerialConsistency::Serial),
    ("local_serial", SerialConsistency::LocalSerial),
];

const COMPRESSION: [(&str, Option<Compression>); 3] = [
    ("none", None),
    ("lz4", Some(Compression::Lz4)),
    ("snappy", Some(Compression::Snappy)),
];

impl Scylla {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let nodes = section.required("nodes", "nodes = [\"scylla-1:9042\"]", texts);
        let keyspace = section.optional("keyspace", text);
        let datacenter = section.optional("datacenter", text);
        let rack = section.optional("rack", text);
        let failover = section.or("failover", false, boolean);
        let consistency = section.or("consistency", Consistency::LocalQuorum, |field| {
            field.choice(&CONSISTENCY)
        });
        let serial_consistency = section.or("serial_consistency", SerialConsistency::LocalSerial, |field| {
            field.choice(&SERIAL_CONSISTENCY)
        });
        let tls = section.optional("tls", Tls::read);
        let username = section.optional("username", plain_text);
        let password = section.optional("password", Secret::read);
        let timeout = section.or("timeout", Duration::from_secs(5), positive_duration);
        let compression = section.or("compression", None, |field| field.choice(&COMPRESSION));
        let span = section.span;
        section.finish();
        Some(Self {
            span,
            nodes: nodes?,
            keyspace: keyspace?,
            datacenter: datacenter?,
            rack: rack?,
            failover: failover?,
            consistency: consistency?,
            serial_consistency: serial_consistency?,
            tls: tls?,
            username: username?,
            password: password?,
            timeout: timeout?,
            compression: compression?,
        })
    }
}
