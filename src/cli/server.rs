//! The command line's side of a running server's HTTP.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use dissent_domain::log::LogError;
use dissent_storage::SledLog;
use serde_json::Value;

use crate::error::BadInput;
use crate::log_access::open;
use crate::serving::control_token::ControlToken;

/// Where a server listens unless it is told otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:9464";
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Far more than an answer has.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

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
    address: String,
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
            let (address, data) = (address(url)?, None);
            return Ok(LogAccess::Server(Server { address, token: self.token()?, data }));
        }
        match open::open_log(data_dir) {
            Ok(log) => Ok(LogAccess::Here(log)),
            Err(error) if matches!(error.downcast_ref(), Some(LogError::InUse(_))) => {
                let data = Some(data_dir.canonicalize().context("failed to find the data folder")?);
                let address = DEFAULT_ADDRESS.to_owned();
                Ok(LogAccess::Server(Server { address, token: self.token()?, data }))
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

/// Host and port of a URL.
fn address(url: &str) -> Result<String, BadInput> {
    let unusable = |reason: &str| BadInput(format!("--server {url}: {reason}"));
    if url.starts_with("https://") {
        return Err(unusable(
            "servers speak no TLS: reach one on another host through a tunnel, such as `ssh -L 9464:127.0.0.1:9464 HOST`",
        ));
    }
    let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let has_port =
        address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    let is_plain = address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte));
    if has_port && is_plain { Ok(address.to_owned()) } else { Err(unusable("use http://HOST:PORT")) }
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
        let body = body.to_string();
        let proof = self.token.as_ref().map(|token| format!("Authorization: {}\r\n", token.bearer()));
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            self.address,
            proof.unwrap_or_default(),
            body.len()
        );
        let (status, answer) = self.exchange(&request, patience)?;
        let said: Value = serde_json::from_str(&answer).unwrap_or_default();
        if (200..300).contains(&status) {
            return Ok(said);
        }
        let detail = said["detail"].as_str().unwrap_or("it is no server of this program");
        let detail = format!("the server at {} says: {detail}", self.address);
        if (400..500).contains(&status) { Err(BadInput(detail).into()) } else { anyhow::bail!(detail) }
    }

    fn exchange(&self, request: &str, patience: Duration) -> anyhow::Result<(u16, String)> {
        let no_answer = || match &self.data {
            Some(data) => format!(
                "the event log of {} is in use, and no server answers at {}: name it with --server, or stop the `dissent run` that \
                 has the log",
                data.display(),
                self.address
            ),
            None => format!("failed to ask the server at {}", self.address),
        };
        let addresses = self.address.to_socket_addrs().with_context(no_answer)?;
        let mut failure = anyhow::anyhow!("it has no address");
        for address in addresses {
            match exchange(address, request, patience) {
                Ok(answer) => return Ok(answer),
                Err(error) => failure = error.into(),
            }
        }
        Err(failure.context(no_answer()))
    }
}

/// Sends a request, which must ask for the connection to be closed after it, and gives the status and the body of the answer.
pub(crate) fn exchange(
    address: SocketAddr,
    request: &str,
    patience: Duration,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("the answer is not HTTP"))?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_host_and_port() {
        for url in ["http://127.0.0.1:9464", "http://server:9464/", "[::1]:9464", "localhost:1"] {
            assert!(address(url).is_ok(), "{url}");
        }
        for url in
            ["", "http://server", "http://:9464", "http://a b:1", "http://server:9464/path", "x\r\nA:1"]
        {
            assert!(address(url).is_err(), "{url:?}");
        }
        assert!(address("https://server:9464").unwrap_err().to_string().contains("ssh -L"));
    }
}
