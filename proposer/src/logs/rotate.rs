//! A log file that is bounded, and that never reports an error: a node does not stop because its
//! log disk does.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// One file grows to this many bytes.
const FILE_BYTES: u64 = 10 << 20;
/// The file and its predecessors `.1` (the newest) to `.4`.
const FILES: u32 = 5;
/// How long to leave a disk alone that refused.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Read by the owner and the group: lines name clients, and what of theirs failed.
const MODE: u32 = 0o640;

pub(super) struct RotatingFile {
    path: PathBuf,
    file_bytes: u64,
    retry_after: Duration,
    open: Option<Open>,
    failed_at: Option<Instant>,
}

struct Open {
    file: File,
    bytes: u64,
}

impl RotatingFile {
    pub(super) fn new(path: PathBuf) -> RotatingFile {
        RotatingFile {
            path,
            file_bytes: FILE_BYTES,
            retry_after: RETRY_AFTER,
            open: None,
            failed_at: None,
        }
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = lines.len() as u64;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => open_file(&self.path)?,
        };
        if open.bytes > 0 && open.bytes + length > self.file_bytes {
            self.rotate()?;
            open = open_file(&self.path)?;
        }
        open.file.write_all(lines)?;
        open.bytes += length;
        // After an error the file stays closed, as it may be another one that can be written.
        self.open = Some(open);
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        for number in (1..FILES).rev() {
            let from = match number {
                1 => self.path.clone(),
                number => self.numbered(number - 1),
            };
            match std::fs::rename(from, self.numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

fn open_file(path: &Path) -> io::Result<Open> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(MODE);
    // A link would have lines appended to whatever it leads to.
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let file = options.open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if found.permissions().mode() & 0o777 & !MODE != 0 {
        // Of an earlier build. A process that does not own it cannot change it, and need not.
        let _ = file.set_permissions(Permissions::from_mode(MODE));
    }
    Ok(Open {
        file,
        bytes: found.len(),
    })
}

impl Write for RotatingFile {
    /// Takes whole lines. Those the disk refuses are gone.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let failed_at = self.failed_at;
        if failed_at.is_some_and(|at| at.elapsed() < self.retry_after) {
            return Ok(lines.len());
        }
        self.failed_at = match self.append(lines) {
            Ok(()) => None,
            Err(error) => {
                if failed_at.is_none() {
                    // To the other sinks; this one drops it.
                    let file = self.path.display();
                    tracing::warn!(%file, %error, "cannot write a log file, its lines are dropped");
                }
                Some(Instant::now())
            }
        };
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(path: &Path) -> RotatingFile {
        let mut file = RotatingFile::new(path.to_owned());
        file.file_bytes = 100;
        file.retry_after = Duration::ZERO;
        file
    }

    #[test]
    fn five_files_of_bounded_length_hold_the_newest_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/x.log");
        for line in 0..200 {
            // Every seventh line is written by a new process.
            let mut file = small(&path);
            for line in line * 7..(line + 1) * 7 {
                file.write_all(format!("line {line:05}\n").as_bytes())
                    .unwrap();
            }
        }
        let mut files: Vec<PathBuf> = std::fs::read_dir(dir.path().join("logs"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert_eq!(files.len(), 5);
        let mut text = String::new();
        for file in files[1..].iter().rev().chain(&files[..1]) {
            let part = std::fs::read_to_string(file).unwrap();
            assert!(part.len() <= 100);
            text += &part;
        }
        let lines: Vec<&str> = text.lines().collect();
        let expected: Vec<String> = (1400 - lines.len()..1400)
            .map(|line| format!("line {line:05}"))
            .collect();
        assert_eq!(lines, expected);
        assert!(lines.len() > 4 * 100 / 11);
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn strangers_read_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/logs/x.log");
        small(&path).write_all(b"new\n").unwrap();
        assert_eq!(mode(&path) & 0o007, 0);
        assert_eq!(mode(path.parent().unwrap()) & 0o007, 0);
        // One that an earlier build made for everybody.
        std::fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
        small(&path).write_all(b"more\n").unwrap();
        assert_eq!(mode(&path), 0o640);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\nmore\n");
    }

    #[test]
    fn a_link_in_the_place_of_a_log_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "mine\n").unwrap();
        let path = dir.path().join("x.log");
        for target in [
            victim.clone(),
            dir.path().join("absent"),
            dir.path().join("x.log.1"),
        ] {
            std::os::unix::fs::symlink(&target, &path).unwrap();
            let mut file = small(&path);
            for _ in 0..20 {
                file.write_all(b"a line of some length\n").unwrap();
            }
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        small(&path).write_all(b"kept\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept\n");
    }

    #[test]
    fn a_disk_that_refuses_is_tried_again_and_never_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("logs");
        std::fs::write(&blocked, "a file where the folder belongs").unwrap();
        let path = blocked.join("x.log");
        let mut file = small(&path);
        file.write_all(b"lost\n").unwrap();
        file.write_all(b"lost\n").unwrap();
        std::fs::remove_file(&blocked).unwrap();
        file.write_all(b"kept\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept\n");
    }
}
