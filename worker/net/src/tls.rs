//! TLS for every connection of the program: whom to trust, and who the worker is.

mod fault;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use oz_worker_text::line;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

use crate::url::UrlHost;
pub use fault::{CertificateFlaw, TlsFault};

/// Whom to trust, and who the worker is. As the operating system has it and nobody in particular, by default.
#[derive(Debug, Default)]
pub struct Tls {
    /// Trusted instead of the operating system's authorities.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// What the worker shows when it is asked who it is.
    pub client: Option<ClientCertificate>,
    /// Whom the certificate must be for, when that is not the host that is dialled.
    pub server_name: Option<UrlHost>,
    /// Whether any certificate will do. Whoever stands between can then read and change everything: only for an operator
    /// who says so.
    pub unverified: bool,
}

/// Whom a certificate must be for; `None` when the host's name cannot be in one.
pub fn server_name(host: &UrlHost) -> Option<ServerName<'static>> {
    match host {
        UrlHost::Address(address) => Some(ServerName::from(*address)),
        // A certificate has no final dot (RFC 6066, section 3).
        UrlHost::Name(name) => ServerName::try_from(name.trim_end_matches('.').to_owned()).ok(),
    }
}

/// A certificate with those that lead to its issuer, and its private key. `Debug` shows how many there are.
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// What a PEM text does not hold. Its lines may be a key's: nothing of them is in here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No certificate, or one that cannot be read.
    #[error("does not hold certificates in PEM form")]
    Certificates,
    /// No private key, or one that cannot be read.
    #[error("does not hold a private key in PEM form")]
    Key,
}

/// What to do about a variable that replaces the operating system's authorities.
const OR_UNSET: &str = "correct it, or unset it to trust the operating system's certificates";

/// Why there is no TLS to be had, with whomever.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The operating system trusts nobody.
    #[error("cannot load the operating system's certificates: is ca-certificates installed?")]
    NoRoots,
    /// A variable replaces the operating system's authorities, and where it points there is none.
    #[error("{variable} names {}, where there is no certificate in PEM form; {}", line::quoted(&path.to_string_lossy()), OR_UNSET)]
    EmptyRoots {
        /// `SSL_CERT_FILE` or `SSL_CERT_DIR`.
        variable: &'static str,
        path: PathBuf,
    },
    /// A variable replaces the operating system's authorities, and where it points cannot be read.
    #[error("{variable} names {}, which cannot be read: {source}; {}", line::quoted(&path.to_string_lossy()), OR_UNSET)]
    UnreadableRoots {
        /// `SSL_CERT_FILE` or `SSL_CERT_DIR`.
        variable: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A certificate that should be trusted is none.
    #[error("a certificate to be trusted cannot be used: it {0}")]
    Root(CertificateFlaw),
    /// The worker's own key belongs to another certificate.
    #[error("the private key does not belong to the client certificate")]
    Pair,
    /// The worker's own certificate or key cannot be used.
    #[error("the client certificate or its private key is of a kind that cannot be used")]
    Client,
    /// The TLS library does not work at all.
    #[error("TLS cannot be set up")]
    Library,
}

impl Tls {
    /// What rustls needs to connect. Sessions are not kept for a next connection, and no protocol is asked for (ALPN):
    /// whoever wants that sets it in the result.
    ///
    /// This reads files of the operating system: call it where blocking is allowed, and anew for every dial, so that a
    /// changed authority needs no restart.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|_| TlsError::Library)?;
        let builder = match &self.roots {
            _ if self.unverified => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
            Some(roots) => builder.with_root_certificates(given_roots(roots)?),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(system_roots(provider)?)),
        };
        let mut config = match &self.client {
            Some(client) => client_auth(builder.with_client_auth_cert(client.chain.clone(), client.key.clone_key()))?,
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// The certificates in a PEM text, at least one.
///
/// # Errors
/// [`PemError::Certificates`].
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|certificates| !certificates.is_empty()).ok_or(PemError::Certificates)
}

impl ClientCertificate {
    /// From two PEM texts: a certificate with those that lead to its issuer, and its private key.
    ///
    /// # Errors
    /// [`PemError`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, PemError> {
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PemError::Key)?;
        Ok(Self { chain: certificates(chain)?, key })
    }

    /// The certificates in DER form, the worker's own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The private key, for a library that has a type of its own for it.
    pub const fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

fn given_roots(roots: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| {
            TlsError::Root(match &error {
                rustls::Error::InvalidCertificate(error) => error.into(),
                _ => CertificateFlaw::Other,
            })
        })?;
    }
    Ok(store)
}

/// Takes any certificate, as long as the server has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn system_roots(provider: Arc<CryptoProvider>) -> Result<Verifier, TlsError> {
    Verifier::new(provider).map_err(|_| {
        // What it says is for no operator. These two are what it reads instead of the operating system's places.
        let set = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().find_map(|name| Some((name, std::env::var_os(name)?)));
        let Some((variable, path)) = set else { return TlsError::NoRoots };
        let path = PathBuf::from(path);
        let readable = if variable == "SSL_CERT_FILE" {
            std::fs::read(&path).map(drop)
        } else {
            std::env::split_paths(&path).try_for_each(|directory| std::fs::read_dir(directory).map(drop))
        };
        match readable {
            Ok(()) => TlsError::EmptyRoots { variable, path },
            Err(source) => TlsError::UnreadableRoots { variable, path, source },
        }
    })
}

fn client_auth(result: Result<ClientConfig, rustls::Error>) -> Result<ClientConfig, TlsError> {
    result.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Pair,
        _ => TlsError::Client,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::KeyPair;

    use super::*;

    fn issued(name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn pem_that_cannot_be_used_is_named_without_its_lines() {
        let ((chain, key), (_, other)) = (issued("a"), issued("b"));
        let client = |chain: &str, key: &str| ClientCertificate::from_pem(chain.as_bytes(), key.as_bytes());
        let pair =
            |key: &str| Tls { roots: Some(Vec::new()), client: Some(client(&chain, key).unwrap()), ..Tls::default() };
        assert!(pair(&key).client_config().is_ok());
        assert!(matches!(pair(&other).client_config(), Err(TlsError::Pair)));
        assert!(!format!("{:?}", pair(&key)).contains("key"), "{:?}", pair(&key));

        let cut = key.replace("-----END", "canary");
        for (chain, key, expected) in [
            (chain.as_str(), "", PemError::Key),
            (&chain, "-----BEGIN canary", PemError::Key),
            (&chain, &cut, PemError::Key),
            ("", &key, PemError::Certificates),
            (&key, &key, PemError::Certificates),
        ] {
            assert_eq!(client(chain, key).err(), Some(expected));
        }
        let broken = vec![CertificateDer::from(b"canary".to_vec())];
        let error = Tls { roots: Some(broken), ..Tls::default() }.client_config().unwrap_err();
        assert!(matches!(error, TlsError::Root(_)), "{error}");
    }

    #[test]
    fn a_certificate_is_for_a_name_without_its_final_dot_or_for_an_address() {
        let name = |name: &str| server_name(&UrlHost::Name(name.into()));
        assert_eq!(name("h.example."), name("h.example"));
        assert!(name("h.example").is_some());
        assert_eq!(name("h..example"), None);
        assert_eq!(server_name(&UrlHost::Address([10, 0, 0, 1].into())).unwrap().to_str(), "10.0.0.1");
    }
}
