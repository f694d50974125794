//! How much room there is on the volume that holds a node's data. A node stops taking what makes its
//! data grow before the disk is full: what it must always be able to write fits in the rest, and it
//! resumes by itself when there is room again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::env::Config;
use paxos::acceptor::Room;
use tracing::{error, info};

use crate::metrics::Metrics;

/// What a log may take of the space that it could have, in hundredths: from here on nothing new should
/// come, and a little later nothing new is taken; and what it must be below again before it may resume.
const SHARE: u64 = 80;
const SHARE_MOST: u64 = 84;
const SHARE_AGAIN: u64 = 76;
/// What stays free: a part of the volume within these bounds, or a larger part of a very small one.
const RESERVE_PART: u64 = 20;
const RESERVE_LEAST: u64 = 16 << 20;
const RESERVE_MOST: u64 = 256 << 20;
const RESERVE_PART_OF_SMALL: u64 = 4;
/// The file system is asked this often, and after this many bytes: others may fill it as fast as this
/// node writes. And at once if the last answer is nearly used up.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_EVERY_BYTES: u64 = 1 << 20;

/// A volume as the file system shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Bytes in all.
    pub(crate) size: u64,
    /// Bytes left for this node.
    pub(crate) free: u64,
}

impl Seen {
    /// What must stay free.
    pub(crate) fn reserve(self) -> u64 {
        let part = (self.size / RESERVE_PART).clamp(RESERVE_LEAST, RESERVE_MOST);
        part.min(self.size / RESERVE_PART_OF_SMALL)
    }
}

/// Watches the volume for one thread that writes to it.
pub(crate) struct Volume {
    path: PathBuf,
    seen: Seen,
    looked: Instant,
    /// Bytes written since then.
    written: u64,
    room: Room,
    metrics: Arc<Metrics>,
}

impl Volume {
    /// Of the data folder.
    pub(crate) fn of(config: &Config, metrics: Arc<Metrics>) -> Volume {
        let unknown = Seen {
            size: u64::MAX,
            free: u64::MAX,
        };
        let mut volume = Volume {
            path: config.data_dir.clone(),
            seen: unknown,
            looked: Instant::now(),
            written: 0,
            room: Room::Enough,
            metrics,
        };
        volume.ask();
        volume
    }

    /// For other threads and tasks that write to it.
    pub(crate) fn probe(&self) -> Probe {
        Probe(self.path.clone())
    }

    /// Whether others fill the volume, and not a log of that size, which would get shorter if all
    /// learners were there.
    pub(crate) fn is_filled_by_others(&self, log: u64) -> bool {
        let seen = self.seen();
        seen.free < 2 * seen.reserve() && !has_share(seen, log, SHARE_AGAIN)
    }

    /// As it was when it was last asked, less what has been written since.
    pub(crate) fn seen(&self) -> Seen {
        Seen {
            free: self.seen.free.saturating_sub(self.written),
            ..self.seen
        }
    }

    /// `bytes` bytes were written.
    pub(crate) fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
    }

    /// Whether `more` bytes may be written, and whether a log of that size may grow.
    pub(crate) fn room(&mut self, log: u64, more: u64) -> Room {
        if must_look(self.seen(), self.looked.elapsed(), self.written, more) {
            self.ask();
        }
        let seen = self.seen();
        let room = room_for(seen, log, more, self.room);
        let before = std::mem::replace(&mut self.room, room);
        if before != room {
            self.say(before, seen, log);
        }
        room
    }

    fn ask(&mut self) {
        self.looked = Instant::now();
        // One that cannot be asked shows its errors when it is written to.
        if let Some(seen) = look(&self.path) {
            self.written = 0;
            self.seen = seen;
        }
    }

    fn say(&self, before: Room, seen: Seen, log: u64) {
        let volume = self.path.display();
        let (free, size) = (seen.free, seen.size);
        self.metrics
            .volume_refuses
            .set((self.room != Room::Enough).into());
        if self.room == Room::Enough {
            info!(%volume, free, size, log, "there is room on the volume again");
        } else if before != Room::Enough {
            // It was said.
        } else if log == 0 || self.is_filled_by_others(log) {
            error!(
                %volume, free, size, log,
                "the volume is almost full: nothing is written that makes the data grow until there \
                 is room. Enlarge the volume, or see what else fills it"
            );
        } else {
            error!(
                %volume, free, size, log,
                "the log has its share of the volume, {SHARE} %: nothing is written that makes it \
                 longer. It gets shorter when the learners that are away are back; or enlarge the volume"
            );
        }
    }
}

/// Asks the file system before something large is written.
#[derive(Clone, Debug)]
pub(crate) struct Probe(PathBuf);

impl Probe {
    /// Whether `bytes` more bytes leave what must stay free.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        look(&self.0).is_none_or(|seen| seen.free.saturating_sub(bytes) >= seen.reserve())
    }
}

fn look(path: &Path) -> Option<Seen> {
    let volume = rustix::fs::statvfs(path).ok()?;
    Some(Seen {
        size: volume.f_blocks.saturating_mul(volume.f_frsize),
        free: volume.f_bavail.saturating_mul(volume.f_frsize),
    })
}

/// Whether the file system is to be asked before `more` bytes are written.
fn must_look(seen: Seen, since: Duration, written: u64, more: u64) -> bool {
    let is_tight = seen.free.saturating_sub(more) < seen.reserve();
    let is_due = since >= LOOK_EVERY || written.saturating_add(more) >= LOOK_EVERY_BYTES;
    is_due || (is_tight && written > 0)
}

/// The rule, given how it was before: it must be well clear of a bound to count as below it again.
fn room_for(seen: Seen, log: u64, more: u64, before: Room) -> Room {
    let reserve = seen.reserve();
    let free = seen.free.saturating_sub(more);
    let has = |share| has_share(seen, log, share);
    let (share, little) = match before {
        Room::Enough => (SHARE, reserve + reserve / 2),
        _ => (SHARE_AGAIN, reserve * 2),
    };
    if free < reserve {
        Room::Reserve
    } else if has(SHARE_MOST) {
        Room::Share
    } else if has(share) || free < little {
        Room::Tight
    } else {
        Room::Enough
    }
}

/// Whether a log of that size has `share` per cent of what it could have.
fn has_share(seen: Seen, log: u64, share: u64) -> bool {
    let could_have = u128::from(log) + u128::from(seen.free);
    u128::from(log) * 100 >= could_have * u128::from(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn seen(size: u64, free: u64) -> Seen {
        Seen {
            size: size * MIB,
            free: free * MIB,
        }
    }

    #[test]
    fn the_reserve_is_a_part_of_the_volume_within_bounds() {
        assert_eq!(seen(5 * 1024, 1).reserve(), 256 * MIB);
        assert_eq!(seen(1024, 1).reserve(), 1024 * MIB / 20);
        assert_eq!(seen(100, 1).reserve(), 16 * MIB);
        assert_eq!(seen(32, 1).reserve(), 8 * MIB);
        assert_eq!(seen(300 * 1024, 1).reserve(), 256 * MIB);
    }

    #[test]
    fn the_file_system_is_asked_by_time_and_by_bytes_and_when_it_gets_tight() {
        let must = |millis, written, more| {
            must_look(
                seen(1000, 500),
                Duration::from_millis(millis),
                written,
                more,
            )
        };
        assert!(!must(499, MIB / 2, MIB / 4) && must(500, 0, 0));
        // Others may have filled it between two looks, as fast as this node writes.
        assert!(must(0, MIB / 2, MIB / 2) && must(0, 0, MIB) && must(0, MIB, 0));
        let tight = |written| must_look(seen(1000, 50), Duration::ZERO, written, 1);
        assert!(tight(1) && !tight(0));
    }

    #[test]
    fn a_log_stops_at_its_share_and_goes_on_well_below_it() {
        let room = |log: u64, before| room_for(seen(1000, 1000 - log), log * MIB, 0, before);
        assert_eq!(room(799, Room::Enough), Room::Enough);
        assert_eq!(room(800, Room::Enough), Room::Tight);
        assert_eq!(room(840, Room::Tight), Room::Share);
        assert_eq!(room(839, Room::Share), Room::Tight);
        assert_eq!(room(770, Room::Tight), Room::Tight);
        assert_eq!(room(759, Room::Tight), Room::Enough);
    }

    #[test]
    fn a_volume_that_others_have_filled_is_no_reason_while_the_log_is_short() {
        let room = room_for(seen(250_000, 20_000), 64 * MIB, 0, Room::Enough);
        assert_eq!(room, Room::Enough);
    }

    #[test]
    fn what_is_about_to_be_written_counts_against_the_reserve() {
        let room = |free, more, before| room_for(seen(1000, free), 0, more * MIB, before);
        assert_eq!(room(76, 0, Room::Enough), Room::Enough);
        assert_eq!(room(76, 2, Room::Enough), Room::Tight);
        assert_eq!(room(76, 27, Room::Enough), Room::Reserve);
        assert_eq!(room(49, 0, Room::Enough), Room::Reserve);
        assert_eq!(room(60, 0, Room::Reserve), Room::Tight);
        assert_eq!(
            room(99, 0, Room::Tight),
            Room::Tight,
            "not well clear of it"
        );
        assert_eq!(room(101, 0, Room::Tight), Room::Enough);
    }
}
