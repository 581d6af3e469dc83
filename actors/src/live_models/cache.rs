//! The loaded models of a process. Experiments that use one model share its session, and idle sessions are
//! let go.
//!
//! A [`ModelHandle`] stands for a session that may be loaded. The session is loaded at its first use, again
//! after an eviction, and let go with its last handle.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use dissent_models::ModelError;
use dissent_models::checkpoint::Checkpoint;

use super::shared::Shared;

/// Limits of the loaded models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Largest sum of the weights of loaded models, in bytes. A model in use is never let go, so the sum may
    /// exceed the limit while steps of several experiments compute.
    pub bytes: u64,
    /// Time without a use after which a model is let go.
    pub idle: Duration,
}

impl Default for CacheLimits {
    /// No limit of memory; half an hour without a use.
    fn default() -> Self {
        Self { bytes: u64::MAX, idle: Duration::from_secs(30 * 60) }
    }
}

/// Counts of a cache of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStatus {
    /// Loaded models.
    pub models: usize,
    /// Sum of their weights, in bytes.
    pub bytes: u64,
    /// Models that were loaded since the start of the process.
    pub loads: u64,
    /// Models that were let go since the start of the process.
    pub evictions: u64,
}

/// The identity of a session: the task, and everything that its numbers depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ModelKey(pub(crate) String);

/// The loaded models of a process. Clones share them.
#[derive(Clone, Default)]
pub struct ModelCache(Arc<Inner>);

#[derive(Default)]
struct Inner {
    limits: CacheLimits,
    models: Mutex<Models>,
    /// Held while a model is loaded, so that no model is loaded twice and two loads do not share the free
    /// memory.
    loading: Mutex<()>,
}

#[derive(Default)]
struct Models {
    entries: HashMap<ModelKey, Entry>,
    /// Handles of each session, loaded or not.
    handles: HashMap<ModelKey, usize>,
    /// Checkpoints that someone uses, by everything that distinguishes them.
    checkpoints: HashMap<ModelKey, Weak<Checkpoint>>,
    loads: u64,
    evictions: u64,
}

struct Entry {
    session: Arc<dyn Any + Send + Sync>,
    bytes: u64,
    used: Instant,
}

impl Entry {
    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.session) > 1
    }
}

impl fmt::Debug for ModelCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelCache").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl ModelCache {
    /// An empty cache.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Self {
        Self(Arc::new(Inner { limits, ..Inner::default() }))
    }

    /// The counts now.
    #[must_use]
    pub fn status(&self) -> CacheStatus {
        let models = self.lock();
        CacheStatus {
            models: models.entries.len(),
            bytes: models.bytes(),
            loads: models.loads,
            evictions: models.evictions,
        }
    }

    /// Lets go of the models that nobody used for the idle time.
    pub fn drop_idle(&self) {
        self.drop_unused(self.0.limits.idle);
    }

    /// Lets go of the models that nobody uses now and that were not used for `idle`.
    pub(crate) fn drop_unused(&self, idle: Duration) {
        let mut models = self.lock();
        let is_idle = |entry: &Entry| !entry.is_in_use() && entry.used.elapsed() >= idle;
        let keys: Vec<ModelKey> =
            models.entries.iter().filter(|(_, entry)| is_idle(entry)).map(|(key, _)| key.clone()).collect();
        let dropped: Vec<Option<Entry>> = keys.iter().map(|key| models.entries.remove(key)).collect();
        models.evictions += dropped.len() as u64;
        // Closing a session takes time: others need not wait for it.
        drop(models);
        if !dropped.is_empty() {
            tracing::info!(models = dropped.len(), "dropping idle models");
        }
    }

    /// Returns an equal checkpoint that is in use already, or this one: a tokenizer takes much memory.
    #[must_use]
    pub fn share(&self, checkpoint: &Checkpoint) -> Arc<Checkpoint> {
        let key = ModelKey(format!(
            "{} {} {} {:?} {:?}",
            checkpoint.source.display(),
            checkpoint.fingerprint,
            checkpoint.weights.packed_count(),
            checkpoint.reading,
            checkpoint.reward_output
        ));
        let mut models = self.lock();
        if let Some(used) = models.checkpoints.get(&key).and_then(Weak::upgrade) {
            return used;
        }
        models.checkpoints.retain(|_, used| used.strong_count() > 0);
        let shared = Arc::new(checkpoint.clone());
        models.checkpoints.insert(key, Arc::downgrade(&shared));
        shared
    }

    /// A handle of a session. `bytes` is the size of its weights.
    pub(crate) fn handle<T: Send + 'static>(
        &self,
        key: ModelKey,
        bytes: u64,
        open: impl Fn() -> Result<T, ModelError> + Send + Sync + 'static,
    ) -> ModelHandle<T> {
        *self.lock().handles.entry(key.clone()).or_default() += 1;
        ModelHandle { cache: self.clone(), key, bytes, open: Box::new(open) }
    }

    fn get<T: Send + 'static>(&self, handle: &ModelHandle<T>) -> Result<Shared<T>, ModelError> {
        let ModelHandle { key, bytes, open, .. } = handle;
        if let Some(loaded) = self.loaded(key) {
            return Ok(loaded);
        }
        let _loading = self.0.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = self.loaded(key) {
            return Ok(loaded);
        }
        self.make_room(*bytes);
        let session: Shared<T> = Arc::new(Mutex::new(open()?));
        let mut models = self.lock();
        models.loads += 1;
        let entry = Entry { session: session.clone(), bytes: *bytes, used: Instant::now() };
        models.entries.insert(key.clone(), entry);
        Ok(session)
    }

    fn drop_handle(&self, key: &ModelKey) {
        let mut models = self.lock();
        let Some(handles) = models.handles.get_mut(key) else { return };
        *handles -= 1;
        if *handles > 0 {
            return;
        }
        models.handles.remove(key);
        let dropped = models.entries.remove(key);
        drop(models);
        drop(dropped);
    }

    fn loaded<T: Send + 'static>(&self, key: &ModelKey) -> Option<Shared<T>> {
        let mut models = self.lock();
        let entry = models.entries.get_mut(key)?;
        entry.used = Instant::now();
        entry.session.clone().downcast::<Mutex<T>>().ok()
    }

    /// Lets go of the least recently used models until a further one fits, or all others are in use.
    fn make_room(&self, bytes: u64) {
        let mut dropped = Vec::new();
        let mut models = self.lock();
        while models.bytes().saturating_add(bytes) > self.0.limits.bytes {
            let unused = models.entries.iter().filter(|(_, entry)| !entry.is_in_use());
            let Some(oldest) = unused.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone()) else {
                break;
            };
            dropped.push(models.entries.remove(&oldest));
            models.evictions += 1;
        }
        drop(models);
        if !dropped.is_empty() {
            tracing::info!(models = dropped.len(), "dropping models to load another one");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Models> {
        self.0.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Models {
    fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes).sum()
    }
}

/// A session that may be loaded. The last handle of a session lets go of it.
pub(crate) struct ModelHandle<T: Send + 'static> {
    cache: ModelCache,
    key: ModelKey,
    bytes: u64,
    open: Box<dyn Fn() -> Result<T, ModelError> + Send + Sync>,
}

impl<T: Send + 'static> ModelHandle<T> {
    /// Returns the session, and loads it if it is not loaded.
    ///
    /// # Errors
    /// If the session cannot be opened.
    pub(crate) fn session(&self) -> Result<Shared<T>, ModelError> {
        self.cache.get(self)
    }
}

impl<T: Send + 'static> Drop for ModelHandle<T> {
    fn drop(&mut self) {
        self.cache.drop_handle(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Sessions that count how often they are opened.
    #[derive(Clone, Default)]
    struct Sessions(Arc<AtomicUsize>);

    impl Sessions {
        fn handle(&self, cache: &ModelCache, name: &str, bytes: u64) -> ModelHandle<usize> {
            let opened = self.0.clone();
            cache.handle(ModelKey(name.to_owned()), bytes, move || Ok(opened.fetch_add(1, Ordering::SeqCst)))
        }

        fn opened(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn a_model_is_loaded_once_for_all_its_handles_and_let_go_with_the_last() {
        let (cache, sessions) = (ModelCache::default(), Sessions::default());
        let [first, second] = [(); 2].map(|()| sessions.handle(&cache, "a", 6));
        assert_eq!((cache.status().models, sessions.opened()), (0, 0), "not before its first use");
        assert!(Arc::ptr_eq(&first.session().unwrap(), &second.session().unwrap()));
        assert_eq!(sessions.opened(), 1);
        drop(first);
        assert_eq!(cache.status(), CacheStatus { models: 1, bytes: 6, loads: 1, evictions: 0 });
        drop(second);
        assert_eq!(cache.status().models, 0);
    }

    #[test]
    fn the_least_recently_used_model_makes_room_and_one_in_use_does_not() {
        let cache = ModelCache::new(CacheLimits { bytes: 10, ..CacheLimits::default() });
        let sessions = Sessions::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| sessions.handle(&cache, name, 6));
        let in_use = a.session().unwrap();
        b.session().unwrap();
        assert_eq!(cache.status().bytes, 12, "a model in use stays although the limit is exceeded");
        drop(in_use);
        c.session().unwrap();
        let status = cache.status();
        assert_eq!((status.models, status.evictions), (1, 2));
        a.session().unwrap();
        assert_eq!(sessions.opened(), 4, "it is loaded again");
    }

    #[test]
    fn an_idle_model_is_let_go_and_loaded_again_and_one_in_use_is_not() {
        let (cache, sessions) = (ModelCache::default(), Sessions::default());
        let [held, idle] = ["held", "idle"].map(|name| sessions.handle(&cache, name, 1));
        let in_use = held.session().unwrap();
        idle.session().unwrap();
        cache.drop_idle();
        assert_eq!(cache.status().models, 2, "half an hour has not passed");
        cache.drop_unused(Duration::ZERO);
        assert_eq!(cache.status().models, 1);
        drop(in_use);
        cache.drop_unused(Duration::ZERO);
        assert_eq!(cache.status().models, 0);
        idle.session().unwrap();
        assert_eq!(sessions.opened(), 3);
    }

    #[test]
    fn a_model_that_does_not_open_is_tried_again() {
        let cache = ModelCache::default();
        let fails = Arc::new(AtomicUsize::new(0));
        let tries = fails.clone();
        let open = move || match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Err(ModelError::Cancelled),
            tries => Ok(tries),
        };
        let handle = cache.handle(ModelKey("a".to_owned()), 1, open);
        assert!(handle.session().is_err());
        assert_eq!(*handle.session().unwrap().lock().unwrap(), 1);
    }
}
