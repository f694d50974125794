//! The reasons that conditions give.

/// The reason of every condition of a spec that makes no sense.
pub const INVALID_SPEC: &str = "InvalidSpec";
/// The reason of every condition of a spec with another number of acceptors than the volumes were made
/// for.
pub const OTHER_COUNT: &str = "OtherAcceptorCount";
/// The reason when the API server refused an object.
pub const APPLY_FAILED: &str = "ApplyFailed";
/// The reason when an acceptor must not vote with the disk it has.
pub const DISK_REFUSED: &str = "DiskRefused";
/// The reason when a node finds another one, or one of another cluster, where it looks for its own.
pub const WRONG_ADDRESS: &str = "WrongAddress";
/// The reason when a learner has applied something else than the others.
pub const AGREEMENT_VIOLATED: &str = "AgreementViolated";
/// The reason when a node has applied what the acceptors do not have.
pub const CONTRADICTION: &str = "Contradiction";
/// The reason when no node has what a learner needs.
pub const DATA_LOST: &str = "DataLost";
/// The reason when acceptors take no new values, since their volumes are almost full.
pub const VOLUME_FULL: &str = "VolumeFull";
/// The reason when a learner or a store has stopped for good.
pub const NODE_HALTED: &str = "NodeHalted";
/// The reason while pods are started, replaced or stopped one after the other.
pub const ROLLING_OUT: &str = "RollingOut";
/// The reason when that does not advance.
pub const ROLL_STUCK: &str = "RollStuck";
/// Both.
pub(crate) const ROLL: [&str; 2] = [ROLLING_OUT, ROLL_STUCK];
/// The reason while an annotation says that nothing is to be done.
pub const PAUSED: &str = "Paused";
/// The reason while pods end since there are to be none.
pub const STOPPING: &str = "Stopping";
/// The reason when there are to be no pods.
pub const STOPPED: &str = "Stopped";
/// The reason until everything was ready once.
pub const STARTING: &str = "Starting";
/// The reason when that takes too long.
pub const NOT_STARTED: &str = "NotStarted";
