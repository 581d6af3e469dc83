//! A model that several steps and experiments share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A model that several steps share.
pub(crate) type Shared<T> = Arc<Mutex<T>>;

/// Locks a shared model. A step that panics stops the pipeline, so no other step uses a broken model.
pub(crate) fn lock<T: ?Sized>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
