//! Writing JSON Lines, completely or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::NamedTempFile;

use crate::error::Interrupted;
use crate::files::output_permissions;

/// A failure to write output.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {file}")]
pub struct OutputError {
    /// The file, as given, or `stdout`.
    pub file: String,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Writes one JSON value per line.
///
/// The lines go to a temporary file beside the target, and [`finish`](Self::finish) renames it onto the
/// target. Without `finish` the target does not change. Standard output (`-`), pipes and devices receive
/// lines directly.
pub struct JsonLinesWriter {
    sink: Sink,
    file: String,
    lines: u64,
}

enum Sink {
    Stream(BufWriter<Box<dyn Write>>),
    File { temporary: BufWriter<NamedTempFile>, target: PathBuf },
}

impl JsonLinesWriter {
    /// Prepares writing to a file, or to standard output for `-`.
    ///
    /// # Errors
    /// If the target cannot be written.
    pub fn create(path: &Path) -> Result<Self, OutputError> {
        if path == Path::new("-") {
            let sink = Sink::Stream(BufWriter::new(Box::new(io::stdout())));
            return Ok(Self { sink, file: "stdout".to_owned(), lines: 0 });
        }
        let file = path.display().to_string();
        match create_sink(path) {
            Ok(sink) => Ok(Self { sink, file, lines: 0 }),
            Err(source) => Err(OutputError { file, source }),
        }
    }

    /// Writes one line.
    ///
    /// # Errors
    /// If the line cannot be written.
    pub fn write(&mut self, value: &impl Serialize) -> Result<(), OutputError> {
        let written = match &mut self.sink {
            Sink::Stream(stream) => write_line(stream, value),
            Sink::File { temporary, .. } => write_line(temporary, value),
        };
        self.lines += 1;
        written.map_err(|source| OutputError { file: self.file.clone(), source })
    }

    /// Keeps the lines written so far in `OUTPUT.partial` after a failure, and adds that to the error. The
    /// target does not change. An interrupted command keeps nothing.
    #[must_use]
    pub fn keep_finished(self, error: anyhow::Error) -> anyhow::Error {
        let Sink::File { temporary, target } = self.sink else { return error };
        if self.lines == 0 || error.is::<Interrupted>() {
            return error;
        }
        let mut partial = target.into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        match persist(temporary, &partial) {
            Ok(()) => error.context(format!(
                "failed after {} finished rows, kept in {}",
                self.lines,
                partial.display()
            )),
            Err(_) => error,
        }
    }

    /// Makes the written lines visible and durable.
    ///
    /// # Errors
    /// If the lines cannot be written or the file cannot be renamed.
    pub fn finish(self) -> Result<(), OutputError> {
        let finished = match self.sink {
            Sink::Stream(mut stream) => stream.flush(),
            Sink::File { temporary, target } => persist(temporary, &target),
        };
        finished.map_err(|source| OutputError { file: self.file, source })
    }
}

fn create_sink(path: &Path) -> io::Result<Sink> {
    // Renaming onto a link or device would replace it.
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    match fs::metadata(&target) {
        Ok(existing) if existing.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(existing) if !existing.is_file() => {
            let stream: Box<dyn Write> = Box::new(File::options().write(true).open(&target)?);
            return Ok(Sink::Stream(BufWriter::new(stream)));
        }
        Ok(_) | Err(_) => {}
    }
    let mut builder = tempfile::Builder::new();
    let temporary = builder.prefix(".dissent-").suffix(".partial").tempfile_in(folder(&target))?;
    temporary.as_file().set_permissions(output_permissions())?;
    let temporary = BufWriter::with_capacity(1 << 16, temporary);
    Ok(Sink::File { temporary, target })
}

fn folder(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_line(writer: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, value)?;
    writer.write_all(b"\n")
}

fn persist(temporary: BufWriter<NamedTempFile>, target: &Path) -> io::Result<()> {
    let temporary = temporary.into_inner().map_err(io::IntoInnerError::into_error)?;
    temporary.as_file().sync_all()?;
    temporary.persist(target).map_err(|error| error.error)?;
    // The rename is durable after the folder is synced. Some systems cannot open folders.
    if let Ok(folder) = File::open(folder(target)) {
        folder.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::Serializer;

    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_appears_completely_on_finish() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.jsonl");
        fs::write(&target, "before").unwrap();
        let mut writer = JsonLinesWriter::create(&target).unwrap();
        writer.write(&[1, 2]).unwrap();
        writer.write(&"a\nb").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "before");
        writer.finish().unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "[1,2]\n\"a\\nb\"\n");
        assert_eq!(entries(folder.path()), ["out.jsonl"]);
    }

    #[test]
    fn a_dropped_writer_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = JsonLinesWriter::create(&folder.path().join("out.jsonl")).unwrap();
        writer.write(&1).unwrap();
        drop(writer);
        assert_eq!(entries(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn a_value_without_json_is_an_error_with_the_file() {
        struct Broken;
        impl Serialize for Broken {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("broken"))
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.jsonl");
        let error = JsonLinesWriter::create(&target).unwrap().write(&Broken).unwrap_err();
        assert_eq!(error.to_string(), format!("failed to write {}", target.display()));
    }

    #[test]
    fn an_unwritable_target_is_rejected_on_creation() {
        let folder = tempfile::tempdir().unwrap();
        assert!(JsonLinesWriter::create(folder.path()).is_err(), "a folder");
        assert!(JsonLinesWriter::create(&folder.path().join("missing/out.jsonl")).is_err());
        assert_eq!(entries(folder.path()), Vec::<String>::new());
    }

    #[cfg(unix)]
    #[test]
    fn links_and_devices_are_written_through() {
        use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("real.jsonl"), folder.path().join("link.jsonl"));
        fs::write(&target, "").unwrap();
        symlink(&target, &link).unwrap();
        let mut writer = JsonLinesWriter::create(&link).unwrap();
        writer.write(&1).unwrap();
        writer.finish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "1\n");
        assert_ne!(fs::metadata(&target).unwrap().mode() & 0o040, 0, "readable like any new file");

        let mut writer = JsonLinesWriter::create(Path::new("/dev/null")).unwrap();
        writer.write(&1).unwrap();
        writer.finish().unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }
}
