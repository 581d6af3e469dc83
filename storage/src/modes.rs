//! Modes of files and folders that are written under a temporary name.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

/// Returns the builder of temporary files that become files of a data folder: readable by its group, less the
/// umask. By default only the owner reads a temporary file.
pub(crate) fn shared_file_builder<'a>() -> tempfile::Builder<'a, 'a> {
    let mut builder = tempfile::Builder::new();
    builder.permissions(Permissions::from_mode(0o640));
    builder
}

/// Returns the builder of temporary folders that become folders of a data folder, as
/// [`shared_file_builder`].
pub(crate) fn shared_folder_builder<'a>() -> tempfile::Builder<'a, 'a> {
    let mut builder = tempfile::Builder::new();
    builder.permissions(Permissions::from_mode(0o750));
    builder
}
