//! A node's own small file system, in a file: it can be full, and it can stop to answer for a while.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tempfile::TempDir;

use super::place::run;

const PROBE_BYTES: u64 = 16 << 20;

/// A mounted file system. Unmounted with this value.
pub struct Volume {
    folder: PathBuf,
}

impl Volume {
    /// Whether this machine has all that it takes.
    pub(super) fn probe() -> Result<(), String> {
        let folder = TempDir::with_prefix("volume-").map_err(|error| error.to_string())?;
        let volume = Volume::mount(&folder.path().join("probe"), PROBE_BYTES)?;
        let stalled = volume.stall(1, Duration::from_millis(1), Duration::ZERO);
        let ended = stalled.and_then(|mut child| child.wait());
        match ended {
            Ok(status) if status.success() => Ok(()),
            ended => Err(format!("a file system cannot be frozen: {ended:?}")),
        }
    }

    /// Makes a file system of `bytes` bytes and mounts it as that folder.
    pub(super) fn mount(folder: &Path, bytes: u64) -> Result<Volume, String> {
        let image = folder.with_extension("ext4");
        let made = fs::create_dir_all(folder).and_then(|()| File::create(&image)?.set_len(bytes));
        made.map_err(|error| format!("{}: {error}", image.display()))?;
        let (image, at) = (image.as_os_str(), folder.as_os_str());
        // No blocks in reserve: the nodes may be root's, who would get those too.
        run(
            "mkfs.ext4",
            ["-q".as_ref(), "-m".as_ref(), "0".as_ref(), image],
            "",
        )?;
        run("mount", ["-o".as_ref(), "loop".as_ref(), image, at], "")?;
        let folder = folder.to_owned();
        Ok(Volume { folder })
    }

    /// Takes all room but `left` bytes.
    ///
    /// # Panics
    /// When the rest cannot be taken.
    pub fn fill(&self, left: u64) {
        let full = statvfs(&self.folder).expect("a file system has a size");
        let taken = (full.f_bavail * full.f_bsize).saturating_sub(left);
        let ballast = File::create(self.ballast()).expect("a file system takes one more file");
        // A running node takes room as well, so that it may be less by now.
        let sizes = (0..10).map(|tenths| taken - taken / 20 * tenths);
        let done = sizes
            .into_iter()
            .any(|size| size == 0 || fallocate(&ballast, FallocateFlags::empty(), 0, size).is_ok());
        assert!(done, "{} cannot be filled", self.folder.display());
    }

    /// Gives the room back.
    pub fn free(&self) {
        // It may be free.
        let _ = fs::remove_file(self.ballast());
    }

    /// `times` times nothing that writes here returns for the first duration, and then is free for
    /// the second. It continues, and ends, whatever becomes of this program.
    pub fn stall(&self, times: u64, frozen: Duration, free: Duration) -> std::io::Result<Child> {
        // A file system that was thawed a moment ago may still be busy.
        const SCRIPT: &str = r#"
            freeze() {
                for try in $(seq 50); do
                    fsfreeze -f "$1" && return
                    sleep 0.2
                done
                return 1
            }
            while [ "$1" -gt 0 ]; do
                freeze "$0" && sleep "$2" && fsfreeze -u "$0" && sleep "$3" || exit 1
                set -- $(($1 - 1)) "$2" "$3"
            done"#;
        Command::new("sh")
            .args(["-c", SCRIPT])
            .arg(&self.folder)
            .arg(times.to_string())
            .args([frozen, free].map(|time| time.as_secs_f64().to_string()))
            .spawn()
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Unmounted in any case when the last process of this mount namespace is gone.
        let _ = run("umount", [&self.folder], "");
    }
}
