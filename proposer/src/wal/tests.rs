use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::media::{FileMedia, SimMedia};

mod reading;

type Record = (Position, Vec<u8>);

/// Without zeros ahead.
fn open<M: Media>(media: M, segment_bytes: u64) -> Result<(Wal<M>, Vec<Record>), Error> {
    let ahead_bytes = 0;
    open_with(
        media,
        Options {
            segment_bytes,
            ahead_bytes,
        },
    )
}

fn open_with<M: Media>(media: M, options: Options) -> Result<(Wal<M>, Vec<Record>), Error> {
    let mut records = Vec::new();
    let wal = Wal::open(media, options, |position, bytes| {
        records.push((position, bytes.to_vec()));
        Ok(())
    })?;
    Ok((wal, records))
}

fn payloads(records: &[Record]) -> Vec<&[u8]> {
    records.iter().map(|(_, bytes)| &bytes[..]).collect()
}

/// What a log may hold: what was synced, and perhaps one more frame.
#[derive(Clone, Debug, Default)]
struct Model {
    synced: Vec<Record>,
    in_doubt: Vec<Record>,
}

impl Model {
    /// Compares with what an opened log showed; that is durable from here on.
    fn observe(&mut self, records: Vec<Record>) {
        let mut with_doubt = self.synced.clone();
        with_doubt.append(&mut self.in_doubt);
        assert!(
            records == self.synced || records == with_doubt,
            "synced {:?}\nor with {:?}\nbut read {:?}",
            self.synced
                .iter()
                .map(|r| (r.0, r.1.len()))
                .collect::<Vec<_>>(),
            with_doubt
                .iter()
                .map(|r| (r.0, r.1.len()))
                .collect::<Vec<_>>(),
            records.iter().map(|r| (r.0, r.1.len())).collect::<Vec<_>>(),
        );
        self.synced = records;
    }

    fn trim(&mut self, before: u64) {
        self.synced
            .retain(|(position, _)| position.segment >= before);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        length: usize,
        fill: u8,
    },
    Sync,
    SyncFails {
        crash: Option<u64>,
    },
    DiskFull {
        bytes: usize,
        crash: Option<u64>,
    },
    Halt {
        after: u64,
        crash: Option<u64>,
        reopen_halts: u64,
        crash_again: Option<u64>,
    },
    Kill,
    Crash {
        seed: u64,
    },
    Trim {
        nth: usize,
    },
    TrimHalts {
        nth: usize,
        after: u64,
        crash: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let fill = prop_oneof![Just(0), Just(0xa5), Just(0xff), any::<u8>()];
    let crash = proptest::option::of(any::<u64>());
    prop_oneof![
        8 => (0..1600_usize, fill).prop_map(|(length, fill)| Step::Append { length, fill }),
        6 => Just(Step::Sync),
        1 => crash.clone().prop_map(|crash| Step::SyncFails { crash }),
        1 => (0..4000_usize, crash.clone()).prop_map(|(bytes, crash)| Step::DiskFull { bytes, crash }),
        3 => (0..7_u64, crash.clone(), 0..5_u64, crash.clone()).prop_map(
            |(after, crash, reopen_halts, crash_again)| Step::Halt {
                after, crash, reopen_halts, crash_again,
            }
        ),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => any::<usize>().prop_map(|nth| Step::Trim { nth }),
        1 => (any::<usize>(), 0..5_u64, any::<u64>())
            .prop_map(|(nth, after, crash)| Step::TrimHalts { nth, after, crash }),
    ]
}

/// Runs a script against a log and its model, and reads everything back after each restart.
fn run(options: Options, steps: &[Step]) {
    let media = SimMedia::new();
    let mut model = Model::default();
    let mut pending: Vec<Record> = Vec::new();
    let mut wal = open_with(media.clone(), options).unwrap().0;
    for step in steps {
        let restart = match step {
            Step::Append { length, fill } => {
                let mut bytes = vec![*fill; *length];
                // One byte that differs, to distinguish records of the same fill.
                if let Some(byte) = bytes.get_mut(length / 2) {
                    *byte = (model.synced.len() * 7 + pending.len()) as u8;
                }
                let position = wal.append(&bytes);
                assert_eq!(wal.read(position).unwrap(), bytes);
                pending.push((position, bytes));
                false
            }
            Step::Sync => {
                let stats = wal.sync().unwrap();
                assert_eq!(stats.records, pending.len() as u64);
                model.synced.append(&mut pending);
                false
            }
            Step::SyncFails { crash } => {
                media.fail_next_sync();
                fail(&mut wal, &mut pending, &mut model, &media, *crash)
            }
            Step::DiskFull { bytes, crash } => {
                media.fail_next_write(*bytes);
                fail(&mut wal, &mut pending, &mut model, &media, *crash)
            }
            Step::Halt {
                after,
                crash,
                reopen_halts,
                crash_again,
            } => {
                media.halt_before(media.operations() + after);
                if wal.sync().is_ok() {
                    model.synced.append(&mut pending);
                } else {
                    model.in_doubt = std::mem::take(&mut pending);
                }
                stop(&media, *crash);
                media.halt_before(media.operations() + reopen_halts);
                // What an opening showed that did not succeed counts for nothing.
                if let Ok((opened, records)) = open_with(media.clone(), options) {
                    drop(opened);
                    model.observe(records);
                }
                stop(&media, *crash_again);
                true
            }
            Step::Kill => {
                media.kill();
                true
            }
            Step::Crash { seed } => {
                media.crash(*seed);
                true
            }
            Step::Trim { nth } => {
                if let Some((position, _)) = pick(&model.synced, *nth) {
                    wal.trim_before(position).unwrap();
                    model.trim(position.segment);
                }
                false
            }
            Step::TrimHalts { nth, after, crash } => {
                if let Some((position, _)) = pick(&model.synced, *nth) {
                    media.halt_before(media.operations() + after);
                    let _ = wal.trim_before(position);
                    media.crash(*crash);
                    let oldest = open_with(media.clone(), options)
                        .unwrap()
                        .0
                        .position_start();
                    assert!(oldest.segment <= position.segment);
                    model.trim(oldest.segment);
                    true
                } else {
                    false
                }
            }
        };
        if restart {
            pending.clear();
            let (opened, records) = open_with(media.clone(), options).unwrap();
            wal = opened;
            model.observe(records);
            for (position, bytes) in &model.synced {
                assert_eq!(wal.read(*position).unwrap(), bytes);
                assert!(*position >= wal.position_start() && *position < wal.position_end());
            }
        }
    }
}

fn pick(records: &[Record], nth: usize) -> Option<Record> {
    (!records.is_empty()).then(|| records[nth % records.len()].clone())
}

/// One sync that the disk may refuse. True when the process has to end.
fn fail(
    wal: &mut Wal<SimMedia>,
    pending: &mut Vec<Record>,
    model: &mut Model,
    media: &SimMedia,
    crash: Option<u64>,
) -> bool {
    if pending.is_empty() {
        pending.push((wal.append(b"x"), b"x".to_vec()));
    }
    assert!(wal.sync().is_err());
    assert!(matches!(wal.sync(), Err(Error::Poisoned(_))));
    assert!(matches!(
        wal.read(wal.position_start()),
        Err(Error::Poisoned(_))
    ));
    assert!(matches!(
        wal.trim_before(wal.position_end()),
        Err(Error::Poisoned(_))
    ));
    model.in_doubt = std::mem::take(pending);
    stop(media, crash);
    true
}

/// The machine crashes with that seed, or only the process dies.
fn stop(media: &SimMedia, crash: Option<u64>) {
    match crash {
        Some(seed) => media.crash(seed),
        None => media.kill(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_synced_is_lost_and_nothing_else_appears(
        segment_bytes in 1..3000_u64,
        ahead_bytes in prop_oneof![Just(0), 1..12_000_u64],
        steps in vec(step(), 1..40),
    ) {
        let options = Options { segment_bytes, ahead_bytes };
        run(options, &steps);
    }
}

/// Appends and syncs frames of several sizes over several segments, and trims in between.
fn script(wal: &mut Wal<SimMedia>, model: &mut Model) -> Result<(), Error> {
    for (round, length) in [3, 700, 0, 1200, 20, 505].into_iter().enumerate() {
        let mut frame = Vec::new();
        for record in 0..1 + round % 3 {
            let bytes = vec![(16 * round + record) as u8; length];
            frame.push((wal.append(&bytes), bytes));
        }
        model.in_doubt = frame;
        wal.sync()?;
        let mut frame = std::mem::take(&mut model.in_doubt);
        model.synced.append(&mut frame);
        if round == 4 {
            wal.trim_before(model.synced[4].0)?;
        }
    }
    Ok(())
}

/// Which unsynced changes a crash keeps: the first `n`, all but the first `n`, all but number `n`.
fn keeps(n: usize) -> [Box<dyn Fn(usize) -> bool>; 3] {
    [
        Box::new(move |change| change < n),
        Box::new(move |change| change >= n),
        Box::new(move |change| change != n),
    ]
}

#[test]
fn a_crash_at_any_operation_leaves_the_log_whole() {
    crash_everywhere(Options {
        segment_bytes: 600,
        ahead_bytes: 0,
    });
}

#[test]
fn so_does_one_of_a_log_with_zeros_ahead() {
    crash_everywhere(Options {
        segment_bytes: 1500,
        ahead_bytes: 8000,
    });
}

fn crash_everywhere(options: Options) {
    let media = SimMedia::new();
    script(
        &mut open_with(media.clone(), options).unwrap().0,
        &mut Model::default(),
    )
    .unwrap();
    let operations = media.operations();
    assert!(operations > 20);
    for halt in 0..=operations {
        for n in 0..7 {
            for (kind, keep) in keeps(n).into_iter().enumerate() {
                for reopen_halt in 0..6 {
                    let context = format!("halt {halt}, keep {kind}/{n}, then {reopen_halt}");
                    let run = || crash_twice(options, halt, &keep, reopen_halt, halt == operations);
                    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                        eprintln!("{context}");
                        resume_unwind(panic)
                    });
                }
            }
        }
    }
}

/// A crash during the script, another one during the opening, and then work continues.
fn crash_twice(
    options: Options,
    halt: u64,
    keep: impl Fn(usize) -> bool,
    reopen_halt: u64,
    completes: bool,
) {
    let media = SimMedia::new();
    let mut model = Model::default();
    media.halt_before(halt);
    let opened = open_with(media.clone(), options);
    let reached = opened.and_then(|(mut wal, _)| script(&mut wal, &mut model));
    assert_eq!(reached.is_ok(), completes);
    media.crash_keeping(&keep);

    let trimmed = model
        .synced
        .get(4)
        .map_or(1, |(position, _)| position.segment);
    let mut observe = |records: Vec<Record>| {
        let oldest = records.first().map_or(1, |(position, _)| position.segment);
        assert!(oldest <= trimmed);
        model.trim(oldest);
        model.observe(records);
    };
    media.halt_before(media.operations() + reopen_halt);
    if let Ok((_, records)) = open_with(media.clone(), options) {
        observe(records);
    }
    media.crash_keeping(&keep);

    let (mut wal, mut records) = open_with(media.clone(), options).unwrap();
    observe(records.clone());
    records.push((wal.append(b"goes on"), b"goes on".to_vec()));
    wal.sync().unwrap();
    assert_eq!(open_with(media, options).unwrap().1, records);
}

/// A synced log of two segments, whose frames hold zeros, marks and text; the last one is `last`.
fn small_log(last: &[&[u8]]) -> (SimMedia, Vec<Vec<u8>>) {
    let media = SimMedia::new();
    let mut wal = open(media.clone(), 700).unwrap().0;
    let zeros = [0; 600];
    let frames: [&[&[u8]]; 4] = [&[b"one", b""], &[&zeros], &[b"{\"three\":3}"], last];
    for frame in frames {
        for record in frame {
            wal.append(record);
        }
        wal.sync().unwrap();
    }
    assert_eq!(media.list().unwrap().len(), 2);
    let written = frames.iter().flat_map(|frame| frame.iter());
    (media, written.map(|record| record.to_vec()).collect())
}

#[test]
fn every_flipped_bit_is_found_and_none_drops_a_synced_frame() {
    let mut almost_zeros = [0; 1700];
    almost_zeros[800] = 1;
    let long = [0; 1300];
    let lasts: [&[&[u8]]; 4] = [
        &[b"x"],
        &[&long],
        &[&almost_zeros],
        &[&[0xff; 40], b"", b"yz"],
    ];
    for last in lasts {
        let (media, written) = small_log(last);
        let intact = media.snapshot();
        for name in media.list().unwrap() {
            let size = media.open(&name).unwrap().size().unwrap() as usize;
            for offset in 0..size {
                for bit in 0..8 {
                    media.restore(&intact);
                    media.flip_bit(&name, offset, bit);
                    let opened = open(media.clone(), 700);
                    // Only the marks do not matter as long as the frames are whole.
                    if offset % 512 == 0 {
                        assert_eq!(payloads(&opened.unwrap().1), written);
                        continue;
                    }
                    match opened {
                        Err(Error::Corrupt { file, .. }) => assert_eq!(file, name),
                        Err(error) => panic!("{name} {offset}.{bit}: {error}"),
                        Ok((_, read)) => panic!("{name} {offset}.{bit} read {}", read.len()),
                    }
                }
            }
        }
    }
}

#[test]
fn a_bit_flipped_under_an_open_log_is_found_when_it_is_read() {
    let (media, _) = small_log(&[b"x"]);
    let (wal, records) = open(media.clone(), 700).unwrap();
    let intact = media.list().unwrap().into_iter().map(|name| {
        let bytes = media.open(&name).unwrap().read_all().unwrap();
        (name, bytes.len())
    });
    for (name, size) in intact {
        for offset in 0..size {
            media.flip_bit(&name, offset, 3);
            for (position, bytes) in &records {
                match wal.read(*position) {
                    Ok(read) => assert_eq!(read, bytes),
                    Err(error) => assert!(matches!(error, Error::Corrupt { .. })),
                }
            }
            media.flip_bit(&name, offset, 3);
        }
    }
}

#[test]
fn the_header_of_a_segment_without_frames_is_written_anew() {
    let (media, written) = small_log(&[b"x"]);
    let mut wal = open(media.clone(), 700).unwrap().0;
    wal.append(&[7; 700]);
    wal.sync().unwrap();
    wal.append(b"lost");
    // The new segment's header is written, synced and named; the frame is not.
    media.halt_before(media.operations() + 4);
    wal.sync().unwrap_err();
    media.crash(0);
    let name = media.list().unwrap().pop().unwrap();
    for offset in 0..21 {
        media.flip_bit(&name, offset, 5);
        let (wal, records) = open(media.clone(), 700).unwrap();
        assert_eq!(records.len(), written.len() + 1);
        assert_eq!(wal.position_end().segment, 6);
    }
}

fn corrupt(media: &SimMedia) -> String {
    match open(media.clone(), 700) {
        Err(error @ Error::Corrupt { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok((_, records)) => panic!("read {} records", records.len()),
    }
}

#[test]
fn a_missing_segment_in_the_middle_is_refused() {
    let media = SimMedia::new();
    let mut wal = open(media.clone(), 1).unwrap().0;
    for record in [b"1", b"2", b"3"] {
        wal.append(record);
        wal.sync().unwrap();
    }
    media.remove(&name(2)).unwrap();
    assert!(corrupt(&media).contains("a segment or its end is missing"));
}

#[test]
fn a_segment_that_ends_early_is_refused_when_another_follows() {
    let (media, _) = small_log(&[b"x"]);
    let first = media.open(&name(1)).unwrap();
    let intact = first.read_all().unwrap();
    for length in 0..intact.len() as u64 {
        first.truncate(length).unwrap();
        corrupt(&media);
        first.write_at(&intact, 0).unwrap();
    }
}

#[test]
fn a_lost_sector_is_damage_unless_it_is_in_the_last_frame() {
    let media = SimMedia::new();
    let mut wal = open(media.clone(), 1 << 20).unwrap().0;
    for record in [[1; 2000], [2; 2000]] {
        wal.append(&record);
        wal.sync().unwrap();
    }
    let intact = media.snapshot();
    let size = wal.bytes();
    let (_, records) = open(media.clone(), 1 << 20).unwrap();
    let second = frame::file_offset(u64::from(records[1].0.offset) - HEADER);
    for sector in 0..size.div_ceil(512) {
        media.restore(&intact);
        let file = media.open(&name(1)).unwrap();
        let lost = [0; 512];
        let length = (size - sector * 512).min(512);
        file.write_at(&lost[..length as usize], sector * 512)
            .unwrap();
        // The sector that both frames share belongs to the first.
        if sector * 512 >= second {
            let (_, records) = open(media.clone(), 1 << 20).unwrap();
            assert_eq!(payloads(&records), [[1; 2000]]);
        } else if sector == 0 {
            assert!(corrupt(&media).contains("its header is wrong"));
        } else {
            assert!(corrupt(&media).contains("a later one follows"));
        }
    }
}

#[test]
fn zeros_after_the_last_frame_are_its_end() {
    let (media, written) = small_log(&[b"x"]);
    let last = media.open(&name(3)).unwrap();
    let size = last.size().unwrap();
    last.write_at(&[0; 5000], size).unwrap();
    let (mut wal, records) = open(media.clone(), 700).unwrap();
    assert_eq!(payloads(&records), written);
    wal.append(b"more");
    wal.sync().unwrap();
    assert_eq!(open(media, 700).unwrap().1.len(), written.len() + 1);
}

#[test]
fn a_later_format_is_refused_by_name() {
    let (media, _) = small_log(&[b"x"]);
    let file = media.open(&name(1)).unwrap();
    let mut header = frame::segment_header(1);
    header[4] = 2;
    let crc = crc32c::crc32c(&header[..16]);
    header[16..].copy_from_slice(&crc.to_le_bytes());
    file.write_at(&header, 1).unwrap();
    match open(media, 700) {
        Err(error @ Error::Unsupported { version: 2, .. }) => {
            assert!(error.to_string().contains("a later one"));
        }
        other => panic!("{:?}", other.map(|(_, records)| records)),
    }
}

#[test]
fn a_file_that_only_looks_like_a_segment_is_refused_and_others_are_left_alone() {
    let (media, written) = small_log(&[b"x"]);
    media.create("notes.txt").unwrap();
    media.create("00000000000000000001.wal.tmp").unwrap();
    assert_eq!(payloads(&open(media.clone(), 700).unwrap().1), written);
    media.rename(&name(1), "old.wal").unwrap();
    assert!(corrupt(&media).starts_with("old.wal"));
}

#[test]
fn a_record_that_its_reader_refuses_ends_the_opening() {
    let (media, _) = small_log(&[b"x"]);
    let opened = Wal::open(media, Options::default(), |_, bytes| match &bytes[..] {
        b"x" => Err("no such record kind".to_owned()),
        _ => Ok(()),
    });
    assert!(matches!(opened, Err(Error::Refused { offset: 112, .. })));
}

#[test]
fn trimming_keeps_the_segment_of_the_position_and_the_last_one() {
    let media = SimMedia::new();
    let mut wal = open(media.clone(), 1).unwrap().0;
    let mut positions = Vec::new();
    for record in [b"1", b"2", b"3", b"4"] {
        positions.push(wal.append(record));
        wal.sync().unwrap();
    }
    let bytes = wal.bytes();
    wal.trim_before(positions[1]).unwrap();
    assert!(wal.bytes() < bytes);
    assert!(matches!(wal.read(positions[0]), Err(Error::Absent(p)) if p == positions[0]));
    assert_eq!(wal.read(positions[1]).unwrap(), &b"2"[..]);
    wal.append(b"5");
    wal.trim_before(wal.position_end()).unwrap();
    assert_eq!(media.list().unwrap(), [name(4)]);
    wal.sync().unwrap();
    let (_, records) = open(media, 1).unwrap();
    assert_eq!(payloads(&records), [b"4", b"5"]);
}

#[test]
fn a_real_folder_keeps_a_log_over_restarts() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let mut written = Vec::new();
    for round in 0..3_u8 {
        let (mut wal, records) = open(FileMedia::open(&dir).unwrap(), 4096).unwrap();
        assert_eq!(payloads(&records), written);
        assert!(FileMedia::open(&dir).is_err());
        for record in 0..20 {
            let bytes = vec![round * 20 + record; 300];
            let position = wal.append(&bytes);
            let stats = wal.sync().unwrap();
            assert_eq!(stats.records, 1);
            assert_eq!(wal.read(position).unwrap(), bytes);
            written.push(bytes);
        }
        // A write that a kill cut short.
        let name = dir.join(name(wal.last_segment().0));
        drop(wal);
        let mut bytes = std::fs::read(&name).unwrap();
        bytes.extend_from_slice(&[0xc5, b'F', 0xf5, 1, 9]);
        std::fs::write(&name, bytes).unwrap();
    }
    let (wal, records) = open(FileMedia::open(&dir).unwrap(), 4096).unwrap();
    assert_eq!(payloads(&records), written);
    let files = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap());
    let sizes = files.map(|file| file.metadata().unwrap().len());
    assert_eq!(wal.bytes(), sizes.sum::<u64>());
}

#[test]
fn zeros_ahead_spare_the_frames_after_from_growing_the_file() {
    let media = SimMedia::new();
    let options = Options {
        segment_bytes: 20_000,
        ahead_bytes: 4096,
    };
    let mut wal = open_with(media.clone(), options).unwrap().0;
    let mut sizes = Vec::new();
    let mut write = |bytes: usize| {
        wal.append(&vec![7; bytes]);
        wal.sync().unwrap();
        let (first, _) = wal.last_segment();
        let size = media.open(&name(first)).unwrap().size().unwrap();
        sizes.push(size);
        let all = media.list().unwrap().into_iter();
        let all = all.map(|name| media.open(&name).unwrap().size().unwrap());
        assert_eq!(wal.bytes(), all.sum::<u64>());
        size
    };
    for _ in 0..12 {
        write(100);
    }
    // A large frame is followed by none.
    let large = write(10_000);
    assert!(write(2000) > large);
    while write(500) <= frame::file_offset(20_000) {
        if media.list().unwrap().len() > 1 {
            break;
        }
    }
    sizes.dedup();
    assert!(sizes.len() < 10, "{sizes:?}");
    let last = open_with(media.clone(), options).unwrap().1;
    assert!(last.len() > 14);
}
