use std::convert::Infallible;

use super::*;
use crate::ids::{Ballot, Slot};

/// Three or more acceptors with their disks, and a network that loses nothing.
/// Where records lie: their values stay in memory.
const NOWHERE: Place = Place { file: 0, offset: 0 };

struct World {
    members: Members,
    /// Whose list names another number of acceptors.
    lists: BTreeMap<NodeId, Members>,
    /// Each disk.
    disks: BTreeMap<NodeId, Disk>,
    up: BTreeMap<NodeId, Member>,
    numbers: u64,
}

#[derive(Clone)]
struct Disk {
    start: Start,
    witnessed: bool,
    records: Vec<Record>,
}

fn id(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

impl World {
    fn new(acceptors: u8) -> World {
        let mut world = World {
            members: Members::new(acceptors).unwrap(),
            lists: BTreeMap::new(),
            disks: BTreeMap::new(),
            up: BTreeMap::new(),
            numbers: 100,
        };
        for node in world.members.acceptors() {
            world.wipe(node);
        }
        world
    }

    /// All of them have met.
    fn founded(acceptors: u8) -> World {
        let mut world = World::new(acceptors);
        world.start_all();
        world.meet();
        assert_eq!(
            world.voting(),
            world.members.acceptors().collect::<Vec<_>>()
        );
        world
    }

    /// Another cluster.
    fn founded_later(acceptors: u8) -> World {
        let mut world = World::new(acceptors);
        world.numbers = 1000;
        for node in world.members.acceptors() {
            world.wipe(node);
        }
        world.start_all();
        world.meet();
        world
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn wipe(&mut self, node: NodeId) {
        let start = Start {
            incarnation: self.number(),
            count: 1,
            run: self.number(),
        };
        let disk = Disk {
            start,
            witnessed: false,
            records: Vec::new(),
        };
        self.disks.insert(node, disk);
    }

    fn start(&mut self, node: NodeId) {
        let run = self.number();
        let disk = self.disks.get_mut(&node).unwrap();
        if std::mem::take(&mut disk.witnessed) {
            disk.start = disk.start.next(run);
        }
        let list = self.lists.get(&node).copied().unwrap_or(self.members);
        let mut member = Member::new(node, list, disk.start, Acceptor::new());
        for record in &disk.records {
            member.replay(record, NOWHERE);
        }
        let begun = member.begin();
        self.up.insert(node, member);
        self.persist(node, begun);
    }

    fn start_all(&mut self) {
        for node in self.members.acceptors() {
            self.start(node);
        }
    }

    fn stop(&mut self, node: NodeId) {
        self.up.remove(&node);
    }

    fn persist<E>(&mut self, node: NodeId, output: Output<Record, E>) -> E {
        let records = &mut self.disks.get_mut(&node).unwrap().records;
        let mut places = Vec::new();
        let written = output.persist_proven(|new| {
            let votes = new.iter();
            let votes = votes.filter(|record| matches!(record, Record::Accepted { .. }));
            places.extend(votes.map(|_| NOWHERE));
            records.extend_from_slice(new);
            Ok::<_, Infallible>(())
        });
        let (effects, proof) = written.unwrap_or_else(|never| match never {});
        let member = self.up.get_mut(&node).unwrap();
        member.written(proof, &places);
        effects
    }

    fn ask(&mut self, node: NodeId, request: Request) -> Option<Reply> {
        let output = self.up.get_mut(&node)?.handle(request);
        let answer = self.persist(node, output);
        Some(answer.into_reply(&()).unwrap())
    }

    /// Everybody asks everybody that is up, until nothing changes.
    fn meet(&mut self) {
        for _ in 0..3 {
            for node in self.members.acceptors() {
                let Some((open, request)) = self.up.get(&node).and_then(Member::enlist) else {
                    continue;
                };
                for other in open {
                    let Some(reply) = self.ask(other, request.clone()) else {
                        continue;
                    };
                    let output = self.up.get_mut(&node).unwrap().heard(other, &reply);
                    self.persist(node, output);
                }
            }
        }
        for node in self.voting() {
            self.disks.get_mut(&node).unwrap().witnessed = true;
        }
    }

    fn voting(&self) -> Vec<NodeId> {
        let voting = self.up.iter().filter(|(_, member)| member.votes());
        voting.map(|(node, _)| *node).collect()
    }

    fn refusal(&self, node: NodeId) -> Option<&'static str> {
        self.up[&node].refusal().map(Refusal::name)
    }
}

/// As the same disk would be, had an earlier build written it.
fn by_an_earlier_build(disk: &mut Disk) {
    for record in &mut disk.records {
        if let Record::Known(roster) = record {
            roster.founders = None;
        }
    }
}

fn count(of: u8) -> Members {
    Members::new(of).unwrap()
}

fn prepare() -> Request {
    Request::Prepare {
        ballot: Ballot::new(1, id(1)).unwrap(),
        run: 1,
        from: Slot(1),
    }
}

#[test]
fn a_new_cluster_begins_when_all_its_acceptors_have_met() {
    let mut world = World::new(3);
    world.start(id(1));
    world.start(id(2));
    world.meet();
    assert_eq!(world.voting(), []);
    assert_eq!(world.ask(id(1), prepare()), Some(Reply::NotVoting));
    world.start(id(3));
    world.meet();
    assert_eq!(world.voting(), [id(1), id(2), id(3)]);
    assert!(matches!(
        world.ask(id(1), prepare()),
        Some(Reply::Promise { .. })
    ));
    let clusters: BTreeSet<_> = world.up.values().map(Member::cluster).collect();
    assert_eq!(clusters.len(), 1);
}

#[test]
fn starts_and_stops_during_the_founding_do_no_harm() {
    let mut world = World::new(3);
    for down in [1, 2, 3, 1] {
        world.start_all();
        world.stop(id(down));
        world.meet();
        assert_eq!(world.voting(), []);
    }
    world.start_all();
    world.meet();
    assert_eq!(world.voting().len(), 3);
}

#[test]
fn an_acceptor_alone_needs_no_witness() {
    let mut world = World::new(1);
    world.start(id(1));
    assert_eq!(world.voting(), [id(1)]);
    world.start(id(1));
    assert_eq!(world.voting(), [id(1)]);
}

#[test]
fn a_restart_needs_a_quorum_and_no_more() {
    let mut world = World::founded(5);
    for down in [4, 5] {
        world.stop(id(down));
    }
    world.start(id(1));
    assert_eq!(world.voting(), [id(2), id(3)]);
    world.meet();
    assert_eq!(world.voting(), [id(1), id(2), id(3)]);
    // All of the quorum at once.
    for node in [1, 2, 3] {
        world.start(id(node));
    }
    assert_eq!(world.voting(), []);
    world.meet();
    assert_eq!(world.voting(), [id(1), id(2), id(3)]);
}

#[test]
fn an_acceptor_whose_disk_was_wiped_never_votes_again() {
    for survivor in [1, 3] {
        let mut world = World::founded(3);
        let wiped = [1, 2, 3].into_iter().filter(|node| *node != survivor);
        for node in wiped.clone() {
            world.stop(id(node));
            world.wipe(id(node));
            world.start(id(node));
        }
        world.meet();
        // One that remembers is enough, however many forget.
        assert_eq!(world.voting(), [id(survivor)]);
        for node in wiped {
            assert_eq!(world.refusal(id(node)), Some("amnesia"));
            assert_eq!(world.ask(id(node), prepare()), Some(Reply::NotVoting));
        }
    }
}

#[test]
fn an_acceptor_that_forgot_is_no_witness() {
    let mut world = World::founded(3);
    world.stop(id(2));
    world.wipe(id(2));
    world.start(id(2));
    world.stop(id(3));
    world.start(id(1));
    world.meet();
    assert_eq!(world.voting(), []);
    world.start(id(3));
    world.meet();
    assert_eq!(world.voting(), [id(1), id(3)]);
}

#[test]
fn an_older_copy_of_a_disk_is_unmasked() {
    let mut world = World::founded(3);
    let copy = world.disks[&id(2)].clone();
    world.start(id(2));
    world.meet();
    assert_eq!(world.voting().len(), 3);
    world.stop(id(2));
    world.disks.insert(id(2), copy);
    // It counts the same starts again: what tells them apart is the run's own number. However often
    // it starts, it does not get past what is known.
    for _ in 0..4 {
        world.start(id(2));
        world.meet();
    }
    assert_eq!(world.voting(), [id(1), id(3)]);
    assert_eq!(world.refusal(id(2)), Some("older-copy"));
}

#[test]
fn two_processes_on_one_disk_do_not_both_vote() {
    let mut world = World::founded(3);
    let copy = world.disks[&id(2)].clone();
    world.start(id(2));
    let first = world.up.remove(&id(2)).unwrap();
    world.disks.insert(id(2), copy);
    world.start(id(2));
    world.meet();
    assert_eq!(world.voting().len(), 3);
    world.up.insert(id(2), first);
    world.meet();
    assert_eq!(world.refusal(id(2)), Some("older-copy"));
}

#[test]
fn a_disk_of_another_cluster_is_refused() {
    let mut world = World::founded(3);
    let other = World::founded_later(3);
    world.stop(id(3));
    world.disks.insert(id(3), other.disks[&id(3)].clone());
    world.start(id(3));
    world.meet();
    assert_eq!(world.refusal(id(3)), Some("other-cluster"));
    assert_eq!(world.voting(), [id(1), id(2)]);
}

#[test]
fn an_acceptor_with_a_disk_of_another_cluster_keeps_no_other_from_voting() {
    let mut world = World::founded(3);
    let other = World::founded_later(3);
    world.stop(id(1));
    world.disks.insert(id(1), other.disks[&id(1)].clone());
    // The others ask it first when they start again.
    world.start_all();
    world.meet();
    assert_eq!(world.voting(), [id(2), id(3)]);
    assert_eq!(world.refusal(id(2)), None);
    assert_eq!(world.refusal(id(1)), Some("other-cluster"));
}

/// Simulator, seed 408558.
#[test]
fn a_question_from_the_founding_that_reaches_a_disk_of_another_cluster_keeps_nobody_from_voting() {
    let mut world = World::new(3);
    world.start_all();
    let (_, delayed) = world.up[&id(3)].enlist().unwrap();
    world.meet();
    let other = World::founded_later(3);
    world.stop(id(1));
    world.disks.insert(id(1), other.disks[&id(1)].clone());
    world.start(id(1));
    let reply = world.ask(id(1), delayed.clone()).unwrap();
    let is_other_disk = |reply: &Reply| {
        let refusal = match reply {
            Reply::Refused { refusal, .. } => Some(refusal),
            _ => None,
        };
        matches!(refusal, Some(Refusal::OtherDisk { .. }))
    };
    assert!(is_other_disk(&reply), "{reply:?}");
    let heard = world.up.get_mut(&id(3)).unwrap().heard(id(1), &reply);
    world.persist(id(3), heard);
    assert_eq!(world.refusal(id(3)), None);
    assert_eq!(world.voting(), [id(2), id(3)]);
    // The same from a second one, and there is no quorum left that knows it.
    world.stop(id(2));
    world.disks.insert(id(2), other.disks[&id(2)].clone());
    world.start(id(2));
    let reply = world.ask(id(2), delayed).unwrap();
    assert!(is_other_disk(&reply), "{reply:?}");
    let heard = world.up.get_mut(&id(3)).unwrap().heard(id(2), &reply);
    world.persist(id(3), heard);
    assert_eq!(world.refusal(id(3)), Some("amnesia"));
}

#[test]
fn an_acceptor_more_is_refused_however_it_is_added() {
    for older in [false, true] {
        let mut world = World::founded(3);
        if older {
            world.disks.values_mut().for_each(by_an_earlier_build);
            world.start_all();
        }
        world.members = count(4);
        world.wipe(id(4));
        world.start(id(4));
        world.meet();
        assert_eq!(world.refusal(id(4)), Some("other-count"));
        assert_eq!(
            world.voting(),
            [id(1), id(2), id(3)],
            "the others keep their list"
        );
        world.start_all();
        world.meet();
        assert_eq!(world.voting(), []);
        world.members = count(3);
        world.start_all();
        world.meet();
        assert_eq!(world.voting(), [id(1), id(2), id(3)]);
    }
}

#[test]
fn a_list_of_another_length_keeps_all_from_voting_and_the_right_one_mends_it() {
    for (founded, listed) in [(5, 3), (5, 7), (5, 1), (5, 4), (3, 2), (1, 3), (2, 255)] {
        let mut world = World::founded(founded);
        world.members = count(listed);
        for node in NodeId::first(founded.min(listed)) {
            world.start(node);
        }
        for gone in NodeId::first(founded).skip(listed.into()) {
            world.stop(gone);
        }
        world.meet();
        assert_eq!(world.voting(), [], "{founded}, {listed}");
        let refusal = world.up[&id(1)].refusal().unwrap();
        let (founders, list) = (count(founded), count(listed));
        assert_eq!(
            refusal,
            Refusal::OtherCount {
                founded: founders,
                listed: list
            }
        );
        let text = refusal.to_string();
        let says = format!("founded with {founded} acceptors, and ACCEPTORS names {listed}");
        assert!(text.contains(&says), "{text}");
        assert_eq!(world.ask(id(1), prepare()), Some(Reply::NotVoting));
        world.members = count(founded);
        world.start_all();
        world.meet();
        assert_eq!(world.voting().len(), usize::from(founded));
    }
}

#[test]
fn one_list_of_another_length_keeps_that_acceptor_from_voting() {
    for listed in [1, 3, 7] {
        let mut world = World::founded(5);
        world.lists.insert(id(2), count(listed));
        world.start(id(2));
        world.start(id(4));
        world.meet();
        assert_eq!(world.refusal(id(2)), Some("other-count"));
        // It is a witness still: what it has seen stands on its disk.
        assert_eq!(world.voting(), [id(1), id(3), id(4), id(5)]);
        for down in [1, 3] {
            world.stop(id(down));
        }
        world.start(id(4));
        world.meet();
        assert_eq!(world.voting(), [id(4), id(5)]);
    }
}

#[test]
fn lists_of_two_lengths_found_nothing_until_one_is_mended() {
    for (most, one) in [(3, 2), (3, 5), (5, 3), (2, 1)] {
        let mut world = World::new(most);
        world.lists.insert(id(2), count(one));
        world.start_all();
        world.meet();
        assert_eq!(world.voting(), [], "{most}, {one}");
        for node in world.members.acceptors() {
            assert_eq!(
                world.up[&node].refusal(),
                None,
                "either list may be the right one"
            );
        }
        assert_eq!(world.up[&id(1)].list_of(id(2)), Some(count(one)));
        world.lists.clear();
        world.start(id(2));
        world.meet();
        assert_eq!(world.voting().len(), usize::from(most));
        assert_eq!(world.up[&id(1)].list_of(id(2)), None);
    }
}

#[test]
fn a_cluster_that_began_to_be_founded_is_not_founded_with_fewer() {
    // Acceptor 4 has met all the others and votes; they have not.
    let mut world = World::new(5);
    world.start_all();
    let (open, request) = world.up[&id(4)].enlist().unwrap();
    for other in open {
        let reply = world.ask(other, request.clone()).unwrap();
        let heard = world.up.get_mut(&id(4)).unwrap().heard(other, &reply);
        world.persist(id(4), heard);
    }
    assert_eq!(world.voting(), [id(4)]);
    // All but that one are started again with a list of three, which then founds a cluster.
    world.members = count(3);
    for node in [1, 2, 3] {
        world.start(id(node));
    }
    world.meet();
    // It is the one with three acceptors for all of them, and no quorum of five is left.
    assert_eq!(world.voting(), [id(1), id(2), id(3), id(4)]);
    let founders = |node| world.up[&id(node)].founders();
    assert_eq!([1, 2, 3].map(founders), [Members::new(3); 3]);
    assert_eq!(founders(4), Members::new(5));
}

#[test]
fn disks_of_an_earlier_build_tell_their_count_by_the_nodes_they_name() {
    for founded in [1, 2, 3, 5] {
        let mut world = World::founded(founded);
        world.disks.values_mut().for_each(by_an_earlier_build);
        // The upgrade and another list come together.
        for listed in [founded + 1, founded + 2, founded.saturating_sub(2).max(1)] {
            world.members = count(listed);
            for node in NodeId::first(founded) {
                world.start(node);
            }
            world.meet();
            if listed != founded {
                assert_eq!(world.voting(), [], "{founded}, {listed}");
                assert_eq!(world.refusal(id(1)), Some("other-count"));
            }
        }
        world.members = count(founded);
        world.start_all();
        world.meet();
        assert_eq!(world.voting().len(), usize::from(founded));
        for disk in world.disks.values() {
            let known = disk.records.iter().rev().find_map(|record| match record {
                Record::Known(roster) => Some(roster.founders),
                _ => None,
            });
            assert_eq!(known, Some(Some(count(founded))), "it is written down now");
        }
    }
}

#[test]
fn another_acceptors_disk_of_an_earlier_build_does_not_tell_how_many_there_are() {
    for other in [1, 2, 4, 5] {
        let mut world = World::founded(5);
        world.disks.values_mut().for_each(by_an_earlier_build);
        let copy = world.disks[&id(other)].clone();
        world.disks.insert(id(3), copy);
        world.start_all();
        assert_eq!(
            world.up[&id(3)].founders(),
            None,
            "{other} names no {other}"
        );
        let start = Start {
            incarnation: 77,
            count: 1,
            run: 77,
        };
        for listed in [1, 3, 5] {
            world.members = count(listed);
            world.start(id(3));
            let enlist = Request::Enlist {
                node: NodeName {
                    role: Role::Proposer,
                    id: id(1),
                },
                start,
                cluster: world.up[&id(1)].cluster(),
                acceptors: Some(count(listed)),
            };
            let reply = world.ask(id(3), enlist);
            assert_eq!(
                reply,
                Some(Reply::NotVoting),
                "nobody ends for a list that is right, or is told that a wrong one is"
            );
        }
        world.meet();
        assert_eq!(world.voting().len(), 4);
        assert_eq!(world.refusal(id(3)), Some("amnesia"));
    }
}

#[test]
fn who_does_not_tell_its_list_is_answered_as_before() {
    let mut world = World::founded(3);
    let (_, start) = (0, world.up[&id(3)].start);
    let mut enlist = |acceptors| {
        let request = Request::Enlist {
            node: acceptor(id(3)),
            start,
            cluster: world.up[&id(1)].cluster(),
            acceptors,
        };
        match world.ask(id(1), request) {
            Some(Reply::Witnessed { acceptors, .. }) => acceptors,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(enlist(None), None);
    assert_eq!(enlist(Some(count(3))), Some(count(3)));
}

#[test]
fn another_role_may_have_a_new_disk_but_no_older_one() {
    let mut world = World::founded(3);
    let enlist = |incarnation, count, run| Request::Enlist {
        node: NodeName {
            role: Role::Learner,
            id: id(1),
        },
        start: Start {
            incarnation,
            count,
            run,
        },
        cluster: None,
        acceptors: None,
    };
    let mut witnesses = |request| {
        let reply = world.ask(id(1), request).unwrap();
        matches!(reply, Reply::Witnessed { .. })
    };
    assert!(witnesses(enlist(7, 2, 1)));
    assert!(witnesses(enlist(7, 2, 1)));
    assert!(!witnesses(enlist(7, 2, 2)));
    assert!(!witnesses(enlist(7, 1, 3)));
    assert!(witnesses(enlist(7, 3, 4)));
    assert!(witnesses(enlist(8, 1, 5)));
}

#[test]
fn what_is_known_outlives_a_trim() {
    let mut world = World::founded(3);
    let policy = crate::acceptor::TrimPolicy {
        tail: 0,
        stride: 1,
        ..Default::default()
    };
    let member = world.up.get_mut(&id(1)).unwrap();
    member.acceptor = member.acceptor.clone().with_trimming(policy);
    let ballot = Ballot::new(1, id(1)).unwrap();
    let values = [crate::message::Value("a".into())].into();
    world.ask(
        id(1),
        Request::Accept {
            ballot,
            first: Slot(1),
            values,
            committed: Slot(1),
        },
    );
    let before = world.disks[&id(1)].records.len();
    world.ask(
        id(1),
        Request::Renew {
            ballot,
            round: 1,
            committed: Slot(1),
            trim: Slot(1),
        },
    );
    let disk = world.disks.get_mut(&id(1)).unwrap();
    disk.records.drain(..before);
    assert!(
        disk.records
            .iter()
            .any(|record| matches!(record, Record::Trimmed { .. }))
    );
    world.start(id(1));
    world.meet();
    assert!(world.voting().contains(&id(1)));
    assert_eq!(world.up[&id(1)].acceptor().floor(), Slot(1));
}

#[test]
fn a_start_far_beyond_the_last_one_is_not_written_down() {
    let mut world = World::founded(3);
    let known = world.disks[&id(2)].start;
    let node = acceptor(id(2));
    let mut enlist = |node: NodeName, count| {
        let start = Start {
            count,
            run: 7,
            ..known
        };
        let cluster = None;
        world.ask(
            id(1),
            Request::Enlist {
                node,
                start,
                cluster,
                acceptors: None,
            },
        )
    };
    for count in [known.count + MAX_STARTS + 1, u64::MAX] {
        assert_eq!(enlist(node, count), Some(Reply::NotVoting), "{count}");
    }
    // Nor is the first one of a node that is not known yet.
    let store = NodeName {
        role: Role::Store,
        id: id(3),
    };
    assert_eq!(enlist(store, u64::MAX), Some(Reply::NotVoting));
    let witnessed = |reply: Option<Reply>| matches!(reply, Some(Reply::Witnessed { .. }));
    assert!(witnessed(enlist(store, 5000)));
    assert!(witnessed(enlist(node, known.count + 1)));
}

#[test]
fn starts_of_other_roles_are_written_down_at_a_bounded_rate_and_acceptors_never_wait() {
    let mut world = World::founded(3);
    let enlist = |world: &mut World, role, count| {
        let request = Request::Enlist {
            node: NodeName { role, id: id(200) },
            start: Start {
                incarnation: 9,
                count,
                run: 9,
            },
            cluster: None,
            acceptors: None,
        };
        let before = world.disks[&id(1)].records.len();
        let reply = world.ask(id(1), request);
        let written = world.disks[&id(1)].records.len() - before;
        let is_witnessed = matches!(reply, Some(Reply::Witnessed { .. }));
        assert_eq!(written, usize::from(is_witnessed));
        is_witnessed
    };
    let mut count = 0;
    let mut flood = |world: &mut World| {
        let mut next = || {
            count += 1;
            enlist(world, Role::Store, count)
        };
        (0..5_000).filter(|_| next()).count()
    };
    assert_eq!(flood(&mut world), STARTS_AT_ONCE as usize);
    let tick = |world: &mut World| world.up.get_mut(&id(1)).unwrap().tick();
    (1..TICKS_A_START).for_each(|_| tick(&mut world));
    assert_eq!(flood(&mut world), 0);
    tick(&mut world);
    assert_eq!(flood(&mut world), 1);
    (0..1_000_000).for_each(|_| tick(&mut world));
    assert_eq!(flood(&mut world), STARTS_AT_ONCE as usize);
    // What is known already is answered, and other acceptors are.
    world.stop(id(2));
    world.start(id(2));
    world.meet();
    assert_eq!(world.voting().len(), 3);
}
