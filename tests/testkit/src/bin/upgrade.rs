//! `upgrade --old PROGRAM [--seconds N]`: a cluster of real processes under 8 writers is rolled from another
//! build of the node to this one and back again, a process at a time, in the operator's order. No request
//! may fail, and everything that clients were told is compared with what the cluster has.
//!
//! The other build speaks the version of the encoding before this one's (`paxos::codec`), which is shown
//! before anything is rolled: otherwise nothing would be tried.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use api::env::Role;
use paxos::codec::Version;
use rustix::process::Signal;
use testkit::cluster::workload::{Load, Seen, Workload};
use testkit::cluster::{Audit, Cluster, Name, READY_WITHIN, http};

/// In the operator's order.
const ORDER: [Role; 4] = [Role::Learner, Role::Store, Role::Acceptor, Role::Proposer];
const LOAD: Load = Load {
    reads: 200,
    keys: 40,
    pause_ms: 5,
    ..Load::of_writes(8)
};
/// How long one resource's history may be looked at.
const CHECK_BUDGET: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let Some(old) = value("--old").map(PathBuf::from) else {
        eprintln!("upgrade --old PROGRAM [--seconds N]");
        return ExitCode::from(2);
    };
    let seconds = value("--seconds").and_then(|text| text.parse().ok());
    let pause = Duration::from_secs(seconds.unwrap_or(3));
    let mut cluster = Cluster::prepare(3, 3, 2);
    cluster.add(Role::Store);
    for name in cluster.names() {
        cluster.node_mut(name).program = Some(old.clone());
    }
    cluster.start_all();
    assert_versions(&cluster, None);

    let mut failures = 0;
    for (title, program) in [("forward", None), ("back", Some(&*old))] {
        let load = Load {
            seed: 1 + u64::from(program.is_some()),
            ..LOAD
        };
        let work = Workload::start(&cluster, load);
        thread::sleep(pause);
        let started = Instant::now();
        let mut longest = Duration::ZERO;
        for name in order(&cluster) {
            work.next_round();
            longest = longest.max(replace(&mut cluster, name, program));
            // Two builds side by side, for a while.
            thread::sleep(pause);
        }
        let took = started.elapsed();
        let shown = program.is_none().then(|| Version::NEWEST.number());
        assert_versions(&cluster, shown);
        if program.is_none() {
            assert_newest_is_spoken(&cluster);
        }
        let seen = work.stop();
        failures += report(title, took, longest, &cluster, seen);
    }
    match failures {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// One role after the other, and the leader last of all.
fn order(cluster: &Cluster) -> Vec<Name> {
    let leader = cluster.wait_for_leader();
    let of_role = |role| cluster.of_role(role).into_iter().rev();
    let all = ORDER.into_iter().flat_map(of_role);
    let mut order: Vec<Name> = all.filter(|name| *name != leader).collect();
    order.push(leader);
    order
}

/// Ends a node as Kubernetes does, and starts that program in its place; `None`: this build.
fn replace(cluster: &mut Cluster, name: Name, program: Option<&Path>) -> Duration {
    let node = cluster.node_mut(name);
    node.signal(Signal::TERM);
    let ended = node.wait(READY_WITHIN);
    assert!(ended.success(), "{name:?}: {ended}");
    node.program = program.map(Path::to_owned);
    let started = Instant::now();
    node.start();
    cluster.wait_until_ready();
    started.elapsed()
}

/// Which version the nodes show; `None`: they show nothing, as builds of version 2.
fn assert_versions(cluster: &Cluster, expected: Option<u8>) {
    let agent = http::agent(Duration::from_secs(5));
    for name in cluster.names() {
        let (role, id) = name;
        let url = format!("{}/paxos/{role}/{id}", cluster.node(name).url());
        let answer = http::post(&agent, &url, Vec::new()).expect("an answer");
        let shown = answer.header("x-wire").parse().ok();
        assert_eq!(shown, expected, "{name:?}");
    }
}

/// From now on nobody sends the older version any more.
fn assert_newest_is_spoken(cluster: &Cluster) {
    let sent = |version: Version| -> f64 {
        let of_node = |name: Name| {
            let url = format!("{}/metrics", cluster.node(name).url());
            let text = http::get(&url).expect("an answer").text();
            let label = format!("version=\"{}\"", version.number());
            let of_version = |line: &&str| {
                line.starts_with("paxos_peer_messages_total{") && line.contains(&label)
            };
            let line = text.lines().find(of_version);
            let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
            count.unwrap_or(0.0)
        };
        cluster.names().into_iter().map(of_node).sum()
    };
    // The first message to a node that has just started is in the older one.
    thread::sleep(Duration::from_secs(3));
    let before = Version::ALL.map(sent);
    thread::sleep(Duration::from_secs(3));
    let [older, newest] = [0, 1].map(|at| sent(Version::ALL[at]) - before[at]);
    assert!(
        older == 0.0 && newest > 100.0,
        "{older} older, {newest} newest"
    );
}

/// Prints what became of all requests, and returns how many things are wrong.
fn report(title: &str, took: Duration, longest: Duration, cluster: &Cluster, seen: Seen) -> usize {
    cluster.wait_until_learners_agree(1);
    let mut audit = Audit::default();
    audit.look(cluster);
    for told in &seen.acknowledged {
        audit.acknowledged(&told.client, &told.request, &told.key, told.outcome);
    }
    let history = seen.history.check(CHECK_BUDGET);
    let gaps = seen.commits.windows(2).map(|two| two[1] - two[0]);
    let gap = Duration::from_nanos(gaps.max().unwrap_or(0));
    let known = |counts: &BTreeMap<u16, u64>| {
        let others = counts.iter().filter(|(status, _)| **status != 200);
        others
            .map(|(status, count)| format!("{status} {count} times"))
            .collect::<Vec<_>>()
    };
    println!(
        "{title}: {} nodes in {:.0} s, the slowest ready after {:.1} s; {} commits, longest gap {:.2} s, \
         {} requests failed; answers other than 200, each followed by another try: {:?}; connections \
         refused: {}; {history}; {} violations",
        cluster.names().len(),
        took.as_secs_f64(),
        longest.as_secs_f64(),
        seen.commits.len(),
        gap.as_secs_f64(),
        seen.unknown(),
        known(&seen.answers),
        seen.refused,
        audit.violations.len(),
    );
    for wrong in seen.unexpected.iter().chain(&audit.violations) {
        println!("  {wrong}");
    }
    assert!(seen.commits.len() > 100, "there was load");
    assert!(audit.votes_compared > 0, "the acceptors' votes were read");
    let unknown = seen.unknown() as usize;
    let undecided = history.illegal.len() + history.undecided.len();
    unknown + seen.unexpected.len() + audit.violations.len() + undecided
}
