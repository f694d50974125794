//! A request that is sent again has no second effect, whatever others do meanwhile; what is not sure to
//! be new is not executed; what has no room waits. Through HTTP, on real processes.

use std::time::Duration;

use api::env::Role;
use serde_json::{Value as Json, json};
use testkit::cluster::http::{self, Answer};
use testkit::cluster::{Cluster, Name};
use ureq::Agent;

/// Long enough for anything that works at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster whose proposers have these settings.
fn cluster(counts: (u8, u8, u8), set: impl Fn(&mut api::env::Config)) -> Cluster {
    let mut cluster = Cluster::prepare(counts.0, counts.1, counts.2);
    for name in cluster.of_role(Role::Proposer) {
        set(&mut cluster.node_mut(name).config);
    }
    cluster.start_all();
    cluster.wait_until_ready();
    cluster
}

fn agent() -> Agent {
    http::agent(PATIENCE)
}

fn post(cluster: &Cluster, proposer: Name, path: &str, body: &Json) -> Answer {
    let url = format!("{}{path}", cluster.node(proposer).url());
    http::post(&agent(), &url, body.to_string().into_bytes()).expect("an answer")
}

/// Sent until some proposer knows the outcome.
fn propose(cluster: &Cluster, proposer: Name, body: &Json) -> Answer {
    cluster.wait_for("an outcome", PATIENCE, || {
        let answer = post(cluster, proposer, "/propose?wait=true", body);
        (answer.status != 503 && answer.status != 504).then_some(answer)
    })
}

fn committed(answer: &Answer) -> (u64, u64) {
    let json = answer.json();
    assert_eq!(json["status"], "COMMITTED", "{}", answer.text());
    let number = |name: &str| json[name].as_u64().expect("a number");
    (number("instanceId"), number("version"))
}

fn write(client: &str, more: &Json) -> Json {
    let mut body = json!({
        "clientId": client, "timestamp": 1, "operation": "WRITE", "resource": client, "data": 1,
    });
    let fields = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(fields);
    body
}

/// Batches of requests of one client, each request with its own id.
fn flood(cluster: &Cluster, client: &str, batches: u64) {
    for batch in 0..batches {
        let request = |i: u64| {
            let id = (batch * 1024 + i).to_string();
            write(
                client,
                &json!({"requestId": id, "resource": format!("flood/{}", i % 50)}),
            )
        };
        let body: Json = (0..1024).map(request).collect();
        cluster.wait_for("a batch", PATIENCE, || {
            let path = "/propose/batch?wait=true&timeoutMs=20000";
            let answer = post(cluster, cluster.wait_for_leader(), path, &body);
            let answers = answer.json();
            let all = answers.as_array()?.iter();
            (answer.status == 200)
                .then(|| all.filter(|one| one["status"] == "COMMITTED").count())
                .filter(|count| *count == 1024)
        });
    }
}

#[test]
fn no_flood_of_others_gives_a_request_a_second_effect() {
    let mut cluster = cluster((3, 3, 2), |_| {});
    // Each way in which a request may be named.
    let requests = [
        write("by-id", &json!({"requestId": "once"})),
        write("by-fields", &json!({"timestamp": 77})),
        write("by-sequence", &json!({"sequence": 9})),
        write("by-both", &json!({"sequence": 0, "requestId": "x"})),
        write("conditional", &json!({"requestId": "c", "ifVersion": 0})),
        write("refused", &json!({"requestId": "c", "ifVersion": 5})),
        write("deleted", &json!({"requestId": "d", "operation": "DELETE"})),
        write(
            "read",
            &json!({"requestId": "r", "operation": "READ", "resource": "by-id"}),
        ),
    ];
    let proposers = cluster.of_role(Role::Proposer);
    let first: Vec<Json> = requests
        .iter()
        .map(|body| propose(&cluster, proposers[0], body).json())
        .collect();
    assert_eq!(first[5]["status"], "NOT_COMMITTED");
    assert_eq!(first[5]["resourceInstanceId"], 0);
    let by_id = write("by-id", &json!({"requestId": "later", "data": 2}));
    assert_eq!(committed(&propose(&cluster, proposers[1], &by_id)).1, 2);
    // More than the first release remembered.
    flood(&cluster, "foreign", 129);
    let again = |cluster: &Cluster, when: &str| {
        for (body, first) in requests.iter().zip(&first) {
            for proposer in cluster.of_role(Role::Proposer) {
                let answer = propose(cluster, proposer, body);
                assert_eq!(&answer.json(), first, "{when}: {body}");
            }
        }
        let batch: Json = requests.iter().cloned().collect();
        let answer = post(
            cluster,
            cluster.wait_for_leader(),
            "/propose/batch?wait=true",
            &batch,
        );
        assert_eq!(
            answer.json(),
            Json::from(first.clone()),
            "{when}, in a batch"
        );
    };
    again(&cluster, "after the flood");
    let leader = cluster.wait_for_leader();
    cluster.kill(&[leader]);
    cluster.restart(&[leader]);
    cluster.wait_until_ready();
    again(&cluster, "after the leader's end");
    let learners = cluster.of_role(Role::Learner);
    cluster.kill(&learners);
    cluster.restart(&learners);
    cluster.wait_until_ready();
    again(&cluster, "after the learners' restart");
}

/// Traffic of somebody else for so long that log time passes.
fn let_time_pass(cluster: &Cluster, seconds: u64) {
    let proposer = cluster.of_role(Role::Proposer)[0];
    let started = std::time::Instant::now();
    let mut sequence = 0;
    while started.elapsed() < Duration::from_secs(seconds) {
        sequence += 1;
        let client = format!("passer-{}", std::process::id());
        let body = write(
            &client,
            &json!({"sequence": sequence, "timestamp": sequence}),
        );
        propose(cluster, proposer, &body);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_may_be_older_than_what_is_remembered_is_not_executed() {
    let cluster = cluster((3, 3, 2), |config| {
        config.retry_window = Duration::from_secs(1);
    });
    let proposers = cluster.of_role(Role::Proposer);
    let by_time = |timestamp: u64| write("by-time", &json!({"timestamp": timestamp}));
    let by_sequence = |sequence: u64| write("by-sequence", &json!({"sequence": sequence}));
    let constant = |id: &str| write("constant", &json!({"requestId": id}));
    for number in [100, 200] {
        propose(&cluster, proposers[0], &by_time(number));
        propose(&cluster, proposers[1], &by_sequence(number));
        propose(&cluster, proposers[2], &constant(&number.to_string()));
    }
    let_time_pass(&cluster, 5);
    for (body, advice) in [
        (by_time(100), "timestamp"),
        (by_time(200), "timestamp"),
        (by_sequence(100), "sequence"),
        (by_sequence(200), "sequence"),
    ] {
        let answer = propose(&cluster, proposers[0], &body);
        assert_eq!(answer.status, 409, "{body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let detail = answer.json()["detail"].to_string();
        assert!(detail.contains(advice), "{detail}");
        assert!(detail.contains("200") || detail.contains("201"), "{detail}");
        let batch = post(
            &cluster,
            proposers[1],
            "/propose/batch?wait=true",
            &json!([body]),
        );
        assert_eq!(batch.json()[0]["status"], "TOO_OLD", "{}", batch.text());
    }
    // New ones still work, each with the version that follows.
    for body in [by_time(201), by_sequence(201)] {
        assert_eq!(committed(&propose(&cluster, proposers[0], &body)).1, 3);
    }
    // One that always sends the same timestamp tells nothing by it.
    let answer = propose(&cluster, proposers[0], &constant("new"));
    assert_eq!(committed(&answer).1, 3);
}

#[test]
fn without_room_to_remember_it_a_request_waits_and_others_do_not() {
    let cluster = cluster((1, 1, 1), |config| config.retry_memory = 64 << 10);
    let proposer = (Role::Proposer, 1);
    let one = |client: &str, id: u64| write(client, &json!({"requestId": id.to_string()}));
    let batch: Json = (0..1024).map(|id| one("flood", id)).collect();
    let answer = post(&cluster, proposer, "/propose/batch?wait=true", &batch);
    let answers = answer.json();
    let count = |status: &str| {
        let all = answers.as_array().expect("a list").iter();
        all.filter(|one| one["status"] == status).count()
    };
    assert_eq!(
        count("COMMITTED") + count("FULL"),
        1024,
        "{}",
        answer.text()
    );
    assert!(count("FULL") > 100 && count("COMMITTED") > 100);
    let answer = post(
        &cluster,
        proposer,
        "/propose?wait=true",
        &one("flood", 5000),
    );
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["reason"], "full");
    assert!(!answer.header("retry-after").is_empty());
    let all = post(
        &cluster,
        proposer,
        "/propose/batch?wait=true",
        &json!([one("flood", 5001)]),
    );
    assert_eq!(all.status, 503, "{}", all.text());
    // What was executed is known, and others have room.
    assert_eq!(
        committed(&propose(&cluster, proposer, &one("flood", 0))).1,
        1
    );
    for other in 0..5 {
        let body = one(&format!("other-{other}"), 1);
        committed(&post(&cluster, proposer, "/propose?wait=true", &body));
    }
    let found = http::get(&format!(
        "{}/resource/flood",
        cluster.node((Role::Learner, 1)).url()
    ));
    let version = found.unwrap().json()["version"].as_u64();
    assert_eq!(
        version,
        Some(count("COMMITTED") as u64),
        "what was refused has no effect"
    );
}

#[test]
fn over_the_quota_deletes_and_smaller_data_pass_and_growth_is_refused() {
    let mut cluster = cluster((3, 3, 2), |config| config.state_quota = Some(100_000));
    let proposers = cluster.of_role(Role::Proposer);
    let data = "x".repeat(10_000);
    let put = |key: u64, data: &str, id: &str| {
        let resource = format!("key-{key}");
        write(
            "filler",
            &json!({"resource": resource, "data": data, "requestId": id}),
        )
    };
    for key in 0..9 {
        let answer = propose(&cluster, proposers[0], &put(key, &data, &key.to_string()));
        committed(&answer);
    }
    let refused = |cluster: &Cluster| {
        for proposer in cluster.of_role(Role::Proposer) {
            let body = put(10, &data, "one too many");
            let answer = cluster.wait_for("a refusal", PATIENCE, || {
                let answer = post(cluster, proposer, "/propose?wait=true", &body);
                (answer.json()["reason"] == "quota").then_some(answer)
            });
            assert_eq!(answer.status, 503);
            let json = answer.json();
            let detail = json["detail"].as_str().expect("a detail");
            assert!(
                detail.contains("100000") && detail.contains("quota"),
                "{detail}"
            );
            assert_eq!(json["limit"], 100_000);
            assert!(json["used"].as_u64().is_some_and(|used| used > 90_000));
        }
    };
    refused(&cluster);
    let learners = cluster.of_role(Role::Learner);
    cluster.kill(&learners);
    cluster.restart(&learners);
    cluster.wait_until_ready();
    refused(&cluster);
    let metrics = http::get(&format!("{}/metrics", cluster.node(learners[0]).url())).unwrap();
    let metrics = metrics.text();
    let quota = metrics
        .lines()
        .find(|line| line.starts_with("paxos_state_quota_bytes"));
    assert!(
        quota.is_some_and(|line| line.ends_with(" 100000")),
        "{quota:?}"
    );
    // The same size passes, and so do less and nothing; then there is room again.
    committed(&propose(&cluster, proposers[1], &put(3, &data, "same")));
    committed(&propose(&cluster, proposers[1], &put(4, "small", "less")));
    let delete = json!({"operation": "DELETE", "requestId": "delete", "resource": "key-5"});
    committed(&propose(&cluster, proposers[2], &write("filler", &delete)));
    let answer = propose(&cluster, proposers[0], &put(10, &data, "one too many"));
    assert_eq!(committed(&answer).1, 1, "what was refused is new");
}

#[test]
fn an_instance_never_comes_back_as_a_version_does() {
    let cluster = cluster((3, 3, 2), |_| {});
    let proposer = cluster.of_role(Role::Proposer)[0];
    let lock = |client: &str, more: Json| {
        let mut body = write(client, &more);
        body["resource"] = "lock".into();
        body["requestId"] = format!("{more}").into();
        propose(&cluster, proposer, &body)
    };
    let (taken, version) = committed(&lock("a", json!({"ifInstance": 0})));
    committed(&lock(
        "x",
        json!({"operation": "DELETE", "ifInstance": taken}),
    ));
    let (other, same_version) = committed(&lock("b", json!({"ifInstance": 0})));
    assert_eq!(version, same_version, "a version begins again");
    let refused = lock("a", json!({"ifInstance": taken, "ifVersion": version})).json();
    assert_eq!(refused["status"], "NOT_COMMITTED");
    assert_eq!(refused["version"], same_version);
    assert_eq!(refused["resourceInstanceId"], other);
    // Both must hold, and what the refusal says is enough to continue.
    let refused = lock("a", json!({"ifInstance": other, "ifVersion": 9})).json();
    assert_eq!(refused["status"], "NOT_COMMITTED");
    let went_on = lock("b", json!({"ifInstance": refused["resourceInstanceId"]}));
    assert_eq!(committed(&went_on).1, 2);
    let read = lock("a", json!({"operation": "READ", "ifInstance": 1}));
    assert_eq!(read.status, 400, "{}", read.text());
    assert!(read.text().contains("ifInstance"), "{}", read.text());
}

#[test]
fn a_cached_copy_of_what_was_deleted_and_written_again_is_not_taken_for_it() {
    let mut cluster = cluster((1, 1, 1), |_| {});
    let store = cluster.add_store();
    cluster.wait_until_ready();
    let proposer = (Role::Proposer, 1);
    let put = |id: &str, operation: &str| {
        write(
            "c",
            &json!({"requestId": id, "operation": operation, "data": id}),
        )
    };
    for reader in [(Role::Learner, 1), store] {
        let url = format!("{}/resource/c", cluster.node(reader).url());
        let get = |tag: Option<&str>| {
            let mut request = ::http::Request::get(&url);
            if let Some(tag) = tag {
                request = request.header("if-none-match", tag);
            }
            http::send(&agent(), request.body(Vec::new()).unwrap()).unwrap()
        };
        committed(&propose(
            &cluster,
            proposer,
            &put(&format!("{}-1", reader.0), "WRITE"),
        ));
        let first = get(None);
        let tag = first.header("etag").to_owned();
        assert_eq!(get(Some(&tag)).status, 304);
        committed(&propose(
            &cluster,
            proposer,
            &put(&format!("{}-2", reader.0), "DELETE"),
        ));
        committed(&propose(
            &cluster,
            proposer,
            &put(&format!("{}-3", reader.0), "WRITE"),
        ));
        let now = get(Some(&tag));
        assert_eq!(now.status, 200, "{}: {tag}", reader.0);
        assert_ne!(now.header("etag"), tag);
        committed(&propose(
            &cluster,
            proposer,
            &put(&format!("{}-4", reader.0), "DELETE"),
        ));
    }
}
