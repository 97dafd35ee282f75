//! How a cluster is reached, and who we are to it; and the place that every Pod has for that.

use std::path::{Path, PathBuf};

use oz_worker_core::secret::Secret;
use oz_worker_net::proxy::Proxy;
use oz_worker_net::url::Url;

/// Where a Pod finds what its service account may show the API server.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What an API server's URL begins with.
pub const SCHEMES: &[&str] = &["https", "http"];

/// A cluster, and who we are to it.
#[derive(Debug)]
pub struct Access {
    pub server: Url,
    pub authority: Authority,
    /// Whom its certificate must be for, when that is not the server's host.
    pub server_name: Option<String>,
    /// Instead of what the variables of the environment say.
    pub proxy: Option<Proxy>,
    pub credential: Credential,
    /// A certificate and its private key.
    pub client: Option<(Material, Material)>,
    /// Who we act as, in headers.
    pub impersonation: Vec<(String, String)>,
}

/// Whom to trust.
#[derive(Debug, PartialEq, Eq)]
pub enum Authority {
    /// The operating system's authorities.
    System,
    These(Material),
    /// Whoever answers.
    Anybody,
}

/// Something in PEM form. `Debug` does not show it.
#[derive(PartialEq, Eq)]
pub enum Material {
    Here(Vec<u8>),
    /// In a file, which may change.
    File(PathBuf),
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(_) => f.write_str("Here(not shown)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// What is shown in `Authorization`.
#[derive(Debug, PartialEq, Eq)]
pub enum Credential {
    Nothing,
    Token(Secret),
    /// In a file, which may change.
    TokenFile(PathBuf),
    Basic {
        user: Secret,
        password: Secret,
    },
    Plugin(Box<Plugin>),
}

/// A program that has credentials (`client.authentication.k8s.io`).
#[derive(Debug, PartialEq, Eq)]
pub struct Plugin {
    /// A path, or a name to be looked for on `PATH`.
    pub command: String,
    pub args: Vec<String>,
    pub env: Vec<(String, Secret)>,
    /// The version that it speaks.
    pub api_version: String,
    /// What it is told about the cluster, if it wants to know.
    pub cluster: Option<serde_json::Value>,
}

/// How a Pod reaches the cluster that it runs in, by what its environment says.
pub fn in_cluster(env: &dyn Fn(&str) -> Option<String>) -> Option<Access> {
    let host = env("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty())?;
    let port = env("KUBERNETES_SERVICE_PORT").filter(|port| !port.is_empty())?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let directory = Path::new(SERVICE_ACCOUNT);
    Some(Access {
        server: Url::parse(&format!("https://{host}:{port}"), SCHEMES).ok()?,
        authority: Authority::These(Material::File(directory.join("ca.crt"))),
        server_name: None,
        proxy: None,
        credential: Credential::TokenFile(directory.join("token")),
        client: None,
        impersonation: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_reaches_its_own_cluster() {
        let env = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some("fd00::1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("443".to_owned()),
            _ => None,
        };
        let access = in_cluster(&env).expect("a Pod");
        assert_eq!(access.server.authority().as_str(), "[fd00::1]:443");
        assert!(in_cluster(&|_| None).is_none());
        let empty =
            |missing: &'static str| move |name: &str| env(name).filter(|_| name != missing).or(Some(String::new()));
        for name in ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"] {
            assert!(in_cluster(&empty(name)).is_none(), "{name} is empty");
        }
    }

    #[test]
    fn of_a_key_only_its_place_is_shown() {
        assert_eq!(format!("{:?}", Material::Here(b"canary".to_vec())), "Here(not shown)");
        assert_eq!(format!("{:?}", Material::File("/key.pem".into())), "File(/key.pem)");
    }
}
