//! The first record of a log: the format of its folder, and its identity.

use dissent_domain::log::{LogError, LogPart};
use sled::Db;

use super::error::read_error;
use super::{keys, record};

/// Version of the format of the whole folder.
pub(super) const FORMAT: u16 = 3;

/// The first record of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    pub(super) format: u16,
    pub(super) log_id: u64,
}

pub(super) fn read_meta(db: &Db) -> Result<Option<Meta>, LogError> {
    let Some(value) = db.get(keys::META).map_err(read_error)? else { return Ok(None) };
    let damaged =
        |what: &str| LogError::corrupt(LogPart::FirstRecord, format!("the first record of the log: {what}"));
    let payload = record::unframe(keys::META, &value).map_err(|what| damaged(&what))?;
    let (format, rest) = payload.split_first_chunk::<2>().ok_or_else(|| damaged("cut short"))?;
    let format = u16::from_le_bytes(*format);
    if format > FORMAT {
        // `located` adds the place.
        return Err(LogError::NewerFormat { log: String::new(), format, known: FORMAT });
    }
    let log_id = rest.first_chunk::<8>().ok_or_else(|| damaged("cut short"))?;
    Ok(Some(Meta { format, log_id: u64::from_le_bytes(*log_id) }))
}

pub(super) fn write_meta(db: &Db, meta: Meta) -> Result<(), LogError> {
    let mut payload = meta.format.to_le_bytes().to_vec();
    payload.extend_from_slice(&meta.log_id.to_le_bytes());
    db.insert(keys::META, record::frame(keys::META, &payload)).map_err(read_error)?;
    db.flush().map(drop).map_err(read_error)
}
