//! Errors of the registry, and whether they are transient.
//!
//! The distinction decides between waiting and a dead letter, so in doubt it is transient: only an answer that the registry itself gave about the
//! schema is permanent. A refused login, a proxy's 404 or a page of HTML says nothing about the schema, and dead-lettering records for it would lose
//! them.

use crate::retry::Class;

/// An error of the registry. It can be cloned, so that all callers that waited for one answer share it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No answer: the connection was refused or broken, timed out, or TLS failed.
    #[error("schema registry {url} gives no answer: {reason}")]
    Unreachable {
        /// Its address, without a login.
        url: String,
        /// What happened.
        reason: String,
    },
    /// An answer that says nothing about the schema: overloaded, login refused, read-only, not a registry.
    #[error("schema registry {url} answers {status}: {message}")]
    Refused {
        /// Its address, without a login.
        url: String,
        /// HTTP status.
        status: u16,
        /// The beginning of its message.
        message: String,
    },
    /// The request was dropped before its answer came.
    #[error("the request for schema id {id} ended with the pipeline that had made it")]
    Interrupted {
        /// The id.
        id: u32,
    },
    /// There is no OAuth token to send to the registry.
    #[error("token endpoint {endpoint} of the schema registry {reason}")]
    Token {
        /// Its address.
        endpoint: String,
        /// What it answers, or why there is no answer.
        reason: String,
    },
    /// The registry does not know this id.
    #[error("schema id {id} is unknown to the registry")]
    Unknown {
        /// The id.
        id: u32,
    },
    /// Not Avro.
    #[error("schema {name} is {kind}: only AVRO is supported")]
    Unsupported {
        /// Its id, or subject and version.
        name: String,
        /// `JSON`, `PROTOBUF`, or another type that the registry names.
        kind: String,
    },
    /// A reference to a version that the registry does not have.
    #[error("schema {name}: it refers to {subject} version {version}, which the registry does not have")]
    NoReference {
        /// The schema that refers.
        name: String,
        /// The subject that it refers to.
        subject: String,
        /// And the version.
        version: i32,
    },
    /// There are too many references, or they are too large, or a version lacks its id.
    #[error("schema {name}: {reason}")]
    Reference {
        /// The schema that refers.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A schema or another answer that is larger than the limit.
    #[error("schema registry {url} answers with more than {limit} bytes")]
    TooLarge {
        /// Its address, without a login.
        url: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The registry rejects the schema: invalid, or incompatible with earlier versions.
    #[error("the registry does not take the schema for {subject}: {message}")]
    Rejected {
        /// The subject.
        subject: String,
        /// The registry's message.
        message: String,
    },
    /// An option cannot be used: an address, a certificate, a key.
    #[error("schema registry: {0}")]
    Options(String),
}

impl RegistryError {
    /// Whether the answer may come from a follower that has not yet read a schema registered a moment ago.
    pub(super) fn may_lag(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::NoReference { .. })
    }

    /// Whether it is transient, permanent or fatal.
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. } | Self::Refused { .. } | Self::Interrupted { .. } | Self::Token { .. } => {
                Class::Transient
            }
            Self::Unknown { .. }
            | Self::Unsupported { .. }
            | Self::NoReference { .. }
            | Self::Reference { .. }
            | Self::TooLarge { .. }
            | Self::Rejected { .. } => Class::Permanent,
            Self::Options(_) => Class::Fatal,
        }
    }
}
