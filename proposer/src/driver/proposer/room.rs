//! Room for requests that wait or are under way, bounded by their number and the bytes of their values.
//! Half of it is first come, first served; of the other half one source has its share, so that others
//! always find room. A single small request is let in as long as there is any.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bounds::Waits;

/// Requests that may wait or be under way; more are answered 503.
pub(super) const MAX_REQUESTS: usize = 16_384;
/// What one source may have once half is taken: one part in this many.
const SHARE: usize = 8;
/// A request alone up to this size is small.
const SMALL_BYTES: usize = 64 << 10;

/// What is taken, and how much there is.
pub(super) struct Rooms {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    max_bytes: usize,
}

/// A job's part of it, given back with the job.
pub(super) struct Room {
    rooms: Arc<Rooms>,
    source: Option<Arc<Waits>>,
    requests: usize,
    bytes: usize,
}

impl Rooms {
    pub(super) fn new(max_bytes: usize) -> Rooms {
        Rooms {
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            max_bytes,
        }
    }

    /// How many requests there are.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn are_full(&self) -> bool {
        self.requests() >= MAX_REQUESTS || self.bytes.load(Ordering::Relaxed) >= self.max_bytes
    }

    /// Room for so much from a source; nobody's when another proposer sends it on, which has looked at
    /// its own.
    pub(super) fn take(
        self: &Arc<Rooms>,
        source: Option<Arc<Waits>>,
        requests: usize,
        bytes: usize,
    ) -> Option<Room> {
        let all = self.requests.fetch_add(requests, Ordering::Relaxed) + requests;
        let all_bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let own = source.as_ref().map(|source| source.add(requests, bytes));
        // From here on it is given back, whatever comes of it.
        let room = Room {
            rooms: self.clone(),
            source,
            requests,
            bytes,
        };
        if all > MAX_REQUESTS || all_bytes > self.max_bytes {
            return None;
        }
        let crowded = all > MAX_REQUESTS / 2 || all_bytes > self.max_bytes / 2;
        let greedy = own.is_some_and(|(own, own_bytes)| {
            own > MAX_REQUESTS / SHARE || own_bytes > self.max_bytes / SHARE
        });
        let small = requests == 1 && bytes <= SMALL_BYTES;
        (!crowded || !greedy || small).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.rooms
            .requests
            .fetch_sub(self.requests, Ordering::Relaxed);
        self.rooms.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(source) = &self.source {
            source.sub(self.requests, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn one_source_leaves_half_of_the_room_to_others() {
        let rooms = Arc::new(Rooms::new(64 * MIB));
        let [flood, other] = [(); 2].map(|()| Arc::new(Waits::default()));
        let mut held = Vec::new();
        while let Some(room) = rooms.take(Some(flood.clone()), 1000, 0) {
            held.push(room);
        }
        assert_eq!(rooms.requests(), 8000);
        // A refusal takes nothing with it.
        assert!(rooms.take(Some(flood.clone()), 1000, 0).is_none());
        assert_eq!(rooms.requests(), 8000);
        let batch = rooms.take(Some(other.clone()), 1000, 0);
        assert!(batch.is_some());
        let single = rooms.take(Some(flood.clone()), 1, 100);
        assert!(single.is_some(), "a single one is let in");
        assert!(
            rooms.take(None, 1024, 0).is_some(),
            "as is another proposer's"
        );
        drop((held, batch, single));
        assert_eq!(rooms.requests(), 0);
        assert!(rooms.take(Some(flood), 8000, 0).is_some());
    }

    #[test]
    fn bytes_count_as_well() {
        let rooms = Arc::new(Rooms::new(64 * MIB));
        let [flood, other] = [(); 2].map(|()| Arc::new(Waits::default()));
        let take = |source: &Arc<Waits>| rooms.take(Some(source.clone()), 1, MIB);
        let held: Vec<Room> = std::iter::from_fn(|| take(&flood)).collect();
        assert_eq!(held.len(), 32);
        let more: Vec<Room> = std::iter::from_fn(|| take(&other)).collect();
        assert_eq!(more.len(), 8);
        assert!(!rooms.are_full());
        let rest = rooms.take(None, 1, 24 * MIB);
        assert!(rest.is_some() && rooms.are_full());
        assert!(take(&other).is_none() && rooms.take(None, 1, 1).is_none());
    }
}
