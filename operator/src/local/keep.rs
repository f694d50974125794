//! Keeps one node running.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::console::Console;
use super::{GRACE, Node, folder, ports};

/// The pause before a process that died is started again: doubled with each death, back to the
/// least when it has run for [`STEADY`].
const RESTART_MIN: Duration = Duration::from_millis(500);
const RESTART_MAX: Duration = Duration::from_secs(30);
const STEADY: Duration = Duration::from_secs(10);
/// How often a port that another program has taken is tried again.
const PORT_PAUSE: Duration = Duration::from_secs(1);
/// The file with what a node wrote to standard error.
const ERRORS: &str = "stderr.log";
/// How much of it is shown, and in how many lines.
const SHOWN_BYTES: u64 = 1000;
const SHOWN_LINES: usize = 5;

/// Runs the node until it is to stop. What dies is started again.
pub(super) async fn keep(
    program: PathBuf,
    node: Node,
    mut stopping: watch::Receiver<bool>,
    restarted: watch::Sender<()>,
    console: Console,
) {
    let mut pause = RESTART_MIN;
    let mut first = true;
    loop {
        // At the very start all ports have been looked at.
        if !std::mem::take(&mut first) {
            tokio::select! {
                () = free_port(&node, &console) => {}
                () = stopped(&mut stopping) => return,
            }
        }
        let started = Instant::now();
        let said_before = errors_length(&node);
        match spawn(&program, &node) {
            Ok(mut child) => {
                tokio::select! {
                    ended = child.wait() => {
                        folder::forget_pid(&node.config.data_dir);
                        let how = ended.map_or_else(|error| error.to_string(), |s| s.to_string());
                        let why = errors_since(&node, said_before);
                        let why = if why.is_empty() { why } else { format!(": {why}") };
                        console.say(&format!("{} ended ({how}){why}; starting it again", node.pod));
                    }
                    () = stopped(&mut stopping) => {
                        end(&node, child, &console).await;
                        return;
                    }
                }
            }
            Err(error) => console.say(&format!("{} cannot start: {error}", node.pod)),
        }
        if started.elapsed() >= STEADY {
            pause = RESTART_MIN;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stopped(&mut stopping) => return,
        }
        pause = (2 * pause).min(RESTART_MAX);
        restarted.send_replace(());
    }
}

/// Waits until nobody else has the node's port, and says once who has it.
async fn free_port(node: &Node, console: &Console) {
    let mut said = None;
    while let Ok(Some(taken)) = ports::taken(node) {
        if said.as_ref() != Some(&taken) {
            console.say(&format!(
                "{taken}: stop that; {} starts as soon as the port is free",
                node.pod
            ));
            said = Some(taken);
        }
        sleep(PORT_PAUSE).await;
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could want the nodes to run.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Starts a node; `pid` in its folder says which process it is.
fn spawn(program: &Path, node: &Node) -> std::io::Result<Child> {
    let dir = &node.config.data_dir;
    // Standard output repeats the log files, which lie beside the data.
    let errors = folder::own_file().append(true).open(dir.join(ERRORS))?;
    let child = Command::new(program)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "RUST_LOG" || name == "PATH"))
        .envs(node.config.to_env())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        // Ctrl-C in a terminal reaches the whole group: the nodes are ended by us, in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    if let Some(id) = child.id() {
        folder::write_pid(dir, id)?;
    }
    Ok(child)
}

async fn end(node: &Node, mut child: Child, console: &Console) {
    let pid = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid
        && kill_process(pid, Signal::TERM).is_ok()
        && let Ok(ended) = timeout(GRACE, child.wait()).await
    {
        match ended {
            Ok(status) if !status.success() => {
                console.say(&format!("{} ended: {status}", node.pod));
            }
            Ok(_) => {}
            Err(error) => console.say(&format!("{}: {error}", node.pod)),
        }
        folder::forget_pid(&node.config.data_dir);
        return;
    }
    console.say(&format!("{} did not end in time and is killed", node.pod));
    if child.kill().await.is_ok() {
        folder::forget_pid(&node.config.data_dir);
    }
}

fn errors_length(node: &Node) -> u64 {
    let errors = std::fs::metadata(node.config.data_dir.join(ERRORS));
    errors.map_or(0, |errors| errors.len())
}

/// The last lines that a node wrote to standard error after the first `before` bytes, in one line.
fn errors_since(node: &Node, before: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let file = File::open(node.config.data_dir.join(ERRORS))?;
        let length = file.metadata()?.len();
        let from = before.max(length.saturating_sub(SHOWN_BYTES));
        let mut bytes = vec![0; usize::try_from(length.saturating_sub(from)).unwrap_or(0)];
        file.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("; ")
}
