//! Why a log cannot be used, and what to do then.

use std::io;

use super::{MAX_FRAME_BYTES, Position, frame};

/// Why a log cannot be used. Every variant but `Absent` is a reason to end the process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file's path.
        file: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The log is not what was written, and not what a crash leaves behind.
    #[error(
        "{file} is damaged at byte {offset}: {reason}. Nothing was changed. Do not empty the folder \
         and start again under the same id: this node would break promises it has forgotten. Keep \
         the folder for inspection and let a node with a new id take this one's place"
    )]
    Corrupt {
        /// The file's path.
        file: String,
        /// Where in the file, bytes.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The log was written by a later program.
    #[error(
        "{file} has format {version} at byte {offset}, and this program knows up to {}. Nothing was \
         changed. Start the version of the program that wrote it, or a later one",
        frame::VERSION
    )]
    Unsupported {
        /// The file's path.
        file: String,
        /// Where in the file, bytes.
        offset: u64,
        /// The format's version.
        version: u32,
    },
    /// The record's reader did not take it.
    #[error("{file} holds an unusable record at byte {offset}: {reason}. Nothing was changed")]
    Refused {
        /// The file's path.
        file: String,
        /// Where in the file, bytes.
        offset: u64,
        /// What the reader said.
        reason: String,
    },
    /// Too much was appended without a sync.
    #[error("{bytes} bytes in one frame are more than {MAX_FRAME_BYTES}: sync more often")]
    TooLarge {
        /// The frame's length.
        bytes: u64,
    },
    /// The record was trimmed, or there never was one.
    #[error("the log holds no record at {0}")]
    Absent(Position),
    /// An earlier error ended this log.
    #[error("the log stopped after an earlier error: {0}")]
    Poisoned(String),
}
