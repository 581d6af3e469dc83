//! The local door: a Unix socket in the data folder, at which the process with the event log serves it to
//! other processes on this host.
//!
//! One process at a time has a log open, and a server keeps it open for months. Commands that read connect to
//! its door. They need no token: the file system decides who connects, and thus reads the log and sends the
//! requests that the process adds. The door has a thread and a runtime of its own, so it answers while all
//! else is busy.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use dissent_storage::SledLog;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::{backups, log_routes, ownership};
use crate::serving::accept::{self, Limits};
use crate::serving::problem::Problem;
use crate::serving::request_id;
use crate::socket_path::{SOCKET, SocketPath};

/// Mode of the socket: the owner and the group of the data folder.
const MODE: u32 = 0o660;
/// Longest wait for answers in progress when the door closes.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Most reads of the log at the same time.
const READS_MAX: usize = 8;

/// Returns the path of the socket in a data folder.
pub(crate) fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// Serves a log that this process has open. Dropping it closes the door, within [`STOP_TIMEOUT`].
pub(crate) struct LocalDoor {
    running: Option<Running>,
}

struct Running {
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl LocalDoor {
    /// Opens the door of a log: serves the log's routes, and `more` for other paths, without a check of
    /// tokens. Where the file system has no sockets, it warns, and other processes cannot read the log.
    ///
    /// The socket of a process that has ended is replaced, and its unfinished backups are removed: only the
    /// process with the log comes here.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be started.
    pub(crate) fn start(log: Arc<SledLog>, data_dir: &Path, more: Router) -> anyhow::Result<Self> {
        backups::remove_unfinished(data_dir);
        let listener = match bind(data_dir) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(
                    path = %socket(data_dir).display(), %error,
                    "failed to listen on the local socket; other commands cannot read the log meanwhile"
                );
                return Ok(Self { running: None });
            }
        };
        let folder = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
        let routes = log_routes::routes(log, folder).merge(more).fallback(not_served);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(READS_MAX)
            .build()
            .context("failed to start the runtime of the local socket")?;
        let (stop, stopped) = oneshot::channel();
        let routes = request_id::with_request_ids(routes);
        let thread = std::thread::Builder::new().name("local-door".to_owned());
        let thread = thread.spawn(move || serve(runtime, listener, routes, stopped));
        let thread = thread.context("failed to start the thread of the local socket")?;
        Ok(Self { running: Some(Running { socket: socket(data_dir), stop, thread }) })
    }
}

impl Drop for LocalDoor {
    fn drop(&mut self) {
        let Some(Running { socket, stop, thread }) = self.running.take() else { return };
        // This process still has the log, so no other one has replaced the socket.
        if let Err(error) = std::fs::remove_file(&socket) {
            tracing::debug!(path = %socket.display(), %error, "failed to remove the local socket");
        }
        let _ = stop.send(());
        if thread.join().is_err() {
            tracing::error!("the thread of the local socket panicked");
        }
    }
}

/// Listens on a new socket, which then takes the place of an old one. So the socket has its mode and owner
/// before a client can connect.
fn bind(data_dir: &Path) -> io::Result<UnixListener> {
    let folder = tempfile::Builder::new().prefix(".socket-").tempdir_in(data_dir)?;
    let new = folder.path().join("s");
    let listener = UnixListener::bind(SocketPath::of(&new)?.short())?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(MODE))?;
    let owner = std::fs::metadata(data_dir)?;
    // The group may be one that this user cannot give files to; then only the user connects.
    if let Err(error) = share_with_group(&new, &owner) {
        tracing::debug!(%error, "failed to give the local socket to the group of the data folder");
    }
    listener.set_nonblocking(true)?;
    std::fs::rename(&new, socket(data_dir))?;
    ownership::keep(data_dir);
    Ok(listener)
}

fn share_with_group(socket: &Path, folder: &std::fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    std::os::unix::fs::chown(socket, None, Some(folder.gid()))
}

fn serve(runtime: Runtime, listener: UnixListener, routes: Router, stopped: oneshot::Receiver<()>) {
    runtime.block_on(async {
        let listener = match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "failed to serve the local socket");
                return;
            }
        };
        tokio::select! {
            () = accept::serve(listener, routes, Limits::default()) => {}
            _ = stopped => {}
        }
    });
    runtime.shutdown_timeout(STOP_TIMEOUT);
}

async fn not_served() -> Response {
    let reason = "the process that has the event log open does not serve this path: it reads the log, runs one \
                  experiment, or is starting; wait for its end, or retry";
    Problem::new(StatusCode::NOT_FOUND, reason).into_response()
}
