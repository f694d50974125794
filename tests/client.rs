//! `proposer client` against a cluster of real processes: what it prints, how it ends, and that it
//! keeps working when servers die.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use api::env::Role;
use api::env::Target;
use serde_json::{Value as Json, json};
use testkit::cluster::{Cluster, binary, http};

/// The command, on this cluster.
fn command(cluster: &Cluster, arguments: &[&str]) -> Command {
    let list = |role| cluster.urls(role).join(",");
    let mut command = Command::new(binary::path());
    command
        .env_clear()
        .env("CLUSTER_SYNC_SERVERS", list(Role::Proposer))
        .env("CLUSTER_SYNC_LEARNERS", list(Role::Learner))
        .env("CLUSTER_SYNC_TIMEOUT", "30s")
        .arg("client")
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// Its exit code and what it printed.
fn run(cluster: &Cluster, arguments: &[&str]) -> (i32, String) {
    ended(command(cluster, arguments).output().unwrap())
}

fn ended(output: Output) -> (i32, String) {
    let code = output.status.code().expect("it ends by itself");
    let text = String::from_utf8(output.stdout).unwrap();
    (code, text.trim_end().to_owned())
}

fn said(code: i32, text: &str) -> (i32, String) {
    (code, text.to_owned())
}

/// Every entry of the first learner's log.
fn log(cluster: &Cluster) -> Vec<Json> {
    let (code, text) = run(cluster, &["log", "--no-follow", "--output", "json"]);
    assert_eq!(code, 0);
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn commands_say_what_became_of_them() {
    let cluster = Cluster::start(1, 1, 1);
    let run = |arguments: &[&str]| run(&cluster, arguments);
    let name = "a/b c?#%é";
    assert_eq!(run(&["get", name]), said(1, ""));
    assert_eq!(
        run(&["put", name, "1.000000000000000000001"]),
        said(0, "COMMITTED version=1 instance=1")
    );
    assert_eq!(run(&["get", name]), said(0, "1.000000000000000000001"));
    assert_eq!(
        run(&["put", name, "--string", "no json"]),
        said(0, "COMMITTED version=2 instance=2")
    );
    assert_eq!(
        run(&["get", name, "--consistency", "local"]),
        said(0, "\"no json\"")
    );
    assert_eq!(
        run(&["cas", name, "1", "[]"]),
        said(1, "NOT_COMMITTED version=2 instance=3")
    );
    assert_eq!(
        run(&["cas", name, "2", "[]"]),
        said(0, "COMMITTED version=3 instance=4")
    );
    assert_eq!(
        run(&["put", name, "0", "--if-version", "0"]),
        said(1, "NOT_COMMITTED version=3 instance=5")
    );
    let (code, text) = run(&["get", name, "--output", "json"]);
    let found: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &found["version"], &found["data"]),
        (0, &json!(3), &json!([]))
    );
    assert_eq!(run(&["delete", name, "--if-version", "2"]).0, 1);
    assert_eq!(run(&["delete", name]).0, 0);
    assert_eq!(run(&["get", name]), said(1, ""));
    assert_eq!(run(&["put", name, "no json"]), said(2, ""));
    assert_eq!(run(&["put", "", "1"]), said(2, ""));
    assert_eq!(run(&["put"]), said(2, ""));
    let (code, text) = run(&["status", "--output", "json"]);
    let states: Json = serde_json::from_str(&text).unwrap();
    assert_eq!((code, states[0]["is_leader"].as_bool()), (0, Some(true)));
    assert_eq!(states[1]["role"], "learner");
}

#[test]
fn data_may_come_from_standard_input() {
    let cluster = Cluster::start(1, 1, 1);
    let mut put = command(&cluster, &["put", "a", "-"]);
    let mut put = put
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    put.stdin
        .take()
        .unwrap()
        .write_all(b" {\"a\"\n: 1}\n")
        .unwrap();
    assert_eq!(ended(put.wait_with_output().unwrap()).0, 0);
    assert_eq!(run(&cluster, &["get", "a"]), said(0, "{\"a\"\n: 1}"));
    let (_, json) = run(&cluster, &["get", "a", "--output", "json"]);
    assert_eq!(json.lines().count(), 1, "{json}");
}

#[test]
fn a_request_sent_again_under_its_id_has_its_effect_once() {
    let cluster = Cluster::start(1, 1, 1);
    let put = |data| run(&cluster, &["put", "a", data, "--request-id", "same"]);
    let first = put("1");
    assert_eq!(first, said(0, "COMMITTED version=1 instance=1"));
    assert_eq!(put("1"), first);
    assert_eq!(put("2").0, 2, "another body under the same id is refused");
    assert_eq!(run(&cluster, &["get", "a"]), said(0, "1"));
}

#[test]
fn an_outcome_that_is_unknown_is_told_from_no_effect() {
    let cluster = Cluster::start(1, 1, 1);
    let put = |server: &str| {
        let mut command = command(&cluster, &["put", "a", "1", "--timeout", "300ms"]);
        let output = command.args(["--servers", server]).output().unwrap();
        let told = String::from_utf8(output.stderr.clone()).unwrap();
        (ended(output).0, told)
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let taker = thread::spawn(move || {
        // Takes requests and ends without an answer, as a server that dies.
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or(0);
            if request[..read].starts_with(b"end") {
                return;
            }
        }
    });
    let (code, told) = put(&address);
    assert_eq!(code, 4, "{told}");
    assert!(told.contains("--request-id"), "{told}");
    std::net::TcpStream::connect(&address)
        .and_then(|mut stream| stream.write_all(b"end"))
        .unwrap();
    taker.join().unwrap();
    let (code, told) = put(&address);
    assert_eq!(code, 3, "nobody listens there any more: {told}");
}

#[test]
fn writes_go_on_while_leaders_are_killed_and_have_their_effect_once() {
    let mut cluster = Cluster::start(3, 3, 1);
    let written = AtomicUsize::new(0);
    let (puts, kills) = (48, 5);
    let names: Vec<String> = (0..puts).map(|i| format!("r{i}")).collect();
    let put = command(&cluster, &["put"]);
    let (program, env): (_, Vec<_>) = (put.get_program().to_owned(), put.get_envs().collect());
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let put = |name: &String| {
                let mut put = Command::new(&program);
                put.env_clear();
                put.envs(env.iter().filter_map(|(key, value)| Some((key, (*value)?))));
                let output = put.args(["client", "put", name, "1"]).output().unwrap();
                written.fetch_add(1, Ordering::Relaxed);
                (name.clone(), ended(output))
            };
            names.iter().map(put).collect::<Vec<_>>()
        });
        for kill in 1..=kills {
            let due = || written.load(Ordering::Relaxed) >= kill * puts / (kills + 1);
            while !due() && !writer.is_finished() {
                thread::sleep(Duration::from_millis(1));
            }
            let leader = cluster.wait_for_leader();
            cluster.kill(&[leader]);
            cluster.restart(&[leader]);
        }
        for (name, (code, text)) in writer.join().unwrap() {
            assert_eq!(code, 0, "{name}: {text}");
            assert!(text.starts_with("COMMITTED version=1 "), "{name}: {text}");
        }
    });
    cluster.wait_until_ready();
    let log = log(&cluster);
    for name in &names {
        let effects = log
            .iter()
            .filter(|e| e["resource"] == **name && e["status"] == "COMMITTED");
        assert_eq!(effects.count(), 1, "{name}");
    }
}

#[test]
fn the_log_goes_on_at_another_learner_with_nothing_lost_or_twice() {
    let mut cluster = Cluster::start(1, 1, 2);
    let entries = 40;
    let limit = entries.to_string();
    let mut following = command(&cluster, &["log", "--output", "json", "--limit", &limit]);
    let mut following = following.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut expect = |instances: std::ops::RangeInclusive<u64>| {
        for instance in instances {
            let line = lines.next().expect("it continues").unwrap();
            let entry: Json = serde_json::from_str(&line).unwrap();
            assert_eq!(entry["instanceId"], instance);
        }
    };
    for _ in 0..20 {
        assert_eq!(run(&cluster, &["put", "a", "1"]).0, 0);
    }
    expect(1..=20);
    cluster.kill(&[(Role::Learner, 1)]);
    for _ in 0..20 {
        assert_eq!(run(&cluster, &["put", "a", "1"]).0, 0);
    }
    expect(21..=entries);
    assert_eq!(following.wait().unwrap().code(), Some(0));
}

#[test]
fn a_watch_shows_what_matches_and_goes_on_at_another_learner() {
    let mut cluster = Cluster::start(1, 1, 2);
    let arguments = ["watch", "--prefix", "a/", "--from", "1", "--limit", "3"];
    let mut watching = command(&cluster, &arguments);
    let mut watching = watching.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || lines.next().expect("it continues").unwrap();
    for arguments in [
        &["put", "b", "0"][..],
        &["put", "a/x", "[1, 2]"],
        &["cas", "a/x", "7", "0"],
        &["delete", "a/x"],
    ] {
        run(&cluster, arguments);
    }
    assert_eq!(next(), r#"2 put "a/x" version=1 [1, 2]"#);
    assert_eq!(next(), r#"4 delete "a/x" version=2"#);
    cluster.kill(&[(Role::Learner, 1)]);
    run(&cluster, &["put", "b", "1"]);
    run(&cluster, &["put", "a/y", "null"]);
    assert_eq!(next(), r#"6 put "a/y" version=1 null"#);
    assert_eq!(watching.wait().unwrap().code(), Some(0));

    // Without --from: what comes next.
    let mut watching = command(&cluster, &["watch", "--output", "json", "--limit", "1"]);
    let watching = watching.stdout(Stdio::piped()).spawn().unwrap();
    let written = AtomicBool::new(false);
    let output = thread::scope(|scope| {
        // Nobody says when it watches, so there is something new again and again.
        scope.spawn(|| {
            while !written.load(Ordering::Relaxed) {
                run(&cluster, &["put", "now", "1"]);
            }
        });
        let output = watching.wait_with_output().unwrap();
        written.store(true, Ordering::Relaxed);
        output
    });
    let (code, text) = ended(output);
    let change: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &change["event"], &change["resource"]),
        (0, &json!("put"), &json!("now"))
    );
}

#[test]
fn the_benchmark_counts_what_the_log_holds() {
    let cluster = Cluster::start(1, 1, 1);
    let arguments = [
        "bench",
        "--duration",
        "500ms",
        "--connections",
        "3",
        "--output",
        "json",
    ];
    let (code, text) = run(&cluster, &arguments);
    let report: Json = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &report["failed"]), (0, &json!(0)), "{text}");
    let log = log(&cluster);
    let committed = log.iter().filter(|entry| entry["status"] == "COMMITTED");
    let committed = committed.count();
    assert_eq!(report["committed"], committed, "{text}");
    assert!(committed >= 3, "{text}");
    assert!(report["latencyMs"]["p50"].as_f64() <= report["latencyMs"]["max"].as_f64());
}

#[test]
fn clients_in_the_list_are_notified_once_and_a_dead_one_hurts_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = listener.local_addr().unwrap().to_string();
    // Takes connections into its backlog, and nobody answers them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = silent.local_addr().unwrap().to_string();
    let mut cluster = Cluster::prepare(1, 1, 2);
    for learner in cluster.of_role(Role::Learner) {
        let targets = [&client, &dead].map(|address| Target::parse(address).unwrap());
        cluster.node_mut(learner).config.notify_clients = targets.into();
    }
    cluster.start_all();
    cluster.wait_until_ready();
    let put = |client: &str| {
        let (code, text) = run(
            &cluster,
            &["put", "a", "1", "--client-id", client, "--output", "json"],
        );
        assert_eq!(code, 0, "{text}");
        serde_json::from_str::<Json>(&text).unwrap()["instanceId"].clone()
    };
    let count = 6;
    let mut written = Vec::new();
    for _ in 0..count {
        put(&dead);
        put("10.0.0.1:80");
        written.push(put(&client));
    }
    let mut told: Vec<Json> = (0..count).map(|_| notification(&listener)).collect();
    told.sort_by_key(|instance| instance.as_u64());
    assert_eq!(told, written);
    let sent = || {
        let learners = cluster.urls(Role::Learner).into_iter();
        let metrics = learners.map(|url| http::get(&format!("{url}/metrics")).unwrap().text());
        let sent = metrics.filter_map(|text| {
            let line = text.lines().find(|l| {
                l.starts_with("paxos_notifications_total") && l.contains(r#"outcome="sent""#)
            })?;
            line.rsplit(' ').next()?.parse::<u64>().ok()
        });
        sent.sum::<u64>()
    };
    let all = cluster.wait_for("all are counted", Duration::from_secs(10), || {
        Some(sent()).filter(|sent| *sent >= count)
    });
    assert_eq!(all, count);
}

/// The next notification's instance.
fn notification(listener: &TcpListener) -> Json {
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    // The body is an object, and comes last.
    while !request.ends_with(b"}") {
        let mut more = [0; 1024];
        let read = stream.read(&mut more).unwrap();
        assert!(read > 0, "a whole request");
        request.extend_from_slice(&more[..read]);
    }
    stream
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .unwrap();
    let text = String::from_utf8(request).unwrap();
    assert!(
        text.starts_with("POST /notification HTTP/1.1\r\n"),
        "{text}"
    );
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let body: Json = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&body["status"], &body["resource"]),
        (&json!("COMMITTED"), &json!("a"))
    );
    assert!(body["timestamp"].is_u64(), "{body}");
    body["instanceId"].clone()
}

/// The seven endpoints as the first clients of this service know them: no query, no `requestId`.
#[test]
fn a_client_of_the_documented_endpoints_needs_nothing_else() {
    let cluster = Cluster::start(3, 3, 1);
    let agent = http::agent(Duration::from_secs(10));
    let leader = cluster.wait_for_leader();
    for (i, url) in cluster.urls(Role::Proposer).iter().enumerate() {
        let request = json!({
            "clientId": format!("client{i}:8080"),
            "timestamp": 1_700_000_000_000_u64 + i as u64,
            "operation": "WRITE",
            "resource": format!("R{i}"),
            "data": {"value": i},
            "retries": 3,
            "trace": {"unknown": ["fields", "are", "ignored"]},
        });
        let post = |path: &str, body: &Json| {
            http::post(&agent, &format!("{url}{path}"), body.to_string().into()).unwrap()
        };
        let answer = post("/propose", &request);
        assert_eq!(answer.status, 202, "{}", answer.text());
        assert_eq!(answer.json()["status"], "accepted");
        let instance = answer.json()["instanceId"].as_u64().unwrap();
        cluster.wait_until_learners_agree(instance);
        let learner = &cluster.urls(Role::Learner)[0];
        let entry = http::get(&format!("{learner}/instance/{instance}"))
            .unwrap()
            .json();
        assert_eq!(entry["resource"], request["resource"]);
        assert_eq!(entry["data"], request["data"]);
        // Sent again it gets a place in the log, and has no second effect there.
        let again = post("/propose", &request).json()["instanceId"]
            .as_u64()
            .unwrap();
        cluster.wait_until_learners_agree(again);
        let resource = http::get(&format!("{learner}/resource/R{i}"))
            .unwrap()
            .json();
        assert_eq!(
            (&resource["version"], &resource["instanceId"]),
            (&json!(1), &json!(instance))
        );

        let get = |path: &str| http::get(&format!("{url}{path}")).unwrap();
        let status = get("/status").json();
        for field in [
            "node_id",
            "role",
            "is_leader",
            "leader_id",
            "term",
            "last_instance_id",
            "committed_instance_id",
            "proposal_counter",
            "state",
            "uptime",
        ] {
            assert!(!status[field].is_null(), "{field} in {status}");
        }
        assert_eq!(get("/health").json()["status"], "healthy");
        assert_eq!(get("/logs?limit=5").status, 403);
        assert_eq!(get("/logs/important?limit=5").status, 200);
        let leads = status["is_leader"] == true;
        assert_eq!(get("/leader-status").status, if leads { 200 } else { 403 });
        let heartbeat = json!({
            "leaderId": leader.1,
            "term": status["term"],
            "lastInstanceId": status["last_instance_id"],
            "sentAt": 1,
        });
        let answer = post("/leader-heartbeat", &heartbeat);
        assert_eq!(
            (answer.status, &answer.json()["status"]),
            (200, &json!("acknowledged"))
        );
    }
}
