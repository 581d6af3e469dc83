//! A small event log in memory, whose disk survives crashes of its sessions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use dissent_domain::event::{EventId, EventType, NewEvent, Recorded};
use dissent_domain::id::ExperimentId;
use dissent_domain::log::{AdvanceListener, Append, AppendFuture, EventLog, ExpectedVersion, LogError};
use tokio::sync::oneshot;

/// When appended events become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// At once.
    Immediate,
    /// At the next [`MemoryLog::commit`] or flush.
    Manual,
}

/// The state that survives a crash.
#[derive(Default)]
struct Disk {
    events: Vec<Recorded>,
    cursors: HashMap<String, Vec<u8>>,
}

/// The state that a crash loses.
#[derive(Default)]
struct Memory {
    alive: bool,
    pending: Vec<Recorded>,
    waiting: Vec<(Vec<Recorded>, oneshot::Sender<Vec<Recorded>>)>,
    cursors: HashMap<String, Vec<u8>>,
    flushes: u64,
}

/// A session on the disk.
pub(crate) struct MemoryLog {
    durability: Durability,
    disk: Arc<Mutex<Disk>>,
    memory: Mutex<Memory>,
    listeners: Mutex<Vec<AdvanceListener>>,
    /// Called at the end of each flush.
    at_flush: Mutex<Option<Box<dyn Fn() + Send>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl MemoryLog {
    /// Returns a log on an empty disk.
    pub(crate) fn new(durability: Durability) -> Arc<Self> {
        Self::on(Arc::default(), durability)
    }

    fn on(disk: Arc<Mutex<Disk>>, durability: Durability) -> Arc<Self> {
        let memory = Mutex::new(Memory { alive: true, ..Memory::default() });
        Arc::new(Self { durability, disk, memory, listeners: Mutex::default(), at_flush: Mutex::default() })
    }

    /// Ends this session, loses all state that is not durable, and starts another session.
    pub(crate) fn crash(&self) -> Arc<Self> {
        *lock(&self.memory) = Memory::default();
        Self::on(Arc::clone(&self.disk), self.durability)
    }

    /// Makes all appended events durable.
    pub(crate) fn commit(&self) {
        let mut memory = lock(&self.memory);
        let mut disk = lock(&self.disk);
        disk.events.append(&mut memory.pending);
        disk.cursors.extend(memory.cursors.drain());
        let head = disk.events.last().map_or(0, |event| event.position);
        let waiting = std::mem::take(&mut memory.waiting);
        drop((memory, disk));
        for (events, done) in waiting {
            let _gone = done.send(events);
        }
        lock(&self.listeners).iter().for_each(|listener| listener(head));
    }

    /// Calls `act` at the end of each flush.
    #[allow(dead_code, reason = "only the unit tests of the embedded broker use it")]
    pub(crate) fn at_flush(&self, act: impl Fn() + Send + 'static) {
        *lock(&self.at_flush) = Some(Box::new(act));
    }

    /// Returns the number of flushes.
    pub(crate) fn flushes(&self) -> u64 {
        lock(&self.memory).flushes
    }

    /// Appends `count` events of a type without waiting for their durability; returns their positions.
    pub(crate) fn put(&self, kind: EventType, count: usize) -> Vec<u64> {
        let experiment = ExperimentId::new("contract").unwrap();
        let mut memory = lock(&self.memory);
        let first = lock(&self.disk).events.len() + memory.pending.len() + 1;
        for position in (1u64..).skip(first - 1).take(count) {
            let event = new_event(kind, position);
            let experiment = experiment.clone();
            memory.pending.push(Recorded { position, experiment, version: position, event });
        }
        drop(memory);
        if self.durability == Durability::Immediate {
            self.commit();
        }
        (1u64..).skip(first - 1).take(count).collect()
    }

    fn check_alive(&self) -> Result<(), LogError> {
        if lock(&self.memory).alive { Ok(()) } else { Err(LogError::Closed) }
    }
}

/// Returns an event with an empty body, which cannot be decoded.
pub(crate) fn new_event(kind: EventType, number: u64) -> NewEvent {
    let root = EventId::of_experiment(&ExperimentId::new("contract").unwrap());
    NewEvent {
        id: root.caused(kind.name(), u32::try_from(number).unwrap()),
        causation: None,
        actor: "test".to_owned(),
        time_us: number,
        event_type: kind.name().to_owned(),
        schema_version: kind.version(),
        body: vec![0xc1; 16],
    }
}

impl EventLog for MemoryLog {
    fn append(&self, append: Append) -> AppendFuture {
        let (done, outcome) = oneshot::channel();
        {
            let mut memory = lock(&self.memory);
            let disk = lock(&self.disk);
            let last = (disk.events.len() + memory.pending.len()) as u64;
            let mut position = last;
            let all = || disk.events.iter().chain(&memory.pending);
            let mut version = all().filter(|event| event.experiment == append.experiment).count() as u64;
            let expected = match append.expected {
                ExpectedVersion::Any => version,
                ExpectedVersion::NoStream => 0,
                ExpectedVersion::Exact(expected) => expected,
            };
            if !memory.alive || expected != version {
                return Box::pin(std::future::ready(Err(LogError::Closed)));
            }
            let mut events = Vec::new();
            for event in append.events {
                if let Some(known) = all().find(|known| known.event.id == event.id) {
                    events.push(known.clone());
                    continue;
                }
                (position, version) = (position + 1, version + 1);
                events.push(Recorded { position, experiment: append.experiment.clone(), version, event });
            }
            let new: Vec<_> = events.iter().filter(|event| event.position > last).cloned().collect();
            drop(disk);
            memory.pending.extend(new);
            memory.waiting.push((events, done));
        }
        if self.durability == Durability::Immediate {
            self.commit();
        }
        Box::pin(async move { outcome.await.map_err(|_| LogError::Closed) })
    }

    fn read(&self, after: u64, limit: usize) -> Result<Vec<Recorded>, LogError> {
        self.check_alive()?;
        let after = usize::try_from(after).unwrap();
        Ok(lock(&self.disk).events.iter().skip(after).take(limit).cloned().collect())
    }

    fn read_stream(&self, name: &ExperimentId, after: u64, limit: usize) -> Result<Vec<Recorded>, LogError> {
        self.check_alive()?;
        let disk = lock(&self.disk);
        let stream = disk.events.iter().filter(|event| event.experiment == *name && event.version > after);
        Ok(stream.take(limit).cloned().collect())
    }

    fn find(&self, id: EventId) -> Result<Option<Recorded>, LogError> {
        self.check_alive()?;
        Ok(lock(&self.disk).events.iter().find(|event| event.event.id == id).cloned())
    }

    fn streams(&self) -> Result<Vec<(ExperimentId, u64)>, LogError> {
        let mut streams: Vec<(ExperimentId, u64)> = Vec::new();
        for event in &lock(&self.disk).events {
            match streams.iter_mut().find(|(name, _)| *name == event.experiment) {
                Some((_, version)) => *version = event.version,
                None => streams.push((event.experiment.clone(), event.version)),
            }
        }
        Ok(streams)
    }

    fn head(&self) -> u64 {
        lock(&self.disk).events.last().map_or(0, |event| event.position)
    }

    fn on_advance(&self, listener: AdvanceListener) {
        lock(&self.listeners).push(listener);
    }

    fn store_cursor(&self, group: &str, record: Vec<u8>) -> Result<(), LogError> {
        self.check_alive()?;
        assert!(record.len() <= 8 * 1024, "a record of {} bytes", record.len());
        lock(&self.memory).cursors.insert(group.to_owned(), record);
        Ok(())
    }

    fn load_cursor(&self, group: &str) -> Result<Option<Vec<u8>>, LogError> {
        self.check_alive()?;
        Ok(lock(&self.disk).cursors.get(group).cloned())
    }

    fn flush(&self) -> Result<(), LogError> {
        self.check_alive()?;
        self.commit();
        lock(&self.memory).flushes += 1;
        if let Some(act) = &*lock(&self.at_flush) {
            act();
        }
        Ok(())
    }
}
