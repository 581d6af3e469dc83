//! Lasting refusals of RabbitMQ: a permission, a virtual host or a password is wrong. Waiting does not help,
//! only a person does.

use std::collections::BTreeMap;
use std::sync::Mutex;

use lapin::ErrorKind;

use super::link_error::LinkError;
use super::options::RabbitOptions;
use super::topology::code_of;
use crate::error::BrokerError;
use crate::lock::lock;

/// Maximum number of refusals that are kept.
const REFUSALS_MAX: usize = 64;

/// Returns the reason in the words of RabbitMQ if an error is a lasting refusal.
pub(super) fn reason(error: &LinkError) -> Option<String> {
    let LinkError::Amqp(error) = error else { return None };
    let ErrorKind::ProtocolError(protocol) = error.kind() else { return None };
    // 402 invalid path, 403 access refused, 406 precondition failed, 530 not allowed.
    matches!(protocol.get_id(), 402 | 403 | 406 | 530).then(|| protocol.get_message().to_string())
}

/// Returns the error for a lasting refusal; `None` for any other error.
pub(super) fn error(options: &RabbitOptions, action: &'static str, error: &LinkError) -> Option<BrokerError> {
    let reason = reason(error)?;
    let LinkError::Amqp(error) = error else { return None };
    Some(refused(options, action, reason, code_of(error)))
}

/// Returns the error for a refusal with this reason and code.
pub(super) fn refused(
    options: &RabbitOptions,
    action: &'static str,
    reason: String,
    code: Option<u16>,
) -> BrokerError {
    let RabbitOptions { user, vhost, prefix, .. } = options;
    let way_out = match code {
        Some(403) if reason.contains("Login was refused") || reason.contains("login refused") => {
            format!("check user {user:?} and the password")
        }
        Some(403) => {
            format!(
                "give user {user:?} the permissions configure, write and read for names that begin with {prefix}.2., \
                 and write for amq.default"
            )
        }
        Some(406) => "delete that queue or exchange; it is then declared again".to_owned(),
        _ => format!("create virtual host {vhost:?}, or give user {user:?} access to it"),
    };
    BrokerError::RefusedByBroker { action, address: options.address(), reason, way_out }
}

/// The lasting refusals that the parts of this process meet now.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<String, String>>);

impl Refusals {
    /// Notes the outcome of a part: a lasting refusal is reported once, any other error changes nothing.
    pub(super) fn note(&self, part: &str, error: &LinkError) {
        let Some(reason) = reason(error) else { return };
        let mut refusals = lock(&self.0);
        let is_known = refusals.get(part) == Some(&reason);
        if is_known || (refusals.len() >= REFUSALS_MAX && !refusals.contains_key(part)) {
            return;
        }
        refusals.insert(part.to_owned(), reason.clone());
        drop(refusals);
        tracing::warn!(part, error = %reason, "RabbitMQ refuses an operation; retrying until it is allowed");
    }

    /// Notes that RabbitMQ serves a part again.
    pub(super) fn clear(&self, part: &str) {
        if lock(&self.0).remove(part).is_some() {
            tracing::info!(part, "RabbitMQ allows the operation again");
        }
    }

    /// Returns a refusal that lasts.
    pub(super) fn first(&self) -> Option<String> {
        lock(&self.0).values().next().cloned()
    }
}
