//! Large files, named by the hash of their content.
//!
//! The name of an artifact is the BLAKE3 hash of its bytes. So it can be stored twice, can be checked at any
//! time, and never changes. A file is written under a temporary name, synced, and renamed: under the
//! artifact's name is either nothing or the whole file.
//!
//! The folder can be the cache of a store that several hosts share. Artifacts are then written to both. A
//! missing artifact is fetched from the store and checked against its name.

mod cache;
mod id;
mod shared;

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dissent_domain::error::chain;
use tempfile::NamedTempFile;

use crate::StorageError;
use crate::modes::shared_file_builder;
use cache::Cache;
pub use id::{ArtifactId, InvalidArtifactName};
pub use shared::SharedStore;

/// A folder of artifacts. Any number of processes may use it at once.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    root: PathBuf,
    shared: Option<Arc<SharedBackend>>,
}

/// The shared store of a folder, for which the folder is a cache.
#[derive(Debug)]
struct SharedBackend {
    store: SharedStore,
    cache: Cache,
}

impl ArtifactStore {
    /// Opens the store in `root`; creates it if it does not exist. Removes temporary files that a killed
    /// process left more than a day ago.
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(StorageError::io("create", &root))?;
        cache::remove_abandoned(&root);
        Ok(Self { root, shared: None })
    }

    /// Uses this folder as an LRU cache of at most `cache_bytes` before a shared store; `None` for no limit.
    ///
    /// Artifacts that the store does not have are never evicted. Files that [`Self::link`] created do not
    /// count towards the limit.
    #[must_use]
    pub fn with_shared_store(self, store: SharedStore, cache_bytes: Option<u64>) -> Self {
        let cache = Cache::new(cache_bytes);
        Self { shared: Some(Arc::new(SharedBackend { store, cache })), ..self }
    }

    /// Returns the shared store, if there is one.
    #[must_use]
    pub fn shared(&self) -> Option<&SharedStore> {
        self.shared.as_ref().map(|shared| &shared.store)
    }

    /// Uploads the folder's artifacts that the shared store does not have: the folder may be older than the
    /// shared store.
    ///
    /// # Errors
    /// If the folder cannot be read or the store fails. A damaged or unreadable artifact is skipped with a
    /// warning; its next use reports the error.
    pub fn share_all(&self) -> Result<(), StorageError> {
        let Some(backend) = &self.shared else { return Ok(()) };
        let cached = cache::cached(&self.root).map_err(StorageError::io("list", &self.root))?;
        for artifact in cached {
            if backend.has(&artifact.id, artifact.bytes)? {
                continue;
            }
            match self.whole_here(&artifact.id) {
                Ok(file) => backend.put(&artifact.id, file, &self.path(&artifact.id))?,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "failed to read artifact; skipping upload")
                }
            }
        }
        backend.evict(&self.root, None);
        Ok(())
    }

    /// Returns the path of an artifact, whether it exists or not.
    #[must_use]
    pub fn path(&self, id: &ArtifactId) -> PathBuf {
        let name = id.to_string();
        // Some file systems are slow with many files in one folder.
        self.root.join(name.get(..2).unwrap_or_default()).join(name)
    }

    /// Stores these bytes; durable on return.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<ArtifactId, StorageError> {
        self.put(bytes, &self.root)
    }

    /// Stores a copy of a file; durable on return. The file is read once, in pieces.
    ///
    /// # Errors
    /// If the file cannot be read or the copy cannot be written.
    pub fn put_file(&self, source: &Path) -> Result<ArtifactId, StorageError> {
        let file = File::open(source).map_err(StorageError::io("open", source))?;
        self.put(file, source)
    }

    fn put(&self, mut source: impl Read, source_path: &Path) -> Result<ArtifactId, StorageError> {
        let mut partial = self.partial()?;
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
        let id = ArtifactId::from(hasher.finalize());
        // Keep an existing intact copy: others may be reading it.
        let file = match self.whole_here(&id) {
            Ok(file) => file,
            Err(_) => self.persist(partial, &id)?,
        };
        if let Some(backend) = &self.shared {
            if !backend.has(&id, hasher.count())? {
                backend.put(&id, file, &self.path(&id))?;
            }
            backend.evict(&self.root, Some(&id));
        }
        Ok(id)
    }

    /// Downloads an artifact from the shared store, if there is one, and opens it. Bytes that do not match
    /// the name are discarded.
    fn fetch(&self, id: &ArtifactId) -> Result<File, StorageError> {
        let Some(backend) = &self.shared else { return Err(StorageError::ArtifactMissing(*id)) };
        let mut partial = self.partial()?;
        let mut hasher = blake3::Hasher::new();
        let path = partial.path().to_owned();
        let mut sink = |piece: &[u8]| {
            hasher.update(piece);
            partial.write_all(piece).map_err(StorageError::io("write", &path))
        };
        let bytes_max = backend.cache.bytes_max();
        let found = backend.store.download(&shared_name(id), bytes_max, shared::PIECE_BYTES, &mut sink)?;
        if found.is_none() {
            return Err(StorageError::ArtifactMissing(*id));
        }
        if ArtifactId::from(hasher.finalize()) != *id {
            let reason = "the shared store holds different bytes under this name".to_owned();
            return Err(StorageError::ArtifactDamaged { id: *id, path: self.path(id), reason });
        }
        let file = self.persist(partial, id)?;
        backend.evict(&self.root, Some(id));
        Ok(file)
    }

    /// Links an artifact to a second path, where eviction does not remove it. Replaces an existing file
    /// there, unless it is the artifact.
    ///
    /// # Errors
    /// If there is no such artifact, here or in the shared store, if it is damaged, or if the link cannot be
    /// created.
    pub fn link(&self, id: &ArtifactId, to: &Path) -> Result<(), StorageError> {
        // The artifact may have been evicted since. The link suffices: do not fetch it again.
        if self.is_at(id, to) {
            return Ok(());
        }
        let mut file = self.with_repair(id, |store| store.whole(id, store.open_artifact(id)?))?;
        let folder = to.parent().unwrap_or(Path::new("."));
        let aside = tempfile::tempdir_in(folder).map_err(StorageError::io("create a folder in", folder))?;
        let (path, linked) = (self.path(id), aside.path().join("artifact"));
        // Links do not cross file systems, and another process may have evicted the artifact meanwhile.
        if std::fs::hard_link(&path, &linked).is_err() {
            let copied = File::create(&linked).and_then(|mut copy| io::copy(&mut file, &mut copy));
            copied.map_err(StorageError::io("copy", &path))?;
        }
        std::fs::rename(&linked, to).map_err(StorageError::io("create", to))
    }

    /// Whether the artifact is at this path already. That counts as a use of it.
    fn is_at(&self, id: &ArtifactId, path: &Path) -> bool {
        let file = path.symlink_metadata().is_ok_and(|found| found.is_file()).then(|| File::open(path));
        file.and_then(Result::ok).and_then(|file| self.whole(id, file).ok()).is_some_and(|file| {
            self.used(&file);
            true
        })
    }

    fn partial(&self) -> Result<NamedTempFile, StorageError> {
        shared_file_builder()
            .prefix(cache::PARTIAL)
            .tempfile_in(&self.root)
            .map_err(StorageError::io("create a file in", &self.root))
    }

    /// Moves a temporary file to its name and opens it. It is opened first, because another process may evict
    /// it at any time.
    fn persist(&self, partial: NamedTempFile, id: &ArtifactId) -> Result<File, StorageError> {
        let path = self.path(id);
        let shelf = path.parent().unwrap_or(&self.root);
        let file = partial.reopen().map_err(StorageError::io("open", partial.path()))?;
        partial.as_file().sync_all().map_err(StorageError::io("sync", partial.path()))?;
        std::fs::create_dir_all(shelf).map_err(StorageError::io("create", shelf))?;
        partial.persist(&path).map_err(|error| StorageError::io("create", &path)(error.error))?;
        for dir in [shelf, &self.root] {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(StorageError::io("sync", dir))?;
        }
        Ok(file)
    }

    /// Opens an artifact for reading; fetches it if it is missing here. Does not check its bytes: see
    /// [`Self::verify`].
    ///
    /// # Errors
    /// If there is no such artifact, or its path is not a file.
    pub fn open_artifact(&self, id: &ArtifactId) -> Result<File, StorageError> {
        let file = match self.open_here(id) {
            Err(StorageError::ArtifactMissing(_)) => self.fetch(id)?,
            opened => opened?,
        };
        self.used(&file);
        Ok(file)
    }

    fn used(&self, file: &File) {
        if let Some(backend) = &self.shared {
            backend.cache.used(file);
        }
    }

    fn open_here(&self, id: &ArtifactId) -> Result<File, StorageError> {
        let path = self.path(id);
        // Do not follow links: a link could lead anywhere.
        let found = path.symlink_metadata().map(|metadata| metadata.is_file());
        match found.and_then(|is_file| is_file.then(|| File::open(&path)).transpose()) {
            Ok(Some(file)) => Ok(file),
            Ok(None) => Err(StorageError::ArtifactDamaged {
                id: *id,
                path,
                reason: "the path is not a file".to_owned(),
            }),
            // Or another process has just evicted it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StorageError::ArtifactMissing(*id)),
            Err(error) => Err(StorageError::io("open", &path)(error)),
        }
    }

    /// Whether the folder has the artifact. Does not check its bytes.
    #[must_use]
    pub fn contains(&self, id: &ArtifactId) -> bool {
        self.path(id).symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    }

    /// Whether the folder or the shared store has the artifact. Fetches and checks nothing.
    ///
    /// # Errors
    /// If the shared store cannot be queried.
    pub fn is_kept(&self, id: &ArtifactId) -> Result<bool, StorageError> {
        match &self.shared {
            Some(shared) if !self.contains(id) => Ok(shared.store.size(&shared_name(id))?.is_some()),
            _ => Ok(self.contains(id)),
        }
    }

    /// Reads an artifact into memory and checks it. A damaged artifact is fetched again from the shared
    /// store, if there is one.
    ///
    /// # Errors
    /// If there is no such artifact, it has more than `bytes_max` bytes, or it is damaged.
    pub fn read(&self, id: &ArtifactId, bytes_max: u64) -> Result<Vec<u8>, StorageError> {
        self.with_repair(id, |store| store.read_once(id, bytes_max))
    }

    fn read_once(&self, id: &ArtifactId, bytes_max: u64) -> Result<Vec<u8>, StorageError> {
        let path = self.path(id);
        let mut bytes = Vec::new();
        let file = self.open_artifact(id)?;
        file.take(bytes_max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(StorageError::io("read", &path))?;
        let damaged = |reason| StorageError::ArtifactDamaged { id: *id, path, reason };
        if bytes.len() as u64 > bytes_max {
            return Err(damaged(format!("more than {bytes_max} bytes")));
        }
        if ArtifactId::of(&bytes) == *id {
            Ok(bytes)
        } else {
            Err(damaged("the hash of its bytes is different".to_owned()))
        }
    }

    /// Reads an artifact and checks it against its name. A missing or damaged artifact is fetched from the
    /// shared store, if there is one. Returns its size in bytes.
    ///
    /// # Errors
    /// If there is no such artifact, or it is damaged.
    pub fn verify(&self, id: &ArtifactId) -> Result<u64, StorageError> {
        self.with_repair(id, |store| store.verify_file(id, &store.open_artifact(id)?))
    }

    fn whole_here(&self, id: &ArtifactId) -> Result<File, StorageError> {
        self.whole(id, self.open_here(id)?)
    }

    /// Checks the file against the artifact's name; returns it rewound.
    fn whole(&self, id: &ArtifactId, mut file: File) -> Result<File, StorageError> {
        self.verify_file(id, &file)?;
        file.rewind().map_err(StorageError::io("read", &self.path(id)))?;
        Ok(file)
    }

    fn verify_file(&self, id: &ArtifactId, file: &File) -> Result<u64, StorageError> {
        let path = self.path(id);
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(StorageError::io("read", &path))?;
        if ArtifactId::from(hasher.finalize()) == *id {
            return Ok(hasher.count());
        }
        let reason = "the hash of its bytes is different".to_owned();
        Err(StorageError::ArtifactDamaged { id: *id, path, reason })
    }

    /// Applies `work` to an artifact. If it is damaged here, fetches it again and retries once.
    fn with_repair<T>(
        &self,
        id: &ArtifactId,
        work: impl Fn(&Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        match work(self) {
            Err(StorageError::ArtifactDamaged { .. })
                if self.shared.is_some() && self.whole_here(id).is_err() =>
            {
                tracing::warn!(artifact = %id, "fetching a damaged artifact again");
                drop(self.fetch(id)?);
                work(self)
            }
            done => done,
        }
    }
}

impl SharedBackend {
    /// Whether the store has the artifact with this size. An object of another size is damaged and counts as
    /// missing.
    fn has(&self, id: &ArtifactId, bytes: u64) -> Result<bool, StorageError> {
        Ok(self.store.size(&shared_name(id))? == Some(bytes))
    }

    fn put(&self, id: &ArtifactId, whole: File, path: &Path) -> Result<(), StorageError> {
        self.store.put_file(&shared_name(id), whole, path)
    }

    fn evict(&self, root: &Path, last: Option<&ArtifactId>) {
        self.cache.evict(root, last, |id, bytes| self.has(id, bytes));
    }
}

/// Returns the name of an artifact in a shared store.
fn shared_name(id: &ArtifactId) -> String {
    let name = id.to_string();
    format!("artifacts/{}/{name}", name.get(..2).unwrap_or_default())
}

#[cfg(test)]
mod tests;
