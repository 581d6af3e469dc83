//! A connection for many requests of one command.

use std::sync::mpsc::{Receiver, Sender as Reply, SyncSender, channel, sync_channel};
use std::time::Duration;

use hyper::Request;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{Endpoint, HttpError, Response, Sender, connect, exchange};

/// Limits of one exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExchangeLimits {
    /// Longest time for the request and its whole response.
    pub(crate) time: Duration,
    /// Largest response body, in bytes.
    pub(crate) body_bytes: usize,
}

/// A connection that sends GET requests one after the other, and connects again when the server has closed
/// it. Calls block, and may come from any thread, one inside an async runtime included.
pub(crate) struct Connection {
    jobs: SyncSender<Job>,
}

struct Job {
    path: String,
    limits: ExchangeLimits,
    reply: Reply<Result<Response, HttpError>>,
}

impl Connection {
    /// Starts the thread of the connection. The first request connects.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be started.
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, HttpError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(HttpError::Runtime)?;
        let (jobs, queue) = sync_channel(1);
        let thread = std::thread::Builder::new().name("http-client".to_owned());
        thread.spawn(move || work(&runtime, &endpoint, &queue)).map_err(HttpError::Runtime)?;
        Ok(Self { jobs })
    }

    /// Requests a path with its query, and returns the whole response.
    ///
    /// # Errors
    /// If there is no connection, no whole response in time, or a response above the size limit.
    pub(crate) fn get(&self, path: String, limits: ExchangeLimits) -> Result<Response, HttpError> {
        let (reply, response) = channel();
        // The thread ends after its last job, so both ends exist.
        let gone = || HttpError::Connect(std::io::ErrorKind::BrokenPipe.into());
        self.jobs.send(Job { path, limits, reply }).map_err(|_| gone())?;
        response.recv().map_err(|_| gone())?
    }
}

fn work(runtime: &Runtime, endpoint: &Endpoint, jobs: &Receiver<Job>) {
    let mut open: Option<Sender> = None;
    while let Ok(Job { path, limits, reply }) = jobs.recv() {
        let response = runtime.block_on(async {
            let exchanged = timeout(limits.time, get(&mut open, endpoint, &path, limits.body_bytes)).await;
            exchanged.unwrap_or(Err(HttpError::Timeout(limits.time)))
        });
        if response.is_err() {
            // A later response would be taken for the answer to the next request.
            open = None;
        }
        let _ = reply.send(response);
    }
}

async fn get(
    open: &mut Option<Sender>,
    endpoint: &Endpoint,
    path: &str,
    body_bytes: usize,
) -> Result<Response, HttpError> {
    if let Some(sender) = open {
        match exchange(sender, endpoint, request(path)?, body_bytes).await {
            // The server closed the connection between two requests.
            Err(HttpError::Exchange(_)) => {}
            exchanged => return exchanged,
        }
    }
    let sender = open.insert(connect(endpoint).await?);
    exchange(sender, endpoint, request(path)?, body_bytes).await
}

fn request(path: &str) -> Result<super::BareRequest, HttpError> {
    Request::get(path).body(http_body_util::Full::default()).map_err(HttpError::Request)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::extract::Request as Received;
    use axum::http::header::CONNECTION;
    use axum::middleware::{Next, from_fn};
    use axum::routing::get;
    use tokio::runtime::Runtime;

    use super::*;

    const LIMITS: ExchangeLimits = ExchangeLimits { time: Duration::from_secs(60), body_bytes: 1 << 10 };

    /// Counts the connections of a server, which closes each after three requests.
    fn server(folder: &std::path::Path) -> (Runtime, Endpoint, Arc<AtomicUsize>) {
        let runtime = Runtime::new().unwrap();
        let path = folder.join("s");
        let listener = runtime.block_on(async { tokio::net::UnixListener::bind(&path).unwrap() });
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let requests = Arc::new(AtomicUsize::new(0));
                let close = from_fn(move |request: Received, next: Next| {
                    let is_last = requests.fetch_add(1, Ordering::SeqCst) == 2;
                    async move {
                        let mut response = next.run(request).await;
                        if is_last {
                            response.headers_mut().insert(CONNECTION, "close".parse().unwrap());
                        }
                        response
                    }
                });
                let routes = Router::new()
                    .route("/path", get(|| async { "here" }))
                    .route("/silent", get(std::future::pending::<()>))
                    .layer(close);
                let service = hyper_util::service::TowerToHyperService::new(routes);
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
            }
        });
        (runtime, Endpoint::Unix(path), connections)
    }

    #[test]
    fn one_connection_serves_many_requests_and_is_replaced_after_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (runtime, endpoint, connections) = server(folder.path());
        let connection = Connection::new(endpoint).unwrap();
        for _ in 0..9 {
            assert_eq!(connection.get("/path".to_owned(), LIMITS).unwrap().body, "here");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 3);
        let short = ExchangeLimits { time: Duration::from_millis(20), ..LIMITS };
        let silent = connection.get("/silent".to_owned(), short);
        assert!(matches!(silent, Err(HttpError::Timeout(_))), "{silent:?}");
        let small = ExchangeLimits { body_bytes: 3, ..LIMITS };
        let large = connection.get("/path".to_owned(), small);
        assert!(matches!(large, Err(HttpError::TooLarge(3))), "{large:?}");
        assert_eq!(connection.get("/path".to_owned(), LIMITS).unwrap().body, "here");
        // A call from inside a runtime blocks, and does not panic.
        runtime.block_on(async { connection.get("/path".to_owned(), LIMITS).unwrap() });
    }
}
