//! Ctrl-C in commands that write one file: stops the model and leaves no file.

use dissent_models::ModelError;
use dissent_models::runtime::CancelFlag;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::Interrupted;

/// Returns a flag that SIGINT or SIGTERM raises. The handlers are installed before the function returns.
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

/// Turns a cancelled model run into an interruption, which is not a failure.
pub(crate) fn map_cancelled(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(ModelError::Cancelled) => Interrupted("no file was written").into(),
        _ => error,
    }
}
