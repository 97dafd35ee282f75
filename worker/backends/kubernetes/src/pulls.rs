//! What a kubelet says when it cannot get an image, or what else a container needs: whether to wait, and how long.

/// Why there is no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullFault {
    /// The name is none.
    InvalidName,
    /// It is not there and may not be pulled.
    NeverPulled,
    /// The registry says that there is no such image, or that it is not ours to have.
    Refused,
    /// What passes: the registry is out of reach, busy or broken, or the node pulls too much at once. Also what is not known.
    Passing,
}

/// Words of a registry, or of what speaks to it, that no waiting changes. Recorded from containerd and CRI-O.
const REFUSALS: [&str; 15] = [
    "not found",
    "not exist",
    "manifest unknown",
    "name unknown",
    "no match for platform",
    "unauthorized",
    "authorization failed",
    "authentication required",
    "insufficient_scope",
    "access denied",
    "access forbidden",
    "denied:",
    "403 forbidden",
    "401 unauthorized",
    "404 not found",
];
/// Words of what passes; they win, since a text may hold both (`429 … not found in cache`).
const PASSING: [&str; 12] = [
    "qps exceeded",
    "toomanyrequests",
    "too many requests",
    "connection refused",
    "connection reset",
    "timeout",
    "no such host",
    "temporary failure",
    "unexpected eof",
    "status 5",
    "server error",
    "service unavailable",
];

/// What the reason and the message of a waiting container say of its image. None: nothing. `known` is what was said before:
/// a kubelet that waits before it tries again may not repeat why.
pub fn fault(reason: &str, message: &str, known: Option<PullFault>) -> Option<PullFault> {
    match reason {
        "InvalidImageName" => Some(PullFault::InvalidName),
        "ErrImageNeverPull" => Some(PullFault::NeverPulled),
        "ErrImagePull"
        | "ImagePullBackOff"
        | "RegistryUnavailable"
        | "ImageInspectError"
        | "SignatureValidationFailed" => {
            let words = message.to_lowercase();
            let says = |list: &[&str]| list.iter().any(|word| words.contains(word));
            if reason == "RegistryUnavailable" || says(&PASSING) {
                Some(PullFault::Passing)
            } else if says(&REFUSALS) {
                Some(PullFault::Refused)
            } else {
                known.or(Some(PullFault::Passing))
            }
        }
        _ => None,
    }
}

/// Whether a text says that a Secret, a `ConfigMap` or a claim that a container needs does not exist, or lacks a key.
pub fn names_what_is_missing(message: &str) -> bool {
    let words = message.to_lowercase();
    let object = ["secret", "configmap", "persistentvolumeclaim"].iter().any(|kind| words.contains(kind));
    let missing = ["not found", "couldn't find key", "references non-existent"].iter().any(|word| words.contains(word));
    // A kubelet that has not asked yet says so in much the same words.
    object && missing && !words.contains("failed to sync")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubelets_say_is_told_apart() {
        use PullFault::{InvalidName, NeverPulled, Passing, Refused};
        let containerd = |rest: &str| {
            format!("failed to pull and unpack image \"h/x:1\": failed to resolve reference \"h/x:1\": {rest}")
        };
        for (reason, message, expected) in [
            (
                "InvalidImageName",
                "Failed to apply default image tag \"Bad//Image:::\": couldn't parse image name".to_owned(),
                Some(InvalidName),
            ),
            (
                "ErrImageNeverPull",
                "Container image \"x\" is not present with pull policy of Never".to_owned(),
                Some(NeverPulled),
            ),
            ("ErrImagePull", containerd("h/x:1: not found"), Some(Refused)),
            (
                "ErrImagePull",
                containerd(
                    "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                ),
                Some(Refused),
            ),
            (
                "ErrImagePull",
                containerd("unexpected status from HEAD request to http://h/v2/x/manifests/1: 401 Unauthorized"),
                Some(Refused),
            ),
            (
                "ErrImagePull",
                containerd("unexpected status from HEAD request to http://h/v2/x/manifests/1: 503 Service Unavailable"),
                Some(Passing),
            ),
            (
                "ErrImagePull",
                containerd("unexpected status code 429 Too Many Requests - Server message: toomanyrequests: not found"),
                Some(Passing),
            ),
            (
                "ErrImagePull",
                containerd(
                    "failed to do request: Head \"https://127.0.0.1:1/v2/none/manifests/1\": dial tcp 127.0.0.1:1: connect: connection refused",
                ),
                Some(Passing),
            ),
            ("ErrImagePull", "pull QPS exceeded".to_owned(), Some(Passing)),
            ("ErrImagePull", "no space left on device".to_owned(), Some(Passing)),
            (
                "ImagePullBackOff",
                "Back-off pulling image \"x\": ErrImagePull: h/x:1: not found".to_owned(),
                Some(Refused),
            ),
            ("ContainerCreating", String::new(), None),
            ("CreateContainerConfigError", "secret \"s\" not found".to_owned(), None),
        ] {
            assert_eq!(fault(reason, &message, None), expected, "{reason} {message}");
        }
        let silent = "Back-off pulling image \"x\"";
        assert_eq!(fault("ImagePullBackOff", silent, Some(Refused)), Some(Refused));
        assert_eq!(fault("ImagePullBackOff", silent, None), Some(Passing));
    }

    #[test]
    fn what_does_not_exist_is_told_from_what_was_not_asked_for_yet() {
        for message in [
            "MountVolume.SetUp failed for volume \"s\" : secret \"absent\" not found",
            "configmap \"cm\" not found",
            "couldn't find key k in Secret ns/s",
            "MountVolume.SetUp failed for volume \"s\" : references non-existent secret key: k",
            "0/1 nodes are available: persistentvolumeclaim \"data\" not found.",
        ] {
            assert!(names_what_is_missing(message), "{message}");
        }
        for message in [
            "MountVolume.SetUp failed for volume \"cm\" : failed to sync configmap cache: timed out waiting for the condition",
            "MountVolume.SetUp failed for volume \"nfs\" : mount failed: exit status 32",
            "container image not found",
        ] {
            assert!(!names_what_is_missing(message), "{message}");
        }
    }
}
