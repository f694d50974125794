//! Measures this project's cluster against etcd and against limits of the machine, in turn, in one run.
//! `make bench` says how; docs/benchmarks.md has what came of it.

mod client;
mod compare;
mod disk;
mod document;
mod etcd;
mod gap;
mod growth;
mod load;
mod noop;
mod ours;
mod plot;
mod system;
mod table;
mod usage;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Ours, etcd and the limits, in turn
    Table {
        /// Each with fresh folders
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How long each load lasts, in milliseconds
        #[arg(long, default_value_t = 2500)]
        lasting_ms: u64,
        /// Connections, separated by commas
        #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
        connections: Vec<usize>,
        /// Bytes of a value, separated by commas
        #[arg(long, value_delimiter = ',', default_values_t = [256, 1024])]
        sizes: Vec<usize>,
        /// Only throughput, without the rest
        #[arg(long)]
        quick: bool,
        /// The document whose sections are filled in, besides the output
        #[arg(long)]
        into: Option<PathBuf>,
    },
    /// Ours alone, with one thing that grows
    Growth {
        /// One of size, connections, acceptors, learners, log, restart and overload; else all
        #[arg(long)]
        only: Option<String>,
        /// How long each load lasts, in milliseconds
        #[arg(long, default_value_t = 3000)]
        lasting_ms: u64,
        /// Instances at the end of the series about the log
        #[arg(long, default_value_t = 10_000_000)]
        log: u64,
        /// The document whose sections are filled in
        #[arg(long)]
        into: PathBuf,
    },
    /// Two builds of the node in turn: what a change is worth
    Compare {
        old: PathBuf,
        new: PathBuf,
        /// How often with new clusters
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// How many loads each cluster gets, in turn with the other
        #[arg(long, default_value_t = 20)]
        turns: usize,
        /// How long each load lasts, in milliseconds
        #[arg(long, default_value_t = 400)]
        lasting_ms: u64,
        /// Connections, separated by commas
        #[arg(long, value_delimiter = ',', default_values_t = [1, 256])]
        connections: Vec<usize>,
        /// Values in a request
        #[arg(long, default_value_t = 1)]
        batch: u64,
        /// Reads at the learners instead of writes
        #[arg(long)]
        reads: bool,
        /// Their memory instead
        #[arg(long)]
        memory: bool,
    },
    /// The server that does nothing, on that port
    #[command(hide = true)]
    Noop { port: u16 },
}

fn main() {
    open_many_files();
    match Args::parse().what {
        What::Noop { port } => noop::serve(port),
        What::Table {
            rounds,
            lasting_ms,
            connections,
            sizes,
            quick,
            into,
        } => table::run(&table::Options {
            rounds,
            lasting: Duration::from_millis(lasting_ms),
            connections,
            sizes,
            quick,
            into,
        }),
        What::Compare {
            old,
            new,
            rounds,
            turns,
            lasting_ms,
            connections,
            batch,
            reads,
            memory,
        } => match memory {
            true => compare::memory(&[old, new]),
            false => compare::Compare {
                builds: [old, new],
                rounds,
                turns,
                lasting: Duration::from_millis(lasting_ms),
                connections,
                batch,
                reads,
            }
            .run(),
        },
        What::Growth {
            only,
            lasting_ms,
            log,
            into,
        } => growth::Growth {
            lasting: Duration::from_millis(lasting_ms),
            into: &into,
            log,
        }
        .run(only.as_deref()),
    }
}

/// Every connection is a file here and at the server, which is started from here.
fn open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        eprintln!("the limit on open files stays: {error}");
    }
}

/// The sum of a metric's series in Prometheus' text format.
fn metric(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let ends = rest.starts_with(['{', ' ']);
        let value = rest.rsplit_once(' ').filter(|_| ends)?.1;
        value.parse::<f64>().ok()
    });
    values.sum()
}
