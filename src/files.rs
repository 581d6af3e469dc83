//! Atomic writes of output files, their modes, and the free space of their disk.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::Context as _;

use crate::error::BadInput;

/// Writes a file atomically and creates its folder. An existing pipe or device is written in place.
pub(crate) fn write(content: impl AsRef<[u8]>, path: &Path) -> anyhow::Result<()> {
    write_whole(content.as_ref(), path, output_permissions())
        .with_context(|| format!("failed to write {}", path.display()))
}

/// Writes a file of a data folder, otherwise as [`write`]. Only the owner and the group of the folder can
/// read it.
pub(crate) fn write_in_data_folder(content: impl AsRef<[u8]>, path: &Path) -> anyhow::Result<()> {
    write_whole(content.as_ref(), path, fs::Permissions::from_mode(0o640))
        .with_context(|| format!("failed to write {}", path.display()))
}

fn write_whole(content: &[u8], path: &Path, permissions: fs::Permissions) -> io::Result<()> {
    // A rename onto a link would replace the link, not its target.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        return fs::File::options().write(true).open(&target)?.write_all(content);
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".report-").tempfile_in(folder)?;
    file.as_file().set_permissions(permissions)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(&target)?;
    Ok(())
}

/// Bits of the mode that no file of a data folder has: prompts and judgements are not for every user of the
/// host.
const DATA_UMASK: u32 = 0o027;

/// The umask that this process was started with.
static GIVEN_UMASK: OnceLock<u32> = OnceLock::new();

/// Restricts all files and folders that this process creates to its user and group. Call it before the first
/// thread starts. Files that the user names as an output keep the mode that the user's umask gives:
/// see [`output_permissions`].
pub(crate) fn restrict_modes() {
    use rustix::fs::Mode;
    let given = rustix::process::umask(Mode::from_raw_mode(DATA_UMASK));
    rustix::process::umask(given | Mode::from_raw_mode(DATA_UMASK));
    let _ = GIVEN_UMASK.set(given.as_raw_mode());
}

/// Returns the permissions of a new output file. Temporary files are readable by their owner only.
pub(crate) fn output_permissions() -> fs::Permissions {
    let umask = GIVEN_UMASK.get_or_init(|| {
        // The umask can only be read by setting it. Meanwhile a new file would be private.
        let given = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        rustix::process::umask(given);
        given.as_raw_mode()
    });
    fs::Permissions::from_mode(0o666 & !umask)
}

/// Checks that an output is none of the inputs, also under another path. `-` is a stream.
///
/// # Errors
/// [`BadInput`] with the path.
pub(crate) fn check_not_input(output: &Path, inputs: &[&Path]) -> Result<(), BadInput> {
    let identity = |path: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        let found = (path != Path::new("-")).then(|| fs::metadata(path).ok()).flatten();
        found.filter(fs::Metadata::is_file).map(|file| (file.dev(), file.ino()))
    };
    let Some(written) = identity(output) else { return Ok(()) };
    match inputs.iter().find(|input| identity(input) == Some(written)) {
        None => Ok(()),
        Some(input) => {
            let (output, input) = (output.display(), input.display());
            Err(BadInput(format!(
                "the output {output} is the input {input}: name another file for the output"
            )))
        }
    }
}

/// Returns the bytes that an unprivileged process can still write to the file system of `path`.
///
/// # Errors
/// If the path does not exist, or its file system does not report free space.
pub(crate) fn available_space(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_space_fails_for_a_missing_path() {
        let folder = tempfile::tempdir().unwrap();
        assert!(available_space(folder.path()).unwrap() > 0);
        assert_eq!(
            available_space(&folder.path().join("missing")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
