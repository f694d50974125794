//! The document with the figures: text by hand around sections that a run fills in.

use std::fs;
use std::path::Path;

/// Replaces what is between `<!-- begin NAME -->` and `<!-- end NAME -->`.
///
/// # Panics
/// When the document has no such section.
pub(crate) fn section(document: &Path, name: &str, text: &str) {
    let old = fs::read_to_string(document).expect("the document is there");
    let (begin, end) = (
        format!("<!-- begin {name} -->"),
        format!("<!-- end {name} -->"),
    );
    let parts = old.split_once(&begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&end)?;
        Some((before, after))
    });
    let (before, after) = parts.unwrap_or_else(|| panic!("{} has no {begin}", document.display()));
    let new = format!("{before}{begin}\n{}\n{end}{after}", text.trim_end());
    fs::write(document, new).expect("the document can be written");
}

/// Writes a picture into the folder that is named as the document.
pub(crate) fn picture(document: &Path, name: &str, svg: &str) {
    let folder = document.with_extension("");
    fs::create_dir_all(&folder).expect("a folder for the pictures");
    fs::write(folder.join(format!("{name}.svg")), svg).expect("the picture can be written");
}

/// The machine and the programs, in a list.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let cpu = field(&read("/proc/cpuinfo"), "model name").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let memory = memory
        .split(' ')
        .next()
        .and_then(|kib| kib.parse::<f64>().ok());
    let memory = memory.unwrap_or(0.0) / f64::from(1 << 20);
    let disk = run(
        "findmnt",
        &[
            "-no",
            "FSTYPE",
            "--target",
            &std::env::temp_dir().display().to_string(),
        ],
    );
    let etcd = testkit::tools::tool("etcd");
    [
        format!("- {cores} cores of {cpu}, {memory:.0} GiB, shared by servers and clients"),
        format!(
            "- Linux {}, data on {disk}",
            read("/proc/sys/kernel/osrelease").trim()
        ),
        format!("- {}", run(&etcd.display().to_string(), &["--version"])),
        format!(
            "- commit {}, {}",
            run("git", &["rev-parse", "--short", "HEAD"]),
            run("date", &["-u", "+%F"])
        ),
    ]
    .join("\n")
}
