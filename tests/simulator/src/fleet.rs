//! Many workers and one server, which loses all of them at once.

use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use oz_worker_telemetry::Recorder;

use crate::executor::{Executor, Machine, OUTSIDE};
use crate::journal::Journal;
use crate::machine::{Clock, Simulated};
use crate::network::Network;
use crate::scene::{Operator, run_loop};
use crate::server::{read_head, upgrade};
use crate::watch::Watch;

/// When the server loses all connections.
const DROP: Duration = Duration::from_secs(20);

/// Starts so many workers, drops all of them at once after a while, refuses dials for as long as `outage`, and gives the
/// times of all dials after the drop until each worker is back, counted from the drop.
pub fn drop_all(seed: u64, workers: usize, outage: Duration) -> Vec<Duration> {
    let executor = Executor::new(seed);
    let journal = Journal::new(&executor);
    let (network, accepted) = Network::new(&executor, &journal);
    let operator =
        Operator { dispatches: true, contains: false, orchestrates: None, proxy: false, ..Operator::draw(&executor) };
    for number in 1..=workers {
        let watch = Watch::new(&journal, 0);
        let clock = Clock { start: Duration::ZERO, drift: executor.random(|random| random.i32(-500..=500)) };
        let machine = Simulated::new(Machine(number), clock, &network, &watch, &journal);
        executor.spawn(Machine(number), run_loop(&machine, &operator, Recorder::disabled()));
    }
    let (drops, dropped) = async_channel::bounded::<()>(1);
    let (arrives, arrivals) = async_channel::unbounded();
    let own = executor.clone();
    executor.spawn(OUTSIDE, async move {
        while let Ok(mut stream) = accepted.recv().await {
            let (dropped, arrives) = (dropped.clone(), arrives.clone());
            own.spawn(OUTSIDE, async move {
                let Some((request, _)) = read_head(&mut stream).await else { return };
                let (upgrade, _) = upgrade(&request);
                // With a message: after a good connection the next dial comes soon.
                let cancellation = br#"{"type":"task_cancellation","data":{"task_id":"T"}}"#;
                let frame = [&[0x81, u8::try_from(cancellation.len()).unwrap()], &cancellation[..]].concat();
                if stream.write_all(&[upgrade.as_bytes(), &frame].concat()).await.is_err() {
                    return;
                }
                let _ = arrives.try_send(());
                let mut scratch = [0; 64];
                let reading = async { while stream.read(&mut scratch).await.is_ok_and(|length| length > 0) {} };
                // The second time around it stays until the end.
                let cut = async {
                    let already = dropped.is_closed();
                    let _ = dropped.recv().await;
                    if already {
                        std::future::pending::<()>().await;
                    }
                };
                reading.or(cut).await;
            });
        }
    });
    let (own, ways) = (executor.clone(), network.clone());
    let root = async move {
        for _ in 0..workers {
            let _ = arrivals.recv().await;
        }
        own.sleep_until(DROP).await;
        ways.set_outage(!outage.is_zero());
        drops.close();
        own.sleep(outage).await;
        ways.set_outage(false);
        for _ in 0..workers {
            let _ = arrivals.recv().await;
        }
    };
    executor.run(Duration::from_secs(24 * 3600), root).unwrap();
    let dials = network.dials().into_iter().filter_map(|at| at.checked_sub(DROP)).collect();
    executor.close();
    dials
}
