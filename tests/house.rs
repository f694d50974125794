//! Rules for the structure of the code: which crate may use which, no cycles between modules, files that
//! can be read at once, queues with a bound, and manifests from which an image can be built.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::files::{copy, rust_files};
use testkit::tools::root;

/// What each crate may use of the others.
const ARROWS: [(&str, &[&str]); 5] = [
    ("proposer/paxos", &[]),
    ("proposer/roles", &["paxos"]),
    ("proposer/api", &["paxos"]),
    ("proposer", &["api", "paxos", "roles"]),
    ("operator", &["api", "paxos", "proposer"]),
];
/// Bytes, hashes and derived errors: nothing that could wait, ask the time or throw dice.
const PURE: [&str; 5] = ["bytes", "crc32c", "hashbrown", "siphasher", "thiserror"];
/// What ships.
const FOLDERS: [&str; 5] = [
    "proposer/paxos/src",
    "proposer/roles/src",
    "proposer/api/src",
    "proposer/src",
    "operator/src",
];
/// Lines of a file that is no test.
const LONGEST: usize = 600;
/// A queue that may grow says so, within so many lines before it.
const REASON: &str = "Unbounded:";
const REASON_WITHIN: usize = 6;

#[test]
fn crates_use_each_other_in_one_direction() {
    let ours = BTreeSet::from([
        "api",
        "node",
        "operator",
        "paxos",
        "paxos-operator",
        "proposer",
        "roles",
    ]);
    for (krate, may) in ARROWS {
        let used = dependencies(&read(&root().join(krate).join("Cargo.toml")));
        let used = used.iter().filter(|name| ours.contains(name.as_str()));
        let wrong: Vec<_> = used.filter(|name| !may.contains(&name.as_str())).collect();
        assert!(wrong.is_empty(), "{krate} must not depend on {wrong:?}");
    }
}

#[test]
fn protocol_and_roles_depend_on_nothing_that_is_not_pure() {
    let used = |krate: &str| dependencies(&read(&root().join(krate).join("Cargo.toml")));
    assert_eq!(used("proposer/paxos"), PURE);
    let roles = used("proposer/roles");
    let pure = |name: &String| name == "paxos" || PURE.contains(&name.as_str());
    assert!(roles.iter().all(pure), "{roles:?}");
}

#[test]
fn modules_of_a_crate_form_no_cycle() {
    for (krate, _) in ARROWS {
        let uses = uses(&sources(&root().join(krate).join("src")));
        assert!(uses.len() > 2, "{krate}: {uses:?}");
        let cycle = cycle(&uses);
        assert_eq!(
            cycle, None,
            "{krate}: each of these modules uses the next one"
        );
    }
}

#[test]
fn files_can_be_read_at_once() {
    let too_long: Vec<_> = FOLDERS
        .iter()
        .flat_map(|folder| sources(&root().join(folder)))
        .filter(|source| source.text.lines().count() > LONGEST)
        .map(|source| source.path)
        .collect();
    assert!(too_long.is_empty(), "over {LONGEST} lines: {too_long:?}");
}

#[test]
fn connections_are_opened_in_one_place() {
    let found = found(connections, "proposer/src/connect.rs");
    assert!(found.is_empty(), "use node::connect: {found:?}");
}

#[test]
fn quorums_are_computed_in_one_place() {
    let found = found(quorum_arithmetic, "paxos/src/quorum.rs");
    assert!(found.is_empty(), "let quorum.rs compute it: {found:?}");
}

#[test]
fn queues_have_a_bound_or_say_why_not() {
    let bare = found(unbounded, "no exception");
    assert!(
        bare.is_empty(),
        "give it a bound, or say \"{REASON}\" why not: {bare:?}"
    );
}

#[test]
fn what_dockerignore_leaves_is_a_workspace() {
    let context = tempfile::tempdir().unwrap();
    let list = read(&root().join(".dockerignore"));
    for part in list.lines().filter_map(|line| line.strip_prefix('!')) {
        copy(&root().join(part), &context.path().join(part));
    }
    let metadata = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args([
            "metadata",
            "--locked",
            "--offline",
            "--no-deps",
            "--format-version=1",
        ])
        .current_dir(context.path())
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&metadata.stderr);
    assert!(
        metadata.status.success(),
        "every member needs its manifest: {said}"
    );
}

#[test]
fn the_rules_notice_what_breaks_them() {
    let manifest = "[package]\nname = \"a\"\n\n[dependencies]\ntokio.workspace = true\n\
                    x = { path = \"../x\" }\n\n[dev-dependencies]\ny = \"1\"\n";
    assert_eq!(dependencies(manifest), ["tokio", "x"]);

    let source = |path: &str, text: &str| Source {
        path: path.into(),
        module: module_of(Path::new(path)).unwrap_or_default(),
        text: text.to_owned(),
    };
    let uses_of = |texts: [&str; 3]| {
        uses(&[
            source("one.rs", texts[0]),
            source("two/part.rs", texts[1]),
            source("three.rs", texts[2]),
        ])
    };
    let straight = [
        "use crate::two::A;",
        "use crate::{\n    three::{self, B},\n};",
        "fn f() {}",
    ];
    assert_eq!(cycle(&uses_of(straight)), None);
    let round = [straight[0], straight[1], "fn f() { crate::one::g() }"];
    let found = cycle(&uses_of(round)).expect("a cycle");
    assert_eq!(found.len(), 3, "{found:?}");
    let in_words_and_tests = [
        straight[0],
        straight[1],
        "// crate::one\n#[cfg(test)]\nmod tests {\n    use crate::one;\n}\n",
    ];
    assert_eq!(cycle(&uses_of(in_words_and_tests)), None);
    let of_the_root = [straight[0], straight[1], "use super::one;"];
    assert!(cycle(&uses_of(of_the_root)).is_some());

    assert_eq!(connections("let s = TcpStream::connect(a).await;"), [1]);
    assert!(connections("let s = connect::stream(a).await;").is_empty());
    for computes in [
        "if votes < members.quorum() {",
        "let needed = members.quorum() - 1;",
        "let most = members.quorum().saturating_sub(votes);",
        "let quorum = links.len() / 2 + 1;",
    ] {
        assert_eq!(quorum_arithmetic(computes), [1], "{computes}");
    }
    for fine in [
        "let quorum = members.quorum();",
        "if members.is_quorum(votes + 1) {",
        "let half = all / 2; // not all / 2 + 1",
    ] {
        assert!(quorum_arithmetic(fine).is_empty(), "{fine}");
    }

    assert_eq!(unbounded("let a = mpsc::unbounded_channel();"), [1]);
    assert_eq!(unbounded("let a = mpsc::channel::<u8>();"), [1]);
    assert_eq!(
        unbounded("let a = mpsc::unbounded_channel::<Vec<u8>>();"),
        [1]
    );
    assert!(unbounded("let a = mpsc::channel::<Vec<u8>>(16);").is_empty());
    assert!(
        unbounded("// Unbounded: one a second.\nlet a = mpsc::unbounded_channel();").is_empty()
    );
    assert_eq!(module_of(Path::new("a/tests.rs")), None);
    assert_eq!(module_of(Path::new("a/b/c.rs")).as_deref(), Some("a"));
}

/// A file that is no test.
struct Source {
    path: PathBuf,
    /// The module of the crate's root that it belongs to; empty for the root itself.
    module: String,
    text: String,
}

/// The module of the crate's root that a file is in; `None` for tests.
fn module_of(path: &Path) -> Option<String> {
    let mut names: Vec<_> = path.iter().map(|name| name.to_string_lossy()).collect();
    let last = names.pop()?;
    let last = last.strip_suffix(".rs")?.to_owned();
    if last == "tests" || names.iter().any(|name| *name == "tests") {
        return None;
    }
    match names.first() {
        Some(first) => Some(first.to_string()),
        None if last == "lib" || last == "main" => Some(String::new()),
        None => Some(last),
    }
}

fn sources(folder: &Path) -> Vec<Source> {
    let files = rust_files(folder).into_iter();
    let found = files.filter_map(|path| {
        let module = module_of(path.strip_prefix(folder).unwrap())?;
        let text = read(&path);
        Some(Source { path, module, text })
    });
    let found: Vec<_> = found.collect();
    assert!(!found.is_empty(), "{}", folder.display());
    found
}

/// By module, those that it uses and the file in which it does.
fn uses(sources: &[Source]) -> BTreeMap<String, BTreeMap<String, PathBuf>> {
    let modules: BTreeSet<&str> = sources.iter().map(|s| s.module.as_str()).collect();
    let mut uses: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.module.is_empty()) {
        let own = uses.entry(source.module.clone()).or_default();
        let code = code_of(&source.text);
        let file = |name: String| source.path.ends_with(name);
        let module = &source.module;
        let is_at_the_root = file(format!("{module}.rs")) || file(format!("{module}/mod.rs"));
        let mut named = after(&code, "crate::");
        if is_at_the_root {
            named.extend(after(&code, "super::"));
        }
        named.retain(|name| modules.contains(name.as_str()) && *name != source.module);
        own.extend(named.into_iter().map(|name| (name, source.path.clone())));
    }
    uses
}

/// The text without comments and without its tests.
fn code_of(text: &str) -> String {
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The names that follow a prefix: one, or those of a group in braces.
fn after(code: &str, prefix: &str) -> Vec<String> {
    let name_of = |text: &str| {
        let part_of_name = |c: &char| c.is_alphanumeric() || *c == '_';
        text.trim_start()
            .chars()
            .take_while(part_of_name)
            .collect::<String>()
    };
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(name_of(rest));
            continue;
        };
        let mut depth = 1;
        names.push(name_of(group));
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => names.push(name_of(&group[at + 1..])),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Modules each of which uses the next one, and the last one the first, with the files that do.
fn cycle(uses: &BTreeMap<String, BTreeMap<String, PathBuf>>) -> Option<Vec<(String, PathBuf)>> {
    fn visit(
        at: &str,
        uses: &BTreeMap<String, BTreeMap<String, PathBuf>>,
        way: &mut Vec<(String, PathBuf)>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        for (next, file) in uses.get(at).into_iter().flatten() {
            if let Some(start) = way.iter().position(|(name, _)| name == next) {
                way.drain(..start);
                way.last_mut().expect("it has the start").1 = file.clone();
                return true;
            }
            if done.contains(next) {
                continue;
            }
            way.last_mut().expect("it has where we are").1 = file.clone();
            way.push((next.clone(), PathBuf::new()));
            if visit(next, uses, way, done) {
                return true;
            }
            way.pop();
        }
        done.insert(at.to_owned());
        false
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|start| {
        let mut way = vec![(start.clone(), PathBuf::new())];
        (!done.contains(start) && visit(start, uses, &mut way, &mut done)).then_some(way)
    })
}

/// What a rule finds in all that ships, but in one file.
fn found(rule: fn(&str) -> Vec<usize>, but: &str) -> Vec<(PathBuf, usize)> {
    let all = FOLDERS.iter().flat_map(|f| sources(&root().join(f)));
    let all = all.filter(|source| !source.path.ends_with(but));
    let lines = all.flat_map(|source| {
        let lines = rule(&source.text);
        lines
            .into_iter()
            .map(move |line| (source.path.clone(), line))
    });
    lines.collect()
}

/// The lines that open a connection.
fn connections(text: &str) -> Vec<usize> {
    let opens = ["TcpStream::connect(", "http1::handshake("];
    let lines = text.lines().enumerate();
    let found = lines.filter(|(_, line)| opens.iter().any(|it| line.contains(it)));
    found.map(|(at, _)| at + 1).collect()
}

/// The lines that compute with the size of a quorum, or a majority. It does not follow a size that was put
/// into a variable first.
fn quorum_arithmetic(text: &str) -> Vec<usize> {
    let computes = |line: &str| {
        let line = line.split("//").next().unwrap_or_default();
        let around = line.split("quorum()").collect::<Vec<_>>();
        let operators = [
            " < ",
            " > ",
            " <= ",
            " >= ",
            " - ",
            " + ",
            ".saturating_sub",
        ];
        let beside = around.len() > 1 && operators.iter().any(|it| line.contains(it));
        beside || line.contains("/ 2 + 1")
    };
    let lines = text.lines().enumerate();
    let found = lines.filter(|(_, line)| computes(line));
    found.map(|(at, _)| at + 1).collect()
}

/// The lines that make a queue without a bound and without a reason.
fn unbounded(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let makes = |line: &str| {
        let any = ["unbounded_channel", "mpsc::unbounded"];
        // That of the standard library takes no bound.
        any.iter().any(|name| calls(line, name).is_some())
            || calls(line, "mpsc::channel") == Some("")
    };
    let has_reason = |at: usize| {
        let near = &lines[at.saturating_sub(REASON_WITHIN)..at];
        near.iter().any(|line| line.contains(REASON))
    };
    let all = lines.iter().enumerate();
    let bare = all.filter(|(at, line)| makes(line) && !has_reason(*at));
    bare.map(|(at, _)| at + 1).collect()
}

/// What a line passes to a function of that name, with or without a type in between.
fn calls<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(name)?;
    let rest = match rest.strip_prefix("::<") {
        Some(typed) => typed.split_once(">(")?.1,
        None => rest.strip_prefix('(')?,
    };
    Some(rest.split_once(')')?.0)
}

/// The names under `[dependencies]`; there must be no other place for them.
fn dependencies(manifest: &str) -> Vec<String> {
    for other in ["[dependencies.", "[target.", "[build-dependencies"] {
        assert!(!manifest.contains(other), "{other} hides what is used");
    }
    let section = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]");
    let section = section.skip(1).take_while(|line| !line.starts_with('['));
    let name = |line: &str| {
        let end = line.find(['.', ' ', '='])?;
        Some(line[..end].to_owned())
    };
    section.filter_map(name).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
