//! A store that several hosts share: a folder that they all mount, or a bucket of an S3-compatible service.
//!
//! The client behind it is asynchronous and lives on a thread of its own, so that every thread can ask, whatever runs on it. What
//! is read here is not trusted: artifacts are compared with their names by whoever asked for them.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel, sync_channel};

use futures_util::StreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{Error, GetOptions, ObjectStore, ObjectStoreExt as _, PutPayload, WriteMultipart};
use tokio::runtime::Runtime;
use url::Url;

use crate::StorageError;

/// Larger files go up in parts of so many bytes; S3 takes none below 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way up at once, and pieces that wait to be written down.
const PARTS_AT_ONCE: usize = 4;
/// Artifacts come in pieces of so many bytes, each asked for anew: a request, with its retries, may take some minutes in all, and
/// a model takes longer.
pub(super) const PIECE_BYTES: u64 = 64 << 20;

/// A shared store, by its address.
pub struct SharedStore {
    url: String,
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl SharedStore {
    /// Opens the store at `file:///folder` or `s3://bucket/prefix`. Credentials, region and endpoint of S3 come from the environment
    /// (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`, `AWS_ALLOW_HTTP`, …).
    ///
    /// # Errors
    /// If it is no such address, a folder cannot be made, or this build has no S3.
    pub fn open(url: &str) -> Result<Self, StorageError> {
        let refused = |reason: String| StorageError::SharedUrl { url: without_password(url), reason };
        let parsed = Url::parse(url).map_err(|error| refused(error.to_string()))?;
        if parsed.password().is_some() || !parsed.username().is_empty() {
            return Err(refused("credentials belong into the environment".to_owned()));
        }
        let (store, prefix) = match parsed.scheme() {
            "file" => (folder(&parsed).map_err(refused)?, Key::default()),
            "s3" => bucket(&parsed).map_err(refused)?,
            scheme => return Err(refused(format!("{scheme}: use file:///folder or s3://bucket/prefix"))),
        };
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(1).thread_name("shared-store").enable_all();
        let runtime = runtime.build().map_err(|error| refused(error.to_string()))?;
        Ok(Self { url: url.to_owned(), store, prefix, runtime: Some(runtime) })
    }

    /// The bytes of the object of this name; none where there is none.
    ///
    /// # Errors
    /// If the store cannot be asked.
    pub fn size(&self, name: &str) -> Result<Option<u64>, StorageError> {
        let (store, key) = (self.store.clone(), self.key(name));
        match self.run(async move { store.head(&key).await }) {
            Ok(found) => Ok(Some(found.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look for", name, error)),
        }
    }

    /// Puts an object in the place of what has its name; durable on return.
    ///
    /// # Errors
    /// If the store refuses.
    pub fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        let (store, key) = (self.store.clone(), self.key(name));
        let put = self.run(async move { store.put(&key, PutPayload::from(bytes)).await });
        put.map(drop).map_err(|error| self.failed("put", name, error))
    }

    /// Puts what is in a file, in parts where it is large; durable on return.
    ///
    /// # Errors
    /// If the file, which was opened at `path`, cannot be read, or the store refuses.
    pub(super) fn put_file(&self, name: &str, mut file: File, path: &Path) -> Result<(), StorageError> {
        let bytes = file.metadata().map_err(StorageError::io("look at", path))?.len();
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
                    // What was sent of it would stay for ever, and be paid for; that it cannot be taken back is no worse.
                    let _ = parts.abort().await;
                    Err(error)
                }
            }
        });
        sent.map_err(|error| self.failed("put", name, error))
    }

    /// The bytes of a small object; none where there is none.
    ///
    /// # Errors
    /// If the store cannot be read, or the object has more than `bytes_max` bytes.
    pub fn get(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, StorageError> {
        let mut whole = Vec::new();
        // With one request: it may be replaced at any time.
        let found = self.receive(name, None, &mut |piece| {
            whole.extend_from_slice(piece);
            if whole.len() as u64 > bytes_max { Err(self.too_large(name, bytes_max)) } else { Ok(()) }
        })?;
        Ok(found.map(|()| whole))
    }

    /// Hands the bytes of an object that is not replaced by others to `sink`, asking for `piece_bytes` at a time. Gives their number;
    /// none where there is no such object.
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

    /// Hands the bytes that one request is answered with to `sink`, as they come; none where there is no such object.
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
        let reason = format!("it has more than {bytes_max} bytes");
        StorageError::Shared { action: "get", name, url, reason }
    }

    /// What a request is answered with, as it comes; few pieces wait at once.
    fn requested(&self, name: &str, options: GetOptions) -> Receiver<Result<Vec<u8>, Error>> {
        let (store, key) = (self.store.clone(), self.key(name));
        let (sender, pieces) = sync_channel(PARTS_AT_ONCE);
        let got = async move {
            let mut stream = match store.get_opts(&key, options).await {
                Ok(found) => found.into_stream(),
                Err(error) => return drop(sender.send(Err(error))),
            };
            while let Some(piece) = stream.next().await {
                // A slow disk holds up this thread, and nothing else is asked of the store meanwhile by the same caller.
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
        let gone = || Error::Generic { store: "shared", source: "its thread is gone".into() };
        let (done, outcome) = channel();
        self.runtime.as_ref().ok_or_else(gone)?.spawn(async move { done.send(work.await) });
        outcome.recv().map_err(|_| gone())?
    }

    fn key(&self, name: &str) -> Key {
        self.prefix.parts().chain(Key::from(name).parts()).collect()
    }

    fn failed(&self, action: &'static str, name: &str, error: Error) -> StorageError {
        let (name, url) = (name.to_owned(), self.url.clone());
        StorageError::Shared { action, name, url, reason: with_causes(&error) }
    }
}

impl Drop for SharedStore {
    /// It may be dropped where waiting for its thread is not allowed.
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

/// Reads a file on this thread, which is the store's own, and sends it in parts.
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
    // Variables that are not text are none of its settings.
    let text = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let settings = text.filter(|(name, _)| name.starts_with("AWS_"));
    let (store, prefix) = object_store::parse_url_opts(url, settings).map_err(|error| with_causes(&error))?;
    Ok((store.into(), prefix))
}

#[cfg(not(feature = "s3"))]
fn bucket(_: &Url) -> Result<(Arc<dyn ObjectStore>, Key), String> {
    Err("this build has no S3: build it with `--features s3`".to_owned())
}

fn without_password(url: &str) -> String {
    Url::parse(url).map_or_else(
        |_| "the address given".to_owned(),
        |mut url| {
            // Addresses without a host have no password.
            let _ = (url.set_password(None), url.set_username(""));
            url.to_string()
        },
    )
}

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
