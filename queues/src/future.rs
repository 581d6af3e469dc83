//! The boxed future that the traits of this crate return.

use std::future::Future;
use std::pin::Pin;

/// A boxed future, so that brokers can be trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
