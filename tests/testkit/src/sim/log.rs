//! An acceptor's disk: whose it is, and the real log on a simulated medium.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::ControlFlow;

use node::media::{SimMedia, Snapshot};
use node::wal::{self, Options, Position, Wal};
use paxos::acceptor::Record;
use paxos::ids::{Ballot, ClusterId, Members, NodeName, Role, Slot};
use paxos::message::Value;
use paxos::standing::{Member, Roster, Start};
use paxos::votes::{self, Place};

use super::disk::{BadWrite, end, flip_bit, spoil};
use super::rng::Rng;

/// An acceptor's disk: the real log on a simulated medium.
pub(super) struct Log {
    media: SimMedia,
    wal: Option<Wal<SimMedia>>,
    options: Options,
    /// Every record known to be durable and not found to be removed.
    records: VecDeque<(Position, Record)>,
    /// The next removal goes wrong.
    bad_trim: Option<BadWrite>,
    /// Whose disk it is; none before its first start.
    identity: Option<Identity>,
}

/// A disk's name for its owner's last start.
#[derive(Clone, Copy, Debug)]
struct Identity {
    start: Start,
    /// The next start has another name.
    witnessed: bool,
}

/// An older state of a disk.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    media: Snapshot,
    records: VecDeque<(Position, Record)>,
    identity: Option<Identity>,
}

/// What a start from the disk gives.
pub(super) struct Started {
    /// The acceptor that the disk makes.
    pub(super) member: Member,
    /// Records that turned out to be on it although nobody heard so.
    pub(super) news: Vec<Record>,
    /// A flipped bit was found first.
    pub(super) damaged: bool,
}

/// Zeros ahead as far as a segment goes, but few enough to be quick.
pub(super) fn options(segment_bytes: u64) -> Options {
    Options {
        segment_bytes,
        ahead_bytes: segment_bytes.min(8192),
    }
}

impl Log {
    /// An empty disk.
    pub(super) fn new(segment_bytes: u64) -> Log {
        Log {
            media: SimMedia::new(),
            wal: None,
            options: options(segment_bytes),
            records: VecDeque::new(),
            bad_trim: None,
            identity: None,
        }
    }

    /// The disk of another cluster's acceptor, which has voted there.
    pub(super) fn of_another_cluster(segment_bytes: u64, rng: &mut Rng) -> Log {
        let mut log = Log::new(segment_bytes);
        log.open().expect("an empty disk is a log");
        let start = Start {
            incarnation: rng.bits(),
            count: 7,
            run: rng.bits(),
        };
        let cluster = ClusterId::new(rng.bits());
        // Of acceptor 1, 2 or 3 there, which knows the two others.
        let its_own = rng.between(1, 3) as u8;
        let others = Members::new(3).expect("not empty").acceptors();
        let others = others.filter(|id| id.number() != its_own);
        let name = |id| NodeName {
            role: Role::Acceptor,
            id,
        };
        let starts = others.map(|id| (name(id), start)).collect();
        let ballot = Ballot::from_number((9 << 8) + 1).expect("a ballot of proposer 1");
        let vote = Record::Accepted {
            ballot,
            first: Slot(1),
            values: [Value::NOOP].into(),
            committed: Slot::ZERO,
        };
        let roster = Roster {
            cluster,
            founders: Members::new(3),
            starts,
        };
        let records = [Record::Known(roster), vote];
        let placed = log.append(&records).expect("a healthy disk");
        log.records.extend(placed);
        log.wal = None;
        log.identity = Some(Identity {
            start,
            witnessed: true,
        });
        log
    }

    /// What is durable now.
    pub(super) fn copy(&self) -> Copy {
        Copy {
            media: self.media.snapshot(),
            records: self.records.clone(),
            identity: self.identity,
        }
    }

    /// An older copy, or another's, takes the place of what is on the disk.
    pub(super) fn restore(&mut self, copy: &Copy) {
        self.media.restore(&copy.media);
        (self.records, self.identity) = (copy.records.clone(), copy.identity);
    }

    /// What it says of the cluster.
    pub(super) fn roster(&self) -> Roster {
        let known = |(_, record): &(Position, Record)| match record {
            Record::Known(roster) => Some(roster.clone()),
            _ => None,
        };
        self.records
            .iter()
            .rev()
            .find_map(known)
            .unwrap_or_default()
    }

    /// The name of the next start from it, with run 0 if it is a new one.
    pub(super) fn next_name(&self) -> Option<Start> {
        self.identity.map(|identity| identity.next_start(0))
    }

    /// The acceptors of this start's name have written it down.
    pub(super) fn witnessed(&mut self) {
        if let Some(identity) = &mut self.identity {
            identity.witnessed = true;
        }
    }

    /// The name of a new start: durable before anything else happens.
    fn next_start(&mut self, rng: &mut Rng) -> Start {
        let start = match &self.identity {
            Some(last) => last.next_start(rng.bits()),
            None => Start {
                incarnation: rng.bits(),
                count: 1,
                run: rng.bits(),
            },
        };
        let witnessed = false;
        self.identity = Some(Identity { start, witnessed });
        start
    }

    /// These records, durable unless the write goes wrong; then the next start shows. Where those of
    /// votes lie.
    pub(super) fn write(
        &mut self,
        records: &[Record],
        bad: Option<BadWrite>,
        rng: &mut Rng,
    ) -> Result<Vec<Place>, BadWrite> {
        let mut bad = bad;
        if records.iter().any(|record| floor_of(record).is_some()) && rng.chance(500) {
            self.bad_trim = bad.take();
        }
        if let Some(bad) = bad {
            spoil(&self.media, bad, rng);
        }
        match (self.append(records), bad) {
            (Ok(placed), None) => {
                let votes = placed
                    .iter()
                    .filter(|(_, record)| last_vote(record).is_some());
                let places = votes.map(|(position, _)| place_of(*position)).collect();
                self.records.extend(placed);
                Ok(places)
            }
            (Err(error), None) => panic!("a healthy disk takes every write: {error}"),
            (_, Some(bad)) => Err(bad),
        }
    }

    /// These records, as the process ends in the middle of writing them: any part of them may be on
    /// the disk, and the next start shows. Nothing comes after the write that could go wrong instead.
    pub(super) fn write_part(&mut self, records: &[Record], rng: &mut Rng) -> Result<(), BadWrite> {
        spoil(&self.media, BadWrite::Torn, rng);
        let _placed = self.append(records);
        Err(BadWrite::Torn)
    }

    fn append(&mut self, records: &[Record]) -> Result<Vec<(Position, Record)>, wal::Error> {
        let wal = self.wal.as_mut().expect("a process has its log open");
        let placed = records
            .iter()
            .map(|record| (wal.append(&record.encode()), record.clone()))
            .collect();
        wal.sync()?;
        Ok(placed)
    }

    /// Removes what lies before the first place that is needed.
    pub(super) fn trim(&mut self, needed: Option<Place>, rng: &mut Rng) -> Result<(), BadWrite> {
        let bad = self.bad_trim.take();
        if let Some(bad) = bad {
            spoil(&self.media, bad, rng);
        }
        let wal = self.wal.as_mut().expect("a process has its log open");
        let needed = needed.map(|place| Position::of(place.file, place.offset));
        let trimmed = wal.trim_before(needed.unwrap_or(wal.position_end()));
        match (trimmed, bad) {
            (Ok(()), None) => Ok(()),
            (Err(error), None) => panic!("a healthy disk removes every file: {error}"),
            (_, Some(bad)) => Err(bad),
        }
    }

    /// The process ends, and perhaps the machine with it.
    pub(super) fn end(&mut self, rng: &mut Rng) {
        self.wal = None;
        end(&[&self.media], rng);
    }

    /// The process starts, perhaps after a bit has flipped. `blank` makes an acceptor without memory.
    pub(super) fn start(
        &mut self,
        blank: impl FnOnce(Start) -> Member,
        flip: bool,
        rng: &mut Rng,
    ) -> Started {
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
        let mut member = blank(self.next_start(rng));
        self.bad_trim = None;
        for (position, record) in &found {
            member.replay(record, place_of(*position));
        }
        self.records = found;
        Started {
            member,
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
        let are_there =
            known <= found.len() && self.records.range(removed..).eq(found.range(..known));
        assert!(are_there, "what was written durably is found again");
        let all = || self.records.iter().chain(found.range(known..));
        let floor = all().filter_map(|(_, record)| floor_of(record)).max();
        let is_known = |(_, record): &(Position, Record)| matches!(record, Record::Known(_));
        let known_at = all()
            .collect::<Vec<_>>()
            .iter()
            .rposition(|record| is_known(record));
        let voted = last_needed_votes(all().map(|(_, record)| record), floor);
        let needed = |(at, (_, record)): (usize, &(Position, Record))| match record {
            Record::Accepted { .. } => voted.contains(&at),
            Record::Trimmed { floor: at, .. } => Some(*at) == floor,
            Record::Promised { .. } => floor.is_none(),
            Record::Known(_) => Some(at) == known_at,
        };
        assert!(
            all()
                .enumerate()
                .position(needed)
                .is_none_or(|first| removed <= first),
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

/// The log as the process reads it, beside its writing.
impl votes::Log for Log {
    type Error = wal::Error;

    fn read(&self, place: Place, take: &mut dyn FnMut(&Record) -> bool) -> Result<(), wal::Error> {
        let wal = self.wal.as_ref().expect("a process has its log open");
        let from = Position::of(place.file, place.offset);
        wal.reader().scan(from, |_, bytes| {
            let record = Record::decode(bytes).expect("it was encoded here");
            match take(&record) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })
    }
}

fn place_of(position: Position) -> Place {
    let (file, offset) = position.numbers();
    Place { file, offset }
}

/// The last slot that a record of votes votes in.
fn last_vote(record: &Record) -> Option<Slot> {
    match record {
        Record::Accepted { first, values, .. } => Some(first.plus(values.len() as u64).previous()),
        _ => None,
    }
}

/// Which records hold the last vote in a slot above the floor, by number.
fn last_needed_votes<'a>(
    records: impl Iterator<Item = &'a Record>,
    floor: Option<Slot>,
) -> BTreeSet<usize> {
    let mut last = BTreeMap::new();
    for (at, record) in records.enumerate() {
        if let Record::Accepted { first, values, .. } = record {
            let slots = (first.0..first.0 + values.len() as u64).map(Slot);
            let kept = slots.filter(|slot| *slot > floor.unwrap_or_default());
            last.extend(kept.map(|slot| (slot, at)));
        }
    }
    last.into_values().collect()
}

fn floor_of(record: &Record) -> Option<Slot> {
    match record {
        Record::Trimmed { floor, .. } => Some(*floor),
        _ => None,
    }
}

impl Identity {
    fn next_start(&self, run: u64) -> Start {
        match self.witnessed {
            true => self.start.next(run),
            false => self.start,
        }
    }
}

impl Copy {
    /// The last slot that it votes in, or has forgotten.
    pub(super) fn last_vote(&self) -> Slot {
        let last = |(_, record): &(Position, Record)| last_vote(record).max(floor_of(record));
        self.records
            .iter()
            .filter_map(last)
            .max()
            .unwrap_or_default()
    }

    /// Whether it belongs to a cluster.
    pub(super) fn is_founded(&self) -> bool {
        let known = |(_, record): &(Position, Record)| match record {
            Record::Known(roster) => Some(roster.cluster.is_some()),
            _ => None,
        };
        self.records.iter().rev().find_map(known).unwrap_or(false)
    }

    /// As [`Log::next_name`].
    pub(super) fn next_name(&self) -> Option<Start> {
        self.identity.map(|identity| identity.next_start(0))
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.records.len())
    }
}
