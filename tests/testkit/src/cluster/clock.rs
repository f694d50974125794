//! A node's own wall clock, which can jump. Its monotonic clock is left alone: the kernel's never
//! jumps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Node;

const LIBRARIES: &str = "/usr/lib";
/// For programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The clock of one node.
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Where the library lies, if it works.
    pub(super) fn probe() -> Result<PathBuf, String> {
        let folders = fs::read_dir(LIBRARIES).into_iter().flatten().flatten();
        let library = folders
            .map(|folder| folder.path().join(LIBRARY))
            .find(|library| library.exists())
            .ok_or_else(|| format!("{LIBRARIES}/*/{LIBRARY} is not there"))?;
        let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        let clock = Clock {
            file: file.path().to_owned(),
        };
        clock.set(86_400);
        let output = Command::new("date")
            .arg("+%s")
            .envs(clock.env(&library))
            .output();
        let said = output.map_err(|error| error.to_string())?.stdout;
        let said: Option<u64> = String::from_utf8_lossy(&said).trim().parse().ok();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        match said {
            Some(said) if said.abs_diff(now.as_secs() + 86_400) < 100 => Ok(library),
            _ => Err(format!("{} has no effect", library.display())),
        }
    }

    /// Gives a node that does not run yet its own clock, which is right for now.
    pub(super) fn give(node: &mut Node, library: &Path) -> Clock {
        let clock = Clock {
            file: node.config.data_dir.with_extension("clock"),
        };
        clock.set(0);
        node.environment.extend(clock.env(library));
        clock
    }

    /// From now on, or a second later, the clock is wrong by this many seconds.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn set(&self, seconds: i64) {
        let new = self.file.with_extension("new");
        let written = fs::write(&new, format!("{seconds:+}\n"));
        written
            .and_then(|()| fs::rename(new, &self.file))
            .expect("a file for the clock");
    }

    fn env(&self, library: &Path) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}
