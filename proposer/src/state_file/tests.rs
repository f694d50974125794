use super::*;
use crate::media::{MediaFile, SimMedia};

fn id() -> NodeId {
    NodeId::new(3).unwrap()
}

fn state(counter: u64) -> State {
    State {
        proposal_counter: counter,
        last_instance_id: counter * 10,
        current_leader: NodeId::new(2),
        current_term: counter,
    }
}

/// The data folder and its checkpoints.
#[derive(Clone, Default)]
struct Disk {
    root: SimMedia,
    checkpoints: SimMedia,
}

impl Disk {
    fn open(&self) -> Result<(StateFile<SimMedia>, State, Opened), Error> {
        StateFile::open_on(self.root.clone(), self.checkpoints.clone(), id())
    }

    fn write(&self, text: &str) {
        let _ = self.root.remove("proposer_3_state.json");
        let file = self.root.create("proposer_3_state.json").unwrap();
        file.write_at(text.as_bytes(), 0).unwrap();
    }
}

#[test]
fn a_claim_writes_a_checkpoint_and_the_state_and_keeps_five_by_number() {
    let disk = Disk::default();
    let (mut file, fresh, opened) = disk.open().unwrap();
    assert_eq!((fresh, opened), (State::default(), Opened::Fresh));
    for counter in 1..=12 {
        file.claim(&state(counter)).unwrap();
    }
    let kept: Vec<String> = (8..=12)
        .map(|n| format!("proposer_3_cp_{n}.json"))
        .collect();
    let mut listed = disk.checkpoints.list().unwrap();
    listed.sort_by_key(|name| name.len());
    assert_eq!(listed, kept);
    assert_eq!(disk.root.list().unwrap(), ["proposer_3_state.json"]);
    let (mut file, loaded, opened) = disk.open().unwrap();
    assert_eq!((loaded, opened), (state(12), Opened::Loaded));
    file.checkpoint(&loaded).unwrap();
    let listed = disk.checkpoints.list().unwrap();
    assert!(listed.contains(&"proposer_3_cp_13.json".to_owned()));
}

#[test]
fn the_state_is_a_json_object_with_the_names_of_the_design() {
    let disk = Disk::default();
    disk.open().unwrap().0.save(&state(7)).unwrap();
    let file = disk.root.open("proposer_3_state.json").unwrap();
    let object: Value = serde_json::from_slice(&file.read_all().unwrap()).unwrap();
    assert_eq!(object["proposal_counter"], 7);
    assert_eq!(object["last_instance_id"], 70);
    assert_eq!(object["current_leader"], 2);
    assert_eq!(object["current_term"], 7);
    assert_eq!(object["format"], 1);
}

#[test]
fn a_state_without_checksum_is_taken_as_a_person_or_an_older_program_wrote_it() {
    let disk = Disk::default();
    disk.write(
        r#"{"proposal_counter": 5, "last_instance_id": 9, "current_leader": null,
            "current_term": 4, "other": [1]}"#,
    );
    let (_, loaded, opened) = disk.open().unwrap();
    assert_eq!(opened, Opened::Loaded);
    assert_eq!((loaded.proposal_counter, loaded.current_leader), (5, None));
}

#[test]
fn what_does_not_parse_is_set_aside_and_the_newest_checkpoint_is_used() {
    let bad = [
        "",
        "{",
        "[]",
        "{}",
        "\u{0}\u{0}\u{0}",
        r#"{"proposal_counter":-1,"last_instance_id":9,"current_leader":1,"current_term":4}"#,
        r#"{"proposal_counter":1,"last_instance_id":9,"current_leader":256,"current_term":4}"#,
        r#"{"proposal_counter":1,"last_instance_id":9,"current_leader":1}"#,
    ];
    let disk = Disk::default();
    disk.open().unwrap().0.claim(&state(1)).unwrap();
    for (index, text) in bad.into_iter().enumerate() {
        let round = index as u64 + 2;
        disk.open().unwrap().0.claim(&state(round)).unwrap();
        disk.write(text);
        // Opening twice without a save gives the same answer: a crash in between is harmless.
        for _ in 0..2 {
            let (_, loaded, opened) = disk.open().unwrap();
            assert_eq!(loaded, state(round), "{text}");
            assert!(opened.knows_every_claim());
            let set_aside: Vec<String> = (1..=index + 1)
                .map(|n| format!("proposer_3_state.json.corrupt-{n}"))
                .collect();
            for name in &set_aside {
                assert!(disk.root.list().unwrap().contains(name));
            }
            let unreadable = Vec::new();
            assert_eq!(
                opened,
                Opened::FromCheckpoint {
                    set_aside,
                    unreadable
                }
            );
        }
        let aside = format!("proposer_3_state.json.corrupt-{}", index + 1);
        let kept = disk.root.open(&aside).unwrap().read_all().unwrap();
        assert_eq!(kept, text.as_bytes());
    }
}

#[test]
fn any_flipped_bit_is_found_or_changes_nothing() {
    let disk = Disk::default();
    disk.open().unwrap().0.claim(&state(41)).unwrap();
    let intact = disk.root.snapshot();
    let name = "proposer_3_state.json";
    let size = disk.root.open(name).unwrap().size().unwrap() as usize;
    let mut found = 0;
    for offset in 0..size {
        for bit in 0..8 {
            disk.root.restore(&intact);
            disk.root.flip_bit(name, offset, bit);
            let (_, loaded, opened) = disk.open().unwrap();
            assert_eq!(loaded, state(41), "byte {offset} bit {bit}");
            found += usize::from(opened != Opened::Loaded);
        }
    }
    // White space and the name of the checksum are all that may change unnoticed.
    assert!(found > size * 6);
}

#[test]
fn losing_the_state_and_every_checkpoint_is_not_a_fresh_start() {
    let disk = Disk::default();
    disk.write("garbage");
    for _ in 0..2 {
        let (_, loaded, opened) = disk.open().unwrap();
        assert_eq!(loaded, State::default());
        assert!(!opened.knows_every_claim());
        let set_aside = vec!["proposer_3_state.json.corrupt-1".to_owned()];
        assert_eq!(opened, Opened::Lost { set_aside });
    }
}

#[test]
fn a_damaged_newest_checkpoint_leaves_the_claims_in_doubt() {
    let disk = Disk::default();
    let (mut file, ..) = disk.open().unwrap();
    file.claim(&state(1)).unwrap();
    file.claim(&state(2)).unwrap();
    disk.write("garbage");
    disk.checkpoints.flip_bit("proposer_3_cp_2.json", 40, 0);
    let (_, loaded, opened) = disk.open().unwrap();
    assert_eq!(loaded, state(1));
    assert!(!opened.knows_every_claim());
}

#[test]
fn a_state_older_than_a_checkpoint_does_not_bring_a_ballot_back() {
    let disk = Disk::default();
    let (mut file, ..) = disk.open().unwrap();
    file.claim(&state(1)).unwrap();
    let old = disk.root.snapshot();
    file.claim(&state(2)).unwrap();
    disk.root.restore(&old);
    let (_, loaded, opened) = disk.open().unwrap();
    assert_eq!((loaded.proposal_counter, opened), (2, Opened::Loaded));
    assert_eq!(loaded.last_instance_id, 10);
}

#[test]
fn a_later_format_is_refused_and_left_as_it_is() {
    let disk = Disk::default();
    disk.write(r#"{"format":2}"#);
    let refused = disk.open().err().unwrap();
    assert!(matches!(refused, Error::Unsupported { format: 2, .. }));
    assert_eq!(disk.root.list().unwrap(), ["proposer_3_state.json"]);
}

#[test]
fn an_error_ends_the_state_file() {
    let disk = Disk::default();
    let (mut file, ..) = disk.open().unwrap();
    disk.root.fail_next_sync();
    assert!(matches!(file.save(&state(1)), Err(Error::Io { .. })));
    assert!(matches!(file.save(&state(1)), Err(Error::Poisoned)));
    assert!(matches!(file.claim(&state(1)), Err(Error::Poisoned)));
}

#[test]
fn what_an_opening_showed_survives_a_crash() {
    let disk = Disk::default();
    disk.open().unwrap().0.save(&state(1)).unwrap();
    for halt in 0..8 {
        let (mut file, shown, _) = disk.open().unwrap();
        disk.root.halt_before(disk.root.operations() + halt);
        let _ = file.save(&state(shown.proposal_counter + 1));
        disk.root.kill();
        let (_, shown, _) = disk.open().unwrap();
        disk.root.crash(0);
        assert_eq!(disk.open().unwrap().1, shown);
    }
}

/// Which unsynced changes a crash keeps: the first `n`, or all but number `n`.
type Keep = fn(usize, usize) -> bool;
const KEEPS: [Keep; 2] = [|n, change| change < n, |n, change| change != n];

#[test]
fn a_crash_at_any_operation_leaves_the_old_state_or_the_new_one() {
    for on_root in [false, true] {
        for keep in KEEPS {
            for (halt, n) in (0..20).flat_map(|halt| (0..6).map(move |n| (halt, n))) {
                let disk = Disk::default();
                let (mut file, ..) = disk.open().unwrap();
                file.claim(&state(1)).unwrap();
                let halting = if on_root {
                    &disk.root
                } else {
                    &disk.checkpoints
                };
                halting.halt_before(halting.operations() + halt);
                let mut claimed = 1;
                while claimed < 9 && file.claim(&state(claimed + 1)).is_ok() {
                    claimed += 1;
                }
                disk.root.crash_keeping(|change| keep(n, change));
                disk.checkpoints.crash_keeping(|change| keep(n, change));
                let (mut file, loaded, opened) = disk.open().unwrap();
                assert_eq!(opened, Opened::Loaded);
                let counter = loaded.proposal_counter;
                assert!(
                    counter == claimed || counter == claimed + 1,
                    "{counter} {claimed}"
                );
                file.claim(&state(counter + 1)).unwrap();

                // The same crash with the state damaged: no claim is forgotten.
                disk.write("garbage");
                let (_, loaded, opened) = disk.open().unwrap();
                assert_eq!(loaded, state(counter + 1));
                assert!(opened.knows_every_claim());
            }
        }
    }
}

#[test]
fn a_real_folder_keeps_the_state_and_is_locked() {
    let open = |data: &Path| {
        let root = FileMedia::open(data).map_err(Error::Open)?;
        StateFile::open(&root, data, id())
    };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (mut file, _, opened) = open(&data).unwrap();
    assert_eq!(opened, Opened::Fresh);
    let locked = open(&data).err().unwrap();
    assert!(
        locked
            .to_string()
            .contains("another process uses this folder")
    );
    file.claim(&state(1)).unwrap();
    file.save(&State {
        last_instance_id: 11,
        ..state(1)
    })
    .unwrap();
    drop(file);
    std::fs::write(data.join("proposer_3_state.json.tmp"), "killed").unwrap();
    let (mut file, loaded, opened) = open(&data).unwrap();
    assert_eq!(opened, Opened::Loaded);
    assert_eq!(loaded.last_instance_id, 11);
    file.save(&loaded).unwrap();
    assert!(!data.join("proposer_3_state.json.tmp").exists());
    assert!(data.join("checkpoints/proposer_3_cp_1.json").exists());
}
