//! Finds the PEM certificates that a configuration names, and when they expire.
//!
//! An expired certificate ends every new connection, so `check --online` and the metrics report the expiry in advance; both use this module.
//! Certificates in a PKCS #12 store or in the text of the configuration are not examined.

use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use mongodb::options::{ClientOptions, Tls};
use openssl::asn1::Asn1Time;
use openssl::x509::X509;

use crate::config::{self, Config, PropertyValue, RegistryAuth, Span, Spanned};

/// Properties of librdkafka that name certificates as PEM files, and whether they are authorities.
const PROPERTIES: [(&str, bool); 2] = [("ssl.certificate.location", false), ("ssl.ca.location", true)];

/// A file of certificates.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateFile {
    /// The file's path.
    pub path: PathBuf,
    /// True for a file of authorities, of which one unexpired certificate is enough. False for a chain, whose certificates must all be
    /// unexpired.
    pub authority: bool,
    /// Whether the file is read only once, as librdkafka does when it creates a client. The certificate in use is then the one that the file
    /// held at that time.
    pub once: bool,
}

/// The PEM files of a TLS connection.
#[derive(Debug, Clone, Default)]
pub struct PemFiles {
    /// The authorities that vouch for the server. `None` means the system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate and the chain above it, for servers that ask for one.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`.
    pub key: Option<PathBuf>,
}

impl config::Tls {
    /// The paths of the files, without their places in the configuration.
    pub fn files(&self) -> PemFiles {
        let path = |file: &Option<Spanned<PathBuf>>| file.as_ref().map(|file| file.value.clone());
        PemFiles {
            ca: path(&self.ca),
            cert: path(&self.cert),
            key: path(&self.key),
        }
    }
}

/// The TLS settings for the registry's requests and for the requests for its tokens.
pub fn of_registry(config: &Config) -> impl Iterator<Item = &config::Tls> {
    let oauth = match &config.registry.auth {
        Some(RegistryAuth::Oauth(oauth)) => oauth.tls.as_ref(),
        Some(RegistryAuth::Basic { .. } | RegistryAuth::Bearer(_)) | None => None,
    };
    config.registry.tls.iter().chain(oauth)
}

/// Adds the current contents of these files to a hash, so that changes can be detected.
///
/// # Errors
/// If a file cannot be read, or is empty: a writer that replaces a file in place leaves it empty for a moment.
pub fn hash<'f>(files: impl IntoIterator<Item = &'f PathBuf>, hasher: &mut impl Hasher) -> Result<(), String> {
    for file in files {
        let held = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
        if held.trim_ascii().is_empty() {
            return Err(format!("{}: it is empty", file.display()));
        }
        held.hash(hasher);
    }
    Ok(())
}

/// The files that the configuration names, and where it names them. A MongoDB URI that cannot be read is left out; the code that connects with
/// it reports it.
pub async fn files(config: &Config) -> Vec<(CertificateFile, Span)> {
    let mut files = Vec::new();
    let mut add = |path: PathBuf, authority, once, place| {
        let file = CertificateFile { path, authority, once };
        files.push((file, place));
    };
    let scylla = config.scylla.iter().filter_map(|scylla| scylla.tls.as_ref());
    for tls in scylla.chain(of_registry(config)) {
        if let Some(cert) = &tls.cert {
            add(cert.value.clone(), false, false, cert.span);
        }
        if let Some(ca) = &tls.ca {
            add(ca.value.clone(), true, false, ca.span);
        }
    }
    let kafka = &config.kafka;
    let shared = [
        &kafka.properties,
        &kafka.consumer_properties,
        &kafka.producer_properties,
    ];
    let own = config.pipelines.values().flat_map(|pipeline| {
        let sink = pipeline.sink.as_ref().map(|sink| &sink.properties);
        sink.into_iter().chain([&pipeline.source.properties])
    });
    for property in shared.into_iter().chain(own).flatten() {
        let known = PROPERTIES.iter().find(|(name, _)| *name == property.name.value);
        if let (Some((_, authority)), PropertyValue::Plain(path)) = (known, &property.value) {
            add(PathBuf::from(path.as_str()), *authority, true, property.name.span);
        }
    }
    if let Some(mongo) = &config.mongo
        && let Ok(uri) = mongo.uri.reveal()
        && let Ok(options) = ClientOptions::parse(uri).await
        && let Some(Tls::Enabled(tls)) = options.tls
    {
        if let Some(cert) = tls.cert_key_file_path {
            add(cert, false, false, mongo.uri.span());
        }
        if let Some(ca) = tls.ca_file_path {
            add(ca, true, false, mongo.uri.span());
        }
    }
    files
}

/// When a file's certificates expire, in seconds since 1970: for a chain, the first expiry; for several authorities, the last. `None` if the
/// file holds no certificate.
pub fn end(pem: &[u8], authority: bool) -> Option<i64> {
    let epoch = Asn1Time::from_unix(0).ok()?;
    let certificates = X509::stack_from_pem(pem).ok()?;
    let ends = certificates.iter().filter_map(|certificate| {
        let since = epoch.diff(certificate.not_after()).ok()?;
        Some(i64::from(since.days) * 86_400 + i64::from(since.secs))
    });
    if authority { ends.max() } else { ends.min() }
}

#[cfg(test)]
pub(crate) mod tests {
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;

    use super::*;
    use crate::config::load_str;

    /// A certificate that expires at `end`.
    pub(crate) fn pem(end: i64) -> Vec<u8> {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut certificate = X509::builder().unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
        certificate.set_not_after(&Asn1Time::from_unix(end).unwrap()).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        certificate.build().to_pem().unwrap()
    }

    #[test]
    fn of_a_chain_the_first_to_run_out_counts_and_of_authorities_the_last() {
        let both = [pem(1_900_000_001), pem(1_800_000_001)].concat();
        assert_eq!(end(&both, false), Some(1_800_000_001));
        assert_eq!(end(&both, true), Some(1_900_000_001));
        assert_eq!(end(b"no certificate", true), None);
    }

    #[tokio::test]
    async fn every_section_that_takes_certificates_is_looked_at() {
        let text = r#"
            [kafka]
            brokers = "k:9092"
            properties = { "ssl.ca.location" = "/k/ca.pem", "ssl.key.location" = "/k/tls.key" }
            consumer_properties = { "ssl.certificate.location" = "/k/tls.crt" }
            producer_properties = { "ssl.certificate.location" = "/k/out.crt" }
            [registry]
            url = "https://r"
            tls = { ca = "/r/ca.pem" }
            [registry.oauth]
            token_endpoint = "https://t/token"
            client_id = "messina"
            client_secret = "x"
            tls = { ca = "/t/ca.pem" }
            [scylla]
            nodes = ["s:9042"]
            tls = { ca = "/s/ca.pem", cert = "/s/tls.crt", key = "/s/tls.key" }
            [mongo]
            uri = "mongodb://user:pass@m/?tls=true&tlsCAFile=%2Fm%2Fca.pem&tlsCertificateKeyFile=/m/both.pem"
            [pipelines.p.source]
            topics = ["t"]
            group = "g"
            properties = { "ssl.ca.location" = "/p/ca.pem" }
            [pipelines.p.sink]
            topic = "o"
            properties = { "ssl.certificate.location" = "/p/tls.crt" }
        "#;
        let config = load_str(vec![("test.toml".into(), text.into())], std::iter::empty())
            .unwrap()
            .0;
        let mut found: Vec<_> = files(&config)
            .await
            .into_iter()
            .map(|(file, _)| (file.path.display().to_string(), file.authority, file.once))
            .collect();
        found.sort();
        let wanted = [
            ("/k/ca.pem", true),
            ("/k/out.crt", false),
            ("/k/tls.crt", false),
            ("/m/both.pem", false),
            ("/m/ca.pem", true),
            ("/p/ca.pem", true),
            ("/p/tls.crt", false),
            ("/r/ca.pem", true),
            ("/s/ca.pem", true),
            ("/s/tls.crt", false),
            ("/t/ca.pem", true),
        ];
        // Certificates for the brokers, also those of a single pipeline.
        let once = |path: &str| path.starts_with("/k/") || path.starts_with("/p/");
        assert_eq!(
            found,
            wanted.map(|(path, authority)| (path.to_owned(), authority, once(path)))
        );
    }
}
