//! `oz-local-control-plane`: try a worker's configuration against a server of one's own before going live.

use std::process::ExitCode;

use argh::FromArgs;
use oz_worker_tests::control_plane::{ControlPlane, http, print::Printer};

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
}

fn main() -> ExitCode {
    let flags: Flags = argh::from_env();
    let printer = Printer::for_stdout();
    let plane = match ControlPlane::start(&flags.listen, move |event| printer.print(event)) {
        Ok(plane) => plane,
        Err(error) => return unusable("--listen", &flags.listen, &error),
    };
    let control = match http::serve(plane.clone(), &flags.control) {
        Ok(address) => address,
        Err(error) => return unusable("--control", &flags.control, &error),
    };
    printer.say(&format!("workers connect with --web-socket-url {}", plane.url()));
    printer.say(&format!("assign a task with curl -d @task.json http://{control}/assign"));
    loop {
        // Everything happens on other threads; unpark comes from nobody, and would do no harm.
        std::thread::park();
    }
}

fn unusable(flag: &str, address: &str, error: &std::io::Error) -> ExitCode {
    eprintln!("cannot listen on {flag} {address}: {error}; choose another address, such as 127.0.0.1:0");
    ExitCode::FAILURE
}
