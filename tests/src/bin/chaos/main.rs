//! A cluster of real processes under load, while its processes are killed and stopped:
//!
//! `chaos [--cycles N] [--faults kill|all] [--writers N] [--readers N] [--seed N]`
//!
//! Then everything is compared: what clients were told, the learners' logs, the acceptors' votes,
//! and whether the history is linearizable. `chaos --failover N` measures how long a cluster that
//! loses its leader takes until its next commit.

mod failover;
mod faults;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use tests::cluster::workload::{Load, Workload, write_through_each};
use tests::cluster::{Audit, Cluster};
use tests::sim::Rng;

use faults::{Fault, Kind};

/// The size of the sample that ships with the operator.
const SIZE: (u8, u8, u8) = (5, 5, 2);
/// How long one resource's history may be looked at.
const CHECK_BUDGET: Duration = Duration::from_secs(60);
/// Cycles after which clients go on to fresh resources.
const ROUND: u64 = 4;
/// With fewer commits than these per cycle nothing was tested.
const MIN_COMMITS: u64 = 20;
/// Contradictions shown.
const SHOWN: usize = 10;

fn main() -> ExitCode {
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
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let random = now.map_or(1, |now| u64::from(now.subsec_nanos()));
    let run = || -> Result<bool, String> {
        if value("--failover").is_some() {
            failover::run(number("--failover", 50)?, number("--writers", 4)? as u32);
            return Ok(true);
        }
        let kind = match value("--faults") {
            None | Some("kill") => Kind::Kill,
            Some("all") => Kind::All,
            Some(_) => return Err("--faults takes kill or all".into()),
        };
        let load = Load {
            writers: number("--writers", 16)? as u32,
            readers: number("--readers", 4)? as u32,
            keys: 24,
            pause_ms: number("--pause-ms", 10)?,
            seed: number("--seed", random)?,
        };
        Ok(chaos(number("--cycles", 100)?, kind, load))
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(usage) => {
            eprintln!("{usage}");
            ExitCode::from(2)
        }
    }
}

fn chaos(cycles: u64, kind: Kind, load: Load) -> bool {
    println!(
        "again: cargo run -p tests --bin chaos -- --cycles {cycles} --faults {kind} --writers {} \
         --readers {} --pause-ms {} --seed {}",
        load.writers, load.readers, load.pause_ms, load.seed
    );
    let started = Instant::now();
    let mut rng = Rng::new(load.seed);
    let mut cluster = Cluster::start(SIZE.0, SIZE.1, SIZE.2);
    let mut audit = Audit::default();
    let workload = Workload::start(&cluster, load);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut slowest_return = Duration::ZERO;
    for cycle in 0..cycles {
        let fault = Fault::choose(kind, &cluster, &mut rng);
        for (what, count) in fault.counts() {
            *counts.entry(what).or_default() += count;
        }
        let before = workload.committed();
        let back = fault.inject(&mut cluster, &mut rng);
        slowest_return = slowest_return.max(back);
        cluster.wait_for("a commit after the fault", Duration::from_secs(30), || {
            (workload.committed() > before).then_some(())
        });
        audit.look(&cluster);
        println!(
            "{cycle:4} {fault}: back after {} ms, {} commits",
            back.as_millis(),
            workload.committed()
        );
        if !audit.violations.is_empty() {
            break;
        }
        if cycle % ROUND == ROUND - 1 {
            workload.next_round();
        }
        thread::sleep(Duration::from_millis(rng.between(0, 300)));
    }
    cluster.wait_until_ready();
    let seen = workload.stop();
    let last = write_through_each(&cluster, "afterwards");
    let healed = Instant::now();
    cluster.wait_until_learners_agree(last);
    let level = healed.elapsed();
    audit.look(&cluster);
    for acknowledged in &seen.acknowledged {
        audit.acknowledged(
            &acknowledged.client,
            &acknowledged.request,
            &acknowledged.key,
            acknowledged.outcome,
        );
    }
    let commits = seen.commits.len() as u64;
    if commits < MIN_COMMITS * cycles {
        let few = format!("only {commits} commits: this tested nothing");
        audit.violations.push(few);
    }
    audit.violations.extend(seen.unexpected);
    let report = seen.history.check(CHECK_BUDGET);
    println!("faults: {counts:?}, the slowest return took {slowest_return:?}");
    println!(
        "writes: {commits} committed, {} unknown; answers by status: {:?}; reads: {:?}",
        seen.unknown, seen.answers, seen.reads
    );
    println!(
        "logs: {} instances, {} shown alike by a second learner, {} compared with the votes; \
         learners level {level:?} after the last write",
        audit.chosen.len(),
        audit.lines_compared,
        audit.votes_compared
    );
    println!("linearizability: {report}");
    println!("seed {}, {:.0?}", load.seed, started.elapsed());
    let bad: Vec<&String> = audit.violations.iter().chain(&report.illegal).collect();
    for violation in bad.iter().take(SHOWN) {
        println!("VIOLATION {violation}");
    }
    println!(
        "{} violations, {} undecided",
        bad.len(),
        report.undecided.len()
    );
    let good = bad.is_empty() && report.undecided.is_empty();
    if !good {
        cluster.folder.disable_cleanup(true);
        println!("the nodes' folders are kept in {:?}", cluster.folder.path());
    }
    good
}
