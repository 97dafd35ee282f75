//! The certificates of OTLP: whom to trust, and who the worker is.

use std::fmt;
use std::fs;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, parse_pem};

use crate::settings::problem::VariableProblem;
use crate::settings::reader::Reader;
use crate::signal::OtelSignal;

/// Whom to trust, and who the worker is. As the operating system has it and nobody in particular, by default.
#[derive(Default)]
pub(crate) struct OtlpTls {
    /// Trusted instead of the operating system's.
    pub(crate) roots: Option<Vec<Certificate<'static>>>,
    /// The worker's own certificate, with those that lead to its issuer, and its key.
    pub(crate) client: Option<ClientCert>,
}

impl fmt::Debug for OtlpTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = self.roots.as_ref().map(Vec::len);
        f.debug_struct("OtlpTls").field("roots", &roots).field("client", &self.client.is_some()).finish()
    }
}

impl Reader<'_> {
    /// `None` when a file that is named cannot be used: to push without it could tell the wrong one, or the right one who
    /// then wonders who that is.
    pub(super) fn tls(&mut self, signal: OtelSignal) -> Option<OtlpTls> {
        let roots = self.first(&signal.variables("CERTIFICATE"));
        let chain = self.first(&signal.variables("CLIENT_CERTIFICATE"));
        let key = self.first(&signal.variables("CLIENT_KEY"));
        let client = match (chain, key) {
            (None, None) => None,
            (Some(chain), Some(key)) => {
                let chain = self.certificates(signal, chain)?;
                Some(ClientCert::new_with_certs(&chain, self.key(signal, key)?))
            }
            (Some((variable, _)), None) => {
                return self.no_tls(VariableProblem::OneOfTwo { signal, variable, other: "CLIENT_KEY" });
            }
            (None, Some((variable, _))) => {
                return self.no_tls(VariableProblem::OneOfTwo { signal, variable, other: "CLIENT_CERTIFICATE" });
            }
        };
        let roots = match roots {
            Some(roots) => Some(self.certificates(signal, roots)?),
            None => None,
        };
        Some(OtlpTls { roots, client })
    }

    fn certificates(&mut self, signal: OtelSignal, set: (String, String)) -> Option<Vec<Certificate<'static>>> {
        let (pem, variable, path) = self.file(signal, set)?;
        let certificate = |item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
        let certificates: Result<Vec<_>, _> = parse_pem(&pem).filter_map(certificate).collect();
        certificates
            .ok()
            .filter(|certificates| !certificates.is_empty())
            .or_else(|| self.no_tls(VariableProblem::NotPem { signal, variable, path, what: "certificates" }))
    }

    fn key(&mut self, signal: OtelSignal, set: (String, String)) -> Option<PrivateKey<'static>> {
        let (pem, variable, path) = self.file(signal, set)?;
        let key = PrivateKey::from_pem(&pem).ok();
        key.or_else(|| self.no_tls(VariableProblem::NotPem { signal, variable, path, what: "a private key" }))
    }

    /// What is in the file, with the variable that names it and its path.
    fn file(&mut self, signal: OtelSignal, (variable, path): (String, String)) -> Option<(Vec<u8>, String, String)> {
        match fs::read(&path) {
            Ok(bytes) => Some((bytes, variable, path)),
            Err(source) => self.no_tls(VariableProblem::NotAFile { signal, variable, path, source }),
        }
    }

    fn no_tls<T>(&mut self, problem: VariableProblem) -> Option<T> {
        self.problems.push(problem);
        None
    }
}
