//! One run: cycle after cycle of faults under load, then the comparison of everything with
//! everything.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use proposer::config::Role;
use tests::cluster::workload::{Load, Seen, Workload, write_through_each};
use tests::cluster::{Audit, Cluster, Name, Place};
use tests::history::Report;

use crate::plan::{Class, Fault, Step, Victim, plan};
use crate::scene::Scene;

/// The size of the sample that ships with the operator.
const SIZE: (u8, u8, u8) = (5, 5, 2);
/// How long one resource's history may be looked at.
const CHECK_BUDGET: Duration = Duration::from_secs(60);
/// Cycles after which clients go on to fresh resources.
const ROUND: usize = 4;
/// With fewer commits than these per cycle nothing was tested.
const MIN_COMMITS: u64 = 20;
/// How long after its end a fault may be felt.
const RECOVER_WITHIN: Duration = Duration::from_secs(10);
/// Contradictions shown.
const SHOWN: usize = 10;

/// What a class of faults came to.
#[derive(Default)]
struct Tally {
    cycles: u64,
    victims: usize,
    slowest: Duration,
    /// The longest time without a commit while it lasted and until all were back.
    gap: Duration,
}

/// When a cycle was, in the clients' nanoseconds, and what happened in it.
struct Window {
    classes: Vec<Class>,
    from: u64,
    to: u64,
}

/// Whether everything was as it must be.
pub(crate) fn run(
    cycles: u64,
    classes: &[Class],
    skipped: &[Class],
    missing: &[String],
    place: &Place,
    load: Load,
) -> bool {
    println!(
        "again: cargo run --release -p tests --bin chaos -- --cycles {cycles} --faults {} \
         --writers {} --readers {} --pause-ms {} --seed {}",
        list(classes, ","),
        load.writers,
        load.readers,
        load.pause_ms,
        load.seed
    );
    say_skipped(skipped, missing);
    let started = Instant::now();
    let mut cluster = Cluster::prepare_in(place, SIZE.0, SIZE.1, SIZE.2);
    cluster.start_all();
    let mut steps = plan(load.seed, cycles, classes, &cluster.names());
    if classes.contains(&Class::Wipe) {
        steps.extend(last_steps(load.seed, &cluster));
    }
    let mut scene = Scene::new(cluster);
    let mut audit = Audit::default();
    let mut tallies: BTreeMap<Class, Tally> = BTreeMap::new();
    let mut windows = Vec::new();
    let workload = Workload::start(&scene.cluster, load);
    for (cycle, step) in steps.into_iter().enumerate() {
        let leader = scene.cluster.wait_for_leader();
        let faults: Vec<Fault<Name>> = step.faults.iter().map(|f| f.resolve(leader)).collect();
        let (from, before) = (workload.now(), workload.committed());
        let back = scene.play(&faults, step.lasts);
        let what = "a commit after the faults";
        let committed = || (workload.committed() > before).then_some(());
        scene.cluster.wait_for(what, RECOVER_WITHIN, committed);
        windows.push(Window {
            classes: faults.iter().map(|fault| fault.class).collect(),
            from,
            to: workload.now(),
        });
        for fault in &faults {
            let tally = tallies.entry(fault.class).or_default();
            tally.cycles += 1;
            tally.victims += fault.victims.len() + fault.pairs.len();
            tally.slowest = tally.slowest.max(back.clone().unwrap_or_default());
        }
        audit.look(&scene.cluster);
        println!(
            "{cycle:4} {}; for {} ms, back after {} ms, {} commits",
            list(&faults, ", "),
            step.lasts.as_millis(),
            back.clone().unwrap_or_default().as_millis(),
            workload.committed()
        );
        match back {
            Ok(back) if back <= RECOVER_WITHIN => {}
            Ok(back) => scene
                .violations
                .push(format!("cycle {cycle}: back only after {back:?}")),
            Err(stuck) => scene.violations.push(format!("cycle {cycle}: {stuck}")),
        }
        audit.violations.append(&mut scene.violations);
        if !audit.violations.is_empty() {
            break;
        }
        if cycle % ROUND == ROUND - 1 {
            workload.next_round();
        }
        thread::sleep(step.rest);
    }
    let mut seen = workload.stop();
    if audit.violations.is_empty() {
        let level = settle(&scene.cluster, &mut audit);
        scene.judge_lost();
        audit.violations.append(&mut scene.violations);
        println!(
            "everything is decided, and the learners are equal, {level:.1?} after the last write"
        );
    }
    compare(&mut audit, &mut seen, cycles);
    longest_gaps(&mut tallies, &windows, &seen.commits);
    let report = seen.history.check(CHECK_BUDGET);
    for (class, tally) in &tallies {
        println!(
            "{class:10} {:3} cycles, {:3} victims; all back within {:.1?}, at most {:.1?} without a commit",
            tally.cycles, tally.victims, tally.slowest, tally.gap
        );
    }
    println!(
        "{} processes ended on a full disk",
        scene.ended_on_full_disk
    );
    say_skipped(skipped, missing);
    print(&seen, &audit, &report);
    println!("seed {}, {:.0?}", load.seed, started.elapsed());
    verdict(&mut scene.cluster, &audit, &report)
}

fn list(items: &[impl Display], separator: &str) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(separator)
}

fn say_skipped(skipped: &[Class], missing: &[String]) {
    if !skipped.is_empty() {
        println!("SKIPPED {}", list(skipped, ", "));
        missing.iter().for_each(|why| println!("SKIPPED {why}"));
    }
}

/// An acceptor comes back with an empty disk; then the leader and another acceptor are killed, so
/// that the cluster has no acceptor to spare.
fn last_steps(seed: u64, cluster: &Cluster) -> [Step; 2] {
    let acceptors = cluster.of_role(Role::Acceptor);
    let of = |seed: u64| Victim::Node(acceptors[(seed % acceptors.len() as u64) as usize]);
    let step = |class, victims| Step {
        faults: vec![Fault {
            class,
            victims,
            pairs: Vec::new(),
            amount: 0,
        }],
        lasts: Duration::from_secs(2),
        rest: Duration::ZERO,
    };
    [
        step(Class::Wipe, vec![of(seed)]),
        step(Class::Kill, vec![Victim::Leader, of(seed.wrapping_add(1))]),
    ]
}

/// One write through each proposer, and the time from the last one until nothing is open and both
/// learners have it.
fn settle(cluster: &Cluster, audit: &mut Audit) -> Duration {
    let last = write_through_each(cluster, "afterwards");
    let started = Instant::now();
    cluster.wait_until_learners_agree(last);
    cluster.wait_for("everything is decided", RECOVER_WITHIN, || {
        let leader = cluster.node(cluster.leader()?);
        let status = leader.status()?;
        let open = status["last_instance_id"] != status["committed_instance_id"];
        (!open).then_some(())
    });
    let level = started.elapsed();
    if level > RECOVER_WITHIN {
        let text = format!("the learners were equal only after {level:?}");
        audit.violations.push(text);
    }
    audit.look(cluster);
    level
}

fn compare(audit: &mut Audit, seen: &mut Seen, cycles: u64) {
    for acknowledged in &seen.acknowledged {
        audit.acknowledged(
            &acknowledged.client,
            &acknowledged.request,
            &acknowledged.key,
            acknowledged.outcome,
        );
    }
    let commits = seen.commits.len() as u64;
    if audit.violations.is_empty() && commits < MIN_COMMITS * cycles {
        let few = format!("only {commits} commits: this tested nothing");
        audit.violations.push(few);
    }
    audit.violations.append(&mut seen.unexpected);
}

/// The longest time without a commit in the cycles of each class.
fn longest_gaps(tallies: &mut BTreeMap<Class, Tally>, windows: &[Window], commits: &[u64]) {
    for Window { classes, from, to } in windows {
        let first = commits.partition_point(|at| at < from);
        let during = commits[first..].iter().copied().take_while(|at| at < to);
        let times: Vec<u64> = [*from].into_iter().chain(during).chain([*to]).collect();
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
        let gap = Duration::from_nanos(longest.unwrap_or(0));
        for class in classes {
            let tally = tallies.entry(*class).or_default();
            tally.gap = tally.gap.max(gap);
        }
    }
}

fn print(seen: &Seen, audit: &Audit, report: &Report) {
    println!(
        "writes: {} committed, {} unknown; answers by status: {:?}, {} refused; reads: {:?}",
        seen.commits.len(),
        seen.unknown,
        seen.answers,
        seen.refused,
        seen.reads
    );
    println!(
        "logs: {} instances, {} shown alike by a second learner, {} compared with the votes",
        audit.chosen.len(),
        audit.lines_compared,
        audit.votes_compared
    );
    println!("linearizability: {report}");
}

/// Says what is wrong, and keeps the nodes' folders if anything is.
fn verdict(cluster: &mut Cluster, audit: &Audit, report: &Report) -> bool {
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
        let folder = cluster.keep();
        println!("the nodes' folders, or images of their disks, are kept in {folder:?}");
    }
    good
}
