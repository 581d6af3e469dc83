//! Bodies of a connection: requests that must arrive in time, and responses that count as work.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::stream::{ActiveRequest, Activity};

/// The client does not send the rest of its request.
#[derive(Debug, thiserror::Error)]
#[error("no further part of the request body within {} s", .0.as_secs_f64())]
struct LateBody(Duration);

/// The body of a request, which fails if its next part does not arrive in time.
pub(super) struct RequestBody {
    inner: Incoming,
    activity: Arc<Activity>,
    timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub(super) fn new(inner: Incoming, activity: Arc<Activity>, timeout: Duration) -> Self {
        Self { inner, activity, timeout, deadline: None }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.activity.set_starved(false);
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            if self.deadline.take().is_some() {
                self.activity.set_starved(false);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Self { activity, timeout, deadline, .. } = &mut *self;
        let deadline = deadline.get_or_insert_with(|| {
            activity.set_starved(true);
            Box::pin(sleep(*timeout))
        });
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Some(Err(LateBody(*timeout).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a response. Its request is active until the body is written.
pub(super) struct ResponseBody {
    inner: Body,
    _request: ActiveRequest,
}

impl ResponseBody {
    pub(super) fn new(inner: Body, request: ActiveRequest) -> Self {
        Self { inner, _request: request }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
