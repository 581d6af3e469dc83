//! Upgrades of a log to the present format, and rebuilding of its indices.
//!
//! The first format had one value for each event, which is a block of one record and stays as it is. It also
//! had an index entry for each event's id and for each version; [`super::ids`] and [`super::streams`] replace
//! them. The second format had another index of ids. A crash during the upgrade leaves the older format
//! number, so that the next open starts again.

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

/// Events, or keys, of one write.
const PER_WRITE: usize = 1024;

/// Upgrades a log with events up to `head` to the present format, if necessary.
pub(super) fn upgrade(dir: &Path, db: &Db, reader: &Reader, head: u64) -> Result<(), LogError> {
    let Some(meta) = read_meta(db)?.filter(|meta| meta.format < FORMAT) else { return Ok(()) };
    tracing::info!(from = meta.format, to = FORMAT, events = head, "upgrading the event log");
    rebuild_indices(db, reader, head)?;
    write_meta(db, Meta { format: FORMAT, ..meta })?;
    sync_database(dir).map_err(io_error)
}

/// Rebuilds the index of streams from the events, and removes the index of ids, which is rebuilt when it is
/// loaded.
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
