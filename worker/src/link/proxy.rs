//! Which proxy a dial goes through: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, as other programs read them.

use std::fmt;
use std::net::IpAddr;

use data_encoding::BASE64;
use tungstenite::http::Uri;

/// An HTTP proxy that is asked to `CONNECT`.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The value of `Proxy-Authorization`, when its URL holds a user. A secret.
    pub authorization: Option<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

/// The value of the variable cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is not the URL of an HTTP proxy; write it as http://HOST:PORT")]
pub struct ProxyError {
    /// The name of the variable. Its value may hold a password.
    pub variable: &'static str,
}

/// The proxy for a connection to `host`, when one is to be used. `secure` says whether TLS is spoken to `host`. A
/// loopback host is always dialled directly.
///
/// # Errors
/// When the variable that applies does not hold the URL of an HTTP proxy.
pub fn for_host(
    env: impl Fn(&str) -> Option<String>,
    secure: bool,
    host: &str,
    port: u16,
) -> Result<Option<Proxy>, ProxyError> {
    let names: [&'static str; 2] = if secure { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let first = |names: [&'static str; 2]| {
        names.into_iter().find_map(|name| env(name).filter(|value| !value.trim().is_empty()).map(|value| (name, value)))
    };
    let Some((variable, url)) = first(names) else { return Ok(None) };
    let exceptions = first(["NO_PROXY", "no_proxy"]).map(|(_, list)| list).unwrap_or_default();
    if is_loopback(host) || is_excepted(&exceptions, host, port) {
        return Ok(None);
    }
    parse(&url).map(Some).ok_or(ProxyError { variable })
}

fn parse(url: &str) -> Option<Proxy> {
    let url = url.trim();
    let uri: Uri = if url.contains("://") { url.parse() } else { format!("http://{url}").parse() }.ok()?;
    if uri.scheme_str() != Some("http") {
        return None;
    }
    let authority = uri.authority()?;
    let user = authority.as_str().rsplit_once('@').map(|(user, _)| user);
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return None;
    }
    Some(Proxy {
        host: host.to_owned(),
        port: authority.port_u16().unwrap_or(80),
        authorization: user.map(|user| format!("Basic {}", BASE64.encode(&percent_decoded(user)))),
    })
}

fn percent_decoded(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether `NO_PROXY` excepts a host: `*`, a name (it and everything below it, with or without a leading dot), an
/// address, a network in CIDR form; each with an optional port.
fn is_excepted(list: &str, host: &str, port: u16) -> bool {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Ok(address) = host.parse::<IpAddr>()
            && is_in_network(entry, address)
        {
            return true;
        }
        let (name, only_port) = match entry.rsplit_once(':') {
            Some((name, digits)) if !name.contains(':') => (name, digits.parse::<u16>().ok()),
            _ => (entry, None),
        };
        let name = name.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase();
        let host = host.to_ascii_lowercase();
        let below = host.strip_suffix(&name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        !name.is_empty() && below && only_port.is_none_or(|only| only == port)
    })
}

fn is_in_network(entry: &str, address: IpAddr) -> bool {
    let (network, bits) = entry.split_once('/').unwrap_or((entry, "128"));
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let prefix = |value: u128, width: u32| value.checked_shr(width.saturating_sub(bits)).unwrap_or(0);
    match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => prefix(a.to_bits().into(), 32) == prefix(b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => prefix(a.to_bits(), 128) == prefix(b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn chosen(env: &[(&str, &str)], secure: bool, host: &str) -> Result<Option<Proxy>, ProxyError> {
        let lookup = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        for_host(lookup, secure, host, 443)
    }

    #[test]
    fn the_scheme_chooses_the_variable() {
        let env = [("HTTPS_PROXY", "http://secure:3128"), ("http_proxy", "plain")];
        let secure = chosen(&env, true, "oz.example").unwrap().unwrap();
        assert_eq!((secure.host.as_str(), secure.port, secure.authorization), ("secure", 3128, None));
        let plain = chosen(&env, false, "oz.example").unwrap().unwrap();
        assert_eq!((plain.host.as_str(), plain.port), ("plain", 80));
        assert_eq!(chosen(&[("HTTPS_PROXY", " ")], true, "oz.example"), Ok(None));
        for host in ["localhost", "127.0.0.1", "::1"] {
            assert_eq!(chosen(&env, true, host), Ok(None), "{host}");
        }
    }

    #[test]
    fn a_user_becomes_an_authorization() {
        let proxy = chosen(&[("HTTPS_PROXY", "http://me:p%40ss@proxy:1")], true, "h").unwrap().unwrap();
        assert_eq!(proxy.authorization.as_deref(), Some("Basic bWU6cEBzcw=="));
    }

    #[test]
    fn what_is_not_an_http_proxy_is_named_without_its_value() {
        for url in ["socks5://h:1", "https://h", "http://", "ht tp://h"] {
            let error = chosen(&[("https_proxy", url)], true, "h").unwrap_err();
            assert_eq!(error, ProxyError { variable: "https_proxy" }, "{url}");
        }
    }

    #[test]
    fn exceptions_are_names_addresses_networks_and_ports() {
        for (list, host, expected) in [
            ("*", "a.b", true),
            ("b.c", "a.b.c", true),
            (".b.c", "b.c", true),
            ("*.b.c", "x.b.c", true),
            ("b.c", "ab.c", false),
            ("B.C", "b.c", true),
            ("b.c:443", "b.c", true),
            ("b.c:80", "b.c", false),
            ("x, 10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::1", "fd00::2", false),
            ("", "a", false),
            (",.", "a", false),
        ] {
            assert_eq!(is_excepted(list, host, 443), expected, "{list} {host}");
        }
    }
}
