//! Opening: every segment is read, checked and shown, and the end of the last one is settled.

use std::ops::Range;

use bytes::Bytes;

use super::frame::{self, Fault, HEADER, RECORD_HEADER, SEGMENT_HEADER, Stream};
use super::replay::{self, Found};
use super::{Error, Position, SUFFIX, Segment, Wal, name, position};
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
        let file = file.map_err(|source| self.io("open", name, source))?;
        let raw = file
            .read_all()
            .map_err(|source| self.io("read", name, source))?;
        let stream = Stream::from_file(&raw);
        let file_bytes = raw.len() as u64;
        drop(raw);

        if first != self.sequence {
            let expected = self.sequence;
            let reason = format!(
                "it starts with frame {first}, but the segments before it end before frame \
                 {expected}: a segment or its end is missing"
            );
            return Err(self.corrupt(name, 0, reason));
        }
        match frame::read_segment_header(&stream.bytes) {
            Ok(found) if found == first => {}
            Ok(found) => {
                let reason = format!("its header says that it starts with frame {found}");
                return Err(self.corrupt(name, 0, reason));
            }
            Err(Fault::Version(version)) => return Err(self.unsupported(name, 0, version)),
            Err(Fault::Bad) => {
                if !is_last || stream.written_end > SEGMENT_HEADER {
                    let reason = "its header is wrong".to_owned();
                    return Err(self.corrupt(name, 0, reason));
                }
            }
        }

        let mut last = (0, SEGMENT_HEADER);
        let mut at = SEGMENT_HEADER;
        loop {
            match replay::look(&stream, at, self.sequence) {
                Found::Frame(head) => {
                    let payload = at + HEADER..at + HEADER + u64::from(head.payload_bytes);
                    self.visit_frame(first, &stream.bytes, payload, visit)?;
                    last = (at, at + head.frame_bytes());
                    at = last.1;
                    self.sequence += 1;
                }
                Found::End => break,
                Found::Torn if is_last => break,
                Found::Torn => {
                    let reason = "a frame is incomplete, though a later segment exists".to_owned();
                    return Err(self.corrupt(name, at, reason));
                }
                Found::Damaged(reason) => return Err(self.corrupt(name, at, reason)),
                Found::Unsupported(version) => return Err(self.unsupported(name, at, version)),
            }
        }
        let size = file_bytes;
        self.segments.insert(
            first,
            Segment {
                file,
                end: at,
                size,
            },
        );
        if is_last {
            let tail = if last.0 == 0 {
                Bytes::from_owner(frame::segment_header(first))
            } else {
                stream.bytes.slice(last.0 as usize..last.1 as usize)
            };
            self.settle(first, last.0, &tail)?;
        }
        Ok(())
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
        stream: &Bytes,
        payload: Range<u64>,
        visit: &mut impl FnMut(Position, &Bytes) -> Result<(), String>,
    ) -> Result<(), Error> {
        let mut at = payload.start;
        while at < payload.end {
            let rest = stream.slice(at as usize..payload.end as usize);
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
