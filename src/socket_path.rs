//! Paths of Unix sockets, which the system limits to 107 bytes.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Name of the socket in a data folder.
pub(crate) const SOCKET: &str = "dissent.sock";
/// Longest path of a socket, in bytes. The system's structure has 108, the last one is zero.
const PATH_BYTES_MAX: usize = 107;

/// A path by which a socket of any path length can be bound or connected to.
pub(crate) struct SocketPath {
    short: PathBuf,
    /// The opened folder, which a short path refers to.
    _folder: Option<OwnedFd>,
}

impl SocketPath {
    /// Opens the folder of a socket whose path is too long for the system.
    ///
    /// # Errors
    /// If the folder cannot be opened.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= PATH_BYTES_MAX {
            return Ok(Self { short: path.to_owned(), _folder: None });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        Ok(Self { short, _folder: Some(folder) })
    }

    /// Returns the path, valid while `self` lives.
    pub(crate) fn short(&self) -> &Path {
        &self.short
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_socket_in_a_deep_folder_accepts_connections() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a".repeat(200)).join("b".repeat(200));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        assert!(UnixListener::bind(&path).is_err(), "the path is too long for the system");
        let _listener = UnixListener::bind(SocketPath::of(&path).unwrap().short()).unwrap();
        assert!(path.exists());
        UnixStream::connect(SocketPath::of(&path).unwrap().short()).unwrap();
        assert_eq!(SocketPath::of(&folder.join("x/y")).err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
