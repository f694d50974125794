//! All open connections. Over their bound a new one takes the place of one that would be missed
//! less, and no source has more than its share while others want in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Waits;
use super::connection::{Connection, Loss};

/// One source's share of the connections: one in this many.
const SHARE: usize = 8;
/// Silent connections that go at once when one must: a client that opens them by the thousand must not
/// make the others wait for a search each time.
const SILENT_AT_ONCE: usize = 32;

/// The connections.
#[derive(Default)]
pub(super) struct Table {
    open: HashMap<u64, Arc<Connection>>,
    by_source: HashMap<IpAddr, usize>,
    /// Of each source; they outlive its connections as long as something waits.
    waits: HashMap<IpAddr, Weak<Waits>>,
}

/// Whether a new connection may be.
pub(super) enum Place {
    Free,
    /// For peers and probes alone.
    Reserved,
    None,
}

impl Table {
    /// What of a source waits, whichever of its connections it came by.
    pub(super) fn waits(&mut self, source: IpAddr) -> Arc<Waits> {
        if let Some(waits) = self.waits.get(&source).and_then(Weak::upgrade) {
            return waits;
        }
        if self.waits.len() > 2 * self.by_source.len() + 64 {
            self.waits.retain(|_, waits| waits.strong_count() > 0);
        }
        let waits = Arc::new(Waits::default());
        self.waits.insert(source, Arc::downgrade(&waits));
        waits
    }

    pub(super) fn add(&mut self, connection: &Arc<Connection>) {
        self.open.insert(connection.id, connection.clone());
        *self.by_source.entry(connection.source).or_default() += 1;
    }

    /// Takes a connection out, if it is still there.
    pub(super) fn remove(&mut self, id: u64) -> Option<Arc<Connection>> {
        let connection = self.open.remove(&id)?;
        if let Some(count) = self.by_source.get_mut(&connection.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&connection.source);
            }
        }
        Some(connection)
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.open.values()
    }

    /// Whether there is a place for a connection from `source`, and those that must go for it.
    pub(super) fn place(
        &mut self,
        source: IpAddr,
        most: usize,
        reserve: usize,
    ) -> (Place, Vec<(Loss, Arc<Connection>)>) {
        if self.len() < most {
            return (Place::Free, Vec::new());
        }
        let gone = self.make_room(source, most);
        let place = if !gone.is_empty() {
            Place::Free
        } else if self.len() < most + reserve {
            Place::Reserved
        } else {
            Place::None
        };
        (place, gone)
    }

    /// Takes out the connections that are missed least for the good of one from `source`: those of
    /// sources with more than their share first, and of nobody else if it has more itself.
    fn make_room(&mut self, source: IpAddr, most: usize) -> Vec<(Loss, Arc<Connection>)> {
        let share = (most / SHARE).max(1);
        let count = |source: &IpAddr| self.by_source.get(source).copied().unwrap_or(0);
        let greedy = count(&source) >= share;
        let mut candidates: Vec<(Loss, bool, Duration, u64)> = Vec::new();
        for connection in self.open.values() {
            let own = greedy && connection.source == source;
            let over = own || count(&connection.source) > share;
            let (loss, since) = connection.loss();
            // Who is served keeps the place, but for a source that has its share and more.
            if (loss == Loss::Served && (greedy || !over))
                || (greedy && !over && loss > Loss::Silent)
            {
                continue;
            }
            candidates.push((loss, !over, Duration::MAX - since, connection.id));
        }
        candidates.sort_unstable();
        let silent = candidates.iter().filter(|c| c.0 == Loss::Silent).count();
        let count = (silent / 4).clamp(1, SILENT_AT_ONCE).min(candidates.len());
        let chosen = candidates.into_iter().take(count);
        chosen
            .filter_map(|(loss, _, _, id)| Some((loss, self.remove(id)?)))
            .collect()
    }

    /// Takes out up to `count` that nobody would miss.
    pub(super) fn shed(&mut self, count: usize) -> Vec<(Loss, Arc<Connection>)> {
        let mut idle: Vec<_> = self
            .open
            .values()
            .map(|connection| {
                let (loss, since) = connection.loss();
                (loss, Duration::MAX - since, connection.id)
            })
            .filter(|(loss, _, _)| *loss < Loss::Fresh)
            .collect();
        idle.sort_unstable();
        let chosen = idle.into_iter().take(count);
        chosen
            .filter_map(|(loss, _, id)| Some((loss, self.remove(id)?)))
            .collect()
    }
}
