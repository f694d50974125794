//! One process of the cluster.

use std::fs::{self, File, OpenOptions};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use api::env::Config;
use rustix::process::{Pid, Signal, kill_process};

use super::{binary, http};

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// How much of the output a failure shows, in lines.
const TAIL: usize = 15;

/// A node: its configuration, its folder, and its process while that runs.
pub struct Node {
    /// What its environment says.
    pub config: Config,
    /// And beyond that.
    pub(super) environment: Vec<(&'static str, String)>,
    /// Another build of the program than [`binary::path`].
    pub program: Option<PathBuf>,
    /// Where others reach it.
    host: String,
    /// The network namespace it runs in, if it is not this program's.
    namespace: Option<String>,
    output: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// A node on loopback that does not run yet. Its output goes to a file beside its folder.
    pub fn new(config: Config) -> Node {
        let output = config.data_dir.with_extension("out");
        Node {
            config,
            program: None,
            environment: Vec::new(),
            host: Ipv4Addr::LOCALHOST.to_string(),
            namespace: None,
            output,
            child: None,
        }
    }

    /// The same in a network namespace, where it has that address.
    pub(super) fn in_namespace(config: Config, namespace: String, host: String) -> Node {
        let mut node = Node::new(config);
        node.host = host;
        node.namespace = Some(namespace);
        node
    }

    /// `http://HOST:PORT`
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.config.port)
    }

    /// Starts the process. Does not wait until it serves.
    pub fn start(&mut self) {
        let program = self.program.as_deref().unwrap_or_else(|| binary::path());
        let mut command = match &self.namespace {
            None => Command::new(program),
            // Replaced by the node in the end. It must not outlive this program, as with it would
            // its namespace.
            Some(namespace) => {
                let mut command = Command::new("setpriv");
                command
                    .args(["--pdeathsig", "KILL", "nsenter"])
                    .arg(format!("--net=/run/netns/{namespace}"))
                    .arg(program);
                command
            }
        };
        self.start_as(&mut command);
    }

    /// Starts another command with the node's environment.
    pub fn start_as(&mut self, command: &mut Command) {
        assert!(self.child.is_none(), "{} runs already", self.config.name());
        fs::create_dir_all(&self.config.data_dir).expect("a folder for the node");
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.output)
            .and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err): (File, File) = output.expect("a file for the node's output");
        let child = command
            .env_clear()
            .envs(self.config.to_env())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn();
        self.child = Some(child.expect("the node starts"));
    }

    /// Whether the process runs, or is stopped.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("the node runs");
        Pid::from_child(child)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process takes a signal");
    }

    /// kill -9, and returns when the process is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait(GONE_WITHIN);
    }

    /// Waits for the end of the process and says how it ended.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        let mut child = self.child.take().expect("the node runs");
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return status;
            }
            if Instant::now() > deadline {
                self.child = Some(child);
                panic!("{} did not end within {within:?}", self.config.name());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// `GET /status`, if it answers.
    pub fn status(&self) -> Option<serde_json::Value> {
        let answer = http::get(&format!("{}/status", self.url())).ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// A number of `GET /status`.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.status()?.get(field)?.as_u64()
    }

    /// Whether `GET /ready` says so.
    pub fn is_ready(&self) -> bool {
        http::get(&format!("{}/ready", self.url())).is_ok_and(|answer| answer.status == 200)
    }

    /// Everything it has written to stdout and stderr, in all its lives.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// The end of its output, for a failure's message.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A stopped process dies of this as well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
