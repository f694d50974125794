//! Who answers at the addresses that a node is given, and what it says of that: addresses in the wrong
//! order, acceptors that cannot vote, a cluster founded again beside the old one's nodes.

use std::fs;
use std::time::Duration;

use api::env::Role;
use serde_json::json;
use testkit::cluster::client::Client;
use testkit::cluster::{Cluster, Name, http};

/// Long enough for anything that works at all.
const PATIENCE: Duration = Duration::from_secs(30);

fn write(cluster: &Cluster, resource: &str) -> u64 {
    let mut client = Client::new(resource, cluster.urls(Role::Proposer));
    client.write(resource, json!({"of": resource})).0
}

/// What `/ready` says, whatever its status: the reason, or the warnings.
fn ready(cluster: &Cluster, name: Name) -> Option<(u16, String)> {
    let answer = http::get(&format!("{}/ready", cluster.node(name).url())).ok()?;
    Some((answer.status, answer.json().to_string()))
}

fn says(cluster: &Cluster, name: Name, words: &[&str]) {
    let what = format!("{name:?} says {words:?}");
    cluster.wait_for(&what, PATIENCE, || {
        let (_, text) = ready(cluster, name)?;
        words.iter().all(|word| text.contains(word)).then_some(())
    });
}

/// Exchanges two addresses of a role's list, at some nodes.
fn swap(cluster: &mut Cluster, at: &[Name], of: Role, (one, other): (usize, usize)) {
    for name in at {
        let config = &mut cluster.node_mut(*name).config;
        let list = match of {
            Role::Proposer => &mut config.proposers,
            Role::Acceptor => &mut config.acceptors,
            Role::Learner => &mut config.learners,
            Role::Store => &mut config.stores,
        };
        list.swap(one, other);
    }
}

#[test]
fn addresses_in_the_wrong_order_are_named_by_who_has_them() {
    let mut cluster = Cluster::start(2, 3, 2);
    write(&cluster, "before");
    let all = cluster.names();
    // Everywhere, and at one node alone.
    let one = [(Role::Proposer, 2)];
    for (at, of, places) in [
        (&all[..], Role::Acceptor, (1, 2)),
        (&all[..], Role::Learner, (0, 1)),
        (&all[..], Role::Proposer, (0, 1)),
        (&one[..], Role::Acceptor, (0, 2)),
    ] {
        cluster.kill(at);
        swap(&mut cluster, at, of, places);
        cluster.restart(at);
        let (listed, found) = (places.0 + 1, places.1 + 1);
        // Of two that are exchanged, a node may be one itself: it looks for the other.
        let name = (Role::Proposer, 2);
        let (listed, found) = match of {
            Role::Proposer => (1, 2),
            _ => (listed, found),
        };
        let listed = format!("is listed as {of}-{listed}, and another node answers there, ");
        says(
            &cluster,
            name,
            &[&format!("{listed}{of}-{found}"), of.list_variable()],
        );
        cluster.wait_for("status and log say it, too", PATIENCE, || {
            let status = cluster.node(name).status()?;
            let output = cluster.node(name).output();
            let is_said = status["warnings"].to_string().contains(&listed)
                && output.contains("\"WARN\"")
                && output.contains(&listed);
            is_said.then_some(())
        });
        cluster.kill(at);
        swap(&mut cluster, at, of, places);
        cluster.restart(at);
        cluster.wait_until_ready();
    }
    let last = write(&cluster, "after");
    cluster.wait_until_learners_agree(last);
    let (status, text) = ready(&cluster, (Role::Proposer, 2)).unwrap();
    assert_eq!(
        (status, text.contains("another node")),
        (200, false),
        "{text}"
    );
}

#[test]
fn a_proposer_without_a_leader_says_what_each_acceptor_lacks() {
    let mut cluster = Cluster::start(2, 3, 1);
    write(&cluster, "before");
    let (down, wiped) = ((Role::Acceptor, 1), (Role::Acceptor, 3));
    cluster.kill(&[down, wiped]);
    fs::remove_dir_all(&cluster.node(wiped).config.data_dir).unwrap();
    cluster.restart(&[wiped]);
    let words = [
        "no leader is known: 1 of 3 acceptors vote, 2 are needed",
        "acceptor-1 at ",
        "cannot be reached",
        "acceptor-3 does not vote: the cluster has run with another disk",
    ];
    says(&cluster, (Role::Proposer, 1), &words);
    cluster.restart(&[down]);
    let writes = write(&cluster, "with the two");
    assert!(writes > 1);
}

#[test]
fn a_new_acceptor_says_which_others_it_waits_for() {
    let mut cluster = Cluster::prepare(1, 3, 1);
    cluster.restart(&[(Role::Acceptor, 2)]);
    let words = ["acceptor-1 at ", "acceptor-3 at ", "cannot be reached"];
    says(&cluster, (Role::Acceptor, 2), &words);
    cluster.restart(&[(Role::Acceptor, 3)]);
    cluster.wait_for("one is left", PATIENCE, || {
        let (status, text) = ready(&cluster, (Role::Acceptor, 2))?;
        let left = text.contains("acceptor-1 at ") && !text.contains("acceptor-3");
        (status == 503 && left).then_some(())
    });
    let rest = [(Role::Acceptor, 1), (Role::Proposer, 1), (Role::Learner, 1)];
    cluster.restart(&rest);
    cluster.wait_until_ready();
}

#[test]
fn a_cluster_founded_anew_says_that_the_others_are_not_of_it() {
    let mut cluster = Cluster::start(2, 3, 1);
    let written = write(&cluster, "before");
    let acceptors = cluster.of_role(Role::Acceptor);
    cluster.kill(&acceptors);
    for name in &acceptors {
        let folder = cluster.node(*name).config.data_dir.clone();
        fs::rename(&folder, folder.with_extension("kept")).unwrap();
    }
    cluster.restart(&acceptors);
    for name in &acceptors {
        let words = [
            "founded again",
            "proposer-1 of cluster",
            "Give each node the volume",
        ];
        says(&cluster, *name, &words);
        assert_eq!(ready(&cluster, *name).unwrap().0, 503);
    }
    let words = ["0 of 3 acceptors vote", "acceptor-2 at ", "is of cluster"];
    says(&cluster, (Role::Proposer, 1), &words);
    cluster.kill(&acceptors);
    for name in &acceptors {
        let folder = cluster.node(*name).config.data_dir.clone();
        fs::remove_dir_all(&folder).unwrap();
        fs::rename(folder.with_extension("kept"), &folder).unwrap();
    }
    cluster.restart(&acceptors);
    cluster.wait_until_ready();
    assert!(write(&cluster, "after") > written);
}
