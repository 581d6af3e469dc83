//! A check of an event against both indices.

use dissent_domain::id::ExperimentId;
use dissent_domain::log::LogError;

use super::ids::Ids;
use super::reader::Reader;
use super::record::EventView;
use super::streams;

/// Returns the positions that the two indices give for an event; both are the event's own if the indices are
/// intact.
pub(super) fn index_entries(
    reader: &Reader,
    ids: &Ids,
    view: &EventView<'_>,
) -> Result<[(&'static str, Option<u64>); 2], LogError> {
    let candidates = ids.positions(&reader.tree, view.id)?;
    let id = candidates.iter().find(|at| **at == view.position).or(candidates.first()).copied();
    let stream = match ExperimentId::new(view.experiment) {
        Ok(experiment) => streams::position(&reader.tree, &experiment, view.version)?,
        Err(_) => None,
    };
    Ok([("id", id), ("stream", stream)])
}
