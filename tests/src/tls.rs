//! Certificates made on the spot: one authority per test, and servers that are right, foreign, misnamed or expired.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// A certificate authority that nobody trusts until its file is in `SSL_CERT_FILE`.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority with this common name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key pair");
        let pem = params.self_signed(&key).expect("a self-signed certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Writes the authority's certificate, for `SSL_CERT_FILE`.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).expect("a writable directory");
    }

    /// A server for this host name, valid now.
    pub fn server(&self, host: &str) -> Arc<ServerConfig> {
        self.sign(host, 4096)
    }

    /// A server whose certificate ran out in 2020.
    pub fn expired_server(&self, host: &str) -> Arc<ServerConfig> {
        self.sign(host, 2020)
    }

    /// Writes a certificate for this name and its key into `dir`, as somebody else's program reads them. It may be used by
    /// a server and by a client.
    pub fn issue(&self, name: &str, dir: &Path) -> (PathBuf, PathBuf) {
        self.issue_for(&[name], dir)
    }

    /// The same for several names and addresses. The files are named after the first.
    pub fn issue_for(&self, names: &[&str], dir: &Path) -> (PathBuf, PathBuf) {
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.certificate(names, 4096, &usages);
        let name = names.first().expect("a certificate is somebody's");
        let files = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&files.0, certificate.pem()).expect("a writable directory");
        std::fs::write(&files.1, key.serialize_pem()).expect("a writable directory");
        files
    }

    fn sign(&self, host: &str, last_year: i32) -> Arc<ServerConfig> {
        let (certificate, key) = self.certificate(&[host], last_year, &[ExtendedKeyUsagePurpose::ServerAuth]);
        let chain = vec![CertificateDer::from(certificate)];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider's own versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a key that fits its certificate");
        Arc::new(config)
    }

    fn certificate(
        &self,
        names: &[&str],
        last_year: i32,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> (Certificate, KeyPair) {
        let all: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(all).expect("host names");
        params.distinguished_name.push(DnType::CommonName, names.concat());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().expect("a key pair");
        (params.signed_by(&key, &self.issuer).expect("a signed certificate"), key)
    }
}
