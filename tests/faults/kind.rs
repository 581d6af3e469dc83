//! The faults, and which come when.

use crate::support::random::Random;

/// What happens to an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// kill -9 of the server.
    KillServer,
    /// kill -9 of a worker.
    KillWorker,
    /// SIGTERM to a worker.
    TerminateWorker,
    /// SIGSTOP of a worker until its lease is over.
    StopWorker,
    /// RabbitMQ is stopped in order, and started again.
    RestartBroker,
    /// RabbitMQ is killed with -9, and started again.
    KillBroker,
    /// All connections to RabbitMQ are closed.
    CloseConnections,
    /// RabbitMQ takes no messages for a while.
    MemoryAlarm,
    /// Messages come again: events to their groups, and proposals of what is in the log.
    Duplicates,
    /// Messages come again in another order, and to groups that they are not for.
    Reordered,
    /// Damaged messages and nonsense come, and proposals against the rules.
    Corrupted,
    /// The disk with the log is full; there is space again when the server has stopped.
    FullDisk,
    /// A process's clock jumps by an hour or a day, forwards or back.
    ClockJump,
}

/// What a pack of faults holds: those that pass quickly more often.
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

/// Faults of a round.
pub(crate) const PER_ROUND: usize = 7;

/// The faults of a round, which depend on its seed alone. Three rounds in a row, from a multiple of three on, have a whole pack.
pub(crate) fn of_round(seed: u64) -> Vec<Fault> {
    let rounds = u64::try_from(PACK.len() / PER_ROUND).unwrap();
    let mut pack = PACK;
    Random::new(seed / rounds).shuffle(&mut pack);
    let first = usize::try_from(seed % rounds).unwrap() * PER_ROUND;
    pack[first..first + PER_ROUND].to_vec()
}
