//! `model` tries every order of events of every small cluster and stops at the first broken rule;
//! `model quick` of those that take seconds; `model NAME` of one.

use std::process::ExitCode;
use std::time::Instant;
use std::{env, thread};

use stateright::{Checker, HasDiscoveries, Model};
use tests::model::CONFIGURATIONS;

fn main() -> ExitCode {
    let wanted = env::args().nth(1).unwrap_or_default();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (mut states, mut changed) = (0, false);
    for configuration in CONFIGURATIONS {
        let name = configuration.name;
        if !(wanted.is_empty() || wanted == name || (wanted == "quick" && configuration.quick)) {
            continue;
        }
        let started = Instant::now();
        let checker = configuration
            .small
            .checker()
            .threads(threads)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_dfs()
            .join();
        // Panics with the events that lead to a broken rule.
        checker.assert_properties();
        let found = checker.unique_state_count();
        println!("{name}: {found} states in {:.1?}", started.elapsed());
        states += found;
        if found != configuration.states {
            println!(
                "{name} had {} states: see what has changed",
                configuration.states
            );
            changed = true;
        }
    }
    println!("{states} states in all");
    if changed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
