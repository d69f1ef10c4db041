//! Certificates that are each wrong in one way, beside the right ones that `tests/services` makes.

use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::BasicConstraints;
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

/// An expired client certificate of the test authority, with its key.
pub fn expired(tls: &Path, folder: &Path) -> (PathBuf, PathBuf) {
    let at = |seconds| Asn1Time::from_unix(seconds).unwrap();
    client(tls, folder, "expired", &at(1_600_000_000), &at(1_600_086_400))
}

/// Another client certificate of the test authority, valid for a day, with its key.
pub fn renewed(tls: &Path, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let in_days = |days| Asn1Time::days_from_now(days).unwrap();
    client(tls, folder, name, &in_days(0), &in_days(1))
}

fn client(tls: &Path, folder: &Path, name: &str, from: &Asn1Time, to: &Asn1Time) -> (PathBuf, PathBuf) {
    let authority = X509::from_pem(&std::fs::read(tls.join("ca.pem")).unwrap()).unwrap();
    let signer = PKey::private_key_from_pem(&std::fs::read(tls.join("ca.key")).unwrap()).unwrap();
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut certificate = begun("client", &key);
    certificate.set_issuer_name(authority.subject_name()).unwrap();
    certificate.set_not_before(from).unwrap();
    certificate.set_not_after(to).unwrap();
    certificate.sign(&signer, MessageDigest::sha256()).unwrap();
    let pem = certificate.build().to_pem().unwrap();
    let paths = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
    std::fs::write(&paths.0, pem).unwrap();
    std::fs::write(&paths.1, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    paths
}

/// An authority that signed none of the certificates in use.
pub fn stranger(folder: &Path) -> PathBuf {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut certificate = begun("another authority", &key);
    let issuer = name("another authority");
    certificate.set_issuer_name(&issuer).unwrap();
    certificate
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    certificate
        .append_extension(BasicConstraints::new().critical().ca().build().unwrap())
        .unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    let path = folder.join("stranger.pem");
    std::fs::write(&path, certificate.build().to_pem().unwrap()).unwrap();
    path
}

fn name(common: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", common).unwrap();
    name.build()
}

fn begun(common: &str, key: &PKey<Private>) -> X509Builder {
    let mut certificate = X509::builder().unwrap();
    certificate.set_version(2).unwrap();
    let serial = BigNum::from_u32(7).unwrap().to_asn1_integer().unwrap();
    certificate.set_serial_number(&serial).unwrap();
    certificate.set_subject_name(&name(common)).unwrap();
    certificate.set_pubkey(key).unwrap();
    certificate
}
