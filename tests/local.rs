//! `paxos-operator local`: one run a folder, what a killed run leaves behind, ports, files that are no
//! PaxosCluster.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use testkit::cluster::binary;

const WITHIN: Duration = Duration::from_secs(30);

/// The smallest cluster: three processes.
const TINY: &str = "apiVersion: clustersync.io/v1alpha1
kind: PaxosCluster
metadata: {name: tiny}
spec: {proposer: {replicas: 1}, acceptor: {replicas: 1}, learner: {replicas: 1}}
";
const PODS: [&str; 3] = ["tiny-proposer-1", "tiny-acceptor-1", "tiny-learner-1"];

/// A file, a folder for data and a range of ports of one test.
struct Scene {
    root: tempfile::TempDir,
    base: u16,
}

impl Scene {
    fn new() -> Scene {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cluster.yaml"), TINY).unwrap();
        Scene {
            root,
            base: free_base(),
        }
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(["local", "-f"])
            .arg(self.root.path().join("cluster.yaml"))
            .arg("--data-dir")
            .arg(self.data())
            .args(["--port-base", &self.base.to_string()])
            .args(more)
            .stdin(Stdio::null());
        command
    }

    fn start(&self, more: &[&str]) -> Run {
        let run = Run::new(&mut self.command(more));
        run.wait_for("3/3 ready, tiny-proposer-1 leads");
        run
    }

    /// A run that is expected to end by itself: whether it went well, and all that it said.
    fn refused(&self, more: &[&str]) -> String {
        ended(&mut self.command(more))
    }

    fn pid_of(&self, pod: &str) -> i32 {
        let text = fs::read_to_string(self.data().join(pod).join("pid")).unwrap();
        text.trim().parse().unwrap()
    }

    fn pids(&self) -> Vec<i32> {
        PODS.iter().map(|pod| self.pid_of(pod)).collect()
    }
}

impl Drop for Scene {
    /// Nothing that a failed test has started keeps running.
    fn drop(&mut self) {
        for pod in PODS {
            let pid = fs::read_to_string(self.data().join(pod).join("pid"));
            let pid = pid.ok().and_then(|text| text.trim().parse().ok());
            if let Some(pid) = pid.filter(|pid| works_in(*pid, &self.data())) {
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
        }
    }
}

fn works_in(pid: i32, folder: &Path) -> bool {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    String::from_utf8_lossy(&environ).contains(&format!("DATA_DIR={}", folder.display()))
}

/// A running `local`, and its lines.
struct Run {
    child: Child,
    lines: Receiver<String>,
}

impl Run {
    fn new(command: &mut Command) -> Run {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("cargo build -p paxos-operator has been run");
        let output = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Run { child, lines }
    }

    /// The next line that contains a text.
    fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + WITHIN;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no line with {text:?} in {seen:#?}"),
            }
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    binary::path().with_file_name("paxos-operator")
}

/// What a command says that fails by itself.
fn ended(command: &mut Command) -> String {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + WITHIN;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            panic!("it keeps running: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let said = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let said = said.concat();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

/// The first of ports that are free for the three nodes.
/// Below those that the system gives to anybody who connects: such a connection keeps a node out.
fn free_base() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let bindable = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = 20_000 + (std::process::id() as u16 % 20 + step % 20 * 20) * 30;
        if [1, 101, 201].iter().all(|offset| bindable(base + offset)) {
            return base;
        }
    }
}

fn runs(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut answer = ureq::get(format!("http://127.0.0.1:{port}{path}"))
        .call()
        .ok()?;
    answer.body_mut().read_to_string().ok()
}

#[test]
fn a_folder_that_another_run_has_is_refused_and_left_alone() {
    let mut scene = Scene::new();
    let first = scene.start(&[]);
    let pids = scene.pids();
    let base = std::mem::replace(&mut scene.base, free_base());
    for more in [&[][..], &["--take-over"]] {
        let said = scene.refused(more);
        let folder = scene.data().canonicalize().unwrap();
        assert!(said.contains(folder.to_str().unwrap()), "{said}");
        assert!(
            said.contains(&format!("pid {}", first.child.id())),
            "{said}"
        );
        assert_eq!(scene.pids(), pids);
    }
    assert!(pids.iter().all(|pid| runs(*pid)));
    assert!(
        get(base + 1, "/leader-status").is_some(),
        "the first keeps running"
    );
    first.stop();
    let files = PODS.map(|pod| scene.data().join(pod).join("pid"));
    assert!(
        files.iter().all(|file| !file.exists()),
        "nothing runs any more"
    );
}

#[test]
fn a_run_whose_lock_file_was_removed_is_not_taken_for_a_killed_one() {
    let mut scene = Scene::new();
    let first = scene.start(&[]);
    let pids = scene.pids();
    fs::remove_file(scene.data().join("local.lock")).unwrap();
    scene.base = free_base();
    let said = scene.refused(&["--take-over"]);
    assert!(
        said.contains(&format!("pid {}", first.child.id())),
        "{said}"
    );
    assert!(pids.iter().all(|pid| runs(*pid)));
    first.stop();
}

#[test]
fn nodes_of_a_killed_run_are_named_and_ended_on_request() {
    let scene = Scene::new();
    scene.start(&[]).kill();
    let pids = scene.pids();
    let said = scene.refused(&[]);
    for (pod, pid) in PODS.iter().zip(&pids) {
        assert!(said.contains(&format!("{pod} (pid {pid})")), "{said}");
    }
    assert!(
        said.contains("--take-over") && said.contains("kill "),
        "{said}"
    );
    assert!(pids.iter().all(|pid| runs(*pid)), "they were only named");

    let second = scene.start(&["--take-over"]);
    let now = scene.pids();
    assert!(
        now.iter().all(|pid| !pids.contains(pid)),
        "{pids:?} {now:?}"
    );
    let gone = |pid: &i32| !works_in(*pid, &scene.data());
    assert!(pids.iter().all(gone));
    second.stop();
}

#[test]
fn a_node_that_does_not_end_is_killed_when_it_is_taken_over() {
    let scene = Scene::new();
    scene.start(&[]).kill();
    let stuck = scene.pid_of("tiny-learner-1");
    kill_process(Pid::from_raw(stuck).unwrap(), Signal::STOP).unwrap();
    let second = scene.start(&["--take-over"]);
    assert!(!works_in(stuck, &scene.data()));
    second.stop();
}

#[test]
fn a_pid_that_went_to_another_process_is_left_alone() {
    let scene = Scene::new();
    scene.start(&[]).stop();
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    for pod in PODS {
        let file = scene.data().join(pod).join("pid");
        fs::write(file, other.id().to_string()).unwrap();
    }
    scene.start(&["--take-over"]).stop();
    assert!(
        other.try_wait().unwrap().is_none(),
        "it was not ours to end"
    );
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn nodes_that_are_no_longer_asked_for_are_leftovers_too() {
    let mut scene = Scene::new();
    scene.start(&[]).kill();
    let pids = scene.pids();
    let other = TINY.replace("name: tiny", "name: other");
    fs::write(scene.root.path().join("cluster.yaml"), other).unwrap();
    scene.base = free_base();
    let said = scene.refused(&[]);
    assert!(
        said.contains(&format!("tiny-acceptor-1 (pid {})", pids[1])),
        "{said}"
    );
}

#[test]
fn every_port_that_is_taken_is_named_with_its_holder() {
    let scene = Scene::new();
    let holders =
        [1, 201].map(|offset| TcpListener::bind(("127.0.0.1", scene.base + offset)).unwrap());
    let said = scene.refused(&[]);
    for (offset, pod) in [(1, "tiny-proposer-1"), (201, "tiny-learner-1")] {
        let expected = format!("port {} of {pod} is in use by", scene.base + offset);
        assert!(said.contains(&expected), "{said}");
    }
    let me = std::process::id();
    assert_eq!(
        said.matches(&format!("process {me} (")).count(),
        2,
        "{said}"
    );
    assert!(said.contains("--port-base"), "{said}");
    assert!(
        !scene.data().join("tiny-proposer-1").exists(),
        "nothing was started"
    );
    drop(holders);
    scene.start(&[]).stop();
}

#[test]
fn a_port_taken_while_it_runs_is_named_and_waited_for() {
    let scene = Scene::new();
    let run = scene.start(&[]);
    let port = scene.base + 201;
    let pid = scene.pid_of("tiny-learner-1");
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let deadline = Instant::now() + WITHIN;
    let taken = loop {
        if let Ok(taken) = TcpListener::bind(("127.0.0.1", port)) {
            break taken;
        }
        assert!(Instant::now() < deadline, "the port is free for a moment");
    };
    let line = run.wait_for(&format!("port {port} of tiny-learner-1 is in use by"));
    assert!(
        line.contains(&format!("process {}", std::process::id())),
        "{line}"
    );
    drop(taken);
    run.wait_for("3/3 ready");
    run.stop();
}

#[test]
fn why_a_node_ended_is_shown() {
    let scene = Scene::new();
    scene.start(&[]).stop();
    let identity = scene.data().join("tiny-learner-1/identity.json");
    let good = fs::read_to_string(&identity).unwrap();
    fs::write(&identity, "{}").unwrap();
    let run = Run::new(&mut scene.command(&[]));
    let line = run.wait_for("tiny-learner-1 ended");
    assert!(line.contains("identity.json"), "{line}");
    fs::write(&identity, good).unwrap();
    run.wait_for("3/3 ready");
    run.stop();
}

#[test]
fn what_kubectl_would_refuse_is_refused_with_the_fields_path() {
    let scene = Scene::new();
    let file = scene.root.path().join("cluster.yaml");
    for (from, to, expected) in [
        (
            "kind: PaxosCluster",
            "kind: Service",
            "kind: is \"Service\"",
        ),
        (
            "clustersync.io/v1alpha1",
            "clustersync.io/v2",
            "apiVersion: is",
        ),
        (
            "acceptor: {replicas: 1}",
            "acceptor: {replcas: 1}",
            "spec.acceptor.replcas",
        ),
        ("spec: {", "specs: {}\nspec: {", "specs"),
        (
            "name: tiny",
            "name: tiny, lables: {a: b}",
            "metadata.lables",
        ),
    ] {
        fs::write(&file, TINY.replace(from, to)).unwrap();
        let mut render = Command::new(program());
        render.args(["render", "-f"]).arg(&file);
        for said in [scene.refused(&[]), ended(&mut render)] {
            assert!(said.contains(expected), "{to}: {said}");
            assert!(said.contains("cluster.yaml"), "{to}: {said}");
        }
    }
    assert!(!scene.data().exists(), "nothing was touched");
}

#[test]
fn a_port_base_is_from_1_to_the_highest_that_has_room() {
    let mut scene = Scene::new();
    for base in [0, 64_981, 64_999, 65_535] {
        scene.base = base;
        let said = scene.refused(&[]);
        assert!(said.contains(&format!("--port-base {base}")), "{said}");
        assert!(said.contains("1 to 64980"), "{said}");
    }
}
