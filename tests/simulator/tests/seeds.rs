//! Whole runs, seed by seed: those that once found something, and fresh ones.

use oz_worker_simulator::{Options, fresh_seed, simulate};

/// Each found something once.
const ONCE_FAILING: [u64; 9] = [
    // An assignment that crossed the proof of its end on the way was taken for a new one, and run again.
    116,
    172,
    1004,
    1172, // The messages of a task that was assigned again were moved behind newer ones.
    825,
    857,           // A law took the sleep of a machine for the fault of a worker.
    1_001_001_691, // And so did it a server that read nothing, and a dial that had lost bytes, when the faults were over.
    1_010_010_578,
    1_011_008_813,
];

/// The same of containers, each with what it found.
const OF_CONTAINERS: [(u64, &str); 19] = [
    (21, "what filled a volume, and could not be removed at once, stayed"),
    (43, "so did it under a later engine"),
    (75, "a stranger's volume was filled, and removed"),
    (143, "a container was made twice, since the answer to its creation was lost"),
    (19, "and so it was under a later engine"),
    (334, "a volume got the files of another image than that which it is labelled with"),
    (306, "a task whose container had completed was told as stopped"),
    (10_630, "a container that ran was told as one that could not start"),
    (20_039, "one that never ran was told as completed"),
    (15, "so was this one under a later engine"),
    (120_017, "a container was run a second time, since the answer to its start was lost"),
    (648, "one that was to be kept ran on after its task was cancelled"),
    (1_882_935_350_264_249, "a creation that was given up was done when the container that had its name was renamed"),
    (5_003_857, "a container that was removed before it ran was told as one that somebody else removed"),
    (1_882_947_373_236_884, "a law took a container that was never started for a user of its volumes"),
    (1_001_011_077, "a removal whose answer was lost was repeated, and removed a stranger's volume of the same name"),
    (1_001_012_976, "and so it was here"),
    (1_001_016_116, "a law wanted a container to be gone whose end the server may not have received"),
    (1_010_018_005, "what was being filled for a task that was cancelled stayed when the worker left"),
];

/// The same on a cluster. By 22781 a preemption was told as somebody's deletion, since the watch of Pods was on a slow connection.
const ON_A_CLUSTER: [u64; 9] = [925, 1972, 11_477, 20_125, 22_781, 30_553, 41_003, 5_007_161, 5_009_221];

/// How many fresh ones: `.ci/run` runs thousands more.
const FRESH: u64 = 50;

#[test]
fn seeds_that_once_failed_hold() {
    for seed in ONCE_FAILING.into_iter().chain(OF_CONTAINERS.map(|(seed, _)| seed)) {
        let report = simulate(seed, Options::default());
        assert!(report.violations.is_empty(), "{report}");
    }
}

#[test]
fn seeds_that_once_failed_on_a_cluster_hold() {
    for seed in ON_A_CLUSTER {
        let report = simulate(seed, Options { cluster: true, ..Options::default() });
        assert!(report.violations.is_empty(), "{report}");
    }
}

#[test]
fn fresh_seeds_hold() {
    let first = fresh_seed();
    for seed in first..first + FRESH {
        let report = simulate(seed, Options::default());
        assert!(report.violations.is_empty(), "{report}");
    }
}

/// The first ones on a cluster: the same each time, for its model is young.
#[test]
fn the_first_seeds_on_a_cluster_hold() {
    for seed in 0..FRESH {
        let report = simulate(seed, Options { cluster: true, ..Options::default() });
        assert!(report.violations.is_empty(), "{report}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_byte_for_byte() {
    let first = fresh_seed();
    for seed in first..first + FRESH {
        let options = Options { cluster: seed.is_multiple_of(2), ..Options::default() };
        let (one, other) = (simulate(seed, options), simulate(seed, options));
        let differs = one.trace.lines().zip(other.trace.lines()).position(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}: the two runs differ from this line on");
        assert_eq!(one.trace.len(), other.trace.len(), "seed {seed}: one run goes on for longer");
        assert!(!one.trace.is_empty());
    }
}

#[test]
fn without_faults_one_dial_is_enough() {
    let quiet = Options {
        network: false,
        server: false,
        processes: false,
        disk: false,
        blocking: false,
        suspend: false,
        engine: false,
        cluster: false,
    };
    for seed in 0..20 {
        let report = simulate(seed, quiet);
        assert!(report.violations.is_empty(), "{report}");
        assert_eq!(report.dials, 1, "{report}");
    }
}
