//! The failure that stops a run.

use std::sync::Arc;

use tokio::sync::watch;

/// The first failure of a run. Every part of the run can report one; later reports are only logged.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Arc<watch::Sender<Option<String>>>);

impl Failure {
    pub(crate) fn new() -> (Self, watch::Receiver<Option<String>>) {
        let (sender, receiver) = watch::channel(None);
        (Self(Arc::new(sender)), receiver)
    }

    pub(crate) fn is_reported(&self) -> bool {
        self.0.borrow().is_some()
    }

    pub(crate) fn report(&self, reason: String) {
        tracing::error!(error = %reason, "stopping the pipeline");
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(reason);
            is_first
        });
    }
}
