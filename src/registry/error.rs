//! Errors of the registry, and whether they are transient.
//!
//! The distinction decides between waiting and a dead letter, so in doubt it is transient: only an answer that the registry itself gave about the
//! schema is permanent. A refused login, a proxy's 404 or a page of HTML says nothing about the schema, and dead-lettering records for it would lose
//! them.

use crate::retry::Class;

/// An error of the registry. It can be shared by all who waited for one answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No answer: refused, broken off, timed out, or TLS failed.
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
        /// The beginning of what it says.
        message: String,
    },
    /// The request was dropped before its answer came.
    #[error("the request for schema id {id} ended with the pipeline that had made it")]
    Interrupted {
        /// The id.
        id: u32,
    },
    /// There is no token to show to the registry.
    #[error("token endpoint {endpoint} of the schema registry {reason}")]
    Token {
        /// Its address.
        endpoint: String,
        /// What it answers, or why it does not.
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
        /// `JSON`, `PROTOBUF`, or what else the registry says.
        kind: String,
    },
    /// A reference leads nowhere.
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
    /// A schema, or what else was asked for, that is longer than is read.
    #[error("schema registry {url} answers with more than {limit} bytes")]
    TooLarge {
        /// Its address, without a login.
        url: String,
        /// Bytes.
        limit: usize,
    },
    /// The registry does not take the schema: invalid, or incompatible with earlier versions.
    #[error("the registry does not take the schema for {subject}: {message}")]
    Rejected {
        /// The subject.
        subject: String,
        /// What it says.
        message: String,
    },
    /// An option cannot be used: an address, a certificate, a key.
    #[error("schema registry: {0}")]
    Options(String),
}

impl RegistryError {
    /// Whether it may be the word of a follower that has not read yet of what was registered a moment ago.
    pub(super) fn may_lag(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::NoReference { .. })
    }

    /// Whether it may pass by itself.
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
