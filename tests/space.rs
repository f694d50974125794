//! Real processes with more data than memory, and on volumes that fill: nobody ends, writes are refused
//! with the reason, reads continue, and all resumes by itself when there is room.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use api::env::Role;
use serde_json::json;
use testkit::cluster::client::Client;
use testkit::cluster::{Cluster, Name, binary, http};

/// Long enough for anything that works at all.
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// Resident memory of a node.
fn memory(cluster: &Cluster, name: Name) -> u64 {
    let pid = cluster.node(name).pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap() << 10
}

/// Posts writes of that many bytes each to a few keys; the answer's status and its text, 0 without one.
fn batch(cluster: &Cluster, number: usize, count: usize, bytes: usize) -> (u16, String) {
    let data = "x".repeat(bytes);
    let request = |i: usize| {
        json!({
            "clientId": "space", "requestId": format!("{number}-{i}"), "timestamp": 1,
            "operation": "WRITE", "resource": format!("key-{}", i % 8), "data": data,
        })
    };
    let body: Vec<_> = (0..count).map(request).collect();
    let body = serde_json::to_vec(&body).unwrap();
    let agent = http::agent(PATIENCE);
    let proposer = &cluster.urls(Role::Proposer)[0];
    let url = format!("{proposer}/propose/batch?wait=true&timeoutMs=5000");
    match http::post(&agent, &url, body) {
        Ok(answer) => (answer.status, answer.text()),
        // Such as while that proposer starts.
        Err(error) => (0, error.to_string()),
    }
}

/// The status of a linearizable read at the first learner.
fn read(cluster: &Cluster) -> u16 {
    let learner = cluster.node((Role::Learner, 1)).url();
    http::get(&format!("{learner}/resource/key-1")).map_or(0, |answer| answer.status)
}

#[test]
fn acceptors_keep_to_their_memory_while_a_learner_is_away_and_when_they_start_again() {
    let mut cluster = Cluster::start(2, 3, 2);
    let away = (Role::Learner, 2);
    cluster.kill(&[away]);
    for number in 0..170 {
        let (status, text) = batch(&cluster, number, 50, 20_000);
        assert_eq!(status, 200, "{text}");
    }
    let acceptors = cluster.of_role(Role::Acceptor);
    let check = |cluster: &Cluster, when: &str| {
        for name in &acceptors {
            let memory = memory(cluster, *name) / MIB;
            assert!(memory < 180, "{when}: {name:?} has {memory} MiB in memory");
        }
    };
    // Thrifty leaders leave one behind for a moment.
    let long = |name: &Name| cluster.node(*name).number("log_bytes") > Some(150 * MIB);
    assert!(acceptors.iter().filter(|name| long(name)).count() >= 2);
    check(&cluster, "after 170 MB of writes");
    cluster.kill(&acceptors);
    cluster.restart(&acceptors);
    cluster.wait_until_ready_but(&[away]);
    check(&cluster, "after a start with them");
    assert_eq!(batch(&cluster, 1_000, 1, 10).0, 200);
    // What was read from the logs is what was written.
    cluster.restart(&[away]);
    let last = cluster
        .node((Role::Learner, 1))
        .number("applied_instance_id");
    cluster.wait_until_learners_agree(last.unwrap());
    cluster.wait_for("the logs are trimmed", PATIENCE, || {
        let short = |name: &Name| cluster.node(*name).number("log_bytes") < Some(150 * MIB);
        acceptors.iter().all(short).then_some(())
    });
    check(&cluster, "after a learner has read all of it");
}

/// A file system in memory that a node has for itself, without any right to mount one elsewhere.
struct Small(Name);

impl Small {
    /// Starts the node with its data on a file system of `mib` MiB, of which others have some.
    fn start(cluster: &mut Cluster, name: Name, [mib, others]: [u64; 2]) -> Small {
        let node = cluster.node_mut(name);
        let folder = node.config.data_dir.clone();
        let script = "mount -t tmpfs -o size=$1m tmpfs \"$3\" && \
                      head -c $2m /dev/zero > \"$3/ballast\" && exec \"$4\"";
        let mut command = Command::new("unshare");
        command
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .args([mib.to_string(), others.to_string()])
            .args([folder.as_os_str(), binary::path().as_os_str()]);
        node.start_as(&mut command);
        Small(name)
    }

    fn ballast(&self, cluster: &Cluster) -> PathBuf {
        let node = cluster.node(self.0);
        let root = PathBuf::from(format!("/proc/{}/root", node.pid().as_raw_nonzero()));
        let folder = node.config.data_dir.strip_prefix("/").unwrap();
        root.join(folder).join("ballast")
    }

    /// Takes room until less than `left` MiB are free.
    fn fill(&self, cluster: &Cluster, left: u64) {
        let path = self.ballast(cluster);
        let volume = rustix::fs::statvfs(path.parent().unwrap()).unwrap();
        let free = volume.f_bavail * volume.f_frsize;
        fs::write(&path, vec![1; free.saturating_sub(left * MIB) as usize]).unwrap();
    }

    fn free(&self, cluster: &Cluster) {
        fs::remove_file(self.ballast(cluster)).unwrap();
    }
}

/// A cluster whose acceptors have volumes of 128 MiB.
fn on_small_volumes() -> (Cluster, Vec<Small>) {
    let mut cluster = Cluster::prepare(2, 3, 2);
    let acceptors = cluster.of_role(Role::Acceptor);
    let names = cluster.names();
    for name in names.iter().filter(|name| !acceptors.contains(name)) {
        cluster.node_mut(*name).start();
    }
    let small = acceptors.into_iter();
    let small = small
        .map(|name| Small::start(&mut cluster, name, [128, 0]))
        .collect();
    cluster.wait_until_ready();
    (cluster, small)
}

/// Writes until one is refused; what the refusal says.
fn write_until_refused(cluster: &Cluster, from: usize) -> String {
    for number in from..from + 400 {
        let (status, text) = batch(cluster, number, 25, 20_000);
        match status {
            200 | 504 => {}
            503 if text.contains("no room for writes") => return text,
            _ => panic!("{status}: {text}"),
        }
    }
    panic!("200 MB were written to volumes of 128 MiB");
}

fn term(cluster: &Cluster) -> Option<u64> {
    cluster.node((Role::Proposer, 1)).number("term")
}

fn wait_for_a_write(cluster: &Cluster, number: usize) {
    let until = Instant::now() + PATIENCE;
    while batch(cluster, number, 1, 10).0 != 200 {
        assert!(Instant::now() < until, "writes do not resume");
        thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn logs_that_no_learner_lets_go_stop_at_their_share_and_get_shorter_when_it_is_back() {
    let (mut cluster, _small) = on_small_volumes();
    let away = (Role::Learner, 2);
    cluster.kill(&[away]);
    // A leader knows after a while who is away.
    thread::sleep(Duration::from_secs(4));
    let before = term(&cluster);
    let why = write_until_refused(&cluster, 0);
    assert!(
        why.contains("acceptor-") && why.contains("learner-2"),
        "{why}"
    );
    cluster.wait_for("a majority of acceptors says why", PATIENCE, || {
        let acceptors = cluster.of_role(Role::Acceptor).into_iter();
        let told = acceptors.filter_map(|name| {
            let status = cluster.node(name).status()?;
            let why = status["no_room"].as_str()?;
            why.contains("learners are away").then_some(())
        });
        (told.count() >= 2).then_some(())
    });
    for _ in 0..10 {
        assert_eq!(read(&cluster), 200, "reads continue");
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(term(&cluster), before, "it is no reason for an election");
    // A new leader reads on as well.
    let leader = cluster.wait_for_leader();
    cluster.kill(&[leader]);
    cluster.wait_for("the next leader allows reads", PATIENCE, || {
        (read(&cluster) == 200).then_some(())
    });
    cluster.restart(&[leader, away]);
    wait_for_a_write(&cluster, 10_000);
}

#[test]
fn a_volume_that_others_fill_ends_no_acceptor_and_writes_go_on_when_there_is_room() {
    let (mut cluster, small) = on_small_volumes();
    wait_for_a_write(&cluster, 0);
    let before = term(&cluster);
    // One of three makes no difference.
    small[0].fill(&cluster, 10);
    for number in 1..20 {
        assert_eq!(batch(&cluster, number, 10, 20_000).0, 200);
    }
    small[1].fill(&cluster, 10);
    let why = write_until_refused(&cluster, 100);
    assert!(why.contains("enlarge the acceptors' volumes"), "{why}");
    thread::sleep(Duration::from_secs(2));
    for name in cluster.of_role(Role::Acceptor) {
        assert!(
            cluster.node_mut(name).is_running(),
            "{}",
            cluster.node(name).tail()
        );
    }
    assert_eq!((read(&cluster), term(&cluster)), (200, before));
    small[1].free(&cluster);
    wait_for_a_write(&cluster, 10_000);
    assert_eq!(term(&cluster), before);
}

#[test]
fn with_one_volume_full_and_one_acceptor_down_writes_are_refused_with_both_named() {
    let (mut cluster, small) = on_small_volumes();
    wait_for_a_write(&cluster, 0);
    let before = term(&cluster);
    small[0].fill(&cluster, 10);
    cluster.kill(&[(Role::Acceptor, 2)]);
    // The first ones wait in vain; nothing is taken that only waits behind them.
    let why = write_until_refused(&cluster, 100);
    assert!(
        why.contains("acceptor-1 keeps") && why.contains("acceptor-2 does not vote"),
        "{why}"
    );
    assert_eq!((read(&cluster), term(&cluster)), (200, before));
    small[0].free(&cluster);
    wait_for_a_write(&cluster, 10_000);
    assert_eq!(term(&cluster), before);
}

/// A cluster without its last learner, which has meanwhile written `writes` values of 900 kB to `keys`
/// keys.
fn without_the_last_learner(learners: u8, writes: usize, keys: usize) -> (Cluster, Name) {
    let mut cluster = Cluster::prepare(2, 3, learners);
    let last = (Role::Learner, learners);
    for name in cluster.names() {
        if name != last {
            cluster.node_mut(name).start();
        }
    }
    cluster.wait_until_ready_but(&[last]);
    let mut client = Client::new("early", cluster.urls(Role::Proposer));
    for i in 0..writes {
        client.write(&format!("early-{}", i % keys), json!("x".repeat(900_000)));
    }
    (cluster, last)
}

fn applied(cluster: &Cluster, name: Name) -> u64 {
    let applied = cluster.node(name).number("applied_instance_id");
    applied.unwrap_or_default()
}

fn said(cluster: &Cluster, name: Name, words: &str) -> Option<()> {
    let output = cluster.node(name).output();
    output.contains(words).then_some(())
}

#[test]
fn a_learner_whose_volume_fills_while_it_catches_up_goes_on_when_there_is_room() {
    let (mut cluster, late) = without_the_last_learner(2, 60, 4);
    let all = applied(&cluster, (Role::Learner, 1));
    // It gets what it lacks from the acceptors, and has room for about half of it.
    let small = Small::start(&mut cluster, late, [128, 80]);
    cluster.wait_for("it has no room", PATIENCE, || {
        said(&cluster, late, "the volume is almost full")
    });
    thread::sleep(Duration::from_secs(2));
    let there = applied(&cluster, late);
    assert!(0 < there && there < all, "{there} of {all}");
    small.free(&cluster);
    cluster.wait_for("it has everything", PATIENCE, || {
        (applied(&cluster, late) >= all).then_some(())
    });
}

#[test]
fn a_learner_without_room_for_anothers_snapshot_runs_on_until_there_is() {
    let (mut cluster, late) = without_the_last_learner(3, 130, 30);
    let all = applied(&cluster, (Role::Learner, 1));
    cluster.wait_for("the learners have snapshots alone", PATIENCE, || {
        let learners = [(Role::Learner, 1), (Role::Learner, 2)].into_iter();
        let mut firsts = learners.map(|name| {
            let url = cluster.node(name).url();
            http::get(&format!("{url}/instance/1")).ok()
        });
        firsts
            .all(|first| first.is_some_and(|first| first.status == 410))
            .then_some(())
    });
    cluster.wait_for("the acceptors forget the first values", PATIENCE, || {
        let acceptors = cluster.of_role(Role::Acceptor).into_iter();
        let trimmed = acceptors.map(|name| cluster.node(name).number("trimmed_instance_id"));
        trimmed.min().flatten().filter(|trimmed| *trimmed > 0)
    });
    // A snapshot has 27 MB, and 16 MiB stay free.
    let small = Small::start(&mut cluster, late, [256, 220]);
    cluster.wait_for("it says that there is no room", PATIENCE, || {
        said(&cluster, late, "has no room for the snapshot")
    });
    thread::sleep(Duration::from_secs(2));
    let node = cluster.node_mut(late);
    assert!(node.is_running(), "{}", node.tail());
    small.free(&cluster);
    cluster.wait_for("it has everything", PATIENCE, || {
        (applied(&cluster, late) >= all).then_some(())
    });
}

#[test]
fn a_store_leaves_a_learner_that_takes_nothing() {
    let mut cluster = Cluster::prepare(2, 3, 2);
    let stuck = (Role::Learner, 2);
    for name in cluster.names() {
        if name != stuck {
            cluster.node_mut(name).start();
        }
    }
    let small = Small::start(&mut cluster, stuck, [128, 0]);
    let stores = [cluster.add_store(), cluster.add_store()];
    cluster.wait_until_ready();
    small.fill(&cluster, 10);
    cluster.wait_for("the learner has no room", PATIENCE, || {
        wait_for_a_write(&cluster, 0);
        said(&cluster, stuck, "the volume is almost full")
    });
    for number in 1..20 {
        assert_eq!(batch(&cluster, number, 10, 20_000).0, 200);
    }
    let all = applied(&cluster, (Role::Learner, 1));
    assert!(applied(&cluster, stuck) < all);
    cluster.wait_for("the stores follow the other learner", PATIENCE, || {
        let level = |name: &Name| applied(&cluster, *name) >= all;
        stores.iter().all(level).then_some(())
    });
    let read = || {
        let url = cluster.node(stores[1]).url();
        let read = http::get(&format!("{url}/resource/key-1")).ok()?;
        (read.status == 200).then_some(())
    };
    cluster.wait_for("and answer", PATIENCE, read);
}
