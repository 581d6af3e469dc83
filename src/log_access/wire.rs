//! The bodies of the log's routes on the local door.
//!
//! A page holds events, each as its length (u32, little-endian) and a MessagePack value. It holds fewer
//! events than the reader asked for if it reaches [`PAGE_BYTES`]; the reader pages on.

use std::borrow::Cow;

use dissent_domain::event::{EventId, NewEvent, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::LogError;
use dissent_storage::EventView;
use serde::{Deserialize, Serialize};

/// Format of the bodies. A reader refuses another one.
pub(super) const FORMAT: u32 = 1;
/// Path below which the log's routes are.
pub(super) const LOG_PATH: &str = "/api/v1/log";
/// Most events of a page.
pub(super) const PAGE_EVENTS_MAX: usize = 4096;
/// Bytes after which a page ends.
pub(super) const PAGE_BYTES: usize = 1 << 20;

/// Bytes of the length before each event.
const LENGTH_BYTES: usize = 4;

/// The extent of a log when a reader opens it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Extent {
    pub(super) format: u32,
    /// Version of the program that has the log open.
    pub(super) version: String,
    pub(super) head: u64,
    /// Each experiment with the last version at `head`, in the order of names.
    pub(super) streams: Vec<(ExperimentId, u64)>,
}

/// The body of an error.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) detail: String,
    /// Whether the log is damaged.
    #[serde(default)]
    pub(super) is_damage: bool,
}

/// A backup that the holder of the log made.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Backup {
    pub(super) path: std::path::PathBuf,
    pub(super) events: u64,
}

#[derive(Serialize, Deserialize)]
struct WireEvent<'a> {
    position: u64,
    #[serde(borrow)]
    experiment: Cow<'a, str>,
    version: u64,
    id: EventId,
    causation: Option<EventId>,
    #[serde(borrow)]
    actor: Cow<'a, str>,
    time_us: u64,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    schema_version: u16,
    #[serde(borrow, with = "serde_bytes")]
    body: Cow<'a, [u8]>,
}

/// A page that is being written.
#[derive(Default)]
pub(super) struct Page {
    bytes: Vec<u8>,
    events: usize,
}

impl Page {
    /// Adds an event.
    ///
    /// # Errors
    /// If the event cannot be encoded.
    pub(super) fn push(&mut self, view: &EventView<'_>) -> Result<(), LogError> {
        let event = WireEvent {
            position: view.position,
            experiment: view.experiment.into(),
            version: view.version,
            id: view.id,
            causation: view.causation,
            actor: view.actor.into(),
            time_us: view.time_us,
            event_type: view.event_type.into(),
            schema_version: view.schema_version,
            body: view.body.into(),
        };
        let unwritable = |error: &dyn std::fmt::Display| LogError::Io {
            context: format!("failed to encode event {}: {error}", view.position),
            source: None,
        };
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        rmp_serde::encode::write(&mut self.bytes, &event).map_err(|error| unwritable(&error))?;
        let length =
            u32::try_from(self.bytes.len() - begin - LENGTH_BYTES).map_err(|error| unwritable(&error))?;
        if let Some(field) = self.bytes.get_mut(begin..begin + LENGTH_BYTES) {
            field.copy_from_slice(&length.to_le_bytes());
        }
        self.events += 1;
        Ok(())
    }

    pub(super) fn push_recorded(&mut self, recorded: &Recorded) -> Result<(), LogError> {
        let event = &recorded.event;
        self.push(&EventView {
            position: recorded.position,
            experiment: recorded.experiment.as_str(),
            version: recorded.version,
            id: event.id,
            causation: event.causation,
            actor: &event.actor,
            time_us: event.time_us,
            event_type: &event.event_type,
            schema_version: event.schema_version,
            body: &event.body,
        })
    }

    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// Returns how many bytes the page may still grow.
    pub(super) fn room(&self) -> usize {
        PAGE_BYTES.saturating_sub(self.bytes.len())
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads the events of a page.
///
/// # Errors
/// If the bytes are not a page.
pub(super) fn events_of(mut page: &[u8]) -> Result<Vec<Recorded>, LogError> {
    let mut events = Vec::new();
    while let Some((length, rest)) = page.split_first_chunk::<LENGTH_BYTES>() {
        let event = rest.split_at_checked(u32::from_le_bytes(*length) as usize);
        let (event, rest) = event.ok_or_else(|| unreadable(&"the page is cut off"))?;
        let event: WireEvent<'_> = rmp_serde::from_slice(event).map_err(|error| unreadable(&error))?;
        events.push(event.into_recorded()?);
        page = rest;
    }
    Ok(events)
}

/// The error of an answer that is not as expected.
pub(super) fn unreadable(error: &dyn std::fmt::Display) -> LogError {
    let context = format!(
        "unreadable answer of the process that has the event log open: {error}; use the same version of dissent"
    );
    LogError::Io { context, source: None }
}

impl WireEvent<'_> {
    fn into_recorded(self) -> Result<Recorded, LogError> {
        let experiment = ExperimentId::new(self.experiment).map_err(|error| unreadable(&error))?;
        Ok(Recorded {
            position: self.position,
            experiment,
            version: self.version,
            event: NewEvent {
                id: self.id,
                causation: self.causation,
                actor: self.actor.into_owned(),
                time_us: self.time_us,
                event_type: self.event_type.into_owned(),
                schema_version: self.schema_version,
                body: self.body.into_owned(),
            },
        })
    }
}
