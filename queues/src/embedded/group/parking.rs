//! Parked messages: out of attempts, kept until their parking is acknowledged or they are replayed.

use std::sync::Arc;

use dissent_domain::event::Recorded;
use dissent_domain::id::ExperimentId;

use super::{Group, Lifecycle, ParkedMessage, Phase, Unfinished};
use crate::delivery::Parked;
use crate::embedded::record::{OPEN_MAX, PARKED_MAX};
use crate::error::BrokerError;

impl Group {
    pub(super) fn park_spent(&mut self) {
        let is_spent = |open: &Unfinished| matches!(open.phase, Phase::Spent(_));
        let spent: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| is_spent(open))
            .map(|(&position, _)| position)
            .take(PARKED_MAX.saturating_sub(self.parked.len()))
            .collect();
        for position in spent {
            if let Some(Unfinished { event, failures, phase: Phase::Spent(reason), .. }) =
                self.open.remove(&position)
            {
                self.parked.insert(position, ParkedMessage { event, failures, reason, leased: false });
                self.effects.parked = true;
            }
        }
    }

    /// Delivers a parked message.
    pub(in crate::embedded) fn take_parked(&mut self, experiment: &ExperimentId) -> Option<Parked> {
        if !matches!(self.lifecycle, Lifecycle::Running) {
            return None;
        }
        let wanted =
            |message: &&mut ParkedMessage| !message.leased && message.event.experiment == *experiment;
        let message = self.parked.values_mut().find(wanted)?;
        message.leased = true;
        Some(Parked {
            event: Recorded::clone(&message.event),
            group: self.name.clone(),
            attempts: message.failures,
            reason: message.reason.clone(),
        })
    }

    /// Settles a parked message.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] after the group left.
    pub(in crate::embedded) fn settle_parked(
        &mut self,
        position: u64,
        done: bool,
    ) -> Result<(), BrokerError> {
        if matches!(self.lifecycle, Lifecycle::Left) {
            return Err(BrokerError::Closed);
        }
        if done {
            self.parked.remove(&position);
            self.park_spent();
        } else if let Some(message) = self.parked.get_mut(&position) {
            message.leased = false;
            self.effects.parked = true;
        }
        self.note_end();
        self.touch();
        self.wake_members();
        Ok(())
    }

    /// Checks whether the event at `position` can be redelivered.
    pub(in crate::embedded) fn check_unpark(&self, position: u64) -> Result<(), BrokerError> {
        let refused = |reason: &str| Err(self.not_replayable(position, reason));
        match &self.lifecycle {
            Lifecycle::Running => {}
            Lifecycle::Closed | Lifecycle::Left => return Err(BrokerError::Closed),
            Lifecycle::Failed(error) => return Err(error.clone()),
        }
        if position == 0 || position > self.done_to() || self.open.contains_key(&position) {
            return refused("the message is unfinished; wait until it is done or parked");
        }
        if self.parked.get(&position).is_some_and(|message| message.leased) {
            return refused("the parking is being recorded; try again");
        }
        if self.open.len() >= OPEN_MAX {
            return refused("the group has too many unfinished messages; try again later");
        }
        Ok(())
    }

    fn not_replayable(&self, position: u64, reason: &str) -> BrokerError {
        BrokerError::NotReplayable { group: self.name.clone(), position, reason: reason.to_owned() }
    }

    /// Makes a done message unfinished again, with all its attempts.
    pub(in crate::embedded) fn unpark(&mut self, event: Arc<Recorded>) -> Result<(), BrokerError> {
        let position = event.position;
        self.check_unpark(position)?;
        if !self.rules.want(&event) {
            let reason =
                format!("the group has no subscription to the event type {}", event.event.event_type);
            return Err(self.not_replayable(position, &reason));
        }
        self.parked.remove(&position);
        self.park_spent();
        let again = Unfinished { event, failures: 0, redelivered: true, phase: Phase::Ready };
        self.open.insert(position, again);
        self.touch();
        self.wake_members();
        Ok(())
    }
}
