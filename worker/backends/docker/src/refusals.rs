//! How often something is asked for again that an engine refuses while somebody may clean up on it.
//!
//! An engine whose images, containers and volumes are pruned beside a task refuses one call or the other. Each version words
//! that in its own way, and says nothing that tells it from a refusal for good. So a refusal is believed when it is given
//! again and again: often where the words are known, and a few times where they are not.

use super::error::EngineError;

/// How often something is asked for of which a part is known to be gone.
const MOST_GONE: u32 = 20;
/// How often an engine must refuse, in whatever words, to be believed.
const ANSWERS: u32 = 3;

/// What an engine has refused so far.
#[derive(Debug, Default)]
pub struct Refusals {
    gone: u32,
    other: u32,
}

impl Refusals {
    /// Whether to ask again, with a part made anew that is gone.
    pub const fn let_go(&mut self) -> bool {
        self.gone += 1;
        self.gone < MOST_GONE
    }

    /// Whether to ask again after this answer, which may mean that a part is gone.
    pub fn doubt(&mut self, error: &EngineError) -> bool {
        // All else is about what was asked for: it would be the same again.
        let is_vague = error.status().is_some_and(|status| matches!(status, 404 | 409 | 500..));
        self.other += u32::from(is_vague);
        is_vague && self.other < ANSWERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> EngineError {
        EngineError::Status { status, message: "in words of its own".into() }
    }

    #[test]
    fn what_may_be_a_prune_is_believed_the_third_time() {
        let mut refusals = Refusals::default();
        let answers: Vec<bool> = [404, 500, 409].map(|status| refusals.doubt(&refused(status))).into();
        assert_eq!(answers, [true, true, false]);
    }

    #[test]
    fn what_was_asked_wrongly_is_believed_at_once() {
        for status in [400, 401, 403, 413] {
            assert!(!Refusals::default().doubt(&refused(status)), "{status}");
        }
        assert!(!Refusals::default().doubt(&EngineError::Form));
    }

    #[test]
    fn what_is_gone_is_made_again_but_not_for_ever() {
        let mut refusals = Refusals::default();
        assert_eq!((0..100).filter(|_| refusals.let_go()).count(), 19);
    }
}
