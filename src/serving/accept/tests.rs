use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::{get, post};
use tokio::runtime::Runtime;

use super::*;

/// Bytes of the metrics of a server.
const METRICS_BYTES: usize = 16 << 10;
const SHORT: Duration = Duration::from_millis(20);
const NEVER: Duration = Duration::from_secs(3600);
/// Longest wait for a response.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// A listener that does not serve yet. Clients send before it starts, so a busy machine cannot delay them
/// past the limits.
struct WaitingServer {
    runtime: Runtime,
    listener: TcpListener,
}

impl WaitingServer {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(async { listen("127.0.0.1:0".parse().unwrap()).unwrap() });
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
        let routes = Router::new()
            .route("/", get(number))
            .route("/health", get(|| async { "alive" }))
            .route("/metrics", get(|| async { "x".repeat(METRICS_BYTES) }))
            .route("/order", post(|body: String| async move { body }))
            .route("/slow", get(|| async { sleep(SHORT * 10).await }));
        self.runtime.spawn(serve(self.listener, routes, limits));
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
fn a_silent_client_loses_its_seat_to_one_that_asks() {
    let server = WaitingServer::new();
    let _idle: Vec<TcpStream> = (0..20).map(|_| server.connect("")).collect();
    let active = server.connect(REQUEST);
    let _running = server.start(Limits { connections: 4, patience: Duration::ZERO, ..Limits::default() });
    assert!(read_all(active).ends_with("\r\n\r\n1"));
}

#[test]
fn connections_above_the_limit_get_health_and_are_else_asked_to_retry() {
    let server = WaitingServer::new();
    let mut first = server.connect("");
    let health = server.connect("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    let other = server.connect("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let _running = server.start(Limits { connections: 1, patience: NEVER, ..Limits::default() });
    let health = read_all(health);
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("alive"), "{health}");
    let other = read_all(other);
    assert!(other.starts_with("HTTP/1.1 503") && other.contains("retry-after: 1\r\n"), "{other}");
    first.write_all(REQUEST.as_bytes()).unwrap();
    assert!(read_all(first).ends_with("\r\n\r\n1"), "the first one keeps its seat");
}

#[test]
fn a_client_that_does_not_take_its_answers_is_disconnected() {
    let server = WaitingServer::new();
    let pipelined = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1500);
    let mut stalled = server.connect(&pipelined);
    let _running = server.start(Limits { answer_timeout: SHORT * 5, ..Limits::default() });
    std::thread::sleep(SHORT * 50);
    let mut taken = Vec::new();
    let _reset = stalled.read_to_end(&mut taken);
    assert!(taken.len() < 1500 * METRICS_BYTES, "{} bytes", taken.len());
}

#[test]
fn a_late_body_ends_its_request() {
    let server = WaitingServer::new();
    let late = server.connect("POST /order HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf");
    let _running = server.start(Limits { body_timeout: SHORT, ..Limits::default() });
    let refused = read_all(late);
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
}

#[test]
fn a_connection_ends_after_its_requests_and_after_its_life() {
    let server = WaitingServer::new();
    let busy = server.connect(&"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(9));
    let _running = server.start(Limits { requests: 4, ..Limits::default() });
    assert_eq!(read_all(busy).matches("HTTP/1.1 200").count(), 4);

    let server = WaitingServer::new();
    let slow = server.connect(&"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n".repeat(9));
    let _running = server.start(Limits { life: SHORT, ..Limits::default() });
    assert_eq!(read_all(slow).matches("HTTP/1.1 200").count(), 1, "the answer in progress is finished");
}

/// Asks for health every few milliseconds until `attack` ends. Returns the longest wait.
fn longest_health_wait(address: std::net::SocketAddr, attack: impl FnOnce() + Send) -> Duration {
    std::thread::scope(|scope| {
        let attack = scope.spawn(attack);
        let mut longest = Duration::ZERO;
        while !attack.is_finished() {
            let begun = std::time::Instant::now();
            let response = ask(address, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            assert!(response.ends_with("alive"), "{response}");
            longest = longest.max(begun.elapsed());
            std::thread::sleep(SHORT);
        }
        attack.join().unwrap();
        longest
    })
}

fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    read_all(stream)
}

/// An attack of `clients`, each of which sends `sent` and reads nothing, while orders are given.
fn orders_pass(limits: Limits, clients: usize, sent: &str) {
    let server = WaitingServer::new();
    let address = server.listener.local_addr().unwrap();
    let _running = server.start(limits);
    let longest = longest_health_wait(address, || {
        let attackers: Vec<TcpStream> = (0..clients)
            .map(|_| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_nonblocking(true).unwrap();
                let _full = stream.write(sent.as_bytes());
                stream
            })
            .collect();
        let begun = std::time::Instant::now();
        let order = "POST /order HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\npause";
        while !ask(address, order).ends_with("pause") {
            assert!(begun.elapsed() < Duration::from_secs(5), "no order passes");
            std::thread::sleep(SHORT * 5);
        }
        std::thread::sleep(SHORT * 50);
        drop(attackers);
    });
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[test]
fn health_and_orders_pass_while_clients_pipeline_and_read_nothing() {
    let pipelined = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1500);
    orders_pass(Limits { connections: 64, ..Limits::default() }, 64, &pipelined);
    orders_pass(Limits::default(), 256, &pipelined);
}

#[test]
fn health_and_orders_pass_while_clients_are_silent() {
    orders_pass(Limits { connections: 64, ..Limits::default() }, 64, "");
    orders_pass(Limits::default(), 256, "GET / HTTP/1.1\r\n");
    let half = "POST /order HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf";
    orders_pass(Limits::default(), 256, half);
}

#[test]
fn health_passes_during_ten_thousand_connections() {
    let server = WaitingServer::new();
    let address = server.listener.local_addr().unwrap();
    let _running = server.start(Limits::default());
    let longest = longest_health_wait(address, || {
        for _ in 0..10_000 {
            drop(TcpStream::connect(address).unwrap());
        }
    });
    assert!(longest < Duration::from_secs(1), "{longest:?}");
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
