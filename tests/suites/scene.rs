//! What most tests begin with: a server, an agent, a worker with the direct backend, and its first session.

use oz_worker_tests::{
    agent::Agent,
    connection::Connection,
    message::{Assignment, Cancellation},
    server::Server,
    worker::{Launch, Worker},
};
use serde_json::Value;

pub struct Scene {
    /// Declared first: dropped first, so that a failing test shows the worker's log before all else goes.
    pub worker: Worker,
    pub session: Connection,
    pub server: Server,
    pub agent: Agent,
}

impl Scene {
    /// As plain as it gets.
    pub fn new() -> Self {
        Self::with(|launch| launch)
    }

    /// With more flags, keys or variables.
    pub fn with(adjust: impl FnOnce(Launch) -> Launch) -> Self {
        let (server, agent) = (Server::start(), Agent::new());
        Self::started(&adjust(Launch::direct(&server, &agent)), server, agent)
    }

    /// With the command backend; the agent is the dispatch command.
    pub fn command(dispatch: Agent, adjust: impl FnOnce(Launch) -> Launch) -> Self {
        let server = Server::start();
        Self::started(&adjust(Launch::command(&server, &dispatch)), server, dispatch)
    }

    fn started(launch: &Launch, server: Server, agent: Agent) -> Self {
        let worker = launch.start();
        let mut session = server.accept();
        // Our 101 is written; that the worker has read it too is known from an answer.
        session.ping(b"established");
        session.expect_pong(b"established");
        Self { worker, session, server, agent }
    }

    /// Assigns a task and waits for its claim.
    pub fn claim(&mut self, assignment: &Assignment) {
        let task_id = assignment.as_ref()["data"]["task_id"].clone();
        self.session.send(assignment);
        let claimed = self.session.expect("task_claimed");
        assert_eq!(claimed["task_id"], task_id);
        assert_eq!(claimed["worker_id"], self.worker.launch.id());
    }

    /// Assigns a task and gives its terminal message, envelope and all.
    pub fn run(&mut self, assignment: &Assignment) -> Value {
        self.claim(assignment);
        self.end_of(assignment.as_ref()["data"]["task_id"].as_str().unwrap())
    }

    /// Assigns a task that must fail; gives the data of `task_failed`.
    pub fn fail(&mut self, assignment: &Assignment) -> Value {
        self.claim(assignment);
        self.session.expect("task_failed")
    }

    /// Cancels a task that runs, and waits until the worker says so.
    pub fn cancel(&mut self, task_id: &str) {
        self.session.send(Cancellation::of(task_id));
        let end = self.session.expect("task_completed");
        assert_eq!(
            end,
            serde_json::json!({
                "task_id": task_id, "message": "Task cancelled by user request.", "task_state": "CANCELLED"
            })
        );
    }

    /// The next frame, which must be this task's terminal message.
    pub fn end_of(&mut self, task_id: &str) -> Value {
        let frame = self.session.recv();
        assert!(frame["type"] == "task_completed" || frame["type"] == "task_failed", "no end of {task_id}: {frame}");
        assert_eq!(frame["data"]["task_id"], task_id);
        frame
    }

    /// This task's terminal message on a session that is not the one of its claim: a claim that is not proven to have
    /// arrived comes once more before it.
    pub fn end_on_next_session(&mut self, task_id: &str) -> Value {
        loop {
            let frame = self.session.recv();
            assert_eq!(frame["data"]["task_id"], task_id, "{frame}");
            if frame["type"] != "task_claimed" {
                return frame;
            }
        }
    }

    /// The worker still does its main job: a good task runs and its end is reported.
    pub fn still_works(&mut self, task_id: &str) {
        let end = self.run(&Assignment::new(task_id));
        assert_eq!(
            end,
            serde_json::json!({
                "type": "task_completed", "data": {"task_id": task_id, "message": "Task completed successfully"}
            })
        );
    }

    /// Warnings in the log up to the end of this task, which succeeded. (The log is written in order, but later than frames.)
    pub fn warnings_before(&self, task_id: &str) -> Vec<String> {
        self.worker.wait_for_line(&format!("task succeeded task_id={task_id}"));
        self.worker.lines_with("WARN")
    }

    /// Lets the worker know that the end it reported last has arrived, and waits until it does.
    pub fn settle(&mut self) {
        let serial = self.session.expect_ping_within(oz_worker_tests::BOUND);
        assert!(!serial.is_empty(), "the Ping after an end carries a serial number");
        // Our Pong is on its way; an answer to what we send after it proves that it was read.
        self.session.ping(b"after the Pong");
        self.session.expect_pong(b"after the Pong");
    }

    /// Takes the worker's next dial as the session.
    pub fn accept_again(&mut self) {
        self.session = self.server.accept();
    }
}
