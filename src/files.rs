//! Output files that appear whole or not at all.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;

/// Writes a file, whole or not at all, making its folder if there is none. What is there and no ordinary file, such
/// as a pipe or a device, is written to as it is.
pub(crate) fn write(content: impl AsRef<[u8]>, path: &Path) -> anyhow::Result<()> {
    write_whole(content.as_ref(), path).with_context(|| format!("failed to write {}", path.display()))
}

fn write_whole(content: &[u8], path: &Path) -> io::Result<()> {
    // Renaming onto a link would replace the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        return fs::File::options().write(true).open(&target)?.write_all(content);
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".report-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // As any new file, less the umask; a temporary file is otherwise its owner's alone.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(&target)?;
    Ok(())
}
