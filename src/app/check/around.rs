//! What `check --online` says of the surroundings: certificates that run out, and clocks that disagree.
//!
//! Why: both are found out at night otherwise. An expired certificate ends every new connection; a clock that is off makes lives of rows,
//! `now()` and lag wrong. Pure but for reading files and one question to the database.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::x509::X509;

use crate::config::{Config, PropertyValue, Span};
use crate::pipeline::finding::Finding;
use crate::store::AnyStore;
use crate::store::StoreError;

/// A certificate with less time than this is worth a warning.
const SOON: i64 = 30;
/// Clocks that differ by more are worth a warning.
const SKEW: Duration = Duration::from_secs(2);
/// Properties of librdkafka that name certificates as PEM files, and whether they are authorities.
const PROPERTIES: [(&str, bool); 2] = [("ssl.certificate.location", false), ("ssl.ca.location", true)];

/// What was found, and whether it is only a warning.
pub(super) type Found = (Finding, bool);

/// Certificates of the configuration that have run out, or will within 30 days.
pub(super) fn certificates(config: &Config) -> Vec<Found> {
    let mut files: Vec<(&Path, Span, bool)> = Vec::new();
    let sections = [
        config.scylla.as_ref().and_then(|scylla| scylla.tls.as_ref()),
        config.registry.tls.as_ref(),
    ];
    for tls in sections.into_iter().flatten() {
        files.extend(tls.cert.iter().map(|path| (path.value.as_path(), path.span, false)));
        files.extend(tls.ca.iter().map(|path| (path.value.as_path(), path.span, true)));
    }
    for property in &config.kafka.properties {
        let known = PROPERTIES.iter().find(|(name, _)| *name == property.name.value);
        if let (Some((_, authority)), PropertyValue::Plain(path)) = (known, &property.value) {
            files.push((Path::new(path.as_str()), property.name.span, *authority));
        }
    }
    let judged = files.into_iter().filter_map(|(path, place, authority)| {
        // What cannot be read has been told by whoever connects with it.
        let pem = std::fs::read(path).ok()?;
        let (message, warning) = judge(&pem, authority, &*Asn1Time::days_from_now(0).ok()?)?;
        let finding = Finding::new(place, format!("{}: {message}", path.display()));
        let help =
            "have it renewed; the new file is read at the next start, and at SIGHUP where it is not the brokers'";
        Some((finding.help(help), warning))
    });
    judged.collect()
}

/// What is to be said of the certificates in a file. Of a chain the first to run out counts, of several authorities the last.
fn judge(pem: &[u8], authority: bool, now: &Asn1TimeRef) -> Option<(String, bool)> {
    let certificates = X509::stack_from_pem(pem).ok()?;
    let left = certificates.iter().filter_map(|certificate| {
        let left = now.diff(certificate.not_after()).ok()?;
        Some((i64::from(left.days), left.secs))
    });
    let (days, seconds) = if authority { left.max() } else { left.min() }?;
    let what = if authority { "the authority" } else { "the certificate" };
    if days < 0 || seconds < 0 {
        return Some((format!("{what} ran out {} days ago", -days), false));
    }
    (days < SOON).then(|| (format!("{what} runs out in {days} days"), true))
}

/// Whether the database's clock and this machine's disagree.
pub(super) async fn clocks(config: &Config, store: Option<&AnyStore>) -> Result<Option<Found>, StoreError> {
    let (Some(AnyStore::Scylla(store)), Some(section)) = (store, &config.scylla) else {
        return Ok(None);
    };
    let before = now();
    let theirs = store.clock().await?;
    let ours = before + (now() - before) / 2;
    let place = section.nodes.first().map_or(section.span, |node| node.span);
    Ok(disagreement(ours, theirs).map(|message| {
        let help = "synchronise the clocks (NTP): lives of rows, now() and lag go by them";
        (Finding::new(place, message).help(help), true)
    }))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn disagreement(ours: Duration, theirs: Duration) -> Option<String> {
    let (apart, way) = match ours.checked_sub(theirs) {
        Some(ahead) => (ahead, "behind"),
        None => (theirs - ours, "ahead of"),
    };
    (apart > SKEW).then(|| {
        format!(
            "the database's clock is {:.1} s {way} this machine's",
            apart.as_secs_f64()
        )
    })
}

#[cfg(test)]
mod tests {
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;

    use super::*;

    /// A certificate that ends so many days after 2030-01-01.
    fn pem(days: i64) -> Vec<u8> {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut certificate = X509::builder().unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
        let end = Asn1Time::from_unix(1_893_456_000 + days * 86_400).unwrap();
        certificate.set_not_after(&end).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        certificate.build().to_pem().unwrap()
    }

    #[test]
    fn certificates_are_judged_by_the_one_that_matters() {
        let now = Asn1Time::from_unix(1_893_456_000).unwrap();
        let said = |pem: &[u8], authority| judge(pem, authority, &now);
        let (fresh, soon, over) = (pem(400), pem(29), pem(-3));
        assert_eq!(said(&fresh, false), None);
        let warned = Some(("the certificate runs out in 29 days".to_owned(), true));
        assert_eq!(said(&soon, false), warned);
        let refused = Some(("the certificate ran out 3 days ago".to_owned(), false));
        assert_eq!(said(&over, false), refused);
        let chain = [fresh.clone(), over.clone()].concat();
        assert_eq!(said(&chain, false), refused, "a chain ends with its first");
        assert_eq!(said(&chain, true), None, "of two authorities one is enough");
        assert_eq!(said(b"no certificate", false), None);
    }

    #[test]
    fn clocks_disagree_by_more_than_two_seconds() {
        let at = Duration::from_millis;
        assert_eq!(disagreement(at(10_000), at(11_999)), None);
        let ahead = disagreement(at(10_000), at(13_500));
        assert_eq!(
            ahead.as_deref(),
            Some("the database's clock is 3.5 s ahead of this machine's")
        );
        let behind = disagreement(at(10_000), at(7_000));
        assert_eq!(
            behind.as_deref(),
            Some("the database's clock is 3.0 s behind this machine's")
        );
    }
}
