//! Provokes alerts on a real cluster under load, watched by a real Prometheus, and prints how long each
//! took to fire. `--picture FILE` draws the cluster's dashboard of that time.
//!
//! Alerts fire 2 seconds after their condition began to hold, in place of the minutes in their `for`;
//! everything else is as in the chart. Prometheus scrapes and evaluates every second.

mod load;
mod picture;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use api::env::Role;
use rustix::process::Signal;
use testkit::cluster::{Cluster, Name};
use testkit::forge::forge;
use testkit::prometheus::{self, Prometheus};

use load::Load;
use paxos::ids::Slot;

/// How long an alert may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What stands in for each alert's own `for`.
const FOR: &str = "2s";
const CALM: Duration = Duration::from_secs(10);

struct Stage {
    cluster: Cluster,
    prometheus: Prometheus,
    failed: bool,
}

impl Stage {
    /// Waits for an alert, and prints a row of the table.
    fn expect(&mut self, alert: &str, how: &str, since: Instant) {
        while self.prometheus.firing(alert).is_empty() {
            if since.elapsed() > PATIENCE {
                println!("| {alert} | {how} | did not fire |");
                self.failed = true;
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        let seconds = since.elapsed().as_secs_f64();
        println!("| {alert} | {how} | {seconds:.1} |");
    }

    fn all(&self, role: Role) -> Vec<Name> {
        self.cluster.of_role(role)
    }

    /// Kills nodes until an alert fires.
    fn kill(&mut self, nodes: &[Name], alert: &str, how: &str) {
        let since = Instant::now();
        self.cluster.kill(nodes);
        self.expect(alert, how, since);
        self.cluster.restart(nodes);
        self.cluster.wait_until_ready();
        thread::sleep(CALM);
    }

    fn signal(&self, nodes: &[Name], signal: Signal) {
        for node in nodes {
            self.cluster.node(*node).signal(signal);
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let picture = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => None,
        (Some("--picture"), Some(file)) => Some(PathBuf::from(file)),
        _ => {
            eprintln!("usage: alerts [--picture FILE.svg]");
            return ExitCode::from(2);
        }
    };
    let began = SystemTime::now();
    let cluster = Cluster::start(5, 5, 3);
    let folder = cluster.folder.path().to_owned();
    prometheus::rules(&folder.join("rules"), Some(FOR));
    let targets: Vec<_> = cluster
        .names()
        .into_iter()
        .map(|(role, id)| {
            let url = cluster.node((role, id)).url();
            let address = url.trim_start_matches("http://").to_owned();
            (address, format!("ledger-{role}-{id}"))
        })
        .collect();
    let config = prometheus::config(&folder, "ledger", &targets);
    let since = Instant::now();
    let prometheus = Prometheus::start(&config, &folder);
    let load = Load::start(cluster.urls(Role::Proposer));
    let mut stage = Stage {
        cluster,
        prometheus,
        failed: false,
    };
    println!("| alert | how it was provoked | seconds until it fired |\n|---|---|---|");
    stage.expect("PaxosOperatorDown", "no operator is scraped", since);
    thread::sleep(2 * CALM);

    let acceptors = stage.all(Role::Acceptor);
    stage.kill(
        &acceptors[3..],
        "PaxosQuorumAtRisk",
        "kill -9 of two of five acceptors",
    );
    stage.kill(
        &acceptors[2..],
        "PaxosQuorumLost",
        "kill -9 of three of five acceptors",
    );
    let proposers = stage.all(Role::Proposer);
    stage.kill(&proposers, "PaxosNoLeader", "kill -9 of all proposers");

    let since = Instant::now();
    for _ in 0..5 {
        let leader = stage.cluster.wait_for_leader();
        stage.cluster.kill(&[leader]);
        thread::sleep(Duration::from_secs(2));
        stage.cluster.restart(&[leader]);
        stage.cluster.wait_until_ready();
    }
    let how = "kill -9 of the leader, five times";
    stage.expect("PaxosLeaderChangesOften", how, since);
    thread::sleep(CALM);

    let learner = stage.all(Role::Learner)[2];
    let since = Instant::now();
    stage.signal(&[learner], Signal::STOP);
    stage.expect("PaxosLearnerLags", "SIGSTOP of a learner under load", since);
    stage.signal(&[learner], Signal::CONT);
    stage.cluster.wait_until_ready();
    thread::sleep(CALM);

    let since = Instant::now();
    while stage.prometheus.firing("PaxosCommitSlow").is_empty() && since.elapsed() < PATIENCE {
        stage.signal(&acceptors[..3], Signal::STOP);
        thread::sleep(Duration::from_millis(700));
        stage.signal(&acceptors[..3], Signal::CONT);
        thread::sleep(Duration::from_millis(300));
    }
    let how = "SIGSTOP of three of five acceptors for 0.7 s of each second";
    stage.expect("PaxosCommitSlow", how, since);
    thread::sleep(CALM);

    // Nodes are wrong for good from here on.
    let wiped = acceptors[4];
    let since = Instant::now();
    stage.cluster.kill(&[wiped]);
    fs::remove_dir_all(&stage.cluster.node(wiped).config.data_dir).expect("its disk is wiped");
    stage.cluster.restart(&[wiped]);
    let how = "an acceptor's disk wiped while it was down";
    stage.expect("PaxosAcceptorRefusesToVote", how, since);

    let since = Instant::now();
    stage.cluster.kill(&[learner]);
    let log = stage.cluster.node(learner).config.data_dir.join("log");
    forge(&log, Slot(700));
    stage.cluster.restart(&[learner]);
    let how = "a value in a learner's log altered, checksums and all, while it was down";
    stage.expect("PaxosAgreementViolated", how, since);
    stage.expect("PaxosNodeHalted", "the same", since);
    thread::sleep(CALM);

    println!("\n{} writes were committed meanwhile", load.stop());
    if let Some(file) = picture {
        let svg = picture::draw(&stage.prometheus, began, SystemTime::now());
        fs::write(&file, svg).expect("the picture is written");
        println!("{} shows the dashboard", file.display());
    }
    ExitCode::from(u8::from(stage.failed))
}
