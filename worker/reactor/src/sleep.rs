//! The clock that goes on while the machine is suspended, and waiting for a moment of it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_io::Timer;
use oz_worker_core::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// How long a wait may go on without a look at the clock: how late the end of one is noticed that fell into a suspend of
/// the machine.
const LOOK: Duration = Duration::from_secs(5);

/// The time since boot, suspends included.
pub(super) fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    Instant::new(Duration::new(seconds, nanos))
}

/// Ends at its moment. The reactor's timers stand still while the machine is suspended, so none is trusted for long.
pub(super) struct Sleep {
    at: Instant,
    timer: Timer,
}

impl Sleep {
    pub(super) fn until(at: Instant) -> Self {
        Self { at, timer: Timer::after(at.since(now()).min(LOOK)) }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            let left = self.at.since(now());
            if left.is_zero() {
                return Poll::Ready(());
            }
            self.timer.set_after(left.min(LOOK));
        }
        Poll::Pending
    }
}
