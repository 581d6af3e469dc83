//! Accepts a bounded number of connections, and closes those whose clients do nothing. Otherwise any client
//! could use up the file descriptors that the event log and the broker need.
//!
//! A client must send its head and each part of its body in time, and must take its answer in time. When all
//! seats are taken, the connection whose client has been silent longest is closed. If no client has been
//! silent for long, further connections get a seat of a small reserve, which serves health checks only.

mod body;
mod limits;
mod seats;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::http::{HeaderValue, Request, Response, StatusCode};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

pub(crate) use self::limits::Limits;

use self::body::{RequestBody, ResponseBody};
use self::seats::{Seat, Seats};
use self::stream::{Activity, BoundedStream};
use super::client_address::ClientAddress;
use super::problem::Problem;

/// Pause after a failure to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Longest queue of the system for connections that are not accepted yet. Where it is full, a client tries
/// again after a second only.
const BACKLOG: u32 = 1024;
/// Pause before a further look for a free seat.
const SEAT_PAUSE: Duration = Duration::from_millis(2);
/// Paths that the reserve serves.
const RESERVED_PATHS: [&str; 2] = ["/health", "/ready"];

/// A socket that accepts connections.
pub(crate) trait Listen: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Returns the next connection, with the client's address if it has one.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<IpAddr>)>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        let (stream, address) = Self::accept(self).await?;
        // A page of the log or a report is written in several parts.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "failed to set the delay of a connection");
        }
        Ok((stream, Some(address.ip())))
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<IpAddr>)> {
        Ok((Self::accept(self).await?.0, None))
    }
}

/// Listens on an address.
///
/// # Errors
/// If the address cannot be bound.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that starts again takes the address while old connections time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves connections until the runtime drops this future.
pub(crate) async fn serve(listener: impl Listen, routes: Router, limits: Limits) {
    let seats = Seats::new(limits);
    loop {
        let (stream, address) = accept_with_retry(|| listener.accept(), ACCEPT_PAUSE).await;
        // Meanwhile further clients wait in the system's queue, which costs this process nothing.
        let seat = loop {
            match seats.take(address) {
                Some(seat) => break seat,
                None => sleep(SEAT_PAUSE).await,
            }
        };
        tokio::spawn(serve_connection(stream, routes.clone(), (seat, address), limits));
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

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    (mut seat, address): (Seat, Option<IpAddr>),
    limits: Limits,
) {
    let stream = BoundedStream::new(stream, seat.activity.clone(), limits.answer_timeout);
    let service = SeatService {
        routes: TowerToHyperService::new(routes),
        activity: seat.activity.clone(),
        address,
        served: AtomicUsize::new(0),
        is_reserve: seat.is_reserve,
        limits,
    };
    let (life, grace) =
        if seat.is_reserve { (limits.reserve_life, Duration::ZERO) } else { (limits.life, limits.grace) };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout.min(life));
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let served = async {
        tokio::select! {
            served = connection.as_mut() => return served,
            () = sleep(life) => {}
        }
        connection.as_mut().graceful_shutdown();
        timeout(grace, connection).await.unwrap_or(Ok(()))
    };
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(%error, "failed to serve connection");
        },
        _ = &mut seat.evicted => tracing::debug!("closed connection of a silent client"),
    }
}

/// Serves the requests of one connection.
struct SeatService {
    routes: TowerToHyperService<Router>,
    activity: Arc<Activity>,
    address: Option<IpAddr>,
    served: AtomicUsize,
    is_reserve: bool,
    limits: Limits,
}

impl Service<Request<Incoming>> for SeatService {
    type Response = Response<ResponseBody>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let active = self.activity.begin();
        let is_last =
            self.served.fetch_add(1, Ordering::Relaxed) + 1 >= self.limits.requests || self.is_reserve;
        let is_refused = self.is_reserve && !RESERVED_PATHS.contains(&request.uri().path());
        let (activity, body_timeout) = (self.activity.clone(), self.limits.body_timeout);
        let mut request = request.map(|body| Body::new(RequestBody::new(body, activity, body_timeout)));
        if let Some(address) = self.address {
            request.extensions_mut().insert(ClientAddress(address));
        }
        let served = (!is_refused).then(|| self.routes.call(request));
        Box::pin(async move {
            let mut response = match served {
                Some(served) => served.await?,
                None => all_seats_taken(),
            };
            if is_last {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| ResponseBody::new(body, active)))
        })
    }
}

fn all_seats_taken() -> Response<Body> {
    let reason = "too many connections: retry in a second";
    let mut response = Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests;
