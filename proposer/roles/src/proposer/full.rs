//! Acceptors that had no room for votes, for the words in which a client hears of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use paxos::ids::NodeId;
use paxos::message::Reply;

/// By acceptor: bytes of its log, and bytes left.
#[derive(Default)]
pub(super) struct Full(BTreeMap<NodeId, (u64, u64)>);

impl Full {
    pub(super) fn note(&mut self, from: NodeId, reply: &Reply) {
        match reply {
            Reply::NoRoom { log, free, .. } | Reply::AcceptedTight { log, free, .. } => {
                self.0.insert(from, (*log, *free));
            }
            Reply::Accepted { .. } => {
                self.0.remove(&from);
            }
            _ => {}
        }
    }

    /// What is the case, and what to do: which acceptors are full, and which give no answer. Learners that
    /// lag hold up what acceptors could forget.
    pub(super) fn why<'a>(
        &self,
        silent: impl IntoIterator<Item = NodeId>,
        lagging: impl IntoIterator<Item = &'a NodeId>,
    ) -> Arc<str> {
        const MIB: u64 = 1 << 20;
        let full = self.0.iter().map(|(id, (log, free))| {
            let (log, free) = (log / MIB, free / MIB);
            format!("acceptor-{id} keeps {log} MiB of log and has {free} MiB left on its volume")
        });
        let silent = silent.into_iter();
        let silent = silent.map(|id| format!("acceptor-{id} does not vote: see whether it runs"));
        let full = full.chain(silent).collect::<Vec<_>>().join(", ");
        let away = lagging.into_iter().map(|id| format!("learner-{id}"));
        let away: Vec<String> = away.collect();
        let advice = match away.is_empty() {
            true => "enlarge the acceptors' volumes, or see what else fills them".to_owned(),
            false => format!(
                "{} away or behind, and the acceptors keep what it has not stored: bring it back, or \
                 enlarge the acceptors' volumes",
                away.join(" and ") + if away.len() == 1 { " is" } else { " are" }
            ),
        };
        format!("{full}; {advice}").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos::ids::{Ballot, Slot};

    fn id(number: u8) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn no_room() -> Reply {
        Reply::NoRoom {
            ballot: Ballot::from_number(257).unwrap(),
            first: Slot(1),
            log: 800 << 20,
            free: 150 << 20,
        }
    }

    #[test]
    fn the_reason_names_who_is_full_and_who_is_away() {
        let mut full = Full::default();
        full.note(id(2), &no_room());
        let why = full.why([], &[id(1)]);
        assert_eq!(
            &*why,
            "acceptor-2 keeps 800 MiB of log and has 150 MiB left on its volume; learner-1 is away \
             or behind, and the acceptors keep what it has not stored: bring it back, or enlarge the \
             acceptors' volumes"
        );
        assert!(full.why([], &[]).contains("see what else fills them"));
        let why = full.why([id(3)], &[]);
        assert!(
            why.contains("acceptor-3 does not vote: see whether it runs; "),
            "{why}"
        );
    }

    #[test]
    fn one_that_votes_again_is_not_named() {
        let mut full = Full::default();
        full.note(id(1), &no_room());
        full.note(id(2), &no_room());
        let accepted = Reply::Accepted {
            ballot: Ballot::from_number(257).unwrap(),
            first: Slot(1),
            count: 1,
        };
        full.note(id(1), &accepted);
        let why = full.why([], &[]);
        assert!(
            !why.contains("acceptor-1") && why.contains("acceptor-2"),
            "{why}"
        );
    }
}
