//! How many acceptors founded a cluster stands on its disks. Real processes whose lists have another
//! length take no part, say so, and are well again with the right list.

use std::fs;
use std::path::Path;
use std::time::Duration;

use api::env::Role;
use operator::local::{self, Node, check_folders};
use serde_json::{Value, json};
use testkit::cluster::client::Client;
use testkit::cluster::{Cluster, Name, http};

/// Long enough for anything that works at all.
const PATIENCE: Duration = Duration::from_secs(30);

fn write(cluster: &Cluster, resource: &str) -> u64 {
    let mut client = Client::new(resource, cluster.urls(Role::Proposer));
    client.write(resource, json!({"of": resource})).0
}

/// The first acceptors of the right list, and addresses of nobody when it is to be longer.
fn list(cluster: &Cluster, length: usize) -> Vec<String> {
    let right = cluster
        .names()
        .into_iter()
        .filter(|(role, _)| *role == Role::Acceptor);
    let right = right.map(|name| format!("127.0.0.1:{}", cluster.node(name).config.port));
    let more = (1..).map(|port| format!("127.0.0.1:{port}"));
    right.chain(more).take(length).collect()
}

fn set_lists(cluster: &mut Cluster, names: &[Name], length: usize) {
    let list = list(cluster, length);
    for name in names {
        cluster.node_mut(*name).config.acceptors.clone_from(&list);
    }
}

fn says(founded: usize, listed: usize) -> String {
    format!("founded with {founded} acceptors, and ACCEPTORS names {listed}")
}

/// An acceptor runs, does not vote, and says why.
fn refuses(cluster: &Cluster, name: Name, why: &str) {
    cluster.wait_for("the other count is noticed", PATIENCE, || {
        let status = cluster.node(name).status()?;
        (status["state"] == "other-count").then(|| {
            let told = status["refusal"].as_str().unwrap();
            assert!(told.contains(why), "{told}");
        })
    });
    let ready = http::get(&format!("{}/ready", cluster.node(name).url())).unwrap();
    assert_eq!(ready.status, 503);
    assert!(ready.json()["detail"].as_str().unwrap().contains(why));
}

/// The process ends, and says why.
fn ends(cluster: &mut Cluster, name: Name, why: &str) {
    let status = cluster.node_mut(name).wait(PATIENCE);
    assert_eq!(status.code(), Some(1));
    let output = cluster.node(name).output();
    assert!(output.contains(why), "{output}");
}

fn identity(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("identity.json")).unwrap()).unwrap()
}

#[test]
fn lists_of_another_length_stop_the_whole_cluster_and_the_right_one_mends_it() {
    let mut cluster = Cluster::start(2, 5, 2);
    // Two acceptors know nothing of the last writes; the others are away when the list is shorter.
    let behind = [(Role::Acceptor, 1), (Role::Acceptor, 2)];
    cluster.kill(&behind);
    let written: Vec<u64> = (0..5).map(|k| write(&cluster, &format!("k{k}"))).collect();
    let all = cluster.names();
    let running: Vec<Name> = all
        .iter()
        .copied()
        .filter(|name| !behind.contains(name))
        .collect();
    cluster.kill(&running);
    for name in &all {
        let told = &identity(&cluster.node(*name).config.data_dir)["acceptors"];
        assert_eq!(told, 5, "{name:?}");
    }
    for length in [3, 4, 7] {
        set_lists(&mut cluster, &all, length);
        let listed = |(role, id): &Name| *role != Role::Acceptor || usize::from(*id) <= length;
        let started: Vec<Name> = all.iter().copied().filter(listed).collect();
        cluster.restart(&started);
        let (acceptors, others): (Vec<Name>, Vec<Name>) = started
            .iter()
            .partition(|(role, _)| *role == Role::Acceptor);
        for name in others {
            ends(&mut cluster, name, &says(5, length));
        }
        for name in &acceptors {
            refuses(&cluster, *name, &says(5, length));
        }
        cluster.kill(&acceptors);
    }
    set_lists(&mut cluster, &all, 5);
    cluster.restart(&all);
    cluster.wait_until_ready();
    let last = write(&cluster, "after");
    assert!(
        last > *written.last().unwrap(),
        "no instance is given out twice"
    );
    cluster.wait_until_learners_agree(last);
    for (k, instance) in written.iter().enumerate() {
        let url = format!("{}/resource/k{k}", cluster.urls(Role::Learner)[0]);
        assert_eq!(http::get(&url).unwrap().json()["instanceId"], *instance);
    }
}

#[test]
fn one_node_with_another_list_takes_no_part_and_the_others_go_on() {
    let mut cluster = Cluster::start(3, 3, 2);
    write(&cluster, "before");
    for (name, length) in [
        ((Role::Acceptor, 2), 5),
        ((Role::Proposer, 3), 1),
        ((Role::Learner, 2), 4),
    ] {
        cluster.kill(&[name]);
        set_lists(&mut cluster, &[name], length);
        cluster.restart(&[name]);
        match name.0 {
            Role::Acceptor => refuses(&cluster, name, &says(3, length)),
            _ => ends(&mut cluster, name, &says(3, length)),
        }
        write(&cluster, "without it");
        if name.0 == Role::Acceptor {
            cluster.kill(&[name]);
        }
        set_lists(&mut cluster, &[name], 3);
        cluster.restart(&[name]);
        cluster.wait_until_ready();
    }
    let last = write(&cluster, "after");
    cluster.wait_until_learners_agree(last);
}

/// Disks of earlier builds, and new ones, know no count: they hear it before they act.
#[test]
fn who_does_not_know_the_count_hears_it_before_it_leads_or_learns() {
    let mut cluster = Cluster::start(2, 5, 2);
    let last = write(&cluster, "before");
    cluster.wait_until_learners_agree(last);
    let names = [
        (Role::Proposer, 1),
        (Role::Proposer, 2),
        (Role::Learner, 1),
        (Role::Learner, 2),
    ];
    cluster.kill(&names);
    for name in [(Role::Proposer, 1), (Role::Learner, 1)] {
        let folder = &cluster.node(name).config.data_dir;
        let mut file = identity(folder);
        let fields = file.as_object_mut().unwrap();
        fields.remove("acceptors").unwrap();
        fields.remove("crc32c").unwrap();
        fs::write(folder.join("identity.json"), file.to_string()).unwrap();
    }
    for name in [(Role::Proposer, 2), (Role::Learner, 2)] {
        fs::remove_dir_all(&cluster.node(name).config.data_dir).unwrap();
    }
    for length in [3, 7] {
        set_lists(&mut cluster, &names, length);
        cluster.restart(&names);
        for name in names {
            ends(&mut cluster, name, &says(5, length));
            let output = cluster.node(name).output();
            assert!(
                !output.contains("\"leading\":true") || name.0 != Role::Proposer || {
                    // Only what it said before.
                    output.rfind("\"leading\":true") < output.rfind(" starts\"")
                }
            );
        }
    }
    set_lists(&mut cluster, &names, 5);
    cluster.restart(&names);
    cluster.wait_until_ready();
    let last = write(&cluster, "after");
    cluster.wait_until_learners_agree(last);
    for name in names {
        assert_eq!(
            identity(&cluster.node(name).config.data_dir)["acceptors"],
            5
        );
    }
}

#[test]
fn a_cluster_is_founded_when_all_lists_have_one_length() {
    let mut cluster = Cluster::prepare(1, 3, 1);
    let (odd, others) = (
        (Role::Acceptor, 2),
        [(Role::Acceptor, 1), (Role::Acceptor, 3)],
    );
    set_lists(&mut cluster, &[odd], 2);
    cluster.restart(&[odd, others[0], others[1]]);
    for name in others {
        let url = format!("{}/ready", cluster.node(name).url());
        cluster.wait_for("it names who is missing", PATIENCE, || {
            let ready = http::get(&url).ok()?;
            let detail = ready.json()["detail"].as_str()?.to_owned();
            let says = detail.contains("acceptor-2") && detail.contains("names 2");
            (ready.status == 503 && says).then_some(())
        });
    }
    cluster.kill(&[odd]);
    set_lists(&mut cluster, &[odd], 3);
    cluster.restart(&[odd]);
    cluster.restart(&[(Role::Proposer, 1), (Role::Learner, 1)]);
    cluster.wait_until_ready();
    write(&cluster, "after");
}

fn nodes(acceptors: u8, folder: &Path) -> Vec<Node> {
    let spec = format!(
        "{{metadata: {{name: c, namespace: n}}, spec: {{acceptor: {{replicas: {acceptors}}}}}}}"
    );
    let objects = operator::render(&serde_saphyr::from_str(&spec).unwrap()).unwrap();
    local::nodes(&objects, folder, 8000).unwrap()
}

fn folder_of(folder: &Path, id: u8, cluster: Option<&str>, acceptors: Option<u8>) {
    let folder = folder.join(format!("c-acceptor-{id}"));
    fs::create_dir_all(&folder).unwrap();
    let mut fields = json!({
        "format": 1, "cluster": cluster, "role": "acceptor", "node_id": id,
        "incarnation": "00000000000000aa", "starts": 1, "run": "00000000000000bb",
        "witnessed": true,
    });
    if let Some(acceptors) = acceptors {
        fields["acceptors"] = acceptors.into();
    }
    fs::write(folder.join("identity.json"), fields.to_string()).unwrap();
}

#[test]
fn folders_say_with_how_many_acceptors_they_were_founded() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    assert_eq!(check_folders(&nodes(3, folder)), Ok(()), "they are new");
    (1..=4).for_each(|id| folder_of(folder, id, Some("abc"), Some(4)));
    assert_eq!(check_folders(&nodes(4, folder)), Ok(()));
    for other in [1, 3, 5, 7] {
        let text = check_folders(&nodes(other, folder))
            .unwrap_err()
            .to_string();
        let says = format!("founded with 4 acceptors, and the file asks for {other}");
        assert!(text.contains(&says), "{text}");
    }
}

#[test]
fn folders_of_an_earlier_build_say_it_by_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    // The fifth was never founded.
    (1..=4).for_each(|id| folder_of(folder, id, Some("abc"), None));
    folder_of(folder, 5, None, None);
    assert!(check_folders(&nodes(3, folder)).is_err());
    assert_eq!(check_folders(&nodes(4, folder)), Ok(()));
}
