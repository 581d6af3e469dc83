//! The faults and their sequence.

use crate::support::random::Random;

/// A fault of the campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// kill -9 of the server.
    KillServer,
    /// kill -9 of a worker.
    KillWorker,
    /// SIGTERM to a worker.
    TerminateWorker,
    /// SIGSTOP of a worker until its lease has expired.
    StopWorker,
    /// SIGHUP to the server and to a worker.
    HangUp,
    /// RabbitMQ stops gracefully and starts again.
    RestartBroker,
    /// RabbitMQ is killed with -9 and starts again.
    KillBroker,
    /// All connections to RabbitMQ are closed.
    CloseConnections,
    /// RabbitMQ accepts no messages for a second.
    MemoryAlarm,
    /// A process gets SIGTERM while RabbitMQ accepts no messages.
    AlarmDuringStop,
    /// The user of RabbitMQ has no permission for some seconds.
    PermissionWithdrawn,
    /// A queue of an experiment, or the exchange of events, is deleted.
    QueueDeleted,
    /// Events are published to their groups again, and recorded events proposed again.
    Duplicates,
    /// Events are published again in another order and to wrong groups.
    Reordered,
    /// Damaged messages, random bytes, and proposals against the rules.
    Corrupted,
    /// Proposals of a newer protocol, and a worker of a server of a newer protocol.
    OtherVersionWorker,
    /// A second server starts on a copy of the data folder.
    SecondServer,
    /// Clients that send half a request, or many and read no answer, until the end of the round.
    StuckClient,
    /// The disk of the log is full until the server has stopped.
    FullDisk,
    /// The disk is full when a stopping server writes its snapshots.
    FullDiskAtSnapshot,
    /// The disk becomes full during a backup.
    FullDiskAtBackup,
    /// The clock of a process jumps by an hour or a day, forwards or back.
    ClockJump,
}

/// A pack of faults, in which short ones occur more often.
const PACK: [Fault; 36] = [
    Fault::KillServer,
    Fault::KillServer,
    Fault::KillServer,
    Fault::KillWorker,
    Fault::KillWorker,
    Fault::KillWorker,
    Fault::TerminateWorker,
    Fault::StopWorker,
    Fault::HangUp,
    Fault::HangUp,
    Fault::RestartBroker,
    Fault::KillBroker,
    Fault::CloseConnections,
    Fault::CloseConnections,
    Fault::MemoryAlarm,
    Fault::AlarmDuringStop,
    Fault::PermissionWithdrawn,
    Fault::QueueDeleted,
    Fault::QueueDeleted,
    Fault::QueueDeleted,
    Fault::QueueDeleted,
    Fault::Duplicates,
    Fault::Duplicates,
    Fault::Reordered,
    Fault::Reordered,
    Fault::Corrupted,
    Fault::Corrupted,
    Fault::OtherVersionWorker,
    Fault::SecondServer,
    Fault::StuckClient,
    Fault::StuckClient,
    Fault::FullDisk,
    Fault::FullDiskAtSnapshot,
    Fault::FullDiskAtBackup,
    Fault::FullDiskAtBackup,
    Fault::ClockJump,
];

/// Number of faults in a round.
pub(crate) const PER_ROUND: usize = 12;
/// Number of rounds that share a pack.
pub(crate) const ROUNDS: u64 = (PACK.len() / PER_ROUND) as u64;

impl Fault {
    /// Whether the fault fills a disk.
    pub(crate) fn needs_disks(self) -> bool {
        matches!(self, Self::FullDisk | Self::FullDiskAtSnapshot | Self::FullDiskAtBackup)
    }
}

/// Every kind of fault, once.
pub(crate) fn all() -> Vec<Fault> {
    let mut kinds = PACK.to_vec();
    kinds.dedup();
    kinds
}

/// The faults of a round, which depend on its seed alone. Three consecutive seeds, the first a multiple of
/// three, share a whole pack.
pub(crate) fn of_round(seed: u64) -> Vec<Fault> {
    let mut pack = PACK;
    Random::new(seed / ROUNDS).shuffle(&mut pack);
    let first = usize::try_from(seed % ROUNDS).unwrap() * PER_ROUND;
    pack[first..first + PER_ROUND].to_vec()
}
