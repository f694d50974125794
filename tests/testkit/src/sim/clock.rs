//! A node's own clock, which may run faster or slower than time.

use std::time::Duration;

/// It never goes back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Tenths of the true speed.
    rate: u64,
    /// What it showed when that was set, in microseconds, and when that was, in milliseconds.
    shown: u64,
    since: u64,
}

impl Clock {
    /// A right one.
    pub(super) fn new() -> Clock {
        Clock {
            rate: 10,
            shown: 0,
            since: 0,
        }
    }

    /// What it shows.
    pub(super) fn shows(&self, now: u64) -> Duration {
        Duration::from_micros(self.shown + (now - self.since) * 100 * self.rate)
    }

    /// From now on it runs at so many tenths of the true speed.
    pub(super) fn set_rate(&mut self, rate: u64, now: u64) {
        let shown = self.shows(now).as_micros();
        (self.shown, self.since, self.rate) = (shown as u64, now, rate);
    }

    /// When it will show a time, in milliseconds of true time.
    pub(super) fn strikes(&self, time: Duration) -> u64 {
        let left = (time.as_micros() as u64).saturating_sub(self.shown);
        self.since + left.div_ceil(100 * self.rate)
    }

    /// It jumps ahead by so many milliseconds.
    pub(super) fn jump(&mut self, by: u64) {
        self.shown += by * 1000;
    }

    /// How many milliseconds pass while it shows so many.
    pub(super) fn takes(&self, shown: u64) -> u64 {
        shown * 10 / self.rate
    }
}
