//! How to reach a cluster, as kubectl reads it: kubeconfigs, merged. Only reading: whoever reads the files is elsewhere.

mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use oz_worker_core::secret::Secret;
use oz_worker_net::proxy::Proxy;
use oz_worker_net::url::{Url, UrlError};
use oz_worker_text::line::quoted;
use oz_worker_text::yaml;

use super::access::{Access, Authority, Credential, Material, Plugin, SCHEMES};
use file::{
    AuthProvider, Cluster, Context, ExecVariable, File, NamedCluster, NamedContext, NamedUser, SecretText, User,
};

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KubeconfigError {
    #[error("{} is no kubeconfig: {flaw}", path.display())]
    Form { path: PathBuf, flaw: String },
    #[error("there is no context {}; there {}", quoted(.name), listed(.known))]
    NoContext { name: String, known: Vec<String> },
    #[error("the kubeconfig has no current-context, and none was chosen; there {}", listed(.0))]
    NoCurrentContext(Vec<String>),
    #[error("context {} names {what} {}, which is not there", quoted(.context), quoted(.name))]
    Missing { context: String, what: &'static str, name: String },
    #[error("cluster {}: its server {flaw}", quoted(.cluster))]
    Server { cluster: String, flaw: UrlError },
    #[error("cluster {}: its proxy-url {flaw}; only HTTP proxies can be used", quoted(.cluster))]
    Proxy { cluster: String, flaw: UrlError },
    #[error("{} is not base64", .0)]
    Base64(&'static str),
    #[error("user {}: auth-provider {} is no longer supported by Kubernetes either; use its exec plugin", quoted(.user), quoted(.provider))]
    AuthProvider { user: String, provider: String },
    #[error("user {}: a client certificate and its key are both needed, and one is missing", quoted(.0))]
    HalfPair(String),
    #[error("user {}: the exec plugin speaks {}; v1 and v1beta1 of client.authentication.k8s.io are understood", quoted(.user), quoted(.version))]
    PluginVersion { user: String, version: String },
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "is none".to_owned(),
        names => format!("are {}", names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")),
    }
}

/// Kubeconfigs, merged: what stands in an earlier one wins, and paths count from the file that they stand in.
#[derive(Debug, Default)]
pub struct Kubeconfig {
    current: Option<String>,
    clusters: BTreeMap<String, Cluster>,
    users: BTreeMap<String, User>,
    contexts: BTreeMap<String, Context>,
}

impl Kubeconfig {
    /// Adds a file, which an earlier one wins over.
    ///
    /// # Errors
    /// [`KubeconfigError::Form`]. No text of the file is in it, which may hold secrets.
    pub fn add(&mut self, path: &Path, text: &[u8]) -> Result<(), KubeconfigError> {
        let form = |flaw: String| KubeconfigError::Form { path: path.to_owned(), flaw };
        let text = std::str::from_utf8(text).map_err(|_| form("it is not UTF-8".into()))?;
        let node = yaml::parse(text).map_err(|_| form("it is not YAML".into()))?;
        let json = node.to_json(text).map_err(|(key, at)| form(format!("{key} is there twice, line {}", at.line)))?;
        if json.is_null() {
            return Ok(());
        }
        // What serde says may repeat a value.
        let file: File = serde_json::from_value(json).map_err(|_| form("a part of it has another form".into()))?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let absolute = |file: &mut Option<PathBuf>| {
            *file = file.take().filter(|file| !file.as_os_str().is_empty()).map(|file| directory.join(file));
        };
        self.current = self.current.take().or(file.current_context.filter(|name| !name.is_empty()));
        for NamedCluster { name, mut cluster } in file.clusters.into_iter().flatten() {
            absolute(&mut cluster.certificate_authority);
            self.clusters.entry(name).or_insert(cluster);
        }
        for NamedUser { name, user } in file.users.into_iter().flatten() {
            let mut user = user.unwrap_or_default();
            for file in [&mut user.token_file, &mut user.client_certificate, &mut user.client_key] {
                absolute(file);
            }
            if let Some(exec) = user.exec.as_mut().filter(|exec| exec.command.contains('/')) {
                exec.command = directory.join(&exec.command).to_string_lossy().into_owned();
            }
            self.users.entry(name).or_insert(user);
        }
        for NamedContext { name, context } in file.contexts.into_iter().flatten() {
            self.contexts.entry(name).or_insert(context);
        }
        Ok(())
    }

    /// Whether nothing at all was in the files.
    pub fn is_empty(&self) -> bool {
        self.contexts.is_empty() && self.clusters.is_empty() && self.current.is_none()
    }

    /// How to reach the cluster of a context, or else of the current one.
    ///
    /// # Errors
    /// [`KubeconfigError`].
    pub fn access(mut self, chosen: Option<&str>) -> Result<Access, KubeconfigError> {
        let known = || self.contexts.keys().cloned().collect::<Vec<_>>();
        let name = chosen.map(str::to_owned).or_else(|| self.current.clone());
        let name = name.ok_or_else(|| KubeconfigError::NoCurrentContext(known()))?;
        let Some(context) = self.contexts.get(&name) else {
            return Err(KubeconfigError::NoContext { known: known(), name });
        };
        let missing =
            |what, missing: &str| KubeconfigError::Missing { context: name.clone(), what, name: missing.to_owned() };
        let cluster = self.clusters.remove(&context.cluster).ok_or_else(|| missing("cluster", &context.cluster))?;
        let user = match context.user.as_deref().filter(|user| !user.is_empty()) {
            Some(user) => self.users.remove(user).ok_or_else(|| missing("user", user))?,
            None => User::default(),
        };
        let user_name = context.user.clone().unwrap_or_default();
        access(&context.cluster, cluster, &user_name, user)
    }
}

fn access(cluster_name: &str, cluster: Cluster, user_name: &str, user: User) -> Result<Access, KubeconfigError> {
    let server = Url::parse(&cluster.server, SCHEMES)
        .map_err(|flaw| KubeconfigError::Server { cluster: cluster_name.to_owned(), flaw })?;
    let proxy = cluster.proxy_url.as_deref().filter(|url| !url.is_empty()).map(Proxy::parse).transpose();
    let proxy = proxy.map_err(|flaw| KubeconfigError::Proxy { cluster: cluster_name.to_owned(), flaw })?;
    let info = cluster_info(&cluster);
    let data = cluster.certificate_authority_data.filter(|data| !data.is_empty());
    let authority = if cluster.insecure_skip_tls_verify == Some(true) {
        Authority::Anybody
    } else if let Some(data) = data {
        Authority::These(Material::Here(decoded("certificate-authority-data", &data)?))
    } else if let Some(path) = cluster.certificate_authority {
        Authority::These(Material::File(path))
    } else {
        Authority::System
    };
    let impersonation = impersonation(&user);
    let pair = (
        material("client-certificate-data", user.client_certificate_data.as_ref(), user.client_certificate.as_ref())?,
        material("client-key-data", user.client_key_data.as_ref(), user.client_key.as_ref())?,
    );
    let client = match pair {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(KubeconfigError::HalfPair(user_name.to_owned())),
    };
    Ok(Access {
        server,
        authority,
        server_name: cluster.tls_server_name.filter(|name| !name.is_empty()),
        proxy,
        credential: credential(user_name, user, info)?,
        client,
        impersonation,
    })
}

fn credential(name: &str, user: User, cluster: serde_json::Value) -> Result<Credential, KubeconfigError> {
    if let Some(AuthProvider { name: provider }) = user.auth_provider {
        return Err(KubeconfigError::AuthProvider { user: name.to_owned(), provider });
    }
    if let Some(path) = user.token_file {
        return Ok(Credential::TokenFile(path));
    }
    if let Some(SecretText(token)) = user.token.filter(|token| !token.is_empty()) {
        return Ok(Credential::Token(token));
    }
    if let (Some(SecretText(user)), password) = (user.username.filter(|user| !user.is_empty()), user.password) {
        let password = password.map_or_else(|| Secret::from(""), |SecretText(password)| password);
        return Ok(Credential::Basic { user, password });
    }
    let Some(exec) = user.exec else { return Ok(Credential::Nothing) };
    let version = exec.api_version.strip_prefix("client.authentication.k8s.io/");
    if !matches!(version, Some("v1" | "v1beta1")) {
        return Err(KubeconfigError::PluginVersion { user: name.to_owned(), version: exec.api_version });
    }
    let env = exec.env.into_iter().flatten().map(|ExecVariable { name, value: SecretText(value) }| (name, value));
    Ok(Credential::Plugin(Box::new(Plugin {
        command: exec.command,
        args: exec.args.unwrap_or_default(),
        env: env.collect(),
        api_version: exec.api_version,
        cluster: exec.provide_cluster_info.then_some(cluster),
    })))
}

/// What a plugin may be told about the cluster.
fn cluster_info(cluster: &Cluster) -> serde_json::Value {
    let mut info = serde_json::json!({"server": cluster.server});
    if let Some(map) = info.as_object_mut() {
        let texts = [
            ("tls-server-name", &cluster.tls_server_name),
            ("certificate-authority-data", &cluster.certificate_authority_data),
            ("proxy-url", &cluster.proxy_url),
        ];
        map.extend(texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text.clone()?.into()))));
        if cluster.insecure_skip_tls_verify == Some(true) {
            map.insert("insecure-skip-tls-verify".into(), true.into());
        }
    }
    info
}

fn impersonation(user: &User) -> Vec<(String, String)> {
    let header = |name: &str, value: &String| (name.to_owned(), value.clone());
    let mut headers: Vec<_> = user.act_as.iter().map(|user| header("Impersonate-User", user)).collect();
    headers.extend(user.as_uid.iter().map(|uid| header("Impersonate-Uid", uid)));
    headers.extend(user.as_groups.iter().flatten().map(|group| header("Impersonate-Group", group)));
    for (key, values) in user.as_user_extra.iter().flatten() {
        let key = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC);
        headers.extend(values.iter().map(|value| (format!("Impersonate-Extra-{key}"), value.clone())));
    }
    headers.retain(|(_, value)| !value.is_empty());
    headers
}

/// What stands in the kubeconfig itself wins over a file.
fn material(
    what: &'static str,
    data: Option<&SecretText>,
    path: Option<&PathBuf>,
) -> Result<Option<Material>, KubeconfigError> {
    match data.filter(|data| !data.is_empty()) {
        Some(SecretText(data)) => decoded(what, data.expose()).map(Material::Here).map(Some),
        None => Ok(path.cloned().map(Material::File)),
    }
}

fn decoded(what: &'static str, text: &str) -> Result<Vec<u8>, KubeconfigError> {
    let text: String = text.split_ascii_whitespace().collect();
    BASE64.decode(text.as_bytes()).map_err(|_| KubeconfigError::Base64(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "
apiVersion: v1
kind: Config
current-context: a
clusters:
- name: one
  cluster: {server: 'https://[fd00::1]:6443/base', certificate-authority: pki/ca.crt, tls-server-name: kubernetes}
contexts:
- {name: a, context: {cluster: one, user: file}}
- {name: b, context: {cluster: two, user: plugin}}
- {name: c, context: {cluster: nowhere, user: file}}
users:
- name: file
  user: {tokenFile: t, token: canary, as: me, as-groups: [g, h], as-user-extra: {a/b: [x]}}
";
    const TWO: &str = "
current-context: z
clusters:
- {name: one, cluster: {server: 'https://other'}}
- name: two
  cluster: {server: 'https://two', insecure-skip-tls-verify: true, proxy-url: 'http://p:3128', certificate-authority-data: YQ==}
users:
- name: plugin
  user:
    client-certificate-data: YQ==
    client-key: key.pem
    exec: {apiVersion: client.authentication.k8s.io/v1, command: ./bin/p, args: [x], env: [{name: A, value: canary}], interactiveMode: Never, provideClusterInfo: true}
";

    fn merged(files: &[(&str, &str)]) -> Kubeconfig {
        let mut merged = Kubeconfig::default();
        for (path, text) in files {
            assert_eq!(merged.add(Path::new(path), text.as_bytes()), Ok(()));
        }
        merged
    }

    fn both() -> Kubeconfig {
        merged(&[("/one/config", ONE), ("/empty", "# nothing\n"), ("/two/config", TWO)])
    }

    #[test]
    fn files_are_merged_and_paths_count_from_their_own() {
        let access = both().access(None).expect("context a");
        assert_eq!(access.server.authority().as_str(), "[fd00::1]:6443");
        assert_eq!(access.server.path_and_query().path(), "/base");
        assert_eq!(access.authority, Authority::These(Material::File("/one/pki/ca.crt".into())));
        assert_eq!(access.server_name.as_deref(), Some("kubernetes"));
        assert_eq!(access.credential, Credential::TokenFile("/one/t".into()));
        let headers: Vec<_> = access.impersonation.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = "Impersonate-User=me Impersonate-Group=g Impersonate-Group=h Impersonate-Extra-a%2Fb=x";
        assert_eq!(headers.join(" "), expected);

        let access = both().access(Some("b")).expect("context b");
        assert_eq!(access.authority, Authority::Anybody);
        assert_eq!(access.proxy.as_ref().map(ToString::to_string), Some("p:3128".into()));
        assert_eq!(access.client, Some((Material::Here(b"a".to_vec()), Material::File("/two/key.pem".into()))));
        assert!(!format!("{access:?}").contains("canary"));
        let Credential::Plugin(plugin) = access.credential else { panic!("no plugin") };
        assert_eq!((plugin.command.as_str(), plugin.args.as_slice()), ("/two/./bin/p", &["x".to_owned()][..]));
        let told = serde_json::json!({
            "server": "https://two", "insecure-skip-tls-verify": true, "proxy-url": "http://p:3128",
            "certificate-authority-data": "YQ=="
        });
        assert_eq!(plugin.cluster, Some(told));
    }

    #[test]
    fn authorities_are_those_of_the_data_then_of_the_file_then_of_the_system() {
        let authority = |more: &str| {
            let text = format!(
                "{{current-context: a, clusters: [{{name: k, cluster: {{server: 'https://h'{more}}}}}], \
                 contexts: [{{name: a, context: {{cluster: k, user: ''}}}}]}}"
            );
            let access = merged(&[("/d/k", &text)]).access(None).expect("an access");
            (access.authority, access.credential)
        };
        let these = |material| (Authority::These(material), Credential::Nothing);
        let data = ", certificate-authority-data: YQ==, certificate-authority: ca";
        assert_eq!(authority(data), these(Material::Here(b"a".to_vec())));
        let file = ", certificate-authority-data: '', certificate-authority: ca, insecure-skip-tls-verify: false";
        assert_eq!(authority(file), these(Material::File("/d/ca".into())));
        assert_eq!(authority(", certificate-authority: ''"), (Authority::System, Credential::Nothing));
        assert_eq!(authority(&format!("{data}, insecure-skip-tls-verify: true")).0, Authority::Anybody);
    }

    #[test]
    fn files_say_nothing_when_they_name_neither_context_nor_cluster() {
        assert!(merged(&[("/k", "{users: [{name: u}]}"), ("/e", "")]).is_empty());
        for text in [
            "{current-context: a}",
            "{contexts: [{name: a, context: {cluster: k}}]}",
            "{clusters: [{name: k, cluster: {server: 'https://h'}}]}",
        ] {
            assert!(!merged(&[("/k", text)]).is_empty(), "{text}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_without_a_secret() {
        let known = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let error = both().access(Some("x")).expect_err("no context");
        assert_eq!(error, KubeconfigError::NoContext { name: "x".into(), known });
        assert_eq!(error.to_string(), "there is no context \"x\"; there are \"a\", \"b\", \"c\"");
        let none = Kubeconfig::default().access(None).expect_err("nothing").to_string();
        assert_eq!(none, "the kubeconfig has no current-context, and none was chosen; there is none");
        let error = both().access(Some("c")).expect_err("no cluster");
        assert_eq!(error.to_string(), "context \"c\" names cluster \"nowhere\", which is not there");
        let user = |user: &str| {
            let text = format!(
                "{{current-context: a, clusters: [{{name: k, cluster: {{server: 'https://h'}}}}], \
                 contexts: [{{name: a, context: {{cluster: k, user: u}}}}], users: [{{name: u, user: {user}}}]}}"
            );
            merged(&[("/k", &text)]).access(None)
        };
        for (text, says) in [
            ("{auth-provider: {name: gcp}}", "auth-provider \"gcp\""),
            ("{client-certificate: c}", "one is missing"),
            ("{client-certificate-data: canary!, client-key: k}", "client-certificate-data is not base64"),
            ("{exec: {command: p, apiVersion: client.authentication.k8s.io/v1alpha1}}", "v1alpha1"),
        ] {
            let error = user(text).expect_err(text).to_string();
            assert!(error.contains(says) && !error.contains("canary"), "{error}");
        }
        let basic = Credential::Basic { user: "u".into(), password: "p".into() };
        assert_eq!(user("{username: u, password: p}").expect("basic").credential, basic);
        assert_eq!(user("{token: t}").expect("a token").credential, Credential::Token("t".into()));
        assert_eq!(user("{token: '', username: ''}").expect("nothing").credential, Credential::Nothing);
        for text in ["a: [", "users: canary", "\u{0}"] {
            let error = Kubeconfig::default().add(Path::new("/k"), text.as_bytes()).expect_err(text);
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
