//! One URL for the whole program (RFC 3986): the server's, a proxy's, a collector's, an engine's.
//!
//! Stricter than the RFC where a second reader could disagree with the first: a host is a plain name or an address, and
//! there is no fragment. No error repeats a piece of the text, which may hold a password.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use data_encoding::BASE64;
use http::uri::{Authority, PathAndQuery};
use oz_worker_core::secret::Secret;
use percent_encoding::percent_decode_str;

/// An absolute URL with a host. `Debug` shows scheme, host and port: a path or a query may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    scheme: &'static str,
    user_info: Option<UserInfo>,
    host: UrlHost,
    port: u16,
    /// Host and port once more, as requests have them.
    authority: Authority,
    path_and_query: PathAndQuery,
}

/// Who signs in, percent-decoded. An absent password is an empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserInfo {
    pub user: Secret,
    pub password: Secret,
}

/// A host: its name in lower case, or its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UrlHost {
    /// A name. It has letters, digits and `-._~` only.
    Name(String),
    /// An address, without brackets.
    Address(IpAddr),
}

/// Why a text cannot be used as the URL that was asked for. Nothing of the text is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The text has another scheme, or none.
    #[error("must begin with {}", .0.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(" or "))]
    Scheme(&'static [&'static str]),
    /// No host between the scheme and the path.
    #[error("names no host")]
    NoHost,
    /// The port is not 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// A user name or password where there must be none.
    #[error("must not hold a user name or password; the API key is what the worker signs in with")]
    Credentials,
    /// A user name or password that cannot stand in a header (RFC 7617).
    #[error("its user name must not hold a colon, and neither it nor the password a control character")]
    UserInfo,
    /// A `#`: nothing that is dialled has a fragment, and a `#` of a password would end the host.
    #[error("must not have a fragment (#…); a # that belongs to it is written %23")]
    Fragment,
    /// Another flaw of the syntax.
    #[error("is not a URL: {0}")]
    Syntax(UrlFlaw),
}

/// What is not as RFC 3986 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlFlaw {
    /// A character that a URL cannot hold as it is.
    #[error(
        "a character in it must be percent-encoded: a space, a control character, one of \"<>\\^`{{|}} or one beyond ASCII"
    )]
    Character,
    /// The host is neither a name nor an address.
    #[error("its host is neither a name in ASCII letters, digits, '-' and '.', nor an address")]
    Host,
    /// What stands in brackets is not an IPv6 address.
    #[error("what stands in brackets is not an IPv6 address")]
    Brackets,
    /// User name or password are not UTF-8 once decoded.
    #[error("its user name or password is not UTF-8 once it is percent-decoded")]
    Encoding,
}

impl Url {
    /// Reads an absolute URL of one of `schemes`, which are in lower case.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str, schemes: &'static [&'static str]) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme(schemes))?;
        let scheme =
            schemes.iter().find(|known| known.eq_ignore_ascii_case(scheme)).ok_or(UrlError::Scheme(schemes))?;
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        // At the last one: no host holds one.
        let (user_info, place) = match authority.rsplit_once('@') {
            Some((user_info, place)) => (Some(user_info), place),
            None => (None, authority),
        };
        let (host, port) = split_port(place)?;
        let (host, port) = (read_host(host)?, port.unwrap_or(default_port(scheme)));
        Ok(Self {
            scheme,
            authority: format!("{host}:{port}").parse().map_err(|_| UrlError::Syntax(UrlFlaw::Host))?,
            host,
            port,
            user_info: user_info.map(read_user_info).transpose()?,
            path_and_query: read_path(path)?,
        })
    }

    /// The scheme, in lower case.
    pub const fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Whether TLS is spoken.
    pub fn is_secure(&self) -> bool {
        default_port(self.scheme) == 443
    }

    pub const fn host(&self) -> &UrlHost {
        &self.host
    }

    /// The port: the scheme's own when none is written.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Who signs in, if the URL says so.
    pub const fn user_info(&self) -> Option<&UserInfo> {
        self.user_info.as_ref()
    }

    /// Path and query; the path is at least `/`.
    pub const fn path_and_query(&self) -> &PathAndQuery {
        &self.path_and_query
    }

    /// The same with `path`, which begins with a slash, behind its own path. A query stays behind both (RFC 3986, section 3.4).
    ///
    /// # Errors
    /// `path` has a character that a URL cannot hold.
    pub fn below(self, path: &str) -> Result<Self, UrlError> {
        let own = self.path_and_query.path().trim_end_matches('/');
        let query = self.path_and_query.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Self { path_and_query: read_path(&format!("{own}{path}{query}"))?, ..self })
    }

    /// Host and port, always with the port: what a proxy is asked for.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The value of the header `Host`: without the scheme's own port (RFC 9110, section 7.2).
    pub fn host_header(&self) -> String {
        if self.port == default_port(self.scheme) { self.host.to_string() } else { self.authority.to_string() }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({}://{})", self.scheme, self.authority)
    }
}

impl UserInfo {
    /// The value of `Authorization` or `Proxy-Authorization` (RFC 7617).
    pub fn basic(&self) -> Secret {
        let pair = format!("{}:{}", self.user.expose(), self.password.expose());
        Secret::from(format!("Basic {}", BASE64.encode(pair.as_bytes())))
    }
}

impl fmt::Display for UrlHost {
    /// As it stands in a URL: an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

fn default_port(scheme: &str) -> u16 {
    if matches!(scheme, "https" | "wss") { 443 } else { 80 }
}

/// The host with its brackets, and the port when one is written.
fn split_port(place: &str) -> Result<(&str, Option<u16>), UrlError> {
    // An IPv6 address has colons of its own inside its brackets.
    if place.starts_with('[') && !place.contains(']') {
        return Err(UrlError::Syntax(UrlFlaw::Brackets));
    }
    let after_host = place.rfind(']').map_or(0, |bracket| bracket + 1);
    let Some(colon) = place.get(after_host..).and_then(|after| after.find(':')) else { return Ok((place, None)) };
    let (host, port) = place.split_at(after_host + colon);
    let digits = port.trim_start_matches(':');
    if port.len() != digits.len() + 1 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(if host.is_empty() { UrlError::NoHost } else { UrlError::Port });
    }
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    digits.parse().ok().filter(|port| *port > 0).map(|port| (host, Some(port))).ok_or(UrlError::Port)
}

fn read_host(text: &str) -> Result<UrlHost, UrlError> {
    if text.is_empty() {
        return Err(UrlError::NoHost);
    }
    if let Some(inside) = text.strip_prefix('[') {
        let address = inside.strip_suffix(']').and_then(|inside| inside.parse::<Ipv6Addr>().ok());
        return address.map(|address| UrlHost::Address(address.into())).ok_or(UrlError::Syntax(UrlFlaw::Brackets));
    }
    if let Ok(address) = text.parse() {
        // Without brackets it can only be IPv4: the colons of IPv6 were read as a port's.
        return Ok(UrlHost::Address(address));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if text.bytes().all(is_plain) && text.bytes().any(|byte| byte != b'.') {
        Ok(UrlHost::Name(text.to_ascii_lowercase()))
    } else {
        Err(UrlError::Syntax(UrlFlaw::Host))
    }
}

fn read_user_info(text: &str) -> Result<UserInfo, UrlError> {
    // Beyond the RFC a raw `@` or bracket in a password is taken: it cannot be misread. A backslash could be.
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte)) {
        return Err(UrlError::Syntax(UrlFlaw::Character));
    }
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let decode = |text| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map(Cow::into_owned).map_err(|_| UrlError::Syntax(UrlFlaw::Encoding))
    };
    let (user, password) = (decode(user)?, decode(password)?);
    if user.contains(':') || user.contains(char::is_control) || password.contains(char::is_control) {
        return Err(UrlError::UserInfo);
    }
    Ok(UserInfo { user: user.into(), password: password.into() })
}

fn read_path(text: &str) -> Result<PathAndQuery, UrlError> {
    let flaw = UrlError::Syntax(UrlFlaw::Character);
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(flaw);
    }
    // A URL without a path gets one, as a request must have it.
    let path = if text.starts_with('/') { text.to_owned() } else { format!("/{text}") };
    path.parse().map_err(|_| flaw)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALL: &[&str] = &["http", "https", "ws", "wss"];

    fn url(text: &str) -> Url {
        Url::parse(text, ALL).unwrap()
    }

    #[test]
    fn a_url_falls_into_its_parts() {
        for (text, scheme, authority, host_header, path) in [
            ("wss://oz.example/api/ws?a=b", "wss", "oz.example:443", "oz.example", "/api/ws?a=b"),
            ("WS://Oz.Example:8080", "ws", "oz.example:8080", "oz.example:8080", "/"),
            ("https://h:443/", "https", "h:443", "h", "/"),
            ("https://h:80", "https", "h:80", "h:80", "/"),
            ("http://h:080/", "http", "h:80", "h", "/"),
            ("http://h?q=1", "http", "h:80", "h", "/?q=1"),
            ("http://h/?q=//a:b@c/%", "http", "h:80", "h", "/?q=//a:b@c/%"),
            ("ws://[::1]:9000/ws", "ws", "[::1]:9000", "[::1]:9000", "/ws"),
            ("https://[2001:DB8::1]", "https", "[2001:db8::1]:443", "[2001:db8::1]", "/"),
            ("http://127.0.0.1:1/", "http", "127.0.0.1:1", "127.0.0.1:1", "/"),
            ("http://my_service.ns.svc./", "http", "my_service.ns.svc.:80", "my_service.ns.svc.", "/"),
        ] {
            let url = url(text);
            let parts = (url.scheme(), url.authority().as_str(), url.host_header(), url.path_and_query().as_str());
            assert_eq!(parts, (scheme, authority, host_header.to_owned(), path), "{text}");
            assert_eq!(url.is_secure(), scheme.ends_with('s') && scheme != "ws", "{text}");
        }
        assert_eq!(url("http://10.0.0.1").host(), &UrlHost::Address([10, 0, 0, 1].into()));
    }

    #[test]
    fn what_is_no_url_says_why() {
        let syntax = UrlError::Syntax;
        for (text, error) in [
            ("", UrlError::Scheme(ALL)),
            ("host", UrlError::Scheme(ALL)),
            ("ftp://host", UrlError::Scheme(ALL)),
            ("http://", UrlError::NoHost),
            ("http:///path", UrlError::NoHost),
            ("http://:80", UrlError::NoHost),
            ("http://:", UrlError::NoHost),
            ("http://user@", UrlError::NoHost),
            ("http://user@:80", UrlError::NoHost),
            ("http://h:", UrlError::Port),
            ("http://h:0", UrlError::Port),
            ("http://h:+1", UrlError::Port),
            ("http://h:65536", UrlError::Port),
            ("http://h:1:2", UrlError::Port),
            ("http://h::1", UrlError::Port),
            ("http://::1/", UrlError::NoHost),
            ("http://[::1]:x", UrlError::Port),
            ("http://h/#a", UrlError::Fragment),
            ("http://user:pa#ss@h", UrlError::Fragment),
            ("http://a%3Ab:c@h", UrlError::UserInfo),
            ("http://a:%0Ab@h", UrlError::UserInfo),
            ("http://a:%ff@h", syntax(UrlFlaw::Encoding)),
            ("http://a b@h", syntax(UrlFlaw::Character)),
            ("http://ho st", syntax(UrlFlaw::Host)),
            ("http://hôst", syntax(UrlFlaw::Host)),
            ("http://h%41st", syntax(UrlFlaw::Host)),
            ("http://h\\@x", syntax(UrlFlaw::Character)),
            ("http://..", syntax(UrlFlaw::Host)),
            ("http://[::1", syntax(UrlFlaw::Brackets)),
            ("http://[1.2.3.4]", syntax(UrlFlaw::Brackets)),
            ("http://[::1]x", syntax(UrlFlaw::Brackets)),
            ("http://[fe80::1%25eth0]", syntax(UrlFlaw::Brackets)),
            ("http://::1]", syntax(UrlFlaw::Host)),
            ("http://h/a b", syntax(UrlFlaw::Character)),
            ("http://h/\n", syntax(UrlFlaw::Character)),
            ("http://h/ä", syntax(UrlFlaw::Character)),
        ] {
            assert_eq!(Url::parse(text, ALL).err(), Some(error), "{text:?}");
        }
    }

    #[test]
    fn user_and_password_are_decoded_and_sent_as_rfc_7617_has_it() {
        for (text, user, password, basic) in [
            ("http://Aladdin:open%20sesame@h", "Aladdin", "open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ("http://me:p%40ss@h", "me", "p@ss", "Basic bWU6cEBzcw=="),
            ("http://me:p@ss@h", "me", "p@ss", "Basic bWU6cEBzcw=="),
            ("http://me:a%23b:c@h", "me", "a#b:c", "Basic bWU6YSNiOmM="),
            ("http://me@h", "me", "", "Basic bWU6"),
            ("http://me:@h", "me", "", "Basic bWU6"),
            ("http://test:123%C2%A3@h", "test", "123£", "Basic dGVzdDoxMjPCow=="),
            ("http://:p@h", "", "p", "Basic OnA="),
        ] {
            let url = url(text);
            let info = url.user_info().unwrap();
            assert_eq!((info.user.expose(), info.password.expose()), (user, password), "{text}");
            assert_eq!(info.basic().expose(), basic, "{text}");
        }
        assert!(url("http://h/a@b").user_info().is_none());
    }

    #[test]
    fn a_path_goes_between_the_path_and_the_query() {
        for (text, expected) in [
            ("http://h", "/v1/metrics"),
            ("http://h/", "/v1/metrics"),
            ("http://h/otlp", "/otlp/v1/metrics"),
            ("http://h/otlp/?k=v/&w", "/otlp/v1/metrics?k=v/&w"),
            ("http://h?k=v", "/v1/metrics?k=v"),
        ] {
            assert_eq!(url(text).below("/v1/metrics").unwrap().path_and_query(), expected, "{text}");
        }
    }

    #[test]
    fn debug_shows_neither_user_nor_path() {
        let shown = format!("{:?}", url("https://me:canary@h/canary?canary"));
        assert_eq!(shown, "Url(https://h:443)");
    }
}
