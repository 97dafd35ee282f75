//! What is wrong with a certificate or a handshake, as facts and in words that help.

use std::fmt;
use std::io;

use oz_worker_text::line;
use rustls::{AlertDescription, CertificateError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFlaw {
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It is for other names: these.
    OtherName(String),
    /// Nobody who is trusted issued it.
    UnknownIssuer,
    /// It is an authority's own, and stands where a server's should.
    Authority,
    /// It was taken back.
    Revoked,
    /// It may not be used for this.
    Purpose,
    /// Its signature is wrong, or of a kind that is not accepted.
    Signature,
    /// It cannot be read.
    Encoding,
    /// Anything else.
    Other,
}

/// Why a TLS handshake, or a connection inside TLS, failed.
#[derive(Debug)]
pub enum TlsFault {
    /// The other side's certificate is no good.
    Certificate(CertificateFlaw),
    /// The other side gave up, and says why.
    Alert(AlertDescription),
    /// The other side does not speak TLS.
    NotTls,
    /// There is no version or cipher that both sides accept.
    Incompatible,
    /// The other side broke the protocol.
    Misbehaved,
    /// The connection broke.
    Io(io::Error),
}

impl From<&CertificateError> for CertificateFlaw {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::NotValidForName => Self::OtherName(String::new()),
            CertificateError::NotValidForNameContext { presented, .. } => Self::OtherName(presented.join(", ")),
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::Purpose,
            CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::Signature,
            CertificateError::BadEncoding => Self::Encoding,
            CertificateError::Other(other) => match other.0.downcast_ref() {
                Some(webpki::Error::CaUsedAsEndEntity) => Self::Authority,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

impl fmt::Display for CertificateFlaw {
    /// Goes on where a sentence about the certificate stops.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "has expired",
            Self::NotYetValid => "is not valid yet: is the clock of this machine right?",
            Self::OtherName(names) if names.is_empty() => "is for another name",
            // From outside: anybody's words.
            Self::OtherName(names) => return write!(f, "is for another name: {}", line::beginning(names, 200)),
            Self::UnknownIssuer => {
                "has an unknown issuer: if its authority is your own, it must be among those that are trusted"
            }
            Self::Authority => {
                "is an authority's own (CA:TRUE), which must not stand for a server: give the server a certificate that the \
                 authority issued"
            }
            Self::Revoked => "was revoked",
            Self::Purpose => "may not be used for this (extended key usage)",
            Self::Signature => "has a signature that is wrong or of a kind that is not accepted",
            Self::Encoding => "cannot be read",
            Self::Other => "cannot be used",
        })
    }
}

impl TlsFault {
    /// Whether a certificate of either side is what the other does not take.
    pub const fn is_about_certificates(&self) -> bool {
        use AlertDescription::{
            BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown, UnknownCA,
            UnsupportedCertificate,
        };
        matches!(
            self,
            Self::Certificate(_)
                | Self::Alert(
                    BadCertificate
                        | CertificateExpired
                        | CertificateRequired
                        | CertificateRevoked
                        | CertificateUnknown
                        | UnknownCA
                        | UnsupportedCertificate
                )
        )
    }
}

impl From<&rustls::Error> for TlsFault {
    fn from(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::Certificate(error.into()),
            rustls::Error::AlertReceived(alert) => Self::Alert(*alert),
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::PeerIncompatible(_) => Self::Incompatible,
            _ => Self::Misbehaved,
        }
    }
}

impl From<&io::Error> for TlsFault {
    /// rustls's own errors come inside those of the stream. Of the others the operating system's word is kept.
    fn from(error: &io::Error) -> Self {
        let inside = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).map(Self::from);
        let plain = || error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
        inside.unwrap_or_else(|| Self::Io(plain()))
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(flaw) => write!(f, "its certificate {flaw}"),
            Self::Alert(AlertDescription::CertificateRequired) => f.write_str("it asks for a client certificate"),
            Self::Alert(
                alert @ (AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown),
            ) => write!(f, "it does not accept the client certificate ({alert:?})"),
            Self::Alert(alert) => write!(f, "it gave up ({alert:?})"),
            Self::NotTls => f.write_str("it does not speak TLS: are scheme and port right?"),
            Self::Incompatible => f.write_str("it accepts no version or cipher of TLS that the worker knows"),
            Self::Misbehaved => f.write_str("it broke the protocol of TLS"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TlsFault {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::error::Error;
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use rustls::client::ClientConfig;
    use rustls::crypto::ring;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::server::ServerConfig;
    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::tls::{Tls, certificates};

    /// A certificate for these names, as PEM, and its key.
    struct Issued {
        certificate: rcgen::Certificate,
        key: KeyPair,
    }

    fn issued(names: &[&str], change: impl FnOnce(&mut CertificateParams), by: Option<&Issuer<'_, KeyPair>>) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = match by {
            Some(issuer) => params.signed_by(&key, issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        Issued { certificate, key }
    }

    fn authority_params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn authority(name: &str) -> (Issuer<'static, KeyPair>, Vec<CertificateDer<'static>>) {
        let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
        let pem = params.self_signed(&key).unwrap().pem();
        (Issuer::new(params, key), certificates(pem.as_bytes()).unwrap())
    }

    /// What a client makes of a server with this certificate.
    fn handshake(config: ClientConfig, server: &Issued) -> Result<(), rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::from_pem_slice(server.key.serialize_pem().as_bytes()).unwrap();
        let server_config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![server.certificate.der().clone()], key)
            .unwrap();
        let name = ServerName::try_from("oz.example").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server_config)).unwrap();
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            let _ = server.process_new_packets();
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_bad_certificate_says_what_is_wrong_with_it() {
        let (issuer, roots) = authority("Trusted");
        let (foreign, _) = authority("Foreign");
        let good = issued(&["oz.example"], |_| {}, Some(&issuer));
        let tls = |roots: &Vec<_>| Tls { roots: Some(roots.clone()), ..Tls::default() }.client_config().unwrap();
        assert!(handshake(tls(&roots), &good).is_ok());

        let past = |params: &mut CertificateParams| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        };
        let future = |params: &mut CertificateParams| {
            params.not_before = rcgen::date_time_ymd(2200, 1, 1);
            params.not_after = rcgen::date_time_ymd(2201, 1, 1);
        };
        let own = issued(&["oz.example"], |params| params.is_ca = authority_params("").is_ca, None);
        let own_roots = vec![own.certificate.der().clone()];
        for (server, roots, words) in [
            (issued(&["oz.example"], past, Some(&issuer)), &roots, "has expired"),
            (issued(&["oz.example"], future, Some(&issuer)), &roots, "is not valid yet"),
            (issued(&["else.example"], |_| {}, Some(&issuer)), &roots, "else.example"),
            (issued(&["oz.example"], |_| {}, Some(&foreign)), &roots, "unknown issuer"),
            (own, &own_roots, "CA:TRUE"),
        ] {
            let fault = TlsFault::from(&handshake(tls(roots), &server).unwrap_err()).to_string();
            assert!(fault.starts_with("its certificate ") && fault.contains(words), "{fault}");
        }
    }

    #[test]
    fn a_fault_inside_an_io_error_is_seen() {
        let wrapped = io::Error::new(
            io::ErrorKind::InvalidData,
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
        );
        let fault = TlsFault::from(&wrapped);
        assert!(matches!(fault, TlsFault::NotTls) && fault.source().is_none(), "{fault}");
        assert!(matches!(TlsFault::from(&io::Error::from(io::ErrorKind::UnexpectedEof)), TlsFault::Io(_)));
    }
}
