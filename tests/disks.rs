//! Real processes on the wrong disks: wiped, exchanged, set back, of another cluster. None of them
//! takes part, each says why, and what was acknowledged stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::env::Role;
use serde_json::json;
use testkit::cluster::client::Client;
use testkit::cluster::{Cluster, Name, http};
use testkit::files::copy;

/// Long enough for anything that works at all.
const PATIENCE: Duration = Duration::from_secs(30);

fn write(cluster: &Cluster, resource: &str) -> u64 {
    let mut client = Client::new(resource, cluster.urls(Role::Proposer));
    client.write(resource, json!({"of": resource})).0
}

fn folder(cluster: &Cluster, name: Name) -> &Path {
    &cluster.node(name).config.data_dir
}

fn wipe(cluster: &Cluster, name: Name) {
    fs::remove_dir_all(folder(cluster, name)).unwrap();
}

/// kill -9, and a start on a copy of another folder.
fn restart_on(cluster: &mut Cluster, name: Name, disk: &Path) {
    cluster.kill(&[name]);
    wipe(cluster, name);
    copy(disk, folder(cluster, name));
    cluster.restart(&[name]);
}

/// A copy of a node's folder, made before its last start.
fn older_copy(cluster: &mut Cluster, name: Name) -> PathBuf {
    let kept = cluster.folder.path().join("kept");
    cluster.kill(&[name]);
    copy(folder(cluster, name), &kept);
    cluster.restart(&[name]);
    cluster.wait_until_ready();
    kept
}

/// Waits until an acceptor refuses to vote, and looks for the reason wherever it must be reported.
fn refuses(cluster: &Cluster, name: Name, state: &str, why: &str) {
    let url = cluster.node(name).url();
    cluster.wait_for(&format!("{state} is noticed"), PATIENCE, || {
        let status = cluster.node(name).status()?;
        (status["state"] == state).then(|| {
            let told = status["refusal"].as_str().unwrap();
            assert!(told.contains(why), "{told}");
        })
    });
    let ready = http::get(&format!("{url}/ready")).unwrap();
    assert_eq!(ready.status, 503);
    assert!(ready.json()["detail"].as_str().unwrap().contains(why));
    let metrics = http::get(&format!("{url}/metrics")).unwrap();
    let metrics = String::from_utf8(metrics.body).unwrap();
    let label = format!("standing=\"{state}\"");
    let told = |line: &str| {
        line.starts_with("paxos_acceptor_voting{") && line.contains(&label) && line.ends_with(" 1")
    };
    assert!(metrics.lines().any(told), "{metrics}");
    let prepare = json!({"proposalNumber": 1 << 20 | 1, "instanceId": 1, "proposerId": 1});
    let body = prepare.to_string().into_bytes();
    let agent = http::agent(PATIENCE);
    let answer = http::post(&agent, &format!("{url}/prepare"), body).unwrap();
    assert_eq!(answer.status, 503);
}

/// Waits for the end of a process that must not run on its disk.
fn ends(cluster: &mut Cluster, name: Name, why: &str) {
    let status = cluster.node_mut(name).wait(PATIENCE);
    assert_eq!(status.code(), Some(1));
    let output = cluster.node(name).output();
    assert!(output.contains(why), "{output}");
}

#[test]
fn an_acceptor_whose_disk_was_wiped_never_votes_again() {
    let mut cluster = Cluster::start(3, 3, 2);
    write(&cluster, "before");
    let wiped = (Role::Acceptor, 2);
    cluster.kill(&[wiped]);
    wipe(&cluster, wiped);
    cluster.restart(&[wiped]);
    refuses(&cluster, wiped, "amnesia", "has run with another disk");
    write(&cluster, "with the two others");
    cluster.kill(&[wiped, (Role::Acceptor, 1)]);
    cluster.restart(&[wiped, (Role::Acceptor, 1)]);
    refuses(&cluster, wiped, "amnesia", "has run with another disk");
    let last = write(&cluster, "after another start");
    cluster.wait_until_learners_agree(last);
}

/// With a majority of disks gone, what was chosen may be gone: then nothing more is.
#[test]
fn a_cluster_that_lost_most_of_its_disks_stands_still() {
    let mut cluster = Cluster::start(3, 3, 2);
    let written = write(&cluster, "before");
    let lost = [(Role::Acceptor, 1), (Role::Acceptor, 2)];
    cluster.kill(&lost);
    lost.iter().for_each(|name| wipe(&cluster, *name));
    cluster.restart(&lost);
    for name in lost {
        refuses(&cluster, name, "amnesia", "has run with another disk");
    }
    let agent = http::agent(PATIENCE);
    let body =
        json!({"clientId": "a", "timestamp": 1, "operation": "WRITE", "resource": "r", "data": 1});
    let url = format!(
        "{}/propose?wait=true&timeoutMs=1500",
        cluster.urls(Role::Proposer)[0]
    );
    let answer = http::post(&agent, &url, body.to_string().into_bytes()).unwrap();
    assert!(matches!(answer.status, 503 | 504), "{}", answer.status);
    for learner in cluster.urls(Role::Learner) {
        let read = format!("{learner}/resource/before?consistency=local");
        let read = http::get(&read).unwrap();
        assert_eq!(read.json()["instanceId"], written);
    }
}

/// New acceptors under the old proposers and learners must not start the log again.
#[test]
fn when_all_acceptors_lost_their_disks_nothing_is_overwritten() {
    let mut cluster = Cluster::start(3, 3, 2);
    let written = write(&cluster, "before");
    cluster.wait_until_learners_agree(written);
    let all = cluster.names();
    cluster.kill(&all);
    for acceptor in cluster.of_role(Role::Acceptor) {
        wipe(&cluster, acceptor);
    }
    cluster.restart(&all);
    for name in all.into_iter().filter(|(role, _)| *role != Role::Acceptor) {
        ends(&mut cluster, name, "belongs to another cluster");
    }
}

#[test]
fn an_older_copy_of_a_disk_does_not_vote() {
    let mut cluster = Cluster::start(3, 3, 2);
    let victim = (Role::Acceptor, 3);
    write(&cluster, "first");
    let kept = older_copy(&mut cluster, victim);
    write(&cluster, "second");
    for _ in 0..2 {
        restart_on(&mut cluster, victim, &kept);
        refuses(&cluster, victim, "older-copy", "is an older copy");
    }
    let last = write(&cluster, "third");
    cluster.wait_until_learners_agree(last);
}

#[test]
fn an_older_copy_of_a_learners_disk_is_refused_and_a_new_disk_is_not() {
    let mut cluster = Cluster::start(3, 3, 2);
    let victim = (Role::Learner, 2);
    write(&cluster, "first");
    let kept = older_copy(&mut cluster, victim);
    restart_on(&mut cluster, victim, &kept);
    ends(&mut cluster, victim, "is an older copy");
    wipe(&cluster, victim);
    cluster.restart(&[victim]);
    cluster.wait_until_ready();
    let last = write(&cluster, "second");
    cluster.wait_until_learners_agree(last);
}

#[test]
fn the_disk_of_another_node_or_cluster_is_refused() {
    let mut cluster = Cluster::start(3, 3, 2);
    let mut other = Cluster::start(3, 3, 2);
    let (acceptor, learner) = ((Role::Acceptor, 3), (Role::Learner, 1));
    write(&cluster, "here");
    write(&other, "there");
    other.kill(&[acceptor, learner]);
    for name in [acceptor, learner] {
        restart_on(&mut cluster, name, folder(&other, name));
    }
    refuses(
        &cluster,
        acceptor,
        "other-cluster",
        "belongs to another cluster",
    );
    ends(&mut cluster, learner, "belongs to another cluster");
    let last = write(&cluster, "with the others");
    let read = format!("{}/resource/here", cluster.node((Role::Learner, 2)).url());
    assert_eq!(http::get(&read).unwrap().status, 200);
    assert!(last > 0);

    // Of the same cluster, but another node's.
    let another = (Role::Acceptor, 1);
    cluster.kill(&[another]);
    let disk = folder(&cluster, another).to_owned();
    restart_on(&mut cluster, acceptor, &disk);
    ends(
        &mut cluster,
        acceptor,
        "the disk of acceptor-1, and this node is acceptor-3",
    );
}
