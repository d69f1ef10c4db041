//! `tls = { ca, cert, key }`: certificates of a connection.

use std::path::PathBuf;

use super::reader::Field;
use super::values::path;
use super::{Span, Spanned};

/// TLS with PEM files. An empty table means TLS with the system's certificate authorities and no client certificate.
///
/// Relative paths are relative to the working directory. `cert` and `key` must be given together.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Place of the table.
    pub span: Span,
    /// Certificate authorities for the server's certificate.
    pub ca: Option<Spanned<PathBuf>>,
    /// The client's certificate chain.
    pub cert: Option<Spanned<PathBuf>>,
    /// The client's private key.
    pub key: Option<Spanned<PathBuf>>,
}

impl Tls {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let span = section.span;
        let ca = section.optional("ca", path);
        let cert = section.optional("cert", path);
        let key = section.optional("key", path);
        section.finish();
        Some(Self {
            span,
            ca: ca?,
            cert: cert?,
            key: key?,
        })
    }
}
