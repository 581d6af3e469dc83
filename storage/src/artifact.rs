//! Large things, kept in files named by what is in them.
//!
//! An artifact's name is the BLAKE3 hash of its bytes, so it can be put twice, checked at any time, and
//! never change. A file is written beside its place, synced, and renamed into it: under its name there is
//! either nothing or all of it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::StorageError;

/// Name of an artifact: the BLAKE3 hash of its bytes, 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactId(blake3::Hash);

impl ArtifactId {
    /// The name that these bytes have.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes))
    }
}

impl FromStr for ArtifactId {
    type Err = StorageError;

    /// Reads a name.
    ///
    /// # Errors
    /// If it is anything but 64 lower-case hexadecimal digits: names become paths.
    fn from_str(name: &str) -> Result<Self, StorageError> {
        let canonical = name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let hash = canonical.then(|| blake3::Hash::from_hex(name).ok()).flatten();
        hash.map(Self).ok_or_else(|| StorageError::ArtifactName(name.chars().take(100).collect()))
    }
}

impl TryFrom<String> for ArtifactId {
    type Error = StorageError;

    fn try_from(name: String) -> Result<Self, StorageError> {
        name.parse()
    }
}

impl From<ArtifactId> for String {
    fn from(id: ArtifactId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

/// A directory of artifacts. Any number of processes may use it at once.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    root: PathBuf,
}

impl ArtifactStore {
    /// Opens the store in `root`, or makes one there.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(StorageError::io("create", &root))?;
        Ok(Self { root })
    }

    /// Where an artifact lies, or would lie.
    #[must_use]
    pub fn path(&self, id: &ArtifactId) -> PathBuf {
        let name = id.to_string();
        // Some file systems are slow with many files in one directory.
        self.root.join(name.get(..2).unwrap_or_default()).join(name)
    }

    /// Keeps these bytes; durable on return.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<ArtifactId, StorageError> {
        self.put(bytes, &self.root)
    }

    /// Keeps a copy of a file; durable on return. The file is read once, in pieces.
    ///
    /// # Errors
    /// If the file cannot be read or the disk refuses.
    pub fn put_file(&self, source: &Path) -> Result<ArtifactId, StorageError> {
        let file = File::open(source).map_err(StorageError::io("open", source))?;
        self.put(file, source)
    }

    fn put(&self, mut source: impl Read, source_path: &Path) -> Result<ArtifactId, StorageError> {
        let mut partial = tempfile::Builder::new()
            .prefix(".partial-")
            .tempfile_in(&self.root)
            .map_err(StorageError::io("create a file in", &self.root))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match source.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(StorageError::io("read", source_path))?,
            };
            let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else { break };
            hasher.update(piece);
            partial.write_all(piece).map_err(StorageError::io("write", partial.path()))?;
        }
        let id = ArtifactId(hasher.finalize());
        // A copy that is there and whole stays: others may be reading it.
        if self.verify(&id).is_err() {
            self.place(partial, &id)?;
        }
        Ok(id)
    }

    fn place(&self, partial: NamedTempFile, id: &ArtifactId) -> Result<(), StorageError> {
        let path = self.path(id);
        let shelf = path.parent().unwrap_or(&self.root);
        partial.as_file().sync_all().map_err(StorageError::io("sync", partial.path()))?;
        std::fs::create_dir_all(shelf).map_err(StorageError::io("create", shelf))?;
        partial.persist(&path).map_err(|error| StorageError::io("create", &path)(error.error))?;
        for dir in [shelf, &self.root] {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(StorageError::io("sync", dir))?;
        }
        Ok(())
    }

    /// Opens an artifact for reading. Its bytes are not checked: see [`Self::verify`].
    ///
    /// # Errors
    /// If there is none of this name, or what lies there is not a file.
    pub fn open_artifact(&self, id: &ArtifactId) -> Result<File, StorageError> {
        let path = self.path(id);
        // Not followed: a link could lead anywhere.
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_file() => File::open(&path).map_err(StorageError::io("open", &path)),
            Ok(_) => {
                Err(StorageError::ArtifactDamaged { id: *id, path, reason: "it is not a file".to_owned() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StorageError::ArtifactMissing(*id)),
            Err(error) => Err(StorageError::io("open", &path)(error)),
        }
    }

    /// Whether an artifact is there, checked or not.
    #[must_use]
    pub fn contains(&self, id: &ArtifactId) -> bool {
        self.path(id).symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    }

    /// Reads an artifact into memory and checks it.
    ///
    /// # Errors
    /// If there is none of this name, it has more than `bytes_max` bytes, or it is damaged.
    pub fn read(&self, id: &ArtifactId, bytes_max: u64) -> Result<Vec<u8>, StorageError> {
        let path = self.path(id);
        let mut bytes = Vec::new();
        let file = self.open_artifact(id)?;
        file.take(bytes_max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(StorageError::io("read", &path))?;
        let damaged = |reason| StorageError::ArtifactDamaged { id: *id, path, reason };
        if bytes.len() as u64 > bytes_max {
            return Err(damaged(format!("it has more than {bytes_max} bytes")));
        }
        if ArtifactId::of(&bytes) == *id {
            Ok(bytes)
        } else {
            Err(damaged("its bytes have another hash".to_owned()))
        }
    }

    /// Reads an artifact and compares it with its name. Returns its size in bytes.
    ///
    /// # Errors
    /// If there is none of this name, or it is damaged.
    pub fn verify(&self, id: &ArtifactId) -> Result<u64, StorageError> {
        let path = self.path(id);
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(self.open_artifact(id)?).map_err(StorageError::io("read", &path))?;
        if hasher.finalize() == id.0 {
            return Ok(hasher.count());
        }
        let reason = "its bytes have another hash".to_owned();
        Err(StorageError::ArtifactDamaged { id: *id, path, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (ArtifactStore, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (ArtifactStore::open(dir.path().join("artifacts")).unwrap(), dir)
    }

    #[test]
    fn what_is_put_comes_back_under_the_name_of_its_content() {
        let (store, dir) = store();
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let id = store.put_bytes(&bytes).unwrap();
        let file = dir.path().join("source");
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(store.put_file(&file).unwrap(), id);
        assert_eq!(id, ArtifactId::of(&bytes));
        assert_eq!(store.read(&id, 200_000).unwrap(), bytes);
        assert_eq!(store.verify(&id).unwrap(), 200_000);
        assert!(store.contains(&id));
        assert!(store.read(&id, 199_999).is_err());
    }

    #[test]
    fn nothing_partial_is_left_behind() {
        let (store, _dir) = store();
        let id = store.put_bytes(b"x").unwrap();
        store.put_bytes(b"x").unwrap();
        assert!(store.put_file(Path::new("/nowhere/at/all")).is_err());
        let names: Vec<_> = std::fs::read_dir(&store.root).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [&id.to_string()[..2]]);
    }

    #[test]
    fn damage_is_found_and_healed_by_putting_again() {
        let (store, _dir) = store();
        let id = store.put_bytes(b"weights").unwrap();
        std::fs::write(store.path(&id), b"weighty").unwrap();
        assert!(matches!(store.verify(&id), Err(StorageError::ArtifactDamaged { .. })));
        assert!(matches!(store.read(&id, 100), Err(StorageError::ArtifactDamaged { .. })));
        assert_eq!(store.put_bytes(b"weights").unwrap(), id);
        assert_eq!(store.read(&id, 100).unwrap(), b"weights");
    }

    #[test]
    fn hostile_names_are_refused() {
        let upper = ArtifactId::of(b"x").to_string().to_uppercase();
        let long = "a".repeat(65);
        let dots = "../".repeat(21) + "a";
        for name in ["", "..", "/etc/passwd", &upper, &long, &dots, &"é".repeat(32), "\0"] {
            assert!(name.parse::<ArtifactId>().is_err(), "{name:?}");
        }
        let id = ArtifactId::of(b"x");
        assert_eq!(id.to_string().parse::<ArtifactId>().unwrap(), id);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_the_place_of_an_artifact_is_not_followed() {
        let (store, dir) = store();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, b"x").unwrap();
        let id = ArtifactId::of(b"x");
        std::fs::create_dir_all(store.path(&id).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&secret, store.path(&id)).unwrap();
        assert!(matches!(store.open_artifact(&id), Err(StorageError::ArtifactDamaged { .. })));
        assert!(!store.contains(&id));
    }

    #[test]
    fn a_missing_artifact_is_said_to_be_missing() {
        let (store, _dir) = store();
        let id = ArtifactId::of(b"never put");
        assert!(
            matches!(store.open_artifact(&id), Err(StorageError::ArtifactMissing(missing)) if missing == id)
        );
    }
}
