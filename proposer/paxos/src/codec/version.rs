//! The versions of a frame's bytes. A build reads [`Version::ALL`], the newest and the one before, and
//! writes the newest that its peer has shown that it reads. So nodes of two neighbouring versions
//! understand each other, in both directions, and a cluster rolls from one to the other and back.
//!
//! A node answers in the version of the question, and shows beside each answer the newest that it reads
//! (`node::link`). A peer that shows nothing is of a build from before that, which reads the oldest.

/// One version of the encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Without a checksum.
    V2 = 2,
    /// With a CRC32C of what follows it.
    V3 = 3,
}

impl Version {
    /// Those that this build reads and writes, in order.
    pub const ALL: [Version; 2] = [Version::V2, Version::V3];
    /// What every peer reads that may be in the same cluster.
    pub const OLDEST: Version = Version::V2;
    /// What two nodes of this build speak.
    pub const NEWEST: Version = Version::V3;

    /// The version of that number; `None`: this build does not read it.
    pub fn of(number: u8) -> Option<Version> {
        let mut all = Version::ALL.into_iter();
        all.find(|version| version.number() == number)
    }

    /// Its number, as in a frame.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// What to write to a peer whose newest version has that number. One that is newer than this build
    /// reads this build's newest, if it is the next one.
    pub fn shown(newest: u8) -> Version {
        Version::of(newest.min(Version::NEWEST.number())).unwrap_or(Version::OLDEST)
    }
}
