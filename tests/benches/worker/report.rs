//! What is printed: one row per figure, beside this machine's own and the target.

use std::time::Duration;

/// Counts the targets on the way.
#[derive(Default)]
pub struct Report {
    targets: usize,
    missed: Vec<String>,
}

pub struct Row {
    what: String,
    worker: String,
    machine: String,
    ratio: String,
    target: Option<(String, bool)>,
}

impl Report {
    /// How many targets were met, and which were not.
    pub fn sum_up(&self) {
        println!("\n{} of {} targets met", self.targets - self.missed.len(), self.targets);
        for missed in &self.missed {
            println!("  missed: {missed}");
        }
    }
}

/// Begins a subject.
pub fn subject(name: &str) {
    println!("\n{name:<46} {:>13}   {:<44} {:>7}   target", "worker", "this machine", "ratio");
}

/// A remark on what was just printed.
pub fn note(text: &str) {
    println!("    {text}");
}

impl Row {
    /// A figure of the worker's.
    pub fn new(what: &str, worker: impl Into<String>) -> Self {
        let none = String::new;
        Self { what: what.to_owned(), worker: worker.into(), machine: none(), ratio: none(), target: None }
    }

    /// The machine's own figure: what it is, and worker to machine.
    pub fn beside(mut self, what: &str, machine: &str, ratio: f64) -> Self {
        self.machine = format!("{machine}  {what}");
        self.ratio = format!("{ratio:.2}");
        self
    }

    /// The figure must not exceed a limit.
    pub fn at_most(mut self, figure: f64, limit: f64, unit: &str) -> Self {
        self.target = Some((format!("≤ {}{unit}", limit_text(limit)), figure <= limit));
        self
    }

    /// The figure must reach a limit.
    pub fn at_least(mut self, figure: f64, limit: f64, unit: &str) -> Self {
        self.target = Some((format!("≥ {}{unit}", limit_text(limit)), figure >= limit));
        self
    }

    pub fn print(self, report: &mut Report) {
        let (target, verdict) = match &self.target {
            None => ("", ""),
            Some((target, true)) => (target.as_str(), "met"),
            Some((target, false)) => (target.as_str(), "MISSED"),
        };
        let Self { what, worker, machine, ratio, .. } = &self;
        println!("  {what:<44} {worker:>13}   {machine:<44} {ratio:>7}   {target:<16} {verdict}");
        report.targets += usize::from(self.target.is_some());
        if verdict == "MISSED" {
            report.missed.push(format!("{what}: {worker}, target {target}"));
        }
    }
}

pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    /// The sample below which this many of a hundred lie.
    pub fn percentile(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)]
    }

    pub fn median(&self) -> Duration {
        self.percentile(50)
    }
}

/// A figure of the worker beside that of the other one, when two are measured.
pub fn against<T>(what: &str, workers: &[T], figure: impl Fn(&T) -> f64, show: impl Fn(f64) -> String) {
    if let [this, other] = workers {
        let (this, other) = (figure(this), figure(other));
        println!(
            "  {what:<44} {:>13}   {:<44} {:>7.2}",
            show(this),
            format!("{}  the other worker", show(other)),
            this / other
        );
    }
}

/// The middle one of some figures.
pub fn median(figures: &[f64]) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

pub fn times(this: Duration, that: Duration) -> f64 {
    this.as_secs_f64() / that.as_secs_f64()
}

pub fn micros(duration: Duration) -> String {
    in_micros(duration.as_secs_f64())
}

pub fn in_micros(seconds: f64) -> String {
    format!("{:.1} µs", seconds * 1e6)
}

pub fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

pub fn per_second(rate: f64) -> String {
    format!("{}/s", thousands(rate))
}

/// A limit: a whole number, or one with the places that it needs.
fn limit_text(limit: f64) -> String {
    if limit.fract() == 0.0 { thousands(limit) } else { limit.to_string() }
}

/// A whole number whose thousands are told apart.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

pub fn mebibytes(bytes: f64) -> String {
    format!("{:.2} MiB", bytes / f64::from(1 << 20))
}
