//! The services: the server, which writes the histories of its experiments, and the workers, which share
//! their steps.

pub(crate) mod accept;
pub(crate) mod api;
mod archive;
pub(crate) mod audit_trail;
mod broker_handle;
pub(crate) mod client_address;
pub(crate) mod clock;
pub(crate) mod control_token;
pub(crate) mod experiments;
pub(crate) mod gate;
mod http;
mod metrics;
mod plan_checked_history;
pub(crate) mod problem;
pub(crate) mod request_id;
pub(crate) mod server;
mod signals;
pub(crate) mod status;
mod systemd;
pub(crate) mod table_cache;
mod webhooks;
pub(crate) mod worker;
pub(crate) mod worker_directory;
