//! The tables of the experiments that were read last.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use dissent_domain::id::ExperimentId;

use crate::tables::ExperimentTables;

/// Experiments whose tables are kept in memory.
const KEPT_MAX: usize = 4;
/// The tables that were read last. A later request folds the events that came since.
#[derive(Default)]
pub(crate) struct TableCache(Mutex<VecDeque<(ExperimentId, SharedTables)>>);

/// The tables of an experiment, which several requests read at once.
pub(crate) type SharedTables = Arc<RwLock<ExperimentTables>>;

impl TableCache {
    /// Returns the tables of an experiment, as of their last use.
    pub(crate) fn of(&self, experiment: &ExperimentId) -> SharedTables {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(name, _)| name == experiment);
        let entry = place.and_then(|place| kept.remove(place));
        let entry = entry.unwrap_or_else(|| (experiment.clone(), Arc::default()));
        let tables = entry.1.clone();
        kept.push_back(entry);
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
        tables
    }
}
