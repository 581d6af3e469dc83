//! Sessions of training and evaluation graphs. Graphs are cached per process; inputs and outputs are named.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ort::session::{Session, SessionInputValue};
use ort::value::{Tensor, TensorRef};

use crate::arch::POSITIONS_MAX;
use crate::checkpoint::{Checkpoint, Dtype, ModelConfig};
use crate::error::{InvalidKind, ModelError};
use crate::onnx::export::{ExportedModel, export};
use crate::onnx::{ElementType, Graph};
use crate::runtime::{CancelFlag, OnnxRuntime};
use crate::start::{Layout, Processor, start};

use super::forward::names;
use super::packing::PackedBatch;
use super::spec::TrainingHead;

/// The number of cached graphs, as bytes of ONNX files without weights. A training needs two or three.
const GRAPHS_MAX: usize = 16;

static GRAPHS: Mutex<BTreeMap<String, Arc<ExportedModel>>> = Mutex::new(BTreeMap::new());

/// A session of a graph.
pub(super) struct Runner {
    session: Session,
    config: ModelConfig,
    head: TrainingHead,
    name: String,
}

/// Inputs by name.
pub(super) type Inputs<'v> = Vec<(String, SessionInputValue<'v>)>;

/// Outputs by name.
pub(super) type Outputs = BTreeMap<String, Tensor<f32>>;

impl Runner {
    /// Opens a session of the graph that `key` identifies among the graphs of a checkpoint. The place is the
    /// processor with the type of matrix products, for which the graph is built unless it is cached.
    pub(super) fn open(
        runtime: &'static OnnxRuntime,
        checkpoint: &Checkpoint,
        (key, head): (&str, TrainingHead),
        recompute: bool,
        (place, threads): ((Processor, Dtype), usize),
        build: impl FnOnce(ElementType) -> Result<Graph, ModelError>,
    ) -> Result<Self, ModelError> {
        let source = &checkpoint.source;
        let name = source.file_name().unwrap_or(source.as_os_str()).to_string_lossy().into_owned();
        let failed = |error: String| {
            ModelError::Runtime(format!("failed to start a training session of {name}: {error}"))
        };
        let (processor, products) = place;
        let products = ElementType::from(products);
        let key = format!("{} {} {products:?} {key}", source.display(), checkpoint.fingerprint);
        let model = exported(key, || build(products))?;
        let layout = Layout::Training { recompute };
        let session = start(runtime, &model, layout, processor, threads).map_err(failed)?;
        Ok(Self { session, config: checkpoint.config.clone(), head, name })
    }

    /// Runs a batch.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`]. [`ModelError::Invalid`] if the model cannot run the batch.
    /// [`ModelError::Runtime`] if the run fails.
    pub(super) fn run(
        &mut self,
        batch: &PackedBatch,
        mut inputs: Inputs<'_>,
        cancel: &CancelFlag,
    ) -> Result<Outputs, ModelError> {
        cancel.check()?;
        if batch.head() != self.head {
            return Err(ModelError::invalid(
                InvalidKind::Data,
                format!(
                    "the batch is packed for {:?}, but the session has the head {:?}",
                    batch.head(),
                    self.head
                ),
            ));
        }
        batch.check(&self.config, self.config.context_length.min(POSITIONS_MAX))?;
        let options = cancel.run_options()?;
        let failed = |error: ort::Error| {
            if cancel.is_cancelled() {
                ModelError::Cancelled
            } else {
                ModelError::Runtime(format!("failed to run a training graph of {}: {error}", self.name))
            }
        };
        inputs.extend(batch_inputs(batch, &self.config).map_err(failed)?);
        let mut outputs = self.session.run_with_options(inputs, &*options).map_err(failed)?;
        let keys: Vec<String> = outputs.keys().map(str::to_owned).collect();
        let mut taken = Outputs::new();
        for key in keys {
            if let Some(value) = outputs.remove(&key) {
                let tensor = value.downcast().map_err(failed)?;
                taken.insert(key, tensor);
            }
        }
        Ok(taken)
    }
}

fn exported(
    key: String,
    build: impl FnOnce() -> Result<Graph, ModelError>,
) -> Result<Arc<ExportedModel>, ModelError> {
    let known = || GRAPHS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(model) = known().get(&key) {
        return Ok(Arc::clone(model));
    }
    let model = Arc::new(export(&build()?)?);
    let mut graphs = known();
    if graphs.len() >= GRAPHS_MAX {
        graphs.pop_first();
    }
    graphs.insert(key, Arc::clone(&model));
    Ok(model)
}

fn batch_inputs(batch: &PackedBatch, config: &ModelConfig) -> ort::Result<Inputs<'static>> {
    let places = batch.attention(config.heads, config.kv_heads);
    let (tokens, selected, sequences) = (batch.tokens(), batch.selected(), batch.sequences());
    let (longest, heads) = (batch.longest(), config.heads);
    let group = heads / config.kv_heads.max(1);
    let columns = |heads: usize| vec![sequences, heads * longest];
    let mut integers = vec![
        (names::IDS, vec![tokens], batch.ids.clone()),
        (names::POSITIONS, vec![tokens, 1], batch.positions.clone()),
        (names::SELECTED, vec![selected], batch.selected.clone()),
        (names::SELECTED_INVERSE, vec![tokens], batch.selected_inverse()),
        (names::QUERY_INDEX, columns(heads), places.query_index),
        (names::QUERY_INVERSE, vec![tokens * heads], places.query_inverse),
        (names::KEY_INDEX, columns(config.kv_heads), places.key_index),
        (names::KEY_INVERSE, vec![tokens * config.kv_heads], places.key_inverse),
    ];
    for (name, rows) in [(names::QUERY_SHAPE, group * longest), (names::KEY_SHAPE, longest)] {
        let shape = [sequences, config.kv_heads, rows, config.head_dim];
        let shape = shape.map(|size| i64::try_from(size).unwrap_or(i64::MAX));
        integers.push((name, vec![shape.len()], shape.to_vec()));
    }
    if batch.head() != TrainingHead::Score {
        integers.push((names::TARGETS, vec![selected, 1], batch.targets.clone()));
    }
    let mut inputs = Inputs::new();
    for (name, shape, numbers) in integers {
        inputs.push((name.to_owned(), Tensor::from_array((shape, numbers))?.into()));
    }
    let shape = [group * longest, longest];
    if let Some(window) = config.decoder.window() {
        inputs.push(numbers(names::WINDOW_MASK, &shape, batch.mask(group, Some(window)))?);
    }
    inputs.push(numbers(names::MASK, &shape, batch.mask(group, None))?);
    Ok(inputs)
}

/// Returns an input of 32-bit floats.
pub(super) fn numbers(
    name: &str,
    shape: &[usize],
    numbers: Vec<f32>,
) -> ort::Result<(String, SessionInputValue<'static>)> {
    Ok((name.to_owned(), Tensor::from_array((shape.to_vec(), numbers))?.into()))
}

/// Returns an input that borrows a vector.
pub(super) fn vector<'v>(name: &str, numbers: &'v [f32]) -> ort::Result<(String, SessionInputValue<'v>)> {
    Ok((name.to_owned(), TensorRef::from_array_view(([numbers.len()], numbers))?.into()))
}

/// Returns the numbers of an output; empty if there is no such output.
pub(super) fn take(outputs: &mut Outputs, name: &str) -> Vec<f32> {
    outputs.remove(name).map(|tensor| tensor.extract_tensor().1.to_vec()).unwrap_or_default()
}
