//! Lets connections in: a bounded number at once, and none that only waits. Whoever can reach the port could
//! otherwise use up the file descriptors that the event log and the broker need.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Wait before another try where no connection can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at once. Further ones wait in the system's queue, which costs this process nothing.
    pub(super) connections: usize,
    /// Longest wait for a whole head of a request, the first or a further one.
    pub(super) head_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, head_max: Duration::from_secs(10) }
    }
}

/// Serves connections until it is dropped with the runtime it runs on.
pub(super) async fn serve(listener: TcpListener, routes: Router, limits: Limits) {
    let seats = Arc::new(Semaphore::new(limits.connections));
    // Nobody closes the semaphore: there is always a seat to come.
    while let Ok(seat) = seats.clone().acquire_owned().await {
        let (stream, _) = next(|| listener.accept(), ACCEPT_PAUSE).await;
        let routes = routes.clone();
        tokio::spawn(async move {
            attend(stream, routes, limits.head_max).await;
            drop(seat);
        });
    }
}

/// The next connection. Where there can be none, as without file descriptors, it is tried again and again,
/// and said once.
async fn next<T, F>(mut accept: impl FnMut() -> F, pause: Duration) -> T
where
    F: Future<Output = io::Result<T>>,
{
    let mut is_told = false;
    loop {
        match accept().await {
            Ok(connection) => return connection,
            // Whoever connected has gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !is_told {
                    tracing::warn!(%error, "no connection can be accepted: it is tried again every second");
                }
                is_told = true;
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn attend(stream: TcpStream, routes: Router, head_max: Duration) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_max);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection ended before its time");
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

    const SOON: Duration = Duration::from_millis(20);
    const NEVER: Duration = Duration::from_secs(3600);
    /// What is longer than this is taken for never.
    const PATIENCE: Duration = Duration::from_secs(60);
    const ASKING: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    /// Where connections wait until they are served: what they say before that is there in time, however busy
    /// this machine is.
    struct Door {
        runtime: Runtime,
        listener: TcpListener,
    }

    impl Door {
        fn new() -> Self {
            let runtime = Runtime::new().unwrap();
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            Self { runtime, listener }
        }

        fn connect(&self, saying: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(saying.as_bytes()).unwrap();
            stream
        }

        /// Answers each request with its number, as long as the runtime is there.
        fn open(self, limits: Limits) -> Runtime {
            let count = Arc::new(AtomicUsize::new(1));
            let answer = move || async move { count.fetch_add(1, Ordering::SeqCst).to_string() };
            self.runtime.spawn(serve(self.listener, Router::new().route("/", get(answer)), limits));
            self.runtime
        }
    }

    /// All that is said until the server closes the connection.
    fn heard(mut stream: TcpStream) -> String {
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    }

    #[test]
    fn a_connection_that_only_waits_is_closed() {
        let door = Door::new();
        let silent = ["", "GET / HTTP/1.1\r\nHost: x\r\n"].map(|saying| door.connect(saying));
        let answered = door.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let _open = door.open(Limits { head_max: SOON, ..Limits::default() });
        assert_eq!(silent.map(heard), ["", ""]);
        let said = heard(answered);
        assert!(said.starts_with("HTTP/1.1 200 OK") && said.ends_with("\r\n\r\n1"), "{said}");
    }

    #[test]
    fn more_connections_that_only_wait_than_there_may_be_keep_nobody_from_being_answered() {
        let door = Door::new();
        let _waiting: Vec<TcpStream> = (0..20).map(|_| door.connect("")).collect();
        let asking = door.connect(ASKING);
        let _open = door.open(Limits { connections: 4, head_max: SOON });
        assert!(heard(asking).ends_with("\r\n\r\n1"));
    }

    #[test]
    fn a_connection_above_the_limit_waits_for_another_to_end() {
        let door = Door::new();
        let (mut first, second) = (door.connect(""), door.connect(ASKING));
        let _open = door.open(Limits { connections: 1, head_max: NEVER });
        first.write_all(ASKING.as_bytes()).unwrap();
        assert!(heard(first).ends_with("\r\n\r\n1"));
        assert!(heard(second).ends_with("\r\n\r\n2"));
    }

    #[test]
    fn connections_that_cannot_be_accepted_are_tried_again_after_a_pause() {
        let mut outcomes = [
            Err(io::Error::from_raw_os_error(24)),
            Err(io::ErrorKind::ConnectionAborted.into()),
            Err(io::Error::from_raw_os_error(24)),
            Ok(7),
        ]
        .into_iter();
        let begun = std::time::Instant::now();
        let runtime = Runtime::new().unwrap();
        assert_eq!(runtime.block_on(next(|| std::future::ready(outcomes.next().unwrap()), SOON)), 7);
        assert!(begun.elapsed() >= SOON * 2, "it does not spin");
    }
}
