//! Access to the event log of a data folder, also while another process has it open.

pub(crate) mod backups;
pub(crate) mod door;
pub(crate) mod inbox;
mod log_routes;
pub(crate) mod open;
pub(crate) mod ownership;
mod remote_log;
#[cfg(test)]
mod tests;
mod wire;
