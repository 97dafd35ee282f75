//! The contract of a runtime, kept by smol.
#![allow(clippy::unwrap_used)]

#[path = "../../worker/reactor/tests/contract/mod.rs"]
mod contract;

use std::time::Duration;

use oz_worker_reactor::{OnReactor, Stream};
use oz_worker_runtime::{Lane, Runtime};
use oz_worker_runtime_smol::{LoopSocket, Smol};
use rustix::net::sockopt;

fn runtime() -> OnReactor<Smol> {
    OnReactor::new(Smol::new().unwrap())
}

fn send_buffer_and_nodelay<U>(stream: &Stream<LoopSocket, U>) -> (usize, bool) {
    match stream {
        Stream::Tcp(stream) => {
            let stream = stream.get_ref();
            (sockopt::socket_send_buffer_size(stream).unwrap(), stream.nodelay().unwrap())
        }
        Stream::Unix(_) => panic!("not over TCP"),
    }
}

#[test]
fn a_task_goes_on_on_the_lane_that_it_waited_for_and_for_one_step_only() {
    let runtime = runtime();
    let (tell, told) = async_channel::unbounded();
    let task = runtime.clone();
    runtime.spawn(async move {
        let here = || std::thread::current().name().unwrap_or_default().to_owned();
        let mut names = vec![here()];
        task.unblock(Lane::Finish, || ()).await;
        names.push(here());
        task.sleep_until(task.now().plus(Duration::from_millis(1))).await;
        names.push(here());
        tell.send(names).await.unwrap();
    });
    let names = runtime.drive(told.recv()).unwrap();
    assert_eq!(names, ["oz-tasks", "oz-finish-1", "oz-tasks"]);
}
