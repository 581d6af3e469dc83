//! A small event log in memory, whose disk survives crashes of its sessions.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// Indices of the events of each experiment.
    streams: BTreeMap<ExperimentId, Vec<usize>>,
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
    events_read: AtomicU64,
    /// Called at the end of each flush.
    at_flush: Mutex<Option<Box<dyn Fn() + Send>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Disk {
    fn add(&mut self, events: Vec<Recorded>) {
        for event in events {
            self.streams.entry(event.experiment.clone()).or_default().push(self.events.len());
            self.events.push(event);
        }
    }

    fn version(&self, experiment: &ExperimentId) -> u64 {
        self.streams.get(experiment).map_or(0, |stream| stream.len() as u64)
    }
}

impl MemoryLog {
    /// Returns a log on an empty disk.
    pub(crate) fn new(durability: Durability) -> Arc<Self> {
        Self::on(Arc::default(), durability)
    }

    fn on(disk: Arc<Mutex<Disk>>, durability: Durability) -> Arc<Self> {
        let memory = Mutex::new(Memory { alive: true, ..Memory::default() });
        let (listeners, events_read, at_flush) = Default::default();
        Arc::new(Self { durability, disk, memory, listeners, events_read, at_flush })
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
        disk.add(std::mem::take(&mut memory.pending));
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

    /// Returns the number of events that were read.
    #[allow(dead_code, reason = "not every test counts them")]
    pub(crate) fn events_read(&self) -> u64 {
        self.events_read.load(Ordering::Relaxed)
    }

    /// Appends `count` events of a type without waiting for their durability; returns their positions.
    pub(crate) fn put(&self, kind: EventType, count: usize) -> Vec<u64> {
        self.put_for(&ExperimentId::new("contract").unwrap(), kind, count)
    }

    /// Appends events as [`put`](Self::put), of an experiment.
    pub(crate) fn put_for(&self, experiment: &ExperimentId, kind: EventType, count: usize) -> Vec<u64> {
        let mut memory = lock(&self.memory);
        let (last, mut version) = {
            let disk = lock(&self.disk);
            let pending = memory.pending.iter().filter(|event| event.experiment == *experiment).count();
            (disk.events.len() + memory.pending.len(), disk.version(experiment) + pending as u64)
        };
        let positions: Vec<u64> = (1u64..).skip(last).take(count).collect();
        for &position in &positions {
            version += 1;
            let (experiment, event) = (experiment.clone(), new_event(kind, position));
            memory.pending.push(Recorded { position, experiment, version, event });
        }
        drop(memory);
        if self.durability == Durability::Immediate {
            self.commit();
        }
        positions
    }

    fn counted(&self, events: Vec<Recorded>) -> Vec<Recorded> {
        self.events_read.fetch_add(events.len() as u64, Ordering::Relaxed);
        events
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
        let events = lock(&self.disk).events.iter().skip(after).take(limit).cloned().collect();
        Ok(self.counted(events))
    }

    fn read_stream(&self, name: &ExperimentId, after: u64, limit: usize) -> Result<Vec<Recorded>, LogError> {
        self.check_alive()?;
        let disk = lock(&self.disk);
        let stream = disk.streams.get(name).map_or(&[][..], Vec::as_slice);
        let after = usize::try_from(after).unwrap();
        let events = stream.iter().skip(after).take(limit).map(|&at| disk.events[at].clone()).collect();
        Ok(self.counted(events))
    }

    fn find(&self, id: EventId) -> Result<Option<Recorded>, LogError> {
        self.check_alive()?;
        Ok(lock(&self.disk).events.iter().find(|event| event.event.id == id).cloned())
    }

    fn streams(&self) -> Result<Vec<(ExperimentId, u64)>, LogError> {
        let disk = lock(&self.disk);
        Ok(disk.streams.iter().map(|(name, stream)| (name.clone(), stream.len() as u64)).collect())
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
