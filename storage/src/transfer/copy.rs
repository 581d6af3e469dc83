//! Copies of whole streams from one log to another.

use std::collections::VecDeque;

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{Append, AppendFuture, EventLog, ExpectedVersion};

use crate::{StorageError, wait};

/// Events read from a log at once.
pub(super) const READ_EVENTS: usize = 64;
/// Appends that are not yet durable, so that the log can commit many at once.
pub(super) const APPENDS_IN_FLIGHT: usize = 256;

/// Adds the events of the chosen experiments to another log, in log order; new positions are assigned.
/// Events that `to` has stay as they are, so a repeated copy completes an interrupted one. Returns their
/// number.
///
/// # Errors
/// If either log fails.
pub fn copy(
    from: &dyn EventLog,
    to: &dyn EventLog,
    chosen: &dyn Fn(&ExperimentId) -> bool,
) -> Result<u64, StorageError> {
    let mut in_flight: VecDeque<AppendFuture> = VecDeque::new();
    let (mut after, mut copied) = (0, 0);
    loop {
        let page = from.read(after, READ_EVENTS)?;
        let Some(last) = page.last() else { break };
        after = last.position;
        for recorded in page.into_iter().filter(|recorded| chosen(&recorded.experiment)) {
            let (experiment, events) = (recorded.experiment, vec![recorded.event]);
            in_flight.push_back(to.append(Append { experiment, expected: ExpectedVersion::Any, events }));
            copied += 1;
            if in_flight.len() >= APPENDS_IN_FLIGHT {
                in_flight.pop_front().map(wait).transpose()?;
            }
        }
    }
    for append in in_flight {
        wait(append)?;
    }
    to.flush()?;
    Ok(copied)
}

/// Adds the events of one experiment to another log. Events that `to` has stay as they are, so a repeated
/// copy completes an interrupted one. Returns their number.
///
/// # Errors
/// If either log fails.
pub fn copy_stream(
    from: &dyn EventLog,
    to: &dyn EventLog,
    experiment: &ExperimentId,
) -> Result<u64, StorageError> {
    let (mut after, mut copied) = (0, 0);
    loop {
        let page = from.read_stream(experiment, after, READ_EVENTS)?;
        let Some(last) = page.last() else { break };
        after = last.version;
        copied += page.len() as u64;
        let events = page.into_iter().map(|recorded| recorded.event).collect();
        let append = Append { experiment: experiment.clone(), expected: ExpectedVersion::Any, events };
        wait(to.append(append))?;
    }
    to.flush()?;
    Ok(copied)
}

/// Checks that another log has exactly the same events in the chosen streams.
///
/// # Errors
/// If a log cannot be read, or at the first event that differs.
pub fn same(
    from: &dyn EventLog,
    to: &dyn EventLog,
    chosen: &dyn Fn(&ExperimentId) -> bool,
) -> Result<(), StorageError> {
    for (experiment, _) in from.streams()?.into_iter().filter(|(experiment, _)| chosen(experiment)) {
        let mut after = 0;
        loop {
            let here = from.read_stream(&experiment, after, READ_EVENTS)?;
            let there = to.read_stream(&experiment, after, READ_EVENTS)?;
            let differs = here.iter().zip(&there).find(|(here, there)| here.event != there.event);
            let longer = here.get(there.len()).or(there.get(here.len()));
            if let Some(at) = differs.map(|(here, _)| here).or(longer) {
                let &Recorded { position, version, .. } = at;
                return Err(StorageError::Copy { position, experiment, version });
            }
            let Some(last) = here.last() else { break };
            after = last.version;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dissent_domain::event::{EventId, NewEvent, RoundClosed};

    use super::*;
    use crate::MemoryLog;

    fn name(name: &str) -> ExperimentId {
        ExperimentId::new(name).unwrap()
    }

    fn add(log: &MemoryLog, experiment: &str, round: u32) {
        let experiment = name(experiment);
        let id = EventId::of_experiment(&experiment).caused("test", round);
        let event = NewEvent::new(id, None, "test", 7, &RoundClosed { round }.into()).unwrap();
        wait(log.append(Append { experiment, expected: ExpectedVersion::Any, events: vec![event] })).unwrap();
    }

    #[test]
    fn chosen_streams_are_copied_whole_and_once() {
        let (from, to) = (MemoryLog::new(), MemoryLog::new());
        for round in 0..200 {
            add(&from, "a", round);
            add(&from, "b", round);
        }
        let chosen = |experiment: &ExperimentId| *experiment == name("a");
        assert!(same(&from, &to, &chosen).is_err());
        assert_eq!(copy(&from, &to, &chosen).unwrap(), 200);
        assert_eq!(copy(&from, &to, &chosen).unwrap(), 200);
        assert_eq!(to.streams().unwrap(), [(name("a"), 200)]);
        same(&from, &to, &chosen).unwrap();
        add(&to, "a", 200);
        let error = same(&from, &to, &chosen).unwrap_err();
        let StorageError::Copy { experiment, version, .. } = &error else { panic!("{error:?}") };
        assert_eq!((experiment, *version), (&name("a"), 201));
    }
}
