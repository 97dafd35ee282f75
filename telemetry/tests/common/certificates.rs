//! An authority that nobody trusts, and what it signs, as files.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;

pub struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// Paths of a certificate and its key.
pub struct Files {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        // Of two with one name the wrong one would be taken for the right one with a bad signature.
        params.distinguished_name.push(DnType::CommonName, directory.path().to_str().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key), certificate: certificate.der().clone() }
    }

    /// Path of the authority's own certificate.
    pub fn certificate(&self) -> String {
        self.path("ca.pem")
    }

    pub fn issue(&self, name: &str) -> Files {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Files { certificate: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// A server on `localhost` that asks for a certificate of the same authority.
    pub fn server(&self) -> ServerConfig {
        self.server_at("localhost")
    }

    /// The same of another name.
    pub fn server_at(&self, name: &str) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let files = self.issue(name);
        let chain = vec![CertificateDer::from_pem_file(&files.certificate).unwrap()];
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.unwrap())
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
            .unwrap()
    }

    fn path(&self, name: &str) -> String {
        PathBuf::from(self.directory.path()).join(name).to_str().unwrap().to_owned()
    }
}
