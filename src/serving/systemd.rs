//! Notifications to systemd, if the process runs under it.

use std::time::Duration;

use sd_notify::NotifyState;

/// Shortest interval of notifications to systemd's watchdog.
const WATCHDOG_MIN: Duration = Duration::from_millis(10);

/// The process is ready. From now on it also notifies the watchdog, if one is configured.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
    if let Some(timeout) = sd_notify::watchdog_enabled() {
        actix::spawn(notify_watchdog(timeout));
    }
}

/// The process is stopping.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Notifies the watchdog, twice in each timeout. The task stops if the process handles no events.
async fn notify_watchdog(timeout: Duration) {
    let mut ticks = tokio::time::interval((timeout / 2).max(WATCHDOG_MIN));
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "failed to notify systemd");
    }
}
