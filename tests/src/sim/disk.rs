//! What a process keeps when it ends.

use std::fmt;

use proposer::media::{Media, MediaFile, SimMedia};
use proposer::paxos::acceptor::{Acceptor, AnswerLimits, Record};
use proposer::wal::{self, Options, Wal};

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
    /// Every record known to be durable.
    records: Vec<Record>,
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
            records: Vec::new(),
        }
    }

    /// These records, durable unless the write goes wrong; then the next start shows.
    pub(super) fn write(
        &mut self,
        records: &[Record],
        bad: Option<BadWrite>,
        rng: &mut Rng,
    ) -> Result<(), BadWrite> {
        let wal = self.wal.as_mut().expect("a process has its log open");
        match bad {
            None => {}
            Some(BadWrite::Torn) => {
                let operations = self.media.operations() + rng.below(5);
                self.media.halt_before(operations);
            }
            Some(BadWrite::Failed) if rng.chance(500) => self.media.fail_next_sync(),
            Some(BadWrite::Failed) => self.media.fail_next_write(rng.below(600) as usize),
        }
        for record in records {
            wal.append(&record.encode());
        }
        match (wal.sync(), bad) {
            (Ok(_), None) => self.records.extend_from_slice(records),
            (Err(error), None) => panic!("a healthy disk takes every write: {error}"),
            (_, Some(bad)) => return Err(bad),
        }
        Ok(())
    }

    /// The process ends, and perhaps the machine with it.
    pub(super) fn end(&mut self, rng: &mut Rng) {
        self.wal = None;
        match rng.below(3) {
            0 => self.media.crash(rng.bits()),
            // Whatever the system had taken from the process is written after its end.
            1 => self.media.crash_keeping(|_| true),
            _ => self.media.kill(),
        }
    }

    /// The process starts, perhaps after a bit has flipped.
    pub(super) fn start(&mut self, answers: AnswerLimits, flip: bool, rng: &mut Rng) -> Started {
        let mut damaged = false;
        if flip && let Some((name, offset, bit)) = self.flip(rng) {
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
        assert!(
            found.starts_with(&self.records),
            "what was written durably is found again"
        );
        let news = found[self.records.len()..].to_vec();
        let mut acceptor = Acceptor::with_answers(answers);
        found.iter().for_each(|record| acceptor.remember(record));
        self.records = found;
        Started {
            acceptor,
            news,
            damaged,
        }
    }

    fn open(&mut self) -> Result<Vec<Record>, wal::Error> {
        let mut found = Vec::new();
        let wal = Wal::open(self.media.clone(), self.options, |_, bytes| {
            let record = Record::decode(bytes.clone()).map_err(|error| error.to_string())?;
            found.push(record);
            Ok(())
        })?;
        self.wal = Some(wal);
        Ok(found)
    }

    /// Flips a bit somewhere on the disk.
    fn flip(&self, rng: &mut Rng) -> Option<(String, usize, u8)> {
        let names = self.media.list().ok()?;
        let name = names.get(rng.below(names.len() as u64) as usize)?;
        let length = self.media.open(name).and_then(|file| file.size()).ok()?;
        if length == 0 {
            return None;
        }
        let (offset, bit) = (rng.below(length) as usize, rng.below(8) as u8);
        self.media.flip_bit(name, offset, bit);
        Some((name.clone(), offset, bit))
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.records.len())
    }
}
