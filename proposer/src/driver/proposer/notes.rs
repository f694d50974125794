//! The words for what the role has to say, and the metrics of what it measures.

use paxos::ids::NodeId;
use paxos::proposer::Behind;
use roles::proposer::Note;
use tracing::{error, info, warn};

use super::Run;

impl Run {
    pub(super) fn say(&self, note: &Note) {
        let metrics = &self.metrics;
        match note {
            Note::Batch(values) => metrics.batch_size.observe(*values as f64),
            Note::Chosen(took) => metrics.choose_duration.observe(took.as_secs_f64()),
            Note::LeaderElected { ballot, leading } => {
                metrics.contradicted.set(0);
                metrics.leader_changes.inc();
                info!(
                    leader = ballot.node().map(NodeId::number),
                    term = ballot.counter(),
                    leading,
                    "leader elected"
                );
            }
            Note::LeaderLost => info!(phase = self.role.core().phase(), "leader lost"),
            Note::StrangeHeartbeat(ballot) => warn!(
                leader = ballot.node().map(NodeId::number),
                term = ballot.counter(),
                "a heartbeat is ignored: no leader of this cluster can have such a term"
            ),
            Note::SteppingDown(behind) => {
                metrics.step_downs.inc();
                warn!(
                    node = %behind.node,
                    applied = behind.applied.0,
                    given_out = behind.known.0,
                    "a node has applied more than this leader has given out: stepping down"
                );
            }
            Note::Contradicted(behind) => {
                metrics.contradicted.set(1);
                error!(
                    node = %behind.node,
                    applied = behind.applied.0,
                    known = behind.known.0,
                    "{}", explain(behind)
                );
            }
            Note::AskedToSucceed => info!("the leader asks this proposer to succeed it"),
            Note::HandsOver(successor) => {
                info!(successor = %proposer(*successor), "handing leadership over");
            }
            Note::Declined(successor, why) => warn!(
                successor = %proposer(*successor), error = %why,
                "successor declined to take over"
            ),
            Note::ReplacedBy(successor) => warn!(
                successor = %proposer(*successor),
                "no learner answers this leader: a proposer that reaches one takes over"
            ),
            Note::ReachesNobody => {
                let learners = self.learners.iter().map(|link| link.node.to_string());
                let learners: Vec<String> = learners.collect();
                warn!(
                    learners = learners.join(", "),
                    "no learner answers this leader, nor any proposer that could succeed it: \
                     writes are chosen, but their outcomes are unknown until a learner is back"
                );
            }
            Note::LearnerLags {
                learner,
                behind,
                silent,
            } => warn!(
                learner = %format_args!("learner-{learner}"), behind, silent,
                "a learner lags"
            ),
            Note::LearnerLevel(learner) => info!(
                learner = %format_args!("learner-{learner}"),
                "a learner is level again"
            ),
            Note::SlowAcceptor(acceptor, takes) => {
                let millis = takes.as_millis() as u64;
                warn!(
                    acceptor = %format_args!("acceptor-{acceptor}"), millis,
                    "acceptor-{acceptor} takes {millis} ms over a batch: its disk is slow (see \
                     disk_sync_ms in its /status), or the way to it is. Writes wait for the fastest \
                     acceptors that make a quorum"
                );
            }
            Note::NoRoom(why) => error!("no room for writes: {why}"),
            Note::RoomAgain => info!("the acceptors have room for writes again"),
        }
    }
}

fn proposer(id: NodeId) -> String {
    format!("proposer-{id}")
}

/// What it means that a node is ahead, and what to do.
pub(crate) fn explain(behind: &Behind) -> String {
    let Behind {
        node,
        applied,
        known,
        ..
    } = behind;
    format!(
        "{node} has applied instance {applied}, and a quorum of acceptors knows of none after {known}: \
         acceptors have lost votes, as disks do that were set back in time. No proposer leads, so that \
         nothing is given out twice. Give the acceptors their newest disks back; if {node} is wrong, \
         give it an empty volume"
    )
}
