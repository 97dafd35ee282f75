//! TLS to a collector, for each of the two HTTP stacks.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::settings::OtlpTls;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// # Errors
/// The certificates cannot be used: a key that does not belong to its certificate, for one.
pub(super) fn for_http2(tls: &OtlpTls) -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &tls.roots {
        Some(roots) => {
            let mut store = RootCertStore::empty();
            for root in roots {
                store.add(der(root))?;
            }
            builder.with_root_certificates(store)
        }
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier::new(provider)?)),
    };
    let mut config = match &tls.client {
        Some(client) => {
            let key = PrivateKeyDer::try_from(client.private_key().der().to_vec());
            let key = key.map_err(|error| rustls::Error::General(error.to_owned()))?;
            builder.with_client_auth_cert(client.certs().iter().map(der).collect(), key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// # Errors
/// As above. ureq would find out at the first export.
pub(super) fn for_http1(tls: &OtlpTls) -> Result<TlsConfig, rustls::Error> {
    if tls.roots.is_some() || tls.client.is_some() {
        for_http2(tls)?;
    }
    let roots = tls.roots.as_ref().map_or(RootCerts::PlatformVerifier, |roots| RootCerts::new_with_certs(roots));
    let config = TlsConfig::builder().root_certs(roots).client_cert(tls.client.clone());
    Ok(config.unversioned_rustls_crypto_provider(provider()).build())
}

fn der(certificate: &Certificate<'static>) -> CertificateDer<'static> {
    certificate.der().to_vec().into()
}
