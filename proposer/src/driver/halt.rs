//! Why a learner or a store has stopped applying for good. It says so in `/status`, `/ready`, its log
//! and `paxos_halted`; a restart looks at everything anew.

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that this version cannot decode.
    Undecodable,
    /// Other learners have applied something else.
    Disagrees,
    /// Acceptors, or every learner that a store could follow, have something else.
    Contradicted,
}

impl Kind {
    /// In a word, for `/status`.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Undecodable => "undecodable",
            Kind::Disagrees => "disagrees",
            Kind::Contradicted => "contradicted",
        }
    }

    /// The kind of that name; `None`: there is none in this version.
    pub fn named(name: &str) -> Option<Kind> {
        let all = [Kind::Undecodable, Kind::Disagrees, Kind::Contradicted];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// The reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// Its kind.
    pub kind: Kind,
    /// What happened and what to do.
    pub why: String,
}

impl Halt {
    /// A value cannot be decoded, or gives another outcome than elsewhere.
    pub(crate) fn undecodable(why: String) -> Halt {
        Halt {
            kind: Kind::Undecodable,
            why,
        }
    }

    /// See [`Kind::Contradicted`].
    pub(crate) fn contradicted(how: &str) -> Halt {
        Halt {
            kind: Kind::Contradicted,
            why: format!("what it has applied is contradicted: {how}"),
        }
    }
}
