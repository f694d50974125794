//! Files and folders, walked and copied. Everything here panics where the file system says no.

use std::fs;
use std::path::{Path, PathBuf};

/// The Rust sources below a folder, but for what Cargo builds.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let files = paths.flat_map(|path| match path.is_dir() {
        true if path.ends_with("target") => Vec::new(),
        true => rust_files(&path),
        false => vec![path],
    });
    files
        .filter(|file| file.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// Copies a file, or a folder with all in it.
pub fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        let folder = to.parent().expect("a file lies in a folder");
        fs::create_dir_all(folder).unwrap();
        fs::copy(from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}
