//! One run: step after step of faults under load, then the comparison of everything with
//! everything.

use std::fmt::{self, Display};
use std::thread;
use std::time::{Duration, Instant};

use api::env::Role;
use testkit::cluster::workload::{Load, Seen, Workload, write_through_each};
use testkit::cluster::{Audit, Cluster, Name, Place};

use crate::plan::{Class, Fault, Step, Victim, plan};
use crate::report::{Report, Tallies, list};
use crate::scene::Scene;

/// The size of the sample with stores that ships with the operator.
const SIZE: [u8; Role::ALL.len()] = [5, 5, 2, 3];
/// How long one resource's history may be looked at.
const CHECK_BUDGET: Duration = Duration::from_secs(60);
/// Steps after which clients move on to fresh resources.
const ROUND: usize = 4;
/// With fewer commits than these per step nothing was tested.
const MIN_COMMITS: u64 = 20;
/// How long after its end a fault may be felt.
const RECOVER_WITHIN: Duration = Duration::from_secs(10);

/// When a run is over.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// After this many steps.
    Cycles(u64),
    /// After the step in which this many seconds are over.
    Seconds(u64),
}

impl Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Until::Cycles(cycles) => write!(f, "--cycles {cycles}"),
            Until::Seconds(seconds) => write!(f, "--seconds {seconds}"),
        }
    }
}

/// What all runs have in common.
pub(crate) struct Setup {
    pub(crate) until: Until,
    pub(crate) classes: Vec<Class>,
    /// Asked for, and not possible here.
    pub(crate) skipped: Vec<Class>,
    /// Why not.
    pub(crate) missing: Vec<String>,
    pub(crate) place: Place,
    pub(crate) load: Load,
}

impl Setup {
    /// Says how to have a run again.
    fn announce(&self, load: Load) {
        println!(
            "again: cargo run --release -p testkit --bin chaos -- {} --faults {} --clients {} \
             --keys {} --pause-ms {} --seed {}{}",
            self.until,
            list(&self.classes, ","),
            load.clients,
            load.keys,
            load.pause_ms,
            load.seed,
            if load.local { " --local-reads" } else { "" }
        );
        self.say_skipped();
    }

    fn say_skipped(&self) {
        if !self.skipped.is_empty() {
            println!("SKIPPED {}", list(&self.skipped, ", "));
            let missing = self.missing.iter();
            missing.for_each(|why| println!("SKIPPED {why}"));
        }
    }

    /// The schedule of a run.
    fn steps(&self, seed: u64, cluster: &Cluster) -> impl Iterator<Item = Step> + use<> {
        let steps = plan(seed, &self.classes, &cluster.names());
        let (count, until) = match self.until {
            Until::Cycles(cycles) => (cycles as usize, None),
            Until::Seconds(seconds) => {
                let time = Duration::from_secs(seconds);
                (usize::MAX, Some(Instant::now() + time))
            }
        };
        let wipe = self.classes.contains(&Class::Wipe);
        let last = wipe.then(|| last_steps(seed, cluster));
        let steps = steps.take(count);
        let steps = steps.take_while(move |_| until.is_none_or(|until| Instant::now() < until));
        steps.chain(last.into_iter().flatten())
    }
}

/// A run with that seed on its own cluster.
pub(crate) fn run(setup: &Setup, seed: u64) -> Report {
    let load = Load { seed, ..setup.load };
    setup.announce(load);
    let started = Instant::now();
    let mut cluster = Cluster::prepare_in(&setup.place, SIZE);
    cluster.start_all();
    let steps = setup.steps(seed, &cluster);
    let mut scene = Scene::new(cluster);
    let mut audit = Audit::default();
    let mut tallies = Tallies::default();
    let workload = Workload::start(&scene.cluster, load);
    let mut cycles = 0;
    for (cycle, step) in steps.enumerate() {
        cycles += 1;
        let leader = scene.cluster.wait_for_leader();
        let faults: Vec<Fault<Name>> = step.faults.iter().map(|f| f.resolve(leader)).collect();
        let (from, before) = (workload.now(), workload.committed());
        let back = scene.play(&faults, step.lasts);
        let what = "a commit after the faults";
        let committed = || (workload.committed() > before).then_some(());
        scene.cluster.wait_for(what, RECOVER_WITHIN, committed);
        let took = back.clone().unwrap_or_default();
        tallies.add(&faults, took, from, workload.now());
        audit.look(&scene.cluster);
        println!(
            "{cycle:4} {}; for {} ms, back after {} ms, {} commits",
            list(&faults, ", "),
            step.lasts.as_millis(),
            took.as_millis(),
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
        settle(&scene.cluster, &mut audit);
        scene.judge_lost();
        audit.violations.append(&mut scene.violations);
    }
    compare(&mut audit, &mut seen, cycles);
    tallies.find_gaps(&seen.commits);
    let report = Report {
        seed,
        local: load.local,
        ended_on_full_disk: scene.ended_on_full_disk,
        check: seen.history.check(CHECK_BUDGET),
        seen,
        audit,
        tallies,
    };
    println!("{report}");
    setup.say_skipped();
    println!("seed {seed}, {:.0?}", started.elapsed());
    if !report.is_good() {
        let folder = scene.cluster.keep();
        println!("the nodes' folders, or images of their disks, are kept in {folder:?}");
    }
    report
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

/// One write through each proposer, and the time from the last one until nothing is open and all
/// learners have it. Then learners and stores must hold the same.
fn settle(cluster: &Cluster, audit: &mut Audit) {
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
    match cluster.everything_everywhere() {
        Ok(resources) => println!(
            "everything is decided, and the learners are equal, {level:.1?} after the last write; \
             {} stores hold the same {} resources",
            cluster.of_role(Role::Store).len(),
            resources.len()
        ),
        Err(different) => audit.violations.push(different),
    }
    audit.look(cluster);
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
