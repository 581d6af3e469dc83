//! Opening a log: by one process at a time, only in known formats, only if no acknowledged event is missing.

use std::collections::hash_map::RandomState;
use std::fs::{File, TryLockError};
use std::hash::BuildHasher;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use dissent_domain::error::chain;
use dissent_domain::event::Recorded;
use dissent_domain::log::{LogError, LogPart};
use sled::{Batch, Db};

use super::commit::{Committer, sync_database};
use super::error::{damaged, guarded, io_error, located, read_error};
use super::ids::Ids;
use super::indices::index_entries;
use super::meta::{FORMAT, Meta, read_meta, write_meta};
use super::options::SledOptions;
use super::reader::Reader;
use super::shared::{Cursors, Shared};
use super::tail::{Found, Mark, Tail};
use super::upgrade::{rebuild_indices, upgrade};
use super::{keys, record, streams, tail};

/// Events checked at every open. A crash damages the end; a full check covers the rest.
const CHECKED_AT_OPEN: u64 = 4096;
/// Longest wait for sled to release a log that this process has just closed.
const TEARDOWN_MAX: Duration = Duration::from_secs(5);

pub(super) struct Opened {
    pub(super) shared: Shared,
    pub(super) committer: Committer,
    pub(super) lock: File,
}

/// Opens the log in `dir`; creates it if it does not exist.
pub(super) fn open(dir: &Path, options: &SledOptions) -> Result<Opened, LogError> {
    open_checked(dir, options).map_err(|error| located(dir, error))
}

fn open_checked(dir: &Path, options: &SledOptions) -> Result<Opened, LogError> {
    std::fs::create_dir_all(dir).map_err(io_error)?;
    let lock = lock(dir)?;
    let db = open_sled(dir, options)?;
    let reader = Reader { tree: (*db).clone() };
    let (tail, head) = guarded(|| recover(dir, &db, &reader, options))?;
    let ids = guarded(|| Ids::load(&reader, head, options.run_events))?;
    check(&reader, &ids, head, options)?;
    let shared = guarded(|| load(reader, ids, head))?;
    let committer = Committer::new(db, dir, tail).map_err(io_error)?;
    Ok(Opened { shared, committer, lock })
}

pub(super) fn lock(dir: &Path) -> Result<File, LogError> {
    let file = File::options().write(true).create(true).truncate(false).open(dir.join("lock"));
    let file = file.map_err(io_error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::InUse(dir.display().to_string())),
        Err(TryLockError::Error(error)) => Err(io_error(error)),
    }
}

pub(super) fn open_sled(dir: &Path, options: &SledOptions) -> Result<Db, LogError> {
    // Every commit flushes, so sled's flush timer would only add writes. Compression would need a C library
    // and save little on MessagePack of this size. The high-throughput mode made no difference to appends,
    // scans or size. So the mode is the one that saves space.
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(options.cache_bytes)
        .flush_every_ms(None)
        .use_compression(false)
        .mode(sled::Mode::LowSpace);
    let began = Instant::now();
    loop {
        match guarded(|| Ok(config.open()))? {
            // The program holds its own lock, so the last owner is in this process and is closing.
            Err(error) if is_locked(&error) && began.elapsed() < TEARDOWN_MAX => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.map_err(read_error),
        }
    }
}

/// Whether sled's own lock is held. sled shows that in the text of the error only.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("lock"))
}

/// Reconciles the database and the tail file; returns the last position.
fn recover(dir: &Path, db: &Db, reader: &Reader, options: &SledOptions) -> Result<(Tail, u64), LogError> {
    let log_id = read_meta(db)?.map(|meta| meta.log_id);
    let last = reader.last_position()?;
    // Upgrade first: a restored commit is added to the indices.
    upgrade(dir, db, reader, last)?;
    match reconcile(dir, db, log_id, last) {
        Err(error @ LogError::Corrupt { .. }) if options.accept_loss => {
            tracing::warn!(error = %chain(&error), head = last, "opening an event log that lost acknowledged events");
            // The indices may refer to missing events.
            rebuild_indices(db, reader, last)?;
            Ok((create(dir, db, log_id, last)?, last))
        }
        reconciled => reconciled,
    }
}

/// Compares the database with the tail file.
fn reconcile(dir: &Path, db: &Db, log_id: Option<u64>, last: u64) -> Result<(Tail, u64), LogError> {
    let tail = Tail::open(&dir.join(tail::FILE_NAME)).map_err(|error| {
        if error.kind() == io::ErrorKind::InvalidData {
            LogError::corrupt_because(LogPart::TailFile, "the tail file cannot be read", error)
        } else {
            io_error(error)
        }
    })?;
    let found = tail.as_ref().map(|(_, found)| found.mark.position);
    match (log_id, tail) {
        // Nothing was ever acknowledged here: the tail file is created before the first append.
        (_, None) if last == 0 => Ok((create(dir, db, log_id, 0)?, 0)),
        (None, _) if last == 0 && found == Some(0) => Ok((create(dir, db, None, 0)?, 0)),
        (_, None) => Err(LogError::corrupt(LogPart::TailFile, "the tail file is missing")),
        (None, Some(_)) => {
            let lost = found.unwrap_or(0);
            let reason = format!("the database lost its first record and {lost} acknowledged events");
            Err(LogError::corrupt(LogPart::FirstRecord, reason))
        }
        (Some(log_id), Some((_, found))) if found.log_id != log_id => {
            Err(LogError::corrupt(LogPart::TailFile, "the tail file belongs to another log"))
        }
        (Some(_), Some((mut tail, found))) => {
            let head = complete(db, &found, last)?;
            settle(dir, db, &mut tail, &found, head).map_err(io_error)?;
            Ok((tail, head))
        }
    }
}

/// Writes the newest commit again if a crash kept it from the database. Returns the last position.
fn complete(db: &Db, found: &Found, last: u64) -> Result<u64, LogError> {
    let Mark { base, position } = found.mark;
    if last >= position {
        return Ok(last);
    }
    if last != base || found.redo.is_empty() {
        let (count, first) = (position - last, last + 1);
        let reason = format!("{count} acknowledged events are missing, from position {first} to {position}");
        return Err(LogError::corrupt(LogPart::Events, reason));
    }
    let events = events_of(&found.redo)?;
    let mut batch = Batch::default();
    for (key, value) in record::encode(&events)? {
        batch.insert(&key, value);
    }
    for (key, value) in streams::update(db, &events)? {
        batch.insert(key, value);
    }
    db.apply_batch(batch).map_err(read_error)?;
    tracing::info!(from = last + 1, to = position, "restoring the newest commit from the tail file");
    let reached = Reader { tree: (**db).clone() }.last_position()?;
    if reached == position {
        return Ok(position);
    }
    let reason = format!("the tail file marks position {position} but holds {reached}");
    Err(LogError::corrupt(LogPart::TailFile, reason))
}

/// Returns the events in a commit's blocks, as the tail file keeps them: in order, with the parts of a block
/// together.
fn events_of(redo: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<Recorded>, LogError> {
    let damaged =
        |what: &str| LogError::corrupt(LogPart::TailFile, format!("the commit in the tail file: {what}"));
    // The first format had index entries beside the parts.
    let mut parts = redo
        .iter()
        .filter_map(|(key, value)| Some((keys::parse_event(key)?, key.as_slice(), value.as_slice())));
    let mut events = Vec::new();
    while let Some(((first, _), key, value)) = parts.next() {
        let payload = record::unframe(key, value).map_err(|what| damaged(&what))?;
        let block = record::assemble(first, payload, |part| match parts.next() {
            Some((found, key, value)) if found == (first, part) => {
                record::unframe(key, value).map(<[u8]>::to_vec).map_err(|what| damaged(&what))
            }
            _ => Err(damaged("a part of a record is missing")),
        })?;
        for record in record::records(first, &block) {
            let (position, record) = record?;
            events.push(record::decode(position, record)?.to_recorded()?);
        }
    }
    Ok(events)
}

/// Makes the recovered events durable and marks them. A killed process may have left events that the database
/// has and the device has not, and readers act on events.
fn settle(dir: &Path, db: &Db, tail: &mut Tail, found: &Found, head: u64) -> io::Result<()> {
    if (found.mark == Mark { base: head, position: head }) {
        return Ok(());
    }
    db.flush().map_err(io::Error::other)?;
    sync_database(dir)?;
    tail.settle(Mark { base: head, position: head })
}

/// Creates the files of a log besides its events, and makes them durable.
fn create(dir: &Path, db: &Db, log_id: Option<u64>, last: u64) -> Result<Tail, LogError> {
    let log_id = log_id.unwrap_or_else(new_log_id);
    write_meta(db, Meta { format: FORMAT, log_id })?;
    let durable = || {
        sync_database(dir)?;
        let tail = Tail::create(&dir.join(tail::FILE_NAME), log_id, Mark { base: last, position: last })?;
        sync_dirs(dir)?;
        Ok(tail)
    };
    durable().map_err(io_error)
}

/// Returns a random number that distinguishes logs. It has no other use.
fn new_log_id() -> u64 {
    RandomState::new().hash_one("log")
}

/// Makes the entries of a new folder durable, and its own entry in its parent.
fn sync_dirs(dir: &Path) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    File::open(&dir)?.sync_all()?;
    match dir.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn check(reader: &Reader, ids: &Ids, head: u64, options: &SledOptions) -> Result<(), LogError> {
    let from = if options.check_all { 0 } else { head.saturating_sub(CHECKED_AT_OPEN) };
    guarded(|| {
        reader.scan(from, head, &mut |view| {
            let entries = index_entries(reader, ids, &view)?;
            match entries.iter().find(|(_, position)| *position != Some(view.position)) {
                None => Ok(ControlFlow::Continue(())),
                Some((what, _)) => Err(damaged(view.position, &format!("missing from the {what} index"))),
            }
        })
    })
}

fn load(reader: Reader, ids: Ids, head: u64) -> Result<Shared, LogError> {
    let streams = streams::last_versions(&reader.tree)?;
    let events: u64 = streams.iter().map(|(_, version)| version).sum();
    if events != head {
        let reason =
            format!("the streams hold {events} events, the log holds {head}: run `dissent log verify`");
        return Err(LogError::corrupt(LogPart::StreamIndex, reason));
    }
    let cursors = Cursors { records: reader.cursors()?.into_iter().collect(), ..Cursors::default() };
    Ok(Shared {
        reader,
        ids,
        head: AtomicU64::new(head),
        streams: RwLock::new(streams.into_iter().collect()),
        cursors: Mutex::new(cursors),
        listeners: RwLock::default(),
        failure: Mutex::default(),
    })
}
