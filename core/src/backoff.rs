//! How long to wait before dialling again: after a good connection a draw from 0 to 500 ms, and else 1 s, doubling to 60 s,
//! each wait drawn from 50–100 % of its step.

use core::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// The longest wait after a good connection: work goes on soon, and a fleet still does not come back in lockstep.
const SOON: Duration = Duration::from_millis(500);

/// The waits between dials.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    step: Duration,
    random: u64,
}

impl Backoff {
    /// Starts at the first step; the jitter is drawn from `seed`.
    pub(crate) const fn new(seed: u64) -> Self {
        Self { step: FIRST, random: seed }
    }

    /// Back to the first step.
    pub(crate) const fn reset(&mut self) {
        self.step = FIRST;
    }

    /// The next wait; the step after it is twice as long.
    pub(crate) fn next(&mut self) -> Duration {
        let step = self.step;
        self.step = LONGEST.min(step.saturating_mul(2));
        step / 2 + self.part_of(step / 2)
    }

    /// The wait after a good connection; the step after it is the first.
    pub(crate) fn soon(&mut self) -> Duration {
        self.reset();
        self.part_of(SOON)
    }

    /// A part of `most`, as chance will have it.
    fn part_of(&mut self, most: Duration) -> Duration {
        // 32 random bits are finer than any timer; `most / 2^32` keeps it in integers.
        let drawn = (most.as_nanos() * u128::from(self.draw() >> 32)) >> 32;
        Duration::from_nanos(u64::try_from(drawn).unwrap_or(u64::MAX))
    }

    /// `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    const fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_minute_within_their_jitter_and_start_again_after_a_reset() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(seed);
            for step in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
                let (step, wait) = (Duration::from_secs(step), backoff.next());
                assert!(wait >= step / 2 && wait <= step, "{wait:?} for a step of {step:?}");
            }
            backoff.reset();
            assert!(backoff.next() <= FIRST);
            backoff.next();
            assert!(backoff.soon() <= SOON);
            assert!(backoff.next() <= FIRST);
        }
    }

    #[test]
    fn the_generator_gives_the_numbers_of_its_authors() {
        let mut backoff = Backoff::new(1_234_567);
        let drawn: [u64; 3] = core::array::from_fn(|_| backoff.draw());
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn a_wait_is_half_its_step_and_the_drawn_part_of_the_other_half() {
        let mut backoff = Backoff::new(1_234_567);
        let waits: [u128; 3] = core::array::from_fn(|_| backoff.next().as_nanos());
        assert_eq!(waits, [675_039_770, 1_173_644_096, 3_064_414_607]);
    }

    #[test]
    fn the_waits_of_a_fleet_fill_the_whole_range() {
        let tenths = |wait: fn(&mut Backoff) -> Duration| -> alloc::collections::BTreeSet<u128> {
            (0..1000).map(|seed| wait(&mut Backoff::new(seed)).as_millis() / 50).collect()
        };
        assert!(tenths(Backoff::next).into_iter().eq(10..20));
        assert!(tenths(Backoff::soon).into_iter().eq(0..10));
    }
}
