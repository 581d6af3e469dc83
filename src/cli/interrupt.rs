//! Ctrl-C in commands that write one file: stop the model, leave nothing behind.

use dissent_models::ModelError;
use dissent_models::runtime::CancelFlag;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::Interrupted;

/// A flag that is raised on SIGINT or SIGTERM, from the moment that this returns.
pub(crate) fn cancel_flag() -> anyhow::Result<CancelFlag> {
    let cancel = CancelFlag::new();
    let raised = cancel.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            raised.cancel();
        });
    })?;
    Ok(cancel)
}

/// Cancelled work is an interruption, not a failure.
pub(crate) fn explain(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(ModelError::Cancelled) => Interrupted("no file was written").into(),
        _ => error,
    }
}
