//! The server's claim to a prefix: the number of its start, and since when only its log was published.

use dissent_domain::log::{EventLog, LogError, LogPart};

use super::holder;
use super::identity::{Holder, PROTOCOL, ServerIdentity};
use super::link_error::LinkError;
use super::shared::Shared;
use crate::error::BrokerError;

const FORMAT: u8 = 1;

/// The claim of this server.
///
/// The *epoch* is the first start of an unbroken row of starts over this log. If another server held the
/// prefix in between, or if the log is an older copy, a new epoch begins. Then the queues may hold events of
/// another log, and all of them are filled anew.
pub(super) struct Serving {
    identity: ServerIdentity,
    /// The record that this process wrote.
    holder: Option<Holder>,
    name: String,
    recorded: Recorded,
}

/// The record in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Recorded {
    epoch: u64,
    start: u64,
}

impl Serving {
    /// Reads the record from the log.
    pub(super) fn new(
        identity: ServerIdentity,
        log: &dyn EventLog,
        prefix: &str,
    ) -> Result<Self, BrokerError> {
        let name = format!("served{PROTOCOL}.{prefix}");
        let recorded = match log.load_cursor(&name)? {
            None => Recorded::default(),
            Some(bytes) => Recorded::read(&bytes).ok_or_else(|| {
                let reason = format!("invalid record {name:?}: use the version of dissent that wrote it");
                LogError::corrupt(LogPart::Subscription, reason)
            })?,
        };
        Ok(Self { identity, holder: None, name, recorded })
    }

    pub(super) fn epoch(&self) -> u64 {
        self.recorded.epoch
    }

    /// Records this server as the holder on RabbitMQ and in the log. Returns whether the log must be flushed.
    pub(super) async fn take(&mut self, shared: &Shared, log: &dyn EventLog) -> Result<bool, LinkError> {
        let (link, topology) = (&shared.publishing, &shared.topology);
        let own = self.holder.as_ref();
        let taken = holder::take(link, topology, &self.identity, own, self.recorded.start).await?;
        shared.signals.set_start(taken.holder.start);
        let next = self.recorded.after(&taken.holder, taken.previous.as_ref(), own.is_some());
        self.holder = Some(taken.holder);
        if next == self.recorded {
            return Ok(false);
        }
        if next.epoch != self.recorded.epoch && self.recorded.start > 0 {
            tracing::info!(
                start = next.start,
                "the queues of this prefix were used by another server or log"
            );
        }
        self.recorded = next;
        log.store_cursor(&self.name, next.encoded()).map_err(BrokerError::from)?;
        Ok(true)
    }
}

impl Recorded {
    fn after(self, holder: &Holder, previous: Option<&Holder>, is_running: bool) -> Self {
        let is_unbroken = match previous {
            Some(previous) => previous.installation == holder.installation && previous.start == self.start,
            // The record was deleted: while this process runs, its lock excludes others.
            None => is_running,
        };
        let epoch = if is_unbroken && self.epoch > 0 { self.epoch } else { holder.start };
        Self { epoch, start: holder.start }
    }

    fn encoded(self) -> Vec<u8> {
        [&[FORMAT][..], &self.epoch.to_le_bytes(), &self.start.to_le_bytes()].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let [FORMAT, numbers @ ..] = bytes else { return None };
        let (epoch, start) = numbers.split_at_checked(size_of::<u64>())?;
        let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        Some(Self { epoch: number(epoch)?, start: number(start)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(installation: &str, start: u64) -> Holder {
        Holder { installation: installation.to_owned(), start, ..Holder::unknown() }
    }

    #[test]
    fn a_new_epoch_begins_when_another_server_or_log_came_in_between() {
        let first = Recorded::default().after(&holder("a", 1), None, false);
        assert_eq!(first, Recorded { epoch: 1, start: 1 });
        let second = first.after(&holder("a", 2), Some(&holder("a", 1)), false);
        assert_eq!(second, Recorded { epoch: 1, start: 2 }, "a restart");
        let same = second.after(&holder("a", 2), Some(&holder("a", 2)), true);
        assert_eq!(same, second, "a reconnect");
        assert_eq!(second.after(&holder("a", 2), None, true), second, "the record was deleted");
        for (previous, case) in [
            (Some(holder("b", 3)), "another installation"),
            (Some(holder("a", 3)), "a copy of the log"),
            (None, "another RabbitMQ"),
        ] {
            let next = second.after(&holder("a", 4), previous.as_ref(), false);
            assert_eq!(next, Recorded { epoch: 4, start: 4 }, "{case}");
        }
    }

    #[test]
    fn records_read_back_and_damaged_ones_are_refused() {
        let record = Recorded { epoch: 3, start: 9 };
        assert_eq!(Recorded::read(&record.encoded()), Some(record));
        for bytes in [&[][..], &[9], &record.encoded()[..16], &[record.encoded(), vec![0]].concat()] {
            assert_eq!(Recorded::read(bytes), None);
        }
    }
}
