//! A running server, as commands and workers reach it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dissent_domain::event::FeedbackReceived;
use dissent_domain::id::ExperimentId;
use dissent_domain::operator::ExperimentStatus;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::ConfigSource;
use crate::error::BadInput;
use crate::experiment::fork::{ForkRequest, Forked};
use crate::experiment::kept_config::Halt;
use crate::http_client::{self, Endpoint, HttpError, Response};
use crate::serving::control_token::ControlToken;
use crate::serving::worker_directory::ServerEntry;

/// Default address of a server.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:9464";
/// Wait before a request is sent again to a server that has no free connection.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a server that opens models before it responds.
const LOADING_TIMEOUT: Duration = Duration::from_secs(600);
const UNREADABLE: &str = "failed to read the server's response";

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    endpoint: Endpoint,
    token: Option<ControlToken>,
    found: Found,
}

/// How a server was found.
#[derive(Debug)]
enum Found {
    /// The user named it.
    Named,
    /// By the socket in the data folder of its log.
    Door,
    /// Nobody answers at the socket. A server with the log of this data folder may listen at the default
    /// address.
    Guessed(PathBuf),
}

/// What a server does with an experiment.
#[derive(Debug, Deserialize)]
pub(crate) struct HostedRow {
    /// Why the server halted it, if it did.
    pub(crate) halted: Option<Halt>,
    pub(crate) events: Option<u64>,
    pub(crate) status: Option<ExperimentStatus>,
    #[serde(default)]
    pub(crate) waits_for_people: bool,
}

impl Server {
    /// The server that the user named.
    pub(crate) fn named(endpoint: Endpoint, token: Option<ControlToken>) -> Self {
        Self { endpoint, token, found: Found::Named }
    }

    /// The process at the socket of a data folder.
    pub(crate) fn at_door(socket: PathBuf) -> Self {
        Self { endpoint: Endpoint::Unix(socket), token: None, found: Found::Door }
    }

    /// A server that may listen at the default address and have the log of this data folder.
    pub(crate) fn guessed(data_dir: PathBuf, token: Option<ControlToken>) -> Self {
        let endpoint = Endpoint::Tcp(DEFAULT_ADDRESS.to_owned());
        Self { endpoint, token, found: Found::Guessed(data_dir) }
    }

    /// Records an experiment, which the server then hosts. Returns its name.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub(crate) fn create(&self, source: &ConfigSource, by: &str) -> anyhow::Result<ExperimentId> {
        let body = json!({ "source": source, "by": by });
        let response = self.post("/api/v1/experiments", body, LOADING_TIMEOUT)?;
        ExperimentId::deserialize(&response["experiment"]).context(UNREADABLE)
    }

    /// Runs an experiment: records it if it is new, hosts it and starts it.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub(crate) fn run(&self, experiment: &ExperimentId, source: &ConfigSource) -> anyhow::Result<()> {
        let body = json!({ "source": source });
        self.post(&format!("/api/v1/experiments/{experiment}/run"), body, LOADING_TIMEOUT).map(drop)
    }

    /// Returns what the server does with an experiment; `None` if it does not answer now.
    ///
    /// # Errors
    /// If the server refuses, or its response cannot be read.
    pub(crate) fn hosted(&self, experiment: &ExperimentId) -> anyhow::Result<Option<HostedRow>> {
        match self.look(&format!("/api/v1/experiments/{experiment}/hosting"))? {
            // It still opens its experiments.
            None | Some((StatusCode::NOT_FOUND, _)) => Ok(None),
            Some(answer) => Ok(Some(HostedRow::deserialize(&self.accepted(answer)?).context(UNREADABLE)?)),
        }
    }

    /// Records a fork, which the server then hosts if it has the configuration.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub(crate) fn fork(&self, origin: &ExperimentId, request: &ForkRequest) -> anyhow::Result<Forked> {
        let path = format!("/api/v1/experiments/{origin}/fork");
        let response = self.post(&path, serde_json::to_value(request)?, LOADING_TIMEOUT)?;
        let forked = Forked::deserialize(&response).context(UNREADABLE)?;
        Ok(Forked { is_hosted: forked.is_kept, ..forked })
    }

    /// Records judgements. They are durable on return.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub(crate) fn judge(
        &self,
        experiment: &ExperimentId,
        judgements: &[FeedbackReceived],
    ) -> anyhow::Result<()> {
        let path = format!("/api/v1/experiments/{experiment}/judgements");
        // A run that opens its models answers afterwards.
        self.post(&path, serde_json::to_value(judgements)?, LOADING_TIMEOUT).map(drop)
    }

    /// Returns the server as workers see it; `None` if it does not work yet.
    ///
    /// # Errors
    /// If the server refuses, or its response cannot be read.
    pub(crate) fn entry(&self) -> anyhow::Result<Option<ServerEntry>> {
        match self.get("/api/v1/server") {
            Ok(Some(entry)) => ServerEntry::deserialize(&entry).map(Some).context(UNREADABLE),
            other => other.map(|_| None),
        }
    }

    /// Returns the configuration of an experiment that the server hosts.
    ///
    /// # Errors
    /// If the server refuses, or its response cannot be read.
    pub(crate) fn configuration(&self, experiment: &ExperimentId) -> anyhow::Result<ConfigSource> {
        let path = format!("/api/v1/experiments/{experiment}/configuration");
        let source = self.get(&path)?.context("the server is not ready")?;
        ConfigSource::deserialize(&source).context(UNREADABLE)
    }

    /// Requests a resource. `None` if nobody listens yet, or the server is not ready.
    fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        self.look(path)?.map(|answer| self.accepted(answer)).transpose()
    }

    /// Returns the body of an answer.
    ///
    /// # Errors
    /// If the server refuses.
    fn accepted(&self, (status, body): (StatusCode, Value)) -> anyhow::Result<Value> {
        if status.is_success() {
            return Ok(body);
        }
        let detail = body["detail"].as_str().unwrap_or("no `dissent serve` listens at this address");
        Err(BadInput(format!("the server at {} responded with {status}: {detail}", self.endpoint)).into())
    }

    /// Requests a resource. `None` if nobody listens yet, or the server is not ready.
    fn look(&self, path: &str) -> anyhow::Result<Option<(StatusCode, Value)>> {
        let mut request = Request::get(path);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.bearer());
        }
        let response = http_client::send(&self.endpoint, request.body(Full::default())?, RESPONSE_TIMEOUT);
        let Response { status, body, .. } = match response {
            Err(HttpError::Connect(_)) => return Ok(None),
            response => response.with_context(|| self.no_response())?,
        };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return Ok(None);
        }
        Ok(Some((status, serde_json::from_slice(&body).unwrap_or_default())))
    }

    /// Whether the server has the log of this data folder open. A server that the user named may have
    /// another.
    pub(crate) fn has_this_folder(&self) -> bool {
        !matches!(self.found, Found::Named)
    }

    /// Returns the path of requests for a backup. Every process makes one at the door of its log.
    pub(crate) fn backup_path(&self) -> &'static str {
        if let Found::Door = self.found { "/api/v1/log/backup" } else { "/backup" }
    }

    /// Sends a control request and returns the body of the response. A server without a free connection is
    /// asked again, until `time_limit`.
    ///
    /// # Errors
    /// If the server does not respond within `time_limit`, or responds with an error.
    pub(crate) fn post(&self, path: &str, mut body: Value, time_limit: Duration) -> anyhow::Result<Value> {
        if let (Found::Guessed(folder), Some(body)) = (&self.found, body.as_object_mut()) {
            body.insert("data".to_owned(), serde_json::to_value(folder)?);
        }
        let response = self.exchange(path, &body.to_string(), time_limit);
        let Response { status, body, .. } = response.with_context(|| self.no_response())?;
        let response: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(response);
        }
        let detail = response["detail"]
            .as_str()
            .unwrap_or("no `dissent serve` listens at this address: check --server");
        let message = format!("the server at {} responded with {status}: {detail}", self.endpoint);
        if status.is_client_error() { Err(BadInput(message).into()) } else { anyhow::bail!(message) }
    }

    fn exchange(&self, path: &str, body: &str, time_limit: Duration) -> Result<Response, HttpError> {
        let begun = Instant::now();
        loop {
            let mut request = Request::post(path).header(CONTENT_TYPE, "application/json");
            if let Some(token) = &self.token {
                request = request.header(AUTHORIZATION, token.bearer());
            }
            let request = request.body(Full::from(body.to_owned())).map_err(HttpError::Request)?;
            let left = time_limit.saturating_sub(begun.elapsed());
            let response = http_client::send(&self.endpoint, request, left)?;
            // The request was not looked at, so it can be sent again.
            let is_busy = response.status == StatusCode::SERVICE_UNAVAILABLE
                && response.headers.contains_key(RETRY_AFTER);
            if !is_busy || begun.elapsed() + BUSY_PAUSE >= time_limit {
                return Ok(response);
            }
            std::thread::sleep(BUSY_PAUSE);
        }
    }

    fn no_response(&self) -> String {
        match &self.found {
            Found::Guessed(folder) => format!(
                "the event log of {} is in use, and no server responds at {}: name the server with --server, or stop \
                 the process that has the log open",
                folder.display(),
                self.endpoint
            ),
            Found::Door | Found::Named => format!("failed to query the server at {}", self.endpoint),
        }
    }
}
