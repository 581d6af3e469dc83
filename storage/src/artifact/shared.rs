//! A store that several hosts share: a folder that all of them mount, or a bucket of an S3-compatible
//! service.
//!
//! Its asynchronous client runs on a thread of its own, so that any thread can call it. The store is not
//! trusted: callers check artifacts against their names.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel, sync_channel};

use dissent_domain::error::Cause;
use futures_util::StreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{Error, GetOptions, ObjectStore, ObjectStoreExt as _, PutPayload, WriteMultipart};
use tokio::runtime::Runtime;
use url::Url;

use crate::StorageError;

/// Part size for uploads of larger files. S3 requires at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Maximum number of parts in flight of an upload, and of received pieces waiting to be written.
const PARTS_AT_ONCE: usize = 4;
/// Piece size for downloads; each piece is a request of its own. A request with its retries may take some
/// minutes, and a model takes longer.
pub(super) const PIECE_BYTES: u64 = 64 << 20;

/// A shared store, at a URL.
pub struct SharedStore {
    url: String,
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    /// `None` only during the drop.
    runtime: Option<Runtime>,
}

impl SharedStore {
    /// Opens the store at `file:///folder` or `s3://bucket/prefix`. The environment gives credentials, region
    /// and endpoint of S3 (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`,
    /// `AWS_ALLOW_HTTP`, …).
    ///
    /// # Errors
    /// If the URL is invalid, the folder cannot be created, or this build has no S3.
    pub fn open(url: &str) -> Result<Self, StorageError> {
        let refused = |reason: String| StorageError::SharedUrl { url: without_password(url), reason };
        let parsed = Url::parse(url).map_err(|error| refused(error.to_string()))?;
        if parsed.password().is_some() || !parsed.username().is_empty() {
            return Err(refused("the URL contains credentials: set them in the environment".to_owned()));
        }
        let (store, prefix) = match parsed.scheme() {
            "file" => (folder(&parsed).map_err(refused)?, Key::default()),
            "s3" => bucket(&parsed).map_err(refused)?,
            scheme => {
                return Err(refused(format!(
                    "unknown scheme {scheme}: use file:///folder or s3://bucket/prefix"
                )));
            }
        };
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).thread_name("shared-store").enable_all();
        let runtime = runtime.build().map_err(|error| refused(error.to_string()))?;
        Ok(Self { url: url.to_owned(), store, prefix, runtime: Some(runtime) })
    }

    /// Returns the names of the objects in a folder, in order.
    ///
    /// # Errors
    /// If the store cannot be queried.
    pub fn list(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        let (store, key) = (self.store.clone(), self.key(folder));
        let listed = self.run(async move {
            let mut names = Vec::new();
            let mut objects = store.list(Some(&key));
            while let Some(object) = objects.next().await {
                names.extend(object?.location.filename().map(str::to_owned));
            }
            Ok(names)
        });
        let mut names = listed.map_err(|error| self.failed("list", folder, error))?;
        names.sort();
        Ok(names)
    }

    /// Returns the size of an object in bytes; `None` if it does not exist.
    ///
    /// # Errors
    /// If the store cannot be queried.
    pub fn size(&self, name: &str) -> Result<Option<u64>, StorageError> {
        let (store, key) = (self.store.clone(), self.key(name));
        match self.run(async move { store.head(&key).await }) {
            Ok(found) => Ok(Some(found.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("query", name, error)),
        }
    }

    /// Writes an object, replacing an existing one of its name; durable on return.
    ///
    /// # Errors
    /// If the store fails.
    pub fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        let (store, key) = (self.store.clone(), self.key(name));
        let put = self.run(async move { store.put(&key, PutPayload::from(bytes)).await });
        put.map(drop).map_err(|error| self.failed("put", name, error))
    }

    /// Writes an object from a file, in parts if it is large; durable on return.
    ///
    /// # Errors
    /// If the file, which was opened at `path`, cannot be read, or the store fails.
    pub(super) fn put_file(&self, name: &str, mut file: File, path: &Path) -> Result<(), StorageError> {
        let bytes = file.metadata().map_err(StorageError::io("read the size of", path))?.len();
        if bytes <= PART_BYTES as u64 {
            let mut whole = Vec::new();
            file.read_to_end(&mut whole).map_err(StorageError::io("read", path))?;
            return self.put(name, whole);
        }
        let (store, key) = (self.store.clone(), self.key(name));
        let sent = self.run(async move {
            let upload = store.put_multipart(&key).await?;
            let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
            match send(&mut parts, file).await {
                Ok(()) => parts.finish().await.map(drop),
                Err(error) => {
                    // Parts that were sent would be stored, and cost money, for ever. A failed abort is no
                    // worse.
                    let _ = parts.abort().await;
                    Err(error)
                }
            }
        });
        sent.map_err(|error| self.failed("put", name, error))
    }

    /// Returns the bytes of a small object; `None` if it does not exist.
    ///
    /// # Errors
    /// If the store cannot be read, or the object has more than `bytes_max` bytes.
    pub fn get(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let mut whole = Vec::new();
        // Use one request: the object may be replaced at any time.
        let found = self.receive(name, None, &mut |piece| {
            whole.extend_from_slice(piece);
            if whole.len() as u64 > bytes_max { Err(self.too_large(name, bytes_max)) } else { Ok(()) }
        })?;
        Ok(found.map(|()| whole))
    }

    /// Passes the bytes of an immutable object to `sink`, requesting `piece_bytes` at a time. Returns their
    /// number; `None` if the object does not exist.
    ///
    /// # Errors
    /// If the store cannot be read, the object has more than `bytes_max` bytes, or `sink` fails.
    pub(super) fn download(
        &self,
        name: &str,
        bytes_max: u64,
        piece_bytes: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), StorageError>,
    ) -> Result<Option<u64>, StorageError> {
        let Some(bytes) = self.size(name)? else { return Ok(None) };
        if bytes > bytes_max {
            return Err(self.too_large(name, bytes_max));
        }
        let mut from = 0;
        while from < bytes {
            let to = from.saturating_add(piece_bytes).min(bytes);
            if self.receive(name, Some(from..to), sink)?.is_none() {
                return Ok(None);
            }
            from = to;
        }
        Ok(Some(bytes))
    }

    /// Passes the bytes of one response to `sink`, as they arrive; `None` if the object does not exist.
    fn receive(
        &self,
        name: &str,
        range: Option<Range<u64>>,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), StorageError>,
    ) -> Result<Option<()>, StorageError> {
        for piece in self.requested(name, GetOptions::new().with_range(range)) {
            match piece {
                Err(Error::NotFound { .. }) => return Ok(None),
                piece => sink(&piece.map_err(|error| self.failed("get", name, error))?)?,
            }
        }
        Ok(Some(()))
    }

    fn too_large(&self, name: &str, bytes_max: u64) -> StorageError {
        let (name, url) = (name.to_owned(), self.url.clone());
        StorageError::SharedTooLarge { name, url, bytes_max }
    }

    /// Sends a request; returns the pieces of the response as they arrive, with few of them waiting.
    fn requested(&self, name: &str, options: GetOptions) -> Receiver<Result<Vec<u8>, Error>> {
        let (store, key) = (self.store.clone(), self.key(name));
        let (sender, pieces) = sync_channel(PARTS_AT_ONCE);
        let got = async move {
            let mut stream = match store.get_opts(&key, options).await {
                Ok(found) => found.into_stream(),
                Err(error) => return drop(sender.send(Err(error))),
            };
            while let Some(piece) = stream.next().await {
                // A slow disk blocks this thread. The caller makes no other request meanwhile.
                let sent = tokio::task::block_in_place(|| sender.send(piece.map(|piece| piece.to_vec())));
                if sent.is_err() {
                    return;
                }
            }
        };
        if let Some(runtime) = &self.runtime {
            runtime.spawn(got);
        }
        pieces
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let gone =
            || Error::Generic { store: "shared", source: "the thread of the store has stopped".into() };
        let (done, outcome) = channel();
        self.runtime.as_ref().ok_or_else(gone)?.spawn(async move { done.send(work.await) });
        outcome.recv().map_err(|_| gone())?
    }

    fn key(&self, name: &str) -> Key {
        self.prefix.parts().chain(Key::from(name).parts()).collect()
    }

    fn failed(&self, action: &'static str, name: &str, error: Error) -> StorageError {
        let (name, url) = (name.to_owned(), self.url.clone());
        StorageError::Shared { action, name, url, source: Cause::new(StoreError(error)) }
    }
}

impl Drop for SharedStore {
    /// The drop may happen where blocking is forbidden.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedStore").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Reads a file on the store's own thread, and uploads it in parts.
async fn send(parts: &mut WriteMultipart, mut file: File) -> Result<(), Error> {
    let unreadable = |error: io::Error| Error::Generic { store: "shared", source: error.into() };
    let mut piece = vec![0; PART_BYTES];
    loop {
        parts.wait_for_capacity(PARTS_AT_ONCE).await?;
        let count = tokio::task::block_in_place(|| file.read(&mut piece)).map_err(unreadable)?;
        match piece.get(..count) {
            Some(read) if !read.is_empty() => parts.write(read),
            _ => return Ok(()),
        }
    }
}

fn folder(url: &Url) -> Result<Arc<dyn ObjectStore>, String> {
    let path = url.to_file_path().map_err(|()| "name a folder as file:///folder".to_owned())?;
    std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
    let store = LocalFileSystem::new_with_prefix(&path).map_err(|error| with_causes(&error))?;
    Ok(Arc::new(store.with_fsync(true)))
}

#[cfg(feature = "s3")]
fn bucket(url: &Url) -> Result<(Arc<dyn ObjectStore>, Key), String> {
    // Variables that are not UTF-8 are not settings of S3.
    let text = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let settings = text.filter(|(name, _)| name.starts_with("AWS_"));
    let (store, prefix) = object_store::parse_url_opts(url, settings).map_err(|error| with_causes(&error))?;
    Ok((store.into(), prefix))
}

#[cfg(not(feature = "s3"))]
fn bucket(_: &Url) -> Result<(Arc<dyn ObjectStore>, Key), String> {
    Err("S3 is not in this build: build with `--features s3`".to_owned())
}

fn without_password(url: &str) -> String {
    Url::parse(url).map_or_else(
        |_| "the given address".to_owned(),
        |mut url| {
            // URLs without a host have no password.
            let _ = (url.set_password(None), url.set_username(""));
            url.to_string()
        },
    )
}

/// An error of the store. Its text has all causes, because the texts of the store's errors repeat them.
#[derive(Debug, thiserror::Error)]
#[error("{}", with_causes(.0))]
struct StoreError(Error);

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if !text.contains(&cause.to_string()) {
            text = format!("{text}: {cause}");
        }
        source = cause.source();
    }
    text
}
