//! `model` tries every order of events of every small cluster and stops at the first broken rule;
//! `model quick` of those that take seconds; `model NAME…` of some. Clusters that are too large are
//! tried for six minutes each.

use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, thread};

use stateright::{Checker, Expectation, HasDiscoveries, Model};
use testkit::model::CONFIGURATIONS;

const LIMIT: Duration = Duration::from_secs(6 * 60);

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
        let checker = configuration.small.checker().threads(threads);
        let checker = match configuration.states {
            Some(_) => checker,
            None => checker.timeout(LIMIT),
        };
        let checker = checker
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_dfs()
            .join();
        let took = started.elapsed();
        let exhausted = configuration.states.is_some() || took < LIMIT;
        let found = checker.unique_state_count();
        println!(
            "{name:<20} {:>9} {found:>11} {:>6} {:>8.1}  {}",
            checker.state_count(),
            checker.max_depth(),
            took.as_secs_f64(),
            if exhausted { "yes" } else { "no" },
        );
        // Both panic with the events that lead to a broken rule.
        if exhausted {
            checker.assert_properties();
        }
        for property in configuration.small.properties() {
            if matches!(property.expectation, Expectation::Always) {
                checker.assert_no_discovery(property.name);
            }
        }
        states += checker.state_count();
        unique += found;
        if let Some(pinned) = configuration.states.filter(|pinned| *pinned != found) {
            println!("{name} had {pinned} unique states: see what has changed");
            good = false;
        }
    }
    println!("{unique} unique states of {states} in all");
    match good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
