//! What became of each address while a command goes from one to the other: the message of a command
//! that fails names them all, not only the last.

use std::collections::BTreeMap;

use super::args::Server;
use super::exit::Failure;
use super::who::Misplaced;

/// By position in the list.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    last: BTreeMap<usize, String>,
    misplaced: BTreeMap<usize, Misplaced>,
}

impl Troubles {
    /// It failed this time.
    pub(super) fn failed(&mut self, at: usize, server: &Server, why: &str) {
        self.last.insert(at, format!("{server}: {why}"));
    }

    /// It is of no use, however often it is asked.
    pub(super) fn misplaced(&mut self, at: usize, misplaced: Misplaced) {
        self.misplaced.insert(at, misplaced);
    }

    pub(super) fn is_misplaced(&self, at: usize) -> bool {
        self.misplaced.contains_key(&at)
    }

    /// All of `count` addresses are of no use: the command is wrong, and `option` is what to correct.
    pub(super) fn all_misplaced(&self, count: usize, option: &str) -> Option<Failure> {
        let all = self.misplaced.len() == count;
        all.then(|| Failure::Refused(format!("{self}: correct {option}")))
    }
}

impl std::fmt::Display for Troubles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let misplaced = self.misplaced.values().map(Misplaced::to_string);
        let failed = self.last.iter();
        let failed = failed.filter(|(at, _)| !self.misplaced.contains_key(at));
        let all: Vec<String> = misplaced
            .chain(failed.map(|(_, why)| why.clone()))
            .collect();
        match all.is_empty() {
            true => f.write_str("the time was over before any server was asked"),
            false => f.write_str(&all.join("; ")),
        }
    }
}
