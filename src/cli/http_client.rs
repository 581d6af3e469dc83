//! HTTP/1.1 to a server of this program, over TCP or a Unix socket.
//!
//! Every request has a connection of its own. The whole exchange has a time limit, and the body of the
//! response a size limit.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Longest wait for a connection to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest body of a response, in bytes: far more than a server of this program sends to a command.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A host and a port, as in a URL.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// The endpoint of a URL: `http://HOST:PORT` or `unix:PATH`.
    ///
    /// # Errors
    /// What is wrong with the URL, and which forms there are.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        if url.starts_with("https://") {
            return Err(
                "servers speak no TLS: reach one on another host through a tunnel, such as `ssh -L 9464:127.0.0.1:9464 HOST`",
            );
        }
        if let Some(path) = url.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let is_plain = authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte));
        if has_port && is_plain {
            Ok(Self::Tcp(authority.to_owned()))
        } else {
            Err("use http://HOST:PORT or unix:PATH")
        }
    }

    /// The value of the header `Host`.
    fn host(&self) -> &str {
        match self {
            Self::Tcp(authority) => authority,
            Self::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => f.write_str(authority),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// The request cannot be written as HTTP.
    #[error("the request cannot be sent")]
    Request(#[source] hyper::http::Error),
    /// No connection.
    #[error("failed to connect")]
    Connect(#[source] std::io::Error),
    /// The connection broke, or the other side speaks no HTTP/1.1.
    #[error("the exchange failed")]
    Exchange(#[source] hyper::Error),
    /// The body of the response could not be read.
    #[error("the response could not be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The body of the response is too large.
    #[error("the response is larger than {BODY_BYTES_MAX} bytes")]
    TooLarge,
    /// The exchange took too long.
    #[error("no response within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// No runtime to wait in.
    #[error("failed to start a runtime")]
    Runtime(#[source] std::io::Error),
}

/// A response, read whole.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// A request without `Host` and `Connection`, which [`send`] adds.
pub(super) type Outgoing = Request<Full<Bytes>>;

/// Sends a request and reads the whole response, both within `patience`.
///
/// # Errors
/// If there is no connection, or no whole response in time and within the size limit.
pub(super) fn send(
    endpoint: &Endpoint,
    request: Outgoing,
    patience: Duration,
) -> Result<Response, HttpError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(HttpError::Runtime)?.block_on(async {
        let exchanged = timeout(patience, exchange(endpoint, request)).await;
        exchanged.unwrap_or(Err(HttpError::Timeout(patience)))
    })
}

async fn exchange(endpoint: &Endpoint, request: Outgoing) -> Result<Response, HttpError> {
    match endpoint {
        Endpoint::Tcp(authority) => speak(connect_tcp(authority).await?, endpoint, request).await,
        Endpoint::Unix(path) => speak(connect_unix(path).await?, endpoint, request).await,
    }
}

async fn connect_tcp(authority: &str) -> Result<TcpStream, HttpError> {
    let addresses = tokio::net::lookup_host(authority).await.map_err(HttpError::Connect)?;
    let mut failure = std::io::Error::other("the host has no address");
    for address in addresses {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = std::io::ErrorKind::TimedOut.into(),
        }
    }
    Err(HttpError::Connect(failure))
}

async fn connect_unix(path: &Path) -> Result<UnixStream, HttpError> {
    let connected = timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await;
    connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(HttpError::Connect)
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    endpoint: &Endpoint,
    mut request: Outgoing,
) -> Result<Response, HttpError> {
    let host = hyper::header::HeaderValue::from_str(endpoint.host());
    request.headers_mut().insert(HOST, host.map_err(|error| HttpError::Request(error.into()))?);
    request.headers_mut().insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Exchange)?;
    // The runtime ends with the exchange, and the connection with it.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(HttpError::Exchange)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() { HttpError::TooLarge } else { HttpError::Body(error) }
    })?;
    Ok(Response { status, body: body.to_bytes() })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use axum::Router;
    use axum::routing::{get, post};
    use tokio::runtime::Runtime;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn routes() -> Router {
        Router::new()
            .route("/echo", post(|body: String| async move { body }))
            .route("/host", get(|headers: hyper::HeaderMap| async move { headers[HOST].as_bytes().to_vec() }))
            .route("/large", get(|| async { "x".repeat(BODY_BYTES_MAX + 1) }))
            .route("/silent", get(std::future::pending::<()>))
    }

    fn request(method: &str, path: &str, body: &str) -> Outgoing {
        Request::builder().method(method).uri(path).body(Full::from(body.to_owned())).unwrap()
    }

    fn checked_at(endpoint: &Endpoint, host: &str) {
        let response = send(endpoint, request("POST", "/echo", "said"), PATIENCE).unwrap();
        assert_eq!((response.status, &*response.body), (StatusCode::OK, &b"said"[..]));
        let response = send(endpoint, request("GET", "/host", ""), PATIENCE).unwrap();
        assert_eq!(response.body, host.as_bytes());
        let response = send(endpoint, request("GET", "/missing", ""), PATIENCE).unwrap();
        assert_eq!(response.status, StatusCode::NOT_FOUND);
        let large = send(endpoint, request("GET", "/large", ""), PATIENCE);
        assert!(matches!(large, Err(HttpError::TooLarge)), "{large:?}");
        let silent = send(endpoint, request("GET", "/silent", ""), Duration::from_millis(50));
        assert!(matches!(silent, Err(HttpError::Timeout(_))), "{silent:?}");
    }

    #[test]
    fn requests_go_over_a_unix_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.sock");
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(async { tokio::net::UnixListener::bind(&path).unwrap() });
        runtime.spawn(async { axum::serve(listener, routes()).await });
        checked_at(&Endpoint::parse(&format!("unix:{}", path.display())).unwrap(), "localhost");
    }

    #[test]
    fn requests_go_over_tcp() {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        runtime.spawn(async { axum::serve(listener, routes()).await });
        checked_at(&Endpoint::parse(&format!("http://{authority}/")).unwrap(), &authority);
    }

    #[test]
    fn an_endpoint_that_does_not_speak_http_is_an_error() {
        let missing = Endpoint::Unix(PathBuf::from("/nowhere/server.sock"));
        let failed = send(&missing, request("GET", "/", ""), PATIENCE);
        assert!(matches!(failed, Err(HttpError::Connect(_))), "{failed:?}");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
        let other = std::thread::spawn(move || {
            use std::io::Write as _;
            listener.accept().unwrap().0.write_all(b"220 mail.example ready\r\n").unwrap();
        });
        let failed = send(&endpoint, request("GET", "/", ""), PATIENCE);
        other.join().unwrap();
        assert!(matches!(failed, Err(HttpError::Exchange(_))), "{failed:?}");
    }

    #[test]
    fn an_endpoint_is_a_host_and_port_or_a_socket() {
        for url in ["http://127.0.0.1:9464", "http://server:9464/", "[::1]:9464", "localhost:1"] {
            assert!(matches!(Endpoint::parse(url), Ok(Endpoint::Tcp(_))), "{url}");
        }
        assert_eq!(Endpoint::parse("unix:/run/x"), Ok(Endpoint::Unix(PathBuf::from("/run/x"))));
        for url in [
            "",
            "unix:",
            "http://server",
            "http://:9464",
            "http://a b:1",
            "http://server:9464/path",
            "x\r\nA:1",
        ] {
            assert!(Endpoint::parse(url).is_err(), "{url:?}");
        }
        assert!(Endpoint::parse("https://server:9464").unwrap_err().contains("ssh -L"));
    }
}
