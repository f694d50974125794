//! A cluster of real processes under load and faults:
//!
//! `chaos [--cycles N] [--faults all|CLASS,CLASS,…] [--writers N] [--readers N] [--pause-ms N]
//! [--seed N]`
//!
//! Each node has a network, a disk and a clock of its own, as far as this machine offers that (to
//! root, with `ip`, `tc`, `nft`, `mkfs.ext4`, `fsfreeze` and libfaketime). Afterwards everything is
//! compared: what clients were told, the learners' logs, the acceptors' votes, and whether the
//! history is linearizable.
//!
//! `chaos --failover N` measures how long a cluster that loses its leader takes until its next
//! commit, and `chaos --calm SECONDS` whether a leader stays one at full load.

mod calm;
mod failover;
mod plan;
mod run;
mod scene;

use std::env;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tests::cluster::workload::Load;
use tests::cluster::{Cluster, Place, enter_namespaces};

use plan::Class;

/// Of each node's disk.
const VOLUME_BYTES: u64 = 1 << 30;

fn main() -> ExitCode {
    match chosen() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(usage) => {
            eprintln!("{usage}");
            ExitCode::from(2)
        }
    }
}

fn chosen() -> Result<bool, String> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let number = |name: &str, default: u64| match value(name).map(str::parse) {
        None => Ok(default),
        Some(Ok(number)) => Ok(number),
        Some(Err(_)) => Err(format!("{name} takes a number")),
    };
    if value("--failover").is_some() {
        failover::run(number("--failover", 50)?, number("--writers", 4)? as u32);
        return Ok(true);
    }
    if value("--calm").is_some() {
        let time = Duration::from_secs(number("--calm", 600)?);
        return Ok(calm::run(time, number("--writers", 16)? as u32));
    }
    let asked = Class::parse(value("--faults").unwrap_or("all"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let random = now.map_or(1, |now| u64::from(now.subsec_nanos()));
    let load = Load {
        writers: number("--writers", 16)? as u32,
        readers: number("--readers", 4)? as u32,
        keys: 24,
        pause_ms: number("--pause-ms", 30)?,
        seed: number("--seed", random)?,
    };
    let cycles = number("--cycles", 100)?;
    Cluster::remove_leftovers();
    let (place, mut missing) = match enter_namespaces() {
        Ok(()) => Place::of_this_machine(VOLUME_BYTES),
        Err(why) => {
            let why = format!("no faults of the network, of disks, of clocks: {why}");
            (Place::default(), vec![why])
        }
    };
    let possible = |class: &Class| class.is_possible(&place);
    let (classes, skipped): (Vec<Class>, Vec<Class>) = asked.iter().partition(|c| possible(c));
    if skipped.is_empty() {
        missing.clear();
    }
    if classes.is_empty() {
        return Err(format!("nothing is left to do:\n{}", missing.join("\n")));
    }
    Ok(run::run(cycles, &classes, &skipped, &missing, &place, load))
}
