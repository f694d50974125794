//! Rounds of everything, and the table of their ratios.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::env::Role;
use testkit::cluster::Cluster;

use super::client::Protocol;
use super::etcd::Etcd;
use super::load::{self, Load, Seen};
use super::noop::Noop;
use super::system::{Reads, System, Work, Writes};
use super::usage::Usage;
use super::{disk, gap, ours, usage};

pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) lasting: Duration,
    pub(crate) connections: Vec<usize>,
    pub(crate) sizes: Vec<usize>,
    pub(crate) quick: bool,
    pub(crate) into: Option<PathBuf>,
}

/// A system whose memory is measured holds this many.
pub(crate) const MANY_KEYS: u64 = 100_000;

/// Who takes processor time. Of the other systems only the client is shown.
const PARTS: [&str; 5] = [
    "the client",
    "the leader",
    "other proposers",
    "acceptors",
    "learners",
];

const SYSTEMS: [System; 4] = [
    System::Ours,
    System::EtcdHttp,
    System::EtcdGrpc,
    System::Noop,
];

/// What one load came to: by name, of one system.
type Figures = BTreeMap<(String, System), Vec<f64>>;

pub(crate) fn run(options: &Options) {
    let mut figures = Figures::new();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        one_round(options, &mut figures);
    }
    let text = report(options, &figures);
    println!("{text}");
    if let Some(path) = &options.into {
        super::document::section(path, "machine", &super::document::machine());
        super::document::section(path, "table", &text);
    }
}

/// All systems, freshly started.
struct Systems {
    ours: Cluster,
    etcd: Etcd,
    noop: Noop,
    /// The number of the next key.
    next: u64,
}

impl Systems {
    fn start() -> Systems {
        Systems {
            ours: Cluster::start(5, 5, 2),
            etcd: Etcd::start(5),
            noop: Noop::start(),
            next: 0,
        }
    }

    fn leader(&self, system: System) -> SocketAddr {
        match system {
            System::Ours => ours::address(&self.ours, self.ours.wait_for_leader()),
            System::EtcdHttp | System::EtcdGrpc => self.etcd.clients()[self.etcd.leader()],
            System::Noop => self.noop.address,
        }
    }

    fn pids(&self, system: System) -> Vec<u32> {
        match system {
            System::Ours => ours::pids(&self.ours),
            System::EtcdHttp | System::EtcdGrpc => self.etcd.pids(),
            System::Noop => vec![self.noop.pid()],
        }
    }

    fn syncs(&self, system: System) -> f64 {
        match system {
            System::Ours => ours::syncs(&self.ours),
            System::EtcdHttp | System::EtcdGrpc => self.etcd.syncs(),
            System::Noop => 0.0,
        }
    }

    /// Seconds of processor time so far, of each of [`PARTS`].
    fn parts(&self, system: System) -> Vec<f64> {
        let of = |pids: &[u32]| Usage::of(pids).cpu_seconds;
        let mut parts = vec![of(&[std::process::id()])];
        if system == System::Ours {
            let leader = ours::pid(&self.ours, self.ours.wait_for_leader());
            let mut proposers = ours::pids_of(&self.ours, Role::Proposer);
            proposers.retain(|pid| *pid != leader);
            parts.extend([
                of(&[leader]),
                of(&proposers),
                of(&ours::pids_of(&self.ours, Role::Acceptor)),
                of(&ours::pids_of(&self.ours, Role::Learner)),
            ]);
        }
        parts
    }

    fn writes(&mut self, system: System, size: usize, batch: u64) -> Arc<Writes> {
        let first = self.next;
        self.next += 10_000_000;
        Arc::new(Writes::new(system, size, batch, first))
    }

    /// A load at the leader.
    fn load(
        &self,
        system: System,
        work: Arc<dyn Work>,
        connections: usize,
        lasting: Duration,
    ) -> Load {
        Load {
            servers: vec![self.leader(system)],
            protocol: protocol(system),
            work,
            connections,
            lasting,
            rate: None,
            warm_up: load::WARM_UP,
            pause: load::PAUSE,
            pids: self.pids(system),
        }
    }
}

fn protocol(system: System) -> Protocol {
    match system {
        System::EtcdGrpc => Protocol::Grpc,
        _ => Protocol::Http,
    }
}

fn note(figures: &mut Figures, name: &str, system: System, value: f64) {
    let of = figures.entry((name.to_owned(), system)).or_default();
    of.push(value);
}

fn complain(name: &str, system: System, seen: &Seen) {
    for (why, count) in &seen.failures {
        eprintln!("{name} {system:?}: {count} × {why}");
    }
}

fn one_round(options: &Options, figures: &mut Figures) {
    let lasting = options.lasting;
    for writers in [1, 3, 5] {
        let name = format!("fdatasync {writers}");
        let p50 = disk::fdatasync_p50(writers, Duration::from_secs(1));
        note(figures, &name, System::Noop, p50);
    }
    let mut systems = Systems::start();
    let mut etcd_peak = 0.0_f64;
    for &size in &options.sizes {
        for &connections in &options.connections {
            for system in SYSTEMS {
                let work = systems.writes(system, size, 1);
                let load = systems.load(system, work, connections, lasting);
                let name = |what: &str| format!("{what} {size} {connections}");
                let syncs = systems.syncs(system);
                let parts = systems.parts(system);
                let seen = load::run(&load);
                // The warm-up's writes were synced as well.
                let share = lasting.as_secs_f64() / (lasting + load::WARM_UP).as_secs_f64();
                let parts = parts.into_iter().zip(systems.parts(system));
                for (part, (before, after)) in PARTS.iter().zip(parts) {
                    let micros = (after - before) * share * 1e6 / seen.done.max(1) as f64;
                    note(figures, &name(part), system, micros);
                }
                let syncs = (systems.syncs(system) - syncs) * share / seen.done.max(1) as f64;
                complain(&name("writes"), system, &seen);
                eprintln!(
                    "  {size} B, {connections} connections, {system:?}: {:.0}/s, p50 {:.0} µs, p99 \
                     {:.0} µs, {:.1} µs CPU, {syncs:.2} syncs a write",
                    seen.per_second(),
                    seen.percentile(50.0),
                    seen.percentile(99.0),
                    seen.cpu()
                );
                note(figures, &name("rate"), system, seen.per_second());
                note(figures, &name("p50"), system, seen.percentile(50.0));
                note(figures, &name("p99"), system, seen.percentile(99.0));
                note(figures, &name("cpu"), system, seen.cpu());
                note(figures, &name("syncs"), system, syncs);
                if system == System::EtcdHttp && size == options.sizes[0] {
                    etcd_peak = etcd_peak.max(seen.per_second());
                }
            }
        }
    }
    if options.quick {
        return;
    }
    let size = options.sizes[0];
    // 64 values in a request.
    let work = systems.writes(System::Ours, size, 64);
    let seen = load::run(&systems.load(System::Ours, work, 64, lasting));
    complain("batches", System::Ours, &seen);
    eprintln!(
        "  64 values in a request: {:.0} values/s",
        seen.per_second()
    );
    note(figures, "batch", System::Ours, seen.per_second());
    // An open loop at half of etcd's peak.
    for system in [System::Ours, System::EtcdHttp, System::EtcdGrpc] {
        let work = systems.writes(system, size, 1);
        let mut load = systems.load(system, work, 64, lasting * 2);
        load.rate = Some(etcd_peak / 2.0);
        let seen = load::run(&load);
        complain("open loop", system, &seen);
        eprintln!(
            "  open loop at {:.0}/s, {system:?}: {:.0}/s, p50 {:.0} µs, p99 {:.0} µs",
            etcd_peak / 2.0,
            seen.per_second(),
            seen.percentile(50.0),
            seen.percentile(99.0)
        );
        note(figures, "open p50", system, seen.percentile(50.0));
        note(figures, "open p99", system, seen.percentile(99.0));
    }
    // Linearizable reads, at the learners and at all members.
    for system in [System::Ours, System::EtcdHttp, System::EtcdGrpc] {
        const KEYS: u64 = 1000;
        let first = systems.next;
        let work = systems.writes(system, size, 1);
        fill(&systems, system, work, KEYS);
        let reads = Arc::new(Reads::new(system, size, first, KEYS));
        let mut load = systems.load(system, reads, 64, lasting);
        load.servers = match system {
            System::Ours => ours::addresses(&systems.ours, Role::Learner),
            _ => systems.etcd.clients().to_vec(),
        };
        let seen = load::run(&load);
        complain("reads", system, &seen);
        eprintln!(
            "  linearizable reads, {system:?}: {:.0}/s, p50 {:.0} µs, {:.1} µs CPU",
            seen.per_second(),
            seen.percentile(50.0),
            seen.cpu()
        );
        note(figures, "reads", system, seen.per_second());
        note(figures, "reads cpu", system, seen.cpu());
    }
    // The leader is killed.
    let work = systems.writes(System::Ours, size, 1);
    let servers = ours::addresses(&systems.ours, Role::Proposer);
    let leader = systems.ours.wait_for_leader();
    let cluster = &mut systems.ours;
    let seconds = gap::longest(&servers, Protocol::Http, work, || cluster.kill(&[leader]));
    eprintln!("  gap after kill -9, ours: {seconds:.3} s");
    note(figures, "gap", System::Ours, seconds);
    let work = systems.writes(System::EtcdHttp, size, 1);
    let (servers, leader) = (systems.etcd.clients().to_vec(), systems.etcd.leader());
    let etcd = &mut systems.etcd;
    let seconds = gap::longest(&servers, Protocol::Http, work, || etcd.kill(leader));
    eprintln!("  gap after kill -9, etcd: {seconds:.3} s");
    note(figures, "gap", System::EtcdHttp, seconds);
    drop(systems);
    memory(figures);
}

/// Writes this many keys.
fn fill(systems: &Systems, system: System, work: Arc<Writes>, keys: u64) {
    let servers = vec![systems.leader(system)];
    load::fill(&servers, protocol(system), work, keys);
}

/// What the largest process holds with 100,000 keys of 256 bytes.
fn memory(figures: &mut Figures) {
    let mut systems = Systems::start();
    for (system, batch) in [(System::Ours, 64), (System::EtcdGrpc, 1)] {
        let work = systems.writes(system, 256, batch);
        fill(&systems, system, work, MANY_KEYS);
        let usage = Usage::of(&systems.pids(system));
        let mib = usage.max_mib();
        eprintln!("  100,000 keys, {system:?}: {mib:.1} MiB in the largest process");
        note(figures, "rss", system, mib);
        note(figures, "rss all", system, usage::mib(usage.rss_bytes));
    }
}

/// Least, median and most.
pub(crate) struct Spread([f64; 3]);

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        match values.len() {
            0 => Spread([f64::NAN; 3]),
            n => Spread([values[0], values[n / 2], values[n - 1]]),
        }
    }

    pub(crate) fn median(&self) -> f64 {
        self.0[1]
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [least, median, most] = self.0.map(short);
        write!(f, "**{median}** ({least} to {most})")
    }
}

/// Three digits.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

fn report(options: &Options, figures: &Figures) -> String {
    let none = Vec::new();
    let of = |name: &str, system| figures.get(&(name.to_owned(), system)).unwrap_or(&none);
    let spread = |name: &str, system| Spread::of(of(name, system).iter().copied());
    let ratio = |(a, a_of): (&str, System), (b, b_of): (&str, System)| {
        let pairs = of(a, a_of).iter().zip(of(b, b_of));
        Spread::of(pairs.map(|(a, b)| a / b))
    };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |line: &str| {
        let _ = writeln!(text, "{line}");
    };
    line(
        "| value | connections | ours, writes/s | etcd HTTP | etcd gRPC | no-op server | ours ÷ etcd HTTP | ours ÷ etcd gRPC | ours ÷ no-op |",
    );
    line("|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for &size in &options.sizes {
        for &connections in &options.connections {
            let name = format!("rate {size} {connections}");
            let rates = SYSTEMS.map(|system| format!("{:.0}", spread(&name, system).median()));
            let against = |peer| ratio((&name, System::Ours), (&name, peer));
            line(&format!(
                "| {size} B | {connections} | {} | {} | {} | {} |",
                rates.join(" | "),
                against(System::EtcdHttp),
                against(System::EtcdGrpc),
                against(System::Noop)
            ));
        }
    }
    line("");
    line(
        "| value | connections | p50 ours, ms | etcd HTTP | etcd gRPC | p99 ours, ms | etcd HTTP | etcd gRPC | CPU ours, µs a write | etcd HTTP | etcd gRPC | syncs ours, a write | etcd HTTP | etcd gRPC |",
    );
    line(&format!("|{}", "---:|".repeat(14)));
    for &size in &options.sizes {
        for &connections in &options.connections {
            let mut cells = Vec::new();
            for (what, scale) in [("p50", 1e3), ("p99", 1e3), ("cpu", 1.0), ("syncs", 1.0)] {
                let name = format!("{what} {size} {connections}");
                for system in &SYSTEMS[..3] {
                    cells.push(short(spread(&name, *system).median() / scale));
                }
            }
            line(&format!(
                "| {size} B | {connections} | {} |",
                cells.join(" | ")
            ));
        }
    }
    line("");
    line(&format!(
        "| value | connections | CPU of {}, µs a write | the client of the no-op server |",
        PARTS.join(" | ")
    ));
    line(&format!("|{}", "---:|".repeat(3 + PARTS.len())));
    for &size in &options.sizes {
        for &connections in &options.connections {
            let micros = |part: &str, system| {
                short(spread(&format!("{part} {size} {connections}"), system).median())
            };
            let parts = PARTS.map(|part| micros(part, System::Ours));
            line(&format!(
                "| {size} B | {connections} | {} | {} |",
                parts.join(" | "),
                micros(PARTS[0], System::Noop)
            ));
        }
    }
    if options.quick {
        return text;
    }
    let size = options.sizes[0];
    let most = options.connections.last().copied().unwrap_or(1);
    let least = options.connections.first().copied().unwrap_or(1);
    let at = |what: &str, connections: usize| format!("{what} {size} {connections}");
    let (ours, http, grpc) = (System::Ours, System::EtcdHttp, System::EtcdGrpc);
    let (rate, cpu) = (at("rate", most), at("cpu", most));
    let rows = [
        (
            "writes/s ÷ etcd's through HTTP",
            ratio((&rate, ours), (&rate, http)),
            5.0,
            10.0,
            true,
        ),
        (
            "writes/s ÷ etcd's through gRPC",
            ratio((&rate, ours), (&rate, grpc)),
            3.0,
            5.0,
            true,
        ),
        (
            "writes/s ÷ no-op server's",
            ratio((&rate, ours), (&rate, System::Noop)),
            0.5,
            0.7,
            true,
        ),
        (
            "values/s, 64 in a request ÷ no-op server's requests/s",
            ratio(("batch", ours), (&rate, System::Noop)),
            4.0,
            10.0,
            true,
        ),
        (
            "processor time of a write ÷ etcd's through gRPC",
            ratio((&cpu, ours), (&cpu, grpc)),
            0.2,
            0.1,
            false,
        ),
        (
            "processor time of a write ÷ etcd's through HTTP",
            ratio((&cpu, ours), (&cpu, http)),
            0.2,
            0.1,
            false,
        ),
        (
            "p50 with one connection ÷ p50 of fdatasync",
            ratio((&at("p50", least), ours), ("fdatasync 1", System::Noop)),
            3.0,
            2.0,
            false,
        ),
        (
            "p50 with one connection ÷ p50 of fdatasync by 3 at once",
            ratio((&at("p50", least), ours), ("fdatasync 3", System::Noop)),
            3.0,
            2.0,
            false,
        ),
        (
            "p99 at half of etcd's peak ÷ etcd's, HTTP",
            ratio(("open p99", ours), ("open p99", http)),
            0.5,
            0.25,
            false,
        ),
        (
            "p99 at half of etcd's peak ÷ etcd's, gRPC",
            ratio(("open p99", ours), ("open p99", grpc)),
            0.5,
            0.25,
            false,
        ),
        (
            "longest gap after kill -9 of the leader ÷ etcd's",
            ratio(("gap", ours), ("gap", http)),
            0.25,
            0.1,
            false,
        ),
        (
            "linearizable reads/s at 2 learners ÷ etcd's through HTTP",
            ratio(("reads", ours), ("reads", http)),
            3.0,
            10.0,
            true,
        ),
        (
            "linearizable reads/s at 2 learners ÷ etcd's through gRPC",
            ratio(("reads", ours), ("reads", grpc)),
            3.0,
            10.0,
            true,
        ),
    ];
    line("");
    line("| ratio, median (least to most) | this run | target | stretch | |");
    line("|---|---:|---:|---:|---|");
    for (name, ratio, target, stretch, more) in &rows {
        let reached = |goal: f64| match more {
            true => ratio.median() >= goal,
            false => ratio.median() <= goal,
        };
        let said = match (reached(*stretch), reached(*target)) {
            (true, _) => "stretch met",
            (false, true) => "met",
            (false, false) => "**not met**",
        };
        line(&format!(
            "| {name} | {ratio} | {target} | {stretch} | {said} |"
        ));
    }
    let rss = spread("rss", ours);
    let said = if rss.median() < 64.0 {
        "met"
    } else {
        "**not met**"
    };
    line(&format!(
        "| MiB of the largest process with 100,000 keys of 256 B (etcd: {}) | {rss} | 64 | | {said} |",
        spread("rss", grpc)
    ));
    line("");
    line("| measured | ours | etcd HTTP | etcd gRPC |");
    line("|---|---:|---:|---:|");
    for (what, name, scale) in [
        ("p99 at half of etcd's peak, ms", "open p99", 1e3),
        ("p50 at half of etcd's peak, ms", "open p50", 1e3),
        ("gap after kill -9 of the leader, s", "gap", 1.0),
        ("linearizable reads/s, 64 connections", "reads", 1.0),
        ("processor time of a read, µs", "reads cpu", 1.0),
        ("MiB of all processes, 100,000 keys", "rss all", 1.0),
    ] {
        let cells = [ours, http, grpc].map(|system| {
            let median = spread(name, system).median() / scale;
            if median.is_nan() {
                String::new()
            } else {
                short(median)
            }
        });
        line(&format!("| {what} | {} |", cells.join(" | ")));
    }
    for writers in [1, 3, 5] {
        let p50 = spread(&format!("fdatasync {writers}"), System::Noop);
        line(&format!(
            "| p50 of fdatasync, {writers} at once, µs | {p50} | | |"
        ));
    }
    text
}
