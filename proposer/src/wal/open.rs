//! Opening: every segment is read, checked and shown, and the end of the last one is settled. It is
//! read in pieces of a bounded size, or of one frame if that is larger; only what is not a whole frame
//! is looked at together with all that follows.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, Fault, HEADER, RECORD_HEADER, SEGMENT_HEADER, Stream};
use super::replay::{self, Found};
use super::window::Window;
use super::{Error, Position, SUFFIX, Segment, Wal, name, position, read_stream};
use crate::media::{Media, MediaFile};

impl<M: Media> Wal<M> {
    pub(super) fn open_segment(
        &mut self,
        first: u64,
        is_last: bool,
        visit: &mut impl FnMut(Position, &Bytes) -> Result<(), String>,
    ) -> Result<(), Error> {
        let name = &name(first);
        let file = self.media.open(name);
        let file = Arc::new(file.map_err(|source| self.io("open", name, source))?);
        let read = |source| self.io("read", name, source);
        let size = file.size().map_err(read)?;

        if first != self.sequence {
            let expected = self.sequence;
            let reason = format!(
                "it starts with frame {first}, but the segments before it end before frame \
                 {expected}: a segment or its end is missing"
            );
            return Err(self.corrupt(name, 0, reason));
        }
        let mut window = Window::new(&*file, size);
        let header = window.get(0, SEGMENT_HEADER).map_err(read)?;
        match frame::read_segment_header(&header.unwrap_or_default()) {
            Ok(found) if found == first => {}
            Ok(found) => {
                let reason = format!("its header says that it starts with frame {found}");
                return Err(self.corrupt(name, 0, reason));
            }
            Err(Fault::Version(version)) => return Err(self.unsupported(name, 0, version)),
            Err(Fault::Bad) => {
                let (stream, _) = rest(&*file, 0, size).map_err(read)?;
                if !is_last || stream.written_end > SEGMENT_HEADER {
                    let reason = "its header is wrong".to_owned();
                    return Err(self.corrupt(name, 0, reason));
                }
            }
        }

        let mut last = (0, SEGMENT_HEADER);
        let mut at = SEGMENT_HEADER;
        loop {
            let whole = window.frame(at, self.sequence);
            if let Some(payload) = whole.map_err(|source| self.io("read", name, source))? {
                let start = at + HEADER;
                self.visit_frame(first, &payload, start..start + payload.len() as u64, visit)?;
                last = (at, start + payload.len() as u64 + frame::FOOTER);
                at = last.1;
                self.sequence += 1;
                continue;
            }
            let (stream, base) =
                rest(&*file, at, size).map_err(|source| self.io("read", name, source))?;
            match replay::look(&stream, base, at, self.sequence) {
                Found::End => break,
                Found::Torn if is_last => break,
                Found::Torn => {
                    let reason = "a frame is incomplete, though a later segment exists".to_owned();
                    return Err(self.corrupt(name, at, reason));
                }
                Found::Damaged(reason) => return Err(self.corrupt(name, at, reason)),
                Found::Unsupported(version) => return Err(self.unsupported(name, at, version)),
                Found::Frame => {
                    let reason = "a frame is whole at one look and not at another".to_owned();
                    return Err(self.corrupt(name, at, reason));
                }
            }
        }
        let tail = match (is_last, last.0) {
            (false, _) => None,
            (true, 0) => Some(Bytes::from_owner(frame::segment_header(first))),
            (true, start) => {
                let (bytes, skip) = read_stream(&*file, start, last.1)
                    .map_err(|source| self.io("read", name, source))?;
                Some(bytes.slice(skip..))
            }
        };
        let segment = Segment {
            file: file.clone(),
            end: at,
            size,
        };
        self.segments.insert(first, segment);
        self.files.insert(first, file);
        match tail {
            Some(tail) => self.settle(first, last.0, &tail),
            None => Ok(()),
        }
    }

    /// Cuts off what is after the last frame and writes that frame, or the header, once more: it is
    /// the only one whose sync may have failed, after which the cache says clean what the disk does
    /// not have.
    fn settle(&mut self, first: u64, at: u64, tail: &[u8]) -> Result<(), Error> {
        if let Some(segment) = self.segments.get_mut(&first) {
            let end = frame::file_offset(segment.end);
            if segment.size > end {
                segment.size = end;
                let cut = segment.file.truncate(end);
                cut.map_err(|source| self.io("truncate", &name(first), source))?;
            }
        }
        self.write(first, at, &[tail])?;
        Ok(())
    }

    fn visit_frame(
        &self,
        first: u64,
        bytes: &Bytes,
        payload: Range<u64>,
        visit: &mut impl FnMut(Position, &Bytes) -> Result<(), String>,
    ) -> Result<(), Error> {
        let mut at = payload.start;
        while at < payload.end {
            let rest = bytes.slice((at - payload.start) as usize..);
            let Some(length) = frame::record_length(&rest) else {
                let reason = "a whole frame holds a record that does not add up".to_owned();
                return Err(self.corrupt(&name(first), at, reason));
            };
            let start = RECORD_HEADER as usize;
            let position = Position {
                length: length as u32,
                ..position(first, at)
            };
            visit(position, &rest.slice(start..start + length)).map_err(|reason| {
                Error::Refused {
                    file: self.media.describe(&name(first)),
                    offset: frame::file_offset(at),
                    reason,
                }
            })?;
            at += RECORD_HEADER + length as u64;
        }
        Ok(())
    }
}

/// The segment's stream from the sector that holds `at` to its end, and where it begins.
fn rest(file: &impl MediaFile, at: u64, size: u64) -> std::io::Result<(Stream, u64)> {
    let base = frame::sector_start(at);
    let raw = file.read_range(frame::file_offset(base), size)?;
    Ok((Stream::from_file(&raw), base))
}

/// The first sequence number of each segment, in order. A file that is no segment but is called
/// like one may be a segment someone renamed.
pub(super) fn list(media: &impl Media) -> Result<Vec<u64>, Error> {
    let names = media.list().map_err(|source| Error::Io {
        action: "list",
        file: media.describe(""),
        source,
    })?;
    let mut segments = Vec::new();
    for file in names.iter().filter(|file| file.ends_with(SUFFIX)) {
        let first = file.trim_end_matches(SUFFIX).parse();
        match first {
            Ok(first) if first > 0 && name(first) == **file => segments.push(first),
            _ => {
                return Err(Error::Corrupt {
                    file: media.describe(file),
                    offset: 0,
                    reason: "its name is not that of a segment: rename it back, or move it out of \
                             the folder"
                        .to_owned(),
                });
            }
        }
    }
    Ok(segments)
}
