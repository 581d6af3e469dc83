//! Bringing a log of an older format to this one, and making its indices anew.
//!
//! The first format had a value for each event, which is a block of one record and stays as it is, and an index entry for each
//! event's id and each version, which give way to [`super::ids`] and [`super::streams`]. The second had another index of ids. A
//! crash on the way leaves the older format's number, so that the next opening begins again.

use std::ops::ControlFlow;
use std::path::Path;

use dissent_domain::event::Recorded;
use dissent_domain::log::LogError;
use sled::{Batch, Db};

use super::commit::sync_database;
use super::error::{io_error, read_error};
use super::keys;
use super::meta::{FORMAT, Meta, read_meta, write_meta};
use super::reader::Reader;
use super::streams;

/// Events, and keys, of one write.
const PER_WRITE: usize = 1024;

/// Brings a log with events up to `head` to the present format, if it is not there yet.
pub(super) fn upgrade(dir: &Path, db: &Db, reader: &Reader, head: u64) -> Result<(), LogError> {
    let Some(meta) = read_meta(db)?.filter(|meta| meta.format < FORMAT) else { return Ok(()) };
    tracing::info!(
        from = meta.format,
        to = FORMAT,
        events = head,
        "the event log is brought to a newer format"
    );
    rebuild_indices(db, reader, head)?;
    write_meta(db, Meta { format: FORMAT, ..meta })?;
    sync_database(dir).map_err(io_error)
}

/// Makes the index of streams anew from the events, and removes that of ids: it is made anew when it is loaded.
pub(super) fn rebuild_indices(db: &Db, reader: &Reader, head: u64) -> Result<(), LogError> {
    for prefix in [keys::IDS, keys::STREAMS].into_iter().chain(keys::FIRST_FORMAT_INDICES) {
        remove_all(db, prefix)?;
    }
    let mut events = Vec::new();
    reader.scan(0, head, &mut |view| {
        events.push(view.to_recorded()?);
        if events.len() >= PER_WRITE {
            add(db, &std::mem::take(&mut events))?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    add(db, &events)?;
    db.flush().map(drop).map_err(read_error)
}

fn add(db: &Db, events: &[Recorded]) -> Result<(), LogError> {
    let mut batch = Batch::default();
    for (key, value) in streams::update(db, events)? {
        batch.insert(key, value);
    }
    db.apply_batch(batch).map_err(read_error)
}

fn remove_all(db: &Db, prefix: &[u8]) -> Result<(), LogError> {
    loop {
        let mut batch = Batch::default();
        let mut found = 0;
        for key in db.scan_prefix(prefix).keys().take(PER_WRITE) {
            batch.remove(key.map_err(read_error)?);
            found += 1;
        }
        if found == 0 {
            return Ok(());
        }
        db.apply_batch(batch).map_err(read_error)?;
    }
}
