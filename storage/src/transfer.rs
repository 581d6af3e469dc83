//! Export of events as text that any program can read, and import.
//!
//! An export is JSON, one value on each line. The first line gives the format and the number of events. Each
//! further line is an event: its envelope, its body for reading, and its recorded body in base64. The import
//! takes the recorded body, so that a log is restored byte for byte. The readable body must agree with it, so
//! that an edit is not silently ignored.

mod copy;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use dissent_domain::event::{Event, EventId, NewEvent, Recorded, decode};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, AppendFuture, EventLog, ExpectedVersion};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::modes::shared_file_builder;
use crate::{Salvage, StorageError, wait};

use copy::{APPENDS_IN_FLIGHT, READ_EVENTS};
pub use copy::{copy, copy_stream, same};

/// Format of an export.
const FORMAT: u32 = 1;
/// Longest line that is read, larger than the largest event's.
const LINE_BYTES_MAX: u64 = 512 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    dissent_log_export: u32,
    events: u64,
}

#[derive(Serialize)]
struct WrittenLine<'a> {
    position: u64,
    experiment: &'a ExperimentId,
    version: u64,
    id: EventId,
    causation: Option<EventId>,
    actor: &'a str,
    time_us: u64,
    event_type: &'a str,
    schema_version: u16,
    body: Body<'a>,
    body_msgpack: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadLine {
    position: u64,
    experiment: ExperimentId,
    version: u64,
    id: EventId,
    causation: Option<EventId>,
    actor: String,
    time_us: u64,
    event_type: String,
    schema_version: u16,
    body: Value,
    body_msgpack: String,
}

struct Body<'a>(&'a Event);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_body(serializer)
    }
}

/// The result of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// Events that are new in the log.
    pub added: u64,
    /// Events that the log already had.
    pub known: u64,
}

/// Writes all durable events, or those of one experiment. Returns their number.
///
/// # Errors
/// If the log is damaged, holds an unknown event, or `out` fails.
pub fn export(
    log: &dyn EventLog,
    experiment: Option<&ExperimentId>,
    out: &mut dyn Write,
) -> Result<u64, StorageError> {
    let end = match experiment {
        None => log.head(),
        Some(name) => log.streams()?.iter().find(|(stream, _)| stream == name).map_or(0, |(_, last)| *last),
    };
    write_line(out, &Header { dissent_log_export: FORMAT, events: end }).map_err(write_error)?;
    let mut after = 0;
    while after < end {
        let limit = READ_EVENTS.min(usize::try_from(end - after).unwrap_or(READ_EVENTS));
        let events = match experiment {
            None => log.read(after, limit)?,
            Some(name) => log.read_stream(name, after, limit)?,
        };
        if events.is_empty() {
            let reason = format!("the log has fewer than {end} events");
            return Err(StorageError::Export { position: after + 1, reason });
        }
        for recorded in &events {
            write_event(out, recorded)?;
        }
        after += events.len() as u64;
    }
    out.flush().map_err(write_error)?;
    Ok(end)
}

/// Exports to a file that appears atomically; durable on return.
///
/// # Errors
/// As [`export`], or if the file cannot be written.
pub fn export_to(
    log: &dyn EventLog,
    experiment: Option<&ExperimentId>,
    path: &Path,
) -> Result<u64, StorageError> {
    to_file(path, |out| export(log, experiment, out))
}

/// Writes the salvaged events of a damaged log as an export that can be imported. Returns their number.
///
/// # Errors
/// If the copy that holds them became damaged, or `out` fails.
pub fn export_salvage(salvage: &Salvage, out: &mut dyn Write) -> Result<u64, StorageError> {
    let events = salvage.events();
    write_line(out, &Header { dissent_log_export: FORMAT, events }).map_err(write_error)?;
    for recorded in salvage.read() {
        write_event(out, &recorded?)?;
    }
    out.flush().map_err(write_error)?;
    Ok(events)
}

/// Exports salvaged events to a file that appears atomically; durable on return.
///
/// # Errors
/// As [`export_salvage`], or if the file cannot be written.
pub fn export_salvage_to(salvage: &Salvage, path: &Path) -> Result<u64, StorageError> {
    to_file(path, |out| export_salvage(salvage, out))
}

fn write_error(source: io::Error) -> StorageError {
    StorageError::Io { action: "write", path: "the export".into(), source }
}

fn write_event(out: &mut dyn Write, recorded: &Recorded) -> Result<(), StorageError> {
    let body = recorded
        .decode()
        .map_err(|e| StorageError::Export { position: recorded.position, reason: e.to_string() })?;
    write_line(out, &line_of(recorded, &body)).map_err(write_error)
}

fn to_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<u64, StorageError>,
) -> Result<u64, StorageError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut partial =
        shared_file_builder().tempfile_in(parent).map_err(StorageError::io("create a file in", parent))?;
    let count = write(&mut BufWriter::new(&mut partial))?;
    partial.as_file().sync_all().map_err(StorageError::io("sync", path))?;
    partial.persist(path).map_err(|error| StorageError::io("create", path)(error.error))?;
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(StorageError::io("sync", parent))?;
    Ok(count)
}

fn line_of<'a>(recorded: &'a Recorded, body: &'a Event) -> WrittenLine<'a> {
    let event = &recorded.event;
    WrittenLine {
        position: recorded.position,
        experiment: &recorded.experiment,
        version: recorded.version,
        id: event.id,
        causation: event.causation,
        actor: &event.actor,
        time_us: event.time_us,
        event_type: &event.event_type,
        schema_version: event.schema_version,
        body: Body(body),
        body_msgpack: BASE64_STANDARD.encode(&event.body),
    }
}

fn write_line(out: &mut dyn Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Adds the events of an export to a log. Events that the log has stay as they are, and streams are
/// continued. New positions are assigned, in file order. The whole file is checked, against
/// itself and the log, before the first event is added. Blocks.
///
/// # Errors
/// If a line is invalid or contradicts the log (nothing was added then), or if the log fails. After an error
/// of the log, importing again resumes where it stopped.
pub fn import(log: &dyn EventLog, path: &Path) -> Result<Imported, StorageError> {
    let file = File::open(path).map_err(StorageError::io("open", path))?;
    let mut lines = Lines::new(path, file)?;
    let mut check = Check::new(log)?;
    while let Some(line) = lines.next()? {
        check.line(line).map_err(|(field, reason)| lines.error(field, reason))?;
    }
    lines.rewind()?;
    append_all(log, &mut lines, check.imported)
}

fn append_all(
    log: &dyn EventLog,
    lines: &mut Lines<'_>,
    imported: Imported,
) -> Result<Imported, StorageError> {
    let mut in_flight: VecDeque<AppendFuture> = VecDeque::new();
    while let Some(line) = lines.next()? {
        let (experiment, _, event) =
            line.into_event().map_err(|(field, reason)| lines.error(field, reason))?;
        in_flight.push_back(log.append(Append {
            experiment,
            expected: ExpectedVersion::Any,
            events: vec![event],
        }));
        if in_flight.len() >= APPENDS_IN_FLIGHT {
            in_flight.pop_front().map(wait).transpose()?;
        }
    }
    for append in in_flight {
        wait(append)?;
    }
    Ok(imported)
}

/// An error in a line: the field, and the reason.
type Fault = (&'static str, String);

impl ReadLine {
    /// Returns the event, after a check of every field.
    fn into_event(self) -> Result<(ExperimentId, u64, NewEvent), Fault> {
        let body = BASE64_STANDARD
            .decode(&self.body_msgpack)
            .map_err(|error| ("body_msgpack", format!("not padded base64: {error}")))?;
        let event = decode(&self.event_type, self.schema_version, &body)
            .map_err(|error| ("body_msgpack", error.to_string()))?;
        // Compare through text, as the line came: numbers must not differ by their path.
        let shown = serde_json::to_vec(&Body(&event)).and_then(|text| serde_json::from_slice::<Value>(&text));
        if shown.map_err(|error| ("body", error.to_string()))? != self.body {
            return Err(("body", "differs from body_msgpack: edited events cannot be imported".to_owned()));
        }
        let event = NewEvent {
            id: self.id,
            causation: self.causation,
            actor: self.actor,
            time_us: self.time_us,
            event_type: self.event_type,
            schema_version: self.schema_version,
            body,
        };
        Ok((self.experiment, self.version, event))
    }
}

/// Checks lines against each other and against the log.
struct Check<'a> {
    log: &'a dyn EventLog,
    /// The last version of each stream in the log, with the lines so far.
    in_log: HashMap<ExperimentId, u64>,
    in_file: HashMap<ExperimentId, u64>,
    ids: HashSet<EventId>,
    last_position: u64,
    imported: Imported,
}

impl<'a> Check<'a> {
    fn new(log: &'a dyn EventLog) -> Result<Self, StorageError> {
        Ok(Self {
            log,
            in_log: log.streams()?.into_iter().collect(),
            in_file: HashMap::new(),
            ids: HashSet::new(),
            last_position: 0,
            imported: Imported::default(),
        })
    }

    fn line(&mut self, line: ReadLine) -> Result<(), Fault> {
        if line.position <= self.last_position {
            return Err(("position", format!("{} comes after {}", line.position, self.last_position)));
        }
        self.last_position = line.position;
        let (experiment, version, event) = line.into_event()?;
        if !self.ids.insert(event.id) {
            return Err(("id", format!("{} occurs twice", event.id)));
        }
        let before = self.in_file.insert(experiment.clone(), version).unwrap_or(0);
        if version != before + 1 {
            return Err(("version", format!("{version} of {experiment} comes after {before}")));
        }
        self.against_log(experiment, version, event)
    }

    fn against_log(&mut self, experiment: ExperimentId, version: u64, event: NewEvent) -> Result<(), Fault> {
        let known = self.log.find(event.id).map_err(|error| ("id", error.to_string()))?;
        if let Some(known) = known {
            let same = known.experiment == experiment && known.version == version && known.event == event;
            self.imported.known += 1;
            let differs = || ("id", format!("{} is in the log with different content", event.id));
            return if same { Ok(()) } else { Err(differs()) };
        }
        let last = self.in_log.entry(experiment).or_default();
        if version != *last + 1 {
            return Err(("version", format!("{version} is in the log with another event")));
        }
        *last = version;
        self.imported.added += 1;
        Ok(())
    }
}

/// The events of a file, line by line.
struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    line: u64,
    text: Vec<u8>,
    /// Events that the header announces.
    promised: u64,
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path, file: File) -> Result<Self, StorageError> {
        let mut lines = Self { path, reader: BufReader::new(file), line: 0, text: Vec::new(), promised: 0 };
        lines.header()?;
        Ok(lines)
    }

    fn header(&mut self) -> Result<(), StorageError> {
        if !self.read_line()? {
            return Err(self.error("line", "the file is empty".to_owned()));
        }
        let header: Header = serde_json::from_slice(&self.text)
            .map_err(|error| self.error("line", format!("not the header of an export: {error}")))?;
        if header.dissent_log_export != FORMAT {
            let reason = format!("unknown format {}: use {FORMAT}", header.dissent_log_export);
            return Err(self.error("dissent_log_export", reason));
        }
        self.promised = header.events;
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), StorageError> {
        self.reader.rewind().map_err(StorageError::io("read", self.path))?;
        self.line = 0;
        self.header()
    }

    fn next(&mut self) -> Result<Option<ReadLine>, StorageError> {
        let seen = self.line - 1;
        if !self.read_line()? {
            if seen == self.promised {
                return Ok(None);
            }
            let reason = format!("the file ends after {seen} of {} events", self.promised);
            return Err(self.error("line", reason));
        }
        if seen == self.promised {
            let reason = format!("the file has more events than the {seen} that its first line states");
            return Err(self.error("line", reason));
        }
        let line =
            serde_json::from_slice(&self.text).map_err(|error| self.error("line", error.to_string()))?;
        Ok(Some(line))
    }

    /// Reads the next line into `text`; false at the end of the file.
    fn read_line(&mut self) -> Result<bool, StorageError> {
        self.text.clear();
        self.line += 1;
        let mut bounded = Read::by_ref(&mut self.reader).take(LINE_BYTES_MAX);
        bounded.read_until(b'\n', &mut self.text).map_err(StorageError::io("read", self.path))?;
        if self.text.len() as u64 >= LINE_BYTES_MAX {
            return Err(self.error("line", format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok(!self.text.is_empty())
    }

    fn error(&self, field: &'static str, reason: String) -> StorageError {
        StorageError::Import { path: self.path.to_owned(), line: self.line, field, reason }
    }
}

#[cfg(test)]
mod tests;
