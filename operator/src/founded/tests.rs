use serde_json::json;

use super::*;

fn cluster(acceptors: u8) -> Cluster {
    let spec = format!("{{metadata: {{name: c}}, spec: {{acceptor: {{replicas: {acceptors}}}}}}}");
    Cluster::parse(&serde_saphyr::from_str(&spec).unwrap()).unwrap()
}

fn claim(name: &str, founders: Option<&str>) -> PersistentVolumeClaim {
    let mut claim = json!({ "metadata": { "name": name, "annotations": {} } });
    if let Some(founders) = founders {
        claim["metadata"]["annotations"][names::ACCEPTORS_ANNOTATION] = founders.into();
    }
    serde_json::from_value(claim).unwrap()
}

fn claims(count: u8, founders: Option<&str>) -> Vec<PersistentVolumeClaim> {
    let name = |id| format!("data-c-acceptor-{id}");
    (1..=count).map(|id| claim(&name(id), founders)).collect()
}

#[test]
fn claims_say_with_how_many_acceptors_they_were_made() {
    let marked = claims(5, Some("5"));
    for made in [false, true] {
        assert_eq!(check_claims(&cluster(5), &marked, made), Ok(()));
        for other in [1, 3, 4, 6, 7] {
            let refused = check_claims(&cluster(other), &marked, made).unwrap_err();
            assert!(refused.volumes);
            let text = refused.to_string();
            assert!(text.contains("founded with 5 acceptors"), "{text}");
            assert!(text.contains("Set it to 5"), "{text}");
            assert!(
                text.contains("data-c-acceptor-1, data-c-acceptor-2"),
                "{text}"
            );
        }
    }
    let one = [claim("data-c-acceptor-4", Some("5"))];
    assert!(
        check_claims(&cluster(3), &one, false).is_err(),
        "one is enough"
    );
}

#[test]
fn claims_of_an_older_operator_say_it_by_their_number() {
    let unmarked = claims(5, None);
    assert!(check_claims(&cluster(3), &unmarked, false).is_err());
    assert_eq!(check_claims(&cluster(5), &unmarked, false), Ok(()));
    // That more were missing is no sign, and where the set is there it says the number itself.
    assert_eq!(check_claims(&cluster(7), &unmarked, false), Ok(()));
    assert_eq!(check_claims(&cluster(3), &unmarked, true), Ok(()));
}

#[test]
fn other_claims_say_nothing() {
    let others = [
        claim("data-c-learner-1", Some("5")),
        claim("data-c-acceptor-x", Some("5")),
        claim("data-c-acceptor-01", Some("5")),
        claim("data-c-acceptor-9x", None),
        claim("data-cc-acceptor-9", Some("5")),
        claim("data-c-acceptor-2", Some("many")),
    ];
    assert_eq!(check_claims(&cluster(3), &others, false), Ok(()));
    let mut leaving = claims(5, Some("5"));
    for claim in &mut leaving {
        let at = json!("2026-01-01T00:00:00Z");
        claim.metadata.deletion_timestamp = Some(serde_json::from_value(at).unwrap());
    }
    assert_eq!(check_claims(&cluster(3), &leaving, false), Ok(()));
}
