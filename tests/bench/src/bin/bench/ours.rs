//! This project's cluster, as [`Cluster`] runs it.

use std::net::SocketAddr;

use api::env::Role;
use testkit::cluster::{Cluster, Name, http};

pub(crate) fn pids(cluster: &Cluster) -> Vec<u32> {
    let names = cluster.names().into_iter();
    names.map(|name| pid(cluster, name)).collect()
}

pub(crate) fn pids_of(cluster: &Cluster, role: Role) -> Vec<u32> {
    let names = cluster.of_role(role).into_iter();
    names.map(|name| pid(cluster, name)).collect()
}

pub(crate) fn pid(cluster: &Cluster, name: Name) -> u32 {
    cluster.node(name).pid().as_raw_nonzero().get() as u32
}

pub(crate) fn addresses(cluster: &Cluster, role: Role) -> Vec<SocketAddr> {
    let addresses = cluster.of_role(role).into_iter();
    addresses.map(|name| address(cluster, name)).collect()
}

pub(crate) fn address(cluster: &Cluster, name: Name) -> SocketAddr {
    let url = cluster.node(name).url();
    let address = url.trim_start_matches("http://").parse();
    address.expect("nodes on loopback")
}

/// Syncs of acceptors' logs, by their own count.
pub(crate) fn syncs(cluster: &Cluster) -> f64 {
    let count = |name: Name| {
        let url = format!("{}/metrics", cluster.node(name).url());
        let text = http::get(&url).expect("it answers").text();
        super::metric(&text, "paxos_wal_fsync_duration_seconds_count")
    };
    cluster.of_role(Role::Acceptor).into_iter().map(count).sum()
}
