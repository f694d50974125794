//! Where nodes run: as plain processes on loopback, or each with its own network, disk and clock
//! that can fail.
//!
//! All of it lives in namespaces of this process alone, so that nothing is left behind however it
//! ends: the kernel takes down interfaces and mounts together with the last process in them.

use std::env;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Clock, Network, Volume, binary};

const INSIDE: &str = "CHAOS_NAMESPACES";
/// Where `ip netns` keeps its names.
const NETNS: &str = "/run/netns";

/// What each node gets for itself.
#[derive(Debug, Default)]
pub struct Place {
    /// A network namespace.
    pub network: bool,
    /// A file system of this many bytes.
    pub volume: Option<u64>,
    /// A wall clock, faked by this library.
    pub clock: Option<PathBuf>,
}

impl Place {
    /// Everything that works on this machine, and why what does not is left out.
    pub fn of_this_machine(volume: u64) -> (Place, Vec<String>) {
        let mut place = Place::default();
        let mut missing = Vec::new();
        match Network::probe() {
            Ok(()) => place.network = true,
            Err(why) => missing.push(format!("no faults of the network: {why}")),
        }
        match Volume::probe() {
            Ok(()) => place.volume = Some(volume),
            Err(why) => missing.push(format!("no faults of disks: {why}")),
        }
        match Clock::probe() {
            Ok(library) => place.clock = Some(library),
            Err(why) => missing.push(format!("no jumps of clocks: {why}")),
        }
        (place, missing)
    }
}

/// Starts this program again in its own namespaces, and returns in there, or with the reason why
/// that is not possible.
pub fn enter_namespaces() -> Result<(), String> {
    const NEW: [&str; 2] = ["--net", "--mount"];
    if env::var_os(INSIDE).is_some() {
        // Ours alone, like all mounts here.
        std::fs::create_dir_all(NETNS).map_err(|error| format!("{NETNS}: {error}"))?;
        run("mount", ["-t", "tmpfs", "netns", NETNS], "")?;
        return run("ip", ["link", "set", "lo", "up"], "");
    }
    run("unshare", [NEW[0], NEW[1], "true"], "")?;
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let error = Command::new("unshare")
        .args(NEW)
        .arg(program)
        .args(env::args_os().skip(1))
        .env(INSIDE, "yes")
        .env("PROPOSER", binary::path())
        .exec();
    Err(error.to_string())
}

/// Runs a program to its end with that input.
pub(super) fn run(
    program: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    input: &str,
) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("{program}: {why}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(&String::from_utf8_lossy(&output.stderr).trim())),
    }
}
