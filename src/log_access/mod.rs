//! Access to the event log of a data folder, also while another process has it open.

pub(crate) mod backups;
pub(crate) mod copies;
pub(crate) mod inbox;
pub(crate) mod open;
