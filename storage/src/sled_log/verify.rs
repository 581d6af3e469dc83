//! A full check of a log, and its statistics.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use dissent_domain::log::{EventLog, LogError};
use serde::{Deserialize, Serialize};

use super::error::{damage_of, guarded};
use super::ids::Ids;
use super::indices::index_entries;
use super::reader::Reader;
use super::record::EventView;
use super::{SledLog, streams, tail};

/// Maximum number of findings; the check then stops.
pub(super) const FINDINGS_MAX: usize = 100;

/// One damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Position of the damaged event, if the damage is at an event.
    pub position: Option<u64>,
    /// A description of the damage.
    pub what: String,
}

/// The outcome of a full check.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Sound events at the right positions.
    pub sound_events: u64,
    /// The last position.
    pub head: u64,
    /// Streams seen.
    pub streams: u64,
    /// Damage in log order; the check stops after the first hundred.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Whether there is no finding.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn full(&self) -> bool {
        self.findings.len() >= FINDINGS_MAX
    }

    fn add(&mut self, position: impl Into<Option<u64>>, what: impl Into<String>) {
        if !self.full() {
            self.findings.push(Finding { position: position.into(), what: what.into() });
        }
    }
}

/// Statistics of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogStat {
    /// Number of events.
    pub events: u64,
    /// Number of experiments.
    pub streams: u64,
    /// Bytes of all files in its folder.
    pub bytes_on_disk: u64,
    /// Bytes of all bodies.
    pub body_bytes: u64,
    /// Number of events of each type.
    pub events_by_type: BTreeMap<String, u64>,
    /// Earliest time of an event, microseconds since 1970 UTC.
    pub first_time_us: Option<u64>,
    /// Latest time of an event, microseconds since 1970 UTC.
    pub last_time_us: Option<u64>,
}

impl SledLog {
    /// Checks the whole log: every checksum, gaps in positions and versions, both indices in both directions,
    /// and the high-water mark. The log may be in use.
    ///
    /// # Errors
    /// If it cannot be read at all. Damage is in the report.
    pub fn verify(&self) -> Result<VerifyReport, LogError> {
        let head = self.head();
        let mut check = Check::new(&self.shared.reader, &self.shared.ids, head);
        check.events()?;
        check.index_sizes()?;
        check.mark(&self.dir.join(tail::FILE_NAME))?;
        check.report.streams = check.streams.len() as u64;
        Ok(check.report)
    }

    /// Counts the content of the log, reading all of it.
    ///
    /// # Errors
    /// If the log is damaged or unreadable.
    pub fn stat(&self) -> Result<LogStat, LogError> {
        let mut stat = LogStat { streams: self.streams()?.len() as u64, ..LogStat::default() };
        self.scan_views(0, &mut |view| {
            stat.events += 1;
            stat.body_bytes += view.body.len() as u64;
            match stat.events_by_type.get_mut(view.event_type) {
                Some(count) => *count += 1,
                None => drop(stat.events_by_type.insert(view.event_type.to_owned(), 1)),
            }
            let time = view.time_us;
            stat.first_time_us = Some(stat.first_time_us.map_or(time, |first| first.min(time)));
            stat.last_time_us = Some(stat.last_time_us.map_or(time, |last| last.max(time)));
            ControlFlow::Continue(())
        })?;
        stat.bytes_on_disk = self.bytes_on_disk()?;
        Ok(stat)
    }

    /// Bytes of all files in its folder.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn bytes_on_disk(&self) -> Result<u64, LogError> {
        bytes_in(&self.dir).map_err(|error| LogError::io(self.dir.display().to_string(), error))
    }
}

fn bytes_in(dir: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // sled removes files meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        total += if metadata.is_dir() { bytes_in(&entry.path())? } else { metadata.len() };
    }
    Ok(total)
}

/// The last event seen of a stream.
#[derive(Clone, Copy, Default)]
struct Seen {
    version: u64,
    /// Number of unreadable events in the log before this event. Any later unreadable event may belong to the
    /// stream.
    unreadable: u64,
}

/// A check in progress.
pub(super) struct Check<'a> {
    reader: &'a Reader,
    ids: &'a Ids,
    streams: HashMap<String, Seen>,
    /// Unreadable events so far.
    unreadable: u64,
    pub(super) report: VerifyReport,
}

impl<'a> Check<'a> {
    pub(super) fn new(reader: &'a Reader, ids: &'a Ids, head: u64) -> Self {
        let report = VerifyReport { head, ..VerifyReport::default() };
        Self { reader, ids, streams: HashMap::new(), unreadable: 0, report }
    }

    /// Checks every event; resumes after each damaged one.
    fn events(&mut self) -> Result<(), LogError> {
        let mut after = 0;
        while after < self.report.head && !self.report.full() {
            let reader = self.reader;
            let head = self.report.head;
            let mut last = after;
            let outcome = guarded(|| {
                reader.scan(after, head, &mut |view| {
                    last = view.position;
                    self.event(&view)?;
                    Ok(if self.report.full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                })
            });
            match outcome {
                Ok(()) => break,
                Err(error) => {
                    self.report.add(last + 1, damage_of(error)?);
                    self.unreadable += 1;
                    after = last + 1;
                }
            }
        }
        Ok(())
    }

    /// Checks one sound event: its version and its two index entries.
    fn event(&mut self, view: &EventView<'_>) -> Result<(), LogError> {
        let before = self.report.findings.len();
        let seen = self.streams.get(view.experiment).copied().unwrap_or_default();
        let first = seen.version + 1;
        if !(first..=first + self.unreadable - seen.unreadable).contains(&view.version) {
            let what =
                format!("version {} of {} follows version {}", view.version, view.experiment, seen.version);
            self.report.add(view.position, what);
        }
        let now = Seen { version: view.version, unreadable: self.unreadable };
        match self.streams.get_mut(view.experiment) {
            Some(seen) => *seen = now,
            None => drop(self.streams.insert(view.experiment.to_owned(), now)),
        }
        for (what, position) in index_entries(self.reader, self.ids, view)? {
            if position != Some(view.position) {
                let finding = match position {
                    Some(other) => format!("the {what} index leads to position {other}"),
                    None => format!("the {what} index lacks the event"),
                };
                self.report.add(view.position, finding);
            }
        }
        if self.report.findings.len() == before {
            self.report.sound_events += 1;
        }
        Ok(())
    }

    /// Checks that no index has extra entries. With the check of each event this covers both directions.
    fn index_sizes(&mut self) -> Result<(), LogError> {
        for (what, entries) in [("id", self.id_entries()), ("stream", self.stream_entries())] {
            match entries {
                Ok(entries) if entries == self.report.head => {}
                Ok(entries) => {
                    let events = self.report.head;
                    self.report
                        .add(None, format!("the {what} index has {entries} entries for {events} events"));
                }
                Err(error) => self.report.add(None, damage_of(error)?),
            }
        }
        Ok(())
    }

    fn id_entries(&self) -> Result<u64, LogError> {
        guarded(|| self.ids.count(&self.reader.tree, self.report.head))
    }

    fn stream_entries(&self) -> Result<u64, LogError> {
        let mut entries = 0;
        guarded(|| {
            for chunk in streams::all(&self.reader.tree) {
                entries += chunk?.into_iter().filter(|at| *at <= self.report.head).count() as u64;
            }
            Ok(())
        })?;
        Ok(entries)
    }

    fn mark(&mut self, path: &Path) -> Result<(), LogError> {
        // The writer may be writing: a slot that is read during a write looks torn, but hardly three times in
        // a row.
        let mut seen = None;
        for _ in 0..3 {
            match tail::Tail::open(path) {
                Ok(Some((_, found))) if found.mark.position >= self.report.head => return Ok(()),
                Ok(found) => seen = found.map(|(_, found)| found.mark.position),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(error) => return Err(LogError::io(path.display().to_string(), error)),
            }
        }
        let head = self.report.head;
        self.report.add(
            None,
            match seen {
                Some(position) => format!("the tail file has {position} events, the log {head}"),
                None => "the tail file is missing or damaged".to_owned(),
            },
        );
        Ok(())
    }
}
