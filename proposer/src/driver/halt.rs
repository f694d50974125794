//! Why a learner or a store has stopped applying for good, in words. It says so in `/status`, `/ready`,
//! its log and `paxos_halted`; a restart looks at everything again.

use api::status::{Halt, HaltReason};

/// A value cannot be decoded, or gives another outcome than elsewhere.
pub(crate) fn undecodable(why: String) -> Halt {
    Halt {
        reason: HaltReason::Undecodable,
        why,
    }
}

/// See [`HaltReason::Contradicted`].
pub(crate) fn contradicted(how: &str) -> Halt {
    Halt {
        reason: HaltReason::Contradicted,
        why: format!("what it has applied is contradicted: {how}"),
    }
}
