//! Any row of inputs at any times, held against the model of what a worker must do.

mod model;

use model::{Ended, Pong, Setup, Step, What, drop_fleet, kill, play};
use proptest::prelude::*;

fn setup() -> impl Strategy<Value = Setup> {
    let seconds = || prop_oneof![Just(0u8), any::<u8>()];
    (0..4u8, seconds(), seconds(), any::<bool>(), 0..3u8, any::<u64>()).prop_map(
        |(limit, drain_seconds, stop_seconds, stops_tasks, after_kill, seed)| Setup {
            limit,
            drain_seconds,
            stop_seconds,
            stops_tasks,
            after_kill,
            seed,
        },
    )
}

fn ended() -> impl Strategy<Value = Ended> {
    prop_oneof![
        1 => Just(Ended::Completed),
        2 => Just(Ended::Stopped),
        1 => Just(Ended::Dispatched),
        1 => any::<u8>().prop_map(Ended::Failed),
    ]
}

fn pong() -> impl Strategy<Value = Pong> {
    prop_oneof![
        6 => (0..3u8).prop_map(Pong::Sent),
        2 => (0..9u8).prop_map(Pong::Serial),
        1 => prop::collection::vec(any::<u8>(), 0..10).prop_map(Pong::Other),
    ]
}

/// What happens, mostly what makes sense: a worker that is never connected proves little.
fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        12 => Just(What::Timer),
        2 => Just(What::Nothing),
        12 => Just(What::Connected),
        2 => Just(What::DialFailed),
        4 => Just(What::Disconnected),
        16 => (any::<u8>(), 0..3u8).prop_map(|(task, execution)| What::Assign { task, execution }),
        2 => (any::<u8>(), 0..3u8).prop_map(|(task, execution)| What::Malformed { task, execution }),
        4 => any::<u8>().prop_map(|task| What::Cancel { task }),
        1 => Just(What::Junk),
        1 => Just(What::Binary),
        2 => Just(What::Ping),
        8 => pong().prop_map(What::Pong),
        2 => Just(What::Received),
        2 => Just(What::Taken),
        8 => Just(What::Written),
        6 => (0..6u8).prop_map(|which| What::Started { which }),
        12 => (0..6u8, ended()).prop_map(|(which, how)| What::Finished { which, how }),
        12 => (0..6u8, prop::bool::weighted(0.1))
            .prop_map(|(which, cleanup_failed)| What::Ended { which, cleanup_failed }),
        1 => any::<u8>().prop_map(|task| What::CleanupFailed { task }),
        12 => (0..3u8).prop_map(|back| What::Safe { back }),
        1 => any::<u8>().prop_map(|task| What::CancelFailed { task }),
        1 => Just(What::Stop),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let after_ms = prop_oneof![8 => Just(0u32), 8 => 0..2_000u32, 2 => 0..70_000u32, 1 => any::<u32>()];
    (after_ms, what()).prop_map(|(after_ms, what)| Step { after_ms, what })
}

/// Steps, in half of all cases with a signal in the middle: what follows one is a small part of a long row.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = || prop::collection::vec(step(), 0..60);
    let with_signal = (row(), row()).prop_map(|(before, after)| {
        let stop = Step { after_ms: 0, what: What::Stop };
        before.into_iter().chain([stop]).chain(after).collect()
    });
    prop_oneof![row(), with_signal]
}

#[test]
fn a_fleet_that_is_dropped_at_once_comes_back_spread_out() {
    drop_fleet(0..1_000);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_laws_hold_and_everything_ends(
        setup in setup(), steps in steps(),
    ) {
        play(&setup, &steps);
    }

    #[test]
    fn a_worker_that_is_killed_anywhere_is_restored_from_its_records(
        setup in setup(), steps in steps(), lost in any::<u8>(),
    ) {
        kill(&setup, &steps, lost);
    }
}
