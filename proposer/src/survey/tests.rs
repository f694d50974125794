use api::status::{AcceptorStatus, LearnerStatus, NodeStatus, StoreStatus};

use super::*;

fn name(role: Role, id: u8) -> NodeName {
    let id = NodeId::new(id).unwrap();
    NodeName { role, id }
}

fn acceptor_that(id: u8, state: &'static str) -> AcceptorStatus {
    AcceptorStatus {
        node: NodeStatus {
            node_id: id,
            role: "acceptor".into(),
            ..NodeStatus::default()
        },
        state: state.into(),
        ..AcceptorStatus::default()
    }
}

fn itself(acceptor: AcceptorStatus) -> Found {
    Found::Itself(Box::new(Status::Acceptor(acceptor)))
}

fn survey(dir: &std::path::Path) -> Survey {
    let config = Config {
        data_dir: dir.to_owned(),
        ..Config::new(Role::Proposer, NodeId::new(1).unwrap())
    };
    let identity = Identity::open(&config).unwrap();
    let mine = ClusterId::new(0xaa).unwrap();
    identity.witnessed(mine, Members::new(3)).unwrap();
    let survey = Survey::default();
    survey.state().me = Some(identity);
    survey
}

#[test]
fn a_stranger_is_a_warning_when_it_is_found_twice() {
    let dir = tempfile::tempdir().unwrap();
    let survey = survey(dir.path());
    let node = name(Role::Learner, 1);
    let stranger = Found::Stranger("learner-2".to_owned());
    survey.note(node, "h:1".to_owned(), stranger.clone());
    assert!(survey.warnings().is_empty());
    assert!(survey.trouble(node).is_some());
    survey.note(node, "h:1".to_owned(), stranger);
    let [warning] = &survey.warnings()[..] else {
        panic!("one address is wrong")
    };
    let says = "h:1 is listed as learner-1, and another node answers there, learner-2: LEARNERS";
    assert!(warning.starts_with(says), "{warning}");
    let learner = Status::Learner(LearnerStatus::default());
    survey.note(node, "h:1".to_owned(), Found::Itself(Box::new(learner)));
    assert!(survey.warnings().is_empty() && survey.trouble(node).is_none());
}

#[test]
fn what_keeps_acceptors_from_a_quorum_is_said_of_each() {
    let dir = tempfile::tempdir().unwrap();
    let survey = survey(dir.path());
    let members = Members::new(5).unwrap();
    assert!(survey.why_no_quorum(members).contains("just been asked"));
    let note = |id, found| survey.note(name(Role::Acceptor, id), format!("h:{id}"), found);
    let voting = |id| itself(acceptor_that(id, "voting"));
    (1..=5).for_each(|id| note(id, voting(id)));
    assert!(
        survey
            .why_no_quorum(members)
            .contains("all 5 acceptors vote")
    );
    note(1, Found::Nobody("Connection refused".to_owned()));
    note(2, Found::Stranger("proposer-2".to_owned()));
    let text = survey.why_no_quorum(members);
    assert!(
        text.starts_with("3 of 5 acceptors vote, 3 are needed: an election"),
        "{text}"
    );
    let refused = AcceptorStatus {
        refusal: Some("the cluster was founded with 3".to_owned()),
        ..acceptor_that(3, "other-count")
    };
    note(3, itself(refused));
    note(4, itself(acceptor_that(4, "joining")));
    let mut foreign = acceptor_that(5, "voting");
    foreign.node.cluster = Some("bb".to_owned());
    note(5, itself(foreign));
    let text = survey.why_no_quorum(members);
    for says in [
        "0 of 5 acceptors vote, 3 are needed: that is too few",
        "acceptor-1 at h:1 cannot be reached (Connection refused)",
        "h:2 is listed as acceptor-2, and another node answers there, proposer-2",
        "acceptor-3 does not vote: the cluster was founded with 3",
        "acceptor-4 is joining",
        "acceptor-5 at h:5 is of cluster bb, and this node's disk of 00000000000000aa",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
}

#[test]
fn messages_of_another_cluster_are_told_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let survey = survey(dir.path());
    let own = ClusterId::new(0xaa).unwrap();
    survey.note_foreign(name(Role::Proposer, 2), own);
    assert_eq!(survey.foreign(), None);
    survey.note_foreign(name(Role::Learner, 1), ClusterId::new(0xcc).unwrap());
    let told = survey.foreign().unwrap();
    assert!(
        told.contains("learner-1 of cluster 00000000000000cc"),
        "{told}"
    );
    assert_eq!(survey.warnings(), [told]);
    for (_, at) in survey.state().foreign.values_mut() {
        *at -= FOREIGN_FOR;
    }
    assert_eq!(survey.foreign(), None);
}

async fn answers(response: &'static str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(response.as_bytes()).await.unwrap();
    });
    address
}

#[tokio::test]
async fn whoever_answers_is_told_apart() {
    let node = name(Role::Acceptor, 2);
    let says = |status: &Status| {
        let body = serde_json::to_string(status).unwrap();
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}").leak()
    };
    let same = Status::Acceptor(acceptor_that(2, "voting"));
    let found = ask(node, &answers(says(&same)).await).await;
    assert_eq!(found, Found::Itself(Box::new(same)));
    let store = NodeStatus {
        node_id: 2,
        role: "store".into(),
        ..NodeStatus::default()
    };
    let store = StoreStatus {
        node: store,
        ..StoreStatus::default()
    };
    for (other, name) in [
        (Status::Acceptor(acceptor_that(3, "voting")), "acceptor-3"),
        (Status::Store(store), "store-2"),
    ] {
        let found = ask(node, &answers(says(&other)).await).await;
        assert_eq!(found, Found::Stranger(name.to_owned()));
    }
    let nginx = "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n<html>";
    let found = ask(node, &answers(nginx).await).await;
    assert_eq!(
        found,
        Found::NoNode("GET /status gives 404 Not Found".to_owned())
    );
    let nobody = ask(node, "127.0.0.1:1").await;
    assert!(matches!(nobody, Found::Nobody(_)), "{nobody:?}");
}
