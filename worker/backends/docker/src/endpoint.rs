//! Where the engine is, found as the docker client finds it: `DOCKER_HOST`, a context, the default sockets.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use oz_worker_net::tls::{ClientCertificate, PemError, Tls, certificates};
use oz_worker_runtime::Files;
use oz_worker_text::line::quoted;
use serde::Deserialize;

use super::credentials::AuthFile;
use super::place::{DEFAULT_SOCKET, HostFlaw, Place};

/// The largest file of the docker client's that is read. Real ones have a few KiB.
const LARGEST_FILE: u64 = 1 << 20;
/// The most contexts that are looked through.
const MOST_CONTEXTS: usize = 1000;

/// Where the engine is, and who said so.
#[derive(Debug)]
pub struct Endpoint {
    pub place: Place,
    pub origin: Origin,
}

/// Who said where the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `DOCKER_HOST`.
    Variable,
    /// The docker client's context of this name.
    Context(String),
    /// Nobody.
    Default,
}

/// Why it is not known where the engine is. An error here is never answered with the default socket: that could be another
/// engine than the one that is meant.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("{origin}: {} is not where an engine can be: {flaw}", quoted(.text))]
    Host { origin: Origin, text: String, flaw: HostFlaw },
    #[error("there is no docker context {}; docker context ls lists those that there are, and DOCKER_HOST needs none", quoted(.0))]
    NoContext(String),
    #[error("the docker context {} has no engine", quoted(.0))]
    NoEngine(String),
    #[error(
        "{origin} wants TLS without a look at the certificate, which this worker never does: \
         give it the authority's certificate ({}) and set DOCKER_TLS_VERIFY=1",
        .ca.display()
    )]
    Unverified { origin: Origin, ca: PathBuf },
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} is not the JSON that the docker client writes", .0.display())]
    Json(PathBuf),
    #[error("{} {source}", path.display())]
    Pem { path: PathBuf, source: PemError },
    #[error("{} is there, and {} is not: both are needed", there.display(), missing.display())]
    HalfPair { there: PathBuf, missing: PathBuf },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable => f.write_str("DOCKER_HOST"),
            Self::Context(name) => write!(f, "the docker context {}", quoted(name)),
            Self::Default => f.write_str("the default"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)?;
        match &self.origin {
            Origin::Default => Ok(()),
            origin => write!(f, " ({origin})"),
        }
    }
}

/// The folder of the docker client's own files.
pub fn config_dir(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")))
}

/// The docker client's own file, or none when there is none.
///
/// # Errors
/// When it is there and cannot be used. Blocks.
pub fn auth_file(dir: Option<&Path>, files: &impl Files) -> Result<Option<AuthFile>, EndpointError> {
    let Some(path) = dir.map(|dir| dir.join("config.json")) else { return Ok(None) };
    let Some(json) = read(files, &path)? else { return Ok(None) };
    AuthFile::parse(&json).map(Some).map_err(|_| EndpointError::Json(path))
}

/// Finds the engine. Blocks.
///
/// # Errors
/// [`EndpointError`].
pub fn find(env: &dyn Fn(&str) -> Option<String>, files: &impl Files) -> Result<Endpoint, EndpointError> {
    let set = |name| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let dir = config_dir(env);
    if let Some(host) = set("DOCKER_HOST") {
        let is_verified = set("DOCKER_TLS_VERIFY").is_some();
        let certs = set("DOCKER_CERT_PATH").map(PathBuf::from).or_else(|| dir.clone());
        let origin = Origin::Variable;
        let place = Place::parse(&host, is_verified).map_err(|flaw| wrong(&origin, &host, flaw))?;
        let place = match place {
            Place::Url(mut place) => {
                if set("DOCKER_TLS").is_some() && !is_verified {
                    let ca = certs.unwrap_or_default().join("ca.pem");
                    return Err(EndpointError::Unverified { origin, ca });
                }
                if let Some(certs) = certs.filter(|_| place.0.is_secure()) {
                    place.1 = read_tls(files, &certs)?;
                }
                Place::Url(place)
            }
            place => place,
        };
        return Ok(Endpoint { place, origin });
    }
    let context = match set("DOCKER_CONTEXT") {
        Some(context) => Some(context),
        None => auth_file(dir.as_deref(), files)?.map(|file| file.current_context),
    };
    match context.filter(|context| !matches!(context.as_str(), "" | "default")) {
        Some(context) => of_context(files, &dir.unwrap_or_default().join("contexts"), context),
        None => {
            Ok(Endpoint { place: Place::Unix(default_socket(files, set("XDG_RUNTIME_DIR"))), origin: Origin::Default })
        }
    }
}

/// The engine's socket of the whole machine, else that of a rootless engine of this user.
fn default_socket(files: &impl Files, runtime_dir: Option<String>) -> PathBuf {
    let rootless = runtime_dir.map(|dir| Path::new(&dir).join("docker.sock"));
    let system = PathBuf::from(DEFAULT_SOCKET);
    let is_there = |path: &PathBuf| files.named(path).is_ok();
    if is_there(&system) { system } else { rootless.filter(is_there).unwrap_or(system) }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    name: String,
    #[serde(default)]
    endpoints: MetaEndpoints,
}

#[derive(Deserialize, Default)]
struct MetaEndpoints {
    docker: Option<MetaEndpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetaEndpoint {
    #[serde(default)]
    host: String,
    #[serde(default, rename = "SkipTLSVerify")]
    skip_tls_verify: bool,
}

/// The engine of a context. Its folder is named after a hash; its file says which it is.
fn of_context(files: &impl Files, contexts: &Path, name: String) -> Result<Endpoint, EndpointError> {
    let all = contexts.join("meta");
    let ids = files.names(&all).unwrap_or_default();
    let found = ids.into_iter().take(MOST_CONTEXTS).find_map(|id| {
        let json = read(files, &all.join(&id).join("meta.json")).ok().flatten()?;
        let meta: Meta = serde_json::from_slice(&json).ok()?;
        (meta.name == name).then_some((id, meta))
    });
    let Some((id, meta)) = found else { return Err(EndpointError::NoContext(name)) };
    let Some(engine) = meta.endpoints.docker.filter(|engine| !engine.host.is_empty()) else {
        return Err(EndpointError::NoEngine(name));
    };
    let certs = contexts.join("tls").join(id).join("docker");
    let has_certs = files.names(&certs).is_ok_and(|names| !names.is_empty());
    let origin = Origin::Context(name);
    let place = Place::parse(&engine.host, has_certs).map_err(|flaw| wrong(&origin, &engine.host, flaw))?;
    let place = match place {
        Place::Url(place) if place.0.is_secure() && engine.skip_tls_verify => {
            return Err(EndpointError::Unverified { origin, ca: certs.join("ca.pem") });
        }
        Place::Url(mut place) if place.0.is_secure() => {
            place.1 = read_tls(files, &certs)?;
            Place::Url(place)
        }
        place => place,
    };
    Ok(Endpoint { place, origin })
}

fn wrong(origin: &Origin, text: &str, flaw: HostFlaw) -> EndpointError {
    // A password may stand before the host.
    let text = text.rsplit_once('@').map_or(text.to_owned(), |(_, host)| format!("…@{host}"));
    EndpointError::Host { origin: origin.clone(), text, flaw }
}

/// What a folder of the docker client's says of TLS: whom to trust, and who the client is.
fn read_tls(files: &impl Files, dir: &Path) -> Result<Tls, EndpointError> {
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.join(name));
    let pem = |path: &Path, source| EndpointError::Pem { path: path.to_owned(), source };
    let roots = read(files, &ca)?.map(|text| certificates(&text).map_err(|source| pem(&ca, source))).transpose()?;
    let client = match (read(files, &cert)?, read(files, &key)?) {
        (Some(chain), Some(secret)) => {
            let at = |source| pem(if source == PemError::Key { &key } else { &cert }, source);
            Some(ClientCertificate::from_pem(&chain, &secret).map_err(at)?)
        }
        (None, None) => None,
        (Some(_), None) => return Err(EndpointError::HalfPair { there: cert, missing: key }),
        (None, Some(_)) => return Err(EndpointError::HalfPair { there: key, missing: cert }),
    };
    Ok(Tls { roots, client, ..Tls::default() })
}

fn read(files: &impl Files, path: &Path) -> Result<Option<Vec<u8>>, EndpointError> {
    files.read(path, LARGEST_FILE).map_err(|source| EndpointError::File { path: path.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use std::fs;

    use oz_worker_host::HostFiles;

    use super::*;

    struct Home(PathBuf);

    impl Home {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("oz-worker-endpoint-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join(".docker")).unwrap();
            Self(path)
        }

        fn put(&self, name: &str, text: &str) {
            let path = self.0.join(".docker").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn find(&self, env: &[(&str, &str)]) -> Result<String, String> {
            let home = self.0.to_str().unwrap();
            let env = |name: &str| {
                let own = (name == "HOME").then(|| home.to_owned());
                own.or_else(|| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
            };
            let found = find(&env, &HostFiles).map(|endpoint| endpoint.to_string());
            found.map_err(|error| error.to_string().replace(home, "HOME"))
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_form_of_docker_host_is_read() {
        let home = Home::new("forms");
        for (host, expected) in [
            ("unix:///run/x.sock", "unix:///run/x.sock"),
            ("unix://", "unix:///var/run/docker.sock"),
            ("tcp://h.example", "http://h.example:2375"),
            ("tcp://h.example:99", "http://h.example:99"),
            ("tcp://[::1]", "http://[::1]:2375"),
            ("tcp://[::1]:99/x", "http://[::1]:99"),
            ("http://h.example:80", "http://h.example:80"),
            ("https://h.example", "https://h.example:2376"),
            ("ssh://me@h.example:22", "ssh://h.example"),
            ("ssh://h.example/", "ssh://h.example"),
            ("ssh://[::1]:22", "ssh://::1"),
        ] {
            assert_eq!(home.find(&[("DOCKER_HOST", host)]), Ok(format!("{expected} (DOCKER_HOST)")), "{host}");
        }
        for host in [
            "h.example:2375",
            "npipe:////./pipe/x",
            "fd://",
            "unix://x",
            "ssh://-oProxyCommand=x",
            "ssh://a b",
            "ssh://h:x",
            "ssh://h/x",
            "tcp://me:canary@h",
            "tcp://",
        ] {
            let error = home.find(&[("DOCKER_HOST", host)]).unwrap_err();
            assert!(error.starts_with("DOCKER_HOST: ") && !error.contains("canary"), "{host}: {error}");
        }
    }

    #[test]
    fn a_context_is_used_and_one_that_is_missing_is_never_the_default_socket() {
        let home = Home::new("contexts");
        let meta = |name: &str, host: &str| {
            format!(
                r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{host}","SkipTLSVerify":false}}}}}}"#
            )
        };
        home.put("contexts/meta/aa/meta.json", &meta("one", "tcp://one.example"));
        home.put("contexts/meta/bb/meta.json", &meta("two", "ssh://two.example"));
        home.put("contexts/meta/cc/meta.json", "{");
        home.put("contexts/meta/dd/meta.json", r#"{"Name":"none","Endpoints":{}}"#);
        home.put("config.json", r#"{"currentContext":"one"}"#);
        assert_eq!(home.find(&[]).unwrap(), r#"http://one.example:2375 (the docker context "one")"#);
        assert_eq!(home.find(&[("DOCKER_CONTEXT", "two")]).unwrap(), r#"ssh://two.example (the docker context "two")"#);
        assert_eq!(
            home.find(&[("DOCKER_CONTEXT", "two"), ("DOCKER_HOST", "unix:///x")]).unwrap(),
            "unix:///x (DOCKER_HOST)"
        );
        assert!(home.find(&[("DOCKER_CONTEXT", "default")]).unwrap().starts_with("unix://"));
        let missing = home.find(&[("DOCKER_CONTEXT", "three")]).unwrap_err();
        assert!(missing.starts_with(r#"there is no docker context "three";"#), "{missing}");
        assert_eq!(home.find(&[("DOCKER_CONTEXT", "none")]).unwrap_err(), r#"the docker context "none" has no engine"#);
        home.put("config.json", "{");
        assert_eq!(
            home.find(&[]).unwrap_err(),
            "HOME/.docker/config.json is not the JSON that the docker client writes"
        );
    }

    #[test]
    fn tls_is_never_spoken_without_a_look_at_the_certificate() {
        let home = Home::new("tls");
        let host = ("DOCKER_HOST", "tcp://h.example");
        assert_eq!(home.find(&[host, ("DOCKER_TLS_VERIFY", "1")]).unwrap(), "https://h.example:2376 (DOCKER_HOST)");
        let error = home.find(&[host, ("DOCKER_TLS", "1")]).unwrap_err();
        assert!(error.contains("HOME/.docker/ca.pem") && error.contains("DOCKER_TLS_VERIFY=1"), "{error}");
        home.put("ca.pem", "canary");
        let error = home.find(&[host, ("DOCKER_TLS_VERIFY", "1")]).unwrap_err();
        assert_eq!(error, "HOME/.docker/ca.pem does not hold certificates in PEM form");
        home.put("certs/key.pem", "canary");
        let certs = home.0.join(".docker/certs");
        let error =
            home.find(&[host, ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", certs.to_str().unwrap())]).unwrap_err();
        assert_eq!(
            error,
            "HOME/.docker/certs/key.pem is there, and HOME/.docker/certs/cert.pem is not: both are needed"
        );
    }

    #[test]
    fn a_context_with_certificates_is_spoken_to_with_tls_and_never_unverified() {
        let home = Home::new("context-tls");
        let put = |host: &str, skip: bool| {
            let engine = format!(r#"{{"Host":"{host}","SkipTLSVerify":{skip}}}"#);
            home.put("contexts/meta/aa/meta.json", &format!(r#"{{"Name":"one","Endpoints":{{"docker":{engine}}}}}"#));
            home.find(&[("DOCKER_CONTEXT", "one")])
        };
        let of = |url: &str| Ok(format!(r#"{url} (the docker context "one")"#));
        assert_eq!(put("tcp://one.example", true), of("http://one.example:2375"));
        assert_eq!(put("https://one.example", false), of("https://one.example:2376"));
        home.put("contexts/tls/aa/docker/ca.pem", "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n");
        assert_eq!(put("tcp://one.example", false), of("https://one.example:2376"));
        let error = put("tcp://one.example", true).unwrap_err();
        assert!(error.contains("HOME/.docker/contexts/tls/aa/docker/ca.pem"), "{error}");
        let tls = read_tls(&HostFiles, &home.0.join(".docker/contexts/tls/aa/docker")).unwrap();
        assert_eq!(tls.roots.map(|roots| roots.len()), Some(1));
        home.put("contexts/tls/aa/docker/ca.pem", "canary");
        assert_eq!(
            put("tcp://one.example", false).unwrap_err(),
            "HOME/.docker/contexts/tls/aa/docker/ca.pem does not hold certificates in PEM form"
        );
    }

    #[test]
    fn without_configuration_it_is_the_machines_socket_or_that_of_a_rootless_engine() {
        let home = Home::new("default");
        let runtime = home.0.to_str().unwrap();
        if Path::new(DEFAULT_SOCKET).exists() {
            return;
        }
        assert_eq!(home.find(&[("XDG_RUNTIME_DIR", runtime)]).unwrap(), "unix:///var/run/docker.sock");
        fs::write(home.0.join("docker.sock"), "").unwrap();
        assert_eq!(home.find(&[("XDG_RUNTIME_DIR", runtime)]).unwrap(), format!("unix://{runtime}/docker.sock"));
    }
}
