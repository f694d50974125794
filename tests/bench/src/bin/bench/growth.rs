//! How this project's cluster does when one thing grows.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::env::Role;
use testkit::cluster::{Cluster, http};

use super::client::Protocol;
use super::document;
use super::load::{self, Load, Seen};
use super::plot::Plot;
use super::system::{Reads, System, Work, Writes};
use super::{ours, usage};

const SIZE: usize = 256;
const CONNECTIONS: usize = 64;

/// Measures one series, or all, and puts tables and pictures where they belong.
pub(crate) struct Growth<'a> {
    pub(crate) lasting: Duration,
    /// The document, beside which the pictures' folder is.
    pub(crate) into: &'a Path,
    pub(crate) log: u64,
}

impl Growth<'_> {
    pub(crate) fn run(&self, only: Option<&str>) {
        type Series<'a> = fn(&Growth<'a>);
        let all: [(&str, Series<'_>); 7] = [
            ("size", Growth::size),
            ("connections", Growth::connections),
            ("acceptors", Growth::acceptors),
            ("learners", Growth::learners),
            ("log", Growth::log),
            ("restart", Growth::restart),
            ("overload", Growth::overload),
        ];
        for (name, series) in all {
            if only.is_none_or(|only| only == name) {
                eprintln!("{name}");
                series(self);
            }
        }
    }

    fn write(&self, servers: Vec<SocketAddr>, work: Arc<dyn Work>, connections: usize) -> Seen {
        let seen = load::run(&Load {
            servers,
            protocol: Protocol::Http,
            work,
            connections,
            lasting: self.lasting,
            rate: None,
            warm_up: load::WARM_UP,
            pause: load::PAUSE,
            pids: Vec::new(),
        });
        for (why, count) in &seen.failures {
            eprintln!("  {count} × {why}");
        }
        eprintln!(
            "  {:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
            seen.per_second(),
            seen.percentile(50.0) / 1e3,
            seen.percentile(99.0) / 1e3
        );
        seen
    }

    fn size(&self) {
        let cluster = Cluster::start(5, 5, 2);
        let sizes = [64, 256, 1024, 4096, 16 << 10, 64 << 10, 256 << 10];
        let seen = sizes.map(|size| {
            let work = Writes::new(System::Ours, size, 1, size as u64 * 1_000_000).over(1000);
            self.write(leader(&cluster), Arc::new(work), CONNECTIONS)
        });
        let megabytes = |(seen, size): (&Seen, usize)| seen.per_second() * size as f64 / 1e6;
        let names = sizes.map(|size| match size {
            size if size < 1024 => format!("{size} B"),
            size => format!("{} KiB", size >> 10),
        });
        self.throughput(
            "size",
            "Writes by size of the value",
            "size of the value",
            &names,
            &seen,
        );
        let rate: Vec<f64> = seen.iter().zip(sizes).map(megabytes).collect();
        let plot = Plot {
            title: "MB of values written in a second",
            x: "size of the value",
            ticks: names.to_vec(),
            lines: vec![("MB/s".to_owned(), rate)],
        };
        document::picture(self.into, "size-bytes", &plot.svg());
    }

    fn connections(&self) {
        let cluster = Cluster::start(5, 5, 2);
        let counts = [1, 4, 16, 64, 256, 1024, 4096];
        let seen = counts.map(|connections| {
            let first = connections as u64 * 10_000_000;
            let work = Writes::new(System::Ours, SIZE, 1, first);
            self.write(leader(&cluster), Arc::new(work), connections)
        });
        let names = counts.map(|count| count.to_string());
        self.throughput(
            "connections",
            "Writes by connections",
            "connections",
            &names,
            &seen,
        );
    }

    fn acceptors(&self) {
        let counts = [1, 3, 5, 7];
        let seen = counts.map(|acceptors| {
            let cluster = Cluster::start(3, acceptors, 2);
            let work = Writes::new(System::Ours, SIZE, 1, 0);
            self.write(leader(&cluster), Arc::new(work), CONNECTIONS)
        });
        let names = counts.map(|count| count.to_string());
        self.throughput(
            "acceptors",
            "Writes by acceptors",
            "acceptors",
            &names,
            &seen,
        );
    }

    fn learners(&self) {
        const KEYS: u64 = 1000;
        let counts = [1, 2, 3, 4, 5];
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        for learners in counts {
            let cluster = Cluster::start(3, 3, learners);
            let work = Writes::new(System::Ours, SIZE, 1, 1 << 32);
            writes.push(self.write(leader(&cluster), Arc::new(work), CONNECTIONS));
            let work = Arc::new(Writes::new(System::Ours, SIZE, 1, 0));
            load::fill(&leader(&cluster), Protocol::Http, work, KEYS);
            let work = Arc::new(Reads::new(System::Ours, SIZE, 0, KEYS));
            let learners = ours::addresses(&cluster, Role::Learner);
            reads.push(self.write(learners, work, CONNECTIONS));
        }
        let names = counts.map(|count| count.to_string());
        self.throughput(
            "learners",
            "Writes by learners",
            "learners",
            &names,
            &writes,
        );
        self.throughput(
            "reads",
            "Linearizable reads by learners",
            "learners",
            &names,
            &reads,
        );
    }

    /// Few keys, so that only the log grows.
    fn log(&self) {
        const STEPS: u64 = 10;
        let cluster = Cluster::start(5, 5, 2);
        let (mut names, mut rates, mut memory) = (Vec::new(), Vec::new(), Vec::new());
        let step = self.log / STEPS;
        for turn in 0..STEPS {
            let work = Writes::new(System::Ours, SIZE, 64, turn * step).over(10_000);
            let started = Instant::now();
            load::fill(&leader(&cluster), Protocol::Http, Arc::new(work), step);
            rates.push(step as f64 / started.elapsed().as_secs_f64());
            memory.push(usage::Usage::of(&ours::pids(&cluster)).max_mib());
            names.push(format!("{}M", (turn + 1) as f64 * step as f64 / 1e6));
            eprintln!("  {}: {:.0}/s", names[turn as usize], rates[turn as usize]);
        }
        let rows = names.iter().zip(&rates).zip(&memory);
        let rows = rows.map(|((name, rate), mib)| format!("| {name} | {rate:.0} | {mib:.0} |"));
        let table = [
            "| instances | values/s | MiB of the largest process |".to_owned(),
            "|---:|---:|---:|".to_owned(),
        ];
        let lines: Vec<String> = table.into_iter().chain(rows).collect();
        document::section(self.into, "log", &lines.join("\n"));
        let plot = Plot {
            title: "Values written in a second, 64 in a request, 10,000 keys",
            x: "instances in the log",
            ticks: names,
            lines: vec![("values/s".to_owned(), rates)],
        };
        document::picture(self.into, "log", &plot.svg());
    }

    fn restart(&self) {
        let counts = [10_000, 100_000, 1_000_000];
        let mut times: [Vec<f64>; 3] = Default::default();
        for keys in counts {
            let mut cluster = Cluster::start(3, 3, 2);
            let work = Arc::new(Writes::new(System::Ours, SIZE, 64, 0));
            load::fill(&leader(&cluster), Protocol::Http, work, keys);
            for (role, times) in [Role::Learner, Role::Acceptor, Role::Proposer]
                .into_iter()
                .zip(&mut times)
            {
                let node = cluster.of_role(role)[0];
                cluster.kill(&[node]);
                let started = Instant::now();
                cluster.node_mut(node).start();
                while !cluster.node(node).is_ready() {
                    assert!(started.elapsed() < Duration::from_secs(120), "not ready");
                    std::thread::sleep(Duration::from_millis(2));
                }
                times.push(started.elapsed().as_secs_f64());
                eprintln!(
                    "  {keys} keys, {role}: {:.2} s",
                    started.elapsed().as_secs_f64()
                );
            }
        }
        let names = counts.map(|count| format!("{}k", count / 1000));
        let mut lines = vec![
            "| keys | learner, s | acceptor, s | proposer, s |".to_owned(),
            "|---:|---:|---:|---:|".to_owned(),
        ];
        for (i, name) in names.iter().enumerate() {
            let cells = times.each_ref().map(|times| format!("{:.2}", times[i]));
            lines.push(format!("| {name} | {} |", cells.join(" | ")));
        }
        document::section(self.into, "restart", &lines.join("\n"));
        let [learner, acceptor, proposer] = times;
        let plot = Plot {
            title: "Seconds from start to ready after kill -9, values of 256 B",
            x: "keys",
            ticks: names.to_vec(),
            lines: vec![
                ("learner".to_owned(), learner),
                ("acceptor".to_owned(), acceptor),
                ("proposer".to_owned(), proposer),
            ],
        };
        document::picture(self.into, "restart", &plot.svg());
    }

    /// More values at once than a proposer takes: clients that are refused ask again after a while.
    fn overload(&self) {
        const BATCH: u64 = 64;
        /// As many values as a proposer has room for, at once.
        const PEAK: usize = 16_384 / BATCH as usize;
        const PAUSE: Duration = Duration::from_millis(200);
        let cluster = Cluster::start(5, 5, 2);
        let elected = |cluster: &Cluster| {
            let leader = cluster.wait_for_leader();
            let status = http::get(&format!("{}/leader-status", cluster.node(leader).url()));
            let status = status.expect("the leader answers").json();
            (leader, status["term"].clone())
        };
        let before = elected(&cluster);
        let mut lines = vec![
            "| offered, × the peak's | values/s | ÷ peak | 503s/s | p50 of a 503, ms | p99 of a 503, ms \
             | MiB of the leader |"
                .to_owned(),
            format!("|{}", "---:|".repeat(7)),
        ];
        let mut peak = None;
        for times in [1, 2, 10] {
            let work = Writes::new(System::Ours, SIZE, BATCH, times * 100_000_000).over(10_000);
            let seen = load::run(&Load {
                servers: leader(&cluster),
                protocol: Protocol::Http,
                work: Arc::new(work),
                connections: PEAK * times as usize,
                lasting: self.lasting,
                rate: None,
                warm_up: load::WARM_UP,
                pause: PAUSE,
                pids: Vec::new(),
            });
            for (why, count) in &seen.failures {
                eprintln!("  {count} × {why}");
            }
            let mib = usage::Usage::of(&[ours::pid(&cluster, before.0)]).max_mib();
            let goodput = seen.per_second();
            lines.push(format!(
                "| {times} | {goodput:.0} | {:.2} | {:.0} | {:.1} | {:.1} | {mib:.0} |",
                goodput / *peak.get_or_insert(goodput),
                seen.refused.len() as f64 / seen.seconds,
                seen.refused.value_at_quantile(0.5) as f64 / 1e3,
                seen.refused.value_at_quantile(0.99) as f64 / 1e3,
            ));
            eprintln!("  {}", lines.last().expect("it was just added"));
        }
        lines.push(String::new());
        lines.push(match elected(&cluster) == before {
            true => "The leader and its term stayed the same.".to_owned(),
            false => "**The leader changed.**".to_owned(),
        });
        document::section(self.into, "overload", &lines.join("\n"));
    }

    fn throughput(&self, name: &str, title: &str, x: &str, ticks: &[String], seen: &[Seen]) {
        let mut lines = vec![
            format!("| {x} | /s | p50, ms | p99, ms |"),
            "|---:|---:|---:|---:|".to_owned(),
        ];
        for (tick, seen) in ticks.iter().zip(seen) {
            lines.push(format!(
                "| {tick} | {:.0} | {:.2} | {:.2} |",
                seen.per_second(),
                seen.percentile(50.0) / 1e3,
                seen.percentile(99.0) / 1e3
            ));
        }
        document::section(self.into, name, &lines.join("\n"));
        let plot = Plot {
            title,
            x,
            ticks: ticks.to_vec(),
            lines: vec![(
                "per second".to_owned(),
                seen.iter().map(Seen::per_second).collect(),
            )],
        };
        document::picture(self.into, name, &plot.svg());
    }
}

fn leader(cluster: &Cluster) -> Vec<SocketAddr> {
    vec![ours::address(cluster, cluster.wait_for_leader())]
}
