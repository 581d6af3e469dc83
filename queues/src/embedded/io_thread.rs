//! The thread that does the embedded broker's I/O: it reads the log in pages and writes the groups' records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dissent_domain::error::chain;
use dissent_domain::event::Recorded;
use dissent_domain::log::{EventLog, LogError, LogPart};

use super::group::{Group, Origin};
use super::page;
use super::record::Record;
use super::shared::{GroupCell, Shared, UnparkRequest};
use crate::error::BrokerError;

/// Starts the I/O thread. It ends when the broker stops, or with an error that ends all groups.
pub(super) fn spawn(shared: &Arc<Shared>, log: &Arc<dyn EventLog>) -> std::io::Result<JoinHandle<()>> {
    let (shared_of_thread, log_of_thread) = (Arc::clone(shared), Arc::clone(log));
    let mut io_thread =
        IoThread { shared: shared_of_thread, log: log_of_thread, stored_at: None, next_reader: 0 };
    let handle = thread::Builder::new().name("dissent-queues".to_owned()).spawn(move || io_thread.run())?;
    let wakeup = Arc::clone(&shared.wakeup);
    // The listener holds only the wakeup: the log's own writer must not drop the last handle to the log.
    log.on_advance(Box::new(move |_head| wakeup.notify()));
    // The log may have advanced between the thread's first read and the registration of the listener.
    shared.wake_io_thread();
    Ok(handle)
}

struct IoThread {
    shared: Arc<Shared>,
    log: Arc<dyn EventLog>,
    stored_at: Option<Instant>,
    /// Index of the group to read for next: groups at different positions take turns.
    next_reader: usize,
}

enum Next {
    Again,
    Sleep(Option<Duration>),
    Stop,
}

/// Ends the groups with an error unless the thread ends by a stop. Covers a panic, too.
struct Ending {
    shared: Arc<Shared>,
    error: Option<BrokerError>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(error) = self.error.take() else { return };
        self.shared.set_drained(Err(error.clone()));
        self.shared.fail(&error);
    }
}

impl IoThread {
    fn run(&mut self) {
        let mut ending = Ending { shared: Arc::clone(&self.shared), error: Some(BrokerError::Closed) };
        loop {
            match self.turn() {
                Ok(Next::Again) => {}
                Ok(Next::Sleep(longest)) => self.shared.wakeup.wait(longest),
                Ok(Next::Stop) => {
                    ending.error = None;
                    self.shared.set_drained(Err(BrokerError::Closed));
                    self.shared.take_unpark_requests();
                    self.shared.take_leave_requests();
                    return;
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "stopping embedded broker after event log failure");
                    ending.error = Some(error);
                    return;
                }
            }
        }
    }

    fn turn(&mut self) -> Result<Next, BrokerError> {
        let stopping = self.shared.is_stopping();
        for request in self.shared.take_unpark_requests() {
            self.unpark(request);
        }
        let leaving = self.shared.end_leaving(&*self.log)?;
        let groups = self.shared.groups();
        self.resume(&groups)?;
        let read = self.read_page(&groups)?;
        if stopping {
            self.store(&groups, Group::final_record)?;
            self.log.flush()?;
            return Ok(Next::Stop);
        }
        self.drain(&groups)?;
        let rest = self.store_when_due(&groups)?;
        let rest = [rest, leaving].into_iter().flatten().min();
        Ok(if read { Next::Again } else { Next::Sleep(rest) })
    }

    /// Loads the events that the records of new groups name.
    fn resume(&self, groups: &[Arc<GroupCell>]) -> Result<(), BrokerError> {
        for cell in groups {
            let Some(origin) = cell.lock().origin().cloned() else { continue };
            let record = match (origin, &cell.experiment) {
                (Origin::Stored(record), _) => record,
                (Origin::New, None) => Record::default(),
                (Origin::New, Some(experiment)) => {
                    Record { done_to: page::beginning(&*self.log, experiment)?, ..Record::default() }
                }
            };
            let events = self.noted_events(&record)?;
            self.shared.with(cell, |group| group.resume(record, &events));
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
            _ => {
                Err(LogError::corrupt(LogPart::Event(position), format!("event {position} is missing"))
                    .into())
            }
        }
    }

    /// Reads one page for a group with room; other groups share it if they have read up to its start. Returns
    /// whether a page was read.
    fn read_page(&mut self, groups: &[Arc<GroupCell>]) -> Result<bool, BrokerError> {
        let head = self.log.head();
        let turns = (0..groups.len()).map(|n| (self.next_reader + n) % groups.len());
        let mut wanting = turns.filter_map(|at| Some((at, groups[at].lock().wants_after()?)));
        let Some((at, after)) = wanting.find(|&(_, after)| after < head) else {
            return Ok(false);
        };
        self.next_reader = at + 1;
        let limit = self.shared.options.page_events;
        // Near the head, the groups of all experiments share a page.
        let is_far = head - after > u64::try_from(limit).unwrap_or(u64::MAX);
        let stream = if is_far { groups[at].lock().stream() } else { None };
        let page = match stream {
            Some((experiment, version)) => {
                page::of_stream(&*self.log, experiment, version, after, head, limit)?
            }
            None => page::of_log(&*self.log, after, head, limit)?,
        };
        for cell in groups {
            self.shared.with(cell, |group| group.feed(&page));
        }
        Ok(true)
    }

    fn drain(&mut self, groups: &[Arc<GroupCell>]) -> Result<(), BrokerError> {
        let idle = || groups.iter().all(|cell| cell.lock().is_idle());
        if self.shared.is_closing() && !self.shared.is_drained() && idle() {
            self.store(groups, Group::final_record)?;
            self.log.flush()?;
            self.shared.set_drained(Ok(()));
        }
        Ok(())
    }

    /// Stores the changed records if `record_interval` has passed. Otherwise returns the remaining delay.
    fn store_when_due(&mut self, groups: &[Arc<GroupCell>]) -> Result<Option<Duration>, BrokerError> {
        if !groups.iter().any(|cell| cell.lock().is_dirty()) {
            return Ok(None);
        }
        let since = self.stored_at.map_or(Duration::MAX, |stored_at| stored_at.elapsed());
        match self.shared.options.record_interval.checked_sub(since) {
            Some(rest) if !rest.is_zero() => Ok(Some(rest)),
            _ => self.store(groups, Group::changed_record).map(|()| None),
        }
    }

    fn store(
        &mut self,
        groups: &[Arc<GroupCell>],
        record: impl Fn(&mut Group) -> Option<Record>,
    ) -> Result<(), BrokerError> {
        for cell in groups {
            let record = self.shared.with(cell, &record);
            if let Some(record) = record {
                let bytes = record.encode().map_err(LogError::Invalid)?;
                self.log.store_cursor(&cell.name, bytes)?;
            }
        }
        self.stored_at = Some(Instant::now());
        Ok(())
    }

    fn unpark(&self, request: UnparkRequest) {
        let outcome = self.unparked(&request.group, request.position);
        // The caller may have stopped waiting.
        let _gone = request.done.send(outcome);
    }

    fn unparked(&self, name: &str, position: u64) -> Result<(), BrokerError> {
        let groups = self.shared.groups();
        let Some(cell) = groups.iter().find(|cell| cell.name == name) else {
            let reason = "the group has no subscription".to_owned();
            return Err(BrokerError::NotReplayable { group: name.to_owned(), position, reason });
        };
        cell.lock().check_unpark(position)?;
        let event = self.event_at(position)?;
        self.shared.with(cell, |group| group.unpark(event))
    }
}
