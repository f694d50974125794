//! A segmented, append-only log of opaque records that forgets nothing it has acknowledged.
//!
//! Records gather in memory until [`Wal::sync`] writes them as one frame with one write and one
//! `fdatasync`. So at most one frame is ever in doubt, and only at the very end of the log:
//! [`Wal::open`] drops a last frame of which sectors are missing, and refuses everything else that
//! is not as it was written. It never truncates damage.
//!
//! | what is found | what it means | what happens |
//! |---|---|---|
//! | last frame with a sector missing | a write cut off by a crash | dropped |
//! | last frame with all sectors, but a wrong checksum | damage, maybe of something acknowledged | refused |
//! | wrong frame with a trace of a later one | damage | refused |
//! | last segment without a header and without frames | a creation cut off by a crash | made again |
//! | a gap in the sequence numbers | a missing segment | refused |
//! | a later format version | a rollback of the program | refused |
//!
//! What no log can see by itself: that its end (by whole sectors or whole frames), its oldest
//! segments or all of it were removed, or that the folder is an older copy. The owner of the log has
//! to compare [`Wal::position_start`] and [`Wal::position_end`] with what it knows from elsewhere.
//!
//! The last segment is zeros past its last frame, written with an earlier one: the sync of a frame
//! that neither makes the file longer nor needs new blocks leaves the file system's journal alone.
//!
//! An error of a write or a sync poisons the log. It is never tried again, as a second `fsync` that
//! succeeds says nothing about what the first one lost (Rebello et al., "Can Applications Recover
//! from fsync Failures?", 2020). The process ends; the next [`Wal::open`] reads what there is and
//! writes the last frame once more, because the cache may show what the disk does not hold.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::media::{Media, MediaFile};
pub use error::Error;
use files::Files;
pub use files::Reader;
use frame::{FOOTER, HEADER, Head, RECORD_HEADER, SEGMENT_HEADER, Stream};

mod error;
mod files;
mod frame;
mod open;
mod replay;
#[cfg(test)]
mod tests;
mod window;

/// The largest frame, bytes: what is appended between two syncs.
pub const MAX_FRAME_BYTES: u64 = 1 << 30;
/// The largest value of [`Options::segment_bytes`]. With a frame on top, offsets fit 32 bits.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

const SUFFIX: &str = ".wal";

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A segment that has grown to this many bytes is followed by a new one. At most
    /// [`MAX_SEGMENT_BYTES`]; a greater value counts as that.
    pub segment_bytes: u64,
    /// How many bytes of zeros a frame that makes the file longer brings along for those after it. A
    /// frame of more than a quarter of that brings none: its own blocks cost more than the journal.
    pub ahead_bytes: u64,
}

impl Default for Options {
    /// Segments of 64 MiB: read in well under a second, and seldom enough changed. With 256 KiB of
    /// zeros one frame in many waits for the journal, and none for the writing of the zeros.
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            ahead_bytes: 256 << 10,
        }
    }
}

/// Where a record lies. Later records have greater positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Sequence number of the segment's first frame.
    segment: u64,
    /// In the segment's stream, of the record's header.
    offset: u32,
    /// Of the record, without its header.
    length: u32,
}

impl Position {
    /// The position of a record by two numbers, those of [`Position::numbers`]: enough to scan from
    /// there or to trim before it.
    pub fn of(segment: u64, offset: u64) -> Position {
        position(segment, offset)
    }

    /// The segment, and where in it.
    pub fn numbers(self) -> (u64, u64) {
        (self.segment, self.offset.into())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

/// What one [`Wal::sync`] did. All zero when there was nothing to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// Records made durable.
    pub records: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// The log. One process, one thread, its own folder.
pub struct Wal<M: Media> {
    media: M,
    options: Options,
    /// By the sequence number of the first frame. Never empty; the last one grows.
    segments: BTreeMap<u64, Segment<M::File>>,
    files: Files<M::File>,
    /// Of the next frame.
    sequence: u64,
    pending: Pending,
    poisoned: Option<String>,
}

struct Segment<F> {
    file: Arc<F>,
    /// Length of the stream.
    end: u64,
    /// Length of the file, with the zeros that wait for frames.
    size: u64,
}

/// The frame that the next sync writes.
#[derive(Default)]
struct Pending {
    payload: Vec<u8>,
    records: u64,
    segment: u64,
    start: u64,
}

impl Pending {
    /// Where the next record goes.
    fn end(&self) -> Position {
        let offset = self.start + HEADER + self.payload.len() as u64;
        position(self.segment, offset)
    }
}

impl<M: Media> Wal<M> {
    /// Opens the log, or makes one in an empty folder, and shows `visit` every record in order. The
    /// records share memory with others beside them: copy what is to stay. What `visit` refuses
    /// ends the opening. Nothing may be concluded from the records before this has returned: until
    /// then they may be in the cache only.
    pub fn open(
        media: M,
        options: Options,
        mut visit: impl FnMut(Position, &Bytes) -> Result<(), String>,
    ) -> Result<Wal<M>, Error> {
        let names = open::list(&media)?;
        let mut wal = Wal {
            media,
            options: Options {
                segment_bytes: options.segment_bytes.min(MAX_SEGMENT_BYTES),
                ..options
            },
            segments: BTreeMap::new(),
            files: Files::default(),
            sequence: names.first().copied().unwrap_or(1),
            pending: Pending::default(),
            poisoned: None,
        };
        if names.is_empty() {
            wal.create_segment()?;
        }
        for first in &names {
            let is_last = Some(first) == names.last();
            wal.open_segment(*first, is_last, &mut visit)?;
        }
        // A name may be in the cache only, too.
        wal.sync_dir()?;
        Ok(wal)
    }

    /// Adds a record to the frame that the next sync writes. Durable when that sync has returned.
    pub fn append(&mut self, record: &[u8]) -> Position {
        if self.pending.records == 0 {
            (self.pending.segment, self.pending.start) = self.next_frame();
        }
        let position = self.pending.end();
        frame::push_record(&mut self.pending.payload, record);
        self.pending.records += 1;
        Position {
            length: record.len() as u32,
            ..position
        }
    }

    /// Makes all appended records durable: one write, one `fdatasync`. After an error the log is
    /// dead and so should be the process: what of the frame is on the disk shows at the next open.
    pub fn sync(&mut self) -> Result<SyncStats, Error> {
        self.check()?;
        if self.pending.records == 0 {
            return Ok(SyncStats::default());
        }
        self.write_pending().inspect_err(|error| {
            self.poisoned = Some(error.to_string());
        })
    }

    /// One record, verified, be it durable yet or not.
    pub fn read(&self, position: Position) -> Result<Bytes, Error> {
        self.check()?;
        let pending_start = self.pending.start + HEADER;
        let start = u64::from(position.offset);
        let length = RECORD_HEADER + u64::from(position.length);
        if self.pending.records > 0
            && self.pending.segment == position.segment
            && start >= pending_start
        {
            let record = usize::try_from(start - pending_start)
                .ok()
                .and_then(|start| self.pending.payload.get(start..))
                .filter(|bytes| frame::record_length(bytes) == Some(position.length as usize));
            let record = record.ok_or(Error::Absent(position))?;
            return Ok(Bytes::copy_from_slice(
                &record[RECORD_HEADER as usize..length as usize],
            ));
        }
        let segment = self.segments.get(&position.segment);
        let segment = segment
            .filter(|segment| start + length <= segment.end)
            .ok_or(Error::Absent(position))?;
        let name = name(position.segment);
        let (bytes, skip) = read_stream(&*segment.file, start, start + length)
            .map_err(|source| self.io("read", &name, source))?;
        let record = bytes.slice(skip..);
        if frame::record_length(&record) != Some(position.length as usize) {
            let reason = format!("the record at {position} does not match its checksum");
            return Err(self.corrupt(&name, start, reason));
        }
        Ok(record.slice(RECORD_HEADER as usize..))
    }

    /// Removes the segments before the one that holds `position`, never the last one.
    pub fn trim_before(&mut self, position: Position) -> Result<(), Error> {
        self.check()?;
        while let Some((first, _)) = self.segments.first_key_value()
            && *first < position.segment
            && self.segments.len() > 1
        {
            let first = *first;
            self.remove_segment(first).inspect_err(|error| {
                self.poisoned = Some(error.to_string());
            })?;
        }
        Ok(())
    }

    /// For those who read what is durable while this log keeps growing.
    pub fn reader(&self) -> Reader<M::File> {
        Reader(self.files.clone())
    }

    /// How many bytes the log's files hold.
    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.size).sum()
    }

    /// Before every record of the log.
    pub fn position_start(&self) -> Position {
        let first = self.segments.keys().next();
        position(first.copied().unwrap_or(self.sequence), SEGMENT_HEADER)
    }

    /// After every record so far, appended ones included.
    pub fn position_end(&self) -> Position {
        if self.pending.records > 0 {
            return self.pending.end();
        }
        let (first, end) = self.last_segment();
        position(first, end)
    }

    fn last_segment(&self) -> (u64, u64) {
        let last = self.segments.last_key_value();
        last.map_or((self.sequence, SEGMENT_HEADER), |(first, segment)| {
            (*first, segment.end)
        })
    }

    /// In which segment, and where in it, the next frame goes.
    fn next_frame(&self) -> (u64, u64) {
        let (first, end) = self.last_segment();
        let has_frames = end > SEGMENT_HEADER;
        if has_frames && end >= self.options.segment_bytes {
            (self.sequence, SEGMENT_HEADER)
        } else {
            (first, end)
        }
    }

    fn write_pending(&mut self) -> Result<SyncStats, Error> {
        let pending = std::mem::take(&mut self.pending);
        let payload_bytes = pending.payload.len() as u64;
        if HEADER + payload_bytes + FOOTER > MAX_FRAME_BYTES {
            return Err(Error::TooLarge {
                bytes: HEADER + payload_bytes + FOOTER,
            });
        }
        if !self.segments.contains_key(&pending.segment) {
            self.create_segment()?;
        }
        let head = Head {
            sequence: self.sequence,
            payload_bytes: payload_bytes as u32,
            payload_crc: crc32c::crc32c(&pending.payload),
        };
        let (header, footer) = (head.header(), head.footer());
        let parts = [&header[..], &pending.payload, &footer];
        let bytes = self.write(pending.segment, pending.start, &parts)?;
        if let Some(segment) = self.segments.get_mut(&pending.segment) {
            segment.end = pending.start + head.frame_bytes();
        }
        self.sequence += 1;
        self.pending.payload = pending.payload;
        self.pending.payload.clear();
        Ok(SyncStats {
            records: pending.records,
            bytes,
        })
    }

    /// Writes into a segment's stream, durably. Returns the bytes written to the file, less zeros.
    fn write(&mut self, first: u64, at: u64, parts: &[&[u8]]) -> Result<u64, Error> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut marked = Vec::with_capacity(length + length / 256 + 2);
        let mut position = at;
        for part in parts {
            frame::mark(&mut marked, position, part);
            position += part.len() as u64;
        }
        let (start, bytes) = (frame::file_offset(at), marked.len() as u64);
        let segment = &self.segments[&first];
        let mut size = segment.size;
        if start + bytes > size {
            size = self.room(start + bytes, bytes);
            marked.resize((size - start) as usize, 0);
        }
        let written = segment.file.write_at(&marked, start);
        written.map_err(|source| self.io("write", &name(first), source))?;
        let synced = segment.file.sync_data();
        synced.map_err(|source| self.io("sync", &name(first), source))?;
        if let Some(segment) = self.segments.get_mut(&first) {
            segment.size = size;
        }
        Ok(bytes)
    }

    /// How long a file becomes by a write of `bytes` bytes that ends at `end`, past its own end.
    fn room(&self, end: u64, bytes: u64) -> u64 {
        let Options {
            segment_bytes,
            ahead_bytes,
        } = self.options;
        if bytes > ahead_bytes / 4 {
            return end;
        }
        // No frame begins past a full segment's end.
        let full = frame::file_offset(segment_bytes);
        (end + ahead_bytes).min(full.max(end))
    }

    /// Starts the segment of the next frame. It is durable, name and all, before a frame goes in,
    /// so a segment without a header has no frames.
    fn create_segment(&mut self) -> Result<(), Error> {
        let first = self.sequence;
        let file = self
            .media
            .create(&name(first))
            .map_err(|source| self.io("create", &name(first), source))?;
        let (file, end) = (Arc::new(file), SEGMENT_HEADER);
        let segment = Segment {
            file: file.clone(),
            end,
            size: 0,
        };
        self.segments.insert(first, segment);
        self.files.insert(first, file);
        self.write(first, 0, &[&frame::segment_header(first)])?;
        self.sync_dir()
    }

    /// The oldest goes first and each removal is durable before the next, so that a crash cannot
    /// leave a gap.
    fn remove_segment(&mut self, first: u64) -> Result<(), Error> {
        self.segments.remove(&first);
        self.files.remove(first);
        self.media
            .remove(&name(first))
            .map_err(|source| self.io("remove", &name(first), source))?;
        self.sync_dir()
    }

    fn check(&self) -> Result<(), Error> {
        match &self.poisoned {
            Some(reason) => Err(Error::Poisoned(reason.clone())),
            None => Ok(()),
        }
    }

    fn sync_dir(&self) -> Result<(), Error> {
        let synced = self.media.sync_dir();
        synced.map_err(|source| self.io("sync the folder of", &name(self.sequence), source))
    }

    fn io(&self, action: &'static str, name: &str, source: io::Error) -> Error {
        let file = self.media.describe(name);
        Error::Io {
            action,
            file,
            source,
        }
    }

    fn corrupt(&self, name: &str, at: u64, reason: String) -> Error {
        Error::Corrupt {
            file: self.media.describe(name),
            offset: frame::file_offset(at),
            reason,
        }
    }

    fn unsupported(&self, name: &str, at: u64, version: u32) -> Error {
        Error::Unsupported {
            file: self.media.describe(name),
            offset: frame::file_offset(at),
            version,
        }
    }
}

/// Twenty digits, so that names sort as numbers do.
fn name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

fn position(segment: u64, offset: u64) -> Position {
    Position {
        segment,
        // Only a frame that sync refuses as too large reaches past 32 bits.
        offset: u32::try_from(offset).unwrap_or(u32::MAX),
        length: 0,
    }
}

/// `start..end` of a segment's stream, after as many bytes as the second value says.
fn read_stream(file: &impl MediaFile, start: u64, end: u64) -> io::Result<(Bytes, usize)> {
    let from = frame::sector_start(start);
    let file_start = frame::file_offset(from);
    let mut raw = vec![0; (frame::file_offset(end) - file_start) as usize];
    file.read_at(&mut raw, file_start)?;
    Ok((Stream::from_file(&raw).bytes, (start - from) as usize))
}
