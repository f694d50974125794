//! `paxos-operator local`, as people run it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::binary;
use crate::tools::root;

/// How long it may take until every node is ready, and to end.
const WITHIN: Duration = Duration::from_secs(60);

/// A running cluster of this machine. It ends with this value.
pub struct Local {
    child: Child,
    /// Its `--data-dir`.
    pub folder: PathBuf,
    /// Its `--port-base`.
    pub base: u16,
}

impl Local {
    /// Runs a sample, relative to the repository, until every node is ready.
    ///
    /// # Panics
    /// When it does not start. `make test` builds the program.
    pub fn start(sample: &str, folder: &Path, base: u16) -> Local {
        let output = fs::File::create(folder.join("local.log")).expect("a file for the output");
        let program = binary::path().with_file_name("paxos-operator");
        let child = Command::new(program)
            .current_dir(root())
            .args([
                "local",
                "-f",
                sample,
                "--port-base",
                &base.to_string(),
                "--data-dir",
            ])
            .arg(folder)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("cargo build -p paxos-operator has been run");
        let local = Local {
            child,
            folder: folder.to_owned(),
            base,
        };
        let deadline = Instant::now() + WITHIN;
        while !local.output().lines().any(is_ready) {
            assert!(Instant::now() < deadline, "not ready:\n{}", local.output());
            thread::sleep(Duration::from_millis(50));
        }
        local
    }

    /// What it has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.join("local.log")).unwrap_or_default()
    }

    /// Sends a signal to the process of a pod.
    ///
    /// # Panics
    /// When there is none.
    pub fn signal(&self, pod: &str, signal: Signal) {
        let pid = fs::read_to_string(self.folder.join(pod).join("pid")).expect("the node runs");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("the node runs");
    }
}

/// Whether a line says that every node is ready and one leads.
fn is_ready(line: &str) -> bool {
    let counts = line
        .split_once(" ready, ")
        .filter(|(_, rest)| rest.contains(" leads"));
    let counts = counts.and_then(|(counts, _)| counts.split_once('/'));
    counts.is_some_and(|(ready, all)| ready == all)
}

impl Drop for Local {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + WITHIN;
        while !matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
