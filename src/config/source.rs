//! `[pipelines.NAME.source]`: the topics and the consumer group.

use std::time::Duration;

use super::codes;
use super::diagnostic::Diagnostic;
use super::reader::Field;
use super::values::{positive_duration, text, texts};
use super::{Property, Span, Spanned};

/// The topics that a pipeline consumes, and how it takes part in its consumer group.
#[derive(Clone, Debug)]
pub struct Source {
    /// Place of the section.
    pub span: Span,
    /// Topics, at least one.
    pub topics: Vec<Spanned<String>>,
    /// Consumer group.
    pub group: Spanned<String>,
    /// librdkafka properties of this pipeline's consumers; they win over `[kafka]`.
    pub properties: Vec<Property>,
    /// The rebalance protocol. Default [`GroupProtocol::Classic`].
    pub group_protocol: GroupProtocol,
    /// `group.instance.id` for static membership. With several `consumers`, each appends its number; under the classic protocol, also a digest of the
    /// topics.
    pub instance_id: Option<Spanned<String>>,
    /// How partitions are assigned under the classic protocol. Default [`Assignor::CooperativeSticky`].
    pub assignor: Assignor,
    /// Where to start in a partition without a committed offset. Default [`OffsetReset::Earliest`].
    pub offset_reset: OffsetReset,
    /// What happens to a record with a null value. Default [`OnTombstone::Skip`].
    pub on_tombstone: OnTombstone,
    /// How long a partition may have lag without progress before it counts as stalled. Default 60 s.
    pub stall_timeout: Duration,
}

/// The group's rebalance protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// `classic`: assignment by the group's leader.
    Classic,
    /// `consumer`: assignment by the broker (KIP-848).
    Consumer,
}

/// Partition assignors of the classic protocol, in librdkafka's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// `cooperative-sticky`
    CooperativeSticky,
    /// `range`
    Range,
    /// `roundrobin`
    RoundRobin,
}

/// Where to start in a partition without a committed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetReset {
    /// `earliest`
    Earliest,
    /// `latest`
    Latest,
}

/// What happens to a record without a value (a tombstone).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTombstone {
    /// `skip`
    Skip,
    /// `dead_letter`
    DeadLetter,
}

const GROUP_PROTOCOL: [(&str, GroupProtocol); 2] = [
    ("classic", GroupProtocol::Classic),
    ("consumer", GroupProtocol::Consumer),
];

const ASSIGNOR: [(&str, Assignor); 3] = [
    ("cooperative-sticky", Assignor::CooperativeSticky),
    ("range", Assignor::Range),
    ("roundrobin", Assignor::RoundRobin),
];

const OFFSET_RESET: [(&str, OffsetReset); 2] = [("earliest", OffsetReset::Earliest), ("latest", OffsetReset::Latest)];

const ON_TOMBSTONE: [(&str, OnTombstone); 2] = [("skip", OnTombstone::Skip), ("dead_letter", OnTombstone::DeadLetter)];

const STALL_TIMEOUT: Duration = Duration::from_secs(60);

impl Source {
    /// `meant` follows the remedy if there are no topics.
    pub(super) fn read(field: Field<'_>, meant: &str) -> Option<Self> {
        let mut section = field.section()?;
        let topics = section.required("topics", &format!("topics = [\"navigation\"]{meant}"), texts);
        let group = section.required("group", "group = \"navigation-enrichment\"", text);
        let properties = section.or("properties", vec![], Property::read_all);
        let group_protocol = section.or("group_protocol", GroupProtocol::Classic, |field| {
            field.choice(&GROUP_PROTOCOL)
        });
        let instance_id = section.optional("instance_id", text);
        let assignor = section.or("assignor", Assignor::CooperativeSticky, |field| field.choice(&ASSIGNOR));
        let offset_reset = section.or("offset_reset", OffsetReset::Earliest, |field| {
            field.choice(&OFFSET_RESET)
        });
        let on_tombstone = section.or("on_tombstone", OnTombstone::Skip, |field| field.choice(&ON_TOMBSTONE));
        let stall_timeout = section.or("stall_timeout", STALL_TIMEOUT, positive_duration);
        let span = section.span;
        let unused = section.table.get("assignor");
        if let Some(entry) = unused.filter(|_| group_protocol == Some(GroupProtocol::Consumer)) {
            let message = "`assignor` is for group_protocol = \"classic\"";
            let finding = Diagnostic::error(codes::CONFLICT, message);
            let finding = finding.at(section.cx.sources, entry.key.span, "the brokers assign");
            section.cx.report(
                finding.help(
                    "remove it, or `group_protocol`; the brokers' own is \"group.remote.assignor\" in `properties`",
                ),
            );
        }
        section.finish();
        Some(Self {
            span,
            topics: topics?,
            group: group?,
            properties: properties?,
            group_protocol: group_protocol?,
            instance_id: instance_id?,
            assignor: assignor?,
            offset_reset: offset_reset?,
            on_tombstone: on_tombstone?,
            stall_timeout: stall_timeout?,
        })
    }
}
