//! What a failed pull means, read from the text in which an engine passes on what the registry said.
//!
//! An engine answers 500 for nearly everything, or fails inside the stream, and every version words it in its own way. The
//! texts in the tests were recorded from Engine 20.10, Engine 29 (containerd image store) and Podman 4.3.

use oz_worker_contract::reference::Reference;

/// What a failed pull means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullFault {
    /// The registry does not let this image be had: 401, 403. Another's private image must not be handed out from a local
    /// copy.
    Refused,
    /// The registry does not have it: 404.
    Missing,
    /// Too many requests: 429. Another try only makes it worse.
    Limited,
    /// The registry could not be reached, answered 5xx, or broke off.
    Transient,
    /// Somebody cleaned up on the engine while it pulled: it says nothing about the registry.
    Pruned,
    /// It broke off on the engine, after the registry had said what the image is. A prune may be behind it, or a full disk.
    Broken,
    /// Something that is not known: no try more, and no local copy.
    Unknown,
}

impl PullFault {
    /// Whether another try may help.
    pub const fn is_worth_a_try(self) -> bool {
        matches!(self, Self::Transient | Self::Pruned | Self::Broken)
    }

    /// Whether a copy that is present may be used instead.
    pub const fn allows_local(self) -> bool {
        matches!(self, Self::Transient | Self::Limited)
    }
}

/// What containerd says when what it holds of an image is removed under it.
const PRUNED: &[&str] = &[
    "lease does not exist",
    "lease content",
    "content digest sha256:",
    "parent snapshot ",
    "no such file or directory",
];
const REFUSED: &[&str] =
    &["unauthorized", "no basic auth credentials", "denied", "authentication required", "forbidden"];
const MISSING: &[&str] = &[
    "manifest unknown",
    "manifest_unknown",
    "name unknown",
    "name_unknown",
    "no matching manifest",
    "does not match the specified platform",
];
/// The same, unless the registry has said already what the image is: then it is something on the engine that is not there.
const NOT_THERE: &[&str] = &["not found", "does not exist"];
const LIMITED: &[&str] = &["toomanyrequests", "too many requests"];
const TRANSIENT: &[&str] = &[
    "connection refused",
    "connection reset",
    "connection timed out",
    "no route to host",
    "network is unreachable",
    "no such host",
    "server misbehaving",
    "temporary failure in name resolution",
    "i/o timeout",
    "tls handshake timeout",
    "timeout awaiting response",
    "client.timeout exceeded",
    "request canceled",
    "context deadline exceeded",
    "broken pipe",
    "unexpected eof",
    ": eof",
    "proxyconnect",
    // A download that is not what its digest says.
    "filesystem layer verification failed",
    "unexpected commit digest",
    "failed size validation",
    "failed commit on ref",
    "short read",
    "invalid checksum",
    "gzip: invalid",
    "invalid tar header",
    "flate: corrupt input",
    "digest did not match",
];

/// What the text says that an engine gives for a failed pull of `reference`; `is_known` says whether the registry had said what
/// the image is.
pub fn read(text: &str, reference: &Reference, is_known: bool) -> PullFault {
    // The name is whoever assigns the task's to choose: it must not decide.
    let mut text = text.to_lowercase();
    for name in [reference.repository(), reference.familiar()] {
        text = text.replace(&name.to_lowercase(), "…");
    }
    let says = |texts: &[&str]| texts.iter().any(|known| text.contains(known));
    if says(PRUNED) {
        return PullFault::Pruned;
    }
    let status = status(&text);
    match status {
        Some(401 | 403) => return PullFault::Refused,
        Some(404) => return PullFault::Missing,
        Some(429) => return PullFault::Limited,
        Some(500..) => return PullFault::Transient,
        _ => {}
    }
    if says(LIMITED) {
        PullFault::Limited
    } else if says(REFUSED) {
        PullFault::Refused
    } else if says(TRANSIENT) {
        PullFault::Transient
    } else if says(MISSING) || (!is_known && says(NOT_THERE)) {
        PullFault::Missing
    } else if is_known {
        // Whatever it is, it is not about who may have the image, or whether there is one.
        PullFault::Broken
    } else {
        PullFault::Unknown
    }
}

/// The status of HTTP that a text names as one.
fn status(text: &str) -> Option<u16> {
    let at = ["unexpected status", "http status", "status code", "status:"]
        .iter()
        .filter_map(|word| text.find(word))
        .min()?;
    let words = text.get(at..)?.split(|c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')' | ';'));
    let numbers = words.map(|word| word.trim_matches(':')).filter(|word| word.len() == 3);
    numbers.filter_map(|word| word.parse().ok()).find(|status| (400..600).contains(status))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_say_is_understood() {
        use PullFault::{Limited, Missing, Pruned, Refused, Transient, Unknown};
        for (text, fault) in [
            // Engine 20.10.
            ("Get http://127.0.0.1:5055/v2/oz/x/manifests/1: no basic auth credentials", Refused),
            ("unauthorized: authentication required", Refused),
            (
                "pull access denied for oz/x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
                Refused,
            ),
            ("error parsing HTTP 403 response body: unexpected status code 403: Forbidden", Refused),
            ("manifest for 127.0.0.1:5055/oz/x:1 not found: manifest unknown: manifest unknown", Missing),
            ("no matching manifest for linux/amd64 in the manifest list entries", Missing),
            (
                "toomanyrequests: You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit",
                Limited,
            ),
            (
                "error pulling image configuration: download failed after attempts=1: toomanyrequests: slow down",
                Limited,
            ),
            ("received unexpected HTTP status: 503 Service Unavailable", Transient),
            ("Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused", Transient),
            ("Get \"https://r.example/v2/\": dial tcp: lookup r.example on 10.0.0.2:53: no such host", Transient),
            ("Get \"https://r.example/v2/\": net/http: TLS handshake timeout", Transient),
            (
                "Get \"https://r.example/v2/\": proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection refused",
                Transient,
            ),
            ("Get \"https://r.example/v2/\": EOF", Transient),
            ("filesystem layer verification failed for digest sha256:0123", Transient),
            // Engine 29 with containerd.
            (
                "failed to resolve reference \"127.0.0.1:5055/oz/x:1\": failed to do request: Head \"http://127.0.0.1:5055/v2/\": dial tcp 127.0.0.1:5055: connect: connection refused",
                Transient,
            ),
            (
                "failed to resolve reference \"127.0.0.1:5055/oz/x:1\": unexpected status from HEAD request to http://127.0.0.1:5055/v2/oz/x/manifests/1: 503 Service Unavailable",
                Transient,
            ),
            (
                "failed to resolve reference \"127.0.0.1:5055/oz/x:1\": unexpected status from HEAD request to http://127.0.0.1:5055/v2/oz/x/manifests/1: 429 Too Many Requests",
                Limited,
            ),
            (
                "failed to resolve reference \"127.0.0.1:5055/oz/x:1\": unexpected status from HEAD request to http://127.0.0.1:5055/v2/oz/x/manifests/1: 403 Forbidden",
                Refused,
            ),
            (
                "failed to resolve reference \"127.0.0.1:5055/oz/x:1\": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials",
                Refused,
            ),
            ("failed to resolve reference \"127.0.0.1:5055/oz/x:1\": 127.0.0.1:5055/oz/x:1: not found", Missing),
            (
                "failed commit on ref \"layer-sha256:01\": unexpected commit digest sha256:02, expected sha256:01: failed precondition",
                Transient,
            ),
            (
                "failed to copy: httpReadSeeker: failed open: unexpected status code http://127.0.0.1/v2/oz/x/blobs/sha256:01: 500 Internal Server Error",
                Transient,
            ),
            ("lease does not exist: not found", Pruned),
            ("NotFound: content digest sha256:f403fccf3ac2: not found", Pruned),
            (
                "failed commit on ref \"config-sha256:2a31\": commit failed: rename /d/ingest/1/data /d/blobs/2: no such file or directory",
                Pruned,
            ),
            (
                "failed to extract layer (application/vnd.oci.image.layer.v1.tar+gzip sha256:3b) to overlayfs as \"extract-5 sha256:b7\": mount callback failed on /d/tmpmounts/1: failed to Lchown \"/d/tmpmounts/1/bin/busybox\" for UID 0, GID 0: lchown /d/tmpmounts/1/bin/busybox: no such file or directory",
                Pruned,
            ),
            ("failed to lease content: NotFound: lease \"641071958-EfJV\": not found", Pruned),
            ("unable to lease content: lease does not exist: not found", Pruned),
            (
                "failed to prepare extraction snapshot \"extract-599034498-IxYg sha256:49\": NotFound: lease does not exist: not found",
                Pruned,
            ),
            // Podman 4.3.
            (
                "initializing source docker://127.0.0.1:5055/oz/x:1: reading manifest 1 in 127.0.0.1:5055/oz/x: manifest unknown: manifest unknown",
                Missing,
            ),
            (
                "initializing source docker://127.0.0.1:1/oz/x:1: pinging container registry 127.0.0.1:1: Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
                Transient,
            ),
            // Not known.
            ("http: server gave HTTP response to HTTPS client", Unknown),
            ("x509: certificate signed by unknown authority", Unknown),
            ("", Unknown),
        ] {
            assert_eq!(read(text, &Reference::parse("127.0.0.1:5055/oz/x:1").unwrap(), false), fault, "{text}");
        }
    }

    #[test]
    fn what_fails_once_the_registry_has_named_the_image_is_its_fault_only_when_it_says_so() {
        use PullFault::{Broken, Limited, Missing, Pruned, Refused, Transient};
        let image = Reference::parse("127.0.0.1:5055/oz/x:1").unwrap();
        for (text, fault) in [
            ("failed to extract layer: something: not found", Broken),
            ("write /var/lib/docker/tmp/x: no space left on device", Broken),
            ("in words of a later version", Broken),
            ("lease does not exist: not found", Pruned),
            (
                "unexpected status from GET request to http://127.0.0.1:5055/v2/oz/x/blobs/sha256:01: 403 Forbidden",
                Refused,
            ),
            (
                "unexpected status from GET request to http://127.0.0.1:5055/v2/oz/x/blobs/sha256:01: 404 Not Found",
                Missing,
            ),
            ("toomanyrequests: slow down", Limited),
            ("unexpected EOF", Transient),
        ] {
            assert_eq!(read(text, &image, true), fault, "{text}");
        }
        assert!(Broken.is_worth_a_try() && !Broken.allows_local());
    }

    #[test]
    fn the_name_of_an_image_decides_nothing() {
        let image = Reference::parse("r.example/connection/refused/denied:1").unwrap();
        let text = "manifest for r.example/connection/refused/denied:1 not found: manifest unknown";
        assert_eq!(read(text, &image, false), PullFault::Missing);
        assert_eq!(read("Get r.example/connection/refused/denied: EOF", &image, false), PullFault::Transient);
    }

    #[test]
    fn a_status_is_enough_to_know_what_a_registry_meant() {
        let reference = Reference::parse("h.example/x:1").expect("a reference");
        for (status, fault) in [
            (401, PullFault::Refused),
            (403, PullFault::Refused),
            (404, PullFault::Missing),
            (429, PullFault::Limited),
            (500, PullFault::Transient),
            (503, PullFault::Transient),
            (418, PullFault::Unknown),
        ] {
            assert_eq!(read(&format!("unexpected status code {status} Odd"), &reference, false), fault, "{status}");
        }
    }

    #[test]
    fn a_local_copy_serves_for_what_passes_and_another_try_for_what_it_may_mend() {
        use PullFault::{Broken, Limited, Missing, Pruned, Refused, Transient, Unknown};
        for (fault, is_worth_a_try, allows_local) in [
            (Refused, false, false),
            (Missing, false, false),
            (Limited, false, true),
            (Transient, true, true),
            (Pruned, true, false),
            (Broken, true, false),
            (Unknown, false, false),
        ] {
            assert_eq!((fault.is_worth_a_try(), fault.allows_local()), (is_worth_a_try, allows_local), "{fault:?}");
        }
    }
}
