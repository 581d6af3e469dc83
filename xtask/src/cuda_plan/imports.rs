//! The functions of NVIDIA's libraries that ONNX Runtime's CUDA provider calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::read::{ImportFlags, NameOrOrdinal, Object as _, ReadCache};

/// NVIDIA's libraries begin so.
const PREFIX: &str = "libcu";

/// cuDNN, which the provider loads when an operator first needs it: no import names it.
const CUDNN: &str = "libcudnn.so.9";

/// The driver's library. Its functions have no symbol version, so the importing library does not name it.
const DRIVER: &str = "libcuda.so.1";

/// A library of NVIDIA's that the provider loads.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Library {
    /// Its symbol version, if its functions have one.
    pub(super) version: Option<String>,
    /// Its file name, such as `libcudart.so.13`.
    pub(super) file: String,
    /// The functions that the provider calls, in alphabetical order.
    pub(super) functions: BTreeSet<String>,
}

/// An imported function.
struct Imported {
    library: String,
    name: String,
    version: Option<String>,
    weak: bool,
}

/// Reads the libraries and functions from the provider's library.
pub(super) fn of_provider(path: &Path) -> Result<Vec<Library>> {
    let failed = || format!("failed to read {}", path.display());
    let cache = ReadCache::new(File::open(path).with_context(failed)?);
    let file = object::File::parse(&cache).with_context(failed)?;
    let mut libraries = Vec::new();
    for library in file.import_libraries().with_context(failed)? {
        libraries.push(text(library.with_context(failed)?.name()));
    }
    let mut functions = Vec::new();
    for import in file.imports().with_context(failed)? {
        let import = import.with_context(failed)?;
        let NameOrOrdinal::Name(name) = import.name() else { continue };
        let version =
            if let ImportFlags::Elf { version, .. } = import.flags() { version.map(text) } else { None };
        functions.push(Imported {
            library: text(import.library()),
            name: text(name),
            version,
            weak: import.is_weak(),
        });
    }
    assigned(&libraries, functions)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Assigns functions to the libraries of NVIDIA's, and adds cuDNN. A function without a library is the
/// driver's.
fn assigned(libraries: &[String], functions: Vec<Imported>) -> Result<Vec<Library>> {
    let ours = libraries.iter().filter(|file| file.starts_with(PREFIX));
    let mut known: BTreeMap<String, Library> =
        ours.map(|file| (file.clone(), Library { file: file.clone(), ..Library::default() })).collect();
    for function in functions {
        let file = match function.library.as_str() {
            "" if function.name.starts_with("cu") && !function.weak => DRIVER,
            file => file,
        };
        let Some(library) = known.get_mut(file) else { continue };
        if library.version.is_some() && library.version != function.version {
            bail!("{file} has two symbol versions: the null GPU can have one");
        }
        library.version = function.version;
        library.functions.insert(function.name);
    }
    if known.values().all(|library| library.functions.is_empty()) {
        bail!("the provider imports no function of CUDA");
    }
    known.insert(CUDNN.to_owned(), Library { file: CUDNN.to_owned(), ..Library::default() });
    Ok(known.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(library: &str, name: &str, weak: bool) -> Imported {
        let version = (!library.is_empty()).then(|| format!("version of {library}"));
        Imported { library: library.to_owned(), name: name.to_owned(), version, weak }
    }

    #[test]
    fn functions_without_a_library_are_those_of_the_driver() {
        let libraries = ["libcudart.so.13", DRIVER, "libcurand.so.10", "libc.so.6"].map(str::to_owned);
        let functions = vec![
            imported("libcudart.so.13", "cudaMalloc", false),
            imported("", "cuTensorMapEncodeTiled", false),
            imported("", "Provider_GetHost", false),
            imported("", "cuWeak", true),
            imported("libc.so.6", "malloc", false),
        ];
        let found = assigned(&libraries, functions).unwrap();
        let listed: Vec<_> =
            found.iter().map(|library| (library.file.as_str(), library.functions.len())).collect();
        assert_eq!(listed, [(DRIVER, 1), ("libcudart.so.13", 1), (CUDNN, 0), ("libcurand.so.10", 0)]);
        assert_eq!(found[1].version.as_deref(), Some("version of libcudart.so.13"));
        assert_eq!(found[0].version, None);
    }

    #[test]
    fn a_library_without_functions_of_cuda_is_an_error() {
        assert!(assigned(&[DRIVER.to_owned()], vec![imported("libc.so.6", "malloc", false)]).is_err());
    }
}
