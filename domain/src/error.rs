//! Errors with their causes.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

/// A shared error of the system or of a library, behind an error that can be cloned. Two are equal if they
/// read the same.
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// Shares an error.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(error.into()))
    }

    /// The kind of the error, if it is one of the system.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.0.downcast_ref().map(io::Error::kind)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.io_kind() == other.io_kind() && self.to_string() == other.to_string()
    }
}

impl Eq for Cause {}

/// An error and its causes, as one sentence.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{LogError, LogPart};

    fn full() -> io::Error {
        io::Error::new(io::ErrorKind::StorageFull, "no space left")
    }

    #[test]
    fn a_shared_cause_keeps_its_kind_and_stays_in_the_chain() {
        let error = LogError::io("failed to back up to /b", full());
        assert_eq!(chain(&error), "the event log cannot be used: failed to back up to /b: no space left");
        let LogError::Io { source: Some(cause), .. } = &error else { panic!("{error:?}") };
        assert_eq!(cause.io_kind(), Some(io::ErrorKind::StorageFull));
        assert_eq!(error.clone(), error);
        assert_ne!(error, LogError::io("failed to back up to /b", io::ErrorKind::NotFound.into()));
    }

    #[test]
    fn causes_of_causes_are_kept() {
        let inner = LogError::corrupt_because(LogPart::TailFile, "the tail file cannot be read", full());
        let outer = Cause::new(inner.clone());
        assert_eq!(chain(&outer), chain(&inner));
        assert!(chain(&outer).ends_with("the tail file cannot be read: no space left"));
        assert_eq!(outer.io_kind(), None);
    }
}
