use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use dissent_domain::log::EventLog;

use super::memory_log::{Durability, MemoryLog};
use super::{EmbeddedBroker, EmbeddedOptions};
use crate::broker::Broker;

const PATIENCE: Duration = Duration::from_secs(30);

/// A log may block on a channel during a flush, and a channel consumes the token by which `unpark` wakes a
/// thread.
#[test]
fn dropping_the_broker_during_a_flush_ends_its_thread() {
    let log = MemoryLog::new(Durability::Immediate);
    let broker = EmbeddedBroker::new(Arc::clone(&log) as Arc<dyn EventLog>, EmbeddedOptions::default());
    let (flushing, flush_began) = mpsc::channel();
    let (latch, flush_may_end) = mpsc::channel::<()>();
    log.at_flush(move || {
        flushing.send(()).unwrap();
        // The broker is dropped meanwhile. The error is the dropped latch.
        flush_may_end.recv().unwrap_err();
        thread::park_timeout(Duration::from_millis(1));
    });
    broker.close();
    flush_began.recv_timeout(PATIENCE).unwrap();
    let shared = Arc::clone(&broker.inner.shared);
    let notifications = shared.wakeup.pending();
    let (dropped, is_dropped) = mpsc::channel();
    thread::spawn(move || {
        drop(broker);
        dropped.send(()).unwrap();
    });
    // The stop closes the broker again, and each notifies the thread. Only then may the flush end.
    let deadline = Instant::now() + PATIENCE;
    while shared.wakeup.pending() < notifications + 2 {
        assert!(Instant::now() < deadline, "the drop does not stop the broker");
        thread::yield_now();
    }
    assert!(shared.is_stopping());
    drop(latch);
    is_dropped.recv_timeout(PATIENCE).expect("the I/O thread sleeps through the stop");
}
