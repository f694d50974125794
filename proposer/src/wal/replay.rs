//! What a segment's bytes mean: whole frames, the clean end, the trace of a write that a crash cut
//! off, or damage. The last two must never be confused. A torn write was not acknowledged and is
//! dropped; a damaged frame may have been, and a log that drops one has forgotten a promise.

use super::frame::{self, FOOTER, Fault, HEADER, Head, Stream};

/// What starts at some place of a segment.
#[derive(Debug)]
pub(super) enum Found {
    /// A whole frame with the sequence number expected.
    Frame,
    /// Nothing was ever written from here on.
    End,
    /// A write that a crash cut off: at least one sector of it is missing, and nothing follows.
    Torn,
    /// Bytes that no crash can have left.
    Damaged(String),
    /// A frame of a format this program does not know.
    Unsupported(u32),
}

/// Looks at `at`, where the frame `sequence` starts if there is one. The stream goes to the end of the
/// segment, in which it begins at `base`.
pub(super) fn look(stream: &Stream, base: u64, at: u64, sequence: u64) -> Found {
    let at = at - base;
    let written_end = stream.written_end;
    if written_end <= at {
        return Found::End;
    }
    let bytes = &stream.bytes[..];
    let (reason, end) = match Head::at_header(bytes, at) {
        Ok(head) if head.sequence != sequence => {
            let found = head.sequence;
            return Found::Damaged(format!("frame {found} stands where {sequence} belongs"));
        }
        Ok(head) => match head.check(bytes, at) {
            Ok(()) => return Found::Frame,
            Err(reason) => (reason, at + head.frame_bytes()),
        },
        Err(Fault::Version(version)) => return Found::Unsupported(version),
        Err(Fault::Bad) => {
            // The frame's footer may still say where it started.
            let footer = Head::at_footer(bytes, written_end.saturating_sub(FOOTER));
            let end = footer
                .filter(|foot| foot.sequence == sequence && at + foot.frame_bytes() == written_end)
                .map_or(at + HEADER, |_| written_end);
            ("a frame's header is wrong", end)
        }
    };
    if !stream.lost_sector(at, end) {
        return Found::Damaged(format!("{reason}, though every sector of it was written"));
    }
    match frame::find_later(bytes, at + 1, sequence) {
        Some(later) => Found::Damaged(format!(
            "{reason}, and a later one follows at byte {}",
            frame::file_offset(base + later)
        )),
        None => Found::Torn,
    }
}
