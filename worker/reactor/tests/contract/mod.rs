//! What the worker relies on in a runtime, on real sockets and processes. Each runtime's `tests/runtime.rs` has this as a
//! module, and says beside it how it is made.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt, future};
use oz_worker::Runtime;
use oz_worker::host::Owner;
use oz_worker::reactor::{OnReactor, Tasks};
use oz_worker::runtime::{Command, Exit, Process as _, Signal, Tree as _};

use super::{has_nodelay, runtime};

/// Far more than anything here takes.
const BOUND: Duration = Duration::from_secs(20);

fn drive<T>(runtime: &OnReactor<impl Tasks>, future: impl Future<Output = T>) -> T {
    let late = runtime.sleep_until(runtime.now().plus(BOUND));
    runtime.drive(future.or(async {
        late.await;
        panic!("not in time")
    }))
}

fn shell(script: &str) -> Command {
    Command {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/".into(),
        input: false,
    }
}

#[test]
fn a_process_takes_input_gives_output_and_ends() {
    let runtime = runtime();
    let mut process = runtime.start(&Command { input: true, ..shell("cat; echo bye >&2; exit 3") }, None).unwrap();
    let (mut input, mut output) = (process.input().unwrap(), process.output().unwrap());
    let (text, exit) = drive(&runtime, async {
        // More than a pipe holds, so that writing has to wait for reading.
        let sent = "x".repeat(300_000);
        let write = async {
            input.write_all(sent.as_bytes()).await.unwrap();
            drop(input);
        };
        let mut text = String::new();
        let ((), read) = future::zip(write, output.read_to_string(&mut text)).await;
        read.unwrap();
        let exit = process.wait().await.unwrap();
        assert_eq!(process.wait().await.unwrap(), exit, "it may be awaited again");
        (text, exit)
    });
    assert_eq!(text.len(), 300_004);
    assert!(text.ends_with("bye\n"));
    assert_eq!(exit, Exit::Code(3));
}

#[test]
fn a_wait_that_was_given_up_loses_nothing() {
    let runtime = runtime();
    let mut process = runtime.start(&shell("exec sleep 1000"), None).unwrap();
    drive(&runtime, async {
        assert!(future::poll_once(process.wait()).await.is_none());
        process.signal_group(Signal::Terminate);
        assert_eq!(process.wait().await.unwrap(), Exit::Signal(15));
    });
}

#[test]
fn tasks_run_beside_the_calling_thread_with_trees_of_their_own() {
    let runtime = runtime();
    runtime.adopt(&Owner::new("runtime")).unwrap();
    let (done, mut ended) = (async_channel::unbounded(), 0);
    for number in 0..50 {
        let (task, done) = (runtime.clone(), done.0.clone());
        runtime.spawn(async move {
            let tree = task.tree();
            let script = format!("(setsid sleep 1000 &); exit {number}");
            let mut process = task.start(&shell(&script), Some(&tree)).unwrap();
            let exit = process.wait().await.unwrap();
            while !tree.is_empty() {
                tree.kill();
                task.sleep_until(task.now().plus(Duration::from_millis(1))).await;
            }
            done.send((number, exit)).await.unwrap();
        });
    }
    drive(&runtime, async {
        while ended < 50 {
            let (number, exit) = done.1.recv().await.unwrap();
            assert_eq!(exit, Exit::Code(number));
            ended += 1;
        }
    });
    runtime.release();
}

#[test]
fn a_task_that_panics_takes_no_other_with_it() {
    let runtime = runtime();
    for _ in 0..10 {
        runtime.spawn(async { panic!("as a test") });
    }
    let (send, receive) = async_channel::bounded(1);
    runtime.spawn(async move { send.send(()).await.unwrap() });
    drive(&runtime, receive.recv()).unwrap();
}

#[test]
fn no_more_than_two_pieces_of_blocking_work_run_at_once() {
    let runtime = runtime();
    let (release, gate) = mpsc::channel::<()>();
    let (started, starts) = mpsc::channel();
    let (gate, running) = (Arc::new(Mutex::new(gate)), Arc::new(AtomicU32::new(0)));
    let work: Vec<_> = (0..20)
        .map(|number| {
            let (gate, running, started) = (gate.clone(), running.clone(), started.clone());
            runtime.unblock(move || {
                started.send(running.fetch_add(1, Relaxed) + 1).unwrap();
                gate.lock().unwrap().recv().unwrap();
                running.fetch_sub(1, Relaxed);
                number
            })
        })
        .collect();
    let first = [starts.recv_timeout(BOUND).unwrap(), starts.recv_timeout(BOUND).unwrap()];
    assert!(first == [1, 2] || first == [2, 1], "{first:?}");
    (0..20).for_each(|_| release.send(()).unwrap());
    drive(&runtime, async {
        for (number, work) in work.into_iter().enumerate() {
            assert_eq!(work.await, number);
        }
    });
    assert!(starts.try_iter().all(|running| running <= 2));
}

#[test]
fn connects_and_resolves() {
    let runtime = runtime();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    drive(&runtime, async {
        let addresses = runtime.resolve("127.0.0.1", port).await.unwrap();
        let mut stream = runtime.connect(addresses[0]).await.unwrap();
        assert!(has_nodelay(&stream));
        stream.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        assert!(runtime.resolve("no.such.host.invalid", 1).await.is_err());
    });
    server.join().unwrap();
}

#[test]
fn a_sleep_ends_at_its_moment_and_one_without_end_does_not() {
    let runtime = runtime();
    let at = runtime.now().plus(Duration::from_millis(30));
    let mut endless = runtime.sleep_until(runtime.now().plus(Duration::MAX));
    drive(&runtime, async {
        runtime.sleep_until(at).await;
        assert!(runtime.now() >= at);
        runtime.sleep_until(at).await;
        assert!(future::poll_once(&mut endless).await.is_none());
    });
}
