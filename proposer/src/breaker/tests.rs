use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn new() -> Breaker {
    Breaker::new(Policy::default())
}

fn fail(breaker: &mut Breaker, now: Duration) {
    let pass = breaker.admit(now, TIMEOUT).unwrap();
    breaker.failed(pass, now, 0.0);
}

fn succeed(breaker: &mut Breaker, now: Duration) {
    let pass = breaker.admit(now, TIMEOUT).unwrap();
    breaker.succeeded(pass);
}

/// Opened at second 0 for 30 seconds.
fn open() -> Breaker {
    let mut breaker = new();
    for _ in 0..5 {
        fail(&mut breaker, at(0));
    }
    breaker
}

/// The story of one breaker: a second, what happens in it, the state after it.
#[test]
fn the_states_follow_the_figures() {
    use State::{Closed, HalfOpen, Open};
    let story = [
        // A success in between restarts the count; five in a row open it.
        (0, "fail fail fail fail succeed", Closed),
        (1, "fail fail fail fail", Closed),
        (2, "fail", Open),
        (31, "refused", Open),
        // Half-open after 30 s; three successes close it, one failure does not let them count.
        (32, "succeed succeed", HalfOpen),
        (33, "fail", Open),
        // The time is doubled, and doubled again, up to 300 s.
        (92, "refused", Open),
        (93, "fail", Open),
        (212, "refused", Open),
        (213, "fail", Open),
        (452, "refused", Open),
        (453, "fail", Open),
        (752, "refused", Open),
        (753, "fail", Open),
        (1052, "refused", Open),
        (1053, "succeed succeed succeed", Closed),
        // Once closed, it starts with 30 s again.
        (1054, "fail fail fail fail fail", Open),
        (1083, "refused", Open),
        (1084, "succeed", HalfOpen),
    ];
    let mut breaker = new();
    for (second, events, state) in story {
        for event in events.split(' ') {
            match event {
                "fail" => fail(&mut breaker, at(second)),
                "succeed" => succeed(&mut breaker, at(second)),
                _ => assert_eq!(breaker.admit(at(second), TIMEOUT), None, "{second}"),
            }
        }
        assert_eq!(breaker.state(at(second)), state, "second {second}");
    }
}

#[test]
fn jitter_moves_the_end_by_a_tenth_at_most() {
    for (jitter, last_refused, first_probed) in [(-1.0, 26, 27), (1.0, 32, 33), (99.0, 32, 33)] {
        let mut breaker = new();
        for _ in 0..5 {
            let pass = breaker.admit(at(0), TIMEOUT).unwrap();
            breaker.failed(pass, at(0), jitter);
        }
        assert_eq!(breaker.admit(at(last_refused), TIMEOUT), None);
        assert!(breaker.admit(at(first_probed), TIMEOUT).is_some());
    }
}

#[test]
fn a_lost_probe_holds_nobody_up_longer_than_its_deadline() {
    let mut breaker = open();
    let lost = breaker.admit(at(30), at(5)).unwrap();
    assert_eq!(breaker.admit(at(34), at(5)), None);
    let second = breaker.admit(at(35), at(5)).unwrap();
    // The lost one comes back after all: it must not end the second.
    breaker.failed(lost, at(36), 0.0);
    assert_eq!(breaker.state(at(36)), State::HalfOpen);
    assert_eq!(breaker.admit(at(36), at(5)), None);
    breaker.succeeded(second);
    assert!(breaker.admit(at(36), at(5)).is_some());
}

#[test]
fn a_dropped_probe_leaves_room_for_the_next() {
    let mut breaker = open();
    let dropped = breaker.admit(at(30), TIMEOUT).unwrap();
    breaker.dropped(dropped);
    assert!(breaker.admit(at(30), TIMEOUT).is_some());
}

#[test]
fn late_outcomes_of_an_earlier_state_do_not_count() {
    let mut breaker = new();
    let late: Vec<_> = (0..8).map(|_| breaker.admit(at(0), TIMEOUT)).collect();
    let mut late = late.into_iter().flatten();
    for _ in 0..5 {
        breaker.failed(late.next().unwrap(), at(1), 0.0);
    }
    breaker.succeeded(late.next().unwrap());
    assert_eq!(breaker.state(at(1)), State::Open);
    let probe = breaker.admit(at(31), TIMEOUT).unwrap();
    breaker.failed(late.next().unwrap(), at(31), 0.0);
    breaker.succeeded(probe);
    breaker.succeeded(late.next().unwrap());
    assert_eq!(breaker.state(at(31)), State::HalfOpen);
}

#[test]
fn a_heartbeat_closes_at_once() {
    let mut breaker = open();
    breaker.close_early();
    assert!(breaker.is_healthy());
    assert!(breaker.admit(at(1), TIMEOUT).is_some());
}

#[test]
fn forced_calls_go_through_and_their_successes_count() {
    let mut breaker = open();
    for _ in 0..3 {
        let pass = breaker.force();
        breaker.failed(pass, at(1), 0.0);
    }
    assert!(breaker.admit(at(30), TIMEOUT).is_some(), "not made longer");
    let mut breaker = open();
    for state in [State::HalfOpen, State::HalfOpen, State::Closed] {
        let pass = breaker.force();
        breaker.succeeded(pass);
        assert_eq!(breaker.state(at(1)), state);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Wait(u64),
    Admit(u64),
    Force,
    Succeed(prop::sample::Index),
    Fail(prop::sample::Index, f64),
    Drop(prop::sample::Index),
    Forget(prop::sample::Index),
    Heartbeat,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..20_000u64).prop_map(Event::Wait),
        8 => (1..10_000u64).prop_map(Event::Admit),
        1 => Just(Event::Force),
        3 => any::<prop::sample::Index>().prop_map(Event::Succeed),
        8 => (any::<prop::sample::Index>(), -1.0..1.0).prop_map(|(i, j)| Event::Fail(i, j)),
        1 => any::<prop::sample::Index>().prop_map(Event::Drop),
        1 => any::<prop::sample::Index>().prop_map(Event::Forget),
        1 => Just(Event::Heartbeat),
    ]
}

/// A breaker, the passes out, and what must hold after each event.
struct World {
    breaker: Breaker,
    now: Duration,
    out: Vec<(Pass, Duration)>,
}

impl World {
    fn after(events: &[Event]) -> World {
        let mut world = World {
            breaker: new(),
            now: Duration::ZERO,
            out: Vec::new(),
        };
        for event in events {
            world.step(event);
        }
        world
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Wait(ms) => self.now += Duration::from_millis(*ms),
            Event::Admit(ms) => {
                let (timeout, before) = (Duration::from_millis(*ms), self.breaker.state(self.now));
                let pass = self.breaker.admit(self.now, timeout);
                match before {
                    State::Closed => assert!(pass.is_some()),
                    State::Open => assert_eq!(pass, None),
                    State::HalfOpen => {}
                }
                self.out.extend(pass.map(|pass| (pass, self.now + timeout)));
            }
            Event::Force => {
                let pass = self.breaker.force();
                self.out.push((pass, self.now + TIMEOUT));
            }
            Event::Heartbeat => {
                self.breaker.close_early();
                assert!(self.breaker.is_healthy());
            }
            Event::Succeed(i) | Event::Fail(i, _) | Event::Drop(i) | Event::Forget(i) => {
                if self.out.is_empty() {
                    return;
                }
                let (pass, _) = self.out.swap_remove(i.index(self.out.len()));
                match event {
                    Event::Succeed(_) => self.breaker.succeeded(pass),
                    Event::Fail(_, jitter) => self.breaker.failed(pass, self.now, *jitter),
                    Event::Drop(_) => self.breaker.dropped(pass),
                    _ => {}
                }
            }
        }
        let probing = |(pass, deadline): &&(Pass, Duration)| {
            pass.probe.is_some() && pass.era == self.breaker.era && self.now < *deadline
        };
        let probes = self.out.iter().filter(probing).count();
        assert!(probes <= 1, "{probes} probes in flight");
        if let Phase::Open { until, .. } = self.breaker.phase {
            assert!(until <= self.now + at(330), "open for too long");
        }
    }
}

proptest! {
    #[test]
    fn there_is_one_probe_at_most_and_never_a_call_through_an_open_breaker(
        events in vec(event(), 0..200),
    ) {
        World::after(&events);
    }

    #[test]
    fn a_peer_that_is_back_is_always_found_again(events in vec(event(), 0..200)) {
        let mut world = World::after(&events);
        // Longer than any open time and any probe's deadline.
        world.now += at(400);
        for _ in 0..3 {
            succeed(&mut world.breaker, world.now);
        }
        prop_assert_eq!(world.breaker.state(world.now), State::Closed);
        prop_assert!(world.breaker.is_healthy());
    }

    #[test]
    fn breakers_never_keep_a_quorum_from_forming(
        histories in vec(vec(event(), 0..40), 1..8),
        alive in any::<[bool; 8]>(),
        quorum in 1..8usize,
    ) {
        let live = (0..histories.len()).filter(|i| alive[*i]).count();
        prop_assume!(live >= quorum);
        let mut peers: Vec<_> = histories.iter().map(|events| World::after(events)).collect();
        let now = peers.iter().map(|peer| peer.now).max().unwrap_or_default();
        let mut round = || {
            let force = must_ignore(peers.iter().map(|peer| peer.breaker.is_healthy()), quorum);
            let mut answers = 0;
            for (i, peer) in peers.iter_mut().enumerate() {
                let pass = match peer.breaker.admit(now, TIMEOUT) {
                    Some(pass) => pass,
                    None if force => peer.breaker.force(),
                    None => continue,
                };
                if alive[i] {
                    peer.breaker.succeeded(pass);
                    answers += 1;
                } else {
                    peer.breaker.failed(pass, now, 0.0);
                }
            }
            answers
        };
        prop_assert!(round() >= quorum || round() >= quorum);
    }
}
