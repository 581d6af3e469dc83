//! The events of an experiment: as they come, or as JSON lines from any of them on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::EventLog as _;
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::experiments::Row;
use super::page::Params;
use super::service::{Api, Named, Service, reading};
use crate::history::envelope;
use crate::serving::clock::INTERVAL;
use crate::serving::problem::Problem;

/// Events of a page of JSON lines.
const EVENTS_MAX: usize = 500;
/// Events of a message to a listener.
const MESSAGE_EVENTS_MAX: usize = 2000;
/// Bytes of a page of JSON lines after which it ends: an event may hold all completions of a prompt.
const PAGE_BYTES: usize = 8 << 20;
/// Messages that listeners share.
const SHARED_MAX: usize = 64;
/// Silence after which a listener gets a comment, so that no proxy closes the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(events))
}

/// Where the events begin.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsParams {
    /// The version of the last event that the client has; 0 for all. A listener without it begins with the
    /// next event.
    after: Option<u64>,
    /// Events of a page of JSON lines, 1 to 500; default 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// The events of an experiment.
///
/// With `Accept: text/event-stream`, a stream of server-sent events, at most four messages a second. The data
/// of a message is `{version, progress, events}`, with the type, time and position of each event. Its id is
/// the version of its last event, so a browser that reconnects continues with `Last-Event-ID`.
///
/// Otherwise a page of JSON lines, each an event with its body. The header `X-Next-After` is the `after` of
/// the next page; it is absent at the end.
#[utoipa::path(
    get, path = "/api/v1/experiments/{name}/events", tag = "experiments",
    params(("name" = String, Path), EventsParams, ("Last-Event-ID" = Option<u64>, Header, description = "As `after`")),
    responses(
        (status = 200, description = "The events", content(
            (String = "application/jsonl"), (String = "text/event-stream")
        )),
        (status = 404, description = "Unknown"),
    )
)]
async fn events(
    State(api): State<Api>,
    Named(experiment): Named,
    headers: HeaderMap,
    Params(EventsParams { after, limit }): Params<EventsParams>,
) -> Result<Response, Problem> {
    let service = api.service()?;
    let log = service.log.clone();
    let name = experiment.clone();
    let streams = reading(move || Ok(log.streams()?)).await?;
    let found = streams.into_iter().find(|(found, _)| *found == name);
    let (_, last) = found
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("unknown experiment {experiment}")))?;
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/event-stream") {
        let resumed = headers.get("last-event-id").map(|id| {
            let number = id.to_str().ok().and_then(|id| id.trim().parse().ok());
            number.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "Last-Event-ID: send a version"))
        });
        let after = resumed.transpose()?.or(after).unwrap_or(last);
        return listen(&api, experiment, after.min(last)).await;
    }
    let limit = limit.map_or(EVENTS_MAX, |limit| limit as usize);
    if !(1..=EVENTS_MAX).contains(&limit) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit: use 1 to {EVENTS_MAX}")));
    }
    lines(service, experiment, after.unwrap_or_default(), limit).await
}

async fn lines(
    service: &Service,
    experiment: ExperimentId,
    after: u64,
    limit: usize,
) -> Result<Response, Problem> {
    let log = service.log.clone();
    let (text, next) = reading(move || {
        let (mut text, mut after, mut count) = (Vec::new(), after, 0);
        loop {
            // Few at a time: they may be large.
            let read = log.read_stream(&experiment, after, (limit - count).min(16))?;
            let is_last = read.is_empty();
            for recorded in read {
                serde_json::to_writer(&mut text, &with_body(&recorded)?)?;
                text.push(b'\n');
                (after, count) = (recorded.version, count + 1);
            }
            if is_last {
                return Ok((text, None));
            }
            if count >= limit || text.len() >= PAGE_BYTES {
                return Ok((text, Some(after)));
            }
        }
    })
    .await?;
    let mut response = ([(header::CONTENT_TYPE, "application/jsonl")], text).into_response();
    if let Some(next) = next {
        response.headers_mut().insert("x-next-after", HeaderValue::from(next));
    }
    Ok(response)
}

/// An event with its body, as `dissent log tail --json` prints it.
fn with_body(recorded: &Recorded) -> anyhow::Result<Value> {
    let body = recorded.decode()?.serialize_body(serde_json::value::Serializer)?;
    Ok(envelope(recorded, &body))
}

/// What a listener learns of an event.
fn headline(recorded: &Recorded) -> Value {
    let event = &recorded.event;
    json!({
        "version": recorded.version, "position": recorded.position,
        "event_type": event.event_type, "time_us": event.time_us,
    })
}

/// A message to listeners: its text, and the version of its last event.
#[derive(Debug, Clone)]
struct Message {
    text: Bytes,
    last: u64,
}

/// The latest messages, by their experiment and the version before them. Listeners wake together and mostly
/// want the same message, which one of them makes.
static SHARED: Mutex<VecDeque<(ExperimentId, u64, Message)>> = Mutex::new(VecDeque::new());

async fn message(api: &Api, experiment: &ExperimentId, after: u64) -> Result<Option<Message>, Problem> {
    /// One at a time, so that the others find what the first made.
    static MAKING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _making = MAKING.lock().await;
    let shared = || {
        let shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let found = shared.iter().find(|(name, from, _)| name == experiment && *from == after);
        found.map(|(_, _, message)| message.clone())
    };
    if let Some(found) = shared() {
        return Ok(Some(found));
    }
    let service = api.service()?;
    let (log, name) = (service.log.clone(), experiment.clone());
    let read = tokio::task::spawn_blocking(move || log.read_stream(&name, after, MESSAGE_EVENTS_MAX));
    let read = read.await.map_err(Problem::internal)?.map_err(Problem::internal)?;
    let Some(last) = read.last().map(|recorded| recorded.version) else { return Ok(None) };
    let progress = Row::of(experiment.clone(), last, service.status.hosting(experiment));
    let events: Vec<Value> = read.iter().map(headline).collect();
    let data = json!({ "version": last, "progress": progress, "events": events });
    let text = Bytes::from(format!("id: {last}\ndata: {data}\n\n"));
    let message = Message { text, last };
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.len() >= SHARED_MAX {
        shared.pop_front();
    }
    shared.push_back((experiment.clone(), after, message.clone()));
    Ok(Some(message))
}

/// What a listener has seen, and when it may be told more.
struct Listening {
    api: Api,
    experiment: ExperimentId,
    after: u64,
    clock: watch::Receiver<u64>,
    /// The time of its last message; `None` before the first.
    told: Option<Instant>,
    /// Whether the last message had no room for more.
    is_behind: bool,
}

impl Listening {
    /// Returns the next message, or a comment after a long silence; `None` when the server stops.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            // What came before the clock was asked counts, too.
            let is_first = self.told.is_none();
            let changed = if is_first || self.is_behind {
                true
            } else {
                match timeout(KEEP_ALIVE, self.clock.changed()).await {
                    Ok(Ok(())) => true,
                    Ok(Err(_)) => return None,
                    Err(_) => false,
                }
            };
            if let Some(told) = self.told {
                sleep_until(told + INTERVAL).await;
            }
            let message = message(&self.api, &self.experiment, self.after).await.ok()?;
            self.told = Some(Instant::now());
            match message {
                Some(message) => {
                    self.is_behind = message.last - self.after >= MESSAGE_EVENTS_MAX as u64;
                    self.after = message.last;
                    return Some((Ok(message.text), self));
                }
                None if !changed => return Some((Ok(Bytes::from_static(b":\n\n")), self)),
                None => self.is_behind = false,
            }
        }
    }
}

async fn listen(api: &Api, experiment: ExperimentId, after: u64) -> Result<Response, Problem> {
    let clock = api.clock()?.listen();
    let listening = Listening { api: api.clone(), experiment, after, clock, told: None, is_behind: false };
    let messages = stream::unfold(listening, Listening::next);
    // Sent at once, so that the client knows that it is connected.
    let hello = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b": connected\n\n")) });
    let body = Body::from_stream(futures_util::StreamExt::chain(hello, messages));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would hold messages back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}
