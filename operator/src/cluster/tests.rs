use super::*;
use crate::fields::Quantities;

fn parse(yaml: &str) -> Result<Cluster, Invalid> {
    crate::desired::read(&serde_saphyr::from_str(yaml).expect("the fixture is a PaxosCluster"))
}

fn with_spec(spec: &str) -> Result<Cluster, Invalid> {
    parse(&format!(
        "{{metadata: {{name: ledger, namespace: shop}}, spec: {spec}}}"
    ))
}

fn refused(spec: &str) -> String {
    with_spec(spec).expect_err(spec).to_string()
}

#[test]
fn an_empty_spec_is_a_cluster_of_the_default_size() {
    let cluster = with_spec("{}").unwrap();
    let sizes: Vec<_> = cluster
        .groups
        .iter()
        .map(|g| (g.role.name(), g.replicas))
        .collect();
    assert_eq!(sizes, [("proposer", 5), ("acceptor", 5), ("learner", 2)]);
    assert_eq!(cluster.members.quorum(), 3);
    assert!(
        cluster
            .image
            .starts_with("ghcr.io/clustersync/cluster-sync:")
    );
}

#[test]
fn the_quota_is_that_of_the_spec_or_what_fits_the_learners() {
    let cluster = |spec: &str| with_spec(spec).unwrap();
    let plain = cluster("{}");
    assert_eq!(plain.quota, None, "the nodes go by their own memory");
    assert_eq!(plain.retry_window.as_secs(), 60);
    let given = cluster("{quota: 256Mi, retryWindow: 5m}");
    assert_eq!(given.quota, Some(256 << 20));
    assert_eq!(given.retry_window.as_secs(), 300);
    let memory = |role: &str| format!("{{{role}: {{resources: {{limits: {{memory: 2Gi}}}}}}}}");
    assert_eq!(cluster(&memory("learner")).quota, Some(512 << 20));
    assert_eq!(cluster(&memory("proposer")).quota, Some(128 << 20));
    assert_eq!(cluster(&memory("acceptor")).quota, None);
}

#[test]
fn stores_are_three_when_enabled() {
    let cluster = with_spec("{store: {enabled: true}}").unwrap();
    assert_eq!(cluster.group(Role::Store).unwrap().replicas, 3);
    assert!(
        with_spec("{store: {replicas: 2}}")
            .unwrap()
            .group(Role::Store)
            .is_none()
    );
}

#[test]
fn a_refusal_names_the_field_what_it_held_and_what_it_may_hold() {
    for (spec, expected) in [
        (
            "{proposer: {replicas: 0}}",
            "spec.proposer.replicas: is 0, must be from 1 to 255",
        ),
        (
            "{notifyClients: [a, \"http://b\"]}",
            "spec.notifyClients[1]: is \"http://b\", must be a plain host or host:port",
        ),
        (
            "{hosts: [paxos.example.com, \"b:80\"]}",
            "spec.hosts[1]: is \"b:80\", must be a name without a port",
        ),
        (
            "{retryWindow: 2h}",
            "spec.retryWindow: is \"2h\", must be a time from 1s to 1h",
        ),
        (
            "{retryWindow: \"60\"}",
            "spec.retryWindow: is \"60\", must be a time",
        ),
        (
            "{quota: 10Ki}",
            "spec.quota: is \"10Ki\", must be 64Ki or more",
        ),
        ("{quota: all}", "spec.quota: is \"all\", must be a quantity"),
        (
            "{learner: {replicas: 256}}",
            "spec.learner.replicas: is 256, must be from 1 to 255",
        ),
        (
            "{store: {enabled: true, replicas: -1}}",
            "spec.store.replicas: is -1",
        ),
        (
            "{heartbeatIntervalMs: 1}",
            "spec.heartbeatIntervalMs: is 1, must be from 5 to 60000",
        ),
        (
            "{heartbeatIntervalMs: 101}",
            "spec.electionTimeoutMs: is 400, must be at least 4 times",
        ),
        (
            "{electionTimeoutMs: -5}",
            "spec.electionTimeoutMs: is -5, must be from 20",
        ),
        ("{image: ' '}", "spec.image: is empty"),
        (
            "{imagePullPolicy: Sometimes}",
            r#"spec.imagePullPolicy: is "Sometimes""#,
        ),
        (
            "{acceptor: {storage: {size: much}}}",
            r#"spec.acceptor.storage.size: is "much""#,
        ),
        (
            "{acceptor: {storage: {size: 0}}}",
            r#"spec.acceptor.storage.size: is "0""#,
        ),
        (
            "{proposer: {resources: {requests: {cpu: 1x}}}}",
            r#"spec.proposer.resources.requests.cpu: is "1x""#,
        ),
        (
            "{proposer: {resources: {requests: {cpu: 2}, limits: {cpu: 1500m}}}}",
            "spec.proposer.resources.requests.cpu: is 2, above the limit of 1500m",
        ),
    ] {
        assert!(
            refused(spec).starts_with(expected),
            "{spec}: {}",
            refused(spec)
        );
    }
}

#[test]
fn a_default_amount_gives_way_to_what_was_written() {
    let memory = |spec: &str| {
        let cluster = with_spec(spec).unwrap();
        let resources = cluster.groups[0].resources.clone();
        let amount = |amounts: Option<Quantities>| amounts.unwrap()["memory"].0.clone();
        (amount(resources.requests), amount(resources.limits))
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(memory("{}"), pair("64Mi", "512Mi"));
    let small = "{proposer: {resources: {limits: {memory: 32Mi}}}}";
    assert_eq!(memory(small), pair("32Mi", "32Mi"));
    let large = "{proposer: {resources: {requests: {memory: 2Gi}}}}";
    assert_eq!(memory(large), pair("2Gi", "2Gi"));
}

#[test]
fn names_that_no_service_may_have_are_refused() {
    let named = |name: &str| parse(&format!("{{metadata: {{name: '{name}'}}, spec: {{}}}}"));
    let longest = "l".repeat(names::CLUSTER_NAME_MAX);
    assert!(named(&longest).is_ok());
    // A StatefulSet of 52 characters is the longest whose pods can be made.
    assert_eq!(names::role(&longest, Role::Proposer).len(), 52);
    for bad in [
        &format!("{longest}l"),
        "",
        "9lives",
        "a.b",
        "a-",
        "Ledger",
        "ledgé",
    ] {
        assert_eq!(named(bad).expect_err(bad).field, "metadata.name");
    }
}

#[test]
fn the_acceptor_count_is_fixed_once_it_is_in_the_status() {
    let sized = |acceptors: u8| {
        parse(&format!(
            "{{metadata: {{name: ledger}}, spec: {{acceptor: {{replicas: {acceptors}}}}}, \
             status: {{acceptors: 3}}}}"
        ))
    };
    assert!(sized(3).is_ok());
    let refusal = sized(5).unwrap_err();
    assert_eq!(refusal.field, "spec.acceptor.replicas");
    assert!(
        refusal.problem.contains("created with 3 acceptors"),
        "{refusal}"
    );
}

#[test]
fn pods_change_but_for_what_the_operator_relies_on() {
    for (learner, expected) in [
        (
            "{podLabels: {clustersync.io/role: acceptor}}",
            "spec.learner.podLabels: sets clustersync.io/role",
        ),
        (
            "{podLabels: {clustersync.io/mine: x}}",
            "spec.learner.podLabels: sets clustersync.io/mine",
        ),
        (
            "{extraEnv: [{name: NODE_ID, value: '7'}]}",
            "spec.learner.extraEnv: sets NODE_ID once more",
        ),
        (
            "{extraEnv: [{name: A}, {name: A}]}",
            "spec.learner.extraEnv: sets A once more",
        ),
        (
            "{podTemplate: {metadata: {labels: {clustersync.io/cluster: other}}}}",
            "spec.learner.podTemplate.metadata.labels[clustersync.io/cluster]: changes what",
        ),
        (
            "{podTemplate: {metadata: null}}",
            "spec.learner.podTemplate.metadata.labels[app.kubernetes.io/component]: changes what",
        ),
        (
            "{podTemplate: {spec: {containers: [{name: node, env: [{name: DATA_DIR, value: /x}]}]}}}",
            "spec.learner.podTemplate.spec.containers[node].env[DATA_DIR]: changes what",
        ),
        (
            "{podTemplate: {spec: {containers: [{name: node, env: null}]}}}",
            "spec.learner.podTemplate.spec.containers[node].env[NODE_ID]: changes what",
        ),
        (
            "{podTemplate: {spec: {containers: [{name: node, ports: [{containerPort: 8080, hostPort: 1}]}]}}}",
            "spec.learner.podTemplate.spec.containers[node].ports[8080]: changes what",
        ),
        (
            "{podTemplate: {spec: {containers: [{name: node, volumeMounts: [{name: x, mountPath: /data}]}]}}}",
            "spec.learner.podTemplate.spec.containers[node].volumeMounts[/data]: changes what",
        ),
        ("{podTemplate: {spec: {containers: []}}}", ""),
        (
            "{podTemplate: {spec: {containers: null}}}",
            "spec.learner.podTemplate.spec.containers[node]: changes what",
        ),
        (
            "{podTemplate: {spec: {volumes: [{name: data, emptyDir: {}}]}}}",
            "spec.learner.podTemplate.spec.volumes[data]: changes what",
        ),
        ("{podTemplate: {spec: {tolerationz: []}}}", ""),
        (
            "{podTemplate: {spec: {tolerationz: [{key: a}]}}}",
            "spec.learner.podTemplate.spec.tolerationz: is no field of a pod template",
        ),
        (
            "{podTemplate: {spec: {containers: [{name: sidecar, imge: x}]}}}",
            "spec.learner.podTemplate.spec.containers[1].imge: is no field",
        ),
        (
            "{podTemplate: {spec: {terminationGracePeriodSeconds: soon}}}",
            "spec.learner.podTemplate: is not a pod template: invalid type",
        ),
        (
            "{podTemplate: {spec: {containers: [{name: sidecar, image: x}], hostAliases: [{ip: ::1}]}}}",
            "",
        ),
    ] {
        let told = match with_spec(&format!("{{learner: {learner}}}")) {
            Ok(_) => String::new(),
            Err(invalid) => invalid.to_string(),
        };
        assert_eq!(told.is_empty(), expected.is_empty(), "{learner}: {told}");
        assert!(told.starts_with(expected), "{learner}: {told}");
    }
}

#[test]
fn peers_of_a_network_policy_are_read_to_the_letter() {
    let policy = |policy: &str| with_spec(&format!("{{networkPolicy: {policy}}}"));
    assert_eq!(
        policy("{clients: [{podSelector: {}}]}").unwrap().access,
        None
    );
    let access = policy("{enabled: true, clients: [{podSelector: {matchLabels: {a: b}}}]}");
    let access = access.unwrap().access.unwrap();
    assert_eq!((access.clients.len(), access.metrics.len()), (1, 0));
    for (spec, expected) in [
        (
            // Taken for a selector of all pods, it would let everybody in.
            "{clients: [{podSelector: {matchLabel: {a: b}}}]}",
            "spec.networkPolicy.clients[0].podSelector.matchLabel: is no field of a peer",
        ),
        (
            "{metrics: [{}, {ipBlock: yes}]}",
            "spec.networkPolicy.metrics[1]: is not a peer of a NetworkPolicy: invalid type",
        ),
    ] {
        let told = policy(spec).expect_err(spec).to_string();
        assert!(told.starts_with(expected), "{told}");
    }
}
