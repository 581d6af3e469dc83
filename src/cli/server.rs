//! The command line's side of a running server's HTTP.

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

/// Where a server listens unless it is told otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:9464";
/// Which server is asked, and with what it is convinced.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// The server that has the event log [default: http://127.0.0.1:9464, where the log is in use]
    #[arg(long, env = "DISSENT_SERVER", value_name = "URL")]
    server: Option<String>,
    /// A file that holds the server's control token; DISSENT_CONTROL_TOKEN comes first.
    #[arg(long, env = "DISSENT_CONTROL_TOKEN_FILE", value_name = "FILE")]
    control_token_file: Option<PathBuf>,
}

/// Who can do something about a log.
pub(crate) enum LogAccess {
    /// Nobody has it open: this process has it now.
    Here(SledLog),
    /// A server has it, or is to be asked whether or not.
    Server(Server),
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    endpoint: Endpoint,
    token: Option<ControlToken>,
    /// The data folder that is meant, where the server was not named.
    data: Option<PathBuf>,
}

impl ServerArgs {
    /// The server that was named, else the log itself, else the server that has it open.
    ///
    /// # Errors
    /// If the log cannot be opened for another reason, or the arguments cannot be used.
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

    /// The option that names the server to a further command; none where none was named.
    pub(crate) fn option(&self) -> Option<String> {
        self.server.as_ref().map(|url| format!(" --server {url}"))
    }

    fn token(&self) -> anyhow::Result<Option<ControlToken>> {
        ControlToken::find(self.control_token_file.as_deref())
    }
}

impl Server {
    /// Whether the server is on this data folder for certain, and not merely whichever was named.
    pub(crate) fn is_of_this_folder(&self) -> bool {
        self.data.is_some()
    }

    /// Sends an order and waits for what came of it.
    ///
    /// # Errors
    /// If the server cannot be reached, or does not follow it.
    pub(crate) fn post(&self, path: &str, mut body: Value, patience: Duration) -> anyhow::Result<Value> {
        if let (Some(data), Some(body)) = (&self.data, body.as_object_mut()) {
            body.insert("data".to_owned(), serde_json::to_value(data)?);
        }
        let mut request = Request::post(path).header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.bearer());
        }
        let request = request.body(Full::from(body.to_string()))?;
        let Response { status, body } =
            http_client::send(&self.endpoint, request, patience).with_context(|| self.no_answer())?;
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(said);
        }
        let detail = said["detail"].as_str().unwrap_or("it is no server of this program");
        let detail = format!("the server at {} says: {detail}", self.endpoint);
        if status.is_client_error() { Err(BadInput(detail).into()) } else { anyhow::bail!(detail) }
    }

    fn no_answer(&self) -> String {
        match &self.data {
            Some(data) => format!(
                "the event log of {} is in use, and no server answers at {}: name it with --server, or stop the `dissent run` that \
                 has the log",
                data.display(),
                self.endpoint
            ),
            None => format!("failed to ask the server at {}", self.endpoint),
        }
    }
}
