//! A worker that is asked to leave, and how long it may take.

use std::time::Duration;

use futures_lite::FutureExt;

use crate::executor::OUTSIDE;
use crate::scene::Scene;

impl Scene {
    /// SIGTERM, perhaps twice.
    pub fn ask_to_leave(&self) {
        self.signal("SIGTERM");
        if self.executor.chance(30) {
            // Of this process, not of one that begins in its place.
            let (own, left) = (self.clone(), self.left());
            self.executor.spawn(OUTSIDE, async move {
                own.executor.sleep(own.executor.duration(Duration::from_millis(1), Duration::from_secs(60))).await;
                if !left.is_closed() {
                    own.signal("SIGINT");
                }
            });
        }
    }

    /// Law: whatever happens, it has left within the bound. Gives whether it has.
    pub async fn leaves_in_time(&self) -> bool {
        // A clock that is wrong by 0.05 %, and timers that were slept over.
        let bound = self.operator.shutdown_bound().mul_f64(1.001) + Duration::from_secs(6);
        let left = self.left();
        let gone = async {
            let _ = left.recv().await;
            true
        };
        let late = async {
            self.executor.sleep(bound).await;
            false
        };
        let is_gone = gone.or(late).await;
        if is_gone {
            self.journal.note(|| "the worker has left".to_owned());
        } else {
            self.watch.violate(format!("the worker has not left {bound:?} after it was asked to"));
        }
        is_gone
    }
}
