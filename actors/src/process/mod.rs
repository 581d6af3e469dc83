//! The processes of a deployment: the server with the journal, and workers.

pub(crate) mod ending;
pub(crate) mod experiment;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod host;
pub(crate) mod recompute;
pub(crate) mod resources;
pub(crate) mod roles;
pub(crate) mod server;
pub(crate) mod step_set;
pub(crate) mod worker;
