//! What the worker relies on in a runtime, on real sockets and processes. Each runtime's `tests/runtime.rs` has this as a
//! module, and says beside it how it is made.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt, future};
use oz_worker_host::owner;
use oz_worker_reactor::{LocalMachine, MOST_THREADS, OnReactor, Tasks};
use oz_worker_runtime::{Address, Command, Exit, Host, Lane, Machine as _, Pipes, Process, Runtime, Signal, Tree as _};

use super::{runtime, send_buffer_and_nodelay};

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
        env: [("PATH", "/usr/bin:/bin")].into_iter().collect(),
        cwd: Some("/".into()),
        input: false,
        output: Pipes::Merged,
    }
}

/// Starts a process as a backend does: where it may block.
async fn start<R: Host>(runtime: &R, command: Command) -> impl Process + use<R> {
    runtime.on(Lane::Start, move |machine| machine.start(&command, None)).await.unwrap()
}

#[test]
fn a_process_takes_input_gives_output_and_ends() {
    let runtime = runtime();
    let (text, exit) = drive(&runtime, async {
        let mut process = start(&runtime, Command { input: true, ..shell("cat; echo bye >&2; exit 3") }).await;
        let (mut input, mut output) = (process.input().unwrap(), process.output().unwrap());
        assert!(process.errors().is_none());
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
fn standard_error_comes_apart_where_that_is_asked_for() {
    let runtime = runtime();
    drive(&runtime, async {
        let command = Command { output: Pipes::Apart, ..shell("echo out; echo err >&2") };
        let mut process = start(&runtime, command).await;
        let (mut output, mut errors) = (String::new(), String::new());
        process.output().unwrap().read_to_string(&mut output).await.unwrap();
        process.errors().unwrap().read_to_string(&mut errors).await.unwrap();
        assert_eq!((output.as_str(), errors.as_str()), ("out\n", "err\n"));
        assert_eq!(process.wait().await.unwrap(), Exit::Code(0));
    });
}

#[test]
fn a_wait_that_was_given_up_loses_nothing() {
    let runtime = runtime();
    drive(&runtime, async {
        let mut process = start(&runtime, shell("exec sleep 1000")).await;
        assert!(future::poll_once(process.wait()).await.is_none());
        process.signal_group(Signal::Terminate);
        assert_eq!(process.wait().await.unwrap(), Exit::Signal(15));
    });
}

#[test]
fn tasks_run_beside_the_calling_thread_with_trees_of_their_own() {
    let runtime = runtime();
    let (done, mut ended) = (async_channel::unbounded(), 0);
    drive(&runtime, async {
        runtime.on(Lane::Start, |machine| machine.adopt(&owner("runtime"))).await.unwrap();
        for number in 0..50 {
            let (task, done) = (runtime.clone(), done.0.clone());
            runtime.spawn(async move {
                let script = format!("(setsid sleep 1000 &); exit {number}");
                let begin = move |machine: &LocalMachine| {
                    let tree = Arc::new(machine.tree());
                    (machine.start(&shell(&script), Some(&tree)).unwrap(), tree)
                };
                let (mut process, tree) = task.on(Lane::Start, begin).await;
                let exit = process.wait().await.unwrap();
                loop {
                    let tree = Arc::clone(&tree);
                    if task
                        .on(Lane::Finish, move |_| {
                            tree.is_empty() || {
                                tree.kill();
                                false
                            }
                        })
                        .await
                    {
                        break;
                    }
                    task.sleep_until(task.now().plus(Duration::from_millis(1))).await;
                }
                done.send((number, exit)).await.unwrap();
            });
        }
        while ended < 50 {
            let (number, exit) = done.1.recv().await.unwrap();
            assert_eq!(exit, Exit::Code(number));
            ended += 1;
        }
        runtime.on(Lane::Finish, LocalMachine::release).await;
    });
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

/// How many threads a lane has is no promise, only that they are few, and that no other lane waits for them.
#[test]
fn whatever_holds_up_a_lane_holds_up_no_other_and_is_done_in_the_end_by_few_threads() {
    const WORK: usize = 20;
    let runtime = runtime();
    let (release, gate) = mpsc::channel::<()>();
    let (started, starts) = mpsc::channel();
    let (gate, running) = (Arc::new(Mutex::new(gate)), Arc::new(AtomicUsize::new(0)));
    let held_up: Vec<_> = (0..WORK)
        .map(|number| {
            let (gate, running, started) = (gate.clone(), running.clone(), started.clone());
            runtime.unblock(Lane::Remove, move || {
                started.send(running.fetch_add(1, Relaxed) + 1).unwrap();
                gate.lock().unwrap().recv().unwrap();
                running.fetch_sub(1, Relaxed);
                number
            })
        })
        .collect();
    // At the latest when one has begun every thread that the lane will have is held up by its work: none of it ends.
    let mut most = starts.recv_timeout(BOUND).unwrap();
    for lane in Lane::ALL.into_iter().filter(|lane| *lane != Lane::Remove) {
        drive(&runtime, runtime.unblock(lane, || ()));
    }
    (0..WORK).for_each(|_| release.send(()).unwrap());
    drive(&runtime, async {
        for (number, work) in held_up.into_iter().enumerate() {
            assert_eq!(work.await, number);
        }
    });
    most = starts.try_iter().fold(most, usize::max);
    assert!(most <= MOST_THREADS, "{most} at once");
}

#[test]
fn work_that_was_begun_goes_on_when_nobody_waits_for_it_and_its_result_is_dropped() {
    struct Told(mpsc::Sender<&'static str>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }
    let runtime = runtime();
    let ((tell, told), (open, gate)) = (mpsc::channel(), mpsc::channel());
    let begun = runtime.unblock(Lane::Start, move || {
        tell.send("begun").unwrap();
        gate.recv().unwrap();
        Told(tell)
    });
    assert_eq!(told.recv_timeout(BOUND), Ok("begun"));
    drop(begun);
    open.send(()).unwrap();
    assert_eq!(told.recv_timeout(BOUND), Ok("dropped"));
}

#[test]
fn a_panic_of_blocking_work_is_that_of_whoever_waits_for_it() {
    let runtime = runtime();
    let panicked = drive(&runtime, async {
        AssertUnwindSafe(runtime.unblock(Lane::Dial, || panic!("as a test"))).catch_unwind().await.is_err()
    });
    assert!(panicked);
    assert_eq!(drive(&runtime, runtime.unblock(Lane::Dial, || 7)), 7);
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
        let mut stream = runtime.connect(&Address::Tcp(addresses[0])).await.unwrap();
        let (send_buffer, nodelay) = send_buffer_and_nodelay(&stream);
        // Linux keeps books of twice as much.
        assert!(nodelay && send_buffer <= 128 << 10, "{send_buffer}");
        stream.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        assert!(runtime.resolve("no.such.host.invalid", 1).await.is_err());
    });
    server.join().unwrap();
}

#[test]
fn connects_to_a_socket_in_the_file_system() {
    let runtime = runtime();
    let path = std::env::temp_dir().join(format!("oz-worker-socket-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || listener.accept().unwrap().0.write_all(b"hello").unwrap());
    drive(&runtime, async {
        let mut stream = runtime.connect(&Address::Unix(path.clone())).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        std::fs::remove_file(&path).unwrap();
        assert!(runtime.connect(&Address::Unix(path)).await.is_err());
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
