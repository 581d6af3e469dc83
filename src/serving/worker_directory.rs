//! How workers find the experiments of their server: from the server over HTTP, or from the shared store.

use std::collections::BTreeSet;

use anyhow::Context as _;
use dissent_domain::id::ExperimentId;
use dissent_storage::SharedStore;
use serde::{Deserialize, Serialize};

use crate::error::BadInput;

/// Folder of the entries in the shared store.
const FOLDER: &str = "servers";
/// Largest entry, in bytes.
const ENTRY_BYTES_MAX: u64 = 1 << 20;

/// A server as workers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerEntry {
    /// The prefix of the names of its queues.
    pub(crate) prefix: String,
    /// The host and the process of the server, for people.
    pub(crate) host: String,
    pub(crate) process: u32,
    /// The version of the program.
    pub(crate) version: String,
    /// The experiments whose steps run or wait for workers.
    pub(crate) experiments: BTreeSet<ExperimentId>,
}

impl ServerEntry {
    /// An entry of this process without experiments.
    pub(super) fn of_this_process(prefix: String) -> Self {
        Self {
            prefix,
            host: host_name(),
            process: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            experiments: BTreeSet::new(),
        }
    }

    /// Writes the entry into the shared store, in place of an earlier one.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn publish(&self, shared: &SharedStore) -> anyhow::Result<()> {
        Ok(shared.put(&name(&self.prefix), serde_json::to_vec_pretty(self)?)?)
    }
}

/// The name of the host, for people.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn name(prefix: &str) -> String {
    format!("{FOLDER}/{prefix}.json")
}

/// Returns the entry of the server with this prefix, or of the only server in the store; `None` if there is
/// none yet.
///
/// # Errors
/// If the store fails, an entry is damaged, or several servers use the store.
pub(super) fn find(shared: &SharedStore, prefix: Option<&str>) -> anyhow::Result<Option<ServerEntry>> {
    let name = match prefix {
        Some(prefix) => name(prefix),
        None => match shared.list(FOLDER)?.as_slice() {
            [] => return Ok(None),
            [only] => format!("{FOLDER}/{only}"),
            several => {
                let names: Vec<&str> = several.iter().map(|name| name.trim_end_matches(".json")).collect();
                let reason = format!(
                    "the shared store has several servers, {}: choose one with broker.prefix, or name it with --server",
                    names.join(", ")
                );
                return Err(BadInput(reason).into());
            }
        },
    };
    let Some(bytes) = shared.get(&name, ENTRY_BYTES_MAX)? else { return Ok(None) };
    let entry = serde_json::from_slice(&bytes);
    entry.map(Some).with_context(|| format!("{name} of the shared store is damaged: restart the server"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_finds_the_only_server_or_the_named_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = SharedStore::open(&format!("file://{}", folder.path().display())).unwrap();
        assert_eq!(find(&store, None).unwrap(), None);
        let mut one = ServerEntry::of_this_process("one".to_owned());
        one.experiments.insert(ExperimentId::new("e").unwrap());
        one.publish(&store).unwrap();
        assert_eq!(find(&store, None).unwrap().as_ref(), Some(&one));
        let two = ServerEntry::of_this_process("two".to_owned());
        two.publish(&store).unwrap();
        let error = find(&store, None).unwrap_err().to_string();
        assert!(error.contains("one, two") && error.contains("broker.prefix"), "{error}");
        assert_eq!(find(&store, Some("two")).unwrap(), Some(two));
        assert_eq!(find(&store, Some("three")).unwrap(), None);
    }
}
