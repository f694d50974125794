//! Rules for the text of the tree that no compiler checks.

use std::fs;
use std::path::PathBuf;

use testkit::files::rust_files;
use testkit::tools::root;

/// What the protocol must not know of: time, disks, networks, chance, threads, hashing order.
const IMPURE: [&str; 14] = [
    "tokio",
    "axum",
    "hyper",
    "std::time",
    "Instant",
    "SystemTime",
    "std::net",
    "std::fs",
    "std::env",
    "std::thread",
    "rand",
    "HashMap",
    "HashSet",
    "async",
];

/// Unfinished work and tests that do not run.
const UNFINISHED: [&str; 4] = [
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("dbg", "!"),
    concat!("#[", "ignore"),
];

#[test]
fn protocol_and_roles_are_pure() {
    let found_in = |folder: &str, impure: &[&str]| {
        let files: Vec<_> = rust_files(&root().join(folder));
        assert!(files.len() >= 3, "{files:?}");
        let found = find(&files, impure);
        assert!(
            found.is_empty(),
            "{folder} stays pure:\n{}",
            found.join("\n")
        );
    };
    found_in("proposer/paxos/src", &IMPURE);
    // Roles are told the time, as a duration.
    let but_durations: Vec<&str> = IMPURE.into_iter().filter(|it| *it != "std::time").collect();
    found_in("proposer/roles/src", &but_durations);
}

#[test]
fn every_canary_fits_the_code_as_it_is() {
    let list = fs::read_to_string(root().join("tests/testkit/canaries.txt")).unwrap();
    let canaries = testkit::canaries::parse(&list);
    assert!(canaries.len() > 50, "{}", canaries.len());
    for canary in canaries {
        let file = root().join(&canary.file);
        let good = fs::read_to_string(&file).expect(&canary.what);
        let bad = testkit::canaries::mutate(&good, &canary);
        assert_ne!(good, bad, "{}", canary.what);
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let files: Vec<_> = ["proposer", "operator", "tests"]
        .iter()
        .flat_map(|part| rust_files(&root().join(part)))
        .collect();
    let found = find(&files, &UNFINISHED);
    assert!(
        found.is_empty(),
        "finish it or take it out:\n{}",
        found.join("\n")
    );
}

#[test]
fn words_are_found_as_words_and_not_in_comments() {
    assert!(has_word("use rand::Rng;", "rand"));
    assert!(has_word("std::time::Instant", "std::time"));
    assert!(!has_word("let operand = 1;", "rand"));
    assert!(!has_word("let random = 1;", "rand"));
    assert!(!has_word("a(); // never async", "async"));
}

/// `file:line: text` of every line in which one of the words occurs.
fn find(files: &[PathBuf], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).expect("a source file is text");
        for (number, line) in (1..).zip(text.lines()) {
            if words.iter().any(|word| has_word(line, word)) {
                found.push(format!("{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    found
}

/// Whether the code of a line has that word; comments may have it.
fn has_word(line: &str, word: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let joined = word.ends_with(part_of_word) && after.is_some_and(part_of_word);
        !(joined || before.is_some_and(part_of_word))
    })
}

#[test]
fn tests_that_the_table_of_pains_names_exist() {
    let readme = fs::read_to_string(root().join("tests/README.md")).unwrap();
    let (_, table) = readme
        .split_once("## What hurt users of other operators")
        .expect("it is there");
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let sources: Vec<_> = ["operator", "proposer", "tests"]
        .iter()
        .flat_map(|part| rust_files(&root().join(part)))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let mut named = 0;
    for row in rows {
        // Every second piece is in backticks; test names have underscores and nothing else.
        let is_test = |text: &&str| {
            text.contains('_')
                && text
                    .chars()
                    .all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        for name in row.split('`').skip(1).step_by(2).filter(is_test) {
            let function = format!("fn {name}(");
            assert!(
                sources.iter().any(|text| text.contains(&function)),
                "no test is called {name}"
            );
            named += 1;
        }
    }
    assert!(named > 20, "only {named} tests are named");
}
