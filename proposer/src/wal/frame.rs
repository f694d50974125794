//! The log's bytes. All numbers are little-endian.
//!
//! ```text
//! file     sectors of 512 bytes: 1 mark byte, then 511 bytes of the stream
//! stream   segment header, frame, frame, …
//! segment  magic 4 | format version u32 | sequence of the first frame u64 | CRC of these 16 u32
//! frame    header, payload, footer
//! header   magic 3, format version u8 | payload length u32 | sequence u64 | CRC of the payload u32
//!          | CRC of these 20 u32
//! payload  records: length u32 | CRC of length and bytes u32 | bytes
//! footer   sequence u64 | payload length u32 | CRC of the payload u32 | CRC of these 16 u32
//!          | end mark 4
//! ```
//!
//! Why the marks: a sector that a crash has lost reads as zeros, and so may a client's data. With a
//! mark in each sector the two differ, and no flipped bit in the data changes that. Why the footer
//! repeats the header: damage of either leaves the other to say where the frame ends, so it cannot
//! pass for a torn write.
//!
//! Magic and end mark hold the byte 0xf5, which never occurs in UTF-8, so no text within a payload
//! looks like a header or a footer.

use bytes::Bytes;

/// What the marks leave of a sector for the stream.
const STREAM_BYTES: u64 = 511;
const SECTOR_BYTES: u64 = crate::media::SECTOR_BYTES as u64;
const MARK: u8 = 0xa5;

/// The format this program writes, and the only one it reads.
pub(super) const VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 4] = [0xc5, b'L', 0xf5, b'G'];
const FRAME_MAGIC: [u8; 3] = [0xc5, b'F', 0xf5];
const END_MARK: [u8; 4] = [b'E', 0xf5, b'D', 0xe7];

/// Lengths in the stream, bytes.
pub(super) const SEGMENT_HEADER: u64 = 20;
pub(super) const HEADER: u64 = 24;
pub(super) const FOOTER: u64 = 24;
pub(super) const RECORD_HEADER: u64 = 8;

/// Why a header does not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its checksum or magic is wrong.
    Bad,
    /// It is whole, but of a format this program does not know.
    Version(u32),
}

/// Where the file ends whose stream ends at `position`; a write there starts here too, so that it
/// brings the mark of a sector it is the first to touch.
pub(super) fn file_offset(position: u64) -> u64 {
    let into_sector = position % STREAM_BYTES;
    let sector = position / STREAM_BYTES * SECTOR_BYTES;
    if into_sector == 0 {
        sector
    } else {
        sector + 1 + into_sector
    }
}

/// The start, in the stream, of the sector that holds `position`.
pub(super) fn sector_start(position: u64) -> u64 {
    position - position % STREAM_BYTES
}

/// Appends what to write to the file so that the stream holds `bytes` at `position`.
pub(super) fn mark(file: &mut Vec<u8>, position: u64, bytes: &[u8]) {
    let left = (STREAM_BYTES - position % STREAM_BYTES) % STREAM_BYTES;
    let (first, rest) = bytes.split_at(bytes.len().min(left as usize));
    file.extend_from_slice(first);
    for sector in rest.chunks(STREAM_BYTES as usize) {
        file.push(MARK);
        file.extend_from_slice(sector);
    }
}

/// A stretch of a file that starts with a sector, taken apart. Places in it count from its start.
pub(super) struct Stream {
    pub(super) bytes: Bytes,
    /// One for each sector.
    marks: Vec<u8>,
    /// Where the last byte that is not zero ends.
    pub(super) written_end: u64,
}

impl Stream {
    /// Takes the marks out of a file's bytes.
    pub(super) fn from_file(file: &[u8]) -> Stream {
        let mut bytes = Vec::with_capacity(file.len());
        let mut marks = Vec::with_capacity(file.len() / SECTOR_BYTES as usize + 1);
        for sector in file.chunks(SECTOR_BYTES as usize) {
            marks.push(sector[0]);
            bytes.extend_from_slice(&sector[1..]);
        }
        let last = file.iter().rposition(|byte| *byte != 0);
        let written_end = last.map_or(0, |last| {
            let (sector, byte) = (last as u64 / SECTOR_BYTES, last as u64 % SECTOR_BYTES);
            // A sector of which only the mark was written counts as its first byte.
            sector * STREAM_BYTES + byte.max(1)
        });
        Stream {
            bytes: Bytes::from(bytes),
            marks,
            written_end,
        }
    }

    /// Whether within `start..end` a sector's share is missing or all zeros, mark included: what a
    /// crash leaves of a sector that it did not write.
    pub(super) fn lost_sector(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            let sector = at / STREAM_BYTES;
            let next = ((sector + 1) * STREAM_BYTES).min(end);
            if next > self.bytes.len() as u64 {
                return true;
            }
            let marked = at.is_multiple_of(STREAM_BYTES) && self.marks[sector as usize] != 0;
            if !marked
                && self.bytes[at as usize..next as usize]
                    .iter()
                    .all(|byte| *byte == 0)
            {
                return true;
            }
            at = next;
        }
        false
    }
}

/// The header of a segment whose first frame has that sequence number.
pub(super) fn segment_header(first: u64) -> [u8; SEGMENT_HEADER as usize] {
    let mut bytes = [0; SEGMENT_HEADER as usize];
    bytes[..4].copy_from_slice(&SEGMENT_MAGIC);
    bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
    bytes[8..16].copy_from_slice(&first.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The sequence number in a segment's header, which `stream` starts with.
pub(super) fn read_segment_header(stream: &[u8]) -> Result<u64, Fault> {
    let bytes = stream.get(..SEGMENT_HEADER as usize).ok_or(Fault::Bad)?;
    if bytes[..4] != SEGMENT_MAGIC || u32_at(bytes, 16) != crc32c::crc32c(&bytes[..16]) {
        return Err(Fault::Bad);
    }
    match u32_at(bytes, 4) {
        VERSION => Ok(u64_at(bytes, 8)),
        version => Err(Fault::Version(version)),
    }
}

/// What header and footer both say of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) sequence: u64,
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
}

impl Head {
    /// How long the frame is.
    pub(super) fn frame_bytes(&self) -> u64 {
        HEADER + u64::from(self.payload_bytes) + FOOTER
    }

    pub(super) fn header(&self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        bytes[..3].copy_from_slice(&FRAME_MAGIC);
        bytes[3] = VERSION as u8;
        bytes[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..20]);
        bytes[20..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn footer(&self) -> [u8; FOOTER as usize] {
        let mut bytes = [0; FOOTER as usize];
        bytes[..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..16]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes[20..].copy_from_slice(&END_MARK);
        bytes
    }

    /// Reads the header at `at`.
    pub(super) fn at_header(stream: &[u8], at: u64) -> Result<Head, Fault> {
        let bytes = slice(stream, at, HEADER).ok_or(Fault::Bad)?;
        if bytes[..3] != FRAME_MAGIC || u32_at(bytes, 20) != crc32c::crc32c(&bytes[..20]) {
            return Err(Fault::Bad);
        }
        if u32::from(bytes[3]) != VERSION {
            return Err(Fault::Version(u32::from(bytes[3])));
        }
        Ok(Head {
            payload_bytes: u32_at(bytes, 4),
            sequence: u64_at(bytes, 8),
            payload_crc: u32_at(bytes, 16),
        })
    }

    /// Reads the footer at `at`.
    pub(super) fn at_footer(stream: &[u8], at: u64) -> Option<Head> {
        let bytes = slice(stream, at, FOOTER)?;
        let whole = bytes[20..] == END_MARK && u32_at(bytes, 16) == crc32c::crc32c(&bytes[..16]);
        whole.then(|| Head {
            sequence: u64_at(bytes, 0),
            payload_bytes: u32_at(bytes, 8),
            payload_crc: u32_at(bytes, 12),
        })
    }

    /// What is wrong with the frame at `at`, of which this is the header.
    pub(super) fn check(&self, stream: &[u8], at: u64) -> Result<(), &'static str> {
        let payload_bytes = u64::from(self.payload_bytes);
        let payload = slice(stream, at + HEADER, payload_bytes).ok_or("a frame is cut short")?;
        if Head::at_footer(stream, at + HEADER + payload_bytes) != Some(*self) {
            return Err("a frame's footer is wrong");
        }
        if crc32c::crc32c(payload) != self.payload_crc {
            return Err("a frame's payload does not match its checksum");
        }
        Ok(())
    }
}

/// Where after `from` a header or a footer of a frame later than `sequence` stands.
pub(super) fn find_later(stream: &[u8], from: u64, sequence: u64) -> Option<u64> {
    (from..stream.len() as u64).find(|at| match stream[*at as usize] {
        first if first == FRAME_MAGIC[0] => match Head::at_header(stream, *at) {
            Ok(head) => head.sequence > sequence,
            Err(fault) => fault != Fault::Bad,
        },
        last if last == END_MARK[3] && *at - from >= FOOTER => {
            Head::at_footer(stream, *at + 1 - FOOTER).is_some_and(|foot| foot.sequence > sequence)
        }
        _ => false,
    })
}

/// Appends one record to a payload.
pub(super) fn push_record(payload: &mut Vec<u8>, record: &[u8]) {
    // A frame of 4 GiB is refused as a whole, so a length cut here is never written.
    let length = (record.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), record);
    payload.extend_from_slice(&length);
    payload.extend_from_slice(&crc.to_le_bytes());
    payload.extend_from_slice(record);
}

/// The length of the record at the start of `bytes`, if it is there in full and whole.
pub(super) fn record_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..RECORD_HEADER as usize)?;
    let length = u32_at(header, 0) as usize;
    let record = bytes[header.len()..].get(..length)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..4]), record);
    (crc == u32_at(header, 4)).then_some(length)
}

fn slice(stream: &[u8], at: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(at).ok()?;
    let end = usize::try_from(at.checked_add(length)?).ok()?;
    stream.get(start..end)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
