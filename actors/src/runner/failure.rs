//! The failure that stops a run.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{RunFailure, chain};

/// The first failure of a run. Every part of the run can report one; later reports are only logged.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Arc<watch::Sender<Option<RunFailure>>>);

impl Failure {
    pub(crate) fn new() -> (Self, watch::Receiver<Option<RunFailure>>) {
        let (sender, receiver) = watch::channel(None);
        (Self(Arc::new(sender)), receiver)
    }

    pub(crate) fn is_reported(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) fn report(&self, failure: impl Into<RunFailure>) {
        let failure = failure.into();
        tracing::error!(error = %chain(&failure), "stopping the pipeline");
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(failure);
            is_first
        });
    }
}
