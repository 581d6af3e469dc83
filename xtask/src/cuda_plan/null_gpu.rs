//! Generates and compiles the null GPU: a stub of each of NVIDIA's libraries that the provider loads.
//!
//! The functions with a behaviour are in `null_gpu/*.c`. For every other function that the provider imports,
//! a weak one is generated that reports the call and fails: nothing succeeds by chance.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::imports::Library;
use crate::process::output_of;

/// The library that counts; the others call it.
const RUNTIME: &str = "libcudart";

/// The behaviour of a library.
struct Behaviour {
    /// The library's name, up to `.so`.
    library: &'static str,
    /// C, with the functions that do something.
    source: &'static str,
    /// The status of functions that the null GPU does not have: the library's "not supported".
    unsupported: i32,
}

/// The runtime comes first: the others are linked to it.
const BEHAVIOURS: [Behaviour; 5] = [
    Behaviour { library: RUNTIME, source: include_str!("null_gpu/cudart.c"), unsupported: 801 },
    Behaviour { library: "libcublas", source: include_str!("null_gpu/cublas.c"), unsupported: 15 },
    Behaviour { library: "libcublasLt", source: include_str!("null_gpu/cublaslt.c"), unsupported: 15 },
    Behaviour { library: "libcuda", source: "", unsupported: 801 },
    Behaviour { library: "libcudnn", source: include_str!("null_gpu/cudnn.c"), unsupported: 3000 },
];

/// A library without a behaviour of its own, such as libcurand, of which the provider calls nothing.
const NOTHING: Behaviour = Behaviour { library: "", source: "", unsupported: 1 };

/// Compiles the libraries into `folder`, with the system's C compiler (`$CC`, else `cc`).
pub(super) fn build(libraries: &[Library], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let place = |library: &&Library| {
        BEHAVIOURS.iter().position(|known| known.library == stem(&library.file)).unwrap_or(usize::MAX)
    };
    let mut ordered: Vec<&Library> = libraries.iter().collect();
    ordered.sort_by_key(place);
    let mut runtime = None;
    for library in ordered {
        compile(library, runtime, folder)?;
        if stem(&library.file) == RUNTIME {
            runtime = Some(library.file.as_str());
        }
    }
    Ok(())
}

/// Returns a library's name up to `.so`.
fn stem(file: &str) -> &str {
    file.split(".so").next().unwrap_or(file)
}

fn compile(library: &Library, runtime: Option<&str>, folder: &Path) -> Result<()> {
    let stem = stem(&library.file);
    let behaviour = BEHAVIOURS.iter().find(|known| known.library == stem).unwrap_or(&NOTHING);
    let write = |suffix: &str, text: &str| {
        let path = folder.join(format!("{stem}{suffix}"));
        std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        Ok::<_, anyhow::Error>(path)
    };
    let compiler = std::env::var_os("CC").filter(|name| !name.is_empty()).unwrap_or_else(|| "cc".into());
    let mut cc = Command::new(compiler);
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.join(&library.file));
    cc.arg(write(".c", behaviour.source)?);
    cc.arg(write("-weak.c", &weak_functions(library, behaviour.unsupported))?);
    cc.arg(format!("-Wl,-soname,{}", library.file));
    if let Some(version) = &library.version {
        let script = write(".version", &format!("{version} {{ global: *; }};\n"))?;
        cc.arg(format!("-Wl,--version-script,{}", script.display()));
    }
    if let Some(runtime) = runtime {
        cc.arg("-L").arg(folder).arg(format!("-l:{runtime}"));
    }
    output_of(&mut cc).context("no null GPU was built: it needs a C compiler and linker (Debian: gcc)")?;
    Ok(())
}

/// Returns C with a weak definition of each function, which reports the call and returns `unsupported`.
fn weak_functions(library: &Library, unsupported: i32) -> String {
    let mut source = String::from("void null_gpu_unknown(const char *name);\n");
    for name in &library.functions {
        let _infallible = writeln!(
            source,
            "__attribute__((weak)) int {name}(void) {{ null_gpu_unknown(\"{name}\"); return {unsupported}; }}"
        );
    }
    source
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(file: &str, functions: &[&str]) -> Library {
        let functions = functions.iter().map(|&name| name.to_owned()).collect();
        Library { file: file.to_owned(), version: Some(file.to_owned()), functions }
    }

    #[test]
    fn libraries_compile_with_functions_that_the_null_gpu_does_not_have() {
        let folder = tempfile::tempdir().unwrap();
        // In an order in which cuBLAS could not be linked.
        let needed = [
            library("libcublas.so.13", &["cublasGemmEx", "cublasNew"]),
            library("libcurand.so.10", &[]),
            library("libcudart.so.13", &["cudaMalloc", "cudaNew"]),
        ];
        build(&needed, folder.path()).unwrap();
        for library in &needed {
            assert!(folder.path().join(&library.file).is_file(), "{}", library.file);
        }
        let weak = std::fs::read_to_string(folder.path().join("libcudart-weak.c")).unwrap();
        assert!(weak.contains("int cudaNew(void) { null_gpu_unknown(\"cudaNew\"); return 801; }"), "{weak}");
    }
}
