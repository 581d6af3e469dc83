//! The stop of one experiment in a process that goes on.

use tokio::sync::watch;

/// Stops the steps of an experiment. A drop of the last [`StopSwitch`] stops them, too.
#[derive(Debug)]
pub(crate) struct StopSwitch(watch::Sender<bool>);

/// Tells the parts of an experiment to stop.
#[derive(Debug, Clone)]
pub(crate) struct StopSignal(watch::Receiver<bool>);

impl StopSwitch {
    pub(crate) fn new() -> (Self, StopSignal) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), StopSignal(receiver))
    }

    pub(crate) fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl StopSignal {
    /// Returns once the experiment stops. Cancellation-safe.
    pub(crate) async fn stopped(&self) {
        let mut stop = self.0.clone();
        // An error means that the switch was dropped.
        let _dropped = stop.wait_for(|stopped| *stopped).await;
    }
}
