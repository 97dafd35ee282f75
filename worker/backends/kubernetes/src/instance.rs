//! Which process follows a Job, as the Job's annotation `instance` has it: one in a Pod, or one on a host.

use data_encoding::BASE64URL_NOPAD;
use oz_worker_runtime::Mark;
use serde::Deserialize;

/// The Pod that a worker runs in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct OwnPod {
    #[serde(default)]
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// A process that follows Jobs. What it is called on its machine is its [mark](oz_worker_runtime::Owner::mark).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instance<'a> {
    InPod { namespace: &'a str, name: &'a str, uid: &'a str, mark: &'a str },
    OnHost { mark: &'a str },
}

impl OwnPod {
    /// What the token of a Pod's service account says of the Pod: it is bound to it, and its claims name it. Nothing is
    /// verified here, since it is our own. None: the token is bound to no Pod.
    pub fn of_token(token: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Claims {
            #[serde(rename = "kubernetes.io")]
            own: Own,
        }
        #[derive(Deserialize)]
        struct Own {
            namespace: String,
            pod: OwnPod,
        }
        let claims = token.split(|byte| *byte == b'.').nth(1)?;
        let claims = BASE64URL_NOPAD.decode(claims).ok()?;
        let Claims { own: Own { namespace, pod } } = serde_json::from_slice(&claims).ok()?;
        Some(Self { namespace, ..pod })
    }
}

impl<'a> Instance<'a> {
    /// Reads what [`written`] gave. None: it is of another form, and nothing is known of that process.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('/');
        let first = parts.next()?;
        let instance = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (None, ..) => Self::OnHost { mark: first },
            (Some(name), Some(uid), Some(mark), None) => Self::InPod { namespace: first, name, uid, mark },
            _ => return None,
        };
        let (Self::InPod { mark, .. } | Self::OnHost { mark }) = instance;
        Mark::parse(mark).map(|_| instance)
    }
}

/// `<namespace>/<Pod>/<UID>/<mark>` in a Pod, `<mark>` elsewhere.
pub fn written(pod: Option<&OwnPod>, mark: &str) -> String {
    match pod {
        Some(OwnPod { namespace, name, uid }) => format!("{namespace}/{name}/{uid}/{mark}"),
        None => mark.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &str = "0123456789abcdef.fedcba9876543210.00000000deadbeef.5.12.34";

    #[test]
    fn what_is_written_is_read_again_and_nothing_else() {
        let pod = OwnPod { namespace: "n".into(), name: "p".into(), uid: "u".into() };
        let text = written(Some(&pod), MARK);
        let in_pod = Instance::InPod { namespace: "n", name: "p", uid: "u", mark: MARK };
        assert_eq!(Instance::parse(&text), Some(in_pod));
        assert_eq!(Instance::parse(&written(None, MARK)), Some(Instance::OnHost { mark: MARK }));
        for text in ["", "x", "n/p/u/x", &format!("n/p/{MARK}"), &format!("{text}/x"), &format!("/{MARK}")] {
            assert_eq!(Instance::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_bound_token_names_its_pod() {
        let token = |claims: &str| format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.as_bytes()));
        let bound = token(
            r#"{"iss":"x","kubernetes.io":{"namespace":"n","node":{"name":"a"},"pod":{"name":"p","uid":"u"},"serviceaccount":{"name":"s","uid":"v"}}}"#,
        );
        let pod = OwnPod { namespace: "n".into(), name: "p".into(), uid: "u".into() };
        assert_eq!(OwnPod::of_token(bound.as_bytes()), Some(pod));
        let unbound = token(r#"{"kubernetes.io":{"namespace":"n"}}"#);
        for token in [unbound.as_str(), "", "a", "a.b", "a.%.c", &token("7"), &token("{}")] {
            assert_eq!(OwnPod::of_token(token.as_bytes()), None, "{token}");
        }
    }
}
