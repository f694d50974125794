//! A cluster of real processes under load and faults:
//!
//! `chaos [--cycles N | --seconds N] [--soak N] [--faults all|CLASS,CLASS,…] [--clients N]
//! [--keys N] [--pause-ms N] [--seed N] [--local-reads]`
//!
//! Each node has its own network, disk and clock, as far as this machine offers that (to
//! root, with `ip`, `tc`, `nft`, `mkfs.ext4`, `fsfreeze` and libfaketime). Every client writes,
//! compares and sets, deletes and reads in the log through all proposers, and reads at all learners
//! and stores. Afterwards everything is compared: what clients received, the learners' logs, the
//! acceptors' votes, what learners and stores hold, and whether the history is linearizable.
//!
//! `--soak N` makes N runs, 60 seconds each unless said otherwise, each on a fresh cluster and with
//! its own seed, and sums them up. `--local-reads` shows that the checker would see a
//! stale read: reads at learners and stores ask for `consistency=local`, and it is an error if none
//! of them is found to be stale.
//!
//! `chaos --failover N` measures how long a cluster that loses its leader takes until its next
//! commit, and `chaos --calm SECONDS` whether a leader stays one at full load.

mod calm;
mod failover;
mod plan;
mod report;
mod run;
mod scene;

use std::env;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use testkit::cluster::workload::Load;
use testkit::cluster::{Cluster, Place, enter_namespaces};

use plan::Class;
use report::Soak;
use run::{Setup, Until};

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
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let number = |name: &str, default: u64| match value(name).map(str::parse) {
        None => Ok(default),
        Some(Ok(number)) => Ok(number),
        Some(Err(_)) => Err(format!("{name} takes a number")),
    };
    if has("--failover") {
        failover::run(number("--failover", 50)?, number("--clients", 4)? as u32);
        return Ok(true);
    }
    if has("--calm") {
        let time = Duration::from_secs(number("--calm", 600)?);
        return Ok(calm::run(time, number("--clients", 16)? as u32));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let random = now.map_or(1, |now| u64::from(now.subsec_nanos()));
    let load = Load {
        clients: number("--clients", 8)? as u32,
        reads: 500,
        given_up: 50,
        local: has("--local-reads"),
        keys: number("--keys", 6)?,
        pause_ms: number("--pause-ms", 10)?,
        seed: number("--seed", random)?,
    };
    let until = match has("--soak") || has("--seconds") {
        true => Until::Seconds(number("--seconds", 60)?),
        false => Until::Cycles(number("--cycles", 100)?),
    };
    let setup = setup(value("--faults").unwrap_or("all"), until, load)?;
    if has("--soak") {
        let mut soak = Soak::default();
        for run in 0..number("--soak", 20)? {
            soak.add(&run::run(&setup, load.seed.wrapping_add(run)));
        }
        println!("{soak}");
        return Ok(soak.is_good());
    }
    Ok(run::run(&setup, load.seed).is_good())
}

/// Finds out what is possible here.
fn setup(faults: &str, until: Until, load: Load) -> Result<Setup, String> {
    let asked = Class::parse(faults)?;
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
    Ok(Setup {
        until,
        classes,
        skipped,
        missing,
        place,
        load,
    })
}
