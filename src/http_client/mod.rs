//! HTTP/1.1 client for servers of this program, over TCP or a Unix socket.
//!
//! An exchange has a time limit, and the response body a size limit. [`send`] uses a connection of its own;
//! a [`Connection`] is kept for many requests.

mod connection;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

pub(crate) use connection::{Connection, ExchangeLimits};

use crate::socket_path::SocketPath;

/// Longest wait for a connection to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest response body of one request, in bytes. Servers of this program send far less to a command.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Host and port, as in a URL.
    Tcp(String),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Parses `http://HOST:PORT` or `unix:PATH`.
    ///
    /// # Errors
    /// The accepted forms, or the way to reach a server over TLS.
    pub(crate) fn parse(url: &str) -> Result<Self, &'static str> {
        if url.starts_with("https://") {
            return Err(
                "servers do not support TLS: use http:// and a tunnel, such as `ssh -L 9464:127.0.0.1:9464 HOST`",
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

    /// Returns the value of the header `Host`.
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

/// Reason of a missing response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The request cannot be written as HTTP.
    #[error("the request is not valid HTTP")]
    Request(#[source] hyper::http::Error),
    /// No address of the server accepts a connection.
    #[error("failed to connect")]
    Connect(#[source] std::io::Error),
    /// The connection closed early, or the endpoint does not speak HTTP/1.1.
    #[error("the HTTP exchange failed")]
    Exchange(#[source] hyper::Error),
    /// The response body cannot be read.
    #[error("failed to read the response")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The response body is too large.
    #[error("the response is larger than {0} bytes")]
    TooLarge(usize),
    /// The exchange took too long.
    #[error("no response within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The async runtime of the request does not start.
    #[error("failed to start an async runtime")]
    Runtime(#[source] std::io::Error),
}

impl HttpError {
    /// Whether no process listens at the endpoint.
    pub(crate) fn is_refused(&self) -> bool {
        let Self::Connect(error) = self else { return false };
        matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
    }

    /// Whether the server did not respond in time, or accepts no connection in time.
    pub(crate) fn is_late(&self) -> bool {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        // A Unix socket whose queue is full would block.
        let is_late = |error: &std::io::Error| matches!(error.kind(), TimedOut | WouldBlock);
        matches!(self, Self::Timeout(_)) || matches!(self, Self::Connect(error) if is_late(error))
    }

    /// Whether the connection ended before the response.
    pub(crate) fn is_cut_off(&self) -> bool {
        matches!(self, Self::Exchange(_))
    }

    /// Whether the user may not connect to the endpoint.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Connect(error) if error.kind() == std::io::ErrorKind::PermissionDenied)
    }
}

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A request without `Host` and `Connection`, which [`send`] adds.
pub(crate) type BareRequest = Request<Full<Bytes>>;

/// A connection after its handshake.
type Sender = http1::SendRequest<Full<Bytes>>;

/// Sends a request over a connection of its own and reads the whole response, both within `time_limit`.
///
/// # Errors
/// If there is no connection, no whole response in time, or a response above the size limit.
pub(crate) fn send(
    endpoint: &Endpoint,
    mut request: BareRequest,
    time_limit: Duration,
) -> Result<Response, HttpError> {
    request.headers_mut().insert(CONNECTION, hyper::header::HeaderValue::from_static("close"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(HttpError::Runtime)?.block_on(async {
        let exchanged = async {
            let mut sender = connect(endpoint).await?;
            exchange(&mut sender, endpoint, request, BODY_BYTES_MAX).await
        };
        timeout(time_limit, exchanged).await.unwrap_or(Err(HttpError::Timeout(time_limit)))
    })
}

async fn connect(endpoint: &Endpoint) -> Result<Sender, HttpError> {
    match endpoint {
        Endpoint::Tcp(authority) => handshake(connect_tcp(authority).await?).await,
        Endpoint::Unix(path) => handshake(connect_unix(path).await?).await,
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
    let path = SocketPath::of(path).map_err(HttpError::Connect)?;
    let connected = timeout(CONNECT_TIMEOUT, UnixStream::connect(path.short())).await;
    connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(HttpError::Connect)
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Sender, HttpError> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Exchange)?;
    // The task of the connection ends with the runtime.
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(
    sender: &mut Sender,
    endpoint: &Endpoint,
    mut request: BareRequest,
    body_bytes_max: usize,
) -> Result<Response, HttpError> {
    let host = hyper::header::HeaderValue::from_str(endpoint.host());
    request.headers_mut().insert(HOST, host.map_err(|error| HttpError::Request(error.into()))?);
    sender.ready().await.map_err(HttpError::Exchange)?;
    let response = sender.send_request(request).await.map_err(HttpError::Exchange)?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, body_bytes_max).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            HttpError::TooLarge(body_bytes_max)
        } else {
            HttpError::Body(error)
        }
    })?;
    Ok(Response { status: head.status, headers: head.headers, body: body.to_bytes() })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use axum::Router;
    use axum::routing::{get, post};
    use tokio::runtime::Runtime;

    use super::*;

    const TIME_LIMIT: Duration = Duration::from_secs(60);

    fn routes() -> Router {
        Router::new()
            .route("/echo", post(|body: String| async move { body }))
            .route("/host", get(|headers: hyper::HeaderMap| async move { headers[HOST].as_bytes().to_vec() }))
            .route("/large", get(|| async { "x".repeat(BODY_BYTES_MAX + 1) }))
            .route("/silent", get(std::future::pending::<()>))
    }

    fn request(method: &str, path: &str, body: &str) -> BareRequest {
        Request::builder().method(method).uri(path).body(Full::from(body.to_owned())).unwrap()
    }

    fn check_requests(endpoint: &Endpoint, host: &str) {
        let response = send(endpoint, request("POST", "/echo", "body"), TIME_LIMIT).unwrap();
        assert_eq!((response.status, &*response.body), (StatusCode::OK, &b"body"[..]));
        let response = send(endpoint, request("GET", "/host", ""), TIME_LIMIT).unwrap();
        assert_eq!(response.body, host.as_bytes());
        let response = send(endpoint, request("GET", "/missing", ""), TIME_LIMIT).unwrap();
        assert_eq!(response.status, StatusCode::NOT_FOUND);
        let large = send(endpoint, request("GET", "/large", ""), TIME_LIMIT);
        assert!(matches!(large, Err(HttpError::TooLarge(_))), "{large:?}");
        let silent = send(endpoint, request("GET", "/silent", ""), Duration::from_millis(50));
        assert!(matches!(silent, Err(HttpError::Timeout(_))), "{silent:?}");
    }

    #[test]
    fn requests_work_over_a_unix_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.sock");
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(async { tokio::net::UnixListener::bind(&path).unwrap() });
        runtime.spawn(async { axum::serve(listener, routes()).await });
        check_requests(&Endpoint::parse(&format!("unix:{}", path.display())).unwrap(), "localhost");
    }

    #[test]
    fn requests_work_over_tcp() {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        runtime.spawn(async { axum::serve(listener, routes()).await });
        check_requests(&Endpoint::parse(&format!("http://{authority}/")).unwrap(), &authority);
    }

    #[test]
    fn an_endpoint_without_http_is_an_error() {
        let missing = Endpoint::Unix(PathBuf::from("/nowhere/server.sock"));
        let failed = send(&missing, request("GET", "/", ""), TIME_LIMIT);
        assert!(matches!(failed, Err(HttpError::Connect(_))), "{failed:?}");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
        let other = std::thread::spawn(move || {
            use std::io::Write as _;
            listener.accept().unwrap().0.write_all(b"220 mail.example ready\r\n").unwrap();
        });
        let failed = send(&endpoint, request("GET", "/", ""), TIME_LIMIT);
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
