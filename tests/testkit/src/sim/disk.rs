//! What a proposer keeps when its process ends, and how disks go wrong.

use node::media::{Media, MediaFile, SimMedia};

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
pub(super) struct Claims {
    made: Vec<u64>,
    /// The next write goes wrong.
    pub(super) bad: Option<BadWrite>,
    rng: Rng,
}

impl Claims {
    /// With one claim from an earlier life.
    pub(super) fn new(claim: u64, rng: Rng) -> Claims {
        Claims {
            made: vec![claim],
            bad: None,
            rng,
        }
    }

    /// The claim that stands.
    pub(super) fn last(&self) -> u64 {
        self.made.last().copied().unwrap_or_default()
    }

    /// A claim, durable unless the write goes wrong; then it may be.
    pub(super) fn write(&mut self, claim: u64) -> Result<(), BadWrite> {
        let bad = self.bad.take();
        if bad.is_none() || self.rng.chance(500) {
            self.made.push(claim);
        }
        bad.map_or(Ok(()), Err)
    }

    /// An older state of the disk, or none at all.
    pub(super) fn lose(&mut self) {
        let left = self.rng.below(self.made.len() as u64 + 1);
        self.made.truncate(left as usize);
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
