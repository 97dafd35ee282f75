//! Whose credentials a pull uses: `DOCKER_AUTH_CONFIG`, and the docker client's own file with its helpers.
//!
//! Pure functions over what was read. A value that is a secret has a type that shows nothing, up to the header that takes it.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL};
use oz_worker_contract::reference::HUB_KEY;
use oz_worker_core::secret::Secret;
use serde::{Deserialize, Serialize};

/// What a helper prints for a registry that it knows nothing of (docker-credential-helpers, `credentials.NewErrCredentialsNotFound`).
const NOT_FOUND: &str = "credentials not found";
/// The user's name that stands for an identity token.
const TOKEN_USER: &str = "<token>";

/// `config.json` of the docker client, as far as pulls and contexts need it; `DOCKER_AUTH_CONFIG` has the same form.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthFile {
    auths: BTreeMap<String, AuthEntry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
    /// The context that is used when no variable names one.
    pub current_context: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    /// User and password, in base64.
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl fmt::Debug for AuthEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthEntry(not shown)")
    }
}

/// The text is not what `config.json` or `DOCKER_AUTH_CONFIG` should hold. It may hold passwords: nothing of it is in here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not the JSON that the docker client writes")]
pub struct AuthFileError;

/// What is shown to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    Password { user: Secret, password: Secret },
    IdentityToken(Secret),
    RegistryToken(Secret),
}

/// Where the credentials for a registry come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Known(Credentials),
    /// The program `docker-credential-<name>` is asked for this server.
    Helper {
        name: String,
        server: String,
    },
    Anonymous,
}

impl AuthFile {
    /// Reads the JSON.
    ///
    /// # Errors
    /// [`AuthFileError`].
    pub fn parse(json: &[u8]) -> Result<Self, AuthFileError> {
        serde_json::from_slice(json).map_err(|_| AuthFileError)
    }

    fn known(&self, registry: &str) -> Option<Credentials> {
        let exact = self.auths.get(registry);
        let same_host = || self.auths.iter().find(|(key, _)| is_same(key, registry)).map(|(_, entry)| entry);
        exact.or_else(same_host).and_then(AuthEntry::credentials)
    }

    fn helper(&self, registry: &str) -> Option<&str> {
        let own = self.cred_helpers.iter().find(|(key, _)| is_same(key, registry)).map(|(_, name)| name.as_str());
        own.or(Some(self.creds_store.as_str())).filter(|name| !name.is_empty())
    }
}

impl AuthEntry {
    fn credentials(&self) -> Option<Credentials> {
        if !self.identitytoken.is_empty() {
            return Some(Credentials::IdentityToken(self.identitytoken.as_str().into()));
        }
        if !self.registrytoken.is_empty() {
            return Some(Credentials::RegistryToken(self.registrytoken.as_str().into()));
        }
        if !self.username.is_empty() {
            return Some(password(&self.username, &self.password));
        }
        let auth = self.auth.trim().as_bytes();
        let pair = BASE64.decode(auth).or_else(|_| BASE64_NOPAD.decode(auth)).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (user, secret) = pair.split_once(':')?;
        // Old clients have padded it so.
        (!user.is_empty()).then(|| password(user, secret.trim_end_matches('\0')))
    }
}

fn password(user: &str, password: &str) -> Credentials {
    if user == TOKEN_USER {
        return Credentials::IdentityToken(password.into());
    }
    Credentials::Password { user: user.into(), password: password.into() }
}

/// Whether a key of a file means the registry with this key: people write a host, an URL, or one of the names of the Hub.
fn is_same(key: &str, registry: &str) -> bool {
    fn host(key: &str) -> &str {
        let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        key.split('/').next().unwrap_or(key)
    }
    let is_hub = |host: &str| matches!(host, "index.docker.io" | "docker.io" | "registry-1.docker.io");
    let (one, other) = (host(key), host(registry));
    one.eq_ignore_ascii_case(other) || (is_hub(one) && is_hub(other))
}

/// Where the credentials for the registry with this key come from: the variable's own, then the file's own, then those of
/// the registry's helper, then those of the helper for all.
pub fn choose(registry: &str, variable: Option<&AuthFile>, file: Option<&AuthFile>) -> Source {
    if let Some(known) = variable.and_then(|auth| auth.known(registry)) {
        return Source::Known(known);
    }
    let Some(file) = file else { return Source::Anonymous };
    if let Some(known) = file.known(registry) {
        return Source::Known(known);
    }
    match file.helper(registry) {
        // The name becomes a part of a program's.
        Some(name) if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) => {
            let server = if is_same(registry, HUB_KEY) { HUB_KEY } else { registry };
            Source::Helper { name: name.to_owned(), server: server.to_owned() }
        }
        _ => Source::Anonymous,
    }
}

/// What a helper answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("gave no credentials")]
pub struct HelperAnswerError;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Reads what a helper printed. None: it knows nothing of the registry, which is then asked without credentials.
///
/// # Errors
/// It is no answer. What it printed may hold a secret and is not shown.
pub fn read_helper(is_success: bool, printed: &[u8]) -> Result<Option<Credentials>, HelperAnswerError> {
    if String::from_utf8_lossy(printed).to_lowercase().contains(NOT_FOUND) {
        return Ok(None);
    }
    if !is_success {
        return Err(HelperAnswerError);
    }
    let answer: HelperAnswer = serde_json::from_slice(printed).map_err(|_| HelperAnswerError)?;
    Ok((!answer.secret.is_empty()).then(|| password(&answer.username, &answer.secret)))
}

/// The value of the header `X-Registry-Auth`.
pub fn header(credentials: &Credentials, registry: &str) -> Secret {
    #[derive(Serialize, Default)]
    struct Auth<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        username: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        identitytoken: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        registrytoken: Option<&'a str>,
        serveraddress: &'a str,
    }
    let mut auth = Auth { serveraddress: registry, ..Auth::default() };
    match credentials {
        Credentials::Password { user, password } => {
            (auth.username, auth.password) = (Some(user.expose()), Some(password.expose()));
        }
        Credentials::IdentityToken(token) => auth.identitytoken = Some(token.expose()),
        Credentials::RegistryToken(token) => auth.registrytoken = Some(token.expose()),
    }
    // Strings only: there is nothing in it that JSON cannot hold.
    BASE64URL.encode(&serde_json::to_vec(&auth).unwrap_or_default()).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use oz_worker_contract::reference::Reference;

    fn file(json: &str) -> AuthFile {
        AuthFile::parse(json.as_bytes()).unwrap()
    }

    fn known(user: &str, secret: &str) -> Source {
        Source::Known(Credentials::Password { user: user.into(), password: secret.into() })
    }

    fn helper(name: &str, server: &str) -> Source {
        Source::Helper { name: name.into(), server: server.into() }
    }

    #[test]
    fn every_name_of_the_hub_uses_its_one_entry() {
        // a:b, as `docker login` writes it.
        let file = file(r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi"}}}"#);
        for image in ["x", "x/y", "docker.io/x/y", "index.docker.io/x/y"] {
            let registry = Reference::parse(image).unwrap();
            assert_eq!(choose(registry.registry(), None, Some(&file)), known("a", "b"), "{image}");
        }
        assert_eq!(choose("h.example", None, Some(&file)), Source::Anonymous);
    }

    #[test]
    fn own_credentials_come_before_helpers_and_the_registrys_helper_before_that_for_all() {
        let all = file(
            r#"{"auths":{"a.example":{"auth":"YTpi"},"https://b.example:5000/v2/":{"username":"u","password":"p"},
                "c.example":{},"t.example":{"identitytoken":"t"}},
                "credHelpers":{"c.example":"own","docker.io":"hub","bad.example":"../x"},"credsStore":"store"}"#,
        );
        let variable = file(r#"{"auths":{"a.example":{"auth":"djp3"}}}"#);
        for (registry, expected) in [
            ("a.example", known("v", "w")),
            ("b.example:5000", known("u", "p")),
            ("c.example", helper("own", "c.example")),
            ("d.example", helper("store", "d.example")),
            (HUB_KEY, helper("hub", HUB_KEY)),
            ("t.example", Source::Known(Credentials::IdentityToken("t".into()))),
            ("bad.example", Source::Anonymous),
        ] {
            assert_eq!(choose(registry, Some(&variable), Some(&all)), expected, "{registry}");
        }
        assert_eq!(choose("a.example", None, Some(&all)), known("a", "b"));
        assert_eq!(choose("a.example", None, None), Source::Anonymous);
    }

    #[test]
    fn what_is_no_base64_is_no_password() {
        for auth in ["", "%", "YQ==", "OmI=", "/w=="] {
            let file = file(&format!(r#"{{"auths":{{"h.example":{{"auth":"{auth}"}}}}}}"#));
            assert_eq!(choose("h.example", None, Some(&file)), Source::Anonymous, "{auth}");
        }
        let padded = file(r#"{"auths":{"h.example":{"auth":"YTpiAAA="}}}"#);
        assert_eq!(choose("h.example", None, Some(&padded)), known("a", "b"));
    }

    #[test]
    fn a_helper_answers_with_credentials_a_token_or_that_it_knows_none() {
        let read = |is_success, text: &str| read_helper(is_success, text.as_bytes());
        let answer = r#"{"ServerURL":"s","Username":"u","Secret":"p"}"#;
        assert_eq!(read(true, answer), Ok(Some(Credentials::Password { user: "u".into(), password: "p".into() })));
        assert_eq!(read(false, answer), Err(HelperAnswerError));
        let token = r#"{"Username":"<token>","Secret":"t"}"#;
        assert_eq!(read(true, token), Ok(Some(Credentials::IdentityToken("t".into()))));
        assert_eq!(read(false, "credentials not found in native keychain\n"), Ok(None));
        assert_eq!(read(true, r#"{"Username":"u","Secret":""}"#), Ok(None));
        for text in ["", "{}", "null", "no"] {
            assert_eq!(read(true, text), Err(HelperAnswerError), "{text}");
        }
    }

    #[test]
    fn a_header_is_json_in_base64_for_urls_and_no_debug_shows_a_secret() {
        let credentials = Credentials::Password { user: "ü?>".into(), password: "canary".into() };
        let value = header(&credentials, "h.example");
        let json = BASE64URL.decode(value.expose().as_bytes()).unwrap();
        assert_eq!(json, r#"{"username":"ü?>","password":"canary","serveraddress":"h.example"}"#.as_bytes());
        let file = file(r#"{"auths":{"h":{"auth":"canary","password":"canary"}}}"#);
        assert!(!format!("{credentials:?} {value:?} {file:?}").contains("canary"));
        assert!(AuthFile::parse(b"{\"auths\": canary").is_err_and(|error| !error.to_string().contains("canary")));
    }
}
