//! An event log that another process has open, read through the local door of that process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dissent_domain::event::{EventId, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{AdvanceListener, Append, AppendFuture, EventLog, LogError, LogPart};
use dissent_storage::{BODY_BYTES_MAX, LogStat, VerifyReport};
use hyper::StatusCode;
use serde::de::DeserializeOwned;

use super::wire::{Extent, FORMAT, Failure, LOG_PATH, PAGE_BYTES, PAGE_EVENTS_MAX, events_of, unreadable};
use crate::http_client::{Connection, Endpoint, ExchangeLimits, HttpError, Response};

/// Limits of one page. An event larger than a page is a page of its own.
const PAGE: ExchangeLimits =
    ExchangeLimits { time: Duration::from_secs(30), body_bytes: BODY_BYTES_MAX + 2 * PAGE_BYTES };
/// Limits of the first answer, by which a suspended process is noticed.
const FIRST: ExchangeLimits = ExchangeLimits { time: Duration::from_secs(10), ..PAGE };
/// Limits of an answer for which the whole log is read. A million events take seconds.
const WHOLE_LOG: ExchangeLimits = ExchangeLimits { time: Duration::from_secs(3600), ..PAGE };

/// Retries of a request for which the process has no free connection, and the pause before each.
const BUSY_RETRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// A view of another process's log, up to its head when it was opened. Nothing can be written to it.
pub(crate) struct RemoteLog {
    connection: Connection,
    socket: PathBuf,
    head: u64,
    streams: Vec<(ExperimentId, u64)>,
}

/// The reason why no log was opened through a door.
#[derive(Debug)]
pub(super) enum NoRemoteLog {
    /// No process answers at the socket: it has ended, has not begun to listen, or has no free connection.
    Nobody,
    Failed(LogError),
}

impl RemoteLog {
    /// Opens the log through the socket of the process that has it open.
    pub(super) fn open(socket: &Path) -> Result<Self, NoRemoteLog> {
        let failed = |error| NoRemoteLog::Failed(transport(socket, error));
        let connection = Connection::new(Endpoint::Unix(socket.to_owned())).map_err(failed)?;
        let mut opened = Self { connection, socket: socket.to_owned(), head: 0, streams: Vec::new() };
        let response = match opened.connection.get(format!("{LOG_PATH}/streams"), FIRST) {
            Ok(response) => response,
            // The process closed its door meanwhile.
            Err(error) if error.is_refused() || error.is_cut_off() => return Err(NoRemoteLog::Nobody),
            Err(error) => return Err(failed(error)),
        };
        if response.status == StatusCode::SERVICE_UNAVAILABLE {
            return Err(NoRemoteLog::Nobody);
        }
        let extent: Extent = opened.decoded(&response).map_err(NoRemoteLog::Failed)?;
        if extent.format != FORMAT {
            let version = extent.version;
            let here = env!("CARGO_PKG_VERSION");
            let context = format!(
                "version {version} of dissent has the event log open, this is version {here}: use the same version"
            );
            return Err(NoRemoteLog::Failed(LogError::Io { context, source: None }));
        }
        opened.head = extent.head;
        opened.streams = extent.streams;
        Ok(opened)
    }

    /// Has the process count the content of its log.
    ///
    /// # Errors
    /// If the log is damaged or unreadable, or the process does not answer.
    pub(super) fn stat(&self) -> Result<LogStat, LogError> {
        self.decoded(&self.get("/stat", WHOLE_LOG)?)
    }

    /// Has the process check its whole log.
    ///
    /// # Errors
    /// If the log is unreadable, or the process does not answer.
    pub(super) fn verify(&self) -> Result<VerifyReport, LogError> {
        self.decoded(&self.get("/verify", WHOLE_LOG)?)
    }

    fn get(&self, path: &str, limits: ExchangeLimits) -> Result<Response, LogError> {
        let mut retries = BUSY_RETRIES;
        loop {
            let response = self.connection.get(format!("{LOG_PATH}{path}"), limits);
            let response = response.map_err(|error| transport(&self.socket, error))?;
            if response.status != StatusCode::SERVICE_UNAVAILABLE || retries == 0 {
                return Ok(response);
            }
            retries -= 1;
            std::thread::sleep(BUSY_PAUSE);
        }
    }

    fn page(&self, path: &str) -> Result<Vec<Recorded>, LogError> {
        events_of(&successful(&self.get(path, PAGE)?)?.body)
    }

    fn decoded<T: DeserializeOwned>(&self, response: &Response) -> Result<T, LogError> {
        rmp_serde::from_slice(&successful(response)?.body).map_err(|error| unreadable(&error))
    }

    /// Reads pages until `limit` events or the end are reached. `place` is the event's place in its sequence.
    fn pages(
        &self,
        path: &str,
        after: u64,
        last: u64,
        limit: usize,
        place: impl Fn(&Recorded) -> u64,
    ) -> Result<Vec<Recorded>, LogError> {
        let mut events: Vec<Recorded> = Vec::new();
        let mut after = after;
        while after < last && events.len() < limit {
            let left = usize::try_from(last - after).unwrap_or(usize::MAX).min(limit - events.len());
            let page = self.page(&format!("{path}?after={after}&limit={}", left.min(PAGE_EVENTS_MAX)))?;
            let reached = page.last().map_or(after, &place);
            if reached <= after || page.len() > left {
                return Err(unreadable(&format!("the page after {after} is not the next one")));
            }
            after = reached;
            events.extend(page);
        }
        Ok(events)
    }
}

/// The error of a request that has no response.
fn transport(socket: &Path, error: HttpError) -> LogError {
    let socket = socket.display();
    let context = match &error {
        error if error.is_late() => format!(
            "the process that has the event log open does not answer at {socket}: it is suspended or overloaded; \
             continue or stop that process"
        ),
        error if error.is_denied() => format!(
            "no permission to connect to {socket}: run the command as the owner of the data folder, or as a member of \
             its group"
        ),
        _ => format!(
            "the process that has the event log open ended its answer at {socket}: run the command again"
        ),
    };
    LogError::Io { context, source: Some(dissent_domain::error::Cause::new(error)) }
}

/// Checks the status of a response.
fn successful(response: &Response) -> Result<&Response, LogError> {
    if response.status.is_success() {
        return Ok(response);
    }
    let status = response.status;
    let failure: Failure = serde_json::from_slice(&response.body)
        .unwrap_or_else(|_| Failure { detail: format!("status {status}"), is_damage: false });
    let detail = crate::text::visible(&failure.detail);
    Err(if failure.is_damage {
        LogError::corrupt(LogPart::Events, detail)
    } else {
        LogError::Io { context: format!("in the process that has it open: {detail}"), source: None }
    })
}

impl EventLog for RemoteLog {
    fn append(&self, _: Append) -> AppendFuture {
        Box::pin(std::future::ready(Err(read_only())))
    }

    fn read(&self, after: u64, limit: usize) -> Result<Vec<Recorded>, LogError> {
        self.pages("/events", after, self.head, limit, |recorded| recorded.position)
    }

    fn read_stream(
        &self,
        experiment: &ExperimentId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, LogError> {
        let Ok(index) = self.streams.binary_search_by(|(name, _)| name.cmp(experiment)) else {
            return Ok(Vec::new());
        };
        let last = self.streams.get(index).map_or(0, |(_, last)| *last);
        let path = format!("/experiments/{experiment}/events");
        self.pages(&path, after, last, limit, |recorded| recorded.version)
    }

    fn find(&self, id: EventId) -> Result<Option<Recorded>, LogError> {
        let response = self.get(&format!("/events/{id}"), PAGE)?;
        if response.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let found = events_of(&successful(&response)?.body)?.pop();
        Ok(found.filter(|recorded| recorded.position <= self.head))
    }

    fn streams(&self) -> Result<Vec<(ExperimentId, u64)>, LogError> {
        Ok(self.streams.clone())
    }

    fn head(&self) -> u64 {
        self.head
    }

    /// Does nothing: the head of this view does not grow.
    fn on_advance(&self, _: AdvanceListener) {}

    fn store_cursor(&self, _: &str, _: Vec<u8>) -> Result<(), LogError> {
        Err(read_only())
    }

    fn load_cursor(&self, _: &str) -> Result<Option<Vec<u8>>, LogError> {
        Err(read_only())
    }

    fn flush(&self) -> Result<(), LogError> {
        Ok(())
    }
}

fn read_only() -> LogError {
    LogError::Invalid("another process has the event log open: this one can only read events".to_owned())
}
