//! Access to the data folder: who may open its event log, and what a command does while another process has
//! it open.

pub(crate) mod backups;
pub(crate) mod copies;
pub(crate) mod inbox;
pub(crate) mod open;
