//! How many nodes each role has for now, and how many the lists name; [`mod@crate::scale`] decides it.

use std::collections::BTreeMap;

use api::env::Role;

use crate::cluster::Cluster;

/// The numbers for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub(crate) replicas: BTreeMap<Role, u8>,
    pub(crate) listed: BTreeMap<Role, u8>,
    /// Why there are more learners than there should be; `None` when there are not.
    pub held: Option<String>,
    /// How many acceptors must not vote with the disks they have.
    pub voteless: u8,
    /// Whether clients are to reach proposers that are not ready, since none is and some answer.
    pub answers_unready: bool,
}

impl Plan {
    /// For a cluster of which nothing exists yet.
    pub fn new(cluster: &Cluster) -> Plan {
        let count = |role| cluster.group(role).map_or(0, |group| group.replicas);
        let counts = Role::ALL.map(|role| (role, count(role)));
        Plan {
            replicas: counts.into(),
            listed: counts.into(),
            ..Plan::default()
        }
    }

    /// How many pods a role is to have.
    pub fn replicas(&self, role: Role) -> u8 {
        self.replicas.get(&role).copied().unwrap_or(0)
    }

    /// How many nodes of a role the lists name.
    pub fn listed(&self, role: Role) -> u8 {
        self.listed.get(&role).copied().unwrap_or(0)
    }
}
