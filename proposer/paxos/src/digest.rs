//! Hashes of fields by their bytes and lengths. Not through `Hash`, whose bytes are the standard
//! library's own affair, while these digests are compared across versions and machines.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

#[derive(Clone, Debug)]
pub(super) struct Digest(SipHasher13);

impl Digest {
    /// A digest of one kind; those of different kinds have nothing in common.
    pub(super) fn new(kind: u64) -> Digest {
        Digest(SipHasher13::new_with_keys(0, kind))
    }

    pub(super) fn number(&mut self, number: u64) {
        self.0.write_u64(number.to_le());
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.write(bytes);
    }

    /// Adds bytes by their checksum: against accidents and not against malice, and many times faster.
    pub(super) fn add_checksum(&mut self, bytes: &[u8]) {
        self.number(checksum(bytes));
    }

    pub(super) fn finish(self) -> u128 {
        self.0.finish128().as_u128()
    }

    pub(super) fn finish_short(self) -> u64 {
        self.0.finish128().h1
    }
}

/// Tells bytes from others: against accidents and not against malice.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    u64::from(crc32c::crc32c(bytes)) << 32 | bytes.len() as u64 & 0xffff_ffff
}
