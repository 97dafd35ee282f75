//! `oz-local-control-plane`: try a worker's configuration against a server of one's own before going live.

use std::{process::ExitCode, sync::mpsc::channel};

use argh::FromArgs;
use oz_worker_tests::control_plane::{ControlPlane, Event, attempt, http, print::Printer};

/// A control plane for one machine. Workers connect to it with any API key; every frame is printed; tasks are assigned
/// and cancelled over HTTP.
#[derive(FromArgs)]
#[argh(example = "curl -d @task.json http://127.0.0.1:8081/assign")]
#[argh(example = "curl -X POST http://127.0.0.1:8081/cancel/TASK_ID")]
#[argh(example = "curl http://127.0.0.1:8081/tasks")]
struct Flags {
    /// where workers connect (default 127.0.0.1:8080)
    #[argh(option, default = "\"127.0.0.1:8080\".to_owned()")]
    listen: String,
    /// where tasks are assigned and cancelled over HTTP (default 127.0.0.1:8081)
    #[argh(option, default = "\"127.0.0.1:8081\".to_owned()")]
    control: String,
    /// run one task in this image on the first worker that connects, and exit 0 when it completed
    #[argh(option, arg_name = "image", long = "try")]
    attempt: Option<String>,
}

fn main() -> ExitCode {
    let flags: Flags = argh::from_env();
    let printer = Printer::for_stdout();
    let (news, events) = channel();
    let observe = move |event: &Event| {
        printer.print(event);
        // Without an attempt there is nobody who wants to know.
        let _ = news.send(event.clone());
    };
    let plane = match ControlPlane::start(&flags.listen, observe) {
        Ok(plane) => plane,
        Err(error) => return unusable("--listen", &flags.listen, &error),
    };
    let control = match http::serve(plane.clone(), &flags.control) {
        Ok(address) => address,
        Err(error) => return unusable("--control", &flags.control, &error),
    };
    printer.say(&format!("workers connect with --web-socket-url {}", plane.url()));
    printer.say(&format!("assign a task with curl -d @task.json http://{control}/assign"));
    if let Some(image) = flags.attempt {
        return match attempt::run(&plane, &events, &image) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("{problem}");
                ExitCode::FAILURE
            }
        };
    }
    drop(events);
    loop {
        // Everything happens on other threads; unpark comes from nobody, and would do no harm.
        std::thread::park();
    }
}

fn unusable(flag: &str, address: &str, error: &std::io::Error) -> ExitCode {
    eprintln!("cannot listen on {flag} {address}: {error}; choose another address, such as 127.0.0.1:0");
    ExitCode::FAILURE
}
