//! `cargo xtask cuda-plan`: proves, without a GPU, that ONNX Runtime places every graph on CUDA.
//!
//! The real CUDA provider of ONNX Runtime runs on a *null GPU*: stub libraries in place of NVIDIA's, whose
//! memory is the host's and whose kernels do nothing. The provider still chooses a kernel for each node,
//! checks its operands, and copies tensors. So placement and copied bytes are those of a GPU; numbers and
//! times are not.

mod imports;
mod null_gpu;

use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::cache::target_dir;
use crate::process::{cargo, complete};

/// Examples, shown below the options.
const EXAMPLES: &str = "\
Examples:
  cargo xtask cuda-plan                                  check every family; takes some minutes
  cargo xtask cuda-plan --family llama --family gemma3   check two families
  cargo xtask cuda-plan --family llama --verbose         list every graph

The first run downloads ONNX Runtime for CUDA (256 MB) into the cache folder. A C compiler is required, a GPU
is not. Numbers are not checked: the null GPU computes none.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CudaPlanOptions {
    /// Check this family only; may be repeated [default: every folder of models/tests/golden/families]
    #[arg(long, value_name = "NAME")]
    family: Vec<String>,
    /// List every graph instead of one line per group of graphs
    #[arg(long)]
    verbose: bool,
}

/// Fetches ONNX Runtime for CUDA, builds the null GPU, and runs the graphs of models on it.
pub(crate) fn run(options: &CudaPlanOptions) -> Result<()> {
    let runtime = crate::fetch::fetch_onnxruntime_gpu()?;
    let needed = imports::of_provider(&runtime.join("libonnxruntime_providers_cuda.so"))?;
    let stubs = target_dir().join("null-gpu");
    null_gpu::build(&needed, &stubs)?;
    let functions: usize = needed.iter().map(|library| library.functions.len()).sum();
    println!("built the null GPU: {} libraries, {functions} functions", needed.len());

    // The whole workspace, as in `cargo xtask test`: one package alone would be rebuilt with other features.
    complete(cargo().args(["build", "--quiet", "--workspace", "--example", "cuda_plan"]))?;
    let counters = stubs.join("counters");
    // The null GPU adds to what a file holds.
    std::fs::write(&counters, b"").with_context(|| format!("failed to write {}", counters.display()))?;
    let mut runner = Command::new(target_dir().join("debug/examples/cuda_plan"));
    runner.args(&options.family);
    if options.verbose {
        runner.arg("--verbose");
    }
    runner.env("ORT_DYLIB_PATH", runtime.join("libonnxruntime.so.1.31.1"));
    runner.env("LD_LIBRARY_PATH", &stubs).env("NULL_GPU_COUNTERS", &counters);
    complete(&mut runner).context("a graph is not placed on CUDA, or copies too much; the table names it")
}
