//! Finding and loading ONNX Runtime, and what all sessions share: their options, and cancellation.

mod options;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::{NoSelectedOutputs, RunOptions};

use crate::cache::cache_dir;
use crate::error::ModelError;

pub use options::{ComputeType, Provider, SessionOptions};

/// The oldest supported ONNX Runtime, as (major, minor): the version of the C API that the bindings are
/// compiled against.
pub const VERSION_MIN: (u32, u32) = (1, 31);

const WAY_OUT: &str = "run `cargo xtask fetch`, or `pip install onnxruntime==1.32.0` and name its \
                       capi/libonnxruntime.so.1.32.0 with --onnxruntime or $ORT_DYLIB_PATH";

/// ONNX Runtime, loaded into this process.
#[derive(Debug)]
pub struct OnnxRuntime {
    /// The path of the loaded library.
    pub path: PathBuf,
    /// Its version, such as `1.32.0`.
    pub version: String,
    environment: Environment,
}

static RUNTIME: Mutex<Option<&'static OnnxRuntime>> = Mutex::new(None);

impl OnnxRuntime {
    /// Loads ONNX Runtime, or returns the one that this process has loaded. A process can load only one.
    ///
    /// With `explicit`, only that path is tried; else only `$ORT_DYLIB_PATH` if it is set. Otherwise the
    /// cache folder, the executable's folder and the system's library folders are searched.
    ///
    /// # Errors
    /// [`ModelError::Runtime`] if there is no library, it is too old, or another one is loaded already.
    pub fn load(explicit: Option<&Path>) -> Result<&'static Self, ModelError> {
        let mut loaded = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = *loaded {
            return match explicit.map(real_path) {
                Some(path) if path != runtime.path => Err(ModelError::Runtime(format!(
                    "cannot load ONNX Runtime from {}: this process has already loaded {}",
                    path.display(),
                    runtime.path.display()
                ))),
                Some(_) | None => Ok(runtime),
            };
        }
        let path = find(explicit)?;
        let version = check_version(&path)?;
        let failed = |reason: String| {
            ModelError::Runtime(format!(
                "failed to load ONNX Runtime from {}: {reason}; {WAY_OUT}",
                path.display()
            ))
        };
        let environment = ort::init_from(&path)
            .map_err(|error| failed(error.to_string()))?
            .with_name("dissent")
            .with_telemetry(false)
            .with_logger(Arc::new(forward_log))
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let version = version.unwrap_or_else(|| "unknown".to_owned());
        tracing::debug!(path = %path.display(), version, "loaded onnx runtime");
        let runtime: &'static Self = Box::leak(Box::new(Self { path, version, environment }));
        *loaded = Some(runtime);
        Ok(runtime)
    }

    /// Returns the execution providers that this library supports. [`crate::processor::check_cuda`] says
    /// whether CUDA works.
    #[must_use]
    pub fn providers(&self) -> Vec<&'static str> {
        use ort::ep::{CUDA, ExecutionProvider as _};
        let cuda = CUDA::is_available().unwrap_or(false);
        if cuda { vec!["cpu", "cuda"] } else { vec!["cpu"] }
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }
}

fn forward_log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => tracing::trace!(category, location, "{message}"),
        LogLevel::Warning => tracing::debug!(category, location, "{message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::warn!(category, location, "{message}"),
    }
}

fn real_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn find(explicit: Option<&Path>) -> Result<PathBuf, ModelError> {
    let named = explicit.map(|path| (path.to_owned(), "the path given")).or_else(|| {
        let path = std::env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty())?;
        Some((PathBuf::from(path), "$ORT_DYLIB_PATH"))
    });
    if let Some((path, origin)) = named {
        return if path.is_file() {
            Ok(real_path(&path))
        } else {
            Err(ModelError::Runtime(format!(
                "no ONNX Runtime library exists at {} ({origin}): {WAY_OUT}",
                path.display()
            )))
        };
    }
    let folders = search_folders();
    let newest = folders.iter().find_map(|folder| libraries_in(folder).into_iter().max());
    newest.map(|(_, path)| real_path(&path)).ok_or_else(|| {
        let searched: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        ModelError::Runtime(format!(
            "no ONNX Runtime library was found in {}: {WAY_OUT}",
            searched.join(", ")
        ))
    })
}

/// Returns the searched folders, in order of preference.
fn search_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(cache) = cache_dir() {
        let root = cache.join("onnxruntime");
        let mut versions: Vec<PathBuf> =
            root.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        versions.sort_by_key(|path| std::cmp::Reverse(path.file_name().and_then(version_numbers)));
        if versions.is_empty() {
            versions.push(root);
        }
        folders.extend(versions);
    }
    folders.extend(std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned())));
    let system = [
        "/usr/local/lib",
        "/usr/lib",
        "/usr/lib64",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
    ];
    folders.extend(system.map(PathBuf::from));
    folders
}

fn version_numbers(name: &std::ffi::OsStr) -> Option<Vec<u32>> {
    let name = name.to_str()?;
    let numbers = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    Some(numbers.split('.').map_while(|part| part.parse().ok()).collect())
}

/// Returns the ONNX Runtime libraries of a folder, each with the version in its name.
fn libraries_in(folder: &Path) -> Vec<(Vec<u32>, PathBuf)> {
    let is_library = |name: &str| {
        name.starts_with("libonnxruntime.so")
            || name.starts_with("libonnxruntime.") && name.ends_with(".dylib")
    };
    let entries = folder.read_dir().into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_library) && entry.path().is_file())
        .map(|entry| (version_numbers(&entry.file_name()).unwrap_or_default(), entry.path()))
        .collect()
}

/// Reads the library's version from the file, because loading a library that is too old can abort the
/// process.
fn check_version(path: &Path) -> Result<Option<String>, ModelError> {
    let bytes = std::fs::read(path)
        .map_err(|error| ModelError::File { path: path.to_owned(), reason: error.to_string() })?;
    let from_name = || {
        let numbers = version_numbers(path.file_name()?)?;
        let text: Vec<String> = numbers.iter().map(u32::to_string).collect();
        (numbers.len() >= 2).then(|| text.join("."))
    };
    let Some(version) = version_tag(&bytes).or_else(from_name) else { return Ok(None) };
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        return Err(ModelError::Runtime(format!(
            "the ONNX Runtime at {} has version {version}, which is too old ({major}.{minor} or newer is required): {WAY_OUT}",
            path.display()
        )));
    }
    Ok(Some(version))
}

/// Returns the version in an ELF library's symbol version, `VERS_1.32.0`.
fn version_tag(library: &[u8]) -> Option<String> {
    const TAG: &[u8] = b"VERS_1.";
    let start = library.windows(TAG.len()).position(|window| window == TAG)? + "VERS_".len();
    let digits = library[start..].iter().take(16).take_while(|byte| byte.is_ascii_digit() || **byte == b'.');
    Some(digits.map(|&byte| char::from(byte)).collect())
}

/// A request to cancel work, usable from any thread. Clones share the request.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag {
    state: Arc<CancelState>,
}

#[derive(Debug, Default)]
struct CancelState {
    cancelled: AtomicBool,
    running: Mutex<Vec<Weak<RunOptions<NoSelectedOutputs>>>>,
}

impl CancelFlag {
    /// Returns a flag without a request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests cancellation. A model run in progress ends within milliseconds.
    pub fn cancel(&self) {
        let running = self.state.running.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.cancelled.store(true, Ordering::SeqCst);
        for options in running.iter().filter_map(Weak::upgrade) {
            if let Err(error) = options.terminate() {
                tracing::warn!(%error, "failed to terminate a model run");
            }
        }
    }

    /// Whether cancellation was requested.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    /// Returns an error if cancellation was requested.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`].
    pub fn check(&self) -> Result<(), ModelError> {
        if self.is_cancelled() { Err(ModelError::Cancelled) } else { Ok(()) }
    }

    /// Run options that [`CancelFlag::cancel`] terminates while they exist.
    pub(crate) fn run_options(&self) -> Result<Arc<RunOptions<NoSelectedOutputs>>, ModelError> {
        let options = Arc::new(RunOptions::new().map_err(|error| ModelError::Runtime(error.to_string()))?);
        let mut running = self.state.running.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        running.retain(|known| known.strong_count() > 0);
        running.push(Arc::downgrade(&options));
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outdated_library_is_refused_before_loading() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("libonnxruntime.so");
        std::fs::write(&path, b"\x7fELF....OrtGetApiBase\0VERS_1.22.1\0").expect("a file");
        let error = check_version(&path).expect_err("1.22.1 is too old").to_string();
        assert!(error.contains("1.22.1") && error.contains("cargo xtask fetch"), "{error}");
    }

    #[test]
    fn the_symbol_version_is_read_before_the_file_name() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("libonnxruntime.so.1.20.0");
        std::fs::write(&path, b"VERS_1.32.0\0").expect("a file");
        assert_eq!(check_version(&path).expect("new enough").as_deref(), Some("1.32.0"));
        std::fs::write(&path, b"nothing").expect("a file");
        assert!(check_version(&path).is_err());
    }

    #[test]
    fn a_path_that_does_not_exist_is_named_in_the_error() {
        let error =
            find(Some(Path::new("/nowhere/libonnxruntime.so"))).expect_err("no such file").to_string();
        assert!(error.contains("/nowhere/libonnxruntime.so") && error.contains("pip install"), "{error}");
    }

    #[test]
    fn versions_order_by_number() {
        let numbers = |name: &str| version_numbers(std::ffi::OsStr::new(name));
        assert!(numbers("libonnxruntime.so.1.32.0") > numbers("libonnxruntime.so.1.9.2"));
    }

    #[test]
    fn a_cancelled_flag_starts_no_run() {
        let flag = CancelFlag::new();
        assert!(!flag.is_cancelled());
        flag.clone().cancel();
        assert!(matches!(flag.check(), Err(ModelError::Cancelled)));
    }
}
