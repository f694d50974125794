//! What the learner's loop wants people to know, in words and metrics.

use api::status::Halt;
use paxos::codec::NodeName;
use paxos::ids::Slot;
use paxos::verify::Verdict;
use roles::learner::{Lost, Notice};
use tracing::{error, warn};

use super::Run;
use crate::driver::halt;

impl Run {
    pub(super) fn say(&self, notice: Notice) {
        match notice {
            Notice::Missing(slot) => error!(
                instance = slot.0,
                "an instance said to be chosen is known to no quorum of acceptors: some of them \
                 have lost their disks, or the sender is no leader"
            ),
            Notice::Disputed(slot) => error!(
                instance = slot.0,
                "two values were received for one instance: the acceptors' counts"
            ),
            Notice::Unread(slot) => error!(
                instance = slot.0,
                "a value was received that cannot be read: the acceptors' counts"
            ),
            Notice::ToldAnother { from, slot } => warn!(
                from = %from,
                instance = slot.0,
                "it says that another value was chosen than the one applied here: asking the acceptors"
            ),
            Notice::Behind(floor) => warn!(
                floor = floor.0,
                applied = self.role.applied().0,
                "too far behind for the acceptors, asking the other learners and the stores"
            ),
            Notice::NotFrom {
                node,
                lacks: true,
                why,
            } => warn!(
                %node,
                why,
                "it does not have what is missing here, asking the next one"
            ),
            Notice::NotFrom { node, why, .. } => {
                warn!(%node, why, "cannot catch up from it, asking the next one");
            }
            Notice::NoRoomFor { node, bytes } => error!(
                %node,
                "cannot catch up: this node's volume has no room for the snapshot of {node}, \
                 {bytes} bytes: enlarge it, or see what else fills it"
            ),
        }
    }

    pub(super) fn say_verdict(&self, verdict: Verdict, slot: Slot, told_by: Option<NodeName>) {
        let checks = &self.metrics.vote_checks;
        checks.with_label_values(&[verdict.name()]).inc();
        let acceptors = match verdict {
            Verdict::Same => "have what was applied here",
            Verdict::Forgotten => "have forgotten the instance, as enough learners have it",
            // It halts, and says why.
            Verdict::Other(_) | Verdict::NoVote => return,
        };
        if let Some(sender) = told_by {
            self.metrics.learns_refused.inc();
            error!(
                from = %sender,
                instance = slot.0,
                "a message about another value is refused: the acceptors {acceptors}. Its \
                 sender is no leader of this cluster"
            );
        }
    }

    pub(super) fn say_lost(&self, lost: Option<Lost>) {
        if let Some(lost) = &lost
            && self.handle.lost().as_ref() != Some(lost)
        {
            error!("cannot catch up: {lost}");
        }
        self.handle.note_lost(lost);
    }

    pub(super) fn say_halted(&self, halted: roles::learner::Halt) {
        use roles::learner::Halt as Why;
        let halt = match halted {
            Why::Undecodable { slot, why } => halt::undecodable(format!("instance {slot}: {why}")),
            Why::Contradicted { slot, has_other } => {
                self.metrics.contradicted.set(1);
                halt::contradicted(&match has_other {
                    true => has_another(slot),
                    false => has_no_vote(slot),
                })
            }
            // Who compared says with whom.
            Why::Outvoted => return,
        };
        self.show_halt(halt);
    }

    /// Shows why it has stopped. The first reason stays.
    pub(super) fn show_halt(&self, halt: Halt) {
        let (why, kind) = (&halt.why, halt.reason.name());
        error!(why, kind, "the learner stops applying");
        self.metrics.halted.set(1);
        self.handle.note_halt(halt);
    }
}

fn has_another(slot: Slot) -> String {
    format!(
        "a quorum of acceptors has another value in instance {slot}. Either the acceptors' \
         disks were set back in time, or this learner received what was never chosen. \
         Compare the learners' /instance/{slot} before any disk is replaced (runbook \
         PaxosContradiction)"
    )
}

fn has_no_vote(slot: Slot) -> String {
    format!(
        "a quorum of acceptors has no vote in instance {slot}, which is applied here. \
         Either the acceptors' disks were set back in time: give them their newest ones; or \
         this learner received what was never chosen (runbook PaxosContradiction)"
    )
}
