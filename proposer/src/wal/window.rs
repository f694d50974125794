//! A segment's stream, read in pieces of a bounded size.

use std::io;

use bytes::Bytes;

use super::frame::{self, FOOTER, HEADER, Head, RECORD_HEADER, Stream};
use crate::media::MediaFile;

/// How much is read at once, unless more is asked for.
const PIECE_BYTES: u64 = 256 << 10;

pub(super) struct Window<'a, F> {
    file: &'a F,
    /// Bytes of the file.
    size: u64,
    piece: u64,
    /// Where in the stream the piece begins that is in memory.
    base: u64,
    bytes: Bytes,
}

impl<'a, F: MediaFile> Window<'a, F> {
    pub(super) fn new(file: &'a F, size: u64) -> Window<'a, F> {
        Window::with_piece(file, size, PIECE_BYTES)
    }

    /// The same, reading so much at once.
    pub(super) fn with_piece(file: &'a F, size: u64, piece: u64) -> Window<'a, F> {
        Window {
            file,
            size,
            piece,
            base: 0,
            bytes: Bytes::new(),
        }
    }

    /// `length` bytes of the stream; `None` if the file ends before.
    pub(super) fn get(&mut self, at: u64, length: u64) -> io::Result<Option<Bytes>> {
        let Some(end) = at.checked_add(length) else {
            return Ok(None);
        };
        if at < self.base || end > self.base + self.bytes.len() as u64 {
            if frame::file_offset(end) > self.size {
                return Ok(None);
            }
            let base = frame::sector_start(at);
            let start = frame::file_offset(base);
            let raw = frame::file_offset(end.max(at + self.piece)).min(self.size);
            let raw = self.file.read_range(start, raw)?;
            (self.bytes, self.base) = (Stream::from_file(&raw).bytes, base);
        }
        let start = (at - self.base) as usize;
        let bytes = start..start + length as usize;
        Ok((bytes.end <= self.bytes.len()).then(|| self.bytes.slice(bytes)))
    }

    /// The payload of the whole frame of that number, if there is one at `at`.
    pub(super) fn frame(&mut self, at: u64, sequence: u64) -> io::Result<Option<Bytes>> {
        let Some(header) = self.get(at, HEADER)? else {
            return Ok(None);
        };
        let Ok(head) = Head::at_header(&header, 0) else {
            return Ok(None);
        };
        let frame = match head.sequence == sequence {
            true => self.get(at, head.frame_bytes())?,
            false => None,
        };
        let whole = frame.filter(|frame| head.check(frame, 0).is_ok());
        let payload = HEADER as usize..(HEADER + u64::from(head.payload_bytes)) as usize;
        Ok(whole.map(|frame| frame.slice(payload)))
    }

    /// The record at `at` and where the next one is, which may be in the next frame. `None` where the
    /// segment ends or holds something else; a caller that knows of a record there knows that it is
    /// damaged.
    pub(super) fn record(&mut self, at: u64) -> io::Result<Option<(u64, Bytes, u64)>> {
        let mut at = at;
        if let Some(footer) = self.get(at, FOOTER)?
            && Head::at_footer(&footer, 0).is_some()
        {
            at += FOOTER;
            match self.get(at, HEADER)? {
                Some(header) if Head::at_header(&header, 0).is_ok() => at += HEADER,
                _ => return Ok(None),
            }
        }
        let Some(length) = self.get(at, 4)? else {
            return Ok(None);
        };
        let length = length.iter().rev();
        let length = length.fold(0, |length, byte| length << 8 | u64::from(*byte));
        let Some(record) = self.get(at, RECORD_HEADER + length)? else {
            return Ok(None);
        };
        let whole = frame::record_length(&record).is_some();
        let next = at + RECORD_HEADER + length;
        Ok(whole.then(|| (at, record.slice(RECORD_HEADER as usize..), next)))
    }
}
