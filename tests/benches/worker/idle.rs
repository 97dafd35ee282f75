//! A worker that has nothing to do: memory, processor time, threads, and the size of its file.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use oz_worker_tests::{peers::otelcol::Setup, worker::http_get};

use crate::{
    Effort, proc,
    report::{self, Report, Row, mebibytes},
    scene::{Agents, Launch},
};

pub fn measure(report: &mut Report, effort: Effort, worker: &Path) {
    report::subject("idle, with the Prometheus exporter");
    let agents = Agents::new();
    let mut scene = Launch::new(&agents.exits_at_once(), 0).start();
    scene.peer.sync();
    let least = Sleeping::start();

    assert_eq!(http_get(&scene.metrics, "/metrics").0, 200);
    let (pid, over) = (scene.pid(), Duration::from_secs(effort.pick(20, 10)));
    let before = proc::cpu(pid);
    scene.peer.idle(over);
    let cpu = proc::cpu(pid).saturating_sub(before).as_secs_f64() * 1e3 / over.as_secs_f64();
    let memory = proc::memory(pid);
    let (code, resident_code) = proc::code(pid);
    let least_memory = proc::resident(least.0.id());
    let threads = proc::threads(pid);
    scene.stop(|| ());

    Row::new("resident memory, after a scrape", mebibytes(memory.rss))
        .beside("a sleeping `sleep`", &mebibytes(least_memory), memory.rss / least_memory)
        .at_most(memory.rss / f64::from(1 << 20), 6.0, " MiB")
        .print(report);
    let (anonymous, proportional) = (mebibytes(memory.anonymous), mebibytes(memory.proportional));
    report::note(&format!("not backed by a file: {anonymous}; shared pages counted in part (Pss): {proportional}"));
    // The worker gives its code back once it has started; what is resident here has been needed since.
    let (code, resident_code) = (mebibytes(code), mebibytes(resident_code));
    let given_back = mebibytes(memory.peak - memory.rss);
    report::note(&format!("of its {code} of code, {resident_code} resident; {given_back} given back since its peak"));
    Row::new("processor time per second", format!("{cpu:.3} ms")).at_most(cpu, 1.0, " ms").print(report);
    Row::new("threads", threads.to_string()).at_most(threads as f64, 12.0, "").print(report);
    let size = fs::metadata(worker).unwrap().len() as f64;
    Row::new("release binary", mebibytes(size)).at_most(size / f64::from(1 << 20), 8.0, " MiB").print(report);
}

/// The dearest way to export: to a scraper and, over gRPC, to a collector at once.
pub fn measure_pushing(report: &mut Report, effort: Effort) {
    report::subject("idle, scraped and pushing over gRPC");
    let Some(collector) = Setup::plain().start() else {
        return report::note("not measured: no OpenTelemetry Collector");
    };
    let agents = Agents::new();
    let mut scene = Launch::new(&agents.exits_at_once(), 0)
        .env("OTEL_METRICS_EXPORTER", "prometheus,otlp")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.grpc())
        .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
        .start();
    scene.peer.sync();
    collector.wait_for("a tenth export", |exports| exports.get(9).map(|_| ()));
    assert_eq!(http_get(&scene.metrics, "/metrics").0, 200);
    scene.peer.idle(Duration::from_secs(effort.pick(20, 5)));
    let (memory, threads) = (proc::memory(scene.pid()), proc::threads(scene.pid()));
    scene.stop(|| ());
    Row::new("resident memory", mebibytes(memory.rss))
        .at_most(memory.rss / f64::from(1 << 20), 10.0, " MiB")
        .print(report);
    report::note(&format!(
        "not backed by a file: {}; after {} exports",
        mebibytes(memory.anonymous),
        collector.exports().len()
    ));
    Row::new("threads", threads.to_string()).at_most(threads as f64, 12.0, "").print(report);
}

/// About the least that a process can be.
struct Sleeping(Child);

impl Sleeping {
    fn start() -> Self {
        Self(Command::new("sleep").arg("100000").stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sleeping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
