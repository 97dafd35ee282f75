//! What hundreds of exports that fail leave behind. One test only: memory and threads are counted per process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::collector::{Answer, Collector};
use common::{PATIENCE, env, pushing, start};

/// Exports before the first look: what is allocated once is there by then.
const BEFORE: usize = 100;
const EXPORTS: usize = 300;

/// Resident memory in KiB, and threads.
fn held() -> (usize, usize) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (field("VmRSS:"), field("Threads:"))
}

#[test]
fn a_collector_that_takes_nothing_costs_no_memory_and_no_thread() {
    for protocol in ["http/protobuf", "http/json", "grpc"] {
        let collector = if protocol == "grpc" {
            Collector::grpc(&vec![Answer::status(13); BEFORE + EXPORTS])
        } else {
            Collector::http(&vec![Answer::status(500); BEFORE + EXPORTS])
        };
        let mut variables = pushing(&collector.url, "1");
        variables.push(("OTEL_EXPORTER_OTLP_PROTOCOL", protocol));
        let (_, telemetry) = start(env(&variables));
        (0..BEFORE).for_each(|_| drop(collector.next()));
        let (memory, threads) = held();
        (0..EXPORTS).for_each(|_| drop(collector.next()));
        let (memory_after, threads_after) = held();
        assert!(memory_after < memory + 1024, "{protocol}: {memory} KiB, then {memory_after} KiB");
        // A name is looked up on a thread that may still be there at either look.
        assert!(threads_after <= threads + 1, "{protocol}: {threads} threads, then {threads_after}");
        telemetry.shutdown(PATIENCE);
    }
}
