//! A cluster of etcd members, each a process, with fsync on.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::cluster::{http, ports};
use testkit::tools::tool;

const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Etcd {
    members: Vec<Child>,
    clients: Vec<SocketAddr>,
    _folder: TempDir,
}

impl Etcd {
    /// Starts this many members on loopback and waits until each says that it is healthy.
    pub(crate) fn start(members: u16) -> Etcd {
        let program = tool("etcd");
        let folder = TempDir::with_prefix("etcd-").expect("a temporary folder");
        let first = ports::block(2 * members);
        let url = |port| format!("http://127.0.0.1:{port}");
        let peers = (0..members).map(|i| format!("m{i}={}", url(first + members + i)));
        let peers = peers.collect::<Vec<_>>().join(",");
        let start = |i: u16| {
            let (client, peer) = (url(first + i), url(first + members + i));
            let data = folder.path().join(format!("m{i}"));
            fs::create_dir(&data).expect("a folder for the member");
            let output = File::create(folder.path().join(format!("m{i}.log")));
            let mut command = Command::new(&program);
            command
                .args(["--name", &format!("m{i}"), "--data-dir"])
                .arg(data)
                .args(["--listen-client-urls", &client])
                .args(["--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer])
                .args(["--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &peers])
                .args(["--initial-cluster-state", "new"])
                // Room for all that is written here, and nothing that compacts meanwhile.
                .args(["--quota-backend-bytes", "8589934592"])
                .args(["--auto-compaction-retention", "0"])
                .args(["--snapshot-count", "100000"])
                .args(["--logger", "zap", "--log-level", "error"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(output.expect("a file for the output"));
            command.spawn().expect("etcd starts")
        };
        let etcd = Etcd {
            members: (0..members).map(start).collect(),
            clients: (0..members)
                .map(|i| (Ipv4Addr::LOCALHOST, first + i).into())
                .collect(),
            _folder: folder,
        };
        let deadline = Instant::now() + READY_WITHIN;
        while !etcd.clients.iter().all(is_healthy) {
            assert!(Instant::now() < deadline, "etcd is not healthy");
            thread::sleep(Duration::from_millis(50));
        }
        etcd
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Child::id).collect()
    }

    /// Where clients connect, in the order of the members.
    pub(crate) fn clients(&self) -> &[SocketAddr] {
        &self.clients
    }

    /// Which member leads.
    pub(crate) fn leader(&self) -> usize {
        let leads = |address: &SocketAddr| {
            let status = ask(address, "/v3/maintenance/status").expect("it answers");
            status["leader"] == status["header"]["member_id"]
        };
        let leader = self.clients.iter().position(leads);
        leader.expect("one member leads")
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, member: usize) {
        self.members[member].kill().expect("it runs");
        self.members[member].wait().expect("it is our child");
    }

    /// Syncs to disk, of the log and of the database, by its own count.
    pub(crate) fn syncs(&self) -> f64 {
        let count = |address: &SocketAddr| {
            let text = http::get(&format!("http://{address}/metrics")).expect("it answers");
            super::metric(&text.text(), "etcd_disk_wal_fsync_duration_seconds_count")
                + super::metric(
                    &text.text(),
                    "etcd_disk_backend_commit_duration_seconds_count",
                )
        };
        self.clients.iter().map(count).sum()
    }
}

fn ask(address: &SocketAddr, path: &str) -> Option<Value> {
    let agent = http::agent(Duration::from_secs(2));
    let answer = http::post(&agent, &format!("http://{address}{path}"), b"{}".to_vec());
    answer.ok().map(|answer| answer.json())
}

fn is_healthy(address: &SocketAddr) -> bool {
    let agent = http::agent(Duration::from_secs(1));
    let request = ::http::Request::get(format!("http://{address}/health")).body(Vec::new());
    let answer = http::send(&agent, request.expect("a good URL"));
    answer.is_ok_and(|answer| answer.text().contains("true"))
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}
