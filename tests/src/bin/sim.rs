//! `sim --seed N [--events N]` replays one seed and prints every event;
//! `sim --seeds FROM..TO [--events N]` runs many, on every core, and counts; with `--first` it stops at
//! the first that fails.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, panic, thread};

use tests::sim::{Config, Summary, VERSION, run, try_seed};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let events = value("--events")
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_000);
    if let Some(seed) = value("--seed").and_then(|text| text.parse().ok()) {
        let config = Config::of(seed);
        eprintln!("{config:#?}");
        println!("{:?}", run(&config, events, true));
        return ExitCode::SUCCESS;
    }
    let range = value("--seeds").and_then(|text| text.split_once(".."));
    match range.map(|(from, to)| (from.parse(), to.parse())) {
        Some((Ok(from), Ok(to))) => {
            let first = arguments.iter().any(|argument| argument == "--first");
            many(from, to, events, first)
        }
        _ => {
            eprintln!("usage: sim --seed N | --seeds FROM..TO [--first] [--events N]");
            ExitCode::from(2)
        }
    }
}

fn many(from: u64, to: u64, events: u64, first: bool) -> ExitCode {
    panic::set_hook(Box::new(|_| {}));
    let next = AtomicU64::new(from);
    let total = Mutex::new((Summary::default(), Vec::new()));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let result = try_seed(seed, events);
                    let mut total = total
                        .lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner());
                    match result {
                        Ok(summary) => total.0 += summary,
                        Err(failure) => {
                            println!("{failure}");
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
    let (summary, failed) = total
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    println!("seeds {from}..{to} (config version {VERSION}): {summary:?}, failed: {failed:?}");
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
