//! The server that a command addresses: a named one, or the process that has the log of the data folder open.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dissent_domain::log::LogError;
use dissent_storage::SledLog;

use crate::client::Server;
use crate::error::BadInput;
use crate::http_client::Endpoint;
use crate::log_access::door;
use crate::log_access::open::{self, WritableLog};
use crate::serving::control_token::ControlToken;
use crate::text::shell_word;

/// Options that name a server and its control token.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// Server that has the event log open: http://HOST:PORT or unix:PATH [default: the process that has the
    /// log of the data folder open]
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

impl ServerArgs {
    /// Returns the server that the user named. Without a named server, opens the log, or returns the process
    /// that has it open.
    ///
    /// # Errors
    /// If the log cannot be opened for another reason, or an argument is invalid.
    pub(crate) fn log_access(&self, data_dir: &Path) -> anyhow::Result<LogAccess> {
        if let Some(server) = self.named()? {
            return Ok(LogAccess::Server(server));
        }
        Ok(match open::writable(data_dir)? {
            WritableLog::Here(log) => LogAccess::Here(log),
            WritableLog::Door(socket) => LogAccess::Server(Server::at_door(socket)),
            WritableLog::InUse => {
                let folder = data_dir.canonicalize().context("failed to find the data folder")?;
                LogAccess::Server(Server::guessed(folder, self.token()?))
            }
        })
    }

    /// Returns the server that the user named, if one is.
    ///
    /// # Errors
    /// If the address or the token is invalid.
    pub(crate) fn named(&self) -> anyhow::Result<Option<Server>> {
        let Some(url) = &self.server else { return Ok(None) };
        let endpoint =
            Endpoint::parse(url).map_err(|reason| BadInput(format!("--server {url}: {reason}")))?;
        Ok(Some(Server::named(endpoint, self.token()?)))
    }

    /// Returns the option that names the server in a suggested command, if the user named one.
    pub(crate) fn option(&self) -> Option<String> {
        self.server.as_ref().map(|url| format!(" --server {}", shell_word(url)))
    }

    fn token(&self) -> anyhow::Result<Option<ControlToken>> {
        ControlToken::find(self.control_token_file.as_deref())
    }
}

/// Returns the server that has the log of a data folder open; `None` if nobody has, or another command.
///
/// # Errors
/// If the process that has the log open cannot be queried.
pub(crate) fn of_data_folder(data_dir: &Path) -> anyhow::Result<Option<Server>> {
    let socket = door::socket(data_dir);
    if !socket.exists() {
        return Ok(None);
    }
    let server = Server::at_door(socket);
    match server.entry() {
        Ok(entry) => Ok(entry.map(|_| server)),
        // A command or a run has the log: it has no server's routes.
        Err(error) if error.is::<BadInput>() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the log of a data folder, or finds the process on this host that has it open.
///
/// # Errors
/// If there is no log, it cannot be opened, or nobody answers for it.
pub(crate) fn writable(data_dir: &Path) -> anyhow::Result<LogAccess> {
    Ok(match open::writable(data_dir)? {
        WritableLog::Here(log) => LogAccess::Here(log),
        WritableLog::Door(socket) => LogAccess::Server(Server::at_door(socket)),
        WritableLog::InUse => {
            return Err(LogError::InUse(open::log_dir(data_dir).display().to_string()).into());
        }
    })
}
