//! A real Prometheus, of Debian's package, that scrapes nodes of this machine.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ::http::Request;
use serde_json::{Value as Json, json};

use crate::cluster::http;
use crate::tools::{root, tool};

/// How long it may take to start.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// How long a query may take, on a machine with much else to do.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// The running program. It ends with this value.
pub struct Prometheus {
    child: Child,
    url: String,
}

impl Prometheus {
    /// Starts it with a configuration file; its data go below `folder`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(config: &Path, folder: &Path) -> Prometheus {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let log = fs::File::create(folder.join("prometheus.log")).expect("a log file");
        let child = Command::new(tool("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus starts");
        let prometheus = Prometheus {
            child,
            url: format!("http://127.0.0.1:{port}"),
        };
        let deadline = Instant::now() + STARTS_WITHIN;
        while !http::get(&format!("{}/-/ready", prometheus.url)).is_ok_and(|a| a.status == 200) {
            let log = || fs::read_to_string(folder.join("prometheus.log")).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "prometheus is not ready: {}",
                log()
            );
            thread::sleep(Duration::from_millis(50));
        }
        prometheus
    }

    /// What the API answers to a path with encoded parameters.
    ///
    /// # Panics
    /// When it says that it failed.
    pub fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Json {
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters)
            .finish();
        let agent = http::agent(ANSWERS_WITHIN);
        let request = Request::get(format!("{}/api/v1/{path}?{query}", self.url));
        let answer = http::send(&agent, request.body(Vec::new()).expect("a request"));
        let answer = answer.expect("prometheus answers").json();
        assert_eq!(
            answer["status"], "success",
            "{path} {parameters:?}: {answer}"
        );
        answer["data"].clone()
    }

    /// The series of an instant query.
    pub fn query(&self, expression: &str) -> Vec<Json> {
        let data = self.get("query", &[("query", expression)]);
        data["result"].as_array().cloned().unwrap_or_default()
    }

    /// The alerts that fire, by name.
    pub fn firing(&self, name: &str) -> Vec<Json> {
        let alerts = self.get("alerts", &[]);
        let alerts = alerts["alerts"].as_array().cloned().unwrap_or_default();
        let fires =
            |alert: &Json| alert["state"] == "firing" && alert["labels"]["alertname"] == name;
        alerts.into_iter().filter(fires).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a configuration that scrapes these every second: addresses, each with the name of its pod. All
/// are of one cluster.
///
/// # Panics
/// When it cannot be written.
pub fn config(folder: &Path, cluster: &str, targets: &[(String, String)]) -> PathBuf {
    let target = |(address, pod): &(String, String)| {
        let labels = json!({"namespace": "local", "paxos_cluster": cluster, "pod": pod});
        json!({"targets": [address], "labels": labels})
    };
    let targets: Vec<Json> = targets.iter().map(target).collect();
    // JSON is YAML.
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules/*.yaml"],
        "scrape_configs": [{"job_name": "paxos", "static_configs": targets}],
    });
    let path = folder.join("prometheus.yml");
    fs::write(&path, config.to_string()).expect("the configuration is written");
    path
}

/// Copies the chart's rules into `folder`. With `patience` every alert fires so soon after its
/// condition began to hold, in place of the time in its `for`.
///
/// # Panics
/// When a file cannot be read or written.
pub fn rules(folder: &Path, patience: Option<&str>) {
    fs::create_dir_all(folder).expect("a folder for rules");
    let from = root().join("charts/paxos-operator/rules");
    for file in fs::read_dir(from).expect("the chart has rules") {
        let file = file.expect("a file").path();
        let text = fs::read_to_string(&file).expect("rules are text");
        let lines = text
            .lines()
            .map(|line| match (line.split_once("for: "), patience) {
                (Some((indent, _)), Some(patience)) if indent.trim().is_empty() => {
                    format!("{indent}for: {patience}\n")
                }
                _ => format!("{line}\n"),
            });
        let text: String = lines.collect();
        fs::write(folder.join(file.file_name().expect("a name")), text).expect("rules are written");
    }
}
