//! `[registry]`: the schema registry.

use std::time::Duration;

use super::codes;
use super::diagnostic::Diagnostic;
use super::reader::{Field, Section};
use super::values::{boolean, plain_text, positive_duration, text, texts};
use super::{Secret, Spanned, Tls};

/// The schema registry, with Confluent's HTTP API.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Base URLs, at least one. If one fails, the next is tried.
    pub urls: Vec<Spanned<String>>,
    /// Whether Messina may register output schemas. Default false.
    pub register: bool,
    /// How requests are authenticated, if at all.
    pub auth: Option<RegistryAuth>,
    /// TLS for `https` URLs, if the system's certificate authorities are not enough.
    pub tls: Option<Tls>,
    /// Deadline of one request. Default 10 s.
    pub timeout: Duration,
}

/// How requests to the registry are authenticated.
#[derive(Clone, Debug)]
pub enum RegistryAuth {
    /// `username` and `password`.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// `bearer_token`.
    Bearer(Secret),
    /// `[registry.oauth]`.
    Oauth(Box<Oauth>),
}

/// `[registry.oauth]`: bearer tokens from OAuth 2 client credentials.
#[derive(Clone, Debug)]
pub struct Oauth {
    /// The URL that issues tokens.
    pub token_endpoint: Spanned<String>,
    /// Client id.
    pub client_id: String,
    /// Client secret.
    pub client_secret: Secret,
    /// The scope to request.
    pub scope: Option<String>,
    /// TLS for the token endpoint, if it differs from the registry's.
    pub tls: Option<Tls>,
}

impl Oauth {
    fn read(field: Field<'_>) -> Option<Box<Self>> {
        let mut section = field.section()?;
        let example = "token_endpoint = \"https://login.example.com/oauth2/token\"";
        let token_endpoint = section.required("token_endpoint", example, text);
        let client_id = section.required("client_id", "client_id = \"messina\"", plain_text);
        let example = "client_secret = { file = \"/run/secrets/registry\" }";
        let client_secret = section.required("client_secret", example, Secret::read);
        let scope = section.optional("scope", plain_text);
        let tls = section.optional("tls", Tls::read);
        section.finish();
        Some(Box::new(Self {
            token_endpoint: token_endpoint?,
            client_id: client_id?,
            client_secret: client_secret?,
            scope: scope?,
            tls: tls?,
        }))
    }
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
    /// `Some(None)` if none of the keys is present.
    fn read(section: &mut Section<'_>) -> Option<Option<Self>> {
        let username = section.optional("username", plain_text);
        let password = section.optional("password", Secret::read);
        let token = section.optional("bearer_token", Secret::read);
        let oauth = section.optional("oauth", Oauth::read);
        let message = match (username?, password?, token?, oauth?) {
            (None, None, None, None) => return Some(None),
            (Some(username), Some(password), None, None) => return Some(Some(Self::Basic { username, password })),
            (None, None, Some(token), None) => return Some(Some(Self::Bearer(token))),
            (None, None, None, Some(oauth)) => return Some(Some(Self::Oauth(oauth))),
            (_, _, _, Some(_)) => "`oauth` excludes `bearer_token`, and `username` with `password`,",
            (_, _, Some(_), None) => "`bearer_token` and `username` with `password` exclude one another",
            (_, _, None, None) => "`username` and `password` come together",
        };
        let place = ["oauth", "bearer_token", "username", "password"]
            .into_iter()
            .find_map(|key| section.table.get(key));
        let span = place.map_or(section.span, |entry| entry.key.span);
        let finding =
            Diagnostic::error(codes::CONFLICT, format!("{message} in `registry`")).at(section.cx.sources, span, "");
        section
            .cx
            .report(finding.help("write `username` and `password`, or `bearer_token`, or `oauth`, or none of them"));
        None
    }
}
