//! The thread that does the embedded broker's I/O: it reads the log in pages and writes the groups' records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dissent_domain::event::Recorded;
use dissent_domain::log::{EventLog, LogError};

use super::core::{Cell, Core, Unpark};
use super::group::Group;
use super::record::Record;
use crate::error::BrokerError;

/// Starts the keeper; it ends when the core stops, or by an error that ends all groups.
pub(super) fn spawn(core: &Arc<Core>, log: &Arc<dyn EventLog>) -> std::io::Result<JoinHandle<()>> {
    let (core_of_keeper, log_of_keeper) = (Arc::clone(core), Arc::clone(log));
    let mut keeper = Keeper { core: core_of_keeper, log: log_of_keeper, stored_at: None, next_reader: 0 };
    let keeper = thread::Builder::new().name("dissent-queues".to_owned()).spawn(move || keeper.run())?;
    let bell = Arc::clone(&core.bell);
    // It holds the bell only: the last handle to the log must not be dropped by the log's own writer.
    log.on_advance(Box::new(move |_head| bell.ring()));
    // The log may have advanced between the keeper's first look and the listener.
    core.wake_keeper();
    Ok(keeper)
}

struct Keeper {
    core: Arc<Core>,
    log: Arc<dyn EventLog>,
    stored_at: Option<Instant>,
    /// Groups that read different parts of the log take turns.
    next_reader: usize,
}

enum Next {
    Again,
    Sleep(Option<Duration>),
    Stop,
}

/// Ends the groups when the keeper ends other than by a stop, a panic included.
struct Ending {
    core: Arc<Core>,
    error: Option<BrokerError>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(error) = self.error.take() else { return };
        self.core.set_drained(Err(error.clone()));
        self.core.fail(&error);
    }
}

impl Keeper {
    fn run(&mut self) {
        let mut ending = Ending { core: Arc::clone(&self.core), error: Some(BrokerError::Closed) };
        loop {
            match self.turn() {
                Ok(Next::Again) => {}
                Ok(Next::Sleep(longest)) => self.core.bell.listen(longest),
                Ok(Next::Stop) => {
                    ending.error = None;
                    self.core.set_drained(Err(BrokerError::Closed));
                    self.core.take_orders();
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the embedded broker ends: its log failed");
                    ending.error = Some(error);
                    return;
                }
            }
        }
    }

    fn turn(&mut self) -> Result<Next, BrokerError> {
        let stopping = self.core.is_stopping();
        for order in self.core.take_orders() {
            self.unpark(order);
        }
        let groups = self.core.groups();
        self.resume(&groups)?;
        let read = self.read_page(&groups)?;
        if stopping {
            self.store(&groups)?;
            self.log.flush()?;
            return Ok(Next::Stop);
        }
        self.drain(&groups)?;
        let rest = self.store_when_due(&groups)?;
        Ok(if read { Next::Again } else { Next::Sleep(rest) })
    }

    /// Brings new groups the events that their records speak of.
    fn resume(&self, groups: &[Arc<Cell>]) -> Result<(), BrokerError> {
        for cell in groups {
            let Some(record) = cell.lock().resume_from().cloned() else { continue };
            let events = self.noted_events(&record)?;
            self.core.with(cell, |group| group.resume(&events));
        }
        Ok(())
    }

    fn noted_events(&self, record: &Record) -> Result<BTreeMap<u64, Arc<Recorded>>, BrokerError> {
        let open = record.open.iter().map(|note| note.position);
        let parked = record.parked.iter().map(|note| note.position);
        open.chain(parked).map(|position| Ok((position, self.event_at(position)?))).collect()
    }

    fn event_at(&self, position: u64) -> Result<Arc<Recorded>, BrokerError> {
        let event = self.log.read(position.saturating_sub(1), 1)?.pop();
        match event {
            Some(event) if event.position == position => Ok(Arc::new(event)),
            _ => Err(LogError::Corrupt(format!("event {position} is missing")).into()),
        }
    }

    /// Reads one page for a group that wants one; groups at the same place share it. True if there was one.
    fn read_page(&mut self, groups: &[Arc<Cell>]) -> Result<bool, BrokerError> {
        let head = self.log.head();
        let turns = (0..groups.len()).map(|n| (self.next_reader + n) % groups.len());
        let mut wanting = turns.filter_map(|at| Some((at, groups[at].lock().wants_after()?)));
        let Some((at, after)) = wanting.find(|&(_, after)| after < head) else {
            return Ok(false);
        };
        self.next_reader = at + 1;
        let page = self.log.read(after, self.core.options.page_events)?;
        // Nothing above the durable head, whatever the log returns.
        let page: Vec<_> =
            page.into_iter().take_while(|event| event.position <= head).map(Arc::new).collect();
        let gapless = page.iter().zip(after + 1..).all(|(event, position)| event.position == position);
        if page.is_empty() || !gapless {
            return Err(LogError::Corrupt(format!("events are missing after {after}, head is {head}")).into());
        }
        for cell in groups {
            self.core.with(cell, |group| group.feed(&page));
        }
        Ok(true)
    }

    fn drain(&mut self, groups: &[Arc<Cell>]) -> Result<(), BrokerError> {
        let idle = || groups.iter().all(|cell| cell.lock().is_idle());
        if self.core.is_closing() && !self.core.is_drained() && idle() {
            self.store(groups)?;
            self.log.flush()?;
            self.core.set_drained(Ok(()));
        }
        Ok(())
    }

    /// Stores what changed if the last time is long enough ago; otherwise says how long to wait.
    fn store_when_due(&mut self, groups: &[Arc<Cell>]) -> Result<Option<Duration>, BrokerError> {
        if !groups.iter().any(|cell| cell.lock().is_dirty()) {
            return Ok(None);
        }
        let since = self.stored_at.map_or(Duration::MAX, |stored_at| stored_at.elapsed());
        match self.core.options.record_interval.checked_sub(since) {
            Some(rest) if !rest.is_zero() => Ok(Some(rest)),
            _ => self.store(groups).map(|()| None),
        }
    }

    fn store(&mut self, groups: &[Arc<Cell>]) -> Result<(), BrokerError> {
        for cell in groups {
            let record = self.core.with(cell, Group::changed_record);
            if let Some(record) = record {
                let bytes = record.encode().map_err(LogError::Invalid)?;
                self.log.store_cursor(&cell.name, bytes)?;
            }
        }
        self.stored_at = Some(Instant::now());
        Ok(())
    }

    fn unpark(&self, order: Unpark) {
        let outcome = self.unparked(&order.group, order.position);
        // Whoever asked may have stopped waiting.
        let _gone = order.done.send(outcome);
    }

    fn unparked(&self, name: &str, position: u64) -> Result<(), BrokerError> {
        let groups = self.core.groups();
        let Some(cell) = groups.iter().find(|cell| cell.name == name) else {
            return Err(BrokerError::Invalid(format!("nobody has subscribed to group {name:?}")));
        };
        cell.lock().check_unpark(position)?;
        let event = self.event_at(position)?;
        self.core.with(cell, |group| group.unpark(event))
    }
}
