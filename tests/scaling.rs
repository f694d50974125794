//! Real processes that join and leave while the others run: all of them read the lists of addresses
//! from files, as from a mounted ConfigMap.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use api::env::Role;
use serde_json::json;
use testkit::cluster::client::Client;
use testkit::cluster::workload::{Load, Seen, Workload};
use testkit::cluster::{Audit, Cluster, Name, READY_WITHIN, http};

const LOAD: Load = Load {
    reads: 300,
    keys: 20,
    pause_ms: 10,
    ..Load::of_writes(6)
};
/// How long one resource's history may be looked at.
const CHECK_BUDGET: Duration = Duration::from_secs(10);

/// A cluster whose nodes read their lists from one folder.
fn start(proposers: u8, acceptors: u8, learners: u8) -> Cluster {
    let mut cluster = Cluster::prepare(proposers, acceptors, learners);
    fs::create_dir(folder(&cluster)).unwrap();
    for role in Role::ALL {
        list(&cluster, role, &cluster.hosts(role));
    }
    for name in cluster.names() {
        follow_lists(&mut cluster, name);
    }
    cluster.start_all();
    cluster
}

fn folder(cluster: &Cluster) -> PathBuf {
    cluster.folder.path().join("members")
}

fn follow_lists(cluster: &mut Cluster, name: Name) {
    let folder = folder(cluster);
    cluster.node_mut(name).config.members_dir = Some(folder);
}

/// Replaces a list at once, as the kubelet does.
fn list(cluster: &Cluster, role: Role, hosts: &[String]) {
    let file = folder(cluster).join(role.list_variable());
    let new = file.with_extension("new");
    fs::write(&new, hosts.join(",")).unwrap();
    fs::rename(new, file).unwrap();
}

/// Adds nodes as the operator does: listed first, then started.
fn grow(cluster: &mut Cluster, role: Role, count: usize) -> Vec<Name> {
    let new: Vec<Name> = (0..count).map(|_| cluster.add(role)).collect();
    list(cluster, role, &cluster.hosts(role));
    for name in &new {
        follow_lists(cluster, *name);
        cluster.node_mut(*name).start();
    }
    new
}

fn writes_go_on(cluster: &Cluster, load: &Workload) {
    load.next_round();
    let before = load.committed();
    cluster.wait_for("writes continue", READY_WITHIN, || {
        (load.committed() >= before + 50).then_some(())
    });
}

/// Waits for a leader among these.
fn leads(cluster: &Cluster, among: &[Name]) -> Name {
    cluster.wait_for("one of them leads", READY_WITHIN, || {
        cluster.leader().filter(|leader| among.contains(leader))
    })
}

/// Nothing that a client received is contradicted by what is chosen, or by what another one saw.
fn assert_sound(cluster: &Cluster, loads: Vec<Seen>) {
    cluster.wait_until_learners_agree(1);
    let mut audit = Audit::default();
    audit.look(cluster);
    for seen in loads {
        for told in &seen.acknowledged {
            audit.acknowledged(&told.client, &told.request, &told.key, told.outcome);
        }
        assert_eq!(seen.unexpected, [""; 0]);
        assert_eq!(seen.unknown(), 0, "{:?}", seen.answers);
        let report = seen.history.check(CHECK_BUDGET);
        assert!(report.illegal.is_empty(), "{report}: {:?}", report.illegal);
        assert!(report.undecided.is_empty(), "{report}");
    }
    assert_eq!(audit.violations, [""; 0]);
    assert!(audit.votes_compared > 0, "the acceptors' votes were read");
}

#[test]
fn proposers_learners_and_stores_join_a_running_cluster() {
    let mut cluster = start(3, 3, 2);
    let starts = |cluster: &Cluster| -> Vec<u64> {
        let names = cluster.names().into_iter();
        names
            .map(|name| cluster.node(name).number("starts").unwrap())
            .collect()
    };
    let load = Workload::start(&cluster, LOAD);
    writes_go_on(&cluster, &load);
    let old = cluster.of_role(Role::Proposer);

    let new = grow(&mut cluster, Role::Proposer, 2);
    let learner = grow(&mut cluster, Role::Learner, 1)[0];
    let stores = grow(&mut cluster, Role::Store, 2);
    cluster.wait_until_ready();
    assert_eq!(
        starts(&cluster),
        vec![1; 3 + 3 + 2 + 5],
        "none was started again"
    );
    for name in &new {
        let mut client = Client::new(format!("to {name:?}"), vec![cluster.node(*name).url()]);
        client.write("here", json!(name.1));
    }
    let read = http::get(&format!("{}/resource/here", cluster.node(learner).url())).unwrap();
    assert_eq!((read.status, &read.json()["data"]), (200, &json!(new[1].1)));
    for learner in cluster.of_role(Role::Learner) {
        cluster.wait_for("learners see the stores", READY_WITHIN, || {
            let seen = cluster.node(learner).status()?["stores"].as_array()?.len();
            (seen == stores.len()).then_some(())
        });
    }
    let seen = load.stop();
    assert_eq!(seen.answers.keys().copied().collect::<Vec<_>>(), [200]);

    // The old ones die, and the new ones lead, take requests, and name each other.
    let load = Workload::start(&cluster, Load { seed: 2, ..LOAD });
    cluster.kill(&old);
    leads(&cluster, &new);
    writes_go_on(&cluster, &load);
    cluster.restart(&old);
    cluster.wait_until_ready();
    assert_sound(&cluster, vec![seen, load.stop()]);
}

#[test]
fn nodes_leave_a_running_cluster_the_leader_among_them() {
    let mut cluster = start(5, 3, 3);
    let names = cluster.of_role(Role::Proposer);
    let (stay, leave) = names.split_at(3);
    cluster.kill(stay);
    leads(&cluster, leave);
    cluster.restart(stay);
    cluster.wait_until_ready();
    let load = Workload::start(&cluster, LOAD);
    writes_go_on(&cluster, &load);

    // No longer listed: it hands over although nobody ends it.
    list(
        &cluster,
        Role::Proposer,
        &cluster.hosts(Role::Proposer)[..3],
    );
    leads(&cluster, stay);
    writes_go_on(&cluster, &load);
    let leaver = cluster.node(leave[0]);
    cluster.wait_for("it says that it is not one of them", READY_WITHIN, || {
        (!leaver.is_ready()).then_some(())
    });
    for _ in leave {
        cluster.remove_last(Role::Proposer);
    }
    writes_go_on(&cluster, &load);

    // One that comes again has its old disk.
    let again = grow(&mut cluster, Role::Proposer, 1)[0];
    cluster.wait_until_ready();
    assert!(cluster.node(again).number("starts") > Some(1));
    let mut client = Client::new("again", vec![cluster.node(again).url()]);
    client.write("here", json!(1));
    cluster.kill(stay);
    leads(&cluster, &[again]);
    cluster.restart(stay);
    cluster.wait_until_ready();
    let seen = load.stop();

    // As the operator does: the leader ends first, and then the list is shortened.
    let load = Workload::start(&cluster, Load { seed: 2, ..LOAD });
    writes_go_on(&cluster, &load);
    cluster.remove_last(Role::Proposer);
    leads(&cluster, stay);
    list(&cluster, Role::Proposer, &cluster.hosts(Role::Proposer));
    let later = load.stop();

    let load = Workload::start(
        &cluster,
        Load {
            seed: 3,
            reads: 0,
            ..LOAD
        },
    );
    for _ in 0..2 {
        cluster.remove_last(Role::Learner);
        writes_go_on(&cluster, &load);
    }
    list(&cluster, Role::Learner, &cluster.hosts(Role::Learner));
    writes_go_on(&cluster, &load);
    assert_sound(&cluster, vec![seen, later, load.stop()]);
}

#[test]
fn a_bad_list_ends_nothing_and_the_number_of_acceptors_stays() {
    let cluster = start(3, 3, 2);
    let load = Workload::start(&cluster, LOAD);
    let good = Role::ALL.map(|role| (role, cluster.hosts(role)));
    for (role, hosts) in &good[..3] {
        list(&cluster, *role, &[hosts[0].clone(), "nonsense".to_owned()]);
    }
    // One more, and as another one: either is refused by the whole cluster.
    let mut more = cluster.hosts(Role::Acceptor);
    more.push("127.0.0.1:1".to_owned());
    for acceptors in [&more[..], &more[..1]] {
        list(&cluster, Role::Acceptor, acceptors);
        let count = acceptors.len();
        let said = format!("it names {count} acceptors, and the cluster has 3");
        for name in cluster.names() {
            cluster.wait_for("it refuses the list", READY_WITHIN, || {
                cluster.node(name).output().contains(&said).then_some(())
            });
        }
        writes_go_on(&cluster, &load);
    }
    for (role, hosts) in &good {
        list(&cluster, *role, hosts);
    }
    thread::sleep(Duration::from_millis(1500));
    writes_go_on(&cluster, &load);
    assert_sound(&cluster, vec![load.stop()]);
}
