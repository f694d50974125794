//! What each step took and what it found.

use std::time::{Duration, Instant};

/// The steps so far.
#[derive(Default)]
pub struct Table {
    rows: Vec<(String, Duration, String)>,
}

impl Table {
    /// Adds a step that began at `started` and ends now, and says so at once.
    pub fn row(&mut self, step: &str, started: Instant, found: impl Into<String>) {
        self.add(step, started.elapsed(), found);
    }

    /// Adds a step that took so long.
    pub fn add(&mut self, step: &str, took: Duration, found: impl Into<String>) {
        let found = found.into();
        println!("e2e: {step}: {:.2} s {found}", took.as_secs_f64());
        self.rows.push((step.to_owned(), took, found));
    }

    /// The whole table, as Markdown.
    pub fn print(&self) {
        println!("\n| step | seconds | found |\n|---|---:|---|");
        for (step, took, found) in &self.rows {
            println!("| {step} | {:.2} | {found} |", took.as_secs_f64());
        }
    }
}
