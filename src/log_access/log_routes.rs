//! The routes by which other processes on this host read an event log.
//!
//! | request below `/api/v1/log` | answer |
//! |---|---|
//! | `GET /head` | the last durable position, as JSON |
//! | `GET /streams` | [`Extent`] |
//! | `GET /events?after=&limit=` | a page of events after a position |
//! | `GET /events/ID` | the event with this id, a page of one; 404 if there is none |
//! | `GET /experiments/NAME/events?after=&limit=` | a page of events after a version of the stream |
//! | `GET /stat`, `GET /verify` | the statistics, and the outcome of a full check |
//! | `POST /backup` | [`Backup`], in a new folder in `backups` of the data folder |
//!
//! Bodies are MessagePack ([`wire`](super::wire)), that of the backup JSON. A page has bounded size, so its
//! answer has bounded time. Statistics, checks and backups read the whole log: one at a time.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use dissent_domain::error::chain;
use dissent_domain::event::EventId;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError};
use dissent_storage::SledLog;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;

use super::backups;
use super::wire::{Backup, Extent, FORMAT, Failure, LOG_PATH, PAGE_EVENTS_MAX, Page};

const MSGPACK: &str = "application/vnd.msgpack";
const JSON: &str = "application/json";
/// Events in the first read of a stream's page; later reads follow the size of the events.
const FIRST_READ: usize = 8;

/// The state behind the routes.
struct SharedLog {
    log: Arc<SledLog>,
    data_dir: PathBuf,
    /// Locked while the whole log is read.
    whole_log: Mutex<()>,
}

#[derive(Debug, Deserialize)]
struct PageQuery {
    #[serde(default)]
    after: u64,
    #[serde(default = "page_events_max")]
    limit: usize,
}

fn page_events_max() -> usize {
    PAGE_EVENTS_MAX
}

/// Returns the routes of a log.
pub(super) fn routes(log: Arc<SledLog>, data_dir: PathBuf) -> Router {
    let below = |path: &str| format!("{LOG_PATH}{path}");
    Router::new()
        .route(&below("/head"), get(head))
        .route(&below("/streams"), get(streams))
        .route(&below("/events"), get(events))
        .route(&below("/events/{id}"), get(event))
        .route(&below("/experiments/{name}/events"), get(stream_events))
        .route(&below("/stat"), get(stat))
        .route(&below("/verify"), get(verify))
        .route(&below("/backup"), post(back_up))
        .with_state(Arc::new(SharedLog { log, data_dir, whole_log: Mutex::new(()) }))
}

async fn head(State(shared): State<Arc<SharedLog>>) -> Response {
    body(JSON, json!({ "head": shared.log.head() }).to_string().into_bytes())
}

async fn streams(State(shared): State<Arc<SharedLog>>) -> Result<Response, Refusal> {
    reading(&shared, |log| {
        let streams = log.streams()?;
        // Streams are known just before the head grows, and each event is in one stream. So the sum of their
        // versions is the head that belongs to them.
        let head = streams.iter().map(|(_, last)| last).sum();
        while log.head() < head {
            std::thread::yield_now();
        }
        let version = env!("CARGO_PKG_VERSION").to_owned();
        encoded(&Extent { format: FORMAT, version, head, streams })
    })
    .await
}

async fn events(
    State(shared): State<Arc<SharedLog>>,
    Query(PageQuery { after, limit }): Query<PageQuery>,
) -> Result<Response, Refusal> {
    let limit = limit.clamp(1, PAGE_EVENTS_MAX);
    reading(&shared, move |log| {
        let mut page = Page::default();
        let mut failure = None;
        log.scan_views(after, &mut |view| {
            failure = page.push(&view).err();
            let is_full = page.events() >= limit || page.room() == 0 || failure.is_some();
            if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failure.map_or(Ok(page.into_bytes()), Err)
    })
    .await
}

async fn stream_events(
    State(shared): State<Arc<SharedLog>>,
    Path(name): Path<String>,
    Query(PageQuery { after, limit }): Query<PageQuery>,
) -> Result<Response, Refusal> {
    let name = ExperimentId::new(name).map_err(|error| Refusal::BadRequest(error.to_string()))?;
    let limit = limit.clamp(1, PAGE_EVENTS_MAX);
    reading(&shared, move |log| {
        let (mut page, mut after, mut reads) = (Page::default(), after, FIRST_READ);
        loop {
            let wanted = reads.min(limit - page.events());
            let read = log.read_stream(&name, after, wanted)?;
            for recorded in &read {
                page.push_recorded(recorded)?;
                after = recorded.version;
            }
            if read.len() < wanted || page.events() >= limit || page.room() == 0 {
                return Ok(page.into_bytes());
            }
            // As many events as fill the page, if they are as large as those before.
            let mean = (super::wire::PAGE_BYTES - page.room()) / page.events().max(1);
            reads = (page.room() / mean.max(1)).clamp(1, PAGE_EVENTS_MAX);
        }
    })
    .await
}

async fn event(State(shared): State<Arc<SharedLog>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let id: EventId =
        serde_json::from_value(json!(id)).map_err(|error| Refusal::BadRequest(error.to_string()))?;
    let found = reading_as(&shared, move |log| log.find(id)).await?.ok_or(Refusal::Missing)?;
    let mut page = Page::default();
    page.push_recorded(&found)?;
    Ok(body(MSGPACK, page.into_bytes()))
}

async fn stat(State(shared): State<Arc<SharedLog>>) -> Result<Response, Refusal> {
    let _alone = shared.whole_log.lock().await;
    reading(&shared, |log| encoded(&log.stat()?)).await
}

async fn verify(State(shared): State<Arc<SharedLog>>) -> Result<Response, Refusal> {
    let _alone = shared.whole_log.lock().await;
    reading(&shared, |log| encoded(&log.verify()?)).await
}

async fn back_up(State(shared): State<Arc<SharedLog>>) -> Result<Response, Refusal> {
    let _alone = shared.whole_log.lock().await;
    let path = backups::new_folder(&shared.data_dir);
    let to = path.clone();
    let data_dir = shared.data_dir.clone();
    let events = reading_as(&shared, move |log| backups::make(log, &data_dir, &to)).await?;
    tracing::info!(path = %path.display(), events, "wrote backup");
    let made = serde_json::to_vec(&Backup { path, events });
    Ok(body(JSON, made.map_err(|error| super::wire::unreadable(&error))?))
}

/// Reads the log on a thread that may block.
async fn reading_as<T: Send + 'static>(
    shared: &SharedLog,
    read: impl FnOnce(&SledLog) -> Result<T, LogError> + Send + 'static,
) -> Result<T, Refusal> {
    let log = shared.log.clone();
    let read = tokio::task::spawn_blocking(move || read(&log)).await;
    let panicked =
        |_| LogError::Io { context: "the read of the event log panicked".to_owned(), source: None };
    Ok(read.map_err(panicked)??)
}

async fn reading(
    shared: &SharedLog,
    read: impl FnOnce(&SledLog) -> Result<Vec<u8>, LogError> + Send + 'static,
) -> Result<Response, Refusal> {
    Ok(body(MSGPACK, reading_as(shared, read).await?))
}

fn encoded(value: &impl Serialize) -> Result<Vec<u8>, LogError> {
    rmp_serde::to_vec(value).map_err(|error| LogError::Io {
        context: format!("failed to encode an answer: {error}"),
        source: None,
    })
}

fn body(kind: &'static str, bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, kind)], bytes).into_response()
}

/// The reason why a request has no answer.
enum Refusal {
    Missing,
    BadRequest(String),
    Log(LogError),
}

impl From<LogError> for Refusal {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, detail, is_damage) = match self {
            Self::Missing => (StatusCode::NOT_FOUND, "the log has no such event".to_owned(), false),
            Self::BadRequest(reason) => (StatusCode::BAD_REQUEST, reason, false),
            Self::Log(LogError::Corrupt { reason, .. }) => (StatusCode::INTERNAL_SERVER_ERROR, reason, true),
            Self::Log(error) => (StatusCode::INTERNAL_SERVER_ERROR, chain(&error).to_string(), false),
        };
        let failure = serde_json::to_vec(&Failure { detail, is_damage }).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, JSON)], failure).into_response()
    }
}
