//! Why a call failed, and whether, when and for how long it is worth another try.

use std::time::Duration;

use oz_worker_core::time::Instant;
use oz_worker_net::{AnswerError, DialError};

use super::credentials::CredentialError;

/// How long a call is repeated that fails by what passes, and how long one whose credentials are refused.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const CREDENTIAL_PATIENCE: Duration = Duration::from_secs(600);
/// The first and the longest wait before a call is repeated, and the longest that the server may ask for.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{0}")]
    Credentials(#[from] CredentialError),
    #[error("{0}")]
    Dial(Box<DialError>),
    #[error("{0}")]
    Answer(#[from] AnswerError),
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It was never made: those before it in line got no answer for so long.
    #[error("no call of its kind was answered for {} s", .0.as_secs())]
    NoTurn(Duration),
    /// It was not made, or not once more.
    #[error("it is not wanted any more")]
    Unwanted,
    #[error("the answer is not what an API server says")]
    Form,
    #[error("{message} (HTTP {status})")]
    Status { status: u16, reason: String, message: String, retry_after: Option<Duration> },
}

impl ApiError {
    /// Whether it may be another time, and for how long that is worth a try.
    fn patience(&self) -> Option<Duration> {
        match self {
            _ if self.is_about_credentials() => Some(CREDENTIAL_PATIENCE),
            Self::Dial(_) | Self::Answer(_) | Self::Silent(_) | Self::Status { status: 429 | 500.., .. } => {
                Some(PATIENCE)
            }
            Self::NoTurn(_) | Self::Unwanted | Self::Form | Self::Credentials(_) | Self::Status { .. } => None,
        }
    }

    /// Whether the server may have done it all the same.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Answer(_) | Self::Silent(_) | Self::Status { status: 500.., .. })
    }

    /// Whether it is only that we are not known to the server, or it is not to us.
    pub fn is_about_credentials(&self) -> bool {
        match self {
            Self::Credentials(_) | Self::Status { status: 401, .. } => true,
            Self::Dial(error) => error.is_about_trust(),
            _ => false,
        }
    }

    /// Whether the server says that it cannot do it now.
    pub const fn is_refusal_for_now(&self) -> bool {
        matches!(self, Self::Status { status: 429 | 500.., .. })
    }

    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }

    pub const fn is_forbidden(&self) -> bool {
        matches!(self, Self::Status { status: 403, .. })
    }

    /// Whether the object is another by now, or was changed since it was read.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Status { status: 409, .. }) && !self.is_taken()
    }

    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Status { status: 409, reason, .. } if reason == "AlreadyExists")
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// When a call is repeated.
pub struct Tries {
    begun: Instant,
    pause: Duration,
}

impl Tries {
    pub const fn new(now: Instant) -> Self {
        Self { begun: now, pause: PAUSES[0] }
    }

    /// When to try again after this. None: no more.
    pub fn next(&mut self, now: Instant, error: &ApiError) -> Option<Instant> {
        let patience = error.patience()?;
        if now.since(self.begun) >= patience {
            return None;
        }
        let wait = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.pause = (self.pause * 2).min(PAUSES[1]);
        Some(now.plus(error.retry_after().map_or(wait, |asked| asked.min(LONGEST_WAIT).max(wait))))
    }
}

#[cfg(test)]
mod tests {
    use oz_worker_net::tls::{CertificateFlaw, TlsError, TlsFault};
    use oz_worker_net::url::UrlHost;

    use super::*;

    #[test]
    fn what_passes_is_tried_for_two_minutes_and_as_the_server_asks() {
        let status = |status, retry_after| ApiError::Status {
            status,
            reason: String::new(),
            message: String::new(),
            retry_after,
        };
        let at = |seconds| Instant::new(Duration::from_secs(seconds));
        let next = |now, error: &ApiError| Tries::new(at(0)).next(at(now), error);
        for passing in [status(500, None), status(503, None), status(429, None), ApiError::Silent(PATIENCE)] {
            assert!(next(119, &passing).is_some_and(|then| then > at(119) && then < at(120)));
            assert_eq!(next(120, &passing), None);
        }
        assert_eq!(next(0, &status(429, Some(Duration::from_secs(7)))), Some(at(7)));
        let handshake = |source| {
            let host = UrlHost::Name("k".into());
            ApiError::Dial(Box::new(DialError::Handshake { host, source }))
        };
        let broken = handshake(TlsFault::Io(std::io::ErrorKind::ConnectionReset.into()));
        assert!(!broken.is_about_credentials() && next(119, &broken).is_some() && next(120, &broken).is_none());
        // Both sides of an authority that is being replaced.
        let unknown = handshake(TlsFault::Certificate(CertificateFlaw::UnknownIssuer));
        let unusable = ApiError::Dial(Box::new(TlsError::Client.into()));
        for replaced in [status(401, None), unknown, unusable] {
            assert!(replaced.is_about_credentials(), "{replaced}");
            assert!(next(599, &replaced).is_some() && next(600, &replaced).is_none());
        }
        for lasting in [status(403, None), status(404, None), status(409, None), status(422, None), ApiError::Form] {
            assert_eq!(next(0, &lasting), None);
        }
    }
}
