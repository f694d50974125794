//! Seeds of the simulator, those that once failed, and the bugs they found by name.

use std::panic;

use testkit::sim::{Summary, try_seed};

/// Events in the first phase of each seed here; the long programme uses more.
const EVENTS: u64 = 5_000;

#[test]
fn many_seeds_keep_every_rule_and_recover() {
    let seeds = match std::env::var("SEEDS") {
        Ok(text) => text.parse().expect("SEEDS is a number"),
        Err(_) => 2_000,
    };
    let total = run_all(0..seeds);
    println!("{seeds} seeds: {total:?}");
    assert!(
        total.chosen > 50 * seeds,
        "a world in which nothing happens tests nothing: {total:?}"
    );
    assert!(
        total.reads > 10 * seeds && total.crashes > 10 * seeds,
        "{total:?}"
    );
    let faults = [
        total.damaged,
        total.half_written,
        total.trims,
        total.installed,
        total.refused,
        total.lost_disks,
        total.unmasked,
        total.told,
        total.untold,
        total.withheld,
        total.forwarded,
        total.without_effect,
        total.handed_over,
        total.succeeded,
        total.busy,
        total.refused_lists,
        total.unread,
        total.from_stores,
    ];
    assert!(
        faults.iter().all(|count| *count > seeds / 100),
        "every kind of fault strikes: {total:?}"
    );
}

#[test]
fn the_same_seed_is_the_same_run() {
    assert_eq!(try_seed(42, EVENTS).unwrap(), try_seed(42, EVENTS).unwrap());
}

/// `tests/testkit/sim-seeds.txt`: every seed that ever failed, one a line: seed, events, what it was.
#[test]
fn seeds_that_once_failed_pass() {
    for line in include_str!("testkit/sim-seeds.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let mut words = line.split_whitespace();
        let mut number = || {
            words
                .next()
                .and_then(|word| word.parse().ok())
                .expect("two numbers")
        };
        let (seed, events) = (number(), number());
        if let Err(failure) = try_seed(seed, events) {
            panic!("{failure}");
        }
    }
}

fn run_all(seeds: impl Iterator<Item = u64>) -> Summary {
    let mut total = Summary::default();
    for seed in seeds {
        match try_seed(seed, EVENTS) {
            Ok(summary) => total += summary,
            Err(failure) => panic!("{failure}"),
        }
    }
    total
}
