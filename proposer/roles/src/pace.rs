//! How long a peer's answers commonly take, from those that came: what counts as late, and when to
//! give one up. Pure: times are arguments.

use std::time::Duration;

/// Shorter messages tell of the way and the peer, longer ones of the link's rate.
const LONG: usize = 64 << 10;
/// Bytes a second, until a link has shown its rate; and the slowest one waited for.
const ASSUMED: f64 = (256 << 10) as f64;
const SLOWEST: f64 = (32 << 10) as f64;
/// An answer that comes within this time is not late, whatever is usual.
const LATE_AFTER: Duration = Duration::from_millis(5);
/// The shortest and the longest time until a long message is given up.
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_PATIENCE: Duration = Duration::from_secs(30);

/// What is usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    way: Duration,
    bytes_per_second: f64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            way: Duration::ZERO,
            bytes_per_second: ASSUMED,
        }
    }
}

impl Pace {
    /// A message of `bytes` bytes was answered after this time.
    pub fn took(&mut self, bytes: usize, time: Duration) {
        if bytes < LONG {
            self.way = (self.way * 7 + time) / 8;
            return;
        }
        let sending = time.saturating_sub(self.way).as_secs_f64().max(1e-6);
        let rate = bytes as f64 / sending;
        self.bytes_per_second = (self.bytes_per_second * 3.0 + rate) / 4.0;
    }

    /// A long message was given up: the link may be slower than it was.
    pub fn gave_up(&mut self, bytes: usize) {
        if bytes >= LONG {
            self.bytes_per_second = (self.bytes_per_second / 8.0).max(SLOWEST);
        }
    }

    /// The time after which others are asked in the peer's place: the usual one and a margin of
    /// thrice that, which is at most `margin`.
    pub fn late_after(&self, bytes: usize, margin: Duration) -> Duration {
        let usual = self.way + self.sending(bytes);
        usual + (3 * usual).clamp(LATE_AFTER, margin.max(LATE_AFTER))
    }

    /// The time after which a message counts as lost. Others of its length may be ahead of it.
    pub fn give_up_after(&self, bytes: usize) -> Duration {
        let time = PATIENCE + 4 * (self.way + self.sending(bytes));
        time.min(LONGEST_PATIENCE)
    }

    fn sending(&self, bytes: usize) -> Duration {
        match bytes < LONG {
            true => Duration::ZERO,
            false => Duration::from_secs_f64(bytes as f64 / self.bytes_per_second),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Duration = Duration::from_millis(50);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn on_a_far_link_an_answer_is_late_only_when_it_is_late_for_that_link() {
        let mut far = Pace::default();
        assert_eq!(far.late_after(100, MARGIN), millis(5));
        (0..100).for_each(|_| far.took(100, millis(300)));
        let late = far.late_after(100, MARGIN);
        assert!((millis(330)..=millis(350)).contains(&late), "{late:?}");
        let mut near = Pace::default();
        (0..100).for_each(|_| near.took(100, millis(2)));
        let late = near.late_after(100, MARGIN);
        assert!((millis(6)..=millis(8)).contains(&late), "{late:?}");
    }

    #[test]
    fn a_long_message_has_the_time_that_the_link_needs_for_it() {
        for rate in [300_000, 1_000_000, 12_000_000] {
            let mut pace = Pace::default();
            let needed = Duration::from_secs_f64(f64::from(1 << 20) / f64::from(rate));
            (0..20).for_each(|_| pace.took(1 << 20, needed));
            assert!(pace.give_up_after(1 << 20) >= 4 * needed, "{rate}");
            assert!(pace.late_after(1 << 20, MARGIN) >= needed, "{rate}");
        }
        assert!(Pace::default().give_up_after(1 << 20) >= millis(16_000));
        assert_eq!(Pace::default().give_up_after(100), PATIENCE);
    }

    #[test]
    fn a_link_that_became_slow_is_found_out_in_a_few_tries_and_none_takes_for_ever() {
        let mut pace = Pace::default();
        (0..50).for_each(|_| pace.took(1 << 20, millis(5)));
        assert!(pace.give_up_after(1 << 20) < millis(2_200));
        (0..4).for_each(|_| pace.gave_up(1 << 20));
        assert!(pace.give_up_after(1 << 20) > millis(10_000));
        (0..40).for_each(|_| pace.gave_up(1 << 20));
        assert_eq!(pace.give_up_after(1 << 20), LONGEST_PATIENCE);
        let short = pace;
        pace.gave_up(100);
        assert_eq!(pace, short, "a short message says nothing about the rate");
    }
}
