//! The stream of a connection. It fails if the client does not read its response, and records what the
//! connection waits for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// No time: the write side is not blocked.
const NEVER: u64 = u64::MAX;

/// Milliseconds since the first connection.
fn now_ms() -> u64 {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGUN.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
}

/// The activity of a connection, written by its stream and its service.
#[derive(Debug)]
pub(super) struct Activity {
    /// Requests whose answer is not written yet.
    active: AtomicUsize,
    /// Since when the connection waits for a request, if none is active.
    waiting_since: AtomicU64,
    /// Since when the client takes nothing of its answer; [`NEVER`] if it does.
    blocked_since: AtomicU64,
    /// Since when the client sends nothing of its body; [`NEVER`] if it does.
    starved_since: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            active: AtomicUsize::new(0),
            waiting_since: AtomicU64::new(now_ms()),
            blocked_since: AtomicU64::new(NEVER),
            starved_since: AtomicU64::new(NEVER),
        })
    }

    /// Returns how long the server has waited for the client; `None` while the server is at work.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        let blocked =
            self.blocked_since.load(Ordering::Relaxed).min(self.starved_since.load(Ordering::Relaxed));
        let since = if blocked != NEVER {
            blocked
        } else if self.active.load(Ordering::Relaxed) == 0 {
            self.waiting_since.load(Ordering::Relaxed)
        } else {
            return None;
        };
        Some(Duration::from_millis(now_ms().saturating_sub(since)))
    }

    /// Notes whether the server waits for the rest of a body.
    pub(super) fn set_starved(&self, is_starved: bool) {
        let since = if is_starved { now_ms() } else { NEVER };
        self.starved_since.store(since, Ordering::Relaxed);
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(self.clone())
    }
}

/// A request whose answer is not written yet.
#[derive(Debug)]
pub(super) struct ActiveRequest(Arc<Activity>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.waiting_since.store(now_ms(), Ordering::Relaxed);
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream with a limit on the time that a write may block.
pub(super) struct BoundedStream<S> {
    inner: S,
    activity: Arc<Activity>,
    write_timeout: Duration,
    /// Ends the blocked write.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> BoundedStream<S> {
    pub(super) fn new(inner: S, activity: Arc<Activity>, write_timeout: Duration) -> Self {
        Self { inner, activity, write_timeout, deadline: None }
    }

    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(written) = write(Pin::new(&mut self.inner), context) {
            self.deadline = None;
            self.activity.blocked_since.store(NEVER, Ordering::Relaxed);
            return Poll::Ready(written);
        }
        let deadline = self.deadline.get_or_insert_with(|| {
            self.activity.blocked_since.store(now_ms(), Ordering::Relaxed);
            Box::pin(sleep(self.write_timeout))
        });
        deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bounded(context, |inner, context| inner.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bounded(context, |inner, context| inner.poll_write_vectored(context, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
