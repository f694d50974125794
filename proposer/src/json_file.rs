//! Small durable files: a JSON object with a format number and a checksum, replaced as a whole.
//!
//! A file is never changed in place: a new one is written, synced and renamed over the old one, and
//! the folder synced, so that a crash leaves either.

use std::collections::BTreeMap;
use std::io;

use serde_json::Value;

use crate::media::{Media, MediaFile, lacks_room};

/// What the object holds, `format` among it.
pub type Fields = BTreeMap<String, Value>;

const CRC: &str = "crc32c";

/// Why a file cannot be read or kept. Each is a reason to end the process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be opened.
    #[error("cannot open the state's folder: {0}")]
    Open(io::Error),
    /// The disk refused.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file's path.
        file: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The file was written by a later program.
    #[error(
        "{file} has format {format}, and this program knows up to {newest}. Nothing was changed. \
         Start the version of the program that wrote it, or a later one"
    )]
    Unsupported {
        /// The file's path.
        file: String,
        /// Its format.
        format: u64,
        /// The newest one known here.
        newest: u64,
    },
    /// An earlier error ended this file's use.
    #[error("the file is not used any more after an earlier error")]
    Poisoned,
}

impl Error {
    /// Whether the disk had no room left, and nothing else is wrong with it.
    pub fn is_lack_of_room(&self) -> bool {
        matches!(self, Error::Io { source, .. } if lacks_room(source))
    }
}

/// What is there.
pub enum Loaded<T> {
    /// No such file.
    Absent,
    /// A file that is damaged, or another program's.
    Unreadable,
    /// What the object says.
    Read(T),
}

/// Reads a file of a format up to `newest`; `decode` is given the object without its checksum, and
/// says what it means, or that it means nothing. One without `format` or checksum is read as well: it is
/// an older program's, or a person has edited it.
pub fn load<T>(
    folder: &impl Media,
    name: &str,
    newest: u64,
    decode: impl FnOnce(&Fields) -> Option<T>,
) -> Result<Loaded<T>, Error> {
    let bytes = match folder.open(name).and_then(|file| file.read_all()) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Absent),
        Err(source) => return Err(io_error(folder, "read", name, source)),
    };
    let Ok(mut fields) = serde_json::from_slice::<Fields>(&bytes) else {
        return Ok(Loaded::Unreadable);
    };
    if let Some(crc) = fields.remove(CRC)
        && crc != checksum(&fields)
    {
        return Ok(Loaded::Unreadable);
    }
    match fields.get("format").map(Value::as_u64) {
        Some(None) => Ok(Loaded::Unreadable),
        Some(Some(format)) if format > newest => Err(Error::Unsupported {
            file: folder.describe(name),
            format,
            newest,
        }),
        _ => Ok(decode(&fields).map_or(Loaded::Unreadable, Loaded::Read)),
    }
}

/// Puts a new file in the place of an old one, durably.
pub fn replace(folder: &impl Media, name: &str, mut fields: Fields) -> Result<(), Error> {
    let temporary = format!("{name}.tmp");
    let fail = |action| move |source| io_error(folder, action, name, source);
    match folder.remove(&temporary) {
        // A process that was killed has left it.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(io_error(folder, "remove", &temporary, source)),
    }
    fields.insert(CRC.to_owned(), checksum(&fields).into());
    let mut bytes = serde_json::to_vec_pretty(&fields).unwrap_or_default();
    bytes.push(b'\n');
    let file = folder.create(&temporary).map_err(fail("create"))?;
    file.write_at(&bytes, 0).map_err(fail("write"))?;
    file.sync_data().map_err(fail("sync"))?;
    folder.rename(&temporary, name).map_err(fail("replace"))?;
    folder.sync_dir().map_err(fail("sync the folder of"))
}

/// Over the other fields, as compact JSON in the fields' order.
fn checksum(fields: &Fields) -> u32 {
    crc32c::crc32c(&serde_json::to_vec(fields).unwrap_or_default())
}

pub(crate) fn io_error(
    folder: &impl Media,
    action: &'static str,
    name: &str,
    source: io::Error,
) -> Error {
    Error::Io {
        action,
        file: folder.describe(name),
        source,
    }
}
