//! The certificates of OTLP: whom to trust, and who the worker is.

use std::fs;

use oz_worker_net::tls::{ClientCertificate, PemError, Tls, certificates};

use crate::settings::problem::VariableProblem;
use crate::settings::reader::Reader;
use crate::signal::OtelSignal;

struct NamedFile {
    variable: String,
    path: String,
    bytes: Vec<u8>,
}

impl Reader<'_> {
    /// `None` when a file that is named cannot be used: to push without it could tell the wrong one, or the right one who
    /// then wonders who that is.
    pub(super) fn tls(&mut self, signal: OtelSignal) -> Option<Tls> {
        let tls = self.read_tls(signal).and_then(|tls| {
            // Now rather than at the first export: who asks what is wrong with the variables shall hear of it.
            tls.client_config().map_err(|source| VariableProblem::Tls { signal, source })?;
            Ok(tls)
        });
        tls.map_err(|problem| self.problems.push(problem)).ok()
    }

    fn read_tls(&self, signal: OtelSignal) -> Result<Tls, VariableProblem> {
        let chain = self.file(signal, "CLIENT_CERTIFICATE");
        let key = self.file(signal, "CLIENT_KEY");
        let one_of_two = |variable, other| Err(VariableProblem::OneOfTwo { signal, variable, other });
        let client = match (chain, key) {
            (None, None) => None,
            (Some(chain), Some(key)) => {
                let (chain, key) = (chain?, key?);
                let client = ClientCertificate::from_pem(&chain.bytes, &key.bytes);
                Some(client.map_err(|source| {
                    let NamedFile { variable, path, .. } = if source == PemError::Key { key } else { chain };
                    VariableProblem::NotPem { signal, variable, path, source }
                })?)
            }
            (Some(chain), None) => return one_of_two(chain?.variable, "CLIENT_KEY"),
            (None, Some(key)) => return one_of_two(key?.variable, "CLIENT_CERTIFICATE"),
        };
        let roots = self.file(signal, "CERTIFICATE").transpose()?.map(|NamedFile { variable, path, bytes }| {
            certificates(&bytes).map_err(|source| VariableProblem::NotPem { signal, variable, path, source })
        });
        Ok(Tls { roots: roots.transpose()?, client, ..Tls::default() })
    }

    /// The file that this option names, when it names one.
    fn file(&self, signal: OtelSignal, option: &str) -> Option<Result<NamedFile, VariableProblem>> {
        let (variable, path) = self.first(&signal.variables(option))?;
        Some(match fs::read(&path) {
            Ok(bytes) => Ok(NamedFile { variable, path, bytes }),
            Err(source) => Err(VariableProblem::NotAFile { signal, variable, path, source }),
        })
    }
}
