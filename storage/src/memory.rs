//! The log in memory: for tests, dry runs, and as the model of the durable log in tests.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dissent_domain::event::{EventId, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{AdvanceListener, Append, AppendFuture, EventLog, ExpectedVersion, LogError};

use crate::limits::{check_append, check_cursor};

/// An [`EventLog`] that lives as long as its process. An append is done when `append` returns.
///
/// ```
/// use dissent_domain::event::{EventId, NewEvent, RoundClosed};
/// use dissent_domain::id::ExperimentId;
/// use dissent_domain::log::{Append, EventLog, ExpectedVersion, LogError};
/// use dissent_storage::{MemoryLog, wait};
///
/// let log = MemoryLog::new();
/// let experiment = ExperimentId::new("demo")?;
/// let id = EventId::of_experiment(&experiment).caused("example", 0);
/// let event = NewEvent::new(id, None, "example", 0, &RoundClosed { round: 0 }.into())?;
/// let append = Append { experiment, expected: ExpectedVersion::NoStream, events: vec![event] };
///
/// let recorded = wait(log.append(append.clone()))?;
/// assert_eq!((recorded[0].position, recorded[0].version), (1, 1));
/// assert_eq!(log.read(0, 10)?, recorded);
///
/// // The same events again change nothing: an id is recorded once.
/// assert_eq!(wait(log.append(append))?, recorded);
/// assert_eq!(log.head(), 1);
///
/// log.close();
/// assert_eq!(log.store_cursor("reward", vec![1]), Err(LogError::Closed));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct MemoryLog {
    state: Mutex<State>,
    /// Held from the append to the call of the listeners, so that they see positions in order.
    announcing: Mutex<()>,
    listeners: Mutex<Vec<AdvanceListener>>,
}

#[derive(Default)]
struct State {
    events: Vec<Recorded>,
    by_id: HashMap<EventId, usize>,
    /// Per stream, the indices of its events, by version.
    streams: BTreeMap<ExperimentId, Vec<usize>>,
    cursors: HashMap<String, Vec<u8>>,
    closed: bool,
}

impl MemoryLog {
    /// Returns an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Rejects all later appends.
    pub fn close(&self) {
        self.state().closed = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_now(&self, append: Append) -> Result<Vec<Recorded>, LogError> {
        check_append(&append)?;
        let _order = self.announcing.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, after, recorded) = {
            let mut state = self.state();
            let before = state.events.len();
            let recorded = state.append(append)?;
            (before, state.events.len(), recorded)
        };
        if after > before {
            for listener in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                listener(after as u64);
            }
        }
        Ok(recorded)
    }
}

impl State {
    fn append(&mut self, append: Append) -> Result<Vec<Recorded>, LogError> {
        if self.closed {
            return Err(LogError::Closed);
        }
        if append.events.iter().any(|event| !self.by_id.contains_key(&event.id)) {
            self.check_version(&append)?;
        }
        let mut recorded = Vec::with_capacity(append.events.len());
        for event in append.events {
            let index = if let Some(&known) = self.by_id.get(&event.id) {
                known
            } else {
                let index = self.events.len();
                let stream = self.streams.entry(append.experiment.clone()).or_default();
                stream.push(index);
                self.by_id.insert(event.id, index);
                self.events.push(Recorded {
                    position: index as u64 + 1,
                    experiment: append.experiment.clone(),
                    version: stream.len() as u64,
                    event,
                });
                index
            };
            recorded.extend(self.events.get(index).cloned());
        }
        Ok(recorded)
    }

    fn check_version(&self, append: &Append) -> Result<(), LogError> {
        let actual = self.streams.get(&append.experiment).map_or(0, |stream| stream.len() as u64);
        check_version(append, actual)
    }
}

/// Checks the expected version of an append.
pub(crate) fn check_version(append: &Append, actual: u64) -> Result<(), LogError> {
    let met = match append.expected {
        ExpectedVersion::Any => true,
        ExpectedVersion::NoStream => actual == 0,
        ExpectedVersion::Exact(version) => actual == version,
    };
    if met {
        return Ok(());
    }
    Err(LogError::WrongVersion { experiment: append.experiment.clone(), expected: append.expected, actual })
}

impl EventLog for MemoryLog {
    fn append(&self, append: Append) -> AppendFuture {
        let outcome = self.append_now(append);
        Box::pin(std::future::ready(outcome))
    }

    fn read(&self, after: u64, limit: usize) -> Result<Vec<Recorded>, LogError> {
        let state = self.state();
        let start = usize::try_from(after).unwrap_or(usize::MAX);
        Ok(state.events.iter().skip(start).take(limit).cloned().collect())
    }

    fn read_stream(
        &self,
        experiment: &ExperimentId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Recorded>, LogError> {
        let state = self.state();
        let start = usize::try_from(after).unwrap_or(usize::MAX);
        let indices = state.streams.get(experiment).map_or(&[][..], Vec::as_slice);
        let wanted = indices.iter().skip(start).take(limit);
        Ok(wanted.filter_map(|&index| state.events.get(index).cloned()).collect())
    }

    fn find(&self, id: EventId) -> Result<Option<Recorded>, LogError> {
        let state = self.state();
        Ok(state.by_id.get(&id).and_then(|&index| state.events.get(index).cloned()))
    }

    fn streams(&self) -> Result<Vec<(ExperimentId, u64)>, LogError> {
        let state = self.state();
        Ok(state.streams.iter().map(|(name, stream)| (name.clone(), stream.len() as u64)).collect())
    }

    fn head(&self) -> u64 {
        self.state().events.len() as u64
    }

    fn on_advance(&self, listener: AdvanceListener) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    fn store_cursor(&self, group: &str, record: Vec<u8>) -> Result<(), LogError> {
        check_cursor(group, &record)?;
        let mut state = self.state();
        if state.closed {
            return Err(LogError::Closed);
        }
        state.cursors.insert(group.to_owned(), record);
        Ok(())
    }

    fn load_cursor(&self, group: &str) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.state().cursors.get(group).cloned())
    }

    fn flush(&self) -> Result<(), LogError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::event_log_conformance!((MemoryLog::new(), ()));

    #[test]
    fn a_closed_log_rejects_appends() {
        let log = MemoryLog::new();
        log.close();
        let append = Append {
            experiment: ExperimentId::new("a").unwrap(),
            expected: ExpectedVersion::Any,
            events: vec![],
        };
        assert_eq!(crate::wait(log.append(append)), Err(LogError::Closed));
        assert_eq!(log.store_cursor("g", vec![]), Err(LogError::Closed));
    }
}
