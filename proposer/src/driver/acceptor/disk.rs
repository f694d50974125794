//! How long the acceptor's disk takes, and a warning when that is long: clients wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// A sync that takes so long is slow, unless elections are so patient that it does not matter.
const SLOW: Duration = Duration::from_millis(100);
/// How often the disk is looked at, and how often the same is said again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const SAY_EVERY: Duration = Duration::from_secs(30);

/// The times of syncs, in microseconds since the start where they are points.
#[derive(Debug)]
pub(super) struct Disk {
    begun: Instant,
    /// When the sync under way began, and 1; 0 when there is none.
    since: AtomicU64,
    /// What the last one took.
    last: AtomicU64,
    /// The longest since it was last asked for.
    worst: AtomicU64,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk {
            begun: Instant::now(),
            since: AtomicU64::new(0),
            last: AtomicU64::new(0),
            worst: AtomicU64::new(0),
        }
    }
}

impl Disk {
    /// A sync begins.
    pub(super) fn begins(&self) {
        self.since.store(self.now() + 1, Ordering::Relaxed);
    }

    /// It has ended.
    pub(super) fn ends(&self) {
        let since = self.since.swap(0, Ordering::Relaxed);
        let took = (self.now() + 1).saturating_sub(since);
        self.last.store(took, Ordering::Relaxed);
        self.worst.fetch_max(took, Ordering::Relaxed);
    }

    /// How long a sync takes: the last one, or the one under way if that is longer.
    pub(super) fn takes(&self) -> Duration {
        let last = Duration::from_micros(self.last.load(Ordering::Relaxed));
        last.max(self.under_way())
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    fn under_way(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros((self.now() + 1).saturating_sub(since)),
        }
    }

    fn worst(&self) -> Duration {
        let worst = self.worst.swap(0, Ordering::Relaxed);
        Duration::from_micros(worst).max(self.under_way())
    }
}

/// Says when the disk is slow, and when it is well again. Ends with the process.
pub(super) async fn watch(disk: Arc<Disk>, node: String) {
    let mut said: Option<Instant> = None;
    let mut slow = 0u32;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let worst = disk.worst();
        let millis = worst.as_millis() as u64;
        if worst >= SLOW {
            slow += 1;
            // One slow sync is no slow disk.
            if (slow > 1 || worst >= 4 * SLOW) && said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                said = Some(Instant::now());
                warn!(
                    node,
                    millis,
                    "the disk of this acceptor is slow: a sync of its log takes {millis} ms, and writes \
                     wait for it. Give it a faster disk, or see what else uses this one"
                );
            }
        } else {
            slow = 0;
            if said.is_some_and(|at| at.elapsed() >= SAY_EVERY / 3) {
                said = None;
                info!(node, millis, "the disk of this acceptor is fast again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_under_way_counts_as_long_as_it_lasts() {
        let disk = Disk::default();
        assert_eq!(disk.takes(), Duration::ZERO);
        disk.begins();
        std::thread::sleep(Duration::from_millis(20));
        assert!(disk.takes() >= Duration::from_millis(20));
        assert!(
            disk.worst() >= Duration::from_millis(20),
            "it has not ended"
        );
        disk.ends();
        let last = disk.takes();
        assert!(last >= Duration::from_millis(20));
        disk.begins();
        disk.ends();
        assert!(disk.takes() < last);
        assert!(disk.worst() >= last);
        assert_eq!(disk.worst(), Duration::ZERO, "it was told");
    }
}
