//! Which proxy a connection goes through: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, as other programs read
//! them. Pure functions over the environment.

use std::fmt;
use std::net::IpAddr;

use http::HeaderValue;
use ipnet::IpNet;
use oz_worker_core::secret::Secret;

use crate::payload::secret_value;
use crate::url::{Url, UrlError, UrlHost, UserInfo};

/// What a proxy's URL begins with. Nothing else is spoken to one: not TLS, not SOCKS.
const SCHEMES: &[&str] = &["http"];

#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub host: UrlHost,
    pub port: u16,
    /// Who signs in there, when its URL says so.
    pub user_info: Option<UserInfo>,
    /// The value of `Proxy-Authorization`, made of that.
    pub authorization: Option<Secret>,
}

impl Proxy {
    /// Reads the URL of an HTTP proxy, whose scheme may be left out.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let url = if text.contains("://") {
            Url::parse(text, SCHEMES)
        } else {
            Url::parse(&format!("http://{text}"), SCHEMES)
        }?;
        let user_info = url.user_info().cloned();
        let authorization = user_info.as_ref().map(UserInfo::basic);
        Ok(Self { host: url.host().clone(), port: url.port(), user_info, authorization })
    }

    /// The value of `Proxy-Authorization`, which no `Debug` shows.
    pub(crate) fn authorization_value(&self) -> Option<HeaderValue> {
        self.authorization.as_ref().and_then(secret_value)
    }
}

impl fmt::Display for Proxy {
    /// Host and port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// The value of a variable cannot be used. To go without the proxy could lead where the operator does not want it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is not the URL of an HTTP proxy ({flaw}); write it as http://[USER:PASSWORD@]HOST:PORT")]
pub struct ProxyError {
    /// The name of the variable. Its value may hold a password.
    pub variable: &'static str,
    pub flaw: UrlError,
}

/// The proxy for a connection to `url`, when one is to be used. The scheme's variable wins over `ALL_PROXY`, and upper case
/// over lower case. A host of this machine is always reached directly.
///
/// # Errors
/// When the variable that applies does not hold the URL of an HTTP proxy.
pub fn for_url(env: &dyn Fn(&str) -> Option<String>, url: &Url) -> Result<Option<Proxy>, ProxyError> {
    let own = if url.is_secure() { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let set = first(env, own).or_else(|| first(env, ["ALL_PROXY", "all_proxy"]));
    let Some((variable, value)) = set else { return Ok(None) };
    let exceptions = first(env, ["NO_PROXY", "no_proxy"]).map(|(_, list)| list).unwrap_or_default();
    if is_loopback(url.host()) || is_excepted(&exceptions, url.host(), url.port()) {
        return Ok(None);
    }
    Proxy::parse(value.trim()).map(Some).map_err(|flaw| ProxyError { variable, flaw })
}

/// Whether a host is this machine itself, which no proxy can reach for us.
pub fn is_loopback(host: &UrlHost) -> bool {
    match host {
        UrlHost::Name(name) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        UrlHost::Address(address) => address.to_canonical().is_loopback(),
    }
}

/// The first of these variables that is set, and its value. A blank one is not set.
fn first(env: &dyn Fn(&str) -> Option<String>, names: [&'static str; 2]) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| env(name).filter(|value| !value.trim().is_empty()).map(|value| (name, value)))
}

/// Whether `NO_PROXY` excepts a host: `*`, a name (it and everything below it, with or without a leading dot), an address,
/// a network in CIDR form. A name and an address may carry a port, IPv6 then in brackets.
fn is_excepted(list: &str, host: &UrlHost, port: u16) -> bool {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        let (place, only_port) = split_port(entry);
        let fits = match host {
            UrlHost::Name(name) => is_below(name, place),
            UrlHost::Address(address) => is_within(address.to_canonical(), place),
        };
        fits && only_port.is_none_or(|only| only.parse() == Ok(port))
    })
}

/// An entry without its brackets, and its port as it is written.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    if let Some((address, after)) = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, after.strip_prefix(':'));
    }
    match entry.split_once(':') {
        Some((place, port)) if !port.contains(':') => (place, Some(port)),
        // Several colons are an IPv6 address.
        _ => (entry, None),
    }
}

fn is_below(name: &str, entry: &str) -> bool {
    let entry = entry.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
    let rest = name.trim_end_matches('.').strip_suffix(entry.as_str());
    !entry.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_within(address: IpAddr, entry: &str) -> bool {
    match (entry.parse::<IpNet>(), entry.parse::<IpAddr>()) {
        (Ok(network), _) => network.contains(&address),
        (_, Ok(only)) => only.to_canonical() == address,
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text, &["http", "https", "ws", "wss"]).unwrap()
    }

    fn chosen(env: &[(&str, &str)], text: &str) -> Result<Option<Proxy>, ProxyError> {
        let lookup = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        for_url(&lookup, &url(text))
    }

    fn name(env: &[(&str, &str)], text: &str) -> Option<String> {
        chosen(env, text).unwrap().map(|proxy| proxy.to_string())
    }

    #[test]
    fn the_scheme_chooses_the_variable() {
        let env = [("HTTPS_PROXY", "http://secure:3128"), ("http_proxy", "plain"), ("ALL_PROXY", "http://[fd00::1]")];
        for (text, expected) in [
            ("wss://oz.example", Some("secure:3128")),
            ("https://oz.example", Some("secure:3128")),
            ("ws://oz.example", Some("plain:80")),
            ("http://127.0.0.2", None),
            ("https://localhost:1", None),
            ("https://oz.localhost", None),
            ("https://[::1]", None),
            ("https://[::ffff:127.0.0.1]", None),
        ] {
            assert_eq!(name(&env, text).as_deref(), expected, "{text}");
        }
        let env = [("HTTPS_PROXY", " "), ("HTTP_PROXY", "http://upper"), ("http_proxy", "lower")];
        assert_eq!(name(&env, "wss://h"), None);
        assert_eq!(name(&env, "ws://h").as_deref(), Some("upper:80"));
        let env = [("all_proxy", "all:1"), ("HTTP_PROXY", "http://own:2/")];
        assert_eq!(name(&env, "wss://h").as_deref(), Some("all:1"));
        assert_eq!(name(&env, "ws://h").as_deref(), Some("own:2"));
    }

    #[test]
    fn a_user_becomes_an_authorization() {
        for (text, expected) in [
            ("http://me:p%40ss@proxy:1", Some("Basic bWU6cEBzcw==")),
            ("me:a%23b@proxy:1", Some("Basic bWU6YSNi")),
            ("http://me@proxy:1", Some("Basic bWU6")),
            ("http://proxy:1", None),
        ] {
            let proxy = chosen(&[("HTTPS_PROXY", text)], "wss://h").unwrap().unwrap();
            assert_eq!(proxy.authorization.as_ref().map(Secret::expose), expected, "{text}");
            assert!(!format!("{proxy:?} {proxy}").contains("me"), "{proxy:?}");
        }
    }

    #[test]
    fn what_is_not_an_http_proxy_is_named_without_its_value() {
        for text in
            ["socks5://canary:1", "https://canary", "http://", "ht tp://canary", "http://u:canary#x@h:1", "h:99999"]
        {
            let error = chosen(&[("https_proxy", text)], "wss://h").unwrap_err();
            assert_eq!(error.variable, "https_proxy", "{text}");
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("https_proxy") && !shown.contains("canary"), "{shown}");
        }
        // Of no concern to a host that it does not apply to.
        assert_eq!(chosen(&[("https_proxy", "socks5://h"), ("NO_PROXY", "h")], "wss://h"), Ok(None));
    }

    #[test]
    fn exceptions_are_names_addresses_networks_and_ports() {
        for (list, text, expected) in [
            ("*", "https://a.b", true),
            ("b.c", "https://a.b.c", true),
            ("b.c", "https://b.c.", true),
            (".b.c", "https://b.c", true),
            ("*.b.c", "https://x.b.c", true),
            ("b.c", "https://ab.c", false),
            ("B.C", "https://b.c", true),
            ("b.c:443", "https://b.c", true),
            ("b.c:80", "https://b.c", false),
            ("b.c:x", "https://b.c", false),
            ("x, 10.0.0.0/8", "https://10.1.2.3", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("10.0.0.0/8", "https://[::ffff:10.1.2.3]", true),
            ("10.1.2.3", "https://10.1.2.3", true),
            ("10.1.2.3:8443", "https://10.1.2.3:8443", true),
            ("10.1.2.3:8443", "https://10.1.2.3", false),
            ("2.3", "https://10.1.2.3", false),
            ("0.0.0.0/0", "https://1.2.3.4", true),
            ("0.0.0.0/0", "https://[fd00::1]", false),
            ("10.0.0.0/33", "https://10.0.0.1", false),
            ("fd00::/8", "https://[fd12::1]", true),
            ("fd00::1", "https://[fd00::2]", false),
            ("fd00::1", "https://[fd00::1]", true),
            ("[fd00::1]", "https://[fd00::1]", true),
            ("[fd00::1]:9", "https://[fd00::1]:9", true),
            ("[fd00::1]:9", "https://[fd00::1]:8", false),
            ("", "https://a", false),
            (",.", "https://a", false),
            ("[", "https://a", false),
        ] {
            let url = url(text);
            assert_eq!(is_excepted(list, url.host(), url.port()), expected, "{list} {text}");
        }
    }
}
