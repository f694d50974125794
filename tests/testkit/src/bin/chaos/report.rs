//! What a run came to, and what many did.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;

use testkit::cluster::workload::{Count, Counts, Kind, Seen};
use testkit::cluster::{Audit, Name};
use testkit::history;

use crate::plan::{Class, Fault};

/// Contradictions shown.
const SHOWN: usize = 10;

/// What a class of faults came to.
#[derive(Default)]
struct Tally {
    cycles: u64,
    victims: usize,
    slowest: Duration,
    /// The longest time without a commit while it lasted and until all were back.
    gap: Duration,
}

/// When a cycle was, in the clients' nanoseconds, and what happened in it.
struct Window {
    classes: Vec<Class>,
    from: u64,
    to: u64,
}

/// The faults of a run.
#[derive(Default)]
pub(crate) struct Tallies {
    by_class: BTreeMap<Class, Tally>,
    windows: Vec<Window>,
}

impl Tallies {
    /// One more cycle.
    pub(crate) fn add(&mut self, faults: &[Fault<Name>], back: Duration, from: u64, to: u64) {
        for fault in faults {
            let tally = self.by_class.entry(fault.class).or_default();
            tally.cycles += 1;
            tally.victims += fault.victims.len() + fault.pairs.len();
            tally.slowest = tally.slowest.max(back);
        }
        let classes = faults.iter().map(|fault| fault.class).collect();
        self.windows.push(Window { classes, from, to });
    }

    /// The longest time without a commit in the cycles of each class.
    pub(crate) fn find_gaps(&mut self, commits: &[u64]) {
        for Window { classes, from, to } in &self.windows {
            let first = commits.partition_point(|at| at < from);
            let during = commits[first..].iter().copied().take_while(|at| at < to);
            let times: Vec<u64> = [*from].into_iter().chain(during).chain([*to]).collect();
            let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
            let gap = Duration::from_nanos(longest.unwrap_or(0));
            for class in classes {
                let tally = self.by_class.entry(*class).or_default();
                tally.gap = tally.gap.max(gap);
            }
        }
    }
}

/// What a run came to.
pub(crate) struct Report {
    pub(crate) seed: u64,
    /// Reads were local, so that some of them must be found to be stale.
    pub(crate) local: bool,
    pub(crate) ended_on_full_disk: u64,
    pub(crate) check: history::Report,
    pub(crate) seen: Seen,
    pub(crate) audit: Audit,
    pub(crate) tallies: Tallies,
}

impl Report {
    /// Whether everything was as it must be.
    pub(crate) fn is_good(&self) -> bool {
        self.violations().next().is_none() && self.check.undecided.is_empty()
    }

    fn violations(&self) -> impl Iterator<Item = &str> {
        let stale = self.check.illegal.iter().filter(|_| !self.local);
        let all = self.audit.violations.iter().chain(stale);
        let blind = self.local && self.check.illegal.is_empty();
        let blind = blind.then_some("local reads were never found to be stale");
        all.map(String::as_str).chain(blind)
    }

    /// The line that stands for it among many.
    fn summary(&self) -> String {
        let faults = self.tallies.by_class.iter();
        let faults: Vec<String> = faults
            .map(|(class, tally)| format!("{class} {}", tally.cycles))
            .collect();
        let linearizable = match self.check.illegal.is_empty() && self.check.undecided.is_empty() {
            true => "linearizable",
            false => "NOT LINEARIZABLE",
        };
        format!(
            "seed {}: {linearizable}, {} violations; {}; {}",
            self.seed,
            self.violations().count(),
            self.check,
            list(&faults, ", ")
        )
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (class, tally) in &self.tallies.by_class {
            writeln!(
                f,
                "{class:10} {:3} cycles, {:3} victims; all back within {:.1?}, at most {:.1?} \
                 without a commit",
                tally.cycles, tally.victims, tally.slowest, tally.gap
            )?;
        }
        let (seen, audit, check) = (&self.seen, &self.audit, &self.check);
        writeln!(
            f,
            "{} processes ended on a full disk",
            self.ended_on_full_disk
        )?;
        writeln!(f, "operations: {}", Counts(&seen.counts))?;
        writeln!(
            f,
            "answers by status, 0 for none: of proposers {:?}, {} refused; of learners and stores \
             {:?}",
            seen.answers, seen.refused, seen.reads
        )?;
        writeln!(
            f,
            "logs: {} instances, {} shown alike by a second learner, {} compared with the votes",
            audit.chosen.len(),
            audit.lines_compared,
            audit.votes_compared
        )?;
        writeln!(f, "linearizability: {check}")?;
        if let (true, Some(example)) = (self.local, check.illegal.first()) {
            writeln!(f, "as it must be with local reads, for example {example}")?;
        }
        for violation in self.violations().take(SHOWN) {
            writeln!(f, "VIOLATION {violation}")?;
        }
        write!(
            f,
            "{} violations, {} undecided",
            self.violations().count(),
            check.undecided.len()
        )
    }
}

/// Many runs: a line for each, and all operations together.
#[derive(Default)]
pub(crate) struct Soak {
    runs: Vec<String>,
    good: usize,
    counts: BTreeMap<Kind, Count>,
}

impl Soak {
    /// One more run.
    pub(crate) fn add(&mut self, report: &Report) {
        self.runs.push(report.summary());
        self.good += usize::from(report.is_good());
        for (kind, count) in &report.seen.counts {
            self.counts.entry(*kind).or_default().merge(*count);
        }
    }

    /// Whether all were good.
    pub(crate) fn is_good(&self) -> bool {
        self.good == self.runs.len()
    }
}

impl Display for Soak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in &self.runs {
            writeln!(f, "{run}")?;
        }
        writeln!(f, "operations: {}", Counts(&self.counts))?;
        write!(
            f,
            "{} of {} runs without a violation",
            self.good,
            self.runs.len()
        )
    }
}

pub(crate) fn list(items: &[impl Display], separator: &str) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(separator)
}
