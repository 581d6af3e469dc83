//! Control requests from the command line to a running server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use dissent_domain::log::LogError;
use dissent_storage::SledLog;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::Value;

use super::http_client::{self, Endpoint, Response};
use crate::error::BadInput;
use crate::log_access::open;
use crate::serving::control_token::ControlToken;
use crate::text::shell_word;

/// Default address of a server.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:9464";

/// Options that name a server and its control token.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// Server that has the event log open [default: http://127.0.0.1:9464 if the log is in use]
    #[arg(long, env = "DISSENT_SERVER", value_name = "URL")]
    server: Option<String>,
    /// File with the control token of the server; DISSENT_CONTROL_TOKEN overrides it.
    #[arg(value_parser = crate::cli::paths::path(), long, env = "DISSENT_CONTROL_TOKEN_FILE", value_name = "FILE")]
    control_token_file: Option<PathBuf>,
}

/// A command's access to an event log.
pub(crate) enum LogAccess {
    /// Directly: no other process has the log open, and this process has opened it.
    Here(SledLog),
    /// Through a server, which has the log open or was named by the user.
    Server(Server),
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    endpoint: Endpoint,
    token: Option<ControlToken>,
    /// The data folder of the log; none if the user named the server.
    data: Option<PathBuf>,
}

impl ServerArgs {
    /// Returns the server that the user named. Without a named server, opens the log, or returns the local
    /// server if the log is in use.
    ///
    /// # Errors
    /// If the log cannot be opened for another reason, or an argument is invalid.
    pub(crate) fn log_access(&self, data_dir: &Path) -> anyhow::Result<LogAccess> {
        if let Some(url) = &self.server {
            let endpoint =
                Endpoint::parse(url).map_err(|reason| BadInput(format!("--server {url}: {reason}")))?;
            return Ok(LogAccess::Server(Server { endpoint, token: self.token()?, data: None }));
        }
        match open::open_log(data_dir) {
            Ok(log) => Ok(LogAccess::Here(log)),
            Err(error) if matches!(error.downcast_ref(), Some(LogError::InUse(_))) => {
                let data = Some(data_dir.canonicalize().context("failed to find the data folder")?);
                let endpoint = Endpoint::Tcp(DEFAULT_ADDRESS.to_owned());
                Ok(LogAccess::Server(Server { endpoint, token: self.token()?, data }))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the option that names the server in a suggested command, if the user named one.
    pub(crate) fn option(&self) -> Option<String> {
        self.server.as_ref().map(|url| format!(" --server {}", shell_word(url)))
    }

    fn token(&self) -> anyhow::Result<Option<ControlToken>> {
        ControlToken::find(self.control_token_file.as_deref())
    }
}

impl Server {
    /// Whether the server has the log of this data folder open. A server that the user named may have
    /// another.
    pub(crate) fn has_this_folder(&self) -> bool {
        self.data.is_some()
    }

    /// Sends a control request and returns the body of the response.
    ///
    /// # Errors
    /// If the server does not respond within `time_limit`, or responds with an error.
    pub(crate) fn post(&self, path: &str, mut body: Value, time_limit: Duration) -> anyhow::Result<Value> {
        if let (Some(data), Some(body)) = (&self.data, body.as_object_mut()) {
            body.insert("data".to_owned(), serde_json::to_value(data)?);
        }
        let mut request = Request::post(path).header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.bearer());
        }
        let request = request.body(Full::from(body.to_string()))?;
        let Response { status, body } =
            http_client::send(&self.endpoint, request, time_limit).with_context(|| self.no_response())?;
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

    fn no_response(&self) -> String {
        match &self.data {
            Some(data) => format!(
                "the event log of {} is in use, and no server responds at {}: name the server with --server, or stop \
                 `dissent run`",
                data.display(),
                self.endpoint
            ),
            None => format!("failed to query the server at {}", self.endpoint),
        }
    }
}
