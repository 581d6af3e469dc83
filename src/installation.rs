//! The identity of an installation: a random id in its data folder, by which its queues are named. Two
//! installations on one RabbitMQ thus never meet by default.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::BadInput;
use crate::files;

/// The file in the data folder.
const FILE: &str = "installation";

/// A random id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Installation(u128);

impl Installation {
    /// Returns the id of a data folder, and makes one if it has none.
    ///
    /// # Errors
    /// If the file cannot be read or written, or is damaged.
    pub(crate) fn of(data_dir: &Path) -> anyhow::Result<Self> {
        if let Some(found) = Self::find(data_dir)? {
            return Ok(found);
        }
        let mut bytes = [0; 16];
        getrandom(&mut bytes, GetRandomFlags::empty()).context("failed to get a random number")?;
        let made = Self(u128::from_le_bytes(bytes));
        files::write_in_data_folder(format!("{made}\n"), &path(data_dir))?;
        Ok(made)
    }

    /// Returns the id of a data folder; `None` if no server has run there.
    ///
    /// # Errors
    /// If the file cannot be read, or is damaged.
    pub(crate) fn find(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = path(data_dir);
        let failed = || format!("failed to read {}", path.display());
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(failed)?,
        };
        let id = u128::from_str_radix(text.trim(), 16).with_context(|| {
            BadInput(format!(
                "{}: this is no id of an installation: restore the file from a backup, or delete it to begin with new queues",
                path.display()
            ))
        })?;
        Ok(Some(Self(id)))
    }

    /// Returns the prefix of the names of its queues.
    pub(crate) fn prefix(self) -> String {
        let id = self.to_string();
        format!("dissent-{}", id.get(..12).unwrap_or(&id))
    }
}

impl std::fmt::Display for Installation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_keeps_its_id_and_two_differ() {
        let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        assert_eq!(Installation::find(one.path()).unwrap(), None);
        let id = Installation::of(one.path()).unwrap();
        assert_eq!(Installation::of(one.path()).unwrap(), id);
        assert_ne!(Installation::of(other.path()).unwrap().prefix(), id.prefix());
        assert!(id.prefix().starts_with("dissent-") && id.prefix().len() == 20, "{}", id.prefix());
        std::fs::write(one.path().join(FILE), "x").unwrap();
        let error = format!("{:#}", Installation::find(one.path()).unwrap_err());
        assert!(error.contains("installation"), "{error}");
    }
}
