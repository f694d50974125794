//! Standard output: text for people, or one JSON document a line.

use std::fmt::Display;
use std::io::{self, Write};

use super::args::Output;
use super::exit::Failure;

/// Writes in the form that was asked for.
#[derive(Clone, Copy)]
pub(super) struct Printer {
    output: Output,
}

impl Printer {
    pub(super) fn new(output: Output) -> Printer {
        Printer { output }
    }

    /// One line, and on its way at once: the reader may be waiting for it.
    pub(super) fn print(self, text: &str, json: impl Display) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = match self.output {
            Output::Text => writeln!(out, "{text}"),
            // Between the tokens of JSON a space says as much as a line break, and within texts
            // there is none.
            Output::Json => writeln!(out, "{}", json.to_string().replace(['\n', '\r'], " ")),
        };
        match written.and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::NobodyReads),
            Err(error) => Err(Failure::Unknown(format!(
                "cannot write the output: {error}"
            ))),
        }
    }
}
