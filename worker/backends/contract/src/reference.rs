//! The names of images, as engines and registries read them: `[DOMAIN/]PATH[:TAG][@DIGEST]`.

use std::fmt;

/// What the name of an image without a domain means.
const HUB: &str = "docker.io";
/// The key of the same in every store of credentials, for reasons of history.
pub const HUB_KEY: &str = "https://index.docker.io/v1/";
/// The longest repository name (distribution's `reference.NameTotalLengthMax`).
const LONGEST_NAME: usize = 255;

/// The name of an image, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text cannot name an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("the image has no name")]
    Empty,
    #[error("its repository has at most 255 characters")]
    TooLong,
    #[error("its repository is lower-case letters and digits, with '.', '_', '-' and '/' between them")]
    Repository,
    #[error("what stands before the first '/' is not a registry's host")]
    Domain,
    #[error("its tag is up to 128 letters, digits, '_', '.' and '-'")]
    Tag,
    #[error("its digest is not sha256: and 64 hexadecimal digits")]
    Digest,
}

impl Reference {
    /// Takes a name apart.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(ReferenceError::Digest);
        }
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag);
        }
        let (domain, path) = split_domain(name);
        if !is_domain(&domain) {
            return Err(ReferenceError::Domain);
        }
        if name.len() > LONGEST_NAME {
            return Err(ReferenceError::TooLong);
        }
        if !path.split('/').all(is_component) {
            return Err(ReferenceError::Repository);
        }
        Ok(Self { domain, path, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
    }

    /// The repository with its domain: `docker.io/library/ubuntu`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as people write it, and as engines name it in their answers: `ubuntu`, `x/y`, `host:5000/x`.
    pub fn familiar(&self) -> String {
        if self.domain != HUB {
            return self.repository();
        }
        self.path.strip_prefix("library/").unwrap_or(&self.path).to_owned()
    }

    /// What of the repository is pulled: its digest, else its tag, else `latest`.
    pub fn wanted(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// The digest that it names, which never means another image.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The key of its registry in stores of credentials.
    pub fn registry(&self) -> &str {
        if self.domain == HUB { HUB_KEY } else { &self.domain }
    }

    /// The name of the volume that holds the files of this image, whose digest this is: `<repository, made safe>-<first 12>`.
    pub fn volume(&self, digest: &str) -> String {
        let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
        let first: String = hex.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
        let repository: String = self.familiar().chars().map(safe).collect();
        // An engine wants a letter or a digit first.
        format!("{}-{first}", repository.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()))
    }

    /// Whether the operator's pattern allows it. `*` stands for any row of characters; a pattern without a tag allows every
    /// tag. A pattern is completed as a name is, so that `ubuntu*` never means another registry's host.
    pub fn fits(&self, pattern: &str) -> bool {
        if pattern == "*" {
            return true;
        }
        let first = pattern.split_once('/').map(|(first, _)| first);
        let pattern = match first {
            Some(first) if first.contains('*') || is_host(first) => pattern.to_owned(),
            Some(_) => format!("{HUB}/{pattern}"),
            None => format!("{HUB}/library/{pattern}"),
        };
        let name = self.repository();
        let tagged = self.tag.as_deref().or(self.digest.is_none().then_some("latest"));
        let mut forms = vec![name.clone()];
        forms.extend(tagged.map(|tag| format!("{name}:{tag}")));
        forms.extend(self.digest.as_ref().map(|digest| format!("{name}@{digest}")));
        forms.iter().any(|form| matches(pattern.as_bytes(), form.as_bytes()))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.familiar())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (HUB, name),
    };
    if domain == HUB || domain == "index.docker.io" {
        let path = if path.contains('/') { path.to_owned() } else { format!("library/{path}") };
        return (HUB.to_owned(), path);
    }
    (domain.to_owned(), path.to_owned())
}

/// Whether the first part of a name is a host, and not a part of a path.
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_domain(domain: &str) -> bool {
    if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':') && is_port(port);
    }
    let (host, port) = domain.find(':').map_or((domain, ""), |at| domain.split_at(at));
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(plain)
    };
    host.split('.').all(label) && is_port(port)
}

fn is_port(port: &str) -> bool {
    port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_component(component: &str) -> bool {
    let outside = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let allowed = component.bytes().all(|byte| outside(&byte) || matches!(byte, b'.' | b'_' | b'-'));
    let bytes = component.as_bytes();
    // Between letters stand one '.', one or two '_', or any number of '-'.
    let mut separators = component.split(|c: char| outside(&u8::try_from(c).unwrap_or(0)));
    let separated = separators.all(|row| matches!(row, "" | "." | "_" | "__") || row.bytes().all(|byte| byte == b'-'));
    allowed && separated && bytes.first().is_some_and(outside) && bytes.last().is_some_and(outside)
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

/// Whether a text is a digest, as registries and engines write it.
pub fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:");
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// Whether a text fits a pattern in which `*` stands for any row of bytes. Takes no more time than the product of both.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    let mut last_star = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (Some((b'*', rest)), _) => {
                last_star = Some((rest, text));
                pattern = rest;
            }
            (Some((one, rest)), Some((other, after))) if one == other => (pattern, text) = (rest, after),
            (None, None) => return true,
            _ => {
                // The star takes one more.
                let Some((rest, from)) = last_star else { return false };
                let Some((_, from)) = from.split_first() else { return false };
                last_star = Some((rest, from));
                (pattern, text) = (rest, from);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_name_is_completed_as_the_docker_client_does() {
        for (text, repository, familiar, wanted, registry) in [
            ("ubuntu", "docker.io/library/ubuntu", "ubuntu", "latest", HUB_KEY),
            ("ubuntu:22.04", "docker.io/library/ubuntu", "ubuntu", "22.04", HUB_KEY),
            ("x/y", "docker.io/x/y", "x/y", "latest", HUB_KEY),
            ("docker.io/x/y:1", "docker.io/x/y", "x/y", "1", HUB_KEY),
            ("index.docker.io/x/y", "docker.io/x/y", "x/y", "latest", HUB_KEY),
            ("docker.io/ubuntu", "docker.io/library/ubuntu", "ubuntu", "latest", HUB_KEY),
            ("localhost/x", "localhost/x", "localhost/x", "latest", "localhost"),
            ("h.example:5000/a/b__c:t", "h.example:5000/a/b__c", "h.example:5000/a/b__c", "t", "h.example:5000"),
            ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a", "latest", "[::1]:5000"),
            ("Host/a", "Host/a", "Host/a", "latest", "Host"),
        ] {
            let read = Reference::parse(text).unwrap();
            let parts = (read.repository(), read.familiar());
            assert_eq!(
                (parts.0.as_str(), parts.1.as_str(), read.wanted(), read.registry()),
                (repository, familiar, wanted, registry)
            );
        }
        let pinned = Reference::parse(&format!("a:1@sha256:{HEX}")).unwrap();
        assert_eq!(
            (pinned.wanted(), pinned.to_string()),
            (format!("sha256:{HEX}").as_str(), format!("a:1@sha256:{HEX}"))
        );
        assert_eq!(pinned.digest(), Some(pinned.wanted()));
        assert_eq!(Reference::parse("a:1").unwrap().digest(), None);
    }

    #[test]
    fn what_is_no_name_says_why() {
        for (text, error) in [
            ("", ReferenceError::Empty),
            ("Bad//Image:::", ReferenceError::Tag),
            ("a:", ReferenceError::Tag),
            ("a:-x", ReferenceError::Tag),
            ("a@sha256:12", ReferenceError::Digest),
            ("a@", ReferenceError::Digest),
            ("a//b", ReferenceError::Repository),
            ("a/B", ReferenceError::Repository),
            ("a/b..c", ReferenceError::Repository),
            ("a/b___c", ReferenceError::Repository),
            ("a/b.-c", ReferenceError::Repository),
            ("a/-b", ReferenceError::Repository),
            ("a/b/", ReferenceError::Repository),
            ("/a", ReferenceError::Repository),
            ("a b", ReferenceError::Repository),
            ("ä", ReferenceError::Repository),
            ("h..x/a", ReferenceError::Domain),
            ("h:0/a", ReferenceError::Domain),
            ("[::1/a", ReferenceError::Domain),
            ("[z::]/a", ReferenceError::Domain),
            ("[::1]5000/a", ReferenceError::Domain),
            ("-h.x/a", ReferenceError::Domain),
            ("h-.x/a", ReferenceError::Domain),
            ("h_h.x/a", ReferenceError::Domain),
        ] {
            assert_eq!(Reference::parse(text), Err(error), "{text}");
        }
        assert_eq!(Reference::parse(&"a".repeat(256)), Err(ReferenceError::TooLong));
        for text in ["a/b--c", "h-h.x/a", &"a".repeat(255)] {
            assert!(Reference::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_volume_is_named_after_repository_and_digest() {
        let digest = format!("sha256:{HEX}");
        for (text, name) in [
            ("127.0.0.1:5055/oz/agent:1", "127.0.0.1-5055-oz-agent-0123456789ab"),
            ("h.example/oz/deep/er_name.x:v1.2", "h.example-oz-deep-er_name.x-0123456789ab"),
            ("ubuntu", "ubuntu-0123456789ab"),
            ("[::1]:5000/a", "1--5000-a-0123456789ab"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().volume(&digest), name);
        }
        assert_eq!(Reference::parse("a").unwrap().volume("/../é"), "a-");
    }

    #[test]
    fn a_pattern_never_reaches_beyond_what_it_says() {
        for (pattern, image, fits) in [
            ("*", "h.example/x", true),
            ("ubuntu", "ubuntu:22.04", true),
            ("ubuntu:22.*", "ubuntu:22.04", true),
            ("ubuntu:22.*", "ubuntu", false),
            ("ubuntu*", "ubuntu.evil.example/x", false),
            ("ubuntu*", "ubuntu-mine", true),
            ("x/*", "docker.io/x/y", true),
            ("x/*", "h.example/x/y", false),
            ("h.example/team/*", "h.example/team/a/b:1", true),
            ("h.example/team/*", "h.example/other/a", false),
            ("*/team/x", "h.example/team/x", true),
            ("*a*b", "aab", true),
            ("h.example/*:1", "h.example/x:2", false),
            ("", "ubuntu", false),
        ] {
            assert_eq!(Reference::parse(image).unwrap().fits(pattern), fits, "{pattern} {image}");
        }
    }
}
