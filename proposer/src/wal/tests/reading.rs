//! Reading in pieces, at the start and beside the writing.

use std::ops::ControlFlow;

use super::super::frame::{HEADER, SEGMENT_HEADER};
use super::super::window::Window;
use super::*;

/// Records of many sizes, some of them larger than a piece; one to four in a frame, in turn.
fn written(media: &SimMedia, segment_bytes: u64) -> (Wal<SimMedia>, Vec<Record>) {
    let (mut wal, _) = open(media.clone(), segment_bytes).unwrap();
    let mut records = Vec::new();
    for frame in 0..40_usize {
        for record in 0..1 + frame % 4 {
            let length = [0, 1, 30, 511, 512, 700, 5_000][(frame * 3 + record) % 7];
            let bytes = vec![(frame * 5 + record) as u8; length];
            records.push((wal.append(&bytes), bytes));
        }
        wal.sync().unwrap();
    }
    (wal, records)
}

fn scan(wal: &Wal<SimMedia>, from: Position, most: usize) -> Result<Vec<Record>, Error> {
    let mut found = Vec::new();
    wal.reader().scan(from, |position, bytes| {
        found.push((position, bytes.to_vec()));
        match found.len() < most {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Ok(found)
}

#[test]
fn a_scan_from_any_record_shows_it_and_those_after_it_to_the_end_of_the_segment() {
    for segment_bytes in [1 << 20, 3_000] {
        let (wal, records) = written(&SimMedia::new(), segment_bytes);
        for (at, (position, _)) in records.iter().enumerate() {
            let rest = records[at..].iter();
            let rest = rest.take_while(|(other, _)| other.segment == position.segment);
            let rest: Vec<Record> = rest.cloned().collect();
            let (segment, offset) = position.numbers();
            let found = scan(&wal, Position::of(segment, offset), usize::MAX).unwrap();
            assert_eq!(payloads(&found), payloads(&rest));
            assert_eq!(found, rest);
            assert_eq!(scan(&wal, *position, 2).unwrap(), rest[..rest.len().min(2)]);
        }
    }
}

#[test]
fn a_scan_says_when_a_record_was_trimmed_and_shows_no_damage() {
    let media = SimMedia::new();
    let (mut wal, records) = written(&media, 3_000);
    let (first, last) = (records[0].0, records[records.len() - 1].0);
    wal.trim_before(last).unwrap();
    assert!(matches!(scan(&wal, first, 1), Err(Error::Absent(_))));
    let damaged = records
        .iter()
        .rev()
        .find(|(_, bytes)| bytes.len() > 600)
        .unwrap();
    let name = super::super::name(damaged.0.segment);
    let offset = super::super::frame::file_offset(u64::from(damaged.0.offset) + 300);
    media.flip_bit(&name, offset as usize, 3);
    assert_eq!(
        scan(&wal, damaged.0, 1).unwrap(),
        [],
        "its reader misses it"
    );
}

#[test]
fn what_is_written_while_others_read_does_not_disturb_them() {
    let (mut wal, records) = written(&SimMedia::new(), 1 << 20);
    let reader = wal.reader();
    wal.append(b"not durable yet");
    let mut found = Vec::new();
    let from = records[records.len() - 1].0;
    let all = |position, bytes: Bytes| {
        found.push((position, bytes.to_vec()));
        ControlFlow::Continue(())
    };
    reader.scan(from, all).unwrap();
    assert_eq!(found, records[records.len() - 1..]);
    wal.sync().unwrap();
    assert_eq!(scan(&wal, from, 9).unwrap()[1].1, b"not durable yet");
}

#[test]
fn frames_are_the_same_in_pieces_of_any_size() {
    let media = SimMedia::new();
    let (wal, records) = written(&media, 1 << 20);
    drop(wal);
    let name = media.list().unwrap().remove(0);
    let file = media.open(&name).unwrap();
    let size = file.size().unwrap();
    for piece in [1, 100, 511, 4_096, 1 << 20] {
        let mut window = Window::with_piece(&file, size, piece);
        let (mut at, mut sequence, mut payload_bytes) = (SEGMENT_HEADER, 1, 0);
        while let Some(payload) = window.frame(at, sequence).unwrap() {
            at += HEADER + payload.len() as u64 + super::super::frame::FOOTER;
            sequence += 1;
            payload_bytes += payload.len();
        }
        let expected: usize = records.iter().map(|(_, bytes)| bytes.len() + 8).sum();
        assert_eq!(
            (sequence, payload_bytes),
            (41, expected),
            "pieces of {piece}"
        );
        assert_eq!(
            window.frame(SEGMENT_HEADER, 2).unwrap(),
            None,
            "another number"
        );
    }
}

/// The largest that a start has in memory of a log at once.
#[test]
fn a_log_far_larger_than_a_piece_is_opened_in_pieces() {
    let media = SimMedia::new();
    let (mut wal, _) = open(media.clone(), 64 << 20).unwrap();
    let record = vec![7; 10_000];
    for _ in 0..300 {
        wal.append(&record);
        wal.sync().unwrap();
    }
    drop(wal);
    media.kill();
    let (mut records, mut shared) = (0, 0);
    let options = Options {
        segment_bytes: 64 << 20,
        ahead_bytes: 0,
    };
    let wal = Wal::open(media, options, |_, bytes| {
        records += 1;
        // What the record keeps in memory, if it is not copied, ends with its piece.
        shared = shared.max(bytes.len());
        Ok(())
    });
    assert_eq!((records, shared), (300, 10_000));
    assert!(wal.unwrap().bytes() > 3_000_000);
}
