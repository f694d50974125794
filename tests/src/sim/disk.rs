//! What a process keeps when it ends.

use std::collections::VecDeque;
use std::fmt;

use proposer::media::{Media, MediaFile, SimMedia};
use proposer::paxos::acceptor::{Acceptor, Record};
use proposer::paxos::ids::Slot;
use proposer::wal::{self, Options, Position, Wal};

use super::rng::Rng;

/// How a write goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadWrite {
    /// The process ends in the middle; any part of the write may be on disk.
    Torn,
    /// The disk reports an error; any part of the write may be on disk.
    Failed,
}

/// A proposer's disk: every claim it ever made.
#[derive(Clone, Debug)]
pub(super) struct Claims(Vec<u64>);

impl Claims {
    /// With one claim from an earlier life.
    pub(super) fn new(claim: u64) -> Claims {
        Claims(vec![claim])
    }

    /// The claim that stands.
    pub(super) fn last(&self) -> u64 {
        self.0.last().copied().unwrap_or_default()
    }

    /// A claim, durable unless the write goes wrong; then it may be.
    pub(super) fn write(
        &mut self,
        claim: u64,
        bad: Option<BadWrite>,
        rng: &mut Rng,
    ) -> Result<(), BadWrite> {
        if bad.is_none() || rng.chance(500) {
            self.0.push(claim);
        }
        bad.map_or(Ok(()), Err)
    }

    /// An older state of the disk, or none at all.
    pub(super) fn lose(&mut self, rng: &mut Rng) {
        self.0.truncate(rng.below(self.0.len() as u64 + 1) as usize);
    }
}

/// An acceptor's disk: the real log on a simulated medium.
pub(super) struct Log {
    media: SimMedia,
    wal: Option<Wal<SimMedia>>,
    options: Options,
    /// Every record known to be durable and not found to be removed.
    records: VecDeque<(Position, Record)>,
    /// Where each record of votes lies, and the last slot it votes in; oldest first.
    votes: VecDeque<(Position, Slot)>,
}

/// What a start from the disk gives.
pub(super) struct Started {
    /// The acceptor that the disk makes.
    pub(super) acceptor: Acceptor,
    /// Records that turned out to be on it although nobody was told so.
    pub(super) news: Vec<Record>,
    /// A flipped bit was found first.
    pub(super) damaged: bool,
}

impl Log {
    /// An empty disk.
    pub(super) fn new(segment_bytes: u64) -> Log {
        Log {
            media: SimMedia::new(),
            wal: None,
            options: Options { segment_bytes },
            records: VecDeque::new(),
            votes: VecDeque::new(),
        }
    }

    /// These records, durable unless the write goes wrong; then the next start shows.
    pub(super) fn write(
        &mut self,
        records: &[Record],
        bad: Option<BadWrite>,
        rng: &mut Rng,
    ) -> Result<(), BadWrite> {
        if let Some(bad) = bad {
            spoil(&self.media, bad, rng);
        }
        match (self.append(records), bad) {
            (Ok(placed), None) => self.records.extend(placed),
            (Err(error), None) => panic!("a healthy disk takes every write: {error}"),
            (_, Some(bad)) => return Err(bad),
        }
        Ok(())
    }

    /// One sync, and then what a trim among the records gives up is removed, as the driver does it.
    fn append(&mut self, records: &[Record]) -> Result<Vec<(Position, Record)>, wal::Error> {
        let wal = self.wal.as_mut().expect("a process has its log open");
        let mut placed = Vec::new();
        for record in records {
            let position = wal.append(&record.encode());
            self.votes.extend(last_vote(record).map(|last| (position, last)));
            placed.push((position, record.clone()));
        }
        wal.sync()?;
        if let Some(floor) = records.iter().filter_map(floor_of).max() {
            while self.votes.front().is_some_and(|(_, last)| *last <= floor) {
                self.votes.pop_front();
            }
            let needed = self.votes.front().map(|(position, _)| *position);
            wal.trim_before(needed.unwrap_or(wal.position_end()))?;
        }
        Ok(placed)
    }

    /// The process ends, and perhaps the machine with it.
    pub(super) fn end(&mut self, rng: &mut Rng) {
        self.wal = None;
        end(&[&self.media], rng);
    }

    /// The process starts, perhaps after a bit has flipped. `empty` is an acceptor without memory.
    pub(super) fn start(&mut self, empty: Acceptor, flip: bool, rng: &mut Rng) -> Started {
        let mut damaged = false;
        if flip && let Some((name, offset, bit)) = flip_bit(&self.media, rng) {
            damaged = self.open().is_err();
            if damaged {
                // Damage is found, and as nothing was changed, what was written is still there.
                self.media.flip_bit(&name, offset, bit);
            } else {
                self.wal = None;
            }
        }
        let found = self
            .open()
            .unwrap_or_else(|error| panic!("a crash leaves no damage: {error}"));
        let known = self.find_known(&found);
        let news = found.iter().skip(known).map(|(_, record)| record.clone());
        let news = news.collect();
        let mut acceptor = empty;
        self.votes.clear();
        for (position, record) in &found {
            acceptor.remember(record);
            self.votes.extend(last_vote(record).map(|last| (*position, last)));
        }
        self.records = found;
        Started {
            acceptor,
            news,
            damaged,
        }
    }

    /// How many of the records found were known to be durable: all that were, but for a first part
    /// that a trim allows to be gone.
    fn find_known(&self, found: &VecDeque<(Position, Record)>) -> usize {
        let removed = match found.front() {
            Some((start, _)) => self.records.iter().position(|(at, _)| at == start),
            None => None,
        };
        let removed = removed.unwrap_or(self.records.len());
        let known = self.records.len() - removed;
        let are_there = known <= found.len()
            && self.records.range(removed..).eq(found.range(..known));
        assert!(are_there, "what was written durably is found again");
        let all = || self.records.iter().chain(found.range(known..));
        let floor = all().filter_map(|(_, record)| floor_of(record)).max();
        let needed = |(_, record): &(Position, Record)| match record {
            Record::Accepted { .. } => last_vote(record) > floor.or(Some(Slot::ZERO)),
            Record::Trimmed { floor: at, .. } => Some(*at) == floor,
            Record::Promised { .. } => floor.is_none(),
        };
        assert!(
            all().position(needed).is_none_or(|first| removed <= first),
            "only what was trimmed is removed"
        );
        known
    }

    fn open(&mut self) -> Result<VecDeque<(Position, Record)>, wal::Error> {
        let mut found = VecDeque::new();
        let wal = Wal::open(self.media.clone(), self.options, |position, bytes| {
            let record = Record::decode(bytes.clone()).map_err(|error| error.to_string())?;
            found.push_back((position, record));
            Ok(())
        })?;
        self.wal = Some(wal);
        Ok(found)
    }
}

/// The last slot that a record of votes votes in.
fn last_vote(record: &Record) -> Option<Slot> {
    match record {
        Record::Accepted { first, values, .. } => {
            Some(first.plus(values.len() as u64).previous())
        }
        _ => None,
    }
}

fn floor_of(record: &Record) -> Option<Slot> {
    match record {
        Record::Trimmed { floor, .. } => Some(*floor),
        _ => None,
    }
}

/// Lets one of the next operations go wrong.
pub(super) fn spoil(media: &SimMedia, bad: BadWrite, rng: &mut Rng) {
    match bad {
        BadWrite::Torn => media.halt_before(media.operations() + rng.below(5)),
        BadWrite::Failed if rng.chance(500) => media.fail_next_sync(),
        BadWrite::Failed => media.fail_next_write(rng.below(600) as usize),
    }
}

/// A process ends, and perhaps the machine with it.
pub(super) fn end(folders: &[&SimMedia], rng: &mut Rng) {
    let (kind, seed) = (rng.below(3), rng.bits());
    for media in folders {
        match kind {
            0 => media.crash(seed),
            // Whatever the system had taken from the process is written after its end.
            1 => media.crash_keeping(|_| true),
            _ => media.kill(),
        }
    }
}

/// Flips a bit somewhere on a disk.
pub(super) fn flip_bit(media: &SimMedia, rng: &mut Rng) -> Option<(String, usize, u8)> {
    let names = media.list().ok()?;
    let name = names.get(rng.below(names.len() as u64) as usize)?;
    let length = media.open(name).and_then(|file| file.size()).ok()?;
    if length == 0 {
        return None;
    }
    let (offset, bit) = (rng.below(length) as usize, rng.below(8) as u8);
    media.flip_bit(name, offset, bit);
    Some((name.clone(), offset, bit))
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.records.len())
    }
}
