//! `model` tries every order of events of every small cluster and stops at the first broken rule;
//! `model quick` of those that take seconds; `model NAME…` of some.

use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, thread};

use stateright::{Checker, HasDiscoveries, Model};
use tests::model::CONFIGURATIONS;

/// How long one configuration may take. Those that are tried here end well before.
const LIMIT: Duration = Duration::from_secs(20 * 60);

fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (mut states, mut unique, mut good) = (0, 0, true);
    println!("configuration           states      unique  depth  seconds  exhausted");
    for configuration in CONFIGURATIONS {
        let name = configuration.name;
        let is_named = |word: &String| word == name || (word == "quick" && configuration.quick);
        if !wanted.is_empty() && !wanted.iter().any(is_named) {
            continue;
        }
        let started = Instant::now();
        let checker = configuration
            .small
            .checker()
            .threads(threads)
            .timeout(LIMIT)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_dfs()
            .join();
        let took = started.elapsed();
        let exhausted = took < LIMIT;
        let found = checker.unique_state_count();
        println!(
            "{name:<20} {:>9} {found:>11} {:>6} {:>8.1}  {}",
            checker.state_count(),
            checker.max_depth(),
            took.as_secs_f64(),
            if exhausted { "yes" } else { "NO" },
        );
        // Panics with the events that lead to a broken rule.
        checker.assert_properties();
        states += checker.state_count();
        unique += found;
        good &= exhausted && found == configuration.states;
        if found != configuration.states {
            let pinned = configuration.states;
            println!("{name} had {pinned} unique states: see what has changed");
        }
    }
    println!("{unique} unique states of {states} in all");
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
