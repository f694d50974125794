//! The acceptor's log: one thread writes it; threads that answer questions read what is durable.

use std::convert::Infallible;
use std::fs::File;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use paxos::acceptor::{Record, Room, TrimPolicy};
use paxos::votes::{self, Place, Unread};
use roles::acceptor::Trim;

use crate::driver::volume::{Seen, Volume};
use crate::media::FileMedia;
use crate::metrics::Metrics;
use crate::wal::{self, Position, Reader, Wal};

/// Segments and what stays behind learners are smaller on a small volume, so that what a healthy
/// cluster needs is a small part of it.
const SEGMENT_PART: u64 = 32;
const TAIL_PART: u64 = 16;

/// How a log on that volume is kept.
pub(super) fn options(seen: Seen) -> wal::Options {
    let options = wal::Options::default();
    let part = (seen.size / SEGMENT_PART).max(1 << 20);
    wal::Options {
        segment_bytes: options.segment_bytes.min(part),
        ..options
    }
}

/// When votes on that volume are forgotten.
pub(super) fn trimming(seen: Seen) -> TrimPolicy {
    let policy = TrimPolicy::default();
    let tail_bytes = policy.tail_bytes.min((seen.size / TAIL_PART).max(1 << 20));
    TrimPolicy {
        tail_bytes,
        stride_bytes: policy.stride_bytes.min(tail_bytes / 4),
        ..policy
    }
}

/// The end at which records are written.
pub(super) struct Log {
    pub(super) wal: Wal<FileMedia>,
    pub(super) volume: Volume,
    pub(super) metrics: Arc<Metrics>,
}

impl Log {
    /// Makes records durable with one fdatasync. Says where those of votes are.
    pub(super) fn append(&mut self, records: &[Record]) -> Result<Vec<Place>, wal::Error> {
        let mut places = Vec::new();
        for record in records {
            let position = self.wal.append(&record.encode());
            if let Record::Accepted { .. } = record {
                places.push(place_of(position));
            }
        }
        let started = Instant::now();
        let written = self.wal.sync()?;
        self.metrics.wal_synced(started.elapsed(), written.bytes);
        self.metrics.wal_size.set(self.wal.bytes() as i64);
        self.volume.wrote(written.bytes);
        Ok(places)
    }

    /// Removes what is no longer needed.
    pub(super) fn trim(&mut self, trim: Trim) -> Result<(), wal::Error> {
        let needed = trim.before.map_or(self.wal.position_end(), |place| {
            Position::of(place.file, place.offset)
        });
        self.wal.trim_before(needed)?;
        self.metrics.wal_size.set(self.wal.bytes() as i64);
        Ok(())
    }

    /// Whether `more` bytes may be written.
    pub(super) fn room(&mut self, more: u64) -> Room {
        self.volume.room(self.wal.bytes(), more)
    }
}

/// Where a record lies, as the core calls it.
pub(super) fn place_of(position: Position) -> Place {
    let (file, offset) = position.numbers();
    Place { file, offset }
}

/// The end at which durable records are read.
#[derive(Clone)]
pub(super) struct Records(pub(super) Reader<File>);

impl votes::Log for Records {
    type Error = wal::Error;

    fn read(&self, place: Place, take: &mut dyn FnMut(&Record) -> bool) -> Result<(), wal::Error> {
        let mut unreadable = None;
        self.0.scan(
            Position::of(place.file, place.offset),
            |position, bytes| match Record::decode(bytes) {
                Ok(record) if take(&record) => ControlFlow::Continue(()),
                Ok(_) => ControlFlow::Break(()),
                Err(error) => {
                    unreadable = Some(wal::Error::Refused {
                        file: format!("segment {}", place.file),
                        offset: position.numbers().1,
                        reason: error.to_string(),
                    });
                    ControlFlow::Break(())
                }
            },
        )?;
        unreadable.map_or(Ok(()), Err)
    }
}

/// Why votes could not be read; the process ends of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Log(#[from] wal::Error),
    #[error(
        "the log no longer holds the vote of instance {0} where it was written: it was changed by something else"
    )]
    Missing(u64),
}

impl From<Unread<wal::Error>> for ReadError {
    fn from(unread: Unread<wal::Error>) -> ReadError {
        match unread {
            Unread::Log(error) => ReadError::Log(error),
            Unread::Missing(slot) => ReadError::Missing(slot.0),
        }
    }
}

impl From<Unread<Infallible>> for ReadError {
    fn from(unread: Unread<Infallible>) -> ReadError {
        match unread {
            Unread::Log(never) => match never {},
            Unread::Missing(slot) => ReadError::Missing(slot.0),
        }
    }
}
