//! Work that goes on beside everything else, and that a worker waits for before it leaves.

use std::sync::{Arc, Mutex, PoisonError};

use crate::Latch;

/// Counts who works aside.
pub struct Aside {
    /// None any more once the worker leaves.
    own: Mutex<Option<Arc<Working>>>,
    /// Set when nobody works aside any more.
    over: Latch,
}

/// To be held for as long as the work goes on.
pub struct Working(Latch);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.set();
    }
}

impl Default for Aside {
    fn default() -> Self {
        let over = Latch::default();
        Self { own: Mutex::new(Some(Arc::new(Working(over.clone())))), over }
    }
}

impl Aside {
    /// What is to be held while something is done aside; `None` once the worker leaves, which does not wait for it then.
    pub fn working(&self) -> Option<Arc<Working>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The worker leaves: ends when nobody works aside any more.
    pub async fn over(&self) {
        drop(self.own.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.over.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::FutureExt;
    use futures_lite::future::{block_on, ready};

    use super::*;

    #[test]
    fn whoever_leaves_waits_for_those_who_have_begun() {
        let aside = Aside::default();
        let (first, second) = (aside.working(), aside.working());
        assert!(first.is_some());
        let is_over = || {
            block_on(
                async {
                    aside.over().await;
                    true
                }
                .or(ready(false)),
            )
        };
        assert!(!is_over());
        assert!(aside.working().is_none());
        drop(first);
        assert!(!is_over());
        drop(second);
        assert!(is_over());
    }
}
