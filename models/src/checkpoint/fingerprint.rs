//! BLAKE3 fingerprints of models, with a cache for the hashes of large files.

use std::fs::{self, File, Metadata};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::cache::fingerprints_dir;
use crate::error::ModelError;

/// Hashes the parts of a model in sequence.
pub(crate) struct Fingerprint {
    hasher: blake3::Hasher,
}

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self { hasher: blake3::Hasher::new() }
    }

    /// Adds a part by its hash. The lengths separate the parts unambiguously.
    pub(crate) fn add(&mut self, role: &str, hash: &str) {
        for text in [role, hash] {
            self.hasher.update(&(text.len() as u64).to_le_bytes());
            self.hasher.update(text.as_bytes());
        }
    }

    /// Adds a part by its bytes.
    pub(crate) fn add_bytes(&mut self, role: &str, bytes: &[u8]) {
        self.add(role, blake3::hash(bytes).to_hex().as_str());
    }

    /// Returns the fingerprint in hex.
    pub(crate) fn finish(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

/// The cached hash of a file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct CachedHash {
    path: PathBuf,
    bytes: u64,
    modified_ns: u128,
    inode: u64,
    blake3: String,
}

/// Returns the BLAKE3 hash of a file, in hex.
///
/// The hash is cached by real path, size, modification time and inode, because hashing gigabytes at every
/// start takes seconds. A cache that cannot be read or written costs time, not correctness.
pub(crate) fn of_file(path: &Path, cache_dir: &Path) -> Result<String, ModelError> {
    let wrong = |error: std::io::Error| ModelError::file(path, error);
    let real = path.canonicalize().map_err(wrong)?;
    let file = File::open(&real).map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    let entry_path = entry_path_of(cache_dir, &real);
    if let Some(hash) = look_up(&entry_path, &real, &metadata) {
        return Ok(hash);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file).map_err(wrong)?;
    let hash = hasher.finalize().to_hex().to_string();
    // A file that changes meanwhile is not cached: the entry would hold the hash of a part.
    let after = file.metadata().map_err(wrong)?;
    if let Some(entry) = describe(&real, &after, &hash)
        && describe(&real, &metadata, &hash).as_ref() == Some(&entry)
        && let Err(error) = store(&entry_path, &entry)
    {
        tracing::debug!(path = %entry_path.display(), error = %error, "failed to cache the hash of a file");
    }
    Ok(hash)
}

fn entry_path_of(cache_dir: &Path, real: &Path) -> PathBuf {
    let name = blake3::hash(real.as_os_str().as_encoded_bytes()).to_hex();
    fingerprints_dir(cache_dir).join(format!("{name}.json"))
}

fn describe(path: &Path, metadata: &Metadata, hash: &str) -> Option<CachedHash> {
    let modified_ns = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    Some(CachedHash {
        path: path.to_owned(),
        bytes: metadata.len(),
        modified_ns,
        inode: inode(metadata),
        blake3: hash.to_owned(),
    })
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

fn look_up(entry_path: &Path, path: &Path, metadata: &Metadata) -> Option<String> {
    let entry: CachedHash = serde_json::from_slice(&fs::read(entry_path).ok()?).ok()?;
    let now = describe(path, metadata, &entry.blake3)?;
    (now == entry).then_some(entry.blake3)
}

/// Writes a cache entry under a temporary name and renames it, so that a reader never sees half an entry.
fn store(entry_path: &Path, entry: &CachedHash) -> std::io::Result<()> {
    let folder = entry_path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(entry)?)?;
    file.persist(entry_path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_has_another_hash_and_an_unchanged_one_is_not_read_again() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("weights");
        let cache = folder.path().join("cache");
        fs::write(&path, "one").expect("write");
        let one = of_file(&path, &cache).expect("hash");
        assert_eq!(one, blake3::hash(b"one").to_hex().to_string());

        let entry_path = entry_path_of(&cache, &path.canonicalize().expect("real"));
        let planted = fs::read_to_string(&entry_path).expect("entry_path").replace(&one, "entry");
        fs::write(&entry_path, planted).expect("plant");
        assert_eq!(of_file(&path, &cache).expect("hash"), "entry");

        fs::write(&path, "other").expect("write");
        assert_eq!(of_file(&path, &cache).expect("hash"), blake3::hash(b"other").to_hex().to_string());
    }

    #[test]
    fn an_unwritable_cache_does_no_harm() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("weights");
        fs::write(&path, "one").expect("write");
        assert_eq!(of_file(&path, &path).expect("hash"), blake3::hash(b"one").to_hex().to_string());
    }

    #[test]
    fn parts_are_separated_unambiguously() {
        let of = |parts: &[(&str, &str)]| {
            let mut fingerprint = Fingerprint::new();
            parts.iter().for_each(|(role, hash)| fingerprint.add(role, hash));
            fingerprint.finish()
        };
        assert_ne!(of(&[("ab", "c")]), of(&[("a", "bc")]));
        assert_ne!(of(&[("a", "b"), ("c", "d")]), of(&[("c", "d"), ("a", "b")]));
    }
}
