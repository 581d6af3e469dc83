//! Accepts a bounded number of connections, and closes idle ones. Otherwise any client could use up the file
//! descriptors that the event log and the broker need.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Pause after a failure to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Limits of connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Open connections. Further ones wait in the system's queue, which costs this process nothing.
    pub(super) connections: usize,
    /// Longest wait for the whole head of each request.
    pub(super) head_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, head_timeout: Duration::from_secs(10) }
    }
}

/// Serves connections until the runtime drops this future.
pub(super) async fn serve(listener: TcpListener, routes: Router, limits: Limits) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    // The semaphore is never closed, so the loop does not end.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let (stream, _) = accept_with_retry(|| listener.accept(), ACCEPT_PAUSE).await;
        let routes = routes.clone();
        tokio::spawn(async move {
            serve_connection(stream, routes, limits.head_timeout).await;
            drop(permit);
        });
    }
}

/// Returns the next connection. A failure, such as a lack of file descriptors, is retried after a pause, and
/// logged once.
async fn accept_with_retry<T, F>(mut accept: impl FnMut() -> F, pause: Duration) -> T
where
    F: Future<Output = io::Result<T>>,
{
    let mut is_logged = false;
    loop {
        match accept().await {
            Ok(connection) => return connection,
            // The client has closed the connection.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !is_logged {
                    tracing::warn!(%error, ?pause, "failed to accept connection, retrying");
                }
                is_logged = true;
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, routes: Router, head_timeout: Duration) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_timeout);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    if let Err(error) = served.await {
        tracing::debug!(%error, "failed to serve connection");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::routing::get;
    use tokio::runtime::Runtime;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_secs(3600);
    /// Longest wait for a response.
    const READ_TIMEOUT: Duration = Duration::from_secs(60);
    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    /// A listener that does not serve yet. Clients send before it starts, so a busy machine cannot delay
    /// them past the limits.
    struct WaitingServer {
        runtime: Runtime,
        listener: TcpListener,
    }

    impl WaitingServer {
        fn new() -> Self {
            let runtime = Runtime::new().unwrap();
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            Self { runtime, listener }
        }

        fn connect(&self, sent: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
            stream.write_all(sent.as_bytes()).unwrap();
            stream
        }

        /// Responds to each request with its number until the returned runtime is dropped.
        fn start(self, limits: Limits) -> Runtime {
            let count = Arc::new(AtomicUsize::new(1));
            let number = move || async move { count.fetch_add(1, Ordering::SeqCst).to_string() };
            self.runtime.spawn(serve(self.listener, Router::new().route("/", get(number)), limits));
            self.runtime
        }
    }

    /// Reads until the server closes the connection.
    fn read_all(mut stream: TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn an_idle_connection_is_closed() {
        let server = WaitingServer::new();
        let idle = ["", "GET / HTTP/1.1\r\nHost: x\r\n"].map(|sent| server.connect(sent));
        let served = server.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let _running = server.start(Limits { head_timeout: SHORT, ..Limits::default() });
        assert_eq!(idle.map(read_all), ["", ""]);
        let response = read_all(served);
        assert!(response.starts_with("HTTP/1.1 200 OK") && response.ends_with("\r\n\r\n1"), "{response}");
    }

    #[test]
    fn idle_connections_above_the_limit_do_not_block_a_request() {
        let server = WaitingServer::new();
        let _idle: Vec<TcpStream> = (0..20).map(|_| server.connect("")).collect();
        let active = server.connect(REQUEST);
        let _running = server.start(Limits { connections: 4, head_timeout: SHORT });
        assert!(read_all(active).ends_with("\r\n\r\n1"));
    }

    #[test]
    fn a_connection_above_the_limit_waits_for_another_to_end() {
        let server = WaitingServer::new();
        let (mut first, second) = (server.connect(""), server.connect(REQUEST));
        let _running = server.start(Limits { connections: 1, head_timeout: NEVER });
        first.write_all(REQUEST.as_bytes()).unwrap();
        assert!(read_all(first).ends_with("\r\n\r\n1"));
        assert!(read_all(second).ends_with("\r\n\r\n2"));
    }

    #[test]
    fn a_failure_to_accept_is_retried_after_a_pause() {
        let mut outcomes = [
            Err(io::Error::from_raw_os_error(24)),
            Err(io::ErrorKind::ConnectionAborted.into()),
            Err(io::Error::from_raw_os_error(24)),
            Ok(7),
        ]
        .into_iter();
        let begun = std::time::Instant::now();
        let runtime = Runtime::new().unwrap();
        let accepting = accept_with_retry(|| std::future::ready(outcomes.next().unwrap()), SHORT);
        assert_eq!(runtime.block_on(accepting), 7);
        assert!(begun.elapsed() >= SHORT * 2, "the loop does not spin");
    }
}
