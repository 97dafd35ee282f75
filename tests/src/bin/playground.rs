//! `playground`: see the worker work, with nothing but this repository. The README's first command.

use std::{
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::mpsc::channel,
    thread,
};

use argh::FromArgs;
use oz_worker_tests::playground::{News, Playground, Stage};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// Starts a control plane and a worker on this machine, sends a few tasks, and tells what happens. Stays up for tasks of
/// your own until Ctrl-C.
#[derive(FromArgs)]
struct Flags {
    /// end after the story: exit 0 when everything happened as it should
    #[argh(switch)]
    once: bool,

    /// what runs the tasks: direct (the default), or docker, with an engine on this machine
    #[argh(option, default = "Stage::Direct")]
    backend: Stage,
}

fn main() -> ExitCode {
    let flags: Flags = argh::from_env();
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("cannot catch signals: {error}")),
    };
    // Caught from the start: a Ctrl-C in the middle of the story cleans up as well.
    let (interrupted, until_interrupted) = channel();
    let (news, events) = channel();
    let interrupt = news.clone();
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            // Whichever of the two still listens.
            let _ = interrupt.send(News::Interrupted);
            let _ = interrupted.send(());
        }
    });

    // The harness panics where it has no answer to give; a person is told in one line.
    panic::set_hook(Box::new(|_| {}));
    match panic::catch_unwind(AssertUnwindSafe(|| Playground::tell(flags.backend, news, events))) {
        Ok(Ok(playground)) => {
            if !flags.once {
                println!("\n    Ctrl-C ends it and leaves nothing behind.");
                // An error means that no signal can come any more: then there is nothing to stay up for.
                let _ = until_interrupted.recv();
            }
            playground.end();
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => failed(&error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
            failed(text.unwrap_or("something went wrong"))
        }
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("playground: {why}");
    ExitCode::FAILURE
}
