use std::fs;

use super::*;

fn from(pairs: &[(&'static str, &str)]) -> Result<Config, Vec<Invalid>> {
    Config::from_env(|name| {
        pairs
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn every_field_survives_the_environment() {
    let config = Config {
        node_id: NodeId::new(2).unwrap(),
        role: Role::Learner,
        port: 9,
        debug: true,
        proposers: vec!["a:1".into(), "b:2".into()],
        acceptors: vec!["[::1]:3".into()],
        learners: vec!["c:4".into()],
        stores: vec!["d:5".into()],
        use_cluster_store: true,
        data_dir: "/elsewhere".into(),
        log_dir: "/logs".into(),
        heartbeat_interval: Duration::from_millis(7),
        election_timeout: Duration::from_millis(77),
        notify_clients: vec![Target::parse("e:6").unwrap(), Target::parse("f").unwrap()],
        retry_window: Duration::from_millis(1234),
        retry_memory: 1 << 20,
        state_quota: Some(77_777),
        members_dir: Some("/nowhere".into()),
        access: Access {
            listen: Some("127.0.0.1".parse().unwrap()),
            hosts: vec!["h.example".into()],
            origins: vec!["http://o.example".into()],
        },
    };
    let env: BTreeMap<_, _> = config.to_env().into_iter().collect();
    assert_eq!(Config::from_env(|name| env.get(name).cloned()), Ok(config));
}

#[test]
fn only_plain_addresses_may_be_notified() {
    let env = |clients| {
        from(&[
            ("NODE_ID", "1"),
            ("ROLE", "acceptor"),
            ("ACCEPTORS", "a:1"),
            ("NOTIFY_CLIENTS", clients),
        ])
    };
    let clients = env(" a , B:81").unwrap().notify_clients;
    assert_eq!(
        clients.iter().map(Target::to_string).collect::<Vec<_>>(),
        ["a:80", "b:81"]
    );
    for bad in ["a,", "http://a", "a/x", "*"] {
        let invalid = env(bad).unwrap_err();
        assert_eq!(invalid[0].variable, "NOTIFY_CLIENTS", "{bad}");
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let own = ("ACCEPTORS", "a:1");
    let config = from(&[("NODE_ID", "1"), ("ROLE", "acceptor"), own]).unwrap();
    let mut expected = Config::new(Role::Acceptor, NodeId::new(1).unwrap());
    expected.acceptors = vec!["a:1".to_owned()];
    assert_eq!(config, expected);
    assert_eq!(config.port, 8080);
    assert_eq!(config.log_dir, PathBuf::from("/data/logs"));
}

#[test]
fn all_bad_variables_are_named_at_once() {
    let invalid = from(&[("NODE_ID", "0"), ("ACCEPTORS", "x"), ("DEBUG", "maybe")]).unwrap_err();
    let named: Vec<_> = invalid.iter().map(|i| i.variable).collect();
    assert_eq!(
        named,
        ["NODE_ID", "DEBUG", "PROPOSERS", "ACCEPTORS", "LEARNERS"]
    );
    assert_eq!(
        invalid[0].to_string(),
        r#"NODE_ID="0" is invalid: expected a whole number from 1 to 255"#
    );
    assert!(
        invalid[2]
            .to_string()
            .starts_with("PROPOSERS is not set: expected host:port")
    );
}

#[test]
fn addresses_are_host_and_port_and_stand_in_a_list_once() {
    let env = |list: &str| {
        let list = list.to_owned();
        Config::from_env(move |name| match name {
            "NODE_ID" => Some("1".to_owned()),
            "ROLE" => Some("acceptor".to_owned()),
            "ACCEPTORS" => Some(list.clone()),
            _ => None,
        })
    };
    for good in [
        "127.0.0.1:80",
        "[::1]:8080",
        "[fe80::1%2]:80",
        "a:1, b:1",
        "c-acceptor-1.c-acceptor.ns.svc:8080,c-acceptor-2.c-acceptor.ns.svc:8080",
        "a:1,a:2",
        "[::1]:1,[::2]:1",
    ] {
        assert!(env(good).is_ok(), "{good}");
    }
    for (bad, says) in [
        ("::1:8080", "in brackets"),
        ("fe80::1%lo:80", "in brackets"),
        ("a:1,2001:db8::7:80", "in brackets"),
        ("[::1:80", "no IPv6 address"),
        ("[a]:80", "no IPv6 address"),
        ("[127.0.0.1]:80", "no IPv6 address"),
        ("127.0.0.1", "no port"),
        ("a:0", "no port from 1"),
        ("a:99999", "no port from 1"),
        ("a:1,,b:1", "no port"),
        (":80", "no plain host"),
        ("a b:80", "no plain host"),
        ("http://h:80", "no plain host"),
        ("user@h:80", "no plain host"),
        ("a:1,b:1,a:1", "a:1 stands at positions 1 and 3"),
        ("Host:80,host:80", "host:80 stands at positions 1 and 2"),
        ("[::1]:80,[0:0:0:0:0:0:0:1]:80", "positions 1 and 2"),
        ("a:1, a:1", "positions 1 and 2"),
    ] {
        let invalid = env(bad).unwrap_err();
        assert_eq!(
            (invalid.len(), invalid[0].variable),
            (1, "ACCEPTORS"),
            "{bad}"
        );
        let text = invalid[0].to_string();
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn proposers_and_acceptors_must_be_in_their_own_lists() {
    let lists = [
        ("PROPOSERS", "a:1,b:2"),
        ("ACCEPTORS", "a:1"),
        ("LEARNERS", "a:1"),
    ];
    let env = |id| [&[("NODE_ID", id)], &lists[..]].concat();
    assert!(from(&env("2")).is_ok());
    assert_eq!(from(&env("3")).unwrap_err()[0].variable, "PROPOSERS");
    let acceptor = [("NODE_ID", "2"), ("ROLE", "acceptor"), ("ACCEPTORS", "a:1")];
    assert_eq!(from(&acceptor).unwrap_err()[0].variable, "ACCEPTORS");
}

#[test]
fn lists_in_files_take_the_place_of_those_that_are_set() {
    let dir = tempfile::tempdir().unwrap();
    let env = |more: &[(&'static str, &str)]| {
        let base = [
            ("NODE_ID", "2"),
            ("ROLE", "learner"),
            ("PROPOSERS", "a:1"),
            ("ACCEPTORS", "b:1,b:2,b:3"),
            ("MEMBERS_DIR", dir.path().to_str().unwrap()),
        ];
        from(&[more, &base[..]].concat())
    };
    let file = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    assert_eq!(env(&[]).unwrap().proposers, ["a:1"]);
    file("PROPOSERS", "c:1,c:2\n");
    file("STORES", "\n");
    let config = env(&[("USE_CLUSTER_STORE", "true")]).unwrap();
    assert_eq!(config.proposers, ["c:1", "c:2"]);
    assert!(config.stores.is_empty());
    file("STORES", "d:1");
    assert!(env(&[]).unwrap().use_cluster_store);
    // A proposer waits until it is named.
    let third = [("NODE_ID", "3"), ("ROLE", "proposer"), ("LEARNERS", "e:1")];
    assert!(env(&third).is_ok());
}

#[test]
fn bad_files_are_named_as_the_variables_in_whose_place_they_are() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ACCEPTORS"), "b:1,b:2").unwrap();
    fs::write(dir.path().join("PROPOSERS"), "").unwrap();
    fs::create_dir(dir.path().join("LEARNERS")).unwrap();
    let env = [
        ("NODE_ID", "1"),
        ("PROPOSERS", "a:1"),
        ("ACCEPTORS", "b:1,b:2,b:3"),
        ("LEARNERS", "e:1"),
        ("MEMBERS_DIR", dir.path().to_str().unwrap()),
    ];
    let invalid = from(&env).unwrap_err();
    let named: Vec<_> = invalid.iter().map(|i| i.variable).collect();
    assert_eq!(named, ["PROPOSERS", "ACCEPTORS", "MEMBERS_DIR"]);
    let fixed = r#"ACCEPTORS="b:1,b:2" is invalid: expected as many addresses as the variable has"#;
    assert!(invalid[1].to_string().starts_with(fixed), "{}", invalid[1]);
}

#[test]
fn the_election_timeout_leaves_room_for_heartbeats() {
    let base = [("NODE_ID", "1"), ("ROLE", "acceptor"), ("ACCEPTORS", "a:1")];
    let env = |more: &[(&'static str, &'static str)]| [&base[..], more].concat();
    assert!(from(&env(&[("HEARTBEAT_INTERVAL_MS", "200")])).is_err());
    assert!(
        from(&env(&[
            ("HEARTBEAT_INTERVAL_MS", "200"),
            ("ELECTION_TIMEOUT_MS", "800")
        ]))
        .is_ok()
    );
    assert!(from(&env(&[("ELECTION_TIMEOUT_MS", "199")])).is_err());
}

#[test]
fn a_quarter_of_the_memory_and_never_less_than_can_be_set() {
    assert_eq!(quota_for(512 << 20), 128 << 20);
    assert_eq!(quota_for(1), MIN_STATE_QUOTA);
}
