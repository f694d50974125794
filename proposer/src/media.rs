//! Where durable bytes live: a folder of files, real ([`FileMedia`]) or simulated ([`SimMedia`]).
//!
//! A [`Media`] promises only what a disk promises. Bytes are durable once [`MediaFile::sync_data`]
//! has returned; a name, its change or its removal once [`Media::sync_dir`] has. Until then a crash
//! may keep or lose each 512-byte sector and each name on its own.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bounds::descriptors::patiently;

mod sim;

pub use sim::{SimFile, SimMedia, Snapshot};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Whether a disk had no room left, and nothing else is wrong with it.
pub(crate) fn lacks_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// One folder of files, without sub-folders.
pub trait Media: Send + 'static {
    /// An open file.
    type File: MediaFile;

    /// The files' names, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file; `AlreadyExists` when there is one of that name.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file to read and write.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Gives a file another name; whatever had that name is gone.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes every change of names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// How to call that file in a message to a person.
    fn describe(&self, name: &str) -> String;
}

/// One open file. Offsets and lengths are bytes.
pub trait MediaFile: Send + Sync + 'static {
    /// The length.
    fn size(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset`; `UnexpectedEof` when the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`; the file grows as needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the content and the length durable. After an error it is unknown what is on the disk,
    /// and a second call that succeeds proves nothing.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts the file to `length`, durably.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// The whole content.
    fn read_all(&self) -> io::Result<Vec<u8>> {
        self.read_range(0, self.size()?)
    }

    /// The content from `start` up to `end`.
    fn read_range(&self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.read_at(&mut bytes, start)?;
        Ok(bytes)
    }
}

/// A folder of the file system, for one process at a time.
#[derive(Clone, Debug)]
pub struct FileMedia {
    dir: PathBuf,
    folder: Arc<File>,
    _lock: Arc<File>,
}

/// The file that holds a folder's lock. Not part of [`Media::list`].
pub const LOCK: &str = "LOCK";

impl FileMedia {
    /// Opens the folder, made durably if absent, and locks it until the last clone is dropped.
    /// Fails with `WouldBlock` when another process, or this one, has it open.
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<FileMedia> {
        let dir = dir.into();
        create_dir(&dir)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = dir.join(LOCK);
        let lock = patiently(LOCK, || options.open(&lock))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!(
                    "another process uses this folder: {} (stop it, or give this one its own DATA_DIR)",
                    dir.display()
                );
                return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let folder = patiently("the folder", || File::open(&dir))?;
        let folder = Arc::new(folder);
        Ok(FileMedia {
            dir,
            folder,
            _lock: Arc::new(lock),
        })
    }
}

/// Creates a folder and its missing parents, for the owner and the group; each new name is synced into
/// the folder that holds it.
fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_dir(parent)?;
    match DirBuilder::new().mode(0o750).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    patiently("the folder", || File::open(parent))?.sync_all()
}

impl Media for FileMedia {
    type File = File;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in patiently("the folder", || std::fs::read_dir(&self.dir))? {
            let entry = entry?;
            // A name that is not UTF-8 is not ours, and neither is a folder.
            if let Ok(name) = entry.file_name().into_string()
                && name != LOCK
                && entry.file_type()?.is_file()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let path = self.dir.join(name);
        patiently(name, || options.open(&path))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let path = self.dir.join(name);
        patiently(name, || {
            OpenOptions::new().read(true).write(true).open(&path)
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.folder.sync_all()
    }

    fn describe(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

impl MediaFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_serves_one_process_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b/c");
        let media = FileMedia::open(&dir).unwrap();
        let clone = media.clone();
        drop(media);
        let refused = FileMedia::open(&dir).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(
            refused
                .to_string()
                .contains("another process uses this folder")
        );
        drop(clone);
        FileMedia::open(&dir).unwrap();
    }

    #[test]
    fn real_and_simulated_folders_behave_alike() {
        fn exercise(media: impl Media) -> Vec<String> {
            let mut seen = Vec::new();
            let file = media.create("a").unwrap();
            seen.push(format!("{:?}", media.create("a").err().map(|e| e.kind())));
            file.write_at(b"world", 6).unwrap();
            file.write_at(b"hello", 0).unwrap();
            seen.push(format!("{:?}", file.read_all().unwrap()));
            let past = file.read_at(&mut [0; 4], 9).unwrap_err();
            seen.push(format!("{:?}", past.kind()));
            file.truncate(7).unwrap();
            file.sync_data().unwrap();
            seen.push(format!(
                "{:?} {}",
                file.read_all().unwrap(),
                file.size().unwrap()
            ));
            media.create("b").unwrap();
            media.rename("a", "b").unwrap();
            seen.push(format!("{:?}", media.list().unwrap()));
            seen.push(format!(
                "{:?}",
                media.open("b").unwrap().read_all().unwrap()
            ));
            media.remove("b").unwrap();
            seen.push(format!("{:?}", media.remove("b").unwrap_err().kind()));
            seen.push(format!("{:?}", media.open("b").err().map(|e| e.kind())));
            media.sync_dir().unwrap();
            seen.push(format!("{:?}", media.list().unwrap()));
            seen
        }
        let dir = tempfile::tempdir().unwrap();
        let real = exercise(FileMedia::open(dir.path()).unwrap());
        assert_eq!(real, exercise(SimMedia::new()));
    }
}
