//! When to connect again after failing to: exponential with full jitter. Pure, as the breaker is.

use std::time::Duration;

/// The back-off of one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    base: Duration,
    cap: Duration,
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    in_a_row: u32,
    at: Duration,
    retry_at: Duration,
}

impl Backoff {
    /// The first pause is up to `base`, each later one up to twice as long, none longer than `cap`.
    pub(super) fn new(base: Duration, cap: Duration) -> Backoff {
        let failure = None;
        Backoff { base, cap, failure }
    }

    pub(super) fn allows(&self, now: Duration) -> bool {
        self.failure.is_none_or(|failure| now >= failure.retry_at)
    }

    /// As [`Backoff::allows`] for calls on which a quorum hangs: they wait for `base` at most.
    pub(super) fn allows_urgent(&self, now: Duration) -> bool {
        let soon = |failure: Failure| failure.retry_at.min(failure.at + self.base);
        self.failure.is_none_or(|failure| now >= soon(failure))
    }

    pub(super) fn succeeded(&mut self) {
        self.failure = None;
    }

    /// `jitter` from 0 to 1 is the share of the longest pause to wait. Attempts that ran side by
    /// side count as one.
    pub(super) fn failed(&mut self, now: Duration, jitter: f64) {
        let before = self.failure;
        if let Some(failure) = &mut self.failure
            && now < failure.retry_at
        {
            failure.at = now;
            return;
        }
        let in_a_row = before.map_or(0, |failure| failure.in_a_row.saturating_add(1));
        let factor = 1u32.checked_shl(in_a_row).unwrap_or(u32::MAX);
        let longest = self.base.saturating_mul(factor).min(self.cap);
        self.failure = Some(Failure {
            in_a_row,
            at: now,
            retry_at: now + longest.mul_f64(jitter.clamp(0.0, 1.0)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn pauses_double_up_to_the_cap_and_success_ends_them() {
        let mut backoff = Backoff::new(MS(50), MS(2000));
        assert!(backoff.allows(MS(0)));
        let mut now = MS(0);
        for pause in [50, 100, 200, 400, 800, 1600, 2000, 2000] {
            backoff.failed(now, 1.0);
            assert!(!backoff.allows(now + MS(pause - 1)), "{pause}");
            now += MS(pause);
            assert!(backoff.allows(now), "{pause}");
        }
        for _ in 0..100 {
            backoff.failed(now, 1.0);
            now += MS(2000);
        }
        assert!(backoff.allows(now));
        backoff.failed(now, 1.0);
        backoff.succeeded();
        assert!(backoff.allows(now));
        backoff.failed(now, 1.0);
        assert!(backoff.allows(now + MS(50)));
    }

    #[test]
    fn urgent_calls_wait_for_the_base_only() {
        let mut backoff = Backoff::new(MS(50), MS(2000));
        for now in [0, 50, 150, 350] {
            backoff.failed(MS(now), 1.0);
        }
        assert!(!backoff.allows_urgent(MS(399)));
        assert!(backoff.allows_urgent(MS(400)));
        // Their failures pace them, and do not lengthen the pause of the others.
        backoff.failed(MS(400), 1.0);
        assert!(!backoff.allows_urgent(MS(449)));
        assert!(!backoff.allows(MS(749)));
        assert!(backoff.allows(MS(750)));
        // A short pause holds for them as well.
        backoff.succeeded();
        backoff.failed(MS(800), 0.1);
        assert!(backoff.allows_urgent(MS(805)));
    }

    #[test]
    fn failures_side_by_side_count_as_one() {
        let mut backoff = Backoff::new(MS(50), MS(2000));
        for _ in 0..5 {
            backoff.failed(MS(0), 1.0);
        }
        assert!(backoff.allows(MS(50)));
    }
}
