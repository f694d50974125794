//! `sim --seed N [--events N]` replays one seed and prints every event;
//! `sim --seeds FROM..TO [--events N] [--threads N]` runs many, on every core, and counts; with
//! `--first` it stops at the first that fails; `sim --worlds` runs those of `sim/worlds.rs`. Every seed that fails is added to
//! `tests/testkit/sim-seeds.txt`, which the test suite replays.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use std::{env, panic, thread};

use testkit::sim::{Config, Failure, Summary, VERSION, run, try_seed, worlds};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sim-seeds.txt");

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let number = |name: &str| value(name).and_then(|text| text.parse::<u64>().ok());
    let events = number("--events").unwrap_or(20_000);
    if let Some(seed) = number("--seed") {
        let config = Config::of(seed);
        eprintln!("{config:#?}");
        println!("{:?}", run(&config, events, true));
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--worlds") {
        for (name, world) in worlds::WORLDS {
            println!("{name}");
            world();
        }
        return ExitCode::SUCCESS;
    }
    if cfg!(panic = "abort") {
        eprintln!("a broken rule is a panic that must be caught: build without --release");
        return ExitCode::from(2);
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = number("--threads").map_or(cores, |threads| threads as usize);
    let range = value("--seeds").and_then(|text| text.split_once(".."));
    match range.map(|(from, to)| (from.parse(), to.parse())) {
        Some((Ok(from), Ok(to))) => {
            let first = arguments.iter().any(|argument| argument == "--first");
            many(from, to, events, first, threads)
        }
        _ => {
            eprintln!(
                "usage: sim --worlds | --seed N | --seeds FROM..TO [--first] [--events N] [--threads N]"
            );
            ExitCode::from(2)
        }
    }
}

fn many(from: u64, to: u64, events: u64, first: bool, threads: usize) -> ExitCode {
    panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let next = AtomicU64::new(from);
    let total = Mutex::new((Summary::default(), Vec::new()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let result = try_seed(seed, events);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(summary) => total.0 += summary,
                        Err(failure) => {
                            println!("{failure}");
                            if let Err(error) = remember(&failure) {
                                println!("cannot add it to {CORPUS}: {error}");
                            }
                            total.1.push(seed);
                            if first {
                                next.store(to, Ordering::Relaxed);
                            }
                        }
                    }
                }
            });
        }
    });
    let (summary, failed) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} seeds ({from}..{to}, config version {VERSION}), {} events, {} failures: {failed:?}, in {:.0} s",
        to - from,
        summary.events,
        failed.len(),
        started.elapsed().as_secs_f64()
    );
    println!("{summary:?}");
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// One line: seed, events, config version, what rule it broke.
fn remember(failure: &Failure) -> io::Result<()> {
    let (seed, events) = (failure.config.seed, failure.events);
    let rule = failure.rule.lines().next().unwrap_or_default();
    let known = format!("{seed} {events} {VERSION} ");
    if fs::read_to_string(CORPUS)?
        .lines()
        .any(|line| line.starts_with(&known))
    {
        return Ok(());
    }
    let mut corpus = OpenOptions::new().append(true).open(CORPUS)?;
    corpus.write_all(format!("{known}{rule}\n").as_bytes())
}
