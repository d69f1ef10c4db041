//! `[registry]`: the schema registry.

use std::time::Duration;

use super::codes;
use super::diagnostic::Diagnostic;
use super::reader::{Field, Section};
use super::values::{boolean, plain_text, positive_duration, texts};
use super::{Secret, Spanned, Tls};

/// The schema registry, Confluent's HTTP interface.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Base URLs, at least one; the next is tried when one fails.
    pub urls: Vec<Spanned<String>>,
    /// Whether Messina may register output schemas. Default false.
    pub register: bool,
    /// How requests are authorised, if at all.
    pub auth: Option<RegistryAuth>,
    /// TLS for `https` URLs, where the system's authorities are not enough.
    pub tls: Option<Tls>,
    /// Deadline of one request. Default 10 s.
    pub timeout: Duration,
}

/// How requests to the registry are authorised.
#[derive(Clone, Debug)]
pub enum RegistryAuth {
    /// `username` and `password`.
    Basic {
        /// The user.
        username: String,
        /// Their password.
        password: Secret,
    },
    /// `bearer_token`.
    Bearer(Secret),
}

impl Registry {
    pub(super) fn read(field: Field<'_>) -> Option<Self> {
        let mut section = field.section()?;
        let urls = section.required("url", "url = \"http://registry:8081\"", texts);
        let register = section.or("register", false, boolean);
        let auth = RegistryAuth::read(&mut section);
        let tls = section.optional("tls", Tls::read);
        let timeout = section.or("timeout", Duration::from_secs(10), positive_duration);
        section.finish();
        Some(Self {
            urls: urls?,
            register: register?,
            auth: auth?,
            tls: tls?,
            timeout: timeout?,
        })
    }
}

impl RegistryAuth {
    /// `Some(None)` without any of the keys.
    fn read(section: &mut Section<'_>) -> Option<Option<Self>> {
        let username = section.optional("username", plain_text);
        let password = section.optional("password", Secret::read);
        let token = section.optional("bearer_token", Secret::read);
        let message = match (username?, password?, token?) {
            (None, None, None) => return Some(None),
            (Some(username), Some(password), None) => return Some(Some(Self::Basic { username, password })),
            (None, None, Some(token)) => return Some(Some(Self::Bearer(token))),
            (_, _, Some(_)) => "`bearer_token` and `username` with `password` exclude one another",
            (_, _, None) => "`username` and `password` come together",
        };
        let place = ["bearer_token", "username", "password"]
            .into_iter()
            .find_map(|key| section.table.get(key));
        let span = place.map_or(section.span, |entry| entry.key.span);
        let finding =
            Diagnostic::error(codes::CONFLICT, format!("{message} in `registry`")).at(section.cx.sources, span, "");
        section
            .cx
            .report(finding.help("write `username` and `password`, or `bearer_token`, or none of them"));
        None
    }
}
