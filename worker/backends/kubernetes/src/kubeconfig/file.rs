//! What may stand in a kubeconfig, as far as it is understood.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oz_worker_core::secret::Secret;
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct File {
    pub current_context: Option<String>,
    pub clusters: Option<Vec<NamedCluster>>,
    pub users: Option<Vec<NamedUser>>,
    pub contexts: Option<Vec<NamedContext>>,
}

#[derive(Debug, Deserialize)]
pub struct NamedCluster {
    pub name: String,
    #[serde(default)]
    pub cluster: Cluster,
}

#[derive(Debug, Deserialize)]
pub struct NamedUser {
    pub name: String,
    #[serde(default)]
    pub user: Option<User>,
}

#[derive(Debug, Deserialize)]
pub struct NamedContext {
    pub name: String,
    #[serde(default)]
    pub context: Context,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Context {
    pub cluster: String,
    pub user: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Cluster {
    pub server: String,
    pub certificate_authority: Option<PathBuf>,
    pub certificate_authority_data: Option<String>,
    pub insecure_skip_tls_verify: Option<bool>,
    pub tls_server_name: Option<String>,
    pub proxy_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct User {
    pub token: Option<SecretText>,
    #[serde(rename = "tokenFile")]
    pub token_file: Option<PathBuf>,
    pub username: Option<SecretText>,
    pub password: Option<SecretText>,
    pub client_certificate: Option<PathBuf>,
    pub client_certificate_data: Option<SecretText>,
    pub client_key: Option<PathBuf>,
    pub client_key_data: Option<SecretText>,
    #[serde(rename = "as")]
    pub act_as: Option<String>,
    pub as_uid: Option<String>,
    pub as_groups: Option<Vec<String>>,
    pub as_user_extra: Option<BTreeMap<String, Vec<String>>>,
    pub exec: Option<Exec>,
    pub auth_provider: Option<AuthProvider>,
}

/// Text that `Debug` does not show.
#[derive(Debug)]
pub struct SecretText(pub Secret);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|text| Self(text.into()))
    }
}

impl SecretText {
    pub fn is_empty(&self) -> bool {
        self.0.expose().is_empty()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    pub command: String,
    #[serde(default)]
    pub args: Option<Vec<String>>,
    #[serde(default)]
    pub env: Option<Vec<ExecVariable>>,
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub provide_cluster_info: bool,
}

#[derive(Debug, Deserialize)]
pub struct ExecVariable {
    pub name: String,
    pub value: SecretText,
}

#[derive(Debug, Deserialize)]
pub struct AuthProvider {
    #[serde(default)]
    pub name: String,
}
