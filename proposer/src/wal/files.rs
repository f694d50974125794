//! The log's files, for those who read what is durable while the log keeps growing.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::window::Window;
use super::{Error, Position, name, position};
use crate::media::MediaFile;

/// How much is read at once: a little more than one value, or what one place in an index stands for.
const PIECE_BYTES: u64 = 64 << 10;

/// By the sequence number of the first frame. Clones are the same.
#[derive(Debug)]
pub(super) struct Files<F>(Arc<RwLock<BTreeMap<u64, Arc<F>>>>);

impl<F> Clone for Files<F> {
    fn clone(&self) -> Files<F> {
        Files(self.0.clone())
    }
}

impl<F> Default for Files<F> {
    fn default() -> Files<F> {
        Files(Arc::default())
    }
}

impl<F> Files<F> {
    pub(super) fn insert(&self, first: u64, file: Arc<F>) {
        let mut files = self.0.write().unwrap_or_else(PoisonError::into_inner);
        files.insert(first, file);
    }

    pub(super) fn remove(&self, first: u64) {
        let mut files = self.0.write().unwrap_or_else(PoisonError::into_inner);
        files.remove(&first);
    }

    fn get(&self, first: u64) -> Option<Arc<F>> {
        let files = self.0.read().unwrap_or_else(PoisonError::into_inner);
        files.get(&first).cloned()
    }
}

/// Reads durable records of a log from any thread. Cheap to clone.
#[derive(Debug)]
pub struct Reader<F>(pub(super) Files<F>);

impl<F> Clone for Reader<F> {
    fn clone(&self) -> Reader<F> {
        Reader(self.0.clone())
    }
}

impl<F: MediaFile> Reader<F> {
    /// Shows the record at a position, which must be durable, and those after it in the same segment,
    /// each verified, until `visit` breaks or there are no more. [`Error::Absent`] when the position
    /// was trimmed.
    pub fn scan(
        &self,
        from: Position,
        mut visit: impl FnMut(Position, Bytes) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let file = self.0.get(from.segment).ok_or(Error::Absent(from))?;
        let io = |source: io::Error| Error::Io {
            action: "read",
            file: name(from.segment),
            source,
        };
        let size = file.size().map_err(io)?;
        let mut window = Window::with_piece(&*file, size, PIECE_BYTES);
        let mut at = u64::from(from.offset);
        while let Some((start, record, next)) = window.record(at).map_err(io)? {
            let position = Position {
                length: record.len() as u32,
                ..position(from.segment, start)
            };
            if visit(position, record).is_break() {
                return Ok(());
            }
            at = next;
        }
        Ok(())
    }
}
