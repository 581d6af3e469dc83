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
    /// RabbitMQ stops gracefully and starts again.
    RestartBroker,
    /// RabbitMQ is killed with -9 and starts again.
    KillBroker,
    /// All connections to RabbitMQ are closed.
    CloseConnections,
    /// RabbitMQ accepts no messages for a second.
    MemoryAlarm,
    /// Events are published to their groups again, and recorded events proposed again.
    Duplicates,
    /// Events are published again in another order and to wrong groups.
    Reordered,
    /// Damaged messages, random bytes, and proposals against the rules.
    Corrupted,
    /// The disk of the log is full until the server has stopped.
    FullDisk,
    /// The clock of a process jumps by an hour or a day, forwards or back.
    ClockJump,
}

/// A pack of faults, in which short ones occur more often.
const PACK: [Fault; 21] = [
    Fault::KillServer,
    Fault::KillServer,
    Fault::KillServer,
    Fault::KillWorker,
    Fault::KillWorker,
    Fault::KillWorker,
    Fault::TerminateWorker,
    Fault::StopWorker,
    Fault::RestartBroker,
    Fault::KillBroker,
    Fault::CloseConnections,
    Fault::CloseConnections,
    Fault::MemoryAlarm,
    Fault::Duplicates,
    Fault::Duplicates,
    Fault::Reordered,
    Fault::Reordered,
    Fault::Corrupted,
    Fault::Corrupted,
    Fault::FullDisk,
    Fault::ClockJump,
];

/// Number of faults in a round.
pub(crate) const PER_ROUND: usize = 7;

/// The faults of a round, which depend on its seed alone. Three consecutive seeds, the first a multiple of
/// three, share a whole pack.
pub(crate) fn of_round(seed: u64) -> Vec<Fault> {
    let rounds = u64::try_from(PACK.len() / PER_ROUND).unwrap();
    let mut pack = PACK;
    Random::new(seed / rounds).shuffle(&mut pack);
    let first = usize::try_from(seed % rounds).unwrap() * PER_ROUND;
    pack[first..first + PER_ROUND].to_vec()
}
