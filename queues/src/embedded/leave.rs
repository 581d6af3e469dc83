//! Ending the groups of one experiment, while those of others continue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dissent_domain::id::ExperimentId;
use dissent_domain::log::{EventLog, LogError};
use tokio::sync::oneshot;

use super::group::Group;
use super::leave_request::LeaveRequest;
use super::shared::{GroupCell, Shared};
use crate::error::BrokerError;
use crate::lock::lock;

impl Shared {
    /// Closes the groups of an experiment. The I/O thread ends them once their deliveries are settled.
    pub(super) fn request_leave(
        &self,
        experiment: &ExperimentId,
    ) -> oneshot::Receiver<Result<(), BrokerError>> {
        let (done, left) = oneshot::channel();
        let deadline = Instant::now() + self.options.leave_timeout;
        {
            // A concurrent subscription either precedes this request, or fails.
            let _groups = lock(&self.groups);
            let experiment = experiment.clone();
            lock(&self.leave_requests).push(LeaveRequest { experiment, deadline, done });
        }
        for cell in self.groups_of(experiment) {
            self.with(&cell, Group::close);
        }
        for (_, left) in lock(&self.leave_watches).iter().filter(|(of, _)| of == experiment) {
            if let Some(left) = left.upgrade() {
                left.store(true, Ordering::Release);
            }
        }
        if self.is_stopping() {
            // The I/O thread may not poll again. The caller of a dropped request receives `Closed`.
            self.take_leave_requests();
        }
        self.wake_parked();
        self.wake_io_thread();
        left
    }

    pub(super) fn is_leaving(&self, experiment: &ExperimentId) -> bool {
        lock(&self.leave_requests).iter().any(|request| request.experiment == *experiment)
    }

    /// Fails while the experiment is leaving.
    pub(super) fn check_staying(&self, experiment: &ExperimentId) -> Result<(), BrokerError> {
        match self.is_leaving(experiment) {
            true => Err(BrokerError::Leaving { experiment: experiment.clone() }),
            false => Ok(()),
        }
    }

    pub(super) fn take_leave_requests(&self) -> Vec<LeaveRequest> {
        std::mem::take(&mut *lock(&self.leave_requests))
    }

    /// Returns a flag that is set when the experiment leaves.
    pub(super) fn watch_leave(&self, experiment: &ExperimentId) -> Arc<AtomicBool> {
        let left = Arc::new(AtomicBool::new(false));
        let mut watches = lock(&self.leave_watches);
        watches.retain(|(_, left)| left.strong_count() > 0);
        watches.push((experiment.clone(), Arc::downgrade(&left)));
        left
    }

    fn groups_of(&self, experiment: &ExperimentId) -> Vec<Arc<GroupCell>> {
        let mut groups = self.groups();
        groups.retain(|cell| cell.experiment.as_ref() == Some(experiment));
        groups
    }

    /// Ends the groups of every leaving experiment whose deliveries are settled, or whose time is over.
    /// Returns the time until the next deadline.
    pub(super) fn end_leaving(&self, log: &dyn EventLog) -> Result<Option<Duration>, BrokerError> {
        let mut soonest: Option<Duration> = None;
        let waiting: Vec<(ExperimentId, Instant)> = lock(&self.leave_requests)
            .iter()
            .map(|request| (request.experiment.clone(), request.deadline))
            .collect();
        for (experiment, deadline) in waiting {
            let cells = self.groups_of(&experiment);
            let rest = deadline.saturating_duration_since(Instant::now());
            if !rest.is_zero() && cells.iter().any(|cell| !cell.lock().is_idle()) {
                soonest = Some(soonest.map_or(rest, |soonest| soonest.min(rest)));
                continue;
            }
            self.end_groups(log, &cells)?;
            let mut groups = lock(&self.groups);
            groups.retain(|cell| !cells.iter().any(|ended| Arc::ptr_eq(ended, cell)));
            let (ended, others) = self
                .take_leave_requests()
                .into_iter()
                .partition::<Vec<_>, _>(|request| request.experiment == experiment);
            *lock(&self.leave_requests) = others;
            drop(groups);
            for request in ended {
                // The caller may have stopped waiting.
                let _gone = request.done.send(Ok(()));
            }
        }
        Ok(soonest)
    }

    fn end_groups(&self, log: &dyn EventLog, cells: &[Arc<GroupCell>]) -> Result<(), BrokerError> {
        for cell in cells {
            if let Some(record) = self.with(cell, Group::end) {
                log.store_cursor(&cell.name, record.encode().map_err(LogError::Invalid)?)?;
            }
        }
        if !cells.is_empty() {
            // An earlier record may not be durable yet.
            log.flush()?;
        }
        Ok(())
    }
}
